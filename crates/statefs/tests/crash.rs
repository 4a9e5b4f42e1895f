//! The store under power cuts, kills and faults, on devices as small as the format allows.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use crashsim::{
    Atom, BlockOp, Campaign, Class, DiskImage, DiskLie, DiskProfile, Expected, Explorer, Fate, Gauge, Life,
    Mark, Operation, Options, Random, Report, Run, Scenario, SimDisk, Trace, Value, Verdict as Found,
    Witness, Workload, barriers, replay,
};
use media::{BlockIndex, Geometry};
use statefs::{
    Access, Batch, Certainty, Compaction, Error, ErrorKind, Key, Precondition, Prefix, Store, StoreId,
    Verdict,
};

const KEYS: [&str; 7] =
    ["/state/a", "/state/b", "/state/c", "/state/d", "/state/fill", "/state/life", "/state/scratch"];

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

/// A store whose witness is told what is asked and answered.
struct Told<'d> {
    disk: &'d SimDisk,
    store: Store<SimDisk>,
    /// What was buffered since the last barrier.
    buffered: Vec<Atom>,
}

type Outcome = Result<(), Error>;

impl Told<'_> {
    fn tell<T>(
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

    fn put(&mut self, name: &str, value: &[u8]) -> Outcome {
        let atom = vec![(name.into(), Some(Value::bytes(value)))];
        self.tell(format!("put {name}"), vec![atom], |store| store.put(&key(name), value).map(drop))
    }

    fn delete(&mut self, name: &str) -> Outcome {
        let atom = vec![(name.into(), None)];
        self.tell(format!("delete {name}"), vec![atom], |store| store.delete(&key(name)).map(drop))
    }

    fn batch(&mut self, changes: &[(&str, Option<&[u8]>)]) -> Outcome {
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

    fn swap(&mut self, name: &str, value: &[u8]) -> Outcome {
        let found = self.store.get(&key(name)).map(|found| found.revision);
        let wanted = found.map_or(Precondition::Absent, Precondition::RevisionIs);
        let atom = vec![(name.into(), Some(Value::bytes(value)))];
        self.tell(format!("swap {name}"), vec![atom], |store| {
            store.compare_and_swap(&key(name), wanted, value).map(drop)
        })
    }

    fn put_buffered(&mut self, name: &str, value: &[u8]) -> Outcome {
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

    fn sync(&mut self) -> Outcome {
        self.tell("sync".to_owned(), Vec::new(), |store| store.sync().map(drop))
    }

    /// A whole compaction with something between its steps.
    fn compact(&mut self, mut between: impl FnMut(&mut Self, u8) -> Outcome) -> Outcome {
        for nth in 0..20 {
            if self.store.compact_step()? == Compaction::Finished {
                return Ok(());
            }
            between(self, nth)?;
        }
        panic!("a compaction ends");
    }
}

/// A script on a store.
struct Script {
    name: &'static str,
    blocks: u64,
    run: fn(&mut Told<'_>) -> Outcome,
}

fn options() -> statefs::Options {
    let journal = journal::Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    statefs::Options { journal, ..statefs::Options::new(StoreId(*b"a crashing store")) }
}

fn geometry(blocks: u64) -> Geometry {
    Geometry::new(512, blocks).unwrap().with_torn_blocks()
}

fn values(store: &Store<SimDisk>) -> Vec<Option<Vec<u8>>> {
    KEYS.iter().map(|name| store.get(&key(name)).map(|value| value.bytes.to_vec())).collect()
}

impl Script {
    /// A store with one key on a device of that shape.
    fn start_on(&self, geometry: Geometry) -> (DiskImage, Expected) {
        let disk = SimDisk::new(geometry);
        let mut store = Store::format(disk.clone(), &options()).unwrap();
        store.put(&key("/state/a"), b"zero").unwrap();
        drop(store);
        let started = ("/state/a".into(), Some(Value::bytes(b"zero")));
        (disk.image(), Expected::starting([started]))
    }
}

impl Workload<SimDisk> for Script {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        self.start_on(geometry(self.blocks))
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        if let Ok((store, _)) = Store::open(disk.clone(), Access::Write) {
            drop((self.run)(&mut Told { disk, store, buffered: Vec::new() }));
        }
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        let (store, recovery) =
            Store::open(disk.clone(), Access::Write).map_err(|error| error.to_string())?;
        if let Verdict::Damaged { .. } = recovery.tail {
            return Err(format!("a power cut is taken for damage: {recovery:?}"));
        }
        if recovery.suspect_keys > 0 || recovery.read_only.is_some() {
            return Err(format!("without damage everything is certain: {recovery:?}"));
        }
        // Life goes on: what is written now must survive what follows, and deletes always work.
        let mut told = Told { disk, store, buffered: Vec::new() };
        if self.name == CUT_SHORT {
            // A shorter copy than the one before, over what that left.
            for name in ["/state/b", "/state/c", "/state/d", "/state/fill"] {
                told.delete(name).map_err(|error| error.to_string())?;
            }
            told.compact(|_, _| Ok(())).map_err(|error| error.to_string())?;
        }
        if life.boot < 3 {
            // On a full device there may be no room for a new key.
            let unless_full = |outcome: Outcome| match outcome {
                Err(error) if error.kind() != ErrorKind::NoSpace => Err(error.to_string()),
                Ok(()) | Err(_) => Ok(()),
            };
            unless_full(told.put("/state/life", &[1]))?;
            let scratch = key("/state/scratch");
            unless_full(told.store.put(&scratch, &[2]).map(drop))?;
            told.store.delete(&scratch).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn check(&self, disk: &SimDisk, _life: Life, expected: &Expected) -> Found {
        let (store, recovery) = match Store::open(disk.clone(), Access::Read) {
            Err(error) => return Found::broken(Class::CannotOpen, error.to_string()),
            Ok(opened) => opened,
        };
        let listed = store.list(&Prefix::root(), None, 100).unwrap().entries.len();
        let there = values(&store).iter().flatten().count();
        if listed != there || recovery.live_keys != u64::try_from(there).unwrap() {
            return Found::broken(Class::Stranger, format!("{listed} are listed, {there} are there"));
        }
        expected.judge(|cell| store.get(&key(cell)).map(|value| Value::bytes(value.bytes)))
    }

    /// A journal says of every start that there was one: what counts is what it holds.
    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        let values =
            |disk: &SimDisk| Store::open(disk.clone(), Access::Read).map(|(store, _)| values(&store)).ok();
        values(first) == values(second)
    }
}

/// The script after which a recovery copies anew.
const CUT_SHORT: &str = "an attempt cut short";

const SCRIPTS: [Script; 13] = [
    Script {
        name: "put, put again, delete",
        blocks: 32,
        run: |told| {
            told.put("/state/a", b"1")?;
            told.put("/state/b", &[2; 500])?;
            told.delete("/state/a")
        },
    },
    Script {
        name: "batch",
        blocks: 32,
        run: |told| {
            told.batch(&[("/state/a", None), ("/state/b", Some(&[1; 300])), ("/state/c", Some(&[2; 300]))])?;
            told.batch(&[("/state/a", Some(b"2")), ("/state/b", Some(b"2")), ("/state/c", None)])
        },
    },
    Script {
        name: "compare and swap",
        blocks: 32,
        run: |told| {
            told.swap("/state/a", b"1")?;
            told.swap("/state/b", b"1")?;
            told.swap("/state/b", b"2")
        },
    },
    Script {
        name: "buffered and sync",
        blocks: 32,
        run: |told| {
            told.put_buffered("/state/a", b"1")?;
            told.put_buffered("/state/b", &[1; 600])?;
            told.put_buffered("/state/a", &[2; 400])?;
            told.sync()?;
            told.put_buffered("/state/c", b"3")?;
            told.put("/state/b", b"4")
        },
    },
    Script {
        name: "compaction",
        blocks: 36,
        run: |told| {
            told.put("/state/b", &[1; 500])?;
            told.delete("/state/a")?;
            told.compact(|_, _| Ok(()))?;
            told.put("/state/a", b"2")
        },
    },
    Script {
        name: "changes between the steps of a compaction",
        blocks: 44,
        run: |told| {
            told.put("/state/b", &[1; 600])?;
            told.put("/state/c", &[1; 600])?;
            told.compact(|told, nth| match nth {
                0 => told.put("/state/a", b"2"),
                1 => told.delete("/state/b"),
                2 => told.put("/state/d", b"3"),
                3 => told.put_buffered("/state/c", b"4"),
                _ => told.put("/state/a", &[nth]),
            })?;
            told.put("/state/b", b"5")
        },
    },
    Script {
        name: "compaction with buffered puts, twice",
        blocks: 36,
        run: |told| {
            for value in [b"1", b"2"] {
                told.put_buffered("/state/a", value)?;
                told.compact(|told, _| told.put_buffered("/state/b", value))?;
                told.put_buffered("/state/c", value)?;
            }
            told.sync()
        },
    },
    Script {
        name: "full, several times around",
        blocks: 26,
        run: |told| {
            for value in 1..9 {
                told.put("/state/a", &[value])?;
            }
            Ok(())
        },
    },
    Script {
        name: "full of live data",
        blocks: 30,
        run: |told| {
            told.put("/state/fill", &[1; 600])?;
            told.put("/state/b", &[1; 600])?;
            match told.store.put(&key("/state/d"), &[2; 600]) {
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                Err(error) => return Err(error),
                Ok(_) => panic!("it was not full"),
            }
            told.delete("/state/a")?;
            told.delete("/state/fill")?;
            told.put("/state/a", b"after")
        },
    },
    Script {
        name: "idle seal and close",
        blocks: 32,
        run: |told| {
            told.put("/state/a", b"1")?;
            for ms in [0, 100, 200] {
                told.store.tick(Duration::from_millis(ms))?;
            }
            told.put("/state/a", b"2")?;
            told.put_buffered("/state/b", b"3")?;
            for ms in [300, 400, 500] {
                told.store.tick(Duration::from_millis(ms))?;
            }
            told.sync()
        },
    },
    Script {
        name: "deleted keys in regions that are used again",
        blocks: 34,
        run: |told| {
            for value in 1..4 {
                told.put("/state/b", &[value; 200])?;
                told.put("/state/c", &[value; 200])?;
                told.delete("/state/b")?;
                told.compact(|_, _| Ok(()))?;
                told.delete("/state/c")?;
                // The process dies; what it left behind the end may be of either life.
                told.store = Store::open(told.disk.clone(), Access::Write)?.0;
            }
            Ok(())
        },
    },
    Script {
        name: CUT_SHORT,
        blocks: 60,
        run: |told| {
            for name in ["/state/a", "/state/b", "/state/c", "/state/d", "/state/fill"] {
                told.put(name, &[1; 600])?;
            }
            told.compact(|_, _| Ok(()))?;
            told.compact(|_, _| Ok(()))?;
            let reader = Store::open(told.disk.clone(), Access::Read)?.0;
            std::mem::replace(&mut told.store, reader).close()?;
            // Nothing but the copy says that there was this start.
            told.store = Store::open(told.disk.clone(), Access::Write)?.0;
            for _ in 0..6 {
                assert_eq!(told.store.compact_step()?, Compaction::Running);
            }
            Ok(())
        },
    },
    Script {
        name: "opened again and again",
        blocks: 26,
        run: |told| {
            for value in 0..12 {
                told.store = Store::open(told.disk.clone(), Access::Write)?.0;
                if value % 4 == 3 {
                    told.put("/state/a", &[value])?;
                }
            }
            told.delete("/state/a")
        },
    },
];

fn explore(script: &Script, profile: DiskProfile, options: &Options) -> Report {
    let recorded = Scenario::plain(script.name).record::<SimDisk>(script).unwrap();
    Explorer::default().explore::<SimDisk>(script, &recorded, profile, options, &Gauge::default())
}

fn acknowledged(script: &Script) -> usize {
    let recorded = Scenario::plain(script.name).record::<SimDisk>(script).unwrap();
    let marks: Vec<Mark> =
        recorded.trace.records().iter().filter_map(|record| record.mark()).cloned().collect();
    assert!(!marks.iter().any(|mark| matches!(mark, Mark::Failed(_))), "{} runs to its end", script.name);
    recorded.expected.after(marks.iter()).acknowledged()
}

#[test]
fn acknowledged_writes_survive_every_power_cut_and_kill() {
    let options = Options { states_max: 600, depth: 1, nested_states_max: 12, ..Options::default() };
    let (mut visited, mut distinct) = (0, 0);
    for script in &SCRIPTS {
        assert!(acknowledged(script) > 0);
        for profile in DiskProfile::ALL {
            let report = explore(script, profile, &options);
            visited += report.visited;
            distinct += report.distinct;
            println!(
                "{:<42} {:<18} points {:>3} visited {:>7} distinct {:>7} {}",
                script.name,
                profile.name(),
                report.points,
                report.visited,
                report.distinct,
                if report.exhaustive { "all" } else { "sampled" }
            );
            if let Some(failure) = &report.failure {
                panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(script, &failure.id).unwrap());
            }
        }
    }
    println!("visited {visited}, distinct {distinct}, broken 0");
}

#[test]
fn a_power_cut_in_a_recovery_from_a_power_cut_in_a_recovery_loses_nothing() {
    let options = Options { states_max: 30, depth: 2, nested_states_max: 5, ..Options::default() };
    for script in &SCRIPTS {
        let report = explore(script, DiskProfile::AnySubsetTorn, &options);
        println!("{:<42} visited {:>7} distinct {:>7}", script.name, report.visited, report.distinct);
        if let Some(failure) = &report.failure {
            panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(script, &failure.id).unwrap());
        }
    }
}

/// Each call of each script fails, is carried out and fails, or is carried out in part; then the power fails as well.
#[test]
fn after_a_fault_at_any_call_every_error_was_honest() {
    let options = Options { states_max: 40, depth: 0, kills: false, ..Options::default() };
    let campaign = Campaign {
        profiles: vec![DiskProfile::AnySubsetTorn],
        options: options.clone(),
        faults: Some(options),
        budget: u64::MAX,
        seeds_max: 1,
    };
    for script in &SCRIPTS {
        let rows = campaign.run::<SimDisk>(&Explorer::default(), script, &Gauge::default(), |_| {});
        for row in rows {
            println!("{:<42} runs {:>4} visited {:>7}", script.name, row.runs, row.report.visited);
            if let Some(failure) = &row.report.failure {
                panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(script, &failure.id).unwrap());
            }
        }
    }
}

