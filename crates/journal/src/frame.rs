//! The block: every block of a region but those never written has this form.
//!
//! All integers are little-endian.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `SFJ1` |
//! | 4 | 1 | version | 2, or 1 in a store of version 1 |
//! | 5 | 1 | kind | [`Kind`] |
//! | 6 | 2 | index | of this block in its frame, from 0 |
//! | 8 | 2 | count | of blocks in the frame, 1 to [`FRAME_BLOCKS_MAX`] |
//! | 10 | 2 | store tag | the low half of the CRC32C of the store id; 0 in version 1 |
//! | 12 | 4 | incarnation | of the writable open that wrote it |
//! | 16 | 8 | epoch | of the life of its region |
//! | 24 | 8 | sequence | of the frame |
//! | 32 | 8 | durable_seq | every frame up to this one had been flushed before this block was issued |
//! | 40 | 4 | length | of the payload in this block, in bytes |
//! | 44 | 4 | checksum | CRC32C, see below |
//! | 48 | length | payload | a part of the frame's body |
//! | | | padding | zeros, to the end of the block |
//!
//! A block is **valid if and only if**
//! 1. its magic is `SFJ1`, its version is that of the store, and its store tag is that of the store (0 in version 1);
//! 2. its kind is one of [`Kind`];
//! 3. its count is from 1 to `FRAME_BLOCKS_MAX`, and its index is below its count;
//! 4. its length is at most the block size less 48;
//! 5. its `durable_seq` is below its sequence;
//! 6. its checksum is the CRC32C of the store id (16 bytes), the block's address on the device (8 bytes) and the whole
//!    block with the checksum field as zeros.
//!
//! The store tag tells a block of another store, of which a used disk is full, from a torn block of this one. It proves
//! nothing by itself. One or two wrong bits in the magic or in the tag are taken for rot of a block of this store.
//!
//! Because the store and the address are part of the checksum, a block that was written to another place, or belongs to
//! another store on the same device, is not valid. Because user bytes stand behind a header, they never sit where a
//! header is looked for.

use media::BlockIndex;

use crate::checksum;
use crate::layout::FRAME_BLOCKS_MAX;

/// What `SFJ1` is in a little-endian integer.
const MAGIC: u32 = u32::from_le_bytes(*b"SFJ1");

/// Bytes of a block before its payload.
pub const HEADER_LEN: usize = 48;
/// Where the length of the payload is.
pub(crate) const LEN_AT: usize = 40;
const CHECKSUM_AT: usize = 44;

const _: () = assert!(CHECKSUM_AT + size_of::<u32>() == HEADER_LEN, "the checksum ends the header");

/// Who a store is: random, made when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

/// A version of the format, fixed when a store is formatted. Every version is read and written; new stores have the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Blocks have no store tag, regions no marks, and the header of a region no description.
    V1,
    /// What is written today.
    V2,
}

impl Format {
    /// The version of new stores.
    pub const LATEST: Self = Self::V2;

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// The store that a block must belong to, and the format it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The CRC32C of the store id, which checksums continue.
    seed: u32,
    format: Format,
}

impl Owner {
    /// The owner of the blocks of a store.
    #[must_use]
    pub fn of(store: StoreId, format: Format) -> Self {
        Self { seed: checksum::append(0, &store.0), format }
    }

    /// The tag that blocks of the store have.
    fn tag(self) -> u16 {
        let [low, high, ..] = self.seed.to_le_bytes();
        match self.format {
            Format::V1 => 0,
            Format::V2 => u16::from_le_bytes([low, high]),
        }
    }
}

/// The most wrong bits of a magic or a tag that are taken for rot, and not for something else.
const ROTTEN_BITS_MAX: u32 = 2;

impl core::fmt::Display for StoreId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl core::fmt::Debug for StoreId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first block of a region: its life begins.
    Header,
    /// Records that were alive when the region was copied.
    Copied,
    /// The end of what was copied.
    Closing,
    /// A commit.
    Commit,
    /// No records: a watermark that covers the last commit.
    Seal,
    /// A writable open: what stood here and behind is discarded, and sequence numbers go on with this one.
    Open,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Header, Self::Copied, Self::Closing, Self::Commit, Self::Seal, Self::Open];

    const fn code(self) -> u8 {
        match self {
            Self::Header => 1,
            Self::Copied => 2,
            Self::Closing => 3,
            Self::Commit => 4,
            Self::Seal => 5,
            Self::Open => 6,
        }
    }

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// The header of a block, without what its place and its store say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// What the frame is for.
    pub kind: Kind,
    /// Which block of the frame.
    pub index: u16,
    /// Of how many.
    pub count: u16,
    /// Of the writable open that wrote it.
    pub incarnation: u32,
    /// Of the life of its region.
    pub epoch: u64,
    /// Of the frame.
    pub seq: u64,
    /// Every frame up to this one was durable when the block was issued.
    pub durable_seq: u64,
    /// Bytes of payload.
    pub len: u32,
}

