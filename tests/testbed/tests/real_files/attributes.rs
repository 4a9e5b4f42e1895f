//! Owner, mode, extended attributes and ACLs, told by other programs.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use durable_io::{Dir, Keep, Mode, WriteOptions};
use testbed::{FsKind, LoopFs, NOBODY, Scratch, child_arg, child_test, need, programs, run};

use crate::{mode, set_mode};

const UMASK_CHILD: &str = "attributes::child_creates_under_a_umask";

/// The argument: the umask in octal, a colon, a directory.
#[test]
fn child_creates_under_a_umask() {
    let Some(argument) = child_arg(UMASK_CHILD) else { return };
    let (umask, path) = argument.to_str().unwrap().split_once(':').unwrap();
    let umask = u32::from_str_radix(umask, 8).unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    let dir = Dir::open(path).unwrap();
    drop(dir.replace("new", b"x").unwrap());
    drop(dir.create_new("created", b"x").unwrap());
    dir.create_dir("sub").unwrap();
    drop(dir.replace("deep/er/new", b"x").unwrap());
    drop(dir.replace("old", b"x").unwrap());
    let exact = WriteOptions { mode: Some(Mode::new(0o666)), ..WriteOptions::default() };
    drop(dir.replace_with("exact", b"x", &exact).unwrap());
    let path = PathBuf::from(path);
    let is = |name: &str, bits: u32| assert_eq!(mode(&path.join(name)), bits, "{name} under {umask:03o}");
    is("new", 0o666 & !umask);
    is("created", 0o666 & !umask);
    is("sub", 0o777 & !umask);
    is("deep/er", 0o777 & !umask);
    is("deep/er/new", 0o666 & !umask);
    is("old", 0o644);
    is("exact", 0o666);
    // Reading the umask left it as it was.
    assert_eq!(rustix::process::umask(rustix::fs::Mode::empty()).as_raw_mode(), umask);
}

/// Needs no root.
#[test]
fn new_files_obey_the_umask_and_old_ones_keep_their_mode() {
    for umask in ["000", "002", "022", "027", "077", "777"] {
        let scratch = need!(Scratch::new());
        std::fs::write(scratch.path().join("old"), b"").unwrap();
        set_mode(&scratch.path().join("old"), 0o644);
        let argument = format!("{umask}:{}", scratch.path().display());
        if umask == "777" && testbed::root().is_err() {
            // Directories closed to their own owner are a scene for root alone.
            continue;
        }
        let output = need!(child_test(UMASK_CHILD, argument)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(std::fs::read(scratch.path().join("old")).unwrap(), b"x", "the child did its work");
    }
}

fn keep(owner: bool, xattrs: bool, acl: bool) -> WriteOptions {
    WriteOptions { keep: Keep { owner, xattrs, acl }, ..WriteOptions::default() }
}

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::metadata(path).unwrap();
    (found.uid(), found.gid())
}

fn ask<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    run(program, args).unwrap()
}

/// The entries of an ACL, without comments.
fn acl(path: &Path) -> String {
    let text = ask("getfacl", &[OsStr::new("-cnE"), OsStr::new("--absolute-names"), path.as_os_str()]);
    text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(",")
}

fn xattr(path: &Path, name: &str) -> Option<String> {
    let args = ["--only-values", "-n", name].map(OsStr::new);
    run("getfattr", &[&args[..], &[OsStr::new("--absolute-names"), path.as_os_str()]].concat()).ok()
}

#[test]
fn owner_attributes_and_acl_are_kept_when_asked_and_only_then() {
    need!(programs(&["setfacl", "getfacl", "setfattr", "getfattr"]));
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let file = fs.root().join("file");
        let dir = Dir::open(fs.root()).unwrap();
        std::fs::write(&file, b"old").unwrap();
        set_mode(&file, 0o640);
        chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
        ask("setfacl", &[OsStr::new("-m"), OsStr::new("u:1234:rw,g:77:r"), file.as_os_str()]);
        let set = ["-n", "user.origin", "-v", "kept"].map(OsStr::new);
        ask("setfattr", &[&set[..], &[file.as_os_str()]].concat());
        let (old_acl, old_mode) = (acl(&file), mode(&file));
        assert!(old_acl.contains("user:1234:rw-"), "{kind:?}: {old_acl}");

        drop(dir.replace_with("file", b"new", &keep(true, true, true)).unwrap());
        assert_eq!(std::fs::read(&file).unwrap(), b"new", "{kind:?}");
        assert_eq!(owner(&file), (NOBODY, NOBODY), "{kind:?}");
        assert_eq!(xattr(&file, "user.origin").as_deref(), Some("kept"), "{kind:?}");
        assert_eq!((acl(&file), mode(&file)), (old_acl, old_mode), "{kind:?}");

        let narrower = WriteOptions { mode: Some(Mode::new(0o600)), ..keep(true, true, true) };
        drop(dir.replace_with("file", b"new", &narrower).unwrap());
        assert_eq!(mode(&file), 0o600, "{kind:?}: an exact mode is exact");
        assert!(
            acl(&file).contains("user:1234:rw-,group::r--,group:77:r--,mask::---"),
            "{kind:?}: {}",
            acl(&file)
        );

        drop(dir.replace_with("file", b"new", &keep(true, true, false)).unwrap());
        assert!(!acl(&file).contains("1234"), "{kind:?}: {}", acl(&file));
        assert_eq!(xattr(&file, "user.origin").as_deref(), Some("kept"), "{kind:?}");

        drop(dir.replace("file", b"new").unwrap());
        assert_eq!(owner(&file), (0, 0), "{kind:?}: the file is its writer's");
        assert_eq!(xattr(&file, "user.origin"), None, "{kind:?}");
    }
}

