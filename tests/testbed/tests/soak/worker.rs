//! One thread of the soak: it makes calls at random, compares each answer with its model, and
//! samples durable bytes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crashsim::Random;
use media::{BlockDevice as _, Clock as _, SystemClock};
use statefs::{
    Batch, Change, ChangeKind, Changes, Driver, Error, Form, Key, Precondition, Prefix, Quota, Revision,
    SharedStore, Subscription,
};

use crate::Disk;
use crate::model::{
    self, Model, Owned, Owner, STAMP_LEN, THREADS, charge, counter_in, counter_key, number_of,
};

/// How many calls that promise durability a thread makes for each one that is checked.
const SAMPLE_EVERY: u64 = 50;

/// How often all threads rest at the same time, so that the ticker can seal the store.
const REST_EVERY: Duration = Duration::from_millis(700);

/// Where a thread is, for the watchdog.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) calls: AtomicU64,
    pub(crate) samples: AtomicU64,
    pub(crate) at: Mutex<&'static str>,
}

/// Whether what was called has promised that everything the thread knows is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Durable,
    Nothing,
}

/// A turn, and its share of all turns.
type Turn = (u32, fn(&mut Worker) -> Promise);

/// A key of a batch, and the value it gets; [`None`] takes its value away.
type Changed = (Key, Option<Vec<u8>>);

const TURNS: [Turn; 19] = [
    (14, Worker::put),
    (6, Worker::delete),
    (10, Worker::swap),
    (8, Worker::batch),
    (4, Worker::batch_on_condition),
    (8, Worker::buffered),
    (8, Worker::sealed),
    (8, Worker::narrow),
    (10, Worker::get),
    (6, Worker::list),
    (6, Worker::watch_own),
    (2, Worker::watch_counter),
    (4, Worker::stats),
    (6, Worker::fetch_own),
    (6, Worker::scan_own),
    (1, Worker::start_or_stop_driver),
    (3, Worker::exclusive_put),
    (2, Worker::exclusive_snapshot),
    (2, Worker::exclusive_upkeep),
];

