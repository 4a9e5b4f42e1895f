//! Every rule of the journal as a test under power cuts, numbered as in the design (section 3).
//!
//! Some rules are proved elsewhere, and not a second time here:
//! - 1 (a block is valid if and only if): `frame.rs`, its own tests.
//! - 3 (no number is handed out twice): `hand_out` of the toy, in every script of `crash.rs`.
//! - 4 (the table): `replay.rs`, its own test; rot: `damage.rs`; whole stores: `statefs/tests/damage.rs`.
//! - 6 (a slot that is missing, slots of two stores): also `calls.rs`.
//! - 8, 9, 10 (poison, overlapping flushes, space): `calls.rs`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod toy;

use std::collections::BTreeMap;

use crashsim::{
    BlockOp, Campaign, Class, DiskImage, DiskProfile, Expected, Explorer, Fault, Gauge, Life, Mark,
    Operation, Options, Outcome, Random, Recording, Run, SimDisk, Value, Verdict as Found, Witness, Workload,
    replay,
};
use damage_cases::ImageDisk;
use journal::{Access, Evidence, Journal, JournalError, Kind, Limits, StoreId, Verdict, frame};
use media::{BlockDevice, BlockIndex, Geometry, MemDisk};

use toy::{On, SCRIPTS, STORE, Script, Toy, cell, explore, geometry, limits, owner, told};

const SIZE: usize = 512;

fn options() -> Options {
    Options { states_max: 300, depth: 1, nested_states_max: 16, ..Options::default() }
}

/// Explores, and fails with the story of the first broken promise.
fn prove(workload: &dyn Workload<SimDisk>, options: &Options) {
    let report = explore(workload, DiskProfile::AnySubsetTorn, options);
    println!("{:<60} visited {:>7} distinct {:>7}", workload.name(), report.visited, report.distinct);
    assert!(report.visited > 0);
    if let Some(failure) = &report.failure {
        let story = replay::<SimDisk>(workload, &failure.id);
        panic!(
            "{}: {:?}\n{}",
            workload.name(),
            failure.verdict,
            story.map_or_else(|e| e.to_string(), |s| s.to_string())
        );
    }
}

/// A disk full of what an earlier life left: random bytes, or a store that was switched and closed.
fn used_disk(blocks: u64, random: bool) -> SimDisk {
    let disk = SimDisk::mount(DiskImage::new(geometry(blocks)), Recording::Off);
    if random {
        let mut numbers = Random::new(7);
        for at in 0..blocks {
            let block: Vec<u8> = (0..SIZE / 8).flat_map(|_| numbers.next_u64().to_le_bytes()).collect();
            disk.write(BlockIndex::new(at), &block).unwrap();
        }
        return disk;
    }
    let mut journal =
        Journal::format(disk.clone(), StoreId([0xEE; 16]), limits(), b"an earlier one").unwrap();
    for value in 0..40 {
        if journal.room() == 0 {
            journal.begin_copy().unwrap();
            journal.copy(&[1, value]).unwrap();
            let _switched = journal.finish_copy().unwrap();
        }
        let _durable = journal.commit(&[1, value]).unwrap();
    }
    journal.seal_for_good().unwrap();
    disk
}

