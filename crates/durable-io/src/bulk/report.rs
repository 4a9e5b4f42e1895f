//! What a bulk did, file by file, in little memory.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use media::{FileId, FileKind, Metadata};

use crate::error::Error;
use crate::options::{Barriers, Change, Durability};

use super::hidden::HiddenNames;

/// What became of each file of a bulk, in the order in which they were given to it.
#[must_use = "each file of a bulk succeeds or fails on its own, and only the report says which did"]
pub struct BulkReport {
    /// How many files have their name, and are as durable as [`BulkReport::durability`] says.
    pub published: usize,
    /// How many failed; [`BulkReport::failures`] lists them.
    pub failed: usize,
    /// The length of all published files together.
    pub bytes: u64,
    /// The weakest that any published file has reached.
    pub durability: Durability,
    ledger: Ledger,
}

/// One file of a bulk: the name as it was given, and its outcome.
#[derive(Debug)]
pub struct FileResult<'a> {
    /// The name as it was given to the bulk.
    pub name: &'a Path,
    /// What became of it.
    pub outcome: Result<FilePublished, &'a Error>,
}

/// The good outcome of one file of a bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePublished {
    /// How far it has come.
    pub durability: Durability,
    /// What was done.
    pub change: Change,
    /// How many other names the replaced file had (and which still show the old content).
    pub other_links: u64,
    /// The length of the content, in bytes.
    pub len: u64,
}

impl BulkReport {
    pub(super) fn new(ledger: Ledger) -> Self {
        let mut report = Self { published: 0, failed: 0, bytes: 0, durability: Durability::Durable, ledger };
        for record in &report.ledger.records {
            match &record.state {
                State::Reached(durability) => {
                    report.published += 1;
                    report.bytes += record.len;
                    report.durability = report.durability.and(*durability);
                }
                State::Hidden | State::Named | State::Failed(_) => report.failed += 1,
            }
        }
        report
    }

    /// Every file, in the order in which they were given.
    pub fn results(&self) -> impl Iterator<Item = FileResult<'_>> {
        self.ledger.records.iter().filter_map(|record| {
            let outcome = match &record.state {
                State::Failed(error) => Err(error),
                State::Reached(durability) => Ok(FilePublished {
                    durability: *durability,
                    change: record.change,
                    other_links: record.other_links(),
                    len: record.len,
                }),
                State::Hidden | State::Named => return None,
            };
            Some(FileResult { name: self.ledger.given(record), outcome })
        })
    }

    /// The files that failed, in the order in which they were given.
    pub fn failures(&self) -> impl Iterator<Item = (&Path, &Error)> {
        self.results().filter_map(|result| Some((result.name, result.outcome.err()?)))
    }

    /// The errors alone, to be passed on.
    pub fn into_errors(self) -> impl Iterator<Item = Error> {
        self.ledger.records.into_iter().filter_map(|record| match record.state {
            State::Failed(error) => Some(error),
            State::Hidden | State::Named | State::Reached(_) => None,
        })
    }

    /// The report, if every file was published.
    ///
    /// # Errors
    /// The first file's that failed. The others may have been published all the same.
    pub fn all_published(mut self) -> crate::Result<Self> {
        match self.ledger.take_first_error() {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}

impl fmt::Debug for BulkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkReport")
            .field("published", &self.published)
            .field("failed", &self.failed)
            .field("bytes", &self.bytes)
            .field("durability", &self.durability)
            .field("failures", &self.failures().collect::<Vec<_>>())
            .finish()
    }
}

/// Where one file stands.
#[derive(Debug)]
pub(super) enum State {
    /// Written under its hidden name; durable there once its window is synced.
    Hidden,
    /// It has its name, which is not durable yet.
    Named,
    Reached(Durability),
    Failed(Error),
}

/// A range of [`Ledger::bytes`].
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: usize,
    len: usize,
}

/// Whether a file can be sealed now and get its name later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealable {
    Yes,
    /// It replaces what a symbolic link led to.
    FollowedLink,
    /// It is left alone where it is unchanged.
    MaySkip,
}

/// What must be remembered of one file once its descriptor is closed: about a hundred bytes and its name, and 80 more
/// where it replaces something.
#[derive(Debug)]
pub(super) struct Record {
    given: Span,
    name: Span,
    pub(super) folder: usize,
    stem: usize,
    number: u64,
    device: usize,
    inode: Option<u64>,
    pub(super) len: u64,
    /// What had the name when the file was begun.
    existing: Option<Box<Metadata>>,
    change: Change,
    pub(super) barriers: Barriers,
    pub(super) sealable: Sealable,
    pub(super) state: State,
}

impl Record {
    /// What had the name when the file was begun.
    pub(super) fn existing(&self) -> Option<Metadata> {
        self.existing.as_deref().copied()
    }

    fn other_links(&self) -> u64 {
        let existing = self.existing().filter(|found| found.kind == FileKind::File);
        existing.map_or(0, |found| found.links.saturating_sub(1))
    }
}

