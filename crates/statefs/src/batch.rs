//! [`Batch`]: changes that commit together or not at all.

use core::fmt;

use alloc::vec::Vec;

use crate::error::Error;
use crate::key::Key;
use crate::limits::{BATCH_OPS_MAX, VALUE_LEN_MAX};
use crate::record::{Form, Record, Revision};

/// What must be so for a batch to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The key has no value.
    Absent,
    /// The key has the value that was written with this revision.
    RevisionIs(Revision),
}

/// Changes that commit together or not at all, if every precondition holds. Each key is changed at most once.
#[derive(Clone, Default)]
pub struct Batch {
    /// Records, as they stand in a frame.
    pub(crate) body: Vec<u8>,
    pub(crate) ops: usize,
    pub(crate) conditions: Vec<(Key, Precondition)>,
}

/// Values that are going to be sealed are not shown.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("ops", &self.ops)
            .field("conditions", &self.conditions)
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// Gives the key a value.
    ///
    /// # Errors
    /// [`Error::ValueTooLong`], [`Error::NoMemory`]: the batch is as it was.
    pub fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), Error> {
        let (limit, requested) = (u64::from(VALUE_LEN_MAX), u64::try_from(value.len()).unwrap_or(u64::MAX));
        if requested > limit {
            return Err(Error::ValueTooLong { limit, requested });
        }
        self.add(&Record::Put { key: key.as_str(), value, form: Form::Plain })
    }

    /// Takes the key's value away, if it has one.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the batch is as it was.
    pub fn delete(&mut self, key: &Key) -> Result<(), Error> {
        self.add(&Record::Delete { key: key.as_str() })
    }

    /// Demands something of a key, whether it is changed or not.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`]: it has as many preconditions as a batch may have operations ([`BATCH_OPS_MAX`]).
    /// [`Error::NoMemory`]. The batch is as it was.
    pub fn require(&mut self, key: &Key, condition: Precondition) -> Result<(), Error> {
        let (limit, requested) = (usize::from(BATCH_OPS_MAX), self.conditions.len().saturating_add(1));
        if requested > limit {
            return Err(Error::BatchTooLarge { limit, requested });
        }
        let len = size_of::<(Key, Precondition)>();
        self.conditions.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        self.conditions.push((key.clone(), condition));
        Ok(())
    }

    /// Bytes of memory that the preconditions need.
    #[cfg(feature = "std")]
    pub(crate) fn conditions_len(&self) -> usize {
        let len = |(key, _): &(Key, Precondition)| size_of::<(Key, Precondition)>() + key.as_str().len();
        self.conditions.iter().map(len).sum()
    }

    fn add(&mut self, record: &Record<'_>) -> Result<(), Error> {
        record.encode(&mut self.body)?;
        self.ops += 1;
        Ok(())
    }
}
