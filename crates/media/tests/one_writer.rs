//! `FileDisk` for its one writer: `open_locked`, and what becomes of a disk whose file is changed under it.

#![expect(
    clippy::unwrap_used,
    reason = "tests and their helpers: a panic is how they report, and clippy exempts only the former"
)]

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::sync::Arc;

use media::doubles::{FailNth, Lasting, Op, Recorder};
use media::{
    Access, BlockDevice as _, BlockIndex, BlockSize, DeviceError, DeviceErrorKind, DeviceOp, Dir, FileDisk,
    FileDiskError, Fs, Geometry, Holder, LockWait, Mode, OsFs, ProbeError,
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

    fn open_locked(&self, block_size: BlockSize<'_>) -> Result<FileDisk, FileDiskError> {
        FileDisk::open_locked(&*self.dir, name(), block_size)
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

// ---- open_locked

#[test]
fn store_f7_a_second_writer_is_held_before_anything_is_read() {
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let room = Room::on(fs);
    drop(room.disk());
    recorder.clear();
    let probe = |len: u64, read: &media::ReadAt<'_>| {
        assert_eq!(len, 32_768);
        let mut byte = [0];
        read(4096, &mut byte)?;
        assert_eq!(byte, [1]);
        Ok(Some(4096))
    };
    let first = room.open_locked(BlockSize::Probed(&probe)).unwrap();
    let expected = [
        "OpenDisk disk ReadWrite",
        "Metadata disk (handle)",
        "Lock disk DoNotWait",
        "DiskAlias disk",
        "AsDisk disk 512",
        "ReadAt disk @4096",
        "AsDisk disk 4096",
    ];
    assert_eq!(recorder.lines(|line| line), expected);
    assert_eq!((first.geometry().block_size(), first.geometry().block_count()), (BLOCK, 8));

    recorder.clear();
    let never =
        |_: u64, _: &media::ReadAt<'_>| -> Result<Option<u32>, ProbeError> { panic!("it was probed") };
    for block_size in [BlockSize::Is(4096), BlockSize::Probed(&never)] {
        let error = room.open_locked(block_size).unwrap_err();
        assert_eq!(error.kind(), DeviceErrorKind::Held);
        assert!(matches!(error, FileDiskError::Held { by: Holder::Lock }), "{error:?}");
    }
    assert_eq!(recorder.count(Op::ReadAt) + recorder.count(Op::AsDisk), 0);
    // What the second one did took nothing from the first.
    first.write(BlockIndex::ZERO, &[1; BLOCK]).unwrap();
    let third = room.dir.open(name(), Access::Read).unwrap();
    third.lock(LockWait::DoNotWait).unwrap_err();
    drop(first);
    third.lock(LockWait::DoNotWait).unwrap();
}

#[test]
fn store_f7_after_an_open_that_failed_the_lock_is_free() {
    let room = Room::new();
    drop(room.disk());
    let says = |answer: Result<Option<u32>, fn() -> ProbeError>| {
        move |_: u64, _: &media::ReadAt<'_>| answer.map_err(|why| why())
    };
    let none = says(Ok(None));
    let odd = says(Ok(Some(1000)));
    let too_long = says(Ok(Some(65_536)));
    let refuses = says(Err(|| ProbeError::Refused("two stores".into())));
    let unreadable = says(Err(|| ProbeError::Read(io::Error::from_raw_os_error(EIO))));
    let past_the_end = |len: u64, read: &media::ReadAt<'_>| {
        read(len - 2, &mut [0; 2])?;
        read(len - 1, &mut [0; 2])?;
        Ok(Some(4096))
    };
    let error = |probe: &media::Probe<'_>| {
        let error = room.open_locked(BlockSize::Probed(probe)).unwrap_err();
        drop(room.open_locked(BlockSize::Is(4096)).unwrap());
        error
    };
    assert!(matches!(error(&none), FileDiskError::NoBlockSize { len: 32_768 }));
    assert!(matches!(error(&odd), FileDiskError::BlockSize { block_size: 1000 }));
    assert!(matches!(error(&too_long), FileDiskError::Length { len: 32_768, block_size: 65_536 }));
    match error(&refuses) {
        FileDiskError::Refused { why } => assert_eq!(why.to_string(), "two stores"),
        other => panic!("{other:?}"),
    }
    assert_eq!(error(&unreadable).kind(), DeviceErrorKind::Io);
    assert!(matches!(error(&past_the_end), FileDiskError::Open { .. }));
    // And of lengths that no block fits.
    for len in [0, 511, 32_769] {
        room.set_len(len);
        for block_size in [BlockSize::Is(4096), BlockSize::Probed(&none)] {
            let error = room.open_locked(block_size).unwrap_err();
            assert!(matches!(error, FileDiskError::Length { len: found, .. } if found == len), "{error:?}");
        }
        let file = room.dir.open(name(), Access::Read).unwrap();
        file.lock(LockWait::DoNotWait).unwrap();
        // Not by closing it: a process that another test is starting has the descriptor too, for a moment.
        file.unlock().unwrap();
    }
}

