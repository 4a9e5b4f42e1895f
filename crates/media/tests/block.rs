//! The block seam: geometry, `MemDisk`, and `FileDisk` call by call.

#![expect(
    clippy::unwrap_used,
    reason = "tests and their helpers: a panic is how they report, and clippy exempts only the former"
)]

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use media::conformance::{block_device, born_zeroed};
use media::doubles::{Call, FailNth, Lasting, Listener, Op, Recorder, ShortWrites, TapFs, When};
use media::{
    Access, Alignment, BlockDevice, BlockIndex, CreateStep, DeviceCause, DeviceError, DeviceErrorKind,
    DeviceOp, Dir, DiskFacts, DiskMedium, DiskMode, File, FileDisk, FileDiskError, Fs, Geometry, Leftover,
    LockWait, MemDisk, Metadata, Mode, OsFs, Owner, Reason,
};

// Linux's numbers; the doubles hand them out as the system would.
const EINTR: i32 = 4;
const EIO: i32 = 5;
const EBADF: i32 = 9;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const ENOTSUP: i32 = 95;
const EDQUOT: i32 = 122;
const CODES: [i32; 8] = [EIO, ENOSPC, EACCES, EROFS, EDQUOT, EINTR, ENOTSUP, EBADF];

const NAME: &str = "disk";

/// How many checks the suite of the seam has.
const CHECKS: usize = 17;

fn name() -> &'static OsStr {
    OsStr::new(NAME)
}

fn geometry(block_size: u32, block_count: u64) -> Geometry {
    Geometry::new(block_size, block_count).unwrap()
}

/// 17 blocks: one more than the zero-writing loop writes in one call.
fn two_chunks() -> Geometry {
    geometry(4096, 17)
}

/// A directory of its own, and the file system that `wrap` puts over the real one.
struct Room {
    temp: tempfile::TempDir,
    dir: Arc<dyn Dir>,
}

impl Room {
    fn new() -> Self {
        Self::on(OsFs::shared())
    }

    /// Through the page cache, wherever the directory is.
    fn buffered(fs: Arc<dyn Fs>) -> Self {
        Self::on(FailNth::new(0, ENOTSUP).only(Op::AsDisk).lasting(Lasting::Forever).over(fs).1)
    }

    fn on(fs: Arc<dyn Fs>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = fs.open_dir(temp.path()).unwrap();
        Self { temp, dir }
    }

    fn create(&self, geometry: Geometry) -> Result<FileDisk, FileDiskError> {
        FileDisk::create(&*self.dir, name(), geometry)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.temp.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.temp.path().join(NAME)).unwrap()
    }
}

fn recorded() -> (Arc<Recorder>, Room) {
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let room = Room::on(fs);
    recorder.clear();
    (recorder, room)
}

fn lines(recorder: &Recorder) -> Vec<String> {
    let lines = recorder.lines(|line| line);
    recorder.clear();
    lines
}

fn block(fill: u8, geometry: Geometry) -> Vec<u8> {
    vec![fill; geometry.block_size()]
}

// ---- conformance

#[test]
fn mem_disk_conforms() {
    assert_eq!(block_device(|wish| MemDisk::new(wish).unwrap()), CHECKS);
    assert_eq!(block_device(|wish| MemDisk::new(wish.with_write_durable()).unwrap()), CHECKS);
    assert_eq!(born_zeroed(|wish| MemDisk::new(wish).unwrap()), 1);
}

#[test]
fn a_borrowed_disk_conforms() {
    let disk = MemDisk::new(geometry(1024, 6).with_write_durable().with_torn_blocks()).unwrap();
    assert_eq!(block_device(|_| &disk), CHECKS);
    let shared = Arc::new(disk.clone());
    assert_eq!(block_device(|_| Arc::clone(&shared)), CHECKS);
    let borrowed = &disk;
    assert!(BlockDevice::geometry(&borrowed).torn_blocks());
}

#[test]
fn file_disk_conforms() {
    let made = std::cell::Cell::new(0);
    let room = Room::new();
    let make = |wish: Geometry| {
        made.set(made.get() + 1);
        FileDisk::create(&*room.dir, OsStr::new(&format!("disk{}", made.get())), wish).unwrap()
    };
    assert_eq!(block_device(make), CHECKS);
    assert_eq!(born_zeroed(make), 1);
}

#[test]
fn a_file_disk_that_is_written_a_few_bytes_at_a_time_conforms() {
    // Not a divisor of any block size.
    let fs = TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max: 4999 }));
    let made = std::cell::Cell::new(0);
    let room = Room::buffered(fs);
    block_device(|wish| {
        made.set(made.get() + 1);
        FileDisk::create(&*room.dir, OsStr::new(&format!("disk{}", made.get())), wish).unwrap()
    });
}

// ---- geometry

#[test]
fn a_block_size_is_a_power_of_two_from_512_to_65536() {
    for good in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        assert_eq!(u32::try_from(geometry(good, 1).block_size()).unwrap(), good);
    }
    for bad in [0, 1, 256, 511, 513, 1023, 4095, 4097, 65535, 65537, 131_072, 1 << 31, u32::MAX] {
        let error = Geometry::new(bad, 1).unwrap_err();
        assert!(
            matches!(error, DeviceError::InvalidBlockSize { block_size } if block_size == bad),
            "{error:?}"
        );
        assert_eq!(error.kind(), DeviceErrorKind::Invalid);
    }
}

#[test]
fn a_device_has_at_least_one_block_and_its_size_fits_a_u64() {
    assert!(matches!(Geometry::new(512, 0), Err(DeviceError::NoBlocks)));
    assert_eq!(geometry(512, 1).byte_len(), 512);
    for (block_size, count_max) in [(512, (1_u64 << 55) - 1), (65_536, (1 << 48) - 1)] {
        for good in [count_max - 1, count_max] {
            assert_eq!(geometry(block_size, good).byte_len(), good * u64::from(block_size));
        }
        let error = Geometry::new(block_size, count_max + 1).unwrap_err();
        assert!(matches!(error, DeviceError::TooLarge { .. }), "{error:?}");
    }
}

#[test]
fn flags_are_off_until_asked_for_and_do_not_touch_each_other() {
    let plain = geometry(512, 8);
    assert!(!plain.torn_blocks() && !plain.write_durable());
    let torn = plain.with_torn_blocks();
    assert!(torn.torn_blocks() && !torn.write_durable());
    let durable = plain.with_write_durable();
    assert!(!durable.torn_blocks() && durable.write_durable());
    assert_eq!((torn.block_size(), torn.block_count()), (512, 8));
    assert_ne!(torn, durable);
}

