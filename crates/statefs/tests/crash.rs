//! The store under power cuts, kills and faults, on devices as small as the format allows.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod told;

use told::{Outcome, Told, acknowledged, geometry, is_honest_after_faults, keeps_its_word, key, options};

use std::time::Duration;

use crashsim::{
    Campaign, Class, DiskImage, DiskProfile, Expected, Explorer, Gauge, Life, Options, Random, Run, Scenario,
    SimDisk, Value, Verdict as Found, Workload, barriers, replay,
};
use statefs::{Access, ErrorKind, Prefix, Store, Verdict};

const KEYS: [&str; 7] =
    ["/state/a", "/state/b", "/state/c", "/state/d", "/state/fill", "/state/life", "/state/scratch"];

/// A script on a store.
struct Script {
    name: &'static str,
    blocks: u64,
    run: fn(&mut Told<'_>) -> Outcome,
}

fn values(store: &Store<SimDisk>) -> Vec<Option<Vec<u8>>> {
    KEYS.iter().map(|name| store.get(&key(name)).map(|value| value.bytes.to_vec())).collect()
}

impl Workload<SimDisk> for Script {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        let disk = SimDisk::new(geometry(self.blocks));
        let mut store = Store::format(disk.clone(), &options()).unwrap();
        store.put(&key("/state/a"), b"zero").unwrap();
        drop(store);
        let started = ("/state/a".into(), Some(Value::bytes(b"zero")));
        (disk.image(), Expected::starting([started]))
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

const SCRIPTS: [Script; 11] = [
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

#[test]
fn acknowledged_writes_survive_every_power_cut_and_kill() {
    let options = Options { states_max: 600, depth: 1, nested_states_max: 12, ..Options::default() };
    let (mut visited, mut distinct) = (0, 0);
    for script in &SCRIPTS {
        assert!(acknowledged(script) > 0);
        for profile in DiskProfile::ALL {
            let (report, line) = keeps_its_word(script, profile, &options);
            println!("{line}");
            visited += report.visited;
            distinct += report.distinct;
        }
    }
    println!("visited {visited}, distinct {distinct}, broken 0");
}

#[test]
fn a_power_cut_in_a_recovery_from_a_power_cut_in_a_recovery_loses_nothing() {
    let options = Options { states_max: 30, depth: 2, nested_states_max: 5, ..Options::default() };
    for script in &SCRIPTS {
        println!("{}", keeps_its_word(script, DiskProfile::AnySubsetTorn, &options).1);
    }
}

/// Each call of each script fails, is carried out and fails, or is carried out in part; then the power fails as well.
#[test]
fn after_a_fault_at_any_call_every_error_was_honest() {
    for script in &SCRIPTS {
        println!("{}", is_honest_after_faults(script));
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

/// A test of the tests: without the flush of a commit, something that was acknowledged is lost, and it is found.
#[test]
fn without_the_flush_of_a_commit_something_is_lost() {
    let options = Options { states_max: 200, depth: 0, ..Options::default() };
    for script in SCRIPTS
        .iter()
        .filter(|script| ["put, put again, delete", "batch", "compaction"].contains(&script.name))
    {
        let scenario = Scenario::plain(script.name);
        let all = barriers::<SimDisk>(script, &scenario, DiskProfile::AnySubsetTorn, &options);
        // The first flush of the script itself: what came before belongs to the open.
        let commit = all.iter().find(|barrier| barrier.record == 5).unwrap();
        assert!(commit.removed.is_some(), "{}: {} at {}", script.name, commit.what, commit.record);
    }
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
