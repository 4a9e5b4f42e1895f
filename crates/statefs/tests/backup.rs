//! Backup and restore: what comes back, what is refused, and what a power cut leaves.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use crashsim::{
    Campaign, Class, DiskImage, DiskProfile, Expected, Explorer, Fate, Gauge, Life, Mark, Operation, Random,
    Run, Scenario, SimDisk, Value, Verdict as Found, Witness, Workload, barriers, replay,
};
use crc::{CRC_64_XZ, Crc};
use journal::crc32c;
use media::{BlockDevice, BlockIndex, Geometry, MemDisk, SystemEntropy};
use statefs::{
    Access, BackupError, BackupInfo, BadBackup, BadRecord, Compaction, Error, ErrorKind, Extent, Form, Key,
    Limits, Options, PIECE_LEN_MAX, Prefix, Quota, RestoreOptions, Revision, SealKey, SnapshotName, Source,
    Store, StoreId, Suspects, Verdict, Zeroizing, check_backup, reading_from, restore, salvage, writing_to,
};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::parse(text).unwrap()
}

fn geometry(block_size: u32, blocks: u64) -> Geometry {
    Geometry::new(block_size, blocks).unwrap()
}

fn disk(blocks: u64) -> MemDisk {
    MemDisk::new(geometry(512, blocks)).unwrap()
}

fn options() -> Options {
    let journal = journal::Limits { frame_blocks_max: 3, in_flight_blocks_max: 6 };
    Options { journal, ..Options::new(StoreId(*b"what is saved is")) }
}

const OTHER: RestoreOptions =
    RestoreOptions { store_id: StoreId(*b"made from backup"), limits: None, journal: None };

fn backup<D: BlockDevice>(store: &Store<D>, source: Source<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut last = None;
    let to = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok::<(), Infallible>(())
    };
    let info = store.backup(source, to, |progress| last = Some(progress)).unwrap();
    let last = last.unwrap();
    assert_eq!((last.records, last.bytes), (info.records, info.bytes));
    assert_eq!((last.records_total, last.bytes_total), (info.records, info.bytes));
    bytes
}

type Outcome = Result<BackupInfo, BackupError<std::io::Error>>;

fn restore_to<D: BlockDevice>(bytes: &[u8], device: D) -> Outcome {
    restore(reading_from(bytes), device, &OTHER, |_| {})
}

fn check(bytes: &[u8]) -> Outcome {
    check_backup(reading_from(bytes), |_| {})
}

fn refused(outcome: Outcome) -> (u64, BadBackup) {
    match outcome {
        Err(BackupError::Refused { offset, what }) => (offset, what),
        other => panic!("{other:?}"),
    }
}

/// Everything that can be seen of a store: its values, and those in each snapshot, with their revisions.
type All = BTreeMap<(String, String), (Vec<u8>, Revision, Form)>;

fn all<D: BlockDevice>(store: &Store<D>) -> All {
    let entry = |view: &str, (key, value): (Key, statefs::Value<'_>)| {
        ((view.to_owned(), key.as_str().to_owned()), (value.bytes.to_vec(), value.revision, value.form))
    };
    let mut all: All = store.iter().map(|item| entry("", item)).collect();
    for snapshot in store.snapshots() {
        let view = store.at(&snapshot.name).unwrap();
        let name = snapshot.name.as_str();
        all.insert((name.to_owned(), String::new()), (Vec::new(), snapshot.revision, Form::Plain));
        all.extend(view.iter().map(|item| entry(name, item)));
    }
    all
}

fn open<D: BlockDevice>(device: D) -> Store<D> {
    let (store, recovery) = Store::open(device, Access::Write).unwrap();
    assert!(recovery.tail == Verdict::Clean && recovery.was_sealed, "{recovery:?}");
    store
}

/// Two keys, a snapshot, and what came after it.
fn small(disk: &MemDisk) -> Store<MemDisk> {
    let mut store = Store::format(disk.clone(), &options()).unwrap();
    store.put(&key("a"), b"one").unwrap();
    store.put(&key("b"), b"two").unwrap();
    store.snapshot(&snapshot_name("x")).unwrap();
    store.put(&key("a"), b"three").unwrap();
    store.delete(&key("b")).unwrap();
    store
}

