//! Replay: reading a region from its beginning, and deciding what it means that it ends.
//!
//! A block is **current** if it is what must stand at its place: the next block of the frame that was begun, or the first
//! block of the next one. At the first block that is not, the whole rest of the region is looked at, and the table of
//! `decide` says what it is. Only a valid block of the same epoch, of an incarnation at least as great as the one
//! reached, is evidence: garbage, stale and foreign blocks prove nothing, for a used disk is full of them.

use alloc::vec::Vec;

use media::{BlockDevice, BlockIndex};

use crate::error::JournalError;
use crate::frame::{BlockHeader, Invalid, Kind, Owner, decode};
use crate::layout::{Layout, Side};

/// What devices that go past a cache may ask of addresses in memory: a page.
const ALIGNMENT: usize = 4096;

/// How many blocks are read at a time.
const CHUNK_BLOCKS: usize = 256;

/// What the first block that is not current means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was ever written there in this life of the region.
    Clean,
    /// The unacknowledged end of the journal, as a power cut leaves it.
    TornTail {
        /// The first block that is not current, counted in the region.
        at: u64,
        /// The first sequence number that is lost. Nothing from here on had been called durable.
        first_lost: u64,
    },
    /// Something that had been durable is gone.
    Damaged {
        /// The first block that is not current, counted in the region.
        at: u64,
        /// The first sequence number that is lost; 1 where records are that had been copied, for they had any number before.
        first_lost: u64,
        /// The last one that is known to be lost.
        last_lost: u64,
        /// How that is known.
        evidence: Evidence,
    },
}

/// Why an end is damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It is among what was copied before the region came into force.
    Copied,
    /// A later block says that this frame had been flushed.
    PromisedDurable,
    /// There is a later block further on than anything un-flushed may be.
    BeyondInFlight,
    /// The device does not give the block back.
    Unreadable,
    /// Every superblock is lost. Nothing else is missing, as far as the regions say.
    NoSuperblock,
}

/// What stands at the first place that is not current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The end of the region.
    End,
    /// A block that was never written in this epoch, or that an open has discarded since.
    Unwritten,
    /// Anything else that can be read.
    NotCurrent,
    /// Nothing can be read.
    Unreadable,
}

/// What the rest of the region says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing.
    Silent,
    /// There are blocks that were in flight together with it.
    InFlight,
    /// A block promises that it was durable.
    Promised,
    /// A block lies too far behind it.
    Beyond,
    /// A block cannot be read, so nobody knows what it would say.
    Unreadable,
}

/// The decision, as a table.
pub(crate) fn decide(is_copied: bool, stop: Stop, rest: Rest) -> Result<Option<Evidence>, Stop> {
    match (is_copied, stop, rest) {
        (_, Stop::Unreadable, _) | (_, _, Rest::Unreadable) => Ok(Some(Evidence::Unreadable)),
        (true, _, _) => Ok(Some(Evidence::Copied)),
        (false, _, Rest::Promised) => Ok(Some(Evidence::PromisedDurable)),
        (false, _, Rest::Beyond) => Ok(Some(Evidence::BeyondInFlight)),
        (false, Stop::End | Stop::Unwritten, Rest::Silent) => Ok(None),
        // Something was written that is not whole, or what came after it is there without it.
        (false, Stop::NotCurrent, Rest::Silent | Rest::InFlight) => Err(stop),
        (false, Stop::End | Stop::Unwritten, Rest::InFlight) => Err(stop),
    }
}

/// A frame that was read.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'b> {
    /// What it is for: [`Kind::Copied`] or [`Kind::Commit`].
    pub kind: Kind,
    /// Its sequence number; for a copied frame, that of the copy's beginning.
    pub seq: u64,
    /// Whether it stands behind damage: what it says is certain, what came before it may be older than it should be.
    pub after_gap: bool,
    /// Whether something may be missing between it and the frame that was handed over before it.
    pub gap_before: bool,
    /// The body.
    pub body: &'b [u8],
}

