//! The work of an open is in proportion to the records of the region, whatever they say: each hostile shape is opened at two
//! sizes, and the steps are counted.

extern crate std;

use alloc::format;
use alloc::string::String;

use journal::Kind;
use media::{Geometry, MemDisk};

use super::*;

const BLOCK: u32 = 4096;
const FORM: Form = Form::Plain;
/// Steps of a record for each doubling of their number.
const STEPS_MAX: u64 = 1;

/// The frames of a region that no store would have written.
#[derive(Default)]
struct Hostile {
    copied: Vec<Vec<u8>>,
    commits: Vec<Vec<u8>>,
    records: u64,
}

/// Adds a record to the last frame, or to another one where that is full.
fn add(frames: &mut Vec<Vec<u8>>, record: &Record<'_>) {
    let mut body = Vec::new();
    record.encode(&mut body).unwrap();
    match frames.last_mut() {
        // As many as fit, and no more than 65,536 of the shortest.
        Some(last) if last.len() + body.len() < 500_000 => last.extend_from_slice(&body),
        _ => frames.push(body),
    }
}

fn name(number: u64) -> String {
    format!("/state/{number:08}")
}

/// The number `nth` of `count`, from both ends by turns.
fn from_both_ends(nth: u64, count: u64) -> u64 {
    if nth.is_multiple_of(2) { nth / 2 } else { count - 1 - nth / 2 }
}

impl Hostile {
    fn copied(&mut self, record: &Record<'_>) {
        self.records += 1;
        add(&mut self.copied, record);
    }

    fn kept(&mut self, key: &str, value: &[u8], revision: u64) {
        let revision = Revision::from_u64(revision);
        self.copied(&Record::Kept { key, value, revision, form: FORM });
    }

    fn past(&mut self, key: &str, value: &[u8], from: u64, until: u64) {
        let (revision, until) = (Revision::from_u64(from), Revision::from_u64(until));
        self.copied(&Record::Past { key, value, revision, until, form: FORM });
    }

    fn commit(&mut self, record: &Record<'_>) {
        self.records += 1;
        add(&mut self.commits, record);
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.commit(&Record::Put { key, value, form: FORM });
    }

    fn delete(&mut self, key: &str) {
        self.commit(&Record::Delete { key });
    }

    /// Opens a store that has these frames; it, and how many records it read.
    fn open(&self, base_seq: u64) -> Store<MemDisk> {
        let bodies = || self.copied.iter().chain(&self.commits);
        let blocks: usize = bodies().map(|body| body.len().div_ceil(4000)).sum();
        let blocks = u64::try_from(blocks).unwrap() * 2 + 100;
        let disk = MemDisk::new(Geometry::new(BLOCK, blocks).unwrap()).unwrap();
        let engine = Limits::default().encode();
        let limits = journal::Limits::default();
        let mut forming = Journal::form(disk, StoreId([7; 16]), limits, &engine, base_seq).unwrap();
        self.copied.iter().for_each(|body| forming.copy(body).unwrap());
        let mut journal = forming.finish().unwrap();
        for body in &self.commits {
            let _durable = journal.commit(body).unwrap();
        }
        let _durable = journal.flush().unwrap();
        Store::open(journal.into_device(), Access::Read).unwrap().0
    }
}

/// Bounds the steps of a shape at two sizes, the second of which is four times the first.
fn assert_in_proportion(what: &str, small: u64, steps_of: impl Fn(u64) -> (u64, u64)) {
    let mut before = None;
    for count in [small, small * 4] {
        let (steps, records) = steps_of(count);
        let per_mille = steps * 1000 / records;
        std::println!("{what}: {records} records, {steps} steps, {per_mille} for a thousand");
        let bound = STEPS_MAX * records * u64::from(records.ilog2());
        assert!(steps <= bound, "{what}: {steps} steps for {records} records, at most {bound}");
        // Some work begins at a certain size, such as that of an arena of which 1 MiB is dead.
        let growth = *before.get_or_insert(steps) * 6 + records;
        assert!(steps <= growth, "{what}: {steps} steps for four times the records, at most {growth}");
    }
}

fn assert_opens_in_proportion(what: &str, small: u64, shape: impl Fn(&mut Hostile, u64)) {
    assert_in_proportion(what, small, |count| {
        let mut hostile = Hostile::default();
        shape(&mut hostile, count);
        let store = hostile.open(1 << 20);
        (store.index.steps(), hostile.records)
    });
}

