//! [`FileDisk::open_locked`]: a disk for its one writer. Everything that could let a second one in is refused before the
//! first byte is read.
//!
//! | the disk is | a second writer is kept out by |
//! |---|---|
//! | a regular file | its lock; and it is refused if a loop device is attached to it |
//! | a block device | the claim of [`Dir::open_disk`]; its lock besides, which shows readers that a writer is there |
//! | a loop device | the same, and the lock of the file behind it |

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use std::ffi::{OsStr, OsString};

use super::{FileDisk, FileDiskError, Trouble};
use crate::{
    Access, BlockDevice as _, BlockIndex, Dir, DiskAlias, File, FileKind, Geometry, LockWait, Reason,
};

/// Reads a part of a disk, at an offset in bytes; no alignment is needed. Reading past the end is
/// [`io::ErrorKind::UnexpectedEof`].
pub type ReadAt<'r> = dyn Fn(u64, &mut [u8]) -> io::Result<()> + 'r;

/// Finds the block size of a disk of a length in bytes by what is written on it; `None` if nothing there tells. Only the
/// engine knows its format, so it brings the probe.
pub type Probe<'p> = dyn Fn(u64, &ReadAt<'_>) -> Result<Option<u32>, ProbeError> + 'p;

/// The block size of a disk that is opened.
#[derive(Clone, Copy)]
pub enum BlockSize<'p> {
    /// Known to the caller.
    Is(u32),
    /// Found by reading, with the lock held.
    Probed(&'p Probe<'p>),
}

impl fmt::Debug for BlockSize<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(block_size) => write!(f, "Is({block_size})"),
            Self::Probed(_) => f.write_str("Probed(..)"),
        }
    }
}

/// Why a [`Probe`] has no answer.
#[derive(Debug)]
pub enum ProbeError {
    /// The disk cannot be read.
    Read(io::Error),
    /// What was read must not be opened: it could be two things.
    Refused(Box<dyn core::error::Error + Send + Sync>),
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// What keeps a writer from a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The lock of the file.
    Lock,
    /// The claim of the block device: another writer's, or that of a mounted file system.
    Claim,
    /// The loop device of this name, which is attached to the file.
    LoopDevice(OsString),
    /// The lock of the file behind the loop device.
    BackingFile,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str("another writer has its lock"),
            Self::Claim => f.write_str("another writer has it, or a file system on it is mounted"),
            Self::LoopDevice(name) => {
                write!(f, "the loop device `{}` is attached to it", Path::new("/dev").join(name).display())
            }
            Self::BackingFile => {
                f.write_str("another writer has the lock of the file behind this loop device")
            }
        }
    }
}

impl BlockSize<'_> {
    /// Returns the block size of the disk in `file`. A probe reads through the handle, so take the lock first where others
    /// may write.
    ///
    /// # Errors
    /// [`FileDiskError::NoBlockSize`], [`FileDiskError::Refused`], and those of [`FileDisk::open`].
    pub fn find(self, file: &Arc<dyn File>) -> Result<u32, FileDiskError> {
        let probe = match self {
            Self::Is(block_size) => return Ok(block_size),
            Self::Probed(probe) => probe,
        };
        // As a disk with the smallest blocks: they divide all others.
        let disk = FileDisk::open(Arc::clone(file), Geometry::BLOCK_SIZE_MIN)?;
        let len = disk.geometry().byte_len();
        match probe(len, &|offset, into| read_bytes(&disk, offset, into)) {
            Ok(Some(block_size)) => Ok(block_size),
            Ok(None) => Err(FileDiskError::NoBlockSize { len }),
            Err(ProbeError::Read(error)) => Err(FileDiskError::Open { cause: error.into() }),
            Err(ProbeError::Refused(why)) => Err(FileDiskError::Refused { why }),
        }
    }
}

/// Reads what need not begin or end with a block.
fn read_bytes(disk: &FileDisk, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    let block_size = u64::from(Geometry::BLOCK_SIZE_MIN);
    let mut block = [0; 512];
    while !into.is_empty() {
        let at = BlockIndex::new(offset / block_size);
        disk.get(at.get() * block_size, &mut block).map_err(|trouble| match trouble {
            Trouble::Memory(_) => io::ErrorKind::OutOfMemory.into(),
            Trouble::File(error) => error,
        })?;
        let skipped = usize::try_from(offset % block_size).map_err(io::Error::other)?;
        let wanted = block.get(skipped..).unwrap_or(&[]);
        let len = wanted.len().min(into.len());
        let (now, later) = into.split_at_mut(len);
        now.copy_from_slice(wanted.get(..len).unwrap_or(&[]));
        into = later;
        offset = super::advanced(offset, len)?;
    }
    Ok(())
}

