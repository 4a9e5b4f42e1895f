//! `seal`, and the key of a sealed prefix for the commands that put and get.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A file with a key, that only its owner may read.
fn key(dir: &Path, name: &str, byte: u8) {
    set(dir.join(name), [byte; 32]);
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A store with a sealed prefix, and its key.
fn sealed() -> tempfile::TempDir {
    let root = fresh();
    key(root.path(), "key", 7);
    expect(root.path(), &["seal", "add", "image", "/state/s", "--key-file", "key"], 0);
    root
}

#[test]
fn nothing_plain_is_in_the_image_and_the_key_brings_it_back() {
    let root = sealed();
    let dir = root.path();
    assert_eq!(expect(dir, &["seal", "ls", "image"], 0).0, "/state/s: key 1\n");
    assert_eq!(json_lines(dir, &["seal", "ls", "image"])[0]["key_id"], 1);
    assert_eq!(json(dir, &["stats", "image"], 0)["sealed_prefixes"], 1);
    let with = |arguments: &[&str], exit| expect(dir, &[arguments, &["--key-file", "key"]].concat(), exit).0;
    with(&["put", "image", "/state/s/a", "a secret value"], 0);
    with(&["cas", "image", "/state/s/b", "a secret value", "--absent"], 0);
    let lines = r#"{"op":"put","key":"/state/s/c","text":"a secret value"}
{"op":"put","key":"/state/plain","text":"a plain value"}"#;
    feed(dir, &["batch", "image", "--key-file", "key"], lines, 0);
    let image = fs::read(dir.join("image")).unwrap();
    assert_eq!((places(&image, b"a secret").len(), places(&image, b"a plain").len()), (0, 1));
    assert_eq!(places(&image, &[7; 32]).len(), 0, "the key is not in it");
    for key in ["/state/s/a", "/state/s/b", "/state/s/c"] {
        assert_eq!(with(&["get", "image", key], 0), "a secret value");
        // Without the key, it says which one it needs, and prints nothing.
        let (stdout, stderr) = expect(dir, &["get", "image", key], 7);
        assert!(
            stdout.is_empty() && stderr.contains("key 1 is needed") && stderr.contains("--key-file"),
            "{stderr}"
        );
    }
    let got: Value = serde_json::from_str(&with(&["--json", "get", "image", "/state/s/a"], 0)).unwrap();
    assert_eq!((&got["text"], &got["form"]), (&"a secret value".into(), &"plain".into()));
    let dump = expect(dir, &["dump", "image"], 0).0;
    assert_eq!((dump.matches("\"sealed\"").count(), dump.contains("secret")), (3, false));
    assert!(feed(dir, &["batch", "image"], dump, 2).1.contains("sealed"));

    for (arguments, exit, why) in [
        (&["put", "image", "/state/s/a", "v"][..], 7, "--key-file"),
        (&["cas", "image", "/state/s/x", "v", "--absent"], 7, "--key-file"),
        (&["put", "image", "/state/plain", "v", "--key-file", "key"], 2, "no sealed prefix"),
        (&["put", "image", "/state/s/a", "v", "--key-file", "key", "--key-id", "2"], 7, "--key-id"),
        (&["put", "image", "/state/s/a", "v", "--key-id", "1"], 2, "--key-file"),
        (&["get", "image", "/state/s/a", "--key-file", "missing"], 1, "missing"),
        (&["seal", "add", "image", "/state/s/below", "--key-file", "key"], 2, "seal ls"),
        (&["seal", "add", "image", "/state/plain", "--key-file", "key"], 2, "until a scrub"),
        (&["seal", "rm", "image", "/state/s"], 2, "remove the keys below it"),
        (&["seal", "rm", "image", "/state/none"], 2, "seal ls"),
    ] {
        assert!(expect(dir, arguments, exit).1.contains(why), "{arguments:?}");
    }
    assert!(
        feed(dir, &["batch", "image"], r#"{"op":"put","key":"/state/s/d","text":""}"#, 7).1.contains("key 1")
    );
    // A backup needs no key and keeps it sealed; a snapshot is read in a restored one.
    expect(dir, &["snapshot", "create", "image", "then"], 0);
    expect(dir, &["snapshot", "get", "image", "then", "/state/s/a"], 2);
    expect(dir, &["backup", "image", "bak", "--snapshot", "then"], 0);
    expect(dir, &["restore", "bak", "copy"], 0);
    assert_eq!(with(&["get", "copy", "/state/s/a"], 0), "a secret value");
    // Removing needs no key either.
    expect(dir, &["rm", "image", "/state/s/a", "/state/s/b", "/state/s/c"], 0);
    expect(dir, &["seal", "rm", "image", "/state/s"], 0);
    expect(dir, &["put", "image", "/state/s/a", "v"], 0);
}

#[test]
fn a_key_that_others_may_read_is_refused_and_no_key_is_printed() {
    let root = sealed();
    let dir = root.path();
    let put = ["put", "image", "/state/s/a", "v", "--key-file", "key"];
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(mode)).unwrap();
        let (_, words) = expect(dir, &put, 7);
        assert!(words.contains("chmod 600"), "{words}");
        expect(dir, &["seal", "add", "image", "/state/t", "--key-file", "key"], 7);
    }
    fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o400)).unwrap();
    expect(dir, &put, 0);
    // The same in digits; and others.
    key(dir, "digits", 0);
    set(dir.join("digits"), "07".repeat(32) + "\n");
    assert_eq!(expect(dir, &["get", "image", "/state/s/a", "--key-file", "digits"], 0).0, "v");
    set(dir.join("digits"), "08".repeat(32));
    let (_, words) = expect(dir, &["get", "image", "/state/s/a", "--key-file", "digits"], 7);
    assert!(!words.contains("0808"), "{words}");
    set(dir.join("digits"), "08".repeat(31));
    let (_, words) = expect(dir, &["get", "image", "/state/s/a", "--key-file", "digits"], 2);
    assert!(words.contains("is no key") && !words.contains("0808"), "{words}");
}

