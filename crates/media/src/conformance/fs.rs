//! What every [`Fs`], [`Dir`](crate::Dir) and [`File`] must do while the power stays on. (What may be left when it does
//! not is for the simulators and their explorers.)

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::{
    Access, Alignment, DiskAlias, DiskMedium, File, FileKind, Fs, LockWait, Metadata, Mode, NAME_LEN_MAX,
    Reason, RenameMode,
};

mod ground;

use ground::{
    Failed, Ground, Outcome, append_all, create_in, ensure, fails, holds, is_missing, must, names_in,
    read_from, same, write_all,
};

/// How long a lock that was released may take to wake the thread that waits for it.
const WAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the caller has put symbolic links into the root: the seam has no call that makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// The root holds the links `dangling` → `nowhere` and `to-file` → `target`, and neither `nowhere` nor
    /// `target`.
    Arranged,
    /// The checks that need them are left out.
    LeftOut,
}

/// What [`file_system`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystemReport {
    /// How many checks passed.
    pub passed: usize,
    /// What the implementation answered [`Reason::Unsupported`] to, where the contract lets it.
    pub unsupported: BTreeSet<&'static str>,
}

/// Runs every check of the file seam below `root`, an existing directory that the caller removes afterwards.
///
/// # Panics
/// If a check fails; the message names the check.
#[expect(clippy::panic, reason = "a conformance suite reports to the test that runs it")]
pub fn file_system(fs: &Arc<dyn Fs>, root: &Path, symlinks: Symlinks) -> FileSystemReport {
    let mut report = FileSystemReport { passed: 0, unsupported: BTreeSet::new() };
    let linked: &[Check] = match symlinks {
        Symlinks::Arranged => &SYMLINK_CHECKS,
        Symlinks::LeftOut => &[],
    };
    for &(name, check) in CHECKS.iter().chain(linked) {
        let outcome = Ground::prepare(fs, root, name).and_then(|mut ground| {
            check(&mut ground)?;
            Ok(ground.unsupported)
        });
        match outcome {
            Ok(unsupported) => report.unsupported.extend(unsupported),
            Err(Failed(why)) => panic!("conformance: file_system: {name}: {why}"),
        }
        report.passed += 1;
    }
    report
}

