//! Advisory locks on `<name>.lock` beside the file they protect.
//!
//! Two kinds, one interface. The **kernel** lock (the default) is `flock` on a side file that is never deleted: it
//! dies with its holder, and waiting happens in the kernel. The **exclusive-create** lock is for file systems
//! without locks: a complete body appears under the name in one step, and a lock left behind is taken over only
//! on *proof* that its owner is dead. Both first queue the threads of this process, so that threads exclude each
//! other in order of arrival and a thread that locks twice is told so.
//!
//! Locks promise nothing after a power cut and need no barrier for it: whoever held one is dead then. (The body of
//! an exclusive-create lock is synced before it is visible, because a name without its body could be judged by
//! nobody.)

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use media::sync::Arc;
use media::{FileKind, MountFacts, ProcessIdentity, Reason};

use crate::dir::{Dir, Place};
use crate::error::{Cause, Error, Invalid, Result, Stage, TargetState};
use crate::name::side_name;
use crate::options::{Barriers, Parents, Symlinks};

mod body;
mod exclusive;
mod kernel;
mod queue;

use body::Body;
use queue::Permit;

/// How long a lock is waited for unless the caller says otherwise: 5,000 ms.
pub const LOCK_WAIT_DEFAULT: Duration = Duration::from_millis(5_000);

/// What the age rule, where it is asked for, is commonly set to: 30,000 ms.
pub const LOCK_AGE_COMMON: Duration = Duration::from_millis(30_000);

const LOCK_SUFFIX: &str = ".lock";

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    DoNotWait,
    /// At most this long.
    UpTo(Duration),
}

impl Default for Wait {
    fn default() -> Self {
        Self::UpTo(LOCK_WAIT_DEFAULT)
    }
}

/// How others are kept out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LockKind {
    /// A kernel lock on a side file that is never deleted.
    #[default]
    Kernel,
    /// A side file that exists only while the lock is held; for file systems without kernel locks.
    Exclusive,
}

/// When a lock of the exclusive-create kind may be taken from its holder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stale {
    /// Only on proof that its process is dead.
    #[default]
    ProvedDead,
    /// Also when it is older than this. **Unsafe**: a suspended holder wakes up and believes it still holds the lock.
    OlderThan(Duration),
}

/// Whether a kernel lock is good enough where the file system is on a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NetworkLocks {
    /// Yes. On NFS it excludes other clients, but perhaps not processes on the server itself.
    #[default]
    Accept,
    /// No: fail.
    Refuse,
}

/// How a lock is taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct LockOptions {
    /// The kind; all users of one lock must choose the same.
    pub kind: LockKind,
    /// How long to wait.
    pub wait: Wait,
    /// When a lock of the exclusive-create kind counts as left behind.
    pub stale: Stale,
    /// Whether kernel locks are trusted on network file systems.
    pub network: NetworkLocks,
}

/// Who holds a lock, as far as the lock file tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// The process; `None` where the lock file is empty or unreadable.
    pub process: Option<ProcessIdentity>,
    /// Whether that is this very process (another thread of it, then).
    pub is_this_process: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            None => f.write_str("an unknown process (the lock file does not say)"),
            Some(process) if self.is_this_process => {
                write!(f, "another thread of this process (pid {})", process.pid)
            }
            Some(process) => {
                write!(f, "pid {}", process.pid)?;
                let node = process.host.split('/').next().unwrap_or("");
                if node.is_empty() { Ok(()) } else { write!(f, " on {node}") }
            }
        }
    }
}

/// A held lock. Dropping it releases it; [`Lock::unlock`] says if that failed.
///
/// It counts as held by the thread that took it, even if the value is moved to another.
#[must_use = "the lock is released when this value is dropped"]
pub struct Lock {
    held: Option<Held>,
    path: PathBuf,
    /// After a fork, the child's copy of this value releases nothing.
    pid: u32,
    /// Dropped last: the next thread of this process may go on only when the lock itself is free.
    permit: Permit,
}

enum Held {
    Kernel(kernel::Guard),
    Exclusive(exclusive::Guard),
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("path", &self.path)
            .field("ticket", &self.permit.ticket())
            .finish_non_exhaustive()
    }
}

impl Lock {
    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of this taking in the order in which the threads of this process arrived at the lock.
    #[cfg(shuttle)]
    #[doc(hidden)]
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.permit.ticket()
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// At [`Stage::Lock`], where the lock could not be released or was no longer ours: then what was done under
    /// it may have collided with somebody else's work.
    pub fn unlock(mut self) -> Result<()> {
        self.release()
    }

    fn release(&mut self) -> Result<()> {
        let Some(held) = self.held.take() else { return Ok(()) };
        if self.pid != std::process::id() {
            return Ok(());
        }
        match held {
            Held::Kernel(guard) => guard.release(&self.path),
            Held::Exclusive(guard) => guard.release(&self.path),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, "a lock was not released properly");
        }
    }
}

