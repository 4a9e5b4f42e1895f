//! `cargo xtask barriers`: which barrier protects what, as the simulator sees it.

use std::io::Write as _;
use std::process::ExitCode;

use crash_cases::{BarrierSite, OnSim, barrier_sites, case_named};
use crashsim::{Explorer, Failure, FileProfile, Options, SimFs, shrink};

/// Prints the table as Markdown on stdout.
pub(crate) fn print() -> ExitCode {
    let sites = barrier_sites(FileProfile::POSIX_MIN, &options());
    line("| asked for by | cases | without it | if it comes late |");
    line("|---|---|---|---|");
    let mut total = Total::default();
    for site in &sites {
        let gone = total.cell(&smallest(site.gone()));
        let late = total.cell(&smallest(site.late()));
        let count = format!("{} of {}", site.gone().count(), site.mutated.len());
        line(&format!("| `{}` | {count} | {gone} | {late} |", innermost(site)));
    }
    let unnoticed = sites.iter().filter(|site| site.gone().next().is_none()).count();
    line(&format!(
        "\n{} places ask for a barrier; {} can lose it unnoticed. Of {} mutants that `posix-min` finds, `prefix` finds {}.",
        sites.len(),
        unnoticed,
        total.found,
        total.by_prefix
    ));
    ExitCode::SUCCESS
}

/// Enough for every state of a small case.
fn options() -> Options {
    Options { states_max: 4096, depth: 0, kills: false, ..Options::default() }
}

/// The two innermost functions say enough.
fn innermost(site: &BarrierSite) -> String {
    site.caller.split(" < ").take(3).collect::<Vec<_>>().join(" < ")
}

/// The shortest id, made as small as it gets.
fn smallest<'f>(failures: impl Iterator<Item = &'f Failure>) -> Option<Failure> {
    let shortest = failures.min_by_key(|failure| failure.id.to_string().len())?;
    let case = case_named(&shortest.id.scenario.case)?;
    Some(Failure { id: shrink::<SimFs>(&OnSim(&*case), &shortest.id, &options()), ..shortest.clone() })
}

#[derive(Default)]
struct Total {
    found: usize,
    by_prefix: usize,
}

impl Total {
    fn cell(&mut self, failure: &Option<Failure>) -> String {
        let Some(failure) = failure else { return "—".to_owned() };
        self.found += 1;
        let is_found = found_by_prefix(failure);
        self.by_prefix += usize::from(is_found);
        let missed = if is_found { "" } else { " (`prefix` misses it)" };
        format!("{}: `{}`{missed}", failure.verdict.class, failure.id)
    }
}

/// Whether the usual model of crash tests, which loses nothing but the end, would have found it.
fn found_by_prefix(failure: &Failure) -> bool {
    let found = || {
        let case = case_named(&failure.id.scenario.case)?;
        let workload = OnSim(&*case);
        let recorded = failure.id.scenario.record::<SimFs>(&workload)?;
        Explorer::default().first_failure(&workload, &recorded, FileProfile::PREFIX, &options())
    };
    found().is_some()
}

fn line(text: &str) {
    // A reader that has gone has seen enough.
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}