/// What a region was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// The first block that is not current.
    pub(crate) tail: u64,
    /// What the next frame would be.
    pub(crate) next_seq: u64,
    /// What the frame after the last whole one would be, those behind damage included.
    reached: u64,
    /// Of the last current block.
    pub(crate) incarnation: u32,
    /// Of any valid block of the store in this region.
    pub(crate) incarnation_max: u32,
    /// The greatest epoch of any valid block of the store in this region.
    pub(crate) epoch_max: u64,
    /// The highest sequence number that any valid block of this epoch has or promises.
    pub(crate) seq_max: u64,
    /// The highest watermark that was seen.
    pub(crate) durable_seq: u64,
    /// The highest watermark of any valid block of the store in this region, whatever its epoch: none of them lies.
    pub(crate) promised: u64,
    /// Whether the last frame is a seal, and nothing comes after it.
    pub(crate) is_sealed: bool,
    /// How many frames without records stand behind the last one with records, each of which says that it was durable.
    pub(crate) covers: u64,
    /// Blocks up to and with the closing frame, if it was reached.
    pub(crate) copied_blocks: Option<u64>,
    /// How many frames were handed over.
    pub(crate) frames: u64,
    /// Whether something may be missing behind the last frame that was handed over.
    pub(crate) gap_at_end: bool,
    /// After the last block of this epoch, of any incarnation.
    pub(crate) written: u64,
    /// The block where the walk stopped, as it was read.
    pub(crate) stopped_at: Looked,
    pub(crate) verdict: Verdict,
}

/// Which region, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    pub(crate) layout: Layout,
    pub(crate) owner: Owner,
    pub(crate) side: Side,
    pub(crate) epoch: u64,
    /// Blocks that a superblock vouches for.
    pub(crate) copied_blocks: u64,
    /// Blocks that may have been written in this life: what follows is not read.
    pub(crate) end: u64,
}

/// Counts what an open reads, and tells its caller.
pub(crate) struct Watch<'w> {
    /// Blocks that were looked at. One that is looked at twice counts twice.
    pub(crate) examined: u64,
    /// Called with the number of blocks after each piece that was read.
    pub(crate) on_read: &'w mut dyn FnMut(u64),
}

/// Reads blocks of a region in large pieces, and one by one where a piece cannot be read.
struct Reader<'d, 'w, D> {
    device: &'d D,
    region: Region,
    watch: &'d mut Watch<'w>,
    chunk: Vec<u8>,
    /// Where in it blocks begin: at an address that a device need not copy from.
    start: usize,
    /// The block of the region that the chunk begins with, and how many it has.
    first: u64,
    count: u64,
}

impl<'d, 'w, D: BlockDevice> Reader<'d, 'w, D> {
    fn new(device: &'d D, region: Region, watch: &'d mut Watch<'w>) -> Result<Self, JournalError> {
        let blocks = usize::try_from(region.end).unwrap_or(usize::MAX).min(CHUNK_BLOCKS);
        let len = blocks * region.layout.block_size();
        let mut chunk = Vec::new();
        let with_room = len.saturating_add(ALIGNMENT);
        chunk.try_reserve_exact(with_room).map_err(|_| JournalError::NoMemory { len: with_room })?;
        chunk.resize(with_room, 0);
        // It never grows, so it stays where it is. Aligned or not is a matter of speed alone.
        let start = chunk.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(Self { device, region, watch, chunk, start, first: 0, count: 0 })
    }

    fn address(&self, at: u64) -> BlockIndex {
        self.region.layout.block(self.region.side, at)
    }

