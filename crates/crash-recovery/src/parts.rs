//! The parts of a root that threads share, one by one, for `tests/schedules`. Compiled with `--cfg shuttle` only: a whole root
//! has too many scheduling points for all of its schedules to be explored.

use std::collections::BTreeSet;

use journal::{Access, Journal, JournalError, Limits, StoreId};
use media::sync::Arc;
use media::{BlockDevice, File, SyncPool};

use crate::error::{Error, Result};
use crate::ledger::{Found, Ledger};
use crate::names::{Busy, BusyNames};
use crate::path::TreePath;
use crate::record::{self, Before, Commit, ENGINE, Operation, Record, What};
use crate::tree::Folder;
use crate::window::{Change, Places, When, Window, WindowLimits, Writeback};

/// The journal of a root.
#[derive(Debug)]
pub struct SharedLedger<D: BlockDevice>(Box<Ledger<D>>);

/// What a journal says, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A commit, and the names that it changes.
    Commit(u64, Vec<String>),
    /// Everything up to this number is complete.
    Done(u64),
}

/// Makes a journal without commits. Where it was closed, the first frame of the next open carries the record of that open.
///
/// # Errors
/// Of the device.
pub fn format<D: BlockDevice>(device: &D, is_closed: bool) -> std::result::Result<(), JournalError> {
    let mut journal = Journal::format(device, StoreId([7; 16]), Limits::default(), ENGINE)?;
    let _durable = journal.commit(&record::encode_done(0))?;
    if is_closed { journal.seal_for_good() } else { Ok(()) }
}

/// Reads a journal.
///
/// # Errors
/// Of reading; a record that is not one.
pub fn read<D: BlockDevice>(device: D) -> std::result::Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let opened = Journal::open::<JournalError>(device, Access::Write, &mut |frame| {
        let outcome = record::decode(frame.body, &mut |record| match record {
            Record::Commit(Commit { number, operations }) => {
                let names = operations.iter().map(|operation| operation.path.to_string());
                entries.push(Entry::Commit(number, names.collect()));
            }
            Record::Done(up_to) => entries.push(Entry::Done(up_to)),
            Record::Prepare(_) | Record::List(_) => {}
        });
        assert_eq!(outcome, Ok(()), "frame {}", frame.seq);
        Ok(())
    });
    let report = opened.map_err(|error| error.to_string())?.report;
    match report.verdict {
        journal::Verdict::Damaged { .. } => Err(format!("damaged: {report:?}")),
        _ => Ok(entries),
    }
}

impl<D: BlockDevice> SharedLedger<D> {
    /// Opens a journal for its one writer.
    ///
    /// # Errors
    /// Of the device, or that the journal is damaged.
    pub fn open(device: Arc<D>) -> Result<Self> {
        match Ledger::open_on(device)? {
            Found::Journal { ledger, .. } => Ok(Self(ledger)),
            Found::Damaged(first) => Err(Error::Poisoned { first }),
        }
    }

    /// Commits the removal of a name.
    ///
    /// # Errors
    /// Of the journal.
    pub fn commit(&self, name: &str) -> std::result::Result<u64, JournalError> {
        let path = TreePath::parse_any(name).map_err(|_| JournalError::NumbersUsedUp)?;
        let removal = Operation { path, before: Before::NotRecorded, what: What::Absent };
        self.0.commit(record::encode_commit(&[removal]))
    }

    /// Says that a transaction is in place.
    pub fn in_place(&self, number: u64) {
        self.0.in_place(number);
    }

    /// Returns the number up to which every transaction is in place.
    #[must_use]
    pub fn in_place_up_to(&self) -> u64 {
        self.0.in_place_up_to()
    }

    /// Says, with the next frame, that everything up to this number is complete.
    pub fn tell_done(&self, up_to: u64) {
        self.0.tell_done(up_to);
    }

    /// Switches regions.
    ///
    /// # Errors
    /// Of the journal.
    pub fn restart(&self) -> Result<()> {
        self.0.restart()
    }

    /// Seals the journal.
    ///
    /// # Errors
    /// Of the journal.
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }
}

/// What waits for its barriers.
#[derive(Debug)]
pub struct SharedWindow(Window);

/// Places of a [`SharedWindow`].
#[derive(Debug)]
pub struct WindowPlaces<'w>(Places<'w>);

impl SharedWindow {
    /// A window for so many changes.
    #[must_use]
    pub fn new(changes: usize) -> Self {
        Self(Window::new(WindowLimits { changes, threads: 2, ..WindowLimits::default() }))
    }

    /// Takes a place for a descriptor. `None`: a checkpoint has to make it.
    #[must_use]
    pub fn reserve(&self) -> Option<WindowPlaces<'_>> {
        self.0.reserve(1).map(WindowPlaces)
    }

    /// Adds a change that is in place.
    pub fn add(
        &self,
        number: u64,
        name: &str,
        change: (Arc<dyn File>, Arc<dyn media::Dir>),
        places: &mut WindowPlaces<'_>,
    ) {
        let Ok(path) = TreePath::parse_any(name) else { return };
        let (file, dir) = change;
        let folders = vec![Folder { path: String::new(), dir }];
        let change =
            Change { number, path, file: Some(file), writeback: Writeback::Begun, folders, bytes: 1 };
        self.0.add(vec![change], &mut places.0);
    }

    /// Gives every change its barriers: now, or where that makes places.
    ///
    /// # Errors
    /// Of a barrier, now or earlier.
    pub fn checkpoint(
        &self,
        is_now: bool,
        pool: &dyn SyncPool,
        in_place_up_to: &dyn Fn() -> u64,
    ) -> Result<Option<u64>> {
        self.0.checkpoint(if is_now { When::Now } else { When::Crowded }, pool, in_place_up_to)
    }
}

/// Names that are being changed.
#[derive(Debug, Default)]
pub struct SharedNames(Busy);

/// Names that one transaction alone changes.
#[derive(Debug)]
pub struct TakenNames<'n> {
    _names: BusyNames<'n>,
}

impl SharedNames {
    /// Waits until none of the names is being changed, and takes them.
    #[must_use]
    pub fn take(&self, names: &[&str]) -> TakenNames<'_> {
        let names: BTreeSet<TreePath> =
            names.iter().filter_map(|name| TreePath::parse_any(name).ok()).collect();
        TakenNames { _names: self.0.take(&names) }
    }
}
