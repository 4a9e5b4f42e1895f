//! What a caller may choose, and what each choice does to links, special files, modes and owners.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use durable_io::{
    Barriers, Change, Dir, Durability, HardLinks, Invalid, Keep, Kind, Mode, Publish, Reason, RenameRefused,
    Stage, Symlinks, TargetState, Unchanged, WriteOptions,
};
use media::doubles::{FailNth, Lasting, Op};
use media::{Access, FileKind, OsFs};

use crate::common::{
    EACCES, EBUSY, EINVAL, EIO, ENOSPC, ENOTSUP, EPERM, Ground, durably, invalid, is_root, skipped,
};
use crate::operations::{ACL, can_decorate, decorate};

fn with(change: impl FnOnce(&mut WriteOptions)) -> WriteOptions {
    let mut options = WriteOptions::default();
    change(&mut options);
    options
}

fn symlinks(policy: Symlinks) -> WriteOptions {
    with(|o| o.symlinks = policy)
}

#[test]
fn a_link_is_followed_replaced_or_refused_as_asked() {
    let ground = Ground::new();
    ground.put("real", b"old", 0o640);
    ground.symlink("real", "t");
    let dir = ground.dir();
    let refused = dir.replace_with("t", b"new", &symlinks(Symlinks::Refuse)).unwrap_err();
    assert_eq!(invalid(&refused), Invalid::SymlinkRefused);
    assert_eq!(ground.read("real"), b"old");

    durably(dir.replace_with("t", b"new", &symlinks(Symlinks::Follow)));
    assert_eq!((ground.read("real"), ground.mode("real")), (b"new".to_vec(), 0o640));
    assert!(ground.path("t").is_symlink());

    durably(dir.replace_with("t", b"own", &symlinks(Symlinks::Replace)));
    assert!(!ground.path("t").is_symlink());
    assert_eq!((ground.read("t"), ground.read("real")), (b"own".to_vec(), b"new".to_vec()));
}

#[test]
fn a_relative_link_is_relative_to_its_own_directory() {
    let ground = Ground::new();
    for name in ["a", "a/b", "c"] {
        ground.mkdir(name);
    }
    ground.put("c/real", b"old", 0o640);
    ground.symlink("../../c/hop", "a/b/link");
    ground.symlink("real", "c/hop");
    ground.symlink("a/b/link", "t");
    // The same names, where a resolution from the top would end up.
    ground.put("real", b"decoy", 0o640);
    assert_ne!(std::env::current_dir().unwrap(), ground.root());
    durably(ground.dir().replace("t", b"new"));
    assert_eq!((ground.read("c/real"), ground.read("real")), (b"new".to_vec(), b"decoy".to_vec()));
    assert_eq!(ground.dir().read("t").unwrap(), b"new");
}

#[test]
fn an_absolute_link_leads_out_of_the_directory() {
    let (ground, far) = (Ground::new(), Ground::new());
    far.put("real", b"old", 0o640);
    ground.symlink(far.path("real"), "t");
    durably(ground.dir().replace("t", b"new"));
    assert_eq!((far.read("real"), far.strays()), (b"new".to_vec(), vec![]));
}

