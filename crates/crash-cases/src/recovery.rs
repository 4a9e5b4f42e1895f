//! [`recovery_table`]: what survives which crash, for every operation of the key/value store, as the simulator sees it. The
//! table of `docs/recovery.md` is made here.
//!
//! Each operation runs once on a small disk. Then everything that may happen to it does, one at a time, and the store is
//! opened on each disk that this may leave: is what is there old, new, or reported as damaged?

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use crashsim::{
    BlockOp, DiskImage, DiskLie, DiskPoint, DiskProfile, Fault, Medium as _, Outcome as Flushed, Recording,
    SimDisk, Trace, block_points,
};
use media::BlockIndex;
use statefs::{Access, Certainty, ErrorKind, Key, Store, StoreId, Verdict};

use crate::state::{Ended, Told, geometry, open, options};

/// Of one crash point.
const STATES: usize = 192;
/// Which bits of a block flip: one in so many.
const BIT_STEP: usize = 89;
/// So many that nothing is compacted by itself.
const BLOCKS: u64 = 64;

/// An operation that is put through all of it.
struct Operation {
    name: &'static str,
    before: fn(&mut Told<'_>) -> Result<(), Ended>,
    run: fn(Told<'_>) -> Result<Store<SimDisk>, Ended>,
}

const NEW: [u8; 300] = [b'n'; 300];
const A: &str = "/state/a";
const B: &str = "/state/b";
const C: &str = "/state/c";
/// Put by a process that came after one that died.
const LIFE: &str = "/state/life";

const OPERATIONS: [Operation; 10] = [
    Operation { name: "`put`", before: nothing, run: |mut told| told.put(A, &NEW).map(|()| told.store) },
    Operation { name: "`delete`", before: nothing, run: |mut told| told.delete(A).map(|()| told.store) },
    Operation {
        name: "`batch` of three",
        before: nothing,
        run: |mut told| told.batch(&[(A, None), (B, Some(&NEW)), (C, Some(&NEW))]).map(|()| told.store),
    },
    Operation {
        name: "`compare_and_swap`",
        before: nothing,
        run: |mut told| told.swap(A, &NEW).map(|()| told.store),
    },
    Operation {
        name: "`put_buffered`",
        before: nothing,
        run: |mut told| told.put_buffered(A, &NEW).map(|()| told.store),
    },
    Operation {
        name: "`sync` of two buffered puts",
        before: |told| {
            told.put_buffered(A, &NEW)?;
            told.put_buffered(C, b"new")
        },
        run: |mut told| told.sync().map(|()| told.store),
    },
    Operation {
        name: "compaction, all steps",
        before: nothing,
        run: |mut told| told.compact(|_, _| Ok(())).map(|()| told.store),
    },
    Operation {
        name: "idle seal",
        before: nothing,
        run: |mut told| {
            for ms in [0, 100] {
                told.store.tick(Duration::from_millis(ms))?;
            }
            Ok(told.store)
        },
    },
    Operation {
        name: "`close`, then `open`",
        before: nothing,
        run: |mut told| told.close_and_reopen().map(|()| told.store),
    },
    Operation {
        name: "`format` over it",
        before: nothing,
        run: |told| {
            let fresh = statefs::Options { store_id: StoreId(*b"the newer store."), ..options() };
            Ok(Store::format(told.disk.clone(), &fresh)?)
        },
    },
];

fn nothing(_: &mut Told<'_>) -> Result<(), Ended> {
    Ok(())
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crash {
    /// The process dies at any request.
    Killed,
    /// The power fails before the operation has returned.
    CutDuring,
    /// The power fails right after it has.
    CutAfter,
    /// A flush of it fails, the process dies, another one starts and puts a key, and then the power fails.
    FailedFlush,
    /// One bit flips in a store that was closed after it.
    BitRot,
    /// Of the newest block it wrote, a part is something else, and no seal was written behind it.
    TornTail,
    /// One of its writes never lands, and the store is closed after it.
    LostWrite,
    /// One of its writes lands in another block, and the store is closed after it.
    MisdirectedWrite,
    /// It is asked for on a device full of live data; then the power fails.
    FullDevice,
}

impl Crash {
    /// All of them, in the order of the columns.
    pub const ALL: [Self; 9] = [
        Self::Killed,
        Self::CutDuring,
        Self::CutAfter,
        Self::FailedFlush,
        Self::BitRot,
        Self::TornTail,
        Self::LostWrite,
        Self::MisdirectedWrite,
        Self::FullDevice,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Killed => "process killed",
            Self::CutDuring => "power cut during",
            Self::CutAfter => "power cut after",
            Self::FailedFlush => "failed flush, death, power cut",
            Self::BitRot => "bit rot below the last seal",
            Self::TornTail => "newest block torn, no seal",
            Self::LostWrite => "lost write",
            Self::MisdirectedWrite => "misdirected write",
            Self::FullDevice => "full device",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// All as it was before, where the operation changes something.
    Old,
    /// All as it was to be; or as it was, where the operation changes nothing.
    New,
    /// No store; said so.
    NoStore,
    /// Reported: the store is read-only, and what it calls certain is old or new.
    Damage,
    /// It was asked for and refused, and nothing has changed.
    Refused,
    /// Anything else: a mixture, something that nobody wrote, or a wrong value called certain.
    Wrong,
}

impl Found {
    fn word(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
            Self::NoStore => "no store",
            Self::Damage => "damage",
            Self::Refused => "refused",
            Self::Wrong => "WRONG",
        }
    }
}

/// How often each was found.
pub type Counts = BTreeMap<Found, usize>;

/// One operation, and what was found after each crash.
#[derive(Debug, Clone)]
pub struct RecoveryRow {
    /// The operation, in Markdown.
    pub operation: &'static str,
    /// What was found, by what had happened; how many different disks each.
    pub found: Vec<(Crash, Counts)>,
}

/// The table; in Markdown where it is shown.
#[derive(Debug, Clone)]
pub struct RecoveryTable {
    /// One for each operation.
    pub rows: Vec<RecoveryRow>,
}

impl fmt::Display for RecoveryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| |")?;
        for crash in Crash::ALL {
            write!(f, " {} |", crash.title())?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(Crash::ALL.len()))?;
        let mut total = 0;
        for row in &self.rows {
            write!(f, "| {} |", row.operation)?;
            for (_, counts) in &row.found {
                total += counts.values().sum::<usize>();
                let words: Vec<String> =
                    counts.iter().map(|(found, count)| format!("{} {count}", found.word())).collect();
                write!(f, " {} |", if words.is_empty() { "—".to_owned() } else { words.join(", ") })?;
            }
            writeln!(f)?;
        }
        write!(f, "\n{total} disks.")
    }
}

/// Does it all.
///
/// # Errors
/// In words, an operation that did not go as it is written here.
pub fn recovery_table() -> Result<RecoveryTable, String> {
    let row = |operation: &Operation| -> Result<RecoveryRow, String> {
        let fail = |ended: Ended| format!("{}: {ended}", operation.name);
        let recorded = Recorded::of(operation).map_err(fail)?;
        let counts = |crash| recorded.counts(operation, crash).map(|counts| (crash, counts)).map_err(fail);
        let found = Crash::ALL.into_iter().map(counts).collect::<Result<_, _>>()?;
        Ok(RecoveryRow { operation: operation.name, found })
    };
    Ok(RecoveryTable { rows: OPERATIONS.iter().map(row).collect::<Result<_, _>>()? })
}

type Values = BTreeMap<String, Vec<u8>>;

fn values(store: &Store<SimDisk>) -> Values {
    store.iter().map(|(key, value)| (key.as_str().to_owned(), value.bytes.to_vec())).collect()
}

/// A store with two keys, closed.
fn beginning() -> Result<DiskImage, Ended> {
    let disk = SimDisk::mount(DiskImage::new(geometry(BLOCKS)), Recording::Off);
    let mut store = Store::format(disk.clone(), &options())?;
    for name in [A, B] {
        let _revision = store.put(&Key::parse(name)?, b"old")?;
    }
    store.close()?;
    Ok(disk.image())
}

/// An operation that ran once.
struct Recorded {
    start: DiskImage,
    trace: Trace<BlockOp>,
    /// The records of the operation itself; what follows belongs to a clean close.
    begin: usize,
    end: usize,
    old: Values,
    new: Values,
}

/// A process that is about to carry out the operation.
fn about_to<'d>(operation: &Operation, disk: &'d SimDisk) -> Result<Told<'d>, Ended> {
    let mut told = Told::open(disk)?;
    // So that this process has begun to write before the operation begins.
    told.put(B, b"old")?;
    (operation.before)(&mut told)?;
    Ok(told)
}

