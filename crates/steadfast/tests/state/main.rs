//! `steadfast state` as a person or a script meets it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test says where it broke")]

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use crashsim::CRASH_POINTS_VARIABLE;
use media::{Access, Fs as _, LockWait, OsFs};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde_json::Value;

mod backup;
mod batch;
mod image;
mod seal;
mod tools;
mod watch;

const STEADFAST: &str = env!("CARGO_BIN_EXE_steadfast");

/// No command here makes more calls.
const CALLS_MAX: u64 = 400;

fn run(dir: &Path, arguments: &[&str], stdin: &[u8], points: Option<&str>) -> Output {
    static NO_CORE_FILES: Once = Once::new();
    NO_CORE_FILES
        .call_once(|| setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap());
    let mut command = Command::new(STEADFAST);
    command.current_dir(dir).arg("state").args(arguments).env_remove(CRASH_POINTS_VARIABLE);
    if let Some(points) = points {
        command.env(CRASH_POINTS_VARIABLE, points);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that fails early does not read its input.
        scope.spawn(move || drop(input.write_all(stdin)));
        child.wait_with_output().unwrap()
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it, checks the exit code, and gives back what it printed.
#[track_caller]
fn expect(dir: &Path, arguments: &[&str], exit: i32) -> (String, String) {
    let output = run(dir, arguments, b"", None);
    let said = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said:?}");
    said
}

#[track_caller]
fn json(dir: &Path, arguments: &[&str], exit: i32) -> Value {
    let (stdout, stderr) = expect(dir, &[&["--json"], arguments].concat(), exit);
    assert_eq!(stderr, "", "words beside --json");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(value["schema"], 1);
    value
}

/// As [`expect`], for a command that reads its input; what it printed, and what it said.
#[track_caller]
fn feed(dir: &Path, arguments: &[&str], stdin: impl AsRef<[u8]>, exit: i32) -> (Vec<u8>, String) {
    let output = run(dir, arguments, stdin.as_ref(), None);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {stderr:?}");
    (output.stdout, stderr)
}

/// What a command prints with `--json`, line by line.
#[track_caller]
fn json_lines(dir: &Path, arguments: &[&str]) -> Vec<Value> {
    let (stdout, stderr) = expect(dir, &[&["--json"], arguments].concat(), 0);
    assert_eq!(stderr, "", "words beside --json");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A lock on the image of that name, as a writer holds it.
struct Held(std::sync::Arc<dyn media::File>);

fn hold(dir: &Path, image: &str) -> Held {
    let held = OsFs.open_dir(dir).unwrap().open(image.as_ref(), Access::ReadWrite).unwrap();
    held.lock(LockWait::DoNotWait).unwrap();
    Held(held)
}

impl Drop for Held {
    /// A process that another test is starting has the descriptor too, for a moment: closing it here would not be enough.
    fn drop(&mut self) {
        self.0.unlock().unwrap();
    }
}

/// A directory with an empty store in `image`.
fn fresh() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    expect(root.path(), &["init", "image", "--size", "1MiB"], 0);
    root
}

/// What a test does to an image need not survive a power cut.
fn set(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::File::create(path).unwrap().write_all(bytes.as_ref()).unwrap();
}

/// Where the bytes stand in the image, each time.
fn places(image: &[u8], of: &[u8]) -> Vec<usize> {
    (0..image.len()).filter(|at| image[*at..].starts_with(of)).collect()
}

#[test]
fn values_go_in_and_come_out_and_each_has_a_revision() {
    let root = fresh();
    let dir = root.path();
    assert_eq!(expect(dir, &["get", "image", "/state/a"], 1).0, "");
    let first = json(dir, &["put", "image", "/state/a", "one"], 0);
    assert_eq!((&first["bytes"], &first["durability"]), (&3.into(), &"durable".into()));
    assert_eq!(expect(dir, &["get", "image", "/state/a"], 0), ("one".to_owned(), String::new()));
    let got = json(dir, &["get", "image", "/state/a"], 0);
    assert_eq!((&got["revision"], &got["text"]), (&first["revision"], &"one".into()));
    assert_eq!(got["certainty"], "certain");

    // Compare and swap, both ways.
    let number = first["revision"].to_string();
    let swapped = json(dir, &["cas", "image", "/state/a", "two", "--revision", &number], 0);
    assert!(swapped["revision"].as_u64() > first["revision"].as_u64());
    let refused = json(dir, &["cas", "image", "/state/a", "three", "--revision", &number], 1);
    assert_eq!(refused["error"]["code"], "conflict");
    assert_eq!(refused["error"]["details"]["found_revision"], swapped["revision"]);
    expect(dir, &["cas", "image", "/state/a", "three", "--absent"], 1);
    expect(dir, &["cas", "image", "/state/a/b", "below", "--absent"], 0);
    assert_eq!(expect(dir, &["get", "image", "/state/a"], 0).0, "two");

    // Listing.
    expect(dir, &["put", "image", "/state/ab", "x"], 0);
    assert_eq!(expect(dir, &["ls", "image"], 0).0, "/state/a\n/state/a/b\n/state/ab\n");
    assert_eq!(expect(dir, &["ls", "image", "/state/a"], 0).0, "/state/a\n/state/a/b\n");
    let long = expect(dir, &["ls", "image", "/state/ab", "--long"], 0).0;
    assert_eq!(long.split_whitespace().skip(1).collect::<Vec<_>>(), ["1", "/state/ab"], "{long}");

    // Removing is all or nothing.
    expect(dir, &["rm", "image", "/state/a", "/state/none"], 1);
    expect(dir, &["get", "image", "/state/a"], 0);
    let removed = json(dir, &["rm", "image", "/state/a", "/state/ab", "/state/none", "--force"], 0);
    assert_eq!(removed["missing"][0], "/state/none");
    assert_eq!(expect(dir, &["ls", "image"], 0).0, "/state/a/b\n");
    assert_eq!(json(dir, &["stats", "image"], 0)["keys"], 1);
    assert!(expect(dir, &["stats", "image"], 0).0.contains("keys        1 of"));
    assert!(expect(dir, &["fsck", "image"], 0).0.starts_with("clean"));
}

#[test]
fn a_value_is_any_bytes_up_to_its_limit() {
    let root = fresh();
    let dir = root.path();
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(65_536).collect();
    let put = run(dir, &["put", "image", "/state/blob"], &bytes, None);
    assert_eq!(put.status.code(), Some(0), "{}", text(&put.stderr));
    assert_eq!(run(dir, &["get", "image", "/state/blob"], b"", None).stdout, bytes);
    let longer = [bytes.as_slice(), b"!"].concat();
    assert_eq!(run(dir, &["put", "image", "/state/blob"], &longer, None).status.code(), Some(2));
    assert_eq!(run(dir, &["put", "image", "/state/empty"], b"", None).status.code(), Some(0));
    assert_eq!(expect(dir, &["get", "image", "/state/empty"], 0).0, "");
    assert_eq!(run(dir, &["put", "image", "/state/nul"], b"a\0\xff", None).status.code(), Some(0));
    let dump = expect(dir, &["dump", "image"], 0).0;
    let lines: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<&str> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["/state/blob", "/state/empty", "/state/nul"]);
    assert_eq!((&lines[1]["text"], &lines[2]["hex"]), (&"".into(), &"6100ff".into()));
}

