//! Contents: what readers see, at one moment.
//!
//! A row of leaves with the current values, the superseded values that snapshots have, and the arena with all keys and values.
//! A copy shares all of it by reference counts, and costs a list of pointers: one for 64 leaves, for 256 leaves and for 64
//! pieces of the arena. What changes the contents is the [index](crate::index), which never changes what a copy shares.

use core::ops::{Bound, ControlFlow};

use crate::arena::Arena;
use crate::error::Error;
use crate::history::{AllVersions, History, charged};
use crate::index::{Kept, Totals};
use crate::key::{self, Key, Prefix};
use crate::leaf::{At, Entry};
use crate::list::Reach;
use crate::record::Form;
use crate::row::{Range, Row};
use crate::store::{Certainty, Value};

/// What readers see.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) arena: Arena,
    pub(crate) row: Row<Entry>,
    pub(crate) history: History,
    pub(crate) totals: Totals,
    /// How many gaps were found: what was written before the last of them may be older than it should be.
    pub(crate) gaps: u32,
}

impl Contents {
    /// Returns a copy that shares everything.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self {
            arena: self.arena.try_clone()?,
            row: self.row.try_clone()?,
            history: self.history.try_clone()?,
            totals: self.totals,
            gaps: self.gaps,
        })
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// What must fit into a region: what is current, what is past, and room for the one to become the other.
    pub(crate) fn charged(&self) -> Totals {
        charged(self.totals, self.history.totals(), !self.history.has_no_snapshots())
    }

    /// What is past.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Where keys and values are.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The value that a key has.
    pub(crate) fn get(&self, key: &str) -> Option<Kept<'_>> {
        let (id, within) = self.row.find(&At::key(key), &self.arena)?;
        let entry = self.row.leaf(id)?.get(within)?;
        Some(Kept { arena: &self.arena, entry })
    }

    /// Whether the value that a key has may be older than it should be; that it has none always may.
    pub(crate) fn is_suspect(&self, key: &str) -> bool {
        self.is_anything_suspect() && self.get(key).is_none_or(|kept| self.is_suspect_value(&kept))
    }

    /// Whether a value, current or past, may be older than it should be.
    pub(crate) fn is_suspect_value(&self, kept: &Kept<'_>) -> bool {
        kept.entry.gaps < self.gaps
    }

    /// Whether anything is suspect, or that something has no value.
    pub(crate) fn is_anything_suspect(&self) -> bool {
        self.gaps > 0
    }

    /// How many keys are suspect.
    pub(crate) fn count_suspect(&self) -> u64 {
        let suspect = self.row.alive().filter(|entry| entry.gaps < self.gaps);
        u64::try_from(suspect.count()).unwrap_or(u64::MAX)
    }

    /// Whether any current value is sealed. Looks at entries only, not at keys or values.
    pub(crate) fn has_sealed(&self) -> bool {
        self.row.alive().any(|entry| entry.extent.form() == Form::Sealed)
    }

    /// A value as callers get it.
    pub(crate) fn value_of<'a>(&self, kept: Kept<'a>) -> Value<'a> {
        let is_suspect = self.is_suspect_value(&kept);
        Value {
            bytes: kept.value(),
            revision: kept.revision(),
            certainty: if is_suspect { Certainty::Suspect } else { Certainty::Certain },
            form: kept.form(),
        }
    }

    /// All keys from one on, in order.
    pub(crate) fn from<'a>(&'a self, start: Bound<&str>) -> impl Iterator<Item = Kept<'a>> + use<'a> {
        self.range(start, None)
    }

    /// The keys from one on that come before another, in order.
    pub(crate) fn range<'a>(
        &'a self,
        start: Bound<&str>,
        end: Option<&str>,
    ) -> impl Iterator<Item = Kept<'a>> + use<'a> {
        self.entries(start, end).map(|entry| Kept { arena: &self.arena, entry })
    }

    /// The same as entries.
    pub(crate) fn entries<'a>(&'a self, start: Bound<&str>, end: Option<&str>) -> Range<'a, Entry> {
        let start = match start {
            Bound::Unbounded => None,
            Bound::Included(start) => Some((At::key(start), false)),
            Bound::Excluded(start) => Some((At::key(start), true)),
        };
        self.row.range(&self.arena, start, end.map(At::key))
    }

    /// Every key of users and its value, in order.
    pub(crate) fn users(&self) -> impl Iterator<Item = (Key, Value<'_>)> {
        self.from(key::first_of_users()).map(|kept| (Key::trusted(kept.key()), self.value_of(kept)))
    }

    /// All there is of all keys from one on, in order.
    pub(crate) fn versions<'a>(&'a self, start: Bound<&str>) -> AllVersions<'a> {
        AllVersions::of(self, start)
    }

    /// Calls `each` for at most `limit` of the keys that a prefix covers, in order, from behind `after` on, until it says that
    /// it has enough. Returns the last key that it was called for; [`None`] if no key follows it.
    pub(crate) fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
        mut each: impl FnMut(&str, Value<'_>) -> ControlFlow<()>,
    ) -> Option<Key> {
        let reach = Reach::of(prefix, after);
        let itself = reach.itself.and_then(|key| self.get(key)).into_iter();
        let below = self.range(reach.start(), Some(&reach.end));
        let mut all = itself.chain(below).peekable();
        let mut last = None;
        for _ in 0..limit {
            let Some(kept) = all.next() else { break };
            last = Some(kept.key());
            if each(kept.key(), self.value_of(kept)).is_break() {
                break;
            }
        }
        all.peek().and(last.or(after.map(Key::as_str))).map(Key::trusted)
    }
}
