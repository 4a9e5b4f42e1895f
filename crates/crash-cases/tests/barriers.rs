//! Each barrier of the engines is there for something that a case notices when it is gone.

#![expect(clippy::print_stdout, reason = "helpers of tests say what they saw")]

use crash_cases::{BarrierSite, barrier_sites, disk_barrier_sites};
use crashsim::{DiskProfile, FileProfile, Options};

/// Barriers that no case misses in this place (the beginning of what asks for them), each with the reason.
const NEVER_MISSED: [(&str, &str); 11] = [
    (
        "crash_recovery::ledger::Ledger::create",
        "zeros and first name of the file that becomes the journal: it is written over, and named for good, later",
    ),
    (
        "crash_recovery::staged::StagedFile::sync < content::store::ContentStore::with_staging < content::store::ContentStore::fsync",
        "it is promised to who asks for it; what is committed afterwards has barriers of its own",
    ),
    (
        "crash_recovery::tree::Folder::sync < crash_recovery::tree::Tree::settle < crash_recovery::tree::Tree::folder_or_create < crash_recovery::recover::Finish::apply",
        "whoever committed had made the folders durable first; recovery asks for all of a folder, and does not know that",
    ),
    (
        "durable_io::dir::sync_dir < durable_io::dir::Dir::walk < durable_io::dir::Dir::subdir_or_create < crash_recovery::root::Root::open",
        "the names of the journal's folders are synced once more before the marker says that it must be there",
    ),
    ("journal::forming::form", FORMATTED_UNNAMED),
    (
        "journal::open::open_watched < journal::open::open < crash_recovery::ledger::Ledger::open",
        "it covers what a dead process left, and so does the flush of the record of this open; after a seal there is nothing",
    ),
    ("journal::switch::flush_now < journal::forming::Forming::finish", FORMATTED_UNNAMED),
    ("journal::switch::flush_now < journal::switch::begin_copy", OF_THE_JOURNAL),
    (
        "journal::switch::flush_now < journal::switch::make_root_durable < journal::switch::begin_copy",
        OF_THE_JOURNAL,
    ),
    (
        "journal::switch::flush_now < journal::switch::write_root < journal::switch::finish_copy",
        OF_THE_JOURNAL,
    ),
    (
        "log::write::cut < log::Log::vet < log::Log::settle < log::Log::put_locked",
        "the append that follows has a barrier of its own; the same barrier is missed where no append follows (log-repair)",
    ),
];

const FORMATTED_UNNAMED: &str =
    "steps of formatting, for a journal that is cut short in it: this one has no name before it is whole";
const OF_THE_JOURNAL: &str =
    "steps of a switch, each missed on disks: here one `done` is copied, and what it says is in place";

/// The second block of a clean close is for the rot of the first, which is no crash; crates/journal/tests/damage.rs.
const SECOND_SEAL: &str = "journal::writer::Journal::put_seal < journal::writer::Journal::seal_for_good";

/// The same for the key/value store.
const NEVER_MISSED_ON_DISKS: [(&str, &str); 5] = [
    (
        "journal::open::open_watched < statefs::store::Store::attempt < statefs::store::Store::open_watched < statefs::store::Store::open",
        "it covers what a dead process left, and so does the flush of the record of this open; after a seal there is nothing",
    ),
    (
        "journal::switch::flush_now < journal::open::settle_roots < journal::open::open_watched < statefs::store::Store::attempt",
        "the other slot of the pair is whole; this one is for the day when that one rots",
    ),
    (
        "journal::switch::flush_now < journal::switch::begin_copy < statefs::compact::step < statefs::compact::compact_step",
        "missed by a case of the journal alone: a copy of many frames cut short before a start that nothing else knows of",
    ),
    (
        "journal::switch::flush_now < journal::switch::write_root < journal::open::settle_roots < journal::open::open_watched",
        "a root that is lost with its region whole is found again: the next open finishes the switch once more",
    ),
    (
        "journal::switch::flush_now < journal::writer::Journal::flush < journal::writer::Journal::put_seal < journal::writer::Journal::seal_for_good",
        "the second block of a clean close is for the rot of the first, which is no crash; crates/journal/tests/damage.rs",
    ),
];

/// The places whose barrier nobody misses.
fn never_missed(sites: &[BarrierSite]) -> Vec<&str> {
    for site in sites {
        let gone = site.gone().next().map_or_else(String::new, |failure| failure.id.to_string());
        println!("{}\n    {} of {} notice: {gone}", site.caller, site.gone().count(), site.mutated.len());
    }
    let never: Vec<&str> =
        sites.iter().filter(|site| site.gone().next().is_none()).map(|site| site.caller.as_str()).collect();
    println!("{} barriers, never missed: {never:?}", sites.len());
    never
}

#[test]
fn every_barrier_is_missed_by_some_case_when_it_is_gone() {
    let options = Options { states_max: 256, depth: 0, kills: false, ..Options::default() };
    let sites = barrier_sites(FileProfile::POSIX_MIN, &options);
    let never = never_missed(&sites);
    assert!(sites.len() > 40, "a run without names of functions proves nothing");
    let has_reason = |caller: &str| {
        caller.ends_with(SECOND_SEAL) || NEVER_MISSED.iter().any(|(begins, _)| caller.starts_with(begins))
    };
    let missing: Vec<&&str> = never.iter().filter(|caller| !has_reason(caller)).collect();
    assert!(missing.is_empty(), "nobody misses {missing:#?}");
    for (begins, _) in NEVER_MISSED {
        assert!(
            never.iter().any(|caller| caller.starts_with(begins)),
            "{begins} is missed, or asks for none"
        );
    }
}

#[test]
fn every_barrier_on_a_disk_is_missed_by_some_case_when_it_is_gone() {
    let options =
        Options { states_max: 48, depth: 1, nested_states_max: 4, kills: false, ..Options::default() };
    let sites = disk_barrier_sites(DiskProfile::AnySubsetTorn, &options);
    let never = never_missed(&sites);
    assert!(sites.len() > 8, "a run without names of functions proves nothing");
    assert_eq!(never, NEVER_MISSED_ON_DISKS.map(|(caller, _)| caller));
}
