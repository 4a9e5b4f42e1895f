//! `cargo xtask schema`: the schema of the content store's configuration, made from its types.

use std::path::Path;
use std::process::ExitCode;

use content::Config;
use durable_io::Dir;

use crate::say;

/// Replaces `schemas/content_v1_3.schema.json`.
pub(crate) fn write() -> ExitCode {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
    let text = format!("{:#}\n", Config::schema());
    let written =
        Dir::open(&schemas).and_then(|dir| dir.replace("content_v1_3.schema.json", text.as_bytes()));
    match written {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why.to_string());
            ExitCode::FAILURE
        }
    }
}
