//! [`Case`]: a case made of functions, and what most cases share.

use std::io;

use crashsim::{Cell, Expected, Operation, Run, Value, Verdict};
use durable_io::Mode;

use crate::site::{FileCase, Site, judge, sweep_all};

/// What is there before a case begins.
pub(super) type Before = Result<Vec<(Cell, Option<Value>)>, Ended>;

/// A case made of functions.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) prepare: fn(&Site<'_>) -> Before,
    /// What was told of an error has been told when it ends the run.
    pub(super) run: fn(&Site<'_>) -> Result<(), Ended>,
    pub(super) recover: fn(&Site<'_>) -> Result<(), String>,
    pub(super) check: fn(&Site<'_>, &Expected) -> Verdict,
}

impl Case {
    /// One that sweeps when it starts again, and whose cells are files.
    pub(super) const fn new(
        name: &'static str,
        about: &'static str,
        prepare: fn(&Site<'_>) -> Before,
        run: fn(&Site<'_>) -> Result<(), Ended>,
    ) -> Self {
        Self { name, about, prepare, run, recover: sweep_all, check: exactly }
    }
}

impl FileCase for Case {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        (self.prepare)(site).map_err(|Ended(why)| why)
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        drop((self.run)(site));
    }

    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        (self.recover)(site)
    }

    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        (self.check)(site, expected)
    }
}

/// Each case in a box.
pub(super) fn boxed<C: FileCase + 'static>(cases: impl IntoIterator<Item = C>) -> Vec<Box<dyn FileCase>> {
    let boxed = |case| -> Box<dyn FileCase> { Box::new(case) };
    cases.into_iter().map(boxed).collect()
}

/// What an ordinary file looks like.
pub(crate) fn file(bytes: &[u8]) -> Option<Value> {
    file_with(bytes, 0o644)
}

/// A file with this mode.
pub(super) fn file_with(bytes: &[u8], mode: u32) -> Option<Value> {
    Some(Value::with_facts(bytes, Mode::new(mode)))
}

/// A directory with this mode.
pub(super) fn directory(mode: u32) -> Option<Value> {
    Some(Value::with_facts(b"", format_args!("Dir {}", Mode::new(mode))))
}

/// Nothing is there before.
pub(super) fn nothing(_site: &Site<'_>) -> Before {
    Ok(Vec::new())
}

/// The names of locks, and of claims on those that the dead have left.
pub(super) fn is_lock(name: &str) -> bool {
    name.ends_with(".lock") || name.contains(".lock.")
}

/// Each cell is a file, and there are no others.
pub(super) fn exactly(site: &Site<'_>, expected: &Expected) -> Verdict {
    judge(site, expected, &is_lock, &|cell| site.look(cell))
}

/// What a program left that knows nothing of barriers: whatever it is after a power cut, it is this.
pub(super) fn anything() -> Option<Value> {
    Some(Value::bytes(b"whatever was left of it"))
}

/// A file that somebody writes without barriers, as the witness hears of it.
pub(super) fn scribbled(cell: &str) -> Operation {
    Operation::one(format_args!("{cell} is written without barriers"), cell, anything())
}

/// As [`exactly`], where a cell may be [`anything`].
pub(super) fn loosely(site: &Site<'_>, expected: &Expected) -> Verdict {
    let look = |cell: &str| -> io::Result<Option<Value>> {
        let found = site.look(cell)?;
        let allowed = expected.allowed(cell);
        let is_left = found.is_some() && !allowed.contains(&found) && allowed.contains(&anything());
        Ok(if is_left { anything() } else { found })
    };
    judge(site, expected, &is_lock, &look)
}

/// Why a case went no further: an answer of the engine, or of the file system below it.
#[derive(Debug)]
pub(super) struct Ended(pub(super) String);

impl From<durable_io::Error> for Ended {
    fn from(error: durable_io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}
