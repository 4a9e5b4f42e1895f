//! The store against a map, with opening again as one of the operations, on devices so small that they are always full.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use media::{Geometry, MemDisk};
use proptest::prelude::*;
use statefs::{
    Access, Batch, Change, ChangeKind, Changes, Compaction, Error, ErrorKind, Key, Limits, Options,
    Precondition, Prefix, Quota, Revision, Scrub, Store, StoreId, Verdict,
};

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u16),
    PutBuffered(u8, u16),
    Delete(u8),
    DeleteBuffered(u8),
    Batch(Vec<(u8, Option<u16>)>),
    Swap(u8, u16),
    Sync,
    CompactStep,
    Tick(u16),
    Reopen,
    Close,
    SetQuota(u8, u16),
    RemoveQuota(u8),
    ScrubStep,
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..24_u8;
    let len = || prop_oneof![0..40_u16, 0..700_u16];
    prop_oneof![
        6 => (key(), len()).prop_map(|(key, len)| Op::Put(key, len)),
        4 => (key(), len()).prop_map(|(key, len)| Op::PutBuffered(key, len)),
        3 => key().prop_map(Op::Delete),
        1 => key().prop_map(Op::DeleteBuffered),
        2 => prop::collection::vec((key(), prop::option::of(len())), 1..5).prop_map(Op::Batch),
        1 => (key(), len()).prop_map(|(key, len)| Op::Swap(key, len)),
        1 => Just(Op::Sync),
        2 => Just(Op::CompactStep),
        1 => (0..100_u16).prop_map(Op::Tick),
        1 => Just(Op::Reopen),
        1 => Just(Op::Close),
        1 => (0..4_u8, 0..2000_u16).prop_map(|(prefix, limit)| Op::SetQuota(prefix, limit)),
        1 => (0..4_u8).prop_map(Op::RemoveQuota),
        1 => Just(Op::ScrubStep),
    ]
}

fn key(number: u8) -> Key {
    Key::parse(&format!("/state/{}/{number}", number % 3)).unwrap()
}

/// One of the three parts that keys lie in, or everything.
fn prefix(number: u8) -> Prefix {
    if number < 3 { Prefix::parse(&format!("/state/{number}")).unwrap() } else { Prefix::root() }
}

type Map = BTreeMap<String, (Vec<u8>, Revision)>;

/// The store, what it should hold, and what of that is durable for certain.
struct Pair {
    disk: MemDisk,
    store: Store<MemDisk>,
    map: Map,
    last: Revision,
    ms: u64,
    refused: u32,
    /// Hard limits of bytes.
    quotas: BTreeMap<Prefix, u64>,
    /// Changes that a watcher has not been told, and how far it is.
    untold: Vec<Change>,
    told: Revision,
}

impl Pair {
    fn new(blocks: u64) -> Self {
        let disk = MemDisk::new(Geometry::new(512, blocks).unwrap()).unwrap();
        let journal = journal::Limits { frame_blocks_max: 4, in_flight_blocks_max: 8 };
        let limits = Limits { keys_max: 20, ..Limits::default() };
        let options = Options { journal, limits, ..Options::new(StoreId([3; 16])) };
        let store = Store::format(disk.clone(), &options).unwrap();
        Self {
            disk,
            store,
            map: Map::new(),
            last: Revision::from_u64(0),
            ms: 0,
            refused: 0,
            quotas: BTreeMap::new(),
            untold: Vec::new(),
            told: Revision::from_u64(0),
        }
    }

