//! Failpoints: a real process that ends itself at a chosen point.
//!
//! [`Failpoints`] listens at the file seam and, at the point it was told, says so in one line on stderr and aborts:
//! no destructor runs, no buffer is flushed, and what the process had asked of the kernel stays asked. That is what
//! `kill -9` leaves, at a moment that can be chosen and repeated. It is **not** what a power cut leaves: the kernel
//! lives on and still has every byte, synced or not.
//!
//! A point is named by one entry, `NAME` or `NAME@N` (the N-th time it is reached, counted from 1):
//!
//! | name | where |
//! |---|---|
//! | one of [`MARKS`] | where an engine announces it |
//! | `call` | before any call of the seam |
//! | `call:rename`, `call:sync_all`, … | before a call of that kind ([`Op::name`]) |

use std::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use media::Fs;
use media::doubles::{Call, Listener, Op, TapFs};

/// The environment variable that [`Failpoints::from_env`] reads.
pub const CRASH_POINTS_VARIABLE: &str = "STEADFAST_CRASH_POINTS";

/// How many entries one list may have.
pub const CRASH_POINTS_MAX: usize = 64;

/// The named points that engines announce through `mark`.
pub const MARKS: &[&str] = &[
    // The points of the configuration schema.
    "after_create",
    "after_write",
    "after_fsync",
    "after_dirsync",
    // Those of a commit.
    "after_prepare",
    "after_commit_record",
    "after_rename",
    "before_done",
    // Those of operations that have steps of their own.
    "after_backup",
    "after_set_aside",
    "after_unlink",
];

/// Every call of the seam.
const CALL: &str = "call";

/// Where to abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Mark(&'static str),
    AnyCall,
    Call(Op),
}

impl Point {
    fn parse(name: &str) -> Result<Self, FailpointError> {
        if name == CALL {
            return Ok(Self::AnyCall);
        }
        if let Some(operation) = name.strip_prefix(CALL).and_then(|rest| rest.strip_prefix(':')) {
            let known = Op::ALL.iter().find(|op| op.name() == operation);
            return match known {
                Some(op) => Ok(Self::Call(*op)),
                None => Err(FailpointError::UnknownCall { name: operation.to_owned() }),
            };
        }
        match MARKS.iter().find(|mark| **mark == name) {
            Some(mark) => Ok(Self::Mark(mark)),
            None => Err(FailpointError::UnknownPoint { name: name.to_owned() }),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(name) => f.write_str(name),
            Self::AnyCall => f.write_str(CALL),
            Self::Call(op) => write!(f, "{CALL}:{}", op.name()),
        }
    }
}

/// One entry of the list, and how often its point was reached.
#[derive(Debug)]
struct Armed {
    point: Point,
    /// From 1.
    nth: u64,
    reached: AtomicU64,
}

impl Armed {
    fn parse(entry: &str) -> Result<Self, FailpointError> {
        if entry.is_empty() {
            return Err(FailpointError::EmptyEntry);
        }
        let (name, nth) = match entry.split_once('@') {
            None => (entry, 1),
            Some((name, digits)) => (name, parse_nth(entry, digits)?),
        };
        Ok(Self { point: Point::parse(name)?, nth, reached: AtomicU64::new(0) })
    }

    /// Counts one more. However many threads arrive at once, one of them is the N-th.
    fn is_due(&self) -> bool {
        self.reached.fetch_add(1, Ordering::Relaxed).wrapping_add(1) == self.nth
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.point, self.nth)
    }
}

fn parse_nth(entry: &str, digits: &str) -> Result<u64, FailpointError> {
    // The standard parser would take a sign as well.
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(nth) if is_number && nth > 0 => Ok(nth),
        Ok(_) | Err(_) => Err(FailpointError::BadCount { entry: entry.to_owned() }),
    }
}

/// What happens at a point; it is given the entry (`after_rename@1`).
type Action = Arc<dyn Fn(&str) + Send + Sync>;

/// A list of points, ready to listen. See the head of this module.
pub struct Failpoints {
    armed: Vec<Armed>,
    action: Action,
}

