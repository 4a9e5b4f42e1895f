//! [`Layout`]: where things are on the device. Fixed when a store is formatted.

use media::{BlockIndex, Geometry};

use crate::frame::HEADER_LEN;

/// The most blocks a frame may have.
pub const FRAME_BLOCKS_MAX: u16 = 256;

/// How many superblock slots there are.
pub(crate) const SLOTS: usize = 4;

/// The fewest blocks of a region: its header, what ends a copy, and room for a commit, its seals and the next open.
pub(crate) const REGION_BLOCKS_MIN: u64 = 8;

/// More blocks than any device has; arithmetic on addresses does not overflow below it.
const REGION_BLOCKS_MAX: u64 = 1 << 48;

/// Blocks of a region that only what keeps a store alive may use: the record of an open, two seals, and one to spare.
pub(crate) const RESERVE_BLOCKS: u64 = 4;

const _: () = assert!(RESERVE_BLOCKS + 3 < REGION_BLOCKS_MIN, "a commit must fit into the smallest region");

/// One of the two regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What a store is limited to, beside its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most blocks of one frame, from 1 to [`FRAME_BLOCKS_MAX`].
    pub frame_blocks_max: u16,
    /// How many blocks may be issued ahead of the last flush, the unwritten rest of a frame included. The greater, the
    /// more a torn tail may hide; the smaller, the more often a flush is forced.
    pub in_flight_blocks_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_blocks_max: FRAME_BLOCKS_MAX, in_flight_blocks_max: 1024 }
    }
}

/// Why a device cannot hold a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// It is too small.
    #[error("the device is too small for a store: {blocks} blocks, {blocks_min} are needed")]
    TooSmall {
        /// How many blocks it has.
        blocks: u64,
        /// How many are needed.
        blocks_min: u64,
    },
    /// The limits contradict each other or the format.
    #[error("the limits are out of range: frame_blocks_max={} in_flight_blocks_max={}", .0.frame_blocks_max, .0.in_flight_blocks_max)]
    Limits(Limits),
}

/// Whether the regions of a store have marks of how far they have been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Marks {
    /// The whole of a region is read at every open.
    None,
    /// Two copies of a mark for each region, in sectors of 4 KiB that hold nothing else.
    Two,
}

/// A device with fewer blocks is read in no time, and the sectors of the marks would take too much of it.
const MARKED_BLOCKS_MIN: u64 = 2048;

/// Bytes of a sector that a device may rewrite as one, whatever its blocks are.
const SECTOR_LEN: usize = 4096;

/// The layout of a store on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    block_size: usize,
    region_blocks: u64,
    limits: Limits,
    marks: Marks,
}

impl Layout {
    /// The layout that uses all of a device.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn of(geometry: Geometry, limits: Limits) -> Result<Self, LayoutError> {
        let blocks_min = 4 + 2 * REGION_BLOCKS_MIN;
        let blocks = geometry.block_count();
        if blocks < blocks_min {
            return Err(LayoutError::TooSmall { blocks, blocks_min });
        }
        let marks = if blocks < MARKED_BLOCKS_MIN { Marks::None } else { Marks::Two };
        Self::filling(geometry, limits, marks).ok_or(LayoutError::Limits(limits))
    }

    /// Blocks at each end of a device that hold slots and marks, if a layout fills it.
    pub(crate) fn edge_blocks(geometry: Geometry) -> u64 {
        let marks = if geometry.block_count() < MARKED_BLOCKS_MIN { Marks::None } else { Marks::Two };
        let shape =
            Self { block_size: geometry.block_size(), region_blocks: 0, limits: Limits::default(), marks };
        shape.regions_begin()
    }

    /// The layout with the largest regions that a device has room for.
    pub(crate) fn filling(geometry: Geometry, limits: Limits, marks: Marks) -> Option<Self> {
        let shape = Self { block_size: geometry.block_size(), region_blocks: 0, limits, marks };
        // Where regions end in the middle of a sector, the rest of it stays empty: at most so much more.
        let around = shape.block_count().saturating_add(shape.gap_len());
        let region_blocks = geometry.block_count().saturating_sub(around) / 2;
        let layout = Self { region_blocks, ..shape };
        // One more block in each, where nothing stays empty.
        let larger = Self { region_blocks: region_blocks + 1, ..shape };
        let best = if larger.block_count() <= geometry.block_count() { larger } else { layout };
        best.is_valid().then_some(best)
    }

    /// A layout that was found on a device. Whether it fits there is another question ([`Layout::block_count`]).
    pub(crate) fn found(
        geometry: Geometry,
        region_blocks: u64,
        limits: Limits,
        marks: Marks,
    ) -> Option<Self> {
        let layout = Self { block_size: geometry.block_size(), region_blocks, limits, marks };
        layout.is_valid().then_some(layout)
    }

    fn is_valid(&self) -> bool {
        let Limits { frame_blocks_max, in_flight_blocks_max } = self.limits;
        (REGION_BLOCKS_MIN..=REGION_BLOCKS_MAX).contains(&self.region_blocks)
            && (1..=FRAME_BLOCKS_MAX).contains(&frame_blocks_max)
            && in_flight_blocks_max >= u32::from(frame_blocks_max)
    }

    /// Blocks of a device that the layout needs.
    pub(crate) fn block_count(&self) -> u64 {
        self.slot(SLOTS - 1).get() + 1
    }

    /// Bytes in a block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in a region.
    #[must_use]
    pub fn region_blocks(&self) -> u64 {
        self.region_blocks
    }

    /// The limits the store was formatted with.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Bytes of body in a block.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.block_size - HEADER_LEN
    }

    /// Bytes of body in the largest frame.
    #[must_use]
    pub fn body_len_max(&self) -> usize {
        self.payload_len() * usize::from(self.limits.frame_blocks_max)
    }

    /// How many blocks a body of `len` bytes takes; an empty one takes one.
    #[must_use]
    pub fn blocks_of(&self, len: usize) -> u64 {
        u64::try_from(len.div_ceil(self.payload_len()).max(1)).unwrap_or(u64::MAX)
    }

    /// Blocks of a region that copied records and commits may use.
    #[must_use]
    pub fn usable_blocks(&self) -> u64 {
        // The header and the closing frame.
        self.region_blocks - RESERVE_BLOCKS - 2
    }

    pub(crate) fn slot(&self, slot: usize) -> BlockIndex {
        let last_two = match self.marks {
            Marks::None => self.regions_end(),
            Marks::Two => self.last_marks() + self.gap_len(),
        };
        BlockIndex::new(match slot {
            0 => 0,
            1 => 1,
            2 => last_two,
            _ => last_two + 1,
        })
    }

    /// The block of a region with this number in it.
    pub(crate) fn block(&self, side: Side, at: u64) -> BlockIndex {
        let first = match side {
            Side::A => self.regions_begin(),
            Side::B => self.regions_begin() + self.region_blocks,
        };
        BlockIndex::new(first + at)
    }

    /// Where the two copies of the mark of a region are; [`None`] where it has none.
    pub(crate) fn mark(&self, side: Side) -> Option<[BlockIndex; 2]> {
        let nth = u64::from(side == Side::B);
        match self.marks {
            Marks::None => None,
            Marks::Two => Some([self.gap_len() + nth, self.last_marks() + nth].map(BlockIndex::new)),
        }
    }

    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    /// Blocks of one sector, and no fewer than the two marks take.
    fn gap_len(&self) -> u64 {
        match self.marks {
            Marks::None => 0,
            Marks::Two => self.sector_blocks().max(2),
        }
    }

    fn sector_blocks(&self) -> u64 {
        u64::try_from(SECTOR_LEN / self.block_size.max(1)).unwrap_or(1).max(1)
    }

    fn regions_begin(&self) -> u64 {
        match self.marks {
            Marks::None => 2,
            // Slots, then marks, each in sectors of their own.
            Marks::Two => 2 * self.gap_len(),
        }
    }

    fn regions_end(&self) -> u64 {
        self.regions_begin().saturating_add(self.region_blocks.saturating_mul(2))
    }

    fn last_marks(&self) -> u64 {
        self.regions_end().next_multiple_of(self.sector_blocks())
    }

    /// How far a region may be used when a mark is raised for a use of `end` blocks: as much again up to 512 blocks more, and an
    /// eighth more where that is more. So marks are rare, and an open reads little that was never written.
    pub(crate) fn mark_for(&self, end: u64) -> u64 {
        let more = (end / 8).max(end.clamp(12, 512));
        end.saturating_add(more).min(self.region_blocks)
    }
}

