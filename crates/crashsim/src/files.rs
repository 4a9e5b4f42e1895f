//! Files: from a trace of requests to the states that a power cut may leave, under a [`FileProfile`].
//!
//! A request falls into pieces. A **write** is one piece for each sector, in the version that the page cache then held, and
//! one for each length that the file takes on as its 4 KiB blocks arrive. Everything else (a name, a rename, a mode, a
//! cut) is one piece. What a barrier does to them, and in which order they may reach the medium without one, is all that
//! file systems differ in here.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use media::{Mode, Owner};

use crate::image::{Body, FsImage, Ino, Name, Node, SECTOR_LEN, Sector};
use crate::space::{Axis, AxisKind, PieceId, Point, Rule, Step, When};
use crate::trace::{Event, Record, Tick, Trace};

/// Blocks in which files grow: a length in between may be found after a power cut.
const GROWTH_LEN: u64 = 4096;

/// Whether a barrier did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did.
    Done,
    /// It failed: what it should have covered is marked clean and will not be written by a later barrier.
    Failed,
}

/// One request to a file system.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is the call of the seam of that name, its subjects given by inode")]
pub enum FileOp {
    /// Also for directories and symbolic links: an inode is born with what it is.
    Create {
        dir: Ino,
        name: Name,
        ino: Ino,
        node: Arc<Node>,
    },
    Link {
        dir: Ino,
        name: Name,
        ino: Ino,
    },
    Unlink {
        dir: Ino,
        name: Name,
        ino: Ino,
    },
    /// `replaced` is what had the new name; `swapped` is the same where the two change places.
    Rename {
        from_dir: Ino,
        from: Name,
        to_dir: Ino,
        to: Name,
        ino: Ino,
        replaced: Option<Ino>,
        swapped: Option<Ino>,
    },
    Write {
        ino: Ino,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// Changes nothing that can be read, but how the file system goes about the file.
    Allocate {
        ino: Ino,
        len: u64,
    },
    SetLen {
        ino: Ino,
        len: u64,
    },
    SetMode {
        ino: Ino,
        mode: Mode,
    },
    SetOwner {
        ino: Ino,
        owner: Owner,
    },
    SetXattr {
        ino: Ino,
        name: OsString,
        value: Arc<[u8]>,
    },
    SyncFile {
        ino: Ino,
        data_only: bool,
        outcome: Outcome,
    },
    /// The second half of a durable write: it covers the bytes that were written last, and no others.
    SyncWritten {
        ino: Ino,
        offset: u64,
        len: u64,
    },
    SyncDir {
        ino: Ino,
        outcome: Outcome,
    },
    SyncAll {
        outcome: Outcome,
    },
}

impl FileOp {
    /// Whether it makes other requests durable.
    #[must_use]
    pub fn is_barrier(&self) -> bool {
        match self {
            Self::SyncFile { .. }
            | Self::SyncWritten { .. }
            | Self::SyncDir { .. }
            | Self::SyncAll { .. } => true,
            Self::Create { .. }
            | Self::Link { .. }
            | Self::Unlink { .. }
            | Self::Rename { .. }
            | Self::Write { .. }
            | Self::Allocate { .. }
            | Self::SetLen { .. }
            | Self::SetMode { .. }
            | Self::SetOwner { .. }
            | Self::SetXattr { .. } => false,
        }
    }

    /// Whether the inode's own change log has it: the directories and the inode it touches.
    fn touches(&self, node: Ino) -> bool {
        match self {
            Self::Create { dir, ino, .. } | Self::Link { dir, ino, .. } | Self::Unlink { dir, ino, .. } => {
                node == *dir || node == *ino
            }
            Self::Rename { from_dir, to_dir, ino, replaced, .. } => {
                node == *from_dir || node == *to_dir || node == *ino || Some(node) == *replaced
            }
            Self::Write { ino, .. }
            | Self::Allocate { ino, .. }
            | Self::SetLen { ino, .. }
            | Self::SetMode { ino, .. }
            | Self::SetOwner { ino, .. }
            | Self::SetXattr { ino, .. }
            | Self::SyncFile { ino, .. }
            | Self::SyncWritten { ino, .. }
            | Self::SyncDir { ino, .. } => node == *ino,
            Self::SyncAll { .. } => false,
        }
    }

