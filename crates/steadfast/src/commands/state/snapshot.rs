//! `steadfast state snapshot`: the store as it was, under a name.

use std::path::Path;

use media::FileDisk;
use serde_json::json;
use statefs::{Certainty, Error, Form, Recovery, SnapshotName, SnapshotView, Store};

use super::{close, done, image, key_of, look, prefix_of, print_value};
use crate::cli::SnapshotCommand;
use crate::failure::{Exit, Failure, Outcome};
use crate::medium::Medium;
use crate::output::Output;

pub(super) fn run(command: &SnapshotCommand, medium: &Medium, output: &Output) -> Outcome {
    match command {
        SnapshotCommand::Create { image, name } => create(image, name, medium, output),
        SnapshotCommand::List { image } => list(image, medium, output),
        SnapshotCommand::Drop { image, name } => drop_one(image, name, medium, output),
        SnapshotCommand::Get { image, name, key } => get(image, name, key, medium, output),
        SnapshotCommand::Ls { image, name, prefix, long } => {
            let length = if *long { look::Length::Long } else { look::Length::Short };
            ls(image, name, prefix, length, medium, output)
        }
    }
}

pub(super) fn name_of(image: &Path, text: &str) -> Outcome<SnapshotName> {
    SnapshotName::parse(text).map_err(|error| Failure::state(image, Error::from(error)))
}

fn create(path: &Path, name: &str, medium: &Medium, output: &Output) -> Outcome {
    let name = name_of(path, name)?;
    let mut store = image::writer(medium, path)?;
    let revision = store.snapshot(&name).map_err(|error| Failure::state(path, error))?.get();
    let keys = store.stats().live_keys;
    close(store, path, output)?;
    output.done(
        format_args!("snapshot `{name}` has {keys} key(s), as of revision {revision}, durable"),
        json!({ "name": name.as_str(), "revision": revision, "keys": keys, "durability": "durable" }),
    )?;
    Ok(Exit::Ok)
}

fn list(path: &Path, medium: &Medium, output: &Output) -> Outcome {
    let (store, recovery) = image::reader(medium, path)?;
    let exit = look::warn_if_damaged(&recovery, output)?;
    for snapshot in store.snapshots() {
        let (name, revision) = (&snapshot.name, snapshot.revision.get());
        if output.is_json() {
            let certainty = match snapshot.certainty {
                Certainty::Certain => "certain",
                Certainty::Suspect => "suspect",
            };
            output.object(
                true,
                json!({ "name": name.as_str(), "revision": revision, "certainty": certainty }),
            )?;
        } else {
            output.line(format_args!("{revision:>12} {name}"))?;
        }
    }
    Ok(exit)
}

fn drop_one(path: &Path, name: &str, medium: &Medium, output: &Output) -> Outcome {
    let name = name_of(path, name)?;
    let mut store = image::writer(medium, path)?;
    let dropped = store.drop_snapshot(&name).map_err(|error| Failure::state(path, error))?;
    close(store, path, output)?;
    let Some(revision) = dropped else {
        return Err(Failure::state(path, Error::NoSnapshot { name }));
    };
    done(
        format_args!("dropped snapshot `{name}`, durable"),
        json!({ "name": name.as_str() }),
        revision,
        output,
    )
}

/// The store of an image, to be read as it was.
struct Then {
    store: Store<FileDisk>,
    recovery: Recovery,
    name: SnapshotName,
}

impl Then {
    fn open(path: &Path, name: &str, medium: &Medium) -> Outcome<Self> {
        let name = name_of(path, name)?;
        let (store, recovery) = image::reader(medium, path)?;
        Ok(Self { store, recovery, name })
    }

    fn view(&self, path: &Path) -> Outcome<SnapshotView<'_>> {
        let missing = || Failure::state(path, Error::NoSnapshot { name: self.name.clone() });
        self.store.at(&self.name).ok_or_else(missing)
    }
}

fn get(path: &Path, name: &str, key: &str, medium: &Medium, output: &Output) -> Outcome {
    let key = key_of(key)?;
    let then = Then::open(path, name, medium)?;
    let view = then.view(path)?;
    let value = view.get(&key);
    if value.is_some_and(|value| value.form == Form::Sealed) {
        return Err(Failure::Usage {
            message: format!("the value that `{key}` had is sealed, and is not decrypted from a snapshot"),
            hint: Some("back the snapshot up with --snapshot, restore it, and `get` it there".to_owned()),
        });
    }
    print_value(&key, value, view.certainty(&key), path, output)
}

fn ls(
    path: &Path,
    name: &str,
    prefix: &str,
    length: look::Length,
    medium: &Medium,
    output: &Output,
) -> Outcome {
    let prefix = prefix_of(prefix)?;
    let then = Then::open(path, name, medium)?;
    let view = then.view(path)?;
    let exit = look::warn_if_damaged(&then.recovery, output)?;
    look::list(|after| view.list(&prefix, after, usize::MAX), path, length, output)?;
    Ok(exit)
}
