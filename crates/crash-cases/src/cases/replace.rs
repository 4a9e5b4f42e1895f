//! One file: `replace`, `create_new`, and what they do with modes, links, parents and content that is there already.

use std::ffi::OsStr;

use crashsim::{Cell, Class, Expected, Operation, Run, Value, Verdict};
use durable_io::{Keep, Mode, Unchanged, WriteOptions};
use media::{Access, Owner};

use super::case::{
    Before, Case, Ended, boxed, directory, file, file_with, is_lock, loosely, nothing, scribbled,
};
use crate::site::{FileCase, Site, judge};

/// One operation on one file of this size.
struct OneFile {
    name: &'static str,
    about: &'static str,
    len: usize,
    before: Option<&'static [u8]>,
}

/// Replacing a small file by one of `len` bytes: for measurements.
#[must_use]
pub fn replace_of(len: usize) -> Box<dyn FileCase> {
    let about = "replace an existing file by one of a chosen size";
    Box::new(OneFile { name: "replace-of", about, len, before: Some(b"{\"volume\": 3}") })
}

const TARGET: &str = "config.json";
const OLD: &[u8] = b"{\"volume\": 3}";
const NEW: &[u8] = b"{\"volume\": 11}";

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    let one = |name, about, len, before| OneFile { name, about, len, before };
    let mut cases = boxed([
        one("replace", "replace an existing small file", 40, Some(OLD)),
        one("replace-large", "replace an existing file by one of 6,000 bytes", 6_000, Some(OLD)),
        one("replace-new", "replace a file that is not there yet", 40, None),
    ]);
    cases.extend(boxed([
        Case { recover: |_| Ok(()), check: private, ..REPLACE_PRIVATE },
        Case::new(
            "replace-public",
            "a private file is replaced by one for everybody",
            private_old,
            make_public,
        ),
        Case::new(
            "replace-link",
            "replace the file that a symbolic link leads to",
            behind_link,
            replace_linked,
        ),
        Case::new(
            "replace-parents",
            "replace a file in folders that are not there yet",
            nothing,
            in_new_folders,
        ),
        Case::new("replace-twice", "one file replaced twice", plain_old, twice),
        Case { check: tagged, ..REPLACE_TAGGED },
        Case { check: loosely, ..REPLACE_UNCHANGED },
        Case { check: loosely, ..STAGED_UNCHANGED },
        Case::new("create-new", "create a file under a free name", nothing, create_new),
        Case::new("create-new-taken", "create a file under a name that is taken", plain_old, create_taken),
        Case { check: loosely, ..SYNC_FILE },
    ]));
    cases
}

impl FileCase for OneFile {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        if let Some(before) = self.before {
            let replaced = site.dir().and_then(|dir| dir.replace(TARGET, before));
            replaced.map_err(|error| error.to_string())?;
        }
        Ok(vec![(TARGET.into(), self.before.and_then(file))])
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        let bytes: Vec<u8> = (b'a'..=b'z').cycle().take(self.len).collect();
        let operation = Operation::one("replace config.json", TARGET, file(&bytes));
        drop(site.perform(operation, || site.dir()?.replace(TARGET, &bytes)));
    }
}

fn plain_old(site: &Site<'_>) -> Before {
    site.dir()?.replace(TARGET, OLD)?;
    Ok(vec![(TARGET.into(), file(OLD))])
}

fn with_mode(mode: u32) -> WriteOptions {
    WriteOptions { mode: Some(Mode::new(mode)), ..WriteOptions::default() }
}

fn replace_as(site: &Site<'_>, bytes: &[u8], mode: u32) -> Result<(), Ended> {
    let operation = Operation::one("replace config.json", TARGET, file_with(bytes, mode));
    site.perform(operation, || site.dir()?.replace_with(TARGET, bytes, &with_mode(mode)))?;
    Ok(())
}

const REPLACE_PRIVATE: Case =
    Case::new("replace-private", "a file for everybody is replaced by a secret", plain_old, |site| {
        replace_as(site, NEW, 0o600)
    });

/// Nobody swept: also under a hidden name the secret is for its owner alone.
fn private(site: &Site<'_>, expected: &Expected) -> Verdict {
    let is_ours = |name: &str| name.ends_with(".tmp");
    let verdict = judge(site, expected, &is_ours, &|cell| site.look(cell));
    let secret = file_with(NEW, 0o600);
    for name in site.names().unwrap_or_default() {
        let found = site.look(&name).unwrap_or_default();
        if found.as_ref().is_some_and(|found| found.bytes.starts_with(b"{\"volume\": 11")) && found != secret
        {
            return Verdict::broken(Class::WrongFacts, format!("`{name}` shows the secret to others"));
        }
    }
    verdict
}

fn private_old(site: &Site<'_>) -> Before {
    site.dir()?.replace_with(TARGET, OLD, &with_mode(0o600))?;
    Ok(vec![(TARGET.into(), file_with(OLD, 0o600))])
}

/// Wider than the umask leaves it: the mode is set after the birth.
fn make_public(site: &Site<'_>) -> Result<(), Ended> {
    replace_as(site, NEW, 0o666)
}

const LINKED: &str = "live/config.json";

fn behind_link(site: &Site<'_>) -> Before {
    site.dir()?.create_dir("live")?;
    site.dir()?.replace(LINKED, OLD)?;
    site.symlink(TARGET, LINKED)?;
    let link = Value::with_facts(b"", format_args!("Symlink {}", Mode::new(0o777)));
    let parent = ("live".into(), directory(0o755));
    Ok(vec![(LINKED.into(), file(OLD)), (TARGET.into(), Some(link)), parent])
}

