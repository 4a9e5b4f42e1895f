//! [`Log`]: an append-only file of JSON Lines, for one writer or many.
//!
//! Invariants
//! - what was acknowledged (an append that said [`Reached::Durable`], a [`Log::sync`] that returned) is a whole
//!   line of the log, or of one of its rotated files, after any power cut.
//! - nothing is written but under the lock, and nothing is written behind a line that is not whole.
//! - bytes leave the log only into a file beside it that is durable first.
//!
//! The file is JSON Lines: every line one JSON value, ended by `\n`. We append only objects and arrays, because
//! only they show by themselves whether they are whole: `12` may be the torn beginning of `123`.
//!
//! # Open
//! 1. the lock; 2. the file is opened, or created durably (the directory barrier, for whoever took the name away may have
//!    died before theirs; stage, seal, publish); 3. the data barrier and the
//!    directory barrier, because whoever wrote the file may have died before theirs, and an acknowledgement of
//!    ours covers everything ahead of it (not with [`LogSync::None`], which acknowledges nothing: there the first
//!    [`Log::sync`] does both); 4. the tail is looked at and, where it is torn, repaired: **set aside durably, then
//!    cut, then synced**. A power cut between the two leaves the tail in both places; the next open sets it aside
//!    once more and cuts it.
//!
//! # Append
//! 1. the lock; 2. is the name still this file, is its end still where we left it, is its last byte a newline?
//!    Another writer may have rotated it, or died in the middle of a line: then as for open; 3. one write; 4. the
//!    data barrier, which covers the length too (it is needed to read the record back).
//!
//! # What recovery cannot tell
//! A last record that was acknowledged and then damaged by the medium looks like one that was torn. That is one
//! reason why a tail is set aside, reported, and never thrown away.
//!
//! With [`LogSync::Group`] and [`LogSync::None`], several records may be without a barrier when the power fails, and
//! a later one may survive without an earlier one. The earlier one then is a damaged line in front of a whole one:
//! [`Log::check`] finds it; the tail search, which ends at the last whole line, does not.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use media::{Access, FileId, FileKind, Mode, Reason};

use crate::dir::{Dir, Place, inspect, sync_dir};
use crate::error::{Cause, Error, Invalid, Result, Stage, TargetState};
use crate::lock::{Lock, LockOptions, Wait};
use crate::options::{Barriers, Durability, Parents, WriteOptions};
use crate::staged::Publish;

mod check;
mod line;
mod rotate;
mod tail;
mod write;

pub use check::{CheckedTail, DAMAGED_LINES_MAX, DamagedLine, Flaw, LogCheck};

/// The longest record unless the options say otherwise: 1 MiB.
const RECORD_LEN_MAX: u64 = 1 << 20;
/// How long to wait for the lock unless the options say otherwise.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How many rotated files are kept unless the options say otherwise.
const KEEP: u32 = 5;
/// How far back from its end the tail of a log is searched for its last whole line, at least.
const SCAN_LEN: u64 = 16 << 20;

/// How a log is opened and appended to. The default: a barrier per record, many writers, no bound.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// When appended records are made durable.
    pub sync: LogSync,
    /// Who else may append.
    pub writers: Writers,
    /// How long to wait for the lock.
    pub lock_wait: Duration,
    /// The most bytes that the file may have; an append that would exceed it rotates first. All writers of one log
    /// should agree on it.
    pub bytes_max: Option<u64>,
    /// How many rotated files (`<name>.1`, the youngest, to `<name>.<keep>`) are kept.
    pub keep: u32,
    /// The longest record, in bytes without its newline.
    pub record_len_max: u64,
    /// The permission bits of a file that is created, exactly. `None`: `0666` less the umask for a new log; a
    /// rotated log hands its mode on.
    pub mode: Option<Mode>,
    /// What to do where the directory cannot be synced.
    pub barriers: Barriers,
    /// What to do where a parent directory is missing.
    pub parents: Parents,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            sync: LogSync::default(),
            writers: Writers::default(),
            lock_wait: LOCK_WAIT,
            bytes_max: None,
            keep: KEEP,
            record_len_max: RECORD_LEN_MAX,
            mode: None,
            barriers: Barriers::default(),
            parents: Parents::default(),
        }
    }
}