/// Why a block is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invalid {
    /// The bytes are not the beginning of a block of this store: never written, of another store, or something else.
    Foreign,
    /// They begin like a block and break a rule of the format.
    Malformed,
    /// The checksum is wrong: torn, rotten, misplaced, or (in format 1) of another store.
    Checksum,
}

/// Puts a block together in `into`, which is as long as a block.
///
/// The payload must fit (an encoder's caller cuts it to size): what does not is left out, and then the block is not valid.
pub fn encode(header: &BlockHeader, payload: &[u8], owner: Owner, at: BlockIndex, into: &mut [u8]) {
    into.fill(0);
    put(into, 0, &MAGIC.to_le_bytes());
    put(into, 4, &[owner.format.number(), header.kind.code()]);
    put(into, 6, &header.index.to_le_bytes());
    put(into, 8, &header.count.to_le_bytes());
    put(into, 10, &owner.tag().to_le_bytes());
    put(into, 12, &header.incarnation.to_le_bytes());
    put(into, 16, &header.epoch.to_le_bytes());
    put(into, 24, &header.seq.to_le_bytes());
    put(into, 32, &header.durable_seq.to_le_bytes());
    put(into, LEN_AT, &header.len.to_le_bytes());
    put(into, HEADER_LEN, payload);
    let checksum = checksum_of(into, owner, at);
    put(into, CHECKSUM_AT, &checksum.to_le_bytes());
}

/// The header and the payload of a valid block.
///
/// # Errors
/// [`Invalid`]: the first rule it breaks.
pub fn decode(block: &[u8], owner: Owner, at: BlockIndex) -> Result<(BlockHeader, &[u8]), Invalid> {
    let magic = u32_at(block, 0).ok_or(Invalid::Foreign)?;
    if magic != MAGIC {
        let is_rotten = (magic ^ MAGIC).count_ones() <= ROTTEN_BITS_MAX;
        return Err(if is_rotten { Invalid::Malformed } else { Invalid::Foreign });
    }
    if is_of_another_store(block, owner) {
        return Err(Invalid::Foreign);
    }
    let header = header_of(block, owner).ok_or(Invalid::Malformed)?;
    let len = usize::try_from(header.len).map_err(|_| Invalid::Malformed)?;
    let end = HEADER_LEN.checked_add(len).ok_or(Invalid::Malformed)?;
    let payload = block.get(HEADER_LEN..end).ok_or(Invalid::Malformed)?;
    if u32_at(block, CHECKSUM_AT) != Some(checksum_of(block, owner, at)) {
        return Err(Invalid::Checksum);
    }
    Ok((header, payload))
}

/// Whether a block that begins like one says that it is of another store than its owner.
fn is_of_another_store(block: &[u8], owner: Owner) -> bool {
    let (Some(version), Some(tag)) = (block.get(4).copied(), u16_at(block, 10)) else { return false };
    match owner.format {
        Format::V1 => false,
        Format::V2 if version == Format::V1.number() => tag == 0,
        Format::V2 => (tag ^ owner.tag()).count_ones() > ROTTEN_BITS_MAX,
    }
}

/// The fields, where they keep the rules.
fn header_of(block: &[u8], owner: Owner) -> Option<BlockHeader> {
    let (version, kind) = (*block.get(4)?, *block.get(5)?);
    let header = BlockHeader {
        kind: Kind::of(kind)?,
        index: u16_at(block, 6)?,
        count: u16_at(block, 8)?,
        incarnation: u32_at(block, 12)?,
        epoch: u64_at(block, 16)?,
        seq: u64_at(block, 24)?,
        durable_seq: u64_at(block, 32)?,
        len: u32_at(block, LEN_AT)?,
    };
    let keeps_the_rules = version == owner.format.number()
        && u16_at(block, 10)? == owner.tag()
        && (1..=FRAME_BLOCKS_MAX).contains(&header.count)
        && header.index < header.count
        && header.durable_seq < header.seq;
    keeps_the_rules.then_some(header)
}

fn checksum_of(block: &[u8], owner: Owner, at: BlockIndex) -> u32 {
    let mut crc = checksum::append(owner.seed, &at.get().to_le_bytes());
    let (head, tail) = block.split_at(CHECKSUM_AT.min(block.len()));
    crc = checksum::append(crc, head);
    crc = checksum::append(crc, &[0; 4]);
    checksum::append(crc, tail.get(4..).unwrap_or(&[]))
}