#[test]
fn locate_answers_at_every_bound() {
    let shape = geometry(512, 8);
    for (at, len, offset) in
        [(0, 0, 0), (0, 512, 0), (0, 4096, 0), (7, 512, 3584), (1, 3584, 512), (8, 0, 4096)]
    {
        assert_eq!(shape.locate(BlockIndex::new(at), len).unwrap(), offset, "at={at} len={len}");
    }
    for (at, len) in [(8, 512), (7, 1024), (1, 4096), (0, 4608), (9, 0), (u64::MAX, 0), (u64::MAX, 512)] {
        let error = shape.locate(BlockIndex::new(at), len).unwrap_err();
        assert!(matches!(error, DeviceError::OutOfRange { .. }), "at={at} len={len}: {error:?}");
    }
    for len in [1, 511, 513, 4095, 4097, usize::MAX] {
        let error = shape.locate(BlockIndex::ZERO, len).unwrap_err();
        assert!(matches!(error, DeviceError::Misaligned { .. }), "len={len}: {error:?}");
    }
    // The greatest device there is: offsets up to the end of a u64.
    let vast = geometry(512, (1 << 55) - 1);
    assert_eq!(vast.locate(BlockIndex::new((1 << 55) - 2), 512).unwrap(), u64::MAX - 1023);
    assert!(vast.locate(BlockIndex::new((1 << 55) - 1), 512).is_err());
    assert!(vast.locate(BlockIndex::new(1 << 55), 512).is_err());
}

#[test]
fn a_block_index_does_not_wrap() {
    assert_eq!(BlockIndex::new(3).checked_add(4), Some(BlockIndex::new(7)));
    assert_eq!(BlockIndex::new(u64::MAX - 1).checked_add(1).map(BlockIndex::get), Some(u64::MAX));
    assert_eq!(BlockIndex::new(u64::MAX).checked_add(1), None);
    assert_eq!(BlockIndex::new(12).to_string(), "12");
}

// ---- MemDisk

#[test]
fn a_mem_disk_is_bounded() {
    let count_max = MemDisk::LEN_MAX / 65_536;
    for good in [count_max - 1, count_max] {
        assert_eq!(MemDisk::new(geometry(65_536, good)).unwrap().geometry().block_count(), good);
    }
    for bad in [geometry(65_536, count_max + 1), geometry(512, (1 << 55) - 1)] {
        let error = MemDisk::new(bad).unwrap_err();
        assert!(matches!(error, DeviceError::TooLarge { len_max: MemDisk::LEN_MAX, .. }), "{error:?}");
    }
}

#[test]
fn clones_of_a_mem_disk_share_its_bytes_across_threads() {
    let disk = MemDisk::new(geometry(512, 4)).unwrap();
    let other = disk.clone();
    std::thread::spawn(move || other.write(BlockIndex::new(2), &[7; 512]).unwrap()).join().unwrap();
    let mut bytes = [0; 512];
    disk.read(BlockIndex::new(2), &mut bytes).unwrap();
    assert_eq!(bytes, [7; 512]);
}

#[test]
fn a_mem_disk_goes_to_an_image_and_back() {
    let shape = geometry(512, 2);
    let disk = MemDisk::new(shape).unwrap();
    disk.write(BlockIndex::new(1), &[9; 512]).unwrap();
    let image = disk.image().unwrap();
    assert_eq!(image, [[0; 512], [9; 512]].concat());
    disk.write(BlockIndex::new(1), &[1; 512]).unwrap();
    assert_eq!(MemDisk::from_image(shape, image.clone()).unwrap().image().unwrap(), image);
    for len in [1023, 1025] {
        let error = MemDisk::from_image(shape, vec![0; len]).unwrap_err();
        assert!(matches!(error, DeviceError::WrongImageLength { .. }), "{error:?}");
    }
}

// ---- FileDisk: the order of calls

#[test]
fn create_writes_every_byte_then_syncs_the_file_then_its_name() {
    let (recorder, room) = recorded();
    room.create(geometry(512, 8)).unwrap();
    let expected = [
        "CreateExclusive disk 0600",
        "Allocate disk 4096",
        "WriteAt disk @0+4096",
        "SyncAll disk",
        "DirSync .",
        "AsDisk disk 512",
    ];
    assert_eq!(lines(&recorder), expected);
    assert_eq!(room.bytes(), vec![0; 4096]);
}

#[test]
fn create_writes_a_large_disk_in_chunks_and_to_its_end() {
    let (recorder, room) = recorded();
    room.create(two_chunks()).unwrap();
    let expected = [
        "CreateExclusive disk 0600",
        "Allocate disk 69632",
        "WriteAt disk @0+65536",
        "WriteAt disk @65536+4096",
        "SyncAll disk",
        "DirSync .",
        "AsDisk disk 4096",
    ];
    assert_eq!(lines(&recorder), expected);
    assert_eq!(room.bytes(), vec![0; 69_632]);
}

#[test]
fn a_created_disk_is_private_to_its_owner() {
    let room = Room::new();
    let disk = room.create(geometry(512, 8)).unwrap();
    assert_eq!(disk.file().metadata().unwrap().mode, Mode::PRIVATE);
}

#[test]
fn a_write_is_one_call_and_a_flush_is_one_data_barrier() {
    let (recorder, room) = recorded();
    let disk = room.create(geometry(4096, 8)).unwrap();
    recorder.clear();
    disk.write(BlockIndex::new(3), &[1; 8192]).unwrap();
    assert_eq!(lines(&recorder), ["WriteAt disk @12288+8192"]);
    disk.flush().unwrap();
    // The look at the length: a file that was cut must not be told durable.
    assert_eq!(lines(&recorder), ["SyncData disk", "Metadata disk (handle)"]);
    let mut bytes = [0; 4096];
    disk.read(BlockIndex::new(4), &mut bytes).unwrap();
    assert_eq!(lines(&recorder), ["ReadAt disk @16384"]);
    disk.mark("after_prepare");
    disk.write(BlockIndex::ZERO, &[]).unwrap();
    assert_eq!(lines(&recorder), [""; 0]);
}

#[test]
fn requests_that_are_refused_reach_no_file() {
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let room = Room::buffered(fs);
    let disk = room.create(geometry(4096, 8)).unwrap();
    recorder.clear();
    disk.write(BlockIndex::new(8), &[1; 4096]).unwrap_err();
    disk.write(BlockIndex::ZERO, &[1; 4095]).unwrap_err();
    disk.read(BlockIndex::new(7), &mut [0; 8192]).unwrap_err();
    disk.write_durable(BlockIndex::ZERO, &[1; 4096]).unwrap_err();
    assert_eq!(lines(&recorder), [""; 0]);
}

