//! One table per operation: every call it makes, in order, and what happens when that call fails.

use std::path::PathBuf;
use std::sync::Arc;

use durable_io::{
    Barriers, Dir, Durability, Error, HardLinks, Keep, Mode, Publish, Published, RenameMode, RenameRefused,
    Stage, TargetState, Unchanged, WriteOptions,
};
use media::doubles::{FailNth, Op};
use media::{Access, Fs, OsFs};

use crate::common::{EACCES, EBUSY, EINTR, ENOTSUP, Ground};
use Stage as S;
use TargetState::{ReplacedNotDurable, Unchanged as Same, Unknown};

/// An operation, prepared and run on a ground of its own.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) prepare: fn(&Ground),
    /// What the file system under the recorder refuses, if anything.
    pub(crate) refuses: Option<(Op, i32)>,
    pub(crate) run: fn(&Dir) -> Result<Done, Error>,
    pub(crate) calls: Vec<Row>,
}

/// A good outcome, whatever the operation.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) durability: Durability,
    pub(crate) leftovers: Vec<PathBuf>,
}

impl From<Published> for Done {
    fn from(published: Published) -> Self {
        let left = published.leftover.into_iter().chain(published.second_leftover);
        Self { durability: published.durability, leftovers: left.map(|leftover| leftover.path).collect() }
    }
}

impl From<Durability> for Done {
    fn from(durability: Durability) -> Self {
        Self { durability, leftovers: Vec::new() }
    }
}

/// One call, and what its failure does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// As the recorder shows it, with our own names masked.
    pub(crate) call: &'static str,
    pub(crate) then: Then,
    /// Codes that are answered otherwise.
    pub(crate) but: &'static [(i32, Then)],
    /// Whether `Operation::refuses` strikes here even in a good run.
    pub(crate) refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Fails(Stage, TargetState),
    /// A hint, or a documented fallback.
    Succeeds,
    /// A clean-up: the operation succeeds and names what is left.
    SucceedsNaming,
}

impl Row {
    pub(crate) fn op(&self) -> &'static str {
        self.call.split(' ').next().unwrap_or("")
    }

    pub(crate) fn on(&self, code: i32) -> Then {
        self.but.iter().find(|(other, _)| *other == code).map_or(self.then, |(_, then)| *then)
    }

    const fn but(mut self, but: &'static [(i32, Then)]) -> Self {
        self.but = but;
        self
    }

    const fn refused(mut self) -> Self {
        self.refused = true;
        self
    }
}

impl Operation {
    /// What it runs on, below any recorder or fault.
    pub(crate) fn base(&self) -> Arc<dyn Fs> {
        match self.refuses {
            None => OsFs::shared(),
            Some((op, code)) => FailNth::new(0, code).only(op).over(OsFs::shared()).1,
        }
    }
}

const fn fails(call: &'static str, stage: Stage, state: TargetState) -> Row {
    Row { call, then: Then::Fails(stage, state), but: &[], refused: false }
}

/// A write: interrupted ones are repeated.
const fn write(call: &'static str, stage: Stage, state: TargetState) -> Row {
    fails(call, stage, state).but(&[(EINTR, Then::Succeeds)])
}

/// A look at what is there already: what may not be read is replaced, not compared.
const fn compares(call: &'static str) -> Row {
    fails(call, S::Read, Same).but(&[(EACCES, Then::Succeeds)])
}

const fn hint(call: &'static str) -> Row {
    Row { call, then: Then::Succeeds, but: &[], refused: false }
}

const fn cleanup(call: &'static str) -> Row {
    Row { call, then: Then::SucceedsNaming, but: &[], refused: false }
}

fn durable<T>(outcome: Result<T, Error>) -> Result<Done, Error> {
    outcome.map(|_| Durability::Durable.into())
}

