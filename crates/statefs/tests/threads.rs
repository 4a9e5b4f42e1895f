//! What threads do to each other: ticks beside exclusive access. Row T1 of the second review.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use media::doubles::DurableBytes;
use media::{BlockDevice, Geometry, MemDisk, SystemClock};
use statefs::{Access, Error, Key, Options, SharedStore, SnapshotName, Store, StoreId};

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