impl Failpoints {
    /// Reads a comma-separated list of entries; blanks around them do not count.
    ///
    /// # Errors
    /// [`FailpointError`]; its [`hint`](FailpointError::hint) lists what is known.
    pub fn parse(list: &str) -> Result<Self, FailpointError> {
        Self::of(list.split(','))
    }

    /// What the environment variable [`CRASH_POINTS_VARIABLE`] asks for: `None` where it is not set, or empty.
    ///
    /// # Errors
    /// As [`Failpoints::parse`]; [`FailpointError::NotText`].
    pub fn from_env() -> Result<Option<Self>, FailpointError> {
        match std::env::var(CRASH_POINTS_VARIABLE) {
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(FailpointError::NotText),
            Ok(list) if list.is_empty() => Ok(None),
            Ok(list) => Self::parse(&list).map(Some),
        }
    }

    fn of<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, FailpointError> {
        let mut armed = Vec::new();
        for entry in entries {
            if armed.len() == CRASH_POINTS_MAX {
                return Err(FailpointError::TooMany { max: CRASH_POINTS_MAX });
            }
            armed.push(Armed::parse(entry.trim())?);
        }
        Ok(Self { armed, action: Arc::new(abort) })
    }

    /// Does `action` at the points instead of aborting; it is given the entry (`after_rename@1`). For tests that
    /// want to live on.
    #[must_use]
    pub fn with_action(self, action: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        Self { action, ..self }
    }

    /// The file system whose calls and marks are counted.
    #[must_use]
    pub fn over(self, fs: Arc<dyn Fs>) -> Arc<dyn Fs> {
        TapFs::shared(fs, Arc::new(self))
    }

    /// Counts for every entry that `matches`, so that each of them counts for itself.
    fn reach(&self, matches: impl Fn(Point) -> bool) {
        for armed in self.armed.iter().filter(|armed| matches(armed.point)) {
            if armed.is_due() {
                (self.action)(&armed.to_string());
            }
        }
    }
}

impl Listener for Failpoints {
    fn before(&self, call: &Call) -> io::Result<()> {
        self.reach(|point| match point {
            Point::AnyCall => true,
            Point::Call(op) => op == call.op,
            Point::Mark(_) => false,
        });
        Ok(())
    }

    fn mark(&self, announced: &'static str) {
        self.reach(|point| match point {
            Point::Mark(name) => name == announced,
            Point::AnyCall | Point::Call(_) => false,
        });
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failpoints").field("armed", &self.armed).finish_non_exhaustive()
    }
}

/// The end of the process, as hard as it can end itself.
fn abort(entry: &str) {
    // In one write, so that threads do not mix their words. If stderr is closed, there is nobody to tell.
    let words = format!("crashsim: abort at {entry}\n");
    drop(io::stderr().write_all(words.as_bytes()));
    std::process::abort();
}

/// The part `crash_sim` of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrashSimConfig {
    /// Whether to abort at all.
    pub enable: bool,
    /// Entries as [`Failpoints::parse`] takes them, one each.
    pub points: Vec<String>,
}

impl CrashSimConfig {
    /// The points asked for: `None` where they are switched off, or where there are none.
    ///
    /// # Errors
    /// As [`Failpoints::parse`], also where they are switched off: a wrong name should not wait for the day on
    /// which somebody switches it on.
    pub fn failpoints(&self) -> Result<Option<Failpoints>, FailpointError> {
        let failpoints = Failpoints::of(self.points.iter().map(String::as_str))?;
        Ok(Some(failpoints).filter(|found| self.enable && !found.armed.is_empty()))
    }
}

/// Why a list of failpoints is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailpointError {
    /// No mark has this name.
    #[error("there is no failpoint `{name}`")]
    UnknownPoint {
        /// What was asked for.
        name: String,
    },
    /// `call:` is followed by the name of no call.
    #[error("there is no call `{name}`")]
    UnknownCall {
        /// What was asked for.
        name: String,
    },
    /// What follows `@` is not a number from 1.
    #[error("`{entry}`: a number from 1 must follow the `@`")]
    BadCount {
        /// The whole entry.
        entry: String,
    },
    /// Nothing between two commas.
    #[error("an entry is empty")]
    EmptyEntry,
    /// More entries than anybody needs.
    #[error("there are more than {max} failpoints")]
    TooMany {
        /// How many there may be.
        max: usize,
    },
    /// The value of the variable is not Unicode.
    #[error("the value is not Unicode")]
    NotText,
}

