//! [`TreeCase`]: names that change in a tree with a journal, in each of the ways a [`Root`] has.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crash_recovery::{
    Committed, FastPath, Journaling, Recovery, Root, RootOptions, STAGED_SUFFIX, TransactionFailure,
    TreePath, WindowLimits,
};
use crashsim::{Atom, Cell, Disks, Life, Operation, Run, Value};
use durable_io::{Durability, TargetState};
use media::doubles::{Call, Listener, Op, TapFs};

use super::case::{Ended, file_with};
use crate::site::{Answer, FileCase, Refusal, Site};

/// The longest payload that rides in the journal. Longer ones are staged and synced first.
const PAYLOAD_LEN_MAX: usize = 8;
const BLOCK_SIZE: u32 = 512;

/// How a root is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A root of our own, small payloads in the journal.
    Fast,
    /// The same on a file system whose files offer durable writes as disks.
    FastDurable,
    /// A root of our own, every file synced before the commit.
    Plain,
    /// A directory of others.
    Shared,
}

impl Way {
    /// What the names of cases begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Fast => "owned",
            Self::FastDurable => "owned-dsync",
            Self::Plain => "plain",
            Self::Shared => "txn",
        }
    }

    fn mode(self) -> u32 {
        match self {
            Self::Fast | Self::FastDurable | Self::Plain => 0o600,
            Self::Shared => 0o644,
        }
    }

    pub(super) fn disks(self) -> Disks {
        match self {
            Self::FastDurable => Disks::DurableWrites,
            Self::Fast | Self::Plain | Self::Shared => Disks::Plain,
        }
    }

    /// Small enough that every boundary is common.
    pub(super) fn options(self, shape: Shape) -> RootOptions {
        let base = match self {
            Self::Shared => RootOptions::shared(),
            Self::Fast | Self::FastDurable => RootOptions::owned(OWN_JOURNAL),
            Self::Plain => RootOptions { fast: FastPath::Off, ..RootOptions::owned(OWN_JOURNAL) },
        };
        RootOptions {
            journal_bytes: shape.journal_blocks * u64::from(BLOCK_SIZE),
            block_size: BLOCK_SIZE,
            payload_len_max: PAYLOAD_LEN_MAX,
            window: WindowLimits { changes: shape.window, bytes: 1 << 20, threads: 1 },
            // Nothing is spared because it is young: what is swept wrongly is missed.
            orphan_age: Duration::ZERO,
            ..base
        }
    }

    /// What a file of these bytes looks like.
    pub(super) fn file(self, bytes: &[u8]) -> Option<Value> {
        file_with(bytes, self.mode())
    }
}

/// Where the journal of a root of our own is.
const OWN_JOURNAL: &str = "own/journal";

/// How small things are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) journal_blocks: u64,
    /// How many changes wait for their barriers.
    pub(super) window: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self::new()
    }
}

impl Shape {
    /// A journal that is never full, and a window that holds whatever a case does.
    pub(super) const fn new() -> Self {
        Self { journal_blocks: 40, window: 8 }
    }
}

/// What becomes of a name in a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'b> {
    Put(&'b str, &'b [u8]),
    Create(&'b str, &'b [u8]),
    Remove(&'b str),
    Rename(&'b str, &'b str),
}

/// A root, and what a reader of it sees, as far as operations have said.
pub(super) struct Tree<'s, 'w> {
    pub(super) site: &'s Site<'w>,
    pub(super) root: Root,
    pub(super) way: Way,
    pub(super) seen: BTreeMap<String, Option<Value>>,
}

impl Refusal for crash_recovery::Error {
    fn state(&self) -> TargetState {
        self.state()
    }
}

impl Refusal for TransactionFailure {
    fn state(&self) -> TargetState {
        self.error.state()
    }
}

/// What a program without an engine is told.
impl Refusal for io::Error {
    fn state(&self) -> TargetState {
        TargetState::Unknown
    }
}

impl Answer for Committed {
    fn durability(&self) -> Durability {
        self.durability
    }
}

