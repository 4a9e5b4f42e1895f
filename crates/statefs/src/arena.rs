//! The arena: keys and values in memory, in pieces that do not move.
//!
//! Each piece has the text of its keys, and beside it the bytes of its values. A key can so be handed out as a text without
//! being looked through again, which was half of what a listing cost. In the text every key ends with a newline, which is
//! in no key: a piece can be walked through when what is alive in it is carried over into another one.
//!
//! Invariants
//! - an [`Extent`] is given out only for a whole key and a whole value.
//! - what is given up is counted as dead in its piece; what is behind `current` is empty.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Error;
use crate::index::Steps;
use crate::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::record::Form;

/// Bytes of the values of a piece, and the most bytes of its text, where one commit does not need more.
const PIECE_LEN: usize = 256 << 10;
/// The text of a piece grows by so much, or by a quarter if that is more.
const TEXT_STEP_LEN: usize = 4 << 10;
/// How many dead bytes there may be, whatever is alive.
const DEAD_LEN_MAX: usize = 1 << 20;
/// And which part of what is alive they may be.
const DEAD_PART: usize = 16;
/// How many pieces are looked at to find one to clear.
const WINDOW: usize = 16;
/// What ends a key.
const KEY_END: char = '\n';

/// Where a key and its value begin.
#[derive(Debug, Clone, Copy)]
struct Place {
    piece: u32,
    key_at: u32,
    value_at: u32,
}

/// Where a key and its value are, and what the value is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    place: Place,
    /// The length of the key in the lowest eight bits, above it that of the value; the highest bit says whether it is sealed.
    lens: u32,
}

/// Where a key begins: its piece, and its place in the text of that.
pub(crate) type Origin = (u32, u32);

/// Whether a value is sealed.
const SEALED: u32 = 1 << 31;

const _: () = assert!(VALUE_LEN_MAX < 1 << 23 && KEY_LEN_MAX < 1 << 8, "both lengths fit into 31 bits");

#[derive(Debug, Default)]
struct Piece {
    text: String,
    values: Vec<u8>,
    dead_len: usize,
}

/// Keys and values.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    pieces: Vec<Piece>,
    /// The piece that is being filled.
    current: usize,
    /// The one that is filled when the next record does not fit there; it is empty.
    next: Option<usize>,
    /// Pieces without memory.
    free: Vec<usize>,
    /// Bytes of text and values, and how many of them are dead.
    len: usize,
    dead_len: usize,
    /// The piece that is looked at first when one is to be cleared.
    hand: usize,
    pub(crate) steps: Steps,
}

