//! Campaigns on a thread of their own, so that this one can show how far they are and hear Ctrl-C.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crashsim::{Campaign, CrashId, Explorer, Gauge, Options, Row, Story};
use indicatif::ProgressBar;

use super::case::{AnyCase, Profile};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

/// How often the bar moves and signals are heard.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Of one crash point: a sample is held in memory.
const STATES_MAX: u64 = 1 << 20;

/// What is explored, and how far.
pub(super) struct Plan {
    pub(super) cases: Vec<Planned>,
    pub(super) seed: u64,
    /// States visited for each case and profile.
    pub(super) budget: u64,
    pub(super) depth: u32,
    pub(super) faults: Faults,
    pub(super) threads: NonZeroUsize,
}

/// A case, and the profiles of its medium that it is put under.
pub(super) struct Planned {
    pub(super) case: Box<dyn AnyCase>,
    pub(super) profiles: Vec<Profile>,
}

/// Whether runs are made in which a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Faults {
    Injected,
    LeftOut,
}

/// A broken promise, made small, and its story.
pub(super) struct Broken {
    pub(super) id: CrashId,
    pub(super) story: Story,
}

/// One case under one profile, done.
pub(super) struct Found<'p> {
    pub(super) case: &'p dyn AnyCase,
    pub(super) row: Row<Profile>,
    pub(super) broken: Option<Broken>,
    /// Whether it was ended from outside, half-way.
    pub(super) stopped: bool,
}

/// All rows together.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    pub(super) rows: u64,
    pub(super) broken: u64,
    pub(super) points: u64,
    pub(super) visited: u64,
    pub(super) distinct: u64,
}

impl Plan {
    /// A part of the budget for each crash point, so that cases of a few points and cases of many are looked at about
    /// as long. With a budget that is large enough, every state of every crash point is visited.
    fn campaign(&self, profiles: &[Profile]) -> Campaign<Profile> {
        let share = |part: u64, most: u64| usize::try_from((self.budget / part).clamp(4, most)).unwrap_or(4);
        let options = Options {
            states_max: share(8, STATES_MAX),
            depth: self.depth,
            nested_states_max: share(1000, STATES_MAX >> 8),
            kills: true,
            seed: self.seed,
            threads: self.threads,
        };
        let faulty = Options {
            states_max: share(200, STATES_MAX >> 6),
            depth: self.depth.min(1),
            nested_states_max: 4,
            kills: false,
            ..options.clone()
        };
        Campaign {
            profiles: profiles.to_vec(),
            options,
            faults: (self.faults == Faults::Injected).then_some(faulty),
            budget: self.budget,
            seeds_max: u64::MAX,
        }
    }

    /// Does it all, and hands over each row as it is done. An error where somebody has asked to stop; what was done by
    /// then has been handed over.
    pub(super) fn carry_out(
        &self,
        interrupt: &Interrupt,
        bar: &ProgressBar,
        mut each: impl FnMut(&Found<'_>) -> Outcome<()>,
    ) -> (Totals, Outcome<()>) {
        let gauge = Gauge::default();
        let mut totals = Totals::default();
        let (mut told, mut heard) = (Ok(()), Ok(()));
        let mut watch = Watch::new(self, bar);
        thread::scope(|scope| {
            let (sender, rows) = mpsc::channel();
            let gauge = &gauge;
            scope.spawn(move || self.explore(gauge, &sender));
            loop {
                match rows.recv_timeout(LOOK_EVERY) {
                    Ok(found) => {
                        totals.add(&found);
                        watch.row_is_done(gauge);
                        if told.is_ok() {
                            told = bar.suspend(|| each(&found));
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => watch.look(gauge),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if heard.is_ok() {
                    heard = interrupt.check();
                }
                if told.is_err() || heard.is_err() {
                    gauge.stop.store(true, Ordering::Relaxed);
                }
            }
        });
        (totals, told.and(heard))
    }

    fn explore<'p>(&'p self, gauge: &Gauge, rows: &mpsc::Sender<Found<'p>>) {
        let explorer = Explorer::default();
        for Planned { case, profiles } in &self.cases {
            let (case, campaign) = (&**case, self.campaign(profiles));
            case.campaign(&explorer, &campaign, gauge, &mut |row| {
                let stopped = gauge.stop.load(Ordering::Relaxed);
                let broken = if stopped { None } else { broken(case, row, &campaign.options) };
                // Nobody listens any more: then nobody misses it.
                drop(rows.send(Found { case, row: row.clone(), broken, stopped }));
            });
            if gauge.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// The first failure of a row, made small.
fn broken(case: &dyn AnyCase, row: &Row<Profile>, options: &Options) -> Option<Broken> {
    let failure = row.report.failure.as_ref()?;
    let id = case.shrunk(&failure.id, options);
    let story = case.replay(&id).ok()?;
    Some(Broken { id, story })
}

impl Found<'_> {
    /// Also where the failure could not be told again.
    pub(super) fn is_broken(&self) -> bool {
        self.row.report.broken > 0
    }
}

impl Totals {
    fn add(&mut self, found: &Found<'_>) {
        let report = &found.row.report;
        self.rows += 1;
        self.broken += u64::from(found.is_broken());
        self.points += u64::try_from(report.points).unwrap_or(u64::MAX);
        self.visited += report.visited;
        self.distinct += report.distinct;
    }
}

/// How far it is, for the bar: rows done, and the part of the budget used in the one at hand.
struct Watch<'b> {
    bar: &'b ProgressBar,
    begun: Instant,
    budget: u64,
    rows_done: u64,
    visited_before: u64,
}

impl<'b> Watch<'b> {
    fn new(plan: &Plan, bar: &'b ProgressBar) -> Self {
        let rows: usize = plan.cases.iter().map(|planned| planned.profiles.len()).sum();
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        bar.set_length(rows.saturating_mul(plan.budget));
        Self { bar, begun: Instant::now(), budget: plan.budget, rows_done: 0, visited_before: 0 }
    }

    fn row_is_done(&mut self, gauge: &Gauge) {
        self.rows_done += 1;
        self.visited_before = gauge.visited.load(Ordering::Relaxed);
        self.look(gauge);
    }

    fn look(&self, gauge: &Gauge) {
        let visited = gauge.visited.load(Ordering::Relaxed);
        let here = visited.saturating_sub(self.visited_before).min(self.budget);
        let done = self.rows_done.saturating_mul(self.budget).saturating_add(here);
        self.bar.set_position(done);
        let elapsed = self.begun.elapsed();
        let rate = per_second(visited, elapsed);
        let planned = self.bar.length().unwrap_or(0).max(done);
        let left_ms = elapsed.as_millis() * u128::from(planned - done) / u128::from(done.max(1));
        let left = if done == 0 { String::new() } else { format!(", about {} s left", left_ms / 1000) };
        self.bar.set_message(format!("{visited} states, {rate}/s{left}"));
    }
}

/// A rate; 0 where no time has passed.
pub(super) fn per_second(count: u64, time: Duration) -> u128 {
    let micros = time.as_micros().max(1);
    if time.is_zero() { 0 } else { u128::from(count) * 1_000_000 / micros }
}

/// As many as there are processors.
pub(super) fn threads(asked: Option<NonZeroUsize>) -> Outcome<NonZeroUsize> {
    const THREADS_MAX: usize = 1024;
    match asked {
        Some(count) if count.get() > THREADS_MAX => {
            Err(Failure::usage(format!("{count} threads are too many: {THREADS_MAX} are the bound")))
        }
        Some(count) => Ok(count),
        None => Ok(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
    }
}
