//! A journaled key/value store on a block device whose promises survive power loss.
//!
//! The index is above, the journal below: [`journal`] keeps frames in order and tells a torn tail from damage; this crate
//! says what is in a frame, which key has which value, and what is copied when a region is full. `no_std` without feature
//! `std`.
//!
//! What is promised:
//!
//! | operation | a power cut during it | a power cut after it returned `Ok` |
//! |---|---|---|
//! | [`Store::put`], [`Store::delete`], [`Store::batch`], [`Store::compare_and_swap`] | old or new, a batch as a whole | new |
//! | [`Store::put_buffered`] | old or new | old or new, until [`Store::sync`] has returned `Ok` |
//! | compaction | nothing changes | nothing changes |
//!
//! - what a reader is shown of a durable write, a power cut cannot take back: it is shown after the flush.
//! - a [`Revision`] is never handed out twice.
//! - what does not fit is refused before anything is written; deletes always fit.
//! - damage is reported and opens read-only; each key then says whether it is certain.
//!
//! The formats are described where they are decoded: `record.rs`, `limits.rs`, and [`journal`].

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod arena;
mod batch;
mod compact;
mod error;
mod fsck;
mod index;
mod key;
mod leaf;
mod limits;
mod list;
mod record;
mod salvage;
mod space;
mod store;
mod write;

pub use batch::{Batch, Precondition};
pub use compact::Compaction;
pub use error::{Error, ErrorKind};
pub use fsck::{Blocks, Check, Health, Lost, fsck};
pub use journal::{Access, Evidence, StoreId, Verdict};
pub use key::{Key, KeyError, Prefix};
pub use limits::{BATCH_OPS_MAX, KEY_LEN_MAX, Limits, VALUE_LEN_MAX};
pub use list::{Listed, Page};
pub use record::{BadRecord, Revision};
pub use salvage::{Salvaged, Suspects, salvage};
pub use store::{Certainty, Options, Recovery, Stats, Store, Value};
