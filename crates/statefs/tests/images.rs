//! Images as they are found: of the version before, on used disks, of any size, without their superblocks, cut short, beside a
//! writer. Rows D2, D4, D5, F5, F6 of the second review, and what opening costs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;

use media::{BlockDevice, BlockIndex, DeviceCause, DeviceError, DeviceOp, Geometry, MemDisk};
use statefs::{
    Access, Certainty, Compaction, ErrorKind, Evidence, Format, Health, Key, Options, Prefix, SnapshotName,
    Store, StoreId, Suspects, Verdict, fsck, salvage,
};

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

fn options(id: u8) -> Options {
    Options::new(StoreId([id; 16]))
}

fn disk(block_size: u32, blocks: u64) -> MemDisk {
    MemDisk::new(Geometry::new(block_size, blocks).unwrap()).unwrap()
}

fn compact<D: BlockDevice>(store: &mut Store<D>) {
    while store.compact_step().unwrap() == Compaction::Running {}
}

/// A device of any size that keeps only what was written, and counts the blocks that are read.
#[derive(Debug, Clone)]
struct SparseDisk {
    geometry: Geometry,
    blocks: Rc<std::cell::RefCell<BTreeMap<u64, Vec<u8>>>>,
    read: Rc<Cell<u64>>,
    /// Blocks after which writes find no space.
    room: Rc<Cell<Option<usize>>>,
}

impl SparseDisk {
    fn new(block_size: u32, blocks: u64) -> Self {
        let geometry = Geometry::new(block_size, blocks).unwrap();
        Self { geometry, blocks: Rc::default(), read: Rc::default(), room: Rc::default() }
    }
}

impl BlockDevice for SparseDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.geometry.locate(at, into.len())?;
        let blocks = self.blocks.borrow();
        for (number, block) in (at.get()..).zip(into.chunks_mut(self.geometry.block_size())) {
            self.read.set(self.read.get() + 1);
            match blocks.get(&number) {
                Some(bytes) => block.copy_from_slice(bytes),
                None => block.fill(0),
            }
        }
        Ok(())
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.geometry.locate(at, from.len())?;
        let mut blocks = self.blocks.borrow_mut();
        for (number, block) in (at.get()..).zip(from.chunks(self.geometry.block_size())) {
            let is_hole = !blocks.contains_key(&number);
            if is_hole && self.room.get().is_some_and(|room| blocks.len() >= room) {
                let cause = DeviceCause::from(std::io::Error::from_raw_os_error(28));
                return Err(DeviceError::Io { operation: DeviceOp::Write, at, len: from.len(), cause });
            }
            blocks.insert(number, block.to_vec());
        }
        Ok(())
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Reads, as an open for reading counts them.
fn blocks_read(disk: &SparseDisk) -> u64 {
    disk.read.take();
    drop(Store::open(disk.clone(), Access::Read).unwrap());
    disk.read.take()
}

// ---------------------------------------------------------------- the version before

const V1: &[u8] = include_bytes!("fixtures/v1-closed.img");
const V1_TORN: &[u8] = include_bytes!("fixtures/v1-torn.img");

fn of_version_1(image: &[u8]) -> MemDisk {
    MemDisk::from_image(Geometry::new(512, 64).unwrap(), image.to_vec()).unwrap()
}

