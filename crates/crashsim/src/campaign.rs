//! [`Campaign`]: a workload under several profiles, with faults, from many seeds, until a budget is used up.

use std::sync::atomic::Ordering;

use crate::explore::{Explorer, Gauge, Options, Report, Workload};
use crate::fault::Fault;
use crate::id::Scenario;
use crate::medium::Medium;
use crate::space::Random;

/// How a workload is put through its paces.
#[derive(Debug, Clone)]
pub struct Campaign<P> {
    /// One after the other.
    pub profiles: Vec<P>,
    /// How each run is explored.
    pub options: Options,
    /// How runs are explored in which a call goes wrong; [`None`] leaves them out.
    pub faults: Option<Options>,
    /// How many states are visited for each profile; what has begun is finished. Workloads made by chance go on from
    /// seed to seed until then.
    pub budget: u64,
    /// How many seeds a workload made by chance has at most.
    pub seeds_max: u64,
}

/// What a campaign found under one profile.
#[derive(Debug, Clone)]
pub struct Row<P> {
    /// The profile.
    pub profile: P,
    /// How often the workload ran: once for each seed, and once for each fault.
    pub runs: u64,
    /// Whether the budget ended it before everything planned was done.
    pub cut_short: bool,
    /// All explorations together.
    pub report: Report,
}

impl<P: Copy> Campaign<P> {
    /// Everything planned for one workload. The rows come in the order of the profiles; `each` hears of them as they
    /// are done.
    pub fn run<M: Medium<Profile = P>>(
        &self,
        explorer: &Explorer,
        workload: &dyn Workload<M>,
        gauge: &Gauge,
        mut each: impl FnMut(&Row<P>),
    ) -> Vec<Row<P>> {
        let mut rows = Vec::new();
        for &profile in &self.profiles {
            let mut row = Row {
                profile,
                runs: 0,
                cut_short: false,
                report: Report { exhaustive: true, ..Report::default() },
            };
            self.under(explorer, workload, gauge, &mut row);
            each(&row);
            rows.push(row);
            if gauge.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        rows
    }

    fn under<M: Medium<Profile = P>>(
        &self,
        explorer: &Explorer,
        workload: &dyn Workload<M>,
        gauge: &Gauge,
        row: &mut Row<P>,
    ) {
        if workload.operations(self.options.seed) > 0 {
            return self.swarm(explorer, workload, gauge, row);
        }
        let plain = Scenario::plain(workload.name());
        let calls = self.explore(explorer, workload, gauge, row, &plain, &self.options);
        let Some(options) = &self.faults else { return };
        for (call, faults) in (0..).zip(calls) {
            for fault in faults {
                if self.is_over(gauge, row) {
                    return;
                }
                let faulty = Scenario { faults: vec![(call, fault)], ..plain.clone() };
                self.explore(explorer, workload, gauge, row, &faulty, options);
            }
        }
    }

    /// A workload made by chance, from seed to seed. Each run switches some of what may go wrong off, so that the rest is not
    /// always drowned by it.
    fn swarm<M: Medium<Profile = P>>(
        &self,
        explorer: &Explorer,
        workload: &dyn Workload<M>,
        gauge: &Gauge,
        row: &mut Row<P>,
    ) {
        for nth in 0..self.seeds_max {
            if self.is_over(gauge, row) {
                return;
            }
            let seed = self.options.seed.wrapping_add(nth);
            let mut random = Random::new(seed);
            let mut options = self.options.clone();
            options.kills &= random.below(2) == 1;
            let plain = Scenario { seed, ..Scenario::plain(workload.name()) };
            let calls = self.explore(explorer, workload, gauge, row, &plain, &options);
            let Some(options) = &self.faults else { continue };
            let faults = some_faults(&calls, &mut random);
            if !faults.is_empty() {
                self.explore(explorer, workload, gauge, row, &Scenario { faults, ..plain }, options);
            }
        }
    }

    fn is_over(&self, gauge: &Gauge, row: &mut Row<P>) -> bool {
        row.cut_short |= row.report.visited >= self.budget || gauge.stop.load(Ordering::Relaxed);
        row.cut_short
    }

    /// One run, explored. Gives what may go wrong in it.
    fn explore<M: Medium<Profile = P>>(
        &self,
        explorer: &Explorer,
        workload: &dyn Workload<M>,
        gauge: &Gauge,
        row: &mut Row<P>,
        scenario: &Scenario,
        options: &Options,
    ) -> Vec<Vec<Fault>> {
        let Some(recorded) = scenario.record(workload) else { return Vec::new() };
        row.report.add(explorer.explore(workload, &recorded, row.profile, options, gauge));
        row.runs += 1;
        recorded.possible_faults
    }
}

/// One or two calls that go wrong, in a way that is not switched off this time.
fn some_faults(calls: &[Vec<Fault>], random: &mut Random) -> Vec<(u64, Fault)> {
    let (fails, is_late, is_short) = (random.below(2) == 1, random.below(2) == 1, random.below(2) == 1);
    let is_on = |fault: &Fault| match fault {
        Fault::Fail(_) => fails,
        Fault::FailAfter(_) => is_late,
        Fault::Short(_) => is_short,
    };
    let mut choices: Vec<(u64, Fault)> = Vec::new();
    for (call, faults) in (0..).zip(calls) {
        choices.extend(faults.iter().filter(|fault| is_on(fault)).map(|&fault| (call, fault)));
    }
    let count = u32::try_from(choices.len()).unwrap_or(u32::MAX);
    let mut draw = || choices.get(usize::try_from(random.below(count)).unwrap_or(0)).copied();
    let mut drawn: Vec<(u64, Fault)> = draw().into_iter().chain(draw()).collect();
    drawn.sort_unstable();
    drawn.dedup_by_key(|(call, _)| *call);
    drawn
}