type Check = (&'static str, fn(&mut Ground) -> Outcome);

const CHECKS: [Check; 46] = [
    ("create_exclusive makes an empty file, for reading and writing", create_makes_an_empty_file),
    ("create_exclusive refuses what exists and leaves it alone", create_refuses_what_exists),
    ("create takes the umask off the mode", create_takes_the_umask_off),
    ("without a default ACL a new file is no wider than its mode", no_default_acl),
    ("a missing name is NotFound for every call", missing_names),
    ("open never truncates", open_never_truncates),
    ("a handle does only what it was opened for", access_is_kept),
    ("open for writing refuses a directory", open_refuses_a_directory),
    ("reads are at their offset and end at the end", reads_at_offsets),
    ("a write past the end grows the file over a hole of zeros", write_past_the_end),
    ("a write inside keeps the length and the rest", write_inside),
    ("a write is visible to every handle", writes_are_visible),
    ("append goes to the end for two handles", append_by_two_handles),
    ("set_len cuts, and grows with zeros", set_len_both_ways),
    ("allocate changes neither length nor bytes", allocate_keeps_length),
    ("start_writeback changes nothing", start_writeback_is_harmless),
    ("open_disk opens what is there, and as open does", open_disk),
    ("as_disk changes nothing and reads and writes aligned requests", as_disk),
    ("write_at_durable is a write", durable_write),
    ("forget_cached loses nothing", forget_cached),
    ("a file that no loop device is attached to has no other way to it", disk_alias),
    ("rename Replace takes the place of a file", rename_replace),
    ("rename onto the same name changes nothing", rename_to_itself),
    ("rename moves between directories", rename_across),
    ("rename NoReplace leaves both untouched", rename_no_replace),
    ("rename Exchange swaps, and needs both", rename_exchange),
    ("rename moves a directory with what is in it", rename_directory),
    ("identity is kept by rename and differs between files", identity),
    ("link gives a second name and refuses an existing one", link),
    ("unlink keeps open handles usable", unlink_keeps_handles),
    ("unlink refuses a directory", unlink_refuses_a_directory),
    ("list shows exactly the names", list_shows_exactly_the_names),
    ("list stops when told to", list_stops),
    ("metadata tells kind and length of what the name refers to", metadata_facts),
    ("create_dir refuses what exists; a file is no directory", create_dir),
    ("open_dir takes relative paths", open_dir_relative),
    ("set_mode shows", set_mode),
    ("set_owner to the present owner is harmless", set_owner),
    ("a name of 255 bytes works and one of 256 is too long", name_length),
    ("a name is a single component", names_are_single_components),
    ("extended attributes come back as they were set", xattr),
    ("a lock shuts out a second handle until unlock", lock_excludes),
    ("dropping the handle releases the lock", lock_released_by_drop),
    ("a waiting lock wakes up", lock_wakes_a_waiter),
    ("file barriers succeed on every kind of handle", file_barriers),
    ("directory barriers succeed or are unsupported", dir_barriers),
];

const SYMLINK_CHECKS: [Check; 2] = [
    ("create_exclusive refuses a dangling symbolic link", create_refuses_a_dangling_link),
    ("open never follows a symbolic link", open_never_follows_a_link),
];

fn create_makes_an_empty_file(ground: &mut Ground) -> Outcome {
    let file = ground.create("new", b"")?;
    let facts = must("metadata of the handle", file.metadata())?;
    same("its kind", facts.kind, FileKind::File)?;
    same("its length", facts.len, 0)?;
    same("its names", facts.links, 1)?;
    same("what reading it gives", read_from(&*file, 0)?, Vec::new())?;
    write_all(&*file, 0, b"written")?;
    same("what was written through the same handle", read_from(&*file, 0)?, b"written".to_vec())?;
    ground.holds("new", b"written")
}

fn create_refuses_what_exists(ground: &mut Ground) -> Outcome {
    ground.create("file", b"kept")?;
    must("create_dir", ground.dir.create_dir("dir".as_ref(), Mode::PRIVATE_DIR))?;
    for name in ["file", "dir"] {
        let again = ground.dir.create_exclusive(name.as_ref(), Mode::PRIVATE);
        fails(&format!("create_exclusive over a {name}"), again, &[Reason::AlreadyExists])?;
    }
    ground.holds("file", b"kept")
}

/// Exactly, where the platform keeps nine permission bits; where it keeps one, that one.
fn same_mode(what: &str, found: Metadata, wanted: Mode) -> Outcome {
    if found.id.is_some() {
        return same(what, found.mode, wanted);
    }
    same(what, found.mode.bits() & 0o200, wanted.bits() & 0o200)
}

fn create_takes_the_umask_off(ground: &mut Ground) -> Outcome {
    let umask = must("umask", ground.fs.umask())?;
    for (name, mode) in [("private", Mode::PRIVATE), ("file", Mode::FILE), ("x", Mode::new(0o751))] {
        let file = must("create_exclusive", ground.dir.create_exclusive(name.as_ref(), mode))?;
        let facts = must("metadata", file.metadata())?;
        same_mode("the mode of the new file", facts, mode.without(umask))?;
    }
    must("create_dir", ground.dir.create_dir("dir".as_ref(), Mode::DIR))?;
    let mut facts = ground.stat("dir")?;
    // A directory may inherit set-group-id from its parent.
    facts.mode = facts.mode.without_set_id();
    same_mode("the mode of the new directory", facts, Mode::DIR.without(umask))
}

fn no_default_acl(ground: &mut Ground) -> Outcome {
    // The caller gives a plain directory; one with such an ACL cannot be made through the seam.
    let has = ground.dir.has_default_acl();
    match ground.optional("default ACL", has)? {
        Some(has) => ensure("a plain directory has none", !has),
        None => Ok(()),
    }
}

fn missing_names(ground: &mut Ground) -> Outcome {
    let (dir, gone, not_found) = (&ground.dir, OsStr::new("missing"), [Reason::NotFound]);
    for access in [Access::Read, Access::Write, Access::ReadWrite, Access::Append] {
        fails(&format!("open for {access:?}"), dir.open(gone, access), &not_found)?;
    }
    fails("open_dir", dir.open_dir(gone.as_ref()), &not_found)?;
    fails("metadata", dir.metadata(gone), &not_found)?;
    fails("read_link", dir.read_link(gone), &not_found)?;
    fails("unlink", dir.unlink(gone), &not_found)?;
    fails("rename", ground.rename("missing", "other", RenameMode::Replace), &not_found)?;
    fails("link", dir.link(gone, "other".as_ref()), &[Reason::NotFound, Reason::Unsupported])?;
    same("the names afterwards", names_in(&**dir)?, Vec::new())
}

fn open_never_truncates(ground: &mut Ground) -> Outcome {
    ground.create("file", b"0123456789")?;
    for access in [Access::Read, Access::Write, Access::ReadWrite, Access::Append] {
        let file = ground.open("file", access)?;
        same("the length after open", must("metadata", file.metadata())?.len, 10)?;
    }
    ground.holds("file", b"0123456789")
}

fn access_is_kept(ground: &mut Ground) -> Outcome {
    ground.create("file", b"kept")?;
    let reader = ground.open("file", Access::Read)?;
    ensure("a handle for reading refuses to write", reader.write_at(0, b"X").is_err())?;
    ensure("a handle for reading refuses to cut", reader.set_len(0).is_err())?;
    let writer = ground.open("file", Access::Write)?;
    ensure("a handle for writing refuses to read", writer.read_at(0, &mut [0; 4]).is_err())?;
    let appender = ground.open("file", Access::Append)?;
    same("what a handle for appending reads", read_from(&*appender, 0)?, b"kept".to_vec())?;
    ground.holds("file", b"kept")
}

fn open_refuses_a_directory(ground: &mut Ground) -> Outcome {
    ground.subdir("dir")?;
    for access in [Access::Write, Access::ReadWrite, Access::Append] {
        let opened = ground.dir.open("dir".as_ref(), access);
        fails("open of a directory", opened, &[Reason::IsDirectory, Reason::PermissionDenied])?;
    }
    Ok(())
}

fn reads_at_offsets(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"0123456789")?;
    let mut two = [0_u8; 2];
    same("bytes read at 4", must("read_at", file.read_at(4, &mut two))?, 2)?;
    same("the bytes at 4", two, *b"45")?;
    same("bytes read at 0 afterwards", must("read_at", file.read_at(0, &mut two))?, 2)?;
    same("the bytes at 0", two, *b"01")?;
    same("bytes read across the end", must("read_at", file.read_at(9, &mut two))?, 1)?;
    for offset in [10, 11, 1 << 40] {
        same("bytes read at or past the end", must("read_at", file.read_at(offset, &mut two))?, 0)?;
    }
    same("bytes read into nothing", must("read_at", file.read_at(0, &mut []))?, 0)
}

