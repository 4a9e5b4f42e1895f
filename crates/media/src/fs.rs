//! The file seam: [`Fs`] opens directories, [`Dir`] changes names, [`File`] changes bytes.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

mod mount;
mod os;
mod reason;

pub use mount::{MountFacts, describe_mount};
pub use os::OsFs;
pub use reason::Reason;

/// The longest file name, in bytes, that the file systems in use accept. A shorter limit shows as
/// [`Reason::NameTooLong`] when the name is used.
pub const NAME_LEN_MAX: usize = 255;

/// `name`, if it is a single component; else [`Reason::InvalidArgument`]. For implementations of [`Dir`].
///
/// # Errors
/// See above.
pub fn single_component(name: &OsStr) -> io::Result<&OsStr> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a name must be a single path component")),
    }
}

/// Writes all of `bytes` at `offset`: short writes are continued, interruptions repeated. A write that takes nothing is an error.
///
/// # Durability
/// None, as [`File::write_at`].
///
/// # Errors
/// As [`File::write_at`]: a part may have been written.
pub fn write_all_at(file: &dyn File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = match file.write_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => count,
            Err(e) if Reason::of(&e) == Reason::Interrupted => continue,
            Err(e) => return Err(e),
        };
        bytes = bytes.get(count..).unwrap_or(&[]);
        offset += u64::try_from(count).map_err(io::Error::other)?;
    }
    Ok(())
}

/// A file system: where directories are opened.
///
/// # The power-loss contract
///
/// File data, file size, file attributes, each directory entry and each rename are **separate effects**. An
/// effect that no barrier covers may, after a power cut, be there or not, independently of every other effect:
/// a size without its data (which then reads as zeros), a name without its file's bytes, the second of two
/// renames without the first. Data that was overwritten several times since the last barrier may come back in
/// any of those versions.
///
/// The barriers and what each covers, once it has returned `Ok`:
///
/// | barrier | makes durable | does not |
/// |---|---|---|
/// | [`File::sync_all`] | all data, the size and the attributes written through any handle of that file before the call | the file's **name** |
/// | [`File::sync_data`] | the same data, and the size where it is needed to read it back | attributes, names |
/// | [`Dir::sync`] | every entry added, removed or renamed in this directory before the call, and the directory's own mode | the bytes of the files it names |
/// | [`Dir::sync_filesystem`] | everything on the file system | |
///
/// A rename is **atomic**: an observer, and a power cut, sees the old or the new binding, never neither and
/// never half. It is not durable until the directory is synced (both directories, where they differ). Where they
/// differ and only the new one has been synced, a power cut may leave the file under **both** names: btrfs does.
///
/// A barrier that **fails** leaves everything it should have covered unknown: the kernel may have marked the
/// pages clean, so a second call proves nothing. Callers do not retry barriers.
///
/// Errors are [`std::io::Error`]s that carry the operating system's code wherever it gave one; [`Reason::of`]
/// classifies them. Calls interrupted by a signal are repeated here, except for the barriers and for those that
/// add, remove or move names: nobody can tell how far these came, so their `EINTR` is reported.
pub trait Fs: Any + Send + Sync + fmt::Debug {
    /// Opens the directory at `path`, following symbolic links.
    ///
    /// # Errors
    /// [`Reason::NotFound`], [`Reason::NotDirectory`], [`Reason::PermissionDenied`] and their kin.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>>;

    /// The mode bits that this process wants cleared on new files, read without changing them.
    ///
    /// # Errors
    /// Where the platform cannot tell without a race.
    fn umask(&self) -> io::Result<Mode>;

    /// Announces a named point (`after_prepare`). Does nothing on a real medium; recorders, simulators and
    /// failpoints listen.
    fn mark(&self, _point: &'static str) {}
}

/// An open directory. All names are single components relative to it, so nothing is resolved twice; a name that
/// holds a `/`, or is empty, `.` or `..`, is refused with [`Reason::InvalidArgument`].
pub trait Dir: Any + Send + Sync + fmt::Debug {
    /// Opens a directory by a path relative to this one (or absolute), following symbolic links.
    ///
    /// # Errors
    /// As [`Fs::open_dir`].
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>>;

