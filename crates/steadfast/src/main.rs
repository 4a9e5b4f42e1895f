//! The command `steadfast`: durable writes from a shell.

use std::process::ExitCode;

use clap::Parser as _;

mod cli;
mod commands;
mod failure;
mod interrupt;
mod medium;
mod output;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::refused(&error),
    };
    let output = output::Output::new(cli.json, cli.quiet);
    let interrupt = match interrupt::Interrupt::install() {
        Ok(interrupt) => interrupt,
        Err(failure) => return output.failed(&failure),
    };
    let medium = match medium::Medium::from_env() {
        Ok(medium) => medium,
        Err(failure) => return output.failed(&failure),
    };
    match commands::run(cli.command, &medium, &output, &interrupt) {
        Ok(exit) => exit.into(),
        Err(failure) => output.failed(&failure),
    }
}
