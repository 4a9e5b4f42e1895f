//! What it costs to finish ten thousand transactions that were committed and not complete.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bench_own::{Fact, Ground, Samples};
use crash_recovery::{FastPath, Root, RootOptions};
use journal::{Journal, JournalError, Limits, StoreId};
use media::{Env, FileDisk, Fs as _, OsFs};
use rustix::time::{ClockId, clock_gettime};

use crate::puts;

const INTENTS: usize = 10_000;
/// Of those who put them.
const THREADS: usize = 20;
/// Each fits into one block with its name, so that all of them fit into a region.
const VALUE: [u8; 1024] = [0x5A; 1024];
const BLOCK: u32 = 4096;
/// How large a `done` is, and how it begins; see the format of intents.
const DONE_LEN: usize = 13;
const DONE: u8 = 4;

fn options() -> RootOptions {
    RootOptions { fast: FastPath::On, journal_bytes: 96 << 20, ..RootOptions::owned("journal") }
}

fn open(path: &Path) -> io::Result<(Root, u64)> {
    let (root, recovery) =
        Root::open(OsFs::shared(), path, Env::os(), options()).map_err(io::Error::other)?;
    Ok((root, recovery.finalized))
}

/// Puts ten thousand files, and then takes back, in the journal, that any of them is complete: no root leaves so many, for its
/// window is bounded.
fn leave_unfinished(path: &Path) -> io::Result<()> {
    let (root, _) = open(path)?;
    let put = |thread, number| puts::put(&root, std::iter::once(format!("file-{thread}-{number}")), &VALUE);
    drop(puts::slice(THREADS, INTENTS, put, || Ok(()))?);
    drop(root);
    let dir = OsFs.open_dir(&path.join("journal"))?;
    let open = || {
        let file = dir.open(OsStr::new("journal"), media::Access::ReadWrite)?;
        FileDisk::open(file, BLOCK).map_err(io::Error::other)
    };
    let mut bodies = Vec::new();
    let mut keep = |frame: journal::Frame<'_>| {
        let without = frame.body.strip_prefix(&[DONE]).and_then(|_| frame.body.get(DONE_LEN..));
        bodies.push(without.unwrap_or(frame.body).to_vec());
        Ok::<(), JournalError>(())
    };
    let opened = Journal::open(open()?, journal::Access::Read, &mut keep).map_err(io::Error::other)?;
    // Another one, so that nothing that is left of the first is taken for its own.
    let store = StoreId(opened.journal.store_id().0.map(|byte| !byte));
    let engine = opened.journal.engine().to_vec();
    drop(opened);
    let mut again = Journal::format(open()?, store, Limits::default(), &engine).map_err(io::Error::other)?;
    for body in bodies.iter().filter(|body| !body.is_empty()) {
        let _seq = again.write(body).map_err(io::Error::other)?;
    }
    let _durable = again.flush().map_err(io::Error::other)?;
    Ok(())
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The CPU time of all threads, and the time that passes, which is that of ten thousand files.
pub(crate) fn measure(ground: &Ground, rounds: u32) -> io::Result<Vec<Fact>> {
    let (mut busy, mut passed) = (Samples::default(), Samples::default());
    for _ in 0..rounds.div_ceil(40) {
        let path = ground.fresh_dir()?;
        leave_unfinished(&path)?;
        let (began, begun) = (cpu(), Instant::now());
        let (root, finalized) = open(&path)?;
        busy.add(cpu().saturating_sub(began));
        passed.add(begun.elapsed());
        if usize::try_from(finalized) != Ok(INTENTS) {
            return Err(io::Error::other(format!("{finalized} of {INTENTS} transactions were finished")));
        }
        drop(root);
        std::fs::remove_dir_all(&path)?;
    }
    let fact = |what: &str, of: &Samples, at_most| {
        let what = format!("recovery of 10,000 intents, {what}");
        Fact { what, figure: of.median().as_secs_f64() * 1e3, unit: "ms", at_most }
    };
    Ok(vec![fact("CPU", &busy, Some(1000.0)), fact("time", &passed, None)])
}
