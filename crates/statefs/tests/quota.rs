//! Quotas: what is refused, what is warned about, what always works.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use media::{BlockDevice, BlockIndex, DeviceError, Geometry, MemDisk};
use statefs::{
    Access, Batch, Error, ErrorKind, KEY_LEN_MAX, Key, Options, Prefix, QUOTA_WINDOW, QUOTAS_MAX, Quota,
    QuotaUse, Store, StoreId, Warning,
};

fn store() -> (MemDisk, Store<MemDisk>) {
    let disk = MemDisk::new(Geometry::new(4096, 256).unwrap()).unwrap();
    let store = Store::format(disk.clone(), &Options::new(StoreId(*b"a store of tests"))).unwrap();
    (disk, store)
}

/// A key of 10 bytes.
fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap()
}

fn hard(limit: u64) -> Quota {
    Quota { hard: Some(limit), ..Quota::default() }
}

fn soft(limit: u64) -> Quota {
    Quota { soft: Some(limit), ..Quota::default() }
}

fn used(store: &Store<MemDisk>) -> Vec<(u64, u64)> {
    store.quotas().map(|quota| (quota.used_bytes, quota.used_keys)).collect()
}

#[test]
fn a_hard_limit_holds_at_the_byte_and_nothing_is_written_beyond() {
    let (disk, mut store) = store();
    store.set_quota(&prefix("/state/a"), hard(100)).unwrap();
    store.put(&key("a/x"), &[0; 90]).unwrap();
    let before = (disk.image().unwrap(), store.stats());
    for outcome in [
        store.put(&key("a/x"), &[0; 91]),
        store.put_buffered(&key("a/x"), &[0; 91]),
        store.put(&key("a/y"), b""),
    ] {
        let Err(Error::QuotaExceeded { prefix: of, limit: 100, used: 100, requested }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(of, prefix("/state/a"));
        assert!(requested == 101 || requested == 110);
    }
    let error = store.put(&key("a/x"), &[0; 91]).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.kind()),
        ("quota exceeded for `/state/a`: limit=100 used=100 requested=101", ErrorKind::NoSpace)
    );
    assert!((disk.image().unwrap(), store.stats()) == before, "nothing was written");
    store.put(&key("ab"), &[0; 1000]).unwrap();
    store.put(&key("a/x"), &[1; 90]).unwrap();
    store.put(&key("a/x"), &[1; 89]).unwrap();
    assert_eq!(used(&store), [(99, 1)]);
}

#[test]
fn a_batch_is_looked_at_as_a_whole() {
    let (_, mut store) = store();
    store.set_quota(&prefix("/state/a"), hard(100)).unwrap();
    store.put(&key("a/x"), &[0; 90]).unwrap();
    let mut swap = Batch::new();
    swap.put(&key("a/y"), &[0; 90]).unwrap();
    swap.delete(&key("a/x")).unwrap();
    store.batch(&swap).unwrap();
    let mut more = Batch::new();
    more.put(&key("a/x"), &[0; 40]).unwrap();
    more.put(&key("a/y"), &[0; 41]).unwrap();
    let refused = store.batch(&more);
    assert!(matches!(refused, Err(Error::QuotaExceeded { used: 100, requested: 101, .. })), "{refused:?}");
    assert_eq!(store.get(&key("a/x")), None);
    assert_eq!(used(&store), [(100, 1)]);
}

