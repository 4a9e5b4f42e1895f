//! `steadfast demo`: the main job on real files, in a directory it makes and names.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use durable_io::{Dir, Log, LogOptions, Tail, UpdateOptions, Wait};

use super::crash::Shown;
use super::selfcheck::{Price, time_words};
use super::{bytes_words, durability_words};
use crate::cli::Demo;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

mod recovery;

const WORKERS: u32 = 4;
const UPDATES_EACH: u32 = 25;
const BULK_FILES: u32 = 1_000;
const PRICE_ROUNDS: u16 = 30;

pub(super) fn run(args: &Demo, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    if let Some(registry) = &args.worker {
        return work(registry, medium);
    }
    let path = args.dir.join(format!("steadfast-demo-{}", std::process::id()));
    let demo = Demonstration { dir: medium.open_or_create(&path)?, path, medium, output, interrupt };
    demo.heading("Steadfast: writes that survive a power cut")?;
    demo.text(format_args!("All files are in `{}`.", demo.path.display()))?;
    let steps = [
        Demonstration::replace,
        Demonstration::registry,
        Demonstration::log,
        Demonstration::bulk,
        Demonstration::prices,
        Demonstration::state,
        Demonstration::together,
        Demonstration::content,
        Demonstration::cuts,
    ];
    for step in steps {
        interrupt.check()?;
        step(&demo)?;
    }
    if args.clean {
        std::fs::remove_dir_all(&demo.path)
            .map_err(|e| Failure::io("removing the directory", &demo.path, e))?;
        demo.text("\nThe directory was removed again, as asked.")?;
    } else {
        demo.text(format_args!("\nLook around in `{}`; remove it when you like.", demo.path.display()))?;
    }
    demo.text("What every other file system here promises: steadfast selfcheck DIR")?;
    Ok(Exit::Ok)
}

struct Demonstration<'o> {
    dir: Dir,
    path: PathBuf,
    medium: &'o Medium,
    output: &'o Output,
    interrupt: &'o Interrupt,
}

