//! The rows: one function each. To add one, write its function and name it in [`ROWS`].

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use bench_own::{Comparison, Contender, Ground, PAYLOAD, Row, Target, alternate, raw};
use durable_io::{Dir, Wait};
use media::doubles::Recorder;
use media::{Env, OsFs};

/// All rows.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "replace an existing file",
        beside: "raw chain",
        target: Target::RatioAtLeast(0.97),
        measure: replace_existing,
    },
    Row {
        name: "replace creates a new file",
        beside: "raw chain",
        target: Target::RatioAtLeast(0.97),
        measure: replace_new,
    },
    Row {
        name: "lock and unlock, uncontended",
        beside: "our replace",
        target: Target::ShareAtMost(0.02),
        measure: lock,
    },
    Row {
        name: "bulk of 1,000 files",
        beside: "1,000 raw chains",
        target: Target::RatioOn(&[("ext4", 10.0), ("xfs", 7.0), ("btrfs", 7.0)], 1.0),
        measure: bulk,
    },
    Row {
        name: "append a record of 256 bytes",
        beside: "raw append, fdatasync",
        target: Target::RatioAtLeast(0.9),
        measure: append,
    },
    Row {
        name: "append 100 records as a group",
        beside: "100 raw appends",
        target: Target::RatioAtLeast(10.0),
        measure: append_group,
    },
];

/// How many files a bulk has.
const BULK: u64 = 1_000;
/// How many records a group has.
const GROUP: usize = 100;

fn open(path: &Path) -> io::Result<Dir> {
    Dir::open(path).map_err(io::Error::other)
}

/// How many barriers `operation` issues.
fn count_syncs(path: &Path, operation: impl Fn(&Dir) -> io::Result<()>) -> io::Result<f64> {
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let dir = Dir::open_on(fs, path, Env::os()).map_err(io::Error::other)?;
    operation(&dir)?;
    recorder.clear();
    operation(&dir)?;
    Ok(raw::count(recorder.barriers()))
}

fn replace(dir: &Dir, name: &str) -> io::Result<()> {
    dir.replace(name, &PAYLOAD).map(drop).map_err(io::Error::other)
}

fn replace_existing(ground: &Ground, rounds: u32) -> io::Result<Comparison> {
    let (ours_at, raw_at) = (ground.fresh_dir()?, ground.fresh_dir()?);
    let (ours, theirs) = (open(&ours_at)?, raw::open_dir(&raw_at)?);
    let (ours, baseline) = alternate(
        rounds,
        Contender::new(|_| replace(&ours, "target")),
        Contender::new(|number| raw::chain(theirs.as_fd(), number, "target", &PAYLOAD)),
    )?;
    let syncs = count_syncs(&ours_at, |dir| replace(dir, "target"))?;
    Ok(Comparison { ours, baseline, syncs, flushes: None })
}

fn replace_new(ground: &Ground, rounds: u32) -> io::Result<Comparison> {
    let (ours_at, raw_at) = (ground.fresh_dir()?, ground.fresh_dir()?);
    let (ours, theirs) = (open(&ours_at)?, raw::open_dir(&raw_at)?);
    let (ours, baseline) = alternate(
        rounds,
        Contender::new(|number| replace(&ours, &format!("f-{number}"))).tidied(|| raw::empty(&ours_at)),
        Contender::new(|number| raw::chain(theirs.as_fd(), number, &format!("f-{number}"), &PAYLOAD))
            .tidied(|| raw::empty(&raw_at)),
    )?;
    let syncs = count_syncs(&ours_at, |dir| {
        raw::empty(&ours_at)?;
        replace(dir, "new")
    })?;
    Ok(Comparison { ours, baseline, syncs, flushes: None })
}

