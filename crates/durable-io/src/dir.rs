//! [`Dir`]: an open directory, and the durable operations that need no temporary file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::{Access, Env, FileKind, Fs, Metadata, Mode, OsFs, Reason, RenameMode};
use sha2::{Digest as _, Sha256};

use crate::error::{Cause, Error, Invalid, Result, Stage, TargetState};
use crate::name::{RelativeName, is_reserved};
use crate::options::{Barriers, Durability, Parents, Stamp, StampOf, Symlinks};

/// The most that [`Dir::read`] takes into memory: 256 MiB.
pub const READ_LEN_MAX: u64 = 256 << 20;

/// How many symbolic links are followed in a row, as in Linux itself.
const LINKS_MAX: usize = 40;

/// An open directory. Everything is relative to its descriptor, so a directory that is renamed or replaced
/// while it is open stays the one that was opened. Cheap to clone.
///
/// Names given to its methods are paths **below** it (`config.json`, `sub/config.json`): no `..`, not absolute.
#[derive(Debug, Clone)]
pub struct Dir {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: Arc<dyn media::Dir>,
    pub(crate) path: PathBuf,
    pub(crate) env: Env,
}

/// A name that was resolved: its own directory, and what is there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: Arc<dyn media::Dir>,
    pub(crate) name: OsString,
    /// For messages: the path as the caller would write it.
    pub(crate) path: PathBuf,
    pub(crate) existing: Option<Metadata>,
    /// What creating the parents has reached.
    pub(crate) durability: Durability,
}

impl Place {
    fn parents(&self) -> Option<&Path> {
        self.path.parent()
    }

    pub(crate) fn sibling_path(&self, name: &OsStr) -> PathBuf {
        self.path.with_file_name(name)
    }
}

