//! Replaying one crash, telling its story, and making it smaller.

use std::fmt;

use crate::explore::{Explorer, Life, Options, Recorded, Workload, crash_of, digits_of, examine, image_of};
use crate::id::{Crash, CrashId, Loss, Mutation, Scenario};
use crate::medium::Medium;
use crate::space::{Digits, PieceId, Point, When};
use crate::trace::{Event, Record, Recording, Trace};
use crate::witness::{Expected, Mark, Verdict};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// A barrier had covered it.
    Durable,
    /// No barrier had, and it survived.
    Survived,
    /// Some of its pieces survived.
    InPart,
    /// Where it should be, there is something that nobody wrote.
    Junk,
    /// It did not survive.
    Lost,
    /// It makes others durable.
    Barrier,
    /// It is the barrier that was taken away.
    Removed,
    /// What the workload was told.
    Told,
    /// A named point that the engine passed: no request, and no promise.
    Passed,
}

impl Became {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Survived => "survived",
            Self::InPart => "in part",
            Self::Junk => "JUNK",
            Self::Lost => "LOST",
            Self::Barrier => "barrier",
            Self::Removed => "REMOVED",
            Self::Told | Self::Passed => "",
        }
    }
}

/// One line of a story.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its place in the trace.
    pub index: usize,
    /// What was asked, or told.
    pub text: String,
    /// What became of it.
    pub became: Became,
}

/// Everything up to one crash.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What was asked and told, in order.
    pub lines: Vec<Line>,
    /// How it ended.
    pub crash: Crash,
}

/// One crash, told from the beginning.
#[derive(Debug, Clone)]
pub struct Story {
    /// What was replayed.
    pub id: CrashId,
    /// One for each crash.
    pub scenes: Vec<Scene>,
    /// What was found after the last recovery.
    pub verdict: Verdict,
}

/// Why an id cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// There is no such profile.
    #[error("there is no profile `{0}`")]
    NoProfile(String),
    /// The barrier of the id cannot be changed so.
    #[error("record {0} is no barrier that could be taken away or made late")]
    NoBarrier(usize),
    /// The workload has no such crash point: it is not the one the id was made with.
    #[error(
        "there is no crash point {at} in {records} records: the id may be of another version of the case"
    )]
    NoPoint {
        /// The point of the id.
        at: usize,
        /// How many records there are.
        records: usize,
    },
    /// The pieces of the id cannot survive together, or are not in flight at that point.
    #[error("at crash point {at} no state has exactly what the id says")]
    NoState {
        /// The point of the id.
        at: usize,
    },
}

/// Without the points that the engine passed; `{:#}` has them too.
impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.id)?;
        for (index, scene) in self.scenes.iter().enumerate() {
            match index {
                0 => writeln!(
                    f,
                    "\nWhat was done, and what became of it (\"durable\" by a barrier; the rest by chance):"
                )?,
                _ => writeln!(f, "\nThen the program started again:")?,
            }
            for line in &scene.lines {
                match line.became {
                    Became::Passed if !f.alternate() => {}
                    Became::Told | Became::Passed => {
                        writeln!(f, "{:>5}  {:<9} -- {}", line.index, "", line.text)?;
                    }
                    became => writeln!(f, "{:>5}  {:<9} {}", line.index, became.word(), line.text)?,
                }
            }
            match &scene.crash {
                Crash::Kill { .. } => writeln!(f, "       ✂ the process dies here; nothing is lost")?,
                Crash::Power { .. } => writeln!(f, "       ⚡ the power fails here")?,
            }
        }
        let class = self.verdict.class;
        match &self.verdict.broken {
            Some(why) => write!(f, "\nAfter recovery: BROKEN PROMISE ({class})\n  {why}"),
            None => write!(f, "\nAfter recovery: every promise is kept; found: {}.", class.in_words()),
        }
    }
}

/// Where a replay stands before a crash.
struct Stage<M: Medium> {
    start: M::Image,
    trace: Trace<M::Op>,
    /// What had been told before `start`.
    expected: Expected,
    life: Life,
    /// Up to which record the past is past: a process has died there.
    first: usize,
}

