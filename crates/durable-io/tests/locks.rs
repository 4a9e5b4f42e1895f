//! Locks between threads and between processes, of both kinds.
#![expect(clippy::unwrap_used, reason = "a test says where it broke")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use durable_io::{
    Cause, Dir, Env, Error, Invalid, Kind, LockKind, LockOptions, Retry, Stage, Stale, TargetState,
    UpdateOptions, Wait,
};
use media::doubles::{Call, FakeHost, Listener, ManualClock, Op, Recorder, TapFs};
use media::{HostIdentity, OsFs, OsHost};

const KINDS: [LockKind; 2] = [LockKind::Kernel, LockKind::Exclusive];
const CHILD_ROLE: &str = "STEADFAST_TEST_CHILD";
const CHILD_DIR: &str = "STEADFAST_TEST_DIR";

fn options(kind: LockKind, wait: Duration) -> LockOptions {
    LockOptions { kind, wait: Wait::UpTo(wait), ..LockOptions::default() }
}

fn holder_of(error: &Error) -> durable_io::Holder {
    match error.cause() {
        Cause::Held { holder, .. } => holder.clone(),
        other => panic!("not held: {other:?}"),
    }
}

/// Runs this test binary again as another process, in the role `role`.
fn child(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture"])
        .env(CHILD_ROLE, role)
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} never appeared", path.display());
        std::thread::yield_now();
    }
}

fn kind_named(name: &str) -> LockKind {
    if name.contains("exclusive") { LockKind::Exclusive } else { LockKind::Kernel }
}

/// Not a test of its own: what the other processes of the tests below run.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(CHILD_ROLE) else { return };
    let dir = Dir::open(std::env::var(CHILD_DIR).unwrap()).unwrap();
    let kind = kind_named(&role);
    if role.starts_with("increment") {
        let count: usize = role.rsplit('-').next().unwrap().parse().unwrap();
        // The exclusive kind polls, and whoever polls may be unlucky for long: hence the long timeout.
        let limit =
            if kind == LockKind::Exclusive { Duration::from_secs(600) } else { Duration::from_secs(30) };
        let update = UpdateOptions { lock: options(kind, limit), ..UpdateOptions::default() };
        for _ in 0..count {
            dir.update_with("counter", &update, increment).unwrap();
        }
    } else {
        let _lock = dir.lock_with("file", options(kind, Duration::from_secs(10))).unwrap();
        std::fs::File::create(dir.path().join("held")).unwrap();
        loop {
            std::thread::park();
        }
    }
}

fn increment(old: Option<&[u8]>) -> Result<Vec<u8>, std::num::ParseIntError> {
    let count: u64 = old.map_or(Ok(0), |bytes| String::from_utf8_lossy(bytes).parse())?;
    Ok((count + 1).to_string().into_bytes())
}

#[test]
fn sixteen_processes_lose_no_increment_and_nobody_times_out() {
    let (processes, each) = (16, 1_000);
    for name in ["kernel", "exclusive"] {
        // In memory where possible: this is about exclusion, not about barriers.
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let role = format!("increment-{name}-{each}");
        let children: Vec<Child> = (0..processes).map(|_| child(&role, root.path())).collect();
        children.into_iter().for_each(finish);
        let dir = Dir::open(root.path()).unwrap();
        assert_eq!(dir.read("counter").unwrap(), (processes * each).to_string().as_bytes(), "{name}");
        let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        let expected = if name == "kernel" { 2 } else { 1 };
        assert_eq!(left.len(), expected, "{name}: {left:?}");
    }
}

#[test]
fn threads_of_one_process_exclude_each_other_in_both_kinds() {
    for kind in KINDS {
        let root = tempfile::tempdir().unwrap();
        let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let dir = Dir::open(root.path()).unwrap();
                    for _ in 0..25 {
                        let lock = dir.lock_with("f", options(kind, Duration::from_secs(60))).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "{kind:?}: two at once");
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        total.fetch_add(1, Ordering::SeqCst);
                        lock.unlock().unwrap();
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::SeqCst), 200);
    }
}

