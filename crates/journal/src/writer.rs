//! [`Journal`]: frames out, barriers, and the proof of them.
//!
//! Invariants
//! - every frame with `seq <= durable_seq` has been covered by a successful flush (or was written durably).
//! - a block is written at most once in an incarnation, and never while it holds a durable, live byte.
//! - after a write or flush that failed nothing is written any more; the first cause is kept.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use media::{BlockDevice, DeviceCause, DeviceError, DeviceErrorKind};

use crate::error::JournalError;
use crate::frame::{BlockHeader, Kind, StoreId, encode};
use crate::layout::{Layout, RESERVE_BLOCKS, Side};
use crate::outgoing::Out;
use crate::script::Script;
use crate::superblock::Superblock;
use crate::switch::Copying;

/// Proof that every frame up to a sequence number survives power loss. Only a successful barrier makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is durable is what may be acknowledged"]
pub struct Durable {
    seq: u64,
}

impl Durable {
    /// For those who have just seen a barrier succeed.
    pub(crate) fn up_to(seq: u64) -> Self {
        Self { seq }
    }

    /// Up to which frame.
    #[must_use]
    pub fn seq(self) -> u64 {
        self.seq
    }
}

/// What a journal has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Frames of records that were written.
    pub frames: u64,
    /// Blocks that were written, of any kind.
    pub blocks: u64,
    /// Flushes, and writes that were durable by themselves.
    pub barriers: u64,
    /// Seals.
    pub seals: u64,
    /// Switches to the other region.
    pub switches: u64,
}

/// How many frames behind the last one with records a closed store has. One write that goes astray can take two blocks with
/// it: itself, and what it falls upon.
const COVERS_FOR_GOOD: u64 = 2;

/// Whether the first block of this incarnation has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenRecord {
    /// It has, or a switch has made it needless.
    Written,
    /// It goes before the next frame.
    Due,
    /// The frame in flight carries it.
    InFlight,
}

/// Where the superblocks in force are known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootSource {
    /// This journal wrote them, and a flush covered them.
    Written,
    /// They were read. A process whose flush failed may have left them in a cache alone.
    Read,
}

/// A commit log on a block device. One owner writes; see [`Journal::begin_commit`] for frames that
/// overlap.
#[derive(Debug)]
pub struct Journal<D> {
    pub(crate) device: D,
    /// Asked once: what begins and ends a frame makes no call of the device, not even this one.
    pub(crate) has_durable_writes: bool,
    pub(crate) layout: Layout,
    pub(crate) root: Superblock,
    pub(crate) root_source: RootSource,
    pub(crate) side: Side,
    pub(crate) epoch: u64,
    pub(crate) epoch_max: u64,
    pub(crate) incarnation: u32,
    /// The first block of the region that is not written.
    pub(crate) tail: u64,
    pub(crate) next_seq: u64,
    pub(crate) durable_seq: u64,
    /// Blocks that no flush is known to cover, those of frames in flight included.
    pub(crate) in_flight_blocks: u64,
    pub(crate) open_record: OpenRecord,
    /// Frames that say that the last one with records was durable, as they were found.
    pub(crate) covers: u64,
    pub(crate) last: Kind,
    pub(crate) read_only: Option<&'static str>,
    pub(crate) poisoned: Option<DeviceError>,
    pub(crate) buffer: Vec<u8>,
    /// Zeros to wipe the other region with. Only a wipe uses them: they stay zeros.
    pub(crate) zeros: Vec<u8>,
    /// Frames that have been begun and not ended, in order.
    pub(crate) out: VecDeque<Out>,
    /// Scripts of frames that have ended, whose memory is used again.
    pub(crate) spare: Vec<Script>,
    pub(crate) copying: Option<Copying>,
    /// Blocks of regions A and B that may be written without raising a mark.
    pub(crate) used: (u64, u64),
    /// Blocks after the header of the other region that were wiped since something else was written there.
    pub(crate) wiped_blocks: u64,
    pub(crate) began_wiped: bool,
    pub(crate) stats: Stats,
}

