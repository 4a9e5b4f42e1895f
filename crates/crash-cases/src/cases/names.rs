//! Names: `remove`, `rename`, `create_dir`, and directories on the way to one.

use crashsim::{Operation, Value};
use durable_io::{Barriers, Dir, Mode, RenameMode};
use std::sync::Arc;

use super::case::{Before, Case, Ended, anything, boxed, directory, file, loosely, nothing, scribbled};
use crate::site::{FileCase, Site};

const A: &str = "a.txt";
const B: &str = "b.txt";

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    boxed([
        Case::new("remove", "remove a file", only_a, |site| remove(site, A)),
        Case::new("remove-create", "remove a file, and create it again", only_a, |site| {
            remove(site, A)?;
            let operation = Operation::one("create a.txt", A, file(b"again"));
            site.perform(operation, || site.dir()?.create_new(A, b"again"))?;
            Ok(())
        }),
        Case::new("rename", "rename a file", only_a, |site| rename(site, A, B, file(b"a"))),
        Case::new("rename-over", "rename a file over another", both, |site| rename(site, A, B, file(b"a"))),
        Case::new("rename-across", "move a file to another directory", two_dirs, |site| {
            // Between its two barriers a power cut leaves two names rather than none.
            site.announce(Operation::one("there may be two names for a while", "two/b.txt", file(b"a")));
            rename(site, "one/a.txt", "two/b.txt", file(b"a"))
        }),
        Case::new("rename-dir", "rename a directory", one_dir, |site| {
            let atom = vec![
                ("one".into(), None),
                ("one/a.txt".into(), None),
                ("two".into(), directory(0o755)),
                ("two/a.txt".into(), file(b"a")),
            ];
            site.perform(Operation::new("rename one to two", vec![atom]), || {
                site.dir()?.rename("one", "two")
            })?;
            Ok(())
        }),
        Case { check: loosely, ..RENAME_UNSYNCED },
        Case::new("rename-other-name", "rename a file to another name of it", only_a, other_name),
        Case { check: loosely, ..EXCHANGE },
        Case::new("create-dir", "create a directory", nothing, |site| {
            let operation = Operation::one("create one", "one", directory(0o755));
            site.perform(operation, || site.dir()?.create_dir("one"))?;
            Ok(())
        }),
        Case::new("create-dir-mode", "create a directory with a mode of its own", nothing, dir_with_mode),
        Case::new(
            "open-or-create",
            "open a directory, and create what is missing of its path",
            nothing,
            |site| {
                let cells = ["one", "one/two"];
                let atoms = || cells.map(|name| vec![(name.into(), directory(0o755))]).to_vec();
                let path = site.root.join("one/two");
                site.announce(Operation::new("some of one/two", atoms()));
                site.perform(Operation::new("open one/two", atoms()), || {
                    Dir::open_or_create_on(Arc::clone(&site.fs), &path, site.env.clone())
                })?;
                Ok(())
            },
        ),
    ])
}

fn only_a(site: &Site<'_>) -> Before {
    site.dir()?.replace(A, b"a")?;
    Ok(vec![(A.into(), file(b"a"))])
}

fn both(site: &Site<'_>) -> Before {
    let mut cells = only_a(site)?;
    site.dir()?.replace(B, b"b")?;
    cells.push((B.into(), file(b"b")));
    Ok(cells)
}

fn one_dir(site: &Site<'_>) -> Before {
    site.dir()?.replace("one/a.txt", b"a")?;
    Ok(vec![("one".into(), directory(0o755)), ("one/a.txt".into(), file(b"a"))])
}

fn two_dirs(site: &Site<'_>) -> Before {
    let mut cells = one_dir(site)?;
    site.dir()?.create_dir("two")?;
    cells.push(("two".into(), directory(0o755)));
    Ok(cells)
}

fn remove(site: &Site<'_>, name: &str) -> Result<(), Ended> {
    let operation = Operation::one(format_args!("remove {name}"), name, None);
    site.perform(operation, || site.dir()?.remove(name))?;
    Ok(())
}

fn rename(site: &Site<'_>, from: &str, to: &str, value: Option<Value>) -> Result<(), Ended> {
    let atom = vec![(from.into(), None), (to.into(), value)];
    let operation = Operation::new(format_args!("rename {from} to {to}"), vec![atom]);
    site.perform(operation, || site.dir()?.rename(from, to))?;
    Ok(())
}

const RENAME_UNSYNCED: Case = Case::new(
    "rename-unsynced",
    "rename a file that somebody wrote without barriers over another",
    |site| {
        site.dir()?.replace(B, b"b")?;
        Ok(vec![(B.into(), file(b"b"))])
    },
    |site| {
        site.announce(scribbled(A));
        site.scribble(A, b"aaaa")?;
        rename(site, A, B, file(b"aaaa"))
    },
);

/// The second name is not durable yet when the first one goes.
fn other_name(site: &Site<'_>) -> Result<(), Ended> {
    site.announce(Operation::one("b.txt becomes a name of a.txt", B, file(b"a")));
    site.link(A, B)?;
    rename(site, A, B, file(b"a"))
}

const EXCHANGE: Case =
    Case::new("rename-exchange", "two files that nobody made durable change places", nothing, |site| {
        let names = [(A, b"aaaa"), (B, b"bbbb")];
        for (name, bytes) in names {
            site.announce(scribbled(name));
            site.scribble(name, bytes)?;
        }
        // Before it is acknowledged either may be anything, and so may both.
        let atoms = names.map(|(name, _)| vec![(name.into(), anything())]);
        site.announce(Operation::new("they may be anything", atoms.to_vec()));
        let atoms = vec![vec![(A.into(), file(b"bbbb"))], vec![(B.into(), file(b"aaaa"))]];
        site.perform(Operation::new("exchange a.txt and b.txt", atoms), || {
            let dir = site.dir()?;
            dir.rename_to(A, &dir, B, RenameMode::Exchange, Barriers::Required)
        })?;
        Ok(())
    });

fn dir_with_mode(site: &Site<'_>) -> Result<(), Ended> {
    // On its way it is for its owner alone.
    site.announce(Operation::one("one is made, for its owner alone", "one", directory(0o700)));
    let operation = Operation::one("create one", "one", directory(0o775));
    let mode = Some(Mode::new(0o775));
    site.perform(operation, || site.dir()?.create_dir_with("one", mode, Barriers::Required))?;
    Ok(())
}
