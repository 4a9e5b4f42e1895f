//! Leaves: short sorted arrays of entries, of which a row consists.
//!
//! Beside the entries are the heads of their keys ([`crate::heads`]). A search goes through the heads, which lie close
//! together, and looks at the key of one entry.
//!
//! Invariants
//! - there are as many heads as slots, at least one, in order.
//! - the first slot is not taken out but by [`Leaf::settle`], so that what belongs into a leaf stays the same until then.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::mem;

use crate::arena::{Arena, Extent};
use crate::error::Error;
use crate::heads::{Heads, first_difference};
use crate::record::Revision;
use crate::table::copied;

/// How many entries a leaf has, where there was memory to divide it.
pub(crate) const LEAF_MAX: usize = 64;
/// A leaf grows by so many entries.
const STEP: usize = 16;

/// Which value a key has, or had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) extent: Extent,
    /// How many gaps had been found when it was written: [`crate::index::Index::suspect_all`].
    pub(crate) gaps: u32,
    revision: [u8; 8],
}

const _: () = assert!(size_of::<Entry>() == 28, "an entry is most of what a key costs beyond itself");

impl Entry {
    pub(crate) fn new(extent: Extent, revision: Revision, gaps: u32) -> Self {
        Self { extent, gaps, revision: revision.get().to_le_bytes() }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision::from_u64(u64::from_le_bytes(self.revision))
    }
}

/// A place in the order of a row: a key, and what follows the key in the order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'k> {
    pub(crate) key: &'k [u8],
    pub(crate) rank: u64,
}

impl<'k> At<'k> {
    /// The first place of a key.
    pub(crate) fn key(key: &'k str) -> Self {
        Self { key: key.as_bytes(), rank: 0 }
    }
}

/// What a row is a row of: the values that keys have, or the values that they had.
pub(crate) trait Slot: Copy {
    /// Returns its entry.
    fn entry(&self) -> &Entry;

    /// Returns what follows the key in the order: nothing, or the revision.
    fn rank(&self) -> u64;

    /// Returns its key.
    fn key<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        arena.key_bytes(&self.entry().extent)
    }

    /// Compares it with a place.
    #[inline]
    fn order(&self, at: &At<'_>, arena: &Arena) -> Ordering {
        self.key(arena).cmp(at.key).then_with(|| self.rank().cmp(&at.rank))
    }
}

impl Slot for Entry {
    #[inline]
    fn entry(&self) -> &Entry {
        self
    }

    #[inline]
    fn rank(&self) -> u64 {
        0
    }
}

/// Some entries that follow each other.
#[derive(Debug)]
pub(crate) struct Leaf<S> {
    heads: Heads,
    slots: Vec<S>,
    /// The first entry is of a key that was deleted. It is left until the leaf is settled, because it still says which keys
    /// belong into the leaf.
    pub(crate) is_first_dead: bool,
}

impl<S> Default for Leaf<S> {
    fn default() -> Self {
        Self { heads: Heads::default(), slots: Vec::new(), is_first_dead: false }
    }
}

impl<S: Slot> Leaf<S> {
    /// How many entries there are, the first one included if it is dead.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Those that are alive.
    pub(crate) fn alive(&self) -> &[S] {
        self.part(0, self.len())
    }

    /// Those of them that stand from one place on and before another.
    pub(crate) fn part(&self, from: usize, to: usize) -> &[S] {
        self.slots.get(from.max(usize::from(self.is_first_dead))..to).unwrap_or(&[])
    }

    /// Whether what stands there is alive.
    pub(crate) fn is_alive(&self, at: usize) -> bool {
        at > 0 || !self.is_first_dead
    }

    pub(crate) fn slots_mut(&mut self) -> &mut [S] {
        &mut self.slots
    }

    pub(crate) fn get(&self, at: usize) -> Option<&S> {
        self.slots.get(at).filter(|_| self.is_alive(at))
    }

    /// An entry, dead or not.
    pub(crate) fn slot(&self, at: usize) -> Option<&S> {
        self.slots.get(at)
    }

    /// The same, to be changed.
    pub(crate) fn slot_mut(&mut self, at: usize) -> Option<&mut S> {
        self.slots.get_mut(at)
    }

    /// The first entry, dead or not.
    pub(crate) fn first(&self) -> Option<&S> {
        self.slots.first()
    }

    pub(crate) fn last(&self) -> Option<&S> {
        self.slots.last()
    }

    /// Returns where a key is, dead or not, if it is in this leaf.
    #[inline]
    pub(crate) fn find(&self, at: &At<'_>, arena: &Arena) -> Option<usize> {
        let (first, behind) = self.heads.same(self.heads.head_of(at.key));
        match self.slots.get(first..behind)? {
            [] => None,
            [only] => (only.order(at, arena) == Ordering::Equal).then_some(first),
            same => same.binary_search_by(|slot| slot.order(at, arena)).ok().map(|found| first + found),
        }
    }

    /// Returns where a key is, dead or not, or where it would be.
    pub(crate) fn search(&self, at: &At<'_>, arena: &Arena) -> Result<usize, usize> {
        let order = |slot: &S| slot.order(at, arena);
        let (first, behind) = self.heads.same(self.heads.head_of(at.key));
        let same = self.slots.get(first..behind).unwrap_or(&[]);
        let place = first + same.binary_search_by(order).unwrap_or_else(|at| at);
        if let Some(slot) = same.get(place - first)
            && order(slot) == Ordering::Equal
        {
            return Ok(place);
        }
        // It is missing if its neighbours say so. The heads may lead astray if it differs from all keys elsewhere.
        let before = place.checked_sub(1).and_then(|before| self.slots.get(before));
        let is_after = before.is_none_or(|slot| order(slot) == Ordering::Less);
        if is_after && self.slots.get(place).is_none_or(|slot| order(slot) == Ordering::Greater) {
            return Err(place);
        }
        self.slots.binary_search_by(order)
    }

