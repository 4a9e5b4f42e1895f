//! [`Witness`]: what a workload had been told when the power failed, and what must therefore be there.
//!
//! A workload says what it is about to do ([`Mark::Begin`]), does it, and says what it was answered
//! ([`Mark::Acknowledged`], [`Mark::Failed`]). The marks go through the recorder of the medium, so their place among the
//! requests is exact. From them [`Expected`] follows by a rule that knows no engine:
//!
//! - what was acknowledged is there, with what it replaced gone;
//! - what was begun and not yet answered is there completely or not at all, atom by atom;
//! - what failed with "unchanged" is not there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The name of something that has a value: a file, a key, a record of a log.
pub type Cell = Arc<str>;

/// What a cell holds: bytes, and whatever else belongs to the value in words (a mode).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The content.
    pub bytes: Arc<[u8]>,
    /// What else must hold together with the content; empty where nothing else does.
    pub facts: Arc<str>,
}

impl Value {
    /// A value that is bytes alone.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), facts: "".into() }
    }

    /// A value with more to it than its bytes.
    #[must_use]
    pub fn with_facts(bytes: &[u8], facts: impl fmt::Display) -> Self {
        Self { bytes: bytes.into(), facts: facts.to_string().into() }
    }
}

/// Cells that change together or not at all; [`None`] is "not there".
pub type Atom = Vec<(Cell, Option<Value>)>;

/// One operation of a workload. Its atoms are independent of each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Operation {
    /// For people: `replace config.json`.
    pub label: Arc<str>,
    /// What it changes.
    pub atoms: Arc<[Atom]>,
}

impl Operation {
    /// An operation on one cell.
    #[must_use]
    pub fn one(label: impl fmt::Display, cell: impl AsRef<str>, value: Option<Value>) -> Self {
        Self::new(label, vec![vec![(cell.as_ref().into(), value)]])
    }

    /// An operation of several atoms.
    #[must_use]
    pub fn new(label: impl fmt::Display, atoms: Vec<Atom>) -> Self {
        Self { label: label.to_string().into(), atoms: atoms.into() }
    }
}

/// What a failed operation said about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Nothing has changed, and nothing will.
    Unchanged,
    /// Old or new, nobody knows which.
    Unknown,
}

/// What a workload tells its witness.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mark {
    /// It is about to do this.
    Begin(Operation),
    /// The operation begun last was acknowledged: it is durable.
    Acknowledged,
    /// The operation begun last was carried out, and nothing was said about durability.
    Visible,
    /// The operation begun last failed.
    Failed(Fate),
    /// A named point of the engine (`after_rename`).
    Point(&'static str),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(operation) => write!(f, "begin {}", operation.label),
            Self::Acknowledged => f.write_str("acknowledged"),
            Self::Visible => f.write_str("visible, not durable"),
            Self::Failed(Fate::Unchanged) => f.write_str("failed, unchanged"),
            Self::Failed(Fate::Unknown) => f.write_str("failed, state unknown"),
            Self::Point(point) => write!(f, "point {point}"),
        }
    }
}

/// Hears what a workload is told.
pub trait Witness: Send + Sync {
    /// Writes the mark down, at this place among the requests.
    fn tell(&self, mark: Mark);
}

/// Cells whose values hang together, and every combination of values that may be found.
#[derive(Debug, Clone)]
struct Group {
    cells: Vec<Cell>,
    /// Each as long as `cells`.
    allowed: Vec<Row>,
    /// What was durable last, before anything that is still open.
    settled: Row,
    /// What was durable once, and has been replaced since.
    past: Vec<Row>,
}

/// A value for each cell of a group.
type Row = Vec<Option<Value>>;

/// What may be found after a crash, given everything the workload was told.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    groups: Vec<Group>,
    by_cell: BTreeMap<Cell, usize>,
    /// The operation that has no answer yet, and how things were before it.
    open: Option<(Operation, Vec<Group>)>,
    acknowledged: usize,
    begun: usize,
}

/// How many combinations of values a group of cells may have; beyond it the workload is too large to be judged exactly.
const COMBINATIONS_MAX: usize = 4096;

impl Expected {
    /// Where a workload starts: these cells with these values, durable.
    #[must_use]
    pub fn starting(cells: impl IntoIterator<Item = (Cell, Option<Value>)>) -> Self {
        let mut expected = Self::default();
        for (cell, value) in cells {
            let at = expected.group_of(&cell);
            if let Some(group) = expected.groups.get_mut(at) {
                group.allowed = vec![vec![value.clone()]];
                group.settled = vec![value];
            }
        }
        expected
    }

