//! Images: files and raw block devices that hold a store. Making them, opening them to read or to write.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal::probe::{self, BLOCK_SIZES};
use journal::{JournalError, Layout};
use media::{
    Access, BlockDevice as _, BlockSize, Dir, DiskMedium, File, FileDisk, FileDiskError, Geometry, LockWait,
    ProbeError, ReadAt, Reason,
};
use statefs::{Check, Error, ErrorKind, Health, Options, Recovery, Store, StoreId, Verdict, Verified};

use crate::commands::parent_and_name;
use crate::failure::{Exit, Failure, Outcome, StateTrouble};
use crate::medium::Medium;
use crate::output::Output;

/// A store has four superblocks, so what has fewer blocks holds none.
const BLOCKS_MIN: u64 = 4;

/// How often a reader looks at a store that seems damaged while somebody writes it, and how long it waits in between.
const LOOKS_MAX: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The block size that the superblocks of an image tell.
const TOLD: BlockSize<'static> = BlockSize::Probed(&told_block_size);

fn told_block_size(len: u64, read: &ReadAt<'_>) -> Result<Option<u32>, ProbeError> {
    let found = probe::probe(len, |offset, into| read(offset, into))?;
    match probe::the_one(&found) {
        Ok(one) => Ok(one.map(|one| one.block_size)),
        Err(several) => Err(ProbeError::Refused(Box::new(several))),
    }
}

/// An image that is there.
pub(super) struct Image<'p> {
    path: &'p Path,
    file: Arc<dyn File>,
}

/// Opens an image to be read, without a lock.
pub(super) fn open<'p>(medium: &Medium, path: &'p Path) -> Outcome<Image<'p>> {
    let (dir, name) = place(medium, path)?;
    let file = dir.open_disk(name, Access::Read).map_err(|error| match Reason::of(&error) {
        Reason::SymlinkLoop => is_a_link(path),
        _ => Failure::io("opening the image", path, error),
    })?;
    Ok(Image { path, file })
}

fn is_a_link(path: &Path) -> Failure {
    Failure::Usage {
        message: format!("`{}` is a symbolic link, and not one to a block device", path.display()),
        hint: Some("name the file that it leads to".to_owned()),
    }
}

/// Why an image could not be had for its one writer.
fn refused(medium: &Medium, path: &Path, error: FileDiskError) -> Failure {
    match error {
        FileDiskError::Link => is_a_link(path),
        // Which of the reasons it is, a reader finds out.
        FileDiskError::NoBlockSize { len } => match open(medium, path) {
            Ok(image) => image.no_store(len),
            Err(failure) => failure,
        },
        FileDiskError::Open { cause } => match cause.io_error().and_then(io::Error::raw_os_error) {
            Some(code) => Failure::io("opening the image", path, io::Error::from_raw_os_error(code)),
            None => Failure::state(path, FileDiskError::Open { cause }),
        },
        error => Failure::state(path, error),
    }
}

/// Opens the store of an image to be read, beside whoever writes it.
pub(super) fn reader(medium: &Medium, path: &Path) -> Outcome<(Store<FileDisk>, Recovery)> {
    let open_store = |disk| Store::open(disk, statefs::Access::Read);
    look(medium, path, Image::to_read, open_store, |(_, recovery)| {
        matches!(recovery.tail, Verdict::Damaged { .. })
    })
}

/// Opens whatever can be read of the store of an image, also without a superblock, and where the image was cut short.
pub(super) fn salvager(medium: &Medium, path: &Path) -> Outcome<Store<FileDisk>> {
    let open_store = |disk| Store::open(disk, statefs::Access::Salvage);
    let found = look(medium, path, Image::to_salvage, open_store, |(_, recovery)| {
        matches!(recovery.tail, Verdict::Damaged { .. })
    });
    found.map(|(store, _)| store)
}

/// Checks the store of an image, beside whoever writes it.
pub(super) fn check(medium: &Medium, path: &Path) -> Outcome<Check> {
    look(medium, path, Image::to_read, statefs::fsck, |check| check.health == Health::Damaged)
}

