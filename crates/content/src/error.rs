//! [`Error`]: why the store did not do what it was asked to.

use std::io;
use std::path::PathBuf;

use durable_io::{Cause, Invalid, Kind, TargetState};
use media::FileKind;

use crate::config::ConfigError;
use crate::quota::Counted;
use crate::uri::{Uri, UriError};

/// What every fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the store did not do what it was asked to. [`Error::kind`] says what would remedy it, [`Error::state`] what is true
/// of the object it was about: where nothing else is said, it is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is no URI.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// A document is no configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The app would have more than its quota. Nothing was written; removing works. `used` and `requested` together are more
    /// than `limit`.
    #[error("quota of {what} exceeded for `{app}`: limit={limit} used={used} requested={requested}")]
    QuotaExceeded {
        /// Whose.
        app: String,
        /// Of what.
        what: Counted,
        /// The most there may be.
        limit: u64,
        /// How much there is: objects, and what is staged or being written.
        used: u64,
        /// How much more was asked for.
        requested: u64,
    },
    /// The app would have more staged bytes than its temp budget. Nothing was written.
    #[error("temp budget exceeded for `{app}`: limit={limit} used={used} requested={requested}")]
    TempBudgetExceeded {
        /// Whose.
        app: String,
        /// The most bytes that may be staged.
        limit: u64,
        /// How many are.
        used: u64,
        /// How many more were asked for.
        requested: u64,
    },
    /// As many apps as there may be use something, and this is another one.
    #[error("too many apps: limit={limit}")]
    TooManyApps {
        /// The most there may be.
        limit: usize,
    },
    /// Somebody else has the store open.
    #[error("the store is held by {holder}")]
    Held {
        /// Who, as far as the lock tells.
        holder: String,
    },
    /// Nothing has the name.
    #[error("{uri} does not exist")]
    NotFound {
        /// Which.
        uri: Uri,
    },
    /// Something has the name that must be free.
    #[error("{uri} exists already")]
    Exists {
        /// Which.
        uri: Uri,
    },
    /// It is no object.
    #[error("{uri} is no object: {kind:?}")]
    NotAnObject {
        /// Which.
        uri: Uri,
        /// What it is.
        kind: FileKind,
    },
    /// It is not a staged object of this store, or not any more.
    #[error("{uri} is not staged here")]
    NotStaged {
        /// Which.
        uri: Uri,
    },
    /// It is a staged object, which can be written, committed and unlinked.
    #[error("{uri} is staged, and not to be read")]
    Staged {
        /// Which.
        uri: Uri,
    },
    /// An object stays in its app: the quota it is charged to is that app's.
    #[error("{from} cannot be committed to another app: {to}")]
    OtherApp {
        /// What was staged.
        from: Uri,
        /// What it was to become.
        to: Uri,
    },
    /// There was less or more to read than was said. Nothing was changed.
    #[error("the content of {uri} is not as long as was said: expected={expected} found={found}")]
    LengthDiffers {
        /// Which.
        uri: Uri,
        /// What was said.
        expected: u64,
        /// How much there was: at least so much, where it is more.
        found: u64,
    },
    /// A page of a listing has another size.
    #[error("a page cannot have so many objects: requested={requested} limit={limit}")]
    ListLimit {
        /// What was asked for.
        requested: usize,
        /// The most there may be; the least is one.
        limit: usize,
    },
    /// There is no content store at the path.
    #[error("`{path}` is no content store")]
    NotAStore {
        /// Which.
        path: PathBuf,
    },
    /// There is a content store at the path.
    #[error("`{path}` is a content store already")]
    AlreadyAStore {
        /// Which.
        path: PathBuf,
    },
    /// A store begins in a directory that has nothing else in it.
    #[error("`{path}` is not empty: there is `{entry}`")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of its entries.
        entry: PathBuf,
    },
    /// There is no durable place for a journal, and so for content.
    #[error("nothing can be stored durably here: {why}")]
    NotJournaled {
        /// Why.
        why: String,
    },
    /// The tree below the store failed, or refused.
    #[error(transparent)]
    Root(#[from] crash_recovery::Error),
}