/// A device full of live data on which nothing but starting and crashing ever happens.
#[test]
fn a_full_store_opens_however_often_it_crashed_and_deletes_still_work() {
    for blocks in [26, 32, 64] {
        let disk = SimDisk::mount(SimDisk::new(geometry(blocks)).image(), crashsim::Recording::Off);
        let mut store = Store::format(disk.clone(), &options()).unwrap();
        let full = (0..)
            .find(|nth| {
                store
                    .put(&key(&format!("/state/{nth}")), &[1; 200])
                    .is_err_and(|e| e.kind() == ErrorKind::NoSpace)
            })
            .unwrap();
        assert!(full > 0);
        for life in 0..60 {
            let (mut again, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
            assert_eq!((recovery.live_keys, recovery.read_only), (full, None), "life {life}");
            again.put_buffered(&key("/state/0"), &[1; 199]).unwrap();
            store = again;
        }
        for nth in 0..full {
            store.delete(&key(&format!("/state/{nth}"))).unwrap();
            store = Store::open(disk.clone(), Access::Write).unwrap().0;
        }
        assert_eq!(store.stats().live_keys, 0);
        store.put(&key("/state/0"), &[1; 200]).unwrap();
    }
}

/// Every flush of every script, taken away: each kind of it is missed by somebody, but for two.
#[test]
fn every_barrier_is_needed_or_has_a_reason() {
    let options = Options { states_max: 48, depth: 1, nested_states_max: 2, ..Options::default() };
    let (mut needed, mut unnoticed) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    for script in &SCRIPTS {
        let scenario = Scenario::plain(script.name);
        let recorded = scenario.record::<SimDisk>(script).unwrap();
        let purposes = purposes(&recorded.trace);
        let found = barriers::<SimDisk>(script, &scenario, DiskProfile::AnySubsetTorn, &options);
        assert_eq!(found.len(), purposes.len());
        for (barrier, purpose) in found.into_iter().zip(purposes) {
            let list = if barrier.removed.is_some() { &mut needed } else { &mut unnoticed };
            *list.entry(purpose).or_default() += 1;
        }
    }
    println!("flushes: needed {needed:?}, unnoticed somewhere {unnoticed:?}");
    let never: Vec<&str> = unnoticed.keys().filter(|what| !needed.contains_key(*what)).copied().collect();
    // What an open reads was durable before, where nobody died before it; where somebody did, its flush covers what he left and
    // counts as that of what was written last. A root that is lost, with all before it durable, is found again: the next open
    // finishes the switch. It is flushed all the same, so that a second switch does not hang on that.
    assert_eq!(never, ["open", "root"]);
}

/// The same on a device with durable writes, where a commit needs no flush: each durable write is made a plain one.
#[test]
fn every_durable_write_is_needed() {
    let options = Options { states_max: 64, depth: 0, ..Options::default() };
    let (mut needed, mut unnoticed) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    for script in &SCRIPTS {
        let script = &OnDurable(script);
        let mut recorded = Scenario::plain(script.name()).record::<SimDisk>(script).unwrap();
        let trace = recorded.trace.clone();
        for (record, entry) in trace.records().iter().enumerate() {
            let Some(BlockOp::Write { at, bytes, durable: true }) = entry.op() else { continue };
            recorded.trace = DiskLie::NotDurable { record }.tell(&trace).unwrap();
            let report = Explorer::default().explore::<SimDisk>(
                script,
                &recorded,
                DiskProfile::AnySubsetTorn,
                &options,
                &Gauge::default(),
            );
            let list = if report.failure.is_some() { &mut needed } else { &mut unnoticed };
            *list.entry(purpose(*at, bytes)).or_default() += 1;
        }
    }
    println!("durable writes: needed {needed:?}, unnoticed somewhere {unnoticed:?}");
    assert!(needed.contains_key("commit") && needed.contains_key("seal"), "{needed:?}");
    assert!(unnoticed.keys().all(|what| needed.contains_key(what)), "{unnoticed:?}");
}

/// A script on a device that has durable writes.
struct OnDurable<'s>(&'s Script);

