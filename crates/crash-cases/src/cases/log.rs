//! The log: what was acknowledged is a whole line, in order, and nothing that was in it is ever lost.

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use crashsim::{Atom, Cell, Class, Expected, Operation, Run, Value, Verdict};
use durable_io::{Log, LogOptions, LogSync, Mode, Writers};

use super::case::{Before, Ended, is_lock};
use crate::site::{FileCase, Site, judge, sweep_all};

pub(super) const LOG: &str = "log";
/// The record of a program that starts again; numbers of all others are smaller.
const AFTER: u32 = 9;
/// The cell of the mode of the log.
const MODE: &str = "mode";
/// The cell of bytes that are no record and must not be lost.
const TORN: &str = "torn";
/// The cell of a repair: settled once it was acknowledged.
const REPAIRED: &str = "repaired";
/// What a writer left that died in the middle of a line.
const HALF: &[u8] = b"{\"n\":7,\"half";

/// A log that is written, lost power, opened and written again.
pub(super) struct LogCase {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) options: fn() -> LogOptions,
    pub(super) prepare: fn(&Site<'_>, &LogOptions) -> Before,
    pub(super) run: fn(&Site<'_>, &LogOptions) -> Result<(), Ended>,
    pub(super) again: Again,
    pub(super) gaps: Gaps,
}

/// What a program does with its log when it starts again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It opens the log and goes on.
    GoesOn,
    /// It is never started again: what is there is looked at as it is.
    Never,
}

/// Whether a line may be damaged in front of whole ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    /// No: there is a barrier behind every record.
    None,
    /// Yes, where it was not acknowledged.
    MayBe,
}

