//! The arguments of `steadfast state`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{parse_bytes, parse_duration};

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
    /// Print the value of a key, byte for byte. Exit code 1: it has none. Exit code 7: it is sealed, and the key is missing.
    Get(StateGet),
    /// Take the values of keys away, durably: all of these keys or, if one has no value, none.
    Rm(StateRm),
    /// List the keys that have a value, in the order of their bytes.
    Ls(StateLs),
    /// Give a key a value if it is as expected. Exit code 1: it is not, and nothing was written.
    ///
    /// What was written with a revision has that revision until it is written again; no revision is ever used twice.
    /// `put`, `ls --long` and `get --json` say it.
    Cas(StateCas),
    /// Carry out many changes, durably: all of them, or none.
    ///
    /// One JSON object a line:
    ///
    ///   {"op":"put","key":"/state/a","text":"on"}        or "hex":"6f6e", for bytes that are no text
    ///
    ///   {"op":"delete","key":"/state/b"}                 fine if it has no value
    ///
    ///   {"op":"require","key":"/state/c","absent":true}  or "revision":N: else nothing is written, exit code 1
    ///
    /// Requirements look at the store as it is before the batch, wherever they stand. Each key is changed once. Empty
    /// lines are passed over; fields that are not known are refused. Lines without `op` as `dump` prints them are puts,
    /// so `steadfast state dump A | steadfast state batch B` copies a small store. All of it has to fit into one frame of
    /// the journal: at most 256 blocks (1 MiB, with blocks of 4096 bytes), and 4096 changes.
    ///
    /// Example: steadfast state batch app.img < update.jsonl
    Batch(StateBatch),
    /// Print what changes in a store that others write, line by line. Ends with Ctrl-C.
    ///
    /// A line is `put REVISION KEY` or `delete REVISION KEY`. The image is only read, and no lock is taken. Each --interval
    /// the superblocks and the block behind the end of the journal are read; only if one of them has changed, everything is
    /// read, and compared with what was there. So of several changes of a key in between only the newest is told, and a key
    /// that came and went in between not at all. A delete is seen as a key that is missing; its revision is that of the
    /// newest write there was when it was missed. What a writer has written and not yet flushed may be told; a power cut can still
    /// take that back.
    ///
    /// Example: steadfast state watch app.img /state/boot --json
    Watch(StateWatch),
    /// Make whatever is in a store durable and its end known: open it for writing, and close it.
    ///
    /// Puts right what a crash has left (a torn tail, a superblock, a compaction), and leaves a seal, so that from then on
    /// even the loss of the last commit would be noticed. Changes no key.
    ///
    /// Example, after a crash: steadfast state sync app.img && steadfast state fsck app.img
    Sync {
        /// The image.
        image: PathBuf,
    },
    /// Keep the store as it is now under a name, and read it later.
    ///
    /// Nothing is copied: what is overwritten or removed from now on is kept as long as a snapshot has it, and takes room.
    ///
    /// Example: steadfast state snapshot create app.img before-update, and later
    /// steadfast state snapshot get app.img before-update /state/boot/slot
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Write all of a store into one file that `restore` makes a store of again.
    ///
    /// The store is only read and may be written meanwhile: the backup is of the moment at which the command began. It has
    /// the snapshots as well, and quotas; sealed values stay sealed, and no key is needed. The file appears under its name when it
    /// is whole and durable, never a part of it, and only its owner may read it. With `-` it goes to stdout, and who takes
    /// it makes it durable.
    ///
    /// Example: steadfast state backup app.img app.bak && steadfast state backup --check app.bak
    Backup(StateBackup),
    /// Make a new image of a backup.
    ///
    /// A file is checked as a whole before anything is made. The store has an id of its own; keys keep their revisions, and
    /// new ones begin behind all that the old store may have given out. Cut short, there is no store in the new image:
    /// remove it and begin again.
    ///
    /// Example: ssh host steadfast state backup app.img - | steadfast state restore - copy.img --size 16MiB
    Restore(StateRestore),
    /// Limit what may lie below a prefix.
    ///
    /// Example: steadfast state quota set app.img /state/cache --soft 64K --hard 96K
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Seal prefixes: what is put below one is encrypted, and only who has the key can read it or change it unnoticed.
    ///
    /// A key is 32 random bytes in a file that only its owner may read, or 64 hexadecimal digits for them: `put`, `get`, `cas` and
    /// `batch` take it with --key-file. It is never kept in the image: without it the values are lost.
    ///
    /// Example: (umask 077; head -c 32 /dev/urandom > app.key) && steadfast state seal add app.img /state/keys --key-file app.key
    #[command(subcommand)]
    Seal(SealCommand),
    /// Overwrite what was deleted or replaced: it stays on the medium until its place is written again.
    ///
    /// When it has ended, what was gone before it began is nowhere in the two regions of the store. Not wiped: what a snapshot
    /// keeps, and what the device keeps of overwritten blocks (flash does; so does a file system that copies on write, under an
    /// image file). It writes twice the size of a region and once what is alive; cut short, nothing is lost, and it begins anew.
    ///
    /// Example: steadfast state rm app.img /state/token && steadfast state scrub app.img
    Scrub {
        /// The image.
        image: PathBuf,
    },
    /// Check a store: read every block and every record, write nothing.
    ///
    /// Exit code 1: a torn tail, which is what a power cut leaves; nothing that was acknowledged is lost, and the next
    /// write puts it right. Exit code 3: damage; something that had been durable is gone, and the store can only be read.
    Fsck {
        /// The image.
        image: PathBuf,
        /// Read everything a second time, and compare each record with the first: finds a device that does not always
        /// give the same back. Needs memory for the store twice.
        #[arg(long)]
        verify: bool,
    },
    /// Print every key with its value, one JSON object a line. `batch` takes such lines.
    ///
    /// The value is in `text` if it is UTF-8, and in `hex` if not. `certainty` is `certain` or, in a damaged store,
    /// `suspect`: something was lost that may have changed it. `form` is `plain` or `sealed`: then the value is what is stored,
    /// encrypted.
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

