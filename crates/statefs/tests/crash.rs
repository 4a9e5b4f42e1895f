//! The store under power cuts, kills and faults, on devices as small as the format allows. The cases are those of
//! `steadfast crash` (`crates/crash-cases/src/state`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cases;

use std::collections::BTreeMap;

use cases::{
    Case, Part, assert_honest_after_faults, assert_kept, assert_kept_on_any_subset,
    assert_kept_under_every_profile, assert_run_to_their_end,
};

use crash_cases::state_case_named;
use crashsim::{
    BlockOp, Campaign, DiskImage, DiskLie, DiskProfile, Expected, Explorer, Gauge, Life, Options, Recording,
    Run, Scenario, SimDisk, Verdict as Found, Workload, barriers,
};
use media::{BlockDevice, BlockIndex, Geometry};
use statefs::{Access, Certainty, ErrorKind, Key, Store, StoreId, Verdict};

/// Those whose workload is always the same.
fn scripts() -> impl Iterator<Item = Case> {
    Part::Keys.scripts()
}

#[test]
fn every_case_runs_to_its_end_as_it_is_written() {
    assert_run_to_their_end(Part::Keys);
}

#[test]
fn acknowledged_writes_survive_every_power_cut_and_kill() {
    let options = Options { states_max: 600, depth: 1, nested_states_max: 12, ..Options::default() };
    assert_kept_under_every_profile(Part::Keys, &options);
}

#[test]
fn a_power_cut_in_a_recovery_from_a_power_cut_in_a_recovery_loses_nothing() {
    let options = Options { states_max: 30, depth: 2, nested_states_max: 5, ..Options::default() };
    assert_kept_on_any_subset(Part::Keys, &options);
}

#[test]
fn after_a_fault_at_any_call_every_error_was_honest() {
    assert_honest_after_faults(Part::Keys, 40);
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

/// A case on a device that has durable writes, where a commit needs no flush.
struct OnDurable(Case);

impl Workload<SimDisk> for OnDurable {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn start(&self) -> (DiskImage, Expected) {
        let (image, expected) = self.0.start();
        let geometry = image.geometry().with_write_durable();
        (DiskImage::from_bytes(geometry, &image.to_bytes().unwrap()).unwrap(), expected)
    }

    fn run(&self, disk: &SimDisk, run: &Run) {
        self.0.run(disk, run);
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        self.0.recover(disk, life)
    }

    fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Found {
        self.0.check(disk, life, expected)
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        self.0.is_same(first, second)
    }
}

/// Each durable write is made a plain one: for every kind of them, somebody notices.
#[test]
fn every_durable_write_is_needed() {
    let options = Options { states_max: 64, depth: 0, ..Options::default() };
    let (mut needed, mut unnoticed) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    for case in scripts().map(OnDurable) {
        let mut recorded = Scenario::plain(case.name()).record::<SimDisk>(&case).unwrap();
        let trace = recorded.trace.clone();
        for (record, entry) in trace.records().iter().enumerate() {
            let Some(BlockOp::Write { bytes, durable: true, .. }) = entry.op() else { continue };
            recorded.trace = DiskLie::NotDurable { record }.tell(&trace).unwrap();
            let report = Explorer::default().explore::<SimDisk>(
                &case,
                &recorded,
                DiskProfile::AnySubsetTorn,
                &options,
                &Gauge::default(),
            );
            let list = if report.failure.is_some() { &mut needed } else { &mut unnoticed };
            *list.entry(kind_of(bytes)).or_default() += 1;
        }
    }
    println!("durable writes: needed {needed:?}, unnoticed somewhere {unnoticed:?}");
    assert!(needed.contains_key("commit") && needed.contains_key("seal"), "{needed:?}");
    assert!(unnoticed.keys().all(|what| needed.contains_key(what)), "{unnoticed:?}");
}

/// What the kind of a frame, which is the sixth byte of its block, is called.
fn kind_of(block: &[u8]) -> &'static str {
    match block[5] {
        4 => "commit",
        5 => "seal",
        _ => "another",
    }
}

/// Everything a store shows, and whether it is certain of it.
fn all<D: BlockDevice>(store: &Store<D>) -> BTreeMap<Key, (Vec<u8>, Certainty)> {
    store.iter().map(|(key, value)| (key, (value.bytes.to_vec(), value.certainty))).collect()
}

/// A device that lies about one write: it never lands, or lands in any other place. Nothing is promised on such a device but
/// that it is said: after a clean close, what is not damaged is whole, and what is certain is the newest.
#[test]
fn lost_and_misdirected_writes_are_reported_as_damage() {
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    for case in scripts() {
        let recorded = Scenario::plain(case.name()).record::<SimDisk>(&*case).unwrap();
        let disk = SimDisk::resume(&recorded.start, recorded.trace);
        let Ok((store, recovery)) = Store::open(disk.clone(), Access::Write) else { continue };
        // A case that ends behind a flush that failed: there may be no clean close.
        if recovery.read_only.is_some() {
            continue;
        }
        store.close().unwrap();
        let whole = all(&Store::open(disk.clone(), Access::Read).unwrap().0);
        let trace = disk.trace();
        for record in 0..trace.len() {
            let elsewhere = (0..recorded.start.geometry().block_count())
                .map(|to| ("misdirected", DiskLie::Misdirected { record, to: BlockIndex::new(to) }));
            for (what, lie) in elsewhere.chain([("lost", DiskLie::Lost { record })]) {
                let Some(lied) = lie.tell(&trace) else { continue };
                let image = SimDisk::resume(&recorded.start, lied).image();
                let told =
                    judge(case.name(), &lie.to_string(), SimDisk::mount(image, Recording::Off), &whole);
                *counts.entry((what, told)).or_default() += 1;
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.contains_key(&("lost", "damaged")) && counts.contains_key(&("misdirected", "damaged")));
}

fn judge(case: &str, lie: &str, disk: SimDisk, whole: &BTreeMap<Key, (Vec<u8>, Certainty)>) -> &'static str {
    match Store::open(disk, Access::Read) {
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound),
                "{case}: {lie}: {error}"
            );
            "refused"
        }
        Ok((store, recovery)) if matches!(recovery.tail, Verdict::Damaged { .. }) => {
            for (key, (found, certainty)) in all(&store) {
                let is_newest = whole.get(&key).is_some_and(|(newest, _)| *newest == found);
                assert!(certainty == Certainty::Suspect || is_newest, "{case}: {lie}: {key} {recovery:?}");
            }
            "damaged"
        }
        Ok((store, recovery)) => {
            assert!(all(&store) == *whole, "{case}: {lie}: {recovery:?}");
            "whole"
        }
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