const INSPECT: Row = fails("Metadata t", S::Inspect, Same);
/// Where nothing but the mode gives rights, the file is created with it.
const CREATE: Row = fails("CreateExclusive <temp> 0640", S::TempWrite, Same);
/// A new file like any other: the system takes the umask off.
const CREATE_NEW: Row = fails("CreateExclusive <temp> 0666", S::TempWrite, Same);
/// Where the platform does not tell, the file is created for its owner alone and widened at the end.
const DEFAULT_ACL: Row = fails("HasDefaultAcl .", S::Metadata, Same).but(&[(ENOTSUP, Then::Succeeds)]);
/// Has the umask taken something from the mode?
const SETTLED: Row = fails("Metadata <temp> (handle)", S::Metadata, Same);
const WRITE: Row = write("WriteAt <temp> @0+3", S::TempWrite, Same);
/// The group bits of a file with an ACL are its mask, so the ACL is looked at. (Its owner may open it for writing even
/// where not for reading.)
const OLD_OPEN: Row = fails("Open t Read", S::Metadata, Same).but(&[(EACCES, Then::Succeeds)]);
/// A file system without attributes has no ACLs.
const OLD_ACL: Row = fails("XattrNames t", S::Metadata, Same).but(&[(ENOTSUP, Then::Succeeds)]);
const MODE: Row = fails("SetMode <temp> 0640", S::Metadata, Same);
const SYNC: Row = fails("SyncAll <temp>", S::SyncFile, Same);
const RENAME: Row = fails("Rename <temp> -> t", S::Rename, Same);
const DIRSYNC: Row = fails("DirSync .", S::SyncDir, ReplacedNotDurable);

const OLD: &[u8] = b"old bytes";

fn old_file(ground: &Ground) {
    ground.put("t", OLD, 0o640);
}

fn nothing(_: &Ground) {}

fn operation(
    name: &'static str,
    prepare: fn(&Ground),
    run: fn(&Dir) -> Result<Done, Error>,
    calls: Vec<Row>,
) -> Operation {
    Operation { name, prepare, refuses: None, run, calls }
}

fn with(change: impl FnOnce(&mut WriteOptions)) -> WriteOptions {
    let mut options = WriteOptions::default();
    change(&mut options);
    options
}

pub(crate) fn replace_existing() -> Operation {
    operation(
        "replace existing",
        old_file,
        |dir| Ok(dir.replace("t", b"new")?.into()),
        vec![INSPECT, OLD_OPEN, OLD_ACL, DEFAULT_ACL, CREATE, WRITE, SETTLED, SYNC, RENAME, DIRSYNC],
    )
}

pub(crate) fn replace_private() -> Operation {
    operation(
        "replace what its group may not read",
        |ground| ground.put("t", OLD, 0o600),
        |dir| Ok(dir.replace("t", b"new")?.into()),
        vec![
            INSPECT,
            DEFAULT_ACL,
            fails("CreateExclusive <temp> 0600", S::TempWrite, Same),
            WRITE,
            SETTLED,
            SYNC,
            RENAME,
            DIRSYNC,
        ],
    )
}

pub(crate) fn replace_new() -> Operation {
    operation(
        "replace new",
        nothing,
        |dir| Ok(dir.replace("t", b"new")?.into()),
        vec![INSPECT, CREATE_NEW, WRITE, SYNC, RENAME, DIRSYNC],
    )
}

fn replace_with_mode() -> Operation {
    operation(
        "replace with a mode",
        old_file,
        |dir| Ok(dir.replace_with("t", b"new", &with(|o| o.mode = Some(Mode::new(0o4710))))?.into()),
        vec![
            INSPECT,
            DEFAULT_ACL,
            fails("CreateExclusive <temp> 0710", S::TempWrite, Same),
            WRITE,
            SETTLED,
            // Set-id bits only when the content is there.
            fails("SetMode <temp> 4710", S::Metadata, Same),
            SYNC,
            RENAME,
            DIRSYNC,
        ],
    )
}

/// Version 2, then user::rw- user:4242:r-- group::r-- mask::r-- other::---.
pub(crate) const ACL: [u8; 44] = [
    2, 0, 0, 0, //
    1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
    2, 0, 4, 0, 0x92, 0x10, 0, 0, //
    4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
];

