//! [`Transaction`]: changes of several names that come about together or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::path::Path;

use durable_io::{
    Barriers, Bulk, BulkOptions, Durability, HiddenNames, Parents, RenameMode, Symlinks, TargetState,
    WriteOptions,
};
use journal::JournalError;
use media::sync::{Arc, PoisonError};
use media::{Access, File, Metadata, Mode, Reason};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result, SYNCING_MOVED};
use crate::ledger::{Ledger, is_refusal};
use crate::path::{STAGED_SUFFIX, TreePath};
use crate::record::{self, Before, Number, Operation, What};
use crate::root::{FastPath, Ownership, Root};
use crate::staged::StagedFile;
use crate::tree::{Changed, Folder, inode, is_file, read_all, start_writeback};
use crate::window::{Change, Places, Writeback};

/// The most names a transaction may change.
pub const OPERATIONS_MAX: usize = 1 << 20;

/// How a new file takes its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// In the place of whatever file has it.
    Replace,
    /// Only if nothing has it.
    CreateNew,
}

/// What a transaction has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// How many names were changed.
    pub names: usize,
    /// How far it has come: less than durable only without a journal.
    pub durability: Durability,
    /// How many of them had a file before, each as it was when this transaction came to it: what is gone now, or elsewhere.
    pub files_before: usize,
    /// The lengths of those files, summed up.
    pub bytes_before: u64,
}

/// Why a transaction did not come about, and the staged files it was given, where they are still the caller's.
#[derive(Debug)]
pub struct TransactionFailure {
    /// Why.
    pub error: Error,
    /// To be published again, or dropped; empty where the outcome is unknown.
    pub staged: Vec<StagedFile>,
}

impl From<TransactionFailure> for Error {
    fn from(failure: TransactionFailure) -> Self {
        failure.error
    }
}

impl fmt::Display for TransactionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for TransactionFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Changes of several names of a [`Root`]. All of them look at the tree **as it was before**: two renames against each other
/// swap two files. Each name gets one future.
///
/// Dropped without [`Transaction::commit`], nothing has happened.
#[must_use = "nothing is changed before `commit`"]
pub struct Transaction<'r> {
    root: &'r Root,
    wishes: BTreeMap<TreePath, Wish>,
    /// Names whose files go elsewhere.
    moved: BTreeSet<TreePath>,
    bulk: Option<Bulk<'r>>,
    /// What the hidden names of this transaction begin with.
    prefix: String,
    /// Bytes of the commit record with the payloads that ride in it, at most.
    payload_len: usize,
    /// Files that may ride in it, each of which keeps a descriptor.
    payloads: usize,
}

/// What a name is to become.
enum Wish {
    /// A file of these bytes, which ride in the journal.
    Payload(Arc<[u8]>, Publish),
    /// A file that the bulk has staged.
    Bulk(Publish),
    /// A file that the caller has staged.
    Staged(StagedFile, Publish),
    /// The file that has this name now.
    From(TreePath),
    Nothing,
}

impl Wish {
    fn must_be_free(&self) -> bool {
        matches!(
            self,
            Self::Payload(_, Publish::CreateNew)
                | Self::Bulk(Publish::CreateNew)
                | Self::Staged(_, Publish::CreateNew)
        )
    }
}

/// An operation that can be carried out: whatever it reads is on the medium, or in its record.
struct Ready {
    operation: Operation,
    target: Folder,
    /// The hidden name that becomes the target, if anything does.
    from: Option<(Folder, String)>,
    /// A second name of a file was made for this, and a rename between two names of one file does nothing.
    is_link: bool,
    /// The descriptor that wrote it, where it has not been synced.
    unsynced: Option<Arc<dyn File>>,
    bytes: usize,
}

/// What is ready, and is removed again if it comes to nothing.
#[derive(Default)]
struct Prepared {
    ready: Vec<Ready>,
    /// Hidden names that this transaction has made.
    made: Vec<(Folder, String)>,
    /// Directories that hold names a commit refers to.
    hidden_in: Changed,
    /// Of the files that ride in the journal.
    writeback: Writeback,
    list: Option<String>,
}

