//! The doubles do what their names say.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use media::doubles::{
    FailNth, FakeHost, InlinePool, Lasting, Listener, ManualClock, Op, Recorder, SeededEntropy, ShortWrites,
    TapFs, When, fixed_env,
};
use media::{
    Access, BlockDevice as _, Clock, Dir, Entropy, FileDisk, Fs, Geometry, HostIdentity, Liveness, Mode,
    OsFs, RenameMode, SyncPool,
};

const EIO: i32 = 5;

fn recorded() -> (tempfile::TempDir, Arc<Recorder>, Arc<dyn Fs>) {
    let root = tempfile::tempdir().unwrap();
    let (recorder, fs) = Recorder::over(OsFs::shared());
    (root, recorder, fs)
}

fn failing(fail: FailNth) -> (tempfile::TempDir, Arc<FailNth>, Arc<dyn Dir>) {
    let root = tempfile::tempdir().unwrap();
    let (fail, fs) = fail.over(OsFs::shared());
    let dir = fs.open_dir(root.path()).unwrap();
    (root, fail, dir)
}

fn code<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn recorder_keeps_order_and_names_below_sub_directories() {
    let (root, recorder, fs) = recorded();
    let dir = fs.open_dir(root.path()).unwrap();
    dir.create_dir("sub".as_ref(), Mode::PRIVATE_DIR).unwrap();
    let sub = dir.open_dir("sub".as_ref()).unwrap();
    let file = sub.create_exclusive("new".as_ref(), Mode::PRIVATE).unwrap();
    assert_eq!(file.write_at(7, b"abc").unwrap(), 3);
    file.sync_data().unwrap();
    sub.rename("new".as_ref(), &*dir, "done".as_ref(), RenameMode::Replace).unwrap();
    dir.rename("done".as_ref(), &*sub, "back".as_ref(), RenameMode::NoReplace).unwrap();
    sub.link("back".as_ref(), "twin".as_ref()).unwrap();
    sub.sync().unwrap();
    dir.sync().unwrap();
    let path = root.path().display().to_string();
    assert_eq!(
        recorder.lines(|line| line.replace(&path, "ROOT")),
        [
            "OpenDir ROOT",
            "CreateDir sub 0700",
            "OpenDir sub",
            "CreateExclusive sub/new 0600",
            "WriteAt sub/new @7+3",
            "SyncData sub/new",
            "Rename sub/new -> done",
            "Rename done -> sub/back (NoReplace)",
            "Link sub/back -> sub/twin",
            "DirSync sub",
            "DirSync .",
        ]
    );
    assert_eq!((recorder.total(), recorder.barriers(), recorder.count(Op::Rename)), (11, 3, 2));
    recorder.clear();
    assert_eq!(recorder.total(), 0);
}

#[test]
fn recorder_writes_down_calls_that_fail_too() {
    let (root, recorder, fs) = recorded();
    let dir = fs.open_dir(root.path()).unwrap();
    assert!(dir.open("missing".as_ref(), Access::Append).is_err());
    assert_eq!(recorder.calls().last().unwrap().to_string(), "Open missing Append");
}

#[test]
fn fail_before_leaves_the_call_undone() {
    let (_root, fail, dir) = failing(FailNth::new(0, EIO).only(Op::CreateDir));
    assert_eq!(code(dir.create_dir("a".as_ref(), Mode::PRIVATE_DIR)), Some(EIO));
    assert!(dir.metadata("a".as_ref()).is_err(), "it was not carried out");
    dir.create_dir("a".as_ref(), Mode::PRIVATE_DIR).unwrap();
    assert_eq!(fail.failed().unwrap().to_string(), "CreateDir a 0700");
}

#[test]
fn fail_after_carries_the_call_out_and_denies_it() {
    let (_root, fail, dir) = failing(FailNth::new(0, EIO).only(Op::CreateDir).when(When::After));
    assert_eq!(code(dir.create_dir("a".as_ref(), Mode::PRIVATE_DIR)), Some(EIO));
    dir.metadata("a".as_ref()).unwrap();
    assert_eq!(fail.failed().unwrap().op, Op::CreateDir);
}

#[test]
fn fail_once_fails_one_call_and_forever_all_from_it_on() {
    for (lasting, wanted) in [
        (Lasting::Once, [None, Some(EIO), None, None]),
        (Lasting::Forever, [None, Some(EIO), Some(EIO), Some(EIO)]),
    ] {
        let (_root, fail, dir) = failing(FailNth::new(1, EIO).only(Op::DirSync).lasting(lasting));
        assert_eq!(fail.failed(), None);
        let found = [(); 4].map(|()| code(dir.sync()));
        assert_eq!(found, wanted, "{lasting:?}");
    }
}

