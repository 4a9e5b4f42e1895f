//! The command as a person or a script meets it: real files, real processes, exit codes, `--json`.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test says where it broke")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

mod content;
mod txn;

const STEADFAST: &str = env!("CARGO_BIN_EXE_steadfast");

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(STEADFAST);
    command.current_dir(dir).args(arguments);
    command
}

/// Runs it to its end with `stdin` as input.
fn run(dir: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    feed(&mut command(dir, arguments), stdin)
}

fn feed(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that fails early does not read its input; that is for its exit code to say.
        scope.spawn(move || drop(input.write_all(stdin)));
        child.wait_with_output().unwrap()
    })
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn expect(output: &Output, exit: i32) {
    assert_eq!(code(output), exit, "stdout: {}\nstderr: {}", text(&output.stdout), text(&output.stderr));
}

/// The one JSON object on stdout; with `--json` nothing goes to stderr.
#[track_caller]
fn json(output: &Output) -> Value {
    assert_eq!(text(&output.stderr), "", "words beside --json");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["schema"], 1);
    value
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a test makes need not survive a power cut.
fn set(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    std::fs::File::create(path).unwrap().write_all(bytes.as_ref()).unwrap();
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn write_replaces_creates_and_says_what_it_did() {
    let root = scratch();
    let dir = root.path();
    let output = run(dir, &["write", "a"], b"one");
    expect(&output, 0);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (String::new(), "created `a`: 3 B, durable\n".into())
    );
    let output = run(dir, &["write", "a", "--json"], b"two!");
    expect(&output, 0);
    let said = json(&output);
    assert_eq!(
        (&said["change"], &said["durability"], &said["bytes"]),
        (&"replaced".into(), &"durable".into(), &4.into())
    );
    let output = run(dir, &["write", "a", "--if-changed"], b"two!");
    assert_eq!(text(&output.stderr), "unchanged `a`: 4 B, durable\n");
    expect(&run(dir, &["write", "deep/down/b", "--mode", "640", "-q"], b"x"), 0);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&dir.join("deep/down/b").metadata().unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o640);
    std::fs::File::create(dir.join("source")).unwrap().write_all(b"from a file").unwrap();
    expect(&run(dir, &["write", "c", "--from", "source"], b"not this"), 0);
    assert_eq!(std::fs::read(dir.join("c")).unwrap(), b"from a file");
    assert_eq!(names(dir), ["a", "c", "deep", "source"], "no temporary file is left");
}

#[test]
fn what_cannot_be_written_has_its_own_exit_code_hint_and_json() {
    let root = scratch();
    let dir = root.path();
    expect(&run(dir, &["write", "a"], b"old"), 0);
    expect(&run(dir, &["write", "a", "--create-new"], b"new"), 1);
    let said = json(&run(dir, &["--json", "write", "a", "--create-new"], b"new"));
    assert_eq!((&said["ok"], &said["error"]["code"]), (&false.into(), &"exists".into()));
    assert_eq!(said["error"]["details"]["state"], "unchanged");
    std::fs::create_dir(dir.join("d")).unwrap();
    expect(&run(dir, &["write", "d"], b""), 2);
    expect(&run(dir, &["write", "d/"], b""), 2);
    expect(&run(dir, &["write", "x", "--from", "missing"], b""), 1);
    expect(&run(dir, &["write", "x", "--mode", "rw"], b""), 2);
    expect(&run(dir, &["write", &"n".repeat(256)], b""), 2);
    std::os::unix::fs::symlink("a", dir.join("link")).unwrap();
    expect(&run(dir, &["write", "link", "--symlinks", "refuse"], b""), 2);
    let full = run(dir, &["write", "/dev/full"], b"x");
    expect(&full, 2);
    assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"old");
    assert_eq!(names(dir), ["a", "d", "link"]);
}

