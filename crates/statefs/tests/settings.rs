//! Quotas, sealed prefixes and scrubs under power cuts, kills and faults, on devices as small as the format allows.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod told;

use told::{Outcome, Told, acknowledged, geometry, is_honest_after_faults, keeps_its_word, key, options};

use crashsim::{
    Class, DiskImage, DiskProfile, Expected, Life, Options, Run, Scenario, SimDisk, Value, Verdict as Found,
    Workload, barriers,
};
use statefs::{
    Access, Error, ErrorKind, Form, NoRandom, Nonces, Prefix, Quota, Rotation, Scrub, SealKey, Store,
    Verdict, Zeroizing,
};

/// What is put below sealed prefixes, and never stands on the medium.
const SEALED: &[u8] = b"A SEALED SECRET";
/// What is put elsewhere, deleted, and made to go.
const PLAIN: &[u8] = b"A PLAIN SECRET, LONG ENOUGH TO BE TORN IN TWO";

const KEYS: [&str; 9] = [
    "/state/a",
    "/state/q/a",
    "/state/q/b",
    "/state/q/life",
    "/state/s/a",
    "/state/s/b",
    "/state/s/life",
    "/state/secret",
    "/state/t/a",
];
const MEDIUM: &str = "what was deleted is on the medium";

/// A number that no two nonces of a store have: the revision at open, and a count.
struct Counting(u64, u64);

impl Nonces for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        self.1 += 1;
        bytes.fill(0);
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.1.to_le_bytes());
        Ok(())
    }
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap()
}

fn seal_key(id: u32) -> SealKey {
    SealKey::new(id, Zeroizing::new([u8::try_from(id).unwrap(); 32]))
}

/// Opens a store with every key there is.
fn open(disk: &SimDisk, access: Access) -> Result<(Store<SimDisk>, statefs::Recovery), Error> {
    let (mut store, recovery) = Store::open(disk.clone(), access)?;
    store.set_nonces(Box::new(Counting(store.durable_revision().get(), 0)));
    let sealed: Vec<Prefix> = store.sealed_prefixes().map(|(prefix, _)| prefix.clone()).collect();
    for prefix in sealed {
        let unlocked =
            [1, 2, 3].into_iter().filter(|id| store.unlock(&prefix, seal_key(*id)).is_ok()).count();
        assert!(unlocked > 0);
    }
    Ok((store, recovery))
}

fn quota_cell(prefix: &Prefix) -> String {
    format!("quota of {prefix}")
}

fn key_cell(prefix: &Prefix) -> String {
    format!("key of {prefix}")
}

fn set_quota(told: &mut Told<'_>, name: &str, quota: Quota) -> Outcome {
    let prefix = prefix(name);
    let value = Value::bytes(format!("{quota:?}").as_bytes());
    let atom = vec![(quota_cell(&prefix).into(), Some(value))];
    told.tell(format!("set quota {name}"), vec![atom], |store| store.set_quota(&prefix, quota).map(drop))
}

fn remove_quota(told: &mut Told<'_>, name: &str) -> Outcome {
    let prefix = prefix(name);
    let atom = vec![(quota_cell(&prefix).into(), None)];
    told.tell(format!("remove quota {name}"), vec![atom], |store| store.remove_quota(&prefix).map(drop))
}

fn seal(told: &mut Told<'_>, name: &str, id: u32) -> Outcome {
    let prefix = prefix(name);
    let atom = vec![(key_cell(&prefix).into(), Some(Value::bytes(&id.to_le_bytes())))];
    told.tell(format!("seal {name}"), vec![atom], |store| store.seal_prefix(&prefix, seal_key(id)).map(drop))
}

fn unseal(told: &mut Told<'_>, name: &str) -> Outcome {
    let prefix = prefix(name);
    let atom = vec![(key_cell(&prefix).into(), None)];
    told.tell(format!("unseal {name}"), vec![atom], |store| store.unseal_prefix(&prefix).map(drop))
}

