//! Looking at every block of a store, for tools.

use media::{BlockDevice, BlockIndex};

use crate::error::JournalError;
use crate::frame::{Invalid, Kind, decode};
use crate::layout::{SLOTS, Side};
use crate::superblock::{Slot, read_slots};
use crate::writer::Journal;

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// A superblock, valid and of this store.
    Root {
        /// Its generation; the greatest is in force.
        generation: u64,
    },
    /// A superblock's slot without a valid one.
    NoRoot,
    /// A valid block of the life that a region is in: the region in force, or one that is being copied into.
    Current {
        /// What its frame is for.
        kind: Kind,
        /// The sequence number of its frame.
        seq: u64,
    },
    /// A valid block of this store, of an earlier life of its region.
    Stale {
        /// The sequence number of its frame.
        seq: u64,
    },
    /// No block of a store: never written, or something else.
    Foreign,
    /// It begins like a block and is none: torn, rotten, misplaced, or of another store.
    Invalid,
    /// The device does not give it back.
    Unreadable,
}

impl<D: BlockDevice> Journal<D> {
    /// Says of every superblock and of every block of a region what it is, in the order of their addresses but for the
    /// superblocks, which come first. Nothing is written.
    ///
    /// # Errors
    /// [`JournalError::NoMemory`].
    pub fn survey(&self, each: &mut dyn FnMut(BlockIndex, BlockState)) -> Result<(), JournalError> {
        for (number, slot) in read_slots(&self.device).iter().enumerate().take(SLOTS) {
            let state = match slot {
                Slot::Valid(root) if root.store == self.root.store => {
                    BlockState::Root { generation: root.generation }
                }
                Slot::Valid(_) | Slot::Invalid => BlockState::NoRoot,
                Slot::Unreadable => BlockState::Unreadable,
            };
            each(self.layout.slot(number), state);
        }
        let len = self.layout.block_size();
        let mut block = alloc::vec::Vec::new();
        block.try_reserve_exact(len).map_err(|_| JournalError::NoMemory { len })?;
        block.resize(len, 0);
        for side in [Side::A, Side::B] {
            // What a region is in is said by its header; of the region in force, by the root.
            let mut life = (side == self.side).then_some(self.epoch);
            for at in 0..self.layout.region_blocks() {
                let address = self.layout.block(side, at);
                let state = match self.device.read(address, &mut block) {
                    Err(_) => BlockState::Unreadable,
                    Ok(()) => match decode(&block, self.root.owner(), address) {
                        Ok((header, _)) => {
                            if at == 0 {
                                life = life.or(Some(header.epoch));
                            }
                            if life == Some(header.epoch) {
                                BlockState::Current { kind: header.kind, seq: header.seq }
                            } else {
                                BlockState::Stale { seq: header.seq }
                            }
                        }
                        Err(Invalid::Foreign) => BlockState::Foreign,
                        Err(Invalid::Malformed | Invalid::Checksum) => BlockState::Invalid,
                    },
                };
                each(address, state);
            }
        }
        Ok(())
    }

    /// Whether a writer has been at work since this journal was opened to be read: reads the superblocks and the block where
    /// the next frame would begin. Every frame and every switch shows in one of them.
    ///
    /// It may say so where nothing has changed: a torn frame whose first block is whole looks like one that is being written.
    /// What cannot be read has changed as well; an open says what it is.
    ///
    /// # Errors
    /// [`JournalError::NoMemory`].
    pub fn has_moved_on(&self) -> Result<bool, JournalError> {
        let mut roots = 0;
        for slot in read_slots(&self.device) {
            match slot {
                // After a switch that a crash has cut short, the root that was opened is not written yet.
                Slot::Valid(root) if root.store == self.root.store => {
                    if root.generation >= self.root.generation && root != self.root {
                        return Ok(true);
                    }
                    roots += 1;
                }
                Slot::Valid(_) => return Ok(true),
                Slot::Invalid | Slot::Unreadable => {}
            }
        }
        if roots == 0 {
            return Ok(true);
        }
        if self.tail >= self.layout.region_blocks() {
            return Ok(false);
        }
        let len = self.layout.block_size();
        let mut block = alloc::vec::Vec::new();
        block.try_reserve_exact(len).map_err(|_| JournalError::NoMemory { len })?;
        block.resize(len, 0);
        let address = self.address(self.tail);
        if self.device.read(address, &mut block).is_err() {
            return Ok(true);
        }
        let header = decode(&block, self.root.owner(), address);
        Ok(header.is_ok_and(|(header, _)| header.epoch == self.epoch))
    }

    /// Where a block of the region in force is on the device.
    #[must_use]
    pub fn address(&self, at: u64) -> BlockIndex {
        self.layout.block(self.side, at)
    }
}
