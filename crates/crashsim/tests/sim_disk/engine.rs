//! A toy engine on the simulated disk: does the explorer see it keep its promises, and see it break them?

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Instant;

use crashsim::{
    BlockOp, Class, CrashId, DiskImage, DiskLie, DiskProfile, Expected, Explorer, Fate, Gauge, Life, Mark,
    Mutation, Operation, Options, Recorded, Recording, Report, Run, Scenario, SimDisk, Value, Verdict,
    Witness, Workload, replay, shrink,
};
use media::{BlockDevice, BlockIndex, DeviceError, Geometry};

use super::geometry;

/// How the toy commits its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// A write, then a flush.
    Flush,
    /// A durable write.
    Durable,
}

/// One value in two slots of two blocks each: a header with a generation and a checksum of itself, and the payload. The
/// greatest generation wins. The payload has no checksum: that it is whole when the header is there rests on the flush
/// between them.
struct TwoSlots {
    geometry: Geometry,
    commit: Commit,
    puts: u8,
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

impl TwoSlots {
    fn new(geometry: Geometry) -> Self {
        Self { geometry, commit: Commit::Flush, puts: 2 }
    }

    fn block(&self, head: &[u8], fill: u8) -> Vec<u8> {
        let mut block = vec![fill; self.geometry.block_size()];
        block[..head.len()].copy_from_slice(head);
        block
    }

    fn header(&self, generation: u64) -> Vec<u8> {
        let head = [*b"TWOSLOTS", generation.to_le_bytes()].concat();
        self.block(&[head.clone(), fnv(&head).to_le_bytes().to_vec()].concat(), 0)
    }

    /// The generation of a slot; [`None`] if its header is not whole.
    fn generation(&self, disk: &SimDisk, slot: u64) -> Result<Option<u64>, DeviceError> {
        let mut header = vec![0; self.geometry.block_size()];
        disk.read(BlockIndex::new(2 * slot), &mut header)?;
        let generation = u64::from_le_bytes(header[8..16].try_into().unwrap());
        Ok((header == self.header(generation)).then_some(generation))
    }

    /// The slot in force and its generation.
    fn newest(&self, disk: &SimDisk) -> Result<Option<(u64, u64)>, DeviceError> {
        let mut found = None;
        for slot in 0..2 {
            if let Some(generation) = self.generation(disk, slot)?
                && found.is_none_or(|(best, _)| generation > best)
            {
                found = Some((generation, slot));
            }
        }
        Ok(found.map(|(generation, slot)| (slot, generation)))
    }

    fn put(&self, disk: &SimDisk, value: u8) -> Result<(), DeviceError> {
        let (slot, generation) = self.newest(disk)?.unwrap_or((1, 0));
        let free = 1 - slot;
        disk.write(BlockIndex::new(2 * free + 1), &self.block(&[], value))?;
        disk.flush()?;
        disk.mark("payload_durable");
        let (at, header) = (BlockIndex::new(2 * free), self.header(generation + 1));
        match self.commit {
            Commit::Flush => disk.write(at, &header).and_then(|()| disk.flush()),
            Commit::Durable => disk.write_durable(at, &header),
        }
    }

    fn get(&self, disk: &SimDisk) -> Result<Option<Value>, DeviceError> {
        let Some((slot, _)) = self.newest(disk)? else { return Ok(None) };
        let mut payload = vec![0; self.geometry.block_size()];
        disk.read(BlockIndex::new(2 * slot + 1), &mut payload)?;
        Ok(Some(Value::bytes(&payload)))
    }

    fn value(&self, value: u8) -> Option<Value> {
        Some(Value::bytes(&self.block(&[], value)))
    }
}

impl Workload<SimDisk> for TwoSlots {
    fn name(&self) -> &'static str {
        "two-slots"
    }

    fn start(&self) -> (DiskImage, Expected) {
        let disk = SimDisk::mount(DiskImage::new(self.geometry), Recording::Off);
        self.put(&disk, b'a').unwrap();
        (disk.image(), Expected::starting([("value".into(), self.value(b'a'))]))
    }

    fn run(&self, disk: &SimDisk, _: &Run) {
        for value in (b'b'..).take(usize::from(self.puts)) {
            disk.tell(Mark::Begin(Operation::one(format!("put {value}"), "value", self.value(value))));
            match self.put(disk, value) {
                Ok(()) => disk.tell(Mark::Acknowledged),
                Err(_) => {
                    disk.tell(Mark::Failed(Fate::Unknown));
                    // After an error nothing is known of what is durable: nothing more is written.
                    return;
                }
            }
        }
    }

