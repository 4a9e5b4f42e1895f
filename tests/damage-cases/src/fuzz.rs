//! The bodies of the fuzz targets: any bytes in, and a panic if a promise is broken.
//!
//! The targets in `fuzz/` call them under libFuzzer, and `tests/fuzz.rs` calls each with a fixed number of inputs in every test
//! run. Bytes are read as a **script**: which sample, and what is done to it. So most inputs reach far into the code, and
//! every input means something.
//!
//! What has been changed and not **forged** (given a right checksum again) is judged by [`Judge`]: whatever was done, its
//! promises hold. A forged image may say anything, like one that an enemy made: it is opened or refused, in bounded time,
//! and what is put into it and acknowledged is there.

use std::sync::OnceLock;

use journal::frame::{self, Invalid};
use journal::{Format, Owner, StoreId};
use media::{BlockIndex, Geometry};
use statefs::{Access, Check, Compaction, Health, Key, KeyError, Prefix, Store, Suspects, Verdict, fsck};

use crate::disk::ImageDisk;
use crate::histories::random_sample;
use crate::judge::{Depth, Judge, Places};
use crate::samples::{BLOCK, End, STORE, Sample, options, owner, samples};

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("block_decode", block_decode),
    ("superblock_decode", superblock_decode),
    ("open_read", open_read),
    ("open_write", open_write),
    ("salvage", salvage),
    ("key_parse", key_parse),
];

/// The most steps of a script.
const STEPS_MAX: usize = 24;

/// Samples, as if none of them had been closed: with several places damaged, only watermarks promise anything.
fn ground(nth: usize) -> (&'static Sample, &'static Judge<'static>) {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    static JUDGES: OnceLock<Vec<Judge<'static>>> = OnceLock::new();
    let samples = SAMPLES.get_or_init(|| {
        let mut samples = samples();
        // Histories in which the model of `histories.rs` found something when it was new.
        samples.extend([8_026, 14_697, 20_549, 34_194, 49_350].map(random_sample));
        samples.iter_mut().for_each(|sample| sample.end = End::Cut);
        samples
    });
    let judges = JUDGES.get_or_init(|| samples.iter().map(Judge::new).collect());
    let nth = nth % samples.len();
    (&samples[nth], &judges[nth])
}

/// Takes numbers from bytes; zeros, where there are no more.
struct Script<'b>(&'b [u8]);

impl Script<'_> {
    fn byte(&mut self) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.byte() << 8 | self.byte()) % bound
    }

    fn wide(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::try_from(self.byte()).unwrap())
    }

    /// A number as they go wrong: at a bound, next to what it was, or anything.
    fn number(&mut self, was: u64) -> u64 {
        match self.byte() % 8 {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => was.wrapping_add(1),
            4 => was.wrapping_sub(1),
            5 => u64::MAX - 1,
            6 => u64::try_from(self.byte()).unwrap(),
            _ => self.wide(),
        }
    }
}

/// Offset and size of what a block's header has, in the order of `frame.rs`.
const FIELDS_OF_BLOCK: [(usize, usize); 10] =
    [(4, 1), (5, 1), (6, 2), (8, 2), (10, 2), (12, 4), (16, 8), (24, 8), (32, 8), (40, 4)];

/// The same of a superblock.
const FIELDS_OF_ROOT: [(usize, usize); 16] = [
    (8, 2),
    (10, 1),
    (11, 1),
    (12, 4),
    (16, 8),
    (32, 8),
    (40, 8),
    (48, 8),
    (56, 8),
    (64, 8),
    (72, 4),
    (76, 2),
    (78, 2),
    (80, 4),
    (88, 4),
    (504, 1),
];

