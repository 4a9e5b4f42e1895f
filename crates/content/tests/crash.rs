//! The power fails everywhere: what was acknowledged is there, the rest is there completely or not at all, and usage is
//! what a recount gives.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which say what they saw")]

use std::io::Read as _;

use content::{
    Config, ContentStore, CreateOpts, Error, OpenReport, Replace, Result, Tuning, Uri, WindowLimits,
};
use crashsim::{
    Campaign, Cell, Class, Expected, Explorer, Fate, FileProfile, FsImage, Gauge, Life, Mark, Operation,
    Options, Recording, Report, Run, Scenario, SimFs, Value, Verdict, Witness as _, Workload, replay,
};
use durable_io::TargetState;
use media::doubles::fixed_env;

/// What is asked of the store, one after the other.
type Steps = fn(&Store<'_>) -> Result<()>;

struct Case {
    name: &'static str,
    fast: bool,
    /// Objects there are before.
    before: &'static [(&'static str, usize)],
    steps: Steps,
}

/// A store that tells the witness what it is asked and what it answers.
struct Store<'m> {
    medium: &'m SimFs,
    store: ContentStore,
}

fn tuning() -> Tuning {
    Tuning {
        journal_bytes: 160 << 10,
        payload_len_max: 600,
        window: WindowLimits { changes: 2, ..WindowLimits::default() },
        ..Tuning::default()
    }
}

fn open(medium: &SimFs, process: u32) -> Result<(ContentStore, OpenReport)> {
    ContentStore::open_with(medium.shared(), "/store", fixed_env(u64::from(process) + 7), &tuning())
}

fn uri(name: &str) -> Uri {
    Uri::parse(&format!("state:/app/{name}")).unwrap()
}

/// So long, and not like any other length.
fn bytes(len: usize) -> Vec<u8> {
    vec![b'a' + u8::try_from(len % 26).unwrap(); len]
}

fn value(len: usize) -> Value {
    Value::bytes(&bytes(len))
}

impl Store<'_> {
    fn told(
        &self,
        label: &str,
        changes: Vec<(&str, Option<usize>)>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let atom = changes.into_iter().map(|(name, len)| (Cell::from(name), len.map(value))).collect();
        self.medium.tell(Mark::Begin(Operation::new(label, vec![atom])));
        let outcome = work();
        self.medium.tell(match &outcome {
            Ok(()) => Mark::Acknowledged,
            Err(error) => Mark::Failed(match error.state() {
                TargetState::Unchanged => Fate::Unchanged,
                TargetState::ReplacedNotDurable | TargetState::DurableNotVisible | TargetState::Unknown => {
                    Fate::Unknown
                }
            }),
        });
        outcome
    }

    fn put(&self, name: &str, len: usize) -> Result<()> {
        self.told("put", vec![(name, Some(len))], || self.store.put(&uri(name), &bytes(len)))
    }

    fn stream(&self, name: &str, len: usize) -> Result<()> {
        let work = || self.store.put_from(&uri(name), &mut bytes(len).as_slice(), None).map(drop);
        self.told("stream", vec![(name, Some(len))], work)
    }

    fn unlink(&self, name: &str) -> Result<()> {
        self.told("unlink", vec![(name, None)], || self.store.unlink(&uri(name)))
    }

    /// Staged in one directory, committed in another.
    fn commit(&self, name: &str, len: usize) -> Result<()> {
        let staged = self.store.create2(&uri("in"), "t", &CreateOpts { temp: true })?;
        let (first, rest) = (bytes(len), len / 2);
        self.store.write(&staged, u64::try_from(rest).unwrap(), &first[rest..])?;
        self.store.write(&staged, 0, &first[..rest])?;
        let target = uri(name);
        let parent = target.parent().unwrap();
        let work = || self.store.commit(&staged, &parent, target.name(), Replace::Yes).map(drop);
        self.told("commit", vec![(name, Some(len))], work)
    }
}

impl Workload<SimFs> for Case {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (FsImage, Expected) {
        let medium = SimFs::mount(SimFs::new().image(), Recording::Off);
        let mut config = Config::default();
        config.fast_path = self.fast;
        ContentStore::init_with(medium.shared(), "/store", fixed_env(1), &config, &tuning()).unwrap();
        let (store, _) = open(&medium, 0).unwrap();
        for (name, len) in self.before {
            store.put(&uri(name), &bytes(*len)).unwrap();
        }
        store.close().unwrap();
        let cells = self.before.iter().map(|(name, len)| (Cell::from(*name), Some(value(*len))));
        (medium.image(), Expected::starting(cells))
    }

