//! The row: all leaves of the index in the order of their keys, and which of them a key belongs into.
//!
//! Leaves lie in one array and do not move; [`LeafId`] says where. The row is the order of these numbers, in bunches of at
//! most [`BUNCH_MAX`], so that putting a leaf in or taking one out moves one bunch, however many leaves there are. With each
//! leaf stands the head of its first key, and with each bunch that of its first leaf, as in a leaf the heads of its keys.
//!
//! Invariants
//! - the keys of a leaf are smaller than those of the next one.
//! - a bunch has at least one leaf, and as many heads; there are as many bunches as heads of bunches. An empty row may have
//!   one empty bunch, which it begins with.
//! - the heads are those of the first keys behind `common`, with which all of them begin.
//! - a leaf that is not in the row is free, and has no entries. There is memory for the numbers of all leaves in `free`.

use alloc::vec::Vec;
use core::mem;

use crate::arena::Arena;
use crate::error::Error;
use crate::index::Steps;
use crate::leaf::{Leaf, common_len, head_of};
use crate::limits::KEY_LEN_MAX;

/// The most leaves of a bunch.
const BUNCH_MAX: usize = 256;

/// The number of a leaf, which it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeafId(u32);

/// A place in the row: which bunch, and which leaf of it. It changes when leaves before it come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    bunch: usize,
    leaf: usize,
}

impl Spot {
    /// The first leaf.
    pub(crate) const FIRST: Self = Self { bunch: 0, leaf: 0 };
    /// After every leaf.
    pub(crate) const END: Self = Self { bunch: usize::MAX, leaf: 0 };
}

#[derive(Debug, Default)]
struct Bunch {
    heads: Vec<u64>,
    ids: Vec<LeafId>,
}

/// Leaves in the order of their keys.
#[derive(Debug)]
pub(crate) struct Row {
    leaves: Vec<Leaf>,
    free: Vec<LeafId>,
    bunches: Vec<Bunch>,
    heads: Vec<u64>,
    common: Vec<u8>,
    bunch_max: usize,
    pub(crate) steps: Steps,
}

impl Default for Row {
    fn default() -> Self {
        Self::with_bunches_of(BUNCH_MAX)
    }
}

/// Where something is among things in order, each of which has a head: the last of those that are not greater. `is_after` says
/// whether one of those with the same head is greater.
fn last_not_after<T>(heads: &[u64], things: &[T], head: u64, is_after: impl Fn(&T) -> bool) -> usize {
    let mut behind = heads.partition_point(|other| *other < head);
    if heads.get(behind) == Some(&head) {
        let same = heads.get(behind..).unwrap_or(&[]).partition_point(|other| *other == head);
        let same = things.get(behind..behind + same).unwrap_or(&[]);
        behind += same.partition_point(|thing| !is_after(thing));
    }
    behind.saturating_sub(1)
}

impl Bunch {
    fn reserve(&mut self, count: usize) -> Result<(), Error> {
        let len = count.saturating_mul(size_of::<LeafId>() + size_of::<u64>());
        self.ids.try_reserve(count).map_err(|_| Error::NoMemory { len })?;
        self.heads.try_reserve(count).map_err(|_| Error::NoMemory { len })
    }
}

impl Row {
    /// An empty row whose bunches have at most so many leaves.
    pub(crate) fn with_bunches_of(bunch_max: usize) -> Self {
        Self {
            leaves: Vec::new(),
            free: Vec::new(),
            bunches: Vec::new(),
            heads: Vec::new(),
            common: Vec::new(),
            bunch_max,
            steps: Steps::default(),
        }
    }

    /// Whether it has no leaf.
    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// A leaf by its number.
    pub(crate) fn leaf(&self, id: LeafId) -> Option<&Leaf> {
        self.leaves.get(index_of(id))
    }

    /// The same, to be changed.
    pub(crate) fn leaf_mut(&mut self, id: LeafId) -> Option<&mut Leaf> {
        self.leaves.get_mut(index_of(id))
    }

    /// The number of the leaf at a place.
    pub(crate) fn id(&self, spot: Spot) -> Option<LeafId> {
        self.bunches.get(spot.bunch)?.ids.get(spot.leaf).copied()
    }

    /// The leaf at a place.
    pub(crate) fn at(&self, spot: Spot) -> Option<&Leaf> {
        self.leaf(self.id(spot)?)
    }