impl LogOptions {
    /// How far back the tail is searched: far enough for a torn record behind a whole one, both of full length.
    fn scan_len_max(&self) -> u64 {
        self.record_len_max.saturating_add(1).saturating_mul(2).max(SCAN_LEN)
    }
}

/// When appended records are made durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogSync {
    /// Before each append returns: one barrier per append.
    #[default]
    EachRecord,
    /// With every so many-th record, at the end of each [`Log::append_group`], and at [`Log::close`].
    Group(NonZeroU32),
    /// Only by [`Log::sync`] (and before a rotation).
    None,
}

/// Who may append to the log while it is open here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writers {
    /// Nobody else: the lock is held as long as the log is open. Whoever removes or cuts the file without the lock is
    /// not noticed.
    One,
    /// Everybody who takes the lock, which is done for each append or group.
    #[default]
    Many,
}

/// How far appended records have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// They survive a power cut, and so does everything ahead of them.
    Durable,
    /// Their bytes do; the name of the log does as far as the file system pleases, for the reason given.
    VisibleOnly(Reason),
    /// Every reader sees them; a power cut may take them, whole or in part.
    NotYetSynced,
}

impl From<Durability> for Reached {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Durable => Self::Durable,
            Durability::VisibleOnly(reason) => Self::VisibleOnly(reason),
        }
    }
}

/// The good outcome of an append.
#[derive(Debug)]
#[must_use = "whether the record is durable is part of the answer"]
pub struct Appended {
    /// Where the (first) record begins in the file that has the log's name now.
    pub offset: u64,
    /// How many bytes were appended, newlines included.
    pub len: u64,
    /// How far they have come.
    pub reached: Reached,
    /// The lock could not be released in the regular way, although everything else succeeded. (It is released by
    /// closing its file all the same.)
    pub lock_failure: Option<Error>,
}

/// What was found at the end of the log, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecovery {
    /// The length of the log afterwards.
    pub len: u64,
    /// Its tail.
    pub tail: Tail,
}

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// The last line is whole, or there is none.
    Clean,
    /// The last line was a whole object or array without newline: it was kept and given one.
    NewlineAdded {
        /// Where that line begins.
        offset: u64,
    },
    /// What followed the last whole line was moved out of the log.
    Torn {
        /// Where it began, which is where the log ends now.
        offset: u64,
        /// How many bytes it had.
        len: u64,
        /// The file that has them now.
        set_aside: PathBuf,
    },
}

/// The file that has, or had, the log's name.
#[derive(Debug)]
struct Current {
    file: Arc<dyn media::File>,
    id: Option<FileId>,
    mode: Mode,
    /// Where it ended when we last looked or wrote: behind a newline, or at 0.
    len: u64,
    /// What the directory barrier reached for its name, once it was issued.
    name: Option<Durability>,
}

/// An append-only file of JSON Lines. See [`Dir::log`].
///
/// Dropping it releases the lock and does nothing else: records that were [`Reached::NotYetSynced`] stay so.
/// [`Log::close`] makes a group durable and reports.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let dir = durable_io::Dir::open(root.path())?;
/// use durable_io::Reached;
///
/// let mut log = dir.log("sessions.jsonl")?;
/// let appended = log.append(br#"{"user":"ada"}"#)?;
/// assert_eq!(appended.reached, Reached::Durable);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Log {
    dir: Dir,
    place: Place,
    options: LogOptions,
    /// Held throughout with [`Writers::One`].
    lock: Option<Lock>,
    /// `None` after a failure that leaves open which file has the name.
    current: Option<Current>,
    /// Records appended here since the last barrier.
    pending_count: u64,
    recovery: LogRecovery,
    poisoned: Option<String>,
}

/// What asks for a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Record,
    Group,
}

impl Dir {
    /// Opens the log `name` for appending, creating it durably where it is missing, and repairs its tail.
    ///
    /// # Durability
    /// On return the name survives a power cut, and so does all that [`Log::recovery`] counts.
    ///
    /// # Errors
    /// As [`Dir::log_with`].
    pub fn log(&self, name: impl AsRef<Path>) -> Result<Log> {
        self.log_with(name, LogOptions::default())
    }