/// Runs the workload of an id once more and lets it crash as the id says.
///
/// # Errors
/// [`ReplayError`].
pub fn replay<M: Medium>(workload: &dyn Workload<M>, id: &CrashId) -> Result<Story, ReplayError> {
    let profile = M::profile_named(&id.profile).ok_or_else(|| ReplayError::NoProfile(id.profile.clone()))?;
    let recorded = record(workload, id)?;
    let removed = removed_barrier(workload, id);
    let Recorded { start, trace, expected, .. } = recorded;
    let mut stage = Stage::<M> { start, trace, expected, life: Life::default(), first: 0 };
    let mut scenes = Vec::new();
    let mut verdict = None;
    for (index, crash) in id.crashes.iter().enumerate() {
        let removed = removed.as_ref().filter(|_| index == 0);
        verdict = Some(match crash {
            // A process that came after another cannot die, nor the power fail, before that one did.
            Crash::Kill { at } | Crash::Power { at, .. } if *at > stage.trace.len() || *at < stage.first => {
                return Err(ReplayError::NoPoint { at: *at, records: stage.trace.len() });
            }
            Crash::Kill { at } => {
                scenes.push(Scene {
                    lines: told_until::<M>(&stage.start, &stage.trace, *at, removed),
                    crash: crash.clone(),
                });
                die(workload, &mut stage, *at)
            }
            Crash::Power { at, loss, junk } => {
                let (point, digits) = state_of(&stage, profile, *at, loss, junk)?;
                let lines = lines(&stage, &point, &digits, removed);
                scenes.push(Scene { lines, crash: crash.clone() });
                cut(workload, &mut stage, &point, &digits)
            }
        });
    }
    let nothing = || ReplayError::NoPoint { at: 0, records: 0 };
    Ok(Story { id: id.clone(), scenes, verdict: verdict.ok_or_else(nothing)? })
}

fn record<M: Medium>(workload: &dyn Workload<M>, id: &CrashId) -> Result<Recorded<M>, ReplayError> {
    let barrier = match id.scenario.mutation {
        Some(Mutation::Removed(record) | Mutation::Late(record)) => record,
        None => 0,
    };
    id.scenario.record(workload).ok_or(ReplayError::NoBarrier(barrier))
}

/// The barrier that an id takes away: its place, and what it would have been.
fn removed_barrier<M: Medium>(workload: &dyn Workload<M>, id: &CrashId) -> Option<(usize, String)> {
    let Some(Mutation::Removed(at)) = id.scenario.mutation else { return None };
    let whole = Scenario { mutation: None, ..id.scenario.clone() }.record(workload)?;
    let text = in_words::<M>(&whole.start, &whole.trace).into_iter().nth(at)?;
    Some((at, text))
}

/// A crash point and one of its states.
type State<M> = (Point<<M as Medium>::Image, <M as Medium>::Piece>, Digits);

fn state_of<M: Medium>(
    stage: &Stage<M>,
    profile: M::Profile,
    at: usize,
    loss: &Loss,
    junk: &[PieceId],
) -> Result<State<M>, ReplayError> {
    let point = M::points(&stage.start, &stage.trace, profile).into_iter().find(|point| point.at == at);
    let point = point.ok_or(ReplayError::NoPoint { at, records: stage.trace.len() })?;
    let digits = digits_of(&point, loss, junk).ok_or(ReplayError::NoState { at })?;
    Ok((point, digits))
}

/// The process dies; the next one recovers on what it finds.
fn die<M: Medium>(workload: &dyn Workload<M>, stage: &mut Stage<M>, at: usize) -> Verdict {
    let so_far = stage.trace.until(at);
    let told = stage.expected.clone().after(&so_far.marks_until(at));
    let medium = M::resume(&stage.start, so_far);
    let before = M::digest(&medium.image());
    stage.life = stage.life.restarted();
    stage.first = at;
    let (verdict, trace) = examine(workload, &medium, before, &told, stage.life);
    stage.trace = trace;
    verdict
}

/// The power fails; the next process recovers on what is left.
fn cut<M: Medium>(
    workload: &dyn Workload<M>,
    stage: &mut Stage<M>,
    point: &Point<M::Image, M::Piece>,
    digits: &[u32],
) -> Verdict {
    stage.expected = stage.expected.clone().after(&stage.trace.marks_until(point.at));
    stage.start = image_of::<M>(point, digits);
    stage.life = stage.life.rebooted();
    stage.first = 0;
    let medium = M::mount(stage.start.clone(), Recording::On);
    let before = M::digest(&stage.start);
    let (verdict, trace) = examine(workload, &medium, before, &stage.expected, stage.life);
    stage.trace = trace;
    verdict
}

/// A trace in words, one line a record.
#[must_use]
pub fn in_words<M: Medium>(start: &M::Image, trace: &Trace<M::Op>) -> Vec<String> {
    let mut requests = M::requests_in_words(start, trace).into_iter();
    let words = |record: &Record<M::Op>| match &record.event {
        Event::Op(op) => requests.next().unwrap_or_else(|| op.to_string()),
        Event::Mark(mark) => mark.to_string(),
    };
    trace.records().iter().map(words).collect()
}

