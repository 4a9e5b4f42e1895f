//! Test doubles for the file seam: one interposer, [`TapFs`], and what listens to it.
//!
//! [`Recorder`] writes down every call, in order, and counts; [`FailNth`] makes one call fail (before it is
//! carried out, or after) and can write short. Both sit on any [`Fs`], the real one included.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

mod durable_bytes;
mod silent;

pub use durable_bytes::DurableBytes;
pub use silent::SilentDisk;

use crate::{
    Access, Clock, Dir, DiskAlias, DiskFacts, Entropy, Entry, File, Fs, HostIdentity, Liveness, LockWait,
    Metadata, Mode, Owner, ProcessIdentity, RenameMode, SyncPool, Timestamp,
};

/// Declares [`Op`] with its list and its names, so that none of the three can fall behind the others.
macro_rules! ops {
    ($($op:ident = $name:literal,)+) => {
        /// The calls of the seam, as doubles see them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each is the method of the same name")]
        pub enum Op {
            $($op,)+
        }

        impl Op {
            /// Every call there is.
            pub const ALL: &[Self] = &[$(Self::$op,)+];

            /// Its name as people write it: `sync_all`; `dir_sync` for [`Dir::sync`].
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$op => $name,)+
                }
            }
        }
    };
}

ops! {
    OpenDir = "open_dir",
    Umask = "umask",
    CreateExclusive = "create_exclusive",
    Open = "open",
    OpenDisk = "open_disk",
    CreateDir = "create_dir",
    Rename = "rename",
    Link = "link",
    Unlink = "unlink",
    ReadLink = "read_link",
    List = "list",
    DirMetadata = "dir_metadata",
    HasDefaultAcl = "has_default_acl",
    SetDirMode = "set_dir_mode",
    DirSync = "dir_sync",
    SyncFilesystem = "sync_filesystem",
    Metadata = "metadata",
    Modified = "modified",
    ReadAt = "read_at",
    WriteAt = "write_at",
    Append = "append",
    SetLen = "set_len",
    Allocate = "allocate",
    StartWriteback = "start_writeback",
    SetMode = "set_mode",
    SetOwner = "set_owner",
    XattrNames = "xattr_names",
    Xattr = "xattr",
    SetXattr = "set_xattr",
    SyncAll = "sync_all",
    SyncData = "sync_data",
    AsDisk = "as_disk",
    WriteAtDurable = "write_at_durable",
    ForgetCached = "forget_cached",
    DiskAlias = "disk_alias",
    Lock = "lock",
    Unlock = "unlock",
}

impl Op {
    /// Whether the call waits for the medium.
    #[must_use]
    pub fn is_barrier(self) -> bool {
        matches!(
            self,
            Self::SyncAll | Self::SyncData | Self::WriteAtDurable | Self::DirSync | Self::SyncFilesystem
        )
    }
}

/// One call: what, on which name (as it was when the handle was opened), and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub op: Op,
    /// The name of the file, or the path of the directory, it was called on.
    pub subject: String,
    /// The rest, readable: a mode, a length, the new name.
    pub detail: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.op, self.subject)?;
        if !self.detail.is_empty() {
            write!(f, " {}", self.detail)?;
        }
        Ok(())
    }
}

/// Hears every call before and after it is carried out, and may make it fail.
pub trait Listener: Send + Sync + fmt::Debug {
    /// Before the call. An error is returned in its place, and the call is not carried out.
    ///
    /// # Errors
    /// Whatever the caller is to see.
    fn before(&self, _call: &Call) -> io::Result<()> {
        Ok(())
    }

    /// After a call that succeeded. An error is returned although the call was carried out.
    ///
    /// # Errors
    /// Whatever the caller is to see.
    fn after(&self, _call: &Call) -> io::Result<()> {
        Ok(())
    }

    /// How many of `len` bytes a write may take; fewer is a short write.
    fn write_len(&self, _call: &Call, len: usize) -> usize {
        len
    }