    /// The directories whose entries it changes.
    fn dirs(&self) -> [Option<Ino>; 2] {
        match self {
            Self::Create { dir, .. } | Self::Link { dir, .. } | Self::Unlink { dir, .. } => {
                [Some(*dir), None]
            }
            Self::Rename { from_dir, to_dir, .. } if from_dir == to_dir => [Some(*from_dir), None],
            Self::Rename { from_dir, to_dir, .. } => [Some(*from_dir), Some(*to_dir)],
            _ => [None, None],
        }
    }

    /// The inode that gains a name by it.
    fn names(&self) -> Option<Ino> {
        match self {
            Self::Create { ino, .. } | Self::Link { ino, .. } | Self::Rename { ino, .. } => Some(*ino),
            _ => None,
        }
    }

    /// The inode of which it changes mode, owner or attributes.
    fn describes(&self) -> Option<Ino> {
        match self {
            Self::SetMode { ino, .. } | Self::SetOwner { ino, .. } | Self::SetXattr { ino, .. } => Some(*ino),
            _ => None,
        }
    }
}

impl fmt::Display for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { dir, name, ino, node } => {
                let what = match &node.body {
                    Body::File { .. } => "create",
                    Body::Dir(_) => "mkdir",
                    Body::Symlink(_) => "symlink",
                };
                write!(f, "{what} {} in #{dir} as #{ino} {}", name.to_string_lossy(), node.attributes.mode)
            }
            Self::Link { dir, name, ino } => write!(f, "link #{ino} as {} in #{dir}", name.to_string_lossy()),
            Self::Unlink { dir, name, ino } => {
                write!(f, "unlink {} in #{dir} (#{ino})", name.to_string_lossy())
            }
            Self::Rename { from_dir, from, to_dir, to, ino, replaced, swapped } => {
                let how = if swapped.is_some() { "exchange" } else { "rename" };
                write!(f, "{how} {} in #{from_dir} to {}", from.to_string_lossy(), to.to_string_lossy())?;
                write!(f, " in #{to_dir} (#{ino}")?;
                match replaced {
                    Some(other) => write!(f, " over #{other})"),
                    None => f.write_str(")"),
                }
            }
            Self::Write { ino, offset, bytes } => write!(f, "write #{ino} @{offset}+{}", bytes.len()),
            Self::Allocate { ino, len } => write!(f, "allocate #{ino} {len}"),
            Self::SetLen { ino, len } => write!(f, "set_len #{ino} {len}"),
            Self::SetMode { ino, mode } => write!(f, "set_mode #{ino} {mode}"),
            Self::SetOwner { ino, owner } => write!(f, "set_owner #{ino} {}:{}", owner.uid, owner.gid),
            Self::SetXattr { ino, name, .. } => write!(f, "set_xattr #{ino} {}", name.to_string_lossy()),
            Self::SyncFile { ino, data_only, outcome } => {
                let what = if *data_only { "sync_data" } else { "sync_all" };
                write!(f, "{what} #{ino}{}", outcome.word())
            }
            Self::SyncWritten { ino, offset, len } => write!(f, "durable #{ino} @{offset}+{len}"),
            Self::SyncDir { ino, outcome } => write!(f, "sync directory #{ino}{}", outcome.word()),
            Self::SyncAll { outcome } => write!(f, "sync file system{}", outcome.word()),
        }
    }
}

impl Outcome {
    /// For people: nothing, where all is well.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Done => "",
            Self::Failed => " FAILED",
        }
    }
}