#[test]
fn a_dangling_link_gets_its_file_where_it_points() {
    let ground = Ground::new();
    ground.mkdir("d");
    ground.symlink("d/real", "t");
    assert_eq!(durably(ground.dir().replace("t", b"new")), Change::Created);
    assert_eq!(ground.read("d/real"), b"new");
    assert!(ground.path("t").is_symlink());
    // To create *the name* is something else, and the link has it.
    ground.symlink("d/other", "u");
    assert_eq!(ground.dir().create_new("u", b"new").unwrap_err().kind(), Kind::Exists);
    ground.symlink("gone/real", "v");
    assert_eq!(ground.dir().replace("v", b"new").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn links_are_followed_up_to_forty_and_loops_end() {
    let chain = |links: usize| {
        let ground = Ground::new();
        ground.put("0", b"old", 0o640);
        for at in 1..=links {
            ground.symlink((at - 1).to_string(), &at.to_string());
        }
        let outcome = ground.dir().replace(links.to_string(), b"new").map(|published| published.change);
        (outcome, ground.read("0"))
    };
    for links in [39, 40] {
        let (outcome, content) = chain(links);
        assert_eq!((outcome.unwrap(), content), (Change::Replaced, b"new".to_vec()), "{links}");
    }
    let (outcome, content) = chain(41);
    assert_eq!((outcome.unwrap_err().reason(), content), (Some(Reason::SymlinkLoop), b"old".to_vec()));

    let ground = Ground::new();
    ground.symlink("b", "a");
    ground.symlink("a", "b");
    let error = ground.dir().replace("a", b"new").unwrap_err();
    assert_eq!((error.reason(), error.kind()), (Some(Reason::SymlinkLoop), Kind::Invalid));
    assert_eq!((error.stage(), error.state()), (Stage::Inspect, TargetState::Unchanged));
    assert_eq!(ground.dir().read("a").unwrap_err().reason(), Some(Reason::SymlinkLoop));
}

#[test]
fn a_link_to_a_directory_is_no_file() {
    let ground = Ground::new();
    ground.mkdir("d");
    ground.put("f", b"old", 0o640);
    for (to, name) in [("d", "1"), ("d/", "2"), ("d/.", "3"), ("f/", "4"), ("f/.", "5"), ("d/..", "6")] {
        ground.symlink(to, name);
        let error = ground.dir().replace(name, b"new").unwrap_err();
        assert_eq!(invalid(&error), Invalid::NotARegularFile(FileKind::Dir), "{to}");
        assert_eq!(error.reason(), Some(Reason::IsDirectory), "{to}");
    }
    assert_eq!(ground.read("f"), b"old");
}

#[test]
fn directories_and_fifos_are_refused_at_once_and_never_waited_for() {
    let ground = Ground::new();
    ground.mkdir("dir");
    assert!(Command::new("mkfifo").arg(ground.path("fifo")).status().unwrap().success());
    ground.symlink("fifo", "link");
    let (done, outcome) = mpsc::channel();
    let dir = ground.dir();
    std::thread::spawn(move || {
        for (name, kind) in [("dir", FileKind::Dir), ("fifo", FileKind::Other), ("link", FileKind::Other)] {
            let refused = Invalid::NotARegularFile(kind);
            assert_eq!(invalid(&dir.replace(name, b"new").unwrap_err()), refused);
            assert_eq!(invalid(&dir.read(name).unwrap_err()), refused);
            assert_eq!(invalid(&dir.sync_file(name).unwrap_err()), refused);
        }
        assert_eq!(dir.create_new("fifo", b"new").unwrap_err().kind(), Kind::Invalid);
        done.send(()).unwrap();
    });
    outcome.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(ground.strays().is_empty());
}

#[test]
fn of_several_names_one_is_replaced_none_or_all_are_overwritten_as_asked() {
    let ground = Ground::new();
    let reset = || {
        ground.put("t", b"old", 0o640);
        std::fs::remove_file(ground.path("other")).ok();
        ground.hard_link("t", "other");
    };
    let dir = ground.dir();
    reset();
    let error = dir.replace_with("t", b"new", &with(|o| o.hard_links = HardLinks::Refuse)).unwrap_err();
    assert_eq!(invalid(&error), Invalid::HardLinkRefused { links: 2 });
    assert_eq!(ground.read("t"), b"old");

    let published = dir.replace("t", b"new").unwrap();
    assert_eq!((published.change, published.other_links), (Change::Replaced, 1));
    assert_eq!((ground.read("t"), ground.read("other")), (b"new".to_vec(), b"old".to_vec()));

    reset();
    let in_place = with(|o| o.hard_links = HardLinks::InPlace);
    let published = dir.replace_with("t", b"shorter"[..2].as_ref(), &in_place).unwrap();
    assert_eq!((published.change, published.other_links), (Change::Overwritten, 1));
    assert_eq!((ground.read("t"), ground.read("other")), (b"sh".to_vec(), b"sh".to_vec()));
    assert!(ground.strays().is_empty());
    // One name only: the policy has nothing to say, and atomic is better.
    assert_eq!(durably(dir.replace_with("alone", b"new", &in_place)), Change::Created);
    assert_eq!(durably(dir.replace_with("alone", b"new", &in_place)), Change::Replaced);
}

#[test]
fn a_refused_rename_overwrites_only_if_asked_and_only_for_the_two_codes() {
    for (code, policy, overwrites) in [
        (EBUSY, RenameRefused::InPlace, true),
        (EACCES, RenameRefused::InPlace, true),
        (EIO, RenameRefused::InPlace, false),
        (EBUSY, RenameRefused::Fail, false),
        (EACCES, RenameRefused::Fail, false),
    ] {
        let ground = Ground::new();
        ground.put("t", b"old", 0o640);
        let (_, fs) = FailNth::new(0, code).only(Op::Rename).over(OsFs::shared());
        let outcome = ground.dir_on(fs).replace_with("t", b"new", &with(|o| o.rename_refused = policy));
        match outcome {
            Ok(published) => assert_eq!((overwrites, published.change), (true, Change::Overwritten)),
            Err(error) => {
                assert!(!overwrites, "{error}");
                assert_eq!((error.stage(), error.raw_os_error()), (Stage::Rename, Some(code)));
            }
        }
        assert_eq!(ground.read("t"), if overwrites { b"new" } else { b"old" });
        assert!(ground.strays().is_empty());
    }
}

#[test]
fn where_there_is_nothing_to_overwrite_the_refusal_itself_is_told() {
    let ground = Ground::new();
    ground.symlink("nowhere", "link");
    for name in ["new", "link"] {
        let (_, fs) = FailNth::new(0, EBUSY).only(Op::Rename).over(OsFs::shared());
        let options = with(|o| {
            o.rename_refused = RenameRefused::InPlace;
            o.symlinks = Symlinks::Replace;
        });
        let error = ground.dir_on(fs).replace_with(name, b"new", &options).unwrap_err();
        assert_eq!((error.stage(), error.raw_os_error()), (Stage::Rename, Some(EBUSY)), "{name}");
    }
}

#[test]
fn what_a_backup_could_not_protect_is_named_in_the_error() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o640);
    ground.hard_link("t", "other");
    let (_, fs) = FailNth::new(0, EIO).only(Op::SetLen).over(OsFs::shared());
    let options = with(|o| o.hard_links = HardLinks::InPlace);
    let error = ground.dir_on(fs).replace_with("t", b"new", &options).unwrap_err();
    assert_eq!((error.stage(), error.state()), (Stage::WriteInPlace, TargetState::Unknown));
    let backup = error.backup().unwrap();
    assert_eq!(std::fs::read(backup).unwrap(), b"old");
    assert!(error.hint().unwrap().contains(&backup.display().to_string()));
    assert_eq!(ground.strays(), [backup]);
}

