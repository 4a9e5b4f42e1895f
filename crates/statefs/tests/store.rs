//! The store while the power stays on: what it does, what it refuses, what it costs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use media::{BlockDevice, BlockIndex, DeviceError, Geometry, MemDisk};
use statefs::{
    Access, Batch, Certainty, Compaction, Error, ErrorKind, Key, Limits, Options, Precondition, Prefix,
    Revision, Store, StoreId, VALUE_LEN_MAX, Verdict,
};
use std::cell::Cell;
use std::rc::Rc;

const ID: StoreId = StoreId(*b"a store of tests");

fn disk(block_size: u32, blocks: u64) -> MemDisk {
    MemDisk::new(Geometry::new(block_size, blocks).unwrap()).unwrap()
}

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn format(disk: &MemDisk) -> Store<MemDisk> {
    Store::format(disk.clone(), &Options::new(ID)).unwrap()
}

fn reopen(disk: &MemDisk) -> Store<MemDisk> {
    let (store, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
    assert!(!matches!(recovery.tail, Verdict::Damaged { .. }), "{recovery:?}");
    store
}

fn bytes<'s, D: BlockDevice>(store: &'s Store<D>, name: &str) -> Option<&'s [u8]> {
    store.get(&key(name)).map(|value| value.bytes)
}

#[test]
fn what_was_put_is_there_and_what_was_deleted_is_not() {
    let disk = disk(4096, 64);
    let mut store = format(&disk);
    assert_eq!(store.get(&key("a")), None);
    let first = store.put(&key("a"), b"1").unwrap();
    let second = store.put(&key("a"), b"2").unwrap();
    assert!(second > first);
    assert_eq!(store.get(&key("a")).unwrap().revision, second);
    store.put(&key("empty"), b"").unwrap();
    assert_eq!(bytes(&store, "empty"), Some(&b""[..]));
    assert!(store.delete(&key("empty")).unwrap().unwrap() > second);
    assert_eq!(store.delete(&key("empty")).unwrap(), None);
    drop(store);
    let store = reopen(&disk);
    assert_eq!(bytes(&store, "a"), Some(&b"2"[..]));
    assert_eq!(store.get(&key("a")).unwrap().revision, second);
    assert_eq!(store.get(&key("a")).unwrap().certainty, Certainty::Certain);
    assert_eq!(bytes(&store, "empty"), None);
}

