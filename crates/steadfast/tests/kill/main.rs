//! The real command on real files, aborted at every failpoint: at each named point, and before each single call on
//! the file system. What readers see then is old or new, whole; and the same command, run again, succeeds.
//!
//! The kernel lives on, so this is the death of a process and not a power cut: what it shows is the order of the
//! steps and that every leftover can be told and removed.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test says where it broke")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use crashsim::{CRASH_POINTS_VARIABLE, MARKS};
use media::{Fs as _, OsFs};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

mod content;
mod txn;

const STEADFAST: &str = env!("CARGO_BIN_EXE_steadfast");

/// No command here makes more calls; one that never ends would otherwise never end the test either.
const CALLS_MAX: u64 = 400;

/// What is at a path: its mode, and its bytes (a directory has none).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    mode: u32,
    bytes: Option<Vec<u8>>,
}

/// Everything below a directory by its relative path.
type Tree = BTreeMap<String, Found>;

/// One command, aborted again and again, each time in a fresh directory.
struct Scene {
    name: &'static str,
    arguments: &'static [&'static str],
    stdin: &'static [u8],
    prepare: fn(&Path),
    /// The named points that the command passes, all of them.
    points: &'static [&'static str],
    /// Bits that a temporary file may have at the most.
    stray_mode_max: u32,
    /// What it says when it came to its end.
    finished: i32,
    /// Checks what a reader sees right after the abort, without lock files and temporary files.
    crashed: fn(&Path, &Tree),
    /// What the same command then says, given what was left to it.
    again: fn(&Tree) -> i32,
    /// Checks what there is when it was done, given what there was before.
    done: fn(&Tree, &Tree),
}

fn steadfast(dir: &Path, arguments: &[&str], stdin: &[u8], points: Option<&str>) -> Output {
    static NO_CORE_FILES: Once = Once::new();
    NO_CORE_FILES
        .call_once(|| setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap());
    let mut command = Command::new(STEADFAST);
    command.current_dir(dir).args(arguments).env_remove(CRASH_POINTS_VARIABLE);
    if let Some(points) = points {
        command.env(CRASH_POINTS_VARIABLE, points);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Little enough for the pipe, and one that dies early does not read it.
    drop(child.stdin.take().unwrap().write_all(stdin));
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn put(path: impl AsRef<Path>, bytes: &[u8], mode: u32) {
    fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn file(bytes: impl Into<Vec<u8>>, mode: u32) -> Found {
    Found { mode, bytes: Some(bytes.into()) }
}

fn directory(mode: u32) -> Found {
    Found { mode, bytes: None }
}

/// `mode` less the umask of this process, which the command inherits.
fn masked(mode: u32) -> u32 {
    mode & !OsFs.umask().unwrap().bits()
}

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut due = vec![root.to_owned()];
    while let Some(dir) = due.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap();
            let mode = kind.permissions().mode() & 0o7777;
            let bytes = if kind.is_dir() { None } else { Some(fs::read(&path).unwrap()) };
            found
                .insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), Found { mode, bytes });
            if kind.is_dir() {
                due.push(path);
            }
        }
    }
    found
}

fn is_stray(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap();
    name.starts_with(".steadfast-") && (name.ends_with(".tmp") || name.ends_with(".nxpart"))
}

fn is_backup(name: &str) -> bool {
    name.rsplit('/').next().unwrap().starts_with(".steadfast-") && name.ends_with(".bak")
}

fn is_journal(name: &str) -> bool {
    name.split('/').any(|part| part == ".steadfast-txn" || part == ".steadfast-journaled")
}

/// What a reader minds: no lock files, no temporary files, no journal.
fn visible(root: &Path) -> Tree {
    let mut tree = tree(root);
    tree.retain(|name, _| {
        !is_stray(name) && !is_backup(name) && !is_journal(name) && !name.ends_with(".lock")
    });
    tree
}

