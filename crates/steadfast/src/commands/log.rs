//! `steadfast append` and `steadfast log check`: JSON Lines.

use std::num::NonZeroU32;
use std::path::Path;

use durable_io::{
    Cause, CheckedTail, DAMAGED_LINES_MAX, Error, Flaw, Invalid, Log, LogCheck, LogOptions, LogSync, Reached,
    Tail, Writers,
};
use serde_json::json;

use super::{MissingDir, bytes_words, split};
use crate::cli::{Append, SyncWhen};
use crate::failure::{Exit, Failure, Outcome, shown, snake};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

/// Without barriers, this many records are handed over at once.
const UNSYNCED_GROUP: usize = 1_000;

pub(super) fn append(args: &Append, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let options = LogOptions {
        sync: match args.sync {
            SyncWhen::Each => LogSync::EachRecord,
            SyncWhen::Group(count) => LogSync::Group(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)),
            SyncWhen::Never => LogSync::None,
        },
        writers: Writers::Many,
        lock_wait: args.timeout,
        bytes_max: args.max_bytes,
        keep: args.keep,
        ..LogOptions::default()
    };
    let group = match args.sync {
        SyncWhen::Each => 1,
        SyncWhen::Group(count) => usize::try_from(count).unwrap_or(usize::MAX),
        SyncWhen::Never => UNSYNCED_GROUP,
    };
    let record_len_max = usize::try_from(options.record_len_max).unwrap_or(usize::MAX);
    let (dir, name) = split(medium, &args.path, MissingDir::Create)?;
    let mut log = dir.log_with(name, options)?;
    tell_repair(&log.recovery().tail, output)?;
    let mut appender =
        Appender { log: &mut log, group, waiting: Vec::new(), lines: 0, records: 0, bytes: 0, reached: None };
    let fed = feed(&mut appender, record_len_max, interrupt);
    let appended = fed.and_then(|()| appender.flush());
    let (records, bytes, reached) = (appender.records, appender.bytes, appender.reached);
    let closed = log.close();
    if let Err(failure) = appended {
        output.say(format_args!("{records} record(s) were appended before this"))?;
        return Err(failure);
    }
    closed?;
    let reached_words = match (args.sync, reached) {
        (SyncWhen::Never, _) => "not yet durable".to_owned(),
        (_, Some(Reached::VisibleOnly(reason))) => format!("visible only ({reason})"),
        _ => "durable".to_owned(),
    };
    let words = format!(
        "appended {records} record(s), {} to `{}`: {reached_words}",
        bytes_words(bytes),
        args.path.display()
    );
    let durability = match (args.sync, reached) {
        (SyncWhen::Never, _) => "not_yet_synced",
        (_, Some(Reached::VisibleOnly(_))) => "visible_only",
        _ => "durable",
    };
    output.done(
        words,
        json!({ "path": shown(&args.path), "records": records, "bytes": bytes, "durability": durability }),
    )?;
    Ok(Exit::Ok)
}

/// Hands every line of stdin to the appender.
fn feed(appender: &mut Appender<'_>, record_len_max: usize, interrupt: &Interrupt) -> Outcome<()> {
    let mut chunk = vec![0_u8; 64 << 10];
    let mut line: Vec<u8> = Vec::new();
    loop {
        let count = interrupt.read_stdin(&mut chunk)?;
        let mut rest = chunk.get(..count).unwrap_or(&[]);
        if rest.is_empty() {
            return appender.line(&line);
        }
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (head, tail) = rest.split_at(end);
            line.extend_from_slice(head);
            appender.line(&line)?;
            line.clear();
            rest = tail.get(1..).unwrap_or(&[]);
        }
        line.extend_from_slice(rest);
        if line.len() > record_len_max {
            // The log would refuse it too, but only after it had been read to its end.
            let message = format!(
                "line {}: longer than a record may be ({})",
                appender.lines + 1,
                bytes_words(u64::try_from(record_len_max).unwrap_or(u64::MAX))
            );
            return Err(Failure::usage(message));
        }
    }
}

struct Appender<'l> {
    log: &'l mut Log,
    group: usize,
    /// Records and the numbers of their lines, from 1.
    waiting: Vec<(u64, Vec<u8>)>,
    lines: u64,
    records: u64,
    bytes: u64,
    reached: Option<Reached>,
}

