//! The window of changes that wait for their barriers, together with the journal: what the journal calls complete is synced.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crash_recovery::parts::{Entry, SharedLedger, SharedWindow};
use crashsim::SimFs;
use media::doubles::{Call, InlinePool, Listener, Op, TapFs};
use media::sync::{caught, thread};
use media::{Dir, Geometry, Mode, OsPool, SyncPool};

use super::recovery::{entries, journal, never_goes_back};
use crate::explore::{Scenario, Search};
use crate::medium::{Moment, PlannedPanic, Power, RecordingDisk};

pub(super) fn all() -> Vec<Scenario> {
    let two = Shape { writers: 2, checkpoints: 1, changes: 8, fault: None };
    vec![
        window("window-2-writers-a-checkpoint", two),
        window("window-3-writers-2-checkpoints", Shape { writers: 3, checkpoints: 2, ..two }),
        window("window-3-writers-few-places", Shape { writers: 3, changes: 1, checkpoints: 0, ..two }),
        window("window-3-writers-3-checkpoints", Shape { writers: 3, checkpoints: 3, ..two }),
        window("window-a-sync-fails", Shape { checkpoints: 2, fault: Some(Fault::Fails), ..two }),
        window("window-a-sync-panics", Shape { checkpoints: 2, fault: Some(Fault::Panics), ..two }),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    writers: usize,
    /// Threads that checkpoint while the others write.
    checkpoints: usize,
    /// Changes that the window takes.
    changes: usize,
    fault: Option<Fault>,
}

/// What becomes of the first sync of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Fails,
    Panics,
}

/// What has happened beside the journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Told {
    /// A file was synced.
    Synced(String),
    /// A directory was synced, after these files.
    DirSynced,
}

/// Writes down what was synced, and lets one sync go wrong.
struct Syncs {
    disk: Arc<RecordingDisk<Told>>,
    fault: Mutex<Option<Fault>>,
}

impl fmt::Debug for Syncs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Syncs")
    }
}

impl Listener for Syncs {
    fn before(&self, call: &Call) -> io::Result<()> {
        if call.op != Op::SyncAll {
            return Ok(());
        }
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match fault {
            None => Ok(()),
            Some(Fault::Fails) => Err(io::Error::other("planned")),
            Some(Fault::Panics) => resume_unwind(Box::new(PlannedPanic)),
        }
    }

    fn after(&self, call: &Call) -> io::Result<()> {
        match call.op {
            Op::SyncAll => self.disk.tell(Told::Synced(call.subject.clone())),
            Op::DirSync => self.disk.tell(Told::DirSynced),
            _ => {}
        }
        Ok(())
    }
}

/// What the threads of a run share.
struct Site {
    ledger: SharedLedger<RecordingDisk<Told>>,
    window: SharedWindow,
    dir: Arc<dyn Dir>,
    pool: Arc<dyn SyncPool>,
}

/// In every power cut, what the journal calls complete was synced before, file and then directory; nobody waits for ever, also
/// where a barrier fails or panics.
fn window(name: &'static str, shape: Shape) -> Scenario {
    let (geometry, bytes) = journal(true, false);
    let power = Power::shared();
    let of_runs = Arc::clone(&power);
    let run = move || {
        let disk = Arc::new(RecordingDisk::holding(geometry, &bytes).with_power(&of_runs));
        let syncs = Syncs { disk: Arc::clone(&disk), fault: Mutex::new(shape.fault) };
        let fs = TapFs::shared(SimFs::new().shared(), Arc::new(syncs));
        // A panic that leaves a thread of a pool fails the run.
        let pool: Arc<dyn SyncPool> =
            if shape.fault.is_none() { Arc::new(OsPool) } else { Arc::new(InlinePool) };
        let site = Arc::new(Site {
            ledger: SharedLedger::open(disk).unwrap(),
            window: SharedWindow::new(shape.changes),
            dir: fs.open_dir(Path::new("/")).unwrap(),
            pool,
        });
        let mut threads = Vec::new();
        for writer in 0..shape.writers {
            let site = Arc::clone(&site);
            threads.push(thread::spawn(move || site.write(&format!("n{writer}"))));
        }
        for _ in 0..shape.checkpoints {
            let site = Arc::clone(&site);
            threads.push(thread::spawn(move || site.checkpoint(true)));
        }
        let all_fine =
            threads.into_iter().map(|thread| thread.join().unwrap()).fold(true, |all, fine| all & fine);
        assert!(all_fine || shape.fault.is_some(), "something failed, and nothing was planned");
        // What is complete is told with the next frame.
        let last = site.checkpoint(true);
        assert!(last || shape.fault.is_some());
        drop(site.ledger.commit("last"));
    };
    let what = "what the journal calls complete was synced before; nobody waits for ever";
    Scenario::new(name, what, Search::Sampled, run)
        .judged(move || power.judge(|moment| judge(geometry, moment)))
}

impl Site {
    /// Whether it was written.
    fn write(&self, name: &str) -> bool {
        let mut places = loop {
            match self.window.reserve() {
                Some(places) => break places,
                None if self.checkpoint(false) => {}
                None => return false,
            }
        };
        let Ok(number) = self.ledger.commit(name) else { return false };
        let file = self.dir.create_exclusive(OsStr::new(name), Mode::PRIVATE).unwrap();
        self.window.add(number, name, (file, Arc::clone(&self.dir)), &mut places);
        self.ledger.in_place(number);
        true
    }

    /// Whether it succeeded.
    fn checkpoint(&self, is_now: bool) -> bool {
        let up_to = || self.ledger.in_place_up_to();
        match caught(|| self.window.checkpoint(is_now, &*self.pool, &up_to)) {
            Ok(Ok(up_to)) => {
                if let Some(up_to) = up_to {
                    self.ledger.tell_done(up_to);
                }
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

fn judge(geometry: Geometry, moment: &Moment<Told>) -> Result<(), String> {
    let found = entries(geometry, &moment.bytes)?;
    never_goes_back(&found)?;
    let done =
        found.iter().filter_map(|entry| if let Entry::Done(up_to) = entry { Some(*up_to) } else { None });
    let Some(done) = done.max() else { return Ok(()) };
    let last_dir_sync = moment.told.iter().rposition(|told| *told == Told::DirSynced).unwrap_or(0);
    let synced = moment.told.get(..last_dir_sync).unwrap_or_default();
    for entry in &found {
        if let Entry::Commit(number, names) = entry
            && *number <= done
            && let Some(name) = names.iter().find(|name| !synced.contains(&Told::Synced((*name).clone())))
        {
            return Err(format!(
                "everything up to {done} is called complete, and {name} ({number}) is not synced"
            ));
        }
    }
    Ok(())
}
