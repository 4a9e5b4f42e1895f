//! [`Bulk::seal_all`]: everything durable under hidden names, for a caller who gives the names himself.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;

use media::{FileId, Metadata};

use super::report::{BulkReport, Record, Sealable, State};
use super::{Bulk, barrier_failed};
use crate::error::{Error, Invalid};

/// A file whose bytes and whose **hidden** name are durable, and which nobody removes but its owner: the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFile {
    /// The target, below the bulk's directory, as it was given.
    pub path: PathBuf,
    /// What the file is called now, in the directory of its target.
    pub hidden: OsString,
    /// Which file it is; `None` where the platform does not say.
    pub id: Option<FileId>,
    /// The length of the content, in bytes.
    pub len: u64,
    /// What had the target's name when this file was begun. (The link itself, where the target is a symbolic link that
    /// is to be replaced.)
    pub existing: Option<Metadata>,
}

impl SealedFile {
    /// Where the file is now, below the bulk's directory.
    #[must_use]
    pub fn hidden_path(&self) -> PathBuf {
        self.path.with_file_name(&self.hidden)
    }
}

impl Bulk<'_> {
    /// Makes every file durable **under its hidden name** and renames nothing. From then on the files are the caller's,
    /// to rename or to remove; the bulk is empty and does not touch them. It is for a journal, which writes down what it
    /// is about to rename, and must be able to do it after a power cut.
    ///
    /// All or nothing: after any failure, also one of [`Bulk::replace`] earlier, every hidden file of the bulk is
    /// removed and no target is changed, whatever [`BulkOptions::on_failure`](super::BulkOptions::on_failure) says.
    ///
    /// - Every barrier is required, whatever [`WriteOptions::barriers`](crate::WriteOptions::barriers) says: a record of
    ///   a name that may be gone would be no record.
    /// - A symbolic link is replaced or refused, not followed ([`Invalid::LinkNotSealed`]): where it leads, perhaps out
    ///   of this directory, may be elsewhere by the time of the rename.
    /// - [`Unchanged::Skip`](crate::Unchanged::Skip) is refused ([`Invalid::SkipNotSealed`]), also where it would not
    ///   have skipped: the file that is left alone now would be missing from what the caller is about to do to all.
    /// - [`WriteOptions::expect`](crate::WriteOptions::expect) is compared once more here; what happens up to the rename
    ///   is the caller's to see.
    ///
    /// # Durability
    /// On return content, attributes and hidden name of every file survive a power cut, and so do the directories that
    /// were created for them.
    ///
    /// # Errors
    /// The report: no file is published, each that failed has its error, the others are
    /// [`Cause::Cancelled`](crate::Cause::Cancelled). The removal of hidden files is not durable: after a power cut
    /// some may be back.
    pub fn seal_all(&mut self) -> Result<Vec<SealedFile>, Box<BulkReport>> {
        let sealable = self.ledger.records.iter().all(|record| record.sealable == Sealable::Yes);
        if sealable && !self.ledger.any_failed() {
            self.sync_window();
            self.sync_filesystems();
        }
        self.close_window();
        self.refuse_what_is_not_sealed();
        if !self.ledger.any_failed() {
            self.fail_unexpected();
        }
        if !self.ledger.any_failed() {
            self.sync_folders(&mut |_| ControlFlow::Continue(()));
            self.fail_without_barrier();
        }
        if self.ledger.any_failed() {
            self.abandon();
            // New directories stay: starting over drops the list of them, and that makes them durable.
            return Err(Box::new(BulkReport::new(self.start_over())));
        }
        let ledger = self.start_over();
        let sealed = |record: &Record| SealedFile {
            path: ledger.given(record).to_owned(),
            hidden: ledger.hidden(record),
            id: ledger.id(record),
            len: record.len,
            existing: record.existing(),
        };
        Ok(ledger.records.iter().map(sealed).collect())
    }

    fn refuse_what_is_not_sealed(&mut self) {
        for index in 0..self.ledger.records.len() {
            let Some(record) = self.ledger.records.get(index) else { continue };
            let why = match (&record.state, record.sealable) {
                (State::Failed(_) | State::Reached(_), _) | (_, Sealable::Yes) => continue,
                (State::Hidden | State::Named, Sealable::FollowedLink) => Invalid::LinkNotSealed,
                (State::Hidden | State::Named, Sealable::MaySkip) => Invalid::SkipNotSealed,
            };
            let path = self.ledger.path(record, &self.root.path);
            self.fail_hidden(index, Error::invalid(path, why));
        }
    }

    /// Fails the files whose target is not what their caller expected.
    fn fail_unexpected(&mut self) {
        let expecting: Vec<usize> = self.expected.keys().copied().collect();
        for index in expecting {
            if let Err(error) = self.expected_place(index) {
                self.fail_hidden(index, error);
            }
        }
    }

    /// Fails the files whose hidden name hangs on a barrier that failed.
    fn fail_without_barrier(&mut self) {
        for index in 0..self.ledger.records.len() {
            let Some(record) = self.hidden_record(index) else { continue };
            if let Some(error) = self.folders.failed_barrier(record.folder) {
                let error = barrier_failed(error, self.ledger.path(record, &self.root.path));
                self.fail_hidden(index, error);
            }
        }
    }
}