#[test]
fn update_passes_the_content_through_and_a_failing_command_changes_nothing() {
    let root = scratch();
    let dir = root.path();
    expect(&run(dir, &["update", "f", "--", "sh", "-c", "cat; echo one"], b""), 0);
    expect(&run(dir, &["update", "f", "--", "sh", "-c", "cat; echo two"], b""), 0);
    assert_eq!(std::fs::read(dir.join("f")).unwrap(), b"one\ntwo\n");
    // Status of the command, by a signal too; ours; not runnable; not found.
    let cases: [(&[&str], i32); 6] = [
        (&["sh", "-c", "echo half; exit 3"], 3),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["true"], 125),
        (&["sh", "-c", "cat > /dev/null"], 125),
        (&["/dev/null"], 126),
        (&["no-such-command-anywhere"], 127),
    ];
    for (words, exit) in cases {
        let output = run(dir, &[&["update", "f", "--"], words].concat(), b"");
        expect(&output, exit);
        assert_eq!(std::fs::read(dir.join("f")).unwrap(), b"one\ntwo\n", "{words:?}");
    }
    let output = run(dir, &["update", "f", "--", "true"], b"");
    assert!(text(&output.stderr).contains("hint: --allow-empty"), "{}", text(&output.stderr));
    expect(&run(dir, &["update", "f", "--allow-empty", "--", "true"], b""), 0);
    assert_eq!(std::fs::read(dir.join("f")).unwrap(), b"");
    assert_eq!(names(dir), ["f", "f.lock"]);
}

#[test]
fn an_update_larger_than_a_pipe_neither_blocks_nor_is_cut() {
    let root = scratch();
    let dir = root.path();
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    expect(&run(dir, &["write", "f"], &big), 0);
    expect(&run(dir, &["update", "f", "--", "cat"], b""), 0);
    assert!(std::fs::read(dir.join("f")).unwrap() == big);
    expect(&run(dir, &["update", "f", "--", "echo", "ignores its input"], b""), 0);
}

