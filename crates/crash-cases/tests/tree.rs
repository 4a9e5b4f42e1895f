//! The rules of recovery, each at every crash: cases whose names begin with `owned`, `plain` and `txn`.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it, and say what they saw")]

use std::collections::BTreeMap;

use crash_cases::{FileCase, OnSim, Site, case_named, history_count};
use crashsim::{
    Explorer, Fault, FileOp, FileProfile, FsImage, Gauge, Life, Mark, Medium, Options, Recorded, Recording,
    Report, Scenario, SimFs, Trace, Value, Verdict, Workload, replay,
};

const ENOSPC: i32 = 28;

fn is_long() -> bool {
    std::env::var_os("STEADFAST_LONG").is_some()
}

fn record(case: &dyn FileCase) -> Recorded<SimFs> {
    Scenario::plain(case.name()).record::<SimFs>(&OnSim(case)).unwrap()
}

fn explored(case: &dyn FileCase, scenario: &Scenario, profile: FileProfile, options: &Options) -> Report {
    let recorded = scenario.record::<SimFs>(&OnSim(case)).unwrap();
    let report = Explorer::default().explore(&OnSim(case), &recorded, profile, options, &Gauge::default());
    if let Some(failure) = &report.failure {
        panic!("{}", replay::<SimFs>(&OnSim(case), &failure.id).unwrap());
    }
    report
}

/// Put, remove, create and rename of the same names, in every order up to four of them: whatever was acknowledged is there,
/// after any power cut and any kill, after a power cut in the recovery, and after the recovery has run twice.
///
/// Of the histories one in eight, spread over all lengths; with `STEADFAST_LONG` all of them.
#[test]
fn no_recovery_of_a_mixed_history_undoes_what_was_acknowledged() {
    let options = Options { nested_states_max: 16, ..Options::default() };
    let (ways, step): (&[&str], usize) = match is_long() {
        true => (&["owned", "owned-dsync", "plain", "txn"], 1),
        false => (&["owned", "plain", "txn"], 8),
    };
    for way in ways {
        let case = case_named(&format!("{way}-history")).unwrap();
        for profile in FileProfile::DEFAULT {
            let mut sum = Report { exhaustive: true, ..Report::default() };
            let seeds: Vec<u64> = (1..=history_count()).step_by(step).collect();
            let histories = seeds.len();
            for seed in seeds {
                let scenario = Scenario { seed, ..Scenario::plain(case.name()) };
                sum.add(explored(&*case, &scenario, profile, &options));
            }
            println!(
                "{way:<12} {:<13} {histories} of {} histories, {} points, {} states, {}, {} different images: 0 broken",
                profile.name(),
                history_count(),
                sum.points,
                sum.visited,
                if sum.exhaustive { "all" } else { "sampled" },
                sum.distinct,
            );
            assert!(sum.exhaustive, "{way}");
        }
    }
}

/// Three power cuts in a row, the second and third in recoveries.
#[test]
fn small_transactions_keep_their_promises_through_three_power_cuts() {
    let options = Options { depth: 2, nested_states_max: 32, ..Options::default() };
    for name in
        ["owned-put", "plain-put", "txn-put", "plain-three", "txn-three", "plain-rename", "txn-foreign"]
    {
        let case = case_named(name).unwrap();
        for profile in FileProfile::DEFAULT {
            let report = explored(&*case, &Scenario::plain(name), profile, &options);
            println!("{name:<14} {:<13} {} states", profile.name(), report.visited);
        }
    }
}

/// A crash, and what may be found after it.
struct Crashed {
    image: FsImage,
    expected: crashsim::Expected,
}

