//! The threads of one process, in order of arrival, before the lock of the system is asked for.
//!
//! Kernel locks belong to open files, not to threads, and the waiting ones of a process would each need a thread
//! in the kernel; so one thread at a time goes to the system, and the others wait here.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use media::FileId;

use super::kernel::Waiter;
use super::{Request, Wait, body};
use crate::error::{Cause, Error, Invalid, Result, Stage, TargetState};

/// A lock file, whatever path led to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Id(FileId, OsString),
    /// Where the platform does not identify directories.
    Path(PathBuf),
}

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    holder: Option<ThreadId>,
    /// Tickets of those who wait, first come first.
    waiting: VecDeque<u64>,
    next_ticket: u64,
    /// A thread that still waits in the kernel for somebody who gave up.
    waiter: Option<Arc<Waiter>>,
}

static SLOTS: Mutex<BTreeMap<Key, Arc<Slot>>> = Mutex::new(BTreeMap::new());

fn slots() -> MutexGuard<'static, BTreeMap<Key, Arc<Slot>>> {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one thread to ask the system for the lock. The next in line gets it when this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    key: Key,
    slot: Arc<Slot>,
}

impl Permit {
    /// The thread left in the kernel by an earlier wait that timed out, if any.
    pub(super) fn take_waiter(&self) -> Option<Arc<Waiter>> {
        self.slot.state().waiter.take()
    }

    pub(super) fn leave_waiter(&self, waiter: Arc<Waiter>) {
        self.slot.state().waiter = Some(waiter);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.slot.state();
            state.holder = None;
            if state.waiter.as_ref().is_some_and(|waiter| waiter.is_done()) {
                state.waiter = None;
            }
        }
        self.slot.changed.notify_all();
        forget_if_idle(&self.key);
    }
}

/// Drops what nobody uses: held only by the table and by the caller's own reference at most.
fn forget_if_idle(key: &Key) {
    let mut slots = slots();
    let idle = slots.get(key).is_some_and(|slot| {
        let state = slot.state();
        state.holder.is_none() && state.waiting.is_empty() && state.waiter.is_none()
    });
    if idle {
        slots.remove(key);
    }
}

/// Waits for this thread's turn.
pub(super) fn enter(request: &Request<'_>) -> Result<Permit> {
    let key = match request.at.dir_metadata().map_err(|e| request.failed(e))?.id {
        Some(id) => Key::Id(id, request.name.clone()),
        None => Key::Path(request.path.clone()),
    };
    let me = std::thread::current().id();
    // The table is locked while the ticket is drawn, so that the slot cannot be forgotten in between.
    let (slot, ticket) = {
        let mut slots = slots();
        let slot = Arc::clone(slots.entry(key.clone()).or_default());
        let mut state = slot.state();
        if state.holder == Some(me) {
            let cause = Cause::Invalid(Invalid::LockedByThisThread);
            return Err(Error::new(Stage::Lock, TargetState::Unchanged, &request.path, cause));
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        drop(state);
        (slot, ticket)
    };
    if wait_for_turn(request, &slot, ticket, me) {
        return Ok(Permit { key, slot });
    }
    slot.state().waiting.retain(|&waiting| waiting != ticket);
    slot.changed.notify_all();
    forget_if_idle(&key);
    let holder = request.read_body(&request.name).ok().and_then(body::Found::into_body);
    Err(request.held_by(holder))
}

fn wait_for_turn(request: &Request<'_>, slot: &Slot, ticket: u64, me: ThreadId) -> bool {
    let mut state = slot.state();
    loop {
        if state.holder.is_none() && state.waiting.front() == Some(&ticket) {
            state.waiting.pop_front();
            state.holder = Some(me);
            return true;
        }
        let remaining = request.remaining();
        if request.options.wait == Wait::DoNotWait || remaining == Duration::ZERO {
            return false;
        }
        let (next, timeout) =
            slot.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner);
        state = next;
        if timeout.timed_out() && !(state.holder.is_none() && state.waiting.front() == Some(&ticket)) {
            return false;
        }
    }
}
