//! What rots is noticed, reported, and not passed off as the newest.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use damage_cases::{BLOCK, Depth, End, ImageDisk, Judge, Outcome, Places, Random, Sample, samples};
use media::{BlockDevice, BlockIndex, Geometry, MemDisk};
use statefs::{Access, Certainty, ErrorKind, Key, Options, Recovery, Store, StoreId, Verdict};

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

/// Damage of a sample, case by case, and what came of it.
struct Ruin<'s> {
    sample: &'s Sample,
    judge: Judge<'s>,
    disk: ImageDisk,
    outcomes: BTreeMap<Outcome, usize>,
    /// The first promises that were broken.
    broken: Vec<String>,
}

/// How many broken promises of a sample are told.
const BROKEN_MAX: usize = 3;

impl<'s> Ruin<'s> {
    fn new(sample: &'s Sample) -> Self {
        let disk = ImageDisk::new(sample.geometry, sample.bytes.clone());
        Self { sample, judge: Judge::new(sample), disk, outcomes: BTreeMap::new(), broken: Vec::new() }
    }

    fn blocks(&self) -> usize {
        self.sample.bytes.len() / BLOCK
    }

    /// These blocks hold something else.
    fn case(&mut self, what: impl Fn() -> String, changed: &[(usize, &[u8])], depth: Depth) {
        let put = |disk: &ImageDisk, at: usize, block: &[u8]| {
            disk.tamper(|bytes| bytes[at * BLOCK..(at + 1) * BLOCK].copy_from_slice(block));
        };
        for (at, block) in changed {
            put(&self.disk, *at, block);
        }
        let places = if changed.len() == 1 { Places::One } else { Places::Two };
        match self.judge.judge(&self.disk, places, depth) {
            Ok(outcome) => *self.outcomes.entry(outcome).or_default() += 1,
            Err(broken) if self.broken.len() < BROKEN_MAX => {
                self.broken.push(format!("{}: {}: {broken}", self.sample.name, what()));
            }
            Err(_) => {}
        }
        for (at, _) in changed {
            put(&self.disk, *at, self.block(*at));
        }
    }

    fn block(&self, at: usize) -> &'s [u8] {
        &self.sample.bytes[at * BLOCK..(at + 1) * BLOCK]
    }

    /// Every single bit; of every eighth byte one of them is looked at thoroughly.
    fn bits(&mut self) {
        for at in 0..self.blocks() {
            let mut block = self.block(at).to_vec();
            for bit in 0..BLOCK * 8 {
                block[bit / 8] ^= 1 << (bit % 8);
                let depth = if bit % 64 == at % 8 { Depth::Everything } else { Depth::Look };
                self.case(|| format!("bit {bit} of block {at} flipped"), &[(at, &block)], depth);
                block[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// Every block zeros, ones, garbage, what it was once (a lost write), and what another one is (a misdirected write).
    fn blocks_replaced(&mut self) {
        let mut garbage = vec![0; BLOCK];
        Random::new(1).fill(&mut garbage);
        for at in 0..self.blocks() {
            for (what, fill) in
                [("zeros", vec![0; BLOCK]), ("ones", vec![0xFF; BLOCK]), ("garbage", garbage.clone())]
            {
                self.case(|| format!("block {at} is {what}"), &[(at, &fill)], Depth::Everything);
            }
            for from in (0..self.blocks()).filter(|from| *from != at) {
                let what = || format!("what belongs to block {from} is in block {at}");
                self.case(what, &[(at, self.block(from))], Depth::Everything);
            }
        }
        for (at, block) in &self.sample.older {
            self.case(|| format!("block {at} is what it was once"), &[(*at, block)], Depth::Everything);
        }
    }

    /// Every two blocks in each other's place.
    fn blocks_swapped(&mut self) {
        for first in 0..self.blocks() {
            for second in first + 1..self.blocks() {
                let changed = [(first, self.block(second)), (second, self.block(first))];
                self.case(|| format!("blocks {first} and {second} swapped"), &changed, Depth::Everything);
            }
        }
    }

    /// The newest bytes garbled, from one to a block's worth, in every block that may have been the last.
    fn ends_garbled(&mut self) {
        let mut garbage = vec![0; BLOCK];
        Random::new(2).fill(&mut garbage);
        for at in 0..self.blocks() {
            for len in 1..=BLOCK {
                let mut block = self.block(at).to_vec();
                block[BLOCK - len..].copy_from_slice(&garbage[..len]);
                let depth = if len % 8 == 0 { Depth::Everything } else { Depth::Look };
                self.case(|| format!("the last {len} bytes of block {at} garbled"), &[(at, &block)], depth);
            }
        }
    }
}

/// A kind of damage.
type Harm = fn(&mut Ruin<'_>);

/// Does all that to each sample, on two threads; the number of cases.
fn ruin_all(what: &str, harm: Harm) -> usize {
    let samples = samples();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(BTreeMap::new());
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(sample) = samples.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut ruin = Ruin::new(sample);
                    harm(&mut ruin);
                    broken.lock().unwrap().append(&mut ruin.broken);
                    counts.lock().unwrap().insert(sample.name, (sample.end, ruin.outcomes));
                }
            });
        }
    });
    let mut sum = 0;
    for (name, (end, outcomes)) in counts.into_inner().unwrap() {
        sum += outcomes.values().sum::<usize>();
        println!("{what}: {name} ({end:?}): {outcomes:?}");
    }
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    println!("{what}: {sum} cases, every promise of the judge kept");
    sum
}

#[test]
fn no_flipped_bit_breaks_a_promise() {
    assert!(ruin_all("every single bit flipped", |ruin| ruin.bits()) > 1_000_000);
}

#[test]
fn no_block_that_is_lost_garbled_old_or_misdirected_breaks_a_promise() {
    assert!(ruin_all("blocks replaced", |ruin| ruin.blocks_replaced()) > 10_000);
}

#[test]
fn no_two_blocks_that_change_places_break_a_promise() {
    assert!(ruin_all("two blocks swapped", |ruin| ruin.blocks_swapped()) > 5_000);
}

#[test]
fn no_garbled_end_of_a_block_breaks_a_promise() {
    assert!(ruin_all("ends garbled", |ruin| ruin.ends_garbled()) > 100_000);
}

/// On a disk that was fresh a store that was closed is clean; on a used one the blocks of the life before may be a torn end, as
/// far as anybody can tell, and never damage.
#[test]
fn what_nothing_happened_to_is_not_damaged() {
    for sample in samples() {
        let disk = ImageDisk::new(sample.geometry, sample.bytes.clone());
        let outcome = Judge::new(&sample).judge(&disk, Places::One, Depth::Everything).unwrap();
        println!("{}: {} frames, {outcome:?}", sample.name, sample.history.len());
        assert!([Outcome::Clean, Outcome::TornTail].contains(&outcome), "{}", sample.name);
        if sample.end == End::Closed && sample.name != "copied, closed" {
            assert_eq!(outcome, Outcome::Clean, "{}", sample.name);
        }
    }
}
