//! Scrub: what is not alive goes from the medium. And verify: what is alive is read once more.
//!
//! What a scrub wipes: both regions, but for what is alive. The region that is not in force is overwritten, what is alive is
//! copied into it, and the other one is overwritten in its turn; so nothing older stands behind the end of the journal either.
//! What was deleted or replaced before the scrub began is then nowhere in the regions, and superblocks hold no values.
//!
//! What it does not wipe: what is deleted or replaced while it runs or later (until the next one); what named snapshots
//! keep; blocks of the device that belong to no region; copies that the device made by itself (a flash disk writes elsewhere
//! and keeps the old for a while, so do file systems that copy on write under an image file); and memory.

use alloc::boxed::Box;
use core::cmp::Ordering;
use core::ops::Bound;

use journal::{Frame, Verdict};
use media::BlockDevice;

use crate::compact::Compaction;
use crate::contents::Contents;
use crate::error::Error;
use crate::index::{Index, Kept};
use crate::record::Revision;
use crate::store::{Store, load};
use crate::write::records;

/// Blocks that a step overwrites at most.
const STEP_BLOCKS: u64 = 64;

/// How often a scrub begins to copy anew, where a copy was given up.
const ATTEMPTS_MAX: u32 = 3;

/// What a step of a scrub came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrub {
    /// There is more to do.
    Running,
    /// What was deleted or replaced before the scrub began is gone.
    Finished,
    /// The copy was given up, because too much was committed meanwhile. The next step begins another.
    GivenUp,
}

/// How far a scrub is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scrubbing {
    /// The other region is being wiped, to be copied into.
    Before,
    /// What is alive is being copied; there had been so many switches.
    Copy { switches: u64 },
    /// What was in force is being wiped.
    After,
}

/// What reading everything once more found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How the journal ends, as an open would see it now.
    pub verdict: Verdict,
    /// Frames that were read.
    pub frames: u64,
    /// Valid superblocks of the pair in force, of two. One is enough; the next open for writing puts the other right.
    pub roots_valid: u8,
    /// Keys whose value on the medium is what it is in memory, the store's own included.
    pub same_keys: u64,
    /// Keys that are different, or only there or only here.
    pub different_keys: u64,
    /// The first of these, as it is stored.
    pub first_different: Option<Box<str>>,
    /// Whether the journal ends on the medium where this store goes on.
    pub is_whole: bool,
}

impl Verified {
    /// Whether everything is there and as it should be; a superblock may be missing.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.is_whole
            && self.different_keys == 0
            && self.roots_valid > 0
            && !matches!(self.verdict, Verdict::Damaged { .. })
    }
}

impl<D: BlockDevice> Store<D> {
    /// Takes a step of a scrub, or begins one: what was deleted or replaced is overwritten. Between steps everything else may
    /// be done; only [`Scrub::Finished`] says that what was gone when the first step was taken is gone from the medium. It
    /// writes both regions once and what is alive once. The module says what is not wiped.
    ///
    /// # Durability
    /// Nothing changes for any key, wherever it is cut. A scrub that was cut short begins anew.
    ///
    /// # Errors
    /// `ReadOnly`, `Poisoned`, `NoMemory`, `Io`: what was wiped is wiped, and the scrub is not finished.
    pub fn scrub_step(&mut self) -> Result<Scrub, Error> {
        let scrubbing = *self.scrubbing.get_or_insert(Scrubbing::Before);
        // The region that is copied into cannot be wiped, and a copy that a commit has begun does no harm.
        if let (Scrubbing::Before | Scrubbing::After, Some(_)) = (scrubbing, &self.copying) {
            let (Compaction::Running | Compaction::Finished | Compaction::GivenUp) = self.compact_step()?;
            return Ok(Scrub::Running);
        }
        match scrubbing {
            Scrubbing::Before => {
                if self.journal.wipe_other(STEP_BLOCKS)? == 0 {
                    self.scrubbing = Some(Scrubbing::Copy { switches: self.journal.stats().switches });
                }
                Ok(Scrub::Running)
            }
            Scrubbing::Copy { switches } if self.journal.stats().switches > switches => {
                // It may have been another copy, after one that was given up.
                let is_clean = self.journal.began_wiped();
                self.scrubbing = Some(if is_clean { Scrubbing::After } else { Scrubbing::Before });
                Ok(Scrub::Running)
            }
            Scrubbing::Copy { .. } if self.copying.is_none() && !self.journal.is_other_wiped() => {
                self.scrubbing = Some(Scrubbing::Before);
                Ok(Scrub::GivenUp)
            }
            Scrubbing::Copy { .. } => match self.compact_step()? {
                Compaction::Running | Compaction::Finished => Ok(Scrub::Running),
                Compaction::GivenUp => {
                    self.scrubbing = Some(Scrubbing::Before);
                    Ok(Scrub::GivenUp)
                }
            },
            Scrubbing::After => {
                if self.journal.wipe_other(STEP_BLOCKS)? > 0 {
                    return Ok(Scrub::Running);
                }
                self.scrubbing = None;
                Ok(Scrub::Finished)
            }
        }
    }

