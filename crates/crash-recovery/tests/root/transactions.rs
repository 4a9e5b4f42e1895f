//! What transactions do.

use crash_recovery::{FastPath, Publish, RootOptions};

use crate::common::{all_ways, at, files, open, owned, publish, put, remove, shared, these};

#[test]
fn every_kind_of_change_is_there_at_once_and_after_reopening() {
    for options in all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (root, recovery) = open(home.path(), &options);
        assert_eq!(recovery.to_string(), "recovery sweep orphans=0 finalized=0");
        put(&root, "a", b"1");
        put(&root, "d/e/b", b"2");
        put(&root, "a", b"3");
        publish(&root, "d/staged", b"4", Publish::Replace).unwrap();
        let mut transaction = root.transaction();
        transaction.create(&at("new"), b"5").unwrap();
        transaction.replace(&at("a"), b"6").unwrap();
        transaction.remove(&at("d/e/b")).unwrap();
        transaction.rename(&at("d/staged"), &at("moved")).unwrap();
        let committed = transaction.commit().unwrap();
        assert_eq!(committed.names, 5);
        let expected = these(&[("a", "6"), ("moved", "4"), ("new", "5")]);
        assert_eq!(files(home.path()), expected, "{options:?}");
        root.close().unwrap();
        let (root, recovery) = open(home.path(), &options);
        assert_eq!((recovery.finalized, recovery.orphans, recovery.was_closed), (0, 0, true), "{options:?}");
        assert_eq!(files(home.path()), expected);
        remove(&root, "a");
        // Dropped, not closed: as after a kill.
        drop(root);
        let (_root, recovery) = open(home.path(), &options);
        assert!(!recovery.was_closed && recovery.conflicts.is_empty());
        assert_eq!(files(home.path()), these(&[("moved", "4"), ("new", "5")]), "{options:?}");
    }
}

#[test]
fn two_renames_against_each_other_swap_and_a_row_of_them_rotates() {
    for options in all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        for name in ["a", "b", "d/c"] {
            put(&root, name, name.as_bytes());
        }
        let mut swap = root.transaction();
        swap.rename(&at("a"), &at("b")).unwrap();
        swap.rename(&at("b"), &at("a")).unwrap();
        swap.commit().unwrap();
        assert_eq!(files(home.path()), these(&[("a", "b"), ("b", "a"), ("d/c", "d/c")]), "{options:?}");
        let mut row = root.transaction();
        row.rename(&at("a"), &at("b")).unwrap();
        row.rename(&at("b"), &at("d/c")).unwrap();
        row.rename(&at("d/c"), &at("a")).unwrap();
        row.commit().unwrap();
        assert_eq!(files(home.path()), these(&[("a", "d/c"), ("b", "b"), ("d/c", "a")]), "{options:?}");
        let mut aside = root.transaction();
        aside.rename(&at("a"), &at("old")).unwrap();
        aside.replace(&at("a"), b"new").unwrap();
        aside.commit().unwrap();
        let expected = these(&[("a", "new"), ("b", "b"), ("d/c", "a"), ("old", "d/c")]);
        assert_eq!(files(home.path()), expected, "{options:?}");
    }
}

/// What does not fit into a frame goes to a list of its own, and what does not ride in it to staged files.
#[test]
fn a_transaction_of_many_names_and_of_long_files() {
    for options in all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        let long = "x".repeat(200 << 10);
        let mut transaction = root.transaction();
        for number in 0..3000 {
            transaction.replace(&at(&format!("d{}/{number:060}", number % 7)), b"small").unwrap();
        }
        transaction.write_from(&at("long"), long.as_bytes(), Publish::Replace).unwrap();
        assert_eq!(transaction.commit().unwrap().names, 3001);
        assert_eq!(files(home.path()).len(), 3001, "{options:?}");
        root.close().unwrap();
        let left = std::fs::read_dir(home.path().join(&options.journal_dir)).unwrap();
        let mut left: Vec<String> =
            left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["journal", "journal.lock"], "{options:?}");
    }
}

/// The journal is much smaller than what goes through it.
#[test]
fn the_journal_is_used_again_and_again() {
    for options in [owned(FastPath::On), shared()] {
        let options = RootOptions { journal_bytes: 160 << 10, ..options };
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        for number in 0..200_u32 {
            put(&root, &format!("n{}", number % 5), &number.to_le_bytes().repeat(500));
        }
        assert!(root.stats().journal.switches > 3, "{:?}", root.stats());
        for number in 195..200_u32 {
            let bytes = std::fs::read(home.path().join(format!("n{}", number % 5))).unwrap();
            assert_eq!(bytes, number.to_le_bytes().repeat(500));
        }
    }
}

#[test]
fn threads_share_a_root() {
    for options in all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let root = &root;
                scope.spawn(move || {
                    for number in 0..40 {
                        put(root, &format!("t{thread}/own"), format!("{number}").as_bytes());
                        put(root, "common", format!("{thread} {number}").as_bytes());
                        let mut two = root.transaction();
                        two.replace(&at("left"), format!("{thread} {number}").as_bytes()).unwrap();
                        two.replace(&at("right"), format!("{thread} {number}").as_bytes()).unwrap();
                        two.commit().unwrap();
                    }
                });
            }
        });
        let found = files(home.path());
        assert_eq!(found.len(), 11, "{options:?}");
        let of = |name: &str| found.iter().find(|(found, _)| found == name).map(|(_, text)| text.clone());
        assert_eq!(of("left"), of("right"));
        assert!((0..8).all(|thread| of(&format!("t{thread}/own")).as_deref() == Some("39")));
        drop(root);
        let (_root, recovery) = open(home.path(), &options);
        assert!(recovery.conflicts.is_empty());
        assert_eq!(files(home.path()), found, "{options:?}");
    }
}

/// Whoever counts what is in the tree needs to know what a commit took away, as it was when its turn came.
#[test]
fn a_commit_says_what_the_names_had_before() {
    for options in all_ways() {
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        let mut first = root.transaction();
        first.replace(&at("a"), b"12345").unwrap();
        first.create(&at("d/b"), b"123").unwrap();
        let first = first.commit().unwrap();
        assert_eq!((first.names, first.files_before, first.bytes_before), (2, 0, 0), "{options:?}");
        let mut second = root.transaction();
        second.replace(&at("a"), b"").unwrap();
        second.rename(&at("d/b"), &at("c")).unwrap();
        let second = second.commit().unwrap();
        assert_eq!((second.names, second.files_before, second.bytes_before), (3, 2, 8), "{options:?}");
        let mut third = root.transaction();
        third.remove(&at("c")).unwrap();
        let third = third.commit().unwrap();
        assert_eq!((third.names, third.files_before, third.bytes_before), (1, 1, 3), "{options:?}");
    }
}

#[test]
fn nothing_written_far_behind_the_end_does_not_make_a_staged_file_longer() {
    for options in [owned(FastPath::On), owned(FastPath::Off)] {
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        let mut staged = root.stage(&at("a.nxpart")).unwrap();
        staged.write_at(0, b"abc").unwrap();
        staged.write_at(1 << 20, b"").unwrap();
        assert_eq!(staged.len(), 3);
        let mut transaction = root.transaction();
        transaction.publish(staged, &at("a"), Publish::Replace).unwrap();
        transaction.commit().unwrap();
        assert_eq!(files(home.path()), [("a".to_owned(), "abc".to_owned())], "{options:?}");
    }
}