/// Made by the version of 2026-11-25.
#[test]
fn a_store_of_format_1_is_read_and_written_in_format_1() {
    let disk = of_version_1(V1);
    let (store, recovery) = Store::open(disk.clone(), Access::Read).unwrap();
    assert_eq!((recovery.tail, recovery.format, recovery.was_sealed), (Verdict::Clean, Format::V1, true));
    assert_eq!(store.get(&key("last")).unwrap().bytes, b"of version 1");
    assert_eq!(store.get(&key("k/3")).unwrap().bytes, [11; 440]);
    assert!(store.get(&key("k/1")).is_none());
    let before = SnapshotName::parse("before").unwrap();
    assert_eq!(store.at(&before).unwrap().get(&key("k/1")).unwrap().bytes, [9; 360]);
    let (mut store, _) = Store::open(disk.clone(), Access::Write).unwrap();
    for nth in 0..200_u8 {
        store.put(&key("k/0"), &[nth; 300]).unwrap();
    }
    assert!(store.stats().journal.switches > 2, "both regions have been written again");
    store.close().unwrap();
    let (store, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
    assert_eq!((recovery.tail, recovery.format), (Verdict::Clean, Format::V1));
    assert_eq!(store.get(&key("k/0")).unwrap().bytes, [199; 300]);
    assert_eq!(store.at(&before).unwrap().get(&key("k/1")).unwrap().bytes, [9; 360]);
    let image = disk.image().unwrap();
    let of_version_2 = image.chunks(512).filter(|block| block.starts_with(b"SFJ1\x02")).count();
    assert_eq!(of_version_2, 0, "a program of version 1 can still read it");
}

#[test]
fn a_torn_store_of_format_1_is_recovered_as_before() {
    let disk = of_version_1(V1_TORN);
    let (store, recovery) = Store::open(disk.clone(), Access::Read).unwrap();
    assert!(matches!(recovery.tail, Verdict::TornTail { .. }), "{recovery:?}");
    assert_eq!(store.get(&key("last")).unwrap().bytes, b"not closed");
    assert!(store.get(&key("torn")).is_none());
    let (mut store, _) = Store::open(disk.clone(), Access::Write).unwrap();
    store.put(&key("torn"), b"now").unwrap();
    drop(store);
    let (store, _) = Store::open(disk, Access::Read).unwrap();
    assert_eq!(store.get(&key("torn")).unwrap().bytes, b"now");
}

#[test]
fn a_store_of_format_1_is_salvaged_into_one_of_format_2() {
    let to = disk(512, 64);
    let saved = salvage(of_version_1(V1), to.clone(), &options(2), Suspects::Leave).unwrap();
    assert_eq!(saved.certain, 4);
    let (store, recovery) = Store::open(to, Access::Read).unwrap();
    assert_eq!((recovery.format, recovery.live_keys), (Format::V2, 4));
    assert_eq!(store.get(&key("last")).unwrap().bytes, b"of version 1");
}

// ---------------------------------------------------------------- D4: clean means clean

/// Twenty clean sessions on a disk where another store was, and after a power cut.
#[test]
fn store_d4_a_store_that_was_closed_is_clean_on_a_used_disk() {
    let disk = disk(512, 96);
    let mut other = Store::format(disk.clone(), &options(1)).unwrap();
    for nth in 0..60_u8 {
        other.put(&key("other"), &[nth; 200]).unwrap();
    }
    drop(other);
    let mut store = Store::format(disk.clone(), &options(2)).unwrap();
    // A tail that a power cut leaves, and that the next open discards.
    store.put_buffered(&key("gone"), &[1; 4000]).unwrap();
    store.put_buffered(&key("gone"), &[2; 400]).unwrap();
    store.sync().unwrap();
    drop(store);
    let mut image = disk.image().unwrap();
    let begin = image.chunks(512).position(|block| block.starts_with(b"SFJ1") && block[5] == 4).unwrap();
    image[begin * 512 + 60] ^= 1;
    let disk = MemDisk::from_image(disk.geometry(), image).unwrap();
    for session in 0..20_u8 {
        let (mut store, recovery) = Store::open(disk.clone(), Access::Write).unwrap();
        assert!(session == 0 || recovery.tail == Verdict::Clean, "session {session}: {recovery:?}");
        store.put(&key("k"), &[session; 20]).unwrap();
        store.close().unwrap();
        let check = fsck(disk.clone()).unwrap();
        assert_eq!((check.health, check.lost), (Health::Clean, None), "session {session}");
    }
}

/// A rotten bit in the magic, in the version or in the tag of the last commit does not make it a block of another store,
/// whose absence nobody would mention.
#[test]
fn store_d4_sibling_the_last_commit_is_missed_whichever_bit_of_it_rots() {
    let disk = disk(512, 40);
    let mut store = Store::format(disk.clone(), &options(3)).unwrap();
    store.put(&key("a"), b"1").unwrap();
    let before = disk.image().unwrap();
    store.put(&key("a"), b"2").unwrap();
    drop(store);
    let good = disk.image().unwrap();
    let last = before.chunks(512).zip(good.chunks(512)).position(|(old, new)| old != new).unwrap();
    for bit in 0..512 * 8 {
        let mut image = good.clone();
        image[last * 512 + bit / 8] ^= 1 << (bit % 8);
        let rotten = MemDisk::from_image(disk.geometry(), image).unwrap();
        let (_, recovery) = Store::open(rotten, Access::Read).unwrap();
        assert!(matches!(recovery.tail, Verdict::TornTail { .. }), "bit {bit}: {recovery:?}");
    }
}

// ---------------------------------------------------------------- D5: whatever can be read

/// Both with marks and without, in the first region and in the second, and after a switch that a crash interrupted.
fn filled(blocks: u64, switches: u32) -> (MemDisk, BTreeMap<String, Vec<u8>>) {
    let disk = disk(512, blocks);
    let mut store = Store::format(disk.clone(), &options(5)).unwrap();
    let mut wanted = BTreeMap::new();
    for round in 0..=switches {
        for nth in 0..6_u8 {
            let (name, value) = (format!("/state/{round}/{nth}"), vec![nth; 90]);
            store.put(&Key::parse(&name).unwrap(), &value).unwrap();
            wanted.insert(name, value);
        }
        if round < switches {
            compact(&mut store);
        }
    }
    store.close().unwrap();
    (disk, wanted)
}

fn salvaged(from: impl BlockDevice) -> BTreeMap<String, Vec<u8>> {
    let to = disk(512, 200);
    salvage(from, to.clone(), &options(6), Suspects::Leave).unwrap();
    let (store, _) = Store::open(to, Access::Read).unwrap();
    store.iter().map(|(key, value)| (key.as_str().to_owned(), value.bytes.to_vec())).collect()
}

#[test]
fn store_d5_a_store_without_superblocks_is_salvaged_whole() {
    for blocks in [90, 2100] {
        for switches in 0..4 {
            let (disk, wanted) = filled(blocks, switches);
            let mut image = disk.image().unwrap();
            for block in image.chunks_mut(512).filter(|block| block.starts_with(b"SFSUPER1")) {
                block.fill(0xEE);
            }
            let lost = MemDisk::from_image(disk.geometry(), image).unwrap();
            for access in [Access::Read, Access::Write] {
                let error = Store::open(lost.clone(), access).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains("salvage it"), "{error}");
            }
            let (store, recovery) = Store::open(lost.clone(), Access::Salvage).unwrap();
            assert!(
                matches!(recovery.tail, Verdict::Damaged { evidence: Evidence::NoSuperblock, .. }),
                "{recovery:?}"
            );
            assert_eq!((recovery.roots_valid, recovery.suspect_keys), (0, 0));
            assert!(recovery.read_only.is_some() && store.get(&key("0/0")).is_some());
            assert_eq!(salvaged(lost), wanted, "{blocks} blocks, {switches} switches");
        }
    }
}

