//! What rots is noticed, reported, and not passed off as the newest.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use media::{BlockDevice, BlockIndex, Geometry, MemDisk};
use statefs::{Access, Certainty, Compaction, ErrorKind, Key, Options, Recovery, Store, StoreId, Verdict};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

const BLOCKS: u64 = 64;

fn new() -> (MemDisk, Store<MemDisk>) {
    let disk = MemDisk::new(Geometry::new(512, BLOCKS).unwrap()).unwrap();
    let store = Store::format(disk.clone(), &Options::new(StoreId([9; 16]))).unwrap();
    (disk, store)
}

fn flip(disk: &MemDisk, block: u64, byte: usize) {
    let mut bytes = [0; 512];
    disk.read(BlockIndex::new(block), &mut bytes).unwrap();
    bytes[byte] ^= 1;
    disk.write(BlockIndex::new(block), &bytes).unwrap();
}

fn open(disk: &MemDisk) -> (Store<MemDisk>, Recovery) {
    Store::open(disk.clone(), Access::Write).unwrap()
}

/// The first commit of a store is in block 4: two superblocks, the header of the region, its closing.
const FIRST_COMMIT: u64 = 4;

#[test]
fn keys_from_before_a_gap_are_suspect_and_those_after_it_certain() {
    let (disk, mut store) = new();
    store.put(&key("old"), b"1").unwrap();
    store.put(&key("lost"), b"2").unwrap();
    store.put(&key("new"), b"3").unwrap();
    store.close().unwrap();
    flip(&disk, FIRST_COMMIT + 1, 100);
    let (mut store, recovery) = open(&disk);
    assert!(
        matches!(recovery.tail, Verdict::Damaged { at: 3, first_lost: 4, last_lost: 4, .. }),
        "{recovery:?}"
    );
    assert_eq!(
        (recovery.live_keys, recovery.suspect_keys, recovery.read_only),
        (2, 1, Some("it is damaged"))
    );
    assert_eq!(store.get(&key("old")).unwrap().certainty, Certainty::Suspect);
    assert_eq!(store.get(&key("new")).unwrap().certainty, Certainty::Certain);
    assert_eq!(store.get(&key("new")).unwrap().bytes, b"3");
    assert!(store.get(&key("lost")).is_none());
    assert_eq!(store.certainty(&key("lost")), Certainty::Suspect, "that it is not there is no news");
    assert_eq!(store.put(&key("new"), b"4").unwrap_err().kind(), ErrorKind::ReadOnly);
    let before = disk.image().unwrap();
    store.close().unwrap();
    drop(open(&disk));
    assert!(disk.image().unwrap() == before, "nothing is written to a damaged store");
}

#[test]
fn between_two_gaps_nothing_is_certain() {
    let (disk, mut store) = new();
    for name in ["a", "b", "c", "d", "e"] {
        store.put(&key(name), b"1").unwrap();
    }
    store.close().unwrap();
    flip(&disk, FIRST_COMMIT + 1, 60);
    flip(&disk, FIRST_COMMIT + 3, 60);
    let (store, recovery) = open(&disk);
    assert_eq!((recovery.live_keys, recovery.suspect_keys), (3, 2), "{recovery:?}");
    let certainty = |name: &str| store.get(&key(name)).unwrap().certainty;
    assert_eq!(["a", "c", "e"].map(certainty), [Certainty::Suspect, Certainty::Suspect, Certainty::Certain]);
}

#[test]
fn when_the_last_commit_rots_every_key_is_suspect() {
    let (disk, mut store) = new();
    store.put(&key("a"), b"1").unwrap();
    store.put(&key("b"), b"2").unwrap();
    store.close().unwrap();
    flip(&disk, FIRST_COMMIT + 1, 60);
    let (store, recovery) = open(&disk);
    assert_eq!((recovery.live_keys, recovery.suspect_keys), (1, 1), "{recovery:?}");
    assert_eq!(store.get(&key("a")).unwrap().certainty, Certainty::Suspect);
}

#[test]
fn what_is_put_and_deleted_behind_a_gap_is_not_there() {
    let (disk, mut store) = new();
    store.put(&key("a"), b"1").unwrap();
    store.put(&key("b"), b"2").unwrap();
    store.delete(&key("a")).unwrap();
    store.close().unwrap();
    flip(&disk, FIRST_COMMIT + 1, 60);
    let (store, recovery) = open(&disk);
    assert!(store.get(&key("a")).is_none());
    assert_eq!((recovery.live_keys, recovery.suspect_keys), (0, 0));
}

/// Whatever bit flips in a store that was closed: what is answered as certain is right, and what is missing is reported.
#[test]
fn no_flipped_bit_is_answered_for() {
    let (disk, mut store) = new();
    for round in 0..3_u8 {
        for name in ["a", "b", "c"] {
            store.put(&key(name), &[round; 300]).unwrap();
        }
        if round == 1 {
            while store.compact_step().unwrap() == Compaction::Running {}
        }
    }
    store.delete(&key("b")).unwrap();
    store.close().unwrap();
    let good = disk.image().unwrap();
    let (mut damaged, mut unnoticed) = (0, 0);
    for block in 0..BLOCKS {
        for byte in (0..512).step_by(17) {
            let disk = MemDisk::from_image(disk.geometry(), good.clone()).unwrap();
            flip(&disk, block, byte);
            let (store, recovery) = open(&disk);
            let is_damaged = matches!(recovery.tail, Verdict::Damaged { .. });
            damaged += u32::from(is_damaged);
            unnoticed += u32::from(!is_damaged);
            for (name, wanted) in [("a", Some(2)), ("b", None), ("c", Some(2))] {
                let found = store.get(&key(name));
                if !is_damaged || store.certainty(&key(name)) == Certainty::Certain {
                    assert_eq!(
                        found.map(|value| value.bytes[0]),
                        wanted,
                        "block {block} byte {byte} {name} {recovery:?}"
                    );
                }
            }
        }
    }
    println!("damaged {damaged}, in blocks that do not matter {unnoticed}");
    assert!(damaged > 0);
}
