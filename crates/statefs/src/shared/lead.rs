//! What the holder of the lead does: it gathers a frame and carries it out, passes exclusive access on, or takes the store out
//! of its lock.

use std::time::Duration;

use journal::Outgoing;
use media::sync::{Arc, MutexGuard, Panicked, RwLockReadGuard, RwLockWriteGuard, caught};
use media::{BlockDevice, DeviceCause, DeviceError};

use crate::error::{Error, ErrorKind};
use crate::nonces::{Nonce, draw_ahead};
use crate::shared::admit::Needs;
use crate::shared::queue::{
    Answer, Ask, Asker, Entry, Front, Landed, Lead, Message, Next, Queue, Turn, Waiter,
};
use crate::shared::subscriptions::{Subscriber, Subscriptions};
use crate::shared::{Held, Inner, Lent, State, Taken, unpoisoned};
use crate::store::Store;
use crate::view::View;

/// How often a thread whose deadline has passed while its request was being looked at asks again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// A request and its answer.
type Answered = (Asker, Result<Answer, Error>);

/// What has become of the requests that a leader looked at.
#[derive(Debug, Default)]
struct Round {
    /// Those that have an answer as soon as a frame is durable.
    riders: Vec<(Entry, Answer)>,
    /// Those that have an answer now.
    over: Vec<Answered>,
}

/// Why a leader stops gathering.
#[derive(Debug)]
enum Stop {
    /// No request waits.
    Empty,
    /// The next request has to wait until a frame has ended.
    Wait,
    /// The next request is for exclusive access.
    Turn,
    /// This request needs calls of the device before it can begin.
    Alone(Entry),
    /// This request needs so many nonces more.
    Nonces(Entry, usize),
}

/// What is to be done when the locks have been let go.
#[must_use = "waiters hang if it is not done"]
pub(super) struct After {
    next: Next,
    notices: Vec<Arc<Subscriber>>,
    /// The lead, for a chore.
    chore: Option<Lead>,
}

/// Whether the thread that ends something looks after chores as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chores {
    Now,
    Later,
}

