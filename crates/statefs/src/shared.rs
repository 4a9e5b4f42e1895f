//! [`SharedStore`]: one store, many threads, one barrier for all who ask at the same time.
//!
//! There is no writer thread and no timer. Who asks while nobody else does carries out the frame; who asks while a frame is
//! on its way waits, and the first of those who wait **leads** the next frame: it gathers what all of them ask for, and
//! carries it out for them. So a lone writer pays for one durable write and nothing else, and many share one.
//!
//! ```text
//! thread 1   gathers {1}      ── durable write of frame n ──────   shows n, wakes
//! thread 2     asks, waits …  gathers {2,3}  ── durable write of frame n+1 ──
//! thread 3       asks, waits …                                                 … has its answer
//! ```
//!
//! Invariants
//! - one thread gathers at a time; no more frames are out than the journal takes, and only one while a compaction is due,
//!   which needs a moment in which none is.
//! - an answer is given after the frame is durable and shown, in the order of the frames.
//! - whoever waits is in the queue or rides on a frame that is out; a frame that ends makes the first of the queue lead.
//!   Nobody waits for a clock.
//! - no lock is held while the device writes a commit. Locks are taken in the order state, queue.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use journal::Outgoing;
use media::{BlockDevice, Clock, DeviceCause, DeviceError};

use crate::batch::{Batch, Precondition};
use crate::changes::Changes;
use crate::commit::Company;
use crate::error::{Error, ErrorKind};
use crate::histogram::Histogram;
use crate::key::{Key, Prefix};
use crate::record::{Form, Record, Revision};
use crate::store::{Certainty, Stats, Store};

/// How often a ticker tells the time.
const TICK: Duration = Duration::from_millis(25);

/// How many threads may wait at a time; those beyond are refused. Those whose turn was put off do not count.
pub const WAITING_MAX: usize = 1024;

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

#[derive(Debug)]
struct Inner<D: BlockDevice> {
    device: Arc<D>,
    clock: Arc<dyn Clock>,
    state: RwLock<State<D>>,
    queue: Mutex<Queue>,
    /// Told when nobody gathers and nothing is out, for who needs the store for itself.
    quiet: Condvar,
    frame_micros: Mutex<Histogram>,
    /// Counts the times that something may have become durable, for those who watch; and tells them.
    shown: Mutex<u64>,
    news: Condvar,
    ticker: Mutex<Option<Thread>>,
    /// The ticker sleeps until it is woken.
    is_dozing: AtomicBool,
}

#[derive(Debug)]
struct State<D: BlockDevice> {
    store: Store<Arc<D>>,
    /// Those whose answers come with the frames that are out, in order.
    riders: VecDeque<Riders>,
}

/// Who waits, and what is going on.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Waiter>>,
    /// Somebody gathers, or has been told to.
    is_led: bool,
    /// Frames that are out, and how many may be.
    out: usize,
    out_max: usize,
    /// How many have to wait before a frame goes out beside another one: as many as the last frame has woken. Without that,
    /// the first of them to ask again would take the second place for itself alone, and the others would share nothing.
    crowd: usize,
    /// The first one that waits can go on only when a frame has ended.
    is_blocked: bool,
    /// How many wait to have the store for themselves.
    wanted_alone: usize,
    is_closed: bool,
}

impl Queue {
    /// Makes the first of those who wait lead, if it is time for that.
    fn next_leader(&mut self) -> Option<Arc<Waiter>> {
        let has_place = self.out == 0 || (self.out < self.out_max && self.waiting.len() >= self.crowd);
        let may_lead = has_place && !self.is_led && !self.is_blocked && self.wanted_alone == 0;
        let first = self.waiting.front().filter(|_| may_lead).cloned();
        self.is_led |= first.is_some();
        first
    }

    fn is_quiet(&self) -> bool {
        !self.is_led && self.out == 0
    }
}

/// A thread that waits for an answer.
#[derive(Debug)]
struct Waiter {
    ask: Ask,
    thread: Thread,
    told: Mutex<Told>,
}

