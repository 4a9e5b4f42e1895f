//! Power cuts on real file systems: what is left when nothing more reaches the medium, and the recovery of the
//! file system has run.
//!
//! The medium is an image in memory behind a loop device. Whatever the file system has submitted and completed is in
//! the image; whatever it still holds back (dirty pages, a journal that is not committed, a log that is not forced)
//! is lost. So this is a device **without a volatile cache of its own**: it tells what file systems hold back and
//! in which order they let go, not what a disk does with blocks that were written and not flushed.
//!
//! - ext4 and XFS are shut down by the call that their own tests use for it, without a flush of the log.
//! - btrfs knows no such call: its image is copied while it is mounted and idle, and the copy takes its place.
//!
//! The image is on a tmpfs of its own, below the [`Scratch`]: barriers cost no time on a real disk, copies are quick,
//! and the next run sweeps it up if this one is killed.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use media::doubles::{Call, Listener, Op};
use media::{Clock as _, SystemClock};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::mounts::{take_slot, unmount};
use crate::processes::next_number;
use crate::scratch::Scratch;
use crate::{FsKind, Missing, programs, root, run};

/// For how long a file system that is in use is waited for. A child that another thread is just starting holds our
/// handles until it runs its program.
const BUSY_MS_MAX: u64 = 1_000;

/// The file systems whose power can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CutKind {
    /// ext4 as it comes: a file renamed over another has its data allocated at once.
    Ext4,
    /// ext4 without that courtesy.
    Ext4NoAutoDaAlloc,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl CutKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ext4, Self::Ext4NoAutoDaAlloc, Self::Xfs, Self::Btrfs];

    fn fs(self) -> FsKind {
        match self {
            Self::Ext4 | Self::Ext4NoAutoDaAlloc => FsKind::Ext4,
            Self::Xfs => FsKind::Xfs,
            Self::Btrfs => FsKind::Btrfs,
        }
    }

    /// What `mkfs` accepts; sparse, so that only the log of XFS takes memory.
    fn image_size(self) -> u64 {
        match self {
            Self::Ext4 | Self::Ext4NoAutoDaAlloc => 16 << 20,
            Self::Xfs => 300 << 20,
            Self::Btrfs => 128 << 20,
        }
    }

    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // Blocks of one page, as on any disk of today (`mkfs` takes smaller ones for small images), and nothing
            // that a kernel thread would fill in later.
            Self::Ext4 | Self::Ext4NoAutoDaAlloc => (
                "mkfs.ext4",
                &["-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        }
    }

    /// Commits by the clock are put off, so that only what a test does moves data to the medium. (XFS forces its log
    /// every 30 seconds; a test is quicker.)
    fn mount_options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,commit=300",
            Self::Ext4NoAutoDaAlloc => "loop,commit=300,noauto_da_alloc",
            Self::Xfs => "loop",
            Self::Btrfs => "loop,commit=300,nodiscard",
        }
    }
}

impl fmt::Display for CutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ext4 => "ext4",
            Self::Ext4NoAutoDaAlloc => "ext4 noauto_da_alloc",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        })
    }
}

/// What happens last before the lights go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Nothing.
    Now,
    /// Another program syncs a file of its own and the directory of that. It moves the file system's journal or log on,
    /// and with it, perhaps, names and sizes whose data was never asked to be durable.
    AfterForeignSync,
}

impl Cut {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Now, Self::AfterForeignSync];
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Now => "now",
            Self::AfterForeignSync => "after a foreign sync",
        })
    }
}

/// A mounted file system whose power can be cut. Unmounted and deleted when dropped.
#[derive(Debug)]
pub struct CutFs {
    kind: CutKind,
    mount_point: PathBuf,
    /// The tmpfs with the images.
    store: PathBuf,
    /// Declared before the slot: fields are dropped in this order, and the next in the queue may then mount.
    _scratch: Scratch,
    _slot: File,
}

