//! `steadfast sweep`: remove what dead processes left behind.

use durable_io::{SweepOptions, SweepReport, WhyKept};
use serde_json::json;

use crate::cli::Sweep;
use crate::failure::{Exit, Failure, Outcome, details_of, shown};
use crate::medium::Medium;
use crate::output::Output;

pub(super) fn run(args: &Sweep, medium: &Medium, output: &Output) -> Outcome {
    let dir = medium.open(&args.dir)?;
    let options =
        SweepOptions { recursive: args.recursive, dry_run: args.dry_run, ..SweepOptions::default() };
    let report = dir.sweep(&options)?;
    if output.is_json() {
        output.object(true, to_json(&report))?;
    } else {
        tell(&report, args.dry_run, output)?;
    }
    // What failed has been told, each with its reason.
    Ok(report.failures.into_iter().next().map_or(Exit::Ok, |error| Failure::from(error).exit()))
}

fn tell(report: &SweepReport, dry_run: bool, output: &Output) -> Outcome<()> {
    for path in &report.removed {
        output.line(path.display())?;
    }
    for kept in &report.kept {
        let why = match kept.why {
            WhyKept::Alive => "its process runs",
            WhyKept::NotProvable => {
                "its process cannot be proved dead from here (another machine or container)"
            }
            WhyKept::NotAFile(_) => "it is no regular file",
        };
        output.say(format_args!("kept `{}`: {why}", kept.path.display()))?;
    }
    for backup in &report.backups {
        output.warn(format_args!(
            "`{}` is the old content of a file whose overwriting in place was cut short; compare, then remove it",
            backup.display()
        ))?;
    }
    for path in &report.too_deep {
        output.warn(format_args!("`{}` is too deep and was not entered", path.display()))?;
    }
    for error in &report.failures {
        output.warn(error)?;
    }
    if report.stopped {
        output.warn(format_args!("stopped after {} entries", report.entries))?;
    }
    let verb = if dry_run { "would be removed" } else { "removed" };
    output.say(format_args!("{} temporary file(s) {verb}, {} kept", report.removed.len(), report.kept.len()))
}

fn to_json(report: &SweepReport) -> serde_json::Value {
    let kept: Vec<_> = report
        .kept
        .iter()
        .map(|kept| {
            let why = match kept.why {
                WhyKept::Alive => "alive",
                WhyKept::NotProvable => "not_provable",
                WhyKept::NotAFile(_) => "not_a_file",
            };
            json!({ "path": shown(&kept.path), "why": why })
        })
        .collect();
    json!({
        "removed": report.removed.iter().map(|path| shown(path)).collect::<Vec<_>>(),
        "kept": kept,
        "backups": report.backups.iter().map(|path| shown(path)).collect::<Vec<_>>(),
        "too_deep": report.too_deep.iter().map(|path| shown(path)).collect::<Vec<_>>(),
        "failures": report.failures.iter().map(details_of).collect::<Vec<_>>(),
        "entries": report.entries,
        "stopped": report.stopped,
    })
}
