//! Steadfast in one place: [`durable_io`] for files, locks, registries and logs, [`media`] for the seams beneath.
//!
//! The command `steadfast` is built on the same two and offers nothing that a program could not do itself.

pub use durable_io;
pub use media;
