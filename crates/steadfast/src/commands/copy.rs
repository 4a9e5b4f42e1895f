//! `steadfast copy`: many files at once, sharing the barriers.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use durable_io::{
    Bulk, BulkOptions, BulkPhase, BulkReport, BulkSync, Dir, Mode, OnFailure, Unchanged, WriteOptions,
};
use indicatif::ProgressBar;
use media::Reason;
use serde_json::json;

use super::{barriers, bytes_words, durability_code, durability_words, open_regular};
use crate::cli::Copy;
use crate::failure::{Exit, Failure, Outcome, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

const CHUNK_LEN: usize = 256 << 10;
/// How many failures are told in words; all are counted.
const TOLD_MAX: usize = 20;

pub(super) fn run(args: &Copy, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let begun = Instant::now();
    let dir = medium.open_or_create(&args.dir)?;
    let bulk_options = options(args);
    let mut bulk = dir.bulk_with(bulk_options.clone());
    let bar = output.progress(None, Unit::Files);
    if !bar.is_hidden() {
        bar.set_length(count(&args.sources, args.recursive, interrupt)?);
        bar.set_style(Unit::Files.style(true));
    }
    bar.set_message("writing");
    let umask = match medium.fs().umask() {
        // Where it cannot be known, copies are private: too narrow harms less than too wide.
        Err(e) if Reason::of(&e) == Reason::Unsupported => Mode::new(0o077),
        umask => umask.map_err(|e| Failure::stream("reading the umask", e))?,
    };
    let mut copier = Copier {
        write: bulk_options.write.clone(),
        bulk: &mut bulk,
        dir: &dir,
        medium,
        umask,
        interrupt,
        output,
        bar: &bar,
        buffer: vec![0; CHUNK_LEN],
        failed: 0,
        first: None,
    };
    for source in &args.sources {
        copier.source(source, args.recursive)?;
    }
    let missed = Missed { count: copier.failed, first: copier.first.take() };
    if args.all_or_none && missed.count > 0 {
        output.say("nothing is published, as asked with --all-or-none")?;
        return missed.first.map_or(Ok(Exit::Io), Err);
    }
    let report = publish(&mut bulk, interrupt, &bar);
    bar.finish_and_clear();
    if report.published == 0 {
        interrupt.check()?;
    }
    summarize(report, missed, args, begun, output)
}

/// Sources that never became part of the bulk.
struct Missed {
    count: usize,
    first: Option<Failure>,
}

fn options(args: &Copy) -> BulkOptions {
    BulkOptions {
        threads: usize::from(args.threads),
        sync: if args.syncfs { BulkSync::WholeFileSystem } else { BulkSync::PerFile },
        on_failure: if args.all_or_none { OnFailure::PublishNothing } else { OnFailure::PublishOthers },
        write: WriteOptions {
            unchanged: Unchanged::Write,
            barriers: barriers(args.allow_visible_only),
            ..WriteOptions::default()
        },
        ..BulkOptions::default()
    }
}

struct Copier<'a, 'd> {
    bulk: &'a mut Bulk<'d>,
    write: WriteOptions,
    dir: &'d Dir,
    medium: &'a Medium,
    umask: Mode,
    interrupt: &'a Interrupt,
    output: &'a Output,
    bar: &'a ProgressBar,
    buffer: Vec<u8>,
    failed: usize,
    first: Option<Failure>,
}

impl Copier<'_, '_> {
    fn source(&mut self, source: &Path, recursive: bool) -> Outcome<()> {
        let found = match fs::metadata(source) {
            Ok(found) => found,
            Err(e) => return self.miss(Failure::io("looking at the source", source, e)),
        };
        if !found.is_dir() && !found.is_file() {
            // Opening a FIFO would wait for its other end.
            return self.miss(Failure::not_so(format!("`{}` is no regular file", source.display())));
        }
        if found.is_dir() && is_below(self.dir.path(), source) {
            let message = format!("`{}` cannot be copied into itself", source.display());
            return self.miss(Failure::usage(message));
        }
        if found.is_dir() && !recursive {
            return self.miss(Failure::NotSo {
                message: format!("`{}` is a directory", source.display()),
                hint: Some("--recursive copies directories".to_owned()),
            });
        }
        let Some(name) = source.file_name().map(OsStr::to_owned).or_else(|| canonical_name(source)) else {
            return self
                .miss(Failure::not_so(format!("`{}` has no name to copy it under", source.display())));
        };
        if found.is_dir() { self.tree(source, Path::new(&name)) } else { self.file(source, Path::new(&name)) }
    }

    /// A directory and all below it, without recursion. Symbolic links in it are not followed.
    fn tree(&mut self, source: &Path, name: &Path) -> Outcome<()> {
        let mut due = vec![(source.to_owned(), name.to_owned())];
        while let Some((from, to)) = due.pop() {
            self.interrupt.check()?;
            let entries = match fs::read_dir(&from) {
                Ok(entries) => entries,
                Err(e) => {
                    self.miss(Failure::io("reading the directory", &from, e))?;
                    continue;
                }
            };
            let mut files = 0_usize;
            for entry in entries {
                let entry = entry.map_err(|e| Failure::io("reading the directory", &from, e))?;
                let (path, to) = (entry.path(), to.join(entry.file_name()));
                let kind = entry.file_type().map_err(|e| Failure::io("looking at the source", &path, e))?;
                if kind.is_dir() {
                    due.push((path, to));
                } else if kind.is_file() {
                    files += 1;
                    self.file(&path, &to)?;
                } else {
                    let what = if kind.is_symlink() { "a symbolic link" } else { "no regular file" };
                    self.miss(Failure::not_so(format!("`{}` is {what} and was not copied", path.display())))?;
                }
            }
            if files == 0 {
                // Nothing in the bulk would create it.
                self.medium.open_or_create(self.dir.path().join(&to))?;
            }
        }
        Ok(())
    }

    fn file(&mut self, source: &Path, name: &Path) -> Outcome<()> {
        self.interrupt.check()?;
        match self.stage(source, name) {
            Ok(()) => self.bar.inc(1),
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => self.miss(failure)?,
        }
        Ok(())
    }

    fn stage(&mut self, source: &Path, name: &Path) -> Outcome<()> {
        let fail = |e| Failure::io("reading the source", source, e);
        let (mut file, found) = open_regular(source)?;
        self.write.mode = mode_of(&found).map(|mode| mode.without_set_id().without(self.umask));
        let mut copy = self.bulk.stage(name, &self.write)?;
        copy.reserve(found.len())?;
        loop {
            self.interrupt.check()?;
            let count = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome.map_err(fail)?,
            };
            copy.write_all(self.buffer.get(..count).unwrap_or(&[]))?;
        }
        copy.finish();
        Ok(())
    }

    /// One file less. The first decides the exit code and is told at the end; the next ones are told at once, up to
    /// a bound.
    fn miss(&mut self, failure: Failure) -> Outcome<()> {
        self.failed += 1;
        if self.first.is_none() {
            self.first = Some(failure);
            return Ok(());
        }
        if self.failed > TOLD_MAX { Ok(()) } else { self.bar.suspend(|| self.output.warn(&failure)) }
    }
}

