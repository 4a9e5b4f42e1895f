//! Overwriting in place: not atomic, and the old content is durable in a backup before the first byte goes.

use crashsim::{Class, Expected, Operation, Value, Verdict};
use durable_io::{Durability, HardLinks, Reason, WriteOptions};

use super::case::{Before, Case, Ended, boxed, file};
use crate::site::{FileCase, Site, judge};

const NAME: &str = "shared.bin";
const OTHER: &str = "other-name.bin";
/// Two sectors, so that the overwriting can stop half-way.
const LONG: [u8; 700] = [b'o'; 700];
const SHORT: [u8; 30] = [b'n'; 30];

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    let in_place = |name, about, prepare, run| Case { check, ..Case::new(name, about, prepare, run) };
    boxed([
        in_place(
            "in-place-shorter",
            "overwrite a file of two names by a shorter one",
            |site| prepare(site, &LONG),
            |site| run(site, &SHORT),
        ),
        in_place(
            "in-place-longer",
            "overwrite a file of two names by a longer one",
            |site| prepare(site, &SHORT),
            |site| run(site, &LONG),
        ),
    ])
}

fn prepare(site: &Site<'_>, bytes: &[u8]) -> Before {
    site.dir()?.replace(NAME, bytes)?;
    site.link(NAME, OTHER)?;
    Ok(vec![(NAME.into(), file(bytes))])
}

fn run(site: &Site<'_>, bytes: &[u8]) -> Result<(), Ended> {
    let options = WriteOptions { hard_links: HardLinks::InPlace, ..WriteOptions::default() };
    let operation = Operation::one("overwrite shared.bin", NAME, file(bytes));
    site.perform(operation, || {
        let published = site.dir()?.replace_with(NAME, bytes, &options)?;
        // One that could not remove its backup says so, and promises nothing of it.
        let is_left = published.leftover.is_some();
        Ok(if is_left { Durability::VisibleOnly(Reason::IoError) } else { published.durability })
    })?;
    Ok(())
}

/// Old, or new, or anything with a whole backup beside it; once acknowledged, new, and no backup, unless it was said that
/// it could not be removed. (After a failure, a backup that was removed may be back: no barrier was behind that.)
fn check(site: &Site<'_>, expected: &Expected) -> Verdict {
    let allowed = expected.allowed(NAME);
    let old_or_new = |value: &Value| allowed.iter().flatten().any(|one| one.bytes == value.bytes);
    let backups: Vec<Value> = site
        .names()
        .unwrap_or_default()
        .iter()
        .filter(|name| name.ends_with(".bak"))
        .filter_map(|name| site.look(name).unwrap_or_default())
        .collect();
    let is_over = expected.acknowledged() > 0;
    let has_backup = !is_over && backups.iter().any(old_or_new);
    let owns = |name: &str| name == OTHER || (name.ends_with(".bak") && !is_over);
    let verdict = judge(site, expected, &owns, &|cell| {
        let found = site.look(cell)?;
        let is_torn = !allowed.contains(&found);
        let saved = allowed.first().cloned().flatten();
        Ok(if is_torn && found.is_some() && has_backup { saved } else { found })
    });
    match (site.look(NAME), site.look(OTHER)) {
        (Ok(one), Ok(other)) if one == other => verdict,
        _ => verdict.worse(Verdict::broken(Class::Mix, "the two names show different files")),
    }
}
