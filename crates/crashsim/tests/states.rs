//! Which states a power cut may leave, exactly, for small traces: the contract of the seam and the profiles, one by one.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crashsim::{Disks, Fault, FileProfile, FsImage, Medium, Random, SimFs, Trace};
use media::{Access, Dir, File, Fs as _, Mode, RenameMode};

/// A file system with a durable start, and then a script.
struct Script {
    fs: SimFs,
    start: FsImage,
}

impl Script {
    fn after(prepare: impl FnOnce(&dyn Dir)) -> Self {
        let before = SimFs::new();
        prepare(&*before.shared().open_dir(Path::new("/")).unwrap());
        let start = before.image();
        Self { fs: SimFs::mount(start.clone(), crashsim::Recording::On), start }
    }

    fn root(&self) -> Arc<dyn Dir> {
        self.fs.open_dir(Path::new("/")).unwrap()
    }

    /// Every state at the last crash point, as `name=content` words.
    fn states(&self, profile: FileProfile) -> BTreeSet<String> {
        let points = SimFs::points(&self.start, &self.fs.trace(), profile);
        let point = points.last().unwrap();
        let digits = (0..point.combinations()).map(|number| point.digits(number));
        digits
            .filter(|digits| point.permits(digits))
            .map(|digits| {
                let mut image = point.base.clone();
                point.build(&digits, |piece| piece.apply(&mut image));
                image.settle();
                words(&image, FsImage::ROOT)
            })
            .collect()
    }

    fn is(&self, profile: FileProfile, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|&words| words.to_owned()).collect();
        assert_eq!(self.states(profile), wanted, "under {}", profile.name());
    }
}

/// `a=xx b/(c=)`; runs of equal bytes as the byte and their count.
fn words(image: &FsImage, dir: u32) -> String {
    let show = |(name, &ino): (&crashsim::Name, &u32)| {
        let name = name.to_string_lossy().into_owned();
        if image.entries(ino).is_some() {
            return format!("{name}/({})", words(image, ino));
        }
        let content = image.content(ino);
        let runs = content.chunk_by(|a, b| a == b).map(|run| {
            let byte = if run[0] == 0 { "NUL".to_owned() } else { char::from(run[0]).to_string() };
            format!("{byte}{}", run.len())
        });
        let mode = image.node(ino).unwrap().attributes.mode;
        let mode = if mode == Mode::new(0o644) { String::new() } else { format!("[{mode}]") };
        format!("{name}={}{mode}", runs.collect::<Vec<_>>().join("+"))
    };
    image.entries(dir).unwrap().iter().map(show).collect::<Vec<_>>().join(" ")
}

fn create(dir: &dyn Dir, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = dir.create_exclusive(name.as_ref(), Mode::FILE).unwrap();
    if !bytes.is_empty() {
        assert_eq!(file.write_at(0, bytes).unwrap(), bytes.len());
    }
    file
}

fn rename(dir: &dyn Dir, from: &str, to: &str) {
    dir.rename(from.as_ref(), dir, to.as_ref(), RenameMode::Replace).unwrap();
}

const EVERY: [FileProfile; 5] = [
    FileProfile::POSIX_MIN,
    FileProfile::EXT4,
    FileProfile::EXT4_NO_AUTO_DA_ALLOC,
    FileProfile::XFS,
    FileProfile::BTRFS,
];

#[test]
fn a_new_file_is_there_or_not_with_or_without_its_length_and_its_bytes() {
    let script = Script::after(|_| {});
    create(&*script.root(), "f", b"xx");
    script.is(FileProfile::POSIX_MIN, &["", "f=", "f=NUL2", "f=x2"]);
    script.is(FileProfile::EXT4, &["", "f=", "f=NUL2", "f=x2"]);
    script.is(FileProfile::XFS, &["", "f=", "f=x2"]);
    script.is(FileProfile::BTRFS, &["", "f=", "f=x2"]);
    script.is(FileProfile::ORDERED, &["f=x2"]);
    script.is(FileProfile::PREFIX, &["", "f=", "f=x2"]);
}

