//! [`Script`]: the device calls of a frame, fixed before the first of them is made.

use alloc::vec::Vec;

use media::BlockIndex;

use crate::error::JournalError;

/// Most calls that a frame needs: before the record of the open and before the frame itself a forced flush, two copies of a
/// mark and the flush of the mark; both writes; the barrier.
const CALLS_MAX: usize = 11;

/// A call of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call<'s> {
    Write { at: BlockIndex, bytes: &'s [u8] },
    WriteDurable { at: BlockIndex, bytes: &'s [u8] },
    Flush,
}

/// A call as it is kept. Writes take their bytes from the script's buffer, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write { at: BlockIndex, len: usize },
    WriteDurable { at: BlockIndex, len: usize },
    Flush,
}

/// Device calls in order, with their bytes.
#[derive(Debug, Default)]
pub(crate) struct Script {
    steps: Vec<Step>,
    bytes: Vec<u8>,
}

impl Script {
    /// Empties the script. Its memory is kept.
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.bytes.clear();
    }

    /// Reserves memory for the calls of a frame.
    pub(crate) fn reserve_calls(&mut self) -> Result<(), JournalError> {
        let len = CALLS_MAX * size_of::<Step>();
        self.steps.try_reserve(CALLS_MAX).map_err(|_| JournalError::NoMemory { len })
    }

    /// Adds a write of what `encode` appends to the buffer.
    pub(crate) fn write(
        &mut self,
        at: BlockIndex,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let before = self.bytes.len();
        encode(&mut self.bytes)?;
        self.steps.push(Step::Write { at, len: self.bytes.len() - before });
        Ok(())
    }

    /// Adds a flush.
    pub(crate) fn flush(&mut self) {
        self.steps.push(Step::Flush);
    }

    /// Lets the last write be durable by itself.
    pub(crate) fn make_last_durable(&mut self) {
        if let Some(last) = self.steps.last_mut()
            && let Step::Write { at, len } = *last
        {
            *last = Step::WriteDurable { at, len };
        }
    }

    /// Returns how many of its calls are barriers.
    pub(crate) fn barriers(&self) -> u64 {
        let barriers = self.steps.iter().filter(|step| !matches!(step, Step::Write { .. }));
        u64::try_from(barriers.count()).unwrap_or(u64::MAX)
    }

    /// Returns its calls in order.
    pub(crate) fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        let mut left = &*self.bytes;
        self.steps.iter().map(move |step| {
            let mut take = |len| {
                let (taken, rest) = left.split_at_checked(len).unwrap_or((left, &[]));
                left = rest;
                taken
            };
            match *step {
                Step::Write { at, len } => Call::Write { at, bytes: take(len) },
                Step::WriteDurable { at, len } => Call::WriteDurable { at, bytes: take(len) },
                Step::Flush => Call::Flush,
            }
        })
    }
}
