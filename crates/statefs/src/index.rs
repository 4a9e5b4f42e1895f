//! The index: which value every key has, and what changes that.
//!
//! What is read is the [contents](crate::contents): a [row](crate::row) of [leaves](crate::leaf), each a short sorted array of
//! entries. An entry says where key and value are in the [arena](crate::arena), so what a listing needs lies close together.
//! A region begins with records in the order of their keys, and what follows all others is added without a search. A leaf
//! that has become too long or too short is divided or joined with its neighbour afterwards, which needs memory and may fail
//! without harm.
//!
//! A view is a copy of the contents that shares their nodes. While it is alive, nothing that it shares is changed: a leaf or a
//! bunch is copied first, a value is appended and not overwritten. What is counted is beside the nodes, here and in the
//! [upkeep](crate::upkeep) of the rows.
//!
//! Memory for what will be applied later is reserved before: room in the leaf that its key belongs into, and bytes in the
//! arena. A leaf with claims is owned, so applying does not ask for memory. A view that is taken in between makes the claimed
//! leaves owned again, and reserves the bytes again, or fails.
//!
//! A key is looked for once: its [`Place`] is found when a record is admitted and is right when it is applied, unless its leaf
//! has changed meanwhile. Values that only snapshots have are kept by the [history](crate::history); they are in the same arena.
//!
//! What it costs beyond keys and values: 36 bytes for an entry, one for the end of a key, and about 160 for a leaf; room for 16 entries
//! in a leaf at most, or for as many as were deleted from it (down to a quarter of a full leaf, if its neighbours are full), or
//! for those of a batch that failed after room was asked for; and what is dead in the arena, which is a sixteenth of what is
//! alive and 1 MiB at most. `memory_is_bounded_by_what_is_alive` prints and bounds it.
//!
//! Invariants
//! - the keys of a leaf are smaller than those of the next one, and each key is there once.
//! - the totals are those of the entries; what is alive in the arena is theirs and that of the history.
//! - where something is claimed, its leaf is owned and has room, and the arena has bytes for all claims.

use alloc::vec::Vec;
use core::mem;
use core::ops::Deref;

use crate::arena::{Arena, Extent, Filling};
use crate::contents::Contents;
use crate::error::Error;
use crate::history::HistoryUpkeep;
use crate::key;
use crate::leaf::{At, Entry};
use crate::record::{Form, KEPT_HEADER_LEN, Record, Revision};
use crate::row::LeafId;
use crate::upkeep::{Place, Upkeep};

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
    fn less(&mut self, other: &Self) {
        self.records = self.records.saturating_sub(other.records);
        self.keys = self.keys.saturating_sub(other.keys);
        self.keys_len = self.keys_len.saturating_sub(other.keys_len);
        self.values_len = self.values_len.saturating_sub(other.values_len);
    }

    fn add(&mut self, record: &Record<'_>) {
        self.records += 1;
        if let Some((key, value)) = record.value() {
            self.keys += 1;
            self.keys_len += key.len();
            self.values_len += value.len();
        }
    }
}

/// What was claimed for a record: the place of its key, and where the value it has may become past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimed {
    place: Place,
    past: Place,
}

/// What was claimed for the records of a frame, in order.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    claimed: Vec<Claimed>,
    claims: Claims,
}

impl Reserved {
    /// What was claimed for the records.
    pub(crate) fn claimed(&self) -> &[Claimed] {
        &self.claimed
    }
}

/// Where a key is, and what it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    place: Place,
    /// When its value was written, and how much it is.
    pub(crate) value: Option<(Revision, Totals)>,
}

/// Which value every key has.
#[derive(Debug, Default)]
pub(crate) struct Index {
    contents: Contents,
    filling: Filling,
    upkeep: Upkeep,
    past: HistoryUpkeep,
    claims: Claims,
    /// Whether a snapshot is among what is claimed.
    claims_snapshot: bool,
    /// How often something was applied.
    changes: u64,
    steps: Steps,
}

impl Deref for Index {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.contents
    }
}

