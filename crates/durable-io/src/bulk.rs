//! [`Bulk`]: many files that share their barriers.
//!
//! Invariants
//! - the barrier of a file runs on the descriptor that wrote it: one that was opened again may not be told of a
//!   failed writeback.
//! - nothing is renamed before every file of the bulk is synced or has failed.
//! - a file counts as published only if the barrier of its directory succeeded, and of each directory that gained
//!   a new directory on the way to it.
//! - at most `window` files and [`DIRS_OPEN_MAX`](folders::DIRS_OPEN_MAX) directories are open.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use media::sync::{Arc, Mutex, PoisonError};
use media::{FileKind, Reason, RenameMode};
use sha2::{Digest as _, Sha256};

use crate::dir::{Dir, Place, follow_links, is_ambiguous, sync_existing};
use crate::error::{Cause, Error, Invalid, Leftover, Result, Stage, TargetState};
use crate::name::RelativeName;
use crate::options::{Barriers, Change, Durability, HardLinks, Parents, Stamp, Unchanged, WriteOptions};
use crate::staged::{Staged, holds, look_for};

mod folders;
mod hidden;
mod report;
mod seal;

pub use hidden::HiddenNames;
pub use report::{BulkReport, FilePublished, FileResult};
pub use seal::SealedFile;

use folders::Folders;
use report::{Facts, Ledger, Record, Sealable, State};

/// How a bulk goes about its files.
#[derive(Debug, Clone)]
pub struct BulkOptions {
    /// On how many threads files are synced; 1 syncs them on the calling thread, in order. Two are slower than
    /// one: the barriers pay off when many are in flight.
    pub threads: usize,
    /// How many files are written before they are synced and closed; the bound on open descriptors, to which
    /// come 64 directories.
    pub window: usize,
    /// Which barrier makes the bytes durable.
    pub sync: BulkSync,
    /// How [`Bulk::replace`] writes each file. What overwrites in place is not done in a bulk: a target with
    /// several names is refused under [`HardLinks::InPlace`], and a refused rename is an error.
    pub write: WriteOptions,
    /// What becomes of the others when a file has failed before the renames began.
    pub on_failure: OnFailure,
    /// What the files are called until they have their names.
    pub hidden: HiddenNames,
}

impl Default for BulkOptions {
    fn default() -> Self {
        Self {
            threads: 32,
            window: 256,
            sync: BulkSync::default(),
            write: WriteOptions::default(),
            on_failure: OnFailure::default(),
            hidden: HiddenNames::default(),
        }
    }
}

/// The barrier that makes the bytes of a bulk durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BulkSync {
    /// One for each file, many at a time.
    #[default]
    PerFile,
    /// One for each file system that the files are on (`syncfs`). It waits for **everybody's** unwritten data,
    /// and one failure anywhere fails all files of the bulk there.
    WholeFileSystem,
}

/// What becomes of the other files when one has failed before the renames began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// They are published.
    #[default]
    PublishOthers,
    /// They are not: their result is [`Cause::Cancelled`]. A failure *during* the renames stops nothing, since a
    /// rename is never taken back.
    PublishNothing,
}

/// How far a publish has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkProgress {
    /// What is being done.
    pub phase: BulkPhase,
    /// How much of it is done: files, or directories in the last phase.
    pub done: usize,
    /// How much there is.
    pub total: usize,
}

/// What a publish is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkPhase {
    /// Making bytes durable. A `Break` here stops the bulk: nothing is renamed.
    SyncFiles,
    /// Giving files their names. From here on nothing stops it.
    Rename,
    /// Making the names durable.
    SyncDirs,
}

/// Many files that share their barriers and are **not atomic together**: after a power cut any of them may be
/// old and any new, each whole.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// let dir = durable_io::Dir::open(root.path())?;
/// let report = dir.bulk().replace("a", b"1").replace("sub/b", b"2").publish_all();
/// assert_eq!((report.published, report.failed), (2, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// All files are written under hidden names first, then all are made durable, then all get their names, then each
/// directory is synced once. A file that fails keeps its target unchanged and does not stop the others (but see
/// [`OnFailure`]).
///
/// A journal, which gives the names itself once it has written down which, stops a step earlier: [`Bulk::seal_all`].
///
/// Dropping a bulk that was not published removes its hidden files. Directories created for them stay, and are
/// made durable: whoever finds a directory takes it for durable.
#[must_use = "nothing gets its name before `publish_all`"]
pub struct Bulk<'d> {
    root: &'d Dir,
    options: BulkOptions,
    folders: Folders,
    /// Written, open, not yet synced.
    window: Vec<Waiting>,
    ledger: Ledger,
    /// The names in use, by digest.
    names: HashSet<[u8; 16]>,
    /// What targets must still be when they are replaced, by index of the file.
    expected: BTreeMap<usize, Stamp>,
    /// The number of the next hidden name, where the caller chose what they are called.
    hidden_next: u64,
}

