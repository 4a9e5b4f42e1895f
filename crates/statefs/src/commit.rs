//! From records to a durable frame: what is asked for is taken into the frame that is gathered, the frame is begun, carried
//! out and ended, and what it says is shown to readers.
//!
//! A store with one owner does these steps in one call. Between threads they are separate, so that one thread gathers the
//! next frame while another one makes the last one durable: see `shared.rs`.
//!
//! Invariants
//! - a frame begins with what was buffered, which readers see already; the rest is shown when the frame is durable.
//! - frames are shown in order, and what is asked meanwhile is judged by what will be so when they have been.
//! - memory for showing is had before anything is written.

use core::iter;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use journal::{JournalError, Outgoing};
use media::{BlockDevice, DeviceError};

use crate::batch::Precondition;
use crate::changes::Ring;
use crate::error::Error;
use crate::index::{Found, Reserved, Totals};
use crate::key::Key;
use crate::record::{RECORDS_MAX, Record, Revision};
use crate::store::{Idle, Store};
use crate::write::records;

/// Whether there is room for records in the frame that is gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// There is.
    Fits,
    /// Not before what is gathered or in flight is durable.
    Wait,
    /// Not before the region has room again. Nothing is in flight, so a compaction can make room at once; it calls the device.
    NeedsRoom,
}

#[cfg(feature = "std")]
/// What became of records that a caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// They are in the frame that is gathered; the last revision that they will have.
    Taken(Revision),
    /// As [`Admission::Wait`]. Nothing has changed.
    Wait,
    /// Only a call that may use the device can take them. Nothing has changed.
    NeedsRoom,
}

/// A frame that is gathered, or in flight.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) body: Vec<u8>,
    pub(crate) ops: usize,
    /// What was buffered, at the beginning: bytes, and operations.
    shown_len: usize,
    shown_ops: usize,
    /// How much of the rest [`Unshown::newest`] knows: the end of it.
    noted_len: usize,
    noted_ops: usize,
    /// What showing the rest will change.
    delta: Delta,
    /// What the key of each record of the rest had before it, where there are quotas: to take the charges back.
    pub(crate) charged: Vec<Totals>,
    /// What was claimed for showing the rest.
    reserved: Reserved,
}

/// How what is alive, and what is past, changes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delta {
    pub(crate) more: Totals,
    pub(crate) less: Totals,
    /// What becomes past, because a snapshot has it.
    pub(crate) past: Totals,
}

impl Delta {
    fn plus(self, other: Self) -> Self {
        Self {
            more: self.more.plus(other.more),
            less: self.less.plus(other.less),
            past: self.past.plus(other.past),
        }
    }
}

impl Gathered {
    pub(crate) fn shows_nothing(&self) -> bool {
        self.ops == self.shown_ops
    }

    /// As if nothing but what was buffered had been asked for. What was claimed for the rest is released before.
    fn forget_unshown(&mut self) {
        self.body.truncate(self.shown_len);
        self.ops = self.shown_ops;
        self.unnote();
        self.delta = Delta::default();
        self.charged.clear();
    }

    /// Says that the rest is to be noted, from its beginning.
    fn unnote(&mut self) {
        (self.noted_len, self.noted_ops) = (self.shown_len, self.shown_ops);
    }

    /// The records that are not shown yet, each with what its key had before; none where there are no quotas.
    pub(crate) fn charges(&self) -> impl Iterator<Item = (Record<'_>, Totals)> {
        records(self.body.get(self.shown_len..).unwrap_or(&[])).zip(self.charged.iter().copied())
    }

    fn clear(&mut self) {
        self.shown_len = 0;
        self.shown_ops = 0;
        self.forget_unshown();
    }
}

/// The newest state of a key among what is not shown yet.
#[derive(Debug, Clone, Copy)]
struct Newest {
    seq: u64,
    revision: Revision,
    /// [`None`]: it will have no value.
    totals: Option<Totals>,
}

