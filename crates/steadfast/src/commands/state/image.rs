//! Images: files that hold a store. Making them, opening them to read or to write.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use journal::{JournalError, Layout};
use media::{Access, BlockDevice as _, Dir, File, FileDisk, FileDiskError, Geometry, LockWait, Reason};
use statefs::{Error, ErrorKind, Options, Recovery, Store, StoreId, Verdict};

use crate::commands::parent_and_name;
use crate::failure::{Failure, Outcome, StateTrouble};
use crate::medium::Medium;
use crate::output::Output;

/// The block sizes there are, the usual one first.
const BLOCK_SIZES: [u32; 8] = [4096, 512, 1024, 2048, 8192, 16_384, 32_768, 65_536];

/// An image that is there.
pub(super) struct Image<'p> {
    path: &'p Path,
    file: Arc<dyn File>,
}

/// Opens an image, without a lock.
pub(super) fn open<'p>(medium: &Medium, path: &'p Path, access: Access) -> Outcome<Image<'p>> {
    let (dir, name) = place(medium, path)?;
    let file = dir.open(name, access).map_err(|error| match Reason::of(&error) {
        Reason::SymlinkLoop => Failure::Usage {
            message: format!("`{}` is a symbolic link", path.display()),
            hint: Some("name the file that it leads to".to_owned()),
        },
        _ => Failure::io("opening the image", path, error),
    })?;
    Ok(Image { path, file })
}

/// Opens the store of an image to be read, beside whoever writes it.
pub(super) fn reader(medium: &Medium, path: &Path) -> Outcome<(Store<FileDisk>, Recovery)> {
    open(medium, path, Access::Read)?.with_disk(|disk| Store::open(disk, statefs::Access::Read))
}

/// Takes the lock of an image, and opens its store to be written.
pub(super) fn writer(medium: &Medium, path: &Path) -> Outcome<Store<FileDisk>> {
    let image = open(medium, path, Access::ReadWrite)?;
    lock(path, &*image.file)?;
    let (store, recovery) = image.with_disk(|disk| Store::open(disk, statefs::Access::Write))?;
    match (recovery.tail, recovery.read_only) {
        (Verdict::Damaged { .. }, _) => Err(Failure::state(path, StateTrouble::Damaged)),
        (_, Some(why)) => Err(Failure::state(path, StateTrouble::ReadOnly(why))),
        (_, None) => Ok(store),
    }
}

impl Image<'_> {
    /// Tries the block sizes until a superblock is found, which tells the right one.
    pub(super) fn with_disk<T>(&self, mut attempt: impl FnMut(FileDisk) -> Result<T, Error>) -> Outcome<T> {
        let fail = |trouble: StateTrouble| Failure::state(self.path, trouble);
        let mut first: Option<StateTrouble> = None;
        for block_size in BLOCK_SIZES {
            if !self.may_have_blocks_of(block_size)? {
                continue;
            }
            let (trouble, told) = match self.attempt(block_size, &mut attempt) {
                Ok(done) => return Ok(done),
                Err(trouble) => {
                    let told = told_block_size(&trouble);
                    (trouble, told)
                }
            };
            match (told, &trouble) {
                (Some(told), _) if told != block_size => {
                    return self.attempt(told, &mut attempt).map_err(fail);
                }
                (None, StateTrouble::Disk(FileDiskError::Length { .. })) => {}
                (None, StateTrouble::Store(error)) if is_no_root(error) => {}
                _ => return Err(fail(trouble)),
            }
            // That blocks of a store were seen says more than that none were.
            let says_more = matches!(&trouble, StateTrouble::Store(e) if e.kind() == ErrorKind::Corrupt);
            if first.is_none() || says_more {
                first = Some(trouble);
            }
        }
        Err(first.map_or_else(
            || Failure::not_so(format!("`{}` is too short to hold a store", self.path.display())),
            fail,
        ))
    }

    /// A store has four superblocks, so a file of fewer blocks holds none of this block size.
    fn may_have_blocks_of(&self, block_size: u32) -> Outcome<bool> {
        let found = self.file.metadata().map_err(|e| Failure::io("examining the image", self.path, e))?;
        Ok(found.len >= u64::from(block_size) * 4)
    }

    /// As a disk with blocks of a size that is known.
    pub(super) fn disk(&self, block_size: u32) -> Outcome<FileDisk> {
        FileDisk::open(Arc::clone(&self.file), block_size).map_err(|error| Failure::state(self.path, error))
    }

    fn attempt<T>(
        &self,
        block_size: u32,
        attempt: &mut impl FnMut(FileDisk) -> Result<T, Error>,
    ) -> Result<T, StateTrouble> {
        let disk = FileDisk::open(Arc::clone(&self.file), block_size)?;
        Ok(attempt(disk)?)
    }
}

