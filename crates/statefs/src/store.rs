//! [`Store`]: formatting, opening, reading.

use core::ops::Bound;
use core::time::Duration;

#[cfg(feature = "std")]
use alloc::sync::Arc;
use alloc::vec::Vec;

use journal::{Access, Format, Frame, Journal, JournalError, Kind, Opened, Reading, StoreId, Verdict};
use media::BlockDevice;

use crate::changes::Ring;
use crate::commit::{Gathered, Unshown};
use crate::compact::Copying;
use crate::contents::Contents;
use crate::error::Error;
use crate::form::admit;
use crate::histogram::Histogram;
use crate::index::{Found, Index, Totals};
use crate::key::{self, Key};
use crate::limits::Limits;
use crate::quota::Quotas;
use crate::record::{Form, Record, Records, Revision};
use crate::scrub::Scrubbing;
use crate::sealed::Sealing;
use crate::snapshot;
use crate::space::Space;
use crate::view::Views;

/// What a store is made with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Who the store is: 16 random bytes, different for every store that is ever made.
    pub store_id: StoreId,
    /// Limits. Where the device can keep less, it is less: [`Store::limits`] says so.
    pub limits: Limits,
    /// Limits of the journal.
    pub journal: journal::Limits,
}

impl Options {
    /// The usual limits.
    #[must_use]
    pub fn new(store_id: StoreId) -> Self {
        Self { store_id, limits: Limits::default(), journal: journal::Limits::default() }
    }
}

/// What was found when a store was opened, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Keys that have a value.
    pub live_keys: u64,
    /// Bytes of these keys and values.
    pub live_bytes: u64,
    /// Of these keys, how many may have an older value than they should, because something newer was lost. Only where there
    /// is damage.
    pub suspect_keys: u64,
    /// How many frames were read, copied ones included.
    pub frames_replayed: u64,
    /// How the journal ends: clean, torn (which is what a power cut leaves), or damaged (then the store is read-only).
    pub tail: Verdict,
    /// Whether the store had been closed, or was sealed when it was idle.
    pub was_sealed: bool,
    /// The number of this open, or of the last writer where the store is read-only.
    pub incarnation: u32,
    /// How many superblocks of the pair in force were valid, of two.
    pub roots_valid: u8,
    /// How many superblocks were rewritten.
    pub roots_repaired: u8,
    /// Whether a compaction that a crash had interrupted was finished.
    pub switch_finished: bool,
    /// Snapshots there are.
    pub snapshots: usize,
    /// Why nothing can be written, if that is so.
    pub read_only: Option<&'static str>,
    /// The version of the store's format.
    pub format: Format,
    /// Blocks that were looked at. One that was looked at twice counts twice.
    pub examined_blocks: u64,
}

/// Whether a value is known to be the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It is.
    Certain,
    /// Something was lost that may have changed it.
    Suspect,
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'s> {
    /// Its bytes.
    pub bytes: &'s [u8],
    /// Of the write it came with.
    pub revision: Revision,
    /// Whether it is known to be the newest. Always [`Certainty::Certain`] in a store without damage.
    pub certainty: Certainty,
    /// What the bytes are.
    pub form: Form,
}

/// What a store holds, and what it has done since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Keys that have a value.
    pub live_keys: u64,
    /// Bytes of keys and values.
    pub live_bytes: u64,
    /// Snapshots there are.
    pub snapshots: usize,
    /// Values that no key has any more, kept because a snapshot has them.
    pub past_values: u64,
    /// Bytes of their keys and of them.
    pub past_bytes: u64,
    /// Blocks that a copy of everything that is kept needs at most.
    pub live_blocks: u64,
    /// The most blocks it may need.
    pub capacity_blocks: u64,
    /// Records that wait in memory for [`Store::sync`].
    pub pending_ops: usize,
    /// Compactions that were given up since the store was opened, because of an error or because too much
    /// was committed meanwhile.
    pub compactions_given_up: u64,
    /// How many operations each frame had that was committed: how large the groups are that share a barrier.
    pub frame_ops: Histogram,
    /// Of the journal.
    pub journal: journal::Stats,
}

