//! [`Root`]: a tree whose changes go through a journal.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use durable_io::{Barriers, Cause, Dir, Durability, Invalid, Lock, Wait};
use journal::StoreId;
use media::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use media::{Entropy, Env, Fs};

use crate::error::{Error, Result};
use crate::ledger::{self, Found, JOURNAL, Ledger, Shape};
use crate::names::{Busy, HiddenNames};
use crate::path::{STAGED_SUFFIX, TreePath};
use crate::recover::{self, Recovery};
use crate::staged::StagedFiles;
use crate::sweep;
use crate::tree::Tree;
use crate::window::{Places, When, Window, WindowLimits};

/// The file in a root that says that there must be a journal.
pub(crate) const MARKER: &str = ".steadfast-journaled";

/// Who else changes the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Nobody, and nobody reads it but through this root, as long as it is open and after every crash until it has been opened
    /// again. Only here the fast path exists: between a power cut and recovery, the bare path of a file may lead to nothing or
    /// to an empty file.
    Owned,
    /// Others read and write there. Every transaction is complete when it is acknowledged, and recovery leaves alone what
    /// others have changed meanwhile.
    Shared,
}

/// Whether small payloads ride in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FastPath {
    /// They do: one flush makes a change durable, and the file's own barriers come later, in bulk. Only in an
    /// [owned](Ownership::Owned) root.
    On,
    /// Every file is synced before its transaction is committed.
    Off,
}

/// How a root is opened.
#[derive(Debug, Clone)]
pub struct RootOptions {
    /// Who else changes the tree.
    pub ownership: Ownership,
    /// Where the journal is, below the root; created where it is missing. Nothing else is kept there.
    pub journal_dir: String,
    /// How large a new journal is, in bytes. Half of it holds what is committed and not yet complete.
    pub journal_bytes: u64,
    /// Bytes in a block of the journal.
    pub block_size: u32,
    /// Whether small payloads ride in the journal.
    pub fast: FastPath,
    /// Up to which length a payload is small.
    pub payload_len_max: usize,
    /// How much may wait for its barriers.
    pub window: WindowLimits,
    /// How old a staged file must be to be swept, where others may be staging: in a shared root, and where neither the journal
    /// nor its name tells that its owner is dead. In an owned root all are swept at once.
    pub orphan_age: Duration,
    /// How long to wait for whoever has it open.
    pub wait: Wait,
}

/// The default of [`RootOptions::orphan_age`].
pub const ORPHAN_AGE_DEFAULT: Duration = Duration::from_secs(10 * 60);

impl RootOptions {
    /// For a root of our own, with its journal in this directory.
    pub fn owned(journal_dir: impl Into<String>) -> Self {
        Self {
            ownership: Ownership::Owned,
            journal_dir: journal_dir.into(),
            journal_bytes: 32 << 20,
            block_size: 4096,
            fast: FastPath::On,
            payload_len_max: 64 << 10,
            window: WindowLimits::default(),
            orphan_age: ORPHAN_AGE_DEFAULT,
            wait: Wait::DoNotWait,
        }
    }

    /// For a directory that others use as well.
    #[must_use]
    pub fn shared() -> Self {
        Self {
            ownership: Ownership::Shared,
            journal_bytes: 2 << 20,
            fast: FastPath::Off,
            ..Self::owned(".steadfast-txn")
        }
    }
}

/// Whether there is a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Journaling {
    /// There is.
    On,
    /// There is not, and why: nothing here could hold one durably. Names are changed one at a time, each by its own barriers,
    /// as far as there are any.
    Off(String),
}

