//! The simulator finds the classic mistakes, each where it should and nowhere else.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail with it, and say what they saw"
)]

use std::collections::BTreeSet;

use crash_cases::{Canary, CaseOn, DiskCanary, OnSim, canaries, disk_canaries};
use crashsim::{
    Class, DiskProfile, Explorer, FileProfile, Gauge, Medium, Options, Report, Scenario, SimDisk, SimFs,
    replay, shrink,
};

fn options() -> Options {
    Options { states_max: 100_000, depth: 0, kills: false, ..Options::default() }
}

fn explore<M: Medium>(canary: &dyn CaseOn<M>, profile: M::Profile) -> Report {
    let recorded = Scenario::plain(canary.name()).record::<M>(canary).unwrap();
    Explorer::default().explore(canary, &recorded, profile, &options(), &Gauge::default())
}

/// What is wrong with what was found under the profiles that the canary speaks of.
fn wrong<M: Medium>(
    canary: &dyn CaseOn<M>,
    finds: impl Fn(&'static str) -> Option<&'static [Class]>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for &profile in M::PROFILES {
        let (name, profile_name) = (canary.name(), M::profile_name(profile));
        // A killed process loses nothing; a canary that breaks then is another mistake than the one it is named for.
        let Some(wanted) = finds(profile_name) else { continue };
        let report = explore(canary, profile);
        assert!(report.exhaustive, "{name} under {profile_name}");
        let found: BTreeSet<Class> = report
            .classes
            .keys()
            .copied()
            .filter(|class| !matches!(class, Class::Old | Class::New))
            .collect();
        let words: Vec<&str> = found.iter().map(|class| class.word()).collect();
        let id = report
            .failure
            .as_ref()
            .map_or_else(String::new, |failure| shrink::<M>(canary, &failure.id, &options()).to_string());
        println!("{name:<24} {profile_name:<15} {:<30} {id}", words.join(", "));
        if found != wanted.iter().copied().collect() {
            wrong.push(format!("{name} under {profile_name}: found {found:?}, wanted {wanted:?}"));
        }
    }
    wrong
}

#[test]
fn each_canary_is_found_under_exactly_the_profiles_that_break_it() {
    let of_file = |canary: &Canary| wrong::<SimFs>(&OnSim(canary), |profile| canary.finds(profile));
    let of_disk = |canary: &DiskCanary| wrong::<SimDisk>(canary, |profile| canary.finds(profile));
    let wrong: Vec<String> =
        canaries().iter().flat_map(of_file).chain(disk_canaries().iter().flat_map(of_disk)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn replays<M: Medium>(canary: &dyn CaseOn<M>, profile: M::Profile) {
    let Some(failure) = explore(canary, profile).failure else { return };
    let story = replay::<M>(canary, &failure.id).unwrap();
    assert_eq!(story.verdict, failure.verdict, "{}", failure.id);
    let smaller = shrink::<M>(canary, &failure.id, &options());
    assert!(replay::<M>(canary, &smaller).unwrap().verdict.broken.is_some(), "{smaller}");
    assert_eq!(smaller.to_string().parse(), Ok(smaller.clone()));
}

#[test]
fn a_canary_replays_from_its_id() {
    for canary in canaries() {
        replays::<SimFs>(&OnSim(&canary), FileProfile::POSIX_MIN);
    }
    for canary in disk_canaries() {
        replays::<SimDisk>(&canary, DiskProfile::AnySubsetTorn);
    }
}
