//! The one error type. Every error carries four facts: the [`Stage`] that failed, the [`TargetState`] it left
//! behind, the [`Kind`] (what would remedy it), and whether to [`Retry`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use media::{FileKind, Reason};

use crate::lock::Holder;

/// What every fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a durable operation did not do what was asked, and what is true now.
pub struct Error(Box<Facts>);

struct Facts {
    stage: Stage,
    state: TargetState,
    path: PathBuf,
    cause: Cause,
    leftovers: Vec<Leftover>,
    backup: Option<PathBuf>,
}

/// The step at which an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Checking the arguments; nothing was touched.
    InvalidInput,
    /// Opening the directory.
    OpenDir,
    /// Creating a directory.
    CreateDir,
    /// Looking at the target: what it is, where its links lead.
    Inspect,
    /// Reading a file.
    Read,
    /// Asking the caller's function for the new content.
    Decide,
    /// Creating or writing the temporary file.
    TempWrite,
    /// Giving the temporary file its owner, mode and extended attributes.
    Metadata,
    /// The file barrier.
    SyncFile,
    /// Giving the file its name.
    Rename,
    /// The directory barrier.
    SyncDir,
    /// Removing a file.
    Remove,
    /// Overwriting the target in place, which the caller's policy asked for.
    WriteInPlace,
    /// Appending to a log, or repairing its tail.
    Append,
    /// Taking, keeping or releasing a lock.
    Lock,
    /// Removing a temporary file.
    Cleanup,
}

impl Stage {
    fn phrase(self) -> &'static str {
        match self {
            Self::InvalidInput => "the request is not valid",
            Self::OpenDir => "opening the directory",
            Self::CreateDir => "creating a directory",
            Self::Inspect => "looking at the target",
            Self::Read => "reading",
            Self::Decide => "computing the new content",
            Self::TempWrite => "writing the temporary file",
            Self::Metadata => "setting owner, mode or attributes",
            Self::SyncFile => "making the bytes durable (fsync)",
            Self::Rename => "giving the file its name",
            Self::SyncDir => "making the name durable (fsync of the directory)",
            Self::Remove => "removing the file",
            Self::WriteInPlace => "overwriting the file in place",
            Self::Append => "appending",
            Self::Lock => "locking",
            Self::Cleanup => "removing a temporary file",
        }
    }
}

/// What the failed operation left of its target. "Target" is the name the caller gave: the file replaced or
/// removed, the new name of a rename, the log appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetState {
    /// As it was before the call.
    Unchanged,
    /// The change is in place and every reader sees it, but the directory barrier failed: after a power cut
    /// either the old or the new state is there.
    ReplacedNotDurable,
    /// Committed in a journal and safe there, but not yet in place.
    DurableNotVisible,
    /// Nobody can tell: look before doing anything else.
    Unknown,
}

impl TargetState {
    fn phrase(self) -> &'static str {
        match self {
            Self::Unchanged => "the target is unchanged",
            Self::ReplacedNotDurable => "the change is in place, but not known to be durable",
            Self::DurableNotVisible => "the change is durable, but not yet in place",
            Self::Unknown => "the state of the target is not known",
        }
    }
}

/// Errors by what would remedy them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request can never succeed as it is.
    Invalid,
    /// Something named does not exist.
    NotFound,
    /// Something exists that must not.
    Exists,
    /// The target is no longer what the caller had read: read again.
    Conflict,
    /// Space or quota must be freed.
    NoSpace,
    /// Permissions, or a read-only file system.
    Denied,
    /// Another holds it: wait, or try later.
    Held,
    /// The content is damaged: repair or restore it.
    Corrupt,
    /// This file system or platform does not offer what was asked for.
    Unsupported,
    /// The medium or the system failed.
    Io,
    /// An earlier failure ended the use of this handle: open it again.
    Poisoned,
    /// The caller's own function said no.
    Declined,
    /// The caller asked to stop.
    Cancelled,
}

impl Kind {
    /// What would remedy an answer of the operating system.
    #[must_use]
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::DiskFull | Reason::QuotaExceeded => Self::NoSpace,
            Reason::PermissionDenied | Reason::ReadOnly => Self::Denied,
            Reason::NotFound => Self::NotFound,
            Reason::AlreadyExists | Reason::NotEmpty => Self::Exists,
            Reason::Busy | Reason::WouldBlock => Self::Held,
            Reason::Unsupported | Reason::CrossDevice => Self::Unsupported,
            Reason::IsDirectory | Reason::NotDirectory | Reason::NameTooLong | Reason::SymlinkLoop => {
                Self::Invalid
            }
            _ => Self::Io,
        }
    }
}

