//! What the threads of one root share: the journal of intents, the window of changes that wait for their barriers, and names.

use std::sync::Arc;

use crash_recovery::parts::{Entry, SharedLedger, SharedNames, format, read};
use media::sync::atomic::{AtomicUsize, Ordering};
use media::sync::{caught, thread};
use media::{Geometry, MemDisk};

use crate::explore::{Scenario, Search};
use crate::medium::{BARRIERS, Call, Fault, How, Moment, Power, RecordingDisk};

pub(super) fn all() -> Vec<Scenario> {
    let mut all = vec![
        commits("ledger-2-commits-durable-writes", Search::All, Commits::of(2).durable_writes()),
        commits("ledger-2-commits-flushes", Search::All, Commits::of(2)),
        commits("ledger-3-commits", Search::Sampled, Commits::of(3)),
        commits(
            "ledger-4-commits-twice-slow",
            Search::Sampled,
            Commits::of(4).durable_writes().twice().slow(),
        ),
        complete("ledger-2-say-what-is-complete"),
        names("names-2-overlap", Search::All, &[&["a", "b"], &["b", "c"]]),
        names("names-3-ring", Search::Sampled, &[&["a", "b"], &["b", "c"], &["c", "a"]]),
    ];
    let faults = [
        ("ledger-3-first-barrier-fails", BARRIERS, 0, How::Fails),
        ("ledger-3-second-barrier-fails", BARRIERS, 1, How::Fails),
        ("ledger-3-second-barrier-fails-done", BARRIERS, 1, How::FailsAfter),
        ("ledger-3-open-record-panics", &[Call::Write][..], 0, How::Panics),
        ("ledger-3-first-barrier-panics", BARRIERS, 0, How::Panics),
        ("ledger-3-second-barrier-panics", BARRIERS, 1, How::Panics),
    ];
    all.extend(faults.map(|(name, on, nth, how)| {
        commits(name, Search::Sampled, Commits { fault: Some(Fault { on, nth, how }), ..Commits::of(3) })
    }));
    all
}

/// An empty journal.
pub(super) fn journal(durable_writes: bool, is_closed: bool) -> (Geometry, Vec<u8>) {
    let geometry = Geometry::new(512, 128).unwrap();
    let geometry = if durable_writes { geometry.with_write_durable() } else { geometry };
    let disk = MemDisk::new(geometry).unwrap();
    format(&disk, is_closed).unwrap();
    (geometry, bytes_of(&disk))
}

fn bytes_of(disk: &MemDisk) -> Vec<u8> {
    use media::BlockDevice as _;
    let mut bytes = vec![0; usize::try_from(disk.geometry().byte_len()).unwrap()];
    disk.read(media::BlockIndex::ZERO, &mut bytes).unwrap();
    bytes
}

/// What the journal of a power cut says.
pub(super) fn entries(geometry: Geometry, bytes: &[u8]) -> Result<Vec<Entry>, String> {
    use media::BlockDevice as _;
    let disk = MemDisk::new(geometry).unwrap();
    disk.write(media::BlockIndex::ZERO, bytes).unwrap();
    read(Arc::new(disk))
}

/// Threads that commit at the same time.
#[derive(Clone, Copy)]
struct Commits {
    threads: usize,
    each: usize,
    durable_writes: bool,
    is_slow: bool,
    fault: Option<Fault>,
}

impl Commits {
    fn of(threads: usize) -> Self {
        Self { threads, each: 1, durable_writes: false, is_slow: false, fault: None }
    }

    fn durable_writes(self) -> Self {
        Self { durable_writes: true, ..self }
    }

    fn twice(self) -> Self {
        Self { each: 2, ..self }
    }

    fn slow(self) -> Self {
        Self { is_slow: true, ..self }
    }
}

/// What a caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    /// The commit of this name is durable under this number.
    Committed { name: usize, number: u64 },
    /// An error, or a panic: it may be found or not.
    Failed { name: usize },
}

