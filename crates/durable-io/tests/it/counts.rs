//! What each operation costs, as a number: a call that is added to the hot path turns one of these red.

use media::doubles::Recorder;

use crate::common::Ground;
use crate::operations::{self, Operation};

struct Cost {
    calls: usize,
    barriers: usize,
}

/// Look, may the directory hand on rights, create, write, has the umask taken something, fsync, rename, fsync of the
/// directory; and, because the group bits of a file with an ACL are its mask, open the old one and look for its ACL.
const REPLACE_EXISTING: Cost = Cost { calls: 10, barriers: 2 };
/// Without group bits there is nothing an ACL could hide.
const REPLACE_PRIVATE: Cost = Cost { calls: 8, barriers: 2 };
/// Look, create, write, fsync, rename, fsync of the directory: the raw chain, and one look.
const REPLACE_NEW: Cost = Cost { calls: 6, barriers: 2 };
const CREATE_NEW: Cost = Cost { calls: 6, barriers: 2 };
/// Unlink, fsync of the directory.
const REMOVE: Cost = Cost { calls: 2, barriers: 1 };
/// Look, open, fsync, rename, fsync of the directory.
const RENAME: Cost = Cost { calls: 5, barriers: 2 };
/// Make, fsync of the parent.
const CREATE_DIR: Cost = Cost { calls: 2, barriers: 1 };

fn assert_cost(operation: &Operation, cost: &Cost) {
    let ground = Ground::new();
    (operation.prepare)(&ground);
    let (recorder, fs) = Recorder::over(operation.base());
    let dir = ground.dir_on(fs);
    recorder.clear();
    (operation.run)(&dir).unwrap();
    assert_eq!((recorder.total(), recorder.barriers()), (cost.calls, cost.barriers), "{}", operation.name);
}

#[test]
fn a_replace_costs_six_to_ten_calls_of_which_two_wait_for_the_medium() {
    assert_cost(&operations::replace_existing(), &REPLACE_EXISTING);
    assert_cost(&operations::replace_private(), &REPLACE_PRIVATE);
    assert_cost(&operations::replace_new(), &REPLACE_NEW);
}

#[test]
fn a_create_costs_six_calls_of_which_two_wait_for_the_medium() {
    assert_cost(&operations::create_new(), &CREATE_NEW);
}

#[test]
fn a_remove_and_a_create_dir_cost_one_barrier_and_a_rename_two() {
    assert_cost(&operations::remove(), &REMOVE);
    assert_cost(&operations::create_dir(), &CREATE_DIR);
    assert_cost(&operations::rename(), &RENAME);
}
