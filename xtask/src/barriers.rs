//! `cargo xtask barriers`: which barrier protects what, as the simulator sees it.

use std::io::Write as _;
use std::process::ExitCode;

use crash_cases::{OnSim, cases};
use crashsim::{Barrier, Explorer, Failure, FileProfile, Late, Options, Scenario, SimFs, barriers, shrink};

/// Prints the table as Markdown on stdout; fails if a barrier can be taken away unnoticed.
pub(crate) fn print() -> ExitCode {
    let mut table = Table::default();
    line("| case | barrier | without it | if it comes late |");
    line("|---|---|---|---|");
    for case in cases().iter().filter(|case| case.operations(1) == 0) {
        let workload = OnSim(&**case);
        let scenario = Scenario::plain(case.name());
        for barrier in barriers::<SimFs>(&workload, &scenario, FileProfile::POSIX_MIN, &options()) {
            let small = |failure: &Failure| shrink::<SimFs>(&workload, &failure.id, &options()).to_string();
            let by_prefix = |id: &str| {
                let scenario: Result<crashsim::CrashId, _> = id.parse();
                scenario.ok().and_then(|id| id.scenario.record::<SimFs>(&workload)).is_some_and(|recorded| {
                    let found = Explorer::default().first_failure(
                        &workload,
                        &recorded,
                        FileProfile::PREFIX,
                        &options(),
                    );
                    found.is_some()
                })
            };
            table.row(case.name(), &barrier, small, by_prefix);
        }
    }
    table.end()
}

/// Large enough for every state of a small case.
fn options() -> Options {
    Options { states_max: 20_000, depth: 1, nested_states_max: 256, ..Options::default() }
}

#[derive(Default)]
struct Table {
    mutants: usize,
    found: usize,
    by_prefix: usize,
    unneeded: usize,
}

impl Table {
    fn row(
        &mut self,
        case: &str,
        barrier: &Barrier,
        small: impl Fn(&Failure) -> String,
        by_prefix: impl Fn(&str) -> bool,
    ) {
        let mut cell = |failure: Option<&Failure>| {
            self.mutants += 1;
            let Some(failure) = failure else { return "nothing breaks".to_owned() };
            self.found += 1;
            let id = small(failure);
            let missed = if by_prefix(&id) {
                self.by_prefix += 1;
                ""
            } else {
                ", missed by `prefix`"
            };
            format!("{}: `{id}`{missed}", failure.verdict.class)
        };
        let removed = cell(barrier.removed.as_ref());
        let late = match &barrier.late {
            Late::Never => "—".to_owned(),
            Late::Unnoticed => cell(None),
            Late::Breaks(failure) => cell(Some(failure)),
        };
        self.unneeded += usize::from(barrier.removed.is_none());
        line(&format!("| {case} | {}: {} | {removed} | {late} |", barrier.record, barrier.what));
    }

    fn end(&self) -> ExitCode {
        let Self { mutants, found, by_prefix, unneeded } = self;
        line(&format!(
            "\n{found} of {mutants} mutants found; the prefix model finds {by_prefix} of them. \
             {unneeded} barriers can be taken away unnoticed."
        ));
        if *unneeded == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn line(text: &str) {
    // A reader that has gone has seen enough.
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}
