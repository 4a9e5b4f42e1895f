//! History: the values that keys had and no longer have, as far as a snapshot still has them.
//!
//! A snapshot is a record of the store's own; its revision *s* is when it was taken. A value that a key had from revision
//! *from* until revision *until* belongs to it where *from* < *s* < *until*. Nothing is written when a value becomes past:
//! its record is still in the region, and replay in order finds the same history again. Compaction copies what is past
//! as records of their own, in front of the key's current one.
//!
//! Commits that were made during a copy are replayed behind it, and may be older than what was copied. So:
//! - an interval that ends before it begins is not one, and is not kept: it comes from an older put over a newer copy;
//! - an interval has one place, its key and its beginning: what is found twice is kept once;
//! - while frames that were copied are replayed, nothing is forgotten, because the record of the snapshot that needs it may
//!   follow. Commits have ascending revisions, also those made during a copy, and every copied frame precedes them. So
//!   a snapshot that follows a commit is younger than it, and an interval that has ended by then and that no snapshot needs
//!   is never needed again.
//!
//! A replay forgets such intervals whenever the history has doubled since it last did. So its memory is in proportion to what
//! snapshots need at any one time, and the work to that of loading the records. The running store forgets them when a snapshot is
//! dropped.
//!
//! The values are a [row](crate::row) in the order of their keys and of their beginnings, which views share as they share the
//! row of current values.
//!
//! Invariants
//! - the intervals of a key are in order of their beginnings, and do not overlap but where something was lost.
//! - each interval has one entry in the places of the [upkeep](HistoryUpkeep), by which it is found when its piece of the arena
//!   is cleared.
//! - the totals are those of all intervals; the values are in the arena of the index, which is told what is given up, and
//!   which tells where a value is when it has moved.

use alloc::boxed::Box;
use alloc::collections::btree_map::BTreeMap;
use alloc::collections::btree_set::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::Bound;

use crate::arena::{Arena, Extent, Origin};
use crate::contents::Contents;
use crate::error::Error;
use crate::index::{Kept, Steps, Totals};
use crate::key;
use crate::leaf::{At, Entry, Slot};
use crate::record::{KEPT_HEADER_LEN, PAST_HEADER_LEN, Record, Revision};
use crate::row::{LeafId, Range, Row};
use crate::upkeep::{Place, Upkeep};

/// Bytes that a record is longer when it is past.
const LONGER: u64 = 8;

const _: () = assert!(PAST_HEADER_LEN == KEPT_HEADER_LEN + 8, "that many");

/// A value that a key had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// What the key had, from its revision on.
    entry: Entry,
    until: [u8; 8],
}

const _: () = assert!(size_of::<Past>() == 36, "eight bytes more than an entry");

impl Slot for Past {
    #[inline]
    fn entry(&self) -> &Entry {
        &self.entry
    }

    #[inline]
    fn rank(&self) -> u64 {
        self.from().get()
    }
}

/// Where the history is pruned first while a region is replayed, in bytes of records.
const PRUNE_LEN: u64 = 1 << 20;

/// The snapshots there are.
#[derive(Debug, Clone, Default)]
struct Snapshots {
    names: BTreeMap<Box<str>, Revision>,
    revisions: BTreeSet<Revision>,
}

impl Snapshots {
    /// Whether a snapshot has what a key had then.
    fn need(&self, from: Revision, until: Revision) -> bool {
        let between = (Bound::Excluded(from), Bound::Excluded(until));
        from < until && self.revisions.range(between).next().is_some()
    }
}

/// Superseded values that a snapshot still needs, and the snapshots.
#[derive(Debug, Default)]
pub(crate) struct History {
    snapshots: Arc<Snapshots>,
    past: Row<Past>,
    totals: Totals,
    /// The state of the store before this revision is known whole, whatever is suspect now.
    first_lost: Option<Revision>,
}

/// What is beside the history.
#[derive(Debug, Default)]
pub(crate) struct HistoryUpkeep {
    upkeep: Upkeep,
    places: BTreeMap<Origin, Revision>,
    /// Bytes of records that were left by the last prune.
    pruned_len: u64,
    steps: Steps,
}

