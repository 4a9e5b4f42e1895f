//! What threads do to each other: ticks beside exclusive access, and panics in foreign code. Rows T1 and T3 of the second
//! review.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use media::doubles::DurableBytes;
use media::{BlockDevice, BlockIndex, DeviceError, Geometry, MemDisk, SystemClock};
use statefs::{
    Access, Error, ErrorKind, Key, NoRandom, Nonces, Options, Prefix, SealKey, SharedStore, SnapshotName,
    Store, StoreId, Zeroizing,
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
const PATIENCE: Duration = Duration::from_secs(60);

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