/// What is on its way to being shown.
#[derive(Debug, Default)]
pub(crate) struct Unshown {
    flying: VecDeque<(u64, Gathered)>,
    newest: BTreeMap<Box<str>, Newest>,
    /// A frame that has ended, whose memory is used again.
    spare: Gathered,
}

impl Unshown {
    /// Whether a frame is on its way.
    pub(crate) fn is_any_out(&self) -> bool {
        !self.flying.is_empty()
    }

    /// The keys of what is not shown yet, and what they will have.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (&str, Totals)> + Clone {
        self.newest.iter().map(|(key, newest)| (&**key, newest.totals.unwrap_or_default()))
    }

    /// Whether something about this key is not shown yet.
    #[cfg(feature = "std")]
    pub(crate) fn has(&self, key: &str) -> bool {
        self.newest.contains_key(key)
    }

    /// Takes note of the keys of a frame that will be shown later.
    fn note(newest: &mut BTreeMap<Box<str>, Newest>, frame: &mut Gathered, seq: u64) -> Result<(), Error> {
        for record in records(frame.body.get(frame.noted_len..).unwrap_or(&[])) {
            let revision = Revision::of(seq, frame.noted_ops).ok_or(JournalError::NumbersUsedUp)?;
            let totals = record.value().map(|(key, value)| Totals::of(key.len(), value.len()));
            newest.insert(record.key().into(), Newest { seq, revision, totals });
            frame.noted_ops += 1;
        }
        frame.noted_len = frame.body.len();
        Ok(())
    }

    /// Records of a frame that are shown now.
    fn forget(&mut self, body: &[u8], seq: u64) {
        if self.newest.is_empty() {
            return;
        }
        for record in records(body) {
            // A later frame may have something newer about the key.
            if self.newest.get(record.key()).is_some_and(|newest| newest.seq == seq) {
                self.newest.remove(record.key());
            }
        }
    }

    /// Forgets all of it, to be noted again.
    fn forget_all(&mut self) {
        self.newest.clear();
        self.flying.iter_mut().for_each(|(_, frame)| frame.unnote());
    }
}

impl<D: BlockDevice> Store<D> {
    /// What a key will have when everything asked for so far is durable.
    pub(crate) fn ahead(&self, key: &str) -> Option<(Revision, Totals)> {
        self.ahead_of(key, || self.index.find(key))
    }

    /// The same, where it may have been looked for in the index already.
    pub(crate) fn ahead_of(&self, key: &str, found: impl FnOnce() -> Found) -> Option<(Revision, Totals)> {
        // Most often nothing is in flight.
        if !self.unshown.newest.is_empty()
            && let Some(newest) = self.unshown.newest.get(key)
        {
            return newest.totals.map(|totals| (newest.revision, totals));
        }
        found().value
    }

    /// What will be alive then, and what will be past.
    pub(crate) fn totals_ahead(&self) -> (Totals, Totals) {
        let now = (self.index.totals(), self.index.history().totals());
        self.frames_ahead().fold(now, |(live, past), Gathered { delta, .. }| {
            (live.plus(delta.more).less(delta.less), past.plus(delta.past))
        })
    }

    fn frames_ahead(&self) -> impl Iterator<Item = &Gathered> {
        self.unshown.flying.iter().map(|(_, frame)| frame).chain([&self.pending])
    }

    /// Takes note of the keys of everything that was asked for and is not shown yet, so that [`Store::ahead`] knows them. That
    /// is left until the next request is looked at, so a lone writer, whose frame has ended by then, does not pay for it.
    pub(crate) fn note_unshown(&mut self) -> Result<(), Error> {
        let Unshown { flying, newest, .. } = &mut self.unshown;
        for (seq, frame) in flying {
            Unshown::note(newest, frame, *seq)?;
        }
        Unshown::note(newest, &mut self.pending, self.journal.next_seq())
    }

