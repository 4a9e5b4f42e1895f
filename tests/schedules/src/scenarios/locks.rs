//! The locks of `durable-io`: the queue of the threads of a process, the kernel lock with the thread that waits for it, and the
//! lock that is a file. Over a simulated file system whose `flock` waits on `media::sync`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crashsim::SimFs;
use durable_io::{Dir, Kind, Lock, LockKind, LockOptions, Wait};
use media::doubles::{FakeHost, SeededEntropy, fixed_env};
use media::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use media::sync::{caught, thread, time_is_up};
use media::{Clock, Env, Timestamp};

use crate::explore::{Scenario, Search};
use crate::medium::PlannedPanic;

pub(super) fn all() -> Vec<Scenario> {
    let two = Takers { processes: 1, threads: 2, ..Takers::default() };
    let three = Takers { threads: 3, ..two };
    let processes = Takers { processes: 2, threads: 1, ..two };
    vec![
        locks("lock-2-threads", two),
        locks("lock-4-threads", Takers { threads: 4, ..two }),
        locks("lock-3-threads-holder-panics", Takers { holder_panics: true, ..three }),
        locks("lock-3-threads-time-is-up", Takers { time_passes: true, ..three }),
        locks("lock-2-processes", processes),
        locks("lock-2-processes-2-threads", Takers { threads: 2, ..processes }),
        locks("lock-2-processes-time-is-up", Takers { threads: 2, time_passes: true, ..processes }),
        locks("lock-exclusive-3-threads", Takers { kind: LockKind::Exclusive, ..three }),
        locks("lock-exclusive-2-processes", Takers { kind: LockKind::Exclusive, threads: 2, ..processes }),
    ]
}

/// Who takes one lock.
#[derive(Debug, Clone, Copy, Default)]
struct Takers {
    processes: usize,
    threads: usize,
    kind: LockKind,
    holder_panics: bool,
    time_passes: bool,
}

/// Time that passes only when somebody sleeps, or when the scenario says so.
#[derive(Default)]
struct StepClock(Mutex<Duration>);

impl fmt::Debug for StepClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepClock")
    }
}

impl StepClock {
    fn pass(&self, how_long: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += how_long;
    }
}

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 1_700_000_000, nanos: 0 }
    }

    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, how_long: Duration) {
        self.pass(how_long);
        thread::yield_now();
    }
}

/// How long a lock is waited for.
const WAIT: Duration = Duration::from_secs(3600);

/// There is never more than one holder; a process serves its threads in the order of their arrival; nobody waits for ever; who
/// gives up, or panics, leaves the lock to others.
fn locks(name: &'static str, takers: Takers) -> Scenario {
    let what = "one holder at a time, in the order of arrival; nobody waits for ever";
    Scenario::new(name, what, Search::Sampled, move || {
        let fs = SimFs::new().shared();
        let clock = Arc::new(StepClock::default());
        let holders = Arc::new(AtomicUsize::new(0));
        let (mut threads, mut dirs) = (Vec::new(), Vec::new());
        for process in 0..takers.processes {
            let dir = Dir::open_on(Arc::clone(&fs), "/", env(process, takers.processes, &clock)).unwrap();
            let dir = Arc::new(dir);
            dirs.push(Arc::clone(&dir));
            let last_ticket = Arc::new(AtomicU64::new(0));
            for _ in 0..takers.threads {
                let (dir, holders, last) = (Arc::clone(&dir), Arc::clone(&holders), Arc::clone(&last_ticket));
                threads.push(thread::spawn(move || take(&dir, takers, &holders, &last)));
            }
        }
        if takers.time_passes {
            clock.pass(2 * WAIT);
            time_is_up();
        }
        let taken = threads.into_iter().map(|thread| thread.join().unwrap());
        let taken = taken.filter(|taken| *taken).count();
        assert!(
            takers.time_passes || taken == takers.processes * takers.threads,
            "{taken} of them had the lock"
        );
        // Whatever became of the others, the lock is free for each process now.
        dirs.iter().for_each(|dir| take_at_once(dir, takers));
    })
}

/// A thread that waits for the lock in the kernel, and that nobody waits for any more, may have it for a moment.
fn take_at_once(dir: &Dir, takers: Takers) {
    for _ in 0..100 {
        if dir.lock_with("f", options(takers, Wait::DoNotWait)).is_ok() {
            return;
        }
        thread::yield_now();
    }
    panic!("the lock is held, and nobody has it");
}

fn options(takers: Takers, wait: Wait) -> LockOptions {
    LockOptions { kind: takers.kind, wait, ..LockOptions::default() }
}

fn env(process: usize, processes: usize, clock: &Arc<StepClock>) -> Env {
    let pid = |process: usize| 100 + u32::try_from(process).unwrap();
    let host = FakeHost::with_pid(pid(process));
    let alive = (0..processes).map(|process| (pid(process), 1000 + u64::from(pid(process))));
    host.alive.lock().unwrap_or_else(PoisonError::into_inner).extend(alive);
    Env {
        clock: Arc::<StepClock>::clone(clock),
        entropy: Arc::new(SeededEntropy::new(u64::from(pid(process)))),
        host: Arc::new(host),
        ..fixed_env(1)
    }
}

/// Whether the lock was taken.
fn take(dir: &Dir, takers: Takers, holders: &AtomicUsize, last_ticket: &AtomicU64) -> bool {
    let lock = match dir.lock_with("f", options(takers, Wait::UpTo(WAIT))) {
        Ok(lock) => lock,
        Err(error) => {
            assert_eq!(error.kind(), Kind::Held, "{error}");
            assert!(takers.time_passes, "nobody's time was up: {error}");
            return false;
        }
    };
    let before = holders.fetch_add(1, Ordering::SeqCst);
    assert_eq!(before, 0, "{} holders", before + 1);
    let last = last_ticket.swap(lock.ticket() + 1, Ordering::SeqCst);
    assert!(last <= lock.ticket(), "ticket {} after {last}", lock.ticket());
    holders.fetch_sub(1, Ordering::SeqCst);
    if takers.holder_panics {
        let held: Lock = lock;
        let panicked = caught(move || {
            let _held = held;
            std::panic::resume_unwind(Box::new(PlannedPanic));
        });
        assert!(panicked.is_err());
    } else {
        lock.unlock().unwrap();
    }
    true
}
