//! The end of the demonstration: what was just done on real files, with the power cut at every point of it.

use crash_cases::{Canary, FileCase as _, OnSim};
use crashsim::{Explorer, FileProfile, Options, Scenario, Story};

use super::explore::{Faults, Plan, threads};
use super::run::grouped;
use super::shrunk;
use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::output::{Output, Unit};

/// What the demonstration did, by the beginning of the names of the cases.
const SHOWN: [&str; 4] = ["replace", "update", "log", "bulk"];
/// How many states are visited in all: a second or two.
const STATES: u64 = 300_000;

/// What was seen.
pub(in crate::commands) struct Shown {
    /// In words, line by line.
    pub(in crate::commands) lines: Vec<String>,
    /// Whether every promise was kept.
    pub(in crate::commands) kept: bool,
}

/// Cuts the power at every point of the cases that are shown, and once where a barrier is missing.
pub(in crate::commands) fn show(output: &Output, interrupt: &Interrupt) -> Outcome<Shown> {
    let is_shown = |name: &str| SHOWN.iter().any(|start| name.starts_with(start));
    let cases: Vec<_> = crash_cases::cases().into_iter().filter(|case| is_shown(case.name())).collect();
    let rows = u64::try_from(cases.len() * FileProfile::DEFAULT.len()).unwrap_or(1).max(1);
    let plan = Plan {
        cases,
        profiles: FileProfile::DEFAULT.to_vec(),
        seed: 1,
        budget: STATES / rows,
        depth: 1,
        faults: Faults::LeftOut,
        threads: threads(None)?,
    };
    let mut lines = Vec::new();
    let bar = output.progress(Some(0), Unit::Share);
    let (totals, outcome) = plan.carry_out(interrupt, &bar, |found| {
        lines.extend(found.broken.as_ref().map(|broken| {
            let why = broken.story.verdict.broken.as_deref().unwrap_or("nothing is wrong any more");
            format!("BROKEN: {why}\n  steadfast crash replay {}", broken.id)
        }));
        Ok(())
    });
    bar.finish_and_clear();
    outcome?;
    lines.insert(
        0,
        format!(
            "power cut at {} points, {} outcomes looked at, {} different disks among them: {} broken promises.",
            grouped(totals.points.into()),
            grouped(totals.visited.into()),
            grouped(totals.distinct.into()),
            totals.broken
        ),
    );
    lines.push(
        "  A real cut leaves one disk; a simulated one can leave each that may be left. More of it:"
            .to_owned(),
    );
    lines.push("  steadfast crash run".to_owned());
    lines.extend(the_classic_mistake());
    Ok(Shown { lines, kept: totals.broken == 0 })
}

/// By contrast: the canary that everybody knows, and what the simulator makes of it.
fn the_classic_mistake() -> Vec<String> {
    let canary = crash_cases::canaries().into_iter().find(|canary| canary.name() == "rename-without-fsync");
    let Some(canary) = canary else { return Vec::new() };
    let Some(story) = story_of(&canary) else { return Vec::new() };
    vec![
        format!("By contrast, a classic mistake ({}):", canary.about()),
        format!("  BROKEN: {}", story.verdict.broken.as_deref().unwrap_or("nothing is wrong")),
        format!("  seen on real file systems: {}", canary.seen()),
        format!("  its story: steadfast crash replay {}", story.id),
    ]
}

fn story_of(canary: &Canary) -> Option<Story> {
    let workload = OnSim(canary);
    let recorded = Scenario::plain(canary.name()).record(&workload)?;
    let options = Options::default();
    let found = Explorer::default().first_failure(&workload, &recorded, FileProfile::EXT4, &options)?;
    crashsim::replay(&workload, &shrunk(canary, &found.id, &options)).ok()
}