/// States of a trace that began at `start`: `count` of each crash point.
fn states(
    start: &FsImage,
    trace: &Trace<FileOp>,
    expected: &crashsim::Expected,
    count: usize,
) -> Vec<Crashed> {
    let mut crashed = Vec::new();
    for point in SimFs::points(start, trace, FileProfile::POSIX_MIN) {
        let expected = expected.clone().after(&trace.marks_until(point.at));
        for digits in point.sample(count, 1) {
            let mut image = point.base.clone();
            point.build(&digits, |piece| piece.apply(&mut image));
            SimFs::settle(&mut image);
            crashed.push(Crashed { image, expected: expected.clone() });
        }
    }
    let mut seen = std::collections::HashSet::new();
    crashed.retain(|Crashed { image, expected }| seen.insert((image.digest(), expected.acknowledged())));
    crashed
}

fn crashes(case: &dyn FileCase, count: usize) -> Vec<Crashed> {
    let recorded = record(case);
    states(&recorded.start, &recorded.trace, &recorded.expected, count)
}

const AFTER: Life = Life { boot: 1, process: 1 };
const LATER: Life = Life { boot: 2, process: 2 };

fn holds(case: &dyn FileCase, medium: &SimFs, life: Life, expected: &crashsim::Expected, context: &str) {
    let workload = OnSim(case);
    let verdict = match workload.recover(medium, life) {
        Ok(()) => workload.check(medium, life, expected),
        Err(why) => Verdict::broken(crashsim::Class::CannotOpen, why),
    };
    assert!(verdict.broken.is_none(), "{} {context}: {verdict:?}", case.name());
}

/// Every call of a recovery fails in turn, for want of space and otherwise. Then the power is cut, or (where it was space) the
/// next open has some again.
#[test]
fn a_recovery_that_fails_at_any_call_loses_nothing() {
    let (few, fewer) = if is_long() { (64, 16) } else { (6, 2) };
    for name in ["owned-three", "plain-rename", "txn-three", "owned-list", "owned-switch"] {
        let case = case_named(name).unwrap();
        let (mut runs, mut cuts) = (0, 0);
        for (number, Crashed { image, expected }) in crashes(&*case, few).into_iter().enumerate() {
            let calm = SimFs::mount(image.clone(), Recording::On);
            calm.set_faults([]);
            OnSim(&*case).recover(&calm, AFTER).unwrap();
            let calls = calm.possible_faults();
            for (call, fault) in
                (0..).zip(calls).flat_map(|(call, faults)| faults.into_iter().map(move |f| (call, f)))
            {
                let context = format!("image {number}, call {call} of its recovery {fault}");
                let medium = SimFs::mount(image.clone(), Recording::On);
                medium.set_faults([(call, fault)]);
                // It may have got over it.
                drop(OnSim(&*case).recover(&medium, AFTER));
                runs += 1;
                let trace = medium.trace();
                if fault == Fault::Fail(ENOSPC) {
                    holds(&*case, &medium, AFTER.restarted(), &expected, &context);
                }
                for Crashed { image, expected } in states(&image, &trace, &expected, fewer) {
                    cuts += 1;
                    let medium = SimFs::mount(image, Recording::Off);
                    holds(&*case, &medium, LATER, &expected, &format!("{context}, power cut"));
                }
            }
        }
        println!("{name:<14} {runs} recoveries that failed, {cuts} power cuts behind them");
        assert!(runs > 100);
    }
}

/// What everybody but the root itself sees.
fn seen_by_others(case: &dyn FileCase, medium: &SimFs) -> BTreeMap<String, Option<Value>> {
    let site = Site::new(medium.shared(), "/home", AFTER, medium);
    let names = site.names().unwrap().into_iter().filter(|name| !case.owns(name));
    names.map(|name| (name.clone(), site.look(&name).unwrap())).collect()
}

fn journal_of(image: &FsImage) -> Option<(crashsim::Ino, crashsim::Ino)> {
    let at = |dir, name: &str| image.lookup(dir, name.as_ref());
    let home = at(FsImage::ROOT, "home")?;
    let dir = at(home, "own").and_then(|own| at(own, "journal")).or_else(|| at(home, ".steadfast-txn"))?;
    Some((dir, at(dir, "journal")?))
}

