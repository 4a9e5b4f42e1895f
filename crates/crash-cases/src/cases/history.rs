//! Mixed histories of the same names: small and large puts, removes, creates and renames, in every order.
//!
//! Whatever was acknowledged is never undone by a recovery, though a later operation of a name may wait for its barriers while
//! an earlier one is durable, the other way round, or while one is released.

use crashsim::{Cell, Disks, Run, Value};

use super::case::{Ended, boxed};
use super::tree::{Change, Shape, Tree, Way, is_roots_own, open, prepare};
use crate::site::{FileCase, Site};

/// How long a history is at most.
const LEN_MAX: usize = 4;

/// A checkpoint comes after every second change.
const SHAPE: Shape = Shape { journal_blocks: 40, window: 2 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Of bytes that ride in the journal, where they do.
    PutSmall,
    /// Of bytes that never do.
    PutLarge,
    Remove,
    Create,
    /// From `a` to `b`, and back.
    Away,
    Back,
}

const STEPS: [Step; 6] = [Step::PutSmall, Step::PutLarge, Step::Remove, Step::Create, Step::Away, Step::Back];

/// Which of the two names have a file.
#[derive(Debug, Clone, Copy)]
struct There {
    a: bool,
    b: bool,
}

const BEFORE: There = There { a: true, b: false };
const OLD: &[u8] = b"old";

impl Step {
    /// What is there after it; [`None`] where it would be refused.
    fn after(self, there: There) -> Option<There> {
        match self {
            Self::PutSmall | Self::PutLarge => Some(There { a: true, ..there }),
            Self::Remove => there.a.then_some(There { a: false, ..there }),
            Self::Create => (!there.a).then_some(There { a: true, ..there }),
            Self::Away => there.a.then_some(There { a: false, b: true }),
            Self::Back => there.b.then_some(There { a: true, b: false }),
        }
    }
}

/// Every history that is not refused, the short ones first.
fn histories() -> Vec<Vec<Step>> {
    let mut all: Vec<(Vec<Step>, There)> = vec![(Vec::new(), BEFORE)];
    let mut next = 0;
    while let Some((history, there)) = all.get(next).cloned() {
        next += 1;
        if history.len() == LEN_MAX {
            continue;
        }
        for step in STEPS {
            if let Some(there) = step.after(there) {
                all.push(([history.as_slice(), &[step]].concat(), there));
            }
        }
    }
    all.into_iter().map(|(history, _)| history).filter(|history| !history.is_empty()).collect()
}

/// How many histories there are: so many seeds in a row are all of them.
#[must_use]
pub fn history_count() -> u64 {
    u64::try_from(histories().len()).unwrap_or(u64::MAX)
}

/// Seeds that follow each other give histories that have little in common.
const STRIDE: u64 = 7919;

fn history_of(seed: u64) -> Vec<Step> {
    let mut all = histories();
    let count = u64::try_from(all.len()).unwrap_or(u64::MAX).max(1);
    let index = usize::try_from((seed % count).wrapping_mul(STRIDE) % count).unwrap_or(0);
    if index < all.len() { all.swap_remove(index) } else { Vec::new() }
}

struct History {
    name: String,
    way: Way,
}

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    let ways = [Way::Fast, Way::FastDurable, Way::Plain, Way::Shared];
    boxed(ways.map(|way| History { name: format!("{}-history", way.prefix()), way }))
}

fn carry_out(mut tree: Tree<'_, '_>, run: &Run) -> Result<(), Ended> {
    for (number, step) in (0_u32..).zip(history_of(run.seed)) {
        if run.skip.contains(&number) {
            continue;
        }
        let (small, large) = (format!("s{number}"), format!("a large payload {number}"));
        let (label, change) = match step {
            Step::PutSmall => ("put a", Change::Put("a", small.as_bytes())),
            Step::PutLarge => ("put a large a", Change::Put("a", large.as_bytes())),
            Step::Remove => ("remove a", Change::Remove("a")),
            Step::Create => ("create a", Change::Create("a", small.as_bytes())),
            Step::Away => ("rename a to b", Change::Rename("a", "b")),
            Step::Back => ("rename b to a", Change::Rename("b", "a")),
        };
        tree.commit(label, &[change])?;
    }
    Ok(())
}

impl FileCase for History {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        "up to four of: put (small, large), remove, create, rename of the same names; each seed is another order of them"
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        prepare(site, self.way, SHAPE, &[("a", OLD)]).map_err(|Ended(why)| why)
    }

    fn run(&self, site: &Site<'_>, run: &Run) {
        let tree = Tree::open(site, self.way, SHAPE, &[("a", OLD)]);
        drop(tree.and_then(|tree| carry_out(tree, run)));
    }

    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        open(site, self.way, SHAPE).map(drop).map_err(|Ended(why)| why)
    }

    fn owns(&self, name: &str) -> bool {
        is_roots_own(name)
    }

    fn disks(&self) -> Disks {
        self.way.disks()
    }

    fn operations(&self, seed: u64) -> u32 {
        u32::try_from(history_of(seed).len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_in_a_row_are_all_histories_of_every_length() {
        let count = history_count();
        let mut all: Vec<String> = (1..=count).map(|seed| format!("{:?}", history_of(seed))).collect();
        all.sort();
        all.dedup();
        assert_eq!(u64::try_from(all.len()).unwrap(), count);
        for (len, histories) in [(1, 4), (2, 15), (3, 61), (4, 248)] {
            let found = (1..=count).filter(|&seed| history_of(seed).len() == len).count();
            assert_eq!(found, histories, "of length {len}");
        }
    }
}
