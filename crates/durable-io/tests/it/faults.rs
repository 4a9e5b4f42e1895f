//! Every call of every operation fails in turn, with every code; and whatever the operation then says is
//! compared with what is really there.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use durable_io::{
    Change, Dir, Durability, Error, Kind, Publish, Reason, Retry, Stage, TargetState, WriteOptions,
};
use media::OsFs;
use media::doubles::{Call, FailNth, Lasting, Listener, Op, Recorder, ShortWrites, TapFs, When, fixed_env};

use crate::common::{
    EACCES, EBADF, EDQUOT, EINTR, EIO, ENOENT, ENOSPC, ENOTSUP, EROFS, Ground, Seen, Snapshot, durably, mask,
};
use crate::operations::{self, Done, Operation, Row, Then};

const CODES: [i32; 8] = [EIO, ENOSPC, EACCES, EROFS, EDQUOT, EINTR, ENOTSUP, EBADF];

/// What the documentation says of a code: the reason, what would remedy it, and whether to repeat the call
/// where the target is unchanged and the failure was not that of a barrier.
fn documented(code: i32) -> (Reason, Kind, Retry) {
    match code {
        EIO => (Reason::IoError, Kind::Io, Retry::FreshData),
        ENOSPC => (Reason::DiskFull, Kind::NoSpace, Retry::AfterChange),
        EDQUOT => (Reason::QuotaExceeded, Kind::NoSpace, Retry::AfterChange),
        EACCES => (Reason::PermissionDenied, Kind::Denied, Retry::AfterChange),
        EROFS => (Reason::ReadOnly, Kind::Denied, Retry::AfterChange),
        EINTR => (Reason::Interrupted, Kind::Io, Retry::Now),
        ENOTSUP => (Reason::Unsupported, Kind::Unsupported, Retry::AfterChange),
        EBADF => (Reason::Other(EBADF), Kind::Io, Retry::FreshData),
        other => panic!("no expectation for code {other}"),
    }
}

fn documented_retry(code: i32, stage: Stage, state: TargetState) -> Retry {
    let is_barrier = matches!(stage, Stage::SyncFile | Stage::SyncDir);
    match documented(code) {
        _ if state != TargetState::Unchanged => Retry::FreshData,
        // Asking again for a barrier that is not offered changes nothing; for one that failed, it proves nothing.
        (_, _, retry) if code == ENOTSUP => retry,
        _ if is_barrier => Retry::FreshData,
        (_, _, retry) => retry,
    }
}

/// What is there before an operation, and after a good run of it.
struct Truth {
    before: Snapshot,
    after: Snapshot,
}

impl Truth {
    fn of(operation: &Operation) -> Self {
        let ground = Ground::new();
        (operation.prepare)(&ground);
        let before = ground.snapshot();
        (operation.run)(&ground.dir_on(operation.base())).unwrap();
        Self { before, after: ground.snapshot() }
    }

    /// Whether what is there now is what the error says.
    fn agrees(&self, state: TargetState, now: &Snapshot) -> bool {
        match state {
            TargetState::Unchanged => without_new_dirs(now, &self.before) == self.before,
            TargetState::ReplacedNotDurable => *now == self.after,
            TargetState::Unknown => true,
            TargetState::DurableNotVisible => false,
        }
    }
}

/// Parents that were created on the way may stay; they are not the target.
fn without_new_dirs(now: &Snapshot, before: &Snapshot) -> Snapshot {
    let mut now = now.clone();
    now.retain(|name, seen| before.contains_key(name) || !matches!(seen, Seen::Dir { .. }));
    now
}

/// One run with one fault.
struct Trial<'a> {
    operation: &'a Operation,
    truth: &'a Truth,
    ground: Ground,
    outcome: Result<Done, Error>,
    code: i32,
    when: When,
    /// For messages.
    label: String,
}

