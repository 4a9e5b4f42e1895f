//! One store, many threads.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crashsim::{DiskImage, DiskProfile, Fault, Recording, SimDisk, block_points};
use media::{BlockDevice, BlockIndex, Clock, DeviceError, Geometry, MemDisk, SystemClock, Timestamp};
use statefs::{
    Access, Batch, Change, ChangeKind, Changes, Compaction, Error, ErrorKind, Key, Options, Precondition,
    Prefix, Quota, SharedStore, Store, StoreId, Verdict, WAITING_MAX,
};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn options() -> Options {
    let mut options = Options::new(StoreId([7; 16]));
    options.journal = journal::Limits { frame_blocks_max: 16, in_flight_blocks_max: 32 };
    options
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// The two ways to make a frame durable.
fn geometries(blocks: u64) -> [Geometry; 2] {
    let geometry = Geometry::new(512, blocks).unwrap().with_torn_blocks();
    [geometry, geometry.with_write_durable()]
}

/// A disk on which nothing becomes durable while the gate is closed.
#[derive(Clone)]
struct GatedDisk<D> {
    disk: D,
    /// How often a barrier lets others run: it takes its time, in which they ask.
    yields: u32,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl<D: BlockDevice> GatedDisk<D> {
    fn new(disk: D) -> Self {
        Self { disk, yields: 0, gate: Arc::new((Mutex::new(true), Condvar::new())) }
    }

    fn set_open(&self, open: bool) {
        *self.gate.0.lock().unwrap() = open;
        self.gate.1.notify_all();
    }

    fn pass(&self) {
        let open = self.gate.0.lock().unwrap();
        drop(self.gate.1.wait_while(open, |open| !*open).unwrap());
        (0..self.yields).for_each(|_| thread::yield_now());
    }
}

impl<D: BlockDevice> BlockDevice for GatedDisk<D> {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.disk.read(at, into)
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.disk.write(at, from)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.pass();
        self.disk.flush()
    }
    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.pass();
        self.disk.write_durable(at, from)
    }
}

type Gated = (GatedDisk<SimDisk>, SharedStore<GatedDisk<SimDisk>>);

fn gated(geometry: Geometry) -> Gated {
    let sim = SimDisk::mount(DiskImage::new(geometry), Recording::Off);
    let disk = GatedDisk::new(sim);
    let store = Store::format(disk.clone(), &options()).unwrap();
    (disk, SharedStore::new(store, clock()))
}

/// Spins until something that other threads do is so.
fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

/// Long enough for what other threads must not do to be done, if they did it.
fn pause() {
    SystemClock::new().sleep(Duration::from_millis(100));
}

/// How many frames may be out.
fn out_max(shared: &SharedStore<GatedDisk<SimDisk>>) -> usize {
    if shared.device().geometry().write_durable() { 1 } else { 2 }
}

/// Everybody asks, in order, while the gate is closed: as many as may are out, each alone in a frame, before the others come.
fn all_ask<'s, T: Send + 's>(
    scope: &'s thread::Scope<'s, '_>,
    shared: &'s SharedStore<GatedDisk<SimDisk>>,
    asks: Vec<impl FnOnce() -> T + Send + 's>,
) -> Vec<thread::ScopedJoinHandle<'s, T>> {
    let frames = shared.stats().store.frame_ops.count();
    let mut asked = Vec::new();
    for (ask, nth) in asks.into_iter().zip(1..) {
        let builder = thread::Builder::new().stack_size(128 << 10);
        asked.push(builder.spawn_scoped(scope, ask).unwrap());
        if nth <= out_max(shared) {
            until(|| shared.stats().store.frame_ops.count() == frames + u64::try_from(nth).unwrap());
        } else {
            until(|| shared.stats().waiting == asked.len() - out_max(shared));
        }
    }
    asked
}

