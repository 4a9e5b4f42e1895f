//! [`Error`]: why a change of a tree did not come about, and what is true of it now.

use std::io;

use durable_io::{Kind, TargetState};
use journal::{JournalError, JournalErrorKind};
use media::{FileDiskError, FileKind, Reason};

use crate::path::{PathError, TreePath};

/// What every fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a change did not come about. [`Error::kind`] says what would remedy it, [`Error::state`] what is true of the names it
/// was about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The path is the root's own: its journal, or the form of a staged name.
    #[error("`{path}` is the root's own: {why}")]
    OwnPath {
        /// Which.
        path: TreePath,
        /// What it is kept for.
        why: &'static str,
    },
    /// Nothing has the name.
    #[error("`{path}` does not exist")]
    NotFound {
        /// Which.
        path: TreePath,
    },
    /// Something has the name that must be free.
    #[error("`{path}` exists already")]
    Exists {
        /// Which.
        path: TreePath,
    },
    /// Only regular files are changed.
    #[error("`{path}` is no regular file: {kind:?}")]
    NotAFile {
        /// Which.
        path: TreePath,
        /// What it is.
        kind: FileKind,
    },
    /// A transaction gives the same name two futures, or takes it away twice.
    #[error("`{path}` is named twice in one transaction")]
    Repeated {
        /// Which.
        path: TreePath,
    },
    /// A transaction is larger than one may be.
    #[error("the transaction is too large: operations={count} operations_max={count_max}")]
    TooLarge {
        /// How many operations it has.
        count: usize,
        /// How many it may have.
        count_max: usize,
    },
    /// Writing, sealing or locking a file failed.
    #[error(transparent)]
    File(#[from] durable_io::Error),
    /// The operating system refused something.
    #[error("{doing} `{path}` failed")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// To what, below the root.
        path: String,
        /// What is true of the names the transaction was about.
        state: TargetState,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The transaction is committed, and safe in the journal, but not in place: the next open finishes it. Until then the root
    /// takes nothing more.
    #[error("the change is durable in the journal, but not yet in place: {doing} `{path}` failed")]
    DurableNotVisible {
        /// What was being done.
        doing: &'static str,
        /// To what, below the root.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The transaction is committed, safe in the journal, and in place, and was not made complete: a barrier failed, or the journal
    /// took no `done`. The next open completes it. Until then the root takes nothing more.
    #[error("the change is committed and in place, but not known to be durable there")]
    NotCompleted {
        /// What failed.
        #[source]
        source: Box<Error>,
    },
    /// The journal failed.
    #[error("the journal of intents failed")]
    Journal(#[from] JournalError),
    /// The file of the journal cannot be used.
    #[error("the file of the journal cannot be used")]
    JournalFile(#[from] FileDiskError),
    /// The root may only be read.
    #[error("the root is read-only: {why}")]
    ReadOnly {
        /// Why.
        why: String,
    },
    /// An earlier failure ended the use of this root: open it again.
    #[error("the root takes nothing more since an earlier failure: {first}")]
    Poisoned {
        /// What failed first.
        first: String,
    },
    /// There is no durable place for a journal, so nothing of several files can be promised.
    #[error("there is no journal here, so several names cannot change together: {why}")]
    NotJournaled {
        /// Why there is none.
        why: String,
    },
    /// Too many staged files are open at a time.
    #[error("too many staged files are open: open={open} open_max={open_max}")]
    TooManyStaged {
        /// How many are.
        open: usize,
        /// How many may be.
        open_max: usize,
    },
}

/// What is being done at a directory barrier.
pub(crate) const SYNCING_DIR: &str = "syncing the directory";
/// What is being done at the barrier of a file that has a name already.
pub(crate) const SYNCING_MOVED: &str = "syncing, before it moves,";

impl Error {
    /// Whether a barrier has failed that should have covered more than what it was asked for: earlier names in a directory, or
    /// the bytes of a file that others wait for. No later barrier covers them, whatever it answers.
    pub(crate) fn is_failed_barrier(&self) -> bool {
        match self {
            Self::Os { doing, .. } => [SYNCING_DIR, SYNCING_MOVED].contains(doing),
            Self::File(error) => error.stage() == durable_io::Stage::SyncDir,
            _ => false,
        }
    }

    pub(crate) fn os(doing: &'static str, path: impl Into<String>, source: io::Error) -> Self {
        Self::Os { doing, path: path.into(), state: TargetState::Unchanged, source }
    }

    /// The same, where the names the transaction was about are no longer known to be as they were.
    pub(crate) fn in_state(self, state: TargetState) -> Self {
        match self {
            Self::Os { doing, path, source, .. } => Self::Os { doing, path, state, source },
            other => other,
        }
    }

    /// The path below the root that it is about, where it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::OwnPath { path, .. }
            | Self::NotFound { path }
            | Self::Exists { path }
            | Self::NotAFile { path, .. }
            | Self::Repeated { path } => Some(path.as_str()),
            Self::Os { path, .. } | Self::DurableNotVisible { path, .. } => Some(path),
            Self::NotCompleted { source } => source.path(),
            Self::Path(_)
            | Self::TooLarge { .. }
            | Self::File(_)
            | Self::Journal(_)
            | Self::JournalFile(_)
            | Self::ReadOnly { .. }
            | Self::Poisoned { .. }
            | Self::NotJournaled { .. }
            | Self::TooManyStaged { .. } => None,
        }
    }

    /// What would remedy it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(_) | Self::OwnPath { .. } | Self::NotAFile { .. } | Self::Repeated { .. } => {
                Kind::Invalid
            }
            Self::TooLarge { .. } => Kind::Invalid,
            Self::NotCompleted { source } => source.kind(),
            Self::NotFound { .. } => Kind::NotFound,
            Self::Exists { .. } => Kind::Exists,
            Self::File(_) if self.holder().is_some() => Kind::Held,
            Self::File(error) => error.kind(),
            Self::Os { source, .. } | Self::DurableNotVisible { source, .. } => Kind::of(Reason::of(source)),
            Self::Journal(error) => match error.kind() {
                JournalErrorKind::Invalid => Kind::Invalid,
                JournalErrorKind::NoSpace => Kind::NoSpace,
                JournalErrorKind::Io | JournalErrorKind::NoMemory => Kind::Io,
                JournalErrorKind::Poisoned => Kind::Poisoned,
                JournalErrorKind::Corrupt => Kind::Corrupt,
                JournalErrorKind::NotFound => Kind::NotFound,
                JournalErrorKind::ReadOnly => Kind::Denied,
                JournalErrorKind::Busy => Kind::Held,
            },
            Self::JournalFile(error) => match error.kind() {
                media::DeviceErrorKind::Invalid => Kind::Corrupt,
                media::DeviceErrorKind::Unsupported => Kind::Unsupported,
                media::DeviceErrorKind::NoSpace => Kind::NoSpace,
                media::DeviceErrorKind::Denied => Kind::Denied,
                media::DeviceErrorKind::Exists => Kind::Exists,
                media::DeviceErrorKind::Held => Kind::Held,
                media::DeviceErrorKind::NoMemory
                | media::DeviceErrorKind::Io
                | media::DeviceErrorKind::Poisoned => Kind::Io,
            },
            Self::ReadOnly { .. } => Kind::Corrupt,
            Self::Poisoned { .. } => Kind::Poisoned,
            Self::NotJournaled { .. } => Kind::Unsupported,
            Self::TooManyStaged { .. } => Kind::Io,
        }
    }

    /// What is true of the names the transaction was about.
    #[must_use]
    pub fn state(&self) -> TargetState {
        match self {
            Self::DurableNotVisible { .. } => TargetState::DurableNotVisible,
            Self::NotCompleted { .. } => TargetState::ReplacedNotDurable,
            Self::Os { state, .. } => *state,
            // The commit record may have reached the medium.
            Self::Journal(JournalError::Poisoned { .. } | JournalError::Device(_)) => TargetState::Unknown,
            Self::File(error) => error.state(),
            _ => TargetState::Unchanged,
        }
    }

    /// What a person could do about it, if there is something to say beyond the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::DurableNotVisible { .. } => {
                "remove what stands in the way (a full disk, permissions) and open the root again: it finishes the change"
            }
            Self::Poisoned { .. } | Self::NotCompleted { .. } => {
                "open the root again: recovery finishes what was committed"
            }
            Self::ReadOnly { .. } => {
                "nothing was swept or changed; restore the journal from a copy of the whole tree"
            }
            Self::NotJournaled { .. } => "use a local file system that can sync files and directories",
            Self::File(error) => return error.hint(),
            _ => return None,
        };
        Some(text.to_owned())
    }
}
