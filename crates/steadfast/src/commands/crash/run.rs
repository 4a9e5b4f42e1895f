//! `steadfast crash run`: campaigns, and a table of what they found.

use std::path::Path;
use std::time::Instant;

use crashsim::CrashId;
use serde_json::{Value, json};

use super::artifacts::Artifacts;
use super::case::{AnyCase, Profile, When};
use super::explore::{Faults, Found, Plan, Planned, Totals, per_second, threads};
use super::{case_named, cases, no_profile, profiles, width_of};
use crate::cli::CrashRun;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

pub(super) fn run(args: &CrashRun, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let begun = Instant::now();
    let plan = plan(args)?;
    let artifacts = args.artifacts.as_deref().map(|dir| open_artifacts(dir, medium)).transpose()?;
    let mut told = Told { output, table: Table::of(&plan), log: String::new(), mistakes: Vec::new() };
    told.line(&told.table.head())?;
    let bar = output.progress(Some(0), Unit::Share);
    let (totals, outcome) = plan.carry_out(interrupt, &bar, |found| {
        if let Some(artifacts) = &artifacts {
            artifacts.row(&plan, found)?;
        }
        told.row(found)
    });
    bar.finish_and_clear();
    let stopped = outcome.is_err();
    told.end(&totals, stopped)?;
    if let Some(artifacts) = &artifacts {
        artifacts.log(&plan, &told.log)?;
    }
    let elapsed = begun.elapsed();
    output.say(format_args!(
        "{} states in {:.1} s, {} a second",
        grouped(totals.visited.into()),
        elapsed.as_secs_f64(),
        grouped(per_second(totals.visited, elapsed))
    ))?;
    outcome?;
    Ok(if totals.broken == 0 { Exit::Ok } else { Exit::NotSo })
}

fn plan(args: &CrashRun) -> Outcome<Plan> {
    let named = named_profiles(&args.profiles)?;
    let mut planned: Vec<Planned> = Vec::new();
    for name in &args.cases {
        // A case asked for twice would be two rows of one name.
        if planned.iter().any(|planned| planned.case.name() == name) {
            continue;
        }
        let case = case_named(name)?;
        let profiles = profiles_for(&*case, &named);
        if profiles.is_empty() {
            let names: Vec<&str> = case.profiles().iter().map(|profile| profile.name).collect();
            return Err(Failure::Usage {
                message: format!("none of these profiles is one of the medium that `{name}` is on"),
                hint: Some(format!("there are {}", names.join(", "))),
            });
        }
        planned.push(Planned { case, profiles });
    }
    if args.cases.is_empty() {
        let all = cases().into_iter().map(|case| Planned { profiles: profiles_for(&*case, &named), case });
        planned.extend(all.filter(|planned| !planned.profiles.is_empty()));
    }
    Ok(Plan {
        cases: planned,
        seed: args.seed,
        budget: args.budget,
        depth: args.depth,
        faults: if args.no_faults { Faults::LeftOut } else { Faults::Injected },
        threads: threads(args.threads)?,
    })
}

/// The profiles that are asked for, each once, in that order; by default, the usual ones of every medium.
fn named_profiles(names: &[String]) -> Outcome<Vec<Profile>> {
    let all = profiles();
    if names.is_empty() {
        return Ok(all.into_iter().filter(|profile| profile.when == When::ByDefault).collect());
    }
    let mut asked: Vec<Profile> = Vec::new();
    for name in names {
        let is_meant = |profile: &&Profile| match name.as_str() {
            "all" => profile.when != When::Named,
            name => profile.name == name,
        };
        let mut meant = all.iter().filter(is_meant).peekable();
        if meant.peek().is_none() {
            return Err(no_profile(name, &all));
        }
        for profile in meant {
            if !asked.contains(profile) {
                asked.push(*profile);
            }
        }
    }
    Ok(asked)
}

