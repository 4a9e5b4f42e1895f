//! A bulk that is sealed and not published: what a journal builds on.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use durable_io::{HiddenNames, SealedFile, SweepOptions, Symlinks, TXN_PREFIX};
use media::{FileKind, RenameMode};

use super::*;

fn names_from(first: u64) -> HiddenNames {
    HiddenNames::Chosen { prefix: format!("{TXN_PREFIX}5-"), suffix: ".nxpart".to_owned(), first }
}

fn chosen(first: u64) -> BulkOptions {
    BulkOptions { hidden: names_from(first), ..BulkOptions::default() }
}

fn only_error(report: &BulkReport) -> &durable_io::Error {
    let mut own = report.failures().filter(|(_, error)| error.kind() != Kind::Cancelled);
    let (_, error) = own.next().unwrap();
    assert!(own.next().is_none(), "{report:?}");
    error
}

/// Nothing is sealed: every file has failed, and nothing hidden is left.
fn refused(root: &Path, bulk: &mut Bulk<'_>) -> BulkReport {
    let report = *bulk.seal_all().unwrap_err();
    assert_eq!(report.published, 0, "{report:?}");
    assert!(report.failures().all(|(_, error)| error.state() == TargetState::Unchanged), "{report:?}");
    assert!(temps(root).is_empty(), "{:?}", temps(root));
    report
}

#[test]
fn files_are_written_then_synced_then_their_directories_and_none_is_renamed() {
    let root = tempfile::tempdir().unwrap();
    put(root.path().join("old"), "before");
    fs::set_permissions(root.path().join("old"), fs::Permissions::from_mode(0o604)).unwrap();
    let before = fs::metadata(root.path().join("old")).unwrap();
    let (trace, dir) = traced(root.path());
    let mut bulk = dir.bulk_with(chosen(0xf));
    let sealed = bulk.replace("a", b"1").replace("old", b"22").replace("x/y/b", b"").seal_all().unwrap();
    let expected = "\
DirMetadata .
Metadata a
CreateExclusive .steadfast-txn-5-f.nxpart 0666
-- after_create
WriteAt .steadfast-txn-5-f.nxpart @0+1
StartWriteback .steadfast-txn-5-f.nxpart @0+1
-- after_write
Metadata .steadfast-txn-5-f.nxpart (handle)
Metadata old
HasDefaultAcl .
CreateExclusive .steadfast-txn-5-10.nxpart 0604
-- after_create
WriteAt .steadfast-txn-5-10.nxpart @0+2
StartWriteback .steadfast-txn-5-10.nxpart @0+2
-- after_write
Metadata .steadfast-txn-5-10.nxpart (handle)
Metadata .steadfast-txn-5-10.nxpart (handle)
OpenDir x/y
OpenDir x
CreateDir x 0777
-- after_create
OpenDir x
DirMetadata x
CreateDir x/y 0777
-- after_create
OpenDir x/y
DirMetadata x/y
Metadata x/y/b
CreateExclusive x/y/.steadfast-txn-5-11.nxpart 0666
-- after_create
StartWriteback x/y/.steadfast-txn-5-11.nxpart @0+0
-- after_write
Metadata x/y/.steadfast-txn-5-11.nxpart (handle)
SyncAll .steadfast-txn-5-f.nxpart
-- after_fsync
SyncAll .steadfast-txn-5-10.nxpart
-- after_fsync
SyncAll x/y/.steadfast-txn-5-11.nxpart
-- after_fsync
DirSync x/y
-- after_dirsync
DirSync x
-- after_dirsync
DirSync .
-- after_dirsync";
    assert_eq!(trace.lines().join("\n"), expected);

    // The files are the caller's now: neither the bulk nor a sweep touches them.
    drop(bulk);
    let swept = dir.sweep(&SweepOptions { recursive: true, ..SweepOptions::default() }).unwrap();
    assert_eq!((swept.removed.len(), swept.kept.len()), (0, 0));
    let inode = |path: PathBuf| fs::metadata(root.path().join(path)).unwrap().ino();
    for (file, (path, hidden, len)) in sealed.iter().zip([
        ("a", ".steadfast-txn-5-f.nxpart", 1),
        ("old", ".steadfast-txn-5-10.nxpart", 2),
        ("x/y/b", ".steadfast-txn-5-11.nxpart", 0),
    ]) {
        assert_eq!((file.path.as_path(), &file.hidden), (Path::new(path), &OsString::from(hidden)));
        assert_eq!((file.len, file.id.unwrap().inode), (len, inode(file.hidden_path())));
        assert_eq!(file.existing.is_some(), path == "old");
    }
    let existing = sealed[1].existing.unwrap();
    assert_eq!(existing.id.unwrap().inode, before.ino());
    assert_eq!((existing.kind, existing.len, existing.mode), (FileKind::File, 6, Mode::new(0o604)));

    // And they can be given their names.
    for file in &sealed {
        let (parent, name) = (file.path.parent().unwrap(), file.path.file_name().unwrap());
        let folder = match parent.as_os_str().is_empty() {
            true => Arc::clone(dir.as_media()),
            false => dir.as_media().open_dir(parent).unwrap(),
        };
        folder.rename(&file.hidden, &*folder, name, RenameMode::Replace).unwrap();
    }
    let found: Vec<_> = tree(root.path()).into_iter().collect();
    let after = [("a", b"1".to_vec()), ("old", b"22".to_vec()), ("x/y/b", b"".to_vec())];
    assert_eq!(found, after.map(|(name, bytes)| (name.to_owned(), bytes)));
    assert_eq!(fs::metadata(root.path().join("old")).unwrap().mode() & 0o7777, 0o604);
}

