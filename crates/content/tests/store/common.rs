//! A store of its own for every test, on the simulated file system or the real one.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use content::{
    Config, ContentStore, CreateOpts, Error, OpenReport, Quota, Result, Tuning, Uri, WindowLimits,
};
use crashsim::SimFs;
use media::Fs;
use media::doubles::fixed_env;

pub(crate) const STAGED: CreateOpts = CreateOpts { temp: true };

/// Whether small objects ride in the journal. Every promise is the same.
pub(crate) const BOTH_PATHS: [bool; 2] = [true, false];

/// Bytes, files, percent.
pub(crate) fn config(fast_path: bool, bytes: u64, files: u64, pct: u64) -> Config {
    let mut config = Config::default();
    config.fast_path = fast_path;
    config.quota = Quota {
        per_app_bytes: bytes.try_into().unwrap(),
        per_app_files: files.try_into().unwrap(),
        temp_ratio_pct: pct.try_into().unwrap(),
    };
    config
}

/// More than any test uses.
pub(crate) fn roomy(fast_path: bool) -> Config {
    config(fast_path, 1 << 40, 1 << 20, 100)
}

/// A small journal, whose room is used again and again.
pub(crate) fn tuning() -> Tuning {
    Tuning {
        journal_bytes: 256 << 10,
        payload_len_max: 1000,
        window: WindowLimits { changes: 8, ..WindowLimits::default() },
        ..Tuning::default()
    }
}

/// Where a store is, and how it is opened.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) path: PathBuf,
    /// How often it was opened: no two processes draw the same random numbers.
    opened: AtomicU64,
}

impl Ground {
    /// A store in memory.
    pub(crate) fn sim(config: &Config) -> (Self, ContentStore) {
        Self::on(
            SimFs::mount(SimFs::new().image(), crashsim::Recording::Off).shared(),
            Path::new("/store"),
            config,
        )
    }

    pub(crate) fn on(fs: Arc<dyn Fs>, path: &Path, config: &Config) -> (Self, ContentStore) {
        ContentStore::init_with(Arc::clone(&fs), path, fixed_env(1), config, &tuning()).unwrap();
        let ground = Self { fs, path: path.to_owned(), opened: AtomicU64::new(1) };
        let (store, report) = ground.open().unwrap();
        assert_eq!(report.to_string(), "recovery sweep orphans=0 finalized=0");
        (ground, store)
    }

    pub(crate) fn open(&self) -> Result<(ContentStore, OpenReport)> {
        self.open_through(Arc::clone(&self.fs))
    }

    /// Through a double.
    pub(crate) fn open_through(&self, fs: Arc<dyn Fs>) -> Result<(ContentStore, OpenReport)> {
        let seed = 1 + self.opened.fetch_add(1, Ordering::Relaxed);
        ContentStore::open_with(fs, &self.path, fixed_env(seed), &tuning())
    }

    /// A directory of the store, from outside.
    pub(crate) fn dir(&self, below: &str) -> Arc<dyn media::Dir> {
        self.fs.open_dir(&self.path.join(below)).unwrap()
    }
}

pub(crate) fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap()
}

pub(crate) fn read(store: &ContentStore, text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = store.open_object(&uri(text))?;
    assert_eq!(reader.uri(), &uri(text));
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(u64::try_from(bytes.len()).unwrap(), reader.len());
    Ok(bytes)
}

/// All objects of an app and what they hold, page by page.
pub(crate) fn content(store: &ContentStore, app: &str) -> Vec<(String, Vec<u8>)> {
    let (app, mut cursor, mut all) = (Uri::app_dir(app).unwrap(), None, Vec::new());
    loop {
        let page = store.list(&app, cursor.as_ref(), 3).unwrap();
        for listed in page.objects {
            let bytes = read(store, listed.uri.as_str()).unwrap();
            assert_eq!(u64::try_from(bytes.len()).unwrap(), listed.len);
            all.push((listed.uri.to_string(), bytes));
        }
        cursor = page.next;
        if cursor.is_none() {
            assert!(all.is_sorted());
            return all;
        }
    }
}

/// Usage is what a count of the tree gives, to the byte.
pub(crate) fn assert_exact(store: &ContentStore, app: &str) {
    assert_eq!(store.usage(app).unwrap(), store.recounted_usage(app).unwrap());
}

/// Bytes, files, staged bytes, staged files.
pub(crate) fn used(store: &ContentStore, app: &str) -> (u64, u64, u64, u64) {
    let usage = store.usage(app).unwrap();
    (usage.bytes, usage.files, usage.staged_bytes, usage.staged_files)
}

pub(crate) fn is_not_found(outcome: &Result<Vec<u8>>) -> bool {
    matches!(outcome, Err(Error::NotFound { .. }))
}
