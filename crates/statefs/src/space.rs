//! How much room live data needs in a region, as arithmetic on totals: nothing is counted through.
//!
//! A compaction copies what is alive **before** a frame is applied, so the frame needs room after such a copy, even if all it
//! does is to delete. What always fits:
//! - a delete, and a batch of deletes of [`Space::shrinking_len`] bytes: at least one block, and a sixteenth of the region but
//!   7 blocks where that is more, which is the longest frame there is from 4,208 blocks on. A longer one is refused if it
//!   fits neither there nor into the room that is left in the region in force.
//! - a rotation of a sealed prefix that has begun: the record with two keys has its room set aside while there is one key,
//!   and until the rotation ends nothing may grow into the room that its longest value needs.

use journal::Layout;

use crate::limits::Limits;
use crate::record::{COPIED_LEN_MIN, RECORD_LEN_MAX_WITHOUT_VALUE, RECORDS_MAX};
use crate::sealed::OWN_VALUE_LEN_MAX;

/// Blocks of a copied frame, where records are not larger.
const COPIED_FRAME_BLOCKS: u64 = 64;

/// Blocks of a region that are never live data: its header, its closing frame, the journal's own reserve of four, the
/// record of an open, and a delete.
const KEPT_FREE_BLOCKS: u64 = 8;

/// The shape of a region, as far as the room for live data depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    region_blocks: u64,
    payload_len: u64,
    body_len_max: usize,
    /// Bytes of records that go into one copied frame at most.
    pub(crate) frame_len: usize,
    /// Bytes of records that each copied frame but the last has on average at least.
    frame_fill: u64,
    /// The most blocks that live data may need.
    pub(crate) capacity_blocks: u64,
}

impl Space {
    pub(crate) fn of(layout: &Layout, limits: &Limits) -> Self {
        // The store's own records are not limited like users' values.
        let value_len = usize::try_from(limits.value_len_max).unwrap_or(usize::MAX).max(OWN_VALUE_LEN_MAX);
        let record_len = value_len.saturating_add(RECORD_LEN_MAX_WITHOUT_VALUE);
        let blocks = layout.blocks_of(record_len).saturating_mul(2).max(COPIED_FRAME_BLOCKS);
        let payload_len = layout.payload_len();
        let frame_len = usize::try_from(blocks)
            .unwrap_or(usize::MAX)
            .saturating_mul(payload_len)
            .min(layout.body_len_max())
            // However short they are, no more than a body may have.
            .min(RECORDS_MAX * COPIED_LEN_MIN);
        // A frame ends where the next record does not fit: so it has no less than this, or it and the next together have
        // more than one may have.
        let fill = frame_len.saturating_sub(record_len).max(frame_len / 2).max(1);
        let region_blocks = layout.region_blocks();
        let kept_free = KEPT_FREE_BLOCKS.max(region_blocks / 16);
        Self {
            region_blocks,
            payload_len: u64::try_from(payload_len).unwrap_or(1),
            body_len_max: layout.body_len_max(),
            frame_len,
            frame_fill: u64::try_from(fill).unwrap_or(1),
            capacity_blocks: region_blocks.saturating_sub(kept_free),
        }
    }

    /// No more than so many blocks are needed for records of so many bytes, however they are divided.
    pub(crate) fn blocks_of(&self, record_bytes: u64) -> u64 {
        match record_bytes {
            0 => 0,
            bytes => bytes / self.payload_len + bytes / self.frame_fill + 1,
        }
    }

    /// How many frames a copy of so many bytes has at most.
    pub(crate) fn frames_of(&self, record_bytes: u64) -> u64 {
        record_bytes / self.frame_fill + 1
    }

    /// Bytes of records that always fit into one frame, if they do not make what is alive grow.
    pub(crate) fn shrinking_len(&self) -> usize {
        let blocks = self.capacity_before(0).saturating_sub(self.capacity_blocks);
        usize::try_from(blocks.saturating_mul(self.payload_len)).unwrap_or(usize::MAX).min(self.body_len_max)
    }

    /// Bytes of records that fit into one frame after a copy of so many bytes.
    pub(crate) fn len_after(&self, record_bytes: u64) -> usize {
        let blocks = self.capacity_before(0).saturating_sub(self.blocks_of(record_bytes));
        usize::try_from(blocks.saturating_mul(self.payload_len)).unwrap_or(usize::MAX)
    }

    /// The most blocks that what is alive may need, if a frame of `frame_blocks` is to fit behind it.
    pub(crate) fn capacity_before(&self, frame_blocks: u64) -> u64 {
        let behind = KEPT_FREE_BLOCKS - 1;
        self.region_blocks.saturating_sub(behind.saturating_add(frame_blocks))
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// The estimate holds for the longest record there is, which may be one of the store's own.
    #[test]
    fn own_records_count_where_values_are_short() {
        let geometry = media::Geometry::new(512, 1000).unwrap();
        let journal = journal::Limits { frame_blocks_max: 4, in_flight_blocks_max: 8 };
        let layout = Layout::of(geometry, journal).unwrap();
        let space = |value_len_max| Space::of(&layout, &Limits { value_len_max, ..Limits::default() });
        let longest = RECORD_LEN_MAX_WITHOUT_VALUE + OWN_VALUE_LEN_MAX;
        let fill = u64::try_from(layout.body_len_max() - longest).unwrap();
        assert_eq!(space(0).frame_fill, fill, "a frame ends where the longest record does not fit");
        assert!(space(91).frame_fill < fill);
    }
}
