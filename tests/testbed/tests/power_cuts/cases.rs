//! The cases of the simulator on real file systems: what is seen is among what the profile allows, no case of ours breaks a
//! promise, and what only the profile has is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crash_cases::{FileCase, OnSim, Site, canaries, cases};
use crashsim::{
    Class, Disks, Expected, Explorer, FileProfile, Gauge, Life, Mark, Options, Run, Scenario, SimFs, Verdict,
    Witness,
};
use media::doubles::TapFs;
use media::{Fs, OsFs};
use testbed::{Cut, CutFs, CutKind, Missing, PullThePlug, need};

use crate::on_every_kind;

fn profile_of(kind: CutKind) -> FileProfile {
    match kind {
        CutKind::Ext4 => FileProfile::EXT4,
        CutKind::Ext4NoAutoDaAlloc => FileProfile::EXT4_NO_AUTO_DA_ALLOC,
        CutKind::Xfs => FileProfile::XFS,
        CutKind::Btrfs => FileProfile::BTRFS,
    }
}

/// Hears until the plug is pulled: what a program is told after the power has failed, nobody hears.
struct Told<'p> {
    marks: Mutex<Vec<Mark>>,
    plug: Option<&'p PullThePlug>,
}

impl Told<'_> {
    fn nothing_yet(plug: Option<&PullThePlug>) -> Told<'_> {
        Told { marks: Mutex::default(), plug }
    }
}

impl Witness for Told<'_> {
    fn tell(&self, mark: Mark) {
        if self.plug.is_none_or(|plug| plug.pulled().is_none()) {
            self.marks.lock().unwrap().push(mark);
        }
    }
}

/// Runs the case, stopped before call `at`, cuts the power, recovers and checks. [`None`] if it ran to its end.
fn stop_at(fs: &mut CutFs, case: &dyn FileCase, at: usize, how: Cut) -> (Verdict, bool) {
    fs.reset().unwrap();
    let nobody = Told::nothing_yet(None);
    let start = case.prepare(&Site::new(Arc::new(OsFs), fs.path(), Life::default(), &nobody)).unwrap();
    fs.sync().unwrap();
    let plug = Arc::new(PullThePlug::before(at));
    let told = Told::nothing_yet(Some(&plug));
    let tapped: Arc<dyn Fs> = TapFs::shared(Arc::new(OsFs), Arc::<PullThePlug>::clone(&plug));
    case.run(&Site::new(tapped, fs.path(), Life::default(), &told), &Run::default());
    fs.cut(how).unwrap();
    let expected = Expected::starting(start).after(told.marks.lock().unwrap().iter());
    let life = Life::default().rebooted();
    let site = Site::new(Arc::new(OsFs), fs.path(), life, &nobody);
    let verdict = match case.recover(&site) {
        Err(why) => Verdict::broken(Class::CannotOpen, why),
        Ok(()) => case.check(&site, &expected.after(nobody.marks.lock().unwrap().iter())),
    };
    (verdict, plug.pulled().is_none())
}

/// A case of more calls than this is stopped before so many of them, spread over all; with `STEADFAST_LONG`, before each.
const STOPS_MAX: usize = 12;

/// Before which calls a case is stopped: one in so many.
fn stride(calls: usize) -> usize {
    let is_long = std::env::var_os("STEADFAST_LONG").is_some();
    if is_long { 1 } else { calls.div_ceil(STOPS_MAX).max(1) }
}

/// What the profile allows for the case, and before which of its calls it is to be stopped.
fn predicted(case: &dyn FileCase, profile: FileProfile) -> (BTreeSet<Class>, usize) {
    let workload = OnSim(case);
    let recorded = Scenario::plain(case.name()).record::<SimFs>(&workload).unwrap();
    let options = Options { depth: 0, kills: false, ..Options::default() };
    let report =
        Explorer::default().explore::<SimFs>(&workload, &recorded, profile, &options, &Gauge::default());
    (report.classes.into_keys().collect(), stride(recorded.possible_faults.len()))
}

/// For each case, what was seen on one file system, and how many cuts that took.
type Seen = BTreeMap<String, (usize, BTreeSet<Class>)>;