/// In which order requests that no barrier covers may reach the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// In any.
    Free,
    /// Names, modes and cuts in the order of their requests, data as it pleases.
    MetadataLog,
    /// Everything in order.
    Everything,
    /// Nothing is lost: the process died, not the power.
    NothingLost,
}

/// What a barrier covers beside what the seam promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Nothing.
    Promised,
    /// All metadata up to the last change of the inode that is synced.
    LogUpToInode,
    /// The names of the inode, and of the directories above it that are new.
    NewNames,
}

/// What a file system does between its barriers.
///
/// A profile may allow more than the file system does (then it is only stricter with us); it must allow everything that
/// was ever seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileProfile {
    name: &'static str,
    evidence: &'static str,
    order: Order,
    reach: Reach,
    /// A length is found only together with the data it covers.
    len_after_data: bool,
    /// A rename that replaces a file waits for the length of the file that is renamed, unless space was reserved for it.
    rename_flushes: bool,
    /// The unit in which data is old or new.
    tear_len: u64,
}

impl FileProfile {
    /// Only what a barrier covers survives for sure; everything else survives or not, each piece by itself.
    pub const POSIX_MIN: Self = Self {
        name: "posix-min",
        evidence: "the contract of the seam, and POSIX.1-2024 fsync(); weaker than any file system we saw",
        order: Order::Free,
        reach: Reach::Promised,
        len_after_data: false,
        rename_flushes: false,
        tear_len: 512,
    };

    /// ext4, `data=ordered`, as mounted by default.
    pub const EXT4: Self = Self {
        name: "ext4-ordered",
        evidence: "ext4 6.x: one journal for all metadata, fsync commits it; lengths and data of other files are free; \
                   auto_da_alloc writes back a file that is renamed over another, and does not wait for it: seen full \
                   of zeros in 12-21 % of cuts on 6.18, and empty after fallocate",
        order: Order::MetadataLog,
        reach: Reach::LogUpToInode,
        len_after_data: false,
        rename_flushes: true,
        tear_len: 512,
    };

    /// ext4 mounted with `noauto_da_alloc`.
    pub const EXT4_NO_AUTO_DA_ALLOC: Self = Self {
        name: "ext4-noauto",
        evidence: "as ext4-ordered; a rename over a file without fsync was seen to leave it empty, and full of zeros",
        rename_flushes: false,
        ..Self::EXT4
    };

    /// XFS.
    pub const XFS: Self = Self {
        name: "xfs",
        evidence: "xfs 6.x: one log for all metadata; a length becomes durable only after its data; no care for renames",
        order: Order::MetadataLog,
        reach: Reach::LogUpToInode,
        len_after_data: true,
        rename_flushes: false,
        tear_len: 512,
    };

    /// btrfs.
    pub const BTRFS: Self = Self {
        name: "btrfs",
        evidence: "btrfs 6.x: fsync logs one inode, its names and its new ancestors, other renames may stay old; \
                   of a rename between directories with only the new one synced both names are left; blocks are \
                   copied on write, so each is old or new",
        order: Order::MetadataLog,
        reach: Reach::NewNames,
        len_after_data: true,
        rename_flushes: false,
        tear_len: 4096,
    };

    /// The process dies and the system goes on: nothing is lost.
    pub const ORDERED: Self = Self {
        name: "ordered",
        evidence: "a killed process; a battery-backed cache",
        order: Order::NothingLost,
        reach: Reach::Promised,
        len_after_data: false,
        rename_flushes: false,
        tear_len: 4096,
    };

    /// What is lost is lost from the end. No medium promises this; many crash tests assume it.
    pub const PREFIX: Self = Self {
        name: "prefix",
        evidence: "no medium; the usual model of crash tests, kept to show what it misses",
        order: Order::Everything,
        ..Self::ORDERED
    };

    /// Those that stand for a file system, the strictest with us first, and the kill.
    pub const ALL: [Self; 6] =
        [Self::POSIX_MIN, Self::EXT4, Self::EXT4_NO_AUTO_DA_ALLOC, Self::XFS, Self::BTRFS, Self::ORDERED];