/// Together with the header of the region in force: what is found is older, so nothing of it is certain.
#[test]
fn store_d5_sibling_an_older_region_is_not_taken_for_the_newest() {
    let (disk, _) = filled(90, 1);
    let mut image = disk.image().unwrap();
    for (at, block) in image.chunks_mut(512).enumerate() {
        let is_newest_header = block.starts_with(b"SFJ1") && block[5] == 1 && at > 10;
        if block.starts_with(b"SFSUPER1") || is_newest_header {
            block.fill(0xEE);
        }
    }
    let lost = MemDisk::from_image(disk.geometry(), image).unwrap();
    let (store, recovery) = Store::open(lost.clone(), Access::Salvage).unwrap();
    assert_eq!(recovery.suspect_keys, recovery.live_keys, "{recovery:?}");
    assert_eq!(store.get(&key("0/0")).unwrap().certainty, Certainty::Suspect);
    assert!(salvaged(lost).is_empty());
}

#[test]
fn store_d5_a_device_that_was_cut_short_is_salvaged_as_far_as_it_goes() {
    for (blocks, switches) in [(90, 0), (90, 1), (2100, 0), (2100, 1)] {
        let (disk, wanted) = filled(blocks, switches);
        for missing in [1, 2, 5, 20] {
            let geometry = Geometry::new(512, blocks - missing).unwrap();
            let len = usize::try_from(geometry.byte_len()).unwrap();
            let short = MemDisk::from_image(geometry, disk.image().unwrap()[..len].to_vec()).unwrap();
            match Store::open(short.clone(), Access::Write) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
                // A few blocks at the end of a device may be nobody's.
                Ok(_) => assert!(blocks == 2100 && missing < 10, "{blocks} blocks, {missing} missing"),
            }
            let saved = salvaged(short.clone());
            let is_certain = saved == wanted;
            // In the second region, without a mark, what is missing may have been written.
            let (store, _) = Store::open(short, Access::Salvage).unwrap();
            let found = wanted.keys().filter(|name| store.get(&Key::parse(name).unwrap()).is_some()).count();
            assert_eq!(found, wanted.len(), "{blocks} blocks, {switches} switches, {missing} missing");
            let may_be_in_use = blocks == 90 && switches == 1 && missing > 2;
            assert!(is_certain || may_be_in_use, "{blocks}, {switches}, {missing}: {saved:?}");
        }
    }
}