impl Recorded {
    fn of(operation: &Operation) -> Result<Self, Ended> {
        let start = beginning()?;
        let disk = SimDisk::mount(start.clone(), Recording::On);
        let told = about_to(operation, &disk)?;
        let begin = disk.trace().len();
        let old = values(&open(&disk, Access::Read)?.0);
        let store = (operation.run)(told)?;
        let (end, new) = (disk.trace().len(), values(&store));
        store.close()?;
        Ok(Self { start, trace: disk.trace(), begin, end, old, new })
    }

    /// What was written in the operation, by record.
    fn writes(&self) -> impl Iterator<Item = (usize, BlockIndex, usize)> {
        let records = self.trace.records().iter().enumerate().take(self.end).skip(self.begin);
        records.filter_map(|(index, record)| match record.op() {
            Some(BlockOp::Write { at, bytes, .. }) => Some((index, *at, bytes.len() / 512)),
            Some(BlockOp::Flush { .. }) | None => None,
        })
    }

    fn image_of(&self, trace: Trace<BlockOp>) -> DiskImage {
        SimDisk::resume(&self.start, trace).image()
    }

    fn counts(&self, operation: &Operation, crash: Crash) -> Result<Counts, Ended> {
        let mut seen = Seen { of: self, seen: HashSet::new(), counts: Counts::new() };
        match crash {
            Crash::Killed => {
                (self.begin..=self.end).for_each(|at| seen.look(&self.image_of(self.trace.until(at))));
            }
            Crash::CutDuring | Crash::CutAfter => {
                let trace = self.trace.until(self.end);
                for point in block_points(&self.start, &trace, DiskProfile::AnySubsetTorn) {
                    let is_after = point.at == self.end;
                    if point.at >= self.begin && is_after == (crash == Crash::CutAfter) {
                        seen.look_at_all(&point);
                    }
                }
            }
            Crash::FailedFlush => self.failed_flushes(operation, &mut seen)?,
            Crash::BitRot => {
                let whole = self.image_of(self.trace.clone());
                for block in (0..BLOCKS).map(BlockIndex::new) {
                    for bit in (0..512 * 8).step_by(BIT_STEP) {
                        whole.with_flipped_bit(block, bit).iter().for_each(|image| seen.look(image));
                    }
                }
            }
            Crash::TornTail => self.torn_tails(&mut seen),
            Crash::LostWrite => {
                for (record, _, _) in self.writes() {
                    let lied = DiskLie::Lost { record }.tell(&self.trace);
                    lied.into_iter().for_each(|trace| seen.look(&self.image_of(trace)));
                }
            }
            Crash::MisdirectedWrite => {
                for (record, _, blocks) in self.writes() {
                    let places = BLOCKS.saturating_sub(u64::try_from(blocks).unwrap_or(0)) + 1;
                    for to in (0..places).map(BlockIndex::new) {
                        let lied = DiskLie::Misdirected { record, to }.tell(&self.trace);
                        lied.into_iter().for_each(|trace| seen.look(&self.image_of(trace)));
                    }
                }
            }
            Crash::FullDevice => return full_device(operation),
        }
        Ok(seen.counts)
    }