#[test]
fn open_says_what_it_found() {
    let disk = disk(4096, 64);
    let mut store = format(&disk);
    store.put(&key("a"), b"12").unwrap();
    store.put(&key("b"), b"3").unwrap();
    drop(store);
    let (store, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
    assert_eq!((recovery.live_keys, recovery.live_bytes, recovery.frames_replayed), (2, 19, 2));
    assert_eq!((recovery.tail, recovery.was_sealed, recovery.incarnation), (Verdict::Clean, false, 2));
    assert_eq!((recovery.suspect_keys, recovery.roots_repaired, recovery.switch_finished), (0, 0, false));
    store.close().unwrap();
    let (store, recovery) = Store::open(disk.clone(), Access::Read).unwrap();
    assert!(recovery.was_sealed);
    assert_eq!(recovery.read_only, Some("it was opened to be read"));
    store.close().unwrap();
    let (mut store, _) = Store::open(disk, Access::Read).unwrap();
    assert_eq!(store.put(&key("a"), b"").unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(store.delete(&key("a")).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[test]
fn a_device_without_a_store_is_not_a_store() {
    let error = Store::open(disk(4096, 64), Access::Write).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let toy = disk(4096, 64);
    drop(journal::Journal::format(toy.clone(), ID, journal::Limits::default(), b"toy").unwrap());
    assert!(matches!(Store::open(toy, Access::Write), Err(Error::OtherEngine)));
    assert_eq!(Store::format(disk(4096, 8), &Options::new(ID)).unwrap_err().kind(), ErrorKind::Invalid);
    let limits = Limits { keys_max: 0, ..Limits::default() };
    let refused = Store::format(disk(4096, 64), &Options { limits, ..Options::new(ID) });
    assert!(matches!(refused, Err(Error::Limits)));
}

#[test]
fn revisions_ascend_over_frames_and_lives_and_are_never_used_again() {
    let disk = disk(512, 64);
    let mut store = format(&disk);
    let mut last = Revision::from_u64(0);
    for life in 0..20 {
        for n in 0..5 {
            let revision = match n {
                0 => store.put_buffered(&key("a"), b"buffered").unwrap(),
                1 => {
                    let mut batch = Batch::new();
                    batch.put(&key("a"), b"x").unwrap();
                    batch.put(&key("b"), b"y").unwrap();
                    let revision = store.batch(&batch).unwrap();
                    let first = store.get(&key("a")).unwrap().revision;
                    assert_eq!(first.get() + 1, revision.get(), "consecutive");
                    revision
                }
                2 => {
                    while store.compact_step().unwrap() == Compaction::Running {}
                    continue;
                }
                _ => store.put(&key("c"), &[n]).unwrap(),
            };
            assert!(revision > last, "life {life}: {revision} after {last}");
            last = revision;
        }
        let seen: Vec<_> = ["a", "b", "c"].map(|name| store.get(&key(name)).map(|v| v.revision)).into();
        if life % 2 == 0 {
            drop(store);
        } else {
            store.close().unwrap();
        }
        store = reopen(&disk);
        let again: Vec<_> = ["a", "b", "c"].map(|name| store.get(&key(name)).map(|v| v.revision)).into();
        assert_eq!(again, seen, "a revision is what it was told to be");
    }
}

#[test]
fn buffered_puts_are_seen_at_once_and_durable_after_sync() {
    let disk = disk(4096, 64);
    let mut store = format(&disk);
    let revision = store.put_buffered(&key("a"), b"1").unwrap();
    assert_eq!(bytes(&store, "a"), Some(&b"1"[..]));
    assert!(store.durable_revision() < revision);
    assert_eq!(bytes(&reopen(&disk), "a"), None);
    let mut store = format(&disk);
    let revision = store.put_buffered(&key("a"), b"1").unwrap();
    let later = store.put_buffered(&key("b"), b"2").unwrap();
    assert_eq!(store.sync().unwrap(), later);
    assert!(store.durable_revision() > revision);
    assert_eq!(store.delete_buffered(&key("a")).unwrap().map(|gone| gone > later), Some(true));
    assert_eq!(store.delete_buffered(&key("a")).unwrap(), None);
    store.put(&key("c"), b"3").unwrap();
    let store = reopen(&disk);
    assert_eq!(["a", "b", "c"].map(|name| bytes(&store, name)), [None, Some(&b"2"[..]), Some(&b"3"[..])]);
}

#[test]
fn a_key_that_was_not_there_to_be_deleted_does_not_come_back() {
    let disk = disk(4096, 64);
    let mut store = format(&disk);
    store.put(&key("a"), b"1").unwrap();
    store.delete_buffered(&key("a")).unwrap();
    assert_eq!(store.delete(&key("a")).unwrap(), None);
    assert_eq!(bytes(&reopen(&disk), "a"), None);
}

#[test]
fn a_batch_commits_together_if_its_preconditions_hold() {
    let mut store = format(&disk(4096, 64));
    let revision = store.put(&key("a"), b"1").unwrap();
    let mut batch = Batch::new();
    batch.require(&key("b"), Precondition::Absent).unwrap();
    batch.require(&key("a"), Precondition::RevisionIs(revision)).unwrap();
    batch.put(&key("b"), b"2").unwrap();
    batch.delete(&key("a")).unwrap();
    store.batch(&batch).unwrap();
    assert_eq!((bytes(&store, "a"), bytes(&store, "b")), (None, Some(&b"2"[..])));
    match store.batch(&batch).unwrap_err() {
        Error::Conflict { key: found_key, wanted, found } => {
            assert_eq!(found_key, key("b"));
            assert_eq!(wanted, Precondition::Absent);
            assert_eq!(found, store.get(&key("b")).map(|value| value.revision));
        }
        other => panic!("{other}"),
    }
    let mut apart = Batch::new();
    for name in ["twice", "once", "twice"] {
        apart.put(&key(name), b"").unwrap();
    }
    assert!(matches!(store.batch(&apart), Err(Error::DuplicateKey { key: found }) if found == key("twice")));
}

#[test]
fn compare_and_swap_swaps_what_was_compared() {
    let mut store = format(&disk(4096, 64));
    let first = store.compare_and_swap(&key("a"), Precondition::Absent, b"1").unwrap();
    let absent = store.compare_and_swap(&key("a"), Precondition::Absent, b"2").unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Conflict);
    let second = store.compare_and_swap(&key("a"), Precondition::RevisionIs(first), b"2").unwrap();
    assert!(store.compare_and_swap(&key("a"), Precondition::RevisionIs(first), b"3").is_err());
    assert_eq!(store.get(&key("a")).unwrap().revision, second);
}

#[test]
fn limits_hold_at_the_bound_and_not_beyond() {
    let limits = Limits {
        keys_max: 3,
        batch_ops_max: 2,
        list_page_max: 2,
        live_bytes_max: 200_000,
        ..Limits::default()
    };
    let disk = disk(4096, 512);
    let mut store = Store::format(disk.clone(), &Options { limits, ..Options::new(ID) }).unwrap();
    let longest = vec![7; usize::try_from(VALUE_LEN_MAX).unwrap()];
    store.put(&key("a"), &longest).unwrap();
    store.put(&key("b"), &longest).unwrap();
    let too_long = [longest.as_slice(), &[7]].concat();
    assert!(matches!(
        store.put(&key("a"), &too_long),
        Err(Error::ValueTooLong { limit: 65_536, requested: 65_537 })
    ));
    assert!(Batch::new().put(&key("a"), &too_long).is_err());
    let full = store.put(&key("c"), &vec![7; 200_000 - 2 * 65_544 - 8 + 1][..]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Invalid, "longer than a value may be");
    store.put(&key("c"), &longest[..60_000]).unwrap();
    let full = store.put(&key("c"), &longest).unwrap();
    assert!(full > Revision::from_u64(0));
    let error = store.put(&key("d"), b"").unwrap_err();
    assert!(matches!(error, Error::TooManyKeys { limit: 3, used: 3, requested: 1 }), "{error}");
    let mut batch = Batch::new();
    for name in ["a", "b", "c"] {
        batch.put(&key(name), b"").unwrap();
    }
    assert!(matches!(store.batch(&batch), Err(Error::BatchTooLarge { limit: 2, requested: 3 })));
    assert!(matches!(store.batch(&Batch::new()), Err(Error::EmptyBatch)));
    let mut twice = Batch::new();
    twice.put(&key("a"), b"1").unwrap();
    twice.delete(&key("a")).unwrap();
    assert!(matches!(store.batch(&twice), Err(Error::DuplicateKey { key: found }) if found == key("a")));
    assert_eq!(store.list(&Prefix::root(), None, 100).unwrap().entries.len(), 2);
    drop(store);
    assert_eq!(
        *reopen(&disk).limits(),
        Limits { live_bytes_max: 200_000, ..limits },
        "limits are the store's"
    );
}

#[test]
fn live_bytes_are_bounded_to_the_byte() {
    let limits = Limits { live_bytes_max: 100, ..Limits::default() };
    let mut store = Store::format(disk(4096, 64), &Options { limits, ..Options::new(ID) }).unwrap();
    store.put(&key("a"), &[0; 92]).unwrap();
    let error = store.put(&key("a"), &[0; 93]).unwrap_err();
    assert!(matches!(error, Error::TooManyBytes { limit: 100, used: 100, requested: 101 }), "{error}");
    assert!(store.put(&key("b"), b"").is_err());
    store.put(&key("a"), &[0; 84]).unwrap();
    store.put(&key("b"), b"").unwrap();
}

#[test]
fn a_listing_is_in_order_and_goes_on_where_it_ended() {
    let disk = disk(4096, 64);
    let mut store = format(&disk);
    for name in ["b", "a/2", "ab", "a", "a-b/c", "a/1", "a!", "a0"] {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
    let all = ["a", "a!", "a-b/c", "a/1", "a/2", "a0", "ab", "b"].map(|name| format!("/state/{name}"));
    let list = |store: &Store<MemDisk>, prefix: &str, page: usize| {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let found = store.list(&Prefix::parse(prefix).unwrap(), after.as_ref(), page).unwrap();
            assert!(found.entries.len() <= page);
            keys.extend(found.entries.iter().map(|listed| listed.key.to_owned()));
            after = found.next;
            if after.is_none() {
                return keys;
            }
        }
    };
    for page in 1..10 {
        assert_eq!(list(&store, "/state", page), all);
        assert_eq!(list(&store, "/state/a", page), ["/state/a", "/state/a/1", "/state/a/2"]);
        assert_eq!(list(&store, "/state/a-b", page), ["/state/a-b/c"]);
        assert!(list(&store, "/state/c", page).is_empty());
    }
    while store.compact_step().unwrap() == Compaction::Running {}
    assert_eq!(list(&reopen(&disk), "/state", 3), all);
}

/// A device that counts what is asked of it.
#[derive(Debug, Clone)]
struct CountingDisk {
    disk: MemDisk,
    counts: Rc<[Cell<u64>; 4]>,
}

/// Reads, writes, durable writes, flushes.
type Counts = [u64; 4];

impl CountingDisk {
    fn new(geometry: Geometry) -> Self {
        Self { disk: MemDisk::new(geometry).unwrap(), counts: Rc::default() }
    }

    fn take(&self) -> Counts {
        [0, 1, 2, 3].map(|nth| self.counts[nth].take())
    }

    fn count(&self, nth: usize) {
        self.counts[nth].set(self.counts[nth].get() + 1);
    }
}

impl BlockDevice for CountingDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.count(0);
        self.disk.read(at, into)
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.count(1);
        self.disk.write(at, from)
    }
    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.count(2);
        self.disk.write_durable(at, from)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.count(3);
        self.disk.flush()
    }
}