#[test]
fn a_short_write_goes_on_where_it_stopped() {
    let short = TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max: 2000 }));
    let (recorder, fs) = Recorder::over(short);
    let room = Room::buffered(fs);
    let disk = room.create(geometry(4096, 4)).unwrap();
    recorder.clear();
    let bytes: Vec<u8> = (0..=255).cycle().take(4096).collect();
    disk.write(BlockIndex::new(1), &bytes).unwrap();
    let expected = ["WriteAt disk @4096+4096", "WriteAt disk @6096+2096", "WriteAt disk @8096+96"];
    assert_eq!(lines(&recorder), expected);
    assert_eq!(room.bytes()[4096..8192], bytes);
}

#[test]
fn a_file_that_takes_nothing_is_an_error_and_no_endless_loop() {
    let room = Room::on(TapFs::shared(OsFs::shared(), Arc::new(ShortWrites { len_max: 0 })));
    let error = room.create(geometry(4096, 4)).unwrap_err();
    assert!(matches!(error, FileDiskError::Create { step: CreateStep::Zero, .. }), "{error:?}");
    assert_eq!(room.names(), [""; 0]);
}

// ---- FileDisk: create fails at every call

/// What a failing creation came to.
/// Call 0 is the opening of the directory.
fn failing_create(fail: FailNth) -> (Option<Op>, Room, Result<FileDisk, FileDiskError>) {
    let (failing, fs) = fail.over(OsFs::shared());
    let room = Room::on(fs);
    let outcome = room.create(two_chunks());
    (failing.failed().map(|call| call.op), room, outcome)
}

fn step_of(op: Op) -> CreateStep {
    match op {
        Op::CreateExclusive => CreateStep::Name,
        Op::Allocate => CreateStep::Reserve,
        Op::WriteAt => CreateStep::Zero,
        Op::SyncAll => CreateStep::SyncFile,
        Op::DirSync => CreateStep::SyncDir,
        Op::AsDisk => CreateStep::AsDisk,
        other => panic!("create has no step {other:?}"),
    }
}

fn kind_of(code: i32) -> DeviceErrorKind {
    match code {
        ENOSPC | EDQUOT => DeviceErrorKind::NoSpace,
        EACCES | EROFS => DeviceErrorKind::Denied,
        ENOTSUP => DeviceErrorKind::Unsupported,
        _ => DeviceErrorKind::Io,
    }
}

fn reason_of(code: i32) -> Reason {
    Reason::of(&io::Error::from_raw_os_error(code))
}