impl Workload<SimDisk> for OnDurable<'_> {
    fn name(&self) -> &str {
        self.0.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        self.0.start_on(geometry(self.0.blocks).with_write_durable())
    }

    fn run(&self, disk: &SimDisk, run: &Run) {
        self.0.run(disk, run);
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        self.0.recover(disk, life)
    }

    fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Found {
        self.0.check(disk, life, expected)
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        self.0.is_same(first, second)
    }
}

/// What each flush is for: what was written last before it.
fn purposes(trace: &Trace<BlockOp>) -> Vec<&'static str> {
    let mut last = None;
    let mut purposes = Vec::new();
    for op in trace.records().iter().filter_map(|record| record.op()) {
        match op {
            BlockOp::Write { at, bytes, .. } => last = Some(purpose(*at, bytes)),
            BlockOp::Flush { .. } => purposes.push(last.take().unwrap_or("open")),
        }
    }
    purposes
}

/// What a write is for.
fn purpose(at: BlockIndex, bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"SFSUPER1") {
        return "root";
    }
    let (header, _) = journal::frame::decode(&bytes[..512], options().store_id, at).unwrap();
    match header.kind {
        journal::Kind::Header => "header",
        journal::Kind::Copied | journal::Kind::Closing => "closing",
        journal::Kind::Commit => "commit",
        journal::Kind::Seal => "seal",
        journal::Kind::Open => "record of an open",
    }
}