/// Fails call after call of sealing [`NAMES`]; returns how many failures were tried.
fn fail_every_call_of_sealing(options: &BulkOptions, codes: &[i32]) -> usize {
    let mut tried = 0;
    for &code in codes {
        for nth in 0.. {
            let root = tempfile::tempdir().unwrap();
            let (failing, fs) = FailNth::new(nth, code).over(OsFs::shared());
            let outcome = run_until(root.path(), fs, options, |bulk| bulk.seal_all());
            let Some(call) = failing.failed() else { break };
            tried += 1;
            let context = format!("call {nth} `{call}` fails with {code}");
            let Some(outcome) = outcome else {
                assert_eq!(nth, 0, "{context}: only the opening itself can end it all");
                continue;
            };
            let mut found = tree(root.path());
            if is_tolerated(&call, code) {
                let sealed = outcome.unwrap();
                assert_eq!((sealed.len(), found.len()), (NAMES.len(), NAMES.len() + 1), "{context}");
                for SealedFile { path, .. } in &sealed {
                    assert!(path == Path::new("old") || !root.path().join(path).exists(), "{context}");
                }
                continue;
            }
            let report = *outcome.expect_err(&context);
            assert_eq!(found.remove("old"), Some(b"before".to_vec()), "{context}");
            assert!(found.is_empty(), "{context}: {found:?}");
            check_report_of_failed_seal(&call, code, &report, &context);
        }
    }
    tried
}

fn check_report_of_failed_seal(call: &Call, code: i32, report: &BulkReport, context: &str) {
    assert_eq!((report.published, report.failed), (0, NAMES.len()), "{context}");
    let stage = stage_of(call).unwrap_or_else(|| panic!("{context}: an unexpected call"));
    let mut by_this = 0;
    for (_, error) in report.failures() {
        assert_eq!(error.state(), TargetState::Unchanged, "{context}");
        assert!(error.cleanup().is_none(), "{context}");
        if error.kind() != Kind::Cancelled {
            by_this += 1;
            let facts = (error.stage(), error.raw_os_error(), error.kind());
            assert_eq!(facts, (stage, Some(code), kind_of(code, stage)), "{context}");
        }
    }
    let concerned = match (call.op, call.subject.as_str()) {
        // The root's barrier also carries the name of the new directory `x`.
        (Op::DirSync, ".") | (Op::SyncFilesystem, _) => 5,
        (Op::DirSync, _) => 2,
        _ => 1,
    };
    assert_eq!(by_this, concerned, "{context}: {report:?}");
}

/// As [`CALLS`], without the renames.
const CALLS_SEALING: usize = CALLS - NAMES.len();

#[test]
fn after_any_failed_call_nothing_is_hidden_and_no_target_changed() {
    assert_eq!(fail_every_call_of_sealing(&chosen(0), &CODES), CODES.len() * CALLS_SEALING);
}

#[test]
fn the_same_in_small_windows_under_own_names_and_with_whole_file_systems_synced() {
    let options = BulkOptions { window: 2, ..chosen(0) };
    assert_eq!(fail_every_call_of_sealing(&options, &[5]), CALLS_SEALING);
    assert_eq!(fail_every_call_of_sealing(&BulkOptions::default(), &[28]), CALLS_SEALING);
    let options = BulkOptions { sync: BulkSync::WholeFileSystem, ..chosen(0) };
    assert_eq!(fail_every_call_of_sealing(&options, &[5]), CALLS_SEALING - NAMES.len() + 1);
}