    fn run(&self, medium: &SimFs, _: &Run) {
        let opened = open(medium, 1).map(|(store, _)| Store { medium, store });
        // What went wrong has been told.
        drop(opened.and_then(|store| (self.steps)(&store)));
    }

    fn recover(&self, medium: &SimFs, life: Life) -> std::result::Result<(), String> {
        match open(medium, life.process) {
            Ok((_, report)) if report.recovery.read_only.is_none() => Ok(()),
            Ok((_, report)) => Err(format!("read-only: {report:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn check(&self, medium: &SimFs, life: Life, expected: &Expected) -> Verdict {
        match open(medium, life.process + 1).and_then(|(store, _)| judge(&store, expected)) {
            Ok(verdict) => verdict,
            Err(error) => Verdict::broken(Class::CannotOpen, error.to_string()),
        }
    }

    /// The journal begins a new incarnation at each open, so the bytes of the medium differ. What a caller sees does not.
    fn is_same(&self, first: &SimFs, second: &SimFs) -> bool {
        let seen = |medium: &SimFs| {
            let medium = SimFs::mount(medium.image(), Recording::Off);
            let (store, _) = open(&medium, 99).ok()?;
            let page = store.list(&Uri::app_dir("app").ok()?, None, 100).ok()?;
            let all = page.objects.iter().map(|listed| read(&store, &listed.uri));
            Some((page.objects.clone(), all.collect::<Result<Vec<_>>>().ok()?, store.usage("app").ok()?))
        };
        let first = seen(first);
        first.is_some() && first == seen(second)
    }
}

fn read(store: &ContentStore, uri: &Uri) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = store.open_object(uri)?;
    reader.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

fn judge(store: &ContentStore, expected: &Expected) -> Result<Verdict> {
    let mut failed = None;
    let verdict = expected.judge(|cell| match read(store, &uri(cell)) {
        Ok(bytes) => Some(Value::bytes(&bytes)),
        Err(Error::NotFound { .. }) => None,
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let stranger = |why: String| Ok(verdict.clone().worse(Verdict::broken(Class::Stranger, why)));
    let listed = store.list(&Uri::app_dir("app")?, None, 100)?.objects;
    for found in &listed {
        let is_known = expected.cells().any(|cell| uri(cell) == found.uri);
        if !is_known || read(store, &found.uri)?.len() != usize::try_from(found.len).unwrap() {
            return stranger(format!("{} is listed", found.uri));
        }
    }
    let usage = store.usage("app")?;
    let sum: u64 = listed.iter().map(|found| found.len).sum();
    if usage != store.recounted_usage("app")?
        || (usage.bytes, usage.files, usage.staged_files) != (sum, u64::try_from(listed.len()).unwrap(), 0)
    {
        return stranger(format!("usage is not what a recount gives: {usage:?}"));
    }
    Ok(verdict)
}

/// Its name, what is there before, and what is done.
type History = (&'static str, &'static [(&'static str, usize)], Steps);

/// Each on both paths.
const CASES: [History; 6] = [
    ("replace", &[("x", 10)], |store| store.put("x", 700)),
    ("small-replaces", &[("x", 10)], |store| {
        store.put("x", 20)?;
        store.put("d/y", 30)?;
        store.put("x", 40)
    }),
    ("commit-across", &[("d/x", 10)], |store| {
        store.commit("d/x", 20)?;
        store.commit("d/x", 800)
    }),
    ("remove-and-again", &[("x", 900)], |store| {
        store.unlink("x")?;
        store.put("x", 5)?;
        store.unlink("x")
    }),
    ("stream-then-small", &[], |store| {
        store.stream("x", 1500)?;
        store.put("x", 3)
    }),
    ("with-a-checkpoint", &[("x", 10)], |store| {
        store.put("x", 20)?;
        store.store.dirsync(&Uri::app_dir("app")?)?;
        store.put("x", 30)
    }),
];

fn explore(fast: bool) {
    let (mut visited, mut distinct) = (0, 0);
    for (name, before, steps) in CASES {
        let case = Case { name, fast, before, steps };
        let (more, new) = explore_case(&case, &format!("fast={fast}"));
        (visited, distinct) = (visited + more, distinct + new);
    }
    println!("fast={fast}: visited {visited}, distinct {distinct}, broken 0");
}

fn explore_case(case: &dyn Workload<SimFs>, how: &str) -> (u64, u64) {
    let name = case.name();
    let (mut visited, mut distinct) = (0, 0);
    let recorded = Scenario::plain(name).record::<SimFs>(case).unwrap();
    let marks = recorded.trace.marks_until(recorded.trace.len());
    assert!(!marks.iter().any(|mark| matches!(mark, Mark::Failed(_))), "{name}: {marks:?}");
    for profile in FileProfile::DEFAULT {
        let options = Options { states_max: 160, nested_states_max: 6, ..Options::default() };
        let explorer = Explorer::default();
        let report = explorer.explore::<SimFs>(case, &recorded, profile, &options, &Gauge::default());
        println!(
            "{name:<18} {how} points {:>3} visited {:>6} {:?}",
            report.points, report.visited, report.classes
        );
        assert_kept(case, &report);
        visited += report.visited;
        distinct += report.distinct;
    }
    (visited, distinct)
}

#[track_caller]
fn assert_kept(case: &dyn Workload<SimFs>, report: &Report) {
    if let Some(failure) = &report.failure {
        panic!("{:?}\n{}", failure.verdict, replay::<SimFs>(case, &failure.id).unwrap());
    }
}

#[test]
fn acknowledged_content_survives_any_crash_and_usage_is_a_recount_on_the_fast_path() {
    explore(true);
}

#[test]
fn acknowledged_content_survives_any_crash_and_usage_is_a_recount_on_the_plain_path() {
    explore(false);
}

#[test]
fn after_any_call_that_fails_and_a_power_cut_what_was_told_is_true() {
    let options = Options { states_max: 12, depth: 0, kills: false, ..Options::default() };
    for fast in [true, false] {
        let mut runs = 0;
        for (name, before, steps) in CASES {
            let case = Case { name, fast, before, steps };
            let campaign = Campaign {
                profiles: vec![FileProfile::DEFAULT[0]],
                options: options.clone(),
                faults: Some(options.clone()),
                budget: u64::MAX,
                seeds_max: 1,
            };
            for row in campaign.run::<SimFs>(&Explorer::default(), &case, &Gauge::default(), |_| {}) {
                assert_kept(&case, &row.report);
                runs += row.runs;
            }
        }
        println!("faults, fast={fast}: runs {runs}, broken 0");
        assert!(runs > 300, "{runs}");
    }
}

/// Making a store.
struct Making;

impl Making {
    fn init(medium: &SimFs, process: u32) -> Result<()> {
        let env = fixed_env(u64::from(process) + 7);
        ContentStore::init_with(medium.shared(), "/store", env, &Config::default(), &tuning())
    }
}

impl Workload<SimFs> for Making {
    fn name(&self) -> &str {
        "init"
    }

    fn start(&self) -> (FsImage, Expected) {
        (SimFs::new().image(), Expected::starting([]))
    }

    fn run(&self, medium: &SimFs, _: &Run) {
        medium.tell(Mark::Begin(Operation::one("init", "store", Some(Value::bytes(b"")))));
        let made = Self::init(medium, 1);
        medium.tell(if made.is_ok() { Mark::Acknowledged } else { Mark::Failed(Fate::Unknown) });
    }

    fn recover(&self, _: &SimFs, _: Life) -> std::result::Result<(), String> {
        Ok(())
    }

    /// There is a store, or it can be made.
    fn check(&self, medium: &SimFs, life: Life, expected: &Expected) -> Verdict {
        let opened = open(medium, life.process);
        let verdict = expected.judge(|_| opened.is_ok().then(|| Value::bytes(b"")));
        let usable = match opened {
            Err(Error::NotAStore { .. }) => {
                Self::init(medium, life.process).and_then(|()| open(medium, life.process + 1))
            }
            opened => opened,
        };
        let put = usable.and_then(|(store, report)| {
            assert_eq!(report.recovery.read_only, None);
            store.put(&uri("x"), b"x")
        });
        match put {
            Ok(()) => verdict,
            Err(error) => Verdict::broken(Class::CannotOpen, error.to_string()),
        }
    }
}

#[test]
fn a_store_is_made_whole_or_can_be_made_again() {
    let (visited, _) = explore_case(&Making, "");
    assert!(visited > 100, "{visited}");
}