impl Scene {
    /// Aborts at every point there is, and says how often that was.
    #[track_caller]
    fn abort_everywhere(&self) {
        let mut passed = BTreeMap::new();
        for &mark in MARKS {
            let count = self.abort_at_each(mark);
            if count > 0 {
                passed.insert(mark, count);
            }
        }
        let calls = self.abort_at_each("call");
        let counted: String = passed.iter().map(|(mark, count)| format!("{mark} {count}, ")).collect();
        let told = format!("{}: aborts: {counted}call {calls}\n", self.name);
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        let wanted: BTreeSet<&str> = self.points.iter().copied().collect();
        assert_eq!(passed.into_keys().collect::<BTreeSet<_>>(), wanted, "{}", self.name);
        assert!(calls > 0, "{}: no call was seen", self.name);
    }

    /// The first, second, … time that the point is reached, until it is reached no more.
    fn abort_at_each(&self, point: &str) -> u64 {
        for nth in 1..=CALLS_MAX {
            if !self.abort_once(&format!("{point}@{nth}")) {
                return nth - 1;
            }
        }
        panic!("{}: {point} is reached more than {CALLS_MAX} times", self.name);
    }

    /// Whether the command came to the point at all.
    fn abort_once(&self, entry: &str) -> bool {
        let context = || format!("{} at {entry}", self.name);
        let told = Told(context());
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        (self.prepare)(dir);
        let before = visible(dir);
        let output = steadfast(dir, self.arguments, self.stdin, Some(entry));
        if output.status.code() == Some(self.finished) {
            assert!(!said(&output).contains("crashsim"), "{}: {}", context(), said(&output));
            (self.done)(&before, &visible(dir));
            return false;
        }
        let signal = output.status.signal();
        assert_eq!(signal, Some(Signal::ABORT.as_raw()), "{}: {}", context(), said(&output));
        assert!(said(&output).contains(&format!("crashsim: abort at {entry}\n")), "{}", said(&output));
        for (name, stray) in tree(dir).iter().filter(|(name, _)| is_stray(name)) {
            let too_wide = stray.mode & !self.stray_mode_max;
            assert_eq!(too_wide, 0, "{}: `{name}` has mode {:o}", context(), stray.mode);
        }
        let crashed = visible(dir);
        (self.crashed)(dir, &crashed);
        let left = visible(dir);
        let again = steadfast(dir, self.arguments, self.stdin, None);
        assert_eq!(again.status.code(), Some((self.again)(&left)), "{}: {}", context(), said(&again));
        let after = visible(dir);
        (self.done)(&left, &after);
        let swept = steadfast(dir, &["sweep", "--recursive", "."], b"", None);
        assert_eq!(swept.status.code(), Some(0), "{}: {}", context(), said(&swept));
        let strays: Vec<String> = tree(dir).into_keys().filter(|name| is_stray(name)).collect();
        assert_eq!(strays, Vec::<String>::new(), "{}: {}", context(), said(&swept));
        assert_eq!(visible(dir), after, "{}: sweep touched what is not its own", context());
        drop(told);
        true
    }
}

/// Says where it was if a check of the scene fails.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(
                std::io::stderr().write_all(format!("the failure above is that of {}\n", self.0).as_bytes()),
            );
        }
    }
}

fn succeeds(_left: &Tree) -> i32 {
    0
}

const REPLACED: &[&str] = &["after_create", "after_write", "after_fsync", "after_rename", "after_dirsync"];

#[test]
fn write_over_a_file_leaves_the_old_or_the_new_with_its_mode() {
    Scene {
        name: "write, existing",
        arguments: &["write", "f"],
        stdin: b"the new content, longer",
        prepare: |dir| put(dir.join("f"), b"the old content", 0o640),
        points: REPLACED,
        stray_mode_max: 0o640,
        finished: 0,
        crashed: |_, tree| {
            let found = &tree["f"];
            let whole = [file("the old content", 0o640), file("the new content, longer", 0o640)];
            assert!(tree.len() == 1 && whole.contains(found), "{tree:?}");
        },
        again: succeeds,
        done: |_, after| {
            assert_eq!(*after, [("f".to_owned(), file("the new content, longer", 0o640))].into());
        },
    }
    .abort_everywhere();
}