#[test]
fn owner_attributes_and_acl_are_kept_where_asked_and_only_there() {
    if !is_root() || !can_decorate() {
        return skipped("keeping an owner needs root, and a file system with attributes and ACLs");
    }
    let ground = Ground::new();
    let xattr = |name: &str| {
        let dir = OsFs::shared().open_dir(ground.root()).unwrap();
        dir.open("t".as_ref(), Access::Read).unwrap().xattr(name.as_ref()).ok()
    };
    let reset = || {
        ground.put("t", b"old", 0o640);
        assert!(decorate(&ground));
        chown(ground.path("t"), Some(4242), Some(4243)).unwrap();
    };
    let owner = || {
        let found = ground.path("t").metadata().unwrap();
        (found.uid(), found.gid())
    };
    reset();
    durably(ground.dir().replace_with("t", b"new", &with(|o| o.keep = Keep::ALL)));
    assert_eq!(owner(), (4242, 4243));
    assert_eq!(xattr("user.colour").unwrap(), b"blue");
    assert_eq!(xattr("system.posix_acl_access").unwrap(), ACL);
    assert_eq!((ground.mode("t"), ground.read("t")), (0o640, b"new".to_vec()));

    durably(ground.dir().replace_with("t", b"new", &with(|o| o.keep.xattrs = true)));
    assert_eq!((owner(), xattr("system.posix_acl_access")), ((0, 0), None));
    assert_eq!(xattr("user.colour").unwrap(), b"blue");

    reset();
    durably(ground.dir().replace("t", b"new"));
    assert_eq!((owner(), xattr("user.colour")), ((0, 0), None));
}

