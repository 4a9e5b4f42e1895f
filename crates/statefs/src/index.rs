//! The index: which record of the arena a key has.
//!
//! A sorted array of places, because a region begins with records in the order of their keys, and an overlay for keys that
//! came in between. The overlay is merged into the array before it grows large; the arena is rewritten before what is dead
//! in it outgrows what is alive.
//!
//! Beside the array stand the heads of its keys: of each the eight bytes behind what all of them begin with, as a number. A
//! search goes through the heads, which lie close together, and looks at a key itself only where heads are the same.
//!
//! Invariants
//! - there are as many heads as entries, and `common` is what all keys of the array begin with.
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
use crate::history::{AllVersions, History, charged};
use crate::key;
use crate::limits::KEY_LEN_MAX;
use crate::record::{Form, KEPT_HEADER_LEN, PUT_HEADER_LEN, Record, Revision};

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

/// The first eight bytes as a number that is ordered like them; keys have no zero bytes, so what is shorter is less.
fn head_of(rest: &[u8]) -> u64 {
    if let Some(head) = rest.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; 8];
    for (to, from) in head.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_be_bytes(head)
}

/// Where a key is.
#[derive(Clone, Copy)]
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
    heads: Vec<u64>,
    common: Vec<u8>,
    overlay: BTreeMap<Box<str>, Place>,
    dead: usize,
    totals: Totals,
    history: History,
    /// What stands before it in the arena may be older than it should be.
    suspect_before: Option<Place>,
}

impl Index {
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

    /// What is past, to be told that something is not needed, or was lost.
    pub(crate) fn history_mut(&mut self) -> &mut History {
        &mut self.history
    }

