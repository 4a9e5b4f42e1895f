//! Changes of several files, all or nothing, through a journal of intents; and the recovery that finishes them.
//!
//! A [`Root`] is a directory tree. A [`Transaction`] replaces, creates, removes and renames files in it: after any crash, and
//! the recovery that [`Root::open`] is, all of them are new or all are old.
//!
//! ```text
//!              staged files        journal             names
//!   stage      written, synced
//!              dir-synced
//!   commit                         commit ══           the commit point: from here on it will be so
//!   place                                              renamed
//!   complete                       done                dir-synced
//! ```
//!
//! In a tree of our own ([`Ownership::Owned`]) small payloads ride in the commit record itself: one flush of the journal makes
//! the change durable, and the file is written and renamed without barriers, which are paid later, for many at a time, before
//! the journal space is used again. Many threads share one flush.
//!
//! Recovery folds everything that was committed and is not known to be complete into one final operation per name before it
//! touches anything, so that later work that was acknowledged is never undone. It is idempotent, and deterministic.
//!
//! ```
//! # let home = tempfile::tempdir()?;
//! use crash_recovery::{Root, RootOptions, TreePath};
//! use media::{Env, OsFs};
//!
//! let (root, recovery) = Root::open(OsFs::shared(), home.path(), Env::os(), RootOptions::shared())?;
//! assert_eq!(recovery.to_string(), "recovery sweep orphans=0 finalized=0");
//!
//! let mut transaction = root.transaction();
//! transaction.replace(&TreePath::parse("config.json")?, b"{}")?;
//! transaction.replace(&TreePath::parse("schema.json")?, b"{}")?;
//! transaction.commit()?;                               // both, or neither
//! root.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod fold;
mod ledger;
mod names;
#[cfg(shuttle)]
#[doc(hidden)]
pub mod parts;
mod path;
mod record;
mod recover;
mod root;
mod staged;
mod sweep;
mod transaction;
mod tree;
mod window;

pub use error::{Error, Result};
pub use path::{COMPONENTS_MAX, PATH_LEN_MAX, PathError, STAGED_SUFFIX, TreePath};
pub use recover::{Conflict, Recovery};
pub use root::{FastPath, Journaling, ORPHAN_AGE_DEFAULT, Ownership, Root, RootOptions, Stats};
pub use staged::{STAGED_OPEN_MAX, StagedFile};
pub use transaction::{Committed, OPERATIONS_MAX, Publish, Transaction, TransactionFailure};
pub use window::WindowLimits;