#[test]
fn new_directories_are_durable_also_where_nothing_is_sealed_in_them() {
    let root = tempfile::tempdir().unwrap();
    let (failing, fs) = FailNth::new(0, 28).only(Op::WriteAt).over(OsFs::shared());
    let (recorder, fs) = Recorder::over(fs);
    let dir = Dir::open_on(fs, root.path(), fixed_env(1)).unwrap();
    let report = refused(root.path(), dir.bulk_with(chosen(0)).replace("new/a", b"1").replace("b", b"2"));
    assert_eq!(only_error(&report).kind(), Kind::NoSpace);
    assert!(failing.failed().is_some() && root.path().join("new").is_dir());
    let synced: Vec<String> =
        recorder.calls().into_iter().filter(|call| call.op == Op::DirSync).map(|call| call.subject).collect();
    assert_eq!(synced, ["."]);
    assert_eq!(recorder.count(Op::SyncAll), 0, "what is given up is not synced");
}

#[test]
#[cfg(target_os = "linux")]
fn the_window_bounds_the_open_files_and_directories_of_a_seal() {
    let seal = |names: &[String]| {
        most_open_until(names, |bulk| assert_eq!(bulk.seal_all().unwrap().len(), names.len()))
    };
    for (n, expected) in [(255, 255), (256, 256), (257, 256)] {
        let names: Vec<String> = (0..n).map(|index| format!("f{index}")).collect();
        assert_eq!(seal(&names), (expected, 1), "n={n}");
    }
    let names: Vec<String> = (0..600).map(|index| format!("d{}/{index}", index % 300)).collect();
    let (files, directories) = seal(&names);
    assert!(files <= 256 && directories <= 1 + 64 + 2, "{files} files, {directories} directories open");
}

#[test]
fn chosen_names_count_on_and_serve_a_publish_as_well() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
    let mut bulk = dir.bulk_with(chosen(u64::MAX - 3));
    let hidden = |sealed: Vec<SealedFile>| -> Vec<String> {
        sealed.into_iter().map(|file| file.hidden.into_string().unwrap()).collect()
    };
    // A file that is refused, or given up, has used its number up.
    assert!(bulk.stage("..", &WriteOptions::default()).is_err());
    drop(bulk.stage("never", &WriteOptions::default()).unwrap());
    assert_eq!(
        hidden(bulk.replace("a", b"1").seal_all().unwrap()),
        [".steadfast-txn-5-fffffffffffffffe.nxpart"]
    );
    assert_eq!(bulk.replace("b", b"2").publish_all().published, 1);
    let sealed = bulk.replace("sub/c", b"3").replace("d", b"4").seal_all().unwrap();
    assert_eq!(hidden(sealed), [".steadfast-txn-5-0.nxpart", ".steadfast-txn-5-1.nxpart"]);
    assert_eq!(bulk.seal_all().unwrap(), []);
    let found: Vec<String> = tree(root.path()).into_keys().collect();
    let left = [
        ".steadfast-txn-5-1.nxpart",
        ".steadfast-txn-5-fffffffffffffffe.nxpart",
        "b",
        "sub/.steadfast-txn-5-0.nxpart",
    ];
    assert_eq!(found, left);
}

#[test]
fn a_hidden_name_that_exists_is_not_written_over_and_not_removed() {
    let root = tempfile::tempdir().unwrap();
    put(root.path().join(".steadfast-txn-5-1.nxpart"), "of another transaction");
    let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
    let mut bulk = dir.bulk_with(chosen(0));
    let report = *bulk.replace("a", b"1").replace("b", b"2").replace("c", b"3").seal_all().unwrap_err();
    assert_eq!((only_error(&report).kind(), only_error(&report).stage()), (Kind::Exists, Stage::TempWrite));
    let found: Vec<_> = tree(root.path()).into_iter().collect();
    assert_eq!(found, [(".steadfast-txn-5-1.nxpart".to_owned(), b"of another transaction".to_vec())]);
}

