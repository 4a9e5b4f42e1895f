//! `steadfast state watch`: what others change in a store.
//!
//! A reader in another process sees blocks, not changes. So what is there now is compared with what was there at the last
//! look, and a look is taken only when a block that every commit changes has changed.

use std::iter::Peekable;
use std::path::Path;
use std::time::Duration;

use media::{BlockDevice, FileDisk};
use serde_json::json;
use statefs::{Error, Prefix, Store, Value};

use super::{image, prefix_of};
use crate::cli::StateWatch;
use crate::failure::{Exit, Failure, Outcome, StateTrouble};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

/// Looking without a pause would only keep a processor busy.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A signal is heard at least this often.
const NAP_MAX: Duration = Duration::from_millis(100);

/// The most intervals between two looks that find nothing, where the end of the journal always looks as if something had
/// been written.
const PATIENCE_MAX: u32 = 32;

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Put,
    Delete,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// A change, as it is told: ordered by revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    revision: u64,
    what: What,
    key: String,
}

pub(super) fn run(args: &StateWatch, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    let prefix = prefix_of(&args.prefix)?;
    let mut store = open(medium, &args.image)?;
    output.say(format_args!(
        "watching `{prefix}` from revision {} on; Ctrl-C ends it",
        args.since.unwrap_or_else(|| store.durable_revision().get())
    ))?;
    if let Some(since) = args.since {
        let now = changes(None, &store, &prefix, Some(since))?;
        if tell(&now, output)? && args.once {
            return Ok(Exit::Ok);
        }
    }
    let interval = args.interval.max(INTERVAL_MIN);
    let (mut patience, mut waited) = (1, 0);
    while rest(interval, medium, interrupt, output) {
        waited += 1;
        if waited < patience || !has_changed(&store, &args.image, medium)? {
            continue;
        }
        waited = 0;
        let Some(newer) = look_again(medium, &args.image, &store)? else { continue };
        let found = changes(Some(&store), &newer, &prefix, None)?;
        patience = match newer.durable_revision() == store.durable_revision() {
            true => (patience * 2).min(PATIENCE_MAX),
            false => 1,
        };
        store = newer;
        if tell(&found, output)? && args.once {
            return Ok(Exit::Ok);
        }
    }
    Ok(Exit::Ok)
}

/// A damaged store does not change any more, and a reader cannot say what is missing.
fn open(medium: &Medium, path: &Path) -> Outcome<Store<FileDisk>> {
    let (store, recovery) = image::reader(medium, path)?;
    match recovery.tail {
        statefs::Verdict::Damaged { .. } => Err(Failure::state(path, StateTrouble::Damaged)),
        statefs::Verdict::Clean | statefs::Verdict::TornTail { .. } => Ok(store),
    }
}

/// The store as it is now; [`None`] if it did not hold still.
fn look_again(medium: &Medium, path: &Path, old: &Store<FileDisk>) -> Outcome<Option<Store<FileDisk>>> {
    let newer = match open(medium, path) {
        Ok(newer) => newer,
        Err(failure) if failure.exit() == Exit::Held => return Ok(None),
        Err(failure) => return Err(failure),
    };
    if newer.store_id() != old.store_id() {
        return Err(Failure::state(path, StateTrouble::Replaced));
    }
    Ok(Some(newer))
}

fn has_changed(store: &Store<FileDisk>, path: &Path, medium: &Medium) -> Outcome<bool> {
    let has_moved_on = store.has_moved_on().map_err(|error| Failure::state(path, error))?;
    Ok(has_moved_on || !image::is_same_file(medium, path, store)?)
}

/// Waits for an interval; false if it is time to end.
fn rest(interval: Duration, medium: &Medium, interrupt: &Interrupt, output: &Output) -> bool {
    let mut left = interval;
    loop {
        if interrupt.is_asked() || output.is_unread() {
            return false;
        }
        let nap = left.min(NAP_MAX);
        if nap.is_zero() {
            return true;
        }
        medium.env().clock.sleep(nap);
        left -= nap;
    }
}

/// Prints changes; whether there were any.
fn tell(changes: &[Seen], output: &Output) -> Outcome<bool> {
    for Seen { revision, what, key } in changes {
        let what = what.word();
        if output.is_json() {
            output.object(true, json!({ "change": what, "revision": revision, "key": key }))?;
        } else {
            output.line(format_args!("{what} {revision} {key}"))?;
        }
    }
    Ok(!changes.is_empty())
}

