//! A typed registry: named entries in one JSON file that many processes change.
//!
//! The file is one JSON object: `{"steadfast_registry":1,"revision":R,"entries":{…},"removed":{…}}`. Every entry carries
//! the revision at which it last changed; a removal leaves a tombstone with its revision, so that a merge cannot
//! bring the entry back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::UpdateOptions;
use crate::dir::{Dir, sync_dir, sync_existing};
use crate::error::{Cause, Error, Kind, Result, Stage, TargetState};
use crate::options::{Parents, Published, Symlinks};

/// How many tombstones are kept unless the caller says otherwise. Beyond it the oldest go first, and with them the
/// protection against a merge of a copy that is older still.
pub const REMOVED_MAX_DEFAULT: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry<V> {
    revision: u64,
    value: V,
}

/// The content of a registry: entries, and what is known about removed ones.
///
/// A document remembers the revision it was read at, so that [`Document::merge`] can tell what was changed in it
/// since, from what is merely old.
#[derive(Debug, Clone, PartialEq)]
pub struct Document<V> {
    revision: u64,
    base: u64,
    entries: BTreeMap<String, Entry<V>>,
    removed: BTreeMap<String, u64>,
}

/// The same, as it is in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<V> {
    steadfast_registry: u32,
    revision: u64,
    entries: BTreeMap<String, Entry<V>>,
    removed: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct StoredRef<'a, V> {
    steadfast_registry: u32,
    revision: u64,
    entries: &'a BTreeMap<String, Entry<V>>,
    removed: &'a BTreeMap<String, u64>,
}

/// Who wins where both sides changed an entry since they parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflicts {
    /// What is stored stays.
    KeepStored,
    /// What is merged in replaces it.
    TakeMerged,
}

/// What a merge did, by entry name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeReport {
    /// Entries put, changed or removed by the merge.
    pub taken: Vec<String>,
    /// Entries that both sides had changed differently; [`Conflicts`] decided.
    pub conflicts: Vec<String>,
}

/// The outcome of a compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap<V> {
    /// Done; the entry's new revision.
    Done(u64),
    /// The entry is no longer what was expected; nothing was written. `None` if it is not there.
    Conflict(Option<(u64, V)>),
}

impl<V> Default for Document<V> {
    fn default() -> Self {
        Self { revision: 0, base: 0, entries: BTreeMap::new(), removed: BTreeMap::new() }
    }
}

impl<V> Document<V> {
    /// The number of the last change; 0 before the first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The value of an entry.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&V> {
        self.entries.get(name).map(|entry| &entry.value)
    }

    /// The revision at which an entry last changed.
    #[must_use]
    pub fn revision_of(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.revision)
    }

    /// All entries, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), &entry.value))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many tombstones are kept.
    #[must_use]
    pub fn removed_count(&self) -> usize {
        self.removed.len()
    }

    /// Puts an entry; returns its revision.
    pub fn insert(&mut self, name: impl Into<String>, value: V) -> u64 {
        let name = name.into();
        self.revision += 1;
        self.removed.remove(&name);
        self.entries.insert(name, Entry { revision: self.revision, value });
        self.revision
    }

    /// Removes an entry and leaves a tombstone; returns the value it had.
    pub fn remove(&mut self, name: &str) -> Option<V> {
        let entry = self.entries.remove(name)?;
        self.revision += 1;
        self.removed.insert(name.to_owned(), self.revision);
        Some(entry.value)
    }

    /// When `name` last changed, removals included; 0 for never.
    fn changed_at(&self, name: &str) -> u64 {
        let entry = self.entries.get(name).map(|entry| entry.revision);
        entry.or_else(|| self.removed.get(name).copied()).unwrap_or(0)
    }

    /// Drops the oldest tombstones beyond `count_max`.
    fn forget_removed(&mut self, count_max: usize) {
        let mut by_age: Vec<u64> = self.removed.values().copied().collect();
        by_age.sort_unstable();
        if let Some(surplus) = by_age.len().checked_sub(count_max)
            && let Some(&youngest_dropped) = surplus.checked_sub(1).and_then(|last| by_age.get(last))
        {
            self.removed.retain(|_, &mut revision| revision > youngest_dropped);
        }
    }
}