#[test]
fn a_killed_holder_is_succeeded_and_a_suspended_one_is_never_robbed() {
    use rustix::process::{Pid, Signal, kill_process};
    for (kind, role) in [(LockKind::Kernel, "hold-kernel"), (LockKind::Exclusive, "hold-exclusive")] {
        let root = tempfile::tempdir().unwrap();
        let mut holder = child(role, root.path());
        wait_for(&root.path().join("held"));
        let pid = Pid::from_raw(i32::try_from(holder.id()).unwrap()).unwrap();
        let dir = Dir::open(root.path()).unwrap();

        kill_process(pid, Signal::STOP).unwrap();
        let error = dir.lock_with("file", options(kind, Duration::from_millis(400))).unwrap_err();
        assert_eq!((error.kind(), error.stage(), error.retry()), (Kind::Held, Stage::Lock, Retry::Now));
        assert_eq!(error.state(), TargetState::Unchanged);
        assert_eq!(holder_of(&error).process.unwrap().pid, holder.id(), "the holder is named");

        // A stopped process dies of SIGKILL without being continued.
        kill_process(pid, Signal::KILL).unwrap();
        let lock = dir.lock_with("file", options(kind, Duration::from_secs(20))).unwrap();
        lock.unlock().unwrap();
        holder.wait().unwrap();
    }
}

#[test]
fn the_timeout_names_the_holder_and_lasts_as_long_as_asked() {
    for kind in KINDS {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let held = dir.lock_with("f", options(kind, Duration::from_secs(1))).unwrap();
        let waiter = std::thread::spawn({
            let dir = dir.clone();
            move || {
                let begun = Instant::now();
                let error = dir.lock_with("f", options(kind, Duration::from_millis(120))).unwrap_err();
                (error, begun.elapsed())
            }
        });
        let (error, waited) = waiter.join().unwrap();
        assert!(holder_of(&error).is_this_process, "{kind:?}: {error}");
        assert!(waited >= Duration::from_millis(120), "{waited:?}");
        assert!(error.to_string().contains("another thread of this process"), "{error}");
        drop(held);
    }
}

#[test]
fn locking_twice_in_one_thread_is_an_error_and_no_deadlock() {
    for kind in KINDS {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let lock = dir.lock_with("f", options(kind, Duration::from_secs(5))).unwrap();
        let error = dir.lock_with("f", options(kind, Duration::from_secs(5))).unwrap_err();
        assert!(matches!(error.cause(), Cause::Invalid(Invalid::LockedByThisThread)), "{error:?}");
        // Another path to the same file is the same lock.
        let again = Dir::open(root.path().join(".")).unwrap();
        assert!(again.lock_with("f", options(kind, Duration::from_secs(5))).is_err());
        drop(lock);
        dir.lock_with("f", options(kind, Duration::from_secs(5))).unwrap().unlock().unwrap();
    }
}

#[test]
fn a_lock_file_of_the_other_kind_is_refused_not_judged() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    dir.lock_with("k", options(LockKind::Kernel, Duration::ZERO)).unwrap().unlock().unwrap();
    let error = dir.lock_with("k", options(LockKind::Exclusive, Duration::from_secs(1))).unwrap_err();
    assert!(matches!(error.cause(), Cause::Invalid(Invalid::OtherLockKind)), "{error:?}");

    let held = dir.lock_with("x", options(LockKind::Exclusive, Duration::ZERO)).unwrap();
    let before = dir.read("x.lock").unwrap();
    let error = std::thread::scope(|scope| {
        let other = || dir.lock_with("x", options(LockKind::Kernel, Duration::ZERO)).unwrap_err();
        // In the same thread it would be a relock.
        scope.spawn(other).join().unwrap()
    });
    assert_eq!(error.kind(), Kind::Held, "the queue of this process comes first");
    drop(held);
    std::fs::File::create(root.path().join("x.lock")).unwrap();
    std::io::Write::write_all(&mut std::fs::File::create(root.path().join("x.lock")).unwrap(), &before)
        .unwrap();
    let error = dir.lock_with("x", options(LockKind::Kernel, Duration::ZERO)).unwrap_err();
    assert!(matches!(error.cause(), Cause::Invalid(Invalid::OtherLockKind)), "{error:?}");
    assert_eq!(dir.read("x.lock").unwrap(), before, "and left as it was");
}

