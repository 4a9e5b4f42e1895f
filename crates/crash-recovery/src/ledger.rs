//! [`Ledger`]: the journal of intents in its file, and many threads that share its flushes.
//!
//! Whoever commits while nobody else does carries the frame out; whoever commits meanwhile gathers in the next one, and the
//! first of those to look carries that out for all of them. There is no writer thread and no timer.
//!
//! Invariants
//! - transactions get their numbers in the order in which they stand in the journal.
//! - a `done` names a number up to which every transaction was in place, synced and dir-synced when it was given. In the
//!   journal these numbers never go back.
//! - the journal switches regions only while nothing is alive: what is copied is one `done`.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io;

use durable_io::Dir;
use journal::{Access, Journal, JournalError, JournalErrorKind, Limits, Opened, StoreId, Verdict};
use media::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, caught, thread};
use media::{BlockDevice, FileDisk, FileDiskError, Geometry, Reason, RenameMode};

use crate::error::{Error, Result};
use crate::fold::Fold;
use crate::record::{self, ENGINE, Number};

/// The file of the journal.
pub(crate) const JOURNAL: &str = "journal";
/// The same while it is made.
const JOURNAL_NEW: &str = "journal.new";

/// What may ride in front of a batch: a `done`, and names that are being staged.
const RIDERS_LEN_MAX: usize = 1024;

/// A region is switched when it has less room than the largest frame takes, or than this part of it.
const ROOM_SHARE: u64 = 4;

/// The journal of a root, open for writing.
#[derive(Debug)]
pub(crate) struct Ledger<D: BlockDevice = FileDisk> {
    device: Arc<D>,
    state: Mutex<State<D>>,
    commit_len_max: usize,
}

#[derive(Debug)]
struct State<D: BlockDevice> {
    journal: Journal<Arc<D>>,
    next: Number,
    gathering: VecDeque<Gathering>,
    /// Leadership, while no thread has it.
    lead: Option<Lead>,
    /// How many shared the last frame: about as many are about to ask for the next one.
    crowd: usize,
    /// Transactions that have a number and are not in place yet.
    under_way: BTreeSet<Number>,
    /// To be told with the next frame.
    done: Option<Number>,
    /// The greatest `done` that was written. A smaller one that follows it is taken for damage by the next open.
    done_written: Number,
    prepared: Vec<u8>,
    /// Nothing durable has been written since it was found closed.
    looks_closed: bool,
}

#[derive(Debug)]
struct Gathering {
    batch: Arc<Batch>,
    records: Vec<u8>,
    /// How many transactions these are.
    count: usize,
}

/// The right to carry out frames. There is one for each ledger: a thread takes it from the [`State`], and every way out of its
/// work [puts it back](State::end_lead). It is no guard that does so when it is dropped: such a guard would take a lock while
/// its thread unwinds.
#[derive(Debug)]
#[must_use = "leadership that is not passed on leaves all others waiting"]
struct Lead(());

/// Transactions that share a frame.
#[derive(Debug, Default)]
struct Batch {
    /// Taken only under the lock of the state.
    outcome: Mutex<Option<std::result::Result<(), JournalError>>>,
    /// Told when there is an outcome; one of those who wait, when nobody leads and it is this batch's turn. (Not one for all
    /// batches: those who gather for the next frame would be woken by every end of one.)
    told: Condvar,
}

/// What there is in the place of a journal.
pub(crate) enum Found<D: BlockDevice = FileDisk> {
    /// A journal, and what it says.
    Journal { ledger: Box<Ledger<D>>, fold: Fold, was_sealed: bool },
    /// One that cannot be trusted.
    Damaged(String),
}

/// How a journal is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) bytes: u64,
    pub(crate) block_size: u32,
}

/// Whether there is the file of a journal, finished.
pub(crate) fn exists(dir: &Dir) -> Result<bool> {
    match dir.as_media().metadata(OsStr::new(JOURNAL)) {
        Ok(_) => Ok(true),
        Err(e) if Reason::of(&e) == Reason::NotFound => Ok(false),
        Err(e) => Err(Error::os("looking for the journal in", dir.path().display().to_string(), e)),
    }
}

