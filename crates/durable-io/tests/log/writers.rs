//! Several writers: threads, processes, processes that are killed, and a lock that fails.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use durable_io::{
    Cause, CheckedTail, Dir, Error, Invalid, Kind, Log, LogOptions, Reached, Result, Retry, Stage,
    TargetState, Wait, Writers,
};
use media::doubles::{Call, Listener, Op, Recorder, TapFs, fixed_env};
use media::{OsFs, Reason};

use super::{NAME, bounded, files, get, on, options, plain, put, root, why};

const ROLE: &str = "STEADFAST_LOG_TEST_ROLE";
const ROOT: &str = "STEADFAST_LOG_TEST_ROOT";

/// Runs this test binary again as another process.
fn child(role: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writers::child_process", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn patient(log: LogOptions) -> LogOptions {
    LogOptions { lock_wait: Duration::from_secs(120), ..log }
}

/// Not a test of its own: what the other processes of the tests below run.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = Dir::open(std::env::var(ROOT).unwrap()).unwrap();
    match role.split_once('-') {
        Some(("writer", number)) => {
            let mut log = dir.log_with(NAME, patient(bounded(1500, 10_000))).unwrap();
            for i in 0..EACH {
                let appended = log.append(format!("{{\"w\":{number},\"i\":{i}}}").as_bytes()).unwrap();
                assert_eq!(appended.reached, Reached::Durable);
            }
        }
        Some(("endless", number)) => {
            let mut log = dir.log_with(NAME, patient(bounded(1500, 10_000))).unwrap();
            for i in 0.. {
                drop(log.append(format!("{{\"w\":{number},\"i\":{i}}}").as_bytes()).unwrap());
                println!("\nacknowledged {i}");
            }
        }
        Some(("one", _)) => {
            let _log = dir.log_with(NAME, LogOptions { writers: Writers::One, ..options() }).unwrap();
            println!("\nopen");
            // Until the parent kills this process, or is gone itself.
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
        _ => panic!("{role}"),
    }
}

/// Reads what the child prints until `last`.
fn wait_for(child: &mut Child, last: &str) {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    assert!(stdout.lines().any(|line| line.unwrap() == last));
}

const PROCESSES: usize = 4;
const EACH: usize = 200;

/// The records of each writer, in the order of the log, its rotated files first.
fn by_writer(root: &Path) -> Vec<Vec<usize>> {
    let index = |name: &str| match name.strip_prefix(NAME)?.strip_prefix('.') {
        None => Some(0),
        Some(number) => number.parse::<u32>().ok(),
    };
    let mut parts: Vec<_> =
        files(root).into_iter().filter_map(|(name, bytes)| Some((index(&name)?, bytes))).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.0));
    let mut seen = vec![Vec::new(); PROCESSES];
    let whole: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert!(whole.ends_with(b"\n"));
    for line in std::str::from_utf8(&whole).unwrap().lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| usize::try_from(record[key].as_u64().unwrap()).unwrap();
        seen[number("w")].push(number("i"));
    }
    seen
}

#[test]
fn four_processes_append_and_rotate_and_no_record_is_lost_or_torn_or_out_of_order() {
    let root = root();
    let children: Vec<_> = (0..PROCESSES).map(|i| child(&format!("writer-{i}"), root.path())).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let all: Vec<usize> = (0..EACH).collect();
    assert_eq!(by_writer(root.path()), vec![all; PROCESSES]);
    let rotated = files(root.path()).len() - 1;
    assert!(rotated > 5, "{rotated} rotations");
    assert!(files(root.path()).keys().all(|name| !name.contains(".torn-") && !name.starts_with('.')));
}

