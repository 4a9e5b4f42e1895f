//! `backup` and `restore`: whole, or not there.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::{Pid, kill_process};

use super::*;

/// A store with a snapshot, a quota, and two keys.
fn filled() -> tempfile::TempDir {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "old"], 0);
    expect(dir, &["snapshot", "create", "image", "then"], 0);
    expect(dir, &["put", "image", "/state/a", "new"], 0);
    expect(dir, &["put", "image", "/state/b", "beside"], 0);
    expect(dir, &["quota", "set", "image", "/state/b", "--keys", "3"], 0);
    root
}

#[test]
fn a_backup_comes_back_with_everything_in_it() {
    let root = filled();
    let dir = root.path();
    let made = json(dir, &["backup", "image", "bak"], 0);
    assert_eq!((&made["extent"], &made["durability"]), (&"whole".into(), &"durable".into()));
    let found = fs::metadata(dir.join("bak")).unwrap();
    assert_eq!(made["file_bytes"], found.len());
    assert_eq!(found.permissions().mode() & 0o777, 0o600, "all of the store is in it");

    let checked = json(dir, &["backup", "--check", "bak"], 0);
    assert_eq!((&checked["revision"], &checked["store_id"]), (&made["revision"], &made["store_id"]));
    assert!(expect(dir, &["backup", "--check", "bak"], 0).0.starts_with("a whole backup of a store"));
    let bytes = fs::read(dir.join("bak")).unwrap();
    assert!(!feed(dir, &["backup", "--check", "-"], &bytes, 0).0.is_empty());

    let restored = json(dir, &["restore", "bak", "copy"], 0);
    assert_eq!(restored["from_store_id"], made["store_id"]);
    assert_ne!(restored["store_id"], made["store_id"], "a store of its own");
    assert_eq!(restored["image_bytes"], fs::metadata(dir.join("copy")).unwrap().len());
    for arguments in ["dump", "quota ls", "snapshot list", "snapshot ls"] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let on = |image| {
            let mut all = [words.as_slice(), &[image]].concat();
            if words == ["snapshot", "ls"] {
                all.extend(["then", "--long"]);
            }
            expect(dir, &all, 0).0
        };
        assert_eq!(on("copy"), on("image"), "{words:?}");
        assert!(!on("copy").is_empty());
    }
    assert_eq!(expect(dir, &["snapshot", "get", "copy", "then", "/state/a"], 0).0, "old");
    expect(dir, &["fsck", "copy"], 0);
    expect(dir, &["put", "copy", "/state/c", "v"], 0);

    // One snapshot, through a pipe, into other blocks.
    let (stream, words) = feed(dir, &["backup", "image", "-", "--snapshot", "then"], "", 0);
    assert!(words.contains("as durable as its reader makes it"), "{words}");
    let arguments = ["restore", "-", "past", "--size", "256KiB", "--block-size", "512"];
    feed(dir, &arguments, &stream, 0);
    assert_eq!(expect(dir, &["ls", "past"], 0).0, "/state/a\n");
    assert_eq!(expect(dir, &["get", "past", "/state/a"], 0).0, "old");
    assert_eq!(json(dir, &["stats", "past"], 0)["block_size"], 512);
    assert_eq!(json(dir, &["stats", "past"], 0)["snapshots"], 0);
}

#[test]
fn a_backup_is_refused_with_a_way_out() {
    let root = filled();
    let dir = root.path();
    expect(dir, &["backup", "image", "bak"], 0);
    let first = fs::read(dir.join("bak")).unwrap();
    assert!(expect(dir, &["backup", "image", "bak"], 1).1.contains("hint: --replace"));
    expect(dir, &["put", "image", "/state/c", "more"], 0);
    expect(dir, &["backup", "image", "bak", "--replace"], 0);
    assert_ne!(fs::read(dir.join("bak")).unwrap(), first);
    assert!(expect(dir, &["backup", "image", "b", "--snapshot", "none"], 1).1.contains("snapshot list"));
    expect(dir, &["backup", "image", "b", "--snapshot", "a/b"], 2);
    expect(dir, &["backup", "image", "none/b"], 1);
    expect(dir, &["backup", "missing", "b"], 1);
    expect(dir, &["backup", "image"], 2);
    expect(dir, &["backup", "image", "b", "--check", "bak"], 2);
    expect(dir, &["--json", "backup", "image", "-"], 2);
    assert!(!dir.join("b").exists());

    // A damaged store has no backup; from a snapshot before the loss it has.
    let rotten = rotten();
    assert!(expect(rotten.path(), &["backup", "image", "b"], 3).1.contains("salvage"));
    assert!(!rotten.path().join("b").exists());

    // A writer is no hindrance.
    let held = hold(dir, "image");
    expect(dir, &["backup", "image", "live"], 0);
    drop(held);
}

