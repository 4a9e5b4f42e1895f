//! Leaves: short sorted arrays of entries, of which the index is a row.
//!
//! Beside the entries stand the heads of their keys: of each the eight bytes behind what all keys of the leaf begin with, as
//! a number. A search goes through the heads, which lie close together, and looks at a key itself only where heads are the
//! same.
//!
//! Invariants
//! - there are as many heads as entries, at least one, in the order of their keys.
//! - all keys of the leaf begin with the first `common_len` bytes of the first.
//! - the first entry is not taken out but by [`Leaf::settle`], so that what belongs into a leaf stays the same until then.

use alloc::vec::Vec;
use core::mem;

use crate::arena::{Arena, Extent};
use crate::error::Error;
use crate::record::Revision;

/// How many entries a leaf has, where there was memory to divide it.
pub(crate) const LEAF_MAX: usize = 128;
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

/// The first eight bytes as a number that is ordered like them; keys have no zero bytes, so what is shorter is less.
pub(crate) fn head_of(rest: &[u8]) -> u64 {
    if let Some(head) = rest.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; 8];
    for (to, from) in head.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_be_bytes(head)
}

/// How many of the heads, which are in order, are less. The last of every eight is looked at, and then one eight: in a large
/// index none of them is near, and so many can be on their way at once, where a search by halves waits for each.
fn count_less(heads: &[u64], head: u64) -> usize {
    let (eights, rest) = heads.as_chunks::<8>();
    let before = eights.iter().filter(|eight| eight[7] < head).count();
    let eight = eights.get(before).map_or(rest, |eight| eight.as_slice());
    before * 8 + eight.iter().filter(|other| **other < head).count()
}

