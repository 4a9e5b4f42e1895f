//! Formatting and opening.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use media::{BlockDevice, BlockIndex};

use crate::edges::Edges;
use crate::error::JournalError;
use crate::frame::{Format, HEADER_LEN, Kind, LEN_AT, StoreId, decode, u32_at};
use crate::layout::{Layout, Limits, Marks, Side, pair_of};
use crate::marks::Mark;
pub use crate::replay::Frame;
use crate::replay::{Looked, Region, Replayed, Verdict, Watch, examine, replay};
use crate::superblock::{Slot, Superblock, read_slots};
use crate::writer::{Barrier, Journal, OpenRecord, RootSource, Stats};

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is written, not even a repair.
    Read,
    /// As [`Access::Read`], for whatever can be read: also where all superblocks are lost (format 2), as the headers of the
    /// regions describe the store, and where the device has been cut short. What is found may be a store that was being
    /// made or wiped.
    Salvage,
    /// One writer; the caller has made sure that there is no other.
    Write,
}

/// What was found when a store was opened, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How the journal ends.
    pub verdict: Verdict,
    /// How many frames of records were read.
    pub frames: u64,
    /// The highest watermark that was found: nothing up to it is lost, unless the verdict says so.
    pub durable_seq: u64,
    /// What the next frame would have been, had nothing happened.
    pub next_seq: u64,
    /// Whether the store had been closed, or sealed when it was idle.
    pub was_sealed: bool,
    /// Whether something may be missing behind the last frame that was read. Only where there is damage.
    pub gap_at_end: bool,
    /// Whether everything that was copied when the region came into force is there.
    pub copied_is_whole: bool,
    /// Valid superblocks of the pair in force, of two.
    pub roots_valid: u8,
    /// How many of them were rewritten.
    pub roots_repaired: u8,
    /// Whether a switch that a crash had interrupted was finished.
    pub switch_finished: bool,
    /// The superblock's generation.
    pub generation: u64,
    /// Of this open; of the last writer where it is only read.
    pub incarnation: u32,
    /// Blocks of the region in force that are used.
    pub used_blocks: u64,
    /// Blocks that were looked at. One that was looked at twice counts twice.
    pub examined_blocks: u64,
    /// The version of the format.
    pub format: Format,
}

/// How far an open has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Blocks that were read so far.
    pub blocks: u64,
    /// How many there are to read, as far as is known. A damaged store is read more than once.
    pub blocks_total: u64,
}

/// An open store.
#[derive(Debug)]
pub struct Opened<D> {
    /// To write to, or to hold on to.
    pub journal: Journal<D>,
    /// What was found.
    pub report: Report,
}

impl<D: BlockDevice> Journal<D> {
    /// Makes an empty store: wipes whatever roots there are, and writes new ones.
    ///
    /// `store` must be random. `engine` are up to [`crate::superblock::ENGINE_LEN_MAX`] bytes that are found again at every open.
    ///
    /// # Durability
    /// `Ok`: the store is there. Cut short, there is the old store, no store, or the new one; never a mixture.
    ///
    /// # Errors
    /// [`JournalError::Layout`], [`JournalError::Device`].
    pub fn format(device: D, store: StoreId, limits: Limits, engine: &[u8]) -> Result<Self, JournalError> {
        Self::form(device, store, limits, engine, 1)?.finish()
    }

    /// A journal at the beginning of its region.
    pub(crate) fn over(device: D, layout: Layout, root: Superblock) -> Self {
        Self {
            has_durable_writes: device.geometry().write_durable(),
            device,
            layout,
            side: root.side,
            epoch: root.epoch,
            epoch_max: root.epoch,
            incarnation: root.incarnation,
            tail: root.copied_blocks,
            next_seq: root.copied_seq.saturating_add(1),
            durable_seq: root.copied_seq,
            in_flight_blocks: 0,
            open_record: OpenRecord::Written,
            covers: 0,
            last: Kind::Closing,
            read_only: None,
            poisoned: None,
            buffer: Vec::new(),
            zeros: Vec::new(),
            out: VecDeque::new(),
            spare: Vec::new(),
            copying: None,
            used: (layout.region_blocks(), layout.region_blocks()),
            wiped_blocks: 0,
            began_wiped: false,
            stats: Stats::default(),
            root_source: RootSource::Read,
            root,
        }
    }

