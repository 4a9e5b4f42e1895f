//! Defects that stores of this kind have shipped with, each as the promise that it broke.
//!
//! What another test proves already is not proved again:
//!
//! | defect | proved by |
//! |---|---|
//! | deleted keys return after a power cut in a region that is used again | `crash.rs`: script "deleted keys in regions that are used again"; `damage.rs`: sample "a region used again" |
//! | one flipped superblock bit opens as an empty store | `damage.rs`: `no_flipped_bit_breaks_a_promise` |
//! | wedged at a quarter full, deletes fail (igor53627/mdbx-rs#244, cberner/redb#620) | `store.rs`: `two_fifths_of_the_device_hold_live_data_and_a_full_store_can_be_emptied`; `crash.rs`: `a_full_store_opens_however_often_it_crashed_and_deletes_still_work` |
//! | silent loss after damage in the middle, survivors overwritten by the next put (fjall's reader truncates) | `damage.rs`: `keys_from_before_a_gap_are_suspect_and_those_after_it_certain`; rule 7 of the judge |
//! | NUL, newline, `//`, trailing slash, bare root as keys | `key.rs`: `what_is_no_key_is_refused_and_not_repaired`; fuzz body `key_parse` |
//! | a tail sector rewritten in place (open-nexus statefs) | journal `rules.rs`: `rule_2_nothing_durable_and_live_is_ever_rewritten` |
//! | flush that does not flush (spacejam/sled#1452, #928, #1351); set says OK, nothing stored (ESP-IDF#9149) | `store.rs`: `what_each_operation_asks_of_the_device`; `crash.rs`: `every_barrier_is_needed_or_has_a_reason` |
//! | checkpoint races with a reset (SQLite, WAL-reset bug) | `crash.rs`: script "changes between the steps of a compaction"; there is one owner |
//! | torn end that is not zeros refused (etcd#5230, #6515, okaywal) | `damage.rs`: `no_garbled_end_of_a_block_breaks_a_promise`, rule 5 of the judge |
//! | torn tail left in place, commits behind it invisible (pmcfadin/cqlite#1418, amelielabs/amelie#17); new bytes complete a torn header (tweedegolf/sequential-storage#136) | journal `rules.rs`: `rule_5_discarded_blocks_never_come_back_behind_a_reset_record`; `damage.rs`: samples "several lives", rule 9 |
//! | torn root page (etcd#16596) | `damage.rs`; journal `rules.rs`: `rule_6_a_missing_slot_is_rewritten_before_commits_are_accepted` |
//! | repair panics (cberner/redb#1333); repair accepts garbage (google/leveldb#251) | fuzz bodies `open_write`, `salvage`; rules 1 and 10 of the judge |
//! | after a failed fsync the cache lies (redb#299, #450, redis#8111) | `store.rs`: `a_write_that_failed_is_not_shown_and_ends_all_writing`; journal `rules.rs`: `rule_7_…` |
//! | metadata ahead of data (littlefs#936, #822), no fsync after compaction (surrealdb/surrealkv#390) | `crash.rs`: `every_barrier_is_needed_or_has_a_reason` |
//! | interrupted collection runs again over good data (Zephyr NVS#34722, #17250, #26407) | journal `rules.rs`: `rule_6_interrupted_and_retried_switches_lose_nothing` |
//! | half a transaction applied (litedb-org/LiteDB#2935) | `crash.rs`: script "batch"; rule 2 of the judge |
//! | no checksums, wrong data much later (etcd-io/bbolt#335) | rule 1 of the judge |
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use damage_cases::ImageDisk;
use journal::{Evidence, Journal, JournalError};
use media::{BlockDevice as _, BlockIndex, Geometry};
use statefs::{
    Access, Batch, Certainty, Compaction, Error, ErrorKind, Key, Limits, Options, Prefix, Recovery, Store,
    StoreId, Verdict, fsck,
};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn disk(block_size: u32, blocks: u64) -> ImageDisk {
    let geometry = Geometry::new(block_size, blocks).unwrap();
    ImageDisk::new(geometry, vec![0; usize::try_from(geometry.byte_len()).unwrap()])
}

