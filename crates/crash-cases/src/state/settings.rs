//! What a store is told about prefixes: quotas, sealed prefixes and their rotation; and the scrub, which is about what is on
//! the medium as sealing is.

use crashsim::{Cell, DiskImage, Expected, Life, Recording, SimDisk, Value};
use media::Geometry;
use statefs::{
    Error, Form, Key, NoRandom, Nonces, Prefix, Quota, Rotation, Scrub, SealKey, Store, Zeroizing,
};

use super::{Before, Ended, Outcome, Script, Told, options, unless_full};

/// What is put below sealed prefixes, and never stands on the medium.
const SEALED: &[u8] = b"A SEALED SECRET";
/// What is put elsewhere, deleted, and made to go.
const PLAIN: &[u8] = b"A PLAIN SECRET, LONG ENOUGH TO BE TORN IN TWO";

const QUOTA_OF: &str = "quota of ";
const KEY_OF: &str = "key of ";
/// Beside the settings: whether there may still be bytes of what was deleted.
const MEDIUM: &str = "what was deleted is on the medium";

pub(super) const SCRIPTS: [Script; 10] = [
    of_settings(
        "state-quota",
        "set quotas, change one between the steps of a compaction, and remove them",
        40,
        |told| {
            told.set_quota("/state", Quota { soft: Some(1), hard: None, keys: Some(7) })?;
            told.put("/state/q/a", b"1")?;
            told.set_quota("/state/q", hard(40))?;
            told.remove_quota("/state")?;
            told.compact(|told, _| told.set_quota("/state/q", hard(30)))?;
            told.remove_quota("/state/q")
        },
    ),
    of_settings(
        "state-quota-limit",
        "fill a quota to its limit with puts, buffered puts and a batch",
        44,
        |told| {
            told.put("/state/q/a", &[1; 190])?;
            is_refused(told.put("/state/q/b", b"1"))?;
            told.put("/state/q/a", &[2; 100])?;
            told.put_buffered("/state/q/b", &[3; 80])?;
            is_refused(told.put_buffered("/state/q/b", &[4; 81]))?;
            told.sync()?;
            told.batch(&[("/state/q/a", None), ("/state/q/b", Some(&[5; 190]))])?;
            told.delete("/state/q/b")
        },
    ),
    of_settings(
        "state-quota-below",
        "set a quota below what is there, and change keys between the steps of a compaction",
        44,
        |told| {
            told.put("/state/q/a", &[1; 150])?;
            told.set_quota("/state/q", hard(100))?;
            is_refused(told.put("/state/q/b", b"1"))?;
            told.compact(|told, nth| match nth {
                0 => told.put("/state/q/a", &[2; 120]),
                1 => told.delete("/state/q/a"),
                _ => told.swap("/state/q/b", &[nth; 80]),
            })
        },
    ),
    of_settings("state-sealed", "put below a sealed prefix in every way there is", 48, |told| {
        told.put("/state/s/a", &SEALED.repeat(2))?;
        told.put_buffered("/state/s/b", SEALED)?;
        told.put_buffered("/state/s/b", &SEALED.repeat(20))?;
        told.sync()?;
        told.batch(&[("/state/s/a", None), ("/state/s/b", Some(SEALED)), ("/state/a", Some(b"1"))])?;
        told.swap("/state/s/a", &SEALED.repeat(3))?;
        told.compact(|told, nth| told.put_buffered("/state/s/b", &SEALED.repeat(usize::from(nth) + 1)))?;
        told.delete("/state/s/a")
    }),
    of_settings(
        "state-sealed-prefix",
        "seal a prefix, use it, unseal it, and seal it with another key",
        44,
        |told| {
            told.seal("/state/t", 3)?;
            told.put("/state/t/a", SEALED)?;
            told.put_buffered("/state/a", b"1")?;
            told.delete("/state/t/a")?;
            told.unseal("/state/t")?;
            told.put("/state/t/a", b"plain")?;
            told.delete("/state/t/a")?;
            told.seal("/state/t", 2)
        },
    ),
    of_settings(
        "state-rotate",
        "rotate the key of a sealed prefix with puts between the steps, and once more",
        56,
        |told| {
            told.put("/state/s/b", &SEALED.repeat(10))?;
            told.rotate("/state/s", 2, |told, nth| match nth {
                0 => told.put_buffered("/state/s/a", &SEALED.repeat(2)),
                _ => told.put("/state/a", &[nth]),
            })?;
            told.put("/state/s/a", SEALED)?;
            told.rotate("/state/s", 3, |_, _| Ok(()))
        },
    ),
    of_settings("state-rotate-compact", "rotate a key and compact, step by step", 52, |told| {
        told.put("/state/s/b", &SEALED.repeat(10))?;
        told.rotate("/state/s", 2, |told, _| told.store.compact_step().map(drop).map_err(Ended::from))?;
        told.compact(|_, _| Ok(()))
    }),
    of_settings("state-scrub", "delete a key in both regions, and scrub", 32, |told| {
        told.put("/state/secret", PLAIN)?;
        told.delete("/state/secret")?;
        told.compact(|_, _| Ok(()))?;
        told.put("/state/secret", PLAIN)?;
        told.delete("/state/secret")?;
        told.scrub(|_, _| Ok(()))?;
        told.put("/state/a", b"1")
    }),
    of_settings(
        "state-scrub-given-up",
        "scrub what a compaction that was given up has left, and compact",
        40,
        |told| {
            told.put("/state/secret", PLAIN)?;
            for _ in 0..3 {
                let _progress = told.store.compact_step()?;
            }
            told.reopen()?;
            told.delete("/state/secret")?;
            told.scrub(|_, _| Ok(()))?;
            told.compact(|_, _| Ok(()))
        },
    ),
    of_settings(
        "state-scrub-between",
        "change keys between the steps of a scrub that finds a compaction begun",
        44,
        |told| {
            told.put("/state/secret", &PLAIN.repeat(12))?;
            told.put_buffered("/state/secret", PLAIN)?;
            told.delete("/state/secret")?;
            // Into the other region a copy is begun, and a commit between.
            let _progress = told.store.compact_step()?;
            told.scrub(|told, nth| match nth % 3 {
                0 => told.put("/state/a", &[nth]),
                1 => told.put_buffered("/state/s/a", &SEALED.repeat(2)),
                _ => Ok(()),
            })?;
            told.sync()
        },
    ),
];

