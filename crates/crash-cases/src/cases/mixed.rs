//! Everything at once: operations drawn by chance, each seed without some of their kinds.

use std::collections::BTreeMap;
use std::time::Duration;

use crashsim::{Atom, Cell, Expected, Operation, Random, Run, Value, Verdict};
use durable_io::{Dir, LockOptions, TargetState, UpdateOptions, Wait};

use super::case::{directory, file, is_lock};
use crate::site::{FileCase, Site, judge};

struct Mixed;

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    vec![Box::new(Mixed)]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Replace,
    CreateNew,
    Remove,
    Rename,
    CreateDir,
    Update,
    Append,
    Bulk,
}

const KINDS: [Kind; 8] = [
    Kind::Replace,
    Kind::CreateNew,
    Kind::Remove,
    Kind::Rename,
    Kind::CreateDir,
    Kind::Update,
    Kind::Append,
    Kind::Bulk,
];
const FILES: [&str; 4] = ["a", "b", "c", "d/a"];
const DIRS: [&str; 2] = ["d", "e"];
const COUNTER: &str = "counter";
const LOG: &str = "log";

/// One operation, with all its choices made.
#[derive(Debug, Clone)]
struct Step {
    kind: Kind,
    /// On which files; a rename has two, a bulk three.
    on: [&'static str; 3],
    dir: &'static str,
    bytes: String,
}

/// The operations of a seed: 4 to 10, of those kinds that the seed has not switched off.
fn steps(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| random.below(3) > 0).collect();
    let kinds = if kinds.is_empty() { KINDS.to_vec() } else { kinds };
    let count = 4 + random.below(7);
    let mut steps = Vec::new();
    for number in 0..count {
        let mut pick = |from: u32| usize::try_from(random.below(from)).unwrap_or(0);
        let kind = kinds.get(pick(u32::try_from(kinds.len()).unwrap_or(1))).copied().unwrap_or(Kind::Replace);
        let first = pick(4);
        let on = [0, 1, 2].map(|next| FILES.get((first + next) % FILES.len()).copied().unwrap_or("a"));
        let dir = DIRS.get(pick(2)).copied().unwrap_or("d");
        steps.push(Step { kind, on, dir, bytes: format!("{number}{}", "-".repeat(pick(3) * 300)) });
    }
    steps
}

/// What a reader sees, as far as operations have said.
struct Model<'s, 'w> {
    site: &'s Site<'w>,
    dir: Dir,
    seen: BTreeMap<Cell, Option<Value>>,
}

/// Whether it makes sense to go on.
enum Next {
    GoOn,
    Stop,
}

impl Model<'_, '_> {
    fn value(&self, cell: &str) -> Option<Value> {
        self.seen.get(cell).cloned().flatten()
    }

    fn tell<T: crate::site::Answer>(
        &mut self,
        label: String,
        atoms: Vec<Atom>,
        work: impl FnOnce(&Dir) -> durable_io::Result<T>,
    ) -> Next {
        let outcome = self.site.perform(Operation::new(label, atoms.clone()), || work(&self.dir));
        match outcome {
            Ok(_) => {
                self.seen.extend(atoms.into_iter().flatten());
                Next::GoOn
            }
            Err(error) if error.state() == TargetState::Unchanged => Next::GoOn,
            Err(_) => Next::Stop,
        }
    }

    /// The folder that a file may get on the way.
    fn folder_of(&mut self, file: &str) -> Vec<Atom> {
        let Some((folder, _)) = file.split_once('/') else { return Vec::new() };
        let atom = vec![(Cell::from(folder), directory(0o755))];
        if self.value(folder).is_none() {
            self.site.announce(Operation::new("a new folder", vec![atom.clone()]));
        }
        vec![atom]
    }

    fn put(&mut self, step: &Step) -> Next {
        let [name, ..] = step.on;
        let bytes = step.bytes.as_bytes();
        let mut atoms = self.folder_of(name);
        atoms.push(vec![(name.into(), file(bytes))]);
        match step.kind {
            Kind::CreateNew => {
                if self.value(name).is_some() {
                    // It is refused; a success would not allow the new bytes.
                    atoms.pop();
                }
                self.tell(format!("create {name}"), atoms, |dir| dir.create_new(name, bytes))
            }
            _ => self.tell(format!("replace {name}"), atoms, |dir| dir.replace(name, bytes)),
        }
    }

