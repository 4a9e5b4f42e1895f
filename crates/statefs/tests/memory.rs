//! How much memory an open needs, and how often a put asks for some, by counting what is asked of the allocator.
#![expect(unsafe_code, reason = "an allocator that counts is unsafe to implement")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use journal::{Journal, JournalError};
use media::{Geometry, MemDisk, SystemClock};
use statefs::{Access, Key, Options, SharedStore, SnapshotName, Store, StoreId};

/// Bytes in use now, and the most there were since [`peak_of`] began.
static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// How often memory was asked for.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        PEAK.fetch_max(used, Ordering::SeqCst);
        ASKED.fetch_add(1, Ordering::SeqCst);
        // SAFETY: what is asked of this allocator may be asked of that one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: it came from there, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// One test at a time: the counters are those of the process.
static ALONE: Mutex<()> = Mutex::new(());

/// The most bytes that were in use at a time beyond those that were before, and what `act` returns.
fn peak_of<T>(act: impl FnOnce() -> T) -> (usize, T) {
    let before = USED.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let outcome = act();
    (PEAK.load(Ordering::SeqCst) - before, outcome)
}

/// What an open needs whatever the store has: a chunk of the region (1 MiB), a frame, the first pieces of the arena and what
/// may be dead in it (1 MiB), and a history that is not worth pruning (1 MiB).
const FIXED_LEN: usize = 4 << 20;

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn device(block_size: u32, len: u64) -> MemDisk {
    MemDisk::new(Geometry::new(block_size, len / u64::from(block_size)).unwrap()).unwrap()
}

fn assert_open_needs<'d>(what: &str, disk: &'d MemDisk, needed_len: usize) -> Store<&'d MemDisk> {
    let (peak, store) = peak_of(|| Store::open(disk, Access::Write).unwrap().0);
    println!("{what}: an open needs {peak} bytes where {needed_len} are needed");
    assert!(peak <= 3 * needed_len + FIXED_LEN, "{what}: {peak} bytes for {needed_len}");
    store
}

/// The region is full of values that only dropped snapshots had.
#[test]
fn store_f4_an_open_needs_memory_for_what_is_alive_and_not_for_what_was() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let value = vec![7; 8 << 10];
    let disk = device(512, 100 << 20);
    let mut store = Store::format(&disk, &Options::new(StoreId([1; 16]))).unwrap();
    let name = SnapshotName::parse("now").unwrap();
    for nth in 0..4000_u32 {
        store.snapshot(&name).unwrap();
        store.put(&key("a"), &[&nth.to_le_bytes(), value.as_slice()].concat()).unwrap();
        store.drop_snapshot(&name).unwrap();
    }
    assert_eq!(store.stats().journal.switches, 0, "all of it is in one region");
    drop(store);
    let store = assert_open_needs("4,000 snapshots, taken and dropped", &disk, value.len());
    assert_eq!(store.stats().past_values, 0);
}

/// A key is overwritten again and again while a snapshot has its first value.
#[test]
fn store_f4_an_open_keeps_of_a_key_what_snapshots_have_however_often_it_was_overwritten() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = device(512, 200 << 20);
    let mut store = Store::format(&disk, &Options::new(StoreId([1; 16]))).unwrap();
    let value = |nth: u32| [nth.to_le_bytes().as_slice(), &[3; 300]].concat();
    store.put(&key("a"), &value(0)).unwrap();
    store.snapshot(&SnapshotName::parse("first").unwrap()).unwrap();
    for nth in 1..=100_000 {
        store.put(&key("a"), &value(nth)).unwrap();
    }
    assert_eq!(store.stats().journal.switches, 0, "all of it is in one region");
    drop(store);
    let store = assert_open_needs("overwritten 100,000 times", &disk, 608);
    assert_eq!(store.stats().past_values, 1);
    let snapshot = store.at(&SnapshotName::parse("first").unwrap()).unwrap();
    assert_eq!(snapshot.get(&key("a")).unwrap().bytes, value(0));
    assert_eq!(store.get(&key("a")).unwrap().bytes, value(100_000));
}

