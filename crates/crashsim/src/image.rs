//! [`FsImage`]: the content of a file system, by inode, cheap to copy and quick to compare.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, OnceLock};

use media::{Mode, Owner};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::files::FileOp;

/// The unit that a disk is believed to write whole.
pub const SECTOR_LEN: usize = 512;

/// Number of an inode; the root directory is [`FsImage::ROOT`].
pub type Ino = u32;

/// A name in a directory.
pub type Name = Arc<OsStr>;

/// One sector of a file. A sector that is not there reads as zeros.
#[derive(Debug, Clone)]
pub struct Sector {
    bytes: Arc<[u8; SECTOR_LEN]>,
    digest: u64,
}

impl Sector {
    /// A sector with these bytes.
    #[must_use]
    pub fn new(bytes: [u8; SECTOR_LEN]) -> Self {
        let digest = xxh3_64(&bytes);
        Self { bytes: Arc::new(bytes), digest }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SECTOR_LEN] {
        &self.bytes
    }

    /// A number for the bytes.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether it reads as one that was never written.
    pub(crate) fn is_zero(&self) -> bool {
        self.digest == *ZEROS
    }
}

/// Mode, owner and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: Mode,
    /// User and group.
    pub owner: Owner,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// What an inode is.
#[derive(Debug, Clone)]
pub enum Body {
    /// A file: its length, and the sectors that were ever written.
    File {
        /// Length in bytes.
        len: u64,
        /// By sector number. May hold sectors behind the end, which are not seen.
        sectors: BTreeMap<u64, Sector>,
    },
    /// A directory.
    Dir(BTreeMap<Name, Ino>),
    /// A symbolic link.
    Symlink(PathBuf),
}

/// An inode.
#[derive(Debug)]
pub struct Node {
    /// Mode and the like.
    pub attributes: Attributes,
    /// What it is.
    pub body: Body,
    /// Of the two above, once somebody asked.
    digest: OnceLock<u128>,
}

impl Clone for Node {
    fn clone(&self) -> Self {
        // A copy is made to be changed.
        Self { attributes: self.attributes.clone(), body: self.body.clone(), digest: OnceLock::new() }
    }
}

impl Node {
    /// A fresh inode.
    #[must_use]
    pub fn new(attributes: Attributes, body: Body) -> Self {
        Self { attributes, body, digest: OnceLock::new() }
    }

    /// Of everything but the names in a directory, which count with what they lead to.
    fn digest(&self) -> u128 {
        *self.digest.get_or_init(|| {
            let mut text = Vec::with_capacity(128);
            text.extend_from_slice(&self.attributes.mode.bits().to_le_bytes());
            text.extend_from_slice(&self.attributes.owner.uid.to_le_bytes());
            text.extend_from_slice(&self.attributes.owner.gid.to_le_bytes());
            for (name, value) in &self.attributes.xattrs {
                push_sized(&mut text, name.as_encoded_bytes());
                push_sized(&mut text, value);
            }
            match &self.body {
                Body::File { len, sectors } => {
                    text.push(1);
                    text.extend_from_slice(&len.to_le_bytes());
                    // A sector of zeros is no more than one that was never written.
                    for (index, sector) in sectors.iter().filter(|(_, sector)| sector.digest != *ZEROS) {
                        text.extend_from_slice(&index.to_le_bytes());
                        text.extend_from_slice(&sector.digest.to_le_bytes());
                    }
                }
                Body::Dir(_) => text.push(2),
                Body::Symlink(target) => {
                    text.push(3);
                    push_sized(&mut text, target.as_os_str().as_encoded_bytes());
                }
            }
            xxh3_128(&text)
        })
    }
}

static ZEROS: LazyLock<u64> = LazyLock::new(|| xxh3_64(&[0; SECTOR_LEN]));

fn push_sized(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend_from_slice(&bytes.len().to_le_bytes());
    text.extend_from_slice(bytes);
}

