//! [`SimFs`]: a file system in memory behind the file seam, which writes down everything that is asked of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use media::doubles::Op;
use media::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use media::{Dir, FileKind, Fs, Metadata, Mode, Owner, Timestamp};

use crate::fault::Fault;
use crate::files::{FileOp, Outcome};
use crate::image::{Attributes, Body, Disks, FsImage, Ino, Name, Node};
use crate::trace::{Event, Recording, Trace};
use crate::witness::{Mark, Witness};

mod dir;
mod file;

use dir::SimDir;

/// What new files and directories lose of the mode they ask for.
const UMASK: Mode = Mode::new(0o022);
/// Who everything belongs to.
const OWNER: Owner = Owner { uid: 1000, gid: 1000 };
/// How many symbolic links a path may lead through, as on Linux.
const LINKS_MAX: usize = 40;
/// The number of the next file system. Each is a device of its own: what a process keeps by device and inode (a queue for
/// a lock) is not shared between simulations that run side by side.
static NEXT_DEVICE: AtomicU64 = AtomicU64::new(0x51);
/// The wall clock when a file system is mounted for the first time; every change is a nanosecond later than the one before,
/// and every power cut takes a second.
const MOUNTED_AT: i64 = 1_700_000_000;

/// The numbers under which Linux reports what a simulated call answers.
pub(crate) mod code {
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EBADF: i32 = 9;
    pub(crate) const EEXIST: i32 = 17;
    pub(crate) const EXDEV: i32 = 18;
    pub(crate) const ENOTDIR: i32 = 20;
    pub(crate) const EISDIR: i32 = 21;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EFBIG: i32 = 27;
    pub(crate) const ENOSPC: i32 = 28;
    pub(crate) const ENAMETOOLONG: i32 = 36;
    pub(crate) const ENOTEMPTY: i32 = 39;
    pub(crate) const ELOOP: i32 = 40;
    pub(crate) const ENODATA: i32 = 61;
    pub(crate) const EAGAIN: i32 = 11;
}

/// The largest file: a mistake in an offset more often than a wish.
const FILE_LEN_MAX: u64 = 1 << 42;

fn os(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// A simulated file system: [`media::Fs`] over an [`FsImage`].
///
/// While the power stays on it does what a POSIX file system does, and passes the conformance suite of the seam. It has one
/// user, who may do everything. Clones are handles of the same file system.
///
/// Every request that changes something, and every barrier, goes into a [`Trace`]; what a power cut may leave of them
/// is not decided here but by [`points`](crate::points).
#[derive(Clone)]
pub struct SimFs {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    unlocked: Condvar,
}

struct State {
    device: u64,
    visible: FsImage,
    links: HashMap<Ino, u64>,
    modified: HashMap<Ino, Timestamp>,
    trace: Trace<FileOp>,
    recording: Recording,
    calls: Vec<Op>,
    call_count: u64,
    faults: BTreeMap<u64, Fault>,
    next_handle: u64,
    locks: HashMap<Ino, u64>,
    changes: u32,
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFs").finish_non_exhaustive()
    }
}

impl SimFs {
    /// An empty file system, recording.
    #[must_use]
    pub fn new() -> Self {
        Self::with_disks(Disks::default())
    }

    /// The same, whose files offer this as disks.
    #[must_use]
    pub fn with_disks(disks: Disks) -> Self {
        Self::mount(FsImage::empty(OWNER).with_disks(disks), Recording::On)
    }

    /// A file system with this content, everything in it durable.
    #[must_use]
    pub fn mount(image: FsImage, recording: Recording) -> Self {
        let links = image.link_counts();
        Self::with(image, links, Trace::default(), recording)
    }

    /// The file system as a process finds it that starts after another one died in the middle of `trace`: nothing is lost, and
    /// nothing is more durable than it was. Recording goes on in the same trace.
    #[must_use]
    pub fn resume(start: &FsImage, trace: Trace<FileOp>) -> Self {
        let resumed = Self::with(start.clone(), start.link_counts(), Trace::default(), Recording::On);
        let mut state = resumed.state();
        trace.records().iter().filter_map(|record| record.op()).for_each(|op| state.apply(op));
        state.trace = trace;
        drop(state);
        resumed
    }

