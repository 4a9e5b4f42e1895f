//! [`Dir::sweep`]: removing the temporary files of processes that are proved dead.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::{FileId, FileKind, Liveness, Reason};

use crate::dir::{Dir, is_ambiguous, sync_dir};
use crate::error::{Error, Result, Stage, TargetState};
use crate::name::{Own, Purpose};
use crate::options::{Barriers, Durability};

/// How deep a recursive sweep goes; what lies deeper is reported and not entered.
pub const SWEEP_DEPTH_MAX: usize = 64;

/// How far a sweep goes. It never decides by age: a process may sleep for a month and go on.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// How many directory entries are looked at; beyond them the sweep stops, and says so.
    pub entries_max: usize,
    /// Whether to go into subdirectories ([`SWEEP_DEPTH_MAX`] deep, never through a symbolic link).
    pub recursive: bool,
    /// Whether to report only what would be removed.
    pub dry_run: bool,
    /// What to do where a directory cannot be synced.
    pub barriers: Barriers,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { entries_max: 1_000_000, recursive: false, dry_run: false, barriers: Barriers::Required }
    }
}

/// What a sweep found and did. Paths are below the swept directory.
#[derive(Debug)]
#[must_use = "what could not be removed is only reported here"]
pub struct SweepReport {
    /// The temporary files of dead processes: removed, or to be removed in a dry run.
    pub removed: Vec<PathBuf>,
    /// What bears the name of a temporary file and stays.
    pub kept: Vec<Kept>,
    /// The old content of files whose overwriting in place was cut short. A sweep never touches them: one may be
    /// the only whole copy.
    pub backups: Vec<PathBuf>,
    /// What failed, file by file and directory by directory; the sweep went on.
    pub failures: Vec<Error>,
    /// Directories deeper than [`SWEEP_DEPTH_MAX`], which were not entered.
    pub too_deep: Vec<PathBuf>,
    /// How many entries were looked at.
    pub entries: usize,
    /// Whether there were more than [`SweepOptions::entries_max`].
    pub stopped: bool,
    /// Whether the removals survive a power cut; a file removed without that may come back, and be swept again.
    pub durability: Durability,
}

/// A file that was not removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// Why it stays.
    pub why: WhyKept,
}

/// Why something with the name of a temporary file stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyKept {
    /// The process that made it runs.
    Alive,
    /// From here nobody can prove that process dead: it belongs to another machine or another container.
    NotProvable,
    /// It is a directory, a symbolic link or a special file, and so not ours.
    NotAFile(FileKind),
}

/// A directory to be swept.
struct Due {
    /// Below the root; empty for the root itself.
    path: PathBuf,
    depth: usize,
    /// What it was when it was listed, so that a link put in its place is not followed.
    id: Option<FileId>,
}

/// What one directory holds that a sweep cares for.
#[derive(Default)]
struct Names {
    own: Vec<(OsString, Own)>,
    /// Only where the sweep is recursive.
    maybe_dirs: Vec<OsString>,
}

struct Sweep<'a> {
    root: &'a Dir,
    options: &'a SweepOptions,
    report: SweepReport,
    due: Vec<Due>,
}

impl Dir {
    /// Removes the temporary files in this directory whose process is **proved** dead (on this machine, of an
    /// earlier boot, or of this boot and pid namespace and gone). Everything else stays and is reported with the
    /// reason.
    ///
    /// # Durability
    /// Each directory that lost files is synced once, after the last one.
    ///
    /// # Errors
    /// If this directory cannot be listed. All other failures are in [`SweepReport::failures`].
    pub fn sweep(&self, options: &SweepOptions) -> Result<SweepReport> {
        let report = SweepReport {
            removed: Vec::new(),
            kept: Vec::new(),
            backups: Vec::new(),
            failures: Vec::new(),
            too_deep: Vec::new(),
            entries: 0,
            stopped: false,
            durability: Durability::Durable,
        };
        let mut sweep = Sweep { root: self, options, report, due: Vec::new() };
        sweep.directory(&self.dir, Path::new(""), 0)?;
        while let Some(due) = sweep.due.pop() {
            let outcome = sweep
                .enter(&due)
                .and_then(|dir| dir.map_or(Ok(()), |dir| sweep.directory(&dir, &due.path, due.depth)));
            if let Err(error) = outcome {
                sweep.report.failures.push(error);
            }
        }
        Ok(sweep.report)
    }
}