const fn of_settings(
    name: &'static str,
    about: &'static str,
    blocks: u64,
    run: fn(&mut Told<'_>) -> Outcome,
) -> Script {
    Script::new(name, about, blocks, run).beginning(with_settings).living_on(finish_rotations)
}

/// A store with a quota and a sealed prefix.
fn with_settings(geometry: Geometry) -> Before {
    let disk = SimDisk::mount(DiskImage::new(geometry), Recording::Off);
    let mut store = Store::format(disk.clone(), &options())?;
    unlock(&mut store)?;
    let (with_quota, sealed) = (Prefix::parse("/state/q")?, Prefix::parse("/state/s")?);
    let _revision = store.put(&Key::parse("/state/a")?, b"zero")?;
    let _revision = store.set_quota(&with_quota, hard(200))?;
    let _revision = store.seal_prefix(&sealed, seal_key(1))?;
    let _revision = store.put(&Key::parse("/state/s/a")?, SEALED)?;
    let cells = vec![
        ("/state/a".into(), Some(Value::bytes(b"zero"))),
        ("/state/s/a".into(), Some(Value::bytes(SEALED))),
        (quota_cell(&with_quota), Some(quota_value(hard(200)))),
        (key_cell(&sealed), Some(key_value(1))),
        (MEDIUM.into(), Some(Value::bytes(b"perhaps"))),
    ];
    Ok((disk.image(), cells))
}

/// A rotation that was cut short is carried to its end.
fn finish_rotations(told: &mut Told<'_>, life: Life) -> Outcome {
    if life.boot >= 3 {
        return Ok(());
    }
    let sealed: Vec<_> = told.store.sealed_prefixes().map(|(prefix, id)| (prefix.clone(), id)).collect();
    for (prefix, id) in sealed {
        unless_full(told.store.rotate(&prefix, seal_key(id)).map_err(Ended::from))?;
        if told.store.rotate_step(&prefix)? != Rotation::Finished {
            return Err(Ended::Unplanned("the rotation of a recovery does not end"));
        }
    }
    unless_full(told.put(if life.boot < 2 { "/state/s/life" } else { "/state/q/life" }, b"1"))
}

fn hard(limit: u64) -> Quota {
    Quota { hard: Some(limit), ..Quota::default() }
}

fn is_refused(outcome: Outcome) -> Outcome {
    match outcome {
        Err(Ended::Store(Error::QuotaExceeded { .. } | Error::QuotaKeysExceeded { .. })) => Ok(()),
        Err(ended) => Err(ended),
        Ok(()) => Err(Ended::Unplanned("unplanned: a quota lets too much pass")),
    }
}

/// A number that no two nonces of a store have: the revision at open, and a count.
struct Counting {
    opened_at: u64,
    count: u64,
}

impl Nonces for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        self.count += 1;
        bytes.fill(0);
        let number = self.opened_at.to_le_bytes().into_iter().chain(self.count.to_le_bytes());
        bytes.iter_mut().zip(number).for_each(|(byte, of_number)| *byte = of_number);
        Ok(())
    }
}

