//! [`FileDisk`]: a device in a file, through the file seam.
//!
//! Invariants
//! - no flush begins while another runs, and none after one has failed: what the first failure made unknown
//!   can never be declared durable by a later success;
//! - every byte of a created disk was written, not merely reserved.

use core::fmt;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{BlockDevice, BlockIndex, DeviceCause, DeviceError, DeviceErrorKind, DeviceOp, Geometry};
use crate::{Dir, File, FileKind, Mode, Reason};

/// What one call of the zero-writing loop writes; a multiple of every block size.
static ZEROS: [u8; 65_536] = [0; 65_536];

/// A block device in a regular file.
///
/// It sits on [`File`], not on the operating system, so a recorder or a simulator below the file seam sees its
/// calls among all others: one simulated crash covers a journal in a `FileDisk` and the renames around it.
///
/// [`flush`](BlockDevice::flush) is [`File::sync_data`]: once a disk was [created](FileDisk::create), no flush
/// has a size or a block map to bring to the medium, only data. After a flush that failed the disk **latches**:
/// the first cause is kept, every later write and flush is refused with [`DeviceError::Poisoned`], reads go
/// on. The latch is one of this value; re-open the file to look at what survived.
///
/// The file system below decides what an interrupted block looks like, and nobody can ask it, so the geometry
/// always has [`torn_blocks`](Geometry::torn_blocks). There is no durable write.
#[derive(Debug)]
pub struct FileDisk {
    file: Arc<dyn File>,
    geometry: Geometry,
    /// Held while a flush runs. The kernel tells a lost write to *one* caller of fsync per open file: of two
    /// that run at once, the second may hear `Ok` about bytes whose loss was told to the first.
    flushing: Mutex<()>,
    /// Why the first flush that failed did. Not behind `flushing`: writes go on while a flush runs.
    failed_flush: OnceLock<DeviceCause>,
}

impl FileDisk {
    /// Creates the file `name` in `dir`, readable and writable by the owner alone, with the block size and
    /// count of `geometry` and every byte zero. What the disk can do beside that it says itself.
    ///
    /// The zeros are **written**, although reserved space reads as zeros too: file systems keep reserved space
    /// as *unwritten extents*, and the first write to each of them changes the file's block map. A later
    /// `fdatasync` would then have to commit that change as well, which costs a commit of the file system's own
    /// journal for every flush, and can fail for want of space. Written once, the blocks are overwritten in
    /// place, and a flush carries data alone. (A copy-on-write file system allocates at every write; there, it
    /// costs what it costs.)
    ///
    /// # Durability
    /// `Ok`: name, size and zeros are durable. If power fails before, the name may be there or not, with any
    /// length up to the full one.
    ///
    /// # Errors
    /// [`FileDiskError::Create`], with the step that failed and what is left of the file: it is removed again,
    /// and where that fails too, [`Leftover`] says so. A file system that offers no reservation is no error;
    /// one that cannot sync a directory is.
    pub fn create(dir: &dyn Dir, name: &OsStr, geometry: Geometry) -> Result<Self, FileDiskError> {
        let file = dir.create_exclusive(name, Mode::PRIVATE).map_err(|error| FileDiskError::Create {
            step: CreateStep::Name,
            leftover: Leftover::of_refused_name(Reason::of(&error)),
            cause: error.into(),
        })?;
        match fill(dir, &*file, geometry.byte_len()) {
            Ok(()) => Ok(Self::over(file, geometry)),
            Err((step, error)) => {
                let cause = DeviceCause::from(error);
                let leftover = remove_again(dir, name, step, &cause);
                Err(FileDiskError::Create { step, leftover, cause })
            }
        }
    }

    /// Uses a file that is open for reading and writing (or, for a disk that is only read, for reading) as a
    /// disk with blocks of `block_size` bytes, as many as it has.
    ///
    /// Nothing is locked: lock the file first where others may open it. Nothing is flushed: a process may have
    /// died after a failed flush with the cache still holding what the medium does not, so flush before you
    /// trust what you read.
    ///
    /// # Errors
    /// [`FileDiskError::NotRegular`], [`FileDiskError::Length`] (not a whole number of blocks, or none),
    /// [`FileDiskError::BlockSize`], [`FileDiskError::Open`].
    pub fn open(file: Arc<dyn File>, block_size: u32) -> Result<Self, FileDiskError> {
        let metadata = file.metadata().map_err(|error| FileDiskError::Open { cause: error.into() })?;
        if metadata.kind != FileKind::File {
            return Err(FileDiskError::NotRegular { kind: metadata.kind });
        }
        // The smallest disk with such blocks: refuses a bad block size before anything is divided by it.
        if Geometry::new(block_size, 1).is_err() {
            return Err(FileDiskError::BlockSize { block_size });
        }
        let wrong_length = FileDiskError::Length { len: metadata.len, block_size };
        if !metadata.len.is_multiple_of(u64::from(block_size)) {
            return Err(wrong_length);
        }
        let geometry =
            Geometry::new(block_size, metadata.len / u64::from(block_size)).map_err(|_| wrong_length)?;
        Ok(Self::over(file, geometry))
    }