#[test]
fn quotas_in_each_other_all_apply_and_the_root_can_have_one() {
    let (_, mut store) = store();
    store.set_quota(&prefix("/state/a/b"), hard(30)).unwrap();
    store.set_quota(&prefix("/state/a"), hard(42)).unwrap();
    store.set_quota(&Prefix::root(), hard(52)).unwrap();
    store.put(&key("a/b"), &[0; 20]).unwrap();
    let over = |outcome: Result<_, Error>| match outcome {
        Err(Error::QuotaExceeded { prefix, .. }) => prefix.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(over(store.put(&key("a/b/c"), b"")), "/state/a/b");
    assert_eq!(over(store.put(&key("a/c"), &[0; 3])), "/state/a");
    store.put(&key("a/c"), &[0; 2]).unwrap();
    assert_eq!(over(store.put(&key("d"), &[0; 3])), "/state");
    store.put(&key("d"), &[0; 2]).unwrap();
    assert_eq!(used(&store), [(52, 3), (42, 2), (30, 1)]);
}

#[test]
fn a_limit_below_what_is_there_lets_things_only_shrink() {
    let (_, mut store) = store();
    store.put(&key("a/x"), &[0; 90]).unwrap();
    store.put(&key("a/y"), &[0; 90]).unwrap();
    store.set_quota(&prefix("/state/a"), hard(50)).unwrap();
    assert!(matches!(store.put(&key("a/z"), b""), Err(Error::QuotaExceeded { limit: 50, used: 200, .. })));
    assert!(store.put(&key("a/x"), &[0; 91]).is_err());
    store.put(&key("a/x"), &[0; 80]).unwrap();
    store.delete_buffered(&key("a/y")).unwrap();
    assert_eq!(used(&store), [(90, 1)]);
    store.delete(&key("a/x")).unwrap();
    store.put(&key("a/x"), &[0; 40]).unwrap();
    assert_eq!(used(&store), [(50, 1)]);
}

#[test]
fn keys_are_limited_at_the_key() {
    let (_, mut store) = store();
    store.set_quota(&prefix("/state/a"), Quota { keys: Some(2), ..Quota::default() }).unwrap();
    store.put(&key("a/x"), b"").unwrap();
    store.put(&key("a/y"), b"").unwrap();
    let refused = store.put(&key("a/z"), b"");
    assert!(
        matches!(refused, Err(Error::QuotaKeysExceeded { limit: 2, used: 2, requested: 3, .. })),
        "{refused:?}"
    );
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
    store.put(&key("a/y"), &[0; 1000]).unwrap();
    store.put(&key("b/z"), b"").unwrap();
}

#[test]
fn quotas_and_their_use_are_there_again_after_an_open_and_a_compaction() {
    let (disk, mut store) = store();
    let quota = Quota { soft: Some(50), hard: Some(100), keys: Some(3) };
    store.set_quota(&prefix("/state/a"), quota).unwrap();
    store.set_quota(&prefix("/state/b"), hard(7)).unwrap();
    store.put(&key("a/x"), &[0; 20]).unwrap();
    assert!(store.remove_quota(&prefix("/state/b")).unwrap().is_some());
    assert_eq!(store.remove_quota(&prefix("/state/b")).unwrap(), None);
    for compacts in [false, true] {
        while compacts && store.compact_step().unwrap() != statefs::Compaction::Finished {}
        store.sync().unwrap();
        let recovery;
        (store, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
        assert_eq!(recovery.live_keys, 1, "a quota is no key");
        let wanted = QuotaUse { prefix: prefix("/state/a"), quota, used_bytes: 30, used_keys: 1 };
        assert_eq!(store.quotas().collect::<Vec<_>>(), [wanted]);
        assert!(store.put(&key("a/y"), &[0; 61]).is_err());
        assert_eq!(store.list(&Prefix::root(), None, 9).unwrap().entries.len(), 1);
        assert_eq!(store.iter().count(), 1);
    }
}

#[test]
fn how_many_quotas_and_how_long_a_prefix_is_bounded() {
    let (_, mut store) = store();
    for number in 0..QUOTAS_MAX {
        store.set_quota(&prefix(&format!("/state/{number}")), hard(1)).unwrap();
    }
    let one_more = store.set_quota(&prefix("/state/more"), hard(1));
    assert!(matches!(one_more, Err(Error::TooManyQuotas { limit: QUOTAS_MAX })), "{one_more:?}");
    store.set_quota(&prefix("/state/0"), hard(2)).unwrap();
    store.remove_quota(&prefix("/state/0")).unwrap();
    let longest = KEY_LEN_MAX - "/quota".len();
    let of = |len: usize| prefix(&format!("/state/{}", "k".repeat(len - "/state/".len())));
    let refused = store.set_quota(&of(longest + 1), hard(1));
    assert!(matches!(refused, Err(Error::PrefixTooLong { limit: 249, requested: 250 })), "{refused:?}");
    store.set_quota(&of(longest), hard(1)).unwrap();
    let crossed = Quota { soft: Some(2), hard: Some(1), keys: None };
    assert!(matches!(store.set_quota(&Prefix::root(), crossed), Err(Error::QuotaOrder)));
}

#[test]
fn a_soft_limit_warns_once_for_a_crossing_and_a_window() {
    let (_, mut store) = store();
    let minute = |minutes: u64| Duration::from_secs(60 * minutes);
    store.tick(minute(0)).unwrap();
    store.set_quota(&prefix("/state/a"), soft(100)).unwrap();
    store.put(&key("a/x"), &[0; 90]).unwrap();
    assert_eq!(store.take_warnings(), [], "at the limit it is not over");
    store.put(&key("a/x"), &[0; 91]).unwrap();
    store.put(&key("a/x"), &[0; 92]).unwrap();
    let warning = |used| Warning { prefix: prefix("/state/a"), limit: 100, used };
    assert_eq!(store.take_warnings(), [warning(101)]);
    assert_eq!(store.take_warnings(), []);
    store.put(&key("a/x"), &[0; 93]).unwrap();
    store.tick(QUOTA_WINDOW - Duration::from_millis(1)).unwrap();
    assert_eq!(store.take_warnings(), [], "the window has not passed");
    store.tick(QUOTA_WINDOW).unwrap();
    store.tick(QUOTA_WINDOW).unwrap();
    assert_eq!(store.take_warnings(), [warning(103)]);
    store.put(&key("a/x"), &[0; 90]).unwrap();
    store.put_buffered(&key("a/x"), &[0; 99]).unwrap();
    assert_eq!(store.take_warnings(), [warning(109)], "it was below, and crossed the limit again");
    store.delete(&key("a/x")).unwrap();
    store.tick(minute(9)).unwrap();
    assert_eq!(store.take_warnings(), []);
}

#[test]
fn warnings_that_nobody_takes_are_one_for_each_quota() {
    let (disk, mut store) = store();
    for name in ["/state/a", "/state/b"] {
        store.set_quota(&prefix(name), soft(10)).unwrap();
    }
    for round in 0..1000 {
        store.put_buffered(&key("a/x"), &[0; 1]).unwrap();
        store.delete_buffered(&key("a/x")).unwrap();
        store.tick(QUOTA_WINDOW * round).unwrap();
    }
    store.put(&key("b/x"), &[0; 1]).unwrap();
    let prefixes: Vec<_> =
        store.take_warnings().into_iter().map(|warning| warning.prefix.to_string()).collect();
    assert_eq!(prefixes, ["/state/a", "/state/b"]);
    let (mut store, _) = Store::open(disk, Access::Write).unwrap();
    assert_eq!(store.take_warnings().len(), 1, "what is over its limit at an open is said once");
}

/// A device that refuses writes and flushes while it is broken.
#[derive(Debug, Clone)]
struct BreakingDisk {
    disk: MemDisk,
    is_broken: Rc<Cell<bool>>,
}

impl BreakingDisk {
    fn step(&self) -> Result<(), DeviceError> {
        match self.is_broken.get() {
            true => Err(DeviceError::FlushFailed { cause: std::io::Error::from_raw_os_error(5).into() }),
            false => Ok(()),
        }
    }
}

impl BlockDevice for BreakingDisk {
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

/// A store on a device that can break, with a quota on `/state/a`.
fn breaking(quota: Quota) -> (BreakingDisk, Store<BreakingDisk>) {
    let disk = MemDisk::new(Geometry::new(4096, 256).unwrap()).unwrap();
    let disk = BreakingDisk { disk, is_broken: Rc::default() };
    let mut store = Store::format(disk.clone(), &Options::new(StoreId(*b"a store of tests"))).unwrap();
    store.set_quota(&prefix("/state/a"), quota).unwrap();
    (disk, store)
}

/// What a quota of `/state/a` must say: a recount of what readers see.
fn recount(store: &Store<BreakingDisk>) -> (u64, u64) {
    let covered = store.iter().filter(|(key, _)| prefix("/state/a").covers(key));
    covered.fold((0, 0), |(bytes, keys), (key, value)| {
        (bytes + u64::try_from(key.as_str().len() + value.bytes.len()).unwrap(), keys + 1)
    })
}

#[test]
fn store_f6_after_a_poison_the_use_is_a_recount_of_what_readers_see() {
    let mut batch = Batch::new();
    batch.put(&key("a/x"), &[0; 90]).unwrap();
    batch.delete(&key("a/y")).unwrap();
    batch.put(&key("a/z"), b"").unwrap();
    type Write<'w> = dyn Fn(&mut Store<BreakingDisk>) -> Result<(), Error> + 'w;
    let writes: [&Write<'_>; 6] = [
        &|store| store.put(&key("a/x"), &[0; 20]).map(drop),
        &|store| store.delete(&key("a/y")).map(drop),
        &|store| store.batch(&batch).map(drop),
        &|store| store.put_buffered(&key("a/b"), &[0; 20]).and_then(|_| store.sync()).map(drop),
        &|store| store.put_buffered(&key("a/b"), b"").and_then(|_| store.put(&key("a/c"), b"")).map(drop),
        &|store| {
            store.put_buffered(&key("a/b"), b"")?;
            store.compact_step()?;
            store.compact_step().map(drop)
        },
    ];
    for (nth, write) in writes.into_iter().enumerate() {
        let (disk, mut store) = breaking(hard(1000));
        store.put(&key("a/x"), &[0; 10]).unwrap();
        store.put(&key("a/y"), &[0; 10]).unwrap();
        disk.is_broken.set(true);
        let error = write(&mut store).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{nth}: {error}");
        let quota = store.quotas().next().unwrap();
        assert_eq!((quota.used_bytes, quota.used_keys), recount(&store), "{nth}");
    }
}

#[test]
fn store_f6_a_write_that_failed_does_not_warn() {
    let (disk, mut store) = breaking(soft(50));
    store.put(&key("a/x"), &[0; 30]).unwrap();
    disk.is_broken.set(true);
    assert_eq!(store.put(&key("a/y"), &[0; 30]).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(store.take_warnings(), [], "readers see 40 bytes, and 50 are allowed");
    // One that holds without the write that failed says what readers see.
    let (disk, mut store) = breaking(soft(20));
    store.put(&key("a/x"), &[0; 30]).unwrap();
    disk.is_broken.set(true);
    assert!(store.put(&key("a/y"), &[0; 30]).is_err());
    assert_eq!(store.take_warnings(), [Warning { prefix: prefix("/state/a"), limit: 20, used: 40 }]);
}