    /// Opens a store and hands every frame of records to `each`, in order. Damage is no error: the store is then
    /// read-only, the frames that can be read are handed over, and the report says what is missing.
    ///
    /// Opened to be read, a store may be written by another process at the same time. What is handed over is then at least
    /// everything that was durable when this call began, or the call fails with [`JournalError::Overtaken`].
    ///
    /// # Durability
    /// Everything that was handed over is on the medium, if the store was opened for writing: there is a flush before
    /// anything is read. Where the store was not sealed, the record of this open is durable before anything is committed.
    ///
    /// # Errors
    /// [`JournalError::NoStore`], [`JournalError::SuperblocksLost`], [`JournalError::SeveralStores`],
    /// [`JournalError::WrongDevice`], [`JournalError::Overtaken`], [`JournalError::Device`], [`JournalError::NoMemory`], and
    /// those of `each`.
    pub fn open<E: From<JournalError>>(
        device: D,
        access: Access,
        each: &mut dyn FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<Opened<D>, E> {
        Self::open_watched(device, access, &mut |_| {}, each)
    }

    /// As [`Journal::open`], and tells `progress` how far it has read, about once in 256 blocks.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_watched<E: From<JournalError>>(
        device: D,
        access: Access,
        progress: &mut dyn FnMut(Reading),
        each: &mut dyn FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<Opened<D>, E> {
        if access == Access::Write {
            // A process may have died after a flush that failed, with a cache that still lies.
            device.flush().map_err(JournalError::from)?;
            // What it left there is marked clean, so the flush that has just succeeded says nothing of it: only the medium
            // knows what survived.
            device.forget_cached();
        }
        let found = Found::look(&device, access)?;
        let (mut blocks, blocks_total) = (0, found.region(&found.root).end);
        let mut on_read = |count: u64| {
            blocks += count;
            progress(Reading { blocks, blocks_total: blocks_total.max(blocks) });
        };
        let mut watch = Watch { examined: 0, on_read: &mut on_read };
        let layout = found.layout;
        let mut root = found.root.clone();
        let (other, unfinished) = found.whole_newer_region(&device, &mut watch)?;
        if let Some(newer) = unfinished {
            root = newer;
        }
        let mut replayed = replay(&device, found.region(&root), &mut watch, each)?;
        // A block of a later life, in this region or in the other: the root that was found is not the newest there was.
        replayed.hear_promise(replayed.promised.max(other.promised));
        if access != Access::Write && found.is_overtaken(&device, &root, &replayed) {
            return Err(JournalError::Overtaken.into());
        }
        if found.source == Source::Regions {
            replayed.without_superblock();
        }
        let mut journal = Self::over(device, layout, root.clone());
        journal.adopt_marks(found.marks);
        journal.adopt(&replayed, &other, access)?;
        if found.source == Source::Regions {
            journal.read_only = Some("its superblocks are lost");
        }
        let mut report = Report {
            verdict: replayed.verdict,
            frames: replayed.frames,
            durable_seq: replayed.durable_seq,
            next_seq: replayed.next_seq,
            was_sealed: replayed.is_sealed,
            gap_at_end: replayed.gap_at_end,
            copied_is_whole: replayed.copied_blocks.is_some(),
            roots_valid: found.valid_in_force(),
            roots_repaired: 0,
            switch_finished: root != found.root && found.source == Source::Superblock,
            generation: root.generation,
            incarnation: journal.incarnation,
            used_blocks: replayed.tail,
            examined_blocks: watch.examined,
            format: root.format,
        };
        if journal.read_only.is_none() {
            report.roots_repaired = journal.settle_roots(&found, &root, &replayed)?;
            journal.settle_mark(&found, &replayed)?;
            journal.record_open(&replayed)?;
        }
        Ok(Opened { journal, report })
    }

    /// Takes over what was replayed.
    fn adopt(&mut self, replayed: &Replayed, other: &Other, access: Access) -> Result<(), JournalError> {
        self.tail = replayed.tail;
        self.next_seq = replayed.next_seq;
        self.covers = replayed.covers;
        self.durable_seq = replayed.durable_seq.min(replayed.next_seq.saturating_sub(1));
        self.epoch_max = self.epoch.max(other.epoch_max);
        self.incarnation = replayed.incarnation;
        self.read_only = match (replayed.verdict, access) {
            (Verdict::Damaged { .. }, _) => Some("it is damaged"),
            _ if other.is_unreadable => Some("the header of its other region cannot be read"),
            (_, Access::Read | Access::Salvage) => Some("it was opened to be read"),
            (Verdict::Clean | Verdict::TornTail { .. }, Access::Write) => None,
        };
        if self.read_only.is_none() {
            let greatest = replayed.incarnation_max.max(other.incarnation_max).max(self.root.incarnation);
            self.incarnation = greatest.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        }
        Ok(())
    }

    /// Writes what is missing of the root in force.
    fn settle_roots(
        &mut self,
        found: &Found,
        root: &Superblock,
        replayed: &Replayed,
    ) -> Result<u8, JournalError> {
        if *root != found.root {
            let root = Superblock { incarnation: self.incarnation, ..root.clone() };
            if replayed.tail == root.copied_blocks {
                self.write_copied_again(&root)?;
            }
            self.write_root(&root)?;
            self.root = root;
            return Ok(2);
        }
        let mut repaired = 0;
        for slot in pair_of(root.generation) {
            if found.slots.get(slot) != Some(&Slot::Valid(root.clone())) {
                self.write_slot(root, slot)?;
                repaired += 1;
            }
        }
        if repaired > 0 {
            self.flush_now()?;
        }
        Ok(repaired)
    }

    /// Writes the mark of the region in force again, where its two copies did not agree: the whole region was read, so it is
    /// known how far it has been used. It is durable with the next flush, and until then the region is read as a whole.
    fn settle_mark(&mut self, found: &Found, replayed: &Replayed) -> Result<(), JournalError> {
        let side = self.side;
        if found.mark(side).is_some_and(|mark| mark.epoch <= self.epoch) || self.layout.mark(side).is_none() {
            return Ok(());
        }
        let used = self.layout.mark_for(replayed.written);
        self.write_mark(side, self.epoch, used)?;
        self.flush_now()?;
        match side {
            Side::A => self.used.0 = used,
            Side::B => self.used.1 = used,
        }
        Ok(())
    }

    /// What was read of a switch that a crash interrupted may be in a cache alone: the flush that should have covered it may
    /// have failed, and no later one covers it unless it is written again.
    ///
    /// Only where nothing was committed behind it: then the other region still holds everything, should this one be torn
    /// now. Behind a commit it is durable, for commits wait until the root is.
    fn write_copied_again(&mut self, root: &Superblock) -> Result<(), JournalError> {
        let mut block = alloc::vec![0; self.layout.block_size()];
        for at in 0..root.copied_blocks {
            let address = self.layout.block(root.side, at);
            self.device.read(address, &mut block)?;
            self.stats.blocks += 1;
            self.device.write(address, &block).map_err(|error| self.poison(error))?;
        }
        self.flush_now()
    }

    /// Says, durably, that what stands behind the end is discarded. After a seal there is nothing to discard, and the
    /// record can wait for the first frame.
    fn record_open(&mut self, replayed: &Replayed) -> Result<(), JournalError> {
        self.open_record = OpenRecord::Due;
        if replayed.is_sealed {
            return Ok(());
        }
        // Whatever number was handed out and lost is not handed out again: no more than this many were in flight.
        let in_flight = u64::from(self.layout.limits().in_flight_blocks_max);
        let used = replayed.seq_max.max(replayed.next_seq.saturating_sub(1));
        self.next_seq = used.checked_add(in_flight + 1).ok_or(JournalError::NumbersUsedUp)?;
        // Everything that was read is on the medium: there was a flush before it was read.
        self.durable_seq = replayed.next_seq.saturating_sub(1);
        if self.tail >= self.layout.region_blocks() {
            // No room: nothing is committed here any more. The engine copies and switches.
            return Ok(());
        }
        self.open_record = OpenRecord::Written;
        self.put(Kind::Open, &[], Barrier::None)?;
        let _recorded = self.flush()?;
        Ok(())
    }
}

/// A life of a region that may have `end` blocks.
pub(crate) fn region_of(root: &Superblock, layout: Layout, end: u64) -> Region {
    Region {
        layout,
        owner: root.owner(),
        side: root.side,
        epoch: root.epoch,
        copied_blocks: root.copied_blocks,
        end,
    }
}

/// Where it is known from which region is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Superblock,
    /// All superblocks are lost: the headers of the regions say what a superblock would have said.
    Regions,
}

