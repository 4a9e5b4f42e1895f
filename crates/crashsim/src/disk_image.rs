//! [`DiskImage`]: the content of a block device, by sector, cheap to copy and quick to compare.

use std::collections::BTreeMap;
use std::sync::Arc;

use media::{BlockIndex, DeviceError, Geometry};
use xxhash_rust::xxh3::xxh3_128;

use crate::image::{SECTOR_LEN, Sector};

/// How many sectors are copied together when one of them changes.
const CHUNK_SECTORS: usize = 32;

/// Sectors next to each other; one that is not there reads as zeros.
type Chunk = [Option<Sector>; CHUNK_SECTORS];

/// A whole block device at one moment.
///
/// Copies share what they have in common. The digest is kept up to date sector by sector: it is the sum of one number
/// for each sector that is not zero, so it costs nothing to ask for.
///
/// Invariant: no sector of zeros is stored.
#[derive(Debug, Clone)]
pub struct DiskImage {
    geometry: Geometry,
    chunks: Arc<BTreeMap<u64, Arc<Chunk>>>,
    digest: u128,
}

impl DiskImage {
    /// All bytes zero.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        // Devices of different shape are different, whatever they hold.
        let shape = [
            geometry.byte_len(),
            wide(geometry.block_size()),
            u64::from(geometry.torn_blocks()) * 2 + u64::from(geometry.write_durable()),
        ];
        let text: Vec<u8> = shape.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { geometry, chunks: Arc::default(), digest: xxh3_128(&text) }
    }

    /// These bytes from block 0 on, and zeros after them.
    ///
    /// # Errors
    /// As [`Geometry::locate`]: not a whole number of blocks, or more than there are.
    pub fn from_bytes(geometry: Geometry, bytes: &[u8]) -> Result<Self, DeviceError> {
        let mut image = Self::new(geometry);
        image.write(BlockIndex::ZERO, bytes)?;
        Ok(image)
    }

    /// Everything, for a `MemDisk` or a file.
    ///
    /// # Errors
    /// [`DeviceError::NoMemory`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, DeviceError> {
        let no_memory = DeviceError::NoMemory { len: self.geometry.byte_len() };
        let mut bytes = Vec::new();
        match usize::try_from(self.geometry.byte_len()) {
            Ok(len) if bytes.try_reserve_exact(len).is_ok() => bytes.resize(len, 0),
            Ok(_) | Err(_) => return Err(no_memory),
        }
        self.read(BlockIndex::ZERO, &mut bytes)?;
        Ok(bytes)
    }

    /// The shape of the device.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many sectors a block has.
    #[must_use]
    pub fn sectors_per_block(&self) -> u64 {
        wide(self.geometry.block_size() / SECTOR_LEN)
    }

    /// A sector, counted from 0; [`None`] if it is all zeros.
    #[must_use]
    pub fn sector(&self, index: u64) -> Option<&Sector> {
        let (chunk, within) = place(index);
        self.chunks.get(&chunk)?.get(within)?.as_ref()
    }

    /// Puts a sector in. One that the device does not have stays away.
    pub fn put_sector(&mut self, index: u64, sector: &Sector) {
        if index >= self.geometry.byte_len() / wide(SECTOR_LEN) {
            return;
        }
        let new = (!sector.is_zero()).then_some(sector);
        let old = self.sector(index);
        if old.map(Sector::digest) == new.map(Sector::digest) {
            return;
        }
        let number = |sector: Option<&Sector>| sector.map_or(0, |sector| number(index, sector));
        self.digest = self.digest.wrapping_sub(number(old)).wrapping_add(number(new));
        let (chunk, within) = place(index);
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.entry(chunk).or_default());
        if let Some(slot) = chunk.get_mut(within) {
            *slot = new.cloned();
        }
    }

    /// Fills `into` with the blocks from `at` on.
    ///
    /// # Errors
    /// As [`Geometry::locate`]; `into` is untouched.
    pub fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        let first = self.geometry.locate(at, into.len())? / wide(SECTOR_LEN);
        for (index, part) in (first..).zip(into.chunks_exact_mut(SECTOR_LEN)) {
            match self.sector(index) {
                Some(sector) => part.copy_from_slice(sector.bytes()),
                None => part.fill(0),
            }
        }
        Ok(())
    }

    /// Replaces the blocks from `at` on.
    ///
    /// # Errors
    /// As [`Geometry::locate`]; nothing has changed.
    pub fn write(&mut self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.geometry.locate(at, from.len())?;
        self.put(at, from);
        Ok(())
    }

    /// Carries out a write that the device accepted. What it does not have stays away.
    pub(crate) fn put(&mut self, at: BlockIndex, bytes: &[u8]) {
        let first = at.get().saturating_mul(self.sectors_per_block());
        for (index, sector) in (first..).zip(sectors_of(bytes)) {
            self.put_sector(index, &sector);
        }
    }

    /// The same after one bit has flipped in a block at rest: bit `bit` of the block, from the lowest bit of its first
    /// byte on. [`None`] if the device has no such bit.
    #[must_use]
    pub fn with_flipped_bit(&self, at: BlockIndex, bit: usize) -> Option<Self> {
        let mut block = vec![0; self.geometry.block_size()];
        self.read(at, &mut block).ok()?;
        *block.get_mut(bit / 8)? ^= 1 << (bit % 8);
        let mut rotten = self.clone();
        rotten.write(at, &block).ok()?;
        Some(rotten)
    }

    /// A number that is the same for devices of the same shape that hold the same bytes.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }
}