/// Rule 2: no sector that holds a durable, live byte is ever rewritten: not a block of the region in force, but for one that an
/// open has discarded; and no slot of the pair in force.
#[test]
fn rule_2_nothing_durable_and_live_is_ever_rewritten() {
    let mut checked = 0_u32;
    for script in &SCRIPTS {
        let recorded = crashsim::Scenario::plain(script.name).record::<SimDisk>(script).unwrap();
        let mut durable = recorded.start.to_bytes().unwrap();
        let mut cached = durable.clone();
        for op in recorded.trace.records().iter().filter_map(|record| record.op()) {
            let BlockOp::Write { at, bytes, .. } = op else {
                durable.clone_from(&cached);
                continue;
            };
            for (at, new) in (at.get()..).zip(bytes.chunks(SIZE)) {
                let place = usize::try_from(at).unwrap() * SIZE;
                let old = &durable[place..place + SIZE];
                let (generation, epoch) = in_force(&durable);
                if new.starts_with(b"SFSUPER1") {
                    let is_that_pair = old.starts_with(b"SFSUPER1") && number(old, 32) == generation;
                    assert!(!is_that_pair || number(new, 32) == generation, "{}: slot {at}", script.name);
                } else if let Ok((was, _)) = frame::decode(old, owner(), BlockIndex::new(at)) {
                    let (is, _) = frame::decode(new, owner(), BlockIndex::new(at)).unwrap();
                    let is_discarded = is.kind == Kind::Open && is.incarnation > was.incarnation;
                    assert!(was.epoch != epoch || is_discarded, "{}: block {at} {was:?} {is:?}", script.name);
                    checked += 1;
                }
                cached[place..place + SIZE].copy_from_slice(new);
            }
        }
    }
    assert!(checked > 10, "blocks are used again: {checked}");
}

fn number(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*block[at..].first_chunk().unwrap())
}

/// Generation and epoch of the greatest root.
fn in_force(bytes: &[u8]) -> (u64, u64) {
    let roots = bytes.chunks(SIZE).filter(|block| block.starts_with(b"SFSUPER1"));
    roots.map(|root| (number(root, 32), number(root, 40))).max().unwrap()
}

/// Rule 3: bytes of an older life of the disk never validate, and are never taken for damage: every script on a disk full of random
/// bytes, and on one full of another store. (`recover` of a script refuses damage.)
#[test]
fn rule_3_garbage_from_an_earlier_life_of_the_disk_is_never_damage() {
    for random in [false, true] {
        for script in &SCRIPTS {
            let disk = used_disk(script.blocks, random);
            drop(Journal::format(disk.clone(), STORE, limits(), b"toy").unwrap());
            let few = Options { states_max: 60, nested_states_max: 4, ..options() };
            prove(&On { script, image: disk.image(), expected: Expected::default() }, &few);
        }
    }
}

/// Rules 3 and 5: frames that were in flight at a death are discarded by the next open, some torn, some whole behind the torn one;
/// what was seen to be gone stays gone, whatever is cut then.
#[test]
fn rule_5_discarded_blocks_never_come_back_behind_a_reset_record() {
    let script = Script {
        name: "frames in flight at a death",
        blocks: 28,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            for key in 2..=4 {
                disk.tell(Mark::Begin(Operation::one("put", cell(key), Some(Value::bytes(&[1])))));
                toy.journal.write(&[key, 1])?;
                disk.tell(Mark::Visible);
            }
            Ok(())
        },
    };
    let deep = Options { depth: 2, nested_states_max: 8, states_max: 2000, ..Options::default() };
    prove(&script, &deep);
}

/// Rule 3: deleted things stay deleted: a region is used again and again, and what was in it at the same places never shows.
#[test]
fn rule_3_a_region_used_again_shows_nothing_of_its_earlier_life() {
    let script = Script {
        name: "around and around with the same blocks",
        blocks: 24,
        run: |disk, toy| {
            for value in 1..=3 {
                told(disk, toy, &[(1, value)], 0)?;
                // A deletion, as this engine has it: what is not copied is gone.
                toy.map.remove(&1);
                toy.map.insert(6, value);
                disk.tell(Mark::Begin(Operation::new(
                    "drop 1",
                    vec![vec![(cell(1), None), (cell(6), Some(Value::bytes(&[value])))]],
                )));
                let _switched = toy.switch()?;
                disk.tell(Mark::Acknowledged);
            }
            Ok(())
        },
    };
    prove(&script, &options());
}