impl CutFs {
    /// Makes and mounts one, with an empty directory for the test. Waits while [`crate::MOUNTS_MAX`] others are
    /// mounted; a thread that holds one must not ask for a second, or two of them may wait for each other.
    ///
    /// # Errors
    /// [`Missing`] without root, the programs or the kernel's support.
    pub fn mount(kind: CutKind) -> Result<Self, Missing> {
        root()?;
        let (mkfs, mkfs_args) = kind.mkfs();
        programs(&[mkfs, "mount", "cp", "xfs_io"])?;
        let slot = take_slot().map_err(|e| Missing::new(format!("no slot for a mount: {e}")))?;
        let scratch = Scratch::new()?;
        let store = scratch.beside("store");
        std::fs::create_dir(&store).map_err(|e| Missing::new(format!("no directory for images: {e}")))?;
        let fs = Self { kind, mount_point: scratch.path(), store, _scratch: scratch, _slot: slot };
        run("mount", &[OsStr::new("-t"), OsStr::new("tmpfs"), OsStr::new("tmpfs"), fs.store.as_os_str()])?;
        File::create_new(fs.image())
            .and_then(|file| file.set_len(kind.image_size()))
            .map_err(|e| Missing::new(format!("no image: {e}")))?;
        let image = fs.image();
        run(mkfs, &mkfs_args.iter().map(OsStr::new).chain([image.as_os_str()]).collect::<Vec<_>>())?;
        fs.mount_image()?;
        let keep_pristine = || {
            std::fs::create_dir(fs.path())?;
            std::fs::create_dir(fs.foreign())?;
            fs.unmount_for_good()?;
            copy(&image, &fs.pristine())
        };
        keep_pristine().map_err(|e| Missing::new(format!("no empty {kind}: {e}")))?;
        fs.mount_image()?;
        Ok(fs)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> CutKind {
        self.kind
    }

    /// The directory for the test, the same after every cut. Empty and durable at first, and only the test writes
    /// below it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.mount_point.join("test")
    }

    /// Makes everything so far durable.
    ///
    /// # Errors
    /// Of the file system.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.mount_point)?)?)
    }

    /// Moves these bytes of a file below [`CutFs::path`] to the medium and waits for it, as the kernel may do at any
    /// time; neighbours that share a folio of the page cache go with them. Nothing is committed: sizes, names and the
    /// places of the data stay as durable as they were.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write_back(&self, file: &Path, bytes: Range<u64>) -> io::Result<()> {
        let len = bytes.end.saturating_sub(bytes.start);
        // Two commands: of two flags in one, `xfs_io` passes on only the last.
        let [write, wait] = ["-w", "-a"].map(|flag| format!("sync_range {flag} {} {len}", bytes.start));
        let args = ["-F", "-c", &write, "-c", &wait].map(OsStr::new);
        run("xfs_io", &[&args[..], &[file.as_os_str()]].concat()).map(drop).map_err(io::Error::other)
    }

    /// Cuts the power, and mounts what is left: recovery has run, and the file system can be written to. Everything
    /// opened below [`CutFs::path`] must have been closed.
    ///
    /// # Errors
    /// Of the file system; `EBUSY` if something is still open. After an error only [`CutFs::reset`] may be called.
    pub fn cut(&mut self, how: Cut) -> io::Result<()> {
        match how {
            Cut::Now => {}
            Cut::AfterForeignSync => self.foreign_sync()?,
        }
        match self.kind {
            CutKind::Ext4 | CutKind::Ext4NoAutoDaAlloc | CutKind::Xfs => {
                self.shut_down()?;
                self.unmount_for_good()?;
            }
            CutKind::Btrfs => {
                // Two mounted file systems with the same id would be taken for one.
                let left = self.store.join("left");
                copy(&self.image(), &left)?;
                self.unmount_for_good()?;
                move_over(&left, &self.image())?;
            }
        }
        self.mount_image().map_err(io::Error::other)
    }

    /// Empties the file system, as after [`CutFs::mount`].
    ///
    /// # Errors
    /// As [`CutFs::cut`].
    pub fn reset(&mut self) -> io::Result<()> {
        self.unmount_for_good()?;
        // A file of its own and not the old one with new bytes: nobody can have a cached block of it.
        std::fs::remove_file(self.image())?;
        copy(&self.pristine(), &self.image())?;
        self.mount_image().map_err(io::Error::other)
    }

    fn image(&self) -> PathBuf {
        self.store.join("image")
    }

    fn pristine(&self) -> PathBuf {
        self.store.join("pristine")
    }

    /// A directory of its own: syncing the test's would be more than a foreign program does.
    fn foreign(&self) -> PathBuf {
        self.mount_point.join("foreign")
    }

    fn mount_image(&self) -> Result<(), Missing> {
        let args = ["-t", self.kind.fs().fs_type(), "-o", self.kind.mount_options()].map(OsStr::new);
        let image = self.image();
        run("mount", &[&args[..], &[image.as_os_str(), self.mount_point.as_os_str()]].concat()).map(drop)
    }

    fn foreign_sync(&self) -> io::Result<()> {
        let mut file = File::create_new(self.foreign().join(next_number().to_string()))?;
        file.write_all(&[b'f'; 4096])?;
        rustix::fs::fsync(&file)?;
        Ok(rustix::fs::fsync(File::open(self.foreign())?)?)
    }

    /// From here on, nothing goes to the medium. `-F`: the file system may be a foreign one to `xfs_io`, ext4. Without
    /// `-f` the log is not flushed.
    fn shut_down(&self) -> io::Result<()> {
        let args = ["-x", "-F", "-c", "shutdown"].map(OsStr::new);
        run("xfs_io", &[&args[..], &[self.mount_point.as_os_str()]].concat())
            .map(drop)
            .map_err(io::Error::other)
    }

    /// Unmounts, and not only from sight: the same image is mounted next. No error if nothing is mounted.
    fn unmount_for_good(&self) -> io::Result<()> {
        let clock = SystemClock::new();
        for _ in 0..BUSY_MS_MAX {
            match rustix::mount::unmount(&self.mount_point, UnmountFlags::NOFOLLOW) {
                // `EINVAL`: not a mount point.
                Ok(()) | Err(Errno::INVAL) => return Ok(()),
                Err(Errno::BUSY) => clock.sleep(Duration::from_millis(1)),
                Err(e) => return Err(e.into()),
            }
        }
        Err(Errno::BUSY.into())
    }
}

