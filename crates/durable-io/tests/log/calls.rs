//! The order of calls, how many there are, rotation, and several handles.

use std::path::Path;
use std::sync::Arc;

use durable_io::{Dir, Kind, LogOptions, LogSync, Publish, Reached, Tail, Writers};
use media::OsFs;
use media::doubles::{Call, Op, Recorder};

use super::{NAME, all_records, bounded, files, get, group_of, on, options, plain, put, root};

/// The recorded calls without those of the lock, which identifies its directory and then keeps to its own file.
fn calls(recorder: &Recorder) -> Vec<String> {
    all_calls(recorder, |call| {
        !call.subject.ends_with(".lock") && !matches!(call.op, Op::OpenDir | Op::DirMetadata)
    })
}

/// The recorded calls with random names made fixed; then forgets them.
fn all_calls(recorder: &Recorder, wanted: fn(&Call) -> bool) -> Vec<String> {
    let lines = recorder.calls().into_iter().filter(wanted).map(|call| {
        let line = call.to_string();
        let words = line.split(' ').map(|word| match word {
            word if word.starts_with(".steadfast-") => "TEMP",
            word => word
                .rsplit_once('-')
                .filter(|(head, _)| head.contains(".torn-"))
                .map_or(word, |(head, _)| head),
        });
        words.collect::<Vec<_>>().join(" ")
    });
    let lines = lines.collect();
    recorder.clear();
    lines
}

fn recorded(root: &Path) -> (Arc<Recorder>, Dir) {
    let (recorder, fs) = Recorder::over(OsFs::shared());
    (recorder, on(fs, root))
}

#[test]
fn a_new_log_is_created_under_a_hidden_name_synced_named_and_its_name_synced() {
    let root = root();
    let (recorder, dir) = recorded(root.path());
    let log = dir.log_with(NAME, options()).unwrap();
    let expected = [
        "Metadata log.jsonl",
        "DirSync .",
        "HasDefaultAcl .",
        "CreateExclusive TEMP 0640",
        "Metadata TEMP (handle)",
        "SyncAll TEMP",
        "Rename TEMP -> log.jsonl (NoReplace)",
        "DirSync .",
        "Open log.jsonl Append",
        "Metadata log.jsonl (handle)",
    ];
    assert_eq!(calls(&recorder), expected);
    assert_eq!((log.recovery().len, &log.recovery().tail), (0, &Tail::Clean));
    log.close().unwrap();
    assert_eq!(calls(&recorder), Vec::<String>::new());
}

#[test]
fn opening_flushes_bytes_and_name_before_the_tail_is_trusted() {
    let root = root();
    put(root.path(), NAME, b"{}\n");
    let (recorder, dir) = recorded(root.path());
    let look = ["Metadata log.jsonl", "Open log.jsonl Append", "Metadata log.jsonl (handle)"];
    for (sync, barriers) in [
        (LogSync::EachRecord, &["SyncData log.jsonl", "DirSync ."][..]),
        (group_of(2), &["SyncData log.jsonl", "DirSync ."][..]),
        (LogSync::None, &[][..]),
    ] {
        recorder.clear();
        let log = dir.log_with(NAME, LogOptions { sync, ..options() }).unwrap();
        assert_eq!(calls(&recorder), [&look[..], barriers, &["ReadAt log.jsonl @0"]].concat());
        drop(log);
    }
}

#[test]
fn a_torn_tail_is_durable_beside_the_log_before_the_log_is_cut() {
    let root = root();
    put(root.path(), NAME, b"{}\n{\"a");
    let (recorder, dir) = recorded(root.path());
    drop(dir.log_with(NAME, options()).unwrap());
    let repair = [
        "HasDefaultAcl .",
        "CreateExclusive TEMP 0644",
        "WriteAt TEMP @0+3",
        "Metadata TEMP (handle)",
        "SyncAll TEMP",
        "Rename TEMP -> log.jsonl.torn-3 (NoReplace)",
        "DirSync .",
        "SetLen log.jsonl 3",
        "SyncAll log.jsonl",
    ];
    let all = calls(&recorder);
    assert_eq!(all[..5].last().unwrap(), "DirSync .");
    assert_eq!(all[6..], repair);
}

#[test]
fn a_missing_newline_is_added_and_synced() {
    let root = root();
    put(root.path(), NAME, b"{}\n[1]");
    let (recorder, dir) = recorded(root.path());
    drop(dir.log_with(NAME, LogOptions { sync: LogSync::None, ..options() }).unwrap());
    let all = calls(&recorder);
    assert_eq!(all[3..], ["ReadAt log.jsonl @0", "Append log.jsonl +1", "SyncData log.jsonl"]);
}

