//! The index against a map, while it tidies itself.

extern crate std;

use super::*;
use crate::leaf::{LEAF_MAX, Leaf, Slot};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::ops::Bound;

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
    pub(super) fn check(&self) {
        let entries = || self.row.alive();
        let keys = || entries().map(|entry| self.arena.key_bytes(&entry.extent));
        assert!(keys().is_sorted_by(|one, other| one < other));
        self.upkeep.check(&self.row, &self.arena);
        self.past.check(&self.history, &self.arena);
        let totals = entries().map(|entry| Totals::of_extent(&entry.extent));
        let totals = totals.fold(Totals::default(), Totals::plus);
        assert_eq!(self.totals, totals);
        let past = self.history.totals();
        let all = totals.plus(past);
        let alive = u64::try_from(self.filling.check(&self.arena)).unwrap();
        assert_eq!(alive, all.bytes + all.keys, "and ends of keys");
    }

    fn memory_len(&self) -> usize {
        self.arena.memory_len()
            + self.filling.memory_len()
            + self.row.memory_len()
            + self.upkeep.memory_len()
            + self.history.row().memory_len()
            + self.past.memory_len()
    }

    /// What there is room for. The text of a piece of the arena may grow, but need not.
    fn room_len(&self) -> [usize; 3] {
        [self.arena.values_capacity(), self.row.memory_len(), self.upkeep.memory_len()]
    }

    /// An index that divides its row often.
    pub(super) fn with_small_bunches() -> Self {
        Self { upkeep: Upkeep::with_bunches_of(3), ..Self::default() }
    }

    /// Claims all that these records need, as a frame does.
    pub(super) fn reserve<'r>(
        &mut self,
        records: impl Iterator<Item = Record<'r>>,
    ) -> Result<Reserved, Error> {
        let mut reserved = Reserved::default();
        for record in records {
            let found = self.find(record.key());
            self.claim(&record, found, &mut reserved)?;
        }
        self.reserve_claimed()?;
        Ok(reserved)
    }

    fn apply_reserved<'r>(&mut self, records: impl Iterator<Item = Record<'r>>, reserved: &Reserved) {
        for (record, claimed) in records.zip(reserved.claimed()) {
            self.apply_claimed(&record, Revision::from_u64(1), claimed).unwrap();
        }
    }

    /// As a frame is loaded.
    pub(super) fn load(&mut self, record: &Record<'_>, number: u64) {
        self.apply(record, Revision::from_u64(number)).unwrap();
        self.tidy().unwrap();
    }
}

/// Pieces may be cut when they are closed, and the spare one is counted when it is used; nothing else may change.
fn assert_room_was_enough(before: [usize; 3], after: [usize; 3]) {
    assert_eq!(before[1..], after[1..]);
}

/// Numbers that look like none.
fn draw(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 8
}

/// Changes in no order, more deletions or fewer by turns: leaves are divided, joined and taken out, pieces are cleared.
#[test]
fn the_index_is_a_map_in_order_while_it_tidies_itself() {
    for index in [Index::default(), Index::with_small_bunches()] {
        is_a_map_in_order_while_it_tidies_itself(index);
    }
}

fn is_a_map_in_order_while_it_tidies_itself(mut index: Index) {
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
            index.load(&Record::Put { key: &key, value: &value, form: Form::Plain }, round);
            pieces_cleared += u32::from(index.arena.memory_len() < before);
            model.insert(key, (value, round));
        }
        leaves_max = leaves_max.max(index.row.leaves().count());
        if round % 500 == 0 {
            index.check();
        }
    }
    index.check();
    assert!(index.row.leaves().count() <= leaves_max / 2, "{} of {leaves_max}", index.row.leaves().count());
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
    assert_eq!((index.row.leaves().count(), index.totals()), (0, Totals::default()));
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
                _ => Record::Put { key, value: &value, form: Form::Plain },
            })
        };
        let mut one = index.reserve(records().take(1)).unwrap();
        index.release(&mut one);
        let mut reserved = index.reserve(records()).unwrap();
        let before = index.room_len();
        index.apply_reserved(records(), &reserved);
        assert_room_was_enough(before, index.room_len());
        index.release(&mut reserved);
        assert!(!index.upkeep.has_claims());
        index.tidy().unwrap();
        index.check();
    }
}

