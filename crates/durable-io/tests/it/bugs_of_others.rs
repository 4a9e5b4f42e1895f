//! Bugs that libraries of this kind have had, each as the promise that they broke.

use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use durable_io::{
    Barriers, Dir, Durability, Env, HardLinks, Invalid, Keep, Kind, LockKind, LockOptions, Mode,
    NetworkLocks, Publish, Reason, RenameMode, Stage, Stale, Stamp, TargetState, Wait, WriteOptions,
};
use media::OsFs;
use media::doubles::{Call, FailNth, FakeHost, Listener, Op, Recorder, TapFs, fixed_env};

use crate::common::{
    EACCES, EBADF, EEXIST, EINVAL, EIO, ENOSPC, ENOSYS, ENOTSUP, Ground, durably, invalid, is_root, lines,
    new_file_mode, skipped,
};
use crate::operations::{can_decorate, decorate};

fn with(change: impl FnOnce(&mut WriteOptions)) -> WriteOptions {
    let mut options = WriteOptions::default();
    change(&mut options);
    options
}

/// A disk that takes some bytes and is full then.
#[derive(Debug)]
struct NearlyFull {
    room: AtomicUsize,
}

impl Listener for NearlyFull {
    fn write_len(&self, _call: &Call, len: usize) -> usize {
        len.min(self.room.load(Ordering::Relaxed))
    }