    fn torn_tails(&self, seen: &mut Seen<'_>) {
        let Some((_, at, blocks)) = self.writes().last() else { return };
        let last = at.checked_add(u64::try_from(blocks).unwrap_or(1) - 1).unwrap_or(at);
        let whole = self.image_of(self.trace.until(self.end));
        for len in [1, 60, 256, 511, 512] {
            for byte in [0, 0xA5] {
                let (mut image, mut block) = (whole.clone(), [0; 512]);
                if image.read(last, &mut block).is_err() {
                    continue;
                }
                // The first part is what it was.
                block.iter_mut().skip(512 - len).for_each(|slot| *slot = byte);
                if image.write(last, &block).is_ok() {
                    seen.look(&image);
                }
            }
        }
    }

    /// Each flush of the operation fails once.
    fn failed_flushes(&self, operation: &Operation, seen: &mut Seen<'_>) -> Result<(), Ended> {
        const CALLS_MAX: u64 = 200;
        for call in 0..CALLS_MAX {
            let disk = SimDisk::mount(self.start.clone(), Recording::On);
            let told = about_to(operation, &disk)?;
            disk.set_faults([(call, Fault::Fail(5))]);
            drop((operation.run)(told));
            if disk.possible_faults().len() <= usize::try_from(call).unwrap_or(usize::MAX) {
                return Ok(());
            }
            let trace = disk.trace();
            let has_failed = |op| matches!(op, &BlockOp::Flush { outcome: Flushed::Failed });
            if !trace.records().iter().filter_map(|record| record.op()).any(has_failed) {
                continue;
            }
            let next = SimDisk::resume(&self.start, trace);
            if let Ok(mut told) = Told::open(&next) {
                // Of a store that is damaged already there is nothing more to say.
                drop(told.put(LIFE, b"goes on"));
            }
            let trace = next.trace();
            let points = block_points(&self.start, &trace, DiskProfile::AnySubsetTorn);
            points.iter().filter(|point| point.at == trace.len()).for_each(|point| seen.look_at_all(point));
        }
        Err(Ended::Unplanned("unplanned: an operation of that many calls"))
    }

