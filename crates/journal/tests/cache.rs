//! A cache that knows better than its medium, as a process leaves one behind that died after a flush had failed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::Cell;

use journal::{Access, Journal, JournalError, Limits, StoreId};
use media::{BlockDevice, BlockIndex, DeviceError, Geometry, MemDisk};

/// Reads come from the cache until it is forgotten. What it holds and the medium does not has been marked clean by the
/// flush that failed, so every later flush succeeds.
#[derive(Debug)]
struct StaleCache {
    medium: MemDisk,
    cache: MemDisk,
    is_forgotten: Cell<bool>,
}

impl BlockDevice for StaleCache {
    fn geometry(&self) -> Geometry {
        self.medium.geometry()
    }
    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        if self.is_forgotten.get() { self.medium.read(at, into) } else { self.cache.read(at, into) }
    }
    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.cache.write(at, from)?;
        self.medium.write(at, from)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn forget_cached(&self) {
        self.is_forgotten.set(true);
    }
}

/// The frames that an open for `access` hands over.
fn frames(disk: &StaleCache, access: Access) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    Journal::open(disk, access, &mut |frame| {
        frames.push(frame.body.to_vec());
        Ok::<_, JournalError>(())
    })
    .unwrap();
    frames
}

#[test]
fn what_only_the_cache_holds_after_a_failed_flush_is_not_taken_for_durable() {
    let geometry = Geometry::new(512, 40).unwrap().with_torn_blocks();
    let disk = MemDisk::new(geometry).unwrap();
    let mut journal = Journal::format(
        &disk,
        StoreId([9; 16]),
        Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 },
        b"",
    )
    .unwrap();
    let _durable = journal.commit(b"durable").unwrap();
    let medium = disk.image().unwrap();
    journal.write(b"lost").unwrap();
    let copy = |image: Vec<u8>| MemDisk::from_image(geometry, image).unwrap();
    let died = || StaleCache {
        medium: copy(medium.clone()),
        cache: copy(disk.image().unwrap()),
        is_forgotten: Cell::new(false),
    };

    // What a reader sees is visible, and not promised to be durable.
    assert_eq!(frames(&died(), Access::Read), [b"durable".to_vec(), b"lost".to_vec()]);
    let disk = died();
    assert_eq!(frames(&disk, Access::Write), [b"durable".to_vec()]);
    // The open has said so durably: it stays that way.
    assert_eq!(frames(&disk, Access::Write), [b"durable".to_vec()]);
}
