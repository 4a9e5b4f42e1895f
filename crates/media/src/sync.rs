//! Synchronisation between threads, for every crate that shares something: locks, condition variables, atomics and threads.
//!
//! The types are those of `std`. Compiled with `--cfg shuttle` they are those of [shuttle](https://docs.rs/shuttle), which
//! decides at each of their calls which thread goes on, so that a test can explore the orders in which threads run
//! (`tests/schedules`). It is a `cfg` and not a feature, because a feature that one crate of a build turns on is turned on for
//! all of them.
//!
//! What shuttle demands of the code that uses this module:
//! - time enters as a value. `Condvar::wait_timeout` and `thread::park_timeout` never time out there, so code that has to be
//!   explored must not depend on them.
//! - nothing is shared through a `static`, because a run must not see what an earlier one left. `OnceLock` and `LazyLock` are
//!   not part of this module for the same reason.
//! - no lock of `std` is held across a call of this module.

#[cfg(not(shuttle))]
pub use std::sync::{
    Arc, Barrier, Condvar, LockResult, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
    RwLockWriteGuard, TryLockError, Weak, atomic,
};
#[cfg(not(shuttle))]
pub use std::thread;

#[cfg(shuttle)]
pub use shuttle::sync::{
    Arc, Barrier, Condvar, LockResult, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
    RwLockWriteGuard, TryLockError, Weak, atomic,
};
#[cfg(shuttle)]
pub use shuttle::thread;