/// Gives a block the checksum that belongs to it, whatever it holds. (Made by another crate than the one under test uses
/// without a standard library.)
fn forge(block: &mut [u8], at: usize) {
    let is_root = block.starts_with(b"SFSUPER1");
    let (field, mut crc) = if is_root {
        (84, 0)
    } else {
        let at = u64::try_from(at).unwrap();
        (44, crc32c::crc32c_append(crc32c::crc32c(&STORE.0), &at.to_le_bytes()))
    };
    let end = if is_root { 512 } else { block.len() };
    block[field..field + 4].fill(0);
    crc = crc32c::crc32c_append(crc, &block[..end]);
    block[field..field + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Does to an image what a script says; whether anything in it was forged.
fn ruin(script: &mut Script<'_>, bytes: &mut [u8]) -> bool {
    let blocks = bytes.len() / BLOCK;
    let mut is_forged = false;
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() {
            break;
        }
        let at = script.below(blocks);
        let block = at * BLOCK..(at + 1) * BLOCK;
        match script.byte() % 8 {
            0 => {
                let (from, len) = (script.below(BLOCK), script.byte());
                let fill = u8::try_from(script.byte()).unwrap();
                let end = (from + len).min(BLOCK);
                bytes[block][from..end].fill(fill);
            }
            1 => {
                let bit = script.below(BLOCK * 8);
                bytes[block][bit / 8] ^= 1 << (bit % 8);
            }
            2 => {
                let from = script.below(blocks) * BLOCK;
                bytes.copy_within(from..from + BLOCK, at * BLOCK);
            }
            3 => {
                let other = script.below(blocks) * BLOCK;
                for byte in 0..BLOCK {
                    bytes.swap(at * BLOCK + byte, other + byte);
                }
            }
            4 => {
                let from = script.below(BLOCK);
                for to in &mut bytes[block][from..] {
                    *to = u8::try_from(script.byte()).unwrap();
                    if script.0.is_empty() {
                        break;
                    }
                }
            }
            5 => {
                // A block of another place, of the same store, made to look as if it belonged here.
                let from = script.below(blocks) * BLOCK;
                bytes.copy_within(from..from + BLOCK, at * BLOCK);
                forge(&mut bytes[block], at);
                is_forged = true;
            }
            _ => {
                set_field(script, &mut bytes[block.clone()]);
                forge(&mut bytes[block], at);
                is_forged = true;
            }
        }
    }
    is_forged
}

/// Changes one field of a header, or a byte of what stands behind it.
fn set_field(script: &mut Script<'_>, block: &mut [u8]) {
    let fields = if block.starts_with(b"SFSUPER1") { &FIELDS_OF_ROOT[..] } else { &FIELDS_OF_BLOCK[..] };
    let nth = script.below(fields.len() + 2);
    match fields.get(nth) {
        Some(&(at, len)) => {
            let mut was = [0; 8];
            was[..len].copy_from_slice(&block[at..at + len]);
            let new = script.number(u64::from_le_bytes(was)).to_le_bytes();
            block[at..at + len].copy_from_slice(&new[..len]);
        }
        None => {
            let at = 48 + script.below(200);
            block[at] = u8::try_from(script.byte()).unwrap();
        }
    }
}

/// A disk that a script has ruined, what it was, and whether something was forged.
fn ruined(data: &[u8]) -> (ImageDisk, &'static Judge<'static>, bool) {
    let mut script = Script(data);
    let (sample, judge) = ground(script.byte());
    let mut bytes = sample.bytes.clone();
    let is_forged = ruin(&mut script, &mut bytes);
    (ImageDisk::new(sample.geometry, bytes), judge, is_forged)
}

fn judge(disk: &ImageDisk, judge: &Judge<'_>, depth: Depth) {
    if let Err(broken) = judge.judge(disk, Places::Any, depth) {
        panic!("{broken}");
    }
}

/// A block of any bytes, and one with a right checksum over any bytes.
///
/// # Panics
/// A promise is broken.
pub fn block_decode(data: &[u8]) {
    let mut script = Script(data);
    let at = script.below(1000);
    let address = BlockIndex::new(u64::try_from(at).unwrap());
    let as_it_is = frame::decode(script.0, owner(), address);
    assert!(as_it_is.is_err() || script.0.starts_with(b"SFJ1"));
    let mut block = vec![0; BLOCK];
    for (to, from) in block.iter_mut().zip(script.0) {
        *to = *from;
    }
    block[..4].copy_from_slice(b"SFJ1");
    if data.len().is_multiple_of(2) {
        let [low, high, ..] = crc32c::crc32c(&STORE.0).to_le_bytes();
        (block[4], block[10], block[11]) = (Format::LATEST.number(), low, high);
    }
    forge(&mut block, at);
    match frame::decode(&block, owner(), address) {
        Err(error) => assert_ne!(error, Invalid::Checksum, "the checksum is right"),
        Ok((header, payload)) => {
            assert!(header.index < header.count && header.durable_seq < header.seq);
            assert!(payload.len() <= BLOCK - frame::HEADER_LEN);
            let mut again = vec![0; BLOCK];
            frame::encode(&header, payload, owner(), address, &mut again);
            assert_eq!(frame::decode(&again, owner(), address), Ok((header, payload)));
            assert!(
                frame::decode(&block, Owner::of(StoreId([0; 16]), Format::LATEST), address).is_err(),
                "of another store"
            );
        }
    }
}

/// Slots that hold any bytes under a right checksum.
///
/// # Panics
/// A promise is broken.
pub fn superblock_decode(data: &[u8]) {
    let mut script = Script(data);
    let (sample, _) = ground(script.byte());
    let mut bytes = sample.bytes.clone();
    let last = bytes.len() / BLOCK - 1;
    let which = script.byte();
    for (slot, at) in
        [0, 1, last - 1, last].into_iter().enumerate().filter(|(slot, _)| which >> slot & 1 == 1)
    {
        let block = &mut bytes[at * BLOCK..(at + 1) * BLOCK];
        if which & 16 == 0 {
            for to in block.iter_mut() {
                *to = u8::try_from(script.byte()).unwrap();
            }
        } else {
            for _ in 0..3 {
                set_field(&mut script, block);
            }
        }
        block[..8].copy_from_slice(b"SFSUPER1");
        if which & 32 == 0 {
            let version = Format::LATEST.number();
            block[8..11].copy_from_slice(&[version, 0, u8::try_from(slot).unwrap()]);
        }
        if which & 64 == 0 {
            block[12..16].copy_from_slice(&512_u32.to_le_bytes());
        }
        forge(block, at);
    }
    use_it(&ImageDisk::new(sample.geometry, bytes));
}

/// Any image, opened to be read.
///
/// # Panics
/// A promise is broken.
pub fn open_read(data: &[u8]) {
    let (disk, known, is_forged) = ruined(data);
    if !is_forged {
        return judge(&disk, known, Depth::Look);
    }
    look(&disk);
}

/// Any image, opened to be written, and used.
///
/// # Panics
/// A promise is broken.
pub fn open_write(data: &[u8]) {
    let (disk, known, is_forged) = ruined(data);
    if !is_forged {
        return judge(&disk, known, known.depth_max());
    }
    use_it(&disk);
}

/// Any image, salvaged.
///
/// # Panics
/// A promise is broken.
pub fn salvage(data: &[u8]) {
    let (disk, _, _) = ruined(data);
    let before = disk.image();
    for suspects in [Suspects::Leave, Suspects::Take] {
        let blocks = 2 * disk.image().len() / BLOCK;
        let geometry = Geometry::new(512, u64::try_from(blocks).unwrap()).unwrap();
        let to = ImageDisk::new(geometry, vec![0; blocks * BLOCK]);
        let Ok(saved) = statefs::salvage(&disk, &to, &options(StoreId([6; 16])), suspects) else { continue };
        let (store, recovery) = Store::open(&to, Access::Read).unwrap();
        assert!(recovery.was_sealed && recovery.tail == Verdict::Clean, "{recovery:?}");
        assert_eq!(saved.certain + saved.suspect_taken, u64::try_from(store.iter().count()).unwrap());
    }
    assert!(disk.image() == before, "what is salvaged is only read");
}

/// Any bytes as a key: the rules once more, in other words.
///
/// # Panics
/// A promise is broken.
pub fn key_parse(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return assert_eq!(Key::from_utf8(data), Err(KeyError::NotUtf8));
    };
    for text in [text.to_owned(), format!("/state/{text}")] {
        let wanted = text.len() <= 255
            && text.strip_prefix("/state/").is_some_and(|rest| {
                rest.split('/').all(|part| !["", ".", ".."].contains(&part))
                    && !rest.chars().any(|c| c < ' ' || ('\u{7f}'..='\u{9f}').contains(&c))
            });
        let parsed = Key::parse(&text);
        assert_eq!(parsed.is_ok(), wanted, "{text:?}: {parsed:?}");
        assert_eq!(Key::from_utf8(text.as_bytes()).is_ok(), wanted);
        assert_eq!(Prefix::parse(&text).is_ok(), wanted || text == "/state");
        if let Ok(key) = parsed {
            assert_eq!(key.as_str(), text, "taken as it is");
            assert!(Prefix::root().covers(&key) && Prefix::from(key.clone()).covers(&key));
        }
    }
}

