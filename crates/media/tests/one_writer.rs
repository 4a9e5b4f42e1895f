//! `FileDisk` for its one writer: what becomes of a disk whose file is changed under it.

#![expect(
    clippy::unwrap_used,
    reason = "tests and their helpers: a panic is how they report, and clippy exempts only the former"
)]

use std::ffi::OsStr;
use std::sync::Arc;

use media::doubles::{FailNth, Lasting, Op};
use media::{
    Access, BlockDevice as _, BlockIndex, DeviceError, DeviceErrorKind, DeviceOp, Dir, FileDisk, Fs, Geometry,
    OsFs,
};

const EIO: i32 = 5;
const ENOTSUP: i32 = 95;
const BLOCK: usize = 4096;

struct Room {
    temp: tempfile::TempDir,
    dir: Arc<dyn Dir>,
}

impl Room {
    fn on(fs: Arc<dyn Fs>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = fs.open_dir(temp.path()).unwrap();
        Self { temp, dir }
    }

    fn new() -> Self {
        Self::on(OsFs::shared())
    }

    /// Eight blocks of 4 KiB; block `n` is full of the byte `n`.
    fn disk(&self) -> FileDisk {
        let disk = FileDisk::create(&*self.dir, name(), Geometry::new(4096, 8).unwrap()).unwrap();
        for n in 0..8_u8 {
            disk.write(BlockIndex::new(n.into()), &[n; BLOCK]).unwrap();
        }
        disk.flush().unwrap();
        disk
    }

    fn set_len(&self, len: u64) {
        let path = self.temp.path().join(name());
        std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
    }

    fn len(&self) -> u64 {
        std::fs::metadata(self.temp.path().join(name())).unwrap().len()
    }

}

fn name() -> &'static OsStr {
    OsStr::new("disk")
}

fn is_latched(disk: &FileDisk, words: &str) {
    let plain = disk.write(BlockIndex::new(1), &[9; BLOCK]);
    let mut outcomes = vec![plain, disk.flush()];
    if disk.geometry().write_durable() {
        outcomes.push(disk.write_durable(BlockIndex::new(1), &[9; BLOCK]));
    }
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        let DeviceError::Poisoned { cause, .. } = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains(words), "{cause}");
    }
}

// ---- the file becomes shorter

#[test]
fn store_f6_truncated_while_open_every_barrier_says_so_with_both_lengths_and_latches() {
    for len in [0, 1, 4096, 32_767] {
        for operation in [DeviceOp::Flush, DeviceOp::WriteDurable] {
            let room = Room::new();
            let disk = room.disk();
            if operation == DeviceOp::WriteDurable && !disk.geometry().write_durable() {
                continue;
            }
            room.set_len(len);
            let at = BlockIndex::ZERO;
            let outcome = match operation {
                DeviceOp::Flush => disk.flush(),
                _ => disk.write_durable(at, &[7; BLOCK]),
            };
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), DeviceErrorKind::Poisoned);
            let len = room.len();
            match error {
                DeviceError::Shortened { operation: by, len: found, expected } => {
                    assert_eq!((by, found, expected), (operation, len, 32_768));
                }
                other => panic!("{other:?}"),
            }
            is_latched(&disk, &format!("len={len} expected=32768"));
        }
    }
}

/// The length is right again, and the blocks are gone: once noticed, it is not forgotten.
#[test]
fn store_f6_truncated_then_extended_stays_latched_once_it_was_noticed() {
    let room = Room::new();
    let disk = room.disk();
    room.set_len(4096);
    disk.flush().unwrap_err();
    room.set_len(32_768);
    is_latched(&disk, "len=4096 expected=32768");
    // Reads go on, and a new disk is a new conversation.
    disk.read(BlockIndex::ZERO, &mut [1; BLOCK]).unwrap();
    let again = FileDisk::open(room.dir.open(name(), Access::ReadWrite).unwrap(), 4096).unwrap();
    again.write(BlockIndex::ZERO, &[1; BLOCK]).unwrap();
    again.flush().unwrap();
    assert_eq!(again.has_holes(), disk.has_holes().map(|_| true), "what the cut left");
}

/// That write alone would give the file its length back.
#[test]
fn store_f6_truncated_and_the_last_block_written_is_noticed_before_the_write() {
    for operation in [DeviceOp::Write, DeviceOp::WriteDurable] {
        let room = Room::new();
        let disk = room.disk();
        if operation == DeviceOp::WriteDurable && !disk.geometry().write_durable() {
            continue;
        }
        room.set_len(4096);
        let at = BlockIndex::new(6);
        let outcome = match operation {
            DeviceOp::Write => disk.write(at, &[7; 2 * BLOCK]),
            _ => disk.write_durable(at, &[7; 2 * BLOCK]),
        };
        let error = outcome.unwrap_err();
        assert!(matches!(error, DeviceError::Shortened { len: 4096, expected: 32_768, .. }), "{error:?}");
        assert_eq!(room.len(), 4096, "nothing was written");
        is_latched(&disk, "len=4096");
    }
}

#[test]
fn store_f6_a_file_that_has_grown_is_still_the_disk() {
    let room = Room::new();
    let disk = room.disk();
    room.set_len(1 << 20);
    disk.write(BlockIndex::new(7), &[7; BLOCK]).unwrap();
    disk.flush().unwrap();
    assert_eq!(disk.geometry().byte_len(), 32_768);
}

#[test]
fn store_f6_a_length_that_is_not_told_after_a_barrier_is_a_failed_barrier() {
    let (_, fs) = FailNth::new(1, EIO).only(Op::Metadata).over(OsFs::shared());
    let room = Room::on(fs);
    // The write of the last block looks at the length first (call 0), the flush afterwards (call 1).
    let disk = FileDisk::create(&*room.dir, name(), Geometry::new(4096, 8).unwrap()).unwrap();
    disk.write(BlockIndex::new(7), &[7; BLOCK]).unwrap();
    let error = disk.flush().unwrap_err();
    assert!(matches!(error, DeviceError::FlushFailed { .. }), "{error:?}");
    is_latched(&disk, "os error 5");
}

// ---- holes

#[test]
#[cfg(target_os = "linux")]
fn store_f6_holes_are_told_and_a_created_disk_has_none() {
    let room = Room::new();
    assert_eq!(room.disk().has_holes(), Some(false));
    let open = || FileDisk::open(room.dir.open_disk(name(), Access::ReadWrite).unwrap(), 4096).unwrap();
    assert_eq!(open().has_holes(), Some(false));
    // One block of hole is a hole.
    room.set_len(28_672);
    room.set_len(32_768);
    assert_eq!(open().has_holes(), Some(true));
    open().write(BlockIndex::new(7), &[7; BLOCK]).unwrap();
    open().flush().unwrap();
    assert_eq!(open().has_holes(), Some(false));
}

#[test]
fn store_f6_holes_are_unknown_where_the_file_does_not_say() {
    let (_, fs) = FailNth::new(0, ENOTSUP).only(Op::AsDisk).lasting(Lasting::Forever).over(OsFs::shared());
    assert_eq!(Room::on(fs).disk().has_holes(), None);
}