    fn before(&self, call: &Call) -> io::Result<()> {
        if call.op == Op::WriteAt && self.room.load(Ordering::Relaxed) == 0 {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    fn after(&self, call: &Call) -> io::Result<()> {
        if call.op == Op::WriteAt {
            self.room.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn a_short_write_on_a_full_disk_is_never_published() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o640);
    let disk = NearlyFull { room: AtomicUsize::new(61_440) };
    let dir = ground.dir_on(TapFs::shared(OsFs::shared(), Arc::new(disk)));
    let error = dir.replace("t", &[7; 200_000]).unwrap_err();
    assert_eq!((error.kind(), error.state()), (Kind::NoSpace, TargetState::Unchanged));
    assert_eq!((ground.read("t"), ground.strays()), (b"old".to_vec(), vec![]));
}

#[test]
fn options_used_again_carry_nothing_from_one_file_to_the_next() {
    let ground = Ground::new();
    ground.put("secret", b"old", 0o600);
    ground.put("public", b"old", 0o644);
    let (dir, options) = (ground.dir(), WriteOptions::default());
    for name in ["secret", "public", "new"] {
        durably(dir.replace_with(name, b"new", &options));
    }
    assert_eq!((ground.mode("secret"), ground.mode("public")), (0o600, 0o644));
    assert_eq!(ground.mode("new"), new_file_mode().bits());
}

#[test]
fn a_temp_name_that_somebody_planted_is_never_written_through() {
    let planted = {
        let ground = Ground::new();
        let staged = ground.dir().stage("t").unwrap();
        let name = ground.strays().first().unwrap().file_name().unwrap().to_owned();
        staged.discard().unwrap();
        name
    };
    let ground = Ground::new();
    ground.put("victim", b"precious", 0o600);
    let planted = planted.to_str().unwrap();
    ground.symlink("victim", planted);
    let error = ground.dir().replace("t", b"new").unwrap_err();
    assert_eq!((error.stage(), error.raw_os_error()), (Stage::TempWrite, Some(EEXIST)));
    assert_eq!(ground.read("victim"), b"precious");
    assert!(ground.exists(planted), "what is not ours is not removed");
}

#[test]
fn temp_names_cannot_be_predicted() {
    let ground = Ground::new();
    let dir = Dir::open(ground.root()).unwrap();
    let (one, two) = (dir.stage("t").unwrap(), dir.stage("t").unwrap());
    let names = ground.strays();
    let random = |path: &PathBuf| path.to_string_lossy().rsplit('-').next().unwrap().len();
    assert_eq!(names.iter().map(random).collect::<Vec<_>>(), [20, 20], "64 bits and .tmp");
    assert_ne!(names.first(), names.last());
    one.discard().unwrap();
    two.discard().unwrap();
}

/// Looks at the mode of every file after every call.
#[derive(Debug)]
struct ModeWatch {
    root: PathBuf,
    /// Names that must be private, ours always; `None`: ours alone.
    private: Option<&'static str>,
    from: Op,
    begun: AtomicUsize,
    seen: Mutex<Vec<(String, String, u32)>>,
}

impl ModeWatch {
    fn over(ground: &Ground, private: Option<&'static str>, from: Op) -> (Arc<Self>, Dir) {
        let watch = Arc::new(Self {
            root: ground.root().to_owned(),
            private,
            from,
            begun: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let dir = ground.dir_on(TapFs::shared(OsFs::shared(), Arc::<Self>::clone(&watch)));
        (watch, dir)
    }

    /// Every look at a file that had to be private: all must have found it so.
    fn assert_private(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.len() >= 3, "looked at something: {seen:?}");
        for (call, name, mode) in &*seen {
            assert_eq!(mode & 0o077, 0, "{name} is {mode:o} after `{call}`");
        }
    }
}

impl Listener for ModeWatch {
    fn after(&self, call: &Call) -> io::Result<()> {
        if call.op == self.from {
            self.begun.store(1, Ordering::Relaxed);
        }
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.starts_with(crate::common::OWN);
            let theirs = self.begun.load(Ordering::Relaxed) == 1 && Some(&*name) == self.private;
            if ours || theirs {
                let mode = entry.metadata()?.mode() & 0o7777;
                self.seen.lock().unwrap().push((call.to_string(), name, mode));
            }
        }
        Ok(())
    }
}

#[test]
fn a_private_file_is_never_visible_at_a_looser_mode_not_even_as_a_temp() {
    let private = with(|o| o.mode = Some(Mode::PRIVATE));
    // New; over a public file; over a private one, whose mode is kept.
    for (old_mode, options) in
        [(None, private.clone()), (Some(0o644), private.clone()), (Some(0o600), WriteOptions::default())]
    {
        let ground = Ground::new();
        if let Some(mode) = old_mode {
            ground.put("t", b"old", mode);
        }
        let (watch, dir) = ModeWatch::over(&ground, Some("t"), Op::Rename);
        durably(dir.replace_with("t", b"secret", &options));
        watch.assert_private();
        assert_eq!(ground.mode("t"), 0o600);
    }
}

#[test]
fn a_temp_is_never_wider_than_the_file_it_becomes() {
    for mode in [0o666, 0o640, 0o604, 0o444, 0o600, 0o4711] {
        let ground = Ground::new();
        ground.put("t", b"old", mode);
        let (watch, dir) = ModeWatch::over(&ground, None, Op::Rename);
        durably(dir.replace("t", b"new"));
        let seen = watch.seen.lock().unwrap();
        assert!(seen.len() >= 3, "looked at something: {seen:?}");
        for (call, name, seen) in &*seen {
            assert_eq!(seen & !mode, 0, "{name} is {seen:o} after `{call}`, and will be {mode:o}");
        }
        assert_eq!(ground.mode("t"), mode);
    }
}

#[test]
fn an_overwrite_in_place_narrows_the_mode_before_the_new_bytes_are_there() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o644);
    ground.hard_link("t", "other");
    let (watch, dir) = ModeWatch::over(&ground, Some("t"), Op::SetLen);
    let (recorder, dir_recorded) = ground.recorded();
    let options = with(|o| {
        o.mode = Some(Mode::PRIVATE);
        o.hard_links = HardLinks::InPlace;
    });
    durably(dir.replace_with("t", b"secret", &options));
    watch.assert_private();
    ground.chmod("t", 0o664);
    durably(dir_recorded.replace_with(
        "t",
        b"other secret",
        &with(|o| {
            o.mode = Some(Mode::new(0o610));
            o.hard_links = HardLinks::InPlace;
        }),
    ));
    let calls = lines(&recorder);
    let at = |line: &str| calls.iter().position(|call| call.starts_with(line)).unwrap();
    assert!(at("SetMode t 0600") < at("WriteAt t "), "{calls:?}");
    assert!(at("WriteAt t ") < at("SetMode t 0610"), "{calls:?}");
    assert_eq!((ground.read("other"), ground.mode("other")), (b"other secret".to_vec(), 0o610));
}

#[test]
fn the_file_behind_a_link_keeps_its_own_mode_and_never_that_of_the_link() {
    let ground = Ground::new();
    ground.put("real", b"old", 0o600);
    ground.symlink("real", "t");
    durably(ground.dir().replace("t", b"new"));
    assert_eq!((ground.mode("real"), ground.read("real")), (0o600, b"new".to_vec()));

    let replace = with(|o| o.symlinks = durable_io::Symlinks::Replace);
    durably(ground.dir().replace_with("t", b"own", &replace));
    assert_eq!(ground.mode("t"), new_file_mode().bits(), "0777 means nothing on a link");
}

#[test]
fn no_temp_is_left_when_fsync_rename_chmod_chown_or_write_fails() {
    for op in [Op::WriteAt, Op::SetOwner, Op::SetMode, Op::SyncAll, Op::Rename] {
        for code in [EIO, ENOSPC, EACCES] {
            let ground = Ground::new();
            ground.put("t", b"old", 0o640);
            let (failing, fs) = FailNth::new(0, code).only(op).over(OsFs::shared());
            let keep = with(|o| o.keep = Keep { owner: true, ..Keep::default() });
            let error = ground.dir_on(fs).replace_with("t", b"new", &keep).unwrap_err();
            assert!(failing.failed().is_some() && error.cleanup().is_none(), "{op:?}");
            assert_eq!(ground.strays(), Vec::<PathBuf>::new(), "{op:?}");
            assert_eq!((ground.read("t"), ground.mode("t")), (b"old".to_vec(), 0o640), "{op:?}");
        }
    }
}

#[test]
fn the_mode_of_a_replaced_file_stays_what_it_was() {
    for mode in [0o600, 0o644, 0o400, 0o755, 0o666, 0o4711, 0o2755] {
        let ground = Ground::new();
        ground.put("t", b"old", mode);
        durably(ground.dir().replace("t", b"new"));
        assert_eq!(ground.mode("t"), mode);
    }
}

#[test]
fn set_id_bits_are_not_inherited_by_a_file_of_another_owner() {
    if !is_root() {
        return skipped("giving files away needs root");
    }
    let ground = Ground::new();
    for (owner, group) in [(Some(4242), None), (None, Some(4242))] {
        ground.put("t", b"old", 0o600);
        chown(ground.path("t"), owner, group).unwrap();
        ground.chmod("t", 0o6755);
        durably(ground.dir().replace("t", b"new"));
        assert_eq!(ground.mode("t"), 0o755, "it is root's now");
    }
    chown(ground.path("t"), Some(4242), Some(4243)).unwrap();
    ground.chmod("t", 0o6755);
    durably(ground.dir().replace_with("t", b"new", &with(|o| o.keep.owner = true)));
    let found = ground.path("t").metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), ground.mode("t")), (4242, 4243, 0o6755));
}