#[test]
fn a_mode_of_the_callers_is_exact_even_where_an_acl_is_kept() {
    if !can_decorate() {
        return skipped("no ACLs here");
    }
    for bits in [0o600, 0o660, 0o644] {
        let ground = Ground::new();
        ground.put("t", b"old", 0o640);
        assert!(decorate(&ground));
        let options = with(|o| {
            o.mode = Some(Mode::new(bits));
            o.keep.acl = true;
        });
        // Before the mode is set, the ACL already says the same: the temp is never open to the old readers.
        let (_, fs) = FailNth::new(0, EIO).only(Op::SetMode).over(OsFs::shared());
        let (_, fs) = FailNth::new(0, EIO).only(Op::Unlink).over(fs);
        let error = ground.dir_on(fs).replace_with("t", b"new", &options).unwrap_err();
        let temp = &error.cleanup().unwrap().path;
        assert_eq!(temp.metadata().unwrap().mode() & 0o7777, bits);
        std::fs::remove_file(temp).unwrap();
        durably(ground.dir().replace_with("t", b"new", &options));
        assert_eq!(ground.mode("t"), bits);
    }
}

#[test]
fn a_file_system_without_attributes_has_none_to_keep() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o640);
    let (_, fs) = FailNth::new(0, crate::common::ENOTSUP).only(Op::XattrNames).over(OsFs::shared());
    durably(ground.dir_on(fs).replace_with("t", b"new", &with(|o| o.keep = Keep::ALL)));
    assert_eq!(ground.read("t"), b"new");
}

#[test]
fn a_mode_of_the_callers_is_exact_whatever_the_umask() {
    let ground = Ground::new();
    for bits in [0o600, 0o666, 0o777, 0o4755, 0o1777] {
        durably(ground.dir().replace_with("t", b"new", &with(|o| o.mode = Some(Mode::new(bits)))));
        assert_eq!(ground.mode("t"), bits);
        let name = format!("d{bits:o}");
        let barriers = durable_io::Barriers::Required;
        ground.dir().create_dir_with(&name, Some(Mode::new(bits | 0o700)), barriers).unwrap();
        assert_eq!(ground.mode(&name), bits | 0o700);
    }
}

/// The directory that a child of the next test works in.
const CHILD: &str = "STEADFAST_TEST_UMASK_DIR";

#[test]
fn a_new_file_has_the_mode_that_the_umask_of_its_process_leaves() {
    if let Some(root) = std::env::var_os(CHILD) {
        let dir = Dir::open(root).unwrap();
        durably(dir.replace("new", b"new"));
        durably(dir.create_new("created", b"new"));
        dir.create_dir("dir").unwrap();
        durably(dir.replace("old", b"new"));
        return;
    }
    for (umask, file, directory) in [("027", 0o640, 0o750), ("000", 0o666, 0o777), ("077", 0o600, 0o700)] {
        let ground = Ground::new();
        ground.put("old", b"old", 0o664);
        let mut child = Command::new("sh");
        child.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
        child.arg(std::env::current_exe().unwrap());
        child.args(["--exact", "policies::a_new_file_has_the_mode_that_the_umask_of_its_process_leaves"]);
        let outcome = child.env(CHILD, ground.root()).output().unwrap();
        assert!(outcome.status.success(), "{outcome:?}");
        assert_eq!((ground.mode("new"), ground.mode("created")), (file, file), "{umask}");
        assert_eq!((ground.mode("dir"), ground.mode("old")), (directory, 0o664), "{umask}");
    }
}

