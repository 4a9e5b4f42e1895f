//! Durable writes beside the raw write and flush of one block, in alternating slices of the same run.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Instant;

use media::{Access, FileDisk, Fs as _, OsFs, SystemClock};
use statefs::{Batch, Compaction, Key, Options, SharedStore, Store, StoreId};
use testbed::{FsKind, LoopDevice, LoopFs, Missing};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Blocks of 4 KiB on each device, and how many of them a slice of the raw baseline writes.
const BLOCKS: u64 = 8192;
const BLOCK: usize = 4096;
const SLICE: u32 = 100;
/// How many keys a store has, and bytes of each value.
const KEYS: u32 = 1_000;
const VALUE: [u8; 155] = [7; 155];
const WRITERS: [u32; 3] = [1, 8, 32];
const BUFFERED: u32 = 10_000;
/// How many batches one thread submits in a slice, and how many of them are in flight at a time.
const SUBMITTED: u32 = 800;
const IN_FLIGHT: u32 = 32;

/// Where is measured.
pub(crate) enum Ground {
    Directory(PathBuf),
    FileSystem(FsKind),
    RawDevice,
}

impl Ground {
    /// All that this machine has, or what was asked for.
    pub(crate) fn all(dir: Option<PathBuf>) -> Vec<Self> {
        match dir {
            Some(dir) => vec![Self::Directory(dir)],
            None => vec![Self::FileSystem(FsKind::Ext4), Self::FileSystem(FsKind::Xfs), Self::RawDevice],
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Directory(dir) => dir.display().to_string(),
            Self::FileSystem(kind) => format!("{}, loop-mounted image file", kind.fs_type()),
            Self::RawDevice => "raw loop device".to_owned(),
        }
    }
}

/// Devices on one ground; what holds them goes when this is dropped.
struct Devices {
    _mounted: Option<LoopFs>,
    dir: Option<tempfile::TempDir>,
    raw: Vec<LoopDevice>,
}

/// A device for a store, and the path of one for the baseline.
impl Devices {
    fn on(ground: &Ground) -> Result<Self, Missing> {
        let mounted = match ground {
            Ground::FileSystem(kind) => Some(LoopFs::mount(*kind, 1 << 30)?),
            Ground::Directory(_) | Ground::RawDevice => None,
        };
        let below = match (ground, &mounted) {
            (Ground::Directory(dir), _) => Some(dir.clone()),
            (_, Some(mounted)) => Some(mounted.root().to_owned()),
            (_, None) => None,
        };
        let dir = below.map(tempfile::tempdir_in).transpose();
        let dir = dir.map_err(|error| Missing::new(format!("no directory to measure in: {error}")))?;
        Ok(Self { _mounted: mounted, dir, raw: Vec::new() })
    }

    fn path(&mut self, name: &str) -> Outcome<PathBuf> {
        self.path_of(name, BLOCKS)
    }

    /// A device of so many blocks, every byte of which was written.
    fn path_of(&mut self, name: &str, blocks: u64) -> Outcome<PathBuf> {
        let path = match &self.dir {
            Some(dir) => dir.path().join(name),
            None => {
                let device = LoopDevice::attach(blocks * u64::try_from(BLOCK)?, 4096)?;
                let path = device.path().to_owned();
                self.raw.push(device);
                path
            }
        };
        let file = OpenOptions::new().write(true).create(self.dir.is_some()).truncate(false).open(&path)?;
        for block in 0..blocks {
            file.write_all_at(&[0; BLOCK], block * u64::try_from(BLOCK)?)?;
        }
        sync(&file)?;
        Ok(path)
    }

    fn disk(&mut self, name: &str) -> Outcome<FileDisk> {
        disk_at(&self.path(name)?)
    }
}

fn disk_at(path: &Path) -> Outcome<FileDisk> {
    let dir = OsFs.open_dir(path.parent().unwrap_or(Path::new("/")))?;
    let file = dir.open_disk(path.file_name().unwrap_or(OsStr::new("")), Access::ReadWrite)?;
    Ok(FileDisk::open(file, u32::try_from(BLOCK)?)?)
}

fn sync(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(file)?)
}

/// Seconds for one operation.
pub(crate) struct Contender<'c> {
    pub(crate) name: String,
    run: Box<dyn FnMut(u32) -> Outcome<f64> + 'c>,
    pub(crate) took: Vec<f64>,
}

