//! `schedules [--long] [--seconds N] [--only NAME] [--replay LINE] [--list]`: explores the scenarios, prints a line for each, and ends at the
//! first failure with the line that replays it. `cargo xtask schedules` builds it as it must be built.

use std::process::ExitCode;

#[cfg(shuttle)]
mod command;

#[cfg(shuttle)]
fn main() -> ExitCode {
    command::run(std::env::args().skip(1))
}

#[cfg(not(shuttle))]
fn main() -> ExitCode {
    use std::io::Write as _;
    let says = "compiled without `--cfg shuttle`, nothing can be explored: run `cargo xtask schedules`";
    writeln!(std::io::stderr(), "{says}").unwrap_or_default();
    ExitCode::FAILURE
}