impl History {
    /// Returns a copy that shares everything.
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        let (snapshots, past) = (Arc::clone(&self.snapshots), self.past.try_clone()?);
        Ok(Self { snapshots, past, ..*self })
    }

    /// The snapshots there are, by name.
    pub(crate) fn snapshots(&self) -> impl ExactSizeIterator<Item = (&str, Revision)> {
        self.snapshots.names.iter().map(|(name, revision)| (&**name, *revision))
    }

    /// When the snapshot of that name was taken.
    pub(crate) fn snapshot(&self, name: &str) -> Option<Revision> {
        self.snapshots.names.get(name).copied()
    }

    /// Takes note that there is a snapshot of that name.
    pub(crate) fn take(&mut self, name: &str, revision: Revision) {
        self.forget(name);
        let snapshots = Arc::make_mut(&mut self.snapshots);
        snapshots.names.insert(name.into(), revision);
        snapshots.revisions.insert(revision);
    }

    /// Takes note that there is no snapshot of that name. What it alone has stays until [`HistoryUpkeep::prune`].
    pub(crate) fn forget(&mut self, name: &str) {
        if self.snapshots.names.contains_key(name) {
            let snapshots = Arc::make_mut(&mut self.snapshots);
            if let Some(revision) = snapshots.names.remove(name) {
                snapshots.revisions.remove(&revision);
            }
        }
    }

    /// Whether there is nothing that may need what becomes past.
    pub(crate) fn has_no_snapshots(&self) -> bool {
        self.snapshots.revisions.is_empty()
    }

    /// Whether a value of the key that was written with this revision would be kept, were it taken away now.
    pub(crate) fn keeps(&self, key: &str, from: Revision) -> bool {
        key::snapshot_of(key).is_none() && self.snapshots.revisions.last().is_some_and(|last| from < *last)
    }

    /// Whether a snapshot has what a key had from one revision until another.
    pub(crate) fn needs(&self, key: &str, from: Revision, until: Revision) -> bool {
        // A snapshot is there or not; what it was called is nobody's value.
        !self.has_no_snapshots() && key::snapshot_of(key).is_none() && self.snapshots.need(from, until)
    }

    /// Something of this revision, and of later ones, was lost.
    pub(crate) fn lost_from(&mut self, revision: Revision) {
        self.first_lost = Some(revision);
    }

    /// Whether everything is known of what was so at this revision.
    pub(crate) fn is_whole_at(&self, revision: Revision) -> bool {
        self.first_lost.is_none_or(|lost| revision < lost)
    }

    /// What is past.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// The superseded values of a key, in the order of their beginnings; those alone that began after a revision.
    fn values<'a>(
        &'a self,
        key: &'a str,
        after: Option<Revision>,
        arena: &'a Arena,
    ) -> impl Iterator<Item = &'a Past> + use<'a> {
        let rank = after.map_or(Some(0), |after| after.get().checked_add(1));
        let range = rank.map(|rank| {
            let start = At { key: key.as_bytes(), rank };
            self.past.range(arena, Some((start, false)), None)
        });
        range.into_iter().flatten().take_while(move |past| past.key(arena) == key.as_bytes())
    }

    /// Bytes of memory.
    #[cfg(test)]
    pub(crate) fn row(&self) -> &Row<Past> {
        &self.past
    }
}

impl HistoryUpkeep {
    /// Keeps what a key had until then; false if that is kept already.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the history is as it was. Never where it was claimed, but for the place.
    pub(crate) fn insert(
        &mut self,
        history: &mut History,
        key: &str,
        entry: Entry,
        until: Revision,
        arena: &Arena,
    ) -> Result<bool, Error> {
        let past = Past { entry, until: until.get().to_le_bytes() };
        let at = At { key: key.as_bytes(), rank: past.rank() };
        let (id, within) = self.upkeep.resolve(&history.past, Place::UNKNOWN, &at, arena);
        if let Ok(within) = within {
            let leaf = Upkeep::own(&mut history.past, id, 0)?;
            // Where a write in between was lost, one of the two ends too late.
            if let Some(same) = leaf.and_then(|leaf| leaf.slot_mut(within)) {
                same.until = same.until().min(until).get().to_le_bytes();
            }
            return Ok(false);
        }
        let within = within.unwrap_or_else(|within| within);
        let first = history.past.leaf(id).filter(|leaf| leaf.is_first_dead && within == 0);
        if let Some(first) = first.and_then(|leaf| leaf.first()) {
            self.places.remove(&first.entry.extent.origin());
        }
        self.upkeep.insert(&mut history.past, id, within, past, arena)?;
        self.places.insert(entry.extent.origin(), past.from());
        history.totals = history.totals.plus(past.totals());
        Ok(true)
    }