impl<'a> Trial<'a> {
    fn run(operation: &'a Operation, truth: &'a Truth, fault: FailNth, code: i32, row: &Row) -> Self {
        let ground = Ground::new();
        (operation.prepare)(&ground);
        let label = format!("{}: `{}` fails with {code} ({fault:?})", operation.name, row.call);
        let (failing, fs) = fault.over(operation.base());
        let dir = ground.dir_on(fs);
        let outcome = (operation.run)(&dir);
        assert!(failing.failed().is_some_and(|call| names(&call, row)), "{label}: {:?}", failing.failed());
        Self { operation, truth, ground, outcome, code, when: When::Before, label }
    }

    /// The call that failed was carried out all the same.
    fn carried_out(self) -> Self {
        Self { when: When::After, ..self }
    }

    fn check(&self, then: Then, may_be_left: bool) {
        let label = &self.label;
        match (then, &self.outcome) {
            (Then::Succeeds, Ok(done)) => {
                assert_eq!(done.durability, Durability::Durable, "{label}");
                assert_eq!(done.leftovers, Vec::<std::path::PathBuf>::new(), "{label}");
                assert_eq!(self.ground.snapshot(), self.truth.after, "{label}");
                assert_eq!(self.strays(), Vec::<String>::new(), "{label}");
            }
            (Then::SucceedsNaming, Ok(done)) => {
                assert_eq!(done.durability, Durability::Durable, "{label}");
                assert_eq!(self.ground.snapshot(), self.truth.after, "{label}");
                self.check_named(done);
            }
            (Then::Fails(stage, state), Err(error)) => self.check_error(error, stage, state, may_be_left),
            (then, outcome) => panic!("{label}: {then:?} expected, got {outcome:?}"),
        }
    }

    fn check_error(&self, error: &Error, stage: Stage, state: TargetState, may_be_left: bool) {
        let label = format!("{}: {error:?}", self.label);
        let (reason, kind, _) = documented(self.code);
        assert_eq!((error.stage(), error.state()), (stage, state), "{label}");
        assert_eq!((error.reason(), error.raw_os_error()), (Some(reason), Some(self.code)), "{label}");
        assert_eq!(
            (error.kind(), error.retry()),
            (kind, documented_retry(self.code, stage, state)),
            "{label}"
        );
        assert!(error.path().starts_with(self.ground.root()), "{label}");
        let now = self.ground.snapshot();
        assert!(self.truth.agrees(error.state(), &now), "{label}: {now:?}");

        let mut named: Vec<String> = error.leftovers().iter().map(|left| name_of(&left.path)).collect();
        assert!(may_be_left || named.is_empty(), "{label}");
        named.extend(error.backup().map(name_of));
        named.sort();
        assert_eq!(self.strays(), named, "{label}");
        let in_place = stage == Stage::WriteInPlace && state == TargetState::Unknown;
        assert_eq!(error.backup().is_some(), in_place, "{label}");
        if let Some(backup) = error.backup() {
            assert_eq!(std::fs::read(backup).unwrap(), b"old bytes", "{label}");
        }
    }

    /// Every file that is there is named; a removal that was carried out and then denied leaves nothing, and is
    /// named all the same.
    fn check_named(&self, done: &Done) {
        let mut named = done.leftovers.iter().map(|path| name_of(path)).collect::<Vec<_>>();
        named.sort();
        assert!(!named.is_empty(), "{}", self.label);
        match self.when {
            When::Before => assert_eq!(self.strays(), named, "{}", self.label),
            When::After => assert_eq!((self.strays(), named.len()), (vec![], 1), "{}", self.label),
        }
    }

    fn strays(&self) -> Vec<String> {
        let mut strays: Vec<String> = self.ground.strays().iter().map(|path| name_of(path)).collect();
        strays.sort();
        strays
    }
}