fn write_past_the_end(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"ab")?;
    write_all(&*file, 10_000, b"yz")?;
    let mut wanted = b"ab".to_vec();
    wanted.resize(10_000, 0);
    wanted.extend_from_slice(b"yz");
    same("the length", must("metadata", file.metadata())?.len, 10_002)?;
    ground.holds("file", &wanted)?;
    same("bytes taken of nothing", must("write_at of nothing", file.write_at(20_000, b""))?, 0)?;
    same("the length after writing nothing", must("metadata", file.metadata())?.len, 10_002)
}

fn write_inside(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"0123456789")?;
    write_all(&*file, 3, b"abc")?;
    same("the length", must("metadata", file.metadata())?.len, 10)?;
    ground.holds("file", b"012abc6789")
}

fn writes_are_visible(ground: &mut Ground) -> Outcome {
    let first = ground.create("file", b"")?;
    let second = ground.open("file", Access::ReadWrite)?;
    write_all(&*first, 0, b"from the first")?;
    same("what the second handle reads", read_from(&*second, 0)?, b"from the first".to_vec())?;
    write_all(&*second, 5, b"THE")?;
    same("what the first handle reads", read_from(&*first, 5)?, b"THE first".to_vec())?;
    same("the length by name", ground.stat("file")?.len, 14)
}

fn append_by_two_handles(ground: &mut Ground) -> Outcome {
    ground.create("file", b"0")?;
    let (a, b) = (ground.open("file", Access::Append)?, ground.open("file", Access::Append)?);
    append_all(&*a, b"aaa")?;
    append_all(&*b, b"bb")?;
    append_all(&*a, b"c")?;
    same("what an appender reads", read_from(&*b, 1)?, b"aaabbc".to_vec())?;
    ground.holds("file", b"0aaabbc")
}

fn set_len_both_ways(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"0123456789")?;
    must("set_len to cut", file.set_len(4))?;
    ground.holds("file", b"0123")?;
    must("set_len to grow", file.set_len(8))?;
    ground.holds("file", b"0123\0\0\0\0")?;
    must("set_len to the same", file.set_len(8))?;
    must("set_len to nothing", file.set_len(0))?;
    ground.holds("file", b"")?;
    same("the length by name", ground.stat("file")?.len, 0)
}

fn allocate_keeps_length(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"0123456789")?;
    for len in [4, 10, 100_000, 0] {
        if ground.optional("allocate", file.allocate(len))?.is_none() {
            break;
        }
    }
    same("the length", must("metadata", file.metadata())?.len, 10)?;
    ground.holds("file", b"0123456789")
}

fn start_writeback_is_harmless(ground: &mut Ground) -> Outcome {
    let bytes: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    let file = ground.create("file", &bytes)?;
    // Errors are nothing to a caller; what counts is that nothing changed.
    for (offset, len) in [(0, 20_000), (4096, 100), (0, 0), (1 << 30, 4096)] {
        let hinted = file.start_writeback(offset, len);
        ensure(
            "start_writeback is taken or unsupported",
            hinted.map_or_else(|e| Reason::of(&e) == Reason::Unsupported, |()| true),
        )?;
    }
    ground.holds("file", &bytes)
}

fn open_disk(ground: &mut Ground) -> Outcome {
    ground.create("file", b"0123456789")?;
    let read = must("open_disk to read", ground.dir.open_disk("file".as_ref(), Access::Read))?;
    same("what it reads", read_from(&*read, 3)?, b"3456789".to_vec())?;
    let write =
        must("open_disk to write, beside it", ground.dir.open_disk("file".as_ref(), Access::ReadWrite))?;
    write_all(&*write, 0, b"ab")?;
    ground.holds("file", b"ab23456789")?;
    ensure("a disk opened to be read refuses to write", read.write_at(0, b"x").is_err())?;
    let missing = ground.dir.open_disk("missing".as_ref(), Access::ReadWrite);
    fails("open_disk of a missing name", missing, &[Reason::NotFound])?;
    is_missing(&*ground.dir, "missing")
}