struct Waiting {
    index: usize,
    staged: Staged,
    /// Its file system will be synced as a whole.
    covered: bool,
}

/// Where a file of the bulk goes.
struct Target {
    place: Place,
    folder: usize,
    digest: [u8; 16],
    /// Of its hidden name.
    number: u64,
}

/// A file of a bulk while it is being written. Dropped unfinished, it is removed and no part of the bulk.
#[must_use = "a file that is not finished is removed again"]
pub struct BulkFile<'b, 'd> {
    bulk: &'b mut Bulk<'d>,
    given: PathBuf,
    staged: Staged,
    folder: usize,
    digest: [u8; 16],
    options: WriteOptions,
}

impl Dir {
    /// Begins a bulk: many files that share their barriers. See [`Bulk`].
    pub fn bulk(&self) -> Bulk<'_> {
        self.bulk_with(BulkOptions::default())
    }

    /// As [`Dir::bulk`], with options.
    pub fn bulk_with(&self, options: BulkOptions) -> Bulk<'_> {
        Bulk {
            root: self,
            folders: Folders::new(self),
            window: Vec::new(),
            ledger: Ledger::new(options.hidden.clone()),
            names: HashSet::new(),
            expected: BTreeMap::new(),
            hidden_next: options.hidden.first(),
            options,
        }
    }
}

impl<'d> Bulk<'d> {
    /// Writes `bytes` at once, under a hidden name, to become `name` when the bulk is published. A failure is kept
    /// as this file's result.
    ///
    /// # Durability
    /// None before [`Bulk::publish_all`].
    pub fn replace(&mut self, name: impl AsRef<Path>, bytes: &[u8]) -> &mut Self {
        let options = self.options.write.clone();
        self.replace_with(name, bytes, &options)
    }

    /// As [`Bulk::replace`], with options for this file.
    pub fn replace_with(
        &mut self,
        name: impl AsRef<Path>,
        bytes: &[u8],
        options: &WriteOptions,
    ) -> &mut Self {
        let given = name.as_ref();
        if let Err(error) = self.write_whole(given, bytes, options) {
            self.ledger.fail(given, error);
        }
        self
    }

    /// Begins a file of which the caller writes one piece after the other, and which becomes part of the bulk with
    /// [`BulkFile::finish`]. ([`Unchanged::Skip`] is for the caller to decide here.)
    ///
    /// # Errors
    /// As [`Dir::stage_with`]; [`Invalid::Repeated`]. The error is the caller's alone: the report does not repeat
    /// it, and [`OnFailure`] does not count it.
    pub fn stage(&mut self, name: impl AsRef<Path>, options: &WriteOptions) -> Result<BulkFile<'_, 'd>> {
        let given = name.as_ref();
        let target = self.target(given, options)?;
        self.stage_target(given, target, options)
    }

    fn write_whole(&mut self, given: &Path, bytes: &[u8], options: &WriteOptions) -> Result<()> {
        let target = self.target(given, options)?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if options.unchanged == Unchanged::Skip && holds(&target.place, bytes, options)? {
            sync_existing(&target.place)?;
            self.enter_unchanged(given, &target, len, options);
            return Ok(());
        }
        let mut file = self.stage_target(given, target, options)?;
        file.reserve(len)?;
        file.write_all(bytes)?;
        file.enter()
    }