    /// As [`Dir::log`], with options.
    ///
    /// # Durability
    /// As [`Dir::log`]; with [`LogSync::None`] only a file that is created, and a repair, are made durable.
    ///
    /// # Errors
    /// [`Kind::Held`](crate::Kind::Held) by another; [`Invalid::SymlinkRefused`] (under two names a log would have
    /// two locks); [`Kind::Corrupt`](crate::Kind::Corrupt), with the file untouched, where its last 16 MiB (or twice the
    /// longest record) hold no whole line; [`Kind::NoSpace`](crate::Kind::NoSpace) for setting a torn tail aside;
    /// at [`Stage::SyncFile`] or [`Stage::SyncDir`] of the barriers.
    pub fn log_with(&self, name: impl AsRef<Path>, options: LogOptions) -> Result<Log> {
        let place = self.locate(name.as_ref(), options.parents, options.barriers)?;
        let lock = self.lock_place(&place, lock_options(&options))?;
        let mut log = Log {
            dir: self.clone(),
            place,
            options,
            lock: Some(lock),
            current: None,
            pending_count: 0,
            recovery: LogRecovery { len: 0, tail: Tail::Clean },
            poisoned: None,
        };
        log.recovery = log.find(None)?;
        match log.options.writers {
            Writers::One => {}
            Writers::Many => log.lock.take().map_or(Ok(()), Lock::unlock)?,
        }
        Ok(log)
    }
}

impl Log {
    /// What was found at the end of the log when it was opened, or by a later append that found the tail of
    /// another writer torn.
    #[must_use]
    pub fn recovery(&self) -> &LogRecovery {
        &self.recovery
    }

    /// Where the log is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Appends one record: a JSON object or array on one line, without its newline, nested at most 127 deep.
    ///
    /// # Durability
    /// As [`Appended::reached`] says. Readers, who take no lock, may see the record earlier, and part of it; a
    /// power cut before the barrier leaves it whole, absent, or torn, and torn it is set aside at the next open.
    ///
    /// # Errors
    /// [`Invalid::NotARecord`], [`Invalid::TooLong`] (a record that cannot fit into `bytes_max` either). At
    /// [`Stage::Append`] with [`TargetState::Unchanged`] nothing of the record is left in the log. At
    /// [`Stage::SyncFile`] the record is visible and its fate [`TargetState::Unknown`]; the log is poisoned: every
    /// later call is refused, and opening it again shows what is there.
    pub fn append(&mut self, record: &[u8]) -> Result<Appended> {
        self.put(&[record], Ask::Record)
    }

    /// Appends several records under one lock and, unless the options say [`LogSync::None`], with one barrier.
    /// They are written at most 1 MiB at a time, whole records each time. An empty group is a barrier.
    ///
    /// # Durability
    /// As [`Log::append`]. **Not atomic**: a power cut before the barrier may leave some of the records.
    ///
    /// # Errors
    /// As [`Log::append`]. All records are checked before the first is written. Where one cannot be written, those of
    /// this group that were are taken back. The group as a whole must fit into `bytes_max`.
    pub fn append_group<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Appended> {
        self.put(records, Ask::Group)
    }

    /// Makes everything appended so far durable, by whomever.
    ///
    /// # Durability
    /// All of the log on return.
    ///
    /// # Errors
    /// At [`Stage::SyncFile`] or [`Stage::SyncDir`]: the log is poisoned.
    pub fn sync(&mut self) -> Result<Durability> {
        self.refuse_if_poisoned()?;
        self.barrier()
    }

    /// Makes a group that is still open durable ([`LogSync::Group`]) and releases the lock.
    ///
    /// # Durability
    /// As [`Log::sync`] with [`LogSync::Group`]; nothing further with [`LogSync::None`].
    ///
    /// # Errors
    /// As [`Log::sync`]; [`Kind::Poisoned`](crate::Kind::Poisoned) if it was; of releasing the lock.
    pub fn close(mut self) -> Result<()> {
        self.refuse_if_poisoned()?;
        match self.options.sync {
            LogSync::Group(_) if self.pending_count > 0 => {
                self.barrier()?;
            }
            LogSync::Group(_) | LogSync::EachRecord | LogSync::None => {}
        }
        self.lock.take().map_or(Ok(()), Lock::unlock)
    }

