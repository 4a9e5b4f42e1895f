//! `steadfast content`: objects of apps, under quotas, in a directory that is the store's alone.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use content::{
    CONFIG_LEN_MAX, Config, ContentStore, Error, LIST_LIMIT_MAX, Listed, OpenReport, OutOfRange, SCHEME,
    Stat, Tuning, Uri, Usage,
};
use durable_io::{Kind, Wait};
use serde_json::{Value, json};

use super::write::{Reading, Source};
use super::{bytes_words, names, recovery};
use crate::cli::{At, ContentCommand, ContentInit, ContentLs, ContentPut, ContentRm, Place};
use crate::failure::{Exit, Failure, Outcome, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::{Output, Unit};

const CHUNK_LEN: usize = 256 << 10;

pub(super) fn run(
    command: &ContentCommand,
    medium: &Medium,
    output: &Output,
    interrupt: &Interrupt,
) -> Outcome {
    let door = Door { medium, output, interrupt };
    match command {
        ContentCommand::Init(args) => init(args, medium, output),
        ContentCommand::Put(args) => put(args, &door),
        ContentCommand::Get { place, uri } => get(place, uri, &door),
        ContentCommand::Ls(args) => ls(args, &door),
        ContentCommand::Rm(args) => rm(args, &door),
        ContentCommand::Stat { place, uri } => stat(place, uri, &door),
        ContentCommand::Usage { place } => usage(place, &door),
        ContentCommand::Recover { at } => recover(at, &door),
    }
}

fn init(args: &ContentInit, medium: &Medium, output: &Output) -> Outcome {
    let mut config = match &args.config {
        Some(path) => read_config(path)?,
        None => Config::default(),
    };
    let limit = |option: &str, error: OutOfRange| Failure::usage(format!("{option}: {error}"));
    if let Some(bytes) = args.quota_bytes {
        config.quota.per_app_bytes = bytes.try_into().map_err(|error| limit("--quota-bytes", error))?;
    }
    if let Some(files) = args.quota_files {
        config.quota.per_app_files = files.try_into().map_err(|error| limit("--quota-files", error))?;
    }
    if let Some(pct) = args.temp_ratio {
        config.quota.temp_ratio_pct = pct.try_into().map_err(|error| limit("--temp-ratio", error))?;
    }
    medium.init_content(&args.root, &config).map_err(|error| Failure::content(&args.root, error))?;
    let quota = &config.quota;
    output.done(
        format_args!(
            "`{}` is a content store, durable: {} and {} file(s) for each app, {} of it staged",
            args.root.display(),
            bytes_words(quota.per_app_bytes.get()),
            quota.per_app_files.get(),
            bytes_words(quota.staged_bytes_max()),
        ),
        json!({
            "root": shown(&args.root), "per_app_bytes": quota.per_app_bytes.get(),
            "per_app_files": quota.per_app_files.get(), "temp_ratio_pct": quota.temp_ratio_pct.get(),
            "durability": "durable",
        }),
    )?;
    Ok(Exit::Ok)
}

fn read_config(path: &Path) -> Outcome<Config> {
    let fail = |e| Failure::io("reading the configuration", path, e);
    let mut document = Vec::new();
    // One byte more than it may have, for it to be noticed.
    let len_max = u64::try_from(CONFIG_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).and_then(|file| file.take(len_max).read_to_end(&mut document)).map_err(fail)?;
    Config::parse(&document).map_err(|error| Failure::content(path, error))
}

impl Place {
    /// The URI that a text stands for here.
    fn uri(&self, text: &str) -> Outcome<Uri> {
        let fail = |error: content::UriError| Failure::content(&self.at.root, error);
        if !text.starts_with(SCHEME) {
            let Some(app) = &self.app else {
                return Err(Failure::Usage {
                    message: format!("`{text}` is in no app"),
                    hint: Some("say which with --app, or write the whole URI: state:/APP/PATH".to_owned()),
                });
            };
            return Uri::parse(&format!("{SCHEME}{app}/{text}")).map_err(fail);
        }
        let uri = Uri::parse(text).map_err(fail)?;
        match self.app.as_deref().filter(|app| *app != uri.app()) {
            Some(app) => Err(Failure::usage(format!("`{text}` is not in the app `{app}`"))),
            None => Ok(uri),
        }
    }

    /// The app that was named.
    fn app(&self) -> Outcome<Option<Uri>> {
        let named = self.app.as_deref().map(Uri::app_dir).transpose();
        named.map_err(|error| Failure::content(&self.at.root, error))
    }
}

/// Whether the failpoints count that the store is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CrashSim {
    AsConfigured,
    PassedBy,
}

/// What every command opens a store with.
struct Door<'a> {
    medium: &'a Medium,
    output: &'a Output,
    interrupt: &'a Interrupt,
}