/// A key/value store on a block device. It has one owner.
///
/// Invariants
/// - what is in the index is durable, but for what was buffered in `pending` and the records of frames the journal has not flushed.
/// - `pending` always fits into the region in force, as one frame; its records have the revisions that this frame will give
///   them, so nothing else may be written before it.
#[derive(Debug)]
pub struct Store<D> {
    pub(crate) journal: Journal<D>,
    pub(crate) limits: Limits,
    pub(crate) space: Space,
    pub(crate) index: Index,
    /// The frame that is gathered: records that were put and are not written.
    pub(crate) pending: Gathered,
    /// Frames that are on their way.
    pub(crate) unshown: Unshown,
    /// How many operations frames had.
    pub(crate) frame_ops: Histogram,
    /// The last revision that was given out, and the last that is durable.
    pub(crate) last: Revision,
    pub(crate) durable: Revision,
    pub(crate) copying: Option<Copying>,
    pub(crate) given_up: u64,
    pub(crate) idle: Idle,
    pub(crate) body: Vec<u8>,
    /// Where the keys of the records are that are being admitted.
    pub(crate) found: Vec<Found>,
    pub(crate) views: Views,
    pub(crate) quotas: Quotas,
    pub(crate) sealing: Sealing,
    pub(crate) changes: Ring,
    pub(crate) scrubbing: Option<Scrubbing>,
}

/// What is known about the time since the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Something was written since the last tick.
    Active,
    /// Nothing was since then.
    Since(Duration),
    /// There is nothing to seal.
    Sealed,
}

impl<D> Store<D> {
    /// The same store on another handle of the same device.
    fn map_device<E>(self, map: impl FnOnce(D) -> E) -> Store<E> {
        Store {
            journal: self.journal.map_device(map),
            limits: self.limits,
            space: self.space,
            index: self.index,
            pending: self.pending,
            unshown: self.unshown,
            frame_ops: self.frame_ops,
            last: self.last,
            durable: self.durable,
            copying: self.copying,
            given_up: self.given_up,
            idle: self.idle,
            body: self.body,
            found: self.found,
            views: self.views,
            quotas: self.quotas,
            sealing: self.sealing,
            changes: self.changes,
            scrubbing: self.scrubbing,
        }
    }
}

/// How often an open for reading begins again when a writer has overtaken it.
const ATTEMPTS_MAX: u32 = 8;

fn is_overtaken(error: &Error) -> bool {
    matches!(error, Error::Journal(error) if matches!(**error, JournalError::Overtaken))
}

impl<D: BlockDevice> Store<D> {
    /// Makes an empty store on a device, whatever was there before.
    ///
    /// # Durability
    /// `Ok`: it is there. Cut short, there is the old store, none, or the new one; never a mixture.
    ///
    /// # Errors
    /// [`Error::Limits`]: nothing was written. [`Error::Journal`]: the device is too small, or failed.
    pub fn format(device: D, options: &Options) -> Result<Self, Error> {
        let (limits, _) = admit(device.geometry(), options, Totals::default(), 0)?;
        let journal = Journal::format(device, options.store_id, options.journal, &limits.encode())?;
        Ok(Self::over(journal, limits, Index::default(), Revision::from_u64(0)))
    }

