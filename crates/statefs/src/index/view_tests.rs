//! Views of the index: what they show, what they cost, and that applying needs no memory although they are taken.

extern crate std;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::ops::{Bound, ControlFlow};

use super::refusing::without_memory;
use super::*;

/// Bytes that are copied for a frame of one small put, with a view of the index before each: a leaf and a bunch, two blocks of
/// tables, a short piece, and the lists of the view.
const COPIED_PER_FRAME_MAX: u64 = 16 << 10;

type Model = BTreeMap<String, Vec<u8>>;

fn draw(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 8
}

fn long(number: u32) -> String {
    format!("/state/svc{:05}/obj/{number:07}", number / 100)
}

fn key(number: u32) -> String {
    if number.is_multiple_of(2) { long(number) } else { format!("/state/k{number:07}") }
}

/// The contents are those of the map.
fn assert_shows(contents: &Contents, model: &Model) {
    let users = contents.from(Bound::Included("/state"));
    let shown = users.map(|kept| (kept.key(), kept.value()));
    assert!(shown.eq(model.iter().map(|(key, value)| (key.as_str(), value.as_slice()))));
}

/// A record, as it is kept here.
type Change = (String, Option<Vec<u8>>);

fn record((key, value): &Change) -> Record<'_> {
    match value {
        Some(value) => Record::Put { key, value, form: Form::Plain },
        None => Record::Delete { key },
    }
}

fn changes(state: &mut u32, reach: u32) -> Vec<Change> {
    let count = 1 << (draw(state) % 8);
    let one = |state: &mut u32| match draw(state) % 40 {
        // Snapshots come and go, so that values become past.
        0 => (format!("/snapshot/s{}", draw(state) % 3), Some(alloc::vec![1])),
        1 => (format!("/snapshot/s{}", draw(state) % 3), None),
        nth => {
            let len = usize::try_from(draw(state) % if nth == 2 { 5000 } else { 150 }).unwrap();
            let byte = u8::try_from(draw(state) % 256).unwrap();
            let value = (!draw(state).is_multiple_of(3)).then(|| alloc::vec![byte; len]);
            (key(draw(state) % reach), value)
        }
    };
    (0..count).map(|_| one(state)).collect()
}

