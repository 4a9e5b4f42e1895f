//! A run of the soak on one device: starts the threads, watches them, and checks what they leave.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use media::{BlockDevice as _, Clock as _, MemDisk, SystemClock};
use statefs::{Access, Error, Health, Options, SharedStats, SharedStore, Store, StoreId, Verdict, fsck};

use crate::Disk;
use crate::model::{self, THREADS, counter_in};
use crate::worker::{Progress, Worker};

/// A thread that makes no progress for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the threads are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How often progress is printed.
const REPORT: Duration = Duration::from_secs(30);

const SECONDS: u64 = 4;
const SEED: u64 = 7000;

const _: () = assert!(THREADS < statefs::WAITING_MAX, "no thread is refused because too many wait");

/// Runs the soak, and returns the bytes that are durable after the store was closed.
pub(crate) fn soak(device: &str, disk: &Disk) -> Vec<u8> {
    let seconds = number_from("STEADFAST_SOAK_SECONDS", SECONDS);
    let seed = number_from("STEADFAST_SOAK_SEED", SEED);
    say(&format!("soak on {device}: {seconds} s, {THREADS} threads, seeds {seed} and following"));
    let mut options = Options::new(StoreId(*b"a soaked store!!"));
    options.journal = journal::Limits { frame_blocks_max: 16, in_flight_blocks_max: 32 };
    let mut store = Store::format(Arc::clone(disk), &options).unwrap();
    model::prepare(&mut store, seed);
    let shared = SharedStore::new(store, Arc::new(SystemClock::new()));
    let ticker = shared.ticker().unwrap();
    let mut workers = run(device, disk, &shared, Duration::from_secs(seconds), seed);
    let disk = Arc::clone(disk);
    let (report, durable) = within("the end", move || {
        workers.iter_mut().for_each(Worker::drain_watch);
        let stats = shared.stats();
        shared.exclusively(|store| Ok(check_all(store, &workers))).unwrap().unwrap();
        check_revisions(&workers);
        drop(ticker);
        shared.close().unwrap();
        let refused = shared.put(&model::counter_key(), b"x");
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
        drop(shared);
        let durable = disk.durable();
        check_image(&disk, &durable, &workers);
        check_reopened(&disk, &workers);
        (report(&disk, &stats, &workers), durable)
    });
    say(&format!("soak on {device} is over\n{report}"));
    durable
}

/// Starts the threads and waits for them.
fn run(device: &str, disk: &Disk, shared: &SharedStore<Disk>, how_long: Duration, seed: u64) -> Vec<Worker> {
    let over = Arc::new(AtomicBool::new(false));
    let (told, heard) = mpsc::channel();
    let mut watched = Vec::new();
    for (nth, seed) in (0..THREADS).zip(seed..) {
        let progress = Arc::new(Progress::default());
        watched.push(Watched { progress: Arc::clone(&progress), calls: 0, since: Duration::ZERO });
        let mut worker = Worker::new(shared.clone(), Arc::clone(disk), nth, seed, progress);
        let (told, over) = (told.clone(), Arc::clone(&over));
        let work = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| worker.run(&over)));
            // After a failure of another thread, the receiver is gone.
            drop(told.send(outcome.map(|()| worker)));
        };
        thread::Builder::new().name(format!("soak-{nth}")).spawn(work).unwrap();
    }
    let clock = SystemClock::new();
    let begun = clock.elapsed();
    let (mut done, mut reported) = (Vec::new(), Duration::ZERO);
    while done.len() < THREADS {
        match heard.recv_timeout(LOOK) {
            Ok(Ok(worker)) => done.push(worker),
            Ok(Err(panic)) => {
                over.store(true, Ordering::SeqCst);
                resume_unwind(panic);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("a thread is gone"),
        }
        let now = clock.elapsed().saturating_sub(begun);
        if now >= how_long {
            over.store(true, Ordering::SeqCst);
        }
        // A thread that has ended makes no calls.
        if done.is_empty() {
            watched.iter_mut().for_each(|watched| watched.look(now));
            if watched.iter().any(|watched| watched.is_stuck(now)) {
                over.store(true, Ordering::SeqCst);
                panic!("on {device} a thread hangs: {}", whereabouts(&watched, now));
            }
        } else if now > how_long + PATIENCE {
            panic!(
                "on {device} {} threads have not ended: {}",
                THREADS - done.len(),
                whereabouts(&watched, now)
            );
        }
        if now >= reported + REPORT {
            reported = now;
            let sum = |count: fn(&Progress) -> u64| -> u64 {
                watched.iter().map(|watched| count(&watched.progress)).sum()
            };
            let calls = sum(|progress| progress.calls.load(Ordering::SeqCst));
            let samples = sum(|progress| progress.samples.load(Ordering::SeqCst));
            say(&format!("soak on {device}: {} s, {calls} calls, {samples} samples", now.as_secs()));
        }
    }
    done.sort_by_key(|worker| worker.model.owner.0);
    done
}

/// A thread, as the watchdog knows it.
struct Watched {
    progress: Arc<Progress>,
    calls: u64,
    /// When `calls` changed.
    since: Duration,
}

impl Watched {
    fn look(&mut self, now: Duration) {
        let calls = self.progress.calls.load(Ordering::SeqCst);
        if calls != self.calls {
            (self.calls, self.since) = (calls, now);
        }
    }

