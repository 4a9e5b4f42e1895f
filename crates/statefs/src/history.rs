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
//! Invariants
//! - the intervals of a key are in order of their beginnings, and do not overlap but where something was lost.
//! - each interval has one entry in `places`, by which it is found when its piece of the arena is cleared.
//! - the totals are those of all intervals; the values stand in the arena of the index, which is told what is given up, and
//!   which tells where a value is when it has moved.

use alloc::boxed::Box;
use alloc::collections::btree_map::{self, BTreeMap};
use alloc::collections::btree_set::BTreeSet;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::iter::Peekable;
use core::ops::Bound;

use crate::arena::{Arena, Extent, Origin};
use crate::error::Error;
use crate::index::{Kept, Steps, Totals};
use crate::key;
use crate::leaf::Entry;
use crate::record::{KEPT_HEADER_LEN, PAST_HEADER_LEN, Record, Revision};

/// Bytes that a record is longer when it is past.
const LONGER: u64 = 8;

const _: () = assert!(PAST_HEADER_LEN == KEPT_HEADER_LEN + 8, "that many");

/// A value that a key had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// What the key had, from its revision on.
    entry: Entry,
    until: Revision,
}

/// The number of a key that has superseded values. It is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct KeyNumber(u64);

/// Where the history is pruned first while a region is replayed, in bytes of records.
const PRUNE_LEN: u64 = 1 << 20;

/// Superseded values that a snapshot still needs, and the snapshots.
#[derive(Debug, Default)]
pub(crate) struct History {
    snapshots: BTreeMap<Box<str>, Revision>,
    revisions: BTreeSet<Revision>,
    keys: BTreeMap<Box<str>, KeyNumber>,
    /// How many numbers have been given to keys.
    numbers: u64,
    past: BTreeMap<(KeyNumber, Revision), Past>,
    places: BTreeMap<Origin, (KeyNumber, Revision)>,
    totals: Totals,
    /// Bytes of records that were left by the last prune.
    pruned_len: u64,
    /// The state of the store before this revision is known whole, whatever is suspect now.
    first_lost: Option<Revision>,
    pub(crate) steps: Steps,
}

impl History {
    /// The snapshots there are, by name.
    pub(crate) fn snapshots(&self) -> impl ExactSizeIterator<Item = (&str, Revision)> {
        self.snapshots.iter().map(|(name, revision)| (&**name, *revision))
    }

    /// When the snapshot of that name was taken.
    pub(crate) fn snapshot(&self, name: &str) -> Option<Revision> {
        self.snapshots.get(name).copied()
    }

    /// Takes note that there is a snapshot of that name.
    pub(crate) fn take(&mut self, name: &str, revision: Revision) {
        self.forget(name);
        self.snapshots.insert(name.into(), revision);
        self.revisions.insert(revision);
    }

    /// Takes note that there is no snapshot of that name. What it alone has stays until [`History::prune`].
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(revision) = self.snapshots.remove(name) {
            self.revisions.remove(&revision);
        }
    }

    /// Whether there is nothing that may need what becomes past.
    pub(crate) fn has_no_snapshots(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Whether a snapshot has what a key had then.
    fn is_needed(&self, from: Revision, until: Revision) -> bool {
        let between = (Bound::Excluded(from), Bound::Excluded(until));
        from < until && self.revisions.range(between).next().is_some()
    }

    /// Whether a value of the key that was written with this revision would be kept, were it taken away now.
    pub(crate) fn keeps(&self, key: &str, from: Revision) -> bool {
        key::snapshot_of(key).is_none() && self.revisions.last().is_some_and(|last| from < *last)
    }

    /// Whether a snapshot has what a key had from one revision until another.
    pub(crate) fn needs(&self, key: &str, from: Revision, until: Revision) -> bool {
        // A snapshot is there or not; what it was called is nobody's value.
        !self.has_no_snapshots() && key::snapshot_of(key).is_none() && self.is_needed(from, until)
    }

    /// Keeps what a key had until then; false if that is kept already.
    pub(crate) fn insert(&mut self, key: &str, entry: Entry, until: Revision) -> bool {
        let past = Past { entry, until };
        let number = match self.keys.get(key) {
            Some(number) => *number,
            None => {
                self.numbers += 1;
                self.keys.insert(key.into(), KeyNumber(self.numbers));
                KeyNumber(self.numbers)
            }
        };
        match self.past.entry((number, past.from())) {
            btree_map::Entry::Occupied(mut same) => {
                // Where a write in between was lost, one of the two ends too late.
                let same = same.get_mut();
                same.until = same.until.min(until);
                false
            }
            btree_map::Entry::Vacant(slot) => {
                slot.insert(past);
                self.places.insert(entry.extent.origin(), (number, past.from()));
                self.totals = self.totals.plus(past.totals());
                true
            }
        }
    }

    /// The superseded value whose key begins there.
    pub(crate) fn extent_at(&self, origin: Origin) -> Option<Extent> {
        let past = self.past.get(self.places.get(&origin)?)?;
        Some(past.entry.extent)
    }

    /// Takes note that a superseded value has been carried over.
    pub(crate) fn moved(&mut self, from: Origin, to: Extent) {
        if let Some(at) = self.places.remove(&from) {
            self.places.insert(to.origin(), at);
            if let Some(past) = self.past.get_mut(&at) {
                past.entry.extent = to;
            }
        }
    }

    /// All entries that are past.
    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.past.values_mut().map(|past| &mut past.entry)
    }

    /// Whether there is so much since the last prune that another one costs no more than loading it did.
    pub(crate) fn is_prune_due(&self) -> bool {
        self.totals.record_bytes > self.pruned_len.saturating_mul(2).saturating_add(PRUNE_LEN)
    }

    /// Forgets the values that ended by a revision and that no snapshot needs, and tells which.
    pub(crate) fn prune(&mut self, ended_by: Revision, mut give_up: impl FnMut(Entry)) {
        self.steps.add(self.past.len());
        let mut past = core::mem::take(&mut self.past);
        past.retain(|(_, from), past| {
            let is_needed = past.until > ended_by || self.is_needed(*from, past.until);
            if !is_needed {
                self.totals = self.totals.less(past.totals());
                self.places.remove(&past.entry.extent.origin());
                give_up(past.entry);
            }
            is_needed
        });
        self.keys.retain(|_, number| values(&past, *number, None).next().is_some());
        self.past = past;
        self.pruned_len = self.totals.record_bytes;
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
}