#[test]
fn those_who_ask_while_frames_are_out_share_the_next_one() {
    for geometry in geometries(64) {
        let (disk, shared) = gated(geometry);
        let before = shared.stats().store.journal.barriers;
        disk.set_open(false);
        thread::scope(|scope| {
            let ask = |name| {
                let shared = &shared;
                move || shared.put(&key(name), b"x").unwrap()
            };
            let _asked = all_ask(scope, &shared, ["a", "b", "c", "d", "e", "f"].map(ask).into());
            assert_eq!(shared.stats().store.live_keys, 0, "nothing is durable, so nothing is shown");
            disk.set_open(true);
        });
        let stats = shared.stats();
        assert_eq!(stats.store.live_keys, 6);
        let frames = u64::try_from(out_max(&shared)).unwrap() + 1;
        let (count, max) = (stats.store.frame_ops.count(), stats.store.frame_ops.max());
        assert_eq!((count, max), (frames, 7 - frames), "the others are in one");
        assert_eq!(stats.store.journal.barriers - before, frames);
        assert_eq!(stats.frame_micros.count(), frames);
    }
}

#[test]
fn a_frame_that_puts_and_deletes_the_same_keys_for_several_does_so_in_order() {
    let changes: [(&str, Option<&str>); 13] = [
        ("x", Some("out")),
        ("there", None),
        ("new", Some("1")),
        ("new", None),
        ("there", Some("again")),
        ("new", Some("2")),
        ("gone", Some("1")),
        ("gone", None),
        ("old", None),
        ("olds", Some("behind what is deleted")),
        ("old", Some("longer than it was")),
        ("x", None),
        ("old", None),
    ];
    for geometry in geometries(64) {
        let (disk, shared) = gated(geometry);
        for name in ["old", "there"] {
            shared.put(&key(name), b"first").unwrap();
        }
        // Buffered, the same key comes more than once in a frame as well.
        for value in ["1", "2"] {
            shared.put_buffered(&key("buffered"), value.as_bytes()).unwrap();
            shared.delete_buffered(&key("buffered")).unwrap();
        }
        shared.put_buffered(&key("buffered"), b"3").unwrap();
        let frames = shared.stats().store.frame_ops.count();
        disk.set_open(false);
        thread::scope(|scope| {
            let ask = |(name, value): (&'static str, Option<&'static str>)| {
                let shared = &shared;
                move || match value {
                    Some(value) => shared.put(&key(name), value.as_bytes()).unwrap(),
                    None => shared.delete(&key(name)).unwrap().unwrap(),
                }
            };
            let asked = all_ask(scope, &shared, changes.map(ask).into());
            disk.set_open(true);
            let told: Vec<_> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
            assert!(told.is_sorted(), "in the order in which they asked");
        });
        let out = u64::try_from(out_max(&shared)).unwrap();
        assert_eq!(shared.stats().store.frame_ops.count() - frames, out + 1, "all that waited share one");
        let expected = [
            ("/state/buffered", "3"),
            ("/state/new", "2"),
            ("/state/olds", "behind what is deleted"),
            ("/state/there", "again"),
        ];
        let check = |found: Vec<(Key, Vec<u8>)>| {
            let found = found.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            assert!(found.eq(expected.map(|(key, value)| (key, value.as_bytes()))));
        };
        let found = shared.read(|view| view.iter().map(|(key, value)| (key, value.bytes.to_vec())).collect());
        check(found.unwrap());
        shared.close().unwrap();
        let (store, _) = Store::open(disk.disk, Access::Read).unwrap();
        check(store.iter().map(|(key, value)| (key, value.bytes.to_vec())).collect());
    }
}

#[test]
fn what_is_not_durable_is_not_shown_and_preconditions_know_what_will_be() {
    for geometry in geometries(64) {
        let (disk, shared) = gated(geometry);
        let first = shared.put(&key("a"), b"1").unwrap();
        disk.set_open(false);
        thread::scope(|scope| {
            let swap = |value: &'static [u8]| {
                let shared = &shared;
                move || shared.compare_and_swap(&key("a"), Precondition::RevisionIs(first), value)
            };
            let winner = scope.spawn(swap(b"2"));
            until(|| shared.stats().store.frame_ops.count() == 2);
            // The winner is on its way and not to be seen, but whoever comes now is too late. Where another frame may go out,
            // that is said at once.
            let loser = scope.spawn(swap(b"3"));
            if out_max(&shared) > 1 {
                until(|| loser.is_finished());
            }
            assert_eq!(shared.get(&key("a")).unwrap().unwrap().bytes, b"1");
            let absent = scope.spawn(|| shared.delete(&key("b")));
            disk.set_open(true);
            let lost = loser.join().unwrap().unwrap_err();
            assert_eq!(lost.kind(), ErrorKind::Conflict, "{lost}");
            let second = winner.join().unwrap().unwrap();
            assert_eq!(absent.join().unwrap().unwrap(), None);
            let found = shared.get(&key("a")).unwrap().unwrap();
            assert_eq!((found.bytes.as_slice(), found.revision), (b"2".as_slice(), second));
        });
    }
}

