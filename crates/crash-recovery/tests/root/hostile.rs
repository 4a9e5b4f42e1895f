//! What others put in the way: directories that are gone, links, files where directories were, and callers that ask for odd things.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "other programs know nothing of barriers")]

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crash_recovery::{Error, FastPath, Publish, Recovery, Root, RootOptions, WindowLimits};
use durable_io::TargetState;
use media::OsFs;
use media::doubles::{Call, Listener, Op, Recorder, TapFs};

use crate::common::{at, files, open, open_on, owned, put, shared, these};

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;
const EXDEV: i32 = 18;

/// Refuses every call that is one of these: what it does, part of what it says, and the answer.
#[derive(Debug)]
struct Refusals(&'static [(Op, &'static str, i32)]);

impl Listener for Refusals {
    fn before(&self, call: &Call) -> io::Result<()> {
        let said = call.to_string();
        match self.0.iter().find(|(op, about, _)| *op == call.op && said.contains(about)) {
            Some((_, _, code)) => Err(io::Error::from_raw_os_error(*code)),
            None => Ok(()),
        }
    }
}

fn open_with_refusals(
    home: &Path,
    options: &RootOptions,
    refusals: &'static [(Op, &'static str, i32)],
) -> crash_recovery::Result<(Root, Recovery)> {
    open_on(TapFs::shared(OsFs::shared(), Arc::new(Refusals(refusals))), home, options)
}

/// Commits these files together, and dies before any of them has its name.
fn committed_and_not_placed(home: &Path, options: &RootOptions, names: &[&str]) {
    let (root, _) = open_with_refusals(home, options, &[(Op::Rename, "zz", ENOSPC)]).unwrap();
    let mut transaction = root.transaction();
    for name in names {
        transaction.replace(&at(name), format!("new {name}").as_bytes()).unwrap();
    }
    let failure = transaction.commit().unwrap_err();
    assert_eq!(failure.error.state(), TargetState::DurableNotVisible, "{}", failure.error);
}

#[test]
fn a_file_where_a_directory_was_is_a_conflict() {
    let home = tempfile::tempdir().unwrap();
    committed_and_not_placed(home.path(), &shared(), &["d/zz1", "e/zz2"]);
    fs::remove_dir_all(home.path().join("d")).unwrap();
    fs::write(home.path().join("d"), "theirs").unwrap();
    let (_root, recovery) = open(home.path(), &shared());
    assert_eq!(recovery.read_only, None);
    assert_eq!(recovery.conflicts.len(), 1, "{recovery:?}");
    assert_eq!(files(home.path()), these(&[("d", "theirs"), ("e/zz2", "new e/zz2")]));
}

#[test]
fn a_directory_that_others_took_away_is_a_conflict() {
    let home = tempfile::tempdir().unwrap();
    committed_and_not_placed(home.path(), &shared(), &["d/zz1", "e/zz2"]);
    fs::remove_dir_all(home.path().join("d")).unwrap();
    let (_root, recovery) = open(home.path(), &shared());
    assert_eq!(recovery.read_only, None);
    assert_eq!(recovery.conflicts.len(), 1, "{recovery:?}");
    assert_eq!(files(home.path()), these(&[("e/zz2", "new e/zz2")]));
}

#[test]
fn recovery_follows_no_link_out_of_the_tree() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        committed_and_not_placed(home.path(), &options, &["d/zz1"]);
        fs::remove_dir_all(home.path().join("d")).unwrap();
        symlink(outside.path(), home.path().join("d")).unwrap();
        let opened = open_on(OsFs::shared(), home.path(), &options);
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none(), "{options:?}: {opened:?}");
        drop(opened);
    }
}