    /// Looked at where nothing else is asked for.
    pub const DEFAULT: [Self; 2] = [Self::POSIX_MIN, Self::EXT4];

    /// The name on the command line and in ids.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where it was learned what this profile allows.
    #[must_use]
    pub fn evidence(&self) -> &'static str {
        self.evidence
    }

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().chain([Self::PREFIX]).find(|profile| profile.name == name)
    }
}

/// A place that is written as a whole and may hold any of its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// Sectors of a file that are old or new together, from this one on.
    Data(Ino, u64),
    /// The length of a file.
    Len(Ino),
}

/// What a piece does to an image.
#[derive(Debug, Clone)]
pub enum FilePiece {
    /// Sectors of a file.
    Sectors(Ino, Vec<(u64, Sector)>),
    /// The length a file grew to.
    Len(Ino, u64),
    /// Anything else.
    Whole(FileOp),
}

impl FilePiece {
    /// Puts it into an image.
    pub fn apply(&self, image: &mut FsImage) {
        match self {
            Self::Sectors(ino, sectors) => {
                for (index, sector) in sectors {
                    image.put_sector(*ino, *index, Some(sector.clone()));
                }
            }
            Self::Len(ino, len) => image.put_len(*ino, *len),
            Self::Whole(op) => image.apply(op),
        }
    }
}

impl fmt::Display for FilePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sectors(ino, sectors) => {
                let first = sectors.first().map_or(0, |(index, _)| index * wide(SECTOR_LEN));
                write!(f, "data of #{ino} @{first}+{}", sectors.len() * SECTOR_LEN)
            }
            Self::Len(ino, len) => write!(f, "length {len} of #{ino}"),
            Self::Whole(op) => op.fmt(f),
        }
    }
}

/// A piece on its way to the medium.
#[derive(Debug, Clone)]
struct Pending {
    id: PieceId,
    completed: Tick,
    piece: FilePiece,
    place: Option<Place>,
    durable: bool,
    /// A barrier that should have covered it failed: no later one will.
    stuck: bool,
    /// For a rename between directories: which of the two was synced.
    synced_dirs: [bool; 2],
    /// Whether it makes a file shorter: a length that nobody needs to read the data back.
    shortens: bool,
}

impl Pending {
    fn op(&self) -> Option<&FileOp> {
        match &self.piece {
            FilePiece::Whole(op) => Some(op),
            FilePiece::Sectors(..) | FilePiece::Len(..) => None,
        }
    }

    /// The file of which it is data or length.
    fn file(&self) -> Option<Ino> {
        match self.place? {
            Place::Data(ino, _) | Place::Len(ino) => Some(ino),
        }
    }

    /// Whether, after this barrier, every directory that the piece changes was synced.
    fn all_dirs_synced(&mut self, barrier: &FileOp, dirs: [Option<Ino>; 2]) -> bool {
        let FileOp::SyncDir { ino, .. } = barrier else { return true };
        for (synced, dir) in self.synced_dirs.iter_mut().zip(dirs) {
            *synced |= dir.is_none_or(|dir| dir == *ino);
        }
        dirs == [None, None] || self.synced_dirs.iter().all(|&synced| synced)
    }
}

/// A point among files.
pub type FilePoint = Point<FsImage, FilePiece>;

/// The crash points of a trace under a profile: before each barrier, before each mark, and at the end. The states of every
/// other moment are among those of the next of these, as long as no request is in flight while another is made, which is
/// how [`SimFs`](crate::SimFs) records.
#[must_use]
pub fn points(start: &FsImage, trace: &Trace<FileOp>, profile: FileProfile) -> Vec<FilePoint> {
    let mut walk = Walk {
        profile,
        allocated: HashSet::new(),
        settled: start.clone(),
        visible: start.clone(),
        pending: Vec::new(),
    };
    let mut points = Vec::new();
    for (index, record) in trace.records().iter().enumerate() {
        let is_boundary = profile.order == Order::NothingLost
            || match &record.event {
                Event::Op(op) => op.is_barrier(),
                // A named point tells nobody anything: no promise changes there.
                Event::Mark(mark) => !matches!(mark, crate::witness::Mark::Point(_)),
            };
        if is_boundary {
            points.push(walk.point(index));
        }
        walk.take(index, record);
    }
    points.push(walk.point(trace.len()));
    points
}

