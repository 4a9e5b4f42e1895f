//! The arena: keys and values in memory, in pieces that do not move.
//!
//! Each piece has the text of its keys, and beside it the bytes of its values. A key can so be handed out as a text without
//! being looked through again, which was half of what a listing cost. In the text every key ends with a newline, which is
//! in no key: a piece can be walked through when what is alive in it is carried over into another one.
//!
//! Pieces are nodes of a [table](crate::table), which views share. A piece is written to only by its sole owner, so a view
//! closes the piece that is being filled. What is written next goes into a copy of it in the same slot if it is short
//! ([`SHORT_LEN`]), and into another piece otherwise. So many views do not leave many short pieces behind. A piece grows as it
//! is filled, and is cut to what it has when it is closed. Where there was no memory for that, what a closed piece does not
//! use counts as dead.
//!
//! Memory for what will be written is reserved in the piece that is being filled, or in a spare one that no view ever shares,
//! because it is outside the table until it is used.
//!
//! Invariants
//! - an [`Extent`] is given out only for a whole key and a whole value.
//! - what is given up is counted as dead in its piece.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::error::Error;
use crate::index::Steps;
use crate::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::record::Form;
use crate::table::Table;

/// The most bytes of the values of a piece, and of its text, where one commit does not need more.
const PIECE_LEN: usize = 256 << 10;
/// The text and the values of a piece grow by at least so much.
const STEP_LEN: usize = 1 << 10;
/// A piece of at most so many bytes that a view shares is copied instead of closed.
const SHORT_LEN: usize = 4 << 10;
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

/// Some keys and values.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    text: String,
    values: Vec<u8>,
}

/// Keys and values, to be read.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    pieces: Table<Piece>,
}

/// What is counted beside a piece.
#[derive(Debug, Clone, Copy, Default)]
struct Dead {
    /// Bytes that are dead, those of `unused_len` included.
    len: usize,
    /// Bytes of memory that the piece does not use and never will.
    unused_len: usize,
}

/// What fills the arena, and clears it.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    /// The piece that is being filled.
    current: usize,
    /// Nothing more is added to it, because a view has seen it.
    is_closed: bool,
    /// The piece that is filled when the next record does not fit there; it is empty, and outside the table. And its number.
    spare: Option<(usize, Arc<Piece>)>,
    /// Numbers without a piece.
    free: Vec<usize>,
    dead: Vec<Dead>,
    /// Bytes of text and values, and of memory that is not used any more; and how many of them are dead.
    len: usize,
    dead_len: usize,
    /// The piece that is looked at first when one is to be cleared.
    hand: usize,
    pub(crate) steps: Steps,
}

