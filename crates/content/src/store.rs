//! [`ContentStore`]: objects of apps in one root that is ours alone.
//!
//! ```text
//! <root>/<app>/<path>            objects, mode 0600
//! <root>/<app>/<path>.nxpart     what is staged
//! <root>/content/config.json     the configuration
//! <root>/content/journal/        the journal; neither is ever listed
//! ```
//!
//! Invariants
//! - what is written was reserved before: the ledger never promises more than the limits, and the tree never has more than
//!   the ledger says, but for a hidden file that could not be removed after a failure; the next open removes it.
//! - a reservation is settled when its object has its name, released when it can no longer get it, and counted on top of
//!   everything else where nobody knows.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crash_recovery::{
    Committed, FastPath, Journaling, Publish, Recovery, Root, RootOptions, StagedFile, TransactionFailure,
    TreePath, WindowLimits,
};
use durable_io::{Dir, Kind, SweepOptions, TargetState, Wait};
use media::{Access, Env, FileKind, Fs};

use crate::config::{CONFIG_LEN_MAX, Config};
use crate::error::{Error, Result};
use crate::quota::{Amount, Ledger, Reservation, Usage};
use crate::reader::ObjectReader;
use crate::tree::{self, Foreign, Listed, Walk};
use crate::uri::{OWN_APP, Uri, is_own};

/// The file of the configuration, below the root.
const CONFIG: &str = "content/config.json";
const CONFIG_NAME: &str = "config.json";

/// The directory of the journal, below the root.
const JOURNAL_DIR: &str = "content/journal";

/// The most objects of one page of a listing.
pub const LIST_LIMIT_MAX: usize = 10_000;

/// What an object becomes that is created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CreateOpts {
    /// Staged under a hidden name, to be written and committed. Otherwise it is an empty object, durable at once.
    pub temp: bool,
}

/// What a commit does where the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// The new object takes the place of the old one, atomically.
    Yes,
    /// The commit fails, and the staged object stays staged.
    No,
}

/// What a URI stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// An object.
    Object {
        /// Its length in bytes.
        len: u64,
    },
    /// A staged object of this store.
    Staged {
        /// Its length in bytes, so far.
        len: u64,
    },
    /// A directory.
    Directory,
}

/// A part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects in the order of their URIs.
    pub objects: Vec<Listed>,
    /// The cursor of the next page. [`None`]: this was the last one.
    pub next: Option<Uri>,
}

/// What opening a store has found and done. `Display` is the line `recovery sweep orphans=N finalized=M`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// What recovery did. Where it says that the root is read-only, nothing was swept, and nothing can be changed.
    pub recovery: Recovery,
    /// Apps that have a directory.
    pub apps: usize,
    /// What in the tree is not the store's.
    pub foreign: Foreign,
}

impl fmt::Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.recovery.fmt(f)
    }
}

/// What is not configured: how long to wait; and how large the journal is, and when its room is released, for tests that want
/// every limit near.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// How large a new journal is, in bytes.
    pub journal_bytes: u64,
    /// Bytes in a block of the journal: the same at every open.
    pub block_size: u32,
    /// Up to which length an object rides in the journal, where the fast path is on.
    pub payload_len_max: usize,
    /// How much may wait for its own barriers.
    pub window: WindowLimits,
    /// How long to wait for whoever has the store open.
    pub wait: Wait,
}

impl Default for Tuning {
    fn default() -> Self {
        let RootOptions { journal_bytes, block_size, payload_len_max, window, wait, .. } =
            RootOptions::owned(JOURNAL_DIR);
        Self { journal_bytes, block_size, payload_len_max, window, wait }
    }
}

impl Tuning {
    fn options(&self, config: &Config) -> RootOptions {
        RootOptions {
            journal_bytes: self.journal_bytes,
            block_size: self.block_size,
            payload_len_max: self.payload_len_max,
            window: self.window,
            wait: self.wait,
            fast: if config.fast_path { FastPath::On } else { FastPath::Off },
            orphan_age: Duration::from_secs(config.recovery.orphan_age_minutes.get().saturating_mul(60)),
            ..RootOptions::owned(JOURNAL_DIR)
        }
    }
}

