//! Writing at the end of a log, and taking it back.

use std::io;
use std::path::Path;

use media::{File, Reason};

use super::len_of;
use crate::error::{Error, Leftover, Result, Stage, TargetState};

/// The most that one write takes, unless a single record is longer.
const WRITE_LEN: usize = 1 << 20;
/// How many interruptions and partial writes one write may meet before it counts as failed.
const ATTEMPTS_MAX: u32 = 1000;

/// Writes `records`, each with its newline, at `base`, the end of the file: in one write if they fit into one
/// MiB. On an error nothing of them is left, or the error says [`TargetState::Unknown`].
pub(super) fn records<R: AsRef<[u8]>>(file: &dyn File, path: &Path, base: u64, records: &[R]) -> Result<()> {
    let mut buffer = Vec::new();
    let mut at = base;
    let mut outcome = Ok(());
    for record in records.iter().map(AsRef::as_ref) {
        if !buffer.is_empty() && buffer.len() + record.len() + 1 > WRITE_LEN {
            outcome = append_all(file, at, &buffer);
            if outcome.is_err() {
                break;
            }
            at = at.saturating_add(len_of(&buffer));
            buffer.clear();
        }
        buffer.extend_from_slice(record);
        buffer.push(b'\n');
    }
    let outcome = outcome.and_then(|()| append_all(file, at, &buffer));
    outcome.map_err(|e| take_back(file, path, base, Error::os(Stage::Append, path, e)))?;
    file.mark("after_write");
    Ok(())
}

/// Gives a whole last line its newline, durably.
pub(super) fn newline(file: &dyn File, path: &Path, len: u64) -> Result<()> {
    append_all(file, len, b"\n")
        .map_err(|e| take_back(file, path, len, Error::os(Stage::Append, path, e)))?;
    file.mark("after_write");
    file.sync_data().map_err(|e| barrier_failed(path, e))?;
    file.mark("after_fsync");
    Ok(())
}

/// Cuts a log of `len` bytes off at `offset`, durably. The whole barrier, not that for data: the latter promises a
/// new length only where data needs it to be read back, and a shorter one does not.
pub(super) fn cut(file: &dyn File, path: &Path, len: u64, offset: u64) -> Result<()> {
    if let Err(e) = file.set_len(offset) {
        let still = file.metadata().is_ok_and(|found| found.len == len);
        let state = if still { TargetState::Unchanged } else { TargetState::Unknown };
        return Err(Error::os(Stage::Append, path, e).in_state(state));
    }
    file.mark("after_write");
    file.sync_all().map_err(|e| barrier_failed(path, e))?;
    file.mark("after_fsync");
    Ok(())
}

fn barrier_failed(path: &Path, e: io::Error) -> Error {
    Error::os(Stage::SyncFile, path, e).in_state(TargetState::Unknown)
}

/// One write, as a rule. One that the system takes only in part is continued, for two reasons: the lock keeps
/// other writers from getting in between, and it is the next call that says why (a full disk, a quota). An
/// interruption is repeated if the length shows that nothing was written.
fn append_all(file: &dyn File, base: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    for _ in 0..ATTEMPTS_MAX {
        let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
        match file.append(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(e) if Reason::of(&e) == Reason::Interrupted => {
                let taken = u64::try_from(done).map_err(io::Error::other)?;
                if file.metadata()?.len != base.saturating_add(taken) {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
    }
    if done == bytes.len() { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

/// After a failed write: brings the file back to `base`, durably, so that neither a reader nor a power cut finds
/// anything of it. A file that did not grow is left alone.
fn take_back(file: &dyn File, path: &Path, base: u64, error: Error) -> Error {
    match file.metadata() {
        Ok(found) if found.len == base => return error,
        Ok(_) | Err(_) => {}
    }
    match file.set_len(base).and_then(|()| file.sync_all()) {
        Ok(()) => error,
        Err(second) => error
            .in_state(TargetState::Unknown)
            .with_leftover(Some(Leftover { path: path.to_owned(), error: second })),
    }
}
