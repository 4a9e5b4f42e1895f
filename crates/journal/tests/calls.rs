//! What each call asks of the device, exactly; and what it does when the device fails.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crashsim::{BlockOp, Fault, SimDisk};
use journal::{
    Access, Journal, JournalError, JournalErrorKind, Limits, OUTGOING_MAX, Opened, StoreId, Verdict,
};
use media::Geometry;

const STORE: StoreId = StoreId([9; 16]);

fn geometry() -> Geometry {
    Geometry::new(512, 40).unwrap().with_torn_blocks()
}

fn format(geometry: Geometry) -> (SimDisk, Journal<SimDisk>) {
    let disk = SimDisk::new(geometry);
    let limits = Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 };
    let journal = Journal::format(disk.clone(), STORE, limits, b"engine").unwrap();
    (disk, journal)
}

fn open(disk: &SimDisk, access: Access) -> Opened<SimDisk> {
    Journal::open(disk.clone(), access, &mut |_| Ok::<_, JournalError>(())).unwrap()
}

/// `write 3`, `durable 1`, `flush`: what was asked for since the record number `from`.
fn asked(disk: &SimDisk, from: usize) -> Vec<String> {
    let trace = disk.trace();
    let ops = trace.records().get(from..).unwrap_or(&[]).iter().filter_map(|record| record.op());
    ops.map(|op| match op {
        BlockOp::Write { bytes, durable: true, .. } => format!("durable {}", bytes.len() / 512),
        BlockOp::Write { bytes, .. } => format!("write {}", bytes.len() / 512),
        BlockOp::Flush { .. } => "flush".to_owned(),
    })
    .collect()
}

#[test]
fn a_commit_is_one_write_and_one_flush_or_one_durable_write() {
    let (disk, mut journal) = format(geometry());
    for (len, write) in [(0, "write 1"), (464, "write 1"), (465, "write 2"), (4 * 464, "write 4")] {
        let from = disk.trace().len();
        let _durable = journal.commit(&vec![b'x'; len]).unwrap();
        assert_eq!(asked(&disk, from), [write, "flush"], "{len} bytes");
    }
    let (disk, mut journal) = format(geometry().with_write_durable());
    let from = disk.trace().len();
    let _durable = journal.commit(b"x").unwrap();
    assert_eq!(asked(&disk, from), ["durable 1"]);
    // A durable write covers itself alone: with another outstanding, a flush is needed.
    journal.write(b"y").unwrap();
    let _durable = journal.commit(b"z").unwrap();
    assert_eq!(asked(&disk, from), ["durable 1", "write 1", "write 1", "flush"]);
}

#[test]
fn opening_after_a_close_writes_nothing_and_after_a_crash_one_record() {
    let (disk, mut journal) = format(geometry());
    let _durable = journal.commit(b"x").unwrap();
    let from = disk.trace().len();
    journal.seal_for_good().unwrap();
    assert_eq!(asked(&disk, from), ["write 1", "flush", "write 1", "flush"], "two seals");
    let from = disk.trace().len();
    let mut opened = open(&disk, Access::Write);
    assert!(opened.report.was_sealed);
    assert_eq!(asked(&disk, from), ["flush"]);
    let _durable = opened.journal.commit(b"y").unwrap();
    assert_eq!(asked(&disk, from), ["flush", "write 1", "write 1", "flush"], "the record of the open waited");
    let from = disk.trace().len();
    assert!(!open(&disk, Access::Write).report.was_sealed);
    assert_eq!(asked(&disk, from), ["flush", "write 1", "flush"]);
    let from = disk.trace().len();
    open(&disk, Access::Read);
    assert!(asked(&disk, from).is_empty(), "a look writes nothing");
}

/// One seal and the commit under it can be lost to one write that goes astray, so a closed store has two.
#[test]
fn closing_a_store_that_was_sealed_when_idle_adds_what_is_missing_and_only_once() {
    let (disk, mut journal) = format(geometry());
    let _durable = journal.commit(b"x").unwrap();
    journal.seal().unwrap();
    let mut journal = open(&disk, Access::Write).journal;
    let from = disk.trace().len();
    journal.seal_for_good().unwrap();
    assert_eq!(
        asked(&disk, from),
        ["write 1", "flush", "write 1", "flush"],
        "the record of the open, a seal"
    );
    for _ in 0..3 {
        let mut journal = open(&disk, Access::Write).journal;
        let from = disk.trace().len();
        journal.seal_for_good().unwrap();
        assert!(asked(&disk, from).is_empty());
    }
}

