//! Commits in three steps, so that a frame can be built while another one is in flight.
//!
//! ```text
//! begin_commit   fixes the frame and every device call it needs   under the caller's lock, no I/O
//! carry_out      makes these calls, in order                      without the journal, on any thread
//! end_commit     notes what has happened                          under the caller's lock, no I/O
//! ```
//!
//! The calls of a frame, in this order; most frames need the last two lines only:
//!
//! | calls | when |
//! |---|---|
//! | the record of the open | the first frame after the open of a store that was sealed |
//! | a forced flush | with the frame, more would be in flight than the format allows |
//! | both copies of a mark, a flush | the frame ends after the mark |
//! | the frame | always |
//! | a flush | unless the write of the frame is durable by itself |
//!
//! A forced flush and a mark may be needed before the record of the open as well.
//!
//! Invariants
//! - frames that were begun and have not ended follow everything durable, in order, and are no more than
//!   [`Journal::outgoing_max`].
//! - nothing is called durable before every earlier frame is: a frame that ends early waits.
//! - a flush covers the writes that had completed when the flush was submitted, and no others: those that the journal made
//!   before the frame began, and those of the frame's own script. The writes of another frame in flight are not among them.
//! - while a frame in flight carries the record of an open or a mark, no other frame begins. The second frame could be on the
//!   medium before the first call of the first frame. A block after the durable mark is one that an open need not read, so
//!   its incarnation could be given out again; and the two copies of a mark must not be written by two threads at a time. A
//!   block of a new incarnation means something to an open only after the record of that open.
//! - the same holds for a forced flush, by the bound itself: until the frame ends, all that the flush will cover counts as in
//!   flight, so that there is no room for a second frame.
//! - while any frame is in flight, nothing else is flushed, sealed or switched: that would have to know what became of it.

use media::{BlockDevice, DeviceError};

use crate::error::JournalError;
use crate::frame::Kind;
use crate::script::{Call, Script};
use crate::writer::{Durable, Journal, OpenRecord, Place};

/// Most frames in flight at a time: one that is flushed, and one that is written meanwhile.
pub const OUTGOING_MAX: usize = 2;

/// A frame that was begun: [`Outgoing::carry_out`] brings it to the device, [`Journal::end_commit`] takes it back.
#[derive(Debug)]
#[must_use = "a frame that is begun must be carried out, and ended with what that came to"]
pub struct Outgoing {
    seq: u64,
    script: Script,
}

impl Outgoing {
    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Makes every device call that the frame needs to be durable. It is called once.
    ///
    /// # Errors
    /// The first failure of the device; no call follows it. Whatever it is, it goes to [`Journal::end_commit`].
    pub fn carry_out<D: BlockDevice>(&self, device: &D) -> Result<(), DeviceError> {
        for call in self.script.calls() {
            match call {
                Call::Write { at, bytes } => device.write(at, bytes)?,
                Call::WriteDurable { at, bytes } => device.write_durable(at, bytes)?,
                Call::Flush => device.flush()?,
            }
        }
        Ok(())
    }
}

/// What the journal remembers of a frame that is in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    seq: u64,
    /// Blocks that are durable when the frame is: its own, and those whose writes had completed when it began and that
    /// nothing else covers.
    covers: u64,
    /// Whether it carries the record of the open.
    has_open_record: bool,
    /// How far the region may be used once the mark that it carries is durable.
    raised: Option<u64>,
    /// Blocks and barriers of its script.
    blocks: u64,
    barriers: u64,
    has_ended: bool,
}

/// A script that is being written, and what will be so after its calls.
struct Draft {
    script: Script,
    /// The first block of the region after it, and the next sequence number.
    tail: u64,
    next_seq: u64,
    /// Blocks that no flush covers, those of other frames in flight included, and without them.
    in_flight_blocks: u64,
    uncovered: u64,
    durable_seq: u64,
    used: u64,
    /// Blocks that are written.
    blocks: u64,
}

