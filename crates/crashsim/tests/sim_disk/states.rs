//! Hand-made traces, and exactly the images that a power cut may leave of each.

use std::collections::BTreeSet;

use crashsim::{
    BlockOp, DiskImage, DiskLie, DiskPoint, DiskProfile, Event, Mark, Outcome, Record, Tick, Trace,
    block_points,
};
use media::{BlockIndex, Geometry};

use super::geometry;

fn write(at: u64, fill: u8, geometry: Geometry) -> Event<BlockOp> {
    Event::Op(BlockOp::Write {
        at: BlockIndex::new(at),
        bytes: vec![fill; geometry.block_size()].into(),
        durable: false,
    })
}

fn write_durable(at: u64, fill: u8, geometry: Geometry) -> Event<BlockOp> {
    let BlockOp::Write { at, bytes, .. } = op(write(at, fill, geometry)) else { unreachable!() };
    Event::Op(BlockOp::Write { at, bytes, durable: true })
}

fn op(event: Event<BlockOp>) -> BlockOp {
    match event {
        Event::Op(op) => op,
        Event::Mark(mark) => panic!("{mark}"),
    }
}

fn flush() -> Event<BlockOp> {
    Event::Op(BlockOp::Flush { outcome: Outcome::Done })
}

fn failed_flush() -> Event<BlockOp> {
    Event::Op(BlockOp::Flush { outcome: Outcome::Failed })
}

fn told() -> Event<BlockOp> {
    Event::Mark(Mark::Acknowledged)
}

fn trace(events: impl IntoIterator<Item = Event<BlockOp>>) -> Trace<BlockOp> {
    let mut trace = Trace::default();
    events.into_iter().for_each(|event| trace.push(event));
    trace
}

fn timed(records: impl IntoIterator<Item = (Tick, Tick, Event<BlockOp>)>) -> Trace<BlockOp> {
    let mut trace = Trace::default();
    for (submitted, completed, event) in records {
        trace.push_timed(Record { submitted, completed, event });
    }
    trace
}

/// A letter for each sector: what fills it, `.` for zeros, `?` for what nobody wrote.
fn letters(image: &DiskImage) -> String {
    let sectors = image.geometry().byte_len() / 512;
    let letter = |index| match image.sector(index) {
        None => '.',
        Some(sector) => {
            let [first, rest @ ..] = sector.bytes();
            if rest.iter().all(|byte| byte == first) { char::from(*first) } else { '?' }
        }
    };
    (0..sectors).map(letter).collect()
}

fn image_of(point: &DiskPoint, digits: &[u32]) -> DiskImage {
    let mut image = point.base.clone();
    point.build(digits, |piece| piece.apply(&mut image));
    image
}

fn images(point: &DiskPoint) -> BTreeSet<String> {
    let states = (0..point.combinations()).map(|number| point.digits(number));
    states.filter(|digits| point.permits(digits)).map(|digits| letters(&image_of(point, &digits))).collect()
}

/// Every crash point with its images. The device is full of `x` at first.
fn all(geometry: Geometry, trace: &Trace<BlockOp>, profile: DiskProfile) -> Vec<(usize, BTreeSet<String>)> {
    let bytes = vec![b'x'; usize::try_from(geometry.byte_len()).unwrap()];
    let start = DiskImage::from_bytes(geometry, &bytes).unwrap();
    block_points(&start, trace, profile).iter().map(|point| (point.at, images(point))).collect()
}

/// What may be found at the end.
#[track_caller]
fn expect_at_end(geometry: Geometry, trace: &Trace<BlockOp>, wanted: &[&str]) {
    let last = all(geometry, trace, DiskProfile::AnySubsetTorn).pop().unwrap();
    assert_eq!(last.0, trace.len());
    assert_eq!(last.1, wanted.iter().map(|&letters| letters.to_owned()).collect());
}

fn small() -> Geometry {
    geometry(512, 2)
}

#[test]
fn any_subset_of_what_no_flush_covers_survives_in_any_version() {
    let g = small();
    let written = trace([write(0, b'A', g), write(1, b'B', g)]);
    expect_at_end(g, &written, &["xx", "Ax", "xB", "AB"]);
    let rewritten = trace([write(0, b'A', g), write(0, b'B', g), write(1, b'C', g)]);
    expect_at_end(g, &rewritten, &["xx", "Ax", "Bx", "xC", "AC", "BC"]);
}

