//! Explores the orders in which threads run (`docs/schedules.md`).
//!
//! An `explore::Scenario` builds everything that it needs inside a run, starts threads of `media::sync` and asserts.
//! `explore::explore` runs it under every schedule, or under many. `medium::RecordingDisk` is the medium; it knows
//! which bytes a power cut would leave at every moment, and hands each distinct pair of those bytes and what callers were told
//! to a judge.
//!
//! Nothing of it is compiled without `--cfg shuttle`; `cargo xtask schedules` sets it.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on fails its run")]

pub mod explore;
pub mod medium;
pub mod scenarios;

mod bounded;
mod line;
