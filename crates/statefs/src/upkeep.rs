//! Upkeep of a row: what changes its leaves, and what is counted beside them.
//!
//! Leaves and bunches are shared with views. A shared one is copied before it is changed, so nothing here is counted in them:
//! claims, stamps and leaves that are due for division are beside the row, by the number of the leaf.
//!
//! Room for what is applied later is claimed in the leaf that its key belongs into. A leaf with claims is not divided, joined
//! or taken out, and its first key stays, dead or not. So the claims are where they are needed, whatever is applied before.
//! A leaf with claims is owned by the row alone and has room for them, until a view is taken: [`Upkeep::own_claimed`] copies
//! it then.
//!
//! Invariants
//! - a leaf has room for as many more entries as are claimed in it.
//! - a first entry that is dead, and a leaf that is empty but for that, stay only while something is claimed in the leaf.
//! - a leaf that is not in the row is free, and has no entries. There is memory for the numbers of all leaves in each list.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::arena::Arena;
use crate::error::Error;
use crate::heads::{Heads, first_difference};
use crate::index::Steps;
use crate::leaf::{At, LEAF_MAX, Leaf, Slot};
use crate::row::{Bunch, LeafId, Located, Row, Spot};

/// The most leaves of a bunch.
const BUNCH_MAX: usize = 256;

/// What is noted about a leaf.
#[derive(Debug, Clone, Copy, Default)]
struct Note {
    /// Records that will be applied to it.
    claims: u32,
    /// Entries that they may add, and entries that were taken out since, which they may put back: at most one for a record.
    room: u32,
    /// Changes whenever an entry comes or goes, and when the leaf becomes another one.
    stamp: u32,
    is_unsettled: bool,
}

/// Where an entry is or will be, as it was found. It is right as long as the stamp of the leaf is the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) leaf: LeafId,
    stamp: u32,
    /// Twice the position, and 1 if the entry is missing.
    within: u32,
    has_claim: bool,
    has_room: bool,
}

impl Place {
    /// Not known.
    pub(crate) const UNKNOWN: Self =
        Self { leaf: LeafId::NONE, stamp: 0, within: 1, has_claim: false, has_room: false };

    /// Somewhere in a leaf, for an entry that is missing.
    pub(crate) fn missing_in(leaf: LeafId) -> Self {
        Self { leaf, ..Self::UNKNOWN }
    }

    /// The position in the leaf.
    pub(crate) fn position(&self) -> usize {
        room_of(self.within / 2)
    }

    /// Whether the entry was missing.
    pub(crate) fn is_missing(&self) -> bool {
        !self.within.is_multiple_of(2)
    }
}

/// What is beside a row.
#[derive(Debug)]
pub(crate) struct Upkeep {
    notes: Vec<Note>,
    free: Vec<LeafId>,
    /// Leaves that may be too long, too short or begin with what is dead.
    unsettled: Vec<LeafId>,
    /// Leaves in which something is claimed, and some in which nothing is any more.
    claimed: Vec<LeafId>,
    /// Whether a claim may put an entry in front of all others.
    claims_first: bool,
    bunch_max: usize,
    /// Bytes of bunches that were copied because a view shared them, in tests.
    pub(crate) copied: Steps,
    pub(crate) steps: Steps,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self::with_bunches_of(BUNCH_MAX)
    }
}