/// A whole rotation with something between its steps.
fn rotate(
    told: &mut Told<'_>,
    name: &str,
    id: u32,
    mut between: impl FnMut(&mut Told<'_>, u8) -> Outcome,
) -> Outcome {
    let prefix = prefix(name);
    let atom = vec![(key_cell(&prefix).into(), Some(Value::bytes(&id.to_le_bytes())))];
    told.tell(format!("rotate {name}"), vec![atom], |store| store.begin_rotation(&prefix, seal_key(id)))?;
    for nth in 0..20 {
        // What it writes is what is there; what was buffered becomes durable with it.
        let step = told.tell("rotate".to_owned(), Vec::new(), |store| store.rotate_step(&prefix))?;
        if step == Rotation::Finished {
            return Ok(());
        }
        between(told, nth)?;
    }
    panic!("a rotation ends");
}

/// A whole scrub with something between its steps.
fn scrub(told: &mut Told<'_>, mut between: impl FnMut(&mut Told<'_>, u8) -> Outcome) -> Outcome {
    for nth in 0..60 {
        if told.store.scrub_step()? == Scrub::Finished {
            let atom = vec![(MEDIUM.into(), None)];
            // It was done before this is said: a cut here finds it done.
            return told.tell("scrubbed".to_owned(), vec![atom], |_| Ok(()));
        }
        between(told, nth)?;
    }
    panic!("a scrub ends");
}

