//! The part of the demonstration that is about the key/value store.

use std::path::Path;
use std::time::Instant;

use media::{BlockDevice, FileDisk};
use statefs::{Batch, Error, Health, Precondition, Prefix, Store, fsck};

use super::{image, key_of};
use crate::commands::selfcheck::time_words;
use crate::failure::{Failure, Outcome};
use crate::medium::Medium;
use crate::output::Output;

const IMAGE_LEN: u64 = 4 << 20;
const BLOCK_SIZE: u32 = 4096;

/// Makes a store in an image, works with it, and looks at it as somebody would who has just found it.
pub(in crate::commands) fn demonstrate(path: &Path, medium: &Medium, output: &Output) -> Outcome<()> {
    let fail = |error: Error| Failure::state(path, error);
    let geometry = image::geometry(IMAGE_LEN, BLOCK_SIZE)?;
    image::create(medium, output, path, geometry, |disk, options| {
        Store::format(disk, options).and_then(Store::close).map_err(fail)
    })?;
    let mut store = image::writer(medium, path)?;
    let slot = key_of("/state/boot/slot")?;
    let begun = Instant::now();
    let first = store.put(&slot, b"a").map_err(fail)?;
    output.line(format_args!(
        "put {slot} = a in {}: durable, revision {}. One barrier.",
        time_words(begun.elapsed()),
        first.get()
    ))?;
    let mut batch = Batch::new();
    for (key, value) in [("/state/boot/tries", "3"), ("/state/net/name", "lab-7"), ("/state/net/dhcp", "yes")]
    {
        batch.put(&key_of(key)?, value.as_bytes()).map_err(fail)?;
    }
    let _revision = store.batch(&batch).map_err(fail)?;
    output.line("  A batch of 3 keys: one barrier, and all of them or none, whenever the power fails.")?;
    conflict(&mut store, path, output)?;
    list(&store, path, output)?;
    // Not closed: as after a power cut, whoever looks next finds out how it ended.
    drop(store);
    let disk = image::open(medium, path)?.to_read()?;
    let found = fsck(disk).map_err(|error| Failure::state(path, error))?;
    let health = match found.health {
        Health::Clean => "clean",
        Health::TornTail => "a torn tail",
        Health::Damaged => return Err(Failure::not_so("the store of the demonstration is damaged")),
    };
    output.line(format_args!(
        "  fsck, with the store never closed: {health}, {} keys, {} frames read. (steadfast state fsck {})",
        found.recovery.live_keys,
        found.recovery.frames_replayed,
        path.display()
    ))
}

/// Two who read the same revision: the second is refused.
fn conflict(store: &mut Store<FileDisk>, path: &Path, output: &Output) -> Outcome<()> {
    let fail = |error: Error| Failure::state(path, error);
    let slot = key_of("/state/boot/slot")?;
    let Some(read) = store.get(&slot).map(|value| value.revision) else {
        return Err(Failure::not_so("the slot that was put is not there"));
    };
    let _revision = store.compare_and_swap(&slot, Precondition::RevisionIs(read), b"b").map_err(fail)?;
    match store.compare_and_swap(&slot, Precondition::RevisionIs(read), b"c") {
        Err(error @ Error::Conflict { .. }) => output.line(format_args!(
            "  Compare-and-swap, twice from revision {}: the first is done, the second is told: {error}.",
            read.get()
        )),
        Err(error) => Err(fail(error)),
        Ok(_) => Err(Failure::not_so("a compare-and-swap from an old revision was carried out")),
    }
}

fn list<D: BlockDevice>(store: &Store<D>, path: &Path, output: &Output) -> Outcome<()> {
    let page = store.list(&Prefix::root(), None, usize::MAX).map_err(|error| Failure::state(path, error))?;
    let keys: Vec<&str> = page.entries.iter().map(|entry| entry.key).collect();
    output.line(format_args!("  In order: {}", keys.join(" ")))
}
