//! Snapshots: each is a cell for every value that it shows, and one for itself.

use crashsim::{Atom, Life, SimDisk, Value};
use statefs::{Certainty, Compaction, Key, Prefix, SnapshotName, Store};

use super::scripts::is_full;
use super::{Outcome, Script, Told, unless_full};

/// What the scripts put: a snapshot is a promise about those that have no value in it, too.
const KEYS: [&str; 5] = ["/state/a", "/state/b", "/state/c", "/state/d", "/state/life"];

/// Between the name of a snapshot and the key of a value in it; in neither of them.
const IN: char = '|';

pub(super) const SCRIPTS: [Script; 9] = [
    of_snapshots("state-snapshot", "take snapshots, overwrite, delete, and drop one", 32, |told| {
        told.put("/state/b", b"1")?;
        told.snapshot("x")?;
        told.put("/state/a", b"2")?;
        told.delete("/state/b")?;
        told.snapshot("y")?;
        told.put("/state/b", b"3")?;
        told.drop_snapshot("x")
    }),
    of_snapshots("state-snapshot-buffered", "take snapshots of what is buffered", 32, |told| {
        told.put_buffered("/state/a", b"1")?;
        told.put_buffered("/state/b", &[1; 400])?;
        told.snapshot("x")?;
        told.put_buffered("/state/a", b"2")?;
        told.put_buffered("/state/a", b"3")?;
        told.snapshot("y")?;
        told.put_buffered("/state/b", b"4")?;
        told.sync()
    }),
    of_snapshots("state-snapshot-compact", "compact what only snapshots show, twice", 48, |told| {
        told.put("/state/b", &[1; 400])?;
        told.snapshot("x")?;
        told.put("/state/b", &[2; 400])?;
        told.snapshot("y")?;
        told.put("/state/b", &[3; 400])?;
        told.delete("/state/a")?;
        told.compact(|_, _| Ok(()))?;
        told.compact(|_, _| Ok(()))?;
        told.put("/state/b", b"4")
    }),
    of_snapshots(
        "state-snapshot-between",
        "change keys that a snapshot shows between the steps of a compaction",
        64,
        |told| {
            told.put("/state/b", &[1; 600])?;
            told.put("/state/c", &[1; 600])?;
            told.snapshot("x")?;
            told.put("/state/c", &[2; 600])?;
            told.compact(|told, nth| match nth {
                0 => told.put("/state/a", b"2"),
                1 => told.delete("/state/b"),
                2 => told.put("/state/c", b"3"),
                3 => told.put_buffered("/state/c", b"4"),
                _ => told.put("/state/a", &[nth]),
            })?;
            told.put("/state/b", b"5")
        },
    ),
    of_snapshots("state-snapshot-taken", "take snapshots between the steps of a compaction", 64, |told| {
        told.put("/state/b", &[1; 600])?;
        told.put("/state/c", &[1; 600])?;
        told.compact(|told, nth| match nth {
            0 => told.snapshot("x"),
            1 => told.put("/state/c", &[2; 300]),
            2 => told.put("/state/a", b"2"),
            3 => told.snapshot("y"),
            _ => told.delete("/state/b"),
        })?;
        told.delete("/state/c")
    }),
    of_snapshots("state-snapshot-dropped", "drop snapshots between the steps of a compaction", 64, |told| {
        told.put("/state/b", &[1; 600])?;
        told.snapshot("x")?;
        told.snapshot("y")?;
        told.put("/state/b", &[2; 600])?;
        told.compact(|told, nth| match nth {
            0 => told.put("/state/a", b"2"),
            1 => told.drop_snapshot("x"),
            2 => told.put("/state/b", &[3; 300]),
            3 => told.drop_snapshot("y"),
            _ => told.put("/state/c", &[nth]),
        })
    }),
    of_snapshots(
        "state-snapshot-again",
        "drop a snapshot and use its name again between the steps of a compaction",
        64,
        |told| {
            told.put("/state/b", &[1; 600])?;
            told.put("/state/c", &[1; 600])?;
            told.snapshot("x")?;
            told.put("/state/b", &[2; 600])?;
            told.compact(|told, nth| match nth {
                0 => told.drop_snapshot("x"),
                1 => told.put("/state/c", b"3"),
                2 => told.snapshot("x"),
                3 => told.put("/state/c", b"4"),
                _ => told.put("/state/b", &[nth]),
            })?;
            told.delete("/state/c")
        },
    ),
    of_snapshots(
        "state-snapshot-around",
        "take and drop a snapshot until the regions have been used several times",
        40,
        |told| {
            for nth in 1..5 {
                told.put("/state/a", &[nth; 200])?;
                told.snapshot("x")?;
                told.put("/state/a", &[nth; 201])?;
                told.put("/state/b", &[nth])?;
                told.drop_snapshot("x")?;
            }
            Ok(())
        },
    ),
    of_snapshots(
        "state-snapshot-full",
        "fill the device with what only a snapshot shows, delete, drop it, and put again",
        34,
        |told| {
            told.put("/state/b", &[1; 600])?;
            told.snapshot("x")?;
            told.put("/state/b", &[2; 600])?;
            is_full(told.put("/state/c", &[3; 600]))?;
            told.delete("/state/b")?;
            told.delete("/state/a")?;
            told.drop_snapshot("x")?;
            told.put("/state/a", &[4; 600])
        },
    ),
];