    fn find(&self, image: &DiskImage) -> Found {
        let disk = SimDisk::mount(image.clone(), Recording::Off);
        let (store, recovery) = match open(&disk, Access::Read) {
            Ok(opened) => opened,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                return Found::NoStore;
            }
            Err(_) => return Found::Wrong,
        };
        if let Verdict::Damaged { .. } = recovery.tail {
            return if self.is_honest(&store) { Found::Damage } else { Found::Wrong };
        }
        let mut there = values(&store);
        drop(there.remove(LIFE));
        match there {
            there if there == self.new => Found::New,
            there if there == self.old => Found::Old,
            _ => Found::Wrong,
        }
    }

    /// Whether each key that is called certain is old or new.
    fn is_honest(&self, store: &Store<SimDisk>) -> bool {
        [A, B, C].into_iter().all(|name| {
            let Ok(key) = Key::parse(name) else { return false };
            let found = store.get(&key).map(|value| value.bytes);
            let is_one = |values: &Values| values.get(name).map(Vec::as_slice) == found;
            store.certainty(&key) == Certainty::Suspect || is_one(&self.old) || is_one(&self.new)
        })
    }
}

/// Different disks, and what was found on them.
struct Seen<'r> {
    of: &'r Recorded,
    seen: HashSet<u128>,
    counts: Counts,
}

impl Seen<'_> {
    fn look(&mut self, image: &DiskImage) {
        if self.seen.insert(image.digest()) {
            *self.counts.entry(self.of.find(image)).or_default() += 1;
        }
    }

    fn look_at_all(&mut self, point: &DiskPoint) {
        for digits in point.sample(STATES, 1) {
            let mut image = point.base.clone();
            point.build(&digits, |piece| SimDisk::apply(&mut image, piece));
            self.look(&image);
        }
    }
}

/// The operation on a device that has no room for one more key.
fn full_device(operation: &Operation) -> Result<Counts, Ended> {
    let disk = SimDisk::mount(beginning()?, Recording::On);
    let start = disk.image();
    let mut told = about_to(operation, &disk)?;
    let is_full = (0..BLOCKS)
        .any(|nth| told.put(&format!("/state/fill/{nth}"), &NEW).is_err_and(|ended| ended.is_no_space()));
    if !is_full {
        return Err(Ended::Unplanned("unplanned: the device is not full"));
    }
    let old = values(&open(&disk, Access::Read)?.0);
    let outcome = (operation.run)(told);
    let is_refused = outcome.as_ref().is_err_and(Ended::is_no_space);
    let new = match outcome {
        Ok(store) => values(&store),
        Err(ended) if ended.is_no_space() => old.clone(),
        Err(ended) => return Err(ended),
    };
    let trace = disk.trace();
    let (begin, end) = (trace.len(), trace.len());
    let recorded = Recorded { start, trace, begin, end, old, new };
    let mut seen = Seen { of: &recorded, seen: HashSet::new(), counts: Counts::new() };
    let points = block_points(&recorded.start, &recorded.trace, DiskProfile::AnySubsetTorn);
    points.iter().filter(|point| point.at == end).for_each(|point| seen.look_at_all(point));
    if is_refused && let Some(count) = seen.counts.remove(&Found::New) {
        let _none = seen.counts.insert(Found::Refused, count);
    }
    Ok(seen.counts)
}
