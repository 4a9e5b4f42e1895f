//! Sweeping: the temporary files of the dead go for good, those of the living stay.

use std::sync::Arc;

use crashsim::{Cell, Expected, Operation, Run, Value, Verdict};
use durable_io::{Dir, Env, SweepOptions, SweepReport};
use media::doubles::FakeHost;

use super::case::{Ended, directory, exactly, file_with};
use crate::site::{FileCase, Site};

/// A process that runs beside ours, until the power fails.
const NEIGHBOUR: u32 = 77;
/// A process that died long ago.
const DEAD: u32 = 66;
const STRAY: &[u8] = b"never published";

struct Sweep;

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    vec![Box::new(Sweep)]
}

/// The environment of a process beside ours on the same machine, with its own randomness.
fn env_of(site: &Site<'_>, pid: u32) -> Env {
    let start_time = 1000 + u64::from(pid);
    let mut host = FakeHost::with_pid(pid);
    if let Ok(me) = site.env.host.this_process() {
        host.me = media::ProcessIdentity { pid, start_time, ..me };
    }
    Env { host: Arc::new(host), ..media::doubles::fixed_env(u64::from(pid)) }
}

/// Our own environment, in which the neighbour is alive as long as the power is on.
fn env(site: &Site<'_>) -> Env {
    let Ok(me) = site.env.host.this_process() else { return site.env.clone() };
    let mut alive = vec![(me.pid, me.start_time)];
    if site.life.boot == 0 {
        alive.push((NEIGHBOUR, 1000 + u64::from(NEIGHBOUR)));
    }
    let host = FakeHost { me, alive: alive.into() };
    Env { host: Arc::new(host), ..site.env.clone() }
}

/// Leaves a temporary file as a process does that dies while it writes. Gives its name.
fn leave(site: &Site<'_>, pid: u32, folder: &str) -> Result<Cell, String> {
    let words = |error: std::io::Error| error.to_string();
    let dir = Dir::open_on(Arc::clone(&site.fs), &site.root, env_of(site, pid)).map_err(|e| e.to_string())?;
    let staged = dir.stage(format!("{folder}x")).map_err(|error| error.to_string())?;
    let name =
        site.names().map_err(words)?.into_iter().find(|name| name.contains(&format!(".steadfast-{pid:x}-")));
    let name = name.ok_or("there is no temporary file")?;
    staged.discard().map_err(|error| error.to_string())?;
    site.scribble(&name, STRAY).map_err(words)?;
    Ok(name.into())
}

fn is_stray_of(cell: &str, pid: u32) -> bool {
    cell.contains(&format!(".steadfast-{pid:x}-"))
}

impl FileCase for Sweep {
    fn name(&self) -> &str {
        "sweep"
    }

    fn about(&self) -> &str {
        "sweep the temporary files of a dead process, beside one that lives"
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        let stray = || file_with(STRAY, 0o644);
        site.dir().and_then(|dir| dir.create_dir("sub")).map_err(|error| error.to_string())?;
        let below = leave(site, DEAD, "sub/")?;
        let neighbour = leave(site, NEIGHBOUR, "")?;
        // The name is searched for, so there is one at a time.
        let dead = below.rsplit('/').next().unwrap_or_default().to_owned();
        site.scribble(&dead, STRAY).map_err(|error| error.to_string())?;
        Ok(vec![
            ("sub".into(), directory(0o755)),
            (below, stray()),
            (dead.into(), stray()),
            (neighbour, stray()),
        ])
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        drop(sweep(site));
    }

    /// After a kill, once more. After a power cut, nothing: a sweep would hide what the first one has not made durable.
    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        if site.life.boot > 0 {
            return Ok(());
        }
        let report = sweep(site).map_err(|Ended(why)| why)?;
        report.failures.first().map_or(Ok(()), |error| Err(error.to_string()))
    }

    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        exactly(site, expected)
    }
}

fn sweep(site: &Site<'_>) -> Result<SweepReport, Ended> {
    let strays = site.names()?.into_iter().filter(|name| is_stray_of(name, DEAD));
    let atoms = strays.map(|name| vec![(name.into(), None)]).collect();
    Ok(site.perform(Operation::new("sweep", atoms), || {
        let options = SweepOptions { recursive: true, ..SweepOptions::default() };
        Dir::open_on(Arc::clone(&site.fs), &site.root, env(site))?.sweep(&options)
    })?)
}
