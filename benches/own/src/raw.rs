//! The baseline: the system calls that promise the same, and nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fdatasync, fsync, open, openat, renameat};

/// An open directory, kept open as a careful program would.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Creates a file of its own.
pub(crate) fn create(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_raw_mode(0o600))?)
}

/// Writes all.
pub(crate) fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::write(file, bytes)?;
        bytes = bytes.get(count..).unwrap_or(&[]);
    }
    Ok(())
}

/// Create, write, sync the file, rename, sync the directory.
pub(crate) fn chain(dir: BorrowedFd<'_>, number: u64, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temp = format!(".raw-{number}.tmp");
    let file = create(dir, &temp)?;
    write_all(file.as_fd(), bytes)?;
    fsync(&file)?;
    renameat(dir, &temp, dir, name)?;
    fsync(dir)?;
    Ok(())
}

/// A log, opened for appending.
pub(crate) fn open_log(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::from_raw_mode(0o600))?)
}

/// Append and make durable.
pub(crate) fn append(log: BorrowedFd<'_>, line: &[u8]) -> io::Result<()> {
    write_all(log, line)?;
    Ok(fdatasync(log)?)
}