#[test]
fn a_listing_has_all_pages() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    {
        let os = OsFs.open_dir(dir).unwrap();
        let geometry = media::Geometry::new(512, 8192).unwrap();
        let disk = media::FileDisk::create(&*os, "image".as_ref(), geometry).unwrap();
        let options = statefs::Options::new(statefs::StoreId([7; 16]));
        let mut store = statefs::Store::format(disk, &options).unwrap();
        for n in 0..2500 {
            store.put_buffered(&statefs::Key::parse(&format!("/state/{n:04}")).unwrap(), b"v").unwrap();
        }
        store.close().unwrap();
    }
    // Blocks of a size that is not the usual one, which the superblock tells.
    let listed = expect(dir, &["ls", "image"], 0).0;
    let wanted: String = (0..2500).map(|n| format!("/state/{n:04}\n")).collect();
    assert_eq!(listed, wanted);
    assert_eq!(json(dir, &["stats", "image"], 0)["block_size"], 512);
}

#[test]
fn every_block_size_is_found_again_even_if_the_first_superblock_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    for block_size in ["512", "1024", "4096", "8192", "65536"] {
        let name = format!("image-{block_size}");
        expect(dir, &["init", &name, "--size", "16MiB", "--block-size", block_size], 0);
        expect(dir, &["put", &name, "/state/a", "kept"], 0);
        let mut image = fs::read(dir.join(&name)).unwrap();
        image[..512].fill(0);
        set(dir.join(&name), &image);
        assert_eq!(expect(dir, &["get", &name, "/state/a"], 0).0, "kept", "{block_size}");
    }
}

