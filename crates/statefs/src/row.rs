//! The row: leaves in the order of their keys, and which of them a key belongs into.
//!
//! Leaves are nodes of a [table](crate::table) and keep their numbers; [`LeafId`] is the number. The row is the order of these
//! numbers, in bunches of at most 256, so that putting a leaf in or taking one out moves one bunch, however many
//! leaves there are. With each bunch are the [heads](crate::heads) of the first keys of its leaves, and with the row those of
//! its bunches.
//!
//! Leaves and bunches are shared with views. A [`Row`] is what readers need; what changes it is [`crate::upkeep`].
//!
//! Invariants
//! - the keys of a leaf are smaller than those of the next one.
//! - a bunch has at least one leaf, and as many heads; there are as many heads of bunches as bunches that have a leaf. An empty
//!   row may have one empty bunch, which it begins with.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::mem;

use crate::arena::Arena;
use crate::error::Error;
use crate::heads::Heads;
use crate::leaf::{At, Leaf, Slot};
use crate::table::{Table, copied};

/// The number of a leaf, which it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeafId(pub(crate) u32);

impl LeafId {
    /// No leaf: the row is empty.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// As an index.
    pub(crate) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A place in the row: which bunch, and which leaf of it. It changes when leaves before it come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) bunch: usize,
    pub(crate) leaf: usize,
}

impl Spot {
    /// The first leaf.
    pub(crate) const FIRST: Self = Self { bunch: 0, leaf: 0 };
    /// After every leaf.
    pub(crate) const END: Self = Self { bunch: usize::MAX, leaf: 0 };
}

/// Where a key is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Located {
    pub(crate) spot: Spot,
    pub(crate) id: LeafId,
    /// Where in the leaf it is, or would be.
    pub(crate) within: Result<usize, usize>,
}

/// Leaves that follow each other.
#[derive(Debug, Default)]
pub(crate) struct Bunch {
    pub(crate) heads: Heads,
    pub(crate) ids: Vec<LeafId>,
}

impl Bunch {
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), Error> {
        let len = count.saturating_mul(size_of::<LeafId>());
        self.ids.try_reserve(count).map_err(|_| Error::NoMemory { len })?;
        self.heads.reserve(count)
    }

    /// Returns a copy with room for so many leaves more, and how many bytes were copied.
    pub(crate) fn try_clone(&self, room: usize) -> Result<(Self, usize), Error> {
        let len = self.ids.len() * (size_of::<LeafId>() + size_of::<u64>()) + size_of::<Self>();
        Ok((Self { heads: self.heads.try_clone(room)?, ids: copied(&self.ids, room)? }, len))
    }
}

/// Leaves in the order of their keys.
#[derive(Debug)]
pub(crate) struct Row<S> {
    pub(crate) leaves: Table<Leaf<S>>,
    pub(crate) bunches: Vec<Arc<Bunch>>,
    pub(crate) heads: Heads,
}

impl<S> Default for Row<S> {
    fn default() -> Self {
        Self { leaves: Table::default(), bunches: Vec::new(), heads: Heads::default() }
    }
}