    /// A named point was announced.
    fn mark(&self, _point: &'static str) {}
}

/// An [`Fs`] that tells a [`Listener`] about every call and passes it on.
#[derive(Debug, Clone)]
pub struct TapFs {
    inner: Arc<dyn Fs>,
    tap: Tap,
}

#[derive(Debug, Clone)]
struct Tap(Arc<dyn Listener>);

impl Tap {
    fn call<T>(
        &self,
        op: Op,
        subject: &str,
        detail: impl Into<String>,
        carry_out: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let call = Call { op, subject: subject.to_owned(), detail: detail.into() };
        self.0.before(&call)?;
        let value = carry_out()?;
        self.0.after(&call)?;
        Ok(value)
    }

    fn write(
        &self,
        op: Op,
        subject: &str,
        detail: String,
        from: &[u8],
        carry_out: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let call = Call { op, subject: subject.to_owned(), detail };
        self.0.before(&call)?;
        let taken = from.get(..self.0.write_len(&call, from.len())).unwrap_or(from);
        let count = carry_out(taken)?;
        self.0.after(&call)?;
        Ok(count)
    }
}

impl TapFs {
    /// Puts `listener` before `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Fs>, listener: Arc<dyn Listener>) -> Self {
        Self { inner, tap: Tap(listener) }
    }

    /// The same, ready to be handed on.
    #[must_use]
    pub fn shared(inner: Arc<dyn Fs>, listener: Arc<dyn Listener>) -> Arc<dyn Fs> {
        Arc::new(Self::new(inner, listener))
    }
}

impl Fs for TapFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let label = path.display().to_string();
        let inner = self.tap.call(Op::OpenDir, &label, "", || self.inner.open_dir(path))?;
        Ok(Arc::new(TapDir { inner, label: ".".to_owned(), tap: self.tap.clone() }))
    }

    fn umask(&self) -> io::Result<Mode> {
        self.tap.call(Op::Umask, "", "", || self.inner.umask())
    }

    fn mark(&self, point: &'static str) {
        self.tap.0.mark(point);
        self.inner.mark(point);
    }
}

#[derive(Debug)]
struct TapDir {
    inner: Arc<dyn Dir>,
    /// `.` for a directory opened by path, below it the relative path.
    label: String,
    tap: Tap,
}

impl TapDir {
    fn child(&self, name: &OsStr) -> String {
        let name = name.to_string_lossy();
        if self.label == "." { name.into_owned() } else { format!("{}/{name}", self.label) }
    }

    fn file(&self, name: &OsStr, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(TapFile { inner, label: self.child(name), tap: self.tap.clone() })
    }
}

