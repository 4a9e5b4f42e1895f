//! Marks: how far a region has been used, so that an open need not read what was never written.
//!
//! All integers are little-endian.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 8 | magic | `SFMARK01` |
//! | 8 | 1 | region | 0 (A) or 1 (B) |
//! | 9 | 1 | copy | 0 or 1 |
//! | 10 | 2 | reserved | 0 |
//! | 12 | 4 | incarnation | of the writable open that wrote it |
//! | 16 | 16 | store id | as in the superblock |
//! | 32 | 8 | epoch | of the life of the region that it was written for |
//! | 40 | 8 | used | blocks from the beginning of the region |
//! | 48 | 4 | checksum | CRC32C of the block up to here, then zeros to byte 512 |
//!
//! A mark of epoch *e* and *u* used blocks says: **no block at or after *u* has been written in epoch *e* or a later one.** So
//! a life of an epoch of at least *e* lies within the first *u* blocks, and what follows has smaller epochs, and no greater
//! incarnations than the mark.
//!
//! Both copies are durable before a block at or after the mark before is written. A region whose two copies are not both valid
//! and the same is read as a whole, whatever they say: a power cut between them, rot, or a write that was lost. To be
//! believed wrongly, both would have to be lost in the same way.

use alloc::vec::Vec;

use media::{BlockDevice, BlockIndex};

use crate::checksum;
use crate::error::JournalError;
use crate::frame::{StoreId, put, u16_at, u32_at, u64_at};
use crate::layout::{Layout, Side};
use crate::writer::Journal;

const MAGIC: [u8; 8] = *b"SFMARK01";
const CHECKSUM_AT: usize = 48;
const END: usize = 52;

/// What both copies of a mark say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) epoch: u64,
    pub(crate) incarnation: u32,
    /// Blocks from the beginning of the region.
    pub(crate) used: u64,
}

impl Mark {
    fn encode(&self, store: StoreId, side: Side, copy: u8, into: &mut [u8]) {
        into.fill(0);
        put(into, 0, &MAGIC);
        put(into, 8, &[u8::from(side == Side::B), copy]);
        put(into, 12, &self.incarnation.to_le_bytes());
        put(into, 16, &store.0);
        put(into, 32, &self.epoch.to_le_bytes());
        put(into, 40, &self.used.to_le_bytes());
        let checksum = checksum::append(0, into.get(..CHECKSUM_AT).unwrap_or(&[]));
        put(into, CHECKSUM_AT, &checksum.to_le_bytes());
    }

    fn decode(block: &[u8], store: StoreId, side: Side, copy: u8) -> Option<Self> {
        let head = block.get(..CHECKSUM_AT)?;
        let is_ours = block.starts_with(&MAGIC)
            && block.get(8..10)? == [u8::from(side == Side::B), copy]
            && u16_at(block, 10) == Some(0)
            && block.get(16..32)? == store.0
            && u32_at(block, CHECKSUM_AT) == Some(checksum::append(0, head))
            && block.get(END..512)?.iter().all(|byte| *byte == 0);
        is_ours.then_some(Self {
            incarnation: u32_at(block, 12)?,
            epoch: u64_at(block, 32)?,
            used: u64_at(block, 40)?,
        })
    }

    /// The mark of a region, if both copies of it say the same.
    pub(crate) fn read<D: BlockDevice>(
        device: &D,
        layout: &Layout,
        store: StoreId,
        side: Side,
    ) -> Option<Self> {
        let [first, second] = layout.mark(side)?;
        let mut block = alloc::vec![0; layout.block_size()];
        let mut read = |at: BlockIndex, copy| {
            device.read(at, &mut block).ok()?;
            Self::decode(&block, store, side, copy)
        };
        let mark = read(first, 0)?;
        // Of a device that was cut short the end is missing, and with it the second copy. Nothing will be written to it.
        let is_cut_off = second.get() >= device.geometry().block_count();
        let is_agreed = is_cut_off || read(second, 1)? == mark;
        (is_agreed && mark.used <= layout.region_blocks()).then_some(mark)
    }

    /// How many blocks of a region a life of this epoch may have: all of them, where there is no mark that says so.
    pub(crate) fn end_of(mark: Option<Self>, layout: &Layout, epoch: u64) -> u64 {
        mark.filter(|mark| mark.epoch <= epoch).map_or(layout.region_blocks(), |mark| mark.used)
    }
}

