//! The arena: records in memory, one behind the other, in the form in which they are copied.
//!
//! Invariants
//! - a [`Place`] is given out only for a whole kept record, and nothing before the end is ever changed.
//! - places ascend in the order of their records.

use alloc::vec::Vec;

use crate::error::Error;
use crate::record::{Form, KEPT_HEADER_LEN, Record, Revision};

/// Bytes of a piece. Pieces do not move, so nothing is copied when the arena grows, and no more than one is unused.
const PIECE_LEN: usize = 256 << 10;

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    piece: u32,
    at: u32,
}

/// Records, never moved.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    pieces: Vec<Vec<u8>>,
    len: u64,
}

/// A record in the arena.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    /// All of it, as it is copied.
    pub(crate) record: &'a [u8],
    pub(crate) key: &'a str,
    pub(crate) value: &'a [u8],
    pub(crate) revision: Revision,
    pub(crate) form: Form,
}

impl<'a> Kept<'a> {
    /// As a record.
    pub(crate) fn as_record(&self) -> Record<'a> {
        let Self { key, value, revision, form, .. } = *self;
        Record::Kept { key, value, revision, form }
    }
}

impl Arena {
    /// Bytes of records, live or not.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the next record will begin, or somewhere before that: it is behind every record that is there.
    pub(crate) fn end(&self) -> Place {
        let piece = u32::try_from(self.pieces.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let at = self.pieces.last().map_or(0, Vec::len);
        Place { piece, at: u32::try_from(at).unwrap_or(u32::MAX) }
    }

    /// Sees to it that records of so many bytes together can be pushed.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), Error> {
        let has_room = self.pieces.last().is_some_and(|piece| piece.len() + len <= piece.capacity());
        if !has_room {
            let mut piece = Vec::new();
            let piece_len = PIECE_LEN.max(len);
            piece.try_reserve_exact(piece_len).map_err(|_| Error::NoMemory { len: piece_len })?;
            self.pieces.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<Vec<u8>>() })?;
            self.pieces.push(piece);
        }
        Ok(())
    }

    /// Keeps a value.
    pub(crate) fn push(
        &mut self,
        key: &str,
        value: &[u8],
        revision: Revision,
        form: Form,
    ) -> Result<Place, Error> {
        let len = KEPT_HEADER_LEN + key.len() + value.len();
        self.reserve(len)?;
        let place = self.end();
        let Some(piece) = self.pieces.last_mut() else { return Err(Error::NoMemory { len }) };
        Record::Kept { key, value, revision, form }.encode(piece)?;
        self.len = self.len.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        Ok(place)
    }

    /// The record at a place that this arena gave out.
    pub(crate) fn get(&self, place: Place) -> Option<Kept<'_>> {
        let bytes = self.bytes(place)?;
        let key_len = usize::from(*bytes.get(1)?);
        let value_len = usize::try_from(u32::from_le_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?;
        let value_at = KEPT_HEADER_LEN + key_len;
        let record = bytes.get(..value_at + value_len)?;
        Some(Kept {
            record,
            key: core::str::from_utf8(record.get(KEPT_HEADER_LEN..value_at)?).ok()?,
            value: record.get(value_at..)?,
            revision: Revision::from_u64(u64::from_le_bytes(*bytes.get(6..)?.first_chunk()?)),
            form: Form::of(*bytes.first()?),
        })
    }

    /// The key alone, as it is compared.
    pub(crate) fn key(&self, place: Place) -> &[u8] {
        let key = |bytes: &'_ [u8]| Some(KEPT_HEADER_LEN..KEPT_HEADER_LEN + usize::from(*bytes.get(1)?));
        let bytes = self.bytes(place).unwrap_or(&[]);
        key(bytes).and_then(|range| bytes.get(range)).unwrap_or(&[])
    }

    fn bytes(&self, place: Place) -> Option<&[u8]> {
        self.pieces.get(usize::try_from(place.piece).ok()?)?.get(usize::try_from(place.at).ok()?..)
    }
}
