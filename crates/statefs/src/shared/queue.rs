//! The queue: everything that threads ask of the store and that has not begun, first in, first out.
//!
//! Invariants
//! - there is one [`Lead`] for each store. It is in the queue, or in the hands of one thread, or in the message to one
//!   ([`Message::Lead`], [`Message::Turn`]); it is never made again.
//! - a message with the lead is put into its waiter's slot under the lock of the queue. So a waiter that withdraws its entry
//!   under the same lock knows whether it has been given the lead.
//! - whenever the lead is in the queue and an entry could begin, a leader is chosen before the lock is let go.

use std::collections::VecDeque;
use std::time::Duration;

use media::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::batch::Batch;
use crate::error::Error;
use crate::key::Key;
use crate::record::Revision;

/// How many requests may wait at a time; one more is refused.
pub const WAITING_MAX: usize = 1024;

/// How many bytes of keys and values the requests that wait may have together; what would be more is refused. A batch that is as
/// long as a frame may be always fits into an empty queue.
pub const WAITING_LEN_MAX: usize = 16 << 20;

/// The right to gather the next frame, or to take the store out of its lock. It is passed from thread to thread by value.
#[derive(Debug)]
pub(super) struct Lead(());

/// What a caller asks for.
#[derive(Debug)]
pub(super) enum Ask {
    /// Changes, if all the preconditions hold.
    Batch(Batch),
    /// That a key has no value.
    Delete(Key),
    /// That everything asked for so far is durable.
    Sync,
    /// A change that readers see at once and that is not durable: the batch has this one change.
    Buffer(Batch),
    /// The same, a deletion.
    BufferDelete(Key),
    /// Exclusive access.
    Turn(Turn),
}

/// What exclusive access is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Something after which the store goes on.
    Passing,
    /// Closing the store: entries that follow are refused.
    Closing,
}

/// What a caller is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Written(Revision),
    WasAbsent,
    /// Everything up to this revision is durable.
    Synced(Revision),
}

/// A callback, which is called once.
pub(super) type Done = Box<dyn FnOnce(Result<Revision, Error>) + Send>;

/// Where an answer goes.
pub(super) enum Asker {
    Thread(Arc<Waiter>),
    Callback(Done),
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Thread(_) => "Thread",
            Self::Callback(_) => "Callback",
        })
    }
}

/// A request that waits to begin.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ask: Ask,
    pub(super) asker: Asker,
    /// The order of arrival.
    number: u64,
    /// When, in the time of ticks, it is refused if it has not begun.
    deadline: Option<Duration>,
}

impl Entry {
    pub(super) fn new(ask: Ask, asker: Asker, deadline: Option<Duration>) -> Self {
        Self { ask, asker, number: 0, deadline }
    }

    /// Bytes that count for [`WAITING_LEN_MAX`].
    fn len(&self) -> usize {
        match &self.ask {
            Ask::Batch(batch) | Ask::Buffer(batch) => batch.body.len(),
            Ask::Delete(key) | Ask::BufferDelete(key) => key.as_str().len(),
            Ask::Sync | Ask::Turn(_) => 0,
        }
    }

    fn is_turn(&self) -> bool {
        matches!(self.ask, Ask::Turn(_))
    }
}

/// A thread that waits for an answer.
#[derive(Debug)]
pub(super) struct Waiter {
    slot: Mutex<Slot>,
    /// A condition variable and not `park`, which may return before it is told to: a search for schedules would follow that for
    /// ever.
    told: Condvar,
}

/// What a waiter has been told and has not read. The lead has a place of its own, so that an answer never takes it away.
#[derive(Debug, Default)]
struct Slot {
    lead: Option<Message>,
    answer: Option<Message>,
    /// Whether the thread waits at the condition variable. Most often it does not, and then there is nothing to wake, which
    /// would be a system call.
    is_listening: bool,
}

impl Slot {
    fn take(&mut self) -> Option<Message> {
        self.lead.take().or_else(|| self.answer.take())
    }
}

/// What a waiting thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// It leads: it gathers the next frame for all that wait, or does what else is next.
    Lead(Lead),
    /// It has exclusive access now.
    Turn(Lead),
    Answer(Result<Answer, Error>),
}

impl Waiter {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { slot: Mutex::default(), told: Condvar::new() })
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a message. [`Waiter::wake`] follows, once the caller holds no lock.
    fn leave(&self, message: Message) {
        let mut slot = self.slot();
        match message {
            Message::Lead(_) | Message::Turn(_) => slot.lead = Some(message),
            Message::Answer(_) => slot.answer = Some(message),
        }
    }

    /// Takes the next message, the lead first.
    pub(super) fn take(&self) -> Option<Message> {
        self.slot().take()
    }

    /// Wakes the thread. If it does not listen yet, it finds the message when it does.
    pub(super) fn wake(&self) {
        if self.slot().is_listening {
            self.told.notify_one();
        }
    }

    pub(super) fn answer(&self, answer: Result<Answer, Error>) {
        self.leave(Message::Answer(answer));
        self.wake();
    }

    /// Waits for a message.
    pub(super) fn listen(&self) -> Message {
        let mut slot = self.slot();
        loop {
            match slot.take() {
                Some(message) => return message,
                None => {
                    slot.is_listening = true;
                    slot = self.told.wait(slot).unwrap_or_else(PoisonError::into_inner);
                    slot.is_listening = false;
                }
            }
        }
    }

    /// Waits for a message, not longer than so long.
    pub(super) fn listen_for(&self, how_long: Duration) -> Option<Message> {
        let mut slot = self.slot();
        let first = slot.take();
        if first.is_some() {
            return first;
        }
        slot.is_listening = true;
        let waited = self.told.wait_timeout(slot, how_long);
        let mut slot = waited.unwrap_or_else(PoisonError::into_inner).0;
        slot.is_listening = false;
        slot.take()
    }
}

