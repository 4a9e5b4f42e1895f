//! The explorer finds what each of its means is for, and finds the same on any number of threads.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use crashsim::{
    Class, Crash, CrashId, Expected, Explorer, FileProfile, FsImage, Gauge, Life, Loss, Mark, Operation,
    Options, Report, Run, Scenario, SimFs, Value, Verdict, Witness, Workload, replay, shrink,
};
use media::{Access, Dir, Fs as _, Mode, RenameMode};

/// A program in three functions, on one file `f`.
struct Toy {
    run: fn(&SimFs, &dyn Dir),
    recover: fn(&SimFs, &dyn Dir, Life),
}

fn root(fs: &SimFs) -> Arc<dyn Dir> {
    fs.open_dir(Path::new("/")).unwrap()
}

fn content(fs: &SimFs, name: &str) -> Option<Value> {
    let image = fs.image();
    image.lookup(FsImage::ROOT, name.as_ref()).map(|ino| Value::bytes(&image.content(ino)))
}

fn write(dir: &dyn Dir, name: &str, bytes: &[u8]) -> Arc<dyn media::File> {
    let file = dir
        .open(name.as_ref(), Access::ReadWrite)
        .or_else(|_| dir.create_exclusive(name.as_ref(), Mode::FILE))
        .unwrap();
    file.write_at(0, bytes).unwrap();
    file
}

impl Workload<SimFs> for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    fn start(&self) -> (FsImage, Expected) {
        let fs = SimFs::new();
        write(&*root(&fs), "f", b"old");
        (fs.image(), Expected::starting([("f".into(), content(&fs, "f"))]))
    }

    fn run(&self, fs: &SimFs, _run: &Run) {
        (self.run)(fs, &*root(fs));
    }

    fn recover(&self, fs: &SimFs, life: Life) -> Result<(), String> {
        (self.recover)(fs, &*root(fs), life);
        Ok(())
    }

    fn check(&self, fs: &SimFs, _life: Life, expected: &Expected) -> Verdict {
        expected.judge(|cell| content(fs, cell))
    }
}

fn begin(fs: &SimFs, bytes: &[u8]) {
    fs.tell(Mark::Begin(Operation::one("write f", "f", Some(Value::bytes(bytes)))));
}

fn replace(dir: &dyn Dir, bytes: &[u8]) {
    write(dir, "t", bytes).sync_all().unwrap();
    dir.rename("t".as_ref(), dir, "f".as_ref(), RenameMode::Replace).unwrap();
    dir.sync().unwrap();
}

fn explore(toy: &Toy, options: &Options) -> Report {
    let recorded = Scenario::plain("toy").record(toy).unwrap();
    Explorer::default().explore(toy, &recorded, FileProfile::POSIX_MIN, options, &Gauge::default())
}

/// With a crash during recovery, and without.
fn by_depth(toy: &Toy, kills: bool) -> [Report; 2] {
    [0, 1].map(|depth| explore(toy, &Options { depth, kills, ..Options::default() }))
}

#[test]
fn a_recovery_that_is_torn_by_a_second_crash_is_found() {
    let toy = Toy {
        run: |fs, dir| {
            begin(fs, b"new");
            replace(dir, b"new");
            fs.tell(Mark::Acknowledged);
        },
        // Writes in place what is there, for no good reason.
        recover: |fs, dir, life| {
            let here = content(fs, "f").unwrap();
            if life.boot == 1 {
                dir.open("f".as_ref(), Access::ReadWrite).unwrap().set_len(0).unwrap();
                write(dir, "f", &here.bytes).sync_all().unwrap();
            }
        },
    };
    let [one, two] = by_depth(&toy, false);
    assert_eq!(one.broken, 0);
    let failure = two.failure.unwrap();
    assert_eq!(failure.id.crashes.len(), 2, "{}", failure.id);
    assert_eq!(replay(&toy, &failure.id).unwrap().verdict, failure.verdict);
}

#[test]
fn what_a_killed_process_left_in_the_cache_and_the_next_one_called_durable_is_found() {
    let toy = Toy {
        run: |fs, dir| {
            begin(fs, b"new");
            // Dies before its barriers.
            write(dir, "t", b"new");
            dir.rename("t".as_ref(), dir, "f".as_ref(), RenameMode::Replace).unwrap();
            fs.tell(Mark::Visible);
        },
        recover: |fs, _, life| {
            if life.boot == 0 && content(fs, "f") == Some(Value::bytes(b"new")) {
                begin(fs, b"new");
                fs.tell(Mark::Acknowledged);
            }
        },
    };
    let options = |kills| Options { depth: 1, kills, ..Options::default() };
    // Torn as it is, it is found without kills as well; what only they find is what was acknowledged and lost.
    assert!(!explore(&toy, &options(false)).classes.contains_key(&Class::Lost));
    assert!(explore(&toy, &options(true)).classes.contains_key(&Class::Lost));
}