    /// Claims room for a value of this key that may become past; `place` is for [`HistoryUpkeep::release`].
    pub(crate) fn claim(&mut self, history: &mut History, key: &str, arena: &Arena) -> Result<Place, Error> {
        // What becomes past began after all that is past of the key.
        let located = history.past.locate(&At { key: key.as_bytes(), rank: u64::MAX }, arena);
        self.upkeep.claim(&mut history.past, Place::missing_in(located.id), true)
    }

    /// Sees to it that a value of this key can become past without asking for memory, if that is done next.
    pub(crate) fn make_way(&mut self, history: &mut History, key: &str, arena: &Arena) -> Result<(), Error> {
        let located = history.past.locate(&At { key: key.as_bytes(), rank: u64::MAX }, arena);
        self.upkeep.make_way(&mut history.past, located.id, Place::UNKNOWN, usize::MAX).map(drop)
    }

    pub(crate) fn release(&mut self, place: &Place) {
        self.upkeep.release(place);
    }

    pub(crate) fn sweep(&mut self) {
        self.upkeep.sweep();
    }

    pub(crate) fn drop_claims(&mut self) {
        self.upkeep.drop_claims();
    }

    /// Sees to it that what is claimed can be applied, although a view shares everything now.
    pub(crate) fn own_claimed(&mut self, history: &mut History) -> Result<(), Error> {
        self.upkeep.own_claimed(&mut history.past)
    }

    /// Divides and joins leaves.
    pub(crate) fn settle(&mut self, history: &mut History, arena: &Arena) -> Result<(), Error> {
        let places = &mut self.places;
        self.upkeep.settle(&mut history.past, arena, |past| {
            let origin = past.entry.extent.origin();
            // It may have been kept again, elsewhere.
            if places.get(&origin) == Some(&past.from()) {
                places.remove(&origin);
            }
        })
    }

    /// The superseded value whose key begins there: its leaf, its position, and whether it is alive.
    pub(crate) fn at(
        &self,
        history: &History,
        origin: Origin,
        key: &str,
        arena: &Arena,
    ) -> Option<(LeafId, usize, Extent, bool)> {
        let at = At { key: key.as_bytes(), rank: self.places.get(&origin)?.get() };
        let (id, within) = history.past.find(&at, arena)?;
        let leaf = history.past.leaf(id)?;
        let extent = leaf.slot(within)?.entry.extent;
        (extent.origin() == origin).then(|| (id, within, extent, leaf.is_alive(within)))
    }

    /// Sees to it that a value can be moved without asking for memory.
    pub(crate) fn own(history: &mut History, id: LeafId) -> Result<(), Error> {
        Upkeep::own(&mut history.past, id, 0).map(drop)
    }

    /// Takes note that a superseded value has been carried over. Its leaf is owned.
    pub(crate) fn moved(
        &mut self,
        history: &mut History,
        id: LeafId,
        within: usize,
        from: Origin,
        to: Extent,
    ) {
        if let Some(revision) = self.places.remove(&from) {
            self.places.insert(to.origin(), revision);
        }
        let leaf = history.past.leaves.sole(id.index());
        if let Some(past) = leaf.and_then(|leaf| leaf.slot_mut(within)) {
            past.entry.extent = to;
        }
    }

    /// Whether there is so much since the last prune that another one costs no more than loading it did.
    pub(crate) fn is_prune_due(&self, history: &History) -> bool {
        history.totals.record_bytes > self.pruned_len.saturating_mul(2).saturating_add(PRUNE_LEN)
    }

    /// Forgets the values that ended by a revision and that no snapshot needs, and tells which. What cannot be forgotten for
    /// want of memory, because a view shares it, is forgotten by the next prune.
    pub(crate) fn prune(
        &mut self,
        history: &mut History,
        ended_by: Revision,
        arena: &Arena,
        mut give_up: impl FnMut(Entry),
    ) {
        self.steps.add(usize::try_from(history.totals.keys).unwrap_or(usize::MAX));
        let snapshots = Arc::clone(&history.snapshots);
        let is_needed = |past: &Past| past.until() > ended_by || snapshots.need(past.from(), past.until());
        for at in 0..history.past.leaves.len() {
            let id = LeafId(u32::try_from(at).unwrap_or(u32::MAX));
            let Some(leaf) = history.past.leaf(id) else { continue };
            if leaf.alive().iter().all(is_needed) || Upkeep::own(&mut history.past, id, 0).is_err() {
                continue;
            }
            let Some(leaf) = history.past.leaf(id) else { continue };
            let first = leaf.first().filter(|_| leaf.is_alive(0)).map(|first| first.entry.extent.origin());
            for past in leaf.alive().iter().filter(|past| !is_needed(past)) {
                history.totals = history.totals.less(past.totals());
                give_up(past.entry);
                // The first entry stays, dead, until its leaf is settled, and may be carried elsewhere before.
                let origin = past.entry.extent.origin();
                if first != Some(origin) {
                    self.places.remove(&origin);
                }
            }
            // It is owned, so this does not ask for memory.
            let _owned = self.upkeep.retain(&mut history.past, id, is_needed, arena);
        }
        self.pruned_len = history.totals.record_bytes;
    }

