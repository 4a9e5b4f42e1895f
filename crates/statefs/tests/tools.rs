//! What tools see: checks, dumps, salvage, and images that nobody wrote.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use journal::Journal;
use media::{BlockDevice, BlockIndex, Geometry, MemDisk};
use proptest::prelude::*;
use statefs::{
    Access, Certainty, Compaction, Error, ErrorKind, Evidence, Health, Key, Options, Prefix, Salvaged, Store,
    StoreId, Suspects, Verdict, fsck, salvage,
};

const BLOCKS: u64 = 64;

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn options() -> Options {
    Options::new(StoreId([5; 16]))
}

fn disk() -> MemDisk {
    MemDisk::new(Geometry::new(512, BLOCKS).unwrap()).unwrap()
}

/// Four keys, a compaction, and a commit in the block that is returned.
fn filled() -> (MemDisk, u64) {
    let disk = disk();
    let mut store = Store::format(disk.clone(), &options()).unwrap();
    for name in ["a", "b", "c", "d"] {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
    while store.compact_step().unwrap() == Compaction::Running {}
    store.put(&key("b"), b"newer").unwrap();
    store.put(&key("c"), b"newest").unwrap();
    // Region B begins behind the 30 blocks of region A: header, one copied frame, closing, and then commits.
    (disk, 2 + 30 + 3)
}

fn flip(disk: &MemDisk, block: u64) {
    let mut bytes = [0; 512];
    disk.read(BlockIndex::new(block), &mut bytes).unwrap();
    bytes[77] ^= 1;
    disk.write(BlockIndex::new(block), &bytes).unwrap();
}

#[test]
fn a_check_tells_clean_from_torn_from_damaged_and_writes_nothing() {
    let (disk, first) = filled();
    let before = disk.image().unwrap();
    let check = fsck(disk.clone()).unwrap();
    assert_eq!((check.health, check.lost, check.recovery.live_keys), (Health::Clean, None, 4));
    assert_eq!((check.blocks.roots, check.blocks.no_roots, check.blocks.invalid), (4, 0, 0));
    // Region A: header, closing, four commits. Region B: header, copy, closing, two commits.
    assert_eq!((check.blocks.current, check.blocks.stale), (6 + 5, 0));
    assert_eq!(check.blocks.foreign, 60 - 11);

    flip(&disk, first + 1);
    let torn = disk.image().unwrap();
    let check = fsck(disk.clone()).unwrap();
    assert_eq!(check.health, Health::TornTail, "nothing says that the last commit was durable");
    let lost = check.lost.unwrap();
    assert_eq!((lost.at.get(), lost.offset, lost.last_seq), (first + 1, (first + 1) * 512, None));
    assert!(disk.image().unwrap() == torn);

    let disk = MemDisk::from_image(disk.geometry(), before).unwrap();
    flip(&disk, first);
    let check = fsck(disk.clone()).unwrap();
    let lost = check.lost.unwrap();
    assert_eq!((check.health, lost.at.get()), (Health::Damaged, first));
    assert_eq!((lost.last_seq, lost.evidence), (Some(lost.first_seq), Some(Evidence::PromisedDurable)));
    assert_eq!((check.recovery.live_keys, check.recovery.suspect_keys, check.blocks.invalid), (4, 3, 1));
}

#[test]
fn a_lost_superblock_is_put_right_by_the_next_open() {
    let (disk, _) = filled();
    // The root in force is of generation 2: slots 0 and 2.
    flip(&disk, 0);
    let check = fsck(disk.clone()).unwrap();
    assert_eq!((check.health, check.blocks.roots, check.lost), (Health::TornTail, 3, None));
    let (_, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
    assert_eq!(recovery.roots_repaired, 1);
    assert_eq!(fsck(disk).unwrap().health, Health::Clean);
}

#[test]
fn a_check_of_no_store_is_an_error() {
    assert_eq!(fsck(disk()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_dump_is_everything_in_order() {
    let (disk, _) = filled();
    let (store, _) = Store::open(disk, Access::Read).unwrap();
    let all: Vec<_> = store.iter().map(|(key, value)| (key, value.bytes.to_vec(), value.certainty)).collect();
    let wanted = [("a", "a"), ("b", "newer"), ("c", "newest"), ("d", "d")];
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(name, value)| (key(name), value.as_bytes().to_vec(), Certainty::Certain))
        .collect();
    assert_eq!(all, wanted);
}

#[test]
fn salvage_takes_what_is_certain_and_the_rest_only_where_it_is_told_to() {
    let (disk, first) = filled();
    flip(&disk, first);
    let before = disk.image().unwrap();
    for (suspects, wanted, keys) in [
        (
            Suspects::Leave,
            Salvaged { certain: 1, suspect_taken: 0, suspect_left: 3, sealed_without_prefix: 0 },
            1,
        ),
        (
            Suspects::Take,
            Salvaged { certain: 1, suspect_taken: 3, suspect_left: 0, sealed_without_prefix: 0 },
            4,
        ),
    ] {
        let to = self::disk();
        let other = Options::new(StoreId([6; 16]));
        assert_eq!(salvage(disk.clone(), to.clone(), &other, suspects).unwrap(), wanted);
        let (store, recovery) = Store::open(to, Access::Write).unwrap();
        assert!(recovery.was_sealed && recovery.tail == Verdict::Clean);
        assert_eq!(store.get(&key("c")).unwrap().bytes, b"newest");
        assert_eq!(store.get(&key("b")).map(|value| value.bytes), (keys == 4).then_some(&b"b"[..]));
        assert_eq!(recovery.live_keys, keys);
    }
    assert!(disk.image().unwrap() == before, "what is salvaged is only read");
}

#[test]
fn a_salvage_into_too_small_a_device_says_so() {
    let (disk, _) = filled();
    let small = MemDisk::new(Geometry::new(512, 20).unwrap()).unwrap();
    let limits = journal::Limits { frame_blocks_max: 1, in_flight_blocks_max: 2 };
    let error = salvage(disk, small, &Options { journal: limits, ..options() }, Suspects::Take).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
}

/// Uses everything that reads, and whatever can be written.
fn use_it(disk: MemDisk) {
    if let Ok(check) = fsck(disk.clone()) {
        assert_eq!(check.health == Health::Damaged, matches!(check.recovery.tail, Verdict::Damaged { .. }));
    }
    let Ok((mut store, recovery)) = Store::open(disk.clone(), Access::Write) else { return };
    assert_eq!(u64::try_from(store.iter().count()).unwrap(), recovery.live_keys);
    assert!(store.list(&Prefix::root(), None, 10).unwrap().entries.len() <= 10);
    if store.put(&key("new"), b"new").is_ok() {
        let (store, _) = Store::open(disk, Access::Read).unwrap();
        assert_eq!(store.get(&key("new")).unwrap().bytes, b"new");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Any image at all: an answer, in bounded time and memory, and no panic.
    #[test]
    fn images_that_nobody_wrote_are_read_without_panic(
        copies in prop::collection::vec((0..BLOCKS, 0..BLOCKS), 0..4),
        flips in prop::collection::vec((0..BLOCKS, 0..512_usize, any::<u8>()), 0..6),
    ) {
        let (disk, _) = filled();
        let mut image = disk.image().unwrap();
        for (from, to) in copies {
            let (from, to) = (usize::try_from(from).unwrap() * 512, usize::try_from(to).unwrap() * 512);
            image.copy_within(from..from + 512, to);
        }
        for (block, byte, value) in flips {
            image[usize::try_from(block).unwrap() * 512 + byte] = value;
        }
        use_it(MemDisk::from_image(disk.geometry(), image).unwrap());
    }

    /// Whole frames whose content is anything.
    #[test]
    fn frames_that_nobody_wrote_are_refused_by_name(bodies in prop::collection::vec(
        prop::collection::vec(prop_oneof![Just(1_u8), Just(2), Just(3), Just(8), Just(0), Just(b'/'), any::<u8>()], 0..40),
        1..4,
    )) {
        let disk = disk();
        let engine = {
            drop(Store::format(disk.clone(), &options()).unwrap());
            Journal::open::<journal::JournalError>(disk.clone(), Access::Read, &mut |_| Ok(())).unwrap().journal
        };
        let engine = engine.engine().to_vec();
        let mut journal =
            Journal::format(disk.clone(), StoreId([1; 16]), journal::Limits::default(), &engine).unwrap();
        for body in &bodies {
            let _durable = journal.commit(body).unwrap();
        }
        match Store::open(disk.clone(), Access::Read) {
            Ok(_) | Err(Error::Corrupt { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        use_it(disk);
    }
}
