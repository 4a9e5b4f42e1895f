//! A soak: twelve threads make mixed calls on one `SharedStore` with its ticker. Every promise is
//! checked while they run.
//!
//! An ordinary run takes a few seconds for each device. `STEADFAST_SOAK_SECONDS` sets another time,
//! and `STEADFAST_SOAK_SEED` sets the seed of the first thread. A thread draws its calls from its
//! seed; how the threads interleave does not follow from it.
//!
//! The checks:
//! - no hang: a watchdog fails the test when a thread makes no progress, and names its call;
//! - no `Ok` that is not durable: after every 50th such call of a thread, the durable bytes of that
//!   moment hold exactly what the thread knows, and no batch of another thread in part;
//! - exact counts: successful swaps, puts, changes that a watcher sees, quotas, revisions;
//! - no error but a conflict of the shared counter, and those that the thread's model demands.
//!   Twelve threads are fewer than may wait, so `Busy` is not one of them.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of the functions marked as tests")]

mod model;
mod run;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use media::doubles::DurableBytes;
use media::{Access, BlockDevice, DiskMode, FileDisk, Fs as _, Geometry, MemDisk, OsFs};
use testbed::{LoopDevice, need};

use run::soak;

/// A device of any kind that knows which of its bytes are durable.
type Disk = Arc<DurableBytes<Arc<dyn BlockDevice + Send + Sync>>>;

const BLOCK_SIZE: u32 = 512;

/// Blocks of the device. Few, so that an image opens quickly and compactions are frequent.
const BLOCKS: u64 = 1024;

/// Time that a barrier of the device in memory takes, so that other threads can ask meanwhile.
const BARRIER_TIME: Duration = Duration::from_micros(300);

fn geometry() -> Geometry {
    Geometry::new(BLOCK_SIZE, BLOCKS).unwrap()
}

fn memory(geometry: Geometry) -> Disk {
    let disk: Arc<dyn BlockDevice + Send + Sync> = Arc::new(MemDisk::new(geometry).unwrap());
    Arc::new(DurableBytes::over(disk).unwrap().with_barrier_time(BARRIER_TIME))
}

#[test]
fn threads_keep_every_promise_on_a_device_with_flushes() {
    drop(soak("memory with flushes", &memory(geometry())));
}

#[test]
fn threads_keep_every_promise_on_a_device_with_durable_writes() {
    drop(soak("memory with durable writes", &memory(geometry().with_write_durable())));
}

#[test]
fn threads_keep_every_promise_on_a_raw_device() {
    let device = need!(LoopDevice::attach(BLOCKS * u64::from(BLOCK_SIZE), BLOCK_SIZE));
    let dir = OsFs.open_dir(device.path().parent().unwrap()).unwrap();
    let file = dir.open_disk(device.path().file_name().unwrap(), Access::ReadWrite).unwrap();
    let disk = FileDisk::open(file, BLOCK_SIZE).unwrap();
    assert!(matches!(disk.mode(), DiskMode { is_direct: true, .. }), "{:?}", disk.mode());
    let disk: Arc<dyn BlockDevice + Send + Sync> = Arc::new(disk);
    let durable = soak("a raw device", &Arc::new(DurableBytes::over(disk).unwrap()));
    assert!(std::fs::read(device.image()).unwrap() == durable, "the image holds what was called durable");
}