fn names(call: &Call, row: &Row) -> bool {
    let line = mask(&call.to_string());
    let is_prefix = |mark| row.call.strip_suffix(mark).is_some_and(|start| line.starts_with(start));
    line == row.call || is_prefix("<new>") || is_prefix("<owner>")
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Opening the directory is the call before those of the table.
const OPENING: usize = 1;

#[test]
fn whichever_call_fails_with_whatever_code_the_caller_is_told_the_truth() {
    let mut runs = 0;
    for operation in operations::all() {
        let truth = Truth::of(&operation);
        for (index, row) in operation.calls.iter().enumerate() {
            for code in CODES {
                let fault = FailNth::new(index + OPENING, code);
                Trial::run(&operation, &truth, fault, code, row).check(row.on(code), false);
                runs += 1;
            }
        }
    }
    assert!(runs > 1_500, "{runs} runs");
}

const CARRIED_OUT: [(&str, Op); 5] = [
    ("Rename", Op::Rename),
    ("Unlink", Op::Unlink),
    ("Link", Op::Link),
    ("DirSync", Op::DirSync),
    ("SyncAll", Op::SyncAll),
];

/// What the caller must be told of a call that was carried out although the system denies it.
fn after(row: &Row, code: i32) -> Then {
    match row.op() {
        "Rename" | "Link" => Then::Fails(Stage::Rename, TargetState::ReplacedNotDurable),
        "Unlink" if row.then == Then::Fails(Stage::Remove, TargetState::Unchanged) => {
            Then::Fails(Stage::Remove, TargetState::ReplacedNotDurable)
        }
        _ => row.on(code),
    }
}

#[test]
fn a_call_that_was_carried_out_and_then_denied_is_looked_after() {
    for operation in operations::all() {
        let truth = Truth::of(&operation);
        for (name, op) in CARRIED_OUT {
            // The fault counts calls that succeeded, so those refused below do not count.
            let rows = operation.calls.iter().filter(|row| row.op() == name && !row.refused);
            for (nth, row) in rows.enumerate() {
                for code in [EIO, EINTR, EBADF] {
                    let fault = FailNth::new(nth, code).only(op).when(When::After);
                    let trial = Trial::run(&operation, &truth, fault, code, row);
                    trial.carried_out().check(after(row, code), false);
                }
            }
        }
    }
}

/// From the call at `index` on, everything fails: which failure is the first that counts?
fn first_that_counts(operation: &Operation, index: usize, code: i32) -> Option<&Row> {
    let rest = operation.calls.get(index..)?;
    rest.iter().find(|row| matches!(row.on(code), Then::Fails(..)))
}

#[test]
fn on_a_disk_that_stays_full_the_file_that_could_not_be_removed_is_named() {
    for operation in operations::all() {
        let truth = Truth::of(&operation);
        for (index, row) in operation.calls.iter().enumerate() {
            for code in [ENOSPC, EDQUOT, EROFS] {
                let fault = FailNth::new(index + OPENING, code).lasting(Lasting::Forever);
                let trial = Trial::run(&operation, &truth, fault, code, row);
                match first_that_counts(&operation, index, code) {
                    Some(counts) => trial.check(counts.on(code), true),
                    None => trial.check(row.on(code), true),
                }
            }
        }
    }
}

#[test]
fn a_rename_that_fails_on_a_dying_disk_is_unknown_because_nobody_can_look() {
    let operation = operations::replace_existing();
    let index = operation.calls.iter().position(|row| row.op() == "Rename").unwrap();
    let row = operation.calls.get(index).unwrap();
    let truth = Truth::of(&operation);
    let fault = FailNth::new(index + OPENING, EIO).lasting(Lasting::Forever);
    let trial = Trial::run(&operation, &truth, fault, EIO, row);
    trial.check(Then::Fails(Stage::Rename, TargetState::Unknown), true);
    assert_eq!(trial.outcome.unwrap_err().leftovers().len(), 1);
    assert_eq!(trial.operation.name, "replace existing");
}

/// Fails every call but hears which name a link got: the second name is there, and looking fails.
#[test]
fn a_link_that_may_have_been_made_is_unknown_while_nobody_can_look() {
    let ground = Ground::new();
    let (_, no_flags) = FailNth::new(0, ENOTSUP).only(Op::Rename).over(OsFs::shared());
    let (_, link_denied) = FailNth::new(0, EIO).only(Op::Link).when(When::After).over(no_flags);
    // The first look is the inspection before the write, the second that after the link.
    let (_, blind) = FailNth::new(2, EIO).only(Op::Metadata).over(link_denied);
    let error = ground.dir_on(blind).create_new("t", b"new").unwrap_err();
    assert_eq!((error.stage(), error.state()), (Stage::Rename, TargetState::Unknown), "{error:?}");
    assert_eq!(ground.read("t"), b"new");
}

#[test]
fn opening_a_path_fails_truthfully_at_every_call_of_creating_it() {
    let recorded = {
        let ground = Ground::new();
        let (recorder, fs) = Recorder::over(OsFs::shared());
        Dir::open_or_create_on(fs, ground.path("a/b"), fixed_env(1)).unwrap();
        recorder.calls()
    };
    for (index, call) in recorded.iter().enumerate() {
        for code in CODES {
            let ground = Ground::new();
            let (_, fs) = FailNth::new(index, code).over(OsFs::shared());
            let error = Dir::open_or_create_on(fs, ground.path("a/b"), fixed_env(1)).unwrap_err();
            let stage = match call.op {
                Op::OpenDir => Stage::OpenDir,
                Op::CreateDir => Stage::CreateDir,
                Op::DirSync => Stage::SyncDir,
                other => panic!("{other:?}"),
            };
            assert_eq!((error.stage(), error.raw_os_error()), (stage, Some(code)), "{call}");
            assert_eq!(error.retry(), documented_retry(code, stage, TargetState::Unchanged), "{call}");
        }
    }
}

#[test]
fn short_writes_are_continued_to_the_last_byte() {
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for len_max in [1, 7] {
        let ground = Ground::new();
        ground.put("shared", b"old", 0o600);
        ground.hard_link("shared", "other");
        let dir = ground.dir_on(TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max })));
        durably(dir.replace("t", &bytes));
        durably(dir.create_new("n", &bytes));
        let in_place = WriteOptions { hard_links: durable_io::HardLinks::InPlace, ..WriteOptions::default() };
        durably(dir.replace_with("shared", &bytes, &in_place));
        for name in ["t", "n", "other"] {
            assert_eq!(ground.read(name), bytes, "{name}, {len_max} bytes at a time");
        }
    }
}

