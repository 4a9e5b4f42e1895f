//! The command line of a bench.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use crate::ground::grounds;
use crate::report::{self, BarrierLine, Report, RowLine, Section};
use crate::row::{Barrier, Probe, Row};

/// As root on ext4, XFS and btrfs in image files; otherwise in --dir, or in the directory for temporary files.
#[derive(Debug, Parser)]
struct Args {
    /// Measure in this directory only.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measure only what has a name that contains this.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// How many slices of each contender.
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

/// Measures what the command line asks for, and prints it.
#[must_use]
pub fn run(
    name: &'static str,
    about: &'static str,
    barriers: &[Barrier],
    rows: &[Row],
    probes: &[Probe],
) -> ExitCode {
    let matches = Args::command().name(name).about(about).get_matches();
    let outcome = Args::from_arg_matches(&matches).map_err(io::Error::other);
    match outcome.and_then(|args| Ok((measure(&args, barriers, rows, probes)?, args.json))) {
        Ok((report, json)) => {
            report::print(&report, json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Where stderr is closed, the exit code has to say it alone.
            drop(writeln!(io::stderr(), "{name}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args, barriers: &[Barrier], rows: &[Row], probes: &[Probe]) -> io::Result<Report> {
    let mut report = Report::of_this_machine();
    for ground in grounds(args.dir.as_deref(), &mut report.notes)? {
        let ground = ground?;
        let mut section = Section::of(&ground);
        for barrier in barriers.iter().filter(|barrier| barrier.name.contains(&args.only)) {
            let samples = (barrier.measure)(&ground, args.rounds)?;
            section.barriers.push(BarrierLine::of(barrier.name, &samples));
        }
        for row in rows.iter().filter(|row| row.name.contains(&args.only)) {
            let comparison = (row.measure)(&ground, args.rounds)?;
            section.rows.push(RowLine::of(row, &section.fs_type, &comparison));
        }
        for probe in probes.iter().filter(|probe| probe.name.contains(&args.only)) {
            section.facts.append(&mut (probe.measure)(&ground, args.rounds)?);
        }
        report.sections.push(section);
    }
    Ok(report)
}