/// What is different in `new`, in the order of revisions. Without an old store: what was written after `since`.
fn changes<D: BlockDevice>(
    old: Option<&Store<D>>,
    new: &Store<D>,
    prefix: &Prefix,
    since: Option<u64>,
) -> Outcome<Vec<Seen>> {
    let newest = new.durable_revision().get();
    let mut old = below(old, prefix).peekable();
    let mut seen = Vec::new();
    let mut add = |what, revision, key: &str| {
        seen.try_reserve(1)
            .map_err(|_| Failure::state(Path::new(key), Error::NoMemory { len: size_of::<Seen>() }))?;
        seen.push(Seen { revision, what, key: key.to_owned() });
        Ok::<(), Failure>(())
    };
    for (key, value) in below(Some(new), prefix) {
        while let Some((gone, _)) = old.next_if(|(before, _)| *before < key) {
            add(What::Delete, newest, gone.as_str())?;
        }
        let revision = value.revision.get();
        let before = take_same(&mut old, &key);
        if before.or(since).is_none_or(|before| before < revision) {
            add(What::Put, revision, key.as_str())?;
        }
    }
    for (gone, _) in old {
        add(What::Delete, newest, gone.as_str())?;
    }
    seen.sort_unstable();
    Ok(seen)
}

/// The revision that the same key had before.
fn take_same<'s>(
    old: &mut Peekable<impl Iterator<Item = (statefs::Key, Value<'s>)>>,
    key: &statefs::Key,
) -> Option<u64> {
    old.next_if(|(before, _)| before == key).map(|(_, value)| value.revision.get())
}

fn below<'s, D: BlockDevice>(
    store: Option<&'s Store<D>>,
    prefix: &'s Prefix,
) -> impl Iterator<Item = (statefs::Key, Value<'s>)> {
    store.into_iter().flat_map(Store::iter).filter(|(key, _)| prefix.covers(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::{Geometry, MemDisk};
    use statefs::{Access, Key, Options, StoreId};

    #[test]
    fn what_is_different_is_told_in_the_order_of_revisions() {
        let disk = MemDisk::new(Geometry::new(512, 256).unwrap()).unwrap();
        let mut store = Store::format(disk.clone(), &Options::new(StoreId([1; 16]))).unwrap();
        let key = |name: &str| Key::parse(&format!("/state/{name}")).unwrap();
        for name in ["a/1", "a/2", "a/3", "b"] {
            store.put(&key(name), b"1").unwrap();
        }
        let read = || Store::open(disk.clone(), Access::Read).unwrap().0;
        let before = read();
        let first = store.put(&key("a/3"), b"2").unwrap().get();
        let second = store.put(&key("a/1"), b"1").unwrap().get();
        let third = store.put(&key("a/0"), b"1").unwrap().get();
        store.put(&key("b"), b"2").unwrap();
        let last = store.delete(&key("a/2")).unwrap().unwrap().get();
        let after = read();
        let prefix = Prefix::parse("/state/a").unwrap();
        let words = |seen: Vec<Seen>| -> Vec<String> {
            seen.iter().map(|seen| format!("{} {} {}", seen.what.word(), seen.revision, seen.key)).collect()
        };
        let wanted = [
            format!("put {first} /state/a/3"),
            format!("put {second} /state/a/1"),
            format!("put {third} /state/a/0"),
            format!("delete {last} /state/a/2"),
        ];
        assert_eq!(words(changes(Some(&before), &after, &prefix, None).unwrap()), wanted);
        assert_eq!(words(changes(None, &after, &prefix, Some(first)).unwrap()), wanted[1..3]);
        assert_eq!(changes(Some(&after), &after, &prefix, None).unwrap(), []);
        // The last keys of all are missed as well.
        for name in ["a/0", "a/1", "a/3", "b"] {
            store.delete(&key(name)).unwrap();
        }
        let empty = read();
        let gone = changes(Some(&after), &empty, &Prefix::root(), None).unwrap();
        assert!(gone.iter().all(|seen| seen.what == What::Delete) && gone.len() == 4, "{gone:?}");
    }

    #[test]
    fn what_does_not_hold_still_is_looked_at_again_later() {
        let root = tempfile::tempdir().unwrap();
        let (medium, path) = (Medium::from_env().unwrap(), root.path().join("image"));
        let dir = medium.fs().open_dir(root.path()).unwrap();
        let geometry = Geometry::new(512, 256).unwrap();
        let disk = FileDisk::create(&*dir, "image".as_ref(), geometry).unwrap();
        let file = std::sync::Arc::clone(disk.file());
        let mut store = Store::format(disk, &Options::new(StoreId([1; 16]))).unwrap();
        let old = open(&medium, &path).unwrap();
        for value in [b"what is lost", b"what is left"] {
            store.put(&Key::parse("/state/a").unwrap(), value).unwrap();
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(12).position(|bytes| bytes == b"what is lost").unwrap();
        bytes[at] ^= 1;
        let block = at / 512 * 512;
        assert_eq!(file.write_at(u64::try_from(block).unwrap(), &bytes[block..block + 512]).unwrap(), 512);
        file.lock(media::LockWait::DoNotWait).unwrap();
        assert!(matches!(look_again(&medium, &path, &old), Ok(None)), "somebody writes");
        file.unlock().unwrap();
        assert_eq!(look_again(&medium, &path, &old).unwrap_err().exit(), Exit::Corrupt);
    }
}