#[test]
fn wrong_requests_are_refused_with_a_way_out() {
    let root = fresh();
    let dir = root.path();
    let before = fs::read(dir.join("image")).unwrap();
    for key in ["a", "/state", "/state/", "/state/a/", "/state//a", "/state/../a", "/state/a\nb"] {
        for arguments in [
            &["get", "image", key][..],
            &["put", "image", key, "v"],
            &["rm", "image", key],
            &["cas", "image", key, "v", "--absent"],
        ] {
            let (stdout, stderr) = expect(dir, arguments, 2);
            assert!(stdout.is_empty() && stderr.contains("hint: a key is absolute"), "{stderr}");
        }
    }
    expect(dir, &["cas", "image", "/state/a", "v"], 2);
    expect(dir, &["cas", "image", "/state/a", "v", "--absent", "--revision", "1"], 2);
    assert_eq!(fs::read(dir.join("image")).unwrap(), before);

    assert!(expect(dir, &["init", "image", "--size", "1MiB"], 1).1.contains("never overwritten"));
    expect(dir, &["init", "new", "--size", "1000"], 2);
    expect(dir, &["init", "new", "--size", "1MiB", "--block-size", "1000"], 2);
    expect(dir, &["init", "new", "--size", "8192"], 2);
    assert!(!dir.join("new").exists());
    expect(dir, &["get", "missing", "/state/a"], 1);
    expect(dir, &["put", "missing", "/state/a", "v"], 1);
    set(dir.join("zeros"), [0; 65_536]);
    for arguments in [&["fsck", "zeros"][..], &["put", "zeros", "/state/a", "v"]] {
        assert!(expect(dir, arguments, 1).1.contains("there is no store"));
    }
    set(dir.join("tiny"), &before[..512]);
    assert!(expect(dir, &["fsck", "tiny"], 1).1.contains("too short"));
    set(dir.join("short"), &before[..before.len() - 4096]);
    expect(dir, &["fsck", "short"], 3);
    set(dir.join("odd"), &before[..before.len() - 1]);
    expect(dir, &["fsck", "odd"], 3);
    std::os::unix::fs::symlink("image", dir.join("link")).unwrap();
    expect(dir, &["get", "link", "/state/a"], 2);
    expect(dir, &["get", ".", "/state/a"], 2);
}

#[test]
fn what_does_not_fit_is_refused_and_what_is_there_can_be_removed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    expect(dir, &["init", "image", "--size", "256KiB", "--block-size", "512"], 0);
    let value = "v".repeat(20_000);
    let full = (0..50).find(|n| {
        let key = format!("/state/{n}");
        match run(dir, &["put", "image", &key, &value], b"", None).status.code().unwrap() {
            0 => false,
            code => {
                assert_eq!(code, 4, "no space");
                true
            }
        }
    });
    let full = full.unwrap();
    assert!(full > 1, "{full}");
    assert_eq!(expect(dir, &["ls", "image"], 0).0.lines().count(), full);
    expect(dir, &["rm", "image", "/state/0"], 0);
    expect(dir, &["put", "image", "/state/again", &value], 0);
    expect(dir, &["fsck", "image"], 0);
    // A larger image takes it all.
    expect(dir, &["salvage", "image", "small", "--size", "32KiB"], 4);
    assert!(!dir.join("small").exists(), "the unfinished image is removed");
    expect(dir, &["salvage", "image", "large", "--size", "1MiB"], 0);
    assert_eq!(expect(dir, &["ls", "large"], 0).0, expect(dir, &["ls", "image"], 0).0);
}