/// Gives `t` an extended attribute and an ACL, through the seam; false where the file system has none.
pub(crate) fn decorate(ground: &Ground) -> bool {
    let dir = OsFs::shared().open_dir(ground.root()).unwrap();
    let file = dir.open("t".as_ref(), Access::ReadWrite).unwrap();
    file.set_xattr("user.colour".as_ref(), b"blue").is_ok()
        && file.set_xattr("system.posix_acl_access".as_ref(), &ACL).is_ok()
}

/// Whether the file system of the tests has extended attributes and ACLs.
pub(crate) fn can_decorate() -> bool {
    let ground = Ground::new();
    old_file(&ground);
    decorate(&ground)
}

pub(crate) fn replace_keeping_all() -> Operation {
    operation(
        "replace keeping owner, attributes and ACL",
        |ground| {
            old_file(ground);
            assert!(decorate(ground));
        },
        |dir| Ok(dir.replace_with("t", b"new", &with(|o| o.keep = Keep::ALL))?.into()),
        vec![
            INSPECT,
            fails("Open t Read", S::Metadata, Same),
            // A file system without attributes has none to keep.
            fails("XattrNames t", S::Metadata, Same).but(&[(ENOTSUP, Then::Succeeds)]),
            fails("Xattr t system.posix_acl_access", S::Metadata, Same),
            fails("Xattr t user.colour", S::Metadata, Same),
            // More than the mode will give rights: for its owner alone until everything is set.
            fails("CreateExclusive <temp> 0600", S::TempWrite, Same),
            WRITE,
            fails("SetOwner <temp> <owner>", S::Metadata, Same),
            fails("SetXattr <temp> user.colour", S::Metadata, Same),
            fails("SetXattr <temp> system.posix_acl_access", S::Metadata, Same),
            MODE,
            SYNC,
            RENAME,
            DIRSYNC,
        ],
    )
}

fn replace_through_links() -> Operation {
    operation(
        "replace through a chain of links",
        |ground| {
            ground.mkdir("far");
            ground.put("far/t", OLD, 0o640);
            ground.symlink("link2", "far/link1");
            ground.symlink("t", "far/link2");
            ground.symlink("far/link1", "t");
        },
        |dir| Ok(dir.replace("t", b"new")?.into()),
        vec![
            INSPECT,
            fails("ReadLink t", S::Inspect, Same),
            fails("OpenDir far", S::Inspect, Same),
            fails("Metadata far/link1", S::Inspect, Same),
            fails("ReadLink far/link1", S::Inspect, Same),
            fails("Metadata far/link2", S::Inspect, Same),
            fails("ReadLink far/link2", S::Inspect, Same),
            fails("Metadata far/t", S::Inspect, Same),
            fails("Open far/t Read", S::Metadata, Same).but(&[(EACCES, Then::Succeeds)]),
            fails("XattrNames far/t", S::Metadata, Same).but(&[(ENOTSUP, Then::Succeeds)]),
            fails("HasDefaultAcl far", S::Metadata, Same).but(&[(ENOTSUP, Then::Succeeds)]),
            fails("CreateExclusive far/<temp> 0640", S::TempWrite, Same),
            write("WriteAt far/<temp> @0+3", S::TempWrite, Same),
            fails("Metadata far/<temp> (handle)", S::Metadata, Same),
            fails("SyncAll far/<temp>", S::SyncFile, Same),
            fails("Rename far/<temp> -> far/t", S::Rename, Same),
            fails("DirSync far", S::SyncDir, ReplacedNotDurable),
        ],
    )
}

