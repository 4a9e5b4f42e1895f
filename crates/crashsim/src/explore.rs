//! [`Explorer`]: visits crash states and asks the workload what it makes of each.
//!
//! ```text
//! run once ─► trace ─► points ─► states ─► image ─► seen before? ─► recover ─► check ─► recover again: the same?
//!                                                                      └─► its own trace ─► points ─► … (crash in recovery)
//! ```
//!
//! What is visited, and in which classes it falls, is the same for the same seed on every machine and for every number of
//! threads. Threads only race for who looks at an image first; so a failure is looked for once more, in order, on one
//! thread, and the id that is reported is the first one of that order.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::fault::Fault;
use crate::id::{Crash, CrashId, Loss, Mutation, Scenario};
use crate::medium::Medium;
use crate::space::{Digits, PieceId, Point};
use crate::trace::{Recording, Trace};
use crate::witness::{Class, Expected, Mark, Verdict};

/// Which life of the machine and of the program this is: another boot has another id, another process another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Life {
    /// How often the power has failed.
    pub boot: u32,
    /// How often the program was started before.
    pub process: u32,
}

impl Life {
    /// After a power cut.
    #[must_use]
    pub fn rebooted(self) -> Self {
        Self { boot: self.boot + 1, process: self.process + 1 }
    }

    /// After the process died.
    #[must_use]
    pub fn restarted(self) -> Self {
        Self { process: self.process + 1, ..self }
    }
}

/// What a workload is to do this time.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Workloads made by chance are made from it.
    pub seed: u64,
    /// Operations to leave out, by number.
    pub skip: Vec<u32>,
}

/// What is put before the explorer: something that writes, something that recovers, something that checks.
///
/// All of it must be deterministic: the same medium, the same run, the same requests. None of it may panic.
pub trait Workload<M: Medium>: Send + Sync {
    /// The name in ids.
    fn name(&self) -> &str;

    /// What is on the medium before the workload begins, all of it durable, and what that means.
    fn start(&self) -> (M::Image, Expected);

    /// Writes, and tells the medium (which is its witness) what it is about to do and what it was answered.
    fn run(&self, medium: &M, run: &Run);

    /// What a program does when it starts again. The end of a recovery is never "it cannot be opened", unless that is what
    /// is promised.
    ///
    /// # Errors
    /// In words, what makes the medium unusable.
    fn recover(&self, medium: &M, life: Life) -> Result<(), String>;

    /// Compares what is there after recovery with what may be there.
    fn check(&self, medium: &M, life: Life, expected: &Expected) -> Verdict;

    /// Whether a second recovery left what the first had: by default, everything that can be seen.
    fn is_same(&self, first: &M, second: &M) -> bool {
        M::digest(&first.image()) == M::digest(&second.image())
    }

    /// How many operations a run of this seed has, if they can be left out one by one.
    fn operations(&self, _seed: u64) -> u32 {
        0
    }
}

/// A workload that ran once, to be explored.
pub struct Recorded<M: Medium> {
    /// What ran.
    pub scenario: Scenario,
    /// What was on the medium before.
    pub start: M::Image,
    /// What that means.
    pub expected: Expected,
    /// What was asked of the medium.
    pub trace: Trace<M::Op>,
    /// For each call, what may go wrong with it.
    pub possible_faults: Vec<Vec<Fault>>,
}

impl Scenario {
    /// The workload as it is.
    #[must_use]
    pub fn plain(case: impl Into<String>) -> Self {
        Self { case: case.into(), ..Self::default() }
    }

    /// Runs the workload once. [`None`] if there is no such barrier, or being late changes nothing for it.
    pub fn record<M: Medium>(&self, workload: &dyn Workload<M>) -> Option<Recorded<M>> {
        let (start, expected) = workload.start();
        let medium = M::mount(start.clone(), Recording::On);
        medium.set_faults(&self.faults);
        workload.run(&medium, &Run { seed: self.seed, skip: self.skip.clone() });
        let trace = medium.trace();
        let is_barrier =
            |record: usize| trace.records().get(record).and_then(|r| r.op()).is_some_and(M::is_barrier);
        let trace = match self.mutation {
            None => trace,
            Some(Mutation::Removed(record) | Mutation::Late(record)) if !is_barrier(record) => return None,
            Some(Mutation::Removed(record)) => trace.without(record),
            Some(Mutation::Late(record)) => trace.with_late(record)?,
        };
        let possible_faults = medium.possible_faults();
        Some(Recorded { scenario: self.clone(), start, expected, trace, possible_faults })
    }
}