#[test]
fn names_of_255_bytes_work_in_every_operation() {
    let ground = Ground::new();
    let dir = ground.dir();
    let long = |letter: &str| letter.repeat(255);
    durably(dir.create_new(long("a"), b"one"));
    durably(dir.replace(long("a"), b"two"));
    let stamp = dir.read_stamped(long("a")).unwrap().1;
    durably(dir.replace_with(long("a"), b"three", &with(|o| o.expect = Some(stamp))));
    ground.hard_link(&long("a"), &long("h"));
    durably(dir.replace_with(long("a"), b"four", &with(|o| o.hard_links = HardLinks::InPlace)));
    assert_eq!(dir.read(long("h")).unwrap(), b"four");
    let mut staged = dir.stage(long("s")).unwrap();
    staged.write_all(b"five").unwrap();
    durably(staged.seal().unwrap().publish(Publish::CreateNew));
    dir.sync_file(long("s")).unwrap();
    dir.rename(long("s"), long("r")).unwrap();
    dir.create_dir(long("d")).unwrap();
    durably(dir.replace(format!("{}/{}", long("d"), long("f")), b"six"));
    durably(dir.replace(format!("{}/{}", long("p"), long("f")), b"made on the way"));
    ground.symlink(format!("{}/{}", long("d"), long("f")), &long("l"));
    durably(dir.replace(long("l"), b"seven"));
    assert_eq!(ground.read(&format!("{}/{}", long("d"), long("f"))), b"seven");
    dir.remove(long("r")).unwrap();
    for outcome in [dir.replace("n".repeat(256), b""), dir.create_new("n".repeat(256), b"")] {
        let error = outcome.unwrap_err();
        assert_eq!((error.reason(), error.kind()), (Some(Reason::NameTooLong), Kind::Invalid));
    }
}