#[test]
fn names_that_no_one_may_choose_or_replace_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
    let why = |prefix: &str, suffix: &str, target: &str| {
        let hidden = HiddenNames::Chosen { prefix: prefix.to_owned(), suffix: suffix.to_owned(), first: 0 };
        let mut bulk = dir.bulk_with(BulkOptions { hidden, ..BulkOptions::default() });
        let report = refused(root.path(), bulk.replace(target, b"1"));
        assert!(tree(root.path()).is_empty());
        match only_error(&report).cause() {
            Cause::Invalid(why) => *why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why("sub/", "", "a"), Invalid::NotBelowDirectory);
    assert_eq!(why("", "\0", "a"), Invalid::NulInPath);
    // What a sweep would take for the file of some process.
    assert_eq!(why(".steadfast-1-2-3-4-5-", ".tmp", "a"), Invalid::ReservedName);
    // A target that a file of this bulk may be hidden under.
    assert_eq!(why("p-", ".part", "p-ff.part"), Invalid::ReservedName);
    assert_eq!(why("p-", ".part", ".steadfast-txn-9-0.nxpart"), Invalid::ReservedName);
}

#[test]
fn nobody_reaches_the_files_of_a_journal_by_name_or_through_a_link() {
    let root = tempfile::tempdir().unwrap();
    let staged = ".steadfast-txn-9-0.nxpart";
    put(root.path().join(staged), "staged");
    symlink(staged, root.path().join("link")).unwrap();
    let dir = Dir::open(root.path()).unwrap();
    for name in [staged, "link"] {
        let errors = [
            dir.replace(name, b"x").unwrap_err(),
            dir.create_new(staged, b"x").unwrap_err(),
            dir.read(name).unwrap_err(),
            dir.remove(staged).unwrap_err(),
            dir.rename("other", staged).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error.cause(), Cause::Invalid(Invalid::ReservedName)), "{name}: {error:?}");
        }
    }
    assert_eq!(fs::read(root.path().join(staged)).unwrap(), b"staged");
    // The link itself may be replaced and removed.
    let replace = WriteOptions { symlinks: Symlinks::Replace, ..WriteOptions::default() };
    dir.replace_with("link", b"x", &replace).unwrap();
    assert_eq!(fs::read(root.path().join(staged)).unwrap(), b"staged");
}

#[test]
fn a_link_is_replaced_or_refused_and_never_followed() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("d")).unwrap();
    put(root.path().join("file"), "kept");
    symlink("file", root.path().join("beside")).unwrap();
    // To a file of the same name, but elsewhere.
    put(root.path().join("d/below"), "kept");
    symlink("d/below", root.path().join("below")).unwrap();
    let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
    let with = |symlinks| WriteOptions { symlinks, ..WriteOptions::default() };
    for link in ["beside", "below"] {
        let mut bulk = dir.bulk_with(chosen(0));
        bulk.replace("plain", b"1").replace(link, b"2");
        let report = refused(root.path(), &mut bulk);
        let error = only_error(&report);
        assert!(matches!(error.cause(), Cause::Invalid(Invalid::LinkNotSealed)), "{error:?}");
        let report = refused(root.path(), bulk.replace_with(link, b"2", &with(Symlinks::Refuse)));
        assert!(matches!(only_error(&report).cause(), Cause::Invalid(Invalid::SymlinkRefused)));
        let sealed = bulk.replace_with(link, b"2", &with(Symlinks::Replace)).seal_all().unwrap();
        assert_eq!(sealed[0].existing.unwrap().kind, FileKind::Symlink);
        fs::remove_file(root.path().join(sealed[0].hidden_path())).unwrap();
    }
    // A link among the parents is how the caller chose to write the path.
    symlink("d", root.path().join("e")).unwrap();
    let sealed = dir.bulk_with(chosen(0)).replace("e/x", b"").replace("./d/y", b"").seal_all().unwrap();
    for file in sealed {
        assert!(root.path().join(file.hidden_path()).is_file());
    }
    assert_eq!(temps(&root.path().join("d")).len(), 2);
    for kept in ["file", "d/below"] {
        assert_eq!(fs::read(root.path().join(kept)).unwrap(), b"kept");
    }
}

#[test]
fn a_file_that_may_be_left_as_it_is_is_refused_whether_it_would_be_or_not() {
    let skip = WriteOptions { unchanged: Unchanged::Skip, ..WriteOptions::default() };
    for (name, bytes) in [("same", b"same"), ("same", b"not!"), ("new", b"data")] {
        let root = tempfile::tempdir().unwrap();
        put(root.path().join("same"), "same");
        let (recorder, dir) = recorded(root.path());
        let mut bulk = dir.bulk_with(chosen(0));
        let report = refused(root.path(), bulk.replace("a", b"1").replace_with(name, bytes, &skip));
        assert!(matches!(only_error(&report).cause(), Cause::Invalid(Invalid::SkipNotSealed)));
        assert_eq!((report.failed, recorder.count(Op::Rename)), (2, 0));
        assert_eq!(
            tree(root.path()).into_iter().collect::<Vec<_>>(),
            [("same".to_owned(), b"same".to_vec())]
        );
    }
}

