//! Each barrier of durable-io is there for something that a case notices when it is gone.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]

use std::backtrace::Backtrace;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use crash_cases::{FileCase, OnSim, Site, cases};
use crashsim::{
    Explorer, FileProfile, Gauge, Life, Mutation, Options, Recording, Report, Run, Scenario, SimFs,
};
use media::doubles::{Call, Listener, Op, TapFs};

/// Who asked for each barrier, in order.
#[derive(Debug, Default)]
struct Callers(Mutex<Vec<String>>);

impl Listener for Callers {
    fn before(&self, call: &Call) -> io::Result<()> {
        if matches!(call.op, Op::SyncAll | Op::SyncData | Op::DirSync | Op::SyncFilesystem) {
            self.0.lock().unwrap().push(caller());
        }
        Ok(())
    }
}

/// The innermost functions of durable-io that are being called.
fn caller() -> String {
    let trace = Backtrace::force_capture().to_string();
    let names = trace.lines().filter_map(|line| line.trim_start().split_once(": ").map(|(_, name)| name));
    let ours = names.filter(|name| name.contains("durable_io::") && !name.contains("{{closure}}"));
    let short = |name: &str| {
        name.split("::<").next().unwrap_or(name).rsplit("durable_io::").next().unwrap().to_owned()
    };
    let mut names: Vec<String> = ours.map(short).collect();
    names.dedup();
    names.truncate(4);
    names.join(" < ")
}

/// What a run of the case asks for, barrier by barrier.
fn callers(case: &dyn FileCase, scenario: &Scenario) -> Vec<String> {
    let recorded = scenario.record::<SimFs>(&OnSim(case)).unwrap();
    let sim = SimFs::mount(recorded.start, Recording::Off);
    let callers = Arc::new(Callers::default());
    let fs = TapFs::shared(sim.shared(), Arc::<Callers>::clone(&callers));
    let site = Site::new(fs, "/home", Life::default(), &sim);
    case.run(&site, &Run { seed: scenario.seed, skip: Vec::new() });
    std::mem::take(&mut *callers.0.lock().unwrap())
}

fn explore(case: &dyn FileCase, scenario: &Scenario) -> Option<Report> {
    let options = Options { states_max: 256, depth: 0, kills: false, ..Options::default() };
    let recorded = scenario.record::<SimFs>(&OnSim(case))?;
    Some(Explorer::default().explore(
        &OnSim(case),
        &recorded,
        FileProfile::POSIX_MIN,
        &options,
        &Gauge::default(),
    ))
}

/// What became of the mutations of one barrier.
#[derive(Default)]
struct Mutated {
    /// Noticed when it is gone.
    gone: BTreeSet<String>,
    /// Noticed when it is late.
    late: BTreeSet<String>,
    unnoticed: BTreeSet<String>,
}

/// Barriers that no case misses in this place, each with the reason.
const NEVER_MISSED: [(&str, &str); 1] = [(
    "log::write::cut < log::Log::vet < log::Log::settle < log::Log::put_locked",
    "the append that follows has a barrier of its own; the same barrier is missed where no append follows (log-repair)",
)];

/// Every barrier of every case, taken away and made late.
fn mutations() -> BTreeMap<String, Mutated> {
    let mut sites: BTreeMap<String, Mutated> = BTreeMap::new();
    // Those made by chance use nothing that the others do not.
    for case in cases().into_iter().filter(|case| case.operations(1) == 0) {
        let plain = Scenario::plain(case.name());
        let recorded = plain.record::<SimFs>(&OnSim(&*case)).unwrap();
        let records = recorded.trace.records().iter().enumerate();
        let barriers = records.filter(|(_, record)| record.op().is_some_and(|op| op.is_barrier()));
        let barriers: Vec<usize> = barriers.map(|(at, _)| at).collect();
        let callers = callers(&*case, &plain);
        assert_eq!(barriers.len(), callers.len(), "{}", case.name());
        for (at, caller) in barriers.into_iter().zip(callers) {
            let site = sites.entry(caller).or_default();
            for mutation in [Mutation::Removed(at), Mutation::Late(at)] {
                let scenario = Scenario { mutation: Some(mutation), ..plain.clone() };
                let Some(report) = explore(&*case, &scenario) else { continue };
                let list = match (report.failure, mutation) {
                    (Some(_), Mutation::Removed(_)) => &mut site.gone,
                    (Some(_), Mutation::Late(_)) => &mut site.late,
                    (None, _) => &mut site.unnoticed,
                };
                list.insert(scenario.to_string());
            }
        }
    }
    sites
}

#[test]
fn every_barrier_is_missed_by_some_case_when_it_is_gone() {
    let sites = mutations();
    let first = |list: &BTreeSet<String>| list.first().cloned().unwrap_or_default();
    for (caller, site) in &sites {
        println!(
            "{caller}\n    gone: noticed {} ({}); late: noticed {} ({}); unnoticed {} ({})",
            site.gone.len(),
            first(&site.gone),
            site.late.len(),
            first(&site.late),
            site.unnoticed.len(),
            first(&site.unnoticed),
        );
    }
    let never = sites.iter().filter(|(_, site)| site.gone.is_empty());
    let never: Vec<&str> = never.map(|(caller, _)| caller.as_str()).collect();
    println!("{} barriers, never missed: {never:?}", sites.len());
    assert_eq!(never, NEVER_MISSED.map(|(caller, _)| caller));
}
