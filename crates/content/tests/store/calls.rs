//! What each call does, on both paths.

use std::ffi::OsStr;

use content::{
    Config, ContentStore, CreateOpts, Error, LIST_LIMIT_MAX, Replace, STAGED_OPEN_MAX, Stat, Uri, UriError,
};
use durable_io::{Kind, TargetState};
use media::doubles::fixed_env;
use media::{Mode, OsFs};

use crate::common::{
    BOTH_PATHS, Ground, STAGED, assert_exact, config, content, is_not_found, read, roomy, tuning, uri, used,
};

#[test]
fn what_is_put_is_read_listed_replaced_and_removed_and_is_so_after_every_kind_of_reopening() {
    for fast in BOTH_PATHS {
        for closed in [true, false] {
            let (ground, store) = Ground::sim(&roomy(fast));
            store.put(&uri("state:/app/d/one"), b"1").unwrap();
            store.put(&uri("state:/app/big"), &[7; 5000]).unwrap();
            store.put(&uri("state:/app/d/one"), b"one").unwrap();
            store.put(&uri("state:/app/gone"), b"x").unwrap();
            store.unlink(&uri("state:/app/gone")).unwrap();
            store.put(&uri("state:/other/empty"), b"").unwrap();
            let expected = [
                ("state:/app/big".to_owned(), vec![7; 5000]),
                ("state:/app/d/one".to_owned(), b"one".to_vec()),
            ];
            assert_eq!(content(&store, "app"), expected);
            if closed {
                store.close().unwrap();
            } else {
                drop(store);
            }
            let (store, report) = ground.open().unwrap();
            assert_eq!(report.recovery.was_closed, closed);
            assert_eq!((report.apps, report.foreign.count), (2, 0));
            assert_eq!(content(&store, "app"), expected);
            assert_eq!(read(&store, "state:/other/empty").unwrap(), b"");
            assert!(is_not_found(&read(&store, "state:/app/gone")));
            assert_eq!(used(&store, "app"), (5003, 2, 0, 0));
            assert_exact(&store, "app");
            assert_eq!(store.apps().unwrap(), [uri("state:/app"), uri("state:/other")]);
            assert_eq!(store.config(), &roomy(fast));
        }
    }
}

#[test]
fn a_staged_object_is_hidden_until_it_is_committed_to_any_directory() {
    for fast in BOTH_PATHS {
        for len in [10, 3000] {
            let (_ground, store) = Ground::sim(&roomy(fast));
            let staged = store.create2(&uri("state:/app/in"), "x", &STAGED).unwrap();
            assert_eq!(staged.as_str(), "state:/app/in/x.nxpart");
            assert_eq!(store.write(&staged, 5, &vec![b'b'; len - 5]).unwrap(), len - 5);
            assert_eq!(store.write(&staged, 0, b"aaa").unwrap(), 3);
            assert_eq!(content(&store, "app"), []);
            let bytes = u64::try_from(len).unwrap();
            assert_eq!(store.stat(&staged).unwrap(), Stat::Staged { len: bytes });
            assert_eq!(used(&store, "app"), (bytes, 1, bytes, 1));
            assert_exact(&store, "app");
            store.fsync(&staged).unwrap();
            assert!(matches!(store.open_object(&staged), Err(Error::Staged { .. })));
            let out = store.commit(&staged, &uri("state:/app/out/deep"), "y", Replace::Yes).unwrap();
            assert_eq!(out, uri("state:/app/out/deep/y"));
            let bytes = [b"aaa\0\0".as_slice(), &vec![b'b'; len - 5]].concat();
            assert_eq!(content(&store, "app"), [(out.to_string(), bytes)]);
            assert_eq!(used(&store, "app"), (u64::try_from(len).unwrap(), 1, 0, 0));
            assert_exact(&store, "app");
            // It is one thing once.
            assert!(matches!(store.write(&staged, 0, b"c"), Err(Error::NotStaged { .. })));
            assert!(matches!(
                store.commit(&staged, &uri("state:/app"), "z", Replace::Yes),
                Err(Error::NotStaged { .. })
            ));
        }
    }
}