/// Callers whose answers come with a frame.
#[derive(Debug)]
struct Riders {
    seq: u64,
    answers: Vec<(Asker, Answer)>,
}

/// Requests that wait or are in flight, and the lead.
#[derive(Debug)]
pub(super) struct Queue {
    /// Callers whose answers come with the frames in flight, in order.
    riders: VecDeque<Riders>,
    entries: VecDeque<Entry>,
    len: usize,
    /// The number of the next entry.
    next_number: u64,
    /// The lead, while no thread has it.
    lead: Option<Lead>,
    /// Frames in flight, and how many may be.
    pub(super) in_flight: usize,
    pub(super) in_flight_max: usize,
    /// How many entries must wait before a second frame goes out beside one in flight: as many as the last frame answered. The
    /// first of them to ask again would otherwise take the second frame for itself, and the others would share nothing.
    pub(super) crowd: usize,
    /// The first entry cannot begin before a frame has ended.
    pub(super) is_blocked: bool,
    /// Entries with smaller numbers are served before the next turn of exclusive access.
    served_first: u64,
    pub(super) has_driver: bool,
    pub(super) is_closed: bool,
}

/// What a leader finds at the front of the queue.
#[derive(Debug)]
pub(super) enum Front {
    Empty,
    /// The next entry, taken out.
    Entry(Entry),
    /// Exclusive access is next.
    Turn,
}

impl Queue {
    pub(super) fn new(in_flight_max: usize) -> Self {
        Self {
            riders: VecDeque::new(),
            entries: VecDeque::new(),
            len: 0,
            next_number: 0,
            lead: Some(Lead(())),
            in_flight: 0,
            in_flight_max,
            crowd: 1,
            is_blocked: false,
            served_first: 0,
            has_driver: false,
            is_closed: false,
        }
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.entries.len()
    }

    /// Whether no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nothing waits, nothing is in flight and no thread leads.
    pub(super) fn is_quiet(&self) -> bool {
        self.entries.is_empty() && self.in_flight == 0 && self.lead.is_some()
    }

    /// Adds a request, and returns the number by which it can be withdrawn.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::TooManyWaiting`], [`Error::TooMuchWaiting`]; [`Error::NoDriver`], if its answer is to go to
    /// a callback and there is no commit thread to call it.
    pub(super) fn push(&mut self, mut entry: Entry) -> Result<u64, Error> {
        if self.is_closed {
            return Err(Error::Closed);
        }
        if matches!(entry.asker, Asker::Callback(_)) && !self.has_driver {
            return Err(Error::NoDriver);
        }
        if self.entries.len() >= WAITING_MAX {
            return Err(Error::TooManyWaiting { limit: WAITING_MAX });
        }
        let requested = self.len.saturating_add(entry.len());
        if requested > WAITING_LEN_MAX {
            return Err(Error::TooMuchWaiting { limit: WAITING_LEN_MAX, requested });
        }
        let number = self.next_number;
        self.next_number += 1;
        entry.number = number;
        self.len = requested;
        self.entries.push_back(entry);
        Ok(number)
    }