    /// Opens a store.
    ///
    /// Damage is no error: [`Recovery::tail`] and [`Recovery::suspect_keys`] say what it came to, and the store is read-only.
    /// The caller makes sure that there is no other writer.
    ///
    /// Opened to be read, a store may be written by another process meanwhile. What is returned then is at least everything
    /// that was durable when this call began. A reader that a writer has overtaken begins again, a few times.
    ///
    /// # Durability
    /// Everything that can be read is durable, if the store was opened for writing. Opened for reading, nothing is written.
    ///
    /// # Errors
    /// [`Error::Journal`]: there is no store, or none that can be opened, or the device failed; `Busy`: a writer overtook each
    /// attempt to read. [`Error::OtherEngine`];
    /// [`Error::Corrupt`], [`Error::BadSetting`]: a frame is whole and its content is not what this crate writes. [`Error::NoMemory`].
    pub fn open(device: D, access: Access) -> Result<(Self, Recovery), Error> {
        Self::open_watched(device, access, &mut |_| {})
    }

    /// As [`Store::open`], and tells `progress` how far it has read. A reader that begins again begins to count again.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_watched(
        device: D,
        access: Access,
        progress: &mut dyn FnMut(Reading),
    ) -> Result<(Self, Recovery), Error> {
        let mut attempts = 1..=ATTEMPTS_MAX;
        loop {
            let attempt = attempts.next();
            let opened = match Store::attempt(&device, access, progress) {
                Err(error) if is_overtaken(&error) && attempt.is_some() => continue,
                opened => opened.map(|(store, recovery)| (store.map_device(drop), recovery)),
            };
            return opened.map(|(store, recovery)| (store.map_device(|()| device), recovery));
        }
    }

    fn attempt(
        device: D,
        access: Access,
        progress: &mut dyn FnMut(Reading),
    ) -> Result<(Self, Recovery), Error> {
        let mut index = Index::default();
        let mut last = Revision::from_u64(0);
        let mut each = |frame: Frame<'_>| load(&mut index, &mut last, &frame);
        let Opened { journal, report } = Journal::open_watched(device, access, progress, &mut each)?;
        let limits = Limits::decode(journal.engine()).ok_or(Error::OtherEngine)?;
        if report.gap_at_end {
            index.suspect_all()?;
        }
        if let Verdict::Damaged { first_lost, .. } = report.verdict {
            // Where a part of the copy is lost, nobody knows of when it was.
            let first_lost = if report.copied_is_whole { first_lost } else { 0 };
            index.lost_from(Revision::of(first_lost, 0).unwrap_or(Revision::from_u64(0)));
        }
        // Only now is it known which snapshots there are.
        index.prune();
        let users = users_totals(&index);
        let recovery = Recovery {
            live_keys: users.keys,
            live_bytes: users.bytes,
            suspect_keys: index.count_suspect().saturating_sub(own_suspects(&index)),
            frames_replayed: report.frames,
            tail: report.verdict,
            was_sealed: report.was_sealed,
            incarnation: report.incarnation,
            roots_valid: report.roots_valid,
            roots_repaired: report.roots_repaired,
            switch_finished: report.switch_finished,
            snapshots: index.history().snapshots().len(),
            read_only: journal.read_only(),
            format: report.format,
            examined_blocks: report.examined_blocks,
        };
        let mut store = Self::over(journal, limits, index, last);
        store.load_settings()?;
        store.idle = if report.was_sealed { Idle::Sealed } else { Idle::Active };
        Ok((store, recovery))
    }

    fn over(journal: Journal<D>, limits: Limits, index: Index, last: Revision) -> Self {
        let space = Space::of(journal.layout(), &limits);
        Self {
            journal,
            limits,
            space,
            index,
            pending: Gathered::default(),
            unshown: Unshown::default(),
            frame_ops: Histogram::default(),
            last,
            durable: last,
            copying: None,
            given_up: 0,
            idle: Idle::Sealed,
            body: Vec::new(),
            found: Vec::new(),
            views: Views::default(),
            quotas: Quotas::default(),
            sealing: Sealing::default(),
            changes: Ring::from(last),
            scrubbing: None,
        }
    }

    /// The device, and the same store on a handle of it.
    #[cfg(feature = "std")]
    pub(crate) fn share(self) -> (Arc<D>, Store<Arc<D>>) {
        let store = self.map_device(Arc::new);
        (Arc::clone(store.device()), store)
    }

    /// Whether nothing has been written since the last seal: a tick would do nothing.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.idle == Idle::Sealed
    }

    /// How many frames may be on their way at a time.
    #[cfg(feature = "std")]
    pub(crate) fn outgoing_max(&self) -> usize {
        self.journal.outgoing_max()
    }

    /// How many frames are on their way.
    #[cfg(feature = "std")]
    pub(crate) fn outgoing(&self) -> usize {
        self.journal.outgoing()
    }

    /// The value of a key, buffered puts of this store included; [`None`] if it has none. After a write that failed, it is
    /// what it was before that write.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Value<'_>> {
        self.index.get(key.as_str()).map(|kept| self.index.value_of(kept))
    }

    /// Calls `with` with the value of a key, as [`Store::get`] has it, and returns what it returns.
    pub fn get_with<T>(&self, key: &Key, with: impl FnOnce(Option<Value<'_>>) -> T) -> T {
        with(self.get(key))
    }

    /// Whether the value of a key, or that it has none, is known to be the newest state of it. In a damaged store the absence
    /// of a value is always suspect.
    #[must_use]
    pub fn certainty(&self, key: &Key) -> Certainty {
        if self.index.is_suspect(key.as_str()) { Certainty::Suspect } else { Certainty::Certain }
    }

    /// The limits the store was formatted with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who the store is.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.journal.store_id()
    }

    /// Everything written with a revision up to this one is durable.
    #[must_use]
    pub fn durable_revision(&self) -> Revision {
        self.durable
    }

    /// The device underneath. What is written to it directly goes round all promises.
    #[must_use]
    pub fn device(&self) -> &D {
        self.journal.device()
    }

    /// What is held and what was done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (users, past) = (users_totals(&self.index), self.index.history().totals());
        Stats {
            live_keys: users.keys,
            live_bytes: users.bytes,
            snapshots: self.index.history().snapshots().len(),
            past_values: past.keys,
            past_bytes: past.bytes,
            live_blocks: self.space.blocks_of(self.index.charged().record_bytes),
            capacity_blocks: self.space.capacity_blocks,
            pending_ops: self.pending.ops,
            frame_ops: self.frame_ops,
            compactions_given_up: self.given_up,
            journal: self.journal.stats(),
        }
    }
}

