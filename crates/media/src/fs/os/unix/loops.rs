//! Loop devices, as `/sys` tells of them: which file holds the blocks of one, and which of them is attached to a file.

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, FileType, OFlags};
use rustix::io::retry_on_intr;

use super::OsFile;
use crate::fs::{Access, DiskAlias};

/// See [`File::disk_alias`](crate::File::disk_alias).
pub(super) fn alias(fd: BorrowedFd<'_>) -> io::Result<DiskAlias> {
    let stat = sys::fstat(fd)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => backing(stat.st_rdev).map_or(DiskAlias::None, DiskAlias::Backing),
        FileType::RegularFile => attached(&stat).map_or(DiskAlias::None, DiskAlias::LoopDevice),
        _ => DiskAlias::None,
    })
}

/// The file behind the loop device with this number, or behind the one that the partition with this number is on.
fn backing(number: sys::Dev) -> Option<Arc<dyn crate::File>> {
    let node = PathBuf::from(format!("/sys/dev/block/{}:{}", sys::major(number), sys::minor(number)));
    let path = backing_path(&node).or_else(|| backing_path(&node.join("..")))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // Of a file that was removed `/sys` gives a name that does not exist; of one in another mount namespace, a name that
    // may mean something else here. Only a regular file is believed.
    let fd = opened(&path, flags)?;
    let stat = sys::fstat(&fd).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file {
        return None;
    }
    Some(Arc::new(OsFile::plain(fd, Access::Read)))
}

/// The name of a loop device that is attached to the file with these facts.
fn attached(file: &sys::Stat) -> Option<OsString> {
    let devices = std::fs::read_dir("/sys/block").ok()?;
    devices.filter_map(Result::ok).map(|device| device.file_name()).find(|name| {
        name.as_encoded_bytes().starts_with(b"loop")
            && backing_path(&Path::new("/sys/block").join(name))
                // A path descriptor: the file is not opened, only looked at.
                .and_then(|path| opened(&path, OFlags::PATH | OFlags::CLOEXEC))
                .and_then(|fd| sys::fstat(&fd).ok())
                .is_some_and(|found| (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino))
    })
}

/// The path that a loop device has noted for its file; `None` if it has none, or is not a loop device.
fn backing_path(device: &Path) -> Option<PathBuf> {
    let mut told = std::fs::read(device.join("loop/backing_file")).ok()?;
    if told.last() == Some(&b'\n') {
        told.pop();
    }
    (!told.is_empty()).then(|| PathBuf::from(OsString::from_vec(told)))
}

fn opened(path: &Path, flags: OFlags) -> Option<OwnedFd> {
    retry_on_intr(|| sys::open(path, flags, sys::Mode::empty())).ok()
}
