//! One writer of a disk: loop devices and the files behind them, links to devices, children made with `fork`, full file systems.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use media::{
    Access, BlockDevice as _, BlockIndex, BlockSize, DeviceError, DeviceErrorKind, Dir, FileDisk,
    FileDiskError, Fs as _, Geometry, Holder, LockWait, Mode, OsFs, Reason,
};
use testbed::{FsKind, LoopDevice, LoopFs, Scratch, child_arg, child_test, need};

const BLOCK: usize = 4096;

fn dir(path: &Path) -> Arc<dyn Dir> {
    OsFs.open_dir(path).unwrap()
}

fn open_locked(path: &Path) -> Result<FileDisk, FileDiskError> {
    FileDisk::open_locked(&*dir(path.parent().unwrap()), path.file_name().unwrap(), BlockSize::Is(4096))
}

/// Repeats what a claim may refuse that was given up just now: a process that another test is starting has every
/// descriptor of this one until it executes its program.
pub(crate) fn soon<T, E: std::fmt::Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    for _ in 0..100_000 {
        if let Ok(done) = attempt() {
            return done;
        }
        std::thread::yield_now();
    }
    attempt().unwrap()
}

fn holder(outcome: Result<FileDisk, FileDiskError>) -> Holder {
    match outcome.unwrap_err() {
        FileDiskError::Held { by } => by,
        other => panic!("{other:?}"),
    }
}

#[test]
fn store_f7_loop_and_backing_file_exclude_each_other() {
    let device = need!(LoopDevice::attach(1 << 20, 512));
    let (node, image) = (device.path().to_owned(), device.image());
    let attached = Holder::LoopDevice(node.file_name().unwrap().to_owned());
    let file = || dir(image.parent().unwrap()).open(image.file_name().unwrap(), Access::ReadWrite).unwrap();

    // The device first.
    let writer = open_locked(&node).unwrap();
    assert!(writer.backing_file().is_some());
    assert_eq!(holder(open_locked(&image)), Holder::Lock);
    assert_eq!(holder(open_locked(&node)), Holder::Claim);
    writer.write(BlockIndex::ZERO, &[1; BLOCK]).unwrap();
    writer.flush().unwrap();
    drop(writer);

    // Nobody writes it, and it is attached all the same: a file system on it could be mounted.
    assert_eq!(holder(open_locked(&image)), attached);
    let other = file();
    other.lock(LockWait::DoNotWait).unwrap();
    other.unlock().unwrap();

    // The file first.
    let other = file();
    other.lock(LockWait::DoNotWait).unwrap();
    soon(|| match holder(open_locked(&node)) {
        Holder::BackingFile => Ok(()),
        by => Err(by),
    });
    other.unlock().unwrap();

    // Neither of the failures has left a lock or a claim.
    drop(soon(|| open_locked(&node)));
    drop(device);
}

/// What `/sys` names does not exist then, and that is not a reason to refuse the device.
#[test]
fn store_f7_loop_whose_backing_file_was_removed_can_be_written() {
    let device = need!(LoopDevice::attach(1 << 20, 512));
    std::fs::remove_file(device.image()).unwrap();
    let writer = open_locked(device.path()).unwrap();
    assert!(writer.backing_file().is_none());
    writer.write(BlockIndex::ZERO, &[1; BLOCK]).unwrap();
    writer.flush().unwrap();
    assert_eq!(holder(open_locked(device.path())), Holder::Claim);
    // Another file of that name is not the one behind the device.
    std::fs::File::create(device.image()).unwrap().set_len(1 << 20).unwrap();
    drop(open_locked(&device.image()).unwrap());
}

#[test]
fn store_f7_link_to_a_device_is_the_device_and_one_in_use_is_held() {
    let device = need!(LoopDevice::attach(1 << 20, 512));
    let scratch = need!(Scratch::new());
    let link = scratch.path().join("by-id");
    symlink(device.path(), &link).unwrap();
    let writer = open_locked(&link).unwrap();
    assert!(writer.backing_file().is_some());
    for path in [device.path(), &link] {
        assert_eq!(holder(open_locked(path)), Holder::Claim, "{}", path.display());
    }
    // A reader needs no claim, by a link either.
    let reader = dir(scratch.path().as_path()).open_disk(OsStr::new("by-id"), Access::Read).unwrap();
    let reader = FileDisk::open(reader, 4096).unwrap();
    writer.write(BlockIndex::ZERO, &[9; BLOCK]).unwrap();
    writer.flush().unwrap();
    let mut found = [0; BLOCK];
    reader.read(BlockIndex::ZERO, &mut found).unwrap();
    assert_eq!(found, [9; BLOCK]);
    drop(writer);
    drop(soon(|| open_locked(&link)));
    // `Dir::open` follows no link at all, and a link to the image is one to a file.
    let refused = dir(scratch.path().as_path()).open(OsStr::new("by-id"), Access::Read).unwrap_err();
    assert_eq!(Reason::of(&refused), Reason::SymlinkLoop);
    symlink(device.image(), scratch.path().join("to-image")).unwrap();
    let refused = open_locked(&scratch.path().join("to-image")).unwrap_err();
    assert!(matches!(refused, FileDiskError::Link), "{refused:?}");
}