#[test]
fn a_buffered_put_does_not_overtake_what_is_on_its_way() {
    for geometry in geometries(64) {
        let (disk, shared) = gated(geometry);
        disk.set_open(false);
        thread::scope(|scope| {
            let durable = scope.spawn(|| shared.put(&key("a"), b"durable").unwrap());
            until(|| shared.stats().store.frame_ops.count() == 1);
            // Another key is buffered at once; the same one is not.
            shared.put_buffered(&key("b"), b"at once").unwrap();
            assert_eq!(shared.get(&key("b")).unwrap().unwrap().bytes, b"at once");
            let buffered = scope.spawn(|| shared.put_buffered(&key("a"), b"buffered").unwrap());
            disk.set_open(true);
            assert!(durable.join().unwrap() < buffered.join().unwrap());
        });
        assert_eq!(shared.get(&key("a")).unwrap().unwrap().bytes, b"buffered");
        shared.sync().unwrap();
        shared.close().unwrap();
        let (store, _) = Store::open(disk.disk, Access::Read).unwrap();
        assert_eq!(store.get(&key("a")).unwrap().bytes, b"buffered");
    }
}

#[test]
fn a_frame_that_fails_is_told_to_all_who_ride_on_it_or_wait() {
    for geometry in geometries(64) {
        let (disk, shared) = gated(geometry);
        shared.put(&key("a"), b"old").unwrap();
        disk.set_open(false);
        thread::scope(|scope| {
            let ask = |name| {
                let shared = &shared;
                move || shared.put(&key(name), b"new")
            };
            let asked = all_ask(scope, &shared, ["a", "b", "c", "d", "e"].map(ask).into());
            disk.disk.set_faults((0..20).map(|call| (call, Fault::Fail(5))));
            disk.set_open(true);
            for answer in asked {
                assert_eq!(answer.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
            }
        });
        assert_eq!(shared.get(&key("a")).unwrap().unwrap().bytes, b"old", "reading goes on");
        assert_eq!(shared.sync().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(shared.put_buffered(&key("z"), b"").unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(shared.close().unwrap_err().kind(), ErrorKind::Poisoned);
    }
}

#[test]
fn whoever_waits_when_the_store_is_closed_is_refused_and_reading_goes_on() {
    let [geometry, _] = geometries(64);
    let (disk, shared) = gated(geometry);
    shared.put(&key("a"), b"x").unwrap();
    shared.put_buffered(&key("b"), b"y").unwrap();
    shared.close().unwrap();
    for refused in [
        shared.put(&key("c"), b"").map(drop),
        shared.delete(&key("a")).map(drop),
        shared.sync().map(drop),
        shared.put_buffered(&key("c"), b"").map(drop),
        shared.exclusively(|_| Ok(())),
        shared.close(),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    assert_eq!(shared.get(&key("b")).unwrap().unwrap().bytes, b"y");
    let (store, recovery) = Store::open(disk.disk, Access::Read).unwrap();
    assert!(recovery.was_sealed);
    assert_eq!(store.stats().live_keys, 2);
}

#[test]
fn as_many_wait_as_may_and_no_more() {
    let [_, geometry] = geometries(64);
    let (disk, shared) = gated(geometry);
    disk.set_open(false);
    thread::scope(|scope| {
        let ask = |_| {
            let shared = &shared;
            move || shared.put(&key("a"), b"x").map(drop)
        };
        let asked = all_ask(scope, &shared, (0..WAITING_MAX + out_max(&shared)).map(ask).collect());
        assert_eq!(shared.put(&key("b"), b"x").unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(shared.exclusively(|_| Ok(())).unwrap_err().kind(), ErrorKind::Busy);
        // Closing is not refused: it has its turn after them.
        let closed = scope.spawn(|| shared.close());
        until(|| shared.stats().waiting == WAITING_MAX + 1);
        disk.set_open(true);
        asked.into_iter().for_each(|answer| answer.join().unwrap().unwrap());
        closed.join().unwrap().unwrap();
    });
    assert!(shared.get(&key("b")).unwrap().is_none());
    assert!(matches!(shared.put(&key("b"), b"x"), Err(Error::Closed)));
}

#[test]
fn a_counter_that_many_threads_swap_counts_every_swap() {
    const THREADS: u32 = 6;
    const SWAPS: u32 = 30;
    for geometry in geometries(64) {
        let (_, shared) = gated(geometry);
        let one = || {
            for _ in 0..SWAPS {
                loop {
                    let found = shared.get(&key("counter")).unwrap();
                    let count = found
                        .as_ref()
                        .map_or(0, |value| u32::from_le_bytes(*value.bytes.first_chunk().unwrap()));
                    let wanted =
                        found.map_or(Precondition::Absent, |value| Precondition::RevisionIs(value.revision));
                    let next = (count + 1).to_le_bytes();
                    match shared.compare_and_swap(&key("counter"), wanted, &next) {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                    }
                }
            }
        };
        thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(one))));
        let count = shared.get(&key("counter")).unwrap().unwrap().bytes;
        assert_eq!(count, (THREADS * SWAPS).to_le_bytes());
    }
}

/// A device so small that regions switch all the time, batches whose two keys always agree, and somebody who looks.
#[test]
fn batches_are_seen_whole_while_regions_switch_under_many_threads() {
    for geometry in geometries(120) {
        let (disk, shared) = gated(geometry);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let looking = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let view = shared.view().unwrap();
                    for pair in 0..4 {
                        let side = |side: char| {
                            view.get(&key(&format!("{pair}{side}"))).map(|found| found.bytes.to_vec())
                        };
                        assert_eq!(side('l'), side('r'));
                    }
                }
            });
            let writing: Vec<_> = (0..4_u32)
                .map(|pair| {
                    let shared = &shared;
                    scope.spawn(move || {
                        for round in 0..120_u32 {
                            let mut batch = Batch::new();
                            for side in ['l', 'r'] {
                                let value =
                                    round.to_le_bytes().repeat(1 + usize::try_from(round % 40).unwrap());
                                batch.put(&key(&format!("{pair}{side}")), &value).unwrap();
                            }
                            shared.batch(batch).unwrap();
                            if round % 16 == 0 {
                                shared
                                    .put_buffered(&key(&format!("{pair}buffered")), &round.to_le_bytes())
                                    .unwrap();
                            }
                        }
                    })
                })
                .collect();
            writing.into_iter().for_each(|writer| writer.join().unwrap());
            over.store(true, Ordering::SeqCst);
            looking.join().unwrap();
        });
        let stats = shared.stats();
        assert!(stats.store.journal.switches > 5, "{stats:?}");
        shared.exclusively(while_running).unwrap();
        shared.close().unwrap();
        let (store, recovery) = Store::open(disk.disk, Access::Read).unwrap();
        assert_eq!(recovery.live_keys, 12);
        for pair in 0..4 {
            assert_eq!(store.get(&key(&format!("{pair}l"))).unwrap().bytes[..4], 119_u32.to_le_bytes());
        }
    }
}

