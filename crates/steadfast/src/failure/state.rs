//! What can be wrong with a store, or with the image it is in.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::path::Path;

use journal::JournalError;
use media::{DeviceErrorKind, FileDiskError, Holder};
use serde_json::{Value, json};
use statefs::{BadBackup, Error, ErrorKind};

use super::{Exit, insert, shown, write_causes};

/// Why a command did not do what it was asked to with a store.
#[derive(Debug)]
pub(crate) enum StateTrouble {
    /// The store refused or failed.
    Store(Error),
    /// The file is not to be had as a disk.
    Disk(FileDiskError),
    /// It cannot be written because it is damaged.
    Damaged,
    /// It cannot be written for another reason.
    ReadOnly(&'static str),
    /// Another writer has it.
    Held,
    /// It is a block device that somebody has claimed.
    InUse,
    /// Damage was seen, and somebody was writing each time.
    Live,
    /// The file is no backup, or not the one that was written.
    BadBackup {
        /// Where.
        offset: u64,
        /// Why.
        what: BadBackup,
    },
    /// What is restored does not fit.
    BackupTooLarge {
        /// The fewest bytes that an image of it may have; [`None`] where that is not known any more.
        bytes_min: Option<u64>,
    },
    /// A requirement of a batch does not hold.
    BatchConflict {
        /// The lines that require something of the key.
        lines: Vec<usize>,
        /// What the store said.
        error: Error,
    },
    /// Others than its owner may read the file with a key.
    ExposedKey,
    /// The image has become another one under the eyes of who watched it.
    Replaced,
}

impl From<Error> for StateTrouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<FileDiskError> for StateTrouble {
    fn from(error: FileDiskError) -> Self {
        match error {
            FileDiskError::Held { by: Holder::Lock } => Self::Held,
            FileDiskError::Held { by: Holder::Claim } => Self::InUse,
            error => Self::Disk(error),
        }
    }
}

impl StateTrouble {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Store(error) | Self::BatchConflict { error, .. } => match error.kind() {
                ErrorKind::Invalid => Exit::Usage,
                ErrorKind::Conflict | ErrorKind::NotFound => Exit::NotSo,
                ErrorKind::NoSpace => Exit::NoSpace,
                ErrorKind::Corrupt => Exit::Corrupt,
                ErrorKind::ReadOnly | ErrorKind::Locked => Exit::Denied,
                ErrorKind::Io | ErrorKind::Poisoned | ErrorKind::NoMemory => Exit::Io,
                ErrorKind::Busy => Exit::Held,
            },
            // A store has whole blocks: the file was cut off, or never held one.
            Self::Disk(FileDiskError::Length { .. }) => Exit::Corrupt,
            // Superblocks of two stores: which of them is meant, nobody can tell.
            Self::Disk(FileDiskError::Refused { .. }) => Exit::Corrupt,
            Self::Disk(error) => match error.kind() {
                DeviceErrorKind::Invalid => Exit::Usage,
                DeviceErrorKind::Exists => Exit::NotSo,
                DeviceErrorKind::NoSpace => Exit::NoSpace,
                DeviceErrorKind::Denied => Exit::Denied,
                DeviceErrorKind::Held => Exit::Held,
                DeviceErrorKind::Unsupported
                | DeviceErrorKind::NoMemory
                | DeviceErrorKind::Io
                | DeviceErrorKind::Poisoned => Exit::Io,
            },
            Self::Damaged | Self::BadBackup { .. } => Exit::Corrupt,
            Self::BackupTooLarge { .. } => Exit::NoSpace,
            Self::Replaced => Exit::NotSo,
            Self::ReadOnly(_) | Self::ExposedKey => Exit::Denied,
            Self::Held | Self::InUse | Self::Live => Exit::Held,
        }
    }

    /// A stable word for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Store(error) | Self::BatchConflict { error, .. } => match error.kind() {
                ErrorKind::Invalid => "invalid",
                ErrorKind::Conflict => "conflict",
                ErrorKind::NotFound => "not_found",
                ErrorKind::NoSpace => "no_space",
                ErrorKind::Corrupt => "corrupt",
                ErrorKind::ReadOnly => "read_only",
                ErrorKind::Locked => "sealed",
                ErrorKind::Poisoned => "poisoned",
                ErrorKind::Io | ErrorKind::NoMemory => "io",
                ErrorKind::Busy => "busy",
            },
            Self::Disk(_) => match self.exit() {
                Exit::Usage => "invalid",
                Exit::NotSo => "exists",
                Exit::NoSpace => "no_space",
                Exit::Denied => "denied",
                Exit::Corrupt => "corrupt",
                Exit::Held => "locked",
                _ => "io",
            },
            Self::Damaged => "damaged",
            Self::ReadOnly(_) => "read_only",
            Self::ExposedKey => "exposed_key",
            Self::Held | Self::InUse => "locked",
            Self::Live => "live",
            Self::BadBackup { .. } => "bad_backup",
            Self::BackupTooLarge { .. } => "no_space",
            Self::Replaced => "replaced",
        }
    }

    pub(super) fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::BatchConflict { .. } => "nothing was written: look again, and decide anew",
            Self::Store(error) => return store_hint(error).map(Cow::Borrowed),
            Self::BackupTooLarge { bytes_min: Some(bytes) } => {
                return Some(Cow::Owned(format!(
                    "it needs at least --size {bytes}, and more to be written to"
                )));
            }
            Self::BackupTooLarge { bytes_min: None } => {
                "take a larger --size; of a backup in a file, `steadfast state backup --check` says how much it needs"
            }
            Self::Disk(error) if error.kind() == DeviceErrorKind::Exists => {
                "an image is never overwritten: choose another name, or remove the file first"
            }
            Self::Disk(FileDiskError::Held { by: Holder::LoopDevice(_) }) => {
                "name the device instead of the file, or detach it with `losetup --detach`"
            }
            Self::Disk(FileDiskError::Held { .. }) => {
                "try again when the other one has ended; readers need no lock"
            }
            Self::Disk(FileDiskError::Refused { .. }) => {
                "a store was made over an older one with other blocks: restore a backup into a new image"
            }
            Self::Disk(FileDiskError::Length { .. }) => {
                "if the image was cut short, `steadfast state salvage` saves what is left of it"
            }
            Self::Damaged => {
                "`steadfast state fsck` says what is lost, `steadfast state salvage` saves the rest"
            }
            Self::Held => "try again when the other one has ended; readers need no lock",
            Self::InUse => {
                "try again when the other writer has ended, or unmount the device; readers need no claim"
            }
            Self::Live => "try again when the writer has ended, or pauses",
            Self::BadBackup { what: BadBackup::Foreign, .. } => {
                "`steadfast state backup IMAGE FILE` makes a backup; an image is not one"
            }
            Self::BadBackup { what: BadBackup::Version(_), .. } => "a later version of steadfast wrote it",
            Self::BadBackup { .. } => "copy it again from where it came from, or take an older one",
            Self::ExposedKey => "chmod 600, and if somebody may have read it, rotate to another key",
            Self::Replaced => "begin to watch again",
            Self::Disk(_) | Self::ReadOnly(_) => return None,
        };
        Some(Cow::Borrowed(hint))
    }

    pub(super) fn details(&self, image: &Path) -> Value {
        let mut details = match self {
            Self::BadBackup { .. } => json!({ "file": shown(image) }),
            _ => json!({ "image": shown(image) }),
        };
        let mut add = |name: &str, value: Value| insert(&mut details, name, value);
        if let Self::Store(Error::Conflict { key, found, .. })
        | Self::BatchConflict { error: Error::Conflict { key, found, .. }, .. } = self
        {
            add("key", json!(key.as_str()));
            add("found_revision", json!(found.map(statefs::Revision::get)));
        }
        if let Self::BatchConflict { lines, .. } = self {
            add("lines", json!(lines));
        }
        if let Self::BadBackup { offset, .. } = self {
            add("offset", json!(offset));
        }
        if let Self::BackupTooLarge { bytes_min } = self {
            add("bytes_min", json!(bytes_min));
        }
        details
    }
}