impl Dir {
    /// Opens a directory of the operating system.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound), [`Kind::Denied`](crate::Kind::Denied), …
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(OsFs::shared(), path, Env::os())
    }

    /// Opens a directory of any file system, with time, randomness, identity and threads passed in.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn open_on(fs: Arc<dyn Fs>, path: impl AsRef<Path>, env: Env) -> Result<Self> {
        let path = path.as_ref();
        check_bytes(path)?;
        let dir = fs.open_dir(path).map_err(|e| Error::os(Stage::OpenDir, path, e))?;
        Ok(Self { fs, dir, path: path.to_owned(), env })
    }

    /// Opens a directory of the operating system and creates what is missing of its path, **durably**: each new
    /// directory's parent is synced.
    ///
    /// # Errors
    /// As [`Dir::open`] and [`Dir::create_dir`].
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_or_create_on(OsFs::shared(), path, Env::os())
    }

    /// As [`Dir::open_or_create`] on any file system.
    ///
    /// # Errors
    /// As [`Dir::open_or_create`].
    pub fn open_or_create_on(fs: Arc<dyn Fs>, path: impl AsRef<Path>, env: Env) -> Result<Self> {
        let path = path.as_ref();
        match Self::open_on(Arc::clone(&fs), path, env.clone()) {
            Err(error) if error.reason() == Some(Reason::NotFound) => {}
            outcome => return outcome,
        }
        let base = if path.is_absolute() { Path::new("/") } else { Path::new(".") };
        let base = Self::open_on(fs, base, env)?;
        let below = path.strip_prefix("/").unwrap_or(path);
        let (dir, durability) = base.walk(below, Parents::Create, Barriers::Required)?;
        debug_assert_eq!(durability, Durability::Durable, "Required never answers less");
        Ok(Self { dir, path: path.to_owned(), ..base })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory itself, for calls that promise nothing by themselves.
    #[must_use]
    pub fn as_media(&self) -> &Arc<dyn media::Dir> {
        &self.dir
    }

    /// The file system it was opened on.
    #[must_use]
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// The time, randomness, identity and threads it was opened with.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// A directory below this one.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn subdir(&self, name: impl AsRef<Path>) -> Result<Self> {
        let name = name.as_ref();
        RelativeName::parse(name)?;
        let path = self.path.join(name);
        let dir = self.dir.open_dir(name).map_err(|e| Error::os(Stage::OpenDir, &path, e))?;
        Ok(Self { dir, path, fs: Arc::clone(&self.fs), env: self.env.clone() })
    }

    /// As [`Dir::subdir`], creating what is missing of it, **durably**: each new directory's parent is synced. How far that
    /// has come: less than durable only where `barriers` allow it.
    ///
    /// # Errors
    /// As [`Dir::open`] and [`Dir::create_dir`].
    pub fn subdir_or_create(&self, name: impl AsRef<Path>, barriers: Barriers) -> Result<(Self, Durability)> {
        let name = name.as_ref();
        RelativeName::parse(name)?;
        let (dir, durability) = self.walk(name, Parents::Create, barriers)?;
        let path = self.path.join(name);
        Ok((Self { dir, path, fs: Arc::clone(&self.fs), env: self.env.clone() }, durability))
    }

    /// Reads a whole file, at most [`READ_LEN_MAX`] bytes of it; follows symbolic links. Takes no lock: a file that
    /// is only ever replaced is never seen half-written.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound); [`Invalid::TooLong`]; of reading.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<Vec<u8>> {
        self.read_up_to(name, READ_LEN_MAX)
    }

    /// As [`Dir::read`], with a bound of the caller's.
    ///
    /// # Errors
    /// As [`Dir::read`].
    pub fn read_up_to(&self, name: impl AsRef<Path>, len_max: u64) -> Result<Vec<u8>> {
        let place = self.resolve(name.as_ref(), Symlinks::Follow, Parents::MustExist, Barriers::Required)?;
        read_place(&place, len_max)
    }

    /// Reads a whole file and stamps it, for a later compare-and-swap through
    /// [`WriteOptions::expect`](crate::WriteOptions::expect). A missing file gives no bytes and
    /// [`Stamp::missing`].
    ///
    /// # Errors
    /// As [`Dir::read`], without `NotFound`.
    pub fn read_stamped(&self, name: impl AsRef<Path>) -> Result<(Option<Vec<u8>>, Stamp)> {
        let place =
            match self.resolve(name.as_ref(), Symlinks::Follow, Parents::MustExist, Barriers::Required) {
                // A file in a directory that does not exist does not exist either; writing it creates both.
                Err(error) if error.reason() == Some(Reason::NotFound) => {
                    return Ok((None, Stamp::missing()));
                }
                outcome => outcome?,
            };
        stamp_place(&place)
    }

    /// Makes the bytes of an existing file durable, whoever wrote them. Says nothing about its name.
    ///
    /// # Errors
    /// At [`Stage::SyncFile`]: what was written since the last successful barrier may be lost.
    pub fn sync_file(&self, name: impl AsRef<Path>) -> Result<()> {
        let place = self.resolve(name.as_ref(), Symlinks::Follow, Parents::MustExist, Barriers::Required)?;
        sync_existing(&place)
    }

    /// Makes every name in this directory durable, whoever added, removed or renamed it.
    ///
    /// # Errors
    /// At [`Stage::SyncDir`]; of [`Kind::Unsupported`](crate::Kind::Unsupported) where directories cannot be
    /// synced.
    pub fn sync_names(&self) -> Result<()> {
        self.dir.sync().map_err(|e| Error::os(Stage::SyncDir, &self.path, e))?;
        self.dir.mark("after_dirsync");
        Ok(())
    }

    /// Removes a file (a symbolic link itself, not what it leads to), durably.
    ///
    /// # Durability
    /// On return the name stays gone after a power cut.
    ///
    /// # Errors
    /// At [`Stage::Remove`] nothing happened; at [`Stage::SyncDir`] the name is gone but may come back.
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<Durability> {
        self.remove_with(name, Barriers::Required)
    }

    /// As [`Dir::remove`], choosing what to do where directories cannot be synced.
    ///
    /// # Errors
    /// As [`Dir::remove`].
    pub fn remove_with(&self, name: impl AsRef<Path>, barriers: Barriers) -> Result<Durability> {
        let place = self.locate(name.as_ref(), Parents::MustExist, barriers)?;
        place.dir.unlink(&place.name).map_err(|e| {
            let state =
                if is_ambiguous(Reason::of(&e)) { gone_or_unknown(&place) } else { TargetState::Unchanged };
            Error::os(Stage::Remove, &place.path, e).in_state(state)
        })?;
        place.dir.mark("after_unlink");
        sync_dir(&*place.dir, &place.path, barriers)
    }

    /// Renames a file or directory, durably, replacing `to` if it exists. A regular file's bytes are made durable
    /// first: a durable name for bytes that are not would be worth nothing, and cost what `to` held before.
    ///
    /// # Durability
    /// On return the new name survives a power cut, with the file's bytes, and the old one stays gone.
    ///
    /// # Errors
    /// Up to [`Stage::Rename`] nothing happened; at [`Stage::SyncDir`] the rename is visible but may be undone.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Durability> {
        self.rename_to(from, self, to, RenameMode::Replace, Barriers::Required)
    }

    /// As [`Dir::rename`], into another directory of the same file system, and with a choice of what happens to
    /// an existing `to`. The directory that gains the name is synced before the one that loses it: a power cut
    /// in between leaves two names rather than none.
    ///
    /// # Errors
    /// As [`Dir::rename`]; [`Reason::CrossDevice`] between file systems.
    pub fn rename_to(
        &self,
        from: impl AsRef<Path>,
        to_dir: &Self,
        to: impl AsRef<Path>,
        how: RenameMode,
        barriers: Barriers,
    ) -> Result<Durability> {
        let from = self.locate(from.as_ref(), Parents::MustExist, barriers)?;
        let to = to_dir.locate(to.as_ref(), Parents::MustExist, barriers)?;
        let moved = inspect_any(&from)?;
        if moved.kind == FileKind::File {
            sync_existing(&from)?;
            if how == RenameMode::Replace && moved.links > 1 && is_other_name(&from, &to, &moved)? {
                return drop_other_name(&from, &to, barriers);
            }
        }
        if how == RenameMode::Exchange && inspect_any(&to)?.kind == FileKind::File {
            sync_existing(&to)?;
        }
        if let Err(error) = from.dir.rename(&from.name, &*to.dir, &to.name, how) {
            let state = if is_ambiguous(Reason::of(&error)) {
                after_ambiguous_rename(&from, &to, &moved)
            } else {
                TargetState::Unchanged
            };
            return Err(Error::os(Stage::Rename, &to.path, error).in_state(state));
        }
        from.dir.mark("after_rename");
        let gained = sync_dir(&*to.dir, &to.path, barriers)?;
        if Arc::ptr_eq(&self.dir, &to_dir.dir) && from.parents() == to.parents() {
            return Ok(gained);
        }
        Ok(gained.and(sync_dir(&*from.dir, &to.path, barriers)?))
    }

    /// Creates a directory, durably, with mode `0777` less the umask.
    ///
    /// # Durability
    /// On return the directory survives a power cut. Missing parents are an error here; see
    /// [`Dir::open_or_create`].
    ///
    /// # Errors
    /// [`Kind::Exists`](crate::Kind::Exists); at [`Stage::SyncDir`] it exists but may vanish.
    pub fn create_dir(&self, name: impl AsRef<Path>) -> Result<Durability> {
        self.create_dir_with(name, None, Barriers::Required)
    }

    /// As [`Dir::create_dir`], with an exact mode (the directory is never visible to others with a wider one).
    ///
    /// # Errors
    /// As [`Dir::create_dir`]; at [`Stage::Metadata`] it exists for its owner alone, and the state is `Unknown`.
    pub fn create_dir_with(
        &self,
        name: impl AsRef<Path>,
        mode: Option<Mode>,
        barriers: Barriers,
    ) -> Result<Durability> {
        let place = self.locate(name.as_ref(), Parents::MustExist, barriers)?;
        let settled = match mode {
            Some(mode) => make_dir_with_mode(&place, mode, barriers)?,
            None => create_dir(&place, Mode::DIR).map(|()| Durability::Durable)?,
        };
        Ok(settled.and(sync_dir(&*place.dir, &place.path, barriers)?))
    }

    /// Checks `name` and opens its directory; looks at nothing else.
    pub(crate) fn locate(&self, name: &Path, parents: Parents, barriers: Barriers) -> Result<Place> {
        // `./config.json` says no more than `config.json`.
        let path = if self.path == Path::new(".") { name.to_owned() } else { self.path.join(name) };
        let RelativeName { parents: below, name } = RelativeName::parse(name)?;
        let (dir, durability) = self.walk(&below, parents, barriers)?;
        Ok(Place { dir, name, path, existing: None, durability })
    }

    /// As [`Dir::locate`], then looks at what is there and follows symbolic links as `policy` says.
    pub(crate) fn resolve(
        &self,
        name: &Path,
        policy: Symlinks,
        parents: Parents,
        barriers: Barriers,
    ) -> Result<Place> {
        follow_links(self.locate(name, parents, barriers)?, policy)
    }

    /// Opens the directory at `below`, creating what is missing if asked to.
    fn walk(
        &self,
        below: &Path,
        parents: Parents,
        barriers: Barriers,
    ) -> Result<(Arc<dyn media::Dir>, Durability)> {
        if below.as_os_str().is_empty() {
            return Ok((Arc::clone(&self.dir), Durability::Durable));
        }
        match self.dir.open_dir(below) {
            Ok(dir) => return Ok((dir, Durability::Durable)),
            Err(e) if parents == Parents::Create && Reason::of(&e) == Reason::NotFound => {}
            Err(e) => return Err(Error::os(Stage::OpenDir, self.path.join(below), e)),
        }
        let mut at = Arc::clone(&self.dir);
        let mut path = self.path.clone();
        let mut durability = Durability::Durable;
        for part in below.components() {
            path.push(part);
            let name = part.as_os_str();
            at = match at.open_dir(Path::new(name)) {
                Ok(dir) => dir,
                Err(e) if Reason::of(&e) == Reason::NotFound => {
                    let place = Place {
                        dir: at,
                        name: name.to_owned(),
                        path: path.clone(),
                        existing: None,
                        durability,
                    };
                    match make_dir(&place) {
                        // Another process was faster. It may not have synced the name yet, so we do.
                        Err(error) if error.reason() == Some(Reason::AlreadyExists) => {}
                        outcome => outcome?,
                    }
                    // The target itself is untouched, whatever becomes of its parents.
                    let reached = sync_dir(&*place.dir, &path, barriers)
                        .map_err(|error| error.in_state(TargetState::Unchanged))?;
                    durability = durability.and(reached);
                    place.dir.open_dir(Path::new(name)).map_err(|e| Error::os(Stage::OpenDir, &path, e))?
                }
                Err(e) => return Err(Error::os(Stage::OpenDir, path, e)),
            };
        }
        Ok((at, durability))
    }
}

