//! `snapshot`, `quota`, `sync`, `scrub`, `fsck --verify`.

use super::*;

#[test]
fn a_snapshot_is_the_store_as_it_was() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "old"], 0);
    expect(dir, &["put", "image", "/state/a/b", "kept"], 0);
    let taken = json(dir, &["snapshot", "create", "image", "before update"], 0);
    assert_eq!((&taken["keys"], &taken["durability"]), (&2.into(), &"durable".into()));
    expect(dir, &["put", "image", "/state/a", "new"], 0);
    expect(dir, &["rm", "image", "/state/a/b"], 0);
    expect(dir, &["put", "image", "/state/later", "v"], 0);

    let listed = json_lines(dir, &["snapshot", "list", "image"]);
    assert_eq!((&listed[0]["name"], &listed[0]["revision"]), (&"before update".into(), &taken["revision"]));
    assert!(expect(dir, &["snapshot", "list", "image"], 0).0.ends_with(" before update\n"));
    let get = |key: &str, exit| expect(dir, &["snapshot", "get", "image", "before update", key], exit).0;
    assert_eq!((get("/state/a", 0), get("/state/a/b", 0)), ("old".to_owned(), "kept".to_owned()));
    get("/state/later", 1);
    let ls =
        |more: &[&str]| expect(dir, &[&["snapshot", "ls", "image", "before update"], more].concat(), 0).0;
    assert_eq!(ls(&[]), "/state/a\n/state/a/b\n");
    assert_eq!(ls(&["/state/a/b"]), "/state/a/b\n");
    assert!(ls(&["/state/a/b", "--long"]).ends_with(" 4 /state/a/b\n"));
    assert_eq!(json_lines(dir, &["snapshot", "ls", "image", "before update"])[1]["bytes"], 4);
    assert_eq!(json(dir, &["stats", "image"], 0)["past_values"], 2);
    assert!(expect(dir, &["stats", "image"], 0).0.contains("snapshots   1, which alone keep 2 value(s)"));

    for (arguments, exit, why) in [
        (&["create", "image", "before update"][..], 1, "snapshot drop"),
        (&["create", "image", "a/b"], 2, "no slash"),
        (&["create", "image", ""], 2, "at most 64 bytes"),
        (&["drop", "image", "none"], 1, "snapshot list"),
        (&["get", "image", "none", "/state/a"], 1, "snapshot list"),
        (&["get", "image", "before update", "a"], 2, "a key is absolute"),
        (&["ls", "image", "none"], 1, "snapshot list"),
        (&["ls", "image", "before update", "/state/"], 2, "a key is absolute"),
        (&["list", "missing"], 1, "missing"),
    ] {
        let (stdout, stderr) = expect(dir, &[&["snapshot"], arguments].concat(), exit);
        assert!(stdout.is_empty() && stderr.contains(why), "{arguments:?}: {stderr}");
    }
    let held = hold(dir, "image");
    for change in ["create", "drop"] {
        expect(dir, &["snapshot", change, "image", "before update"], 6);
    }
    get("/state/a", 0);
    drop(held);
    for n in 1..32 {
        expect(dir, &["snapshot", "create", "image", &n.to_string()], 0);
    }
    assert!(expect(dir, &["snapshot", "create", "image", "32"], 4).1.contains("drop one"));
    expect(dir, &["snapshot", "drop", "image", "before update"], 0);
    assert_eq!(expect(dir, &["snapshot", "list", "image"], 0).0.lines().count(), 31);
    // Nothing has the value that the snapshot alone had.
    expect(dir, &["snapshot", "get", "image", "before update", "/state/a"], 1);
    assert_eq!(json(dir, &["stats", "image"], 0)["past_values"], 0);
}

