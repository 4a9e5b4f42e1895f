//! `FileDisk` on real file systems and raw devices: past the page cache where they let it, and the same format where not.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use media::conformance::{block_device, born_zeroed};
use media::{
    Access, BlockDevice, BlockIndex, Dir, DiskMedium, DiskMode, File, FileDisk, FileDiskError, FileKind,
    Fs as _, Geometry, OsFs, Reason,
};
use testbed::{FsKind, LoopDevice, LoopFs, Missing, need};

const DIRECT: DiskMode = DiskMode { medium: DiskMedium::File, is_direct: true };
const BUFFERED: DiskMode = DiskMode { medium: DiskMedium::File, is_direct: false };

fn dir(path: &Path) -> Arc<dyn Dir> {
    OsFs.open_dir(path).unwrap()
}

fn open(path: &Path, access: Access) -> std::io::Result<Arc<dyn File>> {
    dir(path.parent().unwrap()).open_disk(path.file_name().unwrap(), access)
}

fn disk(path: &Path, access: Access, block_size: u32) -> FileDisk {
    FileDisk::open(open(path, access).unwrap(), block_size).unwrap()
}

/// The suite on disks that were created there, and on the same opened again; in the mode and with the durable write that
/// are expected.
fn conforms(fs: &LoopFs, mode: DiskMode) {
    let made = Cell::new(0);
    let here = dir(fs.root());
    let create = |wish: Geometry| {
        made.set(made.get() + 1);
        let name = OsString::from(format!("disk{}", made.get()));
        let disk = FileDisk::create(&*here, &name, wish).unwrap();
        (name, disk)
    };
    let kind = fs.kind();
    block_device(|wish| {
        let (name, disk) = create(wish);
        assert_eq!(disk.mode(), mode, "{kind:?}, blocks of {}", wish.block_size());
        assert_eq!(disk.geometry().write_durable(), mode.is_direct, "{kind:?}");
        let block_size = u32::try_from(wish.block_size()).unwrap();
        let again = self::disk(&fs.root().join(name), Access::ReadWrite, block_size);
        assert_eq!((again.mode(), again.geometry()), (disk.mode(), disk.geometry()), "{kind:?}");
        again
    });
    born_zeroed(|wish| create(wish).1);
}

#[test]
fn a_file_disk_on_ext4_and_xfs_conforms_past_the_page_cache() {
    for (kind, size) in need!(FsKind::journalled()) {
        if kind != FsKind::Btrfs {
            conforms(&need!(LoopFs::mount(kind, size)), DIRECT);
        }
    }
}

/// It does not tell its alignment, so a page is asked for: smaller blocks go through the page cache.
#[test]
fn a_file_disk_on_btrfs_conforms_past_the_page_cache_with_blocks_of_a_page() {
    let fs = need!(FsKind::journalled().and_then(|_| LoopFs::mount(FsKind::Btrfs, 128 << 20)));
    let here = dir(fs.root());
    let made = Cell::new(0);
    block_device(|wish| {
        made.set(made.get() + 1);
        let disk = FileDisk::create(&*here, OsStr::new(&format!("disk{}", made.get())), wish).unwrap();
        assert_eq!(disk.mode().is_direct, wish.block_size() >= 4096, "blocks of {}", wish.block_size());
        assert_eq!(disk.geometry().write_durable(), disk.mode().is_direct);
        disk
    });
}

#[test]
fn a_file_disk_in_memory_conforms_through_the_page_cache() {
    conforms(&need!(LoopFs::mount(FsKind::Tmpfs, 64 << 20)), BUFFERED);
}

#[test]
fn a_raw_device_conforms_and_has_no_durable_write() {
    for (sector_size, block_size, is_direct) in
        [(512, 512, true), (512, 4096, true), (4096, 4096, true), (4096, 65_536, true), (4096, 512, false)]
    {
        let device = need!(LoopDevice::attach(1 << 20, sector_size));
        let case = format!("sectors of {sector_size}, blocks of {block_size}");
        let disk = disk(device.path(), Access::ReadWrite, block_size);
        assert_eq!(disk.mode(), DiskMode { medium: DiskMedium::BlockDevice, is_direct }, "{case}");
        let geometry = disk.geometry();
        assert_eq!((geometry.byte_len(), geometry.write_durable()), (1 << 20, false), "{case}");
        block_device(|_| &disk);
        // What was written is in the image behind it, and a reader needs no claim to see it.
        disk.write(BlockIndex::ZERO, &vec![9; usize::try_from(block_size).unwrap()]).unwrap();
        disk.flush().unwrap();
        assert_eq!(std::fs::read(device.image()).unwrap()[..512], [9; 512], "{case}");
        let reader = self::disk(device.path(), Access::Read, block_size);
        let mut found = vec![0; usize::try_from(block_size).unwrap()];
        reader.read(BlockIndex::ZERO, &mut found).unwrap();
        assert!(found.iter().all(|&byte| byte == 9), "{case}");
    }
}

