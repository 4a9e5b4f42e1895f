//! Commits that come while a copy runs: copied in steps, and given up without a trace.
#![expect(unsafe_code, reason = "an allocator that refuses is unsafe to implement")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

use journal::{Access, Journal, JournalError, JournalErrorKind, Limits, StoreId, Verdict};
use media::{BlockDevice, BlockIndex, DeviceError, Geometry, MemDisk};

const STORE: StoreId = StoreId([9; 16]);

thread_local! {
    /// Requests of so many bytes and more are refused to this thread.
    static REFUSED_LEN: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The system's allocator, which refuses what is long.
struct Refusing;

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

// SAFETY: every call goes to the system's allocator as it came, or is refused.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if REFUSED_LEN.get() <= layout.size() {
            return std::ptr::null_mut();
        }
        // SAFETY: what is asked of this allocator may be asked of that one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: it came from there, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// A device whose blocks read back wrong, or not at all, where it is told so; it counts calls.
#[derive(Clone)]
struct ForgetfulDisk {
    disk: MemDisk,
    trouble: Rc<Cell<Trouble>>,
    reads: Rc<Cell<u64>>,
    writes: Rc<Cell<u64>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    None,
    /// A bit of the block that is read is wrong.
    Garbled,
    /// The block cannot be read.
    Unreadable,
}

impl BlockDevice for ForgetfulDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.reads.set(self.reads.get() + 1);
        self.disk.read(at, into)?;
        match self.trouble.get() {
            Trouble::None => Ok(()),
            Trouble::Garbled => {
                into[100] ^= 1;
                Ok(())
            }
            // No device has so many blocks.
            Trouble::Unreadable => self.disk.read(BlockIndex::new(u64::MAX / 1024), into),
        }
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.writes.set(self.writes.get() + 1);
        self.disk.write(at, from)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.disk.flush()
    }
}

fn format(block_count: u64) -> (ForgetfulDisk, Journal<ForgetfulDisk>) {
    let disk = MemDisk::new(Geometry::new(512, block_count).unwrap()).unwrap();
    let disk = ForgetfulDisk {
        disk,
        trouble: Rc::new(Cell::new(Trouble::None)),
        reads: Rc::default(),
        writes: Rc::default(),
    };
    let limits = Limits { frame_blocks_max: 4, in_flight_blocks_max: 8 };
    let journal = Journal::format(disk.clone(), STORE, limits, b"engine").unwrap();
    (disk, journal)
}

/// Commits a frame of so many blocks; its sequence number.
fn commit(journal: &mut Journal<ForgetfulDisk>, blocks: usize, byte: u8) -> u64 {
    journal.commit(&vec![byte; blocks * 464]).unwrap().seq()
}

/// What an open finds: the first byte and the length of each frame; and the number of the next one.
fn found(disk: &ForgetfulDisk) -> (Vec<(u8, usize)>, Verdict, u64) {
    let mut frames = Vec::new();
    let opened = Journal::open(disk.clone(), Access::Read, &mut |frame| {
        frames.push((frame.body[0], frame.body.len() / 464));
        Ok::<_, JournalError>(())
    });
    let opened = opened.unwrap();
    (frames, opened.report.verdict, opened.journal.next_seq())
}

#[test]
fn later_commits_are_copied_in_pieces_and_the_last_call_has_little_left_to_do() {
    let (disk, mut journal) = format(400);
    journal.begin_copy().unwrap();
    journal.copy(&[b'k'; 464]).unwrap();
    for nth in 0..20_u8 {
        commit(&mut journal, 1 + usize::from(nth % 3), nth);
    }
    // A seal is not copied.
    journal.seal().unwrap();
    assert_eq!(journal.later_blocks(), 39);
    let mut left = 39;
    let mut pieces = 0;
    loop {
        let (writes, reads) = (disk.writes.get(), disk.reads.get());
        let all = journal.copy_later(5).unwrap();
        let (writes, reads) = (disk.writes.get() - writes, disk.reads.get() - reads);
        assert!(reads <= 6, "the first block of the next frame is read as well: {reads}");
        assert!(writes <= 5 && (writes > 0 || all));
        assert!(journal.later_blocks() < left || all);
        left = journal.later_blocks();
        pieces += 1;
        if all {
            break;
        }
    }
    assert_eq!((left, pieces), (0, 10));
    assert!(journal.copy_later(5).unwrap());
    // Less than a frame is allowed: one frame is copied all the same.
    commit(&mut journal, 3, 20);
    commit(&mut journal, 2, 21);
    assert!(!journal.copy_later(0).unwrap());
    assert_eq!(journal.later_blocks(), 2);
    // Nothing of the engine's may follow.
    assert!(matches!(journal.copy(b"late"), Err(JournalError::CopyIsWhole)));
    let reads = disk.reads.get();
    let _switched = journal.finish_copy().unwrap();
    assert_eq!(disk.reads.get() - reads, 2 + 2, "the frame that was left, the two slots of the root");
    commit(&mut journal, 1, 22);
    let mut wanted = vec![(b'k', 1)];
    wanted.extend((0..20).map(|nth| (nth, 1 + usize::from(nth % 3))));
    wanted.extend([(20, 3), (21, 2), (22, 1)]);
    let (frames, verdict, _) = found(&disk);
    assert_eq!(frames, wanted);
    assert!(!matches!(verdict, Verdict::Damaged { .. }), "{verdict:?}");
}