impl Root {
    /// Begins a transaction.
    pub fn transaction(&self) -> Transaction<'_> {
        if self.options.ownership == Ownership::Shared {
            self.tree.unsettle();
        }
        Transaction {
            root: self,
            wishes: BTreeMap::new(),
            moved: BTreeSet::new(),
            bulk: None,
            prefix: self.hidden.prefix(),
            payload_len: record::COMMIT_LEN,
            payloads: 0,
        }
    }

    /// Whether small payloads ride in the journal here.
    fn is_fast(&self) -> bool {
        self.ledger.is_some()
            && self.options.ownership == Ownership::Owned
            && self.options.fast == FastPath::On
    }

    /// How files are written that do not ride in the journal.
    fn write_options(&self) -> WriteOptions {
        WriteOptions {
            mode: (self.options.ownership == Ownership::Owned).then_some(Mode::PRIVATE),
            symlinks: Symlinks::Refuse,
            parents: Parents::Create,
            barriers: match self.ledger {
                Some(_) => Barriers::Required,
                None => Barriers::AllowVisibleOnly,
            },
            ..WriteOptions::default()
        }
    }
}

impl<'r> Transaction<'r> {
    /// How many names it changes so far, but for those whose files go elsewhere.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wishes.len()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wishes.is_empty()
    }

    /// Gives `path` a file of these bytes.
    ///
    /// # Errors
    /// [`Error::Repeated`], [`Error::OwnPath`], [`Error::TooLarge`]; of writing.
    pub fn replace(&mut self, path: &TreePath, bytes: &[u8]) -> Result<()> {
        self.write(path, bytes, Publish::Replace)
    }

    /// Gives `path`, which nothing has, a file of these bytes.
    ///
    /// # Errors
    /// As [`Transaction::replace`]. That the name is taken shows at the commit.
    pub fn create(&mut self, path: &TreePath, bytes: &[u8]) -> Result<()> {
        self.write(path, bytes, Publish::CreateNew)
    }

    fn write(&mut self, path: &TreePath, bytes: &[u8], publish: Publish) -> Result<()> {
        self.check(path)?;
        let len = self.payload_len + record::payload_operation_len(path, bytes.len());
        if self.rides(bytes.len(), len) && self.payloads < self.root.window.payloads_max() {
            self.payload_len = len;
            self.payloads += 1;
            self.wishes.insert(path.clone(), Wish::Payload(bytes.into(), publish));
            return Ok(());
        }
        self.stage(path, publish, bytes)
    }

    /// Gives `path` a file of what `content` reads, in constant memory.
    ///
    /// # Errors
    /// As [`Transaction::replace`]; of reading.
    pub fn write_from(&mut self, path: &TreePath, mut content: impl Read, publish: Publish) -> Result<()> {
        let small = if self.root.is_fast() { self.root.options.payload_len_max } else { 0 };
        let mut first = Vec::new();
        let begun =
            (&mut content).take(u64::try_from(small).unwrap_or(0).saturating_add(1)).read_to_end(&mut first);
        begun.map_err(|e| Error::os("reading the content of", path.as_str(), e))?;
        if first.len() <= small {
            return self.write(path, &first, publish);
        }
        self.check(path)?;
        self.stage(path, publish, first.as_slice().chain(content))
    }

    /// Gives `path` the file that was staged.
    ///
    /// # Errors
    /// As [`Transaction::replace`], with the file; [`Error::Poisoned`] where writing it had failed; [`Error::OwnPath`] where
    /// another root has staged it.
    pub fn publish(
        &mut self,
        staged: StagedFile,
        path: &TreePath,
        publish: Publish,
    ) -> std::result::Result<(), TransactionFailure> {
        let checked = self.check(path).and_then(|()| staged.refuse_unless_of(self.root));
        match checked.and_then(|()| staged.refuse_if_failed()) {
            Ok(()) => {
                self.wishes.insert(path.clone(), Wish::Staged(staged, publish));
                Ok(())
            }
            Err(error) => Err(TransactionFailure { error, staged: vec![staged] }),
        }
    }

    /// Takes away the file that `path` has now.
    ///
    /// # Errors
    /// As [`Transaction::replace`]. That there is none shows at the commit.
    pub fn remove(&mut self, path: &TreePath) -> Result<()> {
        self.check(path)?;
        if self.moved.contains(path) {
            return Err(Error::Repeated { path: path.clone() });
        }
        self.wishes.insert(path.clone(), Wish::Nothing);
        Ok(())
    }

    /// Gives `to` the file that `from` has now, and leaves `from` without one, unless this transaction gives it another.
    ///
    /// # Errors
    /// As [`Transaction::replace`]. That there is no such file shows at the commit.
    pub fn rename(&mut self, from: &TreePath, to: &TreePath) -> Result<()> {
        self.check(to)?;
        self.root.check_target(from)?;
        let is_taken_away = matches!(self.wishes.get(from), Some(Wish::Nothing));
        if from == to || is_taken_away || !self.moved.insert(from.clone()) {
            return Err(Error::Repeated { path: from.clone() });
        }
        self.wishes.insert(to.clone(), Wish::From(from.clone()));
        Ok(())
    }

    /// Whether a name may be given a future.
    fn check(&self, path: &TreePath) -> Result<()> {
        self.root.refuse_unless_writable()?;
        self.root.check_target(path)?;
        if self.wishes.contains_key(path) {
            return Err(Error::Repeated { path: path.clone() });
        }
        let count = self.wishes.len() + self.moved.len() + 1;
        if count > OPERATIONS_MAX {
            return Err(Error::TooLarge { count, count_max: OPERATIONS_MAX });
        }
        Ok(())
    }

    /// Whether a payload rides in the commit record that gets as long as `record_len` by it.
    fn rides(&self, len: usize, record_len: usize) -> bool {
        let Some(ledger) = &self.root.ledger else { return false };
        self.root.is_fast()
            && len <= self.root.options.payload_len_max
            && record_len <= ledger.commit_len_max()
    }

    /// Tells the journal what the hidden names of this transaction begin with, ahead of the first of them, so that what a
    /// process leaves that is killed is known to be its. Only where others stage files as well.
    ///
    /// Once it is durable: after a power cut a journal must not look closed, and the tree clean, when it is not.
    fn tell_staging(&self) -> Result<()> {
        let root = self.root;
        let Some(ledger) = root.ledger.as_ref().filter(|_| root.options.ownership == Ownership::Shared)
        else {
            return Ok(());
        };
        let record = record::encode_prepare([&TreePath::parse_any(&self.prefix)?]);
        let turn = root.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !ledger.looks_closed() {
            return ledger.write_prepared(&record);
        }
        match ledger.unseal(&record) {
            Err(JournalError::Full { .. }) => {
                drop(turn);
                root.switch(Ledger::looks_closed)
            }
            outcome => Ok(outcome?),
        }
    }

    /// Writes a file under a hidden name, with the others of this transaction that do not ride in the journal.
    fn stage(&mut self, path: &TreePath, publish: Publish, mut content: impl Read) -> Result<()> {
        let root = self.root;
        if self.bulk.is_none() {
            self.tell_staging()?;
        }
        // Not left to the bulk, which makes them durable when it is sealed: others would take them for durable before.
        drop(root.tree.folder_or_create(path.parent()).map_err(|error| root.heed(error))?);
        let prefix = &self.prefix;
        let bulk = self.bulk.get_or_insert_with(|| {
            let options = BulkOptions {
                hidden: HiddenNames::Chosen {
                    prefix: prefix.clone(),
                    suffix: STAGED_SUFFIX.to_owned(),
                    first: 0,
                },
                threads: root.options.window.threads,
                write: root.write_options(),
                ..BulkOptions::default()
            };
            root.tree.dir.bulk_with(options)
        });
        let mut file = bulk.stage(path.as_str(), &root.write_options())?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::os("reading the content of", path.as_str(), e)),
            };
            file.write_all(buffer.get(..count).unwrap_or_default())?;
        }
        file.finish();
        self.wishes.insert(path.clone(), Wish::Bulk(publish));
        Ok(())
    }

    /// Carries it out.
    ///
    /// # Durability
    /// `Ok`: every change survives power loss. In a [shared](Ownership::Shared) root every name is in place and durable there;
    /// in an [owned](Ownership::Owned) one it is in place, and durable as far as this root, and the next open, are concerned.
    ///
    /// # Errors
    /// With [`TargetState::Unchanged`] nothing has happened, and the staged files come back. [`Error::DurableNotVisible`]: it
    /// will be so after the next open. [`TargetState::Unknown`]: nobody knows before the next open.
    pub fn commit(mut self) -> std::result::Result<Committed, TransactionFailure> {
        let root = self.root;
        let outcome = self.carry_out().map_err(|error| root.heed(error));
        let staged = match &outcome {
            Err(error) if error.state() == TargetState::Unchanged => self.staged(),
            Ok(_) | Err(_) => Vec::new(),
        };
        drop(self);
        match outcome {
            Ok(committed) => {
                root.tidy();
                Ok(committed)
            }
            Err(error) => Err(TransactionFailure { error, staged }),
        }
    }

    fn staged(&mut self) -> Vec<StagedFile> {
        let staged = |wish| match wish {
            Wish::Staged(file, _) => Some(file),
            Wish::Payload(..) | Wish::Bulk(_) | Wish::From(_) | Wish::Nothing => None,
        };
        std::mem::take(&mut self.wishes).into_values().filter_map(staged).collect()
    }

    fn carry_out(&mut self) -> Result<Committed> {
        let root = self.root;
        root.refuse_unless_writable()?;
        let names: BTreeSet<TreePath> = self.wishes.keys().chain(&self.moved).cloned().collect();
        if names.is_empty() {
            return Ok(committed(0, Durability::Durable, &BTreeMap::new()));
        }
        let mut places = root.places(self.keeps())?;
        if !self.moved.is_empty() {
            // A second, hidden name is a staged file too.
            self.tell_staging()?;
        }
        let is_shared = root.options.ownership == Ownership::Shared;
        let _turn = is_shared.then(|| root.turn.lock().unwrap_or_else(PoisonError::into_inner));
        let busy = root.busy.take(&names);
        let found = self.look()?;
        let Some(ledger) = &root.ledger else { return self.carry_out_plainly(&found) };
        let writeback = match self.payloads > 1 || ledger.is_crowded() {
            true => Writeback::Begun,
            false => Writeback::Left,
        };
        let mut prepared = Prepared { writeback, ..Prepared::default() };
        let outcome = self.prepare(ledger, &found, &mut prepared).and_then(|record| {
            root.tree.dir.as_media().mark("after_prepare");
            self.commit_prepared(ledger, &record, &mut prepared, &mut places)
        });
        if let Err(error) = &outcome
            && error.state() == TargetState::Unchanged
        {
            prepared.undo(root);
        }
        outcome?;
        drop(busy);
        Ok(committed(names.len(), Durability::Durable, &found))
    }

    /// How many descriptors it may keep until its files are synced.
    fn keeps(&self) -> usize {
        let may_ride = |wish: &&Wish| match wish {
            Wish::Payload(..) | Wish::Staged(..) | Wish::From(_) => true,
            Wish::Bulk(_) | Wish::Nothing => false,
        };
        let may_ride = if self.root.is_fast() { self.wishes.values().filter(may_ride).count() } else { 0 };
        may_ride.min(self.root.window.payloads_max())
    }

    /// What has each name now, and whether that is as this transaction needs it.
    fn look(&self) -> Result<BTreeMap<TreePath, Option<Metadata>>> {
        let mut found = BTreeMap::new();
        for path in self.wishes.keys().chain(&self.moved) {
            let there = self.root.tree.look(path)?;
            if let Some(there) = there.filter(|there| !is_file(there)) {
                return Err(Error::NotAFile { path: path.clone(), kind: there.kind });
            }
            let wish = self.wishes.get(path);
            let must_be_free = wish.is_some_and(Wish::must_be_free) && !self.moved.contains(path);
            let must_exist = matches!(wish, Some(Wish::Nothing)) || self.moved.contains(path);
            match there {
                Some(_) if must_be_free => return Err(Error::Exists { path: path.clone() }),
                None if must_exist => return Err(Error::NotFound { path: path.clone() }),
                _ => {}
            }
            found.insert(path.clone(), there);
        }
        Ok(found)
    }

    /// Makes everything ready, and encodes the record of the commit.
    fn prepare(
        &mut self,
        ledger: &Ledger,
        found: &BTreeMap<TreePath, Option<Metadata>>,
        prepared: &mut Prepared,
    ) -> Result<Vec<u8>> {
        self.seal_bulk(found, prepared)?;
        let mut wishes = std::mem::take(&mut self.wishes);
        let outcome = wishes.iter_mut().try_for_each(|(path, wish)| {
            let before = found.get(path).copied().flatten();
            self.prepare_wish(path, wish, before, found, prepared)
        });
        self.wishes = wishes;
        outcome?;
        for path in self.moved.iter().filter(|path| !self.wishes.contains_key(*path)) {
            let before = found.get(path).copied().flatten();
            prepared.push_nothing(self.root, path, before)?;
        }
        prepared.hidden_in.sync()?;
        prepared.encode(self.root, ledger)
    }

    /// Seals what the bulk has staged: files on many threads, then each directory once.
    fn seal_bulk(
        &mut self,
        found: &BTreeMap<TreePath, Option<Metadata>>,
        prepared: &mut Prepared,
    ) -> Result<()> {
        // Opened while the files are still the bulk's, which removes them when this fails.
        let mut targets = BTreeMap::new();
        for (path, wish) in &self.wishes {
            if matches!(wish, Wish::Bulk(_)) && !targets.contains_key(path.parent()) {
                targets.insert(path.parent().to_owned(), self.root.tree.folder_or_create(path.parent())?);
            }
        }
        let Some(mut bulk) = self.bulk.take() else { return Ok(()) };
        let sealed = match bulk.seal_all() {
            Ok(sealed) => sealed,
            Err(report) => {
                return Err(match report.into_errors().next() {
                    Some(error) => error.into(),
                    None => Error::os("sealing", "", std::io::Error::other("a file was not sealed")),
                });
            }
        };
        let mut named = Vec::with_capacity(sealed.len());
        for file in sealed {
            let path = file.path.to_str().and_then(|path| TreePath::parse(path).ok());
            let hidden = file.hidden.to_str();
            let (Some(path), Some(hidden)) = (path, hidden) else { continue };
            let Some(target) = targets.get(path.parent()).cloned() else { continue };
            // All of them before the next look at anything: what fails then removes them all.
            prepared.made.push((target.clone(), hidden.to_owned()));
            named.push((path, hidden.to_owned(), target, file.id));
        }
        for (path, hidden, target, id) in named {
            let before = found.get(&path).copied().flatten();
            let inode = id.map_or(0, |id| id.inode);
            let what = What::Staged { hidden: path.sibling(&hidden), inode };
            let operation = Operation { before: before_of(self.root, &path, before)?, path, what };
            let from = Some((target.clone(), hidden));
            prepared.ready.push(Ready { operation, target, from, is_link: false, unsynced: None, bytes: 0 });
        }
        Ok(())
    }

    fn prepare_wish(
        &self,
        path: &TreePath,
        wish: &mut Wish,
        before: Option<Metadata>,
        found: &BTreeMap<TreePath, Option<Metadata>>,
        prepared: &mut Prepared,
    ) -> Result<()> {
        match wish {
            // Sealed with the others.
            Wish::Bulk(_) => Ok(()),
            Wish::Nothing => prepared.push_nothing(self.root, path, before),
            Wish::Payload(bytes, _) => self.prepare_payload(path, Arc::clone(bytes), prepared),
            Wish::Staged(staged, _) => self.prepare_staged(path, staged, before, prepared),
            Wish::From(source) => {
                let moved = found.get(source).copied().flatten();
                self.prepare_move(path, source, moved, before, prepared)
            }
        }
    }

    /// Writes the file of a payload that rides in the journal, without a barrier.
    fn prepare_payload(&self, path: &TreePath, bytes: Arc<[u8]>, prepared: &mut Prepared) -> Result<()> {
        let target = self.root.tree.folder_or_create(path.parent())?;
        let hidden = self.root.hidden.one();
        let file = target
            .dir
            .create_exclusive(OsStr::new(&hidden), Mode::PRIVATE)
            .map_err(|e| Error::os("creating a file for", path.as_str(), e))?;
        target.dir.mark("after_create");
        prepared.made.push((target.clone(), hidden.clone()));
        media::write_all_at(&*file, 0, &bytes).map_err(|e| Error::os("writing", path.as_str(), e))?;
        if prepared.writeback == Writeback::Begun {
            start_writeback(&*file, bytes.len());
        }
        target.dir.mark("after_write");
        let from = (target.clone(), hidden);
        prepared.push_payload(path, bytes, target, from, file);
        Ok(())
    }

    /// A file that the caller has staged: its bytes ride in the journal, if they are few; else it is synced.
    fn prepare_staged(
        &self,
        path: &TreePath,
        staged: &mut StagedFile,
        before: Option<Metadata>,
        prepared: &mut Prepared,
    ) -> Result<()> {
        let target = self.root.tree.folder_or_create(path.parent())?;
        target.dir.mark("after_write");
        let hidden = staged.path().clone();
        let from = (staged.folder().clone(), hidden.name().to_owned());
        let len = usize::try_from(staged.len()).unwrap_or(usize::MAX);
        if self.rides(len, prepared.record_len(self.payload_len, path, len)) && prepared.has_place(self) {
            let bytes =
                read_all(&**staged.file(), len).map_err(|e| Error::os("reading back", hidden.as_str(), e))?;
            if bytes.len() != len {
                let cut = std::io::ErrorKind::UnexpectedEof.into();
                return Err(Error::os("reading back", hidden.as_str(), cut));
            }
            if prepared.writeback == Writeback::Begun {
                start_writeback(&**staged.file(), len);
            }
            prepared.push_payload(path, bytes.into(), target, from, Arc::clone(staged.file()));
            return Ok(());
        }
        staged.sync()?;
        let found = staged.file().metadata().map_err(|e| Error::os("looking at", hidden.as_str(), e))?;
        prepared.hidden_in.add(staged.folder());
        let what = What::Staged { hidden, inode: inode(&found) };
        let operation = Operation { path: path.clone(), before: before_of(self.root, path, before)?, what };
        let from = Some(from);
        prepared.ready.push(Ready { operation, target, from, is_link: false, unsynced: None, bytes: 0 });
        Ok(())
    }

    /// A file that moves: its bytes ride in the journal, if they are few; else it gets a second, hidden name, so that nothing
    /// that is committed reads from a name that others may change.
    fn prepare_move(
        &self,
        path: &TreePath,
        source: &TreePath,
        moved: Option<Metadata>,
        before: Option<Metadata>,
        prepared: &mut Prepared,
    ) -> Result<()> {
        let root = self.root;
        let Some(moved) = moved else { return Err(Error::NotFound { path: source.clone() }) };
        let Some(home) = root.tree.folder(source.parent())? else {
            return Err(Error::NotFound { path: source.clone() });
        };
        let len = usize::try_from(moved.len).unwrap_or(usize::MAX);
        if self.rides(len, prepared.record_len(self.payload_len, path, len)) && prepared.has_place(self) {
            let file = home.open(source.name(), Access::Read)?;
            let bytes = read_all(&*file, len).map_err(|e| Error::os("reading", source.as_str(), e))?;
            if bytes.len() != len {
                return Err(Error::os("reading", source.as_str(), std::io::ErrorKind::UnexpectedEof.into()));
            }
            return self.prepare_payload(path, bytes.into(), prepared);
        }
        let target = root.tree.folder_or_create(path.parent())?;
        // What is committed is found by a name there.
        drop(root.tree.folder_or_create(source.parent())?);
        refuse_other_device(path, &target, &moved)?;
        sync_moved(root, source, &home)?;
        let hidden = format!("{}m{:x}{STAGED_SUFFIX}", self.prefix, prepared.made.len());
        home.dir
            .link(OsStr::new(source.name()), OsStr::new(&hidden))
            .map_err(|e| Error::os("giving a second name to", source.as_str(), e))?;
        prepared.made.push((home.clone(), hidden.clone()));
        prepared.hidden_in.add(&home);
        let what = What::Staged { hidden: source.sibling(&hidden), inode: inode(&moved) };
        let operation = Operation { path: path.clone(), before: before_of(root, path, before)?, what };
        let from = Some((home, hidden));
        prepared.ready.push(Ready { operation, target, from, is_link: true, unsynced: None, bytes: 0 });
        Ok(())
    }

    /// The commit point, and everything behind it.
    fn commit_prepared(
        &mut self,
        ledger: &Ledger,
        record: &[u8],
        prepared: &mut Prepared,
        places: &mut Places<'_>,
    ) -> Result<()> {
        let root = self.root;
        let mut among_others = Some(root.gate.read().unwrap_or_else(PoisonError::into_inner));
        let mut alone = None;
        let number = match ledger.commit(record.to_vec()) {
            Err(JournalError::Full { .. }) => {
                drop(among_others.take());
                // Others would take the room that is made, or fill the frame until it does not fit again.
                alone = Some(root.switch_and_stay_alone(|ledger| !ledger.has_room_for(record.len()))?);
                ledger.commit(record.to_vec())
            }
            outcome => outcome,
        };
        let number = match number {
            Ok(number) => number,
            Err(error) if is_refusal(&error) => return Err(error.into()),
            Err(error) => {
                // It may be found: what it refers to must be there then.
                self.disarm();
                return Err(root.poison(error.into()));
            }
        };
        self.disarm();
        root.tree.dir.as_media().mark("after_commit_record");
        let placed = prepared.place();
        let outcome =
            placed.map_err(|error| root.poison(error)).and_then(|changed| match root.options.ownership {
                Ownership::Owned => {
                    root.window.add(prepared.changes(number), places);
                    ledger.in_place(number);
                    Ok(())
                }
                Ownership::Shared => {
                    let complete = complete(root, ledger, number, &changed);
                    complete.map_err(|error| root.poison(Error::NotCompleted { source: Box::new(error) }))
                }
            });
        drop((among_others, alone));
        outcome?;
        if let Some(list) = prepared.list.take() {
            root.list_is_needless(list);
        }
        Ok(())
    }

    /// What the caller has staged belongs to the commit now.
    fn disarm(&mut self) {
        for wish in self.wishes.values_mut() {
            if let Wish::Staged(staged, _) = wish {
                staged.disarm();
            }
        }
    }

    /// Without a journal: one name, by its own barriers, as far as there are any.
    fn carry_out_plainly(&mut self, found: &BTreeMap<TreePath, Option<Metadata>>) -> Result<Committed> {
        let root = self.root;
        let why = || Error::NotJournaled { why: root.journaling().to_string() };
        let dir = &root.tree.dir;
        let barriers = Barriers::AllowVisibleOnly;
        let mut wishes = std::mem::take(&mut self.wishes).into_iter();
        let (Some((path, wish)), None) = (wishes.next(), wishes.next()) else { return Err(why()) };
        let durability = match wish {
            Wish::Nothing => dir.remove_with(path.as_str(), barriers)?,
            Wish::From(source) => {
                dir.rename_to(source.as_str(), dir, path.as_str(), RenameMode::Replace, barriers)?
            }
            Wish::Bulk(_) => match &mut self.bulk {
                Some(bulk) => bulk.publish_all().all_published()?.durability,
                None => return Err(why()),
            },
            Wish::Payload(..) => return Err(why()),
            Wish::Staged(mut staged, _) => {
                staged.sync()?;
                let target = root.tree.folder_or_create(path.parent())?;
                staged
                    .folder()
                    .rename(staged.path().name(), &target, path.name())
                    .map_err(|e| Error::os("naming", path.as_str(), e))?;
                staged.disarm();
                let mut durability = Durability::Durable;
                for folder in [&target, staged.folder()] {
                    match folder.dir.sync() {
                        Ok(()) => {}
                        Err(e) if Reason::of(&e).means_barrier_unsupported() => {
                            durability = Durability::VisibleOnly(Reason::of(&e));
                        }
                        Err(e) => {
                            let error = Error::os("syncing the directory of", path.as_str(), e);
                            return Err(error.in_state(TargetState::ReplacedNotDurable));
                        }
                    }
                }
                durability
            }
        };
        Ok(committed(found.len(), durability, found))
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("names", &self.wishes.keys()).field("moved", &self.moved).finish()
    }
}

