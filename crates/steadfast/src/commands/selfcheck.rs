//! `steadfast selfcheck`: what the file system of a directory offers, what its barriers cost, and what should worry
//! the reader.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durable_io::{Dir, Durability, Wait};
use media::{Access, LockWait, Mode, MountFacts, NAME_LEN_MAX, Reason, RenameMode, describe_mount};
use serde_json::{Value, json};

use crate::cli::Selfcheck;
use crate::failure::{Exit, Failure, Outcome, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

/// What one probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offered {
    Yes,
    No(Reason),
    /// Present, but it does not do what it says.
    Broken,
}

impl Offered {
    fn of<T>(outcome: io::Result<T>) -> Self {
        match outcome {
            Ok(_) => Self::Yes,
            Err(e) => Self::No(Reason::of(&e)),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Yes => "yes".to_owned(),
            Self::No(reason) => format!("no ({reason})"),
            Self::Broken => "BROKEN".to_owned(),
        }
    }

    fn to_json(self) -> Value {
        match self {
            Self::Yes => json!(true),
            Self::No(_) | Self::Broken => json!(false),
        }
    }
}

/// The price of one thing, over some rounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Price {
    pub(super) median: Duration,
    p99: Duration,
}

impl Price {
    /// Times `round` `rounds` times.
    pub(super) fn of(rounds: u16, mut round: impl FnMut(u16) -> Outcome<()>) -> Outcome<Self> {
        let mut times = Vec::with_capacity(usize::from(rounds));
        for index in 0..rounds {
            let begun = Instant::now();
            round(index)?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            times.get(index).copied().unwrap_or_default()
        };
        Ok(Self { median: at(50), p99: at(99) })
    }

    fn to_json(self) -> Value {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        json!({ "median_us": us(self.median), "p99_us": us(self.p99) })
    }
}

pub(super) fn run(args: &Selfcheck, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let ground = Ground::prepare(&args.dir, medium)?;
    let outcome = ground.probe(args, interrupt);
    let removed = ground.remove();
    let findings = outcome?;
    removed?;
    findings.report(&args.dir, output)
}

/// A subdirectory to try things in.
struct Ground {
    path: std::path::PathBuf,
    raw: Arc<dyn media::Dir>,
    dir: Dir,
}

impl Ground {
    fn prepare(parent: &Path, medium: &Medium) -> Outcome<Self> {
        let name = format!(".steadfast-selfcheck-{}", std::process::id());
        let path = parent.join(name);
        std::fs::create_dir(&path)
            .map_err(|e| Failure::io("making a directory to try things in", &path, e))?;
        let raw = medium.fs().open_dir(&path).map_err(|e| Failure::io("opening it", &path, e))?;
        let dir = medium.open(&path)?;
        Ok(Self { path, raw, dir })
    }

    fn remove(self) -> Outcome<()> {
        std::fs::remove_dir_all(&self.path)
            .map_err(|e| Failure::io("removing the trial directory", &self.path, e))
    }

