//! Quotas and the temp budget, against the store.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use content::{Counted, CreateOpts, Error, Replace};
use durable_io::{Kind, TargetState};
use media::doubles::{Op, Recorder};

use crate::common::{BOTH_PATHS, Ground, STAGED, assert_exact, config, content, read, roomy, uri, used};

#[track_caller]
fn numbers(error: &Error) -> (&'static str, u64, u64, u64) {
    assert_eq!((error.kind(), error.state()), (Kind::NoSpace, TargetState::Unchanged));
    assert!(error.hint().is_some());
    match error {
        Error::QuotaExceeded { app, what, limit, used, requested } => {
            assert_eq!(app, "app");
            let what = match what {
                Counted::Bytes => "bytes",
                Counted::Files => "files",
            };
            (what, *limit, *used, *requested)
        }
        Error::TempBudgetExceeded { app, limit, used, requested } => {
            assert_eq!(app, "app");
            ("staged", *limit, *used, *requested)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn beyond_the_quota_nothing_is_written() {
    for fast in BOTH_PATHS {
        let (ground, store) = Ground::sim(&config(fast, 5000, 3, 100));
        store.close().unwrap();
        let (recorder, fs) = Recorder::over(Arc::clone(&ground.fs));
        let (store, _) = ground.open_through(fs).unwrap();
        store.put(&uri("state:/app/x"), &[1; 4000]).unwrap();
        let app = uri("state:/app");
        let staged = store.create2(&app, "t", &STAGED).unwrap();
        recorder.clear();
        assert_eq!(
            numbers(&store.put(&uri("state:/app/y"), &[1; 1001]).unwrap_err()),
            ("bytes", 5000, 4000, 1001)
        );
        let all = &mut [1_u8; 1001].as_slice();
        let error = store.put_from(&uri("state:/app/y"), all, Some(1001)).unwrap_err();
        assert_eq!(numbers(&error), ("bytes", 5000, 4000, 1001));
        assert_eq!(all.len(), 1001, "nothing was read");
        assert_eq!(numbers(&store.write(&staged, 0, &[1; 1001]).unwrap_err()), ("bytes", 5000, 4000, 1001));
        // A hole counts.
        assert_eq!(numbers(&store.write(&staged, 1000, b"1").unwrap_err()), ("bytes", 5000, 4000, 1001));
        assert_eq!(
            numbers(&store.write(&staged, u64::MAX, b"1").unwrap_err()),
            ("bytes", 5000, 4000, u64::MAX)
        );
        // The old one stays until the new one has its place.
        assert_eq!(
            numbers(&store.put(&uri("state:/app/x"), &[2; 1001]).unwrap_err()),
            ("bytes", 5000, 4000, 1001)
        );
        assert_eq!(recorder.count(Op::WriteAt) + recorder.count(Op::CreateExclusive), 0);
        assert_eq!(store.write(&staged, u64::MAX, b"").unwrap(), 0);
        store.create2(&app, "u", &CreateOpts::default()).unwrap();
        recorder.clear();
        assert_eq!(numbers(&store.put(&uri("state:/app/y"), b"").unwrap_err()), ("files", 3, 3, 1));
        assert_eq!(numbers(&store.create2(&app, "v", &STAGED).unwrap_err()), ("files", 3, 3, 1));
        assert_eq!(
            numbers(&store.create2(&app, "v", &CreateOpts::default()).unwrap_err()),
            ("files", 3, 3, 1)
        );
        assert_eq!(recorder.count(Op::WriteAt) + recorder.count(Op::CreateExclusive), 0);
        // At the limit it is taken.
        store.write(&staged, 999, b"1").unwrap();
        assert_eq!(used(&store, "app"), (5000, 3, 1000, 1));
        store.commit(&staged, &app, "u", Replace::Yes).unwrap();
        assert_eq!(used(&store, "app"), (5000, 2, 0, 0));
        assert_exact(&store, "app");
        // Another app has a quota of its own.
        store.put(&uri("state:/app2/y"), &[1; 5000]).unwrap();
        // Removing always works.
        store.unlink(&uri("state:/app/x")).unwrap();
        store.put(&uri("state:/app/y"), &[1; 4000]).unwrap();
        assert_exact(&store, "app");
        drop(store);
        let (store, _) = ground.open().unwrap();
        assert_eq!(used(&store, "app"), (5000, 2, 0, 0));
    }
}

#[test]
fn beyond_the_temp_budget_nothing_is_written() {
    for fast in BOTH_PATHS {
        let (_ground, store) = Ground::sim(&config(fast, 5000, 100, 30));
        let app = uri("state:/app");
        let staged = store.create2(&app, "t", &STAGED).unwrap();
        store.write(&staged, 0, &[1; 1500]).unwrap();
        assert_eq!(numbers(&store.write(&staged, 1500, b"1").unwrap_err()), ("staged", 1500, 1500, 1));
        assert_eq!(numbers(&store.put(&uri("state:/app/x"), b"1").unwrap_err()), ("staged", 1500, 1500, 1));
        let error = store.put_from(&uri("state:/app/x"), &mut b"12".as_slice(), None).unwrap_err();
        // As much as was read when it was refused.
        let (what, limit, used_then, requested) = numbers(&error);
        assert!((what, limit, used_then) == ("staged", 1500, 1500) && (1..=2).contains(&requested));
        // What is there already can be written over.
        store.write(&staged, 1000, &[2; 500]).unwrap();
        store.commit(&staged, &app, "t", Replace::No).unwrap();
        assert_eq!(
            numbers(&store.put(&uri("state:/app/x"), &[1; 1501]).unwrap_err()),
            ("staged", 1500, 0, 1501)
        );
        store.put(&uri("state:/app/x"), &[1; 1500]).unwrap();
        assert_exact(&store, "app");
        assert_eq!(used(&store, "app"), (3000, 2, 0, 0));
    }
}

/// A reader that never ends, and is watched.
struct Endless<'w> {
    handed_out: &'w AtomicU64,
    largest: &'w AtomicU64,
    end: u64,
}

impl Read for Endless<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.largest.fetch_max(u64::try_from(into.len()).unwrap(), Ordering::Relaxed);
        let left = self.end - self.handed_out.load(Ordering::Relaxed);
        let count = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        into[..count].fill(0xA5);
        self.handed_out.fetch_add(u64::try_from(count).unwrap(), Ordering::Relaxed);
        Ok(count)
    }
}