/// Looks at what has the name, and follows symbolic links as `policy` says.
pub(crate) fn follow_links(mut place: Place, policy: Symlinks) -> Result<Place> {
    // One look more than links: behind the last one there may be a file.
    for links in 0..=LINKS_MAX {
        place.existing = inspect(&place)?;
        let is_link = place.existing.is_some_and(|found| found.kind == FileKind::Symlink);
        match (is_link, policy) {
            (false, _) | (true, Symlinks::Replace) => return Ok(place),
            (true, Symlinks::Refuse) => return Err(Error::invalid(place.path, Invalid::SymlinkRefused)),
            (true, Symlinks::Follow) if links == LINKS_MAX => break,
            (true, Symlinks::Follow) => follow(&mut place)?,
        }
    }
    let too_many = io::Error::from_raw_os_error(link_loop_code());
    Err(Error::os(Stage::Inspect, &place.path, too_many))
}

/// Empty and NUL are refused before the system sees them.
fn check_bytes(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.trim_ascii().is_empty() {
        return Err(Error::invalid(path, Invalid::EmptyPath));
    }
    if bytes.contains(&0) {
        return Err(Error::invalid(path, Invalid::NulInPath));
    }
    Ok(())
}

/// Creates the directory, with mode `0777` less the umask. Its name is not durable yet.
pub(crate) fn make_dir(place: &Place) -> Result<()> {
    place.dir.create_dir(&place.name, Mode::DIR).map_err(|e| Error::os(Stage::CreateDir, &place.path, e))?;
    place.dir.mark("after_create");
    Ok(())
}