impl Prepared {
    fn push_payload(
        &mut self,
        path: &TreePath,
        bytes: Arc<[u8]>,
        target: Folder,
        from: (Folder, String),
        file: Arc<dyn File>,
    ) {
        let len = bytes.len();
        let operation =
            Operation { path: path.clone(), before: Before::NotRecorded, what: What::Payload(bytes) };
        self.ready.push(Ready {
            operation,
            target,
            from: Some(from),
            is_link: false,
            unsynced: Some(file),
            bytes: len,
        });
    }

    fn push_nothing(&mut self, root: &Root, path: &TreePath, before: Option<Metadata>) -> Result<()> {
        let Some(target) = root.tree.folder(path.parent())? else {
            return Err(Error::NotFound { path: path.clone() });
        };
        if root.options.ownership == Ownership::Shared {
            // What is there now must be what recovery finds, whoever gave it its name without a barrier.
            self.hidden_in.add(&target);
        }
        let before = before_of(root, path, before)?;
        let operation = Operation { path: path.clone(), before, what: What::Absent };
        self.ready.push(Ready { operation, target, from: None, is_link: false, unsynced: None, bytes: 0 });
        Ok(())
    }

    /// Whether another file may ride in the journal and keep its descriptor, beside those that were planned.
    fn has_place(&self, transaction: &Transaction<'_>) -> bool {
        let beside = self.ready.iter().filter(|ready| ready.unsynced.is_some()).count();
        transaction.payloads + beside < transaction.root.window.payloads_max()
    }