// ---------------------------------------------------------------- F5: a reader beside a writer

/// Writes while it is read: each read of a block lets the writer take a step first.
struct BesideWriter {
    disk: MemDisk,
    writer: Mutex<Box<dyn FnMut() + Send>>,
}

impl BlockDevice for BesideWriter {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        (self.writer.lock().unwrap())();
        self.disk.read(at, into)
    }
    fn write(&self, _: BlockIndex, _: &[u8]) -> Result<(), DeviceError> {
        panic!("a reader writes");
    }
    fn flush(&self) -> Result<(), DeviceError> {
        panic!("a reader flushes");
    }
}

/// The writer switches regions again and again. What the reader returns is at least what was acknowledged when it began, or it
/// says that it was overtaken.
#[test]
fn store_f5_a_reader_returns_what_was_durable_when_it_began_or_says_that_it_cannot() {
    let (mut seen, mut overtaken) = (0, 0);
    for pace in [1, 3, 17, 90, 400] {
        for run in 0..30_u32 {
            let disk = disk(512, 600);
            let mut store = Store::format(disk.clone(), &options(7)).unwrap();
            let mut count = 0_u32;
            for _ in 0..40 + run * 13 {
                count += 1;
                store.put(&key("count"), &count.to_le_bytes()).unwrap();
            }
            let (begun, mut stopped) = (count, 0);
            let writer = move || {
                // The writer pauses in the end, so that a reader that looks often enough comes through.
                stopped += 1;
                for _ in 0..if stopped < 60 { pace } else { 0 } {
                    count += 1;
                    store.put(&key("count"), &count.to_le_bytes()).unwrap();
                }
            };
            let beside = BesideWriter { disk, writer: Mutex::new(Box::new(writer)) };
            match Store::open(&beside, Access::Read) {
                Ok((store, recovery)) => {
                    seen += 1;
                    let value = store.get(&key("count")).unwrap();
                    let found = u32::from_le_bytes(value.bytes.try_into().unwrap());
                    assert!(found >= begun, "pace {pace}, run {run}: {found} < {begun}: {recovery:?}");
                    let is_damaged = matches!(recovery.tail, Verdict::Damaged { .. });
                    assert!(!is_damaged, "pace {pace}, run {run}: {recovery:?}");
                }
                Err(error) => {
                    overtaken += 1;
                    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                }
            }
        }
    }
    assert!(seen > 50, "{seen} came through, {overtaken} were overtaken");
}

// ---------------------------------------------------------------- F6: sparse images, full file systems

#[test]
fn store_f6_a_sparse_image_without_space_says_no_space_and_loses_nothing() {
    let disk = SparseDisk::new(512, 400);
    let mut store = Store::format(disk.clone(), &options(8)).unwrap();
    store.put(&key("a"), b"kept").unwrap();
    let room = disk.blocks.borrow().len();
    disk.room.set(Some(room));
    let error = store.put(&key("b"), b"no room").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(store.get(&key("b")).is_none());
    assert_eq!(store.put(&key("b"), b"again").unwrap_err().kind(), ErrorKind::Poisoned);
    drop(store);
    let error = Store::open(disk.clone(), Access::Write).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    let (store, _) = Store::open(disk.clone(), Access::Read).unwrap();
    assert_eq!(store.get(&key("a")).unwrap().bytes, b"kept");
    drop(store);
    disk.room.set(None);
    let (mut store, _) = Store::open(disk.clone(), Access::Write).unwrap();
    assert!(store.get(&key("b")).is_none(), "nothing had changed");
    store.put(&key("b"), b"now").unwrap();
    assert_eq!(store.delete(&key("a")).unwrap().map(drop), Some(()));
}

