//! The cases, one module an engine's part.

use crate::site::FileCase;

mod replace;

pub(crate) use replace::file;
pub use replace::replace_of;

/// Every case, in the order in which they are shown.
#[must_use]
pub fn cases() -> Vec<Box<dyn FileCase>> {
    replace::cases()
}

/// The case of this name.
#[must_use]
pub fn case_named(name: &str) -> Option<Box<dyn FileCase>> {
    cases().into_iter().find(|case| case.name() == name)
}
