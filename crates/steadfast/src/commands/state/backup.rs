//! `steadfast state backup` and `restore`: a store as one stream of bytes, and back.

use std::cell::Cell;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use durable_io::{Durability, Mode, Publish, Staged, WriteOptions};
use indicatif::ProgressBar;
use media::{BlockDevice as _, FileDisk};
use serde_json::{Value, json};
use statefs::{
    BackupError, BackupInfo, ErrorKind, Extent, Options, Progress, RestoreOptions, SnapshotName, Store,
    StoreId, check_backup,
};

use super::{image, snapshot};
use crate::cli::{StateBackup, StateRestore};
use crate::commands::write::Source;
use crate::commands::{MissingDir, bytes_words, durability_code, durability_words, split, warn_leftovers};
use crate::failure::{Exit, Failure, Outcome, StateTrouble, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

/// The block size of an image that is restored from stdin, where nothing is known before the image is made.
const BLOCK_SIZE_FROM_STDIN: u32 = 4096;

/// An image is made no smaller, unless it is asked for, and a multiple of the largest block.
const SIZE_MIN: u64 = 1 << 20;
const SIZE_STEP: u64 = 1 << 16;

pub(super) fn backup(args: &StateBackup, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    match (&args.check, &args.image, &args.file) {
        (Some(file), ..) => check(file, output, interrupt),
        (None, Some(image), Some(file)) if file == Path::new("-") => {
            to_stdout(args, image, medium, output, interrupt)
        }
        (None, Some(image), Some(file)) => to_file(args, image, file, medium, output, interrupt),
        (None, ..) => Err(Failure::usage("which image, and into which file?")),
    }
}

fn is_stream(file: &Path) -> bool {
    file == Path::new("-")
}

fn name_of(args: &StateBackup, image: &Path) -> Outcome<Option<SnapshotName>> {
    args.snapshot.as_deref().map(|name| snapshot::name_of(image, name)).transpose()
}

fn to_file(
    args: &StateBackup,
    image: &Path,
    file: &Path,
    medium: &Medium,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome {
    let name = name_of(args, image)?;
    let (store, _) = image::reader(medium, image)?;
    let (dir, file_name) = split(medium, file, MissingDir::Fail)?;
    // All of the store is in it, so it is as private as an image.
    let options = WriteOptions { mode: Some(Mode::PRIVATE), ..WriteOptions::default() };
    let (mut staged, how) = match args.replace {
        true => (dir.stage_with(file_name, &options)?, Publish::Replace),
        false => {
            let staged = dir.stage_new(file_name, &options).map_err(or_replace)?;
            (staged, Publish::CreateNew)
        }
    };
    let bar = output.progress(Some(0), Unit::Bytes);
    bar.set_message("backing up");
    let stopped = Stopped::default();
    let write = |bytes: &[u8]| stopped.keep(into(&mut staged, bytes, interrupt));
    let info =
        write_all(&store, name.as_ref(), write, &bar).map_err(|error| stopped.failure(error, file, image))?;
    bar.set_message("making it durable");
    let bytes = staged.len();
    let sealed = staged.seal()?;
    // The last moment at which nothing has happened yet.
    interrupt.check()?;
    let published = sealed.publish(how).map_err(durable_io::Error::from).map_err(or_replace)?;
    bar.finish_and_clear();
    warn_leftovers(&published, output)?;
    let words = format!(
        "backed up {} into `{}`: {}, {}",
        what_words(&info),
        file.display(),
        bytes_words(bytes),
        durability_words(published.durability)
    );
    report(words, &info, file, bytes, Some(published.durability), output)
}

/// Where the name is taken, there is a way out.
fn or_replace(error: durable_io::Error) -> Failure {
    match error.kind() {
        durable_io::Kind::Exists => Failure::NotSo {
            message: error.to_string(),
            hint: Some("--replace puts the new backup in its place, when it is whole and durable".to_owned()),
        },
        _ => error.into(),
    }
}

fn into(staged: &mut Staged, bytes: &[u8], interrupt: &Interrupt) -> Outcome<()> {
    interrupt.check()?;
    Ok(staged.write_all(bytes)?)
}

fn to_stdout(
    args: &StateBackup,
    image: &Path,
    medium: &Medium,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome {
    if output.is_json() || args.replace {
        return Err(Failure::Usage {
            message: "with `-` the backup itself goes to stdout, and nothing else".to_owned(),
            hint: Some("leave --json and --replace out, or name a file".to_owned()),
        });
    }
    if io::stdout().is_terminal() {
        return Err(Failure::Usage {
            message: "a backup is no text, and stdout is a terminal".to_owned(),
            hint: Some("name a file, or lead stdout into one".to_owned()),
        });
    }
    let name = name_of(args, image)?;
    let (store, _) = image::reader(medium, image)?;
    let bar = output.progress(Some(0), Unit::Bytes);
    bar.set_message("backing up");
    let (stopped, mut count) = (Stopped::default(), 0);
    let write = |bytes: &[u8]| {
        count += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = interrupt.check().and_then(|()| {
            Output::stream(bytes).map_err(|error| Failure::stream("writing the backup to stdout", error))
        });
        stopped.keep(written)
    };
    let info = write_all(&store, name.as_ref(), write, &bar)
        .map_err(|error| stopped.failure(error, Path::new("-"), image))?;
    bar.finish_and_clear();
    output.done(
        format_args!(
            "backed up {} to stdout: {}, as durable as its reader makes it",
            what_words(&info),
            bytes_words(count)
        ),
        Value::Null,
    )?;
    Ok(Exit::Ok)
}

fn write_all(
    store: &Store<FileDisk>,
    name: Option<&SnapshotName>,
    write: impl FnMut(&[u8]) -> io::Result<()>,
    bar: &ProgressBar,
) -> Result<BackupInfo, BackupError<io::Error>> {
    let source = name.map_or(statefs::Source::Now, statefs::Source::Snapshot);
    store.backup(source, write, |so_far| show(bar, so_far))
}

fn show(bar: &ProgressBar, so_far: Progress) {
    bar.set_length(so_far.bytes_total);
    bar.set_position(so_far.bytes);
}

fn report(
    words: String,
    info: &BackupInfo,
    file: &Path,
    bytes: u64,
    durability: Option<Durability>,
    output: &Output,
) -> Outcome {
    let mut fields = info_json(info);
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("file".to_owned(), json!(shown(file)));
        fields.insert("file_bytes".to_owned(), json!(bytes));
        if let Some(durability) = durability {
            fields.insert("durability".to_owned(), json!(durability_code(durability)));
        }
    }
    output.done(words, fields)?;
    Ok(Exit::Ok)
}

fn check(file: &Path, output: &Output, interrupt: &Interrupt) -> Outcome {
    let (info, bytes) = checked(file, output, interrupt)?;
    let bytes_min = bytes_min(&info, info.block_size);
    if !output.is_json() {
        output.line(format_args!("a whole backup of {}", what_words(&info)))?;
        output.line(format_args!("from store   {}", info.store_id))?;
        output.line(format_args!("revision     {}", info.revision))?;
        output.line(format_args!("records      {} ({})", info.records, bytes_words(info.bytes)))?;
        if let Some(bytes) = bytes_min {
            output.line(format_args!(
                "to restore   an image of {bytes} bytes at least, with blocks of {} bytes",
                info.block_size
            ))?;
        }
        return Ok(Exit::Ok);
    }
    let mut fields = info_json(&info);
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("file".to_owned(), json!(shown(file)));
        fields.insert("file_bytes".to_owned(), json!(bytes));
        fields.insert("bytes_min".to_owned(), json!(bytes_min));
    }
    output.object(true, fields)?;
    Ok(Exit::Ok)
}

/// Reads a backup to its end; what it is of, and how long it is.
fn checked(file: &Path, output: &Output, interrupt: &Interrupt) -> Outcome<(BackupInfo, u64)> {
    let mut source = open(file, output, interrupt)?;
    let bar = output.progress(Some(0), Unit::Bytes);
    bar.set_message("checking");
    let (stopped, mut bytes) = (Stopped::default(), 0);
    let read = |into: &mut [u8]| {
        let count = stopped.keep(interrupt.check().and_then(|()| source.read(into, interrupt)))?;
        bytes += u64::try_from(count).unwrap_or(u64::MAX);
        Ok(count)
    };
    let info = check_backup(read, |so_far| show(&bar, so_far));
    bar.finish_and_clear();
    Ok((info.map_err(|error| stopped.failure(error, file, file))?, bytes))
}

fn open(file: &Path, output: &Output, interrupt: &Interrupt) -> Outcome<Source> {
    interrupt.begin_idle();
    let source = Source::open(file, output);
    interrupt.end_idle()?;
    source
}

pub(super) fn restore(
    args: &StateRestore,
    medium: &Medium,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome {
    let file = &args.file;
    let known = match is_stream(file) {
        true => None,
        false => Some(checked(file, output, interrupt)?.0),
    };
    let block_size = args.block_size.or_else(|| known.map(|info| info.block_size));
    let block_size = block_size.unwrap_or(BLOCK_SIZE_FROM_STDIN);
    let fill = |disk: &FileDisk, options: &Options| {
        let (store_id, bytes) = (options.store_id, disk.geometry().byte_len());
        if let Some(info) = &known {
            check_fits(args, info, block_size, bytes)?;
        }
        let info = read_into(args, disk, store_id, output, interrupt)?;
        Ok((info, store_id, bytes))
    };
    let (info, store_id, bytes) = if args.overwrite_device {
        image::overwrite_device(medium, &args.image, block_size, fill)?.0
    } else {
        let size = size_of(args, known.as_ref(), block_size)?;
        image::create(medium, output, &args.image, image::geometry(size, block_size)?, fill)?
    };
    let words = format!(
        "restored {} into `{}`: {}, durable",
        what_words(&info),
        args.image.display(),
        bytes_words(bytes)
    );
    let mut fields = info_json(&info);
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("from_store_id".to_owned(), json!(info.store_id.to_string()));
        fields.insert("store_id".to_owned(), json!(store_id.to_string()));
        fields.insert("image".to_owned(), json!(shown(&args.image)));
        fields.insert("image_bytes".to_owned(), json!(bytes));
        fields.insert("block_size".to_owned(), json!(block_size));
        fields.insert("durability".to_owned(), json!("durable"));
    }
    output.done(words, fields)?;
    Ok(Exit::Ok)
}

fn read_into(
    args: &StateRestore,
    disk: &FileDisk,
    store_id: StoreId,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome<BackupInfo> {
    let options = RestoreOptions::new(store_id);
    let mut source = open(&args.file, output, interrupt)?;
    let bar = output.progress(Some(0), Unit::Bytes);
    bar.set_message("restoring");
    let stopped = Stopped::default();
    let read = |into: &mut [u8]| stopped.keep(interrupt.check().and_then(|()| source.read(into, interrupt)));
    let restored = statefs::restore(read, disk, &options, |so_far| show(&bar, so_far));
    bar.finish_and_clear();
    restored.map_err(|error| match error {
        BackupError::Store(error) if error.kind() == ErrorKind::NoSpace => {
            Failure::state(&args.image, StateTrouble::BackupTooLarge { bytes_min: None })
        }
        error => stopped.failure(error, &args.file, &args.image),
    })
}

/// Refuses what does not fit, before anything is made or overwritten.
fn check_fits(args: &StateRestore, info: &BackupInfo, block_size: u32, bytes: u64) -> Outcome<()> {
    match needed(info, block_size)? {
        needed if needed <= bytes => Ok(()),
        needed => Err(Failure::state(&args.image, StateTrouble::BackupTooLarge { bytes_min: Some(needed) })),
    }
}

/// How many bytes an image of a backup has at least.
fn needed(info: &BackupInfo, block_size: u32) -> Outcome<u64> {
    // Refuses a block size that there is not.
    let _valid = image::geometry(u64::from(block_size), block_size)?;
    bytes_min(info, block_size).ok_or_else(|| Failure::Usage {
        message: format!("with blocks of {block_size} bytes no size is enough for what the backup is of"),
        hint: Some(format!("it comes from a store with blocks of {} bytes", info.block_size)),
    })
}

/// The size of the image that is made.
fn size_of(args: &StateRestore, known: Option<&BackupInfo>, block_size: u32) -> Outcome<u64> {
    let Some(info) = known else {
        return args.size.ok_or_else(|| Failure::Usage {
            message: "how large? From stdin nothing is known before the image is made".to_owned(),
            hint: Some("say --size, such as 16MiB".to_owned()),
        });
    };
    if let Some(size) = args.size {
        return check_fits(args, info, block_size, size).map(|()| size);
    }
    let size = needed(info, block_size)?.checked_mul(2);
    let size = size.and_then(|bytes| bytes.max(SIZE_MIN).checked_next_multiple_of(SIZE_STEP));
    size.ok_or_else(|| Failure::usage("what the backup is of is too large for any image"))
}

/// How much room a store needs does not depend on who it is.
fn bytes_min(info: &BackupInfo, block_size: u32) -> Option<u64> {
    let options = RestoreOptions::new(info.store_id);
    info.device_blocks_min(block_size, &options)?.checked_mul(u64::from(block_size))
}

fn what_words(info: &BackupInfo) -> &'static str {
    match info.extent {
        Extent::Whole => "a store with its snapshots",
        Extent::OneSnapshot => "one snapshot of a store",
    }
}

fn info_json(info: &BackupInfo) -> Value {
    let extent = match info.extent {
        Extent::Whole => "whole",
        Extent::OneSnapshot => "one_snapshot",
    };
    json!({
        "extent": extent, "store_id": info.store_id.to_string(), "revision": info.revision.get(),
        "records": info.records, "bytes": info.bytes, "block_size": info.block_size,
    })
}

/// Why a stream ended, kept beside the error that the engine passes on, which is one of input and output only.
#[derive(Default)]
struct Stopped(Cell<Option<Failure>>);

impl Stopped {
    fn keep<T>(&self, outcome: Outcome<T>) -> io::Result<T> {
        outcome.map_err(|failure| {
            self.0.set(Some(failure));
            io::Error::other("stopped")
        })
    }

    fn failure(&self, error: BackupError<io::Error>, file: &Path, image: &Path) -> Failure {
        match error {
            BackupError::Store(error) => Failure::state(image, error),
            BackupError::Stream { source, .. } => {
                self.0.take().unwrap_or_else(|| Failure::io("the stream of the backup", file, source))
            }
            BackupError::Refused { offset, what } => {
                Failure::state(file, StateTrouble::BadBackup { offset, what })
            }
        }
    }
}