/// A delete and a compaction meet the same.
#[test]
fn store_f6_sibling_a_delete_and_a_compaction_without_space_say_so() {
    for is_compaction in [false, true] {
        let disk = SparseDisk::new(512, 400);
        let mut store = Store::format(disk.clone(), &options(8)).unwrap();
        store.put(&key("a"), b"kept").unwrap();
        let room = disk.blocks.borrow().len();
        disk.room.set(Some(room + usize::from(is_compaction)));
        let error = match is_compaction {
            false => store.delete(&key("a")).unwrap_err(),
            true => loop {
                if let Err(error) = store.compact_step() {
                    break error;
                }
            },
        };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        drop(store);
        disk.room.set(None);
        let (store, recovery) = Store::open(disk, Access::Write).unwrap();
        assert_eq!(recovery.read_only, None);
        assert_eq!(store.get(&key("a")).unwrap().bytes, b"kept");
    }
}

/// Opening reads what was written, and not what was never: a store of one key costs the same on any device.
#[test]
fn store_f6_opening_reads_only_what_is_needed() {
    let read = |blocks: u64, keys: u32| {
        let disk = SparseDisk::new(4096, blocks);
        let mut store = Store::format(disk.clone(), &options(9)).unwrap();
        for nth in 0..keys {
            store.put(&key(&format!("{nth}")), &[7; 100]).unwrap();
        }
        store.close().unwrap();
        blocks_read(&disk)
    };
    let small = read(2048, 1);
    assert!(small <= 48, "{small} blocks for one key");
    for blocks in [10_000, 1 << 20, 1 << 30] {
        assert_eq!(read(blocks, 1), small, "a device of {blocks} blocks");
    }
    // 1,000 commits of one block each.
    let (few, many) = (read(4_000, 1_000), read(1 << 20, 1_000));
    assert!(many == few && many < 1_600, "{few} blocks, and {many} on a device 250 times as large");
}

/// Where the two copies of a mark do not agree, the whole region is read, and what a power cut leaves is never taken for more
/// or less than it is.
#[test]
fn store_f6_sibling_a_mark_that_is_damaged_hides_nothing() {
    let disk = disk(512, 2200);
    let mut store = Store::format(disk.clone(), &options(9)).unwrap();
    for nth in 0..300_u32 {
        store.put(&key(&format!("{nth}")), &[7; 100]).unwrap();
    }
    drop(store);
    let image = disk.image().unwrap();
    let marks: Vec<usize> = image
        .chunks(512)
        .enumerate()
        .filter(|(_, block)| block.starts_with(b"SFMARK01"))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(marks.len(), 4, "two copies for each region");
    for ruined in 1..16_u32 {
        let mut image = image.clone();
        for (nth, at) in marks.iter().enumerate().filter(|(nth, _)| ruined >> nth & 1 == 1) {
            image[at * 512 + 40 + nth] ^= 1;
        }
        let ruined_disk = MemDisk::from_image(disk.geometry(), image).unwrap();
        let (store, recovery) = Store::open(ruined_disk.clone(), Access::Write).unwrap();
        assert_eq!((recovery.live_keys, recovery.tail), (300, Verdict::Clean), "{ruined:b}");
        store.close().unwrap();
        let (_, recovery) = Store::open(ruined_disk, Access::Write).unwrap();
        assert_eq!((recovery.live_keys, recovery.tail), (300, Verdict::Clean), "{ruined:b}");
    }
}

// ---------------------------------------------------------------- D2: work that is linear

/// Blocks that an open looks at, however often.
fn examined(disk: &MemDisk) -> (u64, Verdict) {
    let (_, recovery) = Store::open(disk.clone(), Access::Read).unwrap();
    (recovery.examined_blocks, recovery.tail)
}

