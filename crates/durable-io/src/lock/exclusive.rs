//! The exclusive-create lock: a file that exists only while the lock is held.
//!
//! # Protocol
//! 1. *Take*: write a complete body under a private name, sync it, `link` it to the lock's name. The link fails if
//!    the name exists, and nobody ever sees a lock without its body.
//! 2. *Release*: read the lock; if the token is ours, unlink it.
//! 3. *Take over* a body D whose owner is proved dead: the right to do so is the exclusive creation of
//!    `<lock>.<token of D>`. Its owner reads the lock once more, sees D still there, renames its own body over it and
//!    removes the claim. Whoever comes late finds another body than D and withdraws. (Unlinking D, or renaming it
//!    away, would race: the second waiter would remove the first one's fresh lock.) A claim whose owner died is
//!    taken over in the same way.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use media::sync::Arc;
use media::{Liveness, Mode, Reason, RenameMode};

use super::body::{Body, BodyKind, Found};
use super::{Request, Stale};
use crate::dir::Place;
use crate::error::{Cause, Error, Result, Stage, TargetState};
use crate::name::{Purpose, random_u64, side_name};
use crate::options::Durability;
use crate::staged::Temp;

const POLL_MIN: Duration = Duration::from_millis(25);
const POLL_MAX: Duration = Duration::from_millis(250);

/// How deep claims on claims of dead claimants are followed.
const CLAIM_DEPTH_MAX: usize = 8;

pub(super) struct Guard {
    at: Arc<dyn media::Dir>,
    name: OsString,
    token: String,
}

impl Guard {
    pub(super) fn release(self, path: &Path) -> Result<()> {
        let fail = |e| Error::os(Stage::Lock, path, e);
        let file = self.at.open(&self.name, media::Access::Read).map_err(fail)?;
        match super::body::read(&*file).map_err(fail)? {
            Found::Body(body) if body.token == self.token => self.at.unlink(&self.name).map_err(fail),
            _ => Err(Error::new(Stage::Lock, TargetState::Unknown, path, Cause::Changed)),
        }
    }
}

/// What became of one attempt.
enum Attempt {
    Taken,
    /// It vanished or changed hands while we looked: look again at once.
    Again,
    /// Held, by whom we could read.
    Held(Option<Body>),
}

pub(super) fn acquire(request: &Request<'_>) -> Result<Guard> {
    let me = request.dir.env.host.this_process().map_err(|e| request.failed(e))?;
    let mut token = [0_u8; 16];
    request.dir.env.entropy.fill(&mut token).map_err(|e| request.failed(e))?;
    let body = Body::exclusive(&me, token, request.dir.env.clock.now());
    let taker = Taker { request, body };
    let mut pause = POLL_MIN;
    loop {
        let holder = match taker.attempt()? {
            Attempt::Taken => {
                let at = Arc::clone(&request.at);
                return Ok(Guard { at, name: request.name.clone(), token: taker.body.token });
            }
            Attempt::Again if request.remaining() > Duration::ZERO => continue,
            Attempt::Again => None,
            Attempt::Held(holder) => holder,
        };
        if request.remaining() == Duration::ZERO {
            return Err(request.held_by(holder));
        }
        let pause_now = taker.jittered(pause)?.min(request.remaining());
        request.dir.env.clock.sleep(pause_now);
        pause = (pause * 2).min(POLL_MAX);
    }
}

struct Taker<'a> {
    request: &'a Request<'a>,
    body: Body,
}

