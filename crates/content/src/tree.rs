//! Walks of the tree below an app: what is counted, and what is listed.
//!
//! An entry of a directory is an **object** if and only if it is a regular file, its name could be a component of a URI,
//! and the URI that leads to it is within the bounds of URIs. What ends in `.nxpart` or begins with `.steadfast-` is the
//! store's own and is counted apart. Everything else (symbolic links, devices, names that are not UTF-8, what lies too
//! deep) is **foreign**: reported, never followed, never counted as anybody's.
//!
//! Memory
//! - a count holds one open directory for each level and one name;
//! - a listing holds, for each level, an open directory and the next names of it: as many as are asked for, at least
//!   [`BATCH_MIN`] and at most [`BATCH_MAX`], and reads the directory again when they are used up. So a page costs at most
//!   [`DEPTH_MAX`] + 1 batches beside its answer, however many objects there are.

use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::{Dir, Entry, FileKind, Reason};

use crate::quota::Amount;
use crate::uri::{DEPTH_MAX, RESERVED_APPS, SCHEME, URI_LEN_MAX, Uri, is_app, is_component, is_own};

/// The fewest names that a listing holds of one directory, if there are so many.
const BATCH_MIN: usize = 256;
/// The most names that a listing holds of one directory.
const BATCH_MAX: usize = 4096;

/// How many foreign entries are named; the others are only counted.
pub const FOREIGN_NAMED_MAX: usize = 16;

/// Entries that are neither objects nor directories nor the store's own. They are left alone, and no quota counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// How many there are.
    pub count: u64,
    /// The first of them that were met, at most [`FOREIGN_NAMED_MAX`], from the root down.
    pub named: Vec<PathBuf>,
}

impl Foreign {
    fn note(&mut self, dir: &str, name: &OsStr) {
        self.count = self.count.saturating_add(1);
        if self.named.len() < FOREIGN_NAMED_MAX {
            self.named.push(Path::new(dir).join(name));
        }
    }

    pub(crate) fn merge(&mut self, more: Self) {
        self.count = self.count.saturating_add(more.count);
        let room = FOREIGN_NAMED_MAX.saturating_sub(self.named.len());
        self.named.extend(more.named.into_iter().take(room));
    }
}

/// What a count found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recount {
    /// The objects.
    pub(crate) objects: Amount,
    /// The files of the store's own: what is staged.
    pub(crate) staged: Amount,
    /// The rest.
    pub(crate) foreign: Foreign,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub uri: Uri,
    /// Its length in bytes.
    pub len: u64,
}

/// What an entry is to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What<'n> {
    Object(&'n str),
    Dir(&'n str),
    Own,
    Foreign,
}

/// The rule at the head of this module, for an entry of a directory whose URI has `uri_len` bytes and whose own entries have
/// `depth` components below the app.
fn classify<'n>(name: &'n OsStr, kind: FileKind, uri_len: usize, depth: usize) -> What<'n> {
    let Some(name) = name.to_str() else { return What::Foreign };
    let fits =
        || depth <= DEPTH_MAX && uri_len.saturating_add(1 + name.len()) <= URI_LEN_MAX && is_component(name);
    match kind {
        FileKind::File if is_own(name) => What::Own,
        FileKind::File if fits() => What::Object(name),
        FileKind::Dir if fits() => What::Dir(name),
        FileKind::File | FileKind::Dir | FileKind::Symlink | FileKind::Other => What::Foreign,
    }
}

/// What `entry` is: as the directory says, or after a look at it. [`None`]: it is gone since.
fn kind_of(dir: &dyn Dir, entry: &Entry) -> io::Result<Option<FileKind>> {
    match entry.kind {
        Some(kind) => Ok(Some(kind)),
        None => present(dir.metadata(&entry.name)).map(|found| found.map(|found| found.kind)),
    }
}