    /// Checks the name, opens (or creates) its directory, follows links.
    fn target(&mut self, given: &Path, options: &WriteOptions) -> Result<Target> {
        let number = self.hidden_next;
        // Past the last they begin again at 0; a name in use is refused when the file is created.
        self.hidden_next = number.wrapping_add(1);
        let RelativeName { parents, name } = RelativeName::parse(given)?;
        let mut folder = self.folder(&parents, options.parents)?;
        let dir = self.handle(folder)?;
        let path = self.root.path.join(given);
        let durability = Durability::Durable;
        let located = Place { dir: Arc::clone(&dir), name, path, existing: None, durability };
        let mut place = follow_links(located, options.symlinks)?;
        if !Arc::ptr_eq(&dir, &place.dir) {
            drop(dir);
            self.make_room();
            folder = self.folders.adopt(&place)?;
            // The descriptor that the folder keeps, so that there are not two.
            place.dir = self.handle(folder)?;
        }
        if self.options.hidden.includes(&place.name) {
            return Err(Error::invalid(place.path, Invalid::ReservedName));
        }
        let digest = digest(folder, &place.name);
        if self.names.contains(&digest) {
            return Err(Error::invalid(self.root.path.join(given), Invalid::Repeated));
        }
        match place.existing {
            Some(found)
                if found.kind == FileKind::File
                    && found.links > 1
                    && options.hard_links == HardLinks::InPlace =>
            {
                Err(Error::invalid(place.path, Invalid::HardLinkRefused { links: found.links }))
            }
            _ => Ok(Target { place, folder, digest, number }),
        }
    }

    fn folder(&mut self, path: &Path, parents: Parents) -> Result<usize> {
        self.folders.begin()?;
        if let Some(index) = self.folders.find(path) {
            return Ok(index);
        }
        self.make_room();
        let (mut at, missing) = self.folders.deepest(path, parents)?;
        for path in missing.into_iter().rev() {
            let dir = self.handle(at)?;
            at = self.folders.make(at, dir, path)?;
        }
        Ok(at)
    }

    fn handle(&mut self, folder: usize) -> Result<Arc<dyn media::Dir>> {
        self.make_room_for(folder);
        self.folders.handle(folder)
    }

    fn make_room_for(&mut self, folder: usize) {
        if !self.folders.is_open(folder) {
            self.make_room();
        }
    }

    /// Closes directories until another may be opened. Those in use by files of the window stay open as long as
    /// these, so the window is emptied first.
    fn make_room(&mut self) {
        while let Some(pinned) = self.folders.must_close() {
            if pinned {
                self.sync_window();
            }
            self.folders.close_oldest();
        }
    }

    fn stage_target(
        &mut self,
        given: &Path,
        target: Target,
        options: &WriteOptions,
    ) -> Result<BulkFile<'_, 'd>> {
        if self.window.len() >= self.options.window.max(1) {
            self.sync_window();
        }
        let Target { place, folder, digest, number } = target;
        if self.options.sync == BulkSync::WholeFileSystem {
            self.folders.cover(folder);
        }
        let hidden = self.options.hidden.name(number, &place, &self.root.env)?;
        let staged = self.root.stage_as(hidden, place, options)?;
        Ok(BulkFile { bulk: self, given: given.to_owned(), staged, folder, digest, options: options.clone() })
    }

    fn enter_unchanged(&mut self, given: &Path, target: &Target, len: u64, options: &WriteOptions) {
        let facts = Facts {
            folder: target.folder,
            name: &target.place.name,
            hidden: None,
            id: None,
            len,
            existing: target.place.existing,
            change: Change::Unchanged,
            barriers: options.barriers,
            sealable: Sealable::MaySkip,
            state: State::Named,
        };
        self.ledger.push(given, facts);
        self.names.insert(target.digest);
    }

    /// Makes the files of the window durable, on the descriptors that wrote them, and closes them.
    fn sync_window(&mut self) {
        let window = std::mem::take(&mut self.window);
        let (covered, to_sync): (Vec<_>, Vec<_>) = window.into_iter().partition(|waiting| waiting.covered);
        for Waiting { mut staged, .. } in covered {
            staged.temp.disarm();
        }
        if to_sync.is_empty() {
            return;
        }
        let outcomes: Vec<Mutex<Option<io::Result<()>>>> = to_sync.iter().map(|_| Mutex::new(None)).collect();
        let job = |index: usize| {
            if let (Some(waiting), Some(outcome)) = (to_sync.get(index), outcomes.get(index)) {
                let synced = waiting.staged.barrier();
                outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(synced);
            }
        };
        self.root.env.pool.run(self.options.threads.max(1), to_sync.len(), &job);
        for (Waiting { index, staged, .. }, outcome) in to_sync.into_iter().zip(outcomes) {
            // What no thread has synced is not synced.
            let outcome = outcome
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .unwrap_or_else(|| Err(io::Error::other("no thread has synced this file")));
            match staged.sealed_by(outcome) {
                Ok(mut sealed) => sealed.staged.temp.disarm(),
                Err(error) => self.ledger.set(index, State::Failed(error)),
            }
        }
    }

