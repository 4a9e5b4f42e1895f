//! [`DurableBytes`]: a block device that knows which bytes would survive a power cut now.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{BlockDevice, BlockIndex, Clock as _, DeviceError, Geometry, SystemClock};

/// A block device over another one that keeps the bytes that are durable at every moment: of what was written, only what
/// a barrier has covered. Share it in an `Arc`.
///
/// A flush covers the writes that had **completed before it was submitted**, and nothing else; a durable write covers itself.
/// A test compares what its callers were told with [`DurableBytes::durable`], taken after they were told.
#[derive(Debug)]
pub struct DurableBytes<D> {
    inner: D,
    barrier_time: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    durable: Vec<u8>,
    /// Writes that no barrier has covered, in the order in which they completed.
    uncovered: Vec<Write>,
    writes: u64,
    barriers: u64,
}

#[derive(Debug)]
struct Write {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

impl State {
    fn complete(&mut self, offset: usize, bytes: &[u8]) -> u64 {
        self.writes += 1;
        self.uncovered.push(Write { number: self.writes, offset, bytes: bytes.to_vec() });
        self.writes
    }

    /// Makes the uncovered writes durable that `is_covered` selects by their numbers.
    fn cover(&mut self, is_covered: impl Fn(u64) -> bool) {
        self.barriers += 1;
        let Self { durable, uncovered, .. } = self;
        uncovered.retain(|write| {
            let covered = is_covered(write.number);
            if covered && let Some(to) = durable.get_mut(write.offset..write.offset + write.bytes.len()) {
                to.copy_from_slice(&write.bytes);
            }
            !covered
        });
    }
}

impl<D: BlockDevice> DurableBytes<D> {
    /// Watches a device, whose bytes are all durable now.
    ///
    /// # Errors
    /// Those of reading the device once.
    pub fn over(inner: D) -> Result<Self, DeviceError> {
        let len = usize::try_from(inner.geometry().byte_len()).unwrap_or(usize::MAX);
        let mut durable = vec![0; len];
        inner.read(BlockIndex::new(0), &mut durable)?;
        let state = State { durable, uncovered: Vec::new(), writes: 0, barriers: 0 };
        Ok(Self { inner, barrier_time: Duration::ZERO, state: Mutex::new(state) })
    }

    /// The same device, whose barriers take at least so long.
    #[must_use]
    pub fn with_barrier_time(self, barrier_time: Duration) -> Self {
        Self { barrier_time, ..self }
    }

    /// The bytes that a power cut would leave if nothing else had reached the medium.
    #[must_use]
    pub fn durable(&self) -> Vec<u8> {
        self.state().durable.clone()
    }

    /// Barriers that have succeeded.
    #[must_use]
    pub fn barriers(&self) -> u64 {
        self.state().barriers
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offset(&self, at: BlockIndex) -> usize {
        let block_size = self.geometry().block_size();
        usize::try_from(at.get()).unwrap_or(usize::MAX).saturating_mul(block_size)
    }

    fn take_time(&self) {
        if !self.barrier_time.is_zero() {
            SystemClock::new().sleep(self.barrier_time);
        }
    }
}

impl<D: BlockDevice> BlockDevice for DurableBytes<D> {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read(at, into)
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.inner.write(at, from)?;
        self.state().complete(self.offset(at), from);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let submitted = self.state().writes;
        self.take_time();
        self.inner.flush()?;
        self.state().cover(|number| number <= submitted);
        Ok(())
    }

    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.take_time();
        self.inner.write_durable(at, from)?;
        let mut state = self.state();
        let own = state.complete(self.offset(at), from);
        state.cover(|number| number == own);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemDisk;

    #[test]
    fn a_flush_covers_what_was_complete_before_it_and_a_durable_write_covers_itself() {
        let geometry = Geometry::new(512, 4).unwrap().with_write_durable();
        let disk = DurableBytes::over(MemDisk::new(geometry).unwrap()).unwrap();
        let first = |disk: &DurableBytes<MemDisk>| [0, 512, 1024].map(|at| disk.durable()[at]);
        disk.write(BlockIndex::new(0), &[1; 512]).unwrap();
        disk.write_durable(BlockIndex::new(1), &[2; 512]).unwrap();
        assert_eq!(first(&disk), [0, 2, 0]);
        disk.flush().unwrap();
        assert_eq!(first(&disk), [1, 2, 0]);
        disk.write(BlockIndex::new(2), &[3; 512]).unwrap();
        assert_eq!((first(&disk), disk.barriers()), ([1, 2, 0], 2));
    }
}