    /// The file underneath: for its lock and its metadata. What is written to it directly goes around the
    /// latch, and a sync of it steals the error that a later flush should have seen.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    fn over(file: Arc<dyn File>, sizes: Geometry) -> Self {
        let geometry = Geometry {
            block_shift: sizes.block_shift,
            block_count: sizes.block_count,
            torn_blocks: true,
            write_durable: false,
        };
        Self { file, geometry, flushing: Mutex::new(()), failed_flush: OnceLock::new() }
    }

    fn refuse_if_poisoned(&self, operation: DeviceOp) -> Result<(), DeviceError> {
        match self.failed_flush.get() {
            Some(cause) => Err(DeviceError::Poisoned { operation, cause: cause.clone() }),
            None => Ok(()),
        }
    }
}

impl BlockDevice for FileDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        let offset = self.geometry.locate(at, into.len())?;
        let len = into.len();
        read_all(&*self.file, offset, into).map_err(|error| DeviceError::Io {
            operation: DeviceOp::Read,
            at,
            len,
            cause: error.into(),
        })
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        let offset = self.geometry.locate(at, from.len())?;
        self.refuse_if_poisoned(DeviceOp::Write)?;
        // A flush that fails from here on does not make this write wrong: no flush that covers it has begun.
        write_all(&*self.file, offset, from).map_err(|error| DeviceError::Io {
            operation: DeviceOp::Write,
            at,
            len: from.len(),
            cause: error.into(),
        })
    }

    fn flush(&self) -> Result<(), DeviceError> {
        // The lock guards no value; one that a panic left behind is as good as new.
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_if_poisoned(DeviceOp::Flush)?;
        self.file.sync_data().map_err(|error| {
            let cause = self.failed_flush.get_or_init(|| error.into());
            DeviceError::FlushFailed { cause: cause.clone() }
        })
    }

    /// Passed on to the file, for who listens there.
    fn mark(&self, point: &'static str) {
        self.file.mark(point);
    }
}

/// The steps of a creation after the name was taken.
fn fill(dir: &dyn Dir, file: &dyn File, len: u64) -> Result<(), (CreateStep, io::Error)> {
    match file.allocate(len) {
        Ok(()) => {}
        // Only an early "disk full" is lost with it: writing the zeros finds out as well.
        Err(error) if Reason::of(&error) == Reason::Unsupported => {}
        Err(error) => return Err((CreateStep::Reserve, error)),
    }
    write_zeros(file, len).map_err(|error| (CreateStep::Zero, error))?;
    // Size and block map as well as the data: the last time that this file needs it.
    file.sync_all().map_err(|error| (CreateStep::SyncFile, error))?;
    // A synced file may still lose its name.
    dir.sync().map_err(|error| (CreateStep::SyncDir, error))
}

fn write_zeros(file: &dyn File, len: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < len {
        let rest = usize::try_from(len - offset).unwrap_or(usize::MAX);
        let chunk = ZEROS.get(..rest).unwrap_or(&ZEROS);
        write_all(file, offset, chunk)?;
        offset = advanced(offset, chunk.len())?;
    }
    Ok(())
}

/// Takes the name of a half-made disk away again, durably if that is still possible.
fn remove_again(dir: &dyn Dir, name: &OsStr, failed: CreateStep, cause: &DeviceCause) -> Leftover {
    if let Err(error) = dir.unlink(name) {
        return Leftover::Left { cleanup: error.into() };
    }
    // A directory barrier that failed once has nothing left to say.
    if failed == CreateStep::SyncDir {
        return Leftover::RemovedNotDurable { cleanup: cause.clone() };
    }
    match dir.sync() {
        Ok(()) => Leftover::Removed,
        Err(error) => Leftover::RemovedNotDurable { cleanup: error.into() },
    }
}

/// Reads until `into` is full; a file may give fewer bytes than asked for. Ends because every round gets on.
fn read_all(file: &dyn File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let count = file.read_at(offset, into)?;
        into = match into.get_mut(count..) {
            Some(rest) if count > 0 => rest,
            Some(_) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
            }
            None => return Err(io::Error::other("the file gave more bytes than asked for")),
        };
        offset = advanced(offset, count)?;
    }
    Ok(())
}