/// Rule 4: whatever block of the region in force cannot be read, before its end or behind it, that is never the end: the store is
/// damaged, and it is not written to. What cannot be read elsewhere loses nothing.
#[test]
fn rule_4_a_read_error_is_never_the_end() {
    for script in &SCRIPTS {
        let recorded = crashsim::Scenario::plain(script.name).record::<SimDisk>(script).unwrap();
        let image = SimDisk::resume(&recorded.start, recorded.trace).image().to_bytes().unwrap();
        let open = |unreadable: Option<u64>| {
            let disk = ImageDisk::new(geometry(script.blocks), image.clone());
            unreadable.into_iter().for_each(|block| disk.make_unreadable(block));
            let mut bodies = Vec::new();
            let opened = Journal::open(&disk, Access::Write, &mut |frame| {
                bodies.push(frame.body.to_vec());
                Ok::<_, JournalError>(())
            });
            let opened = opened.unwrap();
            let places: Vec<u64> = (0..opened.journal.layout().region_blocks())
                .map(|at| opened.journal.address(at).get())
                .collect();
            (bodies, opened.report.verdict, places, disk.take_asked().writes)
        };
        let (whole, _, in_force, _) = open(None);
        for block in 0..script.blocks {
            let (bodies, verdict, _, writes) = open(Some(block));
            if !in_force.contains(&block) {
                assert_eq!(bodies, whole, "{}: {block}", script.name);
                continue;
            }
            let is_told = matches!(verdict, Verdict::Damaged { evidence: Evidence::Unreadable, .. });
            assert!(is_told && writes == 0, "{}: block {block}: {verdict:?}", script.name);
        }
    }
}

/// Rule 6: cut anywhere, a format over an older store leaves the old one, none, or the new one. The old one has been switched an
/// even or an odd number of times, was made with the same limits or with others; and once the device was smaller.
#[test]
fn rule_6_a_format_over_an_older_store_cut_anywhere_leaves_old_none_or_new() {
    for switches in 0..3 {
        for old_limits in [limits(), Limits { frame_blocks_max: 4, in_flight_blocks_max: 9 }] {
            for old_blocks in [24, 28] {
                prove(
                    &FormatOver { switches, old_limits, old_blocks },
                    &Options { states_max: 20_000, ..options() },
                );
            }
        }
    }
}

struct FormatOver {
    switches: u8,
    old_limits: Limits,
    old_blocks: u64,
}

impl FormatOver {
    const OLD: StoreId = StoreId([0xEE; 16]);
    const BLOCKS: u64 = 28;

    /// Keys 1 and 2 with value 1 are the old store, key 3 is the new one.
    fn content(disk: &SimDisk) -> Result<BTreeMap<u8, u8>, Option<JournalError>> {
        match Toy::open(disk, Access::Read) {
            Ok((_, report)) if matches!(report.verdict, Verdict::Damaged { .. }) => Err(None),
            Ok((toy, _)) => Ok(toy.map),
            Err(error) => Err(Some(error)),
        }
    }
}

impl Workload<SimDisk> for FormatOver {
    fn name(&self) -> &str {
        "format over an older store"
    }

    fn start(&self) -> (DiskImage, Expected) {
        let small = SimDisk::mount(DiskImage::new(geometry(self.old_blocks)), Recording::Off);
        let journal = Journal::format(small.clone(), Self::OLD, self.old_limits, b"toy").unwrap();
        let mut toy = Toy { journal, map: BTreeMap::new() };
        let _durable = toy.put(&[(1, 1), (2, 1)], 0).unwrap();
        for _ in 0..self.switches {
            let _switched = toy.switch().unwrap();
        }
        let _durable = toy.put(&[(1, 1)], 0).unwrap();
        toy.journal.seal_for_good().unwrap();
        let bytes = small.image().to_bytes().unwrap();
        (DiskImage::from_bytes(geometry(Self::BLOCKS), &bytes).unwrap(), Expected::default())
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        disk.tell(Mark::Begin(Operation::one("format", "new", Some(Value::bytes(b"")))));
        let journal = Journal::format(disk.clone(), STORE, limits(), b"toy").unwrap();
        disk.tell(Mark::Acknowledged);
        let mut toy = Toy { journal, map: BTreeMap::new() };
        drop(told(disk, &mut toy, &[(3, 1)], 0));
    }

    fn recover(&self, disk: &SimDisk, _life: Life) -> Result<(), String> {
        // What is there is opened to be written, as a program would. Where there is none, that stays so.
        drop(Toy::open(disk, Access::Write));
        Ok(())
    }

