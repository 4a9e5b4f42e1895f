//! `steadfast write`: replace or create one file from a stream of any length.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use durable_io::{Error, Publish, Published, Staged};
use indicatif::ProgressBar;
use serde_json::json;

use super::{
    MissingDir, bytes_words, change_code, change_words, durability_code, durability_words, open_regular,
    split, warn_leftovers,
};
use crate::cli::Write;
use crate::failure::{Exit, Failure, Outcome, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

/// How much is read at once; with one buffer, all the memory a stream of any length takes.
const CHUNK_LEN: usize = 256 << 10;

pub(super) fn run(args: &Write, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    interrupt.begin_idle();
    let source = Source::open(&args.from, output);
    interrupt.end_idle()?;
    let mut source = source?;
    let (dir, name) = split(medium, &args.path, MissingDir::Create)?;
    let options = args.how.options();
    let mut staged =
        if args.create_new { dir.stage_new(name, &options)? } else { dir.stage_with(name, &options)? };
    if let Some(len) = source.len() {
        staged.reserve(len)?;
    }
    let progress = output.progress(source.len(), Unit::Bytes);
    fill(&mut staged, &mut source, interrupt, &progress)?;
    let published = publish(staged, args, interrupt, &progress);
    progress.finish_and_clear();
    report(&published?, &args.path, output)
}

fn fill(staged: &mut Staged, source: &mut Source, interrupt: &Interrupt, bar: &ProgressBar) -> Outcome<()> {
    bar.set_message("writing");
    let mut chunk = vec![0_u8; CHUNK_LEN];
    loop {
        interrupt.check()?;
        let count = source.read(&mut chunk, interrupt)?;
        if count == 0 {
            return Ok(());
        }
        staged.write_all(chunk.get(..count).unwrap_or(&[]))?;
        bar.inc(u64::try_from(count).unwrap_or(0));
    }
}

fn publish(staged: Staged, args: &Write, interrupt: &Interrupt, bar: &ProgressBar) -> Outcome<Published> {
    if args.if_changed && staged.same_as_target()? {
        return Ok(staged.settle_unchanged()?);
    }
    bar.set_message("making it durable");
    let sealed = staged.seal()?;
    // The last moment at which nothing has happened yet.
    interrupt.check()?;
    let how = if args.create_new { Publish::CreateNew } else { Publish::Replace };
    Ok(sealed.publish(how).map_err(Error::from)?)
}

fn report(published: &Published, path: &Path, output: &Output) -> Outcome {
    warn_leftovers(published, output)?;
    if published.other_links > 0 && published.change == durable_io::Change::Replaced {
        output.warn(format_args!(
            "the file had {} more name(s), which keep the old content (see --hard-links)",
            published.other_links
        ))?;
    }
    let words = format!(
        "{} `{}`: {}, {}",
        change_words(published.change),
        path.display(),
        bytes_words(published.len),
        durability_words(published.durability),
    );
    output.done(
        words,
        json!({
            "path": shown(path),
            "change": change_code(published.change),
            "durability": durability_code(published.durability),
            "bytes": published.len,
            "other_links": published.other_links,
        }),
    )?;
    Ok(Exit::Ok)
}

/// Where the content comes from.
pub(super) enum Source {
    Stdin,
    File { file: File, len: Option<u64>, path: std::path::PathBuf },
}

impl Source {
    pub(super) fn open(from: &Path, output: &Output) -> Outcome<Self> {
        if from == Path::new("-") {
            if io::stdin().is_terminal() {
                output.say("reading from the terminal; end with Ctrl-D, stop with Ctrl-C")?;
            }
            return Ok(Self::Stdin);
        }
        let fail = |e| Failure::io("opening the source", from, e);
        let file = File::open(from).map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        if found.is_dir() {
            return Err(Failure::usage(format!("`{}` is a directory", from.display())));
        }
        let len = found.is_file().then_some(found.len());
        Ok(Self::File { file, len, path: from.to_owned() })
    }

    /// As [`open_regular`].
    pub(super) fn regular(from: &Path) -> Outcome<Self> {
        let (file, found) = open_regular(from)?;
        Ok(Self::File { file, len: Some(found.len()), path: from.to_owned() })
    }

    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            Self::File { len, .. } => *len,
        }
    }

    pub(super) fn read(&mut self, into: &mut [u8], interrupt: &Interrupt) -> Outcome<usize> {
        match self {
            Self::Stdin => interrupt.read_stdin(into),
            Self::File { file, path, .. } => loop {
                match file.read(into) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => interrupt.check()?,
                    outcome => return outcome.map_err(|e| Failure::io("reading the source", &*path, e)),
                }
            },
        }
    }
}

/// A source that somebody else reads to its end, or until one asks to stop. It moves the bar.
pub(super) struct Reading<'a> {
    source: Source,
    interrupt: &'a Interrupt,
    bar: &'a ProgressBar,
    failed: Option<Failure>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(source: Source, interrupt: &'a Interrupt, bar: &'a ProgressBar) -> Self {
        Self { source, interrupt, bar, failed: None }
    }

    /// Why reading ended early, if it did: of that, the reader knows only that it did.
    pub(super) fn end(self) -> Outcome<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.interrupt.check().and_then(|()| self.source.read(into, self.interrupt)) {
            Ok(count) => {
                self.bar.inc(u64::try_from(count).unwrap_or(0));
                Ok(count)
            }
            Err(failure) => {
                // Not of the kind `Interrupted`, after which a reader goes on.
                let told = io::Error::other(failure.to_string());
                self.failed = Some(failure);
                Err(told)
            }
        }
    }
}