fn as_disk(ground: &mut Ground) -> Outcome {
    const LEN: usize = 16_384;
    let bytes: Vec<u8> = (0..=250).cycle().take(LEN).collect();
    let file = ground.create("file", &bytes)?;
    let handle = must("open_disk", ground.dir.open_disk("file".as_ref(), Access::ReadWrite))?;
    // Two pages more than one page, so that one page of it is aligned.
    let mut memory = vec![0; 3 * 4096];
    let begin = memory.as_ptr().align_offset(4096);
    let page = memory.get_mut(begin..begin + 4096).unwrap_or_default();
    for block_size in [4096, 512, 65_536, 4096] {
        let Some(facts) = ground.optional("as_disk", handle.as_disk(block_size))? else { return Ok(()) };
        same("its medium", facts.medium, DiskMedium::File)?;
        same("its length", facts.len, 16_384)?;
        if let Some(Alignment { memory, offset }) = facts.direct {
            let bounds = [memory, offset].map(|value| value.is_power_of_two() && value <= Alignment::MAX);
            same("whether the alignment is a power of two and no more than a page", bounds, [true; 2])?;
            ensure("a block is aligned", block_size.is_multiple_of(offset))?;
        }
        page.fill(0);
        same("how much an aligned read gives", must("read_at", handle.read_at(4096, page))?, 4096)?;
        ensure("an aligned read gives what is there", bytes.get(4096..8192) == Some(&*page))?;
    }
    page.fill(7);
    same("how much an aligned write takes", must("write_at", handle.write_at(8192, page))?, 4096)?;
    let seen = read_from(&*file, 8192)?;
    ensure("an aligned write is seen by every handle", seen.get(..4096) == Some(&*page))?;
    same("what is behind it", seen.get(4096..), bytes.get(12_288..))
}

fn durable_write(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"0123456789")?;
    for (offset, bytes, wanted) in
        [(3, &b"abc"[..], &b"012abc6789"[..]), (10, b"de", b"012abc6789de"), (0, b"", b"012abc6789de")]
    {
        let Some(taken) = ground.optional("write_at_durable", file.write_at_durable(offset, bytes))? else {
            return ground.holds("file", b"0123456789");
        };
        same("how much of a few bytes is taken", taken, bytes.len())?;
        ground.holds("file", wanted)?;
    }
    let reader = ground.open("file", Access::Read)?;
    ensure("a handle for reading refuses a durable write", reader.write_at_durable(0, b"x").is_err())?;
    ground.holds("file", b"012abc6789de")
}

fn disk_alias(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"0123456789")?;
    let handle = must("open_disk", ground.dir.open_disk("file".as_ref(), Access::Read))?;
    for handle in [&file, &handle] {
        let found = must("disk_alias", handle.disk_alias())?;
        ensure("nothing is found", matches!(found, DiskAlias::None))?;
    }
    // A look takes no lock.
    let locked = file.lock(LockWait::DoNotWait);
    ground.optional("lock", locked)?;
    must("disk_alias of a locked file", handle.disk_alias())?;
    ground.holds("file", b"0123456789")
}

fn forget_cached(ground: &mut Ground) -> Outcome {
    let bytes: Vec<u8> = (0..=250).cycle().take(20_000).collect();
    let file = ground.create("file", &bytes)?;
    // Dirty pages may not be forgotten, clean ones may.
    if ground.optional("forget_cached", file.forget_cached())?.is_none() {
        return Ok(());
    }
    ground.holds("file", &bytes)?;
    must("sync_data", file.sync_data())?;
    must("forget_cached", file.forget_cached())?;
    ground.holds("file", &bytes)
}

fn rename_replace(ground: &mut Ground) -> Outcome {
    ground.create("new", b"new")?;
    let old = ground.create("old", b"old")?;
    must("rename", ground.rename("new", "old", RenameMode::Replace))?;
    is_missing(&*ground.dir, "new")?;
    ground.holds("old", b"new")?;
    same("what a handle of the replaced file reads", read_from(&*old, 0)?, b"old".to_vec())?;
    must("rename to a free name", ground.rename("old", "free", RenameMode::Replace))?;
    ground.holds("free", b"new")?;
    same("the names", names_in(&*ground.dir)?, vec!["free".into()])
}

fn rename_to_itself(ground: &mut Ground) -> Outcome {
    ground.create("file", b"kept")?;
    must("rename", ground.rename("file", "file", RenameMode::Replace))?;
    ground.holds("file", b"kept")
}

fn rename_across(ground: &mut Ground) -> Outcome {
    let (a, b) = (ground.subdir("a")?, ground.subdir("b")?);
    let file = create_in(&*a, "file", b"moved")?;
    create_in(&*b, "other", b"replaced")?;
    must("rename to a free name", a.rename("file".as_ref(), &*b, "here".as_ref(), RenameMode::Replace))?;
    holds(&*b, "here", b"moved")?;
    must("rename over a file", b.rename("here".as_ref(), &*b, "other".as_ref(), RenameMode::Replace))?;
    must("rename back", b.rename("other".as_ref(), &*a, "back".as_ref(), RenameMode::Replace))?;
    same("the names in the first", names_in(&*a)?, vec!["back".into()])?;
    same("the names in the second", names_in(&*b)?, Vec::new())?;
    write_all(&*file, 0, b"M")?;
    holds(&*a, "back", b"Moved")
}

