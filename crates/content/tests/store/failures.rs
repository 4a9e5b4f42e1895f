//! What is told, and what is true, when a call of the seam fails: everywhere, once.

use std::ffi::OsStr;
use std::sync::Arc;

use content::{ContentStore, Error, Replace};
use durable_io::{Kind, TargetState};
use media::Access;
use media::doubles::{FailNth, Lasting, Op, When};

use crate::common::{BOTH_PATHS, Ground, STAGED, assert_exact, content, read, roomy, uri, used};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A store with one object, opened through a double that fails call `nth` from now on.
fn failing(fast: bool, double: impl Fn() -> FailNth) -> (Ground, ContentStore, Arc<FailNth>) {
    let (ground, store) = Ground::sim(&roomy(fast));
    store.put(&uri("state:/app/x"), b"old").unwrap();
    store.close().unwrap();
    let (double, fs) = double().over(Arc::clone(&ground.fs));
    let (store, _) = ground.open_through(fs).unwrap();
    (ground, store, double)
}

#[test]
fn a_rename_that_fails_behind_the_commit_point_is_durable_and_not_visible() {
    for fast in BOTH_PATHS {
        for by_commit in [false, true] {
            let (ground, store, double) =
                failing(fast, || FailNth::new(0, ENOSPC).only(Op::Rename).lasting(Lasting::Forever));
            let x = uri("state:/app/x");
            let error = if by_commit {
                let staged = store.create2(&uri("state:/app"), "x", &STAGED).unwrap();
                store.write(&staged, 0, b"newer").unwrap();
                let error = store.commit(&staged, &uri("state:/app"), "x", Replace::Yes).unwrap_err();
                assert!(
                    matches!(store.write(&staged, 0, b"?"), Err(Error::NotStaged { .. })),
                    "it is the commit's now"
                );
                error
            } else {
                store.put(&x, b"newer").unwrap_err()
            };
            assert!(double.failed().is_some());
            assert_eq!((error.kind(), error.state()), (Kind::NoSpace, TargetState::DurableNotVisible));
            // The old one is read, and nothing is taken any more.
            assert_eq!(read(&store, "state:/app/x").unwrap(), b"old");
            for outcome in [store.put(&x, b"third"), store.unlink(&x), store.checkpoint()] {
                assert_eq!(outcome.unwrap_err().kind(), Kind::Poisoned);
            }
            assert_eq!(read(&store, "state:/app/x").unwrap(), b"old");
            // Both are counted: there is never more than the ledger says.
            assert_eq!(used(&store, "app"), (8, 2, 0, 0));
            drop(store);
            let (store, report) = ground.open().unwrap();
            assert_eq!(report.recovery.finalized, 1);
            assert_eq!(content(&store, "app"), [("state:/app/x".to_owned(), b"newer".to_vec())]);
            assert_eq!(used(&store, "app"), (5, 1, 0, 0));
            assert_exact(&store, "app");
        }
    }
}