/// A staged object that is being written.
#[derive(Debug)]
struct Staging {
    file: StagedFile,
    held: Reservation,
}

/// Where a staged object is kept. Empty once it is committed or unlinked.
type Slot = Arc<Mutex<Option<Staging>>>;

/// Objects of apps, under quotas, in a directory that is the store's alone. One process has it open; its threads share it by
/// reference.
///
/// ```
/// # let home = tempfile::tempdir()?;
/// use content::{Config, ContentStore, CreateOpts, Replace, Uri};
/// use media::{Env, OsFs};
///
/// ContentStore::init(OsFs::shared(), home.path(), Env::os(), &Config::default())?;
/// let (store, report) = ContentStore::open(OsFs::shared(), home.path(), Env::os())?;
/// assert_eq!(report.to_string(), "recovery sweep orphans=0 finalized=0");
///
/// let album = Uri::parse("state:/photos/2024")?;
/// let staged = store.create2(&album, "one.jpg", &CreateOpts { temp: true })?;
/// store.write(&staged, 0, b"...")?;                                        // hidden, not durable
/// let one = store.commit(&staged, &album, "one.jpg", Replace::No)?;        // named, durable
/// assert_eq!(store.list(&album, None, 10)?.objects[0].uri, one);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ContentStore {
    staged: Mutex<BTreeMap<Uri, Slot>>,
    ledger: Arc<Ledger>,
    config: Config,
    root: Root,
}

impl ContentStore {
    /// Makes a store in a directory that is empty, or missing below one that is there.
    ///
    /// # Durability
    /// `Ok`: it is there. A power cut on the way leaves what the next call takes up again.
    ///
    /// # Errors
    /// [`Error::AlreadyAStore`], [`Error::NotEmpty`], [`Error::NotJournaled`], [`Error::Held`]; of writing.
    pub fn init(fs: Arc<dyn Fs>, path: impl AsRef<Path>, env: Env, config: &Config) -> Result<()> {
        Self::init_with(fs, path, env, config, &Tuning::default())
    }

    /// As [`ContentStore::init`].
    ///
    /// # Errors
    /// As [`ContentStore::init`].
    pub fn init_with(
        fs: Arc<dyn Fs>,
        path: impl AsRef<Path>,
        env: Env,
        config: &Config,
        tuning: &Tuning,
    ) -> Result<()> {
        let path = path.as_ref();
        let dir = Dir::open_or_create_on(Arc::clone(&fs), path, env.clone()).map_err(Error::of_dir)?;
        if is_store(&dir)? {
            return Err(Error::AlreadyAStore { path: path.to_owned() });
        }
        refuse_unless_empty(&dir)?;
        let (root, recovery) = Root::open(fs, path, env, tuning.options(config)).map_err(Error::of_open)?;
        refuse_unless_journaled(&recovery)?;
        if let Some(why) = recovery.read_only {
            return Err(Error::Root(crash_recovery::Error::ReadOnly { why }));
        }
        // With the lock held, so that one of two does it.
        if is_store(root.dir())? {
            return Err(Error::AlreadyAStore { path: path.to_owned() });
        }
        let text = config.to_json().map_err(|error| {
            let (path, state) = (CONFIG.to_owned(), TargetState::Unchanged);
            crash_recovery::Error::Os { doing: "encoding", path, state, source: error.into() }
        })?;
        // Whoever died while writing it has left a file that nobody looks for later.
        let own = root.dir().subdir(OWN_APP).map_err(Error::of_dir)?;
        if let Some(error) =
            own.sweep(&SweepOptions::default()).map_err(Error::of_dir)?.failures.into_iter().next()
        {
            return Err(Error::of_dir(error));
        }
        // Last: a directory with a configuration is a store, and whole.
        drop(root.dir().create_new(CONFIG, text.as_bytes()).map_err(Error::of_dir)?);
        Ok(root.close()?)
    }

