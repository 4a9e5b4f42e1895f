//! The superblock: the root of a store, in four slots.
//!
//! All integers are little-endian.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 8 | magic | `SFSUPER1` |
//! | 8 | 2 | version | 2, or 1 in a store of version 1 |
//! | 10 | 1 | slot | 0 to 3 |
//! | 11 | 1 | region in force | 0 (A) or 1 (B) |
//! | 12 | 4 | block size | in bytes |
//! | 16 | 16 | store id | random, made at format |
//! | 32 | 8 | generation | one more than the superblock before it; from 1 |
//! | 40 | 8 | epoch | of the region in force |
//! | 48 | 8 | region blocks | blocks of a region |
//! | 56 | 8 | copied blocks | blocks of the region in force up to and with the closing frame |
//! | 64 | 8 | copied sequence | of the closing frame |
//! | 72 | 4 | in-flight blocks | [`Limits::in_flight_blocks_max`] |
//! | 76 | 2 | frame blocks | [`Limits::frame_blocks_max`] |
//! | 78 | 2 | engine length | bytes of the engine's own |
//! | 80 | 4 | previous | checksum of the superblock of the generation before; 0 for the first |
//! | 84 | 4 | checksum | CRC32C of the block with this field as zeros |
//! | 88 | 4 | incarnation | of the writable open that wrote it: no block of the region before has a greater one |
//! | 92 | engine length | engine | whatever the engine fixed at format |
//! | 504 | 1 | marks | 1 where the regions have marks (`marks.rs`), else 0; always 0 in version 1 |
//!
//! A superblock is **valid if and only if** magic and version are these, the slot is the one it was read from, the engine's
//! length is at most [`ENGINE_LEN_MAX`], and the checksum is right.
//!
//! Generation *g* is written to slots {0, 2} if it is even, else to {1, 3}, and only at a switch: the pair in force is
//! never touched. Valid slots of different stores are an error, never "the greatest wins".

use alloc::vec::Vec;

use media::{BlockDevice, BlockIndex, DeviceErrorKind, Geometry};

use crate::checksum;
use crate::frame::{Format, Owner, StoreId, put, u16_at, u32_at, u64_at};
use crate::layout::{Layout, Limits, Marks, SLOTS, Side};

const MAGIC: [u8; 8] = *b"SFSUPER1";
const CHECKSUM_AT: usize = 84;
const INCARNATION_AT: usize = 88;
const ENGINE_AT: usize = 92;
const MARKS_AT: usize = 504;

/// The most bytes an engine may keep in the superblock.
pub const ENGINE_LEN_MAX: usize = 256;

const _: () = assert!(
    ENGINE_AT + ENGINE_LEN_MAX <= MARKS_AT && MARKS_AT < 512,
    "a superblock must fit into the smallest block"
);

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) format: Format,
    pub(crate) marks: Marks,
    pub(crate) store: StoreId,
    pub(crate) block_size: u32,
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) region_blocks: u64,
    pub(crate) side: Side,
    pub(crate) copied_blocks: u64,
    pub(crate) copied_seq: u64,
    pub(crate) limits: Limits,
    pub(crate) previous: u32,
    pub(crate) incarnation: u32,
    pub(crate) engine: Vec<u8>,
}

impl Superblock {
    /// As it stands in a slot; the checksum of it.
    pub(crate) fn encode(&self, slot: usize, into: &mut [u8]) -> u32 {
        into.fill(0);
        put(into, 0, &MAGIC);
        put(into, 8, &u16::from(self.format.number()).to_le_bytes());
        put(into, MARKS_AT, &[u8::from(self.marks == Marks::Two)]);
        put(into, 10, &[u8::try_from(slot).unwrap_or(u8::MAX), u8::from(self.side == Side::B)]);
        put(into, 12, &self.block_size.to_le_bytes());
        put(into, 16, &self.store.0);
        put(into, 32, &self.generation.to_le_bytes());
        put(into, 40, &self.epoch.to_le_bytes());
        put(into, 48, &self.region_blocks.to_le_bytes());
        put(into, 56, &self.copied_blocks.to_le_bytes());
        put(into, 64, &self.copied_seq.to_le_bytes());
        put(into, 72, &self.limits.in_flight_blocks_max.to_le_bytes());
        put(into, 76, &self.limits.frame_blocks_max.to_le_bytes());
        put(into, 78, &u16::try_from(self.engine.len()).unwrap_or(u16::MAX).to_le_bytes());
        put(into, 80, &self.previous.to_le_bytes());
        put(into, INCARNATION_AT, &self.incarnation.to_le_bytes());
        put(into, ENGINE_AT, &self.engine);
        let checksum = checksum_of(into);
        put(into, CHECKSUM_AT, &checksum.to_le_bytes());
        checksum
    }

