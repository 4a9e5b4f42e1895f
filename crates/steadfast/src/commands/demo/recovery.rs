//! The parts of the demonstration in which a process dies half-way: several files at once, and objects under quotas.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use content::{Config, Tuning, Uri};
use crash_recovery::{RootOptions, TreePath};
use crashsim::CRASH_POINTS_VARIABLE;

use super::Demonstration;
use crate::commands::bytes_words;
use crate::commands::selfcheck::time_words;
use crate::failure::{Failure, Outcome};

const CONFIG: &str = "config.json";
const SCHEMA: &str = "schema.json";
const QUOTA_BYTES: u64 = 64 << 10;

impl Demonstration<'_> {
    /// Runs a command of ours that ends itself at a point, as a kill there would.
    fn killed_at(&self, point: &str, arguments: &[&str], stdin: &[u8]) -> Outcome<()> {
        let fail = |e| Failure::stream("running a process", e);
        let myself = std::env::current_exe().map_err(|e| Failure::stream("finding this program", e))?;
        let mut child = Command::new(myself)
            .args(arguments)
            .current_dir(&self.path)
            .env(CRASH_POINTS_VARIABLE, point)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(stdin).map_err(fail)?;
        }
        if child.wait().map_err(fail)?.success() {
            return Err(Failure::not_so(format!("the process that was to die at `{point}` did not")));
        }
        Ok(())
    }

    /// Two files that must fit together.
    pub(super) fn together(&self) -> Outcome<()> {
        self.heading("7. Two files that change together")?;
        let pair = self.path.join("pair");
        let fail = |error: crash_recovery::Error| Failure::tree(&pair, error);
        self.dir.create_dir("pair")?;
        let (root, _) = self.medium.root(&pair, RootOptions::shared()).map_err(fail)?;
        let mut transaction = root.transaction();
        for name in [CONFIG, SCHEMA] {
            let path = TreePath::parse(name).map_err(|error| fail(error.into()))?;
            transaction.replace(&path, b"version 1").map_err(fail)?;
        }
        let begun = Instant::now();
        let committed = transaction.commit().map_err(|failure| fail(failure.error))?;
        self.text(format_args!(
            "replaced {} files in {}: both, or neither.",
            committed.names,
            time_words(begun.elapsed())
        ))?;
        root.close().map_err(fail)?;
        let manifest = [CONFIG, SCHEMA]
            .map(|name| format!("{{\"op\":\"replace\",\"path\":\"{name}\",\"text\":\"version 2\"}}\n"))
            .concat();
        self.killed_at("after_rename", &["txn", "pair"], manifest.as_bytes())?;
        self.text(format_args!(
            "  A process that changes both again is killed between its two renames: {}.",
            self.versions()?
        ))?;
        let (root, recovery) = self.medium.root(&pair, RootOptions::shared()).map_err(fail)?;
        root.close().map_err(fail)?;
        let found = self.versions()?;
        self.text(format_args!(
            "  Opened again: {recovery}; {found}. (steadfast txn {} --recover)",
            pair.display()
        ))?;
        match found == format!("{CONFIG} has version 2, {SCHEMA} has version 2") {
            true => Ok(()),
            false => Err(Failure::not_so("a transaction that was committed was not finished")),
        }
    }

    fn versions(&self) -> Outcome<String> {
        let pair = self.dir.subdir("pair")?;
        let of = |name: &str| -> Outcome<String> {
            Ok(format!("{name} has {}", String::from_utf8_lossy(&pair.read(name)?)))
        };
        Ok(format!("{}, {}", of(CONFIG)?, of(SCHEMA)?))
    }

    /// Objects of an app, one of which does not fit.
    pub(super) fn content(&self) -> Outcome<()> {
        self.heading("8. Objects under quotas")?;
        let home = self.path.join("content");
        let fail = |error: content::Error| Failure::content(&home, error);
        let mut config = Config::default();
        config.quota.per_app_bytes =
            QUOTA_BYTES.try_into().map_err(|error| Failure::usage(format!("the quota: {error}")))?;
        self.medium.init_content(&home, &config).map_err(fail)?;
        let uri = Uri::parse("state:/photos/2024/one.jpg").map_err(|error| fail(error.into()))?;
        let (store, _) = self.medium.open_content(&home, &Tuning::default()).map_err(fail)?;
        let begun = Instant::now();
        store.put(&uri, &[1; 20 << 10]).map_err(fail)?;
        self.text(format_args!(
            "put {uri} ({}) in {}: durable. One barrier.",
            bytes_words(20 << 10),
            time_words(begun.elapsed())
        ))?;
        store.close().map_err(fail)?;
        let put = ["content", "put", "content", uri.as_str()];
        self.killed_at("after_commit_record", &put, &[2; 30 << 10])?;
        self.text(
            "  A process that replaces it is killed right behind its commit record, before the rename.",
        )?;
        let (store, report) = self.medium.open_content(&home, &Tuning::default()).map_err(fail)?;
        let used = store.usage(uri.app()).map_err(fail)?;
        self.text(format_args!(
            "  Opened again: {report}; the object is the new one, {}, and usage is exact: {} of {}, {} file.",
            bytes_words(store.open_object(&uri).map_err(fail)?.len()),
            bytes_words(used.bytes),
            bytes_words(used.bytes_max),
            used.files
        ))?;
        if (used.bytes, used.files) != (30 << 10, 1) {
            return Err(Failure::not_so("a put that was committed was not finished"));
        }
        match store.put(&uri, &[3; 40 << 10]) {
            Err(
                error @ content::Error::QuotaExceeded { .. }
                | error @ content::Error::TempBudgetExceeded { .. },
            ) => {
                self.text(format_args!("  One too large is refused before anything is written: {error}."))?;
            }
            Err(error) => return Err(fail(error)),
            Ok(()) => return Err(Failure::not_so("an object beyond the quota was accepted")),
        }
        store.close().map_err(fail)
    }
}
