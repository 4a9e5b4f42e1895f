//! The index: which value every key has.
//!
//! A row of leaves, each a short sorted array of entries ([`crate::leaf`]). An entry says where key and value stand in the
//! arena, so what a listing needs lies close together. A region begins with records in the order of their keys, and what
//! comes behind all others is added without a search. A leaf that has become too long or too short is divided or joined with
//! its neighbour afterwards, which needs memory and may fail without harm.
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
//! - the totals are those of the entries, and so is what is alive in the arena.
//! - between two changes no leaf is dead, and no room is claimed.

use alloc::vec::Vec;
use core::mem;
use core::ops::Bound;

use crate::arena::{Arena, Extent};
use crate::error::Error;
use crate::leaf::{Entry, LEAF_MAX, Leaf, common_len, head_of};
use crate::limits::KEY_LEN_MAX;
use crate::record::{KEPT_HEADER_LEN, Record, Revision};

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
    fn of_extent(extent: &Extent) -> Self {
        Self::of(extent.key_len(), extent.value_len())
    }
}

/// A key and its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    arena: &'a Arena,
    entry: &'a Entry,
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

    pub(crate) fn totals(&self) -> Totals {
        Totals::of_extent(&self.entry.extent)
    }

    /// As it is copied.
    pub(crate) fn record(&self) -> Record<'a> {
        Record::Kept { key: self.key(), value: self.value(), revision: self.revision() }
    }

    /// Bytes of that.
    pub(crate) fn record_len(&self) -> usize {
        KEPT_HEADER_LEN + self.entry.extent.key_len() + self.value_len()
    }
}

/// Which value every key has.
#[derive(Debug, Default)]
pub(crate) struct Index {
    arena: Arena,
    leaves: Vec<Leaf>,
    heads: Vec<u64>,
    common: Vec<u8>,
    /// Leaves that may be too long, too short or dead, or in which room is claimed.
    unsettled: Vec<usize>,
    /// What the row begins with when it is empty.
    first: Leaf,
    totals: Totals,
    /// How many gaps were found: what was written before the last of them may be older than it should be.
    gaps: u16,
}