#[test]
fn a_file_of_somebody_else_that_has_the_name_of_the_lock_keeps_its_content() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let precious = b"# This file is automatically @generated by Cargo.";
    std::io::Write::write_all(&mut std::fs::File::create(root.path().join("Cargo.lock")).unwrap(), precious)
        .unwrap();
    let lock = dir.lock("Cargo", Wait::DoNotWait).unwrap();
    assert_eq!(dir.read("Cargo.lock").unwrap(), precious);
    lock.unlock().unwrap();
    assert_eq!(dir.read("Cargo.lock").unwrap(), precious);
}

#[test]
fn an_unreadable_or_foreign_body_is_held_for_ever() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    for content in [&b""[..], b"{", b"12345", &[0; 1024]] {
        std::io::Write::write_all(&mut std::fs::File::create(root.path().join("f.lock")).unwrap(), content)
            .unwrap();
        let error = dir.lock_with("f", options(LockKind::Exclusive, Duration::from_millis(60))).unwrap_err();
        assert_eq!(holder_of(&error).process, None);
        assert_eq!(std::fs::read(root.path().join("f.lock")).unwrap(), content);
    }
}

/// An environment in which this process is `pid` and only the listed processes run.
fn env_as(pid: u32, alive: &[(u32, u64)]) -> (Env, Arc<FakeHost>) {
    let host = Arc::new(FakeHost::with_pid(pid));
    host.alive.lock().unwrap().extend_from_slice(alive);
    let mut env = Env::os();
    env.clock = Arc::new(ManualClock::default());
    env.host = Arc::<FakeHost>::clone(&host);
    (env, host)
}

/// Leaves a lock of process `pid` (started at 1000 + pid) behind, as if it had died.
fn leave_lock(root: &Path, pid: u32) {
    let (env, _) = env_as(pid, &[]);
    let dir = Dir::open_on(OsFs::shared(), root, env).unwrap();
    let lock = dir.lock_with("f", options(LockKind::Exclusive, Duration::ZERO)).unwrap();
    let body = std::fs::read(root.join("f.lock")).unwrap();
    drop(lock);
    std::io::Write::write_all(&mut std::fs::File::create(root.join("f.lock")).unwrap(), &body).unwrap();
}

fn try_as(root: &Path, env: Env) -> Result<(), Error> {
    let dir = Dir::open_on(OsFs::shared(), root, env)?;
    dir.lock_with("f", options(LockKind::Exclusive, Duration::from_millis(300)))?.unlock()
}

#[test]
fn pid_one_and_reused_pids_are_told_apart_by_start_time_boot_and_namespace() {
    let root = tempfile::tempdir().unwrap();
    // Pid 1 of a container that was restarted: the same pid, another start time.
    leave_lock(root.path(), 1);
    let (env, _) = env_as(77, &[(1, 1001)]);
    assert_eq!(try_as(root.path(), env).unwrap_err().kind(), Kind::Held, "the same pid 1 still runs");
    let (env, _) = env_as(77, &[(1, 999_999)]);
    try_as(root.path(), env).unwrap();

    // Our own pid, reused: we are alive, our predecessor is not.
    leave_lock(root.path(), 77);
    let (env, host) = env_as(77, &[]);
    assert_eq!(try_as(root.path(), env).unwrap_err().kind(), Kind::Held, "never our own");
    host.alive.lock().unwrap().clear();
    let mut reborn = FakeHost::with_pid(77);
    reborn.me.start_time = 5_000_000;
    *reborn.alive.lock().unwrap() = vec![(77, 5_000_000)];
    let (mut env, _) = env_as(77, &[]);
    env.host = Arc::new(reborn);
    try_as(root.path(), env).unwrap();

    // Another namespace or another machine: held, whatever the pid says here.
    for change in
        [|h: &mut FakeHost| h.me.pid_namespace = 9, |h: &mut FakeHost| h.me.host = "elsewhere/1".into()]
    {
        leave_lock(root.path(), 5);
        let mut other = FakeHost::with_pid(78);
        change(&mut other);
        let (mut env, _) = env_as(78, &[]);
        env.host = Arc::new(other);
        assert_eq!(try_as(root.path(), env).unwrap_err().kind(), Kind::Held);
        std::fs::remove_file(root.path().join("f.lock")).unwrap();
    }

    // Another boot of the same machine: everybody of then is dead.
    leave_lock(root.path(), 5);
    let mut later = FakeHost::with_pid(78);
    later.me.boot_id = "later".into();
    *later.alive.lock().unwrap() = vec![(5, 1005), (78, 1078)];
    let (mut env, _) = env_as(78, &[]);
    env.host = Arc::new(later);
    try_as(root.path(), env).unwrap();
}

