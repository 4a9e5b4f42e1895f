//! Runs a scenario under many schedules, counts the distinct ones, and makes a failure a line that replays it.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::bounded::BoundedDfs;
use crate::line;

/// What is run under many schedules.
pub struct Scenario {
    /// Its name, which a replay line begins with: letters, digits and hyphens.
    pub name: &'static str,
    /// What it asserts, in one line.
    pub what: &'static str,
    /// How its schedules are chosen.
    pub search: Search,
    run: Arc<dyn Fn() + Send + Sync>,
    judge: Option<Box<dyn Fn() -> Judged>>,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .field("search", &self.search)
            .finish_non_exhaustive()
    }
}

/// How the schedules of a scenario are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// All of them, depth first. If the time does not suffice, some are sampled after that, because those that come first in
    /// this order are all alike.
    All,
    /// Those with few preemptions ([`Budget::preemptions`]), depth first, and then some: half of them by PCT with 2, 3 and 4
    /// changes of priority, half by drawing each step.
    Sampled,
}

/// What the judge of a scenario found.
#[derive(Debug)]
pub struct Judged {
    /// Distinct moments that were judged.
    pub moments: usize,
    /// The first one that breaks a promise.
    pub broken: Option<Broken>,
}

/// A moment that breaks a promise.
#[derive(Debug)]
pub struct Broken {
    /// What is wrong.
    pub message: String,
    /// The choices of the schedule up to this moment.
    pub tasks: Vec<usize>,
}

impl Scenario {
    /// A scenario that asserts inside its run. `run` builds everything it needs: no object of `media::sync` may come from outside.
    pub fn new(
        name: &'static str,
        what: &'static str,
        search: Search,
        run: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { name, what, search, run: Arc::new(run), judge: None }
    }

    /// The same, with a judge that is called once after the runs ([`Power::judge`](crate::medium::Power::judge)).
    #[must_use]
    pub fn judged(mut self, judge: impl Fn() -> Judged + 'static) -> Self {
        self.judge = Some(Box::new(judge));
        self
    }
}

/// How much is explored.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Schedules of a scenario that is sampled.
    pub schedules: usize,
    /// The longest time for one scenario and one way of searching.
    pub time: Duration,
    /// Every schedule of a scenario that is sampled is run first that has at most so many preemptions.
    pub preemptions: usize,
}

/// How much of a scenario has been explored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explored {
    /// Every schedule.
    All,
    /// Every schedule with at most so many preemptions, and some of the others.
    Preemptions(usize),
    /// Some schedules.
    Some,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Preemptions(1) => f.write_str("all with 1 preemption, and some"),
            Self::Preemptions(count) => write!(f, "all with {count} preemptions, and some"),
            Self::Some => f.write_str("some"),
        }
    }
}

/// What became of a scenario.
#[derive(Debug)]
pub struct Report {
    /// The name of the scenario.
    pub scenario: &'static str,
    /// The schedulers, in words.
    pub schedulers: &'static str,
    /// Schedules that were run.
    pub schedules: usize,
    /// Distinct ones among them.
    pub distinct: usize,
    /// The time it took.
    pub took: Duration,
    /// How much of it that is.
    pub explored: Explored,
    /// Distinct moments that were judged.
    pub moments: usize,
    /// The failure, if there is one.
    pub failure: Option<Failure>,
}

/// A schedule under which a scenario fails.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// The line that replays it.
    pub replay: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        write!(
            f,
            "{:<34} {:<10} {:>9} schedules {:>9} distinct {seconds:>7.1} s  {}",
            self.scenario, self.schedulers, self.schedules, self.distinct, self.explored
        )?;
        if self.moments > 0 {
            write!(f, ", {} moments judged", self.moments)?;
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nreplay: cargo xtask schedules --replay {}", self.message, self.replay)
    }
}

