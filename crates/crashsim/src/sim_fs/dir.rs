//! [`SimDir`]: names.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::doubles::Op;
use media::{Access, Dir, Entry, File, FileKind, Metadata, Mode, RenameMode, single_component};

use super::file::SimFile;
use super::{Entered, SimFs, State, UMASK, check_len, code, link_target, os};
use crate::files::FileOp;
use crate::image::{Body, Ino, Node};
use crate::trace::Event;
use crate::witness::Mark;

/// An open directory: it stays the same directory, whatever becomes of its name.
pub(super) struct SimDir {
    pub(super) fs: SimFs,
    pub(super) ino: Ino,
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDir(#{})", self.ino)
    }
}

impl SimDir {
    fn enter(&self, op: Op) -> io::Result<Entered<'_>> {
        self.fs.enter(op)
    }

    fn born(&self, op: Op, name: &OsStr, mode: Mode, body: Body) -> io::Result<Ino> {
        let mut entered = self.enter(op)?;
        let name = entered.state.vacant(self.ino, single_component(name)?)?;
        let ino = entered.state.visible.next_ino();
        let node = Arc::new(Node::new(entered.state.attributes(mode.without(UMASK)), body));
        entered.state.carry_out(FileOp::Create { dir: self.ino, name, ino, node });
        entered.answer(ino)
    }

    fn file(&self, ino: Ino, access: Access) -> Arc<dyn File> {
        let mut state = self.fs.state();
        state.next_handle += 1;
        let handle = state.next_handle;
        drop(state);
        Arc::new(SimFile { fs: self.fs.clone(), ino, access, handle })
    }
}

