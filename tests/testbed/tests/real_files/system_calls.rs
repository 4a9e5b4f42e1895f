//! The calls of a replace, and of a disk, told by the kernel: a child does it between two marks, under `strace`.

use std::path::{Path, PathBuf};
use std::process::Command;

use durable_io::Dir;
use media::{BlockDevice as _, BlockIndex, FileDisk, Fs as _, Geometry, OsFs};
use testbed::{FsKind, LoopFs, Scratch, child_arg, child_test, find_program, need};

const CHILD: &str = "system_calls::child_replaces_once";
const DISK_CHILD: &str = "system_calls::child_writes_a_disk_once";
const BEGIN: &str = "/steadfast-mark-begin";
const END: &str = "/steadfast-mark-end";

/// Something that nothing else in this process asks for.
fn mark(path: &str) {
    assert!(rustix::fs::access(path, rustix::fs::Access::EXISTS).is_err());
}

/// The argument: `old` or `new`, a colon, a directory.
#[test]
fn child_replaces_once() {
    let Some(argument) = child_arg(CHILD) else { return };
    let (name, path) = argument.to_str().unwrap().split_once(':').unwrap();
    let dir = Dir::open(path).unwrap();
    // The first one of a process also finds out who the process is.
    drop(dir.replace("old", b"before").unwrap());
    mark(BEGIN);
    let published = dir.replace(name, &[7; 4096]);
    mark(END);
    drop(published.unwrap());
}

/// The argument: `durable` or `plain`, a colon, a directory.
#[test]
fn child_writes_a_disk_once() {
    let Some(argument) = child_arg(DISK_CHILD) else { return };
    let (how, path) = argument.to_str().unwrap().split_once(':').unwrap();
    let dir = OsFs.open_dir(path.as_ref()).unwrap();
    let disk = FileDisk::create(&*dir, "disk".as_ref(), Geometry::new(4096, 16).unwrap()).unwrap();
    // Aligned to nothing, so that it is copied; the first copy allocates.
    let memory = vec![7; 8192];
    let bytes = &memory[memory.as_ptr().align_offset(4096) + 1..][..4096];
    disk.write(BlockIndex::ZERO, bytes).unwrap();
    mark(BEGIN);
    let outcome = match how {
        "durable" => disk.write_durable(BlockIndex::new(3), bytes),
        _ => disk.write(BlockIndex::new(3), bytes).and_then(|()| disk.flush()),
    };
    mark(END);
    outcome.unwrap();
}

/// The system calls of a replace of `name`.
fn traced(name: &str) -> Result<Vec<String>, testbed::Missing> {
    let scratch = Scratch::new()?;
    traced_child(CHILD, name, &scratch.path())
}

/// The system calls of the thread that made the marks, between them.
fn traced_child(child: &str, what: &str, dir: &Path) -> Result<Vec<String>, testbed::Missing> {
    let strace = find_program("strace")?;
    let scratch = Scratch::new()?;
    let child = child_test(child, format!("{what}:{}", dir.display()))?;
    let mut command = Command::new(strace);
    // One file per thread, so that no call is split in two lines.
    command.arg("-ff").arg("-s16").arg("-o").arg(scratch.beside("trace"));
    command.arg(child.get_program()).args(child.get_args());
    for (key, value) in child.get_envs() {
        command.env(key, value.unwrap());
    }
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("ptrace") {
        return Err(testbed::Missing::new(format!("strace may not trace: {}", words.trim())));
    }
    assert!(output.status.success(), "{}{words}", String::from_utf8_lossy(&output.stdout));
    let traces = std::fs::read_dir(scratch.path().parent().unwrap()).unwrap();
    let calls = traces.map(|entry| entry.unwrap().path()).filter(|path| is_trace(path));
    Ok(calls.map(|path| between_marks(&path)).find(|calls| !calls.is_empty()).unwrap())
}

fn is_trace(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("trace."))
}

fn between_marks(path: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .skip_while(|line| !line.contains(BEGIN))
        .skip(1)
        .take_while(|line| !line.contains(END))
        // Builds with debug assertions ask if a descriptor is open before they close it.
        .filter(|line| !line.contains("F_GETFD"))
        .map(str::to_owned)
        .collect()
}

/// A line without what differs from run to run: descriptors, random names, times.
fn words(line: &str) -> String {
    let (call, rest) = line.split_once('(').unwrap();
    let has = |word: &str| rest.contains(word);
    let mut words = vec![call.to_owned()];
    for word in ["O_RDWR", "O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC", "0600", "0644", "0666", "4096"] {
        if has(word) {
            words.push(word.to_owned());
        }
    }
    for (pattern, said) in
        [(".steadfast-", "TEMP"), ("\"old\"", "old"), ("\"new\"", "new"), ("ENOENT", "ENOENT")]
    {
        if has(pattern) {
            words.push(said.to_owned());
        }
    }
    words.join(" ")
}

/// The descriptor that a call is about.
fn descriptor(line: &str) -> &str {
    let (_, rest) = line.split_once('(').unwrap();
    rest.split([',', ')']).next().unwrap()
}

