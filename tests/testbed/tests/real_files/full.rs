//! A full disk: by bytes, by inodes, early (reserved) and late (a short write).

use std::path::Path;

use durable_io::{Dir, Error, Kind, Mode, Reason, Retry, Stage, TargetState, WriteOptions};
use testbed::{FsKind, LoopFs, MountOptions, need};

use crate::{mode, names};

const OLD: &[u8] = b"the old content";

/// An old file and as little room as asked for.
fn with_little_room(fs: &LoopFs, leave: u64) -> Dir {
    let dir = Dir::open(fs.root()).unwrap();
    let options = WriteOptions { mode: Some(Mode::new(0o640)), ..WriteOptions::default() };
    drop(dir.replace_with("target", OLD, &options).unwrap());
    fs.fill("filler", leave).unwrap();
    dir
}

#[track_caller]
fn assert_nothing_happened(fs: &LoopFs, error: &Error, why: Reason) {
    let kind = fs.kind();
    assert_eq!(error.reason(), Some(why), "{kind:?}: {error}");
    assert_eq!(error.kind(), Kind::NoSpace, "{kind:?}: {error}");
    assert!(matches!(error.stage(), Stage::TempWrite | Stage::SyncFile), "{kind:?}: {error}");
    assert_eq!(error.state(), TargetState::Unchanged, "{kind:?}: {error}");
    assert!(error.cleanup().is_none(), "{kind:?}: {error}");
    assert_eq!(names(fs.root()), ["filler", "target"], "{kind:?}: a temporary file is left");
    assert_eq!(std::fs::read(fs.root().join("target")).unwrap(), OLD, "{kind:?}");
    assert_eq!(mode(&fs.root().join("target")), 0o640, "{kind:?}");
}

fn replaces_again_once_there_is_room(fs: &LoopFs, dir: &Dir) {
    std::fs::remove_file(fs.root().join("filler")).unwrap();
    drop(dir.replace("target", &[7; 4096]).unwrap());
    assert_eq!(std::fs::read(fs.root().join("target")).unwrap(), [7; 4096], "{:?}", fs.kind());
    assert_eq!(mode(&fs.root().join("target")), 0o640, "{:?}", fs.kind());
    assert_eq!(names(fs.root()), ["target"], "{:?}", fs.kind());
}

#[test]
fn a_full_disk_leaves_the_old_file_and_no_temporary_one() {
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let dir = with_little_room(&fs, 2 << 20);
        let room = usize::try_from(fs.free().unwrap()).unwrap();
        // Large enough to be reserved: refused before a byte is written.
        let error = dir.replace("target", &vec![1; room + (8 << 20)]).unwrap_err();
        assert_nothing_happened(&fs, &error, Reason::DiskFull);
        assert_eq!((error.stage(), error.retry()), (Stage::TempWrite, Retry::AfterChange));
        let error = dir.create_new("new", &vec![1; room + (8 << 20)]).unwrap_err();
        assert_nothing_happened(&fs, &error, Reason::DiskFull);
        // In pieces, nothing is reserved: the disk fills up under the hands of the writer.
        let mut staged = dir.stage("target").unwrap();
        let error = loop {
            if let Err(error) = staged.write_all(&[2; 100_000]) {
                break error;
            }
            assert!(staged.len() < 1 << 30, "{kind:?} is never full");
        };
        assert_nothing_happened(&fs, &error, Reason::DiskFull);
        let poisoned = staged.write_all(b"more").unwrap_err();
        assert_eq!(poisoned.kind(), Kind::Poisoned, "{kind:?}");
        assert_eq!(staged.seal().unwrap_err().kind(), Kind::Poisoned, "{kind:?}");
        // What still fits is written all the same. (The room that btrfs shows is an estimate. ext4 hands out what the
        // temporary file had only once its journal has committed the removal.)
        dir.sync_names().unwrap();
        if kind != FsKind::Btrfs {
            drop(dir.replace("small", b"fits").unwrap_or_else(|e| panic!("{kind:?}: {e}")));
            dir.remove("small").unwrap();
        }
        replaces_again_once_there_is_room(&fs, &dir);
    }
}

#[test]
fn a_write_that_the_disk_takes_only_in_part_is_not_taken_for_a_success() {
    for (kind, size) in
        [(FsKind::Tmpfs, 1 << 20), (FsKind::Ext4, 32 << 20), (FsKind::Ext4NoJournal, 32 << 20)]
    {
        let fs = need!(LoopFs::mount(kind, size));
        let dir = with_little_room(&fs, 400 << 10);
        // Below the length from which on space is reserved: the first `pwrite` is a short one.
        let error = dir.replace("target", &vec![1; 900 << 10]).unwrap_err();
        assert_nothing_happened(&fs, &error, Reason::DiskFull);
        replaces_again_once_there_is_room(&fs, &dir);
    }
}

#[test]
fn memory_of_one_mebibyte_is_full_like_a_disk() {
    let fs = need!(LoopFs::mount(FsKind::Tmpfs, 1 << 20));
    let dir = with_little_room(&fs, 100 << 10);
    let error = dir.replace("target", &vec![1; 2 << 20]).unwrap_err();
    assert_nothing_happened(&fs, &error, Reason::DiskFull);
    replaces_again_once_there_is_room(&fs, &dir);
}

#[test]
fn a_disk_without_inodes_refuses_the_temporary_file_and_recovers() {
    let options = MountOptions { mkfs_args: &["-N", "64"], mount: "" };
    let fs = need!(LoopFs::mount_with(FsKind::Ext4, 16 << 20, options));
    let dir = Dir::open(fs.root()).unwrap();
    drop(dir.replace("target", OLD).unwrap());
    let many = fs.root().join("many");
    std::fs::create_dir(&many).unwrap();
    let used_up = (0..1000).find(|n| std::fs::File::create(many.join(n.to_string())).is_err());
    assert!(used_up.is_some_and(|count| count > 8), "{used_up:?}");

    for outcome in [dir.replace("target", b"new"), dir.create_new("new", b"new")] {
        let error = outcome.unwrap_err();
        assert_eq!((error.reason(), error.stage()), (Some(Reason::DiskFull), Stage::TempWrite), "{error}");
        assert_eq!(error.state(), TargetState::Unchanged);
    }
    let error = dir.create_dir("sub").unwrap_err();
    assert_eq!((error.reason(), error.stage()), (Some(Reason::DiskFull), Stage::CreateDir), "{error}");
    assert_eq!(names(fs.root()), ["many", "target"]);
    assert_eq!(std::fs::read(fs.root().join("target")).unwrap(), OLD);

    std::fs::remove_file(many.join("0")).unwrap();
    drop(dir.replace("target", b"new").unwrap());
    assert_eq!(std::fs::read(fs.root().join("target")).unwrap(), b"new");
}

/// `/dev/full` is what everybody tries first; it is no regular file, and is refused as such.
#[test]
fn dev_full_is_refused_as_a_device() {
    let dir = Dir::open("/dev").unwrap();
    if !Path::new("/dev/full").exists() {
        return testbed::skipped(&testbed::Missing::new("no /dev/full"));
    }
    let error = dir.replace("full", b"x").unwrap_err();
    assert_eq!((error.kind(), error.stage()), (Kind::Invalid, Stage::InvalidInput), "{error}");
}
