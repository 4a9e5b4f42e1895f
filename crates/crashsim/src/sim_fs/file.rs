//! [`SimFile`]: bytes, attributes, locks.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;

use media::doubles::Op;
use media::sync::PoisonError;
use media::{Access, DiskFacts, DiskMedium, File, FileKind, LockWait, Metadata, Mode, Owner, Timestamp};

use super::{Entered, FILE_LEN_MAX, SimFs, code, os};
use crate::fault::Fault;
use crate::files::{FileOp, Outcome};
use crate::image::{Disks, Ino};
use crate::trace::Event;
use crate::witness::Mark;

/// An open file.
pub(super) struct SimFile {
    pub(super) fs: SimFs,
    pub(super) ino: Ino,
    pub(super) access: Access,
    /// Whose lock is whose.
    pub(super) handle: u64,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile(#{}, {:?})", self.ino, self.access)
    }
}

impl SimFile {
    fn enter(&self, op: Op) -> io::Result<Entered<'_>> {
        self.fs.enter(op)
    }

    fn may_write(&self) -> io::Result<()> {
        match self.access {
            Access::Read => Err(os(code::EBADF)),
            Access::Write | Access::ReadWrite | Access::Append => Ok(()),
        }
    }

    fn write(&self, mut entered: Entered<'_>, offset: u64, from: &[u8]) -> io::Result<usize> {
        let taken = entered.taken(from);
        let count = taken.len();
        let end = offset.checked_add(u64::try_from(count).unwrap_or(u64::MAX));
        if end.is_none_or(|end| end > FILE_LEN_MAX) {
            return Err(os(code::EFBIG));
        }
        if count > 0 {
            entered.state.carry_out(FileOp::Write { ino: self.ino, offset, bytes: taken.into() });
        }
        entered.answer(count)
    }
}

impl File for SimFile {
    fn metadata(&self) -> io::Result<Metadata> {
        let entered = self.enter(Op::Metadata)?;
        let found = entered.state.metadata(self.ino)?;
        entered.answer(found)
    }

    fn modified(&self) -> io::Result<Timestamp> {
        let entered = self.enter(Op::Modified)?;
        let when = entered.state.modified(self.ino);
        entered.answer(when)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let entered = self.enter(Op::ReadAt)?;
        if self.access == Access::Write {
            return Err(os(code::EBADF));
        }
        if entered.state.kind(self.ino) == FileKind::Dir {
            return Err(os(code::EISDIR));
        }
        let count = entered.state.visible.read(self.ino, offset, into);
        entered.answer(count)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        let entered = self.enter(Op::WriteAt)?;
        match self.access {
            Access::Read => Err(os(code::EBADF)),
            Access::Append => Err(os(code::EINVAL)),
            Access::Write | Access::ReadWrite => self.write(entered, offset, from),
        }
    }

    fn append(&self, from: &[u8]) -> io::Result<usize> {
        let entered = self.enter(Op::Append)?;
        if self.access != Access::Append {
            return Err(os(code::EINVAL));
        }
        let end = entered.state.visible.file_len(self.ino).unwrap_or(0);
        self.write(entered, end, from)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut entered = self.enter(Op::SetLen)?;
        self.may_write()?;
        if len > FILE_LEN_MAX {
            return Err(os(code::EFBIG));
        }
        entered.state.carry_out(FileOp::SetLen { ino: self.ino, len });
        entered.answer(())
    }