/// Every entry and what kind it is, until one of them fails.
fn each(dir: &dyn Dir, mut visit: impl FnMut(Entry, FileKind) -> io::Result<()>) -> io::Result<()> {
    let mut outcome = Ok(());
    dir.list(&mut |entry| {
        let visited = match kind_of(dir, &entry) {
            Ok(Some(kind)) => visit(entry, kind),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match visited {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    outcome
}

/// [`None`] where there is no such name.
pub(crate) fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if Reason::of(&error) == Reason::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a directory that is an entry of this one, and not what a symbolic link of that name leads to. [`None`]: there is
/// no directory of that name.
pub(crate) fn open_child(dir: &dyn Dir, name: &OsStr) -> io::Result<Option<Arc<dyn Dir>>> {
    let Some(found) = present(dir.metadata(name))? else { return Ok(None) };
    if found.kind != FileKind::Dir {
        return Ok(None);
    }
    let Some(child) = present(dir.open_dir(Path::new(name)))? else { return Ok(None) };
    // Opening follows a link that has taken the name since.
    if child.dir_metadata()?.id != found.id {
        return Ok(None);
    }
    Ok(Some(child))
}

/// Opens the directory that `uri` names, below the root. [`None`]: there is none.
pub(crate) fn open_uri(root: &Arc<dyn Dir>, uri: &Uri) -> io::Result<Option<Arc<dyn Dir>>> {
    let mut at = Arc::clone(root);
    for component in uri.below_root().split('/') {
        let Some(child) = open_child(&*at, OsStr::new(component))? else { return Ok(None) };
        at = child;
    }
    Ok(Some(at))
}

/// The apps that have a directory, in order, and what else there is in the root.
pub(crate) fn apps(root: &dyn Dir) -> io::Result<(Vec<Uri>, Foreign)> {
    let (mut apps, mut foreign) = (Vec::new(), Foreign::default());
    each(root, |entry, kind| {
        match entry.name.to_str() {
            Some(name) if is_own(name) || RESERVED_APPS.contains(&name) => {}
            Some(name) if kind == FileKind::Dir && is_app(name) => apps.extend(Uri::app_dir(name)),
            Some(_) | None => foreign.note("", &entry.name),
        }
        Ok(())
    })?;
    apps.sort_unstable();
    Ok((apps, foreign))
}

/// Counts everything below the directory `uri`, which is `dir`.
pub(crate) fn recount(dir: &dyn Dir, uri: &Uri) -> io::Result<Recount> {
    let mut found = Recount::default();
    let mut path = uri.below_root().to_owned();
    let depth = components(uri) + 1;
    count_into(&mut found, dir, &mut path, depth)?;
    Ok(found)
}

/// The components below the app.
fn components(uri: &Uri) -> usize {
    if uri.path().is_empty() { 0 } else { uri.path().split('/').count() }
}

/// As deep as [`DEPTH_MAX`] and no deeper: what lies below is foreign.
fn count_into(found: &mut Recount, dir: &dyn Dir, path: &mut String, depth: usize) -> io::Result<()> {
    let uri_len = SCHEME.len() + path.len();
    each(dir, |entry, kind| {
        let what = classify(&entry.name, kind, uri_len, depth);
        match what {
            What::Object(_) | What::Own => {
                let Some(metadata) = present(dir.metadata(&entry.name))? else { return Ok(()) };
                let sum = if what == What::Own { &mut found.staged } else { &mut found.objects };
                let more = sum.plus(Amount::object(metadata.len));
                *sum = more.ok_or_else(|| io::Error::other("the lengths add up to more than 2^64"))?;
            }
            What::Dir(name) => {
                let Some(child) = open_child(dir, &entry.name)? else { return Ok(()) };
                let len = path.len();
                path.push('/');
                path.push_str(name);
                let counted = count_into(found, &*child, path, depth + 1);
                path.truncate(len);
                counted?;
            }
            What::Foreign => found.foreign.note(path, &entry.name),
        }
        Ok(())
    })
}

/// Where a listing finds an entry, with the entry itself: the order of keys is the one of the URIs that come of them. What
/// lies in a directory has a slash after its name, so `a.txt` stands before what is in `a`.
fn key_of(what: What<'_>) -> Option<String> {
    match what {
        What::Object(name) => Some(name.to_owned()),
        What::Dir(name) => Some(format!("{name}/")),
        What::Own | What::Foreign => None,
    }
}

/// The first key that a listing takes of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Begin {
    /// This one, or what comes after it.
    At(String),
    /// What comes after this one.
    After(String),
}

impl Begin {
    fn takes(&self, key: &str) -> bool {
        match self {
            Self::At(first) => key >= first.as_str(),
            Self::After(last) => key > last.as_str(),
        }
    }
}

/// One directory on the way of a listing.
struct Level {
    dir: Arc<dyn Dir>,
    /// Its length in the path of the listing.
    path_len: usize,
    /// The next keys, the nearest last.
    keys: Vec<String>,
    /// Where the next batch of them begins. [`None`]: this is all there is.
    more: Option<Begin>,
}

/// The objects below a directory, in the order of their URIs.
pub(crate) struct Walk {
    top: Uri,
    levels: Vec<Level>,
    /// Below `top`, with slashes between the components.
    path: String,
    /// Where to begin: only what comes after this path below `top`.
    cursor: Option<String>,
    batch: usize,
}

impl Walk {
    /// Everything below `top`, which is `dir`, after the object or place `cursor`. `wanted` is how many will be asked for.
    pub(crate) fn new(dir: Arc<dyn Dir>, top: &Uri, cursor: Option<&Uri>, wanted: usize) -> io::Result<Self> {
        let mut walk = Self {
            top: top.clone(),
            levels: Vec::new(),
            path: String::new(),
            cursor: None,
            batch: wanted.saturating_add(1).clamp(BATCH_MIN, BATCH_MAX),
        };
        let prefix = format!("{top}/");
        match cursor {
            Some(cursor) if cursor.as_str() > prefix.as_str() => {
                match cursor.as_str().strip_prefix(&prefix) {
                    Some(below) => walk.cursor = Some(below.to_owned()),
                    // It lies after everything that is here.
                    None => return Ok(walk),
                }
            }
            Some(_) | None => {}
        }
        walk.enter(dir)?;
        Ok(walk)
    }

    /// The next object.
    pub(crate) fn next(&mut self) -> io::Result<Option<Listed>> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.path.truncate(level.path_len);
            let Some(key) = level.keys.pop() else {
                self.refill_or_leave()?;
                continue;
            };
            let dir = Arc::clone(&level.dir);
            if let Some(name) = key.strip_suffix('/') {
                if let Some(child) = open_child(&*dir, OsStr::new(name))? {
                    self.path.push_str(&key);
                    self.enter(child)?;
                }
                continue;
            }
            let Some(found) = present(dir.metadata(OsStr::new(&key)))? else { continue };
            if found.kind == FileKind::File {
                self.path.push_str(&key);
                return Ok(Some(Listed { uri: self.top.found(&self.path), len: found.len }));
            }
        }
    }

    fn enter(&mut self, dir: Arc<dyn Dir>) -> io::Result<()> {
        // Bounded: `classify` lets nothing through that lies deeper.
        let path_len = self.path.len();
        let begin = self.cursor.as_deref().and_then(|cursor| begin_after(cursor, &self.path));
        let level = self.fill(dir, path_len, begin)?;
        self.levels.push(level);
        Ok(())
    }

    /// The keys of the directory are used up: the next ones, or back to the directory above.
    fn refill_or_leave(&mut self) -> io::Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        if level.more.is_some() {
            let level = self.fill(level.dir, level.path_len, level.more)?;
            self.levels.push(level);
        }
        Ok(())
    }

    /// The next keys of a directory in order: the smallest ones from `begin` on, in one pass and in bounded memory.
    fn fill(&self, dir: Arc<dyn Dir>, path_len: usize, begin: Option<Begin>) -> io::Result<Level> {
        let uri_len = self.top.as_str().len() + path_len;
        let depth = components(&self.top) + self.levels.len() + 1;
        let mut smallest: BinaryHeap<String> = BinaryHeap::new();
        let mut is_all = true;
        each(&*dir, |entry, kind| {
            let key = key_of(classify(&entry.name, kind, uri_len, depth));
            let Some(key) = key.filter(|key| begin.as_ref().is_none_or(|begin| begin.takes(key))) else {
                return Ok(());
            };
            smallest.push(key);
            if smallest.len() > self.batch {
                smallest.pop();
                is_all = false;
            }
            Ok(())
        })?;
        let more = smallest.peek().filter(|_| !is_all).cloned().map(Begin::After);
        let mut keys = smallest.into_sorted_vec();
        keys.reverse();
        Ok(Level { dir, path_len, keys, more })
    }
}

/// Where the directory at `path` (with its slash; empty at the top) goes on, if the listing goes on after `cursor`.
/// [`None`]: at its beginning.
fn begin_after(cursor: &str, path: &str) -> Option<Begin> {
    // A directory that the cursor does not lie in was gone into because all of it comes after the cursor.
    let below = cursor.strip_prefix(path)?;
    Some(match below.split_once('/') {
        // The directory that it lies in is gone into again.
        Some((name, _)) => Begin::At(format!("{name}/")),
        None => Begin::After(below.to_owned()),
    })
}

#[cfg(test)]
mod tests;
