//! What developers and CI run: `cargo xtask ci` is lints, documentation and tests; `cargo xtask cross` compiles for the
//! platforms that are not run here.

mod barriers;
mod recovery;
mod schedules;
mod schema;

use std::io::Write as _;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Tasks of the project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Task {
    /// Formatting, clippy and documentation, warnings denied; then all tests.
    Ci,
    /// Formatting, clippy and documentation, warnings denied.
    Lint,
    /// Take every barrier of every case away in turn, and show what breaks: the table of `docs/track-record.md`.
    Barriers,
    /// Make the table of `docs/recovery.md` anew.
    RecoveryTable,
    /// Explore the orders in which threads run, in a build of its own (`docs/schedules.md`).
    Schedules(schedules::Arguments),
    /// Make `schemas/content_v1_3.schema.json` anew.
    Schema,
    /// Compile for macOS, Windows and a bare-metal target, as far as their standard libraries are installed.
    Cross,
}

/// One command and the environment it needs.
struct Step {
    arguments: Vec<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
}

fn step(line: &'static str) -> Step {
    Step { arguments: line.split(' ').collect(), environment: Vec::new() }
}

fn lint() -> Vec<Step> {
    let mut doc = step("doc --workspace --no-deps --document-private-items");
    doc.environment.push(("RUSTDOCFLAGS", "-D warnings"));
    vec![
        step("fmt --all --check"),
        step("clippy --workspace --all-targets -- -D warnings"),
        step("clippy -p durable-io --no-default-features -- -D warnings"),
        step("clippy -p media -p journal -p statefs --no-default-features -- -D warnings"),
        doc,
    ]
}

/// The command of the README.
fn test() -> Step {
    step("test --workspace")
}

/// Each with the target that must be installed for it (`rustup target add`).
const CROSS: [(&str, &str); 3] = [
    (
        "x86_64-apple-darwin",
        "check --workspace --exclude testbed --exclude bench-own --target x86_64-apple-darwin",
    ),
    (
        "x86_64-pc-windows-gnu",
        "check --workspace --exclude testbed --exclude bench-own --target x86_64-pc-windows-gnu",
    ),
    (
        "thumbv7em-none-eabi",
        "check -p media -p journal -p statefs --no-default-features --target thumbv7em-none-eabi",
    ),
];

fn installed_targets() -> String {
    let listed = Command::new("rustup").args(["target", "list", "--installed"]).output();
    listed.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cross() -> Vec<Step> {
    let installed = installed_targets();
    let mut steps = Vec::new();
    for (target, line) in CROSS {
        if installed.lines().any(|have| have == target) {
            steps.push(step(line));
        } else {
            say(&format!("SKIPPED: {target} is not installed (rustup target add {target})"));
        }
    }
    steps
}

fn say(text: &str) {
    // If stderr is closed there is nobody to tell.
    writeln!(anstream::stderr(), "{text}").unwrap_or_default();
}

fn run(step: &Step) -> bool {
    say(&format!("$ cargo {}", step.arguments.join(" ")));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(&step.arguments).envs(step.environment.iter().copied());
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            say(&format!("cannot run cargo: {error}"));
            false
        }
    }
}

fn main() -> ExitCode {
    let steps: Vec<Step> = match Cli::parse().task {
        Task::Barriers => return barriers::print(),
        Task::RecoveryTable => return recovery::write(),
        Task::Schedules(arguments) => return schedules::run(&arguments),
        Task::Schema => return schema::write(),
        Task::Ci => lint().into_iter().chain([test()]).collect(),
        Task::Lint => lint(),
        Task::Cross => cross(),
    };
    if steps.iter().all(run) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