/// A tree whose changes go through a journal: several names change together or not at all, whatever the crash. Opening it
/// finishes what was committed and not complete.
///
/// One process has it at a time. Threads share it by reference.
#[derive(Debug)]
pub struct Root {
    pub(crate) tree: Tree,
    pub(crate) env: Env,
    pub(crate) options: RootOptions,
    /// `None` where [`Journaling::Off`], or read-only.
    pub(crate) ledger: Option<Ledger>,
    pub(crate) window: Window,
    pub(crate) busy: Busy,
    pub(crate) hidden: HiddenNames,
    /// Held shared from before a commit until its change is in place; held alone to switch the regions of the journal, when
    /// nothing may be alive.
    pub(crate) gate: RwLock<()>,
    /// One transaction at a time, where each has to be complete before it is acknowledged.
    pub(crate) turn: Mutex<()>,
    pub(crate) staged: Arc<StagedFiles>,
    pub(crate) journal_dir: Dir,
    /// Lists of transactions that are complete, and that the journal still refers to.
    lists: Mutex<Vec<String>>,
    failed: Mutex<Option<String>>,
    read_only: Option<String>,
    journaling: Journaling,
    lock: Option<Lock>,
}

/// What a root has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Of its journal.
    pub journal: journal::Stats,
}

impl Root {
    /// Opens a tree, makes its journal where there never was one, finishes what was committed, and removes what was staged in
    /// vain.
    ///
    /// # Durability
    /// On return, everything that was ever acknowledged is in place and durable.
    ///
    /// # Errors
    /// [`Kind::Held`](durable_io::Kind::Held) with the holder; of reading the journal; of finishing (a full disk): nothing is
    /// lost, the next open goes on. A journal that is damaged or missing is no error: nothing is swept or changed, and the root
    /// is read-only ([`Recovery::read_only`]).
    pub fn open(
        fs: Arc<dyn Fs>,
        path: impl AsRef<Path>,
        env: Env,
        options: RootOptions,
    ) -> Result<(Self, Recovery)> {
        let dir = Dir::open_on(fs, path, env.clone())?;
        Tree::new(dir.clone(), false).refuse_links(&options.journal_dir)?;
        let (journal_dir, durability) =
            dir.subdir_or_create(&options.journal_dir, Barriers::AllowVisibleOnly)?;
        let lock = hold(&journal_dir, options.wait)?;
        let no_journal = StoreId(random(&*env.entropy)?);
        let is_ours_alone = options.ownership == Ownership::Owned;
        let mut root = Self {
            tree: Tree::new(dir, is_ours_alone),
            hidden: hidden_names(no_journal, &env)?,
            env,
            window: Window::new(options.window),
            options,
            ledger: None,
            busy: Busy::default(),
            gate: RwLock::default(),
            turn: Mutex::default(),
            staged: Arc::default(),
            journal_dir,
            lists: Mutex::default(),
            failed: Mutex::default(),
            read_only: None,
            journaling: Journaling::On,
            lock: Some(lock),
        };
        let recovery = match durability {
            Durability::Durable => root.begin()?,
            Durability::VisibleOnly(reason) => {
                root.go_without(format!("the directory cannot be synced: {reason}"))?
            }
        };
        Ok((root, recovery))
    }

    /// Whether a root was ever opened there: there is a journal, or there must be one. Changes nothing.
    ///
    /// # Errors
    /// Of looking.
    pub fn was_begun(dir: &Dir, options: &RootOptions) -> Result<bool> {
        let tree = Tree::new(dir.clone(), false);
        let journal = TreePath::parse_any(&format!("{}/{JOURNAL}", options.journal_dir))?;
        Ok(tree.look(&journal)?.is_some() || tree.look(&TreePath::parse_any(MARKER)?)?.is_some())
    }

