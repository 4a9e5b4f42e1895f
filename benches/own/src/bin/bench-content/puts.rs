//! Puts, from one thread or many, until the last of them has its own barriers; and raw chains in the same way.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bench_own::{Comparison, Contender, Ground, PAYLOAD, Took, alternate, raw};
use content::{Config, ContentStore, Uri};
use crash_recovery::{FastPath, Root, RootOptions, TreePath};
use media::doubles::Recorder;
use media::{Env, Fs, OsFs};

/// What names of files begin with that are new in every slice.
const NEW: &str = "new-";

/// What a slice does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Puts {
    pub(crate) fast: FastPath,
    pub(crate) threads: usize,
    /// Operations of all threads together.
    pub(crate) count: usize,
    /// Files that each of them changes.
    pub(crate) files_each: usize,
}

/// The names of an operation: every other one exists already.
fn names(thread: usize, number: usize, slice: u64, files: usize) -> impl Iterator<Item = String> {
    (0..files).map(move |file| {
        let number = number * files + file;
        match number % 2 {
            0 => format!("old-{thread}-{number}"),
            _ => format!("{NEW}{thread}-{number}-{slice}"),
        }
    })
}

/// A root of our own in this directory.
fn open(fs: Arc<dyn Fs>, path: &Path, fast: FastPath) -> io::Result<Root> {
    let options = RootOptions { fast, ..RootOptions::owned("journal") };
    Root::open(fs, path, Env::os(), options).map(|(root, _)| root).map_err(io::Error::other)
}

/// One operation.
pub(crate) fn put(root: &Root, names: impl Iterator<Item = String>, bytes: &[u8]) -> io::Result<()> {
    let mut transaction = root.transaction();
    for name in names {
        let path = TreePath::parse(&name).map_err(io::Error::other)?;
        transaction.replace(&path, bytes).map_err(io::Error::other)?;
    }
    transaction.commit().map(drop).map_err(io::Error::other)
}

