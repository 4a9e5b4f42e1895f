//! How a file is written: every choice a caller has, and what was reached.

use media::{Mode, Reason, Timestamp};

/// How a replace or a create goes about its target. The default keeps the mode of an existing file, follows
/// symbolic links, replaces one name of a hard-linked file, creates missing parents, and insists on every
/// barrier.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// The permission bits, exactly (the umask does not apply). `None`: those of the file that is replaced
    /// (set-id bits only where the owner stays the same), or `0666` less the umask for a new one.
    pub mode: Option<Mode>,
    /// What else a replaced file hands on to its successor.
    pub keep: Keep,
    /// What to do where the target is a symbolic link.
    pub symlinks: Symlinks,
    /// What to do where the target has several names.
    pub hard_links: HardLinks,
    /// Whether a target that cannot be renamed over may be overwritten.
    pub rename_refused: RenameRefused,
    /// What to do where the content is already as asked.
    pub unchanged: Unchanged,
    /// Replace only if the target is still what was read (compare-and-swap). Without a lock, a writer that
    /// strikes between this last look and the rename is overwritten: the window is a few microseconds.
    pub expect: Option<Stamp>,
    /// What to do where a directory cannot be synced.
    pub barriers: Barriers,
    /// What to do where a parent directory is missing.
    pub parents: Parents,
}

/// What a replaced file hands on to its successor, beside its mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// User and group.
    pub owner: bool,
    /// Extended attributes of the `user.` and `security.` namespaces. One that this process may not set is an
    /// error: a label that goes missing in silence is no label.
    pub xattrs: bool,
    /// The POSIX ACL.
    pub acl: bool,
}

impl Keep {
    /// Everything.
    pub const ALL: Self = Self { owner: true, xattrs: true, acl: true };
}

/// What to do where the target is a symbolic link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Symlinks {
    /// Write the file it leads to, through any number of links (40 at most); the temporary file and the
    /// barrier are in *that* file's directory.
    #[default]
    Follow,
    /// Put a regular file in the place of the link.
    Replace,
    /// Fail.
    Refuse,
}

/// What to do where the target has more than one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HardLinks {
    /// Replace this name only; the others keep the old content. The outcome says how many there were.
    #[default]
    Replace,
    /// Fail.
    Refuse,
    /// Overwrite the shared file, so that all names see the new content. **Not atomic**: a durable backup is
    /// made first, and a failure half-way leaves it, named in the error.
    InPlace,
}

/// What to do where the system refuses the rename (`EBUSY`, as for a bind-mounted file; `EACCES`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RenameRefused {
    /// Fail.
    #[default]
    Fail,
    /// Overwrite in place, **not atomically**, after a durable backup as with [`HardLinks::InPlace`].
    InPlace,
}

/// What to do where the target already has the content asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unchanged {
    /// Replace it all the same.
    #[default]
    Write,
    /// Leave the file alone, but issue the barriers: somebody else may have written it without. (A file that may not
    /// be read is replaced.)
    Skip,
}

/// What to do where the file system cannot sync directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Barriers {
    /// Fail: what was asked for cannot be promised.
    #[default]
    Required,
    /// Succeed with [`Durability::VisibleOnly`].
    AllowVisibleOnly,
}

/// What to do where a parent directory is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Parents {
    /// Create it, durably.
    ///
    /// Where that barrier fails, the directory is there all the same, and nothing marks it: a later call that finds it
    /// takes it for one that was always there. Whoever goes on after such an error (at
    /// [`Stage::SyncDir`](crate::Stage::SyncDir), the target unchanged) must not rely on the new directory before
    /// its parent was synced, by [`Dir::sync_names`](crate::Dir::sync_names) on a handle opened afresh.
    #[default]
    Create,
    /// Fail with [`Kind::NotFound`](crate::Kind::NotFound).
    MustExist,
}

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a power cut.
    Durable,
    /// Every reader sees it; a power cut may undo it. The reason is why the barrier is not offered here.
    VisibleOnly(Reason),
}

impl Durability {
    /// The weaker of the two: a chain is as durable as its weakest barrier.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::Durable => other,
            Self::VisibleOnly(_) => self,
        }
    }
}

/// What a publish did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The name is new.
    Created,
    /// The name had a file, which was replaced atomically.
    Replaced,
    /// The file was overwritten in place, as the policy asked.
    Overwritten,
    /// The content was there already.
    Unchanged,
}

/// The good outcome of a write.
#[derive(Debug)]
pub struct Published {
    /// How far it has come.
    pub durability: Durability,
    /// What was done.
    pub change: Change,
    /// How many other names the replaced file had (and which still show the old content).
    pub other_links: u64,
    /// The length of the content, in bytes.
    pub len: u64,
    /// A file of ours that could not be removed although everything else succeeded. (After an overwrite in place,
    /// where two could not: the backup, which `sweep` leaves alone.)
    pub leftover: Option<crate::Leftover>,
    /// The other one, where two could not: only after an overwrite in place, which has a backup and a temporary file.
    pub second_leftover: Option<crate::Leftover>,
}

/// What a file was when it was read, for compare-and-swap: which file, how long, when changed, and the SHA-256 of
/// its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(pub(crate) StampOf);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StampOf {
    Missing,
    File { id: Option<media::FileId>, len: u64, modified: Timestamp, digest: [u8; 32] },
}

impl Stamp {
    /// The stamp of a file that does not exist: expecting it makes a write a create.
    #[must_use]
    pub fn missing() -> Self {
        Self(StampOf::Missing)
    }
}