    /// How long the record gets by another payload, at most; `planned` counts those that were known in advance.
    fn record_len(&self, planned: usize, path: &TreePath, len: usize) -> usize {
        let ready =
            self.ready.iter().map(|ready| record::payload_operation_len(&ready.operation.path, ready.bytes));
        let so_far = planned.saturating_add(ready.sum());
        so_far.saturating_add(record::payload_operation_len(path, 0)).saturating_add(len)
    }

    /// The record of the commit. What does not fit into a frame goes to a file of its own, which is durable before.
    fn encode(&mut self, root: &Root, ledger: &Ledger) -> Result<Vec<u8>> {
        let operations: Vec<Operation> = self.ready.iter().map(|ready| ready.operation.clone()).collect();
        let record = record::encode_commit(&operations);
        if record.len() <= ledger.commit_len_max() {
            return Ok(record);
        }
        let mut list = Vec::new();
        record::encode_operations(&operations, &mut list);
        let digest: [u8; 32] = Sha256::digest(&list).into();
        let name = root.hidden.list(&digest);
        drop(root.journal_dir.create_new(Path::new(&name), &list)?);
        let len = u64::try_from(list.len()).unwrap_or(u64::MAX);
        let record = record::encode_list(len, digest, &name);
        self.list = Some(name);
        Ok(record)
    }