    /// The configuration of the store at `path`, without opening it.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Config`]; of reading.
    pub fn read_config(fs: Arc<dyn Fs>, path: impl AsRef<Path>, env: Env) -> Result<Config> {
        let path = path.as_ref();
        let not_a_store = |error: durable_io::Error| match error.kind() {
            Kind::NotFound => Error::NotAStore { path: path.to_owned() },
            _ => Error::of_dir(error),
        };
        let dir = Dir::open_on(fs, path, env).map_err(not_a_store)?;
        let len_max = u64::try_from(CONFIG_LEN_MAX).unwrap_or(u64::MAX);
        let document = dir.read_up_to(CONFIG, len_max).map_err(not_a_store)?;
        Ok(Config::parse(&document)?)
    }

    /// Opens a store: finishes what was committed, removes what was staged in vain, and counts what each app has.
    ///
    /// # Durability
    /// On return, everything that was ever acknowledged is in place and durable.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Config`], [`Error::NotJournaled`], [`Error::Held`] with the holder; of recovery and of
    /// counting. A damaged journal is no error: the store is read-only then, and its report says why.
    pub fn open(fs: Arc<dyn Fs>, path: impl AsRef<Path>, env: Env) -> Result<(Self, OpenReport)> {
        Self::open_with(fs, path, env, &Tuning::default())
    }

    /// As [`ContentStore::open`].
    ///
    /// # Errors
    /// As [`ContentStore::open`].
    pub fn open_with(
        fs: Arc<dyn Fs>,
        path: impl AsRef<Path>,
        env: Env,
        tuning: &Tuning,
    ) -> Result<(Self, OpenReport)> {
        let path = path.as_ref();
        let config = Self::read_config(Arc::clone(&fs), path, env.clone())?;
        let (root, recovery) = Root::open(fs, path, env, tuning.options(&config)).map_err(Error::of_open)?;
        refuse_unless_journaled(&recovery)?;
        let ledger = Ledger::new(&config.quota);
        let store = Self { staged: Mutex::default(), ledger, config, root };
        let top = store.root.dir().as_media();
        let (apps, mut foreign) = tree::apps(&**top).map_err(|e| of_tree("listing", "the root", e))?;
        for app in &apps {
            let counted = store.recount(app)?;
            store.ledger.load(app.app(), counted.objects);
            foreign.merge(counted.foreign);
        }
        if foreign.count > 0 {
            tracing::warn!(count = foreign.count, first = ?foreign.named.first(), "the root has entries that are not the store's");
        }
        tracing::info!(%recovery, apps = apps.len(), "content store opened");
        let report = OpenReport { recovery, apps: apps.len(), foreign };
        Ok((store, report))
    }

    fn recount(&self, app: &Uri) -> Result<tree::Recount> {
        let counting = |e| Error::os("counting the objects of", app, e);
        let top = self.root.dir().as_media();
        match tree::open_uri(top, app).map_err(counting)? {
            Some(dir) => tree::recount(&*dir, app).map_err(counting),
            None => Ok(tree::Recount::default()),
        }
    }

    /// What it was told at [`ContentStore::init`].
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Why nothing can be changed, if that is so.
    #[must_use]
    pub fn read_only(&self) -> Option<&str> {
        self.root.read_only()
    }

    /// What the journal has done since the store was opened.
    #[must_use]
    pub fn stats(&self) -> crash_recovery::Stats {
        self.root.stats()
    }