#[test]
fn write_of_a_new_file_with_a_mode_in_new_directories_leaves_nothing_or_all_of_it() {
    Scene {
        name: "write, new, parents",
        arguments: &["write", "a/b/f", "--mode", "604"],
        stdin: b"new",
        prepare: |dir| put(dir.join("beside"), b"other", 0o600),
        points: REPLACED,
        stray_mode_max: 0o604,
        finished: 0,
        crashed: |_, tree| {
            assert_eq!(tree["beside"], file("other", 0o600));
            for (name, found) in tree.iter().filter(|(name, _)| *name != "beside") {
                let whole = if name == "a/b/f" { file("new", 0o604) } else { directory(masked(0o777)) };
                assert_eq!(*found, whole, "{name}");
            }
        },
        again: succeeds,
        done: |_, after| {
            assert_eq!(after["a/b/f"], file("new", 0o604));
            assert_eq!(after.len(), 4);
        },
    }
    .abort_everywhere();
}

#[test]
fn write_create_new_leaves_nothing_or_all_of_it_and_then_refuses() {
    Scene {
        name: "write --create-new",
        arguments: &["write", "f", "--create-new"],
        stdin: b"new",
        prepare: |_| {},
        points: REPLACED,
        stray_mode_max: 0o666,
        finished: 0,
        crashed: |_, tree| {
            let whole = Tree::from([("f".to_owned(), file("new", masked(0o666)))]);
            assert!(tree.is_empty() || *tree == whole, "{tree:?}");
        },
        again: |left| i32::from(left.contains_key("f")),
        done: |_, after| assert_eq!(after["f"], file("new", masked(0o666))),
    }
    .abort_everywhere();
}

#[test]
fn overwriting_in_place_keeps_the_old_content_somewhere_until_the_new_is_durable() {
    Scene {
        name: "write --hard-links in-place",
        arguments: &["write", "f", "--hard-links", "in-place"],
        stdin: b"new",
        prepare: |dir| {
            put(dir.join("f"), b"old, and longer", 0o640);
            fs::hard_link(dir.join("f"), dir.join("twin")).unwrap();
        },
        points: &["after_create", "after_write", "after_fsync", "after_backup", "after_dirsync"],
        stray_mode_max: 0o640,
        finished: 0,
        crashed: |dir, found| {
            assert_eq!(found["f"], found["twin"]);
            let whole = [file("old, and longer", 0o640), file("new", 0o640)];
            let is_backed_up = tree(dir)
                .iter()
                .any(|(name, kept)| is_backup(name) && *kept == file("old, and longer", 0o600));
            // Not atomic, as the option says; but never the only copy.
            assert!(whole.contains(&found["f"]) || is_backed_up, "{:?}", found["f"]);
        },
        again: succeeds,
        done: |_, after| {
            assert_eq!((&after["f"], &after["twin"]), (&file("new", 0o640), &file("new", 0o640)))
        },
    }
    .abort_everywhere();
}

const NEW_LINES: &[u8] = b"{\"n\":4}\n{\"n\":5}\n{\"n\":6}\n";

/// The records of a file, every one of them a whole line.
#[track_caller]
fn records(found: Option<&Found>) -> Vec<String> {
    let bytes = found.and_then(|found| found.bytes.as_deref()).unwrap_or_default();
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{:?}", String::from_utf8_lossy(bytes));
    let lines: Vec<String> = std::str::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect();
    for line in &lines {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value.is_object(), "{line}");
    }
    lines
}

fn line(n: u32) -> String {
    format!("{{\"n\":{n}}}")
}

/// The acknowledged records up to number `last`, then as many of the new ones as were written.
#[track_caller]
fn acknowledged_then_some(records: &[String], last: u32) {
    let wanted: Vec<String> = (1..=last).chain(4..=6).map(line).collect();
    assert!(records.len() >= usize::try_from(last).unwrap(), "{records:?}");
    assert_eq!(records, wanted.get(..records.len()).unwrap(), "in order");
}

