//! What `durable-io` and `FileDisk` promise, on file systems that are really full, read-only, or another one; watched by a
//! user who must not see; and told by the system calls themselves.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of the functions marked as tests")]
#![expect(clippy::disallowed_methods, reason = "the scenes are set with the plain calls, not with ours")]

mod attributes;
mod disks;
mod full;
mod names;
mod one_writer;
mod refused;
mod secret;
mod system_calls;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The names in a directory, sorted, without what the file systems themselves put there.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lost+found")
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}
