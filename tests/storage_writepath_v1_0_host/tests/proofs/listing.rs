//! Proof 4: after commit and dirsync the listing always has the entry.

use crate::common::explore_to_the_end;

/// The cases compare, after every crash, the listing with what was acknowledged and with the files, and usage with a recount; the
/// workload of `commit` ends with a dirsync.
#[test]
fn what_was_committed_and_dirsynced_is_always_listed() {
    let cases = ["commit", "new", "unlink", "checkpoint", "quota"];
    for case in cases {
        for path in ["content", "content-plain"] {
            println!("{}", explore_to_the_end(&format!("{path}-{case}")));
        }
    }
}
