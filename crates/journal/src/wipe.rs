//! Wiping the region that is not in force, and reading the one that is once more.
//!
//! What is wiped are the blocks behind the header of the other region; the header has nothing of the engine's records in its
//! body, and stays. Why an open derives
//! nothing smaller, wherever this is cut and whichever of the blocks are zeros by then:
//!
//! - what the root needs is not there: the root in force is durable, and was read back, before anything is wiped. Where both
//!   its slots rot later, the superblocks of the generation before lead to a region without a copy, and the whole newer one
//!   is found as after an interrupted switch.
//! - *epoch* and *incarnation* of an attempt to copy are in its header, which is flushed before any other block of it. What
//!   stands behind a header that is valid is of no later life.
//! - where the header is torn, open looks at every block, so what is not yet wiped still counts. What is wiped bears no number
//!   any more, and its number may come again: there is nothing left that it could be taken for.
//! - *sequence numbers* come from the region in force alone.
//!
//! Were the header wiped as well, and landed before the blocks behind it, a cut would leave blocks of an epoch that no header
//! names.

use alloc::vec::Vec;

use media::BlockDevice;

use crate::error::JournalError;
use crate::layout::{FRAME_BLOCKS_MAX, pair_of};
use crate::marks::Mark;
use crate::open::region_of;
use crate::replay::{Frame, Verdict, Watch, replay};
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
    /// Overwrites up to so many blocks of the region that is not in force with zeros; how many are left.
    ///
    /// # Durability
    /// When none is left, no body of a frame that was there is on the medium. Before that, any of it may be. Nothing else
    /// changes, wherever it is cut.
    ///
    /// # Errors
    /// [`JournalError::CopyRuns`]: nothing was written. [`JournalError::ReadOnly`], [`JournalError::NoMemory`]. Anything else
    /// poisons the journal.
    pub fn wipe_other(&mut self, blocks_max: u64) -> Result<u64, JournalError> {
        self.refuse_unless_writable()?;
        if self.copying.is_some() {
            return Err(JournalError::CopyRuns);
        }
        let left = self.left_to_wipe();
        let count = left.min(blocks_max.clamp(1, u64::from(FRAME_BLOCKS_MAX)));
        if count > 0 {
            self.overwrite(1 + self.wiped_blocks, count)?;
            if count == left {
                self.flush_now()?;
            }
            self.wiped_blocks += count;
        }
        if count == left {
            // Scrubs are rare.
            self.zeros = Vec::new();
        }
        Ok(left - count)
    }

    fn left_to_wipe(&self) -> u64 {
        self.layout.region_blocks().saturating_sub(1 + self.wiped_blocks)
    }

    fn overwrite(&mut self, at: u64, count: u64) -> Result<(), JournalError> {
        let len = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(self.layout.block_size());
        if self.zeros.len() < len {
            self.zeros.try_reserve(len - self.zeros.len()).map_err(|_| JournalError::NoMemory { len })?;
            self.zeros.resize(len, 0);
        }
        self.stats.blocks += count;
        let address = self.layout.block(self.side.other(), at);
        let outcome = self.device.write(address, self.zeros.get(..len).unwrap_or(&[]));
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
        self.left_to_wipe() == 0
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
        let mark = Mark::read(&self.device, &self.layout, self.root.store, self.root.side);
        let end = Mark::end_of(mark, &self.layout, self.root.epoch);
        let mut watch = Watch { examined: 0, on_read: &mut |_| {} };
        let replayed = replay(&self.device, region_of(&self.root, self.layout, end), &mut watch, each)?;
        let is_whole = replayed.tail == self.tail;
        Ok(Again { verdict: replayed.verdict, frames: replayed.frames, is_whole, roots_valid })
    }
}
