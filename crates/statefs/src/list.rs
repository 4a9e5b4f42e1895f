//! Listing, in order, page by page.

use alloc::vec::Vec;
use core::ops::Bound;

use media::BlockDevice;

use crate::arena::Kept;
use crate::error::Error;
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

impl<D: BlockDevice> Store<D> {
    /// The keys that a prefix covers, in order, from behind `after` on: at most `max` of them, and at most what
    /// [`crate::Limits::list_page_max`] says. To go on, pass [`Page::next`] as `after`.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn list(&self, prefix: &Prefix, after: Option<&Key>, max: usize) -> Result<Page<'_>, Error> {
        let bounds =
            Bounds { max: max.min(usize::from(self.limits.list_page_max)), keys: self.index.totals().keys };
        page(|start| self.index.from(start).map(|kept| (kept.key, Some(kept))), prefix, after, bounds)
    }
}

/// How many entries a page may have, and how many keys there are at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max: usize,
    pub(crate) keys: u64,
}

/// A page of what `from` gives in order: keys, and what they have, if they have something.
pub(crate) fn page<'s, I: Iterator<Item = (&'s str, Option<Kept<'s>>)>>(
    from: impl Fn(Bound<&str>) -> I,
    prefix: &Prefix,
    after: Option<&Key>,
    bounds: Bounds,
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
    let below = alloc::format!("{prefix}/");
    let itself = from(start).next().filter(|(key, _)| *key == prefix.as_str());
    let start = match start {
        Bound::Excluded(after) if after >= below.as_str() => start,
        Bound::Excluded(_) | Bound::Included(_) | Bound::Unbounded => Bound::Included(below.as_str()),
    };
    let covered = from(start).take_while(|(key, _)| prefix.covers_text(key));
    for kept in itself.into_iter().chain(covered).filter_map(|(_, kept)| kept) {
        if page.entries.len() >= max {
            page.next = page.entries.last().map(|last| Key::trusted(last.key));
            break;
        }
        let listed = Listed { key: kept.key, revision: kept.revision, value_len: kept.value.len() };
        page.entries.push(listed);
    }
    Ok(page)
}