/// What somebody asks for.
#[derive(Debug)]
enum Ask {
    /// Changes, if all the preconditions hold.
    Batch(Batch),
    /// That a key has no value.
    Delete(Key),
    /// That everything asked for so far is durable.
    Sync,
}

/// What is answered.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Written(Revision),
    WasAbsent,
    Synced,
}

/// What a thread that waits has been told.
#[derive(Debug)]
enum Told {
    Nothing,
    /// It is its turn to lead.
    Lead,
    Answer(Result<Answer, Error>),
}

/// Those whose answer comes with a frame.
#[derive(Debug)]
struct Riders {
    seq: u64,
    answers: Vec<(Arc<Waiter>, Answer)>,
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
            // It has nothing to say; a panic in it was printed.
            drop(thread.join());
        }
    }
}

/// A value that was read, for its reader to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedValue {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Of the write it came with.
    pub revision: Revision,
    /// Whether it is known to be the newest.
    pub certainty: Certainty,
    /// What the bytes are.
    pub form: Form,
}

/// What the store holds and has done, as threads see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedStats {
    /// Of the store.
    pub store: Stats,
    /// How long frames took from being begun to being durable, in microseconds.
    pub frame_micros: Histogram,
    /// How many threads wait for a frame to begin.
    pub waiting: usize,
}

impl Waiter {
    fn tell(&self, told: Told) {
        *unpoisoned(self.told.lock()) = told;
        self.thread.unpark();
    }

    fn listen(&self) -> Told {
        loop {
            let told = std::mem::replace(&mut *unpoisoned(self.told.lock()), Told::Nothing);
            match told {
                Told::Nothing => thread::park(),
                told => return told,
            }
        }
    }
}

/// A thread that panicked cannot have left a lock's value half changed in a way that the next one would believe: a store
/// whose frame was not ended takes no other.
fn unpoisoned<G>(locked: Result<G, PoisonError<G>>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}