#[test]
fn store_f7_link_to_a_mounted_device_is_held() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let scratch = need!(Scratch::new());
    let source = media::describe_mount(fs.root()).unwrap().source;
    symlink(source, scratch.path().join("by-uuid")).unwrap();
    assert_eq!(holder(open_locked(&scratch.path().join("by-uuid"))), Holder::Claim);
}

const FORKS: &str = "one_writer::child_forks_with_a_disk_open";

/// In a process of its own, because a process that forks should have no other tests in it. The argument: a directory.
#[test]
#[expect(clippy::exit, reason = "the second process must not go on as a test harness")]
fn child_forks_with_a_disk_open() {
    let Some(path) = child_arg(FORKS) else { return };
    let dir = dir(Path::new(&path));
    let name = OsStr::new("disk");
    let mut disk = FileDisk::create(&*dir, name, Geometry::new(4096, 8).unwrap()).unwrap();
    disk.lock().unwrap();
    let has_durable = disk.geometry().write_durable();
    disk.write(BlockIndex::ZERO, &[1; BLOCK]).unwrap();
    disk.flush().unwrap();
    let ((mut said, mut say), (mut wait, go)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    if matches!(fork::fork().unwrap(), fork::Fork::Child) {
        drop(go);
        let is_refused = |outcome| matches!(outcome, Err(DeviceError::Inherited { .. }));
        let mut found = [0; BLOCK];
        let verdict = [
            is_refused(disk.write(BlockIndex::ZERO, &[2; BLOCK])),
            is_refused(disk.flush()),
            !has_durable || is_refused(disk.write_durable(BlockIndex::ZERO, &[2; BLOCK])),
            disk.read(BlockIndex::ZERO, &mut found).is_ok() && found == [1; BLOCK],
        ];
        let kept = Arc::clone(disk.file());
        drop(disk);
        let told = say.write_all(&verdict.map(u8::from));
        // Has the file open until the parent has seen what it wants to see.
        let ended = wait.read_to_end(&mut Vec::new());
        drop(kept);
        std::process::exit(i32::from(told.and(ended).is_err()));
    }
    drop((say, wait));
    let mut verdict = [0; 4];
    said.read_exact(&mut verdict).unwrap();
    assert_eq!(verdict, [1; 4], "write, flush and durable write refused; read carried out");
    // The child has dropped its copy of the disk. The lock is still ours, and we write on.
    let other = dir.open(name, Access::ReadWrite).unwrap();
    assert_eq!(Reason::of(&other.lock(LockWait::DoNotWait).unwrap_err()), Reason::WouldBlock);
    let mut found = [0; BLOCK];
    disk.read(BlockIndex::ZERO, &mut found).unwrap();
    assert_eq!(found, [1; BLOCK]);
    disk.write(BlockIndex::ZERO, &[3; BLOCK]).unwrap();
    disk.flush().unwrap();
    // Given up here, it is free, although the child has the file open.
    drop(disk);
    other.lock(LockWait::DoNotWait).unwrap();
    drop(go);
    let end = rustix::process::wait(rustix::process::WaitOptions::empty()).unwrap().unwrap().1;
    assert_eq!(end.exit_status(), Some(0));
}

#[test]
fn store_f7_fork_a_real_child_reads_and_neither_writes_nor_unlocks() {
    let scratch = need!(Scratch::new());
    let output = need!(child_test(FORKS, scratch.path())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A sparse image on a full file system.
#[test]
fn store_f6_hole_on_a_full_file_system_is_no_space_and_does_not_latch() {
    for (kind, size) in [(FsKind::Ext4, 16 << 20), (FsKind::Tmpfs, 4 << 20)] {
        let fs = need!(LoopFs::mount(kind, size));
        let here = dir(fs.root());
        let sparse = here.create_exclusive(OsStr::new("disk"), Mode::PRIVATE).unwrap();
        sparse.set_len(2 << 20).unwrap();
        drop(sparse);
        let disk = open_locked(&fs.root().join("disk")).unwrap();
        if kind == FsKind::Ext4 {
            assert_eq!(disk.has_holes(), Some(true));
        }
        disk.write(BlockIndex::new(3), &[3; BLOCK]).unwrap();
        disk.flush().unwrap();
        let filler = here.create_exclusive(OsStr::new("filler"), Mode::PRIVATE).unwrap();
        let mut offset = 0;
        for len in [1 << 20, 4096, 512] {
            while let Ok(taken) = filler.write_at(offset, &vec![7; len]) {
                offset += u64::try_from(taken).unwrap();
            }
        }
        filler.sync_all().unwrap();
        let at = BlockIndex::new(300);
        let mut refused = vec![disk.write(at, &[5; BLOCK])];
        disk.flush().unwrap();
        if disk.geometry().write_durable() {
            refused.push(disk.write_durable(at, &[5; BLOCK]));
        }
        for outcome in refused {
            assert_eq!(outcome.unwrap_err().kind(), DeviceErrorKind::NoSpace, "{kind:?}");
        }
        // What has its space is written as ever, and with room the hole too.
        disk.write(BlockIndex::new(3), &[4; BLOCK]).unwrap();
        disk.flush().unwrap();
        filler.set_len(0).unwrap();
        filler.sync_all().unwrap();
        disk.write(at, &[5; BLOCK]).unwrap();
        disk.flush().unwrap();
    }
}
