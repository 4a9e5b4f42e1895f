//! [`barrier_sites`]: every barrier that an engine asks for, by the place in its code that asks, taken away and made late in
//! every case that reaches it.

use std::backtrace::Backtrace;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crashsim::{Barrier, FileProfile, Late, Life, Options, Recording, Run, Scenario, SimFs, barriers};
use media::doubles::{Call, Listener, TapFs};

use crate::cases::cases;
use crate::site::{FileCase, OnSim, Site};

/// A place in the code that asks for a barrier.
#[derive(Debug, Clone)]
pub struct BarrierSite {
    /// The innermost functions of the engine, the innermost first.
    pub caller: String,
    /// What happened without it, case by case.
    pub mutated: Vec<MutatedBarrier>,
}

/// A barrier in one case.
#[derive(Debug, Clone)]
pub struct MutatedBarrier {
    /// The name of the case.
    pub case: String,
    /// What happens without it.
    pub barrier: Barrier,
}

impl BarrierSite {
    /// The cases that notice when it is gone.
    pub fn gone(&self) -> impl Iterator<Item = &crashsim::Failure> {
        self.mutated.iter().filter_map(|mutated| mutated.barrier.removed.as_ref())
    }

    /// The cases that notice when it is late.
    pub fn late(&self) -> impl Iterator<Item = &crashsim::Failure> {
        self.mutated.iter().filter_map(|mutated| match &mutated.barrier.late {
            Late::Breaks(failure) => Some(failure),
            Late::Never | Late::Unnoticed => None,
        })
    }
}

/// Takes away every barrier of every case whose workload is always the same. (Those made by chance use nothing that the others
/// do not.)
#[must_use]
pub fn barrier_sites(profile: FileProfile, options: &Options) -> Vec<BarrierSite> {
    let mut sites: BTreeMap<String, Vec<MutatedBarrier>> = BTreeMap::new();
    for case in cases().into_iter().filter(|case| case.operations(1) == 0) {
        let scenario = Scenario::plain(case.name());
        let mutated = barriers::<SimFs>(&OnSim(&*case), &scenario, profile, options);
        for (barrier, caller) in mutated.into_iter().zip(callers(&*case)) {
            let mutated = MutatedBarrier { case: case.name().to_owned(), barrier };
            sites.entry(caller).or_default().push(mutated);
        }
    }
    sites.into_iter().map(|(caller, mutated)| BarrierSite { caller, mutated }).collect()
}

/// Who asked for each barrier, in order.
#[derive(Debug, Default)]
struct Callers(Mutex<Vec<String>>);

impl Listener for Callers {
    fn before(&self, call: &Call) -> io::Result<()> {
        if call.op.is_barrier() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(caller());
        }
        Ok(())
    }
}

/// The innermost functions of the engine that are being called.
fn caller() -> String {
    let trace = Backtrace::force_capture().to_string();
    let names = trace.lines().filter_map(|line| line.trim_start().split_once(": ").map(|(_, name)| name));
    let ours = names.filter(|name| name.contains("durable_io::") && !name.contains("{{closure}}"));
    let short = |name: &str| {
        let bare = name.split("::<").next().unwrap_or(name);
        bare.rsplit("durable_io::").next().unwrap_or(bare).to_owned()
    };
    let mut names: Vec<String> = ours.map(short).collect();
    names.dedup();
    names.truncate(4);
    names.join(" < ")
}

/// What a run of the case asks for, barrier by barrier.
fn callers(case: &dyn FileCase) -> Vec<String> {
    let Some(recorded) = Scenario::plain(case.name()).record::<SimFs>(&OnSim(case)) else {
        return Vec::new();
    };
    let sim = SimFs::mount(recorded.start, Recording::Off);
    let callers = Arc::new(Callers::default());
    let fs = TapFs::shared(sim.shared(), Arc::<Callers>::clone(&callers));
    case.run(&Site::new(fs, crate::site::ROOT, Life::default(), &sim), &Run::default());
    std::mem::take(&mut *callers.0.lock().unwrap_or_else(PoisonError::into_inner))
}