impl Appender<'_> {
    fn line(&mut self, line: &[u8]) -> Outcome<()> {
        self.lines += 1;
        let record = line.trim_ascii();
        if record.is_empty() {
            return Ok(());
        }
        self.waiting.push((self.lines, record.to_owned()));
        if self.waiting.len() >= self.group { self.flush() } else { Ok(()) }
    }

    /// Appends what waits: together, or (to find out which record is refused) one by one.
    fn flush(&mut self) -> Outcome<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let records: Vec<&[u8]> = waiting.iter().map(|(_, record)| record.as_slice()).collect();
        match self.log.append_group(&records) {
            Ok(appended) => {
                self.count(appended, waiting.len());
                Ok(())
            }
            Err(error) if is_refusal(&error) => {
                for (line, record) in &waiting {
                    let appended = self.log.append(record).map_err(|error| refused(error, *line))?;
                    self.count(appended, 1);
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn count(&mut self, appended: durable_io::Appended, records: usize) {
        self.records += u64::try_from(records).unwrap_or(0);
        self.bytes += appended.len;
        self.reached = Some(appended.reached);
    }
}

fn refused(error: Error, line: u64) -> Failure {
    if !is_refusal(&error) {
        return error.into();
    }
    let message = match error.cause() {
        Cause::Invalid(why) => format!("line {line}: {why}"),
        _ => error.to_string(),
    };
    Failure::Usage {
        message,
        hint: Some("nothing of this line was written, and nothing behind it".to_owned()),
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.cause(), Cause::Invalid(Invalid::NotARecord | Invalid::TooLong { .. }))
}

fn tell_repair(tail: &Tail, output: &Output) -> Outcome<()> {
    match tail {
        Tail::Clean => Ok(()),
        Tail::NewlineAdded { offset } => output
            .warn(format_args!("the last record (at byte {offset}) had no newline; it was kept and got one")),
        Tail::Torn { offset, len, set_aside } => output.warn(format_args!(
            "a torn tail of {len} bytes at byte {offset} was set aside in `{}`",
            set_aside.display()
        )),
    }
}

pub(super) fn check(path: &Path, repair: bool, medium: &Medium, output: &Output) -> Outcome {
    let (dir, name) = split(medium, path, MissingDir::Fail)?;
    let options = LogOptions::default();
    let found = Log::check(&dir, name, &options)?;
    let repaired = match found.tail {
        CheckedTail::Clean => None,
        _ if repair => Some(Log::repair(&dir, name, options)?),
        _ => None,
    };
    if output.is_json() {
        output.object(
            found.damaged_count == 0,
            to_json(path, &found, repaired.as_ref().map(|done| &done.tail)),
        )?;
    } else {
        tell(path, &found, output)?;
        if let Some(done) = &repaired {
            tell_repair(&done.tail, output)?;
        } else if repair {
            output.say("nothing to repair")?;
        }
    }
    Ok(match (found.damaged_count, found.tail) {
        (1.., _) => Exit::Corrupt,
        (0, CheckedTail::Clean) => Exit::Ok,
        // As asked: a repaired tail is a torn tail found, which callers may want to know.
        (0, _) => Exit::NotSo,
    })
}

fn tell(path: &Path, found: &LogCheck, output: &Output) -> Outcome<()> {
    output.line(format_args!("{}: {} record(s), {} bytes", path.display(), found.records, found.bytes))?;
    for line in &found.damaged {
        let (offset, len) = (line.offset, line.len);
        output.line(format_args!("  damaged: byte {offset}, {len} bytes: {}", flaw_words(line.flaw)))?;
    }
    if found.damaged_count > u64::try_from(DAMAGED_LINES_MAX).unwrap_or(u64::MAX) {
        output.line(format_args!("  … {} damaged lines in all", found.damaged_count))?;
    }
    match found.tail {
        CheckedTail::Clean => output.line("  tail: clean"),
        CheckedTail::NewlineMissing { offset } => {
            output.line(format_args!("  tail: the last record (byte {offset}) is whole but has no newline"))
        }
        CheckedTail::Torn { offset, len, flaw } => {
            output.line(format_args!("  tail: torn at byte {offset}, {len} bytes: {}", flaw_words(flaw)))?;
            output.say(
                "a torn tail is normal after a power cut: it was never acknowledged. --repair sets it aside.",
            )
        }
    }
}

fn flaw_words(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::NotJson => "not JSON",
        Flaw::Nul => "NUL bytes: the length survived, the bytes did not",
        Flaw::CutUtf8 => "not UTF-8",
        Flaw::TooLong => "longer than a record may be",
        Flaw::Unfinished => "not a whole record",
    }
}

fn to_json(path: &Path, found: &LogCheck, repaired: Option<&Tail>) -> serde_json::Value {
    let flaw_code = |flaw: Flaw| snake(&format!("{flaw:?}"));
    let damaged: Vec<_> = found
        .damaged
        .iter()
        .map(|line| json!({ "offset": line.offset, "len": line.len, "flaw": flaw_code(line.flaw) }))
        .collect();
    let tail = match found.tail {
        CheckedTail::Clean => json!({ "state": "clean" }),
        CheckedTail::NewlineMissing { offset } => json!({ "state": "newline_missing", "offset": offset }),
        CheckedTail::Torn { offset, len, flaw } => {
            json!({ "state": "torn", "offset": offset, "len": len, "flaw": flaw_code(flaw) })
        }
    };
    let repaired = repaired.map(|tail| match tail {
        Tail::Torn { set_aside, .. } => json!({ "set_aside": shown(set_aside) }),
        Tail::NewlineAdded { .. } => json!({ "newline_added": true }),
        Tail::Clean => json!({}),
    });
    json!({
        "path": shown(path),
        "clean": found.damaged_count == 0 && found.tail == CheckedTail::Clean,
        "records": found.records,
        "bytes": found.bytes,
        "damaged": damaged,
        "damaged_count": found.damaged_count,
        "tail": tail,
        "repaired": repaired,
    })
}