    /// The same after more was told.
    #[must_use]
    pub fn after<'m>(mut self, marks: impl IntoIterator<Item = &'m Mark>) -> Self {
        for mark in marks {
            self.hear(mark);
        }
        self
    }

    fn hear(&mut self, mark: &Mark) {
        match mark {
            Mark::Begin(operation) => self.begin(operation),
            Mark::Acknowledged => self.settle(),
            Mark::Failed(Fate::Unchanged) => {
                if let Some((_, before)) = self.open.take() {
                    self.groups = before;
                }
            }
            Mark::Visible | Mark::Failed(Fate::Unknown) => self.open = None,
            Mark::Point(_) => {}
        }
    }

    fn begin(&mut self, operation: &Operation) {
        self.begun += 1;
        // Cells are grouped first, so that a failure can put back the groups one by one.
        for atom in operation.atoms.iter() {
            self.join(atom);
        }
        self.open = Some((operation.clone(), self.groups.clone()));
        for atom in operation.atoms.iter() {
            let at = self.join(atom);
            let Some(group) = self.groups.get_mut(at) else { continue };
            let changed: Vec<_> =
                group.allowed.iter().map(|row| with_atom(&group.cells, row, atom)).collect();
            for row in changed {
                if !group.allowed.contains(&row) && group.allowed.len() < COMBINATIONS_MAX {
                    group.allowed.push(row);
                }
            }
        }
    }

    fn settle(&mut self) {
        let Some((operation, _)) = self.open.take() else { return };
        self.acknowledged += 1;
        for atom in operation.atoms.iter() {
            let at = self.join(atom);
            let Some(group) = self.groups.get_mut(at) else { continue };
            // Whatever may have been there before, the atom is there now.
            let mut rows: Vec<Row> = Vec::new();
            for row in &group.allowed {
                let row = with_atom(&group.cells, row, atom);
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
            let settled = with_atom(&group.cells, &group.settled, atom);
            group.past.push(std::mem::replace(&mut group.settled, settled));
            group.allowed = rows;
        }
    }

    fn group_of(&mut self, cell: &Cell) -> usize {
        if let Some(&at) = self.by_cell.get(cell) {
            return at;
        }
        let at = self.groups.len();
        let nothing = vec![None];
        self.groups.push(Group {
            cells: vec![Arc::clone(cell)],
            allowed: vec![nothing.clone()],
            settled: nothing,
            past: Vec::new(),
        });
        self.by_cell.insert(Arc::clone(cell), at);
        at
    }

    /// The one group of all cells of an atom; groups that were apart are joined.
    fn join(&mut self, atom: &Atom) -> usize {
        let mut into: Option<usize> = None;
        for (cell, _) in atom {
            let at = self.group_of(cell);
            match into {
                None => into = Some(at),
                Some(first) if first == at => {}
                Some(first) => self.merge(first, at),
            }
        }
        into.unwrap_or(usize::MAX)
    }

    fn merge(&mut self, first: usize, second: usize) {
        let empty =
            Group { cells: Vec::new(), allowed: vec![Vec::new()], settled: Vec::new(), past: Vec::new() };
        let Some(other) = self.groups.get_mut(second).map(|group| std::mem::replace(group, empty)) else {
            return;
        };
        for cell in &other.cells {
            self.by_cell.insert(Arc::clone(cell), first);
        }
        if let Some(group) = self.groups.get_mut(first) {
            // What was durable once cannot be paired up; the values that are now are past in the next settling.
            group.past.clear();
            group.cells.extend(other.cells);
            group.settled.extend(other.settled);
            group.allowed = group
                .allowed
                .iter()
                .flat_map(|left| other.allowed.iter().map(|right| [left.as_slice(), right].concat()))
                .collect();
        }
    }

    /// How many operations were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// How many operations were begun.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// Every cell the workload ever touched or started with.
    pub fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.by_cell.keys()
    }

    /// The values that the cell alone may have.
    #[must_use]
    pub fn allowed(&self, cell: &str) -> Vec<Option<Value>> {
        let group = self.by_cell.get(cell).and_then(|&at| self.groups.get(at));
        let Some(group) = group else { return Vec::new() };
        let Some(column) = group.cells.iter().position(|have| &**have == cell) else { return Vec::new() };
        let mut values: Vec<_> = group.allowed.iter().filter_map(|row| row.get(column).cloned()).collect();
        values.sort();
        values.dedup();
        values
    }

    /// Compares with what was found: `look` gives the value of a cell.
    pub fn judge(&self, mut look: impl FnMut(&Cell) -> Option<Value>) -> Verdict {
        let mut worst = Verdict::of(Class::Old);
        // Where groups were joined, one without cells is left, and says nothing.
        for group in self.groups.iter().filter(|group| !group.cells.is_empty()) {
            let found: Vec<Option<Value>> = group.cells.iter().map(&mut look).collect();
            worst = worst.worse(group.judge(&found));
        }
        worst
    }
}

