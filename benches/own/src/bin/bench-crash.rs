//! How fast crash states are visited: distinct images a second, and how that goes with the number of pieces that no barrier has
//! covered.
//!
//! `cargo run --release -p bench-own --bin bench-crash`

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::time::Instant;

use crash_cases::{FileCase, OnSim, replace_of};
use crashsim::{Explorer, FileProfile, Gauge, Options, Report, Scenario, SimFs};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "Replacing one file of so many sectors under posix-min; every state visited, each distinct image recovered"
    )?;
    writeln!(out, "(a sweep) and checked (names, bytes, mode).\n")?;
    writeln!(
        out,
        "{:>7} {:>7} {:>10} {:>10} {:>8} {:>12} {:>12} {:>14}",
        "sectors", "threads", "states", "distinct", "ms", "states/s", "distinct/s", "with recovery"
    )?;
    for sectors in [1, 4, 8, 10, 12, 14, 16] {
        for threads in [NonZeroUsize::MIN, NonZeroUsize::MIN.saturating_add(1)] {
            row(&mut out, sectors, threads)?;
        }
    }
    Ok(())
}

fn row(out: &mut impl io::Write, sectors: usize, threads: NonZeroUsize) -> io::Result<()> {
    let case = replace_of(sectors * 512);
    let (report, seconds) = explore(&*case, threads, 0);
    let (deep, deep_seconds) = explore(&*case, threads, 1);
    let rate = |count: u64, seconds: f64| {
        let count = u32::try_from(count).map_or(f64::INFINITY, f64::from);
        format!("{:.0}", count / seconds)
    };
    writeln!(
        out,
        "{sectors:>7} {threads:>7} {:>10} {:>10} {:>8.1} {:>12} {:>12} {:>14}",
        report.visited,
        report.distinct,
        seconds * 1000.0,
        rate(report.visited, seconds),
        rate(report.distinct, seconds),
        rate(deep.distinct, deep_seconds),
    )
}

/// The best of three: the machine is shared.
fn explore(case: &dyn FileCase, threads: NonZeroUsize, depth: u32) -> (Report, f64) {
    let workload = OnSim(case);
    let mut best: Option<(Report, f64)> = None;
    for _ in 0..3 {
        let Some(recorded) = Scenario::plain(case.name()).record::<SimFs>(&workload) else { continue };
        let options = Options { states_max: 1 << 20, depth, kills: depth > 0, threads, ..Options::default() };
        let begun = Instant::now();
        let report = Explorer::default().explore::<SimFs>(
            &workload,
            &recorded,
            FileProfile::POSIX_MIN,
            &options,
            &Gauge::default(),
        );
        let seconds = begun.elapsed().as_secs_f64();
        if best.as_ref().is_none_or(|(_, least)| seconds < *least) {
            best = Some((report, seconds));
        }
    }
    best.unwrap_or_default()
}