/// Creates the directory that was asked for. Where the system's answer leaves it open whether it was made, we look.
fn create_dir(place: &Place, mode: Mode) -> Result<()> {
    place.dir.create_dir(&place.name, mode).map_err(|e| {
        let is_there = || match place.dir.metadata(&place.name) {
            Err(e) if Reason::of(&e) == Reason::NotFound => TargetState::Unchanged,
            // It may be another's, made a moment ago.
            Ok(_) | Err(_) => TargetState::Unknown,
        };
        let state = if is_ambiguous(Reason::of(&e)) { is_there() } else { TargetState::Unchanged };
        Error::os(Stage::CreateDir, &place.path, e).in_state(state)
    })?;
    place.dir.mark("after_create");
    Ok(())
}

/// Creates the directory with exactly this mode, whatever the umask: private first, widened afterwards. Its mode is
/// durable, its name is not.
fn make_dir_with_mode(place: &Place, mode: Mode, barriers: Barriers) -> Result<Durability> {
    create_dir(place, Mode::PRIVATE_DIR)?;
    let opened = place.dir.open_dir(Path::new(&place.name));
    // It exists, with another mode than asked for: neither the state before nor the one after.
    let dir = opened
        .and_then(|dir| dir.set_dir_mode(mode).map(|()| dir))
        .map_err(|e| Error::os(Stage::Metadata, &place.path, e).in_state(TargetState::Unknown))?;
    sync_dir(&*dir, &place.path, barriers)
}