fn note(model: &mut Model, changes: &[Change]) {
    for (key, value) in changes.iter().filter(|(key, _)| key.starts_with("/state")) {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

/// Frames are claimed, views and readers come in between, and then there is no memory left: every frame is applied, and every
/// view shows its moment.
#[test]
fn what_was_reserved_is_applied_without_memory_whatever_views_are_taken_in_between() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 1..=12 {
        let (mut index, mut model, mut state) = (Index::with_small_bunches(), Model::new(), seed);
        let mut views: Vec<(Contents, Model)> = Vec::new();
        let mut revision = 0;
        for round in 0..150_u32 {
            let reach = if round % 3 == 0 { 3000 } else { 60 };
            let frames: Vec<Vec<Change>> =
                (0..draw(&mut state) % 3 + 1).map(|_| changes(&mut state, reach)).collect();
            let mut reserved = Vec::new();
            let mut readers = Vec::new();
            for frame in &frames {
                reserved.push(index.reserve(frame.iter().map(record)).unwrap());
                view(&mut index, &model, &mut views, &mut state, (&mut taken, &mut refused));
                readers.extend((0..5).map(|_| index.shared_value(&key(draw(&mut state) % reach)).unwrap()));
            }
            let part = index.part(&crate::Prefix::root(), None, 100).unwrap();
            for (frame, mut reserved) in frames.iter().zip(reserved) {
                let before = revision;
                let applied = without_memory(|| {
                    frame.iter().zip(reserved.claimed()).try_for_each(|(change, claimed)| {
                        revision += 1;
                        index.apply_claimed(&record(change), Revision::from_u64(revision), claimed)
                    })
                });
                applied.unwrap();
                assert_eq!(revision - before, u64::try_from(frame.len()).unwrap());
                note(&mut model, frame);
                index.release(&mut reserved);
                let is_short = draw(&mut state).is_multiple_of(4);
                let tidied = if is_short { without_memory(|| index.tidy()) } else { index.tidy() };
                assert!(tidied.is_ok() || is_short);
                if draw(&mut state).is_multiple_of(9) {
                    index.prune();
                }
                view(&mut index, &model, &mut views, &mut state, (&mut taken, &mut refused));
            }
            drop(part.each(|_, _| ControlFlow::Continue(())));
            drop(readers);
            assert_shows(&index, &model);
            views.iter().for_each(|(view, model)| assert_shows(view, model));
            if draw(&mut state).is_multiple_of(3) {
                views.retain(|_| draw(&mut state).is_multiple_of(2));
            }
        }
        drop(views);
        index.tidy().unwrap();
        index.prune();
        index.tidy().unwrap();
        index.check();
        assert!(!index.upkeep.has_claims());
    }
    std::println!("{taken} views were taken, and {refused} were refused for want of memory");
    assert!(taken > 1000 && refused > 50);
}

/// Takes a view now and then, and now and then there is no memory for it.
fn view(
    index: &mut Index,
    model: &Model,
    views: &mut Vec<(Contents, Model)>,
    state: &mut u32,
    (taken, refused): (&mut u32, &mut u32),
) {
    if draw(state).is_multiple_of(2) {
        return;
    }
    let view = if draw(state).is_multiple_of(4) { without_memory(|| index.view()) } else { index.view() };
    match view {
        Ok(view) => {
            *taken += 1;
            views.push((view, model.clone()));
        }
        Err(error) => {
            assert!(matches!(error, Error::NoMemory { .. }));
            *refused += 1;
        }
    }
}

impl Index {
    /// Bytes that were copied because something was shared.
    fn copied(&self) -> u64 {
        self.row.leaves.copied.count()
            + self.arena.copied()
            + self.upkeep.copied.count()
            + self.past.copied()
            + self.history.row().leaves.copied.count()
    }

    /// Bytes of the lists of a view.
    fn list_len(&self) -> u64 {
        let len = self.arena.list_len() + Upkeep::list_len(&self.row) + Upkeep::list_len(self.history.row());
        u64::try_from(len).unwrap()
    }

    /// One frame of one put, as a store does it.
    fn put_in_a_frame(&mut self, key: &str, value: &[u8], revision: u64) {
        let record = Record::Put { key, value, form: Form::Plain };
        let mut reserved = self.reserve(core::iter::once(record)).unwrap();
        self.apply_claimed(&record, Revision::from_u64(revision), &reserved.claimed()[0]).unwrap();
        self.release(&mut reserved);
        self.tidy().unwrap();
    }
}

#[test]
fn a_frame_copies_little_with_a_view_before_every_frame() {
    const COUNT: u32 = 100_000;
    // Loaded in order and in no order: a piece has the keys of few leaves, or of many.
    for (order, step) in [("in order", 1), ("in no order", 76_543_u64)] {
        for kept in [1, 16] {
            let mut index = Index::default();
            for nth in 0..COUNT {
                let number = u32::try_from(u64::from(nth) * step % u64::from(COUNT)).unwrap();
                index.load(&Record::Put { key: &long(number), value: &[7; 100], form: Form::Plain }, 1);
            }
            let (mut state, mut views) = (1, alloc::collections::VecDeque::new());
            let (mut lists, mut most) = (0, 0);
            let (frames, begun) = (20_000_u64, index.copied());
            for frame in 0..frames {
                if views.len() == kept {
                    views.pop_front();
                }
                let before = index.copied();
                views.push_back(index.view().unwrap());
                lists += index.list_len();
                index.put_in_a_frame(&long(draw(&mut state) % COUNT), &[8; 100], frame + 2);
                most = most.max(index.copied() - before);
            }
            let copied = (index.copied() - begun + lists) / frames;
            std::println!(
                "loaded {order}, {kept} views kept: {copied} bytes copied for a frame, {} of them lists; {most} for one",
                lists / frames
            );
            assert!(copied <= COPIED_PER_FRAME_MAX, "{copied}");
            // Views share all that they can: another one right away copies nothing but lists.
            let before = index.copied();
            let _again = index.view().unwrap();
            assert_eq!(index.copied(), before);
            drop(views);
            index.tidy().unwrap();
            index.check();
        }
    }
}

/// A node is copied if its block was shared when it was looked for, not only if a second owner of it is counted.
#[test]
fn what_is_changed_directly_after_a_view_was_taken_is_changed_in_the_index_alone() {
    let mut index = Index::default();
    let put = |index: &mut Index, value: &[u8]| {
        index.load(&Record::Put { key: "/state/a", value, form: Form::Plain }, 1);
    };
    put(&mut index, b"old");
    let view = index.view().unwrap();
    put(&mut index, b"new");
    assert_eq!(index.get("/state/a").map(|kept| kept.value()), Some(b"new".as_slice()));
    assert_eq!(view.get("/state/a").map(|kept| kept.value()), Some(b"old".as_slice()));
    let _view = index.view().unwrap();
    index.load(&Record::Delete { key: "/state/a" }, 2);
    assert!(index.get("/state/a").is_none() && view.get("/state/a").is_some());
}
