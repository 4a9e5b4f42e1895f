//! [`StagedFile`]: a file written piece by piece under a hidden name, for a transaction to publish.

use std::ffi::OsStr;

use media::sync::atomic::{AtomicUsize, Ordering};
use media::sync::{Arc, PoisonError, RwLock};
use media::{File, Mode, Reason};

use crate::error::{Error, Result};
use crate::path::{STAGED_SUFFIX, TreePath};
use crate::record;
use crate::root::{Ownership, Root};
use crate::tree::Folder;

/// How many staged files may be open at a time.
pub const STAGED_OPEN_MAX: usize = 256;

/// From this length on, space is reserved before writing.
const RESERVE_FROM: u64 = 1 << 20;

/// Every so many bytes the system is asked to begin writing, so that a stream of any length keeps few dirty pages.
const WRITEBACK_EVERY: u64 = 8 << 20;

/// A file that is being written under a hidden name. Dropped unpublished, it is removed.
#[derive(Debug)]
#[must_use = "a staged file that is not published is removed again"]
pub struct StagedFile {
    folder: Folder,
    path: TreePath,
    file: Arc<dyn File>,
    len: u64,
    hinted: u64,
    /// The first write that failed: a file with a hole where it was must never be published.
    failed: Option<String>,
    is_ours: bool,
    place: OpenPlace,
}

impl Root {
    /// Begins a file under a hidden name, which ends in [`STAGED_SUFFIX`]; its directory is made where it is missing. Only in a
    /// root of our own: among the files of others nobody could tell later whose it was.
    ///
    /// # Durability
    /// None: what is not published is removed by the next open.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::OwnPath`], [`Error::TooManyStaged`]; of creating it.
    pub fn stage(&self, hidden: &TreePath) -> Result<StagedFile> {
        self.refuse_unless_writable()?;
        if self.options.ownership == Ownership::Shared {
            return Err(Error::OwnPath {
                path: hidden.clone(),
                why: "only a root of our own has staged files by name",
            });
        }
        if !hidden.name().ends_with(STAGED_SUFFIX) || hidden.is_within(&self.options.journal_dir) {
            return Err(Error::OwnPath {
                path: hidden.clone(),
                why: "a staged file's name ends in `.nxpart`",
            });
        }
        self.tree.refuse_links(hidden.parent())?;
        let place = OpenPlace::take(&self.staged)?;
        let folder = self.tree.folder_or_create(hidden.parent()).map_err(|error| self.heed(error))?;
        if let Some(ledger) = &self.ledger {
            ledger.tell_prepared(&record::encode_prepare([hidden]));
        }
        let file = match folder.dir.create_exclusive(OsStr::new(hidden.name()), Mode::PRIVATE) {
            Err(e) if Reason::of(&e) == Reason::AlreadyExists => {
                return Err(Error::Exists { path: hidden.clone() });
            }
            outcome => outcome.map_err(|e| Error::os("creating", hidden.as_str(), e))?,
        };
        folder.dir.mark("after_create");
        Ok(StagedFile {
            folder,
            path: hidden.clone(),
            file,
            len: 0,
            hinted: 0,
            failed: None,
            is_ours: true,
            place,
        })
    }
}

/// What the staged files of a root have in common.
#[derive(Debug, Default)]
pub(crate) struct StagedFiles {
    open: AtomicUsize,
    /// The root has ended: what has a hidden name now is not its. Held shared while a name is removed.
    has_ended: RwLock<bool>,
}

impl StagedFiles {
    /// From here on the hidden names may be another's.
    pub(crate) fn end(&self) {
        *self.has_ended.write().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// One of the places for open staged files.
#[derive(Debug)]
struct OpenPlace(Arc<StagedFiles>);

impl OpenPlace {
    fn take(files: &Arc<StagedFiles>) -> Result<Self> {
        let taken = files.open.fetch_add(1, Ordering::SeqCst);
        let place = Self(Arc::clone(files));
        if taken >= STAGED_OPEN_MAX {
            return Err(Error::TooManyStaged { open: taken, open_max: STAGED_OPEN_MAX });
        }
        Ok(place)
    }
}

impl Drop for OpenPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl StagedFile {
    /// Its hidden name.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        &self.path
    }

    /// How long it is: the end of the write that reached furthest.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Announces the final length, so that a full disk shows before the writing. Only lengths from 1 MiB on are reserved;
    /// where the file system cannot, nothing happens.
    ///
    /// # Errors
    /// [`Kind::NoSpace`](durable_io::Kind::NoSpace).
    pub fn reserve(&mut self, len: u64) -> Result<()> {
        self.refuse_if_failed()?;
        if len < RESERVE_FROM {
            return Ok(());
        }
        match self.file.allocate(len) {
            Err(e) if Reason::of(&e) != Reason::Unsupported => Err(self.fail("reserving space for", e)),
            _ => Ok(()),
        }
    }

    /// Writes all of `bytes` at `offset`. What lies between the end and an offset behind it reads as zeros.
    ///
    /// # Errors
    /// Of writing; the file takes nothing more after that and cannot be published.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.refuse_if_failed()?;
        if bytes.is_empty() {
            // It would not make the file longer, wherever the offset is.
            return Ok(());
        }
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let Some(end) = offset.checked_add(count) else {
            return Err(self.fail("writing", std::io::ErrorKind::InvalidInput.into()));
        };
        if let Err(e) = media::write_all_at(&*self.file, offset, bytes) {
            return Err(self.fail("writing", e));
        }
        self.len = self.len.max(end);
        if self.len - self.hinted >= WRITEBACK_EVERY {
            if let Err(error) = self.file.start_writeback(self.hinted, self.len - self.hinted) {
                tracing::debug!(%error, "writeback hint refused");
            }
            self.hinted = self.len;
        }
        Ok(())
    }

    /// Makes what was written durable, under the hidden name, which is not.
    ///
    /// # Errors
    /// Of the barrier. It is never repeated: the file takes nothing more and cannot be published.
    pub fn sync(&mut self) -> Result<()> {
        self.refuse_if_failed()?;
        if let Err(e) = self.file.sync_all() {
            return Err(self.fail("syncing", e));
        }
        self.file.mark("after_fsync");
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// Where that fails; the next open removes it.
    pub fn discard(mut self) -> Result<()> {
        self.remove().map_err(|e| Error::os("removing", self.path.as_str(), e))
    }

    fn remove(&mut self) -> std::io::Result<()> {
        let has_ended = self.place.0.has_ended.read().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut self.is_ours) || *has_ended {
            return Ok(());
        }
        self.folder.remove(self.path.name())
    }

    /// Refuses what belongs to another root, or to this directory when it was opened before: its hidden name is not to be found
    /// there, or is another file's.
    pub(crate) fn refuse_unless_of(&self, root: &Root) -> Result<()> {
        if Arc::ptr_eq(&self.place.0, &root.staged) {
            return Ok(());
        }
        Err(Error::OwnPath { path: self.path.clone(), why: "it is a staged file of another root" })
    }

    pub(crate) fn refuse_if_failed(&self) -> Result<()> {
        match &self.failed {
            Some(first) => Err(Error::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    fn fail(&mut self, doing: &'static str, source: std::io::Error) -> Error {
        let error = Error::os(doing, self.path.as_str(), source);
        self.failed = Some(error.to_string());
        error
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The name belongs to a commit now.
    pub(crate) fn disarm(&mut self) {
        self.is_ours = false;
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(path = %self.path, %error, "a staged file is left for the next open");
        }
    }
}
