//! Threads of the store's own: the ticker, which tells it the time, and the driver, which leads.

use std::io;
use std::time::Duration;

use media::sync::atomic::{AtomicBool, Ordering};
use media::sync::thread::{self, JoinHandle, Thread};
use media::sync::{Arc, Condvar, Mutex, caught};

use media::BlockDevice;

use crate::error::Error;
use crate::shared::{Inner, SharedStore, unpoisoned};
use crate::store::Store;

/// How often a ticker tells the time.
const TICK: Duration = Duration::from_millis(25);

/// Wakes the ticker, which sleeps while there is nothing to seal.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    thread: Mutex<Option<Thread>>,
    is_dozing: AtomicBool,
}

impl Alarm {
    /// Wakes the ticker if it sleeps: something was written.
    pub(super) fn wake(&self) {
        if self.is_dozing.load(Ordering::SeqCst)
            && self.is_dozing.swap(false, Ordering::SeqCst)
            && let Some(thread) = &*unpoisoned(self.thread.lock())
        {
            thread.unpark();
        }
    }
}

/// Rings once, however often it is rung before anybody waits.
#[derive(Debug, Default)]
pub(super) struct Bell {
    has_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *unpoisoned(self.has_rung.lock()) = true;
        self.rings.notify_all();
    }

    /// Waits until it rings, not longer than so long.
    pub(super) fn wait(&self, how_long: Duration) {
        let has_rung = unpoisoned(self.has_rung.lock());
        let waited = self.rings.wait_timeout_while(has_rung, how_long, |has_rung| !*has_rung);
        *unpoisoned(waited).0 = false;
    }
}

/// A thread that tells a store the time. It ends when this is dropped.
#[derive(Debug)]
#[must_use = "the thread ends when this is dropped"]
pub struct Ticker {
    thread: Option<JoinHandle<()>>,
    over: Arc<AtomicBool>,
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            join(thread);
        }
    }
}

/// The commit thread of a store: it leads, and answers what is submitted. It ends when this is dropped: what was submitted and
/// has not begun is answered with [`Error::NoDriver`], and blocking calls go on without it.
#[derive(Debug)]
#[must_use = "the thread ends when this is dropped"]
pub struct Driver<D: BlockDevice> {
    thread: Option<JoinHandle<()>>,
    inner: Arc<Inner<D>>,
    over: Arc<AtomicBool>,
}

impl<D: BlockDevice> Drop for Driver<D> {
    fn drop(&mut self) {
        {
            let _queue = self.inner.queue();
            // Under the lock, so that the thread either sees it or waits already.
            self.over.store(true, Ordering::SeqCst);
        }
        self.inner.work.notify_all();
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

/// Waits for a thread to end. It has nothing to say; a panic in it was printed. A callback may drop the handle of the thread
/// that it runs on, which cannot wait for itself.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != thread::current().id() {
        drop(thread.join());
    }
}

impl<D: BlockDevice> SharedStore<D> {
    /// Starts a thread that tells the store the time, so that it is sealed when it is idle ([`Store::tick`](crate::Store::tick)),
    /// until what is returned is dropped. The thread sleeps while there is nothing to seal. One is enough: a second one takes
    /// the place of the first, which then may sleep too long.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn ticker(&self) -> io::Result<Ticker>
    where
        D: Send + Sync + 'static,
    {
        let (inner, over) = (Arc::downgrade(&self.inner), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let run = move || {
            while let Some(inner) = inner.upgrade().filter(|_| !is_over.load(Ordering::SeqCst)) {
                let may_doze = inner.tick_or_doze();
                drop(inner);
                if may_doze { thread::park() } else { thread::park_timeout(TICK) }
            }
        };
        // Held until the thread is known: it may doze, and a writer may want to wake it, before this thread goes on.
        let mut ticker = unpoisoned(self.inner.ticker.thread.lock());
        let thread = thread::Builder::new().name("statefs-ticker".to_owned()).spawn(run)?;
        *ticker = Some(thread.thread().clone());
        Ok(Ticker { thread: Some(thread), over })
    }

    /// Starts the commit thread, which alone leads from now on, until what is returned is dropped or the store is closed.
    /// [`SharedStore::submit`] needs it.
    ///
    /// # Errors
    /// `AlreadyExists`: there is one. Otherwise the operating system has no thread to give.
    pub fn driver(&self) -> io::Result<Driver<D>>
    where
        D: Send + Sync + 'static,
    {
        let mut queue = self.inner.queue();
        if queue.has_driver {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the store has a commit thread"));
        }
        queue.has_driver = true;
        drop(queue);
        let over = Arc::new(AtomicBool::new(false));
        let (inner, is_over) = (Arc::clone(&self.inner), Arc::clone(&over));
        let spawned =
            thread::Builder::new().name("statefs-commit".to_owned()).spawn(move || inner.drive(&is_over));
        match spawned {
            Ok(thread) => Ok(Driver { thread: Some(thread), inner: Arc::clone(&self.inner), over }),
            Err(error) => {
                self.inner.end_driver();
                Err(error)
            }
        }
    }
}

impl<D: BlockDevice> Inner<D> {
    /// Tells the store the time; whether there is nothing more to do until something is asked for.
    fn tick_or_doze(&self) -> bool {
        let now = match caught(|| self.clock.elapsed()) {
            Ok(now) => now,
            Err(panic) => {
                // No tick follows, so deadlines would never pass and the store would never be sealed.
                let _error = self.writer().poison(Store::fail_beside_frames);
                panic.resume();
            }
        };
        // A store that cannot be sealed any more tells the next writer why.
        let has_failed = self.tick(now).is_err();
        // Said first, looked at then: a writer in between wakes this thread.
        self.ticker.is_dozing.store(true, Ordering::SeqCst);
        let is_over = has_failed || self.queue().is_closed;
        // Requests that wait may have a deadline.
        let may_doze = (is_over || self.reader().is_sealed()) && self.queue().is_empty();
        self.ticker.is_dozing.store(may_doze, Ordering::SeqCst);
        may_doze
    }

    /// Leads until it is over or the store is closed. A panic in foreign code has poisoned the store and is not passed on:
    /// every request is answered with what it came to.
    fn drive(&self, over: &AtomicBool) {
        let mut queue = self.queue();
        while !over.load(Ordering::SeqCst) && !queue.is_closed {
            match queue.lead_for_driver() {
                Some(lead) => {
                    drop(queue);
                    drop(self.lead(lead));
                    queue = self.queue();
                }
                None => queue = unpoisoned(self.work.wait(queue)),
            }
        }
        drop(queue);
        self.end_driver();
    }

    fn end_driver(&self) {
        let (submitted, next) = {
            let mut queue = self.queue();
            queue.has_driver = false;
            (queue.take_callbacks(), queue.choose())
        };
        self.wake(next);
        self.answer_all(submitted.into_iter().map(|entry| (entry.asker, Err(Error::NoDriver))));
    }
}