#[test]
fn one_writer_at_a_time_and_readers_beside_it() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "one"], 0);
    let held = hold(dir, "image");
    for arguments in [
        &["put", "image", "/state/a", "two"][..],
        &["rm", "image", "/state/a"],
        &["cas", "image", "/state/b", "v", "--absent"],
    ] {
        assert!(expect(dir, arguments, 6).1.contains("another writer holds the lock"));
    }
    assert_eq!(expect(dir, &["get", "image", "/state/a"], 0).0, "one");
    expect(dir, &["fsck", "image"], 0);
    drop(held);
    expect(dir, &["put", "image", "/state/a", "two"], 0);
}

/// An image with a store in it that has lost something.
fn rotten() -> tempfile::TempDir {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/lost", "the bytes that rot"], 0);
    expect(dir, &["put", "image", "/state/last", "after the loss"], 0);
    let mut image = fs::read(dir.join("image")).unwrap();
    let [at] = places(&image, b"the bytes that rot")[..] else { panic!("not once") };
    image[at] ^= 1;
    set(dir.join("image"), &image);
    root
}

#[test]
fn what_is_being_written_is_live_and_not_damaged() {
    let root = rotten();
    let dir = root.path();
    let looks = [
        &["get", "image", "/state/last"][..],
        &["ls", "image"],
        &["fsck", "image"],
        &["dump", "image"],
        &["stats", "image"],
    ];
    let held = hold(dir, "image");
    for arguments in looks {
        let (stdout, stderr) = expect(dir, arguments, 6);
        assert!(stdout.is_empty() && stderr.contains("the store is live"), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("damage"), "{stderr}");
    }
    assert_eq!(json(dir, &["fsck", "image"], 6)["error"]["code"], "live");
    drop(held);
    // Nobody writes it: it is what it looks like, and the look has kept no lock.
    for (arguments, exit) in looks.into_iter().zip([0, 3, 3, 3, 3]) {
        expect(dir, arguments, exit);
    }
    drop(hold(dir, "image"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_block_device_is_an_image_and_overwritten_only_when_told_to() {
    let device = testbed::need!(testbed::LoopDevice::attach(1 << 20, 512));
    let root = tempfile::tempdir().unwrap();
    let (dir, path) = (root.path(), device.path().to_str().unwrap());
    let before = fs::read(device.image()).unwrap();
    expect(dir, &["init", path, "--size", "1MiB"], 1);
    expect(dir, &["init", path], 2);
    expect(dir, &["init", path, "--overwrite-device", "--size", "1MiB"], 2);
    expect(dir, &["init", path, "--overwrite-device", "--block-size", "1000"], 2);
    assert!(expect(dir, &["fsck", path], 1).1.contains("there is no store"));
    assert!(fs::read(device.image()).unwrap() == before, "nothing has been written to it");

    let made = json(dir, &["init", path, "--overwrite-device"], 0);
    assert_eq!((&made["bytes"], &made["durability"]), (&(1 << 20).into(), &"durable".into()));
    expect(dir, &["put", path, "/state/a", "one"], 0);
    expect(dir, &["put", path, "/state/b", "two"], 0);
    expect(dir, &["rm", path, "/state/b"], 0);
    expect(dir, &["cas", path, "/state/c", "three", "--absent"], 0);
    assert_eq!(expect(dir, &["get", path, "/state/a"], 0).0, "one");
    assert_eq!(expect(dir, &["ls", path], 0).0, "/state/a\n/state/c\n");
    assert_eq!(expect(dir, &["dump", path], 0).0.lines().count(), 2);
    assert_eq!(json(dir, &["stats", path], 0)["block_size"], 4096);
    expect(dir, &["fsck", path], 0);
    // It can be copied into a file, and a file is no device.
    expect(dir, &["salvage", path, "image"], 0);
    assert_eq!(expect(dir, &["get", "image", "/state/c"], 0).0, "three");
    for other in ["image", "/dev/null"] {
        assert!(expect(dir, &["init", other, "--overwrite-device"], 2).1.contains("not a block device"));
    }
    assert_eq!(expect(dir, &["get", "image", "/state/c"], 0).0, "three");

    // One writer, and readers beside it.
    let node = OsFs.open_dir("/dev".as_ref()).unwrap();
    let held = node.open_disk(device.path().file_name().unwrap(), Access::ReadWrite).unwrap();
    for arguments in [&["put", path, "/state/a", "two"][..], &["init", path, "--overwrite-device"]] {
        assert!(expect(dir, arguments, 6).1.contains("another writer holds it"));
    }
    assert_eq!(expect(dir, &["get", path, "/state/a"], 0).0, "one");
    drop(held);
    expect(dir, &["put", path, "/state/a", "two"], 0);

    // Damage on a device that is being written is live as well.
    let mut image = fs::read(device.image()).unwrap();
    let [at] = places(&image, b"three")[..] else { panic!("not once") };
    image[at] ^= 1;
    let file = node.open_disk(device.path().file_name().unwrap(), Access::ReadWrite).unwrap();
    let from = at / 4096 * 4096;
    assert_eq!(file.write_at(u64::try_from(from).unwrap(), &image[from..from + 4096]).unwrap(), 4096);
    file.sync_data().unwrap();
    file.lock(LockWait::DoNotWait).unwrap();
    assert!(expect(dir, &["fsck", path], 6).1.contains("the store is live"));
    drop(file);
    expect(dir, &["fsck", path], 3);
}

#[test]
fn damage_is_told_apart_and_the_rest_can_be_saved() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/first", "before the loss"], 0);
    expect(dir, &["put", "image", "/state/lost", "the bytes that rot"], 0);
    expect(dir, &["put", "image", "/state/last", "after the loss"], 0);
    let mut image = fs::read(dir.join("image")).unwrap();
    let [at] = places(&image, b"the bytes that rot")[..] else { panic!("not once") };
    image[at] ^= 1;
    set(dir.join("image"), &image);

    let found = json(dir, &["fsck", "image"], 3);
    assert_eq!((&found["health"], &found["ok"]), (&"damaged".into(), &false.into()));
    let offset = found["lost"]["offset"].as_u64().unwrap();
    assert!((offset..offset + 4096).contains(&u64::try_from(at).unwrap()), "{found}");
    let words = expect(dir, &["fsck", "image"], 3).0;
    assert!(
        words.starts_with(&format!("damaged at offset {offset}: commit "))
            && words.contains("how that is known"),
        "{words}"
    );

    // What was written after the loss is certain, what before it is not, and what is not there may have been.
    assert_eq!(expect(dir, &["get", "image", "/state/last"], 0).0, "after the loss");
    let (value, warning) = expect(dir, &["get", "image", "/state/first"], 3);
    assert_eq!(value, "before the loss");
    assert!(warning.contains("may be older"), "{warning}");
    let suspect = json(dir, &["get", "image", "/state/first"], 3);
    assert_eq!((&suspect["certainty"], &suspect["text"]), (&"suspect".into(), &"before the loss".into()));
    expect(dir, &["get", "image", "/state/lost"], 3);
    assert_eq!(expect(dir, &["ls", "image"], 3).0, "/state/first\n/state/last\n");
    assert_eq!(expect(dir, &["dump", "image"], 3).0.matches("\"suspect\"").count(), 1);

    // Nothing is written to it.
    for arguments in [&["put", "image", "/state/new", "v"][..], &["rm", "image", "/state/last"]] {
        assert!(expect(dir, arguments, 3).1.contains("salvage"));
    }
    assert_eq!(fs::read(dir.join("image")).unwrap(), image, "no byte of it was touched");

    let left = json(dir, &["salvage", "image", "certain"], 0);
    assert_eq!((&left["certain"], &left["suspect_left"]), (&1.into(), &1.into()));
    assert_eq!(expect(dir, &["ls", "certain"], 0).0, "/state/last\n");
    expect(dir, &["salvage", "image", "all", "--suspects"], 0);
    assert_eq!(expect(dir, &["get", "all", "/state/first"], 0).0, "before the loss");
    expect(dir, &["fsck", "all"], 0);
    expect(dir, &["salvage", "image", "all"], 1);
}

/// Kills a put of `value` before its calls, one after the other, from a copy of `before` each time; what the image then
/// is, until the put comes to its end.
fn killed_puts(dir: &Path, before: &[u8], value: &str) -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    for nth in 1..=CALLS_MAX {
        set(dir.join("image"), before);
        let put = run(dir, &["put", "image", "/state/a", value], b"", Some(&format!("call@{nth}")));
        if put.status.code() == Some(0) {
            return images;
        }
        assert_eq!(put.status.signal(), Some(Signal::ABORT.as_raw()), "{}", text(&put.stderr));
        images.push(fs::read(dir.join("image")).unwrap());
    }
    panic!("it never came to its end")
}

#[test]
fn a_put_that_is_killed_leaves_the_old_value_or_the_new_one() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "old"], 0);
    expect(dir, &["put", "image", "/state/b", "beside"], 0);
    let before = fs::read(dir.join("image")).unwrap();
    let images = killed_puts(dir, &before, "new");
    let mut seen = Vec::new();
    for image in &images {
        set(dir.join("image"), image);
        let value = expect(dir, &["get", "image", "/state/a"], 0).0;
        assert!(["old", "new"].contains(&value.as_str()), "{value}");
        assert_eq!(expect(dir, &["get", "image", "/state/b"], 0).0, "beside");
        expect(dir, &["put", "image", "/state/a", "newer"], 0);
        assert_eq!(expect(dir, &["get", "image", "/state/a"], 0).0, "newer");
        expect(dir, &["fsck", "image"], 0);
        seen.push(value);
    }
    assert!(seen.is_sorted_by(|a, b| a >= b), "once new, it stays new: {seen:?}");
    assert!(seen.contains(&"old".to_owned()) && seen.contains(&"new".to_owned()), "{seen:?}");
}

