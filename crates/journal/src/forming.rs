//! [`Forming`]: a store that is being made, and has no root before all it begins with is durable.
//!
//! ```text
//! slots              zeros ══
//! both regions               zeros for headers, copied copied … closing header, marks ══
//! slots 1 and 3                                                                   root ══
//! ```
//! `══` is a flush. The roots of an older store go first, and durably: with a root left and a header gone it would be there,
//! and damaged. Where only some of them are gone it is whole, because the root before the last one finds the region in force
//! as a copy that was completed. From then on there is no store until there is a root. The header of the region comes behind
//! everything else of it, because a header without a root looks like a store that has lost its roots.

use alloc::vec::Vec;

use media::{BlockDevice, BlockIndex, DeviceError};

use crate::error::JournalError;
use crate::frame::{Format, Kind, StoreId};
use crate::layout::{Layout, Limits, RESERVE_BLOCKS, SLOTS, Side};
use crate::probe::probe;
use crate::superblock::{ENGINE_LEN_MAX, Superblock};
use crate::writer::{Barrier, Journal, Place};

/// A store that is being made: [`Forming::finish`] makes it one.
#[derive(Debug)]
#[must_use = "before it is finished there is no store"]
pub struct Forming<D> {
    journal: Journal<D>,
    base_seq: u64,
}

impl<D: BlockDevice> Journal<D> {
    /// Begins to make a store: wipes whatever roots there are, of stores with blocks of any size. What the store is to hold from the beginning is handed over
    /// with [`Forming::copy`].
    ///
    /// `store` must be random. `engine` are up to [`ENGINE_LEN_MAX`] bytes that are found again at every open. `base_seq` is
    /// the sequence number of what is copied; those of commits are greater by two and more.
    ///
    /// # Durability
    /// `Ok`: there is no store on the device. Cut short, there is the old one or none.
    ///
    /// # Errors
    /// [`JournalError::Layout`], [`JournalError::FrameTooLong`], [`JournalError::NumbersUsedUp`]: nothing was written.
    /// [`JournalError::Device`].
    pub fn form(
        device: D,
        store: StoreId,
        limits: Limits,
        engine: &[u8],
        base_seq: u64,
    ) -> Result<Forming<D>, JournalError> {
        let layout = Layout::of(device.geometry(), limits)?;
        if engine.len() > ENGINE_LEN_MAX {
            return Err(JournalError::FrameTooLong { len: engine.len(), len_max: ENGINE_LEN_MAX });
        }
        let base_seq = base_seq.max(1);
        let root = Superblock {
            format: Format::LATEST,
            marks: layout.marks(),
            store,
            block_size: u32::try_from(layout.block_size()).unwrap_or(u32::MAX),
            generation: 1,
            epoch: 1,
            region_blocks: layout.region_blocks(),
            side: Side::A,
            copied_blocks: 1,
            copied_seq: base_seq.checked_add(1).ok_or(JournalError::NumbersUsedUp)?,
            limits,
            previous: 0,
            incarnation: 1,
            engine: engine.to_vec(),
        };
        let zeros = alloc::vec![0; layout.block_size()];
        for slot in 0..SLOTS {
            device.write(layout.slot(slot), &zeros)?;
        }
        for at in slots_of_others(&device) {
            device.write(at, &zeros)?;
        }
        device.flush()?;
        for side in [Side::A, Side::B] {
            device.write(layout.block(side, 0), &zeros)?;
        }
        Ok(Forming { journal: Journal::over(device, layout, root), base_seq })
    }
}

/// The blocks that hold superblocks of a store with blocks of any size. One with blocks of another size has its slots in
/// other places, and a program that tries that size first would open the older store.
fn slots_of_others<D: BlockDevice>(device: &D) -> Vec<BlockIndex> {
    let geometry = device.geometry();
    let block_size = u64::try_from(geometry.block_size()).unwrap_or(u64::MAX);
    let mut block = alloc::vec![0; geometry.block_size()];
    let found = probe(geometry.byte_len(), |offset, into| {
        device.read(BlockIndex::new(offset / block_size), &mut block)?;
        let within = usize::try_from(offset % block_size).unwrap_or(usize::MAX);
        let from = block.get(within..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.unwrap_or(&[0; 512]));
        Ok::<_, DeviceError>(())
    });
    // Where nothing can be read, nothing is found: there is no store that another open would find either.
    let found = found.unwrap_or_default();
    found.iter().map(|root| BlockIndex::new(root.offset / block_size)).collect()
}

impl<D: BlockDevice> Forming<D> {
    /// Adds what the store begins with, in the engine's own form.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::FrameTooLong`]: this was not written. [`JournalError::Poisoned`].
    pub fn copy(&mut self, body: &[u8]) -> Result<(), JournalError> {
        self.journal.refuse_unless_writable()?;
        let (layout, at) = (self.journal.layout, self.journal.tail);
        let len_max = layout.body_len_max();
        if body.len() > len_max {
            return Err(JournalError::FrameTooLong { len: body.len(), len_max });
        }
        let needed = layout.blocks_of(body.len());
        let room = layout.region_blocks().saturating_sub(RESERVE_BLOCKS + 1 + at);
        if needed > room {
            return Err(JournalError::Full { needed, room });
        }
        self.issue(Kind::Copied, body, at, self.base_seq)?;
        self.journal.tail += needed;
        Ok(())
    }

    /// Makes a store of it.
    ///
    /// # Durability
    /// `Ok`: the store is there, with everything that was copied. Cut short, it is there whole or there is none.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], [`JournalError::NotReadBack`].
    pub fn finish(mut self) -> Result<Journal<D>, JournalError> {
        self.journal.refuse_unless_writable()?;
        let closing_at = self.journal.tail;
        self.issue(Kind::Closing, &[], closing_at, self.base_seq.saturating_add(1))?;
        let description = self.journal.root.describe();
        self.issue(Kind::Header, &description, 0, self.base_seq)?;
        let mut journal = self.journal;
        journal.tail = closing_at + 1;
        journal.used = (journal.layout.mark_for(journal.tail), journal.layout.mark_for(1));
        let (first, second) = journal.used;
        journal.write_mark(Side::A, 1, first)?;
        journal.write_mark(Side::B, 1, second)?;
        journal.flush_now()?;
        let root = Superblock { copied_blocks: journal.tail, ..journal.root.clone() };
        journal.write_root(&root)?;
        journal.root = root;
        Ok(journal)
    }

    fn issue(&mut self, kind: Kind, body: &[u8], at: u64, seq: u64) -> Result<(), JournalError> {
        let place = Place { side: Side::A, epoch: 1, at, seq };
        self.journal.issue(kind, body, place, Barrier::None)
    }
}
