//! Each barrier of durable-io is there for something that a case notices when it is gone.

use crash_cases::barrier_sites;
use crashsim::{FileProfile, Options};

/// Barriers that no case misses in this place, each with the reason.
const NEVER_MISSED: [(&str, &str); 1] = [(
    "log::write::cut < log::Log::vet < log::Log::settle < log::Log::put_locked",
    "the append that follows has a barrier of its own; the same barrier is missed where no append follows (log-repair)",
)];

#[test]
fn every_barrier_is_missed_by_some_case_when_it_is_gone() {
    let options = Options { states_max: 256, depth: 0, kills: false, ..Options::default() };
    let sites = barrier_sites(FileProfile::POSIX_MIN, &options);
    for site in &sites {
        let gone = site.gone().next().map_or_else(String::new, |failure| failure.id.to_string());
        println!("{}\n    {} of {} notice: {gone}", site.caller, site.gone().count(), site.mutated.len());
    }
    let never: Vec<&str> =
        sites.iter().filter(|site| site.gone().next().is_none()).map(|site| site.caller.as_str()).collect();
    println!("{} barriers, never missed: {never:?}", sites.len());
    assert!(sites.len() > 40, "a run without names of functions proves nothing");
    assert_eq!(never, NEVER_MISSED.map(|(caller, _)| caller));
}
