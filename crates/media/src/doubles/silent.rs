//! [`SilentDisk`]: a block device that must not be called at certain moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{BlockDevice, BlockIndex, DeviceError, Geometry};

/// A block device over another one that counts its calls, and panics if it is called while it must be silent. Clones share the
/// count.
#[derive(Debug, Clone)]
pub struct SilentDisk<D> {
    inner: D,
    must_be_silent: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
}

impl<D> SilentDisk<D> {
    /// Watches a device.
    #[must_use]
    pub fn over(inner: D) -> Self {
        Self { inner, must_be_silent: Arc::default(), calls: Arc::default() }
    }

    /// The device that is watched.
    #[must_use]
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Calls so far, that for the geometry not counted.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Runs `act`, during which no call may be made.
    pub fn silently<T>(&self, act: impl FnOnce() -> T) -> T {
        self.must_be_silent.store(true, Ordering::SeqCst);
        let done = act();
        self.must_be_silent.store(false, Ordering::SeqCst);
        done
    }

    fn called(&self) {
        let must_be_silent = self.must_be_silent.load(Ordering::SeqCst);
        assert!(!must_be_silent, "the device was called while it must be silent");
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

impl<D: BlockDevice> BlockDevice for SilentDisk<D> {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.called();
        self.inner.read(at, into)
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.called();
        self.inner.write(at, from)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.called();
        self.inner.flush()
    }

    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.called();
        self.inner.write_durable(at, from)
    }

    fn forget_cached(&self) {
        self.called();
        self.inner.forget_cached();
    }

    fn mark(&self, point: &'static str) {
        self.called();
        self.inner.mark(point);
    }
}