    /// Where records are.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The record that a key has.
    pub(crate) fn get(&self, key: &str) -> Option<Kept<'_>> {
        self.arena.get(self.place_of(key)?)
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match self.find(key) {
            Found::Array(_, entry) => entry.is_live.then_some(entry.place),
            Found::Overlay(place) => Some(place),
            Found::Nowhere => None,
        }
    }

    /// Whether what stands at a place may be older than it should be.
    pub(crate) fn is_suspect_at(&self, place: Place) -> bool {
        self.suspect_before.is_some_and(|before| place < before)
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

    /// Whether anything is, or that something has no value.
    pub(crate) fn is_anything_suspect(&self) -> bool {
        self.suspect_before.is_some()
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
        let at = self.position(key.as_bytes());
        match self.array.get(at) {
            Some(&entry) if self.arena.key(entry.place) == key.as_bytes() => Found::Array(at, entry),
            Some(_) | None => Found::Nowhere,
        }
    }

    /// How many entries of the array have a smaller key.
    fn position(&self, key: &[u8]) -> usize {
        let Some(rest) = key.strip_prefix(self.common.as_slice()) else {
            return if key < self.common.as_slice() { 0 } else { self.array.len() };
        };
        let head = head_of(rest);
        let first = self.heads.partition_point(|other| *other < head);
        let same = self.heads.get(first..).unwrap_or(&[]).partition_point(|other| *other == head);
        let same = self.array.get(first..first + same).unwrap_or(&[]);
        first + same.partition_point(|entry| self.arena.key(entry.place) < key)
    }

    /// Adds an entry behind all others of the array.
    fn push_last(&mut self, key: &[u8], entry: Entry) -> Result<(), Error> {
        self.reserve_entries(1)?;
        if self.array.is_empty() {
            self.common.clear();
            self.common.try_reserve(key.len()).map_err(|_| Error::NoMemory { len: key.len() })?;
            self.common.extend_from_slice(key);
        }
        let common = key.iter().zip(&self.common).take_while(|(a, b)| a == b).count();
        self.array.push(entry);
        self.heads.push(0);
        if common < self.common.len() {
            self.common.truncate(common);
            self.take_heads();
        } else if let (Some(head), Some(rest)) = (self.heads.last_mut(), key.get(common..)) {
            *head = head_of(rest);
        }
        Ok(())
    }

    /// All heads anew.
    fn take_heads(&mut self) {
        for (head, entry) in self.heads.iter_mut().zip(&self.array) {
            *head = head_of(self.arena.key(entry.place).get(self.common.len()..).unwrap_or(&[]));
        }
    }

    fn reserve_entries(&mut self, count: usize) -> Result<(), Error> {
        let len = count.saturating_mul(size_of::<Entry>() + size_of::<u64>());
        self.array.try_reserve(count).map_err(|_| Error::NoMemory { len })?;
        self.heads.try_reserve(count).map_err(|_| Error::NoMemory { len })
    }

    /// Sees to it that records of so many bytes, as they stand in a commit, can be applied.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn reserve(&mut self, body_len: usize, ops: usize) -> Result<(), Error> {
        self.reserve_entries(ops)?;
        // What all keys begin with has this many bytes at most.
        self.common.try_reserve(KEY_LEN_MAX).map_err(|_| Error::NoMemory { len: KEY_LEN_MAX })?;
        // A kept record has more header than a put.
        self.arena.reserve(body_len.saturating_add(ops.saturating_mul(KEPT_HEADER_LEN - PUT_HEADER_LEN)))
    }

    /// Does what a record says. `revision` is that of its place, which a kept record does not need.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn apply(&mut self, record: &Record<'_>, revision: Revision) -> Result<(), Error> {
        match *record {
            Record::Put { key, value, form } => {
                self.retire(key, revision);
                self.put(key, value, revision, form)?;
                self.take_if_snapshot(key, revision);
            }
            Record::Kept { key, value, revision, form } => {
                self.put(key, value, revision, form)?;
                self.take_if_snapshot(key, revision);
            }
            Record::Past { key, value, revision, until, form } => {
                let place = self.arena.push(key, value, revision, form)?;
                if let Some(kept) = self.arena.get(place) {
                    self.history.insert(kept, place, until);
                }
            }
            Record::Delete { key } => {
                self.retire(key, revision);
                self.delete(key);
                if let Some(name) = key::snapshot_of(key) {
                    self.history.forget(name);
                }
            }
        }
        Ok(())
    }

    /// What the key has becomes past.
    fn retire(&mut self, key: &str, until: Revision) {
        if self.history.has_no_snapshots() {
            return;
        }
        if let Some(place) = self.place_of(key)
            && let Some(kept) = self.arena.get(place)
        {
            self.history.retire(kept, place, until);
        }
    }

    fn take_if_snapshot(&mut self, key: &str, revision: Revision) {
        if let Some(name) = key::snapshot_of(key) {
            self.history.take(name, revision);
        }
    }

    fn put(&mut self, key: &str, value: &[u8], revision: Revision, form: Form) -> Result<(), Error> {
        let found = self.find(key);
        let old = match found {
            Found::Array(_, entry) => entry.is_live.then_some(entry.place),
            Found::Overlay(place) => Some(place),
            Found::Nowhere => None,
        };
        let old = old.and_then(|place| self.arena.get(place)).map(|kept| kept.totals());
        let place = self.arena.push(key, value, revision, form)?;
        let entry = Entry { place, is_live: true };
        match found {
            Found::Array(at, before) => {
                self.dead -= usize::from(!before.is_live);
                if let Some(slot) = self.array.get_mut(at) {
                    *slot = entry;
                }
            }
            Found::Nowhere if self.comes_last(key) => self.push_last(key.as_bytes(), entry)?,
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
        let live_len = self.totals.record_bytes.saturating_add(self.history.arena_len());
        let dead_len = self.arena.len().saturating_sub(live_len);
        if dead_len > DEAD_LEN_MAX.saturating_add(self.totals.record_bytes / 2) {
            return self.rewrite();
        }
        if self.overlay.len() + self.dead > LOOSE_MAX + self.array.len() / 8 {
            let len = self.overlay.len() + self.array.len();
            let mut array = Vec::new();
            let bytes = len.saturating_mul(size_of::<Entry>());
            array.try_reserve_exact(len).map_err(|_| Error::NoMemory { len: bytes })?;
            array.extend(self.places_from(Bound::Unbounded).map(|place| Entry { place, is_live: true }));
            self.heads.try_reserve(len).map_err(|_| Error::NoMemory { len: bytes })?;
            let ends = [array.first(), array.last()].map(|end| end.map(|entry| self.arena.key(entry.place)));
            let common = match ends {
                [Some(first), Some(last)] => {
                    let len = first.iter().zip(last).take_while(|(a, b)| a == b).count();
                    first.get(..len).unwrap_or(&[]).to_vec()
                }
                [_, _] => Vec::new(),
            };
            self.common = common;
            self.heads.clear();
            self.heads.resize(array.len(), 0);
            self.array = array;
            self.take_heads();
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
        fresh.heads.try_reserve_exact(live).map_err(|_| Error::NoMemory { len: bytes })?;
        for kept in self.from(Bound::Unbounded) {
            fresh.put(kept.key, kept.value, kept.revision, kept.form)?;
        }
        fresh.history = self.history.moved(&self.arena, &mut fresh.arena)?;
        *self = fresh;
        Ok(())
    }

    /// The records of all keys from one on, in order.
    pub(crate) fn from<'a>(&'a self, start: Bound<&str>) -> impl Iterator<Item = Kept<'a>> + use<'a> {
        self.places_from(start).filter_map(|place| self.arena.get(place))
    }

    /// All there is of all keys from one on, in order.
    pub(crate) fn versions<'a>(
        &'a self,
        start: Bound<&str>,
    ) -> AllVersions<'a, impl Iterator<Item = Kept<'a>> + use<'a>> {
        AllVersions::of(self.from(start), &self.history, start)
    }

    fn places_from<'a>(&'a self, start: Bound<&str>) -> Places<'a> {
        let at = match start {
            Bound::Unbounded => 0,
            Bound::Included(start) => self.position(start.as_bytes()),
            Bound::Excluded(start) => {
                let at = self.position(start.as_bytes());
                let is_it = |entry: &Entry| self.arena.key(entry.place) == start.as_bytes();
                at + usize::from(self.array.get(at).is_some_and(is_it))
            }
        };
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
        // Keys with the same head, keys of which one begins with the other, and keys that have nothing in common.
        match number % 4 {
            0 => format!("/state/{number:05}"),
            1 => format!("/state/the same in eight bytes and more/{number}"),
            2 => format!("/state/{}", "n".repeat(usize::try_from(number / 25 + 1).unwrap())),
            _ => format!("/state/{}", char::from_u32(0x4e00 + number).unwrap()),
        }
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
                index
                    .apply(
                        &Record::Put { key: &key, value: &value, form: Form::Plain },
                        Revision::from_u64(round),
                    )
                    .unwrap();
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
