//! The journal under power cuts: a toy engine of byte keys and byte values on a device as small as the format allows.

mod toy;

use std::collections::BTreeMap;

use crashsim::{BlockOp, DiskProfile, Options, Scenario, SimDisk, Trace, barriers, replay};

use toy::{SCRIPTS, explore, owner};

#[test]
fn acknowledged_frames_survive_every_power_cut() {
    let options = Options { states_max: 2000, depth: 1, nested_states_max: 40, ..Options::default() };
    for script in &SCRIPTS {
        for profile in DiskProfile::ALL {
            let report = explore(script, profile, &options);
            println!(
                "{:<24} {:<18} points {:>3} visited {:>7} distinct {:>7} space {} {}",
                script.name,
                profile.name(),
                report.points,
                report.visited,
                report.distinct,
                report.space,
                if report.exhaustive { "all" } else { "sampled" }
            );
            if let Some(failure) = &report.failure {
                panic!("{}", replay::<SimDisk>(script, &failure.id).unwrap());
            }
        }
    }
}

/// Every flush of every script, taken away. Those that nobody misses are these, and no others.
#[test]
fn every_barrier_is_needed_or_has_a_reason() {
    let options = Options { states_max: 128, depth: 1, nested_states_max: 8, ..Options::default() };
    let mut needed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unnoticed: BTreeMap<&str, usize> = BTreeMap::new();
    for script in &SCRIPTS {
        let scenario = Scenario::plain(script.name);
        let recorded = scenario.record::<SimDisk>(script).unwrap();
        let purposes = purposes(&recorded.trace);
        let found = barriers::<SimDisk>(script, &scenario, DiskProfile::DEFAULT, &options);
        assert_eq!(found.len(), purposes.len());
        for (barrier, purpose) in found.into_iter().zip(purposes) {
            let list = if barrier.removed.is_some() { &mut needed } else { &mut unnoticed };
            *list.entry(purpose).or_default() += 1;
        }
    }
    println!("needed: {needed:?}\nunnoticed somewhere: {unnoticed:?}");
    let never: Vec<&str> = unnoticed.keys().filter(|what| !needed.contains_key(*what)).copied().collect();
    // The flush of an open has nothing to cover where nobody died before it; where somebody did, it counts as that of the
    // frame he left, and is needed.
    assert_eq!(never, ["open"]);
}

/// What each flush is for: what was written since the one before it.
fn purposes(trace: &Trace<BlockOp>) -> Vec<&'static str> {
    let mut since: Vec<Kind> = Vec::new();
    let mut writes = 0;
    let mut purposes = Vec::new();
    for op in trace.records().iter().filter_map(|record| record.op()) {
        match op {
            BlockOp::Write { at, bytes, .. } => {
                writes += 1;
                since.extend(bytes.chunks(512).next().and_then(|block| kind_of(*at, block)));
            }
            BlockOp::Flush { .. } => {
                purposes.push(match since.last() {
                    None => "open",
                    Some(Kind::Root) if writes == 1 => "slot written again",
                    Some(Kind::Root) => "root",
                    Some(Kind::Frame(journal::Kind::Header)) => "header",
                    Some(Kind::Frame(journal::Kind::Copied | journal::Kind::Closing)) => "closing",
                    Some(Kind::Frame(journal::Kind::Commit)) => "commit",
                    Some(Kind::Frame(journal::Kind::Seal)) => "seal",
                    Some(Kind::Frame(journal::Kind::Open)) => "record of an open",
                });
                since.clear();
                writes = 0;
            }
        }
    }
    purposes
}

enum Kind {
    Root,
    Frame(journal::Kind),
}

fn kind_of(at: media::BlockIndex, block: &[u8]) -> Option<Kind> {
    if block.starts_with(b"SFSUPER1") {
        return Some(Kind::Root);
    }
    let decoded = journal::frame::decode(block, owner(), at);
    decoded.ok().map(|(header, _)| Kind::Frame(header.kind))
}