/// One rotten bit anywhere in 256 MiB costs at most as much again.
#[test]
fn store_d2_one_rotten_bit_at_most_doubles_the_work_of_an_open() {
    let disk = disk(4096, 65_536);
    let mut store = Store::format(disk.clone(), &options(1)).unwrap();
    let value = vec![3; 60_000];
    // The second region is full, and the header of the first is older.
    for nth in 0..2_600_u32 {
        store.put(&key(&format!("{}", nth % 500)), &value).unwrap();
    }
    store.close().unwrap();
    let (clean, verdict) = examined(&disk);
    assert_eq!(verdict, Verdict::Clean);
    assert!(clean > 8_000, "{clean} blocks");
    let image = disk.image().unwrap();
    let newest = |block: &[u8]| u64::from_le_bytes(block[16..24].try_into().unwrap());
    let ours: Vec<usize> = image
        .chunks(4096)
        .enumerate()
        .filter(|(_, block)| block.starts_with(b"SFJ1"))
        .map(|(at, _)| at)
        .collect();
    let epoch = ours.iter().map(|at| newest(&image[at * 4096..])).max().unwrap();
    let life: Vec<usize> = ours.into_iter().filter(|at| newest(&image[at * 4096..]) == epoch).collect();
    drop(image);
    for place in [0, 1, 2, life.len() / 3, life.len() / 2, life.len() - 1] {
        let at = BlockIndex::new(u64::try_from(life[place]).unwrap());
        let mut block = vec![0; 4096];
        disk.read(at, &mut block).unwrap();
        block[999] ^= 1;
        disk.write(at, &block).unwrap();
        let (rotten, verdict) = examined(&disk);
        assert!(
            matches!(verdict, Verdict::Damaged { .. }) || place + 1 == life.len(),
            "{place}: {verdict:?}"
        );
        assert!(rotten <= 2 * clean, "block {place}: {rotten} against {clean}");
        block[999] ^= 1;
        disk.write(at, &block).unwrap();
    }
}

/// Frames that claim to be 256 blocks long and are not, one beginning in each block: what an enemy would write.
#[test]
fn store_d2_sibling_hostile_headers_are_read_a_few_times_each() {
    use journal::frame::{BlockHeader, Kind, Owner, encode};
    let blocks = (8 << 20) / 512;
    let disk = disk(512, blocks);
    drop(Store::format(disk.clone(), &options(1)).unwrap());
    let owner = Owner::of(StoreId([1; 16]), Format::V2);
    let mut block = [0; 512];
    for at in 40..blocks - 40 {
        let index = u16::try_from(at % 255).unwrap();
        let header = BlockHeader {
            kind: Kind::Commit,
            index: if at % 3 == 0 { 0 } else { index },
            count: 256,
            incarnation: u32::try_from(1 + at % 7).unwrap(),
            epoch: 1,
            seq: 10 + at / 2,
            durable_seq: 9 + at / 2,
            len: 464,
        };
        encode(&header, &[9; 464], owner, BlockIndex::new(at), &mut block);
        disk.write(BlockIndex::new(at), &block).unwrap();
    }
    // Without marks everything is read.
    for (at, bytes) in disk.image().unwrap().chunks(512).enumerate() {
        if bytes.starts_with(b"SFMARK01") {
            disk.write(BlockIndex::new(u64::try_from(at).unwrap()), &[0; 512]).unwrap();
        }
    }
    let (examined, verdict) = examined(&disk);
    assert!(matches!(verdict, Verdict::Damaged { .. }), "{verdict:?}");
    assert!(examined <= 2 * blocks, "{examined} of {blocks}");
    let (store, _) = Store::open(disk, Access::Read).unwrap();
    assert!(store.list(&Prefix::root(), None, 10).unwrap().entries.is_empty());
}

// ---------------------------------------------------------------- numbers

/// Found with the tests of marks: a store that was closed, opened, and lost what was buffered gave the same revisions out again.
#[test]
fn a_revision_of_a_buffered_put_is_not_given_out_again_after_a_power_cut() {
    let disk = disk(512, 64);
    Store::format(disk.clone(), &options(1)).unwrap().close().unwrap();
    let mut given = std::collections::BTreeSet::new();
    for session in 0..5_u8 {
        let (mut store, _) = Store::open(disk.clone(), Access::Write).unwrap();
        for nth in 0..3_u8 {
            let revision = store.put_buffered(&key("a"), &[session, nth]).unwrap();
            assert!(given.insert(revision), "session {session}: {revision} was given out before");
        }
        // A power cut: nothing of it was written.
        drop(store);
    }
}
