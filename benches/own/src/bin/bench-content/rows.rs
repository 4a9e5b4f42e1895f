//! The rows: what is asked of each.

use std::io;

use bench_own::{Comparison, Ground, Probe, Row, Target};
use crash_recovery::FastPath;

use crate::puts::{self, Puts};
use crate::{recovery, stream};

/// Threads that put side by side.
const MANY: usize = 32;

/// All rows.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "fast put, 1 thread",
        beside: "raw chain",
        target: Target::RatioOn(&[("ext4", 2.5), ("xfs", 2.5), ("btrfs", 1.3)], 1.0),
        measure: |ground, rounds| puts::compare(ground, rounds, FAST, 1),
    },
    Row {
        name: "fast put, 32 threads",
        beside: "raw chain, 1 thread",
        target: Target::RatioOn(&[("ext4", 8.0), ("xfs", 6.0)], 1.0),
        measure: |ground, rounds| puts::compare(ground, rounds, FAST_MANY, 1),
    },
    Row {
        name: "fast put, 32 threads side by side",
        beside: "raw chain, 32 threads",
        target: Target::RatioAtLeast(1.0),
        measure: |ground, rounds| puts::compare(ground, rounds, FAST_MANY, MANY),
    },
    Row {
        name: "plain put, 1 thread",
        beside: "raw chain",
        target: Target::RatioOn(&[("ext4", 0.75), ("xfs", 0.75)], 0.0),
        measure: |ground, rounds| puts::compare(ground, rounds, PLAIN, 1),
    },
    Row {
        name: "transaction of 100 files, fast",
        beside: "100 raw chains",
        target: Target::RatioAtLeast(6.0),
        measure: |ground, rounds| transaction(ground, rounds, FastPath::On),
    },
    Row {
        name: "transaction of 100 files, plain",
        beside: "100 raw chains",
        target: Target::RatioAtLeast(6.0),
        measure: |ground, rounds| transaction(ground, rounds, FastPath::Off),
    },
    Row {
        name: "content put, 1 thread",
        beside: "raw chain",
        target: Target::RatioOn(&[("ext4", 2.5), ("xfs", 2.5), ("btrfs", 1.3)], 1.0),
        measure: |ground, rounds| puts::compare_content(ground, rounds, FAST, 1),
    },
    Row {
        name: "content put, 32 threads side by side",
        beside: "raw chain, 32 threads",
        target: Target::RatioAtLeast(1.0),
        measure: |ground, rounds| puts::compare_content(ground, rounds, FAST_MANY, MANY),
    },
];

/// What is compared with nothing but a bound.
pub(crate) const PROBES: &[Probe] = &[
    Probe { name: "recovery of 10,000 intents", measure: recovery::measure },
    Probe { name: "a stream of 256 MiB", measure: stream::measure },
];

const FAST: Puts = Puts { fast: FastPath::On, threads: 1, count: 256, files_each: 1 };
const FAST_MANY: Puts = Puts { fast: FastPath::On, threads: MANY, count: 512, files_each: 1 };
const PLAIN: Puts = Puts { fast: FastPath::Off, threads: 1, count: 128, files_each: 1 };

fn transaction(ground: &Ground, rounds: u32, fast: FastPath) -> io::Result<Comparison> {
    puts::compare(ground, rounds, Puts { fast, threads: 1, count: 2, files_each: 100 }, 1)
}
