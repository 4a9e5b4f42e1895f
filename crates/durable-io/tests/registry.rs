//! Updates of shared files: bytes and typed entries.
#![cfg(feature = "json")]
#![expect(clippy::unwrap_used, reason = "a test says where it broke")]

use std::convert::Infallible;

use durable_io::{
    Cause, Conflicts, Dir, Document, EmptyResult, Env, Invalid, Kind, Stage, Swap, TargetState, UpdateOptions,
};
use media::OsFs;
use media::doubles::Recorder;

fn registry_with(entries: &[(&str, u32)]) -> (tempfile::TempDir, Dir, durable_io::Registry<u32>) {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let registry = dir.registry("registry.json");
    registry
        .update(|document| {
            for (name, value) in entries {
                document.insert(*name, *value);
            }
        })
        .unwrap();
    (root, dir, registry)
}

fn content(document: &Document<u32>) -> Vec<(&str, u32)> {
    document.iter().map(|(name, value)| (name, *value)).collect()
}

#[test]
fn update_locks_reads_replaces_and_unlocks_in_this_order() {
    let root = tempfile::tempdir().unwrap();
    Dir::open(root.path()).unwrap().update("f", |_| Ok::<_, Infallible>(b"1".to_vec())).unwrap();
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let dir = Dir::open_on(fs, root.path(), Env::os()).unwrap();
    dir.update("f", |_| Ok::<_, Infallible>(b"1".to_vec())).unwrap();
    recorder.clear();
    dir.update("f", |_| Ok::<_, Infallible>(b"22".to_vec())).unwrap();
    let lines = recorder.lines(|line| match (line.find(".steadfast-"), line.find(".tmp")) {
        (Some(from), Some(to)) => format!("{}<temp>{}", &line[..from], &line[to + 4..]),
        _ => line,
    });
    let expected = [
        "Metadata f",
        "DirMetadata .",
        "Open f.lock ReadWrite",
        "Lock f.lock DoNotWait",
        "Metadata f.lock (handle)",
        "Metadata f.lock",
        "ReadAt f.lock @0",
        "Metadata f",
        "Open f Read",
        "Metadata f (handle)",
        "ReadAt f @0",
        "ReadAt f @1",
        "Open f Read",
        "XattrNames f",
        "HasDefaultAcl .",
        "CreateExclusive <temp> 0644",
        "WriteAt <temp> @0+2",
        "Metadata <temp> (handle)",
        "SyncAll <temp>",
        "Rename <temp> -> f",
        "DirSync .",
        "Unlock f.lock",
    ];
    assert_eq!(lines, expected);
    assert_eq!(recorder.barriers(), 2);
}

#[test]
fn a_declined_or_empty_update_changes_nothing_and_releases_the_lock() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    dir.replace("f", b"old").unwrap();
    let error = dir.update("f", |_| Err::<Vec<u8>, _>("no")).unwrap_err();
    assert_eq!((error.kind(), error.stage()), (Kind::Declined, Stage::Decide));
    let error = dir.update("f", |_| Ok::<_, Infallible>(Vec::new())).unwrap_err();
    assert!(matches!(error.cause(), Cause::Invalid(Invalid::EmptyResult)));
    assert_eq!(error.state(), TargetState::Unchanged);
    assert_eq!(dir.read("f").unwrap(), b"old");
    let allow = UpdateOptions { empty: EmptyResult::Allow, ..UpdateOptions::default() };
    dir.update_with("f", &allow, |_| Ok::<_, Infallible>(Vec::new())).unwrap();
    assert_eq!(dir.read("f").unwrap(), b"");
}

#[test]
fn the_bound_on_what_is_read_holds_at_the_bound() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    dir.replace("f", &[7; 100]).unwrap();
    for (len_max, fits) in [(99, false), (100, true), (101, true)] {
        let options = UpdateOptions { len_max, ..UpdateOptions::default() };
        let outcome = dir.update_with("f", &options, |old| Ok::<_, Infallible>(old.unwrap().to_vec()));
        assert_eq!(outcome.is_ok(), fits, "{len_max}");
    }
}

#[test]
fn a_missing_registry_is_empty_and_an_empty_or_bad_one_is_corrupt_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let registry = dir.registry::<u32>("r.json");
    assert!(registry.read().unwrap().is_empty());
    let bad: [&[u8]; 7] = [
        b"",
        b"{}",
        b"null",
        b"{\"steadfast_registry\":2,\"revision\":0,\"entries\":{},\"removed\":{}}",
        b"{\"steadfast_registry\":1,\"revision\":0,\"entries\":{\"a\":{\"revision\":5,\"value\":1}},\"removed\":{}}",
        b"{\"steadfast_registry\":1,\"revision\":1,\"entries\":{\"a\":{\"revision\":1,\"value\":1}},\"removed\":{\"a\":1}}",
        &[0; 64],
    ];
    for bytes in bad {
        dir.replace("r.json", bytes).unwrap();
        let error = registry.update(|document| document.insert("x", 1)).unwrap_err();
        assert_eq!((error.kind(), error.state()), (Kind::Corrupt, TargetState::Unchanged));
        assert_eq!(registry.read().unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(dir.read("r.json").unwrap(), bytes, "left as it is");
    }
}

