//! Heads: of each key of a sorted list the few bytes that tell it from the others, as a number.
//!
//! A list of keys has up to eight *places*: the positions at which neighbours first differ. The head of a key is the bytes at
//! these places. Two keys of the list are first different at one of them, and the same at all before it, so heads are in
//! the order of the keys. Where there are more than eight such positions, the smallest are kept, and heads that are equal
//! are told apart by their keys.
//!
//! The head of any other key says where it would be only if it differs from its neighbours at a place. So what a search by
//! heads finds is compared with the key: a key that is found is the right one; that one is missing is decided by its
//! neighbours.
//!
//! Invariants
//! - each position at which two neighbours first differ is a place, or greater than all places.
//! - places are in order; heads are those of the keys, and so in order.

use alloc::vec::Vec;

use crate::error::Error;

/// Places of a list.
const PLACES_MAX: usize = 8;

/// The heads of a list of keys.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    places: [u8; PLACES_MAX],
    count: u8,
    heads: Vec<u64>,
}

/// Returns how many bytes both begin with.
pub(crate) fn common_len(one: &[u8], other: &[u8]) -> usize {
    let (ones, _) = one.as_chunks::<8>();
    let (others, _) = other.as_chunks::<8>();
    let same = ones.iter().zip(others).take_while(|(one, other)| one == other).count() * 8;
    let rest = one.iter().skip(same).zip(other.iter().skip(same));
    same + rest.take_while(|(one, other)| one == other).count()
}

/// Returns the position at which two keys first differ; [`None`] if they are the same. Where one begins with the other, it is
/// the length of the shorter one.
pub(crate) fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let common = common_len(one, other);
    (common < one.len().max(other.len())).then_some(common)
}

/// Returns how many of the heads, which are in order, are less. The last of every eight is looked at, and then one eight: in a
/// large index none of them is in a cache, and so many can be fetched at once, where a search by halves waits for each.
fn count_less(heads: &[u64], head: u64) -> usize {
    let (eights, rest) = heads.as_chunks::<8>();
    let before = eights.iter().filter(|eight| eight[7] < head).count();
    let eight = eights.get(before).map_or(rest, |eight| eight.as_slice());
    before * 8 + eight.iter().filter(|other| **other < head).count()
}

impl Heads {
    /// Returns the count of keys.
    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Returns how many more keys there is memory for.
    pub(crate) fn room(&self) -> usize {
        self.heads.capacity() - self.heads.len()
    }

    /// Reserves memory for so many more keys.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), Error> {
        let len = count.saturating_mul(size_of::<u64>());
        self.heads.try_reserve_exact(count).map_err(|_| Error::NoMemory { len })
    }

    /// Returns a copy with memory for so many more keys.
    pub(crate) fn try_clone(&self, room: usize) -> Result<Self, Error> {
        Ok(Self { heads: crate::table::copied(&self.heads, room)?, ..*self })
    }

    /// Returns the head that a key has in this list. A key has no zero byte, so what is shorter is less.
    #[inline]
    pub(crate) fn head_of(&self, key: &[u8]) -> u64 {
        let places = self.places.iter().take(usize::from(self.count));
        places
            .fold(0, |head, place| head << 8 | u64::from(key.get(usize::from(*place)).copied().unwrap_or(0)))
    }

    /// Returns the part of the list that has this head.
    #[inline]
    pub(crate) fn same(&self, head: u64) -> (usize, usize) {
        let first = count_less(&self.heads, head);
        let same = self.heads.iter().skip(first).take_while(|other| **other == head).count();
        (first, first + same)
    }

    /// Returns the last key whose head is not greater, or the first one.
    #[inline]
    pub(crate) fn last_not_after(&self, head: u64) -> usize {
        self.heads.partition_point(|other| *other <= head).saturating_sub(1)
    }

    /// Takes note of a position at which two neighbours differ. True: the places have changed, and all heads must be taken
    /// again.
    #[must_use]
    pub(crate) fn distinguish(&mut self, position: Option<usize>) -> bool {
        let Some(position) = position.and_then(|position| u8::try_from(position).ok()) else { return false };
        let count = usize::from(self.count);
        let Err(at) = self.places.get(..count).unwrap_or(&[]).binary_search(&position) else { return false };
        let end = (count + 1).min(PLACES_MAX);
        let Some(part) = self.places.get_mut(at..end).filter(|part| !part.is_empty()) else { return false };
        part.rotate_right(1);
        if let Some(first) = part.first_mut() {
            *first = position;
        }
        self.count = u8::try_from(end).unwrap_or(0);
        true
    }

    /// The same for a position that a search may do without: it takes no other place away.
    #[must_use]
    pub(crate) fn suggest(&mut self, position: Option<usize>) -> bool {
        usize::from(self.count) < PLACES_MAX && self.distinguish(position)
    }

    /// Forgets all places.
    pub(crate) fn forget_places(&mut self) {
        self.count = 0;
    }

    /// Takes all heads again.
    pub(crate) fn retake<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) {
        for (at, key) in keys.enumerate() {
            let head = self.head_of(key);
            if let Some(slot) = self.heads.get_mut(at) {
                *slot = head;
            }
        }
    }

    /// Adds a key. There is memory for it.
    pub(crate) fn insert(&mut self, at: usize, key: &[u8]) {
        self.heads.insert(at.min(self.heads.len()), self.head_of(key));
    }

    /// Replaces a key.
    pub(crate) fn set(&mut self, at: usize, key: &[u8]) {
        let head = self.head_of(key);
        if let Some(slot) = self.heads.get_mut(at) {
            *slot = head;
        }
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, at: usize) {
        if at < self.heads.len() {
            let _head = self.heads.remove(at);
        }
    }

    /// Keeps so many keys.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.heads.truncate(len);
    }

    /// Makes the list so long; what is added must be taken by [`Heads::retake`]. There is memory for it.
    pub(crate) fn resize(&mut self, len: usize) {
        self.heads.resize(len, 0);
    }

    /// Bytes of memory.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        self.heads.capacity() * size_of::<u64>()
    }

    /// The invariants.
    #[cfg(test)]
    pub(crate) fn check<'k>(&self, keys: impl Iterator<Item = &'k [u8]> + Clone) {
        let places = &self.places[..usize::from(self.count)];
        assert!(places.is_sorted_by(|one, other| one < other));
        assert!(keys.clone().map(|key| self.head_of(key)).eq(self.heads.iter().copied()));
        assert!(self.heads.is_sorted());
        for (one, other) in keys.clone().zip(keys.skip(1)) {
            let Some(at) = first_difference(one, other) else { continue };
            let is_place = places.iter().any(|place| usize::from(*place) == at);
            assert!(is_place || places.last().is_some_and(|last| usize::from(*last) < at), "{at} {places:?}");
        }
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
    fn the_smallest_eight_places_are_kept_in_order() {
        let mut heads = Heads::default();
        for position in [30, 10, 20, 10, 50, 40, 70, 60, 80, 90, 5, 15, 200] {
            let before = heads.places;
            let is_new = heads.distinguish(Some(position));
            assert_eq!(is_new, before != heads.places, "{position}");
        }
        assert_eq!(heads.places, [5, 10, 15, 20, 30, 40, 50, 60]);
        assert!(!heads.distinguish(None) && !heads.suggest(Some(1)));
        assert_eq!(first_difference(b"abcdefghi", b"abcdefgh"), Some(8));
        assert_eq!(first_difference(b"abcdefghi", b"abcdefghi"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
    }
}