/// A device that lies about one write: it never lands, or lands in any other place. Nothing is promised on such a device but that
/// it is said: after a clean close, whatever is not damaged is whole, and what is certain is the newest.
#[test]
fn lost_and_misdirected_writes_are_reported_as_damage() {
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    for script in &SCRIPTS {
        let recorded = Scenario::plain(script.name).record::<SimDisk>(script).unwrap();
        let disk = SimDisk::resume(&recorded.start, recorded.trace);
        Store::open(disk.clone(), Access::Write).unwrap().0.close().unwrap();
        let (honest, _) = Store::open(disk.clone(), Access::Read).unwrap();
        let (whole, trace) = (values(&honest), disk.trace());
        for record in 0..trace.len() {
            let elsewhere = (0..script.blocks)
                .map(|to| ("misdirected", DiskLie::Misdirected { record, to: BlockIndex::new(to) }));
            for (what, lie) in elsewhere.chain([("lost", DiskLie::Lost { record })]) {
                let Some(lied) = lie.tell(&trace) else { continue };
                let disk =
                    SimDisk::mount(SimDisk::resume(&recorded.start, lied).image(), crashsim::Recording::Off);
                let told = match Store::open(disk, Access::Read) {
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}: {lie}", script.name);
                        "refused"
                    }
                    Ok((store, recovery)) if matches!(recovery.tail, Verdict::Damaged { .. }) => {
                        for (name, (found, newest)) in KEYS.iter().zip(values(&store).iter().zip(&whole)) {
                            let is_certain = store.certainty(&key(name)) == Certainty::Certain;
                            assert!(
                                !is_certain || found == newest,
                                "{}: {lie}: {name} {recovery:?}",
                                script.name
                            );
                        }
                        "damaged"
                    }
                    Ok((store, recovery)) => {
                        assert!(values(&store) == whole, "{}: {lie}: {recovery:?}", script.name);
                        "whole"
                    }
                };
                *counts.entry((what, told)).or_default() += 1;
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.contains_key(&("lost", "damaged")) && counts.contains_key(&("misdirected", "damaged")));
}