fn room_of(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// What has no number is refused by [`Upkeep::reserve_leaf`].
fn number_of(index: usize) -> LeafId {
    LeafId(u32::try_from(index).unwrap_or(u32::MAX))
}

impl Upkeep {
    /// The upkeep of an empty row whose bunches have at most so many leaves.
    pub(crate) fn with_bunches_of(bunch_max: usize) -> Self {
        Self {
            notes: Vec::new(),
            free: Vec::new(),
            unsettled: Vec::new(),
            claimed: Vec::new(),
            claims_first: false,
            bunch_max,
            copied: Steps::default(),
            steps: Steps::default(),
        }
    }

    fn note(&self, id: LeafId) -> Note {
        self.notes.get(id.index()).copied().unwrap_or_default()
    }

    fn note_mut(&mut self, id: LeafId) -> Option<&mut Note> {
        self.notes.get_mut(id.index())
    }

    fn stamp(&mut self, id: LeafId) {
        if let Some(note) = self.note_mut(id) {
            note.stamp = note.stamp.wrapping_add(1);
        }
    }

    /// Leaves that are looked at by the next [`Upkeep::settle`]. There is memory for all of them.
    fn unsettle(&mut self, id: LeafId) {
        if let Some(note) = self.notes.get_mut(id.index())
            && !mem::replace(&mut note.is_unsettled, true)
        {
            self.unsettled.push(id);
        }
    }

    /// Returns where something is, to be remembered.
    pub(crate) fn place(&self, located: &Located) -> Place {
        let (at, missing) = match located.within {
            Ok(at) => (at, 0),
            Err(at) => (at, 1),
        };
        let within = u32::try_from(at * 2 + missing).unwrap_or(u32::MAX);
        let stamp = self.note(located.id).stamp;
        Place { leaf: located.id, stamp, within, has_claim: false, has_room: false }
    }

    /// Returns the place of an entry that was found at once.
    pub(crate) fn place_found(&self, (id, within): (LeafId, usize)) -> Place {
        self.place(&Located { spot: Spot::END, id, within: Ok(within) })
    }

    /// Returns where an entry is or will be, dead or not. A place that is claimed is looked for in its leaf only.
    pub(crate) fn resolve<S: Slot>(
        &self,
        row: &Row<S>,
        place: Place,
        at: &At<'_>,
        arena: &Arena,
    ) -> (LeafId, Result<usize, usize>) {
        let leaf = if place.leaf == LeafId::NONE { None } else { row.leaf(place.leaf) };
        let Some(leaf) = leaf else {
            let Located { id, within, .. } = row.locate(at, arena);
            return (id, row.alive_or_missing(id, within));
        };
        if self.note(place.leaf).stamp == place.stamp {
            let within = place.position();
            return (place.leaf, if place.is_missing() { Err(within) } else { Ok(within) });
        }
        (place.leaf, row.alive_or_missing(place.leaf, leaf.search(at, arena)))
    }

    /// The number of the leaf that is put into the row next.
    fn next_id(&self) -> LeafId {
        self.free.last().copied().unwrap_or_else(|| number_of(self.notes.len()))
    }

    /// Sees to it that there is a free leaf.
    fn reserve_leaf<S: Slot>(&mut self, row: &mut Row<S>) -> Result<(), Error> {
        if let Some(id) = self.free.last() {
            if row.leaf(*id).is_none() {
                row.leaves.set(id.index(), Some(Arc::new(Leaf::default())));
            }
            return Ok(());
        }
        let count = self.notes.len() + 1;
        let len = size_of::<Note>() + 3 * size_of::<LeafId>();
        let no_memory = |_| Error::NoMemory { len };
        if u32::try_from(count).is_err() {
            return Err(Error::NoMemory { len });
        }
        self.notes.try_reserve(1).map_err(no_memory)?;
        // A leaf is taken out, and noted in each list, without asking for memory.
        for list in [&mut self.free, &mut self.unsettled, &mut self.claimed] {
            list.try_reserve(count - list.len()).map_err(no_memory)?;
        }
        row.leaves.reserve()?;
        self.free.push(number_of(self.notes.len()));
        self.notes.push(Note::default());
        row.leaves.push(Some(Arc::new(Leaf::default())));
        Ok(())
    }

    /// Sees to it that an empty row can be begun.
    pub(crate) fn prepare<S: Slot>(&mut self, row: &mut Row<S>) -> Result<(), Error> {
        if !row.is_empty() {
            return Ok(());
        }
        self.reserve_leaf(row)?;
        if row.bunches.is_empty() {
            let len = size_of::<Arc<Bunch>>();
            row.bunches.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
            row.bunches.push(Arc::new(Bunch::default()));
        }
        row.heads.reserve(1)?;
        self.own_bunch(row, 0, 1).map(drop)
    }

    /// Returns a bunch to be changed, with room for so many leaves more.
    fn own_bunch<'r, S: Slot>(
        &mut self,
        row: &'r mut Row<S>,
        at: usize,
        room: usize,
    ) -> Result<Option<&'r mut Bunch>, Error> {
        let Some(bunch) = row.bunches.get_mut(at) else { return Ok(None) };
        if Arc::strong_count(bunch) > 1 {
            let (fresh, len) = bunch.try_clone(room)?;
            self.copied.add(len);
            *bunch = Arc::new(fresh);
        }
        let Some(bunch) = Arc::get_mut(bunch) else { return Ok(None) };
        if bunch.ids.capacity() - bunch.ids.len() < room || bunch.heads.room() < room {
            bunch.reserve(room)?;
        }
        Ok(Some(bunch))
    }

    /// Returns a leaf to be changed, with room for so many entries more.
    pub(crate) fn own<S: Slot>(
        row: &mut Row<S>,
        id: LeafId,
        room: usize,
    ) -> Result<Option<&mut Leaf<S>>, Error> {
        let Some(leaf) = row.leaves.own(id.index(), |leaf| leaf.try_clone(room))? else { return Ok(None) };
        leaf.reserve(room)?;
        Ok(Some(leaf))
    }

    /// Claims a leaf for a record, and room for an entry if it `adds` one that is missing.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: nothing is claimed.
    pub(crate) fn claim<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        mut place: Place,
        adds: bool,
    ) -> Result<Place, Error> {
        if place.leaf == LeafId::NONE {
            self.prepare(row)?;
            place.leaf = self.next_id();
            place.stamp = self.note(place.leaf).stamp.wrapping_sub(1);
        }
        let adds = adds && place.is_missing();
        let note = self.note(place.leaf);
        let room = note.room.saturating_add(u32::from(adds)).min(note.claims.saturating_add(1));
        let leaf = Self::own(row, place.leaf, room_of(room))?;
        let may_be_first = adds && (place.within < 2 || leaf.is_none_or(|leaf| leaf.len() == 0));
        if may_be_first {
            let _bunch = self.own_bunch(row, 0, 0)?;
            self.claims_first = true;
        }
        if let Some(note) = self.notes.get_mut(place.leaf.index()) {
            if note.claims == 0 {
                self.claimed.push(place.leaf);
            }
            note.claims += 1;
            note.room = room;
        }
        Ok(Place { has_claim: true, has_room: adds, ..place })
    }

    /// Sees to it that the leaf of one entry can be changed without asking for memory if that is done next. An entry that
    /// was not claimed leaves the room of those that were.
    pub(crate) fn make_way<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        id: LeafId,
        place: Place,
        within: usize,
    ) -> Result<LeafId, Error> {
        self.prepare(row)?;
        let id = if id == LeafId::NONE { self.next_id() } else { id };
        let claimed = if place.has_claim { 0 } else { room_of(self.note(id).room) };
        let _leaf = Self::own(row, id, claimed.saturating_add(Self::needed(row, id, within)))?;
        Ok(id)
    }

    /// How much room an entry needs: what comes first takes the place of a first entry that is dead.
    fn needed<S: Slot>(row: &Row<S>, id: LeafId, within: usize) -> usize {
        let replaces = within == 0 && row.leaf(id).is_some_and(|leaf| leaf.is_first_dead);
        usize::from(!replaces)
    }

    /// Releases what was claimed for a record. [`Upkeep::sweep`] follows.
    pub(crate) fn release(&mut self, place: &Place) {
        if let Some(note) = self.notes.get_mut(place.leaf.index()).filter(|_| place.has_claim) {
            note.claims = note.claims.saturating_sub(1);
            note.room = note.room.saturating_sub(u32::from(place.has_room));
            note.room = note.room.min(note.claims);
        }
    }

    /// Forgets the leaves in which nothing is claimed any more.
    pub(crate) fn sweep(&mut self) {
        self.claimed.retain(|id| self.notes.get(id.index()).is_some_and(|note| note.claims > 0));
        self.claims_first &= !self.claimed.is_empty();
    }

    /// Drops all claims.
    pub(crate) fn drop_claims(&mut self) {
        for id in &self.claimed {
            if let Some(note) = self.notes.get_mut(id.index()) {
                (note.claims, note.room) = (0, 0);
            }
        }
        self.claimed.clear();
        self.claims_first = false;
    }

    /// Sees to it that what is claimed can be applied, although a view shares everything now.
    pub(crate) fn own_claimed<S: Slot>(&mut self, row: &mut Row<S>) -> Result<(), Error> {
        for at in 0..self.claimed.len() {
            let Some(id) = self.claimed.get(at).copied() else { break };
            // A record that claimed no room may need that of an entry that was taken out meanwhile.
            let _leaf = Self::own(row, id, room_of(self.note(id).claims))?;
        }
        if self.claims_first {
            let _bunch = self.own_bunch(row, 0, usize::from(row.is_empty()))?;
        }
        Ok(())
    }

    /// Puts an entry into a leaf, in which it is missing.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the row is as it was. Never where room was claimed.
    pub(crate) fn insert<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        id: LeafId,
        within: usize,
        slot: S,
        arena: &Arena,
    ) -> Result<(), Error> {
        let id = if id == LeafId::NONE {
            // Where this was claimed, it was prepared.
            self.prepare(row)?;
            self.next_id()
        } else {
            id
        };
        let begins = row.is_empty();
        // A first entry that is dead and has this key is revived, and its head stays.
        let is_first = |leaf: &Leaf<S>| {
            leaf.is_first_dead && leaf.first().is_some_and(|first| first.key(arena) == slot.key(arena))
        };
        let may_be_first = within == 0 && !row.leaf(id).is_some_and(is_first);
        if may_be_first {
            let _bunch = self.own_bunch(row, 0, usize::from(begins))?;
        }
        let needed = Self::needed(row, id, within);
        let Some(leaf) = Self::own(row, id, needed)? else { return Ok(()) };
        leaf.insert(within, slot, arena);
        let is_long = leaf.len() > LEAF_MAX;
        if begins {
            self.begin(row, id, arena);
        }
        if is_long {
            self.unsettle(id);
        }
        self.stamp(id);
        if may_be_first && !begins {
            let spot = row.spot_of_leaf(id, arena);
            self.take_head(row, spot, arena)?;
        }
        Ok(())
    }

    /// Begins an empty row, which has been prepared, with a leaf.
    fn begin<S: Slot>(&mut self, row: &mut Row<S>, id: LeafId, arena: &Arena) {
        if self.free.last() == Some(&id) {
            self.free.pop();
        }
        let key = row.first_key(id, arena);
        row.heads.forget_places();
        row.heads.truncate(0);
        row.heads.insert(0, key);
        let bunch = row.bunches.first_mut().and_then(Arc::get_mut);
        if let Some(bunch) = bunch {
            bunch.heads.forget_places();
            bunch.heads.truncate(0);
            bunch.heads.insert(0, key);
            bunch.ids.clear();
            bunch.ids.push(id);
        }
    }

    /// Takes an entry out.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the row is as it was. Never where it was claimed.
    pub(crate) fn remove<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        id: LeafId,
        within: usize,
    ) -> Result<(), Error> {
        let Some(leaf) = Self::own(row, id, 0)? else { return Ok(()) };
        leaf.remove(within);
        if leaf.is_first_dead || leaf.len() < LEAF_MAX / 4 {
            self.unsettle(id);
        }
        // A record that found this entry claimed no room, and may put it back.
        if let Some(note) = self.note_mut(id) {
            note.room = note.room.saturating_add(1).min(note.claims);
        }
        self.stamp(id);
        Ok(())
    }

    /// Keeps the entries of a leaf that `is_kept` says.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the row is as it was.
    pub(crate) fn retain<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        id: LeafId,
        is_kept: impl Fn(&S) -> bool,
        arena: &Arena,
    ) -> Result<(), Error> {
        if let Some(leaf) = Self::own(row, id, 0)? {
            leaf.retain(is_kept, arena);
            self.unsettle(id);
            self.stamp(id);
        }
        Ok(())
    }

    /// Takes note that the first key of a leaf has changed, or that the leaf is new. Its bunch is owned.
    fn take_head<S: Slot>(&mut self, row: &mut Row<S>, spot: Spot, arena: &Arena) -> Result<(), Error> {
        if self.own_bunch(row, spot.bunch, 0)?.is_none() {
            return Ok(());
        }
        let Row { leaves, bunches, heads } = row;
        let first_key = |id: &LeafId| {
            leaves.get(id.index()).and_then(Leaf::first).map_or(&[][..], |slot| slot.key(arena))
        };
        let last_key = |id: &LeafId| leaves.get(id.index()).and_then(Leaf::last).map(|slot| slot.key(arena));
        let before = spot.bunch.checked_sub(1).and_then(|before| bunches.get(before)?.ids.last()).copied();
        let next_bunch = bunches.get(spot.bunch + 1).and_then(|bunch| bunch.ids.first()).copied();
        let bunch_before =
            spot.bunch.checked_sub(1).and_then(|before| bunches.get(before)?.ids.first()).copied();
        let Some(bunch) = bunches.get_mut(spot.bunch).and_then(Arc::get_mut) else { return Ok(()) };
        let Some(id) = bunch.ids.get(spot.leaf) else { return Ok(()) };
        let key = first_key(id);
        let neighbours =
            |heads: &mut Heads, before: Option<&LeafId>, next: Option<&LeafId>, last: Option<&LeafId>| {
                let before = before.is_some_and(|id| heads.distinguish(first_difference(first_key(id), key)));
                let next = next.is_some_and(|id| heads.distinguish(first_difference(key, first_key(id))));
                // What the leaf before ends with is told from this key by its head, if there is a place for that.
                let last = last.and_then(last_key);
                let last = last.is_some_and(|last| heads.suggest(first_difference(last, key)));
                before || next || last
            };
        let Bunch { heads: bunch_heads, ids } = bunch;
        let leaf_before = spot.leaf.checked_sub(1).and_then(|before| ids.get(before));
        let last = leaf_before.or(before.as_ref());
        if neighbours(bunch_heads, leaf_before, ids.get(spot.leaf + 1), last) {
            self.steps.add(ids.len());
            bunch_heads.retake(ids.iter().map(first_key));
        } else {
            bunch_heads.set(spot.leaf, key);
        }
        if spot.leaf > 0 {
            return Ok(());
        }
        if neighbours(heads, bunch_before.as_ref(), next_bunch.as_ref(), before.as_ref()) {
            self.steps.add(bunches.len());
            heads.retake(bunches.iter().filter_map(|bunch| bunch.ids.first()).map(first_key));
        } else {
            heads.set(spot.bunch, key);
        }
        Ok(())
    }

    /// Sees to it that a leaf can be put in behind another one; where it will be. The other one may be elsewhere then.
    fn make_room_after<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        spot: Spot,
        arena: &Arena,
    ) -> Result<Spot, Error> {
        self.reserve_leaf(row)?;
        let spot = self.make_way_for_leaf(row, Spot { leaf: spot.leaf + 1, ..spot }, arena)?;
        let _bunch = self.own_bunch(row, spot.bunch, 1)?;
        Ok(spot)
    }

    /// Where a leaf can be put in that belongs there: a full bunch is divided, at the end of the row behind what it has,
    /// because there most often more is added.
    fn make_way_for_leaf<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        spot: Spot,
        arena: &Arena,
    ) -> Result<Spot, Error> {
        let is_last = spot.bunch + 1 == row.bunches.len();
        let bunch_max = self.bunch_max;
        let Some(count) = row.bunches.get(spot.bunch).map(|bunch| bunch.ids.len()) else { return Ok(spot) };
        if count < bunch_max {
            return Ok(spot);
        }
        let cut = if is_last && spot.leaf == count { count - 1 } else { count / 2 };
        let len = size_of::<Arc<Bunch>>();
        row.bunches.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        row.heads.reserve(1)?;
        let mut behind = Bunch::default();
        behind.reserve(bunch_max)?;
        let Some(bunch) = self.own_bunch(row, spot.bunch, 0)? else { return Ok(spot) };
        behind.ids.extend(bunch.ids.drain(cut..));
        bunch.heads.truncate(cut);
        behind.heads.resize(behind.ids.len());
        let next = spot.bunch + 1;
        self.steps.add(behind.ids.len() + row.bunches.len() - next);
        let first = behind.ids.first().copied().unwrap_or(LeafId::NONE);
        for (one, other) in behind.ids.iter().zip(behind.ids.iter().skip(1)) {
            let [one, other] = [one, other].map(|id| row.first_key(*id, arena));
            let _changed = behind.heads.distinguish(first_difference(one, other));
        }
        behind.heads.retake(behind.ids.iter().map(|id| row.first_key(*id, arena)));
        let key = row.first_key(first, arena);
        row.heads.insert(next, key);
        row.bunches.insert(next, Arc::new(behind));
        self.take_head(row, Spot { bunch: next, leaf: 0 }, arena)?;
        match spot.leaf.checked_sub(cut) {
            Some(leaf) if leaf > 0 => Ok(Spot { bunch: next, leaf }),
            Some(_) | None => Ok(spot),
        }
    }

    /// Puts a leaf where there is room for one.
    fn put_in<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        spot: Spot,
        leaf: Leaf<S>,
        arena: &Arena,
    ) -> Result<LeafId, Error> {
        let Some(id) = self.free.pop() else { return Ok(LeafId::NONE) };
        let key = leaf.first().map_or(&[][..], |slot| slot.key(arena));
        row.leaves.set(id.index(), Some(Arc::new(leaf)));
        self.stamp(id);
        let Some(bunch) = row.bunches.get_mut(spot.bunch).and_then(Arc::get_mut) else { return Ok(id) };
        self.steps.add(bunch.ids.len() - spot.leaf);
        bunch.ids.insert(spot.leaf, id);
        bunch.heads.insert(spot.leaf, key);
        self.take_head(row, spot, arena)?;
        Ok(id)
    }

    /// Takes out a leaf that is empty, or whose entries are elsewhere.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the row is as it was.
    fn take_out<S: Slot>(&mut self, row: &mut Row<S>, spot: Spot, arena: &Arena) -> Result<(), Error> {
        let Some(bunch) = self.own_bunch(row, spot.bunch, 0)? else { return Ok(()) };
        if spot.leaf >= bunch.ids.len() {
            return Ok(());
        }
        let count = bunch.ids.len() - spot.leaf;
        let id = bunch.ids.remove(spot.leaf);
        bunch.heads.remove(spot.leaf);
        self.steps.add(count);
        match row.bunches.get(spot.bunch).map(|bunch| bunch.ids.len()) {
            Some(1..) if spot.leaf == 0 => self.take_head(row, spot, arena)?,
            Some(1..) => {}
            Some(0) | None => {
                self.steps.add(row.bunches.len() - spot.bunch);
                row.heads.remove(spot.bunch);
                if row.bunches.len() > 1 {
                    drop(row.bunches.remove(spot.bunch));
                }
            }
        }
        row.leaves.set(id.index(), None);
        self.stamp(id);
        self.free.push(id);
        Ok(())
    }

    /// Divides and joins leaves in which nothing is claimed. What cannot be done for want of memory is left as it is. `gone`
    /// is told the first entries that were dead.
    pub(crate) fn settle<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        arena: &Arena,
        mut gone: impl FnMut(&S),
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        self.unsettled.sort_unstable();
        let (mut at, mut kept) = (0, 0);
        while let Some(id) = self.unsettled.get(at).copied() {
            let settled = match self.note(id).claims {
                0 => Some(self.settle_leaf(row, id, arena, &mut gone)),
                _ => None,
            };
            if let (Some(Ok(())), Some(note)) = (&settled, self.note_mut(id)) {
                note.is_unsettled = false;
            } else {
                self.unsettled.swap(kept, at);
                kept += 1;
            }
            outcome = mem::replace(&mut outcome, Ok(())).and(settled.unwrap_or(Ok(())));
            at += 1;
        }
        self.unsettled.truncate(kept);
        outcome
    }

    /// Nothing is claimed in it.
    fn settle_leaf<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        id: LeafId,
        arena: &Arena,
        gone: &mut impl FnMut(&S),
    ) -> Result<(), Error> {
        let Some(leaf) = row.leaf(id).filter(|leaf| leaf.len() > 0) else { return Ok(()) };
        let (is_first_dead, len) = (leaf.is_first_dead, leaf.len());
        let mut spot = row.spot_of_leaf(id, arena);
        if is_first_dead && len == 1 {
            if let Some(first) = leaf.first() {
                gone(first);
            }
            return self.take_out(row, spot, arena);
        }
        if is_first_dead {
            let _bunch = self.own_bunch(row, spot.bunch, 0)?;
            if let Some(first) = Self::own(row, id, 0)?.and_then(Leaf::settle) {
                gone(&first);
            }
            self.stamp(id);
            self.take_head(row, spot, arena)?;
            spot = row.spot_of_leaf(id, arena);
        }
        match row.leaf(id).map_or(0, Leaf::len) {
            len if len > LEAF_MAX => self.divide(row, id, spot, arena),
            len if len < LEAF_MAX / 4 => self.join(row, spot, arena),
            _ => Ok(()),
        }
    }

    /// Into leaves that are equally long; at the end of the row into full ones, because there most often more is added.
    fn divide<S: Slot>(
        &mut self,
        row: &mut Row<S>,
        mut id: LeafId,
        mut spot: Spot,
        arena: &Arena,
    ) -> Result<(), Error> {
        let is_last = Some(spot) == row.last();
        while let Some(len) = row.leaf(id).map(Leaf::len).filter(|len| *len > LEAF_MAX) {
            let cut = if is_last { LEAF_MAX } else { len.div_ceil(len.div_ceil(LEAF_MAX)) };
            let room = if is_last { LEAF_MAX.saturating_sub(len - cut) } else { 0 };
            let behind_at = self.make_room_after(row, spot, arena)?;
            let Some(leaf) = Self::own(row, id, 0)? else { return Ok(()) };
            let behind = leaf.split_off(cut, room, arena)?;
            self.stamp(id);
            let next = self.put_in(row, behind_at, behind, arena)?;
            (id, spot) = (next, behind_at);
        }
        Ok(())
    }

    /// With a neighbour, if both together are not long.
    fn join<S: Slot>(&mut self, row: &mut Row<S>, spot: Spot, arena: &Arena) -> Result<(), Error> {
        for left in [Some(spot), row.before(spot)].into_iter().flatten() {
            let right = row.next(left);
            let (Some(one_id), Some(other_id)) = (row.id(left), row.id(right)) else { continue };
            let (Some(one), Some(other)) = (row.leaf(one_id), row.leaf(other_id)) else { continue };
            // One of them may begin with what is dead, and its turn will come.
            let is_settled = |leaf: &Leaf<S>, id: LeafId| !leaf.is_first_dead && self.note(id).claims == 0;
            if !is_settled(one, one_id)
                || !is_settled(other, other_id)
                || one.len() + other.len() > LEAF_MAX / 2
            {
                continue;
            }
            let joined = one.joined(other, arena)?;
            self.take_out(row, right, arena)?;
            row.leaves.set(one_id.index(), Some(Arc::new(joined)));
            self.stamp(one_id);
            break;
        }
        Ok(())
    }

    /// Bytes that a view copies of a row beside what is shared.
    #[cfg(test)]
    pub(crate) fn list_len<S: Slot>(row: &Row<S>) -> usize {
        row.leaves.list_len()
            + row.bunches.len() * size_of::<Arc<Bunch>>()
            + row.heads.len() * size_of::<u64>()
    }

    /// Bytes of memory, and what there is room for.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        self.notes.capacity() * size_of::<Note>()
            + [&self.free, &self.unsettled, &self.claimed]
                .map(|list| list.capacity() * size_of::<LeafId>())
                .iter()
                .sum::<usize>()
    }

    #[cfg(test)]
    pub(crate) fn check<S: Slot>(&self, row: &Row<S>, arena: &Arena) {
        row.check(self.bunch_max, arena);
        let ids = || row.bunches.iter().flat_map(|bunch| &bunch.ids);
        assert_eq!(row.leaves.len(), self.notes.len());
        let mut all: Vec<LeafId> = ids().chain(&self.free).copied().collect();
        assert_eq!(all.len(), self.notes.len());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), self.notes.len(), "each is in the row or free");
        assert!(self.free.iter().all(|id| row.leaf(*id).is_none_or(|leaf| leaf.len() == 0)));
        for list in [&self.free, &self.unsettled, &self.claimed] {
            assert!(list.capacity() >= self.notes.len(), "{} {}", list.capacity(), self.notes.len());
        }
        for id in ids() {
            let (leaf, note) = (row.leaf(*id).unwrap(), self.note(*id));
            assert!(leaf.room() >= room_of(note.room));
            assert!(note.claims > 0 || !leaf.is_first_dead && leaf.len() <= LEAF_MAX);
        }
    }
}

#[cfg(test)]
impl Upkeep {
    /// Whether anything is claimed.
    pub(crate) fn has_claims(&self) -> bool {
        self.notes.iter().any(|note| note.claims > 0 || note.room > 0) || !self.claimed.is_empty()
    }
}
