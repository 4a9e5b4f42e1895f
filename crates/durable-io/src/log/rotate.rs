//! Rotation: `name` becomes `name.1`, `name.1` becomes `name.2`, and what exceeds `keep` goes.
//!
//! A directory barrier follows **each** rename. Without the one between `name.1 -> name.2` and `name -> name.1`, a
//! power cut could keep the second rename and lose the first: `name.1` would have been overwritten while it was
//! still the only name of what it held. One barrier comes before the first rename: an earlier rotation may have
//! died, or have been told of a failure, between its rename and its barrier.
//!
//! A power cut in between leaves a gap: no `name.1`, or no `name`. The next rotation shifts only what is younger
//! than the gap; the next open creates `name`.

use std::ffi::OsString;

use media::{Reason, RenameMode};

use super::{Current, Log, nothing_open};
use crate::dir::{is_ambiguous, sync_dir};
use crate::error::{Error, Result, Stage, TargetState};
use crate::name::side_name;
use crate::staged::Publish;

impl Log {
    /// Under the lock: puts a new, empty file under the name. On an error every record is where it was, or under
    /// the next older name.
    pub(super) fn rotate(&mut self) -> Result<()> {
        if let Some(current) = &mut self.current {
            // Not for the name alone: this is the barrier before the first rename.
            current.name = None;
        }
        let outcome = self.barrier().and_then(|_| {
            let Some(old) = self.current.take() else { return Err(nothing_open(&self.place.path)) };
            match self.options.keep {
                0 => self.start_over(&old),
                keep => {
                    self.shift(keep)?;
                    self.find(Some(old.mode.without_set_id())).map(drop)
                }
            }
        });
        outcome.map_err(|error| {
            if matches!(error.stage(), Stage::SyncFile | Stage::SyncDir) {
                // Which file has which name after a power cut is open.
                return error.in_state(TargetState::Unknown);
            }
            error
        })
    }

    /// Keeps nothing: a new file takes the place of the old one in one rename.
    fn start_over(&mut self, old: &Current) -> Result<()> {
        let durability = self.publish_empty(Some(old.mode.without_set_id()), Publish::Replace)?;
        self.current = Some(self.open_file(Some(durability))?);
        Ok(())
    }

    /// Moves the log and its rotated files one name on, the oldest first.
    fn shift(&self, keep: u32) -> Result<()> {
        let mut last = 1;
        while last < keep && self.exists(&self.rotated(last))? {
            last += 1;
        }
        // `last` is free, or the oldest that may be kept.
        for index in (1..last).rev() {
            self.move_on(&self.rotated(index), &self.rotated(index + 1))?;
        }
        self.move_on(&self.place.name, &self.rotated(1))
    }

    fn rotated(&self, index: u32) -> OsString {
        side_name(&self.place.name, &format!(".{index}"))
    }

    fn exists(&self, name: &OsString) -> Result<bool> {
        match self.place.dir.metadata(name) {
            Ok(_) => Ok(true),
            Err(e) if Reason::of(&e) == Reason::NotFound => Ok(false),
            Err(e) => Err(Error::os(Stage::Inspect, self.place.sibling_path(name), e)),
        }
    }

    fn move_on(&self, from: &OsString, to: &OsString) -> Result<()> {
        let dir = &*self.place.dir;
        let path = self.place.sibling_path(to);
        dir.rename(from, dir, to, RenameMode::Replace).map_err(|e| {
            // No record is lost either way; but which file has which name is open.
            let state =
                if is_ambiguous(Reason::of(&e)) { TargetState::Unknown } else { TargetState::Unchanged };
            Error::os(Stage::Rename, &path, e).in_state(state)
        })?;
        dir.mark("after_rename");
        sync_dir(dir, &path, self.options.barriers).map(drop)
    }
}
