//! The points that failpoints and simulators stop at: announced right behind what they are named after, in every
//! operation.

use std::io;
use std::sync::{Arc, Mutex};

use durable_io::{BulkOptions, BulkSync, Dir, LogOptions, LogSync, SweepOptions};
use media::doubles::{Call, FakeHost, Listener, Op, TapFs, fixed_env};
use media::{Env, OsFs};

use crate::common::{Ground, OWN};
use crate::operations;

/// Calls that succeeded and marks, in their order.
#[derive(Debug, Default)]
struct Trace(Mutex<Vec<Step>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Done(Call),
    Mark(&'static str),
}

impl Listener for Trace {
    fn after(&self, call: &Call) -> io::Result<()> {
        self.0.lock().unwrap().push(Step::Done(call.clone()));
        Ok(())
    }

    fn mark(&self, point: &'static str) {
        self.0.lock().unwrap().push(Step::Mark(point));
    }
}

impl Trace {
    fn take(&self) -> Vec<Step> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Which mark belongs right behind a call. `None` for calls with none, and for steps within a step: a backup is
/// announced once, when it is whole and durable, and the removal of our own temporary file not at all.
fn mark_of(call: &Call) -> Option<&'static str> {
    let is_backup = call.subject.contains(".bak");
    let is_own = call.subject.contains(OWN);
    match call.op {
        _ if is_backup => None,
        Op::CreateExclusive if is_own => Some("after_create"),
        Op::CreateDir => Some("after_create"),
        Op::SyncAll | Op::SyncData | Op::SyncFilesystem => Some("after_fsync"),
        Op::Rename | Op::Link => Some("after_rename"),
        Op::Unlink if is_own => None,
        Op::Unlink => Some("after_unlink"),
        Op::DirSync => Some("after_dirsync"),
        _ => None,
    }
}

/// Checks the marks of one operation, that none is missing and none is out of place; which ones there were.
fn check(name: &str, steps: &[Step]) -> Vec<&'static str> {
    let backed_up = steps.iter().position(|step| *step == Step::Mark("after_backup"));
    for (index, step) in steps.iter().enumerate() {
        let Step::Done(call) = step else { continue };
        let Some(mark) = mark_of(call) else { continue };
        if backed_up == Some(index + 1) {
            // The barrier for the name of the backup.
            continue;
        }
        assert_eq!(steps.get(index + 1), Some(&Step::Mark(mark)), "{name}: behind {call}");
    }
    for (index, step) in steps.iter().enumerate() {
        let Step::Mark(mark) = step else { continue };
        // Behind several calls, or named after no single one.
        if matches!(*mark, "after_write" | "after_backup" | "after_set_aside") {
            continue;
        }
        let before = index.checked_sub(1).and_then(|before| steps.get(before));
        let is_behind = matches!(before, Some(Step::Done(call)) if mark_of(call) == Some(mark));
        assert!(is_behind, "{name}: {mark} behind {before:?}");
    }
    let marks = steps.iter().filter_map(|step| match step {
        Step::Mark(point) => Some(*point),
        Step::Done(_) => None,
    });
    marks.collect()
}

#[test]
fn every_operation_announces_its_points_right_behind_what_they_are_named_after() {
    for operation in operations::all() {
        let ground = Ground::new();
        (operation.prepare)(&ground);
        let trace = Arc::new(Trace::default());
        let dir = ground.dir_on(TapFs::shared(operation.base(), Arc::<Trace>::clone(&trace)));
        trace.take();
        (operation.run)(&dir).unwrap_or_else(|error| panic!("{}: {error}", operation.name));
        let steps = trace.take();
        let marks = check(operation.name, &steps);
        // Every operation ends with a barrier; that of a file alone is the only one without a name in it.
        let last = marks.last().copied();
        assert!(matches!(last, Some("after_dirsync" | "after_fsync")), "{}: {marks:?}", operation.name);
        let writes = steps.iter().any(|step| matches!(step, Step::Done(call) if call.op == Op::WriteAt));
        assert_eq!(writes, marks.contains(&"after_write"), "{}: {marks:?}", operation.name);
    }
}

/// A directory whose steps are traced from now on.
fn traced(ground: &Ground) -> (Arc<Trace>, Dir) {
    let trace = Arc::new(Trace::default());
    let dir = ground.dir_on(TapFs::shared(OsFs::shared(), Arc::<Trace>::clone(&trace)));
    trace.take();
    (trace, dir)
}