#[test]
fn a_commit_without_replace_leaves_the_object_and_the_staged_one() {
    for fast in BOTH_PATHS {
        let (_ground, store) = Ground::sim(&roomy(fast));
        let app = uri("state:/app");
        store.put(&uri("state:/app/x"), b"old").unwrap();
        let staged = store.create2(&app, "x", &STAGED).unwrap();
        store.write(&staged, 0, b"newer").unwrap();
        let error = store.commit(&staged, &app, "x", Replace::No).unwrap_err();
        assert!(matches!(&error, Error::Exists { uri } if uri.name() == "x"), "{error}");
        assert_eq!((error.kind(), error.state()), (Kind::Exists, TargetState::Unchanged));
        assert_eq!(read(&store, "state:/app/x").unwrap(), b"old");
        store.write(&staged, 5, b"!").unwrap();
        assert_exact(&store, "app");
        store.commit(&staged, &app, "y", Replace::No).unwrap();
        let staged = store.create2(&app, "x", &STAGED).unwrap();
        store.commit(&staged, &app, "x", Replace::Yes).unwrap();
        assert_eq!(read(&store, "state:/app/x").unwrap(), b"");
        assert_eq!(read(&store, "state:/app/y").unwrap(), b"newer!");
        assert_eq!(used(&store, "app"), (6, 2, 0, 0));
        assert_exact(&store, "app");
    }
}

#[test]
fn an_open_reader_keeps_the_object_it_has() {
    for fast in BOTH_PATHS {
        let (_ground, store) = Ground::sim(&roomy(fast));
        let x = uri("state:/app/x");
        store.put(&x, b"first").unwrap();
        let first = store.open_object(&x).unwrap();
        store.put(&x, b"second, and longer").unwrap();
        let second = store.open_object(&x).unwrap();
        store.unlink(&x).unwrap();
        let mut bytes = [0; 20];
        assert_eq!(first.read_at(0, &mut bytes).unwrap(), 5);
        assert_eq!(&bytes[..5], b"first");
        assert_eq!(first.read_at(5, &mut bytes).unwrap(), 0);
        assert_eq!((first.len(), first.is_empty()), (5, false));
        assert_eq!(second.read_at(8, &mut bytes).unwrap(), 10);
        assert_eq!(&bytes[..10], b"and longer");
        assert!(is_not_found(&read(&store, "state:/app/x")));
    }
}

#[test]
fn an_object_that_is_created_is_empty_and_durable_and_only_where_nothing_is() {
    for fast in BOTH_PATHS {
        let (ground, store) = Ground::sim(&roomy(fast));
        let created = store.create2(&uri("state:/app/a/b"), "c", &CreateOpts::default()).unwrap();
        assert_eq!(created, uri("state:/app/a/b/c"));
        let again = store.create2(&uri("state:/app/a/b"), "c", &CreateOpts::default()).unwrap_err();
        assert!(matches!(again, Error::Exists { .. }), "{again}");
        // The hidden name is one of its own, and there is one of each.
        let staged = store.create2(&uri("state:/app/a/b"), "c", &STAGED).unwrap();
        let again = store.create2(&uri("state:/app/a/b"), "c", &STAGED).unwrap_err();
        assert!(matches!(again, Error::Exists { .. }), "{again}");
        assert_exact(&store, "app");
        assert_eq!(used(&store, "app"), (0, 2, 0, 1));
        store.unlink(&staged).unwrap();
        assert!(matches!(store.unlink(&staged), Err(Error::NotStaged { .. })));
        store.create2(&uri("state:/app/a/b"), "c", &STAGED).unwrap();
        drop(store);
        let (store, _) = ground.open().unwrap();
        assert_eq!(content(&store, "app"), [("state:/app/a/b/c".to_owned(), vec![])]);
        assert_eq!(used(&store, "app"), (0, 1, 0, 0));
        assert_exact(&store, "app");
    }
}

