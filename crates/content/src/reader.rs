//! [`ObjectReader`].

use std::io::{self, Read};
use std::sync::Arc;

use media::{File, Reason};

use crate::error::{Error, Result};
use crate::uri::Uri;

/// An open object. It is what it was when it was opened: a replace or an unlink of its name does not change it. Reads from the
/// front as [`Read`] does, or anywhere.
#[derive(Debug)]
pub struct ObjectReader {
    uri: Uri,
    file: Arc<dyn File>,
    len: u64,
    at: u64,
}

impl ObjectReader {
    pub(crate) fn new(uri: Uri, file: Arc<dyn File>, len: u64) -> Self {
        Self { uri, file, len, at: 0 }
    }

    /// The name it was opened by.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads at `offset`, and answers how many bytes that were: perhaps fewer than there is room for, 0 only at the end.
    ///
    /// # Errors
    /// Of the medium.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        self.read_some(offset, into).map_err(|e| Error::os("reading", &self.uri, e))
    }

    fn read_some(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(offset, into) {
                Err(e) if Reason::of(&e) == Reason::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.read_some(self.at, into)?;
        self.at = self.at.saturating_add(u64::try_from(count).map_err(io::Error::other)?);
        Ok(count)
    }
}
