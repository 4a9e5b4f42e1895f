//! The end of the demonstration: what was just done on real files, with the power cut at every point of it.

use crashsim::Options;

use super::case::{AnyCanary, When, canaries, cases};
use super::explore::{Faults, Plan, Planned, threads};
use super::run::grouped;
use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::output::{Output, Unit};

/// What the demonstration did, by the beginning of the names of the cases.
const SHOWN: [&str; 4] = ["replace", "update", "log", "bulk"];
/// What it did with the key/value store.
const SHOWN_STATE: [&str; 5] = ["state-put", "state-batch", "state-swap", "state-compact", "state-close"];
/// How many states are visited in all: a second or two.
const STATES: u64 = 300_000;
const STATES_STATE: u64 = 60_000;

/// What was seen.
pub(in crate::commands) struct Shown {
    /// In words, line by line.
    pub(in crate::commands) lines: Vec<String>,
    /// Whether every promise was kept.
    pub(in crate::commands) kept: bool,
}

/// Cuts the power at every point of the cases that are shown, and once where a barrier is missing.
pub(in crate::commands) fn show(output: &Output, interrupt: &Interrupt) -> Outcome<Shown> {
    let mut shown = cut(&SHOWN, STATES, output, interrupt)?;
    shown.lines.extend(the_classic_mistake("rename-without-fsync", "ext4-ordered"));
    Ok(shown)
}

/// The same for the key/value store.
pub(in crate::commands) fn show_state(output: &Output, interrupt: &Interrupt) -> Outcome<Shown> {
    let mut shown = cut(&SHOWN_STATE, STATES_STATE, output, interrupt)?;
    shown.lines.extend(the_classic_mistake("state-no-flush", "any-subset-torn"));
    shown.lines.push(
        "A real cut leaves one disk; a simulated one can leave each that may be left. More of it:".to_owned(),
    );
    Ok(shown)
}

fn cut(starts: &[&str], states: u64, output: &Output, interrupt: &Interrupt) -> Outcome<Shown> {
    let is_shown = |name: &str| starts.iter().any(|start| name.starts_with(start));
    let planned = cases().into_iter().filter(|case| is_shown(case.name())).map(|case| {
        let profiles = case.profiles().into_iter().filter(|profile| profile.when == When::ByDefault);
        Planned { profiles: profiles.collect(), case }
    });
    let cases: Vec<Planned> = planned.collect();
    let rows: usize = cases.iter().map(|planned| planned.profiles.len()).sum();
    let plan = Plan {
        cases,
        seed: 1,
        budget: states / u64::try_from(rows).unwrap_or(1).max(1),
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
    Ok(Shown { lines, kept: totals.broken == 0 })
}

/// By contrast: a canary that everybody knows, and what the simulator makes of it.
fn the_classic_mistake(name: &str, profile: &str) -> Vec<String> {
    let canary = canaries().into_iter().find(|canary| canary.case.name() == name);
    canary.and_then(|canary| story_of(&canary, profile)).unwrap_or_default()
}

fn story_of(AnyCanary { case, seen }: &AnyCanary, profile: &str) -> Option<Vec<String>> {
    let options = Options::default();
    let found = case.first_failure(profile, &options)?;
    let story = case.replay(&case.shrunk(&found.id, &options)).ok()?;
    let mut lines = vec![
        format!("By contrast, a classic mistake ({}):", case.about()),
        format!("  BROKEN: {}", story.verdict.broken.as_deref().unwrap_or("nothing is wrong")),
    ];
    lines.extend(seen.map(|seen| format!("  seen on real file systems: {seen}")));
    lines.push(format!("  its story: steadfast crash replay {}", story.id));
    Some(lines)
}
