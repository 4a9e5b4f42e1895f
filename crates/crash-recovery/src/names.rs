//! Names of staged files, and which names are being changed right now.

use std::collections::BTreeSet;
use std::io;

use durable_io::TXN_PREFIX;
use journal::StoreId;
use media::Entropy;
use media::sync::atomic::{AtomicU64, Ordering};
use media::sync::{Condvar, Mutex, PoisonError};

use crate::path::{STAGED_SUFFIX, TreePath};

/// Hands out names for staged files: `.steadfast-txn-<journal>-<random>-<number>-<index>.nxpart`, all in hexadecimal. They tell
/// whose they are. The random part is drawn when a root is opened, so that names of an earlier process are never taken again;
/// the length does not depend on the target's.
#[derive(Debug)]
pub(crate) struct HiddenNames {
    journal: u64,
    random: u64,
    next: AtomicU64,
}

impl HiddenNames {
    /// For the journal with this id.
    pub(crate) fn new(journal: StoreId, entropy: &dyn Entropy) -> io::Result<Self> {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes)?;
        let [a, b, c, d, e, f, g, h, ..] = journal.0;
        let journal = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Ok(Self { journal, random: u64::from_le_bytes(bytes), next: AtomicU64::new(0) })
    }

    /// Whether this is the name of a staged file of this journal, whoever staged it.
    pub(crate) fn is_of_this_journal(&self, name: &str) -> bool {
        name.starts_with(&format!("{TXN_PREFIX}{:016x}-", self.journal)) && name.ends_with(STAGED_SUFFIX)
    }

    /// What the names of one transaction begin with; `index` in hexadecimal and [`STAGED_SUFFIX`] follow.
    pub(crate) fn prefix(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{TXN_PREFIX}{:016x}-{:016x}-{number:x}-", self.journal, self.random)
    }

    /// A name for a single file.
    pub(crate) fn one(&self) -> String {
        format!("{}0{STAGED_SUFFIX}", self.prefix())
    }

    /// A name for a list of operations.
    pub(crate) fn list(&self, digest: &[u8; 32]) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let short = digest.iter().take(8).fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        format!("{LIST_PREFIX}{:016x}-{number:x}-{short:016x}", self.random)
    }
}

/// What the names of list files begin with.
pub(crate) const LIST_PREFIX: &str = "list-";

/// The names that transactions of this process are changing. A transaction takes all of its names at once, so no two wait
/// for each other, and keeps them until it is in place: the order of commits of a name is then the order of its renames.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    names: Mutex<Taken>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    names: BTreeSet<TreePath>,
    waiting: usize,
}

impl Busy {
    /// Waits until none of the names is being changed, and takes them.
    pub(crate) fn take(&self, names: &BTreeSet<TreePath>) -> BusyNames<'_> {
        let mut taken = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        while names.iter().any(|name| taken.names.contains(name)) {
            taken.waiting += 1;
            taken = self.released.wait(taken).unwrap_or_else(PoisonError::into_inner);
            taken.waiting -= 1;
        }
        taken.names.extend(names.iter().cloned());
        BusyNames { busy: self, names: names.clone() }
    }
}

/// Names that this transaction alone changes, until this is dropped.
#[derive(Debug)]
pub(crate) struct BusyNames<'b> {
    busy: &'b Busy,
    names: BTreeSet<TreePath>,
}

impl Drop for BusyNames<'_> {
    fn drop(&mut self) {
        let mut taken = self.busy.names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            taken.names.remove(name);
        }
        if taken.waiting > 0 {
            self.busy.released.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use media::doubles::SeededEntropy;
    use media::sync::atomic::AtomicBool;

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<TreePath> {
        names.iter().map(|name| TreePath::parse(name).unwrap()).collect()
    }

    #[test]
    fn hidden_names_differ_and_are_recognised() {
        let hidden = HiddenNames::new(StoreId([7; 16]), &SeededEntropy::new(1)).unwrap();
        let (first, second) = (hidden.one(), hidden.one());
        assert_ne!(first, second);
        assert!(first.len() < 100, "{first}");
        let later = HiddenNames::new(StoreId([7; 16]), &SeededEntropy::new(2)).unwrap();
        assert!(later.is_of_this_journal(&first) && later.is_of_this_journal(&second));
        assert_ne!(later.one(), hidden.one());
        let another = HiddenNames::new(StoreId([8; 16]), &SeededEntropy::new(1)).unwrap();
        assert!(!another.is_of_this_journal(&first));
        for other in ["a.nxpart", ".steadfast-txn-0707070707070707-1.tmp", ".steadfast-1-2-3-4-5-6.tmp"] {
            assert!(!hidden.is_of_this_journal(other), "{other}");
        }
    }

    #[test]
    fn who_needs_one_name_of_several_waits_and_others_do_not() {
        let busy = Busy::default();
        let entered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let held = busy.take(&names(&["a", "b"]));
            drop(busy.take(&names(&["c"])));
            scope.spawn(|| {
                let _held = busy.take(&names(&["b", "d"]));
                entered.store(true, Ordering::SeqCst);
            });
            // It is known to wait, not merely to be slow.
            while busy.names.lock().unwrap().waiting == 0 {
                std::thread::yield_now();
            }
            assert!(!entered.load(Ordering::SeqCst));
            // Waiting takes nothing.
            drop(busy.take(&names(&["d"])));
            drop(held);
        });
        assert!(entered.load(Ordering::SeqCst) && busy.names.lock().unwrap().names.is_empty());
    }
}