/// After `log check --repair`, every line of the log is whole.
#[track_caller]
fn repaired(dir: &Path) -> Vec<String> {
    if dir.join("log").exists() {
        let output = steadfast(dir, &["log", "check", "--repair", "log"], b"", None);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", said(&output));
    }
    records(visible(dir).get("log"))
}

/// The command was run to its end: whatever was there still is, then all the new records.
#[track_caller]
fn all_were_appended(before: &Tree, after: &Tree) {
    let mut wanted = records(before.get("log"));
    wanted.extend((4..=6).map(line));
    assert_eq!(records(after.get("log")), wanted);
}

#[test]
fn append_to_a_new_log_leaves_whole_lines() {
    Scene {
        name: "append, new",
        arguments: &["append", "log"],
        stdin: NEW_LINES,
        prepare: |_| {},
        points: REPLACED,
        stray_mode_max: 0o666,
        finished: 0,
        crashed: |dir, tree| {
            assert!(tree.get("log").is_none_or(|log| log.mode == masked(0o666)), "{tree:?}");
            acknowledged_then_some(&records(tree.get("log")), 0);
            acknowledged_then_some(&repaired(dir), 0);
        },
        again: succeeds,
        done: all_were_appended,
    }
    .abort_everywhere();
}

#[test]
fn append_to_a_log_keeps_what_was_acknowledged() {
    Scene {
        name: "append, existing",
        arguments: &["append", "log"],
        stdin: NEW_LINES,
        prepare: |dir| put(dir.join("log"), b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n", 0o620),
        points: &["after_write", "after_fsync", "after_dirsync"],
        stray_mode_max: 0,
        finished: 0,
        crashed: |dir, tree| {
            assert_eq!(tree["log"].mode, 0o620);
            acknowledged_then_some(&records(tree.get("log")), 3);
            acknowledged_then_some(&repaired(dir), 3);
        },
        again: succeeds,
        done: all_were_appended,
    }
    .abort_everywhere();
}

const TORN: &str = "{\"n\":2,\"torn\":\"a rec";

/// The torn tail is in the log or, whole, in a file beside it; whether it is still in the log.
#[track_caller]
fn torn_tail_is_kept(tree: &Tree) -> bool {
    let asides: Vec<&Found> =
        tree.iter().filter(|(name, _)| name.starts_with("log.torn-8-")).map(|(_, aside)| aside).collect();
    assert!(asides.iter().all(|aside| **aside == file(TORN, 0o600)), "{asides:?}");
    assert!(tree.len() == 1 + asides.len() && tree["log"].mode == 0o600, "{tree:?}");
    let is_torn = tree["log"].bytes == file(format!("{{\"n\":1}}\n{TORN}"), 0o600).bytes;
    assert!(is_torn || !asides.is_empty(), "the tail is gone: {tree:?}");
    if !is_torn {
        acknowledged_then_some(&records(tree.get("log")), 1);
    }
    is_torn
}

#[test]
fn append_behind_a_torn_tail_loses_no_byte_of_it() {
    Scene {
        name: "append, torn tail",
        arguments: &["append", "log"],
        stdin: NEW_LINES,
        prepare: |dir| put(dir.join("log"), format!("{{\"n\":1}}\n{TORN}").as_bytes(), 0o600),
        points: &[
            "after_create",
            "after_write",
            "after_fsync",
            "after_rename",
            "after_dirsync",
            "after_set_aside",
        ],
        stray_mode_max: 0o600,
        finished: 0,
        crashed: |dir, tree| {
            torn_tail_is_kept(tree);
            acknowledged_then_some(&repaired(dir), 1);
        },
        again: succeeds,
        done: |before, after| {
            let is_torn = before["log"].bytes.as_deref().unwrap().ends_with(TORN.as_bytes());
            let mut wanted = if is_torn { vec![line(1)] } else { records(before.get("log")) };
            wanted.extend((4..=6).map(line));
            assert_eq!(records(after.get("log")), wanted);
            assert!(after.keys().any(|name| name.starts_with("log.torn-8-")), "{after:?}");
        },
    }
    .abort_everywhere();
}

#[test]
fn a_repair_loses_no_byte_of_the_tail_either() {
    Scene {
        name: "log check --repair",
        arguments: &["log", "check", "--repair", "log"],
        stdin: b"",
        prepare: |dir| put(dir.join("log"), format!("{{\"n\":1}}\n{TORN}").as_bytes(), 0o600),
        points: &[
            "after_create",
            "after_write",
            "after_fsync",
            "after_rename",
            "after_dirsync",
            "after_set_aside",
        ],
        stray_mode_max: 0o600,
        finished: 1,
        crashed: |_, tree| {
            torn_tail_is_kept(tree);
        },
        again: |left| i32::from(torn_tail_is_kept(left)),
        done: |_, after| {
            assert!(!torn_tail_is_kept(after), "{after:?}");
        },
    }
    .abort_everywhere();
}

#[test]
fn append_behind_a_record_without_its_newline_keeps_the_record() {
    Scene {
        name: "append, newline missing",
        arguments: &["append", "log"],
        stdin: NEW_LINES,
        prepare: |dir| put(dir.join("log"), b"{\"n\":1}\n{\"n\":2}", 0o600),
        points: &["after_write", "after_fsync", "after_dirsync"],
        stray_mode_max: 0,
        finished: 0,
        crashed: |dir, tree| {
            let bytes = tree["log"].bytes.clone().unwrap();
            if bytes != b"{\"n\":1}\n{\"n\":2}" {
                acknowledged_then_some(&records(tree.get("log")), 2);
            }
            acknowledged_then_some(&repaired(dir), 2);
        },
        again: succeeds,
        done: |before, after| {
            let mut wanted: Vec<String> = String::from_utf8(before["log"].bytes.clone().unwrap())
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect();
            wanted.extend((4..=6).map(line));
            assert_eq!(records(after.get("log")), wanted);
        },
    }
    .abort_everywhere();
}

/// Everything in a rotated log, the oldest first.
#[track_caller]
fn rotated_records(tree: &Tree) -> Vec<String> {
    let names = ["log.9", "log.8", "log.7", "log.6", "log.5", "log.4", "log.3", "log.2", "log.1", "log"];
    names.iter().flat_map(|name| records(tree.get(*name))).collect()
}

#[test]
fn a_rotation_loses_no_record_and_keeps_their_order() {
    Scene {
        name: "append, rotation",
        arguments: &["append", "log", "--max-bytes", "16", "--keep", "9"],
        stdin: NEW_LINES,
        prepare: |dir| {
            put(dir.join("log.1"), b"{\"n\":1}\n", 0o600);
            put(dir.join("log"), b"{\"n\":2}\n{\"n\":3}\n", 0o600);
        },
        points: REPLACED,
        stray_mode_max: 0o600,
        finished: 0,
        crashed: |dir, tree| {
            acknowledged_then_some(&rotated_records(tree), 3);
            assert!(tree.values().all(|log| log.mode == 0o600), "{tree:?}");
            repaired(dir);
            acknowledged_then_some(&rotated_records(&visible(dir)), 3);
        },
        again: succeeds,
        done: |before, after| {
            let mut wanted = rotated_records(before);
            wanted.extend((4..=6).map(line));
            assert_eq!(rotated_records(after), wanted);
        },
    }
    .abort_everywhere();
}

fn prepare_copy(dir: &Path) {
    fs::create_dir(dir.join("src")).unwrap();
    put(dir.join("src/a"), b"new a", 0o644);
    put(dir.join("src/b"), b"new b, longer than the old one", 0o600);
    put(dir.join("src/c"), b"", 0o755);
}

/// The three files below `out`, each new or, where `old` has one, old.
#[track_caller]
fn check_copies(tree: &Tree, out: &str, old: &Tree) -> usize {
    let new = [("a", "new a", 0o644), ("b", "new b, longer than the old one", 0o600), ("c", "", 0o755)];
    let mut copied = 0;
    for (name, bytes, mode) in new {
        let path = format!("{out}/{name}");
        let found = tree.get(&path);
        let is_new = found == Some(&file(bytes, masked(mode)));
        assert!(is_new || found == old.get(&path), "{path}: {found:?}");
        copied += usize::from(is_new);
    }
    copied
}

#[test]
fn a_copy_leaves_each_file_old_or_new() {
    Scene {
        name: "copy, into existing",
        arguments: &["copy", "src/a", "src/b", "src/c", "out"],
        stdin: b"",
        prepare: |dir| {
            prepare_copy(dir);
            fs::create_dir(dir.join("out")).unwrap();
            put(dir.join("out/b"), b"old b", 0o640);
            put(dir.join("out/z"), b"other", 0o640);
        },
        points: REPLACED,
        stray_mode_max: 0o755,
        finished: 0,
        crashed: |_, tree| {
            let old = Tree::from([("out/b".to_owned(), file("old b", 0o640))]);
            check_copies(tree, "out", &old);
            let known = ["src", "src/a", "src/b", "src/c", "out", "out/a", "out/b", "out/c", "out/z"];
            assert!(tree.keys().all(|name| known.contains(&name.as_str())), "{tree:?}");
            assert_eq!(tree["out/z"], file("other", 0o640));
        },
        again: succeeds,
        done: |_, after| {
            assert_eq!(check_copies(after, "out", &Tree::new()), 3);
            assert_eq!(after["out/z"], file("other", 0o640));
        },
    }
    .abort_everywhere();
}

#[test]
fn a_copy_of_a_tree_into_new_directories_leaves_nothing_or_whole_files() {
    Scene {
        name: "copy -r, new",
        arguments: &["copy", "-r", "--threads", "2", "src", "deep/out"],
        stdin: b"",
        prepare: prepare_copy,
        points: REPLACED,
        stray_mode_max: 0o755,
        finished: 0,
        crashed: |_, tree| {
            let copied = check_copies(tree, "deep/out/src", &Tree::new());
            let made = ["deep", "deep/out", "deep/out/src"].iter().filter(|name| tree.contains_key(**name));
            assert_eq!(tree.len(), 4 + copied + made.count(), "{tree:?}");
        },
        again: succeeds,
        done: |_, after| assert_eq!(check_copies(after, "deep/out/src", &Tree::new()), 3),
    }
    .abort_everywhere();
}

#[test]
fn mv_leaves_the_file_under_one_of_its_names_whole() {
    Scene {
        name: "mv, over a file",
        arguments: &["mv", "a", "b"],
        stdin: b"",
        prepare: |dir| {
            put(dir.join("a"), b"moved", 0o604);
            put(dir.join("b"), b"replaced", 0o640);
        },
        points: &["after_fsync", "after_rename", "after_dirsync"],
        stray_mode_max: 0,
        finished: 0,
        crashed: |_, tree| {
            let (a, b) = (tree.get("a"), &tree["b"]);
            let moved = file("moved", 0o604);
            let is_old = a == Some(&moved) && *b == file("replaced", 0o640);
            assert!(is_old || (a.is_none() && *b == moved), "{tree:?}");
        },
        again: |left| i32::from(!left.contains_key("a")),
        done: |_, after| assert_eq!(*after, [("b".to_owned(), file("moved", 0o604))].into()),
    }
    .abort_everywhere();
}

#[test]
fn mv_into_another_directory_never_leaves_it_without_a_name() {
    Scene {
        name: "mv, into a directory",
        arguments: &["mv", "a", "d"],
        stdin: b"",
        prepare: |dir| {
            put(dir.join("a"), b"moved", 0o604);
            fs::create_dir(dir.join("d")).unwrap();
        },
        points: &["after_fsync", "after_rename", "after_dirsync"],
        stray_mode_max: 0,
        finished: 0,
        crashed: |_, tree| {
            let names: Vec<&String> =
                tree.iter().filter(|(_, at)| **at == file("moved", 0o604)).map(|at| at.0).collect();
            assert!(names == ["a"] || names == ["d/a"], "{tree:?}");
        },
        again: |left| i32::from(!left.contains_key("a")),
        done: |_, after| {
            assert_eq!(after["d/a"], file("moved", 0o604));
            assert_eq!(after.len(), 2);
        },
    }
    .abort_everywhere();
}

#[test]
fn rm_removes_one_after_the_other_and_nothing_else() {
    Scene {
        name: "rm of two",
        arguments: &["rm", "--force", "a", "b"],
        stdin: b"",
        prepare: |dir| {
            for name in ["a", "b", "c"] {
                put(dir.join(name), name.as_bytes(), 0o600);
            }
        },
        points: &["after_unlink", "after_dirsync"],
        stray_mode_max: 0,
        finished: 0,
        crashed: |_, tree| {
            let names: Vec<&str> = tree.keys().map(String::as_str).collect();
            assert!([&["a", "b", "c"][..], &["b", "c"], &["c"]].contains(&&*names), "{names:?}");
            assert!(tree.iter().all(|(name, found)| *found == file(name.as_bytes(), 0o600)), "{tree:?}");
        },
        again: succeeds,
        done: |_, after| assert_eq!(after.keys().collect::<Vec<_>>(), ["c"]),
    }
    .abort_everywhere();
}

#[test]
fn mkdir_makes_parents_first() {
    Scene {
        name: "mkdir --parents",
        arguments: &["mkdir", "--parents", "a/b/c"],
        stdin: b"",
        prepare: |_| {},
        points: &["after_create", "after_dirsync"],
        stray_mode_max: 0,
        finished: 0,
        crashed: |_, tree| {
            assert!(tree.values().all(|made| *made == directory(masked(0o777))), "{tree:?}");
        },
        again: succeeds,
        done: |_, after| assert_eq!(after.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]),
    }
    .abort_everywhere();
}

