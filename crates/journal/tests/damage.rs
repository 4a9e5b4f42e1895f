//! Damage: bits that flip, blocks that vanish, change places or turn to garbage. Nothing that was durable is lost or changed
//! in silence, a torn tail is no damage, and nothing panics.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use journal::{
    Access, Format, Journal, JournalError, Limits, Opened, Owner, Report, StoreId, Verdict, frame,
};
use media::{BlockIndex, Geometry, MemDisk};

const STORE: StoreId = StoreId(*b"a damaged store!");
const SIZE: usize = 512;
const BLOCKS: u64 = 28;

fn geometry() -> Geometry {
    Geometry::new(512, BLOCKS).unwrap().with_torn_blocks()
}

/// What the frames say, by their sequence numbers.
type Frames = BTreeMap<u64, Vec<u8>>;

fn open(image: &[u8]) -> Result<(Frames, Report), JournalError> {
    let disk = MemDisk::from_image(geometry(), image.to_vec()).unwrap();
    let mut frames = Frames::new();
    let mut copies = 0;
    let Opened { report, .. } = Journal::open(disk, Access::Read, &mut |frame| {
        // What was copied stands under one number.
        let seq = if frame.kind == journal::Kind::Copied {
            copies += 1;
            copies
        } else {
            frame.seq
        };
        frames.insert(seq, frame.body.to_vec());
        Ok::<_, JournalError>(())
    })?;
    Ok((frames, report))
}

/// A store with a copied region, frames of one and two blocks, and perhaps a clean end.
fn image(is_closed: bool) -> Vec<u8> {
    let limits = Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    let disk = MemDisk::new(geometry()).unwrap();
    let mut journal = Journal::format(disk.clone(), STORE, limits, b"").unwrap();
    let _first = journal.commit(b"before the switch").unwrap();
    journal.begin_copy().unwrap();
    journal.copy(b"copied").unwrap();
    let _switched = journal.finish_copy().unwrap();
    let _one = journal.commit(b"one").unwrap();
    let _two = journal.commit(&[b'2'; 700]).unwrap();
    let _three = journal.commit(b"three").unwrap();
    if is_closed {
        journal.seal_for_good().unwrap();
    }
    disk.image().unwrap()
}

/// The highest sequence number that any block of the image promises to be durable.
fn watermark(image: &[u8]) -> u64 {
    let blocks = image.chunks(SIZE).zip(0..);
    let headers = blocks.filter_map(|(block, at)| {
        frame::decode(block, Owner::of(STORE, Format::LATEST), BlockIndex::new(at)).ok()
    });
    headers.map(|(header, _)| header.durable_seq).max().unwrap_or(0)
}

/// Opens a damaged image and compares with the whole one.
fn judge(what: &str, image: &[u8], whole: &Frames, is_closed: bool) -> &'static str {
    let (frames, report) = match open(image) {
        Ok(opened) => opened,
        // Said aloud, and nothing is lost by it.
        Err(_) => return "refused",
    };
    for (seq, body) in &frames {
        assert_eq!(whole.get(seq), Some(body), "{what}: frame {seq} has changed: {report:?}");
    }
    let lost = whole.keys().copied().filter(|seq| !frames.contains_key(seq));
    match report.verdict {
        Verdict::Damaged { .. } => "reported",
        Verdict::Clean | Verdict::TornTail { .. } => {
            let promised = watermark(image);
            for seq in lost {
                assert!(!is_closed && seq > promised, "{what}: frame {seq} is lost in silence: {report:?}");
            }
            "nothing lost that was promised"
        }
    }
}

#[derive(Default, Debug)]
struct Count(BTreeMap<&'static str, usize>);

impl Count {
    fn add(&mut self, outcome: &'static str) {
        *self.0.entry(outcome).or_default() += 1;
    }
}

#[test]
fn no_flipped_bit_is_silent() {
    for is_closed in [false, true] {
        let (good, mut count) = (image(is_closed), Count::default());
        let (whole, _) = open(&good).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            count.add(judge(&format!("bit {bit}"), &bad, &whole, is_closed));
        }
        println!("closed: {is_closed}: {} bits: {count:?}", good.len() * 8);
        assert!(!count.0.contains_key("refused"), "one flipped bit never makes a store unreadable");
    }
}

#[test]
fn no_block_of_zeros_or_garbage_and_no_two_that_change_places_are_silent() {
    for is_closed in [false, true] {
        let (good, mut count) = (image(is_closed), Count::default());
        let (whole, _) = open(&good).unwrap();
        let block = |at: usize| at * SIZE..(at + 1) * SIZE;
        let blocks = good.len() / SIZE;
        for first in 0..blocks {
            for fill in [0, 0xFF, b'S'] {
                let mut bad = good.clone();
                bad[block(first)].fill(fill);
                count.add(judge(&format!("block {first} of {fill}"), &bad, &whole, is_closed));
            }
            for second in first + 1..blocks {
                let mut bad = good.clone();
                bad[block(first)].copy_from_slice(&good[block(second)]);
                bad[block(second)].copy_from_slice(&good[block(first)]);
                count.add(judge(&format!("blocks {first} and {second}"), &bad, &whole, is_closed));
            }
        }
        println!("closed: {is_closed}: {count:?}");
    }
}

#[test]
fn a_garbled_end_is_a_torn_tail_and_no_damage_before_a_clean_close() {
    let good = image(false);
    let (whole, report) = open(&good).unwrap();
    let end = report.used_blocks;
    // The region in force is B: it begins behind A.
    let first = (2 + (usize::try_from(BLOCKS).unwrap() - 4) / 2) * SIZE;
    let tail = first + usize::try_from(end).unwrap() * SIZE;
    for len in 1..=SIZE {
        let mut bad = good.clone();
        bad[tail - len..tail].fill(0xA5);
        let (frames, report) = open(&bad).unwrap();
        // With its magic gone, what stood there may as well never have been written.
        assert!(!matches!(report.verdict, Verdict::Damaged { .. }), "{len}: {report:?}");
        assert!(frames.len() + 1 >= whole.len(), "{len}: only the last frame may go");
    }
}

#[test]
fn any_bytes_are_opened_or_refused() {
    let good = image(true);
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..=next() % 8 {
            let at = next() % bad.len();
            let len = (next() % 40).min(bad.len() - at);
            match next() % 3 {
                0 => bad[at..at + len].fill(u8::try_from(next() % 256).unwrap()),
                1 => bad[at] ^= 1 << (next() % 8),
                _ => {
                    let from = next() % (bad.len() - len);
                    bad.copy_within(from..from + len, at);
                }
            }
        }
        // An answer, whichever.
        drop(open(&bad));
    }
}
