//! The proofs that `docs/storage/writepath_v1_0.md` rests on, as tests of this crate: `cargo test -p storage_writepath_v1_0_host`.
//!
//! | proof | test |
//! |---|---|
//! | A replaced by B: A or B after recovery, whatever the crash | `tests/proofs/replace.rs` |
//! | over the temp ratio: denied | `tests/proofs/quota.rs` |
//! | over the bytes of an app: denied | `tests/proofs/quota.rs` |
//! | after commit and dirsync, the listing has the entry | `tests/proofs/listing.rs` |