    fn with(visible: FsImage, links: HashMap<Ino, u64>, trace: Trace<FileOp>, recording: Recording) -> Self {
        let state = State {
            device: NEXT_DEVICE.fetch_add(1, Ordering::Relaxed),
            visible,
            links,
            modified: HashMap::new(),
            trace,
            recording,
            calls: Vec::new(),
            call_count: 0,
            faults: BTreeMap::new(),
            next_handle: 0,
            locks: HashMap::new(),
            changes: 0,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), unlocked: Condvar::new() }) }
    }

    /// Ready to be handed to an engine.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Fs> {
        Arc::new(self.clone())
    }

    /// Lets the calls with these numbers (from 0, from now on) go wrong.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = (u64, Fault)>) {
        let mut state = self.state();
        let base = state.call_count;
        state.faults = faults.into_iter().map(|(call, fault)| (base.saturating_add(call), fault)).collect();
        state.calls.clear();
    }

    /// The calls since [`SimFs::set_faults`] (or since the beginning), in order, if recording.
    #[must_use]
    pub fn calls(&self) -> Vec<Op> {
        self.state().calls.clone()
    }

    /// What a reader sees now.
    #[must_use]
    pub fn image(&self) -> FsImage {
        self.state().visible.clone()
    }

    /// What was recorded so far.
    #[must_use]
    pub fn trace(&self) -> Trace<FileOp> {
        self.state().trace.clone()
    }

    /// Makes a symbolic link: the seam has no call for it. It is not recorded and counts as durable.
    ///
    /// # Errors
    /// As for a new name.
    pub fn symlink(&self, path: &Path, target: &Path) -> io::Result<()> {
        let mut state = self.state();
        let parent = state.resolve(FsImage::ROOT, path.parent().unwrap_or(Path::new("/")))?;
        let name: Name = path.file_name().ok_or_else(|| os(code::EINVAL))?.into();
        let ino = state.visible.next_ino();
        let node = Node::new(state.attributes(Mode::new(0o777)), Body::Symlink(target.to_owned()));
        let op = FileOp::Create { dir: parent, name, ino, node: Arc::new(node) };
        state.visible.apply(&op);
        state.links.insert(ino, 1);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made by one `apply`, which has no way to stop half-way.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; gives the fault that is planned for it.
    fn enter(&self, op: Op) -> io::Result<Entered<'_>> {
        let mut state = self.state();
        let number = state.call_count;
        state.call_count += 1;
        if state.recording == Recording::On {
            state.calls.push(op);
        }
        let fault = state.faults.get(&number).copied();
        match fault {
            Some(Fault::Fail(code)) if !op.is_barrier() => Err(os(code)),
            _ => Ok(Entered { state, fault }),
        }
    }
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl Witness for SimFs {
    fn tell(&self, mark: Mark) {
        self.state().note(Event::Mark(mark));
    }
}

/// A call that is being carried out.
struct Entered<'s> {
    state: MutexGuard<'s, State>,
    fault: Option<Fault>,
}

impl Entered<'_> {
    /// What the caller is told about a call that was carried out.
    fn answer<T>(self, value: T) -> io::Result<T> {
        match self.fault {
            Some(Fault::FailAfter(code)) => Err(os(code)),
            Some(Fault::Fail(_) | Fault::Short(_)) | None => Ok(value),
        }
    }

    /// How many bytes of a write are taken.
    fn taken<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        match self.fault {
            Some(Fault::Short(len)) => {
                bytes.get(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or(bytes)
            }
            Some(Fault::Fail(_) | Fault::FailAfter(_)) | None => bytes,
        }
    }

    /// Carries out a barrier, or lets it fail.
    fn barrier(mut self, op: impl FnOnce(Outcome) -> FileOp) -> io::Result<()> {
        let outcome = match self.fault {
            Some(Fault::Fail(_)) => Outcome::Failed,
            Some(Fault::FailAfter(_) | Fault::Short(_)) | None => Outcome::Done,
        };
        self.state.carry_out(op(outcome));
        match self.fault {
            Some(Fault::Fail(code) | Fault::FailAfter(code)) => Err(os(code)),
            Some(Fault::Short(_)) | None => Ok(()),
        }
    }
}

impl State {
    /// What the workload was told is written down in any case: a check needs it.
    fn note(&mut self, event: Event<FileOp>) {
        if event.is_kept(self.recording) {
            self.trace.push(event);
        }
    }

    /// Makes a request visible and writes it down.
    fn carry_out(&mut self, op: FileOp) {
        self.apply(&op);
        self.note(Event::Op(op));
    }

    fn apply(&mut self, op: &FileOp) {
        self.count_links(op);
        self.visible.apply(op);
        if let FileOp::Write { ino, .. } | FileOp::SetLen { ino, .. } | FileOp::Create { ino, .. } = op {
            self.changes += 1;
            let seconds = MOUNTED_AT.saturating_add(i64::from(self.visible.cuts()));
            self.modified.insert(*ino, Timestamp { seconds, nanos: self.changes });
        }
    }

