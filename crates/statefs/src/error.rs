//! [`Error`].

use alloc::boxed::Box;

use journal::{JournalError, JournalErrorKind};

use crate::batch::Precondition;
use crate::key::{Key, KeyError, Prefix};
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
    /// The batch has too many operations, or preconditions. Nothing was written.
    #[error("the batch has too many operations: limit={limit} requested={requested}")]
    BatchTooLarge {
        /// The most there may be.
        limit: usize,
        /// What was asked for.
        requested: usize,
    },
    /// The batch does not fit into one frame, and is not divided; or it only deletes, and the store is so full that one frame
    /// has no room for all of it. Nothing was written.
    #[error("the batch is too long for one frame: limit={limit} requested={requested}")]
    BatchTooLong {
        /// The most bytes there may be. A batch of deletes that has no more always fits.
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
    /// A quota would be exceeded. Nothing was written; deleting and shrinking work.
    #[error("quota exceeded for `{prefix}`: limit={limit} used={used} requested={requested}")]
    QuotaExceeded {
        /// Of what.
        prefix: Prefix,
        /// The most bytes of keys and values there may be.
        limit: u64,
        /// How many there are.
        used: u64,
        /// How many there would be.
        requested: u64,
    },
    /// There would be more keys than a quota allows. Nothing was written; deleting works.
    #[error("quota of keys exceeded for `{prefix}`: limit={limit} used={used} requested={requested}")]
    QuotaKeysExceeded {
        /// Of what.
        prefix: Prefix,
        /// The most keys there may be.
        limit: u64,
        /// How many there are.
        used: u64,
        /// How many there would be.
        requested: u64,
    },
    /// The soft limit of a quota is above its hard one. Nothing was written.
    #[error("the soft limit of a quota is above its hard limit")]
    QuotaOrder,
    /// There are as many quotas as there may be. Nothing was written.
    #[error("too many quotas: limit={limit}")]
    TooManyQuotas {
        /// The most there may be.
        limit: usize,
    },
    /// There are as many sealed prefixes as there may be. Nothing was written.
    #[error("too many sealed prefixes: limit={limit}")]
    TooManySealed {
        /// The most there may be.
        limit: usize,
    },
    /// The prefix is too long to have a quota or to be sealed. Nothing was written.
    #[error("the prefix is too long: limit={limit} requested={requested}")]
    PrefixTooLong {
        /// The most bytes it may have.
        limit: usize,
        /// How many it has.
        requested: usize,
    },
    /// The prefix lies in a sealed one, or a sealed one in it. Nothing was written.
    #[error("sealed prefixes do not lie in each other")]
    SealedAlready,
    /// There are keys below the prefix. Nothing was written.
    #[error("there are keys below the prefix")]
    PrefixInUse,
    /// A snapshot still has plain values below the prefix. Nothing was written.
    #[error("a snapshot still has the plain value of `{key}`")]
    PrefixInSnapshot {
        /// The first key of such a value.
        key: Key,
    },
    /// The prefix is not sealed; or the value is plain, and its key lies below no sealed prefix.
    #[error("the prefix is not sealed")]
    NotSealed,
    /// Another rotation of this prefix has begun and not ended. Nothing was written.
    #[error("another rotation of this prefix runs")]
    RotationRuns,
    /// The prefix is sealed, and the key that is needed has not been given. Nothing was written.
    #[error("`{prefix}` is locked: key {key_id} is needed")]
    Locked {
        /// Which prefix.
        prefix: Prefix,
        /// Which key it needs.
        key_id: u32,
    },
    /// The key is not one of this prefix. Nothing was written.
    #[error("key {key_id} is not the one that `{prefix}` is sealed with")]
    WrongKey {
        /// Which prefix.
        prefix: Prefix,
        /// Which key was given.
        key_id: u32,
    },
    /// The value is not what was sealed under this key: rotten, moved from another key, or made up.
    #[error("the value of `{key}` does not authenticate")]
    NotAuthentic {
        /// Which key.
        key: Key,
    },
    /// There are sealed values below the prefix, and the record that says which prefix they belong to is lost. A value put
    /// there would be plain on the medium. Nothing was written.
    #[error("`{prefix}` has sealed values, and the record of their sealed prefix is lost")]
    PrefixRecordLost {
        /// The widest prefix that may have been the sealed one.
        prefix: Prefix,
    },
    /// There are no random bytes to seal with: no source was given, or it failed. Nothing was written.
    #[error("there are no random bytes to seal with")]
    NoRandom,
    /// What the store keeps for itself under this key is not valid, or of a later version.
    #[error("what the store keeps under `{key}` is not valid")]
    BadSetting {
        /// Which, as it is stored.
        key: Box<str>,
    },
    /// An image has more of the store's own records of one kind than a store may have. A store never writes so many.
    #[error("the image has more {what} than there may be: limit={limit} found={found}")]
    OverLimit {
        /// The kind of record, in the plural.
        what: &'static str,
        /// The most records of this kind.
        limit: usize,
        /// The number of records that were found.
        found: usize,
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
    /// As many requests wait as may. Nothing was written; ask again once some of them have been answered.
    #[error("too many requests wait for the store: limit={limit}")]
    TooManyWaiting {
        /// The most requests that may wait.
        limit: usize,
    },
    /// There are as many views of different moments as there may be. Nothing was done.
    #[error("too many views of different moments: limit={limit}; drop one, or use one that there is")]
    TooManyViews {
        /// The most there may be.
        limit: usize,
    },
    /// The requests that wait have as many bytes as they may. Nothing was written; ask again once some of them have been
    /// answered.
    #[error("the requests that wait for the store are too long: limit={limit} requested={requested}")]
    TooMuchWaiting {
        /// The most bytes of keys and values that may wait.
        limit: usize,
        /// The bytes that would wait with this request.
        requested: usize,
    },
    /// The deadline passed before the request began. Nothing was written.
    #[error("the deadline passed before the store began the request")]
    DeadlinePassed,
    /// The request was cancelled before it began. Nothing was written.
    #[error("the request was cancelled before the store began it")]
    Cancelled,
    /// There is no commit thread that could carry the request out, or it ended before it did. Nothing was written. Start one
    /// with `SharedStore::driver`, or use the blocking calls, which need none.
    #[error("the store has no commit thread: start one, or use a blocking call")]
    NoDriver,
    /// The store has been closed by another handle. Nothing was written.
    #[error("the store has been closed")]
    Closed,
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
    /// Delete something, use a larger device, or raise the quota.
    NoSpace,
    /// Unlock the prefix, with its key; or put its record back, where that is lost.
    Locked,
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
    /// Ask again: too much was asked for at once, or something else has to end first.
    Busy,
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
            | Self::Limits
            | Self::QuotaOrder
            | Self::TooManyQuotas { .. }
            | Self::TooManySealed { .. }
            | Self::PrefixTooLong { .. }
            | Self::SealedAlready
            | Self::PrefixInUse
            | Self::PrefixInSnapshot { .. }
            | Self::NotSealed
            | Self::RotationRuns => ErrorKind::Invalid,
            Self::Locked { .. } | Self::WrongKey { .. } | Self::PrefixRecordLost { .. } => ErrorKind::Locked,
            Self::NoRandom => ErrorKind::Io,
            Self::Conflict { .. } | Self::SnapshotExists { .. } | Self::BackupOvertaken => {
                ErrorKind::Conflict
            }
            Self::NoSnapshot { .. } => ErrorKind::NotFound,
            Self::TooManySnapshots { .. }
            | Self::TooManyKeys { .. }
            | Self::TooManyBytes { .. }
            | Self::QuotaExceeded { .. }
            | Self::QuotaKeysExceeded { .. }
            | Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Corrupt { .. }
            | Self::OtherEngine
            | Self::NotAuthentic { .. }
            | Self::BadSetting { .. }
            | Self::OverLimit { .. }
            | Self::Damaged => ErrorKind::Corrupt,
            Self::Journal(error) => match error.kind() {
                JournalErrorKind::Invalid => ErrorKind::Invalid,
                JournalErrorKind::NoSpace => ErrorKind::NoSpace,
                JournalErrorKind::Io => ErrorKind::Io,
                JournalErrorKind::Poisoned => ErrorKind::Poisoned,
                JournalErrorKind::Corrupt => ErrorKind::Corrupt,
                JournalErrorKind::NotFound => ErrorKind::NotFound,
                JournalErrorKind::ReadOnly => ErrorKind::ReadOnly,
                JournalErrorKind::NoMemory => ErrorKind::NoMemory,
                JournalErrorKind::Busy => ErrorKind::Busy,
            },
            Self::NoMemory { .. } => ErrorKind::NoMemory,
            Self::TooManyWaiting { .. }
            | Self::TooMuchWaiting { .. }
            | Self::TooManyViews { .. }
            | Self::DeadlinePassed
            | Self::Cancelled => ErrorKind::Busy,
            Self::NoDriver => ErrorKind::Invalid,
            Self::Closed => ErrorKind::ReadOnly,
        }
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        Self::Journal(Box::new(error))
    }
}