#[test]
fn fail_without_only_counts_every_call_and_with_it_only_those() {
    // Call 0 opened the directory.
    let (_root, fail, dir) = failing(FailNth::new(2, EIO));
    dir.sync().unwrap();
    assert_eq!(code(dir.dir_metadata()), Some(EIO));
    assert_eq!(fail.failed().unwrap().op, Op::DirMetadata);

    let (_root, fail, dir) = failing(FailNth::new(0, EIO).only(Op::SyncAll).lasting(Lasting::Forever));
    let file = dir.create_exclusive("file".as_ref(), Mode::PRIVATE).unwrap();
    file.sync_data().unwrap();
    assert_eq!(code(file.sync_all()), Some(EIO));
    assert_eq!(fail.failed().unwrap().to_string(), "SyncAll file");
}

#[test]
fn fail_past_the_last_call_fails_nothing() {
    let (_root, fail, dir) = failing(FailNth::new(1000, EIO));
    dir.sync().unwrap();
    assert_eq!(fail.failed(), None);
}

#[test]
fn short_writes_take_no_more_than_they_may() {
    let root = tempfile::tempdir().unwrap();
    let fs = TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max: 3 }));
    let dir = fs.open_dir(root.path()).unwrap();
    let file = dir.create_exclusive("file".as_ref(), Mode::PRIVATE).unwrap();
    assert_eq!(file.write_at(0, b"abcdef").unwrap(), 3);
    assert_eq!(file.write_at(3, b"de").unwrap(), 2);
    let appender = dir.open("file".as_ref(), Access::Append).unwrap();
    assert_eq!(appender.append(b"fghij").unwrap(), 3);
    let mut all = [0; 16];
    assert_eq!(appender.read_at(0, &mut all).unwrap(), 8);
    assert_eq!(&all[..8], b"abcdefgh");
}

/// Hears marks alone.
#[derive(Debug, Default)]
struct Marks(Mutex<Vec<&'static str>>);

impl Listener for Marks {
    fn mark(&self, point: &'static str) {
        self.0.lock().unwrap().push(point);
    }
}

#[test]
fn marks_of_file_system_directory_and_file_reach_every_listener_once() {
    let (outer, inner) = (Arc::new(Marks::default()), Arc::new(Marks::default()));
    let below = TapFs::shared(OsFs::shared(), Arc::<Marks>::clone(&inner));
    let fs = TapFs::shared(below, Arc::<Marks>::clone(&outer));
    let root = tempfile::tempdir().unwrap();
    let dir = fs.open_dir(root.path()).unwrap();
    let file = dir.create_exclusive("file".as_ref(), Mode::PRIVATE).unwrap();
    fs.mark("one");
    dir.mark("two");
    file.mark("three");
    for heard in [outer, inner] {
        assert_eq!(*heard.0.lock().unwrap(), ["one", "two", "three"]);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let bytes = |seed| {
        let entropy = SeededEntropy::new(seed);
        let mut bytes = [0; 37];
        entropy.fill(&mut bytes[..5]).unwrap();
        entropy.fill(&mut bytes[5..]).unwrap();
        bytes
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
    assert_ne!(bytes(1)[..5], bytes(1)[5..10], "the stream goes on");
}

#[test]
fn the_manual_clock_moves_by_sleeping_and_by_nothing_else() {
    let clock = ManualClock::default();
    let (start, now) = (clock.elapsed(), clock.now());
    assert_eq!((clock.elapsed(), clock.now()), (start, now));
    clock.sleep(Duration::from_millis(2500));
    assert_eq!(clock.elapsed() - start, Duration::from_millis(2500));
    assert_eq!(clock.now().seconds, now.seconds + 2);
    assert_eq!(clock.now().nanos, 500_000_000);
}

#[test]
fn only_listed_processes_of_the_fake_host_run() {
    let host = FakeHost::with_pid(7);
    assert_eq!(host.running(7, 1007), Liveness::Alive);
    assert_eq!(host.running(7, 0), Liveness::Alive);
    assert_eq!(host.running(7, 1), Liveness::Dead);
    assert_eq!(host.running(8, 0), Liveness::Dead);
}

#[test]
fn the_inline_pool_runs_in_order() {
    let order = std::sync::Mutex::new(Vec::new());
    InlinePool.run(8, 5, &|index| order.lock().unwrap().push(index));
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn two_fixed_environments_agree() {
    let draw = |env: &media::Env| {
        let mut bytes = [0; 8];
        env.entropy.fill(&mut bytes).unwrap();
        (bytes, env.clock.now(), env.host.this_process().unwrap())
    };
    assert_eq!(draw(&fixed_env(3)), draw(&fixed_env(3)));
}

#[test]
fn a_mark_on_a_file_disk_is_heard_behind_its_file() {
    let marks = Arc::new(Marks::default());
    let root = tempfile::tempdir().unwrap();
    let dir = TapFs::shared(OsFs::shared(), Arc::<Marks>::clone(&marks)).open_dir(root.path()).unwrap();
    let disk = FileDisk::create(&*dir, "disk".as_ref(), Geometry::new(512, 8).unwrap()).unwrap();
    disk.mark("after_prepare");
    disk.mark("after_commit_record");
    assert_eq!(*marks.0.lock().unwrap(), ["after_prepare", "after_commit_record"]);
}