impl Dir for TapDir {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let label = self.child(path.as_os_str());
        let inner = self.tap.call(Op::OpenDir, &label, "", || self.inner.open_dir(path))?;
        Ok(Arc::new(Self { inner, label, tap: self.tap.clone() }))
    }

    fn create_exclusive(&self, name: &OsStr, mode: Mode) -> io::Result<Arc<dyn File>> {
        let inner = self.tap.call(Op::CreateExclusive, &self.child(name), mode.to_string(), || {
            self.inner.create_exclusive(name, mode)
        })?;
        Ok(self.file(name, inner))
    }

    fn open(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn File>> {
        let inner = self
            .tap
            .call(Op::Open, &self.child(name), format!("{access:?}"), || self.inner.open(name, access))?;
        Ok(self.file(name, inner))
    }

    fn open_disk(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn File>> {
        let inner = self.tap.call(Op::OpenDisk, &self.child(name), format!("{access:?}"), || {
            self.inner.open_disk(name, access)
        })?;
        Ok(self.file(name, inner))
    }

    fn create_dir(&self, name: &OsStr, mode: Mode) -> io::Result<()> {
        self.tap
            .call(Op::CreateDir, &self.child(name), mode.to_string(), || self.inner.create_dir(name, mode))
    }

    fn rename(&self, from: &OsStr, to_dir: &dyn Dir, to: &OsStr, how: RenameMode) -> io::Result<()> {
        let to_any: &dyn Any = to_dir;
        let (to_label, to_inner) = match to_any.downcast_ref::<Self>() {
            Some(tapped) => (tapped.child(to), &*tapped.inner),
            None => (to.to_string_lossy().into_owned(), to_dir),
        };
        let detail = match how {
            RenameMode::Replace => format!("-> {to_label}"),
            other => format!("-> {to_label} ({other:?})"),
        };
        self.tap.call(Op::Rename, &self.child(from), detail, || self.inner.rename(from, to_inner, to, how))
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let detail = format!("-> {}", self.child(to));
        self.tap.call(Op::Link, &self.child(from), detail, || self.inner.link(from, to))
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.tap.call(Op::Unlink, &self.child(name), "", || self.inner.unlink(name))
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        self.tap.call(Op::ReadLink, &self.child(name), "", || self.inner.read_link(name))
    }

    fn list(&self, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> io::Result<()> {
        self.tap.call(Op::List, &self.label, "", || self.inner.list(each))
    }

    fn metadata(&self, name: &OsStr) -> io::Result<Metadata> {
        self.tap.call(Op::Metadata, &self.child(name), "", || self.inner.metadata(name))
    }

    fn dir_metadata(&self) -> io::Result<Metadata> {
        self.tap.call(Op::DirMetadata, &self.label, "", || self.inner.dir_metadata())
    }

    fn has_default_acl(&self) -> io::Result<bool> {
        self.tap.call(Op::HasDefaultAcl, &self.label, "", || self.inner.has_default_acl())
    }

    fn set_dir_mode(&self, mode: Mode) -> io::Result<()> {
        self.tap.call(Op::SetDirMode, &self.label, mode.to_string(), || self.inner.set_dir_mode(mode))
    }

    fn sync(&self) -> io::Result<()> {
        self.tap.call(Op::DirSync, &self.label, "", || self.inner.sync())
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        self.tap.call(Op::SyncFilesystem, &self.label, "", || self.inner.sync_filesystem())
    }

    fn mark(&self, point: &'static str) {
        self.tap.0.mark(point);
        self.inner.mark(point);
    }
}

#[derive(Debug)]
struct TapFile {
    inner: Arc<dyn File>,
    label: String,
    tap: Tap,
}

impl File for TapFile {
    fn metadata(&self) -> io::Result<Metadata> {
        self.tap.call(Op::Metadata, &self.label, "(handle)", || self.inner.metadata())
    }

    fn modified(&self) -> io::Result<Timestamp> {
        self.tap.call(Op::Modified, &self.label, "", || self.inner.modified())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.tap.call(Op::ReadAt, &self.label, format!("@{offset}"), || self.inner.read_at(offset, into))
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        let detail = format!("@{offset}+{}", from.len());
        self.tap.write(Op::WriteAt, &self.label, detail, from, |bytes| self.inner.write_at(offset, bytes))
    }

    fn append(&self, from: &[u8]) -> io::Result<usize> {
        let detail = format!("+{}", from.len());
        self.tap.write(Op::Append, &self.label, detail, from, |bytes| self.inner.append(bytes))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tap.call(Op::SetLen, &self.label, len.to_string(), || self.inner.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.tap.call(Op::Allocate, &self.label, len.to_string(), || self.inner.allocate(len))
    }

    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        let detail = format!("@{offset}+{len}");
        self.tap.call(Op::StartWriteback, &self.label, detail, || self.inner.start_writeback(offset, len))
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        self.tap.call(Op::SetMode, &self.label, mode.to_string(), || self.inner.set_mode(mode))
    }

    fn set_owner(&self, owner: Owner) -> io::Result<()> {
        let detail = format!("{}:{}", owner.uid, owner.gid);
        self.tap.call(Op::SetOwner, &self.label, detail, || self.inner.set_owner(owner))
    }

    fn xattr_names(&self) -> io::Result<Vec<OsString>> {
        self.tap.call(Op::XattrNames, &self.label, "", || self.inner.xattr_names())
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        self.tap.call(Op::Xattr, &self.label, name.to_string_lossy(), || self.inner.xattr(name))
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        self.tap.call(Op::SetXattr, &self.label, name.to_string_lossy(), || self.inner.set_xattr(name, value))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.tap.call(Op::SyncAll, &self.label, "", || self.inner.sync_all())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.tap.call(Op::SyncData, &self.label, "", || self.inner.sync_data())
    }

    fn as_disk(&self, block_size: u32) -> io::Result<DiskFacts> {
        let detail = block_size.to_string();
        self.tap.call(Op::AsDisk, &self.label, detail, || self.inner.as_disk(block_size))
    }

    fn write_at_durable(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        let detail = format!("@{offset}+{}", from.len());
        self.tap.write(Op::WriteAtDurable, &self.label, detail, from, |bytes| {
            self.inner.write_at_durable(offset, bytes)
        })
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.tap.call(Op::ForgetCached, &self.label, "", || self.inner.forget_cached())
    }

    /// The backing file is tapped too; its label is that of the device and `(backing)`.
    fn disk_alias(&self) -> io::Result<DiskAlias> {
        let found = self.tap.call(Op::DiskAlias, &self.label, "", || self.inner.disk_alias())?;
        Ok(match found {
            DiskAlias::Backing(inner) => {
                let label = format!("{} (backing)", self.label);
                DiskAlias::Backing(Arc::new(Self { inner, label, tap: self.tap.clone() }))
            }
            other => other,
        })
    }

    fn lock(&self, wait: LockWait) -> io::Result<()> {
        self.tap.call(Op::Lock, &self.label, format!("{wait:?}"), || self.inner.lock(wait))
    }

    fn unlock(&self) -> io::Result<()> {
        self.tap.call(Op::Unlock, &self.label, "", || self.inner.unlock())
    }

    fn mark(&self, point: &'static str) {
        self.tap.0.mark(point);
        self.inner.mark(point);
    }
}

/// Writes down every call that is about to be carried out, and every mark.
#[derive(Debug, Default)]
pub struct Recorder {
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    /// A fresh recorder and the file system it listens to.
    #[must_use]
    pub fn over(inner: Arc<dyn Fs>) -> (Arc<Self>, Arc<dyn Fs>) {
        let recorder = Arc::new(Self::default());
        let fs = TapFs::shared(inner, Arc::<Self>::clone(&recorder));
        (recorder, fs)
    }

    /// Forgets what was recorded so far.
    pub fn clear(&self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Everything recorded so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often `op` was called.
    #[must_use]
    pub fn count(&self, op: Op) -> usize {
        self.calls().iter().filter(|call| call.op == op).count()
    }

    /// How many calls there were in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.calls().len()
    }

    /// How many barriers there were.
    #[must_use]
    pub fn barriers(&self) -> usize {
        self.calls().iter().filter(|call| call.op.is_barrier()).count()
    }

    /// The calls as lines, each run through `rewrite` (to give random names a fixed one).
    #[must_use]
    pub fn lines(&self, rewrite: impl Fn(String) -> String) -> Vec<String> {
        self.calls().iter().map(|call| rewrite(call.to_string())).collect()
    }
}

impl Listener for Recorder {
    fn before(&self, call: &Call) -> io::Result<()> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        Ok(())
    }
}

/// When a failing call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Instead of being carried out.
    Before,
    /// After it was carried out: it happened, and the caller is told that it did not.
    After,
}