#[test]
fn a_transaction_follows_no_link_out_of_the_tree() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("there"), "theirs").unwrap();
        symlink(outside.path(), home.path().join("d")).unwrap();
        let (root, _) = open(home.path(), &options);
        let mut transaction = root.transaction();
        assert!(transaction.replace(&at("d/x"), b"").is_err(), "{options:?}");
        assert!(transaction.remove(&at("d/there")).is_err());
        assert!(transaction.rename(&at("d/there"), &at("here")).is_err());
        drop(transaction);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_is_kept_of_a_conflict_stays() {
    for options in [owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        committed_and_not_placed(home.path(), &options, &["d/zz1", "e/zz2"]);
        for name in ["d/zz1", "e/zz2"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        let (root, recovery) = open(home.path(), &options);
        let kept = |recovery: &Recovery| -> Vec<String> {
            let kept = recovery.conflicts.iter().map(|conflict| conflict.kept.clone().unwrap());
            kept.map(|kept| fs::read_to_string(home.path().join(kept)).unwrap_or_default()).collect()
        };
        assert_eq!(kept(&recovery), ["new d/zz1", "new e/zz2"], "{options:?}");
        drop(root);
        let (_root, _) = open(home.path(), &options);
        assert_eq!(kept(&recovery), ["new d/zz1", "new e/zz2"], "{options:?}");
    }
}

#[test]
fn of_staged_files_with_one_name_or_a_long_one_each_is_kept() {
    let options = owned(FastPath::Off);
    let home = tempfile::tempdir().unwrap();
    let long = format!("{}.nxpart", "n".repeat(248));
    {
        let (root, _) = open_with_refusals(home.path(), &options, &[(Op::Rename, "zz", ENOSPC)]).unwrap();
        let mut transaction = root.transaction();
        for (dir, name) in [("d", "s.nxpart"), ("e", "s.nxpart"), ("f", long.as_str())] {
            let mut staged = root.stage(&at(&format!("{dir}/{name}"))).unwrap();
            staged.write_at(0, dir.as_bytes()).unwrap();
            transaction.publish(staged, &at(&format!("{dir}/zz")), Publish::Replace).unwrap();
        }
        transaction.commit().unwrap_err();
    }
    for dir in ["d", "e", "f"] {
        fs::create_dir(home.path().join(dir).join("zz")).unwrap();
    }
    let (_root, recovery) = open(home.path(), &options);
    let kept = recovery.conflicts.iter().map(|conflict| home.path().join(conflict.kept.clone().unwrap()));
    let kept: Vec<String> = kept.map(|kept| fs::read_to_string(kept).unwrap_or_default()).collect();
    assert_eq!(kept, ["d", "e", "f"]);
}

/// The first recovery has put aside what may not be put in place, and dies before it can say so.
#[test]
fn a_crash_in_a_recovery_that_found_a_conflict_is_just_another_crash() {
    let home = tempfile::tempdir().unwrap();
    committed_and_not_placed(home.path(), &shared(), &["zz1", "zz2"]);
    let refusals = &[(Op::Rename, " zz1", EPERM), (Op::Rename, " zz2", ENOSPC)];
    let failed = open_with_refusals(home.path(), &shared(), refusals);
    failed.unwrap_err();
    let (_root, recovery) = open(home.path(), &shared());
    assert_eq!(recovery.read_only, None);
    let found = files(home.path());
    match recovery.conflicts.as_slice() {
        [] => assert_eq!(found, these(&[("zz1", "new zz1"), ("zz2", "new zz2")])),
        [conflict] => {
            assert_eq!(found, these(&[("zz2", "new zz2")]));
            let kept = home.path().join(conflict.kept.clone().unwrap());
            assert_eq!(fs::read_to_string(kept).unwrap(), "new zz1");
        }
        more => panic!("{more:?}"),
    }
}

/// What is to be kept lies on another file system than the journal.
#[test]
fn a_conflict_on_another_file_system_ends_no_recovery() {
    let home = tempfile::tempdir().unwrap();
    committed_and_not_placed(home.path(), &shared(), &["zz1", "zz2"]);
    fs::write(home.path().join("zz1"), "theirs").unwrap();
    let opened = open_with_refusals(home.path(), &shared(), &[(Op::Rename, "txn/conflict-", EXDEV)]);
    let (_root, recovery) = opened.unwrap();
    let [conflict] = recovery.conflicts.as_slice() else { panic!("{recovery:?}") };
    let kept = home.path().join(conflict.kept.clone().unwrap());
    assert_eq!(fs::read_to_string(kept).unwrap(), "new zz1");
}

#[test]
fn a_directory_of_ours_in_the_place_of_a_file_of_ours_is_no_conflict() {
    let options = owned(FastPath::On);
    let home = tempfile::tempdir().unwrap();
    let (root, _) = open(home.path(), &options);
    put(&root, "a", b"1");
    crate::common::remove(&root, "a");
    put(&root, "a/b", b"2");
    drop(root);
    let (_root, recovery) = open(home.path(), &options);
    assert!(recovery.conflicts.is_empty(), "{recovery:?}");
    assert_eq!(files(home.path()), these(&[("a/b", "2")]));
}

#[test]
fn bounds_that_are_none_are_refused_or_bounded() {
    let home = tempfile::tempdir().unwrap();
    let none = RootOptions { block_size: 0, ..shared() };
    open_on(OsFs::shared(), home.path(), &none).unwrap_err();
    let limits = WindowLimits { changes: usize::MAX, bytes: usize::MAX, threads: usize::MAX };
    let all = RootOptions { window: limits, payload_len_max: usize::MAX, ..owned(FastPath::On) };
    let home = tempfile::tempdir().unwrap();
    let (root, _) = open(home.path(), &all);
    put(&root, "a", b"1");
    drop(root);
    let (root, _) = open(home.path(), &all);
    root.close().unwrap();
}

#[test]
fn a_staged_file_is_published_only_where_it_was_staged() {
    let options = owned(FastPath::Off);
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((root, _), (another, _)) = (open(home.path(), &options), open(other.path(), &options));
    let staged = root.stage(&at("a.nxpart")).unwrap();
    let mut transaction = another.transaction();
    let failure = transaction.publish(staged, &at("a"), Publish::Replace).unwrap_err();
    assert_eq!(failure.staged.len(), 1);
}

#[test]
fn a_staged_file_of_a_root_that_was_closed_takes_nothing_from_the_next() {
    let options = owned(FastPath::Off);
    let home = tempfile::tempdir().unwrap();
    for close in [true, false] {
        let (root, _) = open(home.path(), &options);
        let old = root.stage(&at("a.nxpart")).unwrap();
        if close {
            root.close().unwrap();
        } else {
            drop(root);
        }
        let (root, recovery) = open(home.path(), &options);
        assert_eq!(recovery.orphans, 1);
        let new = root.stage(&at("a.nxpart")).unwrap();
        drop(old);
        assert!(home.path().join("a.nxpart").exists());
        drop(new);
        assert!(!home.path().join("a.nxpart").exists());
        drop(root);
    }
}

/// A journal with room for few of them at a time.
#[test]
fn threads_that_fill_a_small_journal_are_not_told_that_it_is_full() {
    for payload in [20 << 10, 60 << 10] {
        let options = RootOptions { journal_bytes: 256 << 10, ..owned(FastPath::On) };
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        let bytes = vec![7; payload];
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let (root, bytes) = (&root, &bytes);
                scope.spawn(move || {
                    for turn in 0..5 {
                        let mut transaction = root.transaction();
                        transaction.replace(&at(&format!("{thread}-{turn}")), bytes).unwrap();
                        transaction.commit().map_err(|failure| failure.error).unwrap();
                    }
                });
            }
        });
        root.close().unwrap();
    }
}

