//! What the system refuses: another file system, a mount point, a read-only mount, special files.

use std::os::unix::fs::FileTypeExt as _;

use durable_io::{
    Barriers, Cause, Change, Dir, Error, Invalid, Kind, Mode, Reason, RenameMode, RenameRefused, Retry,
    Stage, TargetState, WriteOptions,
};
use media::FileKind;
use rustix::fs::{CWD, FileType, mknodat};
use testbed::{BindMount, FsKind, LoopFs, need};

use crate::{mode, names, set_mode};

#[track_caller]
fn facts(error: &Error) -> (Option<Reason>, Stage, TargetState) {
    (error.reason(), error.stage(), error.state())
}

#[test]
fn a_rename_to_another_file_system_changes_neither() {
    let here = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let there = need!(LoopFs::mount(FsKind::Tmpfs, 1 << 20));
    let (from, to) = (Dir::open(here.root()).unwrap(), Dir::open(there.root()).unwrap());
    drop(from.replace("a", b"mine").unwrap());
    drop(to.replace("b", b"theirs").unwrap());
    for how in [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange] {
        let error = from.rename_to("a", &to, "b", how, Barriers::Required).unwrap_err();
        assert_eq!(
            facts(&error),
            (Some(Reason::CrossDevice), Stage::Rename, TargetState::Unchanged),
            "{how:?}"
        );
        assert_eq!((error.kind(), error.retry()), (Kind::Unsupported, Retry::AfterChange));
    }
    assert_eq!(from.read("a").unwrap(), b"mine");
    assert_eq!(to.read("b").unwrap(), b"theirs");
    assert_eq!((names(here.root()), names(there.root())), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

/// A link may lead out of the file system; the temporary file is then made where it leads.
#[test]
fn a_link_into_another_file_system_is_followed_there() {
    let here = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let there = need!(LoopFs::mount(FsKind::Xfs, 300 << 20));
    std::os::unix::fs::symlink(there.root().join("target"), here.root().join("link")).unwrap();
    let dir = Dir::open(here.root()).unwrap();
    drop(dir.replace("link", b"through").unwrap());
    assert_eq!(std::fs::read(there.root().join("target")).unwrap(), b"through");
    assert_eq!(
        (names(here.root()), names(there.root())),
        (vec!["link".to_owned()], vec!["target".to_owned()])
    );
}

#[test]
fn a_bind_mounted_file_is_busy_and_overwritten_only_when_asked() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let outside = need!(LoopFs::mount(FsKind::Tmpfs, 1 << 20));
    for source in [fs.root().join("source"), outside.root().join("source")] {
        let target = fs.root().join("dir");
        std::fs::create_dir(&target).unwrap();
        let target = target.join("bound");
        std::fs::write(&source, b"the longer old content").unwrap();
        set_mode(&source, 0o640);
        std::fs::write(&target, b"").unwrap();
        let bound = need!(BindMount::file(&source, &target));
        let dir = Dir::open(fs.root().join("dir")).unwrap();

        let error = dir.replace("bound", b"new").unwrap_err();
        assert_eq!(facts(&error), (Some(Reason::Busy), Stage::Rename, TargetState::Unchanged), "{error}");
        assert_eq!((error.kind(), error.retry()), (Kind::Held, Retry::AfterChange));
        assert_eq!(names(dir.path()), ["bound"]);
        assert_eq!(std::fs::read(&source).unwrap(), b"the longer old content");

        let options = WriteOptions { rename_refused: RenameRefused::InPlace, ..WriteOptions::default() };
        let published = dir.replace_with("bound", b"new", &options).unwrap();
        assert_eq!(published.change, Change::Overwritten);
        assert!(published.durability.is_durable() && published.leftover.is_none());
        assert_eq!(names(dir.path()), ["bound"], "no backup and no temporary file");
        assert_eq!(std::fs::read(&source).unwrap(), b"new", "the other view");
        assert_eq!(mode(&source), 0o640);

        let error = dir.remove("bound").unwrap_err();
        assert_eq!(facts(&error), (Some(Reason::Busy), Stage::Remove, TargetState::Unchanged), "{error}");
        drop(bound);
        std::fs::remove_dir_all(fs.root().join("dir")).unwrap();
    }
}

#[test]
fn a_read_only_mount_is_said_to_be_one() {
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let dir = Dir::open(fs.root()).unwrap();
        drop(dir.replace("target", b"old").unwrap());
        need!(fs.remount_read_only());
        let replaced = dir.replace("target", b"new").unwrap_err();
        let read_only = |stage| (Some(Reason::ReadOnly), stage, TargetState::Unchanged);
        assert_eq!(facts(&replaced), read_only(Stage::TempWrite), "{kind:?}");
        assert_eq!((replaced.kind(), replaced.retry()), (Kind::Denied, Retry::AfterChange));
        assert_eq!(facts(&dir.remove("target").unwrap_err()), read_only(Stage::Remove), "{kind:?}");
        assert_eq!(facts(&dir.rename("target", "x").unwrap_err()), read_only(Stage::Rename), "{kind:?}");
        assert_eq!(facts(&dir.create_dir("sub").unwrap_err()), read_only(Stage::CreateDir), "{kind:?}");
        assert_eq!(
            facts(&dir.create_new("sub/x", b"").unwrap_err()),
            read_only(Stage::CreateDir),
            "{kind:?}"
        );
        // Nothing to write: reading, and the barriers of what is there, still work.
        assert_eq!(dir.read("target").unwrap(), b"old");
        dir.sync_file("target").unwrap();
        dir.sync_names().unwrap();
    }
}