#[test]
fn parents_are_made_only_if_that_is_the_policy() {
    let ground = Ground::new();
    let strict = with(|o| o.parents = durable_io::Parents::MustExist);
    let error = ground.dir().replace_with("a/t", b"new", &strict).unwrap_err();
    assert_eq!((error.stage(), error.kind()), (Stage::OpenDir, Kind::NotFound));
    assert!(!ground.exists("a"));
    durably(ground.dir().replace("a/b/t", b"new"));
    assert_eq!(ground.read("a/b/t"), b"new");
    ground.put("file", b"", 0o600);
    let error = ground.dir().replace("file/t", b"new").unwrap_err();
    assert_eq!((error.reason(), error.kind()), (Some(Reason::NotDirectory), Kind::Invalid));
    assert_eq!((error.path(), error.directory()), (&*ground.path("file"), ground.root()));
}

#[test]
fn an_overwrite_in_place_touches_only_the_file_that_was_looked_at() {
    let ground = Ground::new();
    ground.put("t", b"old", 0o640);
    ground.hard_link("t", "other");
    let options = with(|o| o.hard_links = HardLinks::InPlace);
    let mut staged = ground.dir().stage_with("t", &options).unwrap();
    staged.write_all(b"new").unwrap();
    ground.put("swapped", b"somebody else's", 0o640);
    ground.dir().rename("swapped", "t").unwrap();
    let failure = *staged.seal().unwrap().publish(Publish::Replace).unwrap_err();
    assert_eq!((failure.error.kind(), failure.error.state()), (Kind::Conflict, TargetState::Unchanged));
    assert_eq!((ground.read("t"), ground.read("other")), (b"somebody else's".to_vec(), b"old".to_vec()));
    drop(failure);
    assert!(ground.strays().is_empty());
}

fn shared_by_two_names() -> Ground {
    let ground = Ground::new();
    ground.put("t", b"old", 0o600);
    ground.hard_link("t", "other");
    ground
}

#[test]
fn an_overwrite_in_place_without_directory_barriers_is_refused_or_visible_only_as_the_caller_chose() {
    for code in [EINVAL, ENOTSUP] {
        let run = |barriers| {
            let ground = shared_by_two_names();
            let (_, fs) =
                FailNth::new(0, code).only(Op::DirSync).lasting(Lasting::Forever).over(OsFs::shared());
            let options = with(|o| (o.hard_links, o.barriers) = (HardLinks::InPlace, barriers));
            let outcome = ground.dir_on(fs).replace_with("t", b"new", &options);
            assert_eq!(ground.strays(), Vec::<std::path::PathBuf>::new());
            (outcome, ground.read("other"))
        };
        let (outcome, content) = run(Barriers::Required);
        let error = outcome.unwrap_err();
        assert_eq!((error.stage(), error.state()), (Stage::WriteInPlace, TargetState::Unchanged));
        assert_eq!(content, b"old", "nothing is overwritten without a backup that is durable");
        let (outcome, content) = run(Barriers::AllowVisibleOnly);
        let published = outcome.unwrap();
        assert_eq!((published.change, content), (Change::Overwritten, b"new".to_vec()));
        assert!(matches!(published.durability, Durability::VisibleOnly(_)), "{published:?}");
    }
    // A barrier that is offered and fails is another matter.
    let ground = shared_by_two_names();
    let (_, fs) = FailNth::new(0, EIO).only(Op::DirSync).over(OsFs::shared());
    let options = with(|o| (o.hard_links, o.barriers) = (HardLinks::InPlace, Barriers::AllowVisibleOnly));
    assert_eq!(ground.dir_on(fs).replace_with("t", b"new", &options).unwrap_err().kind(), Kind::Io);
    assert_eq!(ground.read("other"), b"old");
}

#[test]
fn a_backup_without_a_name_barrier_makes_the_overwrite_visible_only_even_if_the_next_barrier_works() {
    let ground = shared_by_two_names();
    let (_, fs) = FailNth::new(0, ENOTSUP).only(Op::DirSync).over(OsFs::shared());
    let options = with(|o| (o.hard_links, o.barriers) = (HardLinks::InPlace, Barriers::AllowVisibleOnly));
    let published = ground.dir_on(fs).replace_with("t", b"new", &options).unwrap();
    assert_eq!(published.durability, Durability::VisibleOnly(Reason::Unsupported));
}