/// Writes until `from` is used up; a file may take fewer bytes than given. Ends because every round gets on.
fn write_all(file: &dyn File, mut offset: u64, mut from: &[u8]) -> io::Result<()> {
    while !from.is_empty() {
        let count = file.write_at(offset, from)?;
        from = match from.get(count..) {
            Some(rest) if count > 0 => rest,
            Some(_) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the file takes no more bytes")),
            None => return Err(io::Error::other("the file took more bytes than given")),
        };
        offset = advanced(offset, count)?;
    }
    Ok(())
}

fn advanced(offset: u64, count: usize) -> io::Result<u64> {
    u64::try_from(count)
        .ok()
        .and_then(|count| offset.checked_add(count))
        .ok_or_else(|| io::Error::other("a file offset is out of range"))
}

/// Why there is no [`FileDisk`]. (Its own type, so that [`DeviceError`] is the same with and without `std`.)
#[derive(Debug, thiserror::Error)]
pub enum FileDiskError {
    /// The disk could not be created.
    #[error("cannot create the disk file: {step} failed; {leftover}")]
    Create {
        /// What failed.
        step: CreateStep,
        /// What is left of the file.
        leftover: Leftover,
        /// Why it failed.
        #[source]
        cause: DeviceCause,
    },
    /// The file cannot be examined.
    #[error("cannot examine the disk file")]
    Open {
        /// Why.
        #[source]
        cause: DeviceCause,
    },
    /// Only regular files are used: others have no length of their own, or are not ours to overwrite.
    #[error("not a regular file: {kind:?}")]
    NotRegular {
        /// What it is.
        kind: FileKind,
    },
    /// The file is not a whole number of blocks, or empty.
    #[error("the file is not a whole number of blocks, at least one: len={len} block_size={block_size}")]
    Length {
        /// The length of the file.
        len: u64,
        /// The block size asked for.
        block_size: u32,
    },
    /// No device has such blocks.
    #[error("invalid block size {block_size}: a power of two from 512 to 65536 is needed")]
    BlockSize {
        /// The size asked for.
        block_size: u32,
    },
}

impl FileDiskError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> DeviceErrorKind {
        match self {
            Self::Create { cause, .. } | Self::Open { cause } => cause.kind(),
            Self::NotRegular { .. } | Self::Length { .. } | Self::BlockSize { .. } => {
                DeviceErrorKind::Invalid
            }
        }
    }
}

/// The steps of [`FileDisk::create`], in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CreateStep {
    /// [`Dir::create_exclusive`].
    Name,
    /// [`File::allocate`].
    Reserve,
    /// Writing the zeros.
    Zero,
    /// [`File::sync_all`].
    SyncFile,
    /// [`Dir::sync`].
    SyncDir,
}

impl fmt::Display for CreateStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "taking the name",
            Self::Reserve => "reserving the space",
            Self::Zero => "writing the zeros",
            Self::SyncFile => "syncing the file",
            Self::SyncDir => "syncing the directory",
        })
    }
}

/// What a failed [`FileDisk::create`] leaves behind.
#[derive(Debug, Clone)]
pub enum Leftover {
    /// Nothing: no file was created. Another's file may have the name.
    Unchanged,
    /// The call that takes the name failed in a way (`EIO`, `EINTR`) that does not say whether it did. Nothing
    /// was removed: it could be another's.
    Unknown,
    /// The file was removed again, durably.
    Removed,
    /// The file was removed again, but the directory could not be synced: a power cut may bring it back, with
    /// any length up to the full one.
    RemovedNotDurable {
        /// Why the directory could not be synced.
        cleanup: DeviceCause,
    },
    /// The unfinished file is still there: remove it.
    Left {
        /// Why it could not be removed.
        cleanup: DeviceCause,
    },
}

impl Leftover {
    fn of_refused_name(reason: Reason) -> Self {
        match reason {
            Reason::IoError | Reason::Interrupted | Reason::Other(_) | Reason::Unknown => Self::Unknown,
            _ => Self::Unchanged,
        }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("no file was created"),
            Self::Unknown => f.write_str("whether the file was created is unknown"),
            Self::Removed => f.write_str("the file was removed again"),
            Self::RemovedNotDurable { cleanup } => {
                write!(f, "the file was removed again, but a power cut may bring it back ({cleanup})")
            }
            Self::Left { cleanup } => {
                write!(f, "the unfinished file is still there, removing it failed too ({cleanup})")
            }
        }
    }
}