impl<D> Journal<D> {
    /// The same journal on the device as `map` wraps it: in a counter, say, or behind an [`alloc::sync::Arc`]. What it wraps
    /// must be the same device.
    pub fn map_device<E>(self, map: impl FnOnce(D) -> E) -> Journal<E> {
        Journal {
            device: map(self.device),
            has_durable_writes: self.has_durable_writes,
            layout: self.layout,
            root: self.root,
            side: self.side,
            epoch: self.epoch,
            epoch_max: self.epoch_max,
            incarnation: self.incarnation,
            tail: self.tail,
            next_seq: self.next_seq,
            durable_seq: self.durable_seq,
            in_flight_blocks: self.in_flight_blocks,
            open_record: self.open_record,
            covers: self.covers,
            last: self.last,
            read_only: self.read_only,
            poisoned: self.poisoned,
            buffer: self.buffer,
            zeros: self.zeros,
            out: self.out,
            spare: self.spare,
            copying: self.copying,
            used: self.used,
            wiped_blocks: self.wiped_blocks,
            began_wiped: self.began_wiped,
            stats: self.stats,
            root_source: self.root_source,
        }
    }
}

impl<D: BlockDevice> Journal<D> {
    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Who the store is.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.root.store
    }

    /// What the engine fixed when the store was formatted.
    #[must_use]
    pub fn engine(&self) -> &[u8] {
        &self.root.engine
    }

    /// What was done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The device underneath. What is written to it directly goes round all promises.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The number that the next frame of records gets, if nothing else is written before it.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq.saturating_add(u64::from(self.open_record == OpenRecord::Due))
    }

    /// Every frame up to this one is durable.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Blocks that commits may still use in this region.
    #[must_use]
    pub fn room(&self) -> u64 {
        let open = u64::from(self.open_record == OpenRecord::Due);
        self.layout.region_blocks().saturating_sub(RESERVE_BLOCKS + self.tail + open)
    }

    /// Blocks of this region that commits have used since it came into force.
    #[must_use]
    pub fn used_since_switch(&self) -> u64 {
        self.tail.saturating_sub(self.root.copied_blocks)
    }

    /// Whether a frame could be lost by a power cut now.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        self.in_flight_blocks > 0
    }

    /// Why nothing may be written, where a store is not there to be written to or has been found damaged.
    #[must_use]
    pub fn read_only(&self) -> Option<&'static str> {
        self.read_only
    }

    /// Why nothing is written any more, if that is so.
    #[must_use]
    pub fn failure(&self) -> Option<&DeviceError> {
        self.poisoned.as_ref()
    }

    pub(crate) fn refuse_unless_writable(&self) -> Result<(), JournalError> {
        if let Some(why) = self.read_only {
            return Err(JournalError::ReadOnly { why });
        }
        match &self.poisoned {
            Some(cause) => Err(JournalError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Records the first failure and poisons the journal.
    ///
    /// A first failure that is a write for which the medium has no space is returned as it is: the frame is incomplete, so the
    /// next open discards it, and nothing has changed.
    pub(crate) fn poison(&mut self, error: DeviceError) -> JournalError {
        let is_full =
            error.kind() == DeviceErrorKind::NoSpace && !matches!(error, DeviceError::FlushFailed { .. });
        if self.poisoned.is_none() && is_full {
            self.poisoned = Some(error.clone());
            return JournalError::Device(error);
        }
        let cause = self.poisoned.get_or_insert(error).clone();
        JournalError::Poisoned { cause }
    }

    /// Poisons the journal after a panic in the device. Frames in flight are given up, and none of them may be ended any more:
    /// whether they survive power loss is unknown, as after a failed flush.
    pub fn fail_after_panic(&mut self) {
        self.out.clear();
        self.fail_beside_frames();
    }

    /// The same where the frames in flight are carried out by other threads. They still have to be ended, and count as in
    /// flight until then.
    pub fn fail_beside_frames(&mut self) {
        let cause = DeviceCause::driver("a panic during a call of the device", 0);
        let _poisoned: JournalError = self.poison(DeviceError::FlushFailed { cause });
    }

    /// Writes a frame and returns its sequence number. Where as much is in flight as may be, there is a flush first.
    ///
    /// # Durability
    /// None before a flush, or the end of a commit behind it.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::FrameTooLong`], [`JournalError::ReadOnly`], [`JournalError::Poisoned`]:
    /// nothing was written. If the device fails now, the frame may be found after a crash or not.
    pub fn write(&mut self, body: &[u8]) -> Result<u64, JournalError> {
        self.check(body)?;
        self.promise_number()?;
        let seq = self.put(Kind::Commit, body, Barrier::None)?;
        self.stats.frames += 1;
        Ok(seq)
    }

    /// Writes a frame and makes it durable, with all before it: one durable write where the device has it and nothing else is
    /// un-flushed, else a write and a flush.
    ///
    /// # Durability
    /// [`Durable`]: it survives power loss.
    ///
    /// # Errors
    /// As [`Journal::write`]; [`JournalError::Outgoing`] while frames are on their way. If the device fails now, the frame may
    /// be found after a crash or not.
    pub fn commit(&mut self, body: &[u8]) -> Result<Durable, JournalError> {
        self.refuse_while_out()?;
        let outgoing = self.begin_commit(body)?;
        let outcome = outgoing.carry_out(&self.device);
        self.end_commit(outgoing, outcome)
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: nobody knows which frames since the last flush survive. [`JournalError::Outgoing`].
    pub fn flush(&mut self) -> Result<Durable, JournalError> {
        self.refuse_while_out()?;
        // The writes that have completed before the flush is submitted, which are all: no frame is in flight.
        let (blocks, seq) = (self.in_flight_blocks, self.next_seq.saturating_sub(1));
        self.flush_now()?;
        self.in_flight_blocks -= blocks;
        self.durable_seq = self.durable_seq.max(seq);
        Ok(Durable::up_to(self.durable_seq))
    }

    /// Writes a watermark that covers the last commit, so that even its loss would be noticed. Does nothing where there is
    /// one already, or nothing to cover.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub fn seal(&mut self) -> Result<(), JournalError> {
        self.refuse_unless_writable()?;
        if self.last == Kind::Seal || self.open_record == OpenRecord::Due || self.last == Kind::Closing {
            return Ok(());
        }
        self.put_seal()
    }

    /// Two seals, the second of which covers the first: what a store does when it is closed. Where nothing was written since
    /// it was opened, what is missing of them: it may have been sealed once, when it was idle.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub fn seal_for_good(&mut self) -> Result<(), JournalError> {
        self.refuse_while_out()?;
        match self.open_record {
            OpenRecord::Written | OpenRecord::InFlight => self.seal()?,
            OpenRecord::Due if self.covers >= COVERS_FOR_GOOD => return Ok(()),
            // No room: it stays as it was found.
            OpenRecord::Due if self.tail + 2 > self.layout.region_blocks() => return Ok(()),
            OpenRecord::Due => self.write_due_open()?,
        }
        self.put_seal()
    }

    /// Gives the device back. Nothing is written: [`Journal::seal_for_good`] is for a clean end.
    pub fn into_device(self) -> D {
        self.device
    }

    /// Whether a frame of so many blocks more would be too much in flight.
    pub(crate) fn is_too_much_in_flight(&self, blocks: u64) -> bool {
        self.in_flight_blocks + blocks > u64::from(self.layout.limits().in_flight_blocks_max)
    }

    /// A frame of so many blocks stands at the tail now.
    pub(crate) fn advance(&mut self, kind: Kind, blocks: u64, next_seq: u64) {
        self.tail += blocks;
        self.next_seq = next_seq;
        self.last = kind;
        self.note_later(kind, blocks);
    }

    fn put_seal(&mut self) -> Result<(), JournalError> {
        self.refuse_while_out()?;
        if self.has_unflushed() {
            let _covered = self.flush()?;
        }
        if self.tail >= self.layout.region_blocks() {
            // No room for a seal: the last commit stays as it is, and the next open says so.
            return Ok(());
        }
        self.stats.seals += 1;
        if self.has_durable_writes {
            self.put(Kind::Seal, &[], Barrier::Own)?;
        } else {
            self.put(Kind::Seal, &[], Barrier::None)?;
            let _sealed = self.flush()?;
        }
        Ok(())
    }

    pub(crate) fn check(&self, body: &[u8]) -> Result<(), JournalError> {
        self.refuse_unless_writable()?;
        let len_max = self.layout.body_len_max();
        if body.len() > len_max {
            return Err(JournalError::FrameTooLong { len: body.len(), len_max });
        }
        let (needed, room) = (self.layout.blocks_of(body.len()), self.room());
        if needed > room {
            return Err(JournalError::Full { needed, room });
        }
        Ok(())
    }

    /// Whether [`Journal::promise_number`] calls the device, or is refused because the record of the open is in flight.
    #[must_use]
    pub fn needs_record_of_open(&self) -> bool {
        self.open_record != OpenRecord::Written
    }

    /// Makes it safe to tell a caller the next sequence number before its frame is durable: after a power cut no other frame
    /// gets it. The first time after the open of a sealed store, this writes the record of the open and flushes; after that
    /// it costs nothing. [`Journal::needs_record_of_open`] says which.
    ///
    /// # Errors
    /// As [`Journal::flush`].
    pub fn promise_number(&mut self) -> Result<(), JournalError> {
        match self.open_record {
            OpenRecord::Written => {}
            // It is not durable before the frame that carries it is.
            OpenRecord::InFlight => self.refuse_while_out()?,
            OpenRecord::Due => {
                self.refuse_while_out()?;
                self.write_due_open()?;
                // A next open that found the store sealed would count from where this one did.
                let _recorded = self.flush()?;
            }
        }
        Ok(())
    }

    pub(crate) fn write_due_open(&mut self) -> Result<(), JournalError> {
        if self.open_record == OpenRecord::Due {
            self.put(Kind::Open, &[], Barrier::None)?;
            // Not before: where there was no memory for it, it is still due, and its number is.
            self.open_record = OpenRecord::Written;
        }
        Ok(())
    }

    /// Writes a frame at the tail of the region in force.
    pub(crate) fn put(&mut self, kind: Kind, body: &[u8], barrier: Barrier) -> Result<u64, JournalError> {
        let blocks = self.layout.blocks_of(body.len());
        if self.is_too_much_in_flight(blocks) {
            let _forced = self.flush()?;
        }
        let seq = self.next_seq;
        let next = seq.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        let place = Place { side: self.side, epoch: self.epoch, at: self.tail, seq };
        self.issue(kind, body, place, barrier)?;
        self.advance(kind, blocks, next);
        match barrier {
            Barrier::None => self.in_flight_blocks += blocks,
            Barrier::Own => {
                self.durable_seq = seq;
                self.stats.barriers += 1;
            }
        }
        Ok(seq)
    }

    /// Encodes a frame and writes it where it is told to.
    pub(crate) fn issue(
        &mut self,
        kind: Kind,
        body: &[u8],
        place: Place,
        barrier: Barrier,
    ) -> Result<(), JournalError> {
        self.raise_mark(place.side, place.epoch, place.at + self.layout.blocks_of(body.len()))?;
        let mut buffer = core::mem::take(&mut self.buffer);
        buffer.clear();
        let encoded = self.encode(kind, body, place, self.durable_seq, &mut buffer);
        let address = self.layout.block(place.side, place.at);
        let outcome = encoded.map(|()| match barrier {
            Barrier::None => self.device.write(address, &buffer),
            Barrier::Own => self.device.write_durable(address, &buffer),
        });
        self.buffer = buffer;
        let outcome = outcome?;
        self.stats.blocks += self.layout.blocks_of(body.len());
        outcome.map_err(|error| self.poison(error))
    }

    /// Appends the blocks of a frame. They promise that frames up to `durable_seq` are durable.
    pub(crate) fn encode(
        &self,
        kind: Kind,
        body: &[u8],
        place: Place,
        durable_seq: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), JournalError> {
        let too_long = || JournalError::FrameTooLong { len: body.len(), len_max: self.layout.body_len_max() };
        let count = u16::try_from(self.layout.blocks_of(body.len())).map_err(|_| too_long())?;
        let (size, payload_len) = (self.layout.block_size(), self.layout.payload_len());
        let len = usize::from(count) * size;
        let before = into.len();
        into.try_reserve(len).map_err(|_| JournalError::NoMemory { len })?;
        into.resize(before + len, 0);
        let (mut parts, owner) = (body.chunks(payload_len), self.root.owner());
        let blocks = into.get_mut(before..).unwrap_or(&mut []);
        for (index, block) in (0..count).zip(blocks.chunks_exact_mut(size)) {
            let payload = parts.next().unwrap_or(&[]);
            let header = BlockHeader {
                kind,
                index,
                count,
                incarnation: self.incarnation,
                epoch: place.epoch,
                seq: place.seq,
                durable_seq: durable_seq.min(place.seq.saturating_sub(1)),
                len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            };
            let address = self.layout.block(place.side, place.at + u64::from(index));
            encode(&header, payload, owner, address, block);
        }
        Ok(())
    }
}

/// Where a frame goes, and as what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) side: Side,
    pub(crate) epoch: u64,
    pub(crate) at: u64,
    pub(crate) seq: u64,
}

/// Whether a write is to be durable by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barrier {
    None,
    Own,
}