    /// A valid superblock.
    pub(crate) fn decode(block: &[u8], slot: usize) -> Option<Self> {
        let is_ours = block.first_chunk() == Some(&MAGIC)
            && block.get(10).copied().map(usize::from) == Some(slot)
            && u32_at(block, CHECKSUM_AT) == Some(checksum_of(block));
        if !is_ours {
            return None;
        }
        let (format, marks) = match (u16_at(block, 8)?, *block.get(MARKS_AT)?) {
            (1, 0) => (Format::V1, Marks::None),
            (2, 0) => (Format::V2, Marks::None),
            (2, 1) => (Format::V2, Marks::Two),
            _ => return None,
        };
        let engine_len = usize::from(u16_at(block, 78)?);
        if engine_len > ENGINE_LEN_MAX {
            return None;
        }
        Some(Self {
            format,
            marks,
            store: StoreId(*block.get(16..)?.first_chunk()?),
            block_size: u32_at(block, 12)?,
            generation: u64_at(block, 32)?,
            epoch: u64_at(block, 40)?,
            region_blocks: u64_at(block, 48)?,
            side: match block.get(11)? {
                0 => Side::A,
                1 => Side::B,
                _ => return None,
            },
            copied_blocks: u64_at(block, 56)?,
            copied_seq: u64_at(block, 64)?,
            limits: Limits { in_flight_blocks_max: u32_at(block, 72)?, frame_blocks_max: u16_at(block, 76)? },
            previous: u32_at(block, 80)?,
            incarnation: u32_at(block, INCARNATION_AT)?,
            engine: block.get(ENGINE_AT..)?.get(..engine_len)?.to_vec(),
        })
    }

    /// The layout it describes, if that is one for blocks of this size. The device may be too small for it.
    pub(crate) fn layout(&self, geometry: Geometry) -> Option<Layout> {
        if usize::try_from(self.block_size) != Ok(geometry.block_size()) {
            return None;
        }
        let layout = Layout::found(geometry, self.region_blocks, self.limits, self.marks)?;
        (self.copied_blocks <= self.region_blocks).then_some(layout)
    }

    /// The owner of the store's blocks.
    pub(crate) fn owner(&self) -> Owner {
        Owner::of(self.store, self.format)
    }

    /// What the header of a region says in its body, in format 2: all that is fixed for a store, so that regions describe
    /// themselves where every superblock is lost. It is the superblock itself, as in slot 0 and without what changes at a
    /// switch, up to its engine's last byte, and its byte 504.
    pub(crate) fn describe(&self) -> Vec<u8> {
        if self.format == Format::V1 {
            return Vec::new();
        }
        let fixed = Self {
            generation: 0,
            epoch: 0,
            side: Side::A,
            copied_blocks: 0,
            copied_seq: 0,
            previous: 0,
            incarnation: 0,
            ..self.clone()
        };
        let mut block = [0; 512];
        fixed.encode(0, &mut block);
        let mut description = block.get(..ENGINE_AT + self.engine.len()).unwrap_or(&[]).to_vec();
        description.extend(block.get(MARKS_AT));
        description
    }

    /// The superblock that a header describes, without what changes at a switch.
    pub(crate) fn described(description: &[u8]) -> Option<Self> {
        let (marks, head) = description.split_last()?;
        let mut block = [0; 512];
        block.get_mut(..head.len().min(MARKS_AT))?.copy_from_slice(head.get(..head.len().min(MARKS_AT))?);
        put(&mut block, MARKS_AT, &[*marks]);
        Self::decode(&block, 0)
    }

    /// The checksum that the next generation names, the same in all slots.
    pub(crate) fn chain(&self) -> u32 {
        let mut block = [0; 512];
        self.encode(0, &mut block)
    }
}

