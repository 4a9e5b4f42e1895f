//! The recovery pass: what was committed is put in place, what was staged in vain is removed.
//!
//! Order
//! 1. everything committed behind the last `done` is folded into one operation per name, before anything is touched;
//! 2. each is looked at: is it in place already, can it be put there, has somebody else changed the name?
//! 3. they are put in place and made durable;
//! 4. `done`, durably;
//! 5. only then is anything removed that nobody refers to.
//!
//! A crash anywhere in it is just another crash: until 4, all of it is done again; after it, there is nothing to do.

use std::ffi::OsStr;
use std::fmt;

use durable_io::Dir;
use media::sync::{Arc, Mutex, PoisonError};
use media::{Access, File, Metadata, Mode, Reason};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fold::{Fold, Plan};
use crate::ledger::Ledger;
use crate::path::{OWN_PREFIX, TreePath};
use crate::record::{self, Before, ListCommit, Operation, What};
use crate::root::{Journaling, Ownership, Root};
use crate::sweep::{self, Swept};
use crate::tree::{Changed, Folder, inode, is_file, start_writeback};

/// What the names of files begin with whose place somebody else has taken, in the directory of the journal.
const CONFLICT_PREFIX: &str = "conflict-";

/// What opening a root has found and done. `Display` is the line `recovery sweep orphans=N finalized=M`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Staged files that were removed: no commit refers to them, and whoever staged them is dead.
    pub orphans: u64,
    /// Staged files that were left because they may still be somebody's: younger than the age of orphans.
    pub orphans_kept: u64,
    /// Transactions that had been committed and were finished now.
    pub finalized: u64,
    /// Names that others have changed since, and that were therefore left alone.
    pub conflicts: Vec<Conflict>,
    /// Whether there is a journal.
    pub journaling: Journaling,
    /// Why nothing was touched, and nothing may be changed: the journal is damaged or missing.
    pub read_only: Option<String>,
    /// Whether the root had been closed.
    pub was_closed: bool,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            orphans: 0,
            orphans_kept: 0,
            finalized: 0,
            conflicts: Vec::new(),
            journaling: Journaling::On,
            read_only: None,
            was_closed: false,
        }
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recovery sweep orphans={} finalized={}", self.orphans, self.finalized)
    }
}

/// A name that a committed transaction was to change and somebody else has changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Which.
    pub path: TreePath,
    /// What was found.
    pub why: String,
    /// Where, below the root, the file is that was to have the name.
    pub kept: Option<String>,
}

/// What is to be done about an operation.
enum Decision {
    /// It is in place.
    InPlace,
    Apply,
    Conflict(String),
    /// What was committed is gone, or cannot be reached.
    Lost(String),
}

/// Finishes everything. The inner error says why the root may only be read: then nothing was touched.
pub(crate) fn recover(
    root: &Root,
    ledger: &Ledger,
    fold: Fold,
    was_closed: bool,
) -> Result<std::result::Result<Recovery, String>> {
    let plan = match fold.finish(&mut |list| read_list(&root.journal_dir, list)) {
        Ok(plan) => plan,
        Err(Unreadable::Damaged(why)) => return Ok(Err(why)),
        Err(Unreadable::Failed(error)) => return Err(error),
    };
    if plan.is_contradictory {
        return Ok(Err("its entries contradict each other".to_owned()));
    }
    ledger.continue_after(plan.last);
    let mut decided = Vec::new();
    for operation in plan.operations.values() {
        match decide(root, operation)? {
            Decision::Lost(why) => return Ok(Err(why)),
            decision => decided.push((operation, decision)),
        }
    }
    let mut recovery = Recovery { was_closed, ..Recovery::default() };
    recovery.conflicts = finish(root, &decided)?;
    if plan.transactions > 0 {
        root.tree.dir.as_media().mark("before_done");
        ledger.settle(plan.last)?;
    }
    recovery.finalized = u64::try_from(plan.transactions).unwrap_or(u64::MAX);
    sweep::lists(&root.journal_dir)?;
    recovery.add(sweep_files(root, &plan, was_closed)?);
    Ok(Ok(recovery))
}

/// What is left to do where there is no journal: in a root of our own, what was staged is nobody's.
pub(crate) fn sweep_only(root: &Root) -> Result<Recovery> {
    let mut recovery = Recovery { journaling: root.journaling().clone(), ..Recovery::default() };
    if root.options.ownership == Ownership::Owned {
        recovery.add(sweep::all_staged(root)?);
    }
    Ok(recovery)
}