/// Every caller is answered; what was answered `Ok` is in the durable bytes of that moment and of each later one, under its
/// number; the journal has the numbers in order.
fn commits(name: &'static str, search: Search, commits: Commits) -> Scenario {
    let (geometry, bytes) = journal(commits.durable_writes, commits.fault.is_some());
    let power = Power::shared();
    let of_runs = Arc::clone(&power);
    let run = move || {
        let disk = RecordingDisk::holding(geometry, &bytes).with_power(&of_runs).forbidding_locks();
        let disk = Arc::new(if commits.is_slow { disk.slow() } else { disk });
        let ledger = Arc::new(SharedLedger::open(Arc::clone(&disk)).unwrap());
        if let Some(fault) = commits.fault {
            disk.arm(fault);
        }
        let threads: Vec<_> = (0..commits.threads)
            .map(|thread| {
                let (disk, ledger) = (Arc::clone(&disk), Arc::clone(&ledger));
                thread::spawn(move || {
                    for round in 0..commits.each {
                        commit(&disk, &ledger, thread * commits.each + round);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let told = disk.told();
        assert_eq!(told.len(), commits.threads * commits.each);
        let has_failed = told.iter().any(|told| matches!(told, Told::Failed { .. }));
        match commits.fault {
            None => assert!(!has_failed, "a commit failed although the device did not"),
            Some(fault) => assert!(has_failed || fault.nth > 0, "the device failed, and no commit did"),
        }
        // After a failure nothing is taken any more, and nobody waits for that either.
        if has_failed {
            assert!(ledger.commit("later").is_err(), "a commit after a failed barrier");
        }
    };
    let what = "what was answered Ok is durable at that moment; everybody is answered; numbers are in order";
    Scenario::new(name, what, search, run).judged(move || power.judge(|moment| judge(geometry, moment)))
}

fn commit(disk: &RecordingDisk<Told>, ledger: &SharedLedger<RecordingDisk<Told>>, name: usize) {
    match caught(|| ledger.commit(&format!("n{name}"))) {
        Ok(Ok(number)) => disk.tell(Told::Committed { name, number }),
        Ok(Err(_)) | Err(_) => disk.tell(Told::Failed { name }),
    }
}

/// Two threads commit and say what is complete, each twice. What was read before another thread said more is not written after it.
fn complete(name: &'static str) -> Scenario {
    let (geometry, bytes) = journal(true, false);
    let power = Power::shared();
    let of_runs = Arc::clone(&power);
    let run = move || {
        let disk = Arc::new(RecordingDisk::<()>::holding(geometry, &bytes).with_power(&of_runs));
        let ledger = Arc::new(SharedLedger::open(disk).unwrap());
        let threads = [0, 1].map(|thread| {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                for round in 0..2 {
                    let number = ledger.commit(&format!("n{thread}{round}")).unwrap();
                    ledger.in_place(number);
                    ledger.tell_done(ledger.in_place_up_to());
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        ledger.close().unwrap();
    };
    let what = "what the journal calls complete never goes back, which an open would take for damage";
    Scenario::new(name, what, Search::Sampled, run)
        .judged(move || power.judge(|moment| never_goes_back(&entries(geometry, &moment.bytes)?)))
}

/// An open takes it for damage, and the root is read-only then.
pub(super) fn never_goes_back(entries: &[Entry]) -> Result<(), String> {
    let done =
        entries.iter().filter_map(|entry| if let Entry::Done(up_to) = entry { Some(*up_to) } else { None });
    let done: Vec<u64> = done.collect();
    if done.is_sorted() { Ok(()) } else { Err(format!("what is complete goes back: {done:?}")) }
}

fn judge(geometry: Geometry, moment: &Moment<Told>) -> Result<(), String> {
    let found = entries(geometry, &moment.bytes)?;
    let commits: Vec<(u64, &str)> = found
        .iter()
        .filter_map(|entry| match entry {
            Entry::Commit(number, names) => Some((*number, names.first()?.as_str())),
            Entry::Done(_) => None,
        })
        .collect();
    if !commits.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(format!("the numbers are not in order: {commits:?}"));
    }
    for told in &moment.told {
        if let Told::Committed { name, number } = told
            && !commits.contains(&(*number, format!("n{name}").as_str()))
        {
            return Err(format!("n{name} was told to be committed as {number}, and is not: {commits:?}"));
        }
    }
    Ok(())
}

/// A name is changed by one transaction at a time, and nobody waits for ever.
fn names(name: &'static str, search: Search, sets: &'static [&'static [&'static str]]) -> Scenario {
    Scenario::new(
        name,
        "one transaction at a time changes a name; nobody waits for ever",
        search,
        move || {
            let busy = Arc::new(SharedNames::default());
            let changed: Arc<[AtomicUsize; 3]> = Arc::default();
            let place = |name: &str| name.bytes().next().map_or(0, |letter| usize::from(letter - b'a'));
            let threads = sets.iter().map(|names| {
                let (busy, changed) = (Arc::clone(&busy), Arc::clone(&changed));
                thread::spawn(move || {
                    let taken = busy.take(names);
                    for name in *names {
                        let before = changed[place(name)].fetch_add(1, Ordering::SeqCst);
                        assert_eq!(before, 0, "two change {name}");
                    }
                    for name in *names {
                        changed[place(name)].fetch_sub(1, Ordering::SeqCst);
                    }
                    drop(taken);
                })
            });
            let threads: Vec<_> = threads.collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        },
    )
}