struct Walk {
    profile: FileProfile,
    /// Files that had space reserved.
    allocated: HashSet<Ino>,
    /// Everything durable with nothing before it that is not, and every inode ever born.
    settled: FsImage,
    /// What a reader sees.
    visible: FsImage,
    /// In order.
    pending: Vec<Pending>,
}

impl Walk {
    fn take(&mut self, index: usize, record: &Record<FileOp>) {
        let Event::Op(op) = &record.event else { return };
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        match op {
            FileOp::SyncFile { outcome, .. }
            | FileOp::SyncDir { outcome, .. }
            | FileOp::SyncAll { outcome } => {
                self.barrier(op, *outcome, record.submitted);
            }
            FileOp::SyncWritten { ino, offset, len } => self.settle_written(*ino, *offset, *len),
            FileOp::Write { ino, offset, bytes } => self.write(index, record.completed, *ino, *offset, bytes),
            FileOp::Allocate { ino, .. } => drop(self.allocated.insert(*ino)),
            _ => {
                if let FileOp::Create { ino, node, .. } = op {
                    self.settled.bear(*ino, (**node).clone());
                }
                self.push(
                    PieceId { record: index, part: 0 },
                    record.completed,
                    None,
                    FilePiece::Whole(op.clone()),
                );
            }
        }
        self.visible.apply(op);
    }

    fn push(&mut self, id: PieceId, completed: Tick, place: Option<Place>, piece: FilePiece) {
        let durable = self.profile.order == Order::NothingLost;
        let synced_dirs = [false; 2];
        let shortens = match &piece {
            FilePiece::Whole(FileOp::SetLen { ino, len }) => {
                self.visible.file_len(*ino).is_some_and(|now| *len < now)
            }
            FilePiece::Whole(_) | FilePiece::Sectors(..) | FilePiece::Len(..) => false,
        };
        self.pending.push(Pending {
            id,
            completed,
            piece,
            place,
            durable,
            stuck: false,
            synced_dirs,
            shortens,
        });
        if durable {
            self.fold();
        }
    }

    fn write(&mut self, record: u32, completed: Tick, ino: Ino, offset: u64, bytes: &[u8]) {
        let old_len = self.visible.file_len(ino).unwrap_or(0);
        let end = offset.saturating_add(wide(bytes.len()));
        let written = self.visible.sectors_written(ino, offset, bytes);
        let per_unit = self.profile.tear_len / wide(SECTOR_LEN);
        let mut part = 0;
        let mut push = |walk: &mut Self, place, piece| {
            walk.push(PieceId { record, part }, completed, Some(place), piece);
            part += 1;
        };
        for unit in written.chunk_by(|(one, _), (other, _)| one / per_unit == other / per_unit) {
            let Some((last, _)) = unit.last() else { continue };
            let first = last / per_unit * per_unit;
            // The whole unit as the cache now holds it: what was written, and what stood there.
            let now = |index| {
                let new = unit.iter().find(|(at, _)| *at == index).map(|(_, sector)| sector);
                new.or_else(|| self.visible.sector(ino, index)).map(|sector| (index, sector.clone()))
            };
            let sectors = (first..first + per_unit).filter_map(now).collect();
            push(self, Place::Data(ino, first), FilePiece::Sectors(ino, sectors));
            let reached = last.saturating_add(1).saturating_mul(wide(SECTOR_LEN)).min(end);
            let block_ends = reached % GROWTH_LEN == 0 || reached == end;
            if block_ends && reached > old_len {
                push(self, Place::Len(ino), FilePiece::Len(ino, reached));
            }
        }
    }