fn put(key: &str, value: &[u8]) -> Vec<u8> {
    let (key_len, value_len) = (u8::try_from(key.len()).unwrap(), u32::try_from(value.len()).unwrap());
    [&[1, key_len], value_len.to_le_bytes().as_slice(), key.as_bytes(), value].concat()
}

fn delete(key: &str) -> Vec<u8> {
    [&[2, u8::try_from(key.len()).unwrap()], key.as_bytes()].concat()
}

/// The same while a copy runs that takes no step meanwhile: all of it precedes the closing frame.
#[test]
fn store_f4_an_open_forgets_what_was_dropped_while_a_copy_ran() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = device(512, 100 << 20);
    drop(Store::format(&disk, &Options::new(StoreId([1; 16]))).unwrap());
    let mut ignore = |_: journal::Frame<'_>| Ok::<(), JournalError>(());
    let mut journal = Journal::open(&disk, Access::Write, &mut ignore).unwrap().journal;
    journal.begin_copy().unwrap();
    for nth in 0..4000_u32 {
        let value = [&nth.to_le_bytes(), [7; 8 << 10].as_slice()].concat();
        let bodies = [put("/snapshot/now", &[1]), put("/state/a", &value), delete("/snapshot/now")];
        for body in &bodies {
            let _durable = journal.commit(body).unwrap();
        }
    }
    let _durable = journal.finish_copy().unwrap();
    drop(journal);
    let store = assert_open_needs("dropped while a copy ran", &disk, 8 << 10);
    assert_eq!((store.stats().live_keys, store.stats().past_values), (1, 0));
}

/// What snapshots had at one time bounds what an open needs, and it is given back when they are dropped.
#[test]
fn store_f4_an_open_needs_no_more_than_twice_what_snapshots_had_at_any_time() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = device(4096, 250 << 20);
    let mut store = Store::format(&disk, &Options::new(StoreId([1; 16]))).unwrap();
    let name = SnapshotName::parse("now").unwrap();
    let (keys, len) = (100_u32, 16_u32 << 10);
    for round in 0..40_u32 {
        store.snapshot(&name).unwrap();
        for nth in 0..keys {
            let value = vec![u8::try_from(round).unwrap(); usize::try_from(len).unwrap()];
            store.put(&key(&nth.to_string()), &value).unwrap();
        }
        store.drop_snapshot(&name).unwrap();
    }
    assert_eq!(store.stats().journal.switches, 0, "all of it is in one region");
    drop(store);
    // What is current, and as much that a snapshot had.
    let needed_len = usize::try_from(2 * keys * len).unwrap();
    let store = assert_open_needs("40 snapshots of 1.6 MiB", &disk, needed_len);
    assert_eq!(store.stats().past_values, 0);
}

