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
                Ok(()) => {
                    dir.mark("after_unlink");
                    self.report.removed.push(path);
                }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use media::doubles::{FailNth, FakeHost, Op, Recorder, fixed_env};
    use media::{Env, Fs, OsFs};

    use super::*;
    use crate::error::Kind;

    /// The name of a temporary file of another process than that of `fixed_env`.
    fn temp_of(change: impl FnOnce(&mut FakeHost)) -> OsString {
        own(Purpose::Temp, change)
    }

    fn own(purpose: Purpose, change: impl FnOnce(&mut FakeHost)) -> OsString {
        let mut host = FakeHost::with_pid(77);
        change(&mut host);
        let random = Env::os();
        Own::fresh(purpose, &Env { host: Arc::new(host), ..random }).unwrap()
    }

    fn dead() -> OsString {
        temp_of(|_| {})
    }

    fn open(fs: Arc<dyn Fs>, root: &Path) -> Dir {
        Dir::open_on(fs, root, fixed_env(1)).unwrap()
    }

    fn touch(root: &Path, name: impl AsRef<Path>) -> PathBuf {
        fs::File::create(root.join(&name)).unwrap();
        name.as_ref().to_owned()
    }

    fn recursive() -> SweepOptions {
        SweepOptions { recursive: true, ..SweepOptions::default() }
    }

    #[test]
    fn only_the_proved_dead_are_removed_and_the_others_say_why_they_stay() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let gone =
            [touch(root, dead()), touch(root, temp_of(|host| host.me.boot_id = "an earlier boot".into()))];
        let stay = [
            (touch(root, Own::fresh(Purpose::Temp, &fixed_env(9)).unwrap()), WhyKept::Alive),
            (touch(root, temp_of(|host| host.me.pid_namespace = 1)), WhyKept::NotProvable),
            (touch(root, temp_of(|host| host.me.host = "elsewhere".into())), WhyKept::NotProvable),
            (touch(root, temp_of(|host| host.me.host.clear())), WhyKept::NotProvable),
        ];
        let mut odd = Vec::new();
        let directory = PathBuf::from(dead());
        fs::create_dir(root.join(&directory)).unwrap();
        odd.push((directory, WhyKept::NotAFile(FileKind::Dir)));
        let link = PathBuf::from(dead());
        std::os::unix::fs::symlink("plain", root.join(&link)).unwrap();
        odd.push((link, WhyKept::NotAFile(FileKind::Symlink)));
        let backup = touch(root, own(Purpose::Backup, |_| {}));
        let foreign =
            ["plain", ".steadfast-1-2.tmp", ".steadfast-zz-1-2-3-4-5.tmp", "x.tmp", ".steadfast-.tmp"];
        for name in foreign {
            touch(root, name);
        }
        let report = open(OsFs::shared(), root).sweep(&SweepOptions::default()).unwrap();
        assert_eq!(sorted(report.removed.clone()), sorted(gone.to_vec()));
        for (path, why) in stay.iter().chain(&odd) {
            assert!(report.kept.contains(&Kept { path: path.clone(), why: *why }), "{why:?}: {report:?}");
            assert!(fs::symlink_metadata(root.join(path)).is_ok());
        }
        assert_eq!(report.kept.len(), stay.len() + odd.len());
        assert_eq!(report.backups, std::slice::from_ref(&backup));
        assert!(root.join(backup).exists());
        assert!(foreign.iter().all(|name| root.join(name).exists()));
        assert!(gone.iter().all(|path| !root.join(path).exists()));
        assert!(report.failures.is_empty() && !report.stopped);
        assert_eq!((report.entries, report.durability), (14, Durability::Durable));
    }

    fn sorted(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
        paths.sort();
        paths
    }

    #[test]
    fn the_directory_is_synced_once_after_the_last_removal_and_only_then() {
        let root = tempfile::tempdir().unwrap();
        let (recorder, fs) = Recorder::over(OsFs::shared());
        let dir = open(fs, root.path());
        for count in [0, 1, 3] {
            for _ in 0..count {
                touch(root.path(), dead());
            }
            recorder.clear();
            assert_eq!(dir.sweep(&SweepOptions::default()).unwrap().removed.len(), count);
            let ops: Vec<Op> = recorder.calls().iter().map(|call| call.op).collect();
            let mut expected = vec![Op::List];
            expected.extend([Op::Metadata, Op::Unlink].repeat(count));
            expected.extend((count > 0).then_some(Op::DirSync));
            assert_eq!(ops, expected);
        }
    }

    #[test]
    fn a_dry_run_removes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let name = touch(root.path(), dead());
        let (recorder, fs) = Recorder::over(OsFs::shared());
        let options = SweepOptions { dry_run: true, ..SweepOptions::default() };
        assert_eq!(open(fs, root.path()).sweep(&options).unwrap().removed, std::slice::from_ref(&name));
        assert!(root.path().join(name).exists());
        assert_eq!(recorder.count(Op::Unlink) + recorder.barriers(), 0);
    }

    #[test]
    fn the_bound_on_entries_holds_and_is_reported_only_when_it_cut_something_off() {
        let root = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            touch(root.path(), dead());
        }
        let dir = open(OsFs::shared(), root.path());
        for (entries_max, seen, stopped) in [(0, 0, true), (4, 4, true), (5, 5, false), (6, 5, false)] {
            let options = SweepOptions { entries_max, dry_run: true, ..SweepOptions::default() };
            let report = dir.sweep(&options).unwrap();
            assert_eq!((report.entries, report.removed.len(), report.stopped), (seen, seen, stopped));
        }
    }

    #[test]
    fn subdirectories_are_swept_when_asked_and_links_are_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let elsewhere = touch(outside.path(), dead());
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        let (top, deep) = (touch(root.path(), dead()), touch(root.path(), Path::new("a/b").join(dead())));
        let dir = open(OsFs::shared(), root.path());
        assert_eq!(dir.sweep(&SweepOptions::default()).unwrap().removed, [top]);
        assert_eq!(dir.sweep(&recursive()).unwrap().removed, [deep]);
        assert!(outside.path().join(elsewhere).exists());
    }

    #[test]
    fn the_bound_on_depth_holds() {
        for (depth, cut) in [(SWEEP_DEPTH_MAX - 1, 0), (SWEEP_DEPTH_MAX, 0), (SWEEP_DEPTH_MAX + 1, 1)] {
            let root = tempfile::tempdir().unwrap();
            let below: PathBuf = (0..depth).map(|_| "d").collect();
            fs::create_dir_all(root.path().join(&below)).unwrap();
            touch(root.path(), below.join(dead()));
            let report = open(OsFs::shared(), root.path()).sweep(&recursive()).unwrap();
            assert_eq!((report.removed.len(), report.too_deep.len()), (1 - cut, cut), "depth {depth}");
            assert_eq!(report.entries, if cut == 0 { depth + 1 } else { depth });
        }
    }

    #[test]
    fn a_failed_removal_is_reported_and_the_rest_is_swept() {
        for (code, kind) in [(13, Kind::Denied), (5, Kind::Io), (30, Kind::Denied), (4, Kind::Io)] {
            let root = tempfile::tempdir().unwrap();
            for _ in 0..3 {
                touch(root.path(), dead());
            }
            let (_, fs) = FailNth::new(1, code).only(Op::Unlink).over(OsFs::shared());
            let report = open(fs, root.path()).sweep(&SweepOptions::default()).unwrap();
            assert_eq!((report.removed.len(), report.failures.len()), (2, 1));
            let error = &report.failures[0];
            assert_eq!(
                (error.stage(), error.kind(), error.raw_os_error()),
                (Stage::Cleanup, kind, Some(code))
            );
            let certain = matches!(code, 13 | 30);
            assert_eq!(error.state() == TargetState::Unchanged, certain, "{error:?}");
        }
    }

    #[test]
    fn every_failed_call_is_reported() {
        for code in [5, 13] {
            for nth in 1.. {
                let root = tempfile::tempdir().unwrap();
                fs::create_dir(root.path().join("sub")).unwrap();
                touch(root.path(), dead());
                touch(root.path(), Path::new("sub").join(dead()));
                let (failing, fs) = FailNth::new(nth, code).over(OsFs::shared());
                let outcome = open(fs, root.path()).sweep(&recursive());
                let Some(call) = failing.failed() else { break };
                match outcome {
                    Err(error) => assert_eq!((nth, error.stage()), (1, Stage::Read)),
                    Ok(report) => {
                        assert_eq!(report.failures.len(), 1, "{call}");
                        assert_eq!(report.failures[0].raw_os_error(), Some(code), "{call}");
                        if call.op == Op::DirSync {
                            assert_eq!(report.failures[0].state(), TargetState::ReplacedNotDurable);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_gone_already_counts_as_gone() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), dead());
        let (_, fs) = FailNth::new(0, 2).only(Op::Unlink).over(OsFs::shared());
        let report = open(fs, root.path()).sweep(&SweepOptions::default()).unwrap();
        assert_eq!((report.removed.len(), report.failures.len()), (1, 0));
    }

    /// A directory is exchanged for a link between being listed and being opened.
    #[derive(Debug)]
    struct Exchange(PathBuf, PathBuf);

    impl media::doubles::Listener for Exchange {
        fn before(&self, call: &media::doubles::Call) -> io::Result<()> {
            if call.op == Op::OpenDir && call.subject == "sub" {
                fs::remove_dir(self.0.join("sub"))?;
                std::os::unix::fs::symlink(&self.1, self.0.join("sub"))?;
            }
            Ok(())
        }
    }

    #[test]
    fn a_link_put_in_the_place_of_a_directory_is_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(root.path().join("sub")).unwrap();
        let victim = touch(outside.path(), dead());
        let exchange = Exchange(root.path().to_owned(), outside.path().to_owned());
        let fs = media::doubles::TapFs::shared(OsFs::shared(), Arc::new(exchange));
        let report = open(fs, root.path()).sweep(&recursive()).unwrap();
        assert!(report.removed.is_empty() && outside.path().join(victim).exists(), "{report:?}");
    }
}
