//! The index: which value every key has.
//!
//! A row of leaves, each a short sorted array of entries ([`crate::leaf`]). An entry says where key and value stand in the
//! arena, so what a listing needs lies close together. A region begins with records in the order of their keys, and what
//! comes behind all others is added without a search. A leaf that has become too long or too short is divided or joined with
//! its neighbour afterwards, which needs memory and may fail without harm.
//!
//! Room for what will be applied later is claimed in the leaf that its key belongs into. A leaf with claims is not divided,
//! joined or taken out, and its first key stays, dead or not: so the claims are where they are needed, whatever is applied
//! before. Values that only snapshots have are kept by the [history](crate::history); they stand in the same arena.
//!
//! Beside the row stand the heads of the first keys of the leaves, as in a leaf the heads of its keys.
//!
//! What it costs beyond keys and values: 36 bytes for an entry, one for the end of a key, and 72 for a leaf; room for 16 entries
//! in a leaf at most, or for as many as were deleted from it (down to a quarter of a full leaf, if its neighbours are full), or
//! for those of a batch that failed after room was asked for; and what is dead in the arena, which is a sixteenth of what is
//! alive and 1 MiB at most. `memory_is_bounded_by_what_is_alive` prints and bounds it.
//!
//! Invariants
//! - the keys of a leaf are smaller than those of the next one, and each key is there once.
//! - there are as many heads as leaves, and `common` is what the first keys of all leaves begin with.
//! - the totals are those of the entries; what is alive in the arena is theirs and that of the history.
//! - a leaf has room for as many entries more as are claimed in it, and so has the arena.
//! - a first entry that is dead, and a leaf that is empty but for that, stay only while room is claimed in the leaf.

use alloc::vec::Vec;
use core::mem;
use core::ops::Bound;

use crate::arena::{Arena, Extent};
use crate::error::Error;
use crate::history::{AllVersions, History, charged};
use crate::key;
use crate::leaf::{Entry, LEAF_MAX, Leaf, common_len, head_of};
use crate::limits::KEY_LEN_MAX;
use crate::record::{Form, KEPT_HEADER_LEN, Record, Revision};

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

impl Totals {
    pub(crate) fn of_extent(extent: &Extent) -> Self {
        Self::of(extent.key_len(), extent.value_len())
    }
}

/// A key and its value, current or past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) entry: &'a Entry,
}

impl<'a> Kept<'a> {
    pub(crate) fn key(&self) -> &'a str {
        self.arena.key(&self.entry.extent)
    }

    pub(crate) fn value(&self) -> &'a [u8] {
        self.arena.value(&self.entry.extent)
    }

    pub(crate) fn value_len(&self) -> usize {
        self.entry.extent.value_len()
    }

    pub(crate) fn revision(&self) -> Revision {
        self.entry.revision()
    }

    pub(crate) fn form(&self) -> Form {
        self.entry.extent.form()
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals::of_extent(&self.entry.extent)
    }

    /// As it is copied.
    pub(crate) fn record(&self) -> Record<'a> {
        Record::Kept { key: self.key(), value: self.value(), revision: self.revision(), form: self.form() }
    }

    /// Bytes of that.
    pub(crate) fn record_len(&self) -> usize {
        KEPT_HEADER_LEN + self.entry.extent.key_len() + self.value_len()
    }
}

/// When a value was written, and what it is.
#[derive(Debug, Clone, Copy)]
struct Written {
    revision: Revision,
    form: Form,
}

/// What there has been asked for room for.
#[derive(Debug, Clone, Copy, Default)]
struct Claims {
    records: usize,
    keys: usize,
    keys_len: usize,
    values_len: usize,
}

impl Claims {
    fn add(&mut self, record: &Record<'_>) {
        self.records += 1;
        if let Some((key, value)) = record.value() {
            self.keys += 1;
            self.keys_len += key.len();
            self.values_len += value.len();
        }
    }
}

