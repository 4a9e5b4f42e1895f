//! A bulk: the exact order of its calls, how many there are, and what is true after each of them fails.

#[cfg(test)]
#[cfg(unix)]
mod bulk {
    mod seal;

    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::{self, Write as _};
    use std::ops::ControlFlow;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use durable_io::{
        Barriers, Bulk, BulkOptions, BulkPhase, BulkReport, BulkSync, Cause, Change, Dir, Durability,
        HardLinks, Invalid, Kind, Mode, OnFailure, Reason, Retry, Stage, TargetState, Unchanged,
        WriteOptions,
    };
    use media::doubles::{
        Call, FailNth, Lasting, Listener, Op, Recorder, ShortWrites, TapFs, When, fixed_env,
    };
    use media::{Env, Fs, OsFs, SyncPool};

    /// Writes down calls and marks in one list, with temporary names numbered in the order of their appearance.
    #[derive(Debug, Default)]
    struct Trace(Mutex<Vec<String>>);

    impl Listener for Trace {
        fn before(&self, call: &Call) -> io::Result<()> {
            self.0.lock().unwrap().push(call.to_string());
            Ok(())
        }

        fn mark(&self, point: &'static str) {
            self.0.lock().unwrap().push(format!("-- {point}"));
        }
    }

    impl Trace {
        fn lines(&self) -> Vec<String> {
            let seen = RefCell::new(Vec::new());
            self.0.lock().unwrap().iter().map(|line| numbered(line, &seen)).collect()
        }
    }

    fn numbered(line: &str, seen: &RefCell<Vec<String>>) -> String {
        let Some(at) = line.find(".steadfast-") else { return line.to_owned() };
        // A chosen name is the same in every run.
        let Some(len) = line[at..].find(".tmp") else { return line.to_owned() };
        let end = at + len + 4;
        let mut seen = seen.borrow_mut();
        let name = line[at..end].to_owned();
        let index = seen.iter().position(|known| *known == name).unwrap_or_else(|| {
            seen.push(name);
            seen.len() - 1
        });
        format!("{}T{index}{}", &line[..at], &line[end..])
    }

    fn traced(root: &Path) -> (Arc<Trace>, Dir) {
        let trace = Arc::new(Trace::default());
        let fs = TapFs::shared(OsFs::shared(), Arc::<Trace>::clone(&trace));
        let dir = Dir::open_on(fs, root, fixed_env(1)).unwrap();
        trace.0.lock().unwrap().clear();
        (trace, dir)
    }

    fn recorded(root: &Path) -> (Arc<Recorder>, Dir) {
        let (recorder, fs) = Recorder::over(OsFs::shared());
        let dir = Dir::open_on(fs, root, fixed_env(1)).unwrap();
        recorder.clear();
        (recorder, dir)
    }

    fn put(path: PathBuf, bytes: &str) {
        fs::File::create(path).unwrap().write_all(bytes.as_bytes()).unwrap();
    }

