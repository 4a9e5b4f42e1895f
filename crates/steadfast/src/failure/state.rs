//! What can be wrong with a store, or with the image it is in.

use std::error::Error as _;
use std::fmt;
use std::path::Path;

use media::{DeviceErrorKind, FileDiskError};
use serde_json::{Value, json};
use statefs::{Error, ErrorKind};

use super::{Exit, shown};

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
}

impl From<Error> for StateTrouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<FileDiskError> for StateTrouble {
    fn from(error: FileDiskError) -> Self {
        Self::Disk(error)
    }
}

impl StateTrouble {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => match error.kind() {
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
            Self::Disk(error) => match error.kind() {
                DeviceErrorKind::Invalid => Exit::Usage,
                DeviceErrorKind::Exists => Exit::NotSo,
                DeviceErrorKind::NoSpace => Exit::NoSpace,
                DeviceErrorKind::Denied => Exit::Denied,
                DeviceErrorKind::Unsupported
                | DeviceErrorKind::NoMemory
                | DeviceErrorKind::Io
                | DeviceErrorKind::Poisoned => Exit::Io,
            },
            Self::Damaged => Exit::Corrupt,
            Self::ReadOnly(_) => Exit::Denied,
            Self::Held | Self::InUse | Self::Live => Exit::Held,
        }
    }

    /// A stable word for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => match error.kind() {
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
                _ => "io",
            },
            Self::Damaged => "damaged",
            Self::ReadOnly(_) => "read_only",
            Self::Held | Self::InUse => "locked",
            Self::Live => "live",
        }
    }

    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => match error.kind() {
                ErrorKind::Conflict => Some("look again with `steadfast state get --json`, and decide anew"),
                ErrorKind::NotFound => {
                    Some("`steadfast state init` makes a store, in a file that does not exist yet")
                }
                ErrorKind::NoSpace => {
                    Some("remove keys, or move into a larger image with `steadfast state salvage --size`")
                }
                ErrorKind::Poisoned => {
                    Some("the key has the old value or the new one: look, then write again")
                }
                ErrorKind::Corrupt
                | ErrorKind::Invalid
                | ErrorKind::Io
                | ErrorKind::ReadOnly
                | ErrorKind::Locked
                | ErrorKind::NoMemory
                | ErrorKind::Busy => None,
            },
            Self::Disk(error) if error.kind() == DeviceErrorKind::Exists => {
                Some("an image is never overwritten: choose another name, or remove the file first")
            }
            Self::Damaged => {
                Some("`steadfast state fsck` says what is lost, `steadfast state salvage` saves the rest")
            }
            Self::Held => Some("try again when the other one has ended; readers need no lock"),
            Self::InUse => Some(
                "try again when the other writer has ended, or unmount the device; readers need no claim",
            ),
            Self::Live => Some("try again when the writer has ended, or pauses"),
            Self::Disk(_) | Self::ReadOnly(_) => None,
        }
    }

    pub(super) fn details(&self, image: &Path) -> Value {
        let found = match self {
            Self::Store(Error::Conflict { found, .. }) => found.map(statefs::Revision::get),
            _ => None,
        };
        match self {
            Self::Store(Error::Conflict { key, .. }) => {
                json!({ "image": shown(image), "key": key.as_str(), "found_revision": found })
            }
            _ => json!({ "image": shown(image) }),
        }
    }
}

impl fmt::Display for StateTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut source = match self {
            Self::Store(error) => {
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
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
