//! A store whose witness is told what is asked and answered; what the tests of crashes share.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crashsim::{
    Atom, Campaign, DiskProfile, Explorer, Fate, Gauge, Mark, Operation, Options, Report, Scenario, SimDisk,
    Value, Witness, Workload, replay,
};
use media::Geometry;
use statefs::{Batch, Compaction, Error, ErrorKind, Key, Precondition, Store, StoreId};

pub(crate) fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

/// A store whose witness is told what is asked and answered.
pub(crate) struct Told<'d> {
    pub(crate) disk: &'d SimDisk,
    pub(crate) store: Store<SimDisk>,
    /// What was buffered since the last barrier.
    pub(crate) buffered: Vec<Atom>,
}

pub(crate) type Outcome = Result<(), Error>;

impl Told<'_> {
    pub(crate) fn tell<T>(
        &mut self,
        label: String,
        atoms: Vec<Atom>,
        act: impl FnOnce(&mut Store<SimDisk>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // What is durable makes all before it durable; a later change of the same key comes last.
        let mut all = self.buffered.clone();
        all.extend(atoms);
        let mut last: Vec<Atom> = Vec::new();
        for atom in all {
            last.retain(|before| !before.iter().all(|(cell, _)| atom.iter().any(|(other, _)| other == cell)));
            last.push(atom);
        }
        self.disk.tell(Mark::Begin(Operation::new(label, last)));
        let outcome = act(&mut self.store);
        self.disk.tell(match &outcome {
            Ok(_) => Mark::Acknowledged,
            Err(error) => Mark::Failed(match error.kind() {
                ErrorKind::Poisoned => Fate::Unknown,
                ErrorKind::Io | ErrorKind::ReadOnly | ErrorKind::NoSpace => Fate::Unchanged,
                _ => panic!("no other error belongs here: {error}"),
            }),
        });
        if outcome.is_ok() {
            self.buffered.clear();
        }
        outcome
    }

    pub(crate) fn put(&mut self, name: &str, value: &[u8]) -> Outcome {
        let atom = vec![(name.into(), Some(Value::bytes(value)))];
        self.tell(format!("put {name}"), vec![atom], |store| store.put(&key(name), value).map(drop))
    }

    pub(crate) fn delete(&mut self, name: &str) -> Outcome {
        let atom = vec![(name.into(), None)];
        self.tell(format!("delete {name}"), vec![atom], |store| store.delete(&key(name)).map(drop))
    }

    pub(crate) fn batch(&mut self, changes: &[(&str, Option<&[u8]>)]) -> Outcome {
        let mut batch = Batch::new();
        for (name, value) in changes {
            match value {
                Some(value) => batch.put(&key(name), value)?,
                None => batch.delete(&key(name))?,
            }
        }
        let atom = changes.iter().map(|(name, value)| ((*name).into(), value.map(Value::bytes))).collect();
        self.tell("batch".to_owned(), vec![atom], |store| store.batch(&batch).map(drop))
    }

    pub(crate) fn swap(&mut self, name: &str, value: &[u8]) -> Outcome {
        let found = self.store.get(&key(name)).map(|found| found.revision);
        let wanted = found.map_or(Precondition::Absent, Precondition::RevisionIs);
        let atom = vec![(name.into(), Some(Value::bytes(value)))];
        self.tell(format!("swap {name}"), vec![atom], |store| {
            store.compare_and_swap(&key(name), wanted, value).map(drop)
        })
    }

    pub(crate) fn put_buffered(&mut self, name: &str, value: &[u8]) -> Outcome {
        let atom = vec![(name.into(), Some(Value::bytes(value)))];
        let operation = Operation::new(format_args!("buffer {name}"), vec![atom.clone()]);
        self.disk.tell(Mark::Begin(operation));
        let outcome = self.store.put_buffered(&key(name), value).map(drop);
        self.disk.tell(match &outcome {
            Ok(()) => Mark::Visible,
            Err(error) if error.kind() == ErrorKind::Poisoned => Mark::Failed(Fate::Unknown),
            Err(_) => Mark::Failed(Fate::Unchanged),
        });
        if outcome.is_ok() {
            self.buffered.push(atom);
        }
        outcome
    }

    pub(crate) fn sync(&mut self) -> Outcome {
        self.tell("sync".to_owned(), Vec::new(), |store| store.sync().map(drop))
    }

    /// A whole compaction with something between its steps.
    pub(crate) fn compact(&mut self, mut between: impl FnMut(&mut Self, u8) -> Outcome) -> Outcome {
        for nth in 0..20 {
            if self.store.compact_step()? == Compaction::Finished {
                return Ok(());
            }
            between(self, nth)?;
        }
        panic!("a compaction ends");
    }
}

pub(crate) fn options() -> statefs::Options {
    let journal = journal::Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    statefs::Options { journal, ..statefs::Options::new(StoreId(*b"a crashing store")) }
}

pub(crate) fn geometry(blocks: u64) -> Geometry {
    Geometry::new(512, blocks).unwrap().with_torn_blocks()
}

/// Explores a script; what was seen, and a line that says so.
pub(crate) fn keeps_its_word(
    script: &impl Workload<SimDisk>,
    profile: DiskProfile,
    options: &Options,
) -> (Report, String) {
    let recorded = Scenario::plain(script.name()).record(script).unwrap();
    let report = Explorer::default().explore(script, &recorded, profile, options, &Gauge::default());
    let line = format!(
        "{:<44} {:<16} points {:>3} visited {:>7} distinct {:>6} {}",
        script.name(),
        profile.name(),
        report.points,
        report.visited,
        report.distinct,
        if report.exhaustive { "all" } else { "sampled" }
    );
    if let Some(failure) = &report.failure {
        panic!("{line}\n{:?}\n{}", failure.verdict, replay(script, &failure.id).unwrap());
    }
    (report, line)
}

/// Each call of a script fails, is carried out and fails, or is carried out in part; then the power fails as well. A line
/// that says what was seen.
pub(crate) fn is_honest_after_faults(script: &impl Workload<SimDisk>) -> String {
    let options = Options { states_max: 40, depth: 0, kills: false, ..Options::default() };
    let campaign = Campaign {
        profiles: vec![DiskProfile::AnySubsetTorn],
        options: options.clone(),
        faults: Some(options),
        budget: u64::MAX,
        seeds_max: 1,
    };
    let rows = campaign.run(&Explorer::default(), script, &Gauge::default(), |_| {});
    let (mut runs, mut visited) = (0, 0);
    for row in rows {
        (runs, visited) = (runs + row.runs, visited + row.report.visited);
        if let Some(failure) = &row.report.failure {
            panic!("{:?}\n{}", failure.verdict, replay(script, &failure.id).unwrap());
        }
    }
    format!("{:<44} runs {runs:>4} visited {visited:>7}", script.name())
}

pub(crate) fn acknowledged(script: &impl Workload<SimDisk>) -> usize {
    let recorded = Scenario::plain(script.name()).record(script).unwrap();
    let marks: Vec<Mark> =
        recorded.trace.records().iter().filter_map(|record| record.mark()).cloned().collect();
    assert!(!marks.iter().any(|mark| matches!(mark, Mark::Failed(_))), "{} runs to its end", script.name());
    recorded.expected.after(marks.iter()).acknowledged()
}
