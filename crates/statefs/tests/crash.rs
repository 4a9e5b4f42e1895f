//! The store under power cuts, kills and faults, on devices as small as the format allows. The cases are those of
//! `steadfast crash` (`crates/crash-cases/src/state`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crash_cases::{CaseOn, state_case_named, state_cases};
use crashsim::{
    Campaign, DiskProfile, Explorer, Gauge, Mark, Options, Recording, Report, Scenario, SimDisk, barriers,
    replay,
};
use media::Geometry;
use statefs::{Access, ErrorKind, Key, Store, StoreId};

type Case = Box<dyn CaseOn<SimDisk>>;

/// Those whose workload is always the same.
fn scripts() -> impl Iterator<Item = Case> {
    state_cases().into_iter().filter(|case| case.operations(1) == 0)
}

fn explore(case: &Case, profile: DiskProfile, options: &Options) -> Report {
    let recorded = Scenario::plain(case.name()).record::<SimDisk>(&**case).unwrap();
    Explorer::default().explore::<SimDisk>(&**case, &recorded, profile, options, &Gauge::default())
}

#[track_caller]
fn assert_kept(case: &Case, report: &Report) {
    if let Some(failure) = &report.failure {
        panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(&**case, &failure.id).unwrap());
    }
}

#[test]
fn every_case_runs_to_its_end_as_it_is_written() {
    for case in scripts() {
        let recorded = Scenario::plain(case.name()).record::<SimDisk>(&*case).unwrap();
        let unprepared = recorded.expected.cells().find(|cell| cell.starts_with("prepared"));
        assert_eq!(unprepared, None, "{}", case.name());
        let marks = recorded.trace.marks_until(recorded.trace.len());
        let is_unplanned = |mark: &&Mark| matches!(mark, Mark::Point(why) if why.starts_with("unplanned"));
        assert_eq!(marks.iter().find(is_unplanned), None, "{}", case.name());
        let failed = marks.iter().filter(|mark| matches!(mark, Mark::Failed(_))).count();
        let planned = match case.name() {
            "state-full" | "state-failed-flush" => 1,
            "state-full-starts" => 6,
            _ => 0,
        };
        assert_eq!(failed, planned, "{}: {marks:#?}", case.name());
        assert!(recorded.expected.after(&marks).acknowledged() > 0, "{}", case.name());
    }
}

#[test]
fn acknowledged_writes_survive_every_power_cut_and_kill() {
    let options = Options { states_max: 600, depth: 1, nested_states_max: 12, ..Options::default() };
    let (mut visited, mut distinct) = (0, 0);
    for case in scripts() {
        for profile in DiskProfile::ALL {
            let report = explore(&case, profile, &options);
            visited += report.visited;
            distinct += report.distinct;
            println!(
                "{:<26} {:<18} points {:>3} visited {:>7} distinct {:>7} {}",
                case.name(),
                profile.name(),
                report.points,
                report.visited,
                report.distinct,
                if report.exhaustive { "all" } else { "sampled" }
            );
            assert_kept(&case, &report);
        }
    }
    println!("visited {visited}, distinct {distinct}, broken 0");
}

#[test]
fn a_power_cut_in_a_recovery_from_a_power_cut_in_a_recovery_loses_nothing() {
    let options = Options { states_max: 30, depth: 2, nested_states_max: 5, ..Options::default() };
    for case in scripts() {
        let report = explore(&case, DiskProfile::AnySubsetTorn, &options);
        println!("{:<26} visited {:>7} distinct {:>7}", case.name(), report.visited, report.distinct);
        assert_kept(&case, &report);
    }
}

/// Each call of each script fails, is carried out and fails, or is carried out in part; then the power fails as well.
#[test]
fn after_a_fault_at_any_call_every_error_was_honest() {
    let options = Options { states_max: 40, depth: 0, kills: false, ..Options::default() };
    let campaign = Campaign {
        profiles: vec![DiskProfile::AnySubsetTorn],
        options: options.clone(),
        faults: Some(options),
        budget: u64::MAX,
        seeds_max: 1,
    };
    for case in scripts() {
        let rows = campaign.run::<SimDisk>(&Explorer::default(), &*case, &Gauge::default(), |_| {});
        for row in rows {
            println!("{:<26} runs {:>4} visited {:>7}", case.name(), row.runs, row.report.visited);
            assert_kept(&case, &row.report);
        }
    }
}

/// A device full of live data on which nothing but starting and crashing ever happens.
#[test]
fn a_full_store_opens_however_often_it_crashed_and_deletes_still_work() {
    let key = |nth: u64| Key::parse(&format!("/state/{nth}")).unwrap();
    for blocks in [26, 32, 64] {
        let geometry = Geometry::new(512, blocks).unwrap();
        let disk = SimDisk::mount(SimDisk::new(geometry).image(), Recording::Off);
        let journal = journal::Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
        let options = statefs::Options { journal, ..statefs::Options::new(StoreId(*b"a crashing store")) };
        let mut store = Store::format(disk.clone(), &options).unwrap();
        let full = (0..)
            .find(|&nth| store.put(&key(nth), &[1; 200]).is_err_and(|e| e.kind() == ErrorKind::NoSpace))
            .unwrap();
        assert!(full > 0);
        for life in 0..60 {
            let (mut again, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
            assert_eq!((recovery.live_keys, recovery.read_only), (full, None), "life {life}");
            again.put_buffered(&key(0), &[1; 199]).unwrap();
            store = again;
        }
        for nth in 0..full {
            store.delete(&key(nth)).unwrap();
            store = Store::open(disk.clone(), Access::Write).unwrap().0;
        }
        assert_eq!(store.stats().live_keys, 0);
        store.put(&key(0), &[1; 200]).unwrap();
    }
}

/// A test of the tests: without the flush of a commit, something that was acknowledged is lost, and it is found.
#[test]
fn without_the_flush_of_a_commit_something_is_lost() {
    let options = Options { states_max: 200, depth: 0, ..Options::default() };
    for name in ["state-put", "state-batch", "state-compact"] {
        let case = state_case_named(name).unwrap();
        let all = barriers::<SimDisk>(&*case, &Scenario::plain(name), DiskProfile::AnySubsetTorn, &options);
        // The first flush of the script itself: what came before belongs to the open.
        let commit = all.iter().find(|barrier| barrier.record == 5).unwrap();
        assert!(commit.removed.is_some(), "{name}: {} at {}", commit.what, commit.record);
    }
}

#[test]
fn whatever_is_done_by_chance_keeps_every_promise() {
    let seeds = std::env::var("STATEFS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(20);
    let options = Options { states_max: 24, depth: 1, nested_states_max: 3, ..Options::default() };
    let campaign = Campaign {
        profiles: vec![DiskProfile::AnySubsetTorn],
        faults: Some(Options { depth: 0, ..options.clone() }),
        options,
        budget: u64::MAX,
        seeds_max: seeds,
    };
    for name in ["state-mixed", "state-mixed-full"] {
        let case = state_case_named(name).unwrap();
        for row in campaign.run::<SimDisk>(&Explorer::default(), &*case, &Gauge::default(), |_| {}) {
            println!(
                "{name}: runs {} visited {} distinct {}",
                row.runs, row.report.visited, row.report.distinct
            );
            assert_kept(&case, &row.report);
        }
    }
}
