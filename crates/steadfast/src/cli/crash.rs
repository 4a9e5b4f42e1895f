//! The arguments of `steadfast crash`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum CrashCommand {
    /// Run the cases, cut the power at every point of each, and check every disk that may be left.
    ///
    /// A case is a small program that writes with Steadfast: it replaces a file, updates a registry, appends to a log, or
    /// (`state-…`) puts keys into a store on a disk.
    /// It runs once on a simulated file system or disk that writes down every request. Then the power is cut, on paper, at
    /// every point of it. What no barrier covers may or may not have reached the disk, piece by piece; each
    /// combination is a disk that a real power cut may leave. On each the program starts again, recovers, and is
    /// asked whether everything it was told is durable is there, and everything else is there whole or not at all.
    /// During recovery the power is cut once more (--depth), and everything is done again with calls that fail.
    ///
    /// A profile says what a file system, or a disk, does between two barriers: in which order, in which pieces. Each case
    /// is put under the profiles of its own medium.
    /// `steadfast crash list` lists cases and profiles.
    ///
    /// The table: how often the case ran (once, and once for each fault; `+`: the budget left some out), how many crash
    /// points that made, states visited (those of recoveries included), images among them that no row above had, how
    /// many of the possible states of the first crash were visited, and the result.
    ///
    /// The same seed gives the same stdout and the same artifacts, on every machine and any number of threads.
    /// Exit code 1: a promise was broken.
    Run(CrashRun),
    /// List the cases, and the profiles with what each is based on.
    List,
    /// Tell the story of one crash: what was done, where the power failed, what survived, what was found then.
    ///
    /// An id says all that is needed to do it again:
    ///
    ///   rename-without-fsync/ext4-ordered@4:lose=2.1
    ///
    /// is the case `rename-without-fsync` under the profile `ext4-ordered`, with the power cut when records 0 to 3 of
    /// the trace had been begun, and piece 1 of record 2 lost (`keep=…`: only these survive; `all`, `none`: everything
    /// does, nothing does).
    /// Before the profile, `#7` is the seed of a case made by chance, `:skip=2` an operation left out, `%4:fail28` a
    /// call that fails (with error 28, disk full), `~5` a barrier that is taken away, to see what it is good for.
    /// `@kill9` is a process killed there, and `+` joins a crash with a second one during the recovery from it.
    ///
    /// Exit code 1: a promise is broken there.
    Replay {
        /// The id, as `steadfast crash run` prints it.
        #[arg(value_name = "ID")]
        id: String,
        /// Show the points that the engine passed as well.
        #[arg(long)]
        trace: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CrashRun {
    /// Only this case (repeatable). Default: all of them.
    #[arg(long = "case", value_name = "NAME", value_delimiter = ',')]
    pub(crate) cases: Vec<String>,
    /// Under this profile (repeatable); `all` for all of them. Default: posix-min and ext4-ordered for files,
    /// any-subset-torn for disks.
    #[arg(long = "profile", value_name = "NAME", value_delimiter = ',')]
    pub(crate) profiles: Vec<String>,
    /// What chance is drawn from, where there are too many disks to look at each.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many states are visited for each case and profile, more or less: what has begun is finished.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) budget: u64,
    /// How often the power is cut again during recovery.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=3))]
    pub(crate) depth: u32,
    /// Leave out the runs in which a call fails.
    #[arg(long)]
    pub(crate) no_faults: bool,
    /// On how many threads. Default: one for each processor.
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Write log, traces, reports and stories into this directory, under names that stay the same.
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
}