    /// Takes records into the frame that is gathered, without calling the device.
    ///
    /// # Errors
    /// Why they are refused. Nothing has changed.
    #[cfg(feature = "std")]
    pub(crate) fn admit_at_once(&mut self, body: &[u8], ops: usize) -> Result<Admitted, Error> {
        self.with_found(|store, found| {
            let delta = store.check_space(body, &records(body), found)?;
            match store.admission(body.len(), ops) {
                Admission::Fits => store.gather(body, ops, delta, found).map(Admitted::Taken),
                Admission::Wait => Ok(Admitted::Wait),
                Admission::NeedsRoom => Ok(Admitted::NeedsRoom),
            }
        })
    }

    /// Takes records into the frame that is gathered, after a compaction if it needs one; returns the last revision they will
    /// have. [`None`]: they have to wait until earlier records are durable.
    ///
    /// # Errors
    /// Why they are refused. Nothing has changed.
    pub(crate) fn admit_body(&mut self, body: &[u8], ops: usize) -> Result<Option<Revision>, Error> {
        self.with_found(|store, found| {
            let delta = store.check_space(body, &records(body), found)?;
            match store.admission(body.len(), ops) {
                Admission::Fits => {}
                Admission::Wait => return Ok(None),
                Admission::NeedsRoom => store.make_room_after_pending(body.len())?,
            }
            store.gather(body, ops, delta, found).map(Some)
        })
    }