impl<D: BlockDevice> SharedStore<D> {
    /// Shares a store. `clock` measures how long frames take, and is told to nobody else.
    #[must_use]
    pub fn new(store: Store<D>, clock: Arc<dyn Clock>) -> Self {
        let (device, store) = store.share();
        let queue = Queue { out_max: store.outgoing_max(), crowd: 1, ..Queue::default() };
        let inner = Inner {
            device,
            clock,
            state: RwLock::new(State { store, riders: VecDeque::new() }),
            queue: Mutex::new(queue),
            quiet: Condvar::new(),
            frame_micros: Mutex::default(),
            shown: Mutex::default(),
            news: Condvar::new(),
            ticker: Mutex::default(),
            is_dozing: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives a key a value.
    ///
    /// # Durability
    /// As [`Store::put`]: `Ok` says that it survives power loss, and only then do readers see it.
    ///
    /// # Errors
    /// As [`Store::put`]; `Busy`, and nothing has changed, if [`WAITING_MAX`] threads wait already; [`Error::Closed`].
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
        match self.inner.ask(Ask::Delete(key.clone()))? {
            Answer::Written(revision) => Ok(Some(revision)),
            Answer::WasAbsent | Answer::Synced => Ok(None),
        }
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

    /// Carries out a batch, if all its preconditions hold. Its last revision.
    ///
    /// # Durability
    /// As [`Store::batch`].
    ///
    /// # Errors
    /// As [`Store::batch`]; `Busy`; [`Error::Closed`].
    pub fn batch(&self, batch: Batch) -> Result<Revision, Error> {
        match self.inner.ask(Ask::Batch(batch))? {
            Answer::Written(revision) => Ok(revision),
            Answer::WasAbsent | Answer::Synced => Ok(Revision::from_u64(0)),
        }
    }

    /// Gives a key a value without making it durable: readers see it at once.
    ///
    /// # Durability
    /// As [`Store::put_buffered`].
    ///
    /// # Errors
    /// As [`Store::put_buffered`]; [`Error::Closed`].
    pub fn put_buffered(&self, key: &Key, value: &[u8]) -> Result<Revision, Error> {
        self.inner.buffer(key, |store| store.put_buffered(key, value))
    }

    /// Takes a key's value away without making that durable.
    ///
    /// # Durability
    /// As [`Store::put_buffered`].
    ///
    /// # Errors
    /// As [`Store::delete_buffered`]; [`Error::Closed`].
    pub fn delete_buffered(&self, key: &Key) -> Result<Option<Revision>, Error> {
        self.inner.buffer(key, |store| store.delete_buffered(key))
    }

    /// Makes everything durable that was asked for before, by whatever thread; the revision up to which it is.
    ///
    /// # Errors
    /// As [`Store::sync`]; `Busy`; [`Error::Closed`].
    pub fn sync(&self) -> Result<Revision, Error> {
        let (Answer::Written(_) | Answer::WasAbsent | Answer::Synced) = self.inner.ask(Ask::Sync)?;
        Ok(self.read(|store| store.durable_revision()))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn get(&self, key: &Key) -> Result<Option<OwnedValue>, Error> {
        let state = self.inner.reader();
        let Some(value) = state.store.get(key) else { return Ok(None) };
        let len = value.bytes.len();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        bytes.extend_from_slice(value.bytes);
        let (revision, certainty, form) = (value.revision, value.certainty, value.form);
        Ok(Some(OwnedValue { bytes, revision, certainty, form }))
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
        let mut since = since;
        loop {
            let seen = *unpoisoned(self.inner.shown.lock());
            match self.read(|store| store.changes(prefix, since, max))? {
                // Nothing below the prefix: what was looked at need not be looked at again.
                Changes::Events { events, next } if events.is_empty() => since = next,
                found => return Ok(found),
            }
            if self.inner.queue().is_closed {
                return Err(Error::Closed);
            }
            let left = until.saturating_sub(self.inner.clock.elapsed());
            if left.is_zero() {
                return Ok(Changes::Events { events: Vec::new(), next: since });
            }
            let shown = unpoisoned(self.inner.shown.lock());
            let waited = self.inner.news.wait_timeout_while(shown, left, |shown| *shown == seen);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Reads whatever it likes in one consistent state of the store: all or nothing of each batch. While it does, no frame is
    /// shown, so it should not take long, and it must not write to this store.
    pub fn read<T>(&self, look: impl FnOnce(&Store<Arc<D>>) -> T) -> T {
        look(&self.inner.reader().store)
    }

    /// Lets a thread tell the store the time, so that it is sealed when it is idle ([`Store::tick`]), until what is returned is
    /// dropped. The thread sleeps while there is nothing to seal. One is enough: a second one takes the place of the first, which
    /// then may sleep too long.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn ticker(&self) -> std::io::Result<Ticker>
    where
        D: Send + Sync + 'static,
    {
        let (inner, over) = (Arc::downgrade(&self.inner), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let run = move || {
            while let Some(inner) = inner.upgrade().filter(|_| !is_over.load(Ordering::SeqCst)) {
                let may_doze = Self { inner }.tick_or_doze();
                if may_doze { thread::park() } else { thread::park_timeout(TICK) }
            }
        };
        // Held until the thread is known: it may doze, and somebody may want to wake it, before this thread goes on.
        let mut ticker = unpoisoned(self.inner.ticker.lock());
        let thread = thread::Builder::new().name("statefs-ticker".to_owned()).spawn(run)?;
        *ticker = Some(thread.thread().clone());
        Ok(Ticker { thread: Some(thread), over })
    }

    /// One tick; whether there is nothing more to do until somebody writes.
    fn tick_or_doze(&self) -> bool {
        // A store that cannot be sealed any more tells whoever writes next why.
        let has_failed = self.tick(self.inner.clock.elapsed()).is_err();
        // Said first, looked at then: who writes in between wakes this thread.
        self.inner.is_dozing.store(true, Ordering::SeqCst);
        let may_doze = has_failed || self.read(Store::is_sealed);
        self.inner.is_dozing.store(may_doze, Ordering::SeqCst);
        may_doze
    }

    /// Has the store for itself: waits until no frame is on its way, and holds back those that come. For what is rare, such
    /// as a compaction at leisure. It must not come back to this handle. If it panics, the store is poisoned, because the
    /// panic may be one of the device.
    ///
    /// # Errors
    /// [`Error::Closed`], and those of `act`.
    pub fn exclusively<T>(
        &self,
        act: impl FnOnce(&mut Store<Arc<D>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.inner.alone(Handle::Open)?.act(act)
    }

    /// As [`Store::tick`]. While frames are on their way there is nothing to seal, and nothing is done.
    ///
    /// # Errors
    /// As [`Store::tick`].
    pub fn tick(&self, now: Duration) -> Result<(), Error> {
        match self.inner.alone_at_once() {
            Some(alone) => alone.act(|store| store.tick(now)),
            None => Ok(()),
        }
    }

    /// Makes everything durable, and leaves a mark that the store was closed. Other handles may go on reading; what they want
    /// to write is refused.
    ///
    /// # Errors
    /// As [`Store::close`]; [`Error::Closed`], if it was.
    pub fn close(&self) -> Result<(), Error> {
        let alone = self.inner.alone(Handle::Closing)?;
        alone.act(Store::shut)
    }

    /// What is held, what was done, and how long it took.
    #[must_use]
    pub fn stats(&self) -> SharedStats {
        let frame_micros = *unpoisoned(self.inner.frame_micros.lock());
        let waiting = self.inner.queue().waiting.len();
        SharedStats { store: self.read(Store::stats), frame_micros, waiting }
    }
}

impl<D: BlockDevice> Inner<D> {
    fn reader(&self) -> RwLockReadGuard<'_, State<D>> {
        unpoisoned(self.state.read())
    }

    fn writer(&self) -> RwLockWriteGuard<'_, State<D>> {
        unpoisoned(self.state.write())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        unpoisoned(self.queue.lock())
    }

    /// Waits for an answer, and leads where it is told to.
    fn ask(&self, ask: Ask) -> Result<Answer, Error> {
        let me = Arc::new(Waiter { ask, thread: thread::current(), told: Mutex::new(Told::Nothing) });
        let mut told = {
            let mut queue = self.queue();
            if queue.is_closed {
                return Err(Error::Closed);
            }
            if queue.waiting.len() >= WAITING_MAX {
                return Err(Error::TooManyWaiting { limit: WAITING_MAX });
            }
            queue.waiting.push_back(Arc::clone(&me));
            // Whoever is awake leads: it takes those who wait along.
            if queue.next_leader().is_some() { Told::Lead } else { Told::Nothing }
        };
        loop {
            match told {
                Told::Answer(answer) => return answer,
                Told::Lead => self.lead(),
                Told::Nothing => {}
            }
            told = me.listen();
        }
    }

    /// Gathers what is asked for into a frame, and carries it out.
    fn lead(&self) {
        let mut state = self.writer();
        let mut asked = std::mem::take(&mut self.queue().waiting);
        let mut gathered = Round::default();
        let begun = guarded(&mut state.store, |store| {
            store.take_in(&mut asked, &mut gathered);
            match store.begin_frame() {
                // Nothing is to be written. What is out, or what is written already, is what they wait for.
                Ok(None) if store.unshown.is_any_out() => Ok(None),
                Ok(None) => store.sync().map(|_| None),
                other => other,
            }
        });
        let begun = match begun {
            Ok(begun) => begun,
            Err(panic) => self.abandon(state, gathered.waiters().chain(asked), panic),
        };
        let mut over = Vec::new();
        let outgoing = match begun {
            Ok(Some(outgoing)) => {
                state.riders.push_back(Riders { seq: outgoing.seq(), answers: gathered.answers });
                Some(outgoing)
            }
            Ok(None) => {
                match state.riders.back_mut() {
                    Some(last) => last.answers.append(&mut gathered.answers),
                    None => {
                        over.extend(gathered.answers.into_iter().map(|(waiter, answer)| (waiter, Ok(answer))))
                    }
                }
                None
            }
            // Too much is in flight: they wait for a frame to end.
            Err(error) if error.kind() == ErrorKind::Busy && state.store.unshown.is_any_out() => {
                gathered.later =
                    gathered.answers.into_iter().map(|(waiter, _)| waiter).chain(gathered.later).collect();
                None
            }
            Err(error) => {
                over.extend(gathered.answers.into_iter().map(|(waiter, _)| (waiter, Err(error.clone()))));
                None
            }
        };
        over.extend(gathered.refused.into_iter().map(|(waiter, error)| (waiter, Err(error))));
        // Where nothing is out (the frame could not begin), no frame will end: the next one is to try.
        let is_blocked = outgoing.is_none() && !gathered.later.is_empty() && state.store.unshown.is_any_out();
        self.pass_on(state, |queue| {
            gathered.later.into_iter().rev().for_each(|waiter| queue.waiting.push_front(waiter));
            queue.is_led = false;
            queue.is_blocked = is_blocked;
        });
        if outgoing.is_none() {
            // A flush may have made durable what was written before.
            self.tell_of_news();
        }
        for (waiter, answer) in over {
            waiter.tell(Told::Answer(answer));
        }
        if let Some(outgoing) = outgoing {
            self.carry_out(outgoing);
        }
    }

    /// Makes a frame durable, shows what it says, and wakes those who wait for it.
    fn carry_out(&self, outgoing: Outgoing) {
        let flight = Flight { inner: self, outgoing: Some(outgoing) };
        let begun = self.clock.elapsed();
        let outcome = flight.carry_out();
        let took = self.clock.elapsed().saturating_sub(begun);
        unpoisoned(self.frame_micros.lock()).record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        flight.land(outcome);
    }

    /// Takes a frame back: shows what has become durable, and tells those who ride on it.
    fn end(&self, outgoing: Outgoing, outcome: Result<(), DeviceError>) {
        let mut state = self.writer();
        // What comes after the frame, a step of a compaction, calls the device as well.
        let end_frame = |store: &mut Store<Arc<D>>| {
            let ended = store.end_frame(outgoing, outcome)?;
            store.chore();
            Ok(ended)
        };
        let ended = match guarded(&mut state.store, end_frame) {
            Ok(ended) => ended,
            Err(panic) => {
                let riders = std::mem::take(&mut state.riders).into_iter().flat_map(|riders| riders.answers);
                self.abandon(state, riders.map(|(waiter, _)| waiter), panic)
            }
        };
        let mut told = Vec::new();
        while let Some(first) = state.riders.front() {
            if ended.as_ref().is_ok_and(|durable| first.seq > *durable) {
                break;
            }
            told.extend(state.riders.pop_front().into_iter().flat_map(|riders| riders.answers));
        }
        let crowd = told.len();
        self.pass_on(state, |queue| {
            queue.is_blocked = false;
            queue.crowd = crowd;
        });
        self.tell_of_news();
        for (waiter, answer) in told {
            waiter.tell(Told::Answer(ended.as_ref().map(|_| answer).map_err(Error::clone)));
        }
    }

    /// Ends a turn that a panic of the device or of the source of random bytes has ended: answers its waiters, passes
    /// leadership on, and lets the panic go on. The store is poisoned, because what the device did is unknown.
    fn abandon(
        &self,
        state: RwLockWriteGuard<'_, State<D>>,
        waiters: impl Iterator<Item = Arc<Waiter>>,
        panic: Panic,
    ) -> ! {
        let error = state.store.refuse_unless_writable().err().unwrap_or(Error::Closed);
        self.pass_on(state, |queue| {
            queue.is_led = false;
            queue.is_blocked = false;
        });
        self.tell_of_news();
        waiters.for_each(|waiter| waiter.tell(Told::Answer(Err(error.clone()))));
        resume_unwind(panic)
    }

    /// Lets the state go, and whoever comes next go on. `settle` says what has become of the queue.
    fn pass_on(&self, state: RwLockWriteGuard<'_, State<D>>, settle: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue();
        queue.out = state.store.outgoing();
        queue.out_max = if state.store.is_compaction_due() { 1 } else { state.store.outgoing_max() };
        drop(state);
        settle(&mut queue);
        let next = queue.next_leader();
        let is_wanted = queue.wanted_alone > 0 && queue.is_quiet();
        drop(queue);
        if let Some(next) = next {
            next.tell(Told::Lead);
        }
        if is_wanted {
            self.quiet.notify_all();
        }
    }

    /// Something was shown: it can be sealed, and it may be what somebody waits for.
    fn tell_of_news(&self) {
        *unpoisoned(self.shown.lock()) += 1;
        self.news.notify_all();
        if self.is_dozing.swap(false, Ordering::SeqCst)
            && let Some(ticker) = &*unpoisoned(self.ticker.lock())
        {
            ticker.unpark();
        }
    }

    /// Changes what readers see at once. What is on its way about the same key has to be shown before.
    fn buffer<T>(&self, key: &Key, act: impl Fn(&mut Store<Arc<D>>) -> Result<T, Error>) -> Result<T, Error> {
        {
            let mut state = self.writer();
            // Asked under this lock: a store that is being closed has it when it writes its mark.
            if self.queue().is_closed {
                return Err(Error::Closed);
            }
            if !state.store.unshown.has(key) {
                match act(&mut state.store) {
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    done => {
                        drop(state);
                        self.tell_of_news();
                        return done;
                    }
                }
            }
        }
        self.alone(Handle::Open)?.act(act)
    }

    /// Waits until nobody gathers and nothing is out, and keeps it so.
    fn alone(&self, handle: Handle) -> Result<Alone<'_, D>, Error> {
        let mut queue = self.queue();
        queue.wanted_alone += 1;
        while !queue.is_closed && !queue.is_quiet() {
            queue = unpoisoned(self.quiet.wait(queue));
        }
        queue.wanted_alone -= 1;
        if queue.is_closed {
            return Err(Error::Closed);
        }
        queue.is_closed = handle == Handle::Closing;
        queue.is_led = true;
        Ok(Alone { inner: self })
    }

    /// The same, if it need not wait.
    fn alone_at_once(&self) -> Option<Alone<'_, D>> {
        let mut queue = self.queue();
        let may = queue.is_quiet() && !queue.is_closed && queue.waiting.is_empty();
        queue.is_led |= may;
        drop(queue);
        // Not `then_some`: it would make the right even where it may not be had, and dropping that takes leadership away from
        // the thread that has it.
        may.then(|| Alone { inner: self })
    }
}

/// A frame that is carried out. It ends, whatever happens: where the device or the clock panics, as if the device had failed,
/// or those who wait for it would wait for ever.
struct Flight<'i, D: BlockDevice> {
    inner: &'i Inner<D>,
    outgoing: Option<Outgoing>,
}

impl<D: BlockDevice> Flight<'_, D> {
    fn carry_out(&self) -> Result<(), DeviceError> {
        self.outgoing.as_ref().map_or(Ok(()), |outgoing| outgoing.carry_out(&self.inner.device))
    }

    fn land(mut self, outcome: Result<(), DeviceError>) {
        if let Some(outgoing) = self.outgoing.take() {
            self.inner.end(outgoing, outcome);
        }
    }
}

impl<D: BlockDevice> Drop for Flight<'_, D> {
    fn drop(&mut self) {
        if let Some(outgoing) = self.outgoing.take() {
            self.inner.end(
                outgoing,
                Err(DeviceError::FlushFailed {
                    cause: DeviceCause::driver("a panic while a frame was on its way", 0),
                }),
            );
        }
    }
}