/// How many bytes both begin with.
pub(crate) fn common_len(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Some entries in a row.
#[derive(Debug, Default)]
pub(crate) struct Leaf {
    heads: Vec<u64>,
    entries: Vec<Entry>,
    common_len: usize,
    /// For how many entries more there has been asked for room.
    pub(crate) claimed: u32,
    /// The first entry is of a key that was deleted. It is left until the leaf is settled, because it still says which keys
    /// belong into the leaf.
    pub(crate) is_first_dead: bool,
}

impl Leaf {
    /// How many entries there are, the first one included if it is dead.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Those that are alive.
    pub(crate) fn entries(&self) -> &[Entry] {
        self.part(0, self.len())
    }

    /// Those of them that stand from one place on and before another.
    pub(crate) fn part(&self, from: usize, to: usize) -> &[Entry] {
        self.entries.get(from.max(usize::from(self.is_first_dead))..to).unwrap_or(&[])
    }

    /// Whether what stands there is alive.
    pub(crate) fn is_alive(&self, at: usize) -> bool {
        at > 0 || !self.is_first_dead
    }

    pub(crate) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Entry> {
        self.entries.get(at).filter(|_| self.is_alive(at))
    }

    /// An entry, dead or not.
    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Entry> {
        self.entries.get_mut(at)
    }

    pub(crate) fn first_key<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        self.entries.first().map_or(&[], |entry| arena.key_bytes(&entry.extent))
    }

    pub(crate) fn last_key<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        self.entries.last().map_or(&[], |entry| arena.key_bytes(&entry.extent))
    }

    /// Where a key is, dead or not, or where it would be.
    pub(crate) fn search(&self, key: &[u8], arena: &Arena) -> Result<usize, usize> {
        // As if it began like the others. If it does not, what is found is another key.
        let head = head_of(key.get(self.common_len..).unwrap_or(&[]));
        let first = count_less(&self.heads, head);
        let mut at = first;
        if self.heads.get(first) == Some(&head) {
            let same = self.heads.get(first..).unwrap_or(&[]).partition_point(|other| *other == head);
            if same > 1 {
                let same = self.entries.get(first..first + same).unwrap_or(&[]);
                at += same.partition_point(|entry| arena.key_bytes(&entry.extent) < key);
            } else if arena.key_bytes(&self.entries.get(at).ok_or(at)?.extent) < key {
                at += 1;
            }
            if self.entries.get(at).is_some_and(|entry| arena.key_bytes(&entry.extent) == key) {
                return Ok(at);
            }
        }
        let common = self.first_key(arena).get(..self.common_len).unwrap_or(&[]);
        match key {
            key if key.starts_with(common) => Err(at),
            key if key < common => Err(0),
            _ => Err(self.len()),
        }
    }

    /// Sees to it that there is room for so many entries more.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), Error> {
        if self.entries.capacity().min(self.heads.capacity()) - self.len() >= count {
            return Ok(());
        }
        let count = count.max(STEP);
        let len = count.saturating_mul(size_of::<Entry>() + size_of::<u64>());
        self.entries.try_reserve_exact(count).map_err(|_| Error::NoMemory { len })?;
        self.heads.try_reserve_exact(count).map_err(|_| Error::NoMemory { len })
    }

    /// Puts an entry in. There is room.
    pub(crate) fn insert(&mut self, at: usize, key: &[u8], entry: Entry, arena: &Arena) {
        if self.entries.is_empty() {
            self.entries.push(entry);
            self.heads.push(0);
            self.common_len = key.len();
            return;
        }
        let common = self.first_key(arena).get(..self.common_len).unwrap_or(&[]);
        let begins_like_all = key.starts_with(common);
        let common = if begins_like_all { self.common_len } else { common_len(key, common) };
        let head = head_of(key.get(common..).unwrap_or(&[]));
        // What comes first stands in for a first one that is dead: no smaller key belongs into another leaf.
        match (self.entries.first_mut(), self.heads.first_mut()) {
            (Some(first), Some(first_head)) if at == 0 && self.is_first_dead => {
                (*first, *first_head) = (entry, head);
                self.is_first_dead = false;
            }
            _ => {
                self.entries.insert(at, entry);
                self.heads.insert(at, head);
            }
        }
        if !begins_like_all {
            self.common_len = common;
            self.take_heads(arena);
        }
    }

    pub(crate) fn remove(&mut self, at: usize) {
        if at == 0 {
            self.is_first_dead = true;
        } else if at < self.len() {
            let _removed = self.entries.remove(at);
            let _head = self.heads.remove(at);
        }
    }

    /// Takes a first entry out that is dead; whether there was one. Nothing may be left.
    pub(crate) fn settle(&mut self) -> bool {
        let was_dead = mem::take(&mut self.is_first_dead);
        if was_dead && !self.entries.is_empty() {
            let _removed = self.entries.remove(0);
            let _head = self.heads.remove(0);
        }
        was_dead
    }

    /// All heads anew.
    fn take_heads(&mut self, arena: &Arena) {
        for (head, entry) in self.heads.iter_mut().zip(&self.entries) {
            *head = head_of(arena.key_bytes(&entry.extent).get(self.common_len..).unwrap_or(&[]));
        }
    }

    /// A leaf with these entries.
    fn of(parts: [&[Entry]; 2], room: usize, arena: &Arena) -> Result<Self, Error> {
        let mut leaf = Self::default();
        let count = parts.iter().map(|part| part.len()).sum::<usize>();
        leaf.reserve(count + room)?;
        parts.iter().for_each(|part| leaf.entries.extend_from_slice(part));
        leaf.heads.resize(count, 0);
        leaf.common_len = common_len(leaf.first_key(arena), leaf.last_key(arena));
        leaf.take_heads(arena);
        Ok(leaf)
    }

    /// Divides what is too long: from `at` on it is another leaf.
    pub(crate) fn split_off(&mut self, at: usize, room: usize, arena: &Arena) -> Result<Self, Error> {
        let behind = Self::of([self.entries.get(at..).unwrap_or(&[]), &[]], room, arena)?;
        let before = self.entries.get(..at).unwrap_or(&[]);
        // One that stays full needs no room, and has none too much.
        if self.entries.capacity() > at + STEP {
            *self = Self::of([before, &[]], STEP.min(LEAF_MAX.saturating_sub(at)), arena)?;
        } else {
            self.entries.truncate(at);
            self.heads.truncate(at);
        }
        Ok(behind)
    }

    /// One leaf of two that stand beside each other.
    pub(crate) fn joined(&self, next: &Self, arena: &Arena) -> Result<Self, Error> {
        Self::of([&self.entries, &next.entries], 0, arena)
    }

    /// Bytes of memory.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        self.heads.capacity() * size_of::<u64>() + self.entries.capacity() * size_of::<Entry>()
    }

    #[cfg(test)]
    pub(crate) fn check(&self, arena: &Arena) {
        assert!(!self.entries.is_empty() && self.entries.len() == self.heads.len());
        let keys = || self.entries.iter().map(|entry| arena.key_bytes(&entry.extent));
        assert!(keys().is_sorted_by(|one, other| one < other));
        assert!(keys().all(|key| common_len(key, self.first_key(arena)) >= self.common_len));
        assert!(keys().zip(&self.heads).all(|(key, head)| head_of(&key[self.common_len..]) == *head));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_counted_at_every_length_and_place() {
        for len in 0..=3 * 8 + 1 {
            let heads: Vec<u64> = (0..len).map(|head| head / 3 * 2 + 1).collect();
            for head in 0..len + 2 {
                assert_eq!(count_less(&heads, head), heads.partition_point(|other| *other < head));
            }
        }
    }

    #[test]
    fn heads_are_ordered_like_keys() {
        let keys: [&[u8]; 6] = [b"", b"a", b"ab", b"abcdefgh", b"abcdefghi", b"b"];
        let heads = keys.map(head_of);
        assert!(heads.is_sorted());
        assert_eq!(heads[3], heads[4], "only eight bytes count");
    }
}
