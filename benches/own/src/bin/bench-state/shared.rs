//! What sharing a store between threads costs, in memory: reads beside rare operations, puts beside subscribers and beside a
//! store that is not shared, and scans beside a `BTreeMap`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use media::{
    BlockDevice, BlockIndex, Clock as _, DeviceError, Geometry, MemDisk, SystemClock, SystemEntropy,
};
use statefs::{
    Key, Options, Prefix, Revision, SealKey, SharedStore, SnapshotName, Source, Store, StoreId, Value,
    Zeroizing,
};

use crate::durable::{Contender, Outcome, alternate, per, quartiles, ratio};

const BLOCKS: u64 = 8192;
const KEYS: u32 = 10_000;
const VALUE: [u8; 155] = [7; 155];
/// How long a flush of the slow device takes, and how long reads are measured beside one operation.
const FLUSH: Duration = Duration::from_millis(50);
const READING: Duration = Duration::from_secs(1);
const SUBSCRIBERS: [u32; 4] = [0, 10, 100, 500];
const WATCHERS: u32 = 50;
/// Puts in a slice.
const PUTS: u32 = 2_000;
/// How many keys there are where scans are measured, scans in a slice, and entries in a scan.
const SCANNED_KEYS: u32 = 100_000;
const SCANS: u32 = 500;
const PAGE: usize = 100;

/// Measures all of it.
pub(crate) fn measure(rounds: u32, out: &mut impl io::Write) -> Outcome<()> {
    reads_beside(rounds.clamp(3, 9), out)?;
    writeln!(out)?;
    puts(rounds, out)?;
    writeln!(out)?;
    scans(rounds, out)
}

/// A device in memory whose flushes take [`FLUSH`] once it is slow.
#[derive(Debug)]
struct SlowDisk {
    disk: MemDisk,
    clock: SystemClock,
    is_slow: AtomicBool,
}

impl BlockDevice for SlowDisk {
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
        if self.is_slow.load(Ordering::Relaxed) {
            self.clock.sleep(FLUSH);
        }
        self.disk.flush()
    }
}

fn keys(count: u32) -> Outcome<Vec<Key>> {
    (0..count).map(|number| Ok(Key::parse(&format!("/state/app/{number:06}"))?)).collect()
}

fn disk_of(blocks: u64) -> Outcome<MemDisk> {
    Ok(MemDisk::new(Geometry::new(4096, blocks)?)?)
}

fn filled<D: BlockDevice>(device: D, keys: &[Key]) -> Outcome<Store<D>> {
    let mut store = Store::format(device, &Options::new(StoreId([6; 16])))?;
    for key in keys {
        let _revision = store.put_buffered(key, &VALUE)?;
    }
    let _durable = store.sync()?;
    Ok(store)
}

fn share<D: BlockDevice>(store: Store<D>) -> SharedStore<D> {
    SharedStore::new(store, Arc::new(SystemClock::new()))
}

/// A rare operation, done once.
type Rare = fn(&SharedStore<SlowDisk>) -> Outcome<()>;

const RARE: [(&str, Rare); 6] = [
    ("nothing", |_| {
        thread::yield_now();
        Ok(())
    }),
    ("snapshots, taken and dropped", |shared| {
        let name = SnapshotName::parse("now")?;
        let _revision = shared.snapshot(&name)?;
        let _revision = shared.drop_snapshot(&name)?;
        Ok(())
    }),
    ("steps of a compaction", |shared| {
        let _compaction = shared.exclusively(|store| store.compact_step())?;
        Ok(())
    }),
    ("steps of a scrub", |shared| {
        let _scrub = shared.exclusively(|store| store.scrub_step())?;
        Ok(())
    }),
    ("encrypting a prefix, and no longer", |shared| {
        let prefix = Prefix::parse("/state/safe")?;
        let key = SealKey::new(1, Zeroizing::new([1; 32]));
        let _revision = shared.exclusively(|store| store.seal_prefix(&prefix, key))?;
        let _revision = shared.exclusively(|store| store.unseal_prefix(&prefix))?;
        Ok(())
    }),
    ("backups of a view", |shared| {
        let _info = shared.view()?.backup(
            Source::Now,
            |piece| {
                black_box(piece);
                Ok::<_, io::Error>(())
            },
            |_| {},
        )?;
        Ok(())
    }),
];

