//! File systems in image files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use crate::scratch::{Scratch, base, lock_file};
use crate::{Missing, programs, root, run};

/// How many images may be mounted at a time, by all tests of this user together.
pub const MOUNTS_MAX: usize = 5;

/// The file systems that are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// ext4 with a journal.
    Ext4,
    /// ext4 without a journal.
    Ext4NoJournal,
    /// XFS; images of at least 300 MiB.
    Xfs,
    /// btrfs; images of at least 110 MiB.
    Btrfs,
    /// Memory: full and read-only as the others, and nothing survives.
    Tmpfs,
}

impl FsKind {
    /// The three that keep a journal, each with an image size that its `mkfs` accepts.
    ///
    /// # Errors
    /// [`Missing`] names the first thing that mounting them needs and that is not there.
    pub fn journalled() -> Result<[(Self, u64); 3], Missing> {
        root()?;
        programs(&["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mount"])?;
        Ok([(Self::Ext4, 64 << 20), (Self::Xfs, 300 << 20), (Self::Btrfs, 128 << 20)])
    }

    fn mkfs(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            // `-m 0`: no blocks set aside for root, who would never find the disk full otherwise.
            Self::Ext4 => Some(("mkfs.ext4", &["-q", "-F", "-m", "0"])),
            Self::Ext4NoJournal => Some(("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^has_journal"])),
            Self::Xfs => Some(("mkfs.xfs", &["-q", "-f"])),
            Self::Btrfs => Some(("mkfs.btrfs", &["-q", "-f"])),
            Self::Tmpfs => None,
        }
    }

    /// The type as `mount` names it.
    #[must_use]
    pub fn fs_type(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Ext4NoJournal => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }
}

/// What to add to the commands that make and mount a file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountOptions<'a> {
    /// Arguments of `mkfs`.
    pub mkfs_args: &'a [&'a str],
    /// Mount options, comma-separated.
    pub mount: &'a str,
}

/// A mounted file system of its own. Unmounted and deleted when dropped.
#[derive(Debug)]
pub struct LoopFs {
    kind: FsKind,
    root: PathBuf,
    scratch: Scratch,
    _slot: File,
}

impl LoopFs {
    /// Makes and mounts one. Waits while [`MOUNTS_MAX`] others are mounted.
    ///
    /// # Errors
    /// [`Missing`] without root, the programs or the kernel's support.
    pub fn mount(kind: FsKind, size: u64) -> Result<Self, Missing> {
        Self::mount_with(kind, size, MountOptions::default())
    }

    /// As [`LoopFs::mount`], with options.
    ///
    /// # Errors
    /// As [`LoopFs::mount`].
    pub fn mount_with(kind: FsKind, size: u64, options: MountOptions<'_>) -> Result<Self, Missing> {
        root()?;
        let slot = take_slot().map_err(|e| Missing::new(format!("no slot for a mount: {e}")))?;
        let scratch = Scratch::new()?;
        let root = scratch.path();
        let mut how = options.mount.to_owned();
        let mut add = |option: &str| {
            if !how.is_empty() {
                how.push(',');
            }
            how.push_str(option);
        };
        let source = match kind.mkfs() {
            Some((mkfs, fixed_args)) => {
                add("loop");
                let image = scratch.beside("image");
                File::create_new(&image)
                    .and_then(|file| file.set_len(size))
                    .map_err(|e| Missing::new(format!("no image: {e}")))?;
                let args = fixed_args.iter().chain(options.mkfs_args).map(OsStr::new);
                run(mkfs, &args.chain([image.as_os_str()]).collect::<Vec<_>>())?;
                image
            }
            None => {
                add(&format!("size={size}"));
                PathBuf::from("tmpfs")
            }
        };
        let args = ["-t", kind.fs_type(), "-o", &how].map(OsStr::new);
        run("mount", &[&args[..], &[source.as_os_str(), root.as_os_str()]].concat())?;
        Ok(Self { kind, root, scratch, _slot: slot })
    }

