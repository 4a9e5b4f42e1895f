//! Depth-first search with a bound on preemptions: every schedule in which a thread that could go on is interrupted at most so
//! many times. (A thread that waits, ends or yields is not interrupted.) Most faults of interleaving need one or two
//! preemptions (Musuvathi and Qadeer, "Iterative context bounding for systematic testing of multithreaded programs", 2007),
//! and such a search ends where one without a bound does not.

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
}

/// A step at which threads could go on.
#[derive(Debug)]
struct Choice {
    options: Vec<TaskId>,
    at: usize,
}

impl BoundedDfs {
    pub(crate) fn new(preemptions_max: usize) -> Self {
        Self { preemptions_max, choices: Vec::new(), has_begun: false, depth: 0, preemptions: 0 }
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

impl Scheduler for BoundedDfs {
    fn new_execution(&mut self) -> Option<Schedule> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if !is_first && !self.advance() {
            return None;
        }
        (self.depth, self.preemptions) = (0, 0);
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
            let others = runnable.iter().map(|task| task.id()).filter(|id| Some(*id) != goes_on);
            let may_preempt = goes_on.is_none() || self.preemptions < self.preemptions_max;
            let options = goes_on.into_iter().chain(others.filter(|_| may_preempt)).collect();
            self.choices.push(Choice { options, at: 0 });
        }
        let choice = self.choices.get(self.depth)?;
        let next = *choice.options.get(choice.at)?;
        self.depth += 1;
        self.preemptions += usize::from(goes_on.is_some_and(|id| id != next));
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