fn rename_no_replace(ground: &mut Ground) -> Outcome {
    let other = ground.subdir("other")?;
    ground.create("from", b"from")?;
    ground.create("to", b"to")?;
    create_in(&*other, "to", b"to")?;
    let within = ground.rename("from", "to", RenameMode::NoReplace);
    let across = ground.dir.rename("from".as_ref(), &*other, "to".as_ref(), RenameMode::NoReplace);
    for refused in [within, across] {
        fails("rename NoReplace over a file", refused, &[Reason::AlreadyExists, Reason::Unsupported])?;
    }
    ground.holds("from", b"from")?;
    ground.holds("to", b"to")?;
    holds(&*other, "to", b"to")?;
    let free = ground.rename("from", "free", RenameMode::NoReplace);
    if ground.optional("rename NoReplace", free)?.is_none() {
        return ground.holds("from", b"from");
    }
    is_missing(&*ground.dir, "from")?;
    must(
        "rename NoReplace to a free name elsewhere",
        ground.dir.rename("free".as_ref(), &*other, "free".as_ref(), RenameMode::NoReplace),
    )?;
    is_missing(&*ground.dir, "free")?;
    holds(&*other, "free", b"from")
}

fn rename_exchange(ground: &mut Ground) -> Outcome {
    let other = ground.subdir("other")?;
    ground.create("one", b"one")?;
    create_in(&*other, "two", b"two")?;
    let swapped = ground.dir.rename("one".as_ref(), &*other, "two".as_ref(), RenameMode::Exchange);
    if ground.optional("rename Exchange", swapped)?.is_none() {
        ground.holds("one", b"one")?;
        return holds(&*other, "two", b"two");
    }
    ground.holds("one", b"two")?;
    holds(&*other, "two", b"one")?;
    let lonely = ground.rename("one", "missing", RenameMode::Exchange);
    fails("rename Exchange with a missing name", lonely, &[Reason::NotFound])?;
    ground.holds("one", b"two")?;
    is_missing(&*ground.dir, "missing")
}

fn rename_directory(ground: &mut Ground) -> Outcome {
    let sub = ground.subdir("sub")?;
    create_in(&*sub, "inside", b"inside")?;
    must("rename", ground.rename("sub", "moved", RenameMode::Replace))?;
    is_missing(&*ground.dir, "sub")?;
    let moved = must("open_dir", ground.dir.open_dir("moved".as_ref()))?;
    holds(&*moved, "inside", b"inside")
}

fn identity(ground: &mut Ground) -> Outcome {
    let other = ground.subdir("other")?;
    let one = ground.create("one", b"1")?;
    let two = ground.create("two", b"2")?;
    let id = must("metadata", one.metadata())?.id;
    if id.is_none() {
        ground.unsupported.push("identity");
        return Ok(());
    }
    ensure("two files have two identities", id != must("metadata", two.metadata())?.id)?;
    ensure("a file is not its directory", id != must("dir_metadata", ground.dir.dir_metadata())?.id)?;
    same("the identity by name", ground.stat("one")?.id, id)?;
    must("rename", ground.dir.rename("one".as_ref(), &*other, "moved".as_ref(), RenameMode::Replace))?;
    same("the identity after a rename", must("metadata", other.metadata("moved".as_ref()))?.id, id)?;
    same("the identity of the handle", must("metadata", one.metadata())?.id, id)?;
    same(
        "the identity of the directory by name",
        ground.stat("other")?.id,
        must("dir_metadata", other.dir_metadata())?.id,
    )
}

fn link(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"shared")?;
    ground.create("taken", b"taken")?;
    let linked = ground.dir.link("file".as_ref(), "second".as_ref());
    if ground.optional("link", linked)?.is_none() {
        return is_missing(&*ground.dir, "second");
    }
    let refused = ground.dir.link("file".as_ref(), "taken".as_ref());
    fails("link to an existing name", refused, &[Reason::AlreadyExists])?;
    ground.holds("taken", b"taken")?;
    write_all(&*file, 0, b"S")?;
    ground.holds("second", b"Shared")?;
    let (first, second) = (ground.stat("file")?, ground.stat("second")?);
    same("the identity of the second name", second.id, first.id)?;
    if first.id.is_some() {
        same("the names counted", (first.links, second.links), (2, 2))?;
    }
    must("unlink", ground.dir.unlink("file".as_ref()))?;
    same("the names counted after unlink", ground.stat("second")?.links, 1)?;
    ground.holds("second", b"Shared")
}

fn unlink_keeps_handles(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"still here")?;
    must("unlink", ground.dir.unlink("file".as_ref()))?;
    is_missing(&*ground.dir, "file")?;
    fails("unlink of what is gone", ground.dir.unlink("file".as_ref()), &[Reason::NotFound])?;
    write_all(&*file, 0, b"S")?;
    same("what the handle reads", read_from(&*file, 0)?, b"Still here".to_vec())?;
    let again = ground.create("file", b"another")?;
    same("what the old handle reads", read_from(&*file, 0)?, b"Still here".to_vec())?;
    same("what the new handle reads", read_from(&*again, 0)?, b"another".to_vec())
}

fn unlink_refuses_a_directory(ground: &mut Ground) -> Outcome {
    ground.subdir("dir")?;
    // POSIX wants EPERM, Linux says EISDIR.
    let refused = ground.dir.unlink("dir".as_ref());
    fails("unlink of a directory", refused, &[Reason::IsDirectory, Reason::PermissionDenied])?;
    same("its kind", ground.stat("dir")?.kind, FileKind::Dir)
}

