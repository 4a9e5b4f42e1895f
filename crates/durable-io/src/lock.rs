//! Locks.
use std::path::Path;
use std::time::Duration;

use crate::dir::Dir;
use crate::error::Result;

/// Who holds a lock, as far as the lock file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder;

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another process")
    }
}

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    DoNotWait,
    /// At most this long.
    UpTo(Duration),
}

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock;

impl Lock {
    /// Releases the lock.
    ///
    /// # Errors
    /// Of the system.
    pub fn unlock(self) -> Result<()> {
        Ok(())
    }
}

impl Dir {
    /// Takes the lock of `name` (`<name>.lock` beside it).
    ///
    /// # Errors
    /// Held.
    pub fn lock(&self, _name: impl AsRef<Path>, _wait: Wait) -> Result<Lock> {
        Ok(Lock)
    }
}