impl Index {
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// The value that a key has.
    pub(crate) fn get(&self, key: &str) -> Option<Kept<'_>> {
        let leaf = self.leaves.get(self.leaf_of(key.as_bytes()))?;
        let entry = leaf.get(leaf.search(key.as_bytes(), &self.arena).ok()?)?;
        Some(Kept { arena: &self.arena, entry })
    }

    /// Whether the value that a key has may be older than it should be; that it has none always may.
    pub(crate) fn is_suspect(&self, key: &str) -> bool {
        self.gaps > 0 && self.get(key).is_none_or(|kept| kept.entry.gaps < self.gaps)
    }

    /// Something is missing here: whatever is in the index may have been changed by it.
    pub(crate) fn suspect_all(&mut self) {
        if let Some(gaps) = self.gaps.checked_add(1) {
            self.gaps = gaps;
            return;
        }
        // Whether it was before the last one is all that matters.
        self.gaps = 1;
        self.leaves.iter_mut().flat_map(Leaf::entries_mut).for_each(|entry| entry.gaps = 0);
    }

    /// How many keys are suspect.
    pub(crate) fn count_suspect(&self) -> u64 {
        let entries = self.leaves.iter().flat_map(Leaf::entries);
        u64::try_from(entries.filter(|entry| entry.gaps < self.gaps).count()).unwrap_or(u64::MAX)
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
            Ok(within) if !leaf.is_dead => (at, Ok(within)),
            Ok(within) | Err(within) => (at, Err(within)),
        }
    }

    /// Sees to it that these records, of keys that differ, can be applied without asking for memory.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn reserve<'r>(&mut self, records: impl Iterator<Item = Record<'r>>) -> Result<(), Error> {
        self.drop_claims();
        let (mut keys, mut keys_len, mut values_len) = (0, 0, 0);
        for record in records {
            let (at, found) = self.locate(record.key().as_bytes());
            self.reserve_notes()?;
            self.unsettled.push(at);
            if let Record::Put { key, value } | Record::Kept { key, value, .. } = record {
                keys += 1;
                keys_len += key.len();
                values_len += value.len();
                if found.is_err() {
                    self.claim(at)?;
                }
            }
        }
        // Each of them may be noted again when it is applied.
        let notes = self.unsettled.len();
        self.unsettled.try_reserve(notes).map_err(|_| Error::NoMemory { len: notes * size_of::<usize>() })?;
        self.arena.reserve(keys, keys_len, values_len)
    }

    fn reserve_notes(&mut self) -> Result<(), Error> {
        self.unsettled.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<usize>() })
    }

    /// Room in a leaf for one entry more than there has been asked for.
    fn claim(&mut self, at: usize) -> Result<(), Error> {
        self.begin_row()?;
        let leaf = self.leaves.get_mut(at).unwrap_or(&mut self.first);
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

    /// What was claimed for a write that failed is not needed any more.
    fn drop_claims(&mut self) {
        for at in self.unsettled.drain(..) {
            self.leaves.get_mut(at).unwrap_or(&mut self.first).claimed = 0;
        }
    }

    fn reserve_row(&mut self, count: usize) -> Result<(), Error> {
        let len = count.saturating_mul(size_of::<Leaf>() + size_of::<u64>());
        self.leaves.try_reserve(count).map_err(|_| Error::NoMemory { len })?;
        self.heads.try_reserve(count).map_err(|_| Error::NoMemory { len })
    }

    /// Does what a record says. `revision` is that of its place, which a kept record does not need.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the index is as it was.
    pub(crate) fn apply(&mut self, record: &Record<'_>, revision: Revision) -> Result<(), Error> {
        match *record {
            Record::Put { key, value } => self.put(key, value, revision),
            Record::Kept { key, value, revision } => self.put(key, value, revision),
            Record::Delete { key } => self.delete(key),
        }
    }

    /// Does what records say, of keys that differ, for which there has been asked for room.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: there was not.
    pub(crate) fn apply_reserved<'r>(
        &mut self,
        records: impl Iterator<Item = (Record<'r>, Revision)> + Clone,
    ) -> Result<(), Error> {
        // The first key of a leaf says which keys belong into it. A deletion may change it, a put does not, and room was
        // asked for in the leaf that was found then.
        let is_delete = |record: &Record<'_>| matches!(record, Record::Delete { .. });
        let puts = records.clone().filter(|(record, _)| !is_delete(record));
        let deletes = records.filter(|(record, _)| is_delete(record));
        puts.chain(deletes).try_for_each(|(record, revision)| self.apply(&record, revision))
    }

    fn put(&mut self, key: &str, value: &[u8], revision: Revision) -> Result<(), Error> {
        let fresh = Totals::of(key.len(), value.len());
        let (at, within) = match self.locate(key.as_bytes()) {
            (at, Ok(within)) => {
                let entry = self.leaves.get_mut(at).and_then(|leaf| leaf.get_mut(within));
                if let Some(entry) = entry {
                    let old = entry.extent;
                    let extent = match self.arena.overwrite(old, value) {
                        Some(extent) => extent,
                        None => {
                            let extent = self.arena.push(key, value)?;
                            self.arena.give_up(old);
                            extent
                        }
                    };
                    *entry = Entry::new(extent, revision, self.gaps);
                    self.totals = self.totals.plus(fresh).less(Totals::of_extent(&old));
                }
                return Ok(());
            }
            (at, Err(within)) => (at, within),
        };
        self.make_way(at)?;
        let extent = self.arena.push(key, value)?;
        if self.leaves.is_empty() {
            self.leaves.push(mem::take(&mut self.first));
            self.heads.push(0);
            self.common.clear();
            self.common.extend_from_slice(key.as_bytes());
        }
        let Some(leaf) = self.leaves.get_mut(at) else { return Ok(()) };
        let is_first = within == 0 || leaf.is_dead;
        leaf.insert(within, key.as_bytes(), Entry::new(extent, revision, self.gaps), &self.arena);
        if is_first {
            self.take_head(at);
        }
        self.totals = self.totals.plus(fresh);
        Ok(())
    }

    fn delete(&mut self, key: &str) -> Result<(), Error> {
        let (at, Ok(within)) = self.locate(key.as_bytes()) else { return Ok(()) };
        self.reserve_notes()?;
        let Some(leaf) = self.leaves.get_mut(at) else { return Ok(()) };
        let Some(&Entry { extent, .. }) = leaf.get(within) else { return Ok(()) };
        leaf.remove(within);
        self.arena.give_up(extent);
        self.totals = self.totals.less(Totals::of_extent(&extent));
        if leaf.len() < LEAF_MAX / 4 {
            self.unsettled.push(at);
        }
        if within == 0 {
            self.take_head(at);
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
        while let Some(piece) = self.arena.piece_to_clear() {
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
        // Those behind a leaf change their numbers with it.
        for at in unsettled.drain(..).rev() {
            outcome = outcome.and(self.settle_leaf(at));
        }
        self.unsettled = unsettled;
        outcome
    }

    fn settle_leaf(&mut self, at: usize) -> Result<(), Error> {
        let Some(leaf) = self.leaves.get_mut(at) else { return Ok(()) };
        leaf.claimed = 0;
        if leaf.is_dead {
            self.take_out(at);
            return Ok(());
        }
        match leaf.len() {
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
            // The one before may be dead, and its turn will come.
            if one.is_dead || other.is_dead || one.len() + other.len() > LEAF_MAX / 2 {
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

    /// Carries over what is alive in a piece of the arena, and lets the piece go.
    fn clear(&mut self, piece: usize) -> Result<(), Error> {
        let mut begin = 0;
        while let Some((key, next)) = self.arena.key_in(piece, begin) {
            let (at, found) = self.locate(key.as_bytes());
            let entry = self.leaves.get_mut(at).zip(found.ok()).and_then(|(leaf, at)| leaf.get_mut(at));
            if let Some(entry) = entry.filter(|entry| Arena::is_at(&entry.extent, piece, begin)) {
                entry.extent = self.arena.carry(entry.extent)?;
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
        let entries = |at: usize| self.leaves.get(at).map_or(&[][..], Leaf::entries);
        let (now, last_part) = match first == last {
            true => (entries(first).get(from..to), None),
            false if first < last => (entries(first).get(from..), entries(last).get(..to)),
            false => (None, None),
        };
        Range {
            arena: &self.arena,
            now: now.unwrap_or(&[]).iter(),
            whole: self.leaves.get(first + 1..last).unwrap_or(&[]).iter(),
            last: last_part.unwrap_or(&[]),
        }
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
mod tests {
    extern crate std;

    use super::*;
    use alloc::collections::BTreeMap;
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

    impl Index {
        /// The invariants, by counting.
        fn check(&self) {
            assert_eq!(self.leaves.len(), self.heads.len());
            let entries = || self.leaves.iter().flat_map(Leaf::entries);
            let keys = || entries().map(|entry| self.arena.key_bytes(&entry.extent));
            assert!(keys().is_sorted_by(|one, other| one < other));
            for (leaf, head) in self.leaves.iter().zip(&self.heads) {
                leaf.check(&self.arena);
                assert!(!leaf.is_dead && leaf.claimed == 0 && leaf.len() <= LEAF_MAX);
                let rest = leaf.first_key(&self.arena).strip_prefix(self.common.as_slice());
                assert_eq!(rest.map(head_of), Some(*head));
            }
            let totals = entries().map(|entry| Totals::of_extent(&entry.extent));
            let totals = totals.fold(Totals::default(), Totals::plus);
            assert_eq!(self.totals, totals);
            assert_eq!(
                u64::try_from(self.arena.check()).unwrap(),
                totals.bytes + totals.keys,
                "and ends of keys"
            );
        }

        fn memory_len(&self) -> usize {
            let row = self.leaves.capacity() * size_of::<Leaf>() + self.heads.capacity() * size_of::<u64>();
            let leaves: usize = self.leaves.iter().map(Leaf::memory_len).sum();
            self.arena.memory_len() + row + leaves
        }

        /// What there is room for. The text of a piece of the arena may grow, but need not.
        fn room_len(&self) -> [usize; 4] {
            let arena = self.arena.values_capacity();
            let row = self.leaves.capacity() + self.heads.capacity() + self.common.capacity();
            let leaves = self.leaves.iter().map(Leaf::memory_len).sum::<usize>();
            [arena, row, leaves + self.first.memory_len(), self.unsettled.capacity()]
        }

        /// As a frame is loaded.
        fn load(&mut self, record: &Record<'_>, number: u64) {
            self.apply(record, Revision::from_u64(number)).unwrap();
            self.tidy().unwrap();
        }
    }

    /// Numbers that look like none.
    fn draw(state: &mut u32) -> u32 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *state >> 8
    }

    /// Changes in no order, more deletions or fewer by turns: leaves are divided, joined and taken out, pieces are cleared.
    #[test]
    fn the_index_is_a_map_in_order_while_it_tidies_itself() {
        let mut index = Index::default();
        let mut model = BTreeMap::new();
        let (mut state, mut pieces_cleared, mut leaves_max) = (1, 0, 0);
        for round in 0..60_000_u64 {
            let key = key(draw(&mut state) % 5000);
            let is_shrinking = round / 10_000 % 2 == 1;
            if draw(&mut state) % 20 < if is_shrinking { 18 } else { 3 } {
                index.load(&Record::Delete { key: &key }, round);
                model.remove(&key);
            } else {
                let value = alloc::vec![b'v'; usize::try_from(draw(&mut state) % 397).unwrap()];
                let before = index.arena.memory_len();
                index.load(&Record::Put { key: &key, value: &value }, round);
                pieces_cleared += u32::from(index.arena.memory_len() < before);
                model.insert(key, (value, round));
            }
            leaves_max = leaves_max.max(index.leaves.len());
            if round % 500 == 0 {
                index.check();
            }
        }
        index.check();
        assert!(index.leaves.len() <= leaves_max / 2, "{} of {leaves_max}", index.leaves.len());
        assert!(pieces_cleared > 3, "{pieces_cleared}");
        assert!(index.from(Bound::Unbounded).map(|kept| kept.key()).eq(model.keys().map(String::as_str)));
        for (key, (value, round)) in &model {
            let kept = index.get(key).unwrap();
            assert_eq!((kept.value(), kept.revision().get()), (value.as_slice(), *round));
        }
        for number in (0..5000).step_by(7) {
            let (start, end) = (key(number), key(number * 31 % 5000));
            assert_eq!(index.get(&start).is_some(), model.contains_key(&start));
            for bound in [Bound::Included(start.as_str()), Bound::Excluded(start.as_str())] {
                let expected = model.range::<str, _>((bound, Bound::Unbounded)).map(|(key, _)| key.as_str());
                assert!(
                    index
                        .range(bound, Some(&end))
                        .map(|kept| kept.key())
                        .eq(expected.take_while(|key| **key < *end))
                );
            }
        }
        for key in model.keys() {
            index.load(&Record::Delete { key }, 0);
        }
        index.check();
        assert_eq!((index.leaves.len(), index.totals()), (0, Totals::default()));
    }

    /// A batch that was reserved is applied without a leaf growing, also where all of it goes into one leaf, and where the
    /// index is empty; a batch that was reserved and not applied leaves nothing behind.
    #[test]
    fn what_was_reserved_is_applied_without_asking_for_memory() {
        let mut index = Index::default();
        let mut state = 1;
        for (round, count) in [3, 4096, 1, 2000, 4096].into_iter().enumerate() {
            let mut keys: Vec<String> = (0..count).map(|_| key(draw(&mut state) % 5000)).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.sort_by_key(|key| (key.len(), key.bytes().rev().collect::<Vec<_>>()));
            let value = alloc::vec![b'v'; 100 + round];
            let records = || {
                keys.iter().enumerate().map(|(nth, key)| match nth % 5 {
                    4 => Record::Delete { key },
                    _ => Record::Put { key, value: &value },
                })
            };
            index.reserve(records().take(1)).unwrap();
            index.reserve(records()).unwrap();
            let before = index.room_len();
            index.apply_reserved(records().map(|record| (record, Revision::from_u64(1)))).unwrap();
            assert_eq!(index.room_len(), before, "round {round}");
            index.tidy().unwrap();
            index.check();
        }
    }

    #[test]
    fn room_is_asked_for_in_the_leaf_a_key_goes_into_whatever_else_the_batch_deletes() {
        let name = |number: usize| format!("/state/{number:04}");
        let mut index = Index::default();
        (0..LEAF_MAX + 2).for_each(|number| index.load(&Record::Put { key: &name(number), value: b"" }, 1));
        assert_eq!(index.leaves.iter().map(Leaf::len).collect::<Vec<_>>(), [LEAF_MAX, 2]);
        // The first key of the second leaf goes, and one comes that stood behind it.
        let (old, new) = (name(LEAF_MAX), name(LEAF_MAX) + "a");
        let batch = [Record::Delete { key: &old }, Record::Put { key: &new, value: b"" }];
        index.reserve(batch.into_iter()).unwrap();
        let before = index.room_len();
        index.apply_reserved(batch.into_iter().map(|record| (record, Revision::from_u64(2)))).unwrap();
        assert_eq!(index.room_len(), before);
        index.tidy().unwrap();
        index.check();
        assert!(index.get(&old).is_none() && index.get(&new).is_some());
        // Writes that failed leave no claims: they do not add up.
        let more = name(LEAF_MAX) + "b";
        (0..1000).for_each(|_| index.reserve([Record::Put { key: &more, value: b"" }].into_iter()).unwrap());
        assert_eq!(index.room_len()[..3], before[..3]);
    }

    #[test]
    fn only_what_was_written_since_the_last_gap_is_certain_however_many_there_are() {
        let mut index = Index::default();
        index.load(&Record::Put { key: "/state/old", value: b"" }, 1);
        assert!(!index.is_suspect("/state/old") && !index.is_suspect("/state/none"));
        for gaps in 1..=u32::from(u16::MAX) + 2 {
            index.load(&Record::Put { key: "/state/before", value: b"" }, 1);
            index.suspect_all();
            index.load(&Record::Put { key: "/state/new", value: b"" }, 1);
            let suspect =
                ["/state/old", "/state/before", "/state/new", "/state/none"].map(|key| index.is_suspect(key));
            assert_eq!(suspect, [true, true, false, true], "{gaps}");
            assert_eq!(index.count_suspect(), 2);
        }
    }

    /// The memory of an index with values of 155 bytes, for each way in which it can come to be.
    #[test]
    fn memory_is_bounded_by_what_is_alive() {
        const COUNT: u32 = 50_000;
        const FIXED_LEN: usize = 2 << 20;
        let name = |number: u32| format!("/state/app/{:07}", u64::from(number) * 7919 % u64::from(COUNT));
        let put = |index: &mut Index, name: &str, len: usize| {
            index.load(&Record::Put { key: name, value: &alloc::vec![7; len] }, 1);
        };
        let measure = |what: &str, index: &Index, per_mille: usize| {
            let live = usize::try_from(index.totals().bytes).unwrap();
            let memory = index.memory_len();
            let keys = usize::try_from(index.totals().keys).unwrap();
            std::println!(
                "{what}: {keys} keys, {live} bytes live, {memory} of memory, {} a key beyond key and value",
                (memory - live) / keys
            );
            assert!(memory <= live * per_mille / 1000 + FIXED_LEN, "{what}: {memory} for {live}");
            index.check();
        };
        let mut sorted = Index::default();
        (0..COUNT).for_each(|number| put(&mut sorted, &format!("/state/app/{number:07}"), 155));
        measure("in order", &sorted, 1300);
        let mut index = Index::default();
        (0..COUNT).for_each(|number| put(&mut index, &name(number), 155));
        measure("in no order", &index, 1300);
        let mut state = 1;
        for round in 0..4 {
            (0..COUNT).for_each(|_| put(&mut index, &name(draw(&mut state) % COUNT), 152 + round * 2));
        }
        measure("with longer values since", &index, 1400);
    }
}