impl<S: Slot> Row<S> {
    /// Returns a copy that shares all bunches and leaves.
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self {
            leaves: self.leaves.try_clone()?,
            bunches: copied(&self.bunches, 0)?,
            heads: self.heads.try_clone(0)?,
        })
    }

    /// Whether it has no leaf.
    pub(crate) fn is_empty(&self) -> bool {
        self.heads.len() == 0
    }

    /// A leaf by its number.
    #[inline]
    pub(crate) fn leaf(&self, id: LeafId) -> Option<&Leaf<S>> {
        self.leaves.get(id.index())
    }

    /// The number of the leaf at a place.
    pub(crate) fn id(&self, spot: Spot) -> Option<LeafId> {
        self.bunches.get(spot.bunch)?.ids.get(spot.leaf).copied()
    }

    /// The leaf at a place.
    pub(crate) fn at(&self, spot: Spot) -> Option<&Leaf<S>> {
        self.leaf(self.id(spot)?)
    }

    /// The first entry of a leaf of the row.
    pub(crate) fn first(&self, id: LeafId) -> Option<&S> {
        self.leaf(id).and_then(Leaf::first)
    }

    /// The first key of a leaf of the row.
    pub(crate) fn first_key<'a>(&self, id: LeafId, arena: &'a Arena) -> &'a [u8] {
        self.first(id).map_or(&[], |slot| slot.key(arena))
    }

    /// The place of the last leaf.
    pub(crate) fn last(&self) -> Option<Spot> {
        let bunch = self.bunches.len().checked_sub(1).filter(|_| !self.is_empty())?;
        let leaf = self.bunches.last()?.ids.len().checked_sub(1)?;
        Some(Spot { bunch, leaf })
    }

    /// The place that follows a leaf, whether there is another leaf or not.
    pub(crate) fn next(&self, spot: Spot) -> Spot {
        let is_within = self.bunches.get(spot.bunch).is_some_and(|bunch| spot.leaf + 1 < bunch.ids.len());
        if is_within {
            Spot { leaf: spot.leaf + 1, ..spot }
        } else {
            Spot { bunch: spot.bunch.saturating_add(1), leaf: 0 }
        }
    }

    /// The place of the leaf before.
    pub(crate) fn before(&self, spot: Spot) -> Option<Spot> {
        if let Some(leaf) = spot.leaf.checked_sub(1) {
            return Some(Spot { leaf, ..spot });
        }
        let bunch = spot.bunch.checked_sub(1)?;
        let leaf = self.bunches.get(bunch)?.ids.len().checked_sub(1)?;
        Some(Spot { bunch, leaf })
    }

    /// Where the heads say that a key is.
    #[inline]
    fn descend(&self, key: &[u8]) -> Option<Spot> {
        let bunch_at = self.heads.last_not_after(self.heads.head_of(key));
        let bunch = self.bunches.get(bunch_at)?;
        let leaf = bunch.heads.last_not_after(bunch.heads.head_of(key));
        (leaf < bunch.ids.len()).then_some(Spot { bunch: bunch_at, leaf })
    }

    /// Returns where an entry is, dead or not; [`None`] if it is not there. One that is there is mostly found without a look
    /// at another key.
    #[inline]
    pub(crate) fn find(&self, at: &At<'_>, arena: &Arena) -> Option<(LeafId, usize)> {
        let spot = self.descend(at.key)?;
        let id = self.id(spot)?;
        if let Some(within) = self.leaf(id)?.find(at, arena) {
            return Some((id, within));
        }
        let Located { id, within, .. } = self.locate(at, arena);
        within.ok().map(|within| (id, within))
    }

    /// Where an entry would be that follows all others; [`None`] if it does not.
    pub(crate) fn behind_all(&self, at: &At<'_>, arena: &Arena) -> Option<Located> {
        let spot = self.last()?;
        let id = self.id(spot)?;
        let leaf = self.leaf(id)?;
        let is_behind = leaf.last()?.order(at, arena) == Ordering::Less;
        is_behind.then(|| Located { spot, id, within: Err(leaf.len()) })
    }

    /// Where an entry is or would be: in the last leaf that does not begin after it, or in the first one. In an empty row
    /// this is [`LeafId::NONE`].
    pub(crate) fn locate(&self, at: &At<'_>, arena: &Arena) -> Located {
        let near = self.descend(at.key);
        let before = near.and_then(|spot| self.before(spot));
        let located = [near, before].into_iter().flatten().find_map(|spot| self.locate_in(spot, at, arena));
        located.unwrap_or_else(|| {
            // The heads led astray, so all of this is decided by keys.
            let spot = self.spot_of(at, arena);
            let id = self.id(spot).unwrap_or(LeafId::NONE);
            let within = self.leaf(id).map_or(Err(0), |leaf| leaf.search(at, arena));
            Located { spot, id, within }
        })
    }

    /// The same, if it is in this leaf or would be.
    fn locate_in(&self, spot: Spot, at: &At<'_>, arena: &Arena) -> Option<Located> {
        let id = self.id(spot)?;
        let leaf = self.leaf(id)?;
        if spot > Spot::FIRST && leaf.first()?.order(at, arena) == Ordering::Greater {
            return None;
        }
        let within = leaf.search(at, arena);
        let is_last = within == Err(leaf.len());
        let next = if is_last { self.id(self.next(spot)).and_then(|next| self.first(next)) } else { None };
        let is_here = next.is_none_or(|next| next.order(at, arena) == Ordering::Greater);
        is_here.then_some(Located { spot, id, within })
    }

    /// The leaf in which an entry is, if it is anywhere, by comparing keys.
    fn spot_of(&self, at: &At<'_>, arena: &Arena) -> Spot {
        let is_not_after =
            |id: &LeafId| self.first(*id).is_some_and(|first| first.order(at, arena) != Ordering::Greater);
        let bunch = self.bunches.partition_point(|bunch| bunch.ids.first().is_some_and(is_not_after));
        let bunch = bunch.saturating_sub(1);
        let ids = self.bunches.get(bunch).map_or(&[][..], |bunch| &bunch.ids);
        Spot { bunch, leaf: ids.partition_point(is_not_after).saturating_sub(1) }
    }

    /// What was found in a leaf; an entry that is dead is missing.
    pub(crate) fn alive_or_missing(&self, id: LeafId, within: Result<usize, usize>) -> Result<usize, usize> {
        let is_alive = |at: &usize| self.leaf(id).is_some_and(|leaf| leaf.is_alive(*at));
        within.and_then(|at| if is_alive(&at) { Ok(at) } else { Err(at) })
    }

    /// The place of a leaf of the row.
    pub(crate) fn spot_of_leaf(&self, id: LeafId, arena: &Arena) -> Spot {
        let Some(first) = self.first(id) else { return Spot::END };
        let at = At { key: first.key(arena), rank: first.rank() };
        match self.descend(at.key) {
            Some(spot) if self.id(spot) == Some(id) => spot,
            Some(_) | None => self.spot_of(&at, arena),
        }
    }

    /// The leaves, in order.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Leaf<S>> {
        self.bunches.iter().flat_map(|bunch| &bunch.ids).filter_map(|id| self.leaf(*id))
    }

    /// The entries that are alive, in order.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &S> {
        self.leaves().flat_map(Leaf::alive)
    }

    /// The entries from one place on that come before another, in order.
    pub(crate) fn range<'a>(
        &'a self,
        arena: &'a Arena,
        start: Option<(At<'_>, bool)>,
        end: Option<At<'_>>,
    ) -> Range<'a, S> {
        let place = |at: &At<'_>, excluded: usize| {
            let Located { spot, within, .. } = self.locate(at, arena);
            (spot, within.map_or_else(|within| within, |within| within + excluded))
        };
        let (first, from) =
            start.map_or((Spot::FIRST, 0), |(at, is_excluded)| place(&at, usize::from(is_excluded)));
        let (last, to) = end.map_or((Spot::END, 0), |end| place(&end, 0));
        let part = |spot: Spot, from: usize, to: Option<usize>| {
            self.at(spot).map_or(&[][..], |leaf| leaf.part(from, to.unwrap_or(leaf.len())))
        };
        let (now, last_part): (&[S], &[S]) = match first == last {
            true => (part(first, from, Some(to)), &[]),
            false if first < last => (part(first, from, None), part(last, 0, Some(to))),
            false => (&[], &[]),
        };
        let next = self.next(first);
        Range { row: self, now: now.iter(), next, end: last, last: last_part }
    }

    #[cfg(test)]
    pub(crate) fn check(&self, bunch_max: usize, arena: &Arena) {
        let firsts = self.bunches.iter().filter_map(|bunch| bunch.ids.first());
        assert_eq!(firsts.clone().count(), self.heads.len());
        assert!(self.bunches.len() <= self.heads.len().max(1));
        self.heads.check(firsts.map(|id| self.first_key(*id, arena)));
        for bunch in &self.bunches {
            assert!(bunch.ids.len() == bunch.heads.len() && bunch.ids.len() <= bunch_max);
            bunch.heads.check(bunch.ids.iter().map(|id| self.first_key(*id, arena)));
        }
        self.leaves().for_each(|leaf| leaf.check(arena));
    }

    /// Bytes of memory, that of the leaves included.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        let bunch = |bunch: &Arc<Bunch>| {
            bunch.ids.capacity() * size_of::<LeafId>() + bunch.heads.memory_len() + size_of::<Bunch>() + 16
        };
        self.leaves.iter().map(Leaf::memory_len).sum::<usize>()
            + self.leaves.memory_len()
            + self.bunches.iter().map(bunch).sum::<usize>()
            + self.bunches.capacity() * size_of::<Arc<Bunch>>()
            + self.heads.memory_len()
    }
}