impl<V: Clone + PartialEq> Document<V> {
    /// Merges a copy that was read at some revision and changed since: the union by entry. What only the copy
    /// changed is taken, what only this document changed stays; where both did, `conflicts` decides. What is
    /// absent from the copy without a tombstone newer than its base was simply not there yet, and stays.
    pub fn merge(&mut self, copy: &Self, conflicts: Conflicts) -> MergeReport {
        let mut report = MergeReport::default();
        let names: BTreeSet<&String> = copy.entries.keys().chain(copy.removed.keys()).collect();
        for name in names {
            let changed_there = copy.changed_at(name) > copy.base;
            let same = self.get(name) == copy.get(name);
            if !changed_there || same {
                continue;
            }
            if self.changed_at(name) > copy.base {
                report.conflicts.push(name.clone());
                if conflicts == Conflicts::KeepStored {
                    continue;
                }
            }
            match copy.get(name) {
                Some(value) => {
                    self.insert(name.clone(), value.clone());
                }
                None => {
                    self.remove(name);
                }
            }
            report.taken.push(name.clone());
        }
        report
    }
}

/// A registry file. Cheap to make; holds nothing open but the directory.
#[derive(Debug)]
pub struct Registry<V> {
    dir: Dir,
    name: PathBuf,
    options: UpdateOptions,
    removed_max: usize,
    _value: std::marker::PhantomData<fn() -> V>,
}

impl Dir {
    /// The typed registry in the file `name`. Nothing is touched before the first call on it.
    pub fn registry<V>(&self, name: impl Into<PathBuf>) -> Registry<V> {
        self.registry_with(name, UpdateOptions::default())
    }

    /// As [`Dir::registry`], with options for its lock and its writes.
    pub fn registry_with<V>(&self, name: impl Into<PathBuf>, options: UpdateOptions) -> Registry<V> {
        Registry {
            dir: self.clone(),
            name: name.into(),
            options,
            removed_max: REMOVED_MAX_DEFAULT,
            _value: std::marker::PhantomData,
        }
    }
}

impl<V: Serialize + DeserializeOwned + Clone + PartialEq> Registry<V> {
    /// Sets how many tombstones are kept.
    #[must_use]
    pub fn removed_max(mut self, count_max: usize) -> Self {
        self.removed_max = count_max;
        self
    }

    /// Reads the whole registry, without a lock. A missing file is an empty registry.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for an empty or unparseable file: it is never taken for an empty registry.
    pub fn read(&self) -> Result<Document<V>> {
        match self.dir.read_up_to(&self.name, self.options.len_max) {
            Ok(bytes) => self.decode(Some(&bytes)),
            Err(error) if error.kind() == Kind::NotFound => self.decode(None),
            Err(error) => Err(error),
        }
    }

    /// Changes the registry under its lock and returns what `change` returned. If nothing changed, nothing is
    /// written; the barriers are issued all the same, because whoever wrote what `change` saw may have died before
    /// theirs.
    ///
    /// # Durability
    /// As [`Dir::replace`], also where nothing changed.
    ///
    /// # Errors
    /// As [`Dir::update`]; [`Kind::Corrupt`], and then the file is left as it is.
    pub fn update<T>(&self, change: impl FnOnce(&mut Document<V>) -> T) -> Result<T> {
        let mut answer = None;
        let outcome = self.dir.update_with(&self.name, &self.options, |old| {
            let mut document = self.decode(old).map_err(Stop::Failed)?;
            let before = document.revision;
            answer = Some(change(&mut document));
            if document.revision == before {
                return Err(Stop::NothingToDo);
            }
            document.forget_removed(self.removed_max);
            document.encode().map_err(Stop::Encode)
        });
        if let Settled::Unchanged = self.settle(outcome)? {
            self.make_durable()?;
        }
        match answer {
            Some(answer) => Ok(answer),
            // The change function ran: an update succeeds in no other way.
            None => Err(Error::new(Stage::Decide, TargetState::Unknown, self.path(), Cause::Changed)),
        }
    }

    /// Merges a copy read earlier (and changed since) under the lock, entry by entry.
    ///
    /// # Errors
    /// As [`Registry::update`].
    pub fn merge(&self, copy: &Document<V>, conflicts: Conflicts) -> Result<MergeReport> {
        self.update(|document| document.merge(copy, conflicts))
    }

