//! Code that is wrong on purpose, to test the explorer and the medium: each of these must be found.

use std::sync::Arc;

use media::sync::atomic::{AtomicUsize, Ordering};
use media::sync::{Condvar, Mutex, thread};
use media::{BlockDevice as _, BlockIndex, Geometry};

use crate::explore::{Scenario, Search};
use crate::medium::{Power, RecordingDisk};

pub(super) fn all() -> Vec<Scenario> {
    vec![lost_update(), lost_wake_up(), told_early(), lock_during_a_call()]
}

fn lost_update() -> Scenario {
    Scenario::new("broken-lost-update", "two threads count by reading and writing", Search::All, || {
        let count = Arc::new(AtomicUsize::new(0));
        let add =
            |count: Arc<AtomicUsize>| move || count.store(count.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
        let threads = [0, 1].map(|_| thread::spawn(add(Arc::clone(&count))));
        threads.into_iter().for_each(|thread| thread.join().unwrap_or_default());
        assert_eq!(count.load(Ordering::SeqCst), 2, "an update is lost");
    })
}

fn lost_wake_up() -> Scenario {
    Scenario::new("broken-lost-wake-up", "a thread looks, lets go, and waits", Search::Sampled, || {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let teller = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            *teller.0.lock().unwrap() = true;
            teller.1.notify_all();
        });
        let is_told = *shared.0.lock().unwrap();
        if !is_told {
            drop(shared.1.wait(shared.0.lock().unwrap()));
        }
        thread.join().unwrap_or_default();
    })
}

fn disk(power: &Arc<Power<u8>>) -> RecordingDisk<u8> {
    let geometry = Geometry::new(512, 2).unwrap();
    RecordingDisk::holding(geometry, &[0; 1024]).with_power(power).forbidding_locks()
}

/// The writer of the other block flushes for both, and its flush may have been submitted before.
fn told_early() -> Scenario {
    let power = Power::shared();
    let of_runs = Arc::clone(&power);
    let run = move || {
        let disk = Arc::new(disk(&of_runs));
        let flushing = Arc::clone(&disk);
        let thread = thread::spawn(move || flushing.flush().unwrap());
        disk.write(BlockIndex::new(0), &[1; 512]).unwrap();
        thread.join().unwrap_or_default();
        disk.tell(1);
    };
    let judge = move || {
        power.judge(|moment| match moment.told.contains(&1) && moment.bytes.first() != Some(&1) {
            true => Err("the block was told to be durable, and is not".to_owned()),
            false => Ok(()),
        })
    };
    Scenario::new("broken-told-early", "a write counts on the flush of another", Search::All, run)
        .judged(judge)
}

fn lock_during_a_call() -> Scenario {
    Scenario::new("broken-lock-during-a-call", "a lock is held while the device writes", Search::All, || {
        let disk = disk(&Power::shared());
        let lock = Mutex::new(());
        let held = lock.lock();
        disk.write(BlockIndex::new(0), &[1; 512]).unwrap();
        drop(held);
    })
}