thread_local! {
    /// The choices of the run that is going on in this thread.
    static CHOSEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Returns the choices of this run so far.
pub(crate) fn chosen() -> Vec<usize> {
    CHOSEN.with_borrow(Clone::clone)
}

thread_local! {
    /// What a double has found wrong in this run.
    static COMPLAINT: RefCell<Option<String>> = const { RefCell::new(None) };
}

thread_local! {
    /// The last panic of this run that called the hook, and where it was.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the messages of panics, and prints none: shuttle replaces that of a task by its own.
fn keep_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let at = info.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
            let message = message_of(info.payload());
            if !message.starts_with("Task panicked") {
                PANIC.set(Some(format!("{message}{at}")));
            }
        }));
    });
}

/// Fails this run when it has ended, whatever becomes of it: a double cannot panic, because the code under test catches the
/// panics of doubles.
pub fn complain(what: String) {
    COMPLAINT.with_borrow_mut(|complaint| {
        complaint.get_or_insert(what);
    });
}

/// What a scheduler has done.
#[derive(Debug, Default)]
struct Tally {
    schedules: usize,
    distinct: HashSet<u64>,
    /// The scheduler has nothing more to choose.
    is_exhausted: bool,
}

impl Tally {
    fn end_run(&mut self) {
        CHOSEN.with_borrow_mut(|chosen| {
            if !chosen.is_empty() {
                let mut hasher = DefaultHasher::new();
                chosen.hash(&mut hasher);
                self.distinct.insert(hasher.finish());
                self.schedules += 1;
                chosen.clear();
            }
        });
    }
}

/// A scheduler that writes down what another one chooses.
#[derive(Debug)]
struct Watched<S> {
    inner: S,
    tally: Rc<RefCell<Tally>>,
    until: Instant,
}

impl<S: Scheduler> Scheduler for Watched<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let mut tally = self.tally.borrow_mut();
        tally.end_run();
        if Instant::now() >= self.until {
            return None;
        }
        let next = self.inner.new_execution();
        tally.is_exhausted = next.is_none();
        next
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let next = self.inner.next_task(runnable, current, is_yielding)?;
        CHOSEN.with_borrow_mut(|chosen| chosen.push(usize::from(next)));
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }
}

/// Follows a schedule that was written down. Where it ends (it may be the beginning of a run), the first task goes on that can.
#[derive(Debug)]
struct Replay {
    tasks: std::vec::IntoIter<usize>,
    has_begun: bool,
}

