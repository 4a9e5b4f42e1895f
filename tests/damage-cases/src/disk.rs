//! [`ImageDisk`]: an image behind the seam, which counts what is asked of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use media::{BlockDevice, BlockIndex, DeviceCause, DeviceError, DeviceOp, Geometry};

use crate::random::Random;

/// What was asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Calls that read.
    pub reads: u64,
    /// Blocks that were read.
    pub blocks_read: u64,
    /// Calls that write.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// An image on one thread. Some of its blocks may be unreadable; a write may be the last one that lands.
#[derive(Debug)]
pub struct ImageDisk {
    geometry: Geometry,
    bytes: RefCell<Vec<u8>>,
    asked: Cell<Asked>,
    unreadable: RefCell<BTreeSet<u64>>,
    writes_left: Cell<Option<u64>>,
    /// What was overwritten, block by block.
    older: RefCell<Vec<(usize, Vec<u8>)>>,
    /// Blocks that no flush has covered, with what the last flush left in them.
    uncovered: RefCell<BTreeMap<usize, Vec<u8>>>,
}

impl ImageDisk {
    /// A disk with this content.
    #[must_use]
    pub fn new(geometry: Geometry, bytes: Vec<u8>) -> Self {
        assert_eq!(u64::try_from(bytes.len()).ok(), Some(geometry.byte_len()), "an image is a whole device");
        Self {
            geometry,
            bytes: RefCell::new(bytes),
            asked: Cell::default(),
            unreadable: RefCell::default(),
            writes_left: Cell::default(),
            older: RefCell::default(),
            uncovered: RefCell::default(),
        }
    }

    /// Its content now.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }

    /// Another disk with the same content.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self::new(self.geometry, self.image())
    }

    /// Changes its content behind everybody's back.
    pub fn tamper<T>(&self, change: impl FnOnce(&mut [u8]) -> T) -> T {
        change(&mut self.bytes.borrow_mut())
    }

    /// From now on this block cannot be read.
    pub fn make_unreadable(&self, block: u64) {
        self.unreadable.borrow_mut().insert(block);
    }

    /// After so many more writes every write and every flush fails.
    pub fn fail_after(&self, writes: u64) {
        self.writes_left.set(Some(writes));
    }

    /// Cuts the power: each block that no flush has covered is as it was, as it was written, or garbage. Writes work again.
    pub fn cut_power(&self, random: &mut Random) {
        let size = self.geometry.block_size();
        let mut bytes = self.bytes.borrow_mut();
        for (block, old) in std::mem::take(&mut *self.uncovered.borrow_mut()) {
            let now = &mut bytes[block * size..(block + 1) * size];
            match random.below(8) {
                0..3 => now.copy_from_slice(&old),
                3 => random.fill(&mut now[100..]),
                _ => {}
            }
        }
        self.writes_left.set(None);
    }

    /// What blocks held before they were overwritten, in the order in which they were.
    #[must_use]
    pub fn older(&self) -> Vec<(usize, Vec<u8>)> {
        self.older.borrow().clone()
    }

    /// What was overwritten so far does not count.
    pub fn forget_older(&self) {
        self.older.borrow_mut().clear();
    }

    /// What was asked since it was asked last.
    pub fn take_asked(&self) -> Asked {
        self.asked.take()
    }

    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        let mut asked = self.asked.get();
        change(&mut asked);
        self.asked.set(asked);
    }

    fn failed(operation: DeviceOp, at: BlockIndex, len: usize) -> DeviceError {
        DeviceError::Io { operation, at, len, cause: gone() }
    }
}

/// What Linux reports of a failing medium.
fn gone() -> DeviceCause {
    DeviceCause::from(std::io::Error::from_raw_os_error(5))
}

impl BlockDevice for ImageDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        let start = usize::try_from(self.geometry.locate(at, into.len())?).expect("it is in memory");
        let count = u64::try_from(into.len() / self.geometry.block_size()).expect("it is in memory");
        self.ask(|asked| {
            asked.reads += 1;
            asked.blocks_read += count;
        });
        if self.unreadable.borrow().range(at.get()..at.get() + count).next().is_some() {
            return Err(Self::failed(DeviceOp::Read, at, into.len()));
        }
        into.copy_from_slice(&self.bytes.borrow()[start..start + into.len()]);
        Ok(())
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        let start = usize::try_from(self.geometry.locate(at, from.len())?).expect("it is in memory");
        self.ask(|asked| asked.writes += 1);
        match self.writes_left.get() {
            Some(0) => return Err(Self::failed(DeviceOp::Write, at, from.len())),
            left => self.writes_left.set(left.map(|left| left - 1)),
        }
        let mut bytes = self.bytes.borrow_mut();
        let size = self.geometry.block_size();
        let old = bytes[start..start + from.len()].chunks(size).map(<[u8]>::to_vec);
        let old: Vec<_> = (start / size..).zip(old).collect();
        for (block, old) in &old {
            self.uncovered.borrow_mut().entry(*block).or_insert_with(|| old.clone());
        }
        self.older.borrow_mut().extend(old);
        bytes[start..start + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.ask(|asked| asked.flushes += 1);
        if self.writes_left.get() == Some(0) {
            return Err(DeviceError::FlushFailed { cause: gone() });
        }
        self.uncovered.borrow_mut().clear();
        Ok(())
    }
}
