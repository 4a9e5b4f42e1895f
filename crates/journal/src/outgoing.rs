//! Commits in three steps, so that a frame can be built while another one is on its way to the medium.
//!
//! ```text
//! begin_commit   numbers and bytes of a frame are fixed          under the caller's lock, no I/O
//! carry_out      one durable write, or a write and a flush       without the journal, on any thread
//! end_commit     what it came to; up to where all is durable     under the caller's lock, no I/O
//! ```
//!
//! Invariants
//! - frames that were begun and have not ended lie behind everything durable, in order, and are no more than
//!   [`Journal::outgoing_max`].
//! - nothing is called durable before every frame in front of it is: a frame that ends early waits.
//! - while any is out, nothing else is flushed, sealed or switched: that would have to know what became of it.

use alloc::vec::Vec;

use media::{BlockDevice, BlockIndex, DeviceError};

use crate::error::JournalError;
use crate::frame::Kind;
use crate::writer::{Durable, Journal, Place};

/// How many frames may be on their way at a time, at most: one that is flushed, and one that is written meanwhile.
pub const OUTGOING_MAX: usize = 2;

/// A frame that was begun: [`Outgoing::carry_out`] brings it to the device, [`Journal::end_commit`] takes it back.
#[derive(Debug)]
#[must_use = "a frame that is begun must be carried out, and ended with what that came to"]
pub struct Outgoing {
    seq: u64,
    at: BlockIndex,
    bytes: Vec<u8>,
    how: How,
}

/// What makes a frame durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Its own write.
    DurableWrite,
    /// A flush after its write, which covers all before it as well.
    WriteAndFlush,
}

impl Outgoing {
    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Writes the frame and makes it durable.
    ///
    /// # Errors
    /// Those of the device. Whatever it is, it goes to [`Journal::end_commit`].
    pub fn carry_out<D: BlockDevice>(&self, device: &D) -> Result<(), DeviceError> {
        match self.how {
            How::DurableWrite => device.write_durable(self.at, &self.bytes),
            How::WriteAndFlush => {
                device.write(self.at, &self.bytes)?;
                device.flush()
            }
        }
    }
}

/// What the journal remembers of a frame that is on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    seq: u64,
    /// Blocks that are durable when it is: its own, and those written before it that nothing else covers.
    covers: u64,
    has_ended: bool,
}

impl<D: BlockDevice> Journal<D> {
    /// How many frames may be on their way at a time on this device. One, where a frame is one durable write: a second one
    /// would wait for it in the device, and those who could have shared it would ride on two (measured with 8 threads:
    /// 1.4-2.8 times the raw rate with two, 3.2-3.5 with one).
    #[must_use]
    pub fn outgoing_max(&self) -> usize {
        if self.device.geometry().write_durable() { 1 } else { OUTGOING_MAX }
    }

    /// How many frames have been begun and not ended.
    #[must_use]
    pub fn outgoing(&self) -> usize {
        self.out.len()
    }

    /// Fixes what the next frame is. The record of an open that is still due, a mark that has to be raised, and a flush where
    /// as much is in flight as may be, are written here.
    ///
    /// # Errors
    /// As [`Journal::commit`]; [`JournalError::Outgoing`], and nothing is begun, where another frame has to end first.
    pub fn begin_commit(&mut self, body: &[u8]) -> Result<Outgoing, JournalError> {
        self.check(body)?;
        let blocks = self.layout.blocks_of(body.len());
        let too_many = self.out.len() >= self.outgoing_max() || self.is_too_much_in_flight(blocks);
        if too_many && !self.out.is_empty() {
            return Err(JournalError::Outgoing { count: self.out.len() });
        }
        self.write_due_open()?;
        if self.is_too_much_in_flight(blocks) {
            let _forced = self.flush()?;
        }
        let next = self.next_seq.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        self.out.try_reserve(1).map_err(|_| JournalError::NoMemory { len: size_of::<Out>() })?;
        let seq = self.next_seq;
        let place = Place { side: self.side, epoch: self.epoch, at: self.tail, seq };
        self.raise_mark(place.side, place.epoch, place.at + blocks)?;
        let mut bytes = self.spare.pop().unwrap_or_default();
        self.encode(Kind::Commit, body, place, &mut bytes)?;
        let uncovered = self.in_flight_blocks - self.out.iter().map(|out| out.covers).sum::<u64>();
        // A durable write covers itself alone.
        let how = match self.device.geometry().write_durable() && uncovered == 0 {
            true => How::DurableWrite,
            false => How::WriteAndFlush,
        };
        self.advance(Kind::Commit, blocks, next);
        self.in_flight_blocks += blocks;
        self.stats.frames += 1;
        self.stats.blocks += blocks;
        self.out.push_back(Out { seq, covers: uncovered + blocks, has_ended: false });
        Ok(Outgoing { seq, at: self.layout.block(place.side, place.at), bytes, how })
    }

    /// Takes a frame back. What is durable grows in order: where an earlier frame is still on its way, this one is covered
    /// when that one ends.
    ///
    /// # Durability
    /// [`Durable`]: every frame up to the one it names survives power loss. That may be none of those that are out.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: this frame, or an earlier one, failed. Whether they are found after a crash is unknown.
    pub fn end_commit(
        &mut self,
        outgoing: Outgoing,
        outcome: Result<(), DeviceError>,
    ) -> Result<Durable, JournalError> {
        let Outgoing { seq, mut bytes, .. } = outgoing;
        bytes.clear();
        if self.spare.len() < OUTGOING_MAX {
            self.spare.push(bytes);
        }
        let outcome =
            outcome.map_err(|error| self.poison(error)).and_then(|()| self.refuse_unless_writable());
        if outcome.is_err() {
            self.out.retain(|out| out.seq != seq);
        }
        outcome?;
        self.stats.barriers += 1;
        for out in self.out.iter_mut().filter(|out| out.seq == seq) {
            out.has_ended = true;
        }
        while let Some(out) = self.out.front().copied().filter(|out| out.has_ended) {
            self.in_flight_blocks = self.in_flight_blocks.saturating_sub(out.covers);
            self.durable_seq = self.durable_seq.max(out.seq);
            self.out.pop_front();
        }
        Ok(Durable::up_to(self.durable_seq))
    }

    /// For what writes, and has to know that nothing is on its way.
    pub(crate) fn refuse_while_out(&self) -> Result<(), JournalError> {
        self.refuse_unless_writable()?;
        match self.out.len() {
            0 => Ok(()),
            count => Err(JournalError::Outgoing { count }),
        }
    }
}