fn while_running<D: BlockDevice>(store: &mut Store<D>) -> Result<(), statefs::Error> {
    while store.compact_step()? != Compaction::Finished {}
    Ok(())
}

#[test]
fn a_full_store_refuses_each_who_asks_for_too_much_and_no_other() {
    let [geometry, _] = geometries(64);
    let (_, shared) = gated(geometry);
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (shared, refused) = (&shared, &refused);
            scope.spawn(move || {
                for number in 0..40 {
                    match shared.put(&key(&format!("{thread}/{number}")), &[1; 300]) {
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
                for number in 0..40 {
                    shared.delete(&key(&format!("{thread}/{number}"))).unwrap();
                }
            });
        }
    });
    assert!(refused.load(Ordering::SeqCst) > 0);
    assert_eq!(shared.stats().store.live_keys, 0);
    shared.put(&key("again"), &[1; 300]).unwrap();
}

/// What a thread was told, and how much had been asked of the device by then.
struct Acknowledged {
    thread: usize,
    round: u8,
    records: usize,
}

/// Threads write their own keys, and the power fails at every point of what that came to: whatever had been acknowledged by
/// then is there, in every state that the device may be left in.
#[test]
fn what_threads_were_told_survives_every_power_cut() {
    const THREADS: usize = 4;
    let mut states = 0;
    for (geometry, rounds) in geometries(48).into_iter().zip([16_u8, 16]) {
        let start = {
            let disk = SimDisk::mount(DiskImage::new(geometry), Recording::Off);
            Store::format(disk.clone(), &options()).unwrap().close().unwrap();
            disk.image()
        };
        let disk = SimDisk::mount(start.clone(), Recording::On);
        let store =
            Store::open(GatedDisk { yields: 20, ..GatedDisk::new(disk.clone()) }, Access::Write).unwrap().0;
        let shared = SharedStore::new(store, clock());
        let together = std::sync::Barrier::new(THREADS);
        let told = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (shared, told, disk, together) = (&shared, &told, &disk, &together);
                scope.spawn(move || {
                    together.wait();
                    for round in 1..=rounds {
                        shared.put(&key(&format!("{thread}")), &[round; 60]).unwrap();
                        // So that there is a point behind the barrier, and not only in it.
                        disk.mark("told");
                        let records = disk.trace().len();
                        told.lock().unwrap().push(Acknowledged { thread, round, records });
                    }
                });
            }
        });
        let told = told.into_inner().unwrap();
        assert!(shared.stats().store.frame_ops.max() > 1, "they did share frames");
        for profile in DiskProfile::ALL {
            for point in block_points(&start, &disk.trace(), profile) {
                for digits in point.sample(24, 1) {
                    states += 1;
                    let mut image = point.base.clone();
                    point.build(&digits, |piece| piece.apply(&mut image));
                    let (store, recovery) =
                        Store::open(SimDisk::mount(image, Recording::Off), Access::Write).unwrap();
                    assert!(!matches!(recovery.tail, Verdict::Damaged { .. }), "{recovery:?}");
                    for Acknowledged { thread, round, .. } in
                        told.iter().filter(|told| told.records <= point.at)
                    {
                        let found = store.get(&key(&format!("{thread}"))).map(|value| value.bytes[0]);
                        assert!(
                            found >= Some(*round),
                            "thread {thread} was told {round} before {}, found {found:?}",
                            point.at
                        );
                    }
                }
            }
        }
    }
    println!("{states} states, 0 broken");
    assert!(states > 1_000);
}

