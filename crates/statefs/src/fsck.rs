//! [`fsck`]: what a store looks like, without touching it.

use alloc::vec::Vec;

use journal::{BlockState, Evidence, Verdict};
use media::{BlockDevice, BlockIndex};

use crate::error::Error;
use crate::key::Prefix;
use crate::store::{Recovery, Store};
use journal::Access;

/// What a check found, as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Everything is as it should be.
    Clean,
    /// What a power cut leaves, and what the next open for writing puts right: the unacknowledged end of the journal, a
    /// superblock of the pair in force, or a compaction that has to be finished.
    TornTail,
    /// Something that had been durable is gone.
    Damaged,
}

/// What is missing, or was never acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The first block that is not what it should be.
    pub at: BlockIndex,
    /// Its offset on the device, in bytes.
    pub offset: u64,
    /// The first sequence number that is lost.
    pub first_seq: u64,
    /// The last one that is known to be lost; [`None`] for a torn tail, of which nothing was acknowledged.
    pub last_seq: Option<u64>,
    /// How it is known that this was durable; [`None`] for a torn tail.
    pub evidence: Option<Evidence>,
}

/// How many blocks of a store are what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Blocks {
    /// Valid superblocks, of four.
    pub roots: u64,
    /// Slots without a superblock. Two are normal in a store that has never been compacted.
    pub no_roots: u64,
    /// Blocks of the life that a region is in.
    pub current: u64,
    /// Blocks of an earlier life.
    pub stale: u64,
    /// Blocks that were never written, or are of something else.
    pub foreign: u64,
    /// Blocks that begin like one and are none. Behind the end of the journal they do not matter.
    pub invalid: u64,
    /// Blocks that the device does not give back.
    pub unreadable: u64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// As a word.
    pub health: Health,
    /// What is missing, if anything is.
    pub lost: Option<Lost>,
    /// What the blocks are.
    pub blocks: Blocks,
    /// What opening it for reading found.
    pub recovery: Recovery,
    /// Prefixes with sealed values of which no record says that they are sealed: [`Store::lost_prefixes`]. They may come from
    /// another store that was damaged, so a store that is clean may have some.
    pub lost_prefixes: Vec<Prefix>,
}

/// Looks at every block of a store, and reads every record. Nothing is written; a device that cannot be written to will do.
///
/// # Errors
/// As [`Store::open`]: where there is no store that can be opened at all.
pub fn fsck<D: BlockDevice>(device: D) -> Result<Check, Error> {
    let (store, recovery) = Store::open(device, Access::Read)?;
    let mut blocks = Blocks::default();
    store.journal.survey(&mut |_, state| {
        let count = match state {
            BlockState::Root { .. } => &mut blocks.roots,
            BlockState::NoRoot => &mut blocks.no_roots,
            BlockState::Current { .. } => &mut blocks.current,
            BlockState::Stale { .. } => &mut blocks.stale,
            BlockState::Foreign => &mut blocks.foreign,
            BlockState::Invalid => &mut blocks.invalid,
            BlockState::Unreadable => &mut blocks.unreadable,
        };
        *count += 1;
    })?;
    let lost = lost(&store, recovery.tail);
    let needs_repair = recovery.roots_valid < 2 || recovery.switch_finished;
    let health = match recovery.tail {
        Verdict::Damaged { .. } => Health::Damaged,
        Verdict::TornTail { .. } => Health::TornTail,
        Verdict::Clean if needs_repair => Health::TornTail,
        Verdict::Clean => Health::Clean,
    };
    let lost_prefixes = store.lost_prefixes().cloned().collect();
    Ok(Check { health, lost, blocks, recovery, lost_prefixes })
}

fn lost<D: BlockDevice>(store: &Store<D>, tail: Verdict) -> Option<Lost> {
    let (at, first_seq, last) = match tail {
        Verdict::Clean => return None,
        Verdict::TornTail { at, first_lost } => (at, first_lost, None),
        Verdict::Damaged { at, first_lost, last_lost, evidence } => {
            (at, first_lost, Some((last_lost, evidence)))
        }
    };
    let at = store.journal.address(at);
    let block_size = u64::try_from(store.journal.layout().block_size()).unwrap_or(u64::MAX);
    Some(Lost {
        at,
        offset: at.get().saturating_mul(block_size),
        first_seq,
        last_seq: last.map(|(seq, _)| seq),
        evidence: last.map(|(_, evidence)| evidence),
    })
}
