//! The simulator finds the classic mistakes, each where it should and nowhere else.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]

use std::collections::BTreeSet;

use crash_cases::{Canary, FileCase as _, OnSim, canaries};
use crashsim::{Class, Explorer, FileProfile, Gauge, Options, Report, Scenario, SimFs, replay, shrink};

fn options() -> Options {
    Options { states_max: 100_000, depth: 0, kills: false, ..Options::default() }
}

fn explore(canary: &Canary, profile: FileProfile) -> Report {
    let workload = OnSim(canary);
    let recorded = Scenario::plain(canary.name()).record::<SimFs>(&workload).unwrap();
    Explorer::default().explore(&workload, &recorded, profile, &options(), &Gauge::default())
}

#[test]
fn each_canary_is_found_under_exactly_the_profiles_that_break_it() {
    let mut wrong = Vec::new();
    for canary in canaries() {
        for profile in FileProfile::ALL {
            let report = explore(&canary, profile);
            assert!(report.exhaustive, "{} under {}", canary.name(), profile.name());
            let found: BTreeSet<Class> = report
                .classes
                .keys()
                .copied()
                .filter(|class| !matches!(class, Class::Old | Class::New))
                .collect();
            // A killed process loses nothing; a canary that breaks then is another mistake than the one it is named for.
            let wanted: BTreeSet<Class> = match canary.finds(profile.name()) {
                Some(classes) => classes.iter().copied().collect(),
                None => continue,
            };
            let words: Vec<&str> = found.iter().map(|class| class.word()).collect();
            let id = report.failure.as_ref().map_or_else(String::new, |failure| {
                shrink(&OnSim(&canary), &failure.id, &options()).to_string()
            });
            println!("{:<24} {:<13} {:<30} {id}", canary.name(), profile.name(), words.join(", "));
            if found != wanted {
                wrong.push(format!(
                    "{} under {}: found {found:?}, wanted {wanted:?}",
                    canary.name(),
                    profile.name()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_canary_replays_from_its_id() {
    for canary in canaries() {
        let Some(failure) = explore(&canary, FileProfile::POSIX_MIN).failure else { continue };
        let workload = OnSim(&canary);
        let story = replay::<SimFs>(&workload, &failure.id).unwrap();
        assert_eq!(story.verdict, failure.verdict, "{}", failure.id);
        let smaller = shrink::<SimFs>(&workload, &failure.id, &options());
        assert!(replay::<SimFs>(&workload, &smaller).unwrap().verdict.broken.is_some(), "{smaller}");
        assert_eq!(smaller.to_string().parse(), Ok(smaller.clone()));
    }
}