/// The same, and reads everything a second time.
pub(super) fn check_twice(medium: &Medium, path: &Path) -> Outcome<(Check, Verified)> {
    let attempt = |disk: FileDisk| {
        let check = statefs::fsck(&disk)?;
        let (store, _) = Store::open(&disk, statefs::Access::Read)?;
        Ok((check, store.verify()?))
    };
    look(medium, path, Image::to_read, attempt, |(check, verified)| {
        check.health == Health::Damaged || !verified.is_sound()
    })
}

/// Looks at an image. Somebody may be writing it: then what is read at different times need not fit together, and looks
/// like damage. So damage is believed only if it is there while nobody can write.
fn look<'p, T>(
    medium: &Medium,
    path: &'p Path,
    find: impl Fn(&Image<'p>) -> Outcome<FileDisk>,
    mut attempt: impl FnMut(FileDisk) -> Result<T, Error>,
    is_damaged: impl Fn(&T) -> bool,
) -> Outcome<T> {
    let image = open(medium, path)?;
    let mut attempt =
        || find(&image).and_then(|disk| attempt(disk).map_err(|error| Failure::state(path, error)));
    for looks_left in (0..LOOKS_MAX).rev() {
        let found = attempt();
        let is_doubtful = match &found {
            Ok(found) => is_damaged(found),
            Err(failure) => failure.exit() == Exit::Corrupt,
        };
        if !is_doubtful {
            return found;
        }
        match image.file.lock(LockWait::DoNotWait) {
            Ok(()) => {
                // A writer that comes now is told that the image is held. If there is damage, it could not write either.
                let settled = attempt();
                image.file.unlock().map_err(|e| Failure::io("releasing the lock of the image", path, e))?;
                return settled;
            }
            Err(error) if Reason::of(&error) == Reason::WouldBlock => {}
            // Without locks nobody can tell.
            Err(_) => return found,
        }
        if looks_left > 0 {
            medium.env().clock.sleep(LOOK_PAUSE);
        }
    }
    Err(Failure::state(path, StateTrouble::Live))
}

/// Takes the lock of an image, and opens its store to be written.
pub(super) fn writer(medium: &Medium, path: &Path) -> Outcome<Store<FileDisk>> {
    recovered(medium, path).map(|(store, _)| store)
}

/// The same, and what was found.
pub(super) fn recovered(medium: &Medium, path: &Path) -> Outcome<(Store<FileDisk>, Recovery)> {
    let (dir, name) = place(medium, path)?;
    let disk = FileDisk::open_locked(&*dir, name, TOLD).map_err(|error| refused(medium, path, error))?;
    let (store, recovery) =
        Store::open(disk, statefs::Access::Write).map_err(|error| Failure::state(path, error))?;
    match (recovery.tail, recovery.read_only) {
        (Verdict::Damaged { .. }, _) => Err(Failure::state(path, StateTrouble::Damaged)),
        (_, Some(why)) => Err(Failure::state(path, StateTrouble::ReadOnly(why))),
        (_, None) => Ok((store, recovery)),
    }
}