/// What is users'. What the store keeps for itself is little, and comes first.
fn users_totals(index: &Contents) -> Totals {
    let own = index.from(Bound::Unbounded).take_while(|kept| !key::is_users(kept.key()));
    own.fold(index.totals(), |totals, kept| totals.less(kept.totals()))
}

/// How many of the store's own records are suspect.
fn own_suspects(index: &Contents) -> u64 {
    let own = index.from(Bound::Unbounded).take_while(|kept| !key::is_users(kept.key()));
    u64::try_from(own.filter(|kept| index.is_suspect_value(kept)).count()).unwrap_or(u64::MAX)
}

/// Puts what a frame says into the index.
pub(crate) fn load(index: &mut Index, last: &mut Revision, frame: &Frame<'_>) -> Result<(), Error> {
    if frame.gap_before {
        index.suspect_all()?;
    }
    for (nth, record) in Records::of(frame.kind, frame.body).enumerate() {
        let record = record.and_then(snapshot::checked);
        let record = record.map_err(|what| Error::Corrupt { seq: frame.seq, index: nth, what })?;
        let revision = Revision::of(frame.seq, nth).ok_or(JournalError::NumbersUsedUp)?;
        index.apply(&record, revision)?;
        if frame.kind == Kind::Commit {
            index.prune_replayed(revision);
        }
        index.tidy()?;
        *last = (*last).max(match record {
            Record::Put { .. } | Record::Delete { .. } => revision,
            Record::Kept { revision, .. } => revision,
            Record::Past { until, .. } => until,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
