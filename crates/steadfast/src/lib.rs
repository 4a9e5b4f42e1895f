//! Steadfast in one place: [`durable_io`] for files, locks, registries and logs, [`media`] for the seams beneath.
//!
//! [`crashsim`] cuts the power in tests of programs that are built on them.
//!
//! The command `steadfast` is built on the same and offers nothing that a program could not do itself.

pub use crashsim;
pub use durable_io;
pub use media;
