//! The index: which value every key has.
//!
//! A row of leaves ([`crate::row`]), each a short sorted array of entries ([`crate::leaf`]). An entry says where key and value stand in the
//! arena, so what a listing needs lies close together. A region begins with records in the order of their keys, and what
//! comes behind all others is added without a search. A leaf that has become too long or too short is divided or joined with
//! its neighbour afterwards, which needs memory and may fail without harm.
//!
//! Room for what will be applied later is claimed in the leaf that its key belongs into. A leaf with claims is not divided,
//! joined or taken out, and its first key stays, dead or not: so the claims are where they are needed, whatever is applied
//! before. Values that only snapshots have are kept by the [history](crate::history); they stand in the same arena.
//!
//! What it costs beyond keys and values: 36 bytes for an entry, one for the end of a key, and about 90 for a leaf; room for 16 entries
//! in a leaf at most, or for as many as were deleted from it (down to a quarter of a full leaf, if its neighbours are full), or
//! for those of a batch that failed after room was asked for; and what is dead in the arena, which is a sixteenth of what is
//! alive and 1 MiB at most. `memory_is_bounded_by_what_is_alive` prints and bounds it.
//!
//! Invariants
//! - the keys of a leaf are smaller than those of the next one, and each key is there once.
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
use crate::leaf::{Entry, LEAF_MAX, Leaf};
use crate::record::{Form, KEPT_HEADER_LEN, Record, Revision};
use crate::row::{LeafId, Row, Spot};

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

/// Counts, in tests, the entries that are visited or moved beyond those a record names: what must stay in proportion to the
/// records of a region, whatever they say.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    #[cfg(test)]
    count: u64,
}

impl Steps {
    #[inline]
    pub(crate) fn add(&mut self, count: usize) {
        #[cfg(test)]
        {
            self.count += u64::try_from(count).unwrap();
        }
        #[cfg(not(test))]
        let _uncounted = count;
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.count
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

/// Where a key is.
#[derive(Debug, Clone, Copy)]
struct Located {
    spot: Spot,
    id: LeafId,
    /// Where in the leaf it is, or would be.
    within: Result<usize, usize>,
}

/// Which value every key has.
#[derive(Debug, Default)]
pub(crate) struct Index {
    arena: Arena,
    row: Row,
    /// Leaves that may be too long, too short or begin with what is dead, or in which room is claimed.
    unsettled: Vec<LeafId>,
    claims: Claims,
    totals: Totals,
    history: History,
    /// How many gaps were found: what was written before the last of them may be older than it should be.
    gaps: u32,
    steps: Steps,
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

    /// The work of everything so far.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.count() + self.row.steps.count() + self.history.steps.count() + self.arena.steps.count()
    }

    /// Takes note that what is past may not be whole.
    pub(crate) fn lost_from(&mut self, revision: Revision) {
        self.history.lost_from(revision);
    }

    /// Forgets the superseded values that no snapshot needs.
    pub(crate) fn prune(&mut self) {
        self.history.prune(Revision::from_u64(u64::MAX), |entry| self.arena.give_up(entry.extent));
    }

    /// Forgets, after a commit was replayed, the superseded values that no snapshot will need, once there may be as many of them
    /// as of those that are needed.
    pub(crate) fn prune_replayed(&mut self, revision: Revision) {
        if self.history.is_prune_due() {
            self.history.prune(revision, |entry| self.arena.give_up(entry.extent));
        }
    }

    /// Where keys and values are.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The value that a key has.
    pub(crate) fn get(&self, key: &str) -> Option<Kept<'_>> {
        let leaf = self.row.at(self.row.spot_of(key.as_bytes(), &self.arena))?;
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
        self.steps.add(usize::try_from(self.totals.keys + self.history.totals().keys).unwrap_or(usize::MAX));
        let current = self.row.leaves_mut().flat_map(Leaf::entries_mut);
        current.chain(self.history.entries_mut()).for_each(|entry| entry.gaps = 0);
    }

    /// How many keys are suspect.
    pub(crate) fn count_suspect(&self) -> u64 {
        let entries = self.row.leaves().flat_map(Leaf::entries);
        u64::try_from(entries.filter(|entry| entry.gaps < self.gaps).count()).unwrap_or(u64::MAX)
    }

    /// Whether any current value is sealed. Looks at entries only, not at keys or values.
    pub(crate) fn has_sealed(&self) -> bool {
        let mut entries = self.row.leaves().flat_map(Leaf::entries);
        entries.any(|entry| entry.extent.form() == Form::Sealed)
    }

