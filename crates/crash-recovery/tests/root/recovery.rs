//! What the next open finds after a process has died half-way, or another program has been there, or the journal is gone.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "other programs know nothing of barriers")]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crash_recovery::{Error, FastPath, Journaling, Publish, Recovery, Root, RootOptions};
use durable_io::{Durability, Kind, TargetState};
use media::doubles::{Call, Listener, Op, TapFs};
use media::{OsFs, Reason};

use crate::common::{at, files, open, open_on, owned, publish, put, shared, these};

const ENOSPC: i32 = 28;
const EINVAL: i32 = 22;

/// What somebody does to a file or a directory.
type Deed<'d> = (&'d str, &'d dyn Fn(&Path));

/// Fails calls of one kind on one name, from when it is told to.
#[derive(Debug)]
struct Refuse {
    op: Op,
    /// Part of what the call says: its subject, or the new name of a rename.
    about: &'static str,
    code: i32,
    armed: AtomicBool,
}

impl Refuse {
    fn new(op: Op, about: &'static str, code: i32) -> Arc<Self> {
        Arc::new(Self { op, about, code, armed: AtomicBool::new(false) })
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}

impl Listener for Refuse {
    fn before(&self, call: &Call) -> io::Result<()> {
        let is_it = call.op == self.op && call.to_string().contains(self.about);
        match is_it && self.armed.load(Ordering::SeqCst) {
            true => Err(io::Error::from_raw_os_error(self.code)),
            false => Ok(()),
        }
    }
}

/// A root on which `refuse` has its say.
fn open_refusing(home: &Path, options: &RootOptions, refuse: &Arc<Refuse>) -> (Root, Recovery) {
    open_on(TapFs::shared(OsFs::shared(), Arc::<Refuse>::clone(refuse)), home, options).unwrap()
}

/// `a` and `b` are replaced together, `c` goes away, and the disk is full when `b` is to get its name.
fn half_way(home: &Path, options: &RootOptions) -> Error {
    let refuse = Refuse::new(Op::Rename, " b", ENOSPC);
    let (root, _) = open_refusing(home, options, &refuse);
    for name in ["a", "b", "c"] {
        put(&root, name, b"old");
    }
    refuse.arm();
    let mut transaction = root.transaction();
    transaction.replace(&at("a"), b"new a").unwrap();
    transaction.replace(&at("b"), b"new b").unwrap();
    transaction.remove(&at("c")).unwrap();
    let failure = transaction.commit().unwrap_err();
    assert!(failure.staged.is_empty());
    // Nothing more is taken: nobody could tell what comes of it.
    let mut later = root.transaction();
    assert!(matches!(later.replace(&at("d"), b"").unwrap_err(), Error::Poisoned { .. }));
    failure.error
}

const DONE: [(&str, &str); 2] = [("a", "new a"), ("b", "new b")];

#[test]
fn a_full_disk_behind_the_commit_point_is_durable_and_not_visible_and_the_next_open_finishes_it() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        let error = half_way(home.path(), &options);
        assert_eq!((error.state(), error.kind()), (TargetState::DurableNotVisible, Kind::NoSpace), "{error}");
        assert!(error.hint().unwrap().contains("open the root again"));
        let (root, recovery) = open(home.path(), &options);
        assert!(recovery.finalized > 0 && recovery.conflicts.is_empty(), "{recovery:?}");
        assert_eq!(files(home.path()), these(&DONE), "{options:?}");
        put(&root, "a", b"goes on");
    }
}

#[test]
fn a_full_disk_during_recovery_loses_nothing() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        for op in [Op::Rename, Op::CreateExclusive, Op::WriteAt, Op::DirSync, Op::SyncAll] {
            let home = tempfile::tempdir().unwrap();
            half_way(home.path(), &options);
            // Everything from the first such call on.
            let refuse = Refuse::new(op, "", ENOSPC);
            refuse.arm();
            let fs = TapFs::shared(OsFs::shared(), Arc::<Refuse>::clone(&refuse));
            if let Err(error) = open_on(fs, home.path(), &options) {
                assert!(matches!(error.kind(), Kind::NoSpace | Kind::Poisoned), "{op:?}: {error:?}");
            }
            let (_root, recovery) = open(home.path(), &options);
            assert_eq!(recovery.read_only, None);
            assert_eq!(files(home.path()), these(&DONE), "{op:?} {options:?}");
        }
    }
}