#[test]
fn special_files_are_refused_at_once_and_left_alone() {
    need!(testbed::root());
    let fs = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let root = fs.root();
    let private = rustix::fs::Mode::from_raw_mode(0o600);
    let memory_full = rustix::fs::makedev(1, 7);
    mknodat(CWD, root.join("fifo"), FileType::Fifo, private, 0).unwrap();
    mknodat(CWD, root.join("chars"), FileType::CharacterDevice, private, memory_full).unwrap();
    mknodat(CWD, root.join("blocks"), FileType::BlockDevice, private, rustix::fs::makedev(7, 255)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    std::fs::create_dir(root.join("directory")).unwrap();
    std::os::unix::fs::symlink("fifo", root.join("link")).unwrap();
    let before = names(root);
    let dir = Dir::open(root).unwrap();
    let in_place = WriteOptions {
        mode: Some(Mode::PRIVATE),
        rename_refused: RenameRefused::InPlace,
        ..WriteOptions::default()
    };
    for (name, kind) in [
        ("fifo", FileKind::Other),
        ("chars", FileKind::Other),
        ("blocks", FileKind::Other),
        ("socket", FileKind::Other),
        ("link", FileKind::Other),
        ("directory", FileKind::Dir),
    ] {
        let errors = [
            dir.replace(name, b"x").unwrap_err(),
            dir.replace_with(name, b"x", &in_place).unwrap_err(),
            dir.stage(name).unwrap_err(),
            dir.read(name).unwrap_err(),
            dir.read_stamped(name).unwrap_err(),
            dir.sync_file(name).unwrap_err(),
        ];
        for error in errors {
            let expected = Invalid::NotARegularFile(kind);
            assert!(matches!(error.cause(), Cause::Invalid(why) if *why == expected), "{name}: {error}");
            assert_eq!((error.state(), error.retry()), (TargetState::Unchanged, Retry::Never), "{name}");
        }
    }
    assert_eq!(names(root), before);
    assert!(std::fs::symlink_metadata(root.join("fifo")).unwrap().file_type().is_fifo());
    // Names of special files may be moved and removed like any other.
    dir.rename("fifo", "pipe").unwrap();
    dir.remove("pipe").unwrap();
}
