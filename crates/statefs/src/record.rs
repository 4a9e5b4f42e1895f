//! Records: what stands in the body of a frame.
//!
//! A body is records, one behind the other. All integers are little-endian.
//!
//! | put | | delete | | kept | | past | |
//! |---|---|---|---|---|---|---|---|
//! | 0 | kind, 1 | 0 | kind, 2 | 0 | kind, 3 | 0 | kind, 4 |
//! | 1 | key length *k*, 1 byte | 1 | key length *k*, 1 byte | 1 | key length *k*, 1 byte | 1 | key length *k*, 1 byte |
//! | 2 | value length *v*, 4 bytes | 2 | key | 2 | value length *v*, 4 bytes | 2 | value length *v*, 4 bytes |
//! | 6 | key | | | 6 | revision, 8 bytes | 6 | revision, 8 bytes |
//! | 6 + *k* | value | | | 14 | key | 14 | revision of its end, 8 bytes |
//! | | | | | 14 + *k* | value | 22 | key |
//! | | | | | | | 22 + *k* | value |
//!
//! The kind of a put, of what is kept and of what is past has 128 added to it where the value is sealed ([`Form`]).
//!
//! A body is **valid if and only if**
//! 1. it is a sequence of whole records, from 1 to 65,536 of them, and nothing stands behind the last;
//! 2. each key is a key ([`crate::Key`]) or one that the store keeps for itself, and each value has at most 65,536 bytes;
//! 3. in a commit every record is a put or a delete; in a copied frame every record is kept or past;
//! 4. what is past ended after it began.
//!
//! What is past is a value that a key had from its revision until that of its end, and that a snapshot still has. It says
//! nothing of the value that the key has now.
//!
//! A put has the revision that its place gives it: the sequence number of the frame, and its number in the frame. What is
//! copied keeps the revision it had. Later records overrule earlier ones, whatever their revisions.

use alloc::vec::Vec;
use core::fmt;

use journal::Kind;

use crate::error::Error;
use crate::key;
use crate::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};

/// Bytes of a kept record before its key.
pub(crate) const KEPT_HEADER_LEN: usize = 14;
/// Bytes of a past record before its key.
pub(crate) const PAST_HEADER_LEN: usize = 22;
/// The longest record that keeps an empty value, current or past.
pub(crate) const RECORD_LEN_MAX_WITHOUT_VALUE: usize = PAST_HEADER_LEN + KEY_LEN_MAX;
/// The most records of a body.
pub(crate) const RECORDS_MAX: usize = 1 << INDEX_BITS;

/// The fewest bytes of a record in a copied frame: the shortest key is `/state/a`.
pub(crate) const COPIED_LEN_MIN: usize = KEPT_HEADER_LEN + 8;
/// The sequence numbers that a revision has room for end here.
pub(crate) const SEQ_END: u64 = 1 << (u64::BITS - INDEX_BITS);

const INDEX_BITS: u32 = 16;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const KEPT: u8 = 3;
const PAST: u8 = 4;
/// Added to the kind where the value is sealed.
const SEALED: u8 = 0x80;

/// What the bytes of a value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// What was put.
    Plain,
    /// Encrypted and authenticated: only who has the key can read it.
    Sealed,
}

impl Form {
    /// What the kind of a record says.
    pub(crate) fn of(code: u8) -> Self {
        if code & SEALED == 0 { Self::Plain } else { Self::Sealed }
    }

    fn flag(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Sealed => SEALED,
        }
    }
}