/// What a new entry is made of.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) folder: usize,
    pub(super) name: &'a OsStr,
    /// `None` for a file that needs no publishing.
    pub(super) hidden: Option<&'a OsStr>,
    pub(super) id: Option<FileId>,
    pub(super) len: u64,
    pub(super) existing: Option<Metadata>,
    pub(super) change: Change,
    pub(super) barriers: Barriers,
    pub(super) sealable: Sealable,
    pub(super) state: State,
}

/// All files of a bulk. Names are kept end to end in one buffer, and of a hidden name only what sets it apart.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) records: Vec<Record>,
    hidden_names: HiddenNames,
    bytes: Vec<u8>,
    stems: Vec<String>,
    devices: Vec<u64>,
}

impl Ledger {
    pub(super) fn new(hidden_names: HiddenNames) -> Self {
        Self { hidden_names, ..Self::default() }
    }

    pub(super) fn fail(&mut self, given: &Path, error: Error) {
        let facts = Facts {
            folder: super::folders::ROOT,
            name: OsStr::new(""),
            hidden: None,
            id: None,
            len: 0,
            existing: None,
            change: Change::Unchanged,
            barriers: Barriers::Required,
            sealable: Sealable::Yes,
            state: State::Failed(error),
        };
        self.push(given, facts);
    }

    pub(super) fn push(&mut self, given: &Path, facts: Facts<'_>) -> usize {
        // Every hidden name splits; if one did not, its rename would fail and say so.
        let split = facts.hidden.and_then(|hidden| self.hidden_names.split(hidden));
        debug_assert_eq!(split.is_some(), facts.hidden.is_some());
        let (stem, number) = split.unwrap_or(("", 0));
        let given_span = self.keep(given.as_os_str());
        // The last component is the name, unless a symbolic link led elsewhere.
        let name = if given.as_os_str().as_encoded_bytes().ends_with(facts.name.as_encoded_bytes()) {
            let len = facts.name.len();
            Span { start: given_span.start + given_span.len - len, len }
        } else {
            self.keep(facts.name)
        };
        let device = facts.id.map_or(0, |id| intern(&mut self.devices, id.device));
        let stem = match self.stems.iter().rposition(|known| known == stem) {
            Some(index) => index,
            None => {
                self.stems.push(stem.to_owned());
                self.stems.len() - 1
            }
        };
        let Facts { folder, len, existing, change, barriers, sealable, state, .. } = facts;
        self.records.push(Record {
            given: given_span,
            name,
            folder,
            stem,
            number,
            device,
            inode: facts.id.map(|id| id.inode),
            len,
            existing: existing.map(Box::new),
            change,
            barriers,
            sealable,
            state,
        });
        self.records.len() - 1
    }

    fn keep(&mut self, text: &OsStr) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text.as_encoded_bytes());
        Span { start, len: text.len() }
    }

    fn text(&self, span: Span) -> &OsStr {
        let bytes = self.bytes.get(span.start..).and_then(|rest| rest.get(..span.len)).unwrap_or(&[]);
        as_os_str(bytes)
    }

    pub(super) fn given(&self, record: &Record) -> &Path {
        Path::new(self.text(record.given))
    }

    pub(super) fn name(&self, record: &Record) -> &OsStr {
        self.text(record.name)
    }

    pub(super) fn hidden(&self, record: &Record) -> std::ffi::OsString {
        let stem = self.stems.get(record.stem).map_or("", String::as_str);
        self.hidden_names.join(stem, record.number)
    }

    pub(super) fn id(&self, record: &Record) -> Option<FileId> {
        Some(FileId { device: *self.devices.get(record.device)?, inode: record.inode? })
    }

    pub(super) fn set(&mut self, index: usize, state: State) {
        if let Some(record) = self.records.get_mut(index) {
            record.state = state;
        }
    }

    pub(super) fn any_failed(&self) -> bool {
        self.records.iter().any(|record| matches!(record.state, State::Failed(_)))
    }

    fn take_first_error(&mut self) -> Option<Error> {
        let failed = self.records.iter_mut().find(|record| matches!(record.state, State::Failed(_)))?;
        match std::mem::replace(&mut failed.state, State::Hidden) {
            State::Failed(error) => Some(error),
            State::Hidden | State::Named | State::Reached(_) => None,
        }
    }

    pub(super) fn path(&self, record: &Record, root: &Path) -> PathBuf {
        root.join(self.given(record))
    }
}

fn intern(values: &mut Vec<u64>, value: u64) -> usize {
    match values.iter().position(|known| *known == value) {
        Some(index) => index,
        None => {
            values.push(value);
            values.len() - 1
        }
    }
}

#[cfg(unix)]
fn as_os_str(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// Names here came from paths and are cut at component borders only, where they are text again.
#[cfg(not(unix))]
fn as_os_str(bytes: &[u8]) -> &OsStr {
    OsStr::new(std::str::from_utf8(bytes).unwrap_or(""))
}