/// A thread of the soak.
pub(crate) struct Worker {
    shared: SharedStore<Disk>,
    disk: Disk,
    progress: Arc<Progress>,
    seed: u64,
    random: Random,
    pub(crate) model: Model,
    /// The number of the last value that was made.
    number: u64,
    /// How often the key that counts puts was put.
    pub(crate) puts: u64,
    /// Swaps of the counter that succeeded.
    pub(crate) swaps: u64,
    /// The greatest number of the counter that this thread has seen.
    counter_seen: u64,
    /// Changes of own keys that a watcher has not seen yet.
    expected: VecDeque<Change>,
    /// The revision up to which a watcher has seen them.
    since: Revision,
    /// The same changes for a subscription, which fetches each of them once.
    subscription: Subscription<Disk>,
    to_fetch: VecDeque<Change>,
    /// The commit thread, while this thread has started one.
    driver: Option<Driver<Disk>>,
    /// The last revision of each call that wrote.
    pub(crate) revisions: Vec<u64>,
    /// Calls that promised durability.
    promises: u64,
    /// Calls by kind, and indented, what some of them came to.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Worker {
    pub(crate) fn new(
        shared: SharedStore<Disk>,
        disk: Disk,
        nth: usize,
        seed: u64,
        progress: Arc<Progress>,
    ) -> Self {
        let subscription = shared.subscribe(&Owner(nth).prefix(), || {});
        Self {
            shared,
            disk,
            subscription,
            to_fetch: VecDeque::new(),
            driver: None,
            progress,
            seed,
            random: Random::new(seed),
            model: Model::new(Owner(nth)),
            number: 0,
            puts: 0,
            swaps: 0,
            counter_seen: 0,
            expected: VecDeque::new(),
            since: Revision::from_u64(0),
            revisions: Vec::new(),
            promises: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Returns a turn of the table.
    fn draw(&mut self) -> fn(&mut Self) -> Promise {
        let mut left = self.random.below(TURNS.iter().map(|(share, _)| share).sum());
        let drawn = TURNS.iter().find(|(share, _)| {
            let is_it = left < *share;
            left = left.saturating_sub(*share);
            is_it
        });
        drawn.unwrap().1
    }

    /// Takes turns until it is told to stop.
    pub(crate) fn run(&mut self, is_over: &AtomicBool) {
        let clock = SystemClock::new();
        let mut rest_at = clock.elapsed() + REST_EVERY;
        while !is_over.load(Ordering::SeqCst) {
            let turn = self.draw();
            if turn(self) == Promise::Durable {
                self.promises += 1;
                if self.promises.is_multiple_of(SAMPLE_EVERY) {
                    self.sample();
                }
            }
            if clock.elapsed() >= rest_at {
                // The ticker seals a store that was idle for 50 to 100 ms: the first threads return
                // before that, while it does, or after it.
                clock.sleep(Duration::from_millis(u64::from(75 + self.random.below(50))));
                while rest_at <= clock.elapsed() {
                    rest_at += REST_EVERY;
                }
            }
        }
    }

    /// Returns how many times durable bytes were checked.
    pub(crate) fn samples(&self) -> u64 {
        self.progress.samples.load(Ordering::SeqCst)
    }

    /// Compares the durable bytes of now with what this thread was told.
    fn sample(&mut self) {
        let told = *self.progress.at.lock().unwrap();
        let bytes = self.disk.durable();
        let opened = model::open_image(self.disk.geometry(), bytes);
        let checked = opened.and_then(|(store, _)| {
            self.model.check(&store)?;
            model::check_groups(&store)?;
            model::check_quotas(&store)?;
            let counter = counter_in(&store);
            match counter < self.counter_seen {
                true => Err(format!("the counter is {counter}, but was shown as {}", self.counter_seen)),
                false => Ok(()),
            }
        });
        self.demand(checked.map_err(|why| format!("not durable after {told} returned Ok: {why}")));
        self.progress.samples.fetch_add(1, Ordering::SeqCst);
    }

    fn demand<T>(&self, checked: Result<T, String>) -> T {
        let told = *self.progress.at.lock().unwrap();
        let calls = self.progress.calls.load(Ordering::SeqCst);
        match checked {
            Ok(value) => value,
            Err(why) => {
                panic!(
                    "thread {} (seed {}) in {told}, its call {calls}: {why}",
                    self.model.owner.0, self.seed
                )
            }
        }
    }

    fn check(&self, holds: bool, why: impl FnOnce() -> String) {
        self.demand(if holds { Ok(()) } else { Err(why()) });
    }

    /// Makes a call, and tells the watchdog which one.
    fn call<T>(&mut self, name: &'static str, act: impl FnOnce(&SharedStore<Disk>) -> T) -> T {
        *self.progress.at.lock().unwrap() = name;
        self.progress.calls.fetch_add(1, Ordering::SeqCst);
        *self.counts.entry(name).or_default() += 1;
        act(&self.shared)
    }

    /// Makes a call that may not fail.
    fn must<T>(&mut self, name: &'static str, act: impl FnOnce(&SharedStore<Disk>) -> Result<T, Error>) -> T {
        let outcome = self.call(name, act);
        self.demand(outcome.map_err(|error| format!("{error}: {error:?}")))
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn value(&mut self) -> Vec<u8> {
        let len = STAMP_LEN + usize::try_from(self.random.below(72)).unwrap();
        self.number += 1;
        self.model.owner.value(self.number, len)
    }

    fn plain_key(&mut self) -> Key {
        self.model.owner.plain_key(self.random.below(8))
    }

    /// Notes that a revision was handed out.
    fn written(&mut self, revision: Revision) {
        let is_later = self.revisions.last().is_none_or(|last| *last < revision.get());
        self.check(is_later, || format!("{revision} is not later than the last one"));
        self.revisions.push(revision.get());
    }

    /// Notes that a key has a value.
    fn has(&mut self, key: Key, value: Vec<u8>, revision: Revision) {
        self.changed(&key, revision, ChangeKind::Put);
        self.model.keys.insert(key, Owned { value, revision });
    }

    /// Notes that a key has no value.
    fn has_not(&mut self, key: &Key, revision: Revision) {
        self.changed(key, revision, ChangeKind::Delete);
        self.model.keys.remove(key);
    }

    fn changed(&mut self, key: &Key, revision: Revision, kind: ChangeKind) {
        if self.model.owner.prefix().covers(key) {
            let change = Change { key: key.clone(), revision, kind };
            self.to_fetch.push_back(change.clone());
            self.expected.push_back(change);
        }
    }

    fn put_own(&mut self, key: Key, value: Vec<u8>) -> Promise {
        let revision = match self.random.below(4) {
            0 => self.submit(&key, &value),
            1 => self.must("put with a deadline", |shared| {
                let mut batch = Batch::new();
                batch.put(&key, &value)?;
                shared.batch_by(batch, Duration::MAX)
            }),
            _ => self.must("put", |shared| shared.put(&key, &value)),
        };
        self.written(revision);
        self.has(key, value, revision);
        let durable = self.shared.durable_revision();
        let is_durable = durable >= revision;
        self.check(is_durable, || format!("{durable} is durable, not {revision}"));
        Promise::Durable
    }

    /// Puts a value, or the number of puts that a key has had.
    fn put(&mut self) -> Promise {
        if self.random.below(2) == 0 {
            let (key, value) = (self.plain_key(), self.value());
            return self.put_own(key, value);
        }
        let (key, puts) = (self.model.owner.puts_key(), self.puts + 1);
        let value = self.model.owner.value(puts, STAMP_LEN);
        let promise = self.put_own(key, value);
        self.puts = puts;
        promise
    }

    fn delete(&mut self) -> Promise {
        let key = self.plain_key();
        let deleted = self.must("delete", |shared| shared.delete(&key));
        self.deleted(&key, deleted);
        Promise::Durable
    }

    fn deleted(&mut self, key: &Key, deleted: Option<Revision>) {
        let had = self.model.keys.contains_key(key);
        let why = || format!("{key} had a value: {had}, but the answer is {deleted:?}");
        self.check(deleted.is_some() == had, why);
        if let Some(revision) = deleted {
            self.written(revision);
            self.has_not(key, revision);
        }
    }

    fn see_counter(&mut self, number: u64) {
        let seen = self.counter_seen;
        self.check(number >= seen, || format!("the counter went from {seen} to {number}"));
        self.counter_seen = number;
    }

    fn swap(&mut self) -> Promise {
        let key = counter_key();
        let found = self.must("get", |shared| shared.get(&key));
        let (expected, number) = match &found {
            Some(value) => (Precondition::RevisionIs(value.revision), number_of(&value.bytes)),
            None => (Precondition::Absent, 0),
        };
        self.see_counter(number);
        let next = number + 1;
        let swapped = self
            .call("compare_and_swap", |shared| shared.compare_and_swap(&key, expected, &next.to_le_bytes()));
        match swapped {
            Ok(revision) => {
                self.written(revision);
                self.swaps += 1;
                self.see_counter(next);
                Promise::Durable
            }
            Err(Error::Conflict { key: of, wanted, found: now })
                if of == key && wanted == expected && now > found.map(|value| value.revision) =>
            {
                self.count("  conflicts of the counter");
                Promise::Nothing
            }
            Err(error) => self.demand(Err(format!("{error}: {error:?}"))),
        }
    }

    /// Changes the whole group, and sometimes an encrypted value with it.
    fn group_batch(&mut self) -> (Batch, Vec<Changed>) {
        let (mut batch, mut changes) = (Batch::new(), Vec::new());
        let is_there = self.model.owner.group_keys().iter().any(|key| self.model.keys.contains_key(key));
        let takes_away = is_there && self.random.below(4) == 0;
        let value = self.value();
        for key in self.model.owner.group_keys() {
            changes.push((key, (!takes_away).then(|| value.clone())));
        }
        if self.random.below(3) == 0 {
            let key = self.model.owner.sealed_key(self.random.below(2));
            changes.push((key, Some(value)));
        }
        for (key, value) in &changes {
            match value {
                Some(value) => batch.put(key, value).unwrap(),
                None => batch.delete(key).unwrap(),
            }
        }
        (batch, changes)
    }

    fn batch(&mut self) -> Promise {
        let (batch, changes) = self.group_batch();
        let last = self.must("batch", |shared| shared.batch(batch));
        self.carried_out(last, changes);
        Promise::Durable
    }

    /// Notes a batch. Its revisions are consecutive.
    fn carried_out(&mut self, last: Revision, changes: Vec<Changed>) {
        self.written(last);
        let first = last.get() + 1 - u64::try_from(changes.len()).unwrap();
        for (revision, (key, value)) in (first..).map(Revision::from_u64).zip(changes) {
            match value {
                Some(value) => self.has(key, value, revision),
                None => self.has_not(&key, revision),
            }
        }
    }

    /// Carries out a batch if an own key is as it is, or as it is not: the answer is known.
    fn batch_on_condition(&mut self) -> Promise {
        let key = self.plain_key();
        let revision = self.model.keys.get(&key).map(|owned| owned.revision);
        let holds = self.random.below(2) == 0;
        let condition = match (revision, holds) {
            (Some(revision), true) => Precondition::RevisionIs(revision),
            (Some(_), false) | (None, true) => Precondition::Absent,
            (None, false) => Precondition::RevisionIs(Revision::from_u64(1)),
        };
        let (mut batch, changes) = self.group_batch();
        batch.require(&key, condition).unwrap();
        match self.call("batch with a condition", |shared| shared.batch(batch)) {
            Ok(last) if holds => {
                self.carried_out(last, changes);
                Promise::Durable
            }
            Err(Error::Conflict { key: of, wanted, found })
                if !holds && of == key && wanted == condition && found == revision =>
            {
                self.count("  conflicts that the model demands");
                Promise::Nothing
            }
            other => self.demand(Err(format!("{condition:?} holds: {holds}, but: {other:?}"))),
        }
    }

    /// Buffers a few changes, and makes them durable in one of several ways.
    fn buffered(&mut self) -> Promise {
        let mut newest = Revision::from_u64(0);
        for _ in 0..=self.random.below(3) {
            let key = self.plain_key();
            if self.random.below(4) == 0 {
                let deleted = self.must("delete_buffered", |shared| shared.delete_buffered(&key));
                self.deleted(&key, deleted);
                newest = deleted.unwrap_or(newest);
            } else {
                let value = self.value();
                newest = self.must("put_buffered", |shared| shared.put_buffered(&key, &value));
                self.written(newest);
                self.has(key, value, newest);
            }
        }
        match self.random.below(6) {
            0 => self.put(),
            1 => self.exclusive_put(),
            // A delete makes durable what was buffered, even where the key has no value.
            2 => self.delete(),
            _ => {
                let durable = self.must("sync", SharedStore::sync);
                self.check(durable >= newest, || format!("{durable} is durable, not {newest}"));
                Promise::Durable
            }
        }
    }

    /// Puts an encrypted value.
    fn sealed(&mut self) -> Promise {
        let (key, value) = (self.model.owner.sealed_key(self.random.below(2)), self.value());
        let revision = self.must("put of an encrypted value", |shared| shared.put(&key, &value));
        self.written(revision);
        self.has(key, value, revision);
        Promise::Durable
    }

    /// Puts below the prefix with a small quota. The model says whether that is refused.
    fn narrow(&mut self) -> Promise {
        let prefix = self.model.owner.narrow();
        let (key, value) = (self.model.owner.narrow_key(self.random.below(3)), self.value());
        let (limit, used) = (self.model.quotas.narrow_hard, self.model.used(&prefix));
        let old = self.model.keys.get(&key).map_or(0, |owned| charge(&key, owned.value.len()));
        let requested = used - old + charge(&key, value.len());
        let is_refused = requested > limit && requested > used;
        match self.call("put below a quota", |shared| shared.put(&key, &value)) {
            Ok(revision) if !is_refused => {
                self.written(revision);
                self.has(key, value, revision);
                Promise::Durable
            }
            Err(Error::QuotaExceeded { prefix: of, limit: l, used: u, requested: r })
                if is_refused && of == prefix && (l, u, r) == (limit, used, requested) =>
            {
                self.count("  refused by a quota, as the model demands");
                Promise::Nothing
            }
            other => self.demand(Err(format!(
                "limit={limit} used={used} requested={requested}, refused: {is_refused}, but: {other:?}"
            ))),
        }
    }

    /// Reads an own key, and one of another thread.
    fn get(&mut self) -> Promise {
        let owner = self.model.owner;
        let sealed = owner.sealed_key(self.random.below(2));
        for key in [self.plain_key(), owner.narrow_key(self.random.below(3)), sealed] {
            let found = self.must("get", |shared| shared.get(&key));
            let known = self.model.keys.get(&key);
            let is_as_known = match (&found, known) {
                (Some(found), Some(known)) if found.form == Form::Plain => {
                    (&found.bytes, found.revision) == (&known.value, known.revision)
                }
                (Some(found), Some(known)) => found.revision == known.revision,
                (found, known) => found.is_none() && known.is_none(),
            };
            self.check(is_as_known, || format!("{key}: known {known:?}, found {found:?}"));
        }
        let other = Owner(usize::try_from(self.random.below(u32::try_from(THREADS).unwrap())).unwrap());
        let key = other.plain_key(self.random.below(8));
        let found = self.must("get", |shared| shared.get(&key));
        let is_whole = found.as_ref().is_none_or(|found| other.number(&found.bytes).is_some());
        self.check(is_whole, || format!("{key}: no thread has put {found:?}"));
        Promise::Nothing
    }

    /// Reads in one consistent state: own keys, every group, the counter.
    fn list(&mut self) -> Promise {
        self.call("read with list", |_| {});
        let (shared, model) = (self.shared.clone(), &self.model);
        let checked = shared.read(|view| {
            model.check(view)?;
            model::check_groups(view)?;
            Ok(counter_in(view))
        });
        let number = self.demand(checked.unwrap());
        self.see_counter(number);
        Promise::Nothing
    }

    /// Watches own changes: each is seen once, in order.
    fn watch_own(&mut self) -> Promise {
        let prefix = self.model.owner.prefix();
        let (since, max) = (self.since, usize::try_from(1 + self.random.below(64)).unwrap());
        let patience = Duration::from_millis(u64::from(self.random.below(4)));
        match self.must("watch", |shared| shared.watch(&prefix, since, max, patience)) {
            Changes::Events { events, next } => {
                for event in events {
                    let expected = self.expected.pop_front();
                    let is_next = expected.as_ref() == Some(&event);
                    self.check(is_next, || format!("made {expected:?}, but {event:?} is seen"));
                }
                self.since = next;
            }
            Changes::FellBehind { oldest } => {
                self.count("  watches that fell behind");
                self.expected.retain(|change| change.revision > oldest);
                self.since = oldest;
            }
        }
        Promise::Nothing
    }

    /// Checks that a watcher has seen every own change, once all are durable.
    pub(crate) fn drain_watch(&mut self) {
        self.driver = None;
        while self.since < self.shared.durable_revision() {
            let _nothing = self.watch_own();
        }
        while !self.to_fetch.is_empty() {
            let left = self.to_fetch.len();
            let _nothing = self.fetch_own();
            self.check(self.to_fetch.len() < left, || format!("a subscription does not get {left} changes"));
        }
        let rest = &self.expected;
        self.check(rest.is_empty(), || format!("a watcher has not seen {rest:?}"));
    }

    /// Waits for a swap of any thread.
    fn watch_counter(&mut self) -> Promise {
        let (key, since) = (counter_key(), self.shared.durable_revision());
        let (prefix, patience) = (Prefix::from(key.clone()), Duration::from_millis(2));
        let changes = self.must("watch", |shared| shared.watch(&prefix, since, 8, patience));
        if let Changes::Events { events, .. } = changes {
            let is_ordered = events.is_sorted_by(|one, next| one.revision < next.revision);
            let are_news = events.iter().all(|event| event.key == key && event.revision > since);
            self.check(is_ordered && are_news, || format!("since {since}: {events:?}"));
        }
        Promise::Nothing
    }

    /// Submits a put and waits for its callback. Where there is no commit thread, or it ends before, the put is repeated.
    fn submit(&mut self, key: &Key, value: &[u8]) -> Revision {
        loop {
            let mut batch = Batch::new();
            self.demand(batch.put(key, value).map_err(|error| error.to_string()));
            let (told, heard) = mpsc::channel();
            let done = move |outcome: Result<Revision, Error>| drop(told.send(outcome));
            let outcome = match self.call("submit", |shared| shared.submit(batch, done)) {
                // A callback that is dropped and not called ends the channel.
                Ok(_request) => {
                    self.demand(heard.recv().map_err(|_| "the callback was not called".to_owned()))
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(revision) => return revision,
                Err(Error::NoDriver) => {
                    self.count("  submits without a commit thread");
                    return self.must("put", |shared| shared.put(key, value));
                }
                Err(error) => self.demand(Err(format!("{error}: {error:?}"))),
            }
        }
    }

    fn start_or_stop_driver(&mut self) -> Promise {
        if self.driver.take().is_some() {
            self.count("commit thread stopped");
            return Promise::Nothing;
        }
        if let Ok(driver) = self.call("driver", SharedStore::driver) {
            self.driver = Some(driver);
        }
        Promise::Nothing
    }

    /// Fetches own changes: each comes once, in order.
    fn fetch_own(&mut self) -> Promise {
        let max = usize::try_from(1 + self.random.below(64)).unwrap();
        self.call("fetch", |_| {});
        match self.demand(self.subscription.fetch(max).map_err(|error| error.to_string())) {
            Changes::Events { events, .. } => {
                for event in events {
                    let expected = self.to_fetch.pop_front();
                    let is_next = expected.as_ref() == Some(&event);
                    self.check(is_next, || format!("made {expected:?}, but {event:?} is fetched"));
                }
            }
            Changes::FellBehind { .. } => {
                self.count("  subscriptions that fell behind");
                // What is durable and was not fetched is lost to it; what is not durable yet will come.
                let durable = self.shared.durable_revision();
                self.to_fetch.retain(|change| change.revision > durable);
            }
        }
        Promise::Nothing
    }

    /// Scans own keys with their values, and compares them with the list of the same moment.
    fn scan_own(&mut self) -> Promise {
        let prefix = self.model.owner.prefix();
        let mut found = BTreeMap::new();
        let next = self.must("scan", |shared| {
            shared.scan(&prefix, None, usize::MAX, |key, value| {
                found.insert(key.to_owned(), value.revision);
                ControlFlow::Continue(())
            })
        });
        let known = self.model.keys.iter().filter(|(key, _)| prefix.covers(key));
        let known: BTreeMap<String, Revision> =
            known.map(|(key, owned)| (key.as_str().to_owned(), owned.revision)).collect();
        let is_as_known = next.is_none() && found == known;
        self.check(is_as_known, || format!("known {known:?}, scanned {found:?}"));
        Promise::Nothing
    }

    fn stats(&mut self) -> Promise {
        let stats = self.call("stats", SharedStore::stats);
        let own = u64::try_from(self.model.keys.len()).unwrap();
        let is_likely = stats.waiting < THREADS && stats.store.live_keys >= own;
        self.check(is_likely, || format!("{own} own keys, and {stats:?}"));
        Promise::Nothing
    }

    fn exclusive_put(&mut self) -> Promise {
        let (key, value) = (self.plain_key(), self.value());
        let revision =
            self.must("exclusively put", |shared| shared.exclusively(|store| store.put(&key, &value)));
        self.written(revision);
        self.has(key, value, revision);
        Promise::Durable
    }

    /// Takes the thread's snapshot, or drops it. What is buffered becomes durable with it. Three
    /// threads do, because each snapshot keeps superseded values.
    fn exclusive_snapshot(&mut self) -> Promise {
        if !self.model.owner.0.is_multiple_of(4) {
            return self.exclusive_put();
        }
        let name = self.model.owner.snapshot_name();
        let (key, value) = (self.plain_key(), self.value());
        if self.model.snapshot.is_some() {
            let (put, dropped) = self.must("exclusively put_buffered, drop_snapshot", |shared| {
                shared
                    .exclusively(|store| Ok((store.put_buffered(&key, &value)?, store.drop_snapshot(&name)?)))
            });
            self.written(put);
            self.has(key, value, put);
            let dropped = self.demand(dropped.ok_or("there was no snapshot".to_owned()));
            self.written(dropped);
            self.model.snapshot = None;
        } else {
            let (put, taken) = self.must("exclusively put_buffered, snapshot", |shared| {
                shared.exclusively(|store| Ok((store.put_buffered(&key, &value)?, store.snapshot(&name)?)))
            });
            self.written(put);
            self.has(key, value, put);
            self.written(taken);
            let prefix = self.model.owner.prefix();
            let own = self.model.keys.iter().filter(|(key, _)| prefix.covers(key));
            let own = own.map(|(key, owned)| (key.clone(), owned.clone())).collect();
            self.model.snapshot = Some((taken, own));
        }
        Promise::Durable
    }

    /// Changes a quota, or takes a step of a compaction; and recounts, for nothing is in flight.
    fn exclusive_upkeep(&mut self) -> Promise {
        let owner = self.model.owner;
        let (revision, counted) = match self.random.below(3) {
            0 => {
                let soft = Some(u64::from(self.random.below(4000)));
                self.model.quotas.own = Quota { soft, ..Quota::default() };
                let (prefix, quota) = (owner.prefix(), self.model.quotas.own);
                self.set_quota(&prefix, quota)
            }
            1 => {
                self.model.quotas.narrow_hard = u64::from(60 + self.random.below(300));
                let (prefix, quota) = (owner.narrow(), self.model.quotas.narrow());
                self.set_quota(&prefix, quota)
            }
            _ => {
                let counted = self.must("exclusively compact_step", |shared| {
                    shared.exclusively(|store| {
                        store.compact_step()?;
                        Ok(model::check_quotas(store))
                    })
                });
                (None, counted)
            }
        };
        self.demand(counted);
        match revision {
            Some(revision) => {
                self.written(revision);
                Promise::Durable
            }
            None => Promise::Nothing,
        }
    }

    fn set_quota(&mut self, prefix: &Prefix, quota: Quota) -> (Option<Revision>, Result<(), String>) {
        self.must("exclusively set_quota", |shared| {
            shared.exclusively(|store| {
                let revision = store.set_quota(prefix, quota)?;
                Ok((Some(revision), model::check_quotas(store)))
            })
        })
    }
}