/// Reads on one thread while another one does rare operations, one after the other.
fn reads_beside(rounds: u32, out: &mut impl io::Write) -> Outcome<()> {
    let keys = keys(KEYS)?;
    let device =
        SlowDisk { disk: disk_of(BLOCKS)?, clock: SystemClock::new(), is_slow: AtomicBool::new(false) };
    let mut store = filled(device, &keys)?;
    store.set_nonces(Box::new(Arc::new(SystemEntropy)));
    let shared = share(store);
    shared.device().is_slow.store(true, Ordering::Relaxed);
    let mut took: [[Vec<f64>; 3]; RARE.len()] = Default::default();
    let mut done = [0; RARE.len()];
    for _ in 0..rounds {
        for (((_, rare), took), done) in RARE.iter().zip(&mut took).zip(&mut done) {
            let (read, count) = reads_beside_one(&shared, &keys, *rare)?;
            *done += count;
            read.into_iter().zip(took).for_each(|(micros, took)| took.push(micros));
        }
    }
    writeln!(
        out,
        "get of one thread beside another one, a flush takes {FLUSH:?}; {KEYS} keys, values of 155 bytes;"
    )?;
    writeln!(
        out,
        "  µs, medians of {rounds} rounds of {READING:?} [quartiles of the medians]; the longest of all"
    )?;
    for (((name, _), [p50, p99, longest]), done) in RARE.iter().zip(took).zip(done) {
        let [low, median, high] = quartiles(p50);
        let [_, p99, _] = quartiles(p99);
        let longest = longest.into_iter().fold(0.0, f64::max);
        writeln!(
            out,
            "  {name:<36}half {median:>6.2} [{low:.2}..{high:.2}]   99 % {p99:>6.2}   longest {longest:>8.0}   {done} times"
        )?;
    }
    Ok(())
}

/// Half of the reads, 99 of 100, and all took so many microseconds at most; and how often the operation was done.
fn reads_beside_one(shared: &SharedStore<SlowDisk>, keys: &[Key], rare: Rare) -> Outcome<([f64; 3], u32)> {
    let is_over = AtomicBool::new(false);
    let (mut nanos, done) = thread::scope(|scope| {
        let rarely = scope.spawn(|| {
            let mut done = 0;
            while !is_over.load(Ordering::Relaxed) {
                rare(shared).map_err(|error| error.to_string())?;
                done += 1;
            }
            Ok::<_, String>(done)
        });
        let mut nanos = Vec::with_capacity(1 << 22);
        let begun = Instant::now();
        let read = keys.iter().cycle().take_while(|_| begun.elapsed() < READING).try_for_each(|key| {
            let before = Instant::now();
            black_box(shared.get(key)?);
            nanos.push(u32::try_from(before.elapsed().as_nanos()).unwrap_or(u32::MAX));
            Ok::<_, statefs::Error>(())
        });
        is_over.store(true, Ordering::Relaxed);
        let done = rarely.join().map_err(|_| "a panic beside the reader")??;
        read?;
        Outcome::Ok((nanos, done))
    })?;
    nanos.sort_unstable();
    let at = |hundredths: usize| nanos.get(nanos.len() * hundredths / 100).copied().unwrap_or(u32::MAX);
    let longest = nanos.last().copied().unwrap_or(u32::MAX);
    Ok(([at(50), at(99), longest].map(|nanos| f64::from(nanos) / 1e3), done))
}

fn put_all(keys: &[Key], mut put: impl FnMut(&Key) -> Result<Revision, statefs::Error>) -> Outcome<f64> {
    let begun = Instant::now();
    for key in keys.iter().cycle().take(usize::try_from(PUTS)?) {
        let _revision = put(key)?;
    }
    Ok(per(begun, PUTS))
}

fn sharing<'c>(name: String, shared: &'c SharedStore<MemDisk>, keys: &'c [Key]) -> Contender<'c> {
    Contender::new(name, |_| put_all(keys, |key| shared.put(key, &VALUE)))
}