#[test]
fn processes_that_update_at_once_lose_nothing() {
    let root = scratch();
    let dir = root.path();
    let increment = ["update", "n", "--timeout", "60s", "-q", "--", "sh", "-c", "read n; echo $((n + 1))"];
    let children: Vec<Child> =
        (0..12).map(|_| command(dir, &increment).stdin(Stdio::null()).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(text(&std::fs::read(dir.join("n")).unwrap()), "12\n");
}

#[test]
fn lock_runs_the_command_alone_and_names_the_holder() {
    let root = scratch();
    let dir = root.path();
    expect(&run(dir, &["lock", "f", "--", "sh", "-c", "exit 42"], b""), 42);
    let holder = ["lock", "f", "--", "sh", "-c", "touch held; read _"];
    for kind in ["kernel", "exclusive"] {
        let with = |rest: &[&'static str]| [&["lock", "g", "--lock-kind", kind][..], rest].concat();
        let mut held = command(dir, &with(&holder[2..])).stdin(Stdio::piped()).spawn().unwrap();
        wait_until(|| dir.join("held").exists());
        let output = run(dir, &with(&["--timeout", "50ms", "--", "true"]), b"");
        expect(&output, 125);
        assert!(
            text(&output.stderr).contains(&format!("locked by pid {}", held.id())),
            "{}",
            text(&output.stderr)
        );
        let said = json(&run(dir, &with(&["--json", "--timeout", "0", "--", "true"]), b""));
        assert_eq!(said["error"]["code"], "locked");
        assert_eq!(said["error"]["details"]["holder"]["pid"], held.id());
        drop(held.stdin.take());
        held.wait().unwrap();
        expect(&run(dir, &with(&["--timeout", "0", "--", "true"]), b""), 0);
        for left in ["held", "g.lock"] {
            drop(std::fs::remove_file(dir.join(left)));
        }
    }
}

#[test]
fn a_log_is_appended_checked_and_repaired() {
    let root = scratch();
    let dir = root.path();
    let output = run(dir, &["append", "l"], b"{\"a\":1}\n\n[2]");
    expect(&output, 0);
    assert_eq!(text(&output.stderr), "appended 2 record(s), 12 B to `l`: durable\n");
    for sync in ["group:2", "none"] {
        expect(&run(dir, &["append", "l", "--sync", sync], b"{\"b\":1}\n{\"b\":2}\n{\"b\":3}\n"), 0);
    }
    let output = run(dir, &["append", "l", "--sync", "group:10"], b"{\"c\":1}\nnot json\n{\"c\":3}\n");
    expect(&output, 2);
    assert!(text(&output.stderr).contains("line 2"), "{}", text(&output.stderr));
    let mut raw = std::fs::OpenOptions::new().append(true).open(dir.join("l")).unwrap();
    raw.write_all(b"{\"torn\":").unwrap();
    let said = json(&run(dir, &["--json", "log", "check", "l"], b""));
    assert_eq!(
        (&said["records"], &said["tail"]["state"], &said["clean"]),
        (&9.into(), &"torn".into(), &false.into())
    );
    expect(&run(dir, &["log", "check", "l"], b""), 1);
    expect(&run(dir, &["log", "check", "l", "--repair"], b""), 1);
    expect(&run(dir, &["log", "check", "l"], b""), 0);
    assert_eq!(names(dir).iter().filter(|name| name.starts_with("l.torn-")).count(), 1);
    // Damage in the middle is another thing than a torn tail.
    let mut content = std::fs::read(dir.join("l")).unwrap();
    content[3] = 0;
    std::fs::File::create(dir.join("damaged")).unwrap().write_all(&content).unwrap();
    expect(&run(dir, &["log", "check", "damaged"], b""), 3);
    expect(&run(dir, &["log", "check", "missing"], b""), 1);
}

#[test]
fn a_log_rotates_at_its_bound() {
    let root = scratch();
    let dir = root.path();
    let records: String = (0..100).map(|i| format!("{{\"i\":{i}}}\n")).collect();
    expect(&run(dir, &["append", "l", "--max-bytes", "200", "--keep", "2"], records.as_bytes()), 0);
    let found = names(dir);
    assert_eq!(found, ["l", "l.1", "l.2", "l.lock"]);
    for name in ["l", "l.1", "l.2"] {
        assert!(dir.join(name).metadata().unwrap().len() <= 200);
    }
    assert!(text(&std::fs::read(dir.join("l")).unwrap()).ends_with("{\"i\":99}\n"));
}

#[test]
fn names_are_removed_moved_and_made() {
    let root = scratch();
    let dir = root.path();
    for name in ["a", "b", "c"] {
        expect(&run(dir, &["write", name, "-q"], name.as_bytes()), 0);
    }
    expect(&run(dir, &["mv", "a", "d"], b""), 0);
    expect(&run(dir, &["mv", "--no-clobber", "b", "d"], b""), 1);
    expect(&run(dir, &["mkdir", "x/y"], b""), 1);
    expect(&run(dir, &["mkdir", "-p", "x/y/", "-m", "700"], b""), 0);
    expect(&run(dir, &["mkdir", "-p", "x/y"], b""), 0);
    expect(&run(dir, &["mkdir", "x"], b""), 1);
    expect(&run(dir, &["mv", "d", "x/y"], b""), 0);
    assert_eq!(std::fs::read(dir.join("x/y/d")).unwrap(), b"a");
    expect(&run(dir, &["mv", "x/y", "z"], b""), 0);
    let output = run(dir, &["rm", "missing", "b", "missing too", "c"], b"");
    expect(&output, 1);
    expect(&run(dir, &["rm", "-f", "missing"], b""), 0);
    assert_eq!(names(dir), ["x", "z"]);
}

#[test]
fn copy_takes_files_and_trees_and_tells_what_it_left() {
    let root = scratch();
    let dir = root.path();
    let source = dir.join("src");
    std::fs::create_dir_all(source.join("sub/empty")).unwrap();
    for index in 0..40 {
        let mut file = std::fs::File::create(source.join(format!("f{index}"))).unwrap();
        file.write_all(format!("content {index}").as_bytes()).unwrap();
    }
    std::fs::File::create(source.join("sub/big")).unwrap().write_all(&vec![9; 3_000_000]).unwrap();
    let output = run(dir, &["copy", "-r", "src", "out", "--json"], b"");
    expect(&output, 0);
    let said = json(&output);
    assert_eq!(
        (&said["files"], &said["failed"], &said["durability"]),
        (&41.into(), &0.into(), &"durable".into())
    );
    assert!(dir.join("out/src/sub/empty").is_dir());
    assert!(std::fs::read(dir.join("out/src/sub/big")).unwrap() == vec![9; 3_000_000]);
    assert_eq!(std::fs::read(dir.join("out/src/f7")).unwrap(), b"content 7");
    assert_eq!(names(&dir.join("out/src")), names(&source));

    std::os::unix::fs::symlink("f1", source.join("link")).unwrap();
    let output = run(dir, &["copy", "-r", "--threads", "1", "src", "missing", "out2"], b"");
    expect(&output, 1);
    assert!(text(&output.stderr).contains("2 file(s) were not copied"), "{}", text(&output.stderr));
    assert_eq!(names(&dir.join("out2/src")).len(), 41);
    expect(&run(dir, &["copy", "src", "out3"], b""), 1);
    expect(&run(dir, &["copy", "-r", "--all-or-none", "src", "out4"], b""), 1);
    assert_eq!(names(&dir.join("out4/src")), ["sub"], "directories were made, files were not");
    expect(&run(dir, &["copy", "--syncfs", "src/f1", "src/f2", "out5"], b""), 0);
    assert_eq!(names(&dir.join("out5")), ["f1", "f2"]);
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain");
        std::thread::yield_now();
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // One that has ended by itself is not waited for yet, so the signal always has somebody to go to.
    kill_process(pid, signal).unwrap();
}

#[test]
fn a_killed_write_leaves_a_temporary_file_that_sweep_removes_once_it_is_dead() {
    let root = scratch();
    let dir = root.path();
    expect(&run(dir, &["write", "a", "-q"], b"old"), 0);
    let mut child =
        command(dir, &["write", "a"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(|| names(dir).len() == 2);
    let output = run(dir, &["sweep", "."], b"");
    expect(&output, 0);
    assert!(text(&output.stderr).contains("its process runs"), "{}", text(&output.stderr));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(dir).len(), 2, "SIGKILL leaves no time to clean up");
    let said = json(&run(dir, &["sweep", ".", "--dry-run", "--json"], b""));
    assert_eq!(said["removed"].as_array().unwrap().len(), 1);
    expect(&run(dir, &["sweep", "."], b""), 0);
    assert_eq!(names(dir), ["a"]);
    assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"old");
}

/// Signals a running command after `delay` and waits for it.
fn interrupted(mut child: Child, delay: Duration) -> i32 {
    let begun = Instant::now();
    wait_until(|| begun.elapsed() >= delay);
    signal(&child, Signal::INT);
    // Before it listens, the signal simply ends it: nothing was begun then. A shell says 130 for both.
    child.wait().unwrap().code().unwrap_or(130)
}

/// Stops a command as soon as it has a staged file in `dir`: it ends with 130, and the file is gone.
#[track_caller]
fn stopped_while_it_stages(mut child: Child, dir: &Path) {
    let staged = || dir.is_dir() && names(dir).iter().any(|name| name.ends_with(".nxpart"));
    wait_until(staged);
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!staged(), "{:?}", names(dir));
}

/// A file of a gibibyte, which takes no room.
fn set_long(path: impl AsRef<Path>) {
    std::fs::File::create(path).unwrap().set_len(1 << 30).unwrap();
}

#[test]
fn ctrl_c_at_any_moment_leaves_the_target_whole_and_no_temporary_file() {
    let root = scratch();
    let dir = root.path();
    let (old, new) = (vec![1_u8; 4_000_000], vec![2_u8; 4_000_000]);
    std::fs::File::create(dir.join("new")).unwrap().write_all(&new).unwrap();
    let mut stopped = 0;
    for round in 0..40_u64 {
        std::fs::File::create(dir.join("a")).unwrap().write_all(&old).unwrap();
        let child = command(dir, &["write", "a", "--from", "new"]).stderr(Stdio::null()).spawn().unwrap();
        let exit = interrupted(child, Duration::from_micros(round * 400));
        let content = std::fs::read(dir.join("a")).unwrap();
        match exit {
            130 => {
                stopped += 1;
                assert!(content == old, "round {round}: stopped, and yet changed");
            }
            0 => assert!(content == new, "round {round}: done, and yet unchanged"),
            other => panic!("round {round}: exit code {other}"),
        }
        assert_eq!(names(dir), ["a", "new"], "round {round}");
    }
    assert!(stopped > 0, "no round was early enough");
}

#[test]
fn ctrl_c_while_waiting_for_input_stops_at_once() {
    let root = scratch();
    let dir = root.path();
    let mut child =
        command(dir, &["write", "a"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"half of it").unwrap();
    wait_until(|| names(dir).len() == 1);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(dir), Vec::<String>::new());
}

#[test]
fn ctrl_c_during_a_copy_leaves_whole_files_and_no_temporary_ones() {
    let root = scratch();
    let dir = root.path();
    std::fs::create_dir(dir.join("src")).unwrap();
    for index in 0..400 {
        std::fs::File::create(dir.join(format!("src/{index}"))).unwrap().write_all(&[7; 5_000]).unwrap();
    }
    for round in 0..12_u64 {
        let out = format!("out{round}");
        let child = command(dir, &["copy", "-r", "src", &out]).stderr(Stdio::null()).spawn().unwrap();
        let exit = interrupted(child, Duration::from_millis(round * 12));
        assert!(exit == 0 || exit == 130, "round {round}: exit code {exit}");
        let made = dir.join(&out).join("src");
        for name in if made.is_dir() { names(&made) } else { Vec::new() } {
            assert!(!name.starts_with(".steadfast-"), "round {round}: {name}");
            assert!(std::fs::read(made.join(name)).unwrap() == [7; 5_000]);
        }
    }
}

/// The most memory a command held, in KiB, read while it runs.
fn peak_memory_kib(mut child: Child) -> u64 {
    let mut peak = 0;
    let status = format!("/proc/{}/status", child.id());
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let high_water = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kib) = high_water.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()) {
            peak = peak.max(kib);
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        std::thread::yield_now();
    }
}