impl<D: BlockDevice> Journal<D> {
    /// Returns how many frames may be in flight at a time on this device. One, where a frame is one durable write: a second one
    /// would wait for it in the device, and those who could have shared it would ride on two (measured with 8 threads:
    /// 1.4-2.8 times the raw rate with two, 3.2-3.5 with one).
    #[must_use]
    pub fn outgoing_max(&self) -> usize {
        if self.has_durable_writes { 1 } else { OUTGOING_MAX }
    }

    /// Returns how many frames have been begun and not ended.
    #[must_use]
    pub fn outgoing(&self) -> usize {
        self.out.len()
    }

    /// Fixes the next frame and the device calls that it needs. No call is made here.
    ///
    /// # Errors
    /// As [`Journal::commit`]; [`JournalError::Outgoing`]: another frame has to end first. Nothing is begun.
    pub fn begin_commit(&mut self, body: &[u8]) -> Result<Outgoing, JournalError> {
        self.check(body)?;
        if !self.may_begin(body.len()) {
            return Err(JournalError::Outgoing { count: self.out.len() });
        }
        // What takes the frame back must not ask for memory.
        self.out.try_reserve(1).map_err(|_| JournalError::NoMemory { len: size_of::<Out>() })?;
        let len = OUTGOING_MAX * size_of::<Script>();
        self.spare.try_reserve(OUTGOING_MAX).map_err(|_| JournalError::NoMemory { len })?;
        let mut draft = self.begin_draft();
        if let Err(error) = self.draft_commit(&mut draft, body) {
            self.keep_spare(draft.script);
            return Err(error);
        }
        let seq = draft.next_seq - 1;
        let has_open_record = self.open_record == OpenRecord::Due;
        let uncovered = self.uncovered();
        let written = draft.tail - self.tail;
        self.out.push_back(Out {
            seq,
            covers: uncovered + written,
            has_open_record,
            raised: (draft.used > self.used(self.side)).then_some(draft.used),
            blocks: draft.blocks,
            barriers: draft.script.barriers(),
            has_ended: false,
        });
        self.in_flight_blocks += written;
        let blocks = self.layout.blocks_of(body.len());
        if has_open_record {
            self.open_record = OpenRecord::InFlight;
            self.advance(Kind::Open, written - blocks, seq);
        }
        self.advance(Kind::Commit, blocks, draft.next_seq);
        Ok(Outgoing { seq, script: draft.script })
    }

    /// Whether no frame in flight stands in the way of one with a body of so many bytes.
    #[must_use]
    pub fn may_begin(&self, body_len: usize) -> bool {
        let carries = |out: &Out| out.has_open_record || out.raised.is_some();
        self.out.is_empty()
            || (self.out.len() < self.outgoing_max()
                && !self.out.iter().any(carries)
                && !self.is_too_much_in_flight(self.layout.blocks_of(body_len)))
    }

    /// Blocks whose writes have completed and that no flush covers, nor one that a frame in flight will make.
    fn uncovered(&self) -> u64 {
        self.in_flight_blocks - self.out.iter().map(|out| out.covers).sum::<u64>()
    }

    fn begin_draft(&mut self) -> Draft {
        Draft {
            script: self.spare.pop().unwrap_or_default(),
            tail: self.tail,
            next_seq: self.next_seq,
            in_flight_blocks: self.in_flight_blocks,
            uncovered: self.uncovered(),
            durable_seq: self.durable_seq,
            used: self.used(self.side),
            blocks: 0,
        }
    }

    /// Writes the script of a commit.
    fn draft_commit(&self, draft: &mut Draft, body: &[u8]) -> Result<(), JournalError> {
        draft.script.reserve_calls()?;
        if self.open_record == OpenRecord::Due {
            self.draft_frame(draft, Kind::Open, &[])?;
        }
        let before = self.draft_frame(draft, Kind::Commit, body)?;
        // A durable write covers itself alone.
        if self.has_durable_writes && before == 0 {
            draft.script.make_last_durable();
        } else {
            draft.script.flush();
        }
        Ok(())
    }

