//! [`barrier_sites`]: every barrier that an engine asks for, by the place in its code that asks, taken away and made late in
//! every case that reaches it.

use std::backtrace::Backtrace;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crashsim::{
    Barrier, DiskProfile, FileProfile, Late, Life, Medium, Options, Recording, Run, Scenario, SimDisk, SimFs,
    barriers,
};
use media::doubles::{Call, Listener, TapFs};

use crate::CaseOn;
use crate::cases::cases;
use crate::site::{FileCase, OnSim, Site};
use crate::state::state_cases;

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

/// The engines on files. Where `durable_io` alone is being called, it need not be said that it is.
const ON_FILES: Engines<'_> =
    Engines { crates: &["content", "crash_recovery", "durable_io", "journal"], unsaid: Some("durable_io") };

/// The engines on disks.
const ON_DISKS: Engines<'_> = Engines { crates: &["journal", "statefs"], unsaid: None };

/// Crates whose functions are looked for.
#[derive(Debug, Clone, Copy)]
struct Engines<'e> {
    crates: &'e [&'e str],
    /// The one that is not named where no other is being called.
    unsaid: Option<&'e str>,
}

/// Takes away every barrier of every case on files whose workload is always the same. (Those made by chance use nothing that
/// the others do not.)
#[must_use]
pub fn barrier_sites(profile: FileProfile, options: &Options) -> Vec<BarrierSite> {
    let mut sites = Sites::default();
    for case in cases().into_iter().filter(|case| case.operations(1) == 0) {
        sites.add::<SimFs>(&OnSim(&*case), profile, options, callers(&*case));
    }
    sites.all()
}

/// The same for every case of the key/value store.
#[must_use]
pub fn disk_barrier_sites(profile: DiskProfile, options: &Options) -> Vec<BarrierSite> {
    let mut sites = Sites::default();
    for case in state_cases().into_iter().filter(|case| case.operations(1) == 0) {
        sites.add::<SimDisk>(&*case, profile, options, disk_callers(&*case));
    }
    sites.all()
}

/// By the place that asks.
#[derive(Default)]
struct Sites(BTreeMap<String, Vec<MutatedBarrier>>);

impl Sites {
    fn add<M: Medium>(
        &mut self,
        case: &dyn CaseOn<M>,
        profile: M::Profile,
        options: &Options,
        callers: Vec<String>,
    ) {
        let mutated = barriers::<M>(case, &Scenario::plain(case.name()), profile, options);
        for (barrier, caller) in mutated.into_iter().zip(callers) {
            let mutated = MutatedBarrier { case: case.name().to_owned(), barrier };
            self.0.entry(caller).or_default().push(mutated);
        }
    }

    fn all(self) -> Vec<BarrierSite> {
        self.0.into_iter().map(|(caller, mutated)| BarrierSite { caller, mutated }).collect()
    }
}

/// Who asked for each barrier, in order.
#[derive(Debug, Default)]
struct Callers(Mutex<Vec<String>>);

impl Listener for Callers {
    fn before(&self, call: &Call) -> io::Result<()> {
        if call.op.is_barrier() {
            self.push(caller(ON_FILES));
        }
        Ok(())
    }
}

impl Callers {
    fn push(&self, caller: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(caller);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The innermost functions of these engines that are being called.
fn caller(engines: Engines<'_>) -> String {
    let trace = Backtrace::force_capture().to_string();
    let names = trace.lines().filter_map(|line| line.trim_start().split_once(": ").map(|(_, name)| name));
    let mut names: Vec<(&str, String)> = names.filter_map(|name| short(name, engines.crates)).collect();
    names.dedup();
    names.truncate(4);
    let is_said = names.iter().any(|(engine, _)| Some(*engine) != engines.unsaid);
    let words = names.iter().map(|(engine, path)| match is_said {
        true => format!("{engine}::{path}"),
        false => path.clone(),
    });
    words.collect::<Vec<_>>().join(" < ")
}

/// A function of one of these crates, as the crate and `module::Type::function`.
fn short<'e>(name: &str, crates: &[&'e str]) -> Option<(&'e str, String)> {
    if name.contains("{{closure}}") {
        return None;
    }
    // `engine::module::<impl engine::Type<D>>::function::<T>`
    let bare = match name.split_once("::<impl ") {
        None => name.split("::<").next().unwrap_or(name).to_owned(),
        Some((module, rest)) => {
            let (_, function) = rest.rsplit_once(">::").or_else(|| rest.rsplit_once("::"))?;
            format!("{module}::{function}")
        }
    };
    let bare = without_parameters(&bare);
    crates.iter().find_map(|engine| {
        let path = bare.strip_prefix(engine)?.strip_prefix("::")?;
        Some((*engine, path.to_owned()))
    })
}

/// Without what stands in angle brackets.
fn without_parameters(name: &str) -> String {
    let mut depth = 0_u32;
    let mut kept = String::new();
    for letter in name.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            letter if depth == 0 => kept.push(letter),
            _ => {}
        }
    }
    kept
}

/// What a run of the case asks of its disk, barrier by barrier.
fn disk_callers(case: &dyn CaseOn<SimDisk>) -> Vec<String> {
    let (image, _) = case.start();
    let disk = SimDisk::mount(image, Recording::Off);
    let callers = Arc::new(Callers::default());
    let heard = Arc::clone(&callers);
    disk.listen_for_flushes(move || heard.push(caller(ON_DISKS)));
    case.run(&disk, &Run::default());
    callers.take()
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
    callers.take()
}
