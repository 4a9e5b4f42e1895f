//! Folding: what all committed entries together make of each name.
//!
//! Redoing the entries one by one would undo later work that was acknowledged: of `put a`, `remove a`, redone up to the first,
//! a crash would bring `a` back. So nothing is touched before all entries are folded into one final operation per name.

use std::collections::{BTreeMap, BTreeSet};

use crate::path::TreePath;
use crate::record::{Commit, ListCommit, Number, Operation, Record};

/// Reads records in the order of the journal.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    live: BTreeMap<Number, Entry>,
    prepared: BTreeSet<TreePath>,
    done: Number,
    last: Number,
    /// A done that says of itself that it was written later than a smaller one must be the greater.
    went_back: bool,
}

#[derive(Debug)]
enum Entry {
    Here(Vec<Operation>),
    Listed(ListCommit),
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// One operation per name: the newest.
    pub(crate) operations: BTreeMap<TreePath, Operation>,
    /// How many transactions they come from.
    pub(crate) transactions: usize,
    /// Names that were being staged, some of which may have been committed.
    pub(crate) prepared: BTreeSet<TreePath>,
    /// The greatest number that was ever given.
    pub(crate) last: Number,
    /// Whether the entries contradict each other, which no writer of ours does.
    pub(crate) is_contradictory: bool,
}

impl Fold {
    pub(crate) fn take(&mut self, record: Record) {
        match record {
            Record::Prepare(names) => self.prepared.extend(names),
            Record::Commit(Commit { number, operations }) => self.enter(number, Entry::Here(operations)),
            Record::List(list) => self.enter(list.number, Entry::Listed(list)),
            Record::Done(up_to) => {
                self.went_back |= up_to < self.done;
                self.done = self.done.max(up_to);
                self.last = self.last.max(up_to);
                self.live = self.live.split_off(&up_to.saturating_add(1));
            }
        }
    }

    fn enter(&mut self, number: Number, entry: Entry) {
        self.last = self.last.max(number);
        // One that is done is not brought back.
        if number > self.done {
            self.went_back |= self.live.insert(number, entry).is_some();
        }
    }

    /// Folds what is not done, the lists read through `read`.
    pub(crate) fn finish<E>(
        self,
        read: &mut dyn FnMut(&ListCommit) -> Result<Vec<Operation>, E>,
    ) -> Result<Plan, E> {
        let mut plan = Plan {
            transactions: self.live.len(),
            prepared: self.prepared,
            last: self.last,
            is_contradictory: self.went_back,
            ..Plan::default()
        };
        for entry in self.live.into_values() {
            let operations = match entry {
                Entry::Here(operations) => operations,
                Entry::Listed(list) => read(&list)?,
            };
            for operation in operations {
                plan.operations.insert(operation.path.clone(), operation);
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Before, What};

    fn operation(path: &str, bytes: Option<&str>) -> Operation {
        let what = bytes.map_or(What::Absent, |bytes| What::Payload(bytes.as_bytes().into()));
        Operation { path: TreePath::parse(path).unwrap(), before: Before::NotRecorded, what }
    }

    fn commit(number: Number, operations: &[(&str, Option<&str>)]) -> Record {
        let operations = operations.iter().map(|(path, bytes)| operation(path, *bytes)).collect();
        Record::Commit(Commit { number, operations })
    }

    fn fold(records: Vec<Record>) -> Plan {
        let mut fold = Fold::default();
        records.into_iter().for_each(|record| fold.take(record));
        fold.finish::<()>(&mut |list| Ok(vec![operation(&list.file, Some("listed"))])).unwrap()
    }

    fn finals(plan: &Plan) -> Vec<(String, What)> {
        plan.operations.iter().map(|(path, last)| (path.to_string(), last.what.clone())).collect()
    }

    #[test]
    fn the_newest_operation_of_a_name_is_the_only_one() {
        let plan = fold(vec![
            commit(1, &[("a", Some("1")), ("b", Some("1"))]),
            commit(2, &[("a", None)]),
            commit(3, &[("c", Some("3")), ("b", None)]),
            commit(4, &[("b", Some("4"))]),
        ]);
        let bytes = |text: &str| What::Payload(text.as_bytes().into());
        let expected = [("a", What::Absent), ("b", bytes("4")), ("c", bytes("3"))]
            .map(|(name, what)| (name.to_owned(), what));
        assert_eq!(finals(&plan), expected);
        assert_eq!((plan.transactions, plan.last, plan.is_contradictory), (4, 4, false));
    }

    /// Frames hold records in the order of their numbers, and a done rides in front of those that come after it.
    #[test]
    fn what_is_done_is_not_done_again_wherever_the_done_stands() {
        let plan = fold(vec![commit(1, &[("a", Some("1"))]), Record::Done(1), commit(2, &[("b", None)])]);
        assert_eq!(finals(&plan), [("b".to_owned(), What::Absent)]);
        let plan = fold(vec![Record::Done(3), commit(2, &[("b", None)]), commit(4, &[("a", None)])]);
        assert_eq!((finals(&plan).len(), plan.last), (1, 4));
    }

    #[test]
    fn lists_are_read_in_their_turn() {
        let list = ListCommit { number: 2, len: 0, digest: [0; 32], file: "a".to_owned() };
        let plan = fold(vec![commit(1, &[("a", Some("1"))]), Record::List(list)]);
        assert_eq!(finals(&plan), [("a".to_owned(), What::Payload(b"listed".as_slice().into()))]);
    }

    #[test]
    fn numbers_that_are_given_twice_or_go_back_are_noticed() {
        assert!(fold(vec![commit(1, &[("a", None)]), commit(1, &[("b", None)])]).is_contradictory);
        assert!(fold(vec![Record::Done(2), Record::Done(1)]).is_contradictory);
    }
}
