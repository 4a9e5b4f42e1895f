//! The switch: what is alive is copied into the other region in steps, between which commits go on; then the root changes.
//!
//! ```text
//! region in force    … c7 c8 | c9 c10          commits go on here until the end
//! other region       header ══ copied copied copied | c9 c10 | closing ══ root ══
//! calls              begin_copy, copy, …               copy_later, …  finish_copy
//! ```
//! `══` is a flush. The header is durable before any other block of the attempt, so that whatever is found behind an older
//! header is known to be older. Everything is durable before the root names it, and the root before anything else is
//! written. A crash anywhere leaves the old region, whole, or the new one, whole.
//!
//! A copy may be given up until the closing frame is written: for want of room or of memory, or because a block does not
//! read back. Then the region in force goes on as if there had been no copy. The closing frame takes its sequence number
//! only when nothing but itself, its flush and the root is left, so that no number is lost with a copy.

use alloc::vec::Vec;

use media::BlockDevice;

use crate::error::JournalError;
use crate::frame::{BlockHeader, Kind, decode};
use crate::layout::{RESERVE_BLOCKS, Side, pair_of};
use crate::superblock::Superblock;
use crate::writer::{Barrier, Durable, Journal, OpenRecord, Place, RootSource};

/// A copy that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copying {
    side: Side,
    epoch: u64,
    /// The first block of the other region that is not written.
    tail: u64,
    /// Every frame up to this one is in what the engine copies.
    base_seq: u64,
    /// Where in the region in force the later ones begin that are not copied yet.
    later_at: u64,
    /// Blocks of those that have to be copied.
    later_blocks: u64,
    /// Whether any of them has been copied: nothing of the engine's may follow.
    has_later: bool,
    /// Whether there was nothing in the other region.
    onto_wiped: bool,
}

impl<D: BlockDevice> Journal<D> {
    /// Begins to copy. From now on the engine hands over, in steps of its own choice, everything that was alive after
    /// frame [`Journal::next_seq`]` - 1`; commits may go on meanwhile, and find their way into the new region by
    /// themselves. A copy that was begun before is given up.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], [`JournalError::ReadOnly`], [`JournalError::NumbersUsedUp`], [`JournalError::Outgoing`].
    pub fn begin_copy(&mut self) -> Result<(), JournalError> {
        // What is on its way is not in what the engine copies.
        self.refuse_while_out()?;
        let epoch = self.epoch_max.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        // A copy that could not get a root must not be closed: the next open would have to finish it.
        self.root.generation.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        self.make_root_durable()?;
        self.epoch_max = epoch;
        let base_seq = self.next_seq - 1;
        let onto_wiped = self.is_other_wiped();
        self.wiped_blocks = 0;
        let copying = Copying {
            side: self.side.other(),
            epoch,
            tail: 1,
            base_seq,
            later_at: self.tail,
            later_blocks: 0,
            has_later: false,
            onto_wiped,
        };
        let place = Place { side: copying.side, epoch, at: 0, seq: base_seq };
        self.begin_mark(copying.side, epoch)?;
        let description = self.root.describe();
        self.issue(Kind::Header, &description, place, Barrier::None)?;
        self.flush_now()?;
        self.device.mark("after_prepare");
        self.copying = Some(copying);
        Ok(())
    }

    /// What was read of the root in force may be in a cache alone, left by a process whose flush failed, and the root that is
    /// durable then names the region that is about to be overwritten. One slot after the other, so that one is always
    /// whole; the flush of the new header covers the second.
    fn make_root_durable(&mut self) -> Result<(), JournalError> {
        if self.root_source == RootSource::Written {
            return Ok(());
        }
        let root = self.root.clone();
        let [first, second] = pair_of(root.generation);
        self.write_slot(&root, first)?;
        self.flush_now()?;
        self.write_slot(&root, second)?;
        self.root_source = RootSource::Written;
        Ok(())
    }

    /// Whether a copy has begun and not ended.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Returns how many blocks [`Journal::copy_later`] still has to copy: those of the frames of records that were committed
    /// since the copy began. Zero if no copy runs.
    #[must_use]
    pub fn later_blocks(&self) -> u64 {
        self.copying.map_or(0, |copying| copying.later_blocks)
    }

    /// A frame of so many blocks was added to the region in force.
    pub(crate) fn note_later(&mut self, kind: Kind, blocks: u64) {
        if let Some(copying) = self.copying.as_mut().filter(|_| kind == Kind::Commit) {
            copying.later_blocks += blocks;
        }
    }

