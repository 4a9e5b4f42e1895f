//! [`View`]: a store as it is at one moment, to be read without it.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use journal::{Layout, StoreId};
use media::BlockDevice;

use crate::backup::{Backup, BackupError, BackupFrom, BackupInfo, Progress, Source};
use crate::contents::Contents;
use crate::error::Error;
use crate::key::{Key, Prefix};
use crate::limits::Limits;
use crate::list::Page;
#[cfg(feature = "std")]
use crate::parts::{Part, SharedValue};
use crate::record::Revision;
use crate::snapshot::{Snapshot, SnapshotName, SnapshotView};
use crate::store::{Certainty, Store, Value};

/// The most views of different moments that [`Store::view`] gives out at a time.
pub const VIEWS_MAX: usize = 16;

/// What a view shows.
struct Moment {
    contents: Contents,
    last: Revision,
    next_seq: u64,
    layout: Layout,
    limits: Limits,
    store_id: StoreId,
}

/// What a view that counts keeps alive.
#[derive(Debug)]
struct Counted;

/// A store as it was when [`Store::view`] returned, buffered puts included. It stays so, whatever is written, deleted or
/// compacted later, and also when the store is closed or dropped.
///
/// A view is a few pointers; its clones share them. It may be read on any thread, without a lock. What it shows and the store
/// no longer has is kept in memory until the last clone is dropped: at most as much as was alive when it was taken.
#[derive(Clone)]
pub struct View {
    moment: Arc<Moment>,
    durable: Revision,
    /// Kept, and not read: the store looks whether it is still there.
    _counted: Option<Arc<Counted>>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("last_revision", &self.moment.last)
            .field("durable_revision", &self.durable)
            .finish_non_exhaustive()
    }
}

/// The views that a store has given out.
#[derive(Debug, Default)]
pub(crate) struct Views {
    /// The newest one, and how often the index had changed.
    newest: Option<(u64, Weak<Moment>)>,
    /// Those that count, and how often the index had changed.
    counted: Vec<(u64, Weak<Counted>)>,
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moment").field("last", &self.last).finish_non_exhaustive()
    }
}

impl<D: BlockDevice> Store<D> {
    /// Returns a view of the store as it is now.
    ///
    /// Views between which nothing was written share everything and count once. There may be [`VIEWS_MAX`] of different
    /// moments; one that is dropped makes room for another.
    ///
    /// # Durability
    /// A view shows what readers of this store see, so what was buffered may be in it before it is durable. Everything up to
    /// [`View::durable_revision`] was durable when the view was taken.
    ///
    /// # Errors
    /// [`Error::TooManyViews`]; [`Error::NoMemory`]. The store is as it was.
    pub fn view(&mut self) -> Result<View, Error> {
        let changes = self.index.changes();
        let counted = &mut self.views.counted;
        counted.retain(|(_, counted)| counted.strong_count() > 0);
        let same = counted.iter().find(|(at, _)| *at == changes);
        let same = same.and_then(|(_, counted)| counted.upgrade());
        if same.is_none() {
            if counted.len() >= VIEWS_MAX {
                return Err(Error::TooManyViews { limit: VIEWS_MAX });
            }
            let len = size_of::<(u64, Weak<Counted>)>();
            counted.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        }
        let view = self.view_for_readers()?;
        let counted = same.unwrap_or_else(|| {
            let counted = Arc::new(Counted);
            self.views.counted.push((changes, Arc::downgrade(&counted)));
            counted
        });
        Ok(View { _counted: Some(counted), ..view })
    }

