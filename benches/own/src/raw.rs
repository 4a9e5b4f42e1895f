//! The baseline: the system calls that promise the same, and nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fdatasync, fsync, open, openat, renameat};

/// An open directory, kept open as a careful program would.
///
/// # Errors
/// Of the system.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Creates a file of its own.
///
/// # Errors
/// Of the system.
pub fn create(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_raw_mode(0o600))?)
}

/// Writes all.
///
/// # Errors
/// Of the system.
pub fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::write(file, bytes)?;
        bytes = bytes.get(count..).unwrap_or(&[]);
    }
    Ok(())
}

/// Create, write, sync the file, rename, sync the directory.
///
/// # Errors
/// Of the system.
pub fn chain(dir: BorrowedFd<'_>, number: u64, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temp = format!(".raw-{number}.tmp");
    let file = create(dir, &temp)?;
    write_all(file.as_fd(), bytes)?;
    fsync(&file)?;
    renameat(dir, &temp, dir, name)?;
    fsync(dir)?;
    Ok(())
}

/// A log, opened for appending.
///
/// # Errors
/// Of the system.
pub fn open_log(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::from_raw_mode(0o600))?)
}

/// Append and make durable.
///
/// # Errors
/// Of the system.
pub fn append(log: BorrowedFd<'_>, line: &[u8]) -> io::Result<()> {
    write_all(log, line)?;
    Ok(fdatasync(log)?)
}

/// Removes every file, and settles that before the next slice begins.
///
/// # Errors
/// Of the file system.
pub fn empty(path: &Path) -> io::Result<()> {
    empty_of(path, "")
}

/// Removes every file whose name begins so, and settles that before the next slice begins.
///
/// # Errors
/// Of the file system.
pub fn empty_of(path: &Path, prefix: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name().to_string_lossy().starts_with(prefix) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(rustix::fs::syncfs(open_dir(path)?)?)
}

/// Counts here are far below what a float cannot hold.
#[must_use]
pub fn count(of: usize) -> f64 {
    u32::try_from(of).map_or(f64::INFINITY, f64::from)
}
