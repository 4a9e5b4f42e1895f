//! What the tests share: a root in a directory of its own, and looking at it from outside.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;
use std::sync::Arc;

use crash_recovery::{
    Committed, Error, FastPath, Publish, Recovery, Root, RootOptions, Transaction, TransactionFailure,
    TreePath,
};
use media::{Env, Fs, OsFs};

/// A path below a root.
pub(crate) fn at(path: &str) -> TreePath {
    TreePath::parse(path).unwrap()
}

/// A root of our own with a small journal.
pub(crate) fn owned(fast: FastPath) -> RootOptions {
    RootOptions { fast, journal_bytes: 512 << 10, ..RootOptions::owned("own/journal") }
}

/// A directory of others with a small journal.
pub(crate) fn shared() -> RootOptions {
    RootOptions { journal_bytes: 512 << 10, ..RootOptions::shared() }
}

/// The three ways a root may work.
pub(crate) fn all_ways() -> [RootOptions; 3] {
    [owned(FastPath::On), owned(FastPath::Off), shared()]
}

pub(crate) fn open(dir: &Path, options: &RootOptions) -> (Root, Recovery) {
    open_on(OsFs::shared(), dir, options).unwrap()
}

pub(crate) fn open_on(
    fs: Arc<dyn Fs>,
    dir: &Path,
    options: &RootOptions,
) -> crash_recovery::Result<(Root, Recovery)> {
    Root::open(fs, dir, Env::os(), options.clone())
}

pub(crate) fn put(root: &Root, path: &str, bytes: &[u8]) {
    let mut transaction = root.transaction();
    transaction.replace(&at(path), bytes).unwrap();
    transaction.commit().unwrap();
}

pub(crate) fn remove(root: &Root, path: &str) {
    let mut transaction = root.transaction();
    transaction.remove(&at(path)).unwrap();
    transaction.commit().unwrap();
}

/// Publishes a file that is staged: under a name of its own, where that may be.
pub(crate) fn publish(
    root: &Root,
    path: &str,
    bytes: &[u8],
    publish: Publish,
) -> Result<Committed, TransactionFailure> {
    let failed = |error| TransactionFailure { error, staged: Vec::new() };
    let mut transaction = root.transaction();
    add_staged(root, &mut transaction, path, bytes, publish).map_err(failed)?;
    transaction.commit()
}

/// The same in a transaction that has other changes too.
pub(crate) fn add_staged(
    root: &Root,
    transaction: &mut Transaction<'_>,
    path: &str,
    bytes: &[u8],
    publish: Publish,
) -> crash_recovery::Result<()> {
    let mut staged = match root.stage(&at(&format!("{path}.nxpart"))) {
        Err(Error::OwnPath { .. }) => return transaction.write_from(&at(path), bytes, publish),
        outcome => outcome?,
    };
    staged.write_at(0, bytes)?;
    Ok(transaction.publish(staged, &at(path), publish)?)
}

/// Every file below `dir` that is not the root's own, with its content, sorted.
pub(crate) fn files(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if name == "own" || name == ".steadfast-txn" || name == ".steadfast-journaled" {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                found.push((name, String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()));
            }
        }
    }
    found.sort();
    found
}

/// The same, to compare with.
pub(crate) fn these(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}