    /// The same for the store's own use: it does not count.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the store is as it was.
    pub(crate) fn view_for_readers(&mut self) -> Result<View, Error> {
        let (changes, durable) = (self.index.changes(), self.durable);
        let newest = self.views.newest.as_ref().filter(|(at, _)| *at == changes);
        if let Some(moment) = newest.and_then(|(_, moment)| moment.upgrade()) {
            return Ok(View { moment, durable, _counted: None });
        }
        let contents = self.index.view()?;
        let moment = Arc::new(Moment {
            contents,
            last: self.last,
            next_seq: self.journal.next_seq(),
            layout: *self.journal.layout(),
            limits: self.limits,
            store_id: self.journal.store_id(),
        });
        self.views.newest = Some((changes, Arc::downgrade(&moment)));
        Ok(View { moment, durable, _counted: None })
    }

    /// Returns the value of a key, which stays as it is when the store is no longer borrowed. It is not a view: nothing is
    /// closed or reserved. A value that was written last is copied; any other one shares its memory.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    #[cfg(feature = "std")]
    pub(crate) fn value_for_reader(&self, key: &Key) -> Result<Option<SharedValue>, Error> {
        self.index.shared_value(key.as_str())
    }

    /// The same for a scan: copies its entries, 28 bytes a key, and shares the memory of keys and values.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    #[cfg(feature = "std")]
    pub(crate) fn part_for_reader(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Part, Error> {
        self.index.part(prefix, after, limit)
    }
}

impl View {
    /// The value of a key; [`None`] if it had none.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Value<'_>> {
        let contents = &self.moment.contents;
        contents.get(key.as_str()).map(|kept| contents.value_of(kept))
    }

    /// As [`Store::certainty`].
    #[must_use]
    pub fn certainty(&self, key: &Key) -> Certainty {
        if self.moment.contents.is_suspect(key.as_str()) { Certainty::Suspect } else { Certainty::Certain }
    }

    /// As [`Store::list`].
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn list(&self, prefix: &Prefix, after: Option<&Key>, max: usize) -> Result<Page<'_>, Error> {
        self.moment.contents.list(prefix, after, max.min(usize::from(self.moment.limits.list_page_max)))
    }

    /// As [`Store::scan`].
    ///
    /// # Errors
    /// As [`Store::scan`].
    pub fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
        each: impl FnMut(&str, Value<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Key>, Error> {
        Ok(self.moment.contents.scan(prefix, after, limit, each))
    }

    /// Every key and its value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Value<'_>)> {
        self.moment.contents.users()
    }

    /// The limits the store was formatted with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.moment.limits
    }

    /// Everything with a revision up to this one was durable when the view was taken.
    #[must_use]
    pub fn durable_revision(&self) -> Revision {
        self.durable
    }

    /// The revision of the last write that the view shows.
    #[must_use]
    pub fn last_revision(&self) -> Revision {
        self.moment.last
    }

    /// The snapshots there were, in the order of their names.
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> {
        self.moment.contents.snapshots()
    }

    /// The store as it was when a snapshot was taken; [`None`] if there was none of that name.
    #[must_use]
    pub fn at(&self, name: &SnapshotName) -> Option<SnapshotView<'_>> {
        self.moment.contents.at(name, &self.moment.limits)
    }

    /// As [`Store::begin_backup`]. A backup of a view is never overtaken.
    ///
    /// # Errors
    /// As [`Store::begin_backup`].
    pub fn begin_backup(&self, source: Source<'_>) -> Result<Backup, Error> {
        Backup::begin(self, source)
    }

    /// As [`Store::backup`].
    ///
    /// # Errors
    /// As [`Store::backup`].
    pub fn backup<E: core::error::Error + 'static>(
        &self,
        source: Source<'_>,
        to: impl FnMut(&[u8]) -> Result<(), E>,
        progress: impl FnMut(Progress),
    ) -> Result<BackupInfo, BackupError<E>> {
        Backup::write(self, source, to, progress)
    }
}

impl<'v> From<&'v View> for BackupFrom<'v> {
    fn from(view: &'v View) -> Self {
        let Moment { contents, last, next_seq, layout, limits, store_id } = &*view.moment;
        Self::new(contents, *last, *next_seq, layout, limits, *store_id)
    }
}

#[cfg(test)]
mod tests;
