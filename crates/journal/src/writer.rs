//! [`Journal`]: frames out, barriers, and the proof of them.
//!
//! Invariants
//! - every frame with `seq <= durable_seq` has been covered by a successful flush (or was written durably).
//! - a block is written at most once in an incarnation, and never while it holds a durable, live byte.
//! - after a write or flush that failed nothing is written any more; the first cause is kept.

use alloc::vec::Vec;

use media::{BlockDevice, DeviceError};

use crate::error::JournalError;
use crate::frame::{BlockHeader, Kind, StoreId, encode};
use crate::layout::{Layout, RESERVE_BLOCKS, Side};
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

/// A flush that was begun and has not ended: what it will cover.
#[derive(Debug)]
#[must_use = "a flush that is begun must be ended with what it came to"]
pub struct FlushTicket {
    seq: u64,
    blocks: u64,
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

/// Whether the first block of this incarnation has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenRecord {
    /// It has, or a switch has made it needless.
    Written,
    /// It goes before the next frame.
    Due,
}

/// Where the superblocks in force are known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootSource {
    /// This journal wrote them, and a flush covered them.
    Written,
    /// They were read. A process whose flush failed may have left them in a cache alone.
    Read,
}

/// A commit log on a block device. One owner writes; see [`Journal::begin_flush`] for overlapping writes with flushes.
#[derive(Debug)]
pub struct Journal<D> {
    pub(crate) device: D,
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
    /// Blocks issued since the last flush was submitted.
    pub(crate) in_flight_blocks: u64,
    pub(crate) open_record: OpenRecord,
    pub(crate) last: Kind,
    pub(crate) read_only: Option<&'static str>,
    pub(crate) poisoned: Option<DeviceError>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) copying: Option<Copying>,
    pub(crate) stats: Stats,
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

    /// Keeps the first failure, and ends everything.
    pub(crate) fn poison(&mut self, error: DeviceError) -> JournalError {
        let cause = self.poisoned.get_or_insert(error).clone();
        JournalError::Poisoned { cause }
    }

    /// Writes a frame and returns its sequence number. Where as much is in flight as may be, there is a flush first.
    ///
    /// # Durability
    /// None before a flush: [`Journal::flush`], or the pair of [`Journal::begin_flush`] and [`Journal::end_flush`].
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::FrameTooLong`], [`JournalError::ReadOnly`], [`JournalError::Poisoned`]:
    /// nothing was written. If the device fails now, the frame may be found after a crash or not.
    pub fn write(&mut self, body: &[u8]) -> Result<u64, JournalError> {
        self.check(body)?;
        self.write_due_open()?;
        let seq = self.put(Kind::Commit, body, Barrier::None)?;
        self.stats.frames += 1;
        Ok(seq)
    }

    /// Writes a frame and makes it durable, with all before it.
    ///
    /// # Durability
    /// [`Durable`]: it survives power loss.
    ///
    /// # Errors
    /// As [`Journal::write`]. If the device fails now, the frame may be found after a crash or not.
    pub fn commit(&mut self, body: &[u8]) -> Result<Durable, JournalError> {
        self.check(body)?;
        self.write_due_open()?;
        // A durable write covers itself alone.
        if self.layout_offers_durable_write() && !self.has_unflushed() {
            let seq = self.put(Kind::Commit, body, Barrier::Own)?;
            self.stats.frames += 1;
            return Ok(Durable::up_to(seq));
        }
        self.put(Kind::Commit, body, Barrier::None)?;
        self.stats.frames += 1;
        self.flush()
    }

    fn layout_offers_durable_write(&self) -> bool {
        self.device.geometry().write_durable()
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: nobody knows which frames since the last flush survive.
    pub fn flush(&mut self) -> Result<Durable, JournalError> {
        let ticket = self.begin_flush()?;
        let outcome = self.device.flush();
        self.end_flush(ticket, outcome)
    }

    /// Says that a flush of the device is about to be submitted. The caller flushes the device, if need be on another
    /// thread while frames go on being written here, and reports with [`Journal::end_flush`]. One at a time.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], [`JournalError::ReadOnly`].
    pub fn begin_flush(&mut self) -> Result<FlushTicket, JournalError> {
        self.refuse_unless_writable()?;
        Ok(FlushTicket { seq: self.next_seq.saturating_sub(1), blocks: self.in_flight_blocks })
    }

    /// What the flush came to.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], if it failed.
    pub fn end_flush(
        &mut self,
        ticket: FlushTicket,
        outcome: Result<(), DeviceError>,
    ) -> Result<Durable, JournalError> {
        match outcome {
            Ok(()) => {
                self.stats.barriers += 1;
                self.in_flight_blocks = self.in_flight_blocks.saturating_sub(ticket.blocks);
                self.durable_seq = self.durable_seq.max(ticket.seq);
                Ok(Durable::up_to(ticket.seq))
            }
            Err(error) => Err(self.poison(error)),
        }
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

    /// Two seals, the second of which covers the first: what a store does when it is closed.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub fn seal_for_good(&mut self) -> Result<(), JournalError> {
        self.refuse_unless_writable()?;
        if self.open_record == OpenRecord::Written {
            self.seal()?;
            self.put_seal()?;
        }
        Ok(())
    }

    /// Gives the device back. Nothing is written: [`Journal::seal_for_good`] is for a clean end.
    pub fn into_device(self) -> D {
        self.device
    }

    fn put_seal(&mut self) -> Result<(), JournalError> {
        if self.has_unflushed() {
            let _covered = self.flush()?;
        }
        if self.tail >= self.layout.region_blocks() {
            // No room for a seal: the last commit stays as it is, and the next open says so.
            return Ok(());
        }
        self.stats.seals += 1;
        if self.layout_offers_durable_write() {
            self.put(Kind::Seal, &[], Barrier::Own)?;
        } else {
            self.put(Kind::Seal, &[], Barrier::None)?;
            let _sealed = self.flush()?;
        }
        Ok(())
    }

    fn check(&self, body: &[u8]) -> Result<(), JournalError> {
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

    fn write_due_open(&mut self) -> Result<(), JournalError> {
        if self.open_record == OpenRecord::Due {
            self.open_record = OpenRecord::Written;
            self.put(Kind::Open, &[], Barrier::None)?;
        }
        Ok(())
    }

    /// Writes a frame at the tail of the region in force.
    pub(crate) fn put(&mut self, kind: Kind, body: &[u8], barrier: Barrier) -> Result<u64, JournalError> {
        let blocks = self.layout.blocks_of(body.len());
        let in_flight_max = u64::from(self.layout.limits().in_flight_blocks_max);
        if self.in_flight_blocks + blocks > in_flight_max {
            let _forced = self.flush()?;
        }
        let seq = self.next_seq;
        let next = seq.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        let place = Place { side: self.side, epoch: self.epoch, at: self.tail, seq };
        self.issue(kind, body, place, barrier)?;
        self.tail += blocks;
        self.next_seq = next;
        self.last = kind;
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
        let blocks = self.layout.blocks_of(body.len());
        let count = u16::try_from(blocks).map_err(|_| JournalError::FrameTooLong {
            len: body.len(),
            len_max: self.layout.body_len_max(),
        })?;
        let (size, payload_len) = (self.layout.block_size(), self.layout.payload_len());
        let len = usize::from(count) * size;
        self.buffer.clear();
        self.buffer.try_reserve(len).map_err(|_| JournalError::NoMemory { len })?;
        self.buffer.resize(len, 0);
        let mut parts = body.chunks(payload_len);
        for (index, block) in (0..count).zip(self.buffer.chunks_exact_mut(size)) {
            let payload = parts.next().unwrap_or(&[]);
            let header = BlockHeader {
                kind,
                index,
                count,
                incarnation: self.incarnation,
                epoch: place.epoch,
                seq: place.seq,
                durable_seq: self.durable_seq.min(place.seq.saturating_sub(1)),
                len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            };
            let address = self.layout.block(place.side, place.at + u64::from(index));
            encode(&header, payload, self.root.store, address, block);
        }
        let address = self.layout.block(place.side, place.at);
        let outcome = match barrier {
            Barrier::None => self.device.write(address, &self.buffer),
            Barrier::Own => self.device.write_durable(address, &self.buffer),
        };
        self.stats.blocks += blocks;
        outcome.map_err(|error| self.poison(error))
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