/// Takes a create error apart after checking what holds for all: its cause is the injected one, and it is the
/// source of the error.
fn create_error(error: FileDiskError, code: i32) -> (CreateStep, Leftover) {
    assert_eq!(error.kind(), kind_of(code), "{error:?}");
    let source = error.source().and_then(|source| source.downcast_ref::<DeviceCause>()).unwrap();
    assert_eq!(source.io_error().unwrap().raw_os_error(), Some(code));
    match error {
        FileDiskError::Create { step, leftover, cause } => {
            assert_eq!(cause.reason(), reason_of(code));
            (step, leftover)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn create_that_fails_at_any_call_says_which_and_leaves_no_file() {
    for code in CODES {
        let mut failures = 0;
        for nth in 1.. {
            let (failed, room, outcome) = failing_create(FailNth::new(nth, code));
            let Some(op) = failed else {
                outcome.unwrap();
                break;
            };
            failures += 1;
            if op == Op::Allocate && code == ENOTSUP {
                outcome.unwrap();
                assert_eq!(room.bytes(), vec![0; 69_632], "nothing was reserved, everything was written");
                continue;
            }
            if op == Op::AsDisk && code == ENOTSUP {
                assert_eq!(outcome.unwrap().mode().to_string(), "file, buffered");
                continue;
            }
            let (step, leftover) = create_error(outcome.unwrap_err(), code);
            assert_eq!(step, step_of(op), "code={code} nth={nth}");
            assert_eq!(room.names(), [""; 0], "code={code} nth={nth}: a file was left behind");
            match (step, leftover) {
                (CreateStep::Name, Leftover::Unknown) => assert!([EIO, EINTR, EBADF].contains(&code)),
                (CreateStep::Name, Leftover::Unchanged) => assert!(![EIO, EINTR, EBADF].contains(&code)),
                (CreateStep::SyncDir, Leftover::RemovedNotDurable { cleanup }) => {
                    assert_eq!(cleanup.reason(), reason_of(code));
                }
                (
                    CreateStep::Reserve | CreateStep::Zero | CreateStep::SyncFile | CreateStep::AsDisk,
                    Leftover::Removed,
                ) => {}
                (step, leftover) => panic!("code={code}: {step:?} left {leftover:?}"),
            }
        }
        assert_eq!(failures, 7, "code={code}: create, allocate, two writes, two barriers, the look");
    }
}

#[test]
fn create_whose_calls_take_place_and_are_reported_failed_leaves_no_file() {
    for code in [EIO, EINTR] {
        for nth in 1..=7 {
            let (failed, room, outcome) = failing_create(FailNth::new(nth, code).when(When::After));
            let op = failed.unwrap();
            let (step, leftover) = create_error(outcome.unwrap_err(), code);
            assert_eq!(step, step_of(op));
            if step == CreateStep::Name {
                // It is there, but nobody told us that it is ours.
                assert!(matches!(leftover, Leftover::Unknown), "{leftover:?}");
                assert_eq!(room.names(), [NAME]);
            } else {
                assert_eq!(room.names(), [""; 0], "code={code} nth={nth}: a file was left behind");
            }
        }
    }
}

#[test]
fn create_whose_cleanup_fails_too_says_so() {
    for code in CODES {
        for nth in 2..=7 {
            let (failed, room, outcome) = failing_create(FailNth::new(nth, code).lasting(Lasting::Forever));
            let op = failed.unwrap();
            let error = outcome.unwrap_err();
            let text = error.to_string();
            let (step, leftover) = create_error(error, code);
            if code == ENOTSUP && op == Op::Allocate {
                assert_eq!(step, CreateStep::Zero);
            } else {
                assert_eq!(step, step_of(op));
            }
            match leftover {
                Leftover::Left { cleanup } => assert_eq!(cleanup.reason(), reason_of(code)),
                other => panic!("code={code} nth={nth}: {other:?}"),
            }
            assert!(text.contains("still there"), "{text}");
            assert_eq!(room.names(), [NAME]);
        }
    }
}

#[test]
fn a_removal_that_is_not_durable_is_reported_as_such() {
    // The file barrier fails, and so does the directory barrier of the cleanup.
    let (_, no_dir_sync) =
        FailNth::new(0, ENOSPC).only(Op::DirSync).lasting(Lasting::Forever).over(OsFs::shared());
    let (_, fs) = FailNth::new(0, EIO).only(Op::SyncAll).over(no_dir_sync);
    let room = Room::on(fs);
    let (step, leftover) = create_error(room.create(two_chunks()).unwrap_err(), EIO);
    assert_eq!(step, CreateStep::SyncFile);
    match leftover {
        Leftover::RemovedNotDurable { cleanup } => assert_eq!(cleanup.reason(), Reason::DiskFull),
        other => panic!("{other:?}"),
    }
    assert_eq!(room.names(), [""; 0]);
}

#[test]
fn the_removal_of_a_half_made_disk_is_synced() {
    let (_, failing) = FailNth::new(1, ENOSPC).only(Op::WriteAt).over(OsFs::shared());
    let (recorder, fs) = Recorder::over(failing);
    let room = Room::on(fs);
    recorder.clear();
    room.create(two_chunks()).unwrap_err();
    let expected = [
        "CreateExclusive disk 0600",
        "Allocate disk 69632",
        "WriteAt disk @0+65536",
        "WriteAt disk @65536+4096",
        "Unlink disk",
        "DirSync .",
    ];
    assert_eq!(lines(&recorder), expected);
}

#[test]
fn a_directory_barrier_that_failed_is_not_repeated() {
    let (_, failing) = FailNth::new(0, EIO).only(Op::DirSync).over(OsFs::shared());
    let (recorder, fs) = Recorder::over(failing);
    let room = Room::on(fs);
    recorder.clear();
    room.create(geometry(512, 8)).unwrap_err();
    let tail = ["SyncAll disk", "DirSync .", "Unlink disk"];
    assert_eq!(lines(&recorder)[3..], tail);
}

#[test]
fn create_does_not_touch_anothers_file() {
    let room = Room::new();
    std::fs::File::create(room.temp.path().join(NAME)).unwrap().write_all(b"mine").unwrap();
    let error = room.create(geometry(512, 8)).unwrap_err();
    assert_eq!(error.kind(), DeviceErrorKind::Exists);
    assert!(matches!(
        error,
        FileDiskError::Create { step: CreateStep::Name, leftover: Leftover::Unchanged, .. }
    ));
    assert_eq!(room.bytes(), b"mine");
}

// ---- FileDisk: the latch

#[test]
fn a_failed_flush_latches_and_keeps_the_first_cause() {
    for code in CODES {
        let (_, failing) = FailNth::new(1, code).only(Op::SyncData).over(OsFs::shared());
        let (recorder, fs) = Recorder::over(failing);
        let room = Room::on(fs);
        let disk = room.create(geometry(512, 8)).unwrap();
        let shape = disk.geometry();
        disk.write(BlockIndex::ZERO, &block(1, shape)).unwrap();
        disk.flush().unwrap();
        disk.write(BlockIndex::new(1), &block(2, shape)).unwrap();
        recorder.clear();

        let error = disk.flush().unwrap_err();
        assert!(matches!(error, DeviceError::FlushFailed { .. }), "{error:?}");
        assert_eq!(error.kind(), DeviceErrorKind::Poisoned);
        assert_eq!(error.cause().unwrap().reason(), reason_of(code));

        // The next sync would succeed: nobody must hear of it.
        for (refused, outcome) in [
            (DeviceOp::Flush, disk.flush()),
            (DeviceOp::Write, disk.write(BlockIndex::new(1), &block(3, shape))),
            (DeviceOp::Flush, disk.flush()),
        ] {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), DeviceErrorKind::Poisoned);
            match error {
                DeviceError::Poisoned { operation, cause } => {
                    assert_eq!((operation, cause.reason()), (refused, reason_of(code)));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(lines(&recorder), ["SyncData disk"], "what is refused reaches no file");

        let mut bytes = block(0, shape);
        disk.read(BlockIndex::new(1), &mut bytes).unwrap();
        assert_eq!(bytes, block(2, shape), "reads go on");

        // A new handle on the file is a new conversation.
        let again = FileDisk::open(room.dir.open(name(), Access::ReadWrite).unwrap(), 512).unwrap();
        again.write(BlockIndex::new(1), &block(4, shape)).unwrap();
        again.flush().unwrap();
    }
}

/// Holds the first `SyncData` open until a call of `until` begins beside it, for `at_most` so long, and then
/// fails it. Every other call is carried out, a second `SyncData` too: as the kernel does, which tells one
/// caller of a loss and the next one `Ok`.
#[derive(Debug)]
struct HoldFirstSync {
    until: Op,
    at_most: Duration,
    /// What has begun since the first sync did, that one included.
    begun: Mutex<Vec<Op>>,
    /// What of it had begun when the hold ended.
    during: Mutex<Vec<Op>>,
    changed: Condvar,
}

impl HoldFirstSync {
    fn new(until: Op, at_most: Duration) -> Arc<Self> {
        let (begun, during) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Arc::new(Self { until, at_most, begun, during, changed: Condvar::new() })
    }

    /// Waits until `arrived` holds of what has begun, and returns what has by then.
    fn wait(&self, at_most: Duration, arrived: impl Fn(&[Op]) -> bool) -> Vec<Op> {
        let begun = self.begun.lock().unwrap();
        self.changed.wait_timeout_while(begun, at_most, |begun| !arrived(begun)).unwrap().0.clone()
    }
}

impl Listener for HoldFirstSync {
    fn before(&self, call: &Call) -> io::Result<()> {
        let mut begun = self.begun.lock().unwrap();
        if begun.is_empty() && call.op != Op::SyncData {
            return Ok(());
        }
        begun.push(call.op);
        self.changed.notify_all();
        if begun.len() > 1 {
            return Ok(());
        }
        drop(begun);
        *self.during.lock().unwrap() = self.wait(self.at_most, |begun| begun[1..].contains(&self.until));
        Err(io::Error::from_raw_os_error(EIO))
    }
}

#[test]
fn a_flush_that_arrives_while_another_fails_does_not_succeed() {
    // Long enough for the second thread to get there if nothing keeps it out.
    let held = HoldFirstSync::new(Op::SyncData, Duration::from_millis(300));
    let room = Room::on(TapFs::shared(OsFs::shared(), Arc::<HoldFirstSync>::clone(&held)));
    let disk = room.create(geometry(512, 8)).unwrap();
    disk.write(BlockIndex::ZERO, &[1; 512]).unwrap();
    let outcomes = std::thread::scope(|scope| {
        let flushes = [scope.spawn(|| disk.flush()), scope.spawn(|| disk.flush())];
        flushes.map(|flush| flush.join().unwrap())
    });
    let failed =
        outcomes.iter().filter(|flush| matches!(flush, Err(DeviceError::FlushFailed { .. }))).count();
    let refused = outcomes.iter().filter(|flush| matches!(flush, Err(DeviceError::Poisoned { .. }))).count();
    assert_eq!((failed, refused), (1, 1), "{outcomes:?}");
    assert_eq!(held.wait(Duration::ZERO, |_| true), [Op::SyncData], "the second flush reached the file");
}

#[test]
fn a_write_does_not_wait_for_a_flush() {
    let limit = Duration::from_secs(10);
    let held = HoldFirstSync::new(Op::WriteAt, limit);
    let room = Room::on(TapFs::shared(OsFs::shared(), Arc::<HoldFirstSync>::clone(&held)));
    let disk = room.create(geometry(512, 8)).unwrap();
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| disk.flush());
        held.wait(limit, |begun| !begun.is_empty());
        disk.write(BlockIndex::ZERO, &[1; 512]).unwrap();
        flush.join().unwrap().unwrap_err();
    });
    let during_the_flush = held.during.lock().unwrap().clone();
    assert_eq!(during_the_flush, [Op::SyncData, Op::WriteAt], "the write waited for the flush");
}

#[test]
fn a_failed_write_names_its_blocks_and_does_not_latch() {
    for code in CODES {
        let (_, fs) = FailNth::new(1, code).only(Op::WriteAt).over(OsFs::shared());
        let room = Room::on(fs);
        let disk = room.create(geometry(512, 8)).unwrap();
        let error = disk.write(BlockIndex::new(5), &[1; 1024]).unwrap_err();
        assert_eq!(error.kind(), kind_of(code));
        assert!(error.source().is_some());
        match error {
            DeviceError::Io { operation, at, len, cause } => {
                assert_eq!((operation, at.get(), len), (DeviceOp::Write, 5, 1024));
                assert_eq!(cause.reason(), reason_of(code));
            }
            other => panic!("{other:?}"),
        }
        disk.write(BlockIndex::new(5), &[1; 1024]).unwrap();
        disk.flush().unwrap();
    }
}

#[test]
fn a_failed_read_is_an_error_and_not_an_end() {
    let (_, fs) = FailNth::new(0, EIO).only(Op::ReadAt).over(OsFs::shared());
    let room = Room::on(fs);
    let disk = room.create(geometry(512, 8)).unwrap();
    let error = disk.read(BlockIndex::new(2), &mut [0; 512]).unwrap_err();
    assert!(matches!(error, DeviceError::Io { operation: DeviceOp::Read, .. }), "{error:?}");
    assert_eq!(error.kind(), DeviceErrorKind::Io);
}

#[test]
fn a_file_that_has_become_shorter_is_an_error_and_not_zeros() {
    let room = Room::new();
    let disk = room.create(geometry(512, 8)).unwrap();
    disk.file().set_len(512 * 3 + 100).unwrap();
    disk.read(BlockIndex::new(2), &mut [0; 512]).unwrap();
    for index in [3, 4] {
        let error = disk.read(BlockIndex::new(index), &mut [0; 512]).unwrap_err();
        assert!(matches!(error, DeviceError::Io { operation: DeviceOp::Read, .. }), "{error:?}");
        assert!(error.cause().unwrap().to_string().contains("shorter"));
    }
}

/// A file that gives at most `read_len_max` bytes per read, as a file system over a network may, and, with an alignment,
/// takes nothing but aligned requests, as one does past the page cache. Knows its calls.
#[derive(Debug)]
struct Picky {
    inner: Arc<dyn File>,
    read_len_max: usize,
    direct: Option<Alignment>,
    /// What durable writes fail with, after they have taken place.
    durable_fails: Option<i32>,
    /// A sync waits for another call beside it, so long at most, and then fails.
    sync_hangs: Option<Duration>,
    calls: Mutex<Vec<String>>,
    called: Condvar,
}

impl Picky {
    fn over(inner: Arc<dyn File>) -> Self {
        Self {
            inner,
            read_len_max: usize::MAX,
            direct: None,
            durable_fails: None,
            sync_hangs: None,
            calls: Mutex::new(Vec::new()),
            called: Condvar::new(),
        }
    }

    /// A disk of that many blocks of 512 bytes, and the file it is in.
    fn disk(
        room: &Room,
        blocks: u64,
        direct: Alignment,
        durable_fails: Option<i32>,
    ) -> (Arc<Self>, FileDisk) {
        room.create(geometry(512, blocks)).unwrap();
        // A handle of its own that goes through the page cache.
        let inner = room.dir.open(name(), Access::ReadWrite).unwrap();
        let file = Arc::new(Self { direct: Some(direct), durable_fails, ..Self::over(inner) });
        let disk = FileDisk::open(Arc::<Self>::clone(&file), 512).unwrap();
        (file, disk)
    }

    fn heard(&self, call: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.calls.lock().unwrap().push(format!("{call} @{offset}+{}", bytes.len()));
        self.called.notify_all();
        let Some(Alignment { memory, offset: step }) = self.direct else { return Ok(()) };
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(memory.try_into().unwrap())
            && offset.is_multiple_of(step.into())
            && bytes.len().is_multiple_of(step.try_into().unwrap());
        if is_aligned { Ok(()) } else { Err(io::Error::from_raw_os_error(EINVAL)) }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

impl File for Picky {
    fn metadata(&self) -> io::Result<Metadata> {
        self.inner.metadata()
    }
    fn modified(&self) -> io::Result<media::Timestamp> {
        self.inner.modified()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.heard("read", offset, into)?;
        let len = into.len().min(self.read_len_max);
        self.inner.read_at(offset, &mut into[..len])
    }
    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        self.heard("write", offset, from)?;
        self.inner.write_at(offset, from)
    }
    fn append(&self, _: &[u8]) -> io::Result<usize> {
        unreachable!()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!()
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        unreachable!()
    }
    fn start_writeback(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!()
    }
    fn set_mode(&self, _: Mode) -> io::Result<()> {
        unreachable!()
    }
    fn set_owner(&self, _: Owner) -> io::Result<()> {
        unreachable!()
    }
    fn xattr_names(&self) -> io::Result<Vec<OsString>> {
        unreachable!()
    }
    fn xattr(&self, _: &OsStr) -> io::Result<Vec<u8>> {
        unreachable!()
    }
    fn set_xattr(&self, _: &OsStr, _: &[u8]) -> io::Result<()> {
        unreachable!()
    }
    fn sync_all(&self) -> io::Result<()> {
        unreachable!()
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut calls = self.calls.lock().unwrap();
        calls.push("sync".to_owned());
        self.called.notify_all();
        let Some(at_most) = self.sync_hangs else { return self.inner.sync_data() };
        let alone = calls.len();
        drop(self.called.wait_timeout_while(calls, at_most, |calls| calls.len() == alone).unwrap());
        Err(io::Error::from_raw_os_error(EIO))
    }
    fn as_disk(&self, _: u32) -> io::Result<DiskFacts> {
        let Some(direct) = self.direct else { return Err(io::ErrorKind::Unsupported.into()) };
        let len = self.inner.metadata()?.len;
        let medium = DiskMedium::File;
        Ok(DiskFacts { medium, len, direct: Some(direct), write_durable: true, allocated: None })
    }
    fn write_at_durable(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        self.heard("durable", offset, from)?;
        let taken = self.inner.write_at(offset, from)?;
        match self.durable_fails {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(taken),
        }
    }
    fn forget_cached(&self) -> io::Result<()> {
        self.calls.lock().unwrap().push("forget".to_owned());
        Ok(())
    }
    fn lock(&self, _: LockWait) -> io::Result<()> {
        unreachable!()
    }
    fn unlock(&self) -> io::Result<()> {
        unreachable!()
    }
}

#[test]
fn a_short_read_goes_on_where_it_stopped() {
    let room = Room::new();
    let disk = room.create(geometry(4096, 4)).unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(8192).collect();
    disk.write(BlockIndex::new(1), &bytes).unwrap();
    let plain = || room.dir.open(name(), Access::Read).unwrap();
    for len_max in [1, 1000, 4095, 4096, 8191, 8192, 8193] {
        let file = Arc::new(Picky { read_len_max: len_max, ..Picky::over(plain()) });
        let short = FileDisk::open(file, 4096).unwrap();
        let mut found = vec![0; 8192];
        short.read(BlockIndex::new(1), &mut found).unwrap();
        assert_eq!(found, bytes, "len_max={len_max}");
    }
    let nothing = FileDisk::open(Arc::new(Picky { read_len_max: 0, ..Picky::over(plain()) }), 4096).unwrap();
    nothing.read(BlockIndex::new(1), &mut [0; 4096]).unwrap_err();
}

// ---- FileDisk: past the page cache

const PAGE: Alignment = Alignment { memory: 4096, offset: 512 };

/// `len` bytes of a pattern that begin `skew` bytes behind a page.
fn skewed(memory: &mut Vec<u8>, skew: usize, len: usize) -> &mut [u8] {
    memory.resize(len + 2 * 4096, 0);
    let begin = memory.as_ptr().align_offset(4096) + skew;
    let bytes = &mut memory[begin..begin + len];
    bytes.iter_mut().zip((0..=250).cycle()).for_each(|(byte, value)| *byte = value);
    bytes
}

#[test]
fn a_picky_disk_conforms_with_buffers_that_are_aligned_to_nothing() {
    let room = Room::new();
    let made = std::cell::Cell::new(0);
    let count = block_device(|wish| {
        made.set(made.get() + 1);
        let name = OsString::from(format!("disk{}", made.get()));
        FileDisk::create(&*room.dir, &name, wish).unwrap();
        let inner = room.dir.open(&name, Access::ReadWrite).unwrap();
        let file = Picky { direct: Some(PAGE), ..Picky::over(inner) };
        let block_size = u32::try_from(wish.block_size()).unwrap();
        FileDisk::open(Arc::new(file), block_size).unwrap()
    });
    assert_eq!(count, CHECKS);
}

#[test]
fn a_buffer_needs_no_alignment_and_one_that_has_it_is_not_copied_about() {
    let room = Room::new();
    let (file, disk) = Picky::disk(&room, 64, PAGE, None);
    assert_eq!(disk.mode(), DiskMode { medium: DiskMedium::File, is_direct: true });
    let (mut memory, mut found) = (Vec::new(), Vec::new());
    for skew in [0, 1, 511, 512, 4095] {
        let bytes = skewed(&mut memory, skew, 2048);
        bytes[7] = u8::try_from(skew % 256).unwrap();
        disk.write(BlockIndex::new(3), bytes).unwrap();
        assert_eq!(file.calls(), ["write @1536+2048"]);
        disk.write_durable(BlockIndex::new(9), bytes).unwrap();
        assert_eq!(file.calls(), ["durable @4608+2048"]);
        for at in [3, 9] {
            let into = skewed(&mut found, 4095 - skew, 2048);
            into.fill(0xEE);
            disk.read(BlockIndex::new(at), into).unwrap();
            assert_eq!(into, bytes, "skew={skew}");
        }
        assert_eq!(file.calls(), ["read @1536+2048", "read @4608+2048"]);
    }
}

#[test]
fn the_longest_request_of_one_call_is_a_mebibyte_and_a_longer_one_goes_in_pieces() {
    const MIB: usize = 1 << 20;
    let room = Room::new();
    let (file, disk) = Picky::disk(&room, 8192, PAGE, None);
    let mut memory = Vec::new();
    for (len, pieces) in [
        (MIB - 512, &["@512+1048064"][..]),
        (MIB, &["@512+1048576"]),
        (MIB + 512, &["@512+1048576", "@1049088+512"]),
        (3 * MIB, &["@512+1048576", "@1049088+1048576", "@2097664+1048576"]),
    ] {
        let calls = |call: &str| pieces.iter().map(|piece| format!("{call} {piece}")).collect::<Vec<_>>();
        let bytes = skewed(&mut memory, 1, len);
        disk.write(BlockIndex::new(1), bytes).unwrap();
        assert_eq!(file.calls(), calls("write"));
        let mut found = vec![0; len + 1];
        disk.read(BlockIndex::new(1), &mut found[1..]).unwrap();
        assert!(&found[1..] == bytes, "len={len}");
        assert_eq!(file.calls(), calls("read"));
        disk.write_durable(BlockIndex::new(1), bytes).unwrap();
        assert_eq!(file.calls(), calls("durable"));
    }
    // Aligned, there is no limit but the caller's.
    disk.write(BlockIndex::ZERO, skewed(&mut memory, 0, 3 * MIB)).unwrap();
    assert_eq!(file.calls(), ["write @0+3145728"]);
}

#[test]
fn a_file_that_has_become_shorter_is_an_error_past_the_page_cache_too() {
    let room = Room::new();
    let (_, disk) = Picky::disk(&room, 8, PAGE, None);
    room.dir.open(name(), Access::ReadWrite).unwrap().set_len(512 * 3 + 100).unwrap();
    disk.read(BlockIndex::new(2), &mut [0; 512]).unwrap();
    for index in [3, 4] {
        let error = disk.read(BlockIndex::new(index), &mut [0; 512]).unwrap_err();
        assert!(error.cause().unwrap().to_string().contains("shorter"), "{error:?}");
    }
}

#[test]
fn a_failed_durable_write_latches_as_a_failed_flush_does() {
    for code in CODES {
        let room = Room::new();
        let (file, disk) = Picky::disk(&room, 8, PAGE, Some(code));
        disk.write(BlockIndex::ZERO, &[1; 512]).unwrap();
        let error = disk.write_durable(BlockIndex::new(1), &[2; 512]).unwrap_err();
        match &error {
            DeviceError::Io { operation: DeviceOp::WriteDurable, at, len: 512, cause } => {
                assert_eq!((at.get(), cause.reason()), (1, reason_of(code)));
            }
            other => panic!("{other:?}"),
        }
        file.calls();
        // The kernel may have told the loss of block 0 with it: no sync may declare that one durable any more.
        for (refused, outcome) in [
            (DeviceOp::Flush, disk.flush()),
            (DeviceOp::Write, disk.write(BlockIndex::ZERO, &[3; 512])),
            (DeviceOp::WriteDurable, disk.write_durable(BlockIndex::ZERO, &[3; 512])),
        ] {
            match outcome.unwrap_err() {
                DeviceError::Poisoned { operation, cause } => {
                    assert_eq!((operation, cause.reason()), (refused, reason_of(code)));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(file.calls(), [""; 0], "what is refused reaches no file");
        disk.read(BlockIndex::ZERO, &mut [0; 512]).unwrap();
    }
}

/// A hole has no space of its own. With nothing else outstanding the error can only be about this write.
#[test]
fn store_f6_a_durable_write_that_finds_no_space_does_not_latch_while_no_other_write_is_outstanding() {
    for (code, latches) in [(ENOSPC, false), (EDQUOT, false), (EIO, true), (EINTR, true)] {
        for outstanding in [false, true] {
            let room = Room::new();
            let (_, disk) = Picky::disk(&room, 8, PAGE, Some(code));
            disk.write(BlockIndex::ZERO, &[1; 512]).unwrap();
            disk.flush().unwrap();
            if outstanding {
                disk.write(BlockIndex::new(2), &[1; 512]).unwrap();
            }
            let error = disk.write_durable(BlockIndex::new(1), &[2; 512]).unwrap_err();
            assert_eq!(error.kind(), kind_of(code));
            let next = disk.write(BlockIndex::new(3), &[3; 512]).and_then(|()| disk.flush());
            let is_latched = matches!(next, Err(DeviceError::Poisoned { .. }));
            assert_eq!(is_latched, latches || outstanding, "code={code} outstanding={outstanding}");
            assert!(is_latched || next.is_ok(), "{next:?}");
        }
    }
}

#[test]
fn store_f6_a_write_without_space_says_so_by_its_kind() {
    for code in [ENOSPC, EDQUOT] {
        let (_, fs) = FailNth::new(1, code).only(Op::WriteAt).over(OsFs::shared());
        let disk = Room::on(fs).create(geometry(512, 8)).unwrap();
        let error = disk.write(BlockIndex::new(5), &[1; 512]).unwrap_err();
        assert_eq!(error.kind(), DeviceErrorKind::NoSpace);
        disk.flush().unwrap();
    }
}

/// The sync that fails may have told the loss to the durable write, or the other way round.
#[test]
fn a_durable_write_that_arrives_while_a_flush_fails_is_refused_and_a_plain_write_does_not_wait() {
    let room = Room::new();
    room.create(geometry(512, 8)).unwrap();
    for (what, at_most) in [("durable", Duration::from_millis(300)), ("plain", Duration::from_secs(10))] {
        let inner = room.dir.open(name(), Access::ReadWrite).unwrap();
        let file = Picky { direct: Some(PAGE), sync_hangs: Some(at_most), ..Picky::over(inner) };
        let file = Arc::new(file);
        let disk = FileDisk::open(Arc::<Picky>::clone(&file), 512).unwrap();
        let outcome = std::thread::scope(|scope| {
            let flush = scope.spawn(|| disk.flush());
            drop(file.called.wait_while(file.calls.lock().unwrap(), |calls| calls.is_empty()).unwrap());
            let outcome = match what {
                "durable" => disk.write_durable(BlockIndex::new(1), &[2; 512]),
                _ => disk.write(BlockIndex::new(1), &[2; 512]),
            };
            flush.join().unwrap().unwrap_err();
            outcome
        });
        if what == "durable" {
            assert!(matches!(outcome, Err(DeviceError::Poisoned { .. })), "{outcome:?}");
            assert_eq!(file.calls(), ["sync"]);
        } else {
            outcome.unwrap();
            assert_eq!(file.calls(), ["sync", "write @512+512"], "while the flush ran");
        }
    }
}

#[test]
fn a_durable_write_that_is_refused_or_empty_does_not_latch() {
    let room = Room::new();
    let (file, disk) = Picky::disk(&room, 8, PAGE, Some(EIO));
    disk.write_durable(BlockIndex::new(8), &[1; 512]).unwrap_err();
    disk.write_durable(BlockIndex::ZERO, &[1; 511]).unwrap_err();
    disk.write_durable(BlockIndex::ZERO, &[]).unwrap();
    assert_eq!(file.calls(), [""; 0]);
    disk.flush().unwrap();
}

#[test]
fn forgetting_is_asked_of_a_file_that_is_read_through_the_cache_and_of_no_other() {
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let room = Room::buffered(fs);
    let disk = room.create(geometry(512, 8)).unwrap();
    assert_eq!(disk.mode(), DiskMode { medium: DiskMedium::File, is_direct: false });
    recorder.clear();
    disk.forget_cached();
    BlockDevice::forget_cached(&&disk);
    Arc::new(disk).forget_cached();
    assert_eq!(lines(&recorder), ["ForgetCached disk"; 3]);
    let room = Room::new();
    let (file, disk) = Picky::disk(&room, 8, PAGE, None);
    disk.forget_cached();
    assert_eq!(file.calls(), [""; 0]);
}

#[test]
fn a_disk_is_written_and_read_by_more_threads_than_it_has_buffers() {
    let room = Room::new();
    let (_, disk) = Picky::disk(&room, 8 * 64, PAGE, None);
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..64 {
                    let at = BlockIndex::new(u64::from(thread) * 64 + u64::from(round));
                    let bytes = vec![thread ^ round; 512];
                    match round % 3 {
                        0 => disk.write_durable(at, &bytes).unwrap(),
                        1 => disk.write(at, &bytes).and_then(|()| disk.flush()).unwrap(),
                        _ => disk.write(at, &bytes).unwrap(),
                    }
                    let mut found = vec![0; 512];
                    disk.read(at, &mut found).unwrap();
                    assert_eq!(found, bytes);
                }
            });
        }
    });
}

