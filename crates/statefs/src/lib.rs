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
//! | [`Store::scrub`], compaction | nothing changes | nothing changes |
//! | [`Store::snapshot`], [`Store::drop_snapshot`] | it is there whole, or not | it is there, or gone |
//! | [`restore`], [`salvage()`] | what was there before, or no store, or the new one whole | the new one |
//!
//! - what a reader is shown of a durable write, a power cut cannot take back: it is shown after the flush.
//! - a [`Revision`] is never handed out twice.
//! - what does not fit is refused before anything is written; a delete always fits, and a batch of deletes that does not says
//!   how long it may be.
//! - damage is reported and opens read-only; each key then says whether it is certain.
//! - below a sealed prefix nothing plain is ever written, and what does not authenticate is never returned.
//! - a quota is exact, after a crash as well, and holds before anything is written.
//!
//! The formats are described where they are decoded: `record.rs`, `limits.rs`, and [`journal`].

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod arena;
mod backup;
mod batch;
mod changes;
mod commit;
mod compact;
mod contents;
mod error;
mod form;
mod fsck;
mod heads;
mod histogram;
mod history;
mod index;
mod key;
mod leaf;
mod limits;
mod list;
mod nonces;
#[cfg(feature = "std")]
mod parts;
mod quota;
mod record;
mod row;
mod salvage;
mod scrub;
mod sealed;
mod settings;
#[cfg(feature = "std")]
mod shared;
mod snapshot;
mod space;
mod store;
mod table;
mod upkeep;
mod view;
mod write;

pub use backup::{
    Backup, BackupError, BackupFrom, BackupInfo, BadBackup, Extent, PIECE_LEN_MAX, Progress, RestoreOptions,
    Source, check_backup, restore,
};
#[cfg(feature = "std")]
pub use backup::{reading_from, writing_to};
pub use batch::{Batch, Precondition};
pub use changes::{CHANGES_LEN_MAX, CHANGES_MAX, Change, ChangeKind, Changes};
pub use compact::Compaction;
pub use error::{Error, ErrorKind};
pub use fsck::{Blocks, Check, Health, Lost, fsck};
pub use histogram::Histogram;
pub use journal::{Access, Evidence, Format, Reading, StoreId, Verdict};
pub use key::{Key, KeyError, Prefix};
pub use limits::{BATCH_OPS_MAX, KEY_LEN_MAX, Limits, VALUE_LEN_MAX};
pub use list::{Listed, Page};
pub use nonces::{NoRandom, Nonces};
pub use quota::{QUOTA_WINDOW, QUOTAS_MAX, Quota, QuotaUse, Warning};
pub use record::{BadRecord, Form, Revision};
pub use salvage::{Salvaged, Suspects, salvage};
pub use scrub::{Scrub, Verified};
pub use sealed::{Rotation, SEALED_OVERHEAD, SEALED_PREFIXES_MAX, SealKey};
#[cfg(feature = "std")]
pub use shared::{
    Driver, OwnedValue, Request, SharedStats, SharedStore, Subscription, Ticker, WAITING_LEN_MAX, WAITING_MAX,
};
pub use snapshot::{NameError, SNAPSHOTS_MAX, Snapshot, SnapshotName, SnapshotView};
pub use store::{Certainty, Options, Recovery, Stats, Store, Value};
pub use view::{VIEWS_MAX, View};
pub use zeroize::Zeroizing;