/// The number of a write. Greater is later; none is ever handed out twice, not even after a crash.
///
/// It is the sequence number of the frame and the place in the frame, which has 16 bits. The journal never uses a sequence
/// number again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The revision with this number, as it was told before.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// As a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sequence number of its frame.
    pub(crate) fn seq(self) -> u64 {
        self.0 >> INDEX_BITS
    }

    /// Of a record by its place; [`None`] if the numbers are used up (after 2^48 frames).
    pub(crate) fn of(seq: u64, index: usize) -> Option<Self> {
        let index = u64::try_from(index).ok().filter(|index| *index < 1 << INDEX_BITS)?;
        (seq < SEQ_END).then_some(Self(seq << INDEX_BITS | index))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'b> {
    /// This key has this value.
    Put { key: &'b str, value: &'b [u8], form: Form },
    /// This key has no value.
    Delete { key: &'b str },
    /// This key had this value when the region was copied.
    Kept { key: &'b str, value: &'b [u8], revision: Revision, form: Form },
    /// This key had this value from one revision until another.
    Past { key: &'b str, value: &'b [u8], revision: Revision, until: Revision, form: Form },
}

impl<'b> Record<'b> {
    /// Its key.
    pub(crate) fn key(&self) -> &'b str {
        match self {
            Self::Put { key, .. }
            | Self::Delete { key }
            | Self::Kept { key, .. }
            | Self::Past { key, .. } => key,
        }
    }

    /// The key and the value it gives it, if it gives it one now.
    pub(crate) fn value(&self) -> Option<(&'b str, &'b [u8])> {
        match *self {
            Self::Put { key, value, .. } | Self::Kept { key, value, .. } => Some((key, value)),
            Self::Delete { .. } | Self::Past { .. } => None,
        }
    }

    /// Appends it. The key is a key, and the value within its limit.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) -> Result<(), Error> {
        let (key, value) = match self {
            Self::Put { key, value, .. } | Self::Kept { key, value, .. } | Self::Past { key, value, .. } => {
                (key, *value)
            }
            Self::Delete { key } => (key, [].as_slice()),
        };
        let len = PAST_HEADER_LEN + key.len() + value.len();
        into.try_reserve(len).map_err(|_| Error::NoMemory { len })?;
        let key_len = [u8::try_from(key.len()).unwrap_or(u8::MAX)];
        let value_len = u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes();
        match self {
            Self::Put { form, .. } => {
                into.push(PUT | form.flag());
                into.extend_from_slice(&key_len);
                into.extend_from_slice(&value_len);
            }
            Self::Delete { .. } => {
                into.push(DELETE);
                into.extend_from_slice(&key_len);
            }
            Self::Kept { revision, form, .. } => {
                into.push(KEPT | form.flag());
                into.extend_from_slice(&key_len);
                into.extend_from_slice(&value_len);
                into.extend_from_slice(&revision.0.to_le_bytes());
            }
            Self::Past { revision, until, form, .. } => {
                into.push(PAST | form.flag());
                into.extend_from_slice(&key_len);
                into.extend_from_slice(&value_len);
                into.extend_from_slice(&revision.0.to_le_bytes());
                into.extend_from_slice(&until.0.to_le_bytes());
            }
        }
        into.extend_from_slice(key.as_bytes());
        into.extend_from_slice(value);
        Ok(())
    }
}

/// Why a body is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The body ends in the middle of a record.
    #[error("the record is cut off")]
    CutOff,
    /// There is no such record, or not in such a frame.
    #[error("the kind {0} has no place here")]
    Kind(u8),
    /// The key is none.
    #[error("the key is none")]
    Key,
    /// The value is too long.
    #[error("the value is too long: len={0}")]
    ValueTooLong(u32),
    /// What is past ended before it began.
    #[error("what is past ended before it began")]
    Interval,
    /// The record of a snapshot is of a later version.
    #[error("the record of a snapshot is of a later version")]
    Snapshot,
    /// There are none, or too many.
    #[error("the frame has no records, or too many")]
    Count,
}

/// The records of a body, in order. After an error there are no more.
#[derive(Clone)]
pub(crate) struct Records<'b> {
    kind: Kind,
    body: &'b [u8],
    at: usize,
    count: usize,
    is_over: bool,
    keys: Keys,
}

/// Whether what stands where a key must be has to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    Unknown,
    Known,
}

impl<'b> Records<'b> {
    pub(crate) fn of(kind: Kind, body: &'b [u8]) -> Self {
        Self { kind, body, at: 0, count: 0, is_over: false, keys: Keys::Unknown }
    }

    /// The records of a commit that was encoded from keys, and has not been anywhere since.
    pub(crate) fn encoded(body: &'b [u8]) -> Self {
        Self { keys: Keys::Known, ..Self::of(Kind::Commit, body) }
    }