/// For how long calls go on failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// That call alone.
    Once,
    /// That call and all that follow.
    Forever,
}

/// Makes the n-th call (from 0) fail with an operating-system error code.
#[derive(Debug)]
pub struct FailNth {
    nth: usize,
    code: i32,
    when: When,
    lasting: Lasting,
    only: Option<Op>,
    seen: AtomicUsize,
    failed: Mutex<Option<Call>>,
}

impl FailNth {
    /// Fails call number `nth` with `code`, before it is carried out, once.
    #[must_use]
    pub fn new(nth: usize, code: i32) -> Self {
        Self {
            nth,
            code,
            when: When::Before,
            lasting: Lasting::Once,
            only: None,
            seen: AtomicUsize::new(0),
            failed: Mutex::new(None),
        }
    }

    /// Counts (and fails) only calls of `op`.
    #[must_use]
    pub fn only(mut self, op: Op) -> Self {
        self.only = Some(op);
        self
    }

    /// Sets when the call fails.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// Sets whether later calls fail as well.
    #[must_use]
    pub fn lasting(mut self, lasting: Lasting) -> Self {
        self.lasting = lasting;
        self
    }

    /// Ready to be shared, with the file system it makes fail.
    #[must_use]
    pub fn over(self, inner: Arc<dyn Fs>) -> (Arc<Self>, Arc<dyn Fs>) {
        let failing = Arc::new(self);
        let fs = TapFs::shared(inner, Arc::<Self>::clone(&failing));
        (failing, fs)
    }

