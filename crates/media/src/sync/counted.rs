//! The locks of shuttle, counted: each task knows how many guards it holds. A device double asks [`locks_held`] and fails the
//! run if its caller holds one.
//!
//! A type implements what this workspace uses of the type of `std` with the same name.

use core::cell::Cell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::time::Duration;
use std::cell::RefCell;
use std::sync::Arc;

use shuttle::sync::{LockResult, PoisonError, TryLockError};

shuttle::thread_local! {
    static HELD: Cell<usize> = Cell::new(0);
}

/// Returns how many guards of [`Mutex`] and [`RwLock`] the current task holds.
#[must_use]
pub fn locks_held() -> usize {
    // A task that is being torn down has no count any more; nobody asks then.
    HELD.try_with(Cell::get).unwrap_or(0)
}

thread_local! {
    /// The condition variables that are waited for with a time limit, in the run that this thread carries out.
    static TIME: RefCell<Time> = const { RefCell::new(Time { is_up: false, waiting: Vec::new() }) };
}

struct Time {
    is_up: bool,
    waiting: Vec<Arc<shuttle::sync::Condvar>>,
}

/// Begins a run: no time limit has passed.
pub fn begin_run() {
    TIME.set(Time { is_up: false, waiting: Vec::new() });
}

/// Lets every time limit pass, from now on and in this run: threads that wait with one are woken, and a wait that begins later ends
/// at once. Set the clock that the code reads first.
pub fn time_is_up() {
    let waiting = TIME.with_borrow_mut(|time| {
        time.is_up = true;
        std::mem::take(&mut time.waiting)
    });
    waiting.iter().for_each(|condvar| condvar.notify_all());
}

fn is_time_up() -> bool {
    TIME.with_borrow(|time| time.is_up)
}

/// One guard that is held.
struct Count;

impl Count {
    fn one() -> Self {
        HELD.try_with(|held| held.set(held.get() + 1)).unwrap_or_default();
        Self
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        HELD.try_with(|held| held.set(held.get().saturating_sub(1))).unwrap_or_default();
    }
}

fn mapped<G, H>(taken: LockResult<G>, wrap: impl FnOnce(G) -> H) -> LockResult<H> {
    match taken {
        Ok(guard) => Ok(wrap(guard)),
        Err(poisoned) => Err(PoisonError::new(wrap(poisoned.into_inner()))),
    }
}

fn try_mapped<G, H>(
    taken: Result<G, TryLockError<G>>,
    wrap: impl FnOnce(G) -> H,
) -> Result<H, TryLockError<H>> {
    match taken {
        Ok(guard) => Ok(wrap(guard)),
        Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        Err(TryLockError::Poisoned(poisoned)) => {
            Err(TryLockError::Poisoned(PoisonError::new(wrap(poisoned.into_inner()))))
        }
    }
}

/// A guard type over one of shuttle. The fields are dropped in order: the lock is released, then the count falls.
macro_rules! guard {
    ($(#[$what:meta])* $name:ident of $inner:ident $(, $mutable:tt)?) => {
        $(#[$what])*
        pub struct $name<'l, T: ?Sized> {
            inner: shuttle::sync::$inner<'l, T>,
            _count: Count,
        }

        impl<'l, T: ?Sized> $name<'l, T> {
            fn over(inner: shuttle::sync::$inner<'l, T>) -> Self {
                Self { inner, _count: Count::one() }
            }
        }

        impl<T: ?Sized> Deref for $name<'_, T> {
            type Target = T;
            fn deref(&self) -> &T {
                &self.inner
            }
        }

        $(impl<T: ?Sized> DerefMut for $name<'_, T> {
            fn deref_mut(&$mutable self) -> &mut T {
                &mut self.inner
            }
        })?

        impl<T: ?Sized + fmt::Debug> fmt::Debug for $name<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }
    };
}

guard! {
    /// The guard of a [`Mutex`].
    MutexGuard of MutexGuard, mut
}
guard! {
    /// The guard of a reader of an [`RwLock`].
    RwLockReadGuard of RwLockReadGuard
}
guard! {
    /// The guard of the writer of an [`RwLock`].
    RwLockWriteGuard of RwLockWriteGuard, mut
}

/// A mutex whose guards are counted.
#[derive(Default)]
pub struct Mutex<T: ?Sized> {
    inner: shuttle::sync::Mutex<T>,
}