impl Door<'_> {
    fn open(&self, at: &At, crash_sim: CrashSim) -> Outcome<(ContentStore, OpenReport)> {
        let wait = if at.timeout.is_zero() { Wait::DoNotWait } else { Wait::UpTo(at.timeout) };
        let tuning = Tuning { wait, ..Tuning::default() };
        // Whoever has the store may have it for long. And recovery that is cut short goes on at the next open.
        self.interrupt.begin_idle();
        let opened = match crash_sim {
            CrashSim::AsConfigured => self.medium.with_crash_sim_of(&at.root),
            CrashSim::PassedBy => Ok(self.medium.clone()),
        };
        let opened = opened.and_then(|medium| {
            medium.open_content(&at.root, &tuning).map_err(|error| Failure::content(&at.root, error))
        });
        self.interrupt.end_idle()?;
        opened
    }

    /// Opens a store, says what it has found, does something with it, and closes it.
    fn with_store<T>(
        &self,
        at: &At,
        act: impl FnOnce(&ContentStore, &OpenReport) -> Outcome<T>,
    ) -> Outcome<T> {
        let (store, report) = self.open(at, CrashSim::AsConfigured)?;
        recovery::tell(&report.recovery, self.output)?;
        let done = act(&store, &report);
        // Also where it came to nothing: what is closed need not be looked through by the next one.
        let closed = store.close();
        let done = done?;
        if let Err(error) = closed {
            let failure = Failure::content(&at.root, error);
            self.output.warn(format_args!("it was done, but the store was not closed: {failure}"))?;
        }
        Ok(done)
    }

    /// The same, for what only reads. The exit code says whether all that was ever acknowledged can be there.
    fn read(&self, at: &At, act: impl FnOnce(&ContentStore) -> Outcome<()>) -> Outcome {
        self.with_store(at, |store, _| {
            act(store)?;
            match store.read_only() {
                Some(why) => {
                    self.output.warn(format_args!("the store can only be read: {why}"))?;
                    Ok(Exit::Corrupt)
                }
                None => Ok(Exit::Ok),
            }
        })
    }
}

fn put(args: &ContentPut, door: &Door<'_>) -> Outcome {
    let Door { output, interrupt, .. } = *door;
    let root = &args.place.at.root;
    let uri = args.place.uri(&args.uri)?;
    interrupt.begin_idle();
    let source = Source::open(&args.from, output);
    interrupt.end_idle()?;
    let source = source?;
    door.with_store(&args.place.at, |store, report| {
        let fail = |error| Failure::content(root, error);
        // Nobody else has the store: what is free now is free until it is taken.
        if args.create_new {
            match store.stat(&uri) {
                Ok(_) => return Err(fail(Error::Exists { uri: uri.clone() })),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(fail(error)),
            }
        }
        let len = source.len();
        let bar = output.progress(len, Unit::Bytes);
        bar.set_message("writing");
        let mut content = Reading::new(source, interrupt, &bar);
        let put = store.put_from(&uri, &mut content, len);
        bar.finish_and_clear();
        content.end()?;
        let bytes = put.map_err(fail)?;
        output.done(
            format_args!("put {uri}: {}, durable", bytes_words(bytes)),
            json!({
                "uri": uri.as_str(), "bytes": bytes, "durability": "durable",
                "recovery": recovery::fields(&report.recovery),
            }),
        )?;
        Ok(Exit::Ok)
    })
}

fn get(place: &Place, text: &str, door: &Door<'_>) -> Outcome {
    let uri = place.uri(text)?;
    if door.output.is_json() {
        return Err(Failure::Usage {
            message: "`get` prints the bytes of the object and nothing else".to_owned(),
            hint: Some("`steadfast content stat --json` tells of it".to_owned()),
        });
    }
    door.read(&place.at, |store| {
        let fail = |error| Failure::content(&place.at.root, error);
        let object = store.open_object(&uri).map_err(fail)?;
        // On a terminal the bytes themselves are what moves.
        let bar = match io::stdout().is_terminal() {
            true => indicatif::ProgressBar::hidden(),
            false => door.output.progress(Some(object.len()), Unit::Bytes),
        };
        let mut chunk = vec![0; CHUNK_LEN];
        let mut at = 0;
        loop {
            door.interrupt.check()?;
            let count = object.read_at(at, &mut chunk).map_err(fail)?;
            let bytes = chunk.get(..count).unwrap_or(&[]);
            if bytes.is_empty() {
                break;
            }
            match Output::stream(bytes) {
                // A reader that has gone (`… | head`) wants no more.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(|e| Failure::stream("writing to standard output", e))?,
            }
            at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            bar.set_position(at);
        }
        bar.finish_and_clear();
        if at != object.len() {
            let cut = io::Error::other(format!("it has {} bytes, and {at} were read", object.len()));
            return Err(Failure::io("reading the object", uri.as_str(), cut));
        }
        Ok(())
    })
}