/// The record of an open is not copied, and a frame that was not flushed is.
#[test]
fn only_frames_of_records_count_as_later() {
    let (disk, mut journal) = format(400);
    commit(&mut journal, 1, 1);
    journal.seal_for_good().unwrap();
    drop(journal);
    let opened = Journal::open(disk.clone(), Access::Write, &mut |_| Ok::<_, JournalError>(()));
    let mut journal = opened.unwrap().journal;
    assert_eq!(journal.later_blocks(), 0);
    journal.begin_copy().unwrap();
    journal.copy(&[1; 464]).unwrap();
    commit(&mut journal, 2, 2);
    assert_eq!(journal.later_blocks(), 2);
    journal.write(&[3; 464]).unwrap();
    assert_eq!(journal.later_blocks(), 3);
    assert!(journal.copy_later(u64::MAX).unwrap());
    assert_eq!(journal.later_blocks(), 0);
    let _switched = journal.finish_copy().unwrap();
    assert_eq!(journal.later_blocks(), 0);
    assert_eq!(found(&disk).0, [(1, 1), (2, 2), (3, 1)]);
}

#[test]
fn nothing_is_read_back_while_it_is_in_flight() {
    let (disk, mut journal) = format(400);
    journal.begin_copy().unwrap();
    let outgoing = journal.begin_commit(b"x").unwrap();
    let reads = disk.reads.get();
    assert_eq!(journal.copy_later(9).unwrap_err().kind(), JournalErrorKind::Busy);
    assert_eq!(disk.reads.get(), reads);
    assert!(journal.is_copying(), "nothing was done");
    let outcome = outgoing.carry_out(&disk);
    let _durable = journal.end_commit(outgoing, outcome).unwrap();
    assert!(journal.copy_later(9).unwrap());
}

/// Both with the engine's next piece and with the later commits it is known at once.
#[test]
fn a_copy_that_cannot_fit_any_more_is_given_up_before_anything_is_read() {
    for with_a_piece in [true, false] {
        let (disk, mut journal) = format(40);
        journal.begin_copy().unwrap();
        journal.copy(&[b'k'; 464]).unwrap();
        let region = journal.layout().region_blocks();
        // Its header, the piece, the closing frame, and the reserve of four.
        let room = region - 1 - 1 - 1 - 4;
        for nth in 0..room - u64::from(with_a_piece) {
            commit(&mut journal, 1, u8::try_from(nth).unwrap());
        }
        // At the bound.
        let (writes, reads) = (disk.writes.get(), disk.reads.get());
        let over = match with_a_piece {
            true => {
                let refused = journal.copy(&[b'k'; 2 * 464]);
                assert_eq!((disk.writes.get(), disk.reads.get()), (writes, reads));
                refused
            }
            false => {
                assert_eq!(journal.later_blocks(), room);
                commit(&mut journal, 1, 99);
                let (writes, reads) = (disk.writes.get(), disk.reads.get());
                let refused = journal.copy_later(1).map(drop);
                assert_eq!((disk.writes.get(), disk.reads.get()), (writes, reads));
                refused
            }
        };
        assert!(matches!(over, Err(JournalError::Full { .. })), "{over:?}");
        assert!(!journal.is_copying());
    }
    // One block less, and it fits.
    let (disk, mut journal) = format(40);
    journal.begin_copy().unwrap();
    journal.copy(&[b'k'; 464]).unwrap();
    let room = journal.layout().region_blocks() - 7;
    for _ in 0..room {
        commit(&mut journal, 1, 1);
    }
    assert!(journal.copy_later(u64::MAX).unwrap());
    let _switched = journal.finish_copy().unwrap();
    assert_eq!(found(&disk).0.len(), usize::try_from(room).unwrap() + 1);
}