fn replace_with_parents() -> Operation {
    operation(
        "replace with missing parents",
        |ground| ground.mkdir("a"),
        |dir| Ok(dir.replace("a/b/c/t", b"new")?.into()),
        vec![
            fails("OpenDir a/b/c", S::OpenDir, Same),
            fails("OpenDir a", S::OpenDir, Same),
            fails("OpenDir a/b", S::OpenDir, Same),
            fails("CreateDir a/b 0777", S::CreateDir, Same),
            fails("DirSync a", S::SyncDir, Same),
            fails("OpenDir a/b", S::OpenDir, Same),
            fails("OpenDir a/b/c", S::OpenDir, Same),
            fails("CreateDir a/b/c 0777", S::CreateDir, Same),
            fails("DirSync a/b", S::SyncDir, Same),
            fails("OpenDir a/b/c", S::OpenDir, Same),
            fails("Metadata a/b/c/t", S::Inspect, Same),
            fails("CreateExclusive a/b/c/<temp> 0666", S::TempWrite, Same),
            write("WriteAt a/b/c/<temp> @0+3", S::TempWrite, Same),
            fails("SyncAll a/b/c/<temp>", S::SyncFile, Same),
            fails("Rename a/b/c/<temp> -> a/b/c/t", S::Rename, Same),
            fails("DirSync a/b/c", S::SyncDir, ReplacedNotDurable),
        ],
    )
}

fn replace_reserved() -> Operation {
    operation(
        "replace with 1 MiB",
        old_file,
        |dir| Ok(dir.replace("t", &vec![7; 1 << 20])?.into()),
        vec![
            INSPECT,
            OLD_OPEN,
            OLD_ACL,
            DEFAULT_ACL,
            CREATE,
            fails("Allocate <temp> 1048576", S::TempWrite, Same).but(&[(ENOTSUP, Then::Succeeds)]),
            write("WriteAt <temp> @0+1048576", S::TempWrite, Same),
            SETTLED,
            SYNC,
            RENAME,
            DIRSYNC,
        ],
    )
}

fn stream() -> Operation {
    operation(
        "stream more than 8 MiB",
        old_file,
        |dir| {
            let mut staged = dir.stage("t")?;
            let piece = vec![7; 5 << 20];
            for _ in 0..3 {
                staged.write_all(&piece)?;
            }
            Ok(staged.seal()?.publish(Publish::Replace)?.into())
        },
        vec![
            INSPECT,
            OLD_OPEN,
            OLD_ACL,
            DEFAULT_ACL,
            CREATE,
            write("WriteAt <temp> @0+5242880", S::TempWrite, Same),
            write("WriteAt <temp> @5242880+5242880", S::TempWrite, Same),
            hint("StartWriteback <temp> @0+10485760"),
            write("WriteAt <temp> @10485760+5242880", S::TempWrite, Same),
            SETTLED,
            SYNC,
            RENAME,
            DIRSYNC,
        ],
    )
}

fn skip_unchanged() -> Operation {
    operation(
        "skip what is there already",
        old_file,
        |dir| Ok(dir.replace_with("t", OLD, &with(|o| o.unchanged = Unchanged::Skip))?.into()),
        vec![
            INSPECT,
            compares("Open t Read"),
            compares("Metadata t (handle)"),
            compares("ReadAt t @0"),
            compares("ReadAt t @9"),
            // The content is as asked, whatever the barriers say.
            fails("Open t Read", S::Inspect, Same).but(&[(EACCES, Then::Succeeds)]),
            fails("SyncAll t", S::SyncFile, Same),
            DIRSYNC,
        ],
    )
}

fn skip_changed() -> Operation {
    operation(
        "skip what is there already, and it differs",
        |ground| ground.put("t", b"old", 0o640),
        |dir| Ok(dir.replace_with("t", b"new", &with(|o| o.unchanged = Unchanged::Skip))?.into()),
        vec![
            INSPECT,
            compares("Open t Read"),
            compares("Metadata t (handle)"),
            compares("ReadAt t @0"),
            compares("ReadAt t @3"),
            OLD_OPEN,
            OLD_ACL,
            DEFAULT_ACL,
            CREATE,
            WRITE,
            SETTLED,
            SYNC,
            RENAME,
            DIRSYNC,
        ],
    )
}

fn compare_and_swap() -> Operation {
    operation(
        "compare and swap",
        old_file,
        |dir| {
            // Through an untapped handle: only the swap is looked at.
            let (_, stamp) = Dir::open(dir.path())?.read_stamped("t")?;
            Ok(dir.replace_with("t", b"new", &with(|o| o.expect = Some(stamp)))?.into())
        },
        vec![
            INSPECT,
            OLD_OPEN,
            OLD_ACL,
            DEFAULT_ACL,
            CREATE,
            WRITE,
            SETTLED,
            SYNC,
            fails("Open t Read", S::Read, Same),
            fails("Metadata t (handle)", S::Read, Same),
            fails("Modified t", S::Read, Same),
            fails("ReadAt t @0", S::Read, Same),
            fails("ReadAt t @9", S::Read, Same),
            RENAME,
            DIRSYNC,
        ],
    )
}