    fn check(&self, disk: &SimDisk, _life: Life, expected: &Expected) -> Found {
        let is_done = expected.allowed("new") == [Some(Value::bytes(b""))];
        let is_put = expected.allowed("3") == [Some(Value::bytes(&[1]))];
        let old = BTreeMap::from([(1, 1), (2, 1)]);
        match Self::content(disk) {
            Ok(map) if map == old && !is_done => Found::of(Class::Old),
            Ok(map) if map == BTreeMap::from([(3, 1)]) => Found::of(Class::New),
            Ok(map) if map.is_empty() && !is_put => Found::of(Class::New),
            Err(Some(JournalError::NoStore | JournalError::SuperblocksLost)) if !is_done => {
                Found::of(Class::Old)
            }
            other => Found::broken(Class::Mix, format!("{other:?}")),
        }
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        Self::content(first).ok() == Self::content(second).ok()
    }
}

/// Rule 6: attempts at a switch that die at every call, one after the other without a power cut between them, and then the cut.
#[test]
fn rule_6_interrupted_and_retried_switches_lose_nothing() {
    let script = Script {
        name: "switches that die at each of their calls",
        blocks: 40,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            // Header, copied, closing, and the two slots of the root. A flush that fails is another rule's.
            let calls = [0, 2, 3, 5, 6].into_iter();
            let faults = calls.flat_map(|call| [(call, Fault::Fail(5)), (call, Fault::FailAfter(5))]);
            for (fault, value) in faults.zip(2..) {
                disk.set_faults([fault]);
                let outcome = toy.switch();
                disk.set_faults([]);
                if outcome.is_err() {
                    *toy = Toy::open(disk, Access::Write)?.0;
                }
                told(disk, toy, &[(1, value), (2, value)], 0)?;
            }
            Ok(())
        },
    };
    let recorded = crashsim::Scenario::plain(script.name).record::<SimDisk>(&script).unwrap();
    let marks: Vec<Mark> =
        recorded.trace.records().iter().filter_map(|record| record.mark()).cloned().collect();
    assert!(recorded.expected.after(marks.iter()).acknowledged() >= 11, "it runs to its end");
    let one_by_one = Options { states_max: 120, depth: 1, nested_states_max: 6, ..Options::default() };
    prove(&script, &one_by_one);
}

/// Rule 6: what rots of a copy, right after the switch, is damage and never a torn tail, though nothing was committed behind it.
#[test]
fn rule_6_rot_in_copied_records_right_after_a_switch_is_damage() {
    let disk = MemDisk::new(geometry(28)).unwrap();
    let mut journal = Journal::format(disk.clone(), STORE, limits(), b"toy").unwrap();
    let _durable = journal.commit(&[1, 1]).unwrap();
    journal.begin_copy().unwrap();
    journal.copy(&[1, 1]).unwrap();
    journal.copy(&[2; 600]).unwrap();
    let _switched = journal.finish_copy().unwrap();
    let good = disk.image().unwrap();
    // Region B: header, a copied frame of one block and one of two, closing.
    let first = (2 + 12) * SIZE;
    for bit in first * 8..(first + 5 * SIZE) * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let disk = MemDisk::from_image(geometry(28), bad).unwrap();
        let report = Journal::open(disk, Access::Read, &mut |_| Ok::<_, JournalError>(())).unwrap().report;
        let is_told =
            matches!(report.verdict, Verdict::Damaged { first_lost: 1, evidence: Evidence::Copied, .. });
        assert!(is_told, "bit {bit}: {report:?}");
    }
}

/// An image whose newest copy is closed, without the root that should name it.
fn switched_without_root() -> DiskImage {
    let disk = SimDisk::mount(DiskImage::new(geometry(28)), Recording::Off);
    let journal = Journal::format(disk.clone(), STORE, limits(), b"toy").unwrap();
    let mut toy = Toy { journal, map: BTreeMap::new() };
    let _durable = toy.put(&[(1, 1), (2, 1)], 0).unwrap();
    // Header, flush, copied, closing, flush; then the slots.
    disk.set_faults([(5, Fault::Fail(5))]);
    assert!(toy.switch().is_err());
    disk.set_faults([]);
    disk.image()
}

