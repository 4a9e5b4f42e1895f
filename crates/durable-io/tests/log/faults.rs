//! Every call failed in turn, writes that are taken in part, and barriers that fail.

use std::path::Path;
use std::sync::Arc;

use durable_io::{
    Barriers, Dir, Durability, Error, Kind, Log, LogOptions, LogSync, Reached, Result, Retry, Stage, Tail,
    TargetState, Writers,
};
use media::doubles::{Call, FailNth, Lasting, Listener, Op, Recorder, ShortWrites, TapFs, When};
use media::{OsFs, Reason};

use super::{NAME, all_records, bounded, files, get, group_of, on, options, plain, put, root};

const EIO: i32 = 5;
const EINTR: i32 = 4;
const ENOSPC: i32 = 28;
const ENOTSUP: i32 = 95;
/// And EACCES, EROFS, EDQUOT, EBADF.
const CODES: [i32; 8] = [EIO, ENOSPC, 13, 30, 122, EINTR, ENOTSUP, 9];

/// A log as it was found, and what is then done to it.
struct Scenario {
    name: &'static str,
    before: &'static [(&'static str, &'static [u8])],
    /// What of that is a record.
    acknowledged: &'static [u8],
    options: LogOptions,
    records: &'static [&'static str],
}

impl Scenario {
    fn act(&self, dir: &Dir) -> Result<()> {
        let mut log = dir.log_with(NAME, self.options.clone())?;
        drop(match self.records {
            [one] => log.append(one.as_bytes())?,
            many => log.append_group(many)?,
        });
        log.close()
    }

    fn added(&self) -> Vec<u8> {
        self.records.iter().flat_map(|record| format!("{record}\n").into_bytes()).collect()
    }
}

fn scenarios() -> Vec<Scenario> {
    let two = b"{\"a\":1}\n{\"a\":2}\n";
    let scenario = |name, before, acknowledged| Scenario {
        name,
        before,
        acknowledged,
        options: options(),
        records: &["{\"new\":true}"],
    };
    vec![
        scenario("create", &[], b""),
        scenario("clean", &[(NAME, b"{\"a\":1}\n{\"a\":2}\n")], two),
        scenario("torn", &[(NAME, b"{\"a\":1}\n{\"a\":2}\n{\"a\":\xc3")], two),
        scenario("newline", &[(NAME, b"{\"a\":1}\n{\"a\":2}")], two),
        Scenario {
            records: &["[1]", "[2]", "[3]"],
            options: LogOptions { sync: LogSync::None, ..options() },
            ..scenario("group", &[(NAME, b"{\"a\":1}\n{\"a\":2}\n")], two)
        },
        Scenario {
            options: bounded(16, 3),
            ..scenario(
                "rotate",
                &[("log.jsonl.2", b"[-2]\n"), ("log.jsonl.1", b"[-1]\n"), (NAME, b"{\"a\":1}\n{\"a\":2}\n")],
                b"[-2]\n[-1]\n{\"a\":1}\n{\"a\":2}\n",
            )
        },
        Scenario {
            options: LogOptions { writers: Writers::One, sync: group_of(5), ..options() },
            ..scenario("one", &[(NAME, b"{\"a\":1}\n{\"a\":2}\n")], two)
        },
    ]
}

/// What must hold after any single failure: nothing acknowledged is gone, nothing half is left, no temporary
/// file stays, and the error says what it knows.
fn judge(scenario: &Scenario, root: &Path, outcome: &Result<()>, failed: &Call, code: i32, when: When) {
    let context = format!("{}: {failed} {when:?} {code}: {outcome:?}", scenario.name);
    let log = plain(root).log_with(NAME, options()).unwrap();
    drop(log);
    let now = all_records(root);
    let with_new = [scenario.acknowledged, &scenario.added()].concat();
    if failed.subject.ends_with(".lock") {
        match outcome {
            // The note is for people; and what an append could not release is told beside its success.
            Ok(()) => assert!(matches!(failed.op, Op::WriteAt | Op::Unlock), "{context}"),
            Err(error) => {
                assert_eq!(
                    (error.stage(), error.state()),
                    (Stage::Lock, TargetState::Unchanged),
                    "{context}"
                );
            }
        }
    }
    match outcome {
        Ok(()) => assert!(now == with_new, "{context}"),
        Err(error) => {
            let unchanged = error.state() == TargetState::Unchanged;
            // Closing fails where the lock cannot be released; by then the record is durable.
            let may_be_there = !unchanged || (failed.op == Op::Unlock && error.stage() == Stage::Lock);
            assert!(now == scenario.acknowledged || (may_be_there && now == with_new), "{context}: {now:?}");
            // "Not supported" for a rename that was carried out: the fallback then finds its own reason.
            let contradictory = failed.op == Op::Rename && when == When::After && code == ENOTSUP;
            let expected = std::io::Error::from_raw_os_error(code);
            assert!(contradictory || error.raw_os_error() == Some(code), "{context}");
            assert!(contradictory || error.reason() == Some(Reason::of(&expected)), "{context}");
            assert_ne!(error.stage(), Stage::InvalidInput, "{context}");
            if !unchanged {
                assert_eq!(error.retry(), Retry::FreshData, "{context}");
            }
        }
    }
    // A create that was carried out and reported as failed leaves a name that its caller cannot know.
    let unknowable = failed.op == Op::CreateExclusive && when == When::After;
    let stray = files(root).into_keys().find(|name| name.starts_with(".steadfast-"));
    let told = outcome.as_ref().err().is_some_and(|error| error.cleanup().is_some());
    assert!(stray.is_none() || unknowable || told || failed.op == Op::Unlink, "{context}: {stray:?}");
}

