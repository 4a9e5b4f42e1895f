//! The workloads and checks of every engine, written once: the simulator explores them, real file systems confirm them, the
//! command shows them.
//!
//! A [`FileCase`] knows nothing of simulation: it is handed a [`Site`] (a file system, a directory on it, an environment, a
//! witness) and uses the engine as a program would. What works on a block device is a [`CaseOn`] a simulated one.

mod barriers;
mod canaries;
mod cases;
mod disk_canaries;
mod recovery;
mod site;
mod state;

pub use barriers::{BarrierSite, MutatedBarrier, barrier_sites, disk_barrier_sites};
pub use canaries::{Canary, canaries};
pub use cases::{case_named, cases, history_count, replace_of};
pub use disk_canaries::{DiskCanary, disk_canaries};
pub use recovery::{Counts, Crash, Found, RecoveryRow, RecoveryTable, recovery_table};
pub use site::{FileCase, OnSim, Site};
pub use state::{state_case_named, state_cases};

/// A workload that can be shown: on a simulated medium of this kind.
pub trait CaseOn<M: crashsim::Medium>: crashsim::Workload<M> {
    /// What it does, in a sentence without a full stop.
    fn about(&self) -> &str;
}
