//! A directory of its own for every test, and what is to be seen in it without going through the doubles.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durable_io::{Change, Dir, Durability, Error, Invalid, Published};
use media::doubles::{Recorder, fixed_env};
use media::{Env, Fs, Mode, OsFs, Shared};
use rustix::io::Errno;

pub(crate) const EINTR: i32 = Errno::INTR.raw_os_error();
pub(crate) const EIO: i32 = Errno::IO.raw_os_error();
pub(crate) const EBADF: i32 = Errno::BADF.raw_os_error();
pub(crate) const EACCES: i32 = Errno::ACCESS.raw_os_error();
pub(crate) const EPERM: i32 = Errno::PERM.raw_os_error();
pub(crate) const EBUSY: i32 = Errno::BUSY.raw_os_error();
pub(crate) const EEXIST: i32 = Errno::EXIST.raw_os_error();
pub(crate) const ENOENT: i32 = Errno::NOENT.raw_os_error();
pub(crate) const EINVAL: i32 = Errno::INVAL.raw_os_error();
pub(crate) const ENOSPC: i32 = Errno::NOSPC.raw_os_error();
pub(crate) const EROFS: i32 = Errno::ROFS.raw_os_error();
pub(crate) const ENOSYS: i32 = Errno::NOSYS.raw_os_error();
pub(crate) const ENOTSUP: i32 = Errno::NOTSUP.raw_os_error();
pub(crate) const EDQUOT: i32 = Errno::DQUOT.raw_os_error();

/// What every file of ours that is not the caller's begins with.
pub(crate) const OWN: &str = ".steadfast-";

/// A temporary directory on the real file system.
pub(crate) struct Ground {
    root: tempfile::TempDir,
    /// What the threads of this process share.
    process: Arc<Shared>,
}

/// Everything below a ground that is not ours: what a caller can see.
pub(crate) type Snapshot = BTreeMap<String, Seen>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    File { mode: u32, bytes: Content },
    Dir { mode: u32 },
    Link { to: PathBuf },
}

/// Compared whole, shown short.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content(Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.0.get(..self.0.len().min(16)).unwrap_or(&[]);
        write!(f, "{} bytes {:?}", self.0.len(), String::from_utf8_lossy(shown))
    }
}

impl Ground {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), process: Arc::default() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Puts a file there, by hand and with this mode, whatever the umask.
    pub(crate) fn put(&self, name: &str, bytes: &[u8], mode: u32) {
        let mut file = std::fs::File::create(self.path(name)).unwrap();
        file.write_all(bytes).unwrap();
        self.chmod(name, mode);
    }

    pub(crate) fn chmod(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn mkdir(&self, name: &str) {
        std::fs::create_dir(self.path(name)).unwrap();
        self.chmod(name, 0o755);
    }

    pub(crate) fn symlink(&self, to: impl AsRef<Path>, name: &str) {
        std::os::unix::fs::symlink(to, self.path(name)).unwrap();
    }

    pub(crate) fn hard_link(&self, old: &str, new: &str) {
        std::fs::hard_link(self.path(old), self.path(new)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        self.path(name).symlink_metadata().unwrap().mode() & 0o7777
    }

    /// A directory handle on `fs`, with a fixed environment: temp names are the same in every run. All handles are of one
    /// process.
    pub(crate) fn dir_on(&self, fs: Arc<dyn Fs>) -> Dir {
        let env = Env { shared: Arc::clone(&self.process), ..fixed_env(1) };
        Dir::open_on(fs, self.root(), env).unwrap()
    }

    pub(crate) fn dir(&self) -> Dir {
        self.dir_on(OsFs::shared())
    }

    /// A directory handle whose calls are recorded, from now on.
    pub(crate) fn recorded(&self) -> (Arc<Recorder>, Dir) {
        let (recorder, fs) = Recorder::over(OsFs::shared());
        let dir = self.dir_on(fs);
        recorder.clear();
        (recorder, dir)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        self.walk(self.root(), &mut |path, name| {
            if !name.contains(OWN) {
                let found = path.symlink_metadata().unwrap();
                let mode = found.mode() & 0o7777;
                let seen = if found.is_dir() {
                    Seen::Dir { mode }
                } else if found.is_symlink() {
                    Seen::Link { to: std::fs::read_link(path).unwrap() }
                } else {
                    Seen::File { mode, bytes: Content(std::fs::read(path).unwrap()) }
                };
                snapshot.insert(name, seen);
            }
        });
        snapshot
    }

    /// Every file of ours that is left anywhere below.
    pub(crate) fn strays(&self) -> Vec<PathBuf> {
        let mut strays = Vec::new();
        self.walk(self.root(), &mut |path, name| {
            if name.contains(OWN) {
                strays.push(path.to_owned());
            }
        });
        strays
    }

    fn walk(&self, at: &Path, each: &mut dyn FnMut(&Path, String)) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(self.root()).unwrap().to_string_lossy().into_owned();
            each(&path, name);
            if path.symlink_metadata().unwrap().is_dir() {
                self.walk(&path, each);
            }
        }
    }
}

/// Gives our own random names fixed ones.
pub(crate) fn mask(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(OWN) {
        masked.push_str(rest.get(..start).unwrap());
        let own = rest.get(start..).unwrap();
        let end = own.find(['/', ' ']).unwrap_or(own.len());
        let (name, after) = own.split_at(end);
        masked.push_str(if name.ends_with(".bak") { "<backup>" } else { "<temp>" });
        rest = after;
    }
    masked.push_str(rest);
    let owner = format!("SetOwner <temp> {}:{}", rustix::process::getuid().as_raw(), getgid());
    masked.trim_end().replace(&owner, "SetOwner <temp> <owner>")
}

fn getgid() -> u32 {
    rustix::process::getgid().as_raw()
}

/// What new files get here, as the recorder shows it.
pub(crate) fn new_file_mode() -> Mode {
    Mode::FILE.without(OsFs.umask().unwrap())
}

/// What was recorded, masked; the mode of a new file too, where the umask was read for it.
pub(crate) fn lines(recorder: &Recorder) -> Vec<String> {
    let mut lines = recorder.lines(|line| mask(&line));
    if lines.iter().any(|line| line == "Umask") {
        let mode = format!("<temp> {}", new_file_mode());
        for line in lines.iter_mut().filter(|line| line.starts_with("SetMode")) {
            *line = line.replace(&mode, "<temp> <new>");
        }
    }
    lines
}

pub(crate) fn invalid(error: &Error) -> Invalid {
    match error.cause() {
        durable_io::Cause::Invalid(why) => *why,
        other => panic!("refused as invalid, not {other:?}"),
    }
}

/// The write succeeded, and is durable.
pub(crate) fn durably(outcome: Result<Published, impl std::fmt::Debug>) -> Change {
    let published = outcome.unwrap();
    assert_eq!(published.durability, Durability::Durable);
    assert!(published.leftover.is_none() && published.second_leftover.is_none());
    published.change
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says on standard error that a test could not run here; an error where everything is required.
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("STEADFAST_REQUIRE_ALL").is_none(), "SKIPPED: {why}");
    let told = writeln!(std::io::stderr(), "SKIPPED: {why}");
    assert!(told.is_ok(), "SKIPPED: {why}");
}