#[test]
fn mkdir_with_a_mode_is_never_wider_than_that() {
    Scene {
        name: "mkdir --mode",
        arguments: &["mkdir", "--mode", "2750", "d"],
        stdin: b"",
        prepare: |_| {},
        points: &["after_create", "after_dirsync"],
        stray_mode_max: 0,
        finished: 0,
        crashed: |_, tree| {
            // Private until it has its mode, as the documentation of `create_dir_with` says.
            let found = tree.get("d");
            assert!(
                found.is_none_or(|made| [directory(0o700), directory(0o2750)].contains(made)),
                "{tree:?}"
            );
        },
        again: |left| i32::from(left.contains_key("d")),
        done: |before, after| {
            assert_eq!(after["d"], before.get("d").cloned().unwrap_or(directory(0o2750)));
        },
    }
    .abort_everywhere();
}

const INCREMENT: &str = "read n; echo $((n + 1))";

/// The counter before, or one more.
#[track_caller]
fn check_counter(tree: &Tree) {
    assert!([file("41\n", 0o640), file("42\n", 0o640)].contains(&tree["f"]), "{tree:?}");
    assert_eq!(tree.len(), 1, "{tree:?}");
}

#[track_caller]
fn is_one_more(before: &Tree, after: &Tree) {
    let count = |tree: &Tree| -> u32 {
        String::from_utf8(tree["f"].bytes.clone().unwrap()).unwrap().trim().parse().unwrap()
    };
    assert_eq!(count(after), count(before) + 1, "no update is lost, and none is made twice");
}

