//! The log: what an open finds, keeps and sets aside, the order of its calls, and what is left when any of them
//! fails.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test where something unexpected happens")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use durable_io::{
    CheckedTail, Dir, Error, Flaw, Invalid, Kind, Log, LogOptions, LogSync, Mode, Tail, TargetState,
};
use media::doubles::fixed_env;
use media::{Fs, OsFs};
use proptest::prelude::*;

#[path = "log/calls.rs"]
mod calls;
#[path = "log/faults.rs"]
mod faults;
#[path = "log/writers.rs"]
mod writers;

const NAME: &str = "log.jsonl";

/// In memory where there is such a place: these tests wait for barriers by the thousand.
fn root() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn on(fs: Arc<dyn Fs>, root: &Path) -> Dir {
    Dir::open_on(fs, root, fixed_env(1)).unwrap()
}

/// With other random names than [`on`]: what one leaves, the other does not trip over.
fn plain(root: &Path) -> Dir {
    Dir::open_on(OsFs::shared(), root, fixed_env(2)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "what a crash leaves is put there without ceremony")]
fn put(root: &Path, name: &str, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(root.join(name), bytes).unwrap();
    std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(0o644)).unwrap();
}

fn get(root: &Path, name: &str) -> Vec<u8> {
    std::fs::read(root.join(name)).unwrap()
}

/// Every file but lock files.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let names =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".lock")).map(|name| (name.clone(), get(root, &name))).collect()
}

/// The log and its rotated files, the oldest first, in one piece.
fn all_records(root: &Path) -> Vec<u8> {
    let mut names: Vec<_> = files(root).into_keys().filter(|name| name.starts_with(NAME)).collect();
    names.retain(|name| !name.contains(".torn-"));
    names.sort();
    names.reverse();
    names.iter().flat_map(|name| get(root, name)).collect()
}

fn options() -> LogOptions {
    LogOptions { mode: Some(Mode::new(0o640)), ..LogOptions::default() }
}

fn bounded(bytes_max: u64, keep: u32) -> LogOptions {
    LogOptions { bytes_max: Some(bytes_max), keep, ..options() }
}

fn group_of(count: u32) -> LogSync {
    LogSync::Group(NonZeroU32::new(count).unwrap())
}

fn why(error: &Error) -> Invalid {
    match error.cause() {
        durable_io::Cause::Invalid(why) => *why,
        other => panic!("{other:?}"),
    }
}

fn samples() -> Vec<String> {
    let shapes = [
        r#"{"n":#}"#,
        "[#]",
        r#"{"ü":"žluťoučký €#"}"#,
        r#"["\"\\\n\u00e9#"]"#,
        r#"{"a":[{"b":[[],{}]},#]}"#,
        r#"[ "😀", # ]"#,
        "{}",
        "[]",
    ];
    (0..40).map(|i| shapes[i % shapes.len()].replace('#', &i.to_string())).collect()
}

