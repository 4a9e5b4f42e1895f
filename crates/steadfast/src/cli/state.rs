//! The arguments of `steadfast state`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_bytes;

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Make an empty store in a new file. A file that exists is never touched.
    ///
    /// A raw block device (`/dev/sdx`) can hold a store as well, where no file system is between it and the writes; every
    /// command takes its path as IMAGE. `init` overwrites it only with --overwrite-device.
    Init(StateInit),
    /// Give a key a value, durably.
    ///
    /// A power cut during it leaves the old value or the new one; after it, the new one.
    Put(StatePut),
    /// Print the value of a key, byte for byte. Exit code 1: it has none.
    Get {
        /// The image.
        image: PathBuf,
        /// The key: absolute, under `/state/`.
        key: String,
    },
    /// Take the values of keys away, durably: all of these keys or, if one has no value, none.
    Rm(StateRm),
    /// List the keys that have a value, in the order of their bytes.
    Ls(StateLs),
    /// Give a key a value if it is as expected. Exit code 1: it is not, and nothing was written.
    ///
    /// What was written with a revision has that revision until it is written again; no revision is ever used twice.
    /// `put`, `ls --long` and `get --json` say it.
    Cas(StateCas),
    /// Check a store: read every block and every record, write nothing.
    ///
    /// Exit code 1: a torn tail, which is what a power cut leaves; nothing that was acknowledged is lost, and the next
    /// write puts it right. Exit code 3: damage; something that had been durable is gone, and the store can only be read.
    Fsck {
        /// The image.
        image: PathBuf,
    },
    /// Print every key with its value, one JSON object a line.
    ///
    /// The value is in `text` if it is UTF-8, and in `hex` if not. `certainty` is `certain` or, in a damaged store,
    /// `suspect`: something was lost that may have changed it.
    Dump {
        /// The image.
        image: PathBuf,
    },
    /// Save what can be read in a store into a new one. The first is only read.
    Salvage(StateSalvage),
    /// Say what a store holds, and how much more it can.
    Stats {
        /// The image.
        image: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StateInit {
    /// The image: a file that does not exist yet. Only its owner may read and write it.
    pub(crate) image: PathBuf,
    /// Bytes of the image (`16MiB`): a whole number of blocks. About two fifths of it can be filled.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, required_unless_present = "overwrite_device")]
    pub(crate) size: Option<u64>,
    /// The image is a block device, all of it, and whatever it holds is lost.
    #[arg(long, conflicts_with = "size")]
    pub(crate) overwrite_device: bool,
    /// Bytes of a block: a power of two from 512 to 65536. Each commit takes at least one.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub(crate) block_size: u32,
}

#[derive(Debug, Args)]
pub(crate) struct StatePut {
    /// The image.
    pub(crate) image: PathBuf,
    /// The key: absolute, under `/state/`.
    pub(crate) key: String,
    /// The value. Without it, what comes on stdin, byte for byte.
    pub(crate) value: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct StateRm {
    /// The image.
    pub(crate) image: PathBuf,
    /// The keys.
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Keys without a value are fine.
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StateLs {
    /// The image.
    pub(crate) image: PathBuf,
    /// Only this key and those below it: `/state/a` covers `/state/a/b`, and not `/state/ab`.
    #[arg(default_value = "/state")]
    pub(crate) prefix: String,
    /// With revision and length of each value.
    #[arg(long, short)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StateCas {
    /// The image.
    pub(crate) image: PathBuf,
    /// The key: absolute, under `/state/`.
    pub(crate) key: String,
    /// The value.
    pub(crate) value: OsString,
    #[command(flatten)]
    pub(crate) expected: Expected,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Expected {
    /// It has the value that was written with this revision.
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// It has no value.
    #[arg(long)]
    pub(crate) absent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StateSalvage {
    /// The image to read.
    pub(crate) image: PathBuf,
    /// The image to make: a file that does not exist yet.
    pub(crate) new: PathBuf,
    /// Take suspect values as well: those that may be older than they should be, and perhaps had been removed.
    #[arg(long)]
    pub(crate) suspects: bool,
    /// Bytes of the new image. Default: as many as the old one has.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) size: Option<u64>,
}
