//! The four proofs.

mod common;
mod listing;
mod quota;
mod replace;
