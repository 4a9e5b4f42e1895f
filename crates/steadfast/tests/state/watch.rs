//! `watch`: what others change.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout};

use rustix::process::{Pid, kill_process};

use super::*;

/// A watch that runs.
struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    /// Begins to watch; when this returns, it does.
    fn begin(dir: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(STEADFAST);
        command.current_dir(dir).args(["state", "watch", "image", "--interval", "10ms"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        words.read_line(&mut line).unwrap();
        assert!(line.starts_with("watching "), "{line}");
        child.stderr = Some(words.into_inner());
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for its end: the exit code, and the rest of what it printed and said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }

    fn interrupt(self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.end()
    }
}

fn revision(dir: &Path, arguments: &[&str]) -> String {
    json(dir, arguments, 0)["revision"].to_string()
}

#[test]
fn what_another_process_changes_is_told_line_by_line() {
    let root = fresh();
    let dir = root.path();
    expect(dir, &["put", "image", "/state/a/1", "before"], 0);
    let mut watch = Watch::begin(dir, &["/state/a"]);
    let put = revision(dir, &["put", "image", "/state/a/1", "one"]);
    assert_eq!(watch.line(), format!("put {put} /state/a/1"));
    // The same value again is a change, another prefix is none, and neither is a scrub.
    expect(dir, &["put", "image", "/state/ab", "elsewhere"], 0);
    expect(dir, &["scrub", "image"], 0);
    let put = revision(dir, &["put", "image", "/state/a/1", "one"]);
    assert_eq!(watch.line(), format!("put {put} /state/a/1"));
    let gone = revision(dir, &["rm", "image", "/state/a/1"]);
    assert_eq!(watch.line(), format!("delete {gone} /state/a/1"));
    // A batch comes in its order.
    let lines = r#"{"op":"put","key":"/state/a/z","text":""}
{"op":"put","key":"/state/a/b","text":""}"#;
    feed(dir, &["batch", "image"], lines, 0);
    assert!(watch.line().ends_with(" /state/a/z"));
    assert!(watch.line().ends_with(" /state/a/b"));
    assert_eq!(watch.interrupt(), (Some(0), String::new()));
}

#[test]
fn once_ends_with_the_first_change_and_since_begins_in_the_past() {
    let root = fresh();
    let dir = root.path();
    let first = revision(dir, &["put", "image", "/state/a", "1"]);
    let second = revision(dir, &["put", "image", "/state/b", "1"]);
    let watch = |arguments: &[&str]| expect(dir, &[&["watch", "image", "--once"], arguments].concat(), 0).0;
    assert_eq!(watch(&["--since", "0"]), format!("put {first} /state/a\nput {second} /state/b\n"));
    assert_eq!(watch(&["--since", &first]), format!("put {second} /state/b\n"));
    let told = json(dir, &["watch", "image", "--once", "--since", &first], 0);
    assert_eq!((&told["change"], &told["key"]), (&"put".into(), &"/state/b".into()));
    assert_eq!(told["revision"].to_string(), second);
    let running = Watch::begin(dir, &["--once", "--since", &second]);
    let third = revision(dir, &["put", "image", "/state/a", "2"]);
    assert_eq!(running.end(), (Some(0), format!("put {third} /state/a\n")));
    expect(dir, &["watch", "missing"], 1);
    expect(dir, &["watch", "image", "a"], 2);
    expect(dir, &["watch", "image", "--interval", "soon"], 2);
    expect(rotten().path(), &["watch", "image"], 3);
}

#[test]
fn a_watch_ends_when_nobody_reads_it_or_the_image_is_another() {
    let root = fresh();
    let dir = root.path();
    let mut watch = Watch::begin(dir, &[]);
    drop(std::mem::replace(&mut watch.lines, BufReader::new(closed())));
    expect(dir, &["put", "image", "/state/a", "1"], 0);
    assert_eq!(watch.child.wait().unwrap().code(), Some(0));

    let watch = Watch::begin(dir, &[]);
    expect(dir, &["init", "new", "--size", "1MiB"], 0);
    media::Dir::rename(
        &*OsFs.open_dir(dir).unwrap(),
        "new".as_ref(),
        &*OsFs.open_dir(dir).unwrap(),
        "image".as_ref(),
        media::RenameMode::Replace,
    )
    .unwrap();
    let (code, words) = watch.end();
    assert!(code == Some(1) && words.contains("another store is there now"), "{words}");

    let watch = Watch::begin(dir, &[]);
    fs::remove_file(dir.join("image")).unwrap();
    let (code, words) = watch.end();
    assert!(code == Some(1) && words.contains("examining the image"), "{words}");
}

/// An output that has come to its end.
fn closed() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    child.wait().unwrap();
    output
}

#[test]
fn a_store_that_is_being_written_is_never_called_damaged() {
    let root = fresh();
    let dir = root.path();
    let watch = Watch::begin(dir, &[]);
    let mut writer = {
        let os = OsFs.open_dir(dir).unwrap();
        let file = os.open("image".as_ref(), Access::ReadWrite).unwrap();
        file.lock(LockWait::DoNotWait).unwrap();
        let disk = media::FileDisk::open(file, 4096).unwrap();
        statefs::Store::open(disk, statefs::Access::Write).unwrap().0
    };
    // Many times through the regions, as fast as it goes.
    let value = vec![b'v'; 20_000];
    for n in 0..400 {
        let key = statefs::Key::parse(&format!("/state/{}", n % 7)).unwrap();
        writer.put(&key, &value).unwrap();
    }
    assert!(writer.stats().journal.switches > 10, "{}", writer.stats().journal.switches);
    let last = writer.put(&statefs::Key::parse("/state/last").unwrap(), b"").unwrap();
    let mut watch = watch;
    let wanted = format!("put {} /state/last", last.get());
    loop {
        let line = watch.line();
        assert_ne!(line, "", "it has ended");
        if line == wanted {
            break;
        }
    }
    drop(writer);
    assert_eq!(watch.interrupt(), (Some(0), String::new()));
}