    /// Finds or makes the journal, and recovers.
    fn begin(&mut self) -> Result<Recovery> {
        let shape = Shape { bytes: self.options.journal_bytes, block_size: self.options.block_size };
        let is_marked = self.is_marked()?;
        if !ledger::exists(&self.journal_dir)? {
            if is_marked {
                return Ok(self.refuse("its journal is missing".to_owned()));
            }
            if let Some(why) = Ledger::create(&self.journal_dir, shape, StoreId(random(&*self.env.entropy)?))?
            {
                return self.go_without(why);
            }
        }
        let (ledger, fold, was_sealed) = match Ledger::open(&self.journal_dir, shape)? {
            Found::Damaged(why) => return Ok(self.refuse(format!("its journal is damaged: {why}"))),
            Found::Journal { ledger, fold, was_sealed } => (ledger, fold, was_sealed),
        };
        self.hidden = hidden_names(ledger.store_id(), &self.env)?;
        if !is_marked {
            // Whoever made the journal may have died before he synced its name.
            self.tree.folder_or_create(&self.options.journal_dir)?.sync()?;
            // Whoever died while writing it has left a file that nobody looks for later.
            sweep::half_written(&self.tree.dir)?;
            // From here on a root without a journal is one that has lost it.
            let text = format!("There must be a journal: {}/{JOURNAL}\n", self.options.journal_dir);
            drop(self.tree.dir.replace(MARKER, text.as_bytes())?);
        }
        match recover::recover(self, &ledger, fold, was_sealed)? {
            Ok(recovery) => {
                self.ledger = Some(*ledger);
                Ok(recovery)
            }
            Err(why) => Ok(self.refuse(why)),
        }
    }

    /// Nothing here could hold a journal durably.
    fn go_without(&mut self, why: String) -> Result<Recovery> {
        self.journaling = Journaling::Off(why);
        self.tree.barriers = Barriers::AllowVisibleOnly;
        recover::sweep_only(self)
    }

    fn is_marked(&self) -> Result<bool> {
        let marker = TreePath::parse_any(MARKER)?;
        Ok(self.tree.look(&marker)?.is_some())
    }

    /// Nothing is touched any more.
    fn refuse(&mut self, why: String) -> Recovery {
        self.read_only = Some(why.clone());
        Recovery { read_only: Some(why), ..Recovery::default() }
    }

    /// Whether there is a journal.
    #[must_use]
    pub fn journaling(&self) -> &Journaling {
        &self.journaling
    }

