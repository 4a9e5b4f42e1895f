//! `steadfast crash`: the power-fail simulator on the command line.

use crash_cases::{Canary, FileCase, OnSim};
use crashsim::{Crash, CrashId, FileProfile, Options, ReplayError, Story, points};
use serde_json::{Value, json};

use crate::cli::CrashCommand;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

mod artifacts;
mod explore;
mod run;
mod show;

pub(super) use show::show;

/// What an id looks like, for who typed something else.
const GOOD_ID: &str = "an id looks like rename-without-fsync/ext4-ordered@4:lose=2.1; `steadfast crash replay --help` explains it";

pub(super) fn run(
    command: &CrashCommand,
    medium: &Medium,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome {
    match command {
        CrashCommand::Run(args) => run::run(args, medium, output, interrupt),
        CrashCommand::List => list(output),
        CrashCommand::Replay { id, trace } => replay(id, *trace, output),
    }
}

/// All profiles that can be named. The last one is no medium, so it is not among the usual ones.
fn profiles() -> Vec<FileProfile> {
    FileProfile::ALL.into_iter().chain([FileProfile::PREFIX]).collect()
}

fn list(output: &Output) -> Outcome {
    let (cases, canaries, profiles) = (crash_cases::cases(), crash_cases::canaries(), profiles());
    let is_default = |profile: &FileProfile| FileProfile::DEFAULT.contains(profile);
    if output.is_json() {
        let cases: Vec<Value> =
            cases.iter().map(|case| json!({ "name": case.name(), "about": case.about() })).collect();
        let canary = |canary: &Canary| json!({ "name": canary.name(), "about": canary.about(), "seen": canary.seen() });
        let canaries: Vec<Value> = canaries.iter().map(canary).collect();
        let profile = |profile: &FileProfile| {
            let (name, evidence) = (profile.name(), profile.evidence());
            json!({ "name": name, "evidence": evidence, "default": is_default(profile) })
        };
        let profiles: Vec<Value> = profiles.iter().map(profile).collect();
        output.object(true, json!({ "cases": cases, "canaries": canaries, "profiles": profiles }))?;
        return Ok(Exit::Ok);
    }
    let names = cases.iter().map(|case| case.name()).chain(canaries.iter().map(Canary::name));
    let width = width_of(names.chain(profiles.iter().map(|p| p.name())));
    output.line("cases: what is done when the power fails")?;
    for case in &cases {
        output.line(format_args!("  {:<width$}  {}", case.name(), case.about()))?;
    }
    output
        .line("\ncanaries: the classic mistakes, which must be found (run only where --case names them)")?;
    for canary in &canaries {
        output.line(format_args!("  {:<width$}  {}", canary.name(), canary.about()))?;
        output.line(format_args!("  {:<width$}  seen on real file systems: {}", "", canary.seen()))?;
    }
    output.line(
        "\nprofiles: what a file system does between two barriers (* unless --profile says otherwise)",
    )?;
    for profile in &profiles {
        let star = if is_default(profile) { '*' } else { ' ' };
        output.line(format_args!("{star} {:<width$}  {}", profile.name(), profile.evidence()))?;
    }
    Ok(Exit::Ok)
}

/// Of the longest of these.
fn width_of<'n>(names: impl Iterator<Item = &'n str>) -> usize {
    names.map(str::len).max().unwrap_or(0)
}

/// A case, or a canary.
fn case_named(name: &str) -> Outcome<Box<dyn FileCase>> {
    let canary = || crash_cases::canaries().into_iter().find(|canary| canary.name() == name);
    if let Some(case) = crash_cases::case_named(name) {
        return Ok(case);
    }
    if let Some(canary) = canary() {
        return Ok(Box::new(canary));
    }
    let (cases, canaries) = (crash_cases::cases(), crash_cases::canaries());
    let names = cases.iter().map(|case| case.name()).chain(canaries.iter().map(Canary::name));
    Err(Failure::Usage {
        message: format!("there is no case `{name}`"),
        hint: Some(format!("there are {}", names.collect::<Vec<_>>().join(", "))),
    })
}