#[test]
fn a_rotation_that_is_killed_goes_on() {
    let root = sealed();
    let dir = root.path();
    key(dir, "new", 8);
    for name in ["/state/s/a", "/state/s/b"] {
        expect(dir, &["put", "image", name, &"v".repeat(40_000), "--key-file", "key"], 0);
    }
    let rotate = ["seal", "rotate", "image", "/state/s", "--key-file", "key", "--new-key-file", "new"];
    expect(dir, &[&rotate[..], &["--new-key-id", "1"]].concat(), 2);
    let rotate = [&rotate[..], &["--new-key-id", "2"]].concat();
    let before = fs::read(dir.join("image")).unwrap();
    let mut resumed = 0;
    for nth in 1..=CALLS_MAX {
        set(dir.join("image"), &before);
        let killed = run(dir, &rotate, b"", Some(&format!("call@{nth}")));
        if killed.status.code() == Some(0) {
            break;
        }
        assert_eq!(killed.status.signal(), Some(Signal::ABORT.as_raw()), "{}", text(&killed.stderr));
        let has_begun = expect(dir, &["seal", "ls", "image"], 0).0 == "/state/s: key 2\n";
        if has_begun {
            assert!(expect(dir, &rotate, 2).1.contains("--key-id of the old key"));
        }
        let again = run(dir, &[&rotate[..], &["--key-id", "1"]].concat(), b"", None);
        // Where it had ended already, the old key is none any more.
        match again.status.code() {
            Some(0) => resumed += u32::from(has_begun),
            Some(7) => assert!(has_begun && text(&again.stderr).contains("is not the one"), "{again:?}"),
            _ => panic!("{again:?}"),
        }
        let value = expect(dir, &["get", "image", "/state/s/b", "--key-file", "new"], 0).0;
        assert_eq!(value.len(), 40_000);
        assert!(nth < CALLS_MAX, "it never came to its end");
    }
    assert!(resumed > 3, "{resumed}");
    expect(dir, &["get", "image", "/state/s/a", "--key-file", "new"], 0);
    expect(dir, &["get", "image", "/state/s/a", "--key-file", "key"], 7);
    expect(dir, &["get", "image", "/state/s/a", "--key-file", "key", "--key-id", "1"], 7);
}