/// Each block of the journal changed in turn, in every image: where that is damage, it is said, and nothing is touched.
#[test]
fn where_the_journal_is_damaged_nothing_is_swept_or_changed() {
    let few = if is_long() { 64 } else { 4 };
    for name in ["owned-three", "plain-rename", "txn-three", "txn-list"] {
        let case = case_named(name).unwrap();
        let (mut damaged, mut with_staged, mut fine) = (0, 0, 0);
        for Crashed { image, .. } in crashes(&*case, few) {
            let (_, journal) = journal_of(&image).unwrap();
            for index in 0..40 {
                let Some(sector) = image.sector(journal, index) else { continue };
                let mut bytes = *sector.bytes();
                bytes[300] ^= 0x40;
                bytes[40] ^= 0x40;
                let mut image = image.clone();
                image.put_sector(journal, index, Some(crashsim::Sector::new(bytes)));
                let medium = SimFs::mount(image, Recording::On);
                let before = seen_by_others(&*case, &medium);
                match OnSim(&*case).recover(&medium, AFTER) {
                    Ok(()) => fine += 1,
                    Err(why) => {
                        assert!(why.starts_with("read-only: "), "{name}: {why}");
                        assert_eq!(seen_by_others(&*case, &medium), before, "{name}, block {index}");
                        damaged += 1;
                        with_staged += usize::from(before.keys().any(|name| name.ends_with(".nxpart")));
                    }
                }
            }
        }
        println!(
            "{name:<14} damaged {damaged}, {with_staged} of them with staged files; nothing wrong {fine}"
        );
        assert!(with_staged > 0 && fine > 0, "{name}");
    }
}

#[test]
fn where_the_journal_is_missing_nothing_is_swept_or_changed() {
    for name in ["owned-three", "plain-rename", "txn-three"] {
        let case = case_named(name).unwrap();
        for Crashed { mut image, .. } in crashes(&*case, 64) {
            let (dir, ino) = journal_of(&image).unwrap();
            image.apply(&FileOp::Unlink { dir, name: std::ffi::OsStr::new("journal").into(), ino });
            let medium = SimFs::mount(image, Recording::On);
            let before = seen_by_others(&*case, &medium);
            let why = OnSim(&*case).recover(&medium, AFTER).unwrap_err();
            assert_eq!(why, "read-only: its journal is missing", "{name}");
            assert_eq!(seen_by_others(&*case, &medium), before, "{name}");
        }
    }
}

/// The disk is full when a committed file is to get its name: that is said, and the next open finishes it.
#[test]
fn what_is_durable_and_not_visible_is_rolled_forward_by_the_next_open() {
    for name in ["owned-put", "owned-dsync-put", "plain-put", "owned-remove", "txn-three"] {
        let case = case_named(name).unwrap();
        let recorded = record(&*case);
        let mut found = 0;
        for (call, faults) in (0..).zip(&recorded.possible_faults) {
            if !faults.contains(&Fault::Fail(5)) {
                continue;
            }
            for code in [5, ENOSPC] {
                let medium = SimFs::mount(recorded.start.clone(), Recording::On);
                medium.set_faults([(call, Fault::Fail(code))]);
                OnSim(&*case).run(&medium, &crashsim::Run::default());
                let marks = medium.trace().marks_until(usize::MAX);
                let told = marks.iter().rev().find(|mark| !matches!(mark, Mark::Point(_)));
                let expected = recorded.expected.clone().after(&marks);
                let site = Site::new(medium.shared(), "/home", AFTER, &medium);
                let is_visible = expected.judge(|cell| site.look(cell).unwrap()).broken.is_none();
                if told == Some(&Mark::Acknowledged) && !is_visible {
                    found += 1;
                    holds(&*case, &medium, Life::default().restarted(), &expected, &format!("call {call}"));
                }
            }
        }
        println!("{name:<16} {found} failures behind the commit point");
        assert!(found > 0, "{name}");
    }
}