    /// A whole scrub, begun anew: see [`Store::scrub_step`].
    ///
    /// # Durability
    /// [`Scrub::Finished`]: what was deleted or replaced before the call is gone from the medium.
    ///
    /// # Errors
    /// As [`Store::scrub_step`].
    pub fn scrub(&mut self) -> Result<Scrub, Error> {
        self.scrubbing = None;
        let mut attempts = 0;
        loop {
            match self.scrub_step()? {
                Scrub::Running => {}
                Scrub::GivenUp if attempts < ATTEMPTS_MAX => attempts += 1,
                end => return Ok(end),
            }
        }
    }

    /// Reads the region in force and the superblocks once more, checks every block, and compares every record with what is in
    /// memory. Nothing is written, and damage is no error: [`Verified::is_sound`] says whether there is any. It needs as much
    /// memory again as the store has.
    ///
    /// What is read is what the device gives back; a cache in between may hide what is on the medium. A store that is poisoned
    /// has to be opened again first: what it shows may not be what is there.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; [`Error::Corrupt`]: a frame is whole and its content is not what this crate writes.
    pub fn verify(&self) -> Result<Verified, Error> {
        let (mut found, mut last) = (Index::default(), Revision::from_u64(0));
        let mut each = |frame: Frame<'_>| load(&mut found, &mut last, &frame);
        let again = self.journal.read_again(&mut each)?;
        let seq = self.journal.next_seq();
        for (nth, record) in records(&self.pending.body).enumerate() {
            let revision = Revision::of(seq, nth).ok_or(journal::JournalError::NumbersUsedUp)?;
            found.apply(&record, revision)?;
            found.tidy()?;
        }
        let mut verified = Verified {
            verdict: again.verdict,
            frames: again.frames,
            roots_valid: again.roots_valid,
            same_keys: 0,
            different_keys: 0,
            first_different: None,
            is_whole: again.is_whole,
        };
        compare(&self.index, &found, &mut verified);
        Ok(verified)
    }
}

/// Walks through two indexes in step.
fn compare(here: &Contents, there: &Contents, verified: &mut Verified) {
    let mut here = here.from(Bound::Unbounded).peekable();
    let mut there = there.from(Bound::Unbounded).peekable();
    let mut different = |kept: Option<Kept<'_>>| {
        verified.different_keys += 1;
        if verified.first_different.is_none() {
            verified.first_different = kept.map(|kept| kept.key().into());
        }
    };
    loop {
        let order = match (here.peek(), there.peek()) {
            (Some(here), Some(there)) => here.key().cmp(there.key()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        match order {
            Ordering::Less => different(here.next()),
            Ordering::Greater => different(there.next()),
            Ordering::Equal => match (here.next(), there.next()) {
                // All of it, as it is copied: form, revision, key and value.
                (Some(here), Some(there)) if here.record() == there.record() => verified.same_keys += 1,
                (kept, _) => different(kept),
            },
        }
    }
}
