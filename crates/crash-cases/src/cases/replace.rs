//! One file: `replace`, `create_new`.

use crashsim::{Cell, Operation, Run, Value};
use durable_io::Mode;

use crate::site::{FileCase, Site};

/// What an ordinary file looks like.
pub(crate) fn file(bytes: &[u8]) -> Option<Value> {
    Some(Value::with_facts(bytes, Mode::new(0o644)))
}

/// One operation on one file of this size.
struct OneFile {
    name: &'static str,
    about: &'static str,
    len: usize,
    before: Option<&'static [u8]>,
}

/// Replacing a small file by one of `len` bytes: for measurements.
#[must_use]
pub fn replace_of(len: usize) -> Box<dyn FileCase> {
    let about = "replace an existing file by one of a chosen size";
    Box::new(OneFile { name: "replace-of", about, len, before: Some(b"{\"volume\": 3}") })
}

const TARGET: &str = "config.json";

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    let one =
        |name, about, len, before| -> Box<dyn FileCase> { Box::new(OneFile { name, about, len, before }) };
    vec![
        one("replace", "replace an existing small file", 40, Some(b"{\"volume\": 3}")),
        one(
            "replace-large",
            "replace an existing file by one of 6,000 bytes",
            6_000,
            Some(b"{\"volume\": 3}"),
        ),
        one("replace-new", "replace a file that is not there yet", 40, None),
    ]
}

impl FileCase for OneFile {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn prepare(&self, site: &Site<'_>) -> durable_io::Result<Vec<(Cell, Option<Value>)>> {
        if let Some(before) = self.before {
            site.dir()?.replace(TARGET, before)?;
        }
        Ok(vec![(TARGET.into(), self.before.and_then(file))])
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        let bytes: Vec<u8> = (b'a'..=b'z').cycle().take(self.len).collect();
        let operation = Operation::one("replace config.json", TARGET, file(&bytes));
        drop(site.perform(operation, || site.dir()?.replace(TARGET, &bytes)));
    }
}
