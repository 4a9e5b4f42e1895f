//! Content of apps, under quotas, in one directory that is the store's alone.
//!
//! A [`ContentStore`] keeps **objects**, named by [`Uri`]s (`state:/<app>/<path>`). An object is staged, written at any offset
//! and committed; or put whole. It is **atomic**: a reader sees the old object or the new one, and so does recovery. It is
//! **durable**: when a call that makes or removes an object returns, that survives power loss. Callers never see a path.
//!
//! Every app has a quota of bytes and of files and a budget for what is staged, and whatever would exceed one is refused
//! before anything is written. Usage is exact again after any crash, because it is counted at open.
//!
//! Changes go through the journal of [`crash_recovery`]; the promises, and what the root is like between a power cut and the
//! next open, are its. See [`ContentStore`] for an example.

mod config;
mod error;
mod quota;
mod reader;
mod store;
mod tree;
mod uri;

pub use config::{
    CONFIG_LEN_MAX, Config, ConfigError, CrashPoint, CrashPoints, CrashSim, LIMIT_MAX,
    ORPHAN_AGE_MINUTES_MAX, OutOfRange, Quota, RecoveryOptions, Whole,
};
pub use crash_recovery::{Recovery, STAGED_OPEN_MAX, Stats, WindowLimits};
pub use error::{Error, Result};
pub use quota::{APPS_MAX, Counted, Usage};
pub use reader::ObjectReader;
pub use store::{ContentStore, CreateOpts, LIST_LIMIT_MAX, OpenReport, Page, Replace, Stat, Tuning};
pub use tree::{FOREIGN_NAMED_MAX, Foreign, Listed};
pub use uri::{APP_LEN_MAX, COMPONENT_LEN_MAX, DEPTH_MAX, SCHEME, TEMP_SUFFIX, URI_LEN_MAX, Uri, UriError};
