//! The order of the calls, whole, for every operation; and the rules that the order follows.

use std::path::Path;

use durable_io::{Change, Dir, Durability, Kind, Stage, Stamp, TargetState, Unchanged, WriteOptions};
use media::OsFs;
use media::doubles::{Recorder, fixed_env};

use crate::common::{Ground, lines, mask};
use crate::operations::{self, Operation};

fn record(operation: &Operation) -> Vec<String> {
    let ground = Ground::new();
    (operation.prepare)(&ground);
    let (recorder, fs) = Recorder::over(operation.base());
    let dir = ground.dir_on(fs);
    recorder.clear();
    let done = (operation.run)(&dir).unwrap_or_else(|error| panic!("{}: {error}", operation.name));
    assert_eq!(done.durability, Durability::Durable, "{}", operation.name);
    assert_eq!(done.leftovers, Vec::<std::path::PathBuf>::new(), "{}", operation.name);
    assert_eq!(ground.strays(), Vec::<std::path::PathBuf>::new(), "{}", operation.name);
    lines(&recorder)
}

#[test]
fn every_operation_makes_exactly_these_calls_in_this_order() {
    for operation in operations::all() {
        let promised: Vec<&str> = operation.calls.iter().map(|row| row.call).collect();
        assert_eq!(record(&operation), promised, "{}", operation.name);
    }
}

fn position(calls: &[String], start: &str) -> Vec<usize> {
    let hits = calls.iter().enumerate().filter(|(_, call)| call.starts_with(start));
    hits.map(|(index, _)| index).collect()
}

#[test]
fn metadata_comes_before_the_file_barrier_that_before_the_name_and_a_directory_barrier_last() {
    for operation in operations::all() {
        let calls = record(&operation);
        let name = operation.name;
        let Some(&rename) = position(&calls, "Rename").first() else { continue };
        let &barrier = position(&calls, "SyncAll").first().unwrap_or(&0);
        for op in ["SetOwner", "SetMode", "SetXattr", "WriteAt <temp>", "Allocate", "StartWriteback"] {
            assert!(position(&calls, op).iter().all(|&at| at < barrier), "{name}: {op}");
        }
        assert!(barrier <= rename, "{name}");
        let last_barrier = *position(&calls, "DirSync").last().unwrap();
        assert!(last_barrier > rename, "{name}");
        assert_eq!(last_barrier, calls.len() - 1, "{name}");
    }
}

#[test]
fn a_refused_swap_writes_looks_and_takes_it_back() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o640);
    let (recorder, dir) = ground.recorded();
    let options = WriteOptions { expect: Some(Stamp::missing()), ..WriteOptions::default() };
    let error = dir.replace_with("t", b"new", &options).unwrap_err();
    assert_eq!(
        (error.stage(), error.state(), error.kind()),
        (Stage::Inspect, TargetState::Unchanged, Kind::Conflict)
    );
    assert_eq!(
        lines(&recorder),
        [
            "Metadata t",
            "Open t Read",
            "XattrNames t",
            "HasDefaultAcl .",
            "CreateExclusive <temp> 0640",
            "WriteAt <temp> @0+3",
            "Metadata <temp> (handle)",
            "SyncAll <temp>",
            "Open t Read",
            "Metadata t (handle)",
            "Modified t",
            "ReadAt t @0",
            "ReadAt t @3",
            "Unlink <temp>",
        ]
    );
    assert_eq!(ground.read("t"), b"old");
}

#[test]
fn what_changed_is_told_from_what_did_not() {
    let ground = Ground::new();
    let dir = ground.dir();
    let skip = WriteOptions { unchanged: Unchanged::Skip, ..WriteOptions::default() };
    assert_eq!(dir.replace_with("t", b"one", &skip).unwrap().change, Change::Created);
    assert_eq!(dir.replace_with("t", b"one", &skip).unwrap().change, Change::Unchanged);
    assert_eq!(dir.replace_with("t", b"two", &skip).unwrap().change, Change::Replaced);
    assert_eq!(dir.replace("t", b"two").unwrap().change, Change::Replaced);
}

#[test]
fn a_name_that_is_taken_costs_a_new_file_nothing_but_a_look() {
    let ground = Ground::new();
    ground.symlink("nowhere", "t");
    let (recorder, dir) = ground.recorded();
    assert_eq!(dir.create_new("t", b"new").unwrap_err().kind(), Kind::Exists);
    assert_eq!(lines(&recorder), ["Metadata t"]);
}

#[test]
fn each_new_directory_of_a_path_is_synced_into_its_parent_before_the_next() {
    let ground = Ground::new();
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let path = ground.path("a/b");
    let dir = Dir::open_or_create_on(fs, &path, fixed_env(1)).unwrap();
    assert_eq!(dir.path(), path);

    // From the root of the file system down: what exists is opened, what does not is made.
    let whole = path.display().to_string();
    let below = whole.trim_start_matches('/');
    let mut promised = vec![format!("OpenDir {whole}"), "OpenDir /".to_owned(), format!("OpenDir {below}")];
    let ancestors = ground.root().strip_prefix("/").unwrap().ancestors();
    let mut existing: Vec<&Path> = ancestors.filter(|path| !path.as_os_str().is_empty()).collect();
    existing.reverse();
    promised.extend(existing.iter().map(|path| format!("OpenDir {}", path.display())));
    for (parent, new) in [("", "/a"), ("/a", "/a/b")] {
        let root = existing.last().unwrap().display();
        promised.extend([
            format!("OpenDir {root}{new}"),
            format!("CreateDir {root}{new} 0777"),
            format!("DirSync {root}{parent}"),
            format!("OpenDir {root}{new}"),
        ]);
    }
    assert_eq!(recorder.lines(|line| mask(&line)), promised);
}
