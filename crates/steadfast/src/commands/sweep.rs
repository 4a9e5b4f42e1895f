//! `steadfast sweep`: remove what dead processes left behind.

use durable_io::{Dir, SweepOptions, WhyKept};
use serde_json::json;

use crate::cli::Sweep;
use crate::failure::{Exit, Outcome};
use crate::output::Output;

pub(super) fn run(args: &Sweep, output: &Output) -> Outcome {
    todo!()
}