#[test]
fn a_torn_tail_is_what_a_cut_leaves_and_the_next_put_works() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a", "old"], 0);
    let before = fs::read(dir.join("image")).unwrap();
    // Several blocks, of which the last one does not arrive.
    let value = "0123456789".repeat(1000) + "the end";
    let mut images = killed_puts(dir, &before, &value);
    let mut torn = images.drain(..).find(|image| !places(image, b"the end").is_empty()).unwrap();
    let [at] = places(&torn, b"the end")[..] else { panic!("not once") };
    torn[at..at + 7].fill(0);
    set(dir.join("image"), &torn);
    let found = json(dir, &["fsck", "image"], 1);
    assert_eq!((&found["health"], &found["lost"]["evidence"]), (&"torn_tail".into(), &Value::Null));
    assert!(expect(dir, &["fsck", "image"], 1).0.starts_with("torn tail at offset"));
    assert_eq!(expect(dir, &["get", "image", "/state/a"], 0).0, "old");
    expect(dir, &["put", "image", "/state/a", "new"], 0);
    assert_eq!(expect(dir, &["get", "image", "/state/a"], 0).0, "new");
    expect(dir, &["fsck", "image"], 0);
}

#[test]
fn a_store_that_was_being_made_is_there_or_not() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    for nth in 1..=CALLS_MAX {
        let init = run(dir, &["init", "image", "--size", "128KiB"], b"", Some(&format!("call@{nth}")));
        if init.status.code() == Some(0) {
            assert!(nth > 3, "{nth}");
            return;
        }
        assert_eq!(init.status.signal(), Some(Signal::ABORT.as_raw()), "{}", text(&init.stderr));
        if dir.join("image").exists() {
            let found = run(dir, &["ls", "image"], b"", None);
            assert!([0, 1, 3].contains(&found.status.code().unwrap()), "{}", text(&found.stderr));
            assert_eq!(text(&found.stdout), "");
            fs::remove_file(dir.join("image")).unwrap();
        }
    }
    panic!("it never came to its end")
}
