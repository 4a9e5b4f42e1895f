//! The only place that prints: data on stdout, words on stderr, `--json` on stdout with a schema number.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure, Outcome};

/// The version of everything that `--json` prints. It grows when a field changes its meaning or goes.
pub(crate) const JSON_SCHEMA: u32 = 1;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();
const GOOD: Style = AnsiColor::Green.on_default();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Where the words and the data of a command go. Colours follow the terminal and `NO_COLOR`.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    /// With `--json`, what the next object has to say beside its fields.
    warnings: RefCell<Vec<String>>,
    /// Whether whoever read stdout has gone.
    is_unread: Cell<bool>,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, warnings: RefCell::default(), is_unread: Cell::new(false) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Raw bytes on stdout, whatever the options.
    pub(crate) fn data(&self, bytes: &[u8]) -> Outcome<()> {
        let mut stdout = io::stdout().lock();
        accept_closed_pipe(stdout.write_all(bytes).and_then(|()| stdout.flush()))
    }

    /// A line of data on stdout.
    pub(crate) fn line(&self, line: impl Display) -> Outcome<()> {
        let written = writeln!(anstream::stdout(), "{line}");
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            self.is_unread.set(true);
        }
        accept_closed_pipe(written)
    }

    /// Whether a line has found nobody any more who reads it: a command without an end stops then.
    pub(crate) fn is_unread(&self) -> bool {
        self.is_unread.get()
    }

    /// Bytes on stdout that are worth nothing unless all of them arrive.
    pub(crate) fn stream(bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    }

    /// A good outcome: words on stderr, or with `--json` the fields on stdout.
    pub(crate) fn done(&self, words: impl Display, fields: Value) -> Outcome<()> {
        if self.json {
            return self.object(true, fields);
        }
        self.say(format_args!("{GOOD}{words}{GOOD:#}"))
    }

    /// `{"schema":1,"ok":…}` and the fields, on one line.
    pub(crate) fn object(&self, ok: bool, fields: Value) -> Outcome<()> {
        let mut object = json!({ "schema": JSON_SCHEMA, "ok": ok });
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
            object.extend(fields);
            let warnings = self.warnings.take();
            if !warnings.is_empty() {
                object.insert("warnings".to_owned(), json!(warnings));
            }
        }
        self.line(object)
    }

    /// Words on stderr, unless `--quiet` or `--json`.
    pub(crate) fn say(&self, words: impl Display) -> Outcome<()> {
        if self.quiet || self.json {
            return Ok(());
        }
        accept_closed_pipe(writeln!(anstream::stderr(), "{words}"))
    }

    /// A warning on stderr, which `--quiet` does not silence; with `--json` in the `warnings` of the next object.
    pub(crate) fn warn(&self, words: impl Display) -> Outcome<()> {
        if self.json {
            self.warnings.borrow_mut().push(words.to_string());
            return Ok(());
        }
        accept_closed_pipe(writeln!(anstream::stderr(), "{WARNING}warning:{WARNING:#} {words}"))
    }

    /// Says why the command failed; the exit code for it.
    pub(crate) fn failed(&self, failure: &Failure) -> ExitCode {
        let exit: Exit = failure.exit();
        let printed = if self.json {
            self.object(false, json!({ "error": failure.to_json() }))
        } else {
            self.explain(failure)
        };
        // Where not even the complaint can be written, the exit code has to do.
        match printed {
            Ok(()) => exit.into(),
            Err(_) => ExitCode::from(exit.code().max(1)),
        }
    }

    fn explain(&self, failure: &Failure) -> Outcome<()> {
        let mut stderr = anstream::stderr();
        accept_closed_pipe(writeln!(stderr, "{ERROR}error:{ERROR:#} {failure}"))?;
        match failure.hint() {
            Some(hint) => accept_closed_pipe(writeln!(stderr, "{HINT}hint:{HINT:#} {hint}")),
            None => Ok(()),
        }
    }

    /// A progress bar on stderr, if that is a terminal; else one that shows nothing.
    pub(crate) fn progress(&self, total: Option<u64>, unit: Unit) -> ProgressBar {
        let hidden = self.quiet || self.json;
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(total, target);
        bar.set_style(unit.style(total.is_some()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

/// Says what is wrong with the command line (or, asked for, prints help or version); the exit code for it.
pub(crate) fn refused(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && json {
        let message = error.render().to_string();
        return Output::new(true, false).failed(&Failure::usage(message.trim()));
    }
    // As clap itself would, but for its exit.
    match error.print() {
        Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
        Err(_) => Exit::Io.into(),
    }
}

/// What a progress bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Files,
    /// Of the planned work; the message says how much was done.
    Share,
}

impl Unit {
    /// How a bar of it looks.
    pub(crate) fn style(self, has_total: bool) -> ProgressStyle {
        let template = match (self, has_total) {
            (Self::Bytes, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            (Self::Bytes, false) => "{spinner} {msg} {bytes} {bytes_per_sec}",
            // No rate: a copy writes, syncs and renames, each at a speed of its own. The summary has one.
            (Self::Files, true) => "{msg} {wide_bar} {pos}/{len} files {elapsed}",
            (Self::Files, false) => "{spinner} {msg} {pos} files {elapsed}",
            (Self::Share, true) => "{msg} {wide_bar} {percent}% {elapsed}",
            (Self::Share, false) => "{spinner} {msg} {elapsed}",
        };
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

/// A reader that has gone (`… | head`) is no failure of ours.
fn accept_closed_pipe(outcome: io::Result<()>) -> Outcome<()> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(Failure::Output),
    }
}
