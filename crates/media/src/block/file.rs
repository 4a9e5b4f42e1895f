//! [`FileDisk`]: a device in a file or on a block device, through the file seam.
//!
//! Invariants
//! - no barrier (a flush or a durable write) begins while another runs, and none after one has failed: what the first
//!   failure made unknown can never be declared durable by a later success;
//! - every byte of a created disk was written, not merely reserved;
//! - past the page cache, every request is aligned as the file asked for.

use core::fmt;
use std::ffi::OsStr;
use std::io;
use std::sync::OnceLock;

use super::{BlockDevice, BlockIndex, DeviceCause, DeviceError, DeviceErrorKind, DeviceOp, Geometry};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::{Alignment, Dir, DiskFacts, DiskMedium, File, FileKind, Mode, Reason};

mod bounce;
mod locked;
mod plain;

use bounce::{Bounce, NoMemory};
use locked::Hold;
pub use locked::{BlockSize, Holder, Probe, ProbeError, ReadAt};
use plain::PlainWrites;

/// What one call of the zero-writing loop writes; a multiple of every block size.
static ZEROS: [u8; 65_536] = [0; 65_536];

/// A block device in a regular file, or on a raw block device of the system.
///
/// It sits on [`File`], not on the operating system, so a recorder or a simulator below the file seam sees its
/// calls among all others: one simulated crash covers a journal in a `FileDisk` and the renames around it.
///
/// Where the file lets it ([`File::as_disk`]), reads and writes go past the page cache, so what is read comes from the
/// medium; [`FileDisk::mode`] says which way was taken. Buffers need no alignment: what is not aligned is copied through
/// buffers that are kept, at most four of 1 MiB each, so a request up to that length is one call of the file.
///
/// [`flush`](BlockDevice::flush) is [`File::sync_data`]: once a disk was [created](FileDisk::create), no flush
/// has a size or a block map to bring to the medium, only data.
///
/// # Durable writes
///
/// [`write_durable`](BlockDevice::write_durable) is [`File::write_at_durable`], offered where requests go past the page
/// cache of a file on Linux. What has been proved when the disk was opened is that the kernel knows the flag (a read with
/// it, which changes nothing); that the file system keeps what it says can be proved by no call, as with a flush.
/// Through the page cache it is not offered, because it would be a write and a sync in one call, and nothing is won; on a
/// raw block device not, because the kernel flushes twice there.
///
/// # The latch
///
/// After a flush or a durable write that failed the disk **latches**: the first cause is kept, every later write and flush
/// is refused with [`DeviceError::Poisoned`], reads go on. A durable write latches as a flush does because it ends with
/// the same sync of the kernel, which tells a lost write to one caller per open file and then forgets it: the error may
/// have been that of an earlier plain write, which the next flush would declare durable. The latch is one of this value;
/// re-open the file to look at what survived.
///
/// A durable write that fails for want of space ([`DeviceErrorKind::NoSpace`]) is the one exception: it does not latch if
/// every plain write was covered by a flush before, because then the error can only be about the write itself. That
/// happens in a file [with holes](FileDisk::has_holes).
///
/// # A file that becomes shorter
///
/// A write past the end of a regular file grows it, so a journal in a file that was cut (`truncate`, a
/// careless copy) could be told `Ok` for frames whose store is gone. After each barrier that succeeded, and before a write
/// of the last block, which would give a cut file its length back, the length is looked at. If it is less than the
/// disk's, the disk latches and answers [`DeviceError::Shortened`]. A file that is cut **and** grown again between two
/// barriers is not noticed.
///
/// # Fork
///
/// A child made with `fork` inherits the open file, its lock and its claim, and a copy of whatever an engine believes
/// about the blocks. So writes and flushes in another process than the one that opened the disk are refused with
/// [`DeviceError::Inherited`], before anything is asked of the file. Reads go on. The check compares process ids, so it
/// does not help if parent and child have the same id in different pid namespaces.
///
/// The file system below decides what an interrupted block looks like, and nobody can ask it, so the geometry
/// always has [`torn_blocks`](Geometry::torn_blocks).
#[derive(Debug)]
pub struct FileDisk {
    file: Arc<dyn File>,
    geometry: Geometry,
    medium: DiskMedium,
    direct: Option<Alignment>,
    bounce: Bounce,
    /// Held while a barrier runs. The kernel tells a lost write to *one* caller of fsync per open file: of two
    /// that run at once, the second may hear `Ok` about bytes whose loss was told to the first.
    barrier: Mutex<()>,
    /// Why the first barrier that failed did. Not behind `barrier`: writes go on while a flush runs. (Of `std`, although
    /// `crate::sync` has none: nobody ever waits for it.)
    failed_barrier: OnceLock<DeviceCause>,
    plain: PlainWrites,
    /// The process that opened it.
    owner: u32,
    allocated: Option<u64>,
    /// See [`FileDisk::open_locked`].
    hold: Option<Hold>,
}