/// What is at the name, `None` if nothing is. Directories and special files are refused here, before anything
/// is written for them.
pub(crate) fn inspect(place: &Place) -> Result<Option<Metadata>> {
    let found = match place.dir.metadata(&place.name) {
        Ok(found) => found,
        Err(e) if Reason::of(&e) == Reason::NotFound => return Ok(None),
        Err(e) => return Err(Error::os(Stage::Inspect, &place.path, e)),
    };
    match found.kind {
        FileKind::File | FileKind::Symlink => Ok(Some(found)),
        kind @ (FileKind::Dir | FileKind::Other) => {
            Err(Error::invalid(&place.path, Invalid::NotARegularFile(kind)))
        }
    }
}

/// What is at the name, whatever it is; nothing is an error.
fn inspect_any(place: &Place) -> Result<Metadata> {
    place.dir.metadata(&place.name).map_err(|e| Error::os(Stage::Inspect, &place.path, e))
}

/// Whether `to` is another name of the file that `from` names.
fn is_other_name(from: &Place, to: &Place, moved: &Metadata) -> Result<bool> {
    let there = match to.dir.metadata(&to.name) {
        Err(e) if Reason::of(&e) == Reason::NotFound => return Ok(false),
        outcome => outcome.map_err(|e| Error::os(Stage::Inspect, &to.path, e))?,
    };
    if there.id != moved.id || there.id.is_none() {
        return Ok(false);
    }
    let id = |place: &Place| {
        place.dir.dir_metadata().map(|dir| dir.id).map_err(|e| Error::os(Stage::Inspect, &place.path, e))
    };
    Ok(from.name != to.name || id(from)? != id(to)?)
}

