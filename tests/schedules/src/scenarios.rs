//! The scenarios: one module for each crate whose schedules are explored.

use crate::explore::Scenario;

mod broken;
mod locks;
mod medium;
mod recovery;
mod root;
mod store;
mod window;

/// All that must hold.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let all = medium::all().into_iter().chain(recovery::all()).chain(window::all());
    all.chain(root::all()).chain(locks::all()).chain(store::all()).collect()
}

/// Scenarios of code that is wrong on purpose: the tests of the explorer.
#[must_use]
pub fn broken() -> Vec<Scenario> {
    broken::all()
}