/// How far an exploration goes.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many states of one crash point are visited; beyond that they are sampled.
    pub states_max: usize,
    /// How many crashes follow each other: 0 for the first alone, 1 for a crash during the recovery from it.
    pub depth: u32,
    /// How many states of one crash point of a recovery are visited.
    pub nested_states_max: usize,
    /// Whether the process also dies at every record, with the cache intact, and the power fails later.
    pub kills: bool,
    /// What samples are drawn from.
    pub seed: u64,
    /// How many threads visit.
    pub threads: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            states_max: 4096,
            depth: 1,
            nested_states_max: 64,
            kills: true,
            seed: 1,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// What is seen from outside while an exploration is on its way.
#[derive(Debug, Default)]
pub struct Gauge {
    /// How many states were visited.
    pub visited: AtomicU64,
    /// How many different images were among them.
    pub distinct: AtomicU64,
    /// Set it to end the exploration early.
    pub stop: AtomicBool,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Replays it.
    pub id: CrashId,
    /// What was found.
    pub verdict: Verdict,
}

/// What an exploration found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many crash points there are.
    pub points: usize,
    /// How many states were visited, those of recoveries included.
    pub visited: u64,
    /// How many pairs of an image and what the workload had been told were checked.
    pub checked: u64,
    /// How many images were seen that no earlier exploration of the same explorer had seen.
    pub distinct: u64,
    /// How many states the crash points have, those of recoveries not counted.
    pub space: u128,
    /// How many of these were visited. Where all were, it may be fewer than `space`: rules forbid some.
    pub covered: u64,
    /// Whether every one of these was visited.
    pub exhaustive: bool,
    /// Checked pairs by what was found.
    pub classes: BTreeMap<Class, u64>,
    /// How many of them break a promise.
    pub broken: u64,
    /// The first of these, in order.
    pub failure: Option<Failure>,
}

impl Report {
    /// Adds what another exploration found.
    pub fn add(&mut self, other: Self) {
        self.points += other.points;
        self.visited += other.visited;
        self.checked += other.checked;
        self.distinct += other.distinct;
        self.space = self.space.saturating_add(other.space);
        self.covered += other.covered;
        self.exhaustive &= other.exhaustive;
        self.broken += other.broken;
        for (class, count) in other.classes {
            *self.classes.entry(class).or_default() += count;
        }
        if self.failure.is_none() {
            self.failure = other.failure;
        }
    }
}

const SHARDS: usize = 64;

/// A set that several threads fill.
#[derive(Debug)]
struct Seen {
    shards: Vec<Mutex<HashSet<u128>>>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Seen {
    /// Whether it was not there before.
    fn insert(&self, key: u128) -> bool {
        let shard = usize::try_from(key >> 121).unwrap_or(0) % SHARDS;
        self.shards
            .get(shard)
            .is_some_and(|set| set.lock().unwrap_or_else(PoisonError::into_inner).insert(key))
    }
}

/// Explores workloads, one after the other, and counts the images it has seen in all of them.
#[derive(Debug, Default)]
pub struct Explorer {
    images: Seen,
}

/// What the workload had been told at a crash point.
#[derive(Clone)]
struct Told {
    expected: Arc<Expected>,
    digest: u64,
}

impl Told {
    fn nothing(expected: &Expected) -> Self {
        Self { expected: Arc::new(expected.clone()), digest: 0 }
    }

    fn and(&self, marks: &[Mark]) -> Self {
        let news = marks.iter().filter(|mark| !matches!(mark, Mark::Point(_)));
        let mut hash = Xxh3::new();
        self.digest.hash(&mut hash);
        let mut expected = None;
        for mark in news {
            mark.hash(&mut hash);
            expected = Some(expected.unwrap_or_else(|| Expected::clone(&self.expected)).after([mark]));
        }
        match expected {
            None => self.clone(),
            Some(expected) => Self { expected: Arc::new(expected), digest: hash.finish() },
        }
    }
}

/// A crash point and what was told there.
struct Stop<M: Medium> {
    point: Point<M::Image, M::Piece>,
    told: Told,
}

fn stops<M: Medium>(
    start: &M::Image,
    trace: &Trace<M::Op>,
    told: &Told,
    profile: M::Profile,
) -> Vec<Stop<M>> {
    let mut told = told.clone();
    let mut heard = 0;
    let mut stops = Vec::new();
    for point in M::points(start, trace, profile) {
        let news: Vec<Mark> = trace
            .records()
            .get(heard..point.at)
            .unwrap_or(&[])
            .iter()
            .filter_map(|record| record.mark())
            .cloned()
            .collect();
        heard = point.at;
        told = told.and(&news);
        stops.push(Stop { point, told: told.clone() });
    }
    stops
}

/// How the present image came about: crashes, the last one first.
struct Frame<'f> {
    before: Option<&'f Frame<'f>>,
    crash: &'f dyn Fn() -> Crash,
}