    /// A block; [`None`] if the device does not give it back.
    fn block(&mut self, at: u64) -> Option<&[u8]> {
        let size = self.region.layout.block_size();
        if at < self.first || at >= self.first + self.count {
            let wanted = self.region.end.saturating_sub(at);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(CHUNK_BLOCKS);
            if wanted == 0 {
                return None;
            }
            let address = self.address(at);
            // An image may have been cut short.
            let on_device = self.device.geometry().block_count().saturating_sub(address.get());
            let wanted = usize::try_from(on_device).unwrap_or(usize::MAX).min(wanted);
            self.first = at;
            self.count = 0;
            if wanted == 0 {
                return None;
            }
            let whole =
                self.device.read(address, self.chunk.get_mut(self.start..self.start + wanted * size)?);
            let read = match whole {
                Ok(()) => wanted,
                Err(_) => {
                    self.device.read(address, self.chunk.get_mut(self.start..self.start + size)?).ok()?;
                    1
                }
            };
            self.count = u64::try_from(read).unwrap_or(0);
            (self.watch.on_read)(self.count);
        }
        let within = usize::try_from(at - self.first).ok()? * size;
        self.chunk.get(self.start + within..self.start + within + size)
    }

    /// The header of a valid block.
    fn look(&mut self, at: u64) -> Result<(BlockHeader, &[u8]), Option<Invalid>> {
        let (owner, address) = (self.region.owner, self.address(at));
        self.watch.examined += 1;
        let block = self.block(at).ok_or(None)?;
        decode(block, owner, address).map_err(Some)
    }
}

/// What was found in one place.
pub(crate) type Looked = Result<BlockHeader, Option<Invalid>>;

/// Where replay stands.
struct Walk {
    tail: u64,
    next_seq: u64,
    incarnation: u32,
    durable_seq: u64,
    last: Kind,
    covers: u64,
    copied_blocks: Option<u64>,
    frames: u64,
}

/// Reads a region from its beginning and says what it is. Nothing is handed over, so what follows damage is read only once.
pub(crate) fn examine<D: BlockDevice>(
    device: &D,
    region: Region,
    watch: &mut Watch<'_>,
) -> Result<Replayed, JournalError> {
    let mut reader = Reader::new(device, region, watch)?;
    let mut body = Vec::new();
    let walk = walk(&mut reader, &mut body, &mut |_| Ok::<_, JournalError>(()))?;
    conclude(&mut reader, walk, &mut body, None)
}