/// What a file offers that is used as a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disks {
    /// What every file does: a disk in it has writes and syncs.
    #[default]
    Plain,
    /// Durable writes too.
    DurableWrites,
}

/// A whole file system at one moment.
#[derive(Debug, Clone)]
pub struct FsImage {
    nodes: Vec<Arc<Node>>,
    disks: Disks,
    /// How often the power has failed: clocks go on meanwhile.
    cuts: u32,
}

impl FsImage {
    /// The root directory.
    pub const ROOT: Ino = 0;

    /// An empty file system: a root directory that everybody may write into, owned by `owner`.
    #[must_use]
    pub fn empty(owner: Owner) -> Self {
        let attributes = Attributes { mode: Mode::new(0o755), owner, xattrs: BTreeMap::new() };
        let root = Node::new(attributes, Body::Dir(BTreeMap::new()));
        Self { nodes: vec![Arc::new(root)], disks: Disks::default(), cuts: 0 }
    }

    /// The same file system, whose files offer this as disks.
    #[must_use]
    pub fn with_disks(self, disks: Disks) -> Self {
        Self { disks, ..self }
    }

    /// How often the power has failed on the way to it.
    pub(crate) fn cuts(&self) -> u32 {
        self.cuts
    }

    /// What its files offer as disks.
    #[must_use]
    pub fn disks(&self) -> Disks {
        self.disks
    }

    /// The number that the next inode gets.
    #[must_use]
    pub fn next_ino(&self) -> Ino {
        Ino::try_from(self.nodes.len()).unwrap_or(Ino::MAX)
    }

    /// Adds an inode that no name leads to yet. Inodes are numbered in order of their birth; one that is there
    /// already stays as it is.
    pub fn bear(&mut self, ino: Ino, node: Node) {
        if ino == self.next_ino() {
            self.nodes.push(Arc::new(node));
        }
    }