fn checksum_of(block: &[u8]) -> u32 {
    let (head, tail) = block.split_at(CHECKSUM_AT.min(block.len()));
    // What stands behind the engine's bytes is zeros in every block size, so it is left out.
    let tail = tail.get(4..512 - CHECKSUM_AT).unwrap_or(&[]);
    let crc = checksum::append(0, head);
    checksum::append(checksum::append(crc, &[0; 4]), tail)
}

/// What was found in the slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slot {
    Valid(Superblock),
    /// Zeros, garbage, or another slot's block.
    Invalid,
    /// The device does not give it back.
    Unreadable,
}

/// Reads all four slots. Where they are depends on the size of the regions, which only a superblock tells: the first two
/// are always in the same place, the others are looked for where a valid one says, and where the device ends.
pub(crate) fn read_slots<D: BlockDevice>(device: &D) -> [Slot; SLOTS] {
    let geometry = device.geometry();
    let mut block = alloc::vec![0; geometry.block_size()];
    slots_with(geometry, |at, _, decode| match device.read(at, &mut block) {
        // A device too small to have the slot has nothing in it.
        Err(error) if error.kind() == DeviceErrorKind::Invalid => Slot::Invalid,
        Err(_) => Slot::Unreadable,
        Ok(()) => decode(&block),
    })
}

/// Looks at all four slots of a device with that geometry. `look` reads a block, or the first 512 bytes of it, as a slot and
/// hands them to the decoder that it is given.
pub(crate) fn slots_with(
    geometry: Geometry,
    mut look: impl FnMut(BlockIndex, usize, &dyn Fn(&[u8]) -> Slot) -> Slot,
) -> [Slot; SLOTS] {
    let mut slots = [Slot::Invalid, Slot::Invalid, Slot::Invalid, Slot::Invalid];
    let mut read = |at: BlockIndex, slot: usize| {
        look(at, slot, &|block| Superblock::decode(block, slot).map_or(Slot::Invalid, Slot::Valid))
    };
    for (slot, found) in slots.iter_mut().enumerate().take(2) {
        *found = read(BlockIndex::new(u64::try_from(slot).unwrap_or(0)), slot);
    }
    let told = slots.iter().find_map(|slot| match slot {
        Slot::Valid(superblock) => superblock.layout(geometry),
        Slot::Invalid | Slot::Unreadable => None,
    });
    let guesses = [Marks::Two, Marks::None].map(|marks| Layout::filling(geometry, Limits::default(), marks));
    let places = match told {
        Some(layout) => [Some(layout), None],
        None => guesses,
    };
    for layout in places.into_iter().flatten() {
        for (slot, found) in slots.iter_mut().enumerate().skip(2) {
            if matches!(found, Slot::Valid(_)) {
                continue;
            }
            let here = read(layout.slot(slot), slot);
            if matches!(here, Slot::Valid(_)) || *found == Slot::Invalid {
                *found = here;
            }
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            format: Format::V2,
            marks: Marks::Two,
            store: StoreId([7; 16]),
            block_size: 512,
            generation: 5,
            epoch: 9,
            region_blocks: 100,
            side: Side::B,
            copied_blocks: 3,
            copied_seq: 77,
            limits: Limits::default(),
            previous: 0xAABB_CCDD,
            incarnation: 4,
            engine: b"limits of the engine".to_vec(),
        }
    }

    #[test]
    fn a_superblock_reads_back_from_its_slot_and_from_no_other() {
        let mut block = [0xEE; 4096];
        superblock().encode(3, &mut block);
        assert_eq!(Superblock::decode(&block, 3), Some(superblock()));
        assert_eq!(Superblock::decode(&block, 1), None);
    }

    #[test]
    fn no_bit_of_its_512_bytes_can_be_flipped_unnoticed() {
        let mut good = [0; 512];
        superblock().encode(0, &mut good);
        for bit in 0..512 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Superblock::decode(&bad, 0), None, "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let mut good = [0; 512];
        superblock().encode(0, &mut good);
        for len in 0..512 {
            assert_eq!(Superblock::decode(&good[..len], 0), None, "{len} bytes");
        }
    }
}
