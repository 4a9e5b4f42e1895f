//! What the promises cost: every row beside the raw system calls that promise the same, measured in the same run
//! in alternating slices. `cargo run --release -p bench-own`.

use std::process::ExitCode;

mod barriers;
mod rows;

fn main() -> ExitCode {
    let about = "Measures what durable operations cost beside the raw system calls.";
    bench_own::run("bench-own", about, barriers::BARRIERS, rows::ROWS, &[])
}
