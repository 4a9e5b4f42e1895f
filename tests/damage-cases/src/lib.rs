//! Images of stores with the history that made them ([`samples()`]), what must be true of an image whatever has happened to it
//! ([`Judge`]), and the bodies of the fuzz targets ([`fuzz`]).
//!
//! A crate of its own, because three parties need the same: the damage test of `statefs`, the fuzz targets, which are a
//! workspace of their own, and the ordinary test that runs a fixed number of cases of each target. It is not part of
//! `crash-cases`, which is linked into the command.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "whatever fails here is a failure of the test that called"
)]

mod disk;
pub mod fuzz;
mod histories;
mod judge;
mod random;
mod samples;

pub use disk::{Asked, ImageDisk};
pub use histories::{random_sample, rot_sectors};
pub use judge::{Depth, Judge, Outcome, Places};
pub use random::Random;
pub use samples::{BLOCK, Change, End, Frame, STORE, Sample, samples};