fn told_until<M: Medium>(
    start: &M::Image,
    trace: &Trace<M::Op>,
    at: usize,
    removed: Option<&(usize, String)>,
) -> Vec<Line> {
    let words = in_words::<M>(start, trace);
    let line = |(index, (record, text)): (usize, (&Record<M::Op>, String))| match &record.event {
        Event::Mark(_) if removed.is_some_and(|(at, _)| *at == index) => {
            let text = removed.map_or(text, |(_, text)| text.clone());
            Line { index, text, became: Became::Removed }
        }
        Event::Op(op) if M::is_barrier(op) => Line { index, text, became: Became::Barrier },
        Event::Op(_) => Line { index, text, became: Became::Survived },
        Event::Mark(Mark::Point(_)) => Line { index, text, became: Became::Passed },
        Event::Mark(_) => Line { index, text, became: Became::Told },
    };
    trace.records().iter().take(at).zip(words).enumerate().map(line).collect()
}

fn lines<M: Medium>(
    stage: &Stage<M>,
    point: &Point<M::Image, M::Piece>,
    digits: &[u32],
    removed: Option<&(usize, String)>,
) -> Vec<Line> {
    let mut lines = told_until::<M>(&stage.start, &stage.trace, point.at, removed);
    for line in lines.iter_mut().filter(|line| line.became == Became::Survived) {
        let pieces = point.steps.iter().filter(|step| usize::try_from(step.id.record) == Ok(line.index));
        let (mut kept, mut lost, mut free, mut junk) = (0, Vec::new(), 0, 0);
        for step in pieces {
            if point.is_junk(step) {
                junk += usize::from(step.is_in(digits));
                continue;
            }
            free += usize::from(step.when != When::Always);
            // An older version in the place of a newer one is lost as well.
            if step.is_in(digits) { kept += 1 } else { lost.push(step.piece.to_string()) }
        }
        line.became = match (kept, lost.len()) {
            _ if junk > 0 => Became::Junk,
            _ if free == 0 => Became::Durable,
            (_, 0) => Became::Survived,
            (0, _) => Became::Lost,
            (_, _) => Became::InPart,
        };
        if line.became == Became::InPart {
            line.text.push_str(&lost_words(&lost));
        }
    }
    lines
}

/// How many lost pieces of one request are named.
const NAMED_MAX: usize = 3;

fn lost_words(lost: &[String]) -> String {
    let named = lost.get(..NAMED_MAX.min(lost.len())).unwrap_or(lost).join(", ");
    let more = lost.len().saturating_sub(NAMED_MAX);
    if more == 0 { format!(" (lost: {named})") } else { format!(" (lost: {named} and {more} more)") }
}

/// Makes a failure smaller: leaves out operations of the workload as long as something still breaks, and then keeps
/// whatever need not be lost. The result breaks a promise too, not always the same one.
pub fn shrink<M: Medium>(workload: &dyn Workload<M>, id: &CrashId, options: &Options) -> CrashId {
    let Some(profile) = M::profile_named(&id.profile) else { return id.clone() };
    let mut best = id.clone();
    for operation in 0..workload.operations(id.scenario.seed) {
        if best.scenario.mutation.is_some() || !best.scenario.faults.is_empty() {
            // These are counted in records and calls, which others would then be.
            break;
        }
        let mut scenario = best.scenario.clone();
        scenario.skip.push(operation);
        let found = scenario
            .record(workload)
            .and_then(|recorded| Explorer::default().first_failure(workload, &recorded, profile, options));
        if let Some(failure) = found {
            best = failure.id;
        }
    }
    keep_what_need_not_be_lost(workload, profile, best)
}

fn keep_what_need_not_be_lost<M: Medium>(
    workload: &dyn Workload<M>,
    profile: M::Profile,
    mut best: CrashId,
) -> CrashId {
    let Some((Crash::Power { at, loss, junk }, [])) =
        best.crashes.split_first().map(|(first, rest)| (first.clone(), rest))
    else {
        return best;
    };
    let Ok(recorded) = record(workload, &best) else { return best };
    let stage = Stage::<M> {
        start: recorded.start,
        trace: recorded.trace,
        expected: recorded.expected,
        life: Life::default(),
        first: 0,
    };
    let Ok((point, mut digits)) = state_of(&stage, profile, at, &loss, &junk) else { return best };
    for (index, axis) in point.axes.iter().enumerate() {
        let mut fuller = digits.clone();
        if let Some(digit) = fuller.get_mut(index) {
            *digit = axis.whole();
        }
        if fuller == digits || !point.permits(&fuller) {
            continue;
        }
        let candidate = CrashId { crashes: vec![crash_of(&point, &fuller)], ..best.clone() };
        if replay(workload, &candidate).is_ok_and(|story| story.verdict.broken.is_some()) {
            digits = fuller;
            best = candidate;
        }
    }
    best
}

impl Story {
    /// What had been acknowledged when the power failed first.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        let acknowledged = Mark::Acknowledged.to_string();
        let lines = self.scenes.first().map_or(&[][..], |scene| &scene.lines);
        lines.iter().filter(|line| line.became == Became::Told && line.text == acknowledged).count()
    }
}
