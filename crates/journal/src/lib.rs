//! A checksummed, ordered, bounded commit log on a block device, with honest replay.
//!
//! The journal knows nothing of keys: it keeps opaque **frames** in order, tells a torn tail from damage, and switches
//! between two regions when an engine has copied what is still alive. `no_std` without feature `std`.
//!
//! ```text
//! block 0, 1                 superblock slots 0 and 1
//! a sector of 4 KiB          marks of both regions, first copies     (on devices of 2,048 blocks and more)
//! block 2, or then           region A: header, copied frames, closing, then frames as they are committed
//! the same number again      region B
//! a sector of 4 KiB          marks of both regions, second copies    (on devices of 2,048 blocks and more)
//! the last two               superblock slots 2 and 3
//! ```
//!
//! What is promised, and by what:
//!
//! - [`Durable`] exists only where a barrier has succeeded that covers the frame it names.
//! - a frame is found whole after any crash, or not at all.
//! - nothing at or below the highest surviving **watermark** is lost or changed without [`Verdict`] saying so.
//! - no sector that holds a durable, live byte is ever rewritten.
//! - the region in force is untouched until a new root is durable.
//!
//! The formats are described where they are decoded: [`frame`], [`superblock`] and `marks.rs`.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod checksum;
mod edges;
mod error;
mod forming;
pub mod frame;
mod layout;
mod marks;
mod open;
mod outgoing;
pub mod probe;
pub mod replay;
mod script;
pub mod superblock;
mod survey;
mod switch;
mod wipe;
mod writer;

pub use checksum::append as crc32c;
pub use error::{JournalError, JournalErrorKind};
pub use forming::Forming;
pub use frame::{Format, Kind, Owner, StoreId};
pub use layout::{FRAME_BLOCKS_MAX, Layout, LayoutError, Limits};
pub use open::{Access, Frame, Opened, Reading, Report};
pub use outgoing::{OUTGOING_MAX, Outgoing};
pub use replay::{Evidence, Verdict};
pub use survey::BlockState;
pub use wipe::Again;
pub use writer::{Durable, Journal, Stats};
