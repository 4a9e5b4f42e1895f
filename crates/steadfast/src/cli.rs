//! The command line. Its help, its completions and its man pages all come from here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use durable_io::Mode;

mod content;
mod crash;
mod state;
mod txn;

pub(crate) use content::{At, ContentCommand, ContentInit, ContentLs, ContentPut, ContentRm, Place};
pub(crate) use crash::{CrashCommand, CrashRun};
pub(crate) use state::{
    QuotaCommand, QuotaSet, SealCommand, SealRestore, SealRotate, SealedWith, SnapshotCommand, StateBackup,
    StateBatch, StateCas, StateCommand, StateGet, StateInit, StateLs, StatePut, StateRestore, StateRm,
    StateSalvage, StateWatch,
};
pub(crate) use txn::Txn;

const AFTER_HELP: &str = "\
Words: atomic means all or nothing, as a reader sees it; durable means that it survives a power cut.
Success is reported only after both hold, unless --allow-visible-only or --sync none was given.

Exit codes:
  0  done                          4  no space left, or no quota
  1  not so (not found, exists,    5  I/O error
     declined, torn tail,          6  locked or held by another
     promise broken)
  2  wrong usage                   7  denied, or read-only
  3  corrupt or damaged          130  stopped by a signal
`lock` and `update` pass on the status of their command; their own failure is 125 (126: it cannot be run,
127: it was not found).

