//! Contents: what readers see, at one moment.
//!
//! A row of leaves with the current values, the superseded values that snapshots have, and the arena with all keys and values.
//! A copy shares all of it by reference counts, and costs a list of pointers: one for 64 leaves, for 256 leaves and for 64
//! pieces of the arena. What changes the contents is the [index](crate::index), which never changes what a copy shares.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use crate::arena::{Arena, Piece};
use crate::error::Error;
use crate::history::{AllVersions, History, charged};
use crate::index::{Kept, Totals};
use crate::key::{self, Key, Prefix};
use crate::leaf::{At, Entry};
use crate::list::Reach;
use crate::record::{Form, Revision};
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
    /// it has enough. Returns the last key that it was called for; [`None`] if there are no more behind it.
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

    /// Copies the entries of a scan, and shares the pieces they are in, so that the scan goes on without the contents. What
    /// is in the piece `open` is copied, because a piece that is shared is not written to.
    pub(crate) fn part(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
        open: usize,
    ) -> Result<Part, Error> {
        let reach = Reach::of(prefix, after);
        let itself = reach.itself.and_then(|key| self.get(key)).map(|kept| kept.entry).into_iter();
        let mut all = itself.chain(self.entries(reach.start(), Some(&reach.end))).peekable();
        let mut part = Part { entries: Vec::new(), arena: Arena::default(), gaps: self.gaps, next: None };
        let no_memory = |_| Error::NoMemory { len: size_of::<Entry>() + size_of::<usize>() };
        let mut pieces: Vec<(usize, Arc<Piece>)> = Vec::new();
        let mut copies = Piece::default();
        let mut has_copies = false;
        while part.entries.len() < limit
            && let Some(entry) = all.next()
        {
            part.entries.try_reserve(1).map_err(no_memory)?;
            let mut entry = *entry;
            let kept = Kept { arena: &self.arena, entry: &entry };
            let extent = if entry.extent.piece() == open {
                let (key, value) = (kept.key(), kept.value());
                copies.make_room(key.len(), value.len())?;
                has_copies = true;
                let (key_at, value_at) = copies.push(key, value);
                entry.extent.moved_to(usize::MAX, key_at, value_at)
            } else {
                let number = entry.extent.piece();
                let found = pieces.binary_search_by_key(&number, |(number, _)| *number);
                if let (Err(at), Some((piece, ..))) = (found, self.arena.shared(&entry.extent)) {
                    pieces.try_reserve(1).map_err(no_memory)?;
                    pieces.insert(at, (number, Arc::clone(piece)));
                }
                entry.extent
            };
            entry.extent = extent;
            part.entries.push(entry);
        }
        // From numbers of this arena to those of a small one.
        for entry in &mut part.entries {
            let found = pieces.binary_search_by_key(&entry.extent.piece(), |(number, _)| *number);
            let piece = found.unwrap_or(pieces.len());
            entry.extent = entry.extent.in_piece(piece);
        }
        let is_more = all.peek().is_some();
        let copies = has_copies.then(|| Arc::new(copies));
        part.arena = Arena::of(pieces.into_iter().map(|(_, piece)| piece).chain(copies))?;
        if is_more {
            let last = part.entries.last().map(|entry| Kept { arena: &part.arena, entry }.key());
            part.next = last.or(after.map(Key::as_str)).map(Key::trusted);
        }
        Ok(part)
    }

    /// The value of a key, which stays as it is without the contents. What is in the piece `open` is copied, because a piece
    /// that is shared is not written to.
    pub(crate) fn shared_value(&self, key: &str, open: usize) -> Result<Option<SharedValue>, Error> {
        let Some(kept) = self.get(key) else { return Ok(None) };
        let value = self.value_of(kept);
        let (revision, certainty, form) = (value.revision, value.certainty, value.form);
        let shared = self.arena.shared(&kept.entry.extent);
        let shared = shared.filter(|_| kept.entry.extent.piece() != open);
        let (piece, from, to) = match shared {
            Some((piece, from, to)) => (Arc::clone(piece), from, to),
            None => {
                let mut piece = Piece::of(1, value.bytes.len())?;
                let _begin = piece.push("", value.bytes);
                (Arc::new(piece), 0, value.bytes.len())
            }
        };
        Ok(Some(SharedValue { piece, from, to, revision, certainty, form }))
    }
}

/// A value that keeps its piece of the arena alive.
#[derive(Debug, Clone)]
pub(crate) struct SharedValue {
    piece: Arc<Piece>,
    from: usize,
    to: usize,
    revision: Revision,
    certainty: Certainty,
    form: Form,
}

impl SharedValue {
    /// As callers get it.
    #[cfg(feature = "std")]
    pub(crate) fn value(&self) -> Value<'_> {
        Value {
            bytes: self.piece.values(self.from, self.to),
            revision: self.revision,
            certainty: self.certainty,
            form: self.form,
        }
    }
}

/// Keys and values of a scan, in order, which stay as they are without the contents.
#[derive(Debug)]
pub(crate) struct Part {
    entries: Vec<Entry>,
    arena: Arena,
    gaps: u32,
    next: Option<Key>,
}

impl Part {
    /// Calls `each` for every key, until it says that it has enough, and returns where to go on.
    #[cfg(feature = "std")]
    pub(crate) fn each(self, mut each: impl FnMut(&str, Value<'_>) -> ControlFlow<()>) -> Option<Key> {
        let of = Contents { arena: self.arena, gaps: self.gaps, ..Contents::default() };
        let mut entries = self.entries.iter().map(|entry| Kept { arena: &of.arena, entry });
        while let Some(kept) = entries.next() {
            if each(kept.key(), of.value_of(kept)).is_break() {
                let is_last = entries.next().is_none();
                return if is_last { self.next } else { Some(Key::trusted(kept.key())) };
            }
        }
        self.next
    }
}
