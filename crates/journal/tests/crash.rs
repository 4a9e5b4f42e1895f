//! The journal under power cuts: a toy engine of byte keys and byte values on a device as small as the format allows.

mod toy;

use std::collections::BTreeMap;

use crashsim::{
    BlockOp, DiskImage, DiskProfile, Expected, Options, Recording, Scenario, SimDisk, Trace, barriers, replay,
};
use journal::{Access, Journal};
use media::Geometry;

use toy::{On, SCRIPTS, STORE, Script, Toy, explore, limits, owner, told};

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

/// On devices that are large enough for marks: frames, seals and opens beyond a mark, and a switch, which lowers it.
const MARKED: [Script; 3] = [
    Script {
        name: "beyond a mark",
        blocks: 2048,
        run: |disk, toy| {
            // Header, closing and so many commits fill what the first mark allows.
            for value in 1..14 {
                let _durable = toy.put(&[(200, value)], 0)?;
            }
            for value in 1..4 {
                told(disk, toy, &[(1, value)], 0)?;
            }
            Ok(())
        },
    },
    Script {
        name: "beyond a mark, opened again",
        blocks: 2048,
        run: |disk, toy| {
            for value in 1..14 {
                let _durable = toy.put(&[(200, value)], 0)?;
            }
            toy.journal.seal_for_good()?;
            let (mut next, _) = Toy::open(disk, Access::Write)?;
            told(disk, &mut next, &[(1, 1)], 0)?;
            told(disk, &mut next, &[(1, 2)], 0)
        },
    },
    Script {
        name: "a switch, and beyond its mark",
        blocks: 2048,
        run: |disk, toy| {
            for value in 1..20 {
                let _durable = toy.put(&[(200, value)], 0)?;
            }
            let _there = toy.switch()?;
            for value in 1..14 {
                let _durable = toy.put(&[(200, value)], 0)?;
            }
            told(disk, toy, &[(1, 1)], 0)?;
            let _back = toy.switch()?;
            told(disk, toy, &[(1, 2)], 0)
        },
    },
];

/// A mark never hides what was acknowledged, wherever the power is cut; and without the flush that makes it durable it would.
#[test]
fn marks_hide_nothing_wherever_the_power_is_cut() {
    let options = Options { states_max: 100, depth: 1, nested_states_max: 4, ..Options::default() };
    let few = Options { states_max: 200, depth: 1, nested_states_max: 8, ..options.clone() };
    let mut needed = 0;
    for script in &MARKED {
        for is_durable in [false, true] {
            let geometry = Geometry::new(512, script.blocks).unwrap().with_torn_blocks();
            let geometry = if is_durable { geometry.with_write_durable() } else { geometry };
            let disk = SimDisk::mount(DiskImage::new(geometry), Recording::Off);
            drop(Journal::format(disk.clone(), STORE, limits(), b"toy").unwrap());
            let on = On { script, image: disk.image(), expected: Expected::default() };
            let report = explore(&on, DiskProfile::AnySubsetTorn, &options);
            let (visited, points) = (report.visited, report.points);
            println!(
                "{:<32} durable writes {is_durable:<5} points {points:>3} visited {visited:>7}",
                script.name
            );
            if let Some(failure) = &report.failure {
                panic!("{}", replay::<SimDisk>(&on, &failure.id).unwrap());
            }
            if !is_durable || script.name != MARKED[0].name {
                continue;
            }
            let scenario = Scenario::plain(script.name);
            let purposes = purposes(&scenario.record::<SimDisk>(&on).unwrap().trace);
            let found = barriers::<SimDisk>(&on, &scenario, DiskProfile::AnySubsetTorn, &few);
            for (barrier, _) in found.iter().zip(&purposes).filter(|(_, purpose)| **purpose == "mark") {
                needed += usize::from(barrier.removed.is_some());
            }
        }
    }
    assert!(needed > 0, "the flush of a mark is missed when it is gone");
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
                    Some(Kind::Mark) => "mark",
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
    Mark,
    Frame(journal::Kind),
}

fn kind_of(at: media::BlockIndex, block: &[u8]) -> Option<Kind> {
    if block.starts_with(b"SFSUPER1") {
        return Some(Kind::Root);
    }
    if block.starts_with(b"SFMARK01") {
        return Some(Kind::Mark);
    }
    let decoded = journal::frame::decode(block, owner(), at);
    decoded.ok().map(|(header, _)| Kind::Frame(header.kind))
}
