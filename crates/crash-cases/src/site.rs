//! [`FileCase`] and the [`Site`] it works on.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crashsim::{
    Cell, Class, Expected, Fate, FsImage, Life, Mark, Operation, Run, SimFs, Value, Verdict, Witness,
    Workload,
};
use durable_io::{Dir, Durability, Env, SweepOptions, TargetState};
use media::doubles::{FakeHost, fixed_env};
use media::{Access, FileKind, Fs, Mode};

/// Where a case does its work.
pub struct Site<'w> {
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// A directory on it that is the case's own.
    pub root: PathBuf,
    /// Clock, randomness and who we are, the same in every run.
    pub env: Env,
    /// Who hears what the case is told.
    pub witness: &'w dyn Witness,
}

impl<'w> Site<'w> {
    /// A site for one life of one program.
    pub fn new(fs: Arc<dyn Fs>, root: impl Into<PathBuf>, life: Life, witness: &'w dyn Witness) -> Self {
        Self { fs, root: root.into(), env: env(life), witness }
    }

    /// The directory of the case, as the engine opens it.
    ///
    /// # Errors
    /// Of the engine.
    pub fn dir(&self) -> durable_io::Result<Dir> {
        Dir::open_on(Arc::clone(&self.fs), &self.root, self.env.clone())
    }

    /// Does one operation, and tells the witness before and after.
    pub fn perform<T: Answer>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> durable_io::Result<T>,
    ) -> durable_io::Result<T> {
        self.witness.tell(Mark::Begin(operation));
        let outcome = work();
        self.witness.tell(match &outcome {
            Ok(answer) => match answer.durability() {
                Durability::Durable => Mark::Acknowledged,
                Durability::VisibleOnly(_) => Mark::Visible,
            },
            Err(error) => Mark::Failed(match error.state() {
                TargetState::Unchanged => Fate::Unchanged,
                TargetState::ReplacedNotDurable | TargetState::DurableNotVisible | TargetState::Unknown => {
                    Fate::Unknown
                }
            }),
        });
        outcome
    }

    /// The file (or directory) of a cell as anybody would read it, past the engine.
    ///
    /// # Errors
    /// Of the file system, but for "not found".
    pub fn look(&self, cell: &str) -> io::Result<Option<Value>> {
        let path = self.root.join(cell);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let found = self.fs.open_dir(parent).and_then(|dir| dir.metadata(name).map(|found| (dir, found)));
        let (dir, found) = match found {
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
    /// Of the engine.
    fn prepare(&self, site: &Site<'_>) -> durable_io::Result<Vec<(Cell, Option<Value>)>>;

    /// Does the work. Errors are told to the witness by [`Site::perform`], and end it.
    fn run(&self, site: &Site<'_>, run: &Run);

    /// What a program does when it starts again: by default, it sweeps.
    ///
    /// # Errors
    /// What keeps it from going on, in words.
    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        let options = SweepOptions { recursive: true, ..SweepOptions::default() };
        let report = site.dir().and_then(|dir| dir.sweep(&options)).map_err(|error| error.to_string())?;
        match report.failures.first() {
            Some(error) => Err(error.to_string()),
            None => Ok(()),
        }
    }

    /// Compares what is there with what may be there: by default each cell is a file of that name, and there are no
    /// others but those that are [its own](FileCase::owns).
    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        check_files(self, site, expected)
    }

    /// Whether a name that is no cell may be there after recovery: by default, the files of locks.
    fn owns(&self, name: &str) -> bool {
        name.ends_with(".lock")
    }

    /// How many operations a run of this seed has, if they can be left out one by one.
    fn operations(&self, _seed: u64) -> u32 {
        0
    }
}

/// [`FileCase::check`] as it is by default.
fn check_files<C: FileCase + ?Sized>(case: &C, site: &Site<'_>, expected: &Expected) -> Verdict {
    let mut failed = None;
    let verdict = expected.judge(|cell| match site.look(cell) {
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
        case.owns(name)
            || expected.cells().any(|cell| &**cell == bare || cell.starts_with(&format!("{bare}/")))
    };
    match names.iter().find(|name| !is_known(name)) {
        Some(name) => verdict.worse(Verdict::broken(Class::Stranger, format!("`{name}` is left"))),
        None => verdict,
    }
}

/// A [`FileCase`] for the simulator.
pub struct OnSim<'c>(pub &'c dyn FileCase);

/// Where cases work on a simulated file system.
const ROOT: &str = "/home";

impl OnSim<'_> {
    fn site<'w>(fs: &'w SimFs, life: Life) -> Site<'w> {
        Site::new(fs.shared(), Path::new(ROOT), life, fs)
    }
}

impl Workload<SimFs> for OnSim<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn start(&self) -> (FsImage, Expected) {
        let fs = SimFs::new();
        let root = fs.shared().open_dir(Path::new("/"));
        let made = root.and_then(|root| root.create_dir("home".as_ref(), Mode::DIR));
        let cells = match made {
            Ok(()) => self.0.prepare(&Self::site(&fs, Life::default())).unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        (fs.image(), Expected::starting(cells))
    }

    fn run(&self, fs: &SimFs, run: &Run) {
        self.0.run(&Self::site(fs, Life::default()), run);
    }

    fn recover(&self, fs: &SimFs, life: Life) -> Result<(), String> {
        self.0.recover(&Self::site(fs, life))
    }

    fn check(&self, fs: &SimFs, life: Life, expected: &Expected) -> Verdict {
        self.0.check(&Self::site(fs, life), expected)
    }

    fn operations(&self, seed: u64) -> u32 {
        self.0.operations(seed)
    }
}