    /// Creates an object, or begins one: `parent` and what is above it is made where it is missing.
    ///
    /// With `temp`, the answer is the URI of a staged object, which is hidden, not durable, and gone when the store is closed.
    /// Only one is staged for each name; what it becomes is said at [`ContentStore::commit`].
    ///
    /// # Durability
    /// Without `temp`: `Ok`, and the empty object survives power loss.
    ///
    /// # Errors
    /// [`Error::Uri`], [`Error::Exists`], [`Error::QuotaExceeded`]: nothing was made. Otherwise as [`ContentStore::put`].
    pub fn create2(&self, parent: &Uri, name: &str, opts: &CreateOpts) -> Result<Uri> {
        let uri = parent.join(name)?;
        let held = self.ledger.reserve(uri.app(), Amount::object(0))?;
        if !opts.temp {
            let path = tree_path(&uri)?;
            let mut transaction = self.root.transaction();
            transaction.create(&path, b"").map_err(|e| Error::of_root(e, &uri))?;
            self.settle(&uri, held, transaction.commit().map_err(Into::into))?;
            return Ok(uri);
        }
        let staged = uri.staged();
        let file = self.root.stage(&tree_path(&staged)?).map_err(|e| Error::of_root(e, &staged))?;
        let slot = Arc::new(Mutex::new(Some(Staging { file, held })));
        // In the place of one that has just been committed or unlinked, if any: the hidden name is one file's at a time.
        lock(&self.staged).insert(staged.clone(), slot);
        Ok(staged)
    }

    /// Writes all of `data` into a staged object, and answers how much that is. What lies between its end and an offset behind
    /// it reads as zeros, and counts.
    ///
    /// # Durability
    /// None before [`ContentStore::commit`].
    ///
    /// # Errors
    /// [`Error::NotStaged`]; [`Error::QuotaExceeded`], [`Error::TempBudgetExceeded`]: nothing was written. Of writing: the staged
    /// object takes nothing more, and can only be unlinked.
    pub fn write(&self, staged: &Uri, offset: u64, data: &[u8]) -> Result<usize> {
        if data.is_empty() {
            return self.with_staging(staged, |_| Ok(0));
        }
        self.with_staging(staged, |Staging { file, held }| {
            // An end that no number can tell is beyond every quota.
            let end = offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            if let Some(more) = end.checked_sub(held.bytes()).filter(|more| *more > 0) {
                held.grow(more)?;
            }
            // Where it fails, the file may be as long as was reserved: that stays reserved.
            file.write_at(offset, data).map_err(|e| Error::of_root(e, staged))?;
            Ok(data.len())
        })
    }

    /// The file barrier. Of a staged object: what was written is durable, under a name that is not. Of an object, which has been
    /// durable since it was acknowledged: its own file and its name are too, so that nothing has to be read from the journal.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotStaged`]; of a barrier. It is never repeated: the staged object can only be unlinked, and
    /// a store whose barrier failed takes nothing more.
    pub fn fsync(&self, uri: &Uri) -> Result<()> {
        if uri.is_staged() {
            return self.with_staging(uri, |staging| staging.file.sync().map_err(|e| Error::of_root(e, uri)));
        }
        match self.stat(uri)? {
            Stat::Object { .. } | Stat::Staged { .. } => self.checkpoint(),
            Stat::Directory => Err(Error::NotAnObject { uri: uri.clone(), kind: FileKind::Dir }),
        }
    }

    /// The directory barrier: every name in this directory that was acknowledged is durable there, so that nothing has to be read
    /// from the journal. A checkpoint of the whole store, because a directory barrier that failed must not be told from one that
    /// was never issued.
    ///
    /// # Errors
    /// [`Error::NotFound`]; of a barrier: the store takes nothing more.
    pub fn dirsync(&self, dir: &Uri) -> Result<()> {
        match self.stat(dir)? {
            Stat::Directory => self.checkpoint(),
            Stat::Object { .. } | Stat::Staged { .. } => {
                Err(Error::NotAnObject { uri: dir.clone(), kind: FileKind::File })
            }
        }
    }

