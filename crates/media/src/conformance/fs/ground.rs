//! What the checks of the file seam stand on: a directory each, and words for what must hold.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::{Access, Dir, File, Fs, Metadata, Mode, Reason, RenameMode};

/// Why a check failed.
pub(super) struct Failed(pub(super) String);

pub(super) type Outcome<T = ()> = Result<T, Failed>;

/// What a check works on: a directory of its own.
pub(super) struct Ground {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) root: Arc<dyn Dir>,
    pub(super) dir: Arc<dyn Dir>,
    pub(super) unsupported: Vec<&'static str>,
}

impl Ground {
    pub(super) fn prepare(fs: &Arc<dyn Fs>, root: &Path, check: &str) -> Outcome<Self> {
        let root = must("open the root", fs.open_dir(root))?;
        let name = check.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        must("make the check's directory", root.create_dir(name.as_ref(), Mode::PRIVATE_DIR))?;
        let dir = must("open the check's directory", root.open_dir(name.as_ref()))?;
        Ok(Self { fs: Arc::clone(fs), root, dir, unsupported: Vec::new() })
    }

    pub(super) fn create(&self, name: &str, bytes: &[u8]) -> Outcome<Arc<dyn File>> {
        create_in(&*self.dir, name, bytes)
    }

    pub(super) fn open(&self, name: &str, access: Access) -> Outcome<Arc<dyn File>> {
        must("open", self.dir.open(name.as_ref(), access))
    }

    pub(super) fn subdir(&self, name: &str) -> Outcome<Arc<dyn Dir>> {
        must("create_dir", self.dir.create_dir(name.as_ref(), Mode::PRIVATE_DIR))?;
        must("open_dir", self.dir.open_dir(name.as_ref()))
    }

    pub(super) fn rename(&self, from: &str, to: &str, how: RenameMode) -> io::Result<()> {
        self.dir.rename(from.as_ref(), &*self.dir, to.as_ref(), how)
    }

    pub(super) fn stat(&self, name: &str) -> Outcome<Metadata> {
        must("metadata", self.dir.metadata(name.as_ref()))
    }

    /// The bytes behind a name must be these.
    pub(super) fn holds(&self, name: &str, bytes: &[u8]) -> Outcome {
        holds(&*self.dir, name, bytes)
    }

    /// `None`, and a line in the report, where the call answers exactly [`Reason::Unsupported`].
    pub(super) fn optional<T>(&mut self, what: &'static str, result: io::Result<T>) -> Outcome<Option<T>> {
        match result {
            Err(error) if Reason::of(&error) == Reason::Unsupported => {
                self.unsupported.push(what);
                Ok(None)
            }
            other => must(what, other).map(Some),
        }
    }
}

pub(super) fn must<T>(what: &str, result: io::Result<T>) -> Outcome<T> {
    result.map_err(|error| Failed(format!("{what} failed: {error} ({:?})", Reason::of(&error))))
}

pub(super) fn ensure(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(Failed(format!("it does not hold that {what}"))) }
}

pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Outcome {
    if found == wanted {
        return Ok(());
    }
    Err(Failed(format!("{what}: found {found:?}, wanted {wanted:?}")))
}

/// The call must fail, for one of these reasons.
pub(super) fn fails<T>(what: &str, result: io::Result<T>, allowed: &[Reason]) -> Outcome {
    match result {
        Ok(_) => Err(Failed(format!("{what} succeeded, wanted {allowed:?}"))),
        Err(error) if allowed.contains(&Reason::of(&error)) => Ok(()),
        Err(error) => {
            Err(Failed(format!("{what} failed with {:?} ({error}), wanted {allowed:?}", Reason::of(&error))))
        }
    }
}

pub(super) fn create_in(dir: &dyn Dir, name: &str, bytes: &[u8]) -> Outcome<Arc<dyn File>> {
    let file = must("create_exclusive", dir.create_exclusive(name.as_ref(), Mode::PRIVATE))?;
    write_all(&*file, 0, bytes)?;
    Ok(file)
}

/// Writes all of it, in as many calls as it takes: a write may take fewer bytes than it is given.
pub(super) fn write_all(file: &dyn File, mut offset: u64, bytes: &[u8]) -> Outcome {
    let mut left = bytes;
    while !left.is_empty() {
        let taken = must("write_at", file.write_at(offset, left))?;
        ensure(
            "a write takes some of its bytes, and no more than it was given",
            (1..=left.len()).contains(&taken),
        )?;
        left = left.get(taken..).unwrap_or_default();
        offset = offset.saturating_add(taken.try_into().unwrap_or(u64::MAX));
    }
    Ok(())
}

pub(super) fn append_all(file: &dyn File, bytes: &[u8]) -> Outcome {
    let mut left = bytes;
    while !left.is_empty() {
        let taken = must("append", file.append(left))?;
        ensure(
            "an append takes some of its bytes, and no more than it was given",
            (1..=left.len()).contains(&taken),
        )?;
        left = left.get(taken..).unwrap_or_default();
    }
    Ok(())
}

/// Everything from `offset` on; reads may be short, only 0 is the end.
pub(super) fn read_from(file: &dyn File, mut offset: u64) -> Outcome<Vec<u8>> {
    let mut all = Vec::new();
    let mut part = [0_u8; 1000];
    loop {
        let count = must("read_at", file.read_at(offset, &mut part))?;
        if count == 0 {
            return Ok(all);
        }
        let Some(read) = part.get(..count) else {
            return Err(Failed("read_at returned more than the buffer holds".to_owned()));
        };
        all.extend_from_slice(read);
        offset = offset.saturating_add(count.try_into().unwrap_or(u64::MAX));
    }
}

pub(super) fn holds(dir: &dyn Dir, name: &str, bytes: &[u8]) -> Outcome {
    let file = must("open to read back", dir.open(name.as_ref(), Access::Read))?;
    same(&format!("the bytes of `{name}`"), read_from(&*file, 0)?, bytes.to_vec())
}

pub(super) fn is_missing(dir: &dyn Dir, name: &str) -> Outcome {
    fails(&format!("metadata of `{name}`, which is gone,"), dir.metadata(name.as_ref()), &[Reason::NotFound])
}

pub(super) fn names_in(dir: &dyn Dir) -> Outcome<Vec<OsString>> {
    let mut names = Vec::new();
    must(
        "list",
        dir.list(&mut |entry| {
            names.push(entry.name);
            ControlFlow::Continue(())
        }),
    )?;
    names.sort();
    Ok(names)
}