/// Those of its medium.
fn profiles_for(case: &dyn AnyCase, asked: &[Profile]) -> Vec<Profile> {
    let own = case.profiles();
    asked.iter().filter(|profile| own.contains(profile)).copied().collect()
}

/// What goes to stdout and, in words, into the log. No times: the same seed says the same.
struct Told<'o> {
    output: &'o Output,
    table: Table,
    log: String,
    mistakes: Vec<Mistake>,
}

impl Told<'_> {
    /// A line for the log, and without `--json` for stdout too.
    fn line(&mut self, line: &str) -> Outcome<()> {
        self.log.push_str(line);
        self.log.push('\n');
        if self.output.is_json() { Ok(()) } else { self.output.line(line) }
    }

    fn row(&mut self, found: &Found<'_>) -> Outcome<()> {
        if self.output.is_json() {
            self.output.object(true, row_json(found))?;
        }
        if found.is_broken() {
            self.remember(found);
        }
        self.line(&self.table.row(found))
    }

    /// What looks the same under another profile is told once.
    fn remember(&mut self, found: &Found<'_>) {
        let Some(new) = Mistake::of(found) else { return };
        match self.mistakes.iter_mut().find(|old| (&old.about, &old.why) == (&new.about, &new.why)) {
            Some(old) => old.ids.extend(new.ids),
            None => self.mistakes.push(new),
        }
    }

    fn end(&mut self, totals: &Totals, stopped: bool) -> Outcome<()> {
        for mistake in std::mem::take(&mut self.mistakes) {
            self.line(&mistake.words())?;
        }
        if self.output.is_json() {
            self.output.object(true, totals_json(totals, stopped))?;
        }
        self.line(&format!("\n{}", totals_words(totals, stopped)))
    }
}

/// How wide the columns are.
struct Table {
    case: usize,
    profile: usize,
}

impl Table {
    fn of(plan: &Plan) -> Self {
        let profiles = plan.cases.iter().flat_map(|planned| &planned.profiles);
        Self {
            case: width_of(plan.cases.iter().map(|planned| planned.case.name()).chain(["case"])),
            profile: width_of(profiles.map(|profile| profile.name).chain(["profile"])),
        }
    }

    fn head(&self) -> String {
        format!(
            "{:<case$}  {:<profile$}  {:>6}  {:>7}  {:>9}  {:>10}  {:<20}  result",
            "case",
            "profile",
            "runs",
            "points",
            "visited",
            "new images",
            "possible states",
            case = self.case,
            profile = self.profile,
        )
    }

    fn row(&self, found: &Found<'_>) -> String {
        let report = &found.row.report;
        format!(
            "{:<case$}  {:<profile$}  {:>6}  {:>7}  {:>9}  {:>10}  {:<20}  {}",
            found.case.name(),
            found.row.profile.name,
            runs_words(found),
            grouped(u128::try_from(report.points).unwrap_or(u128::MAX)),
            grouped(report.visited.into()),
            grouped(report.distinct.into()),
            share_words(found),
            result_words(found),
            case = self.case,
            profile = self.profile,
        )
    }
}

/// With a `+` where the budget left out some that were planned.
fn runs_words(found: &Found<'_>) -> String {
    format!("{}{}", grouped(found.row.runs.into()), if found.row.cut_short { "+" } else { "" })
}

/// `all 15`, or `4,096 of 2^41`.
fn share_words(found: &Found<'_>) -> String {
    const EXACT_MAX: u128 = 1 << 20;
    let report = &found.row.report;
    let covered = grouped(report.covered.into());
    if report.exhaustive && !found.stopped {
        return format!("all {covered}");
    }
    match report.space {
        space if space < EXACT_MAX => format!("{covered} of {}", grouped(space)),
        u128::MAX => format!("{covered} of over 2^127"),
        space => format!("{covered} of 2^{}", space.ilog2()),
    }
}

