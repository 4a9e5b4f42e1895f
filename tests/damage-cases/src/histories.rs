//! [`random_sample`]: a store with a history drawn by chance, power cuts inside of calls included.
//!
//! What the samples that are written by hand do not have: tails that an open discarded, then acknowledged work over them and
//! beside them, in any order and several times.

use std::time::Duration;

use journal::{Journal, JournalError};
use media::Geometry;
use statefs::{Access, Batch, Compaction, Error, Key, Options, Store, Verdict};

use crate::disk::ImageDisk;
use crate::random::Random;
use crate::samples::{BLOCK, Change, End, Frame, STORE, Sample};

/// Blocks that a disk with sectors of 4 KiB loses together.
const SECTOR_BLOCKS: usize = 4096 / BLOCK;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A store that is being used.
struct Life<'d, 'r> {
    disk: &'d ImageDisk,
    /// [`None`] after a call that failed.
    store: Option<Store<&'d ImageDisk>>,
    history: Vec<Frame>,
    tried: Vec<(String, Vec<u8>)>,
    random: &'r mut Random,
    values: u32,
    now_ms: u64,
}

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

/// The history of this seed. Every frame in it was acknowledged, or found by a later open.
#[must_use]
pub fn random_sample(seed: u64) -> Sample {
    let random = &mut Random::new(seed);
    let blocks = u64::try_from(24 + random.below(100)).unwrap();
    let geometry = Geometry::new(512, blocks).unwrap().with_torn_blocks();
    let len = usize::try_from(geometry.byte_len()).unwrap();
    let disk = ImageDisk::new(geometry, vec![0; len]);
    let frame_blocks_max = [2, 4, 16][random.below(3)];
    let in_flight_blocks_max = u32::from(frame_blocks_max) * [1, 2, 4][random.below(3)];
    let journal = journal::Limits { frame_blocks_max, in_flight_blocks_max };
    let store = Store::format(&disk, &Options { journal, ..Options::new(STORE) }).unwrap();
    disk.forget_older();
    let (history, tried) = (Vec::new(), Vec::new());
    let mut life = Life { disk: &disk, store: Some(store), history, tried, random, values: 0, now_ms: 0 };
    for _ in 0..10 + life.random.below(50) {
        life.step();
    }
    if life.random.below(2) == 0 {
        life.cut_power();
    } else {
        life.start_again();
    }
    let Life { history, tried, .. } = life;
    let (name, bytes, older) = ("drawn by chance", disk.image(), disk.older());
    Sample { name, geometry, bytes, end: End::Cut, history, tried, older }
}

/// Overwrites up to two sectors of 4 KiB with garbage or zeros.
pub fn rot_sectors(disk: &ImageDisk, random: &mut Random) {
    for _ in 0..1 + random.below(2) {
        disk.tamper(|bytes| {
            let sectors = bytes.len().div_ceil(SECTOR_BLOCKS * BLOCK);
            let begin = random.below(sectors) * SECTOR_BLOCKS * BLOCK;
            let end = (begin + SECTOR_BLOCKS * BLOCK).min(bytes.len());
            match random.below(3) {
                0 => bytes[begin..end].fill(0),
                1 => random.fill(&mut bytes[begin..end]),
                _ => bytes[begin + random.below(end - begin)] ^= 1 << random.below(8),
            }
        });
    }
}

