//! [`SharedStore`]: one store that many threads use, and one barrier for all that ask at the same time.
//!
//! ```text
//! thread 1   gathers {1}      ── barrier of frame n ──────   applies n, answers
//! thread 2     asks, waits …  gathers {2,3}  ── barrier of frame n+1 ──
//! thread 3       asks, waits …                                              … has its answer
//! ```
//!
//! Every operation that touches the device has three steps. *Begin*, under the lock, fixes what is done and reserves the memory
//! to make the result visible. *Carry out* calls the device, without any lock. *End*, under the lock, makes the result visible;
//! then callers are answered, and then chores are done.
//!
//! - A **frame** of batches, deletions and syncs begins with [`Store::begin_frame`] and ends with [`Store::end_frame`]. While
//!   it is in flight, the next one is gathered.
//! - Everything else (settings, compaction, seals, closing, and requests that need room to be made first) takes the whole
//!   store **out of its lock** for one turn. Readers use a [`View`] that was taken when the turn began; writers wait in the
//!   queue. So such an operation may call the device wherever it likes.
//!
//! Without a commit thread a caller leads if no other thread does: it gathers the next frame for all that wait, and carries it
//! out. So a lone writer pays for no thread switch. Where there is a commit thread ([`SharedStore::driver`]), it alone leads.
//!
//! Invariants
//! - there is one [`Lead`], and only its holder gathers, or takes the store out of its lock. It is a value that is passed on:
//!   every path that takes it ends in [`Inner::settle`], which puts it back and chooses the next leader.
//! - the store is taken out only while no frame is in flight, so a frame always ends on the store it began on.
//! - an answer is given after its frame is durable and visible, and frames become visible in order.
//! - no lock is held while foreign code runs (device, clock, source of random bytes, callbacks); a panic in it is caught by
//!   [`caught`](media::sync::caught).
//! - locks are taken in the order state, queue, subscriptions.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use media::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use media::{BlockDevice, Clock};

use crate::batch::{Batch, Precondition};
use crate::changes::{Changes, Ring};
use crate::error::Error;
use crate::histogram::Histogram;
use crate::key::{Key, Prefix};
use crate::nonces::Nonces;
use crate::parts::SharedValue;
use crate::quota::QuotaUse;
use crate::record::{Form, Revision};
use crate::snapshot::SnapshotName;
use crate::store::{Certainty, Stats, Store, Value};
use crate::view::{VIEWS_MAX, View};

mod admit;
mod lead;
mod queue;
mod subscriptions;
mod threads;

use queue::{Answer, Ask, Asker, Entry, Lead, Queue, Turn};
use subscriptions::{Subscriber, Subscriptions};

pub use queue::{WAITING_LEN_MAX, WAITING_MAX};
pub use threads::{Driver, Ticker};

/// A store that many threads use. Clones are handles of the same store.
#[derive(Debug)]
pub struct SharedStore<D: BlockDevice> {
    inner: Arc<Inner<D>>,
}

impl<D: BlockDevice> Clone for SharedStore<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<D: BlockDevice> {
    device: Arc<D>,
    clock: Arc<dyn Clock>,
    state: RwLock<State<D>>,
    queue: Mutex<Queue>,
    subscriptions: Mutex<Subscriptions>,
    /// Wakes the commit thread.
    work: Condvar,
    ticker: threads::Alarm,
}

/// Nothing that is behind a lock: whoever prints this is foreign code.
impl<D: BlockDevice> fmt::Debug for Inner<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

struct State<D: BlockDevice> {
    held: Held<D>,
    /// The source of nonces, which the store has only while it is out of its lock.
    nonces: Option<Box<dyn Nonces>>,
    /// How long frames took.
    frame_micros: Histogram,
}

/// The store, or what readers use while a thread has it.
enum Held<D: BlockDevice> {
    Here(Box<Store<Arc<D>>>),
    Lent(Box<Lent>),
}

/// The store as it was when a turn began.
struct Lent {
    view: View,
    /// Whether the view counts, so that callers may keep it.
    is_counted: bool,
    changes: Ring,
    stats: Stats,
    is_sealed: bool,
    quotas: Vec<QuotaUse>,
}

/// A store that a thread has taken out of its lock, and the lead, which it holds meanwhile.
struct Taken<D: BlockDevice> {
    store: Box<Store<Arc<D>>>,
    lead: Lead,
}

/// A value that was read, for its reader to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedValue {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The revision of the write that it came with.
    pub revision: Revision,
    /// Whether it is known to be the newest.
    pub certainty: Certainty,
    /// What the bytes are.
    pub form: Form,
}

