//! `content`: objects, quotas, and what is said of them.

use serde_json::json as value;

use super::*;

/// A store in `s` where each app has 1000 bytes, 3 files and 500 staged bytes.
fn fresh() -> tempfile::TempDir {
    let root = scratch();
    let limits = ["--quota-bytes", "1000", "--quota-files", "3", "--temp-ratio", "50"];
    expect(&content(root.path(), &[&["init", "s"], &limits[..]].concat(), b""), 0);
    root
}

fn content(dir: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    run(dir, &[&["content"], arguments].concat(), stdin)
}

/// What a command prints, after it has ended well.
#[track_caller]
fn prints(dir: &Path, arguments: &[&str]) -> String {
    let output = content(dir, arguments, b"");
    expect(&output, 0);
    text(&output.stdout)
}

#[test]
fn objects_go_in_and_come_out_byte_for_byte() {
    let root = fresh();
    let dir = root.path();
    let output = content(dir, &["put", "s", "state:/photos/2024/one.jpg"], b"\0one\xff");
    expect(&output, 0);
    assert_eq!(text(&output.stderr), "put state:/photos/2024/one.jpg: 5 B, durable\n");
    // The same name, in short.
    let got = content(dir, &["get", "s", "2024/one.jpg", "--app", "photos"], b"");
    expect(&got, 0);
    assert_eq!((got.stdout, text(&got.stderr)), (b"\0one\xff".to_vec(), String::new()));
    set(dir.join("file"), "from a file");
    let said =
        json(&content(dir, &["put", "s", "a", "--app", "other", "--from", "file", "--json"], b"not this"));
    let wanted = value!({
        "schema": 1, "ok": true, "uri": "state:/other/a", "bytes": 11, "durability": "durable",
        "recovery": { "orphans": 0, "orphans_kept": 0, "finalized": 0, "conflicts": [], "was_closed": true },
    });
    assert_eq!(said, wanted);
    assert_eq!(prints(dir, &["ls", "s"]), "state:/other/a\nstate:/photos/2024/one.jpg\n");
    assert_eq!(
        prints(dir, &["ls", "s", "2024", "--app", "photos", "--long"]),
        "           5 state:/photos/2024/one.jpg\n"
    );
    assert_eq!(prints(dir, &["ls", "s", "--app", "nobody"]), "");
    assert_eq!(prints(dir, &["stat", "s", "state:/other/a"]), "state:/other/a: object, 11 bytes\n");
    assert_eq!(prints(dir, &["stat", "s", "state:/photos/2024"]), "state:/photos/2024: directory\n");
    let listed = json(&content(dir, &["ls", "s", "state:/other", "--json"], b""));
    assert_eq!(listed, value!({ "schema": 1, "ok": true, "uri": "state:/other/a", "bytes": 11 }));
    assert_eq!(
        prints(dir, &["usage", "s"]),
        "other: 11 B of 1000 B, 1 of 3 file(s)\nphotos: 5 B of 1000 B, 1 of 3 file(s)\n"
    );
    let used = json(&content(dir, &["usage", "s", "--app", "photos", "--json"], b""));
    assert_eq!(
        used,
        value!({
            "schema": 1, "ok": true, "app": "photos", "bytes": 5, "bytes_max": 1000, "files": 1, "files_max": 3,
            "staged_bytes_max": 500,
        })
    );
    let stat = json(&content(dir, &["stat", "s", "state:/other/a", "--json"], b""));
    assert_eq!(
        stat,
        value!({ "schema": 1, "ok": true, "uri": "state:/other/a", "kind": "object", "bytes": 11 })
    );
    let gone = json(&content(dir, &["rm", "s", "state:/other/a", "--json"], b""));
    assert_eq!((&gone["change"], &gone["durability"]), (&"removed".into(), &"durable".into()));
    assert_eq!(prints(dir, &["ls", "s"]), "state:/photos/2024/one.jpg\n");
    let told = json(&content(dir, &["recover", "s", "--json"], b""));
    assert_eq!(
        (&told["apps"], &told["foreign"], &told["recovery"]["finalized"]),
        (&2.into(), &0.into(), &0.into())
    );
}