impl LogCase {
    pub(super) const fn new(
        name: &'static str,
        about: &'static str,
        options: fn() -> LogOptions,
        prepare: fn(&Site<'_>, &LogOptions) -> Before,
        run: fn(&Site<'_>, &LogOptions) -> Result<(), Ended>,
    ) -> Self {
        Self { name, about, options, prepare, run, again: Again::GoesOn, gaps: Gaps::None }
    }
}

/// Ours, but for the waiting: nobody is there to wait for.
pub(super) fn plain() -> LogOptions {
    LogOptions { lock_wait: Duration::from_millis(50), ..LogOptions::default() }
}

pub(super) fn grouped() -> LogOptions {
    LogOptions { sync: LogSync::Group(NonZeroU32::MIN.saturating_add(9)), ..plain() }
}

/// Wider than the umask leaves it: the mode is set after the birth.
pub(super) const WIDE: Mode = Mode::new(0o664);

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    let new = LogCase::new;
    let mut cases = super::case::boxed([
        new("log-new", "append to a log that is not there yet", wide, empty, two_appends),
        new("log-old", "append to a log that has two records", plain, two_records, |site, options| {
            let mut log = open(site, options)?;
            append(site, &mut log, 3)?;
            append(site, &mut log, 4)
        }),
        new("log-long", "append a record of several sectors", plain, two_records, |site, options| {
            let mut log = open(site, options)?;
            append(site, &mut log, 8)
        }),
        new("log-one-writer", "append as the only writer", one_writer, two_records, |site, options| {
            let mut log = open(site, options)?;
            append(site, &mut log, 3)?;
            site.perform(Operation::new("close", Vec::new()), || log.close())?;
            Ok(())
        }),
        new("log-group", "append three records as a group", plain, two_records, |site, options| {
            let mut log = open(site, options)?;
            let records = [3, 4, 5].map(record);
            drop(site.perform(of_records("append 3, 4, 5", &[3, 4, 5]), || log.append_group(&records))?);
            Ok(())
        })
        .with_gaps(),
        new("log-group-sync", "append two records and sync them together", grouped, empty, two_then_close)
            .with_gaps(),
        new(
            "log-no-sync",
            "append without barriers to a foreign log, then sync",
            unsynced,
            empty,
            sync_foreign,
        )
        .with_gaps(),
        new(
            "log-foreign",
            "open a log that somebody wrote without barriers",
            plain,
            empty,
            |site, options| {
                site.announce(of_records("record 1 is written without barriers", &[1]));
                site.scribble(LOG, &line(1))?;
                let mut log = open(site, options)?;
                append(site, &mut log, 2)
            },
        )
        .with_gaps(),
        new("log-moved", "the log is moved away under an open group", grouped, empty, moved_away).with_gaps(),
        new(
            "log-gone",
            "the log was moved away without a barrier before it is opened",
            plain,
            two_records,
            gone,
        ),
        new(
            "log-gone-later",
            "the log is moved away without a barrier while it is open",
            plain,
            two_records,
            |site, options| {
                let mut log = open(site, options)?;
                site.move_file(LOG, "log.1")?;
                append(site, &mut log, 3)
            },
        ),
    ]);
    cases.extend(super::case::boxed(repairs()));
    cases
}

/// Logs that end in the middle of a line, and what becomes of that.
fn repairs() -> [LogCase; 4] {
    let new = LogCase::new;
    [
        new(
            "log-torn",
            "open a log whose last writer died in the middle of a line",
            plain,
            torn,
            |site, options| {
                let mut log = open(site, options)?;
                append(site, &mut log, 3)
            },
        ),
        LogCase {
            again: Again::Never,
            ..new("log-repair", "repair a torn log", plain, torn, |site, options| repair(site, options, &[]))
        },
        LogCase {
            again: Again::Never,
            ..new(
                "log-newline",
                "repair a log that lacks its last newline",
                plain,
                unfinished,
                |site, options| repair(site, options, &[1]),
            )
        },
        new("log-torn-later", "another writer dies in the middle of a line", plain, two_records, torn_later),
    ]
}

impl LogCase {
    fn with_gaps(self) -> Self {
        Self { gaps: Gaps::MayBe, ..self }
    }
}

fn wide() -> LogOptions {
    LogOptions { mode: Some(WIDE), ..plain() }
}

fn one_writer() -> LogOptions {
    LogOptions { writers: Writers::One, ..plain() }
}

fn unsynced() -> LogOptions {
    LogOptions { sync: LogSync::None, ..plain() }
}

/// A record; those from 8 on fill more than one sector.
pub(super) fn record(number: u32) -> Vec<u8> {
    let filler = if number == 8 { "x".repeat(600) } else { String::new() };
    format!("{{\"n\":{number},\"x\":\"{filler}\"}}").into_bytes()
}

fn line(number: u32) -> Vec<u8> {
    [record(number), b"\n".to_vec()].concat()
}

pub(super) fn cell(number: u32) -> Cell {
    format!("record {number}").into()
}

/// What an opening has found is durable from then on. In words of its own: that it was found must not excuse a record that
/// is not to be there.
pub(super) fn seen_cell(number: u32) -> Cell {
    format!("seen {number}").into()
}

fn whole(number: u32) -> Option<Value> {
    Some(Value::bytes(&record(number)))
}

pub(super) fn atom(number: u32) -> Atom {
    vec![(cell(number), whole(number))]
}

fn mode_of(options: &LogOptions) -> Option<Value> {
    Some(Value::bytes(options.mode.unwrap_or(Mode::new(0o644)).to_string().as_bytes()))
}

pub(super) fn of_records(label: &str, numbers: &[u32]) -> Operation {
    Operation::new(label, numbers.iter().map(|&number| atom(number)).collect())
}

fn empty(_site: &Site<'_>, options: &LogOptions) -> Before {
    Ok(vec![(MODE.into(), mode_of(options))])
}

/// Records 1 and 2, acknowledged.
pub(super) fn two_records(site: &Site<'_>, options: &LogOptions) -> Before {
    let mut log = site.dir()?.log_with(LOG, options.clone())?;
    for number in [1, 2] {
        drop(log.append(&record(number))?);
    }
    let mut cells = empty(site, options)?;
    cells.extend([(cell(1), whole(1)), (cell(2), whole(2))]);
    Ok(cells)
}

fn torn(site: &Site<'_>, options: &LogOptions) -> Before {
    let mut cells = two_records(site, options)?;
    site.scribble(LOG, HALF)?;
    cells.push((TORN.into(), Some(Value::bytes(HALF))));
    Ok(cells)
}

fn unfinished(site: &Site<'_>, options: &LogOptions) -> Before {
    site.scribble(LOG, &record(1))?;
    let mut cells = empty(site, options)?;
    cells.push((cell(1), whole(1)));
    Ok(cells)
}

/// Opens the log. What has its name is durable then, whoever wrote it (but where nothing is acknowledged).
pub(super) fn open(site: &Site<'_>, options: &LogOptions) -> Result<Log, Ended> {
    let seen = match options.sync {
        LogSync::EachRecord | LogSync::Group(_) => Found::read(site)?.numbers(LOG),
        LogSync::None => Vec::new(),
    };
    let atoms = seen.into_iter().map(|number| vec![(seen_cell(number), whole(number))]).collect();
    let operation = Operation::new("open the log", atoms);
    Ok(site.perform(operation, || site.dir()?.log_with(LOG, options.clone()))?)
}

pub(super) fn append(site: &Site<'_>, log: &mut Log, number: u32) -> Result<(), Ended> {
    let operation = of_records(&format!("append {number}"), &[number]);
    drop(site.perform(operation, || log.append(&record(number)))?);
    Ok(())
}

fn two_appends(site: &Site<'_>, options: &LogOptions) -> Result<(), Ended> {
    let mut log = open(site, options)?;
    append(site, &mut log, 1)?;
    append(site, &mut log, 2)
}

fn two_then_close(site: &Site<'_>, options: &LogOptions) -> Result<(), Ended> {
    let mut log = open(site, options)?;
    append(site, &mut log, 1)?;
    append(site, &mut log, 2)?;
    site.perform(of_records("close", &[1, 2]), || log.close())?;
    Ok(())
}

fn sync_foreign(site: &Site<'_>, options: &LogOptions) -> Result<(), Ended> {
    site.announce(of_records("record 1 is written without barriers", &[1]));
    site.scribble(LOG, &line(1))?;
    let mut log = site.dir()?.log_with(LOG, options.clone())?;
    append(site, &mut log, 2)?;
    site.perform(of_records("sync", &[1, 2]), || log.sync())?;
    Ok(())
}

/// Somebody moves the log aside and syncs nothing: the records that are on their way must not be forgotten.
fn moved_away(site: &Site<'_>, options: &LogOptions) -> Result<(), Ended> {
    let mut log = open(site, options)?;
    append(site, &mut log, 1)?;
    site.move_file(LOG, "log.1")?;
    append(site, &mut log, 2)?;
    site.perform(of_records("close", &[1, 2]), || log.close())?;
    Ok(())
}

/// Its process died, say, before the barrier of a rotation.
fn gone(site: &Site<'_>, options: &LogOptions) -> Result<(), Ended> {
    site.move_file(LOG, "log.1")?;
    let mut log = open(site, options)?;
    append(site, &mut log, 3)
}

fn repair(site: &Site<'_>, options: &LogOptions, whole_ones: &[u32]) -> Result<(), Ended> {
    let mut atoms: Vec<Atom> = whole_ones.iter().map(|&number| atom(number)).collect();
    atoms.push(vec![(REPAIRED.into(), Some(Value::bytes(b"clean")))]);
    site.perform(Operation::new("repair", atoms), || Log::repair(&site.dir()?, LOG, options.clone()))?;
    Ok(())
}

/// The next append of an open log finds the half line of another writer.
fn torn_later(site: &Site<'_>, options: &LogOptions) -> Result<(), Ended> {
    let mut log = open(site, options)?;
    site.announce(Operation::one("another writer dies", TORN, Some(Value::bytes(HALF))));
    site.scribble(LOG, HALF)?;
    let atoms = vec![atom(3)];
    drop(site.perform(Operation::new("append 3", atoms), || log.append(&record(3)))?);
    Ok(())
}

/// What is in a log and in what was moved out of it.
pub(super) struct Found {
    /// Files of the log that are there, oldest first, with their bytes.
    files: Vec<(String, Vec<u8>)>,
    /// What was set aside.
    aside: Vec<Vec<u8>>,
    mode: Option<Value>,
}

impl Found {
    pub(super) fn read(site: &Site<'_>) -> io::Result<Self> {
        let mut files = Vec::new();
        for name in ["log.4", "log.3", "log.2", "log.1", LOG] {
            if let Some(value) = site.look(name)? {
                files.push((name.to_owned(), value.bytes.to_vec()));
            }
        }
        let mut aside = Vec::new();
        for name in site.names()?.into_iter().filter(|name| name.starts_with("log.torn-")) {
            aside.extend(site.look(&name)?.map(|value| value.bytes.to_vec()));
        }
        let mode = site.look(LOG)?.map(|value| Value::bytes(value.facts.as_bytes()));
        Ok(Self { files, aside, mode })
    }

