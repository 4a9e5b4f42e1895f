//! The operating system behind the file seam: the only place that calls rename and fsync.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::OsFs;

#[cfg(not(unix))]
mod portable;
#[cfg(not(unix))]
pub use portable::OsFs;
