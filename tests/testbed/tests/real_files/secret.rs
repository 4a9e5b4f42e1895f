//! A secret of mode 0600 is replaced a thousand times while somebody else tries to open every name in its
//! directory.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use durable_io::{Dir, Mode, WriteOptions};
use rustix::fs::{Mode as SysMode, OFlags, openat};
use testbed::{FsKind, LoopFs, Scratch, as_nobody, child_arg, child_test, need};

use crate::{mode, names, set_mode};

const WATCHER: &str = "secret::child_opens_everything_it_sees";
const REPLACES: usize = 1_000;

/// Opens every name it finds, over and over, until `stop` appears. Says how often it looked, was refused a
/// temporary file or the secret, and what it could open.
#[test]
fn child_opens_everything_it_sees() {
    let Some(dir) = child_arg(WATCHER).map(PathBuf::from) else { return };
    let at = std::fs::File::open(&dir).unwrap();
    let (mut refused_temps, mut refused_secret, mut control) = (0, 0, 0);
    let mut opened: Vec<String> = Vec::new();
    let mut stop = false;
    while !stop {
        for entry in rustix::fs::Dir::read_from(&at).unwrap() {
            let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
            if name == "." || name == ".." {
                continue;
            }
            stop |= name == "stop";
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match openat(&at, name.as_str(), flags, SysMode::empty()) {
                Ok(_) if name == "control" || name == "stop" => control += 1,
                Ok(_) => opened.push(name),
                Err(rustix::io::Errno::ACCESS) if name == "secret" => refused_secret += 1,
                Err(rustix::io::Errno::ACCESS) => refused_temps += 1,
                Err(rustix::io::Errno::NOENT) => {}
                Err(e) => panic!("{name}: {e}"),
            }
        }
    }
    opened.sort();
    opened.dedup_by_key(|name| name.starts_with(".steadfast-"));
    writeln!(
        std::io::stdout(),
        "\nwatched: refused temps {refused_temps}, refused secret {refused_secret}, control {control}, opened {opened:?}"
    )
    .unwrap();
}

/// The numbers in the watcher's line, and what it opened.
fn parse(line: &str) -> (Vec<u64>, &str) {
    let (numbers, opened) = line.split_once(", opened ").unwrap();
    (numbers.split([' ', ',']).filter_map(|word| word.parse().ok()).collect(), opened)
}

#[test]
fn nobody_ever_reads_a_secret_while_it_is_replaced() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 64 << 20));
    let scratch = need!(Scratch::new());
    let dir = fs.root().join("open-to-all");
    std::fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o755);
    std::fs::write(dir.join("control"), b"readable").unwrap();
    set_mode(&dir.join("control"), 0o644);
    let durable = Dir::open(&dir).unwrap();
    let private = WriteOptions { mode: Some(Mode::PRIVATE), ..WriteOptions::default() };
    drop(durable.replace_with("secret", b"0", &private).unwrap());

    let command = need!(child_test(WATCHER, &dir));
    let child = need!(as_nobody(&command, &scratch))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for number in 1..=REPLACES {
        let text = number.to_string();
        // By every way that makes one: with the mode said, inherited from the old file, and as a new file.
        match number % 3 {
            0 => drop(durable.replace("secret", text.as_bytes()).unwrap()),
            1 => drop(durable.replace_with("secret", text.as_bytes(), &private).unwrap()),
            _ => {
                durable.remove("secret").unwrap();
                drop(durable.create_new_with("secret", text.as_bytes(), &private).unwrap());
            }
        }
        assert_eq!(mode(&dir.join("secret")), 0o600);
    }
    std::fs::write(dir.join("stop"), b"").unwrap();
    set_mode(&dir.join("stop"), 0o644);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = said.lines().find(|line| line.starts_with("watched: ")).unwrap();
    let (numbers, opened) = parse(line);
    assert_eq!(opened, "[]", "nobody could open what is not theirs: {line}");
    // The watcher can fail: it read what is readable, and it saw temporary files while they existed.
    assert!(numbers.iter().all(|&count| count >= 20), "{line}");
    assert_eq!(names(&dir), ["control", "secret", "stop"]);
}
