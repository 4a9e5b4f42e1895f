//! Snapshots: the store as it was, under a name, to be read until it is dropped.
//!
//! A snapshot is a record of the store's own: its key is `/snapshot/` and the name, its value the byte 1. It is written like
//! a put and survives like one, and the revision it gets is the moment that it shows. What it shows that keys no longer have
//! is kept by the [history](crate::history).
//!
//! The record is **valid if and only if** the name is one component of a key, of at most [`SnapshotName::LEN_MAX`] bytes, and
//! the value is that byte.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Bound;

use media::BlockDevice;

use crate::contents::Contents;
use crate::error::Error;
use crate::history::Versions;
use crate::index::Kept;
use crate::key::{self, Key, Prefix, SNAPSHOT_ROOT};
use crate::limits::Limits;
use crate::list::{Listed, Page, Reach};
use crate::record::{BadRecord, Form, Record, Revision};
use crate::store::{Certainty, Store, Value};

/// The most snapshots of a store.
pub const SNAPSHOTS_MAX: usize = 32;

/// What the record of a snapshot says beside its name: the version of this format.
const VALUE: [u8; 1] = [1];

/// The name of a snapshot: one component of a key, in its one form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(Box<str>);

/// Why a text is no name of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("the name is empty")]
    Empty,
    /// It is too long.
    #[error("the name is too long: len={len} limit={limit}")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// It is `.` or `..`.
    #[error("`.` and `..` are no names")]
    Dot,
    /// There is a slash in it.
    #[error("the name has a slash at byte {at}")]
    Slash {
        /// Where.
        at: usize,
    },
    /// There is a control character in it.
    #[error("the name has a control character at byte {at}")]
    ControlCharacter {
        /// Where.
        at: usize,
    },
}

impl SnapshotName {
    /// The most bytes of a name.
    pub const LEN_MAX: usize = 64;

    /// The name that a text is.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// As a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the snapshot's record.
    fn record_key(&self) -> alloc::string::String {
        alloc::format!("{SNAPSHOT_ROOT}/{self}")
    }
}

