//! What the benches share: where is measured, how two contenders take turns, the raw system calls, and the report.

mod ground;
mod measure;
pub mod raw;
mod report;
mod row;
mod run;

pub use ground::Ground;
pub use measure::{Contender, SLICE, Samples, Took, alone, alternate};
pub use row::{Barrier, Comparison, Fact, PAYLOAD, Probe, Row, Target};
pub use run::run;