/// Looking at a file's times makes its next change dearer (see `media`): no look of ours asks for them.
fn assert_no_time_is_asked_for(calls: &[String]) {
    for line in calls {
        let asks = ["STATX_BASIC_STATS", "STATX_ALL", "STATX_MTIME", "STATX_CTIME", "STATX_ATIME"];
        // Behind the brace is the answer, which may hold more than was asked for.
        let (asked, _) = line.split_once('{').unwrap_or((line, ""));
        assert!(!asks.iter().any(|time| asked.contains(time)), "{line}");
        assert!(!line.starts_with("newfstatat") && !line.starts_with("fstat("), "{line}");
    }
}

#[test]
fn a_replace_is_fourteen_system_calls_in_the_promised_order() {
    let calls = need!(traced("old"));
    let seen: Vec<String> = calls.iter().map(|line| words(line)).collect();
    let promised = [
        "statx 0644 old",
        // The name of the temp.
        "getpid",
        "getrandom",
        // Whether an ACL says something else than the group bits of the mode.
        "openat O_NOFOLLOW O_CLOEXEC old",
        "flistxattr",
        "close",
        // Whether the directory would give the new file an ACL of its own.
        "fgetxattr",
        "openat O_RDWR O_CREAT O_EXCL O_NOFOLLOW O_CLOEXEC 0644 TEMP",
        "pwrite64 4096",
        // Whether the umask has taken something from the mode.
        "statx 0644 4096",
        "fsync",
        "renameat TEMP old",
        "fsync",
        "close",
    ];
    assert_eq!(seen, promised, "{calls:#?}");
    assert_no_time_is_asked_for(&calls);
    // Which fsync is which: the first is of what was written, the second of the directory it was renamed in.
    let [.., open, write, look, file_barrier, rename, dir_barrier, close] = calls.as_slice() else {
        panic!("{calls:#?}")
    };
    assert_eq!(descriptor(open), descriptor(rename));
    assert_eq!(descriptor(dir_barrier), descriptor(rename));
    for same in [write, look, file_barrier, close] {
        assert_eq!(descriptor(same), descriptor(write));
    }
    assert!(open.ends_with(&format!("= {}", descriptor(write))), "{open}");
}

#[test]
fn a_new_file_is_nine_system_calls() {
    let calls = need!(traced("new"));
    let seen: Vec<String> = calls.iter().map(|line| words(line)).collect();
    let promised = [
        "statx new ENOENT",
        "getpid",
        "getrandom",
        // The system takes the umask off, or applies the default ACL of the directory.
        "openat O_RDWR O_CREAT O_EXCL O_NOFOLLOW O_CLOEXEC 0666 TEMP",
        "pwrite64 4096",
        "fsync",
        "renameat TEMP new",
        "fsync",
        "close",
    ];
    assert_eq!(seen, promised, "{calls:#?}");
    assert_no_time_is_asked_for(&calls);
}

/// Beside it a look at who asks (a child made with `fork` may not write) and, after the barrier, one at the length (a
/// file that was cut may not be called durable).
#[test]
fn a_durable_write_is_one_write_and_no_sync() {
    for (kind, size) in [(FsKind::Ext4, 64 << 20), (FsKind::Xfs, 300 << 20)] {
        let fs = need!(LoopFs::mount(kind, size));
        let calls = need!(traced_child(DISK_CHILD, "durable", fs.root()));
        let [who, write, len] = calls.as_slice() else { panic!("{kind:?}: {calls:#?}") };
        assert!(write.starts_with("pwritev2(") && write.contains("iov_len=4096"), "{write}");
        // One block at its place, durable, and taken whole; nothing is allocated for its copy, and nobody woken.
        assert!(write.ends_with(", 1, 12288, RWF_DSYNC) = 4096"), "{write}");
        assert!(who.starts_with("getpid(") && len.starts_with("statx("), "{calls:#?}");
        assert_eq!(descriptor(len), descriptor(write));
        assert_no_time_is_asked_for(&calls);
    }
}

#[test]
fn a_plain_write_and_a_flush_are_one_write_and_one_sync() {
    for (kind, size) in [(FsKind::Ext4, 64 << 20), (FsKind::Tmpfs, 16 << 20)] {
        let fs = need!(LoopFs::mount(kind, size));
        let calls = need!(traced_child(DISK_CHILD, "plain", fs.root()));
        let [who, write, who_again, sync, len] = calls.as_slice() else { panic!("{kind:?}: {calls:#?}") };
        assert!(write.starts_with("pwrite64(") && write.ends_with(", 4096, 12288) = 4096"), "{write}");
        assert_eq!(sync.split('(').next(), Some("fdatasync"), "{sync}");
        assert_eq!(descriptor(sync), descriptor(write));
        for who in [who, who_again] {
            assert!(who.starts_with("getpid("), "{calls:#?}");
        }
        assert!(len.starts_with("statx("), "{calls:#?}");
        assert_no_time_is_asked_for(&calls);
    }
}
