//! Why a content store did not do what it was asked to.

use std::fmt;
use std::path::PathBuf;

use content::Error;
use durable_io::Kind;
use serde_json::{Value, json};

use super::{code_of, insert, shown};

/// Why a content store did not do what it was asked to. What failed in the tree below it is [`super::TreeTrouble`].
#[derive(Debug)]
pub(crate) struct ContentTrouble {
    pub(super) root: PathBuf,
    pub(super) error: Error,
}

impl ContentTrouble {
    pub(super) fn kind(&self) -> Kind {
        self.error.kind()
    }

    pub(super) fn code(&self) -> &'static str {
        match self.error {
            Error::QuotaExceeded { .. } => "quota_exceeded",
            Error::TempBudgetExceeded { .. } => "temp_budget_exceeded",
            _ => code_of(self.kind()),
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        match &self.error {
            Error::NotAStore { .. } => Some("`steadfast content init ROOT` makes one".to_owned()),
            Error::Held { .. } => Some("--timeout sets how long to wait".to_owned()),
            Error::Exists { .. } | Error::NotFound { .. } => {
                Some("`steadfast content ls` lists what there is".to_owned())
            }
            error => error.hint(),
        }
    }

    pub(super) fn details(&self) -> Value {
        let mut details = json!({ "root": shown(&self.root) });
        let mut add = |name: &str, value: Value| insert(&mut details, name, value);
        match &self.error {
            Error::QuotaExceeded { app, limit, used, requested, .. }
            | Error::TempBudgetExceeded { app, limit, used, requested } => {
                add("app", json!(app));
                if let Error::QuotaExceeded { what, .. } = &self.error {
                    add("what", json!(what.to_string()));
                }
                add("limit", json!(limit));
                add("used", json!(used));
                add("requested", json!(requested));
            }
            Error::Held { holder } => add("holder", json!(holder)),
            Error::NotFound { uri } | Error::Exists { uri } | Error::NotAnObject { uri, .. } => {
                add("uri", json!(uri.as_str()));
            }
            _ => {}
        }
        details
    }
}

impl fmt::Display for ContentTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            // These say themselves where it was, or have nothing to do with a place.
            Error::NotAStore { .. }
            | Error::AlreadyAStore { .. }
            | Error::NotEmpty { .. }
            | Error::Uri(_) => self.error.fmt(f),
            error => write!(f, "`{}`: {error}", self.root.display()),
        }
    }
}
