//! `batch`: all of the lines or none.

use super::*;

const LINES: &str = r#"{"op":"put","key":"/state/a","text":"one"}

{"op":"require","key":"/state/a","absent":true}
{"op":"put","key":"/state/b","hex":"00ff"}
{"op":"delete","key":"/state/c"}
"#;

#[test]
fn a_batch_is_done_as_a_whole_or_not_at_all() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/c", "three"], 0);
    let done = feed(dir, &["--json", "batch", "image"], LINES, 0).0;
    let done: Value = serde_json::from_slice(&done).unwrap();
    assert_eq!((&done["puts"], &done["deletes"], &done["requirements"]), (&2.into(), &1.into(), &1.into()));
    assert_eq!(done["durability"], "durable");
    assert_eq!(expect(dir, &["ls", "image"], 0).0, "/state/a\n/state/b\n");
    assert_eq!(run(dir, &["get", "image", "/state/b"], b"", None).stdout, b"\0\xff");

    // A requirement that does not hold: nothing of it, and the line is named.
    let before = expect(dir, &["dump", "image"], 0).0;
    let again = LINES.replace("one", "two");
    let (_, words) = feed(dir, &["batch", "image"], &again, 1);
    assert!(words.contains("line 3: `/state/a` is not as it was expected"), "{words}");
    let refused = feed(dir, &["--json", "batch", "image"], &again, 1).0;
    let refused: Value = serde_json::from_slice(&refused).unwrap();
    assert_eq!(refused["error"]["code"], "conflict");
    assert_eq!(refused["error"]["details"]["lines"], serde_json::json!([3]));
    let revision = json(dir, &["get", "image", "/state/a"], 0)["revision"].clone();
    assert_eq!(refused["error"]["details"]["found_revision"], revision);
    assert_eq!(expect(dir, &["dump", "image"], 0).0, before);

    // From a file, with the right revision; the last line needs no newline.
    let lines = again.replace("\"absent\":true", &format!("\"revision\":{revision}"));
    set(dir.join("lines"), lines.trim_end());
    let (_, words) = expect(dir, &["batch", "image", "--from", "lines"], 0);
    assert!(words.contains("2 put(s) and 1 delete(s)"), "{words}");
    assert_eq!(expect(dir, &["get", "image", "/state/a"], 0).0, "two");
    expect(dir, &["batch", "image", "--from", "missing"], 1);
}