Data goes to stdout, words to stderr. With --json, one object a line on stdout: {\"schema\":1,\"ok\":true,…} or
{\"schema\":1,\"ok\":false,\"error\":{\"code\",\"message\",\"hint\",\"details\"}}.

For tests of what a crash leaves: STEADFAST_CRASH_POINTS=after_rename (a list; `call@7` is the seventh call on the
file system) makes any command abort there.";

/// Writes that survive a power cut: files, registries, logs, and many files at once.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, propagate_version = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// Print one JSON object a line on stdout instead of words on stderr.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing on success.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replace (or create) a file with what comes on stdin: atomically, durably.
    Write(Write),
    /// Change a shared file under its lock: its content goes to a command, the command's output becomes the content.
    ///
    /// The command gets the old content on stdin (nothing, if the file is missing) and writes the new one to
    /// stdout. If it fails, nothing changes and its status is passed on.
    Update(Update),
    /// Append JSON records, one a line on stdin, to a log.
    Append(Append),
    /// Look after a JSON Lines log.
    #[command(subcommand)]
    Log(LogCommand),
    /// Run a command while holding the lock of a file.
    ///
    /// The lock is held by steadfast, not by the command: if steadfast is killed (SIGKILL) the lock is free, even though
    /// the command goes on. Other signals are passed on to the command and waited for.
    Lock(Lock),
    /// Remove files, durably.
    Rm(Rm),
    /// Rename a file or directory, durably.
    Mv(Mv),
    /// Create directories, durably.
    Mkdir(Mkdir),
    /// Copy many files into a directory, durably, sharing the barriers among them.
    ///
    /// Each file appears whole or not at all; the files together are not atomic. Nothing is renamed into place before
    /// everything is synced.
    Copy(Copy),
    /// Change several files below a directory together, durably: all of them, or none.
    ///
    /// What to change comes as a manifest, one JSON object a line:
    ///
    ///   {"op":"replace","path":"config.json","text":"{}"}  or "hex":"00ff", or "from":"FILE"
    ///
    ///   {"op":"create","path":"data/new","from":"/tmp/new"}  as replace, but nothing may have the name yet
    ///
    ///   {"op":"remove","path":"old"}
    ///
    ///   {"op":"rename","path":"a","to":"b"}  whatever file `b` was is replaced
    ///
    /// A path is relative to the directory, without `.` and `..`; missing directories are made. FILE is a regular file,
    /// relative to the working directory, and of any length. All operations look at the files as they were before: two
    /// renames against each other swap two files. Each name is changed once. A file that is replaced keeps its mode; a new one
    /// has 666 less the umask. Empty lines are passed over; fields that are not known are refused. A manifest has at most 65536
    /// operations, a line 1 MiB, and all paths and contents in it together 16 MiB: longer contents come from files.
    ///
    /// The new files are staged beside their names and made durable; then one record in a journal, in `.steadfast-txn` below
    /// the directory, decides. Whatever happens then, all of it will be so: a transaction that was cut short is finished by the
    /// next one, or by --recover; until then some of the names may be old and some new. What others have changed meanwhile is
    /// left alone and told. Stopped by a signal before the record, nothing has changed.
    ///
    /// Example: printf '%s\n' '{"op":"replace","path":"a","text":"1"}' '{"op":"remove","path":"b"}' | steadfast txn DIR
    Txn(Txn),
    /// Remove temporary files whose owners are proved dead.
    Sweep(Sweep),
    /// Keep keys and values in one file, the image of a store: each change is durable, atomic, and has a revision.
    ///
    /// A key is absolute and lies under `/state/`, as in `/state/boot/slot`: at most 255 bytes, no empty component, no
    /// `.` or `..`, no control character. What is not in this form is refused, never repaired. A value is any bytes,
    /// 65536 at most.
    ///
    /// Commands that write (put, rm, cas, batch, …) hold the exclusive lock of the image; while another holds it they end
    /// with exit code 6. Commands that only read take no lock. Beside a writer they see the store as it was at some moment, and
    /// may report a torn tail that is not there; damage is believed only while nobody writes, and exit code 6 says that
    /// somebody always did.
    ///
    /// A damaged store can still be read. What is read from it is printed, with a warning and exit code 3 unless it is
    /// known to be the newest. `fsck` says what is lost, `salvage` makes a new store of what is left.
    #[command(subcommand)]
    State(StateCommand),
    /// Keep objects of apps in a directory of their own, each app under its quota: every change is durable and atomic.
    ///
    /// An object is written `state:/APP/PATH`, as in `state:/photos/2024/one.jpg`, or PATH with --app APP. Beyond its quota (of
    /// bytes, of files, of bytes being staged) an app is refused, before anything is written: exit code 4.
    ///
    /// One process has a store open at a time, and every command opens it, also those that only read: opening finishes and
    /// removes what a crash has left, and says so. Nothing else may change or read the directory: between a power cut and the next
    /// open, a bare file in it may be empty or missing. A store whose journal is damaged can only be read: exit code 3.
    ///
    /// Where the configuration says so (`crash_sim`), every command but `init` and `recover` ends itself at one of the points
    /// named there.
    #[command(subcommand)]
    Content(ContentCommand),
    /// Find out what the file system of a directory promises, and what its barriers cost.
    Selfcheck(Selfcheck),
    /// Cut the power, in a simulation, at every point of what Steadfast does, and check every disk that may be left.
    #[command(subcommand)]
    Crash(CrashCommand),
    /// Do all of it on real files in a fresh directory, and show what is durable and what it cost.
    Demo(Demo),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page of a command.
    Man {
        /// The command; without it, the page of `steadfast` itself.
        command: Option<String>,
        /// Write the pages of all commands into this directory instead.
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Write {
    /// The file to replace or create. Missing parent directories are created, durably.
    pub(crate) path: PathBuf,
    /// Read from this file instead of stdin (`-`).
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) from: PathBuf,
    /// Fail if the file exists.
    #[arg(long)]
    pub(crate) create_new: bool,
    #[command(flatten)]
    pub(crate) how: How,
    /// Leave the file alone if it has this content already (its barriers are issued all the same).
    #[arg(long, conflicts_with = "create_new")]
    pub(crate) if_changed: bool,
}

/// What all writing commands share.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Permission bits in octal, exactly. Default: those of the file replaced, or 666 less the umask.
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    pub(crate) mode: Option<Mode>,
    /// What else to keep of the file replaced.
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) keep: Vec<KeepWhat>,
    /// What to do if the path is a symbolic link.
    #[arg(long, value_name = "POLICY", default_value = "follow")]
    pub(crate) symlinks: SymlinkPolicy,
    /// What to do if the file has several names.
    #[arg(long, value_name = "POLICY", default_value = "replace")]
    pub(crate) hard_links: HardLinkPolicy,
    /// Overwrite in place (not atomically, after a durable backup) if the rename is refused, as for a bind mount.
    #[arg(long)]
    pub(crate) in_place_if_refused: bool,
    /// Succeed where directories cannot be synced, and say that the change is only visible.
    #[arg(long)]
    pub(crate) allow_visible_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeepWhat {
    /// User and group.
    Owner,
    /// Extended attributes (user. and security.).
    Xattr,
    /// The POSIX ACL.
    Acl,
    /// All of these.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SymlinkPolicy {
    /// Write the file it leads to.
    Follow,
    /// Put a file in the place of the link.
    Replace,
    /// Fail.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HardLinkPolicy {
    /// Replace this name only; the others keep the old content.
    Replace,
    /// Fail.
    Refuse,
    /// Overwrite the shared file: not atomic, after a durable backup.
    InPlace,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The file to change. It may be missing.
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
    #[command(flatten)]
    pub(crate) how: How,
    /// Accept an empty result.
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// How long to wait for the lock (`0`, `500ms`, `5s`, `2m`).
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// The kind of lock; all users of a file must choose the same.
    #[arg(long, value_name = "KIND", default_value = "kernel")]
    pub(crate) lock_kind: KindOfLock,
    /// Take an exclusive-create lock over by age as well. Unsafe: a suspended holder may wake up.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) stale_after: Option<Duration>,
    /// Refuse kernel locks on network file systems.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindOfLock {
    /// A kernel lock; dies with its holder.
    Kernel,
    /// A file that exists while the lock is held, for file systems without kernel locks.
    Exclusive,
}

#[derive(Debug, Args)]
pub(crate) struct Append {
    /// The log. It is created, durably, if it is missing.
    pub(crate) path: PathBuf,
    /// When to make records durable: `each`, `group:N` (and at the end), or `none`.
    #[arg(long, value_name = "WHEN", default_value = "each", value_parser = parse_sync)]
    pub(crate) sync: SyncWhen,
    /// Rotate before the log would grow beyond this many bytes (`10M`, `1G`).
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) max_bytes: Option<u64>,
    /// How many rotated files to keep (`LOG.1` is the youngest). Files of these names are replaced.
    #[arg(long, value_name = "COUNT", default_value_t = 3, requires = "max_bytes")]
    pub(crate) keep: u32,
    /// How long to wait for the lock.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncWhen {
    Each,
    Group(u32),
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Check a log: count its records, find damage and a torn tail. Changes nothing without --repair.
    Check {
        /// The log.
        path: PathBuf,
        /// Set a torn tail aside in a file beside the log, and cut it off.
        #[arg(long)]
        repair: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Lock {
    /// The file whose lock to take (`PATH.lock` beside it). It may be missing.
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The files.
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Missing files are fine.
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Mv {
    /// The file or directory.
    pub(crate) from: PathBuf,
    /// Its new name, or a directory to move it into.
    pub(crate) to: PathBuf,
    /// Fail if the new name exists.
    #[arg(long)]
    pub(crate) no_clobber: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Mkdir {
    /// The directories.
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Create missing parents as well; existing directories are fine.
    #[arg(long, short)]
    pub(crate) parents: bool,
    /// Permission bits in octal, exactly.
    #[arg(long, short, value_name = "OCTAL", value_parser = parse_mode)]
    pub(crate) mode: Option<Mode>,
}

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// Files, or with --recursive directories.
    #[arg(required = true, value_name = "SRC")]
    pub(crate) sources: Vec<PathBuf>,
    /// The directory to copy into. It is created if it is missing.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Copy directories with all they hold.
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// On how many threads to sync; 1 syncs one file after the other.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// Sync the whole file system once instead of each file. Waits for everybody's unwritten data.
    #[arg(long)]
    pub(crate) syncfs: bool,
    /// Publish nothing if any file fails before the renames begin.
    #[arg(long)]
    pub(crate) all_or_none: bool,
    /// Succeed where directories cannot be synced.
    #[arg(long)]
    pub(crate) allow_visible_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// Directories below it as well.
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Only say what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Selfcheck {
    /// The directory. A subdirectory is made in it for the time of the check.
    pub(crate) dir: PathBuf,
    /// How often each barrier is timed.
    #[arg(long, value_name = "COUNT", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) rounds: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Make the directory of the demonstration in this one.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Remove it again at the end.
    #[arg(long)]
    pub(crate) clean: bool,
    /// Be one of the processes of the demonstration.
    #[arg(long, hide = true, value_name = "REGISTRY")]
    pub(crate) worker: Option<PathBuf>,
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o7777 => Ok(Mode::new(bits)),
        _ => Err("expected octal permission bits, such as 600 or 0644".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 =
        digits.parse().map_err(|_| "expected a number with ms, s or m, such as 500ms".to_owned())?;
    match text.strip_prefix(digits).unwrap_or("") {
        "ms" => Ok(Duration::from_millis(count)),
        "" | "s" => Ok(Duration::from_secs(count)),
        "m" => count.checked_mul(60).map(Duration::from_secs).ok_or_else(|| "that is too long".to_owned()),
        unit => Err(format!("unknown unit `{unit}`: expected ms, s or m")),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 =
        digits.parse().map_err(|_| "expected a number of bytes, such as 4096 or 10M".to_owned())?;
    let factor = match text.strip_prefix(digits).unwrap_or("") {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        unit => return Err(format!("unknown unit `{unit}`: expected K, M or G")),
    };
    count.checked_mul(factor).ok_or_else(|| "that is too many".to_owned())
}

fn parse_sync(text: &str) -> Result<SyncWhen, String> {
    match text {
        "each" => Ok(SyncWhen::Each),
        "none" => Ok(SyncWhen::Never),
        _ => match text.strip_prefix("group:").map(str::parse) {
            Some(Ok(count)) if count > 0 => Ok(SyncWhen::Group(count)),
            _ => Err("expected each, none or group:N with N from 1".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_parsed_and_nonsense_is_refused() {
        assert_eq!(parse_mode("0600").unwrap().bits(), 0o600);
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("0").unwrap(), Duration::ZERO);
        assert_eq!(parse_bytes("10M").unwrap(), 10 << 20);
        assert_eq!(parse_sync("group:10").unwrap(), SyncWhen::Group(10));
        for bad in ["", "8", "10000", "-1", "rw"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
        for bad in ["", "s", "1h", "-1s", "99999999999999999999", "999999999999999999m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "K", "1T", "99999999999999999999", "99999999999G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        for bad in ["", "group", "group:0", "group:x", "always"] {
            assert!(parse_sync(bad).is_err(), "{bad}");
        }
    }
}
