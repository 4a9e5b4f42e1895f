//! What has changed, for those who watch.
//!
//! Invariants
//! - the ring holds every change behind `floor`, in the order of revisions; what is forgotten is forgotten from the oldest on,
//!   a batch as a whole.
//! - a change comes in when its frame is durable or at least written, so in order. What is written and not durable is in
//!   the ring and is not shown: a watcher never sees what a power cut can take back.
//! - the store's own records are never in it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use media::BlockDevice;

use crate::error::Error;
use crate::key::{self, Key, Prefix};
use crate::record::{Record, Revision};
use crate::store::Store;

/// How many changes are remembered at most.
pub const CHANGES_MAX: usize = 8192;

/// How many bytes of keys of changes are remembered at most.
pub const CHANGES_LEN_MAX: usize = 512 << 10;

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It was given a value, for the first time or anew.
    Put,
    /// Its value was taken away.
    Delete,
}

/// A durable change. The value is not in it: [`Store::get`] has the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of which key.
    pub key: Key,
    /// Of the write.
    pub revision: Revision,
    /// What was done.
    pub kind: ChangeKind,
}

/// What came after a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These, and no others.
    Events {
        /// In the order of revisions; those of a batch stand together.
        events: Vec<Change>,
        /// What to ask for next.
        next: Revision,
    },
    /// It is not known any more what came right after it: list everything, and go on from [`Store::durable_revision`] as it
    /// was before that.
    FellBehind {
        /// From here on it is known.
        oldest: Revision,
    },
}

/// A change in the ring.
#[derive(Debug, Clone, Copy)]
struct Event {
    revision: Revision,
    kind: ChangeKind,
    key_len: u8,
    /// Whether it ends its batch.
    is_last: bool,
    /// Where its key begins, counted over all keys that ever were in the ring.
    key_at: u64,
}

/// The last changes.
#[derive(Debug)]
pub(crate) struct Ring {
    events: VecDeque<Event>,
    keys: VecDeque<u8>,
    /// How many bytes of keys have been forgotten.
    forgotten_len: u64,
    /// Everything behind it is in the ring.
    floor: Revision,
}

impl Ring {
    /// Nothing is known of what came up to a revision.
    pub(crate) fn from(floor: Revision) -> Self {
        Self { events: VecDeque::new(), keys: VecDeque::new(), forgotten_len: 0, floor }
    }

    /// Takes note of a change of which nothing need be durable yet. Where there is no memory for it, all is forgotten, and
    /// whoever asks is told so.
    pub(crate) fn note(&mut self, record: &Record<'_>, revision: Revision, is_last: bool) {
        let (key, kind) = match *record {
            Record::Put { key, .. } | Record::Kept { key, .. } => (key, ChangeKind::Put),
            Record::Delete { key } => (key, ChangeKind::Delete),
            // Nothing changes by it.
            Record::Past { .. } => return,
        };
        if !key::is_users(key) {
            return;
        }
        let has_memory = self.events.try_reserve(1).is_ok() && self.keys.try_reserve(key.len()).is_ok();
        if has_memory {
            let key_len = u8::try_from(key.len()).unwrap_or(u8::MAX);
            let key_at = self.forgotten_len + u64::try_from(self.keys.len()).unwrap_or(u64::MAX);
            self.keys.extend(key.as_bytes());
            self.events.push_back(Event { revision, kind, key_len, is_last, key_at });
        } else {
            self.forget_all(revision);
        }
        self.keep_within_bounds();
    }