// ---- FileDisk: open

#[test]
fn open_finds_what_create_made() {
    let room = Room::new();
    let disk = room.create(geometry(512, 8)).unwrap();
    disk.write(BlockIndex::new(7), &[7; 512]).unwrap();
    let open = |block_size| FileDisk::open(room.dir.open(name(), Access::ReadWrite).unwrap(), block_size);
    let again = open(512).unwrap();
    assert_eq!(again.geometry(), disk.geometry());
    assert!(again.geometry().torn_blocks());
    assert_eq!(again.mode(), disk.mode());
    let mut bytes = [0; 512];
    again.read(BlockIndex::new(7), &mut bytes).unwrap();
    assert_eq!(bytes, [7; 512]);
    // The same bytes in greater blocks, up to one that holds them all, and one past it.
    assert_eq!(open(4096).unwrap().geometry().block_count(), 1);
    assert!(matches!(open(8192), Err(FileDiskError::Length { len: 4096, block_size: 8192 })));
}

#[test]
fn open_refuses_what_is_no_disk() {
    let room = Room::new();
    let disk = room.create(geometry(512, 8)).unwrap();
    let open = |block_size| FileDisk::open(room.dir.open(name(), Access::ReadWrite).unwrap(), block_size);
    for len in [0, 1, 511, 513, 4095, 4097] {
        disk.file().set_len(len).unwrap();
        let error = open(512).unwrap_err();
        assert_eq!(error.kind(), DeviceErrorKind::Invalid);
        assert!(matches!(error, FileDiskError::Length { len: found, .. } if found == len), "{error:?}");
    }
    disk.file().set_len(4096).unwrap();
    for block_size in [0, 1, 511, 513, 131_072] {
        let error = open(block_size).unwrap_err();
        assert!(matches!(error, FileDiskError::BlockSize { .. }), "{error:?}");
    }
    // The look of a disk, and that of a file where there is none.
    let (_, fs) = FailNth::new(0, EIO).only(Op::AsDisk).over(OsFs::shared());
    let (_, plain) = FailNth::new(0, ENOTSUP).only(Op::AsDisk).over(OsFs::shared());
    let (_, plain) = FailNth::new(0, EIO).only(Op::Metadata).over(plain);
    for fs in [fs, plain] {
        let file = fs.open_dir(room.temp.path()).unwrap().open(name(), Access::ReadWrite).unwrap();
        assert!(matches!(FileDisk::open(file, 512), Err(FileDiskError::Open { .. })));
    }
}

