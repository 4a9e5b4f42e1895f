//! [`FileCase`] and the [`Site`] it works on.

use std::any::Any;
use std::ffi::OsStr;
use std::io;
use std::ops::{ControlFlow, Deref};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crashsim::{
    Cell, Class, Disks, Expected, Fate, FsImage, Life, Mark, Operation, Run, SimFs, Value, Verdict, Witness,
    Workload,
};
use durable_io::{
    Appended, BulkReport, Dir, Durability, Env, Log, LogRecovery, Reached, Reason, SweepOptions, SweepReport,
    TargetState,
};
use media::doubles::{FakeHost, fixed_env};
use media::{Access, FileKind, Fs, Mode, RenameMode};

use crate::CaseOn;

/// Where a case does its work.
pub struct Site<'w> {
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// A directory on it that is the case's own.
    pub root: PathBuf,
    /// Clock, randomness and who we are, the same in every run.
    pub env: Env,
    /// How often the power failed, and how often the program was started.
    pub life: Life,
    /// Who hears what the case is told.
    pub witness: &'w dyn Witness,
}

impl<'w> Site<'w> {
    /// A site for one life of one program.
    pub fn new(fs: Arc<dyn Fs>, root: impl Into<PathBuf>, life: Life, witness: &'w dyn Witness) -> Self {
        Self { fs, root: root.into(), env: env(life), life, witness }
    }

    /// The directory of the case, as the engine opens it.
    ///
    /// # Errors
    /// Of the engine.
    pub fn dir(&self) -> durable_io::Result<Dir> {
        Dir::open_on(Arc::clone(&self.fs), &self.root, self.env.clone())
    }

