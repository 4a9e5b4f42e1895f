//! `steadfast state seal`: prefixes below which everything is encrypted. And the key for the commands that put and get there.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use media::{BlockDevice, FileDisk};
use serde_json::json;
use statefs::{Error, Form, Key, Prefix, Rotation, SealKey, Store, Zeroizing};

use super::{close, done, image, look, prefix_of};
use crate::cli::{SealCommand, SealRestore, SealRotate, SealedWith};
use crate::failure::{Exit, Failure, Outcome, StateTrouble};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

const KEY_LEN: usize = 32;
const DIGITS_LEN: usize = 2 * KEY_LEN;

pub(super) fn run(command: &SealCommand, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    match command {
        SealCommand::Add { image, prefix, key_file, key_id } => {
            add(image, prefix, key_file, *key_id, medium, output)
        }
        SealCommand::Rm { image, prefix } => rm(image, prefix, medium, output),
        SealCommand::Ls { image } => ls(image, medium, output),
        SealCommand::Rotate(args) => rotate(args, medium, output, interrupt),
        SealCommand::Restore(args) => restore(args, medium, output),
    }
}

/// Unlocks the sealed prefixes in which these keys lie, if there is a key for that.
pub(super) fn unlock(
    store: &mut Store<FileDisk>,
    keys: &[&Key],
    with: &SealedWith,
    path: &Path,
    medium: &Medium,
) -> Outcome<()> {
    give_nonces(store, medium);
    let Some(file) = &with.key_file else { return Ok(()) };
    let bytes = read_key(file)?;
    let covering: Vec<(Prefix, u32)> = store
        .sealed_prefixes()
        .filter(|(prefix, _)| keys.iter().any(|key| prefix.covers(key)))
        .map(|(prefix, id)| (prefix.clone(), with.key_id.unwrap_or(id)))
        .collect();
    if covering.is_empty() {
        // Whoever gives a key wants the value sealed.
        return Err(Failure::Usage {
            message: "there is a --key-file, and no sealed prefix that it could be for".to_owned(),
            hint: Some(
                "`steadfast state seal ls` lists them, `steadfast state seal add` makes one".to_owned(),
            ),
        });
    }
    covering.into_iter().try_for_each(|(prefix, id)| {
        let key = SealKey::new(id, bytes.clone());
        store.unlock(&prefix, key).map_err(|error| Failure::state(path, error))
    })
}

fn give_nonces<D: BlockDevice>(store: &mut Store<D>, medium: &Medium) {
    store.set_nonces(Box::new(Arc::clone(&medium.env().entropy)));
}

/// Reads a key, which nobody else may be able to.
fn read_key(path: &Path) -> Outcome<Zeroizing<[u8; KEY_LEN]>> {
    let fail = |error| Failure::io("reading the key", path, error);
    let file = File::open(path).map_err(fail)?;
    refuse_if_exposed(&file.metadata().map_err(fail)?, path)?;
    // At most a line of digits, and one byte that is too much. All of it at once: growing would leave a copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(DIGITS_LEN + 3));
    let len_max = u64::try_from(DIGITS_LEN + 3).unwrap_or(u64::MAX);
    file.take(len_max).read_to_end(&mut text).map_err(fail)?;
    key_of(&text).ok_or_else(|| Failure::Usage {
        message: format!("`{}` is no key", path.display()),
        hint: Some(format!(
            "a key is {KEY_LEN} random bytes, or {DIGITS_LEN} hexadecimal digits: (umask 077; head -c {KEY_LEN} \
             /dev/urandom > app.key)"
        )),
    })
}

#[cfg(unix)]
fn refuse_if_exposed(found: &std::fs::Metadata, path: &Path) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt as _;
    match found.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => Err(Failure::state(path, StateTrouble::ExposedKey)),
    }
}

/// Elsewhere permissions are not bits, and whoever made the file has to know.
#[cfg(not(unix))]
fn refuse_if_exposed(_: &std::fs::Metadata, _: &Path) -> Outcome<()> {
    Ok(())
}

/// The key in a file: its bytes, or digits for them and perhaps the end of a line.
fn key_of(text: &[u8]) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if text.len() == KEY_LEN {
        key.copy_from_slice(text);
        return Some(key);
    }
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    if digits.len() != DIGITS_LEN || !rest.is_empty() {
        return None;
    }
    for (to, [high, low]) in key.iter_mut().zip(pairs) {
        *to = digit(*high)? << 4 | digit(*low)?;
    }
    Some(key)
}

fn add(path: &Path, prefix: &str, key_file: &Path, key_id: u32, medium: &Medium, output: &Output) -> Outcome {
    let prefix = prefix_of(prefix)?;
    let key = SealKey::new(key_id, read_key(key_file)?);
    let mut store = image::writer(medium, path)?;
    give_nonces(&mut store, medium);
    let revision = store.seal_prefix(&prefix, key).map_err(|error| Failure::state(path, error))?;
    close(store, path, output)?;
    done(
        format_args!("what is put below `{prefix}` is sealed with key {key_id} from now on, durable"),
        json!({ "prefix": prefix.as_str(), "key_id": key_id }),
        revision,
        output,
    )
}

fn rm(path: &Path, prefix: &str, medium: &Medium, output: &Output) -> Outcome {
    let prefix = prefix_of(prefix)?;
    let mut store = image::writer(medium, path)?;
    let revision = store.unseal_prefix(&prefix).map_err(|error| Failure::state(path, error))?;
    close(store, path, output)?;
    done(
        format_args!("`{prefix}` is sealed no more, durable"),
        json!({ "prefix": prefix.as_str() }),
        revision,
        output,
    )
}

