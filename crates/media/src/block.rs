//! The block seam: [`BlockDevice`] reads and writes whole blocks and makes them durable.

use core::fmt;

#[cfg(feature = "std")]
use crate::Reason;
#[cfg(feature = "std")]
use std::{io, sync::Arc};

#[cfg(feature = "std")]
mod file;
mod mem;

#[cfg(feature = "std")]
pub use file::{
    BlockSize, CreateStep, DiskMode, FileDisk, FileDiskError, Holder, Leftover, Probe, ProbeError, ReadAt,
};
pub use mem::MemDisk;

/// A medium of numbered blocks of one size.
///
/// # The power-loss contract
///
/// A completed [`write`](Self::write) is **visible**: later reads of this device see it. It is **durable** only
/// once a [`flush`](Self::flush) that was *submitted after the write had completed* has returned `Ok`. If the
/// power fails, the medium holds
///
/// - every write that such a flush covers, in full, where no later write touched it;
/// - of all other writes any subset, in any order, decided sector by sector: each sector is old or new, in any
///   of the versions written since the last flush; and where [`Geometry::torn_blocks`] says so, an
///   interrupted block may read back as anything, the sectors in it that were durable before included;
/// - in every other block, what it held before.
///
/// So a block that holds something durable and needed is not rewritten in place. Two writes without a flush
/// between them have no order, and a write that was in flight when a flush was submitted is not covered by it,
/// even if the write returned first.
///
/// After a flush that **failed**, nothing is known about what it should have covered, and a second flush that
/// succeeds proves nothing: the cache may have dropped the bytes and forgotten them. Stop writing, re-open,
/// and let recovery look at what is there.
///
/// A device that reports a flush it did not do lies; no contract helps against that, and we say so.
///
/// # Sharing
///
/// Methods take `&self`, so one thread may write while another waits for a flush. Whether a device may be
/// shared between threads is said by its own `Send` and `Sync`. Two writes that overlap at the same time leave
/// each sector in one of the two versions: devices do not order what their callers did not.
pub trait BlockDevice {
    /// The shape of the device and what it can do. The same answer every time.
    fn geometry(&self) -> Geometry;

    /// Fills `into` with the blocks from `at` on. What it sees is what was written, durable or not.
    ///
    /// An empty buffer reads nothing. Reading changes nothing on the medium.
    ///
    /// # Errors
    /// [`DeviceErrorKind::Invalid`]: `into` is not a whole number of blocks, or reaches past the end; the
    /// buffer is untouched. [`DeviceErrorKind::Io`]: the medium does not give the bytes back; the buffer may be
    /// partly filled. A failed read does not say what the blocks hold, and never means "end" or "empty".
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError>;

    /// Replaces the blocks from `at` on by `from`. On return they are visible to later reads.
    ///
    /// An empty buffer writes nothing.
    ///
    /// # Durability
    /// None. A write becomes durable by a [`flush`](Self::flush) submitted after this call has returned. If
    /// power fails during this call, or after it and before such a flush has returned, each sector of these
    /// blocks may read back as its old bytes or its new bytes, and each *block* (when
    /// [`Geometry::torn_blocks`]) as anything at all, independently of the others. Blocks outside the request
    /// are untouched.
    ///
    /// # Errors
    /// [`DeviceErrorKind::Invalid`]: `from` is not a whole number of blocks, or reaches past the end; nothing
    /// was written. [`DeviceErrorKind::Poisoned`]: an earlier barrier failed; nothing was written. All others:
    /// these blocks, and no others, are in one of the states that a power cut may leave.
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError>;

    /// Makes every write that completed before this call durable, and returns when it is.
    ///
    /// # Durability
    /// `Ok`: all of them survive power loss. Writes that were in flight, or came later, are not covered.
    ///
    /// # Errors
    /// Any error: **nothing is known** about the writes this flush should have covered, and no later flush can
    /// tell. Stop writing; re-open. [`DeviceErrorKind::Unsupported`]: the device has no flush; it must not
    /// answer `Ok` in its place.
    fn flush(&self) -> Result<(), DeviceError>;