    /// Does one operation, and tells the witness before and after.
    ///
    /// # Errors
    /// Of the operation.
    pub fn perform<T: Answer, E: Refusal>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.witness.tell(Mark::Begin(operation));
        let outcome = work();
        self.witness.tell(match &outcome {
            Ok(answer) => match answer.durability() {
                Durability::Durable => Mark::Acknowledged,
                Durability::VisibleOnly(_) => Mark::Visible,
            },
            Err(error) => match error.state() {
                TargetState::Unchanged => Mark::Failed(Fate::Unchanged),
                // It is there after the next recovery, which is when anybody looks.
                TargetState::DurableNotVisible => Mark::Acknowledged,
                TargetState::ReplacedNotDurable | TargetState::Unknown => Mark::Failed(Fate::Unknown),
            },
        });
        outcome
    }

    /// Does one operation on many files, each with an answer of its own, and tells the witness what became of each. A file
    /// is given as its name, what it is before and what it is to be.
    ///
    /// # Errors
    /// The first file's that failed.
    pub fn perform_each(
        &self,
        label: &str,
        files: &[(&str, Option<Value>, Option<Value>)],
        work: impl FnOnce() -> durable_io::Result<BulkReport>,
    ) -> durable_io::Result<()> {
        let atoms = files.iter().map(|(name, _, new)| vec![((*name).into(), new.clone())]);
        self.witness.tell(Mark::Begin(Operation::new(label, atoms.collect())));
        let report = match work() {
            Ok(report) if report.failed == 0 && report.durability.is_durable() => {
                self.witness.tell(Mark::Acknowledged);
                return Ok(());
            }
            Ok(report) => report,
            Err(error) => {
                self.witness.tell(Mark::Failed(Fate::Unknown));
                return Err(error);
            }
        };
        self.witness.tell(Mark::Failed(Fate::Unknown));
        for result in report.results() {
            let file = files.iter().find(|(name, ..)| Path::new(name) == result.name);
            let Some((name, old, new)) = file else { continue };
            let settled = match result.outcome {
                Ok(published) if published.durability.is_durable() => new,
                Err(error) if error.state() == TargetState::Unchanged => old,
                Ok(_) | Err(_) => continue,
            };
            // What is said of one file alone is an operation of its own, which asks nothing of the medium.
            self.witness.tell(Mark::Begin(Operation::one(
                format_args!("{label}: {name}"),
                name,
                settled.clone(),
            )));
            self.witness.tell(Mark::Acknowledged);
        }
        report.all_published().map(drop)
    }

    /// Tells the witness of something that may happen from now on and that nobody is going to be told of.
    pub fn announce(&self, operation: Operation) {
        self.witness.tell(Mark::Begin(operation));
        self.witness.tell(Mark::Visible);
    }

    /// Writes a file as a program does that knows nothing of barriers: at its end, or a new one.
    ///
    /// # Errors
    /// Of the file system.
    pub fn scribble(&self, cell: &str, bytes: &[u8]) -> io::Result<()> {
        let (dir, name) = self.split(cell)?;
        let file = match dir.open(name, Access::Append) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                dir.create_exclusive(name, Mode::FILE)?;
                dir.open(name, Access::Append)?
            }
            outcome => outcome?,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            match file.append(rest)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => rest = rest.get(count..).unwrap_or(&[]),
            }
        }
        Ok(())
    }

    /// Renames as a program does that knows nothing of barriers.
    ///
    /// # Errors
    /// Of the file system.
    pub fn move_file(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, from) = self.split(from)?;
        let (to_dir, to) = self.split(to)?;
        from_dir.rename(from, &*to_dir, to, RenameMode::Replace)
    }

    /// Gives a file a second name in its directory, without a barrier.
    ///
    /// # Errors
    /// Of the file system.
    pub fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (dir, from) = self.split(from)?;
        dir.link(from, to.as_ref())
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Of the file system; where there are none.
    pub fn symlink(&self, cell: &str, target: &str) -> io::Result<()> {
        let path = self.root.join(cell);
        let fs: &dyn Any = &*self.fs;
        if let Some(sim) = fs.downcast_ref::<SimFs>() {
            return sim.symlink(&path, Path::new(target));
        }
        #[cfg(unix)]
        return std::os::unix::fs::symlink(target, path);
        #[cfg(not(unix))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The directory of a cell, and its name there.
    ///
    /// # Errors
    /// Of opening the directory.
    pub fn split<'c>(&self, cell: &'c str) -> io::Result<(Arc<dyn media::Dir>, &'c OsStr)> {
        let path = Path::new(cell);
        let parent = self.root.join(path.parent().unwrap_or(Path::new("")));
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.fs.open_dir(&parent)?, name))
    }

    /// The file (or directory) of a cell as anybody would read it, past the engine.
    ///
    /// # Errors
    /// Of the file system, but for "not found".
    pub fn look(&self, cell: &str) -> io::Result<Option<Value>> {
        let found =
            self.split(cell).and_then(|(dir, name)| dir.metadata(name).map(|found| (dir, name, found)));
        let (dir, name, found) = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome?,
        };
        if found.kind != FileKind::File {
            return Ok(Some(Value::with_facts(b"", format_args!("{:?} {}", found.kind, found.mode))));
        }
        let file = dir.open(name, Access::Read)?;
        let mut bytes = vec![0; usize::try_from(found.len).map_err(io::Error::other)?];
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match file.read_at(u64::try_from(at).map_err(io::Error::other)?, rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => at += count,
            }
        }
        Ok(Some(Value::with_facts(&bytes, found.mode)))
    }

    /// Every name below the root, relative to it; directories end in `/`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut open = vec![String::new()];
        while let Some(prefix) = open.pop() {
            let dir = self.fs.open_dir(&self.root.join(&prefix))?;
            let mut listed = Vec::new();
            dir.list(&mut |entry| {
                listed.push(entry);
                ControlFlow::Continue(())
            })?;
            for entry in listed {
                let name = format!("{prefix}{}", entry.name.to_string_lossy());
                if entry.kind == Some(FileKind::Dir) {
                    open.push(format!("{name}/"));
                    names.push(format!("{name}/"));
                } else {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The environment of one life: another boot is another boot id, another process another pid, and everybody before it
/// is dead.
fn env(life: Life) -> Env {
    let mut env = fixed_env(u64::from(life.boot) << 32 | u64::from(life.process));
    let mut host = FakeHost::with_pid(4242 + life.process);
    host.me.boot_id = format!("00000000-0000-4000-8000-{:012}", life.boot);
    env.host = Arc::new(host);
    env
}

/// What the error of an engine says of what the operation was to change.
pub trait Refusal {
    /// What became of it.
    fn state(&self) -> TargetState;
}

impl Refusal for durable_io::Error {
    fn state(&self) -> TargetState {
        self.state()
    }
}

/// What an operation of the engine answers, as far as a witness is concerned.
pub trait Answer {
    /// What was reached.
    fn durability(&self) -> Durability;
}

impl Answer for Durability {
    fn durability(&self) -> Durability {
        *self
    }
}

impl Answer for () {
    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

/// Opening makes durable what was found, and creating makes durable what was made.
impl Answer for Dir {
    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

impl Answer for Log {
    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

impl Answer for LogRecovery {
    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

impl Answer for Appended {
    fn durability(&self) -> Durability {
        match self.reached {
            Reached::Durable => Durability::Durable,
            Reached::VisibleOnly(reason) => Durability::VisibleOnly(reason),
            Reached::NotYetSynced => Durability::VisibleOnly(Reason::Unsupported),
        }
    }
}

/// Where something failed, nothing is known to be gone for good.
impl Answer for SweepReport {
    fn durability(&self) -> Durability {
        if self.failures.is_empty() { self.durability } else { Durability::VisibleOnly(Reason::IoError) }
    }
}

impl Answer for BulkReport {
    fn durability(&self) -> Durability {
        self.durability
    }
}

impl Answer for durable_io::Published {
    fn durability(&self) -> Durability {
        self.durability
    }
}

/// Something that writes files, and what must hold of them.
pub trait FileCase: Send + Sync {
    /// The name in ids and on the command line.
    fn name(&self) -> &str;

    /// One line for people.
    fn about(&self) -> &str;

    /// Puts there what is there before; all of it is made durable afterwards. Gives what it is.
    ///
    /// # Errors
    /// Why it could not, in words.
    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String>;

    /// Does the work. Errors are told to the witness by [`Site::perform`], and end it.
    fn run(&self, site: &Site<'_>, run: &Run);

    /// What a program does when it starts again: by default, it sweeps.
    ///
    /// # Errors
    /// What keeps it from going on, in words.
    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        sweep_all(site)
    }

    /// What a cell has come to hold: by default it is a file of that name. What an engine keeps in another way (objects,
    /// what is used of a quota) is asked of the engine.
    ///
    /// # Errors
    /// Why it cannot be said.
    fn look(&self, site: &Site<'_>, cell: &str) -> io::Result<Option<Value>> {
        site.look(cell)
    }

    /// Compares what is there with what may be there: [each cell](FileCase::look), and no file that is neither a cell nor
    /// [the engine's own](FileCase::owns).
    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        judge(site, expected, &|name| self.owns(name), &|cell| self.look(site, cell))
    }

    /// Whether a name that is no cell may be there after recovery, with whatever in it: by default, the files of locks,
    /// which say who locked last. An engine that keeps a journal writes into it whenever it is opened.
    fn owns(&self, name: &str) -> bool {
        name.ends_with(".lock")
    }

    /// What the disks can do that the engine makes in files.
    fn disks(&self) -> Disks {
        Disks::default()
    }

    /// How many operations a run of this seed has, if they can be left out one by one.
    fn operations(&self, _seed: u64) -> u32 {
        0
    }
}

/// Removes what dead processes have left.
pub(crate) fn sweep_all(site: &Site<'_>) -> Result<(), String> {
    let options = SweepOptions { recursive: true, ..SweepOptions::default() };
    let report = site.dir().and_then(|dir| dir.sweep(&options)).map_err(|error| error.to_string())?;
    match report.failures.first() {
        Some(error) => Err(error.to_string()),
        None => Ok(()),
    }
}

/// Compares every cell, seen through `look`, with what may be there, and finds names that nobody knows.
pub(crate) fn judge(
    site: &Site<'_>,
    expected: &Expected,
    owns: &dyn Fn(&str) -> bool,
    look: &dyn Fn(&str) -> io::Result<Option<Value>>,
) -> Verdict {
    let mut failed = None;
    let verdict = expected.judge(|cell| match look(cell) {
        Ok(value) => value,
        Err(error) => {
            failed.get_or_insert_with(|| format!("`{cell}` cannot be read: {error}"));
            None
        }
    });
    if let Some(why) = failed {
        return Verdict::broken(Class::CannotOpen, why);
    }
    let names = match site.names() {
        Ok(names) => names,
        Err(error) => {
            return Verdict::broken(Class::CannotOpen, format!("the names cannot be read: {error}"));
        }
    };
    let is_known = |name: &String| {
        let bare = name.trim_end_matches('/');
        owns(name) || expected.cells().any(|cell| &**cell == bare || cell.starts_with(&format!("{bare}/")))
    };
    match names.iter().find(|name| !is_known(name)) {
        Some(name) => verdict.worse(Verdict::broken(Class::Stranger, format!("`{name}` is left"))),
        None => verdict,
    }
}

/// A [`FileCase`], owned or borrowed, for the simulator.
pub struct OnSim<C>(pub C);

/// Where cases work on a simulated file system.
pub(crate) const ROOT: &str = "/home";

fn on_sim(fs: &SimFs, life: Life) -> Site<'_> {
    Site::new(fs.shared(), Path::new(ROOT), life, fs)
}

impl<C: Deref<Target: FileCase> + Send + Sync> CaseOn<SimFs> for OnSim<C> {
    fn about(&self) -> &str {
        self.0.about()
    }
}

impl<C: Deref<Target: FileCase> + Send + Sync> Workload<SimFs> for OnSim<C> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn start(&self) -> (FsImage, Expected) {
        let fs = SimFs::with_disks(self.0.disks());
        let root = fs.shared().open_dir(Path::new("/"));
        let made = root.and_then(|root| root.create_dir("home".as_ref(), Mode::DIR));
        let cells = match made {
            Ok(()) => self.0.prepare(&on_sim(&fs, Life::default())),
            Err(error) => Err(error.to_string()),
        };
        // A case that cannot even begin must not look like one that keeps its promises.
        let cells = cells.unwrap_or_else(|why| {
            vec![(format!("prepared: {why}").into(), Some(Value::bytes(b"everything")))]
        });
        (fs.image(), Expected::starting(cells))
    }

    fn run(&self, fs: &SimFs, run: &Run) {
        self.0.run(&on_sim(fs, Life::default()), run);
    }

    fn recover(&self, fs: &SimFs, life: Life) -> Result<(), String> {
        self.0.recover(&on_sim(fs, life))
    }

    /// All but what is the engine's own: what that says is seen in the cells.
    fn is_same(&self, first: &SimFs, second: &SimFs) -> bool {
        let visible = |fs| -> io::Result<Vec<(String, Option<Value>)>> {
            let site = on_sim(fs, Life::default());
            let names = site.names()?.into_iter().filter(|name| !self.0.owns(name));
            names.map(|name| site.look(&name).map(|value| (name, value))).collect()
        };
        first.image().digest() == second.image().digest()
            || matches!((visible(first), visible(second)), (Ok(one), Ok(other)) if one == other)
    }

    fn check(&self, fs: &SimFs, life: Life, expected: &Expected) -> Verdict {
        self.0.check(&on_sim(fs, life), expected)
    }

    fn operations(&self, seed: u64) -> u32 {
        self.0.operations(seed)
    }
}