    /// Every line, oldest first, with its number if it is whole.
    fn lines(&self, of: &str) -> Vec<(Option<u32>, &[u8])> {
        let files = self.files.iter().filter(|(name, _)| of.is_empty() || name == of);
        let lines = files.flat_map(|(_, bytes)| bytes.split_inclusive(|&byte| byte == b'\n'));
        // The last line may lack its newline: a whole record shows by itself that it is one.
        let number = |bytes: &[u8]| {
            let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            (1..=AFTER + 20).find(|&number| record(number) == bytes)
        };
        lines.map(|bytes| (number(bytes), bytes)).collect()
    }

    /// The records of one file, or of all for an empty name.
    pub(super) fn numbers(&self, of: &str) -> Vec<u32> {
        self.lines(of).into_iter().filter_map(|(number, _)| number).collect()
    }

    /// The length of the log itself.
    pub(super) fn len(&self) -> usize {
        self.files.iter().find(|(name, _)| name == LOG).map_or(0, |(_, bytes)| bytes.len())
    }

    pub(super) fn has(&self, file: &str) -> bool {
        self.files.iter().any(|(name, _)| name == file)
    }

    fn is_clean(&self) -> bool {
        let log = self.files.iter().find(|(name, _)| name == LOG);
        log.is_some_and(|(_, bytes)| bytes.ends_with(b"\n"))
            && self.lines(LOG).iter().all(|(number, _)| number.is_some())
    }

