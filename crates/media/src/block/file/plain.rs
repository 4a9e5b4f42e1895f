//! [`PlainWrites`]: whether any write that was not durable by itself still waits for a flush.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts plain writes. The counters may wrap; only equality is asked.
#[derive(Debug, Default)]
pub(super) struct PlainWrites {
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// Those that a flush has covered.
    covered: AtomicUsize,
}

impl PlainWrites {
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Failed ones end too: a part of them may have been taken.
    pub(super) fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// Called when a flush begins: what it covers if it succeeds. `None` while a write is in flight, because a flush does
    /// not cover that one.
    pub(super) fn completed(&self) -> Option<usize> {
        // In this order: if the two are equal, nothing was in flight when the first was read.
        let ended = self.ended.load(Ordering::SeqCst);
        let begun = self.begun.load(Ordering::SeqCst);
        (begun == ended).then_some(begun)
    }

    /// Called when that flush has succeeded.
    pub(super) fn cover(&self, completed: Option<usize>) {
        if let Some(completed) = completed {
            self.covered.store(completed, Ordering::SeqCst);
        }
    }

    /// Whether every write that has begun is covered by a flush.
    pub(super) fn are_all_covered(&self) -> bool {
        self.begun.load(Ordering::SeqCst) == self.covered.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_in_flight_when_the_flush_begins_is_not_covered_by_it() {
        let plain = PlainWrites::default();
        assert!(plain.are_all_covered());
        plain.begin();
        let completed = plain.completed();
        plain.end();
        plain.cover(completed);
        assert!(!plain.are_all_covered());
        let completed = plain.completed();
        assert!(!plain.are_all_covered(), "the flush has not ended");
        plain.cover(completed);
        assert!(plain.are_all_covered());
        let completed = plain.completed();
        plain.begin();
        plain.end();
        plain.cover(completed);
        assert!(!plain.are_all_covered(), "it came while the flush ran");
    }
}
