//! The cases, one module an engine's part.

use crate::site::FileCase;

mod bulk;
mod case;
mod content;
mod history;
mod in_place;
mod log;
mod mixed;
mod names;
mod replace;
mod rotate;
mod sweep;
mod tree;
mod txn;
mod update;

pub(crate) use case::file;
pub use history::history_count;
pub use replace::replace_of;

/// Every case, in the order in which they are shown.
#[must_use]
pub fn cases() -> Vec<Box<dyn FileCase>> {
    let parts = [
        replace::cases(),
        in_place::cases(),
        names::cases(),
        update::cases(),
        bulk::cases(),
        log::cases(),
        rotate::cases(),
        sweep::cases(),
        txn::cases(),
        content::cases(),
        history::cases(),
        mixed::cases(),
    ];
    parts.into_iter().flatten().collect()
}

/// The case of this name.
#[must_use]
pub fn case_named(name: &str) -> Option<Box<dyn FileCase>> {
    cases().into_iter().find(|case| case.name() == name)
}
