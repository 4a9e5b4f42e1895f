//! The power-fail simulator. It knows the seams of [`media`] and nothing of the engines above them.

mod failpoints;

pub use failpoints::{
    CRASH_POINTS_MAX, CRASH_POINTS_VARIABLE, CrashSimConfig, FailpointError, Failpoints, MARKS,
};
