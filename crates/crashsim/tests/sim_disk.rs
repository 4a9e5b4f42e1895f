//! The simulated block device: the contract of the seam, with the power on and off.

#![expect(
    clippy::unwrap_used,
    reason = "tests and their helpers: a panic is how they report, and clippy exempts only the former"
)]

#[path = "sim_disk/engine.rs"]
mod engine;
#[path = "sim_disk/file_disk.rs"]
mod file_disk;
#[path = "sim_disk/states.rs"]
mod states;

use crashsim::{DiskImage, Fault, Recording, SimDisk};
use media::conformance::{block_device, born_zeroed};
use media::{BlockDevice, BlockIndex, DeviceError, DeviceErrorKind, DeviceOp, Geometry};

fn geometry(block_size: u32, block_count: u64) -> Geometry {
    Geometry::new(block_size, block_count).unwrap()
}

#[test]
fn the_simulated_disk_keeps_the_contract_while_the_power_is_on() {
    let flags: [fn(Geometry) -> Geometry; 4] = [
        |plain| plain,
        Geometry::with_torn_blocks,
        Geometry::with_write_durable,
        |plain| plain.with_torn_blocks().with_write_durable(),
    ];
    for flag in flags {
        let checks = block_device(|wish| SimDisk::new(flag(wish)));
        println!("conformance: block_device {checks}/17 ok");
        assert_eq!(checks, 17);
        assert_eq!(born_zeroed(|wish| SimDisk::new(flag(wish))), 1);
        for shape in [geometry(512, 8), geometry(4096, 8)] {
            let disk = SimDisk::new(flag(shape));
            assert_eq!(block_device(|_| &disk), 17);
        }
    }
}

#[test]
fn a_disk_mounted_from_an_image_holds_it_and_resumes_what_was_visible() {
    let image = DiskImage::from_bytes(geometry(512, 4), &[7; 1024]).unwrap();
    let disk = SimDisk::mount(image.clone(), Recording::On);
    disk.write(BlockIndex::new(1), &[8; 512]).unwrap();
    disk.flush().unwrap();
    disk.write(BlockIndex::new(3), &[9; 512]).unwrap();
    let resumed = SimDisk::resume(&image, disk.trace());
    assert_eq!(resumed.image().digest(), disk.image().digest());
    resumed.flush().unwrap();
    assert_eq!(resumed.trace().len(), 4, "recording goes on in the same trace");
    let quiet = SimDisk::mount(image, Recording::Off);
    quiet.write(BlockIndex::ZERO, &[1; 512]).unwrap();
    assert!(quiet.trace().is_empty());
}

#[test]
fn a_failed_flush_is_told_and_does_not_latch() {
    let disk = SimDisk::new(geometry(512, 4));
    disk.set_faults([(1, Fault::Fail(5)), (3, Fault::FailAfter(5))]);
    disk.write(BlockIndex::ZERO, &[1; 512]).unwrap();
    let error = disk.flush().unwrap_err();
    assert!(matches!(error, DeviceError::FlushFailed { .. }), "{error:?}");
    assert_eq!(error.kind(), DeviceErrorKind::Poisoned);
    disk.write(BlockIndex::ZERO, &[2; 512]).unwrap();
    disk.flush().unwrap_err();
    disk.flush().unwrap();
    let lines: Vec<String> = disk.trace().to_string().lines().map(|line| line[7..].to_owned()).collect();
    assert_eq!(lines, ["write block 0+512", "flush FAILED", "write block 0+512", "flush", "flush"]);
}

#[test]
fn a_failed_write_leaves_nothing_all_or_some_first_sectors() {
    let faults =
        [(0, Fault::Fail(5)), (1, Fault::FailAfter(28)), (2, Fault::Short(600)), (3, Fault::Short(9))];
    let kinds = [DeviceErrorKind::Io, DeviceErrorKind::NoSpace, DeviceErrorKind::Io, DeviceErrorKind::Io];
    let disk = SimDisk::new(geometry(1024, 8).with_write_durable());
    disk.set_faults(faults);
    for (index, kind) in (0..).zip(kinds) {
        let error = disk.write_durable(BlockIndex::new(index), &[7; 1024]).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(matches!(error, DeviceError::Io { operation: DeviceOp::WriteDurable, .. }), "{error:?}");
    }
    let written = |index: u64| {
        let mut block = [0; 1024];
        disk.read(BlockIndex::new(index), &mut block).unwrap();
        block.iter().filter(|&&byte| byte == 7).count()
    };
    assert_eq!([0, 1, 2, 3].map(written), [0, 1024, 512, 0]);
    assert!(!disk.trace().to_string().contains("durable"), "what failed is not durable");

    let disk = SimDisk::new(geometry(512, 4));
    disk.set_faults([(0, Fault::Fail(5))]);
    let error = disk.read(BlockIndex::ZERO, &mut [0; 512]).unwrap_err();
    assert!(matches!(error, DeviceError::Io { operation: DeviceOp::Read, .. }), "{error:?}");
    disk.read(BlockIndex::ZERO, &mut [0; 512]).unwrap();
}