/// The answer of a probe may need any bytes, and the handle may be past the page cache.
#[test]
fn store_f7_a_probe_reads_what_is_not_aligned() {
    let room = Room::new();
    drop(room.disk());
    let bytes: Vec<u8> = (0..=250).cycle().take(32_768).collect();
    std::fs::File::create(room.temp.path().join(name())).unwrap().write_all(&bytes).unwrap();
    let probe = |_: u64, read: &media::ReadAt<'_>| {
        for (offset, len) in [(0_usize, 1_usize), (511, 2), (4095, 2), (4000, 9000), (32_767, 1), (0, 32_768)]
        {
            let mut found = vec![0xEE; len];
            read(offset.try_into().unwrap(), &mut found)?;
            assert!(found == bytes[offset..offset + len], "{len} bytes at {offset}");
        }
        Ok(Some(512))
    };
    assert_eq!(room.open_locked(BlockSize::Probed(&probe)).unwrap().geometry().block_count(), 64);
}

#[test]
fn store_f7_a_created_disk_takes_the_same_lock() {
    let room = Room::new();
    let mut disk = room.disk();
    // Twice is once.
    disk.lock().unwrap();
    disk.lock().unwrap();
    assert!(matches!(room.open_locked(BlockSize::Is(4096)), Err(FileDiskError::Held { by: Holder::Lock })));
    assert!(disk.backing_file().is_none());
}

#[test]
#[cfg(unix)]
fn store_f7_a_link_to_a_file_or_to_anything_but_a_block_device_is_refused() {
    let room = Room::new();
    drop(room.disk());
    drop(room.dir.create_exclusive(OsStr::new("other"), Mode::PRIVATE).unwrap());
    for target in ["disk", "missing", "/dev/null", ".", "link"] {
        let link = room.temp.path().join("link");
        std::os::unix::fs::symlink(target, &link).unwrap();
        let error = FileDisk::open_locked(&*room.dir, OsStr::new("link"), BlockSize::Is(4096)).unwrap_err();
        assert!(matches!(error, FileDiskError::Link), "{target}: {error:?}");
        assert_eq!(error.kind(), DeviceErrorKind::Invalid);
        std::fs::remove_file(link).unwrap();
    }
    let missing = FileDisk::open_locked(&*room.dir, OsStr::new("missing"), BlockSize::Is(4096)).unwrap_err();
    assert!(matches!(missing, FileDiskError::Open { .. }), "{missing:?}");
    let pipe = room.temp.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let error = FileDisk::open_locked(&*room.dir, OsStr::new("pipe"), BlockSize::Is(4096)).unwrap_err();
    assert!(matches!(error, FileDiskError::NotRegular { .. }), "{error:?}");
}
