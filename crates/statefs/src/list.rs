//! Listing, in order, page by page.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use media::BlockDevice;

use crate::contents::Contents;
use crate::error::Error;
use crate::index::Kept;
use crate::key::{Key, Prefix};
use crate::record::Revision;
use crate::store::{Store, Value};

/// A key of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'s> {
    /// The key, as a text.
    pub key: &'s str,
    /// Of its value.
    pub revision: Revision,
    /// Bytes of its value.
    pub value_len: usize,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<'s> {
    /// In the order of the bytes of their keys.
    pub entries: Vec<Listed<'s>>,
    /// Where the next page goes on; [`None`] if there is none.
    pub next: Option<Key>,
}

impl<'s> Listed<'s> {
    #[inline]
    pub(crate) fn of(kept: Kept<'s>) -> Self {
        Self { key: kept.key(), revision: kept.revision(), value_len: kept.value_len() }
    }
}

/// The part of the order of keys that a listing goes through.
pub(crate) struct Reach<'k> {
    /// The prefix as a key, if the listing begins there.
    pub(crate) itself: Option<&'k str>,
    after: Option<&'k str>,
    below: String,
    /// What follows all of it.
    pub(crate) end: String,
}

impl<'k> Reach<'k> {
    /// What `prefix` covers, from behind `after` on.
    pub(crate) fn of(prefix: &'k Prefix, after: Option<&'k Key>) -> Self {
        let after = after.map(Key::as_str).filter(|after| *after >= prefix.as_str());
        let itself = if after.is_none() { Some(prefix.as_str()) } else { None };
        // What lies below a prefix does not follow it directly: `/state/a-b` comes between `/state/a` and `/state/a/b`.
        // All that begins with a slash is followed by what begins with a zero.
        let [below, end] = ["/", "0"].map(|last| [prefix.as_str(), last].concat());
        Self { itself, after, below, end }
    }

    /// Where the keys below the prefix begin.
    pub(crate) fn start(&self) -> Bound<&str> {
        match self.after {
            Some(after) if after >= self.below.as_str() => Bound::Excluded(after),
            Some(_) | None => Bound::Included(&self.below),
        }
    }
}

impl Contents {
    /// See [`Store::list`].
    pub(crate) fn list(&self, prefix: &Prefix, after: Option<&Key>, max: usize) -> Result<Page<'_>, Error> {
        let reach = Reach::of(prefix, after);
        let mut page = Page::with_room(max, self.totals().keys)?;
        let entries = &mut page.entries;
        let listed = |entry| Listed::of(Kept { arena: self.arena(), entry });
        entries.extend(reach.itself.filter(|_| max > 0).and_then(|key| self.get(key)).map(Listed::of));
        let mut between = self.entries(reach.start(), Some(&reach.end));
        while entries.len() < max
            && let Some(run) = between.run(max - entries.len())
        {
            entries.extend(run.iter().map(listed));
        }
        page.end(between.peek().is_some());
        Ok(page)
    }
}

impl Page<'_> {
    /// An empty page for at most `max` entries, of which there are no more than `keys`.
    pub(crate) fn with_room(max: usize, keys: u64) -> Result<Self, Error> {
        let mut page = Page { entries: Vec::new(), next: None };
        let len = max.saturating_mul(size_of::<Listed<'_>>());
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        page.entries.try_reserve_exact(max.min(keys)).map_err(|_| Error::NoMemory { len })?;
        Ok(page)
    }

    /// Says where the next page goes on.
    pub(crate) fn end(&mut self, is_more: bool) {
        if is_more {
            self.next = self.entries.last().map(|last| Key::trusted(last.key));
        }
    }
}

impl<D: BlockDevice> Store<D> {
    /// The keys that a prefix covers, in order, from behind `after` on: at most `max` of them, and at most what
    /// [`crate::Limits::list_page_max`] says. To go on, pass [`Page::next`] as `after`.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn list(&self, prefix: &Prefix, after: Option<&Key>, max: usize) -> Result<Page<'_>, Error> {
        self.index.list(prefix, after, max.min(usize::from(self.limits.list_page_max)))
    }

    /// Calls `each` for at most `limit` of the keys that a prefix covers, in order, from behind `after` on, until it says that
    /// it has enough. Returns the last key that it was called for, to go on after it; [`None`] if no key follows.
    ///
    /// # Errors
    /// None today. One is returned where a scan needs memory.
    pub fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
        each: impl FnMut(&str, Value<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Key>, Error> {
        Ok(self.index.scan(prefix, after, limit, each))
    }
}
