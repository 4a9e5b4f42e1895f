//! The simulated file system, while the power is on.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers that prepare a test fail with it, and say what they saw"
)]

use std::path::Path;

use crashsim::{Disks, SimFs};
use media::conformance::{FileSystemReport, Symlinks, file_system};

fn kept_by(sim: &SimFs) -> FileSystemReport {
    sim.symlink(Path::new("/dangling"), Path::new("nowhere")).unwrap();
    sim.symlink(Path::new("/to-file"), Path::new("target")).unwrap();
    let report = file_system(&sim.shared(), Path::new("/"), Symlinks::Arranged);
    println!("conformance: file_system {} ok, unsupported: {:?}", report.passed, report.unsupported);
    report
}

#[test]
fn the_simulated_file_system_keeps_the_contract() {
    let report = kept_by(&SimFs::new());
    // It has no page cache to go past: a disk in a file falls back to a write and a sync, which is what is to be cut.
    let without: Vec<_> = report.unsupported.iter().map(ToString::to_string).collect();
    assert_eq!(without, ["as_disk", "forget_cached", "write_at_durable"]);
    assert_eq!(report.passed, 48);
}

#[test]
fn with_durable_writes_it_keeps_the_contract_too() {
    let report = kept_by(&SimFs::with_disks(Disks::DurableWrites));
    let without: Vec<_> = report.unsupported.iter().map(ToString::to_string).collect();
    assert_eq!(without, ["forget_cached"]);
    assert_eq!(report.passed, 48);
}