/// What the slots and the marks say.
struct Found {
    source: Source,
    slots: [Slot; 4],
    root: Superblock,
    layout: Layout,
    /// Of regions A and B.
    marks: (Option<Mark>, Option<Mark>),
}

/// What the region that is not in force says.
struct Other {
    epoch_max: u64,
    incarnation_max: u32,
    is_unreadable: bool,
    /// The highest watermark in it.
    promised: u64,
}

impl Found {
    fn look<D: BlockDevice>(device: &D, access: Access) -> Result<Self, JournalError> {
        let edges = Edges::of(device);
        let slots = read_slots(&edges);
        let root = newest_root(&slots)?.cloned();
        let source = if root.is_some() { Source::Superblock } else { Source::Regions };
        let root = match root {
            Some(root) => root,
            None if access == Access::Salvage
                && let Some(described) = described_root(device) =>
            {
                described
            }
            None => {
                return Err(match slots.contains(&Slot::Unreadable) || looks_like_a_store(device) {
                    true => JournalError::SuperblocksLost,
                    false => JournalError::NoStore,
                });
            }
        };
        let wrong_device =
            JournalError::WrongDevice { region_blocks: root.region_blocks, block_size: root.block_size };
        let Some(layout) = root.layout(device.geometry()) else { return Err(wrong_device) };
        if access != Access::Salvage && layout.block_count() > device.geometry().block_count() {
            return Err(wrong_device);
        }
        let mark = |side| Mark::read(&edges, &layout, root.store, side);
        let marks = (mark(Side::A), mark(Side::B));
        Ok(Self { source, slots, root, layout, marks })
    }

