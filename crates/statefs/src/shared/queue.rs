//! The queue: everything that threads ask of the store and that has not begun, first in, first out.
//!
//! Invariants
//! - there is one [`Lead`] for each store. It is in the queue, or in the hands of one thread, or in the message to one
//!   ([`Message::Lead`], [`Message::Turn`]); it is never made again.
//! - a message with the lead is put into its waiter's slot under the lock of the queue, while the waiter's entry is in the
//!   queue. So a waiter that gives up under the same lock finds the lead in its slot, or never gets it.
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

/// How many bytes of keys, values and preconditions the requests that wait may have together; what would be more is refused. A
/// request that is longer by itself (its preconditions can make it so) is admitted where no other bytes wait.
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
            Ask::Batch(batch) | Ask::Buffer(batch) => batch.body.len() + batch.conditions_len(),
            Ask::Delete(key) | Ask::BufferDelete(key) => key.as_str().len(),
            Ask::Sync | Ask::Turn(_) => 0,
        }
    }

    fn is_turn(&self) -> bool {
        matches!(self.ask, Ask::Turn(_))
    }

    fn is_closing(&self) -> bool {
        matches!(self.ask, Ask::Turn(Turn::Closing))
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
    /// Takes the next message, the lead first.
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

    /// Takes the lead back that was left and not read.
    pub(super) fn take_lead(&self) -> Option<Lead> {
        match self.slot().lead.take() {
            Some(Message::Lead(lead) | Message::Turn(lead)) => Some(lead),
            Some(Message::Answer(_)) | None => None,
        }
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

/// Callers whose frames have ended.
#[derive(Debug, Default)]
pub(super) struct Landed {
    /// Of the frame that has just ended. It comes first, unless it failed.
    pub(super) own: Vec<(Asker, Answer)>,
    /// Of frames that ended early and waited for it, or that failed with it.
    pub(super) others: Vec<(Asker, Answer)>,
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

    /// Whether everything that was asked for before is in a frame: nothing waits, and no leader has taken an entry out and let
    /// the locks go since, as it does while it draws nonces.
    pub(super) fn has_begun_all(&self) -> bool {
        self.entries.is_empty() && self.lead.is_some()
    }

    /// Looks whether a request may be added. The request is borrowed, so that one that is refused is dropped by its caller
    /// without the lock: what a callback has captured may use the store when it is dropped.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::TooManyWaiting`], [`Error::TooMuchWaiting`]; [`Error::NoDriver`], if its answer is to go to
    /// a callback and there is no commit thread to call it.
    pub(super) fn check(&self, entry: &Entry) -> Result<(), Error> {
        if self.is_closed {
            return Err(Error::Closed);
        }
        if matches!(entry.asker, Asker::Callback(_)) && !self.has_driver {
            return Err(Error::NoDriver);
        }
        // A store can be closed however many wait.
        if entry.is_closing() {
            return Ok(());
        }
        if self.entries.len() >= WAITING_MAX {
            return Err(Error::TooManyWaiting { limit: WAITING_MAX });
        }
        let requested = self.len.saturating_add(entry.len());
        // One that is longer by itself, with tens of thousands of preconditions, waits alone.
        if requested > WAITING_LEN_MAX && self.len > 0 {
            return Err(Error::TooMuchWaiting { limit: WAITING_LEN_MAX, requested });
        }
        Ok(())
    }

    /// Adds a request that may be added, and returns the number by which it can be withdrawn.
    pub(super) fn push(&mut self, mut entry: Entry) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        entry.number = number;
        self.len += entry.len();
        self.entries.push_back(entry);
        number
    }

    /// Takes back a request that has not begun; [`None`] if it has, and then its answer comes.
    pub(super) fn withdraw(&mut self, number: u64) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.number == number)?;
        self.remove(at)
    }

    /// The bodies of the requests that wait, in order, as far as they are no longer than this together.
    pub(super) fn bodies_within(&self, len_max: usize) -> impl Iterator<Item = &[u8]> {
        let bodies = self.entries.iter().filter_map(|entry| match &entry.ask {
            Ask::Batch(batch) | Ask::Buffer(batch) => Some(&*batch.body),
            Ask::Delete(_) | Ask::BufferDelete(_) | Ask::Sync | Ask::Turn(_) => None,
        });
        bodies.scan(len_max, |left, body| {
            *left = left.checked_sub(body.len())?;
            Some(body)
        })
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
        let until_close = self.entries.iter().take_while(|entry| !entry.is_closing());
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

    /// Takes out the callers whose frames have ended, in order: those up to a frame, or all, where a frame has failed. `seq` is
    /// the frame that has just ended.
    pub(super) fn land(&mut self, seq: u64, durable_seq: Option<u64>) -> Landed {
        let mut landed = Landed::default();
        while let Some(first) = self.riders.front() {
            if durable_seq.is_some_and(|durable_seq| first.seq > durable_seq) {
                break;
            }
            let Some(mut riders) = self.riders.pop_front() else { break };
            // Most often one frame ends, and its list goes as it is.
            match riders.seq == seq {
                true => landed.own = riders.answers,
                false => landed.others.append(&mut riders.answers),
            }
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

#[cfg(all(test, not(shuttle)))]
#[expect(clippy::unwrap_used, reason = "helpers of tests")]
mod tests {
    use super::*;

    fn entry(ask: Ask) -> Entry {
        Entry::new(ask, Asker::Thread(Waiter::new()), None)
    }

    fn add(queue: &mut Queue, entry: Entry) -> Result<u64, Error> {
        queue.check(&entry)?;
        Ok(queue.push(entry))
    }

    fn queue(asks: Vec<Ask>) -> Queue {
        let mut queue = Queue::new(2);
        for ask in asks {
            add(&mut queue, entry(ask)).unwrap();
        }
        queue
    }

    /// The numbers of the entries in the order in which a leader finds them; a turn is its number as well, and ends at once.
    fn order(queue: &mut Queue) -> Vec<u64> {
        let mut order = Vec::new();
        loop {
            match queue.next() {
                Front::Empty => return order,
                Front::Entry(entry) => order.push(entry.number),
                Front::Turn => {
                    order.extend(queue.remove(0).map(|entry| entry.number));
                    queue.end_turn();
                }
            }
        }
    }

    #[test]
    fn entries_are_served_in_the_order_of_their_arrival() {
        let mut queue = queue(vec![Ask::Sync, Ask::Turn(Turn::Passing), Ask::Sync]);
        assert_eq!(order(&mut queue), [0, 1, 2]);
    }

    #[test]
    fn store_t2_between_two_turns_everything_that_waits_is_served() {
        let turn = || Ask::Turn(Turn::Passing);
        let mut queue = queue(vec![turn(), turn(), Ask::Sync, turn(), Ask::Sync]);
        assert_eq!(order(&mut queue), [0, 2, 4, 1, 3], "what waited when turn 0 ended comes before turn 1");
    }

    #[test]
    fn store_t2_what_arrives_after_a_turn_does_not_overtake_the_next_one() {
        let turn = || Ask::Turn(Turn::Passing);
        let mut queue = queue(vec![turn(), turn()]);
        assert!(matches!(queue.next(), Front::Turn));
        queue.remove(0).unwrap();
        queue.end_turn();
        add(&mut queue, entry(Ask::Sync)).unwrap();
        assert_eq!(order(&mut queue), [1, 2], "or writers could keep it waiting for ever");
    }

    #[test]
    fn closing_waits_for_what_came_before_and_for_nothing_else() {
        let mut queue = queue(vec![Ask::Turn(Turn::Passing), Ask::Sync, Ask::Turn(Turn::Closing), Ask::Sync]);
        assert!(matches!(queue.next(), Front::Turn));
        queue.remove(0).unwrap();
        queue.end_turn();
        assert!(matches!(queue.next(), Front::Entry(Entry { number: 1, .. })));
        assert!(matches!(queue.next(), Front::Turn));
        assert_eq!(queue.close().len(), 2);
        assert!(matches!(add(&mut queue, entry(Ask::Sync)), Err(Error::Closed)));
    }

    #[test]
    fn store_t7_what_waits_is_bounded_in_number_and_in_bytes() {
        let mut queue = Queue::new(1);
        for _ in 0..WAITING_MAX {
            add(&mut queue, entry(Ask::Sync)).unwrap();
        }
        assert!(matches!(
            add(&mut queue, entry(Ask::Sync)),
            Err(Error::TooManyWaiting { limit: WAITING_MAX })
        ));
        let mut queue = Queue::new(1);
        let batch = |len: usize| Ask::Batch(Batch { body: vec![0; len], ops: 1, ..Batch::default() });
        add(&mut queue, entry(batch(WAITING_LEN_MAX - 1))).unwrap();
        add(&mut queue, entry(batch(1))).unwrap();
        let refused = add(&mut queue, entry(batch(1))).unwrap_err();
        assert!(
            matches!(refused, Error::TooMuchWaiting { requested, .. } if requested == WAITING_LEN_MAX + 1)
        );
        add(&mut queue, entry(Ask::Sync)).unwrap();
        assert!(queue.withdraw(1).is_some());
        add(&mut queue, entry(batch(1))).unwrap();
    }

    #[test]
    fn store_t7_a_request_that_is_longer_by_itself_waits_alone() {
        let mut queue = Queue::new(1);
        let batch = |len: usize| Ask::Batch(Batch { body: vec![0; len], ops: 1, ..Batch::default() });
        add(&mut queue, entry(batch(WAITING_LEN_MAX + 1))).unwrap();
        assert!(matches!(add(&mut queue, entry(batch(1))), Err(Error::TooMuchWaiting { .. })));
    }

    #[test]
    fn a_waiter_that_withdraws_learns_whether_it_was_to_lead() {
        let mut queue = Queue::new(1);
        let waiter = Waiter::new();
        let number =
            add(&mut queue, Entry::new(Ask::Sync, Asker::Thread(Arc::clone(&waiter)), None)).unwrap();
        assert!(matches!(queue.choose(), Next::Thread(_)));
        assert!(queue.withdraw(number).is_some());
        let lead = waiter.take_lead().expect("it has the lead");
        queue.return_lead(lead);
        assert!(queue.is_quiet());
    }
}