/// Places are numbers of 32 bits; what has none is refused by [`Filling::reserve`].
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

    /// The number of the piece.
    pub(crate) fn piece(&self) -> usize {
        wide(self.place.piece)
    }

    #[cfg(feature = "std")]
    /// The same in another piece, at the same place.
    pub(crate) fn in_piece(&self, piece: usize) -> Self {
        Self { place: Place { piece: narrow(piece), ..self.place }, ..*self }
    }

    #[cfg(feature = "std")]
    /// The same in another piece, at this place.
    pub(crate) fn moved_to(&self, piece: usize, key_at: usize, value_at: usize) -> Self {
        let place = Place { piece: narrow(piece), key_at: narrow(key_at), value_at: narrow(value_at) };
        Self { place, ..*self }
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

/// How much is reserved where so much is needed, and so much is used.
fn growth(needed: usize, used: usize) -> usize {
    needed.max(STEP_LEN).max(used / 2)
}

impl Piece {
    pub(crate) fn of(text_len: usize, values_len: usize) -> Result<Self, Error> {
        let mut piece = Self::default();
        piece.text.try_reserve_exact(text_len).map_err(|_| Error::NoMemory { len: text_len })?;
        piece.values.try_reserve_exact(values_len).map_err(|_| Error::NoMemory { len: values_len })?;
        Ok(piece)
    }

    #[cfg(feature = "std")]
    /// Sees to it that a key and a value fit, however much is in it.
    pub(crate) fn make_room(&mut self, key_len: usize, value_len: usize) -> Result<(), Error> {
        let no_memory = |_| Error::NoMemory { len: key_len.saturating_add(value_len) };
        self.text.try_reserve(key_len + KEY_END.len_utf8()).map_err(no_memory)?;
        self.values.try_reserve(value_len).map_err(no_memory)
    }

    /// Sees to it that so much more fits; false if another piece must be begun.
    fn reserve(&mut self, text_len: usize, values_len: usize) -> Result<bool, Error> {
        let (text_used, values_used) = (self.text.len(), self.values.len());
        let text_fits = self.text.capacity() - text_used >= text_len;
        let values_fit = self.values.capacity() - values_used >= values_len;
        if !text_fits && text_used + text_len > PIECE_LEN
            || !values_fit && values_used + values_len > PIECE_LEN
        {
            return Ok(false);
        }
        if !text_fits {
            let len = growth(text_len, text_used);
            self.text.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        }
        if !values_fit {
            let len = growth(values_len, values_used).min(PIECE_LEN - values_used);
            self.values.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        }
        Ok(true)
    }

    /// Returns a copy in which so much more fits, and how many bytes were copied.
    fn try_clone(&self, text_len: usize, values_len: usize) -> Result<(Self, usize), Error> {
        let (text_used, values_used) = (self.text.len(), self.values.len());
        // No more than is needed: the next view may come as soon.
        let mut copy = Self::of(text_used + text_len, values_used + values_len)?;
        copy.text.push_str(&self.text);
        copy.values.extend_from_slice(&self.values);
        Ok((copy, self.len()))
    }

    /// Adds a key and a value, which fit, and returns where they begin.
    pub(crate) fn push(&mut self, key: &str, value: &[u8]) -> (usize, usize) {
        let begin = (self.text.len(), self.values.len());
        self.text.push_str(key);
        self.text.push(KEY_END);
        self.values.extend_from_slice(value);
        begin
    }

    fn len(&self) -> usize {
        self.text.len() + self.values.len()
    }

    fn unused_len(&self) -> usize {
        self.text.capacity() + self.values.capacity() - self.len()
    }

    /// A key, dead or not, and where the next one begins. The first one begins at 0.
    pub(crate) fn key_at(&self, at: usize) -> Option<(&str, usize)> {
        let (key, _) = self.text.get(at..)?.split_once(KEY_END)?;
        Some((key, at + key.len() + KEY_END.len_utf8()))
    }

    /// A part of its values.
    pub(crate) fn values(&self, from: usize, to: usize) -> &[u8] {
        self.values.get(from..to).unwrap_or(&[])
    }
}

impl Filling {
    #[cfg(feature = "std")]
    /// The piece that is being filled.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    /// Sees to it that keys and values of so many bytes together can be pushed.
    pub(crate) fn reserve(
        &mut self,
        arena: &mut Arena,
        keys: usize,
        keys_len: usize,
        values_len: usize,
    ) -> Result<(), Error> {
        let text_len = keys_len.saturating_add(keys.saturating_mul(KEY_END.len_utf8()));
        if self.reserve_current(arena, text_len, values_len)? {
            return Ok(());
        }
        // Records go into the current piece as long as they fit, so all of them may be left for the spare one.
        self.reserve_spare(arena, text_len, values_len)
    }

    /// Reserves in the spare piece.
    fn reserve_spare(&mut self, arena: &mut Arena, text_len: usize, values_len: usize) -> Result<(), Error> {
        if u32::try_from(text_len.max(values_len)).is_err() || u32::try_from(arena.pieces.len()).is_err() {
            return Err(Error::NoMemory { len: text_len.max(values_len) });
        }
        if let Some((at, spare)) = &mut self.spare {
            if spare.text.capacity() < text_len || spare.values.capacity() < values_len {
                *spare = Arc::new(Piece::of(text_len, values_len)?);
            }
            arena.pieces.own_slot(*at);
            return Ok(());
        }
        let len = size_of::<Piece>() + size_of::<Dead>() + size_of::<usize>();
        let no_memory = |_| Error::NoMemory { len };
        // A piece is freed without asking for memory.
        let pieces = arena.pieces.len() + 1;
        self.free.try_reserve(pieces - self.free.len()).map_err(no_memory)?;
        self.dead.try_reserve(1).map_err(no_memory)?;
        arena.pieces.reserve()?;
        let fresh = Piece::of(text_len.max(STEP_LEN), values_len.max(STEP_LEN))?;
        let at = self.free.pop().unwrap_or(arena.pieces.len());
        if at == arena.pieces.len() {
            arena.pieces.push(None);
            self.dead.push(Dead::default());
        }
        arena.pieces.own_slot(at);
        self.spare = Some((at, Arc::new(fresh)));
        Ok(())
    }

    /// Reserves in the piece that is being filled; false if another one must be begun.
    fn reserve_current(&self, arena: &mut Arena, text_len: usize, values_len: usize) -> Result<bool, Error> {
        if self.is_closed {
            return Ok(false);
        }
        if let Some(piece) = arena.pieces.sole(self.current) {
            return piece.reserve(text_len, values_len);
        }
        let fits = |piece: &Piece| {
            piece.len() <= SHORT_LEN
                && piece.text.len() + text_len <= PIECE_LEN
                && piece.values.len() + values_len <= PIECE_LEN
        };
        if !arena.pieces.get(self.current).is_some_and(fits) {
            return Ok(false);
        }
        let piece = arena.pieces.own(self.current, |piece| piece.try_clone(text_len, values_len))?;
        piece.map_or(Ok(false), |piece| piece.reserve(text_len, values_len))
    }

    /// Closes the piece that is being filled, unless it is short, because a view is going to share it. What is reserved for
    /// keys and values of so many bytes is reserved in the spare piece before.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: what was reserved still is.
    pub(crate) fn close_for_view(
        &mut self,
        arena: &mut Arena,
        keys: usize,
        keys_len: usize,
        values_len: usize,
    ) -> Result<(), Error> {
        let is_long = arena.pieces.get(self.current).is_some_and(|piece| piece.len() > SHORT_LEN);
        if is_long && !self.is_closed && keys > 0 {
            self.reserve_spare(arena, keys_len.saturating_add(keys * KEY_END.len_utf8()), values_len)?;
        }
        self.close(arena);
        Ok(())
    }

    /// Closes the piece that is being filled, unless it is short, and gives back what it does not use if that is much.
    fn close(&mut self, arena: &mut Arena) {
        let Some(piece) = arena.pieces.get(self.current).filter(|piece| piece.len() > SHORT_LEN) else {
            return;
        };
        if mem::replace(&mut self.is_closed, true) || piece.unused_len() <= piece.len() / DEAD_PART {
            return;
        }
        // A vector that shrinks in place aborts where it cannot; a copy may fail.
        match piece.try_clone(0, 0) {
            Ok((cut, len)) => {
                arena.pieces.copied.add(len);
                arena.pieces.set(self.current, Some(Arc::new(cut)));
            }
            Err(_) => {
                let unused_len = piece.unused_len();
                if let Some(dead) = self.dead.get_mut(self.current) {
                    dead.unused_len += unused_len;
                    dead.len += unused_len;
                    self.len += unused_len;
                    self.dead_len += unused_len;
                }
            }
        }
    }

    /// Goes on to the spare piece.
    fn turn(&mut self, arena: &mut Arena) {
        let Some((at, piece)) = self.spare.take() else { return };
        self.close(arena);
        arena.pieces.set(at, Some(piece));
        self.current = at;
        self.is_closed = false;
    }

    /// Keeps a key and its value.
    pub(crate) fn push(
        &mut self,
        arena: &mut Arena,
        key: &str,
        value: &[u8],
        form: Form,
    ) -> Result<Extent, Error> {
        let piece = self.make_way(arena, key.len(), value.len())?;
        let (key_at, value_at) = piece.push(key, value);
        let place = Place { piece: narrow(self.current), key_at: narrow(key_at), value_at: narrow(value_at) };
        let extent = Extent::new(place, key.len(), value.len(), form);
        self.len += extent.len();
        Ok(extent)
    }

    /// Returns the piece that has room for this.
    fn make_way<'a>(
        &mut self,
        arena: &'a mut Arena,
        key_len: usize,
        value_len: usize,
    ) -> Result<&'a mut Piece, Error> {
        let text_len = key_len + KEY_END.len_utf8();
        // Where the current piece is shared or cannot grow, the spare one has what was reserved.
        let current = if self.is_closed { None } else { arena.pieces.sole(self.current) };
        let fits = current.is_some_and(|piece| matches!(piece.reserve(text_len, value_len), Ok(true)));
        if !fits {
            if self.spare.is_none() {
                self.reserve(arena, 1, key_len, value_len)?;
            }
            self.turn(arena);
        }
        let no_memory = Error::NoMemory { len: text_len.saturating_add(value_len) };
        let piece = arena.pieces.sole(self.current).ok_or(no_memory)?;
        let _fits = piece.reserve(text_len, value_len)?;
        Ok(piece)
    }

    /// Puts a value where there was another that was not shorter; [`None`] if it was, or if a view shares the piece.
    pub(crate) fn overwrite(
        &mut self,
        arena: &mut Arena,
        old: Extent,
        value: &[u8],
        form: Form,
    ) -> Option<Extent> {
        let excess = old.value_len().checked_sub(value.len())?;
        let piece = arena.pieces.sole(old.piece())?;
        let at = wide(old.place.value_at);
        piece.values.get_mut(at..at + value.len())?.copy_from_slice(value);
        self.count_dead(old.piece(), excess);
        Some(Extent::new(old.place, old.key_len(), value.len(), form))
    }

    fn count_dead(&mut self, piece: usize, len: usize) {
        if let Some(dead) = self.dead.get_mut(piece) {
            dead.len += len;
            self.dead_len += len;
        }
    }

    /// This is not needed any more.
    pub(crate) fn give_up(&mut self, extent: Extent) {
        self.count_dead(extent.piece(), extent.len());
    }

    /// A piece that much is dead in, if more is dead than should be. It is the one that most is dead in of those that are looked
    /// at, and those are no more than a few for each that is cleared: a piece is passed over while little of it is dead, and
    /// so little in all pieces is less than what may be.
    pub(crate) fn piece_to_clear(&mut self, arena: &Arena) -> Option<usize> {
        let current_dead_len = self.dead.get(self.current).map_or(0, |dead| dead.len);
        if self.dead_len - current_dead_len <= DEAD_LEN_MAX + (self.len - self.dead_len) / DEAD_PART {
            return None;
        }
        let count = arena.pieces.len();
        let mut seen = 0;
        while seen < count {
            let window = WINDOW.min(count - seen);
            let found = (self.hand..self.hand + window).map(|at| at % count).filter(|at| *at != self.current);
            let found = found.filter_map(|at| Some((at, arena.pieces.get(at)?.len(), self.dead.get(at)?)));
            let found = found.filter(|(_, len, dead)| dead.len > (len + dead.unused_len) / (2 * DEAD_PART));
            if let Some((at, ..)) = found.max_by_key(|(_, _, dead)| dead.len) {
                self.steps.add(window);
                return Some(at);
            }
            self.hand = (self.hand + window) % count;
            self.steps.add(window);
            seen += window;
        }
        None
    }

    /// Carries a key and its value over into the current piece. Its old place is given up.
    pub(crate) fn carry(&mut self, arena: &mut Arena, extent: Extent) -> Result<Extent, Error> {
        let moved = self.copy(arena, extent)?;
        self.give_up(extent);
        Ok(moved)
    }

    /// The same for a key alone that was given up before, and is in its new place as well.
    pub(crate) fn carry_dead(&mut self, arena: &mut Arena, extent: Extent) -> Result<Extent, Error> {
        let moved = self.copy(arena, Extent::new(extent.place, extent.key_len(), 0, extent.form()))?;
        self.give_up(moved);
        Ok(moved)
    }

    fn copy(&mut self, arena: &mut Arena, extent: Extent) -> Result<Extent, Error> {
        let no_memory = Error::NoMemory { len: extent.len() };
        let from = Arc::clone(arena.pieces.shared(extent.piece()).ok_or(no_memory)?);
        let (key_at, value_at) = (wide(extent.place.key_at), wide(extent.place.value_at));
        let key = from.text.get(key_at..key_at + extent.key_len()).unwrap_or("");
        self.push(arena, key, from.values(value_at, value_at + extent.value_len()), extent.form())
    }

    /// Lets a piece go, in which everything is dead.
    pub(crate) fn clear(&mut self, arena: &mut Arena, piece: usize) {
        let Some(len) = arena.pieces.get(piece).map(Piece::len) else { return };
        let dead = self.dead.get_mut(piece).map(mem::take).unwrap_or_default();
        self.len -= len + dead.unused_len;
        self.dead_len -= dead.len;
        arena.pieces.set(piece, None);
        self.free.push(piece);
    }

    /// Bytes of memory beside the arena.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        let spare = self.spare.as_ref();
        spare.map_or(0, |(_, piece)| piece.len() + piece.unused_len())
            + self.free.capacity() * size_of::<usize>()
            + self.dead.capacity() * size_of::<Dead>()
    }

    /// Bytes that are in pieces, dead or not, by counting.
    #[cfg(test)]
    pub(crate) fn check(&self, arena: &Arena) -> usize {
        let unused_len: usize = self.dead.iter().map(|dead| dead.unused_len).sum();
        let len = arena.pieces.iter().map(Piece::len).sum::<usize>();
        assert_eq!(self.len, len + unused_len);
        assert_eq!(self.dead_len, self.dead.iter().map(|dead| dead.len).sum::<usize>());
        self.len - self.dead_len
    }
}

