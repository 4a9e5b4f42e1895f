//! Depth-first search with a bound on preemptions: every schedule in which a thread that could go on is interrupted at most so
//! many times. (A thread that waits, ends or yields is not interrupted.) Most faults of interleaving need one or two
//! preemptions (Musuvathi and Qadeer, "Iterative context bounding for systematic testing of multithreaded programs", 2007),
//! and such a search ends where one without a bound does not.

use std::collections::BTreeMap;

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

/// Chooses every schedule with at most so many preemptions, once each.
#[derive(Debug)]
pub(crate) struct BoundedDfs {
    preemptions_max: usize,
    /// The choices of the current run. At its end the last one that has another option takes it.
    choices: Vec<Choice>,
    has_begun: bool,
    depth: usize,
    preemptions: usize,
    /// The last step of each thread in this run.
    last_run: BTreeMap<usize, usize>,
}

/// A step at which threads could go on.
#[derive(Debug)]
struct Choice {
    options: Vec<TaskId>,
    at: usize,
}

impl BoundedDfs {
    pub(crate) fn new(preemptions_max: usize) -> Self {
        Self {
            preemptions_max,
            choices: Vec::new(),
            has_begun: false,
            depth: 0,
            preemptions: 0,
            last_run: BTreeMap::new(),
        }
    }

    /// Goes on to the next option of the last choice that has one; false if there is none.
    fn advance(&mut self) -> bool {
        while let Some(last) = self.choices.last_mut() {
            last.at += 1;
            if last.at < last.options.len() {
                return true;
            }
            self.choices.pop();
        }
        false
    }
}

impl BoundedDfs {
    /// The threads that may go on here.
    fn options(&self, runnable: &[&Task], goes_on: Option<TaskId>, yields: Option<TaskId>) -> Vec<TaskId> {
        let others = runnable.iter().map(|task| task.id());
        let others = others.filter(|id| Some(*id) != goes_on && (Some(*id) != yields || runnable.len() == 1));
        if yields.is_some() {
            // A thread that waits by yielding gives way to all others in turn, or it and one of them could go on for ever.
            let longest_waiting = others.min_by_key(|id| self.last_run.get(&usize::from(*id)).copied());
            return longest_waiting.into_iter().collect();
        }
        let may_preempt = goes_on.is_none() || self.preemptions < self.preemptions_max;
        goes_on.into_iter().chain(others.filter(|_| may_preempt)).collect()
    }
}

impl Scheduler for BoundedDfs {
    fn new_execution(&mut self) -> Option<Schedule> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if !is_first && !self.advance() {
            return None;
        }
        (self.depth, self.preemptions) = (0, 0);
        self.last_run.clear();
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let goes_on = current.filter(|id| !is_yielding && runnable.iter().any(|task| task.id() == *id));
        if self.depth == self.choices.len() {
            let options = self.options(runnable, goes_on, current.filter(|_| is_yielding));
            self.choices.push(Choice { options, at: 0 });
        }
        let choice = self.choices.get(self.depth)?;
        let next = *choice.options.get(choice.at)?;
        self.depth += 1;
        self.preemptions += usize::from(goes_on.is_some_and(|id| id != next));
        self.last_run.insert(usize::from(next), self.depth);
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