#[test]
fn any_call_that_fails_once_costs_nothing_acknowledged_and_leaves_nothing_half() {
    let mut count = 0;
    for scenario in scenarios() {
        for (code, when) in CODES.into_iter().flat_map(|code| [(code, When::Before), (code, When::After)]) {
            for nth in 0.. {
                let root = root();
                scenario.before.iter().for_each(|(name, bytes)| put(root.path(), name, bytes));
                // The first call opens the directory, which is no business of the log.
                let (failing, fs) = FailNth::new(nth + 1, code).when(when).over(OsFs::shared());
                let outcome = scenario.act(&on(fs, root.path()));
                let Some(failed) = failing.failed() else {
                    outcome.unwrap();
                    break;
                };
                count += 1;
                judge(&scenario, root.path(), &outcome, &failed, code, when);
            }
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
fn a_process_that_dies_at_any_call_loses_nothing_acknowledged() {
    for scenario in scenarios() {
        for (nth, when) in (0..).flat_map(|nth| [(nth, When::Before), (nth, When::After)]) {
            let root = root();
            scenario.before.iter().for_each(|(name, bytes)| put(root.path(), name, bytes));
            let dead = FailNth::new(nth + 1, EIO).when(when).lasting(Lasting::Forever);
            let (failing, fs) = dead.over(OsFs::shared());
            let outcome = scenario.act(&on(fs, root.path()));
            if failing.failed().is_none() {
                outcome.unwrap();
                break;
            }
            let context = format!("{}: dead at {:?}", scenario.name, failing.failed());
            drop(plain(root.path()).log_with(NAME, options()).unwrap());
            let now = all_records(root.path());
            // A torn tail was set aside, perhaps twice; what was whole is there, and the new records whole or not.
            assert!(now.starts_with(scenario.acknowledged), "{context}: {now:?}");
            let rest = &now[scenario.acknowledged.len()..];
            assert!(rest.is_empty() || rest == scenario.added(), "{context}: {now:?}");
            if scenario.name == "torn" {
                let kept = files(root.path()).into_iter().filter(|(name, _)| name.contains(".torn-16-"));
                let kept: Vec<_> = kept.map(|(_, bytes)| bytes).collect();
                assert!(!kept.is_empty() && kept.iter().all(|bytes| bytes == b"{\"a\":\xc3"), "{context}");
            }
        }
    }
}

#[test]
fn an_interrupted_write_is_repeated_and_one_that_was_carried_out_is_taken_back() {
    let root = root();
    let (_, fs) = FailNth::new(0, EINTR).only(Op::Append).over(OsFs::shared());
    let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
    assert_eq!(log.append(b"[1]").unwrap().reached, Reached::Durable);
    let (_, fs) = FailNth::new(0, EINTR).only(Op::Append).when(When::After).over(OsFs::shared());
    let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
    let error = log.append(b"[2]").unwrap_err();
    assert_eq!(
        (error.state(), error.retry(), error.stage()),
        (TargetState::Unchanged, Retry::Now, Stage::Append)
    );
    assert_eq!(get(root.path(), NAME), b"[1]\n");
    assert_eq!(log.append(b"[3]").unwrap().offset, 4);
    let (_, fs) = FailNth::new(0, EINTR).only(Op::Append).lasting(Lasting::Forever).over(OsFs::shared());
    let error = on(fs, root.path()).log_with(NAME, options()).unwrap().append(b"[4]").unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Interrupted));
}

/// The first write takes some bytes, and then the disk is full.
#[derive(Debug, Default)]
struct FillsUp {
    appends: std::sync::atomic::AtomicUsize,
    and_then: Option<Op>,
}

impl Listener for FillsUp {
    fn before(&self, call: &Call) -> std::io::Result<()> {
        let full = match call.op {
            Op::Append => self.appends.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1,
            op => Some(op) == self.and_then,
        };
        if full { Err(std::io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }

    fn write_len(&self, call: &Call, len: usize) -> usize {
        if call.op == Op::Append { len.min(3) } else { len }
    }
}

#[test]
fn a_write_cut_short_by_a_full_disk_is_taken_back_durably_and_says_so() {
    let root = root();
    put(root.path(), NAME, b"{}\n");
    let (recorder, under) = Recorder::over(OsFs::shared());
    let fs = TapFs::shared(under, Arc::new(FillsUp::default()));
    let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
    recorder.clear();
    let error = log.append(b"{\"a\":1}").unwrap_err();
    assert_eq!((error.stage(), error.state()), (Stage::Append, TargetState::Unchanged));
    assert_eq!((error.kind(), error.retry()), (Kind::NoSpace, Retry::AfterChange));
    assert_eq!(error.reason(), Some(Reason::DiskFull));
    assert_eq!(get(root.path(), NAME), b"{}\n");
    let after = recorder.lines(|line| line);
    let at = after.iter().position(|line| line == "SetLen log.jsonl 3").unwrap();
    assert_eq!(after[at + 1], "SyncAll log.jsonl");
    // It goes on, three bytes at a time.
    assert_eq!(log.append(b"{\"a\":2}").unwrap().reached, Reached::Durable);
    assert_eq!(get(root.path(), NAME), b"{}\n{\"a\":2}\n");
}

#[test]
fn what_cannot_be_taken_back_is_unknown_named_and_ends_the_conversation() {
    for op in [Op::SetLen, Op::SyncAll] {
        let root = root();
        put(root.path(), NAME, b"{}\n");
        let full = FillsUp { and_then: Some(op), ..FillsUp::default() };
        let fs = TapFs::shared(OsFs::shared(), Arc::new(full));
        let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
        let error = log.append(b"{\"a\":1}").unwrap_err();
        assert_eq!((error.state(), error.kind()), (TargetState::Unknown, Kind::NoSpace));
        assert!(error.cleanup().unwrap().path.ends_with(NAME));
        // What is left are bytes at the end of the log, which is no file that should have been removed.
        let message = error.to_string();
        assert!(message.contains("log.jsonl` is left: ") && !message.contains("remove"), "{message}");
        assert!(!error.hint().unwrap().contains("nothing partial"), "{:?}", error.hint());
        assert_eq!(log.append(b"{}").unwrap_err().kind(), Kind::Poisoned);
        drop(log);
        let log = plain(root.path()).log_with(NAME, options()).unwrap();
        assert_eq!(log.recovery().len, 3);
        assert_eq!(matches!(log.recovery().tail, Tail::Torn { offset: 3, len: 3, .. }), op == Op::SetLen);
    }
}

#[test]
fn writes_of_any_size_make_whole_records() {
    for len_max in 1..12 {
        let root = root();
        let fs = TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max }));
        put(root.path(), NAME, b"[0]\n{\"torn");
        let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
        drop(log.append(b"{\"a\":1}").unwrap());
        drop(log.append_group(&["[1]", "[2]"]).unwrap());
        assert_eq!(get(root.path(), NAME), b"[0]\n{\"a\":1}\n[1]\n[2]\n");
        let Tail::Torn { set_aside, .. } = &log.recovery().tail else { panic!("{log:?}") };
        assert_eq!(std::fs::read(set_aside).unwrap(), b"{\"torn");
    }
    let root = root();
    let fs = TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max: 0 }));
    let error = on(fs, root.path()).log_with(NAME, options()).unwrap().append(b"{}").unwrap_err();
    assert_eq!((error.stage(), error.state()), (Stage::Append, TargetState::Unchanged));
}