    /// Where a key is or would be. In an empty row this is the leaf that it will begin with.
    fn locate(&self, key: &[u8]) -> Located {
        let empty = Located { spot: Spot::END, id: self.row.next_id(), within: Err(0) };
        let Some(last_spot) = self.row.last() else { return empty };
        if let Some((id, last)) = self.row.id(last_spot).and_then(|id| Some((id, self.row.leaf(id)?)))
            && last.last_key(&self.arena) < key
        {
            return Located { spot: last_spot, id, within: Err(last.len()) };
        }
        let spot = self.row.spot_of(key, &self.arena);
        let found = self.row.id(spot).and_then(|id| Some((id, self.row.leaf(id)?)));
        let Some((id, leaf)) = found else { return empty };
        let within = leaf.search(key, &self.arena);
        let within = within.and_then(|at| if leaf.is_alive(at) { Ok(at) } else { Err(at) });
        Located { spot, id, within }
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
            let Located { id, within, .. } = self.locate(record.key().as_bytes());
            // It may be found and taken away before this is applied. Then it has left its own room.
            if within.is_err() {
                self.claim(id)?;
            }
        }
        self.reserve_beyond_leaves(self.claims)
    }

    /// Room for all but the entries themselves.
    fn reserve_beyond_leaves(&mut self, claims: Claims) -> Result<(), Error> {
        // Each may have its leaf noted.
        let len = claims.records.saturating_mul(size_of::<LeafId>());
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
            && let Located { id, within: Err(_), .. } = self.locate(record.key().as_bytes())
        {
            self.row.prepare()?;
            if let Some(leaf) = self.row.leaf_mut(id) {
                leaf.reserve(usize::try_from(leaf.claimed).unwrap_or(usize::MAX).saturating_add(1))?;
            }
        }
        self.reserve_beyond_leaves(claims)
    }

    /// What was asked for has been applied, or will not be.
    pub(crate) fn drop_claims(&mut self) {
        self.claims = Claims::default();
        for id in &self.unsettled {
            if let Some(leaf) = self.row.leaf_mut(*id) {
                leaf.claimed = 0;
            }
        }
    }

    fn reserve_notes(&mut self) -> Result<(), Error> {
        self.unsettled.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<LeafId>() })
    }

    /// Room in a leaf for one entry more than there has been asked for.
    fn claim(&mut self, id: LeafId) -> Result<(), Error> {
        self.row.prepare()?;
        self.reserve_notes()?;
        let Some(leaf) = self.row.leaf_mut(id) else { return Ok(()) };
        if leaf.claimed == 0 {
            self.unsettled.push(id);
        }
        leaf.claimed += 1;
        leaf.reserve(usize::try_from(leaf.claimed).unwrap_or(usize::MAX))
    }

    /// Room in a leaf for an entry, whether there has been asked for it or not.
    fn make_way(&mut self, id: LeafId) -> Result<(), Error> {
        self.row.prepare()?;
        let Some(leaf) = self.row.leaf_mut(id) else { return Ok(()) };
        leaf.reserve(1)?;
        if leaf.len() >= LEAF_MAX {
            self.reserve_notes()?;
            self.unsettled.push(id);
        }
        Ok(())
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
        let Located { spot, id, within } = self.locate(key.as_bytes());
        let within = match within {
            Ok(within) => {
                let entry = self.row.leaf_mut(id).and_then(|leaf| leaf.get_mut(within));
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
            Err(within) => within,
        };
        self.make_way(id)?;
        let extent = self.arena.push(key, value, form)?;
        if self.row.is_empty() {
            self.row.begin(key.as_bytes());
        }
        let Some(leaf) = self.row.leaf_mut(id) else { return Ok(()) };
        leaf.insert(within, key.as_bytes(), Entry::new(extent, revision, self.gaps), &self.arena);
        if within == 0 {
            self.row.take_head(spot, &self.arena);
        }
        self.totals = self.totals.plus(fresh);
        Ok(())
    }

    fn delete(&mut self, key: &str, until: Revision) -> Result<(), Error> {
        let Located { id, within: Ok(within), .. } = self.locate(key.as_bytes()) else { return Ok(()) };
        self.reserve_notes()?;
        let Some(leaf) = self.row.leaf_mut(id) else { return Ok(()) };
        let Some(&old) = leaf.get(within) else { return Ok(()) };
        leaf.remove(within);
        if leaf.is_first_dead || leaf.len() < LEAF_MAX / 4 {
            self.unsettled.push(id);
        }
        self.totals = self.totals.less(Totals::of_extent(&old.extent));
        if self.history.needs(key, old.revision(), until) {
            self.keep_past(key, old, until);
        } else {
            self.arena.give_up(old.extent);
        }
        Ok(())
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
        unsettled.retain(|id| {
            let is_claimed = self.row.leaf(*id).is_some_and(|leaf| leaf.claimed > 0);
            if !is_claimed {
                let settled = self.settle_leaf(*id);
                outcome = mem::replace(&mut outcome, Ok(())).and(settled);
            }
            is_claimed
        });
        self.unsettled = unsettled;
        outcome
    }

    /// Nothing is claimed in it.
    fn settle_leaf(&mut self, id: LeafId) -> Result<(), Error> {
        let Some(leaf) = self.row.leaf(id).filter(|leaf| leaf.len() > 0) else { return Ok(()) };
        let spot = self.row.spot_of(leaf.first_key(&self.arena), &self.arena);
        let Some(leaf) = self.row.leaf_mut(id) else { return Ok(()) };
        let is_first_new = leaf.settle();
        let len = leaf.len();
        if len == 0 {
            self.row.take_out(spot);
            return Ok(());
        }
        if is_first_new {
            self.row.take_head(spot, &self.arena);
        }
        match len {
            len if len > LEAF_MAX => self.divide(id, spot),
            len if len < LEAF_MAX / 4 => self.join(spot),
            _ => Ok(()),
        }
    }

    /// Into leaves that are equally long; at the end of the row into full ones, because there most often more is added.
    fn divide(&mut self, mut id: LeafId, mut spot: Spot) -> Result<(), Error> {
        let is_last = Some(spot) == self.row.last();
        while let Some(len) = self.row.leaf(id).map(Leaf::len).filter(|len| *len > LEAF_MAX) {
            let cut = if is_last { LEAF_MAX } else { len.div_ceil(len.div_ceil(LEAF_MAX)) };
            let room = if is_last { LEAF_MAX.saturating_sub(len - cut) } else { 0 };
            let behind_at = self.row.make_room_after(spot)?;
            let Some(leaf) = self.row.leaf_mut(id) else { return Ok(()) };
            let behind = leaf.split_off(cut, room, &self.arena)?;
            self.row.insert(behind_at, behind, &self.arena);
            let Some(next) = self.row.id(behind_at) else { return Ok(()) };
            (id, spot) = (next, behind_at);
        }
        Ok(())
    }

    /// With a neighbour, if both together are not long.
    fn join(&mut self, spot: Spot) -> Result<(), Error> {
        for left in [Some(spot), self.row.before(spot)].into_iter().flatten() {
            let right = self.row.next(left);
            let (Some(one), Some(other)) = (self.row.at(left), self.row.at(right)) else { continue };
            // One of them may begin with what is dead, and its turn will come.
            let is_settled = |leaf: &Leaf| !leaf.is_first_dead && leaf.claimed == 0;
            if !is_settled(one) || !is_settled(other) || one.len() + other.len() > LEAF_MAX / 2 {
                continue;
            }
            let joined = one.joined(other, &self.arena)?;
            if let Some(leaf) = self.row.id(left).and_then(|id| self.row.leaf_mut(id)) {
                *leaf = joined;
            }
            self.row.take_out(right);
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
            self.steps.add(1);
            let id = self.row.id(self.row.spot_of(key.as_bytes(), &self.arena));
            let leaf = id.and_then(|id| self.row.leaf(id));
            let found = leaf.and_then(|leaf| leaf.search(key.as_bytes(), &self.arena).ok());
            let origin = Arena::origin(piece, begin);
            let past = self.history.extent_at(origin);
            let leaf = id.and_then(|id| self.row.leaf_mut(id)).zip(found);
            let is_alive = past.is_some() || leaf.as_ref().is_some_and(|(leaf, at)| leaf.is_alive(*at));
            let current = leaf.and_then(|(leaf, at)| leaf.get_mut(at));
            let current = current.filter(|entry| entry.extent.origin() == origin);
            if let Some(extent) = past.or(current.as_ref().map(|entry| entry.extent)) {
                let moved =
                    if is_alive { self.arena.carry(extent)? } else { self.arena.carry_dead(extent)? };
                if past.is_some() {
                    self.history.moved(origin, moved);
                }
                // A first key that is dead may have become past, and then stands at the same place.
                if let Some(entry) = current {
                    entry.extent = moved;
                }
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
        let place = |key: &str, excluded: usize| {
            let Located { spot, within, .. } = self.locate(key.as_bytes());
            (spot, within.map_or_else(|within| within, |within| within + excluded))
        };
        let (first, from) = match start {
            Bound::Unbounded => (Spot::FIRST, 0),
            Bound::Included(start) => place(start, 0),
            Bound::Excluded(start) => place(start, 1),
        };
        let (last, to) = end.map_or((Spot::END, 0), |end| place(end, 0));
        let part = |spot: Spot, from: usize, to: Option<usize>| {
            self.row.at(spot).map_or(&[][..], |leaf| leaf.part(from, to.unwrap_or(leaf.len())))
        };
        let (now, last_part): (&[Entry], &[Entry]) = match first == last {
            true => (part(first, from, Some(to)), &[]),
            false if first < last => (part(first, from, None), part(last, 0, Some(to))),
            false => (&[], &[]),
        };
        let next = self.row.next(first);
        Range { arena: &self.arena, row: &self.row, now: now.iter(), next, end: last, last: last_part }
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
    row: &'a Row,
    /// The leaves from `next` on that precede `end` follow as a whole, and then `last`.
    next: Spot,
    end: Spot,
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
        let whole = if self.next < self.end { self.row.at(self.next) } else { None };
        self.now = match whole {
            Some(leaf) => {
                self.next = self.row.next(self.next);
                leaf.entries().iter()
            }
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
