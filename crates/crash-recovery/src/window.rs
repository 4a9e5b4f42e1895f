//! [`Window`]: what is committed and in place, and has not had its own barriers yet.
//!
//! A change that rode in the journal is durable there. Its file is synced later, in bulk, on the descriptor that wrote it: one
//! that was opened again may not be told of a failed writeback. So the descriptors stay open until then.
//!
//! Invariants
//! - no more descriptors are open for files of this window than twice its changes: whoever is going to open some has reserved
//!   places for them before.
//! - what is released is complete: every change up to that number is in place, its file synced or replaced by a later one, and
//!   its directories synced after that.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use media::{File, SyncPool};

use crate::error::{Error, Result};
use crate::path::TreePath;
use crate::record::Number;
use crate::tree::{Changed, Folder};

/// How much may wait for its barriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowLimits {
    /// Changes, each of which may hold a descriptor, before a checkpoint is due; from 1 to 128. As many again may come while
    /// it runs.
    pub changes: usize,
    /// Bytes of payload, which stay in the journal until then.
    pub bytes: usize,
    /// On how many threads they are synced.
    pub threads: usize,
}

/// The most changes of a window.
const CHANGES_MAX: usize = 128;

impl Default for WindowLimits {
    fn default() -> Self {
        Self { changes: CHANGES_MAX, bytes: 4 << 20, threads: 32 }
    }
}

/// One change that is in place.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) number: Number,
    pub(crate) path: TreePath,
    /// The descriptor that wrote the file, where that has not been synced.
    pub(crate) file: Option<Arc<dyn File>>,
    /// Where names have changed.
    pub(crate) folders: Vec<Folder>,
    pub(crate) bytes: usize,
}

/// What waits.
#[derive(Debug)]
pub(crate) struct Window {
    limits: WindowLimits,
    waiting: Mutex<Waiting>,
    /// Told when a checkpoint has ended, and when changes were added or places given back.
    news: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<Change>,
    bytes: usize,
    /// Descriptors that are open, or may be.
    places: usize,
    is_checkpointing: bool,
    /// The newest change of each name that waits.
    newest: BTreeMap<TreePath, Number>,
}

/// Places for descriptors.
#[derive(Debug)]
pub(crate) struct Places<'w> {
    window: &'w Window,
    count: usize,
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            self.window.lock().places -= self.count;
            self.window.news.notify_all();
        }
    }
}

impl Window {
    pub(crate) fn new(limits: WindowLimits) -> Self {
        let changes = limits.changes.clamp(1, CHANGES_MAX);
        Self { limits: WindowLimits { changes, ..limits }, waiting: Mutex::default(), news: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many payloads one transaction may have.
    pub(crate) fn payloads_max(&self) -> usize {
        self.limits.changes
    }

    /// Takes places for as many descriptors, waiting until there are. `None`: a checkpoint has to make them first, and nobody
    /// carries one out.
    pub(crate) fn reserve(&self, count: usize) -> Option<Places<'_>> {
        let mut waiting = self.lock();
        loop {
            // One transaction never needs more than there are.
            if waiting.places + count <= 2 * self.limits.changes.max(count) {
                waiting.places += count;
                return Some(Places { window: self, count });
            }
            if !waiting.is_checkpointing && !waiting.changes.is_empty() {
                return None;
            }
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds what has just been put in place. The places of its descriptors go over to it.
    pub(crate) fn add(&self, changes: Vec<Change>, places: &mut Places<'_>) {
        let mut waiting = self.lock();
        for change in changes {
            places.count -= usize::from(change.file.is_some()).min(places.count);
            waiting.bytes += change.bytes;
            let newest = waiting.newest.entry(change.path.clone()).or_insert(change.number);
            *newest = change.number.max(*newest);
            waiting.changes.push(change);
        }
        drop(waiting);
        self.news.notify_all();
    }

    /// Whether a checkpoint is due, and nobody carries one out. Where one runs and the next is overdue, this waits.
    pub(crate) fn is_due(&self) -> bool {
        let mut waiting = self.lock();
        loop {
            let fill = |times: usize| {
                waiting.changes.len() >= self.limits.changes * times
                    || waiting.bytes >= self.limits.bytes * times
            };
            match (fill(1), fill(2), waiting.is_checkpointing) {
                (false, ..) | (true, false, true) => return false,
                (true, _, false) => return true,
                (true, true, true) => {
                    waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The descriptor that wrote what has this name now, if it has not been synced.
    pub(crate) fn unsynced(&self, path: &TreePath) -> Option<Arc<dyn File>> {
        let waiting = self.lock();
        let newest = *waiting.newest.get(path)?;
        let is_it = |change: &&Change| change.number == newest && change.path == *path;
        waiting.changes.iter().find(is_it).and_then(|change| change.file.clone())
    }

    /// Gives every change its barriers: files first, then directories. Up to which number everything is complete.
    ///
    /// `in_place_up_to` tells up to which number every change is in place.
    ///
    /// # Errors
    /// Of a barrier. The changes stay safe in the journal; what they are on the medium is unknown.
    pub(crate) fn checkpoint(
        &self,
        pool: &dyn SyncPool,
        in_place_up_to: &dyn Fn() -> Number,
    ) -> Result<Number> {
        let mut waiting = self.lock();
        while waiting.is_checkpointing {
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_checkpointing = true;
        // Asked for under the lock: whoever is in place has been added, or is not counted as in place yet.
        let up_to = in_place_up_to();
        let (taken, left): (Vec<Change>, Vec<Change>) =
            waiting.changes.drain(..).partition(|change| change.number <= up_to);
        waiting.changes = left;
        waiting.bytes = waiting.changes.iter().map(|change| change.bytes).sum();
        let files: Vec<&Change> =
            taken.iter().filter(|change| waiting.newest.get(&change.path) == Some(&change.number)).collect();
        drop(waiting);
        let outcome = self.pay(&taken, &files, pool);
        let mut waiting = self.lock();
        for change in taken {
            waiting.places -= usize::from(change.file.is_some()).min(waiting.places);
            if waiting.newest.get(&change.path) == Some(&change.number) {
                waiting.newest.remove(&change.path);
            }
        }
        waiting.is_checkpointing = false;
        self.news.notify_all();
        outcome.map(|()| up_to)
    }

    /// The barriers themselves. A file that was replaced or removed again needs none: what came after it is either complete
    /// with it, or stays in the journal.
    fn pay(&self, taken: &[Change], files: &[&Change], pool: &dyn SyncPool) -> Result<()> {
        let to_sync: Vec<(&Change, &Arc<dyn File>)> =
            files.iter().filter_map(|change| Some((*change, change.file.as_ref()?))).collect();
        sync_files(pool, self.limits.threads, &to_sync)?;
        let mut changed = Changed::default();
        for folder in taken.iter().flat_map(|change| &change.folders) {
            changed.add(folder);
        }
        changed.sync()
    }
}

/// Syncs many files on many threads.
fn sync_files(pool: &dyn SyncPool, threads: usize, files: &[(&Change, &Arc<dyn File>)]) -> Result<()> {
    let failed = Mutex::new(None);
    pool.run(threads.max(1), files.len(), &|index| {
        let Some((change, file)) = files.get(index) else { return };
        match file.sync_all() {
            Ok(()) => file.mark("after_fsync"),
            Err(e) => {
                let error = Error::os("syncing", change.path.as_str(), e);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
