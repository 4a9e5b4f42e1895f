//! Reading everything, and saving what can be read into a new store.

use core::ops::Bound;

use journal::Access;
use media::BlockDevice;

use crate::error::Error;
use crate::key::Key;
use crate::store::{Certainty, Options, Store, Value};

/// What to do with keys whose newest value may have been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspects {
    /// They are left behind.
    Leave,
    /// The value that was found is taken.
    Take,
}

/// What was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Salvaged {
    /// Keys with a value that is certain.
    pub certain: u64,
    /// Keys with a suspect value that was taken.
    pub suspect_taken: u64,
    /// Keys with a suspect value that was left behind.
    pub suspect_left: u64,
}

impl<D: BlockDevice> Store<D> {
    /// Every key and its value, in order: a dump.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Value<'_>)> {
        self.index.from(Bound::Unbounded).map(|kept| {
            let suspect = self.index.is_suspect(kept.key());
            let certainty = if suspect { Certainty::Suspect } else { Certainty::Certain };
            (Key::trusted(kept.key()), Value { bytes: kept.value(), revision: kept.revision(), certainty })
        })
    }
}

/// Saves what can be read on one device into a new store on another one. The first is only read.
///
/// Values get new revisions. Deletions that were lost are not known: a key that had been deleted in what was lost is back,
/// as a suspect.
///
/// # Durability
/// `Ok`: everything that was saved is durable, and the new store is closed. Cut short, the new store holds a part.
///
/// # Errors
/// As [`Store::open`] of the first, [`Store::format`] of the second, and [`Store::put`]; `NoSpace`, if the second is too
/// small.
pub fn salvage<D: BlockDevice, E: BlockDevice>(
    from: D,
    to: E,
    options: &Options,
    suspects: Suspects,
) -> Result<Salvaged, Error> {
    let (from, _) = Store::open(from, Access::Read)?;
    let mut to = Store::format(to, options)?;
    let mut salvaged = Salvaged::default();
    for (key, value) in from.iter() {
        match (value.certainty, suspects) {
            (Certainty::Certain, _) => salvaged.certain += 1,
            (Certainty::Suspect, Suspects::Take) => salvaged.suspect_taken += 1,
            (Certainty::Suspect, Suspects::Leave) => {
                salvaged.suspect_left += 1;
                continue;
            }
        }
        to.put_buffered(&key, value.bytes)?;
    }
    to.close()?;
    Ok(salvaged)
}