/// An order of the numbers below a count: the nth of it.
type Order = (&'static str, fn(u64, u64) -> u64);

const ORDERS: [Order; 4] = [
    ("ascending", |nth, _| nth),
    ("descending", |nth, count| count - 1 - nth),
    ("from both ends", from_both_ends),
    ("in no order", |nth, count| nth * 7919 % count),
];

#[test]
fn store_d2_values_of_one_key_are_loaded_in_any_order_in_linear_time() {
    for (order, place) in ORDERS {
        assert_opens_in_proportion(&format!("superseded values {order}"), 8000, |hostile, count| {
            hostile.kept("/snapshot/all", &[1], count * 2);
            for nth in 0..count {
                let from = place(nth, count) + 1;
                hostile.past("/state/a", b"x", from, count * 3 + from);
            }
        });
    }
}

#[test]
fn store_d2_pieces_are_cleared_in_linear_time_whatever_lies_in_them() {
    // What is deleted stands between the values of one key, all of which are carried over.
    for (order, place) in ORDERS {
        assert_opens_in_proportion(&format!("carried over, {order}"), 6000, |hostile, count| {
            hostile.kept("/snapshot/all", &[1], count * 2);
            for nth in 0..count {
                let from = place(nth, count) + 1;
                hostile.past("/state/a", &[1; 100], from, count * 3 + from);
                hostile.kept(&name(nth), &[2; 300], count * 4);
            }
            (0..count).for_each(|nth| hostile.delete(&name(nth)));
        });
    }
}

#[test]
fn store_d2_snapshots_are_dropped_in_linear_time() {
    assert_opens_in_proportion("taken and dropped, one key overwritten", 4000, |hostile, count| {
        for nth in 0..count {
            hostile.put("/snapshot/now", &[1]);
            hostile.put("/state/a", &[1; 300]);
            hostile.delete("/snapshot/now");
            hostile.put(&format!("/snapshot/{}", nth % 7), &[1]);
        }
    });
    assert_opens_in_proportion(
        "taken and dropped beside a snapshot that has much",
        4000,
        |hostile, count| {
            hostile.kept("/snapshot/all", &[1], count * 2);
            for nth in 0..count {
                hostile.past("/state/a", &[1; 300], nth + 1, count * 3 + nth);
            }
            for nth in 0..count {
                hostile.put("/snapshot/now", &[1]);
                hostile.put(&name(nth % 50), &[1; 300]);
                hostile.delete("/snapshot/now");
            }
        },
    );
}

#[test]
fn store_d2_keys_are_loaded_and_deleted_in_any_order_in_linear_time() {
    for (order, place) in ORDERS {
        assert_opens_in_proportion(&format!("keys {order}"), 32_000, |hostile, count| {
            (0..count).for_each(|nth| hostile.put(&name(place(nth, count)), b""));
        });
        assert_opens_in_proportion(&format!("keys deleted {order}"), 32_000, |hostile, count| {
            (0..count).for_each(|nth| hostile.put(&name(nth), b""));
            (0..count).for_each(|nth| hostile.delete(&name(place(nth, count))));
        });
    }
}

#[test]
fn store_d2_keys_that_have_ever_less_in_common_are_loaded_in_linear_time() {
    assert_opens_in_proportion("keys with ever less in common", 32_000, |hostile, count| {
        for nth in 0..count {
            let shared = 200_u64.saturating_sub(nth * 201 / count);
            let shared = "z".repeat(usize::try_from(shared).unwrap());
            hostile.put(&format!("/state/{shared}{:08}", count - nth), b"");
        }
    });
}

/// Applies records one after the other, as those of a commit each are.
fn load_all<'r>(records: impl Iterator<Item = Record<'r>>) -> Index {
    let (mut index, mut last) = (Index::default(), Revision::from_u64(0));
    for (record, seq) in records.zip(1..) {
        let mut body = Vec::new();
        record.encode(&mut body).unwrap();
        let frame = Frame { kind: Kind::Commit, seq, after_gap: true, gap_before: true, body: &body };
        load(&mut index, &mut last, &frame).unwrap();
    }
    index
}

#[test]
fn store_d2_pieces_of_the_arena_are_chosen_in_linear_time() {
    let value = alloc::vec![1; 32 << 10];
    assert_in_proportion("long values, deleted one of each piece after the other", 500, |count| {
        let names: Vec<String> = (0..count).map(name).collect();
        let put = names.iter().map(|key| Record::Put { key, value: &value, form: FORM });
        let delete = (0..7).flat_map(|nth| names.iter().skip(nth).step_by(7));
        let index = load_all(put.chain(delete.map(|key| Record::Delete { key })));
        (index.steps(), count * 2)
    });
}

#[test]
fn store_d2_gaps_are_linear_however_many_there_are() {
    assert_in_proportion("gaps", 140_000, |count| {
        let names: Vec<String> = (0..count).map(name).collect();
        let index = load_all(names.iter().map(|key| Record::Put { key, value: b"", form: FORM }));
        assert_eq!(index.count_suspect(), count - 1);
        (index.steps(), count)
    });
}