    fn mark(&self, side: Side) -> Option<Mark> {
        match side {
            Side::A => self.marks.0,
            Side::B => self.marks.1,
        }
    }

    /// The life that a root names, as far as its region may have been used.
    fn region(&self, root: &Superblock) -> Region {
        region_of(root, self.layout, Mark::end_of(self.mark(root.side), &self.layout, root.epoch))
    }

    /// Whether a writer changed what this reader has read: a switch, or a block where the journal seemed to end otherwise than
    /// cleanly.
    fn is_overtaken<D: BlockDevice>(&self, device: &D, root: &Superblock, replayed: &Replayed) -> bool {
        let is_same_root = match self.source {
            Source::Superblock => {
                let slots = read_slots(&Edges::of(device));
                newest_root(&slots).is_ok_and(|newest| newest == Some(&self.root))
            }
            Source::Regions => true,
        };
        let region = self.region(root);
        if !is_same_root || replayed.verdict == Verdict::Clean || replayed.tail >= region.end {
            return !is_same_root;
        }
        let address = self.layout.block(root.side, replayed.tail);
        let mut block = alloc::vec![0; self.layout.block_size()];
        let now: Looked = match device.read(address, &mut block) {
            Ok(()) => decode(&block, region.owner, address).map(|(header, _)| header).map_err(Some),
            Err(_) => Err(None),
        };
        now != replayed.stopped_at
    }

    fn valid_in_force(&self) -> u8 {
        let is_valid = |slot: usize| self.slots.get(slot) == Some(&Slot::Valid(self.root.clone()));
        pair_of(self.root.generation).into_iter().map(|slot| u8::from(is_valid(slot))).sum()
    }

    /// Looks at the region that is not in force. Where a copy into it was completed and the root was not written, the root
    /// that it should have got.
    fn whole_newer_region<D: BlockDevice>(
        &self,
        device: &D,
        watch: &mut Watch<'_>,
    ) -> Result<(Other, Option<Superblock>), JournalError> {
        let side = self.root.side.other();
        let mut other = Other {
            epoch_max: self.root.epoch,
            incarnation_max: self.root.incarnation,
            is_unreadable: false,
            promised: 0,
        };
        let address = self.layout.block(side, 0);
        let mut block = alloc::vec![0; self.layout.block_size()];
        if device.read(address, &mut block).is_err() {
            other.is_unreadable = true;
            return Ok((other, None));
        }
        watch.examined += 1;
        let header = decode(&block, self.root.owner(), address).ok().map(|(header, _)| header);
        if header.is_some_and(|header| header.kind == Kind::Header && header.epoch < self.root.epoch) {
            // Older: everything in it was written before the root in force.
            return Ok((other, None));
        }
        let epoch = header.map_or(0, |header| header.epoch);
        // What the mark leaves out has smaller epochs than the mark, and no greater incarnations.
        let mark = self.mark(side);
        let end = mark.map_or(self.layout.region_blocks(), |mark| mark.used);
        let newer = Region { side, epoch, copied_blocks: 0, end, ..self.region(&self.root) };
        let copy = examine(device, newer, watch)?;
        // The header of the last attempt may be torn, with blocks of an earlier one behind it.
        other.epoch_max = other.epoch_max.max(copy.epoch_max).max(mark.map_or(0, |mark| mark.epoch));
        other.incarnation_max =
            other.incarnation_max.max(copy.incarnation_max).max(mark.map_or(0, |mark| mark.incarnation));
        other.promised = copy.promised;
        let Some(copied_blocks) = copy.copied_blocks else { return Ok((other, None)) };
        let old = examine(device, self.region(&self.root), watch)?;
        // Where the switch was cut short, all of that is in the copy. Where the newest roots are lost, there may be more.
        other.promised = other.promised.max(old.promised);
        let closing_seq = copy.next_seq.saturating_sub(1);
        if epoch <= self.root.epoch || closing_seq < old.seq_max {
            return Ok((other, None));
        }
        let root = Superblock {
            generation: self.root.generation.checked_add(1).ok_or(JournalError::NumbersUsedUp)?,
            epoch,
            side,
            copied_blocks,
            copied_seq: closing_seq,
            previous: self.root.chain(),
            incarnation: copy.incarnation,
            ..self.root.clone()
        };
        Ok((other, Some(root)))
    }
}