    /// Gives everything its name.
    fn place(&self) -> Result<Changed> {
        let mut changed = Changed::default();
        for ready in &self.ready {
            let name = ready.operation.path.name();
            let placed = match &ready.from {
                Some((folder, hidden)) => {
                    changed.add(folder);
                    folder.rename(hidden, &ready.target, name).and_then(|()| match ready.is_link {
                        true => folder.remove(hidden),
                        false => Ok(()),
                    })
                }
                None => ready.target.remove(name),
            };
            placed.map_err(|source| Error::DurableNotVisible {
                doing: "naming",
                path: ready.operation.path.as_str().to_owned(),
                source,
            })?;
            changed.add(&ready.target);
            ready.target.dir.mark("after_rename");
        }
        Ok(changed)
    }

    /// What waits for its barriers now.
    fn changes(&mut self, number: Number) -> Vec<Change> {
        let writeback = self.writeback;
        let change = |ready: Ready| {
            let mut folders = vec![ready.target];
            folders.extend(
                ready
                    .from
                    .map(|(folder, _)| folder)
                    .filter(|folder| folders.iter().all(|target| target.path != folder.path)),
            );
            Change {
                number,
                path: ready.operation.path,
                file: ready.unsynced,
                writeback,
                folders,
                bytes: ready.bytes,
            }
        };
        self.ready.drain(..).map(change).collect()
    }