    /// The first call that was made to fail, once it has.
    #[must_use]
    pub fn failed(&self) -> Option<Call> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn decide(&self, call: &Call, index: usize) -> io::Result<()> {
        let fails = match self.lasting {
            Lasting::Once => index == self.nth,
            Lasting::Forever => index >= self.nth,
        };
        if !fails {
            return Ok(());
        }
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| call.clone());
        Err(io::Error::from_raw_os_error(self.code))
    }

    fn counts(&self, call: &Call) -> bool {
        self.only.is_none_or(|only| only == call.op)
    }
}

impl Listener for FailNth {
    fn before(&self, call: &Call) -> io::Result<()> {
        if self.when != When::Before || !self.counts(call) {
            return Ok(());
        }
        self.decide(call, self.seen.fetch_add(1, Ordering::Relaxed))
    }

    fn after(&self, call: &Call) -> io::Result<()> {
        if self.when != When::After || !self.counts(call) {
            return Ok(());
        }
        self.decide(call, self.seen.fetch_add(1, Ordering::Relaxed))
    }
}

/// Lets every write take at most `len_max` bytes.
#[derive(Debug)]
pub struct ShortWrites {
    /// The most that one write takes.
    pub len_max: usize,
}

impl Listener for ShortWrites {
    fn write_len(&self, _call: &Call, len: usize) -> usize {
        len.min(self.len_max)
    }
}

/// A clock that moves only when somebody sleeps, and then at once.
#[derive(Debug, Default)]
pub struct ManualClock {
    elapsed_ns: Mutex<std::time::Duration>,
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.elapsed();
        Timestamp {
            seconds: 1_700_000_000 + i64::try_from(elapsed.as_secs()).unwrap_or(0),
            nanos: elapsed.subsec_nanos(),
        }
    }

    fn elapsed(&self) -> std::time::Duration {
        *self.elapsed_ns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, how_long: std::time::Duration) {
        *self.elapsed_ns.lock().unwrap_or_else(PoisonError::into_inner) += how_long;
    }
}

/// Bytes that look random and are the same in every run (splitmix64).
#[derive(Debug)]
pub struct SeededEntropy {
    state: Mutex<u64>,
}

impl SeededEntropy {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: Mutex::new(seed) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let word = (z ^ (z >> 31)).to_le_bytes();
            for (byte, from) in chunk.iter_mut().zip(word) {
                *byte = from;
            }
        }
        Ok(())
    }
}

/// A process that is whoever it is said to be, on a machine where only the listed processes run.
#[derive(Debug)]
pub struct FakeHost {
    /// What [`HostIdentity::this_process`] answers.
    pub me: ProcessIdentity,
    /// Pid and start time of what runs, in `me`'s pid namespace.
    pub alive: Mutex<Vec<(u32, u64)>>,
}

impl FakeHost {
    /// Process `pid` of a fixed machine and boot, started at 1000 + pid, and alive.
    #[must_use]
    pub fn with_pid(pid: u32) -> Self {
        let start_time = 1000 + u64::from(pid);
        let me = ProcessIdentity {
            pid,
            start_time,
            boot_id: "00000000-0000-4000-8000-000000000001".to_owned(),
            pid_namespace: 4_026_531_836,
            host: "testhost/0".to_owned(),
        };
        Self { me, alive: Mutex::new(vec![(pid, start_time)]) }
    }
}

impl HostIdentity for FakeHost {
    fn this_process(&self) -> io::Result<ProcessIdentity> {
        Ok(self.me.clone())
    }

    fn running(&self, pid: u32, start_time: u64) -> Liveness {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let found = alive.iter().any(|&(p, s)| p == pid && (start_time == 0 || s == start_time));
        if found { Liveness::Alive } else { Liveness::Dead }
    }
}

/// Runs every job on the calling thread, in order.
#[derive(Debug, Clone, Copy, Default)]
pub struct InlinePool;

impl SyncPool for InlinePool {
    fn run(&self, _width: usize, count: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(job);
    }
}

/// Everything fixed: a clock that stands still, seeded randomness, a fake process that shares nothing with others, no threads.
#[must_use]
pub fn fixed_env(seed: u64) -> crate::Env {
    crate::Env {
        clock: Arc::new(ManualClock::default()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        host: Arc::new(FakeHost::with_pid(4242)),
        pool: Arc::new(InlinePool),
        shared: Arc::default(),
    }
}