    /// Copies some of what is alive, in the engine's own form.
    ///
    /// # Errors
    /// [`JournalError::Full`]: with the commits that came meanwhile, more is alive than fits. [`JournalError::NoMemory`]. In
    /// both cases the copy is given up, and the region in force goes on. [`JournalError::FrameTooLong`];
    /// [`JournalError::CopyIsWhole`]: [`Journal::copy_later`] has begun; nothing has changed. Anything else poisons the
    /// journal.
    pub fn copy(&mut self, body: &[u8]) -> Result<(), JournalError> {
        self.refuse_unless_writable()?;
        let len_max = self.layout.body_len_max();
        if body.len() > len_max {
            return Err(JournalError::FrameTooLong { len: body.len(), len_max });
        }
        let Some(copying) = self.copying else { return Ok(()) };
        if copying.has_later {
            return Err(JournalError::CopyIsWhole);
        }
        let outcome = self
            .check_copy_room(&copying, self.layout.blocks_of(body.len()))
            .and_then(|()| self.append_copied(Kind::Copied, body, copying.base_seq));
        self.give_up_on_error(outcome)
    }

    /// Copies commits that came since the copy began, after everything that the engine has copied: at least one frame, and
    /// no more than fit into `blocks_max` blocks. They are read back and verified. Returns whether all of them are copied.
    ///
    /// # Errors
    /// [`JournalError::Outgoing`]: nothing was done. [`JournalError::Full`]: not all of them fit; this is known before any is
    /// read. [`JournalError::NoMemory`]; [`JournalError::NotReadBack`], [`JournalError::Device`]: the device does not give
    /// one back. In these cases the copy is given up, and the region in force goes on. Anything else poisons the journal.
    pub fn copy_later(&mut self, blocks_max: u64) -> Result<bool, JournalError> {
        // What is in flight would be read back before it is there.
        self.refuse_while_out()?;
        let outcome = self.append_later(blocks_max);
        self.give_up_on_error(outcome)
    }

    fn give_up_on_error<T>(&mut self, outcome: Result<T, JournalError>) -> Result<T, JournalError> {
        if outcome.is_err() {
            self.copying = None;
        }
        outcome
    }

    /// Refuses a copy that cannot be closed any more, with so many blocks now and the later commits.
    fn check_copy_room(&self, copying: &Copying, blocks: u64) -> Result<(), JournalError> {
        let needed = blocks.saturating_add(copying.later_blocks);
        let room = self.layout.region_blocks().saturating_sub(RESERVE_BLOCKS + 1 + copying.tail);
        if needed > room { Err(JournalError::Full { needed, room }) } else { Ok(()) }
    }

    fn append_copied(&mut self, kind: Kind, body: &[u8], seq: u64) -> Result<(), JournalError> {
        let Some(copying) = self.copying else { return Ok(()) };
        let place = Place { side: copying.side, epoch: copying.epoch, at: copying.tail, seq };
        self.issue(kind, body, place, Barrier::None)?;
        self.copying = Some(Copying { tail: copying.tail + self.layout.blocks_of(body.len()), ..copying });
        Ok(())
    }

    /// Ends the copy: adds the commits that came meanwhile, closes the region, and makes it the one in force. Where
    /// [`Journal::copy_later`] has copied them in steps, little is left to do.
    ///
    /// # Durability
    /// [`Durable`]: everything committed so far, and the new root.
    ///
    /// # Errors
    /// As [`Journal::copy_later`]. [`JournalError::NumbersUsedUp`]: nothing was done. Anything else poisons the journal: which
    /// region is in force is found at the next open.
    pub fn finish_copy(&mut self) -> Result<Durable, JournalError> {
        self.refuse_while_out()?;
        if self.copying.is_none() {
            return self.flush();
        }
        let generation = self.root.generation.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        let _all = self.copy_later(u64::MAX)?;
        // From here on nothing gives the copy up: the closing frame is no longer than the header, whose memory it uses again.
        let closing_seq = self.next_seq;
        let next = closing_seq.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        let closing = self.append_copied(Kind::Closing, &[], closing_seq);
        self.give_up_on_error(closing)?;
        self.flush_now()?;
        let Some(copying) = self.copying.take() else { return self.flush() };
        self.device.mark("after_commit_record");
        let root = Superblock {
            generation,
            epoch: copying.epoch,
            side: copying.side,
            copied_blocks: copying.tail,
            copied_seq: closing_seq,
            previous: self.root.chain(),
            incarnation: self.incarnation,
            ..self.root.clone()
        };
        self.write_root(&root)?;
        self.root = root;
        self.side = copying.side;
        self.began_wiped = copying.onto_wiped;
        self.wiped_blocks = 0;
        self.epoch = copying.epoch;
        self.tail = copying.tail;
        self.next_seq = next;
        self.durable_seq = closing_seq;
        self.in_flight_blocks = 0;
        self.last = Kind::Closing;
        self.open_record = OpenRecord::Written;
        self.stats.switches += 1;
        Ok(Durable::up_to(closing_seq))
    }

