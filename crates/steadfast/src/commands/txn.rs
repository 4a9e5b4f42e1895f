//! `steadfast txn`: several files below a directory change together, or none of them.

use std::path::Path;

use crash_recovery::{Committed, Error, Journaling, Publish, Recovery, Root, RootOptions, Transaction};
use durable_io::Wait;
use indicatif::ProgressBar;
use serde_json::json;

use super::recovery;
use super::write::{Reading, Source};
use super::{bytes_words, durability_code, durability_words};
use crate::cli::Txn;
use crate::failure::{Exit, Failure, Outcome, insert, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

mod manifest;

use manifest::{Action, Content, Manifest, Step};

pub(super) fn run(args: &Txn, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    if args.recover {
        return recover(args, medium, output, interrupt);
    }
    interrupt.begin_idle();
    let source = Source::open(&args.from, output);
    interrupt.end_idle()?;
    let manifest = Manifest::read(&mut source?, interrupt)?;
    if args.dry_run {
        manifest.check(&medium.open(&args.dir)?, interrupt)?;
        let would = Summary::of(&manifest);
        let words = format!(
            "`{}`: would be {}, all together; nothing was changed",
            args.dir.display(),
            would.words()
        );
        output.done(words, would.fields(&args.dir, "none"))?;
        return Ok(Exit::Ok);
    }
    let (root, recovery) = open(args, medium, interrupt)?;
    recovery::tell(&recovery, output)?;
    let outcome = carry_out(&manifest, &root, &args.dir, output, interrupt);
    let is_done = outcome.is_ok();
    // Also where it came to nothing: what is closed need not be looked through by the next one.
    let closed = root.close().map_err(|error| Failure::tree(&args.dir, error));
    let committed = outcome?;
    if let (true, Err(failure)) = (is_done, closed) {
        output.warn(format_args!("it was done, but the journal was not closed: {failure}"))?;
    }
    report(&manifest, committed, &recovery, args, output)
}

/// Opens the directory, and finishes what was left unfinished there.
fn open(args: &Txn, medium: &Medium, interrupt: &Interrupt) -> Outcome<(Root, Recovery)> {
    let wait = if args.timeout.is_zero() { Wait::DoNotWait } else { Wait::UpTo(args.timeout) };
    let options = RootOptions { orphan_age: args.orphan_age, wait, ..RootOptions::shared() };
    // Whoever has the directory may have it for long. And recovery that is cut short goes on at the next open.
    interrupt.begin_idle();
    let opened = medium.root(&args.dir, options);
    interrupt.end_idle()?;
    let usable = opened.and_then(|(root, recovery)| match (root.read_only(), root.journaling()) {
        (Some(why), _) => Err(Error::ReadOnly { why: why.to_owned() }),
        (None, Journaling::Off(why)) => Err(Error::NotJournaled { why: why.clone() }),
        (None, Journaling::On) => Ok((root, recovery)),
    });
    usable.map_err(|error| Failure::tree(&args.dir, error))
}

/// Only the recovery pass.
fn recover(args: &Txn, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let recovery = if Root::was_begun(&medium.open(&args.dir)?, &RootOptions::shared())
        .map_err(|error| Failure::tree(&args.dir, error))?
    {
        let (root, recovery) = open(args, medium, interrupt)?;
        root.close().map_err(|error| Failure::tree(&args.dir, error))?;
        recovery
    } else {
        // Not a trace of a journal where there never was one.
        Recovery::default()
    };
    if output.is_json() {
        output.object(true, json!({ "path": shown(&args.dir), "recovery": recovery::fields(&recovery) }))?;
    } else {
        output.line(&recovery)?;
        recovery::warn(&recovery, output)?;
    }
    Ok(if recovery.conflicts.is_empty() { Exit::Ok } else { Exit::NotSo })
}

fn carry_out(
    manifest: &Manifest,
    root: &Root,
    dir: &Path,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome<Committed> {
    let bar = output.progress(Some(manifest.content_len), Unit::Bytes);
    bar.set_message("writing");
    let mut transaction = root.transaction();
    for step in &manifest.steps {
        interrupt.check()?;
        add(step, &mut transaction, dir, interrupt, &bar).map_err(|failure| match failure {
            Failure::Interrupted => failure,
            failure => failure.in_line(step.line),
        })?;
    }
    bar.set_message("making it durable");
    // The last moment at which nothing has happened yet.
    interrupt.check()?;
    let committed = transaction.commit();
    bar.finish_and_clear();
    committed.map_err(|failure| {
        let line = manifest.line_of(&failure.error);
        let failure = Failure::tree(dir, failure);
        match line {
            Some(line) => failure.in_line(line),
            None => failure,
        }
    })
}

fn add(
    step: &Step,
    transaction: &mut Transaction<'_>,
    dir: &Path,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> Outcome<()> {
    let added = match &step.action {
        Action::Write { path, publish, content: Content::Here(bytes) } => {
            bar.inc(u64::try_from(bytes.len()).unwrap_or(0));
            transaction.write_from(path, bytes.as_slice(), *publish)
        }
        Action::Write { path, publish, content: Content::File(from) } => {
            let mut content = Reading::new(Source::regular(from)?, interrupt, bar);
            let added = transaction.write_from(path, &mut content, *publish);
            content.end()?;
            added
        }
        Action::Remove { path } => transaction.remove(path),
        Action::Rename { from, to } => transaction.rename(from, to),
    };
    added.map_err(|error| Failure::tree(dir, error))
}

/// How many operations of each kind there are.
struct Summary {
    replaced: usize,
    created: usize,
    removed: usize,
    renamed: usize,
    names: usize,
    bytes: u64,
}

impl Summary {
    fn of(manifest: &Manifest) -> Self {
        let count =
            |is: &dyn Fn(&Action) -> bool| manifest.steps.iter().filter(|step| is(&step.action)).count();
        let written = |wanted| {
            count(&move |action| matches!(action, Action::Write { publish, .. } if *publish == wanted))
        };
        Self {
            replaced: written(Publish::Replace),
            created: written(Publish::CreateNew),
            removed: count(&|action| matches!(action, Action::Remove { .. })),
            renamed: count(&|action| matches!(action, Action::Rename { .. })),
            names: manifest.names(),
            bytes: manifest.content_len,
        }
    }

    fn words(&self) -> String {
        let Self { replaced, created, removed, renamed, bytes, .. } = self;
        let kinds =
            [(replaced, "replaced"), (created, "created"), (removed, "removed"), (renamed, "renamed")];
        let told = kinds.iter().filter(|(count, _)| **count > 0);
        let told: Vec<String> = told.map(|(count, what)| format!("{count} {what}")).collect();
        match replaced + created {
            0 => told.join(", "),
            _ => format!("{} ({})", told.join(", "), bytes_words(*bytes)),
        }
    }

    fn fields(&self, dir: &Path, durability: &str) -> serde_json::Value {
        json!({
            "path": shown(dir), "names": self.names, "replaced": self.replaced, "created": self.created,
            "removed": self.removed, "renamed": self.renamed, "bytes": self.bytes, "durability": durability,
        })
    }
}

fn report(
    manifest: &Manifest,
    committed: Committed,
    recovery: &Recovery,
    args: &Txn,
    output: &Output,
) -> Outcome {
    let summary = Summary::of(manifest);
    let mut fields = summary.fields(&args.dir, durability_code(committed.durability));
    insert(&mut fields, "recovery", recovery::fields(recovery));
    let words = format!(
        "`{}`: {}, all together: {}",
        args.dir.display(),
        summary.words(),
        durability_words(committed.durability)
    );
    output.done(words, fields)?;
    Ok(Exit::Ok)
}
