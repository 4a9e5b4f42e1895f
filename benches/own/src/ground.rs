//! Where is measured: file systems in image files, or a directory.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use media::{MountFacts, describe_mount};
use testbed::{FsKind, LoopFs, MountOptions};

/// A directory to measure in, removed or unmounted afterwards.
#[derive(Debug)]
pub struct Ground {
    /// What it is called in the report.
    pub label: String,
    /// The mount it is on.
    pub facts: Option<MountFacts>,
    root: PathBuf,
    numbers: Cell<u32>,
    _mounted: Option<LoopFs>,
    _temporary: Option<tempfile::TempDir>,
}

impl Ground {
    fn mounted(kind: FsKind, size: u64) -> io::Result<Self> {
        // A loop device calls itself rotational, and for such a one btrfs delays its commits to gather more.
        let mount = if kind == FsKind::Btrfs { "ssd" } else { "" };
        let options = MountOptions { mount, ..MountOptions::default() };
        let fs = LoopFs::mount_with(kind, size, options).map_err(io::Error::other)?;
        let label = format!("{}, image file", kind.fs_type());
        let root = fs.root().to_owned();
        Ok(Self {
            label,
            facts: describe_mount(&root),
            root,
            numbers: Cell::new(0),
            _mounted: Some(fs),
            _temporary: None,
        })
    }

    fn below(dir: &Path) -> io::Result<Self> {
        let temporary = tempfile::Builder::new().prefix("bench-own-").tempdir_in(dir)?;
        Ok(Self {
            label: "directory".to_owned(),
            facts: describe_mount(dir),
            root: temporary.path().to_owned(),
            numbers: Cell::new(0),
            _mounted: None,
            _temporary: Some(temporary),
        })
    }

    /// How many flushes the block device below has carried out, where the system tells: unlike times, a number that nobody else
    /// on the machine changes.
    #[must_use]
    pub fn device_flushes(&self) -> Option<u64> {
        let device = self.facts.as_ref()?.source.strip_prefix("/dev/")?;
        let counts = std::fs::read_to_string(format!("/sys/block/{device}/stat")).ok()?;
        counts.split_whitespace().nth(15)?.parse().ok()
    }

    /// A fresh, empty directory whose name is durable.
    pub fn fresh_dir(&self) -> io::Result<PathBuf> {
        let number = self.numbers.replace(self.numbers.get() + 1);
        let path = self.root.join(format!("dir-{number}"));
        durable_io::Dir::open_or_create(&path).map_err(io::Error::other)?;
        Ok(path)
    }
}

type Grounds = Box<dyn Iterator<Item = io::Result<Ground>>>;

/// Where to measure, one after the other, so that only one is mounted at a time.
pub(crate) fn grounds(dir: Option<&Path>, notes: &mut Vec<String>) -> io::Result<Grounds> {
    if let Some(dir) = dir {
        return Ok(Box::new(std::iter::once(Ground::below(dir))));
    }
    match FsKind::journalled() {
        Ok(_) => {
            let below = describe_mount(&std::env::temp_dir());
            let below = below.map_or("unknown".to_owned(), |facts| {
                let journal = if facts.journal == Some(false) { " without a journal" } else { "" };
                format!("{}{journal} ({})", facts.fs_type, facts.options.join(","))
            });
            notes.push(format!("the image files are on {below}"));
            let kinds = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs];
            Ok(Box::new(kinds.into_iter().map(|kind| Ground::mounted(kind, 1 << 30))))
        }
        Err(missing) => {
            notes.push(format!("ext4, XFS and btrfs were not measured: {missing}"));
            Ok(Box::new(std::iter::once(Ground::below(&std::env::temp_dir()))))
        }
    }
}
