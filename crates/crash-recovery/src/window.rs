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

use media::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, caught};
use media::{File, SyncPool};

use crate::error::{Error, Result};
use crate::path::TreePath;
use crate::record::Number;
use crate::tree::{Changed, Folder, start_writeback};

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

/// When a checkpoint is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Now, after one that runs: it may have begun too early.
    Now,
    /// If it is time. Where one runs it is left to that, and where the next is overdue, this waits.
    Due,
    /// To make places: one that runs is waited for instead.
    Crowded,
}

/// The most changes of a window.
const CHANGES_MAX: usize = 128;

impl Default for WindowLimits {
    fn default() -> Self {
        Self { changes: CHANGES_MAX, bytes: 4 << 20, threads: 12 }
    }
}

/// Whether the system was asked to begin writing a file.
///
/// Where many put side by side it is asked at once: the checkpoint, which all of them wait for, is four times shorter by it
/// (XFS). Who puts alone would pay for it without having anything to do meanwhile, and his commit would wait for those bytes
/// too: he asks for all of them when the checkpoint begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Writeback {
    Begun,
    #[default]
    Left,
}

/// One change that is in place.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) number: Number,
    pub(crate) path: TreePath,
    /// The descriptor that wrote the file, where that has not been synced.
    pub(crate) file: Option<Arc<dyn File>>,
    pub(crate) writeback: Writeback,
    /// Where names have changed.
    pub(crate) folders: Vec<Folder>,
    pub(crate) bytes: usize,
}

/// What waits.
#[derive(Debug)]
pub(crate) struct Window {
    limits: WindowLimits,
    waiting: Mutex<Waiting>,
    /// Told when a checkpoint has ended, and, while none runs, when changes were added or places given back.
    news: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<Change>,
    bytes: usize,
    /// Descriptors that are open, or may be.
    places: usize,
    is_checkpointing: bool,
    /// Why a checkpoint has failed. What it was to make complete may never be, so none behind it may say that it is.
    failed: Option<String>,
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
        let is_checkpointing = waiting.is_checkpointing;
        drop(waiting);
        // Whoever waits now waits for the end of the checkpoint: waking all of them for each change, only for them to wait
        // again, would cost more than the change.
        if !is_checkpointing {
            self.news.notify_all();
        }
    }

    /// Whether so many windows are full.
    fn is_full(&self, waiting: &Waiting, times: usize) -> bool {
        waiting.changes.len() >= self.limits.changes.saturating_mul(times)
            || waiting.bytes >= self.limits.bytes.saturating_mul(times)
    }

    /// Waits until nobody carries out a checkpoint, and decides whether there is one to carry out.
    fn begin(&self, when: When) -> Result<Option<MutexGuard<'_, Waiting>>> {
        let mut waiting = self.lock();
        let mut has_waited = false;
        loop {
            if let Some(first) = &waiting.failed {
                return Err(Error::Poisoned { first: first.clone() });
            }
            let is_wanted = match when {
                When::Now => true,
                When::Due => self.is_full(&waiting, 1),
                // The one that was waited for has made places.
                When::Crowded => !has_waited,
            };
            let is_left_to_it = when == When::Due && waiting.is_checkpointing && !self.is_full(&waiting, 2);
            if !is_wanted || is_left_to_it {
                return Ok(None);
            }
            if !waiting.is_checkpointing {
                waiting.is_checkpointing = true;
                return Ok(Some(waiting));
            }
            has_waited = true;
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The descriptor that wrote what has this name now, if it has not been synced.
    pub(crate) fn unsynced(&self, path: &TreePath) -> Option<Arc<dyn File>> {
        let waiting = self.lock();
        let newest = *waiting.newest.get(path)?;
        let is_it = |change: &&Change| change.number == newest && change.path == *path;
        waiting.changes.iter().find(is_it).and_then(|change| change.file.clone())
    }

    /// Gives every change its barriers: files first, then directories. Up to which number everything is complete; `None` if
    /// there was nothing to do.
    ///
    /// `in_place_up_to` tells up to which number every change is in place. Those behind it that are in place get their barriers
    /// with the others, and are complete when the ones in front of them are: one thread that is slow does not make the
    /// checkpoints of all others small.
    ///
    /// # Errors
    /// Of a barrier, and for every checkpoint behind it. The changes stay safe in the journal; what they are on the medium is
    /// unknown.
    pub(crate) fn checkpoint(
        &self,
        when: When,
        pool: &dyn SyncPool,
        in_place_up_to: &dyn Fn() -> Number,
    ) -> Result<Option<Number>> {
        let Some(mut waiting) = self.begin(when)? else { return Ok(None) };
        // Asked for under the lock: whoever is in place has been added, or is not counted as in place yet.
        let up_to = in_place_up_to();
        let taken = std::mem::take(&mut waiting.changes);
        waiting.bytes = 0;
        let files: Vec<&Change> =
            taken.iter().filter(|change| waiting.newest.get(&change.path) == Some(&change.number)).collect();
        drop(waiting);
        let paid = caught(|| self.pay(&taken, &files, pool));
        let mut waiting = self.lock();
        for change in taken {
            waiting.places -= usize::from(change.file.is_some()).min(waiting.places);
            if waiting.newest.get(&change.path) == Some(&change.number) {
                waiting.newest.remove(&change.path);
            }
        }
        waiting.is_checkpointing = false;
        waiting.failed = match &paid {
            Ok(outcome) => outcome.as_ref().err().map(Error::to_string),
            Err(_) => Some("a thread panicked while it synced".to_owned()),
        };
        self.news.notify_all();
        drop(waiting);
        match paid {
            Ok(outcome) => outcome.map(|()| Some(up_to)),
            Err(panic) => panic.resume(),
        }
    }

    /// The barriers themselves. A file that was replaced or removed again needs none: what came after it gets its own here, or
    /// stays in the journal.
    fn pay(&self, taken: &[Change], files: &[&Change], pool: &dyn SyncPool) -> Result<()> {
        let to_sync: Vec<(&Change, &Arc<dyn File>)> =
            files.iter().filter_map(|change| Some((*change, change.file.as_ref()?))).collect();
        for (change, file) in to_sync.iter().filter(|(change, _)| change.writeback == Writeback::Left) {
            start_writeback(&***file, change.bytes);
        }
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

#[cfg(test)]
mod tests;