    fn is_stuck(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= PATIENCE
    }
}

fn whereabouts(watched: &[Watched], now: Duration) -> String {
    let mut all = String::new();
    for (nth, watched) in watched.iter().enumerate() {
        let (at, calls) = (*watched.progress.at.lock().unwrap(), watched.calls);
        let idle = now.saturating_sub(watched.since).as_secs();
        write!(all, "\n  thread {nth}: in {at}, its call {calls}, for {idle} s").unwrap();
    }
    all
}

/// Runs the work on a thread of its own, and fails when it hangs.
fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (told, heard) = mpsc::channel();
    let worker = thread::spawn(move || {
        let done = work();
        drop(told.send(done));
    });
    match heard.recv_timeout(PATIENCE) {
        Ok(done) => done,
        Err(mpsc::RecvTimeoutError::Disconnected) => resume_unwind(worker.join().unwrap_err()),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} hangs"),
    }
}

/// Compares a store with all that the threads know.
fn check_all<D: media::BlockDevice>(store: &Store<D>, workers: &[Worker]) -> Result<(), String> {
    for worker in workers {
        worker.model.check(store)?;
        let owner = worker.model.owner;
        let puts = store.get(&owner.puts_key()).map_or(Some(0), |value| owner.number(value.bytes));
        if puts != Some(worker.puts) {
            return Err(format!("{owner:?} has put {} times, and {puts:?} is stored", worker.puts));
        }
    }
    model::check_groups(store)?;
    model::check_quotas(store)?;
    let (counter, swaps) = (counter_in(store), workers.iter().map(|worker| worker.swaps).sum::<u64>());
    if counter != swaps {
        return Err(format!("{swaps} swaps succeeded, and the counter is {counter}"));
    }
    let own = workers.iter().map(|worker| worker.model.keys.len()).sum::<usize>();
    let keys = u64::try_from(own).unwrap() + u64::from(swaps > 0);
    match store.stats().live_keys {
        live if live == keys => Ok(()),
        live => Err(format!("the threads know of {keys} keys, and the store has {live}")),
    }
}

/// Checks that no revision was handed out twice.
fn check_revisions(workers: &[Worker]) {
    let mut all: Vec<_> = workers.iter().flat_map(|worker| &worker.revisions).copied().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "a revision was handed out twice");
}

/// Checks the bytes that are durable after the store was closed.
fn check_image(disk: &Disk, durable: &[u8], workers: &[Worker]) {
    let (store, recovery) = model::open_image(disk.geometry(), durable.to_vec()).unwrap();
    assert!(recovery.tail == Verdict::Clean && recovery.was_sealed, "{recovery:?}");
    check_all(&store, workers).unwrap();
    let checked = fsck(MemDisk::from_image(disk.geometry(), durable.to_vec()).unwrap()).unwrap();
    assert_eq!(checked.health, Health::Clean, "{checked:?}");
}

/// Checks the device itself after the store was closed.
fn check_reopened(disk: &Disk, workers: &[Worker]) {
    let (mut store, recovery) = Store::open(Arc::clone(disk), Access::Write).unwrap();
    assert!(recovery.tail == Verdict::Clean && recovery.was_sealed, "{recovery:?}");
    model::unlock(&mut store).unwrap();
    check_all(&store, workers).unwrap();
}

/// Says what was done, and fails where something was not done at all.
fn report(disk: &Disk, stats: &SharedStats, workers: &[Worker]) -> String {
    let mut counts = BTreeMap::<_, u64>::new();
    for (name, count) in workers.iter().flat_map(|worker| &worker.counts) {
        *counts.entry(*name).or_default() += count;
    }
    let is_call = |(name, _): &(&&str, &u64)| !name.starts_with(' ');
    let calls: u64 = counts.iter().filter(is_call).map(|(_, count)| count).sum();
    let mut report = String::new();
    writeln!(report, "  {calls} calls:").unwrap();
    for (name, count) in &counts {
        writeln!(report, "  {count:>10}  {name}").unwrap();
    }
    let journal = stats.store.journal;
    writeln!(
        report,
        "  {} frames, {} barriers of the journal, {} of the device, {} seals, {} switches of the region",
        journal.frames,
        journal.barriers,
        disk.barriers(),
        journal.seals,
        journal.switches,
    )
    .unwrap();
    let ops = stats.store.frame_ops;
    writeln!(
        report,
        "  operations of a frame: median {}, at most {}; a frame took {} us in the median, at most {}",
        ops.percentile(50),
        ops.max(),
        stats.frame_micros.percentile(50),
        stats.frame_micros.max(),
    )
    .unwrap();
    let swaps: u64 = workers.iter().map(|worker| worker.swaps).sum();
    let samples = workers.iter().map(|worker| worker.samples()).sum::<u64>();
    write!(report, "  {swaps} successful swaps, {samples} samples of durable bytes checked").unwrap();
    assert!(swaps > 0 && samples > 0 && journal.switches > 0, "the soak was too short:\n{report}");
    report
}

fn number_from(variable: &str, ordinary: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => ordinary,
    }
}

/// Prints past the capture of the test harness.
fn say(line: &str) {
    // A test whose stderr is closed has no reader to tell.
    drop(writeln!(std::io::stderr(), "{line}"));
}