fn check(name: &str) -> Result<(), NameError> {
    let (len, limit) = (name.len(), SnapshotName::LEN_MAX);
    if len > limit {
        return Err(NameError::TooLong { len, limit });
    }
    match name {
        "" => return Err(NameError::Empty),
        "." | ".." => return Err(NameError::Dot),
        _ => {}
    }
    match name.char_indices().find(|(_, char)| *char == '/' || char.is_control()) {
        Some((at, '/')) => Err(NameError::Slash { at }),
        Some((at, _)) => Err(NameError::ControlCharacter { at }),
        None => Ok(()),
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::str::FromStr for SnapshotName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// The record, if it is not a snapshot's that is not valid.
pub(crate) fn checked(record: Record<'_>) -> Result<Record<'_>, BadRecord> {
    let Some(name) = key::snapshot_of(record.key()) else { return Ok(record) };
    check(name).map_err(|_| BadRecord::Key)?;
    match record {
        Record::Delete { .. } => Ok(record),
        Record::Put { value, form, .. } | Record::Kept { value, form, .. }
            if value == VALUE && form == Form::Plain =>
        {
            Ok(record)
        }
        Record::Put { .. } | Record::Kept { .. } | Record::Past { .. } => Err(BadRecord::Snapshot),
    }
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// When it was taken: it has what was written with a smaller revision, and nothing that came later.
    pub revision: Revision,
    /// Whether it is certain that it has not been dropped. Always [`Certainty::Certain`] in a store without damage.
    pub certainty: Certainty,
}

impl<D: BlockDevice> Store<D> {
    /// Takes a snapshot of everything that readers of this store see now, buffered puts included, and returns when that was.
    ///
    /// Nothing is copied. From now on a value that is overwritten or taken away is kept as long as a snapshot has it, and
    /// counts as live: for the device, and for [`crate::Limits::keys_max`] and [`crate::Limits::live_bytes_max`]. While there
    /// are snapshots, each key needs 8 bytes more, so that deletes always fit.
    ///
    /// # Durability
    /// `Ok`: the snapshot survives power loss, and so does everything written before it, what was buffered as well.
    ///
    /// # Errors
    /// [`Error::SnapshotExists`], [`Error::TooManySnapshots`]: nothing was written. Otherwise as [`Store::put`].
    pub fn snapshot(&mut self, name: &SnapshotName) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        let history = self.index.history();
        if let Some(revision) = history.snapshot(name.as_str()) {
            return Err(Error::SnapshotExists { name: name.clone(), revision });
        }
        let (limit, used) = (SNAPSHOTS_MAX, history.snapshots().len());
        if used >= limit {
            return Err(Error::TooManySnapshots { limit, used });
        }
        self.commit_records(&[Record::Put { key: &name.record_key(), value: &VALUE, form: Form::Plain }])
    }

    /// Drops a snapshot, and what only it had; [`None`] if there is none of that name, and then no more is written than what
    /// was buffered.
    ///
    /// # Durability
    /// As [`Store::delete`].
    ///
    /// # Errors
    /// As [`Store::delete`]: never `NoSpace` for want of room for live data.
    pub fn drop_snapshot(&mut self, name: &SnapshotName) -> Result<Option<Revision>, Error> {
        let dropped = self.delete_stored(&name.record_key())?;
        self.index.prune();
        Ok(dropped)
    }

    /// The snapshots there are, in the order of their names.
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> {
        self.index.snapshots()
    }

    /// The store as it was when a snapshot was taken; [`None`] if there is none of that name.
    #[must_use]
    pub fn at(&self, name: &SnapshotName) -> Option<SnapshotView<'_>> {
        self.index.at(name, &self.limits)
    }
}

impl Contents {
    /// The snapshots there are, in the order of their names.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = Snapshot> {
        self.history().snapshots().map(|(name, revision)| {
            let name = SnapshotName(name.into());
            let is_suspect = self.is_suspect(&name.record_key());
            let certainty = if is_suspect { Certainty::Suspect } else { Certainty::Certain };
            Snapshot { name, revision, certainty }
        })
    }

    /// What there was when a snapshot was taken.
    pub(crate) fn at(&self, name: &SnapshotName, limits: &Limits) -> Option<SnapshotView<'_>> {
        let revision = self.history().snapshot(name.as_str())?;
        Some(SnapshotView { contents: self, revision, page_max: usize::from(limits.list_page_max) })
    }
}

/// The store as it was.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotView<'s> {
    contents: &'s Contents,
    revision: Revision,
    page_max: usize,
}