#[test]
fn what_each_operation_asks_of_the_device() {
    let plain = Geometry::new(4096, 1024).unwrap();
    for (geometry, commit) in [(plain, [0, 1, 0, 1]), (plain.with_write_durable(), [0, 0, 1, 0])] {
        let disk = CountingDisk::new(geometry);
        let mut store = Store::format(disk.clone(), &Options::new(ID)).unwrap();
        disk.take();
        store.put(&key("a"), &[1; 155]).unwrap();
        assert_eq!(disk.take(), commit, "put");
        store.put(&key("a"), &[1; 60_000]).unwrap();
        assert_eq!(disk.take(), commit, "a large put");
        let mut batch = Batch::new();
        for n in 0..10 {
            batch.put(&key(&format!("{n}")), b"in a batch").unwrap();
        }
        store.batch(&batch).unwrap();
        assert_eq!(disk.take(), commit, "a batch of ten");
        for n in 0..100 {
            store.put_buffered(&key(&format!("{n}")), b"buffered").unwrap();
        }
        assert_eq!(disk.take(), [0; 4], "buffered puts");
        store.sync().unwrap();
        assert_eq!(disk.take(), commit, "sync");
        store.sync().unwrap();
        store.get(&key("a")).unwrap();
        store.list(&Prefix::root(), None, 10).unwrap();
        store.delete(&key("nothing")).unwrap();
        assert_eq!(disk.take(), [0; 4], "reading, and nothing to do");
        store.delete(&key("a")).unwrap();
        assert_eq!(disk.take(), commit, "delete");
        drop(store);
        let (store, _) = Store::open(disk.clone(), Access::Read).unwrap();
        // Both ends of the device with the superblocks, the header of the other region, and both regions in pieces of 256
        // blocks: after a format the other one has no header that says how old it is. A reader looks at the superblocks
        // again: a writer may have switched meanwhile.
        assert_eq!(disk.take(), [9, 0, 0, 0], "open, to read");
        drop(store);
        let (store, _) = Store::open(disk.clone(), Access::Write).unwrap();
        // The flush before anything is trusted, and the record of the open.
        assert_eq!(disk.take(), [7, 1, 0, 2], "open, to write, after a crash");
        store.close().unwrap();
        disk.take();
        drop(Store::open(disk.clone(), Access::Write).unwrap());
        assert_eq!(disk.take(), [7, 0, 0, 1], "open, to write, after a close");
    }
}