    /// Takes away what was made for a commit that did not come about.
    fn undo(&mut self, root: &Root) {
        for (folder, hidden) in self.made.drain(..) {
            if let Err(error) = folder.remove(&hidden) {
                tracing::warn!(path = folder.path_of(&hidden), %error, "a staged file is left for the next open");
            }
        }
        if let Some(list) = self.list.take()
            && let Err(error) = root.journal_dir.as_media().unlink(OsStr::new(&list))
        {
            tracing::warn!(list, %error, "a list is left for the next open");
        }
    }
}

/// What is told of a transaction that found this.
fn committed(
    names: usize,
    durability: Durability,
    found: &BTreeMap<TreePath, Option<Metadata>>,
) -> Committed {
    let before = found.values().flatten();
    let bytes_before = before.clone().fold(0_u64, |sum, file| sum.saturating_add(file.len));
    Committed { names, durability, files_before: before.count(), bytes_before }
}

/// In a shared root: every name is made durable, and then the journal says so, before anybody is told.
fn complete(root: &Root, ledger: &Ledger, number: Number, changed: &Changed) -> Result<()> {
    changed.sync()?;
    ledger.in_place(number);
    root.tree.dir.as_media().mark("before_done");
    ledger.settle(number)
}

/// What has the name before a commit, for recovery to tell whether others have changed it since. Not where there are none.
fn before_of(root: &Root, path: &TreePath, found: Option<Metadata>) -> Result<Before> {
    if root.options.ownership == Ownership::Owned {
        return Ok(Before::NotRecorded);
    }
    let Some(found) = found else { return Ok(Before::Absent) };
    let Some(folder) = root.tree.folder(path.parent())? else { return Ok(Before::Absent) };
    let modified = match folder.dir.open(OsStr::new(path.name()), Access::Read) {
        Ok(file) => Some(file.modified().map_err(|e| Error::os("looking at", path.as_str(), e))?),
        // Whoever may replace a file need not be one who may read it.
        Err(e) if Reason::of(&e) == Reason::PermissionDenied => None,
        Err(e) => return Err(Error::os("looking at", path.as_str(), e)),
    };
    Ok(Before::File { inode: inode(&found), modified })
}