impl Sweep<'_> {
    /// Opens a directory found on the way; `None` if it is not there any more, or not the one that was found.
    fn enter(&self, due: &Due) -> Result<Option<Arc<dyn media::Dir>>> {
        let fail = |e| Error::os(Stage::OpenDir, self.root.path.join(&due.path), e);
        let dir = match self.root.dir.open_dir(&due.path) {
            Err(e) if Reason::of(&e) == Reason::NotFound => return Ok(None),
            outcome => outcome.map_err(fail)?,
        };
        let found = dir.dir_metadata().map_err(fail)?;
        Ok((found.id == due.id).then_some(dir))
    }

    fn directory(&mut self, dir: &Arc<dyn media::Dir>, below: &Path, depth: usize) -> Result<()> {
        let Names { own, maybe_dirs } = self.list(&**dir, below)?;
        let before = self.report.removed.len();
        for (name, own) in own {
            if let Err(error) = self.judge(&**dir, below, &name, &own) {
                self.report.failures.push(error);
            }
        }
        for name in maybe_dirs {
            self.note_directory(&**dir, below.join(name), depth + 1);
        }
        if self.report.removed.len() > before && !self.options.dry_run {
            let path = self.root.path.join(below);
            match sync_dir(&**dir, &path, self.options.barriers) {
                Ok(reached) => self.report.durability = self.report.durability.and(reached),
                Err(error) => self.report.failures.push(error),
            }
        }
        Ok(())
    }

    /// The names of ours in `dir`, and, for a recursive sweep, those that may be directories.
    fn list(&mut self, dir: &dyn media::Dir, below: &Path) -> Result<Names> {
        let mut names = Names::default();
        let (report, options) = (&mut self.report, self.options);
        let listed = dir.list(&mut |entry| {
            if report.entries >= options.entries_max {
                report.stopped = true;
                return ControlFlow::Break(());
            }
            report.entries += 1;
            if let Some(parsed) = Own::parse(&entry.name) {
                names.own.push((entry.name, parsed));
            } else if options.recursive && matches!(entry.kind, None | Some(FileKind::Dir)) {
                names.maybe_dirs.push(entry.name);
            }
            ControlFlow::Continue(())
        });
        match listed {
            Ok(()) => Ok(names),
            Err(e) => Err(Error::os(Stage::Read, self.root.path.join(below), e)),
        }
    }

    /// Looks at one file with a name of ours, and removes it if its owner is proved dead.
    fn judge(&mut self, dir: &dyn media::Dir, below: &Path, name: &OsString, own: &Own) -> Result<()> {
        let path = below.join(name);
        let full = || self.root.path.join(&path);
        if own.purpose == Purpose::Backup {
            self.report.backups.push(path);
            return Ok(());
        }
        let kind = match dir.metadata(name) {
            Ok(found) => found.kind,
            // Its owner, or another sweep, was faster.
            Err(e) if Reason::of(&e) == Reason::NotFound => return Ok(()),
            Err(e) => return Err(Error::os(Stage::Inspect, full(), e)),
        };
        if kind != FileKind::File {
            self.report.kept.push(Kept { path, why: WhyKept::NotAFile(kind) });
            return Ok(());
        }
        match own.owner_liveness(&*self.root.env.host) {
            Liveness::Alive => self.report.kept.push(Kept { path, why: WhyKept::Alive }),
            Liveness::Unknown => self.report.kept.push(Kept { path, why: WhyKept::NotProvable }),
            Liveness::Dead if self.options.dry_run => self.report.removed.push(path),
            Liveness::Dead => match dir.unlink(name) {
                Ok(()) => self.report.removed.push(path),
                Err(e) => match Reason::of(&e) {
                    // Gone, by whomever; the barrier makes sure that it stays so.
                    Reason::NotFound => self.report.removed.push(path),
                    reason if is_ambiguous(reason) => {
                        let state = TargetState::Unknown;
                        return Err(Error::os(Stage::Cleanup, full(), e).in_state(state));
                    }
                    _ => return Err(Error::os(Stage::Cleanup, full(), e)),
                },
            },
        }
        Ok(())
    }

    fn note_directory(&mut self, dir: &dyn media::Dir, path: PathBuf, depth: usize) {
        let name = path.file_name().unwrap_or(path.as_os_str());
        match dir.metadata(name) {
            Ok(found) if found.kind != FileKind::Dir => {}
            Ok(_) if depth > SWEEP_DEPTH_MAX => self.report.too_deep.push(path),
            Ok(found) => self.due.push(Due { path, depth, id: found.id }),
            Err(e) if Reason::of(&e) == Reason::NotFound => {}
            Err(e) => {
                self.report.failures.push(Error::os(Stage::Inspect, self.root.path.join(path), e));
            }
        }
    }
}