impl Image<'_> {
    /// Returns the image as a disk. Its superblocks tell the block size.
    pub(super) fn to_read(&self) -> Outcome<FileDisk> {
        match TOLD.find(&self.file) {
            Ok(block_size) => self.disk(block_size),
            Err(FileDiskError::NoBlockSize { len }) => Err(self.no_store(len)),
            Err(error) => Err(Failure::state(self.path, error)),
        }
    }

    /// The same, without the bytes at its end that are no whole block. Where no superblock tells the block size, it is the one
    /// at which there is a store.
    fn to_salvage(&self) -> Outcome<FileDisk> {
        let cut_short = |block_size| FileDisk::open_cut_short(Arc::clone(&self.file), block_size);
        let describes = |disk: &FileDisk| Store::open(disk, statefs::Access::Salvage).is_ok();
        match TOLD.find(&self.file) {
            Ok(block_size) => cut_short(block_size).map_err(|error| Failure::state(self.path, error)),
            Err(FileDiskError::NoBlockSize { len } | FileDiskError::Length { len, .. }) => {
                let mut disks = BLOCK_SIZES.into_iter().filter_map(|block_size| cut_short(block_size).ok());
                disks.find(describes).ok_or_else(|| self.no_store(len))
            }
            Err(error) => Err(Failure::state(self.path, error)),
        }
    }

    /// Says why there is no store in an image of that length. Blocks of a store without a superblock are worth saying, and
    /// where they would be depends on the block size.
    fn no_store(&self, len: u64) -> Failure {
        let mut first = None;
        for block_size in BLOCK_SIZES {
            if len / u64::from(block_size) < BLOCKS_MIN || !len.is_multiple_of(u64::from(block_size)) {
                continue;
            }
            let disk = self.open_disk(block_size).map_err(StateTrouble::from);
            match disk.and_then(|disk| Ok(statefs::fsck(disk)?)) {
                // Another process has just made it.
                Ok(_) => {}
                Err(StateTrouble::Store(error)) if error.kind() == ErrorKind::Corrupt => {
                    return Failure::state(self.path, error);
                }
                Err(trouble) => {
                    first.get_or_insert(trouble);
                }
            }
        }
        match first {
            Some(trouble) => Failure::state(self.path, trouble),
            None => Failure::not_so(format!("`{}` is too short to hold a store", self.path.display())),
        }
    }

    /// As a disk with blocks of a size that is known.
    pub(super) fn disk(&self, block_size: u32) -> Outcome<FileDisk> {
        self.open_disk(block_size).map_err(|error| Failure::state(self.path, error))
    }

    fn open_disk(&self, block_size: u32) -> Result<FileDisk, FileDiskError> {
        FileDisk::open(Arc::clone(&self.file), block_size)
    }
}

/// Overwrites a block device; `fill` makes the store. Gives its length as well.
pub(super) fn overwrite_device<T>(
    medium: &Medium,
    path: &Path,
    block_size: u32,
    fill: impl FnOnce(&FileDisk, &Options) -> Outcome<T>,
) -> Outcome<(T, u64)> {
    // Refuses a block size that there is not.
    let _valid = geometry(u64::from(block_size), block_size)?;
    let (dir, name) = place(medium, path)?;
    let disk = match FileDisk::open_locked(&*dir, name, BlockSize::Is(block_size)) {
        Ok(disk) if disk.mode().medium == DiskMedium::BlockDevice => disk,
        Ok(_) | Err(FileDiskError::NotRegular { .. }) => {
            return Err(Failure::Usage {
                message: format!("`{}` is not a block device", path.display()),
                hint: Some("without --overwrite-device, `init` makes a file".to_owned()),
            });
        }
        Err(FileDiskError::Length { len, .. }) => return Err(not_whole(len, block_size)),
        Err(error) => return Err(refused(medium, path, error)),
    };
    let options = options_for(medium, path, disk.geometry())?;
    let made = fill(&disk, &options)?;
    Ok((made, disk.geometry().byte_len()))
}

/// Makes a file of zeros that can hold a store, with its lock held; `fill` makes the store. If that fails, the file is
/// removed again.
pub(super) fn create<T>(
    medium: &Medium,
    output: &Output,
    path: &Path,
    geometry: Geometry,
    fill: impl FnOnce(&FileDisk, &Options) -> Outcome<T>,
) -> Outcome<T> {
    let options = options_for(medium, path, geometry)?;
    let (dir, name) = place(medium, path)?;
    let mut disk = FileDisk::create(&*dir, name, geometry).map_err(|error| Failure::state(path, error))?;
    let locked = disk.lock().map_err(|error| refused(medium, path, error));
    let made = locked.and_then(|()| fill(&disk, &options));
    if made.is_err()
        && let Err(error) = dir.unlink(name).and_then(|()| dir.sync())
    {
        output.warn(format_args!("the unfinished `{}` could not be removed: {error}", path.display()))?;
    }
    made
}

/// Whether the file that has the name now is the one that a store was opened in. Where the platform does not say which file is
/// which, it is taken to be.
pub(super) fn is_same_file(medium: &Medium, path: &Path, store: &Store<FileDisk>) -> Outcome<bool> {
    let (dir, name) = place(medium, path)?;
    let fail = |error| Failure::io("examining the image", path, error);
    let (here, there) = (dir.metadata(name).map_err(fail)?, store.device().file().metadata().map_err(fail)?);
    Ok(here.id == there.id)
}