#[test]
fn an_append_is_one_write_and_one_barrier_as_the_options_say() {
    let root = root();
    let (recorder, dir) = recorded(root.path());
    let look = ["Metadata log.jsonl", "ReadAt log.jsonl @"];
    let mut at = 0;
    for writers in [Writers::Many, Writers::One] {
        for (sync, pattern) in [
            (LogSync::EachRecord, [true; 6]),
            (group_of(1), [true; 6]),
            (group_of(3), [false, false, true, false, false, true]),
            (LogSync::None, [false; 6]),
        ] {
            let mut log = dir.log_with(NAME, LogOptions { sync, writers, ..options() }).unwrap();
            for due in pattern {
                recorder.clear();
                let appended = log.append(b"[1]").unwrap();
                assert_eq!((appended.offset, appended.len), (at, 4));
                assert_eq!(appended.reached, if due { Reached::Durable } else { Reached::NotYetSynced });
                assert!(appended.lock_failure.is_none());
                let mut expected = Vec::new();
                if writers == Writers::Many {
                    expected.push(look[0].to_owned());
                    if at > 0 {
                        expected.push(format!("{}{}", look[1], at - 1));
                    }
                }
                expected.push("Append log.jsonl +4".to_owned());
                if due {
                    expected.push("SyncData log.jsonl".to_owned());
                }
                assert_eq!(calls(&recorder), expected);
                at += 4;
            }
            let (again, _) = (log.append(b"[2]").unwrap(), recorder.clear());
            at += 4;
            let expected: &[&str] = match (sync, again.reached) {
                (LogSync::Group(_), Reached::NotYetSynced) => &["SyncData log.jsonl"],
                _ => &[],
            };
            log.close().unwrap();
            assert_eq!(calls(&recorder), expected, "{sync:?}");
        }
    }
}

#[test]
fn the_first_sync_of_a_log_opened_without_barriers_makes_its_name_durable_too() {
    let root = root();
    put(root.path(), NAME, b"");
    let (recorder, dir) = recorded(root.path());
    let mut log = dir.log_with(NAME, LogOptions { sync: LogSync::None, ..options() }).unwrap();
    assert_eq!(log.append(b"{}").unwrap().reached, Reached::NotYetSynced);
    recorder.clear();
    assert!(log.sync().unwrap().is_durable());
    assert_eq!(calls(&recorder), ["SyncData log.jsonl", "DirSync ."]);
    log.sync().unwrap();
    assert_eq!(calls(&recorder), ["SyncData log.jsonl"]);
}

#[test]
fn a_group_is_written_a_mebibyte_at_a_time_with_one_barrier() {
    let root = root();
    let (recorder, dir) = recorded(root.path());
    let one = LogOptions { writers: Writers::One, sync: group_of(1000), ..options() };
    let mut log = dir.log_with(NAME, one).unwrap();
    recorder.clear();
    let group: Vec<_> = (0..5).map(|i| format!("[{i}]")).collect();
    let appended = log.append_group(&group).unwrap();
    assert_eq!((appended.offset, appended.len, appended.reached), (0, 20, Reached::Durable));
    assert_eq!(calls(&recorder), ["Append log.jsonl +20", "SyncData log.jsonl"]);
    // Five records of 256 KiB, newline included: four fit exactly, one byte more and three do.
    for (len, writes) in [(256 << 10, ["+1048576", "+262144"]), ((256 << 10) + 1, ["+786435", "+524290"])] {
        let record = format!("[\"{}\"]", "x".repeat(len - 5));
        assert!(log.append_group(&vec![record; 5]).unwrap().reached == Reached::Durable);
        let [first, second] = writes.map(|write| format!("Append log.jsonl {write}"));
        assert_eq!(calls(&recorder), [first, second, "SyncData log.jsonl".to_owned()]);
    }
    let nothing: [&[u8]; 0] = [];
    assert_eq!(log.append_group(&nothing).unwrap().len, 0);
    assert_eq!(calls(&recorder), ["SyncData log.jsonl"]);
}