#[test]
fn recovery_twice_is_recovery_once() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        half_way(home.path(), &options);
        let (root, first) = open(home.path(), &options);
        assert!(first.finalized > 0);
        drop(root);
        let (_root, second) = open(home.path(), &options);
        assert_eq!((second.finalized, second.orphans), (0, 0), "{options:?}");
        assert_eq!(files(home.path()), these(&DONE));
    }
}

/// `txn` against a program that knows nothing of it: what it has changed since is its.
#[test]
fn what_others_changed_between_crash_and_recovery_is_left_alone_and_reported() {
    let changes: &[Deed<'_>] = &[
        ("replaced", &|b| {
            fs::write(b.with_extension("new"), "theirs").unwrap();
            fs::rename(b.with_extension("new"), b).unwrap();
        }),
        ("written in place", &|b| {
            fs::write(b, "theirs").unwrap();
            let later = SystemTime::now() + Duration::from_secs(5);
            fs::File::options().write(true).open(b).unwrap().set_modified(later).unwrap();
        }),
    ];
    for (what, change) in changes {
        let home = tempfile::tempdir().unwrap();
        half_way(home.path(), &shared());
        change(&home.path().join("b"));
        let (root, recovery) = open(home.path(), &shared());
        let [conflict] = recovery.conflicts.as_slice() else { panic!("{what}: {recovery:?}") };
        assert_eq!((conflict.path.as_str(), recovery.finalized), ("b", 1), "{what}");
        assert_eq!(files(home.path()), these(&[("a", "new a"), ("b", "theirs")]), "{what}");
        let kept = home.path().join(conflict.kept.as_deref().unwrap());
        assert_eq!(fs::read_to_string(kept).unwrap(), "new b");
        // It is said once, and the name is anybody's again.
        drop(root);
        let (root, again) = open(home.path(), &shared());
        assert!(again.conflicts.is_empty());
        put(&root, "b", b"ours");
    }
}

#[test]
fn a_name_that_others_took_away_or_made_a_directory_is_a_conflict_too() {
    for change in [0, 1] {
        let home = tempfile::tempdir().unwrap();
        half_way(home.path(), &shared());
        let b = home.path().join("b");
        fs::remove_file(&b).unwrap();
        if change == 1 {
            fs::create_dir(&b).unwrap();
        }
        let (_root, recovery) = open(home.path(), &shared());
        assert_eq!(recovery.conflicts.len(), 1, "{recovery:?}");
        assert_eq!(files(home.path()), these(&[("a", "new a")]));
    }
}

#[test]
fn with_a_damaged_or_missing_journal_nothing_is_swept_and_nothing_may_be_changed() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        let journal = |home: &Path| home.join(&options.journal_dir).join("journal");
        let harms: &[Deed<'_>] = &[
            ("missing", &|home| fs::remove_file(journal(home)).unwrap()),
            ("cut short", &|home| {
                fs::File::options().write(true).open(journal(home)).unwrap().set_len(5000).unwrap();
            }),
            ("wiped", &|home| {
                let len = fs::metadata(journal(home)).unwrap().len();
                fs::write(journal(home), vec![0; usize::try_from(len).unwrap()]).unwrap();
            }),
            ("another's", &|home| {
                let other = tempfile::tempdir().unwrap();
                let (root, _) = open(other.path(), &options);
                put(&root, "x", b"x");
                drop(root);
                let mut theirs = fs::read(journal(other.path())).unwrap();
                let ours = fs::read(journal(home)).unwrap();
                let half = ours.len() / 2;
                theirs[half..].copy_from_slice(&ours[half..]);
                fs::write(journal(home), theirs).unwrap();
            }),
        ];
        for (what, harm) in harms {
            let home = tempfile::tempdir().unwrap();
            half_way(home.path(), &options);
            harm(home.path());
            let before = files(home.path());
            let (root, recovery) = open(home.path(), &options);
            let why = recovery.read_only.clone().unwrap_or_else(|| panic!("{what}: {recovery:?}"));
            assert!(why.contains("journal"), "{why}");
            assert_eq!((recovery.orphans, recovery.finalized), (0, 0));
            assert_eq!(files(home.path()), before, "{what}: {options:?}");
            let mut transaction = root.transaction();
            let refused = transaction.replace(&at("a"), b"").unwrap_err();
            assert!(
                matches!(refused, Error::ReadOnly { .. }) && refused.kind() == Kind::Corrupt,
                "{refused}"
            );
            drop(transaction);
            root.close().unwrap();
            // And so it stays: no open makes a new journal in its place.
            let (_root, again) = open(home.path(), &options);
            assert_eq!(again.read_only, recovery.read_only);
            assert_eq!(files(home.path()), before);
        }
    }
}