    /// Sets an entry only if its revision is still `expected` (`None`: only if it is not there).
    ///
    /// # Errors
    /// As [`Registry::update`]. An entry that changed is an answer, not an error.
    pub fn compare_and_swap(&self, name: &str, expected: Option<u64>, value: V) -> Result<Swap<V>> {
        self.update(|document| {
            let found = document.revision_of(name);
            if found == expected {
                return Swap::Done(document.insert(name, value));
            }
            Swap::Conflict(document.entries.get(name).map(|entry| (entry.revision, entry.value.clone())))
        })
    }

    fn path(&self) -> PathBuf {
        Path::new(self.dir.path()).join(&self.name)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<Document<V>> {
        let Some(bytes) = bytes else { return Ok(Document::default()) };
        let corrupt = |offset, detail| {
            let cause = Cause::Corrupt { offset, detail };
            Error::new(Stage::Read, TargetState::Unchanged, self.path(), cause)
        };
        if bytes.is_empty() {
            return Err(corrupt(0, "the registry is empty; a whole one has at least its header".to_owned()));
        }
        let stored: Stored<V> = serde_json::from_slice(bytes)
            .map_err(|error| corrupt(byte_offset(bytes, error.line(), error.column()), error.to_string()))?;
        if stored.steadfast_registry != 1 {
            return Err(corrupt(0, format!("unknown format version {}", stored.steadfast_registry)));
        }
        let latest = stored.entries.values().map(|entry| entry.revision);
        let latest = latest.chain(stored.removed.values().copied()).max().unwrap_or(0);
        if latest > stored.revision || stored.removed.keys().any(|name| stored.entries.contains_key(name)) {
            return Err(corrupt(0, "the revisions contradict each other".to_owned()));
        }
        Ok(Document {
            revision: stored.revision,
            base: stored.revision,
            entries: stored.entries,
            removed: stored.removed,
        })
    }

    /// The barriers of a registry that was left as it is. One that is not there needs none.
    fn make_durable(&self) -> Result<()> {
        let write = &self.options.write;
        let place = self.dir.resolve(&self.name, Symlinks::Follow, Parents::MustExist, write.barriers)?;
        if place.existing.is_none() {
            return Ok(());
        }
        sync_existing(&place)?;
        sync_dir(&*place.dir, &place.path, write.barriers).map(drop)
    }

    fn settle(&self, outcome: Result<Published>) -> Result<Settled> {
        let error = match outcome {
            Ok(_) => return Ok(Settled::Written),
            Err(error) => error,
        };
        let path = error.path().to_owned();
        let stop = match error.into_declined() {
            Ok(declined) => declined.downcast::<Stop>(),
            Err(error) => return Err(error),
        };
        match stop.map(|stop| *stop) {
            Ok(Stop::NothingToDo) => Ok(Settled::Unchanged),
            Ok(Stop::Failed(error)) => Err(error),
            Ok(Stop::Encode(source)) => Err(declined(path, source.into())),
            Err(other) => Err(declined(path, other)),
        }
    }
}

fn declined(path: PathBuf, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(Stage::Decide, TargetState::Unchanged, path, Cause::Declined(error))
}

impl<V: Serialize> Document<V> {
    /// Indented, because people look at registries and keep them under version control.
    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let stored = StoredRef {
            steadfast_registry: 1,
            revision: self.revision,
            entries: &self.entries,
            removed: &self.removed,
        };
        let mut bytes = serde_json::to_vec_pretty(&stored)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// What became of an update that did not fail.
enum Settled {
    Written,
    Unchanged,
}

/// Why the update did not write.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("nothing changed")]
    NothingToDo,
    #[error(transparent)]
    Failed(Error),
    #[error("the entries cannot be written as JSON: {0}")]
    Encode(serde_json::Error),
}

/// Lines and columns count from 1; a column counts bytes.
fn byte_offset(bytes: &[u8], line: usize, column: usize) -> u64 {
    let before = bytes.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1));
    let start: usize = before.map(<[u8]>::len).sum();
    u64::try_from(start + column.saturating_sub(1)).unwrap_or(u64::MAX)
}
