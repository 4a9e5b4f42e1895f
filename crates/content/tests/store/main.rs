//! The store over the file seam: its calls, its quotas, and what it says when something fails.

#![expect(clippy::unwrap_used, reason = "helpers of tests say where they broke")]

mod calls;
mod common;
mod failures;
mod model;
mod quotas;
