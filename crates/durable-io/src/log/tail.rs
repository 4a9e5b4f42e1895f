//! The end of a log: finding its last whole line, and moving what follows out of the way.

use std::io;
use std::path::{Path, PathBuf};

use super::line::Line;
use super::{Log, len_of};
use crate::dir::Place;
use crate::error::{Cause, Error, Result, Stage, TargetState};
use crate::name::{random_u64, side_name};
use crate::options::{Durability, WriteOptions};
use crate::staged::{Publish, read_full};

/// The first look at the end reads this much; each further one doubles it.
const WINDOW_LEN: u64 = 8 << 10;

/// What the end of a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or a whole last line: one JSON value and its newline.
    Clean,
    /// An object or array that lacks only its newline.
    Unterminated { offset: u64 },
    /// Bytes that are none of this, behind the last whole line.
    Torn { offset: u64, bytes: Vec<u8> },
}

/// Whether a file of this length is empty or ends in a newline.
pub(super) fn ends_whole(file: &dyn media::File, len: u64) -> io::Result<bool> {
    let Some(last) = len.checked_sub(1) else { return Ok(true) };
    let mut byte = [0_u8];
    Ok(read_full(file, last, &mut byte)? == b"\n")
}

/// The end of a file in memory, as far as it was read.
struct Window<'a> {
    file: &'a dyn media::File,
    bytes: Vec<u8>,
    /// Where `bytes` begins in the file.
    start: u64,
    len_max: u64,
}

impl Window<'_> {
    /// Reads further back. `false` at the bound.
    fn extend(&mut self) -> io::Result<bool> {
        let have = len_of(&self.bytes);
        let more = have.max(WINDOW_LEN).min(self.len_max.saturating_sub(have)).min(self.start);
        if more == 0 {
            return Ok(false);
        }
        let from = self.start - more;
        let more = usize::try_from(more).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(more + self.bytes.len());
        bytes.resize(more, 0);
        if read_full(self.file, from, &mut bytes)?.len() < more {
            // Somebody who takes no lock made it shorter.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.append(&mut self.bytes);
        self.bytes = bytes;
        self.start = from;
        Ok(true)
    }

    /// The bytes of the file from `from` up to `to`.
    fn get(&self, from: u64, to: u64) -> &[u8] {
        let index = |at: u64| usize::try_from(at.saturating_sub(self.start)).ok();
        match (index(from), index(to)) {
            (Some(from), Some(to)) => self.bytes.get(from..to).unwrap_or(&[]),
            _ => &[],
        }
    }

    /// Where the line begins whose content ends at `end`; `None` if that is further back than the bound.
    fn line_start(&mut self, end: u64) -> io::Result<Option<u64>> {
        loop {
            let before = self.get(self.start, end);
            if let Some(newline) = before.iter().rposition(|&byte| byte == b'\n') {
                return Ok(Some(self.start + len_of(before.get(..=newline).unwrap_or(before))));
            }
            if self.start == 0 {
                return Ok(Some(0));
            }
            if !self.extend()? {
                return Ok(None);
            }
        }
    }
}

/// Goes back line by line from the end of a file of length `len` until one is whole, at most `scan_len_max` bytes.
///
/// A power cut may take any page of what no barrier covered, so a last line may be cut in the middle of a
/// character, consist of zeros, or have its newline and lack its beginning.
pub(super) fn examine(file: &dyn media::File, path: &Path, len: u64, scan_len_max: u64) -> Result<Found> {
    let fail = |e| Error::os(Stage::Read, path, e);
    let mut window = Window { file, bytes: Vec::new(), start: len, len_max: scan_len_max };
    let mut end = len;
    while end > 0 {
        if window.start == end {
            window.extend().map_err(fail)?;
        }
        let ended = window.get(end - 1, end) == b"\n";
        let content_end = if ended { end - 1 } else { end };
        let Some(start) = window.line_start(content_end).map_err(fail)? else {
            return Err(no_whole_line(path, window.start, scan_len_max));
        };
        match (Line::judge(window.get(start, content_end)), ended) {
            (Line::Container | Line::Scalar, true) => break,
            (Line::Container, false) => return Ok(Found::Unterminated { offset: start }),
            (Line::Scalar, false) | (Line::Bad, _) => end = start,
        }
    }
    if end == len {
        return Ok(Found::Clean);
    }
    Ok(Found::Torn { offset: end, bytes: window.get(end, len).to_vec() })
}

fn no_whole_line(path: &Path, offset: u64, scan_len_max: u64) -> Error {
    let detail = format!("no whole line within {scan_len_max} bytes of the end");
    Error::new(Stage::Read, TargetState::Unchanged, path, Cause::Corrupt { offset, detail })
}

impl Log {
    /// Gives torn bytes a file of their own beside the log, durably: `<name>.torn-<offset>-<random>`, as private as
    /// the log itself.
    pub(super) fn set_aside(&self, offset: u64, bytes: &[u8], mode: media::Mode) -> Result<PathBuf> {
        let random = random_u64(&*self.dir.env.entropy).map_err(|e| self.read_failed(e))? >> 32;
        let name = side_name(&self.place.name, &format!(".torn-{offset}-{random:08x}"));
        let place = Place {
            dir: std::sync::Arc::clone(&self.place.dir),
            path: self.place.sibling_path(&name),
            name,
            existing: None,
            durability: Durability::Durable,
        };
        let path = place.path.clone();
        let options = WriteOptions {
            mode: Some(mode.without_set_id()),
            barriers: self.options.barriers,
            ..WriteOptions::default()
        };
        let set_aside = || {
            let mut staged = self.dir.stage_at(place, &options)?;
            staged.write_all(bytes)?;
            staged.seal()?.publish(Publish::CreateNew).map_err(Error::from)
        };
        // Whatever became of the copy: the log is as it was.
        let published = set_aside().map_err(|error: Error| error.in_state(TargetState::Unchanged))?;
        if let Some(leftover) = published.leftover {
            tracing::warn!(path = %leftover.path.display(), error = %leftover.error, "a temporary file is left");
        }
        self.place.dir.mark("after_set_aside");
        Ok(path)
    }
}