impl Ledger<FileDisk> {
    /// Makes an empty journal. It has its name only when it is whole.
    ///
    /// # Durability
    /// `Ok(None)`: it is there, whole; its name is durable when its directory has been synced. `Some` says why there is no durable
    /// place for it.
    pub(crate) fn create(dir: &Dir, shape: Shape, random: StoreId) -> Result<Option<String>> {
        let at = dir.path().display().to_string();
        match dir.as_media().unlink(OsStr::new(JOURNAL_NEW)) {
            // A process that died while it made one.
            Ok(()) => {}
            Err(e) if Reason::of(&e) == Reason::NotFound => {}
            Err(e) => return Err(Error::os("removing an unfinished journal from", at, e)),
        }
        let blocks = shape.bytes.checked_div(u64::from(shape.block_size)).unwrap_or(0);
        let geometry = Geometry::new(shape.block_size, blocks).map_err(JournalError::from)?;
        let made = FileDisk::create(&**dir.as_media(), OsStr::new(JOURNAL_NEW), geometry);
        let disk = match made {
            Ok(disk) => disk,
            Err(error) if is_no_place(&error) => return Ok(Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        drop(Journal::format(disk, random, Limits::default(), ENGINE)?);
        let media = dir.as_media();
        media
            .rename(OsStr::new(JOURNAL_NEW), &**media, OsStr::new(JOURNAL), RenameMode::Replace)
            .map_err(|e| Error::os("naming the journal in", at, e))?;
        Ok(None)
    }

    /// Opens the journal in `dir` for its one writer, and reads it.
    pub(crate) fn open(dir: &Dir, shape: Shape) -> Result<Found> {
        let at = dir.path().display().to_string();
        let file = dir
            .as_media()
            .open(OsStr::new(JOURNAL), media::Access::ReadWrite)
            .map_err(|e| Error::os("opening the journal in", at, e))?;
        let disk = match FileDisk::open(file, shape.block_size) {
            Err(error @ (FileDiskError::Length { .. } | FileDiskError::NotRegular { .. })) => {
                return Ok(Found::Damaged(error.to_string()));
            }
            outcome => Arc::new(outcome?),
        };
        Self::open_on(disk)
    }
}

impl<D: BlockDevice> Ledger<D> {
    /// Reads the journal of a device, for its one writer.
    pub(crate) fn open_on(disk: Arc<D>) -> Result<Found<D>> {
        let mut fold = Fold::default();
        let mut malformed = None;
        let opened = Journal::open::<JournalError>(Arc::clone(&disk), Access::Write, &mut |frame| {
            if let Err(why) = record::decode(frame.body, &mut |record| fold.take(record)) {
                malformed.get_or_insert_with(|| format!("frame {}: {why}", frame.seq));
            }
            Ok(())
        });
        let Opened { journal, report } = match opened {
            Err(error) if matches!(error.kind(), JournalErrorKind::NotFound | JournalErrorKind::Corrupt) => {
                return Ok(Found::Damaged(error.to_string()));
            }
            outcome => outcome?,
        };
        if journal.engine() != ENGINE {
            return Ok(Found::Damaged("it is not a journal of intents".to_owned()));
        }
        if let Verdict::Damaged { first_lost, last_lost, .. } = report.verdict {
            return Ok(Found::Damaged(format!("frames {first_lost} to {last_lost} are lost")));
        }
        if let Some(why) = malformed {
            return Ok(Found::Damaged(why));
        }
        if let Some(why) = journal.read_only() {
            return Ok(Found::Damaged(why.to_owned()));
        }
        Ok(Found::Journal {
            ledger: Box::new(Self::over(disk, journal, report.was_sealed)),
            fold,
            was_sealed: report.was_sealed,
        })
    }

    fn over(device: Arc<D>, journal: Journal<Arc<D>>, looks_closed: bool) -> Self {
        let layout = *journal.layout();
        // Of an empty region, with the copied `done` and the record of an open.
        let blocks = usize::try_from(layout.usable_blocks().saturating_sub(2)).unwrap_or(usize::MAX);
        let body_len_max = layout.body_len_max().min(layout.payload_len().saturating_mul(blocks));
        let state = State {
            journal,
            next: 1,
            gathering: VecDeque::new(),
            lead: Some(Lead(())),
            crowd: 1,
            under_way: BTreeSet::new(),
            done: None,
            done_written: 0,
            prepared: Vec::new(),
            looks_closed,
        };
        let commit_len_max = body_len_max.saturating_sub(RIDERS_LEN_MAX.min(body_len_max / 4));
        Self { device, state: Mutex::new(state), commit_len_max }
    }

    /// Everything up to this number was given before.
    pub(crate) fn continue_after(&self, last: Number) {
        self.lock().next = last.saturating_add(1);
    }

    /// The longest record of a commit.
    pub(crate) fn commit_len_max(&self) -> usize {
        self.commit_len_max
    }

    /// What a thread that panicked may have left half changed is the journal, which takes nothing more then.
    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the journal call the device while the lock is held. Commits do not: a frame is carried out without the lock.
    ///
    /// # Panics
    /// The device did: then the journal takes nothing more. No leader calls it: leadership would be lost.
    fn with_device<T>(&self, act: impl FnOnce(&mut State<D>) -> T) -> T {
        let mut state = self.lock();
        match caught(|| act(&mut state)) {
            Ok(value) => value,
            Err(panic) => {
                state.journal.fail_after_panic();
                drop(state);
                panic.resume()
            }
        }
    }

    /// Writes a commit, with those that others write at the same time, and makes it durable. Its number, under which it stays
    /// [under way](Ledger::in_place).
    ///
    /// # Durability
    /// `Ok` is the commit point: recovery carries it out.
    ///
    /// # Errors
    /// `Full`: nothing was written; switch and ask again. Another [refusal](is_refusal): nothing was written. Anything else, and
    /// whether it is found after a crash is unknown.
    pub(crate) fn commit(&self, mut record: Vec<u8>) -> std::result::Result<Number, JournalError> {
        let mut state = self.lock();
        let number = state.next;
        state.next = number.checked_add(1).ok_or(JournalError::NumbersUsedUp)?;
        record::number(&mut record, number);
        state.under_way.insert(number);
        let batch = state.gather(record, self.commit_len_max);
        loop {
            if let Some(outcome) = batch.answer() {
                if outcome.as_ref().is_err_and(is_refusal) {
                    state.under_way.remove(&number);
                }
                return outcome.map(|()| number);
            }
            state = match state.lead.take() {
                Some(lead) => self.lead(lead, state),
                None => batch.told.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Carries out the first batch that waits, and passes leadership on.
    fn lead<'s>(&'s self, lead: Lead, state: MutexGuard<'s, State<D>>) -> MutexGuard<'s, State<D>> {
        let mut state = self.gather_crowd(state);
        let Some(Gathering { batch, records, count }) = state.gathering.pop_front() else {
            // The batch of this thread has no outcome, so it waits here.
            state.lead = Some(lead);
            return state;
        };
        state.crowd = count;
        let outgoing = match state.begin(&records) {
            Ok(outgoing) => outgoing,
            Err(error) => {
                state.end_lead(lead, &batch, Err(error));
                return state;
            }
        };
        drop(state);
        let carried_out = caught(|| outgoing.carry_out(&*self.device));
        state = self.lock();
        match carried_out {
            Ok(outcome) => {
                let outcome = state.journal.end_commit(outgoing, outcome).map(drop);
                state.end_lead(lead, &batch, outcome);
                state
            }
            Err(panic) => {
                state.journal.fail_after_panic();
                state.end_lead(lead, &batch, Err(abandoned()));
                drop(state);
                panic.resume()
            }
        }
    }

    /// Lets those run who are about to ask: whoever shared the last frame was woken by its end, and is on the way here with
    /// its next change. Nobody is waited for: it ends when a round has brought nobody. (With 32 threads, frames of 12 instead
    /// of 8 changes.)
    fn gather_crowd<'s>(&'s self, mut state: MutexGuard<'s, State<D>>) -> MutexGuard<'s, State<D>> {
        let mut before = 0;
        loop {
            let now = state.gathering.front().map_or(0, |first| first.count);
            if now >= state.crowd || now == before {
                return state;
            }
            before = now;
            drop(state);
            thread::yield_now();
            state = self.lock();
        }
    }

    /// Adds names to those that are being staged. It is told with the next frame, and says no more than where to look: where
    /// there is no room for it, it is left out.
    pub(crate) fn tell_prepared(&self, record: &[u8]) {
        let mut state = self.lock();
        if state.prepared.len() + record.len() + record::encode_done(0).len()
            <= RIDERS_LEN_MAX.min(self.commit_len_max / 4)
        {
            state.prepared.extend_from_slice(record);
        }
    }

    /// Writes, without a barrier, that names are being staged.
    pub(crate) fn write_prepared(&self, record: &[u8]) -> Result<()> {
        match self.with_device(|state| state.journal.write(record)) {
            Ok(_) => Ok(()),
            // It is a help to recovery, and not needed by it.
            Err(
                JournalError::Full { .. } | JournalError::Outgoing { .. } | JournalError::FrameTooLong { .. },
            ) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the journal still ends, on the medium, as one that was closed.
    pub(crate) fn looks_closed(&self) -> bool {
        self.lock().looks_closed
    }

    /// Writes, durably, that names are being staged, so that a journal that was closed no longer looks so. The caller knows
    /// that nobody commits meanwhile.
    ///
    /// # Errors
    /// `Full`: it looks as before; switch. Of the journal.
    pub(crate) fn unseal(&self, record: &[u8]) -> std::result::Result<(), JournalError> {
        self.with_device(|state| {
            let _durable = state.journal.commit(record)?;
            state.looks_closed = false;
            Ok(())
        })
    }

    /// This transaction is in place, or has failed before its commit.
    pub(crate) fn in_place(&self, number: Number) {
        self.lock().under_way.remove(&number);
    }

    /// Every transaction up to this number is in place.
    pub(crate) fn in_place_up_to(&self) -> Number {
        let state = self.lock();
        state.under_way.first().map_or(state.next, |first| *first).saturating_sub(1)
    }

    /// Tells, with the next frame, that everything up to this number is complete.
    pub(crate) fn tell_done(&self, up_to: Number) {
        let mut state = self.lock();
        // Another thread may have said more since this one counted.
        if up_to >= state.done_written {
            state.done = state.done.max(Some(up_to));
        }
    }

    /// Writes down, durably, that everything up to this number is complete. The caller knows that nobody commits meanwhile.
    ///
    /// # Errors
    /// Of the journal. What is complete stays so, and is carried out once more at the next open.
    pub(crate) fn settle(&self, up_to: Number) -> Result<()> {
        self.with_device(|state| {
            state.done = None;
            let up_to = up_to.max(state.done_written);
            match state.journal.commit(&record::encode_done(up_to)) {
                Ok(_durable) => {
                    state.done_written = up_to;
                    Ok(())
                }
                Err(JournalError::Full { .. }) => state.restart(up_to),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Whether it is time to switch regions.
    pub(crate) fn is_nearly_full(&self) -> bool {
        let state = self.lock();
        let layout = state.journal.layout();
        let frame = u64::from(layout.limits().frame_blocks_max);
        state.journal.room() < frame.min(layout.region_blocks() / ROOM_SHARE)
    }

    /// Whether several shared the last frame.
    pub(crate) fn is_crowded(&self) -> bool {
        self.lock().crowd > 1
    }

    /// Whether a commit whose record is so long can be written now.
    pub(crate) fn has_room_for(&self, record_len: usize) -> bool {
        let state = self.lock();
        state.journal.room() >= state.journal.layout().blocks_of(record_len.saturating_add(RIDERS_LEN_MAX))
    }

    /// Switches regions. The caller knows that everything that was committed is complete, and that nobody commits meanwhile.
    ///
    /// # Errors
    /// Of the journal; [`Error::Poisoned`] where a thread did not come back between its commit and its names: that commit is
    /// still needed.
    pub(crate) fn restart(&self) -> Result<()> {
        self.with_device(|state| {
            if !state.under_way.is_empty() {
                return Err(Error::Poisoned {
                    first: "a transaction was committed and not put in place".to_owned(),
                });
            }
            let last = state.next.saturating_sub(1);
            state.restart(last)
        })
    }

    /// Seals the journal: a clean end. The caller knows that nobody commits any more.
    pub(crate) fn close(&self) -> Result<()> {
        self.with_device(|state| {
            if let Some(up_to) = state.done.take() {
                match state.journal.write(&record::encode_done(up_to)) {
                    Ok(_) => state.done_written = up_to,
                    Err(JournalError::Full { .. }) => state.restart(up_to)?,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(state.journal.seal_for_good()?)
        })
    }

    /// Who the journal is.
    pub(crate) fn store_id(&self) -> StoreId {
        self.lock().journal.store_id()
    }

    /// What the journal has done.
    pub(crate) fn stats(&self) -> journal::Stats {
        self.lock().journal.stats()
    }
}

/// Whether an answer to a commit says that nothing was written.
pub(crate) fn is_refusal(error: &JournalError) -> bool {
    use JournalError::{FrameTooLong, Full, NoMemory, NumbersUsedUp};
    matches!(error, Full { .. } | FrameTooLong { .. } | NoMemory { .. } | NumbersUsedUp)
}

impl Batch {
    fn answer(&self) -> Option<std::result::Result<(), JournalError>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<D: BlockDevice> State<D> {
    /// Puts a record into the last batch, if it has room, or into a new one.
    fn gather(&mut self, record: Vec<u8>, len_max: usize) -> Arc<Batch> {
        if let Some(last) = self.gathering.back_mut()
            && last.records.len() + record.len() <= len_max
        {
            last.records.extend_from_slice(&record);
            last.count += 1;
            return Arc::clone(&last.batch);
        }
        let batch = Arc::<Batch>::default();
        self.gathering.push_back(Gathering { batch: Arc::clone(&batch), records: record, count: 1 });
        batch
    }

    /// A batch has its outcome, and the next one its turn.
    fn end_lead(&mut self, lead: Lead, batch: &Batch, outcome: std::result::Result<(), JournalError>) {
        // No other thread sets it: the batch was taken out of the queue.
        *batch.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.lead = Some(lead);
        batch.told.notify_all();
        if let Some(next) = self.gathering.front() {
            next.batch.told.notify_one();
        }
    }

    /// Begins a frame of these records, with what rides in front of them.
    fn begin(&mut self, records: &[u8]) -> std::result::Result<journal::Outgoing, JournalError> {
        let mut body = self.done.map(record::encode_done).unwrap_or_default();
        body.extend_from_slice(&self.prepared);
        body.extend_from_slice(records);
        let outgoing = self.journal.begin_commit(&body)?;
        self.done_written = self.done.take().unwrap_or(self.done_written);
        self.prepared.clear();
        Ok(outgoing)
    }

    fn restart(&mut self, done: Number) -> Result<()> {
        self.journal.begin_copy()?;
        let done = done.max(self.done_written);
        self.journal.copy(&record::encode_done(done))?;
        let _switched = self.journal.finish_copy()?;
        self.done = None;
        self.done_written = done;
        self.looks_closed = false;
        Ok(())
    }
}

fn abandoned() -> JournalError {
    let cause = io::Error::other("a thread that carried out a frame did not come back");
    JournalError::Device(media::DeviceError::FlushFailed { cause: cause.into() })
}

/// Whether a disk could not be made because this place keeps nothing.
fn is_no_place(error: &FileDiskError) -> bool {
    use media::CreateStep::{AsDisk, Name, Reserve, SyncDir, SyncFile, Zero};
    match error {
        FileDiskError::Create { step, cause, .. } => match step {
            SyncFile | SyncDir => cause.reason().means_barrier_unsupported(),
            Name | Reserve | Zero | AsDisk => false,
        },
        FileDiskError::Open { .. }
        | FileDiskError::NotRegular { .. }
        | FileDiskError::Length { .. }
        | FileDiskError::BlockSize { .. }
        | FileDiskError::Link
        | FileDiskError::Held { .. }
        | FileDiskError::NoBlockSize { .. }
        | FileDiskError::Refused { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use media::MemDisk;

    use super::*;
    use crate::path::TreePath;
    use crate::record::{Before, Operation, What};

    fn open(disk: &Arc<MemDisk>) -> (Box<Ledger<MemDisk>>, Fold) {
        match Ledger::open_on(Arc::clone(disk)).unwrap() {
            Found::Journal { ledger, fold, .. } => (ledger, fold),
            Found::Damaged(why) => panic!("{why}"),
        }
    }

    fn commit(ledger: &Ledger<MemDisk>, name: &str) -> Number {
        let path = TreePath::parse(name).unwrap();
        let removal = Operation { path, before: Before::NotRecorded, what: What::Absent };
        let number = ledger.commit(record::encode_commit(&[removal])).unwrap();
        ledger.in_place(number);
        number
    }

    /// Found by exploring schedules: a thread counts, another commits and says more, then the first one says less.
    #[test]
    fn what_is_complete_never_goes_back_whichever_thread_says_it_last() {
        let disk = Arc::new(MemDisk::new(Geometry::new(512, 128).unwrap()).unwrap());
        drop(Journal::format(Arc::clone(&disk), StoreId([7; 16]), Limits::default(), ENGINE).unwrap());
        let (ledger, _) = open(&disk);
        let early = commit(&ledger, "a");
        ledger.tell_done(commit(&ledger, "b"));
        commit(&ledger, "c");
        ledger.tell_done(early);
        commit(&ledger, "d");
        ledger.settle(early).unwrap();
        ledger.close().unwrap();
        let (_, fold) = open(&disk);
        let plan = fold.finish::<()>(&mut |_| Err(())).unwrap();
        assert!(!plan.is_contradictory);
        assert_eq!((plan.transactions, plan.last), (2, 4), "c and d are not known to be complete");
    }
}