/// The options of a new store, if one fits.
fn options_for(medium: &Medium, path: &Path, geometry: Geometry) -> Outcome<Options> {
    let options = Options::new(new_store_id(medium)?);
    let fits = Layout::of(geometry, options.journal).map_err(JournalError::from).map_err(Error::from);
    fits.map_err(|error| Failure::state(path, error))?;
    Ok(options)
}

/// The geometry of an image, if there is one of that size.
pub(super) fn geometry(size: u64, block_size: u32) -> Outcome<Geometry> {
    let _valid = Geometry::new(block_size, 1).map_err(|_| Failure::Usage {
        message: format!("there are no blocks of {block_size} bytes"),
        hint: Some("a block has 512, 1024, 2048, … or 65536 bytes".to_owned()),
    })?;
    let whole = size.is_multiple_of(u64::from(block_size));
    let count = size / u64::from(block_size);
    Geometry::new(block_size, count).ok().filter(|_| whole).ok_or_else(|| not_whole(size, block_size))
}

fn not_whole(size: u64, block_size: u32) -> Failure {
    Failure::Usage {
        message: format!("{size} bytes are not a whole number of blocks of {block_size} bytes"),
        hint: Some("take a size such as 16MiB, or another --block-size".to_owned()),
    }
}

/// The block size that was told when the store was made.
pub(super) fn block_size_of(store: &Store<FileDisk>) -> Outcome<u32> {
    u32::try_from(store.device().geometry().block_size())
        .map_err(|_| Failure::usage("the block size is out of range"))
}

fn new_store_id(medium: &Medium) -> Outcome<StoreId> {
    let mut id = [0; 16];
    medium.env().entropy.fill(&mut id).map_err(|e| Failure::stream("drawing the id of the store", e))?;
    Ok(StoreId(id))
}

fn place<'p>(medium: &Medium, path: &'p Path) -> Outcome<(Arc<dyn Dir>, &'p OsStr)> {
    let (parent, name) = parent_and_name(path)?;
    let dir = medium.fs().open_dir(parent).map_err(|e| Failure::io("opening the directory", parent, e))?;
    Ok((dir, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a look reads an image that is damaged the first `damaged` times, with the lock held by a writer or not; and
    /// what it says in the end.
    fn looks(damaged: u32, is_written: bool) -> (u32, Outcome<bool>) {
        let root = tempfile::tempdir().unwrap();
        let medium = Medium::from_env().unwrap();
        let dir = medium.fs().open_dir(root.path()).unwrap();
        let geometry = Geometry::new(4096, 32).unwrap();
        let disk = FileDisk::create(&*dir, "image".as_ref(), geometry).unwrap();
        let file = Arc::clone(disk.file());
        drop(Store::format(disk, &Options::new(StoreId([7; 16]))).unwrap());
        if is_written {
            file.lock(LockWait::DoNotWait).unwrap();
        }
        let mut count = 0;
        let attempt = |_| {
            count += 1;
            if !is_written && count > 1 {
                // No writer may come while it is judged for good.
                let refused = file.lock(LockWait::DoNotWait).unwrap_err();
                assert_eq!(Reason::of(&refused), Reason::WouldBlock);
            }
            Ok(count <= damaged)
        };
        let found =
            look(&medium, &root.path().join("image"), Image::to_read, attempt, |&is_damaged| is_damaged);
        if !is_written {
            file.lock(LockWait::DoNotWait).unwrap();
        }
        (count, found)
    }

    #[test]
    fn damage_is_believed_only_while_nobody_writes() {
        assert!(matches!(looks(0, false), (1, Ok(false))));
        assert!(matches!(looks(0, true), (1, Ok(false))));
        // Gone at the second look: a writer had been at it.
        assert!(matches!(looks(1, false), (2, Ok(false))));
        assert!(matches!(looks(2, false), (2, Ok(true))));
        for damaged in 1..LOOKS_MAX {
            let (count, found) = looks(damaged, true);
            assert!(matches!(found, Ok(false)), "{found:?}");
            assert_eq!(count, damaged + 1);
        }
        for damaged in [LOOKS_MAX, u32::MAX] {
            let (count, found) = looks(damaged, true);
            assert_eq!((count, found.unwrap_err().exit()), (LOOKS_MAX, Exit::Held));
        }
    }
}
