//! Threads for barriers: many `fsync` calls in flight share the journal commits of the file system.

use std::fmt;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{spawn_in, thread};

/// Runs many independent, blocking jobs.
pub trait SyncPool: Send + Sync + fmt::Debug {
    /// Calls `job(0)` to `job(count - 1)`, each exactly once, on up to `width` threads and in any order;
    /// returns when all are done. A `width` of 1 runs them in order on the calling thread.
    fn run(&self, width: usize, count: usize, job: &(dyn Fn(usize) + Sync));
}

/// Threads of the operating system, started for each call and joined before it returns.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsPool;

impl SyncPool for OsPool {
    fn run(&self, width: usize, count: usize, job: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                job(index);
            }
        };
        thread::scope(|scope| {
            for _ in 1..width.min(count) {
                // Fewer threads than asked for, where the system gives no more, are slower and nothing worse:
                // the calling thread works as well.
                if !spawn_in(scope, "sync", work) {
                    break;
                }
            }
            work();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_exactly_once_at_any_width() {
        for width in [0, 1, 2, 7, 64] {
            let runs: Vec<AtomicUsize> = (0..33).map(|_| AtomicUsize::new(0)).collect();
            OsPool.run(width, runs.len(), &|index| {
                runs[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|count| count.load(Ordering::Relaxed) == 1), "width {width}");
        }
    }
}