impl Recovery {
    fn add(&mut self, swept: Swept) {
        self.orphans += swept.removed;
        self.orphans_kept += swept.kept;
    }
}

fn sweep_files(root: &Root, plan: &Plan, was_closed: bool) -> Result<Swept> {
    match root.options.ownership {
        Ownership::Owned => sweep::all_staged(root),
        // A clean end has left nothing, and a tree of others may be large.
        Ownership::Shared if was_closed && plan.prepared.is_empty() => Ok(Swept::default()),
        Ownership::Shared => sweep::ours(root, &plan.prepared),
    }
}

enum Unreadable {
    Damaged(String),
    Failed(Error),
}

/// The operations of a list file, which must be exactly what was committed.
fn read_list(journal_dir: &Dir, list: &ListCommit) -> std::result::Result<Vec<Operation>, Unreadable> {
    let damaged =
        |why: &str| Unreadable::Damaged(format!("the list `{}` of a committed transaction {why}", list.file));
    let bytes = match journal_dir.read_up_to(&list.file, list.len) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == durable_io::Kind::NotFound => return Err(damaged("is missing")),
        Err(error) if error.kind() == durable_io::Kind::Invalid => return Err(damaged("is not what it was")),
        Err(error) => return Err(Unreadable::Failed(error.into())),
    };
    if <[u8; 32]>::from(Sha256::digest(&bytes)) != list.digest {
        return Err(damaged("is not what it was"));
    }
    record::decode_operations(&bytes).map_err(|why| damaged(&why.to_string()))
}

/// Looks at one name.
fn decide(root: &Root, operation: &Operation) -> Result<Decision> {
    let path = &operation.path;
    let is_shared = root.options.ownership == Ownership::Shared;
    let in_the_way = root.tree.in_the_way(path.parent())?;
    let there = root.tree.look(path)?;
    if matches!(operation.what, What::Absent) && !is_shared && !there.is_some_and(|there| is_file(&there)) {
        // A directory that was made in its place is ours too.
        return Ok(Decision::InPlace);
    }
    if let Some((at, kind)) = in_the_way {
        let why = format!("`{at}`, which `{path}` is below, is a {kind:?} now");
        return Ok(if is_shared { Decision::Conflict(why) } else { Decision::Lost(why) });
    }
    if let Some(there) = there.filter(|there| !is_file(there)) {
        return Ok(Decision::Conflict(format!("it is a {:?} now", there.kind)));
    }
    let staged = match &operation.what {
        // Whether it is in place and on the medium cannot be told by looking at it.
        What::Payload(_) => return Ok(Decision::Apply),
        What::Absent if there.is_none() => return Ok(Decision::InPlace),
        What::Absent => None,
        What::Staged { hidden, inode: staged } => {
            if there.is_some_and(|there| inode(&there) == *staged) {
                return Ok(Decision::InPlace);
            }
            let is_it = is_there(root, hidden, *staged)?;
            if !is_it && kept_at(root, hidden, *staged)?.is_some() {
                return Ok(Decision::Conflict("an earlier recovery could not put it in place".to_owned()));
            }
            if !is_it && is_shared && root.tree.folder(hidden.parent())?.is_none() {
                return Ok(Decision::Conflict("somebody else has taken away the directory".to_owned()));
            }
            Some(is_it)
        }
    };
    match (is_as_before(root, path, there, operation.before)?, staged) {
        (true, Some(false)) => Ok(Decision::Lost(format!("the staged file that `{path}` was to be is gone"))),
        (true, _) => Ok(Decision::Apply),
        (false, _) => Ok(Decision::Conflict("it was changed since by somebody else".to_owned())),
    }
}

/// Whether a name has the file with this number.
fn is_there(root: &Root, path: &TreePath, number: u64) -> Result<bool> {
    let found = root.tree.look(path)?;
    Ok(found.is_some_and(|found| is_file(&found) && inode(&found) == number))
}

/// Where a file may be kept whose place somebody else has taken: with the journal, or, on another file system, where it is.
/// Nothing else there is called so: the number is the file's own as long as it is there.
fn keeping_places(root: &Root, hidden: &TreePath, number: u64) -> Result<[TreePath; 2]> {
    let name = format!("{CONFLICT_PREFIX}{:016x}-{number:x}", short_digest(hidden.as_str().as_bytes()));
    let with_the_journal = TreePath::parse_any(&format!("{}/{name}", root.options.journal_dir))?;
    Ok([with_the_journal, hidden.sibling(&format!("{OWN_PREFIX}{name}"))])
}