#[test]
fn corruption_names_the_byte() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    dir.replace("r.json", b"{\n  \"steadfast_registry\": 1,\n  !").unwrap();
    let error = dir.registry::<u32>("r.json").read().unwrap_err();
    assert!(matches!(error.cause(), Cause::Corrupt { offset: 31, .. }), "{error:?}");
}

#[test]
fn an_update_that_changes_nothing_writes_nothing() {
    let (root, dir, registry) = registry_with(&[("a", 1)]);
    let before = dir.read("registry.json").unwrap();
    let modified = std::fs::metadata(root.path().join("registry.json")).unwrap().modified().unwrap();
    assert_eq!(registry.update(|document| document.get("a").copied()).unwrap(), Some(1));
    assert_eq!(std::fs::metadata(root.path().join("registry.json")).unwrap().modified().unwrap(), modified);
    assert_eq!(dir.read("registry.json").unwrap(), before);
}

#[test]
fn a_union_merge_keeps_what_both_sides_added_and_never_revives_what_was_removed() {
    let (_root, _dir, registry) = registry_with(&[("keep", 1), ("gone", 2), ("mine", 3)]);
    let mut copy = registry.read().unwrap();
    registry.update(|document| (document.remove("gone"), document.insert("theirs", 4))).unwrap();
    copy.insert("new", 5);
    copy.insert("mine", 33);
    let report = registry.merge(&copy, Conflicts::KeepStored).unwrap();
    assert_eq!((report.taken, report.conflicts), (vec!["mine".to_owned(), "new".to_owned()], vec![]));
    let merged = registry.read().unwrap();
    assert_eq!(content(&merged), [("keep", 1), ("mine", 33), ("new", 5), ("theirs", 4)]);
}

#[test]
fn a_removal_in_the_copy_removes_and_both_sides_changing_is_a_conflict() {
    for (conflicts, expected) in [(Conflicts::KeepStored, 10), (Conflicts::TakeMerged, 20)] {
        let (_root, _dir, registry) = registry_with(&[("a", 1), ("b", 2), ("c", 3)]);
        let mut copy = registry.read().unwrap();
        registry.update(|document| document.insert("a", 10)).unwrap();
        copy.insert("a", 20);
        copy.remove("b");
        let report = registry.merge(&copy, conflicts).unwrap();
        assert_eq!(report.conflicts, ["a"]);
        let merged = registry.read().unwrap();
        assert_eq!(content(&merged), [("a", expected), ("c", 3)]);
        // Merging the same copy again changes nothing that was not changed since.
        registry.merge(&copy, Conflicts::KeepStored).unwrap();
        assert_eq!(content(&registry.read().unwrap()), [("a", expected), ("c", 3)]);
    }
}

#[test]
fn compare_and_swap_goes_by_the_entry_and_answers_with_what_is_there() {
    let (_root, _dir, registry) = registry_with(&[("a", 1), ("b", 2)]);
    let revision = registry.read().unwrap().revision_of("a");
    registry.update(|document| document.insert("b", 3)).unwrap();
    assert!(matches!(registry.compare_and_swap("a", revision, 7).unwrap(), Swap::Done(_)), "b is not a");
    let Swap::Conflict(Some((_, 7))) = registry.compare_and_swap("a", revision, 8).unwrap() else {
        panic!("a changed")
    };
    assert_eq!(registry.compare_and_swap("a", None, 8).unwrap(), Swap::Conflict(Some((4, 7))));
    assert!(matches!(registry.compare_and_swap("new", None, 1).unwrap(), Swap::Done(5)));
    assert_eq!(registry.compare_and_swap("absent", Some(1), 1).unwrap(), Swap::Conflict(None));
}

#[test]
fn tombstones_are_bounded_and_the_oldest_go_first() {
    let (_root, _dir, registry) = registry_with(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let registry = registry.removed_max(2);
    for (name, kept) in [("a", 1), ("b", 2), ("c", 2)] {
        registry.update(|document| document.remove(name)).unwrap();
        assert_eq!(registry.read().unwrap().removed_count(), kept, "{name}");
    }
}

#[test]
fn threads_with_typed_updates_lose_nothing() {
    let (_root, dir, registry) = registry_with(&[]);
    std::thread::scope(|scope| {
        for thread in 0..6_u32 {
            let registry = dir.registry::<u32>("registry.json");
            scope.spawn(move || {
                for index in 0..20_u32 {
                    registry.update(|document| document.insert(format!("{thread}-{index}"), index)).unwrap();
                }
            });
        }
    });
    assert_eq!(registry.read().unwrap().len(), 120);
}
