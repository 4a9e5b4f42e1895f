//! The medium by itself: what it promises is what the others are built on, and this is how a scenario is written.

use std::sync::Arc;

use media::sync::thread;
use media::{BlockDevice as _, BlockIndex, DeviceError, Geometry};

use crate::explore::{Scenario, Search};
use crate::medium::{Moment, Power, RecordingDisk};

pub(super) fn all() -> Vec<Scenario> {
    vec![two_writers("medium-two-flushes", false), two_writers("medium-two-durable-writes", true)]
}

/// Each writes its block, makes it durable, and says so.
fn two_writers(name: &'static str, by_durable_write: bool) -> Scenario {
    let power = Power::shared();
    let of_runs = Arc::clone(&power);
    let run = move || {
        let geometry = Geometry::new(512, 2).unwrap();
        let geometry = if by_durable_write { geometry.with_write_durable() } else { geometry };
        let disk = RecordingDisk::holding(geometry, &[0; 1024]).with_power(&of_runs).forbidding_locks();
        let disk = Arc::new(disk);
        let threads = [0, 1].map(|block: u8| {
            let disk = Arc::clone(&disk);
            thread::spawn(move || {
                write(&disk, block, by_durable_write).unwrap();
                disk.tell(block);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((disk.told().len(), disk.barriers()), (2, 2));
    };
    Scenario::new(name, "a block that was told to be durable is durable", Search::All, run)
        .judged(move || power.judge(told_is_durable))
}

fn write(disk: &RecordingDisk<u8>, block: u8, by_durable_write: bool) -> Result<(), DeviceError> {
    let (at, bytes) = (BlockIndex::new(block.into()), [block + 1; 512]);
    if by_durable_write {
        return disk.write_durable(at, &bytes);
    }
    disk.write(at, &bytes)?;
    disk.flush()
}

fn told_is_durable(moment: &Moment<u8>) -> Result<(), String> {
    let is_there = |block: &u8| moment.bytes.get(usize::from(*block) * 512) == Some(&(block + 1));
    match moment.told.iter().find(|block| !is_there(block)) {
        Some(block) => Err(format!("block {block} was told to be durable, and is not")),
        None => Ok(()),
    }
}
