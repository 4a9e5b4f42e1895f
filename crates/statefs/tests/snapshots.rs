//! Snapshots against a map for each, and under power cuts, kills and faults.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cases;

use std::collections::BTreeMap;

use cases::{
    Part, assert_honest_after_faults, assert_kept_on_any_subset, assert_kept_under_every_profile,
    assert_run_to_their_end,
};

use crashsim::{Options, Random};
use media::{BlockDevice, BlockIndex, Geometry, MemDisk};
use statefs::{
    Access, Batch, Certainty, Compaction, Error, ErrorKind, Key, Limits, Prefix, Revision, SNAPSHOTS_MAX,
    SnapshotName, Store, StoreId, Verdict,
};

const KEYS: [&str; 6] = ["/state/a", "/state/b", "/state/c", "/state/d", "/state/life", "/state/scratch"];
const NAMES: [&str; 3] = ["x", "y", "z"];

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::parse(text).unwrap()
}

fn options() -> statefs::Options {
    let journal = journal::Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    statefs::Options { journal, ..statefs::Options::new(StoreId(*b"a store in views")) }
}

fn compact<D: BlockDevice>(store: &mut Store<D>) {
    while store.compact_step().unwrap() == Compaction::Running {}
}

type Map = BTreeMap<String, (Vec<u8>, Revision)>;

/// A store, what it should hold, and what it held when.
struct Model {
    disk: MemDisk,
    store: Store<MemDisk>,
    now: Map,
    snapshots: BTreeMap<&'static str, (Revision, Map)>,
    /// Every value that a key ever had and no longer has.
    past: Vec<(String, usize, Revision, Revision)>,
    refused: u32,
}

impl Model {
    fn new(blocks: u64) -> Self {
        let disk = MemDisk::new(Geometry::new(512, blocks).unwrap()).unwrap();
        let store = Store::format(disk.clone(), &options()).unwrap();
        Self { disk, store, now: Map::new(), snapshots: BTreeMap::new(), past: Vec::new(), refused: 0 }
    }

    fn change(&mut self, name: &str, value: Option<&[u8]>, revision: Revision) {
        let old = match value {
            Some(value) => self.now.insert(name.to_owned(), (value.to_vec(), revision)),
            None => self.now.remove(name),
        };
        if let Some((value, from)) = old {
            self.past.push((name.to_owned(), value.len(), from, revision));
        }
    }

