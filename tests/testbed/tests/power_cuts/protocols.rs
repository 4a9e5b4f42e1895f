//! The protocols, call by call.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;

use media::{Access, Dir, File, Fs, Mode, RenameMode};

/// The file that matters.
pub(crate) const TARGET: &str = "target";
const TEMP: &str = "temp";

/// A way to write a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// What most programs do.
    TempRename,
    /// As before, with the space reserved first.
    AllocateTempRename,
    /// As before, with the length set first.
    SetLenTempRename,
    /// The name is durable, and what it names is not.
    TempRenameDirSync,
    /// A file that is not there yet.
    NewName,
    /// Atomic, and claims too much.
    SyncRename,
    /// What `durable-io` does.
    SyncRenameDirSync,
    /// No temporary file: what was there is gone from the first write on.
    InPlaceSync,
}

/// What is there before, and what is to be there.
pub(crate) struct Payload {
    pub(crate) old: Option<Vec<u8>>,
    pub(crate) new: Vec<u8>,
}

impl Payload {
    /// The old file.
    pub(crate) fn set_up(&self, dir: &Path) {
        if let Some(old) = &self.old {
            let file = std::fs::File::create_new(dir.join(TARGET));
            file.and_then(|mut file| io::Write::write_all(&mut file, old)).unwrap();
        }
    }
}

impl Protocol {
    pub(crate) const ALL: [Self; 8] = [
        Self::TempRename,
        Self::AllocateTempRename,
        Self::SetLenTempRename,
        Self::TempRenameDirSync,
        Self::NewName,
        Self::SyncRename,
        Self::SyncRenameDirSync,
        Self::InPlaceSync,
    ];

    /// A few bytes (which btrfs keeps in its tree), and three pages, the last not full. Other lengths before, except
    /// where bytes are overwritten.
    pub(crate) fn payloads(self) -> [Payload; 2] {
        [(100, 70), (10_000, 5_000)].map(|(new_len, old_len)| Payload {
            old: match self {
                Self::NewName => None,
                Self::InPlaceSync => Some(vec![b'a'; new_len]),
                Self::TempRename
                | Self::AllocateTempRename
                | Self::SetLenTempRename
                | Self::TempRenameDirSync
                | Self::SyncRename
                | Self::SyncRenameDirSync => Some(vec![b'a'; old_len]),
            },
            new: vec![b'b'; new_len],
        })
    }

    /// The new file. `written` is told the name of the file that has just got its bytes. `Ok` is what the program would
    /// take for success.
    pub(crate) fn run(
        self,
        fs: &dyn Fs,
        dir: &Path,
        payload: &Payload,
        written: &mut dyn FnMut(&str),
    ) -> io::Result<()> {
        let dir = fs.open_dir(dir)?;
        let (new, target) = (&payload.new[..], OsStr::new(TARGET));
        let rename = || dir.rename(OsStr::new(TEMP), &*dir, target, RenameMode::Replace);
        match self {
            Self::TempRename => {
                drop(write_new(&*dir, TEMP, new, written)?);
                rename()
            }
            Self::AllocateTempRename => {
                let file = dir.create_exclusive(OsStr::new(TEMP), Mode::FILE)?;
                file.allocate(u64::try_from(new.len()).unwrap())?;
                write_all(&*file, TEMP, new, written)?;
                rename()
            }
            Self::SetLenTempRename => {
                let file = dir.create_exclusive(OsStr::new(TEMP), Mode::FILE)?;
                file.set_len(u64::try_from(new.len()).unwrap())?;
                write_all(&*file, TEMP, new, written)?;
                rename()
            }
            Self::TempRenameDirSync => {
                drop(write_new(&*dir, TEMP, new, written)?);
                rename()?;
                dir.sync()
            }
            Self::NewName => write_new(&*dir, TARGET, new, written).map(drop),
            Self::SyncRename => {
                write_new(&*dir, TEMP, new, written)?.sync_all()?;
                rename()
            }
            Self::SyncRenameDirSync => {
                write_new(&*dir, TEMP, new, written)?.sync_all()?;
                rename()?;
                dir.sync()
            }
            Self::InPlaceSync => {
                let file = dir.open(target, Access::Write)?;
                write_all(&*file, TARGET, new, written)?;
                file.sync_all()
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TempRename => "write temp, rename",
            Self::AllocateTempRename => "allocate, write temp, rename",
            Self::SetLenTempRename => "set length, write temp, rename",
            Self::TempRenameDirSync => "write temp, rename, fsync dir",
            Self::NewName => "write new name, no fsync",
            Self::SyncRename => "write temp, fsync, rename",
            Self::SyncRenameDirSync => "write temp, fsync, rename, fsync dir",
            Self::InPlaceSync => "overwrite in place, fsync",
        })
    }
}

fn write_new(
    dir: &dyn Dir,
    name: &'static str,
    bytes: &[u8],
    written: &mut dyn FnMut(&str),
) -> io::Result<std::sync::Arc<dyn File>> {
    let file = dir.create_exclusive(OsStr::new(name), Mode::FILE)?;
    write_all(&*file, name, bytes, written)?;
    Ok(file)
}

fn write_all(
    file: &dyn File,
    name: &'static str,
    bytes: &[u8],
    written: &mut dyn FnMut(&str),
) -> io::Result<()> {
    assert_eq!(file.write_at(0, bytes)?, bytes.len(), "a short write on an empty file system");
    written(name);
    Ok(())
}