/// In a file with an ACL the group bits of the mode are the *mask*: what the named users may at most. Taken for
/// the group's own bits, they would open the file to the group.
#[test]
fn dropping_an_acl_gives_the_group_no_more_than_it_had() {
    need!(programs(&["setfacl", "getfacl"]));
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let file = fs.root().join("file");
        let dir = Dir::open(fs.root()).unwrap();
        std::fs::write(&file, b"old").unwrap();
        set_mode(&file, 0o600);
        ask("setfacl", &[OsStr::new("-m"), OsStr::new("u:1234:rw"), file.as_os_str()]);
        assert_eq!(mode(&file), 0o660, "{kind:?}: the mask shows as the group's bits");
        assert!(acl(&file).contains("group::---"), "{kind:?}");
        drop(dir.replace("file", b"new").unwrap());
        assert_eq!(acl(&file), "user::rw-,group::---,other::---", "{kind:?}");
    }
}

/// A new file is like any other that is created there: the system applies the default ACL, where there is one.
#[test]
fn a_new_file_gets_what_the_default_acl_of_its_directory_says() {
    need!(programs(&["setfacl", "getfacl"]));
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let dir = Dir::open(fs.root()).unwrap();
        for (number, default) in ["g::---,o::---", "u:nobody:rwx,g::r--,o::---"].iter().enumerate() {
            let args = ["-d", "-m", default].map(OsStr::new);
            ask("setfacl", &[&args[..], &[fs.root().as_os_str()]].concat());
            let [plain, ours, made] = ["plain", "ours", "made"].map(|name| format!("{name}-{number}"));
            std::fs::File::create(fs.root().join(&plain)).unwrap();
            drop(dir.replace(&ours, b"x").unwrap());
            drop(dir.create_new(&made, b"x").unwrap());
            let of = |name: &str| (mode(&fs.root().join(name)), acl(&fs.root().join(name)));
            assert_eq!(of(&ours), of(&plain), "{kind:?}, {default}");
            assert_eq!(of(&made), of(&plain), "{kind:?}, {default}");
        }
    }
}

/// A directory may have an ACL for what is created in it. A file that is replaced keeps its own rights, and gets
/// none of those.
#[test]
fn a_replaced_file_gets_no_rights_from_the_default_acl_of_its_directory() {
    need!(programs(&["setfacl", "getfacl"]));
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let file = fs.root().join("file");
        let dir = Dir::open(fs.root()).unwrap();
        std::fs::write(&file, b"old").unwrap();
        set_mode(&file, 0o640);
        ask("setfacl", &[OsStr::new("-dm"), OsStr::new("u:1234:rw"), fs.root().as_os_str()]);
        let options = WriteOptions { mode: Some(Mode::new(0o640)), ..WriteOptions::default() };
        for options in [WriteOptions::default(), keep(false, true, true), options] {
            drop(dir.replace_with("file", b"new", &options).unwrap());
            assert_eq!(acl(&file), "user::rw-,group::r--,other::---", "{kind:?}: {options:?}");
        }
    }
}

#[test]
fn set_id_bits_survive_only_with_their_owner() {
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let file = fs.root().join("program");
        let dir = Dir::open(fs.root()).unwrap();
        let scene = |uid, gid| {
            std::fs::write(&file, b"old").unwrap();
            chown(&file, Some(uid), Some(gid)).unwrap();
            set_mode(&file, 0o6755);
        };
        for (uid, gid) in [(NOBODY, 0), (0, NOBODY), (NOBODY, NOBODY)] {
            scene(uid, gid);
            drop(dir.replace("program", b"new").unwrap());
            assert_eq!((mode(&file), owner(&file)), (0o755, (0, 0)), "{kind:?}: the owner differs");
            scene(uid, gid);
            drop(dir.replace_with("program", b"new", &keep(true, false, false)).unwrap());
            assert_eq!((mode(&file), owner(&file)), (0o6755, (uid, gid)), "{kind:?}: the owner was kept");
        }
        scene(0, 0);
        drop(dir.replace("program", b"new").unwrap());
        assert_eq!(mode(&file), 0o6755, "{kind:?}: the owner is the same");
    }
}