    /// Lends the buffer for the places of keys, which is used again. Everything asked for before is noted.
    fn with_found<T>(
        &mut self,
        act: impl FnOnce(&mut Self, &mut Vec<Found>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.note_unshown()?;
        let mut found = core::mem::take(&mut self.found);
        let outcome = act(self, &mut found);
        self.found = found;
        outcome
    }

    /// Takes records that fit into the frame that is gathered. `found` are the places of their keys.
    fn gather(&mut self, body: &[u8], ops: usize, delta: Delta, found: &[Found]) -> Result<Revision, Error> {
        let all = records(body);
        let (seq, first) = (self.journal.next_seq(), self.pending.ops);
        let last = Revision::of(seq, first + ops - 1).ok_or(JournalError::NumbersUsedUp)?;
        // What is durable must be shown, so memory for that comes first.
        let before = self.pending.reserved.claimed().len();
        let claimed = all
            .clone()
            .zip(found)
            .try_for_each(|(record, found)| self.index.claim(&record, *found, &mut self.pending.reserved));
        let reserved =
            claimed.and_then(|()| self.index.reserve_claimed()).and_then(|()| self.extend_pending(body, ops));
        if let Err(error) = reserved {
            let shown_len = self.pending.shown_len;
            let left = records(self.pending.body.get(shown_len..).unwrap_or(&[]));
            self.index.release_behind(&mut self.pending.reserved, before, left);
            self.tidy();
            return Err(error);
        }
        self.charge(all);
        self.pending.ops += ops;
        self.pending.delta = self.pending.delta.plus(delta);
        Ok(last)
    }

    /// Takes a record into the frame that is gathered and shows it at once, without calling the device.
    ///
    /// # Errors
    /// Why it is refused. Nothing has changed.
    #[cfg(feature = "std")]
    pub(crate) fn buffer_at_once(&mut self, body: &[u8]) -> Result<Admitted, Error> {
        self.with_found(|store, found| {
            store.check_space(body, &records(body), found)?;
            match store.admission(body.len(), 1) {
                // The number that the record is told would not be safe yet.
                Admission::Fits if store.journal.needs_record_of_open() => {
                    Ok(match store.unshown.is_any_out() {
                        true => Admitted::Wait,
                        false => Admitted::NeedsRoom,
                    })
                }
                // What is shown comes first in its frame.
                Admission::Fits if !store.pending.shows_nothing() => Ok(Admitted::Wait),
                Admission::Fits => store.gather_shown(body, found).map(Admitted::Taken),
                Admission::Wait => Ok(Admitted::Wait),
                Admission::NeedsRoom => Ok(Admitted::NeedsRoom),
            }
        })
    }

    /// Takes a record into the frame that is gathered, after a compaction if it needs one, and shows it at once.
    pub(crate) fn buffer_body(&mut self, body: &[u8]) -> Result<Revision, Error> {
        self.with_found(|store, found| {
            store.check_space(body, &records(body), found)?;
            match store.admission(body.len(), 1) {
                Admission::Fits => {}
                Admission::Wait => {
                    return Err(JournalError::Outgoing { count: store.journal.outgoing() }.into());
                }
                Admission::NeedsRoom => store.make_room_after_pending(body.len())?,
            }
            store.journal.promise_number()?;
            store.gather_shown(body, found)
        })
    }

    /// Takes a record that fits into the frame that is gathered, and shows it. `found` is the place of its key.
    fn gather_shown(&mut self, body: &[u8], found: &[Found]) -> Result<Revision, Error> {
        // One, decoded once.
        let record = records(body).next().ok_or(Error::EmptyBatch)?;
        let place = *found.first().ok_or(Error::EmptyBatch)?;
        let (seq, index) = (self.journal.next_seq(), self.pending.ops);
        let revision = Revision::of(seq, index).ok_or(JournalError::NumbersUsedUp)?;
        self.index.make_room(&record, place)?;
        self.extend_pending(body, 1)?;
        self.charge(iter::once(record));
        self.pending.ops += 1;
        (self.pending.shown_len, self.pending.shown_ops) = (self.pending.body.len(), self.pending.ops);
        self.pending.unnote();
        // It stays, whatever becomes of the frame.
        self.pending.charged.clear();
        self.index.apply_found(&record, revision, place)?;
        self.last = self.last.max(revision);
        self.idle = Idle::Active;
        self.tidy();
        Ok(revision)
    }

    /// Out of memory the index stays as it is, which is as right.
    fn tidy(&mut self) {
        if self.index.tidy().is_err() {
            self.given_up += 1;
        }
    }

    fn extend_pending(&mut self, body: &[u8], ops: usize) -> Result<(), Error> {
        let Gathered { body: pending, charged, .. } = &mut self.pending;
        pending.try_reserve(body.len()).map_err(|_| Error::NoMemory { len: body.len() })?;
        if !self.quotas.are_none() {
            let len = ops.saturating_mul(size_of::<Totals>());
            charged.try_reserve(ops).map_err(|_| Error::NoMemory { len })?;
        }
        pending.extend_from_slice(body);
        Ok(())
    }

    /// Whether the frame that is gathered has room for records of so many bytes more, and the region for the frame.
    pub(crate) fn fits_after_pending(&self, len: usize, ops: usize) -> bool {
        let layout = self.journal.layout();
        let together = self.pending.body.len() + len;
        together <= layout.body_len_max()
            && self.pending.ops + ops <= RECORDS_MAX
            && layout.blocks_of(together) <= self.journal.room()
    }

    /// Whether records of so many bytes find room in the frame that is gathered. It only looks.
    pub(crate) fn admission(&self, len: usize, ops: usize) -> Admission {
        if self.fits_after_pending(len, ops) {
            Admission::Fits
        } else if self.unshown.is_any_out() || !self.pending.shows_nothing() {
            Admission::Wait
        } else {
            Admission::NeedsRoom
        }
    }

    /// Makes room for a frame of so many bytes: writes what is buffered, and compacts if that is needed. Nothing is in flight.
    fn make_room_after_pending(&mut self, len: usize) -> Result<(), Error> {
        self.write_pending()?;
        self.make_room(self.journal.layout().blocks_of(len))
    }

    /// Whether a frame of what is gathered and of so many bytes more could begin now, as far as other frames in flight are
    /// concerned. It only looks.
    #[cfg(feature = "std")]
    pub(crate) fn may_begin(&self, more_len: usize) -> bool {
        self.journal.may_begin(self.pending.body.len().saturating_add(more_len))
    }

    /// Begins the frame that was gathered, without calling the device; [`None`], if there is nothing in it.
    ///
    /// # Errors
    /// Nothing that was asked for since the last frame was begun is done, but for what was buffered, which still waits.
    pub(crate) fn begin_frame(&mut self) -> Result<Option<Outgoing>, Error> {
        if self.pending.ops == 0 {
            return Ok(None);
        }
        let begun = match self.unshown.flying.try_reserve(1) {
            Ok(()) => self.journal.begin_commit(&self.pending.body).map_err(Error::from),
            Err(_) => Err(Error::NoMemory { len: size_of::<Gathered>() }),
        };
        match begun {
            Ok(outgoing) => {
                self.frame_ops.record(u64::try_from(self.pending.ops).unwrap_or(u64::MAX));
                let spare = core::mem::take(&mut self.unshown.spare);
                let gathered = core::mem::replace(&mut self.pending, spare);
                self.unshown.flying.push_back((outgoing.seq(), gathered));
                Ok(Some(outgoing))
            }
            Err(error) => {
                self.unshown.forget_all();
                self.take_charges_back();
                self.drop_pending_after_failure();
                self.tidy();
                Err(error)
            }
        }
    }

    /// Takes a frame back and shows what has become durable, without calling the device. Frames up to the sequence number that
    /// is returned have ended. A chore may be due afterwards ([`Store::is_chore_due`]).
    ///
    /// # Errors
    /// `Poisoned`: whether this frame, and those before and behind it that are out, survive is unknown. None is shown.
    pub(crate) fn end_frame(
        &mut self,
        outgoing: Outgoing,
        outcome: Result<(), DeviceError>,
    ) -> Result<u64, Error> {
        let durable =
            self.journal.end_commit(outgoing, outcome).inspect_err(|_| self.drop_all_after_failure())?;
        while self.unshown.flying.front().is_some_and(|(seq, _)| *seq <= durable.seq()) {
            let Some((seq, mut frame)) = self.unshown.flying.pop_front() else { break };
            let unshown = frame.body.get(frame.shown_len..).unwrap_or(&[]);
            note_changes(&mut self.changes, &frame, seq)?;
            self.show(records(unshown), seq, frame.shown_ops, &frame.reserved)?;
            self.index.release(&mut frame.reserved);
            self.unshown.forget(unshown, seq);
            self.durable = Revision::of(seq, frame.ops.saturating_sub(1)).unwrap_or(self.durable);
            frame.clear();
            self.unshown.spare = frame;
        }
        self.tidy();
        Ok(durable.seq())
    }

    /// Whether a step of a compaction is due and nothing is in flight. It only looks.
    pub(crate) fn is_chore_due(&self) -> bool {
        !self.unshown.is_any_out() && self.is_compaction_due()
    }

    /// Takes the step that is due. It calls the device. What has been committed is not taken back by an error here: the
    /// compaction is given up, and if the journal is poisoned, the next write says so.
    pub(crate) fn chore(&mut self) {
        if self.is_chore_due() {
            let _counted = self.compact_step().is_err();
        }
    }

    /// Commits the gathered frame in one call. No other frame may be in flight.
    ///
    /// # Errors
    /// As [`Store::begin_frame`] and [`Store::end_frame`]. [`JournalError::NotInOrder`]: an earlier frame is in flight, so
    /// this one is written and not yet durable. It becomes visible when the earlier one ends.
    pub(crate) fn commit_pending(&mut self) -> Result<(), Error> {
        let Some(outgoing) = self.begin_frame()? else { return Ok(()) };
        let seq = outgoing.seq();
        let outcome = outgoing.carry_out(self.journal.device());
        let durable_seq = self.end_frame(outgoing, outcome)?;
        // A frame that ends before an earlier one does is not durable, though its own flush succeeded.
        if durable_seq < seq {
            return Err(JournalError::NotInOrder { seq, durable_seq }.into());
        }
        self.chore();
        Ok(())
    }

    /// Poisons the store after a panic in the device or in the source of random bytes: what the device did is unknown, so
    /// nothing in flight becomes visible and nothing more is written.
    #[cfg(feature = "std")]
    pub(crate) fn fail_after_panic(&mut self) {
        self.journal.fail_after_panic();
        self.drop_all_after_failure();
    }

    /// The same where other threads carry frames out, which they will end.
    #[cfg(feature = "std")]
    pub(crate) fn fail_beside_frames(&mut self) {
        self.journal.fail_beside_frames();
        self.drop_all_after_failure();
    }

    /// Drops what is gathered or in flight: nothing of it will be shown, so nothing of it counts.
    fn drop_all_after_failure(&mut self) {
        self.unshown.flying.clear();
        self.unshown.newest.clear();
        self.charge_anew();
        self.drop_pending_after_failure();
        self.index.drop_claims();
    }

    /// Puts records into the index, which is all that readers see.
    fn show<'r>(
        &mut self,
        all: impl Iterator<Item = Record<'r>>,
        seq: u64,
        first: usize,
        reserved: &Reserved,
    ) -> Result<(), Error> {
        for ((nth, record), claimed) in (first..).zip(all).zip(reserved.claimed()) {
            let revision = Revision::of(seq, nth).ok_or(JournalError::NumbersUsedUp)?;
            self.index.apply_claimed(&record, revision, claimed)?;
            self.last = self.last.max(revision);
        }
        self.idle = Idle::Active;
        Ok(())
    }