/// Where one holds places for its descriptors, and fails when another has kept more of them than it had places for.
#[derive(Debug, Default)]
struct FailWhenTold {
    has_come: AtomicBool,
    may_go: AtomicBool,
}

impl Listener for FailWhenTold {
    fn before(&self, call: &Call) -> io::Result<()> {
        if call.op != Op::CreateExclusive || !call.to_string().contains("slow/") {
            return Ok(());
        }
        self.has_come.store(true, Ordering::SeqCst);
        while !self.may_go.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        Err(io::Error::from_raw_os_error(ENOSPC))
    }
}

#[test]
fn no_transaction_keeps_more_descriptors_than_it_has_places() {
    let window = WindowLimits { changes: 2, ..WindowLimits::default() };
    let options = RootOptions { window, ..owned(FastPath::On) };
    let home = tempfile::tempdir().unwrap();
    let listener = Arc::new(FailWhenTold::default());
    let fs = TapFs::shared(OsFs::shared(), Arc::<FailWhenTold>::clone(&listener));
    let (root, _) = open_on(fs, home.path(), &options).unwrap();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let mut transaction = root.transaction();
            transaction.replace(&at("slow/a"), b"1").unwrap();
            transaction.commit().unwrap_err().error.state()
        });
        while !listener.has_come.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut transaction = root.transaction();
        for number in 0..5 {
            let mut staged = root.stage(&at(&format!("{number}.nxpart"))).unwrap();
            staged.write_at(0, b"1").unwrap();
            transaction.publish(staged, &at(&number.to_string()), Publish::Replace).unwrap();
        }
        transaction.commit().unwrap();
        root.checkpoint().unwrap();
        listener.may_go.store(true, Ordering::SeqCst);
        assert_eq!(slow.join().unwrap(), TargetState::Unchanged);
    });
    put(&root, "b", b"2");
}

#[test]
fn the_journal_is_nobodys_target_however_its_directory_is_written() {
    for dir in ["own/journal/", "own//journal", "./own/journal", "", ".", "../own", "/own"] {
        let home = tempfile::tempdir().unwrap();
        let inside = home.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let options = RootOptions { journal_dir: dir.to_owned(), ..owned(FastPath::On) };
        if let Ok((root, _)) = open_on(OsFs::shared(), &inside, &options) {
            let mut transaction = root.transaction();
            assert!(transaction.replace(&at("own/journal/journal"), b"gone").is_err(), "{dir}");
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "{dir}");
    }
}

