//! Intents: what the journal of a root holds.
//!
//! # Format
//!
//! The body of a frame is a row of records, one after the other, little-endian:
//!
//! ```text
//! record    kind u8 · len u32 · body of len bytes
//! prepare   1   names that are being staged:     text …
//! commit    2   transaction u64 · count u32 · operation …
//! list      3   transaction u64 · len u64 · sha-256 [u8; 32] · name of the list file: text
//! done      4   transaction u64: it, and every one with a smaller number, is complete
//! text      len u16 · UTF-8
//! operation path: text · before · what
//! before    0 not recorded | 1 nothing was there | 2 inode u64 · modified (0 | 1 · seconds i64 · nanos u32)
//! what      0 nothing is there | 1 len u32 · bytes | 2 staged under: text · inode u64
//! ```
//!
//! A frame is valid **if and only if** every record in it has a kind and a length that fit, and its body is used up exactly;
//! paths parse as [`TreePath`]s. A list file holds `count u32 · operation …`, and is what its length and digest say.
//! (Checksums are those of the journal's blocks.)

use std::sync::Arc;

use media::Timestamp;

use crate::path::TreePath;

/// What says, in the superblock of the journal, whose journal it is.
pub(crate) const ENGINE: &[u8] = b"steadfast intents 1";

/// The number of a transaction: they are complete in no order, and named in this one.
pub(crate) type Number = u64;

/// Bytes in front of the body of a record.
const HEAD_LEN: usize = 5;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// These names are being staged. What is found under them without a commit is nobody's.
    Prepare(Vec<TreePath>),
    /// From here on recovery will carry these out.
    Commit(Commit),
    /// The same, with the operations in a file of their own.
    List(ListCommit),
    /// Complete up to here.
    Done(Number),
}

/// Operations that are carried out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) number: Number,
    pub(crate) operations: Vec<Operation>,
}

/// Operations that did not fit into a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListCommit {
    pub(crate) number: Number,
    pub(crate) len: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) file: String,
}

/// What becomes of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) path: TreePath,
    pub(crate) before: Before,
    pub(crate) what: What,
}

/// What had the name before the transaction, where others may change it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nobody else changes it.
    NotRecorded,
    /// Nothing.
    Absent,
    /// A file; changed last at this time, where that could be told.
    File { inode: u64, modified: Option<Timestamp> },
}

/// What is to have the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Nothing.
    Absent,
    /// A file of these bytes.
    Payload(Arc<[u8]>),
    /// The file that was staged under this name, known by its inode.
    Staged { hidden: TreePath, inode: u64 },
}

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a record is cut short at byte {at}")]
    Short { at: usize },
    #[error("unknown code {code} at byte {at}")]
    Code { code: u8, at: usize },
    #[error("a text at byte {at} is no path below the root")]
    Path { at: usize },
    #[error("bytes are left over from byte {at} on")]
    LeftOver { at: usize },
}

/// The bytes of a commit, but for its number ([`number`] gives it one).
pub(crate) fn encode_commit(operations: &[Operation]) -> Vec<u8> {
    let mut record = begin(2);
    record.extend_from_slice(&0_u64.to_le_bytes());
    encode_operations(operations, &mut record);
    end(record)
}

/// The bytes of a commit whose operations are in a list file, but for its number.
pub(crate) fn encode_list(len: u64, digest: [u8; 32], file: &str) -> Vec<u8> {
    let mut record = begin(3);
    record.extend_from_slice(&0_u64.to_le_bytes());
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(&digest);
    text(file, &mut record);
    end(record)
}

/// The bytes of a `prepare`.
pub(crate) fn encode_prepare<'p>(names: impl IntoIterator<Item = &'p TreePath>) -> Vec<u8> {
    let mut record = begin(1);
    for name in names {
        text(name.as_str(), &mut record);
    }
    end(record)
}

/// The bytes of a `done`.
pub(crate) fn encode_done(up_to: Number) -> Vec<u8> {
    let mut record = begin(4);
    record.extend_from_slice(&up_to.to_le_bytes());
    end(record)
}

/// Gives a commit its number.
pub(crate) fn number(record: &mut [u8], number: Number) {
    if let Some(place) = record.get_mut(HEAD_LEN..HEAD_LEN + 8) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

/// The content of a list file; inside a commit too.
pub(crate) fn encode_operations(operations: &[Operation], into: &mut Vec<u8>) {
    into.extend_from_slice(&count_u32(operations.len()).to_le_bytes());
    for operation in operations {
        text(operation.path.as_str(), into);
        match operation.before {
            Before::NotRecorded => into.push(0),
            Before::Absent => into.push(1),
            Before::File { inode, modified } => {
                into.push(2);
                into.extend_from_slice(&inode.to_le_bytes());
                match modified {
                    None => into.push(0),
                    Some(at) => {
                        into.push(1);
                        into.extend_from_slice(&at.seconds.to_le_bytes());
                        into.extend_from_slice(&at.nanos.to_le_bytes());
                    }
                }
            }
        }
        match &operation.what {
            What::Absent => into.push(0),
            What::Payload(bytes) => {
                into.push(1);
                into.extend_from_slice(&count_u32(bytes.len()).to_le_bytes());
                into.extend_from_slice(bytes);
            }
            What::Staged { hidden, inode } => {
                into.push(2);
                text(hidden.as_str(), into);
                into.extend_from_slice(&inode.to_le_bytes());
            }
        }
    }
}

/// How many bytes an operation with a payload of `len` bytes takes in a commit, at most.
pub(crate) fn payload_operation_len(path: &TreePath, len: usize) -> usize {
    // Two lengths, two codes; `before` is not recorded where there are payloads.
    2 + path.as_str().len() + 1 + 1 + 4 + len
}

/// How many bytes a commit takes beside its operations.
pub(crate) const COMMIT_LEN: usize = HEAD_LEN + 8 + 4;

fn begin(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0]
}

