//! What threads do to each other: ticks beside exclusive access, and panics in foreign code. Rows T1 and T3 of the second
//! review.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use media::doubles::DurableBytes;
use media::{
    BlockDevice, BlockIndex, Clock, DeviceError, DeviceOp, Geometry, MemDisk, SystemClock, Timestamp,
};
use statefs::{
    Access, Batch, Error, ErrorKind, Key, NoRandom, Nonces, Options, Precondition, Prefix, SealKey,
    SharedStore, SnapshotName, Store, StoreId, WAITING_MAX, Zeroizing,
};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn options() -> Options {
    let mut options = Options::new(StoreId([7; 16]));
    options.journal = journal::Limits { frame_blocks_max: 16, in_flight_blocks_max: 32 };
    options
}

fn shared<D: BlockDevice>(device: D) -> SharedStore<D> {
    SharedStore::new(Store::format(device, &options()).unwrap(), Arc::new(SystemClock::new()))
}

/// Fails instead of waiting for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the workload on a thread of its own, and fails when it hangs.
fn ends(what: &str, work: impl FnOnce() + Send + 'static) {
    let (told, heard) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        told.send(()).unwrap();
    });
    match heard.recv_timeout(PATIENCE) {
        Ok(()) => worker.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(worker.join().unwrap_err()),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: a thread still waits"),
    }
}

/// What a power cut would leave now.
fn durable_value<D: BlockDevice>(disk: &DurableBytes<D>, key: &Key) -> Option<Vec<u8>> {
    let image = MemDisk::from_image(disk.geometry(), disk.durable()).unwrap();
    let (store, _) = Store::open(image, Access::Read).unwrap();
    store.get(key).map(|value| value.bytes.to_vec())
}

/// A device whose barriers let other threads run.
fn slow_disk(blocks: u64, barrier_micros: u64) -> Arc<DurableBytes<MemDisk>> {
    let disk = MemDisk::new(Geometry::new(512, blocks).unwrap()).unwrap();
    let disk = DurableBytes::over(disk).unwrap();
    Arc::new(disk.with_barrier_time(Duration::from_micros(barrier_micros)))
}

/// Writers, one thread that asks for exclusive access, and a clock that is told all the time. `act` runs with exclusive access;
/// the key that it writes, and the value, must be durable when it has returned `Ok`.
fn exclusive_beside_ticks(
    act: impl Fn(&mut Store<Arc<Arc<DurableBytes<MemDisk>>>>, u64) -> Result<(), Error>,
) {
    let disk = slow_disk(256, 50);
    let shared = shared(Arc::clone(&disk));
    let over = AtomicBool::new(false);
    let rounds = 400;
    thread::scope(|scope| {
        for nth in 0..4 {
            let (shared, over) = (&shared, &over);
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    shared.put(&key(&format!("writer/{nth}")), b"x").unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let mut now = 0;
                while !over.load(Ordering::SeqCst) {
                    now += 1;
                    shared.tick(Duration::from_millis(now)).unwrap();
                }
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for round in 0..rounds {
                shared.exclusively(|store| act(store, round)).unwrap();
                let wanted = round.to_le_bytes().to_vec();
                assert_eq!(durable_value(&disk, &key("alone")), Some(wanted), "acknowledged, round {round}");
            }
        }));
        over.store(true, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    shared.close().unwrap();
}

#[test]
fn store_t1_what_was_written_with_exclusive_access_is_durable_when_it_returns() {
    ends("a put with exclusive access", || {
        exclusive_beside_ticks(|store, round| store.put(&key("alone"), &round.to_le_bytes()).map(drop));
    });
}

/// The same leadership is needed by everything that asks for exclusive access; a snapshot makes what was buffered durable.
#[test]
fn store_t1_sibling_a_snapshot_beside_ticks_makes_what_was_buffered_durable() {
    ends("a snapshot with exclusive access", || {
        let name = SnapshotName::parse("s").unwrap();
        exclusive_beside_ticks(move |store, round| {
            store.put_buffered(&key("alone"), &round.to_le_bytes())?;
            store.drop_snapshot(&name)?;
            store.snapshot(&name).map(drop)
        });
    });
}

/// A source of random bytes that panics when it is told to.
struct Panics(Arc<AtomicBool>);

impl Nonces for Panics {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        assert!(!self.0.load(Ordering::SeqCst), "no random bytes today");
        bytes.fill(1);
        Ok(())
    }
}