    /// Takes back a request that has not begun; [`None`] if it has, and then its answer comes.
    pub(super) fn withdraw(&mut self, number: u64) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.number == number)?;
        self.remove(at)
    }

    /// Takes back every request whose deadline has passed.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Entry> {
        self.take_all(|entry| entry.deadline.is_some_and(|deadline| deadline <= now))
    }

    /// Takes out the requests whose answers go to callbacks, for there is no thread any more that would call them.
    pub(super) fn take_callbacks(&mut self) -> Vec<Entry> {
        self.take_all(|entry| matches!(entry.asker, Asker::Callback(_)))
    }

    /// Closes the queue, and takes out every request that still waits.
    pub(super) fn close(&mut self) -> Vec<Entry> {
        self.is_closed = true;
        self.take_all(|_| true)
    }

    fn take_all(&mut self, is_wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let (taken, left) = self.entries.drain(..).partition::<Vec<_>, _>(is_wanted);
        self.entries = left.into();
        self.len -= taken.iter().map(Entry::len).sum::<usize>();
        taken
    }

    fn remove(&mut self, at: usize) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.len -= entry.len();
        Some(entry)
    }

    /// Takes out what is next for the leader.
    ///
    /// That is the first entry; but a request for exclusive access waits until every entry that was in the queue when the last
    /// turn ended has been served. Closing waits for the entries before it alone, because those that follow it are refused.
    pub(super) fn next(&mut self) -> Front {
        let Some(first) = self.entries.front() else { return Front::Empty };
        if !first.is_turn() {
            return self.remove(0).map_or(Front::Empty, Front::Entry);
        }
        match self.first_served_before_turn() {
            Some(at) => self.remove(at).map_or(Front::Turn, Front::Entry),
            None => Front::Turn,
        }
    }

    fn first_served_before_turn(&self) -> Option<usize> {
        let until_close =
            self.entries.iter().take_while(|entry| !matches!(entry.ask, Ask::Turn(Turn::Closing)));
        let mut numbered = until_close.enumerate();
        numbered.find(|(_, entry)| !entry.is_turn() && entry.number < self.served_first).map(|(at, _)| at)
    }

    fn is_turn_next(&self) -> bool {
        self.entries.front().is_some_and(Entry::is_turn) && self.first_served_before_turn().is_none()
    }

    /// Puts entries back that could not begin, in front of all others, in their order.
    pub(super) fn put_back(&mut self, entries: impl DoubleEndedIterator<Item = Entry>) {
        for entry in entries.rev() {
            self.len += entry.len();
            self.entries.push_front(entry);
        }
    }

    /// Takes note of the callers whose answers come with a frame that has begun.
    pub(super) fn ride(&mut self, seq: u64, answers: Vec<(Asker, Answer)>) {
        self.riders.push_back(Riders { seq, answers });
    }

    /// The same, of callers that wait for the frames in flight and have nothing in any of them.
    pub(super) fn ride_with_last(&mut self, answers: Vec<(Asker, Answer)>) {
        if let Some(last) = self.riders.back_mut() {
            last.answers.extend(answers);
        }
    }

    /// Takes out the callers whose frames have ended, in order: those up to a frame, or all, where a frame has failed.
    pub(super) fn land(&mut self, durable_seq: Option<u64>) -> Vec<(Asker, Answer)> {
        let mut landed = Vec::new();
        while let Some(first) = self.riders.front() {
            if durable_seq.is_some_and(|durable_seq| first.seq > durable_seq) {
                break;
            }
            let Some(Riders { mut answers, .. }) = self.riders.pop_front() else { break };
            // Most often one frame ends, and its list goes as it is.
            if landed.is_empty() { landed = answers } else { landed.append(&mut answers) }
        }
        landed
    }

    /// Gives exclusive access to the first entry, which asks for it, and passes the lead to its thread.
    pub(super) fn begin_turn(&mut self, lead: Lead) -> Result<Arc<Waiter>, Lead> {
        match self.entries.front() {
            Some(Entry { ask: Ask::Turn(_), asker: Asker::Thread(waiter), .. }) => {
                let waiter = Arc::clone(waiter);
                let _begun = self.remove(0);
                waiter.leave(Message::Turn(lead));
                Ok(waiter)
            }
            Some(_) | None => Err(lead),
        }
    }

    /// Ends a turn of exclusive access: whatever waits now is served before the next one.
    pub(super) fn end_turn(&mut self) {
        self.served_first = self.next_number;
    }

    /// Whether an entry waits that could begin now.
    fn can_begin(&self) -> bool {
        let has_place = self.in_flight == 0
            || (self.in_flight < self.in_flight_max
                && self.entries.len() >= self.crowd
                && !self.is_turn_next());
        !self.entries.is_empty() && has_place && !self.is_blocked
    }

    /// Takes the lead for a commit thread, if there is something to do.
    pub(super) fn lead_for_driver(&mut self) -> Option<Lead> {
        if self.can_begin() { self.lead.take() } else { None }
    }

    /// Takes the lead for a caller that has something to do with the store while nothing is in flight.
    pub(super) fn lead_if_idle(&mut self) -> Option<Lead> {
        if self.in_flight == 0 { self.lead.take() } else { None }
    }

    pub(super) fn return_lead(&mut self, lead: Lead) {
        self.lead = Some(lead);
    }

    /// Chooses the thread that leads next, where an entry could begin and no thread leads.
    pub(super) fn choose(&mut self) -> Next {
        if !self.can_begin() || self.lead.is_none() {
            return Next::Nobody;
        }
        if self.has_driver {
            return Next::Driver;
        }
        let mut threads = self.entries.iter().filter_map(|entry| match &entry.asker {
            Asker::Thread(waiter) => Some(waiter),
            Asker::Callback(_) => None,
        });
        match (threads.next().cloned(), self.lead.take()) {
            (Some(waiter), Some(lead)) => {
                waiter.leave(Message::Lead(lead));
                Next::Thread(waiter)
            }
            (_, lead) => {
                self.lead = lead;
                Next::Nobody
            }
        }
    }
}

/// The thread that is to be woken because it leads.
#[derive(Debug)]
#[must_use = "a leader that is chosen and not woken leaves everybody waiting"]
pub(super) enum Next {
    Nobody,
    Driver,
    Thread(Arc<Waiter>),
}