impl<'s> SnapshotView<'s> {
    /// When the snapshot was taken.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The value that a key had; [`None`] if it had none.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Value<'s>> {
        let versions = self.contents.versions(Bound::Included(key.as_str())).next()?;
        let kept = self.of(&versions).filter(|kept| kept.key() == key.as_str())?;
        Some(self.value(kept))
    }

    /// Whether the value that a key had, or that it had none, is known. In a damaged store everything is known of what was so
    /// before anything was lost, and of values that came after that.
    #[must_use]
    pub fn certainty(&self, key: &Key) -> Certainty {
        match self.get(key) {
            Some(value) => value.certainty,
            None if self.is_whole() => Certainty::Certain,
            None => Certainty::Suspect,
        }
    }

    /// As [`Store::list`].
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn list(&self, prefix: &Prefix, after: Option<&Key>, max: usize) -> Result<Page<'s>, Error> {
        let max = max.min(self.page_max);
        let reach = Reach::of(prefix, after);
        let mut page = Page::with_room(max, self.contents.charged().keys)?;
        let kept =
            |start: Bound<&str>| self.contents.versions(start).filter_map(|versions| self.of(&versions));
        let itself = reach.itself.filter(|_| max > 0);
        let itself =
            itself.and_then(|key| kept(Bound::Included(key)).next().filter(|kept| kept.key() == key));
        page.entries.extend(itself.map(Listed::of));
        let mut between = kept(reach.start()).take_while(|kept| kept.key() < reach.end.as_str());
        let room = max.saturating_sub(page.entries.len());
        page.entries.extend(between.by_ref().take(room).map(Listed::of));
        let is_more = between.next().is_some();
        page.end(is_more);
        Ok(page)
    }

    /// Every key and the value it had, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Value<'s>)> + use<'s> {
        let view = *self;
        let users = self.stored(key::first_of_users());
        users.map(move |kept| (Key::trusted(kept.key()), view.value(kept)))
    }

    /// Whether everything in it is certain, and that there was nothing else.
    pub(crate) fn is_whole(&self) -> bool {
        self.contents.history().is_whole_at(self.revision)
    }

    /// The same as [`SnapshotView::stored`], as if nothing had happened since.
    pub(crate) fn current_versions(
        &self,
        start: Bound<&str>,
    ) -> impl Iterator<Item = Versions<'s>> + use<'s> {
        self.stored(start).map(Versions::only)
    }

    /// The records there were, those of the store's own included, but for those of snapshots.
    pub(crate) fn stored(&self, start: Bound<&str>) -> impl Iterator<Item = Kept<'s>> + use<'s> {
        let view = *self;
        let all = self.contents.versions(start).filter_map(move |versions| view.of(&versions));
        all.filter(|kept| key::snapshot_of(kept.key()).is_none())
    }

    /// Of all there is of a key, what it had then.
    fn of(&self, versions: &Versions<'s>) -> Option<Kept<'s>> {
        let past = versions.past_at(self.revision, self.contents.arena());
        past.or_else(|| versions.live_at(self.revision))
    }

    fn value(&self, kept: Kept<'s>) -> Value<'s> {
        let is_suspect = self.contents.is_suspect_value(&kept) && !self.is_whole();
        Value {
            bytes: kept.value(),
            revision: kept.revision(),
            certainty: if is_suspect { Certainty::Suspect } else { Certainty::Certain },
            form: kept.form(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_they_are_or_refused() {
        let longest = "n".repeat(SnapshotName::LEN_MAX);
        for name in ["a", "before the update", "v1.2", "...", "日本", &longest] {
            assert_eq!(SnapshotName::parse(name).unwrap().as_str(), name);
        }
        let too_long = "n".repeat(SnapshotName::LEN_MAX + 1);
        for (name, error) in [
            ("", NameError::Empty),
            (".", NameError::Dot),
            ("..", NameError::Dot),
            ("a/b", NameError::Slash { at: 1 }),
            ("/", NameError::Slash { at: 0 }),
            ("ä\n", NameError::ControlCharacter { at: 2 }),
            ("a\u{85}", NameError::ControlCharacter { at: 1 }),
            (&too_long, NameError::TooLong { len: 65, limit: 64 }),
        ] {
            assert_eq!(SnapshotName::parse(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn a_record_of_a_snapshot_has_one_form() {
        let put = |key, value, form| checked(Record::Put { key, value, form }).map(drop);
        assert_eq!(put("/snapshot/a", &[1], Form::Plain), Ok(()));
        assert_eq!(put("/snapshot/a", &[2], Form::Plain), Err(BadRecord::Snapshot));
        assert_eq!(put("/snapshot/a", &[], Form::Plain), Err(BadRecord::Snapshot));
        assert_eq!(put("/snapshot/a", &[1], Form::Sealed), Err(BadRecord::Snapshot));
        assert_eq!(put("/snapshot/a/b", &[1], Form::Plain), Err(BadRecord::Key));
        assert_eq!(put("/quota/a/b", &[7], Form::Plain), Ok(()));
        assert_eq!(checked(Record::Delete { key: "/snapshot/a" }).map(drop), Ok(()));
        let (revision, until) = (Revision::from_u64(1), Revision::from_u64(2));
        let past = Record::Past { key: "/snapshot/a", value: &VALUE, revision, until, form: Form::Plain };
        assert_eq!(checked(past), Err(BadRecord::Snapshot));
    }
}