impl Drop for CutFs {
    fn drop(&mut self) {
        // If it fails, the directory's own clean-up tries again, and after it the next run. The image first: its loop
        // device holds the tmpfs.
        drop(unmount(&self.mount_point));
        drop(unmount(&self.store));
    }
}

/// By a program: it leaves out the holes, and XFS has 300 MiB of them.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let args = ["--reflink=auto", "--sparse=auto"].map(OsStr::new);
    run("cp", &[&args[..], &[from.as_os_str(), to.as_os_str()]].concat()).map(drop).map_err(io::Error::other)
}

fn move_over(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, renameat};
    Ok(renameat(CWD, from, CWD, to)?)
}

/// Stops a program at a call: lets calls through until the one number `at` (from 0) of those that can change what is
/// on the medium. That one and every later call, reading ones included, fail with `EIO` and are not carried out. So
/// what the program did before `at` has happened, and nothing else, whatever it does about the errors.
///
/// A run in which [`PullThePlug::pulled`] is `None` came to its end: there are no more calls to stop at.
#[derive(Debug)]
pub struct PullThePlug {
    at: usize,
    seen: AtomicUsize,
    pulled: Mutex<Option<Call>>,
}

impl PullThePlug {
    /// Lets `at` calls through.
    #[must_use]
    pub fn before(at: usize) -> Self {
        Self { at, seen: AtomicUsize::new(0), pulled: Mutex::new(None) }
    }