impl Demonstration<'_> {
    fn heading(&self, text: &str) -> Outcome<()> {
        self.output.line(format_args!("\n{text}\n{}", "─".repeat(text.chars().count())))
    }

    fn text(&self, text: impl std::fmt::Display) -> Outcome<()> {
        self.output.line(text)
    }

    fn replace(&self) -> Outcome<()> {
        self.heading("1. One file")?;
        self.dir.replace("config.json", b"{\"volume\": 3}\n")?;
        let begun = Instant::now();
        let published = self.dir.replace("config.json", b"{\"volume\": 11}\n")?;
        let took = begun.elapsed();
        self.text(format_args!(
            "replaced config.json in {}: {}.",
            time_words(took),
            durability_words(published.durability)
        ))?;
        self.text("  A reader, or a power cut, finds all of the old content or all of the new.")?;
        let error = self.dir.create_new("config.json", b"").err();
        if let Some(error) = error {
            self.text(format_args!("  And it says what it did not do: {error}."))?;
        }
        Ok(())
    }

    fn registry(&self) -> Outcome<()> {
        self.heading("2. A registry that several processes change at once")?;
        let myself = std::env::current_exe().map_err(|e| Failure::stream("finding this program", e))?;
        let registry = self.path.join("registry.json");
        let begun = Instant::now();
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            let worker = Command::new(&myself)
                .args(["demo", "--worker"])
                .arg(&registry)
                .stdin(Stdio::null())
                .spawn()
                .map_err(|e| Failure::stream("starting a process", e))?;
            workers.push(worker);
        }
        for mut worker in workers {
            let status = worker.wait().map_err(|e| Failure::stream("waiting for a process", e))?;
            if !status.success() {
                return Err(Failure::stream("running a process", std::io::Error::other(status.to_string())));
            }
        }
        let took = begun.elapsed();
        let entries = self.dir.registry::<u32>("registry.json").read()?.len();
        self.text(format_args!(
            "{WORKERS} processes made {UPDATES_EACH} locked updates each in {}: {entries} of {} entries are there.",
            time_words(took),
            WORKERS * UPDATES_EACH
        ))?;
        if u32::try_from(entries) != Ok(WORKERS * UPDATES_EACH) {
            return Err(Failure::stream("counting the entries", std::io::Error::other("an update was lost")));
        }
        self.text("  Each update: lock, read, change, durable replace, unlock. Readers never wait.")
    }

    fn log(&self) -> Outcome<()> {
        self.heading("3. A log whose last record was torn")?;
        let mut log = self.dir.log("sessions.jsonl")?;
        for user in ["ada", "grace", "barbara"] {
            let _durable = log.append(format!("{{\"user\":\"{user}\"}}").as_bytes())?;
        }
        log.close()?;
        self.tear("sessions.jsonl")?;
        let found = Log::check(&self.dir, "sessions.jsonl", &LogOptions::default())?;
        self.text(format_args!(
            "3 records appended, each durable; then half a record, as a power cut leaves it: {} whole.",
            found.records
        ))?;
        let repaired = self.dir.log("sessions.jsonl")?;
        if let Tail::Torn { offset, len, set_aside } = &repaired.recovery().tail {
            let aside = set_aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.text(format_args!("  Opened again: the torn {len} bytes at byte {offset} are in {aside}."))?;
        }
        repaired.close()?;
        let found = Log::check(&self.dir, "sessions.jsonl", &LogOptions::default())?;
        self.text(format_args!("  {} records, all that were acknowledged, and a clean tail.", found.records))
    }

    /// Appends half a record behind the back of the log.
    fn tear(&self, name: &str) -> Outcome<()> {
        let path = self.path.join(name);
        let torn = std::fs::OpenOptions::new().append(true).open(&path);
        torn.and_then(|mut file| file.write_all(b"{\"user\":\"mar"))
            .map_err(|e| Failure::io("tearing the log", path, e))
    }

    fn bulk(&self) -> Outcome<()> {
        self.heading("4. A thousand files at once")?;
        let content = [b'x'; 4096];
        let begun = Instant::now();
        let mut bulk = self.dir.bulk();
        for index in 0..BULK_FILES {
            bulk.replace(format!("many/{index:04}"), &content);
        }
        let report = bulk.publish_all().all_published()?;
        let took = begun.elapsed();
        self.text(format_args!(
            "{} files, {} in {}: all {}.",
            report.published,
            bytes_words(report.bytes),
            time_words(took),
            durability_words(report.durability)
        ))?;
        let one = Price::of(PRICE_ROUNDS, |_| Ok(self.dir.replace("many/0000", &content).map(|_| ())?))?;
        let alone = one.median * BULK_FILES;
        self.text(format_args!(
            "  One by one it would take about {} ({} each): {:.1} times as long.",
            time_words(alone),
            time_words(one.median),
            alone.as_secs_f64() / took.as_secs_f64()
        ))?;
        self.text("  Each file is whole, old or new; together they are not atomic.")
    }

    fn prices(&self) -> Outcome<()> {
        self.heading("5. What it costs here")?;
        let mount = media::describe_mount(&self.path);
        if let Some(mount) = &mount {
            let journal = if mount.journal == Some(false) { ", without a journal" } else { "" };
            self.text(format_args!("{} on {}{journal}", mount.fs_type, mount.source))?;
        }
        let fail = |e| Failure::io("measuring", &self.path, e);
        let raw = self.medium.fs().open_dir(&self.path).map_err(fail)?;
        let file = raw.create_exclusive("measured".as_ref(), media::Mode::PRIVATE).map_err(fail)?;
        let row =
            |what: &str, price: Duration| self.text(format_args!("  {what:<46}{:>10}", time_words(price)));
        let fsync = Price::of(PRICE_ROUNDS, |index| {
            file.write_at(u64::from(index) * 4096, &[1; 4096]).and_then(|_| file.sync_all()).map_err(fail)
        })?;
        row("file barrier (4 KiB, fsync)", fsync.median)?;
        let dirsync = Price::of(PRICE_ROUNDS, |index| {
            let names = ["measured", "measured2"];
            let (from, to) = if index % 2 == 0 { (names[0], names[1]) } else { (names[1], names[0]) };
            raw.rename(from.as_ref(), &*raw, to.as_ref(), media::RenameMode::Replace)
                .and_then(|()| raw.sync())
                .map_err(fail)
        })?;
        row("name barrier (rename, fsync of the directory)", dirsync.median)?;
        let replace = Price::of(PRICE_ROUNDS, |_| {
            Ok(self.dir.replace("config.json", b"{\"volume\": 11}\n").map(|_| ())?)
        })?;
        row("one durable replace (both barriers)", replace.median)?;
        let lock =
            Price::of(PRICE_ROUNDS, |_| Ok(self.dir.lock("config.json", Wait::DoNotWait)?.unlock()?))?;
        row("lock and unlock (no barrier)", lock.median)?;
        let mut log = self.dir.log("measured.jsonl")?;
        let append = Price::of(PRICE_ROUNDS, |_| Ok(log.append(b"{}").map(|_| ())?))?;
        row("one durable log record (one barrier)", append.median)
    }

    fn state(&self) -> Outcome<()> {
        self.heading("6. Keys and values in one file, or on a raw disk")?;
        super::state::demonstrate(&self.path.join("state.img"), self.medium, self.output)
    }

    fn cuts(&self) -> Outcome<()> {
        self.heading("9. And now the power is cut at every point of what you just saw")?;
        let files = super::crash::show(self.output, self.interrupt)?;
        self.shown("The files: ", &files)?;
        let state = super::crash::show_state(self.output, self.interrupt)?;
        self.shown("The keys and values: ", &state)?;
        self.text("  steadfast crash run")?;
        if files.kept && state.kept {
            Ok(())
        } else {
            Err(Failure::not_so("a promise was broken in the simulation"))
        }
    }

    fn shown(&self, what: &str, shown: &Shown) -> Outcome<()> {
        for (index, line) in shown.lines.iter().enumerate() {
            self.text(format_args!("{}{line}", if index == 0 { what } else { "" }))?;
        }
        Ok(())
    }
}

/// One of the processes of step 2.
fn work(registry: &Path, medium: &Medium) -> Outcome {
    let dir = medium.open(registry.parent().unwrap_or(Path::new(".")))?;
    let name = registry.file_name().unwrap_or_default();
    let mut options = UpdateOptions::default();
    options.lock.wait = Wait::UpTo(Duration::from_secs(60));
    let registry = dir.registry_with::<u32>(name, options);
    let me = std::process::id();
    for index in 0..UPDATES_EACH {
        registry.update(|document| document.insert(format!("{me}-{index}"), index))?;
    }
    Ok(Exit::Ok)
}
