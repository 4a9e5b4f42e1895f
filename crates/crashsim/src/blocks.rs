//! Blocks: from a trace of requests to the states that a power cut may leave, under a [`DiskProfile`]. This is the power-loss
//! contract of [`media::BlockDevice`] made executable.
//!
//! Invariants
//! - a flush covers a write only if the write had **completed before the flush was submitted**;
//! - a durable write covers itself alone;
//! - what a failed flush should have covered is covered by no later one;
//! - a version gives way only to a durable version whose write was submitted after its own had completed. Writes that
//!   overlap in time have no order: after a flush each sector still is one of them.
//!
//! Requests are whole blocks, so all sectors of a block have the same versions to choose from. Under
//! [`AnySubsetTorn`](DiskProfile::AnySubsetTorn) each sector is an axis; and where the geometry says that an interrupted block
//! may read back as anything, the block has one axis more for its damage, so that damage adds to the number of states
//! instead of multiplying it sector by sector: one of its sectors is garbage, or all of it is zeros, or all is garbage. One
//! block of 4 KiB written once has 2306 states that way, and all are visited; with garbage as one more version of each sector
//! it would have 6561, most of them garbage only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use media::BlockIndex;

use crate::disk_image::{DiskImage, sectors_of, wide};
use crate::files::Outcome;
use crate::image::{SECTOR_LEN, Sector};
use crate::space::{Axis, AxisKind, PieceId, Point, Random, Rule, Step, When};
use crate::trace::{Event, Record, Tick, Trace};
use crate::witness::Mark;

/// One request to a block device.
#[derive(Debug, Clone)]
pub enum BlockOp {
    /// Blocks are replaced.
    Write {
        /// The first of them.
        at: BlockIndex,
        /// Whole blocks.
        bytes: Arc<[u8]>,
        /// Whether the request returned only when these blocks were durable.
        durable: bool,
    },
    /// What had been written is to be durable.
    Flush {
        /// Whether it is.
        outcome: Outcome,
    },
}

impl BlockOp {
    /// Whether it makes other requests durable. A durable write does not.
    #[must_use]
    pub fn is_barrier(&self) -> bool {
        match self {
            Self::Flush { .. } => true,
            Self::Write { .. } => false,
        }
    }
}

impl fmt::Display for BlockOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { at, bytes, durable } => {
                let how = if *durable { "write durable" } else { "write" };
                write!(f, "{how} block {at}+{}", bytes.len())
            }
            Self::Flush { outcome } => write!(f, "flush{}", outcome.word()),
        }
    }
}

/// What a block device does between two flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskProfile {
    /// Any subset of the blocks written survives, each whole, in any version. What a device does whose blocks are atomic.
    AnySubset,
    /// Any subset of the sectors written survives, each in any version; and an interrupted block may be damaged, where the
    /// geometry says so. The contract of the seam: what an engine has to stand.
    AnySubsetTorn,
    /// Nothing is reordered: a first part of the sectors written survives. No device promises it. Quick, and blind for a
    /// missing flush between data and what points to it.
    OrderedPrefix,
    /// Nothing is lost: the process dies and the device goes on.
    NothingLost,
}

impl DiskProfile {
    /// All of them, the strictest with us first.
    pub const ALL: [Self; 4] = [Self::AnySubsetTorn, Self::AnySubset, Self::OrderedPrefix, Self::NothingLost];

    /// Looked at where nothing else is asked for.
    pub const DEFAULT: Self = Self::AnySubsetTorn;

    /// The name on the command line and in ids.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AnySubset => "any-subset",
            Self::AnySubsetTorn => "any-subset-torn",
            Self::OrderedPrefix => "ordered-prefix",
            Self::NothingLost => "nothing-lost",
        }
    }

    /// What it is based on.
    #[must_use]
    pub fn evidence(self) -> &'static str {
        match self {
            Self::AnySubset => {
                "devices whose blocks are atomic: any of the blocks since the last flush, in any version"
            }
            Self::AnySubsetTorn => {
                "the contract of the seam: any of the sectors since the last flush, and an interrupted block may be \
                 zeros or garbage"
            }
            Self::OrderedPrefix => {
                "no device: what is lost is lost from the end; the usual model of crash tests, kept to show what it \
                 misses"
            }
            Self::NothingLost => "the process dies and the device goes on",
        }
    }

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    fn is_ordered(self) -> bool {
        match self {
            Self::AnySubset | Self::AnySubsetTorn => false,
            Self::OrderedPrefix | Self::NothingLost => true,
        }
    }
}

