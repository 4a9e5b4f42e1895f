//! The chain as types: [`Staged`] (hidden, not durable) → [`Sealed`] (its bytes durable) → published (its name
//! durable). A step that must come first gives the value that the next step needs.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::{Access, Env, FileId, FileKind, Metadata, Mode, Reason, RenameMode};

use crate::attributes::{self, Attributes};
use crate::dir::{Dir, Place, is_ambiguous, read_place, sync_dir, sync_existing};
use crate::error::{Cause, Error, Invalid, Kind, Leftover, Result, Stage, TargetState};
use crate::in_place;
use crate::name::{Own, Purpose};
use crate::options::{
    Change, Durability, HardLinks, Published, RenameRefused, Symlinks, Unchanged, WriteOptions,
};

/// From this length on, space is reserved before writing: a full disk shows at once, and the file is laid out in
/// one piece. For small files it would cost an extent conversion and protect nothing.
const RESERVE_FROM: u64 = 1 << 20;

/// Every so many bytes the system is asked to begin writing, so that the barrier at the end is short and a
/// stream of any length keeps few dirty pages.
const WRITEBACK_EVERY: u64 = 8 << 20;

/// A file of ours that nobody sees under a name of theirs. Removed when dropped.
pub(crate) struct Temp {
    pub(crate) dir: Arc<dyn media::Dir>,
    pub(crate) name: OsString,
    pub(crate) file: Arc<dyn media::File>,
    path: PathBuf,
    armed: bool,
}

impl Temp {
    /// Creates one beside `place`: exclusively, following no link.
    pub(crate) fn create(place: &Place, purpose: Purpose, mode: Mode, env: &Env) -> Result<Self> {
        let name = Own::fresh(purpose, env).map_err(|e| Error::os(Stage::TempWrite, &place.path, e))?;
        Self::create_as(name, place, mode)
    }

    /// As [`Temp::create`], under a name that was chosen.
    fn create_as(name: OsString, place: &Place, mode: Mode) -> Result<Self> {
        let file = place
            .dir
            .create_exclusive(&name, mode)
            .map_err(|e| Error::os(Stage::TempWrite, &place.path, e))?;
        let path = place.sibling_path(&name);
        Ok(Self { dir: Arc::clone(&place.dir), name, file, path, armed: true })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The name is somebody's now (or nobody's): nothing is left to remove.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }

    /// Removes it and says if that failed.
    pub(crate) fn discard(&mut self) -> Option<Leftover> {
        if !std::mem::take(&mut self.armed) {
            return None;
        }
        match self.dir.unlink(&self.name) {
            Ok(()) => None,
            Err(e) if Reason::of(&e) == Reason::NotFound => None,
            Err(error) => Some(Leftover { path: self.path.clone(), error }),
        }
    }

    /// Removes it because of `error`, which also reports if that failed.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        error.with_leftover(self.discard())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(leftover) = self.discard() {
            tracing::warn!(path = %leftover.path.display(), error = %leftover.error, "a temporary file is left");
        }
    }
}

/// A file being written under a hidden name. Dropping it removes it; the target is untouched until
/// [`Sealed::publish`].
#[must_use = "a staged file that is not sealed and published is removed again"]
pub struct Staged {
    pub(crate) temp: Temp,
    pub(crate) place: Place,
    options: WriteOptions,
    attributes: Attributes,
    env: Env,
    len: u64,
    hinted_len: u64,
    /// The first failed write; a file with a hole where it was must never be sealed.
    failed: Option<String>,
}

impl Dir {
    /// Begins writing `name` under a hidden name beside it (beside the file that a symbolic link leads to).
    ///
    /// # Durability
    /// None yet.
    ///
    /// # Errors
    /// Of the name, of looking at the target, of creating the temporary file. The target is unchanged.
    pub fn stage(&self, name: impl AsRef<Path>) -> Result<Staged> {
        self.stage_with(name, &WriteOptions::default())
    }