    /// Repairs the tail of an existing log as opening it does, and says what was found.
    ///
    /// # Durability
    /// As [`Dir::log`].
    ///
    /// # Errors
    /// As [`Dir::log_with`]; [`Kind::NotFound`](crate::Kind::NotFound): nothing is created.
    pub fn repair(dir: &Dir, name: impl AsRef<Path>, options: LogOptions) -> Result<LogRecovery> {
        let name = name.as_ref();
        let place = dir.locate(name, Parents::MustExist, options.barriers)?;
        // A look for its error; what is there is decided again under the lock.
        place.dir.metadata(&place.name).map_err(|e| Error::os(Stage::Inspect, &place.path, e))?;
        let log = dir.log_with(name, options)?;
        let recovery = log.recovery.clone();
        log.close()?;
        Ok(recovery)
    }

    fn put<R: AsRef<[u8]>>(&mut self, records: &[R], ask: Ask) -> Result<Appended> {
        self.refuse_if_poisoned()?;
        let len = self.check_records(records)?;
        if self.lock.is_none() {
            // Beside the file that is open here, whatever has become of the path that led to it.
            self.lock = Some(self.dir.lock_place(&self.place, lock_options(&self.options))?);
        }
        let outcome = self.put_locked(records, len, ask);
        let lock_failure = match self.options.writers {
            Writers::One => None,
            Writers::Many => self.lock.take().and_then(|lock| lock.unlock().err()),
        };
        match (outcome, lock_failure) {
            (Ok(appended), lock_failure) => Ok(Appended { lock_failure, ..appended }),
            (Err(error), lock_failure) => {
                if let Some(second) = lock_failure {
                    let path = self.place.path.display();
                    tracing::warn!(%path, error = %second, "the lock was not released");
                }
                // A failed barrier ends the conversation, whosever it was: a rotation's, a repair's.
                let is_barrier = matches!(error.stage(), Stage::SyncFile | Stage::SyncDir);
                Err(if is_barrier { self.poison(error) } else { error })
            }
        }
    }

    /// Checks every record and the whole against their bounds, before anything is touched.
    fn check_records<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<u64> {
        let refuse = |why| Err(Error::invalid(&self.place.path, why));
        let mut total = 0_u64;
        for record in records.iter().map(AsRef::as_ref) {
            let (len, len_max) = (len_of(record), self.options.record_len_max);
            if len > len_max {
                return refuse(Invalid::TooLong { len, len_max });
            }
            if !line::is_record(record) {
                return refuse(Invalid::NotARecord);
            }
            total = total.saturating_add(len).saturating_add(1);
        }
        match self.options.bytes_max {
            Some(len_max) if total > len_max => refuse(Invalid::TooLong { len: total, len_max }),
            _ => Ok(total),
        }
    }

    fn put_locked<R: AsRef<[u8]>>(&mut self, records: &[R], len: u64, ask: Ask) -> Result<Appended> {
        self.settle()?;
        let end = self.current()?.len;
        if end > 0 && self.options.bytes_max.is_some_and(|max| end.saturating_add(len) > max) {
            self.rotate()?;
        }
        let path = &self.place.path;
        let current = self.current.as_mut().ok_or_else(|| nothing_open(path))?;
        let offset = current.len;
        if let Err(failed) = write::records(&*current.file, path, offset, records) {
            return Err(self.write_failed(failed));
        }
        current.len = offset.saturating_add(len);
        self.pending_count =
            self.pending_count.saturating_add(u64::try_from(records.len()).unwrap_or(u64::MAX));
        let due = match (self.options.sync, ask) {
            (LogSync::EachRecord, _) | (LogSync::Group(_), Ask::Group) => true,
            (LogSync::Group(count), Ask::Record) => self.pending_count >= u64::from(count.get()),
            (LogSync::None, _) => false,
        };
        let reached = if due { self.barrier()?.into() } else { Reached::NotYetSynced };
        Ok(Appended { offset, len, reached, lock_failure: None })
    }