impl Taker<'_> {
    /// Between half of `pause` and all of it, so that those who began together do not stay together.
    fn jittered(&self, pause: Duration) -> Result<Duration> {
        let random = random_u64(&*self.request.dir.env.entropy).map_err(|e| self.request.failed(e))?;
        let half = pause / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        Ok(half + Duration::from_micros(random % span))
    }

    fn attempt(&self) -> Result<Attempt> {
        // Most often it is held: look before writing a body in vain.
        match self.request.read_body(&self.request.name)? {
            Found::Missing => self.take(&self.request.name),
            found => self.judge(&self.request.name, found, 0),
        }
    }

    /// A private file with the complete body, durable before it can be seen.
    fn private_body(&self) -> Result<Temp> {
        let place = Place {
            dir: Arc::clone(&self.request.at),
            name: self.request.name.clone(),
            path: self.request.path.clone(),
            existing: None,
            durability: Durability::Durable,
        };
        let mut temp = Temp::create(&place, Purpose::Temp, Mode::PRIVATE, &self.request.dir.env)?;
        let written = self.body.encode().and_then(|bytes| {
            media::write_all_at(&*temp.file, 0, &bytes)?;
            temp.file.set_mode(Mode::PRIVATE)?;
            temp.file.sync_all()
        });
        match written {
            Ok(()) => Ok(temp),
            Err(e) => Err(temp.fail(self.request.failed(e))),
        }
    }

    /// Makes our body appear under `name`, if nothing is there.
    fn take(&self, name: &OsStr) -> Result<Attempt> {
        let mut temp = self.private_body()?;
        let outcome = match self.request.at.link(&temp.name, name) {
            // No hard links here: a rename that does not replace is as good.
            Err(e) if matches!(Reason::of(&e), Reason::Unsupported | Reason::PermissionDenied) => {
                let renamed =
                    self.request.at.rename(&temp.name, &*self.request.at, name, RenameMode::NoReplace);
                if renamed.is_ok() {
                    temp.disarm();
                }
                renamed
            }
            // Network file systems may lose the answer; the link count knows.
            Err(e) if Reason::of(&e) != Reason::AlreadyExists => match temp.file.metadata() {
                Ok(found) if found.links == 2 => Ok(()),
                _ => Err(e),
            },
            outcome => outcome,
        };
        let leftover = temp.discard();
        match outcome {
            Ok(()) => {
                if let Some(leftover) = leftover {
                    tracing::warn!(path = %leftover.path.display(), error = %leftover.error, "a temporary file is left");
                }
                Ok(Attempt::Taken)
            }
            Err(e) if Reason::of(&e) == Reason::AlreadyExists => Ok(Attempt::Again),
            Err(e) => Err(self.request.failed(e).with_leftover(leftover)),
        }
    }

    /// Decides about a lock, or a claim, that exists.
    fn judge(&self, name: &OsStr, found: Found, depth: usize) -> Result<Attempt> {
        let body = match found {
            Found::Missing => return Ok(Attempt::Again),
            Found::Unreadable | Found::Foreign => return Ok(Attempt::Held(None)),
            Found::Body(body) => body,
        };
        if body.kind == BodyKind::Kernel {
            return Err(self.request.other_kind());
        }
        if depth < CLAIM_DEPTH_MAX && self.is_stale(&body) {
            return self.take_over(name, &body, depth);
        }
        Ok(Attempt::Held(Some(body)))
    }

    fn is_stale(&self, body: &Body) -> bool {
        if self.request.dir.env.host.liveness(&body.process()) == Liveness::Dead {
            return true;
        }
        match self.request.options.stale {
            Stale::ProvedDead => false,
            Stale::OlderThan(age) => {
                let now = self.request.dir.env.clock.now().seconds;
                let seconds = u64::try_from(now.saturating_sub(body.time)).unwrap_or(0);
                Duration::from_secs(seconds) > age
            }
        }
    }

    /// Takes `name` over from the dead body `dead`.
    fn take_over(&self, name: &OsStr, dead: &Body, depth: usize) -> Result<Attempt> {
        let claim = side_name(name, &format!(".{}", dead.token));
        match self.request.read_body(&claim)? {
            Found::Missing => match self.take(&claim)? {
                Attempt::Taken => {}
                other => return Ok(other),
            },
            found => match self.judge(&claim, found, depth + 1)? {
                Attempt::Taken => {}
                other => return Ok(other),
            },
        }
        // The right is ours alone now, and nobody else replaces D. Is it still there?
        let outcome = match self.request.read_body(name)? {
            Found::Body(body) if body.token == dead.token => self.rename_over(name),
            _ => Ok(Attempt::Again),
        };
        if let Err(error) = self.request.at.unlink(&claim) {
            // A claim left behind is litter, taken over like any other once we are dead. The lock is what counts: to
            // call it not taken, now that it is, would leave it held by nobody who knows.
            tracing::warn!(%error, claim = %claim.display(), "a claim is left");
        }
        outcome
    }

    fn rename_over(&self, name: &OsStr) -> Result<Attempt> {
        let mut temp = self.private_body()?;
        match self.request.at.rename(&temp.name, &*self.request.at, name, RenameMode::Replace) {
            Ok(()) => {
                temp.disarm();
                Ok(Attempt::Taken)
            }
            // The answer may be wrong (a network, a fault after the deed): the file itself knows.
            Err(e) => match self.request.read_body(name) {
                Ok(Found::Body(body)) if body.token == self.body.token => {
                    temp.disarm();
                    Ok(Attempt::Taken)
                }
                _ => Err(temp.fail(self.request.failed(e))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    //! Two takers of one dead lock. They go round the queue of the process, which would keep them apart.

    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, Mutex, mpsc};

    use media::doubles::{Call, FakeHost, Listener, TapFs};
    use media::{Env, Fs, OsFs};

    use super::*;
    use crate::dir::Dir;
    use crate::lock::{LockKind, LockOptions, Wait};

    fn open(root: &Path, fs: Arc<dyn Fs>, pid: u32) -> Dir {
        let mut env = Env::os();
        let host = FakeHost::with_pid(pid);
        // Everybody but pid 5, who left the lock behind, and 6, who left a claim, is alive.
        host.alive.lock().unwrap().extend((100..200).map(|pid| (pid, 1000 + u64::from(pid))));
        env.host = Arc::new(host);
        Dir::open_on(fs, root, env).unwrap()
    }

    fn request(dir: &Dir, wait: Duration) -> Request<'_> {
        Request {
            dir,
            at: Arc::clone(&dir.dir),
            name: "f.lock".into(),
            path: dir.path.join("f.lock"),
            options: LockOptions {
                kind: LockKind::Exclusive,
                wait: Wait::UpTo(wait),
                ..LockOptions::default()
            },
            begun: dir.env.clock.elapsed(),
        }
    }

    /// The body of pid 5 under the lock's name, as if it had died holding it.
    fn leave_dead_lock(root: &Path) -> String {
        let dir = open(root, OsFs::shared(), 5);
        acquire(&request(&dir, Duration::ZERO)).unwrap().token
    }

    fn try_now(root: &Path, pid: u32) -> bool {
        let dir = open(root, OsFs::shared(), pid);
        acquire(&request(&dir, Duration::ZERO)).is_ok()
    }

    #[test]
    fn two_waiters_on_one_stale_lock_never_both_win_in_many_rounds() {
        let root = tempfile::tempdir().unwrap();
        let rounds = 400;
        let mut won = 0;
        for _ in 0..rounds {
            leave_dead_lock(root.path());
            let (start, winners) = (Barrier::new(3), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for pid in 101..104 {
                    let (start, winners, root) = (&start, &winners, root.path());
                    scope.spawn(move || {
                        start.wait();
                        winners.fetch_add(usize::from(try_now(root, pid)), Ordering::SeqCst);
                    });
                }
            });
            let winners = winners.load(Ordering::SeqCst);
            assert!(winners <= 1, "{winners} hold the lock");
            won += winners;
            std::fs::remove_file(root.path().join("f.lock")).unwrap();
        }
        assert!(won > rounds / 2, "somebody should win most rounds: {won}");
        assert_eq!(
            std::fs::read_dir(root.path()).unwrap().count(),
            0,
            "no claim and no temporary file is left"
        );
    }

    /// Stops a taker in front of its call number `at` until it is told to go on.
    #[derive(Debug)]
    struct Gate {
        at: usize,
        calls: AtomicUsize,
        reached: Mutex<mpsc::Sender<()>>,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Listener for Gate {
        fn before(&self, _call: &Call) -> io::Result<()> {
            if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
                self.reached.lock().unwrap().send(()).unwrap();
                self.go_on.lock().unwrap().recv().unwrap();
            }
            Ok(())
        }
    }

    /// A taker on a thread of its own, stopped in front of call `at` (or finished, if it makes fewer).
    struct Stopped {
        thread: std::thread::JoinHandle<bool>,
        go_on: mpsc::Sender<()>,
        was_stopped: bool,
    }

    impl Stopped {
        fn start(root: &Path, pid: u32, at: usize) -> Self {
            let ((reached, has_reached), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
            let gate = Gate {
                at,
                calls: AtomicUsize::new(0),
                reached: Mutex::new(reached),
                go_on: Mutex::new(may_go_on),
            };
            let dir = open(root, TapFs::shared(OsFs::shared(), Arc::new(gate)), pid);
            let thread = std::thread::spawn(move || acquire(&request(&dir, Duration::ZERO)).is_ok());
            // A taker that finishes drops its end of the channel.
            let was_stopped = has_reached.recv().is_ok();
            Self { thread, go_on, was_stopped }
        }

        /// Lets it run to its end; whether it holds the lock.
        fn finish(self) -> bool {
            if self.was_stopped {
                self.go_on.send(()).unwrap();
            }
            self.thread.join().unwrap()
        }
    }

    fn pid_in_lock(root: &Path) -> u32 {
        let dir = open(root, OsFs::shared(), 103);
        let found = request(&dir, Duration::ZERO).read_body("f.lock".as_ref()).unwrap();
        found.into_body().unwrap().process().pid
    }

    /// Every pair of stops: the first taker is stopped anywhere, the second runs up to anywhere, the first finishes,
    /// then the second.
    #[test]
    fn two_takers_stopped_anywhere_never_both_hold_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let mut pairs = 0;
        for with_dead_claim in [false, true] {
            'first: for first_at in 1.. {
                for second_at in 1.. {
                    let token = leave_dead_lock(root.path());
                    if with_dead_claim {
                        leave_dead_claim(root.path(), &token);
                    }
                    let first = Stopped::start(root.path(), 101, first_at);
                    let second = Stopped::start(root.path(), 102, second_at);
                    let (more_first, more_second) = (first.was_stopped, second.was_stopped);
                    let holders = (first.finish(), second.finish());
                    let holder = match holders {
                        (true, true) => panic!("stops {first_at}, {second_at}: both hold the lock"),
                        (true, false) => 101,
                        (false, true) => 102,
                        (false, false) => panic!("stops {first_at}, {second_at}: nobody got it"),
                    };
                    assert_eq!(pid_in_lock(root.path()), holder, "stops {first_at}, {second_at}");
                    for left in std::fs::read_dir(root.path()).unwrap() {
                        std::fs::remove_file(left.unwrap().path()).unwrap();
                    }
                    pairs += 1;
                    if !more_first {
                        break 'first;
                    }
                    if !more_second {
                        break;
                    }
                }
            }
        }
        assert!(pairs > 100, "only {pairs} pairs");
    }

    /// A claim on `token`, left by pid 6, which died too.
    fn leave_dead_claim(root: &Path, token: &str) {
        let dir = open(root, OsFs::shared(), 6);
        let mut request = request(&dir, Duration::ZERO);
        request.name = format!("f.lock.{token}").into();
        acquire(&request).unwrap();
    }

    #[test]
    fn a_claim_of_a_live_process_keeps_others_out_and_a_dead_ones_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let token = leave_dead_lock(root.path());
        let claimant = open(root.path(), OsFs::shared(), 110);
        let mut claim = request(&claimant, Duration::ZERO);
        claim.name = format!("f.lock.{token}").into();
        acquire(&claim).unwrap();
        assert!(!try_now(root.path(), 101), "a suspended claimant may still rename over it");
        std::fs::remove_file(root.path().join(&claim.name)).unwrap();
        leave_dead_claim(root.path(), &token);
        assert!(try_now(root.path(), 101));
        let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["f.lock"]);
    }
}