fn end(mut record: Vec<u8>) -> Vec<u8> {
    let len = count_u32(record.len() - HEAD_LEN);
    if let Some(place) = record.get_mut(1..HEAD_LEN) {
        place.copy_from_slice(&len.to_le_bytes());
    }
    record
}

fn text(text: &str, into: &mut Vec<u8>) {
    // A path has 4,096 bytes at most, so this is never cut.
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    into.extend_from_slice(&len.to_le_bytes());
    into.extend_from_slice(text.as_bytes());
}

/// Lengths and counts here are bounded far below: by a frame (1 MiB), or by what a transaction may hold.
fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Hands every record of a frame to `each`.
pub(crate) fn decode(body: &[u8], each: &mut dyn FnMut(Record)) -> Result<(), Malformed> {
    let mut reader = Reader { bytes: body, at: 0 };
    while !reader.is_empty() {
        let kind_at = reader.at;
        let kind = reader.u8()?;
        let len = reader.len()?;
        let at = reader.at;
        let mut inner = Reader { bytes: reader.take(len)?, at: 0 };
        let record = match kind {
            1 => {
                let mut names = Vec::new();
                while !inner.is_empty() {
                    names.push(inner.path()?);
                }
                Record::Prepare(names)
            }
            2 => Record::Commit(Commit { number: inner.u64()?, operations: inner.operations()? }),
            3 => Record::List(ListCommit {
                number: inner.u64()?,
                len: inner.u64()?,
                digest: inner.array()?,
                file: inner.path()?.as_str().to_owned(),
            }),
            4 => Record::Done(inner.u64()?),
            code => return Err(Malformed::Code { code, at: kind_at }),
        };
        if !inner.is_empty() {
            return Err(Malformed::LeftOver { at: at + inner.at });
        }
        each(record);
    }
    Ok(())
}

/// Reads a list file.
pub(crate) fn decode_operations(bytes: &[u8]) -> Result<Vec<Operation>, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let operations = reader.operations()?;
    if reader.is_empty() { Ok(operations) } else { Err(Malformed::LeftOver { at: reader.at }) }
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn take(&mut self, len: usize) -> Result<&'b [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(Malformed::Short { at: self.at })?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed::Short { at: self.at })?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let at = self.at;
        <[u8; N]>::try_from(self.take(N)?).map_err(|_| Malformed::Short { at })
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length; what it is the length of is checked when it is taken.
    fn len(&mut self) -> Result<usize, Malformed> {
        let at = self.at;
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| Malformed::Short { at })
    }

    fn path(&mut self) -> Result<TreePath, Malformed> {
        let at = self.at;
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| Malformed::Path { at })?;
        TreePath::parse_any(text).map_err(|_| Malformed::Path { at })
    }

    fn operations(&mut self) -> Result<Vec<Operation>, Malformed> {
        // Not reserved: it is a number that was read. Each one takes bytes that are there.
        let count = self.len()?;
        let mut operations = Vec::new();
        for _ in 0..count {
            operations.push(Operation { path: self.path()?, before: self.before()?, what: self.what()? });
        }
        Ok(operations)
    }

    fn before(&mut self) -> Result<Before, Malformed> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(Before::NotRecorded),
            1 => Ok(Before::Absent),
            2 => {
                let inode = self.u64()?;
                let at = self.at;
                let modified = match self.u8()? {
                    0 => None,
                    1 => Some(Timestamp {
                        seconds: self.array().map(i64::from_le_bytes)?,
                        nanos: self.array().map(u32::from_le_bytes)?,
                    }),
                    code => return Err(Malformed::Code { code, at }),
                };
                Ok(Before::File { inode, modified })
            }
            code => Err(Malformed::Code { code, at }),
        }
    }

    fn what(&mut self) -> Result<What, Malformed> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(What::Absent),
            1 => {
                let len = self.len()?;
                Ok(What::Payload(self.take(len)?.into()))
            }
            2 => Ok(What::Staged { hidden: self.path()?, inode: self.u64()? }),
            code => Err(Malformed::Code { code, at }),
        }
    }
}

#[cfg(test)]
mod tests;
