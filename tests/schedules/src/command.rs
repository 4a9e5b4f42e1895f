//! The command line.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use schedules::explore::{Budget, Report, Scenario, explore, named, replay};
use schedules::scenarios;

/// What CI affords.
const SHORT: Budget = Budget { schedules: 3_000, time: Duration::from_secs(2), preemptions: 1 };

/// What a night affords.
const LONG: Budget = Budget { schedules: 100_000, time: Duration::from_secs(60), preemptions: 2 };

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    match carry_out(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            line(&message);
            ExitCode::from(2)
        }
    }
}

/// Whether no scenario has failed.
fn carry_out(mut arguments: impl Iterator<Item = String>) -> Result<bool, String> {
    let mut budget = SHORT;
    let mut only = None;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--long" => budget = LONG,
            "--seconds" => {
                let seconds =
                    value()?.parse().map_err(|_| format!("{argument} needs a number of seconds"))?;
                budget.time = Duration::from_secs(seconds);
            }
            "--only" => only = Some(value()?),
            "--replay" => {
                let value = value()?;
                let all: Vec<Scenario> = scenarios::all().into_iter().chain(scenarios::broken()).collect();
                return Ok(tell(&replay(&all, &value)?));
            }
            "--list" => {
                for scenario in scenarios::all() {
                    line(&format!("{:<34} {}", scenario.name, scenario.what));
                }
                return Ok(true);
            }
            other => return Err(format!("not an option: {other}")),
        }
    }
    if let Some(name) = only {
        let all: Vec<Scenario> = scenarios::all().into_iter().chain(scenarios::broken()).collect();
        return Ok(tell(&explore(named(&all, &name)?, budget)));
    }
    let (mut schedules, mut distinct, mut moments) = (0, 0, 0);
    for scenario in scenarios::all() {
        let report = explore(&scenario, budget);
        (schedules, distinct) = (schedules + report.schedules, distinct + report.distinct);
        moments += report.moments;
        // One failing run per process.
        if !tell(&report) {
            return Ok(false);
        }
    }
    line(&format!("{schedules} schedules, {distinct} distinct, {moments} moments judged"));
    Ok(true)
}

fn tell(report: &Report) -> bool {
    line(&report.to_string());
    if let Some(failure) = &report.failure {
        line(&format!("FAILED {}: {failure}", report.scenario));
    }
    report.failure.is_none()
}

fn line(text: &str) {
    // If stdout is closed there is nobody to tell.
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}