#[test]
fn sync_of_a_file_keeps_bytes_length_and_mode_and_only_posix_loses_the_name() {
    let script = Script::after(|_| {});
    let file = create(&*script.root(), "f", b"xx");
    file.set_mode(Mode::PRIVATE).unwrap();
    file.sync_all().unwrap();
    script.is(FileProfile::POSIX_MIN, &["", "f=x2[0600]"]);
    for profile in [FileProfile::EXT4, FileProfile::XFS, FileProfile::BTRFS] {
        script.is(profile, &["f=x2[0600]"]);
    }
}

#[test]
fn sync_of_data_keeps_bytes_and_length_and_not_the_mode() {
    let script = Script::after(|root| drop(create(root, "f", b"")));
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    file.write_at(0, b"xx").unwrap();
    file.set_mode(Mode::PRIVATE).unwrap();
    file.sync_data().unwrap();
    for profile in EVERY {
        script.is(profile, &["f=x2", "f=x2[0600]"]);
    }
}

#[test]
fn sync_of_data_does_not_promise_a_cut_and_file_systems_with_a_log_keep_it() {
    let script = Script::after(|root| drop(create(root, "f", b"aaaa")));
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    file.set_len(2).unwrap();
    file.sync_data().unwrap();
    script.is(FileProfile::POSIX_MIN, &["f=a2", "f=a4"]);
    script.is(FileProfile::EXT4, &["f=a2"]);
    script.is(FileProfile::XFS, &["f=a2"]);
    file.set_len(6).unwrap();
    file.sync_data().unwrap();
    let grown = script.states(FileProfile::POSIX_MIN);
    assert!(grown.iter().all(|state| state.ends_with("NUL2") || state.ends_with("NUL4")), "{grown:?}");
}

#[test]
fn sync_of_a_directory_keeps_its_names_and_nothing_of_what_is_in_the_files() {
    let script = Script::after(|_| {});
    let root = script.root();
    create(&*root, "f", b"xx");
    root.sync().unwrap();
    script.is(FileProfile::POSIX_MIN, &["f=", "f=NUL2", "f=x2"]);
    script.is(FileProfile::XFS, &["f=", "f=x2"]);
}

#[test]
fn each_sector_is_old_or_new_and_of_several_versions_any_may_be_there() {
    let script = Script::after(|root| drop(create(root, "f", &[b'a'; 1024])));
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    file.write_at(0, &[b'b'; 1024]).unwrap();
    file.write_at(512, &[b'c'; 512]).unwrap();
    let torn = ["f=a1024", "f=a512+b512", "f=a512+c512", "f=b512+a512", "f=b1024", "f=b512+c512"];
    script.is(FileProfile::POSIX_MIN, &torn);
    script.is(FileProfile::EXT4, &torn);
    // Copied on write, block by block.
    script.is(FileProfile::BTRFS, &["f=a1024", "f=b1024", "f=b512+c512"]);
}

#[test]
fn what_a_barrier_covered_stays_and_what_came_after_is_open() {
    let script = Script::after(|root| drop(create(root, "f", b"a")));
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    file.write_at(0, b"b").unwrap();
    file.sync_all().unwrap();
    file.write_at(0, b"c").unwrap();
    for profile in EVERY {
        script.is(profile, &["f=b1", "f=c1"]);
    }
}

#[test]
fn a_rename_is_atomic_and_two_renames_have_no_order_in_posix() {
    let script = Script::after(|root| {
        create(root, "a", b"1");
        create(root, "b", b"2");
    });
    let root = script.root();
    rename(&*root, "b", "c");
    rename(&*root, "a", "b");
    // Without the first, the second rename takes the place of what was to be moved away.
    script.is(FileProfile::POSIX_MIN, &["a=11 b=21", "a=11 c=21", "b=11", "b=11 c=21"]);
    for profile in [FileProfile::EXT4, FileProfile::XFS, FileProfile::BTRFS, FileProfile::PREFIX] {
        script.is(profile, &["a=11 b=21", "a=11 c=21", "b=11 c=21"]);
    }
}