    /// How many entries more there is memory for.
    pub(crate) fn room(&self) -> usize {
        (self.slots.capacity() - self.len()).min(self.heads.room())
    }

    /// Sees to it that there is room for so many entries more.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), Error> {
        if self.room() >= count {
            return Ok(());
        }
        let count = count.max(STEP);
        let len = count.saturating_mul(size_of::<S>() + size_of::<u64>());
        self.slots.try_reserve_exact(count).map_err(|_| Error::NoMemory { len })?;
        self.heads.reserve(count)
    }

    /// Returns a copy with room for so many entries more, and how many bytes were copied.
    pub(crate) fn try_clone(&self, room: usize) -> Result<(Self, usize), Error> {
        let (heads, slots) = (self.heads.try_clone(room)?, copied(&self.slots, room)?);
        let len = self.len() * (size_of::<S>() + size_of::<u64>()) + size_of::<Self>();
        Ok((Self { heads, slots, is_first_dead: self.is_first_dead }, len))
    }

    /// Puts an entry in. There is room.
    pub(crate) fn insert(&mut self, at: usize, slot: S, arena: &Arena) {
        let key = slot.key(arena);
        // What comes first stands in for a first one that is dead: no smaller key belongs into another leaf.
        if at == 0 && mem::take(&mut self.is_first_dead) {
            self.heads.set(0, key);
            if let Some(first) = self.slots.first_mut() {
                *first = slot;
            }
        } else {
            self.heads.insert(at, key);
            self.slots.insert(at.min(self.slots.len()), slot);
        }
        let before = at.checked_sub(1).and_then(|before| self.slots.get(before));
        let before = before.and_then(|slot| first_difference(slot.key(arena), key));
        let behind = self.slots.get(at + 1).and_then(|slot| first_difference(key, slot.key(arena)));
        let [before, behind] = [before, behind].map(|position| self.heads.distinguish(position));
        if before || behind {
            self.heads.retake(self.slots.iter().map(|slot| slot.key(arena)));
        }
    }

    /// Takes an entry out. The first one stays, dead.
    pub(crate) fn remove(&mut self, at: usize) {
        if at == 0 {
            self.is_first_dead = true;
        } else if at < self.len() {
            let _removed = self.slots.remove(at);
            self.heads.remove(at);
        }
    }

    /// Keeps the entries that `is_kept` says. The first one stays, dead.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&S) -> bool, arena: &Arena) {
        self.is_first_dead |= self.slots.first().is_some_and(|first| !is_kept(first));
        let mut is_first = true;
        self.slots.retain(|slot| mem::take(&mut is_first) || is_kept(slot));
        self.heads.truncate(self.slots.len());
        self.heads.retake(self.slots.iter().map(|slot| slot.key(arena)));
    }

    /// Takes a first entry out that is dead, and returns it. Nothing may be left.
    pub(crate) fn settle(&mut self) -> Option<S> {
        if !mem::take(&mut self.is_first_dead) || self.slots.is_empty() {
            return None;
        }
        self.heads.remove(0);
        Some(self.slots.remove(0))
    }

    /// Finds the places of all keys, and takes all heads.
    fn take_places(&mut self, arena: &Arena) {
        self.heads.forget_places();
        self.heads.truncate(self.slots.len());
        self.heads.resize(self.slots.len());
        for (one, other) in self.slots.iter().zip(self.slots.iter().skip(1)) {
            let difference = first_difference(one.key(arena), other.key(arena));
            let _changed = self.heads.distinguish(difference);
        }
        self.heads.retake(self.slots.iter().map(|slot| slot.key(arena)));
    }

    /// A leaf with these entries.
    fn of(parts: [&[S]; 2], room: usize, arena: &Arena) -> Result<Self, Error> {
        let mut leaf = Self::default();
        let count = parts.iter().map(|part| part.len()).sum::<usize>();
        leaf.reserve(count + room)?;
        parts.iter().for_each(|part| leaf.slots.extend_from_slice(part));
        leaf.take_places(arena);
        Ok(leaf)
    }

    /// Divides what is too long: from `at` on it is another leaf.
    pub(crate) fn split_off(&mut self, at: usize, room: usize, arena: &Arena) -> Result<Self, Error> {
        let behind = Self::of([self.slots.get(at..).unwrap_or(&[]), &[]], room, arena)?;
        let before = self.slots.get(..at).unwrap_or(&[]);
        // One that stays full needs no room, and has none too much.
        if self.slots.capacity() > at + STEP {
            *self = Self::of([before, &[]], STEP.min(LEAF_MAX.saturating_sub(at)), arena)?;
        } else {
            self.slots.truncate(at);
            self.heads.truncate(at);
        }
        Ok(behind)
    }

    /// One leaf of two that stand beside each other.
    pub(crate) fn joined(&self, next: &Self, arena: &Arena) -> Result<Self, Error> {
        Self::of([&self.slots, &next.slots], 0, arena)
    }

    /// Bytes of memory beyond the leaf itself.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        self.heads.memory_len() + self.slots.capacity() * size_of::<S>()
    }

    #[cfg(test)]
    pub(crate) fn check(&self, arena: &Arena) {
        assert!(!self.slots.is_empty() && self.slots.len() == self.heads.len());
        let places = || self.slots.iter().map(|slot| (slot.key(arena), slot.rank()));
        assert!(places().is_sorted_by(|one, other| one < other));
        self.heads.check(places().map(|(key, _)| key));
    }
}