    /// Makes an object of a staged one, in any directory of its app, and answers the object's URI. Readers of an object that is
    /// replaced keep the old one.
    ///
    /// # Durability
    /// `Ok`: bytes and name survive power loss.
    ///
    /// # Errors
    /// [`Error::NotStaged`]; [`Error::Uri`], [`Error::OtherApp`], [`Error::Exists`] and whatever else leaves the state
    /// [`Unchanged`](TargetState::Unchanged): it is still staged. [`DurableNotVisible`](TargetState::DurableNotVisible): the next
    /// open finishes it. [`Unknown`](TargetState::Unknown): the next open tells. After the last two the store takes nothing more,
    /// and usage counts the old object and the new one.
    pub fn commit(&self, staged: &Uri, parent: &Uri, name: &str, replace: Replace) -> Result<Uri> {
        let slot = self.slot(staged)?;
        let uri = parent.join(name)?;
        if uri.app() != staged.app() {
            return Err(Error::OtherApp { from: staged.clone(), to: uri });
        }
        let path = tree_path(&uri)?;
        let publish = match replace {
            Replace::Yes => Publish::Replace,
            Replace::No => Publish::CreateNew,
        };
        let mut staging = lock(&slot);
        let Staging { file, held } = staging.take().ok_or_else(|| not_staged(staged))?;
        let mut transaction = self.root.transaction();
        let outcome = match transaction.publish(file, &path, publish) {
            Ok(()) => transaction.commit(),
            Err(failure) => Err(failure),
        };
        let outcome = match outcome {
            Err(TransactionFailure { error, staged: mut back }) => match back.pop() {
                Some(file) => {
                    *staging = Some(Staging { file, held });
                    return Err(Error::of_root(error, &uri));
                }
                None => Err(error),
            },
            Ok(committed) => Ok(committed),
        };
        drop(staging);
        self.let_go(staged, &slot);
        self.settle(&uri, held, outcome)?;
        Ok(uri)
    }

    /// Removes an object, or a staged one. Readers that have it open keep it.
    ///
    /// # Durability
    /// `Ok`: it does not come back.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotStaged`], [`Error::NotAnObject`]; otherwise as [`ContentStore::commit`].
    pub fn unlink(&self, uri: &Uri) -> Result<()> {
        if uri.is_staged() {
            return self.discard(uri);
        }
        let path = object_path(uri)?;
        let mut transaction = self.root.transaction();
        transaction.remove(&path).map_err(|e| Error::of_root(e, uri))?;
        let committed = transaction.commit().map_err(|failure| Error::of_root(failure.error, uri))?;
        self.ledger.forget(uri.app(), before(&committed));
        Ok(())
    }

    fn discard(&self, staged: &Uri) -> Result<()> {
        let slot = self.slot(staged)?;
        let mut staging = lock(&slot);
        let Staging { file, held } = staging.take().ok_or_else(|| not_staged(staged))?;
        let outcome = file.discard();
        drop(staging);
        self.let_go(staged, &slot);
        outcome.map_err(|error| {
            // The next open removes it. Until then it is there, and counted.
            held.settle_unknown();
            Error::of_root(error, staged)
        })
    }

    /// Gives `uri` these bytes, in the place of what it had. While it is written the new object counts on top of the old one, as
    /// staged.
    ///
    /// # Durability
    /// `Ok`: bytes and name survive power loss.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::TempBudgetExceeded`]: nothing was written. [`Error::NotAnObject`]: a directory has the
    /// name. Otherwise as [`ContentStore::commit`].
    pub fn put(&self, uri: &Uri, bytes: &[u8]) -> Result<()> {
        let path = object_path(uri)?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let held = self.ledger.reserve(uri.app(), Amount::object(len))?;
        let mut transaction = self.root.transaction();
        transaction.replace(&path, bytes).map_err(|e| Error::of_root(e, uri))?;
        self.settle(uri, held, transaction.commit().map_err(Into::into))
    }