/// What the store holds and has done, as threads see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedStats {
    /// Of the store. While a thread has exclusive access, as they were when that began.
    pub store: Stats,
    /// How long frames took from being begun to being durable, in microseconds.
    pub frame_micros: Histogram,
    /// How many requests wait to begin.
    pub waiting: usize,
}

/// A batch that was submitted: its answer goes to the callback. Dropping this changes nothing.
#[derive(Debug)]
pub struct Request<D: BlockDevice> {
    inner: Arc<Inner<D>>,
    number: u64,
}

impl<D: BlockDevice> Request<D> {
    /// Withdraws the request if it has not begun; its callback is called with [`Error::Cancelled`] before this returns true.
    /// False: it has begun, or is answered, and the callback has the true answer.
    pub fn cancel(self) -> bool {
        let withdrawn = self.inner.queue().withdraw(self.number);
        let is_withdrawn = withdrawn.is_some();
        self.inner.answer_all(withdrawn.into_iter().map(|entry| (entry.asker, Err(Error::Cancelled))));
        is_withdrawn
    }
}

/// A subscription to the durable changes below a prefix. It ends when this is dropped.
#[derive(Debug)]
#[must_use = "the subscription ends when this is dropped"]
pub struct Subscription<D: BlockDevice> {
    inner: Arc<Inner<D>>,
    subscriber: Arc<Subscriber>,
}

impl<D: BlockDevice> Subscription<D> {
    /// Fetches the next changes, about `max` of them, in the order of revisions; those of a batch come together. No changes:
    /// there are none, and the next one notifies again.
    ///
    /// Each change is fetched once. [`Changes::FellBehind`]: the oldest change that was not fetched is not remembered any
    /// more; list everything, and go on fetching.
    ///
    /// # Errors
    /// [`Error::Closed`]: the store has been closed, and everything has been fetched. [`Error::NoMemory`].
    pub fn fetch(&self, max: usize) -> Result<Changes, Error> {
        let inner = &self.inner;
        // Asked first: what became durable before the store was closed is found after that.
        let is_closed = inner.queue().is_closed;
        let state = inner.reader();
        let (ring, durable) = state.changes();
        let changes = inner.subscriptions().fetch(&self.subscriber, ring, durable, max)?;
        drop(state);
        match &changes {
            Changes::Events { events, .. } if events.is_empty() && is_closed => Err(Error::Closed),
            Changes::Events { .. } | Changes::FellBehind { .. } => Ok(changes),
        }
    }
}

impl<D: BlockDevice> Drop for Subscription<D> {
    fn drop(&mut self) {
        self.inner.subscriptions().remove(&self.subscriber);
    }
}

/// A panic in foreign code happens with no lock held, so what a lock guards is never half changed.
fn unpoisoned<G>(locked: Result<G, PoisonError<G>>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}