#[test]
fn a_write_that_takes_nothing_is_a_failure_and_not_a_loop() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o600);
    let dir = ground.dir_on(TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max: 0 })));
    let error = dir.replace("t", b"new").unwrap_err();
    assert_eq!(
        (error.stage(), error.state(), error.kind()),
        (Stage::TempWrite, TargetState::Unchanged, Kind::Io)
    );
    assert_eq!((ground.read("t"), ground.strays()), (b"old".to_vec(), vec![]));
}

/// A disk with room for so many bytes.
#[derive(Debug)]
struct Room {
    left: AtomicUsize,
}

impl Listener for Room {
    fn before(&self, call: &Call) -> io::Result<()> {
        if call.op == Op::WriteAt && self.left.load(Ordering::Relaxed) == 0 {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    fn write_len(&self, _call: &Call, len: usize) -> usize {
        let len = len.min(self.left.load(Ordering::Relaxed));
        self.left.fetch_sub(len, Ordering::Relaxed);
        len
    }
}

#[test]
fn a_stream_that_failed_once_can_never_be_sealed() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o600);
    let room = Arc::new(Room { left: AtomicUsize::new(5) });
    let dir = ground.dir_on(TapFs::shared(OsFs::shared(), Arc::<Room>::clone(&room)));
    let mut staged = dir.stage("t").unwrap();
    staged.write_all(b"abc").unwrap();
    assert_eq!(staged.write_all(b"defghi").unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(ground.strays(), Vec::<std::path::PathBuf>::new(), "the space is given back at once");
    // Room again: what was lost is lost all the same.
    room.left.store(1 << 20, Ordering::Relaxed);
    assert_eq!(staged.write_all(b"jkl").unwrap_err().kind(), Kind::Poisoned);
    assert_eq!(staged.reserve(2 << 20).unwrap_err().kind(), Kind::Poisoned);
    let error = staged.seal().unwrap_err();
    assert_eq!(
        (error.kind(), error.state(), error.retry()),
        (Kind::Poisoned, TargetState::Unchanged, Retry::Never)
    );
    assert_eq!(ground.read("t"), b"old");
}

#[test]
fn a_writer_that_failed_through_io_write_cannot_be_sealed_either() {
    let ground = Ground::new();
    let (_, fs) = FailNth::new(0, EIO).only(Op::WriteAt).over(OsFs::shared());
    let mut staged = ground.dir_on(fs).stage("t").unwrap();
    let mut source: &[u8] = &[7; 100_000];
    // As `io::copy` into it: the caller may well ignore this error.
    assert!(io::copy(&mut source, &mut staged).is_err());
    assert_eq!(staged.seal().unwrap_err().kind(), Kind::Poisoned);
    assert!(!ground.exists("t") && ground.strays().is_empty());
}

#[test]
fn a_sealed_file_is_handed_back_and_publishes_once_the_obstacle_is_gone() {
    for (how, change) in [(Publish::Replace, Change::Replaced), (Publish::CreateNew, Change::Created)] {
        for code in [EACCES, EROFS, EIO] {
            let ground = Ground::new();
            if how == Publish::Replace {
                ground.put("t", b"old", 0o640);
            }
            let (recorder, fs) = Recorder::over(OsFs::shared());
            let (_, fs) = FailNth::new(0, code).only(Op::Rename).over(fs);
            let mut staged = ground.dir_on(fs).stage("t").unwrap();
            staged.write_all(b"new").unwrap();
            let failure = *staged.seal().unwrap().publish(how).unwrap_err();
            assert_eq!(failure.error.state(), TargetState::Unchanged);
            let published = failure.sealed.unwrap().publish(how).unwrap();
            assert_eq!((published.change, published.durability), (change, Durability::Durable));
            assert_eq!((ground.read("t"), ground.strays()), (b"new".to_vec(), vec![]));
            assert_eq!(recorder.count(Op::SyncAll), 1, "the bytes were durable already");
        }
    }
}

#[test]
fn a_name_taken_in_the_meantime_hands_the_file_back_for_another_decision() {
    let ground = Ground::new();
    let mut staged = ground.dir().stage_new("t", &WriteOptions::default()).unwrap();
    staged.write_all(b"new").unwrap();
    ground.put("t", b"faster", 0o600);
    let failure = *staged.seal().unwrap().publish(Publish::CreateNew).unwrap_err();
    assert_eq!((failure.error.kind(), failure.error.state()), (Kind::Exists, TargetState::Unchanged));
    assert_eq!(ground.read("t"), b"faster");
    durably(failure.sealed.unwrap().publish(Publish::Replace));
    assert_eq!((ground.read("t"), ground.strays()), (b"new".to_vec(), vec![]));
}

#[test]
fn what_is_dropped_or_discarded_leaves_nothing() {
    let ground = Ground::new();
    let dir = ground.dir();
    let stage = || {
        let mut staged = dir.stage("t").unwrap();
        staged.write_all(b"new").unwrap();
        assert_eq!(ground.strays().len(), 1);
        staged
    };
    drop(stage());
    assert!(ground.strays().is_empty());
    drop(stage().seal().unwrap());
    assert!(ground.strays().is_empty());
    stage().discard().unwrap();
    assert!(ground.strays().is_empty());
    // Turned into a plain error: nobody will come back for the file.
    ground.mkdir("t2");
    let mut staged = dir.stage("t3").unwrap();
    staged.write_all(b"new").unwrap();
    std::fs::create_dir(ground.path("t3")).unwrap();
    let error = Error::from(staged.seal().unwrap().publish(Publish::Replace).unwrap_err());
    assert_eq!((error.stage(), error.kind()), (Stage::Rename, Kind::Invalid));
    assert!(ground.strays().is_empty() && !ground.exists("t"));
}

#[test]
fn discarding_says_when_the_file_could_not_be_removed() {
    let ground = Ground::new();
    let (_, fs) = FailNth::new(0, EIO).only(Op::Unlink).over(OsFs::shared());
    let error = ground.dir_on(fs).stage("t").unwrap().discard().unwrap_err();
    assert_eq!((error.stage(), error.raw_os_error()), (Stage::Cleanup, Some(EIO)));
    assert_eq!(ground.strays(), [error.path()]);
    let (_, fs) = FailNth::new(0, ENOENT).only(Op::Unlink).over(OsFs::shared());
    assert!(ground.dir_on(fs).remove("t").is_err());
}