impl Frame<'_> {
    fn crashes(&self) -> Vec<Crash> {
        let mut crashes = self.before.map(Frame::crashes).unwrap_or_default();
        crashes.push((self.crash)());
        crashes
    }
}

/// What happened at one crash point, as an id says it.
pub(crate) fn crash_of<I, P>(point: &Point<I, P>, digits: &[u32]) -> Crash {
    let kept = point.kept(digits);
    let all = point.kept(&point.everything_kept());
    let lost: Vec<_> = all.iter().filter(|piece| !kept.contains(piece)).copied().collect();
    let is_what_is_left = kept.iter().all(|piece| all.contains(piece));
    let loss = if is_what_is_left && lost.len() <= kept.len() { Loss::Lose(lost) } else { Loss::Keep(kept) };
    Crash::Power { at: point.at, loss, junk: point.junk(digits) }
}

/// The state that an id names.
pub(crate) fn digits_of<I, P>(point: &Point<I, P>, loss: &Loss, junk: &[PieceId]) -> Option<Digits> {
    match loss {
        Loss::Keep(kept) => point.keeping(kept, junk),
        Loss::Lose(lost) => {
            let all = point.kept(&point.everything_kept());
            if lost.iter().any(|piece| !all.contains(piece)) {
                return None;
            }
            let kept: Vec<_> = all.into_iter().filter(|piece| !lost.contains(piece)).collect();
            point.keeping(&kept, junk)
        }
    }
}

/// The image of a state.
pub(crate) fn image_of<M: Medium>(point: &Point<M::Image, M::Piece>, digits: &[u32]) -> M::Image {
    let mut image = point.base.clone();
    point.build(digits, |piece| M::apply(&mut image, piece));
    M::settle(&mut image);
    image
}

/// Recovers, checks against what was told before and during that, and recovers once more. The requests of the first recovery are left in `medium`'s trace.
pub(crate) fn examine<M: Medium>(
    workload: &dyn Workload<M>,
    medium: &M,
    before: u128,
    expected: &Expected,
    life: Life,
) -> (Verdict, Trace<M::Op>) {
    let heard = medium.trace().len();
    let recovered = workload.recover(medium, life);
    let trace = medium.trace();
    if let Err(why) = recovered {
        return (Verdict::broken(Class::CannotOpen, why), trace);
    }
    let recovered = medium.image();
    // A recovery may go on to work, and be told something itself.
    let news = trace.records().get(heard..).unwrap_or(&[]).iter().filter_map(|record| record.mark());
    let verdict = workload.check(medium, life, &expected.clone().after(news));
    // What changed nothing once changes nothing the second time.
    if verdict.broken.is_some() || M::digest(&recovered) == before {
        return (verdict, trace);
    }
    let again = M::mount(recovered, Recording::Off);
    let second = match workload.recover(&again, life.restarted()) {
        Err(why) => Verdict::broken(Class::CannotOpen, format!("the second recovery: {why}")),
        Ok(()) if !workload.is_same(medium, &again) => {
            Verdict::broken(Class::NotIdempotent, "a second recovery changed what the first had left")
        }
        Ok(()) => Verdict::of(Class::Old),
    };
    (verdict.worse(second), trace)
}

struct Exploration<'e, M: Medium> {
    workload: &'e dyn Workload<M>,
    recorded: &'e Recorded<M>,
    profile: M::Profile,
    options: &'e Options,
    gauge: &'e Gauge,
    images: &'e Seen,
    seen: Seen,
    /// Ends at the first broken promise.
    looking_for_first: bool,
    found: AtomicBool,
}

/// Some states of one stop, or a kill: what a thread takes on at a time.
enum Job {
    States { stop: usize, from: u128, to: u128 },
    Sample { stop: usize },
    Kill { at: usize },
}

/// How many states make a job.
const JOB_STATES: u128 = 512;