    /// How many calls that can change something have been made, those that failed included.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// The call at which the program was stopped, once it was.
    #[must_use]
    pub fn pulled(&self) -> Option<Call> {
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Listener for PullThePlug {
    fn before(&self, call: &Call) -> io::Result<()> {
        // Under the lock, so that no call of another thread slips in between counting and failing.
        let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = changes_the_medium(call.op);
        let index = if counts { self.seen.fetch_add(1, Ordering::Relaxed) } else { 0 };
        if pulled.is_none() && (!counts || index < self.at) {
            return Ok(());
        }
        pulled.get_or_insert_with(|| call.clone());
        Err(Errno::IO.into())
    }
}

/// Barriers do: what was only visible becomes durable.
fn changes_the_medium(op: Op) -> bool {
    match op {
        Op::CreateExclusive
        | Op::CreateDir
        | Op::Rename
        | Op::Link
        | Op::Unlink
        | Op::SetDirMode
        | Op::DirSync
        | Op::SyncFilesystem
        | Op::WriteAt
        | Op::Append
        | Op::SetLen
        | Op::Allocate
        | Op::StartWriteback
        | Op::SetMode
        | Op::SetOwner
        | Op::SetXattr
        | Op::SyncAll
        | Op::SyncData
        | Op::WriteAtDurable
        // It starts the writing of what is dirty.
        | Op::ForgetCached => true,
        Op::OpenDir
        | Op::Umask
        | Op::Open
        | Op::OpenDisk
        | Op::AsDisk
        | Op::DiskAlias
        | Op::ReadLink
        | Op::List
        | Op::DirMetadata
        | Op::HasDefaultAcl
        | Op::Metadata
        | Op::Modified
        | Op::ReadAt
        | Op::XattrNames
        | Op::Xattr
        | Op::Lock
        | Op::Unlock => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;
    use std::sync::Arc;

    use media::doubles::TapFs;
    use media::{Access, Fs as _, Mode, OsFs};

    use super::*;
    use crate::mounts::mounted_below;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn put(file: &Path, bytes: &[u8]) {
        File::create(file).and_then(|mut file| file.write_all(bytes)).unwrap();
    }

    #[test]
    fn a_cut_takes_what_was_not_synced_and_nothing_else() {
        for kind in CutKind::ALL {
            let mut fs = crate::need!(CutFs::mount(kind));
            let dir = fs.path();
            assert_eq!(names(&dir), [""; 0], "{kind}");
            put(&dir.join("synced"), b"bytes");
            fs.sync().unwrap();
            // A file system that was cut is one like any other, and is cut again.
            for round in ["once", "twice"] {
                put(&dir.join(round), b"bytes");
                std::fs::remove_file(dir.join("synced")).unwrap();
                fs.cut(Cut::Now).unwrap();
                assert_eq!(names(&dir), ["synced"], "{kind}: {round}");
                assert_eq!(std::fs::read(dir.join("synced")).unwrap(), b"bytes", "{kind}: {round}");
            }
            put(&dir.join("more"), b"bytes");
            fs.sync().unwrap();
            fs.reset().unwrap();
            assert_eq!(names(&dir), [""; 0], "{kind}: reset");
            fs.cut(Cut::Now).unwrap();
            assert_eq!(names(&dir), [""; 0], "{kind}: reset, then cut");
        }
    }

    #[test]
    fn bytes_written_back_are_on_the_medium_and_their_file_is_not_synced() {
        let mut fs = crate::need!(CutFs::mount(CutKind::Ext4));
        let file = fs.path().join("file");
        // Page by page, so that no folio of the page cache holds two of them.
        let mut writer = File::create(&file).unwrap();
        (0..2).for_each(|_| writer.write_all(&[b'a'; 4096]).unwrap());
        fs.sync().unwrap();
        writer.rewind().unwrap();
        (0..2).for_each(|_| writer.write_all(&[b'b'; 4096]).unwrap());
        drop(writer);
        put(&fs.path().join("new"), &[b'b'; 8192]);
        fs.write_back(&file, 4096..8192).unwrap();
        fs.write_back(&fs.path().join("new"), 0..8192).unwrap();
        fs.cut(Cut::Now).unwrap();
        assert_eq!(names(&fs.path()), ["file"]);
        let found = std::fs::read(file).unwrap();
        assert!(found == [[b'a'; 4096], [b'b'; 4096]].concat(), "{} {:?}", found.len(), found.first());
    }

    #[test]
    fn what_is_still_in_use_is_not_cut_and_a_reset_makes_good() {
        let mut fs = crate::need!(CutFs::mount(CutKind::Ext4));
        let open = File::create(fs.path().join("open")).unwrap();
        assert_eq!(fs.cut(Cut::Now).unwrap_err().raw_os_error(), Some(Errno::BUSY.raw_os_error()));
        drop(open);
        fs.reset().unwrap();
        put(&fs.path().join("new"), b"");
    }

    #[test]
    fn nothing_stays_mounted() {
        let mut fs = crate::need!(CutFs::mount(CutKind::Ext4));
        fs.cut(Cut::AfterForeignSync).unwrap();
        let (store, mount_point) = (fs.store.clone(), fs.mount_point.clone());
        let above = store.parent().unwrap().to_owned();
        assert_eq!(mounted_below(&above).unwrap(), [store, mount_point]);
        drop(fs);
        assert!(!above.exists());
    }

    #[test]
    fn a_program_stops_before_the_call_at_which_the_plug_is_pulled() {
        let scratch = Scratch::new().unwrap();
        let mut stopped_at = Vec::new();
        for at in 0.. {
            let plug = Arc::new(PullThePlug::before(at));
            let fs = TapFs::new(Arc::new(OsFs), Arc::<PullThePlug>::clone(&plug));
            let name = at.to_string();
            let dir = fs.open_dir(&scratch.path()).unwrap();
            let run = || {
                let file = dir.create_exclusive(OsStr::new(&name), Mode::FILE)?;
                file.write_at(0, b"bytes")?;
                file.sync_all()?;
                dir.metadata(OsStr::new(&name))
            };
            let done = run();
            let Some(call) = plug.pulled() else {
                assert_eq!((done.unwrap().len, plug.seen()), (5, 3));
                break;
            };
            stopped_at.push(call.op);
            assert_eq!(done.unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
            assert_eq!(plug.seen(), at + 1);
            // Without power, nothing is read either.
            assert!(dir.open(OsStr::new(&name), Access::Read).is_err());
            assert!(dir.unlink(OsStr::new(&name)).is_err());
            assert_eq!(plug.pulled(), Some(call), "the first is told");
            assert_eq!(std::fs::exists(scratch.path().join(&name)).unwrap(), at > 0);
        }
        assert_eq!(stopped_at, [Op::CreateExclusive, Op::WriteAt, Op::SyncAll]);
    }
}
