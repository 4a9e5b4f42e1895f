//! [`CrashId`]: one line that names one crash, and replays it.
//!
//! ```text
//! replace/posix-min@11:lose=6,9            the case, the profile, the crash point, what was lost there
//! mixed#42:skip=1,3/xfs@20:keep=17.2        a workload made from a seed, two of its operations left out
//! append%7:fail28/ext4-ordered@9:none       call 7 answered with error 28 (disk full)
//! replace~8/posix-min@14:lose=6             with the barrier at record 8 removed; `~8late`: made late
//! append/btrfs@kill12+@31:all+@4:none       killed at record 12; the power failed at record 31 of the same trace;
//!                                           and once more at record 4 of the recovery after that
//! put/any-subset-torn@9:lose=6.1;junk=7     blocks only: of request 7, the first block is garbage
//! ```

use std::fmt;
use std::str::FromStr;

use crate::fault::Fault;
use crate::space::PieceId;

/// What ran: a case, and what was done to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scenario {
    /// The name of the case.
    pub case: String,
    /// What a workload made by chance is made from; 0 for all others.
    pub seed: u64,
    /// Operations of the workload that are left out, by number.
    pub skip: Vec<u32>,
    /// Calls that go wrong, by number.
    pub faults: Vec<(u64, Fault)>,
    /// A barrier that is taken away.
    pub mutation: Option<Mutation>,
}

/// What is done to a barrier, to see whether somebody notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// The barrier at this record does nothing, and says that it did.
    Removed(usize),
    /// The barrier at this record does its work only right before the next acknowledgement.
    Late(usize),
}

/// How the lights went out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crash {
    /// The process died with this many records done; nothing was lost.
    Kill {
        /// How many records.
        at: usize,
    },
    /// The power failed with this many records begun.
    Power {
        /// How many records.
        at: usize,
        /// What was lost.
        loss: Loss,
        /// What was damaged beyond that.
        junk: Vec<PieceId>,
    },
}

/// What a power cut did to the pieces that no barrier had covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Only these are there.
    Keep(Vec<PieceId>),
    /// All are there, in their last version, but for these.
    Lose(Vec<PieceId>),
}

/// A crash, or several in a row, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashId {
    /// What ran.
    pub scenario: Scenario,
    /// The name of the profile.
    pub profile: String,
    /// One after the other: the second is a crash during the recovery from the first.
    pub crashes: Vec<Crash>,
}

/// A line is not the id of a crash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a crash: {what} (`{at}`)")]
pub struct BadId {
    what: &'static str,
    at: String,
}

fn bad(what: &'static str, at: &str) -> BadId {
    BadId { what, at: at.chars().take(80).collect() }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.case)?;
        if self.seed != 0 {
            write!(f, "#{}", self.seed)?;
        }
        if !self.skip.is_empty() {
            write!(f, ":skip={}", joined(&self.skip))?;
        }
        for (call, fault) in &self.faults {
            write!(f, "%{call}:{fault}")?;
        }
        match self.mutation {
            None => Ok(()),
            Some(Mutation::Removed(record)) => write!(f, "~{record}"),
            Some(Mutation::Late(record)) => write!(f, "~{record}late"),
        }
    }
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { at } => write!(f, "@kill{at}"),
            Self::Power { at, loss, junk } => {
                write!(f, "@{at}:{loss}")?;
                if junk.is_empty() { Ok(()) } else { write!(f, ";junk={}", joined(junk)) }
            }
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lose(pieces) if pieces.is_empty() => f.write_str("all"),
            Self::Keep(pieces) if pieces.is_empty() => f.write_str("none"),
            Self::Lose(pieces) => write!(f, "lose={}", joined(pieces)),
            Self::Keep(pieces) => write!(f, "keep={}", joined(pieces)),
        }
    }
}

