//! The power-fail simulator. It knows the seams of [`media`] and nothing of the engines above them.

mod barriers;
mod blocks;
mod campaign;
mod disk_image;
mod disk_lie;
mod explore;
mod failpoints;
mod fault;
mod files;
mod id;
mod image;
mod medium;
mod names;
mod replay;
mod sample;
mod sim_disk;
mod sim_fs;
mod space;
mod trace;
mod witness;

pub use barriers::{Barrier, Late, barriers};
pub use blocks::{BlockOp, DiskPiece, DiskPoint, DiskProfile, block_points};
pub use campaign::{Campaign, Row};
pub use disk_image::DiskImage;
pub use disk_lie::DiskLie;
pub use explore::{Explorer, Failure, Gauge, Life, Options, Recorded, Report, Run, Workload};
pub use failpoints::{
    CRASH_POINTS_MAX, CRASH_POINTS_VARIABLE, CrashSimConfig, FailpointError, Failpoints, MARKS,
};
pub use fault::{Fault, NoFault};
pub use files::{FileOp, FilePiece, FilePoint, FileProfile, Outcome, points};
pub use id::{BadId, Crash, CrashId, Loss, Mutation, Scenario};
pub use image::{Attributes, Body, Disks, FsImage, Ino, Name, Node, SECTOR_LEN, Sector};
pub use medium::Medium;
pub use replay::{Became, Line, ReplayError, Scene, Story, in_words, replay, shrink};
pub use sim_disk::SimDisk;
pub use sim_fs::SimFs;
pub use space::{Axis, AxisKind, Digits, PieceId, Point, Random, Rule, Step, When};
pub use trace::{Event, Record, Recording, Tick, Trace};
pub use witness::{Atom, Cell, Class, Expected, Fate, Mark, Operation, Value, Verdict, Witness};
