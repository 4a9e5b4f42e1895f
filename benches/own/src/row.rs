//! A row of a report: one operation, what it is compared with, and what is asked of it.

use std::io;

use serde::Serialize;

use crate::ground::Ground;
use crate::measure::Samples;

/// What every row writes.
pub const PAYLOAD: [u8; 4096] = [0x5A; 4096];

/// One operation and what it is compared with.
#[derive(Debug)]
pub struct Row {
    /// What it is called in the report.
    pub name: &'static str,
    /// What the baseline is.
    pub beside: &'static str,
    /// What is asked of it.
    pub target: Target,
    /// Measures it in so many rounds.
    pub measure: fn(&Ground, u32) -> io::Result<Comparison>,
}

/// When a row has reached what it should.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Baseline time / our time, at least.
    RatioAtLeast(f64),
    /// The same, for each file system by its type; and elsewhere.
    RatioOn(&'static [(&'static str, f64)], f64),
    /// Our time / baseline time, at most.
    ShareAtMost(f64),
}

/// Both sides, measured in the same run.
#[derive(Debug)]
pub struct Comparison {
    /// What we take.
    pub ours: Samples,
    /// What it is compared with.
    pub baseline: Samples,
    /// Barriers of one of our operations, counted.
    pub syncs: f64,
    /// Flushes of the device for one of our operations, and for one of the baseline's, where they were counted.
    pub flushes: Option<(f64, f64)>,
}

/// A barrier and how to measure it.
#[derive(Debug)]
pub struct Barrier {
    /// What it is called in the report.
    pub name: &'static str,
    /// Measures it in so many rounds.
    pub measure: fn(&Ground, u32) -> io::Result<Samples>,
}

/// What is measured once and compared with nothing but a bound.
#[derive(Debug)]
pub struct Probe {
    /// What it is called in the report.
    pub name: &'static str,
    /// Measures it in so many rounds.
    pub measure: fn(&Ground, u32) -> io::Result<Vec<Fact>>,
}

/// A figure that was found.
#[derive(Debug, Serialize)]
pub struct Fact {
    /// Of what.
    pub what: String,
    /// How much.
    pub figure: f64,
    /// Of which unit.
    pub unit: &'static str,
    /// The most that it may be, where anything is asked of it.
    pub at_most: Option<f64>,
}