impl Dir for SimDir {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let entered = self.enter(Op::OpenDir)?;
        let ino = entered.state.resolve(self.ino, path)?;
        let dir: Arc<dyn Dir> = Arc::new(Self { fs: self.fs.clone(), ino });
        entered.answer(dir)
    }

    fn create_exclusive(&self, name: &OsStr, mode: Mode) -> io::Result<Arc<dyn File>> {
        let body = Body::File { len: 0, sectors: BTreeMap::new() };
        let ino = self.born(Op::CreateExclusive, name, mode, body)?;
        Ok(self.file(ino, Access::ReadWrite))
    }

    fn open(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn File>> {
        let entered = self.enter(Op::Open)?;
        let ino = entered.state.lookup(self.ino, single_component(name)?)?;
        match (entered.state.kind(ino), access) {
            (FileKind::Symlink, _) => return Err(os(code::ELOOP)),
            (FileKind::Dir, Access::Write | Access::ReadWrite | Access::Append) => {
                return Err(os(code::EISDIR));
            }
            _ => {}
        }
        entered.answer(())?;
        Ok(self.file(ino, access))
    }

    fn create_dir(&self, name: &OsStr, mode: Mode) -> io::Result<()> {
        self.born(Op::CreateDir, name, mode, Body::Dir(BTreeMap::new())).map(drop)
    }

    fn rename(&self, from: &OsStr, to_dir: &dyn Dir, to: &OsStr, how: RenameMode) -> io::Result<()> {
        let mut entered = self.enter(Op::Rename)?;
        let to_any: &dyn Any = to_dir;
        let Some(to_dir) = to_any.downcast_ref::<Self>() else { return Err(os(code::EXDEV)) };
        if !Arc::ptr_eq(&self.fs.shared, &to_dir.fs.shared) {
            return Err(os(code::EXDEV));
        }
        let (from, to) = (single_component(from)?, single_component(to)?);
        check_len(to)?;
        let state = &mut entered.state;
        let ino = state.lookup(self.ino, from)?;
        let replaced = state.visible.lookup(to_dir.ino, to);
        state.may_rename(ino, replaced, how)?;
        if replaced != Some(ino) {
            state.carry_out(FileOp::Rename {
                from_dir: self.ino,
                from: from.into(),
                to_dir: to_dir.ino,
                to: to.into(),
                ino,
                replaced,
                swapped: replaced.filter(|_| how == RenameMode::Exchange),
            });
        }
        entered.answer(())
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let mut entered = self.enter(Op::Link)?;
        let ino = entered.state.lookup(self.ino, single_component(from)?)?;
        let name = entered.state.vacant(self.ino, single_component(to)?)?;
        if entered.state.kind(ino) == FileKind::Dir {
            // EPERM: directories have one name.
            return Err(os(1));
        }
        entered.state.carry_out(FileOp::Link { dir: self.ino, name, ino });
        entered.answer(())
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        let mut entered = self.enter(Op::Unlink)?;
        let name = single_component(name)?;
        let ino = entered.state.lookup(self.ino, name)?;
        if entered.state.kind(ino) == FileKind::Dir {
            return Err(os(code::EISDIR));
        }
        entered.state.carry_out(FileOp::Unlink { dir: self.ino, name: name.into(), ino });
        entered.answer(())
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let entered = self.enter(Op::ReadLink)?;
        let ino = entered.state.lookup(self.ino, single_component(name)?)?;
        let target = link_target(entered.state.visible.node(ino))?;
        entered.answer(target)
    }

    fn list(&self, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> io::Result<()> {
        let entered = self.enter(Op::List)?;
        let state = &entered.state;
        let entries = state.visible.entries(self.ino).ok_or_else(|| os(code::ENOTDIR))?;
        let listed: Vec<Entry> = entries
            .iter()
            .map(|(name, &ino)| Entry { name: name.as_ref().to_owned(), kind: Some(state.kind(ino)) })
            .collect();
        entered.answer(())?;
        // Not under the lock: `each` may come back here.
        for entry in listed {
            if each(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self, name: &OsStr) -> io::Result<Metadata> {
        let entered = self.enter(Op::Metadata)?;
        let ino = entered.state.lookup(self.ino, single_component(name)?)?;
        let found = entered.state.metadata(ino)?;
        entered.answer(found)
    }

    fn dir_metadata(&self) -> io::Result<Metadata> {
        let entered = self.enter(Op::DirMetadata)?;
        let found = entered.state.metadata(self.ino)?;
        entered.answer(found)
    }

    fn has_default_acl(&self) -> io::Result<bool> {
        self.enter(Op::HasDefaultAcl)?.answer(false)
    }

    fn set_dir_mode(&self, mode: Mode) -> io::Result<()> {
        let mut entered = self.enter(Op::SetDirMode)?;
        entered.state.carry_out(FileOp::SetMode { ino: self.ino, mode });
        entered.answer(())
    }

    fn sync(&self) -> io::Result<()> {
        self.enter(Op::DirSync)?.barrier(|outcome| FileOp::SyncDir { ino: self.ino, outcome })
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        self.enter(Op::SyncFilesystem)?.barrier(|outcome| FileOp::SyncAll { outcome })
    }

    fn mark(&self, point: &'static str) {
        self.fs.state().note(Event::Mark(Mark::Point(point)));
    }
}

impl State {
    /// Refuses what no file system would do.
    fn may_rename(&self, ino: Ino, replaced: Option<Ino>, how: RenameMode) -> io::Result<()> {
        match (how, replaced) {
            (RenameMode::Exchange, None) => return Err(os(code::ENOENT)),
            (RenameMode::NoReplace, Some(_)) => return Err(os(code::EEXIST)),
            (RenameMode::Exchange, Some(_)) | (_, None) => return Ok(()),
            (RenameMode::Replace, Some(_)) => {}
        }
        let Some(other) = replaced else { return Ok(()) };
        match (self.kind(ino) == FileKind::Dir, self.visible.entries(other)) {
            (true, None) => Err(os(code::ENOTDIR)),
            (false, Some(_)) => Err(os(code::EISDIR)),
            (true, Some(entries)) if !entries.is_empty() && other != ino => Err(os(code::ENOTEMPTY)),
            (true, Some(_)) | (false, None) => Ok(()),
        }
    }
}
