//! [`MemDisk`]: a device in memory.

use alloc::vec::Vec;
use core::ops::Range;

use super::{BlockDevice, BlockIndex, DeviceError, DeviceOp, Geometry};
use shared::Shared;

/// A block device in memory: for tests, and for state that may die with the process.
///
/// Clones are handles of the same memory, so a test can drop the engine and open what it left. The memory
/// itself is the medium here, without a write cache before it: what is written is at once as safe as it will
/// ever be, which is for as long as a handle lives. [`flush`](BlockDevice::flush) therefore has nothing to
/// wait for, and a `MemDisk` loses nothing short of everything; for real loss there are simulators.
///
/// Without feature `std` the handle stays on one thread.
#[derive(Debug, Clone)]
pub struct MemDisk {
    geometry: Geometry,
    /// Invariant: exactly `geometry.byte_len()` bytes.
    bytes: Shared<Vec<u8>>,
}

impl MemDisk {
    /// The largest device in bytes. A greater one is a mistake in a size more often than a wish.
    pub const LEN_MAX: u64 = 256 << 20;

    /// A device with all bytes zero. Its flags are those of `geometry`:
    /// [`write_durable`](BlockDevice::write_durable) is offered if they say so.
    ///
    /// # Errors
    /// [`DeviceError::TooLarge`] above [`MemDisk::LEN_MAX`]; [`DeviceError::NoMemory`].
    pub fn new(geometry: Geometry) -> Result<Self, DeviceError> {
        let len = bounded_len(geometry)?;
        let mut bytes = reserve(len)?;
        bytes.resize(len, 0);
        Ok(Self { geometry, bytes: Shared::new(bytes) })
    }

    /// A device that holds `image`, a crash image for example.
    ///
    /// # Errors
    /// [`DeviceError::WrongImageLength`], [`DeviceError::TooLarge`].
    pub fn from_image(geometry: Geometry, image: Vec<u8>) -> Result<Self, DeviceError> {
        if bounded_len(geometry)? != image.len() {
            return Err(DeviceError::WrongImageLength { len: image.len(), expected: geometry.byte_len() });
        }
        Ok(Self { geometry, bytes: Shared::new(image) })
    }

    /// A copy of everything the device holds.
    ///
    /// # Errors
    /// [`DeviceError::NoMemory`].
    pub fn image(&self) -> Result<Vec<u8>, DeviceError> {
        self.bytes.with(|bytes| {
            let mut copy = reserve(bytes.len())?;
            copy.extend_from_slice(bytes);
            Ok(copy)
        })
    }

    /// The bytes of a checked request.
    fn range(&self, at: BlockIndex, len: usize) -> Result<Range<usize>, DeviceError> {
        let out_of_range = DeviceError::OutOfRange { at, len, block_count: self.geometry.block_count() };
        let Ok(start) = usize::try_from(self.geometry.locate(at, len)?) else { return Err(out_of_range) };
        start.checked_add(len).map(|end| start..end).ok_or(out_of_range)
    }
}

impl BlockDevice for MemDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        let range = self.range(at, into.len())?;
        // In range by the invariant of `bytes`; the index cannot panic.
        self.bytes.with(|bytes| into.copy_from_slice(&bytes[range]));
        Ok(())
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        let range = self.range(at, from.len())?;
        self.bytes.with(|bytes| bytes[range].copy_from_slice(from));
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        if !self.geometry.write_durable() {
            return Err(DeviceError::Unsupported { operation: DeviceOp::WriteDurable });
        }
        self.write(at, from)
    }
}

fn bounded_len(geometry: Geometry) -> Result<usize, DeviceError> {
    match usize::try_from(geometry.byte_len()) {
        Ok(len) if geometry.byte_len() <= MemDisk::LEN_MAX => Ok(len),
        Ok(_) | Err(_) => Err(DeviceError::TooLarge {
            block_size: geometry.block_size_u32(),
            block_count: geometry.block_count(),
            len_max: MemDisk::LEN_MAX,
        }),
    }
}

fn reserve(len: usize) -> Result<Vec<u8>, DeviceError> {
    let mut bytes = Vec::new();
    match bytes.try_reserve_exact(len) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(DeviceError::NoMemory { len: u64::try_from(len).unwrap_or(u64::MAX) }),
    }
}

/// One value behind many handles: with threads where there are threads, without where there are none.
#[cfg(feature = "std")]
mod shared {
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Debug)]
    pub(super) struct Shared<T>(Arc<Mutex<T>>);

    impl<T> Shared<T> {
        pub(super) fn new(value: T) -> Self {
            Self(Arc::new(Mutex::new(value)))
        }

        /// A panic elsewhere cannot leave bytes half copied in a way that the contract does not allow.
        pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
            work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl<T> Clone for Shared<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }
}

#[cfg(not(feature = "std"))]
mod shared {
    use alloc::rc::Rc;
    use core::cell::RefCell;

    #[derive(Debug)]
    pub(super) struct Shared<T>(Rc<RefCell<T>>);

    impl<T> Shared<T> {
        pub(super) fn new(value: T) -> Self {
            Self(Rc::new(RefCell::new(value)))
        }

        /// `work` is always one of the closures above, none of which comes back here: no double borrow.
        pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
            work(&mut self.0.borrow_mut())
        }
    }

    impl<T> Clone for Shared<T> {
        fn clone(&self) -> Self {
            Self(Rc::clone(&self.0))
        }
    }
}