/// A copy is given up at each place where it may be, and everything goes on as if there had been none.
#[test]
fn a_copy_that_is_given_up_burns_no_number_and_the_old_region_goes_on() {
    type GiveUp = fn(&ForgetfulDisk, &mut Journal<ForgetfulDisk>) -> JournalError;
    let no_memory_later: GiveUp = |_, journal| {
        REFUSED_LEN.set(500);
        let outcome = journal.copy_later(9);
        REFUSED_LEN.set(usize::MAX);
        outcome.unwrap_err()
    };
    let cases: [(&str, JournalErrorKind, GiveUp); 7] = [
        ("full, later", JournalErrorKind::NoSpace, |_, journal| {
            while journal.room() > 0 {
                commit(journal, 1, 7);
            }
            journal.copy_later(1).unwrap_err()
        }),
        ("full, at the end", JournalErrorKind::NoSpace, |_, journal| {
            while journal.room() > 0 {
                commit(journal, 1, 7);
            }
            journal.finish_copy().unwrap_err()
        }),
        ("no memory, later", JournalErrorKind::NoMemory, no_memory_later),
        ("no memory, at the end", JournalErrorKind::NoMemory, |_, journal| {
            REFUSED_LEN.set(500);
            let outcome = journal.finish_copy();
            REFUSED_LEN.set(usize::MAX);
            outcome.unwrap_err()
        }),
        ("garbled, later", JournalErrorKind::Io, |disk, journal| {
            disk.trouble.set(Trouble::Garbled);
            let error = journal.copy_later(1).unwrap_err();
            assert!(matches!(error, JournalError::NotReadBack { .. }));
            error
        }),
        ("garbled, at the end", JournalErrorKind::Io, |disk, journal| {
            assert!(!journal.copy_later(1).unwrap());
            disk.trouble.set(Trouble::Garbled);
            journal.finish_copy().unwrap_err()
        }),
        ("unreadable, at the end", JournalErrorKind::Io, |disk, journal| {
            disk.trouble.set(Trouble::Unreadable);
            journal.finish_copy().unwrap_err()
        }),
    ];
    for (case, kind, give_up) in cases {
        let (disk, mut journal) = format(60);
        commit(&mut journal, 1, 1);
        journal.begin_copy().unwrap();
        for _ in 0..4 {
            journal.copy(&[1; 464]).unwrap();
        }
        commit(&mut journal, 2, 2);
        let mut last = commit(&mut journal, 1, 3);
        let error = give_up(&disk, &mut journal);
        disk.trouble.set(Trouble::None);
        assert_eq!(error.kind(), kind, "{case}: {error}");
        assert!(!journal.is_copying(), "{case}");
        assert!(journal.failure().is_none() && journal.read_only().is_none(), "{case}");
        let before = found(&disk).0;
        last = last.max(journal.durable_seq());
        assert_eq!(journal.next_seq(), last + 1, "{case}: no number is burnt");
        // Commits go on, with the next number, as long as there is room.
        let mut wanted = before.clone();
        assert_eq!(wanted[..3], [(1, 1), (2, 2), (3, 1)], "{case}");
        if journal.room() > 0 {
            assert_eq!(commit(&mut journal, 1, 4), last + 1, "{case}");
            wanted.push((4, 1));
        }
        let (frames, verdict, _) = found(&disk);
        assert_eq!(frames, wanted, "{case}");
        assert!(!matches!(verdict, Verdict::Damaged { .. }), "{case}: {verdict:?}");
        // A whole copy after it, a close, an open for writing.
        journal.begin_copy().unwrap();
        journal.copy(&[5; 464]).unwrap();
        let _switched = journal.finish_copy().unwrap();
        commit(&mut journal, 1, 6);
        journal.seal_for_good().unwrap();
        drop(journal);
        let opened = Journal::open(disk.clone(), Access::Write, &mut |_| Ok::<_, JournalError>(()));
        let report = opened.unwrap().report;
        assert!(report.was_sealed && matches!(report.verdict, Verdict::Clean), "{case}: {report:?}");
        assert_eq!(found(&disk).0, [(5, 1), (6, 1)], "{case}");
    }
}