#[test]
fn an_idle_store_is_sealed_once() {
    let disk = CountingDisk::new(Geometry::new(4096, 64).unwrap());
    let mut store = Store::format(disk.clone(), &Options::new(ID)).unwrap();
    let at = Duration::from_millis;
    store.tick(at(0)).unwrap();
    store.put(&key("a"), b"1").unwrap();
    disk.take();
    store.tick(at(100)).unwrap();
    store.tick(at(149)).unwrap();
    assert_eq!(disk.take(), [0; 4], "not yet");
    store.tick(at(150)).unwrap();
    assert_eq!(disk.take(), [0, 1, 0, 1], "the seal");
    store.tick(at(1000)).unwrap();
    store.tick(at(2000)).unwrap();
    assert_eq!(disk.take(), [0; 4], "once");
    store.put_buffered(&key("b"), b"2").unwrap();
    store.tick(at(3000)).unwrap();
    store.tick(at(3050)).unwrap();
    let (store, recovery) = Store::open(disk, Access::Read).unwrap();
    assert!(recovery.was_sealed);
    assert_eq!(bytes(&store, "b"), Some(&b"2"[..]), "what was buffered is durable before the seal");
}

/// Fills a store until it refuses, and says how many bytes of keys and values it took.
fn fill<D: BlockDevice>(store: &mut Store<D>, value_len: usize) -> u64 {
    for n in 0.. {
        match store.put_buffered(&key(&format!("{n:06}")), &vec![1; value_len]) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                break;
            }
        }
    }
    store.sync().unwrap();
    store.stats().live_bytes
}