#[test]
fn a_switch_is_three_flushes() {
    let (disk, mut journal) = format(geometry());
    let _durable = journal.commit(b"x").unwrap();
    let from = disk.trace().len();
    journal.begin_copy().unwrap();
    journal.copy(b"x").unwrap();
    let _switched = journal.finish_copy().unwrap();
    let wanted = ["write 1", "flush", "write 1", "write 1", "flush", "write 1", "write 1", "flush"];
    assert_eq!(asked(&disk, from), wanted, "header; copied, closing; the two slots of the root");
}

#[test]
fn no_more_is_in_flight_than_the_format_says() {
    let (disk, mut journal) = format(geometry());
    let from = disk.trace().len();
    for _ in 0..9 {
        journal.write(b"x").unwrap();
    }
    let asked = asked(&disk, from).join(" ");
    let four = "write 1 write 1 write 1 write 1";
    assert_eq!(asked, format!("{four} flush {four} flush write 1"));
}

#[test]
fn frames_overlap_and_what_is_durable_grows_in_order() {
    let (disk, mut journal) = format(geometry());
    let first = journal.begin_commit(b"first").unwrap();
    let second = journal.begin_commit(b"second").unwrap();
    let (first_seq, second_seq) = (first.seq(), second.seq());
    let third = journal.begin_commit(b"third").unwrap_err();
    assert!(matches!(third, JournalError::Outgoing { count: OUTGOING_MAX }), "{third}");
    // The second is on the medium first. It is not durable in the sense that matters: the first could be missing.
    second.carry_out(&disk).unwrap();
    assert!(journal.end_commit(second, Ok(())).unwrap().seq() < first_seq);
    assert!(journal.has_unflushed());
    first.carry_out(&disk).unwrap();
    assert_eq!(journal.end_commit(first, Ok(())).unwrap().seq(), second_seq);
    assert!(!journal.has_unflushed());
    drop(journal);
    assert_eq!(open(&disk, Access::Read).report.frames, 2);
}

#[test]
fn a_durable_write_is_on_its_way_alone() {
    let (disk, mut journal) = format(geometry().with_write_durable());
    let first = journal.begin_commit(b"first").unwrap();
    let second = journal.begin_commit(b"second").unwrap_err();
    assert!(matches!(second, JournalError::Outgoing { count: 1 }), "{second}");
    first.carry_out(&disk).unwrap();
    let seq = first.seq();
    assert_eq!(journal.end_commit(first, Ok(())).unwrap().seq(), seq);
}

#[test]
fn while_a_frame_is_on_its_way_nothing_else_is_flushed_sealed_or_switched() {
    let (disk, mut journal) = format(geometry());
    let from = disk.trace().len();
    let outgoing = journal.begin_commit(b"x").unwrap();
    let refused = [
        journal.flush().map(drop),
        journal.commit(b"y").map(drop),
        journal.seal(),
        journal.seal_for_good(),
        journal.begin_copy(),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert_eq!(error.kind(), JournalErrorKind::Busy, "{error}");
    }
    assert!(asked(&disk, from).is_empty());
    outgoing.carry_out(&disk).unwrap();
    let _durable = journal.end_commit(outgoing, Ok(())).unwrap();
    journal.begin_copy().unwrap();
    let outgoing = journal.begin_commit(b"meanwhile").unwrap();
    assert_eq!(journal.finish_copy().unwrap_err().kind(), JournalErrorKind::Busy);
    outgoing.carry_out(&disk).unwrap();
    let _durable = journal.end_commit(outgoing, Ok(())).unwrap();
    journal.copy(b"x").unwrap();
    let _switched = journal.finish_copy().unwrap();
}

/// The one behind it may be on the medium whole; it is not acknowledged, for the one before it may be missing.
#[test]
fn a_frame_that_fails_takes_those_behind_it_along() {
    let (disk, mut journal) = format(geometry());
    let first = journal.begin_commit(b"first").unwrap();
    let second = journal.begin_commit(b"second").unwrap();
    second.carry_out(&disk).unwrap();
    let _nothing = journal.end_commit(second, Ok(())).unwrap();
    disk.set_faults([(0, Fault::Fail(5))]);
    let failed = first.carry_out(&disk);
    assert_eq!(journal.end_commit(first, failed).unwrap_err().kind(), JournalErrorKind::Poisoned);
    assert_eq!(journal.outgoing(), 0, "the one that ended early is over as well");
    assert_eq!(journal.commit(b"more").unwrap_err().kind(), JournalErrorKind::Poisoned);
    drop(journal);
    let report = open(&disk, Access::Write).report;
    assert!(matches!(report.verdict, Verdict::TornTail { .. }), "{report:?}");
}