#[test]
fn a_bulk_announces_the_barrier_of_a_whole_file_system_and_the_directories_it_makes() {
    let ground = Ground::new();
    let (trace, dir) = traced(&ground);
    let options = BulkOptions { sync: BulkSync::WholeFileSystem, ..BulkOptions::default() };
    let report = dir.bulk_with(options).replace("d/f", b"1").publish_all();
    assert_eq!(report.published, 1);
    assert_eq!(
        check("bulk", &trace.take()),
        [
            "after_create",
            "after_create",
            "after_write",
            "after_fsync",
            "after_rename",
            "after_dirsync",
            "after_dirsync"
        ]
    );
}

#[test]
fn a_rename_between_two_names_of_one_file_announces_the_removal() {
    let ground = Ground::new();
    ground.put("a", b"1", 0o600);
    ground.hard_link("a", "b");
    let (trace, dir) = traced(&ground);
    dir.rename("a", "b").unwrap();
    let wanted = ["after_fsync", "after_dirsync", "after_unlink", "after_dirsync"];
    assert_eq!(check("rename", &trace.take()), wanted);
}

#[test]
fn a_sweep_announces_each_removal() {
    let ground = Ground::new();
    let dead = Env { host: Arc::new(FakeHost::with_pid(1)), ..fixed_env(2) };
    let dir = Dir::open_on(OsFs::shared(), ground.root(), dead).unwrap();
    for name in ["a", "b"] {
        std::mem::forget(dir.stage(name).unwrap());
    }
    let (trace, dir) = traced(&ground);
    let report = dir.sweep(&SweepOptions::default()).unwrap();
    assert_eq!(report.removed.len(), 2);
    let steps = trace.take();
    for (index, _) in
        steps.iter().enumerate().filter(|(_, step)| matches!(step, Step::Done(call) if call.op == Op::Unlink))
    {
        assert_eq!(steps.get(index + 1), Some(&Step::Mark("after_unlink")));
    }
    let marks = steps.iter().filter(|step| matches!(step, Step::Mark(_)));
    assert_eq!(marks.count(), 3, "and the barrier: {steps:?}");
}

#[test]
fn a_log_that_was_rotated_behind_its_back_announces_its_last_barrier() {
    let ground = Ground::new();
    let (trace, dir) = traced(&ground);
    let options = LogOptions { sync: LogSync::None, bytes_max: Some(10), ..LogOptions::default() };
    let mut first = dir.log_with("log", options.clone()).unwrap();
    assert!(first.append(b"{\"a\":1}").is_ok());
    let mut second = dir.log_with("log", options).unwrap();
    assert!(second.append(b"{\"a\":2}").is_ok(), "it rotates");
    trace.take();
    assert!(first.append(b"{\"a\":3}").is_ok());
    let mut steps = trace.take();
    steps.retain(|step| !matches!(step, Step::Done(call) if call.subject.ends_with(".lock")));
    assert_eq!(check("log", &steps).first(), Some(&"after_fsync"));
}

#[test]
fn a_log_announces_its_points_too() {
    let ground = Ground::new();
    let (trace, dir) = traced(&ground);
    let marks = |name| {
        let mut steps = trace.take();
        // The lock has a file of its own, without promises and without points.
        steps.retain(|step| !matches!(step, Step::Done(call) if call.subject.ends_with(".lock")));
        check(name, &steps)
    };
    let created = ["after_create", "after_write", "after_fsync", "after_rename", "after_dirsync"];
    let options = LogOptions { bytes_max: Some(12), ..LogOptions::default() };
    let mut log = dir.log_with("log", options.clone()).unwrap();
    // That there is no log is made durable first: whoever moved it away may have died before that.
    assert_eq!(marks("create"), [&["after_dirsync"][..], &created].concat());
    assert!(log.append(b"{\"a\":1}").is_ok());
    assert_eq!(marks("append"), ["after_write", "after_fsync"]);
    assert!(log.append(b"{\"a\":2}").is_ok());
    let moved = ["after_fsync", "after_dirsync", "after_rename", "after_dirsync"];
    assert_eq!(
        marks("rotation"),
        [&moved[..], &created, &["after_write", "after_fsync"]].concat(),
        "one barrier before the first rename, then the new file, then the record"
    );
    log.close().unwrap();
    ground.put("log", b"{\"a\":2}\n{\"torn", 0o600);
    trace.take();
    dir.log_with("log", options.clone()).unwrap().close().unwrap();
    assert_eq!(
        marks("repair"),
        [&["after_fsync", "after_dirsync"][..], &created, &["after_set_aside", "after_write", "after_fsync"]]
            .concat()
    );
    ground.put("log", b"{\"a\":2}", 0o600);
    trace.take();
    dir.log_with("log", options).unwrap().close().unwrap();
    assert_eq!(marks("newline"), ["after_fsync", "after_dirsync", "after_write", "after_fsync"]);
}
