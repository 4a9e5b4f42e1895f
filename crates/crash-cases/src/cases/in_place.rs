//! Overwriting in place: not atomic, and the old content is durable in a backup before the first byte goes.

use crashsim::{Class, Expected, Operation, Value, Verdict};
use durable_io::{Durability, HardLinks, Mode, Reason, WriteOptions};

use super::case::{Before, Case, Ended, boxed, file};
use crate::site::{FileCase, Site, judge};

const NAME: &str = "shared.bin";
const OTHER: &str = "other-name.bin";
/// Two sectors, so that the overwriting can stop half-way.
const LONG: [u8; 700] = [b'o'; 700];
const SHORT: [u8; 30] = [b'n'; 30];

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    boxed([
        Case {
            check: |site, expected| check(site, expected, &LONG),
            ..Case::new(
                "in-place-shorter",
                "overwrite a file of two names by a shorter one",
                |site| prepare(site, &LONG),
                |site| run(site, &SHORT, None),
            )
        },
        Case {
            check: |site, expected| check(site, expected, &SHORT),
            ..Case::new(
                "in-place-longer",
                "overwrite a file of two names by a longer one",
                |site| prepare(site, &SHORT),
                |site| run(site, &LONG, None),
            )
        },
        Case {
            check: |site, expected| check(site, expected, &SHORT).worse(no_secret_is_public(site)),
            ..Case::new(
                "in-place-private",
                "overwrite a public file of two names by a private one",
                |site| prepare(site, &SHORT),
                |site| run(site, &LONG, Some(Mode::PRIVATE)),
            )
        },
    ])
}

fn prepare(site: &Site<'_>, bytes: &[u8]) -> Before {
    site.dir()?.replace(NAME, bytes)?;
    site.link(NAME, OTHER)?;
    Ok(vec![(NAME.into(), file(bytes))])
}

fn run(site: &Site<'_>, bytes: &[u8], mode: Option<Mode>) -> Result<(), Ended> {
    let options = WriteOptions { hard_links: HardLinks::InPlace, mode, ..WriteOptions::default() };
    let wanted = Value::with_facts(bytes, mode.unwrap_or(Mode::new(0o644)));
    let operation = Operation::one("overwrite shared.bin", NAME, Some(wanted));
    site.perform(operation, || {
        let published = site.dir()?.replace_with(NAME, bytes, &options)?;
        // One that could not remove its backup says so, and promises nothing of it.
        let is_left = published.leftover.is_some();
        Ok::<_, durable_io::Error>(if is_left {
            Durability::VisibleOnly(Reason::IoError)
        } else {
            published.durability
        })
    })?;
    Ok(())
}

/// What the old readers may read is nothing but what they could read before.
fn no_secret_is_public(site: &Site<'_>) -> Verdict {
    match site.look(NAME) {
        Ok(Some(found)) if *found.facts != *Mode::PRIVATE.to_string() && found.bytes.contains(&b'o') => {
            Verdict::broken(Class::WrongFacts, "new bytes in a file that everybody may read")
        }
        _ => Verdict::of(Class::Old),
    }
}

/// Old, or new, or anything with a whole backup beside it; once acknowledged, new, and no backup, unless it was said that
/// it could not be removed. (After a failure, a backup that was removed may be back: no barrier was behind that.)
fn check(site: &Site<'_>, expected: &Expected, old: &[u8]) -> Verdict {
    let allowed = expected.allowed(NAME);
    let is_whole = |value: &Value| *value.bytes == *old;
    let backups: Vec<Value> = site
        .names()
        .unwrap_or_default()
        .iter()
        .filter(|name| name.ends_with(".bak"))
        .filter_map(|name| site.look(name).unwrap_or_default())
        .collect();
    let is_over = expected.acknowledged() > 0;
    let has_backup = !is_over && backups.iter().any(is_whole);
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
