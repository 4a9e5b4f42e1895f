//! Finding a store by its superblocks when the block size is not known.
//!
//! Where the slots are depends on the block size, so each of the eight sizes is tried: slots 0 and 1 at the beginning,
//! slots 2 and 3 where the region size of a valid front slot puts them, or else where the layout of the whole device ends.
//! A superblock counts only if it names the block size at which it was found.
//!
//! Formatting with another block size may leave slots of the store that was there before. To open the first store that
//! is found would then read deleted values and acknowledge writes that are lost with the next look, so [`the_one`]
//! refuses two stores and says which.

use alloc::vec::Vec;

use media::{BlockIndex, Geometry};

use crate::frame::StoreId;
use crate::layout::SLOTS;
use crate::superblock::{Slot, slots_with};

/// The block sizes that a store may have, the usual one first.
pub const BLOCK_SIZES: [u32; 8] = [4096, 512, 1024, 2048, 8192, 16_384, 32_768, 65_536];

/// Bytes that a superblock's checksum covers: the smallest block. What follows in a larger block are zeros.
const SUPERBLOCK_LEN: usize = 512;

/// A valid superblock that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The store that it belongs to.
    pub store: StoreId,
    /// Bytes of a block of that store.
    pub block_size: u32,
    /// Its generation; of one store, the greatest is in force.
    pub generation: u64,
    /// The slot that it was read from, 0 to 3.
    pub slot: u8,
    /// Where it was read from, in bytes.
    pub offset: u64,
}

/// Two stores, or one with two block sizes, have superblocks on the same device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are superblocks of two stores: {} with blocks of {} bytes, and {} with blocks of {} bytes",
    .first.store, .first.block_size, .second.store, .second.block_size
)]
pub struct SeveralStores {
    /// The newest superblock of one.
    pub first: Sighting,
    /// The newest superblock of the other.
    pub second: Sighting,
}

/// Returns every valid superblock of a device of `len` bytes, for all block sizes. `read` fills a buffer from an offset in
/// bytes; it is asked for 512 bytes at a multiple of 512, and never for any past `len`. Reads 32 such pieces at most.
///
/// # Errors
/// The first error of `read`, if no superblock was found: it may have been in the part that cannot be read. If one was
/// found, errors are ignored, as an open ignores an unreadable slot.
pub fn probe<E>(len: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>) -> Result<Vec<Sighting>, E> {
    let mut found = Vec::new();
    let mut failed = None;
    for block_size in BLOCK_SIZES {
        let Ok(geometry) = Geometry::new(block_size, len / u64::from(block_size)) else { continue };
        let mut block = [0; SUPERBLOCK_LEN];
        let mut offsets = [0; SLOTS];
        let slots = slots_with(geometry, |at: BlockIndex, slot, decode| {
            let Some(offset) = at.get().checked_mul(u64::from(block_size)) else { return Slot::Invalid };
            if at.get() >= geometry.block_count() {
                return Slot::Invalid;
            }
            match read(offset, &mut block) {
                Ok(()) => {
                    if let Some(place) = offsets.get_mut(slot) {
                        *place = offset;
                    }
                    decode(&block)
                }
                Err(error) => {
                    failed.get_or_insert(error);
                    Slot::Unreadable
                }
            }
        });
        for ((slot, superblock), offset) in (0..).zip(slots).zip(offsets) {
            let Slot::Valid(superblock) = superblock else { continue };
            if superblock.block_size == block_size {
                let (store, generation) = (superblock.store, superblock.generation);
                found.push(Sighting { store, block_size, generation, slot, offset });
            }
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Returns the newest superblock of the store that was found; `None` if none was. Generations are compared within a store
/// only: they say nothing about which of two stores is newer.
///
/// # Errors
/// [`SeveralStores`].
pub fn the_one(found: &[Sighting]) -> Result<Option<Sighting>, SeveralStores> {
    let Some(first) = found.first() else { return Ok(None) };
    let is_same =
        |sighting: &&Sighting| (sighting.store, sighting.block_size) == (first.store, first.block_size);
    let newest = |of: &Sighting| {
        let same = found.iter().filter(|other| (other.store, other.block_size) == (of.store, of.block_size));
        same.copied().max_by_key(|sighting| sighting.generation).unwrap_or(*of)
    };
    match found.iter().find(|sighting| !is_same(sighting)) {
        Some(second) => Err(SeveralStores { first: newest(first), second: newest(second) }),
        None => Ok(Some(newest(first))),
    }
}

const _: () = assert!(SLOTS == 4, "a sighting names one of four slots");