/// A list that a committed transaction depends on.
#[test]
fn a_list_that_is_lost_or_changed_is_damage() {
    for harm in [0, 1] {
        let options = shared();
        let home = tempfile::tempdir().unwrap();
        let refuse = Refuse::new(Op::Rename, " b", ENOSPC);
        let (root, _) = open_refusing(home.path(), &options, &refuse);
        refuse.arm();
        let mut transaction = root.transaction();
        for number in 0..5000 {
            transaction.replace(&at(&format!("a{number:0100}")), b"1").unwrap();
        }
        transaction.replace(&at("b"), b"2").unwrap();
        let failure = transaction.commit().unwrap_err();
        assert_eq!(failure.error.state(), TargetState::DurableNotVisible, "{}", failure.error);
        drop(root);
        let folder = home.path().join(&options.journal_dir);
        let mut names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let list = names.find(|path| path.to_string_lossy().contains("list-")).unwrap();
        let content = fs::read(&list).unwrap();
        match harm {
            0 => fs::remove_file(&list).unwrap(),
            _ => {
                let mut changed = content.clone();
                changed[100] ^= 1;
                fs::write(&list, changed).unwrap();
            }
        }
        let before = files(home.path());
        let (root, recovery) = open(home.path(), &options);
        assert!(recovery.read_only.unwrap().contains("list"));
        assert_eq!(files(home.path()), before);
        drop(root);
        fs::write(&list, content).unwrap();
        let (_root, recovery) = open(home.path(), &options);
        assert_eq!(recovery.finalized, 1);
        assert_eq!(files(home.path()).len(), 5001);
        assert!(!list.exists());
    }
}

/// Somebody removed the hidden name of a file that had been committed.
#[test]
fn a_staged_file_that_is_lost_is_damage_and_not_an_empty_file() {
    for options in [owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        half_way(home.path(), &options);
        let hidden = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
        let hidden = hidden.filter(|path| path.to_string_lossy().ends_with(".nxpart"));
        hidden.for_each(|path| fs::remove_file(path).unwrap());
        let before = files(home.path());
        let (_root, recovery) = open(home.path(), &options);
        assert!(recovery.read_only.unwrap().contains('b'));
        assert_eq!(files(home.path()), before);
    }
}

/// Leaves a staged file behind as a process does that is killed.
fn killed_while_staging(home: &Path, options: &RootOptions) {
    let refuse = Refuse::new(Op::Unlink, "", ENOSPC);
    let (root, _) = open_refusing(home, options, &refuse);
    put(&root, "a", b"1");
    refuse.arm();
    let mut transaction = root.transaction();
    let long = "x".repeat(100 << 10);
    transaction.write_from(&at("d/b"), long.as_bytes(), Publish::Replace).unwrap();
    drop(transaction);
}

fn staged_in(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".nxpart")).count()
}

#[test]
fn what_a_dead_process_was_staging_is_swept_at_once_where_the_journal_knows_it() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        killed_while_staging(home.path(), &options);
        assert_eq!(staged_in(&home.path().join("d")), 1);
        let (_root, recovery) = open(home.path(), &options);
        assert_eq!(
            recovery.to_string(),
            "recovery sweep orphans=1 finalized=".to_owned() + &recovery.finalized.to_string()
        );
        assert_eq!(files(home.path()), these(&[("a", "1")]), "{options:?}");
    }
}

