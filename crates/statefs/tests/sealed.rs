//! Sealed prefixes: who has the key reads what was put, and nobody else reads or makes up anything.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use journal::Journal;
use media::{BlockDevice as _, BlockIndex, Geometry, MemDisk, SystemClock, SystemEntropy};
use statefs::{
    Access, Batch, Compaction, Error, ErrorKind, Form, KEY_LEN_MAX, Key, Limits, NoRandom, Nonces, Options,
    Precondition, Prefix, QUOTAS_MAX, Rotation, SEALED_OVERHEAD, SEALED_PREFIXES_MAX, SNAPSHOTS_MAX,
    Salvaged, Scrub, SealKey, SharedStore, SnapshotName, Store, StoreId, Suspects, VALUE_LEN_MAX, Zeroizing,
    salvage,
};

const SECRET: &[u8] = b"THE SECRET OF SECRETS";

/// Numbers its nonces, remembers that it did, and never says the same twice, as the system would not.
#[derive(Clone, Default)]
struct CountingNonces(Arc<Mutex<u64>>);

impl Nonces for CountingNonces {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        bytes.fill(0);
        bytes[..8].copy_from_slice(&count.to_le_bytes());
        Ok(())
    }
}

struct NoNonces;

impl Nonces for NoNonces {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), NoRandom> {
        Err(NoRandom)
    }
}

fn disk() -> MemDisk {
    MemDisk::new(Geometry::new(4096, 256).unwrap()).unwrap()
}

fn options() -> Options {
    Options::new(StoreId(*b"a store of tests"))
}

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn prefix(name: &str) -> Prefix {
    Prefix::parse(&format!("/state/{name}")).unwrap()
}

fn seal_key(id: u32) -> SealKey {
    SealKey::new(id, Zeroizing::new([u8::try_from(id).unwrap(); 32]))
}

fn reopen(disk: &MemDisk, nonces: &CountingNonces) -> Store<MemDisk> {
    let (mut store, _) = Store::open(disk.clone(), Access::Write).unwrap();
    store.set_nonces(Box::new(nonces.clone()));
    store
}

/// A store with `/state/s` sealed under key 1.
fn sealed() -> (MemDisk, CountingNonces, Store<MemDisk>) {
    let (disk, nonces) = (disk(), CountingNonces::default());
    drop(Store::format(disk.clone(), &options()).unwrap());
    let mut store = reopen(&disk, &nonces);
    store.seal_prefix(&prefix("s"), seal_key(1)).unwrap();
    (disk, nonces, store)
}

fn reveal(store: &Store<MemDisk>, name: &str) -> Vec<u8> {
    store.reveal(&key(name)).unwrap().unwrap().to_vec()
}

fn has(disk: &MemDisk, needle: &[u8]) -> bool {
    disk.image().unwrap().windows(needle.len()).any(|window| window == needle)
}

fn kind<T>(outcome: Result<T, Error>) -> ErrorKind {
    match outcome {
        Ok(_) => panic!("it was done"),
        Err(error) => error.kind(),
    }
}

#[test]
fn every_way_of_writing_seals_and_no_plain_byte_is_ever_on_the_medium() {
    let (disk, nonces, mut store) = sealed();
    store.put(&key("s/put"), SECRET).unwrap();
    store.put_buffered(&key("s/buffered"), SECRET).unwrap();
    store.compare_and_swap(&key("s/swapped"), Precondition::Absent, SECRET).unwrap();
    let mut batch = Batch::new();
    batch.put(&key("s/batch"), SECRET).unwrap();
    batch.put(&key("plain"), b"a value for all to read").unwrap();
    batch.delete(&key("s/none")).unwrap();
    store.batch(&batch).unwrap();
    store.put(&key("s"), SECRET).unwrap();
    store.put_buffered(&key("s/pending"), SECRET).unwrap();
    let names = ["s", "s/batch", "s/buffered", "s/pending", "s/put", "s/swapped"];
    let check = |store: &Store<MemDisk>| {
        for name in names {
            let value = store.get(&key(name)).unwrap();
            assert_eq!(value.form, Form::Sealed, "{name}");
            assert_eq!(value.bytes.len(), SECRET.len() + usize::try_from(SEALED_OVERHEAD).unwrap());
            assert_eq!(reveal(store, name), SECRET, "{name}");
            assert!(!format!("{value:?}").contains("84, 72, 69, 32, 83"), "{value:?}");
        }
        assert_eq!(store.get(&key("plain")).unwrap().form, Form::Plain);
        assert!(matches!(store.reveal(&key("plain")), Err(Error::NotSealed)), "`get` is for plain values");
        assert_eq!(store.reveal(&key("s/none")).unwrap(), None);
        assert!(!has(&disk, SECRET));
    };
    check(&store);
    store.sync().unwrap();
    check(&store);
    while store.compact_step().unwrap() != Compaction::Finished {}
    check(&store);
    drop(store);
    let mut store = reopen(&disk, &nonces);
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
    check(&store);
    store.rotate(&prefix("s"), seal_key(2)).unwrap();
    check(&store);
    assert!(has(&disk, b"a value for all to read"), "the search finds what is there");
    assert!(!format!("{batch:?}").contains("84, 72, 69"), "{batch:?}");
}

#[test]
fn without_the_key_nothing_is_written_and_nothing_is_read() {
    let (disk, nonces, mut store) = sealed();
    store.put(&key("s/a"), SECRET).unwrap();
    store.put(&key("b"), b"plain").unwrap();
    drop(store);
    let mut store = reopen(&disk, &nonces);
    let (before, stats) = (disk.image().unwrap(), store.stats());
    let mut batch = Batch::new();
    batch.put(&key("b"), b"plain").unwrap();
    batch.put(&key("s/b"), SECRET).unwrap();
    let outcomes = [
        store.put(&key("s/a"), SECRET),
        store.put_buffered(&key("s/b"), SECRET),
        store.compare_and_swap(&key("s/c"), Precondition::Absent, SECRET),
        store.batch(&batch),
        store.reveal(&key("s/a")).map(|_| panic!("it was revealed")),
    ];
    for outcome in outcomes {
        assert!(
            matches!(&outcome, Err(Error::Locked { prefix: of, key_id: 1 }) if *of == prefix("s")),
            "{outcome:?}"
        );
        assert_eq!(kind(outcome), ErrorKind::Locked);
    }
    assert_eq!(store.stats(), stats);
    assert!(disk.image().unwrap() == before);
    assert_eq!(store.sealed_prefixes().collect::<Vec<_>>(), [(&prefix("s"), 1)]);
    assert_eq!(store.get(&key("b")).unwrap().bytes, b"plain");
    let (mut reader, _) = Store::open(disk, Access::Read).unwrap();
    assert_eq!(kind(reader.put(&key("s/a"), SECRET)), ErrorKind::ReadOnly);
    reader.unlock(&prefix("s"), seal_key(1)).unwrap();
    assert_eq!(reveal(&reader, "s/a"), SECRET);
    store.delete(&key("s/a")).unwrap();
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
    store.put(&key("s/a"), SECRET).unwrap();
    store.lock(&prefix("s")).unwrap();
    assert_eq!(kind(store.put(&key("s/a"), SECRET)), ErrorKind::Locked);
}

