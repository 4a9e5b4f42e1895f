//! [`Point`]: a crash point, and every state that the medium may be found in if the power fails there.
//!
//! What is in flight at a crash point is a list of **pieces**: the parts of requests that survive or not by themselves. A
//! state is one choice on each **axis**:
//!
//! - a [`Bit`](AxisKind::Bit): one piece, there or not;
//! - a [`Slot`](AxisKind::Slot): one place written several times; it holds one of the versions, or what it held before;
//! - a [`Log`](AxisKind::Log): pieces that reach the medium in order; some first part of them is there;
//! - a [`Junk`](AxisKind::Junk): damage that an interrupted request may do; none of it, or one of several.
//!
//! A choice is a **digit**: 0 for "none of it", `d` for version `d` (slot) or for the first `d` pieces (log). So a state is
//! a number in a mixed radix, the states can be counted without being visited, and a profile is nothing but a way to
//! sort pieces onto axes, with [`Rule`]s where one choice needs another.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// One part of one request: the record's place in the trace, and which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceId {
    /// Index of the record.
    pub record: u32,
    /// Index of the part; 0 for a request of one part.
    pub part: u32,
}

impl fmt::Display for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.part == 0 { write!(f, "{}", self.record) } else { write!(f, "{}.{}", self.record, self.part) }
    }
}

/// How the pieces of an axis hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AxisKind {
    /// One piece.
    Bit,
    /// Versions of one place, oldest first.
    Slot,
    /// Pieces that become durable in this order.
    Log,
    /// Damage to one place: at most one of the pieces, and none of them where nothing is lost.
    Junk,
}

/// A choice to make.
#[derive(Debug, Clone)]
pub struct Axis {
    /// How its pieces hang together.
    pub kind: AxisKind,
    /// What there is to choose from, oldest first. Never empty.
    pub pieces: Vec<PieceId>,
}

impl Axis {
    /// How many choices there are.
    #[must_use]
    pub fn choices(&self) -> u32 {
        u32::try_from(self.pieces.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The digit of an axis where nothing was lost: everything in its last version, and no damage.
    #[must_use]
    pub fn whole(&self) -> u32 {
        match self.kind {
            AxisKind::Bit | AxisKind::Slot | AxisKind::Log => self.choices() - 1,
            AxisKind::Junk => 0,
        }
    }

    /// The pieces that a digit keeps.
    fn kept(&self, digit: u32) -> &[PieceId] {
        let count = usize::try_from(digit).unwrap_or(usize::MAX).min(self.pieces.len());
        let first = match self.kind {
            AxisKind::Log | AxisKind::Bit => 0,
            AxisKind::Slot | AxisKind::Junk => count.saturating_sub(1),
        };
        self.pieces.get(first..count).unwrap_or(&[])
    }
}

/// Where one axis has reached a digit, another must have reached one too: "this size only after that data".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Axis and least digit of the one that needs.
    pub needs: (usize, u32),
    /// Axis and least digit of the one that is needed.
    pub needed: (usize, u32),
}

/// When a step is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In every state: it is durable.
    Always,
    /// Where the axis has this digit.
    Is(usize, u32),
    /// Where the axis has this digit or a greater one.
    AtLeast(usize, u32),
}

/// A piece, and the states that have it.
#[derive(Debug, Clone)]
pub struct Step<P> {
    /// Which piece.
    pub id: PieceId,
    /// In which states.
    pub when: When,
    /// What it does to an image.
    pub piece: P,
}

impl<P> Step<P> {
    /// Whether the state has it.
    #[must_use]
    pub fn is_in(&self, digits: &[u32]) -> bool {
        match self.when {
            When::Always => true,
            When::Is(axis, wanted) => digit_at(digits, axis) == wanted,
            When::AtLeast(axis, wanted) => digit_at(digits, axis) >= wanted,
        }
    }
}

/// A state of a point: a digit for each axis.
pub type Digits = Vec<u32>;

/// A crash point with its states.
#[derive(Debug, Clone)]
pub struct Point<I, P> {
    /// How many records had been begun.
    pub at: usize,
    /// What every state has in common, except for what `steps` do.
    pub base: I,
    /// In order of their requests.
    pub steps: Vec<Step<P>>,
    /// The choices.
    pub axes: Vec<Axis>,
    /// What is not free in them.
    pub rules: Vec<Rule>,
    /// Axes next to each other that are parts of one whole, a block of several sectors with what may damage it: samples
    /// vary them together.
    pub groups: Vec<Range<usize>>,
}

impl<I, P> Point<I, P> {
    /// How many combinations of digits there are, before rules.
    #[must_use]
    pub fn combinations(&self) -> u128 {
        self.axes.iter().fold(1, |product: u128, axis| product.saturating_mul(u128::from(axis.choices())))
    }

    /// Whether the state may be found.
    #[must_use]
    pub fn permits(&self, digits: &[u32]) -> bool {
        let digit = |axis: usize| digits.get(axis).copied().unwrap_or(0);
        self.rules
            .iter()
            .all(|rule| digit(rule.needs.0) < rule.needs.1 || digit(rule.needed.0) >= rule.needed.1)
    }

    /// The combination with this number, permitted or not.
    #[must_use]
    pub fn digits(&self, mut number: u128) -> Digits {
        let digit_of = |axis: &Axis| {
            let choices = u128::from(axis.choices());
            let digit = u32::try_from(number % choices).unwrap_or(0);
            number /= choices;
            digit
        };
        self.axes.iter().map(digit_of).collect()
    }