/// Runs `operation(thread, number)` so often, on so many threads, and then `finish`.
pub(crate) fn slice(
    threads: usize,
    count: usize,
    operation: impl Fn(usize, usize) -> io::Result<()> + Sync,
    finish: impl FnOnce() -> io::Result<()>,
) -> io::Result<Took> {
    let timed = |thread: usize| -> io::Result<Vec<Duration>> {
        let one = |number| {
            let begun = Instant::now();
            operation(thread, number)?;
            Ok(begun.elapsed())
        };
        (0..count / threads).map(one).collect()
    };
    let each = Mutex::new(Vec::new());
    let start = Barrier::new(threads);
    let failed = Mutex::new(None);
    let begun = Mutex::new(None);
    let work = |thread: usize| {
        if start.wait().is_leader() {
            *begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        match timed(thread) {
            Ok(mut took) => each.lock().unwrap_or_else(PoisonError::into_inner).append(&mut took),
            Err(error) => drop(failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error)),
        }
    };
    std::thread::scope(|scope| {
        for thread in 1..threads {
            scope.spawn(move || work(thread));
        }
        work(0);
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    finish()?;
    let begun = begun.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all = begun.map_or(Duration::ZERO, |begun| begun.elapsed());
    Ok(Took { each: each.into_inner().unwrap_or_else(PoisonError::into_inner), all })
}

/// A store as it is by default.
pub(crate) fn open_content(fs: Arc<dyn Fs>, path: &Path) -> io::Result<ContentStore> {
    ContentStore::init(Arc::clone(&fs), path, Env::os(), &Config::default()).map_err(io::Error::other)?;
    ContentStore::open(fs, path, Env::os()).map(|(store, _)| store).map_err(io::Error::other)
}

/// What is measured: operations, of a thread and a number in a round, and what completes them.
trait Subject: Sync + Sized {
    fn open(fs: Arc<dyn Fs>, path: &Path, fast: FastPath) -> io::Result<Self>;
    fn put(&self, names: impl Iterator<Item = String>) -> io::Result<()>;
    fn checkpoint(&self) -> io::Result<()>;
    fn close(self) -> io::Result<()>;
}

impl Subject for Root {
    fn open(fs: Arc<dyn Fs>, path: &Path, fast: FastPath) -> io::Result<Self> {
        open(fs, path, fast)
    }

    fn put(&self, names: impl Iterator<Item = String>) -> io::Result<()> {
        put(self, names, &PAYLOAD)
    }

    fn checkpoint(&self) -> io::Result<()> {
        self.checkpoint().map_err(io::Error::other)
    }

    fn close(self) -> io::Result<()> {
        self.close().map_err(io::Error::other)
    }
}

impl Subject for ContentStore {
    fn open(fs: Arc<dyn Fs>, path: &Path, _fast: FastPath) -> io::Result<Self> {
        open_content(fs, path)
    }

    fn put(&self, mut names: impl Iterator<Item = String>) -> io::Result<()> {
        names.try_for_each(|name| {
            let uri = Uri::parse(&format!("state:/bench/{name}")).map_err(io::Error::other)?;
            self.put(&uri, &PAYLOAD).map_err(io::Error::other)
        })
    }

    fn checkpoint(&self) -> io::Result<()> {
        self.checkpoint().map_err(io::Error::other)
    }

    fn close(self) -> io::Result<()> {
        self.close().map_err(io::Error::other)
    }
}

impl Puts {
    /// All of it, and until it is complete.
    fn on(self, subject: &impl Subject, round: u64) -> io::Result<Took> {
        let operation = |thread, number| subject.put(names(thread, number, round, self.files_each));
        slice(self.threads, self.count, operation, || subject.checkpoint())
    }

    /// How many barriers an operation has, and how many flushes of the device, on the average of a slice.
    fn count<S: Subject>(self, ground: &Ground, path: &Path) -> io::Result<(f64, Option<f64>)> {
        let (recorder, fs) = Recorder::over(OsFs::shared());
        let subject = S::open(fs, path, self.fast)?;
        drop(self.on(&subject, 0)?);
        recorder.clear();
        let (flushes, _) = self.flushes_of(ground, || self.on(&subject, 1))?;
        let barriers = recorder.barriers();
        subject.close()?;
        Ok((raw::count(barriers) / raw::count(self.count), flushes))
    }

    /// How many flushes of the device an operation has, on the average of a slice.
    fn flushes_of<T>(
        self,
        ground: &Ground,
        slice: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(Option<f64>, T)> {
        let before = ground.device_flushes();
        let done = slice()?;
        let flushes = ground.device_flushes().zip(before).map(|(after, before)| {
            raw::count(usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX))
                / raw::count(self.count)
        });
        Ok((flushes, done))
    }
}

/// A root beside raw chains, on so many threads.
pub(crate) fn compare(
    ground: &Ground,
    rounds: u32,
    puts: Puts,
    raw_threads: usize,
) -> io::Result<Comparison> {
    compare_subject::<Root>(ground, rounds, puts, raw_threads, "")
}

/// A content store beside raw chains, on so many threads.
pub(crate) fn compare_content(
    ground: &Ground,
    rounds: u32,
    puts: Puts,
    raw_threads: usize,
) -> io::Result<Comparison> {
    compare_subject::<ContentStore>(ground, rounds, puts, raw_threads, "bench")
}

/// `below` is where the files are, in what is measured.
fn compare_subject<S: Subject>(
    ground: &Ground,
    rounds: u32,
    puts: Puts,
    raw_threads: usize,
    below: &str,
) -> io::Result<Comparison> {
    let (ours_at, raw_at) = (ground.fresh_dir()?, ground.fresh_dir()?);
    let subject = S::open(OsFs::shared(), &ours_at, puts.fast)?;
    let theirs = raw::open_dir(&raw_at)?;
    let number = AtomicU64::new(0);
    let chains = |round: u64| {
        let operation = |thread, nth| {
            names(thread, nth, round, puts.files_each).try_for_each(|name| {
                let number = number.fetch_add(1, Ordering::Relaxed);
                raw::chain(theirs.as_fd(), number, &name, &PAYLOAD)
            })
        };
        slice(raw_threads, puts.count, operation, || Ok(()))
    };
    let (ours, baseline) = alternate(
        rounds.div_ceil(6),
        Contender::of_slices(|round| puts.on(&subject, round))
            .tidied(|| raw::empty_of(&ours_at.join(below), NEW)),
        Contender::of_slices(&chains).tidied(|| raw::empty_of(&raw_at, NEW)),
    )?;
    subject.close()?;
    let counted_at = ground.fresh_dir()?;
    let (syncs, our_flushes) = puts.count::<S>(ground, &counted_at)?;
    let (their_flushes, _) = puts.flushes_of(ground, || chains(u64::MAX))?;
    for dir in [ours_at, raw_at, counted_at] {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(Comparison { ours, baseline, syncs, flushes: our_flushes.zip(their_flushes) })
}