#[test]
fn rotation_moves_the_oldest_first_with_a_directory_barrier_after_each_rename() {
    let root = root();
    for (name, bytes) in [(NAME, "[0]\n"), ("log.jsonl.1", "[1]\n"), ("log.jsonl.2", "[2]\n")] {
        put(root.path(), name, bytes.as_bytes());
    }
    let (recorder, dir) = recorded(root.path());
    let one = LogOptions { writers: Writers::One, mode: None, ..bounded(4, 2) };
    let mut log = dir.log_with(NAME, one).unwrap();
    recorder.clear();
    assert_eq!(log.append(b"[3]").unwrap().offset, 0);
    let expected = [
        "SyncData log.jsonl",
        "DirSync .",
        "Metadata log.jsonl.1",
        "Rename log.jsonl.1 -> log.jsonl.2",
        "DirSync .",
        "Rename log.jsonl -> log.jsonl.1",
        "DirSync .",
        "Metadata log.jsonl",
        "HasDefaultAcl .",
        "CreateExclusive TEMP 0644",
        "Metadata TEMP (handle)",
        "SyncAll TEMP",
        "Rename TEMP -> log.jsonl (NoReplace)",
        "DirSync .",
        "Open log.jsonl Append",
        "Metadata log.jsonl (handle)",
        "Append log.jsonl +4",
        "SyncData log.jsonl",
    ];
    assert_eq!(calls(&recorder), expected);
    assert_eq!(all_records(root.path()), b"[1]\n[0]\n[3]\n");
}

#[test]
fn rotation_that_keeps_nothing_replaces_the_log_in_one_rename() {
    let root = root();
    let (recorder, dir) = recorded(root.path());
    let one = LogOptions { writers: Writers::One, ..bounded(4, 0) };
    let mut log = dir.log_with(NAME, one).unwrap();
    drop(log.append(b"[0]").unwrap());
    recorder.clear();
    drop(log.append(b"[1]").unwrap());
    let expected = [
        "SyncData log.jsonl",
        "DirSync .",
        "HasDefaultAcl .",
        "CreateExclusive TEMP 0640",
        "Metadata TEMP (handle)",
        "SyncAll TEMP",
        "Rename TEMP -> log.jsonl",
        "DirSync .",
        "Open log.jsonl Append",
        "Metadata log.jsonl (handle)",
        "Append log.jsonl +4",
        "SyncData log.jsonl",
    ];
    assert_eq!(calls(&recorder), expected);
    assert_eq!(files(root.path()).len(), 1);
    assert_eq!(get(root.path(), NAME), b"[1]\n");
}

#[test]
fn rotation_begins_at_the_bound_and_not_before() {
    for (record, rotates) in [("[1]", false), ("[12]", false), ("[123]", true)] {
        let root = root();
        let mut log = plain(root.path()).log_with(NAME, bounded(10, 3)).unwrap();
        drop(log.append(b"[12]").unwrap());
        drop(log.append(record.as_bytes()).unwrap());
        assert_eq!(files(root.path()).len(), if rotates { 2 } else { 1 }, "{record}");
        assert_eq!(all_records(root.path()), format!("[12]\n{record}\n").as_bytes());
    }
    // A record, or a group, that cannot fit even alone is refused; one that just fits is not.
    let root = root();
    let mut log = plain(root.path()).log_with(NAME, bounded(10, 3)).unwrap();
    for (len, fits) in [(8, true), (9, true), (10, false)] {
        let record = format!("[{}]", "1".repeat(len - 2));
        assert_eq!(log.append(record.as_bytes()).is_ok(), fits, "{len}");
    }
    assert_eq!(log.append_group(&["[1]", "[22]"]).unwrap().len, 9);
    let error = log.append_group(&["[1]", "[2]", "[3]"]).unwrap_err();
    assert_eq!(super::why(&error), durable_io::Invalid::TooLong { len: 12, len_max: 10 });
}

#[test]
fn a_gap_left_by_an_interrupted_rotation_is_filled_and_nothing_younger_than_keep_is_lost() {
    for (present, expected) in [
        // `name.1` had moved on, `name` had not.
        (&[("", "[9]\n"), (".2", "[8]\n"), (".3", "[7]\n")][..], "[7]\n[8]\n[9]\n[0]\n"),
        // All had, and the new file was not there yet.
        (&[(".1", "[9]\n"), (".2", "[8]\n"), (".3", "[7]\n")][..], "[7]\n[8]\n[9]\n[0]\n"),
        (&[("", "[9]\n"), (".1", "[8]\n"), (".3", "[7]\n")][..], "[7]\n[8]\n[9]\n[0]\n"),
        (&[("", "[9]\n"), (".1", "[8]\n"), (".2", "[7]\n"), (".3", "[6]\n")][..], "[7]\n[8]\n[9]\n[0]\n"),
        (&[("", "[9]\n")][..], "[9]\n[0]\n"),
    ] {
        let root = root();
        for (suffix, bytes) in present {
            put(root.path(), &format!("{NAME}{suffix}"), bytes.as_bytes());
        }
        let mut log = plain(root.path()).log_with(NAME, bounded(4, 3)).unwrap();
        drop(log.append(b"[0]").unwrap());
        assert_eq!(String::from_utf8(all_records(root.path())).unwrap(), expected);
    }
}