    /// Publishes every file: makes all bytes durable, then gives all names, then syncs each directory once. The
    /// bulk is empty afterwards.
    ///
    /// # Durability
    /// The files that the report calls published survive a power cut (as far as [`BulkReport::durability`]
    /// says), content and name. A power cut *during* the call leaves each file old or new, whole.
    pub fn publish_all(&mut self) -> BulkReport {
        self.publish_all_with(&mut |_| ControlFlow::Continue(()))
    }

    /// As [`Bulk::publish_all`], telling `progress` how far it is. If that breaks before the renames begin, nothing
    /// is renamed, and every file's result is [`Cause::Cancelled`]; once they have begun they are finished.
    ///
    /// # Durability
    /// As [`Bulk::publish_all`].
    pub fn publish_all_with(
        &mut self,
        progress: &mut dyn FnMut(BulkProgress) -> ControlFlow<()>,
    ) -> BulkReport {
        let total = self.ledger.records.len();
        let mut syncing = |done| progress(BulkProgress { phase: BulkPhase::SyncFiles, done, total });
        let mut stopped = syncing(total - self.window.len()).is_break();
        if !stopped {
            self.sync_window();
            self.sync_filesystems();
            stopped = syncing(total).is_break();
        }
        self.close_window();
        if stopped || (self.options.on_failure == OnFailure::PublishNothing && self.ledger.any_failed()) {
            self.abandon();
        } else {
            self.rename_all(progress);
        }
        self.sync_folders(progress);
        self.settle();
        BulkReport::new(self.start_over())
    }

    /// Closes files that were not synced; their hidden names are still the ledger's to remove.
    fn close_window(&mut self) {
        for Waiting { mut staged, .. } in self.window.drain(..) {
            staged.temp.disarm();
        }
    }

    /// Empties the bulk; returns what it held.
    fn start_over(&mut self) -> Ledger {
        let mut fresh = self.root.bulk_with(self.options.clone());
        fresh.hidden_next = self.hidden_next;
        let mut used = std::mem::replace(self, fresh);
        std::mem::take(&mut used.ledger)
    }

    /// Where whole file systems are synced: fails the files on each whose barrier failed.
    fn sync_filesystems(&mut self) {
        if self.options.sync != BulkSync::WholeFileSystem {
            return;
        }
        let outcomes = self.folders.sync_filesystems();
        for index in 0..self.ledger.records.len() {
            let Some(record) = self.hidden_record(index) else { continue };
            let outcome = self.folders.filesystem_of(record.folder).and_then(|covered| outcomes.get(covered));
            if let Some(Err(e)) = outcome {
                let path = self.ledger.path(record, &self.root.path);
                self.fail_hidden(index, Error::os(Stage::SyncFile, path, again(e)));
            }
        }
    }

    fn hidden_record(&self, index: usize) -> Option<&Record> {
        self.ledger.records.get(index).filter(|record| matches!(record.state, State::Hidden))
    }

    /// Removes every hidden file.
    fn abandon(&mut self) {
        for index in 0..self.ledger.records.len() {
            if let Some(record) = self.hidden_record(index) {
                let path = self.ledger.path(record, &self.root.path);
                let error = Error::new(Stage::Rename, TargetState::Unchanged, path, Cause::Cancelled);
                self.fail_hidden(index, error);
            }
        }
    }

    /// Removes the hidden file because of `error`, which becomes its result.
    fn fail_hidden(&mut self, index: usize, error: Error) {
        let leftover = self.remove_hidden(index);
        self.ledger.set(index, State::Failed(error.with_leftover(leftover)));
    }