#[test]
fn a_restore_makes_a_new_image_or_none() {
    let root = filled();
    let dir = root.path();
    expect(dir, &["backup", "image", "bak"], 0);
    let image = fs::read(dir.join("image")).unwrap();
    assert!(expect(dir, &["restore", "bak", "image"], 1).1.contains("never overwritten"));
    assert_eq!(fs::read(dir.join("image")).unwrap(), image);
    expect(dir, &["restore", "bak", "bak"], 1);
    expect(dir, &["restore", "missing", "new"], 1);
    expect(dir, &["restore", "bak", "new", "--block-size", "1000"], 2);
    expect(dir, &["restore", "bak", "new", "--size", "100000"], 2);
    assert!(feed(dir, &["restore", "-", "new"], "", 2).1.contains("--size"));
    expect(dir, &["restore", "bak", "new", "--overwrite-device", "--size", "1MiB"], 2);
    assert!(
        expect(dir, &["restore", "bak", "image", "--overwrite-device"], 2).1.contains("not a block device")
    );

    // Too small: it says how much is enough, and that is the fewest.
    let refused = json(dir, &["restore", "bak", "new", "--size", "64KiB"], 4);
    let bytes_min = refused["error"]["details"]["bytes_min"].as_u64().unwrap();
    assert_eq!(json(dir, &["backup", "--check", "bak"], 0)["bytes_min"], bytes_min);
    assert!(expect(dir, &["restore", "bak", "new", "--size", "64KiB"], 4).1.contains(&bytes_min.to_string()));
    expect(dir, &["restore", "bak", "new", "--size", &(bytes_min - 4096).to_string()], 4);
    assert!(!dir.join("new").exists());
    expect(dir, &["restore", "bak", "enough", "--size", &bytes_min.to_string()], 0);

    // Every kind of damage is found, in a file before anything is made, in a stream before it is kept.
    let whole = fs::read(dir.join("bak")).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let bad = [
        whole[..whole.len() - 1].to_vec(),
        whole[..50].to_vec(),
        [whole.as_slice(), b"!"].concat(),
        flipped(20),
        flipped(whole.len() / 2),
        flipped(whole.len() - 1),
        image,
        Vec::new(),
    ];
    for bytes in &bad {
        set(dir.join("bad"), bytes);
        assert!(expect(dir, &["backup", "--check", "bad"], 3).1.contains("the backup is refused at byte"));
        assert_eq!(json(dir, &["restore", "bad", "new"], 3)["error"]["code"], "bad_backup");
        feed(dir, &["restore", "-", "new", "--size", "1MiB"], bytes, 3);
        assert!(!dir.join("new").exists());
    }
}

#[test]
fn what_does_not_fit_from_a_stream_leaves_nothing() {
    let root = fresh();
    let dir = root.path();
    for n in 0..5 {
        expect(dir, &["put", "image", &format!("/state/{n}"), &"v".repeat(60_000)], 0);
    }
    let stream = feed(dir, &["backup", "image", "-"], "", 0).0;
    let arguments = ["restore", "-", "new", "--size", "256KiB"];
    assert!(feed(dir, &arguments, &stream, 4).1.contains("take a larger --size"));
    assert!(!dir.join("new").exists());
}

