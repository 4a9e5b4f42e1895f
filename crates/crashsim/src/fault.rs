//! [`Fault`]: what may go wrong at a call while the power is on.

use std::fmt;
use std::str::FromStr;

/// The numbers under which a system reports errors: 0 is none, and Linux has no greater ones.
const CODES: std::ops::RangeInclusive<i32> = 1..=4095;

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
        let code = |rest: &str| match rest.parse() {
            Ok(code) if CODES.contains(&code) => Ok(code),
            Ok(_) | Err(_) => Err(NoFault),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_system_may_answer_is_a_code() {
        for text in ["fail1", "fail28", "after5", "after4095", "short0", "short4294967295"] {
            assert_eq!(text.parse::<Fault>().map(|fault| fault.to_string()), Ok(text.to_owned()));
        }
        for text in
            ["fail0", "after0", "fail-5", "fail4096", "fail65535", "fail", "short", "short-1", "5", ""]
        {
            assert_eq!(text.parse::<Fault>(), Err(NoFault), "{text}");
        }
    }
}
