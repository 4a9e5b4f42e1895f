//! What the key/value store costs: durable puts beside the raw write and flush of one block, in alternating slices of the same
//! run; and reading and opening, in memory.
//!
//! `cargo run --release -p bench-own --bin bench-state [DIR]` (a directory on the file system to measure)

use std::error::Error;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use media::{BlockDevice, BlockIndex, FileDisk, Fs as _, Geometry, MemDisk, OsFs};
use statefs::{Access, Compaction, Key, Options, Prefix, Store, StoreId};

const SLICES: usize = 41;
const SLICE: usize = 25;
/// How many keys there are where reading is measured, and where opening is.
const KEYS: [u32; 2] = [10_000, 100_000];

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    durable(&mut out)?;
    KEYS.into_iter().try_for_each(|count| in_memory(&mut out, count))
}

/// In an order that is none.
fn key(number: u32, of: u32) -> Result<Key, statefs::KeyError> {
    Key::parse(&format!("/state/app/{:07}", u64::from(number) * 7919 % u64::from(of)))
}

/// One writer, payloads of 155 bytes in 4 KiB blocks.
fn durable(out: &mut impl io::Write) -> Result<(), Box<dyn Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let open = |name: &str| -> Result<FileDisk, Box<dyn Error>> {
        let dir = OsFs.open_dir(Path::new(dir.path()))?;
        Ok(FileDisk::create(&*dir, name.as_ref(), Geometry::new(4096, 8192)?)?)
    };
    let raw = open("raw")?;
    let mut store = Store::format(open("store")?, &Options::new(StoreId([3; 16])))?;
    let mut ratios = Vec::new();
    let (mut raw_all, mut ours_all) = (Vec::new(), Vec::new());
    for slice in 0..SLICES {
        let begun = Instant::now();
        for number in 0..SLICE {
            raw.write(BlockIndex::new(u64::try_from(slice * SLICE + number)?), &[1; 4096])?;
            raw.flush()?;
        }
        let raw_took = begun.elapsed();
        let begun = Instant::now();
        for number in 0..SLICE {
            let _revision = store.put(&key(u32::try_from(number)?, KEYS[0])?, &[7; 155])?;
        }
        let ours = begun.elapsed();
        ratios.push(raw_took.as_secs_f64() / ours.as_secs_f64());
        raw_all.push(raw_took);
        ours_all.push(ours);
    }
    ratios.sort_by(f64::total_cmp);
    let at = |quarter: usize| ratios.get(ratios.len() * quarter / 4).copied().unwrap_or(0.0);
    writeln!(
        out,
        "one writer, {} puts of 155 bytes, block of 4 KiB, on {} ({})",
        SLICES * SLICE,
        dir.path().display(),
        raw.mode()
    )?;
    writeln!(out, "  raw write + flush {:>8.1} µs", micros(&mut raw_all))?;
    writeln!(out, "  durable put       {:>8.1} µs", micros(&mut ours_all))?;
    writeln!(out, "  ratio             {:>8.3} [{:.3}..{:.3}]\n", at(2), at(1), at(3))?;
    Ok(())
}

fn micros(slices: &mut [Duration]) -> f64 {
    slices.sort_unstable();
    let median = slices.get(slices.len() / 2).copied().unwrap_or_default();
    median.as_secs_f64() * 1e6 / f64::from(u16::try_from(SLICE).unwrap_or(1))
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