/// Sectors that survive together or not at all.
///
/// In ids a piece is `record.part`, where `part` counts the sectors of the request (under `any-subset` its blocks). After
/// `junk=` it counts what may damage a block: of each block of the request first all of it garbage, then (where it has
/// several) each of its sectors garbage, then all of it zeros. So of a request of blocks of 4 KiB, `junk=6` is its first
/// block garbage, `6.1` to `6.8` one sector of it, `6.9` all zeros, `6.10` its second block garbage.
#[derive(Debug, Clone)]
pub struct DiskPiece {
    first: u64,
    sectors: Arc<[Sector]>,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Written,
    Garbage,
    Zeros,
}

impl DiskPiece {
    /// Puts it into an image.
    pub fn apply(&self, image: &mut DiskImage) {
        for (index, sector) in (self.first..).zip(self.sectors.iter()) {
            image.put_sector(index, sector);
        }
    }
}

impl fmt::Display for DiskPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Written => "",
            What::Garbage => " garbage",
            What::Zeros => " zeros",
        };
        write!(f, "sector {}+{}{what}", self.first, self.sectors.len())
    }
}

/// A point on a block device.
pub type DiskPoint = Point<DiskImage, DiskPiece>;

/// The crash points of a trace under a profile: before each barrier and each durable write has done its work, before each
/// mark, and at the end. (The states of every other moment are among those of the next of these.)
///
/// Two requests may overlap in time, as their ticks say. A point `at` stands for the earliest moment at which `at` records had
/// been begun and nothing more was known to be durable than before the last of them.
#[must_use]
pub fn block_points(start: &DiskImage, trace: &Trace<BlockOp>, profile: DiskProfile) -> Vec<DiskPoint> {
    let mut moments: Vec<(Tick, Moment, usize)> = Vec::with_capacity(2 * trace.len());
    for (index, record) in trace.records().iter().enumerate() {
        moments.push((record.submitted, Moment::Begun, index));
        if record.op().is_some() {
            moments.push((record.completed, Moment::Done, index));
        }
    }
    // At the same tick nothing is over before something else begins: that would be an order nobody saw.
    moments.sort_unstable();
    let mut walk = Walk::new(start, profile);
    let mut begun = 0;
    for (_, moment, index) in moments {
        let Some(record) = trace.records().get(index) else { continue };
        match moment {
            Moment::Begun => {
                if profile == DiskProfile::NothingLost || is_boundary(record) {
                    walk.stop(begun);
                }
                begun += 1;
                walk.begin(index, record);
            }
            Moment::Done => {
                let makes_durable = match record.op() {
                    Some(BlockOp::Write { durable, .. }) => *durable,
                    // Where nothing began beside it, the point before the flush has all its states.
                    Some(BlockOp::Flush { .. }) => begun > index + 1,
                    None => false,
                };
                if makes_durable && profile != DiskProfile::NothingLost {
                    walk.stop(begun);
                }
                walk.finish(index, record);
            }
        }
    }
    walk.stop(trace.len());
    walk.points
}

/// What happens to a record; the order is the one at the same tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begun,
    Done,
}