    /// As [`Dir::stage`], with options.
    ///
    /// # Errors
    /// As [`Dir::stage`].
    pub fn stage_with(&self, name: impl AsRef<Path>, options: &WriteOptions) -> Result<Staged> {
        let place = self.resolve(name.as_ref(), options.symlinks, options.parents, options.barriers)?;
        self.stage_at(place, options)
    }

    pub(crate) fn stage_at(&self, place: Place, options: &WriteOptions) -> Result<Staged> {
        let name =
            Own::fresh(Purpose::Temp, &self.env).map_err(|e| Error::os(Stage::TempWrite, &place.path, e))?;
        self.stage_as(name, place, options)
    }

    /// As [`Dir::stage_at`], under a hidden name that was chosen.
    pub(crate) fn stage_as(&self, hidden: OsString, place: Place, options: &WriteOptions) -> Result<Staged> {
        if let Some(Metadata { kind: FileKind::File, links, .. }) = place.existing
            && links > 1
            && options.hard_links == HardLinks::Refuse
        {
            return Err(Error::invalid(&place.path, Invalid::HardLinkRefused { links }));
        }
        let attributes = Attributes::gather(&place, options)?;
        let temp = Temp::create_as(hidden, &place, attributes.at_birth())?;
        place.dir.mark("after_create");
        Ok(Staged {
            temp,
            place,
            options: options.clone(),
            attributes,
            env: self.env.clone(),
            len: 0,
            hinted_len: 0,
            failed: None,
        })
    }
}

impl Staged {
    /// How many bytes were written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Announces the final length, so that a full disk shows before the writing. Only lengths from 1 MiB on are
    /// reserved; where the file system cannot, nothing happens.
    ///
    /// # Errors
    /// [`Kind::NoSpace`].
    pub fn reserve(&mut self, len: u64) -> Result<()> {
        if let Some(first) = &self.failed {
            return Err(self.poisoned(first.clone()));
        }
        if len < RESERVE_FROM {
            return Ok(());
        }
        match self.temp.file.allocate(len) {
            Err(e) if Reason::of(&e) != Reason::Unsupported => Err(self.write_failed(e)),
            _ => Ok(()),
        }
    }