/// Places are numbers of 32 bits; what has none is refused by [`Arena::reserve`].
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn wide(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Extent {
    fn new(place: Place, key_len: usize, value_len: usize, form: Form) -> Self {
        let flag = match form {
            Form::Plain => 0,
            Form::Sealed => SEALED,
        };
        Self { place, lens: flag | narrow(value_len) << 8 | narrow(key_len) }
    }

    pub(crate) fn form(&self) -> Form {
        if self.lens & SEALED == 0 { Form::Plain } else { Form::Sealed }
    }

    pub(crate) fn key_len(&self) -> usize {
        wide(self.lens & 0xff)
    }

    pub(crate) fn value_len(&self) -> usize {
        wide((self.lens & !SEALED) >> 8)
    }

    /// Where the key begins.
    pub(crate) fn origin(&self) -> Origin {
        (self.place.piece, self.place.key_at)
    }

    /// Bytes in the arena.
    fn len(&self) -> usize {
        self.key_len() + KEY_END.len_utf8() + self.value_len()
    }
}

impl Piece {
    fn of(text_len: usize, values_len: usize) -> Result<Self, Error> {
        let mut piece = Self::default();
        piece.text.try_reserve_exact(text_len).map_err(|_| Error::NoMemory { len: text_len })?;
        piece.values.try_reserve_exact(values_len).map_err(|_| Error::NoMemory { len: values_len })?;
        Ok(piece)
    }

    /// Sees to it that so much more fits; false if another piece must be begun.
    fn reserve(&mut self, text_len: usize, values_len: usize) -> Result<bool, Error> {
        if self.values.capacity() - self.values.len() < values_len {
            return Ok(false);
        }
        if self.text.capacity() - self.text.len() < text_len {
            if self.text.len() + text_len > PIECE_LEN {
                return Ok(false);
            }
            let len = text_len.max(TEXT_STEP_LEN).max(self.text.len() / 4);
            self.text.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        }
        Ok(true)
    }

    /// It fits.
    fn push(&mut self, key: &str, value: &[u8]) {
        self.text.push_str(key);
        self.text.push(KEY_END);
        self.values.extend_from_slice(value);
    }

    fn len(&self) -> usize {
        self.text.len() + self.values.len()
    }
}

impl Arena {
    /// Sees to it that keys and values of so many bytes together can be pushed.
    pub(crate) fn reserve(&mut self, keys: usize, keys_len: usize, values_len: usize) -> Result<(), Error> {
        let text_len = keys_len.saturating_add(keys.saturating_mul(KEY_END.len_utf8()));
        if let Some(piece) = self.pieces.get_mut(self.current)
            && piece.reserve(text_len, values_len)?
        {
            return Ok(());
        }
        // Records go into the current piece as long as they fit, so all of them may be left for the next one.
        let (text_len, values_len) = (text_len.max(TEXT_STEP_LEN), values_len.max(PIECE_LEN));
        if u32::try_from(text_len.max(values_len)).is_err() || u32::try_from(self.pieces.len()).is_err() {
            return Err(Error::NoMemory { len: text_len.max(values_len) });
        }
        if let Some(next) = self.next.and_then(|next| self.pieces.get_mut(next)) {
            if next.text.capacity() < text_len || next.values.capacity() < values_len {
                *next = Piece::of(text_len, values_len)?;
            }
            return Ok(());
        }
        let len = size_of::<Piece>();
        self.pieces.try_reserve(1).map_err(|_| Error::NoMemory { len })?;
        // A piece is freed without asking for memory.
        let pieces = self.pieces.len() + 1;
        self.free.try_reserve(pieces - self.free.len()).map_err(|_| Error::NoMemory { len })?;
        let fresh = Piece::of(text_len, values_len)?;
        let slot = self.free.pop().unwrap_or(self.pieces.len());
        match self.pieces.get_mut(slot) {
            Some(piece) => *piece = fresh,
            None => self.pieces.push(fresh),
        }
        self.next = Some(slot);
        if self.pieces.len() == 1 {
            self.turn();
        }
        Ok(())
    }

    /// Goes on to the next piece.
    fn turn(&mut self) {
        if let Some(next) = self.next.take() {
            self.current = next;
        }
    }

    /// Keeps a key and its value.
    pub(crate) fn push(&mut self, key: &str, value: &[u8], form: Form) -> Result<Extent, Error> {
        self.make_way(key.len(), value.len())?;
        let extent = self.next_extent(key.len(), value.len(), form);
        if let Some(piece) = self.pieces.get_mut(self.current) {
            piece.push(key, value);
        }
        self.len += extent.len();
        Ok(extent)
    }

    /// Sees to it that the current piece has room for this.
    fn make_way(&mut self, key_len: usize, value_len: usize) -> Result<(), Error> {
        let text_len = key_len + KEY_END.len_utf8();
        // Where the text cannot grow, the next piece has what was reserved.
        let current = self.pieces.get_mut(self.current);
        let fits = current.is_some_and(|piece| matches!(piece.reserve(text_len, value_len), Ok(true)));
        if !fits {
            if self.next.is_none() {
                self.reserve(1, key_len, value_len)?;
            }
            self.turn();
            if let Some(piece) = self.pieces.get_mut(self.current) {
                let _fits = piece.reserve(text_len, value_len)?;
            }
        }
        Ok(())
    }

    fn next_extent(&self, key_len: usize, value_len: usize, form: Form) -> Extent {
        let (key_at, value_at) =
            self.pieces.get(self.current).map_or((0, 0), |piece| (piece.text.len(), piece.values.len()));
        let place = Place { piece: narrow(self.current), key_at: narrow(key_at), value_at: narrow(value_at) };
        Extent::new(place, key_len, value_len, form)
    }

    /// Puts a value where there was another that was not shorter; [`None`] if it was.
    pub(crate) fn overwrite(&mut self, old: Extent, value: &[u8], form: Form) -> Option<Extent> {
        let excess = old.value_len().checked_sub(value.len())?;
        let piece = self.pieces.get_mut(wide(old.place.piece))?;
        let at = wide(old.place.value_at);
        piece.values.get_mut(at..at + value.len())?.copy_from_slice(value);
        piece.dead_len += excess;
        self.dead_len += excess;
        Some(Extent::new(old.place, old.key_len(), value.len(), form))
    }

    /// This is not needed any more.
    pub(crate) fn give_up(&mut self, extent: Extent) {
        if let Some(piece) = self.pieces.get_mut(wide(extent.place.piece)) {
            piece.dead_len += extent.len();
            self.dead_len += extent.len();
        }
    }

    /// The key at a place that this arena gave out.
    pub(crate) fn key(&self, extent: &Extent) -> &str {
        let at = wide(extent.place.key_at);
        let piece = self.pieces.get(wide(extent.place.piece));
        piece.and_then(|piece| piece.text.get(at..at + extent.key_len())).unwrap_or("")
    }

    /// The same as bytes, as it is compared.
    pub(crate) fn key_bytes(&self, extent: &Extent) -> &[u8] {
        let at = wide(extent.place.key_at);
        let piece = self.pieces.get(wide(extent.place.piece));
        piece.and_then(|piece| piece.text.as_bytes().get(at..at + extent.key_len())).unwrap_or(&[])
    }

    /// The value at a place that this arena gave out.
    pub(crate) fn value(&self, extent: &Extent) -> &[u8] {
        let at = wide(extent.place.value_at);
        let piece = self.pieces.get(wide(extent.place.piece));
        piece.and_then(|piece| piece.values.get(at..at + extent.value_len())).unwrap_or(&[])
    }

    /// A piece that much is dead in, if more is dead than should be. It is the one that most is dead in of those that are looked
    /// at, and those are no more than a few for each that is cleared: a piece is passed over while little of it is dead, and
    /// so little in all pieces is less than what may be.
    pub(crate) fn piece_to_clear(&mut self) -> Option<usize> {
        let current_dead_len = self.pieces.get(self.current).map_or(0, |piece| piece.dead_len);
        if self.dead_len - current_dead_len <= DEAD_LEN_MAX + (self.len - self.dead_len) / DEAD_PART {
            return None;
        }
        let count = self.pieces.len();
        let mut seen = 0;
        while seen < count {
            let window = WINDOW.min(count - seen);
            let found = (self.hand..self.hand + window).map(|at| at % count).filter(|at| *at != self.current);
            let found = found.filter_map(|at| Some((at, self.pieces.get(at)?)));
            let found = found.filter(|(_, piece)| piece.dead_len > piece.len() / (2 * DEAD_PART));
            if let Some((at, _)) = found.max_by_key(|(_, piece)| piece.dead_len) {
                self.steps.add(window);
                return Some(at);
            }
            self.hand = (self.hand + window) % count;
            self.steps.add(window);
            seen += window;
        }
        None
    }

    /// A key of a piece, dead or not, and where it begins; for the first one pass 0, and for the next one what is returned
    /// with it.
    pub(crate) fn key_in(&self, piece: usize, at: usize) -> Option<(&str, usize)> {
        let (key, _) = self.pieces.get(piece)?.text.get(at..)?.split_once(KEY_END)?;
        Some((key, at + key.len() + KEY_END.len_utf8()))
    }

    /// A place in a piece as its extent has it.
    pub(crate) fn origin(piece: usize, at: usize) -> Origin {
        (narrow(piece), narrow(at))
    }

    /// Bytes of the text of a piece, and of its values.
    pub(crate) fn lens_of(&self, piece: usize) -> (usize, usize) {
        self.pieces.get(piece).map_or((0, 0), |piece| (piece.text.len(), piece.values.len()))
    }

    /// How many pieces there are, those without memory included.
    pub(crate) fn pieces_len(&self) -> usize {
        self.pieces.len()
    }

    /// Carries a key and its value over into the current piece. Its old place is given up.
    pub(crate) fn carry(&mut self, extent: Extent) -> Result<Extent, Error> {
        let moved = self.copy(extent)?;
        self.give_up(extent);
        Ok(moved)
    }

    /// The same for a key alone that was given up before, and is in its new place as well.
    pub(crate) fn carry_dead(&mut self, extent: Extent) -> Result<Extent, Error> {
        let moved = self.copy(Extent::new(extent.place, extent.key_len(), 0, extent.form()))?;
        self.give_up(moved);
        Ok(moved)
    }

    fn copy(&mut self, extent: Extent) -> Result<Extent, Error> {
        self.make_way(extent.key_len(), extent.value_len())?;
        let moved = self.next_extent(extent.key_len(), extent.value_len(), extent.form());
        let (from, to) = (wide(extent.place.piece), self.current);
        let (key_at, value_at) = (wide(extent.place.key_at), wide(extent.place.value_at));
        if let Ok([from, to]) = self.pieces.get_disjoint_mut([from, to])
            && let Some(key) = from.text.get(key_at..key_at + extent.key_len())
            && let Some(value) = from.values.get(value_at..value_at + extent.value_len())
        {
            to.push(key, value);
        }
        self.len += moved.len();
        Ok(moved)
    }

    /// Lets a piece go, in which everything is dead.
    pub(crate) fn clear(&mut self, piece: usize) {
        if let Some(slot) = self.pieces.get_mut(piece) {
            self.len -= slot.len();
            self.dead_len -= slot.dead_len;
            *slot = Piece::default();
            self.free.push(piece);
        }
    }

    /// Bytes of memory.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        let pieces: usize =
            self.pieces.iter().map(|piece| piece.text.capacity() + piece.values.capacity()).sum();
        pieces + self.pieces.capacity() * size_of::<Piece>() + self.free.capacity() * size_of::<usize>()
    }

    #[cfg(test)]
    pub(crate) fn values_capacity(&self) -> usize {
        self.pieces.iter().map(|piece| piece.values.capacity()).sum()
    }

    /// Bytes that are in pieces, dead or not, by counting.
    #[cfg(test)]
    pub(crate) fn check(&self) -> usize {
        assert_eq!(self.len, self.pieces.iter().map(Piece::len).sum::<usize>());
        assert_eq!(self.dead_len, self.pieces.iter().map(|piece| piece.dead_len).sum::<usize>());
        assert!(self.next.and_then(|next| self.pieces.get(next)).is_none_or(|piece| piece.len() == 0));
        assert!(self.dead_len <= DEAD_LEN_MAX + (self.len - self.dead_len) / DEAD_PART + 2 * PIECE_LEN);
        self.len - self.dead_len
    }
}