#[test]
fn two_fifths_of_the_device_hold_live_data_and_a_full_store_can_be_emptied() {
    for (block_size, blocks, value_len) in [
        (4096, 512, 155),
        (4096, 512, 1000),
        (4096, 2048, 65_536),
        (512, 1024, 1000),
        (512, 4096, 4000),
        (4096, 40, 900),
    ] {
        let disk = disk(block_size, blocks);
        let mut store = format(&disk);
        let live = fill(&mut store, value_len);
        let device = u64::from(block_size) * blocks;
        let percent = live * 1000 / device;
        println!(
            "{block_size} B blocks, {blocks} blocks, values of {value_len} B: {}.{} %",
            percent / 10,
            percent % 10
        );
        if blocks >= 512 {
            assert!(percent >= 400, "{percent}");
        }
        let mut store = reopen(&disk);
        let full = store.put(&key("more"), &vec![1; value_len]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::NoSpace, "{full}");
        // As much as there is can be written anew, again and again.
        for _ in 0..20 {
            store.put(&key("000000"), &vec![2; value_len]).unwrap();
        }
        let keys: Vec<Key> = store
            .list(&Prefix::root(), None, usize::MAX)
            .unwrap()
            .entries
            .iter()
            .map(|listed| Key::parse(listed.key).unwrap())
            .collect();
        assert_eq!(keys.len().min(1024), keys.len());
        let mut after = None;
        let mut all = Vec::new();
        loop {
            let page = store.list(&Prefix::root(), after.as_ref(), 1000).unwrap();
            all.extend(page.entries.iter().map(|listed| Key::parse(listed.key).unwrap()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for key in &all {
            store.delete(key).unwrap();
        }
        assert_eq!(store.stats().live_bytes, 0);
        let mut store = reopen(&disk);
        assert_eq!(store.stats().live_keys, 0);
        assert_eq!(fill(&mut store, value_len), live, "as much as the first time");
    }
}

#[test]
fn a_refused_put_has_written_nothing() {
    let disk = CountingDisk::new(Geometry::new(4096, 128).unwrap());
    let mut store = Store::format(disk.clone(), &Options::new(ID)).unwrap();
    fill(&mut store, 1000);
    disk.take();
    assert_eq!(store.put(&key("more"), &[1; 1000]).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(disk.take(), [0; 4]);
}

/// Three blocks of frame do not fit behind a copy of all that is alive, one does.
#[test]
fn what_would_not_fit_behind_a_copy_is_refused_before_there_is_one() {
    let disk = CountingDisk::new(Geometry::new(512, 32).unwrap());
    let journal = journal::Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 };
    let mut store = Store::format(disk.clone(), &Options { journal, ..Options::new(ID) }).unwrap();
    store.put(&key("a"), &[1; 1000]).unwrap();
    store.put(&key("b"), &[1; 400]).unwrap();
    let stats = store.stats();
    assert_eq!((stats.live_blocks, stats.capacity_blocks), (5, 6));
    for _ in 0..20 {
        disk.take();
        let error = store.put(&key("a"), &[2; 1000]).unwrap_err();
        assert!(matches!(error, Error::NoSpace { limit: 4, used: 5, requested: 8 }), "{error}");
        assert_eq!(disk.take(), [0; 4], "nothing was written");
        store.put(&key("b"), &[2; 400]).unwrap();
    }
}

/// What is pending when a copy begins is in the copy; it must not have to fit behind it once more.
#[test]
fn a_compaction_of_a_full_store_with_buffered_puts_is_not_given_up() {
    let journal = journal::Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 };
    let mut store = Store::format(disk(512, 30), &Options { journal, ..Options::new(ID) }).unwrap();
    store.put_buffered(&key("a"), &[1; 1000]).unwrap();
    store.put_buffered(&key("b"), &[1; 400]).unwrap();
    assert_eq!(store.stats().live_blocks, store.stats().capacity_blocks);
    while store.compact_step().unwrap() == Compaction::Running {}
    assert_eq!(store.stats().compactions_given_up, 0);
    assert_eq!(store.stats().journal.switches, 1);
}

/// A region that fills up is copied in steps between commits: no put pays for a whole copy.
#[test]
fn no_put_waits_for_a_whole_compaction() {
    let mut store = format(&disk(4096, 2048));
    for n in 0..400 {
        store.put(&key(&format!("{n}")), &[1; 4000]).unwrap();
    }
    let (mut puts, mut slow, mut most) = (0_u32, 0_u32, 0);
    while store.stats().journal.switches < 4 {
        let before = store.stats().journal.blocks;
        store.put(&key(&format!("{}", puts * 7 % 400)), &[2; 4000]).unwrap();
        let blocks = store.stats().journal.blocks - before;
        puts += 1;
        slow += u32::from(blocks > 1);
        most = most.max(blocks);
    }
    println!("{puts} puts, {slow} of them with a step of a compaction; at most {most} blocks");
    assert_eq!(store.stats().compactions_given_up, 0);
    assert!(store.stats().live_blocks > 400);
    assert!((60..=68).contains(&most), "its own block, a step of 64, and two copies of a mark: {most}");
}

/// A device whose write or flush number `at` fails, once.
#[derive(Debug, Clone)]
struct FailingDisk {
    disk: MemDisk,
    at: Rc<Cell<Option<u64>>>,
}

impl FailingDisk {
    fn step(&self) -> Result<(), DeviceError> {
        match self.at.get() {
            Some(0) => {
                self.at.set(None);
                Err(DeviceError::FlushFailed { cause: std::io::Error::from_raw_os_error(5).into() })
            }
            left => {
                self.at.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}

impl BlockDevice for FailingDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.disk.read(at, into)
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.step()?;
        self.disk.write(at, from)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.step()?;
        self.disk.flush()
    }
}

#[test]
fn a_write_that_failed_is_not_shown_and_ends_all_writing() {
    for failing in 0..2 {
        let disk = FailingDisk { disk: disk(4096, 64), at: Rc::default() };
        let mut store = Store::format(disk.clone(), &Options::new(ID)).unwrap();
        let old = store.put(&key("a"), b"old").unwrap();
        let buffered = store.put_buffered(&key("b"), b"buffered").unwrap();
        disk.at.set(Some(failing));
        assert_eq!(store.put(&key("a"), b"new").unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(bytes(&store, "a"), Some(&b"old"[..]), "a reader is not shown what may be lost");
        assert_eq!(bytes(&store, "b"), Some(&b"buffered"[..]));
        assert_eq!(store.durable_revision(), old);
        assert!(store.durable_revision() < buffered);
        // The device works again, and that proves nothing.
        for error in [
            store.put(&key("a"), b"x").unwrap_err(),
            store.put_buffered(&key("a"), b"x").unwrap_err(),
            store.delete(&key("a")).unwrap_err(),
            store.sync().unwrap_err(),
            store.compact_step().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        }
        assert!(store.close().is_err());
        let (mut store, _) = Store::open(disk, Access::Write).unwrap();
        assert!([Some(&b"old"[..]), Some(&b"new"[..])].contains(&bytes(&store, "a")));
        store.put(&key("a"), b"newer").expect("a new open is a new start");
    }
}

/// Blocks so large and keys so short that a copied frame could have more records than one may have.
#[test]
fn a_copy_of_very_many_very_small_values_can_be_read_again() {
    let disk = disk(65_536, 200);
    let mut store = format(&disk);
    let count = 70_000_u32;
    for nth in 0..count {
        store.put_buffered(&key(&nth.to_string()), b"").unwrap();
    }
    while store.compact_step().unwrap() == Compaction::Running {}
    store.close().unwrap();
    let (_, recovery) = Store::open(disk, Access::Read).unwrap();
    assert_eq!(recovery.live_keys, u64::from(count));
}

fn deletes(keys: &[Key]) -> Batch {
    let mut batch = Batch::new();
    keys.iter().for_each(|key| batch.delete(key).unwrap());
    batch
}

fn all_keys<D: BlockDevice>(store: &Store<D>) -> Vec<Key> {
    store.iter().map(|(key, _)| key).collect()
}

#[test]
fn store_f3_a_batch_of_deletes_fits_a_full_store_or_says_how_long_it_may_be() {
    for (block_size, blocks, value_len) in
        [(512, 40, 0), (512, 256, 10), (512, 1024, 0), (4096, 64, 10), (4096, 1024, 0), (512, 8420, 100)]
    {
        let disk = disk(block_size, blocks);
        let limits = Limits { batch_ops_max: u16::MAX, ..Limits::default() };
        let mut store = Store::format(disk.clone(), &Options { limits, ..Options::new(ID) }).unwrap();
        fill(&mut store, value_len);
        let mut last = None;
        // Whatever room there is in the region in force, from the least to the most.
        for round in 0..4 {
            if round != 1 {
                while store.compact_step().unwrap() == Compaction::Running {}
            }
            for _ in 0..round * 3 {
                store.put(&key("000000"), &vec![2; value_len]).unwrap();
            }
            store.sync().unwrap();
            let image = disk.image().unwrap();
            let keys = all_keys(&store);
            // A frame has no more than that.
            let frame = &keys[..keys.len().min(usize::try_from(block_size * 10).unwrap())];
            let batch = deletes(frame);
            match store.batch(&batch) {
                Ok(_) => assert_eq!(all_keys(&store).len(), keys.len() - frame.len()),
                Err(Error::BatchTooLong { limit, requested }) => {
                    assert_eq!(requested, frame.iter().map(|key| key.as_str().len() + 2).sum());
                    assert!(limit >= usize::try_from(block_size).unwrap() - 48 && blocks < 8420, "{limit}");
                    assert!(disk.image().unwrap() == image, "nothing was written");
                    assert_eq!(*last.get_or_insert(limit), limit, "it is always the same");
                    // That much always fits, again and again, and so do single ones.
                    let count = limit / (frame[0].as_str().len() + 2);
                    for frame in keys.chunks(count) {
                        store.batch(&deletes(frame)).unwrap();
                    }
                    assert_eq!(store.stats().live_keys, 0);
                }
                Err(error) => panic!("{error}"),
            }
            for key in &all_keys(&store) {
                store.delete_buffered(key).unwrap();
            }
            fill(&mut store, value_len);
        }
        println!("{block_size} B, {blocks} blocks: {last:?}");
        assert_eq!(last.is_none(), blocks == 8420, "of {blocks} blocks every batch of deletes fits");
    }
}

/// Where the region in force has room for the frame, a batch of deletes need not fit after a copy.
#[test]
fn store_f3_a_batch_of_deletes_may_take_the_room_that_is_there() {
    let disk = disk(512, 32);
    let journal = journal::Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 };
    let mut store = Store::format(disk, &Options { journal, ..Options::new(ID) }).unwrap();
    store.put(&key("a"), &[1; 700]).unwrap();
    let long = |nth: usize| key(&format!("{nth}{}", "k".repeat(200)));
    for nth in 0..5 {
        store.put(&long(nth), b"").unwrap();
    }
    assert!(store.put(&key("b"), &[1; 100]).is_err(), "it is full");
    assert_eq!((store.stats().live_blocks, store.stats().capacity_blocks), (5, 6));
    while store.compact_step().unwrap() == Compaction::Running {}
    // Three blocks do not fit after the most that a copy may take; but the copy took less.
    let keys: Vec<Key> = (0..5).map(long).collect();
    store.batch(&deletes(&keys)).unwrap();
    assert_eq!(store.stats().live_keys, 1);
}

#[test]
fn a_batch_has_as_many_preconditions_as_operations_and_no_more() {
    let mut batch = Batch::new();
    for _ in 0..statefs::BATCH_OPS_MAX {
        batch.require(&key("a"), Precondition::Absent).unwrap();
    }
    let refused = batch.require(&key("a"), Precondition::Absent).unwrap_err();
    assert!(matches!(refused, Error::BatchTooLarge { requested: 65_536, .. }), "{refused}");
}