impl Arena {
    /// Returns a copy that shares all pieces.
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self { pieces: self.pieces.try_clone()? })
    }

    #[cfg(feature = "std")]
    /// An arena of these pieces.
    pub(crate) fn of(pieces: impl Iterator<Item = Arc<Piece>>) -> Result<Self, Error> {
        let mut arena = Self::default();
        for piece in pieces {
            arena.pieces.reserve()?;
            arena.pieces.push(Some(piece));
        }
        Ok(arena)
    }

    #[cfg(feature = "std")]
    /// The piece of a place, to be shared, and where its value is in it.
    pub(crate) fn shared(&self, extent: &Extent) -> Option<(&Arc<Piece>, usize, usize)> {
        let at = wide(extent.place.value_at);
        Some((self.pieces.shared(extent.piece())?, at, at + extent.value_len()))
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

    /// A piece, to be looked through.
    pub(crate) fn piece(&self, piece: usize) -> Option<Arc<Piece>> {
        self.pieces.shared(piece).cloned()
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

    /// Bytes that views had copied of this.
    #[cfg(test)]
    pub(crate) fn copied(&self) -> u64 {
        self.pieces.copied.count()
    }

    #[cfg(test)]
    pub(crate) fn list_len(&self) -> usize {
        self.pieces.list_len()
    }

    /// Bytes of memory.
    #[cfg(test)]
    pub(crate) fn memory_len(&self) -> usize {
        self.pieces.memory_len()
            + self.pieces.iter().map(|piece| piece.len() + piece.unused_len()).sum::<usize>()
    }

    #[cfg(test)]
    pub(crate) fn values_capacity(&self) -> usize {
        self.pieces.iter().map(|piece| piece.values.capacity()).sum()
    }
}