#[test]
fn who_watches_is_told_of_what_is_durable_and_of_nothing_before() {
    for geometry in geometries(64) {
        let (disk, shared) = gated(geometry);
        let since = shared.put(&key("a/1"), b"x").unwrap();
        let prefix = Prefix::parse("/state/a").unwrap();
        let long = Duration::from_secs(3600);
        thread::scope(|scope| {
            let watch = || shared.watch(&prefix, since, 10, long).unwrap();
            disk.set_open(false);
            let watching = scope.spawn(watch);
            let writing = scope.spawn(|| shared.put(&key("a/2"), b"y").unwrap());
            until(|| shared.stats().store.frame_ops.count() == 2);
            let nothing = shared.watch(&prefix, since, 10, Duration::ZERO).unwrap();
            assert_eq!(nothing, Changes::Events { events: Vec::new(), next: since });
            assert!(!watching.is_finished());
            disk.set_open(true);
            let revision = writing.join().unwrap();
            let wanted = Change { key: key("a/2"), revision, kind: ChangeKind::Put };
            assert_eq!(watching.join().unwrap(), Changes::Events { events: vec![wanted], next: revision });
            // Another prefix is no news, and a store that is closed has none any more.
            let (shared, prefix) = (&shared, &prefix);
            let watching = scope.spawn(move || shared.watch(prefix, revision, 10, long));
            shared.put(&key("b"), b"z").unwrap();
            shared.close().unwrap();
            assert_eq!(watching.join().unwrap().unwrap_err().kind(), ErrorKind::ReadOnly);
        });
    }
}