/// Whether the store is closed by who has it for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handle {
    Open,
    Closing,
}

/// The right to have the store for itself. It ends when this is dropped, whatever happens before.
struct Alone<'i, D: BlockDevice> {
    inner: &'i Inner<D>,
}

impl<D: BlockDevice> Alone<'_, D> {
    /// Runs `act` on the store. A panic poisons the store and goes on, because it may be one of the device.
    fn act<T>(&self, act: impl FnOnce(&mut Store<Arc<D>>) -> T) -> T {
        let outcome = guarded(&mut self.inner.writer().store, act);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<D: BlockDevice> Drop for Alone<'_, D> {
    fn drop(&mut self) {
        let state = self.inner.writer();
        let mut closed = VecDeque::new();
        self.inner.pass_on(state, |queue| {
            queue.is_led = false;
            if queue.is_closed {
                closed = std::mem::take(&mut queue.waiting);
            }
        });
        for waiter in closed {
            waiter.tell(Told::Answer(Err(Error::Closed)));
        }
        self.inner.quiet.notify_all();
        self.inner.tell_of_news();
    }
}

/// What became of those who asked.
#[derive(Debug, Default)]
struct Round {
    /// Those who have an answer as soon as the frame is durable.
    answers: Vec<(Arc<Waiter>, Answer)>,
    refused: Vec<(Arc<Waiter>, Error)>,
    /// Those who have to wait for a frame to end.
    later: VecDeque<Arc<Waiter>>,
}