    fn decode(&mut self) -> Result<Record<'b>, BadRecord> {
        if self.count >= RECORDS_MAX {
            return Err(BadRecord::Count);
        }
        let (code, key_len) = (self.byte()?, usize::from(self.byte()?));
        let form = Form::of(code);
        let record = match (self.kind, code ^ form.flag()) {
            (Kind::Commit, PUT) => {
                let value_len = self.value_len()?;
                Record::Put { key: self.key(key_len)?, value: self.take(value_len)?, form }
            }
            (Kind::Commit, DELETE) if form == Form::Plain => Record::Delete { key: self.key(key_len)? },
            (Kind::Copied, KEPT) => {
                let value_len = self.value_len()?;
                let revision = self.revision()?;
                Record::Kept { key: self.key(key_len)?, value: self.take(value_len)?, revision, form }
            }
            (Kind::Copied, PAST) => {
                let value_len = self.value_len()?;
                let (revision, until) = (self.revision()?, self.revision()?);
                if revision >= until {
                    return Err(BadRecord::Interval);
                }
                Record::Past { key: self.key(key_len)?, value: self.take(value_len)?, revision, until, form }
            }
            _ => return Err(BadRecord::Kind(code)),
        };
        self.count += 1;
        Ok(record)
    }

    fn take(&mut self, len: usize) -> Result<&'b [u8], BadRecord> {
        let end = self.at.checked_add(len).ok_or(BadRecord::CutOff)?;
        let bytes = self.body.get(self.at..end).ok_or(BadRecord::CutOff)?;
        self.at = end;
        Ok(bytes)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        self.take(N)?.first_chunk().copied().ok_or(BadRecord::CutOff)
    }

    fn byte(&mut self) -> Result<u8, BadRecord> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn revision(&mut self) -> Result<Revision, BadRecord> {
        self.chunk().map(u64::from_le_bytes).map(Revision)
    }

    fn value_len(&mut self) -> Result<usize, BadRecord> {
        let len = u32::from_le_bytes(self.chunk()?);
        match usize::try_from(len) {
            Ok(bytes) if len <= VALUE_LEN_MAX => Ok(bytes),
            Ok(_) | Err(_) => Err(BadRecord::ValueTooLong(len)),
        }
    }

    fn key(&mut self, len: usize) -> Result<&'b str, BadRecord> {
        let text = core::str::from_utf8(self.take(len)?).map_err(|_| BadRecord::Key)?;
        match self.keys {
            Keys::Unknown => key::check_stored(text).map(|()| text).map_err(|_| BadRecord::Key),
            Keys::Known => Ok(text),
        }
    }
}

