//! What tests need from a real machine: file systems mounted from images, raw block devices, power cuts, another user, children that
//! are killed. Nothing here is part of a release.
//!
//! Where something is not there (no root, no `mkfs.xfs`), the answer is [`Missing`], and [`need!`] makes the
//! test say `SKIPPED` and return. With `STEADFAST_REQUIRE_ALL=1` in the environment a skip is a failure: that is
//! how a build machine makes sure that nothing went untested.
//!
//! Tests of several binaries and sessions run side by side on one machine, and some of them are killed. So:
//! - at most [`MOUNTS_MAX`] images are mounted at a time; the others wait (file locks, which die with their
//!   holder);
//! - each run's files are below a directory whose lock its process holds; the next run unmounts and removes what
//!   belongs to a dead one.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

mod loops;
mod mounts;
mod power;
mod processes;
mod scratch;

pub use loops::LoopDevice;
pub use mounts::{BindMount, FsKind, LoopFs, MOUNTS_MAX, MountOptions};
pub use power::{Cut, CutFs, CutKind, PullThePlug};
pub use processes::{NOBODY, as_nobody, child_arg, child_test, kill_hard, resume, stop};
pub use scratch::Scratch;

/// Something that this machine does not offer.
#[derive(Debug, Clone)]
pub struct Missing(String);

impl Missing {
    /// Says what is missing, as the end of the sentence "skipped: …".
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Gives the value of a `Result<_, Missing>`, or says `SKIPPED` and returns from the test.
#[macro_export]
macro_rules! need {
    ($what:expr) => {
        match $what {
            Ok(value) => value,
            Err(missing) => return $crate::skipped(&missing),
        }
    };
}

/// Says that a test was skipped, past the capture of the test harness.
///
/// # Panics
/// With `STEADFAST_REQUIRE_ALL=1`.
pub fn skipped(missing: &Missing) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(
        std::env::var_os("STEADFAST_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{test} must not be skipped here, but: {missing}"
    );
    // A test whose stderr is closed has nobody to tell.
    drop(writeln!(std::io::stderr(), "SKIPPED: {test}: {missing}"));
}

/// Asks for root.
///
/// # Errors
/// [`Missing`] for anybody else.
pub fn root() -> Result<(), Missing> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Missing::new("needs root")) }
}

/// Asks for programs on the `PATH`.
///
/// # Errors
/// [`Missing`] names the first that is not there.
pub fn programs(names: &[&str]) -> Result<(), Missing> {
    names.iter().try_for_each(|name| find_program(name).map(drop))
}

/// Where a program is. The directories for administrators are searched as well.
///
/// # Errors
/// [`Missing`].
pub fn find_program(name: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Missing::new(format!("`{name}` is not installed")))
}

/// Runs a program to its end and gives what it wrote to stdout.
///
/// # Errors
/// [`Missing`] with its own words, if it is not there or fails.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String, Missing> {
    let output = Command::new(find_program(program)?)
        .args(args)
        .output()
        .map_err(|e| Missing::new(format!("`{program}` does not start: {e}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Missing::new(format!("`{program}` failed ({}): {}", output.status, words.trim())))
}
