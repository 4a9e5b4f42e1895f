//! Threads for barriers: many `fsync` calls in flight share the journal commits of the file system.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Runs many independent, blocking jobs.
pub trait SyncPool: Send + Sync + fmt::Debug {
    /// Calls `job(0)` to `job(count - 1)`, each exactly once, on up to `width` threads and in any order;
    /// returns when all are done. A `width` of 1 runs them in order on the calling thread.
    fn run(&self, width: usize, count: usize, job: &(dyn Fn(usize) + Sync));

    /// Begins `job` beside the caller, where there are threads; a pool without (the default) runs it before it
    /// returns.
    fn begin(&self, job: Box<dyn FnOnce() + Send>) -> Begun {
        job();
        Begun::done()
    }
}

/// A job that [`SyncPool::begin`] began. Dropping it waits for the job's end.
#[derive(Debug)]
#[must_use = "dropping it waits for the job at once"]
pub struct Begun {
    thread: Option<JoinHandle<()>>,
}

impl Begun {
    /// A job that is done already.
    pub fn done() -> Self {
        Self { thread: None }
    }

    /// Waits for its end. What it left undone, if it panicked, its results have to show.
    pub fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.join();
    }
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
        std::thread::scope(|scope| {
            for _ in 1..width.min(count) {
                // Fewer threads than asked for, where the system gives no more, are slower and nothing worse:
                // the calling thread works as well.
                if std::thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }

    fn begin(&self, job: Box<dyn FnOnce() + Send>) -> Begun {
        // Kept where both sides reach it: a thread that cannot be started must not take the job with it.
        let job = Arc::new(Mutex::new(Some(job)));
        let take = |job: &Mutex<Option<Box<dyn FnOnce() + Send>>>| {
            job.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let theirs = Arc::clone(&job);
        let thread = std::thread::Builder::new().name("sync".to_owned()).spawn(move || {
            if let Some(job) = take(&theirs) {
                job();
            }
        });
        match thread {
            Ok(thread) => Begun { thread: Some(thread) },
            Err(_) => {
                if let Some(job) = take(&job) {
                    job();
                }
                Begun::done()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_over_when_it_was_waited_for_or_dropped() {
        for wait in [Begun::wait, drop::<Begun>] {
            let done = Arc::new(AtomicUsize::new(0));
            let theirs = Arc::clone(&done);
            let begun = OsPool.begin(Box::new(move || {
                std::thread::yield_now();
                theirs.store(1, Ordering::SeqCst);
            }));
            wait(begun);
            assert_eq!(done.load(Ordering::SeqCst), 1);
        }
        OsPool.begin(Box::new(|| std::panic::resume_unwind(Box::new("not our panic")))).wait();
    }

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
