//! Proof 1: A is replaced by B. Whatever the crash, there is A or B afterwards, never a part of either.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use content::{ContentStore, CreateOpts, Replace};
use crashsim::Failpoints;
use media::doubles::{Call, Listener, TapFs};
use media::{Fs, OsFs};

use crate::common::{config, explore_to_the_end, init, open, open_on, read, uri};

const A: &[u8] = b"A, as it was";

/// Longer than rides in the journal, where `fast` is off or the object is long; else it rides.
fn new_content(is_long: bool) -> Vec<u8> {
    if is_long { b"B".repeat(100_000) } else { b"B, short".to_vec() }
}

#[test]
fn crashes_at_every_operation_leave_a_or_b_on_both_paths() {
    for case in ["content-replace", "content-plain-replace", "content-commit", "content-plain-commit"] {
        println!("{}", explore_to_the_end(case));
    }
}

/// From when it is told to, nothing reaches the system any more: the process is dead.
#[derive(Debug, Default)]
struct Dead(AtomicBool);

impl Listener for Dead {
    fn before(&self, _call: &Call) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::Error::other("this process is dead")),
            false => Ok(()),
        }
    }
}

/// A file system on which a process dies at this point; and whether it has.
fn dying_at(point: &str) -> (Arc<dyn Fs>, Arc<Dead>) {
    let dead = Arc::new(Dead::default());
    let dies = Arc::clone(&dead);
    let points = Failpoints::parse(point).unwrap();
    let points = points.with_action(Arc::new(move |_| dies.0.store(true, Ordering::SeqCst)));
    (points.over(TapFs::shared(OsFs::shared(), Arc::<Dead>::clone(&dead))), dead)
}

/// Replaces A by B, staged and committed; whether that was acknowledged.
fn replace(store: &ContentStore, content: &[u8]) -> content::Result<()> {
    let app = uri("state:/app");
    let staged = store.create2(&app, "a", &CreateOpts { temp: true })?;
    store.write(&staged, 0, content)?;
    store.fsync(&staged)?;
    store.commit(&staged, &app, "a", Replace::Yes)?;
    store.dirsync(&app)
}

/// A store with A in it.
fn begin(home: &Path, is_fast: bool) {
    init(home, &config(is_fast, 1 << 20, 10, 100));
    let store = open(home);
    store.put(&uri("state:/app/a"), A).unwrap();
    store.close().unwrap();
}

#[test]
fn a_process_that_dies_at_a_failpoint_leaves_a_or_b_on_both_paths() {
    let points = [
        "after_create",
        "after_write",
        "after_fsync",
        "after_dirsync",
        "after_prepare",
        "after_commit_record",
        "after_rename",
        "before_done",
    ];
    for (is_fast, is_long) in [(true, false), (true, true), (false, false)] {
        let mut died_at = Vec::new();
        for point in points {
            // The first time it is reached, the second, until it is not reached any more.
            for nth in 1.. {
                let home = tempfile::tempdir().unwrap();
                begin(home.path(), is_fast);
                let content = new_content(is_long);
                let (fs, dead) = dying_at(&format!("{point}@{nth}"));
                let outcome = ContentStore::open(fs, home.path(), media::Env::os())
                    .and_then(|(store, _)| replace(&store, &content));
                let has_died = dead.0.load(Ordering::SeqCst);
                let store = open_on(OsFs::shared(), home.path());
                let found = read(&store, &uri("state:/app/a"));
                let what = format!("{point}@{nth} fast={is_fast} long={is_long}: {} bytes", found.len());
                assert!(found == A || found == content, "{what}");
                assert!(outcome.is_err() || found == content, "{what}: what was acknowledged is gone");
                let usage = store.usage("app").unwrap();
                assert_eq!((usage.files, usage.bytes), (1, u64::try_from(found.len()).unwrap()), "{what}");
                assert_eq!(usage, store.recounted_usage("app").unwrap(), "{what}");
                store.close().unwrap();
                let again = open(home.path());
                assert_eq!(
                    read(&again, &uri("state:/app/a")),
                    found,
                    "{what}: recovery twice is recovery once"
                );
                if !has_died {
                    assert!(outcome.is_ok() && found == content, "{what}");
                    break;
                }
                died_at.push(format!("{point}@{nth}"));
            }
        }
        println!("fast={is_fast} long={is_long}: died at {died_at:?}");
        let reached = |point: &str| died_at.iter().any(|at| at.starts_with(point));
        // In a root of our own nothing waits between a rename and `done`: that point is one of recovery.
        for point in points.iter().filter(|point| **point != "before_done") {
            assert!(reached(point), "{point} is never reached: {died_at:?}");
        }
    }
}