/// The superseded values of a key, in the order of their beginnings; those alone that began after a revision.
fn values(
    past: &BTreeMap<(KeyNumber, Revision), Past>,
    number: KeyNumber,
    after: Option<Revision>,
) -> btree_map::Range<'_, (KeyNumber, Revision), Past> {
    let end = Bound::Included((number, Revision::from_u64(u64::MAX)));
    let start = match after {
        Some(after) => Bound::Excluded((number, after)),
        None => Bound::Included((number, Revision::from_u64(0))),
    };
    past.range((start, end))
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

    fn kept<'a>(&'a self, arena: &'a Arena) -> Kept<'a> {
        Kept { arena, entry: &self.entry }
    }

    fn record<'a>(&'a self, arena: &'a Arena) -> Record<'a> {
        let kept = self.kept(arena);
        let (key, value, form) = (kept.key(), kept.value(), kept.form());
        Record::Past { key, value, revision: kept.revision(), until: self.until, form }
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
    past: Option<(&'a History, KeyNumber)>,
    live: Option<Kept<'a>>,
}

impl<'a> Versions<'a> {
    /// What the key had at a revision, and no longer has.
    pub(crate) fn past_at(&self, revision: Revision, arena: &'a Arena) -> Option<Kept<'a>> {
        let mut past = self.past_after(None);
        let past = past.find(|past| past.from() < revision && revision < past.until)?;
        Some(past.kept(arena))
    }

    /// The superseded values that began after a revision, or all.
    fn past_after(&self, after: Option<Revision>) -> impl Iterator<Item = &'a Past> + use<'a> {
        // From the greatest revision on there is nothing, and no range.
        let past = self.past.filter(|_| after != Some(Revision::from_u64(u64::MAX)));
        let past = past.map(|(history, number)| values(&history.past, number, after));
        past.into_iter().flatten().map(|(_, past)| past)
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
pub(crate) struct AllVersions<'a, I: Iterator<Item = Kept<'a>>> {
    live: Peekable<I>,
    past: Peekable<btree_map::Range<'a, Box<str>, KeyNumber>>,
    history: &'a History,
}

impl<'a, I: Iterator<Item = Kept<'a>>> AllVersions<'a, I> {
    /// `live` are the current records from `start` on.
    pub(crate) fn of(live: I, history: &'a History, start: Bound<&str>) -> Self {
        let past = history.keys.range::<str, _>((start, Bound::Unbounded));
        Self { live: live.peekable(), past: past.peekable(), history }
    }
}

impl<'a, I: Iterator<Item = Kept<'a>>> Iterator for AllVersions<'a, I> {
    type Item = Versions<'a>;

    fn next(&mut self) -> Option<Versions<'a>> {
        let order = match (self.live.peek(), self.past.peek()) {
            (Some(live), Some((key, _))) => live.key().cmp(key),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let live = if order == Ordering::Greater { None } else { self.live.next() };
        let past = if order == Ordering::Less { None } else { self.past.next() };
        let key = live.map(|live| live.key()).or_else(|| past.map(|(key, _)| &**key))?;
        Some(Versions { key, past: past.map(|(_, number)| (self.history, *number)), live })
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