fn list_shows_exactly_the_names(ground: &mut Ground) -> Outcome {
    same("the names in an empty directory", names_in(&*ground.dir)?, Vec::new())?;
    let mut wanted: BTreeSet<OsString> = BTreeSet::new();
    for index in 0..200 {
        let name = format!("{index:03}-entry");
        ground.create(&name, b"")?;
        wanted.insert(name.into());
    }
    for hidden in [".hidden", "..two", "..."] {
        ground.create(hidden, b"")?;
        wanted.insert(hidden.into());
    }
    must("unlink", ground.dir.unlink("117-entry".as_ref()))?;
    wanted.remove(OsStr::new("117-entry"));
    must("rename", ground.rename("118-entry", "renamed", RenameMode::Replace))?;
    wanted.remove(OsStr::new("118-entry"));
    wanted.insert("renamed".into());
    must("create_dir", ground.dir.create_dir("sub".as_ref(), Mode::PRIVATE_DIR))?;
    wanted.insert("sub".into());
    let wanted: Vec<OsString> = wanted.into_iter().collect();
    // Twice: a list begins at the beginning, whatever an earlier one has read.
    for _ in 0..2 {
        same("the names", names_in(&*ground.dir)?, wanted.clone())?;
    }
    let mut wrong = Vec::new();
    must(
        "list",
        ground.dir.list(&mut |entry| {
            let kind = if entry.name == "sub" { FileKind::Dir } else { FileKind::File };
            if entry.kind.is_some_and(|said| said != kind) {
                wrong.push(entry);
            }
            ControlFlow::Continue(())
        }),
    )?;
    same("entries of the wrong kind", wrong, Vec::new())
}

fn list_stops(ground: &mut Ground) -> Outcome {
    for name in ["a", "b", "c", "d"] {
        ground.create(name, b"")?;
    }
    let mut calls = 0;
    must(
        "list",
        ground.dir.list(&mut |_| {
            calls += 1;
            if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }),
    )?;
    same("entries seen before the break", calls, 2)?;
    same("entries seen by the next list", names_in(&*ground.dir)?.len(), 4)
}

fn metadata_facts(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", &[7; 4321])?;
    let sub = ground.subdir("sub")?;
    let by_name = ground.stat("file")?;
    same("name and handle", by_name, must("metadata", file.metadata())?)?;
    same("kind and length", (by_name.kind, by_name.len), (FileKind::File, 4321))?;
    let before = must("modified", file.modified())?;
    ensure("nanoseconds are below a second", before.nanos < 1_000_000_000)?;
    write_all(&*file, 0, &[8; 4321])?;
    ensure("time does not go back", must("modified", file.modified())? >= before)?;
    same("the kind of a directory", ground.stat("sub")?.kind, FileKind::Dir)?;
    let (outside, inside) = (ground.stat("sub")?, must("dir_metadata", sub.dir_metadata())?);
    same("directory by name and by handle", (outside.kind, outside.id), (inside.kind, inside.id))?;
    let read_link = ground.dir.read_link("file".as_ref());
    fails("read_link of a file", read_link, &[Reason::InvalidArgument])
}

fn create_dir(ground: &mut Ground) -> Outcome {
    let sub = ground.subdir("sub")?;
    create_in(&*sub, "inside", b"kept")?;
    ground.create("file", b"kept")?;
    for name in ["sub", "file"] {
        let again = ground.dir.create_dir(name.as_ref(), Mode::PRIVATE_DIR);
        fails(&format!("create_dir over `{name}`"), again, &[Reason::AlreadyExists])?;
    }
    holds(&*sub, "inside", b"kept")?;
    ground.holds("file", b"kept")?;
    fails("open_dir of a file", ground.dir.open_dir("file".as_ref()), &[Reason::NotDirectory])?;
    let through = ground.dir.open_dir("file/below".as_ref());
    fails("open_dir through a file", through, &[Reason::NotDirectory, Reason::NotFound])
}

fn open_dir_relative(ground: &mut Ground) -> Outcome {
    let outer = ground.subdir("outer")?;
    must("create_dir", outer.create_dir("inner".as_ref(), Mode::PRIVATE_DIR))?;
    let inner = must("open_dir of two components", ground.dir.open_dir("outer/inner".as_ref()))?;
    create_in(&*inner, "file", b"deep")?;
    for (from, path) in [(&outer, "inner"), (&inner, "."), (&inner, "../inner")] {
        let dir = must(&format!("open_dir of `{path}`"), from.open_dir(path.as_ref()))?;
        holds(&*dir, "file", b"deep")?;
    }
    Ok(())
}

fn set_mode(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"")?;
    for bits in [0o640, 0o400, 0o600] {
        must("set_mode", file.set_mode(Mode::new(bits)))?;
        same_mode("the mode by name", ground.stat("file")?, Mode::new(bits))?;
        same_mode("the mode by handle", must("metadata", file.metadata())?, Mode::new(bits))?;
    }
    for bits in [0o750, 0o700] {
        let set = ground.dir.set_dir_mode(Mode::new(bits));
        if ground.optional("set_dir_mode", set)?.is_some() {
            let facts = must("dir_metadata", ground.dir.dir_metadata())?;
            same_mode("the mode of the directory", facts, Mode::new(bits))?;
        }
    }
    Ok(())
}

