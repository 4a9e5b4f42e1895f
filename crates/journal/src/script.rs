//! [`Script`]: the device calls of a frame, fixed before the first of them is made.

use alloc::vec::Vec;

use media::{BlockDevice, BlockIndex, DeviceError};

use crate::error::JournalError;

/// Most calls that a frame needs: before the record of the open and before the frame itself a forced flush, two copies of a
/// mark and the flush of the mark; both writes; the barrier.
const CALLS_MAX: usize = 11;

/// A call of the device. Writes take their bytes from the script's buffer, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write { at: BlockIndex, len: usize },
    WriteDurable { at: BlockIndex, len: usize },
    Flush,
}

/// Device calls in order, with their bytes.
#[derive(Debug, Default)]
pub(crate) struct Script {
    calls: Vec<Call>,
    bytes: Vec<u8>,
}

impl Script {
    /// Empties the script. Its memory is kept.
    pub(crate) fn clear(&mut self) {
        self.calls.clear();
        self.bytes.clear();
    }

    /// Reserves memory for the calls of a frame.
    pub(crate) fn reserve_calls(&mut self) -> Result<(), JournalError> {
        let len = CALLS_MAX * size_of::<Call>();
        self.calls.try_reserve(CALLS_MAX).map_err(|_| JournalError::NoMemory { len })
    }

    /// Adds a write of what `encode` appends to the buffer.
    pub(crate) fn write(
        &mut self,
        at: BlockIndex,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let before = self.bytes.len();
        encode(&mut self.bytes)?;
        self.calls.push(Call::Write { at, len: self.bytes.len() - before });
        Ok(())
    }

    /// Adds a flush.
    pub(crate) fn flush(&mut self) {
        self.calls.push(Call::Flush);
    }

    /// Lets the last write be durable by itself.
    pub(crate) fn make_last_durable(&mut self) {
        if let Some(last) = self.calls.last_mut()
            && let Call::Write { at, len } = *last
        {
            *last = Call::WriteDurable { at, len };
        }
    }

    /// Returns how many of its calls are barriers.
    pub(crate) fn barriers(&self) -> u64 {
        let barriers = self.calls.iter().filter(|call| !matches!(call, Call::Write { .. }));
        u64::try_from(barriers.count()).unwrap_or(u64::MAX)
    }

    /// Makes the calls in order, up to the first that fails.
    pub(crate) fn carry_out<D: BlockDevice>(&self, device: &D) -> Result<(), DeviceError> {
        let mut left = &*self.bytes;
        let mut take = |len| {
            let (taken, rest) = left.split_at_checked(len).unwrap_or((left, &[]));
            left = rest;
            taken
        };
        self.calls.iter().try_for_each(|call| match *call {
            Call::Write { at, len } => device.write(at, take(len)),
            Call::WriteDurable { at, len } => device.write_durable(at, take(len)),
            Call::Flush => device.flush(),
        })
    }
}
