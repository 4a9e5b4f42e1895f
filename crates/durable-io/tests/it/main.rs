//! The chain of one file against the real file system, with every call of the seam recorded, failed, or cut
//! short on the way. `operations` holds one table per operation: the calls it makes, in order, and what the
//! caller is told when one of them fails. `order` checks the first half of it, `faults` the second.

#![expect(clippy::unwrap_used, reason = "helpers of tests say where they broke")]

mod bugs_of_others;
mod common;
mod counts;
mod faults;
mod marks;
mod operations;
mod order;
mod policies;