/// Which value every key has.
#[derive(Debug, Default)]
pub(crate) struct Index {
    arena: Arena,
    leaves: Vec<Leaf>,
    heads: Vec<u64>,
    common: Vec<u8>,
    /// Leaves that may be too long, too short or begin with what is dead, or in which room is claimed.
    unsettled: Vec<usize>,
    claims: Claims,
    /// What the row begins with when it is empty.
    first: Leaf,
    totals: Totals,
    history: History,
    /// How many gaps were found: what was written before the last of them may be older than it should be.
    gaps: u16,
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

    /// Takes note that what is past may not be whole.
    pub(crate) fn lost_from(&mut self, revision: Revision) {
        self.history.lost_from(revision);
    }

    /// Forgets what is past and no snapshot has.
    pub(crate) fn prune(&mut self) {
        self.history.prune(|entry| self.arena.give_up(entry.extent));
    }

    /// Where keys and values are.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The value that a key has.
    pub(crate) fn get(&self, key: &str) -> Option<Kept<'_>> {
        let leaf = self.leaves.get(self.leaf_of(key.as_bytes()))?;
        let entry = leaf.get(leaf.search(key.as_bytes(), &self.arena).ok()?)?;
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

    /// Something is missing here: whatever is in the index may have been changed by it.
    pub(crate) fn suspect_all(&mut self) {
        if let Some(gaps) = self.gaps.checked_add(1) {
            self.gaps = gaps;
            return;
        }
        // Whether it was before the last one is all that matters.
        self.gaps = 1;
        let current = self.leaves.iter_mut().flat_map(Leaf::entries_mut);
        current.chain(self.history.entries_mut()).for_each(|entry| entry.gaps = 0);
    }

    /// How many keys are suspect.
    pub(crate) fn count_suspect(&self) -> u64 {
        let entries = self.leaves.iter().flat_map(Leaf::entries);
        u64::try_from(entries.filter(|entry| entry.gaps < self.gaps).count()).unwrap_or(u64::MAX)
    }

    /// Whether any current value is sealed. Looks at entries only, not at keys or values.
    pub(crate) fn has_sealed(&self) -> bool {
        let mut entries = self.leaves.iter().flat_map(Leaf::entries);
        entries.any(|entry| entry.extent.form() == Form::Sealed)
    }

    /// The leaf in which a key is, if it is anywhere: the last one that does not begin behind it.
    fn leaf_of(&self, key: &[u8]) -> usize {
        let Some(rest) = key.strip_prefix(self.common.as_slice()) else {
            return if key < self.common.as_slice() { 0 } else { self.leaves.len().saturating_sub(1) };
        };
        let head = head_of(rest);
        let mut behind = self.heads.partition_point(|other| *other < head);
        if self.heads.get(behind) == Some(&head) {
            let same = self.heads.get(behind..).unwrap_or(&[]).partition_point(|other| *other == head);
            let same = self.leaves.get(behind..behind + same).unwrap_or(&[]);
            behind += same.partition_point(|leaf| leaf.first_key(&self.arena) <= key);
        }
        behind.saturating_sub(1)
    }

    /// The leaf, and where in it a key is or would be.
    fn locate(&self, key: &[u8]) -> (usize, Result<usize, usize>) {
        if let Some(last) = self.leaves.last()
            && last.last_key(&self.arena) < key
        {
            return (self.leaves.len() - 1, Err(last.len()));
        }
        let at = self.leaf_of(key);
        let Some(leaf) = self.leaves.get(at) else { return (0, Err(0)) };
        match leaf.search(key, &self.arena) {
            Ok(within) if leaf.is_alive(within) => (at, Ok(within)),
            Ok(within) | Err(within) => (at, Err(within)),
        }
    }