    /// Writes `from` at `at` and returns when **these blocks** are durable (FUA, `RWF_DSYNC`).
    ///
    /// # Durability
    /// `Ok`: this write survives power loss. It **covers this one write only**: earlier plain writes, to
    /// neighbouring blocks too, are as volatile as before, and may even land later. It is a durable write, not
    /// a barrier. If power fails during the call: as for [`write`](Self::write).
    ///
    /// # Errors
    /// [`DeviceErrorKind::Unsupported`], and nothing written, where [`Geometry::write_durable`] is false;
    /// otherwise as [`write`](Self::write), and the blocks' durability is unknown. After it, as after a failed flush, a
    /// flush that succeeds proves nothing about what was written before: stop writing, re-open. The exception is
    /// [`DeviceErrorKind::NoSpace`] while no earlier write is outstanding: there is nothing else it could be about, so
    /// a device need not refuse later writes, and what was durable before stays so.
    fn write_durable(&self, _at: BlockIndex, _from: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported { operation: DeviceOp::WriteDurable })
    }

    /// A hint: what is read from now on should come from the medium, where the device can do that, and not from a cache
    /// that may know better than it. Only what a [`flush`](Self::flush) has made durable can be forgotten, so flush first.
    fn forget_cached(&self) {}

    /// Announces a named point (`after_prepare`). Does nothing on a real medium; recorders, simulators and
    /// failpoints listen.
    fn mark(&self, _point: &'static str) {}
}

/// A device behind a pointer. One macro, so that no pointer can forget a method that has a default.
macro_rules! forward {
    ($(#[$what:meta])* $pointer:ty) => {
        $(#[$what])*
        impl<D: BlockDevice + ?Sized> BlockDevice for $pointer {
            fn geometry(&self) -> Geometry {
                (**self).geometry()
            }
            fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
                (**self).read(at, into)
            }
            fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
                (**self).write(at, from)
            }
            fn flush(&self) -> Result<(), DeviceError> {
                (**self).flush()
            }
            fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
                (**self).write_durable(at, from)
            }
            fn forget_cached(&self) {
                (**self).forget_cached();
            }
            fn mark(&self, point: &'static str) {
                (**self).mark(point);
            }
        }
    };
}

forward! {
    /// Lends a device: an engine that owns its device can be handed `&device`.
    &D
}

#[cfg(feature = "std")]
forward! {
    /// Shares a device between threads: one writes while another waits for a flush.
    Arc<D>
}

/// The number of a block, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockIndex(u64);

impl BlockIndex {
    /// The first block.
    pub const ZERO: Self = Self(0);

    /// The block with this number.
    #[must_use]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The block `count` blocks further on, or `None` past the greatest number.
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The shape of a device: how large its blocks are, how many it has, and what it does with them.
///
/// Invariants, checked by [`Geometry::new`]:
/// - the block size is a power of two from [`Geometry::BLOCK_SIZE_MIN`] to [`Geometry::BLOCK_SIZE_MAX`];
/// - there is at least one block;
/// - the size in bytes fits into a `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// The block size as a power of two, so that no conversion between integer types can fail.
    block_shift: u32,
    block_count: u64,
    torn_blocks: bool,
    write_durable: bool,
}

impl Geometry {
    /// The smallest block size: one sector of the oldest disks still in use.
    pub const BLOCK_SIZE_MIN: u32 = 512;
    /// The greatest block size.
    pub const BLOCK_SIZE_MAX: u32 = 65_536;