impl<T> Mutex<T> {
    /// A mutex that nobody holds.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self { inner: shuttle::sync::Mutex::new(value) }
    }

    /// Returns the value.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn into_inner(self) -> LockResult<T> {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock and takes it.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        mapped(self.inner.lock(), MutexGuard::over)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// It is held, or a thread panicked while it held it.
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, TryLockError<MutexGuard<'_, T>>> {
        try_mapped(self.inner.try_lock(), MutexGuard::over)
    }

    /// Returns the value of a mutex that this thread alone can reach.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.inner.get_mut()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A lock for many readers or one writer whose guards are counted.
#[derive(Default)]
pub struct RwLock<T: ?Sized> {
    inner: shuttle::sync::RwLock<T>,
}

impl<T> RwLock<T> {
    /// A lock that nobody holds.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self { inner: shuttle::sync::RwLock::new(value) }
    }

    /// Returns the value.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn into_inner(self) -> LockResult<T> {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits for the lock and takes it for reading.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        mapped(self.inner.read(), RwLockReadGuard::over)
    }

    /// Waits for the lock and takes it for writing.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        mapped(self.inner.write(), RwLockWriteGuard::over)
    }

    /// Takes the lock for reading if no writer holds it.
    ///
    /// # Errors
    /// It is held, or a thread panicked while it held it.
    pub fn try_read(&self) -> Result<RwLockReadGuard<'_, T>, TryLockError<RwLockReadGuard<'_, T>>> {
        try_mapped(self.inner.try_read(), RwLockReadGuard::over)
    }

    /// Takes the lock for writing if it is free.
    ///
    /// # Errors
    /// It is held, or a thread panicked while it held it.
    pub fn try_write(&self) -> Result<RwLockWriteGuard<'_, T>, TryLockError<RwLockWriteGuard<'_, T>>> {
        try_mapped(self.inner.try_write(), RwLockWriteGuard::over)
    }

    /// Returns the value of a lock that this thread alone can reach.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.inner.get_mut()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// The condition variable of [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar {
    inner: Arc<shuttle::sync::Condvar>,
}

impl Condvar {
    /// A condition variable that nobody waits for.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Releases the lock, waits to be told, and takes the lock again.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn wait<'l, T>(&self, guard: MutexGuard<'l, T>) -> LockResult<MutexGuard<'l, T>> {
        let MutexGuard { inner, _count } = guard;
        drop(_count);
        mapped(self.inner.wait(inner), MutexGuard::over)
    }

    /// Waits while the condition holds.
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn wait_while<'l, T>(
        &self,
        mut guard: MutexGuard<'l, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'l, T>> {
        while condition(&mut *guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`Condvar::wait`]. Under shuttle no time passes: it times out when [`time_is_up`].
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn wait_timeout<'l, T>(
        &self,
        guard: MutexGuard<'l, T>,
        _how_long: Duration,
    ) -> LockResult<(MutexGuard<'l, T>, WaitTimeoutResult)> {
        if is_time_up() {
            return Ok((guard, WaitTimeoutResult(true)));
        }
        TIME.with_borrow_mut(|time| time.waiting.push(Arc::clone(&self.inner)));
        let waited = self.wait(guard);
        TIME.with_borrow_mut(|time| {
            let place = time.waiting.iter().position(|condvar| Arc::ptr_eq(condvar, &self.inner));
            place.map(|place| time.waiting.swap_remove(place))
        });
        mapped(waited, |guard| (guard, WaitTimeoutResult(is_time_up())))
    }

    /// As [`Condvar::wait_while`]. Under shuttle no time passes: it times out when [`time_is_up`].
    ///
    /// # Errors
    /// A thread panicked while it held the lock.
    pub fn wait_timeout_while<'l, T>(
        &self,
        mut guard: MutexGuard<'l, T>,
        how_long: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'l, T>, WaitTimeoutResult)> {
        while condition(&mut *guard) {
            let (next, outcome) = self.wait_timeout(guard, how_long)?;
            guard = next;
            if outcome.timed_out() {
                let timed_out = condition(&mut *guard);
                return Ok((guard, WaitTimeoutResult(timed_out)));
            }
        }
        Ok((guard, WaitTimeoutResult(false)))
    }

    /// Wakes one thread that waits.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes all threads that wait.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}

/// Whether a wait has timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it has.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}
