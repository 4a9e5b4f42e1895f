//! Readers, subscribers and submitters of a shared store: nobody waits for the device who does not have to. Rows T2 and T4 to T7
//! of the second review.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use media::{BlockDevice, BlockIndex, Clock, DeviceError, Geometry, MemDisk, SystemClock, Timestamp};
use statefs::{
    Access, Batch, Changes, Error, ErrorKind, Key, NoRandom, Nonces, Options, Prefix, Quota, Revision,
    SealKey, SharedStore, SnapshotName, Source, Store, StoreId, WAITING_LEN_MAX, Zeroizing,
};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn prefix(name: &str) -> Prefix {
    Prefix::parse(&format!("/state/{name}")).unwrap()
}

/// Fails instead of waiting for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk whose changing calls wait while the gate is closed, and which counts the calls that wait.
#[derive(Clone, Debug)]
struct Gate {
    disk: MemDisk,
    state: Arc<(Mutex<GateState>, Condvar)>,
}

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    waiting: usize,
}

impl Gate {
    fn new(blocks: u64) -> Self {
        Self::over(Geometry::new(512, blocks).unwrap())
    }

    fn over(geometry: Geometry) -> Self {
        Self { disk: MemDisk::new(geometry).unwrap(), state: Arc::default() }
    }

    fn set_closed(&self, is_closed: bool) {
        self.state.0.lock().unwrap().is_closed = is_closed;
        self.state.1.notify_all();
    }

    /// Waits until a call waits.
    fn until_called(&self) {
        let state = self.state.0.lock().unwrap();
        let (state, waited) =
            self.state.1.wait_timeout_while(state, PATIENCE, |state| state.waiting == 0).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "the device was not called");
    }

    fn pass(&self) {
        let mut state = self.state.0.lock().unwrap();
        state.waiting += 1;
        self.state.1.notify_all();
        state = self.state.1.wait_while(state, |state| state.is_closed).unwrap();
        state.waiting -= 1;
    }
}

impl BlockDevice for Gate {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.disk.read(at, into)
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.pass();
        self.disk.write(at, from)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.pass();
        self.disk.flush()
    }
}

struct Zeros;

impl Nonces for Zeros {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        bytes.fill(0);
        Ok(())
    }
}

fn options() -> Options {
    let mut options = Options::new(StoreId([7; 16]));
    options.journal = journal::Limits { frame_blocks_max: 16, in_flight_blocks_max: 32 };
    options
}

fn shared(disk: Gate) -> SharedStore<Gate> {
    let mut store = Store::format(disk, &options()).unwrap();
    store.set_nonces(Box::new(Zeros));
    SharedStore::new(store, Arc::new(SystemClock::new()))
}

/// Spins until something that other threads do is so.
fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

type Operation = fn(&SharedStore<Gate>) -> Result<(), Error>;

/// Everything that calls the device.
const OPERATIONS: &[(&str, Operation)] = &[
    ("a put", |shared| shared.put(&key("b"), b"x").map(drop)),
    ("a deletion", |shared| shared.delete(&key("a")).map(drop)),
    ("a sync of what was buffered", |shared| {
        shared.put_buffered(&key("b"), b"x")?;
        shared.sync().map(drop)
    }),
    ("a snapshot", |shared| shared.snapshot(&SnapshotName::parse("s").unwrap()).map(drop)),
    ("a quota", |shared| {
        shared.exclusively(|store| store.set_quota(&prefix("q"), Quota::default())).map(drop)
    }),
    ("an encrypted prefix", |shared| {
        let key = SealKey::new(1, Zeroizing::new([1; 32]));
        shared.exclusively(|store| store.seal_prefix(&prefix("e"), key)).map(drop)
    }),
    ("a compaction", |shared| {
        shared.exclusively(|store| (0..4).try_for_each(|_| store.compact_step().map(drop)))
    }),
    ("a scrub", |shared| shared.exclusively(Store::scrub).map(drop)),
    ("a put that makes room first", |shared| {
        (0..200).try_for_each(|_| shared.put(&key("b"), &[1; 900]).map(drop))
    }),
    ("an idle seal", |shared| (0..3).try_for_each(|nth| shared.tick(Duration::from_secs(nth)))),
    ("closing", SharedStore::close),
];