    /// The first key of a leaf of the row.
    fn first_key<'a>(&self, id: LeafId, arena: &'a Arena) -> &'a [u8] {
        self.leaf(id).map_or(&[], |leaf| leaf.first_key(arena))
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

    /// The leaf in which a key is, if it is anywhere: the last one that does not begin behind it, or the first one. In an
    /// empty row this is the place of the leaf that comes first.
    pub(crate) fn spot_of(&self, key: &[u8], arena: &Arena) -> Spot {
        let Some(rest) = key.strip_prefix(self.common.as_slice()) else {
            let is_before = key < self.common.as_slice();
            return if is_before { Spot::FIRST } else { self.last().unwrap_or(Spot::FIRST) };
        };
        let head = head_of(rest);
        let is_after = |id: &LeafId| self.first_key(*id, arena) > key;
        let bunch =
            last_not_after(&self.heads, &self.bunches, head, |bunch| bunch.ids.first().is_some_and(is_after));
        let leaf = self
            .bunches
            .get(bunch)
            .map_or(0, |bunch| last_not_after(&bunch.heads, &bunch.ids, head, is_after));
        Spot { bunch, leaf }
    }

    /// The number of the leaf that is put into the row next.
    pub(crate) fn next_id(&self) -> LeafId {
        self.free.last().copied().unwrap_or_else(|| number_of(self.leaves.len()))
    }

    /// Sees to it that there is a free leaf.
    fn reserve_leaf(&mut self) -> Result<(), Error> {
        if !self.free.is_empty() {
            return Ok(());
        }
        let len = size_of::<Leaf>() + size_of::<LeafId>();
        let no_memory = |_| Error::NoMemory { len };
        if u32::try_from(self.leaves.len()).is_err() {
            return Err(Error::NoMemory { len });
        }
        self.leaves.try_reserve(1).map_err(no_memory)?;
        // A leaf is taken out without asking for memory.
        self.free.try_reserve(self.leaves.len() + 1).map_err(no_memory)?;
        self.free.push(number_of(self.leaves.len()));
        self.leaves.push(Leaf::default());
        Ok(())
    }

    /// Sees to it that an empty row can be begun; room may be claimed in the leaf that it begins with.
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        if !self.is_empty() {
            return Ok(());
        }
        self.reserve_leaf()?;
        let len = size_of::<Bunch>() + size_of::<u64>();
        if self.bunches.is_empty() {
            self.bunches.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
            self.bunches.push(Bunch::default());
        }
        self.heads.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        if let Some(bunch) = self.bunches.first_mut() {
            bunch.reserve(1)?;
        }
        // The first key is what all begin with until there is another.
        self.common.try_reserve(KEY_LEN_MAX).map_err(|_| Error::NoMemory { len: KEY_LEN_MAX })
    }

    /// Begins an empty row, which has been prepared, with the leaf that has this key.
    pub(crate) fn begin(&mut self, key: &[u8]) {
        if let (Some(bunch), Some(id)) = (self.bunches.first_mut(), self.free.pop()) {
            bunch.ids.push(id);
            bunch.heads.push(0);
            self.heads.push(0);
            self.common.clear();
            self.common.extend_from_slice(key);
        }
    }

    /// Sees to it that a leaf can be put in behind another one; where it will be. The other one may be elsewhere then.
    pub(crate) fn make_room_after(&mut self, spot: Spot) -> Result<Spot, Error> {
        self.reserve_leaf()?;
        let spot = self.make_way(Spot { leaf: spot.leaf + 1, ..spot })?;
        if let Some(bunch) = self.bunches.get_mut(spot.bunch) {
            bunch.reserve(1)?;
        }
        Ok(spot)
    }

    /// Puts a leaf where there is room for one.
    pub(crate) fn insert(&mut self, spot: Spot, leaf: Leaf, arena: &Arena) {
        let (Some(bunch), Some(id)) = (self.bunches.get_mut(spot.bunch), self.free.pop()) else { return };
        self.steps.add(bunch.ids.len() - spot.leaf);
        bunch.ids.insert(spot.leaf, id);
        bunch.heads.insert(spot.leaf, 0);
        if let Some(slot) = self.leaves.get_mut(index_of(id)) {
            *slot = leaf;
        }
        self.take_head(spot, arena);
    }

    /// Where a leaf can be put in that belongs there: a full bunch is divided, at the end of the row behind what it has,
    /// because there most often more is added.
    fn make_way(&mut self, spot: Spot) -> Result<Spot, Error> {
        let is_last = spot.bunch + 1 == self.bunches.len();
        let Some(bunch) = self.bunches.get_mut(spot.bunch) else { return Ok(spot) };
        let count = bunch.ids.len();
        if count < self.bunch_max {
            return Ok(spot);
        }
        let cut = if is_last && spot.leaf == count { count - 1 } else { count / 2 };
        let len = size_of::<Bunch>() + size_of::<u64>();
        self.bunches.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        self.heads.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        let mut behind = Bunch::default();
        behind.reserve(self.bunch_max)?;
        let Some(bunch) = self.bunches.get_mut(spot.bunch) else { return Ok(spot) };
        behind.ids.extend(bunch.ids.drain(cut..));
        behind.heads.extend(bunch.heads.drain(cut..));
        let next = spot.bunch + 1;
        self.steps.add(behind.ids.len() + self.bunches.len() - next);
        self.heads.insert(next, behind.heads.first().copied().unwrap_or(0));
        self.bunches.insert(next, behind);
        match spot.leaf.checked_sub(cut) {
            Some(leaf) if leaf > 0 => Ok(Spot { bunch: next, leaf }),
            Some(_) | None => Ok(spot),
        }
    }

    /// Takes out a leaf that is empty, or whose entries are elsewhere.
    pub(crate) fn take_out(&mut self, spot: Spot) {
        let Some(bunch) = self.bunches.get_mut(spot.bunch) else { return };
        if spot.leaf >= bunch.ids.len() {
            return;
        }
        self.steps.add(bunch.ids.len() - spot.leaf);
        let id = bunch.ids.remove(spot.leaf);
        let _head = bunch.heads.remove(spot.leaf);
        let first = bunch.heads.first().copied();
        match (first, self.heads.get_mut(spot.bunch)) {
            (Some(first), Some(head)) => *head = first,
            _ => {
                self.steps.add(self.bunches.len() - spot.bunch);
                drop(self.bunches.remove(spot.bunch));
                let _head = self.heads.remove(spot.bunch);
            }
        }
        if let Some(leaf) = self.leaves.get_mut(index_of(id)) {
            drop(mem::take(leaf));
            self.free.push(id);
        }
    }

    /// Takes note that the first key of a leaf has changed.
    pub(crate) fn take_head(&mut self, spot: Spot, arena: &Arena) {
        let Some(key) = self.id(spot).map(|id| self.first_key(id, arena)) else { return };
        let Some(rest) = key.strip_prefix(self.common.as_slice()) else {
            self.common.truncate(common_len(key, &self.common));
            self.take_heads(arena);
            return;
        };
        let head = head_of(rest);
        if let Some(slot) = self.bunches.get_mut(spot.bunch).and_then(|bunch| bunch.heads.get_mut(spot.leaf))
        {
            *slot = head;
        }
        if spot.leaf == 0
            && let Some(slot) = self.heads.get_mut(spot.bunch)
        {
            *slot = head;
        }
    }

    /// Takes all heads again. What all keys begin with only becomes shorter, so that this is done 255 times at most before the
    /// row is empty.
    fn take_heads(&mut self, arena: &Arena) {
        for (bunch, first) in self.bunches.iter_mut().zip(&mut self.heads) {
            self.steps.add(bunch.ids.len());
            for (head, id) in bunch.heads.iter_mut().zip(&bunch.ids) {
                let key = self.leaves.get(index_of(*id)).map_or(&[][..], |leaf| leaf.first_key(arena));
                *head = head_of(key.get(self.common.len()..).unwrap_or(&[]));
            }
            *first = bunch.heads.first().copied().unwrap_or(0);
        }
    }

    /// The leaves, in order.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.bunches.iter().flat_map(|bunch| &bunch.ids).filter_map(|id| self.leaf(*id))
    }

    /// The leaves, in no order.
    pub(crate) fn leaves_mut(&mut self) -> impl Iterator<Item = &mut Leaf> {
        self.leaves.iter_mut()
    }

    #[cfg(test)]
    pub(crate) fn check(&self, arena: &Arena) {
        let ids = || self.bunches.iter().flat_map(|bunch| &bunch.ids);
        assert_eq!(self.bunches.len(), self.heads.len().max(usize::from(!self.bunches.is_empty())));
        assert_eq!(ids().count() + self.free.len(), self.leaves.len());
        assert!(self.free.capacity() >= self.leaves.len());
        let mut all: Vec<LeafId> = ids().chain(&self.free).copied().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), self.leaves.len(), "each is in the row or free");
        assert!(self.free.iter().all(|id| self.leaf(*id).is_some_and(|leaf| leaf.len() == 0)));
        for (bunch, head) in self.bunches.iter().zip(&self.heads) {
            assert!(bunch.ids.len() == bunch.heads.len() && bunch.ids.len() <= self.bunch_max);
            assert_eq!(bunch.heads.first(), Some(head));
            for (id, head) in bunch.ids.iter().zip(&bunch.heads) {
                let rest = self.first_key(*id, arena).strip_prefix(self.common.as_slice());
                assert_eq!(rest.map(head_of), Some(*head));
            }
        }
    }

    /// Bytes of memory, that of the leaves included.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        let bunch = |bunch: &Bunch| {
            bunch.ids.capacity() * size_of::<LeafId>() + bunch.heads.capacity() * size_of::<u64>()
        };
        self.leaves.iter().map(Leaf::memory_len).sum::<usize>()
            + self.bunches.iter().map(bunch).sum::<usize>()
            + self.leaves.capacity() * size_of::<Leaf>()
            + self.free.capacity() * size_of::<LeafId>()
            + self.bunches.capacity() * (size_of::<Bunch>() + size_of::<u64>())
            + self.common.capacity()
    }
}

fn index_of(id: LeafId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}

/// What has no number is refused by [`Row::reserve_leaf`].
fn number_of(index: usize) -> LeafId {
    LeafId(u32::try_from(index).unwrap_or(u32::MAX))
}
