//! Many files that share their barriers: each whole, old or new; not together.

use crashsim::{Fate, Mark, Operation, Value};
use durable_io::{BulkOptions, BulkSync, HiddenNames, TXN_PREFIX, Unchanged, WriteOptions};

use super::case::{Before, Case, Ended, boxed, directory, file, loosely, nothing, scribbled};
use crate::site::{FileCase, Site};

const NAMES: [&str; 3] = ["a.txt", "b.txt", "c.txt"];
const IN_NEW_FOLDERS: [&str; 3] = ["d/a.txt", "d/e/b.txt", "f/c.txt"];

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    boxed([
        Case::new("bulk", "three files in one bulk, one of them new", two_of_three, |site| {
            publish(site, NAMES, BulkOptions::default())
        }),
        Case::new(
            "bulk-window",
            "three files in a bulk that has two of them open at a time",
            two_of_three,
            |site| publish(site, NAMES, BulkOptions { window: 2, ..BulkOptions::default() }),
        ),
        Case::new(
            "bulk-whole",
            "three files in a bulk that syncs whole file systems",
            two_of_three,
            |site| publish(site, NAMES, whole()),
        ),
        Case::new(
            "bulk-folders",
            "three files in one bulk, in folders that are not there yet",
            nothing,
            |site| in_folders(site, BulkOptions::default()),
        ),
        Case::new("bulk-folders-whole", "the same with whole file systems synced", nothing, |site| {
            in_folders(site, whole())
        }),
        Case { check: loosely, ..BULK_UNCHANGED },
        Case { check: loosely, ..BULK_SEALED },
        Case { check: loosely, ..BULK_SEALED_WHOLE },
        Case::new("bulk-dropped", "a bulk is dropped, and what it made is relied upon", nothing, dropped),
    ])
}

fn whole() -> BulkOptions {
    BulkOptions { sync: BulkSync::WholeFileSystem, ..BulkOptions::default() }
}

fn two_of_three(site: &Site<'_>) -> Before {
    let dir = site.dir()?;
    dir.replace("a.txt", b"old a")?;
    dir.replace("b.txt", b"old b")?;
    Ok(vec![("a.txt".into(), file(b"old a")), ("b.txt".into(), file(b"old b"))])
}

fn old(name: &str) -> Option<Value> {
    match name {
        "a.txt" => file(b"old a"),
        "b.txt" => file(b"old b"),
        _ => None,
    }
}

fn publish(site: &Site<'_>, names: [&'static str; 3], options: BulkOptions) -> Result<(), Ended> {
    let files = names.map(|name| (name, old(name), file(format!("new {name}").as_bytes())));
    site.perform_each("publish a bulk", &files, || {
        let dir = site.dir()?;
        let mut bulk = dir.bulk_with(options);
        for name in names {
            bulk.replace(name, format!("new {name}").as_bytes());
        }
        Ok(bulk.publish_all())
    })?;
    Ok(())
}

/// Folders may be there without what they are for.
fn in_folders(site: &Site<'_>, options: BulkOptions) -> Result<(), Ended> {
    announce_folders(site);
    publish(site, IN_NEW_FOLDERS, options)
}

fn announce_folders(site: &Site<'_>) {
    let folders = ["d", "d/e", "f"].map(|name| vec![(name.into(), directory(0o755))]);
    site.announce(Operation::new("new folders", folders.to_vec()));
}

const BULK_UNCHANGED: Case =
    Case::new("bulk-unchanged", "a bulk of what somebody wrote without barriers", nothing, |site| {
        for name in NAMES {
            site.announce(scribbled(name));
            site.scribble(name, format!("new {name}").as_bytes())?;
        }
        let write = WriteOptions { unchanged: Unchanged::Skip, ..WriteOptions::default() };
        let atoms = NAMES.map(|name| vec![(name.into(), file(format!("new {name}").as_bytes()))]);
        let published = site.perform(Operation::new("publish a bulk if changed", atoms.to_vec()), || {
            let dir = site.dir()?;
            let mut bulk = dir.bulk_with(BulkOptions { write, ..BulkOptions::default() });
            for name in NAMES {
                bulk.replace(name, format!("new {name}").as_bytes());
            }
            bulk.publish_all().all_published()
        });
        drop(published?);
        Ok(())
    });

const BULK_SEALED: Case = Case::new(
    "bulk-sealed",
    "a bulk is sealed under hidden names, and nothing is renamed",
    two_of_three,
    |site| sealed(site, BulkOptions { window: 2, ..BulkOptions::default() }),
);

const BULK_SEALED_WHOLE: Case =
    Case::new("bulk-sealed-whole", "the same with whole file systems synced", two_of_three, |site| {
        sealed(site, whole())
    });

/// What is acknowledged is under hidden names, also in new folders, and no sweep takes it; targets stay as they were.
fn sealed(site: &Site<'_>, options: BulkOptions) -> Result<(), Ended> {
    const TARGETS: [&str; 3] = ["a.txt", "d/b.txt", "d/e/c.txt"];
    let hidden =
        HiddenNames::Chosen { prefix: format!("{TXN_PREFIX}1-"), suffix: ".nxpart".to_owned(), first: 0xf };
    let cells = [("", "f"), ("d/", "10"), ("d/e/", "11")]
        .map(|(folder, index)| format!("{folder}{TXN_PREFIX}1-{index}.nxpart"));
    announce_folders(site);
    // Until all are sealed, what is under a hidden name is whatever it is.
    for cell in &cells {
        site.announce(scribbled(cell));
    }
    let new = |target: &str| file(format!("new {target}").as_bytes());
    let atoms = cells.iter().zip(TARGETS).map(|(cell, target)| vec![(cell.as_str().into(), new(target))]);
    site.witness.tell(Mark::Begin(Operation::new("seal a bulk", atoms.collect())));
    let dir = site.dir()?;
    let mut bulk = dir.bulk_with(BulkOptions { hidden, ..options });
    for target in TARGETS {
        bulk.replace(target, format!("new {target}").as_bytes());
    }
    let is_sealed = bulk.seal_all().is_ok_and(|files| files.len() == TARGETS.len());
    // What was removed after a failure may be back after a power cut.
    site.witness.tell(if is_sealed { Mark::Acknowledged } else { Mark::Failed(Fate::Unknown) });
    Ok(())
}

fn dropped(site: &Site<'_>) -> Result<(), Ended> {
    announce_folders(site);
    {
        let dir = site.dir()?;
        let mut bulk = dir.bulk();
        for name in IN_NEW_FOLDERS {
            bulk.replace(name, b"never published");
        }
    }
    // Who finds a directory takes it for durable.
    let operation = Operation::one("replace d/e/x.txt", "d/e/x.txt", file(b"relied upon"));
    site.perform(operation, || site.dir()?.replace("d/e/x.txt", b"relied upon"))?;
    Ok(())
}