    fn remove_hidden(&mut self, index: usize) -> Option<Leftover> {
        let record = self.hidden_record(index)?;
        let (folder, hidden) = (record.folder, self.ledger.hidden(record));
        let path = self.folders.path(folder).join(&hidden);
        let dir = match self.handle(folder) {
            Ok(dir) => dir,
            Err(error) => return Some(Leftover { path, error: io::Error::other(error) }),
        };
        match dir.unlink(&hidden) {
            Ok(()) => None,
            Err(e) if Reason::of(&e) == Reason::NotFound => None,
            Err(error) => Some(Leftover { path, error }),
        }
    }

    fn rename_all(&mut self, progress: &mut dyn FnMut(BulkProgress) -> ControlFlow<()>) {
        let total = self.ledger.records.len();
        for index in 0..total {
            if self.hidden_record(index).is_some() {
                match self.rename_one(index) {
                    Ok(()) => self.ledger.set(index, State::Named),
                    Err(error) => self.fail_hidden(index, error),
                }
            }
            if progress(BulkProgress { phase: BulkPhase::Rename, done: index + 1, total }).is_break() {
                tracing::debug!("a bulk that has begun to rename is not stopped");
            }
        }
    }

    fn rename_one(&mut self, index: usize) -> Result<()> {
        let Some(place) = self.expected_place(index)? else { return Ok(()) };
        let Some(record) = self.hidden_record(index) else { return Ok(()) };
        let (hidden, id) = (self.ledger.hidden(record), self.ledger.id(record));
        match place.dir.rename(&hidden, &*place.dir, &place.name, RenameMode::Replace) {
            Ok(()) => {
                place.dir.mark("after_rename");
                Ok(())
            }
            Err(e) => {
                let ambiguous = is_ambiguous(Reason::of(&e));
                let state = if ambiguous { look_for(id, &place, &hidden) } else { TargetState::Unchanged };
                Err(Error::os(Stage::Rename, &place.path, e).in_state(state))
            }
        }
    }

    /// Where a hidden file is to go, if what is there is what its caller expected.
    fn expected_place(&mut self, index: usize) -> Result<Option<Place>> {
        let Some(record) = self.hidden_record(index) else { return Ok(None) };
        let (folder, name) = (record.folder, self.ledger.name(record).to_owned());
        let dir = self.handle(folder)?;
        let path = self.folders.path(folder).join(&name);
        let place = Place { dir, name, path, existing: None, durability: Durability::Durable };
        if let Some(expected) = self.expected.get(&index) {
            place.check(expected)?;
        }
        Ok(Some(place))
    }

    /// One barrier for each directory that gained a name, hidden or not. A directory comes before the one it was created in, so
    /// that no new directory becomes durable ahead of what was put into it.
    fn sync_folders(&mut self, progress: &mut dyn FnMut(BulkProgress) -> ControlFlow<()>) {
        for record in &self.ledger.records {
            if matches!(record.state, State::Hidden | State::Named) {
                self.folders.gained(record.folder);
            }
        }
        let due: Vec<usize> =
            (0..self.folders.len()).rev().filter(|&index| self.folders.needs_sync(index)).collect();
        let total = due.len();
        for (count, index) in due.into_iter().enumerate() {
            self.make_room_for(index);
            self.folders.sync(index);
            if progress(BulkProgress { phase: BulkPhase::SyncDirs, done: count + 1, total }).is_break() {
                tracing::debug!("a bulk that has begun to rename is not stopped");
            }
        }
    }

    /// What each file has reached, now that all barriers are behind.
    fn settle(&mut self) {
        for index in 0..self.ledger.records.len() {
            let Some(record) = self.ledger.records.get(index) else { continue };
            if !matches!(record.state, State::Named) {
                continue;
            }
            let state = match self.folders.failed_barrier(record.folder) {
                None => State::Reached(Durability::Durable),
                Some(error) => not_durable(error, self.ledger.path(record, &self.root.path), record.barriers),
            };
            self.ledger.set(index, state);
        }
    }
}

impl Drop for Bulk<'_> {
    fn drop(&mut self) {
        self.close_window();
        for index in 0..self.ledger.records.len() {
            if let Some(leftover) = self.remove_hidden(index) {
                tracing::warn!(path = %leftover.path.display(), error = %leftover.error, "a temporary file is left");
            }
        }
        for index in (0..self.folders.len()).rev() {
            if self.folders.needs_sync(index) {
                self.make_room_for(index);
                self.folders.sync(index);
                if let Some(error) = self.folders.failed_barrier(index) {
                    tracing::warn!(%error, "a directory created for a bulk is not known to be durable");
                }
            }
        }
    }
}

