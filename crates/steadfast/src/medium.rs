//! The one place that decides what all commands work on: the operating system, or the same with failpoints before
//! it.

use std::path::Path;
use std::sync::Arc;

use crash_recovery::{Recovery, Root, RootOptions};
use crashsim::{CRASH_POINTS_VARIABLE, Failpoints};
use durable_io::Dir;
use media::{Env, Fs, OsFs};

use crate::failure::{Failure, Outcome};

/// The file system, and what else comes from outside.
#[derive(Debug, Clone)]
pub(crate) struct Medium {
    fs: Arc<dyn Fs>,
    env: Env,
}

impl Medium {
    /// The operating system; with the failpoints that the environment asks for, if it does.
    pub(crate) fn from_env() -> Outcome<Self> {
        let failpoints = Failpoints::from_env().map_err(|error| Failure::Usage {
            message: format!("{CRASH_POINTS_VARIABLE}: {error}"),
            hint: Some(error.hint()),
        })?;
        let fs = OsFs::shared();
        Ok(Self {
            fs: failpoints.map_or_else(|| Arc::clone(&fs), |points| points.over(Arc::clone(&fs))),
            env: Env::os(),
        })
    }

    pub(crate) fn fs(&self) -> &dyn Fs {
        &*self.fs
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// As [`Dir::open`].
    pub(crate) fn open(&self, path: impl AsRef<Path>) -> durable_io::Result<Dir> {
        Dir::open_on(Arc::clone(&self.fs), path, self.env.clone())
    }

    /// As [`Dir::open_or_create`].
    pub(crate) fn open_or_create(&self, path: impl AsRef<Path>) -> durable_io::Result<Dir> {
        Dir::open_or_create_on(Arc::clone(&self.fs), path, self.env.clone())
    }

    /// As [`Root::open`].
    pub(crate) fn root(
        &self,
        path: &Path,
        options: RootOptions,
    ) -> Result<(Root, Recovery), crash_recovery::Error> {
        Root::open(Arc::clone(&self.fs), path, self.env.clone(), options)
    }
}
