//! [`Forming`]: a store that is made with something in it, and is none before all of that is durable.

use alloc::vec::Vec;

use journal::{JournalError, Layout};
use media::BlockDevice;

use crate::error::Error;
use crate::history::charged;
use crate::index::Totals;
use crate::key;
use crate::limits::Limits;
use crate::record::{Form, Record, SEQ_END};
use crate::sealed::SEALED_EMPTY_LEN;
use crate::space::Space;
use crate::store::Options;

/// Sequence numbers between what a store begins with and what it gives out itself.
///
/// Values keep their revisions, for snapshots and readers compare them. But the store that they come from may have gone on
/// since, or lost its end: it has given out revisions of which nothing is known here. The new one begins behind as many.
const SEQ_JUMP: u64 = 1 << 32;

/// What a store begins with, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    pub(crate) live: Totals,
    pub(crate) past: Totals,
    pub(crate) has_snapshots: bool,
    /// Bytes of its longest value, the store's own included.
    pub(crate) value_len: usize,
    /// Bytes of the longest value that the limit of values is about ([`limited_len`]).
    pub(crate) limited_len: usize,
}

/// Bytes of a value that the limit of values is about: 0 for what a store writes whatever its limit is. These are its own
/// records, and an empty value below a sealed prefix.
fn limited_len(record: &Record<'_>) -> usize {
    match *record {
        Record::Put { key, value, form }
        | Record::Kept { key, value, form, .. }
        | Record::Past { key, value, form, .. } => {
            let is_empty = form == Form::Sealed && value.len() <= SEALED_EMPTY_LEN;
            if is_empty || !key::is_users(key) { 0 } else { value.len() }
        }
        Record::Delete { .. } => 0,
    }
}

impl Load {
    /// Counts a record.
    pub(crate) fn add(&mut self, record: &Record<'_>) {
        self.limited_len = self.limited_len.max(limited_len(record));
        match *record {
            Record::Kept { key, value, .. } => {
                self.live = self.live.plus(Totals::of(key.len(), value.len()));
                self.has_snapshots |= key::snapshot_of(key).is_some();
                self.value_len = self.value_len.max(value.len());
            }
            Record::Past { key, value, .. } => {
                self.past = self.past.plus(Totals::of_past(key.len(), value.len()));
                self.value_len = self.value_len.max(value.len());
            }
            Record::Put { .. } | Record::Delete { .. } => {}
        }
    }

    /// What a region must have room for, and what the limits are about.
    pub(crate) fn charged(&self) -> Totals {
        charged(self.live, self.past, self.has_snapshots)
    }
}

/// Limits of a store on a device, if it can have what it is to begin with. `value_len` is the length of its longest value
/// that the limit of values is about.
pub(crate) fn admit(
    geometry: media::Geometry,
    options: &Options,
    load: Totals,
    value_len: u64,
) -> Result<(Limits, Space), Error> {
    let layout = Layout::of(geometry, options.journal).map_err(JournalError::from)?;
    let limits = options.limits.on(&layout);
    if !limits.is_in_range() {
        return Err(Error::Limits);
    }
    let space = Space::of(&layout, &limits);
    let limit = u64::from(limits.value_len_max);
    if value_len > limit {
        return Err(Error::ValueTooLong { limit, requested: value_len });
    }
    let limit = u64::from(limits.keys_max);
    if load.keys > limit {
        return Err(Error::TooManyKeys { limit, used: 0, requested: load.keys });
    }
    let limit = limits.live_bytes_max;
    if load.bytes > limit {
        return Err(Error::TooManyBytes { limit, used: 0, requested: load.bytes });
    }
    let (limit, requested) = (space.capacity_blocks, space.blocks_of(load.record_bytes));
    if requested > limit {
        return Err(Error::NoSpace { limit, used: 0, requested });
    }
    Ok((limits, space))
}

/// A store that is being made.
#[derive(Debug)]
pub(crate) struct Forming<D> {
    journal: journal::Forming<D>,
    frame_len: usize,
    value_len_max: u32,
    body: Vec<u8>,
}

impl<D: BlockDevice> Forming<D> {
    /// Wipes what is there, if what the store is to begin with fits. `seq` is the greatest sequence number that is known
    /// of where that comes from.
    ///
    /// # Errors
    /// As [`admit`]: nothing was written.
    pub(crate) fn begin(
        device: D,
        options: &Options,
        load: Totals,
        value_len: u64,
        seq: u64,
    ) -> Result<Self, Error> {
        let (limits, space) = admit(device.geometry(), options, load, value_len)?;
        // No revision has a greater number, whatever those of the frames were.
        let seq = seq.min(SEQ_END.saturating_sub(2));
        // Half of what is left, where that is less: it can be done again and again.
        let jump = SEQ_JUMP.min(SEQ_END.saturating_sub(seq) / 2);
        let base_seq = seq.saturating_add(jump);
        let engine = limits.encode();
        let journal = journal::Journal::form(device, options.store_id, options.journal, &engine, base_seq)?;
        let value_len_max = limits.value_len_max;
        Ok(Self { journal, frame_len: space.frame_len, value_len_max, body: Vec::new() })
    }

    /// Adds a record: they come in the order of keys, and of each key what is past in order and then what is current.
    ///
    /// # Errors
    /// [`Error::ValueTooLong`]: it is longer than was said when this began. There is no store then, as after any error.
    pub(crate) fn add(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let limit = u64::from(self.value_len_max);
        let requested = u64::try_from(limited_len(record)).unwrap_or(u64::MAX);
        if requested > limit {
            return Err(Error::ValueTooLong { limit, requested });
        }
        let before = self.body.len();
        record.encode(&mut self.body)?;
        if self.body.len() > self.frame_len && before > 0 {
            let (whole, rest) = self.body.split_at(before);
            self.journal.copy(whole)?;
            let len = rest.len();
            self.body.copy_within(before.., 0);
            self.body.truncate(len);
        }
        Ok(())
    }

    /// Makes it a store, and closes it.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if !self.body.is_empty() {
            self.journal.copy(&self.body)?;
        }
        let mut journal = self.journal.finish()?;
        journal.seal_for_good().map_err(Error::from)
    }
}