    /// All entries, to be changed.
    pub(crate) fn each_entry(history: &mut History, mut each: impl FnMut(&mut Entry)) -> Result<(), Error> {
        for at in 0..history.past.leaves.len() {
            let id = LeafId(u32::try_from(at).unwrap_or(u32::MAX));
            if let Some(leaf) = Upkeep::own(&mut history.past, id, 0)? {
                leaf.slots_mut().iter_mut().for_each(|past| each(&mut past.entry));
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.count() + self.upkeep.steps.count()
    }

    #[cfg(test)]
    pub(crate) fn copied(&self) -> u64 {
        self.upkeep.copied.count()
    }

    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        self.upkeep.memory_len()
    }

    #[cfg(test)]
    pub(crate) fn check(&self, history: &History, arena: &Arena) {
        self.upkeep.check(&history.past, arena);
        let all: BTreeMap<Origin, Revision> =
            history.past.alive().map(|past| (past.entry.extent.origin(), past.from())).collect();
        assert_eq!(all, self.places);
        let totals = history.past.alive().map(Past::totals).fold(Totals::default(), Totals::plus);
        assert_eq!(totals, history.totals);
    }
}

/// What must fit into a region, where so much is current and so much is past. While there are snapshots, any value may become
/// past, and its record is longer then: that much is set aside, so that a delete always fits.
pub(crate) fn charged(live: Totals, past: Totals, has_snapshots: bool) -> Totals {
    let longer = if has_snapshots { live.keys.saturating_mul(LONGER) } else { 0 };
    let all = live.plus(past);
    Totals { record_bytes: all.record_bytes.saturating_add(longer), ..all }
}

impl Past {
    fn from(&self) -> Revision {
        self.entry.revision()
    }

    fn until(&self) -> Revision {
        Revision::from_u64(u64::from_le_bytes(self.until))
    }

    fn kept<'a>(&'a self, arena: &'a Arena) -> Kept<'a> {
        Kept { arena, entry: &self.entry }
    }

    fn record<'a>(&'a self, arena: &'a Arena) -> Record<'a> {
        let kept = self.kept(arena);
        let (key, value, form) = (kept.key(), kept.value(), kept.form());
        Record::Past { key, value, revision: kept.revision(), until: self.until(), form }
    }

    fn totals(&self) -> Totals {
        Totals::of_extent(&self.entry.extent).as_past()
    }
}

impl Totals {
    /// One value that is past.
    pub(crate) fn of_past(key_len: usize, value_len: usize) -> Self {
        Self::of(key_len, value_len).as_past()
    }

    /// The same one value, when it is past.
    pub(crate) fn as_past(self) -> Self {
        Self { record_bytes: self.record_bytes.saturating_add(LONGER), ..self }
    }
}

/// All there is of a key.
pub(crate) struct Versions<'a> {
    pub(crate) key: &'a str,
    past: Option<&'a Contents>,
    live: Option<Kept<'a>>,
}

impl<'a> Versions<'a> {
    /// What the key had at a revision, and no longer has.
    pub(crate) fn past_at(&self, revision: Revision, arena: &'a Arena) -> Option<Kept<'a>> {
        let mut past = self.past_after(None);
        let past = past.find(|past| past.from() < revision && revision < past.until())?;
        Some(past.kept(arena))
    }

    /// The superseded values that began after a revision, or all.
    fn past_after(&self, after: Option<Revision>) -> impl Iterator<Item = &'a Past> + use<'a> {
        let key = self.key;
        let past = self.past.map(|contents| contents.history().values(key, after, contents.arena()));
        past.into_iter().flatten()
    }

    /// What is past, as records.
    pub(crate) fn past_records(&self, arena: &'a Arena) -> impl Iterator<Item = Record<'a>> + use<'a> {
        self.past_after(None).map(|past| past.record(arena))
    }

    /// What is current, as a record.
    pub(crate) fn live_record(&self) -> Option<Record<'a>> {
        self.live.map(|live| live.record())
    }