/// The key of a sealed prefix.
#[derive(Debug, Args)]
pub(crate) struct SealedWith {
    /// The key of the sealed prefix below which the key lies: 32 bytes, or 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Which key that is. Default: the one that the prefix is sealed with now.
    #[arg(long, value_name = "N", requires = "key_file")]
    pub(crate) key_id: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct StateGet {
    /// The image.
    pub(crate) image: PathBuf,
    /// The key: absolute, under `/state/`.
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) sealed: SealedWith,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SealCommand {
    /// Seal a prefix below which there is no key yet.
    ///
    /// Values that are there already would stay on the medium as they are: so remove them first, and scrub.
    Add {
        /// The image.
        image: PathBuf,
        /// The prefix.
        prefix: String,
        /// The key: 32 bytes, or 64 hexadecimal digits.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
        /// A number for the key, by which another is told from it later.
        #[arg(long, value_name = "N", default_value_t = 1)]
        key_id: u32,
    },
    /// Make a sealed prefix below which there is no key an ordinary one again.
    Rm {
        /// The image.
        image: PathBuf,
        /// The prefix.
        prefix: String,
    },
    /// List the sealed prefixes, and which key each needs; and those whose record is lost.
    Ls {
        /// The image.
        image: PathBuf,
    },
    /// Replace the key of a prefix: every value is sealed anew, and gets a new revision.
    ///
    /// Cut short, both keys are needed; the same command goes on, with --key-id of the old one. The old sealed values stay on the
    /// medium until they are scrubbed.
    ///
    /// Example: steadfast state seal rotate app.img /state/keys --key-file app.key --new-key-file new.key --new-key-id 2
    Rotate(SealRotate),
    /// Put back the record of a sealed prefix that damage took, with the key.
    ///
    /// Until then the values below the prefix can be read with `get --key-file`, and none can be put there. `seal ls` lists the
    /// widest prefixes that it may have been. Every value is decrypted once as a proof that the key is the right one. If the
    /// prefix was being rotated, give the old key as well, and go on with `seal rotate`.
    ///
    /// Example: steadfast state seal restore saved.img /state/keys --key-file app.key
    Restore(SealRestore),
}

#[derive(Debug, Args)]
pub(crate) struct SealRestore {
    /// The image.
    pub(crate) image: PathBuf,
    /// The prefix.
    pub(crate) prefix: String,
    /// The key: 32 bytes, or 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    /// The number of the key, as it was when the values were put.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) key_id: u32,
    /// The old key, if the prefix was being rotated.
    #[arg(long, value_name = "FILE", requires = "old_key_id")]
    pub(crate) old_key_file: Option<PathBuf>,
    /// The number of the old key.
    #[arg(long, value_name = "N", requires = "old_key_file")]
    pub(crate) old_key_id: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct SealRotate {
    /// The image.
    pub(crate) image: PathBuf,
    /// The prefix.
    pub(crate) prefix: String,
    /// The old key.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    /// Which key that is. Default: the one that the prefix is sealed with now.
    #[arg(long, value_name = "N")]
    pub(crate) key_id: Option<u32>,
    /// The new key.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: PathBuf,
    /// A number for the new key, not that of the old one.
    #[arg(long, value_name = "N")]
    pub(crate) new_key_id: u32,
}

#[derive(Debug, Args)]
pub(crate) struct StatePut {
    /// The image.
    pub(crate) image: PathBuf,
    /// The key: absolute, under `/state/`.
    pub(crate) key: String,
    /// The value. Without it, what comes on stdin, byte for byte.
    pub(crate) value: Option<OsString>,
    #[command(flatten)]
    pub(crate) sealed: SealedWith,
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
    pub(crate) sealed: SealedWith,
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

#[derive(Debug, Args)]
pub(crate) struct StateBatch {
    /// The image.
    pub(crate) image: PathBuf,
    /// Read from this file instead of stdin (`-`).
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) from: PathBuf,
    #[command(flatten)]
    pub(crate) sealed: SealedWith,
}

#[derive(Debug, Args)]
pub(crate) struct StateWatch {
    /// The image.
    pub(crate) image: PathBuf,
    /// Only this key and those below it.
    #[arg(default_value = "/state")]
    pub(crate) prefix: String,
    /// First tell the keys that were written after this revision and have a value. Deletes from before are not known.
    #[arg(long, value_name = "REVISION")]
    pub(crate) since: Option<u64>,
    /// How long to wait between looks, 1ms at least.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    pub(crate) interval: Duration,
    /// End when there was something to tell.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take a snapshot. Exit code 1: there is one of that name.
    ///
    /// Example: steadfast state snapshot create app.img before-update
    Create {
        /// The image.
        image: PathBuf,
        /// A name: at most 64 bytes, no slash, no control character.
        name: String,
    },
    /// List the snapshots, with the revision at which each was taken: it has what was written before that.
    List {
        /// The image.
        image: PathBuf,
    },
    /// Drop a snapshot, and what only it has. Exit code 1: there is none of that name.
    Drop {
        /// The image.
        image: PathBuf,
        /// The name.
        name: String,
    },
    /// Print the value that a key had. Exit code 1: it had none, or there is no such snapshot.
    Get {
        /// The image.
        image: PathBuf,
        /// The name of the snapshot.
        name: String,
        /// The key: absolute, under `/state/`.
        key: String,
    },
    /// List the keys that had a value.
    Ls {
        /// The image.
        image: PathBuf,
        /// The name of the snapshot.
        name: String,
        /// Only this key and those below it.
        #[arg(default_value = "/state")]
        prefix: String,
        /// With revision and length of each value.
        #[arg(long, short)]
        long: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StateBackup {
    /// The image.
    #[arg(required_unless_present = "check")]
    pub(crate) image: Option<PathBuf>,
    /// The backup to make: a file that does not exist yet, or `-` for stdout.
    #[arg(required_unless_present = "check")]
    pub(crate) file: Option<PathBuf>,
    /// Of the store as it was when this snapshot was taken, and without snapshots.
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// A backup that has the name already is replaced, when the new one is whole and durable.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Make none: read this backup (`-`: stdin) to its end, and say what it is of. Exit code 3: it is not as it was written.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "file", "snapshot", "replace"])]
    pub(crate) check: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StateRestore {
    /// The backup, or `-` for stdin.
    pub(crate) file: PathBuf,
    /// The image to make: a file that does not exist yet. Only its owner may read and write it.
    pub(crate) image: PathBuf,
    /// Bytes of the image. Default, for a backup in a file: twice what it needs, and 1 MiB at least.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) size: Option<u64>,
    /// Bytes of a block. Default: as in the store that the backup is of; from stdin, 4096.
    #[arg(long, value_name = "BYTES")]
    pub(crate) block_size: Option<u32>,
    /// The image is a block device, all of it, and whatever it holds is lost.
    #[arg(long, conflicts_with = "size")]
    pub(crate) overwrite_device: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Set the quota of a prefix, in place of one that it has. Quotas of prefixes in each other all apply.
    ///
    /// What would leave more than a hard limit is refused with exit code 4, before anything is written; removing and
    /// shrinking always work. A limit may be below what is there.
    ///
    /// Example: steadfast state quota set app.img /state/cache --soft 64K --hard 96K
    Set(QuotaSet),
    /// Take the quota of a prefix away. Exit code 1: it has none.
    Rm {
        /// The image.
        image: PathBuf,
        /// The prefix.
        prefix: String,
    },
    /// List the quotas, and what is used of each.
    Ls {
        /// The image.
        image: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct QuotaSet {
    /// The image.
    pub(crate) image: PathBuf,
    /// The prefix: `/state`, or a key.
    pub(crate) prefix: String,
    #[command(flatten)]
    pub(crate) limits: QuotaLimits,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct QuotaLimits {
    /// Above so many bytes of keys and values, writes are warned of.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) soft: Option<u64>,
    /// More bytes of keys and values there may not be.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) hard: Option<u64>,
    /// More keys there may not be.
    #[arg(long, value_name = "COUNT")]
    pub(crate) keys: Option<u64>,
}