/// Operations by chance, on a device that is nearly always full.
struct ByChance {
    blocks: u64,
}

const OPERATIONS: u32 = 25;

impl ByChance {
    fn carry_out(told: &mut Told<'_>, random: &mut Random, nth: u32) -> Outcome {
        let mut name = || KEYS[usize::try_from(random.below(4)).unwrap()];
        let (first, second) = (name(), name());
        let len = usize::try_from([3, 60, 350, 650][usize::try_from(random.below(4)).unwrap()]).unwrap();
        let value = vec![u8::try_from(nth).unwrap(); len];
        match random.below(12) {
            0..=2 => told.put(first, &value),
            3 | 4 => told.put_buffered(first, &value),
            5 => told.delete(first),
            6 if first != second => told.batch(&[(first, Some(&value)), (second, None)]),
            6 | 7 => told.swap(first, &value),
            8 => told.sync(),
            9 | 10 => told.store.compact_step().map(drop),
            _ => {
                told.store = Store::open(told.disk.clone(), Access::Write)?.0;
                // Nobody has been promised anything about these.
                told.buffered.clear();
                Ok(())
            }
        }
    }
}

impl Workload<SimDisk> for ByChance {
    fn name(&self) -> &str {
        "by chance"
    }

    fn start(&self) -> (DiskImage, Expected) {
        Script { name: "", blocks: self.blocks, run: |_| Ok(()) }.start()
    }

