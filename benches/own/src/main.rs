//! What the promises cost: every row beside the raw system calls that promise the same, measured in the same run
//! in alternating slices. `cargo run --release -p bench-own`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod barriers;
mod ground;
mod measure;
mod raw;
mod report;
mod rows;

/// Measures what durable operations cost beside the raw system calls.
///
/// As root on ext4, XFS and btrfs in image files; otherwise in --dir, or in the directory for temporary files.
#[derive(Debug, Parser)]
struct Args {
    /// Measure in this directory only.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measure only rows and barriers whose name contains this.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// How many slices of each contender.
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) => {
            report::print(&report, args.json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Where stderr is closed, the exit code has to say it alone.
            drop(writeln!(io::stderr(), "bench-own: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<report::Report> {
    let mut report = report::Report::of_this_machine();
    for ground in ground::grounds(args.dir.as_deref(), &mut report.notes)? {
        let ground = ground?;
        let mut section = report::Section::of(&ground);
        for barrier in barriers::BARRIERS.iter().filter(|barrier| barrier.name.contains(&args.only)) {
            let samples = (barrier.measure)(&ground, args.rounds)?;
            section.barriers.push(report::BarrierLine::of(barrier.name, &samples));
        }
        for row in rows::ROWS.iter().filter(|row| row.name.contains(&args.only)) {
            let comparison = (row.measure)(&ground, args.rounds)?;
            section.rows.push(report::RowLine::of(row, &section.fs_type, &comparison));
        }
        report.sections.push(section);
    }
    Ok(report)
}
