//! What the key/value store costs: durable writes beside the raw write and flush of one block, in alternating slices of the
//! same run; reading and opening, in memory; and what sharing a store between threads costs.
//!
//! `cargo run --release -p bench-own --bin bench-state` (as root: loop-mounted ext4 and XFS, and a raw loop device; or
//! `--dir DIR`)

mod durable;
mod keys;
mod memory;
mod shared;

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Parser;

/// How many keys there are where opening from a medium is measured.
const REOPENED: [u32; 2] = [100_000, 1_000_000];

/// Measures the key/value store.
#[derive(Debug, Parser)]
struct Args {
    /// Measure durable writes in this directory only.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many slices of each contender.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only what needs no disk.
    #[arg(long)]
    memory: bool,
    /// Only what is measured beside a map in memory.
    #[arg(long)]
    keys: bool,
    /// Only what threads that share a store in memory wait for.
    #[arg(long, conflicts_with = "memory")]
    shared: bool,
    /// Of what needs a disk, only writing.
    #[arg(long, conflicts_with_all = ["memory", "shared"])]
    writes: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    if args.keys {
        return keys::measure(&mut out);
    }
    if !args.memory && !args.shared {
        for ground in durable::Ground::all(args.dir) {
            durable::measure(&ground, args.rounds, &mut out)?;
            if args.writes {
                continue;
            }
            for count in REOPENED {
                durable::reopen(&ground, count, args.rounds, &mut out)?;
            }
            durable::sizes(&ground, args.rounds, &mut out)?;
            writeln!(out)?;
        }
    }
    if args.writes {
        return Ok(());
    }
    if !args.shared {
        memory::measure(&mut out)?;
        keys::measure(&mut out)?;
        writeln!(out)?;
    }
    shared::measure(args.rounds, &mut out)
}