impl fmt::Debug for Bulk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk")
            .field("root", &self.root.path)
            .field("files", &self.ledger.records.len())
            .field("open", &self.window.len())
            .finish_non_exhaustive()
    }
}

impl BulkFile<'_, '_> {
    /// As [`Staged::reserve`].
    ///
    /// # Errors
    /// As [`Staged::reserve`].
    pub fn reserve(&mut self, len: u64) -> Result<()> {
        self.staged.reserve(len)
    }

    /// Appends `bytes` to what was written so far: all of them, or an error.
    ///
    /// # Errors
    /// As [`Staged::write_all`].
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.staged.write_all(bytes)
    }

    /// Makes the file part of the bulk. A failure, also an earlier one of writing, is kept as its result.
    ///
    /// # Durability
    /// None before [`Bulk::publish_all`].
    pub fn finish(self) {
        let Self { bulk, given, staged, folder, digest, options } = self;
        if let Err(error) = bulk.enter(&given, staged, folder, digest, options) {
            bulk.ledger.fail(&given, error);
        }
    }

    fn enter(self) -> Result<()> {
        let Self { bulk, given, staged, folder, digest, options } = self;
        bulk.enter(&given, staged, folder, digest, options)
    }
}

impl Bulk<'_> {
    /// The file is written: the hint, the attributes, and into the window.
    fn enter(
        &mut self,
        given: &Path,
        mut staged: Staged,
        folder: usize,
        digest: [u8; 16],
        options: WriteOptions,
    ) -> Result<()> {
        staged.start_writeback();
        staged.prepare()?;
        // Its identity, in case a rename leaves open whether it took place.
        let id = match staged.temp.file.metadata() {
            Ok(found) => found.id,
            Err(e) => {
                let error = Error::os(Stage::Metadata, &staged.place.path, e);
                return Err(staged.temp.fail(error));
            }
        };
        let place = &staged.place;
        let facts = Facts {
            folder,
            name: &place.name,
            hidden: Some(&staged.temp.name),
            id,
            len: staged.len(),
            existing: place.existing,
            change: if place.existing.is_some() { Change::Replaced } else { Change::Created },
            barriers: options.barriers,
            sealable: match options.unchanged {
                Unchanged::Skip => Sealable::MaySkip,
                // Following a link changes the path, and nothing else does.
                Unchanged::Write if place.path != self.root.path.join(given) => Sealable::FollowedLink,
                Unchanged::Write => Sealable::Yes,
            },
            state: State::Hidden,
        };
        let index = self.ledger.push(given, facts);
        self.names.insert(digest);
        if let Some(expected) = options.expect {
            self.expected.insert(index, expected);
        }
        let covered =
            self.options.sync == BulkSync::WholeFileSystem && self.folders.filesystem_of(folder).is_some();
        self.window.push(Waiting { index, staged, covered });
        Ok(())
    }
}

impl io::Write for BulkFile<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut self.staged, bytes)
    }

    /// Nothing is buffered here, and this is no barrier.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for BulkFile<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkFile").field("staged", &self.staged).finish_non_exhaustive()
    }
}

/// Stands for a name in the set of those in use: 16 bytes instead of a path, and no two alike in practice.
fn digest(folder: usize, name: &OsStr) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(folder.to_le_bytes());
    hash.update(name.as_encoded_bytes());
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    short
}

/// The file is visible, and a barrier that its name hangs on failed with `error`.
fn not_durable(error: &Error, path: PathBuf, barriers: Barriers) -> State {
    if let Cause::Os { reason, .. } = error.cause()
        && barriers == Barriers::AllowVisibleOnly
        && reason.means_barrier_unsupported()
    {
        return State::Reached(Durability::VisibleOnly(*reason));
    }
    State::Failed(barrier_failed(error, path).in_state(TargetState::ReplacedNotDurable))
}

/// The error of a barrier, for one of the files that it concerns.
fn barrier_failed(error: &Error, path: PathBuf) -> Error {
    let source = match error.cause() {
        Cause::Os { source, .. } => again(source),
        _ => io::Error::other(error.to_string()),
    };
    Error::os(error.stage(), path, source)
}

/// The same error once more, for the next file that it concerns.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
