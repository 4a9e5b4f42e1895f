//! `txn`: all of a manifest, or none of it.

use serde_json::json as value;

use super::*;

/// A directory `d` with the files `a` and `b`.
fn fresh() -> tempfile::TempDir {
    let root = scratch();
    std::fs::create_dir(root.path().join("d")).unwrap();
    for name in ["a", "b"] {
        set(root.path().join("d").join(name), format!("old {name}"));
    }
    root
}

fn get(dir: &Path, name: &str) -> String {
    text(&std::fs::read(dir.join("d").join(name)).unwrap())
}

/// What is in `d`, but for the journal.
fn visible(dir: &Path) -> Vec<String> {
    let own = |name: &String| name == ".steadfast-txn" || name == ".steadfast-journaled";
    names(&dir.join("d")).into_iter().filter(|name| !own(name)).collect()
}

const SWAP: &str = r#"{"op":"rename","path":"a","to":"b"}
{"op":"rename","path":"b","to":"a"}
"#;

#[test]
fn every_kind_of_operation_is_done_and_told() {
    let root = fresh();
    let dir = root.path();
    set(dir.join("source"), "from a file");
    let manifest = r#"{"op":"replace","path":"a","text":"new"}

{"op":"create","path":"x/y/z","from":"source"}
{"op":"create","path":"bytes","hex":"00ff"}
{"op":"rename","path":"b","to":"c"}
"#;
    let output = run(dir, &["txn", "d", "--dry-run"], manifest.as_bytes());
    expect(&output, 0);
    assert_eq!(
        text(&output.stderr),
        "`d`: would be 1 replaced, 2 created, 1 renamed (16 B), all together; nothing was changed\n"
    );
    assert_eq!(names(&dir.join("d")), ["a", "b"]);
    let output = run(dir, &["txn", "d"], manifest.as_bytes());
    expect(&output, 0);
    assert_eq!(text(&output.stderr), "`d`: 1 replaced, 2 created, 1 renamed (16 B), all together: durable\n");
    assert_eq!(
        (get(dir, "a"), get(dir, "x/y/z"), get(dir, "c")),
        ("new".into(), "from a file".into(), "old b".into())
    );
    assert_eq!(std::fs::read(dir.join("d/bytes")).unwrap(), b"\0\xff");
    assert_eq!(visible(dir), ["a", "bytes", "c", "x"]);
    let said = json(&run(dir, &["txn", "d", "--json"], br#"{"op":"remove","path":"c"}"#));
    let wanted = value!({
        "schema": 1, "ok": true, "path": "d", "names": 1, "replaced": 0, "created": 0, "removed": 1, "renamed": 0,
        "bytes": 0, "durability": "durable",
        "recovery": { "orphans": 0, "orphans_kept": 0, "finalized": 0, "conflicts": [], "was_closed": true },
    });
    assert_eq!(said, wanted);
    set(dir.join("lines"), SWAP.replace("\"b\"", "\"bytes\""));
    expect(&run(dir, &["txn", "d", "--from", "lines", "-q"], b""), 0);
    assert_eq!(get(dir, "bytes"), "new");
}

#[test]
fn what_cannot_be_is_refused_with_its_line_and_nothing_is_changed() {
    let root = fresh();
    let dir = root.path();
    std::fs::create_dir(dir.join("d/sub")).unwrap();
    set(dir.join("source"), "x");
    let good = r#"{"op":"replace","path":"good","text":"v"}"#;
    let long = format!(r#"{{"op":"replace","path":"l","text":"{}"}}"#, "v".repeat(1 << 20));
    for (line, exit, why) in [
        ("not json", 2, "not a JSON object"),
        (r#"{"path":"c","text":"v"}"#, 2, "it has no `op`"),
        (r#"{"op":"put","path":"c","text":"v"}"#, 2, "`op` is replace, create, remove or rename"),
        (r#"{"op":"replace","path":"c","text":"v","mode":"600"}"#, 2, "`mode` is not known here"),
        (r#"{"op":"replace","path":"c"}"#, 2, "one of `text`, `hex` and `from`"),
        (r#"{"op":"replace","path":"c","text":"v","hex":"00"}"#, 2, "one of `text`, `hex` and `from`"),
        (r#"{"op":"replace","path":"c","hex":"0"}"#, 2, "hexadecimal digits"),
        (r#"{"op":"replace","path":"c","from":"-"}"#, 2, "comes on standard input"),
        (r#"{"op":"replace","path":"c","from":"missing"}"#, 1, "`missing`: reading the source"),
        (r#"{"op":"replace","path":"c","from":"d"}"#, 1, "`d` is no regular file"),
        (r#"{"op":"replace","path":"../c","text":"v"}"#, 2, "hint: a path is relative to the directory"),
        (r#"{"op":"replace","path":".steadfast-txn/journal","text":"v"}"#, 2, "are our own"),
        (r#"{"op":"rename","path":"a"}"#, 2, "no `to` that is a text"),
        (r#"{"op":"remove","path":"good"}"#, 2, "line 1 changes `good` already"),
        (&long, 2, "it is longer than 1048576 bytes"),
        (r#"{"op":"create","path":"a","text":"v"}"#, 1, "`a` exists already"),
        (r#"{"op":"remove","path":"c"}"#, 1, "`c` does not exist"),
        (r#"{"op":"rename","path":"no/such","to":"c"}"#, 1, "`no/such` does not exist"),
        (r#"{"op":"replace","path":"sub","text":"v"}"#, 2, "regular file"),
    ] {
        let manifest = format!("{good}\n{line}\n");
        for arguments in [&["txn", "d"][..], &["txn", "d", "--dry-run"]] {
            let output = run(dir, arguments, manifest.as_bytes());
            expect(&output, exit);
            let words = text(&output.stderr);
            assert!(words.starts_with("error: line 2: ") && words.contains(why), "{line}: {words}");
            assert_eq!(visible(dir), ["a", "b", "sub"], "{line}");
        }
    }
    let said = json(&run(dir, &["txn", "d", "--json"], br#"{"op":"create","path":"a","text":"v"}"#));
    let error = &said["error"];
    assert_eq!(
        (&said["ok"], &error["code"], &error["hint"]),
        (&false.into(), &"exists".into(), &"nothing was changed".into())
    );
    assert_eq!(error["details"], value!({ "line": 1, "path": "a", "root": "d", "state": "unchanged" }));
    expect(&run(dir, &["txn", "d"], b"\n"), 2);
    expect(&run(dir, &["txn", "missing"], good.as_bytes()), 1);
    expect(&run(dir, &["txn", "d", "--recover", "--dry-run"], b""), 2);
    assert_eq!((get(dir, "a"), get(dir, "b")), ("old a".into(), "old b".into()));
}

#[test]
fn who_holds_the_directory_is_named_and_waited_for() {
    let root = fresh();
    let dir = root.path();
    expect(&run(dir, &["txn", "d", "-q"], SWAP.as_bytes()), 0);
    // The manifest is read first: nobody has to wait for who waits for its own input.
    let mut slow =
        command(dir, &["txn", "d", "-q"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    expect(&run(dir, &["txn", "d", "-q", "--timeout", "0"], SWAP.as_bytes()), 0);
    drop(slow.stdin.take());
    assert_eq!(slow.wait().unwrap().code(), Some(2));
    let lock = ["lock", "d/.steadfast-txn/journal", "--", "sh", "-c", "touch held; read _"];
    let mut held = command(dir, &lock).stdin(Stdio::piped()).spawn().unwrap();
    wait_until(|| dir.join("held").exists());
    let output = run(dir, &["txn", "d", "--timeout", "20ms"], SWAP.as_bytes());
    expect(&output, 6);
    let words = text(&output.stderr);
    assert!(
        words.contains(&format!("locked by pid {}", held.id())) && words.contains("hint: --timeout"),
        "{words}"
    );
    let said = json(&run(dir, &["txn", "d", "--timeout", "0", "--recover", "--json"], b""));
    assert_eq!((&said["error"]["code"], &said["error"]["details"]["root"]), (&"locked".into(), &"d".into()));
    assert_eq!(said["error"]["details"]["holder"]["pid"], held.id());
    let waiting = command(dir, &["txn", "d", "--timeout", "60s", "-q"]);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let mut waiting = waiting;
            feed(&mut waiting, SWAP.as_bytes())
        });
        drop(held.stdin.take());
        waiting.join().unwrap()
    });
    expect(&waiting, 0);
    held.wait().unwrap();
    assert_eq!((get(dir, "a"), get(dir, "b")), ("old b".into(), "old a".into()));
}

#[test]
fn a_damaged_journal_is_told_and_nothing_is_touched() {
    let root = fresh();
    let dir = root.path();
    // Where there never was one, none is made.
    let output = run(dir, &["txn", "d", "--recover"], b"");
    expect(&output, 0);
    assert_eq!(text(&output.stdout), "recovery sweep orphans=0 finalized=0\n");
    assert_eq!(names(&dir.join("d")), ["a", "b"]);
    expect(&run(dir, &["txn", "d", "-q"], SWAP.as_bytes()), 0);
    std::fs::remove_file(dir.join("d/.steadfast-txn/journal")).unwrap();
    for arguments in [&["txn", "d"][..], &["txn", "d", "--recover"]] {
        let output = run(dir, arguments, SWAP.as_bytes());
        expect(&output, 3);
        assert!(
            text(&output.stderr).contains("the root is read-only: its journal is missing"),
            "{}",
            text(&output.stderr)
        );
    }
    let said = json(&run(dir, &["txn", "d", "--json"], SWAP.as_bytes()));
    assert_eq!(said["error"]["code"], "corrupt");
    assert_eq!(get(dir, "a"), "old b");
}

/// A transaction aborted at a point, with two files that change.
#[track_caller]
fn abort(dir: &Path, point: &str) {
    let mut child = command(dir, &["txn", "d"]);
    let output = feed(child.env(crashsim::CRASH_POINTS_VARIABLE, point), SWAP.as_bytes());
    assert!(text(&output.stderr).contains("crashsim: abort at"), "{}", text(&output.stderr));
}

#[test]
fn what_was_cut_short_is_finished_by_the_next_one_and_what_others_changed_is_left_alone() {
    let root = fresh();
    let dir = root.path();
    abort(dir, "after_commit_record");
    // The next transaction finishes it, says so, and goes on.
    let output = run(dir, &["txn", "d"], br#"{"op":"create","path":"c","text":"v"}"#);
    expect(&output, 0);
    let words = text(&output.stderr);
    assert!(words.starts_with("recovery sweep orphans=0 finalized=1\n`d`: 1 created"), "{words}");
    assert_eq!((get(dir, "a"), get(dir, "b")), ("old b".into(), "old a".into()));
    // Nothing was committed: what was staged is swept.
    abort(dir, "after_prepare");
    let said = json(&run(dir, &["txn", "d", "--recover", "--json"], b""));
    assert_eq!((&said["recovery"]["finalized"], &said["recovery"]["orphans"]), (&0.into(), &2.into()));
    assert_eq!(visible(dir), ["a", "b", "c"]);
    // Somebody else has changed a file between the crash and recovery.
    abort(dir, "after_commit_record");
    std::fs::remove_file(dir.join("d/a")).unwrap();
    set(dir.join("d/a"), "theirs");
    let output = run(dir, &["txn", "d", "--recover"], b"");
    expect(&output, 1);
    assert_eq!(text(&output.stdout), "recovery sweep orphans=0 finalized=1\n");
    let words = text(&output.stderr);
    assert!(
        words.contains("warning: `a` was left alone by an earlier transaction: it was changed since"),
        "{words}"
    );
    let kept = words.split('`').nth(3).unwrap();
    assert_eq!(
        (get(dir, "a"), get(dir, "b"), get(dir, kept)),
        ("theirs".into(), "old b".into(), "old a".into())
    );
    expect(&run(dir, &["txn", "d", "--recover"], b""), 0);
}

#[test]
fn ctrl_c_before_the_commit_point_leaves_nothing() {
    let root = fresh();
    let dir = root.path();
    set(dir.join("new"), vec![2_u8; 4_000_000]);
    let manifest = r#"{"op":"replace","path":"a","from":"new"}
{"op":"replace","path":"b","from":"new"}
"#;
    set(dir.join("lines"), manifest);
    expect(&run(dir, &["txn", "d", "-q"], br#"{"op":"create","path":"c","text":"v"}"#), 0);
    let mut stopped = 0;
    for round in 0..40_u64 {
        for name in ["a", "b"] {
            set(dir.join("d").join(name), "old");
        }
        let child = command(dir, &["txn", "d", "--from", "lines"]).stderr(Stdio::null()).spawn().unwrap();
        let exit = interrupted(child, Duration::from_micros(round * 600));
        let are_old = ["a", "b"].map(|name| std::fs::metadata(dir.join("d").join(name)).unwrap().len() == 3);
        match exit {
            130 => {
                stopped += 1;
                assert_eq!(are_old, [true, true], "round {round}: stopped, and yet changed");
            }
            0 => assert_eq!(are_old, [false, false], "round {round}: done, and yet unchanged"),
            other => panic!("round {round}: exit code {other}"),
        }
        assert_eq!(visible(dir), ["a", "b", "c"], "round {round}");
    }
    assert!(stopped > 0, "no round was early enough");
}

#[test]
fn ctrl_c_while_a_long_file_is_staged_stops_at_once() {
    let root = fresh();
    let dir = root.path();
    set_long(dir.join("new"));
    set(dir.join("lines"), r#"{"op":"replace","path":"a","from":"new"}"#);
    let child = command(dir, &["txn", "d", "--from", "lines"]).stderr(Stdio::null()).spawn().unwrap();
    stopped_while_it_stages(child, &dir.join("d"));
    assert_eq!((visible(dir), get(dir, "a")), (vec!["a".to_owned(), "b".to_owned()], "old a".to_owned()));
    let told = json(&run(dir, &["txn", "d", "--recover", "--json"], b""))["recovery"].clone();
    assert_eq!((&told["orphans"], &told["was_closed"]), (&0.into(), &true.into()));
}

#[test]
#[cfg(target_os = "linux")]
fn a_long_file_takes_little_memory() {
    let root = fresh();
    let dir = root.path();
    let source = std::fs::File::create(dir.join("source")).unwrap();
    source.set_len(if long() { 4 << 30 } else { 256 << 20 }).unwrap();
    set(dir.join("lines"), r#"{"op":"create","path":"long","from":"source"}"#);
    let child = command(dir, &["txn", "d", "--from", "lines", "-q"]).spawn().unwrap();
    let peak = peak_memory_kib(child);
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
}
