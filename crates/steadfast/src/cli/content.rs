//! The arguments of `steadfast content`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{parse_bytes, parse_duration};

#[derive(Debug, Subcommand)]
pub(crate) enum ContentCommand {
    /// Make an empty store in a directory that is empty, or missing.
    ///
    /// Each app gets the same quota. The configuration is kept in ROOT/content/config.json, where it can be changed while nobody has
    /// the store open; `steadfast write` does that durably. Its fields are those of the schema content_v1_3.
    ///
    /// Example: steadfast content init store --quota-bytes 64M --quota-files 10000 --temp-ratio 50
    Init(ContentInit),
    /// Give a name an object: what comes on stdin, or a file.
    ///
    /// A power cut during it leaves the old object or the new one; after it, the new one. Until then the new one is charged on
    /// top of the old one. Of a file the length is known, so that one that does not fit into the quota is refused before any
    /// of it is written; a stream is stopped where it exceeds the quota, and nothing is left of it.
    ///
    /// Example: steadfast content put store state:/photos/2024/one.jpg --from one.jpg
    Put(ContentPut),
    /// Print an object, byte for byte. Exit code 1: there is none.
    ///
    /// Example: steadfast content get store 2024/one.jpg --app photos > one.jpg
    Get {
        #[command(flatten)]
        place: Place,
        /// The object.
        uri: String,
    },
    /// List objects in the order of their names: all, those of an app, or those below a directory.
    Ls(ContentLs),
    /// Take objects away, durably: each for itself.
    Rm(ContentRm),
    /// Say what a name stands for, and how long an object is. Exit code 1: nothing has the name.
    Stat {
        #[command(flatten)]
        place: Place,
        /// The object or directory.
        uri: String,
    },
    /// Say how much apps use, and how much they may: one app, or all that have something.
    Usage {
        #[command(flatten)]
        place: Place,
    },
    /// Only open the store and close it, which finishes and removes what a crash has left; say what that was.
    ///
    /// The first command after a crash does it as well. This one passes by the failpoints of the configuration.
    Recover {
        #[command(flatten)]
        at: At,
    },
}

/// Where a store is.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The directory of the store.
    pub(crate) root: PathBuf,
    /// How long to wait for another who has the store open (`0`, `500ms`, `5s`, `2m`).
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// Where a store is, and in which app of it.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    pub(crate) at: At,
    /// The app. Names without `state:/` are names in it.
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ContentInit {
    /// The directory. Everything in it will be the store's.
    pub(crate) root: PathBuf,
    /// Take the configuration from this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The most bytes of each app, staged ones included (`64M`). Default: 1 GiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) quota_bytes: Option<u64>,
    /// The most objects of each app. Default: 65536.
    #[arg(long, value_name = "COUNT")]
    pub(crate) quota_files: Option<u64>,
    /// The most staged bytes of each app, in percent of the most bytes. Default: 50.
    #[arg(long, value_name = "PERCENT")]
    pub(crate) temp_ratio: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ContentPut {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The object.
    pub(crate) uri: String,
    /// Read from this file instead of stdin (`-`).
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) from: PathBuf,
    /// Fail if there is one.
    #[arg(long)]
    pub(crate) create_new: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ContentLs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The directory, or an object.
    pub(crate) uri: Option<String>,
    /// Say how long each is.
    #[arg(long, short)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ContentRm {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The objects.
    #[arg(required = true)]
    pub(crate) uris: Vec<String>,
    /// Missing ones are fine.
    #[arg(long, short)]
    pub(crate) force: bool,
}