#[test]
fn store_t3_a_panic_of_the_source_of_random_bytes_leaves_nobody_waiting() {
    ends("writers beside a panic", || {
        let shared = shared(slow_disk(256, 200));
        let panics = Arc::new(AtomicBool::new(false));
        let prefix = Prefix::parse("/state/secret").unwrap();
        shared
            .exclusively(|store| {
                store.set_nonces(Box::new(Panics(Arc::clone(&panics))));
                store.seal_prefix(&prefix, SealKey::new(1, Zeroizing::new([1; 32])))
            })
            .unwrap();
        let begun = AtomicU64::new(0);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..6)
                .map(|nth| {
                    let (shared, begun) = (&shared, &begun);
                    scope.spawn(move || {
                        let name = if nth == 0 { "secret/a".to_owned() } else { format!("plain/{nth}") };
                        loop {
                            begun.fetch_add(1, Ordering::SeqCst);
                            if let Err(error) = shared.put(&key(&name), b"x") {
                                return error.kind();
                            }
                        }
                    })
                })
                .collect();
            while begun.load(Ordering::SeqCst) < 60 {
                thread::yield_now();
            }
            panics.store(true, Ordering::SeqCst);
            let told: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            assert_eq!(told.iter().filter(|told| told.is_err()).count(), 1, "{told:?}");
            assert!(told.into_iter().flatten().all(|kind| kind == ErrorKind::Poisoned));
        });
        assert_eq!(shared.close().unwrap_err().kind(), ErrorKind::Poisoned);
    });
}

/// A device that panics in one of its calls when it is told to.
struct PanickingDisk {
    disk: MemDisk,
    next: Arc<AtomicU64>,
}

const IN_WRITE: u64 = 1;
const IN_FLUSH: u64 = 2;
const IN_READ: u64 = 3;

impl PanickingDisk {
    fn pass(&self, call: u64) {
        assert_ne!(self.next.load(Ordering::SeqCst), call, "the driver has a bug");
    }
}

impl BlockDevice for PanickingDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.pass(IN_READ);
        self.disk.read(at, into)
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.pass(IN_WRITE);
        self.disk.write(at, from)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.pass(IN_FLUSH);
        self.disk.flush()
    }
}

/// The kind: whatever ends a turn (of a leader, of exclusive access, of a frame that ends and takes a step of a compaction)
/// passes leadership on.
#[test]
fn store_t3_sibling_a_panic_of_the_device_in_any_turn_leaves_nobody_waiting() {
    for call in [IN_WRITE, IN_FLUSH, IN_READ] {
        for alone in [false, true] {
            ends("a panic of the device", move || {
                let next = Arc::new(AtomicU64::new(0));
                let disk = MemDisk::new(Geometry::new(512, 96).unwrap()).unwrap();
                let shared = shared(PanickingDisk { disk, next: Arc::clone(&next) });
                shared.put(&key("a"), b"before").unwrap();
                next.store(call, Ordering::SeqCst);
                // Reads happen where a compaction ends, so it takes many.
                let outcomes = (0..200).map(|_| {
                    catch_unwind(AssertUnwindSafe(|| match alone {
                        true => shared.exclusively(|store| store.put(&key("a"), b"x").map(drop)),
                        false => shared.put(&key("a"), b"x").map(drop),
                    }))
                });
                // A panic in a step of a compaction, which follows the answer, poisons the store and no more.
                let is_over = |outcome: thread::Result<Result<(), Error>>| !matches!(outcome, Ok(Ok(())));
                assert!(outcomes.into_iter().any(is_over), "the device panicked once");
                next.store(0, Ordering::SeqCst);
                let after = shared.put(&key("b"), b"y").map(drop);
                assert!(after.is_err_and(|error| error.kind() == ErrorKind::Poisoned));
                assert_eq!(shared.close().unwrap_err().kind(), ErrorKind::Poisoned);
                assert!(shared.get(&key("a")).unwrap().is_some(), "readers go on");
            });
        }
    }
}

/// A door that threads stop at while it is shut.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<DoorState>, Condvar)>);

#[derive(Default)]
struct DoorState {
    is_shut: bool,
    waiting: usize,
}

