//! Wiping the region that is not in force, and what an open makes of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use journal::{
    Access, Again, Format, Journal, JournalError, JournalErrorKind, Limits, Opened, Owner, StoreId, Verdict,
    frame,
};
use media::{BlockDevice, BlockIndex, Geometry, MemDisk};

const STORE: StoreId = StoreId(*b"a wiped store's!");
/// Regions of 18 blocks: A from block 2 on, B from block 20 on.
const BLOCKS: u64 = 40;
const B: u64 = 20;

fn format() -> (MemDisk, Journal<MemDisk>) {
    let disk = MemDisk::new(Geometry::new(512, BLOCKS).unwrap()).unwrap();
    let limits = Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    let journal = Journal::format(disk.clone(), STORE, limits, b"").unwrap();
    (disk, journal)
}

fn open(disk: &MemDisk, access: Access) -> Opened<MemDisk> {
    Journal::open(disk.clone(), access, &mut |_| Ok::<_, JournalError>(())).unwrap()
}

fn block(disk: &MemDisk, at: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    disk.read(BlockIndex::new(at), &mut bytes).unwrap();
    bytes
}

fn header(disk: &MemDisk, at: u64) -> frame::BlockHeader {
    frame::decode(&block(disk, at), Owner::of(STORE, Format::LATEST), BlockIndex::new(at)).unwrap().0
}

#[test]
fn the_other_region_is_wiped_in_steps_and_nothing_else_is() {
    let (disk, mut journal) = format();
    let _one = journal.commit(b"in A").unwrap();
    journal.begin_copy().unwrap();
    assert!(matches!(journal.wipe_other(9), Err(JournalError::CopyRuns)));
    assert_eq!(journal.wipe_other(9).unwrap_err().kind(), JournalErrorKind::Invalid);
    journal.copy(b"in B").unwrap();
    let _switched = journal.finish_copy().unwrap();
    assert!(!journal.is_other_wiped() && !journal.began_wiped());
    let before: Vec<_> = (0..BLOCKS).map(|at| block(&disk, at)).collect();
    let flushes = journal.stats().barriers;
    assert_eq!(journal.wipe_other(9).unwrap(), 8);
    assert_eq!(journal.wipe_other(0).unwrap(), 7, "a step is a step");
    assert_eq!(journal.stats().barriers, flushes);
    assert_eq!(journal.wipe_other(u64::MAX).unwrap(), 0);
    assert_eq!(journal.stats().barriers, flushes + 1);
    let blocks = journal.stats().blocks;
    assert_eq!(journal.wipe_other(9).unwrap(), 0);
    assert_eq!(journal.stats().blocks, blocks, "it is wiped once");
    for (at, before) in (0..BLOCKS).zip(before) {
        // The header stays.
        let wanted = if (3..B).contains(&at) { [0; 512] } else { before };
        assert!(block(&disk, at) == wanted, "{at}");
    }
    assert!(journal.is_other_wiped());
    journal.begin_copy().unwrap();
    assert!(!journal.is_other_wiped());
    journal.copy(b"in A again").unwrap();
    let _switched = journal.finish_copy().unwrap();
    assert!(journal.began_wiped() && !journal.is_other_wiped());
    assert_eq!(open(&disk, Access::Read).report.verdict, Verdict::Clean);
    let mut reader = open(&disk, Access::Read).journal;
    assert_eq!(reader.wipe_other(1).unwrap_err().kind(), JournalErrorKind::ReadOnly);
}

/// A copy that a crash cut short, and a header of the next attempt that was torn: its epoch is gone, that of the blocks
/// behind it is not to come again.
#[test]
fn the_epoch_of_blocks_behind_a_torn_header_does_not_come_again() {
    let (disk, mut journal) = format();
    let _one = journal.commit(b"in A").unwrap();
    journal.seal_for_good().unwrap();
    let mut journal = open(&disk, Access::Write).journal;
    journal.begin_copy().unwrap();
    for _ in 0..6 {
        journal.copy(b"stale").unwrap();
    }
    let stale = header(&disk, B + 6);
    drop(journal);
    disk.write(BlockIndex::new(B), &[0xEE; 512]).unwrap();
    let mut journal = open(&disk, Access::Write).journal;
    journal.begin_copy().unwrap();
    assert!(header(&disk, B).epoch > stale.epoch, "{:?}", header(&disk, B));
    assert!(header(&disk, B).incarnation > stale.incarnation);
    journal.copy(b"fresh").unwrap();
    let _switched = journal.finish_copy().unwrap();
    journal.seal_for_good().unwrap();
    let report = open(&disk, Access::Read).report;
    assert_eq!(
        (report.verdict, report.was_sealed),
        (Verdict::Clean, true),
        "nothing stale looks like a torn tail"
    );
}

#[test]
fn a_copy_that_was_cut_short_is_wiped_and_its_numbers_are_not_used_again() {
    let (disk, mut journal) = format();
    let _one = journal.commit(b"in A").unwrap();
    journal.begin_copy().unwrap();
    journal.copy(b"cut short").unwrap();
    let cut = header(&disk, B);
    drop(journal);
    let mut journal = open(&disk, Access::Write).journal;
    while journal.wipe_other(4).unwrap() > 0 {}
    drop(journal);
    let Opened { mut journal, report } = open(&disk, Access::Write);
    assert_eq!(report.verdict, Verdict::Clean);
    journal.begin_copy().unwrap();
    assert!(header(&disk, B).epoch > cut.epoch && header(&disk, B).incarnation > cut.incarnation);
}

#[test]
fn reading_again_sees_what_is_there_now() {
    let (disk, mut journal) = format();
    let _one = journal.commit(b"one").unwrap();
    let _two = journal.commit(b"two").unwrap();
    let mut bodies = Vec::new();
    let mut again = |journal: &Journal<MemDisk>| {
        bodies.clear();
        let again = journal.read_again(&mut |frame| {
            bodies.push(frame.body.to_vec());
            Ok::<_, JournalError>(())
        });
        (again.unwrap(), bodies.clone())
    };
    let sound = Again { verdict: Verdict::Clean, frames: 2, is_whole: true, roots_valid: 2 };
    assert_eq!(again(&journal), (sound, vec![b"one".to_vec(), b"two".to_vec()]));
    // Generation 1 stands in slots 1 and 3.
    disk.write(BlockIndex::new(1), &[0; 512]).unwrap();
    assert_eq!(again(&journal).0, Again { roots_valid: 1, ..sound });
    disk.write(BlockIndex::new(5), &[0; 512]).unwrap();
    let (again, bodies) = again(&journal);
    assert_eq!(
        (again.verdict, again.is_whole, bodies.len()),
        (Verdict::Clean, false, 1),
        "the last one is gone"
    );
}
