//! [`Judge`]: what must be true of an image, whatever has happened to it.

use std::collections::{BTreeMap, BTreeSet};

use journal::{Journal, JournalError, frame};
use media::{BlockDevice as _, BlockIndex};
use statefs::{
    Access, Certainty, Check, Error, ErrorKind, Health, Key, Prefix, Recovery, Salvaged, Store, StoreId,
    Suspects, Verdict, fsck, salvage,
};

use crate::disk::ImageDisk;
use crate::samples::{BLOCK, End, Sample, options, owner};

/// What an image turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nothing is missing.
    Clean,
    /// What was never promised is missing.
    TornTail,
    /// It is reported as damaged.
    Damaged,
    /// It is not opened, and the reason is named.
    Refused,
}

/// Where an image has been damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// In one block, or in none.
    One,
    /// In two.
    Two,
    /// Nobody knows.
    Any,
}

/// How much is asked of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// It is opened to be read; every key is asked for.
    Look,
    /// Also: listed, checked, salvaged twice, opened to be written, written to, compacted, and opened again.
    Everything,
}

/// Revisions of the keys that have a value.
type State = BTreeMap<String, u64>;

/// Knows the history of a sample, and judges what becomes of its image.
///
/// Let *W* be the highest watermark that any valid block of the image has, wherever it stands; in a store that was closed,
/// let it be the last sequence number that was given out. Then:
///
/// 1. **No wrong values.** Whatever is returned for a key, with whatever certainty, has been put for that key, with
///    that revision. What a later open has discarded is returned only as a suspect: nothing of that open may be left.
/// 2. **Not damaged means whole.** If the verdict is no damage, the content is exactly what it was after some frame of the
///    history, and no frame behind that one is at or below *W*.
/// 3. **Certain means newest.** A key that is certain has a value, and no change of that key at or below *W*
///    is newer than it. (So what was deleted at or below *W* never comes back as certain.)
/// 4. **Damage is reported with its range.** A change at or below *W* that is not in the content is of a frame at or behind the
///    first that the verdict names; where a single place is damaged, also at or before the last that it names.
/// 5. **A torn tail is not refused.** If every block that holds something at or below the watermark of the sample is as
///    it was, and one of its roots is, then the store opens, is not damaged, and can be written to.
/// 6. **Never refused in between.** It is not opened only where both roots in force are hit.
/// 7. **Reading writes nothing**, and an open to be written writes nothing to a damaged store.
/// 8. **Bounded.** The device is asked for no more blocks than a few times its size, in no more than a few calls for each
///    block; no more keys and bytes are held than it could hold.
/// 9. **Life goes on.** What is opened for writing holds what a reader saw, takes a put, survives a compaction, and what had
///    been discarded does not come back.
/// 10. **Tools agree.** The listing, the dump, the check and what is salvaged say the same as the store.
#[derive(Debug)]
pub struct Judge<'s> {
    sample: &'s Sample,
    /// After each frame of the history, and before the first.
    states: Vec<State>,
    values: BTreeMap<u64, (&'s str, &'s [u8])>,
    tried: BTreeSet<(&'s str, &'s [u8])>,
    keys: BTreeSet<&'s str>,
    /// Blocks that hold something at or below the watermark.
    vital: Vec<usize>,
    /// The slots of the root in force.
    roots: [usize; 2],
}

/// What a reader sees.
struct Seen {
    state: State,
    recovery: Recovery,
    certain: BTreeSet<String>,
}

/// Why there is nothing to see.
enum Unseen {
    /// It is not opened.
    Refused(Error),
    /// A promise is broken.
    Broken(String),
}

impl Unseen {
    fn in_words(self) -> String {
        match self {
            Self::Refused(error) => error.to_string(),
            Self::Broken(what) => what,
        }
    }
}

