//! Staged files that nobody comes back for.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::time::Duration;

use durable_io::{Dir, SweepOptions};
use media::{Access, Entry, FileKind, Reason, Timestamp};

use crate::error::{Error, Result};
use crate::names::LIST_PREFIX;
use crate::path::{COMPONENTS_MAX, STAGED_SUFFIX, TreePath};
use crate::root::Root;
use crate::tree::Folder;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) removed: u64,
    pub(crate) kept: u64,
}

/// Removes every staged file of a root that is ours alone: whoever staged it had this lock, and is dead. Called when no commit
/// refers to any.
pub(crate) fn all_staged(root: &Root) -> Result<Swept> {
    let mut swept = Swept::default();
    walk(root, &mut |folder, name| {
        if name.ends_with(STAGED_SUFFIX) {
            remove(folder, name)?;
            swept.removed += 1;
        }
        Ok(())
    })?;
    Ok(swept)
}

/// Removes the staged files of this journal in a tree that others use. Whoever staged them had the lock of the journal, and is
/// dead. Those that the journal knows are removed at once, the others when they are old: that they are not known to it may also
/// mean that they come from another copy of it.
pub(crate) fn ours(root: &Root, prepared: &BTreeSet<TreePath>) -> Result<Swept> {
    let mut swept = Swept::default();
    let now = root.env.clock.now();
    walk(root, &mut |folder, name| {
        if !root.hidden.is_of_this_journal(name) {
            return Ok(());
        }
        let is_known = prepared.iter().any(|prefix| name.starts_with(prefix.as_str()));
        if !is_known && !is_old(folder, name, now, root.options.orphan_age)? {
            swept.kept += 1;
            return Ok(());
        }
        match folder.remove(name) {
            Ok(()) => swept.removed += 1,
            // Whose directory it is may have closed it since. It is in nobody's way, and no reason to open nothing.
            Err(e) if matches!(Reason::of(&e), Reason::PermissionDenied | Reason::ReadOnly) => {
                tracing::warn!(path = folder.path_of(name), error = %e, "a staged file is left for a later open");
                swept.kept += 1;
            }
            Err(e) => return Err(Error::os("removing", folder.path_of(name), e)),
        }
        Ok(())
    })?;
    Ok(swept)
}

/// Removes lists, of transactions that are complete or were never committed, and what was left of writing them.
pub(crate) fn lists(journal_dir: &Dir) -> Result<()> {
    half_written(journal_dir)?;
    let folder = Folder {
        path: journal_dir.path().display().to_string(),
        dir: std::sync::Arc::clone(journal_dir.as_media()),
    };
    for (name, _) in entries(&folder)? {
        if name.to_str().is_some_and(|name| name.starts_with(LIST_PREFIX)) {
            remove(&folder, &name.to_string_lossy())?;
        }
    }
    Ok(())
}

/// Removes what a process that is dead has left of writing a list or the marker.
pub(crate) fn half_written(dir: &Dir) -> Result<()> {
    match dir.sweep(&SweepOptions::default())?.failures.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn remove(folder: &Folder, name: &str) -> Result<()> {
    folder.remove(name).map_err(|e| Error::os("removing", folder.path_of(name), e))
}

/// Whether a file was last changed longer ago than `age`. A time in the future tells nothing about its age: its owner is dead,
/// and clocks do go back, so it counts as old.
fn is_old(folder: &Folder, name: &str, now: Timestamp, age: Duration) -> Result<bool> {
    let modified = match folder.dir.open(OsStr::new(name), Access::Read) {
        Ok(file) => file.modified().map_err(|e| Error::os("looking at", folder.path_of(name), e))?,
        Err(e) if matches!(Reason::of(&e), Reason::NotFound | Reason::PermissionDenied) => return Ok(false),
        Err(e) => return Err(Error::os("looking at", folder.path_of(name), e)),
    };
    let nanos = |at: Timestamp| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    let since = nanos(now) - nanos(modified);
    Ok(since < 0 || u128::try_from(since).unwrap_or(0) >= age.as_nanos())
}

/// Goes through the files of every directory below the root, in the order of their names. Links are not followed. No more
/// directories are open than lie above each other, however many lie side by side.
fn walk(root: &Root, each: &mut dyn FnMut(&Folder, &str) -> Result<()>) -> Result<()> {
    let mut waiting = vec![(root.tree.top(), None::<String>, 0)];
    while let Some((above, name, depth)) = waiting.pop() {
        let folder = match name.map(|name| (above.child(&name), name)) {
            None => above,
            Some((Ok(Some(folder)), _)) => folder,
            Some((Ok(None), _)) => continue,
            // Another's.
            Some((Err(e), _)) if Reason::of(&e) == Reason::PermissionDenied => continue,
            Some((Err(e), name)) => return Err(Error::os("opening", above.path_of(&name), e)),
        };
        let mut below = Vec::new();
        for (name, kind) in entries(&folder)? {
            // What is not UTF-8 is no name of ours, and cannot lead to one that a transaction could name.
            let Some(name) = name.to_str() else { continue };
            let kind = match kind {
                Some(kind) => Some(kind),
                None => folder.look(name)?.map(|found| found.kind),
            };
            match kind {
                Some(FileKind::File) => each(&folder, name)?,
                Some(FileKind::Dir) if depth < COMPONENTS_MAX => below.push(name.to_owned()),
                _ => {}
            }
        }
        waiting.extend(below.into_iter().rev().map(|name| (folder.clone(), Some(name), depth + 1)));
    }
    Ok(())
}

/// The names in a directory, sorted.
fn entries(folder: &Folder) -> Result<Vec<(OsString, Option<FileKind>)>> {
    let mut names = Vec::new();
    folder
        .dir
        .list(&mut |Entry { name, kind }| {
            names.push((name, kind));
            ControlFlow::Continue(())
        })
        .map_err(|e| Error::os("listing", folder.path.as_str(), e))?;
    names.sort_by(|(first, _), (second, _)| first.cmp(second));
    Ok(names)
}