    fn failed(&self) -> impl Fn(io::Error) -> Failure + '_ {
        |e| Failure::io("trying things out", &self.path, e)
    }

    fn create(&self, name: &str) -> Outcome<Arc<dyn media::File>> {
        self.raw.create_exclusive(OsStr::new(name), Mode::PRIVATE).map_err(self.failed())
    }

    fn probe(&self, args: &Selfcheck, interrupt: &Interrupt) -> Outcome<Findings> {
        let file = self.create("a")?;
        self.create("b")?;
        let (a, b, c) = (OsStr::new("a"), OsStr::new("b"), OsStr::new("c"));
        let rename = |from, to, how| self.raw.rename(from, &*self.raw, to, how);
        let exchange = Offered::of(rename(a, b, RenameMode::Exchange));
        // `a` exists, so this must fail, and with the right reason.
        let no_replace = match rename(b, a, RenameMode::NoReplace).map_err(|e| Reason::of(&e)) {
            Err(Reason::AlreadyExists) => Offered::Yes,
            Err(reason) => Offered::No(reason),
            Ok(()) => Offered::Broken,
        };
        let features = vec![
            ("file_barrier", "file barrier", Offered::of(file.sync_all())),
            ("directory_barrier", "directory barrier", Offered::of(self.raw.sync())),
            ("rename_replace", "rename: replace", Offered::of(rename(a, a, RenameMode::Replace))),
            ("rename_no_clobber", "rename: no-clobber", no_replace),
            ("rename_exchange", "rename: exchange", exchange),
            ("hard_links", "hard links", Offered::of(self.raw.link(a, c))),
            ("kernel_locks_exclude", "kernel locks exclude", self.locks()?),
            (
                "xattrs",
                "extended attributes",
                Offered::of(file.set_xattr(OsStr::new("user.steadfast"), b"1")),
            ),
        ];
        let name_len_max = self.name_len_max();
        let mount = describe_mount(&self.path);
        let prices = self.prices(args.rounds, interrupt)?;
        let promised = self.dir.replace("promise", b"1").map(|published| published.durability);
        Ok(Findings { features, name_len_max, warnings: warnings(mount.as_ref()), mount, prices, promised })
    }

    fn locks(&self) -> Outcome<Offered> {
        let open = || self.raw.open(OsStr::new("b"), Access::ReadWrite).map_err(self.failed());
        let (first, second) = (open()?, open()?);
        if let Err(e) = first.lock(LockWait::DoNotWait) {
            return Ok(Offered::No(Reason::of(&e)));
        }
        Ok(match second.lock(LockWait::DoNotWait).map_err(|e| Reason::of(&e)) {
            Err(Reason::WouldBlock) => Offered::Yes,
            Ok(()) => Offered::Broken,
            Err(reason) => Offered::No(reason),
        })
    }

    /// The longest name that can be created; by halving, since some file systems stop early.
    fn name_len_max(&self) -> usize {
        let fits = |len: usize| {
            let name = "n".repeat(len);
            let made = self.raw.create_exclusive(OsStr::new(&name), Mode::PRIVATE);
            made.is_ok() && self.raw.unlink(OsStr::new(&name)).is_ok()
        };
        let (mut fitting, mut too_long) = (1, NAME_LEN_MAX + 1);
        while too_long - fitting > 1 {
            let middle = fitting + (too_long - fitting) / 2;
            if fits(middle) { fitting = middle } else { too_long = middle }
        }
        fitting
    }

    fn prices(
        &self,
        rounds: u16,
        interrupt: &Interrupt,
    ) -> Outcome<Vec<(&'static str, &'static str, Price)>> {
        let page = [7_u8; 4096];
        let file = self.create("priced")?;
        let write = |at| file.write_at(at, &page).map(|_| ()).map_err(self.failed());
        let fsync = Price::of(rounds, |index| {
            interrupt.check()?;
            write(u64::from(index) * 4096)?;
            file.sync_all().map_err(self.failed())
        })?;
        let fdatasync = Price::of(rounds, |_| {
            interrupt.check()?;
            write(0)?;
            file.sync_data().map_err(self.failed())
        })?;
        let dirsync = Price::of(rounds, |index| {
            interrupt.check()?;
            let (from, to) = if index % 2 == 0 { ("priced", "priced2") } else { ("priced2", "priced") };
            self.raw
                .rename(OsStr::new(from), &*self.raw, OsStr::new(to), RenameMode::Replace)
                .and_then(|()| self.raw.sync())
                .map_err(self.failed())
        });
        let replace = Price::of(rounds, |_| {
            interrupt.check()?;
            Ok(self.dir.replace("replaced", &page).map(|_| ())?)
        });
        let lock = Price::of(rounds, |_| Ok(self.dir.lock("locked", Wait::DoNotWait)?.unlock()?));
        let mut prices = vec![
            ("fsync", "append 4 KiB + fsync", fsync),
            ("fdatasync", "overwrite 4 KiB + fdatasync", fdatasync),
        ];
        // What the file system does not offer has no price; the features say so.
        for (key, name, price) in [
            ("dirsync", "rename + fsync of the directory", dirsync),
            ("replace", "one durable replace", replace),
            ("lock", "lock + unlock", lock),
        ] {
            match price {
                Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                Err(_) => {}
                Ok(price) => prices.push((key, name, price)),
            }
        }
        Ok(prices)
    }
}

struct Findings {
    mount: Option<MountFacts>,
    /// Key for programs, words for people, answer.
    features: Vec<(&'static str, &'static str, Offered)>,
    name_len_max: usize,
    prices: Vec<(&'static str, &'static str, Price)>,
    warnings: Vec<String>,
    promised: durable_io::Result<Durability>,
}

impl Findings {
    /// Whether a durable replace can be promised here.
    fn holds(&self) -> bool {
        let is_memory = self.mount.as_ref().is_some_and(MountFacts::is_memory);
        self.promised.as_ref().is_ok_and(|reached| reached.is_durable()) && !is_memory
    }

    fn report(&self, dir: &Path, output: &Output) -> Outcome {
        if output.is_json() {
            output.object(true, self.to_json(dir))?;
        } else {
            self.table(dir, output)?;
            for warning in &self.warnings {
                output.warn(warning)?;
            }
            if let Err(error) = &self.promised {
                output.warn(error)?;
            }
        }
        Ok(if self.holds() { Exit::Ok } else { Exit::NotSo })
    }