impl<'b> Iterator for Records<'b> {
    type Item = Result<Record<'b>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_end = self.at >= self.body.len() && self.count > 0;
        if self.is_over || is_end {
            return None;
        }
        let record = if self.body.is_empty() { Err(BadRecord::Count) } else { self.decode() };
        self.is_over = record.is_err();
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const PUT_A: Record<'_> = Record::Put { key: "/state/a", value: b"xyz", form: Form::Plain };
    const DELETE_B: Record<'_> = Record::Delete { key: "/state/b" };
    const KEPT_C: Record<'_> = Record::Kept {
        key: "/state/c",
        value: b"!",
        revision: Revision(0x0807_0605_0403_0201),
        form: Form::Plain,
    };
    const PUT_SEALED: Record<'_> = Record::Put { key: "/state/a", value: b"xyz", form: Form::Sealed };
    const KEPT_SEALED: Record<'_> =
        Record::Kept { key: "/state/c", value: b"!", revision: Revision(1), form: Form::Sealed };

    const PAST_D: Record<'_> = Record::Past {
        key: "/state/d",
        value: b"?",
        revision: Revision(1),
        until: Revision(0x0807_0605_0403_0201),
        form: Form::Plain,
    };

    fn body(records: &[Record<'_>]) -> Vec<u8> {
        let mut body = Vec::new();
        for record in records {
            record.encode(&mut body).unwrap();
        }
        body
    }

    fn decode(kind: Kind, body: &[u8]) -> Result<Vec<Record<'_>>, BadRecord> {
        Records::of(kind, body).collect()
    }

    #[test]
    fn golden_bytes() {
        let commit = body(&[PUT_A, DELETE_B]);
        assert_eq!(commit, b"\x01\x08\x03\0\0\0/state/axyz\x02\x08/state/b");
        assert_eq!(decode(Kind::Commit, &commit), Ok(vec![PUT_A, DELETE_B]));
        let copied = body(&[KEPT_C]);
        assert_eq!(copied, b"\x03\x08\x01\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08/state/c!");
        assert_eq!(decode(Kind::Copied, &copied), Ok(vec![KEPT_C]));
        let past = body(&[PAST_D]);
        assert_eq!(past, b"\x04\x08\x01\0\0\0\x01\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08/state/d?");
        assert_eq!(decode(Kind::Copied, &past), Ok(vec![PAST_D]));
        let sealed = body(&[PUT_SEALED]);
        assert_eq!(sealed, b"\x81\x08\x03\0\0\0/state/axyz");
        assert_eq!(decode(Kind::Commit, &sealed), Ok(vec![PUT_SEALED]));
        let sealed = body(&[KEPT_SEALED]);
        assert_eq!(sealed, b"\x83\x08\x01\0\0\0\x01\0\0\0\0\0\0\0/state/c!");
        assert_eq!(decode(Kind::Copied, &sealed), Ok(vec![KEPT_SEALED]));
    }

    #[test]
    fn records_have_their_place() {
        assert_eq!(decode(Kind::Commit, &body(&[KEPT_C])), Err(BadRecord::Kind(KEPT)));
        assert_eq!(decode(Kind::Commit, &body(&[PAST_D])), Err(BadRecord::Kind(PAST)));
        assert_eq!(decode(Kind::Copied, &body(&[PUT_A])), Err(BadRecord::Kind(PUT)));
        assert_eq!(decode(Kind::Seal, &body(&[PUT_A])), Err(BadRecord::Kind(PUT)));
        assert_eq!(decode(Kind::Commit, b"\x82\x08/state/b"), Err(BadRecord::Kind(DELETE | SEALED)));
        assert_eq!(decode(Kind::Commit, b""), Err(BadRecord::Count));
        assert_eq!(decode(Kind::Commit, b"\x02\x07/state/"), Err(BadRecord::Key));
        assert_eq!(decode(Kind::Commit, b"\x02\x08/state/\xff"), Err(BadRecord::Key));
        assert_eq!(
            decode(Kind::Commit, b"\x01\x08\x01\0\x01\0/state/a"),
            Err(BadRecord::ValueTooLong(65_537))
        );
        let many = body(&[DELETE_B]).repeat(RECORDS_MAX);
        assert_eq!(decode(Kind::Commit, &many).map(|records| records.len()), Ok(RECORDS_MAX));
        assert_eq!(decode(Kind::Commit, &body(&[DELETE_B]).repeat(RECORDS_MAX + 1)), Err(BadRecord::Count));
    }

    #[test]
    fn no_truncation_is_valid_and_no_flipped_bit_panics() {
        let bodies = [(Kind::Commit, PUT_A), (Kind::Copied, KEPT_C), (Kind::Copied, PAST_D)]
            .map(|(k, r)| (k, body(&[r])));
        for (kind, whole) in bodies {
            for len in 0..whole.len() {
                assert!(decode(kind, &whole[..len]).is_err(), "{len}");
            }
            assert!(decode(kind, &[whole.as_slice(), &[0]].concat()).is_err());
            for bit in 0..whole.len() * 8 {
                let mut bad = whole.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                if let Ok(records) = decode(kind, &bad) {
                    assert_eq!(body(&records), bad, "what is valid has one form");
                }
            }
        }
    }

    #[test]
    fn what_is_past_lasted_for_a_while() {
        for (from, until, is_valid) in [(1, 2, true), (2, 2, false), (3, 2, false)] {
            let (revision, until) = (Revision(from), Revision(until));
            let past =
                body(&[Record::Past { key: "/state/d", value: b"", revision, until, form: Form::Plain }]);
            assert_eq!(decode(Kind::Copied, &past).is_ok(), is_valid, "{from} {until:?}");
        }
    }

    #[test]
    fn revisions_are_ordered_as_frames_and_then_as_records() {
        assert_eq!(Revision::of(1, 2), Some(Revision(0x1_0002)));
        assert!(Revision::of(1, 65_535) < Revision::of(2, 0));
        assert_eq!(Revision::of(1, 65_536), None);
        assert_eq!(Revision::of(1 << 48, 0), None);
    }
}
