//! The kernel lock: `flock` on a side file that is never deleted.
//!
//! Why a file of its own: the protected file is replaced by rename, and a lock on the old file would protect
//! nothing. Why it is never deleted: a waiter could then hold a lock on a file that nobody finds any more. (Someone
//! may delete it all the same, so after locking we check that the name still leads to the file we locked.)

use std::io;
use std::path::Path;

use media::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, caught, thread};
use media::{Access, File, LockWait, Mode, Reason};

use super::body::{self, Body, BodyKind, Found};
use super::queue::Permit;
use super::{Request, Wait, check_kind};
use crate::error::{Error, Result, Stage};

/// How often the lock file may vanish under us before we give up.
const REOPEN_MAX: usize = 100;

pub(super) struct Guard {
    file: Arc<dyn File>,
}

impl Guard {
    pub(super) fn release(self, path: &Path) -> Result<()> {
        self.file.unlock().map_err(|e| Error::os(Stage::Lock, path, e))
    }
}

pub(super) fn acquire(request: &Request<'_>, permit: &Permit) -> Result<Guard> {
    for _ in 0..REOPEN_MAX {
        let file = open(request)?;
        let file = match file.lock(LockWait::DoNotWait) {
            Ok(()) => file,
            Err(e) if Reason::of(&e) == Reason::WouldBlock => wait_in_kernel(request, permit, file)?,
            Err(e) => return Err(request.failed(e)),
        };
        let locked = file.metadata().map_err(|e| request.failed(e))?;
        check_kind(request, &locked)?;
        let named = match request.at.metadata(&request.name) {
            Ok(named) => named,
            Err(e) if Reason::of(&e) == Reason::NotFound => continue,
            Err(e) => return Err(request.failed(e)),
        };
        if named.id == locked.id {
            write_note(request, &*file)?;
            return Ok(Guard { file });
        }
        // Somebody deleted the lock file; ours is a lock on nothing. Start over.
    }
    Err(request.failed(io::Error::other("the lock file is deleted again and again")))
}

/// Opens the side file, creating it if needed; never truncates it, never follows a link.
fn open(request: &Request<'_>) -> Result<Arc<dyn File>> {
    for _ in 0..REOPEN_MAX {
        match request.at.open(&request.name, Access::ReadWrite) {
            Err(e) if Reason::of(&e) == Reason::NotFound => {}
            outcome => return outcome.map_err(|e| request.failed(e)),
        }
        match request.at.create_exclusive(&request.name, Mode::PRIVATE) {
            Err(e) if Reason::of(&e) == Reason::AlreadyExists => {}
            outcome => return outcome.map_err(|e| request.failed(e)),
        }
    }
    Err(request.failed(io::Error::other("the lock file appears and vanishes again and again")))
}

/// Says who holds the lock now, for people. Written only where it does not say so already; not being able to (a
/// full disk) must not keep anybody from locking.
fn write_note(request: &Request<'_>, file: &dyn File) -> Result<()> {
    let found = body::read(file).map_err(|e| request.failed(e))?;
    match found {
        Found::Body(Body { kind: BodyKind::Exclusive, .. }) => return Err(request.other_kind()),
        // It serves as a lock as well as any file, but its content is not ours to replace.
        Found::Foreign => return Ok(()),
        Found::Body(_) | Found::Unreadable | Found::Missing => {}
    }
    let me = request.dir.env.host.this_process().map_err(|e| request.failed(e))?;
    let note = Body::kernel(&me);
    if found == Found::Body(note.clone()) {
        return Ok(());
    }
    let written = note.encode().and_then(|bytes| media::write_all_at(file, 0, &bytes));
    if let Err(error) = written {
        tracing::debug!(%error, path = %request.path.display(), "the lock is held, but the file does not say by whom");
    }
    Ok(())
}

/// A thread that waits in the kernel, where waiters are served in order and nobody polls. `flock` knows no timeout,
/// so the timeout is outside: whoever gives up leaves the thread behind, for the next one who waits (there is at
/// most one per lock file), or to let go at once when its turn comes.
#[derive(Debug)]
pub(super) struct Waiter {
    state: Mutex<WaiterState>,
    changed: Condvar,
}

#[derive(Debug)]
enum WaiterState {
    Waiting,
    /// Nobody waits for it any more.
    Abandoned,
    Answered(io::Result<Arc<dyn File>>),
    Done,
}

impl Waiter {
    fn start(file: Arc<dyn File>) -> io::Result<Arc<Self>> {
        let waiter = Arc::new(Self { state: Mutex::new(WaiterState::Waiting), changed: Condvar::new() });
        let in_kernel = Arc::clone(&waiter);
        thread::Builder::new().name("lock".to_owned()).spawn(move || in_kernel.wait(file))?;
        Ok(waiter)
    }

    fn state(&self) -> MutexGuard<'_, WaiterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(*self.state(), WaiterState::Done)
    }

    /// On the helper thread.
    fn wait(&self, file: Arc<dyn File>) {
        // A panic here would end this thread only, and its waiter would wait until its time is over.
        let answer = match caught(|| file.lock(LockWait::Forever)) {
            Ok(answer) => answer.map(|()| file),
            Err(_panic) => Err(io::Error::other("the file system panicked while it waited for the lock")),
        };
        let mut state = self.state();
        *state = match *state {
            // Dropping the file releases the lock.
            WaiterState::Abandoned => WaiterState::Done,
            _ => WaiterState::Answered(answer),
        };
        drop(state);
        self.changed.notify_all();
    }

    /// Whether an abandoned one could be taken over.
    fn adopt(&self) -> bool {
        let mut state = self.state();
        let still_waits = matches!(*state, WaiterState::Abandoned);
        if still_waits {
            *state = WaiterState::Waiting;
        }
        still_waits
    }

    /// `None` when the time is over; then it is abandoned.
    fn outcome(&self, request: &Request<'_>) -> Option<io::Result<Arc<dyn File>>> {
        let waiting = |state: &mut WaiterState| matches!(state, WaiterState::Waiting);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.state(), request.remaining(), waiting)
            .unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, WaiterState::Done) {
            WaiterState::Answered(answer) => Some(answer),
            WaiterState::Waiting => {
                *state = WaiterState::Abandoned;
                None
            }
            WaiterState::Abandoned | WaiterState::Done => {
                Some(Err(io::Error::other("the waiting thread answered twice")))
            }
        }
    }
}

fn wait_in_kernel(request: &Request<'_>, permit: &Permit, file: Arc<dyn File>) -> Result<Arc<dyn File>> {
    let held = || -> Result<Error> { Ok(request.held_by(request.read_body(&request.name)?.into_body())) };
    if request.options.wait == Wait::DoNotWait {
        return Err(held()?);
    }
    let waiter = match permit.take_waiter().filter(|waiter| waiter.adopt()) {
        Some(waiter) => waiter,
        None => Waiter::start(file).map_err(|e| request.failed(e))?,
    };
    match waiter.outcome(request) {
        Some(answer) => answer.map_err(|e| request.failed(e)),
        None => {
            permit.leave_waiter(waiter);
            Err(held()?)
        }
    }
}
