//! The index: which record of the arena a key has.
//!
//! A sorted array of places, because a region begins with records in the order of their keys, and an overlay for keys that
//! came in between. The overlay is merged into the array before it grows large; the arena is rewritten before what is dead
//! in it outgrows what is alive.
//!
//! Invariants
//! - a key is in the array or in the overlay, never in both.
//! - the totals are those of the live entries.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::iter::Peekable;
use core::ops::Bound;

use crate::arena::{Arena, Kept, Place};
use crate::error::Error;
use crate::record::{KEPT_HEADER_LEN, PUT_HEADER_LEN, Record, Revision};

/// How many entries the overlay and the dead may have, whatever the size of the array.
const LOOSE_MAX: usize = 1024;
/// How many dead bytes the arena may have, whatever is alive.
const DEAD_LEN_MAX: u64 = 1 << 20;

/// What is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) keys: u64,
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
    /// Bytes of records, as they are copied.
    pub(crate) record_bytes: u64,
}

impl Totals {
    /// One entry with that many bytes of key and value.
    pub(crate) fn of(key_len: usize, value_len: usize) -> Self {
        let len = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let bytes = len(key_len).saturating_add(len(value_len));
        Self { keys: 1, bytes, record_bytes: bytes.saturating_add(len(KEPT_HEADER_LEN)) }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            keys: self.keys.saturating_add(other.keys),
            bytes: self.bytes.saturating_add(other.bytes),
            record_bytes: self.record_bytes.saturating_add(other.record_bytes),
        }
    }

    pub(crate) fn less(self, other: Self) -> Self {
        Self {
            keys: self.keys.saturating_sub(other.keys),
            bytes: self.bytes.saturating_sub(other.bytes),
            record_bytes: self.record_bytes.saturating_sub(other.record_bytes),
        }
    }
}

impl Kept<'_> {
    pub(crate) fn totals(&self) -> Totals {
        Totals::of(self.key.len(), self.value.len())
    }
}

/// An entry of the array. What is dead keeps its place, because its key still orders its neighbours.
#[derive(Debug, Clone, Copy)]
struct Entry {
    place: Place,
    is_live: bool,
}

/// Where a key is.
enum Found {
    Array(usize, Entry),
    Overlay(Place),
    Nowhere,
}

/// Which record a key has.
#[derive(Debug, Default)]
pub(crate) struct Index {
    arena: Arena,
    array: Vec<Entry>,
    overlay: BTreeMap<Box<str>, Place>,
    dead: usize,
    totals: Totals,
    /// What stands before it in the arena may be older than it should be.
    suspect_before: Option<Place>,
}