    /// What a barrier makes durable, or fails to.
    fn barrier(&mut self, op: &FileOp, outcome: Outcome, submitted: Tick) {
        let log_end = self.log_end(op);
        let named = self.new_names(op);
        for (index, pending) in self.pending.iter_mut().enumerate() {
            if pending.completed >= submitted || pending.stuck {
                continue;
            }
            let by_log = pending.place.is_none() && log_end.is_some_and(|end| index <= end);
            let promised = promised(op, pending);
            if outcome == Outcome::Failed {
                pending.stuck |= promised && !pending.durable;
                continue;
            }
            let dirs = pending.op().map_or([None, None], FileOp::dirs);
            let settled = promised && pending.all_dirs_synced(op, dirs);
            pending.durable |= settled || by_log || named.contains(&index);
        }
        if outcome == Outcome::Done {
            self.split_renames(op);
        }
        if self.profile.rename_flushes {
            self.flush_renamed();
        }
        self.fold();
    }

    /// What was written last, in each place of this range, is durable, and the length where reading it back needs it.
    fn settle_written(&mut self, ino: Ino, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let sector = wide(SECTOR_LEN);
        let mut settled: Vec<Place> = Vec::new();
        for pending in self.pending.iter_mut().rev() {
            let Some(place) = pending.place.filter(|place| !settled.contains(place)) else { continue };
            if pending.stuck {
                continue;
            }
            let is_covered = match (place, &pending.piece) {
                (Place::Data(of, first), _) => {
                    let from = first.saturating_mul(sector);
                    of == ino && from < end && from.saturating_add(self.profile.tear_len) > offset
                }
                // Of several lengths that are on their way, the last one: a reader needs it, or one as large.
                (Place::Len(of), _) => of == ino,
            };
            if is_covered {
                pending.durable = true;
                settled.push(place);
            }
        }
        self.fold();
    }

    /// Of a rename between directories, only the new one was synced: the new name may be durable with the old one still
    /// there. Never neither.
    fn split_renames(&mut self, barrier: &FileOp) {
        let FileOp::SyncDir { ino: synced, .. } = barrier else { return };
        for index in (0..self.pending.len()).rev() {
            let Some(pending) = self.pending.get(index).filter(|pending| !pending.durable && !pending.stuck)
            else {
                continue;
            };
            let Some(FileOp::Rename { from_dir, from, to_dir, to, ino, swapped: None, .. }) = pending.op()
            else {
                continue;
            };
            if from_dir == to_dir || to_dir != synced {
                continue;
            }
            let gained = FileOp::Link { dir: *to_dir, name: Arc::clone(to), ino: *ino };
            let given_up = FileOp::Unlink { dir: *from_dir, name: Arc::clone(from), ino: *ino };
            let half = |part, op, durable| Pending {
                id: PieceId { part, ..pending.id },
                piece: FilePiece::Whole(op),
                durable,
                ..pending.clone()
            };
            let halves = [half(0, gained, self.profile.reach == Reach::NewNames), half(1, given_up, false)];
            self.pending.splice(index..=index, halves);
        }
        // Once the old name is durably gone, the new one is there: the barrier before this one saw to its half.
        for index in 1..self.pending.len() {
            let [first, second] = self.pending.get_mut(index - 1..=index).unwrap_or_default() else {
                continue;
            };
            first.durable |= second.durable && is_rename_half(first, second);
        }
    }