#[test]
fn a_rename_between_directories_is_durable_when_both_are_synced() {
    let script = Script::after(|root| {
        for name in ["d", "e"] {
            root.create_dir(name.as_ref(), Mode::DIR).unwrap();
        }
        create(&*root.open_dir("d".as_ref()).unwrap(), "f", b"1");
    });
    let (d, e) =
        (script.root().open_dir("d".as_ref()).unwrap(), script.root().open_dir("e".as_ref()).unwrap());
    d.rename("f".as_ref(), &*e, "f".as_ref(), RenameMode::Replace).unwrap();
    script.is(FileProfile::POSIX_MIN, &["d/(f=11) e/()", "d/() e/(f=11)"]);
    e.sync().unwrap();
    script.is(FileProfile::POSIX_MIN, &["d/(f=11) e/()", "d/(f=11) e/(f=11)", "d/() e/(f=11)"]);
    script.is(FileProfile::BTRFS, &["d/(f=11) e/(f=11)", "d/() e/(f=11)"]);
    script.is(FileProfile::EXT4, &["d/() e/(f=11)"]);
    d.sync().unwrap();
    for profile in EVERY {
        script.is(profile, &["d/() e/(f=11)"]);
    }
}

#[test]
fn names_come_back_when_an_unlink_is_lost() {
    let script = Script::after(|root| drop(create(root, "f", b"x")));
    let root = script.root();
    root.unlink("f".as_ref()).unwrap();
    script.is(FileProfile::POSIX_MIN, &["", "f=x1"]);
    root.sync().unwrap();
    script.is(FileProfile::POSIX_MIN, &[""]);
}

#[test]
fn a_directory_that_is_lost_takes_what_was_synced_in_it() {
    let script = Script::after(|_| {});
    let root = script.root();
    root.create_dir("d".as_ref(), Mode::DIR).unwrap();
    let dir = root.open_dir("d".as_ref()).unwrap();
    create(&*dir, "f", b"x").sync_all().unwrap();
    dir.sync().unwrap();
    script.is(FileProfile::POSIX_MIN, &["", "d/(f=x1)"]);
    // These log new ancestors with the file.
    script.is(FileProfile::BTRFS, &["d/(f=x1)"]);
    script.is(FileProfile::EXT4, &["d/(f=x1)"]);
}

#[test]
fn btrfs_leaves_a_synced_file_under_the_old_name_of_an_ancestor() {
    let script = Script::after(|root| root.create_dir("old".as_ref(), Mode::DIR).unwrap());
    let root = script.root();
    rename(&*root, "old", "new");
    let dir = root.open_dir("new".as_ref()).unwrap();
    create(&*dir, "f", b"x").sync_all().unwrap();
    dir.sync().unwrap();
    script.is(FileProfile::BTRFS, &["new/(f=x1)", "old/(f=x1)"]);
    script.is(FileProfile::EXT4, &["new/(f=x1)"]);
}

#[test]
fn a_cut_is_there_or_not_and_a_lost_cut_brings_back_what_it_took() {
    let script = Script::after(|root| drop(create(root, "f", &[b'a'; 600])));
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    file.set_len(2).unwrap();
    for profile in EVERY {
        script.is(profile, &["f=a2", "f=a600"]);
    }
    file.sync_all().unwrap();
    for profile in EVERY {
        script.is(profile, &["f=a2"]);
    }
}

#[test]
fn after_a_failed_barrier_no_later_one_covers_what_it_should_have() {
    let script = Script::after(|root| drop(create(root, "f", b"a")));
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    file.write_at(0, b"b").unwrap();
    script.fs.set_faults([(0, crashsim::Fault::Fail(5))]);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(5));
    file.sync_all().unwrap();
    for profile in EVERY {
        script.is(profile, &["f=a1", "f=b1"]);
    }
    // Written once more it is as good as any.
    file.write_at(0, b"b").unwrap();
    file.sync_all().unwrap();
    for profile in EVERY {
        script.is(profile, &["f=b1"]);
    }
}