    /// Writes what is pending, without making it durable.
    pub(crate) fn write_pending(&mut self) -> Result<(), Error> {
        if self.pending.ops == 0 {
            return Ok(());
        }
        let outcome = self.journal.write(&self.pending.body);
        match outcome {
            Ok(seq) => {
                note_changes(&mut self.changes, &self.pending, seq)?;
                self.pending.clear();
            }
            Err(_) => self.drop_pending_after_failure(),
        }
        outcome.map(drop).map_err(Error::from)
    }

    /// Where nothing was written (for want of memory), what was buffered still waits. Where nobody knows, nothing is written
    /// any more.
    fn drop_pending_after_failure(&mut self) {
        self.index.release(&mut self.pending.reserved);
        match self.journal.failure() {
            Some(_) => self.pending.clear(),
            None => self.pending.forget_unshown(),
        }
    }

    pub(crate) fn check_condition(&self, key: &Key, wanted: Precondition) -> Result<(), Error> {
        let found = self.ahead(key.as_str()).map(|(revision, _)| revision);
        let holds = match wanted {
            Precondition::Absent => found.is_none(),
            Precondition::RevisionIs(revision) => found == Some(revision),
        };
        if holds { Ok(()) } else { Err(Error::Conflict { key: key.clone(), wanted, found }) }
    }
}