    /// A rename that replaced a file is committed only after the length of the file that was renamed.
    fn flush_renamed(&mut self) {
        let flushed: Vec<(PieceId, Ino)> = self
            .pending
            .iter()
            .filter(|pending| pending.durable)
            .filter_map(|pending| match pending.op()? {
                FileOp::Rename { ino, replaced: Some(_), .. } => Some((pending.id, *ino)),
                _ => None,
            })
            .collect();
        for pending in &mut self.pending {
            let is_waited_for = |&(rename, ino): &(PieceId, Ino)| {
                pending.id < rename
                    && pending.place == Some(Place::Len(ino))
                    && !self.allocated.contains(&ino)
            };
            pending.durable |= !pending.stuck && flushed.iter().any(is_waited_for);
        }
    }

    /// Up to which piece the log is committed by this barrier.
    fn log_end(&self, op: &FileOp) -> Option<usize> {
        if self.profile.reach != Reach::LogUpToInode {
            return None;
        }
        let last =
            |wanted: &dyn Fn(&FileOp) -> bool| self.pending.iter().rposition(|p| p.op().is_some_and(wanted));
        match op {
            FileOp::SyncFile { ino, data_only: false, .. } | FileOp::SyncDir { ino, .. } => {
                last(&|op| op.touches(*ino))
            }
            FileOp::SyncFile { ino, data_only: true, .. } => {
                last(&|op| matches!(op, FileOp::SetLen { ino: cut, .. } if cut == ino))
            }
            _ => None,
        }
    }

    /// The pieces that give the synced file, and new directories above it, their names.
    fn new_names(&self, op: &FileOp) -> Vec<usize> {
        let mut found = Vec::new();
        let FileOp::SyncFile { ino, data_only: false, .. } = op else { return found };
        if self.profile.reach != Reach::NewNames {
            return found;
        }
        let mut wanted = vec![*ino];
        while let Some(node) = wanted.pop() {
            for (index, pending) in self.pending.iter().enumerate() {
                let Some(op) = pending.op().filter(|op| op.names() == Some(node)) else { continue };
                // A directory that was there before and was renamed keeps its old name: only new ones are logged.
                let logged = node == *ino || matches!(op, FileOp::Create { .. });
                if logged && !found.contains(&index) {
                    found.push(index);
                    wanted.extend(op.dirs().into_iter().flatten());
                }
            }
        }
        found
    }

    /// Moves to `settled` what is durable and has nothing before it that is not.
    fn fold(&mut self) {
        // Of a place, only the newest durable version and what came after it matter.
        let mut index = 0;
        while index < self.pending.len() {
            let superseded = self.pending.get(index).is_some_and(|old| {
                let newer = self.pending.get(index + 1..).unwrap_or(&[]);
                old.place.is_some() && newer.iter().any(|new| new.durable && new.place == old.place)
            });
            if superseded {
                self.pending.remove(index);
            } else {
                index += 1;
            }
        }
        let first_free = self.pending.iter().position(|p| !p.durable).unwrap_or(self.pending.len());
        for pending in self.pending.drain(..first_free) {
            pending.piece.apply(&mut self.settled);
        }
    }

    fn point(&self, at: usize) -> FilePoint {
        let mut axes: Vec<Axis> = Vec::new();
        let mut places: Vec<(Place, usize)> = Vec::new();
        let mut log: Option<usize> = None;
        let mut steps = Vec::new();
        // Where each pending piece went: its axis and digit.
        let mut seats: Vec<Option<(usize, u32)>> = Vec::new();
        for pending in &self.pending {
            let seat = (!pending.durable).then(|| self.seat(pending, &mut axes, &mut places, &mut log));
            let when = match seat {
                None => When::Always,
                Some((axis, digit)) => match axes.get(axis).map(|axis| axis.kind) {
                    Some(AxisKind::Slot) => When::Is(axis, digit),
                    _ => When::AtLeast(axis, digit),
                },
            };
            steps.push(Step { id: pending.id, when, piece: pending.piece.clone() });
            seats.push(seat);
        }
        let rules = self.rules(&seats);
        Point { at, base: self.settled.clone(), steps, axes, rules, groups: Vec::new() }
    }