/// All of it where `STEADFAST_LONG` is set: a stream of 4 GiB and a copy of 100,000 files. Else a share of it.
fn long() -> bool {
    std::env::var_os("STEADFAST_LONG").is_some()
}

const MEMORY_MAX_KIB: u64 = 32 << 10;

#[test]
#[cfg(target_os = "linux")]
fn a_stream_of_any_length_takes_little_memory() {
    let root = scratch();
    let mebibytes = if long() { 4_096 } else { 200 };
    let mut child = command(root.path(), &["write", "big", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let chunk = vec![0x5A; 1 << 20];
        (0..mebibytes).try_for_each(|_| input.write_all(&chunk)).unwrap();
    });
    let peak = peak_memory_kib(child);
    feeder.join().unwrap();
    writeln!(std::io::stderr(), "write of {mebibytes} MiB: {peak} KiB at the most").unwrap();
    assert_eq!(root.path().join("big").metadata().unwrap().len(), mebibytes << 20);
    assert!(peak > 0 && peak < MEMORY_MAX_KIB, "{peak} KiB");
}

#[test]
#[cfg(target_os = "linux")]
fn a_copy_of_many_files_takes_little_memory() {
    let root = scratch();
    let count = if long() { 100_000 } else { 3_000 };
    for index in 0..count {
        let dir = root.path().join(format!("src/{}", index / 1_000));
        if index % 1_000 == 0 {
            std::fs::create_dir_all(&dir).unwrap();
        }
        std::fs::File::create(dir.join(format!("file-with-a-name-of-usual-length-{index}"))).unwrap();
    }
    let child = command(root.path(), &["copy", "-r", "-q", "src", "out"]).spawn().unwrap();
    let peak = peak_memory_kib(child);
    writeln!(std::io::stderr(), "copy of {count} files: {peak} KiB at the most").unwrap();
    assert!(peak > 0 && peak < MEMORY_MAX_KIB, "{peak} KiB");
}

