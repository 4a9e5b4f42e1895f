//! What the tests of crashes do with the cases of `steadfast crash` (`crates/crash-cases/src/state`).
#![expect(clippy::print_stdout, reason = "helpers of tests say what they saw")]

use crash_cases::{CaseOn, state_cases};
use crashsim::{Campaign, DiskProfile, Explorer, Gauge, Mark, Options, Report, Scenario, SimDisk, replay};

pub(crate) type Case = Box<dyn CaseOn<SimDisk>>;

/// What a case is about. Each part has a file of tests of its own, and so much effort as it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Keys,
    /// Quotas, sealed prefixes and scrubs.
    Settings,
    Snapshots,
}

impl Part {
    fn of(case: &str) -> Self {
        let of_settings = ["state-quota", "state-sealed", "state-rotate", "state-scrub"];
        match case {
            name if name.starts_with("state-snapshot") => Self::Snapshots,
            name if of_settings.into_iter().any(|begin| name.starts_with(begin)) => Self::Settings,
            _ => Self::Keys,
        }
    }

    /// Those whose workload is always the same.
    pub(crate) fn scripts(self) -> impl Iterator<Item = Case> {
        state_cases().into_iter().filter(move |case| Self::of(case.name()) == self && case.operations(1) == 0)
    }
}

#[track_caller]
pub(crate) fn assert_kept(case: &Case, report: &Report) {
    if let Some(failure) = &report.failure {
        panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(&**case, &failure.id).unwrap());
    }
}

fn kept(case: &Case, profile: DiskProfile, options: &Options) -> Report {
    let recorded = Scenario::plain(case.name()).record::<SimDisk>(&**case).unwrap();
    let explorer = Explorer::default();
    let report = explorer.explore::<SimDisk>(&**case, &recorded, profile, options, &Gauge::default());
    println!(
        "{:<26} {:<18} points {:>3} visited {:>7} distinct {:>7} {}",
        case.name(),
        profile.name(),
        report.points,
        report.visited,
        report.distinct,
        if report.exhaustive { "all" } else { "sampled" }
    );
    assert_kept(case, &report);
    report
}

/// Runs every script without any fault.
pub(crate) fn assert_run_to_their_end(part: Part) {
    let mut cases = 0;
    for case in part.scripts() {
        let recorded = Scenario::plain(case.name()).record::<SimDisk>(&*case).unwrap();
        let unprepared = recorded.expected.cells().find(|cell| cell.starts_with("prepared"));
        assert_eq!(unprepared, None, "{}", case.name());
        let marks = recorded.trace.marks_until(recorded.trace.len());
        let is_unplanned = |mark: &&Mark| matches!(mark, Mark::Point(why) if why.starts_with("unplanned"));
        assert_eq!(marks.iter().find(is_unplanned), None, "{}", case.name());
        let failed = marks.iter().filter(|mark| matches!(mark, Mark::Failed(_))).count();
        let planned = match case.name() {
            "state-full" | "state-failed-flush" | "state-quota-below" | "state-snapshot-full" => 1,
            "state-quota-limit" => 2,
            "state-full-starts" => 6,
            _ => 0,
        };
        assert_eq!(failed, planned, "{}: {marks:#?}", case.name());
        assert!(recorded.expected.after(&marks).acknowledged() > 0, "{}", case.name());
        cases += 1;
    }
    assert!(cases > 8, "{part:?}: {cases}");
}

/// Explores every script under every profile.
pub(crate) fn assert_kept_under_every_profile(part: Part, options: &Options) {
    let (mut visited, mut distinct) = (0, 0);
    for case in part.scripts() {
        for profile in DiskProfile::ALL {
            let report = kept(&case, profile, options);
            (visited, distinct) = (visited + report.visited, distinct + report.distinct);
        }
    }
    println!("visited {visited}, distinct {distinct}, broken 0");
}

/// Explores every script under the profile that leaves the most.
pub(crate) fn assert_kept_on_any_subset(part: Part, options: &Options) {
    for case in part.scripts() {
        drop(kept(&case, DiskProfile::AnySubsetTorn, options));
    }
}

/// Each call of each script fails, is carried out and fails, or is carried out in part; then the power fails as well.
pub(crate) fn assert_honest_after_faults(part: Part, states_max: usize) {
    let options = Options { states_max, depth: 0, kills: false, ..Options::default() };
    let campaign = Campaign {
        profiles: vec![DiskProfile::AnySubsetTorn],
        options: options.clone(),
        faults: Some(options),
        budget: u64::MAX,
        seeds_max: 1,
    };
    for case in part.scripts() {
        for row in campaign.run::<SimDisk>(&Explorer::default(), &*case, &Gauge::default(), |_| {}) {
            println!("{:<26} runs {:>4} visited {:>7}", case.name(), row.runs, row.report.visited);
            assert_kept(&case, &row.report);
        }
    }
}
