//! [`Fault`]: what may go wrong at a call while the power is on.

use std::fmt;
use std::str::FromStr;

/// What is to go wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The call answers with this code of the operating system and is not carried out. A barrier that fails so is a
    /// failed barrier: what it should have covered will not be written by a later one.
    Fail(i32),
    /// The call is carried out, and answers with this code all the same.
    FailAfter(i32),
    /// A write takes only this many bytes; other calls are as always.
    Short(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(code) => write!(f, "fail{code}"),
            Self::FailAfter(code) => write!(f, "after{code}"),
            Self::Short(len) => write!(f, "short{len}"),
        }
    }
}

/// The text is none of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no fault: `fail5`, `after5` or `short1` are wanted, with a number of the operating system or a length"
)]
pub struct NoFault;

impl FromStr for Fault {
    type Err = NoFault;

    fn from_str(text: &str) -> Result<Self, NoFault> {
        let code = |rest: &str| rest.parse::<u16>().map(i32::from).map_err(|_| NoFault);
        if let Some(rest) = text.strip_prefix("fail") {
            return code(rest).map(Self::Fail);
        }
        if let Some(rest) = text.strip_prefix("after") {
            return code(rest).map(Self::FailAfter);
        }
        let rest = text.strip_prefix("short").ok_or(NoFault)?;
        rest.parse().map(Self::Short).map_err(|_| NoFault)
    }
}
