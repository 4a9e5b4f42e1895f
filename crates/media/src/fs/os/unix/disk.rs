//! Files and block devices as disks, on Linux: `O_DIRECT`, `O_EXCL`, `RWF_DSYNC`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{self as sys, AtFlags, FileType, OFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use super::OsFile;
use crate::fs::{Access, Alignment, DiskFacts, DiskMedium};

/// The types of file systems in memory, as `statfs(2)` numbers them: `tmpfs` and `ramfs`.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58F6];

/// What one trial read asks for: enough for every alignment that is accepted.
const TRIAL_LEN: usize = 4096;

/// How a handle was opened, which decides if it may be a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Like any file.
    None,
    /// As a disk to be read, which needs no claim.
    Reader,
    /// As a disk to be written: `O_EXCL`. Without `O_CREAT` it means nothing for regular files, and of a block device
    /// the kernel gives it to one holder at a time, mounts among them.
    Writer,
}

impl Claim {
    pub(super) fn for_access(access: Access) -> Self {
        match access {
            Access::Read => Self::Reader,
            Access::Write | Access::ReadWrite | Access::Append => Self::Writer,
        }
    }

    pub(super) fn flags(self) -> OFlags {
        match self {
            Self::None | Self::Reader => OFlags::empty(),
            Self::Writer => OFlags::EXCL,
        }
    }
}

/// See [`File::as_disk`](crate::File::as_disk).
pub(super) fn prepare(file: &OsFile, block_size: u32) -> io::Result<DiskFacts> {
    let fd = file.fd.as_fd();
    let stat = sys::fstat(fd)?;
    let (medium, len) = match (FileType::from_raw_mode(stat.st_mode), file.claim) {
        (FileType::RegularFile, _) => (DiskMedium::File, u64::try_from(stat.st_size)),
        // The size of the node is 0; its end is that of the device.
        (FileType::BlockDevice, Claim::Reader | Claim::Writer) => {
            (DiskMedium::BlockDevice, Ok(sys::seek(fd, SeekFrom::End(0))?))
        }
        _ => return Err(Errno::NOTSUP.into()),
    };
    let len = len.map_err(|_| io::Error::other("a field of stat is out of range"))?;
    let wanted = alignment(fd, medium)?.filter(|alignment| block_size.is_multiple_of(alignment.offset));
    let direct = match wanted {
        Some(alignment) if len > 0 => go_direct(fd)?.then_some(alignment),
        _ => None,
    };
    let direct = match direct {
        // An empty device has nothing to try it with, and an empty file is no disk.
        Some(alignment) if trial(fd)? => Some(alignment),
        _ => {
            go_buffered(fd)?;
            None
        }
    };
    // A raw device would be asked for more than it takes: its durable write is sent with FUA, which a device without it
    // gets as a write and a flush, and the kernel flushes once more behind it. Measured on a loop device: 232 µs beside
    // 167 µs for a write and a flush. A file system asks for one of the two.
    let write_durable = direct.is_some() && medium == DiskMedium::File && file.access != Access::Read;
    // Counted in units of 512 bytes, whatever the blocks of the file system are.
    let allocated = match medium {
        DiskMedium::File => u64::try_from(stat.st_blocks).ok().and_then(|units| units.checked_mul(512)),
        DiskMedium::BlockDevice => None,
    };
    Ok(DiskFacts { medium, len, direct, write_durable, allocated })
}

/// What requests past the page cache must be multiples of; `None` where there are none, or not of the usual sizes.
fn alignment(fd: BorrowedFd<'_>, medium: DiskMedium) -> io::Result<Option<Alignment>> {
    // Its cache is its medium. It takes the flag and goes through the cache all the same. (The node of a device is in
    // memory too; its blocks are not.)
    if medium == DiskMedium::File
        && u32::try_from(sys::fstatfs(fd)?.f_type).is_ok_and(|fs_type| IN_MEMORY.contains(&fs_type))
    {
        return Ok(None);
    }
    let usual = Alignment { memory: Alignment::MAX, offset: Alignment::MAX };
    let told = match retry_on_intr(|| sys::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)) {
        Ok(found) if found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            Alignment { memory: found.stx_dio_mem_align, offset: found.stx_dio_offset_align }
        }
        // Kernels before 6.1, and file systems that do not tell, as btrfs: a page is enough for all of them, and the trial
        // shows whether they take it.
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => usual,
        Err(e) => return Err(e.into()),
    };
    // Zero says that there are none.
    let is_usable = |value: u32| value.is_power_of_two() && value <= Alignment::MAX;
    Ok(Some(told).filter(|told| is_usable(told.memory) && is_usable(told.offset)))
}

/// Whether the file system took the flag.
fn go_direct(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = sys::fcntl_getfl(fd)?;
    match sys::fcntl_setfl(fd, flags | OFlags::DIRECT) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn go_buffered(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = sys::fcntl_getfl(fd)?;
    if flags.contains(OFlags::DIRECT) {
        sys::fcntl_setfl(fd, flags.difference(OFlags::DIRECT))?;
    }
    Ok(())
}

/// One read past the page cache, of what is at the beginning, with the flag of the durable write: a read has no use for
/// it, but a kernel that does not know it refuses, and nothing is changed. Where there is no reading (opened to be written
/// alone), or a fault under the first bytes, there is no proof either, and the cache is used.
fn trial(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut memory = [0_u8; 2 * TRIAL_LEN];
    let begin = memory.as_ptr().align_offset(TRIAL_LEN);
    let Some(aligned) = begin.checked_add(TRIAL_LEN).and_then(|end| memory.get_mut(begin..end)) else {
        return Ok(false);
    };
    let outcome = retry_on_intr(|| {
        let mut buffers = [IoSliceMut::new(&mut *aligned)];
        rustix::io::preadv2(fd, &mut buffers, 0, ReadWriteFlags::DSYNC)
    });
    Ok(outcome.is_ok())
}

/// See [`File::write_at_durable`](crate::File::write_at_durable). Not repeated when a signal interrupts it: it is a
/// barrier.
pub(super) fn write_durable(fd: BorrowedFd<'_>, offset: u64, from: &[u8]) -> io::Result<usize> {
    match rustix::io::pwritev2(fd, &[IoSlice::new(from)], offset, ReadWriteFlags::DSYNC) {
        // Before 4.6 there is no such call, and before 4.7 no such flag: either says so before it writes anything.
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => Err(Errno::NOTSUP.into()),
        outcome => Ok(outcome?),
    }
}