/// POSIX has a rename between two names of one file succeed and do nothing, which would leave the old name.
/// What is left to do is to remove it, once the other is known to be durable.
fn drop_other_name(from: &Place, to: &Place, barriers: Barriers) -> Result<Durability> {
    let gained =
        sync_dir(&*to.dir, &to.path, barriers).map_err(|error| error.in_state(TargetState::Unchanged))?;
    from.dir.unlink(&from.name).map_err(|e| {
        let state = if is_ambiguous(Reason::of(&e)) { gone_or_unknown(from) } else { TargetState::Unchanged };
        Error::os(Stage::Rename, &to.path, e).in_state(state)
    })?;
    from.dir.mark("after_unlink");
    Ok(gained.and(sync_dir(&*from.dir, &to.path, barriers)?))
}

/// Moves `place` to where its link leads: relative to the directory of the link, not of the process.
fn follow(place: &mut Place) -> Result<()> {
    let fail = |path: &Path, e| Error::os(Stage::Inspect, path, e);
    let link = place.dir.read_link(&place.name).map_err(|e| fail(&place.path, e))?;
    let Some(name) = link.file_name().filter(|_| !names_a_directory(&link)) else {
        return Err(Error::invalid(&place.path, Invalid::NotARegularFile(FileKind::Dir)));
    };
    if is_reserved(name) {
        return Err(Error::invalid(&place.path, Invalid::ReservedName));
    }
    let parent = link.parent().unwrap_or(Path::new(""));
    if !parent.as_os_str().is_empty() {
        place.dir = place.dir.open_dir(parent).map_err(|e| fail(&place.path, e))?;
    }
    let directory = place.path.parent().unwrap_or(Path::new("")).to_owned();
    place.path = directory.join(&link);
    place.name = name.to_owned();
    Ok(())
}

/// `a/` and `a/.` can only be directories, whatever is at `a`.
fn names_a_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

#[cfg(unix)]
fn link_loop_code() -> i32 {
    // ELOOP, under the same number as the kernel's own answer on this platform.
    if cfg!(target_os = "linux") { 40 } else { 62 }
}

#[cfg(not(unix))]
fn link_loop_code() -> i32 {
    // ERROR_CANT_RESOLVE_FILENAME
    1921
}

/// Whether an error of a rename or unlink leaves open if it took place.
pub(crate) fn is_ambiguous(reason: Reason) -> bool {
    matches!(reason, Reason::IoError | Reason::Interrupted | Reason::Other(_) | Reason::Unknown)
}

fn gone_or_unknown(place: &Place) -> TargetState {
    match place.dir.metadata(&place.name) {
        Ok(_) => TargetState::Unchanged,
        Err(e) if Reason::of(&e) == Reason::NotFound => TargetState::ReplacedNotDurable,
        Err(_) => TargetState::Unknown,
    }
}

/// Looks where the moved file is now, by identity.
fn after_ambiguous_rename(from: &Place, to: &Place, moved: &Metadata) -> TargetState {
    let is_ours = |found: io::Result<Metadata>| found.is_ok_and(|m| m.id.is_some() && m.id == moved.id);
    if is_ours(from.dir.metadata(&from.name)) {
        TargetState::Unchanged
    } else if is_ours(to.dir.metadata(&to.name)) {
        TargetState::ReplacedNotDurable
    } else {
        TargetState::Unknown
    }
}

/// The directory barrier, after a visible change.
pub(crate) fn sync_dir(dir: &dyn media::Dir, path: &Path, barriers: Barriers) -> Result<Durability> {
    match dir.sync() {
        Ok(()) => {
            dir.mark("after_dirsync");
            Ok(Durability::Durable)
        }
        Err(e) => {
            let reason = Reason::of(&e);
            if barriers == Barriers::AllowVisibleOnly && reason.means_barrier_unsupported() {
                return Ok(Durability::VisibleOnly(reason));
            }
            Err(Error::os(Stage::SyncDir, path, e).in_state(TargetState::ReplacedNotDurable))
        }
    }
}