/// Reads everything, and asks no more of the device than is bounded.
fn look(disk: &ImageDisk) {
    disk.take_asked();
    let opened = Store::open(disk, Access::Read);
    let (asked, blocks) = (disk.take_asked(), u64::try_from(disk.image().len() / BLOCK).unwrap());
    assert!(asked.blocks_read <= 4 * blocks && asked.writes + asked.flushes == 0, "{asked:?}");
    let Ok((store, recovery)) = opened else { return };
    let all = u64::try_from(store.iter().count()).unwrap();
    assert_eq!(all, recovery.live_keys);
    assert!(store.list(&Prefix::root(), None, 10).unwrap().entries.len() <= 10);
    let Check { health, .. } = fsck(disk).unwrap();
    assert_eq!(health == Health::Damaged, matches!(recovery.tail, Verdict::Damaged { .. }));
}

/// Reads everything, and writes whatever may be written.
fn use_it(disk: &ImageDisk) {
    look(disk);
    let new = Key::parse("/state/new").unwrap();
    let Ok((mut store, _)) = Store::open(disk, Access::Write) else { return };
    for _ in 0..2 {
        if store.put(&new, b"new").is_ok() {
            // What an enemy planted for the time after a switch may make a store damaged, but not silent.
            let reopened = Store::open(disk, Access::Read);
            let Some((reader, Verdict::Clean | Verdict::TornTail { .. })) =
                reopened.ok().map(|(reader, recovery)| (reader, recovery.tail))
            else {
                return;
            };
            assert_eq!(reader.get(&new).map(|value| value.bytes), Some(&b"new"[..]), "acknowledged is there");
        }
        for _ in 0..200 {
            match store.compact_step() {
                Ok(Compaction::Running) => {}
                Ok(Compaction::Finished | Compaction::GivenUp) | Err(_) => break,
            }
        }
    }
}