    /// Wipes the other header if it is neither whole nor empty.
    fn recover(&self, disk: &SimDisk, _: Life) -> Result<(), String> {
        let said = |error: DeviceError| error.to_string();
        disk.flush().map_err(said)?;
        let (slot, _) = self.newest(disk).map_err(said)?.ok_or("no slot is whole")?;
        let other = BlockIndex::new(2 * (1 - slot));
        let mut header = self.block(&[], 0);
        disk.read(other, &mut header).map_err(said)?;
        if self.generation(disk, 1 - slot).map_err(said)?.is_none() && header.iter().any(|&byte| byte != 0) {
            disk.write(other, &self.block(&[], 0)).and_then(|()| disk.flush()).map_err(said)?;
        }
        Ok(())
    }

    fn check(&self, disk: &SimDisk, _: Life, expected: &Expected) -> Verdict {
        match self.get(disk) {
            Ok(found) => expected.judge(|_| found.clone()),
            Err(error) => Verdict::broken(Class::CannotOpen, error.to_string()),
        }
    }
}

fn small() -> Geometry {
    geometry(512, 4).with_torn_blocks()
}

fn plain() -> Scenario {
    Scenario::plain("two-slots")
}

fn options(threads: usize) -> Options {
    Options { threads: NonZeroUsize::new(threads).unwrap(), ..Options::default() }
}

fn explore(engine: &TwoSlots, recorded: &Recorded<SimDisk>, profile: DiskProfile) -> Report {
    Explorer::default().explore(engine, recorded, profile, &options(1), &Gauge::default())
}

fn flushes(recorded: &Recorded<SimDisk>) -> Vec<usize> {
    let records = recorded.trace.records().iter().enumerate();
    records.filter(|(_, record)| record.op().is_some_and(BlockOp::is_barrier)).map(|(at, _)| at).collect()
}

#[test]
fn acknowledged_put_survives_any_subset_loss() {
    for commit in [Commit::Flush, Commit::Durable] {
        for shape in [geometry(512, 4), geometry(4096, 4), geometry(4096, 4).with_torn_blocks(), small()] {
            let engine = TwoSlots { commit, ..TwoSlots::new(shape.with_write_durable()) };
            let recorded = plain().record(&engine).unwrap();
            for profile in DiskProfile::ALL {
                let report = explore(&engine, &recorded, profile);
                println!(
                    "{} bytes, {commit:?}, {}: {} points, {} visited of {}, {} images, {:?}",
                    shape.block_size(),
                    profile.name(),
                    report.points,
                    report.visited,
                    report.space,
                    report.distinct,
                    report.classes,
                );
                assert_eq!(report.failure, None);
                assert!(report.exhaustive, "one block is in flight at a time");
                assert!(report.distinct > 2);
            }
        }
    }
}

#[test]
fn every_flush_that_is_removed_is_missed() {
    let engine = TwoSlots::new(small());
    let recorded = plain().record(&engine).unwrap();
    let flushes = flushes(&recorded);
    assert_eq!(flushes.len(), 4);
    for record in flushes {
        let scenario = Scenario { mutation: Some(Mutation::Removed(record)), ..plain() };
        let recorded = scenario.record(&engine).unwrap();
        let report = explore(&engine, &recorded, DiskProfile::AnySubsetTorn);
        let failure = report.failure.unwrap();
        println!("flush at record {record} removed: {} ({:?})", failure.id, failure.verdict);

        let text = failure.id.to_string();
        let id: CrashId = text.parse().unwrap();
        assert_eq!((&id, id.to_string()), (&failure.id, text));
        let story = replay(&engine, &id).unwrap();
        assert_eq!(story.verdict, failure.verdict);
        let smaller = shrink(&engine, &id, &options(1));
        assert!(replay(&engine, &smaller).unwrap().verdict.broken.is_some(), "{smaller}");
    }
}

#[test]
fn a_missing_flush_between_data_and_header_is_invisible_to_a_prefix() {
    let engine = TwoSlots::new(small());
    let between = flushes(&plain().record(&engine).unwrap())[0];
    let scenario = Scenario { mutation: Some(Mutation::Removed(between)), ..plain() };
    let recorded = scenario.record(&engine).unwrap();
    for (profile, is_seen) in [
        (DiskProfile::NothingLost, false),
        (DiskProfile::OrderedPrefix, false),
        (DiskProfile::AnySubset, true),
        (DiskProfile::AnySubsetTorn, true),
    ] {
        let report = explore(&engine, &recorded, profile);
        assert!(report.exhaustive);
        assert_eq!(report.broken > 0, is_seen, "{}", profile.name());
    }
}