    /// Adds a frame to a script, and what has to come before it; returns the blocks before it that nothing covers.
    fn draft_frame(&self, draft: &mut Draft, kind: Kind, body: &[u8]) -> Result<u64, JournalError> {
        let blocks = self.layout.blocks_of(body.len());
        if draft.in_flight_blocks + blocks > u64::from(self.layout.limits().in_flight_blocks_max) {
            // No other frame is in flight, so everything before this has been written.
            draft.script.flush();
            (draft.in_flight_blocks, draft.uncovered) = (0, 0);
            draft.durable_seq = draft.next_seq - 1;
        }
        let seq = draft.next_seq;
        let next = seq.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        let end = draft.tail + blocks;
        if let Some(raised) = self.mark_to_raise(self.side, draft.used, end) {
            for (at, copy) in self.layout.mark(self.side).into_iter().flatten().zip(0..) {
                draft.script.write(at, |into| self.encode_mark(self.side, copy, self.epoch, raised, into))?;
                draft.blocks += 1;
            }
            draft.script.flush();
            draft.used = raised;
        }
        let place = Place { side: self.side, epoch: self.epoch, at: draft.tail, seq };
        let address = self.layout.block(place.side, place.at);
        let durable_seq = draft.durable_seq;
        draft.script.write(address, |into| self.encode(kind, body, place, durable_seq, into))?;
        let before = draft.uncovered;
        draft.blocks += blocks;
        draft.in_flight_blocks += blocks;
        draft.uncovered += blocks;
        (draft.tail, draft.next_seq) = (end, next);
        Ok(before)
    }

    fn keep_spare(&mut self, mut script: Script) {
        script.clear();
        // There is memory for so many since the frame was begun.
        if self.spare.len() < OUTGOING_MAX {
            self.spare.push(script);
        }
    }

    /// Takes a frame back. What is durable grows in order: where an earlier frame is still in flight, this one is covered
    /// when that one ends.
    ///
    /// # Durability
    /// [`Durable`]: every frame up to the one it names survives power loss. That may be none of those in flight.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: this frame, or an earlier one, failed. Whether they are found after a crash is unknown.
    pub fn end_commit(
        &mut self,
        outgoing: Outgoing,
        outcome: Result<(), DeviceError>,
    ) -> Result<Durable, JournalError> {
        let Outgoing { seq, script } = outgoing;
        self.keep_spare(script);
        let outcome =
            outcome.map_err(|error| self.poison(error)).and_then(|()| self.refuse_unless_writable());
        if outcome.is_err() {
            // A later frame that has ended waits for this one, and would be counted as in flight for ever.
            self.out.retain(|out| out.seq != seq && !out.has_ended);
        }
        outcome?;
        if let Some(out) = self.out.iter_mut().find(|out| out.seq == seq) {
            out.has_ended = true;
            let Out { has_open_record, raised, blocks, barriers, .. } = *out;
            if has_open_record {
                self.open_record = OpenRecord::Written;
            }
            if let Some(raised) = raised {
                *self.used_mut(self.side) = raised;
            }
            self.stats.frames += 1;
            self.stats.blocks += blocks;
            self.stats.barriers += barriers;
        }
        while let Some(out) = self.out.front().copied().filter(|out| out.has_ended) {
            self.in_flight_blocks = self.in_flight_blocks.saturating_sub(out.covers);
            self.durable_seq = self.durable_seq.max(out.seq);
            self.out.pop_front();
        }
        Ok(Durable::up_to(self.durable_seq))
    }

    /// For what writes, and has to know that no frame is in flight.
    pub(crate) fn refuse_while_out(&self) -> Result<(), JournalError> {
        self.refuse_unless_writable()?;
        match self.out.len() {
            0 => Ok(()),
            count => Err(JournalError::Outgoing { count }),
        }
    }
}
