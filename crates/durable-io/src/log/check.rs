//! Reading a whole log, judging every line, changing nothing.

use std::io;
use std::path::Path;

use media::Access;

use super::line::Line;
use super::{Log, LogOptions, len_of};
use crate::dir::Dir;
use crate::error::{Error, Invalid, Result, Stage};
use crate::options::{Barriers, Parents, Symlinks};
use crate::staged::read_full;

/// How many damaged lines [`LogCheck::damaged`] lists; more are only counted.
pub const DAMAGED_LINES_MAX: usize = 100;

const CHUNK_LEN: usize = 64 << 10;

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCheck {
    /// How many whole lines there are: one JSON value each. A last object or array without newline counts.
    pub records: u64,
    /// The length of the file.
    pub bytes: u64,
    /// The first [`DAMAGED_LINES_MAX`] lines that are no records **in front of a whole one**: damage, or the work
    /// of a writer without barriers. A torn tail is not among them.
    pub damaged: Vec<DamagedLine>,
    /// How many such lines there are.
    pub damaged_count: u64,
    /// The end of the file.
    pub tail: CheckedTail,
}

/// A line that is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedLine {
    /// Where it begins.
    pub offset: u64,
    /// Its length, without its newline.
    pub len: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It is text, but not one JSON value.
    NotJson,
    /// It holds NUL bytes: its length survived a power cut, its bytes did not.
    Nul,
    /// It is not UTF-8: cut in the middle of a character, or never text.
    CutUtf8,
    /// It is longer than a record may be.
    TooLong,
    /// It is the last one, has no newline, and is no whole object or array.
    Unfinished,
}

/// The end of a log that was looked at and not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckedTail {
    /// The last line is whole, or there is none.
    Clean,
    /// The last line is a whole object or array without newline; opening the log adds it.
    NewlineMissing {
        /// Where that line begins.
        offset: u64,
    },
    /// What follows the last whole line; opening the log sets it aside. Normal after a power cut. (While a writer
    /// is at work, it may be a record on its way.)
    Torn {
        /// Where it begins.
        offset: u64,
        /// How many bytes it has.
        len: u64,
        /// What is wrong with its first line.
        flaw: Flaw,
    },
}

impl Log {
    /// Reads the log `name` (or a rotated file of it) from end to end and says what is whole and what is not. Takes
    /// no lock and writes nothing; memory is bounded by the longest record (and 16 MiB).
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound); of reading. Damage is no error but part of the answer.
    pub fn check(dir: &Dir, name: impl AsRef<Path>, options: &LogOptions) -> Result<LogCheck> {
        let place = dir.resolve(name.as_ref(), Symlinks::Follow, Parents::MustExist, Barriers::Required)?;
        let fail = |e| Error::os(Stage::Read, &place.path, e);
        let file = place.dir.open(&place.name, Access::Read).map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        if found.kind != media::FileKind::File {
            return Err(Error::invalid(&place.path, Invalid::NotARegularFile(found.kind)));
        }
        Checker::new(options).run(&*file, found.len).map_err(fail)
    }
}

/// A run of lines that are no records, which is damage once a whole line follows.
#[derive(Debug)]
struct Run {
    offset: u64,
    flaw: Flaw,
    /// `LogCheck::damaged` and its count as they were before it.
    listed: usize,
    counted: u64,
}

struct Checker {
    record_len_max: u64,
    /// Longer lines are not kept in memory, and not judged.
    line_len_max: u64,
    line: Vec<u8>,
    /// The length of the line so far, kept in memory or not.
    line_len: u64,
    line_offset: u64,
    run: Option<Run>,
    check: LogCheck,
}

impl Checker {
    fn new(options: &LogOptions) -> Self {
        Self {
            record_len_max: options.record_len_max,
            line_len_max: options.scan_len_max(),
            line: Vec::new(),
            line_len: 0,
            line_offset: 0,
            run: None,
            check: LogCheck {
                records: 0,
                bytes: 0,
                damaged: Vec::new(),
                damaged_count: 0,
                tail: CheckedTail::Clean,
            },
        }
    }

    /// Reads up to `len`, the length at the beginning: what is appended meanwhile is not waited for.
    fn run(mut self, file: &dyn media::File, len: u64) -> io::Result<LogCheck> {
        let mut buffer = vec![0_u8; CHUNK_LEN];
        let mut at = 0;
        while at < len {
            let chunk = read_full(file, at, &mut buffer)?;
            if chunk.is_empty() {
                break;
            }
            let wanted = usize::try_from(len - at).unwrap_or(CHUNK_LEN).min(chunk.len());
            let chunk = chunk.get(..wanted).unwrap_or(chunk);
            for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
                match piece.strip_suffix(b"\n") {
                    Some(content) => {
                        self.take(content);
                        self.line_ended();
                    }
                    None => self.take(piece),
                }
            }
            at += len_of(chunk);
        }
        Ok(self.file_ended(at))
    }

    fn take(&mut self, piece: &[u8]) {
        self.line_len += len_of(piece);
        if self.line_len <= self.line_len_max {
            self.line.extend_from_slice(piece);
        }
    }

    fn line_ended(&mut self) {
        let line = self.judge();
        if line != Line::Bad {
            self.run = None;
        }
        if line != Line::Bad && self.line_len <= self.record_len_max {
            self.check.records += 1;
        } else {
            let flaw = self.flaw();
            if line == Line::Bad && self.run.is_none() {
                self.run = Some(Run {
                    offset: self.line_offset,
                    flaw,
                    listed: self.check.damaged.len(),
                    counted: self.check.damaged_count,
                });
            }
            self.check.damaged_count += 1;
            if self.check.damaged.len() < DAMAGED_LINES_MAX {
                self.check.damaged.push(DamagedLine { offset: self.line_offset, len: self.line_len, flaw });
            }
        }
        self.line_offset += self.line_len + 1;
        self.line_len = 0;
        self.line.clear();
    }

    fn file_ended(mut self, bytes: u64) -> LogCheck {
        self.check.bytes = bytes;
        let torn = |offset, flaw| CheckedTail::Torn { offset, len: bytes - offset, flaw };
        if self.line_len > 0 && self.judge() == Line::Container {
            // It is whole, so what is in front of it is no tail.
            self.check.records += 1;
            self.check.tail = CheckedTail::NewlineMissing { offset: self.line_offset };
        } else if let Some(run) = self.run {
            self.check.damaged.truncate(run.listed);
            self.check.damaged_count = run.counted;
            self.check.tail = torn(run.offset, run.flaw);
        } else if self.line_len > 0 {
            let flaw = match self.flaw() {
                Flaw::NotJson => Flaw::Unfinished,
                flaw => flaw,
            };
            self.check.tail = torn(self.line_offset, flaw);
        }
        self.check
    }

    fn judge(&self) -> Line {
        if self.line_len > self.line_len_max { Line::Bad } else { Line::judge(&self.line) }
    }

    fn flaw(&self) -> Flaw {
        if self.line_len > self.record_len_max {
            Flaw::TooLong
        } else if self.line.contains(&0) {
            Flaw::Nul
        } else if std::str::from_utf8(&self.line).is_err() {
            Flaw::CutUtf8
        } else {
            Flaw::NotJson
        }
    }
}
