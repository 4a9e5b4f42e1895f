//! `content put`: the old object or the new one, whenever the process dies.

use super::*;

/// A store in which `state:/app/d/a` is there already.
fn prepare(dir: &Path) {
    for (arguments, stdin) in [
        (&["content", "init", "store", "--quota-bytes", "1M"][..], &b""[..]),
        (&["content", "put", "store", "state:/app/d/a"], b"old"),
    ] {
        let output = steadfast(dir, arguments, stdin, None);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
}

/// What the object is for the next one who asks.
#[track_caller]
fn object(dir: &Path) -> Vec<u8> {
    let got = steadfast(dir, &["content", "get", "store", "state:/app/d/a"], b"", None);
    assert_eq!(got.status.code(), Some(0), "{}", said(&got));
    got.stdout
}

/// The same, after recovery has been asked for.
#[track_caller]
fn recovered(dir: &Path) -> Vec<u8> {
    let told = steadfast(dir, &["content", "recover", "store"], b"", None);
    assert_eq!(told.status.code(), Some(0), "{}", said(&told));
    assert!(told.stdout.starts_with(b"recovery sweep orphans="), "{}", said(&told));
    let again = steadfast(dir, &["content", "recover", "store"], b"", None);
    assert_eq!(again.stdout, b"recovery sweep orphans=0 finalized=0\n", "{}", said(&again));
    let got = object(dir);
    // Usage is what is there, exactly.
    let used = steadfast(dir, &["--json", "content", "usage", "store", "--app", "app"], b"", None);
    let used: serde_json::Value = serde_json::from_slice(&used.stdout).unwrap();
    assert_eq!((&used["bytes"], &used["files"]), (&got.len().into(), &1.into()));
    got
}

#[test]
fn a_small_object_is_old_or_new_after_recovery() {
    Scene {
        name: "content put, small",
        arguments: &["content", "put", "store", "d/a", "--app", "app"],
        stdin: b"new, and longer",
        prepare,
        points: &[
            "after_create",
            "after_write",
            "after_fsync",
            "after_dirsync",
            "after_prepare",
            "after_commit_record",
            "after_rename",
        ],
        stray_mode_max: 0o600,
        finished: 0,
        crashed: |dir, _| {
            let found = object(dir);
            assert!([&b"old"[..], b"new, and longer"].contains(&&*found), "{found:?}");
        },
        again: succeeds,
        done: |_, after| assert_eq!(after["store/app/d/a"], file("new, and longer", 0o600)),
    }
    .abort_everywhere();
}

/// Longer than what rides in the journal.
const LONG: &[u8] = &[b'n'; 70_000];

#[test]
fn a_long_object_is_old_or_new_after_recovery() {
    Scene {
        name: "content put, long",
        arguments: &["content", "put", "store", "state:/app/d/a"],
        stdin: LONG,
        prepare,
        points: &[
            "after_create",
            "after_write",
            "after_fsync",
            "after_dirsync",
            "after_prepare",
            "after_commit_record",
            "after_rename",
        ],
        stray_mode_max: 0o600,
        finished: 0,
        crashed: |dir, _| {
            let found = object(dir);
            assert!(found == b"old" || found == LONG, "{} bytes", found.len());
        },
        again: succeeds,
        done: |_, after| assert_eq!(after["store/app/d/a"], file(LONG, 0o600)),
    }
    .abort_everywhere();
}

/// Ahead of the commit record it is the old object, behind it the new one. The barriers of its own file come later.
#[test]
fn the_commit_record_of_a_put_decides() {
    for (point, finalized, content) in [
        ("after_create", 0, &b"old"[..]),
        ("after_write", 0, b"old"),
        ("after_prepare", 0, b"old"),
        ("after_commit_record", 1, b"new"),
        ("after_rename", 1, b"new"),
        ("after_fsync", 1, b"new"),
        // The first two come before the commit.
        ("after_dirsync@3", 1, b"new"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        prepare(dir);
        let output = steadfast(dir, &["content", "put", "store", "state:/app/d/a"], b"new", Some(point));
        assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{}", said(&output));
        // The next command finishes it, whatever it is, and says so.
        let told = steadfast(dir, &["content", "ls", "store"], b"", None);
        let words = String::from_utf8(told.stderr).unwrap();
        let ending = format!(" finalized={finalized}\n");
        assert!(words.starts_with("recovery sweep ") && words.ends_with(&ending), "{point}: {words}");
        assert_eq!(recovered(dir), content, "{point}");
    }
}

/// The configuration of the store names the points, for every command but `recover`: recovery itself passes one here.
#[test]
fn the_points_of_the_configuration_are_those_of_every_command_but_recover() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    prepare(dir);
    let put = ["content", "put", "store", "state:/app/d/a"];
    let output = steadfast(dir, &put, b"new", Some("after_commit_record"));
    assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{}", said(&output));
    let config = "store/content/config.json";
    let off = fs::read_to_string(dir.join(config)).unwrap();
    let on = off.replace("\"enable\": false", "\"enable\": true");
    let on = on.replace("\"points\": []", "\"points\": [\"after_dirsync\"]");
    assert_ne!(on, off);
    assert_eq!(steadfast(dir, &["write", config, "-q"], on.as_bytes(), None).status.code(), Some(0));
    for command in [&["content", "ls", "store"][..], &put] {
        let output = steadfast(dir, command, b"never", None);
        assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{command:?}: {}", said(&output));
        assert!(said(&output).contains("crashsim: abort at after_dirsync@1"), "{}", said(&output));
    }
    assert_eq!(recovered(dir), b"new");
    // Switched off, as the help says.
    assert_eq!(steadfast(dir, &["write", config, "-q"], off.as_bytes(), None).status.code(), Some(0));
    let put = steadfast(dir, &put, b"newer", None);
    assert_eq!(put.status.code(), Some(0), "{}", said(&put));
    assert_eq!(recovered(dir), b"newer");
}
