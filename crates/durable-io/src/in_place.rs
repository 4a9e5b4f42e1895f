//! Overwriting a file in place: for files that several names share, or that a mount point pins. **Not
//! atomic**, and only where the caller's policy asks for it. A durable backup comes first.

use std::io;
use std::sync::Arc;

use media::{Access, Env, FileKind, Mode, Reason};

use crate::dir::{Place, sync_dir};
use crate::error::{Cause, Error, Invalid, Leftover, Result, Stage, TargetState};
use crate::name::Purpose;
use crate::options::{Barriers, Durability, WriteOptions};
use crate::staged::{Temp, read_full};

const CHUNK_LEN: usize = 128 << 10;

/// What an overwrite has reached.
pub(crate) struct Overwritten {
    /// As durable as its weakest barrier, which may be one for the backup's name.
    pub(crate) durability: Durability,
    /// The backup and the staged file, as far as they could not be removed.
    pub(crate) leftovers: [Option<Leftover>; 2],
}

/// Copies `new` over the file at `place`.
///
/// Backup: copy, file barrier, directory barrier. Then overwrite, cut to length, file barrier; then remove the
/// backup and sync the directory, so that it does not come back. A failure after the first overwritten byte
/// leaves the backup and names it in the error.
///
/// Where directories cannot be synced and the caller accepts that, the backup's *bytes* are durable before the first
/// byte is overwritten, and its name is as durable as the file system pleases.
pub(crate) fn overwrite(
    new: &mut Temp,
    place: &Place,
    options: &WriteOptions,
    env: &Env,
) -> Result<Overwritten> {
    let (target, old_mode) = open_target(place)?;
    let mut backup = Temp::create(place, Purpose::Backup, Mode::PRIVATE, env)?;
    let prepared = copy(&*target, &*backup.file)
        .and_then(|_| backup.file.sync_all())
        .and_then(|()| make_name_durable(&backup, options.barriers));
    let backed_up = match prepared {
        Ok(reached) => reached,
        Err(e) => return Err(backup.fail(Error::os(Stage::WriteInPlace, &place.path, e))),
    };
    place.dir.mark("after_backup");
    let overwritten = narrow(&*target, old_mode, options)
        .and_then(|()| copy(&*new.file, &*target))
        .and_then(|len| target.set_len(len))
        .inspect(|()| target.mark("after_write"))
        .and_then(|()| options.mode.map_or(Ok(()), |mode| target.set_mode(mode)))
        .and_then(|()| target.sync_all())
        .inspect(|()| target.mark("after_fsync"));
    if let Err(e) = overwritten {
        let path = backup.path().to_owned();
        backup.disarm();
        return Err(Error::os(Stage::WriteInPlace, &place.path, e)
            .in_state(TargetState::Unknown)
            .with_backup(path));
    }
    let leftovers = [backup.discard(), new.discard()];
    // The new content is durable already; what this barrier settles is that the backup stays gone.
    match sync_dir(&*place.dir, &place.path, options.barriers) {
        Ok(reached) => Ok(Overwritten { durability: backed_up.and(reached), leftovers }),
        Err(error) => Err(leftovers.into_iter().fold(error, Error::with_leftover)),
    }
}

/// Where the mode becomes narrower, that comes first, and durably: the new bytes are never there for the old readers, after
/// a power cut neither.
fn narrow(target: &dyn media::File, old_mode: Mode, options: &WriteOptions) -> io::Result<()> {
    let too_wide = options.mode.map_or(Mode::new(0), |mode| old_mode.without(mode));
    if too_wide == Mode::new(0) {
        return Ok(());
    }
    target.set_mode(old_mode.without(too_wide))?;
    target.sync_all()?;
    target.mark("after_fsync");
    Ok(())
}

fn make_name_durable(backup: &Temp, barriers: Barriers) -> io::Result<Durability> {
    match backup.dir.sync() {
        Ok(()) => Ok(Durability::Durable),
        Err(e) => {
            let reason = Reason::of(&e);
            if barriers == Barriers::AllowVisibleOnly && reason.means_barrier_unsupported() {
                return Ok(Durability::VisibleOnly(reason));
            }
            Err(e)
        }
    }
}

/// Opens the file that was looked at, and no other; tells its mode.
fn open_target(place: &Place) -> Result<(Arc<dyn media::File>, Mode)> {
    let fail = |e| Error::os(Stage::WriteInPlace, &place.path, e);
    let target = place.dir.open(&place.name, Access::ReadWrite).map_err(fail)?;
    let found = target.metadata().map_err(fail)?;
    if found.kind != FileKind::File {
        return Err(Error::invalid(&place.path, Invalid::NotARegularFile(found.kind)));
    }
    if place.existing.is_none_or(|existing| existing.id != found.id) {
        return Err(Error::new(Stage::WriteInPlace, TargetState::Unchanged, &place.path, Cause::Changed));
    }
    Ok((target, found.mode))
}

fn copy(from: &dyn media::File, to: &dyn media::File) -> io::Result<u64> {
    let mut buffer = vec![0_u8; CHUNK_LEN];
    let mut at = 0;
    loop {
        let chunk = read_full(from, at, &mut buffer)?;
        if chunk.is_empty() {
            return Ok(at);
        }
        media::write_all_at(to, at, chunk)?;
        at += u64::try_from(chunk.len()).map_err(io::Error::other)?;
    }
}