impl Round {
    /// Every waiter of it.
    fn waiters(self) -> impl Iterator<Item = Arc<Waiter>> {
        let answered = self.answers.into_iter().map(|(waiter, _)| waiter);
        answered.chain(self.refused.into_iter().map(|(waiter, _)| waiter)).chain(self.later)
    }
}

/// What a panic carries.
type Panic = Box<dyn std::any::Any + Send>;

/// Lets the store call the device and the source of random bytes. A panic in there poisons the store and is returned: the
/// caller answers its waiters first.
fn guarded<D: BlockDevice, T>(
    store: &mut Store<D>,
    act: impl FnOnce(&mut Store<D>) -> T,
) -> Result<T, Panic> {
    // The store is looked at afterwards only as one that takes no more writes.
    catch_unwind(AssertUnwindSafe(|| act(store))).inspect_err(|_| store.fail_after_panic())
}

impl<D: BlockDevice> Store<D> {
    /// Takes what is asked for into the frame that is gathered, in order, as far as it goes. A waiter stays in `asked` until it
    /// is decided what becomes of it.
    fn take_in(&mut self, asked: &mut VecDeque<Arc<Waiter>>, round: &mut Round) {
        while let Some(waiter) = asked.front() {
            // Nobody overtakes.
            let taken = if round.later.is_empty() { self.take_in_one(&waiter.ask) } else { Ok(None) };
            let Some(waiter) = asked.pop_front() else { return };
            match taken {
                Ok(Some(answer)) => round.answers.push((waiter, answer)),
                Ok(None) => round.later.push_back(waiter),
                Err(error) => round.refused.push((waiter, error)),
            }
        }
    }

    /// Takes one into it; the answer it has when the frame is durable. [`None`]: not before a frame has ended.
    fn take_in_one(&mut self, ask: &Ask) -> Result<Option<Answer>, Error> {
        self.refuse_unless_writable()?;
        let admitted = match ask {
            Ask::Sync => return Ok(Some(Answer::Synced)),
            Ask::Delete(key) if self.ahead(key.as_str()).is_none() => return Ok(Some(Answer::WasAbsent)),
            Ask::Delete(key) => {
                let mut body = Vec::new();
                Record::Delete { key: key.as_str() }.encode(&mut body)?;
                self.admit_body(&body, 1, Company::Others)
            }
            Ask::Batch(batch) => {
                let sealed = self.check_batch(batch)?;
                self.admit_body(sealed.as_deref().unwrap_or(&batch.body), batch.len(), Company::Others)
            }
        };
        admitted.map(|last| last.map(Answer::Written))
    }
}
