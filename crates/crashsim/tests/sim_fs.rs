//! The simulated file system, while the power is on.

use std::path::Path;

use crashsim::SimFs;
use media::conformance::{Symlinks, file_system};

#[test]
fn the_simulated_file_system_keeps_the_contract() {
    let sim = SimFs::new();
    sim.symlink(Path::new("/dangling"), Path::new("nowhere")).unwrap();
    sim.symlink(Path::new("/to-file"), Path::new("target")).unwrap();
    let report = file_system(&sim.shared(), Path::new("/"), Symlinks::Arranged);
    println!("conformance: file_system {} ok, unsupported: {:?}", report.passed, report.unsupported);
    assert_eq!((report.passed, report.unsupported.len()), (43, 0));
}