/// Rule 4: a watermark is heard wherever it stands. A switch was cut short, its header rots, and so does the last commit of the
/// region in force: nobody but the closing frame of the copy says that this commit had been flushed.
#[test]
fn rule_4_a_promise_in_the_other_region_is_heard() {
    let image = switched_without_root();
    let disk = SimDisk::mount(image, Recording::Off);
    // Region A: header, closing, the one commit. Region B begins behind twelve blocks.
    for rotten in [2 + 2, 2 + 12] {
        disk.write(BlockIndex::new(rotten), &[0; SIZE]).unwrap();
    }
    let (toy, report) = Toy::open(&disk, Access::Write).unwrap();
    let wanted = Verdict::Damaged { at: 2, first_lost: 3, last_lost: 3, evidence: Evidence::PromisedDurable };
    assert_eq!((report.verdict, report.gap_at_end), (wanted, true));
    assert_eq!((toy.map.len(), toy.journal.read_only()), (0, Some("it is damaged")));
}

/// Rule 3: the epoch of an attempt at a switch is greater than any seen, also where the header of the attempt before has rotted.
#[test]
fn rule_3_the_epoch_of_an_attempt_whose_header_rotted_is_not_used_again() {
    let disk = SimDisk::mount(SCRIPTS[3].start().0, Recording::Off);
    let (mut toy, _) = Toy::open(&disk, Access::Write).unwrap();
    let _durable = toy.put(&[(1, 1)], 0).unwrap();
    toy.journal.begin_copy().unwrap();
    toy.copy_all().unwrap();
    // Region B begins behind the ten blocks of region A.
    let header = BlockIndex::new(2 + 10);
    let epoch = |disk: &SimDisk, at: BlockIndex| {
        let mut block = [0; SIZE];
        disk.read(at, &mut block).unwrap();
        frame::decode(&block, owner(), at).unwrap().0.epoch
    };
    let before = epoch(&disk, header);
    disk.write(header, &[0xA5; SIZE]).unwrap();
    let (mut toy, _) = Toy::open(&disk, Access::Write).unwrap();
    toy.journal.begin_copy().unwrap();
    assert!(epoch(&disk, header) > before);
}

/// Rule 6: an open that finds a whole newer region finishes the switch before it accepts anything; a cut in that is just another cut.
#[test]
fn rule_6_a_whole_newer_region_is_finished_at_open() {
    let image = switched_without_root();
    let disk = SimDisk::mount(image.clone(), Recording::On);
    let (_, report) = Toy::open(&disk, Access::Write).unwrap();
    assert!(report.switch_finished && report.roots_repaired == 2, "{report:?}");
    let trace = disk.trace();
    let ops: Vec<&BlockOp> = trace.records().iter().filter_map(|record| record.op()).collect();
    let is_root =
        |op: &&BlockOp| matches!(op, BlockOp::Write { bytes, .. } if bytes.starts_with(b"SFSUPER1"));
    let is_flush = |op: &&BlockOp| matches!(op, BlockOp::Flush { .. });
    let first = ops.iter().position(&is_root).unwrap();
    assert!(is_flush(&ops[first - 1]) && is_root(&ops[first + 1]) && is_flush(&ops[first + 2]));
    assert!(!ops[first + 3..].iter().any(is_root), "the root once, between two flushes");
    // What was copied may have been read from a cache alone, so it is written again before the root; nothing else is.
    let is_region_b = |op: &&BlockOp| matches!(op, BlockOp::Write { at, .. } if at.get() >= 2 + 12);
    assert!(ops[1..first - 1].iter().all(is_region_b), "{ops:?}");
    let script = Script {
        name: "a switch that waits to be finished",
        blocks: 28,
        run: |disk, toy| told(disk, toy, &[(1, 2)], 0),
    };
    let started = [1, 2].map(|key| (cell(key), Some(Value::bytes(&[1]))));
    prove(&On { script: &script, image, expected: Expected::starting(started) }, &options());
}

