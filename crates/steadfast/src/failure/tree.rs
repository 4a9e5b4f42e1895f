//! Why files of a directory did not change together.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;

use crash_recovery::Error;
use durable_io::{Kind, TargetState};
use serde_json::{Value, json};

use super::{code_of, details_of, insert, shown, snake, write_causes};

/// Why a transaction in a directory did not come about.
#[derive(Debug)]
pub(crate) struct TreeTrouble {
    pub(super) root: PathBuf,
    pub(super) error: Error,
    pub(super) engine: Engine,
}

/// Whose tree it is, and so which command finishes what was committed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Txn,
    Content,
}

impl TreeTrouble {
    pub(super) fn kind(&self) -> Kind {
        self.error.kind()
    }

    pub(super) fn code(&self) -> &'static str {
        match self.error.state() {
            TargetState::DurableNotVisible => "durable_not_visible",
            _ => code_of(self.kind()),
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        let root = self.root.display();
        let again = match self.engine {
            Engine::Txn => format!("`steadfast txn {root} --recover`"),
            Engine::Content => format!("`steadfast content recover {root}`"),
        };
        match self.error.state() {
            TargetState::DurableNotVisible => Some(format!(
                "it will be so: remove what stands in the way (a full disk, permissions), and {again} finishes it"
            )),
            TargetState::Unknown | TargetState::ReplacedNotDurable => {
                Some(format!("{again} finishes it, if it was committed; then look"))
            }
            TargetState::Unchanged if self.error.holder().is_some() => {
                Some("--timeout sets how long to wait".to_owned())
            }
            _ if matches!(self.kind(), Kind::NotFound | Kind::Exists) => {
                self.error.hint().or_else(|| Some("nothing was changed".to_owned()))
            }
            _ if self.engine == Engine::Content && matches!(self.error, Error::ReadOnly { .. }) => {
                Some("what is there can still be read: copy it into a new store with `steadfast content get` and `put`".to_owned())
            }
            _ => self.error.hint(),
        }
    }

    pub(super) fn details(&self) -> Value {
        let mut details = match &self.error {
            Error::File(error) => details_of(error),
            error => json!({ "path": error.path(), "state": snake(&format!("{:?}", error.state())) }),
        };
        insert(&mut details, "root", json!(shown(&self.root)));
        details
    }
}

impl fmt::Display for TreeTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.error, Error::File(_)) {
            // It names its path, and its causes, itself.
            return self.error.fmt(f);
        }
        write!(f, "`{}`: {}", self.root.display(), self.error)?;
        write_causes(f, self.error.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Exit, Failure};

    #[test]
    fn what_is_durable_and_not_visible_is_said_to_be_so_and_how_it_is_finished() {
        let source = std::io::Error::from_raw_os_error(28);
        let error = Error::DurableNotVisible { doing: "naming", path: "a/b".to_owned(), source };
        let failure = Failure::tree("dir", error).in_line(2);
        assert_eq!(failure.exit(), Exit::NoSpace);
        let said = failure.to_string();
        assert!(
            said.starts_with("line 2: `dir`: the change is durable in the journal, but not yet in place"),
            "{said}"
        );
        assert!(said.contains("naming `a/b` failed: ") && said.contains("(os error 28)"), "{said}");
        assert!(failure.hint().unwrap().contains("`steadfast txn dir --recover`"));
        let told = failure.to_json();
        assert_eq!(
            (&told["code"], &told["details"]["state"]),
            (&json!("durable_not_visible"), &json!("durable_not_visible"))
        );
        assert_eq!((&told["details"]["path"], &told["details"]["line"]), (&json!("a/b"), &json!(2)));
    }
}
