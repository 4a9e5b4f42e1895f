//! A commit in three steps: the device is called in the second one only, by a fixed list of calls.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crashsim::{BlockOp, Fault, SimDisk};
use journal::{Access, Durable, Journal, JournalError, JournalErrorKind, Limits, Opened, Outgoing, StoreId};
use media::{BlockIndex, DeviceError, Geometry};

const STORE: StoreId = StoreId([9; 16]);

type SilentDisk = media::doubles::SilentDisk<SimDisk>;

/// Large enough for marks.
fn geometry() -> Geometry {
    Geometry::new(512, 4096).unwrap().with_torn_blocks()
}

fn format(geometry: Geometry) -> (SilentDisk, Journal<SilentDisk>) {
    let disk = SilentDisk::over(SimDisk::new(geometry));
    let limits = Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 };
    let journal = Journal::format(disk.clone(), STORE, limits, b"engine").unwrap();
    (disk, journal)
}

fn open(disk: &SilentDisk, access: Access) -> Opened<SilentDisk> {
    Journal::open(disk.clone(), access, &mut |_| Ok::<_, JournalError>(())).unwrap()
}

/// A store that was closed: the record of the next open waits for the first frame.
fn closed(geometry: Geometry) -> SilentDisk {
    let (disk, mut journal) = format(geometry);
    let _durable = journal.commit(b"x").unwrap();
    journal.seal_for_good().unwrap();
    disk
}

fn begin(
    disk: &SilentDisk,
    journal: &mut Journal<SilentDisk>,
    body: &[u8],
) -> Result<Outgoing, JournalError> {
    disk.silently(|| journal.begin_commit(body))
}

fn end(
    disk: &SilentDisk,
    journal: &mut Journal<SilentDisk>,
    outgoing: Outgoing,
    outcome: Result<(), DeviceError>,
) -> Result<Durable, JournalError> {
    disk.silently(|| journal.end_commit(outgoing, outcome))
}

/// A commit in three steps; the calls of the second one.
fn commit(disk: &SilentDisk, journal: &mut Journal<SilentDisk>, body: &[u8]) -> Vec<String> {
    let from = disk.inner().trace().len();
    let outgoing = begin(disk, journal, body).unwrap();
    assert!(asked(disk, from).is_empty());
    outgoing.carry_out(disk).unwrap();
    let (seq, calls) = (outgoing.seq(), asked(disk, from));
    assert_eq!(end(disk, journal, outgoing, Ok(())).unwrap().seq(), seq);
    calls
}

/// `3@7`: three blocks are written, from block 7 on; `durable 1@7`; `flush`.
fn asked(disk: &SilentDisk, from: usize) -> Vec<String> {
    let trace = disk.inner().trace();
    let ops = trace.records().get(from..).unwrap_or(&[]).iter().filter_map(|record| record.op());
    ops.map(|op| match op {
        BlockOp::Write { at, bytes, durable } => {
            let durable = if *durable { "durable " } else { "" };
            format!("{durable}{}@{}", bytes.len() / 512, at.get())
        }
        BlockOp::Flush { .. } => "flush".to_owned(),
    })
    .collect()
}

/// Marks are at 8 and at 9 from the beginning and at 4080 and 4081 at the end; region A begins at block 16.
const MARK: [&str; 3] = ["1@8", "1@4080", "flush"];

/// Commits frames of one block until so many are left before the mark, which says 14 blocks.
fn fill_up_to_mark(disk: &SilentDisk, journal: &mut Journal<SilentDisk>, left: u64) {
    while journal.used_since_switch() + 2 + left < 14 {
        assert_eq!(commit(disk, journal, b"x").len(), 2);
    }
}

#[test]
fn an_ordinary_frame_calls_the_device_in_the_second_step_only() {
    let (disk, mut journal) = format(geometry());
    assert_eq!(commit(&disk, &mut journal, b"x"), ["1@18", "flush"]);
    let (disk, mut journal) = format(geometry().with_write_durable());
    assert_eq!(commit(&disk, &mut journal, b"x"), ["durable 1@18"]);
    journal.write(b"y").unwrap();
    assert_eq!(commit(&disk, &mut journal, b"z"), ["1@20", "flush"], "a durable write covers itself alone");
}

#[test]
fn the_first_frame_after_an_open_carries_the_record_of_the_open() {
    for (geometry, calls) in [
        (geometry(), ["1@21", "1@22", "flush"]),
        (geometry().with_write_durable(), ["1@21", "1@22", "flush"]),
    ] {
        let disk = closed(geometry);
        let mut journal = open(&disk, Access::Write).journal;
        let seq = journal.next_seq();
        assert!(journal.needs_record_of_open());
        assert_eq!(commit(&disk, &mut journal, b"y"), calls);
        assert!(!journal.needs_record_of_open());
        assert_eq!(journal.durable_seq(), seq);
        assert!(!journal.has_unflushed());
        assert_eq!(commit(&disk, &mut journal, b"z").len(), if geometry.write_durable() { 1 } else { 2 });
        drop(journal);
        assert_eq!(open(&disk, Access::Read).report.frames, 3);
    }
}