fn refused(error: &Error, first: &str) {
    assert_eq!((error.kind(), error.retry()), (Kind::Poisoned, Retry::Never));
    assert!(error.to_string().contains(first), "{error}");
}

#[test]
fn a_failed_barrier_poisons_the_log_and_is_not_repeated() {
    for code in [EIO, ENOSPC, EINTR] {
        let root = root();
        let (recorder, under) = Recorder::over(OsFs::shared());
        let (_, fs) = FailNth::new(1, code).only(Op::SyncData).over(under);
        let mut log = on(fs, root.path()).log_with(NAME, options()).unwrap();
        assert_eq!(log.append(b"[1]").unwrap().reached, Reached::Durable);
        let error = log.append(b"[2]").unwrap_err();
        assert_eq!((error.stage(), error.state()), (Stage::SyncFile, TargetState::Unknown));
        assert_eq!((error.raw_os_error(), error.retry()), (Some(code), Retry::FreshData));
        let first = error.to_string();
        recorder.clear();
        refused(&log.append(b"[3]").unwrap_err(), &first);
        refused(&log.append_group(&["[3]"]).unwrap_err(), &first);
        refused(&log.sync().unwrap_err(), &first);
        refused(&log.close().unwrap_err(), &first);
        assert_eq!(recorder.total(), 0, "refused before anything is touched");
        assert!(get(root.path(), NAME).starts_with(b"[1]\n"));
    }
}