    /// The state without anything that is not durable.
    #[must_use]
    pub fn nothing_kept(&self) -> Digits {
        vec![0; self.axes.len()]
    }

    /// The state that a killed process leaves: everything, in its last version.
    #[must_use]
    pub fn everything_kept(&self) -> Digits {
        self.axes.iter().map(Axis::whole).collect()
    }

    /// Carries out the steps of a state.
    pub fn build(&self, digits: &[u32], mut apply: impl FnMut(&P)) {
        self.steps.iter().filter(|step| step.is_in(digits)).for_each(|step| apply(&step.piece));
    }

    /// The pieces that a state keeps, in order: what an id lists. Damage is not among them.
    #[must_use]
    pub fn kept(&self, digits: &[u32]) -> Vec<PieceId> {
        self.chosen(digits, |kind| kind != AxisKind::Junk)
    }

    /// The damage that a state has, in order: what an id lists as `junk=`.
    #[must_use]
    pub fn junk(&self, digits: &[u32]) -> Vec<PieceId> {
        self.chosen(digits, |kind| kind == AxisKind::Junk)
    }

    fn chosen(&self, digits: &[u32], wanted: impl Fn(AxisKind) -> bool) -> Vec<PieceId> {
        let axes = self.axes.iter().zip(digits).filter(|(axis, _)| wanted(axis.kind));
        let mut chosen: Vec<PieceId> = axes.flat_map(|(axis, &digit)| axis.kept(digit)).copied().collect();
        chosen.sort_unstable();
        chosen
    }

    /// Whether a step is damage, and not part of what was asked for.
    #[must_use]
    pub fn is_junk(&self, step: &Step<P>) -> bool {
        match step.when {
            When::Always => false,
            When::Is(axis, _) | When::AtLeast(axis, _) => {
                self.axes.get(axis).is_some_and(|axis| axis.kind == AxisKind::Junk)
            }
        }
    }

    /// The state that keeps exactly these pieces and has exactly this damage; [`None`] if there is none.
    #[must_use]
    pub fn keeping(&self, kept: &[PieceId], junk: &[PieceId]) -> Option<Digits> {
        let mut digits = self.nothing_kept();
        for (axis, digit) in self.axes.iter().zip(&mut digits) {
            let wanted = if axis.kind == AxisKind::Junk { junk } else { kept };
            for (index, piece) in axis.pieces.iter().enumerate() {
                if wanted.contains(piece) {
                    *digit = u32::try_from(index).ok()?.saturating_add(1);
                }
            }
        }
        let sorted = |wanted: &[PieceId]| {
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            wanted.dedup();
            wanted
        };
        let is_it = self.kept(&digits) == sorted(kept) && self.junk(&digits) == sorted(junk);
        (is_it && self.permits(&digits)).then_some(digits)
    }

    /// States worth a look where there are too many for all: nothing and everything kept; all but one choice, and one
    /// choice alone; pairs; and from there on as chance (a seed) has it. At most `count`, each permitted and another, the
    /// same ones every time.
    #[must_use]
    pub fn sample(&self, count: usize, seed: u64) -> Vec<Digits> {
        if !self.groups.is_empty() {
            return self.sample_groups(count, seed);
        }
        let (none, all) = (self.nothing_kept(), self.everything_kept());
        let mut states = vec![all.clone(), none.clone()];
        for (index, axis) in self.axes.iter().enumerate() {
            for digit in 0..axis.choices() {
                states.push(replaced(&all, &[(index, digit)]));
                states.push(replaced(&none, &[(index, digit)]));
            }
        }
        let pairs = if count > states.len() { self.axes.len().min(64) } else { 0 };
        for first in 0..pairs {
            for second in first + 1..pairs {
                let pick = |from: &Digits| {
                    [(first, from), (second, from)].map(|(axis, from)| (axis, digit_at(from, axis)))
                };
                states.push(replaced(&none, &pick(&all)));
                states.push(replaced(&all, &pick(&none)));
            }
        }
        let mut seen = HashSet::new();
        let mut is_new = |digits: &Digits| self.permits(digits) && seen.insert(digits.clone());
        states.retain(&mut is_new);
        states.truncate(count);
        let mut random = Random::new(seed);
        // A rule may refuse a state made by chance, or it was drawn before; the bound keeps a small space from looping.
        let mut tries = count.saturating_mul(4);
        while states.len() < count && tries > 0 {
            tries -= 1;
            let state = self.by_chance(&mut random);
            if is_new(&state) {
                states.push(state);
            }
        }
        states
    }

    /// One state: how likely a piece is to survive differs from state to state, so that sparse and dense ones are seen.
    fn by_chance(&self, random: &mut Random) -> Digits {
        let likely = random.below(9);
        let draw = |axis: &Axis| {
            let choices = axis.choices();
            if choices > 2 { random.below(choices) } else { u32::from(random.below(8) < likely) }
        };
        self.axes.iter().map(draw).collect()
    }
}

fn digit_at(digits: &[u32], axis: usize) -> u32 {
    digits.get(axis).copied().unwrap_or(0)
}

fn replaced(digits: &[u32], with: &[(usize, u32)]) -> Digits {
    let mut changed = digits.to_vec();
    for &(axis, digit) in with {
        if let Some(slot) = changed.get_mut(axis) {
            *slot = digit;
        }
    }
    changed
}

/// Numbers that are the same for the same seed on every machine (splitmix64).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, each as likely as the next; 0 for a bound of 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let scaled = (self.next_u64() >> 32).wrapping_mul(u64::from(bound)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }
}