/// Takes note of what a frame changes, now that its place is certain: what was buffered is shown before the frames in front of
/// it, and watchers are told in the order of revisions.
fn note_changes(ring: &mut Ring, frame: &Gathered, seq: u64) -> Result<(), Error> {
    let mut left = records(&frame.body).enumerate().peekable();
    while let Some((nth, record)) = left.next() {
        let revision = Revision::of(seq, nth).ok_or(JournalError::NumbersUsedUp)?;
        // What was buffered was asked for one by one.
        ring.note(&record, revision, nth < frame.shown_ops || left.peek().is_none());
    }
    Ok(())
}

#[cfg(all(test, feature = "std"))]
#[expect(clippy::unwrap_used, reason = "helpers of tests")]
mod tests {
    use media::{Geometry, MemDisk};

    use super::*;
    use crate::{Form, Options, Prefix, Quota, StoreId};

    type SilentDisk = media::doubles::SilentDisk<MemDisk>;

    fn silent(block_count: u64) -> (SilentDisk, Store<SilentDisk>) {
        let disk = SilentDisk::over(MemDisk::new(Geometry::new(512, block_count).unwrap()).unwrap());
        let store = Store::format(disk.clone(), &Options::new(StoreId([1; 16]))).unwrap();
        (disk, store)
    }

    fn put(key: &str, value: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        Record::Put { key, value, form: Form::Plain }.encode(&mut body).unwrap();
        body
    }

    fn delete(key: &str) -> Vec<u8> {
        let mut body = Vec::new();
        Record::Delete { key }.encode(&mut body).unwrap();
        body
    }