#[cfg(unix)]
#[test]
fn open_refuses_what_is_no_regular_file() {
    let device = OsFs.open_dir("/dev".as_ref()).unwrap().open(OsStr::new("null"), Access::ReadWrite).unwrap();
    let error = FileDisk::open(device, 512).unwrap_err();
    assert!(matches!(error, FileDiskError::NotRegular { kind: media::FileKind::Other }), "{error:?}");
}

#[test]
fn a_disk_opened_for_reading_reads_and_reports_its_writes() {
    let room = Room::new();
    room.create(geometry(512, 8)).unwrap();
    let disk = FileDisk::open(room.dir.open(name(), Access::Read).unwrap(), 512).unwrap();
    disk.read(BlockIndex::ZERO, &mut [1; 512]).unwrap();
    let error = disk.write(BlockIndex::ZERO, &[1; 512]).unwrap_err();
    assert!(matches!(error, DeviceError::Io { operation: DeviceOp::Write, .. }), "{error:?}");
}

// ---- errors

#[test]
fn an_error_reads_well_and_carries_its_cause() {
    let error = DeviceError::Io {
        operation: DeviceOp::Write,
        at: BlockIndex::new(9),
        len: 512,
        cause: DeviceCause::driver("virtio: the device reports an I/O error", 1),
    };
    assert_eq!(error.to_string(), "the write at block 9 failed: len=512");
    assert_eq!(error.source().unwrap().to_string(), "virtio: the device reports an I/O error (status 1)");
    assert_eq!(error.kind(), DeviceErrorKind::Io);
    assert_eq!(error.cause().unwrap().reason(), Reason::IoError);
    assert!(error.cause().unwrap().io_error().is_none());
}

