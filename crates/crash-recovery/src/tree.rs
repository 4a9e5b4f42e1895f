//! [`Tree`]: the directories below a root, and what has a name there.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use durable_io::{Barriers, Dir};
use media::sync::{Arc, Mutex, PoisonError};
use media::{Access, File, FileKind, Metadata, Reason, RenameMode};

use crate::error::{Error, Result, SYNCING_DIR};
use crate::path::TreePath;

/// How many directories are kept open between operations.
const DIRS_OPEN_MAX: usize = 64;

/// How many directories are remembered as durable. Beyond it their names are synced once more.
const SETTLED_MAX: usize = 1024;

/// A tree of directories.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) dir: Dir,
    /// Directories that are durable. Only where nobody else moves them.
    kept: Option<Mutex<BTreeMap<String, Arc<dyn media::Dir>>>>,
    /// What new directories must reach.
    pub(crate) barriers: Barriers,
    /// Directories whose names, and those of all above them, this process knows to be durable. Held while one is made, so that
    /// nobody takes it for durable before it is.
    settled: Mutex<BTreeSet<String>>,
}

/// An open directory of the tree, and its path from the root.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) path: String,
    pub(crate) dir: Arc<dyn media::Dir>,
}

impl Tree {
    pub(crate) fn new(dir: Dir, is_ours_alone: bool) -> Self {
        let kept = is_ours_alone.then(Mutex::default);
        Self { dir, kept, barriers: Barriers::Required, settled: Mutex::default() }
    }