    /// As [`ContentStore::put`], of all that `content` reads, in constant memory; answers how much that was. With `expected_len`
    /// all of it is reserved before anything is read, and another length is an error.
    ///
    /// # Durability
    /// As [`ContentStore::put`].
    ///
    /// # Errors
    /// As [`ContentStore::put`]; [`Error::LengthDiffers`]; of reading.
    pub fn put_from(&self, uri: &Uri, content: &mut dyn Read, expected_len: Option<u64>) -> Result<u64> {
        let path = object_path(uri)?;
        let held = self.ledger.reserve(uri.app(), Amount::object(expected_len.unwrap_or(0)))?;
        let mut charged = Charged { uri, content, held, len: 0, expected_len, refused: None };
        let mut transaction = self.root.transaction();
        let written = transaction.write_from(&path, &mut charged, Publish::Replace);
        let Charged { held, len, refused, .. } = charged;
        match (refused, written) {
            (Some(refused), _) => return Err(refused),
            (None, Err(error)) => return Err(Error::of_root(error, uri)),
            (None, Ok(())) => {}
        }
        self.settle(uri, held, transaction.commit().map_err(Into::into))?;
        Ok(len)
    }

    /// Opens an object for reading. It stays what it is, whatever becomes of the name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAnObject`], [`Error::Staged`]; of opening.
    pub fn open_object(&self, uri: &Uri) -> Result<ObjectReader> {
        let opening = |e| Error::os("opening", uri, e);
        let (Stat::Object { .. }, Some(dir)) = (self.stat(uri)?, self.parent_of(uri)?) else {
            return Err(match uri.is_staged() {
                true => Error::Staged { uri: uri.clone() },
                false => Error::NotAnObject { uri: uri.clone(), kind: FileKind::Dir },
            });
        };
        let file = tree::present(dir.open(OsStr::new(uri.name()), Access::Read)).map_err(opening)?;
        let file = file.ok_or_else(|| not_found(uri))?;
        let found = file.metadata().map_err(opening)?;
        if found.kind != FileKind::File {
            return Err(Error::NotAnObject { uri: uri.clone(), kind: found.kind });
        }
        Ok(ObjectReader::new(uri.clone(), file, found.len))
    }

    /// What a URI stands for.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotStaged`], [`Error::NotAnObject`] of what is foreign; of looking.
    pub fn stat(&self, uri: &Uri) -> Result<Stat> {
        if uri.is_staged() {
            return self.with_staging(uri, |staging| Ok(Stat::Staged { len: staging.file.len() }));
        }
        let dir = self.parent_of(uri)?.ok_or_else(|| not_found(uri))?;
        let found = tree::present(dir.metadata(OsStr::new(uri.name())));
        let found = found.map_err(|e| Error::os("looking at", uri, e))?.ok_or_else(|| not_found(uri))?;
        match found.kind {
            FileKind::File if !uri.path().is_empty() => Ok(Stat::Object { len: found.len }),
            FileKind::Dir => Ok(Stat::Directory),
            kind @ (FileKind::File | FileKind::Symlink | FileKind::Other) => {
                Err(Error::NotAnObject { uri: uri.clone(), kind })
            }
        }
    }

    /// The directory that something is in, if there is one: of an app, the root.
    fn parent_of(&self, uri: &Uri) -> Result<Option<Arc<dyn media::Dir>>> {
        let top = self.root.dir().as_media();
        match uri.parent() {
            Some(parent) => tree::open_uri(top, &parent).map_err(|e| Error::os("opening", &parent, e)),
            None => Ok(Some(Arc::clone(top))),
        }
    }

    /// The objects below a directory (or the one object that has this name), in the order of their URIs: at most `limit` of them,
    /// after `cursor`, which need not exist. Staged objects are not listed. What other threads do meanwhile may be in it or not.
    ///
    /// # Errors
    /// [`Error::ListLimit`], [`Error::NotFound`]: an app that has nothing is no error; of reading directories.
    pub fn list(&self, prefix: &Uri, cursor: Option<&Uri>, limit: usize) -> Result<Page> {
        if limit == 0 || limit > LIST_LIMIT_MAX {
            return Err(Error::ListLimit { requested: limit, limit: LIST_LIMIT_MAX });
        }
        let listing = |e| Error::os("listing", prefix, e);
        let mut page = Page::default();
        let top = self.root.dir().as_media();
        let Some(dir) = tree::open_uri(top, prefix).map_err(listing)? else {
            match self.stat(prefix) {
                Ok(Stat::Object { len }) if cursor.is_none_or(|cursor| cursor < prefix) => {
                    page.objects.push(Listed { uri: prefix.clone(), len });
                }
                Ok(Stat::Object { .. } | Stat::Staged { .. } | Stat::Directory) => {}
                Err(Error::NotFound { .. }) if prefix.path().is_empty() => {}
                Err(error) => return Err(error),
            }
            return Ok(page);
        };
        let mut walk = Walk::new(dir, prefix, cursor, limit).map_err(listing)?;
        while let Some(found) = walk.next().map_err(listing)? {
            if page.objects.len() == limit {
                page.next = page.objects.last().map(|last| last.uri.clone());
                break;
            }
            page.objects.push(found);
        }
        Ok(page)
    }

