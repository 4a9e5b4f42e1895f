//! [`Trace`]: what was asked of a medium, in order, with the promises made in between.
//!
//! A trace is the artifact: every crash state is a pure function of (starting image, trace, profile), so a trace recorded
//! on a simulated medium, on a real file system or from any program is explored by the same code.

use std::fmt;

use crate::witness::Mark;

/// A moment in a trace: a number that grows with every submission and every completion.
pub type Tick = u32;

/// Whether requests are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// All of them.
    On,
    /// None, but for what the workload is told: for a look at an image.
    Off,
}

/// One request to a medium, or one mark between two requests.
#[derive(Debug, Clone)]
pub struct Record<O> {
    /// When the request was handed over.
    pub submitted: Tick,
    /// When it returned. A barrier covers what was completed before the barrier was submitted, and no more.
    pub completed: Tick,
    /// What it was.
    pub event: Event<O>,
}

/// What a record says.
#[derive(Debug, Clone)]
pub enum Event<O> {
    /// A request that changes the medium, or makes changes durable.
    Op(O),
    /// What the workload was told, or announced, at this moment.
    Mark(Mark),
}

/// Everything that happened since the starting image, in order of submission.
#[derive(Debug, Clone)]
pub struct Trace<O> {
    records: Vec<Record<O>>,
}

impl<O> Default for Trace<O> {
    fn default() -> Self {
        Self { records: Vec::new() }
    }
}

impl<O: Clone> Trace<O> {
    /// The records, in order.
    #[must_use]
    pub fn records(&self) -> &[Record<O>] {
        &self.records
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The first `count` records: what had happened by a crash point.
    #[must_use]
    pub fn until(&self, count: usize) -> Self {
        Self { records: self.records.get(..count).unwrap_or(&self.records).to_vec() }
    }

    /// The same as if the request at `index` had never been made, though everybody believed so. All other records keep
    /// their places.
    #[must_use]
    pub fn without(&self, index: usize) -> Self {
        let mut records = self.records.clone();
        if let Some(record) = records.get_mut(index) {
            record.event = Event::Mark(Mark::Point("removed"));
        }
        Self { records }
    }

    /// Everything the workload was told in the first `count` records.
    #[must_use]
    pub fn marks_until(&self, count: usize) -> Vec<Mark> {
        let records = self.records.get(..count).unwrap_or(&self.records);
        records.iter().filter_map(Record::mark).cloned().collect()
    }

    /// Adds a request that begins and ends with nothing else in between.
    pub fn push(&mut self, event: Event<O>) {
        let submitted = self.records.last().map_or(0, |last| last.completed.saturating_add(1));
        self.records.push(Record { submitted, completed: submitted.saturating_add(1), event });
    }

    /// The same with the record at `index` moved to right before the next acknowledgement, or to the end: what it makes
    /// durable is durable when the workload is told so, but no longer before what came in between. [`None`] if nothing
    /// came in between.
    #[must_use]
    pub fn with_late(&self, index: usize) -> Option<Self> {
        let after = self.records.get(index + 1..)?;
        let told = after.iter().position(|record| matches!(record.mark(), Some(Mark::Acknowledged)));
        let passed = after.get(..told.unwrap_or(after.len()))?;
        if passed.iter().all(|record| record.op().is_none()) {
            return None;
        }
        let late = self.records.get(index)?.event.clone();
        let mut moved = Self::default();
        for (at, record) in self.records.iter().enumerate() {
            if at == index {
                continue;
            }
            if at == index + 1 + passed.len() {
                moved.push(late.clone());
            }
            moved.push(record.event.clone());
        }
        if told.is_none() {
            moved.push(late);
        }
        Some(moved)
    }

    /// Adds a request of which the recorder knows when it began and when it ended.
    pub fn push_timed(&mut self, record: Record<O>) {
        self.records.push(record);
    }
}

impl<O> Event<O> {
    /// Whether it is written down.
    pub(crate) fn is_kept(&self, recording: Recording) -> bool {
        let is_told = matches!(self, Self::Mark(mark) if !matches!(mark, Mark::Point(_)));
        is_told || recording == Recording::On
    }
}

impl<O> Record<O> {
    /// The request, if it is one.
    pub fn op(&self) -> Option<&O> {
        match &self.event {
            Event::Op(op) => Some(op),
            Event::Mark(_) => None,
        }
    }

    /// The mark, if it is one.
    pub fn mark(&self) -> Option<&Mark> {
        match &self.event {
            Event::Op(_) => None,
            Event::Mark(mark) => Some(mark),
        }
    }
}

impl<O: fmt::Display> fmt::Display for Trace<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, record) in self.records.iter().enumerate() {
            match &record.event {
                Event::Op(op) => writeln!(f, "{index:>5}  {op}")?,
                Event::Mark(mark) => writeln!(f, "{index:>5}  -- {mark}")?,
            }
        }
        Ok(())
    }
}
