//! Directories that the next run cleans up if this one is killed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::Missing;
use crate::mounts::{mounted_below, unmount};

/// An empty directory of its own, mode 0755, removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Locked for as long as this process lives: whoever can lock it may clean up.
    _owner: File,
}

impl Scratch {
    /// Creates one below the system's directory for temporary files.
    ///
    /// # Errors
    /// [`Missing`] if that directory cannot be used.
    pub fn new() -> Result<Self, Missing> {
        Self::create().map_err(|e| Missing::new(format!("no directory for temporary files: {e}")))
    }

    fn create() -> io::Result<Self> {
        static REAPED: Once = Once::new();
        let base = base()?;
        // Under this lock no directory is without its owner's lock, so a cleaner never takes a fresh one.
        let gate = lock_file(&base.join("gate"))?;
        gate.lock()?;
        let mut reaped = Ok(());
        REAPED.call_once(|| reaped = reap(&base));
        reaped?;
        let mut number = 0_u32;
        loop {
            let path = base.join(format!("run-{}-{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o755).create(&path) {
                Ok(()) => {
                    let owner = lock_file(&path.join("owner"))?;
                    owner.lock()?;
                    std::fs::create_dir(path.join("dir"))?;
                    return Ok(Self { path, _owner: owner });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// The empty directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.join("dir")
    }

    /// A path beside it, for an image.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is the next run's work: the lock is free as soon as this is dropped.
        drop(remove(&self.path));
    }
}

/// `<temporary files>/steadfast-testbed-<uid>`, ours alone to write to.
pub(crate) fn base() -> io::Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let base = std::env::temp_dir().join(format!("steadfast-testbed-{uid}"));
    match std::fs::DirBuilder::new().mode(0o755).create(&base) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = std::fs::symlink_metadata(&base)?;
    if !found.is_dir() || found.uid() != uid {
        return Err(io::Error::other(format!("`{}` belongs to somebody else", base.display())));
    }
    Ok(base)
}

/// Opens a file for nothing but its lock.
pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Removes what dead processes left.
fn reap(base: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(base)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        match lock_file(&path.join("owner"))?.try_lock() {
            Ok(()) => remove(&path)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(())
}

/// Unmounts everything below `path`, the latest first, then removes it; never anything inside a mount.
fn remove(path: &Path) -> io::Result<()> {
    for mount_point in mounted_below(path)?.iter().rev() {
        unmount(mount_point)?;
    }
    if !mounted_below(path)?.is_empty() {
        return Err(io::Error::other("still mounted"));
    }
    std::fs::remove_dir_all(path)
}