/// Rule 6: the header of the other region cannot be read: there may be a newer one, so nothing is written. Everything is readable.
#[test]
fn rule_6_an_unreadable_header_of_the_other_region_forbids_writing() {
    let image = switched_without_root();
    let disk = SimDisk::mount(image, Recording::On);
    // Flush, the two ends with the slots, and then the header.
    disk.set_faults([(3, Fault::Fail(5))]);
    let (mut toy, _) = Toy::open(&disk, Access::Write).unwrap();
    assert_eq!(toy.map, BTreeMap::from([(1, 1), (2, 1)]));
    assert_eq!(toy.journal.read_only(), Some("the header of its other region cannot be read"));
    assert!(toy.put(&[(1, 2)], 0).is_err());
    let writes =
        disk.trace().records().iter().filter(|r| matches!(r.op(), Some(BlockOp::Write { .. }))).count();
    assert_eq!(writes, 0);
}

/// Rule 6: a slot missing from the pair in force is rewritten, and flushed, before anything is committed; so the loss of the other
/// slot afterwards loses nothing.
#[test]
fn rule_6_a_missing_slot_is_rewritten_before_commits_are_accepted() {
    let fresh = SCRIPTS[0].start().0;
    let last = SCRIPTS[0].blocks - 1;
    for (lost, other) in [(1, last), (last, 1)] {
        let disk = SimDisk::mount(fresh.clone(), Recording::Off);
        disk.write(BlockIndex::new(lost), &[0; SIZE]).unwrap();
        let image = disk.image();
        for script in &SCRIPTS {
            if script.blocks == SCRIPTS[0].blocks {
                prove(&On { script, image: image.clone(), expected: Expected::default() }, &options());
            }
        }
        let disk = SimDisk::mount(image, Recording::Off);
        let (mut toy, report) = Toy::open(&disk, Access::Write).unwrap();
        assert_eq!(report.roots_repaired, 1);
        let _durable = toy.put(&[(1, 1)], 0).unwrap();
        disk.write(BlockIndex::new(other), &[0; SIZE]).unwrap();
        assert_eq!(Toy::open(&disk, Access::Read).unwrap().0.map, BTreeMap::from([(1, 1)]));
    }
}

/// Rule 6: a slot of another store is an error, whatever its generation: never "the greatest wins".
#[test]
fn rule_6_slots_of_different_stores_are_an_error() {
    let ours = SCRIPTS[0].start().0;
    for generations in [1_u64, 2, 3] {
        let other = SimDisk::mount(DiskImage::new(geometry(SCRIPTS[0].blocks)), Recording::Off);
        let mut journal = Journal::format(other.clone(), StoreId([1; 16]), limits(), b"toy").unwrap();
        for _ in 1..generations {
            journal.begin_copy().unwrap();
            let _switched = journal.finish_copy().unwrap();
        }
        for slot in [0, 1, SCRIPTS[0].blocks - 2, SCRIPTS[0].blocks - 1] {
            let mut block = [0; SIZE];
            other.read(BlockIndex::new(slot), &mut block).unwrap();
            if !block.starts_with(b"SFSUPER1") {
                continue;
            }
            let disk = SimDisk::mount(ours.clone(), Recording::On);
            disk.write(BlockIndex::new(slot), &block).unwrap();
            let before = disk.trace().len();
            let refused = Toy::open(&disk, Access::Write).map(|(_, report)| report);
            assert!(matches!(refused, Err(JournalError::SeveralStores { .. })), "slot {slot}: {refused:?}");
            let trace = disk.trace();
            let writes =
                trace.records()[before..].iter().filter(|r| matches!(r.op(), Some(BlockOp::Write { .. })));
            assert_eq!(writes.count(), 0, "nothing is written");
        }
    }
}

/// Rule 7: replay needs no free space. A region is full to its last block; it opens again and again, and a switch makes room.
#[test]
fn rule_7_replay_needs_no_free_space() {
    let script = Script {
        name: "opened until no block is left",
        blocks: 22,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            for _ in 0..10 {
                *toy = Toy::open(disk, Access::Write)?.0;
            }
            assert_eq!(toy.journal.room(), 0, "the region is full");
            told(disk, toy, &[(1, 2)], 0)
        },
    };
    prove(&script, &options());
}

