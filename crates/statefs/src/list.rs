//! Listing, in order, page by page.

use alloc::vec::Vec;
use core::ops::Bound;

use media::BlockDevice;

use crate::error::Error;
use crate::index::Kept;
use crate::key::{Key, Prefix};
use crate::record::Revision;
use crate::store::Store;

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

impl<D: BlockDevice> Store<D> {
    /// The keys that a prefix covers, in order, from behind `after` on: at most `max` of them, and at most what
    /// [`crate::Limits::list_page_max`] says. To go on, pass [`Page::next`] as `after`.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn list(&self, prefix: &Prefix, after: Option<&Key>, max: usize) -> Result<Page<'_>, Error> {
        let bounds =
            Bounds { max: max.min(usize::from(self.limits.list_page_max)), keys: self.index.totals().keys };
        page(prefix, after, bounds, |wanted, entries| match wanted {
            Wanted::Itself(key) => {
                entries.extend(self.index.get(key).map(Listed::of));
                false
            }
            Wanted::Between(start, end) => {
                let mut between = self.index.range(start, Some(end));
                while entries.len() < bounds.max
                    && let Some(run) = between.run(bounds.max - entries.len())
                {
                    entries.extend(run.map(Listed::of));
                }
                between.next().is_some()
            }
        })
    }
}

/// How many entries a page may have, and how many keys there are at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max: usize,
    pub(crate) keys: u64,
}

/// What is to be added to a page.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'k> {
    /// This key, if there is one.
    Itself(&'k str),
    /// The keys from one on that come before another, until the page is full.
    Between(Bound<&'k str>, &'k str),
}

/// A page of what `add` adds; it says whether there is more.
pub(crate) fn page<'s>(
    prefix: &Prefix,
    after: Option<&Key>,
    bounds: Bounds,
    add: impl Fn(Wanted<'_>, &mut Vec<Listed<'s>>) -> bool,
) -> Result<Page<'s>, Error> {
    let max = bounds.max;
    let mut page = Page { entries: Vec::new(), next: None };
    let len = max.saturating_mul(size_of::<Listed<'_>>());
    let keys = usize::try_from(bounds.keys).unwrap_or(usize::MAX);
    page.entries.try_reserve_exact(max.min(keys)).map_err(|_| Error::NoMemory { len })?;
    let start = match after {
        Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.as_str()),
        Some(_) | None => Bound::Included(prefix.as_str()),
    };
    // What lies below a prefix does not stand right behind it: `/state/a-b` comes between `/state/a` and `/state/a/b`.
    let below = [prefix.as_str(), "/"].concat();
    if let (Bound::Included(key), 1..) = (start, max) {
        let _is_more = add(Wanted::Itself(key), &mut page.entries);
    }
    let start = match start {
        Bound::Excluded(after) if after >= below.as_str() => start,
        Bound::Excluded(_) | Bound::Included(_) | Bound::Unbounded => Bound::Included(below.as_str()),
    };
    // Right behind all that begins with a slash comes what begins with a zero.
    let end = [prefix.as_str(), "0"].concat();
    if add(Wanted::Between(start, &end), &mut page.entries) {
        page.next = page.entries.last().map(|last| Key::trusted(last.key));
    }
    Ok(page)
}
