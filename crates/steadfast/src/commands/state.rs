//! `steadfast state`: a key/value store in one file. Here what changes it, and `get`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use media::{BlockDevice, FileDisk};
use serde_json::{Value, json};
use statefs::{Batch, Certainty, Error, Key, Options, Precondition, Prefix, Revision, Store, VALUE_LEN_MAX};

use super::bytes_words;
use crate::cli::{StateCas, StateCommand, StateInit, StatePut, StateRm};
use crate::failure::{Exit, Failure, Outcome, StateTrouble, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

mod demo;
mod image;
mod look;

pub(super) use demo::demonstrate;

const KEY_RULE: &str = "a key is absolute and lies under /state/, as in /state/boot/slot: at most 255 bytes, no empty \
    component, no `.` or `..`, no control character, no slash at the end";

pub(super) fn run(
    command: &StateCommand,
    medium: &Medium,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome {
    match command {
        StateCommand::Init(args) => init(args, medium, output),
        StateCommand::Put(args) => put(args, medium, output, interrupt),
        StateCommand::Get { image, key } => get(image, key, medium, output),
        StateCommand::Rm(args) => rm(args, medium, output),
        StateCommand::Ls(args) => look::ls(args, medium, output),
        StateCommand::Cas(args) => cas(args, medium, output),
        StateCommand::Fsck { image } => look::fsck(image, medium, output),
        StateCommand::Dump { image } => look::dump(image, medium, output),
        StateCommand::Salvage(args) => look::salvage(args, medium, output),
        StateCommand::Stats { image } => look::stats(image, medium, output),
    }
}

fn key_of(text: &str) -> Outcome<Key> {
    Key::parse(text).map_err(|error| not_a_key(text, error))
}

fn prefix_of(text: &str) -> Outcome<Prefix> {
    Prefix::parse(text).map_err(|error| not_a_key(text, error))
}

fn not_a_key(text: &str, error: statefs::KeyError) -> Failure {
    Failure::Usage { message: format!("{text:?}: {error}"), hint: Some(KEY_RULE.to_owned()) }
}

fn init(args: &StateInit, medium: &Medium, output: &Output) -> Outcome {
    let make = |disk: &FileDisk, options: &Options| {
        let store = Store::format(disk, options)?;
        let id = store.store_id();
        store.close()?;
        Ok(id)
    };
    // Without the flag there is a size.
    let (id, bytes) = match args.size {
        Some(size) => {
            let geometry = image::geometry(size, args.block_size)?;
            (image::create(medium, output, &args.image, geometry, make)?, size)
        }
        None => image::overwrite_device(medium, &args.image, args.block_size, make)?,
    };
    let words = format!("made a store in `{}`: {}, durable", args.image.display(), bytes_words(bytes));
    output.done(
        words,
        json!({
            "image": shown(&args.image), "store_id": id.to_string(), "bytes": bytes,
            "block_size": args.block_size, "durability": "durable",
        }),
    )?;
    Ok(Exit::Ok)
}

fn put(args: &StatePut, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let key = key_of(&args.key)?;
    // Before the lock: nobody else has to wait while the value comes.
    let value = match &args.value {
        Some(value) => value_of(value)?.to_vec(),
        None => value_from_stdin(output, interrupt)?,
    };
    let mut store = image::writer(medium, &args.image)?;
    let revision = store.put(&key, &value).map_err(|error| Failure::state(&args.image, error))?;
    close(store, &args.image, output)?;
    say_put(&key, revision, value.len(), output)
}

fn cas(args: &StateCas, medium: &Medium, output: &Output) -> Outcome {
    let key = key_of(&args.key)?;
    let value = value_of(&args.value)?;
    let expected = match args.expected.revision {
        Some(number) => Precondition::RevisionIs(Revision::from_u64(number)),
        None => Precondition::Absent,
    };
    let mut store = image::writer(medium, &args.image)?;
    let swapped = store.compare_and_swap(&key, expected, value);
    let revision = swapped.map_err(|error| Failure::state(&args.image, error))?;
    close(store, &args.image, output)?;
    say_put(&key, revision, value.len(), output)
}

fn say_put(key: &Key, revision: Revision, len: usize, output: &Output) -> Outcome {
    let bytes = u64::try_from(len).unwrap_or(u64::MAX);
    let revision = revision.get();
    output.done(
        format_args!("put `{key}`: {}, revision {revision}, durable", bytes_words(bytes)),
        json!({ "key": key.as_str(), "bytes": bytes, "revision": revision, "durability": "durable" }),
    )?;
    Ok(Exit::Ok)
}

/// The bytes of an argument. Where arguments are not bytes, only text is taken.
fn value_of(argument: &OsStr) -> Outcome<&[u8]> {
    if cfg!(unix) || argument.to_str().is_some() {
        return Ok(argument.as_encoded_bytes());
    }
    Err(Failure::usage("the value is not Unicode: give it on stdin"))
}

/// At most one byte more than a value may have, which the store then refuses.
fn value_from_stdin(output: &Output, interrupt: &Interrupt) -> Outcome<Vec<u8>> {
    if io::stdin().is_terminal() {
        output.say("reading from the terminal; end with Ctrl-D, stop with Ctrl-C")?;
    }
    let len_max = usize::try_from(VALUE_LEN_MAX).unwrap_or(usize::MAX);
    let mut value = vec![0; len_max.saturating_add(1)];
    let mut len = 0;
    while let Some(room) = value.get_mut(len..).filter(|room| !room.is_empty()) {
        match interrupt.read_stdin(room)? {
            0 => break,
            count => len += count,
        }
    }
    value.truncate(len);
    if len > len_max {
        return Err(Failure::Usage {
            message: "the value is too long".to_owned(),
            hint: Some(format!("a value has at most {len_max} bytes: keep the rest in a file of its own")),
        });
    }
    Ok(value)
}

fn rm(args: &StateRm, medium: &Medium, output: &Output) -> Outcome {
    let keys = args.keys.iter().map(|text| key_of(text)).collect::<Outcome<BTreeSet<Key>>>()?;
    let mut store = image::writer(medium, &args.image)?;
    let (there, missing): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(|key| store.get(key).is_some());
    if let Some(key) = missing.first().filter(|_| !args.force) {
        return Err(Failure::NotSo {
            message: format!("`{key}` has no value; nothing was removed"),
            hint: Some("--force removes the others".to_owned()),
        });
    }
    let removed = remove(&mut store, &there).map_err(|error| Failure::state(&args.image, error))?;
    close(store, &args.image, output)?;
    let revision = removed.map(Revision::get);
    output.done(
        format_args!("removed {} key(s), durable", there.len()),
        json!({
            "removed": there.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
            "missing": missing.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
            "revision": revision, "durability": "durable",
        }),
    )?;
    Ok(Exit::Ok)
}

/// As one batch: all of them or none. Opening the store has made it durable already that a key is not there.
fn remove<D: BlockDevice>(store: &mut Store<D>, keys: &[&Key]) -> Result<Option<Revision>, Error> {
    if keys.is_empty() {
        return Ok(None);
    }
    let mut batch = Batch::new();
    for key in keys {
        batch.delete(key)?;
    }
    store.batch(&batch).map(Some)
}

/// What was asked for is durable. The mark of a store that was closed is only there to notice losses, so a failure to
/// leave it is no failure of the command.
fn close(store: Store<FileDisk>, image: &Path, output: &Output) -> Outcome<()> {
    match store.close() {
        Ok(()) => Ok(()),
        Err(error) => {
            let failure = Failure::state(image, error);
            output.warn(format_args!("it was done, but the store was not closed: {failure}"))
        }
    }
}

fn get(path: &Path, key: &str, medium: &Medium, output: &Output) -> Outcome {
    let key = key_of(key)?;
    let (store, _) = image::reader(medium, path)?;
    let certainty = store.certainty(&key);
    let Some(value) = store.get(&key) else {
        return match certainty {
            Certainty::Certain => Err(Failure::not_so(format!("`{key}` has no value"))),
            Certainty::Suspect => {
                output.warn(format_args!("`{key}` has no value, but what is lost may have had one"))?;
                Err(Failure::state(path, StateTrouble::Damaged))
            }
        };
    };
    if certainty == Certainty::Suspect {
        output.warn(format_args!(
            "the store is damaged: the value of `{key}` may be older than it should be"
        ))?;
    }
    if output.is_json() {
        output.object(true, entry(key.as_str(), &value))?;
    } else {
        output.data(value.bytes)?;
    }
    Ok(exit_for(certainty))
}

fn exit_for(certainty: Certainty) -> Exit {
    match certainty {
        Certainty::Certain => Exit::Ok,
        Certainty::Suspect => Exit::Corrupt,
    }
}

/// A key and its value, for programs.
fn entry(key: &str, value: &statefs::Value<'_>) -> Value {
    let certainty = match value.certainty {
        Certainty::Certain => "certain",
        Certainty::Suspect => "suspect",
    };
    let mut entry = json!({
        "key": key, "revision": value.revision.get(), "certainty": certainty, "bytes": value.bytes.len(),
    });
    let (name, content) = match std::str::from_utf8(value.bytes) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("hex", hex(value.bytes)),
    };
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(name.to_owned(), json!(content));
    }
    entry
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        match write!(text, "{byte:02x}") {
            Ok(()) | Err(std::fmt::Error) => text,
        }
    })
}