impl<D: BlockDevice> Inner<D> {
    pub(super) fn reader(&self) -> RwLockReadGuard<'_, State<D>> {
        unpoisoned(self.state.read())
    }

    pub(super) fn writer(&self) -> RwLockWriteGuard<'_, State<D>> {
        unpoisoned(self.state.write())
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        unpoisoned(self.queue.lock())
    }

    pub(super) fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        unpoisoned(self.subscriptions.lock())
    }

    /// Queues a request, waits for its answer, and leads where it is told to.
    pub(super) fn ask(&self, ask: Ask, deadline: Option<Duration>) -> Result<Answer, Error> {
        let waiter = Waiter::new();
        let number = self.enqueue(ask, &waiter, deadline)?;
        loop {
            let message = match deadline {
                None => waiter.listen(),
                Some(deadline) => self.listen_until(&waiter, number, deadline),
            };
            match message {
                Message::Answer(answer) => return answer,
                Message::Lead(lead) | Message::Turn(lead) => self.lead_as(&waiter, number, lead),
            }
        }
    }

    fn enqueue(&self, ask: Ask, waiter: &Arc<Waiter>, deadline: Option<Duration>) -> Result<u64, Error> {
        let entry = Entry::new(ask, Asker::Thread(Arc::clone(waiter)), deadline);
        let mut queue = self.queue();
        queue.check(&entry)?;
        let number = queue.push(entry);
        let next = queue.choose();
        drop(queue);
        self.wake(next);
        Ok(number)
    }

    /// Leads on a caller's thread. A panic in foreign code goes on here, once the caller's own request is out of the queue.
    fn lead_as(&self, waiter: &Waiter, number: u64, lead: Lead) {
        if let Some(panic) = self.lead(lead) {
            let _withdrawn = self.withdraw(waiter, number);
            panic.resume();
        }
    }

    /// Takes a request of a waiting thread back; false if it has begun, or is answered. The thread may have been given the lead
    /// meanwhile, by another leader that passed its turn on as well, and gives it back: it may never listen again.
    fn withdraw(&self, waiter: &Waiter, number: u64) -> bool {
        let mut queue = self.queue();
        let is_withdrawn = queue.withdraw(number).is_some();
        if let Some(lead) = waiter.take_lead() {
            queue.return_lead(lead);
        }
        let next = queue.choose();
        drop(queue);
        self.wake(next);
        is_withdrawn
    }

    fn listen_until(&self, waiter: &Waiter, number: u64, deadline: Duration) -> Message {
        loop {
            let now = match caught(|| self.clock.elapsed()) {
                Ok(now) => now,
                Err(panic) => {
                    let _withdrawn = self.withdraw(waiter, number);
                    panic.resume();
                }
            };
            let left = deadline.saturating_sub(now);
            let message = if !left.is_zero() {
                waiter.listen_for(left)
            } else if self.withdraw(waiter, number) {
                Some(Message::Answer(Err(Error::DeadlinePassed)))
            } else {
                waiter.listen_for(ASK_AGAIN)
            };
            if let Some(message) = message {
                return message;
            }
        }
    }

    pub(super) fn wake(&self, next: Next) {
        match next {
            Next::Nobody => {}
            Next::Driver => self.work.notify_all(),
            Next::Thread(waiter) => waiter.wake(),
        }
    }

    /// Gives answers. No lock is held.
    pub(super) fn answer_all(&self, answered: impl IntoIterator<Item = Answered>) {
        for (asker, answer) in answered {
            match asker {
                Asker::Thread(waiter) => waiter.answer(answer),
                Asker::Callback(done) => {
                    let told = answer.and_then(|answer| answer.revision().ok_or(Error::EmptyBatch));
                    drop(caught(|| done(told)));
                }
            }
        }
    }

    /// Does what the holder of the lead has to do next, and passes the lead on. Returns the panic of foreign code, if it
    /// panicked; every waiter has its answer by then.
    pub(super) fn lead(&self, lead: Lead) -> Option<Panicked> {
        let mut round = Round::default();
        let mut state = self.writer();
        let stop = loop {
            let (entry, count) = match self.gather(&mut state, &mut round) {
                Stop::Nonces(entry, count) if round.riders.is_empty() => (entry, count),
                Stop::Nonces(entry, _) => {
                    self.queue().put_back([entry].into_iter());
                    break Stop::Wait;
                }
                stop => break stop,
            };
            // Those that wait share the draw, as they share the frame: each alone would have a frame of its own.
            let ahead = state.nonces_ahead(&self.queue());
            let mut source = state.nonces.take();
            drop(state);
            let drawn = caught(|| draw_ahead(source.as_deref_mut(), count, ahead));
            state = self.writer();
            state.nonces = source;
            match drawn {
                Ok(Ok(nonces)) => {
                    state.supply(nonces);
                    self.queue().put_back([entry].into_iter());
                }
                Ok(Err(error)) => round.over.push((entry.asker, Err(error))),
                Err(panic) => {
                    let error = state.poison(Store::fail_beside_frames);
                    round.over.push((entry.asker, Err(error)));
                    let after = self.settle(state, Some(lead), Chores::Later, |_| {});
                    self.finish(after, round.over);
                    return Some(panic);
                }
            }
        };
        match stop {
            Stop::Alone(entry) => self.serve_alone(state, lead, round, entry),
            Stop::Turn if round.riders.is_empty() && !state.is_any_in_flight() => {
                self.pass_turn(state, lead, round);
                None
            }
            stop => self.begin(state, lead, round, matches!(stop, Stop::Wait)),
        }
    }

    /// Takes requests into the frame that is gathered, in order, as far as it goes.
    fn gather(&self, state: &mut State<D>, round: &mut Round) -> Stop {
        let has_source = state.nonces.is_some();
        let Held::Here(store) = &mut state.held else { return Stop::Wait };
        loop {
            let entry = match self.queue().next() {
                Front::Empty => return Stop::Empty,
                Front::Turn => return Stop::Turn,
                Front::Entry(entry) => entry,
            };
            match store.take_in(&entry.ask, has_source) {
                Ok(Needs::Frame(answer)) => round.riders.push((entry, answer)),
                Ok(Needs::Nothing(answer)) => round.over.push((entry.asker, Ok(answer))),
                Ok(Needs::Nonces(count)) => return Stop::Nonces(entry, count),
                Ok(Needs::Store) if round.riders.is_empty() && store.outgoing() == 0 => {
                    return Stop::Alone(entry);
                }
                Ok(Needs::Time | Needs::Store) => {
                    self.queue().put_back([entry].into_iter());
                    return Stop::Wait;
                }
                Err(error) => round.over.push((entry.asker, Err(error))),
            }
        }
    }

    /// Passes the lead to the thread whose turn of exclusive access it is.
    fn pass_turn(&self, state: RwLockWriteGuard<'_, State<D>>, lead: Lead, round: Round) {
        let begun = self.queue().begin_turn(lead);
        match begun {
            Ok(waiter) => {
                drop(state);
                waiter.wake();
                self.answer_all(round.over);
            }
            // It was withdrawn in the meantime.
            Err(lead) => {
                let after = self.settle(state, Some(lead), Chores::Later, |_| {});
                self.finish(after, round.over);
            }
        }
    }

    /// Begins the frame that was gathered, passes the lead on, and carries the frame out.
    fn begin(
        &self,
        mut state: RwLockWriteGuard<'_, State<D>>,
        lead: Lead,
        mut round: Round,
        waits: bool,
    ) -> Option<Panicked> {
        let riders = std::mem::take(&mut round.riders);
        let mut outgoing = None;
        if let (false, Held::Here(store)) = (riders.is_empty(), &mut state.held) {
            match store.begin_frame() {
                Ok(Some(begun)) => {
                    self.queue().ride(begun.seq(), answers_of(riders));
                    outgoing = Some(begun);
                }
                // They wait for what is in flight, or for what was written before.
                Ok(None) if store.outgoing() > 0 => self.queue().ride_with_last(answers_of(riders)),
                Ok(None) if store.journal.has_unflushed() => {
                    round.riders = riders;
                    return self.flush_alone(state, lead, round);
                }
                Ok(None) => {
                    let durable = store.durable_revision();
                    round.over.extend(settled(answers_of(riders), &Ok(durable)));
                }
                // Too much is in flight.
                Err(error) if error.kind() == ErrorKind::Busy && store.outgoing() > 0 => {
                    self.queue().put_back(riders.into_iter().map(|(entry, _)| entry));
                }
                Err(error) => round.over.extend(settled(answers_of(riders), &Err(error))),
            }
        }
        // Where nothing is in flight, no frame will end: the next leader is to try.
        let is_blocked =
            outgoing.is_none() && state.is_any_in_flight() && (waits || !self.queue().is_empty());
        let after = self.settle(state, Some(lead), Chores::Later, |queue| queue.is_blocked = is_blocked);
        self.finish(after, round.over);
        self.carry_out(outgoing?)
    }

    /// Makes a frame durable, and ends it.
    fn carry_out(&self, outgoing: Outgoing) -> Option<Panicked> {
        let done = caught(|| {
            let begun = self.clock.elapsed();
            let outcome = outgoing.carry_out(&self.device);
            (outcome, self.clock.elapsed().saturating_sub(begun))
        });
        match done {
            Ok((outcome, took)) => {
                self.end(outgoing, outcome, Some(took));
                None
            }
            Err(panic) => {
                let cause = DeviceCause::driver("a panic while a frame was in flight", 0);
                self.end(outgoing, Err(DeviceError::FlushFailed { cause }), None);
                Some(panic)
            }
        }
    }

    /// Ends a frame, which took so long: applies what has become durable, and answers its callers.
    fn end(&self, outgoing: Outgoing, outcome: Result<(), DeviceError>, took: Option<Duration>) {
        let mut state = self.writer();
        if let Some(took) = took {
            state.frame_micros.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        // The store is taken out only while nothing is in flight.
        let Held::Here(store) = &mut state.held else { return };
        let seq = outgoing.seq();
        let ended = store.end_frame(outgoing, outcome);
        let durable = store.durable_revision();
        // What is known of the frame that failed, such as that the medium had no space for it, is unknown of the others.
        let others = store.refuse_unless_writable().map(|()| durable);
        let mut landed = Landed::default();
        let after = self.settle(state, None, Chores::Now, |queue| {
            landed = queue.land(seq, ended.as_ref().ok().copied());
            queue.is_blocked = false;
            queue.crowd = landed.own.len() + landed.others.len();
        });
        let own = ended.map(|_| durable);
        self.finish(after, settled(landed.own, &own).chain(settled(landed.others, &others)));
    }

    /// Serves one request that needs calls of the device before it can begin.
    fn serve_alone(
        &self,
        state: RwLockWriteGuard<'_, State<D>>,
        lead: Lead,
        mut round: Round,
        entry: Entry,
    ) -> Option<Panicked> {
        let Entry { ask, asker, .. } = entry;
        let (answer, panic) = self.serve(state, lead, |store| store.serve(&ask));
        round.over.push((asker, answer));
        self.answer_all(round.over);
        panic
    }

    /// Makes what was written before durable, for callers that wait for that alone.
    fn flush_alone(
        &self,
        state: RwLockWriteGuard<'_, State<D>>,
        lead: Lead,
        mut round: Round,
    ) -> Option<Panicked> {
        let answers = answers_of(std::mem::take(&mut round.riders));
        let (synced, panic) = self.serve(state, lead, Store::sync);
        round.over.extend(settled(answers, &synced));
        self.answer_all(round.over);
        panic
    }

    /// Serves callers that wait, in a turn; what they are told, and the panic of foreign code, if it panicked.
    fn serve<T>(
        &self,
        state: RwLockWriteGuard<'_, State<D>>,
        lead: Lead,
        act: impl FnOnce(&mut Store<Arc<D>>) -> Result<T, Error>,
    ) -> (Result<T, Error>, Option<Panicked>) {
        match self.with_store(state, lead, act, |_| {}) {
            Ok(outcome) => (outcome, None),
            Err(Ended::Refused(error)) => (Err(error), None),
            Err(Ended::Panicked(panic, error)) => (Err(error), Some(panic)),
        }
    }

    /// Waits for a turn of exclusive access, and runs `act` in it.
    pub(super) fn take_turn<T>(
        &self,
        turn: Turn,
        act: impl FnOnce(&mut Store<Arc<D>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let waiter = Waiter::new();
        let number = self.enqueue(Ask::Turn(turn), &waiter, None)?;
        let lead = loop {
            match waiter.listen() {
                Message::Turn(lead) => break lead,
                Message::Lead(lead) => self.lead_as(&waiter, number, lead),
                Message::Answer(Err(error)) => return Err(error),
                Message::Answer(Ok(_)) => return Err(Error::Closed),
            }
        };
        let mut refused = Vec::new();
        let ended = self.with_store(self.writer(), lead, act, |queue| {
            queue.end_turn();
            if turn == Turn::Closing {
                refused = queue.close();
            }
        });
        self.answer_all(refused.into_iter().map(|entry| (entry.asker, Err(Error::Closed))));
        if turn == Turn::Closing {
            self.work.notify_all();
            let subscribers = self.subscriptions().all();
            subscribers.into_iter().for_each(Subscriber::notify);
        }
        match ended {
            Ok(outcome) => outcome,
            Err(Ended::Refused(error)) => Err(error),
            Err(Ended::Panicked(panic, _)) => panic.resume(),
        }
    }

    /// As `SharedStore::tick`.
    pub(super) fn tick(&self, now: Duration) -> Result<(), Error> {
        let (expired, lead) = {
            let mut queue = self.queue();
            let expired = queue.expire(now);
            let may_lead = queue.is_quiet() && !queue.is_closed;
            (expired, if may_lead { queue.lead_if_idle() } else { None })
        };
        self.answer_all(expired.into_iter().map(|entry| (entry.asker, Err(Error::DeadlinePassed))));
        let Some(lead) = lead else { return Ok(()) };
        let mut state = self.writer();
        let is_due = match &mut state.held {
            Held::Here(store) => store.note_time(now),
            Held::Lent(_) => false,
        };
        if !is_due {
            let after = self.settle(state, Some(lead), Chores::Later, |_| {});
            self.finish(after, []);
            return Ok(());
        }
        match self.with_store(state, lead, Store::seal_idle, |_| {}) {
            Ok(outcome) => outcome,
            Err(Ended::Refused(error)) => Err(error),
            Err(Ended::Panicked(panic, _)) => panic.resume(),
        }
    }

    /// Changes what readers see at once, where nothing is in the way; else the request waits in the queue.
    pub(super) fn buffer(&self, ask: Ask) -> Result<Answer, Error> {
        let mut state = self.writer();
        let has_source = state.nonces.is_some();
        {
            let queue = self.queue();
            if queue.is_closed {
                return Err(Error::Closed);
            }
            let may_begin = queue.has_begun_all();
            drop(queue);
            if let (true, Held::Here(store)) = (may_begin, &mut state.held)
                && let Needs::Nothing(answer) = store.take_in(&ask, has_source)?
            {
                drop(state);
                self.ticker.wake();
                return Ok(answer);
            }
        }
        drop(state);
        self.ask(ask, None)
    }

    /// Takes the store out of its lock, lets `act` use it, and puts it back. `settle` says what becomes of the queue then.
    fn with_store<T>(
        &self,
        mut state: RwLockWriteGuard<'_, State<D>>,
        lead: Lead,
        act: impl FnOnce(&mut Store<Arc<D>>) -> T,
        settle: impl FnOnce(&mut Queue),
    ) -> Result<T, Ended> {
        let mut taken = match state.take_store(lead) {
            Ok(taken) => taken,
            Err((lead, error)) => {
                let after = self.settle(state, Some(lead), Chores::Later, settle);
                self.finish(after, []);
                return Err(Ended::Refused(error));
            }
        };
        drop(state);
        let outcome = caught(|| act(&mut taken.store));
        let mut state = self.writer();
        let (lead, lent) = state.put_store(taken);
        let outcome = outcome.map_err(|panic| Ended::Panicked(panic, state.poison(Store::fail_after_panic)));
        let after = self.settle(state, Some(lead), Chores::Later, settle);
        self.finish(after, []);
        // It may be the last holder of much memory, so the next leader does not wait for it.
        drop(lent);
        outcome
    }

    /// Lets the locks go, with the lead in the queue or given to the next leader. `change` says what has become of the queue.
    fn settle(
        &self,
        state: RwLockWriteGuard<'_, State<D>>,
        lead: Option<Lead>,
        chores: Chores,
        change: impl FnOnce(&mut Queue),
    ) -> After {
        let (ring, durable) = state.changes();
        let notices = self.subscriptions().look_up(ring, durable);
        let mut queue = self.queue();
        let mut is_chore_due = false;
        if let Held::Here(store) = &state.held {
            is_chore_due = store.is_chore_due();
            queue.in_flight = store.outgoing();
            // A chore needs a moment in which nothing is in flight.
            queue.in_flight_max = if store.is_compaction_due() { 1 } else { store.outgoing_max() };
        }
        drop(state);
        if let Some(lead) = lead {
            queue.return_lead(lead);
        }
        change(&mut queue);
        let may_do_chore = is_chore_due && chores == Chores::Now && !queue.is_closed;
        let chore = if may_do_chore { queue.lead_if_idle() } else { None };
        let next = queue.choose();
        After { next, notices, chore }
    }

    /// What follows when the locks have been let go: the next leader is woken, then answers are given, then chores are done.
    fn finish(&self, after: After, answered: impl IntoIterator<Item = Answered>) {
        self.wake(after.next);
        self.answer_all(answered);
        after.notices.into_iter().for_each(Subscriber::notify);
        self.ticker.wake();
        if let Some(lead) = after.chore {
            // A panic in it has poisoned the store, and says no more to the caller whose frame has ended well.
            let _done = self.with_store(self.writer(), lead, Store::chore, |_| {});
        }
    }
}

/// Why a turn came to nothing.
enum Ended {
    /// It did not begin.
    Refused(Error),
    /// Foreign code panicked in it, and the store is poisoned.
    Panicked(Panicked, Error),
}

impl<D: BlockDevice> State<D> {
    fn is_any_in_flight(&self) -> bool {
        match &self.held {
            Held::Here(store) => store.outgoing() > 0,
            Held::Lent(_) => false,
        }
    }

    fn supply(&mut self, nonces: Vec<Nonce>) {
        if let Held::Here(store) = &mut self.held {
            store.sealing.nonces.supply(nonces);
        }
    }

    /// How many nonces the requests that wait need, as far as they may go with the next frame.
    fn nonces_ahead(&self, queue: &Queue) -> usize {
        match &self.held {
            Held::Here(store) => {
                queue.bodies_within(store.body_len_max()).map(|body| store.nonces_for(body)).sum()
            }
            Held::Lent(_) => 0,
        }
    }

    /// Poisons the store after a panic in foreign code, and returns the error that every write has from now on.
    pub(super) fn poison(&mut self, fail: impl FnOnce(&mut Store<Arc<D>>)) -> Error {
        let Held::Here(store) = &mut self.held else { return Error::Closed };
        fail(store);
        store.refuse_unless_writable().err().unwrap_or(Error::Closed)
    }

    /// Takes the store out, and leaves what readers need.
    fn take_store(&mut self, lead: Lead) -> Result<Taken<D>, (Lead, Error)> {
        let Held::Here(store) = &mut self.held else { return Err((lead, Error::Closed)) };
        // One that counts, for callers that keep it; where no more may be given out, readers need one nevertheless.
        let (view, is_counted) = match store.view() {
            Err(Error::TooManyViews { .. }) => (store.view_for_readers(), false),
            view => (view, true),
        };
        let view = match view {
            Ok(view) => view,
            Err(error) => return Err((lead, error)),
        };
        let (stats, is_sealed) = (store.stats(), store.is_sealed());
        let quotas = store.quotas().collect();
        let lent = Lent { view, is_counted, changes: store.changes.take(), stats, is_sealed, quotas };
        match std::mem::replace(&mut self.held, Held::Lent(Box::new(lent))) {
            Held::Here(mut store) => {
                if let Some(source) = self.nonces.take() {
                    store.sealing.nonces.set_source(source);
                }
                Ok(Taken { store, lead })
            }
            lent @ Held::Lent(_) => {
                self.held = lent;
                Err((lead, Error::Closed))
            }
        }
    }

    /// Puts the store back. What readers used meanwhile is returned, to be dropped without a lock.
    fn put_store(&mut self, taken: Taken<D>) -> (Lead, Option<View>) {
        let Taken { mut store, lead } = taken;
        self.nonces = store.sealing.nonces.take_source();
        let later = store.changes.take();
        let held = std::mem::replace(&mut self.held, Held::Here(store));
        let (Held::Here(store), Held::Lent(lent)) = (&mut self.held, held) else { return (lead, None) };
        let Lent { view, changes, .. } = *lent;
        store.changes = changes;
        store.changes.append(&later);
        (lead, Some(view))
    }
}

fn answers_of(riders: Vec<(Entry, Answer)>) -> Vec<(Asker, Answer)> {
    riders.into_iter().map(|(entry, answer)| (entry.asker, answer)).collect()
}

/// The answers of callers whose frame has ended, or never begun.
fn settled(
    answers: Vec<(Asker, Answer)>,
    ended: &Result<crate::Revision, Error>,
) -> impl Iterator<Item = Answered> {
    let ended = ended.clone();
    answers.into_iter().map(move |(asker, answer)| {
        let answer = match (&ended, answer) {
            (Ok(durable), Answer::Synced(_)) => Ok(Answer::Synced(*durable)),
            (Ok(_), answer) => Ok(answer),
            (Err(error), _) => Err(error.clone()),
        };
        (asker, answer)
    })
}