    /// Appends `bytes` to what was written so far: all of them, or an error.
    ///
    /// # Errors
    /// At [`Stage::TempWrite`]; the temporary file is removed, the target unchanged.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(first) = &self.failed {
            return Err(self.poisoned(first.clone()));
        }
        if let Err(e) = media::write_all_at(&*self.temp.file, self.len, bytes) {
            return Err(self.write_failed(e));
        }
        self.len += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.len - self.hinted_len >= WRITEBACK_EVERY {
            self.start_writeback();
        }
        Ok(())
    }

    /// Asks the system to begin writing what it has not been asked to write yet. A hint, without any promise: if
    /// it fails, the barrier later takes longer.
    pub(crate) fn start_writeback(&mut self) {
        let hint = self.temp.file.start_writeback(self.hinted_len, self.len - self.hinted_len);
        if let Err(error) = hint {
            tracing::debug!(%error, "writeback hint refused");
        }
        self.hinted_len = self.len;
    }

    fn write_failed(&mut self, e: io::Error) -> Error {
        let error = Error::os(Stage::TempWrite, &self.place.path, e);
        self.failed = Some(error.to_string());
        self.temp.fail(error)
    }

    fn poisoned(&self, first: String) -> Error {
        Error::new(Stage::TempWrite, TargetState::Unchanged, &self.place.path, Cause::Poisoned(first))
    }

    /// Removes the temporary file.
    ///
    /// # Errors
    /// At [`Stage::Cleanup`], if it could not be removed.
    pub fn discard(mut self) -> Result<()> {
        match self.temp.discard() {
            None => Ok(()),
            Some(Leftover { path, error }) => Err(Error::os(Stage::Cleanup, path, error)),
        }
    }

    /// Whether the target exists and holds exactly the bytes written so far. One that may not be read does not.
    ///
    /// # Errors
    /// Of reading either file.
    pub fn same_as_target(&self) -> Result<bool> {
        let existing = self.place.existing;
        if !existing.is_some_and(|found| attributes::may_be_unchanged(&found, self.len, &self.options)) {
            return Ok(false);
        }
        let fail = |e| Error::os(Stage::Read, &self.place.path, e);
        let old = match self.place.dir.open(&self.place.name, Access::Read) {
            Err(e) if matches!(Reason::of(&e), Reason::NotFound | Reason::PermissionDenied) => {
                return Ok(false);
            }
            outcome => outcome.map_err(fail)?,
        };
        let (mut ours, mut theirs) = (vec![0_u8; 64 << 10], vec![0_u8; 64 << 10]);
        let mut at = 0;
        loop {
            let ours = read_full(&*self.temp.file, at, &mut ours).map_err(fail)?;
            let theirs = read_full(&*old, at, &mut theirs).map_err(fail)?;
            if ours != theirs {
                return Ok(false);
            }
            if ours.is_empty() {
                return Ok(true);
            }
            at += u64::try_from(ours.len()).unwrap_or(u64::MAX);
        }
    }

    /// Leaves a target alone that already has the content: removes the temporary file, and issues the barriers on
    /// what is there, because whoever wrote it may not have.
    ///
    /// # Errors
    /// At [`Stage::SyncFile`] or [`Stage::SyncDir`].
    pub fn settle_unchanged(mut self) -> Result<Published> {
        let leftover = self.temp.discard();
        let mut published = keep_unchanged(&self.place, &self.options, self.len)?;
        published.leftover = leftover;
        Ok(published)
    }

    /// Gives the file its owner, mode and attributes, then makes its bytes durable.
    ///
    /// # Durability
    /// The bytes are durable on return, **under the hidden name, which is not**: only [`Sealed::publish`]
    /// promises a name.
    ///
    /// # Errors
    /// At [`Stage::Metadata`] or [`Stage::SyncFile`]: the target is unchanged and the temporary file removed. A
    /// failed barrier is never repeated; the data must be written again, from the start.
    pub fn seal(mut self) -> Result<Sealed> {
        self.prepare()?;
        let outcome = self.barrier();
        self.sealed_by(outcome)
    }

    /// The file barrier itself, on the descriptor that wrote: another one may not be told of a failed writeback.
    pub(crate) fn barrier(&self) -> io::Result<()> {
        self.temp.file.sync_all()?;
        self.place.dir.mark("after_fsync");
        Ok(())
    }

    /// What the barrier has made of it.
    pub(crate) fn sealed_by(mut self, outcome: io::Result<()>) -> Result<Sealed> {
        match outcome {
            Ok(()) => Ok(Sealed { staged: self }),
            Err(e) => {
                let error = Error::os(Stage::SyncFile, &self.place.path, e);
                Err(self.temp.fail(error))
            }
        }
    }

    /// Everything before the barrier.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        if let Some(first) = self.failed.take() {
            let error = self.poisoned(first);
            return Err(self.temp.fail(error));
        }
        self.place.dir.mark("after_write");
        if let Err(e) = self.attributes.apply(&*self.temp.file) {
            let error = Error::os(Stage::Metadata, &self.place.path, e);
            return Err(self.temp.fail(error));
        }
        Ok(())
    }
}

impl io::Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    /// Nothing is buffered here, and this is no barrier: [`Staged::seal`] is.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged")
            .field("target", &self.place.path)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Fills `into` as far as the file goes.
pub(crate) fn read_full<'a>(file: &dyn media::File, at: u64, into: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(at + u64::try_from(filled).map_err(io::Error::other)?, rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(into.get(..filled).unwrap_or(&[]))
}

