//! Threads of one [`SharedStore`].
//!
//! A scenario is a list of steps for each thread. It asserts that every caller is answered, that what was told is in the bytes
//! that a power cut leaves at that moment and at each later one, that what was refused never is, and that a subscription gets
//! each change once and in order. The device fails the run if its caller holds a lock.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use media::sync::{Condvar, Mutex, caught, thread};
use media::{Clock, Geometry, MemDisk, Timestamp};
use statefs::{
    Access, Batch, Changes, Error, Key, NoRandom, Nonces, Options, Precondition, Prefix, Revision, SealKey,
    SharedStore, SnapshotName, Store, StoreId, Subscription, Verdict, Zeroizing,
};

use crate::explore::{Scenario, Search};
use crate::medium::{BARRIERS, Call, Fault, How, Moment, PlannedPanic, Power, RecordingDisk};

/// What a thread does.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put(&'static str),
    Delete(&'static str),
    /// Both keys in one batch, with one value.
    Pair(&'static str, &'static str),
    /// A put of a key that has no value.
    Claim(&'static str),
    Buffered(&'static str),
    Sync,
    /// A put with exclusive access.
    Alone(&'static str),
    Snapshot(&'static str),
    /// A step of a compaction.
    Compact,
    Tick(u64),
    /// Reads a key; what is seen must be durable.
    Get(&'static str),
    /// Reads both keys of a batch in one view.
    Look(&'static str, &'static str),
    Submit(&'static str),
    /// A submitted put that is cancelled at once, if it has not begun.
    Cancelled(&'static str),
    /// A put that must have begun by this many milliseconds.
    PutBy(&'static str, u64),
    Close,
}
use Step::*;

/// The value that a step writes: its thread, and its place in it.
type Written = (u8, u8);

/// What a caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    /// This value is durable: it was written, or read.
    Durable(&'static str, Written, u64),
    Gone(&'static str, u64),
    /// This value is visible, and durable once everything up to its revision is.
    Buffered(&'static str, Written, u64),
    Synced(u64),
    Snapshot(&'static str, u64),
    /// This value was not written.
    Refused(&'static str, Written),
    /// An error, or a panic, after which it may be found or not.
    Unknown,
}

/// A scenario.
#[derive(Debug, Clone, Copy)]
struct Play {
    name: &'static str,
    search: Search,
    threads: &'static [&'static [Step]],
    durable_writes: bool,
    /// The first frame is that of the open store: it has the record of the open, and no other frame is in flight beside it.
    is_cold: bool,
    is_slow: bool,
    has_driver: bool,
    has_subscriber: bool,
    /// The prefix `/state/e` is encrypted, and the source of nonces panics at this call.
    entropy_panics: Option<usize>,
    fault: Option<Fault>,
    is_closed: bool,
}

impl Play {
    const fn of(name: &'static str, search: Search, threads: &'static [&'static [Step]]) -> Self {
        Self {
            name,
            search,
            threads,
            durable_writes: false,
            is_cold: false,
            is_slow: false,
            has_driver: false,
            has_subscriber: false,
            entropy_panics: None,
            fault: None,
            is_closed: false,
        }
    }

    const fn durable_writes(self) -> Self {
        Self { durable_writes: true, ..self }
    }

    const fn cold(self) -> Self {
        Self { is_cold: true, ..self }
    }

    const fn slow(self) -> Self {
        Self { is_slow: true, ..self }
    }

    const fn driven(self) -> Self {
        Self { has_driver: true, ..self }
    }

    const fn subscribed(self) -> Self {
        Self { has_subscriber: true, is_closed: true, ..self }
    }

    const fn closed(self) -> Self {
        Self { is_closed: true, ..self }
    }

    const fn encrypted(self, panics_at: usize) -> Self {
        Self { entropy_panics: Some(panics_at), ..self }
    }

    const fn fault(self, on: &'static [Call], nth: usize, how: How) -> Self {
        Self { fault: Some(Fault { on, nth, how }), ..self }
    }

    fn may_fail(&self) -> bool {
        self.fault.is_some() || self.entropy_panics.is_some_and(|panics_at| panics_at != NEVER)
    }
}

/// More nonces than any scenario draws.
const NEVER: usize = usize::MAX;

#[rustfmt::skip]
const PLAYS: &[Play] = &[
    Play::of("store-put-beside-get", Search::All, &[&[Put("a")], &[Get("a")]]).durable_writes(),
    Play::of("store-put-beside-tick", Search::All, &[&[Put("a")], &[Tick(100)]]).durable_writes(),
    Play::of("store-put-beside-close", Search::All, &[&[Put("a")], &[Close]]).durable_writes(),
    Play::of("store-put-beside-buffered", Search::All, &[&[Put("a")], &[Buffered("b")]]).durable_writes().cold(),
    Play::of("store-put-beside-alone", Search::All, &[&[Put("a")], &[Alone("b")]]).durable_writes(),
    Play::of("store-put-beside-put", Search::All, &[&[Put("a")], &[Put("b")]]).durable_writes(),
    Play::of("store-2-puts", Search::Sampled, &[&[Put("a")], &[Put("b")]]).cold(),
    Play::of("store-2-puts-durable-writes", Search::Sampled, &[&[Put("a")], &[Put("b")]]).durable_writes(),
    Play::of("store-3-puts-of-one-key", Search::Sampled, &[&[Put("a"), Get("a")], &[Put("a")], &[Put("a"), Put("b")]]),
    Play::of("store-4-puts-slow", Search::Sampled, &[&[Put("a"), Put("b")], &[Put("b")], &[Put("c")], &[Put("a")]]).slow(),
    Play::of("store-claim", Search::Sampled, &[&[Claim("a")], &[Claim("a")], &[Claim("a"), Get("a")]]),
    Play::of("store-put-and-delete", Search::Sampled, &[&[Put("a"), Delete("a")], &[Put("b"), Get("a")], &[Delete("b")]]),
    Play::of("store-pair-and-view", Search::Sampled, &[&[Pair("a", "b"), Pair("a", "b")], &[Look("a", "b"), Look("a", "b")]]),
    Play::of("store-buffered-and-sync", Search::Sampled, &[&[Buffered("a"), Put("b")], &[Buffered("c"), Sync], &[Put("a")]]).cold(),
    Play::of("store-buffered-beside-frames-slow", Search::Sampled, &[&[Put("a"), Buffered("a")], &[Put("b"), Buffered("b"), Sync], &[Put("a")]]).slow(),
    Play::of("store-alone-beside-puts", Search::Sampled, &[&[Alone("a"), Alone("b")], &[Put("c"), Put("a")], &[Put("d")]]).cold(),
    Play::of("store-alone-beside-ticks-slow", Search::Sampled, &[&[Alone("a"), Alone("a")], &[Put("b"), Put("b")], &[Tick(1), Tick(100), Tick(200)]]).slow(),
    Play::of("store-alone-twice-beside-alone", Search::Sampled, &[&[Alone("a"), Alone("a")], &[Alone("b"), Alone("b")], &[Put("c")]]),
    Play::of("store-snapshot-beside-puts", Search::Sampled, &[&[Buffered("a"), Snapshot("s")], &[Put("a"), Put("b")], &[Put("a")]]),
    Play::of("store-compaction-beside-puts", Search::Sampled, &[&[Compact, Compact, Compact, Compact], &[Put("a"), Get("a")], &[Put("b")]]),
    Play::of("store-seal-beside-put", Search::Sampled, &[&[Tick(1), Tick(100)], &[Put("a")], &[Buffered("b"), Get("a")]]),
    Play::of("store-close-beside-puts", Search::Sampled, &[&[Put("a"), Close], &[Put("b")], &[Buffered("c"), Put("a")]]),
    Play::of("store-two-closes", Search::Sampled, &[&[Close], &[Put("a"), Close], &[Sync]]),
    Play::of("store-deadline", Search::Sampled, &[&[PutBy("a", 50)], &[Put("a"), Tick(100)], &[PutBy("b", 500), Get("a")]]),
    Play::of("store-submit", Search::Sampled, &[&[Submit("a"), Submit("b")], &[Put("a")], &[Submit("c"), Get("a")]]).driven().closed(),
    Play::of("store-submit-and-cancel", Search::Sampled, &[&[Submit("a"), Cancelled("b")], &[Submit("b"), Alone("c")]]).driven().closed(),
    Play::of("store-submit-driver-ends", Search::Sampled, &[&[Submit("a"), Submit("a")], &[Put("b"), Submit("c")]]).driven(),
    Play::of("store-subscriber", Search::Sampled, &[&[Put("a"), Put("b")], &[Pair("a", "c"), Delete("a")]]).subscribed(),
    Play::of("store-subscriber-buffered", Search::Sampled, &[&[Buffered("a"), Put("b")], &[Put("a"), Alone("c")]]).subscribed(),
    Play::of("store-encrypted", Search::Sampled, &[&[Put("e/a")], &[Put("e/b"), Buffered("e/c")], &[Put("b"), Tick(100)]]).encrypted(NEVER),
    Play::of("store-entropy-panics", Search::Sampled, &[&[Put("e/a"), Put("b")], &[Put("e/b")], &[Put("a"), Sync]]).encrypted(1),
    Play::of("store-entropy-panics-driven", Search::Sampled, &[&[Submit("e/a"), Submit("b")], &[Put("a")]]).encrypted(0).driven().cold(),
    Play::of("store-first-barrier-fails", Search::Sampled, &[&[Put("a"), Put("a")], &[Put("b")], &[Put("c")]]).fault(BARRIERS, 0, How::Fails).cold(),
    Play::of("store-second-barrier-fails", Search::Sampled, &[&[Put("a"), Put("a")], &[Put("b")], &[Alone("c"), Put("c")]]).fault(BARRIERS, 1, How::Fails),
    Play::of("store-second-barrier-fails-done", Search::Sampled, &[&[Put("a"), Put("a")], &[Put("b"), Sync], &[Put("c")]]).fault(BARRIERS, 1, How::FailsAfter),
    Play::of("store-second-write-panics", Search::Sampled, &[&[Put("a"), Put("a")], &[Put("b")], &[Put("c"), Close]]).fault(&[Call::Write, Call::WriteDurable], 1, How::Panics),
    Play::of("store-barrier-panics-slow", Search::Sampled, &[&[Put("a"), Put("a")], &[Put("b")], &[Alone("c")], &[Put("d")]]).fault(BARRIERS, 1, How::Panics).slow(),
    Play::of("store-barrier-panics-in-a-turn-that-leads", Search::Sampled, &[&[Alone("a")], &[Alone("b")], &[Put("c")], &[Buffered("c")]]).fault(BARRIERS, 1, How::Panics).closed(),
    Play::of("store-entropy-panics-beside-frames", Search::Sampled, &[&[Put("e/a")], &[Put("a"), Put("b")], &[Alone("c")]]).encrypted(0).closed(),
    Play::of("store-encrypted-buffered-driven", Search::Sampled, &[&[Submit("e/a"), Buffered("e/a")], &[Put("e/b")]]).encrypted(NEVER).driven().closed(),
    Play::of("store-barrier-panics-driven", Search::Sampled, &[&[Submit("a"), Submit("b")], &[Put("b")], &[Put("c")]]).fault(BARRIERS, 1, How::Panics).driven(),
];

pub(super) fn all() -> Vec<Scenario> {
    PLAYS.iter().map(|play| scenario(*play)).collect()
}

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn encrypted() -> Prefix {
    Prefix::parse("/state/e").unwrap()
}

fn seal_key() -> SealKey {
    SealKey::new(1, Zeroizing::new([1; 32]))
}

/// Counts, and panics when it is told to.
struct Counting {
    drawn: usize,
    panics_at: usize,
}

impl Nonces for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        if self.drawn == self.panics_at {
            resume_unwind(Box::new(PlannedPanic));
        }
        self.drawn += 1;
        bytes.fill(u8::try_from(self.drawn % 256).unwrap_or(0));
        Ok(())
    }
}

/// A clock that stands still: time enters with ticks.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 0, nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _how_long: Duration) {}
}

fn geometry(play: &Play) -> Geometry {
    let geometry = Geometry::new(512, 64).unwrap();
    if play.durable_writes { geometry.with_write_durable() } else { geometry }
}

/// A store that has just been made, and of which the record of the open has not been written.
fn image(play: &Play) -> Vec<u8> {
    let mut options = Options::new(StoreId([7; 16]));
    options.journal = journal::Limits { frame_blocks_max: 16, in_flight_blocks_max: 32 };
    let disk = MemDisk::new(geometry(play)).unwrap();
    let mut store = Store::format(disk.clone(), &options).unwrap();
    if play.entropy_panics.is_some() {
        store.set_nonces(Box::new(Counting { drawn: 100, panics_at: NEVER }));
        store.seal_prefix(&encrypted(), seal_key()).unwrap();
    }
    store.close().unwrap();
    disk.image().unwrap()
}

type Disk = RecordingDisk<Told>;

/// What the threads of a run share.
struct Stage {
    disk: Arc<Disk>,
    shared: SharedStore<Arc<Disk>>,
    /// Revisions in the order in which callbacks were told.
    called_back: Mutex<Vec<u64>>,
    submitted: Mutex<(usize, usize)>,
    all_answered: Condvar,
}

fn scenario(play: Play) -> Scenario {
    let bytes = image(&play);
    let power = Power::shared();
    let of_runs = Arc::clone(&power);
    let what = "what is told is durable at that moment, nobody waits for ever, each change is delivered once and in order";
    let run = move || run(&play, &bytes, &of_runs);
    Scenario::new(play.name, what, play.search, run)
        .judged(move || power.judge(|moment| judge(&play, moment)))
}

fn run(play: &Play, bytes: &[u8], power: &Arc<Power<Told>>) {
    let disk = RecordingDisk::holding(geometry(play), bytes).with_power(power).forbidding_locks();
    let disk = Arc::new(if play.is_slow { disk.slow() } else { disk });
    let (mut store, _) = Store::open(Arc::clone(&disk), Access::Write).unwrap();
    if let Some(panics_at) = play.entropy_panics {
        store.unlock(&encrypted(), seal_key()).unwrap();
        store.set_nonces(Box::new(Counting { drawn: 0, panics_at }));
    }
    let shared = SharedStore::new(store, Arc::new(Still));
    if !play.is_cold {
        shared.put(&key("first"), b"it has the record of the open").unwrap();
    }
    let driver = play.has_driver.then(|| shared.driver().unwrap());
    let subscriber = play.has_subscriber.then(|| subscriber(&shared));
    if let Some(fault) = play.fault {
        disk.arm(fault);
    }
    let stage = Arc::new(Stage {
        disk: Arc::clone(&disk),
        shared,
        called_back: Mutex::new(Vec::new()),
        submitted: Mutex::new((0, 0)),
        all_answered: Condvar::new(),
    });
    let threads: Vec<_> = play
        .threads
        .iter()
        .zip(0..)
        .map(|(steps, nth)| {
            let (stage, play) = (Arc::clone(&stage), *play);
            thread::spawn(move || {
                for (step, place) in steps.iter().zip(0..) {
                    take(&stage, &play, *step, (nth, place));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // A handle may go at any moment; what was submitted is answered then, one way or the other.
    if play.is_closed {
        let closed = caught(|| stage.shared.close());
        assert!(play.may_fail() || matches!(closed, Ok(Ok(()) | Err(Error::Closed))), "{closed:?}");
    }
    drop(driver);
    if !play.may_fail() {
        check_memory(play, &stage);
    }
    let submitted = stage.submitted.lock().unwrap();
    assert_eq!(submitted.0, submitted.1, "each callback is called once");
    drop(submitted);
    let called_back = stage.called_back.lock().unwrap();
    assert!(called_back.is_sorted(), "answers come in the order of frames: {called_back:?}");
    if let Some(subscriber) = subscriber {
        let delivered = subscriber.join().unwrap();
        if !play.may_fail() {
            check_delivered(&delivered, &disk.told());
        }
    }
}

/// What readers see, once everything is durable, is what an open finds.
fn check_memory(play: &Play, stage: &Stage) {
    match stage.shared.sync() {
        Ok(_) | Err(Error::Closed) => {}
        Err(error) => panic!("{error}"),
    }
    let image = MemDisk::from_image(geometry(play), stage.disk.durable()).unwrap();
    let (found, _) = Store::open(image, Access::Read).unwrap();
    let found: Vec<_> =
        found.iter().map(|(key, value)| (key, value.bytes.to_vec(), value.revision)).collect();
    let seen = stage.shared.view().unwrap();
    let seen: Vec<_> = seen.iter().map(|(key, value)| (key, value.bytes.to_vec(), value.revision)).collect();
    assert_eq!(seen, found, "readers see what is durable");
}

fn value(written: Written) -> [u8; 2] {
    [written.0, written.1]
}

fn take(stage: &Arc<Stage>, play: &Play, step: Step, written: Written) {
    let shared = &stage.shared;
    let tell = |told: Told| stage.disk.tell(told);
    let durable =
        |name: &'static str, outcome: Result<Revision, Error>| tell(outcome_of(play, name, written, outcome));
    match step {
        Put(name) => match caught(|| shared.put(&key(name), &value(written))) {
            Ok(outcome) => durable(name, outcome),
            Err(_) => panicked(play, stage),
        },
        Claim(name) => match shared.compare_and_swap(&key(name), Precondition::Absent, &value(written)) {
            Err(Error::Conflict { .. }) => tell(Told::Refused(name, written)),
            outcome => durable(name, outcome),
        },
        PutBy(name, millis) => {
            let outcome = shared.batch_by(batch(&[name], written), Duration::from_millis(millis));
            durable(name, outcome);
        }
        Pair(one, other) => {
            let revision = shared.batch(batch(&[one, other], written)).unwrap().get();
            tell(Told::Durable(one, written, revision - 1));
            tell(Told::Durable(other, written, revision));
        }
        Delete(name) => match shared.delete(&key(name)) {
            Ok(Some(revision)) => tell(Told::Gone(name, revision.get())),
            Ok(None) => {}
            Err(error) => failed(play, stage, &error),
        },
        Buffered(name) => match caught(|| shared.put_buffered(&key(name), &value(written))) {
            Ok(Ok(revision)) => tell(Told::Buffered(name, written, revision.get())),
            Ok(Err(Error::Closed)) => tell(Told::Refused(name, written)),
            Ok(Err(error)) => failed(play, stage, &error),
            Err(_) => panicked(play, stage),
        },
        Sync => match caught(|| shared.sync()) {
            Ok(Ok(revision)) => tell(Told::Synced(revision.get())),
            Ok(Err(Error::Closed)) => {}
            Ok(Err(error)) => failed(play, stage, &error),
            Err(_) => panicked(play, stage),
        },
        Alone(name) => match caught(|| shared.exclusively(|store| store.put(&key(name), &value(written)))) {
            Ok(outcome) => durable(name, outcome),
            Err(_) => panicked(play, stage),
        },
        Snapshot(name) => {
            let revision = shared.snapshot(&SnapshotName::parse(name).unwrap()).unwrap();
            tell(Told::Snapshot(name, revision.get()));
        }
        Compact => drop(shared.exclusively(|store| store.compact_step()).unwrap()),
        Tick(millis) => match shared.tick(Duration::from_millis(millis)) {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => failed(play, stage, &error),
        },
        Get(name) => {
            if let Some(found) = shared.get(&key(name)).unwrap() {
                let seen = (found.bytes[0], found.bytes[1]);
                // What was buffered is seen before it is durable.
                if !buffers(play, name) {
                    tell(Told::Durable(name, seen, found.revision.get()));
                }
            }
        }
        Look(one, other) => {
            let view = shared.view().unwrap();
            let [one, other] =
                [one, other].map(|name| view.get(&key(name)).map(|value| value.bytes.to_vec()));
            assert_eq!(one, other, "a batch is seen as a whole");
        }
        Submit(name) => drop(submit(stage, play, name, written)),
        Cancelled(name) => {
            if let Some(request) = submit(stage, play, name, written) {
                let _is_withdrawn = request.cancel();
            }
        }
        Close => match caught(|| shared.close()) {
            Ok(Ok(()) | Err(Error::Closed)) => {}
            Ok(Err(error)) => failed(play, stage, &error),
            Err(_) => panicked(play, stage),
        },
    }
}

fn batch(names: &[&str], written: Written) -> Batch {
    let mut batch = Batch::new();
    names.iter().for_each(|name| batch.put(&key(name), &value(written)).unwrap());
    batch
}

fn submit(
    stage: &Arc<Stage>,
    play: &Play,
    name: &'static str,
    written: Written,
) -> Option<statefs::Request<Arc<Disk>>> {
    stage.submitted.lock().unwrap().0 += 1;
    let (play, of_callback) = (*play, Arc::clone(stage));
    let done = move |outcome: Result<Revision, Error>| {
        if let Ok(revision) = &outcome {
            of_callback.called_back.lock().unwrap().push(revision.get());
        }
        of_callback.disk.tell(outcome_of(&play, name, written, outcome));
        of_callback.submitted.lock().unwrap().1 += 1;
        of_callback.all_answered.notify_all();
    };
    match stage.shared.submit(batch(&[name], written), done) {
        Ok(request) => Some(request),
        Err(error) => {
            stage.submitted.lock().unwrap().1 += 1;
            stage.disk.tell(outcome_of(&play, name, written, Err(error)));
            None
        }
    }
}

fn outcome_of(play: &Play, name: &'static str, written: Written, outcome: Result<Revision, Error>) -> Told {
    match outcome {
        Ok(revision) => Told::Durable(name, written, revision.get()),
        Err(Error::Closed | Error::NoDriver | Error::Cancelled | Error::DeadlinePassed) => {
            Told::Refused(name, written)
        }
        Err(error) => {
            assert!(play.may_fail(), "{error}");
            Told::Unknown
        }
    }
}

fn failed(play: &Play, stage: &Stage, error: &Error) {
    assert!(play.may_fail(), "{error}");
    stage.disk.tell(Told::Unknown);
}

fn panicked(play: &Play, stage: &Stage) {
    assert!(play.may_fail(), "a panic that nobody planned");
    stage.disk.tell(Told::Unknown);
}

/// A thread that fetches every change until the store is closed.
fn subscriber(shared: &SharedStore<Arc<Disk>>) -> thread::JoinHandle<Vec<u64>> {
    let bell = Arc::new((Mutex::new(false), Condvar::new()));
    let ringing = Arc::clone(&bell);
    let subscription = shared.subscribe(&Prefix::root(), move || {
        *ringing.0.lock().unwrap() = true;
        ringing.1.notify_all();
    });
    thread::spawn(move || fetch_all(&subscription, &bell))
}

fn fetch_all(subscription: &Subscription<Arc<Disk>>, bell: &(Mutex<bool>, Condvar)) -> Vec<u64> {
    let mut delivered = Vec::new();
    loop {
        match subscription.fetch(1) {
            Ok(Changes::Events { events, .. }) if events.is_empty() => {
                let mut has_rung = bell.0.lock().unwrap();
                while !*has_rung {
                    has_rung = bell.1.wait(has_rung).unwrap();
                }
                *has_rung = false;
            }
            Ok(Changes::Events { events, .. }) => {
                delivered.extend(events.iter().map(|change| change.revision.get()));
            }
            Ok(Changes::FellBehind { oldest }) => panic!("fell behind {oldest}"),
            Err(Error::Closed) => return delivered,
            Err(error) => panic!("{error}"),
        }
    }
}

fn check_delivered(delivered: &[u64], told: &[Told]) {
    let changed: BTreeSet<u64> = told
        .iter()
        .filter_map(|told| match told {
            Told::Durable(_, _, revision) | Told::Gone(_, revision) | Told::Buffered(_, _, revision) => {
                Some(*revision)
            }
            Told::Synced(_) | Told::Snapshot(..) | Told::Refused(..) | Told::Unknown => None,
        })
        .collect();
    assert!(delivered.is_sorted_by(|one, next| one < next), "not in order, or twice: {delivered:?}");
    assert_eq!(delivered, changed.into_iter().collect::<Vec<_>>(), "each change once");
}

/// What a power cut leaves holds everything that was told.
fn judge(play: &Play, moment: &Moment<Told>) -> Result<(), String> {
    let disk =
        MemDisk::from_image(geometry(play), moment.bytes.to_vec()).map_err(|error| error.to_string())?;
    let (mut store, recovery) = Store::open(disk, Access::Read).map_err(|error| error.to_string())?;
    if matches!(recovery.tail, Verdict::Damaged { .. }) {
        return Err("a cut is taken for damage".to_owned());
    }
    if play.entropy_panics.is_some() {
        store.unlock(&encrypted(), seal_key()).map_err(|error| error.to_string())?;
    }
    let synced = moment.told.iter().filter_map(|told| match told {
        Told::Synced(revision) => Some(*revision),
        _ => None,
    });
    let synced = synced.max().unwrap_or(0);
    moment.told.iter().try_for_each(|told| match told {
        Told::Durable(name, written, revision) => holds(play, &store, moment, name, *written, *revision),
        Told::Buffered(name, written, revision) if *revision <= synced => {
            holds(play, &store, moment, name, *written, *revision)
        }
        Told::Gone(name, revision) => match store.get(&key(name)) {
            Some(found) if found.revision.get() < *revision => {
                Err(format!("{name} is back after its deletion"))
            }
            Some(_) | None => Ok(()),
        },
        Told::Snapshot(name, revision) => {
            let found = store
                .snapshots()
                .any(|found| found.name.as_str() == *name && found.revision.get() == *revision);
            if found { Ok(()) } else { Err(format!("snapshot {name} is missing")) }
        }
        Told::Refused(name, written) => {
            let found = read(&store, name);
            if found.is_some_and(|(found, _)| found == *written) {
                return Err(format!("{name} has the value {written:?}, which was refused"));
            }
            Ok(())
        }
        Told::Buffered(..) | Told::Synced(_) | Told::Unknown => Ok(()),
    })
}

fn read(store: &Store<MemDisk>, name: &str) -> Option<(Written, u64)> {
    let revision = store.get(&key(name))?.revision.get();
    let bytes = match name.starts_with("e/") {
        true => store.reveal(&key(name)).ok()??.to_vec(),
        false => store.get(&key(name))?.bytes.to_vec(),
    };
    Some(((*bytes.first()?, *bytes.get(1)?), revision))
}

/// The key has this value, or one that came later, or was deleted later.
fn holds(
    play: &Play,
    store: &Store<MemDisk>,
    moment: &Moment<Told>,
    name: &str,
    written: Written,
    revision: u64,
) -> Result<(), String> {
    match read(store, name) {
        Some((found, newer)) if newer > revision || (newer, found) == (revision, written) => Ok(()),
        Some((found, other)) => Err(format!(
            "{name} has {found:?} of revision {other}, and {written:?} of {revision} was told durable"
        )),
        None => {
            let told_gone = moment.told.iter().filter_map(|told| match told {
                Told::Gone(gone, gone_at) if *gone == name => Some(*gone_at),
                _ => None,
            });
            // A deletion may be durable before its caller is told; each key is deleted once in a scenario.
            match told_gone.max() {
                Some(gone_at) if gone_at < revision => {
                    Err(format!("{name} is missing; {written:?} was written after its deletion"))
                }
                Some(_) => Ok(()),
                None if may_be_deleted(play, name) => Ok(()),
                None => Err(format!("{name} is missing, and {written:?} of {revision} was told durable")),
            }
        }
    }
}

fn may_be_deleted(play: &Play, name: &str) -> bool {
    let deletes = |step: &Step| matches!(step, Delete(deleted) if *deleted == name);
    play.threads.iter().any(|steps| steps.iter().any(deletes))
}

fn buffers(play: &Play, name: &str) -> bool {
    let buffers = |step: &Step| matches!(step, Buffered(buffered) if *buffered == name);
    play.threads.iter().any(|steps| steps.iter().any(buffers))
}
