//! What the key/value store costs: durable writes beside the raw write and flush of one block, in alternating slices of the
//! same run; and reading and opening, in memory.
//!
//! `cargo run --release -p bench-own --bin bench-state` (as root: loop-mounted ext4 and XFS, and a raw loop device; or
//! `--dir DIR`)

mod durable;

use std::error::Error;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use media::{Geometry, MemDisk};
use statefs::{Access, Compaction, Key, Options, Prefix, Store, StoreId};

/// How many keys there are where reading is measured, and where opening is.
const KEYS: [u32; 2] = [10_000, 100_000];

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
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    if !args.memory {
        for ground in durable::Ground::all(args.dir) {
            durable::measure(&ground, args.rounds, &mut out)?;
            for count in REOPENED {
                durable::reopen(&ground, count, args.rounds, &mut out)?;
            }
            writeln!(out)?;
        }
    }
    KEYS.into_iter().try_for_each(|count| in_memory(&mut out, count))
}

/// In an order that is none.
fn key(number: u32, of: u32) -> Result<Key, statefs::KeyError> {
    Key::parse(&format!("/state/app/{:07}", u64::from(number) * 7919 % u64::from(of)))
}

/// So many keys with values of 100 bytes, hot.
fn in_memory(out: &mut impl io::Write, count: u32) -> Result<(), Box<dyn Error>> {
    let disk = MemDisk::new(Geometry::new(4096, 20_000)?)?;
    let mut store = Store::format(disk.clone(), &Options::new(StoreId([2; 16])))?;
    let keys: Vec<Key> = (0..count).map(|number| key(number, count)).collect::<Result<_, _>>()?;
    writeln!(out, "in memory, {count} keys of 100 bytes")?;
    let mut row = |what: &str, took: Duration, count: u32| {
        writeln!(out, "  {what:<28}{:>10.0} ns", took.as_secs_f64() * 1e9 / f64::from(count))
    };
    let begun = Instant::now();
    for key in &keys {
        let _revision = store.put_buffered(key, &[7; 100])?;
    }
    let _durable = store.sync()?;
    row("buffered put", begun.elapsed(), count)?;
    store.close()?;
    let begun = Instant::now();
    let (mut store, _) = Store::open(disk.clone(), Access::Write)?;
    row("open as written, a key", begun.elapsed(), count)?;
    while store.compact_step()? != Compaction::Finished {}
    store.close()?;
    let begun = Instant::now();
    let (store, _) = Store::open(disk, Access::Write)?;
    row("open after a copy, a key", begun.elapsed(), count)?;
    let begun = Instant::now();
    for key in keys.iter().cycle().take(1_000_000) {
        let _value = black_box(store.get(key));
    }
    row("get", begun.elapsed(), 1_000_000)?;
    let begun = Instant::now();
    for key in keys.iter().take(10_000) {
        let _page = black_box(store.list(&Prefix::root(), Some(key), 100)?);
    }
    row("list of 100", begun.elapsed(), 10_000).map_err(Into::into)
}