#[test]
fn writers_of_one_log_see_each_others_records_rotations_and_deaths() {
    let root = root();
    let dir = plain(root.path());
    let mut first = dir.log_with(NAME, bounded(40, 50)).unwrap();
    let mut second = dir.log_with(NAME, LogOptions { sync: LogSync::None, ..bounded(40, 50) }).unwrap();
    let mut expected = Vec::new();
    for i in 0..100 {
        let record = format!("[{i}]");
        let log = if i % 3 == 0 { &mut second } else { &mut first };
        drop(log.append(record.as_bytes()).unwrap());
        expected.extend(format!("{record}\n").into_bytes());
    }
    let count = u32::try_from(files(root.path()).len()).unwrap();
    assert!(count > 10);
    let in_order: Vec<u8> = (1..count)
        .rev()
        .flat_map(|i| get(root.path(), &format!("{NAME}.{i}")))
        .chain(get(root.path(), NAME))
        .collect();
    assert_eq!(String::from_utf8(in_order).unwrap(), String::from_utf8(expected).unwrap());
}

#[test]
fn a_tail_that_another_writer_left_torn_is_repaired_before_the_next_append() {
    let root = root();
    let dir = plain(root.path());
    let mut log = dir.log_with(NAME, options()).unwrap();
    drop(log.append(b"[1]").unwrap());
    for (left, kept, torn) in [("{\"a", "", true), ("[2]", "[2]\n", false), ("[3]\n", "[3]\n", false)] {
        let before = get(root.path(), NAME);
        put(root.path(), NAME, &[&before[..], left.as_bytes()].concat());
        drop(log.append(b"[4]").unwrap());
        assert_eq!(get(root.path(), NAME), [&before[..], kept.as_bytes(), b"[4]\n"].concat());
        assert_eq!(matches!(log.recovery().tail, Tail::Torn { offset: 4, len: 3, .. }), torn);
    }
    // Same length, no newline: not ours any more.
    let mut bytes = get(root.path(), NAME);
    *bytes.last_mut().unwrap() = b' ';
    put(root.path(), NAME, &bytes);
    drop(log.append(b"[5]").unwrap());
    assert!(get(root.path(), NAME).ends_with(b"[4] \n[5]\n"));
    // Gone altogether.
    std::fs::remove_file(root.path().join(NAME)).unwrap();
    assert_eq!(log.append(b"[6]").unwrap().offset, 0);
    assert_eq!(get(root.path(), NAME), b"[6]\n");
}

#[test]
fn a_group_in_a_file_that_another_rotated_is_synced_before_it_is_left() {
    let root = root();
    let (recorder, dir) = recorded(root.path());
    let mut log = dir.log_with(NAME, LogOptions { sync: group_of(3), ..options() }).unwrap();
    drop(log.append(b"[1]").unwrap());
    std::fs::remove_file(root.path().join(NAME)).unwrap();
    recorder.clear();
    assert_eq!(log.append(b"[2]").unwrap().reached, Reached::NotYetSynced);
    assert_eq!(calls(&recorder)[..2], ["Metadata log.jsonl", "SyncData log.jsonl"]);
    assert_eq!(log.append(b"[3]").unwrap().reached, Reached::NotYetSynced);
    assert_eq!(log.append(b"[4]").unwrap().reached, Reached::Durable);
}

#[test]
fn a_rotated_log_keeps_its_mode_and_a_log_below_missing_parents_creates_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = root();
    let name = Path::new("a/b").join(NAME);
    let dir = plain(root.path());
    let must_exist = LogOptions { parents: durable_io::Parents::MustExist, ..options() };
    assert_eq!(dir.log_with(&name, must_exist).unwrap_err().kind(), Kind::NotFound);
    let mut log = dir.log_with(&name, LogOptions { mode: None, ..bounded(4, 1) }).unwrap();
    let path = root.path().join(&name);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    drop(log);
    log = dir.log_with(&name, LogOptions { mode: None, ..bounded(4, 1) }).unwrap();
    drop(log.append(b"[1]").unwrap());
    drop(log.append(b"[2]").unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::read(path).unwrap(), b"[2]\n");
    // A staged file beside it is none of the log's business.
    dir.stage("a/b/x").unwrap().seal().unwrap().publish(Publish::CreateNew).map(drop).unwrap();
}