/// What one moment of a store of 50,000 keys needs, beyond the device; and what the same store needs with 16 views of
/// different moments, between which every value was written again.
#[test]
fn sixteen_views_need_no_more_than_sixteen_stores_and_give_it_back() {
    const KEYS: u32 = 50_000;
    const VALUE_LEN: u32 = 155;
    /// What is dead in the arena and shared by a view, pieces that were not full, and buffers.
    const FIXED_LEN: usize = 4 << 20;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let keys: Vec<Key> = (0..KEYS).map(|nth| key(&format!("svc{:05}/obj/{nth:07}", nth / 100))).collect();
    let live_len: usize =
        keys.iter().map(|key| key.as_str().len() + usize::try_from(VALUE_LEN).unwrap()).sum();
    let disk = device(4096, 240 << 20);
    let before = USED.load(Ordering::SeqCst);
    let mut store = Store::format(&disk, &Options::new(StoreId([1; 16]))).unwrap();
    let write_all = |store: &mut Store<&MemDisk>, round: u8| {
        // In another order each time.
        for nth in 0..KEYS {
            let at = u64::from(nth) * [1, 7919, 76_543][usize::from(round % 3)] % u64::from(KEYS);
            let key = &keys[usize::try_from(at).unwrap()];
            store.put_buffered(key, &vec![round; usize::try_from(VALUE_LEN).unwrap()]).unwrap();
        }
        store.sync().unwrap();
    };
    write_all(&mut store, 0);
    let one_len = USED.load(Ordering::SeqCst) - before;
    let mut views = Vec::new();
    for round in 1..=16 {
        views.push(store.view().unwrap());
        write_all(&mut store, round);
    }
    let used_len = USED.load(Ordering::SeqCst) - before;
    println!(
        "{live_len} bytes live: {one_len} for one moment, {used_len} for 17, {} thousandths of 17 of the first, {} of 17 times what is live",
        used_len * 1000 / (17 * one_len),
        used_len * 1000 / (17 * live_len)
    );
    assert!(used_len <= 17 * one_len + FIXED_LEN, "{used_len}");
    for (round, view) in views.iter().enumerate() {
        let round = u8::try_from(round).unwrap();
        assert_eq!(view.iter().count(), keys.len());
        assert!(view.iter().all(|(_, value)| value.bytes.iter().all(|byte| *byte == round)));
    }
    drop(views);
    store.put(&keys[0], b"one more").unwrap();
    let after_len = USED.load(Ordering::SeqCst) - before;
    println!("{after_len} after they were dropped");
    assert!(after_len <= one_len + one_len / 8 + FIXED_LEN / 2, "{after_len}");
}

/// Views that are taken after every put, and dropped or kept, leave no memory behind that is not used.
#[test]
fn a_view_for_every_put_leaves_no_short_pieces_behind() {
    const PUTS: u32 = 20_000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = device(4096, 200 << 20);
    let used_with = |views_max: usize| {
        let before = USED.load(Ordering::SeqCst);
        let mut store = Store::format(&disk, &Options::new(StoreId([1; 16]))).unwrap();
        let mut views = std::collections::VecDeque::new();
        for nth in 0..PUTS {
            if views_max > 0 && views.len() == views_max {
                views.pop_front();
            }
            if views_max > 0 {
                views.push_back(store.view().unwrap());
            }
            store.put_buffered(&key(&format!("{nth:07}")), &[7; 60]).unwrap();
        }
        drop(views);
        store.sync().unwrap();
        let used = USED.load(Ordering::SeqCst) - before;
        drop(store);
        used
    };
    let (none, one, all) = (used_with(0), used_with(1), used_with(16));
    println!("{none} bytes without views, {one} with one for every put, {all} with 16");
    assert!(one.max(all) <= none + none / 8 + (256 << 10), "{one} {all}");
}

/// A put that no other thread disturbs asks for memory for its batch, its waiter and its place in the queue, and notes no key.
#[test]
fn a_put_of_a_lone_writer_of_a_shared_store_asks_for_memory_three_times_more_than_one_of_a_store() {
    const PUTS: usize = 1000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let keys: Vec<Key> = (0..100).map(|nth| key(&format!("app/{nth:03}"))).collect();
    let all = || keys.iter().cycle().take(PUTS);
    let asked = |put: &mut dyn FnMut(&Key)| {
        // What is kept and used again is there after a while.
        all().for_each(&mut *put);
        let before = ASKED.load(Ordering::SeqCst);
        all().for_each(put);
        ASKED.load(Ordering::SeqCst) - before
    };
    let store = || Store::format(device(4096, 64 << 20), &Options::new(StoreId([1; 16]))).unwrap();
    let mut alone = store();
    let shared = SharedStore::new(store(), Arc::new(SystemClock::new()));
    let alone = asked(&mut |key| {
        let _revision = alone.put(key, &[7; 155]).unwrap();
    });
    let shared = asked(&mut |key| {
        let _revision = shared.put(key, &[7; 155]).unwrap();
    });
    println!("{PUTS} puts ask for memory {alone} times through a store, {shared} times through a shared one");
    assert!(alone <= PUTS / 10, "{alone}");
    // Some leeway for lists that grow.
    assert!(shared <= alone + 3 * PUTS + PUTS / 10, "{shared} and {alone}");
}