    /// The changes below a prefix that came after `since` and are durable, as [`Store::changes`] says.
    pub(crate) fn changes(
        &self,
        prefix: &Prefix,
        since: Revision,
        durable: Revision,
        max: usize,
    ) -> Result<Changes, Error> {
        if since >= durable {
            return Ok(Changes::Events { events: Vec::new(), next: since });
        }
        if since < self.floor {
            // What was buffered may have pushed out more than what is durable.
            return Ok(Changes::FellBehind { oldest: self.floor.min(durable) });
        }
        let (mut events, mut next) = (Vec::new(), since);
        let mut whole = 0;
        for event in self.between(since, durable) {
            if self.is_covered(event, prefix.as_str().as_bytes()) {
                events.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<Change>() })?;
                events.push(self.change(event)?);
            }
            if event.is_last {
                if events.len() > max && whole > 0 {
                    events.truncate(whole);
                    return Ok(Changes::Events { events, next });
                }
                whole = events.len();
                next = event.revision;
                if whole >= max.max(1) {
                    return Ok(Changes::Events { events, next });
                }
            }
        }
        Ok(Changes::Events { events, next: durable })
    }

    /// The events after a revision, up to another one.
    fn between(&self, after: Revision, until: Revision) -> impl Iterator<Item = &Event> {
        let first = self.events.partition_point(|event| event.revision <= after);
        let end = self.events.partition_point(|event| event.revision <= until);
        self.events.range(first..end.max(first))
    }

    /// The revision of the first change below a prefix after a revision, up to another one.
    #[cfg(feature = "std")]
    pub(crate) fn first_covered(
        &self,
        prefix: &Prefix,
        after: Revision,
        until: Revision,
    ) -> Option<Revision> {
        let mut between = self.between(after, until);
        between.find(|event| self.is_covered(event, prefix.as_str().as_bytes())).map(|event| event.revision)
    }

    /// Whether every change after a revision is remembered.
    #[cfg(feature = "std")]
    pub(crate) fn remembers_after(&self, revision: Revision) -> bool {
        self.floor <= revision
    }

    /// Hands over the key of each change after a revision, up to another one, in order.
    #[cfg(feature = "std")]
    pub(crate) fn each_after(&self, after: Revision, until: Revision, mut each: impl FnMut(&str, Revision)) {
        let mut key = Vec::new();
        for event in self.between(after, until) {
            key.clear();
            key.extend(self.key(event));
            each(core::str::from_utf8(&key).unwrap_or(""), event.revision);
        }
    }

    /// Takes the changes out, and leaves a ring that remembers what follows them.
    #[cfg(feature = "std")]
    pub(crate) fn take(&mut self) -> Self {
        let follows = self.events.back().map_or(self.floor, |last| last.revision);
        core::mem::replace(self, Self::from(follows))
    }

    /// Adds the changes of a ring that [`Ring::take`] left.
    #[cfg(feature = "std")]
    pub(crate) fn append(&mut self, later: &Self) {
        let last = self.events.back().map_or(self.floor, |last| last.revision);
        if !later.remembers_after(last) {
            self.forget_all(later.floor);
        }
        for event in &later.events {
            let has_memory = self.events.try_reserve(1).is_ok()
                && self.keys.try_reserve(usize::from(event.key_len)).is_ok();
            if has_memory {
                let key_at = self.forgotten_len + u64::try_from(self.keys.len()).unwrap_or(u64::MAX);
                self.keys.extend(later.key(event));
                self.events.push_back(Event { key_at, ..*event });
            } else {
                self.forget_all(event.revision);
            }
            self.keep_within_bounds();
        }
    }

    fn keep_within_bounds(&mut self) {
        while self.events.len() > CHANGES_MAX || self.keys.len() > CHANGES_LEN_MAX {
            self.forget_oldest();
        }
    }

    /// Forgets the oldest change, and with it the rest of its batch.
    fn forget_oldest(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let len = usize::from(event.key_len).min(self.keys.len());
            self.keys.drain(..len);
            self.forgotten_len += u64::from(event.key_len);
            self.floor = event.revision;
            if event.is_last {
                break;
            }
        }
    }

    fn forget_all(&mut self, up_to: Revision) {
        self.forgotten_len += u64::try_from(self.keys.len()).unwrap_or(u64::MAX);
        self.events.clear();
        self.keys.clear();
        self.floor = up_to;
    }

    fn is_covered(&self, event: &Event, prefix: &[u8]) -> bool {
        let mut key = self.key(event);
        prefix.iter().all(|byte| key.next() == Some(*byte)) && matches!(key.next(), None | Some(b'/'))
    }

    fn key(&self, event: &Event) -> impl Iterator<Item = u8> + use<'_> {
        let at = usize::try_from(event.key_at.saturating_sub(self.forgotten_len)).unwrap_or(usize::MAX);
        let end = at.saturating_add(usize::from(event.key_len)).min(self.keys.len());
        self.keys.range(at.min(end)..end).copied()
    }

    fn change(&self, event: &Event) -> Result<Change, Error> {
        let len = usize::from(event.key_len);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        bytes.extend(self.key(event));
        Ok(Change { key: Key::from_utf8(&bytes)?, revision: event.revision, kind: event.kind })
    }
}

impl<D: BlockDevice> Store<D> {
    /// Whether somebody else has written to the device since this store was opened to be read: for readers in another process,
    /// who open it anew then. It reads the superblocks and one block more. It may say so in vain, where the end is torn; it
    /// never misses a write that has come to its end.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn has_moved_on(&self) -> Result<bool, Error> {
        self.journal.has_moved_on().map_err(Error::from)
    }

    /// The durable changes below a prefix that came after `since`: about `max` of them, more only where the first batch alone
    /// has more, because a batch is not divided. [`Changes::Events::next`] is what to pass the next time.
    ///
    /// How many are remembered is bounded ([`CHANGES_MAX`], [`CHANGES_LEN_MAX`]), and nothing is remembered from before the
    /// store was opened: a caller that asks for what is forgotten is told that it fell behind. The writes of a
    /// [`Store::rotate`] are puts like any other.
    ///
    /// With exclusive access to a store that threads share, the changes of this access alone are remembered.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn changes(&self, prefix: &Prefix, since: Revision, max: usize) -> Result<Changes, Error> {
        self.changes.changes(prefix, since, self.durable, max)
    }
}
