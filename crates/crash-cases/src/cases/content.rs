//! Objects of a content store: whole, old or new, listed or not, and counted exactly, whatever the crash.

use std::sync::Arc;

use content::{Config, ContentStore, CreateOpts, Replace, Tuning, Uri};
use crash_recovery::WindowLimits;
use crashsim::{Atom, Cell, Class, Expected, Operation, Run, Value, Verdict};
use durable_io::{Durability, TargetState};

use super::case::{Ended, boxed, file_with};
use crate::site::{Answer, FileCase, Refusal, Site, judge};

/// The longest object that rides in the journal where that is on.
const PAYLOAD_LEN_MAX: usize = 24;
/// Everything an app may have.
const QUOTA_BYTES: u64 = 64;
const QUOTA_FILES: u64 = 6;

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    let both = SCRIPTS.into_iter().flat_map(|script| {
        [("content", true), ("content-plain", false)].map(|(prefix, fast)| ContentCase {
            name: format!("{prefix}-{}", script.name),
            fast,
            script,
        })
    });
    boxed(both)
}

/// What is done with a store, whether objects ride in its journal or not.
#[derive(Clone, Copy)]
struct Script {
    name: &'static str,
    about: &'static str,
    /// How many changes wait for their barriers.
    window: usize,
    /// Objects that are there before; with none, there is no store either.
    before: &'static [(&'static str, &'static [u8])],
    run: fn(Session<'_, '_>) -> Result<(), Ended>,
}

const A: &str = "state:/app/a";
const OLD: &[(&str, &[u8])] = &[(A, b"A, as it was"), ("state:/app/d/b", b"b")];

const SCRIPTS: [Script; 7] = [
    Script {
        name: "replace",
        about: "put an object in the place of another",
        window: 8,
        before: OLD,
        run: |session| session.put(A, b"B, which is longer"),
    },
    Script {
        name: "commit",
        about: "stage an object, sync it, commit it over another, sync its directory",
        window: 8,
        before: OLD,
        run: |session| {
            session.commit("state:/app", "a", &[b"B, in ", b"two writes"], Replace::Yes)?;
            session.store.dirsync(&uri("state:/app")?)?;
            Ok(())
        },
    },
    Script {
        name: "new",
        about: "commit a new object into directories that are not there yet, and create an empty one",
        window: 8,
        before: OLD,
        run: |session| {
            session.commit("state:/other/x/y", "new", &[b"new"], Replace::No)?;
            session.create("state:/app/x", "empty")
        },
    },
    Script {
        name: "unlink",
        about: "remove an object, and put it again",
        window: 8,
        before: OLD,
        run: |session| {
            session.unlink(A)?;
            session.put(A, b"again")
        },
    },
    Script {
        name: "quota",
        about: "what is too much is refused, what is not is kept, and staged objects count",
        window: 8,
        before: OLD,
        run: at_the_limit,
    },
    Script {
        name: "checkpoint",
        about: "several objects, each with its barriers before the next",
        window: 1,
        before: OLD,
        run: |session| {
            session.put(A, b"1")?;
            session.put("state:/app/d/b", b"2, and too long to ride in the journal")?;
            session.unlink(A)?;
            session.put(A, b"3")
        },
    },
    Script {
        name: "init",
        about: "make a store, and put an object",
        window: 8,
        before: &[],
        run: |session| session.put(A, b"first"),
    },
];

fn at_the_limit(session: Session<'_, '_>) -> Result<(), Ended> {
    let too_much = vec![b'x'; 60];
    // Refused before anything is written.
    session.put("state:/app/too-much", &too_much)?;
    let app = uri("state:/app")?;
    let staged = session.store.create2(&app, "staged", &CreateOpts { temp: true })?;
    session.store.write(&staged, 0, b"0123456789")?;
    session.put("state:/app/beside", b"fits beside it")?;
    session.store.unlink(&staged)?;
    session.put(A, b"short")
}

/// An open store, and what is told of it.
struct Session<'s, 'w> {
    site: &'s Site<'w>,
    store: ContentStore,
}

impl Refusal for content::Error {
    fn state(&self) -> TargetState {
        self.state()
    }
}

/// Whatever the store answers with is durable.
impl Answer for Uri {
    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

impl From<content::Error> for Ended {
    fn from(error: content::Error) -> Self {
        Self(error.to_string())
    }
}

fn uri(text: &str) -> Result<Uri, Ended> {
    Uri::parse(text).map_err(|error| Ended(error.to_string()))
}

/// The file of an object.
fn cell(object: &str) -> &str {
    object.strip_prefix("state:/").unwrap_or(object)
}

fn value(bytes: &[u8]) -> Option<Value> {
    file_with(bytes, 0o600)
}

impl Session<'_, '_> {
    /// Where nothing has happened, one may go on.
    fn told<T: Answer>(
        &self,
        label: &str,
        object: &str,
        new: Option<Value>,
        work: impl FnOnce() -> content::Result<T>,
    ) -> Result<(), Ended> {
        let atom: Atom = vec![(Cell::from(cell(object)), new)];
        match self.site.perform(Operation::new(format_args!("{label} {object}"), vec![atom]), work) {
            Err(error) if error.state() != TargetState::Unchanged => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn put(&self, object: &str, bytes: &[u8]) -> Result<(), Ended> {
        let uri = uri(object)?;
        self.told("put", object, value(bytes), || self.store.put(&uri, bytes))
    }

    fn unlink(&self, object: &str) -> Result<(), Ended> {
        let uri = uri(object)?;
        self.told("unlink", object, None, || self.store.unlink(&uri))
    }

    fn create(&self, parent: &str, name: &str) -> Result<(), Ended> {
        let dir = uri(parent)?;
        self.told("create", &format!("{parent}/{name}"), value(b""), || {
            self.store.create2(&dir, name, &CreateOpts { temp: false })
        })
    }

    fn commit(&self, parent: &str, name: &str, pieces: &[&[u8]], replace: Replace) -> Result<(), Ended> {
        let dir = uri(parent)?;
        self.told("commit", &format!("{parent}/{name}"), value(&pieces.concat()), || {
            let staged = self.store.create2(&dir, "staged", &CreateOpts { temp: true })?;
            let mut at = 0;
            for piece in pieces {
                self.store.write(&staged, at, piece)?;
                at += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            }
            self.store.fsync(&staged)?;
            self.store.commit(&staged, &dir, name, replace)
        })
    }
}

struct ContentCase {
    name: String,
    fast: bool,
    script: Script,
}

impl ContentCase {
    fn config(&self) -> Result<Config, Ended> {
        let text = format!(
            r#"{{"schema":"content_v1_3","fast_path":{},
                "quota":{{"per_app_bytes":{QUOTA_BYTES},"per_app_files":{QUOTA_FILES},"temp_ratio_pct":80}}}}"#,
            self.fast,
        );
        Config::parse(text.as_bytes()).map_err(|error| Ended(error.to_string()))
    }