#[test]
fn age_alone_is_no_proof_unless_the_caller_says_so() {
    let root = tempfile::tempdir().unwrap();
    leave_lock(root.path(), 5);
    let (env, _) = env_as(6, &[(5, 1005)]);
    env.clock.sleep(Duration::from_secs(3_600));
    assert_eq!(try_as(root.path(), env.clone()).unwrap_err().kind(), Kind::Held, "an hour old and alive");
    let dir = Dir::open_on(OsFs::shared(), root.path(), env).unwrap();
    let by_age = LockOptions {
        stale: Stale::OlderThan(durable_io::LOCK_AGE_COMMON),
        ..options(LockKind::Exclusive, Duration::ZERO)
    };
    dir.lock_with("f", by_age).unwrap().unlock().unwrap();
}

#[test]
fn a_robbed_holder_is_told_at_unlock() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let lock = dir.lock_with("f", options(LockKind::Exclusive, Duration::ZERO)).unwrap();
    std::fs::remove_file(root.path().join("f.lock")).unwrap();
    assert_eq!(lock.unlock().unwrap_err().stage(), Stage::Lock);
    let lock = dir.lock_with("f", options(LockKind::Exclusive, Duration::ZERO)).unwrap();
    let body = std::fs::read_to_string(root.path().join("f.lock")).unwrap();
    let token_at = body.find("\"token\":\"").unwrap() + 9;
    let other = body.replace(&body[token_at..token_at + 32], &"0".repeat(32));
    std::io::Write::write_all(
        &mut std::fs::File::create(root.path().join("f.lock")).unwrap(),
        other.as_bytes(),
    )
    .unwrap();
    let error = lock.unlock().unwrap_err();
    assert_eq!((error.stage(), error.state()), (Stage::Lock, TargetState::Unknown));
    assert_eq!(std::fs::read_to_string(root.path().join("f.lock")).unwrap(), other, "not ours to remove");
}

/// Puts another file in the place of the lock file just before it is locked.
#[derive(Debug)]
struct Deleter(std::path::PathBuf, AtomicUsize);

impl Listener for Deleter {
    fn before(&self, call: &Call) -> std::io::Result<()> {
        if call.op == Op::Lock && self.1.fetch_add(1, Ordering::SeqCst) == 0 {
            std::fs::remove_file(&self.0)?;
            std::fs::File::create(&self.0)?;
        }
        Ok(())
    }
}

#[test]
fn a_kernel_lock_is_on_the_file_that_has_the_name() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("f.lock");
    let deleter = Arc::new(Deleter(path.clone(), AtomicUsize::new(0)));
    let fs = TapFs::shared(OsFs::shared(), Arc::<Deleter>::clone(&deleter));
    let dir = Dir::open_on(fs, root.path(), Env::os()).unwrap();
    let lock = dir.lock("f", Wait::DoNotWait).unwrap();
    assert_eq!(deleter.1.load(Ordering::SeqCst), 2, "locked twice: the first file had lost its name");
    let other = std::fs::File::open(&path).unwrap();
    assert!(matches!(other.try_lock(), Err(std::fs::TryLockError::WouldBlock)), "a newcomer is kept out");
    drop(lock);
    other.try_lock().unwrap();
}

