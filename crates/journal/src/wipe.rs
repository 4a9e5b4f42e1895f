//! Wiping the region that is not in force, and reading the one that is once more.
//!
//! ```text
//! blocks behind the header ══ blocks behind the header ══ … ══ header ══
//! ```
//! `══` is a flush. Why this order, and why an open derives nothing smaller from a region that is wiped, wholly or in part:
//!
//! - what the root needs is not there: the root in force is durable, and was read back, before anything is wiped. Where both
//!   its slots rot later, the superblocks of the generation before lead to a region without a copy, and the whole newer one
//!   is found as after an interrupted switch.
//! - the greatest *epoch* of the region is in its header, which is flushed before any other block of its attempt and is wiped
//!   after all of them are gone, durably. So as long as any block of that epoch is there, its header is, and no later attempt
//!   gets the same epoch. If the header went first, a cut would leave blocks that a later attempt takes for its own.
//! - the greatest *incarnation* is taken from every valid block of the region, unless its header is valid and older than the
//!   root, which knows a number at least as great. A header that is torn or gone has all blocks looked at. So what is not yet
//!   wiped still counts, and what is wiped bears no number that could return.
//! - *sequence numbers* come from the region in force alone.

use media::BlockDevice;

use crate::error::JournalError;
use crate::layout::pair_of;
use crate::open::region_of;
use crate::replay::{Frame, Verdict, replay};
use crate::superblock::{Slot, read_slots};
use crate::writer::Journal;

/// What reading a region once more came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// How the journal ends, as an open would see it now.
    pub verdict: Verdict,
    /// Frames of records that were read.
    pub frames: u64,
    /// Whether it ends where this journal goes on, and not before.
    pub is_whole: bool,
    /// Valid superblocks of the pair in force, of two.
    pub roots_valid: u8,
}

impl<D: BlockDevice> Journal<D> {
    /// Overwrites up to so many blocks of the region that is not in force with zeros; how many are left. When there are none,
    /// nothing that was in it can be read from it any more.
    ///
    /// # Durability
    /// What was overwritten stays so. Nothing else changes, wherever it is cut.
    ///
    /// # Errors
    /// [`JournalError::CopyRuns`]: nothing was written. [`JournalError::ReadOnly`], [`JournalError::NoMemory`]. Anything else
    /// poisons the journal.
    pub fn wipe_other(&mut self, blocks_max: u64) -> Result<u64, JournalError> {
        self.refuse_unless_writable()?;
        if self.copying.is_some() {
            return Err(JournalError::CopyRuns);
        }
        let region = self.layout.region_blocks();
        let behind = region - 1;
        if self.wiped_blocks < region {
            let left = behind.saturating_sub(self.wiped_blocks);
            // The header comes last, and alone.
            let (at, count) = match left {
                0 => (0, 1),
                left => (
                    1 + self.wiped_blocks,
                    left.min(blocks_max.clamp(1, u64::from(self.layout.limits().frame_blocks_max))),
                ),
            };
            self.overwrite(at, count)?;
            self.flush_now()?;
            self.wiped_blocks += count;
        }
        Ok(region - self.wiped_blocks)
    }

    fn overwrite(&mut self, at: u64, count: u64) -> Result<(), JournalError> {
        let len = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(self.layout.block_size());
        self.buffer.clear();
        self.buffer.try_reserve(len).map_err(|_| JournalError::NoMemory { len })?;
        self.buffer.resize(len, 0);
        self.stats.blocks += count;
        let address = self.layout.block(self.side.other(), at);
        let outcome = self.device.write(address, &self.buffer);
        outcome.map_err(|error| self.poison(error))
    }

    /// Whether nothing older stands behind the end of the region in force: it had been wiped when it was copied into.
    #[must_use]
    pub fn began_wiped(&self) -> bool {
        self.began_wiped
    }

    /// Whether the other region has been wiped since it was written to the last time.
    #[must_use]
    pub fn is_other_wiped(&self) -> bool {
        self.wiped_blocks >= self.layout.region_blocks()
    }

    /// Reads the region in force and the superblocks once more, and hands over every frame of records as an open would.
    /// Nothing is written, and damage is no error.
    ///
    /// # Errors
    /// [`JournalError::NoMemory`], and those of `each`.
    pub fn read_again<E: From<JournalError>>(
        &self,
        each: &mut dyn FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<Again, E> {
        let slots = read_slots(&self.device);
        let is_valid = |slot: &usize| slots.get(*slot) == Some(&Slot::Valid(self.root.clone()));
        let roots_valid = pair_of(self.root.generation).iter().map(|slot| u8::from(is_valid(slot))).sum();
        let replayed = replay(&self.device, region_of(&self.root, self.layout), each)?;
        let is_whole = replayed.tail == self.tail;
        Ok(Again { verdict: replayed.verdict, frames: replayed.frames, is_whole, roots_valid })
    }
}