#[test]
fn update_happens_or_not_and_the_lock_of_the_dead_is_free() {
    Scene {
        name: "update",
        arguments: &["update", "f", "--timeout", "0", "--", "sh", "-c", INCREMENT],
        stdin: b"",
        prepare: |dir| put(dir.join("f"), b"41\n", 0o640),
        points: REPLACED,
        stray_mode_max: 0o640,
        finished: 0,
        crashed: |_, tree| check_counter(tree),
        again: succeeds,
        done: is_one_more,
    }
    .abort_everywhere();
}

#[test]
fn lock_leaves_a_free_lock_and_an_untouched_file() {
    Scene {
        name: "lock",
        arguments: &["lock", "f", "--timeout", "0", "--", "sh", "-c", ":"],
        stdin: b"",
        prepare: |dir| put(dir.join("f"), b"41\n", 0o640),
        points: &[],
        stray_mode_max: 0,
        finished: 0,
        crashed: |_, tree| check_counter(tree),
        again: succeeds,
        done: |before, after| assert_eq!(before, after),
    }
    .abort_everywhere();
}

#[test]
fn update_under_an_exclusive_create_lock_takes_over_from_the_dead() {
    Scene {
        name: "update, exclusive lock",
        arguments: &[
            "update",
            "f",
            "--lock-kind",
            "exclusive",
            "--timeout",
            "2s",
            "--",
            "sh",
            "-c",
            INCREMENT,
        ],
        stdin: b"",
        prepare: |dir| put(dir.join("f"), b"41\n", 0o640),
        points: REPLACED,
        stray_mode_max: 0o640,
        finished: 0,
        crashed: |_, tree| check_counter(tree),
        again: succeeds,
        done: is_one_more,
    }
    .abort_everywhere();
}

