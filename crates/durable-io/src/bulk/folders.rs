//! The directories of a bulk: each known once, few of them open at a time.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::{FileId, Reason};

use crate::dir::{Dir, Place, make_dir, sync_dir};
use crate::error::{Cause, Error, Result, Stage, TargetState};
use crate::options::{Barriers, Durability, Parents};

/// How many directories below the bulk's own are kept open. One more is open while it is being looked at.
pub(super) const DIRS_OPEN_MAX: usize = 64;

/// How many file systems a bulk keeps a directory open on, to sync them whole; files on further ones are synced
/// one by one.
const FILESYSTEMS_MAX: usize = 16;

/// The index of the directory that the bulk was opened on.
pub(super) const ROOT: usize = 0;

#[derive(Debug)]
struct Folder {
    /// Relative to the root, or absolute where a link led there.
    path: Arc<Path>,
    id: Option<FileId>,
    handle: Option<Arc<dyn media::Dir>>,
    /// The directory that gained this one's name through us: without its barrier nothing in here is durable.
    made_in: Option<usize>,
    /// Whether it gained names that its barrier has to cover.
    gained: bool,
    synced: Option<Result<()>>,
    /// Which of [`Folders::filesystems`] it is on.
    filesystem: Option<usize>,
}

/// All directories that the names of a bulk go through.
#[derive(Debug)]
pub(super) struct Folders {
    root: Dir,
    list: Vec<Folder>,
    by_path: HashMap<Arc<Path>, usize>,
    by_id: HashMap<FileId, usize>,
    /// The open ones, the root excepted, oldest first.
    open: VecDeque<usize>,
    /// The first directory opened on each file system, with its device: `syncfs` reports the failures since
    /// *its* descriptor was opened, so that one must be older than the writes.
    filesystems: Vec<(u64, Arc<dyn media::Dir>)>,
}

impl Folders {
    pub(super) fn new(root: &Dir) -> Self {
        Self {
            root: root.clone(),
            list: Vec::new(),
            by_path: HashMap::new(),
            by_id: HashMap::new(),
            open: VecDeque::new(),
            filesystems: Vec::new(),
        }
    }

    /// Makes the root known, once.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.list.is_empty() {
            let handle = Arc::clone(&self.root.dir);
            self.register(Path::new(""), Some(handle))?;
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn find(&self, path: &Path) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// Whether another directory can be opened without closing one; `Some(pinned)` says that it cannot, and
    /// whether the one to be closed is in use by files of the window.
    pub(super) fn must_close(&self) -> Option<bool> {
        if self.open.len() < DIRS_OPEN_MAX {
            return None;
        }
        let oldest = self.open.front().and_then(|&index| self.list.get(index));
        let handle = oldest.and_then(|folder| folder.handle.as_ref());
        Some(handle.is_some_and(|handle| Arc::strong_count(handle) > 1))
    }

    pub(super) fn close_oldest(&mut self) {
        if let Some(folder) = self.open.pop_front().and_then(|index| self.list.get_mut(index)) {
            folder.handle = None;
        }
    }

