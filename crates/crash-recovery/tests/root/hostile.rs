//! What others put in the way: directories that are gone, links, files where directories were, and callers that ask for odd things.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "other programs know nothing of barriers")]

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crash_recovery::{FastPath, Publish, Recovery, Root, RootOptions, WindowLimits};
use durable_io::TargetState;
use media::OsFs;
use media::doubles::{Call, Listener, Op, TapFs};

use crate::common::{at, files, open, open_on, owned, put, shared, these};

const EPERM: i32 = 1;
const ENOSPC: i32 = 28;
const EXDEV: i32 = 18;

/// Refuses every call that is one of these: what it does, part of what it says, and the answer.
#[derive(Debug)]
struct Refusals(&'static [(Op, &'static str, i32)]);

impl Listener for Refusals {
    fn before(&self, call: &Call) -> io::Result<()> {
        let said = call.to_string();
        match self.0.iter().find(|(op, about, _)| *op == call.op && said.contains(about)) {
            Some((_, _, code)) => Err(io::Error::from_raw_os_error(*code)),
            None => Ok(()),
        }
    }
}

fn open_with_refusals(
    home: &Path,
    options: &RootOptions,
    refusals: &'static [(Op, &'static str, i32)],
) -> crash_recovery::Result<(Root, Recovery)> {
    open_on(TapFs::shared(OsFs::shared(), Arc::new(Refusals(refusals))), home, options)
}

/// Commits these files together, and dies before any of them has its name.
fn committed_and_not_placed(home: &Path, options: &RootOptions, names: &[&str]) {
    let (root, _) = open_with_refusals(home, options, &[(Op::Rename, "zz", ENOSPC)]).unwrap();
    let mut transaction = root.transaction();
    for name in names {
        transaction.replace(&at(name), format!("new {name}").as_bytes()).unwrap();
    }
    let failure = transaction.commit().unwrap_err();
    assert_eq!(failure.error.state(), TargetState::DurableNotVisible, "{}", failure.error);
}

#[test]
fn a_transaction_follows_no_link_out_of_the_tree() {
    for options in [owned(FastPath::On), owned(FastPath::Off), shared()] {
        let home = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("there"), "theirs").unwrap();
        symlink(outside.path(), home.path().join("d")).unwrap();
        let (root, _) = open(home.path(), &options);
        let mut transaction = root.transaction();
        assert!(transaction.replace(&at("d/x"), b"").is_err(), "{options:?}");
        assert!(transaction.remove(&at("d/there")).is_err());
        assert!(transaction.rename(&at("d/there"), &at("here")).is_err());
        drop(transaction);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}

/// A journal with room for few of them at a time.
#[test]
fn threads_that_fill_a_small_journal_are_not_told_that_it_is_full() {
    for payload in [20 << 10, 60 << 10] {
        let options = RootOptions { journal_bytes: 256 << 10, ..owned(FastPath::On) };
        let home = tempfile::tempdir().unwrap();
        let (root, _) = open(home.path(), &options);
        let bytes = vec![7; payload];
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let (root, bytes) = (&root, &bytes);
                scope.spawn(move || {
                    for turn in 0..5 {
                        let mut transaction = root.transaction();
                        transaction.replace(&at(&format!("{thread}-{turn}")), bytes).unwrap();
                        transaction.commit().map_err(|failure| failure.error).unwrap();
                    }
                });
            }
        });
        root.close().unwrap();
    }
}