    /// Takes note of a write; what was refused for want of space must have changed nothing.
    fn wrote(&mut self, outcome: Result<Revision, statefs::Error>, changes: &[(u8, Option<Vec<u8>>)]) {
        let is_over = self.is_over(changes);
        match outcome {
            Ok(revision) => {
                assert!(!is_over, "a quota is exceeded");
                assert!(revision > self.last, "{revision} after {}", self.last);
                self.last = revision;
                let first = revision.get() - u64::try_from(changes.len()).unwrap() + 1;
                for (at, (number, value)) in (first..).zip(changes) {
                    let kind = if value.is_some() { ChangeKind::Put } else { ChangeKind::Delete };
                    self.untold.push(Change { key: key(*number), revision: Revision::from_u64(at), kind });
                    let key = key(*number).as_str().to_owned();
                    match value {
                        Some(value) => self.map.insert(key, (value.clone(), Revision::from_u64(at))),
                        None => self.map.remove(&key),
                    };
                }
            }
            Err(error) => {
                assert!(
                    changes.iter().any(|(_, value)| value.is_some()),
                    "a delete is never refused: {error}"
                );
                assert!(matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Invalid), "{error}");
                assert!(is_over || !matches!(error, Error::QuotaExceeded { .. }), "{error}");
                self.refused += 1;
            }
        }
    }

    /// What lies below a prefix, counted.
    fn count(&self, prefix: &Prefix) -> (u64, u64) {
        let covered = self.map.iter().filter(|(key, _)| prefix.covers(&Key::parse(key).unwrap()));
        let (bytes, keys) = covered
            .fold((0, 0), |(bytes, keys), (key, (value, _))| (bytes + key.len() + value.len(), keys + 1));
        (u64::try_from(bytes).unwrap(), keys)
    }

    /// Whether changes would leave more than a quota allows, and more than there is.
    fn is_over(&self, changes: &[(u8, Option<Vec<u8>>)]) -> bool {
        self.quotas.iter().any(|(prefix, limit)| {
            let (used, _) = self.count(prefix);
            let mut next = i64::try_from(used).unwrap();
            let len = |len: usize| i64::try_from(len).unwrap();
            for (number, value) in changes.iter().filter(|(number, _)| prefix.covers(&key(*number))) {
                let name = key(*number).as_str().to_owned();
                next -= self.map.get(&name).map_or(0, |(old, _)| len(name.len() + old.len()));
                next += value.as_ref().map_or(0, |value| len(name.len() + value.len()));
            }
            next > i64::try_from(*limit).unwrap() && next > i64::try_from(used).unwrap()
        })
    }

    fn set_quota(&mut self, number: u8, limit: Option<u16>) {
        let prefix = prefix(number);
        let outcome = match limit {
            Some(limit) => {
                let quota = Quota { hard: Some(limit.into()), ..Quota::default() };
                self.store.set_quota(&prefix, quota).map(Some)
            }
            None => self.store.remove_quota(&prefix),
        };
        match (outcome, limit) {
            (Ok(Some(revision)), limit) => {
                assert!(revision > self.last);
                self.last = revision;
                match limit {
                    Some(limit) => self.quotas.insert(prefix, limit.into()),
                    None => self.quotas.remove(&prefix),
                };
            }
            (Ok(None), _) => assert!(!self.quotas.contains_key(&prefix)),
            (Err(error), limit) => assert!(limit.is_some() && error.kind() == ErrorKind::NoSpace, "{error}"),
        }
    }

    /// What a watcher is told is what was done and is durable, in order, batches undivided.
    fn watch(&mut self) {
        let durable = self.store.durable_revision();
        loop {
            match self.store.changes(&Prefix::root(), self.told, 2).unwrap() {
                Changes::FellBehind { oldest } => {
                    panic!("there is room for all of them, and not before {oldest}")
                }
                Changes::Events { events, next } => {
                    let told: Vec<_> = self.untold.drain(..events.len()).collect();
                    assert_eq!(events, told);
                    assert!(self.untold.first().is_none_or(|change| change.revision > next));
                    if next == self.told {
                        break;
                    }
                    self.told = next;
                }
            }
        }
        assert!(self.untold.first().is_none_or(|change| change.revision > durable));
    }

    fn carry_out(&mut self, op: &Op, nth: usize) {
        let value = |len: u16| vec![u8::try_from(nth % 256).unwrap(); usize::from(len)];
        match op {
            Op::Put(number, len) => {
                let outcome = self.store.put(&key(*number), &value(*len));
                self.wrote(outcome, &[(*number, Some(value(*len)))]);
            }
            Op::PutBuffered(number, len) => {
                let outcome = self.store.put_buffered(&key(*number), &value(*len));
                self.wrote(outcome, &[(*number, Some(value(*len)))]);
            }
            Op::Delete(number) => match self.store.delete(&key(*number)).unwrap() {
                None => assert!(!self.map.contains_key(key(*number).as_str())),
                Some(revision) => self.wrote(Ok(revision), &[(*number, None)]),
            },
            Op::DeleteBuffered(number) => match self.store.delete_buffered(&key(*number)).unwrap() {
                None => assert!(!self.map.contains_key(key(*number).as_str())),
                Some(revision) => self.wrote(Ok(revision), &[(*number, None)]),
            },
            Op::Batch(changes) => {
                let changes: BTreeMap<u8, Option<Vec<u8>>> =
                    changes.iter().map(|(number, len)| (*number, len.map(value))).collect();
                let mut batch = Batch::new();
                for (number, value) in &changes {
                    match value {
                        Some(value) => batch.put(&key(*number), value).unwrap(),
                        None => batch.delete(&key(*number)).unwrap(),
                    }
                }
                let outcome = self.store.batch(&batch);
                self.wrote(outcome, &changes.into_iter().collect::<Vec<_>>());
            }
            Op::Swap(number, len) => {
                let found = self.map.get(key(*number).as_str()).map(|(_, revision)| *revision);
                let condition = found.map_or(Precondition::Absent, Precondition::RevisionIs);
                let outcome = self.store.compare_and_swap(&key(*number), condition, &value(*len));
                self.wrote(outcome, &[(*number, Some(value(*len)))]);
            }
            Op::Sync => assert!(self.store.sync().unwrap() >= self.store.durable_revision()),
            Op::CompactStep => {
                let (Compaction::Running | Compaction::Finished | Compaction::GivenUp) =
                    self.store.compact_step().unwrap();
            }
            Op::Tick(ms) => {
                self.ms += u64::from(*ms);
                self.store.tick(std::time::Duration::from_millis(self.ms)).unwrap();
            }
            Op::Reopen => {
                self.store.sync().unwrap();
                self.reopen();
            }
            Op::Close => {
                self.reopen_after_close();
            }
            Op::SetQuota(number, limit) => self.set_quota(*number, Some(*limit)),
            Op::RemoveQuota(number) => self.set_quota(*number, None),
            Op::ScrubStep => {
                let (Scrub::Running | Scrub::Finished | Scrub::GivenUp) = self.store.scrub_step().unwrap();
            }
        }
    }

    fn reopen(&mut self) {
        let (store, recovery) = Store::open(self.disk.clone(), Access::Write).unwrap();
        assert!(!matches!(recovery.tail, Verdict::Damaged { .. }), "{recovery:?}");
        assert_eq!((recovery.suspect_keys, recovery.read_only), (0, None));
        self.store = store;
        // What came before is not known to the new one.
        self.untold.clear();
        self.told = self.store.durable_revision();
    }

    fn reopen_after_close(&mut self) {
        let (store, _) = Store::open(self.disk.clone(), Access::Read).unwrap();
        std::mem::replace(&mut self.store, store).close().unwrap();
        let (_, recovery) = Store::open(self.disk.clone(), Access::Read).unwrap();
        assert!(recovery.tail == Verdict::Clean);
        self.reopen();
    }

    fn compare(&self) {
        let page = self.store.list(&Prefix::root(), None, 1000).unwrap();
        let found: Map = page
            .entries
            .iter()
            .map(|listed| {
                let value = self.store.get(&Key::parse(listed.key).unwrap()).unwrap();
                assert_eq!(value.revision, listed.revision);
                (listed.key.to_owned(), (value.bytes.to_vec(), value.revision))
            })
            .collect();
        assert_eq!(found, self.map);
        let bytes: usize = self.map.iter().map(|(key, (value, _))| key.len() + value.len()).sum();
        let stats = self.store.stats();
        assert_eq!(stats.live_bytes, u64::try_from(bytes).unwrap(), "accounting equals a recount");
        let quotas: Vec<_> = self.store.quotas().collect();
        assert_eq!(quotas.len(), self.quotas.len());
        for quota in quotas {
            assert_eq!(self.quotas.get(&quota.prefix).copied(), quota.quota.hard);
            assert_eq!((quota.used_bytes, quota.used_keys), self.count(&quota.prefix));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_that_comes_back(blocks in 26..90_u64, ops in prop::collection::vec(op(), 1..120)) {
        let mut pair = Pair::new(blocks);
        for (nth, op) in ops.iter().enumerate() {
            pair.carry_out(op, nth);
            pair.compare();
            pair.watch();
        }
        pair.store.sync().unwrap();
        pair.reopen();
        pair.compare();
    }
}