impl fmt::Display for CrashId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scenario, self.profile)?;
        for (index, crash) in self.crashes.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            crash.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for CrashId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let text = text.trim();
        let (scenario, rest) =
            text.split_once('/').ok_or_else(|| bad("a `/` before the profile is missing", text))?;
        let (profile, crashes) = match rest.find('@') {
            Some(at) => rest.split_at(at),
            None => return Err(bad("a `@` before the crash point is missing", rest)),
        };
        Ok(Self {
            scenario: scenario.parse()?,
            profile: profile.to_owned(),
            crashes: crashes.split('+').map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

impl FromStr for Scenario {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let mut scenario = Self::default();
        let (text, mutation) = match text.split_once('~') {
            Some((head, mutation)) => (head, Some(mutation)),
            None => (text, None),
        };
        scenario.mutation = mutation.map(parse_mutation).transpose()?;
        let mut parts = text.split('%');
        let head = parts.next().unwrap_or_default();
        for part in parts {
            let (call, fault) = part.split_once(':').ok_or_else(|| bad("a fault is `%CALL:FAULT`", part))?;
            let call = call.parse().map_err(|_| bad("no number of a call", call))?;
            let fault = fault.parse().map_err(|_| bad("no fault (`fail5`, `after5`, `short1`)", fault))?;
            scenario.faults.push((call, fault));
        }
        let (head, skip) = match head.split_once(":skip=") {
            Some((head, skip)) => (head, skip),
            None => (head, ""),
        };
        for number in skip.split(',').filter(|number| !number.is_empty()) {
            scenario.skip.push(number.parse().map_err(|_| bad("no number of an operation", number))?);
        }
        let (case, seed) = head.split_once('#').unwrap_or((head, "0"));
        scenario.seed = seed.parse().map_err(|_| bad("no seed", seed))?;
        if case.is_empty() {
            return Err(bad("the case is missing", text));
        }
        scenario.case = case.to_owned();
        Ok(scenario)
    }
}

fn parse_mutation(text: &str) -> Result<Mutation, BadId> {
    let (number, kind): (&str, fn(usize) -> Mutation) = match text.strip_suffix("late") {
        Some(number) => (number, Mutation::Late),
        None => (text, Mutation::Removed),
    };
    number.parse().map(kind).map_err(|_| bad("no number of a record", number))
}

impl FromStr for Crash {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let rest = text.strip_prefix('@').ok_or_else(|| bad("a crash begins with `@`", text))?;
        let number = |text: &str| text.parse().map_err(|_| bad("no number of a record", text));
        if let Some(at) = rest.strip_prefix("kill") {
            return Ok(Self::Kill { at: number(at)? });
        }
        let (at, loss) =
            rest.split_once(':').ok_or_else(|| bad("a `:` after the crash point is missing", rest))?;
        let at = number(at)?;
        let (loss, junk) = match loss.split_once(";junk=") {
            Some((loss, junk)) => (loss, parse_pieces(junk)?),
            None => (loss, Vec::new()),
        };
        let loss = match loss {
            "all" => Loss::Lose(Vec::new()),
            "none" => Loss::Keep(Vec::new()),
            _ => match loss.split_once('=') {
                Some(("keep", list)) => Loss::Keep(parse_pieces(list)?),
                Some(("lose", list)) => Loss::Lose(parse_pieces(list)?),
                _ => return Err(bad("`all`, `none`, `keep=…` or `lose=…` is wanted", loss)),
            },
        };
        Ok(Self::Power { at, loss, junk })
    }
}

fn parse_pieces(list: &str) -> Result<Vec<PieceId>, BadId> {
    let piece = |text: &str| {
        let (record, part) = text.split_once('.').unwrap_or((text, "0"));
        let number = |text: &str| text.parse().map_err(|_| bad("no piece (`6` or `6.2`)", text));
        Ok(PieceId { record: number(record)?, part: number(part)? })
    };
    list.split(',').map(piece).collect()
}