// ---- Linux: what create leaves in the block map

/// Says that a test did not run; with `STEADFAST_REQUIRE_ALL=1` that is a failure.
#[cfg(target_os = "linux")]
fn skip(why: &str) {
    assert!(std::env::var_os("STEADFAST_REQUIRE_ALL").is_none_or(|value| value != "1"), "SKIPPED: {why}");
    // Not `eprintln!`: that is captured, and a skipped test must show in the output of a green run.
    let written = writeln!(io::stderr(), "SKIPPED: {why}");
    assert!(written.is_ok(), "SKIPPED: {why}: {written:?}");
}

/// What `filefrag -v` says of a file, if the program and the file system can say it.
#[cfg(target_os = "linux")]
fn extents(path: &std::path::Path) -> Option<String> {
    let output = std::process::Command::new("filefrag").arg("-v").arg(path).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn no_extent_of_a_created_disk_is_unwritten() {
    let room = Room::new();
    // The control: a file that is reserved and synced but not written must show what is looked for.
    let control = room.dir.create_exclusive(OsStr::new("control"), Mode::PRIVATE).unwrap();
    let reserved = control.allocate(1 << 20).and_then(|()| control.set_len(1 << 20));
    if let Err(error) = reserved.and_then(|()| control.sync_all()) {
        return skip(&format!(
            "no_extent_of_a_created_disk_is_unwritten: space cannot be reserved here: {error}"
        ));
    }
    match extents(&room.temp.path().join("control")) {
        Some(map) if map.contains("unwritten") => {}
        Some(_) => {
            return skip("no_extent_of_a_created_disk_is_unwritten: reserved extents are not shown here");
        }
        None => return skip("no_extent_of_a_created_disk_is_unwritten: no filefrag, or no extents here"),
    }
    room.create(geometry(4096, 256)).unwrap();
    let map = extents(&room.temp.path().join(NAME)).unwrap();
    assert!(!map.contains("unwritten"), "{map}");
    assert!(map.contains("1 extent found") || map.contains("extents found"), "{map}");
}