#[test]
fn store_d3_a_lost_record_of_a_prefix_is_told_and_put_back() {
    let root = sealed();
    let dir = root.path();
    key(dir, "other", 8);
    expect(dir, &["put", "image", "/state/s/a", "a secret value", "--key-file", "key"], 0);
    expect(dir, &["put", "image", "/state/plain", "a plain value"], 0);
    let mut image = fs::read(dir.join("image")).unwrap();
    let [at] = places(&image, b"/sealed/state/s")[..] else { panic!("not once") };
    image[at] ^= 1;
    set(dir.join("image"), &image);

    // Of the damaged store.
    let told = "/state/s: has sealed values, and the record of their prefix is lost";
    assert!(expect(dir, &["fsck", "image"], 3).0.contains(told));
    assert_eq!(json(dir, &["fsck", "image"], 3)["lost_prefixes"][0], "/state/s");
    let saved = json(dir, &["salvage", "image", "saved"], 0);
    assert_eq!((&saved["certain"], &saved["sealed_without_prefix"]), (&2.into(), &1.into()));
    assert!(
        expect(dir, &["salvage", "image", "again"], 0).1.contains("1 sealed value(s) have lost the record")
    );

    // Of the salvaged one.
    let listed = expect(dir, &["seal", "ls", "saved"], 0).0;
    assert!(listed.starts_with(told) && listed.contains("seal restore"), "{listed}");
    let listed = json(dir, &["seal", "ls", "saved"], 0);
    assert_eq!((&listed["prefix"], &listed["is_record_lost"]), (&"/state/s".into(), &true.into()));
    assert_eq!(json(dir, &["stats", "saved"], 0)["lost_prefixes"], 1);
    assert!(expect(dir, &["stats", "saved"], 0).0.contains("the record of 1 sealed prefix(es)"));
    let checked = expect(dir, &["fsck", "saved"], 0).0;
    assert!(checked.contains(told) && !checked.contains("everything is as it should be"), "{checked}");
    let (_, words) = expect(dir, &["put", "saved", "/state/s/b", "a secret value"], 7);
    assert!(words.contains("record") && words.contains("seal restore"), "{words}");
    expect(dir, &["get", "saved", "/state/s/a"], 7);
    expect(dir, &["get", "saved", "/state/s/a", "--key-file", "other"], 3);
    expect(dir, &["get", "saved", "/state/s/a", "--key-file", "key", "--key-id", "2"], 7);
    assert_eq!(expect(dir, &["get", "saved", "/state/s/a", "--key-file", "key"], 0).0, "a secret value");
    assert!(places(&fs::read(dir.join("saved")).unwrap(), b"a secret").is_empty());

    let restore = ["seal", "restore", "saved", "/state/s", "--key-file"];
    expect(dir, &[&restore[..], &["other"]].concat(), 7);
    expect(dir, &[&restore[..], &["key", "--key-id", "2"]].concat(), 7);
    expect(dir, &["seal", "restore", "saved", "/state", "--key-file", "key"], 2);
    expect(dir, &[&restore[..], &["key", "--old-key-file", "other"]].concat(), 2);
    let restored = json(dir, &[&restore[..], &["key"]].concat(), 0);
    assert_eq!((&restored["key_id"], &restored["durability"]), (&1.into(), &"durable".into()));
    assert_eq!(expect(dir, &["seal", "ls", "saved"], 0).0, "/state/s: key 1\n");
    expect(dir, &[&restore[..], &["key"]].concat(), 2);
    expect(dir, &["put", "saved", "/state/s/b", "a secret value", "--key-file", "key"], 0);
    assert_eq!(expect(dir, &["get", "saved", "/state/s/a", "--key-file", "key"], 0).0, "a secret value");
    assert!(places(&fs::read(dir.join("saved")).unwrap(), b"a secret").is_empty());
    assert!(expect(dir, &["fsck", "saved"], 0).0.contains("everything is as it should be"));
}