/// Whether the same call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// As it is, now or a little later.
    Now,
    /// After something outside has been changed: space freed, a permission granted.
    AfterChange,
    /// Only after reading the present state again, and with everything written afresh.
    FreshData,
    /// It can never succeed.
    Never,
}

/// A request that is refused before anything is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The path is empty, or only white space.
    #[error("the path is empty")]
    EmptyPath,
    /// The path holds a NUL byte.
    #[error("the path holds a NUL byte")]
    NulInPath,
    /// The path is absolute, ends in a slash or holds `..`.
    #[error("the path must name a file below the directory: relative, without `..`, not ending in `/`")]
    NotBelowDirectory,
    /// The name has the form of this crate's own temporary files.
    #[error("the name has the form of our own temporary files")]
    ReservedName,
    /// The target is no regular file.
    #[error("the target is a {}, not a regular file", kind_phrase(*.0))]
    NotARegularFile(FileKind),
    /// The target is a symbolic link and the policy is to refuse them.
    #[error("the target is a symbolic link, and the policy is to refuse them")]
    SymlinkRefused,
    /// The target has several names and the policy is to refuse that.
    #[error("the target has {links} names (hard links), and the policy is to refuse that")]
    HardLinkRefused {
        /// How many.
        links: u64,
    },
    /// An update came out empty, which is more often an accident than a wish.
    #[error("the new content is empty")]
    EmptyResult,
    /// More bytes than the bound allows.
    #[error("{len} bytes are more than the bound of {len_max}")]
    TooLong {
        /// The length found or asked for; where reading stopped, one more than the bound.
        len: u64,
        /// The bound.
        len_max: u64,
    },
    /// A log record that is not one JSON object or array on one line.
    #[error("a record must be one JSON object or array on one line")]
    NotARecord,
    /// This thread holds the lock already; waiting for itself would never end.
    #[error("this thread already holds the lock")]
    LockedByThisThread,
    /// The lock file belongs to the other kind of lock.
    #[error("the lock file is of the other kind (kernel lock against exclusive-create lock)")]
    OtherLockKind,
    /// The same name was given twice in one bulk.
    #[error("the name is in this bulk already")]
    Repeated,
    /// The target is a symbolic link to be followed, in a bulk that is only sealed.
    #[error("a symbolic link cannot be followed for a file that is sealed now and gets its name later")]
    LinkNotSealed,
    /// A file that is to be left alone where it is unchanged, in a bulk that is only sealed.
    #[error("a file that may be left as it is (`Unchanged::Skip`) cannot be sealed for a later name")]
    SkipNotSealed,
}

fn kind_phrase(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "regular file",
        FileKind::Dir => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Other => "device, FIFO or socket",
    }
}

/// The facts behind an error.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The operating system said so.
    Os {
        /// Its code, classified.
        reason: Reason,
        /// Its error.
        source: io::Error,
    },
    /// The request is refused.
    Invalid(Invalid),
    /// A lock is held by another.
    Held {
        /// Who, as far as the lock file tells.
        holder: Holder,
        /// How long this call waited.
        waited: Duration,
    },
    /// The content is damaged.
    Corrupt {
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The target changed since it was read.
    Changed,
    /// An earlier failure poisoned this handle; the text is its message.
    Poisoned(String),
    /// The caller's function failed.
    Declined(Box<dyn std::error::Error + Send + Sync>),
    /// The caller asked to stop.
    Cancelled,
}

/// What a failed call should have taken away and could not: a temporary file, or the end of a log.
#[derive(Debug)]
pub struct Leftover {
    /// Where it is: the temporary file, or the log itself.
    pub path: PathBuf,
    /// Why it could not be taken away.
    pub error: io::Error,
}

impl Error {
    pub(crate) fn new(stage: Stage, state: TargetState, path: impl Into<PathBuf>, cause: Cause) -> Self {
        let path = path.into();
        Self(Box::new(Facts { stage, state, path, cause, leftovers: Vec::new(), backup: None }))
    }

    /// An operating-system error at `stage` that left the target alone.
    pub(crate) fn os(stage: Stage, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let cause = Cause::Os { reason: Reason::of(&source), source };
        Self::new(stage, TargetState::Unchanged, path, cause)
    }

    pub(crate) fn invalid(path: impl Into<PathBuf>, why: Invalid) -> Self {
        Self::new(Stage::InvalidInput, TargetState::Unchanged, path, Cause::Invalid(why))
    }