/// A get, a view, a scan and a read inside a read return while the device makes this operation wait.
fn read_everything(shared: &SharedStore<Gate>) {
    assert_eq!(shared.get(&key("a")).unwrap().unwrap().bytes, b"old");
    let len = shared.get_with(&key("a"), |value| value.map(|value| value.bytes.len())).unwrap();
    assert_eq!(len, Some(3));
    let mut seen = 0;
    let next = shared.scan(&Prefix::root(), None, 1, |_, _| {
        seen += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((next.unwrap().is_some(), seen), (true, 1));
    shared
        .read(|view| {
            assert_eq!(view.get(&key("a")).unwrap().bytes, b"old");
            assert!(shared.read(|inner| inner.durable_revision()).unwrap() >= view.durable_revision());
            assert!(shared.get(&key("a")).unwrap().is_some());
        })
        .unwrap();
    assert!(shared.stats().store.live_keys >= 2);
    drop(shared.quotas());
    drop(shared.watch(&Prefix::root(), shared.durable_revision(), 1, Duration::ZERO));
}

#[test]
fn store_t5_readers_go_on_while_any_operation_waits_for_the_device() {
    for (name, operation) in OPERATIONS {
        let disk = Gate::new(256);
        let shared = shared(disk.clone());
        shared.put(&key("a"), b"old").unwrap();
        shared.put(&key("z"), b"old").unwrap();
        disk.set_closed(true);
        thread::scope(|scope| {
            let running = scope.spawn(|| operation(&shared));
            disk.until_called();
            let (told, heard) = mpsc::channel();
            let reads = &shared;
            let reading = scope.spawn(move || {
                read_everything(reads);
                told.send(()).unwrap();
            });
            let outcome = heard.recv_timeout(PATIENCE);
            // Before anything is asserted, so that the threads end.
            disk.set_closed(false);
            reading.join().unwrap();
            outcome.unwrap_or_else(|_| panic!("{name}: readers wait for the device"));
            running.join().unwrap().unwrap();
        });
    }
}

/// A backup is read from a view, without the store.
#[test]
fn store_t5_sibling_a_backup_goes_on_while_the_device_is_stuck() {
    let disk = Gate::new(256);
    let shared = shared(disk.clone());
    shared.put(&key("a"), b"old").unwrap();
    disk.set_closed(true);
    thread::scope(|scope| {
        let writing = scope.spawn(|| shared.put(&key("a"), b"new").unwrap());
        disk.until_called();
        let mut bytes = Vec::new();
        let view = shared.view().unwrap();
        let to = |piece: &[u8]| -> Result<(), std::io::Error> {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        view.backup(Source::Now, to, |_| {}).unwrap();
        assert!(bytes.windows(3).any(|part| part == b"old"));
        disk.set_closed(false);
        writing.join().unwrap();
    });
}

/// A reader inside a reader, beside a writer that waits in between, and a write inside a read.
#[test]
fn store_t4_a_reader_may_read_and_write_again() {
    let shared = shared(Gate::new(256));
    shared.put(&key("a"), b"1").unwrap();
    let (told, heard) = mpsc::channel();
    let reading = shared.clone();
    let thread = thread::spawn(move || {
        reading
            .read(|view| {
                let writer = {
                    let writing = reading.clone();
                    thread::spawn(move || writing.put(&key("a"), b"2").unwrap())
                };
                writer.join().unwrap();
                reading.put(&key("b"), b"3").unwrap();
                reading.exclusively(|store| store.put(&key("c"), b"4")).unwrap();
                assert_eq!(reading.get(&key("a")).unwrap().unwrap().bytes, b"2");
                assert_eq!(view.get(&key("a")).unwrap().bytes, b"1", "a view stays as it is");
                let next = reading.scan(&Prefix::root(), None, 10, |_, _| {
                    reading.put(&key("a"), b"5").unwrap();
                    ControlFlow::Break(())
                });
                assert!(next.unwrap().is_some());
            })
            .unwrap();
        told.send(()).unwrap();
    });
    heard.recv_timeout(PATIENCE).expect("a reader waits for itself");
    thread.join().unwrap();
}

/// Two threads that ask for exclusive access again and again, and writers: all get on.
#[test]
fn store_t2_writers_and_exclusive_access_do_not_starve_each_other() {
    const EACH: usize = 200;
    let shared = shared(Gate::new(256));
    let (over, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for nth in 0..2 {
            let (shared, over, turns) = (&shared, &over, &turns);
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    shared.exclusively(|store| store.put(&key(&format!("alone/{nth}")), b"x")).unwrap();
                    turns.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let writers: Vec<_> = (0..3)
            .map(|nth| {
                let shared = &shared;
                scope.spawn(move || {
                    (0..EACH).for_each(|_| assert!(shared.put(&key(&format!("{nth}")), b"x").is_ok()));
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        over.store(true, Ordering::SeqCst);
    });
    let turns = turns.load(Ordering::SeqCst);
    // At most two turns between the puts of one writer, and the last ones.
    assert!(turns > 10, "{turns} turns beside {EACH} puts of each writer");
}

/// Exactly: a put that waits when a turn ends is answered before the next turn begins, though that was asked for first.
#[test]
fn store_t2_a_put_that_waits_is_answered_before_the_next_turn() {
    let shared = shared(Gate::new(256));
    thread::scope(|scope| {
        let asked = shared.exclusively(|_| {
            let next_turn = scope.spawn(|| {
                shared
                    .exclusively(|store| Ok(store.get(&key("a")).is_some() && store.get(&key("b")).is_some()))
            });
            until(|| shared.stats().waiting == 1);
            let puts = ["a", "b"].map(|name| scope.spawn(|| shared.put(&key(name), b"x").map(drop)));
            until(|| shared.stats().waiting == 3);
            Ok((next_turn, puts))
        });
        let (next_turn, puts) = asked.unwrap();
        assert!(next_turn.join().unwrap().unwrap(), "both puts are visible in the next turn");
        puts.into_iter().for_each(|put| put.join().unwrap().unwrap());
    });
}

#[test]
fn store_t6_subscribers_of_other_prefixes_are_never_woken() {
    let shared = shared(Gate::new(1024));
    let woken = Arc::new(AtomicUsize::new(0));
    let others: Vec<_> = (0..500)
        .map(|nth| {
            let woken = Arc::clone(&woken);
            shared.subscribe(&prefix(&format!("other/{nth}")), move || {
                woken.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    let mine = Arc::new(AtomicUsize::new(0));
    let of_mine = Arc::clone(&mine);
    let subscription = shared.subscribe(&prefix("mine"), move || {
        of_mine.fetch_add(1, Ordering::SeqCst);
    });
    for nth in 0..100 {
        shared.put(&key(&format!("mine/{nth}/a")), b"x").unwrap();
        shared.put(&key(&format!("othe/{nth}")), b"x").unwrap();
    }
    assert_eq!(woken.load(Ordering::SeqCst), 0, "nothing below their prefixes has changed");
    assert_eq!(mine.load(Ordering::SeqCst), 1, "once, until it has fetched everything");
    let mut fetched = 0;
    loop {
        match subscription.fetch(30).unwrap() {
            Changes::Events { events, .. } if events.is_empty() => break,
            Changes::Events { events, .. } => fetched += events.len(),
            Changes::FellBehind { oldest } => panic!("fell behind {oldest}"),
        }
    }
    assert_eq!(fetched, 100);
    shared.put(&key("other/7"), b"x").unwrap();
    shared.put(&key("other/7"), b"y").unwrap();
    assert_eq!((woken.load(Ordering::SeqCst), mine.load(Ordering::SeqCst)), (1, 1));
    drop(others);
    shared.put(&key("other/8"), b"x").unwrap();
    assert_eq!(woken.load(Ordering::SeqCst), 1, "a subscription ends when it is dropped");
}

/// More changes than are remembered: a subscriber falls behind only if one of them was its own.
#[test]
fn a_subscriber_falls_behind_only_when_its_oldest_change_is_forgotten() {
    let shared = shared(Gate::new(4096));
    let quiet = shared.subscribe(&prefix("quiet"), || {});
    let busy = shared.subscribe(&prefix("busy"), || {});
    let mut revision = Revision::from_u64(0);
    for round in 0..statefs::CHANGES_MAX / 100 + 2 {
        let mut batch = Batch::new();
        (0..100).for_each(|nth| batch.put(&key(&format!("busy/{nth}")), &round.to_le_bytes()).unwrap());
        shared.batch(batch).unwrap();
        revision = shared.durable_revision();
    }
    assert!(matches!(busy.fetch(10).unwrap(), Changes::FellBehind { .. }));
    let mine = shared.put(&key("quiet/a"), b"x").unwrap();
    assert!(mine > revision);
    match quiet.fetch(10).unwrap() {
        Changes::Events { events, .. } => assert_eq!(events[0].revision, mine),
        Changes::FellBehind { oldest } => panic!("nothing of it was forgotten, up to {oldest}"),
    }
    assert!(matches!(busy.fetch(10).unwrap(), Changes::Events { events, .. } if events.is_empty()));
}

/// Changes that are made with exclusive access are told when it ends, and none is lost between the two.
#[test]
fn changes_with_exclusive_access_are_delivered_in_order() {
    let shared = shared(Gate::new(1024));
    let all = shared.subscribe(&Prefix::root(), || {});
    let first = shared.put(&key("a"), b"1").unwrap();
    let within =
        shared.exclusively(|store| Ok([store.put(&key("b"), b"2")?, store.put(&key("a"), b"3")?])).unwrap();
    let last = shared.put(&key("c"), b"4").unwrap();
    match all.fetch(10).unwrap() {
        Changes::Events { events, next } => {
            let revisions: Vec<_> = events.iter().map(|event| event.revision).collect();
            assert_eq!((revisions, next), (vec![first, within[0], within[1], last], last));
        }
        Changes::FellBehind { oldest } => panic!("fell behind {oldest}"),
    }
}

/// What a callback was told, in order.
type Answers = Arc<(Mutex<Vec<Result<Revision, ErrorKind>>>, Condvar)>;

fn answered(answers: &Answers, count: usize) -> Vec<Result<Revision, ErrorKind>> {
    let found = answers.0.lock().unwrap();
    let (found, waited) = answers.1.wait_timeout_while(found, PATIENCE, |found| found.len() < count).unwrap();
    assert!(!waited.timed_out(), "{} of {count} are answered", found.len());
    found.clone()
}

fn tell(answers: &Answers) -> impl FnOnce(Result<Revision, Error>) + Send + 'static {
    let answers = Arc::clone(answers);
    move |outcome| {
        answers.0.lock().unwrap().push(outcome.map_err(|error| error.kind()));
        answers.1.notify_all();
    }
}

fn put(name: &str, value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(&key(name), value).unwrap();
    batch
}

#[test]
fn what_is_submitted_shares_frames_and_is_answered_in_order() {
    let disk = Gate::new(1024);
    let shared = shared(disk.clone());
    let answers = Answers::default();
    assert!(matches!(shared.submit(put("a", b""), |_| {}), Err(Error::NoDriver)));
    let driver = shared.driver().unwrap();
    assert_eq!(shared.driver().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    disk.set_closed(true);
    for nth in 0..100 {
        drop(shared.submit(put(&format!("{nth}"), b"x"), tell(&answers)).unwrap());
    }
    disk.until_called();
    assert!(answers.0.lock().unwrap().is_empty(), "nothing is durable");
    disk.set_closed(false);
    let told: Vec<_> = answered(&answers, 100).into_iter().map(Result::unwrap).collect();
    assert!(told.is_sorted());
    assert!(shared.stats().store.frame_ops.max() >= 64, "the others shared one frame, or two");
    shared.close().unwrap();
    assert!(matches!(shared.submit(put("a", b""), |_| {}), Err(Error::Closed)));
    drop(driver);
}

/// A callback may submit, drop the driver, and panic.
#[test]
fn a_callback_may_do_what_it_likes() {
    let shared = shared(Gate::new(1024));
    let answers = Answers::default();
    let driver = Arc::new(Mutex::new(Some(shared.driver().unwrap())));
    let (again, of_callback) = (shared.clone(), Arc::clone(&answers));
    let request = shared.submit(put("a", b"x"), move |first| {
        drop(again.submit(put("b", b"x"), tell(&of_callback)).unwrap());
        tell(&of_callback)(first);
        std::panic::resume_unwind(Box::new("a callback may panic"));
    });
    drop(request.unwrap());
    assert!(answered(&answers, 2).iter().all(Result::is_ok));
    // It ends its own thread, and does not wait for itself.
    let of_callback = Arc::clone(&driver);
    drop(shared.submit(put("c", b"x"), move |_| drop(of_callback.lock().unwrap().take())).unwrap());
    until(|| driver.lock().unwrap().is_none());
    until(|| matches!(shared.submit(put("d", b"x"), |_| {}), Err(Error::NoDriver)));
    shared.put(&key("e"), b"callers lead again").unwrap();
    assert!(shared.get(&key("c")).unwrap().is_some());
}

/// What waits when the driver ends, or the store is closed, is answered.
#[test]
fn submitted_batches_are_answered_when_the_driver_ends_or_the_store_is_closed() {
    for is_closed in [false, true] {
        let disk = Gate::new(1024);
        let shared = shared(disk.clone());
        let answers = Answers::default();
        let driver = shared.driver().unwrap();
        disk.set_closed(true);
        drop(shared.submit(put("first", b"x"), tell(&answers)).unwrap());
        disk.until_called();
        thread::scope(|scope| {
            if is_closed {
                drop(shared.submit(put("before", b"x"), tell(&answers)).unwrap());
                let closing = scope.spawn(|| shared.close());
                until(|| shared.stats().waiting == 2);
                drop(shared.submit(put("after", b"x"), tell(&answers)).unwrap());
                disk.set_closed(false);
                closing.join().unwrap().unwrap();
                let told = answered(&answers, 3);
                assert!(
                    told[0].is_ok() && told[1].is_ok() && told[2] == Err(ErrorKind::ReadOnly),
                    "{told:?}"
                );
                drop(driver);
            } else {
                drop(shared.submit(put("after", b"x"), tell(&answers)).unwrap());
                let ending = scope.spawn(move || drop(driver));
                until(|| shared.stats().waiting == 1);
                thread::yield_now();
                disk.set_closed(false);
                ending.join().unwrap();
                let told = answered(&answers, 2);
                assert!(told[0].is_ok(), "{told:?}");
                // It was carried out before the driver saw that it was to end, or it was refused.
                assert_eq!(told[1].is_ok(), shared.get(&key("after")).unwrap().is_some());
            }
        });
        assert!(shared.get(&key("first")).unwrap().is_some());
    }
}

#[test]
fn a_request_that_has_not_begun_can_be_cancelled() {
    let disk = Gate::new(1024);
    let shared = shared(disk.clone());
    let answers = Answers::default();
    let driver = shared.driver().unwrap();
    disk.set_closed(true);
    let first = shared.submit(put("first", b"x"), tell(&answers)).unwrap();
    disk.until_called();
    let second = shared.submit(put("second", b"x"), tell(&answers)).unwrap();
    assert!(!first.cancel(), "it is in flight");
    assert!(second.cancel());
    assert_eq!(answered(&answers, 1), [Err(ErrorKind::Busy)]);
    disk.set_closed(false);
    assert!(answered(&answers, 2)[1].is_ok());
    assert!(shared.get(&key("second")).unwrap().is_none());
    drop(driver);
}

/// A clock that shows what it is set to.
#[derive(Debug, Default)]
struct SetClock(AtomicUsize);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 0, nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.load(Ordering::SeqCst)).unwrap())
    }
    fn sleep(&self, _how_long: Duration) {}
}

#[test]
fn a_deadline_holds_until_a_request_begins_and_not_after() {
    let disk = Gate::new(1024);
    let clock = Arc::new(SetClock::default());
    let store = Store::format(disk.clone(), &options()).unwrap();
    let as_clock: Arc<dyn Clock> = clock.clone();
    let shared = SharedStore::new(store, as_clock);
    let second = Duration::from_secs(1);
    disk.set_closed(true);
    thread::scope(|scope| {
        let first = scope.spawn(|| shared.batch_by(put("first", b"x"), second));
        disk.until_called();
        // A second frame may be in flight on this device.
        let beside = scope.spawn(|| shared.put(&key("beside"), b"x"));
        until(|| shared.stats().store.frame_ops.count() == 2 || shared.stats().waiting == 1);
        let waiting = shared.stats().waiting;
        let late = scope.spawn(|| shared.batch_by(put("late", b"x"), second));
        until(|| shared.stats().waiting == waiting + 1);
        clock.0.store(2_000, Ordering::SeqCst);
        shared.tick(Duration::from_secs(2)).unwrap();
        assert!(matches!(late.join().unwrap(), Err(Error::DeadlinePassed)));
        disk.set_closed(false);
        first.join().unwrap().expect("it had begun, so the true answer comes");
        beside.join().unwrap().unwrap();
    });
    assert!(shared.get(&key("late")).unwrap().is_none());
    // Without a tick, the caller itself sees that the time has passed.
    shared
        .exclusively(|_| {
            let late = shared.clone();
            let thread = thread::spawn(move || late.batch_by(put("late", b"x"), Duration::from_secs(1)));
            assert!(matches!(thread.join().unwrap(), Err(Error::DeadlinePassed)));
            Ok(())
        })
        .unwrap();
}

#[test]
fn store_t7_requests_that_wait_are_bounded_in_bytes() {
    let disk = Gate::over(Geometry::new(4096, 20 << 10).unwrap());
    let store = Store::format(disk.clone(), &Options::new(StoreId([7; 16]))).unwrap();
    let shared = SharedStore::new(store, Arc::new(SystemClock::new()));
    let driver = shared.driver().unwrap();
    let answers = Answers::default();
    disk.set_closed(true);
    drop(shared.submit(put("first", b"x"), tell(&answers)).unwrap());
    disk.until_called();
    let long = |nth: usize| {
        let mut batch = Batch::new();
        (0..15).for_each(|of| batch.put(&key(&format!("{nth}/{of}")), &[1; 65_000]).unwrap());
        batch
    };
    let mut queued = 0;
    let refused = loop {
        match shared.submit(long(queued), tell(&answers)) {
            Ok(request) => drop(request),
            Err(error) => break error,
        }
        queued += 1;
    };
    assert!(matches!(refused, Error::TooMuchWaiting { limit: WAITING_LEN_MAX, .. }), "{refused}");
    assert_eq!((refused.kind(), queued), (ErrorKind::Busy, WAITING_LEN_MAX / (15 * 65_000)));
    disk.set_closed(false);
    assert!(answered(&answers, 1 + queued).iter().all(Result::is_ok));
    shared.close().unwrap();
    drop(driver);
    let (store, _) = Store::open(disk, Access::Read).unwrap();
    assert_eq!(store.stats().live_keys, 1 + u64::try_from(queued * 15).unwrap());
}
