//! Writing: what is asked for is checked, written as a frame, made durable, and only then shown.

use core::time::Duration;

use alloc::vec::Vec;

use journal::JournalError;
use media::BlockDevice;

use crate::batch::{Batch, Precondition};
use crate::commit::Delta;
use crate::error::Error;
use crate::history::charged;
use crate::index::{Found, Totals};
use crate::key::{self, Key};
use crate::record::{Form, Record, Records, Revision};
use crate::sealed::set_aside_for;
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
    /// By [`Error::kind`]: `Invalid`, `NoSpace` (a quota's as well), `Locked`, `NoMemory`, `ReadOnly`, `Io` (of a compaction
    /// that had to make room, or no random bytes to seal with): nothing has changed. `Poisoned`: after the next
    /// open the key has the old value or the new one; until then readers see the old one, and nothing is written any more.
    pub fn put(&mut self, key: &Key, value: &[u8]) -> Result<Revision, Error> {
        self.check_value(key.as_str(), value.len())?;
        self.commit_records(&[Record::Put { key: key.as_str(), value, form: Form::Plain }])
    }

    /// Takes a key's value away; [`None`] if it had none, and then no more is written than what was buffered.
    ///
    /// # Durability
    /// As [`Store::put`], for [`None`] as well: a key that is not there now is not there after a power cut.
    ///
    /// # Errors
    /// As [`Store::put`], and never `NoSpace` for want of room for live data: a delete always fits.
    pub fn delete(&mut self, key: &Key) -> Result<Option<Revision>, Error> {
        self.delete_stored(key.as_str())
    }

    /// Takes the value of a user's key, or of one of the store's own, away.
    pub(crate) fn delete_stored(&mut self, key: &str) -> Result<Option<Revision>, Error> {
        self.refuse_unless_writable()?;
        if self.index.get(key).is_none() {
            // It may have been taken away in memory only.
            if self.durable < self.last {
                let _durable = self.sync()?;
            }
            return Ok(None);
        }
        self.commit_records(&[Record::Delete { key }]).map(Some)
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
    ///
    /// A batch of deletes is never `NoSpace`. On a store that is nearly full a long one may be [`Error::BatchTooLong`]; divided
    /// into batches of `limit` bytes it fits, where a delete has two bytes and its key. That is at least a block, and from
    /// 8,420 blocks of a device on it is the limit of every batch.
    pub fn batch(&mut self, batch: &Batch) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        let sealed = self.check_batch(batch)?;
        self.commit_body(sealed.as_deref().unwrap_or(&batch.body), batch.len())
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
        self.check_value(key.as_str(), value.len())?;
        self.buffer(&Record::Put { key: key.as_str(), value, form: Form::Plain })
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
        if self.pending.ops > 0 {
            self.commit_pending()?;
        } else if self.journal.has_unflushed() {
            let _durable = self.journal.flush()?;
        }
        self.durable = self.last;
        Ok(self.durable)
    }

    /// Tells the store what time it is, counted from any moment that stays the same. When nothing has been written for 50
    /// milliseconds, it writes a seal, so that even the loss of the last commit would be noticed; what is buffered is then
    /// made durable as well.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn tick(&mut self, now: Duration) -> Result<(), Error> {
        if self.note_time(now) { self.seal_idle() } else { Ok(()) }
    }

    /// Takes note of the time, and returns whether the store has been idle for so long that it is to be sealed. Calls no
    /// device.
    pub(crate) fn note_time(&mut self, now: Duration) -> bool {
        self.quotas.tick(now);
        match self.idle {
            Idle::Sealed => false,
            Idle::Active => {
                self.idle = Idle::Since(now);
                false
            }
            Idle::Since(then) => now.saturating_sub(then) >= IDLE_BEFORE_SEAL,
        }
    }

    /// Makes everything durable, and writes a seal.
    pub(crate) fn seal_idle(&mut self) -> Result<(), Error> {
        let _durable = self.sync()?;
        self.journal.seal()?;
        self.idle = Idle::Sealed;
        Ok(())
    }

    /// Makes everything durable and leaves a mark that the store was closed, so that nothing can be lost unnoticed. A store
    /// that may only be read is let go.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn close(mut self) -> Result<(), Error> {
        self.shut()
    }

    /// What [`Store::close`] does.
    pub(crate) fn shut(&mut self) -> Result<(), Error> {
        if self.journal.read_only().is_some() {
            return Ok(());
        }
        let _durable = self.sync()?;
        self.journal.seal_for_good().map_err(Error::from)
    }

    /// Refuses a batch that cannot be carried out. Its body as it is stored, where that is another than it was handed in.
    pub(crate) fn check_batch(&mut self, batch: &Batch) -> Result<Option<Vec<u8>>, Error> {
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
            if let Record::Put { key, value, .. } = record {
                self.check_value(key, value.len())?;
            }
        }
        let sealed = self.sealed_body(&batch.body)?;
        match sealed.as_ref().map(Vec::len).filter(|len| *len > limit) {
            Some(requested) => Err(Error::BatchTooLong { limit, requested }),
            None => Ok(sealed),
        }
    }

    pub(crate) fn refuse_unless_writable(&self) -> Result<(), Error> {
        if let Some(why) = self.journal.read_only() {
            return Err(JournalError::ReadOnly { why }.into());
        }
        match self.journal.failure() {
            Some(cause) => Err(JournalError::Poisoned { cause: cause.clone() }.into()),
            None => Ok(()),
        }
    }

    pub(crate) fn check_value(&self, key: &str, len: usize) -> Result<(), Error> {
        let limit = self.value_len_max(key);
        let requested = u64::try_from(len).unwrap_or(u64::MAX);
        if requested > limit { Err(Error::ValueTooLong { limit, requested }) } else { Ok(()) }
    }

    fn check_keys_differ(&self, batch: &Batch) -> Result<(), Error> {
        if batch.len() < 2 {
            return Ok(());
        }
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

    /// Refuses what would not fit, before anything is written. Returns what showing it will change, and in `places` where
    /// its keys are: this is the one time that they are looked for.
    pub(crate) fn check_space<'r>(
        &mut self,
        body: &[u8],
        all: &(impl Iterator<Item = Record<'r>> + Clone),
        places: &mut Vec<Found>,
    ) -> Result<Delta, Error> {
        self.admit(all)?;
        places.clear();
        let history = self.index.history();
        let mut delta = Delta::default();
        let mut has_snapshots = !history.has_no_snapshots();
        let set_aside = self.sealing.set_aside();
        let mut next_set_aside = set_aside;
        let (mut ops, mut has_puts) = (0, false);
        for record in all.clone() {
            ops += 1;
            let found = self.index.find(record.key());
            places.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<Found>() })?;
            places.push(found);
            if let Some((revision, old)) = self.ahead_of(record.key(), || found) {
                delta.less = delta.less.plus(old);
                next_set_aside = next_set_aside.less(set_aside_for(record.key(), old));
                if history.keeps(record.key(), revision) {
                    delta.past = delta.past.plus(old.as_past());
                }
            }
            if let Record::Put { key, value, .. } = record {
                has_puts = true;
                let new = Totals::of(key.len(), value.len());
                delta.more = delta.more.plus(new);
                next_set_aside = next_set_aside.plus(set_aside_for(key, new));
                has_snapshots |= key::snapshot_of(key).is_some();
            }
        }
        let (live, past) = self.totals_ahead();
        let copied = charged(live, past, !history.has_no_snapshots());
        let used = copied.plus(set_aside);
        let next = charged(live.plus(delta.more).less(delta.less), past.plus(delta.past), has_snapshots);
        let next = next.plus(next_set_aside);
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
        let layout = self.journal.layout();
        let rotated_blocks = layout.blocks_of(self.sealing.rotated_len_max());
        let limit = self.space.capacity_blocks.min(self.space.capacity_before(rotated_blocks));
        if next_blocks > limit && next_blocks > used_blocks {
            return Err(Error::NoSpace { limit, used: used_blocks, requested: next_blocks });
        }
        // After a copy of what is alive now there must be room for the frame.
        let frame_blocks = layout.blocks_of(body.len());
        let (limit, used) =
            (self.space.capacity_before(frame_blocks), self.space.blocks_of(copied.record_bytes));
        if used <= limit || (!has_puts && self.fits_after_pending(body.len(), ops)) {
            return Ok(delta);
        }
        if has_puts {
            return Err(Error::NoSpace { limit, used, requested: used + frame_blocks });
        }
        Err(Error::BatchTooLong { limit: self.space.shrinking_len(), requested: body.len() })
    }

    pub(crate) fn commit_records(&mut self, all: &[Record<'_>]) -> Result<Revision, Error> {
        let mut body = core::mem::take(&mut self.body);
        body.clear();
        let outcome = all
            .iter()
            .try_for_each(|record| self.encode(record, &mut body))
            .and_then(|()| self.commit_body(&body, all.len()));
        self.body = body;
        outcome
    }

    /// Commits records, together with what is pending, and shows them.
    pub(crate) fn commit_body(&mut self, body: &[u8], ops: usize) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        // Nothing is on its way in a store that is borrowed, so there is nothing to wait for.
        let busy = JournalError::Outgoing { count: self.journal.outgoing() };
        let last = self.admit_body(body, ops)?.ok_or(busy)?;
        self.commit_pending()?;
        Ok(last)
    }

    /// Takes a record into the frame that is written next.
    pub(crate) fn buffer(&mut self, record: &Record<'_>) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        let mut body = core::mem::take(&mut self.body);
        body.clear();
        let outcome = self.encode(record, &mut body).and_then(|()| self.buffer_body(&body));
        self.body = body;
        outcome
    }
}

/// The records of a body that this crate has encoded.
pub(crate) fn records(body: &[u8]) -> impl Iterator<Item = Record<'_>> + Clone {
    Records::encoded(body).map_while(Result::ok)
}
