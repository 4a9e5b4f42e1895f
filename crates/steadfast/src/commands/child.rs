//! `steadfast lock` and `steadfast update`: run a command under the lock of a file and pass on its status.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use durable_io::{EmptyResult, READ_LEN_MAX, UpdateOptions};
use serde_json::json;

use super::{MissingDir, bytes_words, change_code, durability_code, durability_words, split, warn_leftovers};
use crate::cli::{Lock, Update};
use crate::failure::{Exit, Failure, OWN_FAILURE_BESIDE_A_CHILD, Outcome, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(super) fn lock(args: &Lock, medium: &Medium, interrupt: &Interrupt) -> Outcome {
    let held = || -> Outcome<_> {
        let (dir, name) = split(medium, &args.path, MissingDir::Create)?;
        interrupt.begin_idle();
        let held = dir.lock_with(name, args.lock.options());
        interrupt.end_idle()?;
        Ok(held?)
    };
    let held = held().map_err(Failure::beside_child)?;
    let status = command(&args.command)?
        .spawn()
        .and_then(|child| wait_passing_on_signals(child, interrupt))
        .map_err(|e| cannot_run(&args.command, e));
    let unlocked = held.unlock().map_err(|error| Failure::from(error).beside_child());
    let status = status?;
    unlocked?;
    Ok(Exit::Child(status_code(status)))
}

/// How often somebody looks whether a signal has come while the command runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits for the command, and passes on a request to stop: the lock must outlive the command, so we stay. (Ctrl-C in a
/// terminal reaches it without us as well; a command that is told twice stops all the same.)
fn wait_passing_on_signals(mut child: Child, interrupt: &Interrupt) -> io::Result<ExitStatus> {
    let pid = child.id();
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        scope.spawn(move || {
            while is_done.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                if interrupt.is_asked() {
                    return ask_to_stop(pid);
                }
            }
        });
        let status = child.wait();
        drop(done);
        status
    })
}

#[cfg(unix)]
fn ask_to_stop(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        match kill_process(pid, Signal::TERM) {
            // It may be gone already, and then there is nobody to ask.
            Ok(()) | Err(_) => {}
        }
    }
}

/// There is no signal to pass on; Ctrl-C reaches the command by itself.
#[cfg(not(unix))]
fn ask_to_stop(_pid: u32) {}

pub(super) fn update(args: &Update, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let options = UpdateOptions {
        lock: args.lock.options(),
        write: args.how.options(),
        empty: if args.allow_empty { EmptyResult::Allow } else { EmptyResult::Refuse },
        ..UpdateOptions::default()
    };
    // What stopped the update, where it was the command and not us.
    let mut stopped = None;
    let (dir, name) = split(medium, &args.path, MissingDir::Create).map_err(Failure::beside_child)?;
    interrupt.begin_idle();
    let outcome = dir.update_with(name, &options, |old| {
        let new = interrupt
            .end_idle()
            .map_err(|failure| Stop::Failed(failure.beside_child()))
            .and_then(|()| run_filter(&args.command, old.unwrap_or_default(), interrupt));
        new.map_err(|stop| {
            stopped = Some(stop);
            Declined
        })
    });
    // Where the command never ran, the idle time is over only now, and the outcome says why.
    if interrupt.end_idle().is_err() && outcome.is_err() && stopped.is_none() {
        return Err(Failure::Interrupted.beside_child());
    }
    let published = match (outcome, stopped) {
        (Ok(published), _) => published,
        (Err(_), Some(Stop::Status(status))) => {
            output.say(format_args!("the command failed; `{}` is unchanged", args.path.display()))?;
            return Ok(Exit::Child(status_code(status)));
        }
        (Err(_), Some(Stop::Failed(failure))) => return Err(failure),
        (Err(error), None) => return Err(Failure::from(error).beside_child()),
    };
    warn_leftovers(&published, output)?;
    let words = format!(
        "updated `{}`: {}, {}",
        args.path.display(),
        bytes_words(published.len),
        durability_words(published.durability)
    );
    let fields = json!({
        "path": shown(&args.path),
        "change": change_code(published.change),
        "durability": durability_code(published.durability),
        "bytes": published.len,
    });
    output.done(words, fields)?;
    Ok(Exit::Ok)
}

/// Why there is no new content.
enum Stop {
    /// The command ran and failed.
    Status(ExitStatus),
    /// It could not be run, or talked to.
    Failed(Failure),
}

#[derive(Debug)]
struct Declined;

impl From<Declined> for Box<dyn std::error::Error + Send + Sync> {
    fn from(Declined: Declined) -> Self {
        "the command failed".into()
    }
}

/// Runs the command with `old` on stdin; its stdout.
fn run_filter(words: &[OsString], old: &[u8], interrupt: &Interrupt) -> Result<Vec<u8>, Stop> {
    let talk = |e| Stop::Failed(Failure::stream("talking to the command", e).beside_child());
    let mut child = command(words)
        .map_err(Stop::Failed)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Stop::Failed(cannot_run(words, e)))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let new = std::thread::scope(|scope| {
        let writer = scope.spawn(move || match stdin {
            // A command that does not read its input (or not all of it) is within its rights.
            Some(mut stdin) => match stdin.write_all(old) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                outcome => outcome,
            },
            None => Ok(()),
        });
        let mut new = Vec::new();
        let read = match stdout {
            // One byte more than allowed, so that too much is seen as too much.
            Some(stdout) => stdout.take(READ_LEN_MAX + 1).read_to_end(&mut new),
            None => Ok(0),
        };
        let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread died")));
        read.and(written).map(|()| new)
    });
    let status = child.wait().map_err(talk)?;
    let new = new.map_err(talk)?;
    if !status.success() {
        return Err(Stop::Status(status));
    }
    // The last moment at which nothing has happened yet.
    interrupt.check().map_err(|failure| Stop::Failed(failure.beside_child()))?;
    if u64::try_from(new.len()).unwrap_or(u64::MAX) > READ_LEN_MAX {
        let message = format!("the command printed more than {}", bytes_words(READ_LEN_MAX));
        return Err(Stop::Failed(Failure::usage(message).beside_child()));
    }
    Ok(new)
}

fn command(words: &[OsString]) -> Outcome<Command> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::usage("no command was given").beside_child());
    };
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn cannot_run(words: &[OsString], e: io::Error) -> Failure {
    let code = match e.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        io::ErrorKind::PermissionDenied => NOT_RUNNABLE,
        _ => OWN_FAILURE_BESIDE_A_CHILD,
    };
    let program = words.first().cloned().unwrap_or_default();
    Failure::BesideChild { code, failure: Box::new(Failure::io("running the command", program, e)) }
}

/// As a shell reports it: 128 and the signal's number for a child that was killed.
fn status_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(OWN_FAILURE_BESIDE_A_CHILD);
    }
    status.code().and_then(|code| u8::try_from(code & 0xFF).ok()).unwrap_or(OWN_FAILURE_BESIDE_A_CHILD)
}