#[test]
fn beyond_a_quota_nothing_is_written_and_the_numbers_are_told() {
    let root = fresh();
    let dir = root.path();
    let bytes = [b'x'; 1001];
    for name in ["a", "b"] {
        expect(&content(dir, &["put", "s", name, "--app", "app"], &bytes[..400]), 0);
    }
    set(dir.join("file"), &bytes[..300]);
    for from in ["-", "file"] {
        let output = content(dir, &["put", "s", "c", "--app", "app", "--from", from], &bytes[..300]);
        expect(&output, 4);
        let words = text(&output.stderr);
        // A stream is stopped where it exceeds the quota; of a file the length is known.
        let named = "quota of bytes exceeded for `app`: limit=1000 used=";
        let exactly = if from == "file" { "used=800 requested=300" } else { "" };
        assert!(
            words.contains(named) && words.contains(exactly) && words.contains("hint: remove something"),
            "{words}"
        );
    }
    let refused = json(&content(dir, &["put", "s", "c", "--app", "app", "--from", "file", "--json"], b""));
    assert_eq!(refused["error"]["code"], "quota_exceeded");
    let details = value!({
        "root": "s", "app": "app", "what": "bytes", "limit": 1000, "used": 800, "requested": 300,
    });
    assert_eq!(refused["error"]["details"], details);
    // More than may be staged at a time.
    let refused = json(&content(dir, &["put", "s", "state:/new/a", "--json"], &bytes[..501]));
    assert_eq!(refused["error"]["code"], "temp_budget_exceeded");
    assert_eq!(
        (&refused["error"]["details"]["limit"], &refused["error"]["details"]["what"]),
        (&500.into(), &Value::Null)
    );
    expect(&content(dir, &["put", "s", "state:/new/a", "-q"], &bytes[..500]), 0);
    // Files count as well.
    expect(&content(dir, &["put", "s", "c", "--app", "app", "-q"], b""), 0);
    let output = content(dir, &["put", "s", "d", "--app", "app"], b"");
    expect(&output, 4);
    assert!(
        text(&output.stderr).contains("quota of files exceeded for `app`: limit=3 used=3"),
        "{}",
        text(&output.stderr)
    );
    expect(&content(dir, &["rm", "s", "a", "c", "--app", "app", "-q"], b""), 0);
    assert_eq!(prints(dir, &["usage", "s", "--app", "app"]), "app: 400 B of 1000 B, 1 of 3 file(s)\n");
    assert_eq!(prints(dir, &["ls", "s", "--app", "app"]), "state:/app/b\n");
}