#[test]
fn what_a_killed_writer_was_told_is_durable_is_in_the_log_and_the_others_go_on() {
    let root = root();
    for acknowledged in [20, 75, 130] {
        let mut killed = child("endless-0", root.path());
        wait_for(&mut killed, &format!("acknowledged {acknowledged}"));
        killed.kill().unwrap();
        killed.wait().unwrap();
        let mut log = plain(root.path()).log_with(NAME, bounded(1500, 10_000)).unwrap();
        assert_eq!(log.append(b"{\"w\":1,\"i\":0}").unwrap().reached, Reached::Durable);
        assert_eq!(Log::check(&plain(root.path()), NAME, &options()).unwrap().tail, CheckedTail::Clean);
        let seen = by_writer(root.path());
        let last_run = seen[0].iter().rposition(|&i| i == 0).unwrap();
        assert!(seen[0][last_run..].starts_with(&(0..=acknowledged).collect::<Vec<_>>()));
    }
    assert_eq!(by_writer(root.path())[1].len(), 3);
}

fn impatient(writers: Writers) -> LogOptions {
    LogOptions { writers, lock_wait: Duration::ZERO, ..options() }
}

/// Opens the log on another thread, which holds no lock.
fn open_elsewhere(dir: &Dir, writers: Writers) -> Result<Log> {
    std::thread::scope(|scope| scope.spawn(|| dir.log_with(NAME, impatient(writers))).join().unwrap())
}

#[test]
fn a_log_of_one_writer_keeps_every_other_handle_out_until_it_is_closed() {
    let root = root();
    let dir = plain(root.path());
    let mut many = dir.log_with(NAME, impatient(Writers::Many)).unwrap();
    let mut log = dir.log_with(NAME, impatient(Writers::One)).unwrap();
    for writers in [Writers::One, Writers::Many] {
        let error = open_elsewhere(&dir, writers).unwrap_err();
        assert_eq!((error.kind(), error.stage(), error.retry()), (Kind::Held, Stage::Lock, Retry::Now));
        assert_eq!(error.state(), TargetState::Unchanged);
        // In the same thread it would be waiting for itself.
        assert_eq!(why(&dir.log_with(NAME, impatient(writers)).unwrap_err()), Invalid::LockedByThisThread);
    }
    let (error, many) = std::thread::spawn(move || (many.append(b"[0]").unwrap_err(), many)).join().unwrap();
    assert!(matches!(error.cause(), Cause::Held { .. }), "{error:?}");
    assert_eq!(log.append(b"[1]").unwrap().offset, 0);
    log.close().unwrap();
    let mut many = many;
    assert_eq!(many.append(b"[2]").unwrap().offset, 4, "a refusal is no failure: the handle goes on");
    assert_eq!(get(root.path(), NAME), b"[1]\n[2]\n");
    drop(open_elsewhere(&dir, Writers::One).unwrap());
    // Dropping releases as well.
    drop(dir.log_with(NAME, impatient(Writers::One)).unwrap());
    drop(dir.log_with(NAME, impatient(Writers::One)).unwrap());
}

#[test]
fn the_only_writer_of_a_log_is_succeeded_when_its_process_is_killed_and_not_before() {
    let root = root();
    let mut holder = child("one-0", root.path());
    wait_for(&mut holder, "open");
    let dir = Dir::open(root.path()).unwrap();
    let error = dir.log_with(NAME, impatient(Writers::One)).unwrap_err();
    let Cause::Held { holder: told, .. } = error.cause() else { panic!("{error:?}") };
    assert_eq!(told.process.as_ref().unwrap().pid, holder.id(), "the holder is named");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let mut log = dir.log_with(NAME, impatient(Writers::One)).unwrap();
    assert_eq!(log.append(b"[1]").unwrap().reached, Reached::Durable);
}