fn stop_everywhere(kind: CutKind, cases: &[Box<dyn FileCase>]) -> Result<Seen, Missing> {
    let mut fs = CutFs::mount(kind)?;
    let mut all = Seen::new();
    for case in cases {
        let (predicted, stride) = predicted(&**case, profile_of(kind));
        let (cuts, seen) = all.entry(case.name().to_owned()).or_default();
        for how in Cut::ALL {
            for at in (0..).step_by(stride) {
                let (verdict, is_end) = stop_at(&mut fs, &**case, at, how);
                let place = format!("{} on {kind}, stopped before call {at}, cut {how}", case.name());
                assert!(
                    predicted.contains(&verdict.class),
                    "the profile does not allow {} ({:?}): {place}",
                    verdict.class,
                    verdict.broken
                );
                *cuts += 1;
                seen.insert(verdict.class);
                if is_end {
                    break;
                }
            }
        }
    }
    Ok(all)
}

fn words(classes: &BTreeSet<Class>) -> String {
    classes.iter().map(|class| class.word()).collect::<Vec<_>>().join(" ")
}

/// One row a case: what was seen on each file system, and in brackets what only its profile has.
fn table(cases: &[Box<dyn FileCase>], seen: &BTreeMap<CutKind, Seen>) -> String {
    let cell = |case: &dyn FileCase, kind: CutKind, outcomes: &Seen| {
        let (_, seen) = &outcomes[case.name()];
        let more: BTreeSet<Class> = predicted(case, profile_of(kind)).0.difference(seen).copied().collect();
        let more = if more.is_empty() { String::new() } else { format!(" [{}]", words(&more)) };
        format!(" | {kind}: {}{more}", words(seen))
    };
    let row = |case: &dyn FileCase| {
        let cells: String = seen.iter().map(|(&kind, outcomes)| cell(case, kind, outcomes)).collect();
        format!("{:<26}{cells}\n", case.name())
    };
    cases.iter().map(|case| row(&**case)).collect()
}

/// What was seen on each file system, and the same as a table.
type Comparison = (BTreeMap<CutKind, Seen>, String);

fn compare(cases: impl Fn() -> Vec<Box<dyn FileCase>> + Sync) -> Result<Comparison, Missing> {
    let outcomes = on_every_kind(|kind| stop_everywhere(kind, &cases()));
    let mut seen = BTreeMap::new();
    for (kind, outcome) in outcomes {
        seen.insert(kind, outcome?);
    }
    let table = table(&cases(), &seen);
    Ok((seen, table))
}

#[test]
fn no_case_breaks_a_promise_on_a_real_file_system() {
    let only = std::env::var("CASE").ok();
    let is_asked_for = |case: &dyn FileCase| only.as_ref().is_none_or(|only| case.name().contains(only));
    // What disks can do is not for a case to say here: those that say it are the same as others.
    let is_ours = |case: &dyn FileCase| case.operations(1) == 0 && case.disks() == Disks::default();
    let ours = || cases().into_iter().filter(|case| is_ours(&**case) && is_asked_for(&**case)).collect();
    let (seen, table) = need!(compare(ours));
    println!("{table}");
    for (kind, outcomes) in seen {
        for (name, (cuts, classes)) in outcomes {
            // Before its first call, and after its last; twice.
            assert!(cuts >= 2, "{name} on {kind}: {cuts} cuts");
            assert!(
                classes.iter().all(|class| matches!(class, Class::Old | Class::New)),
                "{name} on {kind}: {}",
                words(&classes)
            );
        }
    }
}

#[test]
fn canaries_break_on_real_file_systems_as_their_profiles_say() {
    let boxed = || canaries().into_iter().map(|canary| -> Box<dyn FileCase> { Box::new(canary) }).collect();
    let (seen, table) = need!(compare(boxed));
    println!("{table}");
    // What must be lost everywhere, whatever the timing.
    for (kind, outcomes) in seen {
        for name in ["rename-claimed", "dirsync-before-rename", "append-without-fsync"] {
            let (_, classes) = &outcomes[name];
            assert!(classes.contains(&Class::Lost), "{name} on {kind}: {}", words(classes));
        }
        let (_, clean) = &outcomes["clean-chain"];
        assert!(
            clean.iter().all(|class| matches!(class, Class::Old | Class::New)),
            "{kind}: {}",
            words(clean)
        );
    }
}