/// Puts of one thread, without and with subscribers and watchers of prefixes that are never touched.
fn puts(rounds: u32, out: &mut impl io::Write) -> Outcome<()> {
    let keys = keys(KEYS)?;
    let mut single = filled(disk_of(BLOCKS)?, &keys)?;
    let mut shared = Vec::new();
    for _ in 0..=SUBSCRIBERS.len() {
        shared.push(share(filled(disk_of(BLOCKS)?, &keys)?));
    }
    let untouched = |nth: u32| Prefix::parse(&format!("/state/untouched/{nth}"));
    let Some((watched, subscribed)) = shared.split_last() else { return Ok(()) };
    let mut subscriptions = Vec::new();
    for (count, shared) in SUBSCRIBERS.into_iter().zip(subscribed) {
        for nth in 0..count {
            subscriptions.push(shared.subscribe(&untouched(nth)?, || {}));
        }
    }
    thread::scope(|scope| {
        for nth in 0..WATCHERS {
            let (prefix, since) = (untouched(nth)?, watched.durable_revision());
            // It ends when the store is closed.
            scope.spawn(move || watched.watch(&prefix, since, 1, Duration::from_secs(3600)));
        }
        let mut contenders = vec![Contender::new("Store", |_| put_all(&keys, |key| single.put(key, &VALUE)))];
        for (count, shared) in SUBSCRIBERS.into_iter().zip(subscribed) {
            contenders.push(sharing(format!("SharedStore, {count} subscribers"), shared, &keys));
        }
        contenders.push(sharing(format!("SharedStore, {WATCHERS} threads in `watch`"), watched, &keys));
        let outcome = alternate(&mut contenders, rounds);
        watched.close()?;
        outcome?;
        writeln!(out, "puts of one thread in memory; {KEYS} keys, values of 155 bytes, slices of {PUTS};")?;
        writeln!(out, "  {rounds} rounds, median; subscribers' prefixes are never touched")?;
        beside_first(&contenders, "put", out)
    })
}

/// Scans of [`PAGE`] entries with their values beside a range of a map.
fn scans(rounds: u32, out: &mut impl io::Write) -> Outcome<()> {
    let name = |nth: u32| format!("/state/svc{:05}/obj/{nth:07}", nth / 1000);
    let keys: Vec<Key> = (0..SCANNED_KEYS).map(|nth| Key::parse(&name(nth))).collect::<Result<_, _>>()?;
    // A scattered order: 7919 is a prime that does not divide the number of keys.
    let mixed = || (0..SCANNED_KEYS).map(|nth| u64::from(nth) * 7919 % u64::from(SCANNED_KEYS));
    let mixed: Vec<&Key> =
        mixed().filter_map(|nth| keys.get(usize::try_from(nth).unwrap_or(usize::MAX))).collect();
    let mut store = Store::format(disk_of(4 * BLOCKS)?, &Options::new(StoreId([6; 16])))?;
    let mut map = BTreeMap::<Box<str>, Box<[u8]>>::new();
    for key in &mixed {
        let _revision = store.put_buffered(key, &VALUE)?;
        map.insert(key.as_str().into(), Box::from(VALUE));
    }
    let shared = share(store);
    let view = shared.view()?;
    let root = Prefix::root();
    let starts = || mixed.iter().take(usize::try_from(SCANS).unwrap_or(0));
    let look = |key: &str, value: &[u8]| {
        black_box((key, value.first()));
    };
    let look_on = |key: &str, value: Value<'_>| {
        look(key, value.bytes);
        ControlFlow::Continue(())
    };
    let mut contenders = [
        Contender::new("BTreeMap, range", |_| {
            let begun = Instant::now();
            for start in starts() {
                let range = (Bound::Excluded(start.as_str()), Bound::Unbounded);
                map.range::<str, _>(range).take(PAGE).for_each(|(key, value)| look(key, value));
            }
            Ok(per(begun, SCANS))
        }),
        Contender::new("SharedStore::scan", |_| {
            let begun = Instant::now();
            for start in starts() {
                black_box(shared.scan(&root, Some(start), PAGE, look_on)?);
            }
            Ok(per(begun, SCANS))
        }),
        Contender::new("View::scan", |_| {
            let begun = Instant::now();
            for start in starts() {
                black_box(view.scan(&root, Some(start), PAGE, look_on)?);
            }
            Ok(per(begun, SCANS))
        }),
    ];
    alternate(&mut contenders, rounds)?;
    writeln!(
        out,
        "scans of {PAGE} entries with values in memory; {SCANNED_KEYS} keys of 27 bytes, values of 155, slices of {SCANS};"
    )?;
    writeln!(out, "  {rounds} rounds, median")?;
    beside_first(&contenders, "scan", out)
}

/// Each contender, and how many times as fast as the first it is.
fn beside_first(contenders: &[Contender<'_>], what: &str, out: &mut impl io::Write) -> Outcome<()> {
    let Some(first) = contenders.first() else { return Ok(()) };
    for contender in contenders {
        let [low, median, high] = ratio(&first.took, &contender.took);
        let [least, took, most] = quartiles(contender.took.clone()).map(|took| took * 1e6);
        writeln!(
            out,
            "  {:<36}{took:>8.2} µs a {what} [{least:.2}..{most:.2}]{:>10.0} a second   ratio {median:.2} [{low:.2}..{high:.2}]",
            contender.name,
            1e6 / took,
        )?;
    }
    Ok(())
}