    /// Creates `name` and opens it for reading and writing; fails if anything, a dangling symbolic link
    /// included, has that name. The mode is `mode` less the process's umask, from the first instant on.
    ///
    /// # Durability
    /// None: entry, size and data are separate effects, each with its own barrier.
    ///
    /// # Errors
    /// [`Reason::AlreadyExists`], [`Reason::DiskFull`] (entries need space too), [`Reason::ReadOnly`], …
    fn create_exclusive(&self, name: &OsStr, mode: Mode) -> io::Result<Arc<dyn File>>;

    /// Opens an existing `name`. Never follows a symbolic link in the last component
    /// ([`Reason::SymlinkLoop`]), never truncates, never blocks on a FIFO.
    ///
    /// # Errors
    /// [`Reason::NotFound`], [`Reason::SymlinkLoop`], [`Reason::PermissionDenied`], …
    fn open(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn File>>;

    /// Opens an existing `name` for use as a disk, as [`Dir::open`] does. It may be a block device too: for writing it
    /// is then **claimed**, so that no other opener for writing that claims it, and no mount, gets it before this handle
    /// is gone, whatever name it uses. Opening for reading claims nothing and is refused by no claim.
    ///
    /// A symbolic link in the last component is followed **to a block device only**: names such as
    /// `/dev/disk/by-id/...` and `/dev/mapper/...` are links. A link to a regular file stays refused, because a
    /// writer that follows it writes a file that somebody else chose.
    ///
    /// An implementation without block devices opens as [`Dir::open`] does, which is the default here.
    ///
    /// # Errors
    /// As [`Dir::open`]; [`Reason::Busy`]: the block device is claimed by another handle or mounted.
    fn open_disk(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn File>> {
        self.open(name, access)
    }

    /// Creates a directory with `mode` less the umask.
    ///
    /// # Durability
    /// None before [`Dir::sync`] of **this** directory.
    ///
    /// # Errors
    /// [`Reason::AlreadyExists`], …
    fn create_dir(&self, name: &OsStr, mode: Mode) -> io::Result<()>;

    /// Renames `from` in this directory to `to` in `to_dir`, atomically, as `how` says. Where both are names of the
    /// same file (hard links), nothing happens and both stay.
    ///
    /// # Durability
    /// None before both directories are synced. Until then a power cut leaves the old or the new binding; with only
    /// `to_dir` synced, perhaps both names.
    ///
    /// # Errors
    /// [`Reason::CrossDevice`], [`Reason::AlreadyExists`] (with [`RenameMode::NoReplace`]),
    /// [`Reason::Busy`] (a mount point), [`Reason::Unsupported`] (the mode), …
    /// `EIO` and `EINTR` do not say whether the rename took place.
    fn rename(&self, from: &OsStr, to_dir: &dyn Dir, to: &OsStr, how: RenameMode) -> io::Result<()>;

    /// Gives the file `from` the second name `to` in this directory; fails if `to` exists.
    ///
    /// # Durability
    /// None before [`Dir::sync`].
    ///
    /// # Errors
    /// [`Reason::AlreadyExists`], [`Reason::Unsupported`] or [`Reason::PermissionDenied`] where the file
    /// system has no hard links.
    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Removes the name of a file (not of a directory). Open handles stay usable.
    ///
    /// # Durability
    /// None before [`Dir::sync`]: the name may come back after a power cut, with the file behind it.
    ///
    /// # Errors
    /// [`Reason::NotFound`], [`Reason::IsDirectory`], …
    fn unlink(&self, name: &OsStr) -> io::Result<()>;

    /// Where the symbolic link `name` points.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if `name` is not a symbolic link.
    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf>;

    /// Calls `each` for every entry but `.` and `..`, in no particular order, until it breaks.
    ///
    /// # Errors
    /// Of reading the directory.
    fn list(&self, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> io::Result<()>;

    /// Facts about the entry `name`, of a symbolic link itself and not of what it points to.
    ///
    /// # Errors
    /// [`Reason::NotFound`], …
    fn metadata(&self, name: &OsStr) -> io::Result<Metadata>;

    /// Facts about this directory.
    ///
    /// # Errors
    /// Of the underlying call.
    fn dir_metadata(&self) -> io::Result<Metadata>;

    /// Whether what is created here gets rights that its mode alone does not tell (a default ACL). Where it does
    /// not, [`Dir::create_exclusive`] is never wider than the mode it is given.
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where the platform has such rights and does not tell.
    fn has_default_acl(&self) -> io::Result<bool>;

    /// Sets the permission bits of this directory.
    ///
    /// # Errors
    /// Of the underlying call.
    fn set_dir_mode(&self, mode: Mode) -> io::Result<()>;

    /// The directory barrier: makes every entry added, removed or renamed here before the call durable.
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where directories cannot be synced: then names are as durable as the file
    /// system pleases. Any other error means that the entries' durability is unknown.
    fn sync(&self) -> io::Result<()>;

    /// Makes everything on the file system of this directory durable, other programs' data included, and
    /// waits for it.
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where there is no such call.
    fn sync_filesystem(&self) -> io::Result<()>;

    /// As [`Fs::mark`].
    fn mark(&self, _point: &'static str) {}
}

/// An open file. Methods take `&self`: a handle may be shared, and the offsets are explicit.
pub trait File: Any + Send + Sync + fmt::Debug {
    /// Facts about the file.
    ///
    /// # Errors
    /// Of the underlying call.
    fn metadata(&self) -> io::Result<Metadata>;

    /// When the data last changed. A call of its own, because on some systems looking at times costs a later write.
    ///
    /// # Errors
    /// Of the underlying call.
    fn modified(&self) -> io::Result<Timestamp>;

    /// Reads at `offset`; returns how many bytes were read, 0 only at the end (or for an empty buffer).
    ///
    /// # Errors
    /// `EIO` for bytes the medium cannot give back.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes at `offset` and returns how many bytes were taken: **possibly fewer than given**, on a nearly
    /// full disk for example. Grows the file where needed.
    ///
    /// # Durability
    /// None before a barrier. A power cut may leave any part of it, by sector, and the new size without it.
    ///
    /// # Errors
    /// [`Reason::DiskFull`], [`Reason::QuotaExceeded`], [`Reason::IoError`], …
    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<usize>;

    /// Writes at the end as one operation with respect to other appenders, and returns how many bytes were
    /// taken. Only for files opened with [`Access::Append`].
    ///
    /// # Durability
    /// As [`File::write_at`].
    ///
    /// # Errors
    /// As [`File::write_at`].
    fn append(&self, from: &[u8]) -> io::Result<usize>;

    /// Sets the length; what is added reads as zeros.
    ///
    /// # Durability
    /// None before a barrier.
    ///
    /// # Errors
    /// Of the underlying call.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for `len` bytes from the start without changing the length, so that writing them
    /// cannot fail for lack of space (on file systems that overwrite in place).
    ///
    /// # Errors
    /// [`Reason::DiskFull`]; [`Reason::Unsupported`] where there is no such call, which callers may ignore.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Asks the system to begin writing `len` bytes at `offset` to the medium, without waiting.
    ///
    /// # Durability
    /// None at all: a hint that makes the later barrier short.
    ///
    /// # Errors
    /// Of the underlying call; callers may ignore them, a lost write shows at the barrier.
    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Sets the permission bits, set-id bits included. Not subject to the umask.
    ///
    /// # Errors
    /// [`Reason::PermissionDenied`], …
    fn set_mode(&self, mode: Mode) -> io::Result<()>;

    /// Sets owner and group.
    ///
    /// # Errors
    /// [`Reason::PermissionDenied`] without the right to give files away.
    fn set_owner(&self, owner: Owner) -> io::Result<()>;

    /// The names of the extended attributes that this process may see, POSIX ACLs among them
    /// (`system.posix_acl_access`).
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where the file system has none.
    fn xattr_names(&self) -> io::Result<Vec<OsString>>;

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// Of the underlying call; an absent attribute is an error too.
    fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>>;

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`Reason::Unsupported`], [`Reason::PermissionDenied`], [`Reason::DiskFull`], …
    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()>;

    /// The file barrier: data, size and attributes. Says nothing about the file's name.
    ///
    /// # Errors
    /// Any error means that some of what was written is lost or unknown; calling again proves nothing.
    fn sync_all(&self) -> io::Result<()>;

    /// The data barrier: data, and the size where reading it back needs it.
    ///
    /// # Errors
    /// As [`File::sync_all`].
    fn sync_data(&self) -> io::Result<()>;

    /// Makes this handle ready to be a disk with blocks of `block_size` bytes (a power of two), and says what it is as
    /// one. Where the file system allows it for such blocks, reads and writes of this handle go **past the page cache**
    /// from now on, and must then be aligned as the answer says; otherwise they go through it, unaligned ones too. Calling
    /// it again, for blocks of another size, is allowed and decides anew. Nothing is written.
    ///
    /// # Errors
    /// [`Reason::Unsupported`]: this is a file like any other, through whatever cache there is, and a block device
    /// cannot be used. Any other error is one of looking at the file.
    fn as_disk(&self, _block_size: u32) -> io::Result<DiskFacts> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes at `offset`, and returns when what was taken is durable; **possibly fewer bytes than given**, as with
    /// [`File::write_at`].
    ///
    /// # Durability
    /// `Ok`: as many bytes as the answer says are durable, and the size where reading them back needs it. **These bytes
    /// only**: what else was written is as volatile as before.
    ///
    /// # Errors
    /// [`Reason::Unsupported`]: nothing was written. Any other error leaves these bytes old, new or mixed, and says
    /// what a barrier that failed says: the system may have told with it, and so have forgotten, that something written
    /// earlier is lost. A later barrier proves nothing.
    fn write_at_durable(&self, _offset: u64, _from: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Asks the system to forget what it has cached of this file and what is no newer than the medium, so that reading it
    /// asks the medium. After a successful barrier that is everything; what another process has mapped may stay.
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where there is no such call; callers may ignore it.
    fn forget_cached(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Looks for a loop device that gives access to the same blocks as this handle. Two handles of one file
    /// exclude each other with [`File::lock`]; a loop device has a lock of its own, so a loop device and its backing
    /// file need this look as well.
    ///
    /// The default finds nothing. On Linux `/sys` is asked; where it is not mounted nothing is found. A device mapper or
    /// a second loop device between the two is not seen through.
    ///
    /// # Errors
    /// Of looking at this handle. What cannot be reached (a backing file that was removed) is not an error.
    fn disk_alias(&self) -> io::Result<DiskAlias> {
        Ok(DiskAlias::None)
    }

    /// Takes the exclusive advisory lock of this file, bound to this open handle: released by
    /// [`File::unlock`], by dropping the handle, and by the kernel when the process dies. A child made with `fork`
    /// shares the handle: the lock then lasts until both have closed it, and either can unlock it.
    ///
    /// # Errors
    /// [`Reason::WouldBlock`] with [`LockWait::DoNotWait`] while another handle holds it;
    /// [`Reason::Unsupported`] where the file system has no locks.
    fn lock(&self, wait: LockWait) -> io::Result<()>;

    /// Releases the lock.
    ///
    /// # Errors
    /// Of the underlying call.
    fn unlock(&self) -> io::Result<()>;

    /// As [`Fs::mark`].
    fn mark(&self, _point: &'static str) {}
}

/// What an open file may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// [`File::read_at`] only.
    Read,
    /// [`File::write_at`] only; what an owner without read permission may still open.
    Write,
    /// [`File::read_at`] and [`File::write_at`].
    ReadWrite,
    /// [`File::read_at`] and [`File::append`].
    Append,
}

/// What [`File::as_disk`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFacts {
    /// What holds the blocks.
    pub medium: DiskMedium,
    /// Its length in bytes. ([`File::metadata`] says 0 of a block device.)
    pub len: u64,
    /// How requests must be aligned, where they go past the page cache; `None` where they go through it.
    pub direct: Option<Alignment>,
    /// Whether [`File::write_at_durable`] is offered, and no slower than a write and [`File::sync_data`].
    pub write_durable: bool,
    /// Bytes that the file system has allocated for the file, its own notes among them; `None` where it does not say,
    /// and of a block device.
    pub allocated: Option<u64>,
}

/// Another way to the blocks of a disk, as [`File::disk_alias`] finds it.
#[derive(Debug, Clone)]
pub enum DiskAlias {
    /// None is known.
    None,
    /// This is a loop device, and the blocks are in this file, which was opened for reading. Its lock is not taken.
    Backing(Arc<dyn File>),
    /// A loop device with this name (`loop3`) is attached to this file.
    LoopDevice(OsString),
}

/// What holds the blocks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskMedium {
    /// A regular file.
    File,
    /// A block device, without a file system between.
    BlockDevice,
}

/// Of what a request past the page cache must be whole multiples. Both are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alignment {
    /// The address of its buffer; at most [`Alignment::MAX`].
    pub memory: u32,
    /// Its offset and its length.
    pub offset: u32,
}

impl Alignment {
    /// A buffer at a multiple of this is aligned for every disk.
    pub const MAX: u32 = 4096;
}

/// What a rename does when the new name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Takes its place, atomically.
    Replace,
    /// Fails with [`Reason::AlreadyExists`].
    NoReplace,
    /// The two names swap their files; both must exist.
    Exchange,
}

/// Whether taking a lock waits for its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockWait {
    /// In the kernel, for as long as it takes.
    Forever,
    /// Not at all.
    DoNotWait,
}

/// Permission and set-id bits of a file (`0o7777` at most).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(u32);

impl Mode {
    /// Readable and writable by the owner alone: `0600`.
    pub const PRIVATE: Self = Self(0o600);
    /// A directory for the owner alone: `0700`.
    pub const PRIVATE_DIR: Self = Self(0o700);
    /// What new files get before the umask: `0666`.
    pub const FILE: Self = Self(0o666);
    /// What new directories get before the umask: `0777`.
    pub const DIR: Self = Self(0o777);

    /// The permission and set-id bits of `bits`; type bits are dropped.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0o7777)
    }

    /// The bits, `0o7777` at most.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// These bits less those set in `mask`.
    #[must_use]
    pub const fn without(self, mask: Self) -> Self {
        Self(self.0 & !mask.0)
    }

    /// These bits without set-user-id and set-group-id.
    #[must_use]
    pub const fn without_set_id(self) -> Self {
        Self(self.0 & 0o1777)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mode({self})")
    }
}

/// User and group of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Which file an entry or a handle refers to, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file on it.
    pub inode: u64,
}

/// What kind of thing a name refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO, socket or anything else.
    Other,
}

/// A moment in wall-clock time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

/// Facts about a file, directory or link; its times are not among them ([`File::modified`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Which it is; `None` where the platform does not say.
    pub id: Option<FileId>,
    /// Permission bits.
    pub mode: Mode,
    /// User and group.
    pub owner: Owner,
    /// How many names it has.
    pub links: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// What it is, where the directory says so without a further look.
    pub kind: Option<FileKind>,
}