#[test]
fn a_frame_that_ends_after_the_mark_raises_it_first() {
    for geometry in [geometry(), geometry().with_write_durable()] {
        let (disk, mut journal) = format(geometry);
        let (before, mut raised) = (journal.stats(), 0);
        for nth in 0..100_u64 {
            let calls = commit(&disk, &mut journal, b"x");
            let frame = match geometry.write_durable() {
                true => vec![format!("durable 1@{}", nth + 18)],
                false => vec![format!("1@{}", nth + 18), "flush".to_owned()],
            };
            let (mark, rest) = calls.split_at(calls.len() - frame.len());
            assert_eq!(rest, frame);
            if !mark.is_empty() {
                assert_eq!(mark, MARK);
                raised += 1;
            }
        }
        assert_eq!(raised, 3, "14 blocks, then twice as much each time");
        let stats = journal.stats();
        assert_eq!(stats.frames, 100);
        assert_eq!(stats.blocks - before.blocks, 100 + 2 * raised);
        assert_eq!(stats.barriers - before.barriers, 100 + raised);
        drop(journal);
        assert_eq!(open(&disk, Access::Read).report.frames, 100);
    }
}

#[test]
fn a_frame_when_too_much_is_in_flight_flushes_first() {
    for (geometry, frame) in
        [(geometry(), vec!["2@21", "flush"]), (geometry().with_write_durable(), vec!["durable 2@21"])]
    {
        let (disk, mut journal) = format(geometry);
        for _ in 0..3 {
            journal.write(b"x").unwrap();
        }
        let seq = journal.next_seq();
        let calls = commit(&disk, &mut journal, &[b'y'; 500]);
        assert_eq!(calls, [vec!["flush"], frame].concat());
        assert!(!journal.has_unflushed());
        assert_eq!(journal.durable_seq(), seq);
        // What the forced flush covered is promised by the frame itself: it is evidence of damage when it is missing.
        media::BlockDevice::write(&disk, BlockIndex::new(20), &[0; 512]).unwrap();
        drop(journal);
        let verdict = open(&disk, Access::Read).report.verdict;
        assert!(matches!(verdict, journal::Verdict::Damaged { .. }), "{verdict:?}");
    }
}

/// All of it at once: a forced flush, a mark, the record of an open.
#[test]
fn a_first_frame_that_is_long_flushes_between_the_record_of_the_open_and_itself() {
    let (disk, mut journal) = format(geometry());
    while journal.used_since_switch() < 7 {
        assert_eq!(commit(&disk, &mut journal, b"x").len(), 2);
    }
    journal.seal_for_good().unwrap();
    let mut journal = open(&disk, Access::Write).journal;
    let calls = commit(&disk, &mut journal, &[b'y'; 4 * 464]);
    assert_eq!(calls, [&["1@27", "flush"][..], &MARK, &["4@28", "flush"]].concat());
    drop(journal);
    assert_eq!(open(&disk, Access::Read).report.frames, 8);
}

/// The second frame could be on the medium before anything of the first one is.
#[test]
fn no_frame_begins_beside_one_that_carries_more_than_itself() {
    let disk = closed(geometry());
    let mut journal = open(&disk, Access::Write).journal;
    let busy = |disk: &SilentDisk, journal: &mut Journal<SilentDisk>, what: &str| {
        let first = begin(disk, journal, b"first").unwrap();
        assert!(!journal.may_begin(1), "{what}");
        let second = begin(disk, journal, b"second").unwrap_err();
        assert!(matches!(second, JournalError::Outgoing { count: 1 }), "{what}: {second}");
        let outcome = first.carry_out(disk);
        let _durable = end(disk, journal, first, outcome).unwrap();
        assert!(journal.may_begin(1), "{what}");
    };
    busy(&disk, &mut journal, "the record of an open");
    let (disk, mut journal) = format(geometry());
    fill_up_to_mark(&disk, &mut journal, 0);
    busy(&disk, &mut journal, "a mark");
    let (disk, mut journal) = format(geometry());
    for _ in 0..4 {
        journal.write(b"x").unwrap();
    }
    busy(&disk, &mut journal, "a forced flush");
    // The other way round, the second frame carries the mark: it needs nothing of the first.
    let (disk, mut journal) = format(geometry());
    fill_up_to_mark(&disk, &mut journal, 1);
    let first = begin(&disk, &mut journal, b"first").unwrap();
    let second = begin(&disk, &mut journal, b"second").unwrap();
    let from = disk.inner().trace().len();
    let outcome = second.carry_out(&disk);
    assert_eq!(asked(&disk, from), [&MARK[..], &["1@30", "flush"]].concat());
    let _nothing = end(&disk, &mut journal, second, outcome).unwrap();
    let outcome = first.carry_out(&disk);
    let _durable = end(&disk, &mut journal, first, outcome).unwrap();
    assert_eq!(commit(&disk, &mut journal, b"third"), ["1@31", "flush"], "the mark is raised once");
}