/// The row with the atom's values put in.
fn with_atom(cells: &[Cell], row: &[Option<Value>], atom: &Atom) -> Vec<Option<Value>> {
    let put = |(cell, old): (&Cell, &Option<Value>)| {
        atom.iter().find(|(changed, _)| changed == cell).map_or_else(|| old.clone(), |(_, new)| new.clone())
    };
    cells.iter().zip(row).map(put).collect()
}

impl Group {
    fn judge(&self, found: &[Option<Value>]) -> Verdict {
        if self.allowed.iter().any(|row| row == found) {
            let old = found == self.settled && self.allowed.len() > 1;
            return Verdict::of(if old { Class::Old } else { Class::New });
        }
        for (column, cell) in self.cells.iter().enumerate() {
            let values: Vec<Option<&Value>> =
                self.allowed.iter().filter_map(|row| row.get(column).map(Option::as_ref)).collect();
            let found = found.get(column).and_then(Option::as_ref);
            if values.contains(&found) {
                continue;
            }
            let mut past = self.past.iter().filter_map(|row| row.get(column).map(Option::as_ref));
            let lost = found.is_some() && past.any(|value| value == found);
            let class = if lost { Class::Lost } else { class_of(found, &values) };
            return Verdict::broken(class, explain(cell, found, &values));
        }
        let words =
            self.cells.iter().zip(found).map(|(cell, value)| format!("`{cell}` {}", show(value.as_ref())));
        let words: Vec<_> = words.collect();
        Verdict::broken(Class::Mix, format!("each may be so, together they may not: {}", words.join(", ")))
    }
}

fn explain(cell: &str, found: Option<&Value>, allowed: &[Option<&Value>]) -> String {
    let mut words: Vec<String> = allowed.iter().map(|value| show(*value)).collect();
    words.dedup();
    let departs = found.and_then(|found| departure(found, allowed)).unwrap_or_default();
    format!("`{cell}` is {}{departs}, wanted {}", show(found), words.join(" or "))
}

/// Where a content that begins as one of the allowed ones goes on differently, if that is behind what is shown of it.
fn departure(found: &Value, allowed: &[Option<&Value>]) -> Option<String> {
    let common = |value: &&Value| value.bytes.iter().zip(&*found.bytes).take_while(|(a, b)| a == b).count();
    let same = allowed.iter().flatten().map(common).max()?;
    let rest = found.bytes.get(same..).filter(|rest| same >= SHOWN_LEN && !rest.is_empty())?;
    let what = if rest.iter().all(|&byte| byte == 0) { "zeros".to_owned() } else { quote(rest) };
    Some(format!(" and, from byte {same} on, {what}"))
}

/// How many bytes of a content are shown.
const SHOWN_LEN: usize = 24;

fn quote(bytes: &[u8]) -> String {
    let head: String =
        bytes.iter().take(SHOWN_LEN).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
    let dots = if bytes.len() > SHOWN_LEN { "…" } else { "" };
    format!("\"{head}{dots}\"")
}

fn show(value: Option<&Value>) -> String {
    let Some(value) = value else { return "missing".to_owned() };
    let facts = if value.facts.is_empty() { String::new() } else { format!(" ({})", value.facts) };
    format!("{} bytes {}{facts}", value.bytes.len(), quote(&value.bytes))
}

/// What is wrong with a value that none of the allowed ones is.
fn class_of(found: Option<&Value>, allowed: &[Option<&Value>]) -> Class {
    let Some(found) = found else { return Class::Missing };
    let same_bytes = |value: &&Value| value.bytes == found.bytes;
    if allowed.iter().flatten().any(same_bytes) {
        return Class::WrongFacts;
    }
    if found.bytes.is_empty() {
        return Class::ZeroLength;
    }
    if found.bytes.iter().all(|&byte| byte == 0) {
        return Class::AllZero;
    }
    Class::Mix
}