    /// Every file below `root`, by relative path.
    fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut due = vec![PathBuf::new()];
        while let Some(below) = due.pop() {
            for entry in fs::read_dir(root.join(&below)).unwrap() {
                let entry = entry.unwrap();
                let path = below.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    due.push(path);
                } else if !entry.path().is_dir() {
                    found.insert(path.to_str().unwrap().to_owned(), fs::read(entry.path()).unwrap());
                }
            }
        }
        found
    }

    fn temps(root: &Path) -> Vec<String> {
        tree(root).into_keys().filter(|name| name.contains(".steadfast-")).collect()
    }

    fn outcomes(report: &BulkReport) -> Vec<(String, Option<TargetState>)> {
        let one = |file: durable_io::FileResult<'_>| {
            (file.name.to_str().unwrap().to_owned(), file.outcome.err().map(durable_io::Error::state))
        };
        report.results().map(one).collect()
    }

    #[test]
    fn three_files_in_one_directory_call_by_call() {
        let root = tempfile::tempdir().unwrap();
        put(root.path().join("b"), "old");
        let (trace, dir) = traced(root.path());
        let report = dir.bulk().replace("a", b"1").replace("b", b"22").replace("c", b"").publish_all();
        assert_eq!((report.published, report.failed, report.bytes), (3, 0, 3));
        assert_eq!(report.durability, Durability::Durable);
        let expected = "\
DirMetadata .
Metadata a
CreateExclusive T0 0666
-- after_create
WriteAt T0 @0+1
StartWriteback T0 @0+1
-- after_write
Metadata T0 (handle)
Metadata b
Open b Read
XattrNames b
HasDefaultAcl .
CreateExclusive T1 0644
-- after_create
WriteAt T1 @0+2
StartWriteback T1 @0+2
-- after_write
Metadata T1 (handle)
Metadata T1 (handle)
Metadata c
CreateExclusive T2 0666
-- after_create
StartWriteback T2 @0+0
-- after_write
Metadata T2 (handle)
SyncAll T0
-- after_fsync
SyncAll T1
-- after_fsync
SyncAll T2
-- after_fsync
Rename T0 -> a
-- after_rename
Rename T1 -> b
-- after_rename
Rename T2 -> c
-- after_rename
DirSync .
-- after_dirsync";
        assert_eq!(trace.lines().join("\n"), expected);
        let changes: Vec<_> = report.results().map(|file| file.outcome.unwrap().change).collect();
        assert_eq!(changes, [Change::Created, Change::Replaced, Change::Created]);
    }

    #[test]
    fn four_files_in_two_directories_one_of_them_new_call_by_call() {
        let root = tempfile::tempdir().unwrap();
        let (trace, dir) = traced(root.path());
        let report = dir
            .bulk()
            .replace("a", b"1")
            .replace("x/y/b", b"2")
            .replace("c", b"3")
            .replace("x/y/d", b"4")
            .publish_all();
        assert_eq!((report.published, report.failed), (4, 0));
        let file = |number: usize, path: &str, name: &str| {
            format!(
                "Metadata {path}{name}\nCreateExclusive {path}T{number} 0666\n-- after_create\n\
                 WriteAt {path}T{number} @0+1\nStartWriteback {path}T{number} @0+1\n-- after_write\n\
                 Metadata {path}T{number} (handle)\n"
            )
        };
        let expected = [
            "DirMetadata .\n".to_owned(),
            file(0, "", "a"),
            // What exists of the path is found, then the rest is created, unsynced.
            "OpenDir x/y\nOpenDir x\nCreateDir x 0777\n-- after_create\nOpenDir x\nDirMetadata x\n"
                .to_owned(),
            "CreateDir x/y 0777\n-- after_create\nOpenDir x/y\nDirMetadata x/y\n".to_owned(),
            file(1, "x/y/", "b"),
            file(2, "", "c"),
            file(3, "x/y/", "d"),
            "SyncAll T0\n-- after_fsync\nSyncAll x/y/T1\n-- after_fsync\n".to_owned(),
            "SyncAll T2\n-- after_fsync\nSyncAll x/y/T3\n-- after_fsync\n".to_owned(),
            "Rename T0 -> a\n-- after_rename\nRename x/y/T1 -> x/y/b\n-- after_rename\n".to_owned(),
            "Rename T2 -> c\n-- after_rename\nRename x/y/T3 -> x/y/d\n-- after_rename\n".to_owned(),
            // The names in x/y, then `y` in x, then `a`, `c` and `x` in the root: each once.
            "DirSync x/y\n-- after_dirsync\nDirSync x\n-- after_dirsync\nDirSync .\n-- after_dirsync"
                .to_owned(),
        ];
        assert_eq!(trace.lines().join("\n"), expected.concat());
    }

    #[test]
    fn calls_per_bulk_follow_from_the_number_of_files_alone() {
        for n in [0, 1, 10, 255, 256, 257, 513] {
            let root = tempfile::tempdir().unwrap();
            let (recorder, dir) = recorded(root.path());
            let mut bulk = dir.bulk();
            for index in 0..n {
                bulk.replace(format!("file-{index}"), b"bytes");
            }
            let report = bulk.publish_all();
            assert_eq!((report.published, report.failed), (n, 0));
            for op in [Op::CreateExclusive, Op::WriteAt, Op::StartWriteback, Op::SyncAll, Op::Rename] {
                assert_eq!(recorder.count(op), n, "{op:?} of {n}");
            }
            // Once to look at the target, once to know the file again.
            assert_eq!(recorder.count(Op::Metadata), 2 * n);
            let once = n.min(1);
            for op in [Op::DirSync, Op::DirMetadata] {
                assert_eq!(recorder.count(op), once, "{op:?} of {n}");
            }
            assert_eq!(recorder.barriers(), n + once);
            assert_eq!(recorder.total(), 7 * n + 2 * once, "nothing else is called");
        }
    }

    #[test]
    fn no_file_is_renamed_before_the_last_is_synced_in_any_window() {
        for (n, window) in [(9, 4), (8, 4), (7, 4), (3, 1), (3, 0), (300, 256)] {
            let root = tempfile::tempdir().unwrap();
            let (recorder, dir) = recorded(root.path());
            let mut bulk = dir.bulk_with(BulkOptions { window, ..BulkOptions::default() });
            for index in 0..n {
                bulk.replace(format!("d{}/{index}", index % 3), b"x");
            }
            assert_eq!(bulk.publish_all().published, n);
            let ops: Vec<Op> = recorder.calls().iter().map(|call| call.op).collect();
            let last_sync = ops.iter().rposition(|op| *op == Op::SyncAll).unwrap();
            let first_rename = ops.iter().position(|op| *op == Op::Rename).unwrap();
            let last_rename = ops.iter().rposition(|op| *op == Op::Rename).unwrap();
            let first_dirsync = ops.iter().position(|op| *op == Op::DirSync).unwrap();
            assert!(last_sync < first_rename && last_rename < first_dirsync, "n={n} window={window}");
        }
    }

    /// Counts the descriptors below `root` at every call, and remembers the most.
    #[cfg(target_os = "linux")]
    #[derive(Debug)]
    struct OpenBelow {
        root: PathBuf,
        files_max: AtomicUsize,
        dirs_max: AtomicUsize,
        last: Mutex<Option<Op>>,
    }

    #[cfg(target_os = "linux")]
    impl Listener for OpenBelow {
        fn before(&self, call: &Call) -> io::Result<()> {
            // The most are open when the first of a window is synced, and when a directory is opened or synced.
            let again = self.last.lock().unwrap().replace(call.op) == Some(call.op);
            if !matches!(call.op, Op::SyncAll | Op::DirSync | Op::OpenDir) || again {
                return Ok(());
            }
            let (mut files, mut dirs) = (0, 0);
            for fd in fs::read_dir("/proc/self/fd")?.flatten() {
                match fs::read_link(fd.path()) {
                    Ok(path) if path.starts_with(&self.root) && path.is_dir() => dirs += 1,
                    Ok(path) if path.starts_with(&self.root) => files += 1,
                    _ => {}
                }
            }
            self.files_max.fetch_max(files, Ordering::Relaxed);
            self.dirs_max.fetch_max(dirs, Ordering::Relaxed);
            Ok(())
        }
    }

    #[cfg(target_os = "linux")]
    fn most_open(names: &[String]) -> (usize, usize) {
        most_open_until(names, |bulk| {
            let report = bulk.publish_all();
            assert_eq!((report.published, report.failed), (names.len(), 0), "{report:?}");
        })
    }

    #[cfg(target_os = "linux")]
    fn most_open_until(names: &[String], end: impl FnOnce(&mut Bulk<'_>)) -> (usize, usize) {
        let root = tempfile::tempdir().unwrap();
        let listener = Arc::new(OpenBelow {
            root: root.path().canonicalize().unwrap(),
            files_max: AtomicUsize::new(0),
            dirs_max: AtomicUsize::new(0),
            last: Mutex::new(None),
        });
        let fs = TapFs::shared(OsFs::shared(), Arc::<OpenBelow>::clone(&listener));
        let dir = Dir::open_on(fs, root.path(), Env::os()).unwrap();
        let mut bulk = dir.bulk();
        for name in names {
            bulk.replace(name, b"x");
        }
        end(&mut bulk);
        assert_eq!(tree(root.path()).len(), names.len());
        (listener.files_max.load(Ordering::Relaxed), listener.dirs_max.load(Ordering::Relaxed))
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_window_bounds_the_open_files() {
        for (n, expected) in [(255, 255), (256, 256), (257, 256), (513, 256)] {
            let names: Vec<String> = (0..n).map(|index| format!("f{index}")).collect();
            assert_eq!(most_open(&names), (expected, 1), "n={n}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn three_hundred_directories_do_not_need_three_hundred_descriptors() {
        for new in ["", "new/"] {
            for dirs in [63, 64, 65, 300] {
                let names: Vec<String> =
                    (0..2 * dirs).map(|index| format!("{new}d{}/{index}", index % dirs)).collect();
                let (files, directories) = most_open(&names);
                // The bulk's own directory, 64 below it, and at most two on their way.
                assert!(directories <= 1 + 64 + 2, "{directories} directories open");
                assert!(files <= 256, "{files} files open");
            }
        }
    }

    const CODES: [i32; 8] = [5, 28, 13, 30, 122, 4, 95, 9];

    fn kind_of(code: i32, stage: Stage) -> Kind {
        match (code, stage) {
            (28 | 122, _) => Kind::NoSpace,
            (13 | 30, _) => Kind::Denied,
            (95, _) => Kind::Unsupported,
            _ => Kind::Io,
        }
    }

    fn stage_of(call: &Call) -> Option<Stage> {
        Some(match call.op {
            Op::OpenDir | Op::DirMetadata => Stage::OpenDir,
            Op::CreateDir => Stage::CreateDir,
            Op::Metadata if call.detail.is_empty() => Stage::Inspect,
            Op::CreateExclusive | Op::WriteAt => Stage::TempWrite,
            Op::Open | Op::XattrNames | Op::HasDefaultAcl | Op::Metadata => Stage::Metadata,
            Op::SyncAll | Op::SyncFilesystem => Stage::SyncFile,
            Op::Rename => Stage::Rename,
            Op::DirSync => Stage::SyncDir,
            _ => return None,
        })
    }

    const NAMES: [&str; 5] = ["a", "old", "x/y/b", "x/y/c", "z"];

    /// Runs the bulk of [`NAMES`] on `fs`, `old` existing, and returns its report, if it came to one.
    fn run(root: &Path, fs: Arc<dyn Fs>, options: &BulkOptions) -> Option<BulkReport> {
        run_until(root, fs, options, |bulk| bulk.publish_all())
    }

    fn run_until<T>(
        root: &Path,
        fs: Arc<dyn Fs>,
        options: &BulkOptions,
        end: impl FnOnce(&mut Bulk<'_>) -> T,
    ) -> Option<T> {
        put(root.join("old"), "before");
        let dir = Dir::open_on(fs, root, fixed_env(3)).ok()?;
        let mut bulk = dir.bulk_with(options.clone());
        for name in NAMES {
            bulk.replace(name, name.as_bytes());
        }
        Some(end(&mut bulk))
    }

    /// What a report says must be what is there.
    fn check_against_disk(root: &Path, report: &BulkReport, context: &str) {
        let found = tree(root);
        assert!(temps(root).is_empty(), "{context}: {:?}", temps(root));
        assert_eq!(report.published + report.failed, NAMES.len(), "{context}");
        assert_eq!(report.results().count(), NAMES.len(), "{context}");
        for (name, failed) in outcomes(report) {
            let before = (name == "old").then(|| b"before".to_vec());
            let after = Some(name.clone().into_bytes());
            let now = found.get(&name).cloned();
            match failed {
                None | Some(TargetState::ReplacedNotDurable) => assert_eq!(now, after, "{context}: {name}"),
                Some(TargetState::Unchanged) => assert_eq!(now, before, "{context}: {name}"),
                Some(TargetState::Unknown) => assert!(now == before || now == after, "{context}: {name}"),
                Some(TargetState::DurableNotVisible) => panic!("{context}: {name}"),
            }
        }
    }

    /// How many calls the bulk of [`NAMES`] makes: seven for each file; four about the rights of `old`; opening and
    /// identifying; eight to find and create `x/y`; three directory barriers.
    const CALLS: usize = 7 * NAMES.len() + 4 + 2 + 8 + 3;

    /// A hint, a write that a signal interrupted before it began, an answer that says no more than that there can be no
    /// ACL, a file that its owner may only open for writing: these change nothing.
    fn is_tolerated(call: &Call, code: i32) -> bool {
        matches!(
            (call.op, code),
            (Op::StartWriteback, _)
                | (Op::WriteAt, 4)
                | (Op::XattrNames | Op::HasDefaultAcl, 95)
                | (Op::Open, 13)
        )
    }

    /// Fails call after call of the bulk with every code; returns how many failures were tried.
    fn fail_every_call(options: &BulkOptions, codes: &[i32]) -> usize {
        let mut tried = 0;
        for &code in codes {
            for nth in 0.. {
                let root = tempfile::tempdir().unwrap();
                let (failing, fs) = FailNth::new(nth, code).over(OsFs::shared());
                let outcome = run(root.path(), fs, options);
                let Some(call) = failing.failed() else { break };
                tried += 1;
                let context = format!("call {nth} `{call}` fails with {code}");
                let Some(report) = outcome else {
                    assert_eq!(nth, 0, "{context}: only the opening itself can end it all");
                    continue;
                };
                check_against_disk(root.path(), &report, &context);
                check_failure(&call, code, &report, options, &context);
            }
        }
        tried
    }

    fn check_failure(call: &Call, code: i32, report: &BulkReport, options: &BulkOptions, context: &str) {
        let failures: Vec<_> = report.failures().collect();
        if is_tolerated(call, code) {
            assert!(failures.is_empty(), "{context}: {report:?}");
            return;
        }
        assert!(!failures.is_empty(), "{context}: swallowed");
        let stage = stage_of(call).unwrap_or_else(|| panic!("{context}: an unexpected call"));
        let mut by_this = 0;
        for (name, error) in &failures {
            if matches!(error.cause(), Cause::Cancelled) {
                assert_eq!(options.on_failure, OnFailure::PublishNothing, "{context}");
                continue;
            }
            by_this += 1;
            assert_eq!(error.stage(), stage, "{context}: {error:?}");
            assert_eq!(error.raw_os_error(), Some(code), "{context}");
            assert_eq!(error.kind(), kind_of(code, stage), "{context}");
            assert!(error.path().ends_with(name) || stage == Stage::CreateDir || stage == Stage::OpenDir);
            let state = match stage {
                Stage::SyncDir => TargetState::ReplacedNotDurable,
                _ => TargetState::Unchanged,
            };
            assert_eq!(error.state(), state, "{context}");
            let retry = match (stage, error.kind()) {
                (Stage::SyncDir, _) => Retry::FreshData,
                // A barrier that failed proves nothing the second time; one that is not offered stays so.
                (Stage::SyncFile, kind) if kind != Kind::Unsupported => Retry::FreshData,
                (_, Kind::Io) if code == 4 => Retry::Now,
                (_, Kind::Io) => Retry::FreshData,
                _ => Retry::AfterChange,
            };
            assert_eq!(error.retry(), retry, "{context}");
        }
        let concerned = match (call.op, call.subject.as_str()) {
            // The root's barrier also carries the name of the new directory `x`.
            (Op::DirSync, ".") | (Op::SyncFilesystem, _) => 5,
            (Op::DirSync, _) => 2,
            _ => 1,
        };
        assert_eq!(by_this, concerned, "{context}: {report:?}");
    }

    #[test]
    fn every_failed_call_is_reported_for_its_files_alone() {
        assert_eq!(fail_every_call(&BulkOptions::default(), &CODES), CODES.len() * CALLS);
    }

    #[test]
    fn every_failed_call_is_reported_in_small_windows_too() {
        let options = BulkOptions { window: 2, ..BulkOptions::default() };
        assert_eq!(fail_every_call(&options, &[5, 28]), 2 * CALLS);
    }

    #[test]
    fn every_failed_call_is_reported_where_the_whole_file_system_is_synced() {
        let options = BulkOptions { sync: BulkSync::WholeFileSystem, ..BulkOptions::default() };
        // One barrier in the place of one for each file. (A real `syncfs` is slow: one code.)
        assert_eq!(fail_every_call(&options, &[5]), CALLS - NAMES.len() + 1);
    }

    #[test]
    fn publish_nothing_publishes_nothing_after_any_failure_before_the_renames() {
        let options = BulkOptions { on_failure: OnFailure::PublishNothing, ..BulkOptions::default() };
        for nth in 1.. {
            let root = tempfile::tempdir().unwrap();
            let (failing, fs) = FailNth::new(nth, 28).over(OsFs::shared());
            let report = run(root.path(), fs, &options).unwrap();
            let Some(call) = failing.failed() else { break };
            let context = format!("call {nth} `{call}`");
            check_against_disk(root.path(), &report, &context);
            match call.op {
                _ if is_tolerated(&call, 28) => assert_eq!(report.failed, 0, "{context}"),
                Op::Rename => assert_eq!(report.failed, 1, "{context}"),
                Op::DirSync => assert!(report.failed >= 2, "{context}"),
                _ => {
                    assert_eq!((report.published, report.failed), (0, 5), "{context}");
                    let cancelled = report.failures().filter(|(_, error)| error.kind() == Kind::Cancelled);
                    assert!(cancelled.count() >= 3, "{context}");
                }
            }
        }
    }

    #[test]
    fn a_rename_that_took_place_and_reported_failure_is_visible_not_durable() {
        for code in [5, 4, 9] {
            for (nth, name) in NAMES.iter().enumerate() {
                let root = tempfile::tempdir().unwrap();
                let fail = FailNth::new(nth, code).only(Op::Rename).when(When::After);
                let report = run(root.path(), fail.over(OsFs::shared()).1, &BulkOptions::default()).unwrap();
                check_against_disk(root.path(), &report, "rename");
                let failures: Vec<_> = report.failures().collect();
                assert_eq!(failures.len(), 1);
                assert_eq!(failures[0].0, Path::new(name));
                assert_eq!(failures[0].1.state(), TargetState::ReplacedNotDurable);
                assert_eq!(failures[0].1.stage(), Stage::Rename);
            }
        }
    }

    #[test]
    fn a_temporary_file_that_cannot_be_removed_is_named_in_the_error() {
        let root = tempfile::tempdir().unwrap();
        let unlinks = FailNth::new(0, 5).only(Op::Unlink).lasting(Lasting::Forever);
        let (_, fs) = unlinks.over(OsFs::shared());
        let (_, fs) = FailNth::new(1, 5).only(Op::SyncAll).over(fs);
        let report = run(root.path(), fs, &BulkOptions::default()).unwrap();
        let (_, error) = report.failures().next().unwrap();
        let leftover = error.cleanup().unwrap().path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(temps(root.path()), [leftover]);
        assert_eq!(report.published, 4);
    }

    #[test]
    fn short_writes_are_continued() {
        let root = tempfile::tempdir().unwrap();
        let fs = TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max: 3 }));
        let dir = Dir::open_on(fs, root.path(), fixed_env(1)).unwrap();
        assert_eq!(dir.bulk().replace("a", b"more than three").publish_all().bytes, 15);
        assert_eq!(fs::read(root.path().join("a")).unwrap(), b"more than three");
    }

    /// A pool that loses every job but the first.
    #[derive(Debug)]
    struct ForgetfulPool;

    impl SyncPool for ForgetfulPool {
        fn run(&self, _width: usize, count: usize, job: &(dyn Fn(usize) + Sync)) {
            (0..count.min(1)).for_each(job);
        }
    }

    #[test]
    fn a_file_that_no_thread_has_synced_is_not_published() {
        let root = tempfile::tempdir().unwrap();
        let env = Env { pool: Arc::new(ForgetfulPool), ..fixed_env(1) };
        let dir = Dir::open_on(OsFs::shared(), root.path(), env).unwrap();
        let report = dir.bulk().replace("a", b"1").replace("b", b"2").publish_all();
        assert_eq!((report.published, report.failed), (1, 1));
        assert_eq!(tree(root.path()).into_keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn real_threads_publish_everything_at_any_width() {
        for threads in [0, 1, 2, 32, 400] {
            let root = tempfile::tempdir().unwrap();
            let dir = Dir::open(root.path()).unwrap();
            let mut bulk = dir.bulk_with(BulkOptions { threads, window: 64, ..BulkOptions::default() });
            for index in 0..300 {
                bulk.replace(format!("d{}/{index}", index % 7), format!("{index}").as_bytes());
            }
            let report = bulk.publish_all();
            assert_eq!((report.published, report.failed), (300, 0));
            for (name, bytes) in tree(root.path()) {
                assert!(name.ends_with(&format!("/{}", String::from_utf8(bytes).unwrap())));
            }
        }
    }

    #[test]
    fn the_same_name_twice_is_refused_the_second_time() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d/x", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("d", root.path().join("e")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let mut bulk = dir.bulk();
        bulk.replace("a", b"1").replace("a", b"2").replace("./a", b"3");
        // Two paths to one file, through a link to it and through a link to its directory.
        bulk.replace("d/x", b"4").replace("link", b"5").replace("e/x", b"6");
        let report = bulk.publish_all();
        assert_eq!((report.published, report.failed), (2, 4));
        for (_, error) in report.failures() {
            assert!(matches!(error.cause(), Cause::Invalid(Invalid::Repeated)), "{error:?}");
        }
        let found: Vec<_> = tree(root.path()).into_values().collect();
        assert_eq!(found, [b"1".to_vec(), b"4".to_vec(), b"4".to_vec()], "a, d/x, and link again");
        // After publishing, the name is free again.
        assert_eq!(bulk.replace("a", b"7").publish_all().published, 1);
    }

    #[test]
    fn each_directory_is_synced_once_however_it_is_reached() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d", root.path().join("e")).unwrap();
        std::os::unix::fs::symlink("d/there", root.path().join("link")).unwrap();
        let (recorder, dir) = recorded(root.path());
        let report = dir.bulk().replace("d/1", b"").replace("e/2", b"").replace("link", b"3").publish_all();
        assert_eq!((report.published, report.failed), (3, 0));
        assert_eq!(recorder.count(Op::DirSync), 1);
        assert_eq!(fs::read(root.path().join("d/there")).unwrap(), b"3");
        assert!(fs::symlink_metadata(root.path().join("link")).unwrap().is_symlink());
    }

    #[test]
    fn a_break_before_the_renames_stops_everything_and_a_later_one_nothing() {
        for stop_at in [BulkPhase::SyncFiles, BulkPhase::Rename, BulkPhase::SyncDirs] {
            for which in [1, 2] {
                let root = tempfile::tempdir().unwrap();
                let (recorder, dir) = recorded(root.path());
                let mut bulk = dir.bulk_with(BulkOptions { window: 2, ..BulkOptions::default() });
                bulk.replace("a", b"1").replace("new/b", b"2").replace("c", b"3");
                let mut seen = 0;
                let report = bulk.publish_all_with(&mut |progress| {
                    assert!(progress.done <= progress.total);
                    seen += usize::from(progress.phase == stop_at);
                    if seen == which { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                assert!(temps(root.path()).is_empty());
                if stop_at == BulkPhase::SyncFiles {
                    assert_eq!((report.published, report.failed), (0, 3));
                    assert!(report.failures().all(|(_, error)| error.kind() == Kind::Cancelled
                        && error.state() == TargetState::Unchanged
                        && error.cleanup().is_none()));
                    assert_eq!(recorder.count(Op::Rename), 0);
                    assert_eq!(recorder.count(Op::SyncAll), if which == 1 { 2 } else { 3 });
                    assert_eq!(recorder.count(Op::Unlink), 3);
                    assert_eq!(recorder.count(Op::DirSync), 1, "the new directory's name");
                } else {
                    assert_eq!((report.published, report.failed), (3, 0));
                }
            }
        }
    }

    #[test]
    fn a_dropped_bulk_leaves_no_file_and_its_new_directories_durable() {
        let root = tempfile::tempdir().unwrap();
        let (recorder, dir) = recorded(root.path());
        let mut bulk = dir.bulk_with(BulkOptions { window: 2, ..BulkOptions::default() });
        bulk.replace("a", b"1").replace("new/b", b"2").replace("c", b"3");
        assert_eq!(temps(root.path()).len(), 3);
        drop(bulk);
        assert!(tree(root.path()).is_empty());
        assert_eq!((recorder.count(Op::Unlink), recorder.count(Op::Rename)), (3, 0));
        assert_eq!(recorder.count(Op::DirSync), 1);
    }

    #[test]
    fn whole_file_systems_are_synced_once_before_the_renames_and_files_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let (recorder, dir) = recorded(root.path());
        let options = BulkOptions { sync: BulkSync::WholeFileSystem, window: 2, ..BulkOptions::default() };
        let mut bulk = dir.bulk_with(options);
        for index in 0..7 {
            bulk.replace(format!("d{}/{index}", index % 2), b"x");
        }
        assert_eq!(bulk.publish_all().published, 7);
        let calls = recorder.calls();
        let at = |op| calls.iter().position(|call| call.op == op).unwrap();
        let last_write = calls.iter().rposition(|call| call.op == Op::WriteAt).unwrap();
        assert!(last_write < at(Op::SyncFilesystem) && at(Op::SyncFilesystem) < at(Op::Rename));
        assert_eq!((recorder.count(Op::SyncFilesystem), recorder.count(Op::SyncAll)), (1, 0));
        assert_eq!(recorder.count(Op::DirSync), 3);
    }

    #[test]
    fn a_directory_that_was_exchanged_meanwhile_gets_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
        let mut bulk = dir.bulk();
        for index in 0..70 {
            bulk.replace(format!("d{index}/f"), b"x");
        }
        // d0 is closed by now: only 64 stay open.
        fs::create_dir(root.path().join("other")).unwrap();
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        let path = |name: &str| root.path().join(name);
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, path("other"), cwd, path("d0"), exchange).unwrap();
        let report = bulk.publish_all();
        assert_eq!((report.published, report.failed), (69, 1));
        let (name, error) = report.failures().next().unwrap();
        assert_eq!((name, error.state()), (Path::new("d0/f"), TargetState::Unchanged));
        assert!(matches!(error.cause(), Cause::Changed));
        assert!(error.cleanup().is_some(), "its temporary file is out of reach, and the error says so");
        assert_eq!(fs::read_dir(path("d0")).unwrap().count(), 0);
    }

    #[test]
    fn a_streamed_file_keeps_its_mode_and_joins_only_when_finished() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open_on(OsFs::shared(), root.path(), fixed_env(1)).unwrap();
        let mut bulk = dir.bulk();
        let options = WriteOptions { mode: Some(Mode::new(0o751)), ..WriteOptions::default() };
        let mut file = bulk.stage("big/file", &options).unwrap();
        file.reserve(3 << 20).unwrap();
        for _ in 0..3 {
            file.write_all(&vec![7; 1 << 20]).unwrap();
        }
        file.finish();
        let unfinished = bulk.stage("never", &options).unwrap();
        drop(unfinished);
        assert!(bulk.stage("big/file", &options).is_err());
        let report = bulk.publish_all();
        assert_eq!((report.published, report.failed, report.bytes), (1, 0, 3 << 20));
        assert_eq!(tree(root.path()).into_keys().collect::<Vec<_>>(), ["big/file"]);
        let mode = fs::metadata(root.path().join("big/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o751);
    }

    #[test]
    fn a_streamed_file_with_a_failed_write_is_never_published() {
        let root = tempfile::tempdir().unwrap();
        let (_, fs) = FailNth::new(1, 28).only(Op::WriteAt).over(OsFs::shared());
        let dir = Dir::open_on(fs, root.path(), fixed_env(1)).unwrap();
        let mut bulk = dir.bulk();
        let mut file = bulk.stage("a", &WriteOptions::default()).unwrap();
        file.write_all(b"first").unwrap();
        assert_eq!(file.write_all(b"second").unwrap_err().kind(), Kind::NoSpace);
        file.finish();
        let report = bulk.publish_all();
        assert_eq!((report.published, report.failed), (0, 1));
        assert_eq!(report.failures().next().unwrap().1.kind(), Kind::Poisoned);
        assert!(tree(root.path()).is_empty());
    }

    #[test]
    fn a_directory_barrier_that_is_not_offered_is_an_error_or_allowed_file_by_file() {
        let root = tempfile::tempdir().unwrap();
        let fail = FailNth::new(0, 95).only(Op::DirSync).lasting(Lasting::Forever);
        let dir = Dir::open_on(fail.over(OsFs::shared()).1, root.path(), fixed_env(1)).unwrap();
        let allowed = WriteOptions { barriers: Barriers::AllowVisibleOnly, ..WriteOptions::default() };
        let report = dir.bulk().replace_with("a", b"1", &allowed).replace("b", b"2").publish_all();
        assert_eq!(report.durability, Durability::VisibleOnly(Reason::Unsupported));
        assert_eq!(outcomes(&report)[1], ("b".to_owned(), Some(TargetState::ReplacedNotDurable)));
        assert_eq!((report.published, report.failed), (1, 1));
        assert_eq!(report.all_published().unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn unchanged_files_are_synced_and_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        put(root.path().join("a"), "same");
        let inode = |name: &str| {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(root.path().join(name)).unwrap().ino()
        };
        let before = inode("a");
        let (recorder, dir) = recorded(root.path());
        let write = WriteOptions { unchanged: Unchanged::Skip, ..WriteOptions::default() };
        let mut bulk = dir.bulk_with(BulkOptions { write, ..BulkOptions::default() });
        let report = bulk.replace("a", b"same").replace("b", b"new").publish_all();
        assert_eq!((report.published, inode("a")), (2, before));
        let first = report.results().next().unwrap().outcome.unwrap();
        assert_eq!((first.change, first.durability), (Change::Unchanged, Durability::Durable));
        assert_eq!((recorder.count(Op::SyncAll), recorder.count(Op::Rename)), (2, 1));
        assert_eq!(recorder.count(Op::DirSync), 1);
    }

    #[test]
    fn compare_and_swap_looks_again_before_the_rename() {
        let root = tempfile::tempdir().unwrap();
        put(root.path().join("a"), "1");
        let dir = Dir::open(root.path()).unwrap();
        let (_, stamp) = dir.read_stamped("a").unwrap();
        let expecting = WriteOptions { expect: Some(stamp), ..WriteOptions::default() };
        let mut bulk = dir.bulk();
        bulk.replace_with("a", b"2", &expecting).replace("b", b"2");
        put(root.path().join("a"), "somebody else's");
        let report = bulk.publish_all();
        assert_eq!((report.published, report.failed), (1, 1));
        assert_eq!(report.failures().next().unwrap().1.kind(), Kind::Conflict);
        assert_eq!(fs::read(root.path().join("a")).unwrap(), b"somebody else's");
        assert!(temps(root.path()).is_empty());
    }

    #[test]
    fn bad_names_and_bad_targets_fail_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        put(root.path().join("one"), "x");
        fs::hard_link(root.path().join("one"), root.path().join("two")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let in_place = WriteOptions { hard_links: HardLinks::InPlace, ..WriteOptions::default() };
        let mut bulk = dir.bulk();
        bulk.replace("", b"").replace("/etc/x", b"").replace("../x", b"").replace("dir", b"");
        bulk.replace("one/below", b"").replace_with("one", b"", &in_place).replace("good", b"fine");
        let report = bulk.publish_all();
        assert_eq!((report.published, report.failed), (1, 6), "{report:?}");
        assert!(report.failures().all(|(_, error)| error.kind() == Kind::Invalid));
        assert_eq!(fs::read(root.path().join("good")).unwrap(), b"fine");
    }
}