/// Where a lock file is and who asks for it.
struct Request<'a> {
    dir: &'a Dir,
    /// The directory of the protected file, its link followed.
    at: Arc<dyn media::Dir>,
    name: OsString,
    path: PathBuf,
    options: LockOptions,
    /// On the clock of the environment.
    begun: Duration,
}

impl Request<'_> {
    fn waited(&self) -> Duration {
        self.dir.env.clock.elapsed().saturating_sub(self.begun)
    }

    /// What is left of the waiting time; zero when it is over.
    fn remaining(&self) -> Duration {
        match self.options.wait {
            Wait::DoNotWait => Duration::ZERO,
            Wait::UpTo(limit) => limit.saturating_sub(self.waited()),
        }
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::os(Stage::Lock, &self.path, e)
    }

    fn held_by(&self, body: Option<Body>) -> Error {
        let holder = self.holder(body);
        let cause = Cause::Held { holder, waited: self.waited() };
        Error::new(Stage::Lock, TargetState::Unchanged, &self.path, cause)
    }

    fn holder(&self, body: Option<Body>) -> Holder {
        let process = body.map(|body| body.process());
        let me = self.dir.env.host.this_process().ok();
        Holder { is_this_process: process.is_some() && process == me, process }
    }

    fn other_kind(&self) -> Error {
        Error::new(Stage::Lock, TargetState::Unchanged, &self.path, Cause::Invalid(Invalid::OtherLockKind))
    }

    /// What the file `name` beside the protected one says, if it is there.
    fn read_body(&self, name: &OsStr) -> Result<body::Found> {
        match self.at.open(name, media::Access::Read) {
            Ok(file) => body::read(&*file).map_err(|e| self.failed(e)),
            Err(e) if Reason::of(&e) == Reason::NotFound => Ok(body::Found::Missing),
            Err(e) => Err(self.failed(e)),
        }
    }
}

impl Dir {
    /// Takes the lock that protects the file `name` (which need not exist): `<name>.lock` beside it, or beside the
    /// file it links to. All who change the file must take it; readers need not.
    ///
    /// # Errors
    /// [`Kind::Held`](crate::Kind::Held) after waiting in vain, with the holder; [`Invalid::LockedByThisThread`];
    /// [`Invalid::OtherLockKind`]; [`Kind::Unsupported`](crate::Kind::Unsupported) where the file system has no
    /// kernel locks.
    pub fn lock(&self, name: impl AsRef<Path>, wait: Wait) -> Result<Lock> {
        self.lock_with(name, LockOptions { wait, ..LockOptions::default() })
    }

    /// As [`Dir::lock`], with options.
    ///
    /// # Errors
    /// As [`Dir::lock`].
    pub fn lock_with(&self, name: impl AsRef<Path>, options: LockOptions) -> Result<Lock> {
        let place = self.resolve(name.as_ref(), Symlinks::Follow, Parents::Create, Barriers::Required)?;
        self.lock_place(&place, options)
    }

    /// Locks the file that was resolved, so that nothing is resolved twice.
    pub(crate) fn lock_place(&self, place: &Place, options: LockOptions) -> Result<Lock> {
        let name = side_name(&place.name, LOCK_SUFFIX);
        let request = Request {
            dir: self,
            at: Arc::clone(&place.dir),
            path: place.sibling_path(&name),
            name,
            options,
            begun: self.env.clock.elapsed(),
        };
        if options.kind == LockKind::Kernel && options.network == NetworkLocks::Refuse {
            refuse_network(&request.path, media::describe_mount(&self.path).as_ref())?;
        }
        let permit = queue::enter(&request)?;
        let held = match options.kind {
            LockKind::Kernel => Held::Kernel(kernel::acquire(&request, &permit)?),
            LockKind::Exclusive => Held::Exclusive(exclusive::acquire(&request)?),
        };
        Ok(Lock { held: Some(held), path: request.path, pid: std::process::id(), permit })
    }
}

fn refuse_network(path: &Path, facts: Option<&MountFacts>) -> Result<()> {
    match facts {
        Some(facts) if facts.is_network() => Err(Error::os(
            Stage::Lock,
            path,
            std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                format!("kernel locks on {} may not exclude everybody", facts.fs_type),
            ),
        )),
        _ => Ok(()),
    }
}

/// A lock file is a regular file; anything else under its name is somebody else's.
fn check_kind(request: &Request<'_>, found: &media::Metadata) -> Result<()> {
    if found.kind == FileKind::File {
        return Ok(());
    }
    Err(Error::invalid(&request.path, Invalid::NotARegularFile(found.kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_mode_refuses_kernel_locks_on_network_file_systems() {
        let facts = |fs_type: &str| MountFacts {
            fs_type: fs_type.to_owned(),
            source: String::new(),
            mount_point: "/".to_owned(),
            options: Vec::new(),
            journal: None,
        };
        for network in ["nfs", "nfs4", "cifs", "fuse.sshfs"] {
            let error = refuse_network(Path::new("x.lock"), Some(&facts(network))).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Unsupported);
        }
        assert!(refuse_network(Path::new("x.lock"), Some(&facts("ext4"))).is_ok());
        assert!(refuse_network(Path::new("x.lock"), None).is_ok());
    }
}