impl Door {
    fn state(&self) -> MutexGuard<'_, DoorState> {
        self.0.0.lock().unwrap()
    }
    fn shut(&self) {
        self.state().is_shut = true;
    }
    fn open(&self) {
        self.state().is_shut = false;
        self.0.1.notify_all();
    }
    fn pass(&self) {
        let mut state = self.state();
        state.waiting += 1;
        self.0.1.notify_all();
        state = self.0.1.wait_while(state, |state| state.is_shut).unwrap();
        state.waiting -= 1;
    }
    /// Waits until so many threads stand at it.
    fn until_waiting(&self, count: usize) {
        drop(self.0.1.wait_while(self.state(), |state| state.waiting < count).unwrap());
    }
}

/// A device whose flushes stop at a door, and that has no space for writes when it is told so.
struct DoorDisk {
    disk: MemDisk,
    door: Door,
    is_full: Arc<AtomicBool>,
}

impl BlockDevice for DoorDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.disk.read(at, into)
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        if self.is_full.load(Ordering::SeqCst) {
            let cause = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
            return Err(DeviceError::Io { operation: DeviceOp::Write, at, len: from.len(), cause });
        }
        self.disk.write(at, from)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.door.pass();
        self.disk.flush()
    }
}

fn door_disk() -> (DoorDisk, Door, Arc<AtomicBool>) {
    let disk = MemDisk::new(Geometry::new(512, 256).unwrap()).unwrap();
    let (door, is_full) = (Door::default(), Arc::default());
    (DoorDisk { disk, door: door.clone(), is_full: Arc::clone(&is_full) }, door, is_full)
}

/// A source that stops at a door, and panics when it is told to.
struct DoorNonces {
    door: Door,
    panics: Arc<AtomicBool>,
    drawn: u8,
}

impl Nonces for DoorNonces {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        self.door.pass();
        if self.panics.load(Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("no random bytes today"));
        }
        self.drawn = self.drawn.wrapping_add(1);
        bytes.fill(self.drawn);
        Ok(())
    }
}

fn secret() -> Prefix {
    Prefix::parse("/state/secret").unwrap()
}

/// A store with an encrypted prefix; the door that its source stops at, and whether that panics.
fn encrypted<D: BlockDevice>(device: D) -> (SharedStore<D>, Door, Arc<AtomicBool>) {
    let shared = shared(device);
    let (door, panics) = (Door::default(), Arc::new(AtomicBool::new(false)));
    let source = DoorNonces { door: door.clone(), panics: Arc::clone(&panics), drawn: 0 };
    shared
        .exclusively(|store| {
            store.set_nonces(Box::new(source));
            store.seal_prefix(&secret(), SealKey::new(1, Zeroizing::new([1; 32])))
        })
        .unwrap();
    (shared, door, panics)
}

/// Long enough for what other threads must not do to be done, if they did it.
fn pause() {
    SystemClock::new().sleep(Duration::from_millis(100));
}

fn batch_of(name: &str, value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(&key(name), value).unwrap();
    batch
}

/// While nonces are drawn, no lock is held; what was asked for before still comes first, and the source is not missing.
#[test]
fn a_buffered_put_beside_a_draw_of_nonces_comes_after_what_was_submitted_before() {
    ends("a buffered put beside a draw of nonces", || {
        let (shared, door, _) = encrypted(slow_disk(256, 0));
        let driver = shared.driver().unwrap();
        door.shut();
        let (told, heard) = mpsc::channel();
        let submitted =
            shared.submit(batch_of("secret/a", b"first"), move |told_by| told.send(told_by).unwrap());
        door.until_waiting(1);
        thread::scope(|scope| {
            let plain = scope.spawn(|| shared.put_buffered(&key("plain"), b"x"));
            let buffered = scope.spawn(|| shared.put_buffered(&key("secret/a"), b"second"));
            pause();
            door.open();
            let first = heard.recv().unwrap().unwrap();
            plain.join().unwrap().unwrap();
            let second = buffered.join().unwrap().unwrap();
            assert!(first < second, "asked for later: {first} {second}");
        });
        let sealed = shared.exclusively(|store| store.reveal(&key("secret/a"))).unwrap().unwrap();
        assert_eq!(&*sealed, b"second");
        drop((submitted, driver));
    });
}

/// Calls the store when it is dropped.
struct AsksWhenDropped(SharedStore<MemDisk>);

impl Drop for AsksWhenDropped {
    fn drop(&mut self) {
        let _stats = self.0.stats();
    }
}