    /// A device of `block_count` blocks of `block_size` bytes, whose interrupted sectors are old or new but
    /// never garbage, and which has no durable write.
    ///
    /// # Errors
    /// [`DeviceErrorKind::Invalid`] if a bound of the type is not met.
    pub const fn new(block_size: u32, block_count: u64) -> Result<Self, DeviceError> {
        if !block_size.is_power_of_two()
            || block_size < Self::BLOCK_SIZE_MIN
            || block_size > Self::BLOCK_SIZE_MAX
        {
            return Err(DeviceError::InvalidBlockSize { block_size });
        }
        if block_count == 0 {
            return Err(DeviceError::NoBlocks);
        }
        let block_shift = block_size.trailing_zeros();
        if block_count > u64::MAX >> block_shift {
            return Err(DeviceError::TooLarge { block_size, block_count, len_max: u64::MAX });
        }
        Ok(Self { block_shift, block_count, torn_blocks: false, write_durable: false })
    }

    /// The same, where an interrupted block may read back as garbage.
    #[must_use]
    pub const fn with_torn_blocks(self) -> Self {
        Self { torn_blocks: true, ..self }
    }

    /// The same, with [`BlockDevice::write_durable`].
    #[must_use]
    pub const fn with_write_durable(self) -> Self {
        Self { write_durable: true, ..self }
    }

    /// The size of a block in bytes.
    #[must_use]
    pub const fn block_size(&self) -> usize {
        1 << self.block_shift
    }

    /// How many blocks there are.
    #[must_use]
    pub const fn block_count(&self) -> u64 {
        self.block_count
    }

    /// The size of the device in bytes.
    #[must_use]
    pub const fn byte_len(&self) -> u64 {
        self.block_count << self.block_shift
    }

    /// Whether a block whose write was interrupted may read back as anything. Otherwise each of its sectors
    /// is old or new.
    #[must_use]
    pub const fn torn_blocks(&self) -> bool {
        self.torn_blocks
    }

    /// Whether [`BlockDevice::write_durable`] is offered.
    #[must_use]
    pub const fn write_durable(&self) -> bool {
        self.write_durable
    }

    /// The byte offset at which a request for `len` bytes from block `at` on begins, if the device has all of
    /// it. Every device checks its requests with this function, and so before it changes anything.
    ///
    /// # Errors
    /// [`DeviceError::Misaligned`], [`DeviceError::OutOfRange`]. An empty request is in range up to and
    /// including the block after the last.
    pub fn locate(&self, at: BlockIndex, len: usize) -> Result<u64, DeviceError> {
        let block_size = self.block_size();
        if !len.is_multiple_of(block_size) {
            return Err(DeviceError::Misaligned { len, block_size });
        }
        let out_of_range = DeviceError::OutOfRange { at, len, block_count: self.block_count };
        let Ok(count) = u64::try_from(len >> self.block_shift) else { return Err(out_of_range) };
        match at.checked_add(count) {
            Some(end) if end.get() <= self.block_count => Ok(at.get() << self.block_shift),
            Some(_) | None => Err(out_of_range),
        }
    }

    const fn block_size_u32(&self) -> u32 {
        1 << self.block_shift
    }
}

/// The calls of the seam that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceOp {
    /// [`BlockDevice::read`].
    Read,
    /// [`BlockDevice::write`].
    Write,
    /// [`BlockDevice::write_durable`].
    WriteDurable,
    /// [`BlockDevice::flush`].
    Flush,
}

impl fmt::Display for DeviceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteDurable => "durable write",
            Self::Flush => "flush",
        })
    }
}