#[test]
fn an_overwrite_in_place_names_both_files_that_it_could_not_remove_the_backup_first() {
    let ground = shared_by_two_names();
    let (_, fs) = FailNth::new(0, EIO).only(Op::Unlink).lasting(Lasting::Forever).over(OsFs::shared());
    let options = with(|o| o.hard_links = HardLinks::InPlace);
    let published = ground.dir_on(fs).replace_with("t", b"new", &options).unwrap();
    assert_eq!(published.durability, Durability::Durable);
    let backup = published.leftover.unwrap().path;
    assert_eq!(std::fs::read(&backup).unwrap(), b"old");
    let mut named = vec![backup, published.second_leftover.unwrap().path];
    let mut left = ground.strays();
    named.sort();
    left.sort();
    assert_eq!(left, named);
}

#[test]
fn what_may_not_be_read_is_not_compared_but_written() {
    for code in [EACCES, EPERM] {
        let ground = Ground::new();
        ground.put("t", b"new", 0o200);
        let before = std::fs::metadata(ground.path("t")).unwrap().ino();
        let skip = with(|o| o.unchanged = Unchanged::Skip);
        let unreadable = || FailNth::new(0, code).only(Op::Open).over(OsFs::shared()).1;
        assert_eq!(durably(ground.dir_on(unreadable()).replace_with("t", b"new", &skip)), Change::Replaced);
        assert_ne!(std::fs::metadata(ground.path("t")).unwrap().ino(), before);
        let mut staged = ground.dir_on(unreadable()).stage_with("t", &skip).unwrap();
        staged.write_all(b"new").unwrap();
        assert!(!staged.same_as_target().unwrap());
        // Failing to read for another reason is a failure.
        let (_, fs) = FailNth::new(0, EIO).only(Op::Open).over(OsFs::shared());
        let error = ground.dir_on(fs).replace_with("t", b"new", &skip).unwrap_err();
        assert_eq!((error.stage(), error.kind()), (Stage::Read, Kind::Io));
    }
}

#[test]
fn a_full_disk_is_said_to_have_left_nothing_only_where_that_is_known() {
    let hint = |op, then: Op| {
        let ground = shared_by_two_names();
        let (_, fs) = FailNth::new(0, ENOSPC).only(op).over(OsFs::shared());
        let (_, fs) = FailNth::new(0, EIO).only(then).lasting(Lasting::Forever).over(fs);
        let error = ground.dir_on(fs).replace("t", b"new").unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        (error.hint().unwrap(), error.to_string())
    };
    let (told, message) = hint(Op::WriteAt, Op::Lock);
    assert!(told.contains("nothing partial was left") && !message.contains("is left"), "{told}");
    let (told, message) = hint(Op::WriteAt, Op::Unlink);
    assert!(!told.contains("nothing partial") && message.contains("is left: "), "{told}, {message}");
    let (told, _) = hint(Op::DirSync, Op::Lock);
    assert!(!told.contains("nothing partial"), "{told}");
    let ground = shared_by_two_names();
    let (_, fs) = FailNth::new(0, ENOSPC).only(Op::SetLen).over(OsFs::shared());
    let error = ground.dir_on(fs).replace_with("t", b"new", &with(|o| o.hard_links = HardLinks::InPlace));
    assert!(error.unwrap_err().hint().unwrap().starts_with("the old content is in"));
}

#[test]
fn a_new_parent_whose_barrier_failed_is_said_to_be_there_and_not_to_be_relied_on() {
    for code in [EIO, ENOSPC] {
        let ground = Ground::new();
        let (_, fs) = FailNth::new(0, code).only(Op::DirSync).over(OsFs::shared());
        let error = ground.dir_on(fs).replace("made/t", b"new").unwrap_err();
        assert_eq!((error.stage(), error.state()), (Stage::SyncDir, TargetState::Unchanged));
        assert!(error.hint().unwrap().contains("sync its parent directory"), "{:?}", error.hint());
        assert!(error.path().ends_with("made") && ground.path("made").is_dir());
    }
}