#[test]
fn what_was_staged_is_gone_after_a_close_and_swept_after_a_kill() {
    for closed in [true, false] {
        let (ground, store) = Ground::sim(&roomy(true));
        let staged = store.create2(&uri("state:/app/d"), "x", &STAGED).unwrap();
        store.write(&staged, 0, b"abc").unwrap();
        if closed {
            store.close().unwrap();
        } else {
            // A kill: no destructor runs. The lock of a process that is gone is free; here it is in the way.
            let dir = ground.dir("app/d");
            drop(store);
            dir.create_exclusive(OsStr::new("x.nxpart"), Mode::PRIVATE).unwrap();
        }
        let (store, report) = ground.open().unwrap();
        assert_eq!(report.recovery.orphans, u64::from(!closed));
        assert!(matches!(store.write(&staged, 0, b"x"), Err(Error::NotStaged { .. })));
        assert_eq!(used(&store, "app"), (0, 0, 0, 0));
        assert_exact(&store, "app");
        assert!(ground.dir("app/d").metadata(OsStr::new("x.nxpart")).is_err());
    }
}

#[test]
fn what_cannot_be_is_refused_by_name_and_changes_nothing() {
    for fast in BOTH_PATHS {
        let (_ground, store) = Ground::sim(&roomy(fast));
        let app = uri("state:/app");
        store.put(&uri("state:/app/d/x"), b"x").unwrap();
        let d = uri("state:/app/d");
        let a_directory = |outcome: content::Result<()>| {
            let error = outcome.unwrap_err();
            assert!(matches!(&error, Error::NotAnObject { kind: media::FileKind::Dir, .. }), "{error}");
            assert_eq!((error.kind(), error.state()), (Kind::Invalid, TargetState::Unchanged));
        };
        a_directory(store.put(&d, b"x"));
        a_directory(store.put(&app, b"x"));
        a_directory(store.put_from(&d, &mut [0_u8; 5000].as_slice(), None).map(drop));
        a_directory(store.put_from(&app, &mut b"x".as_slice(), None).map(drop));
        a_directory(store.unlink(&d));
        a_directory(store.open_object(&d).map(drop));
        a_directory(store.fsync(&d));
        let staged = store.create2(&app, "t", &STAGED).unwrap();
        a_directory(store.commit(&staged, &app, "d", Replace::Yes).map(drop));
        // Below an object there is nothing, and nothing can be.
        let below = uri("state:/app/d/x/y");
        assert!(is_not_found(&read(&store, below.as_str())));
        for outcome in [
            store.put(&below, b"1"),
            store.put_from(&below, &mut [0_u8; 5000].as_slice(), None).map(drop),
            store.unlink(&below),
            store.commit(&staged, &uri("state:/app/d/x"), "y", Replace::Yes).map(drop),
            store.create2(&uri("state:/app/d/x"), "y", &STAGED).map(drop),
        ] {
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.state()), (Kind::Invalid, TargetState::Unchanged), "{error}");
        }
        let error = store.dirsync(&uri("state:/app/d/x")).unwrap_err();
        assert!(matches!(error, Error::NotAnObject { .. }));
        assert!(matches!(store.dirsync(&uri("state:/app/none")), Err(Error::NotFound { .. })));
        assert!(matches!(store.fsync(&uri("state:/app/none")), Err(Error::NotFound { .. })));
        assert!(matches!(store.unlink(&uri("state:/app/none")), Err(Error::NotFound { .. })));
        assert!(matches!(store.unlink(&uri("state:/none/none")), Err(Error::NotFound { .. })));
        // An object stays in its app.
        let error = store.commit(&staged, &uri("state:/other"), "t", Replace::Yes).unwrap_err();
        assert!(matches!(error, Error::OtherApp { .. }), "{error}");
        for bad in ["a/b", "..", "", "x.nxpart", "\0", &"n".repeat(249)] {
            assert!(matches!(store.create2(&app, bad, &STAGED), Err(Error::Uri(_))), "{bad}");
            assert!(matches!(store.commit(&staged, &app, bad, Replace::Yes), Err(Error::Uri(_))), "{bad}");
        }
        let error = store.create2(&staged, "x", &STAGED).unwrap_err();
        assert!(matches!(error, Error::Uri(UriError::ReservedName { .. })), "{error}");
        assert!(matches!(store.put(&staged, b"x"), Err(Error::Staged { .. })));
        assert!(matches!(store.usage("content"), Err(Error::Uri(UriError::ReservedApp { .. }))));
        assert!(matches!(store.write(&uri("state:/app/d/x"), 0, b"y"), Err(Error::NotStaged { .. })));
        // Everything is as it was, and what was staged still is.
        assert_eq!(content(&store, "app"), [("state:/app/d/x".to_owned(), b"x".to_vec())]);
        assert_eq!(used(&store, "app"), (1, 2, 0, 1));
        assert_exact(&store, "app");
        store.write(&staged, 0, b"t").unwrap();
        store.commit(&staged, &app, "t", Replace::No).unwrap();
        assert_eq!(read(&store, "state:/app/t").unwrap(), b"t");
    }
}