impl FileDisk {
    /// Opens `name` in `dir` as a disk for its one writer: a regular file, or a block device, of which `name` may be a
    /// symbolic link. The order is fixed: open, lock, and only then read, so that a probe never sees a disk that another
    /// writer changes.
    ///
    /// The lock is held as long as the disk lives. It is advisory, so it keeps out writers that lock too. When the process
    /// that took it drops the disk, it is released at once, even if a child made with `fork` (or one that is between `fork`
    /// and `exec`) still has the file open; a child that drops the disk releases nothing. The claim of a block device has no
    /// such call: it lasts until every process has closed the device.
    ///
    /// - **Regular file.** Its lock, and no loop device may be attached to it.
    /// - **Block device.** The claim of [`Dir::open_disk`], which keeps mounts out as well. Of a loop device the file
    ///   behind it is locked too; if that cannot be reached (it was removed, it is in another mount namespace) or its file
    ///   system has no locks, the claim alone holds.
    ///
    /// Loop devices are found in `/sys` on Linux; elsewhere, and where it is not mounted, they are not.
    ///
    /// # Errors
    /// [`FileDiskError::Held`]: another has it. [`FileDiskError::Link`]: a symbolic link that does not lead to a block
    /// device. [`FileDiskError::NoBlockSize`], [`FileDiskError::Refused`]: what the probe says.
    /// [`FileDiskError::Length`]: the size that was found does not fit the length. Those of [`FileDisk::open`]. After an
    /// error nothing is held, and nothing was written.
    pub fn open_locked(
        dir: &dyn Dir,
        name: &OsStr,
        block_size: BlockSize<'_>,
    ) -> Result<Self, FileDiskError> {
        let file = dir.open_disk(name, Access::ReadWrite).map_err(|error| match Reason::of(&error) {
            Reason::SymlinkLoop => FileDiskError::Link,
            Reason::Busy => FileDiskError::Held { by: Holder::Claim },
            _ => FileDiskError::Open { cause: error.into() },
        })?;
        let hold = Some(Hold::take(&file)?);
        let block_size = block_size.find(&file)?;
        Ok(Self { hold, ..Self::open(file, block_size)? })
    }

    /// Takes the lock that [`FileDisk::open_locked`] takes, of a disk that was [created](FileDisk::create). Does nothing if
    /// the disk has it.
    ///
    /// # Errors
    /// [`FileDiskError::Held`], [`FileDiskError::Open`]: nothing is held.
    pub fn lock(&mut self) -> Result<(), FileDiskError> {
        // Taken once more on the same handle it would be one lock, which the first `Hold` releases when it is dropped.
        if self.hold.is_none() {
            self.hold = Some(Hold::take(&self.file)?);
        }
        Ok(())
    }

    /// The file behind the loop device that this is, with its lock held. `None` for every other disk, and where the file
    /// could not be reached or locked.
    #[must_use]
    pub fn backing_file(&self) -> Option<&Arc<dyn File>> {
        self.hold.as_ref().and_then(|hold| hold.backing.as_ref())
    }
}

/// The locks that keep other writers from a disk.
#[derive(Debug)]
pub(super) struct Hold {
    file: Arc<dyn File>,
    backing: Option<Arc<dyn File>>,
    /// The process that took them.
    owner: u32,
}

impl Hold {
    /// Shuts other writers out, or fails because there is one.
    fn take(file: &Arc<dyn File>) -> Result<Self, FileDiskError> {
        let backing = lock_all(&**file)?;
        Ok(Self { file: Arc::clone(file), backing, owner: std::process::id() })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // In a child the locks are the parent's: to unlock them there would let a second writer in beside it.
        if std::process::id() != self.owner {
            return;
        }
        for file in [Some(&self.file), self.backing.as_ref()].into_iter().flatten() {
            match file.unlock() {
                // What cannot be unlocked is released when the last descriptor is closed.
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// Locks a file, and the file behind it if it is a loop device; that one is returned.
fn lock_all(file: &dyn File) -> Result<Option<Arc<dyn File>>, FileDiskError> {
    let failed = |error: io::Error| FileDiskError::Open { cause: error.into() };
    let held = |by: Holder| FileDiskError::Held { by };
    let kind = file.metadata().map_err(failed)?.kind;
    let locked = file.lock(LockWait::DoNotWait);
    if kind == FileKind::File {
        locked.map_err(|error| match Reason::of(&error) {
            Reason::WouldBlock => held(Holder::Lock),
            _ => failed(error),
        })?;
    }
    // Otherwise the claim keeps others out. Something else may have locked the node for a moment, as a service does that
    // looks at new devices, and that is not a reason to stop.
    let found = match file.disk_alias().map_err(failed) {
        Ok(DiskAlias::None) => return Ok(None),
        // Its lock says that another writer has the blocks; that it cannot be locked says nothing.
        Ok(DiskAlias::Backing(backing)) => match backing.lock(LockWait::DoNotWait) {
            Ok(()) => return Ok(Some(backing)),
            Err(error) if Reason::of(&error) == Reason::WouldBlock => held(Holder::BackingFile),
            Err(_) => return Ok(None),
        },
        Ok(DiskAlias::LoopDevice(name)) => held(Holder::LoopDevice(name)),
        Err(error) => error,
    };
    // The handle may be used on. What cannot be unlocked is unlocked when it is closed.
    match file.unlock() {
        Ok(()) | Err(_) => Err(found),
    }
}