impl Index {
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// The record that a key has.
    pub(crate) fn get(&self, key: &str) -> Option<Kept<'_>> {
        let place = match self.find(key) {
            Found::Array(_, entry) => entry.is_live.then_some(entry.place)?,
            Found::Overlay(place) => place,
            Found::Nowhere => return None,
        };
        self.arena.get(place)
    }

    /// Whether the record that a key has may be older than it should be; that it has none always may.
    pub(crate) fn is_suspect(&self, key: &str) -> bool {
        let Some(before) = self.suspect_before else { return false };
        match self.find(key) {
            Found::Array(_, entry) => !entry.is_live || entry.place < before,
            Found::Overlay(place) => place < before,
            Found::Nowhere => true,
        }
    }

    /// Something is missing here: whatever is in the index may have been changed by it.
    pub(crate) fn suspect_all(&mut self) {
        self.suspect_before = Some(self.arena.end());
    }

    /// How many live keys are suspect.
    pub(crate) fn count_suspect(&self) -> u64 {
        let Some(before) = self.suspect_before else { return 0 };
        let array = self.array.iter().filter(|entry| entry.is_live && entry.place < before).count();
        let overlay = self.overlay.values().filter(|place| **place < before).count();
        u64::try_from(array + overlay).unwrap_or(u64::MAX)
    }

    fn find(&self, key: &str) -> Found {
        if let Some(&place) = self.overlay.get(key) {
            return Found::Overlay(place);
        }
        let at = self.array.partition_point(|entry| self.arena.key(entry.place) < key.as_bytes());
        match self.array.get(at) {
            Some(&entry) if self.arena.key(entry.place) == key.as_bytes() => Found::Array(at, entry),
            Some(_) | None => Found::Nowhere,
        }
    }

    /// Sees to it that records of so many bytes, as they stand in a commit, can be applied.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn reserve(&mut self, body_len: usize, ops: usize) -> Result<(), Error> {
        let len = ops.saturating_mul(size_of::<Entry>());
        self.array.try_reserve(ops).map_err(|_| Error::NoMemory { len })?;
        // A kept record has more header than a put.
        self.arena.reserve(body_len.saturating_add(ops.saturating_mul(KEPT_HEADER_LEN - PUT_HEADER_LEN)))
    }

    /// Does what a record says. `revision` is that of its place, which a kept record does not need.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn apply(&mut self, record: &Record<'_>, revision: Revision) -> Result<(), Error> {
        match *record {
            Record::Put { key, value } => self.put(key, value, revision),
            Record::Kept { key, value, revision } => self.put(key, value, revision),
            Record::Delete { key } => {
                self.delete(key);
                Ok(())
            }
        }
    }

    fn put(&mut self, key: &str, value: &[u8], revision: Revision) -> Result<(), Error> {
        // Asked for before anything is changed.
        let len = size_of::<Entry>();
        self.array.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        let old = self.get(key).map(|kept| kept.totals());
        let found = self.find(key);
        let place = self.arena.push(key, value, revision)?;
        let entry = Entry { place, is_live: true };
        match found {
            Found::Array(at, before) => {
                self.dead -= usize::from(!before.is_live);
                if let Some(slot) = self.array.get_mut(at) {
                    *slot = entry;
                }
            }
            Found::Nowhere if self.comes_last(key) => self.array.push(entry),
            Found::Overlay(_) | Found::Nowhere => {
                self.overlay.insert(key.into(), place);
            }
        }
        self.totals = self.totals.plus(Totals::of(key.len(), value.len())).less(old.unwrap_or_default());
        Ok(())
    }

    fn comes_last(&self, key: &str) -> bool {
        self.array.last().is_none_or(|last| self.arena.key(last.place) < key.as_bytes())
    }

    fn delete(&mut self, key: &str) {
        let Some(old) = self.get(key).map(|kept| kept.totals()) else { return };
        match self.find(key) {
            Found::Array(at, _) => {
                if let Some(entry) = self.array.get_mut(at) {
                    entry.is_live = false;
                    self.dead += 1;
                }
            }
            Found::Overlay(_) => {
                self.overlay.remove(key);
            }
            Found::Nowhere => {}
        }
        self.totals = self.totals.less(old);
    }

    /// Puts itself in order where that has become worth while. It costs a pass over everything once in a while.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: everything is as it was, and as right.
    pub(crate) fn tidy(&mut self) -> Result<(), Error> {
        // Where something is suspect, the place of a record says whether it is.
        if self.suspect_before.is_some() {
            return Ok(());
        }
        let dead_len = self.arena.len().saturating_sub(self.totals.record_bytes);
        if dead_len > DEAD_LEN_MAX.saturating_add(self.totals.record_bytes / 2) {
            return self.rewrite();
        }
        if self.overlay.len() + self.dead > LOOSE_MAX + self.array.len() / 8 {
            let len = self.overlay.len() + self.array.len();
            let mut array = Vec::new();
            let bytes = len.saturating_mul(size_of::<Entry>());
            array.try_reserve_exact(len).map_err(|_| Error::NoMemory { len: bytes })?;
            array.extend(self.places_from(Bound::Unbounded).map(|place| Entry { place, is_live: true }));
            self.array = array;
            self.overlay.clear();
            self.dead = 0;
        }
        Ok(())
    }

    /// Leaves the dead behind.
    fn rewrite(&mut self) -> Result<(), Error> {
        let mut fresh = Self::default();
        let live = usize::try_from(self.totals.keys).unwrap_or(usize::MAX);
        let bytes = live.saturating_mul(size_of::<Entry>());
        fresh.array.try_reserve_exact(live).map_err(|_| Error::NoMemory { len: bytes })?;
        for kept in self.from(Bound::Unbounded) {
            fresh.put(kept.key, kept.value, kept.revision)?;
        }
        *self = fresh;
        Ok(())
    }

    /// The records of all keys from one on, in order.
    pub(crate) fn from<'a>(&'a self, start: Bound<&str>) -> impl Iterator<Item = Kept<'a>> + use<'a> {
        self.places_from(start).filter_map(|place| self.arena.get(place))
    }

    fn places_from<'a>(&'a self, start: Bound<&str>) -> Places<'a> {
        let at = self.array.partition_point(|entry| {
            let key = self.arena.key(entry.place);
            match start {
                Bound::Unbounded => false,
                Bound::Included(start) => key < start.as_bytes(),
                Bound::Excluded(start) => key <= start.as_bytes(),
            }
        });
        let overlay = self.overlay.range::<str, _>((start, Bound::Unbounded));
        Places {
            arena: &self.arena,
            array: self.array.get(at..).unwrap_or(&[]).iter().peekable(),
            overlay: overlay.peekable(),
        }
    }
}

