//! The workloads and checks of every engine, written once: the simulator explores them, real file systems confirm them, the
//! command shows them.
//!
//! A [`FileCase`] knows nothing of simulation: it is handed a [`Site`] (a file system, a directory on it, an environment, a
//! witness) and uses the engine as a program would.

mod barriers;
mod canaries;
mod cases;
mod site;

pub use barriers::{BarrierSite, MutatedBarrier, barrier_sites};
pub use canaries::{Canary, canaries};
pub use cases::{case_named, cases, replace_of};
pub use site::{FileCase, OnSim, Site};