/// Rule 7: a flush fails, the process dies, another one starts, reads **past the cache** what a power cut would have left as well,
/// goes on, and then the power fails. Every call of every script fails once.
#[test]
fn rule_7_process_death_after_a_failed_flush_and_then_a_power_cut_lose_nothing() {
    let faults =
        Options { states_max: 24, depth: 1, nested_states_max: 6, kills: false, ..Options::default() };
    let campaign = Campaign {
        profiles: vec![DiskProfile::AnySubsetTorn],
        options: faults.clone(),
        faults: Some(faults),
        budget: u64::MAX,
        seeds_max: 1,
    };
    for script in &SCRIPTS {
        for row in campaign.run::<SimDisk>(&Explorer::default(), script, &Gauge::default(), |_| {}) {
            println!("{:<42} runs {:>4} visited {:>7}", script.name, row.runs, row.report.visited);
            if let Some(failure) = &row.report.failure {
                panic!("{:?}\n{}", failure.verdict, replay::<SimDisk>(script, &failure.id).unwrap());
            }
        }
    }
}

/// Rule 7, and its limit: where the cache goes on lying after the flush that failed, so that the next process reads what is not
/// and will not be on the medium, nothing can be promised about that frame; but when it turns out to be gone, that is
/// **damage that is reported**, and not silence.
#[test]
fn rule_7_a_cache_that_lies_after_a_failed_flush_is_not_followed_by_silence() {
    let disk = SimDisk::mount(DiskImage::new(geometry(44)), Recording::Off);
    drop(Journal::format(disk.clone(), STORE, limits(), b"toy").unwrap());
    let start = disk.image();
    let disk = SimDisk::mount(start.clone(), Recording::On);
    let (mut toy, _) = Toy::open(&disk, Access::Write).unwrap();
    let _durable = toy.put(&[(1, 1)], 0).unwrap();
    disk.set_faults([(1, Fault::Fail(5))]);
    assert!(toy.put(&[(1, 2)], 0).is_err());
    disk.set_faults([]);
    let (mut next, _) = Toy::open(&disk, Access::Write).unwrap();
    assert_eq!(next.map, BTreeMap::from([(1, 2)]), "the cache shows it");
    let _durable = next.put(&[(2, 2)], 0).unwrap();
    let failed = disk.trace().records().iter().position(
        |record| matches!(record.op(), Some(BlockOp::Flush { outcome }) if *outcome != Outcome::Done),
    );
    // The write that the failed flush should have covered never lands.
    let lost = disk.trace().without(failed.unwrap() - 1);
    let (toy, report) = Toy::open(&SimDisk::resume(&start, lost), Access::Read).unwrap();
    assert!(
        matches!(report.verdict, Verdict::Damaged { evidence: Evidence::PromisedDurable, .. }),
        "{report:?}"
    );
    assert_eq!(toy.map.get(&2), Some(&2), "what stands behind it is there");
}

/// Rule 7: recovery run twice equals recovery run once, for every script: nothing changes but the number of starts.
#[test]
fn rule_7_reading_writes_nothing_and_recovery_twice_is_recovery_once() {
    for script in &SCRIPTS {
        let recorded = crashsim::Scenario::plain(script.name).record::<SimDisk>(script).unwrap();
        let disk = SimDisk::mount(SimDisk::resume(&recorded.start, recorded.trace).image(), Recording::On);
        let (first, _) = Toy::open(&disk, Access::Read).unwrap();
        assert!(disk.trace().is_empty(), "{}", script.name);
        for _ in 0..3 {
            let (again, report) = Toy::open(&disk, Access::Write).unwrap();
            assert_eq!((&again.map, again.journal.read_only()), (&first.map, None), "{report:?}");
        }
    }
}

/// The geometry of these tests tears blocks, or the tests prove less than they say.
#[test]
fn blocks_tear_in_these_tests() {
    assert!(geometry(24).torn_blocks());
    assert!(!Geometry::new(512, 24).unwrap().torn_blocks());
}