type Act = fn(&Dir, Barriers) -> durable_io::Result<Durability>;

/// Every operation that ends in a directory barrier, with the policy for it.
const NAMING: [(&str, Act); 6] = [
    ("replace", |dir, b| Ok(dir.replace_with("t", b"new", &with(|o| o.barriers = b))?.durability)),
    ("create", |dir, b| Ok(dir.create_new_with("n", b"new", &with(|o| o.barriers = b))?.durability)),
    ("remove", |dir, b| dir.remove_with("t", b)),
    ("rename", |dir, b| dir.rename_to("t", dir, "n", RenameMode::Replace, b)),
    ("create_dir", |dir, b| dir.create_dir_with("d", None, b)),
    ("create_dir with mode", |dir, b| dir.create_dir_with("d", Some(Mode::PRIVATE_DIR), b)),
];

#[test]
fn a_directory_barrier_that_failed_is_never_taken_for_one_that_is_not_offered() {
    for (name, act) in NAMING {
        for barriers in [Barriers::Required, Barriers::AllowVisibleOnly] {
            for code in [EIO, EBADF, ENOSPC, EACCES] {
                let ground = Ground::new();
                ground.put("t", b"old", 0o640);
                let (_, fs) = FailNth::new(0, code).only(Op::DirSync).over(OsFs::shared());
                let error = act(&ground.dir_on(fs), barriers).unwrap_err();
                assert_eq!(
                    (error.stage(), error.state(), error.raw_os_error()),
                    (Stage::SyncDir, TargetState::ReplacedNotDurable, Some(code)),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn a_directory_barrier_that_is_not_offered_is_an_error_or_an_honest_answer_as_the_caller_chose() {
    for (name, act) in NAMING {
        for code in [EINVAL, ENOTSUP, ENOSYS] {
            let run = |barriers| {
                let ground = Ground::new();
                ground.put("t", b"old", 0o640);
                let lasting = media::doubles::Lasting::Forever;
                let (_, fs) = FailNth::new(0, code).only(Op::DirSync).lasting(lasting).over(OsFs::shared());
                act(&ground.dir_on(fs), barriers)
            };
            let error = run(Barriers::Required).unwrap_err();
            assert_eq!((error.stage(), error.kind()), (Stage::SyncDir, Kind::Unsupported), "{name}");
            assert_eq!(error.state(), TargetState::ReplacedNotDurable, "{name}");
            let reached = run(Barriers::AllowVisibleOnly).unwrap();
            assert!(matches!(reached, Durability::VisibleOnly(_)) && !reached.is_durable(), "{name}");
        }
    }
}

#[test]
fn a_parent_that_is_only_visible_makes_the_file_in_it_only_visible() {
    let ground = Ground::new();
    let (_, fs) = FailNth::new(0, EINVAL).only(Op::DirSync).over(OsFs::shared());
    let options = with(|o| o.barriers = Barriers::AllowVisibleOnly);
    let published = ground.dir_on(fs).replace_with("made/t", b"new", &options).unwrap();
    assert_eq!(published.durability, Durability::VisibleOnly(Reason::InvalidArgument));
}

#[test]
fn a_file_barrier_is_asked_for_once_and_never_again_after_it_failed() {
    for code in [EIO, ENOSPC, crate::common::EINTR, EINVAL, ENOTSUP] {
        let ground = Ground::new();
        let (recorder, fs) = Recorder::over(OsFs::shared());
        let (_, failing) = FailNth::new(0, code).only(Op::SyncAll).over(fs);
        // Not offered is no excuse here: without it nothing is durable.
        let lax = with(|o| o.barriers = Barriers::AllowVisibleOnly);
        let error = ground.dir_on(failing).replace_with("t", b"new", &lax).unwrap_err();
        assert_eq!((error.stage(), error.state()), (Stage::SyncFile, TargetState::Unchanged));
        assert_eq!((recorder.count(Op::SyncAll), recorder.count(Op::Rename)), (0, 0));
        assert!(ground.snapshot().is_empty() && ground.strays().is_empty());
    }
}

#[test]
fn nothing_about_a_file_is_changed_after_its_barrier() {
    if !can_decorate() {
        return skipped("no extended attributes here");
    }
    let ground = Ground::new();
    ground.put("t", b"old", 0o640);
    assert!(decorate(&ground));
    let (recorder, dir) = ground.recorded();
    durably(dir.replace_with("t", b"new", &with(|o| o.keep = Keep::ALL)));
    let calls = recorder.calls();
    let barrier = calls.iter().position(|call| call.op == Op::SyncAll).unwrap();
    let rest: Vec<Op> = calls.iter().skip(barrier + 1).map(|call| call.op).collect();
    assert_eq!(rest, [Op::Rename, Op::DirSync]);
}

#[test]
fn paths_are_refused_in_the_promised_order_by_every_operation() {
    let ground = Ground::new();
    let (recorder, dir) = ground.recorded();
    let refused = |path: &str| -> Vec<durable_io::Error> {
        vec![
            dir.replace(path, b"").unwrap_err(),
            dir.create_new(path, b"").unwrap_err(),
            dir.stage(path).unwrap_err(),
            dir.read(path).unwrap_err(),
            dir.read_stamped(path).unwrap_err(),
            dir.remove(path).unwrap_err(),
            dir.rename(path, "x").unwrap_err(),
            dir.create_dir(path).unwrap_err(),
            dir.sync_file(path).unwrap_err(),
            dir.subdir(path).unwrap_err(),
        ]
    };
    for (path, why) in [
        ("", Invalid::EmptyPath),
        (" \t\n ", Invalid::EmptyPath),
        ("\0", Invalid::NulInPath),
        ("../a\0b", Invalid::NulInPath),
        ("../a", Invalid::NotBelowDirectory),
        ("/a", Invalid::NotBelowDirectory),
    ] {
        for error in refused(path) {
            assert_eq!((invalid(&error), error.stage()), (why, Stage::InvalidInput), "{path:?}");
        }
    }
    assert_eq!(recorder.total(), 0, "nothing was touched");
    for path in ["", " "] {
        assert_eq!(invalid(&Dir::open(path).unwrap_err()), Invalid::EmptyPath);
        assert_eq!(invalid(&Dir::open_or_create(path).unwrap_err()), Invalid::EmptyPath);
    }
    assert_eq!(invalid(&Dir::open("a\0b").unwrap_err()), Invalid::NulInPath);
}

#[test]
fn empty_content_is_content() {
    let ground = Ground::new();
    durably(ground.dir().replace("t", b""));
    durably(ground.dir().create_new("n", b""));
    assert_eq!((ground.read("t"), ground.read("n")), (vec![], vec![]));
}

#[test]
fn a_swap_that_changes_nothing_is_refused_all_the_same_when_it_came_too_late() {
    let ground = Ground::new();
    ground.put("t", b"same", 0o640);
    let options = with(|o| {
        o.expect = Some(Stamp::missing());
        o.unchanged = durable_io::Unchanged::Skip;
    });
    assert_eq!(ground.dir().replace_with("t", b"same", &options).unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn a_file_in_a_missing_directory_is_a_missing_file_to_compare_and_swap() {
    let ground = Ground::new();
    ground.symlink("gone/far", "dangling");
    for name in ["no/such/t", "dangling"] {
        assert_eq!(ground.dir().read_stamped(name).unwrap(), (None, Stamp::missing()), "{name}");
    }
}

#[test]
fn a_rename_onto_another_name_of_the_same_file_leaves_one_name() {
    let ground = Ground::new();
    ground.mkdir("d");
    ground.put("a", b"one", 0o640);
    ground.hard_link("a", "b");
    ground.hard_link("a", "d/a");
    let dir = ground.dir();
    dir.rename("a", "b").unwrap();
    assert!(!ground.exists("a"));
    dir.rename("b", "b").unwrap();
    assert_eq!(ground.read("b"), b"one", "onto itself: nothing to do, and nothing lost");
    dir.rename("b", "d/a").unwrap();
    assert!(!ground.exists("b"));
    assert_eq!(ground.read("d/a"), b"one");
}

#[test]
fn both_files_of_an_exchange_are_durable_before_they_change_names() {
    let ground = Ground::new();
    ground.put("a", b"one", 0o640);
    ground.put("b", b"two", 0o640);
    let (recorder, dir) = ground.recorded();
    dir.rename_to("a", &dir, "b", RenameMode::Exchange, Barriers::Required).unwrap();
    assert_eq!((ground.read("a"), ground.read("b")), (b"two".to_vec(), b"one".to_vec()));
    let ops: Vec<Op> = recorder.calls().iter().map(|call| call.op).filter(|op| op.is_barrier()).collect();
    assert_eq!(ops, [Op::SyncAll, Op::SyncAll, Op::DirSync]);
}

#[test]
fn two_writers_of_one_process_use_two_temps() {
    let ground = Ground::new();
    let dir = Dir::open_on(OsFs::shared(), ground.root(), fixed_env(9)).unwrap();
    let mut one = dir.stage("t").unwrap();
    let mut two = dir.clone().stage("t").unwrap();
    one.write_all(b"one").unwrap();
    two.write_all(b"two").unwrap();
    durably(one.seal().unwrap().publish(Publish::Replace));
    durably(two.seal().unwrap().publish(Publish::Replace));
    assert_eq!((ground.read("t"), ground.strays()), (b"two".to_vec(), vec![]));
}

/// Tries the lock of `name` from another thread, which holds none.
fn is_held(ground: &Ground, name: &str) -> bool {
    let dir = ground.dir();
    let outcome =
        std::thread::scope(|s| s.spawn(|| dir.lock(name, Wait::DoNotWait).map(drop)).join().unwrap());
    outcome.is_err_and(|error| error.kind() == Kind::Held)
}

/// A lock on the very file would stay with the old one: whoever comes next would find another file, unlocked.
#[test]
fn a_lock_still_excludes_after_the_file_it_protects_was_replaced() {
    let ground = Ground::new();
    ground.put("t", b"0", 0o600);
    let dir = ground.dir();
    for kind in [LockKind::Kernel, LockKind::Exclusive] {
        let lock = dir.lock_with("t", LockOptions { kind, ..LockOptions::default() }).unwrap();
        for content in [b"1", b"2"] {
            let before = std::fs::metadata(ground.path("t")).unwrap().ino();
            durably(dir.replace("t", content));
            assert_ne!(std::fs::metadata(ground.path("t")).unwrap().ino(), before, "another file");
            assert!(is_held(&ground, "t"), "{kind:?}");
            // And for who does not go through our queue of threads: another process.
            if kind == LockKind::Kernel {
                let side = std::fs::File::open(ground.path("t.lock")).unwrap();
                assert!(matches!(side.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
            }
        }
        lock.unlock().unwrap();
        assert!(!is_held(&ground, "t"));
        if kind == LockKind::Kernel {
            std::fs::remove_file(ground.path("t.lock")).unwrap();
        }
    }
}

/// Looks at the lock file before and after every call: it is not there, or it is complete.
#[derive(Debug)]
struct BodyWatch {
    path: PathBuf,
    seen: AtomicUsize,
}

impl BodyWatch {
    fn look(&self, call: &Call) {
        let Ok(body) = std::fs::read(&self.path) else { return };
        let text = std::str::from_utf8(&body).unwrap();
        assert_eq!(text.len(), 1024, "{call}");
        assert!(
            text.starts_with('{') && text.trim_end().ends_with('}') && text.contains("\"token\":"),
            "{call}"
        );
        self.seen.fetch_add(1, Ordering::Relaxed);
    }
}

impl Listener for BodyWatch {
    fn before(&self, call: &Call) -> io::Result<()> {
        self.look(call);
        Ok(())
    }

    fn after(&self, call: &Call) -> io::Result<()> {
        self.look(call);
        Ok(())
    }

    fn write_len(&self, _call: &Call, len: usize) -> usize {
        len.min(100)
    }
}

const EXCLUSIVE: LockOptions = LockOptions {
    kind: LockKind::Exclusive,
    wait: Wait::DoNotWait,
    stale: Stale::ProvedDead,
    network: NetworkLocks::Accept,
};

/// The complete lock of a process that died while it held it.
fn leave_dead_lock(ground: &Ground) -> String {
    let env = Env { host: Arc::new(FakeHost::with_pid(5)), ..fixed_env(5) };
    let dir = Dir::open_on(OsFs::shared(), ground.root(), env).unwrap();
    let lock = dir.lock_with("t", EXCLUSIVE).unwrap();
    let body = ground.read("t.lock");
    lock.unlock().unwrap();
    ground.put("t.lock", &body, 0o600);
    let text = String::from_utf8(body).unwrap();
    text.split("\"token\":\"").nth(1).unwrap().get(..32).unwrap().to_owned()
}

/// A body that is created and then written is empty for a moment, and whoever reads it then takes it for nobody's.
#[test]
fn the_body_of_an_exclusive_lock_is_complete_whenever_it_can_be_seen() {
    for left_behind in [false, true] {
        let ground = Ground::new();
        if left_behind {
            leave_dead_lock(&ground);
        }
        let watch = Arc::new(BodyWatch { path: ground.path("t.lock"), seen: AtomicUsize::new(0) });
        let dir = ground.dir_on(TapFs::shared(OsFs::shared(), Arc::<BodyWatch>::clone(&watch)));
        let lock = dir.lock_with("t", EXCLUSIVE).unwrap();
        durably(dir.replace("t", b"new"));
        lock.unlock().unwrap();
        assert!(watch.seen.load(Ordering::Relaxed) > 15);
        assert!(!ground.exists("t.lock"));
    }
}

/// Whoever unlinks a dead lock and then creates one may unlink the fresh lock of another who did so a moment earlier. We
/// never make room: the right to take over is a file of its own, and the new body goes over the old one in one
/// rename. (That two takers, stopped anywhere, never both hold it: `two_takers_stopped_anywhere_never_both_hold_the_lock`
/// in `src/lock/exclusive.rs`, which goes round the queue of this process.)
#[test]
fn a_dead_lock_is_taken_over_without_being_removed() {
    let ground = Ground::new();
    let token = leave_dead_lock(&ground);
    let (recorder, dir) = ground.recorded();
    let lock = dir.lock_with("t", EXCLUSIVE).unwrap();
    let calls = lines(&recorder);
    let claim = format!("t.lock.{token}");
    let expected = [
        format!("Link <temp> -> {claim}"),
        "Unlink <temp>".to_owned(),
        "Rename <temp> -> t.lock".to_owned(),
        format!("Unlink {claim}"),
    ];
    let changes = |line: &&String| ["Link", "Unlink", "Rename"].iter().any(|op| line.starts_with(op));
    assert_eq!(calls.iter().filter(changes).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    // Between the claim and the rename it is read once more: it is still the dead one.
    let at = |wanted: &str| calls.iter().position(|line| line == wanted).unwrap();
    let looks = calls.iter().rposition(|line| line == "Open t.lock Read").unwrap();
    assert!(at(&expected[0]) < looks && looks < at(&expected[2]));
    assert!(is_held(&ground, "t"));
    lock.unlock().unwrap();
    assert!(!ground.exists("t.lock") && !ground.exists(&claim));
}