/// What to do about an error of the store.
fn store_hint(error: &Error) -> Option<&'static str> {
    let of_kind = match error.kind() {
        ErrorKind::Conflict => Some("look again with `steadfast state get --json`, and decide anew"),
        ErrorKind::NotFound => {
            Some("`steadfast state init` makes a store, in a file that does not exist yet")
        }
        ErrorKind::NoSpace => {
            Some("remove keys, or move into a larger image with `steadfast state salvage --size`")
        }
        ErrorKind::Poisoned => Some("the key has the old value or the new one: look, then write again"),
        ErrorKind::Corrupt
        | ErrorKind::Invalid
        | ErrorKind::Io
        | ErrorKind::ReadOnly
        | ErrorKind::Locked
        | ErrorKind::NoMemory
        | ErrorKind::Busy => None,
    };
    match error {
        Error::Journal(error) if matches!(**error, JournalError::WrongDevice { .. }) => {
            Some("if the image was cut short, `steadfast state salvage` saves what is left of it")
        }
        Error::Journal(error) if matches!(&**error, JournalError::Device(_)) && of_kind.is_some() => {
            Some("nothing was changed: the image has holes; make room on the file system that holds it")
        }
        Error::SnapshotExists { .. } => {
            Some("choose another name, or drop it with `steadfast state snapshot drop`")
        }
        Error::NoSnapshot { .. } => Some("`steadfast state snapshot list` lists them"),
        Error::TooManySnapshots { .. } => Some("drop one with `steadfast state snapshot drop`"),
        Error::SnapshotName(_) => {
            Some("a name has at most 64 bytes, no slash and no control character, and is not `.` or `..`")
        }
        Error::QuotaExceeded { .. } | Error::QuotaKeysExceeded { .. } => {
            Some("remove keys below the prefix, or raise the limit with `steadfast state quota set`")
        }
        Error::QuotaOrder => Some("warn below the hard limit: --soft must not be above --hard"),
        Error::Locked { .. } => {
            Some("give the key with --key-file; `steadfast state seal ls` says which one")
        }
        Error::PrefixRecordLost { .. } => Some(
            "`steadfast state seal restore` puts the record back, with the key; `get --key-file` reads without it",
        ),
        Error::WrongKey { .. } => Some("another key sealed it: another --key-file, or another --key-id"),
        Error::NotAuthentic { .. } => {
            Some("it was changed, or moved here from another key: put it anew, or take it from a backup")
        }
        Error::NotSealed => Some("`steadfast state seal ls` lists the sealed prefixes"),
        Error::SealedAlready => Some("`steadfast state seal ls` shows the one that is in the way"),
        Error::PrefixInUse => {
            Some("remove the keys below it; what was plain stays on the medium until a scrub")
        }
        Error::PrefixInSnapshot { .. } => Some(
            "drop the snapshots that have it with `steadfast state snapshot drop`; it stays on the medium until a scrub",
        ),
        Error::RotationRuns => Some("end the one that has begun first, with the same new key"),
        Error::TooManySealed { .. } => Some("make one ordinary again with `steadfast state seal rm`"),
        Error::TooManyQuotas { .. } => Some("remove one with `steadfast state quota rm`"),
        Error::Damaged => Some(
            "`steadfast state salvage` saves what is left; a snapshot from before the loss can be backed up with \
             --snapshot",
        ),
        Error::BatchTooLong { .. } | Error::BatchTooLarge { .. } => {
            Some("a batch is never divided: make several, or take a larger image, or one with larger blocks")
        }
        _ => of_kind,
    }
}

