//! [`Store`]: formatting, opening, reading.

use core::time::Duration;

use alloc::vec::Vec;

use journal::{Access, Frame, Journal, JournalError, Kind, Opened, StoreId, Verdict};
use media::BlockDevice;

use crate::compact::Copying;
use crate::error::Error;
use crate::index::Index;
use crate::key::Key;
use crate::limits::Limits;
use crate::record::{Records, Revision};
use crate::space::Space;

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
    /// Why nothing can be written, if that is so.
    pub read_only: Option<&'static str>,
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
}

/// What a store holds, and what it has done since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Keys that have a value.
    pub live_keys: u64,
    /// Bytes of keys and values.
    pub live_bytes: u64,
    /// Blocks that a copy of them needs at most.
    pub live_blocks: u64,
    /// The most blocks it may need.
    pub capacity_blocks: u64,
    /// Records that wait in memory for [`Store::sync`].
    pub pending_ops: usize,
    /// Compactions that were given up since the store was opened, because of an error or because too much
    /// was committed meanwhile.
    pub compactions_given_up: u64,
    /// Of the journal.
    pub journal: journal::Stats,
}

/// A key/value store on a block device. It has one owner.
///
/// Invariants
/// - what is in the index is durable, but for the records in `pending` and those of frames the journal has not flushed.
/// - `pending` always fits into the region in force, as one frame; its records have the revisions that this frame will give
///   them, so nothing else may be written before it.
#[derive(Debug)]
pub struct Store<D> {
    pub(crate) journal: Journal<D>,
    pub(crate) limits: Limits,
    pub(crate) space: Space,
    pub(crate) index: Index,
    /// Records that were put and are not written.
    pub(crate) pending: Vec<u8>,
    pub(crate) pending_ops: usize,
    /// The last revision that was given out, and the last that is durable.
    pub(crate) last: Revision,
    pub(crate) durable: Revision,
    pub(crate) copying: Option<Copying>,
    pub(crate) given_up: u64,
    pub(crate) idle: Idle,
    pub(crate) body: Vec<u8>,
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

impl<D: BlockDevice> Store<D> {
    /// Makes an empty store on a device, whatever was there before.
    ///
    /// # Durability
    /// `Ok`: it is there. Cut short, there is the old store, none, or the new one; never a mixture.
    ///
    /// # Errors
    /// [`Error::Limits`]: nothing was written. [`Error::Journal`]: the device is too small, or failed.
    pub fn format(device: D, options: &Options) -> Result<Self, Error> {
        let layout = journal::Layout::of(device.geometry(), options.journal).map_err(JournalError::from)?;
        let limits = options.limits.on(&layout);
        if !limits.is_in_range() {
            return Err(Error::Limits);
        }
        let journal = Journal::format(device, options.store_id, options.journal, &limits.encode())?;
        Ok(Self::over(journal, limits, Index::default(), Revision::from_u64(0)))
    }

    /// Opens a store.
    ///
    /// Damage is no error: [`Recovery::tail`] and [`Recovery::suspect_keys`] say what it came to, and the store is read-only.
    /// The caller makes sure that there is no other writer.
    ///
    /// # Durability
    /// Everything that can be read is durable, if the store was opened for writing. Opened for reading, nothing is written.
    ///
    /// # Errors
    /// [`Error::Journal`]: there is no store, or none that can be opened, or the device failed. [`Error::OtherEngine`];
    /// [`Error::Corrupt`]: a frame is whole and its content is not what this crate writes. [`Error::NoMemory`].
    pub fn open(device: D, access: Access) -> Result<(Self, Recovery), Error> {
        let mut index = Index::default();
        let mut last = Revision::from_u64(0);
        let mut each = |frame: Frame<'_>| load(&mut index, &mut last, &frame);
        let Opened { journal, report } = Journal::open(device, access, &mut each)?;
        let limits = Limits::decode(journal.engine()).ok_or(Error::OtherEngine)?;
        if report.gap_at_end {
            index.suspect_all();
        }
        let recovery = Recovery {
            live_keys: index.totals().keys,
            live_bytes: index.totals().bytes,
            suspect_keys: index.count_suspect(),
            frames_replayed: report.frames,
            tail: report.verdict,
            was_sealed: report.was_sealed,
            incarnation: report.incarnation,
            roots_valid: report.roots_valid,
            roots_repaired: report.roots_repaired,
            switch_finished: report.switch_finished,
            read_only: journal.read_only(),
        };
        let mut store = Self::over(journal, limits, index, last);
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
            pending: Vec::new(),
            pending_ops: 0,
            last,
            durable: last,
            copying: None,
            given_up: 0,
            idle: Idle::Sealed,
            body: Vec::new(),
        }
    }

    /// The value of a key, buffered puts of this store included; [`None`] if it has none. After a write that failed, it is
    /// what it was before that write.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Value<'_>> {
        let kept = self.index.get(key.as_str())?;
        Some(Value { bytes: kept.value(), revision: kept.revision(), certainty: self.certainty(key) })
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
        let totals = self.index.totals();
        Stats {
            live_keys: totals.keys,
            live_bytes: totals.bytes,
            live_blocks: self.space.blocks_of(totals.record_bytes),
            capacity_blocks: self.space.capacity_blocks,
            pending_ops: self.pending_ops,
            compactions_given_up: self.given_up,
            journal: self.journal.stats(),
        }
    }
}

/// Puts what a frame says into the index.
fn load(index: &mut Index, last: &mut Revision, frame: &Frame<'_>) -> Result<(), Error> {
    if frame.gap_before {
        index.suspect_all();
    }
    for (nth, record) in Records::of(frame.kind, frame.body).enumerate() {
        let record = record.map_err(|what| Error::Corrupt { seq: frame.seq, index: nth, what })?;
        let revision = Revision::of(frame.seq, nth).ok_or(JournalError::NumbersUsedUp)?;
        index.apply(&record, revision)?;
        index.tidy()?;
        if frame.kind == Kind::Commit {
            *last = revision;
        }
    }
    Ok(())
}
