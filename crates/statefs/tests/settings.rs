//! Quotas, sealed prefixes and scrubs under power cuts, kills and faults, on devices as small as the format allows.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cases;

use cases::{
    Part, assert_honest_after_faults, assert_kept_on_any_subset, assert_kept_under_every_profile,
    assert_run_to_their_end,
};

use crash_cases::state_case_named;
use crashsim::{DiskProfile, Options, Scenario, SimDisk, barriers};

#[test]
fn every_case_of_settings_runs_to_its_end_as_it_is_written() {
    assert_run_to_their_end(Part::Settings);
}

#[test]
fn settings_and_sealed_values_survive_every_power_cut_and_kill() {
    let options = Options { states_max: 150, depth: 1, nested_states_max: 4, ..Options::default() };
    assert_kept_under_every_profile(Part::Settings, &options);
}

#[test]
fn a_power_cut_in_a_recovery_from_a_power_cut_in_a_recovery_loses_no_setting() {
    let options = Options { states_max: 6, depth: 2, nested_states_max: 3, ..Options::default() };
    assert_kept_on_any_subset(Part::Settings, &options);
}

#[test]
fn after_a_fault_at_any_call_every_setting_is_what_was_said() {
    assert_honest_after_faults(Part::Settings, 40);
}

/// A test of the tests: without the last flush of a scrub, what was said to be gone is still there.
#[test]
fn without_the_flush_of_a_scrub_what_was_gone_is_there() {
    let options = Options { states_max: 60, depth: 0, kills: false, ..Options::default() };
    let (case, scenario) = (state_case_named("state-scrub").unwrap(), Scenario::plain("state-scrub"));
    let all = barriers::<SimDisk>(&*case, &scenario, DiskProfile::OrderedPrefix, &options);
    // Behind it comes one more, that of the last put.
    let [.., of_scrub, _] = all.as_slice() else { panic!("there are flushes") };
    assert!(of_scrub.removed.is_some(), "{} at {}", of_scrub.what, of_scrub.record);
}
