//! [`DiskLie`]: what devices do against their own contract. Outside of our promise; an engine must not be silent about it.

use std::fmt;

use media::BlockIndex;

use crate::blocks::BlockOp;
use crate::trace::{Event, Trace};

/// A device that does not keep the contract of the seam, at one request of a trace.
///
/// No engine keeps its promises on such a device. What is asked of it is that it *says so*: that it reports damage it can see
/// instead of giving out something old or foreign as if it were good. The workload believes all that it was told; only what
/// the medium holds is another. Bit rot needs no request: see
/// [`DiskImage::with_flipped_bit`](crate::DiskImage::with_flipped_bit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskLie {
    /// The flush at this record says Ok and covers nothing; a durable write there is but a write. (For a flush the same as
    /// [`Mutation::Removed`](crate::Mutation::Removed), and `~record` in ids.)
    NotDurable {
        /// Which record.
        record: usize,
    },
    /// The write at this record is acknowledged and never lands, whatever is flushed. (The same as
    /// [`Mutation::Removed`](crate::Mutation::Removed) on a write, and `~record` in ids.)
    Lost {
        /// Which record.
        record: usize,
    },
    /// The write at this record lands elsewhere. Its own blocks stay as they were. What would be past the end is lost.
    Misdirected {
        /// Which record.
        record: usize,
        /// Its first block now.
        to: BlockIndex,
    },
}

impl DiskLie {
    /// The trace of what such a device did. All records keep their places. [`None`] if there is no request at that record
    /// that can be lied about so.
    #[must_use]
    pub fn tell(self, trace: &Trace<BlockOp>) -> Option<Trace<BlockOp>> {
        let (Self::NotDurable { record } | Self::Lost { record } | Self::Misdirected { record, .. }) = self;
        let told = trace.records().get(record)?.op()?;
        let done = match (self, told) {
            (Self::NotDurable { .. }, BlockOp::Flush { .. }) | (Self::Lost { .. }, BlockOp::Write { .. }) => {
                return Some(trace.without(record));
            }
            (Self::NotDurable { .. }, BlockOp::Write { at, bytes, durable: true }) => {
                BlockOp::Write { at: *at, bytes: bytes.clone(), durable: false }
            }
            (Self::Misdirected { to, .. }, BlockOp::Write { at, bytes, durable }) if to != *at => {
                BlockOp::Write { at: to, bytes: bytes.clone(), durable: *durable }
            }
            (Self::NotDurable { .. } | Self::Misdirected { .. }, BlockOp::Write { .. })
            | (Self::Lost { .. } | Self::Misdirected { .. }, BlockOp::Flush { .. }) => return None,
        };
        let mut lied = Trace::default();
        for (index, honest) in trace.records().iter().enumerate() {
            let mut honest = honest.clone();
            if index == record {
                honest.event = Event::Op(done.clone());
            }
            lied.push_timed(honest);
        }
        Some(lied)
    }
}

impl fmt::Display for DiskLie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDurable { record } => write!(f, "record {record} was not made durable"),
            Self::Lost { record } => write!(f, "the write at record {record} was lost"),
            Self::Misdirected { record, to } => {
                write!(f, "the write at record {record} went to block {to}")
            }
        }
    }
}