#[test]
fn a_restore_that_is_interrupted_leaves_nothing() {
    let root = filled();
    let dir = root.path();
    let stream = feed(dir, &["backup", "image", "-"], "", 0).0;
    let mut command = Command::new(STEADFAST);
    command.current_dir(dir).args(["state", "restore", "-", "copy", "--size", "1MiB"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&stream[..150]).unwrap();
    while !dir.join("copy").exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended.stderr));
    assert!(!dir.join("copy").exists());
    drop(input);
}

#[test]
fn a_backup_that_is_killed_is_whole_or_not_there() {
    let root = filled();
    let dir = root.path();
    expect(dir, &["backup", "image", "old"], 0);
    let old = fs::read(dir.join("old")).unwrap();
    expect(dir, &["put", "image", "/state/c", "more"], 0);
    for arguments in [&["backup", "image", "bak"][..], &["backup", "image", "bak", "--replace"]] {
        let mut without = 0;
        for nth in 1..=CALLS_MAX {
            drop(fs::remove_file(dir.join("bak")));
            if arguments.len() > 3 {
                set(dir.join("bak"), &old);
            }
            let backup = run(dir, arguments, b"", Some(&format!("call@{nth}")));
            match fs::read(dir.join("bak")) {
                Err(_) => without += 1,
                Ok(bytes) if bytes == old => without += 1,
                Ok(_) => drop(expect(dir, &["backup", "--check", "bak"], 0)),
            }
            if backup.status.code() == Some(0) {
                break;
            }
            assert_eq!(backup.status.signal(), Some(Signal::ABORT.as_raw()), "{}", text(&backup.stderr));
            assert!(nth < CALLS_MAX, "it never came to its end");
        }
        assert!(without > 3, "{without}");
    }
}

#[test]
fn a_restore_that_is_killed_leaves_a_whole_store_or_none() {
    let root = filled();
    let dir = root.path();
    expect(dir, &["backup", "image", "bak"], 0);
    let wanted = expect(dir, &["dump", "image"], 0).0;
    let mut without = 0;
    for nth in 1..=CALLS_MAX {
        let arguments = ["restore", "bak", "copy", "--size", "128KiB"];
        let restore = run(dir, &arguments, b"", Some(&format!("call@{nth}")));
        if dir.join("copy").exists() {
            let found = run(dir, &["dump", "copy"], b"", None);
            match found.status.code().unwrap() {
                0 => assert_eq!(text(&found.stdout), wanted),
                code => {
                    assert!([1, 3].contains(&code) && found.stdout.is_empty(), "{}", text(&found.stderr));
                    without += 1;
                }
            }
            fs::remove_file(dir.join("copy")).unwrap();
        }
        if restore.status.code() == Some(0) {
            assert!(without > 3, "{without}");
            return;
        }
        assert_eq!(restore.status.signal(), Some(Signal::ABORT.as_raw()), "{}", text(&restore.stderr));
    }
    panic!("it never came to its end")
}

#[test]
#[cfg(target_os = "linux")]
fn a_backup_is_restored_to_a_block_device_only_when_told_to() {
    let device = testbed::need!(testbed::LoopDevice::attach(1 << 20, 512));
    let root = filled();
    let (dir, path) = (root.path(), device.path().to_str().unwrap());
    expect(dir, &["backup", "image", "bak"], 0);
    expect(dir, &["init", path, "--overwrite-device"], 0);
    expect(dir, &["put", path, "/state/old", "what is there"], 0);
    let before = fs::read(device.image()).unwrap();
    expect(dir, &["restore", "bak", path], 1);
    // Only its end is bad, which would be found out when everything is written.
    let mut bad = fs::read(dir.join("bak")).unwrap();
    *bad.last_mut().unwrap() ^= 1;
    set(dir.join("bad"), &bad);
    expect(dir, &["restore", "bad", path, "--overwrite-device"], 3);
    assert!(fs::read(device.image()).unwrap() == before, "nothing has been written to it");
    expect(dir, &["restore", "bak", path, "--overwrite-device"], 0);
    assert_eq!(expect(dir, &["dump", path], 0).0, expect(dir, &["dump", "image"], 0).0);
    expect(dir, &["backup", path, "again"], 0);
    expect(dir, &["backup", "--check", "again"], 0);
}
