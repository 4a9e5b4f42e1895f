//! `txn`: several files that change together, or not at all, once the next one has looked.

use super::*;

const MANIFEST: &[u8] = br#"{"op":"replace","path":"a","text":"new a"}
{"op":"create","path":"new/c","text":"new c"}
{"op":"remove","path":"gone"}
{"op":"rename","path":"from","to":"to"}
"#;

fn prepare(dir: &Path) {
    for name in ["a", "gone", "from", "to"] {
        put(dir.join(name), format!("old {name}").as_bytes(), 0o640);
    }
}

/// Everything as it was, but for a directory that may have been made.
fn is_old(tree: &Tree) -> bool {
    let mut left = tree.clone();
    left.remove("new");
    left == ["a", "gone", "from", "to"]
        .map(|name| (name.to_owned(), file(format!("old {name}"), 0o640)))
        .into()
}

fn is_new(tree: &Tree) -> bool {
    let wanted = [
        ("a", file("new a", 0o640)),
        ("new", directory(masked(0o777))),
        ("new/c", file("new c", masked(0o666))),
        ("to", file("old from", 0o640)),
    ];
    *tree == wanted.map(|(name, found)| (name.to_owned(), found)).into()
}

/// Finishes what was begun, and says what that was.
#[track_caller]
fn recover(dir: &Path) -> String {
    let output = steadfast(dir, &["txn", ".", "--recover"], b"", None);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_transaction_leaves_all_old_or_all_new_after_recovery() {
    Scene {
        name: "txn",
        arguments: &["txn", "."],
        stdin: MANIFEST,
        prepare,
        points: &[
            "after_create",
            "after_write",
            "after_fsync",
            "after_dirsync",
            "after_prepare",
            "after_commit_record",
            "after_rename",
            "before_done",
        ],
        stray_mode_max: 0o666,
        finished: 0,
        crashed: |dir, _| {
            recover(dir);
            let found = visible(dir);
            assert!(is_old(&found) || is_new(&found), "{found:?}");
            // And again: there is nothing more to do.
            assert_eq!(recover(dir), "recovery sweep orphans=0 finalized=0\n");
            assert_eq!(visible(dir), found);
        },
        again: |left| i32::from(is_new(left)),
        done: |_, after| assert!(is_new(after), "{after:?}"),
    }
    .abort_everywhere();
}

/// Which it is, at a point of the commit, and what recovery says.
#[track_caller]
fn decided(point: &str, finalized: u32, holds: fn(&Tree) -> bool) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    prepare(dir);
    // The journal is there: its own names are not counted below.
    let same = br#"{"op":"replace","path":"a","text":"old a"}"#;
    assert_eq!(steadfast(dir, &["txn", "."], same, None).status.code(), Some(0));
    let output = steadfast(dir, &["txn", "."], MANIFEST, Some(point));
    assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{}", said(&output));
    let told = recover(dir);
    assert!(told.ends_with(&format!(" finalized={finalized}\n")), "{point}: {told}");
    assert!(holds(&visible(dir)), "{point}: {:?}", visible(dir));
    assert!(!tree(dir).keys().any(|name| is_stray(name)), "{point}: {:?}", tree(dir));
}

#[test]
fn the_commit_record_decides() {
    decided("after_prepare", 0, is_old);
    for point in ["after_commit_record", "after_rename", "after_rename@2", "before_done"] {
        decided(point, 1, is_new);
    }
}