/// Where an earlier recovery, or this one, has kept a file.
fn kept_at(root: &Root, hidden: &TreePath, number: u64) -> Result<Option<TreePath>> {
    for place in keeping_places(root, hidden, number)? {
        if is_there(root, &place, number)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn short_digest(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// Whether a name still has what it had before the transaction, as far as that was written down. A file that was changed in
/// place is another one; one that is older than it was has lost a change that had never been synced.
fn is_as_before(root: &Root, path: &TreePath, there: Option<Metadata>, before: Before) -> Result<bool> {
    match (before, there) {
        (Before::NotRecorded, _) | (Before::Absent, None) => Ok(true),
        (Before::Absent, Some(_)) | (Before::File { .. }, None) => Ok(false),
        (Before::File { inode: before, .. }, Some(there)) if before != inode(&there) => Ok(false),
        (Before::File { modified: None, .. }, Some(_)) => Ok(true),
        (Before::File { modified: Some(before), .. }, Some(_)) => {
            let Some(folder) = root.tree.folder(path.parent())? else { return Ok(false) };
            let modified = match folder.dir.open(OsStr::new(path.name()), Access::Read) {
                Ok(file) => file.modified().map_err(|e| Error::os("looking at", path.as_str(), e))?,
                // It could be read before the transaction: somebody has changed it, if only its mode.
                Err(e) if Reason::of(&e) == Reason::PermissionDenied => return Ok(false),
                Err(e) => return Err(Error::os("looking at", path.as_str(), e)),
            };
            Ok(modified <= before)
        }
    }
}

/// Puts everything in place and makes it durable.
fn finish(root: &Root, decided: &[(&Operation, Decision)]) -> Result<Vec<Conflict>> {
    let mut finish =
        Finish { root, changed: Changed::default(), written: Vec::new(), bytes: 0, conflicts: Vec::new() };
    for (operation, decision) in decided {
        match decision {
            Decision::InPlace => finish.in_place(operation)?,
            Decision::Apply => finish.apply(operation)?,
            Decision::Conflict(why) => finish.conflict(operation, why.clone())?,
            // Nothing is begun where anything is lost.
            Decision::Lost(_) => {}
        }
    }
    finish.name_written()?;
    finish.changed.sync()?;
    Ok(std::mem::take(&mut finish.conflicts))
}

struct Finish<'r> {
    root: &'r Root,
    changed: Changed,
    /// Files of payloads, written and neither synced nor named.
    written: Vec<Written>,
    bytes: usize,
    conflicts: Vec<Conflict>,
}

struct Written {
    folder: Folder,
    hidden: String,
    name: String,
    file: Arc<dyn File>,
}

impl Finish<'_> {
    /// It may be there by a rename that is not durable, or under both names.
    fn in_place(&mut self, operation: &Operation) -> Result<()> {
        if let Some(folder) = self.root.tree.folder(operation.path.parent())? {
            self.changed.add(&folder);
        }
        if let What::Staged { hidden, .. } = &operation.what
            && let Some(folder) = self.root.tree.folder(hidden.parent())?
        {
            folder.remove(hidden.name()).map_err(|e| Error::os("removing", hidden.as_str(), e))?;
            self.changed.add(&folder);
        }
        Ok(())
    }

    fn apply(&mut self, operation: &Operation) -> Result<()> {
        let path = &operation.path;
        match &operation.what {
            What::Absent => {
                let Some(folder) = self.root.tree.folder(path.parent())? else { return Ok(()) };
                match folder.remove(path.name()) {
                    Ok(()) => folder.dir.mark("after_unlink"),
                    Err(e) if self.is_refused(&e) => return self.conflict(operation, e.to_string()),
                    Err(e) => return Err(Error::os("removing", path.as_str(), e)),
                }
                self.changed.add(&folder);
                Ok(())
            }
            What::Staged { hidden, .. } => {
                let target = self.root.tree.folder_or_create(path.parent())?;
                let Some(home) = self.root.tree.folder(hidden.parent())? else {
                    return Err(Error::NotFound { path: hidden.clone() });
                };
                match home.rename(hidden.name(), &target, path.name()) {
                    Ok(()) => target.dir.mark("after_rename"),
                    Err(e) if self.is_refused(&e) => return self.conflict(operation, e.to_string()),
                    Err(e) => return Err(Error::os("naming", path.as_str(), e)),
                }
                self.changed.add(&target);
                self.changed.add(&home);
                Ok(())
            }
            What::Payload(bytes) => self.write(path, bytes),
        }
    }

    /// In a directory of others, what they have made impossible is theirs to decide. In our own, it is an error.
    fn is_refused(&self, e: &std::io::Error) -> bool {
        let for_good = matches!(
            Reason::of(e),
            Reason::PermissionDenied
                | Reason::Busy
                | Reason::IsDirectory
                | Reason::NotDirectory
                | Reason::NotEmpty
                | Reason::CrossDevice
        );
        self.root.options.ownership == Ownership::Shared && for_good
    }

    /// Writes the file of a payload anew: what is under the name may never have reached the medium.
    fn write(&mut self, path: &TreePath, bytes: &[u8]) -> Result<()> {
        let window = &self.root.window;
        if self.written.len() >= window.payloads_max() || self.bytes >= self.root.options.window.bytes {
            self.name_written()?;
        }
        let folder = self.root.tree.folder_or_create(path.parent())?;
        let hidden = self.root.hidden.one();
        let fail = |e| Error::os("writing", path.as_str(), e);
        let file = folder.dir.create_exclusive(OsStr::new(&hidden), Mode::PRIVATE).map_err(fail)?;
        self.bytes += bytes.len();
        let outcome = media::write_all_at(&*file, 0, bytes).map_err(fail);
        if outcome.is_ok() {
            start_writeback(&*file, bytes.len());
        }
        self.written.push(Written { folder, hidden, name: path.name().to_owned(), file });
        outcome
    }

    /// Syncs what was written, many at a time, and then gives it its names.
    fn name_written(&mut self) -> Result<()> {
        let failed = Mutex::new(None);
        self.root.env.pool.run(self.root.options.window.threads.max(1), self.written.len(), &|index| {
            let Some(written) = self.written.get(index) else { return };
            if let Err(e) = written.file.sync_all() {
                let error = Error::os("syncing", written.folder.path_of(&written.name), e);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        for Written { folder, hidden, name, .. } in self.written.drain(..) {
            folder
                .rename(&hidden, &folder, &name)
                .map_err(|e| Error::os("naming", folder.path_of(&name), e))?;
            folder.dir.mark("after_rename");
            self.changed.add(&folder);
        }
        self.bytes = 0;
        Ok(())
    }

    /// Leaves a name alone. The file that was to have it is kept, where it is in nobody's way.
    fn conflict(&mut self, operation: &Operation, why: String) -> Result<()> {
        let kept = match &operation.what {
            What::Absent => None,
            What::Payload(bytes) => {
                let (path, content) = (short_digest(operation.path.as_str().as_bytes()), short_digest(bytes));
                let name = format!("{CONFLICT_PREFIX}{path:016x}-{content:016x}");
                drop(self.root.journal_dir.replace(&name, bytes)?);
                Some(format!("{}/{name}", self.root.options.journal_dir))
            }
            What::Staged { hidden, inode } => {
                self.keep(hidden, *inode)?.map(|place| place.as_str().to_owned())
            }
        };
        self.conflicts.push(Conflict { path: operation.path.clone(), why, kept });
        Ok(())
    }

    /// Gives a staged file a name under which no sweep takes it. `None`: it is gone.
    fn keep(&mut self, hidden: &TreePath, number: u64) -> Result<Option<TreePath>> {
        let tree = &self.root.tree;
        if !is_there(self.root, hidden, number)? {
            return kept_at(self.root, hidden, number);
        }
        let Some(home) = tree.folder(hidden.parent())? else { return Ok(None) };
        let keeping = |e| Error::os("keeping", hidden.as_str(), e);
        let [with_the_journal, beside] = keeping_places(self.root, hidden, number)?;
        let journal_dir = tree.folder_or_create(with_the_journal.parent())?;
        self.changed.add(&home);
        match home.rename(hidden.name(), &journal_dir, with_the_journal.name()) {
            Err(e) if Reason::of(&e) == Reason::CrossDevice => {
                home.rename(hidden.name(), &home, beside.name()).map_err(keeping)?;
                Ok(Some(beside))
            }
            outcome => {
                outcome.map_err(keeping)?;
                self.changed.add(&journal_dir);
                Ok(Some(with_the_journal))
            }
        }
    }
}

/// Written in vain: recovery goes on at the next open.
impl Drop for Finish<'_> {
    fn drop(&mut self) {
        for Written { folder, hidden, .. } in &self.written {
            if let Err(error) = folder.remove(hidden) {
                tracing::warn!(path = folder.path_of(hidden), %error, "a staged file is left for the next open");
            }
        }
    }
}