/// A staged file that the journal has forgotten, as after a power cut: in a directory of others it goes when it is old.
#[test]
fn what_the_journal_does_not_know_is_swept_when_it_is_old_and_others_files_never() {
    let home = tempfile::tempdir().unwrap();
    let options = shared();
    killed_while_staging(home.path(), &options);
    let hidden = fs::read_dir(home.path().join("d")).unwrap().next().unwrap().unwrap().path();
    let name = hidden.file_name().unwrap().to_str().unwrap().to_owned();
    // Of this journal, by another process than any it knows; of another journal; of anybody.
    let (stem, _) = name.rsplit_once('-').unwrap();
    let unknown = hidden.with_file_name(format!("{}ffff-0.nxpart", stem.get(..stem.len() - 4).unwrap()));
    let foreign = hidden.with_file_name(name.replacen("txn-", "txn-f", 1));
    let theirs = hidden.with_file_name("theirs.nxpart");
    for path in [&unknown, &foreign, &theirs] {
        fs::write(path, "staged").unwrap();
    }
    let dated = |path: &Path, when: SystemTime| {
        fs::File::options().write(true).open(path).unwrap().set_modified(when).unwrap();
    };
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let reopen = |expected: (u64, u64)| {
        let (root, recovery) = open(home.path(), &options);
        assert_eq!((recovery.orphans, recovery.orphans_kept), expected);
        // Not closed, so that the next open looks again.
        put(&root, "a", b"2");
        drop(root);
    };
    dated(&unknown, SystemTime::now() - minutes(9));
    reopen((1, 1));
    assert!(!hidden.exists() && unknown.exists());
    dated(&unknown, SystemTime::now() - minutes(11));
    for path in [&foreign, &theirs] {
        dated(path, SystemTime::now() - minutes(100));
    }
    reopen((1, 0));
    assert!(!unknown.exists() && foreign.exists() && theirs.exists());
    // A time in the future says nothing about the age of what a dead process left.
    fs::write(&unknown, "staged").unwrap();
    dated(&unknown, SystemTime::now() + minutes(600));
    reopen((1, 0));
    assert!(!unknown.exists());
}

#[test]
fn where_directories_cannot_be_synced_there_is_no_journal_and_it_says_so() {
    for options in [owned(FastPath::On), shared()] {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(&options.journal_dir)).unwrap();
        let refuse = Refuse::new(Op::DirSync, "", EINVAL);
        refuse.arm();
        let (root, recovery) = open_refusing(home.path(), &options, &refuse);
        assert!(
            matches!(&recovery.journaling, Journaling::Off(why) if why.contains("directory")),
            "{recovery:?}"
        );
        assert!(!home.path().join(&options.journal_dir).join("journal").exists());
        assert!(!home.path().join(".steadfast-journaled").exists());
        let mut one = root.transaction();
        one.replace(&at("a"), b"1").unwrap();
        let committed = one.commit().unwrap();
        assert_eq!(committed.durability, Durability::VisibleOnly(Reason::InvalidArgument));
        let committed = publish(&root, "b", b"2", Publish::Replace).unwrap();
        assert!(!committed.durability.is_durable());
        let mut one = root.transaction();
        one.rename(&at("b"), &at("c")).unwrap();
        assert!(!one.commit().unwrap().durability.is_durable());
        let mut two = root.transaction();
        two.replace(&at("a"), b"3").unwrap();
        two.remove(&at("c")).unwrap();
        let refused = two.commit().unwrap_err().error;
        assert!(
            matches!(refused, Error::NotJournaled { .. }) && refused.kind() == Kind::Unsupported,
            "{refused}"
        );
        assert_eq!(files(home.path()), these(&[("a", "1"), ("c", "2")]));
        root.close().unwrap();
    }
}

/// Every barrier of a shared root is paid when the answer is given: dropping the journal then loses nothing of it.
#[test]
fn a_process_that_dies_while_it_makes_the_journal_leaves_nothing_in_the_way() {
    let home = tempfile::tempdir().unwrap();
    let options = shared();
    let folder = home.path().join(&options.journal_dir);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("journal.new"), "half").unwrap();
    let (root, recovery) = open(home.path(), &options);
    assert_eq!((&recovery.journaling, &recovery.read_only), (&Journaling::On, &None));
    put(&root, "a", b"1");
    assert!(!folder.join("journal.new").exists());
    drop(root);
    // It died between the journal and the marker.
    fs::remove_file(home.path().join(".steadfast-journaled")).unwrap();
    let (_root, recovery) = open(home.path(), &options);
    assert_eq!(recovery.read_only, None);
    assert!(home.path().join(".steadfast-journaled").exists());
}
