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

/// Whether somebody else may ask for something before the frame has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Company {
    /// Nobody can: the store is borrowed until then.
    Alone,
    /// Other threads do.
    Others,
}

/// A frame that is gathered, or on its way.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) body: Vec<u8>,
    pub(crate) ops: usize,
    /// What was buffered, at the beginning: bytes, and operations.
    shown_len: usize,
    shown_ops: usize,
    /// What showing the rest will change.
    delta: Delta,
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
    fn shows_nothing(&self) -> bool {
        self.ops == self.shown_ops
    }

    /// As if nothing but what was buffered had been asked for. What was claimed for the rest is released before.
    fn forget_unshown(&mut self) {
        self.body.truncate(self.shown_len);
        self.ops = self.shown_ops;
        self.delta = Delta::default();
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
    /// Buffers that are used again.
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
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.newest.contains_key(key.as_str())
    }

    /// Records that will be shown later have these revisions.
    fn note(&mut self, body: &[u8], seq: u64, first: usize) -> Result<(), Error> {
        for (nth, record) in records(body).enumerate() {
            let revision = Revision::of(seq, first + nth).ok_or(JournalError::NumbersUsedUp)?;
            let totals = record.value().map(|(key, value)| Totals::of(key.len(), value.len()));
            self.newest.insert(record.key().into(), Newest { seq, revision, totals });
        }
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

    /// Notes what the frames that are out will show, and nothing else.
    fn note_flying(&mut self) -> Result<(), Error> {
        self.newest.clear();
        let flying = core::mem::take(&mut self.flying);
        let noted = flying.iter().try_for_each(|(seq, frame)| {
            self.note(frame.body.get(frame.shown_len..).unwrap_or(&[]), *seq, frame.shown_ops)
        });
        self.flying = flying;
        noted
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

    /// Takes records into the frame that is gathered; the last revision they will have. [`None`]: they have to wait until
    /// those before them are durable.
    ///
    /// # Errors
    /// Why they may not be had. Nothing has changed.
    pub(crate) fn admit_body(
        &mut self,
        body: &[u8],
        ops: usize,
        company: Company,
    ) -> Result<Option<Revision>, Error> {
        let all = records(body);
        let mut found = core::mem::take(&mut self.found);
        let admitted = self.admit_found(body, ops, all.clone(), &mut found);
        self.found = found;
        let Some((seq, first, last, delta)) = admitted? else { return Ok(None) };
        self.charge(all);
        self.pending.ops += ops;
        self.pending.delta = self.pending.delta.plus(delta);
        if company == Company::Others {
            self.unshown.note(body, seq, first)?;
        }
        Ok(Some(last))
    }

    /// Looks for the keys of records, checks whether they fit, and reserves what showing them needs. The sequence number of
    /// their frame, how many are before them in it, the last revision, and what showing them will change.
    fn admit_found<'r>(
        &mut self,
        body: &[u8],
        ops: usize,
        all: impl Iterator<Item = Record<'r>> + Clone,
        found: &mut Vec<Found>,
    ) -> Result<Option<(u64, usize, Revision, Delta)>, Error> {
        let delta = self.check_space(body, &all, found)?;
        if !self.make_room_behind_pending(body.len(), ops)? {
            return Ok(None);
        }
        let (seq, first) = (self.journal.next_seq(), self.pending.ops);
        let last = Revision::of(seq, first + ops - 1).ok_or(JournalError::NumbersUsedUp)?;
        // What is durable must be shown, so memory for that comes first.
        let before = self.pending.reserved.claimed().len();
        let claimed = all
            .zip(found.iter())
            .try_for_each(|(record, found)| self.index.claim(&record, *found, &mut self.pending.reserved));
        let reserved =
            claimed.and_then(|()| self.index.reserve_claimed()).and_then(|()| self.extend_pending(body));
        if let Err(error) = reserved {
            let shown_len = self.pending.shown_len;
            let left = records(self.pending.body.get(shown_len..).unwrap_or(&[]));
            self.index.release_behind(&mut self.pending.reserved, before, left);
            self.tidy();
            return Err(error);
        }
        Ok(Some((seq, first, last, delta)))
    }

    /// Takes a record into the frame that is gathered, and shows it at once.
    pub(crate) fn buffer_body(&mut self, body: &[u8]) -> Result<Revision, Error> {
        // One, decoded once.
        let Some(record) = records(body).next() else { return Err(Error::EmptyBatch) };
        let all = iter::once(record);
        let mut found = core::mem::take(&mut self.found);
        let checked = self.check_space(body, &all, &mut found);
        let place = found.first().copied();
        self.found = found;
        checked?;
        let Some(place) = place else { return Err(Error::EmptyBatch) };
        if !self.make_room_behind_pending(body.len(), 1)? {
            return Err(JournalError::Outgoing { count: self.journal.outgoing() }.into());
        }
        self.journal.promise_number()?;
        let (seq, index) = (self.journal.next_seq(), self.pending.ops);
        let revision = Revision::of(seq, index).ok_or(JournalError::NumbersUsedUp)?;
        self.index.make_room(&record, place)?;
        self.extend_pending(body)?;
        self.charge(all.clone());
        self.pending.ops += 1;
        (self.pending.shown_len, self.pending.shown_ops) = (self.pending.body.len(), self.pending.ops);
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

    fn extend_pending(&mut self, body: &[u8]) -> Result<(), Error> {
        let pending = &mut self.pending.body;
        pending.try_reserve(body.len()).map_err(|_| Error::NoMemory { len: body.len() })?;
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

    /// Sees to it that the frame that is gathered has room for records of so many bytes more; false, if that needs those
    /// before them to be durable first.
    fn make_room_behind_pending(&mut self, len: usize, ops: usize) -> Result<bool, Error> {
        let layout = *self.journal.layout();
        if self.fits_after_pending(len, ops) {
            return Ok(true);
        }
        if self.unshown.is_any_out() || !self.pending.shows_nothing() {
            return Ok(false);
        }
        self.write_pending()?;
        self.make_room(layout.blocks_of(len))?;
        Ok(true)
    }

    /// Begins the frame that was gathered; [`None`], if there is nothing in it.
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
                self.unshown.note_flying()?;
                self.charge_anew();
                self.drop_pending_after_failure();
                self.tidy();
                Err(error)
            }
        }
    }

    /// Takes a frame back and shows what has become durable. Frames up to the sequence number that is returned have ended.
    ///
    /// # Errors
    /// `Poisoned`: whether this frame, and those before and behind it that are out, survive is unknown. None is shown.
    pub(crate) fn end_frame(
        &mut self,
        outgoing: Outgoing,
        outcome: Result<(), DeviceError>,
    ) -> Result<u64, Error> {
        let durable = self.journal.end_commit(outgoing, outcome).inspect_err(|_| {
            self.unshown.flying.clear();
            self.unshown.newest.clear();
            // Nothing of these frames will be shown, so nothing of them counts.
            self.charge_anew();
            self.drop_pending_after_failure();
            self.index.drop_claims();
        })?;
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
        if !self.unshown.is_any_out() {
            self.after_commit();
        }
        Ok(durable.seq())
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
        if durable_seq < seq { Err(JournalError::NotInOrder { seq, durable_seq }.into()) } else { Ok(()) }
    }

    /// Poisons the store after a panic in the device or in the source of random bytes: what the device did is unknown, so
    /// nothing in flight becomes visible and nothing more is written.
    #[cfg(feature = "std")]
    pub(crate) fn fail_after_panic(&mut self) {
        self.journal.fail_after_panic();
        self.unshown.flying.clear();
        self.unshown.newest.clear();
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
mod tests {
    use super::*;
    use crate::{Options, StoreId};

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
        store.admit_body(&body, 1, Company::Others).unwrap().unwrap();
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