#[test]
fn a_recovery_that_changes_something_every_time_is_found() {
    let toy = Toy {
        run: |_, _| {},
        recover: |fs, dir, _| {
            let count = content(fs, "count").map_or(0, |value| value.bytes.len());
            write(dir, "count", &vec![b'x'; count + 1]);
        },
    };
    let report = explore(&toy, &Options { depth: 0, ..Options::default() });
    assert_eq!(report.classes.keys().copied().collect::<Vec<_>>(), [Class::NotIdempotent]);
}

/// Six sectors without a barrier, and a recovery that does something.
fn torn() -> Toy {
    Toy {
        run: |fs, dir| {
            begin(fs, &[b'n'; 3000]);
            write(dir, "f", &[b'n'; 3000]);
            begin(fs, &[b'm'; 3000]);
            write(dir, "f", &[b'm'; 3000]).sync_all().unwrap();
            fs.tell(Mark::Acknowledged);
        },
        recover: |_, dir, life| {
            if life.boot > 0 {
                write(dir, "recovered", b"yes").sync_all().unwrap();
            }
        },
    }
}

#[test]
fn the_report_is_the_same_on_any_number_of_threads() {
    for states_max in [50, 100_000] {
        let report = |threads| {
            let threads = NonZeroUsize::new(threads).unwrap();
            explore(&torn(), &Options { states_max, threads, ..Options::default() })
        };
        let one = report(1);
        println!("{one:?}");
        assert!(one.broken > 0 && one.failure.is_some());
        for threads in [2, 3, 8] {
            assert_eq!(report(threads), one, "{threads} threads");
        }
    }
}

#[test]
fn the_states_of_a_small_case_are_all_visited_and_counted() {
    let toy = Toy { run: |_, dir| drop(write(dir, "f", &[b'n'; 1000])), recover: |_, _, _| {} };
    let report = explore(&toy, &Options { depth: 0, kills: false, ..Options::default() });
    // Two sectors and a length; the first sector held "old".
    assert_eq!((report.points, report.space, report.visited, report.exhaustive), (1, 8, 8, true));
    // With the old length the second sector is not seen; with the new one everything is.
    assert_eq!(report.distinct, 2 + 4);
    let sampled = explore(&toy, &Options { depth: 0, kills: false, states_max: 5, ..Options::default() });
    assert_eq!((sampled.visited, sampled.exhaustive), (5, false));
}

#[test]
fn another_seed_draws_other_samples_and_the_same_seed_the_same() {
    let report = |seed| explore(&torn(), &Options { states_max: 300, seed, depth: 0, ..Options::default() });
    assert_eq!(report(7), report(7));
    assert!((1..20).any(|seed| report(seed).distinct != report(7).distinct));
}

#[test]
fn an_exploration_can_be_stopped() {
    let gauge = Gauge::default();
    gauge.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let toy = torn();
    let recorded = Scenario::plain("toy").record(&toy).unwrap();
    let report =
        Explorer::default().explore(&toy, &recorded, FileProfile::POSIX_MIN, &Options::default(), &gauge);
    assert_eq!(report.visited, 0);
}

#[test]
fn a_failure_shrinks_to_what_must_be_lost() {
    let toy = torn();
    let options = Options { depth: 0, kills: false, ..Options::default() };
    let failure = explore(&toy, &options).failure.unwrap();
    let small = shrink(&toy, &failure.id, &options);
    let story = replay(&toy, &small).unwrap();
    println!("{story}");
    assert!(story.verdict.broken.is_some());
    let [Crash::Power { loss: Loss::Lose(lost), .. }] = &small.crashes[..] else { panic!("{small}") };
    assert_eq!(lost.len(), 1, "{small}");
}

#[test]
fn every_id_reads_back_as_it_was_written() {
    for text in [
        "replace/posix-min@11:lose=6,9",
        "mixed#42:skip=1,3/xfs@20:keep=17.2",
        "append%7:fail28%9:short1%11:after5/ext4-ordered@9:none",
        "replace~8/posix-min@14:lose=6",
        "replace~8late/posix-min@14:all",
        "append/btrfs@kill12+@31:all+@4:none",
    ] {
        let id: CrashId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
    }
    for (text, why) in [
        ("", "`/`"),
        ("replace", "`/`"),
        ("replace/posix-min", "`@`"),
        ("/posix-min@1:all", "case"),
        ("a/p@x:all", "number"),
        ("a/p@1", "`:`"),
        ("a/p@1:most", "keep"),
        ("a/p@1:keep=x", "piece"),
        ("a#x/p@1:all", "seed"),
        ("a%1:melt/p@1:all", "fault"),
        ("a~x/p@1:all", "record"),
        ("a/p@1:all+", "begins"),
    ] {
        let error = text.parse::<CrashId>().unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn an_id_that_no_longer_fits_says_so() {
    let toy = torn();
    for (id, why) in [
        ("toy/nowhere@1:all", "no profile"),
        ("toy/posix-min@1000:all", "no crash point 1000"),
        ("toy/posix-min@2:keep=900", "no state"),
        ("toy~0late/ordered@1:all", "no barrier"),
        ("toy/posix-min@kill3+@2:all", "no crash point 2"),
        ("toy/posix-min@kill3+@kill2", "no crash point 2"),
    ] {
        let error = replay(&toy, &id.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(why), "{id}: {error}");
    }
}