#[test]
fn ext4_keeps_the_length_of_a_file_that_is_renamed_over_another_and_noauto_does_not() {
    let script = Script::after(|root| drop(create(root, "f", b"a")));
    let root = script.root();
    create(&*root, "t", b"b");
    rename(&*root, "t", "f");
    root.sync().unwrap();
    script.is(FileProfile::EXT4, &["f=NUL1", "f=b1"]);
    script.is(FileProfile::EXT4_NO_AUTO_DA_ALLOC, &["f=", "f=NUL1", "f=b1"]);
    script.is(FileProfile::XFS, &["f=", "f=b1"]);
}

#[test]
fn ext4_does_not_care_for_a_renamed_file_that_had_space_reserved() {
    let script = Script::after(|root| drop(create(root, "f", b"a")));
    let root = script.root();
    let temp = create(&*root, "t", b"");
    temp.allocate(1).unwrap();
    temp.write_at(0, b"b").unwrap();
    rename(&*root, "t", "f");
    root.sync().unwrap();
    script.is(FileProfile::EXT4, &["f=", "f=NUL1", "f=b1"]);
}

#[test]
fn a_file_grows_block_by_block() {
    let script = Script::after(|root| drop(create(root, "f", b"")));
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    file.write_at(0, &[b'x'; 5000]).unwrap();
    let states = script.states(FileProfile::XFS);
    assert!(states.contains("f=x4096") && states.contains("f=") && states.contains("f=x5000"));
    assert!(!states.iter().any(|state| state.contains("NUL")), "a length is there only with its data");
    let states = script.states(FileProfile::POSIX_MIN);
    assert!(
        states.contains("f=NUL4096") && states.contains("f=NUL5000") && states.contains("f=x512+NUL4488")
    );
}

#[test]
fn a_write_that_returned_after_the_barrier_was_submitted_is_not_covered_by_it() {
    use crashsim::{Event, FileOp, Outcome, Record};
    let script = Script::after(|root| drop(create(root, "f", b"a")));
    let ino = script.start.lookup(FsImage::ROOT, "f".as_ref()).unwrap();
    let write = Event::Op(FileOp::Write { ino, offset: 0, bytes: Arc::from(&b"b"[..]) });
    let sync = Event::Op(FileOp::SyncFile { ino, data_only: false, outcome: Outcome::Done });
    let states = |write_completed: u32| {
        let mut trace = Trace::default();
        trace.push_timed(Record { submitted: 0, completed: write_completed, event: write.clone() });
        trace.push_timed(Record { submitted: 2, completed: 5, event: sync.clone() });
        let point = SimFs::points(&script.start, &trace, FileProfile::EXT4).pop().unwrap();
        point.combinations()
    };
    assert_eq!((states(1), states(3)), (1, 2));
}

/// A file of two sectors, the first of which is written, and then the second, durably; of that call, what it answered.
fn written_durably(faults: &[(u64, Fault)]) -> (Script, std::io::Result<usize>) {
    let before = SimFs::with_disks(Disks::DurableWrites);
    create(&*before.shared().open_dir(Path::new("/")).unwrap(), "f", &[b'a'; 1024]);
    let start = before.image();
    let script = Script { fs: SimFs::mount(start.clone(), crashsim::Recording::On), start };
    let file = script.root().open("f".as_ref(), Access::ReadWrite).unwrap();
    assert!(file.as_disk(512).unwrap().write_durable);
    file.write_at(0, &[b'b'; 512]).unwrap();
    script.fs.set_faults(faults.iter().copied());
    let answer = file.write_at_durable(512, &[b'c'; 512]);
    if !faults.is_empty() {
        file.sync_data().unwrap();
    }
    (script, answer)
}