impl Explorer {
    /// Visits the states of a recorded workload under one profile.
    pub fn explore<M: Medium>(
        &self,
        workload: &dyn Workload<M>,
        recorded: &Recorded<M>,
        profile: M::Profile,
        options: &Options,
        gauge: &Gauge,
    ) -> Report {
        let exploration = |looking_for_first| Exploration {
            workload,
            recorded,
            profile,
            options,
            gauge,
            images: &self.images,
            seen: Seen::default(),
            looking_for_first,
            found: AtomicBool::new(false),
        };
        let mut report = exploration(false).run(options.threads);
        if report.broken > 0 {
            report.failure = exploration(true).run(NonZeroUsize::MIN).failure;
        }
        report
    }

    /// The first broken promise in order, if there is any.
    pub fn first_failure<M: Medium>(
        &self,
        workload: &dyn Workload<M>,
        recorded: &Recorded<M>,
        profile: M::Profile,
        options: &Options,
    ) -> Option<Failure> {
        let exploration = Exploration {
            workload,
            recorded,
            profile,
            options,
            gauge: &Gauge::default(),
            images: &self.images,
            seen: Seen::default(),
            looking_for_first: true,
            found: AtomicBool::new(false),
        };
        exploration.run(NonZeroUsize::MIN).failure
    }
}

impl<M: Medium> Exploration<'_, M> {
    fn run(&self, threads: NonZeroUsize) -> Report {
        let told = Told::nothing(&self.recorded.expected);
        let stops: Vec<Stop<M>> = stops::<M>(&self.recorded.start, &self.recorded.trace, &told, self.profile);
        let mut report = Report { points: stops.len(), exhaustive: true, ..Report::default() };
        let mut jobs = Vec::new();
        for (index, stop) in stops.iter().enumerate() {
            let combinations = stop.point.combinations();
            report.space = report.space.saturating_add(combinations);
            if combinations <= u128::try_from(self.options.states_max).unwrap_or(u128::MAX) {
                let mut from = 0;
                while from < combinations {
                    let to = combinations.min(from + JOB_STATES);
                    jobs.push(Job::States { stop: index, from, to });
                    from = to;
                }
            } else {
                report.exhaustive = false;
                jobs.push(Job::Sample { stop: index });
            }
        }
        if self.options.kills {
            jobs.extend((0..=self.recorded.trace.len()).map(|at| Job::Kill { at }));
        }
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<Report>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            while let Some((job, result)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                jobs.get(index).zip(results.get(index))
            } {
                if self.is_over() {
                    break;
                }
                let mut visitor =
                    Visitor { of: self, report: Report { exhaustive: true, ..Report::default() } };
                visitor.carry_out(job, &stops);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(visitor.report);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.get() {
                scope.spawn(work);
            }
            work();
        });
        for result in results {
            if let Some(part) = result.into_inner().unwrap_or_else(PoisonError::into_inner) {
                report.add(part);
            }
        }
        report
    }

    fn is_over(&self) -> bool {
        self.gauge.stop.load(Ordering::Relaxed)
            || (self.looking_for_first && self.found.load(Ordering::Relaxed))
    }

    /// Where samples of a point are drawn from.
    fn seed(&self, told: &Told, at: usize, depth: u32) -> u64 {
        let mut hash = Xxh3::with_seed(self.options.seed);
        (told.digest, at, depth).hash(&mut hash);
        hash.finish()
    }
}

struct Visitor<'v, 'e, M: Medium> {
    of: &'v Exploration<'e, M>,
    report: Report,
}

impl<M: Medium> Visitor<'_, '_, M> {
    fn carry_out(&mut self, job: &Job, stops: &[Stop<M>]) {
        let (depth, life) = (self.of.options.depth, Life::default());
        match *job {
            Job::States { stop, from, to } => {
                let Some(stop) = stops.get(stop) else { return };
                for number in from..to {
                    let digits = stop.point.digits(number);
                    if stop.point.permits(&digits) {
                        self.visit(stop, &digits, None, life.rebooted(), depth);
                    }
                }
            }
            Job::Sample { stop } => {
                let Some(stop) = stops.get(stop) else { return };
                let seed = self.of.seed(&stop.told, stop.point.at, depth);
                for digits in stop.point.sample(self.of.options.states_max, seed) {
                    self.visit(stop, &digits, None, life.rebooted(), depth);
                }
            }
            Job::Kill { at } => self.kill(at, life.restarted()),
        }
    }

