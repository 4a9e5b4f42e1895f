//! What becomes of one request when a leader looks at it, and how it is served where that takes calls of the device.

use media::BlockDevice;

use crate::batch::Batch;
use crate::commit::{Admission, Admitted};
use crate::error::Error;
use crate::record::{Record, Revision};
use crate::sealed::SEALED_OVERHEAD;
use crate::shared::queue::{Answer, Ask};
use crate::store::Store;
use crate::write::records;

/// What a request needs.
pub(super) enum Needs {
    /// Nothing more: it has this answer when a frame is durable.
    Frame(Answer),
    /// Nothing more: it has this answer now.
    Nothing(Answer),
    /// The end of a frame.
    Time,
    /// The store out of its lock.
    Store,
    /// So many nonces.
    Nonces(usize),
}

impl<D: BlockDevice> Store<D> {
    /// Takes one request into the frame that is gathered, as far as that needs no call of foreign code.
    pub(super) fn take_in(&mut self, ask: &Ask, has_source: bool) -> Result<Needs, Error> {
        self.refuse_unless_writable()?;
        self.note_unshown()?;
        match ask {
            Ask::Sync => Ok(Needs::Frame(Answer::Synced(self.durable_revision()))),
            Ask::Delete(key) if self.ahead(key.as_str()).is_none() => Ok(Needs::Frame(Answer::WasAbsent)),
            Ask::Delete(key) => {
                let mut body = Vec::new();
                Record::Delete { key: key.as_str() }.encode(&mut body)?;
                self.ride(&body, 1)
            }
            Ask::Batch(batch) => {
                if let Some(needs) = self.needed_to_encrypt(batch, has_source) {
                    return Ok(needs);
                }
                let sealed = self.check_batch(batch)?;
                self.ride(sealed.as_deref().unwrap_or(&batch.body), batch.len())
            }
            Ask::Buffer(batch) => self.take_in_buffered(batch, has_source),
            Ask::BufferDelete(key) if self.unshown.has(key.as_str()) => Ok(Needs::Time),
            Ask::BufferDelete(key) if self.ahead(key.as_str()).is_none() => {
                Ok(Needs::Nothing(Answer::WasAbsent))
            }
            Ask::BufferDelete(key) => {
                let mut batch = Batch::new();
                batch.delete(key)?;
                self.take_in_buffered(&batch, has_source)
            }
            Ask::Turn(_) => Ok(Needs::Store),
        }
    }

    fn take_in_buffered(&mut self, batch: &Batch, has_source: bool) -> Result<Needs, Error> {
        let Some(record) = records(&batch.body).next() else { return Err(Error::EmptyBatch) };
        // Readers see a buffered change at once, so nothing about the key may be waiting to be seen before it.
        if self.unshown.has(record.key()) || !self.pending.shows_nothing() {
            return Ok(Needs::Time);
        }
        if let Some(needs) = self.needed_to_encrypt(batch, has_source) {
            return Ok(needs);
        }
        self.check_record(&record)?;
        let mut body = Vec::new();
        self.encode(&record, &mut body)?;
        self.buffer_at_once(&body).map(|admitted| match admitted {
            Admitted::Taken(revision) => Needs::Nothing(Answer::Written(revision)),
            Admitted::Wait => Needs::Time,
            Admitted::NeedsRoom => Needs::Store,
        })
    }

    /// What a batch with values to encrypt needs before it is looked at; [`None`], if there are none, or everything is there. A
    /// value is encrypted once, so there must be room for it first.
    fn needed_to_encrypt(&self, batch: &Batch, has_source: bool) -> Option<Needs> {
        let nonces = self.nonces_for(&batch.body);
        if nonces == 0 {
            return None;
        }
        let overhead = usize::try_from(SEALED_OVERHEAD).unwrap_or(usize::MAX);
        let len = batch.body.len().saturating_add(nonces.saturating_mul(overhead));
        let missing = nonces.saturating_sub(self.sealing.nonces.drawn());
        match self.admission(len, batch.len()) {
            Admission::Wait => Some(Needs::Time),
            Admission::NeedsRoom => Some(Needs::Store),
            // Otherwise it would be encrypted now, and once more when there is room in flight.
            Admission::Fits if !self.may_begin(len) => Some(Needs::Time),
            Admission::Fits => Some(Needs::Nonces(missing)).filter(|_| has_source && missing > 0),
        }
    }

    pub(super) fn body_len_max(&self) -> usize {
        self.journal.layout().body_len_max()
    }

    /// How many nonces are needed to encrypt a body.
    pub(super) fn nonces_for(&self, body: &[u8]) -> usize {
        self.sealing.nonces_for(records(body))
    }

    fn ride(&mut self, body: &[u8], ops: usize) -> Result<Needs, Error> {
        if !self.may_begin(body.len()) {
            return Ok(Needs::Time);
        }
        self.admit_at_once(body, ops).map(|admitted| match admitted {
            Admitted::Taken(last) => Needs::Frame(Answer::Written(last)),
            Admitted::Wait => Needs::Time,
            Admitted::NeedsRoom => Needs::Store,
        })
    }

    /// Serves one request with the blocking calls of the store.
    pub(super) fn serve(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let deleted = |revision: Option<_>| revision.map_or(Answer::WasAbsent, Answer::Written);
        match ask {
            Ask::Sync => self.sync().map(Answer::Synced),
            Ask::Delete(key) => self.delete(key).map(deleted),
            Ask::Batch(batch) => self.batch(batch).map(Answer::Written),
            Ask::Buffer(batch) => {
                let record = records(&batch.body).next().ok_or(Error::EmptyBatch)?;
                self.buffer_record(&record).map(Answer::Written)
            }
            Ask::BufferDelete(key) => self.delete_buffered(key).map(deleted),
            Ask::Turn(_) => Err(Error::Closed),
        }
    }

    /// Buffers a record of a user.
    fn buffer_record(&mut self, record: &Record<'_>) -> Result<Revision, Error> {
        self.check_record(record)?;
        self.buffer(record)
    }

    fn check_record(&self, record: &Record<'_>) -> Result<(), Error> {
        record.value().map_or(Ok(()), |(key, value)| self.check_value(key, value.len()))
    }
}