    /// The apps that have a directory, in order.
    ///
    /// # Errors
    /// Of reading the root.
    pub fn apps(&self) -> Result<Vec<Uri>> {
        let top = self.root.dir().as_media();
        Ok(tree::apps(&**top).map_err(|e| of_tree("listing", "the root", e))?.0)
    }

    /// How much an app uses, and how much it may.
    ///
    /// # Errors
    /// [`Error::Uri`]: it is no name of an app.
    pub fn usage(&self, app: &str) -> Result<Usage> {
        Ok(self.ledger.usage(Uri::app_dir(app)?.app()))
    }

    /// As [`ContentStore::usage`], counted anew from the tree, with what is staged. At a quiet moment the two are one, unless
    /// an earlier failure has left something that only the next open can tell.
    ///
    /// # Errors
    /// As [`ContentStore::usage`]; of reading directories.
    pub fn recounted_usage(&self, app: &str) -> Result<Usage> {
        let dir = Uri::app_dir(app)?;
        let counted = self.recount(&dir)?;
        let mut usage = self.ledger.usage(dir.app());
        let all = counted.objects.plus(counted.staged).unwrap_or(counted.objects);
        (usage.bytes, usage.files) = (all.bytes, all.files);
        (usage.staged_bytes, usage.staged_files) = (counted.staged.bytes, counted.staged.files);
        Ok(usage)
    }

    /// Gives everything that was acknowledged its own barriers, and releases the journal's room.
    ///
    /// # Errors
    /// Of a barrier: the store takes nothing more. Everything stays safe in the journal.
    pub fn checkpoint(&self) -> Result<()> {
        Ok(self.root.checkpoint()?)
    }

    /// Discards what is staged, makes everything complete, and ends cleanly. (A store that is dropped is as after a kill: nothing
    /// acknowledged is lost, the next open has more to do.)
    ///
    /// # Errors
    /// As [`ContentStore::checkpoint`]; of releasing the lock.
    pub fn close(self) -> Result<()> {
        let Self { staged, root, .. } = self;
        drop(staged);
        Ok(root.close()?)
    }

    /// Where a staged object is kept.
    fn slot(&self, staged: &Uri) -> Result<Slot> {
        lock(&self.staged).get(staged).map(Arc::clone).ok_or_else(|| not_staged(staged))
    }

    fn with_staging<T>(&self, staged: &Uri, act: impl FnOnce(&mut Staging) -> Result<T>) -> Result<T> {
        let slot = self.slot(staged)?;
        let mut staging = lock(&slot);
        act(staging.as_mut().ok_or_else(|| not_staged(staged))?)
    }

    /// Forgets a slot that is empty, unless its name has another one already.
    fn let_go(&self, staged: &Uri, slot: &Slot) {
        let mut all = lock(&self.staged);
        if all.get(staged).is_some_and(|kept| Arc::ptr_eq(kept, slot)) {
            all.remove(staged);
        }
    }

    /// What a commit of `uri` means for the ledger.
    fn settle(&self, uri: &Uri, held: Reservation, outcome: crash_recovery::Result<Committed>) -> Result<()> {
        match outcome {
            Ok(committed) => {
                held.settle(before(&committed));
                Ok(())
            }
            Err(error) => {
                if error.state() != TargetState::Unchanged {
                    held.settle_unknown();
                }
                Err(Error::of_root(error, uri))
            }
        }
    }
}