#[test]
fn a_callback_that_is_refused_is_dropped_without_a_lock() {
    ends("a refused callback", || {
        let shared = shared(MemDisk::new(Geometry::new(512, 64).unwrap()).unwrap());
        let refused = |wanted: fn(&Error) -> bool| {
            let asks = AsksWhenDropped(shared.clone());
            let outcome = shared.submit(batch_of("a", b"x"), move |_| drop(asks));
            assert!(outcome.is_err_and(|error| wanted(&error)));
        };
        refused(|error| matches!(error, Error::NoDriver));
        shared.close().unwrap();
        refused(|error| matches!(error, Error::Closed));
    });
}

/// The store is poisoned while a frame is on its way on another thread; that thread still has to find the store.
#[test]
fn a_panic_of_the_source_beside_a_frame_on_its_way_leaves_its_callers_an_answer() {
    ends("a panic beside a frame", || {
        let (disk, flushes, _) = door_disk();
        let (shared, _, panics) = encrypted(disk);
        panics.store(true, Ordering::SeqCst);
        flushes.shut();
        let (over, turn) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let put = scope.spawn(|| shared.put(&key("a"), b"x").unwrap_err().kind());
            flushes.until_waiting(1);
            let sealed = scope.spawn(|| shared.put(&key("secret/a"), b"x"));
            assert!(sealed.join().is_err(), "its thread has drawn the nonces");
            // Its turn is when nothing is on its way.
            let alone = scope.spawn(|| {
                shared.exclusively(|_| {
                    turn.store(true, Ordering::SeqCst);
                    until(|| over.load(Ordering::SeqCst));
                    Ok(())
                })
            });
            pause();
            let began_beside = turn.load(Ordering::SeqCst);
            flushes.open();
            pause();
            over.store(true, Ordering::SeqCst);
            alone.join().unwrap().unwrap();
            assert_eq!(put.join().unwrap(), ErrorKind::Poisoned);
            assert!(!began_beside, "a turn began while a frame was on its way");
        });
        assert_eq!(shared.close().unwrap_err().kind(), ErrorKind::Poisoned);
    });
}

fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

/// Only the frame that found no space is known to be incomplete. The one before it may be durable.
#[test]
fn no_space_is_told_to_those_whose_frame_it_was_and_to_no_other() {
    ends("two frames, and no space for the second", || {
        let (disk, flushes, is_full) = door_disk();
        let image = disk.disk.clone();
        let shared = shared(disk);
        shared.put(&key("a"), b"before").unwrap();
        flushes.shut();
        thread::scope(|scope| {
            let first = scope.spawn(|| shared.put(&key("a"), b"x").unwrap_err().kind());
            flushes.until_waiting(1);
            is_full.store(true, Ordering::SeqCst);
            let second = scope.spawn(|| shared.put(&key("b"), b"x").unwrap_err().kind());
            assert_eq!(second.join().unwrap(), ErrorKind::NoSpace);
            flushes.open();
            let first = first.join().unwrap();
            let (found, _) = Store::open(image, Access::Read).unwrap();
            assert_eq!(found.get(&key("a")).unwrap().bytes, b"x", "which is why");
            assert_eq!(first, ErrorKind::Poisoned, "`NoSpace` says that nothing has changed");
        });
    });
}

#[test]
fn views_that_are_taken_beside_exclusive_access_count() {
    let shared = shared(MemDisk::new(Geometry::new(512, 256).unwrap()).unwrap());
    let mut views = Vec::new();
    let refused = (0..40u64).find_map(|round| {
        let taken = shared.exclusively(|store| {
            store.put(&key("a"), &round.to_le_bytes())?;
            Ok(shared.view())
        });
        taken.unwrap().map(|view| views.push(view)).err()
    });
    assert!(matches!(refused, Some(Error::TooManyViews { .. })), "{refused:?}");
    assert_eq!(views.len(), statefs::VIEWS_MAX);
    views.clear();
    let view = shared.exclusively(|_| shared.view()).unwrap();
    assert_eq!(view.get(&key("a")).unwrap().bytes.len(), 8);
}

/// A clock that goes on only when it is told to, and counts how often it is asked.
#[derive(Debug, Default)]
struct SetClock {
    millis: AtomicU64,
    asked: AtomicU64,
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 0, nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Duration::from_millis(self.millis.load(Ordering::SeqCst))
    }
    fn sleep(&self, _how_long: Duration) {}
}