/// What went wrong at the block seam. [`DeviceError::kind`] says what to do about it.
///
/// Errors can be cloned, because one failed flush has to be told to everybody who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// The request reaches past the last block. Nothing was changed.
    #[error("request out of range: at={at} len={len} block_count={block_count}")]
    OutOfRange {
        /// The first block asked for.
        at: BlockIndex,
        /// How many bytes were asked for.
        len: usize,
        /// How many blocks there are.
        block_count: u64,
    },
    /// The buffer is not a whole number of blocks. Nothing was changed.
    #[error("request is not a whole number of blocks: len={len} block_size={block_size}")]
    Misaligned {
        /// The length of the buffer.
        len: usize,
        /// The size of a block.
        block_size: usize,
    },
    /// No device has such blocks.
    #[error("invalid block size {block_size}: a power of two from 512 to 65536 is needed")]
    InvalidBlockSize {
        /// The size asked for.
        block_size: u32,
    },
    /// A device needs at least one block.
    #[error("a device needs at least one block")]
    NoBlocks,
    /// The device would be larger than its kind can be.
    #[error("device too large: block_size={block_size} block_count={block_count} len_max={len_max}")]
    TooLarge {
        /// The size of a block.
        block_size: u32,
        /// How many blocks were asked for.
        block_count: u64,
        /// The greatest size in bytes.
        len_max: u64,
    },
    /// An image has another length than the geometry it is to be used with.
    #[error("the image has another length than the device: len={len} expected={expected}")]
    WrongImageLength {
        /// The length of the image.
        len: usize,
        /// The length of the device.
        expected: u64,
    },
    /// Memory for the device, or for a copy of it, could not be had.
    #[error("no memory for {len} bytes")]
    NoMemory {
        /// How much was asked for.
        len: u64,
    },
    /// The device does not offer the operation. Nothing was changed.
    #[error("the device does not offer a {operation}")]
    Unsupported {
        /// Which.
        operation: DeviceOp,
    },
    /// The medium refused or failed a read or a write; other blocks are as they were.
    #[error("the {operation} at block {at} failed: len={len}")]
    Io {
        /// Which.
        operation: DeviceOp,
        /// The first block of the request.
        at: BlockIndex,
        /// The length of the request in bytes.
        len: usize,
        /// What the medium said.
        #[source]
        cause: DeviceCause,
    },
    /// The flush failed: nothing is known about the writes it should have covered.
    #[error("the flush failed; which of the writes before it are durable is unknown")]
    FlushFailed {
        /// What the medium said.
        #[source]
        cause: DeviceCause,
    },
    /// The process that opened the device is the parent of this one: the device was inherited over `fork`. Nothing was
    /// changed. Parent and child would overwrite each other's blocks, because neither knows what the other writes; open
    /// the device in this process, once the parent has closed it.
    #[error(
        "no {operation} in process {process}: process {owner} opened the device, and this one inherited it by fork"
    )]
    Inherited {
        /// What was refused.
        operation: DeviceOp,
        /// The process that opened the device.
        owner: u32,
        /// The process that made the call.
        process: u32,
    },
    /// The file under the device has become shorter than the device, so blocks of it are gone, durable ones perhaps among
    /// them. The device takes no writes any more.
    #[error("after a {operation} the file is shorter than the device: len={len} expected={expected}")]
    Shortened {
        /// The call that found out.
        operation: DeviceOp,
        /// Bytes that the file has.
        len: u64,
        /// Bytes that the device has.
        expected: u64,
    },
    /// An earlier flush or durable write failed, and the device takes no writes since. Nothing was changed by this call.
    #[error("the device takes no {operation} since a barrier failed; re-open it")]
    Poisoned {
        /// What was refused.
        operation: DeviceOp,
        /// What the medium said to the barrier that failed **first**.
        #[source]
        cause: DeviceCause,
    },
}

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceErrorKind {
    /// Correct the request: it can never succeed as it is.
    Invalid,
    /// Do it another way, or use another device.
    Unsupported,
    /// Make space, then try again.
    NoSpace,
    /// Free memory or use a smaller device.
    NoMemory,
    /// Get the right: permissions, or a medium that is not read-only.
    Denied,
    /// Choose another name, or use what is there.
    Exists,
    /// Another writer has it: wait until that one ends.
    Held,
    /// The medium failed: check it.
    Io,
    /// Stop writing and re-open: what the last writes came to is unknown.
    Poisoned,
}