#[test]
fn one_failure_takes_all_whatever_the_options_say() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
    let options = BulkOptions { on_failure: OnFailure::PublishOthers, window: 1, ..chosen(0) };
    let mut bulk = dir.bulk_with(options);
    bulk.replace("a", b"1").replace("../out", b"2").replace("b", b"3").replace("c", b"4");
    let report = refused(root.path(), &mut bulk);
    assert_eq!((report.failed, only_error(&report).stage()), (4, Stage::InvalidInput));
    assert!(tree(root.path()).is_empty());
}

#[test]
fn a_directory_barrier_that_is_not_offered_seals_nothing_even_where_visible_only_is_allowed() {
    let root = tempfile::tempdir().unwrap();
    let fail = FailNth::new(0, 95).only(Op::DirSync).lasting(Lasting::Forever);
    let dir = Dir::open_on(fail.over(OsFs::shared()).1, root.path(), fixed_env(1)).unwrap();
    let allowed = WriteOptions { barriers: Barriers::AllowVisibleOnly, ..WriteOptions::default() };
    let mut bulk = dir.bulk_with(chosen(0));
    let report =
        refused(root.path(), bulk.replace_with("a", b"1", &allowed).replace_with("b", b"2", &allowed));
    let facts: Vec<_> = report.failures().map(|(_, error)| (error.stage(), error.kind())).collect();
    assert_eq!(facts, [(Stage::SyncDir, Kind::Unsupported); 2]);
}

#[test]
fn a_target_that_is_not_as_expected_seals_nothing() {
    let root = tempfile::tempdir().unwrap();
    put(root.path().join("a"), "1");
    let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
    let (_, stamp) = dir.read_stamped("a").unwrap();
    let expecting = WriteOptions { expect: Some(stamp), ..WriteOptions::default() };
    let mut bulk = dir.bulk_with(chosen(0));
    let sealed = bulk.replace_with("a", b"2", &expecting).replace("b", b"2").seal_all().unwrap();
    for file in sealed {
        fs::remove_file(root.path().join(file.hidden_path())).unwrap();
    }
    bulk.replace_with("a", b"2", &expecting).replace("b", b"2");
    put(root.path().join("a"), "somebody else's");
    let report = refused(root.path(), &mut bulk);
    assert_eq!((report.failed, only_error(&report).kind()), (2, Kind::Conflict));
    assert_eq!(fs::read(root.path().join("a")).unwrap(), b"somebody else's");
}

#[test]
fn a_hidden_file_that_cannot_be_removed_is_named_in_the_error() {
    let root = tempfile::tempdir().unwrap();
    let unlinks = FailNth::new(0, 5).only(Op::Unlink).lasting(Lasting::Forever);
    let (_, fs) = unlinks.over(OsFs::shared());
    let (_, fs) = FailNth::new(0, 5).only(Op::DirSync).over(fs);
    let dir = Dir::open_on(fs, root.path(), fixed_env(1)).unwrap();
    let report = *dir.bulk_with(chosen(0)).replace("a", b"1").replace("b", b"2").seal_all().unwrap_err();
    let left: Vec<PathBuf> =
        report.failures().map(|(_, error)| error.cleanup().unwrap().path.clone()).collect();
    let expected = [".steadfast-txn-5-0.nxpart", ".steadfast-txn-5-1.nxpart"];
    assert_eq!(left, expected.map(|name| root.path().join(name)));
    assert_eq!(temps(root.path()), expected);
}

#[test]
fn a_dropped_bulk_with_chosen_names_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
    let mut bulk = dir.bulk_with(BulkOptions { window: 2, ..chosen(3) });
    bulk.replace("a", b"1").replace("new/b", b"2").replace("c", b"3");
    assert_eq!(temps(root.path()).len(), 3);
    drop(bulk);
    assert!(tree(root.path()).is_empty());
}

#[test]
fn a_directory_shows_what_it_was_opened_with() {
    let root = tempfile::tempdir().unwrap();
    let (fs, env) = (OsFs::shared(), fixed_env(1));
    let dir = Dir::open_on(Arc::clone(&fs), root.path(), env.clone()).unwrap();
    assert!(Arc::ptr_eq(dir.fs(), &fs) && Arc::ptr_eq(&dir.env().pool, &env.pool));
    let id = dir.as_media().dir_metadata().unwrap().id.unwrap();
    assert_eq!(id.inode, fs::metadata(root.path()).unwrap().ino());
}
