//! What each barrier costs by itself: the speed of light of everything else.

use std::io;
use std::os::fd::AsFd as _;

use bench_own::{Barrier, Ground, PAYLOAD, Samples, alone, raw};
use rustix::fs::{AtFlags, Mode, OFlags, fdatasync, fsync, openat, unlinkat};

/// All that are measured.
pub(crate) const BARRIERS: &[Barrier] = &[
    Barrier { name: "fsync, 4 KiB in a new file", measure: file },
    Barrier { name: "fsync, directory with a new name", measure: directory },
    Barrier { name: "fdatasync, 4 KiB overwritten", measure: overwrite },
];

fn file(ground: &Ground, rounds: u32) -> io::Result<Samples> {
    let dir = raw::open_dir(&ground.fresh_dir()?)?;
    let prepare = |number: u64| {
        let name = format!("f-{number}");
        let file = raw::create(dir.as_fd(), &name)?;
        raw::write_all(file.as_fd(), &PAYLOAD)?;
        unlinkat(&dir, &name, AtFlags::empty())?;
        raw::create(dir.as_fd(), &name).and_then(|file| {
            raw::write_all(file.as_fd(), &PAYLOAD)?;
            Ok(file)
        })
    };
    alone(rounds, prepare, |file| Ok(fsync(file)?))
}

fn directory(ground: &Ground, rounds: u32) -> io::Result<Samples> {
    let dir = raw::open_dir(&ground.fresh_dir()?)?;
    let prepare = |number: u64| {
        let file = raw::create(dir.as_fd(), &format!("f-{number}"))?;
        raw::write_all(file.as_fd(), &PAYLOAD)?;
        // Only the name is left to do for the barrier that is measured.
        fsync(&file)?;
        raw::create(dir.as_fd(), &format!("g-{number}")).map(drop)
    };
    alone(rounds, prepare, |()| Ok(fsync(&dir)?))
}

fn overwrite(ground: &Ground, rounds: u32) -> io::Result<Samples> {
    const BLOCKS: u64 = 256;
    let dir = raw::open_dir(&ground.fresh_dir()?)?;
    let file = openat(
        &dir,
        "preallocated",
        OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )?;
    for _ in 0..BLOCKS {
        raw::write_all(file.as_fd(), &PAYLOAD)?;
    }
    fsync(&file)?;
    fsync(&dir)?;
    let prepare = |number: u64| {
        let offset = number % BLOCKS * 4096;
        match rustix::io::pwrite(&file, &PAYLOAD, offset)? {
            4096 => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    };
    alone(rounds, prepare, |()| Ok(fdatasync(&file)?))
}