/// Whether `path` is `dir` or below it, whatever links lead there.
fn is_below(path: &Path, dir: &Path) -> bool {
    match (fs::canonicalize(path), fs::canonicalize(dir)) {
        (Ok(path), Ok(dir)) => path.starts_with(dir),
        _ => false,
    }
}

/// What `.` and `..` are called.
fn canonical_name(source: &Path) -> Option<std::ffi::OsString> {
    fs::canonicalize(source).ok()?.file_name().map(OsStr::to_owned)
}

#[cfg(unix)]
fn mode_of(found: &fs::Metadata) -> Option<Mode> {
    Some(Mode::new(std::os::unix::fs::MetadataExt::mode(found)))
}

#[cfg(not(unix))]
fn mode_of(_found: &fs::Metadata) -> Option<Mode> {
    None
}

/// How many files there are, for the progress bar; what cannot be read is not counted, and told later.
fn count(sources: &[PathBuf], recursive: bool, interrupt: &Interrupt) -> Outcome<u64> {
    let mut files = 0;
    let mut due: Vec<PathBuf> = Vec::new();
    for source in sources {
        if fs::metadata(source).is_ok_and(|found| found.is_dir()) {
            due.push(source.clone());
        } else {
            files += 1;
        }
    }
    while let Some(dir) = due.pop().filter(|_| recursive) {
        interrupt.check()?;
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => due.push(entry.path()),
                Ok(kind) if kind.is_file() => files += 1,
                _ => {}
            }
        }
    }
    Ok(files)
}

fn publish(bulk: &mut Bulk<'_>, interrupt: &Interrupt, bar: &ProgressBar) -> BulkReport {
    bulk.publish_all_with(&mut |progress| {
        bar.set_message(match progress.phase {
            BulkPhase::SyncFiles => "making bytes durable",
            BulkPhase::Rename => "renaming",
            BulkPhase::SyncDirs => "making names durable",
        });
        bar.set_length(u64::try_from(progress.total).unwrap_or(u64::MAX));
        bar.set_position(u64::try_from(progress.done).unwrap_or(u64::MAX));
        if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn summarize(report: BulkReport, missed: Missed, args: &Copy, begun: Instant, output: &Output) -> Outcome {
    let told_at_the_end = usize::from(missed.first.is_none());
    for (_, error) in report.failures().skip(told_at_the_end).take(TOLD_MAX) {
        output.warn(error)?;
    }
    let failed = missed.count + report.failed;
    if report.published == 0 && failed > 0 {
        output.warn(format_args!("none of {failed} file(s) was copied"))?;
        let first = report.into_errors().next().map(Failure::from);
        return missed.first.or(first).map_or(Ok(Exit::Io), Err);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let published = u32::try_from(report.published).unwrap_or(u32::MAX);
    let files_per_s = f64::from(published) / seconds.max(1e-9);
    let words = format!(
        "copied {} files, {} into `{}` in {seconds:.2} s ({files_per_s:.0} files/s): {}",
        report.published,
        bytes_words(report.bytes),
        args.dir.display(),
        durability_words(report.durability),
    );
    let fields = json!({
        "path": shown(&args.dir),
        "files": report.published,
        "failed": failed,
        "bytes": report.bytes,
        "seconds": seconds,
        "files_per_s": files_per_s,
        "durability": durability_code(report.durability),
    });
    if failed == 0 {
        output.done(words, fields)?;
        return Ok(Exit::Ok);
    }
    if !output.is_json() {
        output.say(words)?;
        output.warn(format_args!("{failed} file(s) were not copied"))?;
    }
    let first = report.into_errors().next().map(Failure::from);
    missed.first.or(first).map_or(Ok(Exit::Io), Err)
}
