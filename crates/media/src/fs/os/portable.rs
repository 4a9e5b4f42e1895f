//! Windows, on the standard library alone. **Compiled in checks and never run**: read it as a port waiting
//! for a machine, not as a promise.
//!
//! What Windows (through `std`, without `unsafe`) does not give, and what that means here:
//! - No handle of a directory: a directory is its absolute path, so somebody who renames a parent in the
//!   meantime redirects it, and [`Dir::sync`] is unsupported: names are visible, and as durable as NTFS pleases.
//! - Only the read-only bit of [`Mode`], no owners, no [`FileId`](crate::FileId), no count of names.
//! - [`RenameMode::NoReplace`] is unsupported: `std` has no such call, a look first would race, and a hard link
//!   followed by a removal would show both names in between, which [`Dir::rename`] rules out.
//! - [`File::lock`] is mandatory for the locked file: other handles cannot read or write it meanwhile.
//! - A file opened with [`Access::Append`] cannot be cut with [`File::set_len`].

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fs::{
    Access, Dir, Entry, File, FileKind, Fs, LockWait, Metadata, Mode, Owner, RenameMode, Timestamp,
    single_component,
};

/// Opens a symbolic link itself and not what it points to.
const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;

/// What Windows says of a link that cannot be followed.
const ERROR_CANT_RESOLVE_FILENAME: i32 = 1921;

/// The file systems of the running operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFs;

impl OsFs {
    /// The operating system's file systems, ready to be shared.
    #[must_use]
    pub fn shared() -> Arc<dyn Fs> {
        Arc::new(Self)
    }
}

impl Fs for OsFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        open_dir(path)
    }

    /// Windows has no umask: nothing is cleared.
    fn umask(&self) -> io::Result<Mode> {
        Ok(Mode::new(0))
    }
}

fn open_dir(path: &Path) -> io::Result<Arc<dyn Dir>> {
    if !fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    // Absolute, so that a later change of the current directory does not move it.
    Ok(Arc::new(OsDir { path: std::path::absolute(path)? }))
}

/// A directory by its path.
#[derive(Debug)]
struct OsDir {
    path: PathBuf,
}

impl OsDir {
    fn named(&self, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path.join(single_component(name)?))
    }
}