fn is_boundary(record: &Record<BlockOp>) -> bool {
    match &record.event {
        Event::Op(op) => op.is_barrier(),
        // A named point tells nobody anything: no promise changes there.
        Event::Mark(mark) => !matches!(mark, Mark::Point(_)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No flush has covered it.
    Volatile,
    /// A flush that should have covered it failed: no later one will.
    Stuck,
    Durable,
}

/// What one write made of one block.
struct Version {
    record: usize,
    submitted: Tick,
    completed: Tick,
    standing: Standing,
    /// Its parts, in order, as the profile cuts them.
    parts: Vec<(PieceId, DiskPiece)>,
    /// What may be found instead, in the order of the digits, and how many of them are but a part of the block.
    junk: Vec<(PieceId, DiskPiece)>,
    junk_parts: usize,
}

struct Walk {
    profile: DiskProfile,
    sectors_per_block: usize,
    has_junk: bool,
    /// What is durable and can only be replaced by something newer.
    settled: DiskImage,
    /// By block, in order of submission.
    blocks: BTreeMap<u64, Vec<Version>>,
    points: Vec<DiskPoint>,
}

impl Walk {
    fn new(start: &DiskImage, profile: DiskProfile) -> Self {
        let geometry = start.geometry();
        Self {
            profile,
            sectors_per_block: geometry.block_size() / SECTOR_LEN,
            has_junk: profile == DiskProfile::AnySubsetTorn && geometry.torn_blocks(),
            settled: start.clone(),
            blocks: BTreeMap::new(),
            points: Vec::new(),
        }
    }

    fn begin(&mut self, index: usize, record: &Record<BlockOp>) {
        let Some(BlockOp::Write { at, bytes, .. }) = record.op() else { return };
        if self.profile == DiskProfile::NothingLost {
            self.settled.put(*at, bytes);
            return;
        }
        let sectors: Vec<Sector> = sectors_of(bytes).collect();
        for (ordinal, block) in sectors.chunks(self.sectors_per_block).enumerate() {
            let at = at.checked_add(wide(ordinal));
            // Only a misdirected write goes past the end, and nothing comes of it.
            let Some(at) = at.filter(|at| at.get() < self.settled.geometry().block_count()) else { return };
            let version = self.version(index, record, at.get(), ordinal, block);
            self.blocks.entry(at.get()).or_default().push(version);
        }
    }

    fn version(
        &self,
        index: usize,
        record: &Record<BlockOp>,
        block: u64,
        ordinal: usize,
        new: &[Sector],
    ) -> Version {
        let first = block.saturating_mul(wide(self.sectors_per_block));
        let id = |part: usize| PieceId { record: narrow(index), part: narrow(part) };
        let part_len = match self.profile {
            DiskProfile::AnySubset => self.sectors_per_block,
            DiskProfile::AnySubsetTorn | DiskProfile::OrderedPrefix | DiskProfile::NothingLost => 1,
        };
        let first_part = ordinal * (self.sectors_per_block / part_len);
        let part = |(number, sectors): (usize, &[Sector])| {
            let first = first + wide(number * part_len);
            (id(first_part + number), DiskPiece { first, sectors: sectors.into(), what: What::Written })
        };
        let parts = new.chunks(part_len).enumerate().map(part).collect();
        let mut junk = Vec::new();
        let junk_parts = if self.sectors_per_block > 1 { self.sectors_per_block } else { 0 };
        if self.has_junk {
            let garbage: Vec<Sector> =
                (first..).zip(new).map(|(at, sector)| garbage(index, at, sector)).collect();
            let base = ordinal * (junk_parts + 2);
            let piece = |first, sectors: &[Sector], what| DiskPiece { first, sectors: sectors.into(), what };
            for (number, sector) in garbage.iter().enumerate().take(junk_parts) {
                let sector = std::slice::from_ref(sector);
                junk.push((id(base + 1 + number), piece(first + wide(number), sector, What::Garbage)));
            }
            let zeros = vec![Sector::new([0; SECTOR_LEN]); self.sectors_per_block];
            junk.push((id(base + 1 + junk_parts), piece(first, &zeros, What::Zeros)));
            junk.push((id(base), piece(first, &garbage, What::Garbage)));
        }
        let (submitted, completed) = (record.submitted, record.completed);
        Version { record: index, submitted, completed, standing: Standing::Volatile, parts, junk, junk_parts }
    }

    /// A request has returned.
    fn finish(&mut self, index: usize, record: &Record<BlockOp>) {
        match record.op() {
            Some(BlockOp::Flush { outcome }) => {
                for version in self.blocks.values_mut().flatten() {
                    if version.completed < record.submitted {
                        version.cover(*outcome);
                    }
                }
            }
            Some(BlockOp::Write { durable: true, .. }) => {
                for version in self.blocks.values_mut().flatten().filter(|version| version.record == index) {
                    version.cover(Outcome::Done);
                }
            }
            Some(BlockOp::Write { durable: false, .. }) | None => return,
        }
        if self.profile.is_ordered() {
            self.cover_what_came_before();
        }
        let ordered = self.profile.is_ordered();
        self.blocks.retain(|_, versions| {
            settle(versions, &mut self.settled, ordered);
            !versions.is_empty()
        });
    }

    /// Where nothing is reordered, whatever came before something durable is durable too.
    fn cover_what_came_before(&mut self) {
        let durable = self.blocks.values().flatten().filter(|version| version.standing == Standing::Durable);
        let Some(newest) = durable.map(|version| version.record).max() else { return };
        for version in self.blocks.values_mut().flatten().filter(|version| version.record < newest) {
            version.cover(Outcome::Done);
        }
    }

    /// Takes down the states of this moment. Of two moments with as many records begun, the first has the states of both.
    fn stop(&mut self, at: usize) {
        if self.points.last().is_some_and(|point| point.at >= at) {
            return;
        }
        let mut point = Point {
            at,
            base: self.settled.clone(),
            steps: Vec::new(),
            axes: Vec::new(),
            rules: Vec::new(),
            groups: Vec::new(),
        };
        match self.profile {
            DiskProfile::AnySubset | DiskProfile::AnySubsetTorn => {
                self.blocks.values().for_each(|versions| seat_block(&mut point, versions));
            }
            DiskProfile::OrderedPrefix | DiskProfile::NothingLost => self.seat_in_order(&mut point),
        }
        self.points.push(point);
    }

    fn seat_in_order(&self, point: &mut DiskPoint) {
        let mut parts: Vec<&(PieceId, DiskPiece)> =
            self.blocks.values().flatten().flat_map(|version| &version.parts).collect();
        parts.sort_unstable_by_key(|(id, _)| *id);
        for (digit, (id, piece)) in (1..).zip(&parts) {
            point.steps.push(Step { id: *id, when: When::AtLeast(0, digit), piece: piece.clone() });
        }
        if !parts.is_empty() {
            let pieces = parts.iter().map(|(id, _)| *id).collect();
            point.axes.push(Axis { kind: AxisKind::Log, pieces });
        }
    }
}

impl Version {
    /// A flush has covered it, or failed to.
    fn cover(&mut self, outcome: Outcome) {
        self.standing = match (self.standing, outcome) {
            (Standing::Volatile, Outcome::Done) => Standing::Durable,
            (Standing::Volatile, Outcome::Failed) => Standing::Stuck,
            (standing @ (Standing::Stuck | Standing::Durable), _) => standing,
        };
    }

    /// Whether whatever was there from `old` is certainly replaced where this version is found.
    fn comes_after(&self, old: &Self, ordered: bool) -> bool {
        if ordered { old.record < self.record } else { old.completed < self.submitted }
    }
}

/// Forgets the versions of a block that can no longer be found, and moves to `settled` the one that everything else
/// comes after.
fn settle(versions: &mut Vec<Version>, settled: &mut DiskImage, ordered: bool) {
    let gone = |old: &Version| {
        let mut durable = versions.iter().filter(|version| version.standing == Standing::Durable);
        durable.any(|new| new.comes_after(old, ordered))
    };
    let gone: Vec<usize> =
        versions.iter().filter(|version| gone(version)).map(|version| version.record).collect();
    versions.retain(|version| !gone.contains(&version.record));
    let oldest = versions.iter().position(|version| {
        let mut others = versions.iter().filter(|other| other.record != version.record);
        version.standing == Standing::Durable && others.all(|new| new.comes_after(version, ordered))
    });
    if let Some(oldest) = oldest {
        for (_, piece) in versions.remove(oldest).parts {
            piece.apply(settled);
        }
    }
}

/// Puts the versions of a block onto axes of their own: one for each part, and one for what may damage the block.
fn seat_block(point: &mut DiskPoint, versions: &[Version]) {
    let first_axis = point.axes.len();
    // Where something is durable, what stood there before cannot be found: digit 0 is the first durable version.
    let oldest = versions.iter().position(|version| version.standing == Standing::Durable);
    for (id, piece) in oldest.and_then(|at| versions.get(at)).into_iter().flat_map(|version| &version.parts) {
        point.steps.push(Step { id: *id, when: When::Always, piece: piece.clone() });
    }
    let free: Vec<&Version> = versions
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != oldest)
        .map(|(_, version)| version)
        .collect();
    let part_count = free.first().map_or(0, |version| version.parts.len());
    for part in 0..part_count {
        let axis = point.axes.len();
        let parts: Vec<&(PieceId, DiskPiece)> =
            free.iter().filter_map(|version| version.parts.get(part)).collect();
        for (digit, (id, piece)) in (1..).zip(&parts) {
            point.steps.push(Step { id: *id, when: When::Is(axis, digit), piece: piece.clone() });
        }
        let pieces = parts.iter().map(|(id, _)| *id).collect();
        point.axes.push(Axis { kind: AxisKind::Slot, pieces });
    }
    // What is durable in every version was not interrupted.
    if let Some(interrupted) = free.iter().rev().find(|version| version.standing != Standing::Durable) {
        seat_junk(point, interrupted, first_axis);
    }
    if point.axes.len() > first_axis {
        point.groups.push(first_axis..point.axes.len());
    }
}

fn seat_junk(point: &mut DiskPoint, interrupted: &Version, first_axis: usize) {
    if interrupted.junk.is_empty() {
        return;
    }
    let axis = point.axes.len();
    for (digit, (id, piece)) in (1..).zip(&interrupted.junk) {
        point.steps.push(Step { id: *id, when: When::Is(axis, digit), piece: piece.clone() });
    }
    // A block that is damaged as a whole is the same whatever its sectors were to be: it goes with one choice of them.
    let whole = narrow(interrupted.junk_parts).saturating_add(1);
    for (index, sector) in point.axes.iter().enumerate().skip(first_axis) {
        point.rules.push(Rule { needs: (axis, whole), needed: (index, sector.whole()) });
    }
    let pieces = interrupted.junk.iter().map(|(id, _)| *id).collect();
    point.axes.push(Axis { kind: AxisKind::Junk, pieces });
}

/// What is found in place of a sector: the same for the same request and place, and never what was to be written. (That it is
/// what stood there before is as likely as to guess 512 bytes.)
fn garbage(record: usize, index: u64, instead_of: &Sector) -> Sector {
    let mut random = Random::new(wide(record).wrapping_mul(0x9E37_79B9).wrapping_add(index << 32));
    let mut bytes = [0; SECTOR_LEN];
    for part in bytes.chunks_exact_mut(8) {
        part.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    if let (Some(first), [not, ..]) = (bytes.first_mut(), instead_of.bytes())
        && first == not
    {
        *first = !*not;
    }
    Sector::new(bytes)
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::{crash_of, digits_of};
    use crate::id::{Crash, CrashId, Scenario};
    use media::Geometry;

    /// Two blocks of two sectors, one of them written twice; a request of two blocks at the end.
    fn points(profile: DiskProfile) -> Vec<DiskPoint> {
        let geometry = Geometry::new(1024, 4).unwrap().with_torn_blocks();
        let mut trace = Trace::default();
        for (at, fill, count) in [(0, 1, 1), (0, 2, 1), (2, 3, 2)] {
            let (at, bytes) = (BlockIndex::new(at), vec![fill; 1024 * count].into());
            trace.push(Event::Op(BlockOp::Write { at, bytes, durable: false }));
            trace.push(Event::Mark(Mark::Visible));
        }
        block_points(&DiskImage::new(geometry), &trace, profile)
    }

    #[test]
    fn every_state_has_an_id_that_names_it_again() {
        let (mut ids, mut states) = (std::collections::BTreeSet::new(), 0);
        for profile in DiskProfile::ALL {
            for point in points(profile) {
                for digits in (0..point.combinations()).map(|number| point.digits(number)) {
                    if !point.permits(&digits) {
                        continue;
                    }
                    states += 1;
                    let crashes = vec![crash_of(&point, &digits)];
                    let (scenario, profile) = (Scenario::plain("case"), profile.name().to_owned());
                    let id = CrashId { scenario, profile, crashes };
                    let text = id.to_string();
                    let read: CrashId = text.parse().unwrap();
                    assert_eq!(read, id, "{text}");
                    let Some(Crash::Power { at, loss, junk }) = read.crashes.first() else {
                        panic!("{text}")
                    };
                    assert_eq!((*at, digits_of(&point, loss, junk)), (point.at, Some(digits)), "{text}");
                    ids.insert(text);
                }
            }
        }
        assert!(states > 5000, "{states}");
        assert_eq!(ids.len(), states, "no two states share an id");
    }

    #[test]
    fn an_id_counts_damage_block_by_block() {
        let points = points(DiskProfile::AnySubsetTorn);
        let point = points.last().unwrap();
        let state = |text: &str| {
            let Crash::Power { loss, junk, .. } = text.parse().unwrap() else { panic!("{text}") };
            digits_of(point, &loss, &junk)
        };
        let image = |text: &str| {
            let mut image = point.base.clone();
            point.build(&state(text).unwrap(), |piece| piece.apply(&mut image));
            let word = |index: u64| match image.sector(index).map(|sector| sector.bytes()) {
                None => '.',
                Some(bytes) if bytes.iter().any(|byte| *byte != bytes[0]) => '?',
                Some(bytes) => char::from(b'0' + bytes[0]),
            };
            (0..8).map(word).collect::<String>()
        };
        assert_eq!(image("@6:all"), "22..3333");
        assert_eq!(image("@6:none"), "........");
        assert_eq!(image("@6:lose=4;junk=2"), "??...333");
        assert_eq!(image("@6:all;junk=2.2,4.4"), "2?..33??");
        assert_eq!(image("@6:all;junk=4.3"), "22....33");
        assert_eq!(image("@6:keep=0,2.1;junk=4.5"), "12....?.");
        for nonsense in ["@6:all;junk=0", "@6:lose=2;junk=2", "@6:all;junk=2,2.1", "@6:all;junk=4.8"] {
            assert_eq!(state(nonsense), None, "{nonsense}");
        }
        assert!("@6:all;junk=".parse::<Crash>().is_err());
        assert!("@6:;junk=1".parse::<Crash>().is_err());
    }
}
