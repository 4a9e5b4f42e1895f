//! What bytes are written to: two narrow seams, [`BlockDevice`] and [`Fs`]/[`Dir`]/[`File`], each with a
//! contract that says what a power cut may leave behind.
//!
//! Everything above writes through these traits and nothing else, so a recorder, a fault injector or a
//! simulator can stand in for the real medium without the code above knowing. The doc comment of each method
//! *is* the contract: an implementation may do everything the text allows, and a caller may count on nothing
//! that it does not say.
//!
//! With `default-features = false` the crate is `no_std` (plus `alloc`) and holds the block seam and
//! [`MemDisk`]. Feature `std` adds the file seam, [`FileDisk`] and the environment ([`Env`]). Feature `testing`
//! adds [`conformance`], the suites that every implementation passes, and [`doubles`], which record calls or
//! fail a chosen one. Feature `conformance` alone adds the suite of the block seam, without `std` too.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod block;
#[cfg(feature = "std")]
mod env;
#[cfg(feature = "std")]
mod fs;
#[cfg(feature = "std")]
pub mod sync;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod doubles;

pub use block::{
    BlockDevice, BlockIndex, DeviceCause, DeviceError, DeviceErrorKind, DeviceOp, Geometry, MemDisk,
};
#[cfg(feature = "std")]
pub use block::{
    BlockSize, CreateStep, DiskMode, FileDisk, FileDiskError, Holder, Leftover, Probe, ProbeError, ReadAt,
};
#[cfg(feature = "std")]
pub use env::{
    Clock, Entropy, Env, HostIdentity, Liveness, OsHost, OsPool, ProcessIdentity, Shared, SyncPool,
    SystemClock, SystemEntropy,
};
#[cfg(feature = "std")]
pub use fs::{
    Access, Alignment, Dir, DiskAlias, DiskFacts, DiskMedium, Entry, File, FileId, FileKind, Fs, LockWait,
    Metadata, Mode, MountFacts, NAME_LEN_MAX, OsFs, Owner, Reason, RenameMode, Timestamp, describe_mount,
    single_component, write_all_at,
};