#[test]
fn room_is_asked_for_in_the_leaf_a_key_goes_into_whatever_else_the_batch_deletes() {
    let name = |number: usize| format!("/state/{number:04}");
    let mut index = Index::default();
    (0..LEAF_MAX + 2)
        .for_each(|number| index.load(&Record::Put { key: &name(number), value: b"", form: Form::Plain }, 1));
    assert_eq!(index.row.leaves().map(Leaf::len).collect::<Vec<_>>(), [LEAF_MAX, 2]);
    // The first key of the second leaf goes, and one comes that stood behind it.
    let (old, new) = (name(LEAF_MAX), name(LEAF_MAX) + "a");
    let batch = [Record::Delete { key: &old }, Record::Put { key: &new, value: b"", form: Form::Plain }];
    let mut reserved = index.reserve(batch.into_iter()).unwrap();
    let before = index.room_len();
    index.apply_reserved(batch.into_iter(), &reserved);
    assert_room_was_enough(before, index.room_len());
    index.release(&mut reserved);
    index.tidy().unwrap();
    index.check();
    assert!(index.get(&old).is_none() && index.get(&new).is_some());
    // Writes that failed leave no claims: they do not add up.
    let more = name(LEAF_MAX) + "b";
    let put = Record::Put { key: &more, value: b"", form: Form::Plain };
    for _ in 0..1000 {
        let mut reserved = index.reserve(core::iter::once(put)).unwrap();
        index.release(&mut reserved);
        index.tidy().unwrap();
    }
    assert_eq!(index.room_len()[1..], before[1..]);
}

/// Frames that are out, in which keys come more than once in any order, are applied one after the other, the index tidied
/// in between, other keys put and taken away beside them: no leaf grows that was reserved, and what is there is what the
/// order says.
#[test]
fn what_is_claimed_for_frames_that_are_out_stays_whatever_happens_beside_them() {
    let mut index = Index::with_small_bunches();
    // What is deleted stays in it, with nothing.
    let mut model: BTreeMap<String, Option<usize>> = BTreeMap::new();
    let (mut state, mut fences) = (1, 0);
    for round in 0..400_usize {
        let count = 5_u32 << (round % 6);
        let reach = if round % 3 == 0 { 5000 } else { 40 };
        let frames: Vec<Vec<(String, Option<usize>)>> = (0..3)
            .map(|_| {
                (0..count)
                    .map(|_| {
                        // Keys that stand first in their leaf, and those right behind them, now and then.
                        let nth =
                            usize::try_from(draw(&mut state)).unwrap() % index.row.leaves().count().max(1);
                        let first = index
                            .row
                            .leaves()
                            .nth(nth)
                            .and_then(Leaf::first)
                            .map(|first| first.key(&index.arena));
                        let first = first.map(|first| String::from(core::str::from_utf8(first).unwrap()));
                        let key = match (draw(&mut state) % 4, first) {
                            (0, Some(first)) => first,
                            (1, Some(first)) if first.len() < 200 => first + "!",
                            _ => key(draw(&mut state) % reach),
                        };
                        let is_put = draw(&mut state).is_multiple_of(2);
                        (key, is_put.then(|| usize::try_from(draw(&mut state) % 300).unwrap()))
                    })
                    .collect()
            })
            .collect();
        let value = [7; 300];
        let records = |frame: usize| {
            frames[frame].iter().map(|(key, len)| match len {
                Some(len) => Record::Put { key, value: &value[..*len], form: Form::Plain },
                None => Record::Delete { key },
            })
        };
        let mut reserved: Vec<Reserved> =
            (0..3).map(|frame| index.reserve(records(frame)).unwrap()).collect();
        for (frame, changes) in frames.iter().enumerate() {
            let before = index.room_len();
            index.apply_reserved(records(frame), &reserved[frame]);
            assert_room_was_enough(before, index.room_len());
            model.extend(changes.iter().cloned());
            index.release(&mut reserved[frame]);
            index.tidy().unwrap();
            fences += index.row.leaves().filter(|leaf| leaf.is_first_dead).count();
            assert_eq!(index.from(Bound::Unbounded).count(), model.values().flatten().count());
            // Beside them, about a key that is in none.
            let other = alloc::format!("{}/other", key(draw(&mut state) % reach));
            let put = Record::Put { key: &other, value: &value, form: Form::Plain };
            let other_delete = Record::Delete { key: &other };
            let is_put = draw(&mut state).is_multiple_of(2);
            let record = if is_put { put } else { other_delete };
            let found = index.find(&other);
            index.make_room(&record, found).unwrap();
            index.apply_found(&record, Revision::from_u64(3), found).unwrap();
            index.tidy().unwrap();
            model.extend([(other.clone(), is_put.then_some(value.len()))]);
        }
        assert!(!index.upkeep.has_claims());
        index.tidy().unwrap();
        index.check();
        let found = index.from(Bound::Unbounded).map(|kept| (kept.key(), kept.value_len()));
        assert!(
            found.eq(model.iter().filter_map(|(key, len)| Some((key.as_str(), (*len)?)))),
            "round {round}"
        );
    }
    assert!(fences > 20, "{fences}");
}

