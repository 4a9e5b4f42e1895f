//! `steadfast state`: a key/value store in one file. Here what changes it, and `get`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use media::{BlockDevice, FileDisk};
use serde_json::{Value, json};
use statefs::{
    Batch, Certainty, Error, Form, Key, Options, Precondition, Prefix, Revision, Scrub, Store, VALUE_LEN_MAX,
    Verdict,
};

use super::bytes_words;
use crate::cli::{StateCas, StateCommand, StateGet, StateInit, StatePut, StateRm};
use crate::failure::{Exit, Failure, Outcome, StateTrouble, insert, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

mod backup;
mod batch;
mod demo;
mod image;
mod look;
mod quota;
mod seal;
mod snapshot;
mod watch;

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
        StateCommand::Get(args) => get(args, medium, output),
        StateCommand::Rm(args) => rm(args, medium, output),
        StateCommand::Ls(args) => look::ls(args, medium, output),
        StateCommand::Cas(args) => cas(args, medium, output),
        StateCommand::Batch(args) => batch::run(args, medium, output, interrupt),
        StateCommand::Watch(args) => watch::run(args, medium, output, interrupt),
        StateCommand::Sync { image } => sync(image, medium, output),
        StateCommand::Snapshot(command) => snapshot::run(command, medium, output),
        StateCommand::Backup(args) => backup::backup(args, medium, output, interrupt),
        StateCommand::Restore(args) => backup::restore(args, medium, output, interrupt),
        StateCommand::Quota(command) => quota::run(command, medium, output),
        StateCommand::Seal(command) => seal::run(command, medium, output, interrupt),
        StateCommand::Scrub { image } => scrub(image, medium, output, interrupt),
        StateCommand::Fsck { image, verify } => look::fsck(image, *verify, medium, output),
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
        let made = Store::format(disk, options).and_then(|store| {
            let id = store.store_id();
            store.close().map(|()| id)
        });
        made.map_err(|error| Failure::state(&args.image, error))
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
    seal::unlock(&mut store, &[&key], &args.sealed, &args.image, medium)?;
    let revision = store.put(&key, &value).map_err(|error| Failure::state(&args.image, error))?;
    quota::warn(&store, &[&key], output)?;
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
    seal::unlock(&mut store, &[&key], &args.sealed, &args.image, medium)?;
    let swapped = store.compare_and_swap(&key, expected, value);
    let revision = swapped.map_err(|error| Failure::state(&args.image, error))?;
    quota::warn(&store, &[&key], output)?;
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

fn sync(path: &Path, medium: &Medium, output: &Output) -> Outcome {
    let (store, found) = image::recovered(medium, path)?;
    let revision = store.durable_revision().get();
    store.close().map_err(|error| Failure::state(path, error))?;
    let is_torn = matches!(found.tail, Verdict::TornTail { .. });
    let repaired = [
        (is_torn, "a torn tail was discarded"),
        (found.switch_finished, "a compaction was finished"),
        (found.roots_repaired > 0 && !found.switch_finished, "a superblock was rewritten"),
    ];
    let mut words: Vec<&str> = repaired.iter().filter_map(|(is_so, words)| is_so.then_some(*words)).collect();
    if words.is_empty() {
        words.push(if found.was_sealed { "it had been closed" } else { "it had not been closed" });
    }
    output.done(
        format_args!(
            "{} key(s) up to revision {revision} are durable, and sealed: {}",
            found.live_keys,
            words.join(", ")
        ),
        json!({
            "image": shown(path), "keys": found.live_keys, "durable_revision": revision,
            "was_sealed": found.was_sealed, "torn_tail_discarded": is_torn,
            "compaction_finished": found.switch_finished, "roots_repaired": found.roots_repaired,
            "durability": "durable",
        }),
    )?;
    Ok(Exit::Ok)
}

fn scrub(path: &Path, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let mut store = image::writer(medium, path)?;
    let bar = output.progress(None, Unit::Share);
    bar.set_message("overwriting what is gone");
    loop {
        // Wherever it stops, the store has what it had.
        interrupt.check()?;
        match store.scrub_step().map_err(|error| Failure::state(path, error))? {
            // Nobody else writes, so a copy that is given up once is not given up for ever.
            Scrub::Running | Scrub::GivenUp => {}
            Scrub::Finished => break,
        }
    }
    bar.finish_and_clear();
    let (keys, snapshots) = (store.stats().live_keys, store.stats().snapshots);
    close(store, path, output)?;
    if snapshots > 0 {
        output.warn(format_args!("{snapshots} snapshot(s) keep what they have, and it was not wiped"))?;
    }
    output.done(
        format_args!("what was deleted or replaced is overwritten; {keys} key(s) are as they were"),
        json!({ "image": shown(path), "keys": keys, "snapshots": snapshots, "durability": "durable" }),
    )?;
    Ok(Exit::Ok)
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

/// Says what has changed, durably, and which revision that is.
fn done(words: impl std::fmt::Display, mut fields: Value, revision: Revision, output: &Output) -> Outcome {
    insert(&mut fields, "revision", json!(revision.get()));
    insert(&mut fields, "durability", json!("durable"));
    output.done(words, fields)?;
    Ok(Exit::Ok)
}

fn get(args: &StateGet, medium: &Medium, output: &Output) -> Outcome {
    let key = key_of(&args.key)?;
    let (mut store, _) = image::reader(medium, &args.image)?;
    let absent = store.certainty(&key);
    if let Some(revealed) = seal::reveal_lost(&store, &key, &args.sealed, &args.image)? {
        let value = store.get(&key);
        let value = value.map(|value| statefs::Value { bytes: &revealed, form: Form::Plain, ..value });
        return print_value(&key, value, absent, &args.image, output);
    }
    seal::unlock(&mut store, &[&key], &args.sealed, &args.image, medium)?;
    let value = store.get(&key);
    let is_covered = store.sealed_prefixes().any(|(prefix, _)| prefix.covers(&key));
    if !is_covered && value.is_none_or(|value| value.form == Form::Plain) {
        return print_value(&key, value, absent, &args.image, output);
    }
    // The bytes that are stored of a sealed value are of no use. Without the key this says which one it needs.
    let revealed = store.reveal(&key).map_err(|error| Failure::state(&args.image, error))?;
    let value = value.zip(revealed.as_deref());
    let value = value.map(|(value, bytes)| statefs::Value { bytes, form: Form::Plain, ..value });
    print_value(&key, value, absent, &args.image, output)
}

/// Prints a value; or, if there is none, says whether that is certain.
fn print_value(
    key: &Key,
    value: Option<statefs::Value<'_>>,
    absent: Certainty,
    path: &Path,
    output: &Output,
) -> Outcome {
    let Some(value) = value else {
        return match absent {
            Certainty::Certain => Err(Failure::not_so(format!("`{key}` has no value"))),
            Certainty::Suspect => {
                output.warn(format_args!("`{key}` has no value, but what is lost may have had one"))?;
                Err(Failure::state(path, StateTrouble::Damaged))
            }
        };
    };
    if value.certainty == Certainty::Suspect {
        output.warn(format_args!(
            "the store is damaged: the value of `{key}` may be older than it should be"
        ))?;
    }
    if output.is_json() {
        output.object(true, entry(key.as_str(), &value))?;
    } else {
        output.data(value.bytes)?;
    }
    Ok(exit_for(value.certainty))
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
    let form = match value.form {
        Form::Plain => "plain",
        Form::Sealed => "sealed",
    };
    let mut entry = json!({
        "key": key, "revision": value.revision.get(), "certainty": certainty, "form": form,
        "bytes": value.bytes.len(),
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