const NO_REPLACE: Row = fails("Rename <temp> -> t (NoReplace)", S::Rename, Same);

/// Without rename flags there are hard links.
const FALLBACK: &[(i32, Then)] = &[(ENOTSUP, Then::Succeeds)];

pub(crate) fn create_new() -> Operation {
    operation(
        "create new",
        nothing,
        |dir| Ok(dir.create_new("t", b"new")?.into()),
        vec![INSPECT, CREATE_NEW, WRITE, SYNC, NO_REPLACE.but(FALLBACK), DIRSYNC],
    )
}

fn create_new_by_link() -> Operation {
    let mut by_link = create_new();
    by_link.name = "create new, without rename flags";
    by_link.refuses = Some((Op::Rename, ENOTSUP));
    by_link.calls.truncate(4);
    by_link.calls.extend([
        NO_REPLACE.but(FALLBACK).refused(),
        fails("Link <temp> -> t", S::Rename, Same),
        cleanup("Unlink <temp>"),
        DIRSYNC,
    ]);
    by_link
}

pub(crate) fn remove() -> Operation {
    operation(
        "remove",
        old_file,
        |dir| Ok(dir.remove("t")?.into()),
        vec![fails("Unlink t", S::Remove, Same), DIRSYNC],
    )
}

/// The owner of a file without read permission can still open it for writing, and sync it.
const OPEN_FROM: Row = fails("Open from Read", S::Inspect, Same).but(&[(EACCES, Then::Succeeds)]);

pub(crate) fn rename() -> Operation {
    operation(
        "rename",
        |ground| {
            old_file(ground);
            ground.put("from", b"new", 0o600);
        },
        |dir| Ok(dir.rename("from", "t")?.into()),
        vec![
            fails("Metadata from", S::Inspect, Same),
            OPEN_FROM,
            fails("SyncAll from", S::SyncFile, Same),
            fails("Rename from -> t", S::Rename, Same),
            DIRSYNC,
        ],
    )
}

fn rename_across() -> Operation {
    operation(
        "rename into another directory",
        |ground| {
            ground.mkdir("d");
            ground.put("d/t", OLD, 0o640);
            ground.put("from", b"new", 0o600);
        },
        |dir| Ok(dir.rename_to("from", dir, "d/t", RenameMode::Replace, Barriers::Required)?.into()),
        vec![
            fails("OpenDir d", S::OpenDir, Same),
            fails("Metadata from", S::Inspect, Same),
            OPEN_FROM,
            fails("SyncAll from", S::SyncFile, Same),
            fails("Rename from -> d/t", S::Rename, Same),
            fails("DirSync d", S::SyncDir, ReplacedNotDurable),
            DIRSYNC,
        ],
    )
}

fn rename_directory() -> Operation {
    operation(
        "rename a directory",
        |ground| {
            ground.mkdir("from");
            ground.put("from/f", OLD, 0o640);
        },
        |dir| Ok(dir.rename("from", "t")?.into()),
        vec![fails("Metadata from", S::Inspect, Same), fails("Rename from -> t", S::Rename, Same), DIRSYNC],
    )
}

pub(crate) fn create_dir() -> Operation {
    operation(
        "create a directory",
        nothing,
        |dir| Ok(dir.create_dir("t")?.into()),
        vec![fails("CreateDir t 0777", S::CreateDir, Same), DIRSYNC],
    )
}

fn create_dir_with_mode() -> Operation {
    operation(
        "create a directory with a mode",
        nothing,
        |dir| Ok(dir.create_dir_with("t", Some(Mode::new(0o750)), Barriers::Required)?.into()),
        vec![
            fails("CreateDir t 0700", S::CreateDir, Same),
            // It exists, and is narrower than asked: neither the old nor the new state.
            fails("OpenDir t", S::Metadata, Unknown),
            fails("SetDirMode t 0750", S::Metadata, Unknown),
            fails("DirSync t", S::SyncDir, ReplacedNotDurable),
            DIRSYNC,
        ],
    )
}