fn seal_key(id: u32) -> SealKey {
    SealKey::new(id, Zeroizing::new([u8::try_from(id).unwrap_or(0); 32]))
}

/// Gives a store its nonces, and every key there is.
///
/// # Errors
/// Those of [`Store::unlock`]: no key fits.
pub(super) fn unlock(store: &mut Store<SimDisk>) -> Result<(), Error> {
    store.set_nonces(Box::new(Counting { opened_at: store.durable_revision().get(), count: 0 }));
    let sealed: Vec<Prefix> = store.sealed_prefixes().map(|(prefix, _)| prefix.clone()).collect();
    for prefix in sealed {
        // While a rotation runs there are two that fit.
        let outcomes = [1, 2, 3].into_iter().map(|id| store.unlock(&prefix, seal_key(id)));
        outcomes.reduce(Result::or).unwrap_or(Ok(()))?;
    }
    Ok(())
}

fn quota_cell(prefix: &Prefix) -> Cell {
    format!("{QUOTA_OF}{prefix}").into()
}

fn quota_value(quota: Quota) -> Value {
    Value::bytes(format!("{quota:?}").as_bytes())
}

fn key_cell(prefix: &Prefix) -> Cell {
    format!("{KEY_OF}{prefix}").into()
}

fn key_value(id: u32) -> Value {
    Value::bytes(&id.to_le_bytes())
}

impl Told<'_> {
    fn set_quota(&mut self, name: &str, quota: Quota) -> Outcome {
        let prefix = Prefix::parse(name)?;
        let atom = vec![(quota_cell(&prefix), Some(quota_value(quota)))];
        self.tell(&format!("set quota {name}"), vec![atom], |store| store.set_quota(&prefix, quota)).map(drop)
    }

    fn remove_quota(&mut self, name: &str) -> Outcome {
        let prefix = Prefix::parse(name)?;
        let atom = vec![(quota_cell(&prefix), None)];
        self.tell(&format!("remove quota {name}"), vec![atom], |store| store.remove_quota(&prefix)).map(drop)
    }

    fn seal(&mut self, name: &str, id: u32) -> Outcome {
        let prefix = Prefix::parse(name)?;
        let atom = vec![(key_cell(&prefix), Some(key_value(id)))];
        let seal = |store: &mut Store<SimDisk>| store.seal_prefix(&prefix, seal_key(id)).map(drop);
        self.tell(&format!("seal {name}"), vec![atom], seal)
    }

    fn unseal(&mut self, name: &str) -> Outcome {
        let prefix = Prefix::parse(name)?;
        let atom = vec![(key_cell(&prefix), None)];
        self.tell(&format!("unseal {name}"), vec![atom], |store| store.unseal_prefix(&prefix)).map(drop)
    }

    /// A whole rotation with something between its steps.
    fn rotate(&mut self, name: &str, id: u32, mut between: impl FnMut(&mut Self, u8) -> Outcome) -> Outcome {
        let prefix = Prefix::parse(name)?;
        let atom = vec![(key_cell(&prefix), Some(key_value(id)))];
        self.tell(&format!("begin to rotate {name}"), vec![atom], |store| {
            store.begin_rotation(&prefix, seal_key(id))
        })?;
        for nth in 0..20 {
            // What it writes is what is there; what was buffered becomes durable with it.
            let step = self.tell("step of a rotation", Vec::new(), |store| store.rotate_step(&prefix))?;
            if step == Rotation::Finished {
                return Ok(());
            }
            between(self, nth)?;
        }
        Err(Ended::Unplanned("unplanned: a rotation does not end"))
    }

    /// A whole scrub with something between its steps.
    fn scrub(&mut self, mut between: impl FnMut(&mut Self, u8) -> Outcome) -> Outcome {
        for nth in 0..60 {
            if self.store.scrub_step()? == Scrub::Finished {
                // It was done before this is said: a cut here finds it done.
                return self.tell("scrubbed", vec![vec![(MEDIUM.into(), None)]], |_| Ok(()));
            }
            between(self, nth)?;
        }
        Err(Ended::Unplanned("unplanned: a scrub does not end"))
    }
}

/// Whether something is about a setting, or about the medium.
pub(super) fn is_cell(cell: &str) -> bool {
    cell == MEDIUM || cell.starts_with(QUOTA_OF) || cell.starts_with(KEY_OF)
}