    /// Sees to it that these records can be applied without asking for memory, in order and behind those that there has been
    /// asked for before, until [`Index::drop_claims`].
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was, but for what was claimed.
    pub(crate) fn reserve<'r>(&mut self, records: impl Iterator<Item = Record<'r>>) -> Result<(), Error> {
        for record in records {
            self.claims.add(&record);
            if record.value().is_none() {
                continue;
            }
            let (at, found) = self.locate(record.key().as_bytes());
            // It may be found and taken away before this is applied. Then it has left its own room.
            if found.is_err() {
                self.claim(at)?;
            }
        }
        self.reserve_beyond_leaves(self.claims)
    }

    /// Room for all but the entries themselves.
    fn reserve_beyond_leaves(&mut self, claims: Claims) -> Result<(), Error> {
        // Each may have its leaf noted.
        let len = claims.records.saturating_mul(size_of::<usize>());
        self.unsettled.try_reserve(claims.records).map_err(|_| Error::NoMemory { len })?;
        if claims.keys == 0 {
            Ok(())
        } else {
            self.arena.reserve(claims.keys, claims.keys_len, claims.values_len)
        }
    }

    /// Sees to it that a record can be applied without asking for memory, if that is done next; what is claimed stays.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn make_room(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let mut claims = self.claims;
        claims.add(record);
        if record.value().is_some()
            && let (at, Err(_)) = self.locate(record.key().as_bytes())
        {
            self.begin_row()?;
            let leaf = self.leaves.get_mut(at).unwrap_or(&mut self.first);
            leaf.reserve(usize::try_from(leaf.claimed).unwrap_or(usize::MAX).saturating_add(1))?;
        }
        self.reserve_beyond_leaves(claims)
    }

    /// What was asked for has been applied, or will not be.
    pub(crate) fn drop_claims(&mut self) {
        self.claims = Claims::default();
        for at in &self.unsettled {
            self.leaves.get_mut(*at).unwrap_or(&mut self.first).claimed = 0;
        }
    }

    fn reserve_notes(&mut self) -> Result<(), Error> {
        self.unsettled.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<usize>() })
    }

    /// Room in a leaf for one entry more than there has been asked for.
    fn claim(&mut self, at: usize) -> Result<(), Error> {
        self.begin_row()?;
        self.reserve_notes()?;
        let leaf = self.leaves.get_mut(at).unwrap_or(&mut self.first);
        if leaf.claimed == 0 {
            self.unsettled.push(at);
        }
        leaf.claimed += 1;
        leaf.reserve(usize::try_from(leaf.claimed).unwrap_or(usize::MAX))
    }

    /// Room for a first leaf.
    fn begin_row(&mut self) -> Result<(), Error> {
        if self.leaves.is_empty() {
            self.reserve_row(1)?;
            // The first key is what all begin with until there is another.
            self.common.try_reserve(KEY_LEN_MAX).map_err(|_| Error::NoMemory { len: KEY_LEN_MAX })?;
        }
        Ok(())
    }

    /// Room in a leaf for an entry, whether there has been asked for it or not.
    fn make_way(&mut self, at: usize) -> Result<(), Error> {
        self.begin_row()?;
        self.leaves.get_mut(at).unwrap_or(&mut self.first).reserve(1)?;
        if self.leaves.get(at).is_some_and(|leaf| leaf.len() >= LEAF_MAX) {
            self.reserve_notes()?;
            self.unsettled.push(at);
        }
        Ok(())
    }

    fn reserve_row(&mut self, count: usize) -> Result<(), Error> {
        let len = count.saturating_mul(size_of::<Leaf>() + size_of::<u64>());
        self.leaves.try_reserve(count).map_err(|_| Error::NoMemory { len })?;
        self.heads.try_reserve(count).map_err(|_| Error::NoMemory { len })
    }

    /// Does what a record says. `revision` is that of its place, which what was copied does not need.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn apply(&mut self, record: &Record<'_>, revision: Revision) -> Result<(), Error> {
        match *record {
            Record::Put { key, value, form } => {
                self.put(key, value, Written { revision, form }, Some(revision))?;
                self.take_if_snapshot(key, revision);
            }
            Record::Kept { key, value, revision, form } => {
                self.put(key, value, Written { revision, form }, None)?;
                self.take_if_snapshot(key, revision);
            }
            Record::Past { key, value, revision, until, form } => {
                let extent = self.arena.push(key, value, form)?;
                self.keep_past(key, Entry::new(extent, revision, self.gaps), until);
            }
            Record::Delete { key } => {
                self.delete(key, revision)?;
                if let Some(name) = key::snapshot_of(key) {
                    self.history.forget(name);
                }
            }
        }
        Ok(())
    }

    fn take_if_snapshot(&mut self, key: &str, revision: Revision) {
        if let Some(name) = key::snapshot_of(key) {
            self.history.take(name, revision);
        }
    }

    fn keep_past(&mut self, key: &str, entry: Entry, until: Revision) {
        if !self.history.insert(key, entry, until) {
            self.arena.give_up(entry.extent);
        }
    }

    /// `until` is when what the key has becomes past; [`None`] if it does not.
    fn put(
        &mut self,
        key: &str,
        value: &[u8],
        Written { revision, form }: Written,
        until: Option<Revision>,
    ) -> Result<(), Error> {
        let fresh = Totals::of(key.len(), value.len());
        let (at, within) = match self.locate(key.as_bytes()) {
            (at, Ok(within)) => {
                let entry = self.leaves.get_mut(at).and_then(|leaf| leaf.get_mut(within));
                let Some(entry) = entry else { return Ok(()) };
                let old = *entry;
                let past = until.filter(|until| self.history.needs(key, old.revision(), *until));
                let in_place =
                    if past.is_some() { None } else { self.arena.overwrite(old.extent, value, form) };
                let extent = match in_place {
                    Some(extent) => extent,
                    None => self.arena.push(key, value, form)?,
                };
                *entry = Entry::new(extent, revision, self.gaps);
                self.totals = self.totals.plus(fresh).less(Totals::of_extent(&old.extent));
                match past {
                    Some(until) => self.keep_past(key, old, until),
                    None if in_place.is_none() => self.arena.give_up(old.extent),
                    None => {}
                }
                return Ok(());
            }
            (at, Err(within)) => (at, within),
        };
        self.make_way(at)?;
        let extent = self.arena.push(key, value, form)?;
        if self.leaves.is_empty() {
            self.leaves.push(mem::take(&mut self.first));
            self.heads.push(0);
            self.common.clear();
            self.common.extend_from_slice(key.as_bytes());
        }
        let Some(leaf) = self.leaves.get_mut(at) else { return Ok(()) };
        leaf.insert(within, key.as_bytes(), Entry::new(extent, revision, self.gaps), &self.arena);
        if within == 0 {
            self.take_head(at);
        }
        self.totals = self.totals.plus(fresh);
        Ok(())
    }

    fn delete(&mut self, key: &str, until: Revision) -> Result<(), Error> {
        let (at, Ok(within)) = self.locate(key.as_bytes()) else { return Ok(()) };
        self.reserve_notes()?;
        let Some(leaf) = self.leaves.get_mut(at) else { return Ok(()) };
        let Some(&old) = leaf.get(within) else { return Ok(()) };
        leaf.remove(within);
        if leaf.is_first_dead || leaf.len() < LEAF_MAX / 4 {
            self.unsettled.push(at);
        }
        self.totals = self.totals.less(Totals::of_extent(&old.extent));
        if self.history.needs(key, old.revision(), until) {
            self.keep_past(key, old, until);
        } else {
            self.arena.give_up(old.extent);
        }
        Ok(())
    }

    /// The first key of a leaf has changed.
    fn take_head(&mut self, at: usize) {
        let Some(leaf) = self.leaves.get(at) else { return };
        let key = leaf.first_key(&self.arena);
        if let (Some(rest), Some(head)) = (key.strip_prefix(self.common.as_slice()), self.heads.get_mut(at)) {
            *head = head_of(rest);
            return;
        }
        self.common.truncate(common_len(key, &self.common));
        for (head, leaf) in self.heads.iter_mut().zip(&self.leaves) {
            *head = head_of(leaf.first_key(&self.arena).get(self.common.len()..).unwrap_or(&[]));
        }
    }

    /// Puts itself in order where that has become worth while: after every change, or every few.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: everything is as right as it was.
    pub(crate) fn tidy(&mut self) -> Result<(), Error> {
        let settled = if self.unsettled.is_empty() { Ok(()) } else { self.settle() };
        // First keys that are dead stay dead where they are carried to, so there is an end to it.
        for _ in 0..self.arena.pieces_len() {
            let Some(piece) = self.arena.piece_to_clear() else { break };
            self.clear(piece)?;
        }
        settled
    }

    /// Divides and joins leaves. What cannot be done for want of memory is left as it is.
    fn settle(&mut self) -> Result<(), Error> {
        let mut unsettled = mem::take(&mut self.unsettled);
        unsettled.sort_unstable();
        unsettled.dedup();
        let mut outcome = Ok(());
        let mut left = unsettled.len();
        // Those behind a leaf change their numbers with it, so they are counted from the end until all are done.
        for nth in (0..unsettled.len()).rev() {
            let Some(at) = unsettled.get(nth).copied() else { break };
            if self.leaves.get(at).unwrap_or(&self.first).claimed == 0 {
                outcome = outcome.and(self.settle_leaf(at));
                continue;
            }
            left -= 1;
            if let Some(slot) = unsettled.get_mut(left) {
                *slot = self.leaves.len().saturating_sub(at);
            }
        }
        drop(unsettled.drain(..left));
        unsettled.iter_mut().for_each(|from_end| *from_end = self.leaves.len().saturating_sub(*from_end));
        self.unsettled = unsettled;
        outcome
    }

    /// Nothing is claimed in it.
    fn settle_leaf(&mut self, at: usize) -> Result<(), Error> {
        let Some(leaf) = self.leaves.get_mut(at) else { return Ok(()) };
        let is_first_new = leaf.settle();
        let len = leaf.len();
        if len == 0 {
            self.take_out(at);
            return Ok(());
        }
        if is_first_new {
            self.take_head(at);
        }
        match len {
            len if len > LEAF_MAX => self.divide(at),
            len if len < LEAF_MAX / 4 => self.join(at),
            _ => Ok(()),
        }
    }

    fn take_out(&mut self, at: usize) {
        drop(self.leaves.remove(at));
        let _head = self.heads.remove(at);
    }

    /// Into leaves that are equally long; at the end of the row into full ones, because there most often more is added.
    fn divide(&mut self, mut at: usize) -> Result<(), Error> {
        let is_last = at + 1 == self.leaves.len();
        while let Some(leaf) = self.leaves.get(at).map(Leaf::len).filter(|len| *len > LEAF_MAX) {
            let cut = if is_last { LEAF_MAX } else { leaf.div_ceil(leaf.div_ceil(LEAF_MAX)) };
            let room = if is_last { LEAF_MAX.saturating_sub(leaf - cut) } else { 0 };
            self.reserve_row(1)?;
            let Some(leaf) = self.leaves.get_mut(at) else { return Ok(()) };
            let behind = leaf.split_off(cut, room, &self.arena)?;
            at += 1;
            self.leaves.insert(at, behind);
            self.heads.insert(at, 0);
            self.take_head(at);
        }
        Ok(())
    }

    /// With a neighbour, if both together are not long.
    fn join(&mut self, at: usize) -> Result<(), Error> {
        for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
            let [Some(one), Some(other)] = [left, left + 1].map(|at| self.leaves.get(at)) else { continue };
            // The one before may begin with what is dead, and its turn will come.
            let is_settled = |leaf: &Leaf| !leaf.is_first_dead && leaf.claimed == 0;
            if !is_settled(one) || !is_settled(other) || one.len() + other.len() > LEAF_MAX / 2 {
                continue;
            }
            let joined = one.joined(other, &self.arena)?;
            if let Some(slot) = self.leaves.get_mut(left) {
                *slot = joined;
            }
            self.take_out(left + 1);
            break;
        }
        Ok(())
    }

    /// Carries over what is alive in a piece of the arena, and lets the piece go. First keys that are dead go along.
    fn clear(&mut self, piece: usize) -> Result<(), Error> {
        if self.claims.keys > 0 {
            // What is carried over must not take the room of what is claimed.
            let (text_len, values_len) = self.arena.lens_of(piece);
            let claims = self.claims;
            self.arena.reserve(claims.keys, claims.keys_len + text_len, claims.values_len + values_len)?;
        }
        let mut begin = 0;
        while let Some((key, next)) = self.arena.key_in(piece, begin) {
            let at = self.leaf_of(key.as_bytes());
            let found = self.leaves.get(at).and_then(|leaf| leaf.search(key.as_bytes(), &self.arena).ok());
            let past = self.history.entry_mut(key, |entry| Arena::is_at(&entry.extent, piece, begin));
            let is_alive =
                past.is_some() || self.leaves.get(at).zip(found).is_some_and(|(leaf, at)| leaf.is_alive(at));
            let current = self.leaves.get_mut(at).zip(found).and_then(|(leaf, at)| leaf.get_mut(at));
            let current = current.filter(|entry| Arena::is_at(&entry.extent, piece, begin));
            // A first key that is dead may have become past, and then stands at the same place.
            let mut here = past.into_iter().chain(current);
            if let Some(entry) = here.next() {
                entry.extent = if is_alive {
                    self.arena.carry(entry.extent)?
                } else {
                    self.arena.carry_dead(entry.extent)?
                };
                let moved = entry.extent;
                here.for_each(|entry| entry.extent = moved);
            }
            begin = next;
        }
        self.arena.clear(piece);
        Ok(())
    }

    /// All keys from one on, in order.
    pub(crate) fn from<'a>(&'a self, start: Bound<&str>) -> Range<'a> {
        self.range(start, None)
    }

    /// The keys from one on that come before another, in order.
    pub(crate) fn range<'a>(&'a self, start: Bound<&str>, end: Option<&str>) -> Range<'a> {
        let (first, from) = match start {
            Bound::Unbounded => (0, 0),
            Bound::Included(start) => match self.locate(start.as_bytes()) {
                (at, Ok(within) | Err(within)) => (at, within),
            },
            Bound::Excluded(start) => match self.locate(start.as_bytes()) {
                (at, Ok(within)) => (at, within + 1),
                (at, Err(within)) => (at, within),
            },
        };
        let (last, to) = match end.map(|end| self.locate(end.as_bytes())) {
            Some((at, Ok(within) | Err(within))) => (at, within),
            None => (self.leaves.len(), 0),
        };
        let part = |at: usize, from: usize, to: Option<usize>| {
            self.leaves.get(at).map_or(&[][..], |leaf| leaf.part(from, to.unwrap_or(leaf.len())))
        };
        let (now, last_part): (&[Entry], &[Entry]) = match first == last {
            true => (part(first, from, Some(to)), &[]),
            false if first < last => (part(first, from, None), part(last, 0, Some(to))),
            false => (&[], &[]),
        };
        Range {
            arena: &self.arena,
            now: now.iter(),
            whole: self.leaves.get(first + 1..last).unwrap_or(&[]).iter(),
            last: last_part,
        }
    }

    /// All there is of all keys from one on, in order.
    pub(crate) fn versions<'a>(&'a self, start: Bound<&str>) -> AllVersions<'a, Range<'a>> {
        AllVersions::of(self.from(start), &self.history, start)
    }
}