    /// A put in three steps; the calls of the second one. Nothing is done after it.
    fn put_silently(disk: &SilentDisk, store: &mut Store<SilentDisk>, key: &str, value: &[u8]) -> u64 {
        let body = put(key, value);
        let outgoing = disk.silently(|| {
            assert_eq!(store.admission(body.len(), 1), Admission::Fits);
            let admitted = store.admit_at_once(&body, 1).unwrap();
            assert!(matches!(admitted, Admitted::Taken(_)), "{admitted:?}");
            assert!(store.may_begin(0));
            store.begin_frame().unwrap().unwrap()
        });
        let before = disk.calls();
        let outcome = outgoing.carry_out(disk);
        let calls = disk.calls() - before;
        disk.silently(|| {
            store.end_frame(outgoing, outcome).unwrap();
            store.is_chore_due()
        });
        assert!(store.get(&Key::parse(key).unwrap()).is_some());
        calls
    }

    #[test]
    fn the_device_is_silent_while_a_frame_is_gathered_begun_and_ended() {
        let (disk, mut store) = silent(4096);
        let mut calls = Vec::new();
        for _ in 0..20 {
            calls.push(put_silently(&disk, &mut store, "/state/a", b"x"));
        }
        assert!(
            calls.iter().all(|calls| [2, 5].contains(calls)),
            "a mark is two writes and a flush: {calls:?}"
        );
        assert!(calls.contains(&5) && calls.contains(&2));
        // Much is written and not flushed.
        let key = Key::parse("/state/b").unwrap();
        for _ in 0..7 {
            store.put_buffered(&key, &[0; 65_000]).unwrap();
            store.write_pending().unwrap();
        }
        let calls = put_silently(&disk, &mut store, "/state/a", &[1; 65_000]);
        assert!([3, 6].contains(&calls), "a forced flush: {calls}");
        // The first frame after an open carries the record of the open.
        store.close().unwrap();
        let (mut store, _) = Store::open(disk.clone(), crate::Access::Write).unwrap();
        let body = put("/state/c", b"x");
        let buffered = disk.silently(|| store.buffer_at_once(&body)).unwrap();
        assert_eq!(buffered, Admitted::NeedsRoom, "its number is not safe yet");
        assert_eq!(put_silently(&disk, &mut store, "/state/a", b"x"), 3);
        let buffered = disk.silently(|| store.buffer_at_once(&body)).unwrap();
        assert!(matches!(buffered, Admitted::Taken(_)), "{buffered:?}");
        assert!(store.get(&Key::parse("/state/c").unwrap()).is_some());
    }

    /// The owner does the chores; a caller that may not call the device is told when it is time for them.
    #[test]
    fn chores_and_compactions_are_left_to_who_may_call_the_device() {
        let (disk, mut store) = silent(64);
        let body = put("/state/a", &[0; 100]);
        let mut refused = 0;
        for _ in 0..200 {
            match disk.silently(|| store.admission(body.len(), 1)) {
                Admission::Fits => {
                    put_silently(&disk, &mut store, "/state/a", &[0; 100]);
                }
                Admission::NeedsRoom => {
                    let asked = disk.silently(|| store.admit_at_once(&body, 1)).unwrap();
                    assert_eq!(asked, Admitted::NeedsRoom);
                    assert_eq!(disk.silently(|| store.buffer_at_once(&body)).unwrap(), Admitted::NeedsRoom);
                    assert!(disk.silently(|| store.is_chore_due()), "it had been time for a step before");
                    store.commit_body(&body, 1).unwrap();
                    refused += 1;
                }
                Admission::Wait => panic!("nothing is in flight"),
            }
        }
        assert!(refused > 2, "{refused}");
        // With its chores done, it never needs room.
        for _ in 0..200 {
            put_silently(&disk, &mut store, "/state/a", &[0; 100]);
            store.chore();
        }
        assert!(store.journal.stats().switches > 2 * refused);
    }