    fn run(&self, disk: &SimDisk, run: &Run) {
        let Ok((store, _)) = Store::open(disk.clone(), Access::Write) else { return };
        let mut told = Told { disk, store, buffered: Vec::new() };
        let mut random = Random::new(run.seed);
        for nth in 0..OPERATIONS {
            // Drawn whether it is left out or not, so that the others stay what they are.
            let mut of_this = Random::new(random.next_u64());
            if run.skip.contains(&nth) {
                continue;
            }
            match Self::carry_out(&mut told, &mut of_this, nth) {
                Err(error) if error.kind() != ErrorKind::NoSpace => return,
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        SCRIPTS[0].recover(disk, life)
    }

    fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Found {
        SCRIPTS[0].check(disk, life, expected)
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        SCRIPTS[0].is_same(first, second)
    }

    fn operations(&self, _seed: u64) -> u32 {
        OPERATIONS
    }
}

#[test]
fn whatever_is_done_by_chance_keeps_every_promise() {
    let seeds = std::env::var("STATEFS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(20);
    let options = Options { states_max: 24, depth: 1, nested_states_max: 3, ..Options::default() };
    let campaign = Campaign {
        profiles: vec![DiskProfile::AnySubsetTorn],
        faults: Some(Options { depth: 0, ..options.clone() }),
        options,
        budget: u64::MAX,
        seeds_max: seeds,
    };
    for blocks in [30, 40] {
        let workload = ByChance { blocks };
        for row in campaign.run::<SimDisk>(&Explorer::default(), &workload, &Gauge::default(), |_| {}) {
            println!(
                "by chance, {blocks} blocks: runs {} visited {} distinct {}",
                row.runs, row.report.visited, row.report.distinct
            );
            if let Some(failure) = &row.report.failure {
                panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(&workload, &failure.id).unwrap());
            }
        }
    }
}