    /// Takes note of a write. What is refused for want of room has changed nothing, and is never a delete.
    fn wrote(&mut self, outcome: Result<Revision, Error>, changes: &[(&str, Option<&[u8]>)]) {
        match outcome {
            Ok(last) => {
                let first = last.get() + 1 - u64::try_from(changes.len()).unwrap();
                for (at, (name, value)) in (first..).zip(changes) {
                    self.change(name, *value, Revision::from_u64(at));
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                assert!(changes.iter().any(|(_, value)| value.is_some()), "a delete is refused: {error}");
                self.refused += 1;
            }
        }
    }

    fn carry_out(&mut self, random: &mut Random, nth: u8) {
        let mut below = |bound: u32| usize::try_from(random.below(bound)).unwrap();
        let (first, second, name) = (KEYS[below(4)], KEYS[below(4)], NAMES[below(3)]);
        let value = vec![nth; [0, 3, 60, 350, 651][below(5)]];
        match below(14) {
            0 | 1 => {
                let outcome = self.store.put(&key(first), &value);
                self.wrote(outcome, &[(first, Some(&value))]);
            }
            2 | 3 => {
                let outcome = self.store.put_buffered(&key(first), &value);
                self.wrote(outcome, &[(first, Some(&value))]);
            }
            4 => {
                if let Some(revision) = self.store.delete(&key(first)).unwrap() {
                    self.wrote(Ok(revision), &[(first, None)]);
                }
            }
            5 => {
                if let Some(revision) = self.store.delete_buffered(&key(first)).unwrap() {
                    self.wrote(Ok(revision), &[(first, None)]);
                }
            }
            6 if first != second && self.now.contains_key(second) => {
                let mut batch = Batch::new();
                batch.put(&key(first), &value).unwrap();
                batch.delete(&key(second)).unwrap();
                let outcome = self.store.batch(&batch);
                self.wrote(outcome, &[(first, Some(&value)), (second, None)]);
            }
            6 | 7 => match self.store.snapshot(&snapshot_name(name)) {
                Ok(revision) => {
                    assert!(self.snapshots.insert(name, (revision, self.now.clone())).is_none());
                    assert_eq!(
                        self.store.durable_revision(),
                        revision,
                        "what was buffered is durable with it"
                    );
                }
                Err(Error::SnapshotExists { .. }) => assert!(self.snapshots.contains_key(name)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                    self.refused += 1;
                }
            },
            8 => {
                let dropped = self.store.drop_snapshot(&snapshot_name(name)).unwrap();
                assert_eq!(dropped.is_some(), self.snapshots.remove(name).is_some());
            }
            9..=11 => {
                let (Compaction::Running | Compaction::Finished | Compaction::GivenUp) =
                    self.store.compact_step().unwrap();
            }
            12 => drop(self.store.sync().unwrap()),
            _ => self.reopen(),
        }
    }

    fn reopen(&mut self) {
        self.store.sync().unwrap();
        let (store, recovery) = Store::open(self.disk.clone(), Access::Write).unwrap();
        assert!(!matches!(recovery.tail, Verdict::Damaged { .. }), "{recovery:?}");
        assert_eq!((recovery.suspect_keys, recovery.read_only), (0, None));
        assert_eq!(recovery.snapshots, self.snapshots.len());
        self.store = store;
    }

    fn compare(&mut self) {
        let live = self.store.iter().map(|(key, value)| owned(key, value)).collect::<Map>();
        assert_eq!(live, self.now);
        let taken: Vec<_> =
            self.store.snapshots().map(|s| (s.name.as_str().to_owned(), s.revision)).collect();
        let wanted: Vec<_> = self.snapshots.iter().map(|(name, (at, _))| ((*name).to_owned(), *at)).collect();
        assert_eq!(taken, wanted);
        for (name, (revision, map)) in &self.snapshots {
            let view = self.store.at(&snapshot_name(name)).unwrap();
            assert_eq!(view.revision(), *revision);
            assert_eq!(&view.iter().map(|(key, value)| owned(key, value)).collect::<Map>(), map, "{name}");
            for name in KEYS {
                let value = view.get(&key(name)).map(|value| (value.bytes.to_vec(), value.revision));
                assert_eq!(value.as_ref(), map.get(name), "{name}");
                assert_eq!(view.certainty(&key(name)), Certainty::Certain);
            }
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = view.list(&Prefix::root(), after.as_ref(), 2).unwrap();
                listed.extend(page.entries.iter().map(|e| (e.key.to_owned(), e.value_len, e.revision)));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            let wanted: Vec<_> = map.iter().map(|(key, (v, at))| (key.clone(), v.len(), *at)).collect();
            assert_eq!(listed, wanted, "{name}");
        }
        let revisions: Vec<Revision> = self.snapshots.values().map(|(revision, _)| *revision).collect();
        self.past.retain(|(_, _, from, until)| revisions.iter().any(|s| from < s && s < until));
        let stats = self.store.stats();
        let bytes: usize = self.past.iter().map(|(key, len, ..)| key.len() + len).sum();
        let counted = (self.past.len(), bytes, self.snapshots.len());
        let counted_by_store = (stats.past_values, stats.past_bytes, stats.snapshots);
        let len = |len: usize| u64::try_from(len).unwrap();
        assert_eq!(
            counted_by_store,
            (len(counted.0), len(counted.1), counted.2),
            "accounting equals a recount"
        );
        assert!(stats.live_blocks <= stats.capacity_blocks, "{stats:?}");
    }
}

fn owned(key: Key, value: statefs::Value<'_>) -> (String, (Vec<u8>, Revision)) {
    assert_eq!(value.certainty, Certainty::Certain);
    (key.as_str().to_owned(), (value.bytes.to_vec(), value.revision))
}

/// Every step of a compaction, every open, and every change of what there is, in any order.
#[test]
fn a_snapshot_is_the_map_that_was_through_everything_that_comes_after() {
    let runs = std::env::var("STATEFS_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(6000_u64);
    let (mut refused, mut past) = (0, 0);
    for seed in 0..runs {
        let mut random = Random::new(seed);
        let mut model = Model::new(26 + u64::from(random.below(60)));
        for nth in 0..60 {
            model.carry_out(&mut random, nth);
            model.compare();
        }
        past += model.past.len();
        model.reopen();
        model.compare();
        compact(&mut model.store);
        model.compare();
        model.reopen();
        model.compare();
        // Whatever there is can be taken away.
        for name in KEYS {
            model.store.delete(&key(name)).unwrap();
        }
        for name in NAMES {
            model.store.drop_snapshot(&snapshot_name(name)).unwrap();
        }
        assert_eq!(model.store.stats().past_values, 0);
        assert!(model.store.put(&key("/state/a"), &[1; 600]).is_ok(), "there is room again");
        refused += model.refused;
    }
    println!("{runs} runs, {refused} refusals, {past} past values at the end of a run");
    assert!(refused > 0 && past > 0);
}

fn disk(blocks: u64) -> MemDisk {
    MemDisk::new(Geometry::new(512, blocks).unwrap()).unwrap()
}

#[test]
fn names_are_used_once_and_there_are_so_many_snapshots_and_no_more() {
    let mut store = Store::format(disk(64), &options()).unwrap();
    let name = |nth: usize| snapshot_name(&nth.to_string());
    for nth in 0..SNAPSHOTS_MAX {
        store.snapshot(&name(nth)).unwrap();
    }
    assert!(matches!(store.snapshot(&name(3)), Err(Error::SnapshotExists { .. })));
    let error = store.snapshot(&name(SNAPSHOTS_MAX)).unwrap_err();
    assert!(matches!(error, Error::TooManySnapshots { limit: SNAPSHOTS_MAX, used: SNAPSHOTS_MAX }));
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(store.drop_snapshot(&name(3)).unwrap().is_some());
    assert_eq!(store.drop_snapshot(&name(3)).unwrap(), None);
    assert!(store.snapshot(&name(SNAPSHOTS_MAX)).is_ok());
    assert_eq!(store.snapshots().count(), SNAPSHOTS_MAX);
    assert!(store.iter().next().is_none() && store.stats().live_keys == 0, "no key of a user's");
    assert!(store.at(&name(3)).is_none());
}

#[test]
fn what_is_past_counts_as_a_key_and_as_bytes() {
    let limits = Limits { keys_max: 4, live_bytes_max: 200, ..Limits::default() };
    let mut store = Store::format(disk(64), &statefs::Options { limits, ..options() }).unwrap();
    store.put(&key("/state/a"), &[1; 80]).unwrap();
    store.snapshot(&snapshot_name("x")).unwrap();
    // The record of the snapshot is one of the four: it has 12 bytes.
    store.put(&key("/state/a"), &[2; 80]).unwrap();
    assert!(matches!(store.put(&key("/state/a"), &[3; 101]), Err(Error::TooManyBytes { .. })));
    store.put(&key("/state/b"), &[]).unwrap();
    assert!(matches!(store.put(&key("/state/c"), &[]), Err(Error::TooManyKeys { limit: 4, used: 4, .. })));
    store.drop_snapshot(&snapshot_name("x")).unwrap();
    store.put(&key("/state/c"), &[]).unwrap();
    store.put(&key("/state/a"), &[3; 101]).unwrap();
}

/// Values so that the device is full to the last block, and then what makes each of them a longer record.
#[test]
fn a_snapshot_that_leaves_no_room_for_deletes_is_refused() {
    for blocks in 40..60 {
        let disk = disk(blocks);
        let mut store = Store::format(disk.clone(), &options()).unwrap();
        let name = |nth: usize| key(&format!("/state/{nth:04}"));
        let full = (0..).find(|nth| store.put_buffered(&name(*nth), &[]).is_err()).unwrap();
        let error = store.snapshot(&snapshot_name("x")).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        let mut left = full;
        while store.snapshot(&snapshot_name("x")).is_err() {
            left -= 1;
            store.delete_buffered(&name(left)).unwrap();
        }
        assert!(left > full / 2, "{left} of {full}");
        for nth in 0..left {
            store.delete(&name(nth)).unwrap();
        }
        compact(&mut store);
        store.sync().unwrap();
        let mut store = Store::open(disk, Access::Write).unwrap().0;
        assert_eq!(store.at(&snapshot_name("x")).unwrap().iter().count(), left);
        store.drop_snapshot(&snapshot_name("x")).unwrap();
        assert_eq!(store.stats().past_values, 0);
    }
}

/// One snapshot lies before what is lost and one behind it.
#[test]
fn in_a_damaged_store_a_snapshot_says_what_is_certain() {
    let disk = disk(64);
    let mut store = Store::format(disk.clone(), &options()).unwrap();
    store.put(&key("/state/a"), b"1").unwrap();
    store.put(&key("/state/b"), b"1").unwrap();
    compact(&mut store);
    // Region B: header, one copied frame, closing. Then the snapshot, two puts, the second of which will be lost, …
    store.snapshot(&snapshot_name("x")).unwrap();
    store.put(&key("/state/a"), b"2").unwrap();
    store.put(&key("/state/b"), b"2").unwrap();
    store.put(&key("/state/c"), b"3").unwrap();
    store.snapshot(&snapshot_name("y")).unwrap();
    store.put(&key("/state/c"), b"4").unwrap();
    drop(store);
    let lost = BlockIndex::new(2 + 30 + 3 + 2);
    disk.write(lost, &[0xEE; 512]).unwrap();
    let (store, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
    assert!(matches!(recovery.tail, Verdict::Damaged { .. }), "{recovery:?}");
    let before = store.at(&snapshot_name("x")).unwrap();
    for name in ["/state/a", "/state/b", "/state/c"] {
        assert_eq!(before.certainty(&key(name)), Certainty::Certain, "{name}");
    }
    assert_eq!(before.get(&key("/state/a")).unwrap().bytes, b"1");
    let after = store.at(&snapshot_name("y")).unwrap();
    let seen = |name| after.get(&key(name)).map(|value| (value.bytes.to_vec(), value.certainty));
    assert_eq!(seen("/state/a"), Some((b"2".to_vec(), Certainty::Suspect)));
    assert_eq!(seen("/state/b"), Some((b"1".to_vec(), Certainty::Suspect)));
    assert_eq!(seen("/state/c"), Some((b"3".to_vec(), Certainty::Certain)));
    assert_eq!(after.certainty(&key("/state/d")), Certainty::Suspect);
    let certainties: Vec<_> = store.snapshots().map(|s| (s.name.as_str().to_owned(), s.certainty)).collect();
    assert_eq!(certainties, [("x".to_owned(), Certainty::Suspect), ("y".to_owned(), Certainty::Certain)]);
    drop(store);

    // With a part of the copy lost, nothing before that is certain of any snapshot.
    disk.write(BlockIndex::new(2 + 30 + 1), &[0xEE; 512]).unwrap();
    let (store, _) = Store::open(disk, Access::Read).unwrap();
    let before = store.at(&snapshot_name("x")).unwrap();
    assert_eq!(before.certainty(&key("/state/b")), Certainty::Suspect);
}

/// The record of the snapshot is in a frame of the copy that is there, and what it shows in one that is not.
#[test]
fn where_a_part_of_a_copy_is_lost_no_snapshot_is_certain() {
    let disk = disk(64);
    let mut store = Store::format(disk.clone(), &options()).unwrap();
    store.put(&key("/state/a"), &[1; 600]).unwrap();
    store.put(&key("/state/b"), &[1; 600]).unwrap();
    store.snapshot(&snapshot_name("x")).unwrap();
    store.delete(&key("/state/b")).unwrap();
    compact(&mut store);
    store.put(&key("/state/c"), b"later").unwrap();
    drop(store);
    // Region B: header, two frames of two blocks, closing.
    disk.write(BlockIndex::new(2 + 30 + 3), &[0xEE; 512]).unwrap();
    let (store, recovery) = Store::open(disk, Access::Read).unwrap();
    assert!(matches!(recovery.tail, Verdict::Damaged { .. }), "{recovery:?}");
    let view = store.at(&snapshot_name("x")).unwrap();
    let seen = |name| view.get(&key(name)).map(|value| value.certainty);
    assert_eq!((seen("/state/a"), seen("/state/b")), (Some(Certainty::Suspect), None));
    assert_eq!(view.certainty(&key("/state/b")), Certainty::Suspect, "it had a value");
}

/// So much is overwritten that records in memory are moved to leave the dead behind.
#[test]
fn what_is_past_moves_with_the_records_in_memory() {
    let disk = MemDisk::new(Geometry::new(4096, 4096).unwrap()).unwrap();
    let mut store = Store::format(disk, &statefs::Options::new(StoreId([1; 16]))).unwrap();
    let name = |nth: u8| key(&format!("/state/{nth}"));
    for nth in 0..40 {
        store.put_buffered(&name(nth), &[nth; 500]).unwrap();
    }
    store.snapshot(&snapshot_name("x")).unwrap();
    for round in 0..100 {
        for nth in 0..40 {
            store.put_buffered(&name(nth), &[round; 2000]).unwrap();
        }
        let view = store.at(&snapshot_name("x")).unwrap();
        assert!((0..40).all(|nth| view.get(&name(nth)).unwrap().bytes == [nth; 500]), "round {round}");
    }
    assert_eq!(store.stats().past_values, 40);
}

/// Copied frames that nobody wrote: whole, and with records in any order, of any revisions, with any snapshots.
#[test]
fn a_history_that_nobody_wrote_is_read_without_panic() {
    let engine = {
        let disk = disk(64);
        drop(Store::format(disk.clone(), &options()).unwrap());
        let opened = journal::Journal::open::<journal::JournalError>(disk, Access::Read, &mut |_| Ok(()));
        opened.unwrap().journal.engine().to_vec()
    };
    let (mut opened, mut shown) = (0, 0);
    for seed in 0..4000 {
        let mut random = Random::new(seed);
        let disk = disk(64);
        let limits = options().journal;
        let mut forming =
            journal::Journal::form(disk.clone(), StoreId([7; 16]), limits, &engine, 40).unwrap();
        for _ in 0..random.below(4) {
            let mut body = Vec::new();
            for _ in 0..=random.below(8) {
                let revision = u64::from(random.below(12)).to_le_bytes();
                let (key, value): (&[u8], &[u8]) = match random.below(6) {
                    0 => (b"/snapshot/x", &[1]),
                    1 => (b"/snapshot/y", &[1]),
                    2 | 3 => (b"/state/a", b"1"),
                    _ => (b"/state/b", b"22"),
                };
                let is_past = key.starts_with(b"/state") && random.below(2) == 0;
                body.extend_from_slice(&[if is_past { 4 } else { 3 }, u8::try_from(key.len()).unwrap()]);
                body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
                body.extend_from_slice(&revision);
                if is_past {
                    let longer = u64::from(random.below(12)) + u64::from(random.below(40) > 0);
                    body.extend_from_slice(&(u64::from_le_bytes(revision) + longer).to_le_bytes());
                }
                body.extend_from_slice(key);
                body.extend_from_slice(value);
            }
            forming.copy(&body).unwrap();
        }
        drop(forming.finish().unwrap());
        let mut store = match Store::open(disk.clone(), Access::Write) {
            Ok((store, _)) => store,
            Err(Error::Corrupt { what: statefs::BadRecord::Interval, .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        opened += 1;
        let seen = |store: &Store<MemDisk>| {
            let view = |snapshot: statefs::Snapshot| {
                let view = store.at(&snapshot.name).unwrap();
                view.iter().map(|(key, value)| owned(key, value)).collect::<Vec<_>>()
            };
            store.snapshots().map(view).collect::<Vec<_>>()
        };
        let before = seen(&store);
        shown += before.iter().flatten().count();
        compact(&mut store);
        let (store, _) = Store::open(disk, Access::Read).unwrap();
        assert_eq!(seen(&store), before, "seed {seed}");
    }
    assert!(opened > 2000 && shown > 2000, "{opened} {shown}");
}

#[test]
fn every_case_of_snapshots_runs_to_its_end_as_it_is_written() {
    assert_run_to_their_end(Part::Snapshots);
}

#[test]
fn snapshots_survive_every_power_cut_and_kill() {
    let options = Options { states_max: 200, depth: 1, nested_states_max: 8, ..Options::default() };
    assert_kept_under_every_profile(Part::Snapshots, &options);
}

#[test]
fn snapshots_survive_a_power_cut_in_a_recovery_from_a_power_cut_in_a_recovery() {
    let options = Options { states_max: 10, depth: 2, nested_states_max: 3, ..Options::default() };
    assert_kept_on_any_subset(Part::Snapshots, &options);
}

#[test]
fn after_a_fault_at_any_call_every_error_about_a_snapshot_was_honest() {
    assert_honest_after_faults(Part::Snapshots, 24);
}

/// A copy has values that only a snapshot needs whose record follows them, because it was taken while the copy ran. The first
/// commits that are replayed precede that record: what is pruned then must not be what it needs.
#[test]
fn store_f4_what_a_snapshot_needs_outlives_a_prune_that_precedes_its_record() {
    let disk = MemDisk::new(Geometry::new(4096, 5000).unwrap()).unwrap();
    let mut store = Store::format(&disk, &statefs::Options::new(StoreId([1; 16]))).unwrap();
    let name = |nth: u32| key(&format!("/state/{nth:03}"));
    let value = |nth: u32| vec![u8::try_from(nth % 251).unwrap(); 8 << 10];
    for nth in 0..512 {
        store.put(&name(nth), &value(nth)).unwrap();
    }
    assert_eq!(store.compact_step().unwrap(), Compaction::Running);
    // Each commit takes a step. What is last in the order of the keys has not been copied when it is overwritten.
    store.put(&name(0), b"early").unwrap();
    let taken = store.snapshot(&snapshot_name("x")).unwrap();
    let mut batch = Batch::new();
    (320..512).for_each(|nth| batch.put(&name(nth), b"new").unwrap());
    store.batch(&batch).unwrap();
    compact(&mut store);
    assert_eq!(store.stats().past_values, 192);
    drop(store);
    let store = Store::open(&disk, Access::Write).unwrap().0;
    let view = store.at(&snapshot_name("x")).unwrap();
    assert_eq!((view.revision(), store.stats().past_values), (taken, 192));
    for nth in 1..512 {
        assert_eq!(view.get(&name(nth)).unwrap().bytes, value(nth), "{nth}");
    }
}