/// Where a rename would be refused after the commit point, it is refused before.
fn refuse_other_device(path: &TreePath, target: &Folder, moved: &Metadata) -> Result<()> {
    let there = target.dir.dir_metadata().map_err(|e| Error::os("looking at", target.path.as_str(), e))?;
    match (there.id, moved.id) {
        (Some(dir), Some(file)) if dir.device != file.device => {
            Err(Error::os("moving a file to", path.as_str(), std::io::ErrorKind::CrossesDevices.into()))
        }
        _ => Ok(()),
    }
}

/// What is committed must not read from bytes that are on no medium: whoever wrote a file that moves may not have synced it.
fn sync_moved(root: &Root, source: &TreePath, home: &Folder) -> Result<()> {
    let file = match root.window.unsynced(source) {
        Some(file) => file,
        None => match home.dir.open(OsStr::new(source.name()), Access::Read) {
            Err(e) if Reason::of(&e) == Reason::PermissionDenied => {
                home.open(source.name(), Access::Write)?
            }
            outcome => outcome.map_err(|e| Error::os("opening", source.as_str(), e))?,
        },
    };
    file.sync_all().map_err(|e| Error::os(SYNCING_MOVED, source.as_str(), e))?;
    file.mark("after_fsync");
    Ok(())
}