/// It is on the medium only when the frame that carries it is: a number told before that could be given out again.
#[test]
fn no_number_is_promised_while_the_record_of_the_open_is_in_flight() {
    let disk = closed(geometry());
    let mut journal = open(&disk, Access::Write).journal;
    let outgoing = begin(&disk, &mut journal, b"y").unwrap();
    assert!(journal.needs_record_of_open());
    let refused = disk.silently(|| journal.promise_number()).unwrap_err();
    assert_eq!(refused.kind(), JournalErrorKind::Busy);
    let outcome = outgoing.carry_out(&disk);
    let _durable = end(&disk, &mut journal, outgoing, outcome).unwrap();
    assert!(!journal.needs_record_of_open());
    disk.silently(|| journal.promise_number()).unwrap();
    // Before any frame, it writes and flushes.
    let disk = closed(geometry());
    let mut journal = open(&disk, Access::Write).journal;
    let from = disk.inner().trace().len();
    assert!(journal.needs_record_of_open());
    journal.promise_number().unwrap();
    assert!(!journal.needs_record_of_open());
    assert_eq!(asked(&disk, from), ["1@21", "flush"]);
}

/// Wherever the calls of a frame are cut short, the journal is poisoned, calls no more, and what was there is there.
#[test]
fn any_call_of_a_frame_that_fails_poisons_and_loses_nothing() {
    let calls = 7;
    for (fails, code) in (0..calls).flat_map(|call| [(call, 5), (call, 28)]) {
        let (disk, mut journal) = format(geometry());
        while journal.used_since_switch() < 7 {
            assert_eq!(commit(&disk, &mut journal, b"x").len(), 2);
        }
        journal.seal_for_good().unwrap();
        let mut journal = open(&disk, Access::Write).journal;
        let outgoing = begin(&disk, &mut journal, &[b'y'; 4 * 464]).unwrap();
        let from = disk.inner().trace().len();
        disk.inner().set_faults([(fails, Fault::Fail(code))]);
        let outcome = outgoing.carry_out(&disk);
        assert!(outcome.is_err(), "call {fails}");
        let error = end(&disk, &mut journal, outgoing, outcome).unwrap_err();
        let is_flush = [1, 4, 6].contains(&fails);
        let wanted = match code == 28 && !is_flush {
            true => JournalErrorKind::NoSpace,
            false => JournalErrorKind::Poisoned,
        };
        assert_eq!(error.kind(), wanted, "call {fails}: {error}");
        assert!(
            asked(&disk, from).len() <= usize::try_from(fails + 1).unwrap(),
            "nothing is called after a failure"
        );
        let again = disk.silently(|| journal.commit(b"z")).unwrap_err();
        assert_eq!(again.kind(), JournalErrorKind::Poisoned);
        drop(journal);
        let report = open(&disk, Access::Write).report;
        assert!(report.frames >= 7, "{report:?}");
        assert!(!matches!(report.verdict, journal::Verdict::Damaged { .. }), "call {fails}: {report:?}");
    }
}

/// The flush of the second frame was submitted when the first one had not been written.
#[test]
fn a_frame_covers_what_had_been_written_when_it_began_and_no_other_frame() {
    let (disk, mut journal) = format(geometry());
    let first = begin(&disk, &mut journal, b"first").unwrap();
    let second = begin(&disk, &mut journal, b"second").unwrap();
    let (first_seq, second_seq) = (first.seq(), second.seq());
    second.carry_out(&disk).unwrap();
    assert!(end(&disk, &mut journal, second, Ok(())).unwrap().seq() < first_seq);
    assert!(journal.has_unflushed());
    // A third one begins while the first is in flight. It promises no more than is known.
    let third = begin(&disk, &mut journal, b"third").unwrap_err();
    assert!(matches!(third, JournalError::Outgoing { .. }), "an ended frame counts until it is durable");
    first.carry_out(&disk).unwrap();
    assert_eq!(end(&disk, &mut journal, first, Ok(())).unwrap().seq(), second_seq);
    assert!(!journal.has_unflushed());
    // A frame that was written without a barrier is covered by the frame that begins after it, not by one before.
    let first = begin(&disk, &mut journal, b"first").unwrap();
    journal.write(b"written").unwrap();
    first.carry_out(&disk).unwrap();
    let first_seq = first.seq();
    assert_eq!(end(&disk, &mut journal, first, Ok(())).unwrap().seq(), first_seq);
    assert!(journal.has_unflushed(), "it may have been written after the flush");
    assert_eq!(commit(&disk, &mut journal, b"second").len(), 2);
    assert!(!journal.has_unflushed());
    // Two frames and one without a barrier: each frame covers its own blocks.
    let first = begin(&disk, &mut journal, b"first").unwrap();
    let second = begin(&disk, &mut journal, b"second").unwrap();
    journal.write(b"written").unwrap();
    for outgoing in [first, second] {
        let outcome = outgoing.carry_out(&disk);
        let _durable = end(&disk, &mut journal, outgoing, outcome).unwrap();
        assert!(journal.has_unflushed());
    }
}