impl DeviceError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> DeviceErrorKind {
        match self {
            Self::OutOfRange { .. }
            | Self::Misaligned { .. }
            | Self::InvalidBlockSize { .. }
            | Self::NoBlocks
            | Self::TooLarge { .. }
            | Self::WrongImageLength { .. } => DeviceErrorKind::Invalid,
            Self::NoMemory { .. } => DeviceErrorKind::NoMemory,
            Self::Unsupported { .. } => DeviceErrorKind::Unsupported,
            Self::Io { cause, .. } => cause.kind(),
            // Whatever the reason was, the remedy is the same, and it is not "try again".
            Self::FlushFailed { .. }
            | Self::Poisoned { .. }
            | Self::Inherited { .. }
            | Self::Shortened { .. } => DeviceErrorKind::Poisoned,
        }
    }

    /// What the medium said, where it was asked.
    #[must_use]
    pub fn cause(&self) -> Option<&DeviceCause> {
        match self {
            Self::Io { cause, .. } | Self::FlushFailed { cause } | Self::Poisoned { cause, .. } => {
                Some(cause)
            }
            Self::OutOfRange { .. }
            | Self::Misaligned { .. }
            | Self::InvalidBlockSize { .. }
            | Self::NoBlocks
            | Self::TooLarge { .. }
            | Self::WrongImageLength { .. }
            | Self::NoMemory { .. }
            | Self::Unsupported { .. }
            | Self::Inherited { .. }
            | Self::Shortened { .. } => None,
        }
    }
}

/// What the medium said when it failed: an answer of the operating system, or of a device driver.
#[derive(Debug, Clone)]
pub struct DeviceCause(Answer);

/// Not public: a variant that exists only with `std` would break every exhaustive `match` in `no_std` crates.
#[derive(Debug, Clone)]
enum Answer {
    #[cfg(feature = "std")]
    System(Arc<io::Error>),
    Driver {
        what: &'static str,
        code: u32,
    },
}

impl DeviceCause {
    /// The answer of a device: in the words of its driver, with the device's own status code.
    #[must_use]
    pub const fn driver(what: &'static str, code: u32) -> Self {
        Self(Answer::Driver { what, code })
    }

    /// The answer of the operating system, if it was one.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.0 {
            Answer::System(error) => Some(error),
            Answer::Driver { .. } => None,
        }
    }

    /// The classified answer of the operating system; [`Reason::IoError`] for that of a driver.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.io_error().map_or(Reason::IoError, Reason::of)
    }

    #[cfg(feature = "std")]
    fn kind(&self) -> DeviceErrorKind {
        match self.reason() {
            Reason::DiskFull | Reason::QuotaExceeded => DeviceErrorKind::NoSpace,
            Reason::PermissionDenied | Reason::ReadOnly => DeviceErrorKind::Denied,
            Reason::AlreadyExists => DeviceErrorKind::Exists,
            Reason::Unsupported => DeviceErrorKind::Unsupported,
            Reason::NameTooLong => DeviceErrorKind::Invalid,
            Reason::IoError
            | Reason::NotFound
            | Reason::CrossDevice
            | Reason::IsDirectory
            | Reason::NotDirectory
            | Reason::NotEmpty
            | Reason::SymlinkLoop
            | Reason::Busy
            | Reason::TooManyOpenFiles
            | Reason::WouldBlock
            | Reason::Interrupted
            | Reason::InvalidArgument
            | Reason::Other(_)
            | Reason::Unknown => DeviceErrorKind::Io,
        }
    }

    #[cfg(not(feature = "std"))]
    fn kind(&self) -> DeviceErrorKind {
        DeviceErrorKind::Io
    }
}

#[cfg(feature = "std")]
impl From<io::Error> for DeviceCause {
    fn from(error: io::Error) -> Self {
        Self(Answer::System(Arc::new(error)))
    }
}

impl fmt::Display for DeviceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            #[cfg(feature = "std")]
            Answer::System(error) => error.fmt(f),
            Answer::Driver { what, code } => write!(f, "{what} (status {code})"),
        }
    }
}

impl core::error::Error for DeviceCause {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match &self.0 {
            // Displayed above: the next link of the chain is what stands behind it.
            #[cfg(feature = "std")]
            Answer::System(error) => error.source(),
            Answer::Driver { .. } => None,
        }
    }
}