    /// Its root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// The image file; there is none behind [`FsKind::Tmpfs`].
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.scratch.beside("image")
    }

    /// Makes it read-only.
    ///
    /// # Errors
    /// [`Missing`], if a file is open for writing for example.
    pub fn remount_read_only(&self) -> Result<(), Missing> {
        let args = ["-o", "remount,ro"].map(OsStr::new);
        run("mount", &[&args[..], &[self.root.as_os_str()]].concat()).map(drop)
    }

    /// Takes space (not by writing: blocks are only reserved) until at most `leave` bytes are free, in the file
    /// `name`.
    ///
    /// # Errors
    /// Of the file system, other than being full.
    pub fn fill(&self, name: &str, leave: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let file = File::create(self.root.join(name))?;
        let mut len = 0;
        let mut step = 64 << 20;
        while step >= 4096 {
            let room = self.free()?.saturating_sub(leave);
            if room < step {
                step /= 2;
                continue;
            }
            match fallocate(&file, FallocateFlags::empty(), len, step) {
                Ok(()) => len += step,
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(e) => return Err(e.into()),
            }
        }
        rustix::fs::fsync(&file)?;
        Ok(())
    }

    /// How many bytes an ordinary user may still write.
    ///
    /// # Errors
    /// Of the file system.
    pub fn free(&self) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(&self.root)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // If it fails, the directory's own clean-up tries again, and after it the next run.
        drop(unmount(&self.root));
    }
}

/// A single file mounted over another. Unmounted when dropped.
#[derive(Debug)]
pub struct BindMount {
    target: PathBuf,
}

impl BindMount {
    /// Shows the file `source` at the existing file `target`.
    ///
    /// # Errors
    /// [`Missing`].
    pub fn file(source: &Path, target: &Path) -> Result<Self, Missing> {
        root()?;
        run("mount", &[OsStr::new("--bind"), source.as_os_str(), target.as_os_str()])?;
        Ok(Self { target: target.to_owned() })
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        // As with `LoopFs`.
        drop(unmount(&self.target));
    }
}

/// One of the [`MOUNTS_MAX`] locks.
pub(crate) fn take_slot() -> io::Result<File> {
    let base = base()?;
    let open = |number: usize| lock_file(&base.join(format!("slot-{number}")));
    for number in 0..MOUNTS_MAX {
        let slot = open(number)?;
        if slot.try_lock().is_ok() {
            return Ok(slot);
        }
    }
    // All are taken: queue up for one of them, not all waiters for the same.
    let mine = usize::try_from(std::process::id()).unwrap_or(0) + crate::processes::next_number();
    let slot = open(mine % MOUNTS_MAX)?;
    slot.lock()?;
    Ok(slot)
}

/// Unmounts; where somebody still uses it, as soon as nobody does.
pub(crate) fn unmount(mount_point: &Path) -> io::Result<()> {
    match rustix::mount::unmount(mount_point, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::BUSY) => {
            Ok(rustix::mount::unmount(mount_point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// The mount points at or below `path`, in the order in which they were mounted.
pub(crate) fn mounted_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let path = std::fs::canonicalize(path)?;
    let table = std::fs::read("/proc/self/mountinfo")?;
    let fifth = |line: &[u8]| line.split(|&byte| byte == b' ').nth(4).map(unescape);
    let mut points: Vec<PathBuf> =
        table.split(|&byte| byte == b'\n').filter_map(fifth).map(PathBuf::from).collect();
    points.retain(|point| point.starts_with(&path));
    Ok(points)
}

/// `mountinfo` writes white space and backslashes as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or(&[]);
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_mount_points_are_read() {
        assert_eq!(unescape(br"/a\040b\134c\011"), OsString::from("/a b\\c\t"));
        assert_eq!(unescape(br"\04"), OsString::from("\\04"));
    }

    #[test]
    fn a_file_system_is_mounted_filled_made_read_only_and_gone_when_dropped() {
        for (kind, size) in crate::need!(FsKind::journalled()) {
            let fs = LoopFs::mount(kind, size).unwrap();
            let root = fs.root().to_owned();
            assert_eq!(mounted_below(&root).unwrap(), std::slice::from_ref(&root));
            fs.fill("filler", 4 << 20).unwrap();
            assert!(fs.free().unwrap() < 8 << 20, "{kind:?}: {} free", fs.free().unwrap());
            fs.remount_read_only().unwrap();
            assert!(File::create(root.join("x")).is_err());
            drop(fs);
            assert!(!root.exists(), "{kind:?}");
        }
    }
}