    fn count_links(&mut self, op: &FileOp) {
        match op {
            FileOp::Create { ino, .. } | FileOp::Link { ino, .. } => {
                *self.links.entry(*ino).or_default() += 1
            }
            FileOp::Unlink { ino, .. } | FileOp::Rename { replaced: Some(ino), swapped: None, .. } => {
                let count = self.links.entry(*ino).or_default();
                *count = count.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn modified(&self, ino: Ino) -> Timestamp {
        self.modified.get(&ino).copied().unwrap_or(Timestamp { seconds: MOUNTED_AT, nanos: 0 })
    }

    fn attributes(&self, mode: Mode) -> Attributes {
        Attributes { mode, owner: OWNER, xattrs: BTreeMap::new() }
    }

    fn lookup(&self, dir: Ino, name: &OsStr) -> io::Result<Ino> {
        check_len(name)?;
        self.visible.lookup(dir, name).ok_or_else(|| os(code::ENOENT))
    }

    /// The name must be free.
    fn vacant(&self, dir: Ino, name: &OsStr) -> io::Result<Name> {
        check_len(name)?;
        if self.visible.lookup(dir, name).is_some() {
            return Err(os(code::EEXIST));
        }
        Ok(name.into())
    }

    fn kind(&self, ino: Ino) -> FileKind {
        match self.visible.node(ino).map(|node| &node.body) {
            Some(Body::File { .. }) => FileKind::File,
            Some(Body::Dir(_)) => FileKind::Dir,
            Some(Body::Symlink(_)) => FileKind::Symlink,
            None => FileKind::Other,
        }
    }

    fn metadata(&self, ino: Ino) -> io::Result<Metadata> {
        let node = self.visible.node(ino).ok_or_else(|| os(code::ENOENT))?;
        Ok(Metadata {
            kind: self.kind(ino),
            id: Some(media::FileId { device: self.device, inode: u64::from(ino) }),
            mode: node.attributes.mode,
            owner: node.attributes.owner,
            links: self.links.get(&ino).copied().unwrap_or(0),
            len: self.visible.file_len(ino).unwrap_or(0),
        })
    }

    /// The directory at `path`, seen from `from`.
    fn resolve(&self, from: Ino, path: &Path) -> io::Result<Ino> {
        // The way from the root, for `..`.
        let mut way = vec![from];
        let mut rest: Vec<OsString> = components(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            let here = way.last().copied().unwrap_or(FsImage::ROOT);
            if part == "/" {
                way = vec![FsImage::ROOT];
                continue;
            }
            if part == ".." {
                let parent = self.parent(here);
                way.push(parent);
                continue;
            }
            if self.visible.entries(here).is_none() {
                return Err(os(code::ENOTDIR));
            }
            let ino = self.lookup(here, &part)?;
            match self.visible.node(ino).map(|node| &node.body) {
                Some(Body::Symlink(target)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(os(code::ELOOP));
                    }
                    rest.extend(components(target));
                }
                _ => way.push(ino),
            }
        }
        let found = way.last().copied().unwrap_or(FsImage::ROOT);
        if self.visible.entries(found).is_none() {
            return Err(os(code::ENOTDIR));
        }
        Ok(found)
    }

    fn parent(&self, of: Ino) -> Ino {
        let dirs = (0..self.visible.next_ino()).filter(|&dir| self.visible.entries(dir).is_some());
        let mut parents = dirs.filter(|&dir| {
            self.visible.entries(dir).is_some_and(|entries| entries.values().any(|&child| child == of))
        });
        parents.next().unwrap_or(FsImage::ROOT)
    }
}

/// Last component first.
fn components(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::RootDir => Some(OsString::from("/")),
        Component::ParentDir => Some(OsString::from("..")),
        Component::Normal(name) => Some(name.to_owned()),
        Component::CurDir | Component::Prefix(_) => None,
    };
    let mut parts: Vec<OsString> = path.components().filter_map(part).collect();
    parts.reverse();
    parts
}

fn check_len(name: &OsStr) -> io::Result<()> {
    if name.len() > media::NAME_LEN_MAX { Err(os(code::ENAMETOOLONG)) } else { Ok(()) }
}

impl Fs for SimFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let entered = self.enter(Op::OpenDir)?;
        let ino = entered.state.resolve(FsImage::ROOT, path)?;
        let dir: Arc<dyn Dir> = Arc::new(SimDir { fs: self.clone(), ino });
        entered.answer(dir)
    }

    fn umask(&self) -> io::Result<Mode> {
        self.enter(Op::Umask)?.answer(UMASK)
    }

    fn mark(&self, point: &'static str) {
        self.state().note(Event::Mark(Mark::Point(point)));
    }
}

/// A path for what a symbolic link holds.
fn link_target(node: Option<&Node>) -> io::Result<PathBuf> {
    match node.map(|node| &node.body) {
        Some(Body::Symlink(target)) => Ok(target.clone()),
        Some(Body::File { .. } | Body::Dir(_)) | None => Err(os(code::EINVAL)),
    }
}
