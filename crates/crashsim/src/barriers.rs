//! [`barriers`]: takes every barrier of a workload away in turn, and asks whether somebody notices.
//!
//! A barrier that can be taken away unnoticed is superfluous, or what checks it is too weak. So can be one that comes
//! late: durable by the time the workload is told so, but no longer ahead of what it was to be ahead of.

use crate::explore::{Explorer, Failure, Options, Workload};
use crate::id::{Mutation, Scenario};
use crate::medium::Medium;

/// One barrier, and what happens without it.
#[derive(Debug, Clone)]
pub struct Barrier {
    /// Its place in the trace.
    pub record: usize,
    /// What it is.
    pub what: String,
    /// The first promise that breaks if it is taken away.
    pub removed: Option<Failure>,
    /// The first promise that breaks if it comes late.
    pub late: Late,
}

/// What happens if a barrier comes late.
#[derive(Debug, Clone)]
pub enum Late {
    /// Nothing is between it and the next acknowledgement: it cannot come late.
    Never,
    /// Nothing breaks: the order does not matter here.
    Unnoticed,
    /// This breaks.
    Breaks(Failure),
}

/// Every barrier of a run of `scenario`, which must be without a mutation of its own.
pub fn barriers<M: Medium>(
    workload: &dyn Workload<M>,
    scenario: &Scenario,
    profile: M::Profile,
    options: &Options,
) -> Vec<Barrier> {
    let Some(recorded) = scenario.record(workload) else { return Vec::new() };
    let broken_by = |mutation| {
        let scenario = Scenario { mutation: Some(mutation), ..scenario.clone() };
        let mutated = scenario.record(workload)?;
        Some(Explorer::default().first_failure(workload, &mutated, profile, options))
    };
    let records = recorded.trace.records().iter().enumerate();
    records
        .filter_map(|(record, entry)| entry.op().filter(|op| M::is_barrier(op)).map(|op| (record, op)))
        .map(|(record, op)| Barrier {
            record,
            what: op.to_string(),
            removed: broken_by(Mutation::Removed(record)).flatten(),
            late: match broken_by(Mutation::Late(record)) {
                None => Late::Never,
                Some(None) => Late::Unnoticed,
                Some(Some(failure)) => Late::Breaks(failure),
            },
        })
        .collect()
}