#[test]
fn the_longest_names_can_be_staged_and_committed() {
    let (_ground, store) = Ground::sim(&roomy(true));
    let name = "n".repeat(content::COMPONENT_LEN_MAX);
    let deep = (0..content::DEPTH_MAX - 1).try_fold(uri("state:/app"), |at, _| at.join("d")).unwrap();
    let staged = store.create2(&deep, &name, &STAGED).unwrap();
    store.commit(&staged, &deep, &name, Replace::No).unwrap();
    store.put(&deep.join(&name).unwrap(), b"x").unwrap();
    assert_eq!(content(&store, "app").len(), 1);
    assert!(matches!(
        store.create2(&deep.join("d").unwrap(), "x", &STAGED),
        Err(Error::Uri(UriError::TooDeep { .. }))
    ));
}

#[test]
fn barriers_as_calls_leave_nothing_for_the_next_open() {
    for by_dir in [true, false] {
        let (ground, store) = Ground::sim(&roomy(true));
        store.put(&uri("state:/app/x"), b"x").unwrap();
        if by_dir {
            store.dirsync(&uri("state:/app")).unwrap();
        } else {
            store.fsync(&uri("state:/app/x")).unwrap();
        }
        // The next frame says that all of it is complete.
        store.put(&uri("state:/app/y"), b"y").unwrap();
        drop(store);
        let (_store, report) = ground.open().unwrap();
        assert_eq!(report.to_string(), "recovery sweep orphans=0 finalized=1", "only the last one");
    }
}