#[test]
fn a_raw_device_has_one_writer_whatever_name_it_uses() {
    let device = need!(LoopDevice::attach(1 << 20, 512));
    let first = disk(device.path(), Access::ReadWrite, 4096);
    for access in [Access::ReadWrite, Access::Write] {
        let refused = open(device.path(), access).unwrap_err();
        assert_eq!(Reason::of(&refused), Reason::Busy, "{access:?}");
    }
    // Another node of the same device.
    let scratch = need!(testbed::Scratch::new());
    let node = scratch.path().join("node");
    let number = rustix::fs::stat(device.path()).unwrap().st_rdev;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::BlockDevice, mode, number).unwrap();
    // Not where devices are switched off for the file system of temporary files.
    let reader = open(&node, Access::Read).map_err(|e| Missing::new(format!("no second node: {e}")));
    drop(need!(reader));
    let refused = open(&node, Access::ReadWrite).unwrap_err();
    assert_eq!(Reason::of(&refused), Reason::Busy);
    drop(first);
    drop(crate::one_writer::soon(|| open(device.path(), Access::ReadWrite)));
}

#[test]
fn a_mounted_device_is_busy_for_a_writer() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let source = media::describe_mount(fs.root()).unwrap().source;
    let refused = open(source.as_ref(), Access::ReadWrite).unwrap_err();
    assert_eq!(Reason::of(&refused), Reason::Busy, "{source}");
}

/// Without the claim there could be two writers.
#[test]
fn a_raw_device_that_was_opened_like_a_file_is_no_disk() {
    let device = need!(LoopDevice::attach(1 << 20, 512));
    let name = device.path().file_name().unwrap();
    for access in [Access::Read, Access::ReadWrite] {
        let file = dir(device.path().parent().unwrap()).open(name, access).unwrap();
        let error = FileDisk::open(file, 4096).unwrap_err();
        assert!(matches!(error, FileDiskError::NotRegular { kind: FileKind::Other }), "{error:?}");
    }
}

/// One handle, tried with several block sizes, as one does who looks for the right one.
#[test]
fn the_way_follows_the_block_size_of_the_last_open() {
    let device = need!(LoopDevice::attach(1 << 20, 4096));
    let file = open(device.path(), Access::ReadWrite).unwrap();
    for (block_size, is_direct) in [(4096, true), (512, false), (2048, false), (8192, true), (1024, false)] {
        let disk = FileDisk::open(Arc::clone(&file), block_size).unwrap();
        assert_eq!(disk.mode().is_direct, is_direct, "blocks of {block_size}");
        let bytes = vec![u8::try_from(block_size / 512).unwrap(); usize::try_from(block_size).unwrap()];
        disk.write(BlockIndex::new(1), &bytes).unwrap();
        let mut found = vec![0; bytes.len()];
        disk.read(BlockIndex::new(1), &mut found).unwrap();
        assert_eq!(found, bytes);
    }
}

/// Written past the cache and read through it, and the other way round.
#[test]
fn both_ways_see_the_same_file() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 64 << 20));
    let direct =
        FileDisk::create(&*dir(fs.root()), OsStr::new("disk"), Geometry::new(4096, 8).unwrap()).unwrap();
    assert_eq!(direct.mode(), DIRECT);
    let plain = dir(fs.root()).open(OsStr::new("disk"), Access::ReadWrite).unwrap();
    let mut found = [0; 4096];
    for round in 1..=3 {
        direct.write(BlockIndex::new(2), &[round; 4096]).unwrap();
        assert_eq!(plain.read_at(2 * 4096, &mut found).unwrap(), 4096);
        assert_eq!(found, [round; 4096]);
        assert_eq!(plain.write_at(2 * 4096, &[round + 100; 4096]).unwrap(), 4096);
        direct.read(BlockIndex::new(2), &mut found).unwrap();
        assert_eq!(found, [round + 100; 4096]);
    }
}

/// How many pages of a file are cached, as `fincore` tells.
fn cached_bytes(path: &Path) -> Result<u64, Missing> {
    let said = testbed::run("fincore", &[OsStr::new("-nbo"), OsStr::new("RES"), path.as_os_str()])?;
    said.trim().parse().map_err(|_| Missing::new(format!("fincore says {said:?}")))
}

#[test]
fn what_is_flushed_can_be_forgotten_and_past_the_cache_nothing_is_cached() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 64 << 20));
    let geometry = Geometry::new(4096, 64).unwrap();
    drop(FileDisk::create(&*dir(fs.root()), OsStr::new("disk"), geometry).unwrap());
    let path = fs.root().join("disk");
    let file = open(&path, Access::ReadWrite).unwrap();
    file.sync_data().unwrap();
    file.forget_cached().unwrap();
    assert_eq!(need!(cached_bytes(&path)), 0, "a handle that goes through the cache");
    assert_eq!(file.read_at(0, &mut [0; 4096]).unwrap(), 4096);
    assert!(need!(cached_bytes(&path)) > 0, "the control: it has been read through the cache");
    file.forget_cached().unwrap();

    let disk = FileDisk::open(file, 4096).unwrap();
    assert_eq!(disk.mode(), DIRECT);
    disk.write(BlockIndex::ZERO, &[1; 65_536]).unwrap();
    disk.read(BlockIndex::ZERO, &mut [0; 65_536]).unwrap();
    assert_eq!(need!(cached_bytes(&path)), 0, "past the cache");
}