impl Scheduler for Replay {
    fn new_execution(&mut self) -> Option<Schedule> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        is_first.then(|| Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        _current: Option<TaskId>,
        _is_yielding: bool,
    ) -> Option<TaskId> {
        let first = runnable.first().map(|task| task.id());
        let Some(wanted) = self.tasks.next() else { return first };
        let wanted = TaskId::from(wanted);
        assert!(
            runnable.iter().any(|task| task.id() == wanted),
            "the line does not fit this code: {wanted:?} cannot go on here"
        );
        Some(wanted)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

/// More steps than any run takes that ends.
const STEPS_MAX: usize = 200_000;

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 512 * 1024;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    config
}

/// Runs a scenario under one scheduler. The choices and the message of the run that fails.
fn run_under<S: Scheduler + fmt::Debug + 'static>(
    scenario: &Scenario,
    scheduler: S,
    until: Instant,
    tally: &Rc<RefCell<Tally>>,
) -> Result<(), Broken> {
    keep_messages();
    CHOSEN.with_borrow_mut(Vec::clear);
    let run = Arc::clone(&scenario.run);
    let watched = Watched { inner: scheduler, tally: Rc::clone(tally), until };
    let checked = move || {
        media::sync::begin_run();
        PANIC.set(None);
        run();
        let complaint = COMPLAINT.take();
        assert!(complaint.is_none(), "{}", complaint.unwrap_or_default());
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| Runner::new(watched, config()).run(checked)));
    match outcome {
        Ok(_) => Ok(()),
        Err(panic) => {
            let tasks = chosen();
            tally.borrow_mut().end_run();
            let complaint =
                COMPLAINT.take().map_or_else(String::new, |complaint| format!("; before that: {complaint}"));
            let message = PANIC.take().unwrap_or_else(|| message_of(&*panic).to_owned());
            Err(Broken { message: message + &complaint, tasks })
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// The seeds of the sampling schedulers begin here; a failure is replayed by its line and needs no seed.
const SEED: u64 = 0x5EED;

/// Schedules between two changes of the sampling scheduler.
const ROUND: usize = 5_000;

/// Explores a scenario.
///
/// One failing run per process: shuttle leaks the threads of a run that fails. So stop after a failure.
#[must_use]
pub fn explore(scenario: &Scenario, budget: Budget) -> Report {
    let began = Instant::now();
    let until = began + budget.time;
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut schedulers;
    let mut explored = Explored::Some;
    let mut outcome;
    if scenario.search == Search::All {
        schedulers = "dfs";
        outcome = run_under(scenario, DfsScheduler::new(None, false), until, &tally);
        if tally.borrow().is_exhausted {
            explored = Explored::All;
        }
    } else {
        schedulers = "bounded dfs";
        outcome = run_under(scenario, BoundedDfs::new(budget.preemptions), until, &tally);
        if tally.borrow().is_exhausted {
            explored = Explored::Preemptions(budget.preemptions);
        }
    }
    if explored != Explored::All {
        let until = Instant::now() + budget.time;
        let budget = Budget { schedules: budget.schedules + tally.borrow().schedules, ..budget };
        let mut round = 0;
        while outcome.is_ok() && Instant::now() < until {
            let left = budget.schedules.saturating_sub(tally.borrow().schedules);
            if left == 0 {
                break;
            }
            let count = left.min(ROUND.min(budget.schedules.div_ceil(4)));
            let seed = SEED.wrapping_add(round);
            schedulers = if scenario.search == Search::All { "dfs, pct" } else { "bounded, pct" };
            outcome = if u64::is_multiple_of(round, 2) {
                let depth = 2 + usize::try_from(round / 2 % 3).unwrap_or(0);
                let scheduler = PctScheduler::new_from_seed(seed, depth, count);
                run_under(scenario, scheduler, until, &tally)
            } else {
                run_under(scenario, RandomScheduler::new_from_seed(seed, count), until, &tally)
            };
            round += 1;
        }
    }
    report(scenario, outcome, &tally, Extent { schedulers, explored, began })
}

struct Extent {
    schedulers: &'static str,
    explored: Explored,
    began: Instant,
}

fn report(
    scenario: &Scenario,
    outcome: Result<(), Broken>,
    tally: &Rc<RefCell<Tally>>,
    extent: Extent,
) -> Report {
    let judged = match (&outcome, &scenario.judge) {
        (Ok(()), Some(judge)) => judge(),
        _ => Judged { moments: 0, broken: None },
    };
    let broken = outcome.err().or(judged.broken);
    let failure = broken.map(|broken| Failure {
        message: broken.message,
        replay: line::encode(scenario.name, &broken.tasks),
    });
    let tally = tally.borrow();
    Report {
        scenario: scenario.name,
        schedulers: extent.schedulers,
        schedules: tally.schedules,
        distinct: tally.distinct.len(),
        took: extent.began.elapsed(),
        explored: extent.explored,
        moments: judged.moments,
        failure,
    }
}

/// Runs a scenario once, as a line says that a failure printed.
///
/// # Errors
/// The line is not one, or its scenario is not among these.
pub fn replay(scenarios: &[Scenario], line: &str) -> Result<Report, String> {
    let (name, tasks) = line::decode(line).ok_or_else(|| format!("not a line of a schedule: {line}"))?;
    let scenario = named(scenarios, name)?;
    let began = Instant::now();
    let tally = Rc::default();
    let scheduler = Replay { tasks: tasks.into_iter(), has_begun: false };
    let outcome = run_under(scenario, scheduler, began + Duration::from_secs(600), &tally);
    Ok(report(scenario, outcome, &tally, Extent { schedulers: "replay", explored: Explored::Some, began }))
}

/// Returns the scenario with this name.
///
/// # Errors
/// There is none; the message lists those that there are.
pub fn named<'s>(scenarios: &'s [Scenario], name: &str) -> Result<&'s Scenario, String> {
    scenarios.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        let names: Vec<&str> = scenarios.iter().map(|scenario| scenario.name).collect();
        format!("no scenario is called `{name}`; there are {}", names.join(", "))
    })
}