    /// Gives a piece its place on an axis.
    fn seat(
        &self,
        pending: &Pending,
        axes: &mut Vec<Axis>,
        places: &mut Vec<(Place, usize)>,
        log: &mut Option<usize>,
    ) -> (usize, u32) {
        let in_log = match self.profile.order {
            Order::Free | Order::NothingLost => false,
            Order::MetadataLog => pending.place.is_none(),
            Order::Everything => true,
        };
        let known = if in_log {
            *log
        } else {
            places.iter().find(|(place, _)| Some(*place) == pending.place).map(|(_, axis)| *axis)
        };
        let axis = known.unwrap_or_else(|| {
            let kind = match (in_log, pending.place) {
                (true, _) => AxisKind::Log,
                (false, Some(_)) => AxisKind::Slot,
                (false, None) => AxisKind::Bit,
            };
            axes.push(Axis { kind, pieces: Vec::new() });
            let axis = axes.len() - 1;
            match (in_log, pending.place) {
                (true, _) => *log = Some(axis),
                (false, Some(place)) => places.push((place, axis)),
                (false, None) => {}
            }
            axis
        });
        let Some(pieces) = axes.get_mut(axis).map(|axis| &mut axis.pieces) else { return (axis, 0) };
        pieces.push(pending.id);
        (axis, u32::try_from(pieces.len()).unwrap_or(u32::MAX))
    }

    fn rules(&self, seats: &[Option<(usize, u32)>]) -> Vec<Rule> {
        let mut rules = Vec::new();
        if matches!(self.profile.order, Order::Everything | Order::NothingLost) {
            return rules;
        }
        let mut need = |needs: (usize, u32), wanted: &dyn Fn(&Pending) -> bool| {
            for (pending, seat) in self.pending.iter().zip(seats) {
                if let Some(needed) = *seat
                    && wanted(pending)
                {
                    rules.push(Rule { needs, needed });
                }
            }
        };
        for (pending, seat) in self.pending.iter().zip(seats) {
            let Some(needs) = *seat else { continue };
            let before = |other: &Pending| other.id < pending.id;
            match &pending.piece {
                FilePiece::Len(ino, _) if self.profile.len_after_data => need(needs, &|other| {
                    let same_write = other.id.record == pending.id.record && other.file() == Some(*ino);
                    before(other) && same_write && matches!(other.place, Some(Place::Data(..)))
                }),
                FilePiece::Whole(FileOp::Rename { ino, replaced: Some(_), .. })
                    if self.profile.rename_flushes =>
                {
                    let waits = !self.allocated.contains(ino);
                    need(needs, &|other| waits && before(other) && other.place == Some(Place::Len(*ino)));
                }
                FilePiece::Whole(FileOp::Unlink { .. }) if pending.id.part == 1 => {
                    need(needs, &|other| is_rename_half(other, pending));
                }
                FilePiece::Len(..) | FilePiece::Sectors(..) | FilePiece::Whole(_) => {}
            }
        }
        rules
    }
}

/// Whether the two are what a rename between directories was split into.
fn is_rename_half(gained: &Pending, given_up: &Pending) -> bool {
    gained.id.record == given_up.id.record
        && (gained.id.part, given_up.id.part) == (0, 1)
        && gained.place.is_none()
}

/// Whether the seam promises that this barrier covers the piece (of a rename between directories: half of it).
fn promised(op: &FileOp, pending: &Pending) -> bool {
    match op {
        FileOp::SyncFile { ino, data_only, .. } => {
            pending.file() == Some(*ino)
                || match pending.op() {
                    Some(FileOp::SetLen { ino: cut, .. }) => cut == ino && !(*data_only && pending.shortens),
                    Some(other) => !data_only && other.describes() == Some(*ino),
                    None => false,
                }
        }
        FileOp::SyncDir { ino, .. } => pending
            .op()
            .is_some_and(|piece| piece.describes() == Some(*ino) || piece.dirs().contains(&Some(*ino))),
        FileOp::SyncAll { .. } => true,
        _ => false,
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
