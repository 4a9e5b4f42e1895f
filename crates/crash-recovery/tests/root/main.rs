//! Roots on a real file system: what transactions do, what they refuse, and what the next open finds.

mod common;
mod faults;
mod hostile;
mod recovery;
mod refusals;
mod transactions;