    /// There is always room; a full disk is a fault of one's choice.
    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut entered = self.enter(Op::Allocate)?;
        self.may_write()?;
        if len > FILE_LEN_MAX {
            return Err(os(code::ENOSPC));
        }
        entered.state.carry_out(FileOp::Allocate { ino: self.ino, len });
        entered.answer(())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.enter(Op::StartWriteback)?.answer(())
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        let mut entered = self.enter(Op::SetMode)?;
        entered.state.carry_out(FileOp::SetMode { ino: self.ino, mode });
        entered.answer(())
    }

    fn set_owner(&self, owner: Owner) -> io::Result<()> {
        let mut entered = self.enter(Op::SetOwner)?;
        entered.state.carry_out(FileOp::SetOwner { ino: self.ino, owner });
        entered.answer(())
    }

    fn xattr_names(&self) -> io::Result<Vec<OsString>> {
        let entered = self.enter(Op::XattrNames)?;
        let node = entered.state.visible.node(self.ino);
        let names = node.map(|node| node.attributes.xattrs.keys().cloned().collect()).unwrap_or_default();
        entered.answer(names)
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        let entered = self.enter(Op::Xattr)?;
        let node = entered.state.visible.node(self.ino);
        let value = node.and_then(|node| node.attributes.xattrs.get(name)).cloned();
        let value = value.ok_or_else(|| os(code::ENODATA))?;
        entered.answer(value)
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        let mut entered = self.enter(Op::SetXattr)?;
        let op = FileOp::SetXattr { ino: self.ino, name: name.to_owned(), value: value.into() };
        entered.state.carry_out(op);
        entered.answer(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(Op::SyncAll, false)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(Op::SyncData, true)
    }

    fn as_disk(&self, _block_size: u32) -> io::Result<DiskFacts> {
        if self.fs.state().visible.disks() == Disks::Plain {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let entered = self.enter(Op::AsDisk)?;
        let len = entered.state.visible.file_len(self.ino).ok_or_else(|| os(code::EINVAL))?;
        let (medium, allocated) = (DiskMedium::File, None);
        entered.answer(DiskFacts { medium, len, direct: None, write_durable: true, allocated })
    }

    fn write_at_durable(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        if self.fs.state().visible.disks() == Disks::Plain {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ino = self.ino;
        let mut entered = self.enter(Op::WriteAtDurable)?;
        self.may_write()?;
        if self.access == Access::Append {
            return Err(os(code::EINVAL));
        }
        let taken = entered.taken(from);
        let len = u64::try_from(taken.len()).unwrap_or(u64::MAX);
        if offset.checked_add(len).is_none_or(|end| end > FILE_LEN_MAX) {
            return Err(os(code::EFBIG));
        }
        let failed = match entered.fault {
            Some(Fault::Fail(code) | Fault::FailAfter(code)) => Some(code),
            Some(Fault::Short(_)) | None => None,
        };
        if len > 0 && !matches!(entered.fault, Some(Fault::Fail(_))) {
            entered.state.carry_out(FileOp::Write { ino, offset, bytes: taken.into() });
        }
        // What the system has to say of anything that was written before, it says now, and never again.
        let barrier = match failed {
            Some(_) => FileOp::SyncFile { ino, data_only: true, outcome: Outcome::Failed },
            None => FileOp::SyncWritten { ino, offset, len },
        };
        entered.state.carry_out(barrier);
        failed.map_or(Ok(taken.len()), |code| Err(os(code)))
    }

    fn lock(&self, wait: LockWait) -> io::Result<()> {
        let mut state = self.enter(Op::Lock)?.state;
        loop {
            match state.locks.get(&self.ino) {
                Some(holder) if *holder != self.handle => {}
                _ => break,
            }
            if wait == LockWait::DoNotWait {
                return Err(os(code::EAGAIN));
            }
            state = self.fs.shared.unlocked.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.locks.insert(self.ino, self.handle);
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        let entered = self.enter(Op::Unlock)?;
        entered.answer(())?;
        self.release();
        Ok(())
    }

    fn mark(&self, point: &'static str) {
        self.fs.state().note(Event::Mark(Mark::Point(point)));
    }
}

impl SimFile {
    fn sync(&self, op: Op, data_only: bool) -> io::Result<()> {
        let ino = self.ino;
        self.enter(op)?.barrier(|outcome| FileOp::SyncFile { ino, data_only, outcome })
    }

    fn release(&self) {
        let mut state = self.fs.state();
        if state.locks.get(&self.ino) == Some(&self.handle) {
            state.locks.remove(&self.ino);
        }
        drop(state);
        self.fs.shared.unlocked.notify_all();
    }
}

impl Drop for SimFile {
    /// A closed handle holds no lock.
    fn drop(&mut self) {
        self.release();
    }
}