/// The superblock in force, of those that are valid.
fn newest_root(slots: &[Slot]) -> Result<Option<&Superblock>, JournalError> {
    let mut root: Option<&Superblock> = None;
    for slot in slots {
        let Slot::Valid(found) = slot else { continue };
        if let Some(first) = root.filter(|first| first.store != found.store) {
            return Err(JournalError::SeveralStores { first: first.store, second: found.store });
        }
        if root.is_none_or(|root| root.generation < found.generation) {
            root = Some(found);
        }
    }
    Ok(root)
}

/// What the superblock of a store would say if it was not lost, from the headers of its regions. Of two lives it is the older
/// one: whether the newer one is whole, and therefore in force, is found out as after an interrupted switch.
///
/// The headers are looked for where a layout that fills the device has them, and then everywhere, because the device may have
/// been cut short or be longer than the store.
fn described_root<D: BlockDevice>(device: &D) -> Option<Superblock> {
    let geometry = device.geometry();
    let guesses = [Marks::Two, Marks::None].map(|marks| Layout::filling(geometry, Limits::default(), marks));
    let usual = guesses.into_iter().flatten();
    let mut usual = usual.flat_map(|layout| [layout.block(Side::A, 0), layout.block(Side::B, 0)]);
    let mut block = Vec::new();
    block.try_reserve_exact(geometry.block_size()).ok()?;
    block.resize(geometry.block_size(), 0);
    let described = usual.find_map(|at| described_at(device, at, &mut block)).or_else(|| {
        (0..geometry.block_count()).find_map(|at| described_at(device, BlockIndex::new(at), &mut block))
    })?;
    let layout = described.layout(geometry)?;
    let mut header = |side: Side| {
        let at = layout.block(side, 0);
        device.read(at, &mut block).ok()?;
        let (header, _) = decode(&block, described.owner(), at).ok()?;
        (header.kind == Kind::Header).then_some((header.epoch, side, header.incarnation))
    };
    let lives = [header(Side::A), header(Side::B)];
    let (epoch, side, incarnation) = lives.into_iter().flatten().min_by_key(|(epoch, ..)| *epoch)?;
    Some(Superblock { epoch, side, incarnation, ..described })
}

/// The description in the header of a region, if that is what is in this block.
fn described_at<D: BlockDevice>(device: &D, at: BlockIndex, block: &mut [u8]) -> Option<Superblock> {
    device.read(at, block).ok()?;
    let len = usize::try_from(u32_at(block, LEN_AT)?).ok()?;
    let payload = block.get(HEADER_LEN..HEADER_LEN.checked_add(len)?)?;
    let described = Superblock::described(payload)?;
    let (header, _) = decode(block, described.owner(), at).ok()?;
    (header.kind == Kind::Header).then_some(described)
}

/// Whether the places where a region may begin hold something that begins like a block of a store.
fn looks_like_a_store<D: BlockDevice>(device: &D) -> bool {
    let Ok(layout) = Layout::of(device.geometry(), Limits::default()) else { return false };
    let mut block = alloc::vec![0; layout.block_size()];
    let mut begins_like_one = |at: BlockIndex| {
        device.read(at, &mut block).is_ok() && (block.starts_with(b"SFJ1") || block.starts_with(b"SFSUPER1"))
    };
    [layout.block(Side::A, 0), layout.block(Side::B, 0), layout.slot(0), layout.slot(1), layout.slot(2)]
        .into_iter()
        .any(&mut begins_like_one)
        || begins_like_one(layout.slot(3))
}
