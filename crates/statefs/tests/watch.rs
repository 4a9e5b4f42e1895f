//! What watchers are told: durable changes, in order, and honestly no more than what is known.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use media::{Geometry, MemDisk};
use statefs::{
    Access, Batch, CHANGES_LEN_MAX, CHANGES_MAX, ChangeKind, Changes, Compaction, Key, Options, Prefix,
    Quota, Revision, Store, StoreId,
};

fn store() -> (MemDisk, Store<MemDisk>) {
    let disk = MemDisk::new(Geometry::new(4096, 2048).unwrap()).unwrap();
    let store = Store::format(disk.clone(), &Options::new(StoreId(*b"a store of tests"))).unwrap();
    (disk, store)
}

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn events(changes: Changes) -> (Vec<(String, ChangeKind, Revision)>, Revision) {
    match changes {
        Changes::Events { events, next } => {
            let events = events.into_iter().map(|event| {
                (event.key.as_str().trim_start_matches("/state/").to_owned(), event.kind, event.revision)
            });
            (events.collect(), next)
        }
        Changes::FellBehind { oldest } => panic!("fell behind {oldest}"),
    }
}

fn names(store: &Store<MemDisk>, prefix: &str, since: Revision, max: usize) -> (Vec<String>, Revision) {
    let (events, next) = events(store.changes(&Prefix::parse(prefix).unwrap(), since, max).unwrap());
    (events.into_iter().map(|(name, ..)| name).collect(), next)
}

#[test]
fn changes_come_in_order_by_prefix_and_page_by_page() {
    let (_, mut store) = store();
    let start = store.durable_revision();
    let first = store.put(&key("a/x"), b"1").unwrap();
    let second = store.put(&key("b"), b"1").unwrap();
    let third = store.delete(&key("a/x")).unwrap().unwrap();
    let fourth = store.put(&key("ab"), b"1").unwrap();
    let (all, next) = events(store.changes(&Prefix::root(), start, 9).unwrap());
    let wanted = [("a/x", ChangeKind::Put, first), ("b", ChangeKind::Put, second)]
        .into_iter()
        .chain([("a/x", ChangeKind::Delete, third), ("ab", ChangeKind::Put, fourth)]);
    assert!(all.iter().map(|(name, kind, revision)| (name.as_str(), *kind, *revision)).eq(wanted));
    assert_eq!(next, fourth);
    assert_eq!(names(&store, "/state/a", start, 9), (vec!["a/x".into(), "a/x".into()], fourth));
    assert_eq!(names(&store, "/state/a", start, 1), (vec!["a/x".into()], first));
    assert_eq!(names(&store, "/state/a", first, 1), (vec!["a/x".into()], third));
    assert_eq!(names(&store, "/state/a", third, 1), (vec![], fourth));
    assert_eq!(names(&store, "/state", fourth, 1), (vec![], fourth));
}

#[test]
fn a_batch_comes_together_whatever_was_asked_for() {
    let (_, mut store) = store();
    let start = store.durable_revision();
    let before = store.put(&key("before"), b"").unwrap();
    let mut batch = Batch::new();
    for name in ["a", "b", "c"] {
        batch.put(&key(name), b"").unwrap();
    }
    let all = store.batch(&batch).unwrap();
    assert_eq!(names(&store, "/state", start, 2), (vec!["before".into()], before));
    let whole: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    assert_eq!(names(&store, "/state", before, 1), (whole.clone(), all));
    assert_eq!(names(&store, "/state", before, 0), (whole, all), "there is always a way on");
    assert_eq!(names(&store, "/state/b", start, 9), (vec!["b".into()], all));
}

#[test]
fn what_is_buffered_is_told_when_it_is_durable_and_not_before() {
    let (_, mut store) = store();
    let start = store.put(&key("a"), b"").unwrap();
    store.put_buffered(&key("b"), b"").unwrap();
    assert_eq!(names(&store, "/state", start, 9), (vec![], start));
    // Written, and not flushed.
    assert_eq!(store.compact_step().unwrap(), Compaction::Running);
    assert_eq!(names(&store, "/state", start, 9), (vec![], start));
    store.delete_buffered(&key("a")).unwrap();
    let end = store.sync().unwrap();
    assert_eq!(names(&store, "/state", start, 9), (vec!["b".into(), "a".into()], end));
    store.put_buffered(&key("c"), b"").unwrap();
    let last = store.put(&key("d"), b"").unwrap();
    assert_eq!(names(&store, "/state", end, 9), (vec!["c".into(), "d".into()], last));
}

#[test]
fn what_the_store_keeps_for_itself_is_no_change() {
    let (_, mut store) = store();
    let start = store.durable_revision();
    let quota = store.set_quota(&Prefix::root(), Quota::default()).unwrap();
    assert_eq!(names(&store, "/state", start, 9), (vec![], quota));
}