impl Error {
    /// What the system answered to a look at the tree.
    pub(crate) fn os(doing: &'static str, uri: &Uri, source: io::Error) -> Self {
        let path = uri.below_root().to_owned();
        Self::Root(crash_recovery::Error::Os { doing, path, state: TargetState::Unchanged, source })
    }

    /// What the root answered to a change of `uri`.
    pub(crate) fn of_root(error: crash_recovery::Error, uri: &Uri) -> Self {
        let uri = uri.clone();
        match error {
            crash_recovery::Error::NotFound { .. } => Self::NotFound { uri },
            crash_recovery::Error::Exists { .. } => Self::Exists { uri },
            crash_recovery::Error::NotAFile { kind, .. } => Self::NotAnObject { uri, kind },
            crash_recovery::Error::File(file) => match file.cause() {
                // A long object is staged before the names are looked at, and told so.
                Cause::Invalid(Invalid::NotARegularFile(kind)) => Self::NotAnObject { uri, kind: *kind },
                _ => Self::Root(file.into()),
            },
            other => Self::Root(other),
        }
    }

    /// What the root answered to being opened.
    pub(crate) fn of_open(error: crash_recovery::Error) -> Self {
        match error.holder() {
            Some(holder) => Self::Held { holder },
            None => Self::Root(error),
        }
    }

    pub(crate) fn of_dir(error: durable_io::Error) -> Self {
        Self::Root(error.into())
    }

    /// What would remedy it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Uri(_)
            | Self::Config(_)
            | Self::NotAnObject { .. }
            | Self::Staged { .. }
            | Self::OtherApp { .. }
            | Self::LengthDiffers { .. }
            | Self::ListLimit { .. } => Kind::Invalid,
            Self::QuotaExceeded { .. } | Self::TempBudgetExceeded { .. } | Self::TooManyApps { .. } => {
                Kind::NoSpace
            }
            Self::Held { .. } => Kind::Held,
            Self::NotFound { .. } | Self::NotStaged { .. } | Self::NotAStore { .. } => Kind::NotFound,
            Self::Exists { .. } | Self::AlreadyAStore { .. } | Self::NotEmpty { .. } => Kind::Exists,
            Self::NotJournaled { .. } => Kind::Unsupported,
            Self::Root(error) => error.kind(),
        }
    }

    /// What is true of the object it was about.
    #[must_use]
    pub fn state(&self) -> TargetState {
        match self {
            Self::Root(error) => error.state(),
            Self::Uri(_)
            | Self::Config(_)
            | Self::QuotaExceeded { .. }
            | Self::TempBudgetExceeded { .. }
            | Self::TooManyApps { .. }
            | Self::Held { .. }
            | Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::NotAnObject { .. }
            | Self::NotStaged { .. }
            | Self::Staged { .. }
            | Self::OtherApp { .. }
            | Self::LengthDiffers { .. }
            | Self::ListLimit { .. }
            | Self::NotAStore { .. }
            | Self::AlreadyAStore { .. }
            | Self::NotEmpty { .. }
            | Self::NotJournaled { .. } => TargetState::Unchanged,
        }
    }

    /// What a person could do about it, if there is something to say beyond the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Uri(error) => return Some(error.hint()),
            Self::Root(error) => return error.hint(),
            Self::Config(error) => error.hint(),
            Self::QuotaExceeded { .. } => {
                "remove something, or raise the quota; a replace needs room for the new object beside the old one"
            }
            Self::TempBudgetExceeded { .. } => {
                "commit or unlink what is staged, or raise `quota.temp_ratio_pct`"
            }
            Self::TooManyApps { .. } => "remove everything that one of the apps has",
            Self::Held { .. } => "one process has a store open at a time: wait until it is done",
            Self::NotStaged { .. } => {
                "only what `create2` has staged can be written, until it is committed or unlinked"
            }
            Self::NotAStore { .. } => "make one there first",
            Self::NotEmpty { .. } => "choose an empty directory: everything in it will be the store's",
            Self::NotJournaled { .. } => "use a local file system that can sync files and directories",
            Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::NotAnObject { .. }
            | Self::Staged { .. }
            | Self::OtherApp { .. }
            | Self::LengthDiffers { .. }
            | Self::ListLimit { .. }
            | Self::AlreadyAStore { .. } => return None,
        };
        Some(text.to_owned())
    }
}