    fn bulk(&mut self, step: &Step) -> Next {
        for name in step.on {
            drop(self.folder_of(name));
        }
        let bytes = step.bytes.as_bytes();
        let files = step.on.map(|name| (name, self.value(name), file(bytes)));
        let published = self.site.perform_each("a bulk", &files, || {
            let mut bulk = self.dir.bulk();
            for name in step.on {
                bulk.replace(name, bytes);
            }
            Ok(bulk.publish_all())
        });
        if published.is_err() {
            return Next::Stop;
        }
        self.seen.extend(files.map(|(name, _, new)| (name.into(), new)));
        Next::GoOn
    }

    fn carry_out(&mut self, step: &Step) -> Next {
        let [from, to, _] = step.on;
        match step.kind {
            Kind::Replace | Kind::CreateNew => self.put(step),
            Kind::Bulk => self.bulk(step),
            Kind::Remove => {
                let atoms = vec![vec![(from.into(), None)]];
                self.tell(format!("remove {from}"), atoms, |dir| dir.remove(from))
            }
            Kind::Rename => {
                let moved = self.value(from);
                if moved.is_some() && from.contains('/') != to.contains('/') {
                    // Between its two barriers a power cut leaves two names rather than none.
                    self.site.announce(Operation::one("two names for a while", to, moved.clone()));
                }
                let atoms = vec![vec![(from.into(), None), (to.into(), moved)]];
                self.tell(format!("rename {from} to {to}"), atoms, |dir| dir.rename(from, to))
            }
            Kind::CreateDir => {
                let name = step.dir;
                let atoms = vec![vec![(name.into(), directory(0o755))]];
                self.tell(format!("create {name}"), atoms, |dir| dir.create_dir(name))
            }
            Kind::Update => {
                let old = self.value(COUNTER).map(|value| value.bytes.to_vec()).unwrap_or_default();
                let new = [old.as_slice(), step.bytes.as_bytes()].concat();
                let atoms = vec![vec![(COUNTER.into(), file(&new))]];
                self.tell("update".to_owned(), atoms, |dir| {
                    dir.update_with(COUNTER, &patient(), |old| {
                        Ok::<_, std::convert::Infallible>(
                            [old.unwrap_or_default(), step.bytes.as_bytes()].concat(),
                        )
                    })
                })
            }
            Kind::Append => self.append(step),
        }
    }

    /// The log as a whole is the cell: a record more, or not.
    fn append(&mut self, step: &Step) -> Next {
        let line = format!("{{\"n\":\"{}\"}}", step.bytes);
        let old = self.value(LOG).map(|value| value.bytes.to_vec()).unwrap_or_default();
        // The log is made before the record is written.
        self.site.announce(Operation::one("the log is made", LOG, file(&old)));
        let new = [old.as_slice(), line.as_bytes(), b"\n"].concat();
        self.tell("append".to_owned(), vec![vec![(LOG.into(), file(&new))]], |dir| {
            dir.log(LOG)?.append(line.as_bytes())
        })
    }
}

fn patient() -> UpdateOptions {
    let lock = LockOptions { wait: Wait::UpTo(Duration::from_millis(50)), ..LockOptions::default() };
    UpdateOptions { lock, ..UpdateOptions::default() }
}

impl FileCase for Mixed {
    fn name(&self) -> &str {
        "mixed"
    }

    fn about(&self) -> &str {
        "4 to 10 operations drawn by chance, each seed without some kinds of them"
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        let made = site.dir().and_then(|dir| dir.replace("a", b"first"));
        made.map(|_| vec![("a".into(), file(b"first"))]).map_err(|error| error.to_string())
    }

    fn run(&self, site: &Site<'_>, run: &Run) {
        let Ok(dir) = site.dir() else { return };
        let seen = BTreeMap::from([("a".into(), file(b"first"))]);
        let mut model = Model { site, dir, seen };
        for (number, step) in (0_u32..).zip(steps(run.seed)) {
            if run.skip.contains(&number) {
                continue;
            }
            match model.carry_out(&step) {
                Next::GoOn => {}
                Next::Stop => return,
            }
        }
    }

    /// Sweeps, and opens the log if there is one, so that its tail is repaired.
    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        crate::site::sweep_all(site)?;
        match site.look(LOG) {
            Ok(Some(_)) => {
                site.dir().and_then(|dir| dir.log(LOG)).map(drop).map_err(|error| error.to_string())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        let owns = |name: &str| is_lock(name) || name.starts_with("log.torn-");
        judge(site, expected, &owns, &|cell| site.look(cell))
    }

    fn operations(&self, seed: u64) -> u32 {
        u32::try_from(steps(seed).len()).unwrap_or(u32::MAX)
    }
}
