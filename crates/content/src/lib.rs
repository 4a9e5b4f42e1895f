//! Content under quotas.

#![cfg_attr(not(test), expect(dead_code, reason = "the store that uses all of it comes next"))]

mod config;
mod quota;
mod tree;
mod uri;

pub use config::{
    CONFIG_LEN_MAX, Config, ConfigError, CrashPoint, CrashPoints, CrashSim, LIMIT_MAX,
    ORPHAN_AGE_MINUTES_MAX, OutOfRange, Quota, RecoveryOptions, Whole,
};
pub use quota::{APPS_MAX, Counted, QuotaError, Usage};
pub use tree::{FOREIGN_NAMED_MAX, Foreign, Listed};
pub use uri::{APP_LEN_MAX, COMPONENT_LEN_MAX, DEPTH_MAX, SCHEME, TEMP_SUFFIX, URI_LEN_MAX, Uri, UriError};