#[test]
fn locks_of_255_byte_names_and_of_a_link_and_its_target() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    for kind in KINDS {
        let name = format!("{}{}", if kind == LockKind::Kernel { "k" } else { "x" }, "n".repeat(254));
        dir.lock_with(&name, options(kind, Duration::ZERO)).unwrap().unlock().unwrap();
    }
    std::os::unix::fs::symlink("target", root.path().join("alias")).unwrap();
    let _held = dir.lock("alias", Wait::DoNotWait).unwrap();
    assert!(root.path().join("target.lock").exists());
    let error = dir.lock("target", Wait::DoNotWait).unwrap_err();
    assert!(matches!(error.cause(), Cause::Invalid(Invalid::LockedByThisThread)));
}

#[test]
fn one_uncontended_kernel_lock_makes_exactly_these_calls() {
    let root = tempfile::tempdir().unwrap();
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let dir = Dir::open_on(fs, root.path(), Env::os()).unwrap();
    dir.lock("f", Wait::DoNotWait).unwrap().unlock().unwrap();
    recorder.clear();
    dir.lock("f", Wait::DoNotWait).unwrap().unlock().unwrap();
    let expected = [
        "Metadata f",
        "DirMetadata .",
        "Open f.lock ReadWrite",
        "Lock f.lock DoNotWait",
        "Metadata f.lock (handle)",
        "Metadata f.lock",
        "ReadAt f.lock @0",
        "Unlock f.lock",
    ];
    assert_eq!(recorder.lines(|line| line), expected);
    assert_eq!(
        (recorder.barriers(), recorder.count(Op::WriteAt)),
        (0, 0),
        "a lock costs no barrier and no write"
    );
}

#[test]
fn an_exclusive_body_is_complete_durable_and_private_before_it_is_visible() {
    let root = tempfile::tempdir().unwrap();
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let dir = Dir::open_on(fs, root.path(), Env::os()).unwrap();
    recorder.clear();
    let lock = dir.lock_with("f", options(LockKind::Exclusive, Duration::ZERO)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&lock.path().metadata().unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
    lock.unlock().unwrap();
    let mask = |line: String| match line.find(".steadfast-") {
        Some(at) => {
            let end = at + line[at..].find(".tmp").unwrap() + 4;
            format!("{}<temp>{}", &line[..at], &line[end..])
        }
        None => line,
    };
    let expected = [
        "Metadata f",
        "DirMetadata .",
        "Open f.lock Read",
        "CreateExclusive <temp> 0600",
        "WriteAt <temp> @0+1024",
        "SetMode <temp> 0600",
        "SyncAll <temp>",
        "Link <temp> -> f.lock",
        "Unlink <temp>",
        "Open f.lock Read",
        "ReadAt f.lock @0",
        "Unlink f.lock",
    ];
    assert_eq!(recorder.lines(mask), expected);
}

#[test]
fn waiting_threads_left_in_the_kernel_are_used_again_not_multiplied() {
    let root = tempfile::tempdir().unwrap();
    let mut holder = child("hold-kernel", root.path());
    wait_for(&root.path().join("held"));
    let dir = Dir::open(root.path()).unwrap();
    let threads = || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter(|task| {
                let name = task.as_ref().unwrap().path().join("comm");
                std::fs::read_to_string(name).is_ok_and(|comm| comm.trim() == "lock")
            })
            .count()
    };
    // Other tests of this process may be waiting too.
    let before = threads();
    for _ in 0..20 {
        dir.lock("file", Wait::UpTo(Duration::from_millis(5))).unwrap_err();
    }
    assert!(threads() <= before + 3, "{} threads wait", threads());
    holder.kill().unwrap();
    holder.wait().unwrap();
    dir.lock("file", Wait::UpTo(Duration::from_secs(20))).unwrap().unlock().unwrap();
}

#[test]
fn this_process_is_alive_to_itself() {
    let host = OsHost::default();
    let me = host.this_process().unwrap();
    assert_eq!(host.liveness(&me), media::Liveness::Alive);
}