fn joined(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// Opens what is there, says what was found, and proves that the log works: appends, and checks clean.
fn reopen(root: &Path) -> Tail {
    let dir = plain(root);
    let mut log = dir.log_with(NAME, options()).unwrap();
    let recovery = log.recovery().clone();
    assert_eq!(recovery.len, u64::try_from(get(root, NAME).len()).unwrap());
    let before = get(root, NAME);
    assert_eq!(log.append(b"[\"again\"]").unwrap().offset, recovery.len);
    log.close().unwrap();
    assert_eq!(get(root, NAME), [&before[..], b"[\"again\"]\n"].concat());
    assert_eq!(Log::check(&dir, NAME, &options()).unwrap().tail, CheckedTail::Clean);
    assert_eq!(
        *dir.log_with(NAME, options()).unwrap().recovery(),
        durable_io::LogRecovery { len: recovery.len + 10, tail: Tail::Clean }
    );
    recovery.tail
}

/// Puts `bytes` there as the log; expects `kept` to stay and the rest to be set aside.
fn expect_kept(bytes: &[u8], kept: usize) {
    let root = root();
    put(root.path(), NAME, bytes);
    let checked = Log::check(&plain(root.path()), NAME, &options()).unwrap();
    let tail = reopen(root.path());
    assert!(get(root.path(), NAME).starts_with(&bytes[..kept]));
    let (offset, len) = (u64::try_from(kept).unwrap(), u64::try_from(bytes.len() - kept).unwrap());
    match tail {
        Tail::Clean => {
            assert_eq!(kept, bytes.len());
            assert_eq!(checked.tail, CheckedTail::Clean);
        }
        Tail::Torn { offset: at, len: count, set_aside } => {
            assert_eq!((at, count), (offset, len));
            assert_eq!(std::fs::read(&set_aside).unwrap(), &bytes[kept..]);
            assert!(
                matches!(checked.tail, CheckedTail::Torn { offset: o, len: l, .. } if o == offset && l == len)
            );
        }
        Tail::NewlineAdded { .. } => panic!("{tail:?}"),
    }
}

#[test]
fn every_prefix_of_a_log_keeps_all_whole_records_and_sets_aside_the_rest() {
    let records = samples();
    let whole = joined(&records);
    let mut seen = [0_u32; 3];
    for cut in 0..=whole.len() {
        let root = root();
        let prefix = &whole[..cut];
        put(root.path(), NAME, prefix);
        let good = prefix.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let lines = prefix.iter().filter(|&&b| b == b'\n').count();
        let rest = &prefix[good..];
        let at = u64::try_from(good).unwrap();
        let checked = Log::check(&plain(root.path()), NAME, &options()).unwrap();
        assert_eq!((checked.bytes, checked.damaged_count), (u64::try_from(cut).unwrap(), 0));
        let tail = reopen(root.path());
        let now = get(root.path(), NAME);
        if rest.is_empty() {
            assert_eq!((&tail, checked.tail), (&Tail::Clean, CheckedTail::Clean));
            assert_eq!(files(root.path()).len(), 1);
            seen[0] += 1;
        } else if rest == records[lines].as_bytes() {
            assert_eq!(tail, Tail::NewlineAdded { offset: at });
            assert_eq!(checked.tail, CheckedTail::NewlineMissing { offset: at });
            assert!(now.starts_with(&[prefix, b"\n"].concat()));
            assert_eq!(files(root.path()).len(), 1);
            seen[1] += 1;
        } else {
            let Tail::Torn { offset, len, set_aside } = tail else { panic!("{cut}: {tail:?}") };
            assert_eq!((offset, len), (at, u64::try_from(rest.len()).unwrap()));
            assert!(
                matches!(checked.tail, CheckedTail::Torn { offset: o, len: l, .. } if o == at && l == len)
            );
            assert_eq!([&now[..good], &std::fs::read(&set_aside).unwrap()].concat(), prefix);
            assert_eq!(files(root.path()).len(), 2);
            seen[2] += 1;
        }
    }
    assert_eq!(seen[..2], [41, 40], "each record was seen whole, and whole but for its newline");
}

#[test]
fn nul_tails_of_any_length_are_set_aside() {
    let good = joined(&samples());
    let filler = format!("[\"{}\"]\n", "x".repeat(4096 - 5 - good.len() % 4096));
    let page = [&good[..], filler.as_bytes()].concat();
    assert_eq!(page.len() % 4096, 0);
    for head in [&good, &page, &Vec::new()] {
        for len in (1..20).chain(4080..4112).chain(8185..8200).chain([12_288, 70_000]) {
            let nul = vec![0_u8; len];
            expect_kept(&[&head[..], &nul].concat(), head.len());
            // The beginning lost, its end and newline there; and a whole line swallowed by zeros in front of it.
            expect_kept(&[&head[..], &nul, b"x\"}\n"].concat(), head.len());
            expect_kept(&[&head[..], &nul, b"{\"a\":1}\n"].concat(), head.len());
            expect_kept(&[&head[..], b"{\"a\":\"", &nul, b"\"}\n"].concat(), head.len());
        }
    }
}

#[test]
fn terminated_garbage_cut_characters_and_bare_scalars_are_torn_and_terminated_scalars_are_not() {
    let good = b"{\"a\":1}\n[2]\n";
    let torn: [&[u8]; 14] = [
        b"{\"a\"\n",
        b"\n",
        b" \n",
        b"{}{}\n",
        b"{} {}",
        b"\xe2\x82",
        b"[\"\xe2\x82\n",
        b"[\"\xe2\x82\"]\n",
        b"12",
        b"tru",
        b"\"whole?\"",
        b"null",
        b"\n\n\nx\n{\n\0",
        b"{\"a\":1}\r\0\n",
    ];
    for tail in torn {
        expect_kept(&[good, tail].concat(), good.len());
        expect_kept(tail, 0);
    }
    for tail in ["12\n", "\"x\"\n", "null\n", "{}\r\n", " [1] \n", ""] {
        expect_kept(&[good, tail.as_bytes()].concat(), good.len() + tail.len());
    }
    // Damage in the middle is not the tail's business, and not touched.
    let damaged = [&good[..], b"garbage\n\0\0\n{}\n"].concat();
    expect_kept(&damaged, damaged.len());
    expect_kept(&[&damaged[..], b"{\"cut"].concat(), damaged.len());
}

#[test]
fn a_log_without_a_whole_line_in_reach_is_reported_and_not_touched() {
    const BOUND: usize = 16 << 20;
    let root = root();
    let dir = plain(root.path());
    for (len, reachable) in [(BOUND - 1, true), (BOUND, true), (BOUND + 1, false), (BOUND + 2, false)] {
        let bytes = [b"{}\n".to_vec(), vec![b'y'; len - 3]].concat();
        put(root.path(), NAME, &bytes);
        let before = files(root.path()).len();
        match dir.log_with(NAME, options()) {
            Ok(log) => {
                assert!(reachable, "{len}");
                assert!(matches!(log.recovery().tail, Tail::Torn { offset: 3, .. }));
            }
            Err(error) => {
                assert!(!reachable, "{error}");
                assert_eq!((error.kind(), error.state()), (Kind::Corrupt, TargetState::Unchanged));
                let durable_io::Cause::Corrupt { offset, .. } = error.cause() else { panic!("{error:?}") };
                assert_eq!(*offset, u64::try_from(len - BOUND).unwrap());
                assert!(get(root.path(), NAME) == bytes && files(root.path()).len() == before);
            }
        }
    }
    // Who writes longer records looks further back.
    put(root.path(), NAME, &[b"{}\n".to_vec(), vec![b'y'; BOUND + 5]].concat());
    let longer = LogOptions { record_len_max: 10 << 20, ..options() };
    assert!(matches!(dir.log_with(NAME, longer).unwrap().recovery().tail, Tail::Torn { offset: 3, .. }));
}

#[test]
fn a_torn_tail_of_a_name_of_255_bytes_is_set_aside_with_the_mode_of_the_log() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = root();
    let name = "n".repeat(250);
    for name in [NAME, &name] {
        put(root.path(), name, b"{}\n{");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(root.path().join(name), mode).unwrap();
        let log = plain(root.path()).log_with(name, LogOptions { mode: None, ..options() }).unwrap();
        let Tail::Torn { set_aside, .. } = &log.recovery().tail else { panic!("{log:?}") };
        assert_eq!(std::fs::metadata(set_aside).unwrap().permissions().mode() & 0o7777, 0o600);
        let suffix = set_aside.file_name().unwrap().to_str().unwrap().rsplit_once(".torn-3-").unwrap().1;
        assert_eq!(suffix.len(), 8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_open_and_no_whole_record_in_front_is_lost(
        records in 0_usize..6,
        noise in prop::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'{'), Just(b'}'), Just(b'"'), Just(0), Just(b'1'), any::<u8>()], 0..60),
        after in 0_usize..2,
    ) {
        let root = root();
        let head = joined(&samples()[..records]);
        let after = joined(&samples()[..after]);
        let bytes = [&head[..], &noise, &after].concat();
        put(root.path(), NAME, &bytes);
        let log = plain(root.path()).log_with(NAME, options()).unwrap();
        let now = get(root.path(), NAME);
        prop_assert!(now.starts_with(&head));
        match &log.recovery().tail {
            Tail::Clean => prop_assert_eq!(&now, &bytes),
            Tail::NewlineAdded { .. } => prop_assert_eq!(&now, &[&bytes[..], b"\n"].concat()),
            Tail::Torn { set_aside, .. } => {
                prop_assert_eq!(&[&now[..], &std::fs::read(set_aside).unwrap()].concat(), &bytes);
            }
        }
        if !after.is_empty() && (noise.is_empty() || noise.ends_with(b"\n")) {
            prop_assert!(now.ends_with(&after));
        }
        drop(log);
        reopen(root.path());
    }
}

