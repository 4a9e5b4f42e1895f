//! Aligned memory for requests past the page cache, kept and reused.
//!
//! Invariants
//! - at most [`BUFFERS_MAX`] buffers of at most [`BUFFER_LEN_MAX`] bytes exist; who finds none free waits;
//! - a buffer is held for one request to the file and never across a wait for a flush, so the wait ends.

use crate::Alignment;
use crate::sync::{Condvar, Mutex, PoisonError};

/// The longest request that is copied in one piece: the greatest frame of a journal with blocks of 4 KiB. A longer one
/// goes in several.
pub(super) const BUFFER_LEN_MAX: usize = 1 << 20;

/// How many requests may be copied at a time.
pub(super) const BUFFERS_MAX: usize = 4;

/// [`Alignment::MAX`] as a length.
const PAGE: usize = 4096;
const _: () = assert!(Alignment::MAX == 4096 && BUFFER_LEN_MAX.is_multiple_of(PAGE));

/// The buffers of one disk.
#[derive(Debug, Default)]
pub(super) struct Bounce {
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    lent: usize,
    /// How many threads wait for one.
    waiting: usize,
    /// Those that are not lent.
    idle: [Option<Buffer>; BUFFERS_MAX],
}

/// Memory that was not to be had: so many bytes.
#[derive(Debug)]
pub(super) struct NoMemory(pub(super) usize);

impl Bounce {
    /// A buffer of `len` bytes, [`BUFFER_LEN_MAX`] at most; a used one if there is one, which grows where it is shorter.
    pub(super) fn lend(&self, len: usize) -> Result<Lent<'_>, NoMemory> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        while pool.lent >= BUFFERS_MAX {
            pool.waiting += 1;
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
            pool.waiting -= 1;
        }
        pool.lent += 1;
        let used = pool.idle.iter_mut().max_by_key(|idle| idle.as_ref().map_or(0, Buffer::len));
        let buffer = used.and_then(Option::take).unwrap_or_default();
        drop(pool);
        // From here on it is given back, whatever happens.
        let mut lent = Lent { bounce: self, buffer, len: len.min(BUFFER_LEN_MAX) };
        lent.buffer.grow(lent.len)?;
        Ok(lent)
    }

    fn give_back(&self, buffer: Buffer) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.lent -= 1;
        // One that was lent has left a place free.
        if let Some(place) = pool.idle.iter_mut().find(|place| place.is_none()) {
            *place = Some(buffer);
        }
        let is_awaited = pool.waiting > 0;
        drop(pool);
        // Waking nobody is a system call all the same.
        if is_awaited {
            self.returned.notify_one();
        }
    }
}

/// A buffer that is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lent<'b> {
    bounce: &'b Bounce,
    buffer: Buffer,
    len: usize,
}

impl Lent<'_> {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let begin = self.buffer.begin;
        self.buffer.memory.get_mut(begin..begin.saturating_add(self.len)).unwrap_or_default()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.bounce.give_back(std::mem::take(&mut self.buffer));
    }
}

/// Memory with a page more than is used, of which the part that begins at a multiple of a page is.
#[derive(Debug, Default)]
struct Buffer {
    memory: Vec<u8>,
    begin: usize,
}

impl Buffer {
    fn len(&self) -> usize {
        self.memory.len().saturating_sub(self.begin)
    }

    fn grow(&mut self, len: usize) -> Result<(), NoMemory> {
        if self.len() >= len {
            return Ok(());
        }
        let wanted = len.saturating_add(PAGE);
        let mut memory = Vec::new();
        memory.try_reserve_exact(wanted).map_err(|_| NoMemory(wanted))?;
        memory.resize(wanted, 0);
        // A vector that does not grow any more stays where it is.
        let begin = memory.as_ptr().align_offset(PAGE);
        if begin >= PAGE {
            return Err(NoMemory(wanted));
        }
        *self = Self { memory, begin };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked_for_up_to_the_limit() {
        let bounce = Bounce::default();
        for (asked, got) in [
            (512, 512),
            (4096, 4096),
            (BUFFER_LEN_MAX - 512, BUFFER_LEN_MAX - 512),
            (BUFFER_LEN_MAX, BUFFER_LEN_MAX),
            (BUFFER_LEN_MAX + 512, BUFFER_LEN_MAX),
        ] {
            let mut lent = bounce.lend(asked).unwrap();
            let bytes = lent.bytes();
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % PAGE), (got, 0));
        }
    }

    #[test]
    fn a_buffer_is_used_again_and_not_allocated_anew() {
        let bounce = Bounce::default();
        let address = |len| bounce.lend(len).unwrap().bytes().as_ptr().addr();
        let first = address(65_536);
        for len in [512, 65_536, 4096] {
            assert_eq!(address(len), first);
        }
        // With two at a time, the longer one is what a later request gets.
        let (_one, mut two) = (bounce.lend(512).unwrap(), bounce.lend(131_072).unwrap());
        let longest = two.bytes().as_ptr().addr();
        drop((_one, two));
        assert_eq!(address(131_072), longest);
    }

    #[test]
    fn no_more_buffers_exist_than_the_limit_and_the_next_waits_for_one() {
        let bounce = Bounce::default();
        let mut lent: Vec<Lent<'_>> = (0..BUFFERS_MAX).map(|_| bounce.lend(512).unwrap()).collect();
        let addresses: Vec<usize> = lent.iter_mut().map(|lent| lent.bytes().as_ptr().addr()).collect();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bounce.lend(512).unwrap().bytes().as_ptr().addr());
            while bounce.pool.lock().unwrap().waiting == 0 {
                assert!(!waiting.is_finished(), "it did not wait");
                std::thread::yield_now();
            }
            let last = lent.pop().unwrap();
            drop(last);
            assert_eq!(Some(&waiting.join().unwrap()), addresses.last());
        });
    }
}