impl<D: BlockDevice> Journal<D> {
    /// How far a region may be written before its mark must be raised.
    pub(crate) fn used_mut(&mut self, side: Side) -> &mut u64 {
        match side {
            Side::A => &mut self.used.0,
            Side::B => &mut self.used.1,
        }
    }

    /// The same, to look at.
    pub(crate) fn used(&self, side: Side) -> u64 {
        match side {
            Side::A => self.used.0,
            Side::B => self.used.1,
        }
    }

    /// What the mark of a region that says `used` is raised to before the region is written up to `end`; [`None`] if the
    /// mark is far enough, or the region has none.
    pub(crate) fn mark_to_raise(&self, side: Side, used: u64, end: u64) -> Option<u64> {
        (end > used && self.layout.mark(side).is_some()).then(|| self.layout.mark_for(end))
    }

    /// Makes it durable that a region may be used up to `end` blocks, before any of them is written.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: the block after the mark was not written.
    pub(crate) fn raise_mark(&mut self, side: Side, epoch: u64, end: u64) -> Result<(), JournalError> {
        let Some(used) = self.mark_to_raise(side, self.used(side), end) else { return Ok(()) };
        self.write_mark(side, epoch, used)?;
        self.flush_now()?;
        *self.used_mut(side) = used;
        Ok(())
    }

    /// Writes both copies of a mark. They are durable after the next flush, and nothing depends on it before: until then the
    /// mark before is as true.
    pub(crate) fn write_mark(&mut self, side: Side, epoch: u64, used: u64) -> Result<(), JournalError> {
        let Some(places) = self.layout.mark(side) else { return Ok(()) };
        let mut block = Vec::new();
        for (place, copy) in places.into_iter().zip(0..) {
            block.clear();
            self.encode_mark(side, copy, epoch, used, &mut block)?;
            self.stats.blocks += 1;
            self.device.write(place, &block).map_err(|error| self.poison(error))?;
        }
        Ok(())
    }

    /// Appends the block of a copy of a mark.
    pub(crate) fn encode_mark(
        &self,
        side: Side,
        copy: u8,
        epoch: u64,
        used: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), JournalError> {
        let mark = Mark { epoch, incarnation: self.incarnation, used };
        let (before, len) = (into.len(), self.layout.block_size());
        into.try_reserve(len).map_err(|_| JournalError::NoMemory { len })?;
        into.resize(before + len, 0);
        mark.encode(self.root.store, side, copy, into.get_mut(before..).unwrap_or(&mut []));
        Ok(())
    }

    /// Begins a life of a region: nothing of it is written yet, so little of the region is used.
    pub(crate) fn begin_mark(&mut self, side: Side, epoch: u64) -> Result<(), JournalError> {
        if self.layout.mark(side).is_some() {
            let used = self.layout.mark_for(1);
            self.write_mark(side, epoch, used)?;
            *self.used_mut(side) = used;
        }
        Ok(())
    }

    /// Takes over what the marks of an open store say.
    pub(crate) fn adopt_marks(&mut self, marks: (Option<Mark>, Option<Mark>)) {
        let all = self.layout.region_blocks();
        self.used = (marks.0.map_or(all, |mark| mark.used), marks.1.map_or(all, |mark| mark.used));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([3; 16]);
    const MARK: Mark = Mark { epoch: 0x0807_0605_0403_0201, incarnation: 9, used: 77 };

    #[test]
    fn a_mark_reads_back_from_its_place_and_from_no_other() {
        let mut block = [0xEE; 4096];
        MARK.encode(STORE, Side::B, 1, &mut block);
        assert_eq!(block[..10], *b"SFMARK01\x01\x01");
        assert_eq!(block[32..41], [1, 2, 3, 4, 5, 6, 7, 8, 77]);
        assert_eq!(Mark::decode(&block, STORE, Side::B, 1), Some(MARK));
        assert_eq!(Mark::decode(&block, STORE, Side::B, 0), None);
        assert_eq!(Mark::decode(&block, STORE, Side::A, 1), None);
        assert_eq!(Mark::decode(&block, StoreId([4; 16]), Side::B, 1), None);
    }

    #[test]
    fn no_bit_can_be_flipped_unnoticed_and_no_truncation_is_read() {
        let mut good = [0; 512];
        MARK.encode(STORE, Side::A, 0, &mut good);
        for bit in 0..512 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::decode(&bad, STORE, Side::A, 0), None, "bit {bit}");
        }
        for len in 0..512 {
            assert_eq!(Mark::decode(&good[..len], STORE, Side::A, 0), None, "{len} bytes");
        }
    }
}
