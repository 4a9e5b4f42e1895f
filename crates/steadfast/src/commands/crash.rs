//! `steadfast crash`: the power-fail simulator on the command line.

use crashsim::{Crash, CrashId, ReplayError, Story};
use serde_json::{Value, json};

use crate::cli::CrashCommand;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

mod artifacts;
mod case;
mod explore;
mod run;
mod show;

pub(super) use show::{Shown, show, show_state};

use case::{AnyCase, Profile, When, canaries, cases, profiles};

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

fn list(output: &Output) -> Outcome {
    let (cases, canaries, profiles) = (cases(), canaries(), profiles());
    if output.is_json() {
        output.object(true, list_json(&cases, &canaries, &profiles))?;
        return Ok(Exit::Ok);
    }
    let names = cases.iter().chain(canaries.iter().map(|canary| &canary.case)).map(|case| case.name());
    let width = width_of(names.chain(profiles.iter().map(|profile| profile.name)));
    output.line("cases: what is done when the power fails (state-…: by the key/value store, on a disk)")?;
    for case in &cases {
        output.line(format_args!("  {:<width$}  {}", case.name(), case.about()))?;
    }
    output
        .line("\ncanaries: the classic mistakes, which must be found (run only where --case names them)")?;
    for canary in &canaries {
        output.line(format_args!("  {:<width$}  {}", canary.case.name(), canary.case.about()))?;
        if let Some(seen) = canary.seen {
            output.line(format_args!("  {:<width$}  seen on real file systems: {seen}", ""))?;
        }
    }
    let mut medium = "";
    for profile in &profiles {
        if profile.medium != medium {
            medium = profile.medium;
            output.line(format_args!(
                "\nprofiles: what a {medium} does between two barriers (* unless --profile says otherwise)"
            ))?;
        }
        let star = if profile.when == When::ByDefault { '*' } else { ' ' };
        output.line(format_args!("{star} {:<width$}  {}", profile.name, profile.evidence))?;
    }
    Ok(Exit::Ok)
}

fn list_json(cases: &[Box<dyn AnyCase>], canaries: &[case::AnyCanary], profiles: &[Profile]) -> Value {
    let medium = |case: &dyn AnyCase| case.profiles().first().map(|profile| profile.medium);
    let case =
        |case: &dyn AnyCase| json!({ "name": case.name(), "about": case.about(), "medium": medium(case) });
    let canary = |canary: &case::AnyCanary| {
        let mut told = case(&*canary.case);
        if let (Some(told), Some(seen)) = (told.as_object_mut(), canary.seen) {
            told.insert("seen".to_owned(), json!(seen));
        }
        told
    };
    let profile = |profile: &Profile| {
        json!({
            "name": profile.name, "evidence": profile.evidence, "medium": profile.medium,
            "default": profile.when == When::ByDefault,
        })
    };
    json!({
        "cases": cases.iter().map(|one| case(&**one)).collect::<Vec<_>>(),
        "canaries": canaries.iter().map(canary).collect::<Vec<_>>(),
        "profiles": profiles.iter().map(profile).collect::<Vec<_>>(),
    })
}

/// Of the longest of these.
fn width_of<'n>(names: impl Iterator<Item = &'n str>) -> usize {
    names.map(str::len).max().unwrap_or(0)
}

/// A case, or a canary.
fn case_named(name: &str) -> Outcome<Box<dyn AnyCase>> {
    let mut all: Vec<_> = cases();
    all.extend(canaries().into_iter().map(|canary| canary.case));
    let names = all.iter().map(|case| case.name()).collect::<Vec<_>>().join(", ");
    all.into_iter().find(|case| case.name() == name).ok_or_else(|| Failure::Usage {
        message: format!("there is no case `{name}`"),
        hint: Some(format!("there are {names}")),
    })
}

fn no_profile(name: &str, among: &[Profile]) -> Failure {
    let names: Vec<&str> = among.iter().map(|profile| profile.name).collect();
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
    let story = case.replay(&id).map_err(|error| cannot_replay(&*case, &id, &error))?;
    let kept = story.verdict.broken.is_none();
    if output.is_json() {
        output.object(true, story_json(&story))?;
    } else {
        output.line(story_text(&*case, &story, with_points))?;
    }
    Ok(if kept { Exit::Ok } else { Exit::NotSo })
}

/// A story with an introduction, for those who have not read one yet.
fn story_text(case: &dyn AnyCase, story: &Story, with_points: bool) -> String {
    let profile = case.profiles().into_iter().find(|profile| profile.name == story.id.profile);
    let evidence = profile.map_or("", |profile| profile.evidence);
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

fn cannot_replay(case: &dyn AnyCase, id: &CrashId, error: &ReplayError) -> Failure {
    let hint = match error {
        ReplayError::NoProfile(name) => return no_profile(name, &case.profiles()),
        // Those of a recovery depend on what it found.
        ReplayError::NoPoint { .. } if id.crashes.len() == 1 => crash_points(case, id),
        ReplayError::NoPoint { .. } => None,
        ReplayError::NoBarrier(_) => None,
        ReplayError::NoState { at } => Some(format!("`@{at}:none` loses all that may be lost there")),
    };
    Failure::Usage { message: error.to_string(), hint: hint.or_else(|| Some(GOOD_ID.to_owned())) }
}

/// Where the power may fail in the run of an id.
fn crash_points(case: &dyn AnyCase, id: &CrashId) -> Option<String> {
    let points: Vec<String> = case.points(id)?.iter().map(ToString::to_string).collect();
    Some(format!("its crash points are {}", points.join(", ")))
}
