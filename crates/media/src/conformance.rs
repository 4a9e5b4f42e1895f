//! One suite per seam: what every implementation must do, the real ones and the simulated ones.

mod block;
#[cfg(feature = "testing")]
mod fs;

pub use block::{block_device, born_zeroed};
#[cfg(feature = "testing")]
pub use fs::{FileSystemReport, Symlinks, file_system};