fn ls(path: &Path, medium: &Medium, output: &Output) -> Outcome {
    let (store, recovery) = image::reader(medium, path)?;
    let exit = look::warn_if_damaged(&recovery, output)?;
    for (prefix, key_id) in store.sealed_prefixes() {
        if output.is_json() {
            let fields = json!({ "prefix": prefix.as_str(), "key_id": key_id, "is_record_lost": false });
            output.object(true, fields)?;
        } else {
            output.line(format_args!("{prefix}: key {key_id}"))?;
        }
    }
    for prefix in store.lost_prefixes() {
        if output.is_json() {
            let fields = json!({ "prefix": prefix.as_str(), "key_id": null, "is_record_lost": true });
            output.object(true, fields)?;
        } else {
            output.line(lost_words(prefix))?;
        }
    }
    Ok(exit)
}

/// Says that a prefix is lost.
pub(super) fn lost_words(prefix: &Prefix) -> String {
    format!(
        "{prefix}: has sealed values, and the record of their prefix is lost; `steadfast state seal restore` puts it back"
    )
}

/// Decrypts a value of which no record says that its prefix is sealed; [`None`] if the value is another one.
pub(super) fn reveal_lost(
    store: &Store<FileDisk>,
    key: &Key,
    with: &SealedWith,
    path: &Path,
) -> Outcome<Option<Zeroizing<Vec<u8>>>> {
    let Some(lost) = store.lost_prefixes().find(|prefix| prefix.covers(key)) else { return Ok(None) };
    let is_covered = store.sealed_prefixes().any(|(prefix, _)| prefix.covers(key));
    if is_covered || store.get(key).is_none_or(|value| value.form == Form::Plain) {
        return Ok(None);
    }
    let fail = |error| Failure::state(path, error);
    let Some(file) = &with.key_file else {
        return Err(fail(Error::PrefixRecordLost { prefix: lost.clone() }));
    };
    let bytes = read_key(file)?;
    let open = |id: u32| store.reveal_with(key, &SealKey::new(id, bytes.clone()));
    match (open(with.key_id.unwrap_or(1)), with.key_id) {
        // The value says which key it is sealed with.
        (Err(Error::Locked { key_id, .. }), None) => open(key_id).map_err(fail),
        (outcome, _) => outcome.map_err(fail),
    }
}

fn restore(args: &SealRestore, medium: &Medium, output: &Output) -> Outcome {
    let prefix = prefix_of(&args.prefix)?;
    let current = SealKey::new(args.key_id, read_key(&args.key_file)?);
    let old = args.old_key_file.as_deref().zip(args.old_key_id);
    let old = old.map(|(file, id)| read_key(file).map(|bytes| SealKey::new(id, bytes))).transpose()?;
    let mut store = image::writer(medium, &args.image)?;
    give_nonces(&mut store, medium);
    let restored = store.restore_prefix(&prefix, current, old);
    let revision = restored.map_err(|error| Failure::state(&args.image, error))?;
    close(store, &args.image, output)?;
    done(
        format_args!("put back the record of `{prefix}`, which is sealed with key {} (durable)", args.key_id),
        json!({ "prefix": prefix.as_str(), "key_id": args.key_id, "old_key_id": args.old_key_id }),
        revision,
        output,
    )
}

fn rotate(args: &SealRotate, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let prefix = prefix_of(&args.prefix)?;
    let (old, new) = (read_key(&args.key_file)?, read_key(&args.new_key_file)?);
    let mut store = image::writer(medium, &args.image)?;
    let fail = |error| Failure::state(&args.image, error);
    give_nonces(&mut store, medium);
    let found = store.sealed_prefixes().find(|(sealed, _)| **sealed == prefix).map(|(_, id)| id);
    let current = found.ok_or(Error::NotSealed).map_err(fail)?;
    let old_id = args.key_id.unwrap_or(current);
    if old_id == args.new_key_id {
        return Err(Failure::Usage {
            message: format!("`{prefix}` is sealed with key {current}, and the new key has that number"),
            hint: Some(
                "take another --new-key-id; to go on with a rotation that was cut short, say --key-id of the old key"
                    .to_owned(),
            ),
        });
    }
    store.unlock(&prefix, SealKey::new(old_id, old)).map_err(fail)?;
    store.begin_rotation(&prefix, SealKey::new(args.new_key_id, new)).map_err(fail)?;
    let bar = output.progress(None, Unit::Share);
    bar.set_message("sealing anew");
    while store.rotate_step(&prefix).map_err(fail)? == Rotation::Running {
        // What is done stays, and the same command goes on.
        interrupt.check()?;
    }
    bar.finish_and_clear();
    close(store, &args.image, output)?;
    let id = args.new_key_id;
    output.done(
        format_args!("everything below `{prefix}` is sealed with key {id}, durable; what key {old_id} opens stays on the medium until a scrub"),
        json!({ "prefix": prefix.as_str(), "key_id": id, "old_key_id": old_id, "durability": "durable" }),
    )?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_or_64_digits() {
        assert_eq!(key_of(&[7; 32]).as_deref(), Some(&[7; 32]));
        let digits = "0aF9".repeat(16);
        let wanted = [[0x0a, 0xf9]; 16].concat();
        for end in ["", "\n", "\r\n"] {
            assert_eq!(
                key_of((digits.clone() + end).as_bytes()).as_deref().map(|key| &key[..]),
                Some(&*wanted)
            );
        }
        for bad in
            ["", "\n", &digits[..63], &(digits.clone() + "0"), &(digits.clone() + "\n\n"), &"g".repeat(64)]
        {
            assert_eq!(key_of(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!((key_of(&[7; 31]), key_of(&[7; 33])), (None, None));
    }
}