/// What was found, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// What was there before (A).
    Old,
    /// What was to be there (B), or nothing has been changed at all.
    New,
    /// What was there before, although the new was acknowledged.
    Lost,
    /// The right bytes with a wrong mode, owner or name.
    WrongFacts,
    /// Not there, where something must be.
    Missing,
    /// There, and empty.
    ZeroLength,
    /// There, of full length, and nothing but zeros.
    AllZero,
    /// Parts of several contents, or of one.
    Mix,
    /// Something is there that nobody wrote.
    Stranger,
    /// Recovery or reading failed.
    CannotOpen,
    /// Recovery run twice is not recovery run once.
    NotIdempotent,
}

impl Class {
    /// A word for tables, stable.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Old => "A",
            Self::New => "B",
            Self::Lost => "lost",
            Self::WrongFacts => "wrong-facts",
            Self::Missing => "missing",
            Self::ZeroLength => "zero-length",
            Self::AllZero => "all-zero",
            Self::Mix => "mix",
            Self::Stranger => "stranger",
            Self::CannotOpen => "cannot-open",
            Self::NotIdempotent => "not-idempotent",
        }
    }

    /// For people who have not seen the tables.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Old => "what was there before",
            Self::New => "what was to be there",
            Self::Lost => "what was there before, though the new was acknowledged",
            Self::WrongFacts => "the right bytes with a wrong mode, owner or name",
            Self::Missing => "nothing, where something must be",
            Self::ZeroLength => "an empty file",
            Self::AllZero => "nothing but zeros",
            Self::Mix => "parts of several contents",
            Self::Stranger => "something that nobody wrote",
            Self::CannotOpen => "nothing that can be opened",
            Self::NotIdempotent => "something that a second recovery changes",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a check found in one crash image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was found.
    pub class: Class,
    /// In words, where a promise was broken.
    pub broken: Option<String>,
}

impl Verdict {
    /// Nothing is wrong (or, for [`Class::Lost`], what was acknowledged is gone).
    #[must_use]
    pub fn of(class: Class) -> Self {
        match class {
            Class::Old | Class::New => Self { class, broken: None },
            other => Self::broken(other, "what was acknowledged is gone".to_owned()),
        }
    }

    /// A promise was broken.
    #[must_use]
    pub fn broken(class: Class, why: impl Into<String>) -> Self {
        Self { class, broken: Some(why.into()) }
    }

    /// The worse of the two; the first where they are equally bad.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |verdict: &Self| (verdict.broken.is_some(), verdict.class);
        if rank(&other) > rank(&self) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_together_is_old_or_new_together() {
        let cell = |name: &str| Cell::from(name);
        let value = |text: &str| Some(Value::bytes(text.as_bytes()));
        let atom = vec![(cell("a"), value("new")), (cell("b"), None)];
        let expected = Expected::starting([(cell("a"), value("old")), (cell("b"), value("old"))])
            .after([&Mark::Begin(Operation::new("both", vec![atom]))]);
        let judge = |a: &str, b: Option<Value>| {
            expected.judge(|cell| if &**cell == "a" { value(a) } else { b.clone() })
        };
        assert_eq!(judge("old", value("old")), Verdict::of(Class::Old));
        assert_eq!(judge("new", None), Verdict::of(Class::New));
        assert_eq!((judge("new", value("old")).class, judge("old", None).class), (Class::Mix, Class::Mix));
    }

    #[test]
    fn a_content_that_begins_as_wanted_is_told_from_where_it_is_not() {
        let wanted = Value::bytes(&[b'n'; 100]);
        let allowed = [None, Some(&wanted)];
        let torn = [[b'n'; 50], [0; 50]].concat();
        let words = explain("f", Some(&Value::bytes(&torn)), &allowed);
        assert!(words.contains("from byte 50 on, zeros, wanted missing or 100 bytes"), "{words}");
        let torn = [[b'n'; 50], [b'o'; 50]].concat();
        let words = explain("f", Some(&Value::bytes(&torn)), &allowed);
        assert!(words.contains("from byte 50 on, \"ooooo"), "{words}");
        // What is shown of it says enough.
        for torn in [[[b'n'; 20].as_slice(), &[0; 80]].concat(), vec![b'n'; 50], Vec::new()] {
            let words = explain("f", Some(&Value::bytes(&torn)), &allowed);
            assert!(!words.contains("from byte"), "{words}");
        }
    }
}