    /// Why nothing may be changed, if that is so.
    #[must_use]
    pub fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.tree.dir
    }

    /// What was done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { journal: self.ledger.as_ref().map(Ledger::stats).unwrap_or_default() }
    }

    /// Gives everything that is committed its own barriers, so that its bare path is durable too.
    ///
    /// # Errors
    /// Of a barrier: the root takes nothing more. Everything stays safe in the journal.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_when(When::Now)
    }

    fn checkpoint_when(&self, when: When) -> Result<()> {
        self.refuse_unless_writable()?;
        let Some(ledger) = &self.ledger else { return Ok(()) };
        match self.window.checkpoint(when, &*self.env.pool, &|| ledger.in_place_up_to()) {
            Ok(Some(up_to)) => {
                ledger.tell_done(up_to);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(self.poison(error)),
        }
    }

    /// Makes everything complete and closes the journal cleanly. (A root that is dropped is as after a kill: nothing is lost,
    /// the next open has more to do.)
    ///
    /// # Errors
    /// As [`Root::checkpoint`]; of releasing the lock.
    pub fn close(mut self) -> Result<()> {
        if self.read_only.is_none() {
            self.checkpoint()?;
            if let Some(ledger) = &self.ledger {
                ledger.close()?;
                self.remove_lists();
            }
        }
        self.staged.end();
        match self.lock.take() {
            Some(lock) => Ok(lock.unlock()?),
            None => Ok(()),
        }
    }

    /// Places for as many descriptors as a transaction is going to keep.
    pub(crate) fn places(&self, count: usize) -> Result<Places<'_>> {
        loop {
            match self.window.reserve(count) {
                Some(places) => return Ok(places),
                None => self.checkpoint_when(When::Crowded)?,
            }
        }
    }

    /// Checkpoints and switches, where it is time to. Called with nothing held. A failure is kept: what was asked for is
    /// durable, so its answer is not spoiled by it.
    pub(crate) fn tidy(&self) {
        if let Err(error) = self.checkpoint_when(When::Due) {
            tracing::warn!(%error, "a checkpoint failed");
        }
        if self.ledger.as_ref().is_some_and(Ledger::is_nearly_full)
            && let Err(error) = self.switch(|ledger| ledger.is_nearly_full())
        {
            tracing::warn!(%error, "the journal could not be switched");
        }
    }

    /// Makes room in the journal: waits until nothing is under way, completes everything, and switches, if that is still
    /// wanted then. Others may have waited for the same.
    pub(crate) fn switch(&self, is_wanted: impl FnOnce(&Ledger) -> bool) -> Result<()> {
        self.switch_and_stay_alone(is_wanted).map(drop)
    }

    /// The same; nobody else commits before the guard is dropped, so that the room which was made is whoever asked for it.
    pub(crate) fn switch_and_stay_alone(
        &self,
        is_wanted: impl FnOnce(&Ledger) -> bool,
    ) -> Result<RwLockWriteGuard<'_, ()>> {
        let alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let Some(ledger) = self.ledger.as_ref().filter(|ledger| is_wanted(ledger)) else { return Ok(alone) };
        self.checkpoint()?;
        ledger.restart().map_err(|error| self.poison(error))?;
        self.remove_lists();
        Ok(alone)
    }

    /// A transaction is complete whose operations are in this list. The list is removed when the journal no longer refers to it.
    pub(crate) fn list_is_needless(&self, list: String) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).push(list);
        if self.options.ownership == Ownership::Shared {
            self.remove_lists();
        }
    }

    fn remove_lists(&self) {
        for list in self.lists.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Err(error) = self.journal_dir.as_media().unlink(OsStr::new(&list)) {
                tracing::warn!(list, %error, "a list is left for the next open");
            }
        }
    }

    pub(crate) fn refuse_unless_writable(&self) -> Result<()> {
        if let Some(why) = &self.read_only {
            return Err(Error::ReadOnly { why: why.clone() });
        }
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(first) => Err(Error::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Keeps the first failure, and ends everything.
    pub(crate) fn poison(&self, error: Error) -> Error {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| error.to_string());
        error
    }

    /// A barrier that failed for one transaction may have been to cover what others wait for: then it ends everything, and the
    /// journal still has theirs.
    pub(crate) fn heed(&self, error: Error) -> Error {
        if error.is_failed_barrier() { self.poison(error) } else { error }
    }

    /// Refuses names that are the root's own.
    pub(crate) fn check_target(&self, path: &TreePath) -> Result<()> {
        let refuse = |why| Err(Error::OwnPath { path: path.clone(), why });
        if path.is_within(&self.options.journal_dir) {
            return refuse("the journal is there");
        }
        if self.options.ownership == Ownership::Owned && path.name().ends_with(STAGED_SUFFIX) {
            return refuse("staged files are called so");
        }
        self.tree.refuse_links(path.parent())
    }
}

/// Before the lock is released: whoever has it next stages under the same names.
impl Drop for Root {
    fn drop(&mut self) {
        self.staged.end();
    }
}

fn random(entropy: &dyn Entropy) -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes).map_err(|e| Error::os("drawing a random number for", "the journal", e))?;
    Ok(bytes)
}

fn hidden_names(journal: StoreId, env: &Env) -> Result<HiddenNames> {
    HiddenNames::new(journal, &*env.entropy)
        .map_err(|e| Error::os("drawing a random number for", "staged files", e))
}

/// Takes the lock of a root.
fn hold(journal_dir: &Dir, wait: Wait) -> Result<Lock> {
    journal_dir.lock(JOURNAL, wait).map_err(Error::from)
}

impl Error {
    /// Who has the root open, where that is why it cannot be opened.
    #[must_use]
    pub fn holder(&self) -> Option<String> {
        let Self::File(error) = self else { return None };
        match error.cause() {
            Cause::Held { holder, .. } => Some(holder.to_string()),
            Cause::Invalid(Invalid::LockedByThisThread) => Some("this thread".to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Journaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("on"),
            Self::Off(why) => write!(f, "off: {why}"),
        }
    }
}