fn replace_linked(site: &Site<'_>) -> Result<(), Ended> {
    let operation = Operation::one("replace what config.json leads to", LINKED, file(NEW));
    site.perform(operation, || site.dir()?.replace(TARGET, NEW))?;
    Ok(())
}

fn in_new_folders(site: &Site<'_>) -> Result<(), Ended> {
    let cells = [("a", directory(0o755)), ("a/b", directory(0o755)), ("a/b/c.json", file(NEW))];
    // Folders may be there without what they are for.
    site.announce(Operation::new(
        "new folders",
        cells.iter().take(2).map(|(name, value)| vec![((*name).into(), value.clone())]).collect(),
    ));
    let atoms = cells.into_iter().map(|(name, value)| vec![(name.into(), value)]).collect();
    site.perform(Operation::new("replace a/b/c.json", atoms), || site.dir()?.replace("a/b/c.json", NEW))?;
    Ok(())
}

fn twice(site: &Site<'_>) -> Result<(), Ended> {
    for bytes in [NEW, b"{\"volume\": 7}"] {
        let operation = Operation::one("replace config.json", TARGET, file(bytes));
        site.perform(operation, || site.dir()?.replace(TARGET, bytes))?;
    }
    Ok(())
}

const TAG: &str = "user.origin";

/// Not who works here: one that has to be kept to be there.
const OTHERS: Owner = Owner { uid: 1001, gid: 1002 };

fn tag(bytes: &[u8]) -> Option<Value> {
    Some(Value::with_facts(bytes, format_args!("{} tagged, {OTHERS:?}", Mode::new(0o644))))
}

const REPLACE_TAGGED: Case = Case::new(
    "replace-tagged",
    "replace a file and keep its owner and its attributes",
    |site| {
        site.dir()?.replace(TARGET, OLD)?;
        let (dir, name) = site.split(TARGET)?;
        let file = dir.open(name, Access::ReadWrite)?;
        file.set_xattr(OsStr::new(TAG), b"here")?;
        file.set_owner(OTHERS)?;
        Ok(vec![(TARGET.into(), tag(OLD))])
    },
    |site| {
        let options = WriteOptions { keep: Keep::ALL, ..WriteOptions::default() };
        let operation = Operation::one("replace config.json", TARGET, tag(NEW));
        site.perform(operation, || site.dir()?.replace_with(TARGET, NEW, &options))?;
        Ok(())
    },
);

fn tagged(site: &Site<'_>, expected: &Expected) -> Verdict {
    judge(site, expected, &is_lock, &|cell| {
        let Some(found) = site.look(cell)? else { return Ok(None) };
        let (dir, name) = site.split(cell)?;
        let has_tag = dir.open(name, Access::Read)?.xattr(OsStr::new(TAG)).is_ok_and(|tag| tag == b"here");
        let owner = dir.metadata(name)?.owner;
        let tagged = if has_tag { " tagged" } else { "" };
        let facts = format!("{}{tagged}, {owner:?}", found.facts);
        Ok(Some(Value::with_facts(&found.bytes, facts)))
    })
}

/// Somebody without barriers has written what is asked for.
fn already_there(site: &Site<'_>) -> Result<(), Ended> {
    site.announce(scribbled(TARGET));
    site.scribble(TARGET, NEW)?;
    Ok(())
}

const REPLACE_UNCHANGED: Case = Case::new(
    "replace-unchanged",
    "replace, where somebody wrote the same without barriers",
    nothing,
    |site| {
        already_there(site)?;
        let options = WriteOptions { unchanged: Unchanged::Skip, ..WriteOptions::default() };
        let operation = Operation::one("replace config.json if changed", TARGET, file(NEW));
        site.perform(operation, || site.dir()?.replace_with(TARGET, NEW, &options))?;
        Ok(())
    },
);

const STAGED_UNCHANGED: Case =
    Case::new("staged-unchanged", "stage, where somebody wrote the same without barriers", nothing, |site| {
        already_there(site)?;
        let operation = Operation::one("stage and settle config.json", TARGET, file(NEW));
        site.perform(operation, || {
            let mut staged = site.dir()?.stage(TARGET)?;
            staged.write_all(NEW)?;
            if staged.same_as_target()? {
                staged.settle_unchanged()
            } else {
                site.dir()?.replace(TARGET, NEW)
            }
        })?;
        Ok(())
    });

fn create_new(site: &Site<'_>) -> Result<(), Ended> {
    let operation = Operation::one("create config.json", TARGET, file(NEW));
    site.perform(operation, || site.dir()?.create_new(TARGET, NEW))?;
    Ok(())
}

/// It is refused, so nothing may change: not even a success would allow the new bytes.
fn create_taken(site: &Site<'_>) -> Result<(), Ended> {
    let operation = Operation::new("create config.json, which is there", Vec::new());
    site.perform(operation, || site.dir()?.create_new(TARGET, NEW))?;
    Ok(())
}

const SYNC_FILE: Case =
    Case::new("sync-file", "bytes and name of a file that somebody else has written", nothing, |site| {
        already_there(site)?;
        let operation = Operation::one("sync config.json and its name", TARGET, file(NEW));
        site.perform(operation, || {
            let dir = site.dir()?;
            dir.sync_file(TARGET)?;
            dir.sync_names()
        })?;
        Ok(())
    });