/// A clock that goes on only when it is told to.
#[derive(Debug, Default)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 0, nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
    fn sleep(&self, _how_long: Duration) {}
}

#[test]
fn an_idle_store_is_sealed_by_its_ticker_and_a_busy_one_is_not() {
    let disk = MemDisk::new(Geometry::new(512, 64).unwrap()).unwrap();
    let clock = Arc::new(SetClock::default());
    let as_clock: Arc<dyn Clock> = clock.clone();
    let shared = SharedStore::new(Store::format(disk, &options()).unwrap(), as_clock);
    let seals = || shared.stats().store.journal.seals;
    let ticker = shared.ticker().unwrap();
    for nth in 0..3 {
        shared.put(&key("a"), b"x").unwrap();
        assert_eq!(seals(), nth, "no time has passed");
        // The ticker notices when the store was last written, and later that this is long ago.
        until(|| {
            clock.0.fetch_add(1, Ordering::SeqCst);
            seals() == nth + 1
        });
        assert!(shared.is_sealed());
    }
    drop(ticker);
    shared.put(&key("a"), b"y").unwrap();
    clock.0.fetch_add(1_000_000, Ordering::SeqCst);
    assert_eq!(seals(), 3);
}

/// What is buffered beside a frame that is on its way has later revisions and is shown earlier; those who watch are told in the
/// order of revisions all the same.
#[test]
fn who_watches_is_told_in_order_of_what_was_buffered_beside_frames_on_their_way() {
    for geometry in geometries(64) {
        let (disk, shared) = gated(geometry);
        let since = shared.put(&key("before"), b"x").unwrap();
        let named = |since| match shared.watch(&Prefix::root(), since, 10, Duration::ZERO).unwrap() {
            Changes::Events { events, next } => {
                (events.into_iter().map(|event| (event.key, event.revision)).collect::<Vec<_>>(), next)
            }
            Changes::FellBehind { oldest } => panic!("fell behind {oldest}"),
        };
        for round in 0..4 {
            let since = shared.sync().unwrap().max(since);
            disk.set_open(false);
            let frames = shared.stats().store.frame_ops.count();
            let (durable, buffered) = thread::scope(|scope| {
                let durable = scope.spawn(|| shared.put(&key("durable"), b"x").unwrap());
                until(|| shared.stats().store.frame_ops.count() == frames + 1);
                let buffered: Vec<_> = (0..round)
                    .map(|_| (key("buffered"), shared.put_buffered(&key("buffered"), b"y").unwrap()))
                    .collect();
                assert_eq!(named(since), (vec![], since), "nothing is durable");
                disk.set_open(true);
                (durable.join().unwrap(), buffered)
            });
            assert_eq!(named(since), (vec![(key("durable"), durable)], durable), "what was buffered is not");
            let end = shared.sync().unwrap();
            assert_eq!(named(durable), (buffered, end));
        }
    }
}

/// Two that do not fit into one frame wait when the first frame of an incarnation fails before it is begun.
#[test]
fn whoever_waits_for_the_next_frame_is_answered_when_a_frame_cannot_even_begin() {
    for geometry in geometries(120) {
        let (disk, shared) = gated(geometry);
        shared.close().unwrap();
        let store = Store::open(disk.clone(), Access::Write).unwrap().0;
        let shared = SharedStore::new(store, clock());
        thread::scope(|scope| {
            let ask = |name| {
                let shared = &shared;
                move || shared.put(&key(name), &[1; 5000]).unwrap_err().kind()
            };
            let asked = shared
                .exclusively(|_| {
                    let asked = ["a", "b", "c"].map(|name| scope.spawn(ask(name)));
                    pause();
                    disk.disk.set_faults([(0, Fault::Fail(5))]);
                    Ok(asked)
                })
                .unwrap();
            for answer in asked {
                assert_eq!(answer.join().unwrap(), ErrorKind::Poisoned);
            }
        });
    }
}