    /// Finds the deepest directory of `path` that exists, and what is missing below it, deepest first.
    pub(super) fn deepest<'a>(&mut self, path: &'a Path, parents: Parents) -> Result<(usize, Vec<&'a Path>)> {
        let mut missing = Vec::new();
        let mut at = path;
        loop {
            if let Some(index) = self.find(at) {
                return Ok((index, missing));
            }
            match self.root.dir.open_dir(at) {
                Ok(dir) => return Ok((self.register(at, Some(dir))?, missing)),
                Err(e) if parents == Parents::Create && Reason::of(&e) == Reason::NotFound => {
                    missing.push(at);
                    at = at.parent().unwrap_or(Path::new(""));
                }
                Err(e) => return Err(Error::os(Stage::OpenDir, self.root.path.join(at), e)),
            }
        }
    }

    /// Creates the directory `path` in the folder `parent`, whose handle is `dir`. Its name is not durable before
    /// the barrier of `parent`.
    pub(super) fn make(&mut self, parent: usize, dir: Arc<dyn media::Dir>, path: &Path) -> Result<usize> {
        let place = Place {
            dir,
            name: path.file_name().unwrap_or(OsStr::new("")).to_owned(),
            path: self.root.path.join(path),
            existing: None,
            durability: Durability::Durable,
        };
        let made = make_dir(&place);
        // Also where it failed: the directory may be there all the same, and who finds one takes it for durable.
        self.gained(parent);
        match made {
            // Another process was faster. It may not have synced the name yet, so we do.
            Err(error) if error.reason() == Some(Reason::AlreadyExists) => {}
            outcome => outcome?,
        }
        let index = self.register(path, None)?;
        if let Some(folder) = self.list.get_mut(index) {
            folder.made_in = Some(parent);
        }
        Ok(index)
    }

    /// Makes a directory known that a symbolic link led to.
    pub(super) fn adopt(&mut self, place: &Place) -> Result<usize> {
        let directory = place.path.parent().unwrap_or(Path::new(""));
        let below = directory.strip_prefix(&self.root.path).unwrap_or(directory);
        match self.find(below) {
            Some(index) => Ok(index),
            None => self.register(below, Some(Arc::clone(&place.dir))),
        }
    }

    fn register(&mut self, path: &Path, handle: Option<Arc<dyn media::Dir>>) -> Result<usize> {
        let path: Arc<Path> = Arc::from(path);
        let index = self.list.len();
        let id = match &handle {
            Some(dir) => self.identify(&path, &**dir)?,
            None => None,
        };
        if let Some(&same) = id.as_ref().and_then(|id| self.by_id.get(id)) {
            self.by_path.insert(path, same);
            return Ok(same);
        }
        self.by_path.insert(Arc::clone(&path), index);
        self.list.push(Folder {
            path,
            id: None,
            handle: None,
            made_in: None,
            gained: false,
            synced: None,
            filesystem: None,
        });
        if let Some(dir) = handle {
            self.opened(index, id, dir);
        }
        Ok(index)
    }

    fn identify(&self, path: &Path, dir: &dyn media::Dir) -> Result<Option<FileId>> {
        match dir.dir_metadata() {
            Ok(found) => Ok(found.id),
            Err(e) => Err(Error::os(Stage::OpenDir, self.root.path.join(path), e)),
        }
    }

    fn opened(&mut self, index: usize, id: Option<FileId>, dir: Arc<dyn media::Dir>) {
        let Some(folder) = self.list.get_mut(index) else { return };
        folder.id = id;
        folder.handle = Some(dir);
        if let Some(id) = id {
            self.by_id.entry(id).or_insert(index);
        }
        if index != ROOT {
            self.open.push_back(index);
        }
    }

    pub(super) fn is_open(&self, index: usize) -> bool {
        self.list.get(index).is_some_and(|folder| folder.handle.is_some())
    }

    /// The open directory; opened again if need be, for which there must be room.
    pub(super) fn handle(&mut self, index: usize) -> Result<Arc<dyn media::Dir>> {
        let Some(folder) = self.list.get(index) else { return Err(self.lost(Path::new(""))) };
        if let Some(handle) = &folder.handle {
            return Ok(Arc::clone(handle));
        }
        let (path, known) = (Arc::clone(&folder.path), folder.id);
        let dir = self
            .root
            .dir
            .open_dir(&path)
            .map_err(|e| Error::os(Stage::OpenDir, self.root.path.join(&path), e))?;
        let id = self.identify(&path, &*dir)?;
        if known.is_some() && known != id {
            return Err(self.lost(&path));
        }
        self.opened(index, id, Arc::clone(&dir));
        Ok(dir)
    }

    /// Another directory has that path now.
    fn lost(&self, path: &Path) -> Error {
        Error::new(Stage::OpenDir, TargetState::Unchanged, self.root.path.join(path), Cause::Changed)
    }

    /// The path as messages show it.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        match self.list.get(index).filter(|folder| !folder.path.as_os_str().is_empty()) {
            Some(folder) => self.root.path.join(&folder.path),
            None => self.root.path.clone(),
        }
    }

    /// The folder has a new name in it.
    pub(super) fn gained(&mut self, index: usize) {
        if let Some(folder) = self.list.get_mut(index) {
            folder.gained = true;
        }
    }

    pub(super) fn needs_sync(&self, index: usize) -> bool {
        self.list.get(index).is_some_and(|folder| folder.gained && folder.synced.is_none())
    }

    /// The directory barrier of one folder, once.
    pub(super) fn sync(&mut self, index: usize) {
        let path = self.path(index);
        let outcome = self.handle(index).and_then(|dir| sync_dir(&*dir, &path, Barriers::Required).map(drop));
        if let Some(folder) = self.list.get_mut(index) {
            folder.synced = Some(outcome);
        }
    }

    /// The first barrier that failed of those that a name in this folder hangs on.
    pub(super) fn failed_barrier(&self, index: usize) -> Option<&Error> {
        let mut at = self.list.get(index);
        while let Some(folder) = at {
            if let Some(Err(error)) = &folder.synced {
                return Some(error);
            }
            at = folder.made_in.and_then(|parent| self.list.get(parent));
        }
        None
    }

    /// Whether the file system of this folder will be synced whole; keeps a directory open on it for that.
    pub(super) fn cover(&mut self, index: usize) -> bool {
        let Some(folder) = self.list.get_mut(index) else { return false };
        let (Some(id), Some(handle)) = (folder.id, &folder.handle) else { return false };
        let known = self.filesystems.iter().position(|(device, _)| *device == id.device);
        if known.is_none() {
            if self.filesystems.len() >= FILESYSTEMS_MAX {
                return false;
            }
            self.filesystems.push((id.device, Arc::clone(handle)));
        }
        folder.filesystem = known.or(Some(self.filesystems.len() - 1));
        true
    }

    pub(super) fn filesystem_of(&self, index: usize) -> Option<usize> {
        self.list.get(index).and_then(|folder| folder.filesystem)
    }

    /// Syncs every file system that was covered; one outcome each.
    pub(super) fn sync_filesystems(&self) -> Vec<std::io::Result<()>> {
        let sync = |dir: &Arc<dyn media::Dir>| {
            dir.sync_filesystem()?;
            dir.mark("after_fsync");
            Ok(())
        };
        self.filesystems.iter().map(|(_, dir)| sync(dir)).collect()
    }
}