#[test]
fn golden_bytes() {
    let bytes = backup(&small(&disk(64)), Source::Now);
    let (header, rest) = bytes.split_at(108);
    let wanted: [&[u8]; 10] = [
        b"SFBACKUP\x01\0\0\0\0\x02\0\0",
        b"what is saved is",
        b"\0\0\x07\0\0\0\0\0",
        b"\x08\0\0\0\0\0\0\0",
        b"\x04\0\0\0\0\0\0\0",
        &[8 + 3 + 8 + 5 + 8 + 3 + 11 + 1, 0, 0, 0, 0, 0, 0, 0],
        &[22 + 11 + 22 + 13 + 22 + 11 + 22 + 12, 0, 0, 0, 0, 0, 0, 0],
        b"\x05\0\0\0",
        b"\x03\0\x06\0\0\0",
        // Nobody asked for fewer bytes: the device limited them.
        b"SFKV\x01\0\0\x10\0\0\x10\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\x01\0\0\x04",
    ];
    assert_eq!(header, wanted.concat());
    let (checksum, rest) = rest.split_at(4);
    assert_eq!(checksum, crc32c(0, header).to_le_bytes());
    let records: [&[u8]; 4] = [
        b"\x03\x0b\x01\0\0\0\0\0\x05\0\0\0\0\0/snapshot/x\x01",
        b"\x04\x08\x03\0\0\0\0\0\x03\0\0\0\0\0\0\0\x06\0\0\0\0\0/state/aone",
        b"\x03\x08\x05\0\0\0\0\0\x06\0\0\0\0\0/state/athree",
        b"\x04\x08\x03\0\0\0\0\0\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0/state/btwo",
    ];
    let records = records.concat();
    let (piece, end) = rest.split_at(12 + records.len());
    assert_eq!(piece[..8], [records.len().to_le_bytes()[0], 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(piece[12..], records);
    assert_eq!(end[..8], [0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(end[12..28], [4, 0, 0, 0, 0, 0, 0, 0, 47, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes, forge(bytes.clone(), |_| {}), "checksums and digest are what the description says");
}

/// Changes a backup of few records and puts all checksums right again.
fn forge(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut bytes);
    let mut checksum = crc32c(0, &bytes[..108]);
    bytes[108..112].copy_from_slice(&checksum.to_le_bytes());
    let mut at = 112;
    loop {
        let len = usize::try_from(u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())).unwrap();
        let end = at + 12 + if len == 0 { 24 } else { len };
        if len == 0 {
            let digest = Crc::<u64>::new(&CRC_64_XZ).checksum(&bytes[..at]);
            bytes[at + 28..at + 36].copy_from_slice(&digest.to_le_bytes());
        }
        checksum = crc32c(crc32c(checksum, &bytes[at..at + 8]), &bytes[at + 12..end]);
        bytes[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
        if len == 0 {
            return bytes;
        }
        at = end;
    }
}

#[test]
fn what_keeps_its_checksums_and_breaks_a_rule_is_refused() {
    let whole = backup(&small(&disk(64)), Source::Now);
    let view = backup(&small(&disk(64)), Source::Snapshot(&snapshot_name("x")));
    assert!(check(&whole).is_ok() && check(&view).is_ok());
    let records = 112 + 12;
    let forged = |bytes: &[u8], at: usize, new: &[u8]| {
        forge(bytes.to_vec(), |bytes| bytes[at..at + new.len()].copy_from_slice(new))
    };
    let refused = |bytes: Vec<u8>| {
        let disk = disk(64);
        let (offset, what) = refused(restore_to(&bytes, disk.clone()));
        assert_eq!(Store::open(disk, Access::Read).unwrap_err().kind(), ErrorKind::NotFound);
        (offset, what)
    };
    assert_eq!(refused(forged(&whole, 0, b"X")), (0, BadBackup::Foreign));
    assert_eq!(refused(forged(&whole, 8, &[2])), (0, BadBackup::Version(2)));
    assert_eq!(refused(forged(&whole, 10, &[2])), (0, BadBackup::Header));
    assert_eq!(refused(forged(&whole, 11, &[1])), (0, BadBackup::Header));
    assert_eq!(refused(forged(&whole, 46, &[1])), (0, BadBackup::Header), "a sequence that no revision has");
    assert_eq!(refused(forged(&whole, 82, b"X")), (0, BadBackup::Header));
    // What the header says of records, bytes, room and the longest value is too much, then too little.
    let end = u64::try_from(whole.len() - 36).unwrap();
    for (at, value) in [(48, 4_u8), (56, 47), (64, 135), (72, 5)] {
        assert_eq!(refused(forged(&whole, at, &[value + 1])), (end, BadBackup::Counts), "{at}");
        let (_, what) = refused(forged(&whole, at, &[value - 1]));
        assert_eq!(what, BadBackup::Counts, "{at}");
    }
    assert_eq!(refused(forged(&whole, whole.len() - 24, &[5])), (end, BadBackup::Counts));
    assert_eq!(refused(forged(&whole, whole.len() - 16, &[5])), (end, BadBackup::Counts));
    assert_eq!(refused(forged(&whole, 40, &[6])), (112, BadBackup::Order), "a revision beyond the sequence");
    assert_eq!(refused(forged(&whole, 10, &[1])), (112, BadBackup::Order), "a snapshot within one");
    // The record of the snapshot has 26 bytes; then comes what was `a`.
    let a = records + 26;
    assert_eq!(refused(forged(&whole, a + 29, b"c")), (112, BadBackup::Order), "keys out of order");
    assert_eq!(refused(forged(&whole, a + 16, &[7])), (112, BadBackup::Order), "past and current overlap");
    assert_eq!(refused(forged(&whole, a, &[1])), (112, BadBackup::Record(BadRecord::Kind(1))));
    assert_eq!(refused(forged(&whole, records + 25, &[2])), (112, BadBackup::Record(BadRecord::Snapshot)));
    // Everything agrees but the digest.
    let mut digest = whole.clone();
    let end_at = whole.len() - 36;
    digest[end_at + 30] ^= 1;
    let before = u32::from_le_bytes(*whole[120..].first_chunk().unwrap());
    let checksum = crc32c(crc32c(before, &digest[end_at..end_at + 8]), &digest[end_at + 12..]);
    digest[end_at + 8..end_at + 12].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(refused(digest), (end, BadBackup::Digest));
}

#[test]
fn no_truncation_no_flipped_bit_and_nothing_behind_the_end_is_taken() {
    let disk = disk(64);
    let store = small(&disk);
    let bytes = backup(&store, Source::Now);
    for len in 0..bytes.len() {
        let (offset, what) = refused(check(&bytes[..len]));
        assert!(offset <= u64::try_from(len).unwrap());
        assert_eq!(what, if len == 0 { BadBackup::Foreign } else { BadBackup::CutOff }, "{len}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let (offset, _) = refused(check(&bad));
        assert!(offset <= u64::try_from(bit / 8).unwrap(), "{bit}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(refused(check(&longer)), (u64::try_from(bytes.len()).unwrap(), BadBackup::Behind));
    // A header that is refused, and a backup that does not fit, leave the device alone.
    let before = disk.image().unwrap();
    let mut bad = bytes.clone();
    bad[100] ^= 1;
    assert_eq!(refused(restore_to(&bad, disk.clone())).1, BadBackup::Header);
    assert!(disk.image().unwrap() == before);
    // Anything later leaves no store, rather than a part of one.
    let cut = &bytes[..bytes.len() - 1];
    assert_eq!(refused(restore_to(cut, disk.clone())).1, BadBackup::CutOff);
    assert_eq!(Store::open(disk, Access::Read).unwrap_err().kind(), ErrorKind::NotFound);
}

/// More than one piece.
fn large() -> (Store<MemDisk>, Vec<u8>) {
    let mut store =
        Store::format(MemDisk::new(geometry(4096, 1024)).unwrap(), &Options::new(StoreId([1; 16]))).unwrap();
    for nth in 0..60 {
        store.put_buffered(&key(&nth.to_string()), &vec![nth; 10_000]).unwrap();
    }
    store.sync().unwrap();
    let bytes = backup(&store, Source::Now);
    (store, bytes)
}

#[test]
fn pieces_that_are_missing_doubled_or_exchanged_are_refused_by_number() {
    let (_, bytes) = large();
    let mut pieces = vec![&bytes[..112]];
    let mut at = 112;
    while at < bytes.len() - 36 {
        let len = usize::try_from(u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())).unwrap();
        assert!(len <= PIECE_LEN_MAX);
        pieces.push(&bytes[at..at + 12 + len]);
        at += 12 + len;
    }
    pieces.push(&bytes[at..]);
    assert!(pieces.len() > 5);
    let first = pieces[1].len();
    let (second, third) = (112 + first, 112 + first + pieces[2].len());
    let of = |at: usize| u64::try_from(at).unwrap();
    let mut missing = pieces.clone();
    missing.remove(2);
    assert_eq!(refused(check(&missing.concat())), (of(second), BadBackup::Number { wanted: 1, found: 2 }));
    let mut doubled = pieces.clone();
    doubled.insert(2, pieces[2]);
    assert_eq!(refused(check(&doubled.concat())), (of(third), BadBackup::Number { wanted: 2, found: 1 }));
    let mut exchanged = pieces.clone();
    exchanged.swap(2, 3);
    assert_eq!(refused(check(&exchanged.concat())), (of(second), BadBackup::Number { wanted: 1, found: 2 }));
    // A piece of the same number from another backup.
    let mut store =
        Store::format(MemDisk::new(geometry(4096, 1024)).unwrap(), &Options::new(StoreId([2; 16]))).unwrap();
    for nth in 0..60 {
        store.put_buffered(&key(&nth.to_string()), &vec![nth; 10_000]).unwrap();
    }
    let foreign = backup(&store, Source::Now);
    let mut mixed = pieces.clone();
    mixed[2] = &foreign[second..third];
    assert_eq!(refused(check(&mixed.concat())), (of(second), BadBackup::Checksum(1)));
    let too_long = [&bytes[..112], &(1_u32 << 17 | 1).to_le_bytes(), &bytes[116..]].concat();
    assert_eq!(refused(check(&too_long)), (112, BadBackup::TooLong(1 << 17 | 1)));
}

#[test]
fn a_stream_that_fails_is_told_with_its_place() {
    let (store, bytes) = large();
    let mut written = 0;
    let outcome = store.backup(
        Source::Now,
        |piece| {
            written += piece.len();
            if written > 200_000 { Err(std::io::Error::other("full")) } else { Ok(()) }
        },
        |_| {},
    );
    assert!(
        matches!(outcome, Err(BackupError::Stream { offset, .. }) if offset > 100_000 && offset < 200_000)
    );
    let mut read = 0;
    let mut from = reading_from(bytes.as_slice());
    let outcome = check_backup(
        |into: &mut [u8]| {
            if read > 1000 {
                return Err(std::io::Error::other("gone"));
            }
            let len = into.len().min(7);
            let more = from(&mut into[..len])?;
            read += more;
            Ok(more)
        },
        |_| {},
    );
    assert!(matches!(outcome, Err(BackupError::Stream { offset: 1001.., .. })), "{outcome:?}");
    let mut file = Vec::new();
    store.backup(Source::Now, writing_to(&mut file), |_| {}).unwrap();
    assert!(file == bytes);
}

#[test]
fn a_restored_store_has_everything_and_goes_on_with_numbers_of_its_own() {
    let old = disk(64);
    let mut store = small(&old);
    let before = all(&store);
    let whole = backup(&store, Source::Now);
    let one = backup(&store, Source::Snapshot(&snapshot_name("x")));
    let last = store.put(&key("a"), b"since the backup").unwrap();
    for (block_size, blocks) in [(512, 30), (512, 64), (4096, 300)] {
        let device = MemDisk::new(geometry(block_size, blocks)).unwrap();
        let info = restore_to(&whole, device.clone()).unwrap();
        assert_eq!((info.extent, info.store_id), (Extent::Whole, options().store_id));
        let mut restored = open(device.clone());
        assert_eq!(all(&restored), before);
        assert_eq!(restored.store_id(), OTHER.store_id);
        assert!(restored.durable_revision() < last);
        let next = restored.put(&key("a"), b"new").unwrap();
        assert!(next.get() >> 16 > (last.get() >> 16) + (1 << 32), "{next} behind {last}");
        assert_eq!(restored.at(&snapshot_name("x")).unwrap().get(&key("a")).unwrap().bytes, b"one");
        assert_eq!(*restored.limits(), Limits::default_on(block_size, blocks));
        // Once more, from the restored one.
        let again = backup(&restored, Source::Now);
        let second = disk(64);
        restore(
            reading_from(again.as_slice()),
            second.clone(),
            &RestoreOptions::new(StoreId([8; 16])),
            |_| {},
        )
        .unwrap();
        assert_eq!(all(&open(second)), all(&restored));
    }
    let device = disk(64);
    let info = restore_to(&one, device.clone()).unwrap();
    assert_eq!((info.extent, info.records), (Extent::OneSnapshot, 2));
    let restored = open(device);
    let of_x: All = before
        .into_iter()
        .filter(|((view, key), _)| view == "x" && !key.is_empty())
        .map(|((_, key), value)| ((String::new(), key), value))
        .collect();
    assert_eq!(all(&restored), of_x);
}

/// The limits of a store that was formatted on such a device with the usual ones and the journal's of these tests.
trait DefaultOn {
    fn default_on(block_size: u32, blocks: u64) -> Self;
}

impl DefaultOn for Limits {
    fn default_on(block_size: u32, blocks: u64) -> Self {
        let device = MemDisk::new(geometry(block_size, blocks)).unwrap();
        *Store::format(device, &options()).unwrap().limits()
    }
}

/// A store of nothing is a backup of nothing.
#[test]
fn an_empty_store_can_be_saved_too() {
    let store = Store::format(disk(64), &options()).unwrap();
    let bytes = backup(&store, Source::Now);
    assert_eq!(bytes.len(), 112 + 36);
    let device = disk(64);
    restore_to(&bytes, device.clone()).unwrap();
    assert!(all(&open(device)).is_empty());
}

/// Chains of restores never use the numbers up.
#[test]
fn numbers_last_for_any_chain_of_restores() {
    let mut bytes = backup(&small(&disk(64)), Source::Now);
    // As if there had been 65,000 restores before.
    bytes = forge(bytes, |bytes| bytes[40..48].copy_from_slice(&((1_u64 << 48) - 5000).to_le_bytes()));
    let mut last = Revision::from_u64(0);
    for nth in 0..8 {
        let device = disk(64);
        restore_to(&bytes, device.clone()).unwrap();
        let mut store = open(device);
        let next = store.put(&key("a"), &[nth]).unwrap();
        assert!(next > last);
        last = next;
        bytes = backup(&store, Source::Now);
    }
}

fn prefix(name: &str) -> Prefix {
    Prefix::parse(&format!("/state/{name}")).unwrap()
}

fn seal_key() -> SealKey {
    SealKey::new(7, Zeroizing::new([7; 32]))
}

/// A quota, a sealed prefix, and a sealed value.
fn with_settings(disk: &MemDisk) -> Store<MemDisk> {
    let mut store = small(disk);
    store.set_nonces(Box::new(Arc::new(SystemEntropy)));
    store.set_quota(&prefix("a"), Quota { hard: Some(500), ..Quota::default() }).unwrap();
    store.seal_prefix(&prefix("c"), seal_key()).unwrap();
    store.put(&key("c/1"), b"secret").unwrap();
    store
}

/// What is sealed is sealed as it was, under the same revision, and the key opens it; the quota holds.
fn has_settings_of(store: &Store<MemDisk>, mut copy: Store<MemDisk>) {
    let (old, new) = (store.get(&key("c/1")).unwrap(), copy.get(&key("c/1")).unwrap());
    assert_eq!((new.bytes, new.form, new.revision), (old.bytes, Form::Sealed, old.revision));
    assert_eq!(copy.reveal(&key("c/1")).unwrap_err().kind(), ErrorKind::Locked);
    copy.unlock(&prefix("c"), seal_key()).unwrap();
    assert_eq!(copy.reveal(&key("c/1")).unwrap().unwrap().as_slice(), b"secret");
    assert_eq!(copy.quotas().collect::<Vec<_>>(), store.quotas().collect::<Vec<_>>());
    assert_eq!(copy.put(&key("a/1"), &[0; 500]).unwrap_err().kind(), ErrorKind::NoSpace);
}

#[test]
fn what_is_sealed_stays_sealed_and_what_the_store_keeps_for_itself_is_kept() {
    let old = disk(64);
    let mut store = with_settings(&old);
    store.snapshot(&snapshot_name("y")).unwrap();
    for source in [Source::Now, Source::Snapshot(&snapshot_name("y"))] {
        let bytes = backup(&store, source);
        let device = disk(64);
        restore_to(&bytes, device.clone()).unwrap();
        has_settings_of(&store, open(device));
    }
    let device = disk(64);
    salvage(old, device.clone(), &options(), Suspects::Leave).unwrap();
    let saved = open(device);
    assert_eq!(saved.snapshots().count(), 0);
    has_settings_of(&store, saved);
}

#[test]
fn what_does_not_fit_is_refused_before_the_device_is_touched() {
    let (store, bytes) = large();
    let info = check(&bytes).unwrap();
    let options = RestoreOptions::new(StoreId([9; 16]));
    for block_size in [512, 4096] {
        let needed = info.device_blocks_min(block_size, &options).unwrap();
        let enough = MemDisk::new(geometry(block_size, needed)).unwrap();
        restore(reading_from(bytes.as_slice()), enough.clone(), &options, |_| {}).unwrap();
        assert_eq!(all(&open(enough)), all(&store));
        let small = MemDisk::new(geometry(block_size, needed - 1)).unwrap();
        let before = small.image().unwrap();
        let error = restore(reading_from(bytes.as_slice()), small.clone(), &options, |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(small.image().unwrap() == before);
    }
    let with = |limits: Limits| RestoreOptions { limits: Some(limits), ..options };
    let exact =
        Limits { keys_max: 60, live_bytes_max: info.bytes, value_len_max: 10_000, ..Limits::default() };
    let device = || MemDisk::new(geometry(4096, 1024)).unwrap();
    assert!(restore(reading_from(bytes.as_slice()), device(), &with(exact), |_| {}).is_ok());
    let refused = |limits: Limits| {
        let outcome = restore(reading_from(bytes.as_slice()), device(), &with(limits), |_| {});
        match outcome {
            Err(BackupError::Store(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused(Limits { keys_max: 59, ..exact }), Error::TooManyKeys { limit: 59, .. }));
    let fewer = Limits { live_bytes_max: info.bytes - 1, ..exact };
    assert!(matches!(refused(fewer), Error::TooManyBytes { .. }));
    assert_eq!(info.device_blocks_min(512, &with(fewer)), None);
    let shorter = Limits { value_len_max: 9999, ..exact };
    assert!(matches!(refused(shorter), Error::ValueTooLong { limit: 9999, requested: 10_000 }));
}

#[test]
fn a_backup_of_a_snapshot_goes_on_while_the_store_is_written_to() {
    let (mut store, _) = large();
    let name = snapshot_name("x");
    store.snapshot(&name).unwrap();
    let wanted = backup(&store, Source::Snapshot(&name));
    let mut bytes = Vec::new();
    let mut to = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok::<(), Infallible>(())
    };
    let mut slow = store.begin_backup(Source::Snapshot(&name)).unwrap();
    let mut nth = 0;
    while slow.step(&store, &mut to).unwrap().is_some() {
        nth += 1;
        store.put(&key(&nth.to_string()), &[nth; 5000]).unwrap();
        store.delete(&key(&(60 - nth).to_string())).unwrap();
        store.put(&key(&format!("new{nth}")), b"new").unwrap();
        while store.compact_step().unwrap() == Compaction::Running {}
    }
    assert!(nth > 5 && bytes == wanted);
    let mut to = |_: &[u8]| Ok::<(), Infallible>(());
    for source in [Source::Now, Source::Snapshot(&name)] {
        let mut overtaken = store.begin_backup(source).unwrap();
        overtaken.step(&store, &mut to).unwrap();
        store.put(&key("a"), b"1").unwrap();
        if source != Source::Now {
            store.drop_snapshot(&name).unwrap();
        }
        let error = overtaken.step(&store, &mut to).unwrap_err();
        assert!(matches!(error, BackupError::Store(Error::BackupOvertaken)), "{error}");
        assert_eq!(overtaken.step(&store, &mut to).unwrap(), None, "nothing more is written");
    }
    assert!(matches!(store.begin_backup(Source::Snapshot(&name)), Err(Error::NoSnapshot { .. })));
}

#[test]
fn of_a_damaged_store_only_a_snapshot_from_before_can_be_saved() {
    let disk = disk(64);
    let mut store = small(&disk);
    store.snapshot(&snapshot_name("y")).unwrap();
    let of_x = backup(&store, Source::Snapshot(&snapshot_name("x")));
    drop(store);
    // Region A: header, closing, two puts, the snapshot; then the put that will be lost.
    disk.write(BlockIndex::new(2 + 5), &[0xEE; 512]).unwrap();
    let (store, recovery) = Store::open(disk, Access::Read).unwrap();
    assert!(matches!(recovery.tail, Verdict::Damaged { .. }));
    assert!(matches!(store.begin_backup(Source::Now), Err(Error::Damaged)));
    assert!(matches!(store.begin_backup(Source::Snapshot(&snapshot_name("y"))), Err(Error::Damaged)));
    assert!(backup(&store, Source::Snapshot(&snapshot_name("x"))) == of_x);
}

/// Any bytes where records and the fields of the header are, under checksums that are right.
#[test]
fn backups_that_nobody_wrote_are_refused_or_restored_whole() {
    let whole = backup(&small(&disk(64)), Source::Now);
    let records = 124..whole.len() - 36;
    let (mut restored, mut refused) = (0, 0);
    for seed in 0..6000 {
        let mut random = Random::new(seed);
        let bytes = forge(whole.clone(), |bytes| {
            for _ in 0..=random.below(3) {
                let span = if random.below(8) == 0 { 10..108 } else { records.clone() };
                let at =
                    span.start + usize::try_from(random.below(u32::try_from(span.len()).unwrap())).unwrap();
                bytes[at] = match random.below(4) {
                    0 => u8::try_from(random.below(256)).unwrap(),
                    1 => b'a' + u8::try_from(random.below(3)).unwrap(),
                    _ => u8::try_from(random.below(9)).unwrap(),
                };
            }
        });
        let device = disk(64);
        match restore_to(&bytes, device.clone()) {
            Ok(info) => {
                let store = open(device);
                // What is past and no snapshot has is forgotten.
                assert!(check(&backup(&store, Source::Now)).unwrap().records <= info.records, "seed {seed}");
                restored += 1;
            }
            Err(BackupError::Refused { .. }) => {
                let error = Store::open(device, Access::Read).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                refused += 1;
            }
            Err(BackupError::Store(error)) => {
                assert!(matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Invalid), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(restored > 500 && refused > 2000, "{restored} {refused}");
}

/// Stores by chance, restored to devices by chance.
#[test]
fn whatever_a_store_holds_comes_back() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut store = Store::format(disk(200), &options()).unwrap();
        for nth in 0..random.below(120) {
            let name = key(&random.below(12).to_string());
            let view = snapshot_name(&random.below(4).to_string());
            let value = vec![u8::try_from(nth).unwrap(); usize::try_from(random.below(700)).unwrap()];
            let outcome = match random.below(10) {
                0..=4 => store.put_buffered(&name, &value).map(drop),
                5 | 6 => store.delete_buffered(&name).map(drop),
                7 => store.snapshot(&view).map(drop),
                8 => store.drop_snapshot(&view).map(drop),
                _ => store.compact_step().map(drop),
            };
            if let Err(error) = outcome {
                assert!(matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Conflict), "{error}");
            }
        }
        let bytes = backup(&store, Source::Now);
        let info = check(&bytes).unwrap();
        let block_size = [512, 1024, 4096][usize::try_from(random.below(3)).unwrap()];
        let blocks = info.device_blocks_min(block_size, &OTHER).unwrap() + u64::from(random.below(2));
        let device = MemDisk::new(geometry(block_size, blocks)).unwrap();
        restore_to(&bytes, device.clone()).unwrap();
        let mut restored = open(device.clone());
        assert_eq!(all(&restored), all(&store), "seed {seed}");
        // It is as full as it can be, and everything can be taken away.
        while restored.compact_step().unwrap() == Compaction::Running {}
        assert_eq!(all(&restored), all(&store), "seed {seed}");
        for (name, _) in store.iter() {
            restored.delete(&name).unwrap();
        }
        for view in store.snapshots() {
            restored.drop_snapshot(&view.name).unwrap();
        }
        assert_eq!(restored.stats().past_values, 0);
    }
}

/// What is made on a device that has a store: a restored one, or a salvaged one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Making {
    Restore,
    Salvage,
}

/// Over a store that has been compacted once, and has taken so many steps of another compaction.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Over {
    making: Making,
    steps: usize,
}

const BLOCKS: u64 = 80;

impl Making {
    fn old_options() -> Options {
        Options { store_id: StoreId(*b"what was before."), ..options() }
    }

    /// What is saved: more than one frame.
    fn source() -> (MemDisk, Store<MemDisk>) {
        let disk = disk(64);
        let mut store = small(&disk);
        store.put(&key("b"), &[4; 900]).unwrap();
        store.put(&key("c"), &[5; 900]).unwrap();
        (disk, store)
    }

    fn make(self, device: SimDisk) -> Result<(), ErrorKind> {
        let (from, store) = Self::source();
        match self {
            Self::Restore => {
                let bytes = backup(&store, Source::Now);
                restore_to(&bytes, device).map(drop).map_err(|error| error.kind())
            }
            Self::Salvage => {
                let options = Options { store_id: OTHER.store_id, ..options() };
                salvage(from, device, &options, Suspects::Leave).map(drop).map_err(|error| error.kind())
            }
        }
    }

    /// `old`, `new`, `none`; anything else is what must not be.
    fn look(self, device: &SimDisk) -> String {
        let store = match Store::open(device.clone(), Access::Read) {
            Ok((store, recovery)) if !matches!(recovery.tail, Verdict::Damaged { .. }) => store,
            Ok((_, recovery)) => return format!("{recovery:?}"),
            // Its roots are wiped first and written last: there are moments when only they are missing.
            Err(Error::Journal(error))
                if matches!(
                    *error,
                    journal::JournalError::NoStore | journal::JournalError::SuperblocksLost
                ) =>
            {
                return "none".to_owned();
            }
            Err(error) => return error.to_string(),
        };
        let found = all(&store);
        let mut wanted = all(&Self::source().1);
        if self == Self::Salvage {
            wanted.retain(|(view, _), _| view.is_empty());
        }
        if found == wanted && store.store_id() == OTHER.store_id {
            return "new".to_owned();
        }
        let is_old = found.len() == 2 && store.store_id() == Self::old_options().store_id;
        if is_old { "old".to_owned() } else { format!("{found:?}") }
    }
}

impl Workload<SimDisk> for Over {
    fn name(&self) -> &str {
        match self.making {
            Making::Restore => "restore over an older store",
            Making::Salvage => "salvage over an older store",
        }
    }

    fn start(&self) -> (DiskImage, Expected) {
        let disk = SimDisk::new(geometry(512, BLOCKS).with_torn_blocks());
        let mut store = Store::format(disk.clone(), &Making::old_options()).unwrap();
        store.put(&key("a"), &[1; 900]).unwrap();
        while store.compact_step().unwrap() == Compaction::Running {}
        store.put(&key("b"), &[2; 900]).unwrap();
        for _ in 0..self.steps {
            assert!(store.compact_step().unwrap() == Compaction::Running);
        }
        store.close().unwrap();
        (disk.image(), Expected::starting([("device".into(), Some(Value::bytes(b"old")))]))
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        let cell = |what: &[u8]| vec![("device".into(), Some(Value::bytes(what)))];
        disk.tell(Mark::Begin(Operation::new("make a store", vec![cell(b"none"), cell(b"new")])));
        disk.tell(match self.making.make(disk.clone()) {
            Ok(()) => Mark::Acknowledged,
            Err(_) => Mark::Failed(Fate::Unknown),
        });
    }

    fn recover(&self, disk: &SimDisk, _life: Life) -> Result<(), String> {
        // What can be opened can be used: nothing is taken for damage that a power cut left.
        match Store::open(disk.clone(), Access::Write) {
            Ok((_, recovery)) if recovery.read_only.is_some() => Err(format!("{recovery:?}")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn check(&self, disk: &SimDisk, _life: Life, expected: &Expected) -> Found {
        let found = self.making.look(disk);
        if !["old", "new", "none"].contains(&found.as_str()) {
            return Found::broken(Class::Mix, found);
        }
        expected.judge(|_| Some(Value::bytes(found.as_bytes())))
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        self.making.look(first) == self.making.look(second)
    }
}

#[test]
fn a_store_that_is_made_is_there_whole_or_not_at_all() {
    let options =
        crashsim::Options { states_max: 600, depth: 1, nested_states_max: 8, ..crashsim::Options::default() };
    let cases =
        (0..3).flat_map(|steps| [Making::Restore, Making::Salvage].map(|making| Over { making, steps }));
    for making in cases {
        for profile in DiskProfile::ALL {
            let recorded = Scenario::plain(making.name()).record::<SimDisk>(&making).unwrap();
            let report = Explorer::default().explore::<SimDisk>(
                &making,
                &recorded,
                profile,
                &options,
                &Gauge::default(),
            );
            println!("{:<30} {:<18} visited {}", making.name(), profile.name(), report.visited);
            if let Some(failure) = &report.failure {
                panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(&making, &failure.id).unwrap());
            }
        }
        let campaign = Campaign {
            profiles: vec![DiskProfile::AnySubsetTorn],
            options: crashsim::Options { depth: 0, states_max: 60, ..options.clone() },
            faults: Some(crashsim::Options { depth: 0, states_max: 60, kills: false, ..options.clone() }),
            budget: u64::MAX,
            seeds_max: 1,
        };
        for row in campaign.run::<SimDisk>(&Explorer::default(), &making, &Gauge::default(), |_| {}) {
            println!("{:<30} runs {} visited {}", making.name(), row.runs, row.report.visited);
            if let Some(failure) = &row.report.failure {
                panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(&making, &failure.id).unwrap());
            }
        }
    }
}

/// A test of the test: each flush but that of the last seal is missed by somebody.
#[test]
fn every_flush_of_a_restore_is_needed() {
    let options = crashsim::Options { states_max: 400, depth: 0, ..crashsim::Options::default() };
    let making = Over { making: Making::Restore, steps: 1 };
    let scenario = Scenario::plain(making.name());
    let all = barriers::<SimDisk>(&making, &scenario, DiskProfile::AnySubsetTorn, &options);
    let missed: Vec<bool> = all.iter().map(|barrier| barrier.removed.is_some()).collect();
    // Behind the wiped roots, behind the region, behind the new roots, behind the seal. The seal's covers the roots as well.
    assert_eq!(missed, [true, true, false, false], "{all:?}");
}

/// A store with everything that it keeps for itself: a quota, a snapshot, and a sealed prefix whose rotation runs.
fn with_own_records(disk: &MemDisk, limits: Limits) -> Store<MemDisk> {
    let mut store = Store::format(disk.clone(), &Options { limits, ..options() }).unwrap();
    store.set_nonces(Box::new(Arc::new(SystemEntropy)));
    let (quota, sealed) = (Prefix::parse("/state/a").unwrap(), Prefix::parse("/state/s").unwrap());
    store.set_quota(&quota, Quota { keys: Some(1000), ..Quota::default() }).unwrap();
    store.seal_prefix(&sealed, SealKey::new(1, Zeroizing::new([1; 32]))).unwrap();
    store.put(&key("s/empty"), b"").unwrap();
    store.snapshot(&snapshot_name("x")).unwrap();
    store.begin_rotation(&sealed, SealKey::new(2, Zeroizing::new([2; 32]))).unwrap();
    store
}

/// What a store wrote fits a store of the same geometry and limits: restored from a backup, and salvaged.
fn comes_back(disk: &MemDisk, limits: Limits) {
    let store = open(disk.clone());
    let bytes = backup(&store, Source::Now);
    let to = MemDisk::new(disk.geometry()).unwrap();
    let info = restore_to(&bytes, to.clone()).unwrap();
    let blocks_min = info.device_blocks_min(512, &OTHER).unwrap();
    assert!(blocks_min <= disk.geometry().block_count(), "{blocks_min}");
    let mut restored = open(to);
    assert_eq!(all(&restored), all(&store));
    assert_eq!(restored.limits(), store.limits());
    assert!(restored.quotas().eq(store.quotas()) && restored.sealed_prefixes().eq(store.sealed_prefixes()));
    let bytes = backup(&store, Source::Snapshot(&snapshot_name("x")));
    restore_to(&bytes, MemDisk::new(disk.geometry()).unwrap()).unwrap();
    let to = MemDisk::new(disk.geometry()).unwrap();
    let saved = salvage(disk.clone(), to.clone(), &Options { limits, ..options() }, Suspects::Leave).unwrap();
    let salvaged = open(to);
    assert_eq!(saved.certain, salvaged.stats().live_keys);
    assert!(salvaged.iter().eq(store.iter()));
    // Where it was full, deletes work.
    let keys: Vec<Key> = restored.iter().map(|(key, _)| key).collect();
    for key in &keys {
        restored.delete(key).unwrap();
    }
}

#[test]
fn store_f2_own_records_are_not_limited_like_values_of_users() {
    for value_len_max in [0, 1, 24, 45, 89, 90, 91] {
        let limits = Limits { value_len_max, ..Limits::default() };
        let disk = disk(64);
        let mut store = with_own_records(&disk, limits);
        let longest = usize::try_from(value_len_max).unwrap();
        store.put(&key("a/longest"), &vec![1; longest]).unwrap();
        assert!(store.put(&key("a/longest"), &vec![1; longest + 1]).is_err());
        store.close().unwrap();
        comes_back(&disk, limits);
    }
}

#[test]
fn store_f2_a_store_that_is_at_a_limit_comes_back() {
    let none = Limits::default();
    let at_limits = [
        Limits { keys_max: 30, value_len_max: 20, ..none },
        Limits { live_bytes_max: 2000, ..none },
        Limits { live_bytes_max: 2000, value_len_max: 20, ..none },
        none,
        Limits { value_len_max: 20, ..none },
    ];
    for (limits, value_len) in at_limits.into_iter().flat_map(|limits| [(limits, 0), (limits, 17)]) {
        let disk = disk(64);
        let mut store = with_own_records(&disk, limits);
        let mut nth = 0;
        // Smaller and smaller, until not even an empty value fits.
        for len in (0..=value_len).rev() {
            loop {
                match store.put_buffered(&key(&format!("a/{nth:04}")), &vec![1; len]) {
                    Ok(_) => nth += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                        break;
                    }
                }
            }
        }
        assert!(nth > 5, "{limits:?}");
        store.close().unwrap();
        comes_back(&disk, limits);
    }
}

/// What the header says of the longest value may be about a record of the store's own; a user's value is looked at itself.
#[test]
fn store_f2_a_value_that_is_too_long_for_other_limits_is_refused_as_before() {
    for (len, is_wiped) in [(90, true), (91, false)] {
        let from = disk(64);
        let mut store = with_own_records(&from, Limits::default());
        store.put(&key("a/b"), &vec![1; len]).unwrap();
        let bytes = backup(&store, Source::Now);
        let to = disk(64);
        drop(Store::format(to.clone(), &options()).unwrap());
        let limits = Some(Limits { value_len_max: 20, ..Limits::default() });
        let outcome =
            restore(reading_from(bytes.as_slice()), to.clone(), &RestoreOptions { limits, ..OTHER }, |_| {});
        let requested = u64::try_from(len).unwrap();
        let Err(BackupError::Store(Error::ValueTooLong { limit: 20, requested: found })) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((found, Store::open(to, Access::Read).is_err()), (requested, is_wiped));
    }
}
