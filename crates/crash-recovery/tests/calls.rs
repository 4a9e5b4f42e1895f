//! What each change asks of the file system, exactly: these numbers are what it costs.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;
use std::sync::Arc;

use crash_recovery::{FastPath, Root, RootOptions, TreePath, WindowLimits};
use crashsim::SimFs;
use media::Fs;
use media::doubles::{Op, Recorder, fixed_env};

fn owned(fast: FastPath) -> RootOptions {
    RootOptions { fast, journal_bytes: 4 << 20, ..RootOptions::owned("own") }
}

/// A root that has files in it, and whose calls are recorded from now on.
fn begin(options: RootOptions) -> (Arc<Recorder>, Root) {
    let sim: Arc<dyn Fs> = Arc::new(SimFs::new());
    let (recorder, fs) = Recorder::over(sim);
    let (root, _) = Root::open(fs, Path::new("/"), fixed_env(1), options).unwrap();
    for name in ["a", "b", "d/c"] {
        put(&root, &[name]);
    }
    root.checkpoint().unwrap();
    // The last checkpoint is told with a frame; this one has told it.
    put(&root, &["b"]);
    recorder.clear();
    (recorder, root)
}

fn put(root: &Root, names: &[&str]) {
    let mut transaction = root.transaction();
    for name in names {
        transaction.replace(&TreePath::parse(name).unwrap(), &[7; 4096]).unwrap();
    }
    transaction.commit().unwrap();
}

/// The calls, with their subjects; names of staged files and offsets in the journal are left out.
fn asked(recorder: &Recorder) -> Vec<String> {
    let name = |call: &media::doubles::Call| match call.subject.contains(".nxpart") {
        true => format!("{} staged", call.op.name()),
        false => format!("{} {}", call.op.name(), call.subject),
    };
    recorder.calls().iter().map(name).collect()
}

/// What a fast put asks for: one barrier, that of the journal.
const FAST: [&str; 7] = [
    "metadata a",
    "create_exclusive staged",
    "write_at staged",
    "write_at own/journal",
    "sync_data own/journal",
    // The journal's file must not have become shorter under it.
    "metadata own/journal",
    "rename staged",
];

#[test]
fn a_fast_put_has_one_barrier_and_its_file_and_directory_wait() {
    let (recorder, root) = begin(owned(FastPath::On));
    put(&root, &["a"]);
    assert_eq!(asked(&recorder), FAST);
}

#[test]
fn a_plain_put_has_three_barriers_and_its_directory_waits_once_more() {
    let (recorder, root) = begin(owned(FastPath::Off));
    put(&root, &["a"]);
    let expected = [
        "dir_metadata .",
        "metadata a",
        "has_default_acl .",
        "create_exclusive staged",
        "write_at staged",
        "start_writeback staged",
        "metadata staged",
        "metadata staged",
        "metadata a",
        "sync_all staged",
        "dir_sync .",
        "write_at own/journal",
        "sync_data own/journal",
        "metadata own/journal",
        "rename staged",
    ];
    assert_eq!(asked(&recorder), expected);
}

/// The journal is told durably that the name is in place before anybody else is.
#[test]
fn a_shared_put_has_five_barriers() {
    let (recorder, root) = begin(RootOptions::shared());
    put(&root, &["a"]);
    let barriers: Vec<Op> =
        recorder.calls().iter().map(|call| call.op).filter(|op| op.is_barrier()).collect();
    // The file, its hidden name, the commit, the name, `done`.
    assert_eq!(barriers, [Op::SyncAll, Op::DirSync, Op::SyncData, Op::DirSync, Op::SyncData]);
}

#[test]
fn a_checkpoint_syncs_each_file_and_directory_once_and_needs_no_frame_of_its_own() {
    let (recorder, root) = begin(owned(FastPath::On));
    for _ in 0..5 {
        put(&root, &["a"]);
        put(&root, &["d/c"]);
    }
    recorder.clear();
    root.checkpoint().unwrap();
    // `a`, `b` (from before) and `d/c`, as they are now: four of five files of each name are never synced.
    let mut asked = asked(&recorder);
    asked.sort();
    let expected =
        [["dir_sync .", "dir_sync d"].as_slice(), &["start_writeback staged"; 3], &["sync_all staged"; 3]];
    assert_eq!(asked, expected.concat());
    recorder.clear();
    root.checkpoint().unwrap();
    assert_eq!(recorder.total(), 0, "nothing is left");
}

#[test]
fn a_window_is_checkpointed_when_it_is_full_and_not_before() {
    let window = WindowLimits { changes: 8, ..WindowLimits::default() };
    let (recorder, root) = begin(RootOptions { window, ..owned(FastPath::On) });
    // One waits from before.
    for number in 0..6 {
        put(&root, &[&format!("f{number}")]);
    }
    assert_eq!((recorder.barriers(), recorder.count(Op::SyncAll)), (6, 0));
    put(&root, &["f6"]);
    assert_eq!(
        (recorder.barriers(), recorder.count(Op::SyncAll), recorder.count(Op::DirSync)),
        (7 + 9, 8, 1)
    );
}

#[test]
fn a_transaction_of_a_hundred_files_has_one_barrier_where_it_is_fast_and_102_where_it_is_not() {
    let names: Vec<String> = (0..100).map(|number| format!("f{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (recorder, root) = begin(owned(FastPath::On));
    put(&root, &names);
    assert_eq!((recorder.barriers(), recorder.total()), (1, 100 * 5 + 3));
    let (recorder, root) = begin(owned(FastPath::Off));
    put(&root, &names);
    assert_eq!(
        (recorder.count(Op::SyncAll), recorder.count(Op::DirSync), recorder.barriers()),
        (100, 1, 102)
    );
}
