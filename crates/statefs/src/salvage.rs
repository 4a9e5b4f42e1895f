//! Reading everything, and saving what can be read into a new store.

use core::ops::Bound;

use journal::Access;
use media::BlockDevice;

use crate::error::Error;
use crate::form::{Forming, Load};
use crate::index::Kept;
use crate::key::{self, Key};
use crate::record::Form;
use crate::store::{Options, Store, Value};

/// What to do with keys whose newest value may have been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspects {
    /// They are left behind.
    Leave,
    /// The value that was found is taken. A plain value from before its prefix was sealed is not: it had been deleted, or the
    /// prefix would not have been sealed.
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
    /// Of the values that were taken, the sealed ones below no sealed prefix: the record of their prefix was lost. The new
    /// store lists where they are ([`Store::lost_prefixes`]).
    pub sealed_without_prefix: u64,
}

impl<D: BlockDevice> Store<D> {
    /// Every key and its value, in order: a dump.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Value<'_>)> {
        self.index.users()
    }
}

/// Saves what can be read on one device into a new store on another one. The first is only read.
///
/// Values are taken as they are: sealed ones stay sealed, and all keep their revisions; those of the new store are greater.
/// Quotas and the records of sealed prefixes are taken, suspect or not, as far as the first store obeys them when it is open.
/// Snapshots are not taken, nor values that only they have. Deletions that were lost are not known: a key that had been deleted in what was lost is back, as a
/// suspect.
///
/// # Durability
/// `Ok`: the new store is there, durable and closed. Cut short, there is whatever was on the second device, or no store, or
/// the new one; never a part.
///
/// # Errors
/// As [`Store::open`] of the first. `NoSpace` and `Invalid`: the second is too small, or the limits are; nothing was written.
/// As [`Store::format`]: there is no store on the second.
pub fn salvage<D: BlockDevice, E: BlockDevice>(
    from: D,
    to: E,
    options: &Options,
    suspects: Suspects,
) -> Result<Salvaged, Error> {
    let (from, _) = Store::open(from, Access::Salvage)?;
    let mut salvaged = Salvaged::default();
    let mut load = Load::default();
    for kept in from.index.from(Bound::Unbounded).filter(|kept| takes(&from, kept, suspects)) {
        load.add(&kept.record());
    }
    for kept in from.index.from(key::first_of_users()) {
        let is_taken = takes(&from, &kept, suspects);
        match (is_taken, from.index.is_suspect_value(&kept)) {
            (true, false) => salvaged.certain += 1,
            (true, true) => salvaged.suspect_taken += 1,
            (false, _) => salvaged.suspect_left += 1,
        }
        let is_lost = is_taken && kept.form() == Form::Sealed && !from.sealing.covers(kept.key());
        salvaged.sealed_without_prefix += u64::from(is_lost);
    }
    let seq = from.journal.next_seq().max(from.last.seq());
    let value_len = u64::try_from(load.limited_len).unwrap_or(u64::MAX);
    let mut to = Forming::begin(to, options, load.charged(), value_len, seq)?;
    for kept in from.index.from(Bound::Unbounded).filter(|kept| takes(&from, kept, suspects)) {
        to.add(&kept.record())?;
    }
    to.finish()?;
    Ok(salvaged)
}

fn takes<D: BlockDevice>(from: &Store<D>, kept: &Kept<'_>, suspects: Suspects) -> bool {
    match suspects {
        _ if !key::is_users(kept.key()) => from.has_setting(kept.key()),
        Suspects::Take => !(from.index.is_suspect_value(kept) && from.is_from_before_sealing(kept)),
        Suspects::Leave => !from.index.is_suspect_value(kept),
    }
}
