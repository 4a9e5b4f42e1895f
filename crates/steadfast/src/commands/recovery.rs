//! What opening a tree has found and finished, told.

use crash_recovery::{Conflict, Recovery};
use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::output::Output;

/// Says what was found, if anything was.
pub(super) fn tell(recovery: &Recovery, output: &Output) -> Outcome<()> {
    if recovery.orphans > 0 || recovery.finalized > 0 {
        output.say(recovery)?;
    }
    warn(recovery, output)
}

/// Warns of what was left alone.
pub(super) fn warn(recovery: &Recovery, output: &Output) -> Outcome<()> {
    for Conflict { path, why, kept } in &recovery.conflicts {
        match kept {
            Some(kept) => output.warn(format_args!(
                "`{path}` was left alone by an earlier transaction: {why}; what it was to become is kept in `{kept}`"
            ))?,
            None => output.warn(format_args!("`{path}` was left alone by an earlier transaction: {why}"))?,
        }
    }
    if recovery.orphans_kept > 0 {
        output.say(format_args!("{} staged file(s) are kept: they are too young", recovery.orphans_kept))?;
    }
    Ok(())
}

pub(super) fn fields(recovery: &Recovery) -> Value {
    let conflict =
        |Conflict { path, why, kept }: &Conflict| json!({ "path": path.as_str(), "why": why, "kept": kept });
    json!({
        "orphans": recovery.orphans,
        "orphans_kept": recovery.orphans_kept,
        "finalized": recovery.finalized,
        "conflicts": recovery.conflicts.iter().map(conflict).collect::<Vec<_>>(),
        "was_closed": recovery.was_closed,
    })
}