fn set_owner(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"kept")?;
    let owner = must("metadata", file.metadata())?.owner;
    ground.optional("set_owner", file.set_owner(owner))?;
    same("the owner", must("metadata", file.metadata())?.owner, owner)?;
    ground.holds("file", b"kept")
}

fn name_length(ground: &mut Ground) -> Outcome {
    let longest = "n".repeat(NAME_LEN_MAX);
    let too_long = "n".repeat(NAME_LEN_MAX + 1);
    ground.create(&longest, b"long")?;
    ground.holds(&longest, b"long")?;
    same("the names", names_in(&*ground.dir)?, vec![longest.clone().into()])?;
    let wanted = [Reason::NameTooLong];
    let created = ground.dir.create_exclusive(too_long.as_ref(), Mode::PRIVATE);
    fails("create_exclusive", created, &wanted)?;
    fails("open", ground.dir.open(too_long.as_ref(), Access::Read), &wanted)?;
    fails("create_dir", ground.dir.create_dir(too_long.as_ref(), Mode::PRIVATE_DIR), &wanted)?;
    fails("rename", ground.rename(&longest, &too_long, RenameMode::Replace), &wanted)?;
    ground.holds(&longest, b"long")
}

fn names_are_single_components(ground: &mut Ground) -> Outcome {
    let sub = ground.subdir("sub")?;
    create_in(&*sub, "inside", b"kept")?;
    ground.create("file", b"kept")?;
    let wanted = [Reason::InvalidArgument];
    for name in ["sub/inside", "./file", "file/", "..", ".", "", "/"] {
        let name_os = OsStr::new(name);
        let what = |call: &str| format!("{call} `{name}`");
        fails(&what("open"), ground.dir.open(name_os, Access::Read), &wanted)?;
        fails(&what("create_exclusive"), ground.dir.create_exclusive(name_os, Mode::PRIVATE), &wanted)?;
        fails(&what("create_dir"), ground.dir.create_dir(name_os, Mode::PRIVATE_DIR), &wanted)?;
        fails(&what("unlink"), ground.dir.unlink(name_os), &wanted)?;
        fails(&what("metadata"), ground.dir.metadata(name_os), &wanted)?;
        fails(&what("read_link"), ground.dir.read_link(name_os), &wanted)?;
        fails(&what("link from"), ground.dir.link(name_os, "new".as_ref()), &wanted)?;
        fails(&what("link to"), ground.dir.link("file".as_ref(), name_os), &wanted)?;
        fails(&what("rename from"), ground.rename(name, "new", RenameMode::Replace), &wanted)?;
        fails(&what("rename to"), ground.rename("file", name, RenameMode::Replace), &wanted)?;
    }
    ground.holds("file", b"kept")?;
    holds(&*sub, "inside", b"kept")
}

fn xattr(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"kept")?;
    let name = OsStr::new("user.steadfast.test");
    if ground.optional("xattr", file.set_xattr(name, b"one"))?.is_none() {
        let names = file.xattr_names();
        return ground.optional("xattr", names).map(|_| ());
    }
    same("the value", must("xattr", file.xattr(name))?, b"one".to_vec())?;
    must("set_xattr again", file.set_xattr(name, b"the second\0value"))?;
    same("the second value", must("xattr", file.xattr(name))?, b"the second\0value".to_vec())?;
    must("set_xattr to nothing", file.set_xattr("user.empty".as_ref(), b""))?;
    same("the empty value", must("xattr", file.xattr("user.empty".as_ref()))?, Vec::new())?;
    let names = must("xattr_names", file.xattr_names())?;
    for wanted in [name, OsStr::new("user.empty")] {
        ensure("every attribute is listed", names.iter().any(|have| have == wanted))?;
    }
    ensure("an absent attribute is an error", file.xattr("user.absent".as_ref()).is_err())?;
    ground.holds("file", b"kept")
}

/// Two handles of one file.
type Handles = (Arc<dyn File>, Arc<dyn File>);

/// A file and two handles of it, the first holding its lock; `None` where there are no locks.
fn locked(ground: &mut Ground) -> Outcome<Option<Handles>> {
    let first = ground.create("lock", b"")?;
    let second = ground.open("lock", Access::ReadWrite)?;
    let taken = first.lock(LockWait::DoNotWait);
    if ground.optional("lock", taken)?.is_none() {
        return Ok(None);
    }
    Ok(Some((first, second)))
}

fn lock_excludes(ground: &mut Ground) -> Outcome {
    let Some((first, second)) = locked(ground)? else { return Ok(()) };
    fails("the second lock", second.lock(LockWait::DoNotWait), &[Reason::WouldBlock])?;
    let third = ground.open("lock", Access::ReadWrite)?;
    fails("the third lock", third.lock(LockWait::DoNotWait), &[Reason::WouldBlock])?;
    let other = ground.create("other", b"")?;
    must("the lock of another file", other.lock(LockWait::DoNotWait))?;
    must("unlock", first.unlock())?;
    must("the lock after unlock", second.lock(LockWait::DoNotWait))?;
    fails("the first lock again", first.lock(LockWait::DoNotWait), &[Reason::WouldBlock])?;
    must("unlock", second.unlock())?;
    must("a lock that need not wait", first.lock(LockWait::Forever))
}