/// A sync that has only to flush what was written is news as well.
#[test]
fn who_watches_is_told_of_what_a_sync_alone_makes_durable() {
    for geometry in geometries(64) {
        let (_, shared) = gated(geometry);
        let since = shared.put(&key("a"), b"x").unwrap();
        thread::scope(|scope| {
            let watching = scope.spawn(|| shared.watch(&Prefix::root(), since, 10, Duration::from_secs(10)));
            shared.put_buffered(&key("b"), b"y").unwrap();
            // Written, and not known to be durable.
            shared.exclusively(|store| store.compact_step()).unwrap();
            pause();
            assert!(!watching.is_finished());
            let begun = std::time::Instant::now();
            let next = shared.sync().unwrap();
            let told = watching.join().unwrap().unwrap();
            assert!(matches!(told, Changes::Events { next: found, .. } if found == next), "{told:?}");
            assert!(begun.elapsed() < Duration::from_secs(5));
        });
    }
}

/// A clock that panics when it is told to.
#[derive(Debug, Default)]
struct FailingClock(AtomicBool);

impl Clock for FailingClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: 0, nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        assert!(!self.0.load(Ordering::SeqCst), "the clock stands still");
        Duration::ZERO
    }
    fn sleep(&self, _how_long: Duration) {}
}

/// The thread that panics is not the only one whose frame it is.
#[test]
fn a_panic_while_a_frame_is_on_its_way_is_a_failure_and_nobody_waits_for_ever() {
    for geometry in geometries(64) {
        let sim = SimDisk::mount(DiskImage::new(geometry), Recording::Off);
        let disk = GatedDisk::new(sim);
        let clock = Arc::new(FailingClock::default());
        let as_clock: Arc<dyn Clock> = clock.clone();
        let shared = SharedStore::new(Store::format(disk.clone(), &options()).unwrap(), as_clock);
        disk.set_open(false);
        thread::scope(|scope| {
            let ask = |name| {
                let shared = &shared;
                move || shared.put(&key(name), b"x").unwrap_err().kind()
            };
            let asked = all_ask(scope, &shared, ["a", "b", "c", "d", "e"].map(ask).into());
            clock.0.store(true, Ordering::SeqCst);
            disk.set_open(true);
            let told: Vec<_> = asked.into_iter().map(thread::ScopedJoinHandle::join).collect();
            let panicked = told.iter().filter(|told| told.is_err()).count();
            assert!((1..=out_max(&shared)).contains(&panicked), "{told:?}");
            assert!(told.into_iter().flatten().all(|kind| kind == ErrorKind::Poisoned));
        });
        assert_eq!(shared.close().unwrap_err().kind(), ErrorKind::Poisoned);
    }
}

#[test]
fn a_clock_that_panics_in_the_ticker_poisons_the_store() {
    let [geometry, _] = geometries(64);
    let disk = MemDisk::new(geometry).unwrap();
    let clock = Arc::new(FailingClock::default());
    let as_clock: Arc<dyn Clock> = clock.clone();
    let shared = SharedStore::new(Store::format(disk, &options()).unwrap(), as_clock);
    let ticker = shared.ticker().unwrap();
    clock.0.store(true, Ordering::SeqCst);
    // It wakes a ticker that sleeps.
    shared.put_buffered(&key("a"), b"x").unwrap();
    until(|| shared.put_buffered(&key("a"), b"x").is_err());
    assert_eq!(shared.put(&key("a"), b"x").unwrap_err().kind(), ErrorKind::Poisoned);
    drop(ticker);
}

