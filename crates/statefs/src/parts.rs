//! What readers of a shared store take out of the [contents](crate::contents) under its lock, and use without it: one value, or
//! the entries of a scan. The pieces of the arena are shared; what is in the piece that is being filled is copied.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::arena::{Arena, Piece};
use crate::contents::Contents;
use crate::error::Error;
use crate::index::{Index, Kept};
use crate::key::{Key, Prefix};
use crate::leaf::Entry;
use crate::list::Reach;
use crate::record::{Form, Revision};
use crate::store::{Certainty, Value};

impl Index {
    /// The value of a key, which stays as it is without the index.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub(crate) fn shared_value(&self, key: &str) -> Result<Option<SharedValue>, Error> {
        Contents::shared_value(self, key, self.open_piece())
    }

    /// What a scan goes through, which stays as it is without the index.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub(crate) fn part(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Part, Error> {
        Contents::part(self, prefix, after, limit, self.open_piece())
    }
}

impl Contents {
    /// Copies the entries of a scan, and shares the pieces they are in, so that the scan goes on without the contents. What
    /// is in the piece `open` is copied, because a piece that is shared is not written to.
    fn part(&self, prefix: &Prefix, after: Option<&Key>, limit: usize, open: usize) -> Result<Part, Error> {
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
    fn shared_value(&self, key: &str, open: usize) -> Result<Option<SharedValue>, Error> {
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