fn lock_released_by_drop(ground: &mut Ground) -> Outcome {
    let Some((first, second)) = locked(ground)? else { return Ok(()) };
    // Dropping some other handle of the file releases nothing (as it would with POSIX record locks).
    drop(ground.open("lock", Access::Read)?);
    fails("the second lock", second.lock(LockWait::DoNotWait), &[Reason::WouldBlock])?;
    drop(first);
    must("the lock after the holder was dropped", second.lock(LockWait::DoNotWait))
}

/// The waiter is not joined: where it never wakes up, the check must still come to its end.
fn lock_wakes_a_waiter(ground: &mut Ground) -> Outcome {
    let Some((first, second)) = locked(ground)? else { return Ok(()) };
    let released = Arc::new(AtomicBool::new(false));
    let (to_us, from_waiter) = mpsc::channel();
    let seen_by_waiter = Arc::clone(&released);
    let waiter = std::thread::Builder::new().spawn(move || {
        // Where nobody listens any more the check has failed already.
        if to_us.send(Ok(false)).is_ok() {
            let outcome = second.lock(LockWait::Forever);
            drop(to_us.send(outcome.map(|()| seen_by_waiter.load(Ordering::SeqCst))));
        }
    });
    drop(must("start a thread", waiter)?);
    let gone = |_| Failed("the waiting thread was not heard of".to_owned());
    let started = from_waiter.recv_timeout(WAKE_TIMEOUT).map_err(gone)?;
    must("start the waiter", started)?;
    // A lock that does not wait gets its chance to be caught.
    for _ in 0..1000 {
        std::thread::yield_now();
    }
    released.store(true, Ordering::SeqCst);
    must("unlock", first.unlock())?;
    let woken = from_waiter.recv_timeout(WAKE_TIMEOUT);
    let woken = woken.map_err(|_| Failed("the waiter did not wake up after unlock".to_owned()))?;
    ensure("the waiter got the lock only after it was released", must("the waiting lock", woken)?)
}

fn file_barriers(ground: &mut Ground) -> Outcome {
    let file = ground.create("file", b"bytes")?;
    must("sync_all", file.sync_all())?;
    must("sync_data", file.sync_data())?;
    must("sync_all with nothing to do", file.sync_all())?;
    for access in [Access::Write, Access::ReadWrite, Access::Append] {
        let file = ground.open("file", access)?;
        must(&format!("sync_all for {access:?}"), file.sync_all())?;
        must(&format!("sync_data for {access:?}"), file.sync_data())?;
    }
    must("unlink", ground.dir.unlink("file".as_ref()))?;
    must("sync_all without a name", file.sync_all())?;
    same("what is read afterwards", read_from(&*file, 0)?, b"bytes".to_vec())
}

fn dir_barriers(ground: &mut Ground) -> Outcome {
    ground.create("file", b"bytes")?;
    let synced = ground.dir.sync();
    ground.optional("Dir::sync", synced)?;
    let synced = ground.root.sync();
    ground.optional("Dir::sync", synced)?;
    let synced = ground.dir.sync_filesystem();
    ground.optional("Dir::sync_filesystem", synced)?;
    ground.fs.mark("conformance");
    ground.dir.mark("conformance");
    ground.open("file", Access::Read)?.mark("conformance");
    ground.holds("file", b"bytes")
}

fn create_refuses_a_dangling_link(ground: &mut Ground) -> Outcome {
    let created = ground.root.create_exclusive("dangling".as_ref(), Mode::PRIVATE);
    fails("create_exclusive over a dangling link", created, &[Reason::AlreadyExists])?;
    is_missing(&*ground.root, "nowhere")?;
    let created = ground.root.create_dir("dangling".as_ref(), Mode::PRIVATE_DIR);
    fails("create_dir over a dangling link", created, &[Reason::AlreadyExists])?;
    is_missing(&*ground.root, "nowhere")
}

fn open_never_follows_a_link(ground: &mut Ground) -> Outcome {
    create_in(&*ground.root, "target", b"target")?;
    for access in [Access::Read, Access::Write, Access::ReadWrite, Access::Append] {
        for name in ["to-file", "dangling"] {
            let opened = ground.root.open(name.as_ref(), access);
            fails(&format!("open of `{name}` for {access:?}"), opened, &[Reason::SymlinkLoop])?;
            let opened = ground.root.open_disk(name.as_ref(), access);
            fails(&format!("open_disk of `{name}` for {access:?}"), opened, &[Reason::SymlinkLoop])?;
        }
    }
    let facts = must("metadata of the link", ground.root.metadata("to-file".as_ref()))?;
    same("its kind", facts.kind, FileKind::Symlink)?;
    let points_to = must("read_link", ground.root.read_link("to-file".as_ref()))?;
    same("where it points", points_to.as_path(), Path::new("target"))?;
    // A rename over the link takes the link's place, and unlink removes the link, never what it points to.
    create_in(&*ground.root, "new", b"new")?;
    must(
        "rename",
        ground.root.rename("new".as_ref(), &*ground.root, "to-file".as_ref(), RenameMode::Replace),
    )?;
    same("its kind now", must("metadata", ground.root.metadata("to-file".as_ref()))?.kind, FileKind::File)?;
    must("unlink of the dangling link", ground.root.unlink("dangling".as_ref()))?;
    holds(&*ground.root, "target", b"target")
}