fn lock(ground: &Ground, rounds: u32) -> io::Result<Comparison> {
    let path = ground.fresh_dir()?;
    let dir = open(&path)?;
    let lock = |dir: &Dir| {
        let lock = dir.lock("target", Wait::UpTo(Duration::from_secs(10)));
        lock.and_then(|lock| lock.unlock()).map(drop).map_err(io::Error::other)
    };
    let (ours, baseline) =
        alternate(rounds, Contender::new(|_| lock(&dir)), Contender::new(|_| replace(&dir, "target")))?;
    let syncs = count_syncs(&path, lock)?;
    Ok(Comparison { ours, baseline, syncs, flushes: None })
}

fn bulk(ground: &Ground, rounds: u32) -> io::Result<Comparison> {
    let (ours_at, raw_at) = (ground.fresh_dir()?, ground.fresh_dir()?);
    let (ours, theirs) = (open(&ours_at)?, raw::open_dir(&raw_at)?);
    let publish = |dir: &Dir| {
        let mut bulk = dir.bulk();
        for index in 0..BULK {
            bulk.replace(format!("f-{index}"), &PAYLOAD);
        }
        bulk.publish_all().all_published().map(drop).map_err(io::Error::other)
    };
    let chains = || (0..BULK).try_for_each(|n| raw::chain(theirs.as_fd(), n, &format!("f-{n}"), &PAYLOAD));
    let (ours, baseline) = alternate(
        // One of these is as long as a thousand of the others.
        rounds.div_ceil(12),
        Contender::new(|_| publish(&ours)).one_by_one().tidied(|| raw::empty(&ours_at)),
        Contender::new(|_| chains()).one_by_one().tidied(|| raw::empty(&raw_at)),
    )?;
    let syncs = count_syncs(&ours_at, |dir| {
        raw::empty(&ours_at)?;
        publish(dir)
    })?;
    Ok(Comparison { ours, baseline, syncs, flushes: None })
}

/// One record: a JSON object of 255 bytes, and its newline.
fn record() -> String {
    format!("{{\"text\":\"{}\"}}", "x".repeat(244))
}

fn append(ground: &Ground, rounds: u32) -> io::Result<Comparison> {
    let path = ground.fresh_dir()?;
    let mut log = open(&path)?.log("ours.jsonl").map_err(io::Error::other)?;
    let raw = raw::open_log(&path.join("raw.jsonl"))?;
    let record = record();
    let line = format!("{record}\n");
    let (ours, baseline) = alternate(
        rounds,
        Contender::new(|_| log.append(record.as_bytes()).map(drop).map_err(io::Error::other)),
        Contender::new(|_| raw::append(raw.as_fd(), line.as_bytes())),
    )?;
    Ok(Comparison { ours, baseline, syncs: count_log_syncs(&path, &[record.as_bytes()])?, flushes: None })
}

fn append_group(ground: &Ground, rounds: u32) -> io::Result<Comparison> {
    let path = ground.fresh_dir()?;
    let mut log = open(&path)?.log("ours.jsonl").map_err(io::Error::other)?;
    let raw = raw::open_log(&path.join("raw.jsonl"))?;
    let record = record();
    let line = format!("{record}\n");
    let group = vec![record.as_bytes(); GROUP];
    let (ours, baseline) = alternate(
        rounds.div_ceil(6),
        Contender::new(|_| log.append_group(&group).map(drop).map_err(io::Error::other)).one_by_one(),
        Contender::new(|_| (0..GROUP).try_for_each(|_| raw::append(raw.as_fd(), line.as_bytes())))
            .one_by_one(),
    )?;
    Ok(Comparison { ours, baseline, syncs: count_log_syncs(&path, &group)?, flushes: None })
}

/// How many barriers it takes to append these records to an open log.
fn count_log_syncs(path: &Path, records: &[&[u8]]) -> io::Result<f64> {
    let (recorder, fs) = Recorder::over(OsFs::shared());
    let dir = Dir::open_on(fs, path, Env::os()).map_err(io::Error::other)?;
    let mut log = dir.log("counted.jsonl").map_err(io::Error::other)?;
    recorder.clear();
    log.append_group(records).map(drop).map_err(io::Error::other)?;
    Ok(raw::count(recorder.barriers()))
}