fn ls(args: &ContentLs, door: &Door<'_>) -> Outcome {
    let named = match &args.uri {
        Some(text) => Some(args.place.uri(text)?),
        None => args.place.app()?,
    };
    door.read(&args.place.at, |store| {
        let fail = |error| Failure::content(&args.place.at.root, error);
        let due = match &named {
            Some(named) => vec![named.clone()],
            None => store.apps().map_err(fail)?,
        };
        for dir in &due {
            let mut cursor = None;
            loop {
                let page = store.list(dir, cursor.as_ref(), LIST_LIMIT_MAX).map_err(fail)?;
                for Listed { uri, len } in &page.objects {
                    match (door.output.is_json(), args.long) {
                        (true, _) => {
                            door.output.object(true, json!({ "uri": uri.as_str(), "bytes": len }))?
                        }
                        (false, true) => door.output.line(format_args!("{len:>12} {uri}"))?,
                        (false, false) => door.output.line(uri)?,
                    }
                    if door.output.is_unread() {
                        return Ok(());
                    }
                }
                door.interrupt.check()?;
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
        }
        Ok(())
    })
}

fn rm(args: &ContentRm, door: &Door<'_>) -> Outcome {
    let uris: Vec<Uri> = args.uris.iter().map(|text| args.place.uri(text)).collect::<Outcome<_>>()?;
    door.with_store(&args.place.at, |store, _| {
        let mut worst = Ok(());
        for uri in &uris {
            match store.unlink(uri) {
                Ok(()) => door.output.done(
                    format_args!("removed {uri}: durable"),
                    json!({ "uri": uri.as_str(), "change": "removed", "durability": "durable" }),
                )?,
                Err(error) if args.force && error.kind() == Kind::NotFound => {}
                Err(error) => {
                    names::note(&mut worst, Failure::content(&args.place.at.root, error), door.output)?;
                }
            }
        }
        worst.map(|()| Exit::Ok)
    })
}

fn stat(place: &Place, text: &str, door: &Door<'_>) -> Outcome {
    let uri = place.uri(text)?;
    door.read(&place.at, |store| {
        let (kind, bytes) = match store.stat(&uri).map_err(|error| Failure::content(&place.at.root, error))? {
            Stat::Object { len } | Stat::Staged { len } => ("object", Some(len)),
            Stat::Directory => ("directory", None),
        };
        if door.output.is_json() {
            return door.output.object(true, json!({ "uri": uri.as_str(), "kind": kind, "bytes": bytes }));
        }
        match bytes {
            Some(bytes) => door.output.line(format_args!("{uri}: {kind}, {bytes} bytes")),
            None => door.output.line(format_args!("{uri}: {kind}")),
        }
    })
}

fn usage(place: &Place, door: &Door<'_>) -> Outcome {
    let named = place.app()?;
    door.read(&place.at, |store| {
        let fail = |error| Failure::content(&place.at.root, error);
        let apps = match &named {
            Some(app) => vec![app.clone()],
            None => store.apps().map_err(fail)?,
        };
        for app in &apps {
            let found = store.usage(app.app()).map_err(fail)?;
            if door.output.is_json() {
                door.output.object(true, usage_fields(app, &found))?;
            } else {
                door.output.line(format_args!("{}: {}", app.app(), usage_words(&found)))?;
            }
        }
        Ok(())
    })
}

fn usage_words(found: &Usage) -> String {
    format!(
        "{} of {}, {} of {} file(s)",
        bytes_words(found.bytes),
        bytes_words(found.bytes_max),
        found.files,
        found.files_max
    )
}

fn usage_fields(app: &Uri, found: &Usage) -> Value {
    json!({
        "app": app.app(), "bytes": found.bytes, "bytes_max": found.bytes_max, "files": found.files,
        "files_max": found.files_max, "staged_bytes_max": found.staged_bytes_max,
    })
}

fn recover(at: &At, door: &Door<'_>) -> Outcome {
    let (store, report) = door.open(at, CrashSim::PassedBy)?;
    let why = store.read_only().map(str::to_owned);
    store.close().map_err(|error| Failure::content(&at.root, error))?;
    if let Some(why) = why {
        return Err(Failure::content(&at.root, Error::Root(crash_recovery::Error::ReadOnly { why })));
    }
    let OpenReport { recovery: found, foreign, apps, .. } = &report;
    if let Some(first) = foreign.named.first() {
        door.output.warn(format_args!(
            "{} entries are not the store's, and were left alone, such as `{}`",
            foreign.count,
            first.display()
        ))?;
    }
    if door.output.is_json() {
        let recovery = recovery::fields(found);
        let fields = json!({
            "root": shown(&at.root), "apps": apps, "foreign": foreign.count, "recovery": recovery,
        });
        door.output.object(true, fields)?;
    } else {
        door.output.line(found)?;
        recovery::warn(found, door.output)?;
    }
    Ok(Exit::Ok)
}