    /// Under the lock: makes sure that `current` is the file of that name, and that its tail is whole.
    fn settle(&mut self) -> Result<()> {
        let Some(current) = &self.current else { return self.find_again() };
        if self.options.writers == Writers::One {
            return Ok(());
        }
        let len = match self.place.dir.metadata(&self.place.name) {
            Ok(found) if found.id.is_some() && found.id == current.id => found.len,
            Ok(_) => return self.find_again(),
            Err(e) if Reason::of(&e) == Reason::NotFound => return self.find_again(),
            Err(e) => return Err(Error::os(Stage::Inspect, &self.place.path, e)),
        };
        let whole =
            len == current.len && tail::ends_whole(&*current.file, len).map_err(|e| self.read_failed(e))?;
        if whole {
            return Ok(());
        }
        let recovery = self.vet(len)?;
        self.note(recovery);
        Ok(())
    }

    /// Somebody rotated the log, or an earlier call here failed in between.
    fn find_again(&mut self) -> Result<()> {
        if let Some(old) = &self.current
            && self.pending_count > 0
        {
            // Whoever rotated it has synced it, if they went by our rules. Here is the last chance to be sure.
            if let Err(e) = old.file.sync_data() {
                let error = Error::os(Stage::SyncFile, &self.place.path, e).in_state(TargetState::Unknown);
                return Err(self.poison(error));
            }
            old.file.mark("after_fsync");
            self.pending_count = 0;
        }
        self.current = None;
        let recovery = self.find(None)?;
        self.note(recovery);
        Ok(())
    }

    /// Keeps a repair in sight; a look that found nothing to do is no news.
    fn note(&mut self, recovery: LogRecovery) {
        match recovery.tail {
            Tail::Clean => {}
            Tail::NewlineAdded { .. } | Tail::Torn { .. } => self.recovery = recovery,
        }
    }

    /// Opens what has the name, or creates it; issues the barriers that a dead writer may have left out; repairs
    /// the tail. `mode` is for a file that is created in the place of one that was durably moved away.
    fn find(&mut self, mode: Option<Mode>) -> Result<LogRecovery> {
        let existing = inspect(&self.place)?;
        if existing.is_some_and(|found| found.kind == FileKind::Symlink) {
            return Err(Error::invalid(&self.place.path, Invalid::SymlinkRefused));
        }
        let created = match existing {
            Some(_) => None,
            None => {
                if mode.is_none() {
                    // Whoever moved or removed what had the name may have died before their barrier. If a power cut took
                    // their rename back and kept ours, ours would have taken the place of the file that it brought back.
                    sync_dir(&*self.place.dir, &self.place.path, self.options.barriers)
                        .map_err(|error| error.in_state(TargetState::Unchanged))?;
                }
                self.create(mode)?
            }
        };
        self.current = Some(self.open_file(created)?);
        if created.is_some() {
            return Ok(LogRecovery { len: 0, tail: Tail::Clean });
        }
        let recovery = self.adopt();
        if recovery.is_err() {
            self.current = None;
        }
        recovery
    }

    fn adopt(&mut self) -> Result<LogRecovery> {
        match self.options.sync {
            LogSync::EachRecord | LogSync::Group(_) => {
                self.barrier()?;
            }
            LogSync::None => {}
        }
        let len = self.current()?.len;
        self.vet(len)
    }