#[test]
fn an_interrupted_block_is_anything_only_where_the_geometry_says_so() {
    let g = small().with_torn_blocks();
    expect_at_end(g, &trace([write(0, b'A', g)]), &["xx", "Ax", ".x", "?x"]);
    let both = trace([write(0, b'A', g), write(0, b'B', g), write(1, b'C', g)]);
    let wanted: Vec<String> =
        "xAB.?".chars().flat_map(|one| "xC.?".chars().map(move |two| format!("{one}{two}"))).collect();
    expect_at_end(g, &both, &wanted.iter().map(String::as_str).collect::<Vec<_>>());
    // What was durable in the block before is not safe from it either; what is covered is.
    let over = trace([write(0, b'A', g), flush(), write(0, b'B', g)]);
    expect_at_end(g, &over, &["Ax", "Bx", ".x", "?x"]);
    expect_at_end(g, &trace([write(0, b'A', g), write(1, b'B', g), flush()]), &["AB"]);
}

#[test]
fn garbage_is_the_same_each_time_and_nothing_that_was_written() {
    let g = geometry(512, 2).with_torn_blocks();
    // One request, so that only the place tells the two apart.
    let (at, bytes) = (BlockIndex::ZERO, vec![b'A'; 1024].into());
    let written = trace([Event::Op(BlockOp::Write { at, bytes, durable: false })]);
    let start = DiskImage::new(g);
    let garbage = || -> Vec<[u8; 512]> {
        let points = block_points(&start, &written, DiskProfile::AnySubsetTorn);
        let point = points.last().unwrap();
        let all_junk: Vec<u32> =
            point.axes.iter().map(|axis| u32::try_from(axis.pieces.len()).unwrap()).collect();
        let image = image_of(point, &all_junk);
        assert_eq!(letters(&image), "??");
        [0, 1].map(|at| *image.sector(at).unwrap().bytes()).to_vec()
    };
    let first = garbage();
    assert_eq!(first, garbage());
    assert_ne!(first[0], first[1]);
}

#[test]
fn a_flush_covers_what_had_completed_before_it_was_submitted() {
    let g = small();
    let flushed = |write_done| timed([(0, write_done, write(0, b'A', g)), (5, 7, flush()), (20, 20, told())]);
    expect_at_end(g, &flushed(4), &["Ax"]);
    // Not what was in flight when it was submitted, even if it returned first.
    for write_done in [5, 6, 7, 12] {
        expect_at_end(g, &flushed(write_done), &["xx", "Ax"]);
    }
    expect_at_end(g, &trace([write(0, b'A', g), flush(), write(1, b'B', g)]), &["Ax", "AB"]);
}