/// What is done, and what is true of `state:/app/x` and `state:/app/d/y` when all of it is acknowledged.
type Script =
    (&'static str, fn(&ContentStore) -> content::Result<()>, Option<&'static [u8]>, Option<&'static [u8]>);

const SCRIPTS: [Script; 6] = [
    ("put", |store| store.put(&uri("state:/app/x"), b"new"), Some(b"new"), None),
    ("long put", |store| store.put(&uri("state:/app/x"), &[9; 3000]), Some(&[9; 3000]), None),
    (
        "stream",
        |store| store.put_from(&uri("state:/app/d/y"), &mut [9_u8; 3000].as_slice(), None).map(drop),
        Some(b"old"),
        Some(&[9; 3000]),
    ),
    ("unlink", |store| store.unlink(&uri("state:/app/x")), None, None),
    (
        "stage and commit",
        |store| {
            let staged = store.create2(&uri("state:/app"), "x", &STAGED)?;
            store.write(&staged, 0, b"ne")?;
            store.fsync(&staged)?;
            store.write(&staged, 2, b"w")?;
            store.commit(&staged, &uri("state:/app/d"), "y", Replace::No).map(drop)
        },
        Some(b"old"),
        Some(b"new"),
    ),
    (
        "put and checkpoint",
        |store| {
            store.put(&uri("state:/app/x"), b"new")?;
            store.dirsync(&uri("state:/app"))
        },
        Some(b"new"),
        None,
    ),
];

/// Fails instead of a call or behind it, and that call alone or all that follow.
const WAYS: [(i32, When, Lasting); 5] = [
    (EIO, When::Before, Lasting::Once),
    (ENOSPC, When::Before, Lasting::Once),
    (EIO, When::After, Lasting::Once),
    (EIO, When::Before, Lasting::Forever),
    (EIO, When::After, Lasting::Forever),
];

#[test]
fn wherever_a_call_fails_the_answer_is_true_and_usage_is_never_less_than_there_is() {
    let mut cases = 0;
    for fast in BOTH_PATHS {
        let opening = calls_of_opening(fast);
        for script in SCRIPTS {
            for way in WAYS {
                let failing_calls = (0..).take_while(|nth| fails_truly(fast, script, way, opening + nth));
                cases += failing_calls.count();
            }
        }
    }
    assert!(cases > 800, "{cases}");
}

/// Whether there was a call of this number.
fn fails_truly(
    fast: bool,
    (name, script, x_after, y_after): Script,
    (code, when, lasting): (i32, When, Lasting),
    nth: usize,
) -> bool {
    let (ground, store, double) = failing(fast, || FailNth::new(nth, code).when(when).lasting(lasting));
    let outcome = script(&store);
    let Some(failed) = double.failed() else {
        assert!(outcome.is_ok());
        return false;
    };
    let case = format!("{name}, fast={fast}, {code} {when:?} {lasting:?} {nth}: {failed} -> {outcome:?}");
    // Where removing fails too, or a file was made and nobody was told, there is a hidden file more, until the next open.
    if lasting == Lasting::Once {
        let (usage, there) = (store.usage("app").unwrap(), store.recounted_usage("app").unwrap());
        let is_told = when == When::Before;
        assert!(usage.bytes >= there.bytes, "{case}: {usage:?} {there:?}");
        assert!(usage.files >= there.files || !is_told, "{case}: {usage:?} {there:?}");
    }
    drop(store);
    let (store, _) = ground.open().unwrap();
    let state = |at: &str| read(&store, at).ok();
    let found = (state("state:/app/x"), state("state:/app/d/y"));
    let old = (Some(b"old".to_vec()), None);
    let new = (x_after.map(<[u8]>::to_vec), y_after.map(<[u8]>::to_vec));
    match &outcome {
        Ok(()) => assert_eq!(found, new, "{case}"),
        Err(error) => match error.state() {
            // It is about the checkpoint, and that changes no object.
            TargetState::Unchanged if name == "put and checkpoint" => {
                assert!(found == old || found == new, "{case}")
            }
            TargetState::Unchanged => assert_eq!(found, old, "{case}"),
            TargetState::DurableNotVisible => assert_eq!(found, new, "{case}"),
            TargetState::Unknown | TargetState::ReplacedNotDurable => {
                assert!(found == old || found == new, "{case}");
            }
        },
    }
    assert_exact(&store, "app");
    assert_eq!(store.usage("app").unwrap().staged_files, 0, "{case}");
    store.put(&uri("state:/app/x"), b"goes on").unwrap();
    store.close().unwrap();
    true
}

/// How many calls of the seam are made before the script begins.
fn calls_of_opening(fast: bool) -> usize {
    let (ground, store) = Ground::sim(&roomy(fast));
    store.put(&uri("state:/app/x"), b"old").unwrap();
    store.close().unwrap();
    let (recorder, fs) = media::doubles::Recorder::over(Arc::clone(&ground.fs));
    let (store, _) = ground.open_through(fs).unwrap();
    let total = recorder.total();
    drop(store);
    total
}

#[test]
fn a_write_that_fails_leaves_a_staged_object_that_can_only_be_unlinked() {
    let (_ground, store, _) = failing(true, || FailNth::new(usize::MAX, EIO));
    drop(store);
    // The journal writes through `write_at` too, before: only the third write from here on is the staged object's.
    for nth in 0..20 {
        let (_ground, store, double) = failing(true, || FailNth::new(nth, ENOSPC).only(Op::WriteAt));
        if double.failed().is_some() {
            continue;
        }
        let app = uri("state:/app");
        let staged = store.create2(&app, "t", &STAGED).unwrap();
        let error = store.write(&staged, 0, b"12345").unwrap_err();
        assert_eq!((error.kind(), error.state()), (Kind::NoSpace, TargetState::Unchanged));
        assert!(store.write(&staged, 0, b"1").is_err());
        assert!(store.commit(&staged, &app, "t", Replace::Yes).is_err());
        // It holds what it may have written.
        assert_eq!(used(&store, "app"), (8, 2, 5, 1));
        store.unlink(&staged).unwrap();
        assert_eq!(used(&store, "app"), (3, 1, 0, 0));
        assert_exact(&store, "app");
        store.put(&uri("state:/app/y"), b"the store goes on").unwrap();
        return;
    }
    panic!("opening writes that often?");
}

#[test]
fn a_store_whose_journal_is_damaged_is_read_only_and_nothing_is_swept() {
    for missing in [false, true] {
        let (ground, store) = Ground::sim(&roomy(true));
        for n in 0..20 {
            store.put(&uri(&format!("state:/app/{n}")), &[n; 100]).unwrap();
        }
        drop(store);
        let app = ground.dir("app");
        app.create_exclusive(OsStr::new("orphan.nxpart"), media::Mode::PRIVATE).unwrap();
        let journal = ground.dir("content/journal");
        if missing {
            journal.unlink(OsStr::new("journal")).unwrap();
        } else {
            let file = journal.open(OsStr::new("journal"), Access::ReadWrite).unwrap();
            let len = file.metadata().unwrap().len;
            // One byte of every sector.
            for at in (0..len).step_by(512) {
                file.write_at(at + 100, b"\xee").unwrap();
            }
        }
        let (store, report) = ground.open().unwrap();
        let why = report.recovery.read_only.expect("read-only");
        assert!(why.contains(if missing { "missing" } else { "damaged" }), "{why}");
        assert_eq!(store.read_only(), Some(why.as_str()));
        assert_eq!(report.recovery.orphans, 0);
        assert!(app.metadata(OsStr::new("orphan.nxpart")).is_ok(), "nothing is swept");
        assert_eq!(read(&store, "state:/app/3").unwrap(), [3; 100]);
        assert_eq!(store.usage("app").unwrap().files, 20);
        let x = uri("state:/app/x");
        let refused = [
            store.put(&x, b"x"),
            store.put_from(&x, &mut b"x".as_slice(), None).map(drop),
            store.unlink(&uri("state:/app/3")),
            store.create2(&uri("state:/app"), "t", &STAGED).map(drop),
            store.checkpoint(),
        ];
        for outcome in refused {
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.state()), (Kind::Corrupt, TargetState::Unchanged), "{error}");
        }
        assert_eq!(store.usage("app").unwrap().files, 20);
        store.close().unwrap();
    }
}