/// Leaves the temporary file of a dead process behind.
fn leave_stray(dir: &Path, target: &str) {
    let output = steadfast(dir, &["write", target], b"never published", Some("after_write"));
    assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{}", said(&output));
}

#[test]
fn sweep_touches_nothing_but_strays_and_goes_on_where_it_was() {
    Scene {
        name: "sweep",
        arguments: &["sweep", "--recursive", "."],
        stdin: b"",
        prepare: |dir| {
            put(dir.join("f"), b"kept", 0o640);
            put(dir.join(".steadfast-is-no-name-of-ours"), b"kept", 0o640);
            fs::create_dir(dir.join("d")).unwrap();
            for target in ["f", "g", "d/f"] {
                leave_stray(dir, target);
            }
            assert_eq!(tree(dir).keys().filter(|name| is_stray(name)).count(), 3);
        },
        points: &["after_unlink", "after_dirsync"],
        stray_mode_max: 0o666,
        finished: 0,
        crashed: |_, found| {
            assert_eq!(
                (&found["f"], &found[".steadfast-is-no-name-of-ours"]),
                (&file("kept", 0o640), &file("kept", 0o640))
            );
            assert_eq!(found.len(), 3, "{found:?}");
        },
        again: succeeds,
        done: |before, after| assert_eq!(before, after),
    }
    .abort_everywhere();
}