#[test]
fn only_one_object_or_array_on_one_line_and_within_the_bound_is_a_record() {
    let root = root();
    let dir = plain(root.path());
    let mut log = dir.log_with(NAME, LogOptions { record_len_max: 10, ..options() }).unwrap();
    let deep = [vec![b'['; 128], vec![b']'; 128]].concat();
    let bad: [&[u8]; 9] = [b"", b"12", b"\"x\"", b"{", b"[1,\n2]", b"{}\n", b"{}{}", b"[\"\xff\"]", b"[\0]"];
    for record in bad {
        let error = log.append(record).unwrap_err();
        assert_eq!((why(&error), error.kind()), (Invalid::NotARecord, Kind::Invalid));
        assert_eq!(error.state(), TargetState::Unchanged);
    }
    for (len, fits) in [(9, true), (10, true), (11, false)] {
        let record = format!("[{}]", "1".repeat(len - 2));
        match log.append(record.as_bytes()) {
            Ok(_) => assert!(fits),
            Err(error) => {
                assert!(!fits);
                assert_eq!(why(&error), Invalid::TooLong { len: 11, len_max: 10 });
            }
        }
    }
    // A group is checked as a whole before its first record is written.
    let group: [&[u8]; 3] = [b"[1]", b"[2]", b"3"];
    assert_eq!(why(&log.append_group(&group).unwrap_err()), Invalid::NotARecord);
    assert_eq!(get(root.path(), NAME).len(), 10 + 11);
    let mut log = dir.log_with(NAME, options()).unwrap();
    assert_eq!(why(&log.append(&deep).unwrap_err()), Invalid::NotARecord);
    assert_eq!(log.append(&deep[1..255]).unwrap().len, 255);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let root = root();
    let dir = plain(root.path());
    std::fs::create_dir(root.path().join("dir")).unwrap();
    assert!(matches!(why(&dir.log("dir").unwrap_err()), Invalid::NotARegularFile(_)));
    std::os::unix::fs::symlink("target", root.path().join("link")).unwrap();
    assert_eq!(why(&dir.log("link").unwrap_err()), Invalid::SymlinkRefused);
    assert_eq!(why(&dir.log("../x").unwrap_err()), Invalid::NotBelowDirectory);
    assert_eq!(Log::repair(&dir, "absent", options()).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(Log::check(&dir, "absent", &options()).unwrap_err().kind(), Kind::NotFound);
    assert!(!root.path().join("absent").exists());
}

#[test]
fn check_tells_damage_in_the_middle_from_a_torn_tail_and_bounds_its_list() {
    let root = root();
    let dir = plain(root.path());
    let check = |bytes: &[u8], options: &LogOptions| {
        put(root.path(), NAME, bytes);
        let check = Log::check(&dir, NAME, options).unwrap();
        assert!(get(root.path(), NAME) == bytes, "a check changes nothing");
        check
    };
    let found = check(
        b"{}\nx\n[\"\xff\"]\n\0\0\n3\n{\"long\":\"123456789\"}\n[]\n\0\n{",
        &LogOptions { record_len_max: 12, ..options() },
    );
    assert_eq!((found.records, found.damaged_count), (3, 4));
    let flaws: Vec<_> = found.damaged.iter().map(|line| (line.offset, line.len, line.flaw)).collect();
    assert_eq!(
        flaws,
        [(3, 1, Flaw::NotJson), (5, 5, Flaw::CutUtf8), (11, 2, Flaw::Nul), (16, 20, Flaw::TooLong),]
    );
    assert_eq!(found.tail, CheckedTail::Torn { offset: 40, len: 3, flaw: Flaw::Nul });
    assert_eq!(check(b"", &options()).tail, CheckedTail::Clean);
    assert_eq!(check(b"{", &options()).tail, CheckedTail::Torn { offset: 0, len: 1, flaw: Flaw::Unfinished });
    for (count, listed) in [(99, 99), (100, 100), (101, 100)] {
        let found = check(&[&b"x\n".repeat(count)[..], b"{}\n"].concat(), &options());
        assert_eq!((found.damaged.len(), found.damaged_count), (listed, u64::try_from(count).unwrap()));
        assert_eq!((found.records, found.tail), (1, CheckedTail::Clean));
        // Without the whole line behind it all of it is tail.
        let found = check(&b"x\n".repeat(count), &options());
        let len = u64::try_from(2 * count).unwrap();
        assert_eq!((found.damaged.len(), found.damaged_count), (0, 0));
        assert_eq!(found.tail, CheckedTail::Torn { offset: 0, len, flaw: Flaw::NotJson });
    }
    let mut many = joined(&samples()).repeat(200);
    many.extend(vec![b'z'; 17 << 20]);
    many.extend(b"\n{}\n");
    let found = check(&many, &options());
    assert_eq!((found.records, found.damaged[0].flaw), (8001, Flaw::TooLong));
    assert_eq!(found.damaged[0].len, 17 << 20);
}

#[test]
fn repair_reports_what_opening_would_and_leaves_nothing_open() {
    let root = root();
    put(root.path(), NAME, b"{}\n[1");
    let dir = plain(root.path());
    let repaired = Log::repair(&dir, NAME, options()).unwrap();
    assert!(matches!(repaired.tail, Tail::Torn { offset: 3, len: 2, .. }));
    assert_eq!(Log::repair(&dir, NAME, options()).unwrap().tail, Tail::Clean);
    assert_eq!(get(root.path(), NAME), b"{}\n");
}