#[test]
fn a_quota_warns_and_then_refuses() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a/1", "0123456789"], 0);
    let set_quota = ["quota", "set", "image", "/state/a", "--soft", "30", "--hard", "1K", "--keys", "3"];
    let made = json(dir, &set_quota, 0);
    assert_eq!((&made["quota"]["used_bytes"], &made["quota"]["used_keys"]), (&20.into(), &1.into()));
    assert_eq!(made.get("warnings"), None);

    // At the soft limit nothing is said, above it there is a warning, elsewhere there is none.
    assert_eq!(json(dir, &["put", "image", "/state/a/2", ""], 0).get("warnings"), None);
    let warned = json(dir, &["put", "image", "/state/a/2", "1"], 0);
    assert_eq!(
        warned["warnings"],
        serde_json::json!(["`/state/a` has 31 bytes, more than its soft limit of 30"])
    );
    let (_, words) = expect(dir, &["cas", "image", "/state/a/3", "", "--absent"], 0);
    assert!(words.starts_with("warning: `/state/a` has 41 bytes"), "{words}");
    assert_eq!(json(dir, &["put", "image", "/state/ab", "v"], 0).get("warnings"), None);
    let (_, words) = feed(dir, &["batch", "image"], r#"{"op":"put","key":"/state/a/3","text":""}"#, 0);
    assert!(words.starts_with("warning: `/state/a`"), "{words}");
    let (_, words) = feed(dir, &["batch", "image"], r#"{"op":"delete","key":"/state/a/2"}"#, 0);
    assert!(!words.contains("warning"), "{words}");
    expect(dir, &["put", "image", "/state/a/2", ""], 0);

    for (key, value) in [("/state/a/4", ""), ("/state/a/1", "v".repeat(2000).as_str())] {
        let (_, words) = expect(dir, &["put", "image", key, value], 4);
        assert!(words.contains("quota") && words.contains("hint: remove keys below the prefix"), "{words}");
    }
    assert_eq!(json(dir, &["put", "image", "/state/a/4", ""], 4)["error"]["code"], "no_space");
    let listed = json_lines(dir, &["quota", "ls", "image"]);
    assert_eq!((&listed[0]["keys"], &listed[0]["used_keys"]), (&3.into(), &3.into()));
    assert!(
        expect(dir, &["quota", "ls", "image"], 0)
            .0
            .contains("/state/a: 40 B of 1.00 KiB (warns above 30 B), 3 of 3 key(s)")
    );
    assert_eq!(json(dir, &["stats", "image"], 0)["quotas"], 1);

    // Below what is there: it is set, and said.
    let (_, words) = expect(dir, &["quota", "set", "image", "/state/a", "--keys", "1"], 0);
    assert!(words.contains("is above a limit already"), "{words}");
    expect(dir, &["quota", "set", "image", "/state/a", "--soft", "2", "--hard", "1"], 2);
    expect(dir, &["quota", "set", "image", "/state/a"], 2);
    expect(dir, &["quota", "set", "image", "a", "--keys", "1"], 2);
    expect(dir, &["quota", "set", "image", "/state", "--soft", "-1"], 2);
    let held = hold(dir, "image");
    expect(dir, &["quota", "set", "image", "/state", "--keys", "9"], 6);
    expect(dir, &["quota", "ls", "image"], 0);
    drop(held);
    expect(dir, &["quota", "rm", "image", "/state/a"], 0);
    assert!(expect(dir, &["quota", "rm", "image", "/state/a"], 1).1.contains("quota ls"));
    assert_eq!(expect(dir, &["quota", "ls", "image"], 0).0, "");
}

#[test]
fn sync_puts_right_what_a_crash_left() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "old"], 0);
    let before = fs::read(dir.join("image")).unwrap();
    let done = json(dir, &["sync", "image"], 0);
    assert_eq!((&done["was_sealed"], &done["keys"]), (&true.into(), &1.into()));
    // Every place where a put is killed.
    let mut unsealed = 0;
    for image in killed_puts(dir, &before, "new") {
        set(dir.join("image"), &image);
        let done = json(dir, &["sync", "image"], 0);
        unsealed += u32::from(done["was_sealed"] == false);
        assert_eq!(done["durability"], "durable");
        expect(dir, &["fsck", "image"], 0);
        assert_eq!(json(dir, &["stats", "image"], 0)["was_sealed"], true);
        assert_eq!(json(dir, &["sync", "image"], 0)["was_sealed"], true, "once is enough");
    }
    assert!(unsealed > 0);
    // The superblocks at the beginning are missing; those at the end are there.
    let mut image = fs::read(dir.join("image")).unwrap();
    image[..8192].fill(0);
    set(dir.join("image"), &image);
    expect(dir, &["fsck", "image"], 1);
    assert!(expect(dir, &["sync", "image"], 0).1.contains("a superblock was rewritten"));
    expect(dir, &["fsck", "image"], 0);
    let held = hold(dir, "image");
    expect(dir, &["sync", "image"], 6);
    drop(held);
    expect(dir, &["sync", "missing"], 1);
    expect(rotten().path(), &["sync", "image"], 3);
}

