//! [`Edges`]: the first and the last blocks of a device, each read in one piece.
//!
//! Slots and marks lie there. Read one by one they cost more than all else of opening a small store.

use alloc::vec::Vec;
use core::cell::RefCell;

use media::{BlockDevice, BlockIndex, DeviceError, Geometry};

use crate::layout::Layout;

/// A device whose first and last blocks are read once. It is for one look: what is written meanwhile may not be seen.
pub(crate) struct Edges<'d, D> {
    device: &'d D,
    runs: RefCell<Vec<Run>>,
}

/// Blocks that lie in a row.
struct Run {
    first: u64,
    bytes: Vec<u8>,
}

impl<'d, D: BlockDevice> Edges<'d, D> {
    pub(crate) fn of(device: &'d D) -> Self {
        Self { device, runs: RefCell::default() }
    }

    /// A block of a run that was read.
    fn known(&self, at: BlockIndex, into: &mut [u8]) -> bool {
        let block_size = self.geometry().block_size();
        let runs = self.runs.borrow();
        let found = runs.iter().find_map(|run| {
            let nth = usize::try_from(at.get().checked_sub(run.first)?).ok()?;
            run.bytes.chunks_exact(block_size).nth(nth)
        });
        match found {
            Some(block) if block.len() == into.len() => {
                into.copy_from_slice(block);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The run at an end of the device that a block is in, if it is in one.
    fn read_run(&self, at: BlockIndex) -> Option<Run> {
        let geometry = self.geometry();
        let len = Layout::edge_blocks(geometry);
        let count = geometry.block_count();
        let first = match at.get() {
            front if front < len => 0,
            back if back >= count.saturating_sub(len) => count.saturating_sub(len),
            _ => return None,
        };
        let len = usize::try_from(len.min(count)).ok()?.checked_mul(geometry.block_size())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        self.device.read(BlockIndex::new(first), &mut bytes).ok()?;
        Some(Run { first, bytes })
    }
}

impl<D: BlockDevice> BlockDevice for Edges<'_, D> {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        if self.known(at, into) {
            return Ok(());
        }
        // Where a block of the run cannot be read, each is asked for by itself.
        if let Some(run) = self.read_run(at) {
            self.runs.borrow_mut().push(run);
            if self.known(at, into) {
                return Ok(());
            }
        }
        self.device.read(at, into)
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.device.write(at, from)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.device.flush()
    }
}