macro_rules! demand {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

impl<'s> Judge<'s> {
    /// A judge of what becomes of a sample.
    #[must_use]
    pub fn new(sample: &'s Sample) -> Self {
        let mut states = vec![State::new()];
        let (mut values, mut keys) = (BTreeMap::new(), BTreeSet::new());
        for frame in &sample.history {
            let mut state = states.last().cloned().unwrap_or_default();
            for change in &frame.changes {
                keys.insert(change.key.as_str());
                match &change.value {
                    Some(value) => {
                        values.insert(change.revision, (change.key.as_str(), value.as_slice()));
                        state.insert(change.key.clone(), change.revision);
                    }
                    None => drop(state.remove(&change.key)),
                }
            }
            states.push(state);
        }
        let tried: BTreeSet<_> =
            sample.tried.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        keys.extend(tried.iter().map(|(key, _)| *key));
        let disk = ImageDisk::new(sample.geometry, sample.bytes.clone());
        let opened = Journal::open(&disk, Access::Read, &mut |_| Ok::<_, JournalError>(())).unwrap();
        let (journal, report) = (opened.journal, opened.report);
        let promised = covered(&sample.bytes);
        let mut vital = Vec::new();
        let mut is_copied = true;
        for at in 0..report.used_blocks {
            let at = usize::try_from(journal.address(at).get()).unwrap();
            let Some(header) = header_at(&sample.bytes, at) else { continue };
            if is_copied || header.seq <= promised {
                vital.push(at);
            }
            is_copied &= header.kind != journal::Kind::Closing;
        }
        let generation = report.generation - u64::from(report.switch_finished);
        let last = usize::try_from(2 + 2 * journal.layout().region_blocks()).unwrap();
        let roots = if generation.is_multiple_of(2) { [0, last] } else { [1, last + 1] };
        Self { sample, states, values, tried, keys, vital, roots }
    }

    /// How much can be asked of what becomes of the sample. One that was drawn by chance may have limits other than those of
    /// the stores that a judge salvages into.
    #[must_use]
    pub fn depth_max(&self) -> Depth {
        if self.sample.tried.is_empty() { Depth::Everything } else { Depth::Look }
    }

    /// Judges an image that came about from the sample.
    ///
    /// # Errors
    /// In words, which promise is broken.
    pub fn judge(&self, disk: &ImageDisk, places: Places, depth: Depth) -> Result<Outcome, String> {
        let promised = match self.sample.end {
            End::Cut => disk.tamper(|bytes| watermark(bytes)),
            End::Closed => u64::MAX,
        };
        disk.take_asked();
        let seen = match self.look(disk, Access::Read) {
            Ok(seen) => seen,
            Err(Unseen::Refused(error)) => return self.refused(disk, places, &error),
            Err(Unseen::Broken(what)) => return Err(what),
        };
        self.is_bounded(disk, &seen)?;
        self.is_as_promised(&seen, promised, places)?;
        if self.is_vital_intact(disk) {
            let is_damaged = matches!(seen.recovery.tail, Verdict::Damaged { .. });
            demand!(!is_damaged, "rule 5: a torn tail is taken for damage: {:?}", seen.recovery);
        }
        if depth == Depth::Everything {
            Self::tools_agree(disk, &seen)?;
            self.goes_on(disk, &seen)?;
        }
        Ok(match seen.recovery.tail {
            Verdict::Clean => Outcome::Clean,
            Verdict::TornTail { .. } => Outcome::TornTail,
            Verdict::Damaged { .. } => Outcome::Damaged,
        })
    }

    fn refused(&self, disk: &ImageDisk, places: Places, error: &Error) -> Result<Outcome, String> {
        let is_hit =
            |&root: &usize| disk.tamper(|bytes| block(bytes, root) != block(&self.sample.bytes, root));
        demand!(self.roots.iter().all(is_hit), "rule 6: refused, though a root is there: {error}");
        // With enough of it gone there is nothing left that looks like a store.
        let is_told = error.kind() == ErrorKind::Corrupt || places == Places::Any;
        demand!(is_told, "rule 6: lost roots are told from no store: {error}");
        Ok(Outcome::Refused)
    }

    fn is_vital_intact(&self, disk: &ImageDisk) -> bool {
        let is_same = |&at: &usize| disk.tamper(|bytes| block(bytes, at) == block(&self.sample.bytes, at));
        self.vital.iter().all(is_same) && self.roots.iter().any(is_same)
    }

    /// Opens it and asks for every key there ever was.
    fn look(&self, disk: &ImageDisk, access: Access) -> Result<Seen, Unseen> {
        let (store, recovery) = Store::open(disk, access).map_err(Unseen::Refused)?;
        let mut certain = BTreeSet::new();
        let mut state = State::new();
        for name in &self.keys {
            let key = Key::parse(name).unwrap();
            if store.certainty(&key) == Certainty::Certain {
                certain.insert((*name).to_owned());
            }
            if let Some(value) = store.get(&key) {
                let found = (*name, value.bytes);
                let is_history = self.values.get(&value.revision.get()) == Some(&found);
                if !is_history && self.tried.contains(&found) {
                    if value.certainty == Certainty::Certain {
                        return Err(Unseen::Broken(format!("rule 1: `{name}` was discarded: {recovery:?}")));
                    }
                } else if !is_history {
                    return Err(Unseen::Broken(format!("rule 1: nobody put {:?} as `{name}`", value.bytes)));
                }
                state.insert((*name).to_owned(), value.revision.get());
            }
        }
        let live = u64::try_from(state.len()).unwrap();
        if recovery.live_keys != live {
            return Err(Unseen::Broken(format!("rule 1: there are keys that nobody put: {recovery:?}")));
        }
        Ok(Seen { state, recovery, certain })
    }

    fn is_bounded(&self, disk: &ImageDisk, seen: &Seen) -> Result<(), String> {
        let (asked, blocks) = (disk.take_asked(), self.sample.geometry.block_count());
        demand!(asked.writes + asked.flushes == 0, "rule 7: reading writes: {asked:?}");
        // The other region's header, that region, and the one in force twice; blocks behind damage once more.
        demand!(asked.blocks_read <= 4 * blocks && asked.reads <= 2 * blocks, "rule 8: {asked:?}");
        let room = self.sample.geometry.byte_len();
        let recovery = &seen.recovery;
        demand!(recovery.live_bytes <= room && recovery.live_keys <= room / 9, "rule 8: {recovery:?}");
        Ok(())
    }

    fn is_as_promised(&self, seen: &Seen, promised: u64, places: Places) -> Result<(), String> {
        let recovery = &seen.recovery;
        let Verdict::Damaged { first_lost, last_lost, .. } = recovery.tail else {
            let is_whole = self.states.iter().enumerate().rev().any(|(count, state)| {
                let lost = self.sample.history.get(count);
                *state == seen.state && lost.is_none_or(|frame| frame.seq > promised)
            });
            demand!(is_whole, "rule 2: lost in silence: {:?}, promised {promised}: {recovery:?}", seen.state);
            demand!(seen.certain.len() == self.keys.len(), "rule 2: suspect without damage: {recovery:?}");
            return Ok(());
        };
        demand!(recovery.read_only.is_some(), "a damaged store may be written to: {recovery:?}");
        for frame in self.sample.history.iter().filter(|frame| frame.seq <= promised) {
            for change in &frame.changes {
                let found = seen.state.get(&change.key);
                let is_there = found.is_some_and(|&found| found >= change.revision)
                    || (found.is_none() && change.value.is_none());
                if is_there {
                    continue;
                }
                let (key, seq) = (&change.key, frame.seq);
                // What was deleted later is not missing.
                let is_gone = found.is_none() && self.is_deleted_after(key, change.revision);
                if !is_gone {
                    demand!(first_lost <= seq, "rule 4: `{key}` of {seq} is lost: {recovery:?}");
                    demand!(
                        places != Places::One || seq <= last_lost,
                        "rule 4: `{key}` of {seq} is lost: {recovery:?}"
                    );
                }
                demand!(
                    !seen.certain.contains(key),
                    "rule 3: `{key}` is not the newest, {seq} is: {recovery:?}"
                );
            }
        }
        for key in &seen.certain {
            demand!(seen.state.contains_key(key), "rule 3: in a damaged store `{key}` is absent for certain");
        }
        Ok(())
    }

    fn is_deleted_after(&self, key: &str, revision: u64) -> bool {
        let changes = self.sample.history.iter().flat_map(|frame| &frame.changes);
        changes.filter(|change| change.key == key && change.revision > revision).any(|c| c.value.is_none())
    }

    /// Listing, dump, check and salvage.
    fn tools_agree(disk: &ImageDisk, seen: &Seen) -> Result<(), String> {
        let (store, _) = Store::open(disk, Access::Read).map_err(|error| error.to_string())?;
        let dump: State =
            store.iter().map(|(key, value)| (key.as_str().to_owned(), value.revision.get())).collect();
        demand!(dump == seen.state, "rule 10: the dump says {dump:?}");
        let mut listed = State::new();
        let mut after = None;
        for _ in 0..=seen.state.len() {
            let page = store.list(&Prefix::root(), after.as_ref(), 3).map_err(|error| error.to_string())?;
            listed.extend(page.entries.iter().map(|entry| (entry.key.to_owned(), entry.revision.get())));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        demand!(after.is_none() && listed == seen.state, "rule 10: the listing says {listed:?}");
        let check: Check = fsck(disk).map_err(|error| error.to_string())?;
        let is_damaged = matches!(seen.recovery.tail, Verdict::Damaged { .. });
        demand!((check.health == Health::Damaged) == is_damaged, "rule 10: {check:?}");
        demand!(check.lost.is_some() == (seen.recovery.tail != Verdict::Clean), "rule 10: {check:?}");
        let certain: State = seen
            .state
            .iter()
            .filter(|(key, _)| seen.certain.contains(*key))
            .map(|(key, revision)| (key.clone(), *revision))
            .collect();
        for (suspects, wanted) in [(Suspects::Leave, &certain), (Suspects::Take, &seen.state)] {
            let to = ImageDisk::new(disk.geometry(), vec![0; disk.image().len()]);
            let saved =
                salvage(disk, &to, &options(StoreId([6; 16])), suspects).map_err(|e| e.to_string())?;
            let Salvaged { certain, suspect_taken, .. } = saved;
            let (other, recovery) = Store::open(&to, Access::Read).map_err(|error| error.to_string())?;
            demand!(recovery.was_sealed && recovery.tail == Verdict::Clean, "rule 10: {recovery:?}");
            demand!(certain + suspect_taken == recovery.live_keys, "rule 10: {saved:?}");
            let is_same = |(key, value): (Key, statefs::Value<'_>)| {
                wanted.contains_key(key.as_str())
                    && store.get(&key).is_some_and(|original| original.bytes == value.bytes)
            };
            let count = other.iter().count();
            demand!(count == wanted.len() && other.iter().all(is_same), "rule 10: salvaged {saved:?}");
        }
        let asked = disk.take_asked();
        demand!(asked.writes + asked.flushes == 0, "rule 7: a tool writes: {asked:?}");
        Ok(())
    }

    /// Opens a copy to write, and goes on.
    fn goes_on(&self, disk: &ImageDisk, seen: &Seen) -> Result<(), String> {
        let disk = &disk.copy();
        let again = self.look(disk, Access::Write).map_err(Unseen::in_words)?;
        demand!(again.state == seen.state, "rule 9: a writer sees {:?}", again.state);
        if matches!(seen.recovery.tail, Verdict::Damaged { .. }) {
            demand!(disk.take_asked().writes == 0, "rule 7: a damaged store is written to");
            return Ok(());
        }
        demand!(again.recovery.read_only.is_none(), "rule 5: it may not be written to: {:?}", again.recovery);
        let (mut store, _) = Store::open(disk, Access::Write).map_err(|error| error.to_string())?;
        let new = Key::parse("/state/new").unwrap();
        store.put(&new, b"new").map_err(|error| format!("rule 9: {error}"))?;
        for is_compacted in [false, true] {
            if is_compacted {
                while store.compact_step().map_err(|error| error.to_string())? == statefs::Compaction::Running
                {
                }
            }
            let (reader, recovery) = Store::open(disk, Access::Read).map_err(|error| error.to_string())?;
            let is_new_there = reader.get(&new).is_some_and(|value| value.bytes == b"new");
            let rest: State = reader
                .iter()
                .filter(|(key, _)| *key != new)
                .map(|(key, value)| (key.as_str().to_owned(), value.revision.get()))
                .collect();
            demand!(is_new_there && rest == seen.state, "rule 9: afterwards {rest:?}: {recovery:?}");
            demand!(recovery.suspect_keys == 0, "rule 9: {recovery:?}");
        }
        Ok(())
    }
}

fn block(bytes: &[u8], at: usize) -> &[u8] {
    &bytes[at * BLOCK..(at + 1) * BLOCK]
}

fn header_at(bytes: &[u8], at: usize) -> Option<frame::BlockHeader> {
    let address = BlockIndex::new(u64::try_from(at).unwrap());
    frame::decode(block(bytes, at), owner(), address).ok().map(|(header, _)| header)
}

/// The highest sequence number that blocks of the image show to be durable. A block of a copy that promises as much as it
/// can, one less than its own number, is of a copy of everything up to that number.
fn covered(bytes: &[u8]) -> u64 {
    let headers = (0..bytes.len() / BLOCK).filter_map(|at| header_at(bytes, at));
    let copies = headers.filter(|header| {
        matches!(header.kind, journal::Kind::Header | journal::Kind::Copied)
            && header.durable_seq + 1 == header.seq
    });
    copies.map(|header| header.seq).max().unwrap_or(0).max(watermark(bytes))
}

/// The highest watermark that any valid block of the image has.
fn watermark(bytes: &[u8]) -> u64 {
    let headers = (0..bytes.len() / BLOCK).filter_map(|at| header_at(bytes, at));
    headers.map(|header| header.durable_seq).max().unwrap_or(0)
}