fn result(found: &Found<'_>) -> &'static str {
    match (found.is_broken(), found.stopped) {
        (true, _) => "broken",
        (false, true) => "stopped",
        (false, false) => "kept",
    }
}

fn result_words(found: &Found<'_>) -> String {
    match (&found.broken, found.is_broken()) {
        (Some(broken), _) => format!("BROKEN {}", broken.id),
        (None, true) => "BROKEN".to_owned(),
        (None, false) => result(found).to_owned(),
    }
}

/// One mistake, under each profile that shows it.
struct Mistake {
    about: String,
    why: String,
    ids: Vec<CrashId>,
}

impl Mistake {
    fn of(found: &Found<'_>) -> Option<Self> {
        let (id, verdict) = match (&found.broken, &found.row.report.failure) {
            (Some(broken), _) => (&broken.id, &broken.story.verdict),
            (None, Some(failure)) => (&failure.id, &failure.verdict),
            (None, None) => return None,
        };
        let why = format!("{} ({})", verdict.broken.as_deref().unwrap_or("it differs"), verdict.class);
        let about = format!("{}: {}", found.case.name(), found.case.about());
        Some(Self { about, why, ids: vec![id.clone()] })
    }

    fn words(&self) -> String {
        let mut words = format!("\nBROKEN PROMISE in {}\n  {}", self.about, self.why);
        for id in &self.ids {
            words.push_str(&format!("\n  steadfast crash replay {id}"));
        }
        words
    }
}

fn totals_words(totals: &Totals, stopped: bool) -> String {
    let result = match totals.broken {
        0 if stopped => "no promise was broken so far".to_owned(),
        0 => "every promise was kept".to_owned(),
        1 => "promises were broken in 1 row".to_owned(),
        count => format!("promises were broken in {count} rows"),
    };
    let before = if stopped { "Stopped before everything was done. " } else { "" };
    format!(
        "{before}{} crash points, {} states visited, {} distinct images: {result}.",
        grouped(totals.points.into()),
        grouped(totals.visited.into()),
        grouped(totals.distinct.into())
    )
}

/// One row for programs. What may be more than 64 bits is text.
pub(super) fn row_json(found: &Found<'_>) -> Value {
    let report = &found.row.report;
    let classes: serde_json::Map<String, Value> =
        report.classes.iter().map(|(class, &count)| (class.word().to_owned(), json!(count))).collect();
    let failure = found.broken.as_ref().map(|broken| {
        let (id, verdict) = (broken.id.to_string(), &broken.story.verdict);
        let first = report.failure.as_ref().map(|failure| failure.id.to_string());
        json!({
            "id": id,
            "class": verdict.class.word(),
            "why": verdict.broken,
            "replay": format!("steadfast crash replay {id}"),
            "first_id": first,
        })
    });
    json!({
        "case": found.case.name(),
        "profile": found.row.profile.name,
        "result": result(found),
        "runs": found.row.runs,
        "cut_short": found.row.cut_short,
        "points": report.points,
        "visited": report.visited,
        "checked": report.checked,
        "images": report.distinct,
        "space": report.space.to_string(),
        "covered": report.covered,
        "exhaustive": report.exhaustive && !found.stopped,
        "classes": classes,
        "broken_states": report.broken,
        "failure": failure,
    })
}

fn totals_json(totals: &Totals, stopped: bool) -> Value {
    json!({ "summary": {
        "rows": totals.rows,
        "broken_rows": totals.broken,
        "points": totals.points,
        "visited": totals.visited,
        "images": totals.distinct,
        "stopped": stopped,
    }})
}

/// A directory that cannot be had is no broken promise, which is what the exit code 1 of a run says.
fn open_artifacts(dir: &Path, medium: &Medium) -> Outcome<Artifacts> {
    Artifacts::open(dir, medium).map_err(|failure| match failure.exit() {
        Exit::NotSo => Failure::Usage {
            message: failure.to_string(),
            hint: Some("`--artifacts` needs a directory that is there or can be made".to_owned()),
        },
        _ => failure,
    })
}

/// `1,234,567`.
pub(super) fn grouped(count: u128) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_threes() {
        let words = [0, 7, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(words, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
    }
}
