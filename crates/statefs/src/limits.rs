//! Every limit there is, in one place. They are fixed when a store is formatted, kept in its superblock, and enforced.
//!
//! What an engine of this crate keeps in the superblock, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `SFKV` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | operations of a batch |
//! | 8 | 4 | keys |
//! | 12 | 8 | live bytes |
//! | 20 | 4 | bytes of a value |
//! | 24 | 2 | entries of a page |
//!
//! It is valid **if and only if** it is these 26 bytes, magic and version are right, and each limit is in its range.

use alloc::vec::Vec;

use journal::Layout;

use crate::record::RECORD_LEN_MAX_WITHOUT_VALUE;

/// The most bytes of a key.
pub const KEY_LEN_MAX: usize = 255;

/// The most bytes of a value.
pub const VALUE_LEN_MAX: u32 = 65_536;

/// The most operations of a batch: what tells the revisions of one frame from each other has 16 bits.
pub const BATCH_OPS_MAX: u16 = u16::MAX;

const MAGIC: [u8; 4] = *b"SFKV";
const VERSION: u16 = 1;
/// Bytes of the limits as they are kept.
pub(crate) const LEN: usize = 26;

/// What a store is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most keys. A value that only a snapshot has counts as one more, and so does each record of the store's own.
    pub keys_max: u32,
    /// The most bytes of keys and values together, with those that only a snapshot has. Never more than five sixths of a region, which is two fifths of the device and a little.
    pub live_bytes_max: u64,
    /// The most bytes of a value, up to [`VALUE_LEN_MAX`]. Never more than fits into a frame.
    pub value_len_max: u32,
    /// The most operations of a batch.
    pub batch_ops_max: u16,
    /// The most entries of a page of a listing.
    pub list_page_max: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys_max: 1 << 20,
            live_bytes_max: u64::MAX,
            value_len_max: VALUE_LEN_MAX,
            batch_ops_max: 4096,
            list_page_max: 1024,
        }
    }
}

impl Limits {
    /// The limits that a device can keep, where these are greater.
    pub(crate) fn on(self, layout: &Layout) -> Self {
        let block_size = u64::try_from(layout.block_size()).unwrap_or(u64::MAX);
        let region_len = layout.region_blocks().saturating_mul(block_size);
        let value_room = layout.body_len_max().saturating_sub(RECORD_LEN_MAX_WITHOUT_VALUE);
        Self {
            live_bytes_max: self.live_bytes_max.min(region_len / 6 * 5),
            value_len_max: self.value_len_max.min(u32::try_from(value_room).unwrap_or(u32::MAX)),
            ..self
        }
    }

    /// What was asked for when the store was formatted: where a limit is what the device can keep, nobody asked for it.
    pub(crate) fn asked_on(self, layout: &Layout) -> Self {
        let all = Self { live_bytes_max: u64::MAX, value_len_max: VALUE_LEN_MAX, ..self };
        let kept = all.on(layout);
        let live_bytes_max =
            if self.live_bytes_max == kept.live_bytes_max { all.live_bytes_max } else { self.live_bytes_max };
        let value_len_max =
            if self.value_len_max == kept.value_len_max { all.value_len_max } else { self.value_len_max };
        Self { live_bytes_max, value_len_max, ..self }
    }

    pub(crate) fn is_in_range(&self) -> bool {
        self.keys_max > 0
            && self.value_len_max <= VALUE_LEN_MAX
            && self.batch_ops_max > 0
            && self.list_page_max > 0
    }

    /// As it stands in a superblock and in a backup.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.batch_ops_max.to_le_bytes());
        bytes.extend_from_slice(&self.keys_max.to_le_bytes());
        bytes.extend_from_slice(&self.live_bytes_max.to_le_bytes());
        bytes.extend_from_slice(&self.value_len_max.to_le_bytes());
        bytes.extend_from_slice(&self.list_page_max.to_le_bytes());
        bytes
    }

    /// What a superblock or a backup says.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let is_ours = bytes.len() == LEN
            && bytes.starts_with(&MAGIC)
            && bytes.get(4..)?.first_chunk() == Some(&VERSION.to_le_bytes());
        let limits = Self {
            batch_ops_max: u16::from_le_bytes(*bytes.get(6..)?.first_chunk()?),
            keys_max: u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
            live_bytes_max: u64::from_le_bytes(*bytes.get(12..)?.first_chunk()?),
            value_len_max: u32::from_le_bytes(*bytes.get(20..)?.first_chunk()?),
            list_page_max: u16::from_le_bytes(*bytes.get(24..)?.first_chunk()?),
        };
        (is_ours && limits.is_in_range()).then_some(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_back_and_nothing_else_is_taken_for_them() {
        let limits = Limits { keys_max: 0x0403_0201, live_bytes_max: 7, ..Limits::default() };
        let bytes = limits.encode();
        assert_eq!(
            bytes, b"SFKV\x01\x00\x00\x10\x01\x02\x03\x04\x07\0\0\0\0\0\0\0\0\0\x01\0\0\x04",
            "the format is fixed"
        );
        assert_eq!(Limits::decode(&bytes), Some(limits));
        for len in 0..bytes.len() {
            assert_eq!(Limits::decode(&bytes[..len]), None);
        }
        assert_eq!(Limits::decode(&[bytes.as_slice(), &[0]].concat()), None);
        let too_long = Limits { value_len_max: VALUE_LEN_MAX + 1, ..limits };
        assert_eq!(Limits::decode(&too_long.encode()), None);
    }
}