#[test]
fn selfcheck_tells_and_leaves_nothing_behind() {
    let root = scratch();
    let said = json(&run(root.path(), &["selfcheck", ".", "--rounds", "3", "--json"], b""));
    assert_eq!(said["features"]["directory_barrier"], true);
    assert!(said["prices"]["replace"]["median_us"].as_u64().unwrap() > 0);
    assert!(said["name_len_max"].as_u64().unwrap() > 100);
    assert_eq!(names(root.path()), Vec::<String>::new());
    if Path::new("/dev/shm").is_dir() {
        let output = run(root.path(), &["selfcheck", "/dev/shm", "--rounds", "1"], b"");
        expect(&output, 1);
        assert!(text(&output.stdout).contains("NO durable replace"), "{}", text(&output.stdout));
        assert!(text(&output.stderr).contains("in memory"), "{}", text(&output.stderr));
    }
}

#[test]
fn the_demonstration_runs_to_its_end_and_cleans_up_when_asked() {
    let root = scratch();
    let output = run(root.path(), &["demo", "--clean"], b"");
    expect(&output, 0);
    let said = text(&output.stdout);
    let parts = ["100 of 100 entries", "the torn 12 bytes", "1000 files", "lock and unlock"];
    let state = ["put /state/boot/slot", "is not as it was expected to be", "closed: clean, 4 keys"];
    let killed = [
        "replaced 2 files in",
        "config.json has version 2, schema.json has version 1",
        "finalized=1; config.json",
    ];
    let content = [
        "put state:/photos/2024/one.jpg (20.00 KiB)",
        "usage is exact: 30.00 KiB of 64.00 KiB",
        "refused before",
    ];
    let cuts = ["The files: power cut at ", "The keys and values: power cut at ", ": 0 broken promises."];
    let stories = ["steadfast crash replay rename-", "steadfast crash replay state-no-flush/"];
    for part in parts.into_iter().chain(state).chain(killed).chain(content).chain(cuts).chain(stories) {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(names(root.path()), Vec::<String>::new());
}

#[test]
fn help_man_and_completions_come_from_one_definition() {
    let root = scratch();
    let help = text(&run(root.path(), &["--help"], b"").stdout);
    snapbox::assert_data_eq!(help, snapbox::file!["help.txt"]);
    let page = text(&run(root.path(), &["man", "write"], b"").stdout);
    assert!(page.contains(".TH steadfast-write 1") && page.contains("if\\-changed"), "{page}");
    expect(&run(root.path(), &["man", "nonsense"], b""), 2);
    let page = text(&run(root.path(), &["man", "crash-run"], b"").stdout);
    assert!(page.contains(".TH steadfast-crash-run 1") && page.contains("artifacts"), "{page}");
    expect(&run(root.path(), &["man", "--dir", "pages"], b""), 0);
    assert!(names(&root.path().join("pages")).contains(&"steadfast-copy.1".to_owned()));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(root.path(), &["completions", shell], b"");
        expect(&script, 0);
        assert!(text(&script.stdout).contains("selfcheck"), "{shell}");
    }
}

