//! Writing: what is asked for is checked, written as a frame, made durable, and only then shown.

use core::iter;
use core::time::Duration;

use alloc::vec::Vec;

use journal::JournalError;
use media::BlockDevice;

use crate::batch::{Batch, Precondition};
use crate::error::Error;
use crate::index::Totals;
use crate::key::Key;
use crate::record::{RECORDS_MAX, Record, Records, Revision};
use crate::store::{Idle, Store};

/// How long nothing is written before a seal makes the loss of even the last commit evident.
const IDLE_BEFORE_SEAL: Duration = Duration::from_millis(50);

impl<D: BlockDevice> Store<D> {
    /// Gives a key a value.
    ///
    /// # Durability
    /// `Ok`: it survives power loss, and so does everything written before it. It is shown to readers only then.
    ///
    /// # Errors
    /// By [`Error::kind`]: `Invalid`, `NoSpace`, `NoMemory`, `ReadOnly`, `Io` (of a compaction that had to make room):
    /// nothing has changed. `Poisoned`: after the next
    /// open the key has the old value or the new one; until then readers see the old one, and nothing is written any more.
    pub fn put(&mut self, key: &Key, value: &[u8]) -> Result<Revision, Error> {
        self.check_value(value.len())?;
        self.commit_records(&[Record::Put { key: key.as_str(), value }])
    }

    /// Takes a key's value away; [`None`] if it had none, and then no more is written than what was buffered.
    ///
    /// # Durability
    /// As [`Store::put`], for [`None`] as well: a key that is not there now is not there after a power cut.
    ///
    /// # Errors
    /// As [`Store::put`], and never `NoSpace` for want of room for live data.
    pub fn delete(&mut self, key: &Key) -> Result<Option<Revision>, Error> {
        self.refuse_unless_writable()?;
        if self.index.get(key.as_str()).is_none() {
            // It may have been taken away in memory only.
            if self.durable < self.last {
                let _durable = self.sync()?;
            }
            return Ok(None);
        }
        self.commit_records(&[Record::Delete { key: key.as_str() }]).map(Some)
    }