/// Whether the target already has these bytes and the mode asked for.
pub(crate) fn holds(place: &Place, bytes: &[u8], options: &WriteOptions) -> Result<bool> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if !place.existing.is_some_and(|found| attributes::may_be_unchanged(&found, len, options)) {
        return Ok(false);
    }
    match read_place(place, len) {
        Ok(old) => Ok(old == bytes),
        // Gone, or grown, since it was looked at: then it is not the same.
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => Ok(false),
        // What may be replaced and not read cannot be compared; so it is replaced.
        Err(error) if error.reason() == Some(Reason::PermissionDenied) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The barriers of a replace on a file that is already as asked; it must be the one expected all the same.
pub(crate) fn keep_unchanged(place: &Place, options: &WriteOptions, len: u64) -> Result<Published> {
    if let Some(expected) = &options.expect {
        place.check(expected)?;
    }
    sync_existing(place)?;
    // Nothing changed that a failed barrier could undo, but nothing is known to be durable either.
    let reached = sync_dir(&*place.dir, &place.path, options.barriers)?;
    let other_links = place.existing.map_or(0, |found| found.links.saturating_sub(1));
    Ok(Published {
        durability: place.durability.and(reached),
        change: Change::Unchanged,
        other_links,
        len,
        leftover: None,
        second_leftover: None,
    })
}

/// Where the file `ours` is now: under its target's name, under the hidden one, or nobody knows.
pub(crate) fn look_for(ours: Option<FileId>, place: &Place, hidden: &OsStr) -> TargetState {
    if ours.is_none() {
        return TargetState::Unknown;
    }
    match place.dir.metadata(&place.name) {
        Ok(found) if found.id == ours => return TargetState::ReplacedNotDurable,
        Ok(_) => {}
        Err(e) if Reason::of(&e) == Reason::NotFound => {}
        // The hidden name proves nothing by itself: a link leaves it where it was.
        Err(_) => return TargetState::Unknown,
    }
    match place.dir.metadata(hidden) {
        Ok(found) if found.id == ours => TargetState::Unchanged,
        _ => TargetState::Unknown,
    }
}

/// How a sealed file gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// In place of whatever has the name, atomically.
    Replace,
    /// Only if nothing has it.
    CreateNew,
}

/// A file whose bytes are durable and whose name is not. Dropping it removes it.
#[must_use = "a sealed file that is not published is removed again"]
#[derive(Debug)]
pub struct Sealed {
    pub(crate) staged: Staged,
}

/// A publish that did not succeed. Where the temporary file is still whole, it is handed back for another try;
/// turning this into an [`Error`] (or dropping it) removes it.
#[derive(Debug)]
pub struct PublishFailure {
    /// What went wrong.
    pub error: Error,
    /// The file, where the target is unchanged.
    pub sealed: Option<Sealed>,
}

impl From<Box<PublishFailure>> for Error {
    fn from(failure: Box<PublishFailure>) -> Self {
        let PublishFailure { error, sealed } = *failure;
        match sealed {
            Some(mut sealed) => sealed.staged.temp.fail(error),
            None => error,
        }
    }
}

impl fmt::Display for PublishFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for PublishFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Sealed {
    /// Gives the file its name, atomically, then makes the name durable.
    ///
    /// # Durability
    /// On return content and name survive a power cut ([`Durability::Durable`]), unless the caller allowed
    /// less.
    ///
    /// # Errors
    /// At [`Stage::Rename`] the target is `Unchanged` (the file is handed back), or, where the system's answer
    /// left it open and looking did not settle it, `Unknown`. At [`Stage::SyncDir`] it is `ReplacedNotDurable`:
    /// visible, never rolled back.
    pub fn publish(self, how: Publish) -> std::result::Result<Published, Box<PublishFailure>> {
        if let Some(expected) = &self.staged.options.expect
            && let Err(error) = self.staged.place.check(expected)
        {
            return Err(self.hand_back(error));
        }
        match how {
            Publish::Replace => self.replace(),
            Publish::CreateNew => self.create_new(),
        }
    }