fn sync_file() -> Operation {
    operation(
        "sync a file",
        old_file,
        |dir| durable(dir.sync_file("t")),
        vec![
            INSPECT,
            fails("Open t Read", S::Inspect, Same).but(&[(EACCES, Then::Succeeds)]),
            fails("SyncAll t", S::SyncFile, Same),
        ],
    )
}

fn sync_names() -> Operation {
    operation(
        "sync the names of a directory",
        nothing,
        |dir| durable(dir.sync_names()),
        vec![fails("DirSync .", S::SyncDir, Same)],
    )
}

/// The calls of overwriting `t` in place with `new`, once that is decided.
fn in_place_calls() -> Vec<Row> {
    let before = |call| fails(call, S::WriteInPlace, Same);
    let midway = |call| fails(call, S::WriteInPlace, Unknown);
    vec![
        before("Open t ReadWrite"),
        before("Metadata t (handle)"),
        fails("CreateExclusive <backup> 0600", S::TempWrite, Same),
        before("ReadAt t @0"),
        before("ReadAt t @9"),
        write("WriteAt <backup> @0+9", S::WriteInPlace, Same),
        before("ReadAt t @9"),
        before("SyncAll <backup>"),
        before("DirSync ."),
        midway("ReadAt <temp> @0"),
        midway("ReadAt <temp> @3"),
        write("WriteAt t @0+3", S::WriteInPlace, Unknown),
        midway("ReadAt <temp> @3"),
        midway("SetLen t 3"),
        midway("SyncAll t"),
        cleanup("Unlink <backup>"),
        cleanup("Unlink <temp>"),
        DIRSYNC,
    ]
}

fn in_place_for_links() -> Operation {
    let mut calls = vec![INSPECT, OLD_OPEN, OLD_ACL, DEFAULT_ACL, CREATE, WRITE, SETTLED, SYNC];
    calls.extend(in_place_calls());
    operation(
        "overwrite in place what several names share",
        |ground| {
            old_file(ground);
            ground.hard_link("t", "other");
        },
        |dir| Ok(dir.replace_with("t", b"new", &with(|o| o.hard_links = HardLinks::InPlace))?.into()),
        calls,
    )
}

fn in_place_for_mount_point() -> Operation {
    let mut calls = vec![INSPECT, OLD_OPEN, OLD_ACL, DEFAULT_ACL, CREATE, WRITE, SETTLED, SYNC];
    // The policy names both answers.
    let in_place = &[(EACCES, Then::Succeeds), (EBUSY, Then::Succeeds)];
    calls.push(RENAME.but(in_place).refused());
    calls.extend(in_place_calls());
    let run = |dir: &Dir| {
        Ok(dir.replace_with("t", b"new", &with(|o| o.rename_refused = RenameRefused::InPlace))?.into())
    };
    let mut operation = operation("overwrite in place where the rename is refused", old_file, run, calls);
    operation.refuses = Some((Op::Rename, EBUSY));
    operation
}

/// All of them; the one that needs extended attributes only where there are some.
pub(crate) fn all() -> Vec<Operation> {
    let mut all = vec![
        replace_existing(),
        replace_private(),
        replace_new(),
        replace_with_mode(),
        replace_through_links(),
        replace_with_parents(),
        replace_reserved(),
        stream(),
        skip_unchanged(),
        skip_changed(),
        compare_and_swap(),
        create_new(),
        create_new_by_link(),
        remove(),
        rename(),
        rename_across(),
        rename_directory(),
        create_dir(),
        create_dir_with_mode(),
        sync_file(),
        sync_names(),
        in_place_for_links(),
        in_place_for_mount_point(),
    ];
    if can_decorate() {
        all.push(replace_keeping_all());
    } else {
        crate::common::skipped("the file system of the tests has no extended attributes or no ACLs");
    }
    all
}
