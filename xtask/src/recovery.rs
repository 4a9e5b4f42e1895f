//! `cargo xtask recovery-table`: what survives which crash, into the document that says it.

use std::path::Path;
use std::process::ExitCode;

use crash_cases::recovery_table;
use durable_io::Dir;

use crate::say;

const BEGIN: &str = "<!-- cargo xtask recovery-table -->\n";
const END: &str = "\n<!-- end of the table -->";

/// Replaces what stands between the marks.
pub(crate) fn write() -> ExitCode {
    match replaced() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            ExitCode::FAILURE
        }
    }
}

fn replaced() -> Result<(), String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let dir = Dir::open(&docs).map_err(|error| error.to_string())?;
    let bytes = dir.read("recovery.md").map_err(|error| error.to_string())?;
    let document = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    let parts = document.split_once(BEGIN).and_then(|(head, rest)| {
        let at = rest.find(END)?;
        Some((head, rest.get(at..)?))
    });
    let (head, tail) = parts.ok_or("docs/recovery.md has no marks around its table")?;
    let table = recovery_table()?;
    let document = format!("{head}{BEGIN}{table}{tail}");
    dir.replace("recovery.md", document.as_bytes()).map(drop).map_err(|error| error.to_string())
}