/// Keys and values in order.
pub(crate) struct Range<'a> {
    arena: &'a Arena,
    now: core::slice::Iter<'a, Entry>,
    whole: core::slice::Iter<'a, Leaf>,
    last: &'a [Entry],
}

impl<'a> Range<'a> {
    /// The next ones that lie in a row, at most `max`; [`None`] if there are no more.
    pub(crate) fn run(&mut self, max: usize) -> Option<impl Iterator<Item = Kept<'a>> + use<'a>> {
        while self.now.as_slice().is_empty() {
            self.turn()?;
        }
        let (run, rest) = self.now.as_slice().split_at(max.min(self.now.len()));
        self.now = rest.iter();
        let arena = self.arena;
        Some(run.iter().map(move |entry| Kept { arena, entry }))
    }

    /// Goes on to the next leaf.
    fn turn(&mut self) -> Option<()> {
        self.now = match self.whole.next() {
            Some(leaf) => leaf.entries().iter(),
            None if self.last.is_empty() => return None,
            None => mem::take(&mut self.last).iter(),
        };
        Some(())
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = Kept<'a>;

    #[inline]
    fn next(&mut self) -> Option<Kept<'a>> {
        loop {
            if let Some(entry) = self.now.next() {
                return Some(Kept { arena: self.arena, entry });
            }
            self.turn()?;
        }
    }
}

#[cfg(test)]
mod tests;