/// The array and the overlay, merged.
struct Places<'a> {
    arena: &'a Arena,
    array: Peekable<core::slice::Iter<'a, Entry>>,
    overlay: Peekable<btree_map::Range<'a, Box<str>, Place>>,
}

impl Iterator for Places<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        while self.array.next_if(|entry| !entry.is_live).is_some() {}
        let order = match (self.array.peek(), self.overlay.peek()) {
            (Some(entry), Some((key, _))) => self.arena.key(entry.place).cmp(key.as_bytes()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_) | None) => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.array.next().map(|entry| entry.place),
            Ordering::Equal | Ordering::Greater => self.overlay.next().map(|(_, place)| *place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn key(number: u32) -> String {
        format!("/state/{number:05}")
    }

    /// Enough changes in no order that both kinds of tidying happen.
    #[test]
    fn the_index_is_a_map_in_order_while_it_tidies_itself() {
        let mut index = Index::default();
        let mut model = BTreeMap::new();
        let mut number: u32 = 1;
        for round in 0..60_000_u64 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = key((number >> 8) % 5000);
            if number.is_multiple_of(5) {
                index.apply(&Record::Delete { key: &key }, Revision::from_u64(round)).unwrap();
                model.remove(&key);
            } else {
                let value = alloc::vec![b'v'; usize::try_from(number % 97).unwrap()];
                index.apply(&Record::Put { key: &key, value: &value }, Revision::from_u64(round)).unwrap();
                model.insert(key, (value, round));
            }
            index.tidy().unwrap();
        }
        assert!(index.from(Bound::Unbounded).map(|kept| kept.key).eq(model.keys().map(String::as_str)));
        for (key, (value, round)) in &model {
            let kept = index.get(key).unwrap();
            assert_eq!((kept.value, kept.revision.get()), (value.as_slice(), *round));
        }
        let bytes: usize = model.iter().map(|(key, (value, _))| key.len() + value.len()).sum();
        assert_eq!(index.totals().bytes, u64::try_from(bytes).unwrap());
        assert_eq!(index.totals().keys, u64::try_from(model.len()).unwrap());
        assert!(
            index.arena.len() < 3 * index.totals().record_bytes + 2 * DEAD_LEN_MAX,
            "{}",
            index.arena.len()
        );
        assert!(index.overlay.len() < 2 * LOOSE_MAX + index.array.len());
    }
}
