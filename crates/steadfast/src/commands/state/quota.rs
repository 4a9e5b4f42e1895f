//! `steadfast state quota`: how much may lie below a prefix.

use std::path::Path;

use media::BlockDevice;
use serde_json::json;
use statefs::{Key, Quota, QuotaUse, Store};

use super::{close, done, image, look, prefix_of};
use crate::cli::{QuotaCommand, QuotaSet};
use crate::commands::bytes_words;
use crate::failure::{Failure, Outcome};
use crate::medium::Medium;
use crate::output::Output;

pub(super) fn run(command: &QuotaCommand, medium: &Medium, output: &Output) -> Outcome {
    match command {
        QuotaCommand::Set(args) => set(args, medium, output),
        QuotaCommand::Rm { image, prefix } => rm(image, prefix, medium, output),
        QuotaCommand::Ls { image } => ls(image, medium, output),
    }
}

/// Warns of every soft limit that is exceeded by what these keys have.
pub(super) fn warn<D: BlockDevice>(store: &Store<D>, keys: &[&Key], output: &Output) -> Outcome<()> {
    for QuotaUse { prefix, quota, used_bytes, .. } in store.quotas() {
        let Some(soft) = quota.soft.filter(|soft| used_bytes > *soft) else { continue };
        if keys.iter().any(|key| prefix.covers(key)) {
            output.warn(format_args!(
                "`{prefix}` has {used_bytes} bytes, more than its soft limit of {soft}"
            ))?;
        }
    }
    Ok(())
}

fn set(args: &QuotaSet, medium: &Medium, output: &Output) -> Outcome {
    let prefix = prefix_of(&args.prefix)?;
    let limits = &args.limits;
    let quota = Quota { soft: limits.soft, hard: limits.hard, keys: limits.keys };
    let mut store = image::writer(medium, &args.image)?;
    let revision = store.set_quota(&prefix, quota).map_err(|error| Failure::state(&args.image, error))?;
    let used = store.quotas().find(|found| found.prefix == prefix);
    warn_if_above(used.as_ref(), output)?;
    close(store, &args.image, output)?;
    done(
        format_args!("`{prefix}` has a quota, durable: {}", used.as_ref().map_or_else(String::new, words)),
        json!({ "quota": used.as_ref().map(fields) }),
        revision,
        output,
    )
}

/// A limit below what is there is no error, and no surprise either.
fn warn_if_above(used: Option<&QuotaUse>, output: &Output) -> Outcome<()> {
    let Some(QuotaUse { prefix, quota, used_bytes, used_keys }) = used else { return Ok(()) };
    let is_above = quota.soft.is_some_and(|limit| *used_bytes > limit)
        || quota.hard.is_some_and(|limit| *used_bytes > limit)
        || quota.keys.is_some_and(|limit| *used_keys > limit);
    if is_above {
        output.warn(format_args!(
            "`{prefix}` is above a limit already: it has {used_bytes} bytes and {used_keys} key(s)"
        ))?;
    }
    Ok(())
}

fn rm(path: &Path, prefix: &str, medium: &Medium, output: &Output) -> Outcome {
    let prefix = prefix_of(prefix)?;
    let mut store = image::writer(medium, path)?;
    let removed = store.remove_quota(&prefix).map_err(|error| Failure::state(path, error))?;
    close(store, path, output)?;
    let Some(revision) = removed else {
        return Err(Failure::NotSo {
            message: format!("`{prefix}` has no quota"),
            hint: Some("`steadfast state quota ls` lists them".to_owned()),
        });
    };
    done(
        format_args!("`{prefix}` has no quota any more, durable"),
        json!({ "prefix": prefix.as_str() }),
        revision,
        output,
    )
}

fn ls(path: &Path, medium: &Medium, output: &Output) -> Outcome {
    let (store, recovery) = image::reader(medium, path)?;
    let exit = look::warn_if_damaged(&recovery, output)?;
    for quota in store.quotas() {
        if output.is_json() {
            output.object(true, fields(&quota))?;
        } else {
            output.line(format_args!("{}: {}", quota.prefix, words(&quota)))?;
        }
    }
    Ok(exit)
}

fn words(found: &QuotaUse) -> String {
    let QuotaUse { quota, used_bytes, used_keys, .. } = found;
    let mut words = match quota.hard {
        Some(hard) => format!("{} of {}", bytes_words(*used_bytes), bytes_words(hard)),
        None => bytes_words(*used_bytes),
    };
    if let Some(soft) = quota.soft {
        words.push_str(&format!(" (warns above {})", bytes_words(soft)));
    }
    match quota.keys {
        Some(keys) => words + &format!(", {used_keys} of {keys} key(s)"),
        None => words + &format!(", {used_keys} key(s)"),
    }
}

fn fields(found: &QuotaUse) -> serde_json::Value {
    json!({
        "prefix": found.prefix.as_str(), "soft": found.quota.soft, "hard": found.quota.hard,
        "keys": found.quota.keys, "used_bytes": found.used_bytes, "used_keys": found.used_keys,
    })
}