impl fmt::Display for StateTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self {
            Self::Store(error) | Self::BatchConflict { error, .. } => {
                if let Self::BatchConflict { lines, .. } = self
                    && !lines.is_empty()
                {
                    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
                    write!(f, "line {}: ", lines.join(", "))?;
                }
                error.fmt(f)?;
                if let Error::Conflict { found, .. } = error {
                    match found {
                        Some(revision) => write!(f, ": its revision is {}", revision.get())?,
                        None => f.write_str(": it has no value")?,
                    }
                }
                error.source()
            }
            Self::Disk(error) => {
                error.fmt(f)?;
                error.source()
            }
            Self::BadBackup { offset, what } => {
                write!(f, "the backup is refused at byte {offset}: {what}")?;
                what.source()
            }
            Self::BackupTooLarge { .. } => return f.write_str("what the backup is of does not fit"),
            Self::ExposedKey => return f.write_str("others may read this file, and a key is in it"),
            Self::Replaced => return f.write_str("another store is there now"),
            Self::Damaged => return f.write_str("the store is damaged and can only be read"),
            Self::ReadOnly(why) => return write!(f, "the store can only be read: {why}"),
            Self::Held => return f.write_str("another writer holds the lock of the image"),
            Self::InUse => {
                return f.write_str(
                    "the device is in use: another writer holds it, or a file system on it is mounted",
                );
            }
            Self::Live => {
                return f.write_str(
                    "the store is live: it is being written, and did not hold still to be judged",
                );
            }
        };
        write_causes(f, source)
    }
}