    fn table(&self, dir: &Path, output: &Output) -> Outcome<()> {
        let verdict = if self.holds() {
            "a durable replace can be promised, as far as the file system keeps its word"
        } else {
            "NO durable replace can be promised"
        };
        output.line(format_args!("{}: {verdict}", dir.display()))?;
        if let Some(mount) = &self.mount {
            let journal = match mount.journal {
                Some(true) => ", with a journal",
                Some(false) => ", WITHOUT a journal",
                None => "",
            };
            output.line(format_args!(
                "  {} on {} at {}{journal} ({})",
                mount.fs_type,
                mount.source,
                mount.mount_point,
                mount.options.join(",")
            ))?;
        }
        output.line("\noffered")?;
        for (_, name, offered) in &self.features {
            output.line(format_args!("  {name:<34}{}", offered.words()))?;
        }
        output.line(format_args!("  {:<34}{} bytes", "longest name", self.name_len_max))?;
        output.line(format_args!("\n{:<36}{:>10}{:>12}", "price", "median", "99 %"))?;
        for (_, name, price) in &self.prices {
            let (median, p99) = (time_words(price.median), time_words(price.p99));
            output.line(format_args!("  {name:<34}{median:>10}{p99:>12}"))?;
        }
        Ok(())
    }

    fn to_json(&self, dir: &Path) -> Value {
        let features: serde_json::Map<_, _> =
            self.features.iter().map(|(key, _, offered)| ((*key).to_owned(), offered.to_json())).collect();
        let prices: serde_json::Map<_, _> =
            self.prices.iter().map(|(key, _, price)| ((*key).to_owned(), price.to_json())).collect();
        let mount = self.mount.as_ref().map(|mount| {
            json!({
                "type": mount.fs_type,
                "source": mount.source,
                "mount_point": mount.mount_point,
                "options": mount.options,
                "journal": mount.journal,
            })
        });
        json!({
            "path": shown(dir),
            "durable_replace": self.holds(),
            "mount": mount,
            "features": features,
            "name_len_max": self.name_len_max,
            "prices": prices,
            "warnings": self.warnings,
        })
    }
}

/// `760 µs`, `1.2 ms`.
pub(super) fn time_words(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    if us < 10.0 {
        format!("{us:.1} µs")
    } else if us < 10_000.0 {
        format!("{us:.0} µs")
    } else {
        format!("{:.1} ms", us / 1e3)
    }
}

fn warnings(mount: Option<&MountFacts>) -> Vec<String> {
    let Some(mount) = mount else {
        return vec!["this platform does not say what kind of file system this is".to_owned()];
    };
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if mount.is_memory() {
        warn("this file system is in memory: nothing on it survives a power cut");
    }
    if mount.fs_type == "overlay" && mount.has_option("volatile") {
        warn("overlayfs mounted `volatile`: fsync does nothing here");
    }
    if mount.has_option("nobarrier") || mount.options.iter().any(|option| option == "barrier=0") {
        warn("mounted without barriers: the device's write cache is not emptied by fsync");
    }
    if mount.is_network() {
        warn(
            "a network file system: what survives is decided by the server, and locks may not exclude its own processes",
        );
    }
    if mount.is_fuse() {
        warn("a FUSE file system: what fsync means is decided by the program behind it");
    }
    if mount.journal == Some(false) {
        warn("no journal: a power cut may damage the file system itself, and fsck decides what is left");
    }
    if mount.fs_type == "btrfs" && !mount.has_option("nodatacow") {
        warn(
            "btrfs copies on write: overwriting a preallocated file is not free of metadata here, so a journal gains less",
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, options: &[&str], journal: Option<bool>) -> MountFacts {
        MountFacts {
            fs_type: fs_type.to_owned(),
            source: "/dev/x".to_owned(),
            mount_point: "/".to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            journal,
        }
    }

    #[test]
    fn every_trap_has_its_warning_and_a_plain_file_system_has_none() {
        let cases: [(MountFacts, &str); 8] = [
            (mount("overlay", &["rw", "volatile"], None), "volatile"),
            (mount("ext4", &["rw", "nobarrier"], Some(true)), "without barriers"),
            (mount("ext4", &["rw", "barrier=0"], Some(true)), "without barriers"),
            (mount("nfs4", &["rw"], None), "network"),
            (mount("fuse.sshfs", &["rw"], None), "FUSE"),
            (mount("ext4", &["rw"], Some(false)), "no journal"),
            (mount("btrfs", &["rw"], Some(true)), "copies on write"),
            (mount("tmpfs", &["rw"], None), "in memory"),
        ];
        for (facts, expected) in cases {
            let found = warnings(Some(&facts));
            assert!(found.iter().any(|text| text.contains(expected)), "{facts:?}: {found:?}");
        }
        assert!(warnings(Some(&mount("ext4", &["rw", "relatime"], Some(true)))).is_empty());
        assert!(warnings(Some(&mount("btrfs", &["rw", "nodatacow"], Some(true)))).is_empty());
        assert_eq!(warnings(None).len(), 1);
    }

    #[test]
    fn a_price_is_the_median_of_its_rounds() {
        let mut calls = 0;
        let price = Price::of(5, |_| {
            calls += 1;
            Ok(())
        });
        assert!(price.unwrap().median < Duration::from_secs(1));
        assert_eq!(calls, 5);
    }
}