/// What a commit took away.
fn before(committed: &Committed) -> Amount {
    let files = u64::try_from(committed.files_before).unwrap_or(u64::MAX);
    Amount { bytes: committed.bytes_before, files }
}

/// Nothing that panics while it holds one of these locks leaves anything half done in there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tree_path(uri: &Uri) -> Result<TreePath> {
    // Rules of URIs are stricter.
    TreePath::parse(uri.below_root()).map_err(|error| Error::Root(error.into()))
}

/// Where an object is that is going to be made.
fn object_path(uri: &Uri) -> Result<TreePath> {
    if uri.is_staged() {
        return Err(Error::Staged { uri: uri.clone() });
    }
    if uri.path().is_empty() {
        return Err(Error::NotAnObject { uri: uri.clone(), kind: FileKind::Dir });
    }
    tree_path(uri)
}

fn not_found(uri: &Uri) -> Error {
    Error::NotFound { uri: uri.clone() }
}

fn not_staged(staged: &Uri) -> Error {
    Error::NotStaged { uri: staged.clone() }
}

fn of_tree(doing: &'static str, path: &str, source: io::Error) -> Error {
    let (path, state) = (path.to_owned(), TargetState::Unchanged);
    Error::Root(crash_recovery::Error::Os { doing, path, state, source })
}

fn is_store(dir: &Dir) -> Result<bool> {
    let looking = |e| of_tree("looking at", CONFIG, e);
    let Some(own) = tree::open_child(&**dir.as_media(), OsStr::new(OWN_APP)).map_err(looking)? else {
        return Ok(false);
    };
    Ok(tree::present(own.metadata(OsStr::new(CONFIG_NAME))).map_err(looking)?.is_some())
}

/// What an `init` that did not come to its end has left is in nobody's way, nor is what file systems keep for themselves.
fn refuse_unless_empty(dir: &Dir) -> Result<()> {
    let mut other = None;
    let listed = dir.as_media().list(&mut |entry| {
        let name = entry.name.to_str().unwrap_or("");
        if name == OWN_APP || name == "lost+found" || is_own(name) {
            return std::ops::ControlFlow::Continue(());
        }
        other = Some(entry.name.into());
        std::ops::ControlFlow::Break(())
    });
    listed.map_err(|e| of_tree("listing", "the root", e))?;
    match other {
        Some(entry) => Err(Error::NotEmpty { path: dir.path().to_owned(), entry }),
        None => Ok(()),
    }
}

fn refuse_unless_journaled(recovery: &Recovery) -> Result<()> {
    match &recovery.journaling {
        Journaling::On => Ok(()),
        Journaling::Off(why) => Err(Error::NotJournaled { why: why.clone() }),
    }
}

/// A reader that reserves what it has read before it hands it on.
struct Charged<'r> {
    uri: &'r Uri,
    content: &'r mut dyn Read,
    held: Reservation,
    len: u64,
    expected_len: Option<u64>,
    /// Why it read no further, where that was not the content's own error.
    refused: Option<Error>,
}

impl Charged<'_> {
    fn charge(&mut self, count: usize) -> Result<()> {
        let found = self.len.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if let Some(expected) = self.expected_len
            && (found > expected || (count == 0 && found < expected))
        {
            return Err(Error::LengthDiffers { uri: self.uri.clone(), expected, found });
        }
        if let Some(more) = found.checked_sub(self.held.bytes()).filter(|more| *more > 0) {
            self.held.grow(more)?;
        }
        self.len = found;
        Ok(())
    }
}

impl Read for Charged<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let count = self.content.read(into)?;
        match self.charge(count) {
            Ok(()) => Ok(count),
            Err(refused) => {
                self.refused = Some(refused);
                Err(io::Error::other("the store takes no more"))
            }
        }
    }
}