#[test]
fn after_a_failure_nothing_is_written_and_the_first_cause_is_kept() {
    for call in [0, 1] {
        let (disk, mut journal) = format(geometry());
        disk.set_faults([(call, Fault::Fail(5))]);
        let first = journal.commit(b"x").unwrap_err();
        assert_eq!(first.kind(), JournalErrorKind::Poisoned, "{first}");
        let from = disk.trace().len();
        for again in
            [journal.commit(b"y").map(drop), journal.flush().map(drop), journal.seal(), journal.begin_copy()]
        {
            assert_eq!(again.unwrap_err().kind(), JournalErrorKind::Poisoned);
        }
        assert!(asked(&disk, from).is_empty());
        assert!(journal.failure().is_some());
        // The remedy.
        let report = open(&disk, Access::Write).report;
        assert!(!matches!(report.verdict, Verdict::Damaged { .. }), "{report:?}");
    }
}

#[test]
fn a_full_region_refuses_before_it_writes_and_a_switch_makes_room() {
    let (disk, mut journal) = format(geometry());
    let room = journal.room();
    for left in (0..room).rev() {
        let _durable = journal.commit(b"x").unwrap();
        assert_eq!(journal.room(), left);
    }
    let from = disk.trace().len();
    let full = journal.commit(b"x").unwrap_err();
    assert!(matches!(full, JournalError::Full { needed: 1, room: 0 }), "{full}");
    assert!(asked(&disk, from).is_empty());
    journal.seal_for_good().unwrap();
    let mut journal = open(&disk, Access::Write).journal;
    journal.begin_copy().unwrap();
    journal.copy(b"alive").unwrap();
    let _switched = journal.finish_copy().unwrap();
    assert_eq!(journal.room(), room - 1);
}

#[test]
fn what_is_too_long_is_refused_at_the_bound() {
    let (_, mut journal) = format(geometry());
    let len_max = journal.layout().body_len_max();
    assert_eq!(len_max, 4 * 464);
    for len in [len_max - 1, len_max] {
        let _durable = journal.commit(&vec![0; len]).unwrap();
    }
    let error = journal.commit(&vec![0; len_max + 1]).unwrap_err();
    assert!(matches!(error, JournalError::FrameTooLong { .. }), "{error}");
}

#[test]
fn a_device_without_a_store_is_told_from_one_whose_roots_are_lost() {
    let empty = SimDisk::new(geometry());
    let none = |disk: &SimDisk| {
        Journal::open(disk.clone(), Access::Read, &mut |_| Ok::<_, JournalError>(())).unwrap_err()
    };
    assert!(matches!(none(&empty), JournalError::NoStore));
    assert!(matches!(none(&SimDisk::new(Geometry::new(512, 1).unwrap())), JournalError::NoStore));
    let (disk, _) = format(geometry());
    for slot in [1, 39] {
        media::BlockDevice::write(&disk, media::BlockIndex::new(slot), &[0; 512]).unwrap();
    }
    assert!(matches!(none(&disk), JournalError::SuperblocksLost));
    let small = Journal::format(SimDisk::new(Geometry::new(512, 19).unwrap()), STORE, Limits::default(), b"");
    assert_eq!(small.unwrap_err().kind(), JournalErrorKind::Invalid);
}

#[test]
fn one_lost_slot_is_rewritten_and_two_stores_are_refused() {
    let (disk, journal) = format(geometry());
    drop(journal);
    media::BlockDevice::write(&disk, media::BlockIndex::new(39), &[0; 512]).unwrap();
    let report = open(&disk, Access::Write).report;
    assert_eq!((report.roots_valid, report.roots_repaired), (1, 1));
    assert_eq!(open(&disk, Access::Read).report.roots_valid, 2);
    let other = SimDisk::new(geometry());
    drop(Journal::format(
        other.clone(),
        StoreId([1; 16]),
        Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 },
        b"",
    ));
    let mut slot = [0; 512];
    media::BlockDevice::read(&other, media::BlockIndex::new(1), &mut slot).unwrap();
    media::BlockDevice::write(&disk, media::BlockIndex::new(1), &slot).unwrap();
    let error = Journal::open(disk, Access::Read, &mut |_| Ok::<_, JournalError>(())).unwrap_err();
    assert!(matches!(error, JournalError::SeveralStores { .. }), "{error}");
}