    /// The directory at `path`, empty for the root; `None` if there is none, or only one that a link leads to.
    pub(crate) fn folder(&self, path: &str) -> Result<Option<Folder>> {
        if let Some(folder) = self.kept_folder(path) {
            return Ok(Some(folder));
        }
        let mut at = self.top();
        for part in path.split('/') {
            match at.child(part).map_err(|e| Error::os("opening", path, e))? {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The root itself.
    pub(crate) fn top(&self) -> Folder {
        Folder { path: String::new(), dir: Arc::clone(self.dir.as_media()) }
    }

    /// The same, made where it is missing, and durable: what is committed may be found by its name, and by the names above it.
    pub(crate) fn folder_or_create(&self, path: &str) -> Result<Folder> {
        if let Some(folder) = self.kept_folder(path) {
            return Ok(folder);
        }
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            self.settle(path.get(..end).unwrap_or(path), &mut settled)?;
        }
        let folder = match self.folder(path)? {
            Some(folder) => folder,
            None => {
                self.refuse_links(path)?;
                let (dir, _as_far_as_asked) = self.dir.subdir_or_create(path, self.barriers)?;
                Folder { path: path.to_owned(), dir: Arc::clone(dir.as_media()) }
            }
        };
        drop(settled);
        if let Some(kept) = &self.kept {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= DIRS_OPEN_MAX {
                kept.pop_first();
            }
            kept.insert(path.to_owned(), Arc::clone(&folder.dir));
        }
        Ok(folder)
    }

    /// Where others may have made directories anew since they were settled.
    pub(crate) fn unsettle(&self) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Makes the name of a directory durable, and the directory where it is missing. The one above it is settled.
    ///
    /// That it is there says nothing: whoever made it may have died before he had synced its name.
    fn settle(&self, path: &str, settled: &mut BTreeSet<String>) -> Result<()> {
        if settled.contains(path) {
            return Ok(());
        }
        match self.folder(path)? {
            None => drop(self.dir.subdir_or_create(path, self.barriers)?),
            Some(_) => {
                let above = path.rsplit_once('/').map_or("", |(above, _)| above);
                match self.folder(above)?.map(|above| above.sync()) {
                    Some(Err(error)) if !self.lets_pass(&error) => return Err(error),
                    // Where it has gone meanwhile, it is made again, durably.
                    Some(Ok(()) | Err(_)) | None => {}
                }
            }
        }
        if settled.len() >= SETTLED_MAX {
            settled.clear();
        }
        settled.insert(path.to_owned());
        Ok(())
    }

    /// Whether a barrier that is not offered is no error.
    fn lets_pass(&self, error: &Error) -> bool {
        match (self.barriers, error) {
            (Barriers::AllowVisibleOnly, Error::Os { source, .. }) => {
                Reason::of(source).means_barrier_unsupported()
            }
            _ => false,
        }
    }

    /// Refuses a directory that is none, or that a symbolic link leads to: whoever put it there would have the root write and remove outside of
    /// itself, where no sweep comes, and the same file would have two names. What is kept was looked at before.
    pub(crate) fn refuse_links(&self, dir: &str) -> Result<()> {
        match self.in_the_way(dir)? {
            Some((path, kind @ FileKind::Symlink)) => Err(Error::NotAFile { path, kind }),
            Some((path, _)) => Err(Error::os("opening", path.as_str(), io::ErrorKind::NotADirectory.into())),
            None => Ok(()),
        }
    }

    /// What is no directory and stands where `dir`, or one above it, is to be.
    pub(crate) fn in_the_way(&self, dir: &str) -> Result<Option<(TreePath, FileKind)>> {
        if self.kept_folder(dir).is_some() {
            return Ok(None);
        }
        let mut at = self.top();
        for part in dir.split('/') {
            match at.look(part)? {
                None => return Ok(None),
                Some(found) if found.kind != FileKind::Dir => {
                    return Ok(Some((TreePath::parse_any(&at.path_of(part))?, found.kind)));
                }
                Some(_) => {}
            }
            match at.child(part).map_err(|e| Error::os("looking at", dir, e))? {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The root, or a directory that is kept.
    fn kept_folder(&self, path: &str) -> Option<Folder> {
        let found = |dir: &Arc<dyn media::Dir>| Folder { path: path.to_owned(), dir: Arc::clone(dir) };
        if path.is_empty() {
            return Some(found(self.dir.as_media()));
        }
        let kept = self.kept.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(path).map(found)
    }

    /// What has the name; `None` if nothing has, or its directory is missing.
    pub(crate) fn look(&self, path: &TreePath) -> Result<Option<Metadata>> {
        match self.folder(path.parent())? {
            Some(folder) => folder.look(path.name()),
            None => Ok(None),
        }
    }
}

impl Folder {
    /// The path of a name in it.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    /// A directory that is an entry of this one, and not what a link leads to; `None` if there is none.
    pub(crate) fn child(&self, name: &str) -> io::Result<Option<Self>> {
        let found = match self.dir.metadata(OsStr::new(name)) {
            Ok(found) if found.kind == FileKind::Dir => found,
            Ok(_) => return Ok(None),
            Err(e) if Reason::of(&e) == Reason::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let dir = match self.dir.open_dir(Path::new(name)) {
            // A link, or a file, that has taken the name since.
            Err(e) if matches!(Reason::of(&e), Reason::NotFound | Reason::NotDirectory) => return Ok(None),
            outcome => outcome?,
        };
        let is_it = dir.dir_metadata()?.id == found.id;
        Ok(is_it.then(|| Self { path: self.path_of(name), dir }))
    }

    pub(crate) fn look(&self, name: &str) -> Result<Option<Metadata>> {
        match self.dir.metadata(OsStr::new(name)) {
            Ok(found) => Ok(Some(found)),
            Err(e) if Reason::of(&e) == Reason::NotFound => Ok(None),
            Err(e) => Err(Error::os("looking at", self.path_of(name), e)),
        }
    }

    pub(crate) fn open(&self, name: &str, access: Access) -> Result<Arc<dyn File>> {
        self.dir.open(OsStr::new(name), access).map_err(|e| Error::os("opening", self.path_of(name), e))
    }

    /// Renames within the tree.
    pub(crate) fn rename(&self, name: &str, to: &Self, to_name: &str) -> io::Result<()> {
        self.dir.rename(OsStr::new(name), &*to.dir, OsStr::new(to_name), RenameMode::Replace)
    }

    /// Removes a name that may be gone already.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match self.dir.unlink(OsStr::new(name)) {
            Err(e) if Reason::of(&e) == Reason::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// The directory barrier.
    pub(crate) fn sync(&self) -> Result<()> {
        self.dir.sync().map_err(|e| Error::os(SYNCING_DIR, self.path.as_str(), e))?;
        self.dir.mark("after_dirsync");
        Ok(())
    }
}

/// The number of the file, where the system gives one.
pub(crate) fn inode(found: &Metadata) -> u64 {
    found.id.map_or(0, |id| id.inode)
}

/// Whether it is a regular file.
pub(crate) fn is_file(found: &Metadata) -> bool {
    found.kind == FileKind::File
}

/// Directories whose names have changed, each once.
#[derive(Debug, Default)]
pub(crate) struct Changed(BTreeMap<String, Arc<dyn media::Dir>>);

impl Changed {
    pub(crate) fn add(&mut self, folder: &Folder) {
        self.0.entry(folder.path.clone()).or_insert_with(|| Arc::clone(&folder.dir));
    }

    /// Syncs each directory.
    pub(crate) fn sync(&self) -> Result<()> {
        for (path, dir) in &self.0 {
            Folder { path: path.clone(), dir: Arc::clone(dir) }.sync()?;
        }
        Ok(())
    }
}

/// Asks the system to begin writing what was written, so that the barrier that comes later waits less. Only a hint: nothing
/// depends on it.
pub(crate) fn start_writeback(file: &dyn File, len: usize) {
    if let Err(error) = file.start_writeback(0, u64::try_from(len).unwrap_or(u64::MAX)) {
        tracing::debug!(%error, "writeback hint refused");
    }
}

/// Reads `len` bytes from the start; fewer where the file ends.
pub(crate) fn read_all(file: &dyn File, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|e| io::Error::new(io::ErrorKind::OutOfMemory, e))?;
    bytes.resize(len, 0);
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match file.read_at(u64::try_from(at).map_err(io::Error::other)?, rest) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(e) if Reason::of(&e) == Reason::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}