#[test]
fn calls_can_be_named_and_a_wrong_name_is_wrong_usage() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    put(dir.join("f"), b"old", 0o600);
    for (points, entry, content) in [
        ("call:rename", "call:rename@1", "old"),
        ("call:dir_sync@9,call:dir_sync", "call:dir_sync@1", "new"),
        (" after_dirsync , call:rename@2", "after_dirsync@1", "new"),
    ] {
        put(dir.join("f"), b"old", 0o600);
        let output = steadfast(dir, &["write", "f"], b"new", Some(points));
        assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{points}");
        assert_eq!(said(&output), format!("crashsim: abort at {entry}\n"));
        assert_eq!(fs::read(dir.join("f")).unwrap(), content.as_bytes(), "{points}");
    }
    assert_eq!(steadfast(dir, &["write", "f", "-q"], b"newer", Some("")).status.code(), Some(0));
    for (points, hint) in [
        ("after_renam", "after_rename, "),
        ("after_rename@0", "@2"),
        ("call:fsync", "sync_all"),
        (",", "commas"),
    ] {
        let output = steadfast(dir, &["write", "f"], b"never", Some(points));
        assert_eq!(output.status.code(), Some(2), "{points}");
        let words = said(&output);
        assert!(words.contains(CRASH_POINTS_VARIABLE) && words.contains(hint), "{words}");
        let output = steadfast(dir, &["--json", "write", "f"], b"never", Some(points));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["error"]["code"], "usage");
    }
    assert_eq!(fs::read(dir.join("f")).unwrap(), b"newer");
}