/// What stands in such a cell.
pub(super) fn look(disk: &SimDisk, store: &Store<SimDisk>, cell: &str, expected: &Expected) -> Option<Value> {
    if cell == MEDIUM {
        // Only a scrub that was acknowledged says that it is not.
        let must_be_gone = expected.allowed(cell).iter().all(Option::is_none);
        return (!must_be_gone || has(disk, PLAIN)).then(|| Value::bytes(b"perhaps"));
    }
    if let Some(name) = cell.strip_prefix(QUOTA_OF) {
        return store
            .quotas()
            .find(|quota| quota.prefix.as_str() == name)
            .map(|found| quota_value(found.quota));
    }
    let name = cell.strip_prefix(KEY_OF)?;
    store.sealed_prefixes().find(|(prefix, _)| prefix.as_str() == name).map(|(_, id)| key_value(id))
}

/// Whether the medium has these bytes anywhere. One that cannot be read has everything.
fn has(disk: &SimDisk, needle: &[u8]) -> bool {
    let Ok(bytes) = disk.image().to_bytes() else { return true };
    // Wherever it stands, one byte of it is in such a place: most of a medium is passed over, image after image.
    let places = bytes.chunks_exact(needle.len()).enumerate();
    places.filter(|(_, chunk)| chunk.last().is_some_and(|last| needle.contains(last))).any(|(nth, _)| {
        let at = nth * needle.len() + needle.len() - 1;
        let (begin, end) = ((at + 1).saturating_sub(needle.len()), (at + needle.len()).min(bytes.len()));
        let around = bytes.get(begin..end).unwrap_or_default();
        around.windows(needle.len()).any(|window| window == needle)
    })
}

/// Returns the value of a key as it was put, decrypted if its prefix is sealed.
///
/// # Errors
/// As [`Store::reveal`].
pub(super) fn plain_value(store: &Store<SimDisk>, key: &Key) -> Result<Option<Vec<u8>>, Error> {
    let is_covered = store.sealed_prefixes().any(|(prefix, _)| prefix.covers(key));
    match store.get(key) {
        Some(value) if value.form == Form::Plain && !is_covered => Ok(Some(value.bytes.to_vec())),
        Some(_) => Ok(store.reveal(key)?.map(|value| value.to_vec())),
        None => Ok(None),
    }
}

/// What is wrong with what a store says of its prefixes.
pub(super) fn contradiction(disk: &SimDisk, store: &Store<SimDisk>) -> Option<String> {
    for quota in store.quotas() {
        let covered = store.iter().filter(|(key, _)| quota.prefix.covers(key));
        let (bytes, keys) = covered.fold((0, 0), |(bytes, keys), (key, value)| {
            (bytes + key.as_str().len() + value.bytes.len(), keys + 1)
        });
        if (quota.used_bytes, quota.used_keys) != (u64::try_from(bytes).unwrap_or(u64::MAX), keys) {
            return Some(format!("{quota:?}, and counted {bytes} bytes, {keys} keys"));
        }
    }
    let sealed: Vec<&Prefix> = store.sealed_prefixes().map(|(prefix, _)| prefix).collect();
    for (key, value) in store.iter() {
        let is_covered = sealed.iter().any(|prefix| prefix.covers(&key));
        if (value.form == Form::Sealed) != is_covered {
            return Some(format!("{key} is {:?}", value.form));
        }
        if let Err(error) = plain_value(store, &key) {
            return Some(error.to_string());
        }
    }
    // What follows reads the whole medium, which is for the cases in which something is sealed.
    if sealed.is_empty() {
        return None;
    }
    if has(disk, SEALED) {
        return Some("a sealed value stands on the medium as it was put".to_owned());
    }
    match store.verify() {
        Ok(verified) if verified.is_sound() => None,
        Ok(verified) => Some(format!("{verified:?}")),
        Err(error) => Some(error.to_string()),
    }
}

/// Every quota and every sealed prefix.
pub(super) fn everything(store: &Store<SimDisk>) -> Vec<String> {
    let quotas = store.quotas().map(|quota| format!("{quota:?}"));
    quotas.chain(store.sealed_prefixes().map(|(prefix, id)| format!("{prefix} {id}"))).collect()
}

#[cfg(test)]
mod tests {
    use media::{BlockDevice as _, BlockIndex};

    use super::*;
    use crate::state::geometry;

    #[test]
    fn a_secret_is_found_wherever_it_stands() {
        for needle in [SEALED, PLAIN] {
            for at in 0..=512 - needle.len() {
                for block in [0, 3] {
                    let disk = SimDisk::new(geometry(4));
                    let mut bytes = [0; 512];
                    bytes[at..at + needle.len()].copy_from_slice(needle);
                    disk.write(BlockIndex::new(block), &bytes).unwrap();
                    assert!(has(&disk, needle), "{block} {at}");
                    bytes[at + needle.len() - 1] = 0;
                    disk.write(BlockIndex::new(block), &bytes).unwrap();
                    assert!(!has(&disk, needle), "{block} {at}");
                }
            }
        }
    }
}