#[test]
fn nothing_is_known_of_before_the_open() {
    let (disk, mut store) = store();
    let first = store.put(&key("a"), b"").unwrap();
    let second = store.put(&key("b"), b"").unwrap();
    drop(store);
    let (mut store, _) = Store::open(disk, Access::Write).unwrap();
    assert_eq!(store.changes(&Prefix::root(), first, 9).unwrap(), Changes::FellBehind { oldest: second });
    let third = store.put(&key("c"), b"").unwrap();
    assert_eq!(store.changes(&Prefix::root(), first, 9).unwrap(), Changes::FellBehind { oldest: second });
    assert_eq!(names(&store, "/state", second, 9), (vec!["c".into()], third));
}

#[test]
fn the_ring_is_bounded_in_changes() {
    let (_, mut store) = store();
    let first = store.put(&key("first"), b"").unwrap();
    let second = store.put(&key("second"), b"").unwrap();
    for _ in 0..CHANGES_MAX - 2 {
        store.put_buffered(&key("x"), b"").unwrap();
    }
    store.sync().unwrap();
    let start = Revision::from_u64(0);
    assert_eq!(names(&store, "/state", start, 1), (vec!["first".into()], first));
    let since = Revision::from_u64(first.get() - 1);
    assert_eq!(names(&store, "/state", first, 1), (vec!["second".into()], second));
    store.put(&key("x"), b"").unwrap();
    assert_eq!(names(&store, "/state", first, 1), (vec!["second".into()], second));
    assert_eq!(store.changes(&Prefix::root(), since, 9).unwrap(), Changes::FellBehind { oldest: first });
    store.put(&key("x"), b"").unwrap();
    assert_eq!(store.changes(&Prefix::root(), first, 9).unwrap(), Changes::FellBehind { oldest: second });
}

#[test]
fn the_ring_is_bounded_in_bytes_and_forgets_batches_as_a_whole() {
    let (_, mut store) = store();
    let long = |number: usize| key(&format!("{number:0>248}"));
    assert_eq!(long(0).as_str().len(), 255);
    let mut batch = Batch::new();
    for number in 0..10 {
        batch.put(&long(number), b"").unwrap();
    }
    let batch = store.batch(&batch).unwrap();
    let fit = CHANGES_LEN_MAX / 255;
    for number in 10..fit {
        store.put_buffered(&long(number), b"").unwrap();
    }
    store.sync().unwrap();
    let since = Revision::from_u64(batch.get() - 10);
    assert_eq!(names(&store, "/state", since, 1).0.len(), 10);
    store.put(&long(fit), b"").unwrap();
    let fell = Changes::FellBehind { oldest: batch };
    assert_eq!(store.changes(&Prefix::root(), Revision::from_u64(batch.get() - 1), 1).unwrap(), fell);
    assert_eq!(names(&store, "/state", batch, 1).0.len(), 1);
}

#[test]
fn who_waits_while_much_is_buffered_is_not_sent_round_in_circles() {
    let (_, mut store) = store();
    let start = store.put(&key("a"), b"").unwrap();
    for _ in 0..2 * CHANGES_MAX {
        store.put_buffered(&key("x"), b"").unwrap();
    }
    let durable = store.durable_revision();
    assert_eq!(names(&store, "/state", durable, 9), (vec![], durable));
    store.sync().unwrap();
    assert!(matches!(store.changes(&Prefix::root(), start, 9).unwrap(), Changes::FellBehind { .. }));
}

#[test]
fn a_reader_beside_a_writer_is_told_of_every_write_and_of_nothing_else() {
    let disk = MemDisk::new(Geometry::new(512, 64).unwrap()).unwrap();
    let options = Options::new(StoreId(*b"a store of tests"));
    let mut writer = Store::format(disk.clone(), &options).unwrap();
    let read = || Store::open(disk.clone(), Access::Read).unwrap().0;
    let mut switches = 0;
    for nth in 0..100 {
        let reader = read();
        assert!(!reader.has_moved_on().unwrap(), "{nth}");
        // Fills region after region, so that switches are among them.
        writer.put(&key("a"), &[nth; 300]).unwrap();
        assert!(reader.has_moved_on().unwrap(), "{nth}");
        switches = writer.stats().journal.switches;
    }
    assert!(switches > 2, "{switches}");
    let reader = read();
    writer.close().unwrap();
    assert!(reader.has_moved_on().unwrap(), "a seal");
    // A switch alone: nothing is written behind the end of the old region, and all that follows goes into the new one.
    let reader = read();
    assert!(!reader.has_moved_on().unwrap());
    let (mut writer, _) = Store::open(disk.clone(), Access::Write).unwrap();
    assert!(!reader.has_moved_on().unwrap(), "it had been closed, so an open writes nothing");
    while writer.compact_step().unwrap() == Compaction::Running {}
    assert!(reader.has_moved_on().unwrap(), "a switch");
    let reader = read();
    assert!(!reader.has_moved_on().unwrap());
    let other = Options::new(StoreId(*b"another of tests"));
    drop(Store::format(disk.clone(), &other).unwrap());
    assert!(reader.has_moved_on().unwrap(), "another store");
}
