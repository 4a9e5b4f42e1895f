//! Compaction: what is alive is copied into the other region, in the order of the keys, in steps between commits.
//!
//! A step copies what is alive when it is taken, not when the copy began. That is as right: the commits since then follow
//! in the new region, and for every key they touch the last of them decides.
//!
//! No step copies more than one frame (1 MiB in blocks of 4 KiB) of those commits; the last step copies what is left of them
//! and what is buffered, no more than two frames.

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
    /// Takes one step of a compaction: begins one, copies some of what is alive or of what was committed meanwhile, or
    /// finishes. The store does this by itself
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
            let frame_blocks = self.journal.layout().blocks_of(self.journal.layout().body_len_max());
            if self.journal.later_blocks() <= frame_blocks {
                return self.finish();
            }
            let (true | false) = self.journal.copy_later(frame_blocks)?;
            return Ok(Compaction::Running);
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

#[cfg(all(test, feature = "std"))]
#[expect(clippy::unwrap_used, reason = "helpers of tests")]
mod tests {
    use journal::Verdict;
    use media::{Geometry, MemDisk};

    use super::*;
    use crate::commit::Admitted;
    use crate::record::Record;
    use crate::{Access, Form, Key, Options, StoreId, fsck};

    /// Long enough that two of them are more than one frame may have.
    const LEN: usize = 65_000;
    const BLOCKS: u64 = 141;

    fn format(block_count: u64) -> (MemDisk, Store<MemDisk>) {
        let disk = MemDisk::new(Geometry::new(512, block_count).unwrap()).unwrap();
        let store = Store::format(disk.clone(), &Options::new(StoreId([1; 16]))).unwrap();
        (disk, store)
    }

    /// A put without the step of a compaction that may be due after it.
    fn put_only(store: &mut Store<MemDisk>, value: u8) {
        let mut body = Vec::new();
        let key = key(value);
        Record::Put { key: key.as_str(), value: &[value; LEN], form: Form::Plain }.encode(&mut body).unwrap();
        let admitted = store.admit_at_once(&body, 1).unwrap();
        assert!(matches!(admitted, Admitted::Taken(_)), "{admitted:?}");
        let outgoing = store.begin_frame().unwrap().unwrap();
        let outcome = outgoing.carry_out(store.device());
        store.end_frame(outgoing, outcome).unwrap();
    }

    /// Begins a compaction and copies everything that is alive.
    fn copy_all(store: &mut Store<MemDisk>) {
        while !store.copying.as_ref().is_some_and(|copying| copying.is_whole) {
            assert_eq!(store.compact_step().unwrap(), Compaction::Running);
        }
    }

    fn key(nth: u8) -> Key {
        Key::parse(&alloc::format!("/state/{nth}")).unwrap()
    }

    fn value(store: &Store<MemDisk>, nth: u8) -> u8 {
        store.get(&key(nth)).unwrap().bytes[0]
    }

    fn assert_clean(disk: &MemDisk) {
        let check = fsck(disk.clone()).unwrap();
        assert!(check.recovery.was_sealed && check.recovery.tail == Verdict::Clean, "{check:?}");
    }

    #[test]
    fn no_step_copies_more_than_a_frame_of_what_was_committed_meanwhile() {
        let (disk, mut store) = format(4096);
        copy_all(&mut store);
        for nth in 0..6 {
            put_only(&mut store, nth);
        }
        let mut left = store.journal.later_blocks();
        assert_eq!(left, 6 * BLOCKS);
        while left > 256 {
            assert_eq!(store.compact_step().unwrap(), Compaction::Running);
            assert_eq!(left - store.journal.later_blocks(), BLOCKS, "one frame; two would be too much");
            left = store.journal.later_blocks();
        }
        // What is buffered goes along.
        store.put_buffered(&Key::parse("/state/b").unwrap(), b"x").unwrap();
        assert_eq!(store.compact_step().unwrap(), Compaction::Finished);
        assert_eq!(store.stats().journal.switches, 1);
        store.close().unwrap();
        assert_clean(&disk);
        let (store, _) = Store::open(disk, Access::Write).unwrap();
        (0..6).for_each(|nth| assert_eq!(value(&store, nth), nth));
        assert!(store.get(&Key::parse("/state/b").unwrap()).is_some());
    }

    /// What is alive is copied with the newest values, and all of these come again as later commits. It is known before all is
    /// copied that both do not fit. The region in force goes on, and the next compaction is whole.
    #[test]
    fn a_compaction_that_cannot_fit_any_more_is_given_up_early_and_nothing_is_lost() {
        let (disk, mut store) = format(2048);
        assert_eq!(store.compact_step().unwrap(), Compaction::Running);
        for nth in 0..5 {
            put_only(&mut store, nth);
        }
        let (blocks, seq) = (store.stats().journal.blocks, store.journal.next_seq());
        let end = loop {
            match store.compact_step().unwrap() {
                Compaction::Running => {
                    assert!(store.copying.as_ref().is_some_and(|copying| !copying.is_whole))
                }
                end => break end,
            }
        };
        assert_eq!((end, store.given_up), (Compaction::GivenUp, 1));
        assert!(store.stats().journal.blocks - blocks < 3 * BLOCKS, "not all five were copied");
        assert_eq!(store.journal.next_seq(), seq, "no number is burnt");
        put_only(&mut store, 5);
        while store.compact_step().unwrap() == Compaction::Running {}
        assert_eq!(store.stats().journal.switches, 1);
        store.close().unwrap();
        assert_clean(&disk);
        let (store, _) = Store::open(disk, Access::Write).unwrap();
        (0..6).for_each(|nth| assert_eq!(value(&store, nth), nth));
    }
}