impl Index {
    /// The work of everything so far.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.count() + self.upkeep.steps.count() + self.past.steps() + self.filling.steps.count()
    }

    /// How often something was applied: two views with the same number show the same.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The piece of the arena that is being filled.
    #[cfg(feature = "std")]
    pub(crate) fn open_piece(&self) -> usize {
        self.filling.current()
    }

    /// Returns the contents as they are now. They stay as they are.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: what was reserved is still reserved.
    pub(crate) fn view(&mut self) -> Result<Contents, Error> {
        let Claims { keys, keys_len, values_len, .. } = self.claims;
        self.filling.close_for_view(&mut self.contents.arena, keys, keys_len, values_len)?;
        let view = self.contents.try_clone()?;
        // From now on everything is shared, what is claimed as well.
        self.upkeep.own_claimed(&mut self.contents.row)?;
        self.past.own_claimed(&mut self.contents.history)?;
        self.reserve_bytes(self.claims)?;
        Ok(view)
    }

    /// Takes note that what is past may not be whole.
    pub(crate) fn lost_from(&mut self, revision: Revision) {
        self.contents.history.lost_from(revision);
    }

    /// Forgets the superseded values that no snapshot needs.
    pub(crate) fn prune(&mut self) {
        self.prune_ended(Revision::from_u64(u64::MAX));
    }

    fn prune_ended(&mut self, ended_by: Revision) {
        let Contents { history, arena, .. } = &mut self.contents;
        let filling = &mut self.filling;
        self.past.prune(history, ended_by, arena, |entry| filling.give_up(entry.extent));
        // What cannot be settled for want of memory is settled later.
        let _settled = self.past.settle(history, arena);
        self.changes += 1;
    }

    /// Forgets, after a commit was replayed, the superseded values that no snapshot will need, once there may be as many of them
    /// as of those that are needed.
    pub(crate) fn prune_replayed(&mut self, revision: Revision) {
        if self.past.is_prune_due(&self.contents.history) {
            self.prune_ended(revision);
        }
    }

    /// Something is missing here: whatever is in the index may have been changed by it.
    ///
    /// # Errors
    /// [`Error::NoMemory`], where a view shares entries that must be changed.
    pub(crate) fn suspect_all(&mut self) -> Result<(), Error> {
        self.changes += 1;
        if let Some(gaps) = self.contents.gaps.checked_add(1) {
            self.contents.gaps = gaps;
            return Ok(());
        }
        // Whether it was before the last one is all that matters.
        let keys = self.totals.keys + self.history.totals().keys;
        self.steps.add(usize::try_from(keys).unwrap_or(usize::MAX));
        let Contents { row, history, .. } = &mut self.contents;
        for at in 0..row.leaves.len() {
            let id = LeafId(u32::try_from(at).unwrap_or(u32::MAX));
            if let Some(leaf) = Upkeep::own(row, id, 0)? {
                leaf.slots_mut().iter_mut().for_each(|entry| entry.gaps = 0);
            }
        }
        HistoryUpkeep::each_entry(history, |entry| entry.gaps = 0)?;
        self.contents.gaps = 1;
        Ok(())
    }

    /// Where a key is or would be.
    fn place_of(&self, at: &At<'_>) -> Place {
        let Contents { row, arena, .. } = &self.contents;
        // What follows all others is added without a search.
        if let Some(located) = row.behind_all(at, arena) {
            return self.upkeep.place(&located);
        }
        if let Some(found) = row.find(at, arena)
            && row.leaf(found.0).is_some_and(|leaf| leaf.is_alive(found.1))
        {
            return self.upkeep.place_found(found);
        }
        let mut located = row.locate(at, arena);
        located.within = row.alive_or_missing(located.id, located.within);
        self.upkeep.place(&located)
    }

    /// Looks for a key. What is found stays right until something is applied, divided or joined, and for longer where it is
    /// [claimed](Index::claim).
    pub(crate) fn find(&self, key: &str) -> Found {
        let place = self.place_of(&At::key(key));
        let kept = if place.is_missing() { None } else { self.contents.row.leaf(place.leaf) };
        let kept = kept.and_then(|leaf| leaf.get(place.position()));
        let value = kept.map(|entry| (entry.revision(), Totals::of_extent(&entry.extent)));
        Found { place, value }
    }

    /// Sees to it that a record can be applied by [`Index::apply_claimed`] without asking for memory, after all that was claimed
    /// before, until it is [released](Index::release).
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was, and what was claimed before still is.
    pub(crate) fn claim(
        &mut self,
        record: &Record<'_>,
        found: Found,
        into: &mut Reserved,
    ) -> Result<(), Error> {
        let len = size_of::<Claimed>();
        into.claimed.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        let adds = record.value().is_some();
        let Contents { row, history, arena, .. } = &mut self.contents;
        let place = self.upkeep.claim(row, found.place, adds)?;
        let is_snapshot = key::snapshot_of(record.key()).is_some();
        let may_become_past = !is_snapshot && (self.claims_snapshot || !history.has_no_snapshots());
        let past = if may_become_past {
            let claimed = self.past.claim(history, record.key(), arena);
            claimed.inspect_err(|_| {
                self.upkeep.release(&place);
                self.upkeep.sweep();
            })?
        } else {
            Place::UNKNOWN
        };
        self.claims_snapshot |= is_snapshot;
        self.claims.add(record);
        into.claims.add(record);
        into.claimed.push(Claimed { place, past });
        Ok(())
    }

    /// Sees to it that there are bytes for all that is claimed: the last step before a frame is written.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn reserve_claimed(&mut self) -> Result<(), Error> {
        self.reserve_bytes(self.claims)
    }

    /// What was claimed for the records of a frame has been applied, or will not be.
    pub(crate) fn release(&mut self, reserved: &mut Reserved) {
        self.release_from(reserved, 0);
        self.claims.less(&mem::take(&mut reserved.claims));
        self.claims_snapshot &= self.claims.records > 0;
    }

    fn release_from(&mut self, reserved: &mut Reserved, count: usize) {
        for Claimed { place, past } in reserved.claimed.drain(count.min(reserved.claimed.len())..) {
            self.upkeep.release(&place);
            self.past.release(&past);
        }
        self.upkeep.sweep();
        self.past.sweep();
    }

    /// The same for all records but the first `count`; `left` are those.
    pub(crate) fn release_behind<'r>(
        &mut self,
        reserved: &mut Reserved,
        count: usize,
        left: impl Iterator<Item = Record<'r>>,
    ) {
        self.release_from(reserved, count);
        self.claims.less(&mem::take(&mut reserved.claims));
        for record in left {
            self.claims.add(&record);
            reserved.claims.add(&record);
        }
    }

    /// Bytes of keys and values.
    fn reserve_bytes(&mut self, claims: Claims) -> Result<(), Error> {
        if claims.keys == 0 {
            return Ok(());
        }
        self.filling.reserve(&mut self.contents.arena, claims.keys, claims.keys_len, claims.values_len)
    }

    /// Sees to it that a record can be applied without asking for memory, if that is done next; what is claimed stays.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn make_room(&mut self, record: &Record<'_>, found: Found) -> Result<(), Error> {
        let mut claims = self.claims;
        claims.add(record);
        let Contents { row, history, arena, .. } = &mut self.contents;
        let _id = self.upkeep.make_way(row, found.place.leaf, found.place, usize::MAX)?;
        if !history.has_no_snapshots() {
            self.past.make_way(history, record.key(), arena)?;
        }
        self.reserve_bytes(claims)
    }

    /// Nothing of what was claimed will be applied.
    pub(crate) fn drop_claims(&mut self) {
        self.claims = Claims::default();
        self.claims_snapshot = false;
        self.upkeep.drop_claims();
        self.past.drop_claims();
    }

    /// Does what a record says, without asking for memory. `revision` is that of its place.
    ///
    /// # Errors
    /// None, but for a claim that was dropped.
    pub(crate) fn apply_claimed(
        &mut self,
        record: &Record<'_>,
        revision: Revision,
        claimed: &Claimed,
    ) -> Result<(), Error> {
        self.apply_at(record, revision, claimed.place)
    }

    /// Does what a record says, after [`Index::make_room`].
    ///
    /// # Errors
    /// As [`Index::apply`].
    pub(crate) fn apply_found(
        &mut self,
        record: &Record<'_>,
        revision: Revision,
        found: Found,
    ) -> Result<(), Error> {
        self.apply_at(record, revision, found.place)
    }

    /// Does what a record says. `revision` is that of its place, which what was copied does not need.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn apply(&mut self, record: &Record<'_>, revision: Revision) -> Result<(), Error> {
        let place = match record {
            // What is past has a place of its own.
            Record::Past { .. } => Place::UNKNOWN,
            Record::Put { .. } | Record::Kept { .. } | Record::Delete { .. } => {
                self.place_of(&At::key(record.key()))
            }
        };
        self.apply_at(record, revision, place)
    }

    fn apply_at(&mut self, record: &Record<'_>, revision: Revision, place: Place) -> Result<(), Error> {
        self.changes += 1;
        match *record {
            Record::Put { key, value, form } => {
                self.put(key, value, Written { revision, form }, Some(revision), place)?;
                self.take_if_snapshot(key, revision);
            }
            Record::Kept { key, value, revision, form } => {
                self.put(key, value, Written { revision, form }, None, place)?;
                self.take_if_snapshot(key, revision);
            }
            Record::Past { key, value, revision, until, form } => {
                let extent = self.filling.push(&mut self.contents.arena, key, value, form)?;
                let entry = Entry::new(extent, revision, self.gaps);
                self.keep_past(key, entry, until).inspect_err(|_| self.filling.give_up(extent))?;
            }
            Record::Delete { key } => {
                self.delete(key, revision, place)?;
                if let Some(name) = key::snapshot_of(key) {
                    self.contents.history.forget(name);
                }
            }
        }
        Ok(())
    }

    fn take_if_snapshot(&mut self, key: &str, revision: Revision) {
        if let Some(name) = key::snapshot_of(key) {
            self.contents.history.take(name, revision);
        }
    }

    fn keep_past(&mut self, key: &str, entry: Entry, until: Revision) -> Result<(), Error> {
        let Contents { history, arena, .. } = &mut self.contents;
        if !self.past.insert(history, key, entry, until, arena)? {
            self.filling.give_up(entry.extent);
        }
        Ok(())
    }

    /// `until` is when what the key has becomes past; [`None`] if it does not.
    fn put(
        &mut self,
        key: &str,
        value: &[u8],
        Written { revision, form }: Written,
        until: Option<Revision>,
        place: Place,
    ) -> Result<(), Error> {
        let fresh = Totals::of(key.len(), value.len());
        let Contents { row, arena, totals, gaps, .. } = &mut self.contents;
        let (id, within) = self.upkeep.resolve(row, place, &At::key(key), arena);
        let within = match within {
            Ok(within) => return self.replace(key, value, (id, within), Written { revision, form }, until),
            Err(within) => within,
        };
        // The leaf first: bytes that were pushed are not taken back.
        let id = self.upkeep.make_way(row, id, place, within)?;
        let extent = self.filling.push(arena, key, value, form)?;
        let entry = Entry::new(extent, revision, *gaps);
        let inserted = self.upkeep.insert(row, id, within, entry, arena);
        inserted.inspect_err(|_| self.filling.give_up(extent))?;
        *totals = totals.plus(fresh);
        Ok(())
    }

    /// Gives a key that has a value another one.
    fn replace(
        &mut self,
        key: &str,
        value: &[u8],
        (id, within): (LeafId, usize),
        Written { revision, form }: Written,
        until: Option<Revision>,
    ) -> Result<(), Error> {
        let Contents { row, arena, history, gaps, .. } = &mut self.contents;
        let Some(entry) = Upkeep::own(row, id, 0)?.and_then(|leaf| leaf.slot_mut(within)) else {
            return Ok(());
        };
        let old = *entry;
        let past = until.filter(|until| history.needs(key, old.revision(), *until));
        let in_place = match past {
            Some(_) => None,
            None => self.filling.overwrite(arena, old.extent, value, form),
        };
        let extent = match in_place {
            Some(extent) => extent,
            None => self.filling.push(arena, key, value, form)?,
        };
        match past {
            Some(until) => {
                let kept = self.past.insert(history, key, old, until, arena);
                if !kept.inspect_err(|_| self.filling.give_up(extent))? {
                    self.filling.give_up(old.extent);
                }
            }
            None if in_place.is_none() => self.filling.give_up(old.extent),
            None => {}
        }
        *entry = Entry::new(extent, revision, *gaps);
        let fresh = Totals::of(key.len(), value.len());
        self.contents.totals = self.contents.totals.plus(fresh).less(Totals::of_extent(&old.extent));
        Ok(())
    }

    fn delete(&mut self, key: &str, until: Revision, place: Place) -> Result<(), Error> {
        let Contents { row, arena, history, .. } = &mut self.contents;
        let (id, within) = self.upkeep.resolve(row, place, &At::key(key), arena);
        let Ok(within) = within else { return Ok(()) };
        let Some(old) = Upkeep::own(row, id, 0)?.and_then(|leaf| leaf.get(within).copied()) else {
            return Ok(());
        };
        if history.needs(key, old.revision(), until) {
            if !self.past.insert(history, key, old, until, arena)? {
                self.filling.give_up(old.extent);
            }
        } else {
            self.filling.give_up(old.extent);
        }
        self.upkeep.remove(row, id, within)?;
        self.contents.totals = self.contents.totals.less(Totals::of_extent(&old.extent));
        Ok(())
    }

    /// Puts itself in order where that has become worth while: after every change, or every few.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: everything is as right as it was.
    pub(crate) fn tidy(&mut self) -> Result<(), Error> {
        let Contents { row, arena, history, .. } = &mut self.contents;
        let settled = self.upkeep.settle(row, arena, |_| ());
        let settled = settled.and(self.past.settle(history, arena));
        // First keys that are dead stay dead where they are carried to, so there is an end to it.
        for _ in 0..self.contents.arena.pieces_len() {
            let Some(piece) = self.filling.piece_to_clear(&self.contents.arena) else { break };
            self.clear(piece)?;
        }
        settled
    }

    /// Carries over what is alive in a piece of the arena, and lets the piece go. First keys that are dead go along.
    fn clear(&mut self, piece: usize) -> Result<(), Error> {
        if self.claims.keys > 0 {
            // What is carried over must not take the room of what is claimed.
            let (text_len, values_len) = self.contents.arena.lens_of(piece);
            let mut claims = self.claims;
            claims.keys_len += text_len;
            claims.values_len += values_len;
            self.reserve_bytes(claims)?;
        }
        // Keys are looked at in a copy that shares the piece, while entries are changed.
        let Some(shared) = self.contents.arena.piece(piece) else { return Ok(()) };
        let mut begin = 0;
        while let Some((key, next)) = shared.key_at(begin) {
            self.steps.add(1);
            self.carry(key, piece, begin)?;
            begin = next;
        }
        self.filling.clear(&mut self.contents.arena, piece);
        Ok(())
    }

    /// Carries over the key that begins at a place, if it is needed.
    fn carry(&mut self, key: &str, piece: usize, begin: usize) -> Result<(), Error> {
        let Contents { row, arena, history, .. } = &mut self.contents;
        let origin = Arena::origin(piece, begin);
        let current = row.find(&At::key(key), arena).and_then(|(id, within)| {
            let leaf = row.leaf(id)?;
            let extent = leaf.slot(within)?.extent;
            (extent.origin() == origin).then(|| (id, within, extent, leaf.is_alive(within)))
        });
        // A first key that is dead may have become past, and then is at the same place.
        let past = self.past.at(history, origin, key, arena);
        let found = [current, past].into_iter().flatten();
        let is_alive = found.clone().any(|(.., is_alive)| is_alive);
        let Some((.., extent, _)) = found.max_by_key(|(.., is_alive)| *is_alive) else { return Ok(()) };
        if let Some((id, ..)) = current {
            let _leaf = Upkeep::own(row, id, 0)?;
        }
        if let Some((id, ..)) = past {
            HistoryUpkeep::own(history, id)?;
        }
        let moved = match is_alive {
            true => self.filling.carry(arena, extent)?,
            false => self.filling.carry_dead(arena, extent)?,
        };
        if let Some((id, within, ..)) = past {
            self.past.moved(history, id, within, origin, moved);
        }
        if let Some((id, within, ..)) = current
            && let Some(entry) = row.leaves.sole(id.index()).and_then(|leaf| leaf.slot_mut(within))
        {
            entry.extent = moved;
        }
        Ok(())
    }
}

#[cfg(test)]
mod refusing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod view_tests;