fn told_block_size(trouble: &StateTrouble) -> Option<u32> {
    let StateTrouble::Store(Error::Journal(error)) = trouble else { return None };
    match **error {
        JournalError::WrongDevice { block_size, .. } => Some(block_size),
        _ => None,
    }
}

/// No superblock was found where they are with blocks of this size.
fn is_no_root(error: &Error) -> bool {
    matches!(error, Error::Journal(error)
        if matches!(**error, JournalError::NoStore | JournalError::SuperblocksLost))
}

/// Makes a file of zeros that can hold a store, with its lock held; `fill` makes the store. If that fails, the file is
/// removed again.
pub(super) fn create<T>(
    medium: &Medium,
    output: &Output,
    path: &Path,
    geometry: Geometry,
    fill: impl FnOnce(&FileDisk, &Options) -> Result<T, Error>,
) -> Outcome<T> {
    let options = Options::new(new_store_id(medium)?);
    let fits = Layout::of(geometry, options.journal).map_err(JournalError::from).map_err(Error::from);
    fits.map_err(|error| Failure::state(path, error))?;
    let (dir, name) = place(medium, path)?;
    let disk = FileDisk::create(&*dir, name, geometry).map_err(|error| Failure::state(path, error))?;
    let made = lock(path, &**disk.file())
        .and_then(|()| fill(&disk, &options).map_err(|error| Failure::state(path, error)));
    if made.is_err()
        && let Err(error) = dir.unlink(name).and_then(|()| dir.sync())
    {
        output.warn(format_args!("the unfinished `{}` could not be removed: {error}", path.display()))?;
    }
    made
}

/// The geometry of an image, if there is one of that size.
pub(super) fn geometry(size: u64, block_size: u32) -> Outcome<Geometry> {
    let _valid = Geometry::new(block_size, 1).map_err(|_| Failure::Usage {
        message: format!("there are no blocks of {block_size} bytes"),
        hint: Some("a block has 512, 1024, 2048, … or 65536 bytes".to_owned()),
    })?;
    let whole = size.is_multiple_of(u64::from(block_size));
    let count = size / u64::from(block_size);
    Geometry::new(block_size, count).ok().filter(|_| whole).ok_or_else(|| Failure::Usage {
        message: format!("{size} bytes are not a whole number of blocks of {block_size} bytes"),
        hint: Some("take a size such as 16MiB".to_owned()),
    })
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

fn lock(path: &Path, file: &dyn File) -> Outcome<()> {
    file.lock(LockWait::DoNotWait).map_err(|error| match Reason::of(&error) {
        Reason::WouldBlock => Failure::state(path, StateTrouble::Held),
        _ => Failure::io("taking the lock of the image", path, error),
    })
}

fn place<'p>(medium: &Medium, path: &'p Path) -> Outcome<(Arc<dyn Dir>, &'p OsStr)> {
    let (parent, name) = parent_and_name(path)?;
    let dir = medium.fs().open_dir(parent).map_err(|e| Failure::io("opening the directory", parent, e))?;
    Ok((dir, name))
}
