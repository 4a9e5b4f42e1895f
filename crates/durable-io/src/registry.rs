//! One write path for a shared file: lock → read → change → durable replace → unlock.

use std::path::Path;

use crate::dir::{Dir, READ_LEN_MAX, read_place};
use crate::error::{Cause, Error, Invalid, Kind, Result, Stage, TargetState};
use crate::lock::LockOptions;
use crate::options::{Parents, Published, Symlinks, WriteOptions};

#[cfg(feature = "json")]
mod typed;
#[cfg(feature = "json")]
pub use typed::{Conflicts, Document, MergeReport, REMOVED_MAX_DEFAULT, Registry, Swap};

/// How often the file may turn into a link to somewhere else while we wait for its lock.
const RELOCATE_MAX: usize = 16;

/// What an update may come out as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EmptyResult {
    /// An empty result is an error: it is more often a crashed program than a wish.
    #[default]
    Refuse,
    /// It empties the file.
    Allow,
}

/// How an update goes about its file.
#[derive(Debug, Clone)]
pub struct UpdateOptions {
    /// The lock.
    pub lock: LockOptions,
    /// The write. `symlinks` is ignored: an update follows them, so that all users of one file share one lock.
    pub write: WriteOptions,
    /// Whether the result may be empty.
    pub empty: EmptyResult,
    /// The most that is read.
    pub len_max: u64,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self {
            lock: LockOptions::default(),
            write: WriteOptions::default(),
            empty: EmptyResult::default(),
            len_max: READ_LEN_MAX,
        }
    }
}

impl Dir {
    /// Changes a file that several processes share: takes its lock, reads it, lets `change` compute the new
    /// content, replaces it durably and releases the lock. A missing file is `None`. Readers need no lock.
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let dir = durable_io::Dir::open(root.path())?;
    /// dir.update("counter", |old| {
    ///     let count: u64 = old.map_or(Ok(0), |bytes| String::from_utf8_lossy(bytes).parse())?;
    ///     Ok::<_, std::num::ParseIntError>((count + 1).to_string().into_bytes())
    /// })?;
    /// assert_eq!(dir.read("counter")?, b"1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Durability
    /// As [`Dir::replace`].
    ///
    /// # Errors
    /// Of the lock ([`Kind::Held`]); of `change` ([`Kind::Declined`], nothing was touched);
    /// [`Invalid::EmptyResult`]; of the replace.
    pub fn update<F, E>(&self, name: impl AsRef<Path>, change: F) -> Result<Published>
    where
        F: FnOnce(Option<&[u8]>) -> std::result::Result<Vec<u8>, E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.update_with(name, &UpdateOptions::default(), change)
    }

    /// As [`Dir::update`], with options.
    ///
    /// # Errors
    /// As [`Dir::update`].
    pub fn update_with<F, E>(
        &self,
        name: impl AsRef<Path>,
        options: &UpdateOptions,
        change: F,
    ) -> Result<Published>
    where
        F: FnOnce(Option<&[u8]>) -> std::result::Result<Vec<u8>, E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let name = name.as_ref();
        let resolve = |parents| self.resolve(name, Symlinks::Follow, parents, options.write.barriers);
        let mut place = resolve(options.write.parents)?;
        for _ in 0..RELOCATE_MAX {
            let lock = self.lock_place(&place, options.lock)?;
            // What was seen before the lock is old by now, and the name may even lead elsewhere.
            let now = resolve(Parents::MustExist)?;
            if now.path != place.path {
                lock.unlock()?;
                place = now;
                continue;
            }
            let created_parents = place.durability;
            let mut place = now;
            place.durability = created_parents;
            let old = match read_place(&place, options.len_max) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == Kind::NotFound => None,
                Err(error) => return Err(error),
            };
            let path = place.path.clone();
            let new = change(old.as_deref()).map_err(|error| {
                Error::new(Stage::Decide, TargetState::Unchanged, &path, Cause::Declined(error.into()))
            })?;
            drop(old);
            if new.is_empty() && options.empty == EmptyResult::Refuse {
                let cause = Cause::Invalid(Invalid::EmptyResult);
                return Err(Error::new(Stage::Decide, TargetState::Unchanged, path, cause));
            }
            let published = self.replace_at(place, &new, &options.write)?;
            // A lock that was no longer ours means that somebody else may have written at the same time.
            lock.unlock().map_err(|error| error.in_state(TargetState::Unknown))?;
            return Ok(published);
        }
        Err(Error::new(Stage::Lock, TargetState::Unchanged, place.path, Cause::Changed))
    }
}