#[test]
fn a_durable_header_does_not_make_the_payload_durable() {
    let engine = TwoSlots { commit: Commit::Durable, ..TwoSlots::new(small().with_write_durable()) };
    let recorded = plain().record(&engine).unwrap();
    let between = flushes(&recorded)[0];
    let scenario = Scenario { mutation: Some(Mutation::Removed(between)), ..plain() };
    let report = explore(&engine, &scenario.record(&engine).unwrap(), DiskProfile::AnySubsetTorn);
    assert!(report.failure.is_some());
}

/// An engine that trusts sectors: it keeps its header in a block that it overwrites in place.
#[test]
fn a_failure_that_needs_garbage_is_named_replayed_and_told() {
    struct InPlace(TwoSlots);

    impl Workload<SimDisk> for InPlace {
        fn name(&self) -> &'static str {
            "in-place"
        }
        fn start(&self) -> (DiskImage, Expected) {
            self.0.start()
        }
        fn run(&self, disk: &SimDisk, _: &Run) {
            let value = self.0.value(b'z');
            disk.tell(Mark::Begin(Operation::one("put in place", "value", value)));
            let done = disk.write(BlockIndex::new(1), &self.0.block(&[], b'z')).and_then(|()| disk.flush());
            disk.tell(done.map_or(Mark::Failed(Fate::Unknown), |()| Mark::Acknowledged));
        }
        fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
            self.0.recover(disk, life)
        }
        fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Verdict {
            self.0.check(disk, life, expected)
        }
    }

    let found = |geometry: Geometry| {
        let engine = InPlace(TwoSlots::new(geometry));
        let recorded = Scenario::plain("in-place").record(&engine).unwrap();
        let options = options(1);
        let profile = DiskProfile::AnySubsetTorn;
        let report = Explorer::default().explore(&engine, &recorded, profile, &options, &Gauge::default());
        (engine, report)
    };
    // A device whose sectors are old or new forgives it as long as a block is one sector.
    assert_eq!(found(geometry(512, 4)).1.failure, None);
    assert!(found(geometry(1024, 4)).1.failure.is_some());
    let (engine, report) = found(small());
    let failure = report.failure.unwrap();
    assert!(failure.id.to_string().contains(";junk="), "{}", failure.id);
    let id: CrashId = failure.id.to_string().parse().unwrap();
    let story = replay(&engine, &id).unwrap();
    assert_eq!(story.verdict, failure.verdict);
    assert!(story.to_string().contains("JUNK"), "{story}");
}

#[test]
fn every_call_may_fail() {
    let engine = TwoSlots::new(geometry(1024, 4).with_torn_blocks());
    let recorded = plain().record(&engine).unwrap();
    let mut count = 0;
    let mut kinds = BTreeSet::new();
    for (call, faults) in (0..).zip(&recorded.possible_faults) {
        for &fault in faults {
            let scenario = Scenario { faults: vec![(call, fault)], ..plain() };
            let recorded = scenario.record(&engine).unwrap();
            let report = explore(&engine, &recorded, DiskProfile::AnySubsetTorn);
            assert_eq!(report.failure, None, "{scenario}");
            kinds.insert(fault);
            count += 1;
        }
    }
    // Each put: two reads, and two writes and two flushes, which fail in three and in two ways.
    assert_eq!((count, kinds.len()), (2 * (2 + 2 * 3 + 2 * 2), 3));
}

#[test]
fn an_engine_that_goes_on_after_a_failed_flush_is_found() {
    struct GoesOn(TwoSlots);

    impl Workload<SimDisk> for GoesOn {
        fn name(&self) -> &'static str {
            "goes-on"
        }
        fn start(&self) -> (DiskImage, Expected) {
            self.0.start()
        }
        fn run(&self, disk: &SimDisk, _: &Run) {
            disk.tell(Mark::Begin(Operation::one("put", "value", self.0.value(b'z'))));
            let written = self.0.put(disk, b'z').or_else(|_| disk.flush());
            disk.tell(written.map_or(Mark::Failed(Fate::Unknown), |()| Mark::Acknowledged));
        }
        fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
            self.0.recover(disk, life)
        }
        fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Verdict {
            self.0.check(disk, life, expected)
        }
    }

    let engine = GoesOn(TwoSlots::new(small()));
    let honest = Scenario::plain("goes-on").record(&engine).unwrap();
    // Two reads, payload, flush, header, flush: the last one fails, is tried again, and succeeds.
    let scenario = Scenario { faults: vec![(5, crashsim::Fault::Fail(5))], ..Scenario::plain("goes-on") };
    let failed = scenario.record(&engine).unwrap();
    for (recorded, is_broken) in [(&honest, false), (&failed, true)] {
        let report = Explorer::default().explore(
            &engine,
            recorded,
            DiskProfile::AnySubsetTorn,
            &options(1),
            &Gauge::default(),
        );
        assert_eq!(report.broken > 0, is_broken, "{}", recorded.trace);
    }
}