/// What snapshots have is in the arena as well: it moves with its piece, and is given up when it is pruned.
#[test]
fn what_is_past_moves_with_its_piece_and_keeps_its_form() {
    let mut index = Index::default();
    let name = |number: u32| format!("/state/{number:05}");
    let form = |number: u32| if number.is_multiple_of(3) { Form::Sealed } else { Form::Plain };
    let value = |number: u32, round: u32| alloc::vec![u8::try_from(round).unwrap(); usize::try_from(300 + number % 50 + round).unwrap()];
    let put = |index: &mut Index, number: u32, round: u32| {
        let (key, value) = (name(number), value(number, round));
        let record = Record::Put { key: &key, value: &value, form: form(number) };
        index.load(&record, u64::from(round) * 100_000 + u64::from(number));
    };
    // Between the keys stand fillers that only the first snapshot has: when it is dropped, every piece is half dead.
    let filler = |number: u32| format!("/state/filler/{number:05}");
    for number in 0..5000 {
        put(&mut index, number, 1);
        index.load(&Record::Put { key: &filler(number), value: &[0; 600], form: Form::Plain }, 150_000);
    }
    index.load(&Record::Put { key: "/snapshot/b", value: &[1], form: Form::Plain }, 199_000);
    (0..5000).for_each(|number| index.load(&Record::Delete { key: &filler(number) }, 199_100));
    index.load(&Record::Put { key: "/snapshot/a", value: &[1], form: Form::Plain }, 199_999);
    let taken = Revision::from_u64(199_999);
    (0..5000).filter(|number| number % 2 == 0).for_each(|number| put(&mut index, number, 2));
    (0..5000).step_by(10).for_each(|number| index.load(&Record::Delete { key: &name(number) }, 299_999));
    index.check();
    index.load(&Record::Delete { key: "/snapshot/b" }, 300_000);
    index.prune();
    let before = index.arena.memory_len();
    index.tidy().unwrap();
    assert!(index.arena.memory_len() < before - before / 4, "{} of {before}", index.arena.memory_len());
    index.check();
    assert_eq!(index.history.totals().keys, 2500);
    let mut count = 0;
    for versions in index.versions(Bound::Included("/state")) {
        let kept = versions.past_at(taken, &index.arena).or_else(|| versions.live_at(taken)).unwrap();
        assert_eq!(kept.key(), name(count));
        assert_eq!((kept.value(), kept.form()), (value(count, 1).as_slice(), form(count)));
        count += 1;
    }
    assert_eq!(count, 5000);
    index.load(&Record::Delete { key: "/snapshot/a" }, 9_999_999);
    index.prune();
    index.tidy().unwrap();
    index.check();
    assert_eq!((index.history.totals(), index.totals().keys), (Totals::default(), 4500));
}

#[test]
fn only_what_was_written_since_the_last_gap_is_certain_however_many_there_are() {
    let mut index = Index::default();
    index.contents.gaps = u32::MAX - 20;
    index.load(&Record::Put { key: "/state/old", value: b"", form: Form::Plain }, 1);
    assert!(!index.is_suspect("/state/old") && index.is_suspect("/state/none"));
    for gaps in 0..40 {
        index.load(&Record::Put { key: "/state/before", value: b"", form: Form::Plain }, 1);
        index.suspect_all().unwrap();
        index.load(&Record::Put { key: "/state/new", value: b"", form: Form::Plain }, 1);
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
        index.load(&Record::Put { key: name, value: &alloc::vec![7; len], form: Form::Plain }, 1);
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