    /// One state of a stop.
    fn visit(&mut self, stop: &Stop<M>, digits: &[u32], before: Option<&Frame<'_>>, life: Life, depth: u32) {
        if self.of.is_over() {
            return;
        }
        let image = image_of::<M>(&stop.point, digits);
        let digest = M::digest(&image);
        self.report.visited += 1;
        self.report.covered += u64::from(before.is_none());
        self.of.gauge.visited.fetch_add(1, Ordering::Relaxed);
        self.count_image(digest);
        if !self.of.seen.insert(key(digest, stop.told.digest, life, depth)) {
            return;
        }
        let recording = if depth > 0 { Recording::On } else { Recording::Off };
        let medium = M::mount(image.clone(), recording);
        let (verdict, trace) = examine(self.of.workload, &medium, digest, &stop.told.expected, life);
        let crash = || crash_of(&stop.point, digits);
        let frame = Frame { before, crash: &crash };
        self.enter(&verdict, &frame);
        // A recovery that is known to fail need not fail again half-way.
        if depth > 0 && verdict.broken.is_none() {
            self.nested(&image, &trace, 0, &stop.told, &frame, life, depth - 1);
        }
    }

    fn count_image(&mut self, digest: u128) {
        // A search for what is known to be there counts nothing.
        if !self.of.looking_for_first && self.of.images.insert(digest) {
            self.report.distinct += 1;
            self.of.gauge.distinct.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&mut self, verdict: &Verdict, frame: &Frame<'_>) {
        self.report.checked += 1;
        *self.report.classes.entry(verdict.class).or_default() += 1;
        if verdict.broken.is_none() {
            return;
        }
        self.report.broken += 1;
        if self.of.looking_for_first && !self.of.found.swap(true, Ordering::Relaxed) {
            let id = CrashId {
                scenario: self.of.recorded.scenario.clone(),
                profile: M::profile_name(self.of.profile).to_owned(),
                crashes: frame.crashes(),
            };
            self.report.failure = Some(Failure { id, verdict: verdict.clone() });
        }
    }

    /// The power fails during what `trace` did to `start`, from record `first` on.
    #[expect(clippy::too_many_arguments, reason = "each is one fact about where we are")]
    fn nested(
        &mut self,
        start: &M::Image,
        trace: &Trace<M::Op>,
        first: usize,
        told: &Told,
        before: &Frame<'_>,
        life: Life,
        depth: u32,
    ) {
        let requests = trace.records().get(first..).unwrap_or(&[]);
        // A recovery that neither asked nor promised anything is over before the power can fail in it.
        if requests.iter().all(|record| matches!(record.mark(), Some(Mark::Point(_)))) {
            return;
        }
        let states_max = self.of.options.nested_states_max;
        for stop in stops::<M>(start, trace, told, self.of.profile) {
            // What was there before is another job's.
            if stop.point.at <= first {
                continue;
            }
            let combinations = stop.point.combinations();
            if combinations <= u128::try_from(states_max).unwrap_or(u128::MAX) {
                for digits in (0..combinations).map(|number| stop.point.digits(number)) {
                    if stop.point.permits(&digits) {
                        self.visit(&stop, &digits, Some(before), life.rebooted(), depth);
                    }
                }
            } else {
                let seed = self.of.seed(&stop.told, stop.point.at, depth);
                for digits in stop.point.sample(states_max, seed) {
                    self.visit(&stop, &digits, Some(before), life.rebooted(), depth);
                }
            }
        }
    }

    /// The process dies with `at` records done; the next one recovers, and only then the power fails.
    fn kill(&mut self, at: usize, life: Life) {
        let Recorded { start, expected, trace, .. } = self.of.recorded;
        let so_far = trace.until(at);
        let told = Told::nothing(expected).and(&so_far.marks_until(at));
        let medium = M::resume(start, so_far);
        let image = medium.image();
        let digest = M::digest(&image);
        self.report.visited += 1;
        self.of.gauge.visited.fetch_add(1, Ordering::Relaxed);
        self.count_image(digest);
        let (verdict, trace) = examine(self.of.workload, &medium, digest, &told.expected, life);
        let crash = || Crash::Kill { at };
        let frame = Frame { before: None, crash: &crash };
        self.enter(&verdict, &frame);
        if self.of.options.depth > 0 && verdict.broken.is_none() {
            let told = Told::nothing(expected);
            self.nested(start, &trace, at, &told, &frame, life, self.of.options.depth - 1);
        }
    }
}

/// What makes two visits the same.
fn key(digest: u128, told: u64, life: Life, depth: u32) -> u128 {
    let mut text = [0_u8; 36];
    let parts: [&[u8]; 5] = [
        &digest.to_le_bytes(),
        &told.to_le_bytes(),
        &life.boot.to_le_bytes(),
        &life.process.to_le_bytes(),
        &depth.to_le_bytes(),
    ];
    for (to, from) in text.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    xxh3_128(&text)
}