#[test]
fn a_ticker_looks_after_deadlines_where_there_is_nothing_to_seal_and_sleeps_when_the_store_is_closed() {
    ends("a ticker", || {
        let disk = MemDisk::new(Geometry::new(512, 64).unwrap()).unwrap();
        let clock = Arc::new(SetClock::default());
        let as_clock: Arc<dyn Clock> = clock.clone();
        let shared = SharedStore::new(Store::format(disk, &options()).unwrap(), as_clock);
        let (_driver, _ticker) = (shared.driver().unwrap(), shared.ticker().unwrap());
        assert!(shared.is_sealed());
        pause();
        let (told, heard) = mpsc::channel();
        shared
            .exclusively(|_| {
                let deadline = Duration::from_millis(10);
                let request = shared.submit_by(batch_of("a", b"x"), deadline, move |outcome| {
                    told.send(outcome).unwrap();
                });
                clock.millis.store(20, Ordering::SeqCst);
                let answer = heard.recv_timeout(Duration::from_secs(5)).expect("the ticker sleeps");
                assert!(matches!(answer, Err(Error::DeadlinePassed)), "{answer:?}");
                request.map(drop)
            })
            .unwrap();
        shared.put(&key("a"), b"x").unwrap();
        shared.close().unwrap();
        pause();
        let asked = clock.asked.load(Ordering::SeqCst);
        pause();
        assert_eq!(clock.asked.load(Ordering::SeqCst), asked, "there is nothing to do any more");
    });
}

/// Puts of an encrypted prefix share a barrier as others do.
#[test]
fn encrypted_puts_share_frames() {
    ends("encrypted puts", || {
        let (disk, flushes, _) = door_disk();
        let (shared, ..) = encrypted(disk);
        shared.put(&key("a"), b"x").unwrap();
        let frames = || shared.stats().store.journal.frames;
        let before = frames();
        flushes.shut();
        thread::scope(|scope| {
            let first = scope.spawn(|| shared.put(&key("a"), b"y").unwrap());
            flushes.until_waiting(1);
            for nth in 0..12 {
                let shared = &shared;
                scope.spawn(move || shared.put(&key(&format!("secret/{nth}")), b"x").unwrap());
            }
            until(|| shared.stats().waiting >= 11);
            flushes.open();
            first.join().unwrap();
        });
        assert!(frames() - before <= 5, "{} frames", frames() - before);
    });
}

/// Every call of a device is foreign code, and may wait or panic. What the device is like was asked when the store was opened.
#[test]
fn a_device_is_not_asked_what_it_is_like_while_a_lock_is_held() {
    struct Shy(MemDisk, Arc<AtomicBool>);
    impl BlockDevice for Shy {
        fn geometry(&self) -> Geometry {
            assert!(!self.1.load(Ordering::SeqCst), "asked again");
            self.0.geometry()
        }
        fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
            self.0.read(at, into)
        }
        fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
            self.0.write(at, from)
        }
        fn flush(&self) -> Result<(), DeviceError> {
            self.0.flush()
        }
    }
    ends("a device that is asked", || {
        let is_shy = Arc::new(AtomicBool::new(false));
        let disk = Shy(MemDisk::new(Geometry::new(512, 96).unwrap()).unwrap(), Arc::clone(&is_shy));
        let shared = shared(disk);
        is_shy.store(true, Ordering::SeqCst);
        for _ in 0..200 {
            shared.put(&key("a"), b"x").unwrap();
            shared.put_buffered(&key("b"), b"x").unwrap();
        }
        assert!(shared.stats().store.journal.switches > 0);
        shared.close().unwrap();
    });
}

/// What waits is bounded in bytes, and preconditions have bytes as well.
#[test]
fn preconditions_count_as_bytes_that_wait() {
    ends("preconditions", || {
        let shared = shared(MemDisk::new(Geometry::new(512, 64).unwrap()).unwrap());
        let driver = shared.driver().unwrap();
        let refused = shared.exclusively(|_| {
            Ok((0..WAITING_MAX).find_map(|_| {
                let mut batch = batch_of("a", b"x");
                (0..4_000).for_each(|_| batch.require(&key("b"), Precondition::Absent).unwrap());
                shared.submit(batch, |_| {}).err()
            }))
        });
        assert!(matches!(refused, Ok(Some(Error::TooMuchWaiting { .. }))), "{refused:?}");
        drop(driver);
    });
}