/// Where as much is in flight as may be, whoever asks waits, and what was taken in for it is taken back: the quota counts, and
/// what is buffered is judged by, what is on its way and nothing else.
#[test]
fn what_does_not_fit_in_flight_waits_and_leaves_nothing_behind_meanwhile() {
    let [geometry, _] = geometries(120);
    let disk = GatedDisk::new(SimDisk::mount(DiskImage::new(geometry), Recording::Off));
    let mut options = options();
    options.journal.in_flight_blocks_max = u32::from(options.journal.frame_blocks_max);
    let shared = SharedStore::new(Store::format(disk.clone(), &options).unwrap(), clock());
    let quota = Quota { hard: Some(10_000), ..Quota::default() };
    shared.exclusively(|store| store.set_quota(&Prefix::parse("/state/q").unwrap(), quota)).unwrap();
    let used = || shared.quotas()[0].used_bytes;
    let frames = shared.stats().store.frame_ops.count();
    let one = 4_500 + u64::try_from(key("q/a").as_str().len()).unwrap();
    disk.set_open(false);
    thread::scope(|scope| {
        let put = |name| {
            let shared = &shared;
            move || shared.put(&key(name), &[1; 4_500]).unwrap()
        };
        let first = scope.spawn(put("q/a"));
        until(|| shared.stats().store.frame_ops.count() == frames + 1);
        let second = scope.spawn(put("q/b"));
        pause();
        assert_eq!(
            (shared.stats().waiting, used()),
            (1, one),
            "the second has not begun, and does not count"
        );
        let buffered = scope.spawn(|| shared.put_buffered(&key("q/a"), b"later").unwrap());
        pause();
        assert!(!buffered.is_finished(), "it would be overtaken");
        disk.set_open(true);
        let (first, buffered) = (first.join().unwrap(), buffered.join().unwrap());
        assert!(first < buffered);
        let newest = Precondition::RevisionIs(buffered);
        shared.compare_and_swap(&key("q/a"), newest, b"last").unwrap();
        second.join().unwrap();
    });
    assert_eq!(shared.get(&key("q/a")).unwrap().unwrap().bytes, b"last");
    assert_eq!(used(), one + one - 4_500 + 4);
}

/// What is on its way takes room, though it is not shown yet.
#[test]
fn what_is_on_its_way_counts_where_room_is_short() {
    for geometry in geometries(120) {
        let disk = GatedDisk::new(SimDisk::mount(DiskImage::new(geometry), Recording::Off));
        let mut options = options();
        options.limits.live_bytes_max = 6_000;
        let shared = SharedStore::new(Store::format(disk.clone(), &options).unwrap(), clock());
        disk.set_open(false);
        thread::scope(|scope| {
            let put = |name| {
                let shared = &shared;
                move || shared.put(&key(name), &[1; 4_500])
            };
            let first = scope.spawn(put("a"));
            until(|| shared.stats().store.frame_ops.count() == 1);
            let second = scope.spawn(put("b"));
            if out_max(&shared) > 1 {
                until(|| second.is_finished() || shared.stats().store.frame_ops.count() == 2);
            }
            let buffered = shared.put_buffered(&key("c"), &[1; 4_500]).unwrap_err();
            assert_eq!(buffered.kind(), ErrorKind::NoSpace, "{buffered}");
            disk.set_open(true);
            first.join().unwrap().unwrap();
            assert_eq!(second.join().unwrap().unwrap_err().kind(), ErrorKind::NoSpace);
        });
        assert_eq!(shared.stats().store.live_keys, 1);
    }
}

/// The first of a crowd to ask again does not take the second place for itself: it goes out with as many as were woken.
#[test]
fn a_second_frame_goes_out_when_the_crowd_is_there_and_not_before() {
    let [geometry, _] = geometries(120);
    let (disk, shared) = gated(geometry);
    let put = |name| {
        let shared = &shared;
        move || shared.put(&key(name), b"x").unwrap()
    };
    thread::scope(|scope| {
        let gather = |_: &mut Store<_>| {
            let asked = ["a", "b", "c"].map(|name| scope.spawn(put(name)));
            pause();
            Ok(asked)
        };
        for asked in shared.exclusively(gather).unwrap() {
            asked.join().unwrap();
        }
    });
    assert_eq!(shared.stats().store.frame_ops.max(), 3, "they were woken together");
    let frames = || shared.stats().store.frame_ops.count();
    disk.set_open(false);
    thread::scope(|scope| {
        scope.spawn(put("a"));
        until(|| frames() == 2);
        for (name, waiting) in [("b", 1), ("c", 2)] {
            scope.spawn(put(name));
            until(|| shared.stats().waiting == waiting);
        }
        assert_eq!(frames(), 2);
        scope.spawn(put("d"));
        pause();
        let began = (frames(), shared.stats().waiting);
        disk.set_open(true);
        assert_eq!(began, (3, 0));
    });
}
