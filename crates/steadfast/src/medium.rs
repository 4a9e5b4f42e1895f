//! The one place that decides what all commands work on: the operating system, or the same with failpoints before
//! it.

use std::path::Path;
use std::sync::Arc;

use content::{Config, ContentStore, OpenReport, Tuning};
use crash_recovery::{Recovery, Root, RootOptions};
use crashsim::{CRASH_POINTS_VARIABLE, CrashSimConfig, Failpoints};
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

    /// As [`ContentStore::init`].
    pub(crate) fn init_content(&self, path: &Path, config: &Config) -> Result<(), content::Error> {
        ContentStore::init(Arc::clone(&self.fs), path, self.env.clone(), config)
    }

    /// As [`ContentStore::open_with`].
    pub(crate) fn open_content(
        &self,
        path: &Path,
        tuning: &Tuning,
    ) -> Result<(ContentStore, OpenReport), content::Error> {
        ContentStore::open_with(Arc::clone(&self.fs), path, self.env.clone(), tuning)
    }

    /// This one with the failpoints before it that the store at `path` is configured with.
    pub(crate) fn with_crash_sim_of(&self, path: &Path) -> Outcome<Self> {
        let config = ContentStore::read_config(Arc::clone(&self.fs), path, self.env.clone())
            .map_err(|error| Failure::content(path, error))?;
        let points = config.crash_sim.points.iter().map(|point| point.name().to_owned()).collect();
        let failpoints = CrashSimConfig { enable: config.crash_sim.enable, points }.failpoints();
        let failpoints = failpoints.map_err(|error| Failure::Usage {
            message: format!("`{}`: crash_sim: {error}", path.display()),
            hint: Some(error.hint()),
        })?;
        let fs = Arc::clone(&self.fs);
        Ok(Self { fs: failpoints.map_or(Arc::clone(&fs), |points| points.over(fs)), env: self.env.clone() })
    }
}