    pub(crate) fn exists(stage: Stage, path: impl Into<PathBuf>) -> Self {
        Self::os(stage, path, io::ErrorKind::AlreadyExists.into())
    }

    pub(crate) fn in_state(mut self, state: TargetState) -> Self {
        self.0.state = state;
        self
    }

    pub(crate) fn with_leftover(mut self, leftover: Option<Leftover>) -> Self {
        self.0.leftovers.extend(leftover);
        self
    }

    pub(crate) fn with_backup(mut self, backup: PathBuf) -> Self {
        self.0.backup = Some(backup);
        self
    }

    /// The caller's own error, where that is the cause.
    #[cfg(feature = "json")]
    pub(crate) fn into_declined(self) -> std::result::Result<Box<dyn std::error::Error + Send + Sync>, Self> {
        let Self(mut facts) = self;
        match std::mem::replace(&mut facts.cause, Cause::Changed) {
            Cause::Declined(error) => Ok(error),
            cause => {
                facts.cause = cause;
                Err(Self(facts))
            }
        }
    }

    /// The step that failed.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.0.stage
    }

    /// What is true of the target now.
    #[must_use]
    pub fn state(&self) -> TargetState {
        self.0.state
    }

    /// The path the operation was about.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The directory of [`Error::path`].
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.0.path.parent().unwrap_or(Path::new("."))
    }

    /// The facts behind it.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// What could not be taken away after this error, beside the error itself: a temporary file, or bytes at the end of
    /// a log; the first of [`Error::leftovers`].
    #[must_use]
    pub fn cleanup(&self) -> Option<&Leftover> {
        self.0.leftovers.first()
    }

    /// All that could not be taken away after this error: at most one file, and two where the policy asked for an
    /// overwrite in place.
    #[must_use]
    pub fn leftovers(&self) -> &[Leftover] {
        &self.0.leftovers
    }

    /// Where the old content is kept, after an overwrite in place that failed half-way.
    #[must_use]
    pub fn backup(&self) -> Option<&Path> {
        self.0.backup.as_deref()
    }

    /// The system's code, where it gave one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &self.0.cause {
            Cause::Os { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The system's reason, classified; `None` for errors that did not come from the system.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match &self.0.cause {
            Cause::Os { reason, .. } => Some(*reason),
            Cause::Invalid(Invalid::NotARegularFile(FileKind::Dir)) => Some(Reason::IsDirectory),
            _ => None,
        }
    }

    /// What would remedy it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.0.cause {
            Cause::Os { reason: Reason::InvalidArgument, .. } if self.0.stage == Stage::SyncDir => {
                Kind::Unsupported
            }
            Cause::Os { reason, .. } => Kind::of(*reason),
            Cause::Invalid(_) => Kind::Invalid,
            Cause::Held { .. } => Kind::Held,
            Cause::Corrupt { .. } => Kind::Corrupt,
            Cause::Changed => Kind::Conflict,
            Cause::Poisoned(_) => Kind::Poisoned,
            Cause::Declined(_) => Kind::Declined,
            Cause::Cancelled => Kind::Cancelled,
        }
    }

    /// Whether, and on what condition, the call may be repeated.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self.0.state {
            TargetState::Unchanged => {}
            // What is not durable may go back, and a guess is no state to build on.
            TargetState::ReplacedNotDurable | TargetState::Unknown => return Retry::FreshData,
            // It is committed; opening again finishes it.
            TargetState::DurableNotVisible => return Retry::Never,
        }
        // A barrier that failed, for whatever reason, proves nothing the second time: the system may have given
        // up the data and say yes. Only one that is not offered stays that way.
        let is_barrier = matches!(self.0.stage, Stage::SyncFile | Stage::SyncDir);
        if is_barrier && self.kind() != Kind::Unsupported && matches!(self.0.cause, Cause::Os { .. }) {
            return Retry::FreshData;
        }
        match self.kind() {
            Kind::Invalid | Kind::Poisoned | Kind::Cancelled => Retry::Never,
            Kind::Conflict => Retry::FreshData,
            Kind::Held => match self.reason() {
                Some(Reason::Busy) => Retry::AfterChange,
                _ => Retry::Now,
            },
            Kind::NotFound
            | Kind::Exists
            | Kind::NoSpace
            | Kind::Denied
            | Kind::Corrupt
            | Kind::Unsupported
            | Kind::Declined => Retry::AfterChange,
            Kind::Io => match self.reason() {
                Some(Reason::Interrupted | Reason::TooManyOpenFiles) => Retry::Now,
                _ => Retry::FreshData,
            },
        }
    }

    /// What a person could do about it, if there is something to say beyond the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Some(backup) = &self.0.backup {
            return Some(format!("the old content is in `{}`", backup.display()));
        }
        let unchanged = self.0.state == TargetState::Unchanged;
        let text = match &self.0.cause {
            Cause::Os { reason, .. } => match (reason, self.0.stage) {
                (Reason::Unsupported | Reason::InvalidArgument, Stage::SyncDir) => {
                    "this file system cannot sync directories; allow `visible only` to accept that"
                }
                (_, Stage::SyncDir) if unchanged => {
                    "what was created on the way (a new directory) is there, may vanish with the power, and will be \
                     taken for durable: sync its parent directory before you rely on it"
                }
                (Reason::DiskFull, _) if unchanged && self.0.leftovers.is_empty() => {
                    "free some space and repeat the call; nothing partial was left"
                }
                (Reason::DiskFull, _) => {
                    "free some space, then look at what is there before you repeat the call"
                }
                (Reason::QuotaExceeded, _) => "free some of your quota and repeat the call",
                (Reason::ReadOnly, _) => "the file system is mounted read-only; `dmesg` may tell why",
                (Reason::PermissionDenied, Stage::TempWrite) => {
                    "replacing a file needs the right to create one in its directory"
                }
                (Reason::PermissionDenied, Stage::Lock) => {
                    "the lock file belongs to the user who locked first, for that user alone; give others access to it"
                }
                (Reason::CrossDevice, _) => "copy to the other file system, then remove the original",
                (Reason::Busy, Stage::Rename) => {
                    "a mount point cannot be replaced; the in-place policy overwrites it, after a backup"
                }
                (Reason::TooManyOpenFiles, _) => "raise the limit of open files (`ulimit -n`)",
                (Reason::IoError, Stage::SyncFile | Stage::SyncDir) => {
                    "the medium failed; look at `dmesg`, and do not trust what was written since the last success"
                }
                (Reason::NotFound, Stage::OpenDir) => "create the directory first",
                _ => return None,
            },
            Cause::Held { .. } => "wait longer, or find out what the holder is doing",
            Cause::Corrupt { .. } => "restore the file from a copy; it was left as it is",
            Cause::Changed => "read it again and apply the change to what is there now",
            Cause::Invalid(Invalid::OtherLockKind) => {
                "all users of one lock must choose the same kind; remove the file once nobody uses it"
            }
            Cause::Invalid(Invalid::EmptyResult) => "say so explicitly if the file is to become empty",
            Cause::Poisoned(_) => "open it again: what is there is checked before it is trusted",
            Cause::Invalid(_) | Cause::Declined(_) | Cause::Cancelled => return None,
        };
        Some(text.to_owned())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { stage, state, path, cause, leftovers, .. } = &*self.0;
        write!(f, "`{}`: ", path.display())?;
        match cause {
            Cause::Invalid(why) => return write!(f, "{why}"),
            Cause::Os { reason, source } => {
                write!(f, "{}: {reason}", stage.phrase())?;
                if let Some(code) = source.raw_os_error() {
                    write!(f, " (os error {code})")?;
                }
            }
            Cause::Held { holder, waited } => {
                write!(f, "locked by {holder} (waited {} ms)", waited.as_millis())?;
            }
            Cause::Corrupt { offset, detail } => write!(f, "damaged at byte {offset}: {detail}")?,
            Cause::Changed => write!(f, "it changed since it was read")?,
            Cause::Poisoned(first) => write!(f, "refused after an earlier failure ({first})")?,
            Cause::Declined(error) => write!(f, "{}: {error}", stage.phrase())?,
            Cause::Cancelled => write!(f, "stopped on request while {}", stage.phrase())?,
        }
        write!(f, "; {}", state.phrase())?;
        for leftover in leftovers {
            write!(f, " (and `{}` is left: {})", leftover.path.display(), leftover.error)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("stage", &self.0.stage)
            .field("state", &self.0.state)
            .field("kind", &self.kind())
            .field("retry", &self.retry())
            .field("path", &self.0.path)
            .field("cause", &self.0.cause)
            .field("leftovers", &self.0.leftovers)
            .field("backup", &self.0.backup)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            Cause::Os { source, .. } => Some(source),
            Cause::Declined(error) => Some(&**error),
            _ => None,
        }
    }
}