#[test]
fn a_listing_has_pages_and_begins_anywhere() {
    let (_ground, store) = Ground::sim(&roomy(true));
    let names = ["state:/app/a.b", "state:/app/a/x", "state:/app/a/y", "state:/app/b", "state:/app/c"];
    for name in names {
        store.put(&uri(name), name.as_bytes()).unwrap();
    }
    store.put(&uri("state:/app2/x"), b"").unwrap();
    let list = |prefix: &str, cursor: Option<&str>, limit: usize| {
        let page = store.list(&uri(prefix), cursor.map(uri).as_ref(), limit).unwrap();
        let listed: Vec<String> = page.objects.iter().map(|listed| listed.uri.to_string()).collect();
        (listed, page.next.map(|next| next.to_string()))
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    assert_eq!(list("state:/app", None, 10), (owned(&names), None));
    assert_eq!(list("state:/app", None, 5), (owned(&names), None));
    assert_eq!(list("state:/app", None, 4), (owned(&names[..4]), Some("state:/app/b".to_owned())));
    assert_eq!(list("state:/app", Some("state:/app/b"), 4), (owned(&names[4..]), None));
    assert_eq!(list("state:/app/a", None, 10), (owned(&names[1..3]), None));
    assert_eq!(list("state:/app/b", None, 10), (owned(&names[3..4]), None));
    assert_eq!(list("state:/app/b", Some("state:/app/b"), 10), (vec![], None));
    assert_eq!(list("state:/never", None, 10), (vec![], None));
    assert!(matches!(store.list(&uri("state:/app/z"), None, 10), Err(Error::NotFound { .. })));
    for limit in [0, LIST_LIMIT_MAX + 1] {
        let refused = store.list(&uri("state:/app"), None, limit);
        assert!(matches!(refused, Err(Error::ListLimit { requested, .. }) if requested == limit));
    }
    assert!(store.list(&uri("state:/app"), None, LIST_LIMIT_MAX).is_ok());
}

#[test]
fn only_so_many_objects_are_staged_at_a_time() {
    let (_ground, store) = Ground::sim(&roomy(true));
    let app = uri("state:/app");
    let staged: Vec<Uri> =
        (0..STAGED_OPEN_MAX).map(|n| store.create2(&app, &n.to_string(), &STAGED).unwrap()).collect();
    let error = store.create2(&app, "more", &STAGED).unwrap_err();
    assert!(matches!(error, Error::Root(crash_recovery::Error::TooManyStaged { .. })), "{error}");
    assert_eq!(store.usage("app").unwrap().files, u64::try_from(STAGED_OPEN_MAX).unwrap());
    store.unlink(&staged[0]).unwrap();
    store.create2(&app, "more", &STAGED).unwrap();
    store.commit(&staged[1], &app, "1", Replace::No).unwrap();
    store.create2(&app, "another", &STAGED).unwrap();
    assert_exact(&store, "app");
}

#[test]
fn a_store_is_made_once_in_an_empty_directory() {
    let home = tempfile::tempdir().unwrap();
    let init = |path: &std::path::Path| {
        ContentStore::init_with(OsFs::shared(), path, fixed_env(1), &Config::default(), &tuning())
    };
    let open =
        |path: &std::path::Path| ContentStore::open_with(OsFs::shared(), path, fixed_env(1), &tuning());
    let full = home.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::create_dir(full.join("photos")).unwrap();
    assert!(matches!(init(&full), Err(Error::NotEmpty { entry, .. }) if entry.to_str() == Some("photos")));
    assert!(matches!(open(&full), Err(Error::NotAStore { .. })));
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1, "nothing was made there");
    let path = home.path().join("store");
    assert!(matches!(open(&path), Err(Error::NotAStore { .. })));
    init(&path).unwrap();
    assert!(matches!(init(&path), Err(Error::AlreadyAStore { .. })));
    let config = ContentStore::read_config(OsFs::shared(), &path, fixed_env(1)).unwrap();
    assert_eq!(config, Config::default());
    // Broken off before the configuration: it is no store, and is made one.
    std::fs::remove_file(path.join("content/config.json")).unwrap();
    assert!(matches!(open(&path), Err(Error::NotAStore { .. })));
    init(&path).unwrap();
    drop(open(&path).unwrap());
    let off = r#"{"schema": "content_v1_3", "fsync_barriers": false}"#;
    let dir = durable_io::Dir::open(&path).unwrap();
    dir.replace("content/config.json", off.as_bytes()).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn a_second_opener_is_told_who_holds_the_store() {
    let home = tempfile::tempdir().unwrap();
    let (ground, store) = Ground::on(OsFs::shared(), &home.path().join("store"), &roomy(true));
    let from_another_thread =
        || std::thread::scope(|scope| scope.spawn(|| ground.open().map(drop)).join().unwrap());
    for outcome in [ground.open().map(drop), from_another_thread()] {
        let error = outcome.unwrap_err();
        assert!(matches!(&error, Error::Held { holder } if !holder.is_empty()), "{error}");
        assert_eq!(error.kind(), Kind::Held);
    }
    assert!(from_another_thread().unwrap_err().to_string().contains("4242"), "the process is named");
    store.put(&uri("state:/app/x"), b"x").unwrap();
    store.close().unwrap();
    from_another_thread().unwrap();
}

#[cfg(unix)]
#[test]
fn objects_and_what_is_staged_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    for fast in BOTH_PATHS {
        let home = tempfile::tempdir().unwrap();
        let (_ground, store) = Ground::on(OsFs::shared(), &home.path().join("store"), &roomy(fast));
        let app = uri("state:/app");
        store.put(&uri("state:/app/small"), b"x").unwrap();
        store.put(&uri("state:/app/large"), &[1; 5000]).unwrap();
        store.put_from(&uri("state:/app/stream"), &mut [1_u8; 5000].as_slice(), None).unwrap();
        store.create2(&app, "staged", &STAGED).unwrap();
        let committed = store.create2(&app, "committed", &STAGED).unwrap();
        store.commit(&committed, &app, "committed", Replace::No).unwrap();
        for name in ["small", "large", "stream", "staged.nxpart", "committed"] {
            let found = std::fs::metadata(home.path().join("store/app").join(name)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }
}

#[test]
fn foreign_entries_are_reported_and_left_alone() {
    let (ground, store) = Ground::sim(&config(true, 10, 2, 100));
    store.put(&uri("state:/app/x"), b"x").unwrap();
    store.close().unwrap();
    let app = ground.dir("app");
    app.create_exclusive(OsStr::new("bad\nname"), Mode::PRIVATE).unwrap().set_len(1000).unwrap();
    ground.dir("").create_exclusive(OsStr::new("README"), Mode::PRIVATE).unwrap();
    let (store, report) = ground.open().unwrap();
    assert_eq!(report.foreign.count, 2, "{:?}", report.foreign);
    assert_eq!(used(&store, "app"), (1, 1, 0, 0));
    assert_eq!(content(&store, "app").len(), 1);
    // A file that has the name of an app is no object of it.
    ground.dir("").create_exclusive(OsStr::new("file"), Mode::PRIVATE).unwrap();
    assert!(matches!(store.unlink(&uri("state:/file")), Err(Error::NotAnObject { .. })));
    assert!(matches!(store.unlink(&uri("state:/app")), Err(Error::NotAnObject { .. })));
    store.close().unwrap();
    assert!(app.metadata(OsStr::new("bad\nname")).is_ok());
    assert!(ground.dir("").metadata(OsStr::new("file")).is_ok());
}

#[cfg(unix)]
#[test]
fn a_link_in_the_tree_leads_nowhere() {
    for fast in BOTH_PATHS {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (_ground, store) = Ground::on(OsFs::shared(), &home.path().join("store"), &roomy(fast));
        store.put(&uri("state:/app/x"), b"x").unwrap();
        durable_io::Dir::open(outside.path()).unwrap().replace("theirs", b"theirs").unwrap();
        for link in ["store/app/link", "store/linked"] {
            std::os::unix::fs::symlink(outside.path(), home.path().join(link)).unwrap();
        }
        for dir in ["state:/app/link", "state:/linked", "state:/app/link/deeper"] {
            let dir = uri(dir);
            let theirs = dir.join("theirs").unwrap();
            let staged = store.create2(&uri("state:/app"), "t", &STAGED).unwrap();
            let refused = [
                store.put(&theirs, b"ours"),
                store.put(&theirs, &[1; 5000]),
                store.put_from(&theirs, &mut [1; 5000].as_slice(), None).map(drop),
                store.unlink(&theirs),
                store.create2(&dir, "theirs", &STAGED).map(drop),
                store.create2(&dir, "ours", &CreateOpts::default()).map(drop),
            ];
            for error in refused.map(Result::unwrap_err) {
                assert!(matches!(&error, Error::NotAnObject { .. }), "{error}");
            }
            let error = store.commit(&staged, &dir, "ours", Replace::Yes).unwrap_err();
            assert!(matches!(error, Error::NotAnObject { .. } | Error::OtherApp { .. }), "{error}");
            store.unlink(&staged).unwrap();
            assert!(is_not_found(&read(&store, theirs.as_str())));
        }
        assert_eq!(content(&store, "app"), [("state:/app/x".to_owned(), b"x".to_vec())]);
        assert_eq!(used(&store, "app"), (1, 1, 0, 0));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(outside.path().join("theirs")).unwrap(), b"theirs");
    }
}
