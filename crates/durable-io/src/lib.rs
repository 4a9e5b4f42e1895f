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
mod dir;
mod error;
mod in_place;
mod lock;
mod name;
mod options;
mod staged;

pub use dir::{Dir, READ_LEN_MAX};
pub use error::{Cause, Error, Invalid, Kind, Leftover, Result, Retry, Stage, TargetState};
pub use lock::{Holder, Lock, Wait};
pub use options::{
    Barriers, Change, Durability, HardLinks, Keep, Parents, Published, RenameRefused, Stamp, Symlinks,
    Unchanged, WriteOptions,
};
pub use staged::{Publish, PublishFailure, Sealed, Staged};

pub use media::{Env, Mode, Reason, RenameMode};