/// The two slots that a generation is written to.
pub(crate) fn pair_of(generation: u64) -> [usize; 2] {
    if generation.is_multiple_of(2) { [0, 2] } else { [1, 3] }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// The page for people says what the code does.
    #[test]
    fn the_overview_of_the_format_has_the_numbers_of_the_code() {
        let page = include_str!("../../../docs/format.md");
        let rows = [
            alloc::format!("| bytes of a block's header | {HEADER_LEN} |"),
            alloc::format!("| most blocks of a frame | {FRAME_BLOCKS_MAX} |"),
            alloc::format!("| fewest blocks of a region | {REGION_BLOCKS_MIN} |"),
            alloc::format!("| blocks of a region that commits may not use | {RESERVE_BLOCKS} |"),
            alloc::format!(
                "| most bytes of the engine's own in a superblock | {} |",
                crate::superblock::ENGINE_LEN_MAX
            ),
            alloc::format!("| magic of a block, of a superblock | `{}`, `{}` |", "SFJ1", "SFSUPER1"),
        ];
        for row in rows {
            assert!(page.contains(&row), "{row}");
        }
        for (code, kind) in
            [(1, "header"), (2, "copied"), (3, "closing"), (4, "commit"), (5, "seal"), (6, "open")]
        {
            assert!(page.replace('\n', " ").contains(&alloc::format!("{code} {kind}")), "{code} {kind}");
        }
    }

    #[test]
    fn a_layout_uses_the_whole_device_and_refuses_what_cannot_hold_one() {
        let geometry = |blocks| Geometry::new(512, blocks).unwrap();
        let layout = Layout::of(geometry(45), Limits::default()).unwrap();
        assert_eq!((layout.region_blocks(), layout.usable_blocks()), (20, 14));
        let places = [
            layout.slot(0),
            layout.slot(1),
            layout.block(Side::A, 0),
            layout.block(Side::B, 0),
            layout.slot(2),
        ];
        assert_eq!(places.map(BlockIndex::get), [0, 1, 2, 22, 42]);
        assert!(matches!(
            Layout::of(geometry(19), Limits::default()),
            Err(LayoutError::TooSmall { blocks_min: 20, .. })
        ));
        assert!(Layout::of(geometry(20), Limits::default()).is_ok());
        for limits in [
            Limits { frame_blocks_max: 0, in_flight_blocks_max: 1 },
            Limits { frame_blocks_max: 257, in_flight_blocks_max: 1000 },
            Limits { frame_blocks_max: 8, in_flight_blocks_max: 7 },
        ] {
            assert!(matches!(Layout::of(geometry(45), limits), Err(LayoutError::Limits(_))), "{limits:?}");
        }
    }
}