impl From<crash_recovery::Error> for Ended {
    fn from(error: crash_recovery::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<TransactionFailure> for Ended {
    fn from(failure: TransactionFailure) -> Self {
        Self(failure.to_string())
    }
}

pub(super) fn at(path: &str) -> Result<TreePath, Ended> {
    TreePath::parse(path).map_err(|error| Ended(error.to_string()))
}

/// Opens the root of a site. That it may only be read, or has no journal, is a failure.
pub(super) fn open(site: &Site<'_>, way: Way, shape: Shape) -> Result<(Root, Recovery), Ended> {
    let fs = Arc::clone(&site.fs);
    let (root, recovery) = Root::open(fs, &site.root, site.env.clone(), way.options(shape))?;
    if let Some(why) = &recovery.read_only {
        return Err(Ended(format!("read-only: {why}")));
    }
    match &recovery.journaling {
        Journaling::On => Ok((root, recovery)),
        Journaling::Off(why) => Err(Ended(format!("no journal: {why}"))),
    }
}

impl<'s, 'w> Tree<'s, 'w> {
    pub(super) fn open(
        site: &'s Site<'w>,
        way: Way,
        shape: Shape,
        seen: &[(&str, &[u8])],
    ) -> Result<Self, Ended> {
        let (root, _) = open(site, way, shape)?;
        let seen = seen.iter().map(|(name, bytes)| ((*name).to_owned(), way.file(bytes))).collect();
        Ok(Self { site, root, way, seen })
    }

    pub(super) fn value(&self, name: &str) -> Option<Value> {
        self.seen.get(name).cloned().flatten()
    }

    /// What the changes make of each name, all looking at the tree as it is before them.
    fn atom(&self, changes: &[Change<'_>]) -> Atom {
        let mut atom: BTreeMap<&str, Option<Value>> = BTreeMap::new();
        for change in changes {
            match *change {
                Change::Remove(name) | Change::Rename(name, _) => drop(atom.insert(name, None)),
                Change::Put(..) | Change::Create(..) => {}
            }
        }
        for change in changes {
            match *change {
                Change::Put(name, bytes) | Change::Create(name, bytes) => {
                    atom.insert(name, self.way.file(bytes));
                }
                Change::Rename(from, to) => drop(atom.insert(to, self.value(from))),
                Change::Remove(_) => {}
            }
        }
        atom.into_iter().map(|(name, value)| (Cell::from(name), value)).collect()
    }

    /// Changes names together. Where nothing has happened, one may go on.
    pub(super) fn commit(&mut self, label: &str, changes: &[Change<'_>]) -> Result<(), Ended> {
        let atom = self.atom(changes);
        let root = &self.root;
        let outcome = self.site.perform(Operation::new(label, vec![atom.clone()]), || commit(root, changes));
        match outcome {
            Ok(_) => {
                self.seen.extend(atom.into_iter().map(|(name, value)| (name.to_string(), value)));
                Ok(())
            }
            Err(failure) if failure.error.state() == TargetState::Unchanged => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Ended> {
        self.commit(&format!("put {name}"), &[Change::Put(name, bytes)])
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), Ended> {
        self.commit(&format!("remove {name}"), &[Change::Remove(name)])
    }

    /// Closes it and opens it again.
    pub(super) fn reopen(self, shape: Shape) -> Result<Self, Ended> {
        self.root.close()?;
        let (root, _) = open(self.site, self.way, shape)?;
        Ok(Self { root, ..self })
    }
}

/// One transaction.
pub(super) fn commit(root: &Root, changes: &[Change<'_>]) -> Result<Committed, TransactionFailure> {
    let mut transaction = root.transaction();
    let added = changes.iter().try_for_each(|change| match *change {
        Change::Put(name, bytes) => transaction.replace(&TreePath::parse(name)?, bytes),
        Change::Create(name, bytes) => transaction.create(&TreePath::parse(name)?, bytes),
        Change::Remove(name) => transaction.remove(&TreePath::parse(name)?),
        Change::Rename(from, to) => transaction.rename(&TreePath::parse(from)?, &TreePath::parse(to)?),
    });
    match added {
        Ok(()) => transaction.commit(),
        Err(error) => Err(TransactionFailure { error, staged: Vec::new() }),
    }
}

/// What is done in each of some ways.
#[derive(Clone, Copy)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) ways: &'static [Way],
    pub(super) shape: Shape,
    /// Files that are there before; with none, there is no journal yet either.
    pub(super) before: &'static [(&'static str, &'static [u8])],
    /// What an earlier process had committed, together, before it died with none of it in place. The run begins with the
    /// recovery that finishes it, so that every step of that is one that a power cut comes after.
    pub(super) pending: &'static [Change<'static>],
    /// What an earlier process did, without barriers, before it died.
    pub(super) earlier: fn(&Site<'_>) -> io::Result<()>,
    pub(super) run: fn(Tree<'_, '_>) -> Result<(), Ended>,
    /// What a process does that comes after one that died, before it opens the root.
    pub(super) meanwhile: Meanwhile,
    /// And what it does then.
    pub(super) afterwards: fn(Tree<'_, '_>) -> Result<(), Ended>,
}

/// What happens between a crash and the recovery from it.
#[derive(Clone, Copy)]
pub(super) enum Meanwhile {
    Nothing,
    /// Somebody else changes files there, so that what was committed may be in conflict with them.
    Foreign(fn(&Site<'_>) -> Result<(), Ended>),
}

impl Script {
    pub(super) const fn new(
        name: &'static str,
        about: &'static str,
        ways: &'static [Way],
        before: &'static [(&'static str, &'static [u8])],
        run: fn(Tree<'_, '_>) -> Result<(), Ended>,
    ) -> Self {
        Self {
            name,
            about,
            ways,
            shape: Shape::new(),
            before,
            pending: &[],
            earlier: |_| Ok(()),
            run,
            meanwhile: Meanwhile::Nothing,
            afterwards: |_| Ok(()),
        }
    }

    pub(super) fn cases(self) -> impl Iterator<Item = TreeCase> {
        self.ways.iter().map(move |&way| TreeCase {
            name: format!("{}-{}", way.prefix(), self.name),
            way,
            script: self,
        })
    }
}

/// A script in one way.
pub(super) struct TreeCase {
    name: String,
    way: Way,
    script: Script,
}

/// Puts files there and closes the root. Without files, there is no root.
pub(super) fn prepare(
    site: &Site<'_>,
    way: Way,
    shape: Shape,
    files: &[(&str, &[u8])],
) -> Result<Vec<(Cell, Option<Value>)>, Ended> {
    if !files.is_empty() {
        let (root, _) = open(site, way, shape)?;
        for (name, bytes) in files {
            commit(&root, &[Change::Put(name, bytes)])?;
        }
        root.close()?;
    }
    Ok(files.iter().map(|(name, bytes)| ((*name).into(), way.file(bytes))).collect())
}

/// Lets nothing staged get its name.
#[derive(Debug)]
struct NoNames;

impl Listener for NoNames {
    fn before(&self, call: &Call) -> io::Result<()> {
        match call.op == Op::Rename && call.subject.contains(STAGED_SUFFIX) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

/// Commits changes that do not come to be in place. From then on they are there after a recovery, whatever else happens.
fn leave_pending(
    site: &Site<'_>,
    way: Way,
    shape: Shape,
    cells: Vec<(Cell, Option<Value>)>,
    pending: &[Change<'_>],
) -> Result<Vec<(Cell, Option<Value>)>, Ended> {
    if pending.is_empty() {
        return Ok(cells);
    }
    let fs = TapFs::shared(Arc::clone(&site.fs), Arc::new(NoNames));
    // Another process than any that comes later: each draws random names of its own.
    let earlier = Life { process: 1000, ..site.life };
    let refusing = Site::new(fs, &site.root, earlier, site.witness);
    let (root, _) = open(&refusing, way, shape)?;
    match commit(&root, pending) {
        Err(failure) if failure.error.state() == TargetState::DurableNotVisible => {}
        Err(failure) => return Err(failure.into()),
        Ok(_) => return Err(Ended("nothing is pending".to_owned())),
    }
    let seen = cells.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    let mut tree = Tree { site, root, way, seen };
    let atom = tree.atom(pending);
    tree.seen.extend(atom.into_iter().map(|(name, value)| (name.to_string(), value)));
    Ok(tree.seen.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

/// What is a root's own, and there for good.
pub(super) fn is_roots_own(name: &str) -> bool {
    let in_journal_dir = |dir: &str| {
        name.strip_prefix(dir).is_some_and(|rest| matches!(rest, "" | "journal" | "journal.lock"))
    };
    matches!(name, ".steadfast-journaled" | "own/")
        || in_journal_dir("own/journal/")
        || in_journal_dir(".steadfast-txn/")
}

impl TreeCase {
    fn come_back(&self, site: &Site<'_>) -> Result<(), Ended> {
        let Script { shape, meanwhile, afterwards, .. } = self.script;
        if let Meanwhile::Foreign(change) = meanwhile {
            change(site)?;
        }
        let (root, recovery) = open(site, self.way, shape)?;
        match (recovery.conflicts.first(), meanwhile) {
            (Some(conflict), Meanwhile::Nothing) => {
                return Err(Ended(format!("`{}` is in conflict: {}", conflict.path, conflict.why)));
            }
            (Some(_), Meanwhile::Foreign(_)) | (None, _) => {}
        }
        afterwards(Tree { site, root, way: self.way, seen: BTreeMap::new() })
    }
}

impl FileCase for TreeCase {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        self.script.about
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        let Script { shape, before, pending, .. } = self.script;
        let prepared = prepare(site, self.way, shape, before);
        prepared
            .and_then(|cells| leave_pending(site, self.way, shape, cells, pending))
            .map_err(|Ended(why)| why)
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        let Script { shape, before, earlier, run, .. } = self.script;
        let tree =
            earlier(site).map_err(Ended::from).and_then(|()| Tree::open(site, self.way, shape, before));
        drop(tree.and_then(run));
    }

    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        self.come_back(site).map_err(|Ended(why)| why)
    }

    fn owns(&self, name: &str) -> bool {
        let is_kept = matches!(self.script.meanwhile, Meanwhile::Foreign(_))
            && name.starts_with(".steadfast-txn/conflict-");
        is_kept || is_roots_own(name)
    }

    fn disks(&self) -> Disks {
        self.way.disks()
    }
}