/// Entries in order.
#[derive(Debug)]
pub(crate) struct Range<'a, S> {
    now: core::slice::Iter<'a, S>,
    row: &'a Row<S>,
    /// The leaves from `next` on that precede `end` follow as a whole, and then `last`.
    next: Spot,
    end: Spot,
    last: &'a [S],
}

impl<'a, S: Slot> Range<'a, S> {
    /// The next ones that lie in a row, at most `max`; [`None`] if there are no more.
    pub(crate) fn run(&mut self, max: usize) -> Option<&'a [S]> {
        while self.now.as_slice().is_empty() {
            self.turn()?;
        }
        let (run, rest) = self.now.as_slice().split_at(max.min(self.now.len()));
        self.now = rest.iter();
        Some(run)
    }

    /// The next one, which stays.
    pub(crate) fn peek(&mut self) -> Option<&'a S> {
        while self.now.as_slice().is_empty() {
            self.turn()?;
        }
        self.now.as_slice().first()
    }

    /// Goes on to the next leaf.
    fn turn(&mut self) -> Option<()> {
        let whole = if self.next < self.end { self.row.at(self.next) } else { None };
        self.now = match whole {
            Some(leaf) => {
                self.next = self.row.next(self.next);
                leaf.alive().iter()
            }
            None if self.last.is_empty() => return None,
            None => mem::take(&mut self.last).iter(),
        };
        Some(())
    }
}

impl<'a, S: Slot> Iterator for Range<'a, S> {
    type Item = &'a S;

    #[inline]
    fn next(&mut self) -> Option<&'a S> {
        loop {
            if let Some(slot) = self.now.next() {
                return Some(slot);
            }
            self.turn()?;
        }
    }
}