    /// A frame that cannot begin is ordinary: what was charged for it is taken back, and the index is not looked through.
    #[test]
    fn charges_of_a_frame_that_cannot_begin_are_taken_back_without_a_recount() {
        let (disk, mut store) = silent(4096);
        for (prefix, hard) in [("/state", 10_000), ("/state/a", 5_000), ("/state/b", 5_000)] {
            let quota = Quota { soft: Some(90), hard: Some(hard), keys: Some(100) };
            store.set_quota(&Prefix::parse(prefix).unwrap(), quota).unwrap();
        }
        for nth in 0..20 {
            let key = alloc::format!("/state/a/{nth}");
            store.put(&Key::parse(&key).unwrap(), b"x").unwrap();
        }
        let mut in_flight = Vec::new();
        for body in [put("/state/a/1", &[0; 50]), delete("/state/a/2")] {
            assert!(matches!(store.admit_at_once(&body, 1).unwrap(), Admitted::Taken(_)));
            in_flight.push(store.begin_frame().unwrap().unwrap());
        }
        let shown = store.buffer_at_once(&put("/state/b/shown", &[0; 10])).unwrap();
        assert!(matches!(shown, Admitted::Taken(_)));
        let used = |store: &Store<SilentDisk>| -> Vec<_> {
            store.quotas().map(|quota| (quota.used_bytes, quota.used_keys)).collect()
        };
        let before = used(&store);
        let _taken = store.take_warnings();
        // One key twice and more, keys of the frames in flight, a key that was buffered, and one that is new.
        for body in [
            put("/state/a/1", &[0; 500]),
            delete("/state/a/1"),
            put("/state/a/1", &[0; 5]),
            put("/state/a/2", &[0; 40]),
            put("/state/b/shown", &[0; 300]),
            put("/state/b/new", &[0; 30]),
            delete("/state/a/3"),
        ] {
            assert!(matches!(store.admit_at_once(&body, 1).unwrap(), Admitted::Taken(_)));
        }
        assert_ne!(used(&store), before);
        assert!(!store.may_begin(0));
        let error = disk.silently(|| store.begin_frame()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Busy, "{error}");
        assert_eq!(used(&store), before);
        assert_eq!(store.quotas.recounts, 0);
        store.note_unshown().unwrap();
        store.charge_anew();
        assert_eq!(used(&store), before, "which is what a recount gives");
        for outgoing in in_flight {
            let outcome = outgoing.carry_out(&disk);
            store.end_frame(outgoing, outcome).unwrap();
        }
        assert_eq!(used(&store), before);
        store.sync().unwrap();
        store.charge_anew();
        assert_eq!(used(&store), before);
    }

    /// The defence in depth behind the right to exclusive access: were it given away too early, a write would still not be
    /// acknowledged before it is durable.
    #[test]
    fn store_t1_a_commit_beside_a_frame_in_flight_is_not_acknowledged() {
        let disk = media::MemDisk::new(media::Geometry::new(512, 64).unwrap()).unwrap();
        let mut store = Store::format(disk, &Options::new(StoreId([1; 16]))).unwrap();
        let [first, second] = ["/state/a", "/state/b"].map(|key| Key::parse(key).unwrap());
        let mut body = Vec::new();
        let value = b"x".as_slice();
        let record = Record::Put { key: first.as_str(), value, form: crate::Form::Plain };
        record.encode(&mut body).unwrap();
        store.admit_body(&body, 1).unwrap().unwrap();
        let in_flight = store.begin_frame().unwrap().unwrap();
        let refused = store.put(&second, b"y").unwrap_err();
        assert!(
            matches!(&refused, Error::Journal(error) if matches!(**error, JournalError::NotInOrder { .. }))
        );
        assert!(store.get(&second).is_none(), "it is not durable, so it is not visible");
        let outcome = in_flight.carry_out(store.device());
        store.end_frame(in_flight, outcome).unwrap();
        assert_eq!(store.get(&first).map(|value| value.bytes), Some(b"x".as_slice()));
        assert_eq!(store.get(&second).map(|value| value.bytes), Some(b"y".as_slice()));
    }
}
