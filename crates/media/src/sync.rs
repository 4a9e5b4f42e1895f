//! Synchronisation between threads, for every crate that shares something: locks, condition variables, atomics and threads.
//!
//! The types are those of `std`. Compiled with `--cfg shuttle` they are those of [shuttle](https://docs.rs/shuttle), which
//! decides at each of their calls which thread goes on, so that a test can explore the orders in which threads run
//! (`tests/schedules`). It is a `cfg` and not a feature, because a feature that one crate of a build turns on is turned on for
//! all of them.
//!
//! What shuttle demands of the code that uses this module:
//! - time enters as a value. There, `Condvar::wait_timeout` times out when the scenario says that the time is up
//!   (`time_is_up`), and `thread::park_timeout` never does.
//! - nothing is shared through a `static`, because a run must not see what an earlier one left. `OnceLock` and `LazyLock` are
//!   not part of this module for the same reason.
//! - no lock of `std` is held across a call of this module.
//! - no `Drop` asks whether its thread is panicking: there a panic of one task shows in all of them. Foreign code (a device, a
//!   clock, a callback) is called through [`caught`], which returns its panic as a value.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

#[cfg(not(shuttle))]
pub use std::sync::{
    Arc, Barrier, Condvar, LockResult, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
    RwLockWriteGuard, TryLockError, Weak, atomic,
};
#[cfg(not(shuttle))]
pub use std::thread;

#[cfg(shuttle)]
mod counted;
#[cfg(shuttle)]
pub use counted::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult, begin_run,
    locks_held, time_is_up,
};
#[cfg(shuttle)]
pub use shuttle::sync::{Arc, Barrier, LockResult, PoisonError, TryLockError, Weak, atomic};
#[cfg(shuttle)]
pub use shuttle::thread;

/// The panic of foreign code, on its way to the caller.
#[must_use = "a panic that is dropped is lost"]
pub struct Panicked(Box<dyn Any + Send>);

impl std::fmt::Debug for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Panicked")
    }
}

impl Panicked {
    /// Goes on panicking. Call it when everything that other threads wait for has been passed on.
    pub fn resume(self) -> ! {
        resume_unwind(self.0)
    }
}

/// Calls foreign code and returns its panic, so that the caller can pass on what other threads wait for.
///
/// Hold no lock during the call, and believe nothing that the code may have left half changed.
///
/// # Errors
/// The panic.
pub fn caught<T>(foreign: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(foreign)).map_err(Panicked)
}

/// Starts a thread with a name in a scope. Returns whether the system has given one.
#[cfg(not(shuttle))]
pub fn spawn_in<'s>(scope: &'s thread::Scope<'s, '_>, name: &str, work: impl FnOnce() + Send + 's) -> bool {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).is_ok()
}

/// The same. The threads of shuttle's scopes have no names.
#[cfg(shuttle)]
pub fn spawn_in<'s>(scope: &'s thread::Scope<'s, '_>, _name: &str, work: impl FnOnce() + Send + 's) -> bool {
    drop(scope.spawn(work));
    true
}
