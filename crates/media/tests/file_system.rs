//! The conformance suite of the file seam over the operating system, plain and under a double.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]
#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use media::conformance::{FileSystemReport, Symlinks, file_system};
use media::doubles::{Op, Recorder};
use media::{Access, FileKind, Fs, Mode, OsFs};

fn run(fs: &Arc<dyn Fs>, root: &Path) -> FileSystemReport {
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("target", root.join("to-file")).unwrap();
    file_system(fs, root, Symlinks::Arranged)
}

#[test]
fn the_operating_system_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let report = run(&OsFs::shared(), root.path());
    println!("conformance: file_system {} ok, unsupported: {:?}", report.passed, report.unsupported);
    assert_eq!(report.passed, 48);
}

#[test]
#[cfg(target_os = "linux")]
fn memory_keeps_the_contract_and_offers_everything() {
    let Ok(root) = tempfile::tempdir_in("/dev/shm") else { return };
    let report = run(&OsFs::shared(), root.path());
    println!("conformance: file_system {} ok, unsupported: {:?}", report.passed, report.unsupported);
    // User attributes came to tmpfs with Linux 6.6; everything else has long been there.
    assert!(report.unsupported.iter().all(|&what| what == "xattr"), "{:?}", report.unsupported);
}

#[test]
fn a_double_changes_nothing_that_the_suite_can_see() {
    let root = tempfile::tempdir().unwrap();
    let (recorder, fs) = Recorder::over(OsFs::shared());
    assert_eq!(run(&fs, root.path()).passed, 48);
    for op in [Op::CreateExclusive, Op::Rename, Op::Append, Op::Lock, Op::DirSync, Op::SetXattr, Op::List] {
        assert!(recorder.count(op) > 0, "{op:?} was not heard");
    }
}

#[test]
fn without_symbolic_links_their_checks_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(file_system(&OsFs::shared(), root.path(), Symlinks::LeftOut).passed, 46);
}

/// The child sets a umask of its own and runs the test below in it.
#[test]
#[cfg(target_os = "linux")]
fn umask_is_what_the_shell_set() {
    for mask in ["0027", "0077", "0000"] {
        let status = Command::new("sh")
            .args(["-c", r#"umask "$1"; exec "$0" --exact umask_in_child --nocapture"#])
            .arg(std::env::current_exe().unwrap())
            .arg(mask)
            .env("STEADFAST_TEST_UMASK", mask)
            .status()
            .unwrap();
        assert!(status.success(), "umask {mask}");
    }
}

/// Does nothing unless [`umask_is_what_the_shell_set`] started it.
#[test]
#[cfg(target_os = "linux")]
fn umask_in_child() {
    let Ok(mask) = std::env::var("STEADFAST_TEST_UMASK") else { return };
    let mask = Mode::new(u32::from_str_radix(&mask, 8).unwrap());
    assert_eq!(OsFs.umask().unwrap(), mask);
    let root = tempfile::tempdir().unwrap();
    let dir = OsFs.open_dir(root.path()).unwrap();
    let file = dir.create_exclusive("file".as_ref(), Mode::FILE).unwrap();
    assert_eq!(file.metadata().unwrap().mode, Mode::FILE.without(mask));
}

#[test]
fn opening_a_fifo_does_not_wait_for_its_other_end() {
    let root = tempfile::tempdir().unwrap();
    assert!(Command::new("mkfifo").arg(root.path().join("fifo")).status().unwrap().success());
    let dir = OsFs.open_dir(root.path()).unwrap();
    let (done, outcome) = std::sync::mpsc::channel();
    // On a thread of its own: a regression shows as a failure, not as a test that hangs.
    std::thread::spawn(move || {
        let read = dir.open("fifo".as_ref(), Access::Read);
        let write = dir.open("fifo".as_ref(), Access::Write);
        done.send((read, write)).unwrap();
    });
    let (read, write) = outcome.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    let read = read.unwrap();
    assert_eq!(read.metadata().unwrap().kind, FileKind::Other);
    // The reader above is the other end.
    assert_eq!(write.unwrap().metadata().unwrap().kind, FileKind::Other);
}

#[test]
fn a_handle_of_one_implementation_is_no_target_for_another() {
    let root = tempfile::tempdir().unwrap();
    let plain = OsFs.open_dir(root.path()).unwrap();
    let (_, tapped) = Recorder::over(OsFs::shared());
    let tapped = tapped.open_dir(root.path()).unwrap();
    drop(plain.create_exclusive("a".as_ref(), Mode::PRIVATE).unwrap());
    let refused = plain.rename("a".as_ref(), &*tapped, "b".as_ref(), media::RenameMode::Replace).unwrap_err();
    assert_eq!(media::Reason::of(&refused), media::Reason::CrossDevice);
}