fn is_refused<T>(outcome: Result<T, Error>) -> Outcome {
    match outcome {
        Err(Error::QuotaExceeded { .. } | Error::QuotaKeysExceeded { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => panic!("it was not refused"),
    }
}

struct Script {
    name: &'static str,
    blocks: u64,
    run: fn(&mut Told<'_>) -> Outcome,
}

fn hard(limit: u64) -> Quota {
    Quota { hard: Some(limit), ..Quota::default() }
}

fn has(disk: &SimDisk, needle: &[u8]) -> bool {
    disk.image().to_bytes().unwrap().windows(needle.len()).any(|window| window == needle)
}

fn values(store: &Store<SimDisk>) -> Vec<Option<Vec<u8>>> {
    KEYS.iter().map(|name| store.reveal(&key(name)).unwrap().map(|value| value.to_vec())).collect()
}

impl Script {
    /// What is wrong with what the store says of itself.
    fn contradiction(disk: &SimDisk, store: &Store<SimDisk>) -> Option<String> {
        for quota in store.quotas() {
            let covered = store.iter().filter(|(key, _)| quota.prefix.covers(key));
            let (bytes, keys) = covered.fold((0, 0), |(bytes, keys), (key, value)| {
                (bytes + key.as_str().len() + value.bytes.len(), keys + 1)
            });
            if (quota.used_bytes, quota.used_keys) != (u64::try_from(bytes).unwrap(), keys) {
                return Some(format!("{quota:?}, and counted {bytes} bytes, {keys} keys"));
            }
        }
        let sealed: Vec<Prefix> = store.sealed_prefixes().map(|(prefix, _)| prefix.clone()).collect();
        for (key, value) in store.iter() {
            let is_covered = sealed.iter().any(|prefix| prefix.covers(&key));
            if (value.form == Form::Sealed) != is_covered {
                return Some(format!("{key} is {:?}", value.form));
            }
            if let Err(error) = store.reveal(&key) {
                return Some(error.to_string());
            }
        }
        if has(disk, SEALED) {
            return Some("a sealed value stands on the medium as it was put".to_owned());
        }
        let verified = store.verify().unwrap();
        (!verified.is_sound()).then(|| format!("{verified:?}"))
    }
}

impl Workload<SimDisk> for Script {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        let disk = SimDisk::new(geometry(self.blocks));
        drop(Store::format(disk.clone(), &options()).unwrap());
        let (mut store, _) = open(&disk, Access::Write).unwrap();
        store.put(&key("/state/a"), b"zero").unwrap();
        store.set_quota(&prefix("/state/q"), hard(200)).unwrap();
        store.seal_prefix(&prefix("/state/s"), seal_key(1)).unwrap();
        store.put(&key("/state/s/a"), SEALED).unwrap();
        let started = [
            ("/state/a".into(), Some(Value::bytes(b"zero"))),
            ("/state/s/a".into(), Some(Value::bytes(SEALED))),
            (
                quota_cell(&prefix("/state/q")).into(),
                Some(Value::bytes(format!("{:?}", hard(200)).as_bytes())),
            ),
            (key_cell(&prefix("/state/s")).into(), Some(Value::bytes(&1_u32.to_le_bytes()))),
            (MEDIUM.into(), Some(Value::bytes(b"perhaps"))),
        ];
        (disk.image(), Expected::starting(started))
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        if let Ok((store, _)) = open(disk, Access::Write) {
            drop((self.run)(&mut Told { disk, store, buffered: Vec::new() }));
        }
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        let (store, recovery) = open(disk, Access::Write).map_err(|error| error.to_string())?;
        if let Verdict::Damaged { .. } = recovery.tail {
            return Err(format!("a power cut is taken for damage: {recovery:?}"));
        }
        if let Some(why) = Self::contradiction(disk, &store) {
            return Err(why);
        }
        // Life goes on, and a rotation that was cut short is carried to its end.
        let mut told = Told { disk, store, buffered: Vec::new() };
        if life.boot < 3 {
            let unless_full = |outcome: Outcome| match outcome {
                Err(error) if error.kind() != ErrorKind::NoSpace => Err(error.to_string()),
                Ok(()) | Err(_) => Ok(()),
            };
            let sealed: Vec<_> =
                told.store.sealed_prefixes().map(|(prefix, id)| (prefix.clone(), id)).collect();
            for (prefix, id) in sealed {
                unless_full(told.store.rotate(&prefix, seal_key(id)))?;
                let is_over = told.store.rotate_step(&prefix).is_ok_and(|step| step == Rotation::Finished);
                if !is_over {
                    return Err(format!("the rotation of {prefix} does not end"));
                }
            }
            let name = if life.boot < 2 { "/state/s/life" } else { "/state/q/life" };
            unless_full(told.put(name, b"1"))?;
        }
        Ok(())
    }

    fn check(&self, disk: &SimDisk, _life: Life, expected: &Expected) -> Found {
        let (store, _) = match open(disk, Access::Read) {
            Err(error) => return Found::broken(Class::CannotOpen, error.to_string()),
            Ok(opened) => opened,
        };
        if let Some(why) = Self::contradiction(disk, &store) {
            return Found::broken(Class::Stranger, why);
        }
        expected.judge(|cell| {
            let cell: &str = cell;
            if cell == MEDIUM {
                // Only a scrub that was acknowledged says that it is not.
                let must_be_gone = expected.allowed(cell).iter().all(Option::is_none);
                return (has(disk, PLAIN) || !must_be_gone).then(|| Value::bytes(b"perhaps"));
            }
            if let Some(name) = cell.strip_prefix("quota of ") {
                let quota = store.quotas().find(|quota| quota.prefix.as_str() == name)?;
                return Some(Value::bytes(format!("{:?}", quota.quota).as_bytes()));
            }
            if let Some(name) = cell.strip_prefix("key of ") {
                let (_, id) = store.sealed_prefixes().find(|(prefix, _)| prefix.as_str() == name)?;
                return Some(Value::bytes(&id.to_le_bytes()));
            }
            store.reveal(&key(cell)).unwrap().map(|value| Value::bytes(&value))
        })
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        let values = |disk: &SimDisk| open(disk, Access::Read).map(|(store, _)| values(&store)).ok();
        values(first) == values(second)
    }
}

const SCRIPTS: [Script; 10] = [
    Script {
        name: "quotas come, change and go",
        blocks: 40,
        run: |told| {
            set_quota(told, "/state", Quota { soft: Some(1), hard: None, keys: Some(7) })?;
            told.put("/state/q/a", b"1")?;
            set_quota(told, "/state/q", hard(40))?;
            remove_quota(told, "/state")?;
            told.compact(|told, _| set_quota(told, "/state/q", hard(30)))?;
            remove_quota(told, "/state/q")
        },
    },
    Script {
        name: "a quota at its limit",
        blocks: 44,
        run: |told| {
            told.put("/state/q/a", &[1; 190])?;
            is_refused(told.store.put(&key("/state/q/b"), b"1"))?;
            told.put("/state/q/a", &[2; 100])?;
            told.put_buffered("/state/q/b", &[3; 80])?;
            is_refused(told.store.put_buffered(&key("/state/q/b"), &[4; 81]))?;
            told.sync()?;
            told.batch(&[("/state/q/a", None), ("/state/q/b", Some(&[5; 190]))])?;
            told.delete("/state/q/b")
        },
    },
    Script {
        name: "a quota below what is there, and a compaction",
        blocks: 44,
        run: |told| {
            told.put("/state/q/a", &[1; 150])?;
            set_quota(told, "/state/q", hard(100))?;
            is_refused(told.store.put(&key("/state/q/b"), b"1"))?;
            told.compact(|told, nth| match nth {
                0 => told.put("/state/q/a", &[2; 120]),
                1 => told.delete("/state/q/a"),
                _ => told.swap("/state/q/b", &[nth; 80]),
            })
        },
    },
    Script {
        name: "every way to put a sealed value",
        blocks: 48,
        run: |told| {
            told.put("/state/s/a", &SEALED.repeat(2))?;
            told.put_buffered("/state/s/b", SEALED)?;
            told.put_buffered("/state/s/b", &SEALED.repeat(20))?;
            told.sync()?;
            told.batch(&[("/state/s/a", None), ("/state/s/b", Some(SEALED)), ("/state/a", Some(b"1"))])?;
            told.swap("/state/s/a", &SEALED.repeat(3))?;
            told.compact(|told, nth| told.put_buffered("/state/s/b", &SEALED.repeat(usize::from(nth) + 1)))?;
            told.delete("/state/s/a")
        },
    },
    Script {
        name: "a prefix is sealed, used, and unsealed",
        blocks: 44,
        run: |told| {
            seal(told, "/state/t", 3)?;
            told.put("/state/t/a", SEALED)?;
            told.put_buffered("/state/a", b"1")?;
            told.delete("/state/t/a")?;
            unseal(told, "/state/t")?;
            told.put("/state/t/a", b"plain")?;
            told.delete("/state/t/a")?;
            seal(told, "/state/t", 2)
        },
    },
    Script {
        name: "a rotation with puts between its steps",
        blocks: 56,
        run: |told| {
            told.put("/state/s/b", &SEALED.repeat(10))?;
            rotate(told, "/state/s", 2, |told, nth| match nth {
                0 => told.put_buffered("/state/s/a", &SEALED.repeat(2)),
                _ => told.put("/state/a", &[nth]),
            })?;
            told.put("/state/s/a", SEALED)?;
            rotate(told, "/state/s", 3, |_, _| Ok(()))
        },
    },
    Script {
        name: "a rotation and a compaction, step by step",
        blocks: 52,
        run: |told| {
            told.put("/state/s/b", &SEALED.repeat(10))?;
            rotate(told, "/state/s", 2, |told, _| told.store.compact_step().map(drop))?;
            told.compact(|_, _| Ok(()))
        },
    },
    Script {
        name: "put, delete, compact, scrub",
        blocks: 32,
        run: |told| {
            told.put("/state/secret", PLAIN)?;
            told.delete("/state/secret")?;
            told.compact(|_, _| Ok(()))?;
            // In both regions.
            told.put("/state/secret", PLAIN)?;
            told.delete("/state/secret")?;
            scrub(told, |_, _| Ok(()))?;
            told.put("/state/a", b"1")
        },
    },
    Script {
        name: "a copy that was given up, and a scrub",
        blocks: 40,
        run: |told| {
            told.put("/state/secret", PLAIN)?;
            for _ in 0..3 {
                told.store.compact_step()?;
            }
            told.store = open(told.disk, Access::Write)?.0;
            told.delete("/state/secret")?;
            scrub(told, |_, _| Ok(()))?;
            told.compact(|_, _| Ok(()))
        },
    },
    Script {
        name: "a scrub with puts between its steps",
        blocks: 44,
        run: |told| {
            told.put("/state/secret", &PLAIN.repeat(12))?;
            told.put_buffered("/state/secret", PLAIN)?;
            told.delete("/state/secret")?;
            // Into the other region a copy is begun, and a commit between.
            told.store.compact_step()?;
            scrub(told, |told, nth| match nth % 3 {
                0 => told.put("/state/a", &[nth]),
                1 => told.put_buffered("/state/s/a", &SEALED.repeat(2)),
                _ => Ok(()),
            })?;
            told.sync()
        },
    },
];

#[test]
fn settings_and_sealed_values_survive_every_power_cut_and_kill() {
    let options = Options { states_max: 150, depth: 1, nested_states_max: 4, ..Options::default() };
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
fn a_power_cut_in_a_recovery_from_a_power_cut_in_a_recovery_loses_no_setting() {
    let options = Options { states_max: 6, depth: 2, nested_states_max: 3, ..Options::default() };
    for script in &SCRIPTS {
        println!("{}", keeps_its_word(script, DiskProfile::AnySubsetTorn, &options).1);
    }
}

#[test]
fn after_a_fault_at_any_call_every_setting_is_what_was_said() {
    for script in &SCRIPTS {
        println!("{}", is_honest_after_faults(script));
    }
}

/// A test of the tests: without the last flush of a scrub, what was said to be gone is still there.
#[test]
fn without_the_flush_of_a_scrub_what_was_gone_is_there() {
    let options = Options { states_max: 60, depth: 0, kills: false, ..Options::default() };
    let script = SCRIPTS.iter().find(|script| script.name == "put, delete, compact, scrub").unwrap();
    let all =
        barriers::<SimDisk>(script, &Scenario::plain(script.name), DiskProfile::OrderedPrefix, &options);
    // Behind it comes one more, that of the last put.
    let [.., of_scrub, _] = all.as_slice() else { panic!("there are flushes") };
    assert!(of_scrub.removed.is_some(), "{} at {}", of_scrub.what, of_scrub.record);
}