/// Which way a [`FileDisk`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskMode {
    /// What holds the blocks.
    pub medium: DiskMedium,
    /// Whether requests go past the page cache.
    pub is_direct: bool,
}

impl fmt::Display for DiskMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.medium, self.is_direct) {
            (DiskMedium::File, true) => "file, direct",
            (DiskMedium::File, false) => "file, buffered",
            (DiskMedium::BlockDevice, true) => "block device, direct",
            (DiskMedium::BlockDevice, false) => "block device, buffered",
        })
    }
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
        let filled = fill(dir, &*file, geometry.byte_len()).and_then(|()| {
            match look(&*file, geometry.block_size_u32()) {
                Ok(Look::Disk(facts)) => Ok(facts),
                Ok(Look::Other(kind)) => Err((
                    CreateStep::AsDisk,
                    io::Error::other(format!("what was created is no file: {kind:?}")),
                )),
                Err(error) => Err((CreateStep::AsDisk, error)),
            }
        });
        match filled {
            Ok(facts) => Ok(Self::over(file, geometry, facts)),
            Err((step, error)) => {
                let cause = DeviceCause::from(error);
                let leftover = remove_again(dir, name, step, &cause);
                Err(FileDiskError::Create { step, leftover, cause })
            }
        }
    }

    /// Uses a file that is open for reading and writing (or, for a disk that is only read, for reading) as a
    /// disk with blocks of `block_size` bytes, as many as it has. A block device must have been opened with
    /// [`Dir::open_disk`], which claims it.
    ///
    /// One open file is one disk: whether its requests go past the page cache is a property of the handle.
    ///
    /// Nothing is locked: lock the file first where others may open it. Nothing is flushed: a process may have
    /// died after a failed flush with the cache still holding what the medium does not, so flush before you
    /// trust what you read.
    ///
    /// # Errors
    /// [`FileDiskError::NotRegular`], [`FileDiskError::Length`] (not a whole number of blocks, or none),
    /// [`FileDiskError::BlockSize`], [`FileDiskError::Open`].
    pub fn open(file: Arc<dyn File>, block_size: u32) -> Result<Self, FileDiskError> {
        Self::open_with(file, block_size, Rest::Refused)
    }

    /// As [`FileDisk::open`], for reading what is left of an image that was cut short: where its length is not a whole number
    /// of blocks, the rest is not part of the disk.
    ///
    /// # Errors
    /// As [`FileDisk::open`]; [`FileDiskError::Length`] only if there is no whole block.
    pub fn open_cut_short(file: Arc<dyn File>, block_size: u32) -> Result<Self, FileDiskError> {
        Self::open_with(file, block_size, Rest::LeftOut)
    }

    fn open_with(file: Arc<dyn File>, block_size: u32, rest: Rest) -> Result<Self, FileDiskError> {
        // The smallest disk with such blocks: refuses a bad block size before anything is divided by it.
        if Geometry::new(block_size, 1).is_err() {
            return Err(FileDiskError::BlockSize { block_size });
        }
        let facts = look(&*file, block_size).map_err(|error| FileDiskError::Open { cause: error.into() })?;
        let facts = match facts {
            Look::Disk(facts) => facts,
            Look::Other(kind) => return Err(FileDiskError::NotRegular { kind }),
        };
        let wrong_length = FileDiskError::Length { len: facts.len, block_size };
        if rest == Rest::Refused && !facts.len.is_multiple_of(u64::from(block_size)) {
            return Err(wrong_length);
        }
        let geometry =
            Geometry::new(block_size, facts.len / u64::from(block_size)).map_err(|_| wrong_length)?;
        Ok(Self::over(file, geometry, facts))
    }

    /// The file underneath: for its lock and its metadata. What is written to it directly goes around the
    /// latch, and a sync of it steals the error that a later flush should have seen.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Which way it works.
    #[must_use]
    pub fn mode(&self) -> DiskMode {
        DiskMode { medium: self.medium, is_direct: self.direct.is_some() }
    }

    /// Whether the file had **holes** when the disk was opened: ranges for which the file system has allocated nothing.
    /// `None` where it does not say, and on a block device.
    ///
    /// A hole reads as zeros, and a write into it can fail for want of space, however much room the store in the file has
    /// left. [`FileDisk::create`] leaves none. Files made by `truncate` or a copy that keeps holes have them. File
    /// systems that compress may report holes where there are none, and one that is small enough to be hidden by the
    /// file system's own notes about the file is not reported.
    #[must_use]
    pub fn has_holes(&self) -> Option<bool> {
        self.allocated.map(|allocated| allocated < self.geometry.byte_len())
    }

    fn over(file: Arc<dyn File>, sizes: Geometry, facts: DiskFacts) -> Self {
        let geometry = Geometry {
            block_shift: sizes.block_shift,
            block_count: sizes.block_count,
            torn_blocks: true,
            write_durable: facts.write_durable,
        };
        Self {
            file,
            geometry,
            medium: facts.medium,
            direct: facts.direct,
            bounce: Bounce::default(),
            barrier: Mutex::new(()),
            failed_barrier: OnceLock::new(),
            plain: PlainWrites::default(),
            owner: std::process::id(),
            allocated: facts.allocated,
            hold: None,
        }
    }

    /// As it is in a child made with `fork`.
    #[cfg(test)]
    fn with_owner_pid(self, owner: u32) -> Self {
        Self { owner, ..self }
    }

    /// Refuses a process that inherited the disk. Called before any lock is taken: in a child the thread that holds it may
    /// not exist.
    fn refuse_if_inherited(&self, operation: DeviceOp) -> Result<(), DeviceError> {
        let process = std::process::id();
        if process == self.owner {
            return Ok(());
        }
        Err(DeviceError::Inherited { operation, owner: self.owner, process })
    }

    /// Keeps the cause of the first barrier that failed.
    fn latch(&self, cause: DeviceCause) -> &DeviceCause {
        self.failed_barrier.get_or_init(|| cause)
    }

    /// Latches if the file has become shorter than the disk, or does not say how long it is.
    fn check_len(
        &self,
        operation: DeviceOp,
        unknown: impl FnOnce(DeviceCause) -> DeviceError,
    ) -> Result<(), DeviceError> {
        if self.medium != DiskMedium::File {
            return Ok(());
        }
        let expected = self.geometry.byte_len();
        match self.file.metadata() {
            Ok(found) if found.len >= expected => Ok(()),
            Ok(found) => {
                let error = DeviceError::Shortened { operation, len: found.len, expected };
                self.latch(io::Error::other(error.clone()).into());
                Err(error)
            }
            Err(error) => Err(unknown(self.latch(error.into()).clone())),
        }
    }

    /// A write that ends where the disk ends would give a file that was cut its length back, and no later look would notice.
    fn check_len_before(&self, operation: DeviceOp, at: BlockIndex, len: usize) -> Result<(), DeviceError> {
        let blocks = u64::try_from(len / self.geometry.block_size()).ok();
        let end = blocks.and_then(|blocks| at.checked_add(blocks));
        if len == 0 || end.is_some_and(|end| end.get() < self.geometry.block_count()) {
            return Ok(());
        }
        self.check_len(operation, |cause| DeviceError::Io { operation, at, len, cause })
    }

    fn refuse_if_poisoned(&self, operation: DeviceOp) -> Result<(), DeviceError> {
        match self.failed_barrier.get() {
            Some(cause) => Err(DeviceError::Poisoned { operation, cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Waits for the barrier that runs, if one does.
    fn one_barrier_at_a_time(&self) -> MutexGuard<'_, ()> {
        // The lock guards no value; one that a panic left behind is as good as new.
        self.barrier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `bytes` lie where a request past the page cache must not begin.
    fn unaligned(&self, bytes: &[u8]) -> bool {
        let Some(alignment) = self.direct else { return false };
        usize::try_from(alignment.memory).is_ok_and(|align| !bytes.as_ptr().addr().is_multiple_of(align))
    }

    /// What the offset of a request must be a multiple of.
    fn step(&self) -> u64 {
        self.direct.map_or(1, |alignment| u64::from(alignment.offset))
    }

    fn put(&self, write: WriteCall, offset: u64, from: &[u8]) -> Result<(), Trouble> {
        let step = self.step();
        if !self.unaligned(from) {
            return Ok(write_all(&*self.file, write, step, offset, from)?);
        }
        let mut lent = self.bounce.lend(from.len())?;
        let bytes = lent.bytes();
        let mut offset = offset;
        for piece in from.chunks(bytes.len().max(1)) {
            let Some(aligned) = bytes.get_mut(..piece.len()) else { break };
            aligned.copy_from_slice(piece);
            write_all(&*self.file, write, step, offset, aligned)?;
            offset = advanced(offset, piece.len())?;
        }
        Ok(())
    }

    fn get(&self, offset: u64, into: &mut [u8]) -> Result<(), Trouble> {
        let step = self.step();
        if !self.unaligned(into) {
            return Ok(read_all(&*self.file, step, offset, into)?);
        }
        let mut lent = self.bounce.lend(into.len())?;
        let bytes = lent.bytes();
        let mut offset = offset;
        for piece in into.chunks_mut(bytes.len().max(1)) {
            let Some(aligned) = bytes.get_mut(..piece.len()) else { break };
            read_all(&*self.file, step, offset, aligned)?;
            piece.copy_from_slice(aligned);
            offset = advanced(offset, piece.len())?;
        }
        Ok(())
    }
}

/// What becomes of bytes at the end of a file that are no whole block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Refused,
    LeftOut,
}

/// [`File::write_at`] or [`File::write_at_durable`].
type WriteCall = fn(&dyn File, u64, &[u8]) -> io::Result<usize>;

/// Why a request was not carried out.
enum Trouble {
    /// For want of memory: nothing was asked of the file.
    Memory(usize),
    File(io::Error),
}

impl Trouble {
    fn of(self, operation: DeviceOp, at: BlockIndex, len: usize) -> DeviceError {
        match self {
            Self::Memory(len) => DeviceError::NoMemory { len: u64::try_from(len).unwrap_or(u64::MAX) },
            Self::File(error) => DeviceError::Io { operation, at, len, cause: error.into() },
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<NoMemory> for Trouble {
    fn from(NoMemory(len): NoMemory) -> Self {
        Self::Memory(len)
    }
}

impl BlockDevice for FileDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        let offset = self.geometry.locate(at, into.len())?;
        let len = into.len();
        self.get(offset, into).map_err(|trouble| trouble.of(DeviceOp::Read, at, len))
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        let operation = DeviceOp::Write;
        let offset = self.geometry.locate(at, from.len())?;
        self.refuse_if_inherited(operation)?;
        self.refuse_if_poisoned(operation)?;
        self.check_len_before(operation, at, from.len())?;
        // A flush that fails from here on does not make this write wrong: no flush that covers it has begun.
        self.plain.begin();
        let written = self.put(|file, offset, from| file.write_at(offset, from), offset, from);
        self.plain.end();
        written.map_err(|trouble| trouble.of(operation, at, from.len()))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.refuse_if_inherited(DeviceOp::Flush)?;
        let _alone = self.one_barrier_at_a_time();
        self.refuse_if_poisoned(DeviceOp::Flush)?;
        let completed = self.plain.completed();
        let failed = |cause: DeviceCause| DeviceError::FlushFailed { cause };
        self.file.sync_data().map_err(|error| failed(self.latch(error.into()).clone()))?;
        self.check_len(DeviceOp::Flush, failed)?;
        self.plain.cover(completed);
        Ok(())
    }

    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        let operation = DeviceOp::WriteDurable;
        if !self.geometry.write_durable {
            return Err(DeviceError::Unsupported { operation });
        }
        let offset = self.geometry.locate(at, from.len())?;
        self.refuse_if_inherited(operation)?;
        // First this lock and then a buffer: who waits for a barrier keeps no buffer from plain writes.
        let _alone = self.one_barrier_at_a_time();
        self.refuse_if_poisoned(operation)?;
        self.check_len_before(operation, at, from.len())?;
        let written = self.put(|file, offset, from| file.write_at_durable(offset, from), offset, from);
        written.map_err(|trouble| {
            let error = trouble.of(operation, at, from.len());
            let is_about_this_write =
                error.kind() == DeviceErrorKind::NoSpace && self.plain.are_all_covered();
            if let Some(cause) = error.cause().filter(|_| !is_about_this_write) {
                // Under the lock, so this is the first.
                self.latch(cause.clone());
            }
            error
        })?;
        if from.is_empty() {
            return Ok(());
        }
        self.check_len(operation, |cause| DeviceError::Io { operation, at, len: from.len(), cause })
    }

    /// Past the page cache there is nothing to forget. Through it, the system is asked to; it may keep what another
    /// process has mapped.
    fn forget_cached(&self) {
        if self.direct.is_some() {
            return;
        }
        match self.file.forget_cached() {
            // Where it cannot be done, reads see the cache, as they did before.
            Ok(()) | Err(_) => {}
        }
    }

    /// Passed on to the file, for who listens there.
    fn mark(&self, point: &'static str) {
        self.file.mark(point);
    }
}

/// What a file is.
enum Look {
    Disk(DiskFacts),
    Other(FileKind),
}

fn look(file: &dyn File, block_size: u32) -> io::Result<Look> {
    match file.as_disk(block_size) {
        Ok(facts) => return Ok(Look::Disk(facts)),
        // Then it is a file as any other: through whatever cache there is.
        Err(error) if Reason::of(&error) == Reason::Unsupported => {}
        Err(error) => return Err(error),
    }
    let metadata = file.metadata()?;
    Ok(match metadata.kind {
        FileKind::File => Look::Disk(DiskFacts {
            medium: DiskMedium::File,
            len: metadata.len,
            direct: None,
            write_durable: false,
            allocated: None,
        }),
        other => Look::Other(other),
    })
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
        write_all(file, |file, offset, from| file.write_at(offset, from), 1, offset, chunk)?;
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

/// Reads until `into` is full; a file may give fewer bytes than asked for, but past the page cache only whole steps, unless
/// its end is reached. Ends because every round gets on.
fn read_all(file: &dyn File, step: u64, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let count = file.read_at(offset, into)?;
        into = match into.get_mut(count..) {
            Some(rest) if count > 0 && advanced(offset, count)?.is_multiple_of(step) => rest,
            Some(_) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
            }
            None => return Err(io::Error::other("the file gave more bytes than asked for")),
        };
        offset = advanced(offset, count)?;
    }
    Ok(())
}

/// Writes until `from` is used up; a file may take fewer bytes than given, but past the page cache only whole steps. Ends
/// because every round gets on.
fn write_all(
    file: &dyn File,
    write: WriteCall,
    step: u64,
    mut offset: u64,
    mut from: &[u8],
) -> io::Result<()> {
    while !from.is_empty() {
        let count = write(file, offset, from)?;
        from = match from.get(count..) {
            Some(rest) if count > 0 && advanced(offset, count)?.is_multiple_of(step) => rest,
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
    /// The file cannot be opened, locked or examined.
    #[error("cannot open or examine the disk file")]
    Open {
        /// Why.
        #[source]
        cause: DeviceCause,
    },
    /// Only regular files are used, and block devices that were opened as disks: others have no length of their own, or
    /// are not ours to overwrite.
    #[error("neither a regular file nor a block device opened as a disk: {kind:?}")]
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
    /// The name is a symbolic link that does not lead to a block device.
    #[error("a symbolic link, and not one to a block device")]
    Link,
    /// Another writer has the disk.
    #[error("the disk is held: {by}")]
    Held {
        /// What keeps the caller out.
        by: Holder,
    },
    /// The [`Probe`] found nothing that tells the block size.
    #[error("nothing in the file tells its block size: len={len}")]
    NoBlockSize {
        /// The length of the file.
        len: u64,
    },
    /// The [`Probe`] refused what it read.
    #[error("the block size cannot be told")]
    Refused {
        /// The reason that the probe gave.
        #[source]
        why: Box<dyn core::error::Error + Send + Sync>,
    },
}

impl FileDiskError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> DeviceErrorKind {
        match self {
            Self::Create { cause, .. } | Self::Open { cause } => cause.kind(),
            Self::Held { .. } => DeviceErrorKind::Held,
            Self::NotRegular { .. }
            | Self::Length { .. }
            | Self::BlockSize { .. }
            | Self::Link
            | Self::NoBlockSize { .. }
            | Self::Refused { .. } => DeviceErrorKind::Invalid,
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
    /// [`File::as_disk`].
    AsDisk,
}

impl fmt::Display for CreateStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "taking the name",
            Self::Reserve => "reserving the space",
            Self::Zero => "writing the zeros",
            Self::SyncFile => "syncing the file",
            Self::SyncDir => "syncing the directory",
            Self::AsDisk => "making it ready as a disk",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsFs;
    use crate::doubles::Recorder;

    #[test]
    fn store_f7_fork_another_process_writes_nothing_and_reads_on() {
        let root = tempfile::tempdir().unwrap();
        let (recorder, fs) = Recorder::over(OsFs::shared());
        let dir = fs.open_dir(root.path()).unwrap();
        let disk = FileDisk::create(&*dir, OsStr::new("disk"), Geometry::new(512, 8).unwrap()).unwrap();
        disk.write(BlockIndex::ZERO, &[1; 512]).unwrap();
        disk.flush().unwrap();
        let here = std::process::id();
        let mut disk = disk.with_owner_pid(here + 1);
        // So that the durable write is not refused for another reason.
        disk.geometry = disk.geometry.with_write_durable();
        recorder.clear();
        let refused = || {
            for (operation, outcome) in [
                (DeviceOp::Write, disk.write(BlockIndex::ZERO, &[2; 512])),
                (DeviceOp::Flush, disk.flush()),
                (DeviceOp::WriteDurable, disk.write_durable(BlockIndex::ZERO, &[2; 512])),
            ] {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), DeviceErrorKind::Poisoned);
                match error {
                    DeviceError::Inherited { operation: refused, owner, process } => {
                        assert_eq!((refused, owner, process), (operation, here + 1, here));
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        refused();
        // As in a child: a thread that does not exist there was inside a flush. Nothing waits for it.
        let gone = disk.barrier.lock().unwrap();
        refused();
        drop(gone);
        assert_eq!(recorder.total(), 0, "the file was asked for something");
        let mut found = [0; 512];
        disk.read(BlockIndex::ZERO, &mut found).unwrap();
        assert_eq!(found, [1; 512]);
    }
}
