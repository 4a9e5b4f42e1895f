//! What changes of many files through a journal of intents cost, beside the raw chains of system calls that promise the same for
//! one file: create, write, fsync, rename, fsync of the directory. Checkpoints are counted in.
//!
//! `cargo run --release -p bench-own --bin bench-content` (as root: loop-mounted ext4, XFS and btrfs; or `--dir DIR`)

use std::process::ExitCode;

mod puts;
mod recovery;
mod rows;
mod stream;

fn main() -> ExitCode {
    let about = "Measures what changes through a journal of intents cost beside the raw system calls.";
    bench_own::run("bench-content", about, &[], rows::ROWS, rows::PROBES)
}