    /// Whether these bytes are still somewhere: at the end of a log, or set aside.
    fn keeps(&self, bytes: &[u8]) -> bool {
        self.aside.iter().any(|aside| aside == bytes)
            || self.files.iter().any(|(_, have)| have.ends_with(bytes))
    }
}

impl FileCase for LogCase {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        (self.prepare)(site, &(self.options)()).map_err(|Ended(why)| why)
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        drop((self.run)(site, &(self.options)()));
    }

    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        if self.again == Again::Never {
            return Ok(());
        }
        sweep_all(site)?;
        self.go_on(site).map_err(|Ended(why)| why)
    }

    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        match Found::read(site) {
            Ok(found) => self.judge(site, expected, &found),
            Err(error) => Verdict::broken(Class::CannotOpen, format!("the log cannot be read: {error}")),
        }
    }
}

impl LogCase {
    /// Opens the log and appends one more record, once.
    fn go_on(&self, site: &Site<'_>) -> Result<(), Ended> {
        let options = (self.options)();
        let mut log = open(site, &options)?;
        if Found::read(site)?.numbers("").contains(&AFTER) {
            return Ok(());
        }
        super::rotate::append(site, &mut log, &options, AFTER)?;
        site.perform(of_records("sync", &[AFTER]), || log.sync())?;
        Ok(())
    }

    fn judge(&self, site: &Site<'_>, expected: &Expected, found: &Found) -> Verdict {
        let numbers = found.numbers("");
        let lines = found.lines("");
        let owns = |name: &str| {
            let is_temp = self.again == Again::Never && name.ends_with(".tmp");
            is_temp || is_lock(name) || name.starts_with("log.torn-") || found.has(name)
        };
        let verdict = judge(site, expected, &owns, &|cell: &str| {
            let value = match cell {
                // Only what is there has a mode.
                MODE if found.mode.is_none() => expected.allowed(MODE).into_iter().next().flatten(),
                MODE => found.mode.clone(),
                TORN if found.keeps(HALF) => Some(Value::bytes(HALF)),
                TORN => None,
                REPAIRED if found.is_clean() || expected.allowed(REPAIRED).len() > 1 => {
                    expected.allowed(REPAIRED).into_iter().last().flatten()
                }
                REPAIRED => None,
                _ => (1..=AFTER).find(|&n| *cell == *self::cell(n) || *cell == *seen_cell(n)).and_then(
                    |number| {
                        let is_it = |(found, bytes): &(Option<u32>, &[u8])| {
                            // The newline that it lacks may have left nothing but its length.
                            let is_cut = self.again == Again::Never && bytes.starts_with(&record(number));
                            *found == Some(number) || is_cut
                        };
                        lines.iter().any(is_it).then(|| whole(number)).flatten()
                    },
                ),
            };
            Ok(value)
        });
        if numbers.windows(2).any(|pair| matches!(pair, [one, next] if one >= next)) {
            return verdict.worse(Verdict::broken(Class::Mix, format!("the records are {numbers:?}")));
        }
        if let Some(stranger) = numbers.iter().find(|&&number| expected.allowed(&cell(number)).is_empty()) {
            let why = format!("record {stranger} is there, and nobody has begun to write it");
            return verdict.worse(Verdict::broken(Class::Stranger, why));
        }
        let is_repaired = self.again == Again::GoesOn && self.gaps == Gaps::None;
        match lines.iter().find(|(number, _)| number.is_none()) {
            Some((_, bytes)) if is_repaired => {
                let start: Vec<u8> = bytes.iter().copied().take(24).collect();
                let why = format!("a line is no record: {}", String::from_utf8_lossy(&start));
                verdict.worse(Verdict::broken(Class::Mix, why))
            }
            _ => verdict,
        }
    }
}