#[test]
fn a_log_may_be_moved_to_another_thread_with_its_lock() {
    fn is_send<T: Send>(_: &T) {}
    let root = root();
    let dir = plain(root.path());
    let mut log = dir.log_with(NAME, LogOptions { writers: Writers::One, ..options() }).unwrap();
    is_send(&log);
    std::thread::spawn(move || {
        drop(log.append(b"[1]").unwrap());
        log.close().unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(dir.log_with(NAME, impatient(Writers::One)).unwrap().recovery().len, 4);
}

#[test]
fn the_lock_is_beside_the_file_that_is_open_wherever_its_directory_has_gone() {
    let root = root();
    let dir = plain(root.path());
    let name = Path::new("a").join(NAME);
    let mut log = dir.log_with(&name, options()).unwrap();
    rename(root.path(), "a", "b");
    std::fs::create_dir(root.path().join("a")).unwrap();
    drop(log.append(b"[1]").unwrap());
    assert_eq!(std::fs::read_dir(root.path().join("a")).unwrap().count(), 0);
    let moved = Path::new("b").join(NAME);
    let held = dir.lock(&moved, Wait::DoNotWait).unwrap();
    assert_eq!(why(&log.append(b"[2]").unwrap_err()), Invalid::LockedByThisThread);
    drop(held);
    assert_eq!(std::fs::read(root.path().join(moved)).unwrap(), b"[1]\n");
}

fn rename(root: &Path, from: &str, to: &str) {
    rustix::fs::rename(root.join(from), root.join(to)).unwrap();
}

/// What an append to a log of many writers calls, lock and all.
const APPEND: [&str; 12] = [
    "DirMetadata .",
    "Open log.jsonl.lock ReadWrite",
    "Lock log.jsonl.lock DoNotWait",
    "Metadata log.jsonl.lock (handle)",
    "Metadata log.jsonl.lock",
    "ReadAt log.jsonl.lock @0",
    "WriteAt log.jsonl.lock @0+1024",
    "Metadata log.jsonl",
    "ReadAt log.jsonl @2",
    "Append log.jsonl +4",
    "SyncData log.jsonl",
    "Unlock log.jsonl.lock",
];

#[test]
fn an_append_takes_the_lock_first_and_lets_go_of_it_after_the_barrier() {
    let root = root();
    put(root.path(), NAME, b"{}\n");
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
    // Without a note, one is written; it says who holds the lock and is no part of it.
    put(root.path(), "log.jsonl.lock", b"");
    recorder.clear();
    drop(log.append(b"[1]").unwrap());
    assert_eq!(recorder.lines(|line| line), APPEND);
    recorder.clear();
    drop(log.append(b"[2]").unwrap());
    let mut again = APPEND.map(|line| line.replace("ReadAt log.jsonl @2", "ReadAt log.jsonl @6")).to_vec();
    again.retain(|line| !line.starts_with("WriteAt"));
    assert_eq!(recorder.lines(|line| line), again);
}

#[test]
fn a_log_of_one_writer_touches_its_lock_when_it_is_opened_and_when_it_is_closed() {
    let root = root();
    put(root.path(), NAME, b"{}\n");
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let mut log =
        on(fs, root.path()).log_with(NAME, LogOptions { writers: Writers::One, ..options() }).unwrap();
    let locks = |recorder: &Recorder| {
        let lines = recorder.lines(|line| line);
        lines.into_iter().filter(|line| line.contains("log.jsonl.lock")).collect::<Vec<_>>()
    };
    let first = recorder.lines(|line| line);
    let at = |wanted: &str| first.iter().position(|line| line == wanted).unwrap();
    assert!(at("Lock log.jsonl.lock DoNotWait") < at("Metadata log.jsonl"));
    assert!(!locks(&recorder).iter().any(|line| line.starts_with("Unlock")));
    recorder.clear();
    drop(log.append(b"[1]").unwrap());
    assert_eq!(locks(&recorder), Vec::<String>::new());
    log.close().unwrap();
    assert_eq!(locks(&recorder), ["Unlock log.jsonl.lock"]);
}

/// Fails call number `at` with `code`, counted from when it is armed.
#[derive(Debug)]
struct FailFromNow {
    at: usize,
    code: i32,
    seen: AtomicUsize,
}

const DISARMED: usize = 1_000_000;

impl FailFromNow {
    fn over_os(at: usize, code: i32) -> (Arc<Self>, Arc<dyn media::Fs>) {
        let fail = Arc::new(Self { at, code, seen: AtomicUsize::new(DISARMED) });
        let fs = TapFs::shared(OsFs::shared(), Arc::<Self>::clone(&fail));
        (fail, fs)
    }
}

impl Listener for FailFromNow {
    fn before(&self, _call: &Call) -> std::io::Result<()> {
        if self.seen.fetch_add(1, Ordering::SeqCst) == self.at {
            return Err(std::io::Error::from_raw_os_error(self.code));
        }
        Ok(())
    }
}

/// What an append says when a call of its lock fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// At [`Stage::Lock`], before anything was touched.
    NotLocked,
    /// The record is durable; the lock was not let go of in the regular way.
    NotReleased,
    Appended,
}

fn then(line: &str) -> Option<Then> {
    match line.split(' ').next().unwrap() {
        "WriteAt" => Some(Then::Appended),
        "Unlock" => Some(Then::NotReleased),
        _ if line.contains(".lock") || line == "DirMetadata ." => Some(Then::NotLocked),
        _ => None,
    }
}

fn is_of_lock(error: &Error, code: i32) {
    assert_eq!((error.stage(), error.state()), (Stage::Lock, TargetState::Unchanged), "{error:?}");
    let reason = Reason::of(&std::io::Error::from_raw_os_error(code));
    assert_eq!((error.reason(), error.raw_os_error()), (Some(reason), Some(code)));
    assert!(error.path().ends_with("log.jsonl.lock"));
}

#[test]
fn a_lock_call_that_fails_leaves_the_log_alone_and_a_release_that_fails_is_told_beside_the_success() {
    let mut runs = 0;
    for (at, line) in APPEND.iter().enumerate() {
        let Some(then) = then(line) else { continue };
        for code in [5, 28, 13, 30, 122, 4, 95, 9] {
            let root = root();
            put(root.path(), NAME, b"{}\n");
            let (fail, fs) = FailFromNow::over_os(at, code);
            let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
            put(root.path(), "log.jsonl.lock", b"");
            fail.seen.store(0, Ordering::SeqCst);
            let outcome = log.append(b"[1]");
            fail.seen.store(DISARMED, Ordering::SeqCst);
            let written = match (then, outcome) {
                (Then::NotLocked, Err(error)) => {
                    is_of_lock(&error, code);
                    &b"{}\n"[..]
                }
                (Then::NotReleased, Ok(appended)) => {
                    assert_eq!((appended.offset, appended.len, appended.reached), (3, 4, Reached::Durable));
                    is_of_lock(&appended.lock_failure.unwrap(), code);
                    b"{}\n[1]\n"
                }
                (Then::Appended, Ok(appended)) => {
                    assert_eq!(appended.reached, Reached::Durable);
                    assert!(appended.lock_failure.is_none());
                    b"{}\n[1]\n"
                }
                (then, outcome) => panic!("`{line}` fails with {code}: {then:?} expected, got {outcome:?}"),
            };
            assert_eq!(get(root.path(), NAME), written, "`{line}` fails with {code}");
            // Nothing is poisoned and nobody is kept out: neither this handle nor another thread's.
            assert_eq!(log.append(b"[2]").unwrap().reached, Reached::Durable);
            drop(open_elsewhere(&plain(root.path()), Writers::One).unwrap());
            assert_eq!(get(root.path(), NAME), [written, b"[2]\n"].concat());
            runs += 1;
        }
    }
    assert_eq!(runs, 8 * 8, "every call of the lock, with every code");
}

#[test]
fn a_log_that_cannot_be_locked_is_not_opened_and_nothing_is_created_but_the_lock() {
    for (op, code) in [(Op::Open, 13), (Op::CreateExclusive, 30), (Op::Lock, 95), (Op::Lock, 5)] {
        let root = root();
        let fail = media::doubles::FailNth::new(0, code).only(op);
        let dir = Dir::open_on(fail.over(OsFs::shared()).1, root.path(), fixed_env(1)).unwrap();
        is_of_lock(&dir.log_with(NAME, options()).unwrap_err(), code);
        assert!(files(root.path()).is_empty());
    }
}