#[test]
fn a_durable_write_covers_itself_alone() {
    let (script, answer) = written_durably(&[]);
    assert_eq!(answer.unwrap(), 512);
    for profile in [FileProfile::POSIX_MIN, FileProfile::EXT4, FileProfile::XFS] {
        script.is(profile, &["f=a512+c512", "f=b512+c512"]);
    }
    // Its blocks are written whole.
    script.is(FileProfile::BTRFS, &["f=b512+c512"]);
    // Before it has returned it may be lost.
    let points = SimFs::points(&script.start, &script.fs.trace(), FileProfile::POSIX_MIN);
    assert_eq!(points.iter().map(crashsim::Point::combinations).collect::<Vec<_>>(), [4, 2]);
}

#[test]
fn a_durable_write_that_fails_is_a_failed_barrier_for_all_of_its_file() {
    let (script, answer) = written_durably(&[(0, Fault::FailAfter(5))]);
    assert_eq!(answer.unwrap_err().raw_os_error(), Some(5));
    let all = ["f=a1024", "f=a512+c512", "f=b512+a512", "f=b512+c512"];
    script.is(FileProfile::POSIX_MIN, &all);
    let (script, answer) = written_durably(&[(0, Fault::Fail(28))]);
    assert_eq!(answer.unwrap_err().raw_os_error(), Some(28));
    script.is(FileProfile::POSIX_MIN, &["f=a1024", "f=b512+a512"]);
    let (script, answer) = written_durably(&[(0, Fault::Short(100))]);
    assert_eq!(answer.unwrap(), 100);
    script.is(FileProfile::POSIX_MIN, &["f=b512+c100+a412"]);
}

/// Whatever a profile allows, POSIX allows too: what is safe there is safe everywhere.
#[test]
fn posix_min_allows_everything_that_any_profile_allows() {
    for seed in 0..300 {
        let script = Script::after(|root| {
            create(root, "a", b"1");
            root.create_dir("d".as_ref(), Mode::DIR).unwrap();
            create(&*root.open_dir("d".as_ref()).unwrap(), "b", b"2");
        });
        by_chance(&script, seed);
        let weakest = script.states(FileProfile::POSIX_MIN);
        let profiles = [FileProfile::EXT4, FileProfile::XFS, FileProfile::ORDERED, FileProfile::PREFIX];
        for profile in profiles.into_iter().chain([FileProfile::BTRFS, FileProfile::EXT4_NO_AUTO_DA_ALLOC]) {
            let states = script.states(profile);
            let only_here: Vec<_> = states.difference(&weakest).collect();
            assert!(
                only_here.is_empty(),
                "seed {seed}, {}: {only_here:?}\n{}",
                profile.name(),
                script.fs.trace()
            );
            let intact = words(&script.fs.image(), FsImage::ROOT);
            assert!(states.contains(&intact), "nothing lost is a state too: seed {seed}, {}", profile.name());
        }
    }
}

/// Six requests on two names in two directories; those that cannot be carried out are none.
fn by_chance(script: &Script, seed: u64) {
    let mut random = Random::new(seed);
    let dirs = [script.root(), script.root().open_dir("d".as_ref()).unwrap()];
    let names = ["a", "b"];
    for _ in 0..6 {
        let mut pick = || usize::try_from(random.below(2)).unwrap();
        let (dir, other, name, to) = (&dirs[pick()], &dirs[pick()], names[pick()], names[pick()]);
        let open = || dir.open(name.as_ref(), Access::ReadWrite);
        let outcome = match random.below(9) {
            0 => dir.create_exclusive(name.as_ref(), Mode::FILE).map(drop),
            1 => dir.rename(name.as_ref(), &**other, to.as_ref(), RenameMode::Replace),
            2 => dir.unlink(name.as_ref()),
            3 => dir.link(name.as_ref(), to.as_ref()),
            4 => dir.sync(),
            5 => open().and_then(|file| file.sync_all()),
            6 => open().and_then(|file| file.set_len(1)),
            _ => open().and_then(|file| file.write_at(0, b"xyz").map(drop)),
        };
        drop(outcome);
    }
}