    /// Small enough that every boundary is common.
    fn tuning(&self) -> Tuning {
        Tuning {
            journal_bytes: 40 * 512,
            block_size: 512,
            payload_len_max: PAYLOAD_LEN_MAX,
            window: WindowLimits { changes: self.script.window, bytes: 1 << 20, threads: 1 },
            ..Tuning::default()
        }
    }

    fn init(&self, site: &Site<'_>) -> Result<(), Ended> {
        let fs = Arc::clone(&site.fs);
        Ok(ContentStore::init_with(fs, &site.root, site.env.clone(), &self.config()?, &self.tuning())?)
    }

    fn open(&self, site: &Site<'_>) -> Result<ContentStore, Ended> {
        let fs = Arc::clone(&site.fs);
        let (store, _) = ContentStore::open_with(fs, &site.root, site.env.clone(), &self.tuning())?;
        match store.read_only() {
            Some(why) => Err(Ended(format!("read-only: {why}"))),
            None => Ok(store),
        }
    }

    /// Makes the store where there is none.
    fn open_or_init(&self, site: &Site<'_>) -> Result<ContentStore, Ended> {
        let config = ContentStore::read_config(Arc::clone(&site.fs), &site.root, site.env.clone());
        if matches!(config, Err(content::Error::NotAStore { .. })) {
            self.init(site)?;
        }
        self.open(site)
    }

    fn begin(&self, site: &Site<'_>) -> Result<(), Ended> {
        let store = self.open_or_init(site)?;
        for (object, bytes) in self.script.before {
            store.put(&uri(object)?, bytes)?;
        }
        Ok(store.close()?)
    }

    /// Whether listing, usage and the files agree.
    fn compare(&self, site: &Site<'_>) -> Result<(), Ended> {
        let store = self.open(site)?;
        let names = site.names()?;
        for app in store.apps()? {
            let mut objects = Vec::new();
            let mut cursor = None;
            loop {
                // Two at a time, so that pages are common.
                let page = store.list(&app, cursor.as_ref(), 2)?;
                objects.extend(page.objects);
                match page.next {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
            let prefix = format!("{}/", app.app());
            let files: Vec<&String> =
                names.iter().filter(|name| name.starts_with(&prefix) && !name.ends_with('/')).collect();
            let listed: Vec<String> =
                objects.iter().map(|found| cell(found.uri.as_str()).to_owned()).collect();
            if !listed.iter().eq(files.iter().copied()) {
                return Err(Ended(format!("listed are {listed:?}, there are {files:?}")));
            }
            let (usage, recounted) = (store.usage(app.app())?, store.recounted_usage(app.app())?);
            let bytes: u64 = objects.iter().map(|found| found.len).sum();
            let files = u64::try_from(objects.len()).unwrap_or(u64::MAX);
            if usage != recounted || (usage.bytes, usage.files, usage.staged_bytes) != (bytes, files, 0) {
                return Err(Ended(format!(
                    "usage is {usage:?}, counted anew {recounted:?}, {bytes} in {files}"
                )));
            }
            if usage.bytes > QUOTA_BYTES || usage.files > QUOTA_FILES {
                return Err(Ended(format!("more than the quota: {usage:?}")));
            }
        }
        Ok(())
    }
}

impl FileCase for ContentCase {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        self.script.about
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        if !self.script.before.is_empty() {
            self.begin(site).map_err(|Ended(why)| why)?;
        }
        let before = self.script.before.iter();
        Ok(before.map(|(object, bytes)| (cell(object).into(), value(bytes))).collect())
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        let session = self.open_or_init(site).map(|store| Session { site, store });
        drop(session.and_then(self.script.run));
    }

    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        self.open_or_init(site).map(drop).map_err(|Ended(why)| why)
    }

    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        let verdict = judge(site, expected, &|name| self.owns(name), &|cell| site.look(cell));
        match self.compare(site) {
            Ok(()) => verdict,
            Err(Ended(why)) => verdict.worse(Verdict::broken(Class::CannotOpen, why)),
        }
    }

    /// The store's own, and directories: they appear with their first object and stay.
    fn owns(&self, name: &str) -> bool {
        matches!(
            name,
            ".steadfast-journaled"
                | "content/"
                | "content/config.json"
                | "content/journal/"
                | "content/journal/journal"
                | "content/journal/journal.lock"
        ) || name.ends_with('/')
    }
}