#[test]
fn there_is_a_crash_point_wherever_a_promise_or_what_is_durable_changes() {
    let g = small();
    let point = Event::Mark(Mark::Point("nothing_changes"));
    let written = trace([write(0, b'A', g), told(), write(0, b'B', g), point, flush(), write(1, b'C', g)]);
    let points = |profile| all(g, &written, profile).iter().map(|(at, _)| *at).collect::<Vec<_>>();
    for profile in [DiskProfile::AnySubset, DiskProfile::AnySubsetTorn, DiskProfile::OrderedPrefix] {
        assert_eq!(points(profile), [1, 4, 6]);
    }
    assert_eq!(points(DiskProfile::NothingLost), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_write_begun_during_a_flush_may_land_before_what_is_flushed() {
    let g = small();
    let during =
        timed([(0, 1, write(0, b'A', g)), (5, 20, flush()), (7, 9, write(1, b'B', g)), (30, 31, told())]);
    let points = all(g, &during, DiskProfile::AnySubset);
    let found: Vec<(usize, Vec<&str>)> =
        points.iter().map(|(at, images)| (*at, images.iter().map(String::as_str).collect())).collect();
    let four = vec!["AB", "Ax", "xB", "xx"];
    assert_eq!(found, [(1, vec!["Ax", "xx"]), (3, four), (4, vec!["AB", "Ax"])]);
}

#[test]
fn a_durable_write_covers_itself_alone() {
    let g = geometry(512, 3).with_write_durable();
    let beside = trace([write(0, b'A', g), write_durable(1, b'D', g), told(), write(2, b'B', g)]);
    expect_at_end(g, &beside, &["xDx", "ADx", "xDB", "ADB"]);
    // Until it has returned it is a write like any other; from then on its own block is decided.
    let points = all(g, &beside, DiskProfile::AnySubset);
    let before: BTreeSet<String> = ["xxx", "Axx", "xDx", "ADx"].map(str::to_owned).into();
    assert_eq!(points[0], (2, before));
    let over = trace([write(1, b'A', g), write_durable(1, b'D', g), told()]);
    expect_at_end(g, &over, &["xDx"]);
    let torn = g.with_torn_blocks();
    let in_flight = trace([write_durable(1, b'D', torn)]);
    expect_at_end(torn, &in_flight, &["xxx", "xDx", "x?x", "x.x"]);
}

#[test]
fn writes_that_overlap_have_no_order_and_a_flush_gives_them_none() {
    let g = small().with_torn_blocks();
    let two = |second_begun| {
        timed([
            (0, 10, write(0, b'A', g)),
            (second_begun, 15, write(0, b'B', g)),
            (20, 21, flush()),
            (30, 31, told()),
        ])
    };
    // Both are durable: neither what was there before nor garbage can be found.
    expect_at_end(g, &two(5), &["Ax", "Bx"]);
    expect_at_end(g, &two(10), &["Ax", "Bx"]);
    expect_at_end(g, &two(11), &["Bx"]);
    // A later durable version ends the doubt.
    let settled = timed([
        (0, 10, write(0, b'A', g)),
        (5, 15, write(0, b'B', g)),
        (20, 21, flush()),
        (30, 31, write(0, b'C', g)),
        (40, 41, flush()),
        (50, 51, told()),
    ]);
    expect_at_end(g, &settled, &["Cx"]);
    let d = g.with_write_durable();
    let beside = timed([(0, 10, write(0, b'A', d)), (5, 7, write_durable(0, b'D', d)), (20, 20, told())]);
    expect_at_end(d, &beside, &["Ax", "Dx", ".x", "?x"]);
}

#[test]
fn what_a_failed_flush_should_have_covered_is_covered_by_no_later_one() {
    let g = small();
    let failed = [write(0, b'A', g), failed_flush(), write(1, b'B', g), flush(), told()];
    expect_at_end(g, &trace(failed.clone()), &["xB", "AB"]);
    // Written again, it is a new write.
    let again = failed.into_iter().chain([write(0, b'C', g), flush(), told()]);
    expect_at_end(g, &trace(again), &["CB"]);
    // What was durable before is not undone.
    expect_at_end(g, &trace([write(0, b'A', g), flush(), failed_flush(), told()]), &["Ax"]);
}

#[test]
fn a_block_of_4_kib_is_torn_sector_by_sector_and_one_is_visited_exhaustively() {
    let g = geometry(4096, 1);
    let written = |g| trace([write(0, b'A', g)]);
    let torn = all(g, &written(g), DiskProfile::AnySubsetTorn).pop().unwrap().1;
    assert_eq!(torn.len(), 256, "each sector old or new");
    let junk = g.with_torn_blocks();
    let start = DiskImage::from_bytes(junk, &[b'x'; 4096]).unwrap();
    let point = block_points(&start, &written(junk), DiskProfile::AnySubsetTorn).pop().unwrap();
    assert!(point.combinations() <= 4096, "{}", point.combinations());
    let permitted = (0..point.combinations()).filter(|&number| point.permits(&point.digits(number)));
    assert_eq!(permitted.count(), 256 * 9 + 2);
    let images = images(&point);
    // Garbage in one of eight sectors and each other old or new; all zeros, all garbage.
    assert_eq!(images.len(), 256 + 8 * 128 + 2);
    assert!(["????????", "........", "AAA?AAAA", "xA?xxxxx"].iter().all(|&image| images.contains(image)));
    let whole = all(junk, &written(junk), DiskProfile::AnySubset).pop().unwrap().1;
    assert_eq!(whole, ["xxxxxxxx", "AAAAAAAA"].map(str::to_owned).into());
}

#[test]
fn the_blocks_of_one_request_survive_each_by_itself() {
    let g = geometry(1024, 2);
    let both = trace([Event::Op(BlockOp::Write {
        at: BlockIndex::ZERO,
        bytes: [[b'A'; 1024], [b'B'; 1024]].concat().into(),
        durable: false,
    })]);
    let whole = all(g, &both, DiskProfile::AnySubset).pop().unwrap().1;
    assert_eq!(whole, ["xxxx", "AAxx", "xxBB", "AABB"].map(str::to_owned).into());
    assert_eq!(all(g, &both, DiskProfile::AnySubsetTorn).pop().unwrap().1.len(), 16);
    let prefix = all(g, &both, DiskProfile::OrderedPrefix).pop().unwrap().1;
    assert_eq!(prefix, ["xxxx", "Axxx", "AAxx", "AABx", "AABB"].map(str::to_owned).into());
}

#[test]
fn ordered_prefix_reorders_nothing_and_a_kill_loses_nothing() {
    let g = geometry(512, 3).with_torn_blocks().with_write_durable();
    let written =
        trace([write(0, b'A', g), write(1, b'B', g), write(0, b'C', g), write_durable(2, b'D', g), told()]);
    let points = all(g, &written, DiskProfile::OrderedPrefix);
    let found: Vec<(usize, Vec<&str>)> =
        points.iter().map(|(at, images)| (*at, images.iter().map(String::as_str).collect())).collect();
    let prefixes = vec!["ABx", "Axx", "CBD", "CBx", "xxx"];
    // In a world without reordering, one durable write makes all before it durable.
    assert_eq!(found, [(4, prefixes), (5, vec!["CBD"])]);
    let kills = all(g, &written, DiskProfile::NothingLost);
    let found: Vec<&str> = kills.iter().flat_map(|(_, images)| images.iter().map(String::as_str)).collect();
    assert_eq!(found, ["xxx", "Axx", "ABx", "CBx", "CBD", "CBD"]);
}

#[test]
fn lies_of_a_device_are_what_they_are_called() {
    let g = geometry(512, 3).with_write_durable();
    let honest = trace([write(0, b'A', g), flush(), write_durable(1, b'D', g), told()]);
    expect_at_end(g, &honest, &["ADx"]);
    let told = |lie: DiskLie| lie.tell(&honest).unwrap();
    expect_at_end(g, &told(DiskLie::NotDurable { record: 1 }), &["xDx", "ADx"]);
    expect_at_end(g, &told(DiskLie::NotDurable { record: 2 }), &["Axx", "ADx"]);
    expect_at_end(g, &told(DiskLie::Lost { record: 0 }), &["xDx"]);
    expect_at_end(g, &told(DiskLie::Lost { record: 2 }), &["Axx"]);
    let to = BlockIndex::new(2);
    expect_at_end(g, &told(DiskLie::Misdirected { record: 0, to }), &["xDA"]);
    expect_at_end(g, &told(DiskLie::Misdirected { record: 2, to: BlockIndex::ZERO }), &["Dxx"]);
    // Past the end there is nothing to hit.
    for past in [3, u64::MAX / 8, u64::MAX] {
        let to = BlockIndex::new(past);
        expect_at_end(g, &told(DiskLie::Misdirected { record: 0, to }), &["xDx"]);
    }
    for nonsense in [
        DiskLie::NotDurable { record: 0 },
        DiskLie::NotDurable { record: 3 },
        DiskLie::Lost { record: 1 },
        DiskLie::Misdirected { record: 1, to },
        DiskLie::Misdirected { record: 0, to: BlockIndex::ZERO },
        DiskLie::Lost { record: 4 },
    ] {
        assert!(nonsense.tell(&honest).is_none(), "{nonsense}");
    }
}

#[test]
fn samples_hit_what_chance_would_not() {
    let g = geometry(4096, 3).with_torn_blocks();
    let written = trace([write(0, b'A', g), write(1, b'B', g), write(1, b'C', g), write(2, b'D', g)]);
    let start = DiskImage::from_bytes(g, &[b'x'; 3 * 4096]).unwrap();
    let point = block_points(&start, &written, DiskProfile::AnySubsetTorn).pop().unwrap();
    let sample = |count| {
        let states = point.sample(count, 7);
        assert!(states.len() <= count && states.len() > count * 9 / 10, "{}", states.len());
        assert!(states.iter().all(|digits| point.permits(digits)));
        assert_eq!(states, point.sample(count, 7), "the same ones every time");
        states.iter().map(|digits| letters(&image_of(&point, digits))).collect::<BTreeSet<String>>()
    };
    let images = sample(4096);
    assert!(images.len() > 3500, "{}", images.len());
    let block = |letter: char| letter.to_string().repeat(8);
    // Every combination of whole blocks.
    for (one, two, three) in "xA.?".chars().flat_map(|one| {
        "xBC.?".chars().flat_map(move |two| "xD.?".chars().map(move |three| (one, two, three)))
    }) {
        let wanted = [one, two, three].map(block).concat();
        assert!(images.contains(&wanted), "{wanted}");
    }
    // Every tear between two sectors, each sector alone, each damaged alone, with the others there or gone.
    for at in 1..8 {
        for (head, tail) in [('A', 'x'), ('x', 'A')] {
            for others in ["CCCCCCCCDDDDDDDD", "xxxxxxxxxxxxxxxx"] {
                let torn: String = (0..8).map(|index| if index < at { head } else { tail }).collect();
                assert!(images.contains(&(torn.clone() + others)), "{torn}");
                let single: String = (0..8).map(|index| if index == at { head } else { tail }).collect();
                assert!(images.contains(&(single.clone() + others)), "{single}");
                let damaged: String = (0..8).map(|index| if index == at { '?' } else { head }).collect();
                assert!(images.contains(&(damaged.clone() + others)), "{damaged}");
            }
        }
    }
    // Between the two versions of a block, too.
    assert!(images.contains(&(block('A') + "CCCBBBBB" + &block('D'))));
    // A small budget still sees whole blocks and tears, all over the place.
    let few = sample(64);
    let letter_at = |at: usize| few.iter().map(|image| image.as_bytes()[at]).collect::<BTreeSet<u8>>().len();
    assert!([0, 8, 16].iter().all(|&at| letter_at(at) >= 3), "{few:?}");
    assert!(few.contains("AAAAAAAACCCCCCCCDDDDDDDD") && few.contains("xxxxxxxxxxxxxxxxxxxxxxxx"));
}