/// Ends with an error.
struct Broken;

impl io::Read for Broken {
    fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(5))
    }
}

#[test]
fn what_could_not_be_read_is_not_in_the_transaction_and_may_be_given_again() {
    use std::io::Read as _;
    for options in crate::common::all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        let mut transaction = root.transaction();
        let long = vec![7; 100 << 10];
        transaction.write_from(&at("a"), long.as_slice().chain(Broken), Publish::Replace).unwrap_err();
        transaction.write_from(&at("b"), long.as_slice(), Publish::Replace).unwrap();
        transaction.write_from(&at("c"), long.as_slice().chain(Broken), Publish::Replace).unwrap_err();
        transaction.write_from(&at("c"), &b"short"[..], Publish::Replace).unwrap();
        assert_eq!(transaction.commit().unwrap().names, 2);
        let names: Vec<String> = files(home.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "c"], "{options:?}");
        assert_eq!(fs::read(home.path().join("c")).unwrap(), b"short");
    }
}

#[test]
fn nothing_is_staged_where_no_sweep_comes() {
    let options = owned(FastPath::Off);
    let home = tempfile::tempdir().unwrap();
    for depth in 120..140 {
        let Ok(path) = crash_recovery::TreePath::parse(&format!("{}s.nxpart", "d/".repeat(depth))) else {
            continue;
        };
        let (root, _) = open(home.path(), &options);
        std::mem::forget(root.stage(&path).unwrap());
        drop(root);
        let (_root, recovery) = open(home.path(), &options);
        assert_eq!(recovery.orphans, 1, "{depth}");
    }
}

#[test]
fn a_stray_that_may_not_be_removed_ends_no_recovery_among_others() {
    let home = tempfile::tempdir().unwrap();
    {
        let (root, _) = open_with_refusals(home.path(), &shared(), &[(Op::Unlink, "d/", ENOSPC)]).unwrap();
        let mut transaction = root.transaction();
        transaction.replace(&at("d/zz"), b"1").unwrap();
        drop(transaction);
    }
    let (_root, recovery) = open_with_refusals(home.path(), &shared(), &[(Op::Unlink, "d/", EPERM)]).unwrap();
    assert_eq!((recovery.orphans, recovery.orphans_kept), (0, 1));
}

#[test]
fn a_file_that_others_closed_to_us_is_not_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let (root, _) = open(home.path(), &shared());
    put(&root, "zz", b"old");
    root.close().unwrap();
    committed_and_not_placed(home.path(), &shared(), &["zz"]);
    let (_root, recovery) = open_with_refusals(home.path(), &shared(), &[(Op::Open, "zz", EACCES)]).unwrap();
    assert_eq!(recovery.conflicts.len(), 1);
    assert_eq!(files(home.path()), these(&[("zz", "old")]));
}

#[test]
fn a_directory_that_others_made_anew_is_made_durable_anew() {
    let home = tempfile::tempdir().unwrap();
    let recorder = Arc::new(Recorder::default());
    let fs = TapFs::shared(OsFs::shared(), Arc::<Recorder>::clone(&recorder));
    let (root, _) = open_on(fs, home.path(), &shared()).unwrap();
    let synced = || {
        let mut transaction = root.transaction();
        transaction.replace(&at("d/e/zz"), b"1").unwrap();
        let before = recorder.calls().len();
        transaction.commit().unwrap();
        let calls = recorder.calls();
        calls
            .iter()
            .skip(before)
            .filter(|call| call.op == Op::DirSync)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let _first = synced();
    fs::remove_dir_all(home.path().join("d")).unwrap();
    fs::create_dir_all(home.path().join("d/e")).unwrap();
    let calls = recorder.calls().len();
    let _again = synced();
    let calls = recorder.calls().split_off(calls);
    let above = calls.iter().filter(|call| call.op == Op::DirSync).map(ToString::to_string);
    let above: Vec<String> = above.filter(|call| !call.contains("d/e")).collect();
    assert!(above.len() >= 2, "{above:?}");
}

#[test]
fn no_journal_is_made_or_read_behind_a_link() {
    for options in [owned(FastPath::On), shared()] {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = options.journal_dir.split('/').next().unwrap();
        symlink(outside.path(), home.path().join(first)).unwrap();
        let refused = open_on(OsFs::shared(), home.path(), &options).unwrap_err();
        assert!(matches!(refused, Error::NotAFile { .. }), "{refused}");
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    }
}