fn options() -> Options {
    Options::new(StoreId(*b"others' mistakes"))
}

fn open(disk: &ImageDisk, access: Access) -> (Store<&ImageDisk>, Recovery) {
    Store::open(disk, access).unwrap()
}

/// The first commit of a store is in block 4: two superblocks, the header of the region, its closing.
const FIRST_COMMIT: u64 = 4;

fn ruin(disk: &ImageDisk, blocks: impl IntoIterator<Item = u64>) {
    let size = disk.geometry().block_size();
    disk.tamper(|bytes| {
        for block in blocks {
            let at = usize::try_from(block).unwrap() * size;
            bytes[at..at + size].fill(0x5A);
        }
    });
}

/// RocksDB#6288, #6963: a read error in the log was taken for its end, and what came after it was gone.
#[test]
fn rocksdb_6288_a_read_error_is_not_the_end_of_the_log() {
    let full = disk(512, 64);
    let mut store = Store::format(&full, &options()).unwrap();
    for name in ["a", "b", "c", "d"] {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
    store.close().unwrap();
    for unreadable in FIRST_COMMIT..FIRST_COMMIT + 4 {
        let disk = full.copy();
        disk.make_unreadable(unreadable);
        let (mut store, recovery) = open(&disk, Access::Write);
        let is_told = matches!(recovery.tail, Verdict::Damaged { evidence: Evidence::Unreadable, .. });
        assert!(is_told && recovery.live_keys == 3, "{recovery:?}");
        assert_eq!(store.put(&key("e"), b"").unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(disk.take_asked().writes, 0, "and nothing is overwritten");
        let check = fsck(&disk).unwrap();
        assert_eq!((check.blocks.unreadable, check.lost.unwrap().at.get()), (1, unreadable));
    }
}

/// dolthub/doltlite#1352, #1890: the scan for what comes after a bad block was capped, so far-away evidence was not found, damage
/// was called torn, and the next commit overwrote good data. Here all lies between the first commit and the seal at the end of
/// a region of several hundred pieces of reading.
#[test]
fn doltlite_1890_evidence_is_found_however_far_behind_the_damage_it_is() {
    let disk = disk(512, 160_004);
    let mut store = Store::format(&disk, &options()).unwrap();
    store.put(&key("first"), b"1").unwrap();
    let value = vec![7; 60_000];
    while store.stats().journal.blocks < 70_000 {
        store.put(&key("large"), &value).unwrap();
    }
    assert_eq!(store.stats().journal.switches, 0);
    store.close().unwrap();
    // Everything but the two seals. On a device of this size the regions begin after marks.
    let image = disk.image();
    let is_commit = |block: &[u8]| block.starts_with(b"SFJ1") && block[5] == 4;
    let commits = image.chunks(512).zip(0..).filter(|(block, _)| is_commit(block)).map(|(_, at)| at);
    let (first, last) = commits.fold((u64::MAX, 0), |(first, last), at| (first.min(at), last.max(at)));
    ruin(&disk, first..last + 1);
    let before = disk.image();
    disk.take_asked();
    let (mut store, recovery) = open(&disk, Access::Write);
    let is_told = matches!(recovery.tail, Verdict::Damaged { at: 2, first_lost: 3, .. });
    assert!(is_told, "{recovery:?}");
    let asked = disk.take_asked();
    assert!(asked.blocks_read <= 4 * 160_004 && asked.reads < 3000, "{asked:?}");
    assert!(store.put(&key("first"), b"2").is_err());
    assert!(disk.image() == before);
}

/// cberner/redb (`tests/crash_consistency.rs`): the header said that the file had grown before it had, and it never opened again. Here
/// the geometry is fixed: on a larger device a store opens as it is, on a smaller one it is refused by name.
#[test]
fn redb_a_store_on_a_device_of_another_size_opens_or_is_refused_by_name() {
    let first = disk(512, 64);
    let mut store = Store::format(&first, &options()).unwrap();
    store.put(&key("a"), b"1").unwrap();
    while store.compact_step().unwrap() == Compaction::Running {}
    store.put(&key("a"), b"2").unwrap();
    store.close().unwrap();
    for blocks in [65, 100] {
        let mut bytes = first.image();
        bytes.resize(blocks * 512, 0);
        let larger = ImageDisk::new(Geometry::new(512, u64::try_from(blocks).unwrap()).unwrap(), bytes);
        for value in [b"2", b"3"] {
            let (mut store, recovery) = open(&larger, Access::Write);
            assert_eq!((recovery.tail, recovery.roots_valid), (Verdict::Clean, 2));
            assert_eq!(store.get(&key("a")).unwrap().bytes, value);
            store.put(&key("a"), b"3").unwrap();
            while store.compact_step().unwrap() == Compaction::Running {}
            store.close().unwrap();
        }
    }
    for blocks in [20, 63] {
        let mut bytes = first.image();
        bytes.truncate(blocks * 512);
        let smaller = ImageDisk::new(Geometry::new(512, u64::try_from(blocks).unwrap()).unwrap(), bytes);
        let before = smaller.image();
        for access in [Access::Read, Access::Write] {
            let error = Store::open(&smaller, access).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        assert!(smaller.image() == before);
    }
}

/// zephyr#84874: an eight-bit cycle counter came round after 256 power cuts, and deleted things were valid again. Here three times as
/// many lives, each with a switch, in regions of a few blocks; every one leaves its garbage where the next ones write.
#[test]
fn zephyr_84874_nothing_comes_round_after_256_power_cuts() {
    let disk = disk(512, 32);
    drop(Store::format(&disk, &options()).unwrap());
    let mut last = 0;
    for life in 0..800_u32 {
        let (mut store, recovery) = open(&disk, Access::Write);
        assert!(!matches!(recovery.tail, Verdict::Damaged { .. }), "life {life}: {recovery:?}");
        assert_eq!(store.get(&key("gone")), None, "life {life}");
        let is_there = store.get(&key("kept")).map(|value| value.bytes.to_vec());
        assert_eq!(is_there, life.checked_sub(1).map(|before| before.to_le_bytes().to_vec()));
        let revision = store.put(&key("gone"), &[0; 100]).unwrap().get();
        assert!(revision > last, "life {life}");
        store.put(&key("kept"), &life.to_le_bytes()).unwrap();
        last = store.delete(&key("gone")).unwrap().unwrap().get();
        while store.compact_step().unwrap() == Compaction::Running {}
    }
    let (_, recovery) = open(&disk, Access::Read);
    assert!(recovery.incarnation >= 800);
}

/// zephyr#119632: user data was parsed as entries. Here values hold whole blocks of this very store, of places where they might be
/// taken for current; what stands before and behind them rots, and none of them is ever seen.
#[test]
fn zephyr_119632_user_data_is_never_parsed_as_entries() {
    let first = disk(512, 128);
    let mut store = Store::format(&first, &options()).unwrap();
    store.put(&key("deleted"), b"planted").unwrap();
    let block = |at: u64| {
        let mut bytes = [0; 512];
        first.read(BlockIndex::new(at), &mut bytes).unwrap();
        bytes
    };
    let planted = block(FIRST_COMMIT).repeat(20);
    store.delete(&key("deleted")).unwrap();
    for name in ["a", "b"] {
        store.put(&key(name), &planted).unwrap();
    }
    store.close().unwrap();
    let used = 2 + 2 + 2 + 2 * 23 + 2;
    for rotten in FIRST_COMMIT + 1..used {
        let disk = first.copy();
        ruin(&disk, [rotten]);
        let (store, recovery) = open(&disk, Access::Write);
        let found = store.get(&key("deleted"));
        let is_suspect = store.certainty(&key("deleted")) == Certainty::Suspect;
        // Only where the deletion itself is lost may the key be back, and then as a suspect.
        assert!(found.is_none() || (is_suspect && rotten == FIRST_COMMIT + 1), "{rotten}: {recovery:?}");
        assert!(store.iter().all(|(_, value)| value.bytes == planted || value.bytes == b"planted"));
    }
}

/// Unopenable at a bound of records: what may be written may be read again, at every bound at once: the most operations of a
/// batch, the most keys, and many more records than keys.
#[test]
fn what_was_accepted_at_a_bound_of_records_opens_again() {
    let disk = disk(4096, 4096);
    let limits = Limits { keys_max: 65_535, batch_ops_max: 65_535, ..Limits::default() };
    let journal = journal::Limits { frame_blocks_max: 256, in_flight_blocks_max: 1024 };
    let mut store = Store::format(&disk, &Options { limits, journal, ..options() }).unwrap();
    let mut all = Batch::new();
    for number in 0..65_535_u32 {
        all.put(&key(&format!("{number:x}")), b"").unwrap();
        if number == 40_000 {
            // A frame has a bound in bytes as well, which comes first with keys as long as these.
            assert!(store.batch(&all).is_ok());
            all = Batch::new();
        }
    }
    store.batch(&all).unwrap();
    assert_eq!(store.put(&key("one more"), b"").unwrap_err().kind(), ErrorKind::NoSpace);
    // Buffered records share frames of at most 65,536; there are three times as many as may be keys.
    for number in 0..200_000_u32 {
        store.put_buffered(&key(&format!("{:x}", number % 5)), b"v").unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let (mut store, recovery) = open(&disk, Access::Write);
    assert_eq!((recovery.live_keys, recovery.tail), (65_535, Verdict::Clean));
    assert_eq!(store.get(&key("4")).unwrap().bytes, b"v");
    assert!(store.delete(&key("ffff")).unwrap().is_none());
    assert!(store.delete(&key("fffe")).unwrap().is_some());
    store.put(&key("one more"), b"").unwrap();
}

/// A corrupt length that made a reader buffer the whole region: whatever a frame says of the lengths in it, no more than the frame
/// is read for it, and it is refused by name.
#[test]
fn a_corrupt_length_buffers_nothing() {
    let lengths = [0_u32, 1, 65_536, 65_537, 0x7FFF_FFFF, u32::MAX];
    for (kind, head) in [(1_u8, 0_usize), (3, 8)] {
        for len in lengths {
            let disk = disk(512, 64);
            let engine = {
                let store = Store::format(&disk, &options()).unwrap();
                drop(store);
                let opened = Journal::open(&disk, Access::Read, &mut |_| Ok::<_, JournalError>(())).unwrap();
                opened.journal.engine().to_vec()
            };
            let mut journal =
                Journal::format(&disk, options().store_id, journal::Limits::default(), &engine).unwrap();
            let mut body = vec![kind, 8];
            body.extend_from_slice(&len.to_le_bytes());
            body.extend_from_slice(&vec![0; head]);
            body.extend_from_slice(b"/state/a");
            let _durable = journal.commit(&body).unwrap();
            drop(journal);
            disk.take_asked();
            match Store::open(&disk, Access::Read) {
                Ok((store, _)) => assert_eq!((kind, len, store.iter().count()), (1, 0, 1)),
                Err(error) => assert!(matches!(error, Error::Corrupt { seq: 3, index: 0, .. }), "{error}"),
            }
            assert!(disk.take_asked().blocks_read <= 4 * 64);
        }
    }
}

/// rauc#970, sbabic/swupdate#5, libubootenv#15: "bad CRC, using default environment". Here lost roots are an error of their own
/// that says to salvage, never an empty store, and nothing is written over what is left.
#[test]
fn rauc_970_lost_roots_are_an_error_and_no_default() {
    let full = disk(512, 64);
    let mut store = Store::format(&full, &options()).unwrap();
    store.put(&key("slot"), b"A").unwrap();
    store.close().unwrap();
    for roots in [vec![0, 1, 62, 63], vec![1, 63]] {
        let disk = full.copy();
        ruin(&disk, roots);
        let before = disk.image();
        for access in [Access::Read, Access::Write] {
            let error = Store::open(&disk, access).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        assert!(disk.image() == before);
    }
    // With one of the two, nothing is lost and it is told.
    let disk = full.copy();
    ruin(&disk, [1]);
    let (store, recovery) = open(&disk, Access::Read);
    assert_eq!((recovery.roots_valid, store.list(&Prefix::root(), None, 9).unwrap().entries.len()), (1, 1));
}
