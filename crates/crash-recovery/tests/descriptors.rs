//! How many descriptors an open needs. In a process of its own: the bound is the process's.
#![cfg(unix)]
#![expect(clippy::disallowed_methods, reason = "what was there before")]

use crash_recovery::{Root, RootOptions};
use media::{Env, OsFs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The directories of a tree are looked through one after the other, however many there are side by side.
#[test]
fn a_tree_with_more_directories_than_descriptors_is_opened() {
    let home = tempfile::tempdir().unwrap();
    for number in 0..200 {
        std::fs::create_dir_all(home.path().join(format!("{number}/below"))).unwrap();
    }
    let staged = home.path().join("150/below/left.nxpart");
    std::fs::write(&staged, "left").unwrap();
    let most = Rlimit { current: Some(100), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, most).unwrap();
    let options = RootOptions::owned("own/journal");
    let (root, recovery) = Root::open(OsFs::shared(), home.path(), Env::os(), options).unwrap();
    assert_eq!(recovery.orphans, 1);
    assert!(!staged.exists());
    root.close().unwrap();
}