    /// An inode.
    #[must_use]
    pub fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(usize::try_from(ino).ok()?).map(|node| &**node)
    }

    /// The same, to be changed.
    pub fn node_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        let node = Arc::make_mut(self.nodes.get_mut(usize::try_from(ino).ok()?)?);
        node.digest = OnceLock::new();
        Some(node)
    }

    /// The names in a directory; [`None`] for anything else.
    #[must_use]
    pub fn entries(&self, dir: Ino) -> Option<&BTreeMap<Name, Ino>> {
        match &self.node(dir)?.body {
            Body::Dir(entries) => Some(entries),
            Body::File { .. } | Body::Symlink(_) => None,
        }
    }

    fn entries_mut(&mut self, dir: Ino) -> Option<&mut BTreeMap<Name, Ino>> {
        match &mut self.node_mut(dir)?.body {
            Body::Dir(entries) => Some(entries),
            Body::File { .. } | Body::Symlink(_) => None,
        }
    }

    /// Where a name leads.
    #[must_use]
    pub fn lookup(&self, dir: Ino, name: &OsStr) -> Option<Ino> {
        self.entries(dir)?.get(name).copied()
    }

    /// Length of a file; [`None`] for anything else.
    #[must_use]
    pub fn file_len(&self, ino: Ino) -> Option<u64> {
        match &self.node(ino)?.body {
            Body::File { len, .. } => Some(*len),
            Body::Dir(_) | Body::Symlink(_) => None,
        }
    }

    /// A sector of a file, if it was ever written.
    #[must_use]
    pub fn sector(&self, ino: Ino, index: u64) -> Option<&Sector> {
        match &self.node(ino)?.body {
            Body::File { sectors, .. } => sectors.get(&index),
            Body::Dir(_) | Body::Symlink(_) => None,
        }
    }

    /// Puts a sector into a file; its length stays.
    pub fn put_sector(&mut self, ino: Ino, index: u64, sector: Option<Sector>) {
        if let Some(Node { body: Body::File { sectors, .. }, .. }) = self.node_mut(ino) {
            match sector {
                Some(sector) => drop(sectors.insert(index, sector)),
                None => drop(sectors.remove(&index)),
            }
        }
    }

    /// Sets the length; nothing else changes.
    pub fn put_len(&mut self, ino: Ino, new: u64) {
        if let Some(Node { body: Body::File { len, .. }, .. }) = self.node_mut(ino) {
            *len = new;
        }
    }

    /// The bytes of a file from `offset` on, as many as fit into `into` and are there.
    pub fn read(&self, ino: Ino, offset: u64, into: &mut [u8]) -> usize {
        let Some(Node { body: Body::File { len, sectors }, .. }) = self.node(ino) else { return 0 };
        let there = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = there.min(into.len());
        let mut done = 0;
        while done < count {
            let (index, within) = locate(offset.saturating_add(wide(done)));
            let part = (SECTOR_LEN - within).min(count - done);
            let Some(to) = into.get_mut(done..done + part) else { return done };
            match sectors.get(&index).and_then(|sector| sector.bytes.get(within..within + part)) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0),
            }
            done += part;
        }
        count
    }

    /// The content of a file.
    #[must_use]
    pub fn content(&self, ino: Ino) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.file_len(ino).unwrap_or(0)).unwrap_or(0)];
        self.read(ino, 0, &mut bytes);
        bytes
    }

    /// What writing `bytes` at `offset` makes of each sector it touches.
    #[must_use]
    pub fn sectors_written(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Vec<(u64, Sector)> {
        let mut sectors = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let (index, within) = locate(offset.saturating_add(wide(done)));
            let part = (SECTOR_LEN - within).min(bytes.len() - done);
            let mut content = self.sector(ino, index).map_or([0; SECTOR_LEN], |sector| *sector.bytes);
            if let (Some(to), Some(from)) =
                (content.get_mut(within..within + part), bytes.get(done..done + part))
            {
                to.copy_from_slice(from);
            }
            sectors.push((index, Sector::new(content)));
            done += part;
        }
        sectors
    }

    /// Carries out a request, as a reader sees it at once. Barriers change nothing here.
    pub fn apply(&mut self, op: &FileOp) {
        match op {
            FileOp::Create { dir, name, ino, node } => {
                self.bear(*ino, (**node).clone());
                self.bind(*dir, name, *ino);
            }
            FileOp::Link { dir, name, ino } => self.bind(*dir, name, *ino),
            FileOp::Unlink { dir, name, .. } => self.unbind(*dir, name),
            FileOp::Rename { from_dir, from, to_dir, to, ino, replaced: _, swapped } => {
                match swapped {
                    Some(other) => self.bind(*from_dir, from, *other),
                    None => self.unbind(*from_dir, from),
                }
                self.bind(*to_dir, to, *ino);
            }
            FileOp::Write { ino, offset, bytes } => {
                for (index, sector) in self.sectors_written(*ino, *offset, bytes) {
                    self.put_sector(*ino, index, Some(sector));
                }
                let end = offset.saturating_add(wide(bytes.len()));
                if self.file_len(*ino).is_some_and(|len| len < end) {
                    self.put_len(*ino, end);
                }
            }
            FileOp::SetLen { ino, len } => self.set_len(*ino, *len),
            FileOp::SetMode { ino, mode } => {
                if let Some(node) = self.node_mut(*ino) {
                    node.attributes.mode = *mode;
                }
            }
            FileOp::SetOwner { ino, owner } => {
                if let Some(node) = self.node_mut(*ino) {
                    node.attributes.owner = *owner;
                }
            }
            FileOp::SetXattr { ino, name, value } => {
                if let Some(node) = self.node_mut(*ino) {
                    node.attributes.xattrs.insert(name.clone(), value.to_vec());
                }
            }
            FileOp::Allocate { .. }
            | FileOp::SyncFile { .. }
            | FileOp::SyncWritten { .. }
            | FileOp::SyncDir { .. }
            | FileOp::SyncAll { .. } => {}
        }
    }

    fn bind(&mut self, dir: Ino, name: &Name, ino: Ino) {
        if let Some(entries) = self.entries_mut(dir) {
            entries.insert(Arc::clone(name), ino);
        }
    }

    fn unbind(&mut self, dir: Ino, name: &Name) {
        if let Some(entries) = self.entries_mut(dir) {
            entries.remove(name);
        }
    }

    fn set_len(&mut self, ino: Ino, new: u64) {
        let Some(Node { body: Body::File { len, sectors }, .. }) = self.node_mut(ino) else { return };
        *len = new;
        cut(sectors, new);
    }

    /// The file system as it is mounted after a power cut: without what no reader can see, what stands in a file behind its
    /// end. A file system takes that away too, before it lets a file grow over what it held once.
    pub fn settle(&mut self) {
        self.cuts = self.cuts.saturating_add(1);
        for node in &mut self.nodes {
            let Body::File { len, sectors } = &node.body else { continue };
            let (index, within) = locate(*len);
            let is_behind = |(&at, sector): (&u64, &Sector)| {
                at > index || sector.bytes.iter().skip(within).any(|&byte| byte != 0)
            };
            if !sectors.range(index..).any(is_behind) {
                continue;
            }
            let node = Arc::make_mut(node);
            node.digest = OnceLock::new();
            if let Body::File { len, sectors } = &mut node.body {
                cut(sectors, *len);
            }
        }
    }

    /// A number for everything that can be seen from the root: equal for equal trees, whatever their inodes' numbers.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut text = Vec::with_capacity(256);
        let mut seen: HashMap<Ino, u32> = HashMap::new();
        let mut open = vec![Self::ROOT];
        while let Some(ino) = open.pop() {
            let order = u32::try_from(seen.len()).unwrap_or(u32::MAX);
            if let Some(first) = seen.get(&ino) {
                // A second name of the same inode.
                text.push(0xFE);
                text.extend_from_slice(&first.to_le_bytes());
                continue;
            }
            seen.insert(ino, order);
            let Some(node) = self.node(ino) else { continue };
            text.extend_from_slice(&node.digest().to_le_bytes());
            if let Body::Dir(entries) = &node.body {
                text.extend_from_slice(&entries.len().to_le_bytes());
                for (name, &child) in entries {
                    push_sized(&mut text, name.as_encoded_bytes());
                    open.push(child);
                }
            }
        }
        xxh3_128(&text)
    }

    /// How many names each inode has that can be reached from the root (a directory: one).
    #[must_use]
    pub fn link_counts(&self) -> HashMap<Ino, u64> {
        let mut counts: HashMap<Ino, u64> = HashMap::from([(Self::ROOT, 1)]);
        let mut entered = BTreeSet::new();
        let mut open = vec![Self::ROOT];
        while let Some(ino) = open.pop() {
            if !entered.insert(ino) {
                continue;
            }
            for &child in self.entries(ino).into_iter().flat_map(BTreeMap::values) {
                *counts.entry(child).or_default() += 1;
                open.push(child);
            }
        }
        counts
    }
}

/// Drops what lies behind the end, and fills the rest of the last sector with zeros.
fn cut(sectors: &mut BTreeMap<u64, Sector>, len: u64) {
    let (index, within) = locate(len);
    if within == 0 {
        drop(sectors.split_off(&index));
        return;
    }
    drop(sectors.split_off(&index.saturating_add(1)));
    if let Some(last) = sectors.get_mut(&index) {
        let mut bytes = *last.bytes;
        if let Some(tail) = bytes.get_mut(within..) {
            tail.fill(0);
        }
        *last = Sector::new(bytes);
    }
}

/// The sector of an offset, and where in it.
fn locate(offset: u64) -> (u64, usize) {
    let len = wide(SECTOR_LEN);
    // Below 512.
    (offset / len, usize::try_from(offset % len).unwrap_or(0))
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
