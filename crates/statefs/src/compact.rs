//! Compaction: what is alive is copied into the other region, in the order of the keys, in steps between commits.
//!
//! A step copies what is alive when it is taken, not when the copy began. That is as right: the commits since then follow
//! in the new region, and for every key they touch the last of them decides.

use alloc::vec::Vec;

use journal::JournalError;
use media::BlockDevice;

use crate::error::Error;
use crate::history::{Cursor, gather};
use crate::store::{Idle, Store};

/// How far a copy is.
#[derive(Debug)]
pub(crate) struct Copying {
    /// The last record that was copied.
    after: Option<Cursor>,
    /// Whether that was the last of all.
    is_whole: bool,
}

/// What a step of a compaction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// There is more to do.
    Running,
    /// The other region is in force, and holds no more than what is alive and what was committed meanwhile.
    Finished,
    /// With what was committed meanwhile it was too much for the other region. The next step begins another, which is not
    /// too much unless more is committed meanwhile.
    GivenUp,
}

impl<D: BlockDevice> Store<D> {
    /// Takes one step of a compaction: begins one, copies some of what is alive, or finishes. The store does this by itself
    /// when a region fills up; it can be done earlier, when nothing else is to do.
    ///
    /// # Durability
    /// Nothing changes for any key. [`Compaction::Finished`]: everything written so far is durable.
    ///
    /// # Errors
    /// `ReadOnly`, `Poisoned`, `NoMemory`, `Io`: the compaction is given up, and the next step begins another.
    pub fn compact_step(&mut self) -> Result<Compaction, Error> {
        match self.step() {
            Ok(progress) => Ok(progress),
            Err(error) => {
                self.copying = None;
                self.given_up += 1;
                match error {
                    Error::Journal(error) if matches!(*error, JournalError::Full { .. }) => {
                        Ok(Compaction::GivenUp)
                    }
                    error => Err(error),
                }
            }
        }
    }

    fn step(&mut self) -> Result<Compaction, Error> {
        let Some(copying) = &self.copying else {
            // Otherwise it would be both in the copy and behind it.
            self.write_pending()?;
            self.journal.begin_copy()?;
            self.copying = Some(Copying { after: None, is_whole: false });
            return Ok(Compaction::Running);
        };
        if copying.is_whole {
            return self.finish();
        }
        let mut body = Vec::new();
        let after = copying.after.as_ref();
        let all = self.index.versions(Cursor::start(after));
        let (after, is_whole) = gather(all, self.index.arena(), after, self.space.frame_len, &mut body)?;
        if !body.is_empty() {
            self.journal.copy(&body)?;
        }
        self.copying = Some(Copying { after, is_whole });
        Ok(Compaction::Running)
    }

    fn finish(&mut self) -> Result<Compaction, Error> {
        // The closing frame takes a number, and what is pending has been promised the next one.
        self.write_pending()?;
        let _durable = self.journal.finish_copy()?;
        self.copying = None;
        self.durable = self.last;
        self.idle = Idle::Sealed;
        Ok(Compaction::Finished)
    }

    /// Finishes the compaction that has begun, or carries out a whole one; whether the other region is in force.
    fn compact(&mut self) -> Result<Compaction, Error> {
        loop {
            match self.compact_step()? {
                Compaction::Running => {}
                end => return Ok(end),
            }
        }
    }

    /// Sees to it that a frame of so many blocks fits. Nothing is pending.
    pub(crate) fn make_room(&mut self, blocks: u64) -> Result<(), Error> {
        // One that has begun may be given up, or leave too little room because of what was committed meanwhile. A whole one
        // is neither.
        for _ in 0..2 {
            if blocks > self.journal.room() {
                let (Compaction::Finished | Compaction::GivenUp | Compaction::Running) = self.compact()?;
            }
        }
        let room = self.journal.room();
        if blocks > room {
            let used = self.space.blocks_of(self.index.charged().record_bytes);
            return Err(Error::NoSpace { limit: room, used, requested: blocks });
        }
        Ok(())
    }

    /// Whether the next moment in which nothing is on its way is needed for a step.
    pub(crate) fn is_compaction_due(&self) -> bool {
        self.copying.is_some() || self.is_time_to_compact()
    }

    /// Early enough that a copy is finished between commits before the region is full; and not before half of the room
    /// that a copy would give has been used.
    fn is_time_to_compact(&self) -> bool {
        let room = self.journal.room();
        let steps = self.space.frames_of(self.index.charged().record_bytes) + 2;
        room <= steps.saturating_mul(2) && room < self.journal.used_since_switch()
    }
}