#[test]
fn a_wrong_key_is_noticed_at_once() {
    let (disk, nonces, store) = sealed();
    drop(store);
    let mut store = reopen(&disk, &nonces);
    for wrong in [SealKey::new(1, Zeroizing::new([9; 32])), SealKey::new(2, Zeroizing::new([1; 32]))] {
        let outcome = store.unlock(&prefix("s"), wrong);
        assert!(matches!(outcome, Err(Error::WrongKey { .. })), "{outcome:?}");
        assert_eq!(kind(outcome), ErrorKind::Locked);
    }
    assert!(matches!(store.unlock(&prefix("s/a"), seal_key(1)), Err(Error::NotSealed)));
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
}

/// Writes commits of bytes as they are, past the store: what someone does who can write to the device.
fn forge(disk: &MemDisk, bodies: &[Vec<u8>]) {
    let mut journal =
        Journal::open::<journal::JournalError>(disk.clone(), Access::Write, &mut |_| Ok(())).unwrap().journal;
    for body in bodies {
        let _durable = journal.commit(body).unwrap();
    }
}

/// A put of that kind: 1 plain, 129 sealed.
fn put_record(kind: u8, key: &Key, value: &[u8]) -> Vec<u8> {
    let key = key.as_str().as_bytes();
    let len = u32::try_from(value.len()).unwrap().to_le_bytes();
    [&[kind, u8::try_from(key.len()).unwrap()], len.as_slice(), key, value].concat()
}