#[test]
fn what_is_not_so_or_wrong_has_its_exit_code_and_a_hint() {
    let root = fresh();
    let dir = root.path();
    expect(&content(dir, &["put", "s", "state:/app/d/a", "-q"], b"one"), 0);
    for (arguments, exit, words) in [
        (&["get", "s", "state:/app/b"][..], 1, "state:/app/b does not exist"),
        (&["stat", "s", "state:/app/b"], 1, "hint: `steadfast content ls`"),
        (&["rm", "s", "state:/app/b"], 1, "does not exist"),
        (&["rm", "s", "state:/app/b", "--force"], 0, ""),
        (&["ls", "s", "state:/app/b"], 1, "does not exist"),
        (&["put", "s", "state:/app/d/a", "--create-new"], 1, "exists already"),
        (&["put", "s", "state:/app/b", "--from", "missing"], 1, "opening the source"),
        (&["init", "s"], 1, "is a content store already"),
        (&["get", "nowhere", "state:/app/b"], 1, "hint: `steadfast content init ROOT` makes one"),
        (&["get", "s", "b"], 2, "hint: say which with --app"),
        (&["get", "s", "state:/app/b", "--app", "other"], 2, "is not in the app `other`"),
        (&["get", "s", "state:/app/d"], 2, "is no object"),
        (&["put", "s", "state:/app/d"], 2, "is no object"),
        (&["put", "s", "state:/app/../b"], 2, "a component `.` or `..`"),
        (&["put", "s", "state:/content/b"], 2, "is reserved"),
        (&["put", "s", "b", "--app", "Upper"], 2, "is no name of an app"),
        (&["get", "s", "state:/app/d/a", "--json"], 2, ""),
        (&["init", "t", "--temp-ratio", "101"], 2, "--temp-ratio: 101 is out of range: 1 to 100"),
        (&["init", "t", "--quota-bytes", "0"], 2, "--quota-bytes: 0 is out of range"),
    ] {
        let output = content(dir, arguments, b"new");
        expect(&output, exit);
        assert!(text(&output.stderr).contains(words), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(prints(dir, &["get", "s", "state:/app/d/a"]), "one");
    // All that can be removed is, and the first that cannot decides.
    let output = content(dir, &["rm", "s", "state:/app/b", "state:/app/d/a", "state:/app"], b"");
    expect(&output, 1);
    assert_eq!(prints(dir, &["ls", "s"]), "");
    assert_eq!(names(dir), ["s"]);
    set(dir.join("config"), r#"{"schema":"content_v1_3","quota":{"per_app_bytes":"many"}}"#);
    let output = content(dir, &["init", "t", "--config", "config"], b"");
    expect(&output, 2);
    let words = text(&output.stderr);
    assert!(words.contains("`config`: the configuration is not valid: `quota.per_app_bytes`"), "{words}");
    set(dir.join("config"), r#"{"schema":"content_v1_3","quota":{"per_app_bytes":4096}}"#);
    let made = json(&content(dir, &["init", "t", "--config", "config", "--quota-files", "7", "--json"], b""));
    assert_eq!(
        (&made["per_app_bytes"], &made["per_app_files"], &made["temp_ratio_pct"]),
        (&4096.into(), &7.into(), &50.into())
    );
}

#[test]
fn who_has_the_store_open_is_named_and_waited_for() {
    let root = fresh();
    let dir = root.path();
    let mut held =
        command(dir, &["content", "put", "s", "state:/app/a", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    let is_held = || content(dir, &["ls", "s", "--timeout", "0"], b"").status.code() == Some(6);
    wait_until(is_held);
    let output = content(dir, &["get", "s", "state:/app/a", "--timeout", "10ms"], b"");
    expect(&output, 6);
    let words = text(&output.stderr);
    assert!(
        words.contains(&format!("held by pid {}", held.id())) && words.contains("hint: --timeout"),
        "{words}"
    );
    let waiting = command(dir, &["content", "stat", "s", "state:/app/a", "--timeout", "60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    held.stdin.take().unwrap().write_all(b"late").unwrap();
    assert!(held.wait().unwrap().success());
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(text(&waited.stdout), "state:/app/a: object, 4 bytes\n");
}

#[test]
fn a_store_whose_journal_is_lost_can_be_read_and_says_so() {
    let root = fresh();
    let dir = root.path();
    expect(&content(dir, &["put", "s", "state:/app/a", "-q"], b"one"), 0);
    std::fs::remove_file(dir.join("s/content/journal/journal")).unwrap();
    let got = content(dir, &["get", "s", "state:/app/a"], b"");
    expect(&got, 3);
    assert_eq!(got.stdout, b"one");
    assert!(
        text(&got.stderr).contains("warning: the store can only be read: its journal is missing"),
        "{}",
        text(&got.stderr)
    );
    for arguments in [&["put", "s", "state:/app/a"][..], &["rm", "s", "state:/app/a"], &["recover", "s"]] {
        let output = content(dir, arguments, b"new");
        expect(&output, 3);
        let words = text(&output.stderr);
        assert!(words.contains("hint: what is there can still be read"), "{arguments:?}: {words}");
    }
    let refused = json(&content(dir, &["recover", "s", "--json"], b""));
    assert_eq!(refused["error"]["code"], "corrupt");
    assert_eq!(std::fs::read(dir.join("s/app/a")).unwrap(), b"one");
}

#[test]
fn what_is_not_the_stores_is_told_and_left_alone() {
    let root = fresh();
    let dir = root.path();
    std::os::unix::fs::symlink("elsewhere", dir.join("s/link")).unwrap();
    let output = content(dir, &["recover", "s"], b"");
    expect(&output, 0);
    assert_eq!(text(&output.stdout), "recovery sweep orphans=0 finalized=0\n");
    assert!(text(&output.stderr).contains("1 entries are not the store's"), "{}", text(&output.stderr));
    assert!(dir.join("s/link").is_symlink());
}

#[test]
fn ctrl_c_during_a_put_leaves_the_old_object_and_nothing_staged() {
    let root = scratch();
    let dir = root.path();
    expect(&content(dir, &["init", "s", "--quota-bytes", "4G", "-q"], b""), 0);
    expect(&content(dir, &["put", "s", "state:/app/a", "-q"], b"old"), 0);
    set_long(dir.join("new"));
    let put = ["content", "put", "s", "state:/app/a", "--from", "new"];
    let child = command(dir, &put).stderr(Stdio::null()).spawn().unwrap();
    stopped_while_it_stages(child, &dir.join("s/app"));
    // It was closed: nothing is left to be found out.
    let told = json(&content(dir, &["recover", "s", "--json"], b""))["recovery"].clone();
    assert_eq!((&told["orphans"], &told["was_closed"]), (&0.into(), &true.into()));
    assert_eq!(prints(dir, &["get", "s", "state:/app/a"]), "old");
    assert_eq!(prints(dir, &["usage", "s"]), "app: 3 B of 4.00 GiB, 1 of 65536 file(s)\n");
}

#[test]
#[cfg(target_os = "linux")]
fn a_long_object_takes_little_memory_both_ways() {
    let root = scratch();
    let dir = root.path();
    let len: u64 = if long() { 4 << 30 } else { 256 << 20 };
    let limit = (3 * len).to_string();
    expect(&content(dir, &["init", "s", "--quota-bytes", &limit, "-q"], b""), 0);
    std::fs::File::create(dir.join("source")).unwrap().set_len(len).unwrap();
    let put = ["content", "put", "s", "state:/app/a", "--from", "source", "-q"];
    let get = ["content", "get", "s", "state:/app/a"];
    for arguments in [&put[..], &get] {
        let child = command(dir, arguments).stdout(Stdio::null()).spawn().unwrap();
        let peak = peak_memory_kib(child);
        assert!(peak < MEMORY_MAX_KIB, "{arguments:?}: {peak} KiB");
    }
}