pub(crate) fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = into.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
        to.copy_from_slice(bytes);
    }
}

fn bytes_at<const N: usize>(block: &[u8], at: usize) -> Option<[u8; N]> {
    block.get(at..)?.first_chunk().copied()
}

pub(crate) fn u16_at(block: &[u8], at: usize) -> Option<u16> {
    bytes_at(block, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(block: &[u8], at: usize) -> Option<u32> {
    bytes_at(block, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(block: &[u8], at: usize) -> Option<u64> {
    bytes_at(block, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId(*b"0123456789abcdef");

    fn owner() -> Owner {
        Owner::of(STORE, Format::V2)
    }

    fn header() -> BlockHeader {
        BlockHeader {
            kind: Kind::Commit,
            index: 1,
            count: 3,
            incarnation: 0x0A0B_0C0D,
            epoch: 0x1112_1314_1516_1718,
            seq: 0x2122_2324_2526_2728,
            durable_seq: 0x2122_2324_2526_2720,
            len: 5,
        }
    }

    fn block() -> [u8; 512] {
        let mut block = [0xEE; 512];
        encode(&header(), b"hello", owner(), BlockIndex::new(7), &mut block);
        block
    }

    #[test]
    fn a_block_reads_back_as_it_was_written() {
        assert_eq!(decode(&block(), owner(), BlockIndex::new(7)), Ok((header(), &b"hello"[..])));
    }

    #[test]
    fn golden_bytes() {
        let fields = "0d0c0b0a1817161514131211282726252423222120272625242322210500000";
        for (format, head) in
            [(Format::V1, "53464a31010401000300000"), (Format::V2, "53464a310204010003009e11")]
        {
            let mut block = [0xEE; 512];
            encode(&header(), b"hello", Owner::of(STORE, format), BlockIndex::new(7), &mut block);
            let hex: alloc::string::String =
                block.iter().take(44).map(|byte| alloc::format!("{byte:02x}")).collect();
            let head = alloc::format!("{head:0<24}");
            assert_eq!(hex, alloc::format!("{head}{fields}0"));
            assert_eq!(&block[48..54], b"hello\0");
        }
    }

    #[test]
    fn no_bit_can_be_flipped_unnoticed() {
        let good = block();
        for bit in 0..512 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            let invalid = decode(&bad, owner(), BlockIndex::new(7)).unwrap_err();
            assert_ne!(invalid, Invalid::Foreign, "bit {bit}: one rotten bit does not make it another's");
        }
    }

    #[test]
    fn a_block_of_another_place_or_another_store_is_not_valid() {
        assert_eq!(decode(&block(), owner(), BlockIndex::new(8)), Err(Invalid::Checksum));
        let other = |format| Owner::of(StoreId([1; 16]), format);
        assert_eq!(decode(&block(), other(Format::V2), BlockIndex::new(7)), Err(Invalid::Foreign));
        assert_eq!(decode(&block(), other(Format::V1), BlockIndex::new(7)), Err(Invalid::Malformed));
        let mut older = [0; 512];
        let first = Owner::of(STORE, Format::V1);
        encode(&header(), b"hello", first, BlockIndex::new(7), &mut older);
        assert_eq!(decode(&older, first, BlockIndex::new(7)), Ok((header(), &b"hello"[..])));
        assert_eq!(decode(&older, owner(), BlockIndex::new(7)), Err(Invalid::Foreign));
    }

    #[test]
    fn every_truncation_and_every_broken_rule_is_an_error() {
        let good = block();
        for len in 0..512 {
            assert!(decode(&good[..len], owner(), BlockIndex::new(7)).is_err(), "{len} bytes");
        }
        let broken = [
            BlockHeader { index: 3, ..header() },
            BlockHeader { count: 0, index: 0, ..header() },
            BlockHeader { count: FRAME_BLOCKS_MAX + 1, ..header() },
            BlockHeader { durable_seq: header().seq, ..header() },
            BlockHeader { len: 465, ..header() },
            BlockHeader { len: u32::MAX, ..header() },
        ];
        for header in broken {
            let mut block = [0; 512];
            encode(&header, b"hello", owner(), BlockIndex::new(7), &mut block);
            assert_eq!(decode(&block, owner(), BlockIndex::new(7)), Err(Invalid::Malformed), "{header:?}");
        }
        assert_eq!(decode(&[0; 512], owner(), BlockIndex::new(7)), Err(Invalid::Foreign));
    }
}