#[test]
fn a_stream_of_any_length_goes_through_a_small_buffer_and_stops_at_the_quota() {
    for fast in BOTH_PATHS {
        let home = tempfile::tempdir().unwrap();
        let quota = config(fast, 40 << 20, 10, 100);
        let (_ground, store) = Ground::on(media::OsFs::shared(), &home.path().join("store"), &quota);
        let (handed_out, largest) = (AtomicU64::new(0), AtomicU64::new(0));
        let x = uri("state:/app/x");
        let stream = |end: u64| {
            handed_out.store(0, Ordering::Relaxed);
            Endless { handed_out: &handed_out, largest: &largest, end }
        };
        assert_eq!(store.put_from(&x, &mut stream(30 << 20), None).unwrap(), 30 << 20);
        assert!(largest.load(Ordering::Relaxed) <= 64 << 10, "{largest:?}");
        assert_exact(&store, "app");
        assert_eq!(used(&store, "app"), (30 << 20, 1, 0, 0));
        // One without an end is given up at the limit, and leaves nothing.
        let error = store.put_from(&uri("state:/app/y"), &mut stream(u64::MAX), None).unwrap_err();
        let (what, limit, used_then, requested) = numbers(&error);
        assert_eq!((what, limit), ("bytes", 40 << 20));
        assert!(used_then <= limit && used_then + requested > limit && requested <= 64 << 10);
        assert!(handed_out.load(Ordering::Relaxed) <= (10 << 20) + (64 << 10));
        assert_eq!(used(&store, "app"), (30 << 20, 1, 0, 0));
        assert_exact(&store, "app");
        assert_eq!(read(&store, "state:/app/x").unwrap().len(), 30 << 20);
    }
}