impl<D: BlockDevice> SharedStore<D> {
    /// Shares a store. `clock` measures how long frames take, and when a watcher's patience ends.
    #[must_use]
    pub fn new(store: Store<D>, clock: Arc<dyn Clock>) -> Self {
        let (device, mut store) = store.share();
        let nonces = store.sealing.nonces.take_source();
        let subscriptions = Subscriptions::from(store.durable_revision());
        let inner = Inner {
            device,
            clock,
            queue: Mutex::new(Queue::new(store.outgoing_max())),
            state: RwLock::new(State {
                held: Held::Here(Box::new(store)),
                nonces,
                frame_micros: Histogram::default(),
            }),
            subscriptions: Mutex::new(subscriptions),
            work: Condvar::new(),
            ticker: threads::Alarm::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives a key a value.
    ///
    /// # Durability
    /// As [`Store::put`]: `Ok` says that it survives power loss, and only then do readers see it.
    ///
    /// # Errors
    /// As [`Store::put`]; `Busy`, and nothing has changed, if as many requests wait as may ([`WAITING_MAX`],
    /// [`WAITING_LEN_MAX`]); [`Error::Closed`].
    pub fn put(&self, key: &Key, value: &[u8]) -> Result<Revision, Error> {
        let mut batch = Batch::new();
        batch.put(key, value)?;
        self.batch(batch)
    }

    /// Takes a key's value away; [`None`] if it had none.
    ///
    /// # Durability
    /// As [`Store::delete`].
    ///
    /// # Errors
    /// As [`Store::delete`]; `Busy`; [`Error::Closed`].
    pub fn delete(&self, key: &Key) -> Result<Option<Revision>, Error> {
        Ok(self.inner.ask(Ask::Delete(key.clone()), None)?.revision())
    }

    /// Gives a key a value if it is as expected, by all that was asked for before.
    ///
    /// # Durability
    /// As [`Store::put`].
    ///
    /// # Errors
    /// As [`Store::compare_and_swap`]; `Busy`; [`Error::Closed`].
    pub fn compare_and_swap(
        &self,
        key: &Key,
        expected: Precondition,
        value: &[u8],
    ) -> Result<Revision, Error> {
        let mut batch = Batch::new();
        batch.require(key, expected)?;
        batch.put(key, value)?;
        self.batch(batch)
    }

    /// Carries out a batch, if all its preconditions hold, and returns its last revision.
    ///
    /// # Durability
    /// As [`Store::batch`].
    ///
    /// # Errors
    /// As [`Store::batch`]; `Busy`; [`Error::Closed`].
    pub fn batch(&self, batch: Batch) -> Result<Revision, Error> {
        self.inner.ask(Ask::Batch(batch), None)?.written()
    }

    /// As [`SharedStore::batch`], and gives up if the batch has not begun when the clock of this store shows `deadline`. Once
    /// it has begun, this waits for the true answer.
    ///
    /// # Durability
    /// As [`Store::batch`].
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`]: nothing has changed. Otherwise as [`SharedStore::batch`].
    pub fn batch_by(&self, batch: Batch, deadline: Duration) -> Result<Revision, Error> {
        self.inner.ask(Ask::Batch(batch), Some(deadline))?.written()
    }

    /// Queues a batch for the commit thread ([`SharedStore::driver`]), which calls `done` exactly once with the answer. It is
    /// called on the commit thread (or on the thread that cancels, closes or ticks) with no lock held. It may submit more; it
    /// must not make a blocking call of this store, for which the commit thread would have to go on. A panic in it
    /// concerns nobody else.
    ///
    /// # Durability
    /// As [`Store::batch`]: `done(Ok(..))` says that it survives power loss.
    ///
    /// # Errors
    /// Nothing was queued, and `done` is not called: [`Error::NoDriver`], [`Error::Closed`], `Busy`. What `done` is told:
    /// as [`Store::batch`]; [`Error::Closed`], if the store was closed before the batch began; [`Error::NoDriver`], if the
    /// commit thread ended before that.
    pub fn submit(
        &self,
        batch: Batch,
        done: impl FnOnce(Result<Revision, Error>) + Send + 'static,
    ) -> Result<Request<D>, Error> {
        self.submit_entry(Entry::new(Ask::Batch(batch), Asker::Callback(Box::new(done)), None))
    }

    /// As [`SharedStore::submit`]; the first [`SharedStore::tick`] at or after `deadline` answers [`Error::DeadlinePassed`] if
    /// the batch has not begun by then.
    ///
    /// # Errors
    /// As [`SharedStore::submit`].
    pub fn submit_by(
        &self,
        batch: Batch,
        deadline: Duration,
        done: impl FnOnce(Result<Revision, Error>) + Send + 'static,
    ) -> Result<Request<D>, Error> {
        self.submit_entry(Entry::new(Ask::Batch(batch), Asker::Callback(Box::new(done)), Some(deadline)))
    }

    fn submit_entry(&self, entry: Entry) -> Result<Request<D>, Error> {
        let mut queue = self.inner.queue();
        queue.check(&entry)?;
        let number = queue.push(entry);
        let next = queue.choose();
        drop(queue);
        self.inner.wake(next);
        // It looks after the deadline.
        self.inner.ticker.wake();
        Ok(Request { inner: Arc::clone(&self.inner), number })
    }

    /// Gives a key a value without making it durable: readers see it at once.
    ///
    /// # Durability
    /// As [`Store::put_buffered`].
    ///
    /// # Errors
    /// As [`Store::put_buffered`]; `Busy`; [`Error::Closed`].
    pub fn put_buffered(&self, key: &Key, value: &[u8]) -> Result<Revision, Error> {
        let mut batch = Batch::new();
        batch.put(key, value)?;
        self.inner.buffer(Ask::Buffer(batch))?.written()
    }

    /// Takes a key's value away without making that durable.
    ///
    /// # Durability
    /// As [`Store::put_buffered`].
    ///
    /// # Errors
    /// As [`Store::delete_buffered`]; `Busy`; [`Error::Closed`].
    pub fn delete_buffered(&self, key: &Key) -> Result<Option<Revision>, Error> {
        Ok(self.inner.buffer(Ask::BufferDelete(key.clone()))?.revision())
    }

    /// Makes everything durable that was asked for before, by any thread, and returns the revision up to which it is.
    ///
    /// # Errors
    /// As [`Store::sync`]; `Busy`; [`Error::Closed`].
    pub fn sync(&self) -> Result<Revision, Error> {
        self.inner.ask(Ask::Sync, None)?.written()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn get(&self, key: &Key) -> Result<Option<OwnedValue>, Error> {
        let state = self.inner.reader();
        let Some(value) = state.get(key) else { return Ok(None) };
        let len = value.bytes.len();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        bytes.extend_from_slice(value.bytes);
        let (revision, certainty, form) = (value.revision, value.certainty, value.form);
        Ok(Some(OwnedValue { bytes, revision, certainty, form }))
    }

    /// Calls `look` with the value of a key, or with [`None`] if it has none, and returns what it returns. The value is not
    /// copied (one that was written last may be), and no lock is held meanwhile.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn get_with<T>(&self, key: &Key, look: impl FnOnce(Option<Value<'_>>) -> T) -> Result<T, Error> {
        let state = self.inner.reader();
        match &state.held {
            Held::Here(store) => {
                let value = store.value_for_reader(key)?;
                drop(state);
                Ok(look(value.as_ref().map(SharedValue::value)))
            }
            Held::Lent(lent) => {
                let view = lent.view.clone();
                drop(state);
                Ok(look(view.get(key)))
            }
        }
    }

    /// Calls `each` with the keys that a prefix covers and their values, in order, from `after` on, at most `limit` of them,
    /// until it says that it has enough. Returns the key to go on after; [`None`] at the end. All of them are of one moment, and
    /// no lock is held while `each` runs.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
        each: impl FnMut(&str, Value<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Key>, Error> {
        let state = self.inner.reader();
        match &state.held {
            Held::Here(store) => {
                let part = store.part_for_reader(prefix, after, limit)?;
                drop(state);
                Ok(part.each(each))
            }
            Held::Lent(lent) => {
                let view = lent.view.clone();
                drop(state);
                view.scan(prefix, after, limit, each)
            }
        }
    }

    /// The store as it is now, for reads, scans and backups without a lock, for as long as it is kept. It keeps the memory of
    /// what has been replaced since.
    ///
    /// # Errors
    /// [`Error::TooManyViews`]: as many views of different moments are alive as may be. [`Error::NoMemory`].
    pub fn view(&self) -> Result<View, Error> {
        match &mut self.inner.writer().held {
            Held::Here(store) => store.view(),
            Held::Lent(lent) if lent.is_counted => Ok(lent.view.clone()),
            Held::Lent(_) => Err(Error::TooManyViews { limit: VIEWS_MAX }),
        }
    }

    /// Reads whatever it likes in one consistent state of the store: all or nothing of each batch. `look` runs with no lock
    /// held, so it may take long, read again, and write.
    ///
    /// # Errors
    /// As [`SharedStore::view`].
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> Result<T, Error> {
        Ok(look(&self.view()?))
    }

    /// Everything written with a revision up to this one is durable.
    #[must_use]
    pub fn durable_revision(&self) -> Revision {
        self.inner.reader().changes().1
    }

    /// The durable changes below a prefix that came after `since`, as [`Store::changes`]. Where there are none yet, waits for
    /// one, and no longer than `patience`; then the answer is empty.
    ///
    /// # Errors
    /// As [`Store::changes`]; [`Error::Closed`]: there will be none.
    pub fn watch(
        &self,
        prefix: &Prefix,
        since: Revision,
        max: usize,
        patience: Duration,
    ) -> Result<Changes, Error> {
        let until = self.inner.clock.elapsed().saturating_add(patience);
        let alarm = Arc::new(threads::Bell::default());
        let ring = Arc::clone(&alarm);
        let subscription = self.subscribe(prefix, move || ring.ring());
        let mut since = since;
        loop {
            // Before looking, so that a change after the look rings again.
            subscription.subscriber.rearm();
            let is_closed = self.inner.queue().is_closed;
            let found = {
                let state = self.inner.reader();
                let (ring, durable) = state.changes();
                ring.changes(prefix, since, durable, max)?
            };
            match found {
                // Nothing below the prefix: what was looked at need not be looked at again.
                Changes::Events { events, next } if events.is_empty() => since = next,
                found => return Ok(found),
            }
            if is_closed {
                return Err(Error::Closed);
            }
            let left = until.saturating_sub(self.inner.clock.elapsed());
            if left.is_zero() {
                return Ok(Changes::Events { events: Vec::new(), next: since });
            }
            alarm.wait(left);
        }
    }

    /// Subscribes to the changes below a prefix that become durable from now on. `notify` is called, with no lock held, when a
    /// subscription that has no unfetched change gets one, and when the store is closed; it should be short, for it runs on
    /// the thread that made the change durable, and must not write, because that would wait for this thread. Changes that are
    /// made with exclusive access are told when that ends.
    pub fn subscribe(&self, prefix: &Prefix, notify: impl Fn() + Send + Sync + 'static) -> Subscription<D> {
        let subscriber = self.inner.subscriptions().add(prefix, Box::new(notify));
        Subscription { inner: Arc::clone(&self.inner), subscriber }
    }

    /// Runs `act` with exclusive access: waits for its turn, in which no frame is in flight, and keeps other writers waiting
    /// until `act` returns. Readers go on, with the store as it was when the turn began. For operations such as snapshots,
    /// quotas, encryption and compaction; a turn should be short. Between two turns every request that waits is served.
    ///
    /// `act` must not write through a handle of this store, because that would wait for `act`. A panic in it poisons the
    /// store, because it may be one of the device, and goes on.
    ///
    /// # Errors
    /// [`Error::Closed`], `Busy`, [`Error::NoMemory`], and those of `act`.
    pub fn exclusively<T>(
        &self,
        act: impl FnOnce(&mut Store<Arc<D>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.inner.take_turn(Turn::Passing, act)
    }

    /// As [`Store::snapshot`].
    ///
    /// # Errors
    /// As [`Store::snapshot`] and [`SharedStore::exclusively`].
    pub fn snapshot(&self, name: &SnapshotName) -> Result<Revision, Error> {
        self.exclusively(|store| store.snapshot(name))
    }

    /// As [`Store::drop_snapshot`].
    ///
    /// # Errors
    /// As [`Store::drop_snapshot`] and [`SharedStore::exclusively`].
    pub fn drop_snapshot(&self, name: &SnapshotName) -> Result<Option<Revision>, Error> {
        self.exclusively(|store| store.drop_snapshot(name))
    }

    /// Tells the store the time: requests whose deadline has passed are refused, and an idle store is sealed
    /// ([`Store::tick`]). While anything is in flight or waits, there is nothing to seal.
    ///
    /// # Errors
    /// As [`Store::tick`].
    pub fn tick(&self, now: Duration) -> Result<(), Error> {
        self.inner.tick(now)
    }

    /// Makes everything durable, and leaves a mark that the store was closed. It is closed at its turn: requests that came
    /// before are served, later ones are refused. Other handles may go on reading.
    ///
    /// # Errors
    /// As [`Store::close`]: the store is closed nevertheless. [`Error::Closed`], if it was.
    pub fn close(&self) -> Result<(), Error> {
        self.inner.take_turn(Turn::Closing, Store::shut)
    }

    /// What is held, what was done, and how long it took.
    #[must_use]
    pub fn stats(&self) -> SharedStats {
        let state = self.inner.reader();
        let store = match &state.held {
            Held::Here(store) => store.stats(),
            Held::Lent(lent) => lent.stats.clone(),
        };
        let frame_micros = state.frame_micros;
        drop(state);
        SharedStats { store, frame_micros, waiting: self.inner.queue().waiting() }
    }

    /// Whether nothing has been written since the last seal. While a thread has exclusive access, as it was when that began.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.inner.reader().is_sealed()
    }

    /// The quotas and what is used of each. While a thread has exclusive access, as they were when that began.
    #[must_use]
    pub fn quotas(&self) -> Vec<QuotaUse> {
        match &self.inner.reader().held {
            Held::Here(store) => store.quotas().collect(),
            Held::Lent(lent) => lent.quotas.clone(),
        }
    }

    /// The device underneath. Writing to it directly bypasses every guarantee.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.inner.device
    }
}

impl Answer {
    fn revision(self) -> Option<Revision> {
        match self {
            Self::Written(revision) | Self::Synced(revision) => Some(revision),
            Self::WasAbsent => None,
        }
    }

    /// The revision of something that always has one.
    fn written(self) -> Result<Revision, Error> {
        self.revision().ok_or(Error::EmptyBatch)
    }
}

impl<D: BlockDevice> State<D> {
    fn get(&self, key: &Key) -> Option<Value<'_>> {
        match &self.held {
            Held::Here(store) => store.get(key),
            Held::Lent(lent) => lent.view.get(key),
        }
    }

    /// The changes that are remembered, and up to where they are durable.
    fn changes(&self) -> (&Ring, Revision) {
        match &self.held {
            Held::Here(store) => (&store.changes, store.durable_revision()),
            Held::Lent(lent) => (&lent.changes, lent.view.durable_revision()),
        }
    }

    fn is_sealed(&self) -> bool {
        match &self.held {
            Held::Here(store) => store.is_sealed(),
            Held::Lent(lent) => lent.is_sealed,
        }
    }
}
