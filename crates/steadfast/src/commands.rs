//! One module a command; here the dispatch and what several of them share.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;

use clap::CommandFactory as _;
use durable_io::{
    Barriers, Change, Dir, Durability, HardLinks, Keep, LockKind, LockOptions, Published, RenameRefused,
    Stale, Symlinks, Unchanged, Wait, WriteOptions,
};

use crate::cli::{
    Cli, Command, HardLinkPolicy, How, KeepWhat, KindOfLock, LockArgs, LogCommand, SymlinkPolicy,
};
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

mod child;
mod content;
mod copy;
mod crash;
mod demo;
mod lines;
mod log;
mod man;
mod names;
mod recovery;
mod selfcheck;
mod state;
mod sweep;
mod txn;
mod write;

pub(crate) fn run(command: Command, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    match command {
        Command::Write(args) => write::run(&args, medium, output, interrupt),
        Command::Update(args) => child::update(&args, medium, output, interrupt),
        Command::Lock(args) => child::lock(&args, medium, interrupt),
        Command::Append(args) => log::append(&args, medium, output, interrupt),
        Command::Log(LogCommand::Check { path, repair }) => log::check(&path, repair, medium, output),
        Command::Rm(args) => names::rm(&args, medium, output),
        Command::Mv(args) => names::mv(&args, medium, output),
        Command::Mkdir(args) => names::mkdir(&args, medium, output),
        Command::Copy(args) => copy::run(&args, medium, output, interrupt),
        Command::Sweep(args) => sweep::run(&args, medium, output),
        Command::Txn(args) => txn::run(&args, medium, output, interrupt),
        Command::State(command) => state::run(&command, medium, output, interrupt),
        Command::Content(command) => content::run(&command, medium, output, interrupt),
        Command::Selfcheck(args) => selfcheck::run(&args, medium, output, interrupt),
        Command::Crash(command) => crash::run(&command, medium, output, interrupt),
        Command::Demo(args) => demo::run(&args, medium, output, interrupt),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "steadfast", &mut script);
            output.data(&script)?;
            Ok(Exit::Ok)
        }
        Command::Man { command, dir } => man::run(command.as_deref(), dir.as_deref(), medium, output),
    }
}

/// Whether the directory of a path may be created on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MissingDir {
    Create,
    Fail,
}

/// Opens the directory that holds `path`; the name in it.
fn split<'p>(medium: &Medium, path: &'p Path, missing: MissingDir) -> Outcome<(Dir, &'p OsStr)> {
    let (parent, name) = parent_and_name(path)?;
    let dir = match missing {
        MissingDir::Create => medium.open_or_create(parent)?,
        MissingDir::Fail => medium.open(parent)?,
    };
    Ok((dir, name))
}

/// The directory that holds `path`, and the name in it.
fn parent_and_name(path: &Path) -> Outcome<(&Path, &OsStr)> {
    let usage = |message: String| Failure::Usage { message, hint: None };
    if path.as_os_str().as_encoded_bytes().trim_ascii().is_empty() {
        return Err(usage("the path is empty".to_owned()));
    }
    let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let name = path.file_name().filter(|_| !ends_in_slash);
    let name = name.ok_or_else(|| usage(format!("`{}` names a directory, not a file", path.display())))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent, name))
}

impl How {
    fn options(&self) -> WriteOptions {
        let kept = |what| self.keep.contains(&what) || self.keep.contains(&KeepWhat::All);
        WriteOptions {
            mode: self.mode,
            keep: Keep {
                owner: kept(KeepWhat::Owner),
                xattrs: kept(KeepWhat::Xattr),
                acl: kept(KeepWhat::Acl),
            },
            symlinks: match self.symlinks {
                SymlinkPolicy::Follow => Symlinks::Follow,
                SymlinkPolicy::Replace => Symlinks::Replace,
                SymlinkPolicy::Refuse => Symlinks::Refuse,
            },
            hard_links: match self.hard_links {
                HardLinkPolicy::Replace => HardLinks::Replace,
                HardLinkPolicy::Refuse => HardLinks::Refuse,
                HardLinkPolicy::InPlace => HardLinks::InPlace,
            },
            rename_refused: if self.in_place_if_refused {
                RenameRefused::InPlace
            } else {
                RenameRefused::Fail
            },
            unchanged: Unchanged::Write,
            expect: None,
            barriers: barriers(self.allow_visible_only),
            parents: durable_io::Parents::Create,
        }
    }
}

fn barriers(allow_visible_only: bool) -> Barriers {
    if allow_visible_only { Barriers::AllowVisibleOnly } else { Barriers::Required }
}

impl LockArgs {
    fn options(&self) -> LockOptions {
        LockOptions {
            kind: match self.lock_kind {
                KindOfLock::Kernel => LockKind::Kernel,
                KindOfLock::Exclusive => LockKind::Exclusive,
            },
            wait: if self.timeout.is_zero() { Wait::DoNotWait } else { Wait::UpTo(self.timeout) },
            stale: self.stale_after.map_or(Stale::ProvedDead, Stale::OlderThan),
            network: if self.strict {
                durable_io::NetworkLocks::Refuse
            } else {
                durable_io::NetworkLocks::Accept
            },
        }
    }
}

/// `durable`, or `visible only`, for people.
fn durability_words(durability: Durability) -> String {
    match durability {
        Durability::Durable => "durable".to_owned(),
        Durability::VisibleOnly(reason) => format!("visible only (the directory cannot be synced: {reason})"),
    }
}

/// The same for programs.
fn durability_code(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "durable",
        Durability::VisibleOnly(_) => "visible_only",
    }
}

fn change_words(change: Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Replaced => "replaced",
        Change::Overwritten => "overwritten in place",
        Change::Unchanged => "unchanged",
    }
}

fn change_code(change: Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Replaced => "replaced",
        Change::Overwritten => "overwritten",
        Change::Unchanged => "unchanged",
    }
}

/// Says what a write that succeeded could not clean up.
fn warn_leftovers(published: &Published, output: &Output) -> Outcome<()> {
    for leftover in published.leftover.iter().chain(&published.second_leftover) {
        output.warn(format_args!("`{}` is left: {}", leftover.path.display(), leftover.error))?;
    }
    Ok(())
}

/// Opens a file that is read to its end. What is no regular file is refused: opening a FIFO would wait for its other end.
fn open_regular(source: &Path) -> Outcome<(File, fs::Metadata)> {
    let fail = |e| Failure::io("reading the source", source, e);
    let refuse_other = |found: &fs::Metadata| match found.is_file() {
        true => Ok(()),
        false => Err(Failure::not_so(format!("`{}` is no regular file", source.display()))),
    };
    refuse_other(&fs::metadata(source).map_err(fail)?)?;
    let file = File::open(source).map_err(fail)?;
    let found = file.metadata().map_err(fail)?;
    refuse_other(&found)?;
    Ok((file, found))
}

/// `1.5 MB` and its kin.
fn bytes_words(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
