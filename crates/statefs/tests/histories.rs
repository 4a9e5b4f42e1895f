//! Histories drawn by chance, then damage: row D1 of the second review, and its kind.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use damage_cases::{Depth, ImageDisk, Judge, Outcome, Places, Random, random_sample, rot_sectors};
use media::Geometry;
use statefs::{Access, Certainty, Key, Options, Store, StoreId, Suspects, Verdict, salvage};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

/// How many damaged images are opened of each history.
const RUINS: u64 = 20;

/// With `STEADFAST_LONG`, a million opens.
fn histories() -> u64 {
    if std::env::var_os("STEADFAST_LONG").is_some() { 50_000 } else { 1_000 }
}

/// Ruins the history of a seed once, and judges what becomes of it.
fn ruin(seed: u64, ruin: u64) -> Outcome {
    let sample = random_sample(seed);
    let disk = ImageDisk::new(sample.geometry, sample.bytes.clone());
    rot_sectors(&disk, &mut Random::new(seed * RUINS + ruin));
    let outcome = Judge::new(&sample).judge(&disk, Places::Any, Depth::Look);
    outcome.unwrap_or_else(|what| panic!("seed {seed}, ruin {ruin}: {what}"))
}

#[test]
fn store_d1_no_wrong_certainty_after_discarded_tails_and_lost_sectors() {
    let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
    for seed in 0..histories() {
        let sample = random_sample(seed);
        let judge = Judge::new(&sample);
        let disk = ImageDisk::new(sample.geometry, sample.bytes.clone());
        judge.judge(&disk, Places::One, Depth::Look).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        for ruin in 0..RUINS {
            let disk = ImageDisk::new(sample.geometry, sample.bytes.clone());
            rot_sectors(&disk, &mut Random::new(seed * RUINS + ruin));
            let outcome = judge.judge(&disk, Places::Any, Depth::Look);
            let outcome = outcome.unwrap_or_else(|what| panic!("seed {seed}, ruin {ruin}: {what}"));
            *outcomes.entry(outcome).or_default() += 1;
        }
        if seed % 10_000 == 9_999 {
            println!("{} histories, {outcomes:?}", seed + 1);
        }
    }
    println!("{} histories, {RUINS} ruins of each: {outcomes:?}, 0 wrong certainties", histories());
    assert_eq!(outcomes.len(), 4, "{outcomes:?}");
}

/// What the model found when it was new: the open that discarded a tail is lost whole; the roots are lost and a later life has
/// the promise; the copy that the root vouches for ends in the gap; a frame that is cut off has the promise; a switch is
/// finished that was not the last one.
#[test]
fn store_d1_siblings_that_the_model_found() {
    for (seed, nth) in [(8_026, 5), (14_697, 5), (20_549, 10), (34_194, 7), (46_480, 7), (49_350, 13)] {
        let _judged: Outcome = ruin(seed, nth);
    }
}

/// Row D1 as it was reported.
#[test]
fn store_d1_a_value_that_was_never_acknowledged_is_not_called_certain() {
    let geometry = Geometry::new(512, 160).unwrap();
    let disk = ImageDisk::new(geometry, vec![0; 160 * 512]);
    let journal = journal::Limits { frame_blocks_max: 16, in_flight_blocks_max: 32 };
    let options = Options { journal, ..Options::new(StoreId([4; 16])) };
    let mut store = Store::format(&disk, &options).unwrap();
    for _ in 0..4 {
        store.put(&key("k"), b"OLD").unwrap();
    }
    let before = disk.image();
    // Two frames in flight. The power cut takes the first block of the first one.
    let filler = vec![1; 900];
    for nth in 0..16 {
        store.put_buffered(&key(&format!("filler/{nth}")), &filler).unwrap();
    }
    store.put_buffered(&key("k"), b"STALE").unwrap();
    // More than the second frame can take: it is written.
    store.put_buffered(&key("not/written"), &filler).unwrap();
    drop(store);
    let first = before.chunks(512).zip(disk.image().chunks(512)).position(|(old, new)| old != new).unwrap();
    assert_eq!(first, 8, "the first block of a sector of 4 KiB");
    let in_flight = first * 512..first * 512 + 512;
    disk.tamper(|bytes| bytes[in_flight.clone()].copy_from_slice(&before[in_flight.clone()]));
    // The open discards them, and a value of 13 blocks is acknowledged over the first.
    let (mut store, recovery) = Store::open(&disk, Access::Write).unwrap();
    assert!(matches!(recovery.tail, Verdict::TornTail { .. }), "{recovery:?}");
    store.put(&key("k"), &vec![b'N'; 13 * 464 - 40]).unwrap();
    drop(store);
    // One sector of 4 KiB rots: with it the record of the open, and the beginning of the new value.
    disk.tamper(|bytes| bytes[first * 512..first * 512 + 4096].fill(0xA5));
    let (store, recovery) = Store::open(&disk, Access::Read).unwrap();
    assert!(matches!(recovery.tail, Verdict::Damaged { .. }), "{recovery:?}");
    if let Some(value) = store.get(&key("k")) {
        assert_ne!(value.certainty, Certainty::Certain, "{:?}", value.bytes);
    }
    let to = ImageDisk::new(geometry, vec![0; 160 * 512]);
    salvage(&disk, &to, &options, Suspects::Leave).unwrap();
    let (saved, _) = Store::open(&to, Access::Read).unwrap();
    assert!(saved.get(&key("k")).is_none(), "what is not certain is left behind");
}