#[test]
fn every_lie_of_the_device_is_seen_in_what_it_left() {
    let engine = TwoSlots::new(small());
    let lied = |lie: DiskLie| {
        let mut recorded = plain().record(&engine).unwrap();
        recorded.trace = lie.tell(&recorded.trace)?;
        Some(explore(&engine, &recorded, DiskProfile::AnySubsetTorn))
    };
    let records = plain().record(&engine).unwrap().trace.len();
    let mut seen = 0;
    for record in 0..records {
        let to = BlockIndex::new(3);
        for lie in
            [DiskLie::NotDurable { record }, DiskLie::Lost { record }, DiskLie::Misdirected { record, to }]
        {
            if let Some(report) = lied(lie) {
                println!("{lie}: {:?}", report.classes);
                assert!(report.broken > 0, "{lie}");
                seen += 1;
            }
        }
    }
    // Four flushes; four writes lost; and all but the one that is meant for block 3 sent there.
    assert_eq!(seen, 4 + 4 + 3);

    // Bit rot in the payload in force, which this toy has no checksum to see.
    let (image, expected) = engine.start();
    let rotten = image.with_flipped_bit(BlockIndex::new(1), 77).unwrap();
    let disk = SimDisk::mount(rotten, Recording::Off);
    engine.recover(&disk, Life::default()).unwrap();
    assert_eq!(engine.check(&disk, Life::default(), &expected).class, Class::Mix);
}

#[test]
fn any_number_of_threads_finds_the_same() {
    for (shape, puts) in [(small(), 3), (geometry(4096, 4).with_torn_blocks(), 2)] {
        for mutation in [None, Some(Mutation::Removed(2))] {
            let engine = TwoSlots { puts, ..TwoSlots::new(shape) };
            let recorded = Scenario { mutation, ..plain() }.record(&engine).unwrap();
            let with = |threads| {
                Explorer::default().explore(
                    &engine,
                    &recorded,
                    DiskProfile::AnySubsetTorn,
                    &Options { states_max: 700, ..options(threads) },
                    &Gauge::default(),
                )
            };
            let (one, four) = (with(1), with(4));
            assert_eq!(one, four);
            assert_eq!(one.failure.is_some(), mutation.is_some());
        }
    }
}

/// What one state costs where much is in flight: 64 blocks of 4 KiB.
#[test]
fn states_of_a_large_frame_per_second() {
    let shape = geometry(4096, 64).with_torn_blocks();
    let start = DiskImage::from_bytes(shape, &[1; 64 * 4096]).unwrap();
    let disk = SimDisk::mount(start.clone(), Recording::On);
    disk.write(BlockIndex::ZERO, &[2; 64 * 4096]).unwrap();
    let point = crashsim::block_points(&start, &disk.trace(), DiskProfile::AnySubsetTorn).pop().unwrap();
    let begun = Instant::now();
    let states = point.sample(4096, 1);
    let drawn = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let digests: BTreeSet<u128> = states
        .iter()
        .map(|digits| {
            let mut image = point.base.clone();
            point.build(digits, |piece| piece.apply(&mut image));
            image.digest()
        })
        .collect();
    let built = begun.elapsed().as_secs_f64();
    println!(
        "{} axes: {} states drawn in {drawn:.3} s, built and compared in {built:.3} s, {} different",
        point.axes.len(),
        states.len(),
        digests.len(),
    );
    assert!(digests.len() > 3900, "{}", digests.len());
}

#[test]
fn images_per_second() {
    for (shape, depth) in
        [(geometry(512, 64), 0), (geometry(4096, 64), 0), (geometry(4096, 64), 1), (geometry(4096, 4096), 0)]
    {
        let engine = TwoSlots { puts: 8, ..TwoSlots::new(shape.with_torn_blocks()) };
        let recorded = plain().record(&engine).unwrap();
        let options = Options { depth, ..options(1) };
        let begun = Instant::now();
        let report = Explorer::default().explore(
            &engine,
            &recorded,
            DiskProfile::AnySubsetTorn,
            &options,
            &Gauge::default(),
        );
        let seconds = begun.elapsed().as_secs_f64();
        assert_eq!(report.failure, None);
        println!(
            "{} blocks of {}, depth {depth}: {} states visited, {} checked, {} images in {seconds:.3} s: {:.0} states/s",
            shape.block_count(),
            shape.block_size(),
            report.visited,
            report.checked,
            report.distinct,
            f64::from(u32::try_from(report.visited).unwrap()) / seconds,
        );
    }
}