#[test]
fn names_that_are_no_text_are_written_and_told_as_well_as_they_can_be() {
    use std::os::unix::ffi::OsStrExt as _;
    let root = scratch();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    for json in [false, true] {
        for command in [&["write"][..], &["append"], &["rm"], &["mkdir"], &["rm"]] {
            let mut child = Command::new(STEADFAST);
            child.current_dir(root.path()).args(command).arg(name).stdin(Stdio::null());
            if json {
                child.arg("--json");
            }
            let output = child.output().unwrap();
            // `rm` of a directory is refused; nothing panics.
            assert!([0, 2].contains(&code(&output)), "{command:?}: {}", text(&output.stderr));
        }
        std::fs::remove_dir(root.path().join(name)).unwrap();
    }
}

#[test]
fn a_signal_ends_a_wait_for_a_lock_and_the_command_never_runs() {
    let root = scratch();
    let dir = root.path();
    let mut holder = command(dir, &["lock", "f", "--", "sh", "-c", "touch held; read _"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(|| dir.join("held").exists());
    for waiting in [
        &["lock", "f", "--timeout", "60s", "--", "touch", "ran"][..],
        &["update", "f", "--timeout", "60s", "--", "touch", "ran"],
    ] {
        let child = command(dir, waiting).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        assert_eq!(interrupted(child, Duration::from_millis(300)), 130);
        assert!(begun.elapsed() < Duration::from_secs(20), "it waited on");
        assert!(!dir.join("ran").exists());
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn a_signal_is_passed_on_to_the_command_and_the_lock_outlives_it() {
    let root = scratch();
    let dir = root.path();
    let script = "trap 'echo stopped > said; exit 9' TERM; touch held; while :; do sleep 0.05; done";
    let child = command(dir, &["lock", "f", "--", "sh", "-c", script]).spawn().unwrap();
    wait_until(|| dir.join("held").exists());
    signal(&child, Signal::TERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(9));
    assert_eq!(std::fs::read(dir.join("said")).unwrap(), b"stopped\n");
}

#[test]
fn a_fifo_as_a_source_does_not_make_it_deaf() {
    let root = scratch();
    let dir = root.path();
    assert!(Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap().success());
    expect(&run(dir, &["copy", "fifo", "out"], b""), 1);
    let child = command(dir, &["write", "a", "--from", "fifo"]).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(interrupted(child, Duration::from_millis(300)), 130);
    assert!(!dir.join("a").exists());
}

#[test]
fn a_tree_is_not_copied_into_itself() {
    let root = scratch();
    let dir = root.path();
    std::fs::create_dir(dir.join("a")).unwrap();
    expect(&run(dir, &["write", "a/x", "-q"], b"1"), 0);
    for to in ["a", "a/b", "."] {
        expect(&run(dir, &["copy", "-r", if to == "." { "." } else { "a" }, to], b""), 2);
    }
    assert_eq!(names(dir), ["a"]);
}

#[test]
fn with_json_there_is_one_object_also_for_warnings_and_wrong_usage() {
    let root = scratch();
    let dir = root.path();
    for wrong in
        [&["--json", "nonsense"][..], &["--json", "write", "a", "--mode", "999"], &["mkdir", "--json"]]
    {
        let output = run(dir, wrong, b"");
        expect(&output, 2);
        assert_eq!(json(&output)["error"]["code"], "usage");
    }
    let said = json(&run(dir, &["--json", "rm", "no1", "no2", "no3"], b""));
    assert_eq!(said["error"]["code"], "not_found");
    assert_eq!(said["warnings"].as_array().unwrap().len(), 2, "{said}");
    std::fs::File::create(dir.join("l")).unwrap().write_all(b"{}\n{\"torn").unwrap();
    let said = json(&run(dir, &["--json", "append", "l"], b"[1]"));
    assert!(said["warnings"][0].as_str().unwrap().contains("torn"), "{said}");
    let said = json(&run(dir, &["--json", "append", "l", "--sync", "none"], b"[1]"));
    assert_eq!(said["durability"], "not_yet_synced");
}

#[test]
fn a_report_that_cannot_be_written_is_not_taken_for_a_full_disk() {
    let root = scratch();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = command(root.path(), &["write", "a", "--json"])
        .stdin(Stdio::piped())
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"new").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(5));
    assert_eq!(std::fs::read(root.path().join("a")).unwrap(), b"new");
}

#[test]
fn mv_takes_a_trailing_slash_at_its_word() {
    let root = scratch();
    let dir = root.path();
    expect(&run(dir, &["write", "f", "-q"], b"1"), 0);
    expect(&run(dir, &["mv", "f", "new/"], b""), 2);
    expect(&run(dir, &["mv", "f/", "new"], b""), 2);
    expect(&run(dir, &["mkdir", "d", "-q"], b""), 0);
    expect(&run(dir, &["mv", "d/", "e/"], b""), 0);
    assert_eq!(names(dir), ["e", "f"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let root = scratch();
    let mut child = command(root.path(), &["man"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