#[test]
fn wrong_lines_are_named_and_nothing_is_written() {
    let root = fresh();
    let dir = root.path();
    let before = fs::read(dir.join("image")).unwrap();
    let good = r#"{"op":"put","key":"/state/good","text":"v"}"#;
    let long = format!(r#"{{"op":"put","key":"/state/a","text":"{}"}}"#, "v".repeat(65_537));
    for (line, why) in [
        ("not json", "not a JSON object"),
        ("[1]", "not a JSON object"),
        (r#"{"op":"put","text":"v"}"#, "no `key`"),
        (r#"{"op":"put","key":"a","text":"v"}"#, "hint: a key is absolute"),
        (r#"{"op":"put","key":"/state/a"}"#, "either `text` or `hex`"),
        (r#"{"op":"put","key":"/state/a","text":"v","hex":"00"}"#, "either `text` or `hex`"),
        (r#"{"op":"put","key":"/state/a","text":1}"#, "no `text` that is a text"),
        (r#"{"op":"put","key":"/state/a","hex":"0"}"#, "hexadecimal"),
        (r#"{"op":"put","key":"/state/a","text":"v","absent":true}"#, "`absent` is not known here"),
        (r#"{"op":"delete","key":"/state/a","text":"v"}"#, "`text` is not known here"),
        (r#"{"op":"require","key":"/state/a"}"#, "either `absent`"),
        (r#"{"op":"require","key":"/state/a","absent":false}"#, "either `absent`"),
        (r#"{"op":"require","key":"/state/a","absent":true,"revision":1}"#, "either `absent`"),
        (r#"{"op":"require","key":"/state/a","absent":true,"reversion":1}"#, "`reversion` is not known here"),
        (r#"{"op":"require","key":"/state/a","revision":"1"}"#, "not a number"),
        (r#"{"op":"cas","key":"/state/a"}"#, "`op` is put, delete or require"),
        (r#"{"op":7,"key":"/state/a"}"#, "`op` is put, delete or require"),
        (r#"{"key":"/state/a","text":"v"}"#, "it has no `op`"),
        (r#"{"op":"delete","key":"/state/good"}"#, "line 1 changes `/state/good` already"),
        (&long, "too long: limit=65536 requested=65537"),
    ] {
        let (_, words) = feed(dir, &["batch", "image"], format!("{good}\n{line}\n"), 2);
        assert!(words.contains("line 2: ") && words.contains(why), "{line}: {words}");
    }
    for nothing in ["", "\n\n", r#"{"op":"require","key":"/state/a","absent":true}"#] {
        assert!(feed(dir, &["batch", "image"], nothing, 2).1.contains("nothing to change"));
    }
    assert!(feed(dir, &["batch", "image"], " ".repeat(500_000), 2).1.contains("line 1: it is longer"));
    // More than goes into one frame, and more changes than the store takes.
    let value = "v".repeat(60_000);
    let many = |count: usize, value: &str| -> String {
        (0..count)
            .map(|n| format!("{{\"op\":\"put\",\"key\":\"/state/{n}\",\"text\":\"{value}\"}}\n"))
            .collect()
    };
    assert!(feed(dir, &["batch", "image"], many(18, &value), 2).1.contains("too long for one frame"));
    assert!(feed(dir, &["batch", "image"], many(4097, ""), 2).1.contains("limit=4096 requested=4097"));
    assert!(feed(dir, &["batch", "image"], many(10, &value), 4).1.contains("limit="));
    drop(json(dir, &["stats", "image"], 0));
    assert_eq!(expect(dir, &["ls", "image"], 0).0, "");
    let held = hold(dir, "image");
    assert!(feed(dir, &["batch", "image"], good, 6).1.contains("another writer"));
    drop(held);
    set(dir.join("image"), &before);
    feed(dir, &["batch", "image"], many(4096, ""), 0);
    assert_eq!(json(dir, &["stats", "image"], 0)["keys"], 4096);
}

#[test]
fn what_dump_prints_is_a_batch() {
    let root = fresh();
    let dir = root.path();
    feed(dir, &["batch", "image"], LINES, 0);
    expect(dir, &["put", "image", "/state/quoted", "a \"b\"\n\u{1}ä"], 0);
    let dump = expect(dir, &["dump", "image"], 0).0;
    expect(dir, &["init", "copy", "--size", "1MiB"], 0);
    feed(dir, &["batch", "copy"], &dump, 0);
    for key in ["/state/a", "/state/b", "/state/quoted"] {
        let value = |image| run(dir, &["get", image, key], b"", None).stdout;
        assert_eq!(value("copy"), value("image"), "{key}");
    }
    for (from, to, why) in [
        ("\"certain\"", "\"suspect\"", "the value is suspect"),
        ("plain", "sealed", "the value is sealed"),
        ("schema", "scheme", "`scheme` is not known"),
    ] {
        let line = dump.lines().next().unwrap().replace(from, to);
        assert!(feed(dir, &["batch", "copy"], line, 2).1.contains(why), "{why}");
    }
}

#[test]
fn a_batch_that_is_killed_is_whole_or_not_there() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/c", "three"], 0);
    let before = fs::read(dir.join("image")).unwrap();
    let mut seen = Vec::new();
    for nth in 1..=CALLS_MAX {
        set(dir.join("image"), &before);
        let batch = run(dir, &["batch", "image"], LINES.as_bytes(), Some(&format!("call@{nth}")));
        let listed = expect(dir, &["ls", "image"], 0).0;
        assert!(["/state/c\n", "/state/a\n/state/b\n"].contains(&&*listed), "{listed}");
        seen.push(listed);
        if batch.status.code() == Some(0) {
            assert!(seen.contains(&"/state/c\n".to_owned()) && seen.is_sorted_by(|a, b| a >= b), "{seen:?}");
            return;
        }
        assert_eq!(batch.status.signal(), Some(Signal::ABORT.as_raw()), "{}", text(&batch.stderr));
    }
    panic!("it never came to its end")
}