/// The chunk of a sector, and where in it.
fn place(index: u64) -> (u64, usize) {
    let len = wide(CHUNK_SECTORS);
    // Below 32.
    (index / len, usize::try_from(index % len).unwrap_or(0))
}

/// What a sector adds to the digest. Sums of these are as good as a hash of all: each is 128 random bits.
fn number(index: u64, sector: &Sector) -> u128 {
    let mut text = [0; 16];
    let parts = index.to_le_bytes().into_iter().chain(sector.digest().to_le_bytes());
    for (to, from) in text.iter_mut().zip(parts) {
        *to = from;
    }
    xxh3_128(&text)
}

/// Whole sectors of a request that is a whole number of blocks.
pub(crate) fn sectors_of(bytes: &[u8]) -> impl Iterator<Item = Sector> {
    bytes.chunks_exact(SECTOR_LEN).map(|part| {
        let mut sector = [0; SECTOR_LEN];
        sector.copy_from_slice(part);
        Sector::new(sector)
    })
}

pub(crate) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry::new(1024, 40).unwrap()
    }

    #[test]
    fn the_digest_knows_content_and_place_and_not_the_way_there() {
        let empty = DiskImage::new(geometry());
        let mut one = empty.clone();
        one.write(BlockIndex::new(3), &[7; 1024]).unwrap();
        assert_ne!(one.digest(), empty.digest());
        let mut elsewhere = empty.clone();
        elsewhere.write(BlockIndex::new(4), &[7; 1024]).unwrap();
        assert_ne!(one.digest(), elsewhere.digest());

        let mut detour = elsewhere.clone();
        detour.write(BlockIndex::new(3), &[9; 1024]).unwrap();
        detour.write(BlockIndex::new(4), &[0; 1024]).unwrap();
        detour.write(BlockIndex::new(3), &[7; 1024]).unwrap();
        assert_eq!(one.digest(), detour.digest());
        assert_eq!(one.to_bytes().unwrap(), detour.to_bytes().unwrap());
        detour.write(BlockIndex::new(3), &[0; 1024]).unwrap();
        assert_eq!(empty.digest(), detour.digest());

        let other_shape = DiskImage::new(Geometry::new(512, 80).unwrap());
        assert_ne!(other_shape.digest(), empty.digest());
        let built = DiskImage::from_bytes(geometry(), &one.to_bytes().unwrap()).unwrap();
        assert_eq!(built.digest(), one.digest());
    }

    #[test]
    fn swapped_sectors_and_flipped_bits_are_seen() {
        let mut image = DiskImage::new(geometry());
        image.write(BlockIndex::ZERO, &[[1; 512], [2; 512]].concat()).unwrap();
        let mut swapped = image.clone();
        swapped.write(BlockIndex::ZERO, &[[2; 512], [1; 512]].concat()).unwrap();
        assert_ne!(image.digest(), swapped.digest());

        let rotten = image.with_flipped_bit(BlockIndex::ZERO, 8 * 512 + 1).unwrap();
        assert_eq!(rotten.sector(1).unwrap().bytes()[0], 0);
        assert_eq!(rotten.sector(1).unwrap().bytes()[1], 2);
        assert_ne!(image.digest(), rotten.digest());
        let healed = rotten.with_flipped_bit(BlockIndex::ZERO, 8 * 512 + 1).unwrap();
        assert_eq!(healed.digest(), image.digest());
        assert!(image.with_flipped_bit(BlockIndex::ZERO, 8 * 1024).is_none());
        assert!(image.with_flipped_bit(BlockIndex::new(40), 0).is_none());
    }

    #[test]
    fn a_copy_is_not_changed_by_a_change_of_the_other() {
        let mut image = DiskImage::new(geometry());
        image.write(BlockIndex::ZERO, &[1; 40 * 1024]).unwrap();
        let copy = image.clone();
        image.write(BlockIndex::new(39), &[2; 1024]).unwrap();
        assert_eq!(copy.to_bytes().unwrap(), vec![1; 40 * 1024]);
        assert_eq!(image.sector(79).unwrap().bytes(), &[2; 512]);
        image.put_sector(80, &Sector::new([3; 512]));
        assert!(image.sector(80).is_none());
    }
}
