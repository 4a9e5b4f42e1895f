//! Proofs 2 and 3: what is over the temp ratio, or over the bytes or files of an app, is denied before anything is written.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use content::{Config, ContentStore, CreateOpts, Error, Replace};
use durable_io::{Kind, TargetState};

use crate::common::{config, init, open, read, uri};

fn store(config: &Config) -> (tempfile::TempDir, ContentStore) {
    let home = tempfile::tempdir().unwrap();
    init(home.path(), config);
    let store = open(home.path());
    (home, store)
}

/// Limit, used and requested, as a denial says them.
fn denied_bytes(error: &Error) -> (u64, u64, u64) {
    assert_eq!((error.kind(), error.state()), (Kind::NoSpace, TargetState::Unchanged), "{error}");
    match error {
        Error::QuotaExceeded { limit, used, requested, .. }
        | Error::TempBudgetExceeded { limit, used, requested, .. } => {
            let said = error.to_string();
            for number in [limit, used, requested] {
                assert!(said.contains(&number.to_string()), "{said}");
            }
            (*limit, *used, *requested)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn over_the_temp_ratio_is_denied_to_the_byte() {
    for is_fast in [true, false] {
        let (_home, store) = store(&config(is_fast, 1000, 10, 25));
        let app = uri("state:/app");
        let staged = store.create2(&app, "staged", &CreateOpts { temp: true }).unwrap();
        assert_eq!(store.write(&staged, 0, &[1; 249]).unwrap(), 249);
        let error = store.write(&staged, 249, &[1; 2]).unwrap_err();
        assert!(matches!(error, Error::TempBudgetExceeded { .. }), "{error}");
        assert_eq!(denied_bytes(&error), (250, 249, 2));
        // Nothing of it was written, and the last byte fits.
        assert_eq!(store.write(&staged, 249, &[1; 1]).unwrap(), 1);
        assert_eq!(denied_bytes(&store.write(&staged, 250, &[1]).unwrap_err()), (250, 250, 1));
        // Within what it has, it may be written again; a hole counts as what it will read as.
        store.write(&staged, 10, &[2; 100]).unwrap();
        let another = store.create2(&app, "another", &CreateOpts { temp: true }).unwrap();
        assert_eq!(denied_bytes(&store.write(&another, 0, &[1]).unwrap_err()), (250, 250, 1));
        store.unlink(&staged).unwrap();
        let far = store.write(&another, 250, &[1]).unwrap_err();
        assert_eq!(denied_bytes(&far), (250, 0, 251));
        store.write(&another, 249, &[1]).unwrap();
        assert_eq!(store.usage("app").unwrap().staged_bytes, 250);
        let object = store.commit(&another, &app, "object", Replace::No).unwrap();
        assert_eq!((read(&store, &object).len(), store.usage("app").unwrap().staged_bytes), (250, 0));
        // One that is put is staged while it is written.
        assert!(matches!(store.put(&uri("state:/app/x"), &[0; 251]), Err(Error::TempBudgetExceeded { .. })));
        store.put(&uri("state:/app/x"), &[0; 250]).unwrap();
    }
}

#[test]
fn over_the_bytes_of_an_app_is_denied_to_the_byte() {
    for is_fast in [true, false] {
        let (home, store) = store(&config(is_fast, 1000, 10, 100));
        let (a, b) = (uri("state:/app/a"), uri("state:/app/b"));
        store.put(&a, &[1; 600]).unwrap();
        let error = store.put(&b, &[2; 401]).unwrap_err();
        assert!(matches!(error, Error::QuotaExceeded { .. }), "{error}");
        assert_eq!(denied_bytes(&error), (1000, 600, 401));
        assert!(matches!(store.stat(&b), Err(Error::NotFound { .. })));
        store.put(&b, &[2; 400]).unwrap();
        assert_eq!(denied_bytes(&store.put(&uri("state:/app/c"), b"3").unwrap_err()), (1000, 1000, 1));
        // A replace counts new on top of old until it commits; then the old is given back.
        assert_eq!(denied_bytes(&store.put(&a, b"4").unwrap_err()), (1000, 1000, 1));
        store.unlink(&b).unwrap();
        store.put(&a, &[5; 400]).unwrap();
        assert_eq!(store.usage("app").unwrap().bytes, 400);
        // Another app has its own.
        store.put(&uri("state:/other/x"), &[6; 1000]).unwrap();
        // And it is the same after a crash.
        drop(store);
        let store = open(home.path());
        assert_eq!(store.usage("app").unwrap().bytes, 400);
        assert_eq!(denied_bytes(&store.put(&b, &[2; 601]).unwrap_err()), (1000, 400, 601));
        assert_eq!(read(&store, &a), [5; 400]);
    }
}

#[test]
fn over_the_files_of_an_app_is_denied() {
    let (_home, store) = store(&config(true, 1000, 2, 100));
    let app = uri("state:/app");
    store.put(&uri("state:/app/d/a"), b"1").unwrap();
    let staged = store.create2(&app, "staged", &CreateOpts { temp: true }).unwrap();
    assert_eq!(denied_bytes(&store.put(&uri("state:/app/b"), b"2").unwrap_err()), (2, 2, 1));
    assert_eq!(denied_bytes(&store.create2(&app, "c", &CreateOpts { temp: false }).unwrap_err()), (2, 2, 1));
    store.commit(&staged, &app, "staged", Replace::No).unwrap();
    store.unlink(&uri("state:/app/d/a")).unwrap();
    // Directories do not count.
    store.put(&uri("state:/app/b"), b"2").unwrap();
    assert_eq!(store.usage("app").unwrap().files, 2);
}

/// Eight threads at the limit: whatever is granted, the sum never passes it.
#[test]
fn eight_threads_racing_at_the_limit_never_pass_it() {
    for is_fast in [true, false] {
        let (_home, store) = store(&config(is_fast, 2000, 6, 60));
        let granted: usize = std::thread::scope(|scope| {
            let racing = |thread: usize| {
                let store = &store;
                scope.spawn(move || {
                    let mut granted = 0;
                    for nth in 0..40 {
                        let object = uri(&format!("state:/app/{}", (thread + nth) % 9));
                        granted += usize::from(store.put(&object, &vec![0; 100 + 50 * thread]).is_ok());
                        let usage = store.usage("app").unwrap();
                        assert!(
                            usage.bytes <= 2000 && usage.files <= 6 && usage.staged_bytes <= 1200,
                            "{usage:?}"
                        );
                        if nth % 5 == thread % 5 {
                            // It may be gone already.
                            drop(store.unlink(&object));
                        }
                    }
                    granted
                })
            };
            let threads: Vec<_> = (0..8).map(racing).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let usage = store.usage("app").unwrap();
        assert_eq!(usage, store.recounted_usage("app").unwrap());
        let objects = store.list(&uri("state:/app"), None, 100).unwrap().objects;
        assert_eq!(objects.iter().map(|found| found.len).sum::<u64>(), usage.bytes);
        println!("granted {granted} of 320; {usage:?}");
        assert!(granted > 8 && granted < 320);
    }
}
