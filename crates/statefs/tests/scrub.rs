//! What was deleted can be made to go from the medium; and what is there can be looked at once more.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use media::{BlockDevice, BlockIndex, Geometry, MemDisk};
use statefs::{Access, Compaction, ErrorKind, Key, Options, Scrub, Store, StoreId, Verdict};

const SECRET: &[u8] = b"THE SECRET OF SECRETS";

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn options() -> Options {
    Options::new(StoreId(*b"a store of tests"))
}

fn new(blocks: u64) -> (MemDisk, Store<MemDisk>) {
    let disk = MemDisk::new(Geometry::new(512, blocks).unwrap()).unwrap();
    let store = Store::format(disk.clone(), &options()).unwrap();
    (disk, store)
}

fn has(disk: &MemDisk, needle: &[u8]) -> bool {
    disk.image().unwrap().windows(needle.len()).any(|window| window == needle)
}

fn compact(store: &mut Store<MemDisk>) {
    while store.compact_step().unwrap() != Compaction::Finished {}
}

#[test]
fn after_a_scrub_no_byte_of_what_was_deleted_is_there_whatever_lives_there_were() {
    for lives in 0..5 {
        let (disk, mut store) = new(200);
        store.put(&key("kept"), b"kept").unwrap();
        for life in 0..lives {
            store.put(&key("secret"), SECRET).unwrap();
            store.put(&key("filler"), &vec![b'f'; 400 * (5 - life)]).unwrap();
            compact(&mut store);
        }
        store.put(&key("secret"), SECRET).unwrap();
        store.delete(&key("secret")).unwrap();
        assert!(has(&disk, SECRET));
        assert_eq!(store.scrub().unwrap(), Scrub::Finished);
        assert!(!has(&disk, SECRET), "{lives}");
        assert_eq!(has(&disk, b"ffffffff"), lives > 0, "what is alive is there");
        let (mut store, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
        assert_eq!((recovery.tail, recovery.live_keys), (Verdict::Clean, if lives > 0 { 2 } else { 1 }));
        assert_eq!(store.get(&key("kept")).unwrap().bytes, b"kept");
        store.put(&key("kept"), b"newer").unwrap();
        compact(&mut store);
        assert!(store.verify().unwrap().is_sound());
    }
}

#[test]
fn a_scrub_in_steps_lets_everything_else_be_done_and_keeps_its_word() {
    let (disk, mut store) = new(120);
    store.put(&key("secret"), SECRET).unwrap();
    compact(&mut store);
    store.put(&key("secret"), SECRET).unwrap();
    store.delete(&key("secret")).unwrap();
    // A copy that runs already is finished first.
    assert_eq!(store.compact_step().unwrap(), Compaction::Running);
    let mut steps = 0_u8;
    loop {
        match store.scrub_step().unwrap() {
            Scrub::Finished => break,
            Scrub::Running | Scrub::GivenUp => {}
        }
        steps += 1;
        assert!(steps < 100, "it ends");
        store.put(&key("counter"), &[steps; 300]).unwrap();
        store.put_buffered(&key("buffered"), &[steps]).unwrap();
    }
    assert!(!has(&disk, SECRET));
    store.sync().unwrap();
    let (store, recovery) = Store::open(disk, Access::Write).unwrap();
    assert_eq!(recovery.live_keys, 2);
    assert_eq!(store.get(&key("counter")).unwrap().bytes, [steps; 300]);
    assert_eq!(store.get(&key("buffered")).unwrap().bytes, [steps]);
}

#[test]
fn a_scrub_costs_two_regions_and_what_is_alive() {
    let (_, mut store) = new(204);
    store.put(&key("a"), &[1; 1000]).unwrap();
    let before = store.stats().journal;
    assert_eq!(store.scrub().unwrap(), Scrub::Finished);
    let after = store.stats().journal;
    assert_eq!(after.switches - before.switches, 1);
    // Twice 99 blocks of zeros; header, three blocks of copy, closing; two superblocks.
    assert_eq!(after.blocks - before.blocks, 2 * 99 + 5 + 2);
    // Each region once; header, closing, root.
    assert_eq!(after.barriers - before.barriers, 2 + 3);
}

#[test]
fn a_store_that_may_only_be_read_is_not_scrubbed_and_can_be_verified() {
    let (disk, mut store) = new(64);
    store.put(&key("a"), b"1").unwrap();
    store.close().unwrap();
    let (mut store, _) = Store::open(disk.clone(), Access::Read).unwrap();
    let before = disk.image().unwrap();
    assert_eq!(store.scrub().unwrap_err().kind(), ErrorKind::ReadOnly);
    assert!(store.verify().unwrap().is_sound());
    assert!(disk.image().unwrap() == before);
}

#[test]
fn both_roots_in_force_may_be_lost_behind_a_scrub() {
    let (disk, mut store) = new(64);
    store.put(&key("a"), b"1").unwrap();
    assert_eq!(store.scrub().unwrap(), Scrub::Finished);
    store.put(&key("b"), b"2").unwrap();
    store.close().unwrap();
    // Generation 2 stands in slots 0 and 2.
    for slot in [0, 62] {
        disk.write(BlockIndex::new(slot), &[0; 512]).unwrap();
    }
    let (store, recovery) = Store::open(disk, Access::Write).unwrap();
    assert!(recovery.switch_finished, "{recovery:?}");
    assert_eq!(
        (store.get(&key("a")).unwrap().bytes, store.get(&key("b")).unwrap().bytes),
        (&b"1"[..], &b"2"[..])
    );
}

#[test]
fn verify_sees_buffered_and_compacted_values_and_every_flipped_bit_of_them() {
    let (disk, mut store) = new(64);
    for name in ["a", "b", "c"] {
        store.put(&key(name), &[1; 300]).unwrap();
    }
    compact(&mut store);
    store.put(&key("b"), &[2; 300]).unwrap();
    store.delete(&key("c")).unwrap();
    store.put_buffered(&key("d"), &[3; 300]).unwrap();
    let verified = store.verify().unwrap();
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!((verified.same_keys, verified.roots_valid, verified.frames), (3, 2, 1 + 2));
    assert_eq!((verified.verdict, verified.first_different), (Verdict::Clean, None));
    let good = disk.image().unwrap();
    let mut unsound = 0;
    for block in 32..62 {
        let block = BlockIndex::new(block);
        let mut bytes = [0; 512];
        disk.read(block, &mut bytes).unwrap();
        let is_used = bytes.starts_with(b"SFJ1");
        bytes[100] ^= 4;
        disk.write(block, &bytes).unwrap();
        let verified = store.verify().unwrap();
        assert_eq!(verified.is_sound(), !is_used, "{block} {verified:?}");
        unsound += u32::from(is_used);
        bytes[100] ^= 4;
        disk.write(block, &bytes).unwrap();
    }
    // Header, a copied frame of three blocks, closing, two commits.
    assert_eq!(unsound, 1 + 3 + 1 + 2);
    assert!(disk.image().unwrap() == good && store.verify().unwrap().is_sound());
    // One root of two may be missing, and is reported.
    disk.write(BlockIndex::new(0), &[0; 512]).unwrap();
    let verified = store.verify().unwrap();
    assert!(verified.is_sound());
    assert_eq!(verified.roots_valid, 1);
}

/// Another store's frames, whole and in place: only a comparison with memory tells.
#[test]
fn verify_compares_what_is_there_with_what_is_known() {
    let (disk, mut store) = new(64);
    store.put(&key("a"), b"1").unwrap();
    store.put(&key("b"), b"1").unwrap();
    let (other_disk, mut other) = new(64);
    other.put(&key("a"), b"1").unwrap();
    other.put(&key("b"), b"2").unwrap();
    let image = other_disk.image().unwrap();
    for block in 0..64 {
        let at = usize::try_from(block).unwrap() * 512;
        disk.write(BlockIndex::new(block), &image[at..at + 512]).unwrap();
    }
    let verified = store.verify().unwrap();
    assert!(!verified.is_sound());
    assert_eq!((verified.same_keys, verified.different_keys), (1, 1));
    assert_eq!(verified.first_different.as_deref(), Some("/state/b"));
}
