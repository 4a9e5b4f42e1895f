//! The arguments of `steadfast txn`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::parse_duration;

#[derive(Debug, Args)]
pub(crate) struct Txn {
    /// The directory. The paths of the manifest are below it.
    pub(crate) dir: PathBuf,
    /// Read the manifest from this file instead of stdin (`-`).
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) from: PathBuf,
    /// Check all that can be checked without taking the directory, and change nothing. Whether there is space, and who else
    /// has the directory, shows only when it is done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Read no manifest; only finish what an earlier transaction has left unfinished. Exit code 1: somebody has changed
    /// a file meanwhile, and it was left alone.
    #[arg(long, conflicts_with_all = ["dry_run", "from"])]
    pub(crate) recover: bool,
    /// How old a staged file must be to be removed if the journal of this directory does not know it.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub(crate) orphan_age: Duration,
    /// How long to wait for another transaction in this directory (`0`, `500ms`, `5s`, `2m`).
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}