#[test]
fn a_failed_barrier_of_a_rotation_poisons_too_and_every_record_is_found_again() {
    for nth in 0..4 {
        let root = root();
        put(root.path(), NAME, b"[1]\n");
        put(root.path(), "log.jsonl.1", b"[0]\n");
        // The directory barrier number 0 is that of the open.
        let (_, fs) = FailNth::new(1 + nth, EIO).only(Op::DirSync).over(OsFs::shared());
        let mut log = on(fs, root.path()).log_with(NAME, bounded(4, 3)).unwrap();
        let error = log.append(b"[2]").unwrap_err();
        assert_eq!((error.stage(), error.state()), (Stage::SyncDir, TargetState::Unknown), "{nth}");
        refused(&log.append(b"[2]").unwrap_err(), "fsync of the directory");
        drop(log);
        drop(plain(root.path()).log_with(NAME, bounded(4, 3)).unwrap());
        assert_eq!(all_records(root.path()), b"[0]\n[1]\n");
    }
}

#[test]
fn a_rotation_that_stopped_half_way_goes_on_with_the_next_append() {
    for nth in 0..3 {
        let root = root();
        put(root.path(), NAME, b"[1]\n");
        put(root.path(), "log.jsonl.1", b"[0]\n");
        let (_, fs) = FailNth::new(nth, ENOSPC).only(Op::Rename).over(OsFs::shared());
        let one = LogOptions { writers: Writers::One, ..bounded(4, 3) };
        let mut log = on(fs, root.path()).log_with(NAME, one).unwrap();
        let error = log.append(b"[2]").unwrap_err();
        assert_eq!((error.stage(), error.state()), (Stage::Rename, TargetState::Unchanged));
        assert_eq!(log.append(b"[2]").unwrap().reached, Reached::Durable);
        assert_eq!(all_records(root.path()), b"[0]\n[1]\n[2]\n");
    }
}

#[test]
fn a_directory_that_cannot_be_synced_is_refused_or_reported_as_asked() {
    let root = root();
    let no_dirsync =
        || FailNth::new(0, ENOTSUP).only(Op::DirSync).lasting(Lasting::Forever).over(OsFs::shared()).1;
    let dir = on(no_dirsync(), root.path());
    let error = dir.log_with(NAME, options()).unwrap_err();
    assert_eq!((error.stage(), error.kind()), (Stage::SyncDir, Kind::Unsupported));
    let allowed = LogOptions { barriers: Barriers::AllowVisibleOnly, ..bounded(30, 2) };
    let mut log = dir.log_with(NAME, allowed.clone()).unwrap();
    let visible = Reached::VisibleOnly(Reason::Unsupported);
    for _ in 0..10 {
        assert_eq!(log.append(b"[\"rotates\"]").unwrap().reached, visible);
    }
    assert_eq!(log.sync().unwrap(), Durability::VisibleOnly(Reason::Unsupported));
    put(root.path(), NAME, b"{}\n{");
    assert_eq!(Log::repair(&dir, NAME, allowed).unwrap().len, 3);
    // Unsupported is one thing; failed is another, and never let pass.
    let (_, fs) = FailNth::new(0, EIO).only(Op::DirSync).over(OsFs::shared());
    let allowed = LogOptions { barriers: Barriers::AllowVisibleOnly, ..options() };
    assert_eq!(on(fs, root.path()).log_with(NAME, allowed).unwrap_err().stage(), Stage::SyncDir);
}

#[test]
fn a_hidden_name_that_is_taken_is_not_taken_for_the_log() {
    let root = root();
    let (_, fs) = FailNth::new(0, EIO).only(Op::CreateExclusive).when(When::After).over(OsFs::shared());
    // With a lock file of its own, the first create may be that of the lock: then nothing is left to collide with.
    drop(on(fs, root.path()).log_with(NAME, options()));
    let strays: Vec<_> = files(root.path()).into_keys().collect();
    let reopened = on(OsFs::shared(), root.path()).log_with(NAME, options());
    match reopened {
        Ok(_) => assert!(strays.is_empty()),
        Err(error) => {
            assert!(strays[0].starts_with(".steadfast-"));
            assert_eq!((error.stage(), error.kind()), (Stage::TempWrite, Kind::Exists));
        }
    }
    assert_eq!(plain(root.path()).log_with(NAME, options()).unwrap().recovery().len, 0);
}