    fn hand_back(self, error: Error) -> Box<PublishFailure> {
        Box::new(PublishFailure { error, sealed: Some(self) })
    }

    fn replace(mut self) -> std::result::Result<Published, Box<PublishFailure>> {
        let existing = self.staged.place.existing.filter(|found| found.kind == FileKind::File);
        if self.staged.options.hard_links == HardLinks::InPlace
            && existing.is_some_and(|found| found.links > 1)
        {
            return self.overwrite();
        }
        let Staged { temp, place, .. } = &mut self.staged;
        if let Err(e) = place.dir.rename(&temp.name, &*place.dir, &place.name, RenameMode::Replace) {
            return self.rename_failed(e, Publish::Replace);
        }
        temp.disarm();
        let change = if place.existing.is_some() { Change::Replaced } else { Change::Created };
        self.named(change)
    }

    fn create_new(mut self) -> std::result::Result<Published, Box<PublishFailure>> {
        let Staged { temp, place, .. } = &mut self.staged;
        match place.dir.rename(&temp.name, &*place.dir, &place.name, RenameMode::NoReplace) {
            Ok(()) => temp.disarm(),
            Err(e) if Reason::of(&e) == Reason::Unsupported => {
                // A hard link fails on an existing name too; the hidden name is then one too many.
                if let Err(e) = place.dir.link(&temp.name, &place.name) {
                    return self.rename_failed(e, Publish::CreateNew);
                }
            }
            Err(e) => return self.rename_failed(e, Publish::CreateNew),
        }
        self.named(Change::Created)
    }

    /// The file has its name; make that durable.
    fn named(self, change: Change) -> std::result::Result<Published, Box<PublishFailure>> {
        let Staged { mut temp, place, options, len, .. } = self.staged;
        place.dir.mark("after_rename");
        let leftover = temp.discard();
        let existing = place.existing.filter(|found| found.kind == FileKind::File);
        match sync_dir(&*place.dir, &place.path, options.barriers) {
            Ok(reached) => Ok(Published {
                durability: place.durability.and(reached),
                change,
                other_links: existing.map_or(0, |found| found.links.saturating_sub(1)),
                len,
                leftover,
                second_leftover: None,
            }),
            Err(error) => {
                Err(Box::new(PublishFailure { error: error.with_leftover(leftover), sealed: None }))
            }
        }
    }

    fn rename_failed(
        self,
        e: io::Error,
        how: Publish,
    ) -> std::result::Result<Published, Box<PublishFailure>> {
        let reason = Reason::of(&e);
        let refused = matches!(reason, Reason::Busy | Reason::PermissionDenied);
        let asked = self.staged.options.rename_refused == RenameRefused::InPlace;
        let is_file = self.staged.place.existing.is_some_and(|found| found.kind == FileKind::File);
        if refused && asked && is_file && how == Publish::Replace {
            return self.overwrite();
        }
        let error = Error::os(Stage::Rename, &self.staged.place.path, e);
        if !is_ambiguous(reason) {
            return Err(self.hand_back(error));
        }
        match self.look() {
            TargetState::Unchanged => Err(self.hand_back(error)),
            state => {
                let mut temp = self.staged.temp;
                let error = temp.fail(error.in_state(state));
                Err(Box::new(PublishFailure { error, sealed: None }))
            }
        }
    }

    /// After an answer that leaves it open whether the file got its name: look for it, by identity.
    fn look(&self) -> TargetState {
        let Staged { temp, place, .. } = &self.staged;
        look_for(temp.file.metadata().ok().and_then(|found| found.id), place, &temp.name)
    }