impl<'d> Life<'d, '_> {
    /// A value for a key that no other put of this history has.
    fn value_for(&mut self, name: &str) -> Vec<u8> {
        self.values += 1;
        let len = [4, 60, 300, 900, 6500][self.random.below(5)];
        let mut value = vec![0; len];
        self.random.fill(&mut value);
        value[..4].copy_from_slice(&self.values.to_le_bytes());
        self.tried.push((key(name).as_str().to_owned(), value.clone()));
        value
    }

    fn note(&mut self, name: &str, revision: u64, value: Option<Vec<u8>>) {
        let change = Change { key: key(name).as_str().to_owned(), revision, value };
        let seq = revision >> 16;
        match self.history.last_mut().filter(|last| last.seq == seq) {
            Some(last) => last.changes.push(change),
            None => self.history.push(Frame { seq, changes: vec![change] }),
        }
    }

    fn step(&mut self) {
        if self.random.below(6) == 0 {
            // Some call from now on is cut short.
            self.disk.fail_after(u64::try_from(self.random.below(6)).unwrap());
        }
        let outcome = match self.random.below(16) {
            0..5 => self.put(),
            5..9 => self.buffer(),
            9 => self.delete(),
            10 => self.batch(),
            11 => self.store().sync().map(drop),
            12 => self.compact(),
            13 => {
                self.now_ms += 40;
                let now = Duration::from_millis(self.now_ms);
                self.store().tick(now)
            }
            14 => {
                self.start_again();
                Ok(())
            }
            _ => {
                self.cut_power();
                Ok(())
            }
        };
        match outcome {
            Ok(()) => {}
            // Refused: nothing was written.
            Err(_) if self.store().sync().is_ok() => {}
            Err(_) => self.cut_power(),
        }
    }

    fn store(&mut self) -> &mut Store<&'d ImageDisk> {
        self.store.as_mut().unwrap()
    }

    fn name(&mut self) -> &'static str {
        KEYS[self.random.below(KEYS.len())]
    }

    fn put(&mut self) -> Result<(), Error> {
        let name = self.name();
        let value = self.value_for(name);
        let revision = self.store().put(&key(name), &value)?;
        self.note(name, revision.get(), Some(value));
        Ok(())
    }

    fn buffer(&mut self) -> Result<(), Error> {
        let name = self.name();
        let value = self.value_for(name);
        let revision = self.store().put_buffered(&key(name), &value)?;
        self.note(name, revision.get(), Some(value));
        Ok(())
    }

    fn delete(&mut self) -> Result<(), Error> {
        let name = self.name();
        if let Some(revision) = self.store().delete(&key(name))? {
            self.note(name, revision.get(), None);
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<(), Error> {
        let first = self.random.below(KEYS.len() - 1);
        let names = [KEYS[first], KEYS[first + 1]];
        let values = names.map(|name| self.value_for(name));
        let mut batch = Batch::new();
        for (name, value) in names.iter().zip(&values) {
            batch.put(&key(name), value)?;
        }
        let last = self.store().batch(&batch)?.get();
        for ((name, value), revision) in names.iter().zip(values).zip(last - 1..) {
            self.note(name, revision, Some(value));
        }
        Ok(())
    }

    fn compact(&mut self) -> Result<(), Error> {
        let steps = 1 + self.random.below(6);
        for _ in 0..steps {
            if self.store().compact_step()? != Compaction::Running {
                break;
            }
        }
        Ok(())
    }

    /// Closes the store and opens it again.
    fn start_again(&mut self) {
        // Where that fails, it is as good as a power cut; where it does not, a power cut takes nothing.
        drop(self.store.take().map(Store::close));
        self.disk.cut_power(self.random);
        self.open();
    }

    /// Nothing is closed, and what no flush has covered may be lost.
    fn cut_power(&mut self) {
        drop(self.store.take());
        self.disk.cut_power(self.random);
        self.open();
    }

    /// Opens the store to be written, and corrects the history: what survived without being acknowledged belongs to it, and
    /// what this open discards does not.
    fn open(&mut self) {
        let mut found = Vec::new();
        let opened = Journal::open(self.disk, journal::Access::Read, &mut |frame: journal::Frame<'_>| {
            if frame.kind == journal::Kind::Commit {
                found.push(Frame { seq: frame.seq, changes: changes_of(frame.seq, frame.body) });
            }
            Ok::<_, JournalError>(())
        });
        let report = opened.unwrap().report;
        let is_damaged = matches!(report.verdict, Verdict::Damaged { .. });
        assert!(!is_damaged, "a power cut is taken for damage: {report:?}");
        self.history.retain(|frame| frame.seq < report.next_seq);
        // A frame that was found says what is in it: the put that failed may stand beside what had been buffered.
        self.history.retain(|frame| found.iter().all(|found| found.seq != frame.seq));
        self.history.append(&mut found);
        self.history.sort_by_key(|frame| frame.seq);
        let (store, recovery) = Store::open(self.disk, Access::Write).unwrap();
        assert_eq!(recovery.read_only, None, "a power cut leaves a store that can be written: {recovery:?}");
        self.store = Some(store);
    }
}

/// The changes that a frame commits, by the format in `record.rs`.
fn changes_of(seq: u64, body: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let (kind, key_len) = (body[at], usize::from(body[at + 1]));
        let (key_at, value_len) = match kind {
            1 => (at + 6, Some(u32::from_le_bytes(body[at + 2..at + 6].try_into().unwrap()))),
            2 => (at + 2, None),
            other => panic!("a record of kind {other} in a commit"),
        };
        let value_at = key_at + key_len;
        let value = value_len.map(|len| body[value_at..value_at + usize::try_from(len).unwrap()].to_vec());
        at = value_at + value.as_ref().map_or(0, Vec::len);
        let key = String::from_utf8(body[key_at..value_at].to_vec()).unwrap();
        let revision = seq << 16 | u64::try_from(changes.len()).unwrap();
        changes.push(Change { key, revision, value });
    }
    changes
}