/// The file barrier on a file somebody else may have written.
pub(crate) fn sync_existing(place: &Place) -> Result<()> {
    let opened = match place.dir.open(&place.name, Access::Read) {
        // The owner of a file without read permission can still open it for writing.
        Err(e) if Reason::of(&e) == Reason::PermissionDenied => place.dir.open(&place.name, Access::Write),
        outcome => outcome,
    };
    let file = opened.map_err(|e| Error::os(Stage::Inspect, &place.path, e))?;
    file.sync_all().map_err(|e| Error::os(Stage::SyncFile, &place.path, e))?;
    file.mark("after_fsync");
    Ok(())
}

/// Opens the file at `place` for reading; what it is is decided by the handle.
fn open_to_read(place: &Place) -> Result<(Arc<dyn media::File>, Metadata)> {
    let fail = |e| Error::os(Stage::Read, &place.path, e);
    let file = place.dir.open(&place.name, Access::Read).map_err(fail)?;
    let found = file.metadata().map_err(fail)?;
    if found.kind != FileKind::File {
        return Err(Error::invalid(&place.path, Invalid::NotARegularFile(found.kind)));
    }
    Ok((file, found))
}

/// Reads the file at `place` up to `len_max` bytes.
pub(crate) fn read_place(place: &Place, len_max: u64) -> Result<Vec<u8>> {
    let (file, found) = open_to_read(place)?;
    read_all(place, &*file, found.len, len_max)
}

/// Reads all of `file`, which was `len` bytes long a moment ago.
fn read_all(place: &Place, file: &dyn media::File, len: u64, len_max: u64) -> Result<Vec<u8>> {
    let fail = |e| Error::os(Stage::Read, &place.path, e);
    let too_long = |len| Error::invalid(&place.path, Invalid::TooLong { len, len_max });
    if len > len_max {
        return Err(too_long(len));
    }
    let mut bytes = Vec::new();
    let expected = usize::try_from(len).map_err(|_| too_long(len))?;
    bytes.try_reserve_exact(expected).map_err(|e| fail(io::Error::new(io::ErrorKind::OutOfMemory, e)))?;
    // Nothing here trusts the length: the file may grow or shrink under us if somebody writes it in place.
    let mut chunk = vec![0_u8; expected.clamp(1, 128 << 10)];
    loop {
        let at = u64::try_from(bytes.len()).map_err(|_| too_long(u64::MAX))?;
        let count = file.read_at(at, &mut chunk).map_err(fail)?;
        if count == 0 {
            return Ok(bytes);
        }
        if at + u64::try_from(count).map_err(|_| too_long(u64::MAX))? > len_max {
            return Err(too_long(len_max.saturating_add(1)));
        }
        bytes.extend(chunk.iter().take(count));
    }
}

pub(crate) fn stamp_place(place: &Place) -> Result<(Option<Vec<u8>>, Stamp)> {
    let (file, found) = match open_to_read(place) {
        Err(error) if error.reason() == Some(Reason::NotFound) => return Ok((None, Stamp::missing())),
        outcome => outcome?,
    };
    // Before the bytes: a change while they are read gives the file another time than the stamp's.
    let modified = file.modified().map_err(|e| Error::os(Stage::Read, &place.path, e))?;
    let bytes = read_all(place, &*file, found.len, READ_LEN_MAX)?;
    let digest = Sha256::digest(&bytes).into();
    let stamp = StampOf::File { id: found.id, len: found.len, modified, digest };
    Ok((Some(bytes), Stamp(stamp)))
}

impl Place {
    /// Whether the target is still what `expected` says.
    pub(crate) fn check(&self, expected: &Stamp) -> Result<()> {
        if stamp_place(self)?.1 == *expected {
            return Ok(());
        }
        Err(Error::new(Stage::Inspect, TargetState::Unchanged, &self.path, Cause::Changed))
    }
}
