//! [`Error`].

use alloc::boxed::Box;

use journal::{JournalError, JournalErrorKind};

use crate::batch::Precondition;
use crate::key::{Key, KeyError};
use crate::record::{BadRecord, Revision};
use crate::snapshot::{NameError, SnapshotName};

/// Why the store did not do what it was asked to. [`Error::kind`] says what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The text is no key. Nothing was written.
    #[error("not a key")]
    Key(#[from] KeyError),
    /// The value is too long. Nothing was written.
    #[error("the value is too long: limit={limit} requested={requested}")]
    ValueTooLong {
        /// The most bytes there may be.
        limit: u64,
        /// What was asked for.
        requested: u64,
    },
    /// The batch has too many operations. Nothing was written.
    #[error("the batch has too many operations: limit={limit} requested={requested}")]
    BatchTooLarge {
        /// The most there may be.
        limit: usize,
        /// What was asked for.
        requested: usize,
    },
    /// The batch does not fit into one frame, and is not divided. Nothing was written.
    #[error("the batch is too long for one frame: limit={limit} requested={requested}")]
    BatchTooLong {
        /// The most bytes there may be.
        limit: usize,
        /// What was asked for.
        requested: usize,
    },
    /// The batch has no operations. Nothing was written.
    #[error("the batch has no operations")]
    EmptyBatch,
    /// A batch changes a key once. Nothing was written.
    #[error("the batch changes `{key}` more than once")]
    DuplicateKey {
        /// Which.
        key: Key,
    },
    /// A limit to format with is out of its range.
    #[error("a limit to format with is out of its range")]
    Limits,
    /// A precondition does not hold. Nothing was written.
    #[error("`{key}` is not as it was expected to be")]
    Conflict {
        /// Which key.
        key: Key,
        /// What was expected.
        wanted: Precondition,
        /// Its revision; [`None`] if it has no value.
        found: Option<Revision>,
    },
    /// The text is no name of a snapshot. Nothing was written.
    #[error("not a name of a snapshot")]
    SnapshotName(#[from] NameError),
    /// There is a snapshot of that name. Nothing was written.
    #[error("there is a snapshot `{name}` already, of revision {revision}")]
    SnapshotExists {
        /// Its name.
        name: SnapshotName,
        /// When it was taken.
        revision: Revision,
    },
    /// There is no snapshot of that name.
    #[error("there is no snapshot `{name}`")]
    NoSnapshot {
        /// The name.
        name: SnapshotName,
    },
    /// There are as many snapshots as there may be. Nothing was written.
    #[error("too many snapshots: limit={limit} used={used}")]
    TooManySnapshots {
        /// The most there may be.
        limit: usize,
        /// How many there are.
        used: usize,
    },
    /// Something that would be backed up is suspect.
    #[error("the store is damaged, and a backup could not say what in it is suspect")]
    Damaged,
    /// What is backed up is not there any more as it was when the backup was begun.
    #[error("the store was written to, or the snapshot dropped, since the backup was begun")]
    BackupOvertaken,
    /// There would be too many keys. Nothing was written.
    #[error("too many keys: limit={limit} used={used} requested={requested}")]
    TooManyKeys {
        /// The most there may be.
        limit: u64,
        /// How many there are.
        used: u64,
        /// How many more were asked for.
        requested: u64,
    },
    /// Keys and values would have too many bytes. Nothing was written.
    #[error("too many live bytes: limit={limit} used={used} requested={requested}")]
    TooManyBytes {
        /// The most there may be.
        limit: u64,
        /// How many there are.
        used: u64,
        /// How many there would be.
        requested: u64,
    },
    /// What is alive would not fit, or not leave room to go on. Nothing was written; deletes work.
    #[error("no space: limit={limit} used={used} requested={requested} blocks")]
    NoSpace {
        /// The most blocks there may be.
        limit: u64,
        /// How many are needed for what is alive.
        used: u64,
        /// How many there would be.
        requested: u64,
    },
    /// A frame is whole and its records are not what they may be.
    #[error("frame {seq} is whole, but record {index} in it is not valid")]
    Corrupt {
        /// Which frame.
        seq: u64,
        /// Which record.
        index: usize,
        /// Which rule it breaks.
        #[source]
        what: BadRecord,
    },
    /// The superblock is that of another engine, or of a later version of this one.
    #[error("the store is of another engine, or of a later version")]
    OtherEngine,
    /// The journal or the device failed.
    #[error(transparent)]
    Journal(Box<JournalError>),
    /// Memory could not be had.
    #[error("no memory for {len} bytes")]
    NoMemory {
        /// How much was asked for.
        len: usize,
    },
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Ask for something else.
    Invalid,
    /// Look again, and decide anew.
    Conflict,
    /// Delete something, or use a larger device.
    NoSpace,
    /// There is no store, or no snapshot of that name.
    NotFound,
    /// The device failed: look at it.
    Io,
    /// Salvage.
    Corrupt,
    /// Open the store again: what the last writes came to is unknown.
    Poisoned,
    /// Open it for writing, if it is not damaged.
    ReadOnly,
    /// Free memory.
    NoMemory,
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Key(_)
            | Self::ValueTooLong { .. }
            | Self::BatchTooLarge { .. }
            | Self::BatchTooLong { .. }
            | Self::EmptyBatch
            | Self::DuplicateKey { .. }
            | Self::SnapshotName(_)
            | Self::Limits => ErrorKind::Invalid,
            Self::Conflict { .. } | Self::SnapshotExists { .. } | Self::BackupOvertaken => {
                ErrorKind::Conflict
            }
            Self::NoSnapshot { .. } => ErrorKind::NotFound,
            Self::TooManySnapshots { .. }
            | Self::TooManyKeys { .. }
            | Self::TooManyBytes { .. }
            | Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Corrupt { .. } | Self::OtherEngine | Self::Damaged => ErrorKind::Corrupt,
            Self::Journal(error) => match error.kind() {
                JournalErrorKind::Invalid => ErrorKind::Invalid,
                JournalErrorKind::NoSpace => ErrorKind::NoSpace,
                JournalErrorKind::Io => ErrorKind::Io,
                JournalErrorKind::Poisoned => ErrorKind::Poisoned,
                JournalErrorKind::Corrupt => ErrorKind::Corrupt,
                JournalErrorKind::NotFound => ErrorKind::NotFound,
                JournalErrorKind::ReadOnly => ErrorKind::ReadOnly,
                JournalErrorKind::NoMemory => ErrorKind::NoMemory,
            },
            Self::NoMemory { .. } => ErrorKind::NoMemory,
        }
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        Self::Journal(Box::new(error))
    }
}