impl FailpointError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownPoint { .. } => {
                format!("known are {}, {CALL} and {CALL}:NAME with the name of a call", MARKS.join(", "))
            }
            Self::UnknownCall { .. } => {
                let names: Vec<&str> = Op::ALL.iter().map(|op| op.name()).collect();
                format!("the calls are {}", names.join(", "))
            }
            Self::BadCount { .. } => {
                "after_rename@2 is the second time that after_rename is reached".to_owned()
            }
            Self::EmptyEntry | Self::NotText => {
                "expected entries with commas between them, such as after_rename,call:sync_all@2".to_owned()
            }
            Self::TooMany { .. } => "a process aborts once: name the points of one run".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    use media::OsFs;

    use super::*;

    /// The file system over the points of `list`, and the entries that were reached.
    fn armed(list: &str) -> (Arc<dyn Fs>, Arc<Mutex<Vec<String>>>) {
        let reached = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&reached);
        let action = Arc::new(move |entry: &str| log.lock().unwrap().push(entry.to_owned()));
        let fs = Failpoints::parse(list).unwrap().with_action(action).over(OsFs::shared());
        (fs, reached)
    }

    #[track_caller]
    fn refused(list: &str) -> FailpointError {
        Failpoints::parse(list).unwrap_err()
    }

    #[test]
    fn a_mark_counts_wherever_it_is_announced() {
        let (fs, reached) = armed("after_rename@3, after_fsync");
        let dir = fs.open_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let file = dir.open("Cargo.toml".as_ref(), media::Access::Read).unwrap();
        fs.mark("after_rename");
        dir.mark("after_rename");
        assert_eq!(*reached.lock().unwrap(), Vec::<String>::new());
        file.mark("after_rename");
        dir.mark("after_rename");
        file.mark("after_fsync");
        assert_eq!(*reached.lock().unwrap(), ["after_rename@3", "after_fsync@1"]);
    }

    #[test]
    fn calls_count_before_they_are_carried_out_each_kind_for_itself() {
        let (fs, reached) = armed("call@3,call:dir_metadata@2,call:umask");
        let dir = fs.open_dir(Path::new("/")).unwrap();
        dir.dir_metadata().unwrap();
        assert_eq!(reached.lock().unwrap().len(), 0);
        dir.dir_metadata().unwrap();
        assert_eq!(*reached.lock().unwrap(), ["call@3", "call:dir_metadata@2"]);
        fs.umask().unwrap();
        fs.umask().unwrap();
        assert_eq!(reached.lock().unwrap().last().unwrap(), "call:umask@1");
        assert_eq!(reached.lock().unwrap().len(), 3);
        // A call that fails was a call.
        let (fs, reached) = armed("call:open_dir");
        assert!(fs.open_dir(Path::new("/no/such/directory")).is_err());
        assert_eq!(*reached.lock().unwrap(), ["call:open_dir@1"]);
    }

    #[test]
    fn of_many_threads_one_is_the_nth() {
        let (fs, reached) = armed("after_fsync@500,call@1000,after_fsync@801");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        fs.mark("after_fsync");
                        fs.umask().unwrap();
                        fs.umask().unwrap();
                    }
                });
            }
        });
        let mut reached = reached.lock().unwrap().clone();
        reached.sort();
        assert_eq!(reached, ["after_fsync@500", "call@1000"]);
    }

    #[test]
    fn every_name_is_read_and_shown_as_it_is_written() {
        let calls = Op::ALL.iter().map(|op| format!("call:{}", op.name()));
        let names: Vec<String> =
            MARKS.iter().map(|mark| (*mark).to_owned()).chain([CALL.to_owned()]).chain(calls).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), MARKS.len() + 1 + Op::ALL.len());
        for name in &names {
            let entry = format!("{name}@{}", u64::MAX);
            assert_eq!(Armed::parse(&entry).unwrap().to_string(), entry);
            assert_eq!(Armed::parse(name).unwrap().to_string(), format!("{name}@1"));
        }
    }

    #[test]
    fn the_names_of_calls_are_those_of_the_methods() {
        for op in Op::ALL {
            let words = format!("{op:?}");
            assert_eq!(op.name().replace('_', ""), words.to_lowercase());
        }
    }

    #[test]
    fn what_is_no_entry_is_refused_with_a_hint() {
        let unknown = |name: &str| FailpointError::UnknownPoint { name: name.to_owned() };
        for name in ["after", "AFTER_RENAME", "after rename", "rename", "calls", "CALL", "conformance"] {
            assert_eq!(refused(name), unknown(name));
        }
        assert_eq!(refused("after_rename;after_fsync"), unknown("after_rename;after_fsync"));
        assert_eq!(refused("@1"), unknown(""));
        for name in ["", "Rename", "fsync", "sync_all ", "sync_all:1"] {
            let list = format!("call:{name}@1");
            assert_eq!(refused(&list), FailpointError::UnknownCall { name: name.to_owned() });
        }
        for count in ["0", "00", "", "-1", "+1", "1.5", "1@2", " 1", "x", "18446744073709551616"] {
            let entry = format!("after_rename@{count}");
            assert_eq!(refused(&entry), FailpointError::BadCount { entry: entry.clone() });
        }
        for list in ["", " ", ",", "after_rename,", ",after_rename", "after_rename,,after_fsync"] {
            assert_eq!(refused(list), FailpointError::EmptyEntry);
        }
        assert!(refused("nothing").hint().contains("after_commit_record"));
        assert!(refused("call:nothing").hint().contains("sync_filesystem"));
    }

    #[test]
    fn a_list_has_a_bound() {
        let list = |count: usize| vec!["after_rename"; count].join(",");
        assert_eq!(Failpoints::parse(&list(CRASH_POINTS_MAX)).unwrap().armed.len(), CRASH_POINTS_MAX);
        assert_eq!(refused(&list(CRASH_POINTS_MAX + 1)), FailpointError::TooMany { max: CRASH_POINTS_MAX });
    }

    #[test]
    fn a_configuration_is_checked_even_where_it_is_switched_off() {
        let config = |enable, points: &[&str]| CrashSimConfig {
            enable,
            points: points.iter().map(|&point| point.to_owned()).collect(),
        };
        assert!(CrashSimConfig::default().failpoints().unwrap().is_none());
        assert!(config(true, &[]).failpoints().unwrap().is_none());
        assert!(config(false, &["after_fsync"]).failpoints().unwrap().is_none());
        let found = config(true, &["after_fsync", "after_write@2"]).failpoints().unwrap().unwrap();
        let entries: Vec<String> = found.armed.iter().map(Armed::to_string).collect();
        assert_eq!(entries, ["after_fsync@1", "after_write@2"]);
        for enable in [false, true] {
            // One entry each: a comma is part of a name here.
            let error = config(enable, &["after_fsync,after_write"]).failpoints().unwrap_err();
            assert!(matches!(error, FailpointError::UnknownPoint { .. }), "{error}");
        }
    }

    /// Every Rust file of a crate's library.
    fn sources() -> Vec<PathBuf> {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut due: Vec<PathBuf> =
            std::fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path().join("src")).collect();
        let mut files = Vec::new();
        while let Some(dir) = due.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    due.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    files.push(path);
                }
            }
        }
        files
    }

    #[test]
    fn every_mark_that_an_engine_announces_has_a_name_here() {
        let mut announced = BTreeSet::new();
        for path in sources() {
            // Tests and suites announce what they like.
            let is_ours = path.ends_with("failpoints.rs") || path.iter().any(|part| part == "conformance");
            if is_ours {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let library = text.split("#[cfg(test)]").next().unwrap();
            for call in library.split(".mark(\"").skip(1) {
                announced.insert(call.split('"').next().unwrap().to_owned());
            }
        }
        assert!(announced.contains("after_rename"), "{announced:?}");
        let unknown: Vec<_> = announced.iter().filter(|name| !MARKS.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "no failpoint for {unknown:?}");
    }
}