    /// Reads back, verifies and appends commits since the copy began.
    fn append_later(&mut self, blocks_max: u64) -> Result<bool, JournalError> {
        let Some(mut copying) = self.copying else { return Ok(true) };
        self.check_copy_room(&copying, 0)?;
        let len = self.layout.block_size();
        let (mut block, mut body) = (Vec::new(), Vec::new());
        block.try_reserve_exact(len).map_err(|_| JournalError::NoMemory { len })?;
        block.resize(len, 0);
        let begin = copying.later_at;
        while copying.later_at < self.tail {
            body.clear();
            let first = self.read_back(copying.later_at, &mut block, &mut body)?;
            let (count, done) = (u64::from(first.count), copying.later_at - begin);
            if done > 0 && done + count > blocks_max {
                return Ok(false);
            }
            for index in 1..count {
                self.read_back(copying.later_at + index, &mut block, &mut body)?;
            }
            if first.kind == Kind::Commit {
                self.append_copied(Kind::Commit, &body, first.seq)?;
            }
            // It was appended, so there still is a copy.
            copying = self.copying.unwrap_or(copying);
            copying.later_at += count;
            if first.kind == Kind::Commit {
                copying.later_blocks = copying.later_blocks.saturating_sub(count);
                copying.has_later = true;
            }
            self.copying = Some(copying);
        }
        Ok(true)
    }

    /// A block of the region in force that this journal wrote.
    fn read_back(&self, at: u64, block: &mut [u8], body: &mut Vec<u8>) -> Result<BlockHeader, JournalError> {
        let address = self.layout.block(self.side, at);
        self.device.read(address, block)?;
        match decode(block, self.root.owner(), address) {
            Ok((header, payload)) if header.epoch == self.epoch && header.incarnation == self.incarnation => {
                body.try_reserve(payload.len()).map_err(|_| JournalError::NoMemory { len: payload.len() })?;
                body.extend_from_slice(payload);
                Ok(header)
            }
            Ok(_) | Err(_) => Err(JournalError::NotReadBack { at: address }),
        }
    }

    /// Writes a root to its two slots, makes it durable, and reads it back.
    pub(crate) fn write_root(&mut self, root: &Superblock) -> Result<(), JournalError> {
        let slots = pair_of(root.generation);
        for slot in slots {
            self.write_slot(root, slot)?;
        }
        self.flush_now()?;
        self.device.mark("before_done");
        for slot in slots {
            self.read_slot_back(root, slot)?;
        }
        self.root_source = RootSource::Written;
        Ok(())
    }

    pub(crate) fn write_slot(&mut self, root: &Superblock, slot: usize) -> Result<(), JournalError> {
        let mut block = alloc::vec![0; self.layout.block_size()];
        root.encode(slot, &mut block);
        self.stats.blocks += 1;
        self.device.write(self.layout.slot(slot), &block).map_err(|error| self.poison(error))
    }

    fn read_slot_back(&mut self, root: &Superblock, slot: usize) -> Result<(), JournalError> {
        let mut block = alloc::vec![0; self.layout.block_size()];
        let at = self.layout.slot(slot);
        self.device.read(at, &mut block).map_err(|error| self.poison(error))?;
        if Superblock::decode(&block, slot).as_ref() == Some(root) {
            return Ok(());
        }
        self.read_only = Some("a superblock does not read back as it was written");
        Err(JournalError::NotReadBack { at })
    }

    /// A flush that is no commit's.
    pub(crate) fn flush_now(&mut self) -> Result<(), JournalError> {
        self.stats.barriers += 1;
        self.device.flush().map_err(|error| self.poison(error))
    }
}