    /// The policy asked for it: overwrite the existing file, after a durable backup.
    fn overwrite(mut self) -> std::result::Result<Published, Box<PublishFailure>> {
        let Staged { temp, place, options, env, .. } = &mut self.staged;
        match in_place::overwrite(temp, place, options, env) {
            Ok(overwritten) => {
                let Staged { place, len, .. } = self.staged;
                let [leftover, second_leftover] = overwritten.leftovers;
                Ok(Published {
                    durability: place.durability.and(overwritten.durability),
                    change: Change::Overwritten,
                    other_links: place.existing.map_or(0, |found| found.links.saturating_sub(1)),
                    len,
                    leftover,
                    second_leftover,
                })
            }
            Err(error) if error.state() == TargetState::Unchanged => Err(self.hand_back(error)),
            Err(error) => {
                let mut temp = self.staged.temp;
                Err(Box::new(PublishFailure { error: temp.fail(error), sealed: None }))
            }
        }
    }
}

impl Dir {
    /// Replaces `name` (or creates it) with `bytes`: atomically for every reader, durably on return.
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// let dir = durable_io::Dir::open(root.path())?;
    /// let published = dir.replace("config.json", b"{}")?;
    /// assert_eq!(published.durability, durable_io::Durability::Durable);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Durability
    /// Content and name survive a power cut on return. At no moment does a reader, or a power cut, find
    /// anything but the whole old or the whole new content.
    ///
    /// # Errors
    /// Any [`Stage`]; [`Error::state`] says what is true of the target. No temporary file is left, unless
    /// [`Error::cleanup`] names it.
    pub fn replace(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<Published> {
        self.replace_with(name, bytes, &WriteOptions::default())
    }

    /// As [`Dir::replace`], with options.
    ///
    /// # Errors
    /// As [`Dir::replace`].
    pub fn replace_with(
        &self,
        name: impl AsRef<Path>,
        bytes: &[u8],
        options: &WriteOptions,
    ) -> Result<Published> {
        let place = self.resolve(name.as_ref(), options.symlinks, options.parents, options.barriers)?;
        self.replace_at(place, bytes, options)
    }

    pub(crate) fn replace_at(&self, place: Place, bytes: &[u8], options: &WriteOptions) -> Result<Published> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if options.unchanged == Unchanged::Skip && holds(&place, bytes, options)? {
            return keep_unchanged(&place, options, len);
        }
        let mut staged = self.stage_at(place, options)?;
        staged.reserve(len)?;
        staged.write_all(bytes)?;
        Ok(staged.seal()?.publish(Publish::Replace)?)
    }

    /// Creates `name` with `bytes`, durably, only if nothing has that name (a dangling symbolic link counts).
    ///
    /// # Durability
    /// As [`Dir::replace`].
    ///
    /// # Errors
    /// [`Kind::Exists`], otherwise as [`Dir::replace`].
    pub fn create_new(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<Published> {
        self.create_new_with(name, bytes, &WriteOptions::default())
    }

    /// As [`Dir::create_new`], with options.
    ///
    /// # Errors
    /// As [`Dir::create_new`].
    pub fn create_new_with(
        &self,
        name: impl AsRef<Path>,
        bytes: &[u8],
        options: &WriteOptions,
    ) -> Result<Published> {
        let mut staged = self.stage_new(name, options)?;
        staged.reserve(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        staged.write_all(bytes)?;
        Ok(staged.seal()?.publish(Publish::CreateNew)?)
    }

    /// As [`Dir::stage_with`] for a name that must be free, for [`Publish::CreateNew`]. What has the name by then
    /// still decides; this look spares writing a large file in vain.
    ///
    /// # Errors
    /// [`Kind::Exists`], otherwise as [`Dir::stage`].
    pub fn stage_new(&self, name: impl AsRef<Path>, options: &WriteOptions) -> Result<Staged> {
        let place = self.resolve(name.as_ref(), Symlinks::Replace, options.parents, options.barriers)?;
        if place.existing.is_some() {
            return Err(Error::exists(Stage::Inspect, place.path));
        }
        self.stage_at(place, options)
    }
}

impl Durability {
    /// Whether it survives a power cut.
    #[must_use]
    pub fn is_durable(self) -> bool {
        self == Self::Durable
    }
}