/// Reads a region from its beginning and hands over every frame of records.
pub(crate) fn replay<D: BlockDevice, E: From<JournalError>>(
    device: &D,
    region: Region,
    watch: &mut Watch<'_>,
    each: &mut dyn FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<Replayed, E> {
    let mut reader = Reader::new(device, region, watch)?;
    let mut body = Vec::new();
    let walk = walk(&mut reader, &mut body, each)?;
    conclude(&mut reader, walk, &mut body, Some(each))
}

/// Reads frames as long as they follow each other.
fn walk<D: BlockDevice, E: From<JournalError>>(
    reader: &mut Reader<'_, '_, D>,
    body: &mut Vec<u8>,
    each: &mut dyn FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<Walk, E> {
    let mut walk = Walk {
        tail: 0,
        next_seq: 0,
        incarnation: 0,
        durable_seq: 0,
        last: Kind::Header,
        covers: 0,
        copied_blocks: None,
        frames: 0,
    };
    while walk.tail < reader.region.end && step(reader, &mut walk, body, each)? {}
    Ok(walk)
}

/// Reads one frame; false at the first block that is not current, which `walk.tail` then is.
fn step<D: BlockDevice, E: From<JournalError>>(
    reader: &mut Reader<'_, '_, D>,
    walk: &mut Walk,
    body: &mut Vec<u8>,
    each: &mut dyn FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<bool, E> {
    body.clear();
    let (start, epoch) = (walk.tail, reader.region.epoch);
    let Ok((first, payload)) = reader.look(start) else { return Ok(false) };
    if !begins(&first, walk, epoch) {
        return Ok(false);
    }
    extend(body, payload)?;
    for index in 1..first.count {
        let at = start + u64::from(index);
        let next = match reader.look(at) {
            Ok((header, payload)) if header == (BlockHeader { index, len: header.len, ..first }) => payload,
            Ok((header, _)) if is_open(&header, walk, epoch) => {
                // The frame was torn; the next open discarded it from here on.
                walk.tail = at;
                return Ok(true);
            }
            Ok(_) | Err(_) => {
                walk.tail = at;
                walk.next_seq = first.seq;
                // What its first blocks promise is true, though the frame does not count.
                walk.durable_seq = walk.durable_seq.max(first.durable_seq);
                return Ok(false);
            }
        };
        extend(body, next)?;
    }
    walk.tail = start + u64::from(first.count);
    walk.take(&first);
    if matches!(first.kind, Kind::Copied | Kind::Commit) {
        walk.frames += 1;
        each(Frame { kind: first.kind, seq: first.seq, after_gap: false, gap_before: false, body })?;
    }
    Ok(true)
}

fn extend(body: &mut Vec<u8>, payload: &[u8]) -> Result<(), JournalError> {
    body.try_reserve(payload.len()).map_err(|_| JournalError::NoMemory { len: payload.len() })?;
    body.extend_from_slice(payload);
    Ok(())
}

/// Whether the block is the first of the frame that must come next.
fn begins(header: &BlockHeader, walk: &Walk, epoch: u64) -> bool {
    if header.epoch != epoch || header.index != 0 {
        return false;
    }
    let same_writer = header.incarnation == walk.incarnation;
    match (header.kind, walk.copied_blocks) {
        (Kind::Header, _) => walk.tail == 0 && header.count == 1,
        _ if walk.tail == 0 => false,
        // While a region is being copied it is written by one writer, in order; what was committed meanwhile keeps its
        // number.
        (Kind::Copied, None) => same_writer && walk.last != Kind::Commit,
        (Kind::Commit | Kind::Closing, None) => same_writer && header.seq >= walk.next_seq,
        (Kind::Copied | Kind::Closing, Some(_)) | (Kind::Seal | Kind::Open, None) => false,
        (Kind::Commit | Kind::Seal, Some(_)) => same_writer && header.seq == walk.next_seq,
        (Kind::Open, Some(_)) => is_open(header, walk, epoch),
    }
}

/// Whether the block is where a later open went on.
fn is_open(header: &BlockHeader, walk: &Walk, epoch: u64) -> bool {
    header.kind == Kind::Open
        && header.epoch == epoch
        && (header.index, header.count) == (0, 1)
        && header.incarnation > walk.incarnation
        && header.seq >= walk.next_seq
        && walk.copied_blocks.is_some()
}

impl Replayed {
    /// There is no superblock: that is damage, whatever the regions say.
    pub(crate) fn without_superblock(&mut self) {
        self.is_sealed = false;
        self.verdict = match self.verdict {
            damaged @ Verdict::Damaged { .. } => damaged,
            Verdict::Clean | Verdict::TornTail { .. } => Verdict::Damaged {
                at: self.tail,
                first_lost: self.next_seq,
                last_lost: self.next_seq,
                evidence: Evidence::NoSuperblock,
            },
        };
    }

    /// What blocks of another life promise was durable. Where a switch was cut short and its header has rotted since, or
    /// both roots in force have, nothing of the life that was read may know of the last commits.
    pub(crate) fn hear_promise(&mut self, promised: u64) {
        if promised < self.reached {
            return;
        }
        self.gap_at_end = true;
        self.is_sealed = false;
        self.verdict = match self.verdict {
            Verdict::Damaged { at, first_lost, last_lost, evidence } => {
                Verdict::Damaged { at, first_lost, last_lost: last_lost.max(promised), evidence }
            }
            Verdict::Clean | Verdict::TornTail { .. } => Verdict::Damaged {
                at: self.tail,
                first_lost: self.next_seq,
                last_lost: promised,
                evidence: Evidence::PromisedDurable,
            },
        };
    }
}

impl Walk {
    fn take(&mut self, header: &BlockHeader) {
        self.incarnation = header.incarnation;
        self.durable_seq = self.durable_seq.max(header.durable_seq);
        self.last = header.kind;
        self.covers = match header.kind {
            Kind::Seal | Kind::Open => self.covers + 1,
            Kind::Header | Kind::Copied | Kind::Closing | Kind::Commit => 0,
        };
        match header.kind {
            // These two name the sequence number that the copy was taken at.
            Kind::Header | Kind::Copied => self.next_seq = header.seq.saturating_add(1),
            Kind::Closing => {
                self.copied_blocks = Some(self.tail);
                self.next_seq = header.seq.saturating_add(1);
            }
            Kind::Commit | Kind::Seal | Kind::Open => self.next_seq = header.seq.saturating_add(1),
        }
    }
}

/// What the blocks of one incarnation say, as far as they follow the end.
#[derive(Debug, Clone, Copy)]
struct Life {
    incarnation: u32,
    /// The greatest watermark in a block of it.
    durable_seq: u64,
    /// Where the last record of an open is, of this incarnation or, once [`Lives::settle`] has run, of a later one.
    open_at: Option<u64>,
}

/// The incarnations that have blocks after the end, in order. Their number is bounded by that of these blocks.
#[derive(Debug, Default)]
struct Lives(Vec<Life>);

impl Lives {
    fn note(&mut self, at: u64, header: &BlockHeader) -> Result<(), JournalError> {
        let open_at = (header.kind == Kind::Open).then_some(at);
        let place = match self.0.last() {
            // Nearly always: incarnations ascend along a region.
            Some(last) if last.incarnation == header.incarnation => Ok(self.0.len() - 1),
            _ => self.0.binary_search_by_key(&header.incarnation, |life| life.incarnation),
        };
        match place {
            Ok(place) => {
                if let Some(life) = self.0.get_mut(place) {
                    life.durable_seq = life.durable_seq.max(header.durable_seq);
                    life.open_at = life.open_at.max(open_at);
                }
            }
            Err(place) => {
                self.0.try_reserve(1).map_err(|_| JournalError::NoMemory { len: size_of::<Life>() })?;
                let (incarnation, durable_seq) = (header.incarnation, header.durable_seq);
                self.0.insert(place, Life { incarnation, durable_seq, open_at });
            }
        }
        Ok(())
    }

    /// From now on each incarnation knows the last record of an open of any later one.
    fn settle(&mut self) {
        let mut later = None;
        for life in self.0.iter_mut().rev() {
            let own = life.open_at;
            life.open_at = later;
            later = later.max(own);
        }
    }

    /// What is known of a frame after the end.
    fn proof(&self, end: u64, header: &BlockHeader) -> Proof {
        let life = self.0.binary_search_by_key(&header.incarnation, |life| life.incarnation);
        let Some(life) = life.ok().and_then(|place| self.0.get(place)) else { return Proof::None };
        let is_promised = life.durable_seq >= header.seq;
        // When a later incarnation began where this frame had ended, the frame was read as a part of the journal.
        let was_read = life.open_at.is_some_and(|open| open >= end);
        // Everything that precedes it was durable when it was issued, so every later open has read up to here, and this too.
        let follows_durable = matches!(header.kind, Kind::Commit | Kind::Seal)
            && header.durable_seq.checked_add(1) == Some(header.seq);
        let is_newest = self.0.last().is_some_and(|last| last.incarnation == header.incarnation);
        match (is_promised || was_read || follows_durable, is_newest) {
            (true, _) => Proof::Kept,
            (false, true) => Proof::None,
            (false, false) => Proof::Discarded,
        }
    }
}

/// Whether a whole frame after the end is a part of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// It is: a block of its own incarnation promises that it was durable, a later open went on after it, or it follows what
    /// was durable when it was issued.
    Kept,
    /// It may have been discarded by a later open whose blocks are all lost.
    None,
    /// It may have been discarded by a later open of which there are blocks, and nothing says that it was not.
    Discarded,
}

/// What the rest of the region says.
struct Scan {
    rest: Rest,
    unreadable_last: Option<u64>,
    /// After the last block of this epoch that may be evidence, and after the last of any incarnation.
    end: u64,
    written: u64,
    lives: Lives,
    incarnation_max: u32,
    epoch_max: u64,
    seq_max: u64,
    durable_seq: u64,
    promised: u64,
}

fn scan<D: BlockDevice>(reader: &mut Reader<'_, '_, D>, walk: &Walk) -> Result<Scan, JournalError> {
    let region = reader.region;
    let in_flight = u64::from(region.layout.limits().in_flight_blocks_max);
    let mut scan = Scan {
        rest: Rest::Silent,
        unreadable_last: None,
        end: walk.tail,
        written: walk.tail,
        lives: Lives::default(),
        incarnation_max: walk.incarnation,
        epoch_max: region.epoch,
        seq_max: walk.next_seq.saturating_sub(1),
        durable_seq: walk.durable_seq,
        promised: walk.durable_seq,
    };
    for at in walk.tail..region.end {
        let header = match reader.look(at) {
            Ok((header, _)) => header,
            Err(Some(_)) => continue,
            Err(None) => {
                scan.rest = Rest::Unreadable;
                scan.unreadable_last = Some(at);
                continue;
            }
        };
        scan.incarnation_max = scan.incarnation_max.max(header.incarnation);
        scan.epoch_max = scan.epoch_max.max(header.epoch);
        scan.promised = scan.promised.max(header.durable_seq);
        if header.epoch != region.epoch {
            continue;
        }
        scan.seq_max = scan.seq_max.max(header.seq);
        scan.written = at + 1;
        if header.incarnation < walk.incarnation {
            continue;
        }
        scan.durable_seq = scan.durable_seq.max(header.durable_seq);
        let says = if header.durable_seq >= walk.next_seq {
            Rest::Promised
        } else if at - walk.tail > in_flight {
            Rest::Beyond
        } else {
            Rest::InFlight
        };
        scan.rest = match (scan.rest, says) {
            (Rest::Unreadable, _) | (_, Rest::Unreadable) => Rest::Unreadable,
            (Rest::Promised, _) | (_, Rest::Promised) => Rest::Promised,
            (Rest::Beyond, _) | (_, Rest::Beyond) => Rest::Beyond,
            (Rest::Silent | Rest::InFlight, says) => says,
        };
        scan.end = at + 1;
        scan.lives.note(at, &header)?;
    }
    scan.lives.settle();
    Ok(scan)
}

/// What stands where replay stopped.
fn stop_at(walk: &Walk, region: &Region, looked: Looked, started: bool) -> Stop {
    if walk.tail >= region.end {
        return Stop::End;
    }
    match looked {
        Err(None) => Stop::Unreadable,
        // In the middle of a frame, nothing is as bad as anything.
        _ if started => Stop::NotCurrent,
        Err(Some(Invalid::Foreign)) => Stop::Unwritten,
        Ok(header) if header.epoch < region.epoch => Stop::Unwritten,
        // What this or an earlier open discarded: nothing of the life that the region is in was written here.
        Ok(header) if header.epoch == region.epoch && header.incarnation < walk.incarnation => {
            Stop::Unwritten
        }
        Ok(_) | Err(Some(Invalid::Malformed | Invalid::Checksum)) => Stop::NotCurrent,
    }
}

/// What frames of records are handed over to.
type Each<'e, E> = dyn FnMut(Frame<'_>) -> Result<(), E> + 'e;

fn conclude<D: BlockDevice, E: From<JournalError>>(
    reader: &mut Reader<'_, '_, D>,
    walk: Walk,
    body: &mut Vec<u8>,
    each: Option<&mut Each<'_, E>>,
) -> Result<Replayed, E> {
    let stopped_at = match walk.tail < reader.region.end {
        true => reader.look(walk.tail).map(|(header, _)| header),
        false => Err(None),
    };
    // What was read of a frame that is not whole.
    let started = !body.is_empty() && walk.copied_blocks.is_some();
    let stop = stop_at(&walk, &reader.region, stopped_at, started);
    let scan = scan(reader, &walk)?;
    let is_copied = walk.tail < reader.region.copied_blocks || walk.copied_blocks.is_none();
    let mut frames = walk.frames;
    let (tail, next_seq) = (walk.tail, walk.next_seq);
    let mut gap_at_end = false;
    let mut reached = next_seq;
    let verdict = match decide(is_copied, stop, scan.rest) {
        Ok(None) => Verdict::Clean,
        Err(_) => Verdict::TornTail { at: tail, first_lost: next_seq },
        Ok(Some(evidence)) => {
            let after = match each {
                Some(each) => after_gap(reader, &walk, &scan, body, &mut frames, each)?,
                None => After { first_seq: None, end: tail, next_seq, gap_at_end: true },
            };
            gap_at_end = after.gap_at_end || scan.unreadable_last >= Some(after.end);
            reached = after.next_seq;
            let last_lost =
                after.first_seq.map_or(scan.durable_seq, |seq| seq.saturating_sub(1)).max(next_seq);
            // Up to the first commit behind it, what is missing of a copy may be of any frame before it.
            let is_in_copy = walk.copied_blocks.is_none() && walk.last != Kind::Commit;
            let first_lost = if is_in_copy { 1 } else { next_seq };
            Verdict::Damaged { at: tail, first_lost, last_lost, evidence }
        }
    };
    Ok(Replayed {
        tail,
        next_seq,
        reached,
        incarnation: walk.incarnation,
        incarnation_max: scan.incarnation_max,
        epoch_max: scan.epoch_max,
        seq_max: scan.seq_max.max(scan.durable_seq),
        durable_seq: scan.durable_seq,
        promised: scan.promised,
        is_sealed: verdict == Verdict::Clean && walk.last == Kind::Seal,
        covers: walk.covers,
        copied_blocks: walk.copied_blocks,
        frames,
        gap_at_end,
        written: scan.written.max(tail),
        stopped_at,
        verdict,
    })
}

/// What was handed over from behind damage.
struct After {
    /// The sequence number of the first frame.
    first_seq: Option<u64>,
    /// Behind the last frame, records or not.
    end: u64,
    /// What the frame behind it would be.
    next_seq: u64,
    /// Whether nothing with records came after the last gap.
    gap_at_end: bool,
}

/// Hands over the whole frames after damage, in one pass. Frames that are not adjacent have a gap between them.
///
/// A frame counts only if it is a part of the journal ([`Proof`]), or directly follows one that is: had an open discarded it,
/// the record of that open would have been written over it. A frame of which nobody knows is handed over, and then
/// everything is suspect: the open that may have discarded it, and what was committed after that, may be in the gap.
fn after_gap<D: BlockDevice, E: From<JournalError>>(
    reader: &mut Reader<'_, '_, D>,
    walk: &Walk,
    scan: &Scan,
    body: &mut Vec<u8>,
    frames: &mut u64,
    each: &mut dyn FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<After, E> {
    let region = reader.region;
    let mut after = After { first_seq: None, end: walk.tail, next_seq: walk.next_seq, gap_at_end: true };
    let (mut kept_until, mut is_doubtful) = (None, false);
    let mut at = walk.tail;
    while at < scan.end {
        let Some(found) = frame_at(reader, walk, at, body)? else {
            at += 1;
            continue;
        };
        let (begin, header) = (at, found.header);
        at += found.blocks;
        if !found.is_whole || header.seq < after.next_seq {
            continue;
        }
        let is_vouched_for = at <= region.copied_blocks || kept_until == Some(begin);
        match if is_vouched_for { Proof::Kept } else { scan.lives.proof(at, &header) } {
            Proof::Kept => kept_until = Some(at),
            Proof::None => is_doubtful = true,
            Proof::Discarded => continue,
        }
        after.first_seq.get_or_insert(header.seq);
        after.gap_at_end |= begin != after.end;
        after.end = at;
        after.next_seq = if header.kind == Kind::Copied { header.seq } else { header.seq.saturating_add(1) };
        if matches!(header.kind, Kind::Copied | Kind::Commit) {
            *frames += 1;
            let gap_before = core::mem::take(&mut after.gap_at_end);
            each(Frame { kind: header.kind, seq: header.seq, after_gap: true, gap_before, body })?;
        }
    }
    // The root vouches for the rest of the copy, and a block that was not handed over may promise more than was.
    let is_more_promised = after.end < region.copied_blocks || scan.durable_seq >= after.next_seq;
    after.gap_at_end |= is_doubtful || is_more_promised;
    Ok(after)
}

/// What was found of a frame.
struct Found {
    header: BlockHeader,
    /// How many of its blocks are there, from the first on.
    blocks: u64,
    is_whole: bool,
}

/// Reads the frame that begins at a block, as far as it is there, and leaves its body in `body`. [`None`]: no frame of this
/// life begins there. Each block is read once, however long the frame claims to be: those that belong to it begin no other.
fn frame_at<D: BlockDevice>(
    reader: &mut Reader<'_, '_, D>,
    walk: &Walk,
    at: u64,
    body: &mut Vec<u8>,
) -> Result<Option<Found>, JournalError> {
    let (epoch, end) = (reader.region.epoch, reader.region.end);
    let Ok((first, payload)) = reader.look(at) else { return Ok(None) };
    if first.epoch != epoch || first.incarnation < walk.incarnation || first.index != 0 {
        return Ok(None);
    }
    body.clear();
    extend(body, payload)?;
    for index in 1..first.count {
        let blocks = u64::from(index);
        if at + blocks >= end {
            return Ok(Some(Found { header: first, blocks, is_whole: false }));
        }
        match reader.look(at + blocks) {
            Ok((header, payload)) if header == (BlockHeader { index, len: header.len, ..first }) => {
                extend(body, payload)?;
            }
            Ok(_) | Err(_) => return Ok(Some(Found { header: first, blocks, is_whole: false })),
        }
    }
    Ok(Some(Found { header: first, blocks: u64::from(first.count), is_whole: true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination, written down.
    #[test]
    fn the_table() {
        use Rest::{self, Beyond, InFlight, Promised, Silent};
        use Stop::{End, NotCurrent, Unreadable, Unwritten};
        for rest in [Silent, InFlight, Promised, Beyond] {
            for is_copied in [false, true] {
                assert_eq!(decide(is_copied, Unreadable, rest), Ok(Some(Evidence::Unreadable)));
            }
            for stop in [End, Unwritten, NotCurrent] {
                assert_eq!(decide(true, stop, rest), Ok(Some(Evidence::Copied)));
            }
        }
        for stop in [End, Unwritten, NotCurrent] {
            assert_eq!(decide(false, stop, Rest::Unreadable), Ok(Some(Evidence::Unreadable)));
            assert_eq!(decide(false, stop, Promised), Ok(Some(Evidence::PromisedDurable)));
            assert_eq!(decide(false, stop, Beyond), Ok(Some(Evidence::BeyondInFlight)));
            assert_eq!(decide(false, stop, InFlight), Err(stop));
        }
        assert_eq!(decide(false, End, Silent), Ok(None));
        assert_eq!(decide(false, Unwritten, Silent), Ok(None));
        assert_eq!(decide(false, NotCurrent, Silent), Err(NotCurrent));
    }
}