    /// Gives a key a value if it is as expected.
    ///
    /// # Durability
    /// As [`Store::put`].
    ///
    /// # Errors
    /// [`Error::Conflict`]: it is not, and nothing was written. Otherwise as [`Store::put`].
    pub fn compare_and_swap(
        &mut self,
        key: &Key,
        expected: Precondition,
        value: &[u8],
    ) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        self.check_condition(key, expected)?;
        self.put(key, value)
    }

    /// Carries out a batch, if all its preconditions hold. Its revisions are consecutive; the last one is returned.
    ///
    /// # Durability
    /// As [`Store::put`]: all of it survives power loss, or, where it failed or was cut short, all or nothing.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::EmptyBatch`], [`Error::BatchTooLarge`], [`Error::BatchTooLong`],
    /// [`Error::DuplicateKey`]: nothing was written. Otherwise as [`Store::put`].
    pub fn batch(&mut self, batch: &Batch) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        let ops_max = usize::from(self.limits.batch_ops_max);
        if batch.is_empty() {
            return Err(Error::EmptyBatch);
        }
        if batch.len() > ops_max {
            return Err(Error::BatchTooLarge { limit: ops_max, requested: batch.len() });
        }
        let (limit, requested) = (self.journal.layout().body_len_max(), batch.body.len());
        if requested > limit {
            return Err(Error::BatchTooLong { limit, requested });
        }
        for (key, condition) in &batch.conditions {
            self.check_condition(key, *condition)?;
        }
        self.check_keys_differ(batch)?;
        for record in records(&batch.body) {
            if let Record::Put { value, .. } = record {
                self.check_value(value.len())?;
            }
        }
        self.commit_body(&batch.body, &records(&batch.body), batch.len())
    }

    /// Gives a key a value without making it durable: readers of this store see it at once.
    ///
    /// # Durability
    /// None before [`Store::sync`] or the next durable write has returned `Ok`, which may be asked with
    /// [`Store::durable_revision`]. A power cut may take it, and all buffered after it, or not.
    ///
    /// # Errors
    /// As [`Store::put`]. After `Poisoned`, buffered values are still shown until the store is opened again.
    pub fn put_buffered(&mut self, key: &Key, value: &[u8]) -> Result<Revision, Error> {
        self.check_value(value.len())?;
        self.buffer(&Record::Put { key: key.as_str(), value })
    }

    /// Takes a key's value away without making that durable; [`None`] if it had none.
    ///
    /// # Durability
    /// As [`Store::put_buffered`].
    ///
    /// # Errors
    /// As [`Store::put_buffered`].
    pub fn delete_buffered(&mut self, key: &Key) -> Result<Option<Revision>, Error> {
        self.refuse_unless_writable()?;
        if self.index.get(key.as_str()).is_none() {
            return Ok(None);
        }
        self.buffer(&Record::Delete { key: key.as_str() }).map(Some)
    }

    /// Makes everything written so far durable, and returns the revision up to which it is.
    ///
    /// # Errors
    /// `Poisoned`: what was buffered survives power loss or not, in order from the first on.
    pub fn sync(&mut self) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        if self.pending_ops > 0 {
            let outcome = self.journal.commit(&self.pending);
            self.settle_pending(outcome.is_ok(), self.pending.len());
            let _durable = outcome?;
        } else if self.journal.has_unflushed() {
            let _durable = self.journal.flush()?;
        }
        self.durable = self.last;
        self.after_commit();
        Ok(self.durable)
    }

    /// Tells the store what time it is, counted from any moment that stays the same. When nothing has been written for 50
    /// milliseconds, it writes a seal, so that even the loss of the last commit would be noticed; what is buffered is then
    /// made durable as well.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn tick(&mut self, now: Duration) -> Result<(), Error> {
        match self.idle {
            Idle::Sealed => {}
            Idle::Active => self.idle = Idle::Since(now),
            Idle::Since(then) if now.saturating_sub(then) < IDLE_BEFORE_SEAL => {}
            Idle::Since(_) => {
                let _durable = self.sync()?;
                self.journal.seal()?;
                self.idle = Idle::Sealed;
            }
        }
        Ok(())
    }

    /// Makes everything durable and leaves a mark that the store was closed, so that nothing can be lost unnoticed. A store
    /// that may only be read is let go.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn close(mut self) -> Result<(), Error> {
        if self.journal.read_only().is_some() {
            return Ok(());
        }
        let _durable = self.sync()?;
        self.journal.seal_for_good().map_err(Error::from)
    }

    fn refuse_unless_writable(&self) -> Result<(), Error> {
        if let Some(why) = self.journal.read_only() {
            return Err(JournalError::ReadOnly { why }.into());
        }
        match self.journal.failure() {
            Some(cause) => Err(JournalError::Poisoned { cause: cause.clone() }.into()),
            None => Ok(()),
        }
    }

    fn check_value(&self, len: usize) -> Result<(), Error> {
        let limit = u64::from(self.limits.value_len_max);
        let requested = u64::try_from(len).unwrap_or(u64::MAX);
        if requested > limit { Err(Error::ValueTooLong { limit, requested }) } else { Ok(()) }
    }

    fn check_condition(&self, key: &Key, wanted: Precondition) -> Result<(), Error> {
        let found = self.index.get(key.as_str()).map(|kept| kept.revision());
        let holds = match wanted {
            Precondition::Absent => found.is_none(),
            Precondition::RevisionIs(revision) => found == Some(revision),
        };
        if holds { Ok(()) } else { Err(Error::Conflict { key: key.clone(), wanted, found }) }
    }

    fn check_keys_differ(&self, batch: &Batch) -> Result<(), Error> {
        let len = batch.len().saturating_mul(size_of::<&str>());
        let mut keys = Vec::new();
        keys.try_reserve_exact(batch.len()).map_err(|_| Error::NoMemory { len })?;
        keys.extend(records(&batch.body).map(|record| record.key()));
        if !keys.is_sorted() {
            keys.sort_unstable();
        }
        match keys.windows(2).find(|pair| pair.first() == pair.last()) {
            Some([key, ..]) => Err(Error::DuplicateKey { key: Key::trusted(key) }),
            Some([]) | None => Ok(()),
        }
    }

    /// Refuses what would not fit, before anything is written.
    fn check_space<'r>(&self, body: &[u8], all: impl Iterator<Item = Record<'r>>) -> Result<(), Error> {
        let used = self.index.totals();
        let (mut more, mut less) = (Totals::default(), Totals::default());
        for record in all {
            if let Some(old) = self.index.get(record.key()) {
                less = less.plus(old.totals());
            }
            if let Record::Put { key, value } = record {
                more = more.plus(Totals::of(key.len(), value.len()));
            }
        }
        let next = used.plus(more).less(less);
        let keys_max = u64::from(self.limits.keys_max);
        if next.keys > keys_max && next.keys > used.keys {
            let requested = next.keys - used.keys;
            return Err(Error::TooManyKeys { limit: keys_max, used: used.keys, requested });
        }
        let bytes_max = self.limits.live_bytes_max;
        if next.bytes > bytes_max && next.bytes > used.bytes {
            return Err(Error::TooManyBytes { limit: bytes_max, used: used.bytes, requested: next.bytes });
        }
        let (used_blocks, next_blocks) =
            (self.space.blocks_of(used.record_bytes), self.space.blocks_of(next.record_bytes));
        let limit = self.space.capacity_blocks;
        if next_blocks > limit && next_blocks > used_blocks {
            return Err(Error::NoSpace { limit, used: used_blocks, requested: next_blocks });
        }
        // Behind a copy of what is alive now there must be room for the frame.
        let frame_blocks = self.journal.layout().blocks_of(body.len());
        let limit = self.space.capacity_before(frame_blocks);
        if used_blocks > limit {
            return Err(Error::NoSpace { limit, used: used_blocks, requested: used_blocks + frame_blocks });
        }
        Ok(())
    }

    fn commit_records(&mut self, all: &[Record<'_>]) -> Result<Revision, Error> {
        let mut body = core::mem::take(&mut self.body);
        body.clear();
        let outcome = all
            .iter()
            .try_for_each(|record| record.encode(&mut body))
            .and_then(|()| self.commit_body(&body, &all.iter().copied(), all.len()));
        self.body = body;
        outcome
    }

    /// Commits records, together with what is pending, and shows them. `all` are those in the body.
    fn commit_body<'r>(
        &mut self,
        body: &[u8],
        all: &(impl Iterator<Item = Record<'r>> + Clone),
        ops: usize,
    ) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        self.check_space(body, all.clone())?;
        // What is durable must be shown, so memory for that comes first.
        self.index.reserve(all.clone())?;
        self.make_room_behind_pending(body.len(), ops)?;
        let index = self.pending_ops;
        let seq = self.journal.next_seq();
        let last = Revision::of(seq, index + ops - 1).ok_or(JournalError::NumbersUsedUp)?;
        let outcome = if index == 0 {
            self.journal.commit(body)
        } else {
            let before = self.pending.len();
            self.extend_pending(body)?;
            let outcome = self.journal.commit(&self.pending);
            self.settle_pending(outcome.is_ok(), before);
            outcome
        };
        let _durable = outcome?;
        self.durable = last;
        self.show(all.clone(), seq, index, last)?;
        self.after_commit();
        Ok(last)
    }

    /// Takes a record into the frame that is written next.
    fn buffer(&mut self, record: &Record<'_>) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        let mut body = core::mem::take(&mut self.body);
        body.clear();
        let outcome = record.encode(&mut body).and_then(|()| self.buffer_body(&body, *record));
        self.body = body;
        outcome
    }

    fn buffer_body(&mut self, body: &[u8], record: Record<'_>) -> Result<Revision, Error> {
        self.check_space(body, iter::once(record))?;
        self.index.reserve(iter::once(record))?;
        self.make_room_behind_pending(body.len(), 1)?;
        let (seq, index) = (self.journal.next_seq(), self.pending_ops);
        let revision = Revision::of(seq, index).ok_or(JournalError::NumbersUsedUp)?;
        self.extend_pending(body)?;
        self.pending_ops += 1;
        self.show(iter::once(record), seq, index, revision)?;
        Ok(revision)
    }

    fn extend_pending(&mut self, body: &[u8]) -> Result<(), Error> {
        self.pending.try_reserve(body.len()).map_err(|_| Error::NoMemory { len: body.len() })?;
        self.pending.extend_from_slice(body);
        Ok(())
    }

    /// Puts records into the index, which is all that readers see.
    fn show<'r>(
        &mut self,
        all: impl Iterator<Item = Record<'r>> + Clone,
        seq: u64,
        first: usize,
        last: Revision,
    ) -> Result<(), Error> {
        // All of them have one, because the last has.
        let revision = |nth| Revision::of(seq, first + nth).unwrap_or(last);
        self.index.apply_reserved(all.enumerate().map(|(nth, record)| (record, revision(nth))))?;
        self.last = last;
        self.idle = Idle::Active;
        // Out of memory it stays as it is, which is as right.
        if self.index.tidy().is_err() {
            self.given_up += 1;
        }
        Ok(())
    }

    /// Sees to it that the next frame has room for records of so many bytes behind what is pending.
    fn make_room_behind_pending(&mut self, len: usize, ops: usize) -> Result<(), Error> {
        let layout = *self.journal.layout();
        let together = self.pending.len() + len;
        let fits = together <= layout.body_len_max()
            && self.pending_ops + ops <= RECORDS_MAX
            && layout.blocks_of(together) <= self.journal.room();
        if fits {
            return Ok(());
        }
        self.write_pending()?;
        self.make_room(layout.blocks_of(len))
    }

    /// Writes what is pending, without making it durable.
    pub(crate) fn write_pending(&mut self) -> Result<(), Error> {
        if self.pending_ops == 0 {
            return Ok(());
        }
        let outcome = self.journal.write(&self.pending);
        self.settle_pending(outcome.is_ok(), self.pending.len());
        outcome.map(drop).map_err(Error::from)
    }

    /// What was pending has been written, or nobody knows: then nothing more is. Where nothing was written (for want of
    /// memory), it is what it was, `before` bytes long.
    fn settle_pending(&mut self, is_written: bool, before: usize) {
        if is_written || self.journal.failure().is_some() {
            self.pending.clear();
            self.pending_ops = 0;
        } else {
            self.pending.truncate(before);
        }
    }
}

/// The records of a body that this crate has encoded.
fn records(body: &[u8]) -> impl Iterator<Item = Record<'_>> + Clone {
    Records::encoded(body).map_while(Result::ok)
}