    /// A key that has this and never had anything else.
    pub(crate) fn only(live: Kept<'a>) -> Self {
        Self { key: live.key(), past: None, live: Some(live) }
    }

    /// What the key has, if it had it then.
    pub(crate) fn live_at(&self, revision: Revision) -> Option<Kept<'a>> {
        self.live.filter(|live| live.revision() < revision)
    }
}

/// Every key that has a value or had one, in order.
pub(crate) struct AllVersions<'a> {
    contents: &'a Contents,
    live: Range<'a, Entry>,
    past: Range<'a, Past>,
}

impl<'a> AllVersions<'a> {
    /// Those from `start` on.
    pub(crate) fn of(contents: &'a Contents, start: Bound<&str>) -> Self {
        let (live, arena) = (contents.entries(start, None), contents.arena());
        let start = match start {
            Bound::Unbounded => None,
            Bound::Included(start) => Some((At::key(start), false)),
            Bound::Excluded(start) => Some((At { rank: u64::MAX, ..At::key(start) }, true)),
        };
        Self { contents, live, past: contents.history().past.range(arena, start, None) }
    }

    /// Passes over all that is past of a key. Of many values it does not look at each.
    fn pass(&mut self, key: &[u8]) {
        const FEW: usize = 8;
        let arena = self.contents.arena();
        for _ in 0..FEW {
            if self.past.peek().is_none_or(|past| past.key(arena) != key) {
                return;
            }
            self.past.next();
        }
        let last = At { key, rank: u64::MAX };
        self.past = self.contents.history().past.range(arena, Some((last, true)), None);
    }
}

impl<'a> Iterator for AllVersions<'a> {
    type Item = Versions<'a>;

    fn next(&mut self) -> Option<Versions<'a>> {
        let arena = self.contents.arena();
        let (live, past) = (self.live.peek(), self.past.peek());
        let order = match (live, past) {
            (Some(live), Some(past)) => live.key(arena).cmp(past.key(arena)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let live = live.filter(|_| order != Ordering::Greater).map(|entry| Kept { arena, entry });
        let past = past.filter(|_| order != Ordering::Less);
        if live.is_some() {
            self.live.next();
        }
        if let Some(past) = past {
            self.pass(past.key(arena));
        }
        let key = live.map(|live| live.key()).or_else(|| past.map(|past| past.kept(arena).key()))?;
        Some(Versions { key, past: past.map(|_| self.contents), live })
    }
}

/// The last record that was copied.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    key: Box<str>,
    /// Where it was past, its beginning: what began later, and what is current, has not been copied.
    past: Option<Revision>,
}

impl Cursor {
    /// Where to look on.
    pub(crate) fn start(after: Option<&Self>) -> Bound<&str> {
        match after {
            None => Bound::Unbounded,
            Some(Self { key, past: None }) => Bound::Excluded(key),
            Some(Self { key, past: Some(_) }) => Bound::Included(key),
        }
    }
}

/// Fills a frame with what comes next, in order, as far as it fits into `len_max` bytes, though at least one record; the last
/// of them, and whether that was all.
///
/// A step ends anywhere among the versions of a key. The next one goes on with those that began later: a value that was
/// current in between and has become past is one of them.
pub(crate) fn gather<'a>(
    all: impl Iterator<Item = Versions<'a>>,
    arena: &'a Arena,
    after: Option<&Cursor>,
    len_max: usize,
    body: &mut Vec<u8>,
) -> Result<(Option<Cursor>, bool), Error> {
    let mut last: Option<(&str, Option<Revision>)> = None;
    let cursor = |last: Option<(&str, Option<Revision>)>| match last {
        Some((key, past)) => Some(Cursor { key: key.into(), past }),
        None => after.cloned(),
    };
    for versions in all {
        let done = after.filter(|after| *after.key == *versions.key).and_then(|after| after.past);
        for past in versions.past_after(done) {
            let len = past.kept(arena).record_len() + PAST_HEADER_LEN - KEPT_HEADER_LEN;
            if body.len() + len > len_max && !body.is_empty() {
                return Ok((cursor(last), false));
            }
            past.record(arena).encode(body)?;
            last = Some((versions.key, Some(past.from())));
        }
        let Some(live) = versions.live else { continue };
        if body.len() + live.record_len() > len_max && !body.is_empty() {
            return Ok((cursor(last), false));
        }
        live.record().encode(body)?;
        last = Some((versions.key, None));
    }
    Ok((cursor(last), true))
}
