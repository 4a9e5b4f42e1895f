//! What is printed: a table for people, one JSON document for programs.

use std::fmt;
use std::time::Duration;

use media::MountFacts;
use serde::Serialize;

use crate::ground::Ground;
use crate::measure::{SLICE, Samples};
use crate::row::{Comparison, Fact, PAYLOAD, Row, Target};

/// Of the JSON document: raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 2;

/// Everything that was measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    kernel: String,
    cpus: usize,
    payload_len: usize,
    operations_per_slice: u32,
    pub(crate) notes: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

/// One file system.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    ground: String,
    pub(crate) fs_type: String,
    source: String,
    options: Vec<String>,
    journal: Option<bool>,
    pub(crate) barriers: Vec<BarrierLine>,
    pub(crate) rows: Vec<RowLine>,
    pub(crate) facts: Vec<Fact>,
}

/// A barrier by itself.
#[derive(Debug, Serialize)]
pub(crate) struct BarrierLine {
    name: &'static str,
    median_us: f64,
    p99_us: f64,
}

/// One of our operations beside its baseline.
#[derive(Debug, Serialize)]
pub(crate) struct RowLine {
    name: &'static str,
    beside: &'static str,
    median_us: f64,
    p99_us: f64,
    /// What an operation is compared by: its median, or its share in a whole slice, with what is paid in common or later.
    typical_us: f64,
    baseline_median_us: f64,
    baseline_p99_us: f64,
    baseline_typical_us: f64,
    syncs: f64,
    /// Of the device, for one of ours and one of the baseline's.
    flushes: Option<(f64, f64)>,
    /// A ratio (baseline / ours) or a share (ours / baseline), as the target is.
    figure: f64,
    figure_quartiles: (f64, f64),
    target: String,
    reached: bool,
}

impl Report {
    pub(crate) fn of_this_machine() -> Self {
        let uname = rustix::system::uname();
        Self {
            schema: SCHEMA,
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            payload_len: PAYLOAD.len(),
            operations_per_slice: SLICE,
            notes: Vec::new(),
            sections: Vec::new(),
        }
    }
}

impl Section {
    pub(crate) fn of(ground: &Ground) -> Self {
        let unknown = || "unknown".to_owned();
        let of = |field: fn(&MountFacts) -> String| ground.facts.as_ref().map_or_else(unknown, field);
        Self {
            ground: ground.label.clone(),
            fs_type: of(|facts| facts.fs_type.clone()),
            source: of(|facts| facts.source.clone()),
            options: ground.facts.as_ref().map_or_else(Vec::new, |facts| facts.options.clone()),
            journal: ground.facts.as_ref().and_then(|facts| facts.journal),
            barriers: Vec::new(),
            rows: Vec::new(),
            facts: Vec::new(),
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl BarrierLine {
    pub(crate) fn of(name: &'static str, samples: &Samples) -> Self {
        Self { name, median_us: micros(samples.median()), p99_us: micros(samples.p99()) }
    }
}

impl RowLine {
    pub(crate) fn of(
        row: &Row,
        fs_type: &str,
        Comparison { ours, baseline, syncs, flushes }: &Comparison,
    ) -> Self {
        let (mine, theirs) = (ours.typical().as_secs_f64(), baseline.typical().as_secs_f64());
        let ratio_at_least = |target: f64| {
            let ratio = theirs / mine;
            (ratio, baseline.ratio_quartiles(ours), format!(">= {target}"), ratio >= target)
        };
        let (figure, figure_quartiles, target, reached) = match row.target {
            Target::RatioAtLeast(target) => ratio_at_least(target),
            Target::RatioOn(targets, elsewhere) => {
                let target = targets.iter().find(|(name, _)| *name == fs_type);
                ratio_at_least(target.map_or(elsewhere, |(_, target)| *target))
            }
            Target::ShareAtMost(target) => {
                let share = mine / theirs;
                (share, ours.ratio_quartiles(baseline), format!("<= {target}"), share <= target)
            }
        };
        Self {
            name: row.name,
            beside: row.beside,
            median_us: micros(ours.median()),
            p99_us: micros(ours.p99()),
            typical_us: micros(ours.typical()),
            baseline_typical_us: micros(baseline.typical()),
            baseline_median_us: micros(baseline.median()),
            baseline_p99_us: micros(baseline.p99()),
            syncs: *syncs,
            flushes: *flushes,
            figure,
            figure_quartiles,
            target,
            reached,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} CPUs; payload {} bytes; slices of both sides alternate, {} operations each (1 of the long ones)",
            self.kernel, self.cpus, self.payload_len, self.operations_per_slice
        )?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        self.sections.iter().try_for_each(|section| write!(f, "\n{section}"))
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let journal = if self.journal == Some(false) { ", no journal" } else { "" };
        writeln!(f, "{} ({}{journal}; {})", self.ground, self.source, self.options.join(","))?;
        for BarrierLine { name, median_us, p99_us } in &self.barriers {
            writeln!(f, "  {name:<34} median {median_us:>8.1} us   p99 {p99_us:>8.1} us")?;
        }
        for row in &self.rows {
            let (low, high) = row.figure_quartiles;
            let flushes = row
                .flushes
                .map(|(ours, theirs)| format!("   flushes of the device {ours:.2}, theirs {theirs:.2}"));
            writeln!(
                f,
                "  {:<34} {:>8.1} us (median {:.1}, p99 {:.1})   {:.2} syncs   {} {:>8.1} us (median {:.1}, p99 {:.1})   \
                 {:.3} [{low:.3}..{high:.3}]   target {}   {}{}",
                row.name,
                row.typical_us,
                row.median_us,
                row.p99_us,
                row.syncs,
                row.beside,
                row.baseline_typical_us,
                row.baseline_median_us,
                row.baseline_p99_us,
                row.figure,
                row.target,
                if row.reached { "yes" } else { "NO" },
                flushes.unwrap_or_default(),
            )?;
        }
        for Fact { what, figure, unit, at_most } in &self.facts {
            let asked = at_most
                .map(|most| format!("   target <= {most}   {}", if *figure <= most { "yes" } else { "NO" }));
            writeln!(f, "  {what:<34} {figure:>8.1} {unit}{}", asked.unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Prints the report.
#[expect(clippy::print_stdout, reason = "the report is what this program is for, and this is its one output")]
pub(crate) fn print(report: &Report, json: bool) {
    if json {
        // Numbers, strings and lists always have a JSON form.
        println!("{}", serde_json::json!(report));
    } else {
        print!("{report}");
    }
}
