//! Cases explored to the end, and stores on real files.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;
use std::sync::Arc;

use content::{Config, ContentStore, Uri};
use crash_cases::{OnSim, case_named};
use crashsim::{Explorer, FileProfile, Gauge, Options, Report, Scenario, SimFs, replay};
use media::{Env, Fs, OsFs};

pub(crate) fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap()
}

/// A configuration with this quota.
pub(crate) fn config(fast: bool, bytes: u64, files: u64, temp_ratio_pct: u64) -> Config {
    let text = format!(
        r#"{{"schema":"content_v1_3","fast_path":{fast},"quota":{{"per_app_bytes":{bytes},
            "per_app_files":{files},"temp_ratio_pct":{temp_ratio_pct}}}}}"#
    );
    Config::parse(text.as_bytes()).unwrap()
}

pub(crate) fn init(home: &Path, config: &Config) {
    ContentStore::init(OsFs::shared(), home, Env::os(), config).unwrap();
}

pub(crate) fn open(home: &Path) -> ContentStore {
    open_on(OsFs::shared(), home)
}

pub(crate) fn open_on(fs: Arc<dyn Fs>, home: &Path) -> ContentStore {
    ContentStore::open(fs, home, Env::os()).unwrap().0
}

/// All of an object.
pub(crate) fn read(store: &ContentStore, object: &Uri) -> Vec<u8> {
    let reader = store.open_object(object).unwrap();
    let mut bytes = vec![0; usize::try_from(reader.len()).unwrap() + 1];
    let count = reader.read_at(0, &mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

/// Every state of every crash point of a case under every profile, crashes in recovery and kills included: one image that breaks
/// a promise is a failure, and its story is told. The points where one crash leaves more states than are looked at one by one
/// would be a failure too. What was looked at, in a line.
pub(crate) fn explore_to_the_end(name: &str) -> String {
    let case = case_named(name).unwrap();
    let workload = OnSim(&*case);
    let recorded = Scenario::plain(name).record::<SimFs>(&workload).unwrap();
    let mut sum = Report { exhaustive: true, ..Report::default() };
    let options = Options { states_max: 65_536, nested_states_max: 4096, ..Options::default() };
    for profile in FileProfile::ALL {
        let report =
            Explorer::default().explore::<SimFs>(&workload, &recorded, profile, &options, &Gauge::default());
        if let Some(failure) = &report.failure {
            panic!("{}", replay::<SimFs>(&workload, &failure.id).unwrap());
        }
        assert!(report.exhaustive && report.points > 5, "{name} {profile:?}: {report:?}");
        sum.add(report);
    }
    format!(
        "{name}: {} crash points, {} states visited, {} distinct images, 0 broken",
        sum.points, sum.visited, sum.distinct
    )
}