fn no_profile(name: &str) -> Failure {
    let names: Vec<&str> = profiles().iter().map(FileProfile::name).collect();
    Failure::Usage {
        message: format!("there is no profile `{name}`"),
        hint: Some(format!("there are {}", names.join(", "))),
    }
}

fn replay(text: &str, with_points: bool, output: &Output) -> Outcome {
    let id: CrashId = text.parse().map_err(|e: crashsim::BadId| Failure::Usage {
        message: e.to_string(),
        hint: Some(GOOD_ID.into()),
    })?;
    let case = case_named(&id.scenario.case)?;
    let story = crashsim::replay(&OnSim(&*case), &id).map_err(|error| cannot_replay(&*case, &id, &error))?;
    let kept = story.verdict.broken.is_none();
    if output.is_json() {
        output.object(true, story_json(&story))?;
    } else {
        output.line(story_text(&*case, &story, with_points))?;
    }
    Ok(if kept { Exit::Ok } else { Exit::NotSo })
}

/// A story with an introduction, for those who have not read one yet.
fn story_text(case: &dyn FileCase, story: &Story, with_points: bool) -> String {
    let evidence =
        FileProfile::named(&story.id.profile).map_or("", |profile| FileProfile::evidence(&profile));
    let told = if with_points { format!("{story:#}") } else { story.to_string() };
    let (id, rest) = told.split_once('\n').unwrap_or((&told, ""));
    format!("{id}\n\ncase     {}\nprofile  {evidence}\n{rest}", case.about())
}

fn story_json(story: &Story) -> Value {
    let scene = |scene: &crashsim::Scene| {
        let line = |line: &crashsim::Line| json!({ "record": line.index, "text": line.text, "became": became_code(line.became) });
        let (kind, at) = match scene.crash {
            Crash::Kill { at } => ("kill", at),
            Crash::Power { at, .. } => ("power", at),
        };
        json!({ "crash": kind, "at": at, "lines": scene.lines.iter().map(line).collect::<Vec<_>>() })
    };
    json!({
        "id": story.id.to_string(),
        "kept": story.verdict.broken.is_none(),
        "class": story.verdict.class.word(),
        "why": story.verdict.broken,
        "scenes": story.scenes.iter().map(scene).collect::<Vec<_>>(),
    })
}

/// For programs.
fn became_code(became: crashsim::Became) -> &'static str {
    use crashsim::Became;
    match became {
        Became::Durable => "durable",
        Became::Survived => "survived",
        Became::InPart => "in_part",
        Became::Lost => "lost",
        Became::Junk => "junk",
        Became::Barrier => "barrier",
        Became::Removed => "removed",
        Became::Told => "told",
        Became::Passed => "passed",
    }
}

fn cannot_replay(case: &dyn FileCase, id: &CrashId, error: &ReplayError) -> Failure {
    let hint = match error {
        ReplayError::NoProfile(name) => return no_profile(name),
        // Those of a recovery depend on what it found.
        ReplayError::NoPoint { .. } if id.crashes.len() == 1 => crash_points(case, id),
        ReplayError::NoPoint { .. } => None,
        ReplayError::NoBarrier(_) => None,
        ReplayError::NoState { at } => Some(format!("`@{at}:none` loses all that may be lost there")),
    };
    Failure::Usage { message: error.to_string(), hint: hint.or_else(|| Some(GOOD_ID.to_owned())) }
}

/// Where the power may fail in the run of an id.
fn crash_points(case: &dyn FileCase, id: &CrashId) -> Option<String> {
    let profile = FileProfile::named(&id.profile)?;
    let recorded = id.scenario.record(&OnSim(case))?;
    let points = points(&recorded.start, &recorded.trace, profile);
    let points: Vec<String> = points.iter().map(|point| point.at.to_string()).collect();
    Some(format!("its crash points are {}", points.join(", ")))
}

/// How a search for a smaller failure goes: no further than the exploration that found it.
fn shrunk(case: &dyn FileCase, id: &CrashId, options: &Options) -> CrashId {
    crashsim::shrink(&OnSim(case), id, options)
}
