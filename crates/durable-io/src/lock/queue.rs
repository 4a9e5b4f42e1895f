//! The threads of one process, in order of arrival, before the lock of the system is asked for.
//!
//! Kernel locks belong to open files, not to threads, and the waiting ones of a process would each need a thread
//! in the kernel; so one thread at a time goes to the system, and the others wait here.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use media::FileId;
use media::sync::thread::{self, ThreadId};
use media::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

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
    /// A thread that still waits in the kernel for somebody who gave up.
    waiter: Option<Arc<Waiter>>,
}

/// The queues of a process, of which its [environment](media::Env::shared) has one.
#[derive(Debug, Default)]
struct Slots(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<Key, Arc<Slot>>,
    next_ticket: u64,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what nobody uses: held only by the table and by the caller's own reference at most.
    fn forget_if_idle(&self, key: &Key) {
        let mut table = self.lock();
        let idle = table.slots.get(key).is_some_and(|slot| {
            let state = slot.state();
            state.holder.is_none() && state.waiting.is_empty() && state.waiter.is_none()
        });
        if idle {
            table.slots.remove(key);
        }
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one thread to ask the system for the lock. The next in line gets it when this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    slots: Arc<Slots>,
    key: Key,
    slot: Arc<Slot>,
    ticket: u64,
}

impl Permit {
    /// Its number in the order of arrival.
    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }

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
        self.slots.forget_if_idle(&self.key);
    }
}

/// Waits for this thread's turn.
pub(super) fn enter(request: &Request<'_>) -> Result<Permit> {
    let key = match request.at.dir_metadata().map_err(|e| request.failed(e))?.id {
        Some(id) => Key::Id(id, request.name.clone()),
        None => Key::Path(request.path.clone()),
    };
    let slots = request.dir.env.shared.get::<Slots>();
    let me = thread::current().id();
    // The table is locked while the ticket is drawn, so that the slot cannot be forgotten in between.
    let (slot, ticket) = {
        let mut table = slots.lock();
        let slot = Arc::clone(table.slots.entry(key.clone()).or_default());
        let mut state = slot.state();
        if state.holder == Some(me) {
            let cause = Cause::Invalid(Invalid::LockedByThisThread);
            return Err(Error::new(Stage::Lock, TargetState::Unchanged, &request.path, cause));
        }
        let ticket = table.next_ticket;
        table.next_ticket += 1;
        state.waiting.push_back(ticket);
        drop(state);
        (slot, ticket)
    };
    if wait_for_turn(request, &slot, ticket, me) {
        return Ok(Permit { slots, key, slot, ticket });
    }
    slot.state().waiting.retain(|&waiting| waiting != ticket);
    slot.changed.notify_all();
    slots.forget_if_idle(&key);
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
