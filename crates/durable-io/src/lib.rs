//! One file, a lock, a registry, a log, many files: **atomic**, **durable**, and typed about both.
//!
//! *Atomic* means all or nothing, as a reader or a recovery sees it. *Durable* means that it survives a power
//! cut. A rename without syncs is atomic and not durable; an fsync in place is durable and not atomic. A
//! [`Dir::replace`] is both, and its result says so.
//!
//! ```
//! # let root = tempfile::tempdir()?;
//! use durable_io::{Dir, Publish};
//!
//! let dir = Dir::open(root.path())?;
//! dir.replace("config.json", b"{}")?;                   // the whole chain
//!
//! let mut staged = dir.stage("big.bin")?;               // hidden, not durable
//! staged.write_all(b"as much as you like")?;
//! staged.seal()?                                        // bytes durable: Staged -> Sealed
//!       .publish(Publish::Replace)?;                    // named, name durable
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Every [`Error`] carries four facts: the stage, the state of the target, the kind (by remedy) and whether to
//! retry. Which barrier protects what, and what no barrier does, is in `docs/write-path.md`.

mod acl;
mod attributes;
mod bulk;
mod dir;
mod error;
mod in_place;
mod lock;
mod log;
mod name;
mod options;
mod registry;
mod staged;
mod sweep;

pub use bulk::{
    Bulk, BulkFile, BulkOptions, BulkPhase, BulkProgress, BulkReport, BulkSync, FilePublished, FileResult,
    HiddenNames, OnFailure, SealedFile,
};
pub use dir::{Dir, READ_LEN_MAX};
pub use error::{Cause, Error, Invalid, Kind, Leftover, Result, Retry, Stage, TargetState};
pub use lock::{
    Holder, LOCK_AGE_COMMON, LOCK_WAIT_DEFAULT, Lock, LockKind, LockOptions, NetworkLocks, Stale, Wait,
};
pub use log::{
    Appended, CheckedTail, DAMAGED_LINES_MAX, DamagedLine, Flaw, Log, LogCheck, LogOptions, LogRecovery,
    LogSync, Reached, Tail, Writers,
};
pub use name::TXN_PREFIX;
pub use options::{
    Barriers, Change, Durability, HardLinks, Keep, Parents, Published, RenameRefused, Stamp, Symlinks,
    Unchanged, WriteOptions,
};
#[cfg(feature = "json")]
pub use registry::{Conflicts, Document, MergeReport, REMOVED_MAX_DEFAULT, Registry, Swap};
pub use registry::{EmptyResult, UpdateOptions};
pub use staged::{Publish, PublishFailure, Sealed, Staged};
pub use sweep::{Kept, SWEEP_DEPTH_MAX, SweepOptions, SweepReport, WhyKept};

pub use media::{Env, Mode, Reason, RenameMode};
