//! What transactions refuse, and that nothing has happened then.

use crash_recovery::{Error, FastPath, Publish, STAGED_OPEN_MAX};
use durable_io::{Kind, TargetState};

use crate::common::{all_ways, at, files, open, open_on, owned, put, shared, these};
use media::OsFs;

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    for options in all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        put(&root, "a", b"1");
        std::fs::create_dir(home.path().join("dir")).unwrap();
        let before = files(home.path());
        type Wish<'w> =
            (&'w str, Kind, &'w dyn Fn(&mut crash_recovery::Transaction<'_>) -> crash_recovery::Result<()>);
        let wishes: &[Wish<'_>] = &[
            ("create", Kind::Exists, &|wish| wish.create(&at("a"), b"2")),
            ("remove", Kind::NotFound, &|wish| wish.remove(&at("b"))),
            ("rename", Kind::NotFound, &|wish| wish.rename(&at("b"), &at("c"))),
            ("remove below", Kind::NotFound, &|wish| wish.remove(&at("x/y"))),
            ("directory", Kind::Invalid, &|wish| wish.remove(&at("dir"))),
            ("over a directory", Kind::Invalid, &|wish| wish.rename(&at("a"), &at("dir"))),
        ];
        for (what, kind, wish) in wishes {
            let mut transaction = root.transaction();
            transaction.replace(&at("other"), b"not written").unwrap();
            wish(&mut transaction).unwrap();
            let failure = transaction.commit().unwrap_err();
            assert_eq!(
                (failure.error.kind(), failure.error.state()),
                (*kind, TargetState::Unchanged),
                "{what}"
            );
            assert_eq!(files(home.path()), before, "{what}: {options:?}");
        }
        put(&root, "a", b"goes on");
        assert_eq!(files(home.path()), these(&[("a", "goes on")]));
    }
}

#[test]
fn a_name_has_one_future() {
    let home = tempfile::tempdir().unwrap();
    let (root, _) = open(home.path(), &owned(FastPath::On));
    let mut transaction = root.transaction();
    transaction.replace(&at("a"), b"1").unwrap();
    let repeated = |outcome: crash_recovery::Result<()>| matches!(outcome, Err(Error::Repeated { .. }));
    assert!(repeated(transaction.replace(&at("a"), b"2")));
    assert!(repeated(transaction.remove(&at("a"))));
    transaction.rename(&at("b"), &at("c")).unwrap();
    assert!(repeated(transaction.rename(&at("b"), &at("d"))));
    assert!(repeated(transaction.remove(&at("b"))));
    assert!(repeated(transaction.rename(&at("x"), &at("x"))));
    transaction.remove(&at("e")).unwrap();
    assert!(repeated(transaction.rename(&at("e"), &at("f"))));
}

#[test]
fn names_of_the_roots_own_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (root, _) = open(home.path(), &owned(FastPath::On));
    let mut transaction = root.transaction();
    for path in ["own/journal", "own/journal/x", "a.nxpart"] {
        assert!(matches!(transaction.replace(&at(path), b""), Err(Error::OwnPath { .. })), "{path}");
    }
    transaction.replace(&at("own/journals"), b"").unwrap();
    assert!(matches!(root.stage(&at("a")), Err(Error::OwnPath { .. })));
    drop(transaction);
    drop(root);
    let other = tempfile::tempdir().unwrap();
    let (root, _) = open(other.path(), &shared());
    assert!(matches!(root.stage(&at("s.nxpart")), Err(Error::OwnPath { .. })));
    let mut transaction = root.transaction();
    // In a directory of others it is a name like any other.
    transaction.replace(&at("a.nxpart"), b"theirs").unwrap();
    transaction.commit().unwrap();
    assert_eq!(files(other.path()), these(&[("a.nxpart", "theirs")]));
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    for options in all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (_root, _) = open(home.path(), &options);
        let error = open_on(OsFs::shared(), home.path(), &options).unwrap_err();
        assert_eq!(error.kind(), Kind::Held, "{error}");
        assert_eq!(error.holder().as_deref(), Some("this thread"));
        let home = home.path().to_owned();
        let told = std::thread::spawn(move || open_on(OsFs::shared(), &home, &options).unwrap_err());
        let error = told.join().unwrap();
        assert_eq!(error.kind(), Kind::Held, "{error}");
        let holder = error.holder().unwrap();
        assert!(
            holder.contains(&std::process::id().to_string()) || holder.contains("this process"),
            "{holder}"
        );
    }
}

#[test]
fn a_staged_file_that_cannot_be_published_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let (root, _) = open(home.path(), &owned(FastPath::On));
    put(&root, "a", b"1");
    let mut staged = root.stage(&at("a.nxpart")).unwrap();
    staged.write_at(3, b"four").unwrap();
    assert_eq!(staged.len(), 7);
    assert!(matches!(root.stage(&at("a.nxpart")), Err(Error::Exists { .. })));
    let mut transaction = root.transaction();
    transaction.publish(staged, &at("a"), Publish::CreateNew).unwrap();
    let mut failure = transaction.commit().unwrap_err();
    assert!(matches!(failure.error, Error::Exists { .. }));
    let staged = failure.staged.pop().unwrap();
    let mut transaction = root.transaction();
    transaction.publish(staged, &at("b"), Publish::CreateNew).unwrap();
    transaction.commit().unwrap();
    assert_eq!(files(home.path()), these(&[("a", "1"), ("b", "\0\0\0four")]));
    drop(root.stage(&at("gone.nxpart")).unwrap());
    assert_eq!(files(home.path()).len(), 2);
}

#[test]
fn so_many_staged_files_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    let (root, _) = open(home.path(), &owned(FastPath::On));
    let stage = |number: usize| root.stage(&at(&format!("{number}.nxpart")));
    let mut staged: Vec<_> = (0..STAGED_OPEN_MAX).map(|number| stage(number).unwrap()).collect();
    let refused = stage(STAGED_OPEN_MAX).unwrap_err();
    assert!(matches!(refused, Error::TooManyStaged { open, .. } if open == STAGED_OPEN_MAX), "{refused}");
    drop(staged.pop());
    drop(stage(STAGED_OPEN_MAX).unwrap());
}

/// Nothing of ours is a link: whoever put it there would have the root write, and remove, outside of itself. In a directory of
/// others they are followed, as everything there does.
#[cfg(unix)]
#[test]
fn a_root_of_our_own_is_not_led_out_of_itself_by_a_link() {
    for fast in [FastPath::On, FastPath::Off] {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, _) = open(home.path(), &owned(fast));
        put(&root, "d/a", b"1");
        durable_io::Dir::open(outside.path()).unwrap().replace("x", b"theirs").unwrap();
        std::os::unix::fs::symlink(outside.path(), home.path().join("d/link")).unwrap();
        let is_refused = |outcome: crash_recovery::Result<()>| {
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::NotAFile { kind: media::FileKind::Symlink, .. }), "{error}");
        };
        for path in ["d/link/x", "d/link/deeper/y"] {
            let mut transaction = root.transaction();
            is_refused(transaction.replace(&at(path), b"1"));
            is_refused(transaction.replace(&at(path), &[1; 100_000]));
            is_refused(transaction.remove(&at(path)));
            is_refused(transaction.rename(&at("d/a"), &at(path)));
            is_refused(transaction.rename(&at(path), &at("d/b")));
            is_refused(root.stage(&at(&format!("{path}.nxpart"))).map(drop));
        }
        assert_eq!(files(outside.path()), these(&[("x", "theirs")]));
    }
}