#[test]
fn what_was_moved_flipped_or_made_up_does_not_authenticate() {
    let (disk, nonces, mut store) = sealed();
    store.put(&key("s/a"), SECRET).unwrap();
    store.put(&key("s/b"), SECRET).unwrap();
    let sealed = store.get(&key("s/a")).unwrap().bytes.to_vec();
    store.put(&key("s/old"), SECRET).unwrap();
    drop(store);
    let mut flipped = sealed.clone();
    flipped[40] ^= 1;
    let mut other_key = sealed.clone();
    other_key[1] = 2;
    forge(
        &disk,
        &[
            put_record(129, &key("s/moved"), &sealed),
            put_record(129, &key("s/b"), &sealed),
            put_record(129, &key("s/flipped"), &flipped),
            put_record(129, &key("s/other"), &other_key),
            put_record(129, &key("s/short"), &sealed[..44]),
            put_record(129, &key("s/empty"), b""),
            put_record(1, &key("s/plain"), b"made up"),
            put_record(129, &key("outside"), &sealed),
        ],
    );
    let mut store = reopen(&disk, &nonces);
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
    for name in ["s/moved", "s/b", "s/flipped", "s/other", "s/short", "s/empty", "s/plain"] {
        let outcome = store.reveal(&key(name));
        assert!(
            matches!(&outcome, Err(Error::NotAuthentic { key: of }) if *of == key(name)),
            "{name} {outcome:?}"
        );
        assert_eq!(kind(outcome), ErrorKind::Corrupt);
    }
    assert!(matches!(store.reveal(&key("outside")), Err(Error::NotSealed)));
    assert_eq!(reveal(&store, "s/a"), SECRET);
    assert_eq!(reveal(&store, "s/old"), SECRET);
    // A rotation does not pass on what it cannot read.
    let outcome = store.rotate(&prefix("s"), seal_key(2));
    assert!(matches!(outcome, Err(Error::NotAuthentic { .. })), "{outcome:?}");
    for name in ["s/moved", "s/b", "s/flipped", "s/short"] {
        store.delete(&key(name)).unwrap();
    }
    store.rotate(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(reveal(&store, "s/a"), SECRET);
}

#[test]
fn a_bad_setting_is_refused_by_name() {
    for name in ["/sealed/state/s", "/quota/state/s", "/quota/elsewhere"] {
        let (disk, _, store) = sealed();
        drop(store);
        let key = name.as_bytes();
        let head = [1, u8::try_from(key.len()).unwrap(), 1, 0, 0, 0];
        forge(&disk, &[[&head, key, b"\x09"].concat()]);
        let outcome = Store::open(disk, Access::Read).map(drop);
        assert!(matches!(&outcome, Err(Error::BadSetting { key }) if **key == *name), "{outcome:?}");
        assert_eq!(kind(outcome), ErrorKind::Corrupt);
    }
}

#[test]
fn no_nonce_is_ever_used_twice_across_deletes_opens_compactions_and_rotations() {
    let (disk, nonces, mut store) = sealed();
    let mut seen = BTreeSet::new();
    let mut note = |store: &Store<MemDisk>| {
        let sealed = store.get(&key("s/a")).unwrap().bytes.to_vec();
        assert!(seen.insert(sealed[5..29].to_vec()), "{sealed:?}");
    };
    for life in 0..6_u32 {
        store.put(&key("s/a"), SECRET).unwrap();
        note(&store);
        store.put(&key("s/a"), SECRET).unwrap();
        note(&store);
        store.delete(&key("s/a")).unwrap();
        store.put_buffered(&key("s/a"), SECRET).unwrap();
        note(&store);
        if life % 2 == 0 {
            while store.compact_step().unwrap() != Compaction::Finished {}
        }
        if life == 3 {
            store.rotate(&prefix("s"), seal_key(2)).unwrap();
            note(&store);
        }
        drop(store);
        store = reopen(&disk, &nonces);
        store.unlock(&prefix("s"), seal_key(if life < 3 { 1 } else { 2 })).unwrap();
    }
    assert_eq!(seen.len(), 6 * 3 + 1);
    // And those of the system are as different as they are long.
    store.set_nonces(Box::new(Arc::new(SystemEntropy)));
    let mut nonce = || {
        store.put(&key("s/a"), SECRET).unwrap();
        store.get(&key("s/a")).unwrap().bytes[5..29].to_vec()
    };
    assert_ne!(nonce(), nonce());
}

#[test]
fn without_random_bytes_nothing_is_sealed() {
    let (disk, _, store) = sealed();
    drop(store);
    let mut locked = Store::open(disk.clone(), Access::Write).unwrap().0;
    assert_eq!(kind(locked.put(&key("s/a"), SECRET)), ErrorKind::Locked, "that comes first");
    let (mut store, _) = Store::open(disk.clone(), Access::Write).unwrap();
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
    let before = disk.image().unwrap();
    for source in [None, Some(NoNonces)] {
        if let Some(source) = source {
            store.set_nonces(Box::new(source));
        }
        assert!(matches!(store.put(&key("s/a"), SECRET), Err(Error::NoRandom)));
        assert!(matches!(store.seal_prefix(&prefix("t"), seal_key(1)), Err(Error::NoRandom)));
        assert!(matches!(store.rotate(&prefix("s"), seal_key(2)), Err(Error::NoRandom)));
    }
    assert!(disk.image().unwrap() == before);
    assert_eq!(Error::NoRandom.kind(), ErrorKind::Io);
}

#[test]
fn a_sealed_value_may_be_forty_five_bytes_shorter() {
    let (_, _, mut store) = sealed();
    let longest = usize::try_from(VALUE_LEN_MAX - SEALED_OVERHEAD).unwrap();
    assert_eq!(longest, 65_491);
    store.put(&key("s/a"), &vec![1; longest]).unwrap();
    assert_eq!(reveal(&store, "s/a").len(), longest);
    let mut batch = Batch::new();
    batch.put(&key("s/a"), &vec![1; longest + 1]).unwrap();
    for outcome in [
        store.put(&key("s/a"), &vec![1; longest + 1]),
        store.put_buffered(&key("s/a"), &vec![1; longest + 1]),
        store.batch(&batch),
    ] {
        let is_it = matches!(outcome, Err(Error::ValueTooLong { limit: 65_491, requested: 65_492 }));
        assert!(is_it, "{outcome:?}");
    }
    store.put(&key("b"), &vec![1; longest + 45]).unwrap();
}

#[test]
fn a_batch_that_is_too_long_when_it_is_sealed_is_refused() {
    let disk = MemDisk::new(Geometry::new(512, 256).unwrap()).unwrap();
    let journal = journal::Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    let mut store = Store::format(disk, &Options { journal, ..options() }).unwrap();
    store.set_nonces(Box::new(CountingNonces::default()));
    store.seal_prefix(&prefix("s"), seal_key(1)).unwrap();
    let of = |len: usize| {
        let mut batch = Batch::new();
        for name in ["s/a", "s/b", "s/c"] {
            batch.put(&key(name), &vec![1; len]).unwrap();
        }
        batch
    };
    // Three records of 6 + 10 bytes and the value, sealed 45 bytes more, in 928 bytes.
    store.batch(&of(248)).unwrap();
    let outcome = store.batch(&of(249));
    assert!(matches!(outcome, Err(Error::BatchTooLong { limit: 928, requested: 930 })), "{outcome:?}");
}

#[test]
fn what_may_be_sealed_is_bounded_and_does_not_overlap() {
    let (_, _, mut store) = sealed();
    for name in ["/state/s", "/state/s/a", "/state"] {
        let outcome = store.seal_prefix(&Prefix::parse(name).unwrap(), seal_key(1));
        assert!(matches!(outcome, Err(Error::SealedAlready)), "{outcome:?}");
    }
    store.put(&key("t/a"), b"plain").unwrap();
    assert!(matches!(store.seal_prefix(&prefix("t"), seal_key(1)), Err(Error::PrefixInUse)));
    store.put(&key("u-v"), b"between u and what lies below it").unwrap();
    store.put(&key("u/v"), b"plain").unwrap();
    assert!(matches!(store.seal_prefix(&prefix("u"), seal_key(1)), Err(Error::PrefixInUse)));
    store.delete(&key("u/v")).unwrap();
    store.seal_prefix(&prefix("u"), seal_key(1)).unwrap();
    store.put(&key("s/a"), b"sealed").unwrap();
    assert!(matches!(store.unseal_prefix(&prefix("s")), Err(Error::PrefixInUse)));
    store.delete(&key("s/a")).unwrap();
    store.unseal_prefix(&prefix("s")).unwrap();
    assert!(matches!(store.unseal_prefix(&prefix("s")), Err(Error::NotSealed)));
    store.put(&key("s/a"), b"plain").unwrap();
    assert_eq!(store.get(&key("s/a")).unwrap().form, Form::Plain);
    for number in 1..SEALED_PREFIXES_MAX {
        store.seal_prefix(&prefix(&format!("many/{number}")), seal_key(1)).unwrap();
    }
    let one_more = store.seal_prefix(&prefix("more"), seal_key(1));
    assert!(matches!(one_more, Err(Error::TooManySealed { limit: SEALED_PREFIXES_MAX })), "{one_more:?}");
    store.unseal_prefix(&prefix("u")).unwrap();
    let longest = KEY_LEN_MAX - "/sealed".len();
    let of = |len: usize| prefix(&"k".repeat(len - "/state/".len()));
    let refused = store.seal_prefix(&of(longest + 1), seal_key(1));
    assert!(matches!(refused, Err(Error::PrefixTooLong { limit: 248, requested: 249 })), "{refused:?}");
    store.seal_prefix(&of(longest), seal_key(1)).unwrap();
}

#[test]
fn a_rotation_goes_on_after_an_open_and_both_keys_read_meanwhile() {
    let (disk, nonces, mut store) = sealed();
    let name = |number: u32| format!("s/{number}");
    for number in 0..100 {
        store.put_buffered(&key(&name(number)), &[7; 3000]).unwrap();
    }
    store.begin_rotation(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(store.rotate_step(&prefix("s")).unwrap(), Rotation::Running);
    assert!(matches!(store.begin_rotation(&prefix("s"), seal_key(3)), Err(Error::RotationRuns)));
    let ids = |store: &Store<MemDisk>| -> Vec<u8> {
        (0..100).map(|number| store.get(&key(&name(number))).unwrap().bytes[1]).collect()
    };
    let new = ids(&store).into_iter().filter(|id| *id == 2).count();
    assert!(new > 0 && new < 50, "a step is bounded: {new}");
    drop(store);

    let mut store = reopen(&disk, &nonces);
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
    assert_eq!(kind(store.put(&key("s/x"), b"")), ErrorKind::Locked, "the old key is no more written with");
    assert_eq!(kind(store.rotate_step(&prefix("s"))), ErrorKind::Locked);
    let readable =
        |store: &Store<MemDisk>| (0..100).filter(|number| store.reveal(&key(&name(*number))).is_ok()).count();
    assert_eq!(readable(&store), 100 - new);
    store.unlock(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(readable(&store), 100);
    store.put(&key("s/1"), &[7; 3000]).unwrap();
    store.rotate(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(ids(&store), [2; 100]);
    assert_eq!(store.rotate_step(&prefix("s")).unwrap(), Rotation::Finished);
    let wrong = store.begin_rotation(&prefix("s"), SealKey::new(2, Zeroizing::new([8; 32])));
    assert!(matches!(wrong, Err(Error::WrongKey { key_id: 2, .. })), "{wrong:?}");
    drop(store);

    let mut store = reopen(&disk, &nonces);
    assert!(matches!(store.unlock(&prefix("s"), seal_key(1)), Err(Error::WrongKey { .. })));
    assert!(matches!(store.begin_rotation(&prefix("s"), seal_key(3)), Err(Error::Locked { key_id: 2, .. })));
    store.unlock(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(readable(&store), 100);
}

#[test]
fn salvage_keeps_what_is_sealed_as_it_is() {
    let (disk, nonces, mut store) = sealed();
    store.put(&key("s/a"), SECRET).unwrap();
    store.set_quota(&prefix("s"), statefs::Quota { hard: Some(1), ..Default::default() }).unwrap();
    store.close().unwrap();
    let to = self::disk();
    let other = Options::new(StoreId([6; 16]));
    assert_eq!(salvage(disk, to.clone(), &other, Suspects::Leave).unwrap().certain, 1);
    assert!(!has(&to, SECRET));
    let mut store = reopen(&to, &nonces);
    assert_eq!(store.quotas().next().unwrap().used_keys, 1);
    assert_eq!(kind(store.put(&key("s/b"), SECRET)), ErrorKind::Locked);
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
    assert_eq!(reveal(&store, "s/a"), SECRET);
    assert_eq!(store.scrub().unwrap(), Scrub::Finished);
    assert_eq!(reveal(&store, "s/a"), SECRET);
}

/// Writes other bytes over one block that has these ones: the device has rotted there. The whole of the frame that the block
/// is of is lost.
fn rot(disk: &MemDisk, needle: &[u8]) {
    let geometry = disk.geometry();
    let mut block = vec![0; geometry.block_size()];
    let mut rotten = 0;
    for at in (0..geometry.block_count()).map(BlockIndex::new) {
        disk.read(at, &mut block).unwrap();
        if block.windows(needle.len()).any(|window| window == needle) {
            block.fill(0xa5);
            disk.write(at, &block).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1, "one block has it");
}

#[test]
fn store_f7_a_plain_value_is_not_revealed_where_no_prefix_is_sealed() {
    let (disk, nonces, mut store) = sealed();
    store.put(&key("s/a"), SECRET).unwrap();
    drop(store);
    // The record of the prefix is taken away, and something plain put in place of the sealed value.
    let record = b"/sealed/state/s";
    let delete = [&[2, u8::try_from(record.len()).unwrap()], record.as_slice()].concat();
    forge(&disk, &[delete, put_record(1, &key("s/a"), b"made up")]);
    let store = reopen(&disk, &nonces);
    assert_eq!(store.sealed_prefixes().count(), 0);
    let outcome = store.reveal(&key("s/a"));
    assert!(matches!(outcome, Err(Error::NotSealed)), "{outcome:?}");
    assert_eq!(store.get(&key("s/a")).unwrap().form, Form::Plain);
    assert_eq!(store.reveal(&key("s/none")).unwrap(), None);
}

#[test]
fn store_f7_a_prefix_with_plain_values_in_a_snapshot_is_not_sealed() {
    let (disk, nonces, mut store) = sealed();
    let then = SnapshotName::parse("then").unwrap();
    store.put(&key("t-u"), SECRET).unwrap();
    store.put(&key("t/b"), SECRET).unwrap();
    store.put(&key("t"), SECRET).unwrap();
    store.snapshot(&then).unwrap();
    for name in ["t/b", "t", "t-u"] {
        store.delete(&key(name)).unwrap();
    }
    // What was plain is on the medium for as long as the snapshot is there: a compaction copies it.
    while store.compact_step().unwrap() != Compaction::Finished {}
    let before = disk.image().unwrap();
    for _ in 0..2 {
        let outcome = store.seal_prefix(&prefix("t"), seal_key(1));
        assert!(
            matches!(&outcome, Err(Error::PrefixInSnapshot { key: of }) if *of == key("t")),
            "{outcome:?}"
        );
        assert_eq!(kind(outcome), ErrorKind::Invalid);
        assert!(disk.image().unwrap() == before, "nothing was written");
    }
    // Another prefix is not concerned.
    store.seal_prefix(&prefix("u"), seal_key(1)).unwrap();
    drop(store);
    let mut store = reopen(&disk, &nonces);
    assert!(matches!(store.seal_prefix(&prefix("t"), seal_key(1)), Err(Error::PrefixInSnapshot { .. })));
    store.drop_snapshot(&then).unwrap();
    store.seal_prefix(&prefix("t"), seal_key(1)).unwrap();
    // What a snapshot has of a sealed prefix is sealed, and in the way of nothing.
    store.put(&key("t/b"), SECRET).unwrap();
    store.snapshot(&then).unwrap();
    store.delete(&key("t/b")).unwrap();
    store.unseal_prefix(&prefix("t")).unwrap();
    store.seal_prefix(&prefix("t"), seal_key(2)).unwrap();
}

#[test]
fn store_f7_more_settings_than_there_may_be_are_refused_at_open() {
    let sealed_record = [&[1, 1][..], &[0; 44]].concat();
    let quota_record = [&[1][..], &[0xff; 24]].concat();
    for (root, value, limit, what) in [
        ("/sealed/state/more", &sealed_record, SEALED_PREFIXES_MAX, "sealed prefixes"),
        ("/quota/state/more", &quota_record, QUOTAS_MAX, "quotas"),
        ("/snapshot/more", &vec![1], SNAPSHOTS_MAX, "snapshots"),
    ] {
        for count in [limit, limit + 1, limit + 70] {
            let disk = disk();
            drop(Store::format(disk.clone(), &options()).unwrap());
            let mut body = Vec::new();
            for nth in 0..count {
                let key = format!("{root}{nth:03}");
                body.extend([1, u8::try_from(key.len()).unwrap()]);
                body.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
                body.extend([key.as_bytes(), value].concat());
            }
            forge(&disk, &[body]);
            match Store::open(disk, Access::Read) {
                Ok(_) => assert_eq!(count, limit, "{what}"),
                Err(error) => {
                    assert!(count > limit, "{what}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    let wanted =
                        format!("the image has more {what} than there may be: limit={limit} found={count}");
                    assert_eq!(error.to_string(), wanted);
                }
            }
        }
    }
}

/// Where the deletion of a quota was lost, the quota is back, and one more was set since. That is damage, not another
/// writer: it opens, and what is salvaged opens as well.
#[test]
fn store_f7_a_quota_that_damage_brought_back_does_not_make_a_store_unreadable() {
    let disk = disk();
    let mut store = Store::format(disk.clone(), &options()).unwrap();
    let quota = statefs::Quota { hard: Some(1 << 40), ..Default::default() };
    let of = |number: usize| prefix(&format!("many/{number}"));
    for number in 0..QUOTAS_MAX {
        store.set_quota(&of(number), quota).unwrap();
    }
    while store.compact_step().unwrap() != Compaction::Finished {}
    store.remove_quota(&of(0)).unwrap();
    store.set_quota(&of(QUOTAS_MAX), quota).unwrap();
    store.put(&key("later"), b"1").unwrap();
    store.put(&key("later"), b"2").unwrap();
    drop(store);
    // The record of the deletion.
    rot(&disk, b"\x02\x13/quota/state/many/0");
    let (store, recovery) = Store::open(disk.clone(), Access::Read).unwrap();
    assert!(matches!(recovery.tail, statefs::Verdict::Damaged { .. }), "{recovery:?}");
    assert_eq!(store.quotas().count(), QUOTAS_MAX);
    assert!(store.quotas().any(|quota| quota.prefix == of(QUOTAS_MAX)), "what is certain comes first");
    let to = self::disk();
    salvage(disk, to.clone(), &Options::new(StoreId([6; 16])), Suspects::Take).unwrap();
    let (store, _) = Store::open(to, Access::Write).unwrap();
    assert_eq!(store.quotas().count(), QUOTAS_MAX);
}

fn salvaged(disk: &MemDisk, suspects: Suspects) -> (MemDisk, Salvaged) {
    let to = self::disk();
    let saved = salvage(disk.clone(), to.clone(), &Options::new(StoreId([6; 16])), suspects).unwrap();
    (to, saved)
}

/// A store of which damage took the record that says that `/state/s` is sealed, salvaged: `/state/s/a` and `/state/s/b/c` are
/// sealed with key 1, and `/state/p` and `/state/sa` are plain.
fn lost() -> (MemDisk, CountingNonces, Store<MemDisk>) {
    let (disk, nonces, mut store) = sealed();
    for (name, value) in [("s/a", SECRET), ("p", b"plain"), ("s/b/c", b"another"), ("sa", b"plain")] {
        store.put(&key(name), value).unwrap();
    }
    store.close().unwrap();
    rot(&disk, b"/sealed/state/s");
    let (store, recovery) = Store::open(disk.clone(), Access::Read).unwrap();
    assert!(recovery.read_only.is_some() && store.lost_prefixes().eq([&prefix("s")]), "{recovery:?}");
    let (to, saved) = salvaged(&disk, Suspects::Leave);
    assert_eq!((saved.certain, saved.sealed_without_prefix), (4, 2));
    let store = reopen(&to, &nonces);
    (to, nonces, store)
}

#[test]
fn store_d3_nothing_is_written_below_a_prefix_whose_record_is_lost() {
    let (disk, nonces, mut store) = lost();
    assert_eq!(store.sealed_prefixes().count(), 0);
    assert!(store.lost_prefixes().eq([&prefix("s")]));
    let (before, stats) = (disk.image().unwrap(), store.stats());
    let mut batch = Batch::new();
    batch.put(&key("p"), b"plain").unwrap();
    batch.put(&key("s/b"), SECRET).unwrap();
    let outcomes = [
        store.put(&key("s/a"), SECRET),
        store.put(&key("s"), SECRET),
        store.put_buffered(&key("s/new"), SECRET),
        store.compare_and_swap(&key("s/c"), Precondition::Absent, SECRET),
        store.batch(&batch),
        store.seal_prefix(&prefix("s/x"), seal_key(1)),
        store.seal_prefix(&Prefix::root(), seal_key(1)),
    ];
    for outcome in outcomes {
        let is_it = matches!(&outcome, Err(Error::PrefixRecordLost { prefix: of }) if *of == prefix("s"));
        assert!(is_it, "{outcome:?}");
        assert_eq!(kind(outcome), ErrorKind::Locked);
    }
    assert_eq!(store.stats(), stats);
    assert!(disk.image().unwrap() == before, "nothing was written");
    assert!(matches!(store.reveal(&key("s/a")), Err(Error::NotSealed)));
    // Between threads as well.
    drop(store);
    let shared = SharedStore::new(reopen(&disk, &nonces), Arc::new(SystemClock::new()));
    assert!(matches!(shared.put(&key("s/a"), SECRET), Err(Error::PrefixRecordLost { .. })));
    let mut batch = Batch::new();
    batch.put(&key("s/a"), SECRET).unwrap();
    assert!(matches!(shared.batch(batch), Err(Error::PrefixRecordLost { .. })));
    assert!(matches!(shared.put_buffered(&key("s/a"), SECRET), Err(Error::PrefixRecordLost { .. })));
    // What lies elsewhere is written, and deletes work.
    shared.put(&key("p"), b"1").unwrap();
    shared.put(&key("sa"), b"1").unwrap();
    shared.delete(&key("s/a")).unwrap();
    assert!(matches!(shared.put(&key("s/a"), b"plain"), Err(Error::PrefixRecordLost { .. })));
    assert!(!has(&disk, SECRET));
    // The last sealed value was the last that could be in the way.
    shared.delete(&key("s/b/c")).unwrap();
    shared.put(&key("s/a"), b"plain").unwrap();
    assert_eq!(shared.exclusively(|store| Ok(store.lost_prefixes().count())).unwrap(), 0);
    drop(shared);
    assert_eq!(reopen(&disk, &nonces).lost_prefixes().count(), 0);
}

#[test]
fn store_d3_a_key_that_is_given_reads_without_a_record() {
    let (_, _, store) = lost();
    let revealed = store.reveal_with(&key("s/a"), &seal_key(1)).unwrap().unwrap();
    assert_eq!(revealed.as_slice(), SECRET);
    assert_eq!(store.reveal_with(&key("s/none"), &seal_key(1)).unwrap(), None);
    assert!(matches!(store.reveal_with(&key("p"), &seal_key(1)), Err(Error::NotSealed)));
    let wrong = SealKey::new(1, Zeroizing::new([9; 32]));
    let outcome = store.reveal_with(&key("s/a"), &wrong);
    assert!(matches!(&outcome, Err(Error::NotAuthentic { key: of }) if *of == key("s/a")), "{outcome:?}");
    let outcome = store.reveal_with(&key("s/a"), &seal_key(2));
    assert!(matches!(outcome, Err(Error::Locked { key_id: 1, .. })), "{outcome:?}");
    // The same where there is a record.
    let (_, _, mut store) = sealed();
    store.put(&key("s/a"), SECRET).unwrap();
    store.lock(&prefix("s")).unwrap();
    assert_eq!(store.reveal_with(&key("s/a"), &seal_key(1)).unwrap().unwrap().as_slice(), SECRET);
}

#[test]
fn store_d3_the_record_is_put_back_with_the_key() {
    let (disk, nonces, mut store) = lost();
    let sealed_a = store.get(&key("s/a")).unwrap().bytes.to_vec();
    let before = disk.image().unwrap();
    let wrong = SealKey::new(1, Zeroizing::new([9; 32]));
    let outcome = store.restore_prefix(&prefix("s"), wrong, None);
    assert!(matches!(outcome, Err(Error::WrongKey { key_id: 1, .. })), "{outcome:?}");
    let outcome = store.restore_prefix(&prefix("s"), seal_key(2), None);
    assert!(matches!(outcome, Err(Error::Locked { key_id: 1, .. })), "{outcome:?}");
    let outcome = store.restore_prefix(&prefix("s"), seal_key(1), Some(seal_key(1)));
    assert!(matches!(outcome, Err(Error::WrongKey { key_id: 1, .. })), "{outcome:?}");
    let outcome = store.restore_prefix(&Prefix::root(), seal_key(1), None);
    assert!(matches!(outcome, Err(Error::PrefixInUse)), "{outcome:?}");
    assert!(disk.image().unwrap() == before, "nothing was written");

    let revision = store.restore_prefix(&prefix("s"), seal_key(1), None).unwrap();
    assert_eq!((revision, store.lost_prefixes().count()), (store.durable_revision(), 0));
    assert!(matches!(store.restore_prefix(&prefix("s"), seal_key(1), None), Err(Error::SealedAlready)));
    assert!(matches!(store.restore_prefix(&prefix("s/a"), seal_key(1), None), Err(Error::SealedAlready)));
    assert_eq!(reveal(&store, "s/a"), SECRET);
    store.put(&key("s/new"), SECRET).unwrap();
    drop(store);
    let mut store = reopen(&disk, &nonces);
    assert_eq!(kind(store.put(&key("s/new"), SECRET)), ErrorKind::Locked);
    store.unlock(&prefix("s"), seal_key(1)).unwrap();
    assert_eq!(reveal(&store, "s/new"), SECRET);
    store.rotate(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(reveal(&store, "s/b/c"), b"another");
    drop(store);

    // A value that was made up is in the way until it is deleted.
    let (disk, nonces, store) = lost();
    drop(store);
    forge(&disk, &[put_record(129, &key("s/moved"), &sealed_a), put_record(129, &key("s/z"), b"?")]);
    let mut store = reopen(&disk, &nonces);
    for name in ["s/moved", "s/z"] {
        let outcome = store.restore_prefix(&prefix("s"), seal_key(1), None);
        assert!(matches!(&outcome, Err(Error::NotAuthentic { key: of }) if *of == key(name)), "{outcome:?}");
        store.delete(&key(name)).unwrap();
    }
    store.restore_prefix(&prefix("s"), seal_key(1), None).unwrap();

    // A narrower one leaves the rest.
    let (_, _, mut store) = lost();
    store.restore_prefix(&prefix("s/b"), seal_key(1), None).unwrap();
    assert!(store.lost_prefixes().eq([&prefix("s/a")]));
    store.put(&key("s/b/d"), SECRET).unwrap();
    assert_eq!(store.get(&key("s/b/d")).unwrap().form, Form::Sealed);
}

#[test]
fn store_d3_a_rotation_goes_on_when_the_record_is_put_back() {
    let (disk, nonces, mut store) = sealed();
    for nth in 0..50 {
        store.put(&key(&format!("s/{nth:02}")), &[7; 3000]).unwrap();
    }
    store.begin_rotation(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(store.rotate_step(&prefix("s")).unwrap(), Rotation::Running);
    while store.compact_step().unwrap() != Compaction::Finished {}
    store.close().unwrap();
    // The record is deleted, because rot in the copy would take values along.
    let record = b"/sealed/state/s";
    forge(&disk, &[[&[2, u8::try_from(record.len()).unwrap()], record.as_slice()].concat()]);
    let mut store = reopen(&disk, &nonces);
    assert!(store.lost_prefixes().eq([&Prefix::root()]), "nothing at all is plain");
    assert!(matches!(store.put(&key("p"), b""), Err(Error::PrefixRecordLost { .. })));
    let outcome = store.restore_prefix(&prefix("s"), seal_key(2), None);
    assert!(matches!(outcome, Err(Error::Locked { key_id: 1, .. })), "{outcome:?}");
    store.restore_prefix(&prefix("s"), seal_key(2), Some(seal_key(1))).unwrap();
    assert!(matches!(store.begin_rotation(&prefix("s"), seal_key(3)), Err(Error::RotationRuns)));
    while store.rotate_step(&prefix("s")).unwrap() == Rotation::Running {}
    drop(store);
    let mut store = reopen(&disk, &nonces);
    store.unlock(&prefix("s"), seal_key(2)).unwrap();
    for nth in 0..50 {
        assert_eq!(reveal(&store, &format!("s/{nth:02}")), [7; 3000]);
    }
}

/// A sibling: what is lost is the record of a rotation, so the record from before it is in force. The old key is gone.
#[test]
fn store_d3_a_lost_record_of_a_rotation_is_put_back_as_well() {
    let (disk, nonces, mut store) = sealed();
    store.put(&key("s/a"), SECRET).unwrap();
    while store.compact_step().unwrap() != Compaction::Finished {}
    store.begin_rotation(&prefix("s"), seal_key(2)).unwrap();
    while store.rotate_step(&prefix("s")).unwrap() == Rotation::Running {}
    store.put(&key("s/b"), SECRET).unwrap();
    store.close().unwrap();
    // Both records that name key 2 are puts; the one in the copy is not.
    for checks in [b"\x01\x02", b"\x01\x01"] {
        let head = [&[1, 15, if checks[1] == 2 { 90 } else { 46 }, 0, 0, 0], &b"/sealed/state/s"[..], checks];
        let needle = [head.concat(), 2_u32.to_le_bytes().to_vec()].concat();
        rot(&disk, &needle);
    }
    let (to, saved) = salvaged(&disk, Suspects::Take);
    assert_eq!(saved.sealed_without_prefix, 0, "there is a record: {saved:?}");
    let mut store = reopen(&to, &nonces);
    assert!(matches!(store.unlock(&prefix("s"), seal_key(2)), Err(Error::WrongKey { .. })));
    store.restore_prefix(&prefix("s"), seal_key(2), None).unwrap();
    assert_eq!((reveal(&store, "s/a").as_slice(), reveal(&store, "s/b").as_slice()), (SECRET, SECRET));
    assert_eq!(store.sealed_prefixes().collect::<Vec<_>>(), [(&prefix("s"), 2)]);
    drop(store);
    let mut store = reopen(&to, &nonces);
    store.unlock(&prefix("s"), seal_key(2)).unwrap();
    assert_eq!(reveal(&store, "s/a"), SECRET);
}

/// A sibling: what is lost is that a prefix was made an ordinary one. A later one overlaps it, and is the right one.
#[test]
fn store_d3_of_overlapping_records_the_newer_is_right() {
    for (old, new) in [("s", "s/a"), ("s/a", "s")] {
        let (disk, nonces) = (disk(), CountingNonces::default());
        drop(Store::format(disk.clone(), &options()).unwrap());
        let mut store = reopen(&disk, &nonces);
        store.seal_prefix(&prefix(old), seal_key(1)).unwrap();
        store.unseal_prefix(&prefix(old)).unwrap();
        store.seal_prefix(&prefix(new), seal_key(2)).unwrap();
        store.put(&key("s/a/x"), SECRET).unwrap();
        store.close().unwrap();
        let name = format!("/sealed/state/{old}");
        let delete = [&[2, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        rot(&disk, &delete);
        let (to, _) = salvaged(&disk, Suspects::Take);
        let mut store = reopen(&to, &nonces);
        assert_eq!(store.sealed_prefixes().collect::<Vec<_>>(), [(&prefix(new), 2)], "{old} {new}");
        store.unlock(&prefix(new), seal_key(2)).unwrap();
        assert_eq!(reveal(&store, "s/a/x"), SECRET);
        assert!(!has(&to, name.as_bytes()) || new.starts_with(old), "it was not passed on");
    }
}

/// A sibling: what is lost is the deletion of a plain value, without which its prefix would not have been sealed.
#[test]
fn store_d3_salvage_puts_nothing_plain_below_a_sealed_prefix() {
    let (disk, nonces) = (disk(), CountingNonces::default());
    drop(Store::format(disk.clone(), &options()).unwrap());
    let mut store = reopen(&disk, &nonces);
    store.put(&key("s/a"), SECRET).unwrap();
    store.put(&key("p"), b"plain").unwrap();
    store.delete(&key("s/a")).unwrap();
    store.seal_prefix(&prefix("s"), seal_key(1)).unwrap();
    store.put(&key("s/b"), b"sealed").unwrap();
    store.close().unwrap();
    rot(&disk, b"\x02\x0a/state/s/a");
    let (to, saved) = salvaged(&disk, Suspects::Take);
    assert_eq!((saved.certain, saved.suspect_taken, saved.suspect_left), (1, 1, 1));
    assert!(!has(&to, SECRET), "it had been deleted for good");
    assert_eq!(reopen(&to, &nonces).get(&key("s/a")), None);
}

#[test]
fn store_d3_lost_prefixes_are_the_widest_that_may_have_been_sealed() {
    let lost_of = |sealed: &[&str], plain: &[&str], prefixes: &[&str]| {
        let (disk, nonces) = (disk(), CountingNonces::default());
        drop(Store::format(disk.clone(), &options()).unwrap());
        let mut store = reopen(&disk, &nonces);
        for name in prefixes {
            store.seal_prefix(&prefix(name), seal_key(1)).unwrap();
        }
        drop(store);
        let sealed = sealed.iter().map(|name| put_record(129, &key(name), b"?"));
        let plain = plain.iter().map(|name| put_record(1, &key(name), b"!"));
        forge(&disk, &sealed.chain(plain).collect::<Vec<_>>());
        let store = reopen(&disk, &nonces);
        store.lost_prefixes().map(|prefix| prefix.to_string()).collect::<Vec<_>>()
    };
    assert!(lost_of(&[], &["a"], &["b"]).is_empty());
    assert_eq!(lost_of(&["a/b/c", "d"], &[], &[]), ["/state"]);
    assert_eq!(lost_of(&["a/b/c"], &["z"], &[]), ["/state/a"]);
    assert_eq!(lost_of(&["a/b/c"], &["a-b/c", "ab", "a/ba", "a/b-"], &[]), ["/state/a/b"]);
    assert_eq!(lost_of(&["a/b/c"], &["a/b/d", "a/b/c-", "a/b/cc"], &[]), ["/state/a/b/c"]);
    assert_eq!(
        lost_of(&["a/b", "a/c", "b/c", "x/y/z"], &["a", "x/z"], &[]),
        ["/state/a/b", "/state/a/c", "/state/b", "/state/x/y"]
    );
    assert_eq!(lost_of(&["a/b", "c/d"], &[], &["c"]), ["/state/a"], "sealed prefixes are not in each other");
    assert_eq!(lost_of(&["ä/b"], &["ö/b"], &[]), ["/state/ä"]);
    assert_eq!(lost_of(&["a"], &["a/b"], &[]), ["/state/a"], "whatever that may be");
    let names: Vec<String> = (0..2 * SEALED_PREFIXES_MAX + 2).map(|nth| format!("d{nth:03}/x")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (plain, sealed): (Vec<&str>, Vec<&str>) = (vec!["p"], names[..SEALED_PREFIXES_MAX].to_vec());
    assert_eq!(lost_of(&sealed, &plain, &[]).len(), SEALED_PREFIXES_MAX);
    assert_eq!(lost_of(&names[..SEALED_PREFIXES_MAX + 1], &plain, &[]), ["/state"]);

    // And as slowly as one can think of it.
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for round in 0..300 {
        let mut forms = std::collections::BTreeMap::new();
        for _ in 0..=random(9) {
            let parts: Vec<&str> = (0..=random(3)).map(|_| ["a", "b", "a-", "a0"][random(4)]).collect();
            forms.insert(parts.join("/"), random(3) == 0);
        }
        let of = |wanted: bool| -> Vec<&str> {
            forms.iter().filter(|(_, plain)| **plain == wanted).map(|(name, _)| name.as_str()).collect()
        };
        let (sealed, plain) = (of(false), of(true));
        let mut wanted = BTreeSet::new();
        for name in &sealed {
            let name = format!("/state/{name}");
            let ends = name.match_indices('/').map(|(at, _)| at).skip(1).chain([name.len()]);
            let free = |at: &usize| {
                let prefix = Prefix::parse(&name[..*at]).unwrap();
                !plain.iter().any(|plain| prefix.covers(&key(plain)))
            };
            let widest = ends.clone().find(free).unwrap_or(name.len());
            wanted.insert(name[..widest].to_owned());
        }
        let found: BTreeSet<String> = lost_of(&sealed, &plain, &[]).into_iter().collect();
        // Where a plain value lies below a sealed one, what covers that may cover others.
        if sealed.iter().any(|sealed| plain.iter().any(|plain| prefix(sealed).covers(&key(plain)))) {
            continue;
        }
        assert_eq!(found, wanted, "{round}: {forms:?}");
    }
}

/// Puts values below `/state/s`, and then plain ones, until nothing fits.
fn fill_up(store: &mut Store<MemDisk>, name: &str, value_len: usize) {
    for nth in 0.. {
        match store.put_buffered(&key(&format!("{name}/{nth:05}")), &vec![7; value_len]) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                break;
            }
        }
    }
    store.sync().unwrap();
}

#[test]
fn store_f3_a_rotation_that_begins_on_a_full_store_comes_to_its_end() {
    let (mut ended, mut refused) = (0, 0);
    let limited = Limits { live_bytes_max: 20_000, ..Limits::default() };
    let shapes = [40, 64, 100, 128, 300, 1024]
        .into_iter()
        .flat_map(|blocks| [0, 50, 300, 500, 1000, 4000].map(|value_len| (blocks, value_len)));
    for ((blocks, value_len), limits) in
        shapes.flat_map(|shape| [(shape, Limits::default()), (shape, limited)])
    {
        let disk = MemDisk::new(Geometry::new(512, blocks).unwrap()).unwrap();
        drop(Store::format(disk.clone(), &Options { limits, ..options() }).unwrap());
        let nonces = CountingNonces::default();
        let mut store = reopen(&disk, &nonces);
        store.seal_prefix(&prefix("s"), seal_key(1)).unwrap();
        fill_up(&mut store, "s", value_len);
        fill_up(&mut store, "p", 1);
        fill_up(&mut store, "q", 0);
        let (count, image) = (store.stats().live_keys, disk.image().unwrap());
        match store.begin_rotation(&prefix("s"), seal_key(2)) {
            Ok(()) => ended += 1,
            Err(error) => {
                assert!(matches!(error, Error::NoSpace { .. }), "{error}");
                assert!(disk.image().unwrap() == image, "nothing was written");
                assert!(value_len >= 300, "{blocks} {value_len} {error}");
                refused += 1;
                continue;
            }
        }
        // What is put meanwhile, and an open, are not in its way.
        fill_up(&mut store, "r", 0);
        drop(store);
        let mut store = reopen(&disk, &nonces);
        store.unlock(&prefix("s"), seal_key(1)).unwrap();
        store.unlock(&prefix("s"), seal_key(2)).unwrap();
        fill_up(&mut store, "r", 1);
        while store.rotate_step(&prefix("s")).unwrap() == Rotation::Running {}
        assert_eq!(store.stats().live_keys, count, "it was full: {blocks} {value_len}");
        // And the next one has its room again.
        store.rotate(&prefix("s"), seal_key(3)).unwrap();
        assert_eq!(store.sealed_prefixes().collect::<Vec<_>>(), [(&prefix("s"), 3)]);
    }
    println!("{ended} ended, {refused} refused");
    assert!(ended > 30 && refused > 0);
}

/// A sibling: a rotation that begins where there is room, and a store that is filled up while it runs.
#[test]
fn store_f3_no_put_takes_the_room_that_a_running_rotation_needs() {
    for reopens in [false, true] {
        let disk = MemDisk::new(Geometry::new(512, 128).unwrap()).unwrap();
        drop(Store::format(disk.clone(), &options()).unwrap());
        let nonces = CountingNonces::default();
        let mut store = reopen(&disk, &nonces);
        store.seal_prefix(&prefix("s"), seal_key(1)).unwrap();
        for nth in 0..4 {
            store.put(&key(&format!("s/{nth}")), &[7; 3000]).unwrap();
        }
        store.begin_rotation(&prefix("s"), seal_key(2)).unwrap();
        if reopens {
            drop(store);
            store = reopen(&disk, &nonces);
            store.unlock(&prefix("s"), seal_key(1)).unwrap();
            store.unlock(&prefix("s"), seal_key(2)).unwrap();
        }
        fill_up(&mut store, "p", 300);
        let used = store.stats().live_keys;
        while store.rotate_step(&prefix("s")).unwrap() == Rotation::Running {}
        // Afterwards the room is for all again.
        fill_up(&mut store, "q", 300);
        assert!(store.stats().live_keys > used);
    }
}

/// A sibling: what a snapshot has is kept beside what is sealed anew, which needs room that is not there.
#[test]
fn store_f3_a_rotation_that_a_snapshot_leaves_no_room_for_does_not_begin() {
    let (disk, nonces) = (MemDisk::new(Geometry::new(512, 128).unwrap()).unwrap(), CountingNonces::default());
    drop(Store::format(disk.clone(), &options()).unwrap());
    let mut store = reopen(&disk, &nonces);
    store.seal_prefix(&prefix("s"), seal_key(1)).unwrap();
    for nth in 0..40 {
        store.put(&key(&format!("s/{nth}")), &[7; 300]).unwrap();
    }
    let then = SnapshotName::parse("then").unwrap();
    store.snapshot(&then).unwrap();
    let image = disk.image().unwrap();
    let outcome = store.begin_rotation(&prefix("s"), seal_key(2));
    assert_eq!(kind(outcome), ErrorKind::NoSpace);
    assert!(disk.image().unwrap() == image, "nothing was written");
    store.drop_snapshot(&then).unwrap();
    store.rotate(&prefix("s"), seal_key(2)).unwrap();
    // With room for both it does.
    for nth in 10..40 {
        store.delete(&key(&format!("s/{nth}"))).unwrap();
    }
    store.snapshot(&then).unwrap();
    store.rotate(&prefix("s"), seal_key(3)).unwrap();
}