#[test]
fn scrub_takes_what_is_gone_from_the_image() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "a secret that goes"], 0);
    expect(dir, &["put", "image", "/state/b", "what stays there"], 0);
    expect(dir, &["snapshot", "create", "image", "s"], 0);
    expect(dir, &["rm", "image", "/state/a"], 0);
    let count = |text: &[u8]| places(&fs::read(dir.join("image")).unwrap(), text).len();
    let kept = json(dir, &["scrub", "image"], 0);
    assert!(kept["warnings"][0].as_str().unwrap().contains("1 snapshot(s) keep"), "{kept}");
    assert_eq!(count(b"a secret that goes"), 1, "the snapshot has it");
    expect(dir, &["snapshot", "drop", "image", "s"], 0);
    assert_eq!(count(b"a secret that goes"), 1);
    let (_, words) = expect(dir, &["scrub", "image"], 0);
    assert!(words.contains("1 key(s) are as they were"), "{words}");
    assert_eq!((count(b"a secret that goes"), count(b"what stays there")), (0, 1));
    assert_eq!(expect(dir, &["get", "image", "/state/b"], 0).0, "what stays there");
    expect(dir, &["fsck", "image"], 0);
    let held = hold(dir, "image");
    expect(dir, &["scrub", "image"], 6);
    drop(held);
    expect(rotten().path(), &["scrub", "image"], 3);
}

#[test]
fn reading_twice_says_whether_both_were_the_same() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "one"], 0);
    assert!(expect(dir, &["fsck", "image", "--verify"], 0).0.contains("1 record(s) the same both times"));
    let found = json(dir, &["fsck", "image", "--verify"], 0);
    assert_eq!(
        (&found["verified"]["is_sound"], &found["verified"]["same_records"]),
        (&true.into(), &1.into())
    );
    assert_eq!(json(dir, &["fsck", "image"], 0)["verified"], Value::Null);
    let rotten = rotten();
    assert_eq!(json(rotten.path(), &["fsck", "image", "--verify"], 3)["health"], "damaged");
    let held = hold(rotten.path(), "image");
    expect(rotten.path(), &["fsck", "image", "--verify"], 6);
    drop(held);
}

#[test]
fn what_reads_works_on_an_image_that_may_not_be_written() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "one"], 0);
    expect(dir, &["snapshot", "create", "image", "s"], 0);
    expect(dir, &["quota", "set", "image", "/state", "--keys", "9"], 0);
    let before = fs::read(dir.join("image")).unwrap();
    let mut mode = fs::metadata(dir.join("image")).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(dir.join("image"), mode).unwrap();
    for arguments in [
        &["snapshot", "list", "image"][..],
        &["snapshot", "get", "image", "s", "/state/a"],
        &["snapshot", "ls", "image", "s"],
        &["quota", "ls", "image"],
        &["fsck", "image", "--verify"],
        &["watch", "image", "--since", "0", "--once"],
        &["backup", "image", "bak"],
        &["backup", "image", "-"],
    ] {
        let output = run(dir, arguments, b"", None);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(fs::read(dir.join("image")).unwrap(), before, "no byte of it was touched");
}