    /// Creates the file, empty: no mode but its own is ever seen under the name, and the name is durable. `None` if
    /// something has appeared there that takes no lock.
    fn create(&self, mode: Option<Mode>) -> Result<Option<Durability>> {
        match self.publish_empty(mode, Publish::CreateNew) {
            Ok(durability) => Ok(Some(durability)),
            Err(error) if error.stage() == Stage::Rename && error.reason() == Some(Reason::AlreadyExists) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn publish_empty(&self, mode: Option<Mode>, how: Publish) -> Result<Durability> {
        let options = WriteOptions {
            mode: self.options.mode.or(mode),
            barriers: self.options.barriers,
            ..WriteOptions::default()
        };
        let staged = self.dir.stage_at(self.place.clone(), &options)?;
        Ok(staged.seal()?.publish(how)?.durability)
    }

    fn open_file(&self, name: Option<Durability>) -> Result<Current> {
        let fail = |e| Error::os(Stage::Inspect, &self.place.path, e);
        let file = self.place.dir.open(&self.place.name, Access::Append).map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        if found.kind != FileKind::File {
            return Err(Error::invalid(&self.place.path, Invalid::NotARegularFile(found.kind)));
        }
        Ok(Current { file, id: found.id, mode: found.mode, len: found.len, name })
    }

    /// Looks at the tail of a file that is `len` long, and repairs it.
    fn vet(&mut self, len: u64) -> Result<LogRecovery> {
        let scan_len_max = self.options.scan_len_max();
        let current = self.current()?;
        let found = tail::examine(&*current.file, &self.place.path, len, scan_len_max)?;
        let (len, tail) = match found {
            tail::Found::Clean => (len, Tail::Clean),
            tail::Found::Unterminated { offset } => {
                if let Err(failed) = write::newline(&*current.file, &self.place.path, len) {
                    return Err(self.write_failed(failed));
                }
                (len.saturating_add(1), Tail::NewlineAdded { offset })
            }
            tail::Found::Torn { offset, bytes } => {
                let set_aside = self.set_aside(offset, &bytes, current.mode)?;
                if let Err(failed) = write::cut(&*current.file, &self.place.path, len, offset) {
                    return Err(self.write_failed(failed));
                }
                (offset, Tail::Torn { offset, len: len_of(&bytes), set_aside })
            }
        };
        if let Some(current) = &mut self.current {
            current.len = len;
        }
        Ok(LogRecovery { len, tail })
    }

    /// The barrier behind every acknowledgement: the bytes, and once per file its name.
    fn barrier(&mut self) -> Result<Durability> {
        let Some(current) = &mut self.current else { return Ok(self.place.durability) };
        if let Err(e) = current.file.sync_data() {
            let error = Error::os(Stage::SyncFile, &self.place.path, e).in_state(TargetState::Unknown);
            return Err(self.poison(error));
        }
        current.file.mark("after_fsync");
        let name = match current.name {
            Some(reached) => reached,
            None => match sync_dir(&*self.place.dir, &self.place.path, self.options.barriers) {
                Ok(reached) => *current.name.insert(reached),
                Err(error) => return Err(self.poison(error)),
            },
        };
        self.pending_count = 0;
        Ok(self.place.durability.and(name))
    }

    fn current(&self) -> Result<&Current> {
        self.current.as_ref().ok_or_else(|| nothing_open(&self.place.path))
    }

    fn read_failed(&self, e: std::io::Error) -> Error {
        Error::os(Stage::Read, &self.place.path, e)
    }

    /// Where the file could not be brought back to what it was, the conversation is over.
    fn write_failed(&mut self, error: Error) -> Error {
        match error.state() {
            TargetState::Unchanged => error,
            TargetState::ReplacedNotDurable | TargetState::DurableNotVisible | TargetState::Unknown => {
                self.poison(error)
            }
        }
    }

    /// Keeps the first cause.
    fn poison(&mut self, error: Error) -> Error {
        self.poisoned.get_or_insert_with(|| error.to_string());
        error
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        match &self.poisoned {
            None => Ok(()),
            Some(first) => {
                let cause = Cause::Poisoned(first.clone());
                Err(Error::new(Stage::Append, TargetState::Unchanged, &self.place.path, cause))
            }
        }
    }
}

fn lock_options(options: &LogOptions) -> LockOptions {
    LockOptions { wait: Wait::UpTo(options.lock_wait), ..LockOptions::default() }
}

/// Cannot happen after a [`Log::settle`]; an error all the same rather than a panic.
fn nothing_open(path: &Path) -> Error {
    Error::os(Stage::Inspect, path, std::io::ErrorKind::NotFound.into())
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