const fn of_snapshots(
    name: &'static str,
    about: &'static str,
    blocks: u64,
    run: fn(&mut Told<'_>) -> Outcome,
) -> Script {
    Script::new(name, about, blocks, run).living_on(put_compact_and_delete)
}

/// What was found goes through a copy unchanged, and there is always room to take something away.
fn put_compact_and_delete(told: &mut Told<'_>, life: Life) -> Outcome {
    if life.boot < 3 {
        unless_full(told.put("/state/life", &[1]))?;
        while told.store.compact_step()? == Compaction::Running {}
        told.delete("/state/life")?;
    }
    Ok(())
}

impl Told<'_> {
    fn snapshot(&mut self, name: &str) -> Outcome {
        let taken = SnapshotName::parse(name)?;
        let mut atom: Atom = vec![(format!("{name}{IN}").into(), Some(Value::bytes(b"")))];
        for key in KEYS {
            let value = self.store.get(&Key::parse(key)?).map(|value| Value::bytes(value.bytes));
            atom.push((format!("{name}{IN}{key}").into(), value));
        }
        self.tell(&format!("snapshot {name}"), vec![atom], |store| store.snapshot(&taken)).map(drop)
    }

    fn drop_snapshot(&mut self, name: &str) -> Outcome {
        let dropped = SnapshotName::parse(name)?;
        let cells = [""].iter().chain(&KEYS).map(|key| (format!("{name}{IN}{key}").into(), None));
        self.tell(&format!("drop {name}"), vec![cells.collect()], |store| store.drop_snapshot(&dropped))
            .map(drop)
    }
}

/// Whether something is about a snapshot.
pub(super) fn is_cell(cell: &str) -> bool {
    cell.contains(IN)
}

/// What stands in such a cell: the value of a key in a snapshot, or the snapshot.
pub(super) fn look(store: &Store<SimDisk>, cell: &str) -> Option<Value> {
    let (name, key) = cell.split_once(IN)?;
    let view = store.at(&SnapshotName::parse(name).ok()?)?;
    if key.is_empty() {
        return Some(Value::bytes(b""));
    }
    view.get(&Key::parse(key).ok()?).map(|value| Value::bytes(value.bytes))
}

/// What is wrong with what a store says of its snapshots.
pub(super) fn contradiction(store: &Store<SimDisk>, is_known: impl Fn(&str) -> bool) -> Option<String> {
    for snapshot in store.snapshots() {
        let name = &snapshot.name;
        let Some(view) = store.at(name) else { return Some(format!("snapshot {name} is not there")) };
        if !is_known(&format!("{name}{IN}")) {
            return Some(format!("snapshot {name}, that nobody took"));
        }
        let listed = match view.list(&Prefix::root(), None, 100) {
            Err(error) => return Some(error.to_string()),
            Ok(page) => page.entries.len(),
        };
        let there = view.iter().filter(|(key, _)| view.get(key).is_some()).count();
        if listed != there {
            return Some(format!("snapshot {name}: {listed} are listed, {there} are there"));
        }
        for (key, value) in view.iter() {
            if value.certainty == Certainty::Suspect || !is_known(&format!("{name}{IN}{key}")) {
                return Some(format!("snapshot {name}: {key} is {:?}, or nobody put it", value.certainty));
            }
        }
    }
    None
}

/// Every value in every snapshot, and every snapshot.
pub(super) fn everything(store: &Store<SimDisk>) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for snapshot in store.snapshots() {
        let values = store.at(&snapshot.name).into_iter().flat_map(|view| view.iter());
        all.push((format!("{}{IN}", snapshot.name), Vec::new()));
        all.extend(values.map(|(key, value)| (format!("{}{IN}{key}", snapshot.name), value.bytes.to_vec())));
    }
    all
}