impl<'c> Contender<'c> {
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut(u32) -> Outcome<f64> + 'c) -> Self {
        Self { name: name.into(), run: Box::new(run), took: Vec::new() }
    }
}

/// Runs slices of all contenders in turn. The first round does not count; the order turns, so that none always follows the
/// same one.
pub(crate) fn alternate(contenders: &mut [Contender<'_>], rounds: u32) -> Outcome<()> {
    let count = contenders.len();
    for round in 0..=rounds {
        for turn in 0..count {
            let nth = (turn + usize::try_from(round)?) % count;
            let Some(contender) = contenders.get_mut(nth) else { continue };
            let took = (contender.run)(round)?;
            if round > 0 {
                contender.took.push(took);
            }
        }
    }
    Ok(())
}

pub(crate) fn per(begun: Instant, count: u32) -> f64 {
    begun.elapsed().as_secs_f64() / f64::from(count)
}

fn keys(of: &str, count: u32) -> Outcome<Vec<Key>> {
    (0..count).map(|number| Ok(Key::parse(&format!("/state/{of}/{number:06}"))?)).collect()
}

fn store(devices: &mut Devices, name: &str) -> Outcome<Store<FileDisk>> {
    Ok(Store::format(devices.disk(name)?, &Options::new(StoreId([3; 16])))?)
}

/// The raw baseline: one block written through the page cache, and made durable.
fn raw<'c>(devices: &mut Devices) -> Outcome<Contender<'c>> {
    let file = OpenOptions::new().write(true).open(devices.path("raw")?)?;
    let run = move |round: u32| {
        let begun = Instant::now();
        for number in 0..SLICE {
            let at = u64::from(round * SLICE + number) % BLOCKS;
            file.write_all_at(&[1; BLOCK], at * u64::try_from(BLOCK)?)?;
            sync(&file)?;
        }
        Ok(per(begun, SLICE))
    };
    Ok(Contender::new("raw write + fdatasync", run))
}

fn writers<'c>(shared: &'c SharedStore<FileDisk>, count: u32, keys: &'c [Key]) -> Contender<'c> {
    let each = (SLICE * 4 / count).max(25);
    let run = move |_| {
        let start = Barrier::new(usize::try_from(count)? + 1);
        let begun = std::thread::scope(|scope| {
            for writer in 0..count {
                let start = &start;
                let keys = keys.iter().cycle().skip(usize::try_from(writer * 31).unwrap_or(0));
                let keys = keys.take(usize::try_from(each).unwrap_or(0));
                scope.spawn(move || {
                    start.wait();
                    // A write that fails poisons the store, which the end of the run tells.
                    keys.map(|key| shared.put(key, &VALUE)).filter(Result::is_err).count()
                });
            }
            start.wait();
            Instant::now()
        });
        shared.sync()?;
        Ok(per(begun, each * count))
    };
    Contender::new(format!("{count} writer(s), SharedStore"), run)
}

/// One thread that keeps so many batches of one put in flight, with a commit thread.
fn submitter<'c>(shared: &'c SharedStore<FileDisk>, keys: &'c [Key]) -> Contender<'c> {
    let run = move |_| {
        let (done, answers) = mpsc::channel();
        let begun = Instant::now();
        for nth in 0..SUBMITTED {
            if nth >= IN_FLIGHT {
                let _revision = answers.recv()??;
            }
            let key = keys.get(usize::try_from(nth)? % keys.len()).ok_or("no keys")?;
            let mut batch = Batch::new();
            batch.put(key, &VALUE)?;
            let done = done.clone();
            // The receiver is there until all answers are.
            shared.submit(batch, move |answer| drop(done.send(answer)))?;
        }
        for _ in 0..IN_FLIGHT {
            let _revision = answers.recv()??;
        }
        Ok(per(begun, SUBMITTED))
    };
    Contender::new(format!("submit, {IN_FLIGHT} in flight"), run)
}

/// Measures all of it on one ground, and prints.
pub(crate) fn measure(ground: &Ground, rounds: u32, out: &mut impl io::Write) -> Outcome<()> {
    let mut devices = match Devices::on(ground) {
        Ok(devices) => devices,
        Err(missing) => return Ok(writeln!(out, "{}: not measured: {missing}\n", ground.name())?),
    };
    let names = keys("app", KEYS)?;
    let mut single = store(&mut devices, "single")?;
    let mode = single.device().mode();
    let mut batches = store(&mut devices, "batch")?;
    let mut buffered = store(&mut devices, "buffered")?;
    let share = |store| SharedStore::new(store, Arc::new(SystemClock::new()));
    let alone = share(store(&mut devices, "alone")?);
    let driven = share(store(&mut devices, "driven")?);
    let _driver = driven.driver()?;
    let mut shared = Vec::new();
    for count in WRITERS {
        let store = store(&mut devices, &format!("shared-{count}"))?;
        shared.push((count, share(store)));
    }
    let mut batch = Batch::new();
    names.iter().try_for_each(|key| batch.put(key, &VALUE))?;

    let mut contenders = vec![raw(&mut devices)?];
    contenders.push(Contender::new("1 writer, Store", |_| {
        let begun = Instant::now();
        for key in names.iter().take(usize::try_from(SLICE)?) {
            let _revision = single.put(key, &VALUE)?;
        }
        Ok(per(begun, SLICE))
    }));
    contenders.push(Contender::new("the same, SharedStore", |_| {
        let begun = Instant::now();
        for key in names.iter().take(usize::try_from(SLICE)?) {
            let _revision = alone.put(key, &VALUE)?;
        }
        Ok(per(begun, SLICE))
    }));
    contenders.extend(shared.iter().map(|(count, shared)| writers(shared, *count, &names)));
    contenders.push(submitter(&driven, &names));
    contenders.push(Contender::new("batch of 1,000", |_| {
        let begun = Instant::now();
        for _ in 0..10 {
            let _revision = batches.batch(&batch)?;
        }
        Ok(per(begun, 10 * KEYS))
    }));
    contenders.push(Contender::new("10,000 buffered + sync", |_| {
        let begun = Instant::now();
        for key in names.iter().cycle().take(usize::try_from(BUFFERED)?) {
            let _revision = buffered.put_buffered(key, &VALUE)?;
        }
        let _durable = buffered.sync()?;
        Ok(per(begun, BUFFERED))
    }));
    alternate(&mut contenders, rounds)?;
    let region = (BLOCKS - 4) / 2;
    writeln!(
        out,
        "{} ({mode}); {BLOCKS} blocks of 4 KiB, regions of {region}, {KEYS} keys, values of 155 bytes",
        ground.name()
    )?;
    print(&contenders, out)?;
    if let [_, single, shared, ..] = contenders.as_slice() {
        let [low, ratio, high] = ratio(&single.took, &shared.took);
        writeln!(out, "  1 writer: SharedStore beside Store, ratio {ratio:.2} [{low:.2}..{high:.2}]")?;
    }
    drop(contenders);
    for (count, shared) in &shared {
        let stats = shared.stats();
        let frames = stats.store.frame_ops.count();
        let ops = f64::from(rounds + 1) * f64::from((SLICE * 4 / count).max(25) * count);
        writeln!(
            out,
            "  {count:>2} writer(s): {:.3} barriers a put, {:.1} device bytes a payload byte, {frames} frames, half of them of \
             {} puts or fewer, frames durable after {} µs (half), {} µs (99 %)",
            whole(stats.store.journal.barriers) / ops,
            whole(stats.store.journal.blocks) * 4096.0 / ops / 155.0,
            stats.store.frame_ops.percentile(50),
            stats.frame_micros.percentile(50),
            stats.frame_micros.percentile(99),
        )?;
    }
    Ok(writeln!(out)?)
}

/// How long it takes to open a store of so many keys, region 80 % live, read from the medium: past the page cache, or after it
/// was asked to forget.
pub(crate) fn reopen(ground: &Ground, count: u32, rounds: u32, out: &mut impl io::Write) -> Outcome<()> {
    let Ok(mut devices) = Devices::on(ground) else { return Ok(()) };
    // A record has 14 bytes and its key before its value; a block, 48 before its records.
    let live = u64::from(count) * (14 + 18 + 155) / (4096 - 48);
    let blocks = 2 * (live * 5 / 4) + 4;
    let path = devices.path_of("reopen", blocks)?;
    let open = || -> Outcome<FileDisk> { disk_at(&path) };
    let mut store = Store::format(open()?, &Options::new(StoreId([4; 16])))?;
    for key in keys("app", count)? {
        let _revision = store.put_buffered(&key, &VALUE)?;
    }
    while store.compact_step()? != Compaction::Finished {}
    let stats = store.stats();
    store.close()?;
    let mut took = Vec::new();
    for _ in 0..rounds.clamp(3, 9) {
        let disk = open()?;
        let begun = Instant::now();
        let (store, recovery) = Store::open(disk, statefs::Access::Write)?;
        took.push(begun.elapsed().as_secs_f64());
        if recovery.live_keys != u64::from(count) {
            return Err("not all keys are there".into());
        }
        drop(store);
    }
    let [_, median, _] = quartiles(took.clone());
    let least = took.into_iter().fold(f64::INFINITY, f64::min);
    Ok(writeln!(
        out,
        "  reopen {count:>9} keys, {} of {} blocks live: {:.1} ms (least {:.1})",
        stats.live_blocks,
        stats.capacity_blocks,
        median * 1e3,
        least * 1e3
    )?)
}

/// How long it takes to open a store in an image of a size, beside the same store in the smallest image that holds it. Both
/// images are sparse, both stores were closed, and the two are opened to be read, in turn: the flush of an open for writing
/// costs what the file system has to bring to the medium, whatever the size.
pub(crate) fn sizes(ground: &Ground, rounds: u32, out: &mut impl io::Write) -> Outcome<()> {
    let Ok(devices) = Devices::on(ground) else { return Ok(()) };
    let Some(dir) = &devices.dir else { return Ok(()) };
    for (keys_count, large) in [(1, 4_u64 << 30), (100_000, 640 << 20)] {
        let smallest = (5..).map(|shift| (1_u64 << shift) * 3 / 2).find_map(|blocks| {
            filled(&dir.path().join("small"), blocks, keys_count).ok().map(|path| (path, blocks))
        });
        let Some((small, blocks)) = smallest else { continue };
        let large_blocks = large / u64::try_from(BLOCK)?;
        let large = filled(&dir.path().join("large"), large_blocks, keys_count)?;
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..rounds.max(31) {
            for (path, took) in [&small, &large].into_iter().zip(&mut took) {
                let disk = disk_at(path)?;
                let begun = Instant::now();
                let opened = Store::open(disk, statefs::Access::Read)?;
                took.push(begun.elapsed().as_secs_f64());
                drop(opened);
            }
        }
        let ratios = took[0].iter().zip(&took[1]).map(|(small, large)| large / small).collect();
        let [low, ratio, high] = quartiles(ratios);
        let [small_took, large_took] = took.map(|took| quartiles(took)[1] * 1e3);
        writeln!(
            out,
            "  open {keys_count:>7} keys in {large_blocks} blocks {large_took:.2} ms, in {blocks} blocks {small_took:.2} ms   ratio \
             {ratio:.2} [{low:.2}..{high:.2}]"
        )?;
    }
    Ok(())
}

/// A closed store of so many keys in a sparse image of so many blocks.
fn filled(path: &Path, blocks: u64, count: u32) -> Outcome<PathBuf> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(blocks * u64::try_from(BLOCK)?)?;
    let mut store = Store::format(disk_at(path)?, &Options::new(StoreId([5; 16])))?;
    for key in keys("app", count)? {
        let _revision = store.put_buffered(&key, &VALUE)?;
    }
    while store.compact_step()? != Compaction::Finished {}
    store.close()?;
    Ok(path.to_owned())
}

/// Counts are far below what a float cannot hold.
fn whole(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn print(contenders: &[Contender<'_>], out: &mut impl io::Write) -> Outcome<()> {
    let Some(raw) = contenders.first() else { return Ok(()) };
    for contender in contenders {
        let [low, median, high] = ratio(&raw.took, &contender.took);
        let [_, took, _] = quartiles(contender.took.clone());
        writeln!(
            out,
            "  {:<26}{:>9.2} µs{:>12.0} a second   ratio {median:>7.2} [{low:.2}..{high:.2}]",
            contender.name,
            took * 1e6,
            1.0 / took
        )?;
    }
    Ok(())
}

/// How many times as fast, in each round.
pub(crate) fn ratio(baseline: &[f64], ours: &[f64]) -> [f64; 3] {
    quartiles(baseline.iter().zip(ours).map(|(baseline, ours)| baseline / ours).collect())
}

pub(crate) fn quartiles(mut of: Vec<f64>) -> [f64; 3] {
    of.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| of.get(of.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}
