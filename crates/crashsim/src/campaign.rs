//! [`Campaign`]: a workload under several profiles, with faults, from many seeds, until a budget is used up.

use std::sync::atomic::Ordering;

use crate::explore::{Explorer, Gauge, Options, Report, Workload};
use crate::id::Scenario;
use crate::medium::Medium;

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
    /// How many seeds there are at most.
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
        // A workload whose operations can be counted is made from a seed; the others are always the same.
        let is_seeded = workload.operations(self.options.seed) > 0;
        let seeds = if is_seeded { self.seeds_max.max(1) } else { 1 };
        for nth in 0..seeds {
            let seed = if is_seeded { self.options.seed.wrapping_add(nth) } else { 0 };
            let plain = Scenario { seed, ..Scenario::plain(workload.name()) };
            if self.is_over(gauge, row) {
                return;
            }
            let calls = self.explore(explorer, workload, gauge, row, &plain, &self.options);
            let Some(options) = &self.faults else { continue };
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
    ) -> Vec<Vec<crate::fault::Fault>> {
        let Some(recorded) = scenario.record(workload) else { return Vec::new() };
        row.report.add(explorer.explore(workload, &recorded, row.profile, options, gauge));
        row.runs += 1;
        recorded.possible_faults
    }
}