#[test]
fn a_stream_is_as_long_as_was_said_or_changes_nothing() {
    for fast in BOTH_PATHS {
        let (_ground, store) = Ground::sim(&roomy(fast));
        let x = uri("state:/app/x");
        store.put(&x, b"old").unwrap();
        for len in [10_u64, 3000] {
            let bytes = vec![7; usize::try_from(len).unwrap()];
            for said in [0, len - 1, len + 1] {
                let error = store.put_from(&x, &mut bytes.as_slice(), Some(said)).unwrap_err();
                let Error::LengthDiffers { expected, found, .. } = error else { panic!("{error}") };
                assert!(expected == said && (found == len || found > said));
                assert_eq!(content(&store, "app"), [("state:/app/x".to_owned(), b"old".to_vec())]);
                assert_exact(&store, "app");
            }
        }
        // A stream that breaks off.
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the line went dead"))
            }
        }
        for before in [0, 10, 5000] {
            let bytes = vec![1_u8; before];
            let error = store.put_from(&x, &mut bytes.as_slice().chain(Broken), None).unwrap_err();
            assert_eq!(error.state(), TargetState::Unchanged);
            let source = std::error::Error::source(&error).unwrap();
            assert!(source.to_string().contains("the line went dead"), "{source}");
            assert_exact(&store, "app");
        }
        assert_eq!(store.put_from(&x, &mut [8_u8; 3000].as_slice(), Some(3000)).unwrap(), 3000);
        assert_eq!(read(&store, "state:/app/x").unwrap(), [8; 3000]);
        assert_eq!(used(&store, "app"), (3000, 1, 0, 0));
        assert_exact(&store, "app");
    }
}

#[test]
fn threads_racing_at_the_limit_of_a_store_never_exceed_it_by_a_byte() {
    const LIMIT: u64 = 9000;
    const FILES: u64 = 12;
    for fast in BOTH_PATHS {
        let (ground, store) = Ground::sim(&config(fast, LIMIT, FILES, 60));
        let over = AtomicBool::new(false);
        let (taken, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (store, over, taken, refused) = (&store, &over, &taken, &refused);
                scope.spawn(move || {
                    let mut state = thread + 77;
                    let mut next = |below: u64| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (state >> 33) % below
                    };
                    let app = uri("state:/app");
                    for round in 0..60_u64 {
                        let name = format!("n{}", next(6));
                        let target = app.join(&name).unwrap();
                        let bytes = vec![1; usize::try_from(next(3000)).unwrap()];
                        let outcome = match next(5) {
                            0 | 1 => store.put(&target, &bytes),
                            2 => store.put_from(&target, &mut bytes.as_slice(), None).map(drop),
                            3 => store.unlink(&target),
                            _ => store.create2(&app, &format!("t{thread}-{round}"), &STAGED).and_then(
                                |staged| {
                                    let written = store.write(&staged, next(100), &bytes);
                                    let done = written
                                        .and_then(|_| store.commit(&staged, &app, &name, Replace::Yes));
                                    done.map(drop).inspect_err(|_| store.unlink(&staged).unwrap())
                                },
                            ),
                        };
                        match outcome {
                            Ok(()) => taken.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                assert!(matches!(error.kind(), Kind::NoSpace | Kind::NotFound), "{error}");
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                        };
                        // The ledger, and what is in the tree itself: at most what the ledger says.
                        let usage = store.usage("app").unwrap();
                        let there = store.recounted_usage("app").unwrap();
                        let is_over = usage.bytes > LIMIT
                            || usage.files > FILES
                            || usage.staged_bytes > LIMIT * 60 / 100
                            || there.staged_bytes > LIMIT;
                        over.fetch_or(is_over, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(!over.into_inner());
        assert!(taken.into_inner() > 50 && refused.into_inner() > 50, "there was a race");
        assert_exact(&store, "app");
        let usage = store.usage("app").unwrap();
        assert_eq!((usage.staged_bytes, usage.staged_files), (0, 0));
        let before = content(&store, "app");
        drop(store);
        let (store, _) = ground.open().unwrap();
        assert_eq!(content(&store, "app"), before);
        assert_eq!(store.usage("app").unwrap(), usage);
        assert_exact(&store, "app");
    }
}