impl Dir for OsDir {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        open_dir(&self.path.join(path))
    }

    fn create_exclusive(&self, name: &OsStr, mode: Mode) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.named(name)?)?;
        let file = OsFile { file };
        if is_read_only(mode) {
            file.set_mode(mode)?;
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        match access {
            Access::Read => options.read(true),
            Access::Write => options.write(true),
            Access::ReadWrite => options.read(true).write(true),
            Access::Append => options.read(true).append(true),
        };
        let file = options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(self.named(name)?)?;
        if file.metadata()?.file_type().is_symlink() {
            return Err(io::Error::from_raw_os_error(ERROR_CANT_RESOLVE_FILENAME));
        }
        Ok(Arc::new(OsFile { file }))
    }

    fn create_dir(&self, name: &OsStr, _mode: Mode) -> io::Result<()> {
        fs::create_dir(self.named(name)?)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that renames")]
    fn rename(&self, from: &OsStr, to_dir: &dyn Dir, to: &OsStr, how: RenameMode) -> io::Result<()> {
        let to_dir: &dyn Any = to_dir;
        let Some(to_dir) = to_dir.downcast_ref::<Self>() else {
            return Err(io::ErrorKind::CrossesDevices.into());
        };
        match how {
            RenameMode::Replace => fs::rename(self.named(from)?, to_dir.named(to)?),
            RenameMode::NoReplace | RenameMode::Exchange => Err(unsupported()),
        }
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        fs::hard_link(self.named(from)?, self.named(to)?)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_file(self.named(name)?)
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        fs::read_link(self.named(name)?)
    }

    fn list(&self, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let kind = Some(file_kind(entry.file_type()?));
            if each(Entry { name: entry.file_name(), kind }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self, name: &OsStr) -> io::Result<Metadata> {
        metadata(&fs::symlink_metadata(self.named(name)?)?)
    }

    fn dir_metadata(&self) -> io::Result<Metadata> {
        metadata(&fs::metadata(&self.path)?)
    }

    /// The read-only attribute of a directory does not protect its entries, so it is no stand-in.
    /// Windows inherits access rights from the directory; the mode tells nothing of them.
    fn has_default_acl(&self) -> io::Result<bool> {
        Err(unsupported())
    }

    fn set_dir_mode(&self, _mode: Mode) -> io::Result<()> {
        Err(unsupported())
    }

    fn sync(&self) -> io::Result<()> {
        Err(unsupported())
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        Err(unsupported())
    }
}

/// An open file handle.
#[derive(Debug)]
struct OsFile {
    file: fs::File,
}

impl File for OsFile {
    fn metadata(&self) -> io::Result<Metadata> {
        metadata(&self.file.metadata()?)
    }

    fn modified(&self) -> io::Result<Timestamp> {
        timestamp(self.file.metadata()?.modified()?)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.seek_read(into, offset)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        // Writing nothing past the end would be a write all the same.
        if from.is_empty() { Ok(0) } else { self.file.seek_write(from, offset) }
    }

    fn append(&self, from: &[u8]) -> io::Result<usize> {
        // Opened for appending, the handle ignores its offset.
        (&self.file).write(from)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(unsupported())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        let mut permissions = self.file.metadata()?.permissions();
        permissions.set_readonly(is_read_only(mode));
        self.file.set_permissions(permissions)
    }

    fn set_owner(&self, _owner: Owner) -> io::Result<()> {
        Err(unsupported())
    }

    fn xattr_names(&self) -> io::Result<Vec<OsString>> {
        Err(unsupported())
    }

    fn xattr(&self, _name: &OsStr) -> io::Result<Vec<u8>> {
        Err(unsupported())
    }

    fn set_xattr(&self, _name: &OsStr, _value: &[u8]) -> io::Result<()> {
        Err(unsupported())
    }

    /// `FlushFileBuffers`, which also empties the drive's cache.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that issues barriers")]
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that issues barriers")]
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn lock(&self, wait: LockWait) -> io::Result<()> {
        match wait {
            LockWait::Forever => self.file.lock(),
            LockWait::DoNotWait => match self.file.try_lock() {
                Ok(()) => Ok(()),
                Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => Err(error),
            },
        }
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

fn unsupported() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

fn is_read_only(mode: Mode) -> bool {
    mode.bits() & 0o200 == 0
}

fn file_kind(kind: fs::FileType) -> FileKind {
    if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_dir() {
        FileKind::Dir
    } else if kind.is_file() {
        FileKind::File
    } else {
        FileKind::Other
    }
}

fn metadata(facts: &fs::Metadata) -> io::Result<Metadata> {
    let mode = match (facts.is_dir(), facts.permissions().readonly()) {
        (true, _) => Mode::DIR,
        (false, true) => Mode::new(0o444),
        (false, false) => Mode::FILE,
    };
    Ok(Metadata {
        kind: file_kind(facts.file_type()),
        id: None,
        mode,
        owner: Owner { uid: 0, gid: 0 },
        links: 1,
        len: facts.len(),
    })
}

fn timestamp(time: SystemTime) -> io::Result<Timestamp> {
    let seconds = |since: Duration| {
        i64::try_from(since.as_secs()).map_err(|_| io::Error::other("a time stamp is out of range"))
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Ok(Timestamp { seconds: seconds(since)?, nanos: since.subsec_nanos() }),
        Err(before) => {
            let before = before.duration();
            let whole = -seconds(before)?;
            Ok(match before.subsec_nanos() {
                0 => Timestamp { seconds: whole, nanos: 0 },
                nanos => Timestamp { seconds: whole - 1, nanos: 1_000_000_000 - nanos },
            })
        }
    }
}
