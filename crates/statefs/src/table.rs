//! Tables of nodes that views share by reference counts.
//!
//! A table is a list of blocks of [`BLOCK_LEN`] nodes. A copy of it copies the list of blocks; the blocks and the nodes are
//! shared. A node is changed only by its sole owner. Where it is shared, it is copied first, and so is its block, so a table
//! that was copied never changes.
//!
//! A list of blocks is reserved fallibly. A block, and the head of a node, are allocated by [`Arc`], which aborts where there is
//! no memory: at most 528 bytes at a time. No other allocation of the index aborts, but for the names of snapshots and the
//! places of superseded values.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::Error;
use crate::index::Steps;

/// Nodes of a block.
const BLOCK_LEN: usize = 64;

/// Some nodes that follow each other.
#[derive(Debug)]
struct Block<T> {
    nodes: [Option<Arc<T>>; BLOCK_LEN],
}

impl<T> Clone for Block<T> {
    fn clone(&self) -> Self {
        Self { nodes: self.nodes.clone() }
    }
}

/// Nodes by number. A number may be free.
#[derive(Debug)]
pub(crate) struct Table<T> {
    blocks: Vec<Arc<Block<T>>>,
    len: usize,
    /// Bytes that were copied because a view shared them, in tests.
    pub(crate) copied: Steps,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0, copied: Steps::default() }
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { blocks: self.blocks.clone(), len: self.len, copied: Steps::default() }
    }
}

/// Copies a list fallibly.
pub(crate) fn copied<T: Clone>(list: &[T], room: usize) -> Result<Vec<T>, Error> {
    let mut copy = Vec::new();
    let count = list.len().saturating_add(room);
    let len = count.saturating_mul(size_of::<T>());
    copy.try_reserve_exact(count).map_err(|_| Error::NoMemory { len })?;
    copy.extend_from_slice(list);
    Ok(copy)
}

impl<T> Table<T> {
    /// Returns the count of numbers, free ones included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns a node.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.shared(at).map(|node| &**node)
    }

    /// Returns a node, to be shared.
    #[inline]
    pub(crate) fn shared(&self, at: usize) -> Option<&Arc<T>> {
        self.blocks.get(at / BLOCK_LEN)?.nodes.get(at % BLOCK_LEN)?.as_ref()
    }

    /// Returns a node to be changed; [`None`] if a view or a reader shares it.
    #[inline]
    pub(crate) fn sole(&mut self, at: usize) -> Option<&mut T> {
        let block = Arc::get_mut(self.blocks.get_mut(at / BLOCK_LEN)?)?;
        Arc::get_mut(block.nodes.get_mut(at % BLOCK_LEN)?.as_mut()?)
    }

    /// Returns the slot of a number, in a block that nothing shares.
    fn slot(&mut self, at: usize) -> Option<&mut Option<Arc<T>>> {
        let block = self.blocks.get_mut(at / BLOCK_LEN)?;
        if Arc::strong_count(block) > 1 {
            self.copied.add(size_of::<Block<T>>());
        }
        Arc::make_mut(block).nodes.get_mut(at % BLOCK_LEN)
    }

    /// Sees to it that a number can be given a node without asking for memory.
    pub(crate) fn own_slot(&mut self, at: usize) {
        let _slot = self.slot(at);
    }

    /// Returns a node to be changed. A node that is shared is copied by `copy` first, which says how many bytes that took.
    pub(crate) fn own(
        &mut self,
        at: usize,
        copy: impl FnOnce(&T) -> Result<(T, usize), Error>,
    ) -> Result<Option<&mut T>, Error> {
        // The block first: as long as it is shared, the counts of its nodes are those of one owner.
        let Some(Some(node)) = self.slot(at) else { return Ok(None) };
        // Nothing keeps weak references to nodes, so a count of one is sole ownership.
        if Arc::strong_count(node) > 1 {
            let (fresh, len) = copy(node)?;
            *node = Arc::new(fresh);
            self.copied.add(len);
        }
        Ok(self.slot(at).and_then(|slot| Arc::get_mut(slot.as_mut()?)))
    }

    /// Sees to it that [`Table::push`] does not ask for memory, but for a block.
    pub(crate) fn reserve(&mut self) -> Result<(), Error> {
        let len = size_of::<Arc<Block<T>>>();
        self.blocks.try_reserve(1).map_err(|_| Error::NoMemory { len })
    }

    /// Adds a number, and a node for it. There is room.
    pub(crate) fn push(&mut self, node: Option<Arc<T>>) {
        if self.len.is_multiple_of(BLOCK_LEN) {
            self.blocks.push(Arc::new(Block { nodes: [const { None }; BLOCK_LEN] }));
        }
        self.len += 1;
        self.set(self.len - 1, node);
    }

    /// Gives a number a node, or frees it.
    pub(crate) fn set(&mut self, at: usize, node: Option<Arc<T>>) {
        if let Some(slot) = self.slot(at) {
            *slot = node;
        }
    }

    /// All nodes.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flat_map(|block| block.nodes.iter().flatten()).map(|node| &**node)
    }

    /// Returns a copy that shares all blocks and nodes.
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self { blocks: copied(&self.blocks, 0)?, len: self.len, copied: Steps::default() })
    }

    /// Bytes of memory, those of the nodes' contents not included.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        let head = 2 * size_of::<usize>();
        self.blocks.capacity() * size_of::<Arc<Block<T>>>()
            + self.blocks.len() * (size_of::<Block<T>>() + head)
            + self.iter().count() * (size_of::<T>() + head)
    }

    /// Bytes that a copy copies.
    #[cfg(test)]
    pub(crate) fn list_len(&self) -> usize {
        self.blocks.len() * size_of::<Arc<Block<T>>>()
    }
}
