//! `steadfast rm`, `mv` and `mkdir`: names, changed durably.

use std::path::{Path, PathBuf};

use durable_io::{Barriers, Durability, Kind, RenameMode};
use serde_json::json;

use super::{MissingDir, durability_code, durability_words, split};
use crate::cli::{Mkdir, Mv, Rm};
use crate::failure::{Exit, Failure, Outcome, shown};
use crate::medium::Medium;
use crate::output::Output;

pub(super) fn rm(args: &Rm, medium: &Medium, output: &Output) -> Outcome {
    let mut worst = Ok(());
    for path in &args.paths {
        let removed = split(medium, path, MissingDir::Fail).and_then(|(dir, name)| Ok(dir.remove(name)?));
        match removed {
            Ok(durability) => say(output, "removed", path, durability)?,
            Err(Failure::Durable(error)) if args.force && error.kind() == Kind::NotFound => {}
            Err(failure) => note(&mut worst, failure, output)?,
        }
    }
    worst.map(|()| Exit::Ok)
}

pub(super) fn mkdir(args: &Mkdir, medium: &Medium, output: &Output) -> Outcome {
    let mut worst = Ok(());
    for path in &args.paths {
        match make(path, args, medium) {
            Ok(Some(durability)) => say(output, "created", path, durability)?,
            Ok(None) => output.done(
                format_args!("`{}` exists", path.display()),
                json!({ "path": shown(path), "change": "unchanged" }),
            )?,
            Err(failure) => note(&mut worst, failure, output)?,
        }
    }
    worst.map(|()| Exit::Ok)
}

/// `None` if it is there already, which is fine with `--parents`.
fn make(path: &Path, args: &Mkdir, medium: &Medium) -> Outcome<Option<Durability>> {
    // `a/b/` is a fine way to name a directory.
    let path: PathBuf = path.components().collect();
    if args.parents && medium.open(&path).is_ok() {
        return Ok(None);
    }
    let missing = if args.parents { MissingDir::Create } else { MissingDir::Fail };
    let (dir, name) = split(medium, &path, missing)?;
    Ok(Some(dir.create_dir_with(name, args.mode, Barriers::Required)?))
}

pub(super) fn mv(args: &Mv, medium: &Medium, output: &Output) -> Outcome {
    let from: PathBuf = args.from.components().collect();
    let (from_dir, from_name) = split(medium, &from, MissingDir::Fail)?;
    // As `mv` does: a directory is moved into, anything else is a new name.
    let into_dir = std::fs::metadata(&args.to).is_ok_and(|found| found.is_dir());
    let moves_dir = std::fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir());
    for (path, is_dir) in [(&args.from, moves_dir), (&args.to, into_dir || moves_dir)] {
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") && !is_dir {
            return Err(Failure::usage(format!("`{}` is not a directory", path.display())));
        }
    }
    let to: PathBuf = if into_dir { args.to.join(from_name) } else { args.to.components().collect() };
    let (to_dir, to_name) = split(medium, &to, MissingDir::Fail)?;
    let how = if args.no_clobber { RenameMode::NoReplace } else { RenameMode::Replace };
    let same_dir = from.parent() == to.parent();
    let target = if same_dir { &from_dir } else { &to_dir };
    let durability = from_dir.rename_to(from_name, target, to_name, how, Barriers::Required)?;
    let words =
        format!("renamed `{}` to `{}`: {}", from.display(), to.display(), durability_words(durability));
    output.done(
        words,
        json!({ "path": shown(&from), "to": shown(&to), "durability": durability_code(durability) }),
    )?;
    Ok(Exit::Ok)
}

fn say(output: &Output, what: &str, path: &Path, durability: Durability) -> Outcome<()> {
    let words = format!("{what} `{}`: {}", path.display(), durability_words(durability));
    output.done(
        words,
        json!({ "path": shown(path), "change": what, "durability": durability_code(durability) }),
    )
}

/// One of many failed: the first decides the exit code and is told at the end, the others are told at once.
pub(super) fn note(worst: &mut Outcome<()>, failure: Failure, output: &Output) -> Outcome<()> {
    match worst {
        Err(_) => output.warn(&failure),
        Ok(()) => {
            *worst = Err(failure);
            Ok(())
        }
    }
}
