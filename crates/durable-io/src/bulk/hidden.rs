//! What the files of a bulk are called until they have their names.

use std::ffi::{OsStr, OsString};

use media::Env;

use crate::dir::Place;
use crate::error::{Error, Invalid, Result, Stage};
use crate::name::{Own, Purpose};

/// What the files of a bulk are called until they have their names. Either way the hidden file is in the directory of
/// its target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HiddenNames {
    /// As all temporary files of this crate: the name tells who made it, and [`Dir::sweep`](crate::Dir::sweep) removes
    /// it once that process is proved dead.
    #[default]
    Own,
    /// `{prefix}{index:x}{suffix}`, for a caller who keeps a record of them. No sweep of this crate touches
    /// them: after a crash they are the caller's to find and to remove.
    ///
    /// The index goes up by one with each file that is given to the bulk, whatever becomes of it, and goes on after a
    /// publish or a seal: which name a file gets is known before it is written. A name that exists is not written over: that file fails with [`Kind::Exists`](crate::Kind::Exists). The
    /// bulk itself refuses such a name as a target; anybody else takes it unless the caller sees to it, as
    /// [`TXN_PREFIX`](crate::TXN_PREFIX) does.
    Chosen {
        /// What the names begin with.
        prefix: String,
        /// What they end in.
        suffix: String,
        /// The index of the first.
        first: u64,
    },
}

impl HiddenNames {
    pub(super) fn first(&self) -> u64 {
        match self {
            Self::Own => 0,
            Self::Chosen { first, .. } => *first,
        }
    }

    /// The name of one file beside `place`.
    pub(super) fn name(&self, number: u64, place: &Place, env: &Env) -> Result<OsString> {
        if *self == Self::Own {
            return Own::fresh(Purpose::Temp, env).map_err(|e| Error::os(Stage::TempWrite, &place.path, e));
        }
        let name = self.join("", number);
        let bytes = name.as_encoded_bytes();
        let refuse = |why| Err(Error::invalid(place.sibling_path(&name), why));
        if bytes.contains(&0) {
            return refuse(Invalid::NulInPath);
        }
        if bytes.iter().any(|&byte| std::path::is_separator(char::from(byte))) {
            return refuse(Invalid::NotBelowDirectory);
        }
        // A sweep would take it for the file of a process, perhaps of a dead one.
        if Own::parse(&name).is_some() {
            return refuse(Invalid::ReservedName);
        }
        Ok(name)
    }

    /// A name from what many have in common and what sets one apart, so that few bytes stand for one.
    pub(super) fn join(&self, stem: &str, number: u64) -> OsString {
        match self {
            Self::Own => Own::join(stem, number, Purpose::Temp),
            Self::Chosen { prefix, suffix, .. } => OsString::from(format!("{prefix}{number:x}{suffix}")),
        }
    }

    /// The reverse of [`HiddenNames::join`]; `None` for every other name.
    pub(super) fn split<'a>(&self, name: &'a OsStr) -> Option<(&'a str, u64)> {
        match self {
            Self::Own => Own::split_temp(name),
            Self::Chosen { prefix, suffix, .. } => {
                let digits = name.to_str()?.strip_prefix(prefix.as_str())?.strip_suffix(suffix.as_str())?;
                let number = u64::from_str_radix(digits, 16).ok()?;
                // `+1`, `01` and `A` are numbers too, and no names of ours.
                (self.join("", number) == name).then_some(("", number))
            }
        }
    }

    /// Whether a file of the bulk may come to be called so. (This crate's own names are refused before.)
    pub(super) fn includes(&self, name: &OsStr) -> bool {
        matches!(self, Self::Chosen { .. }) && self.split(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_names_are_split_where_they_were_joined_and_nothing_else_is_one() {
        let names = |prefix: &str, suffix: &str| HiddenNames::Chosen {
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
            first: 7,
        };
        for hidden in
            [names(".steadfast-txn-1f-", ".nxpart"), names("", ""), names("ab", ""), names("", "0f")]
        {
            for number in [0, 1, 0xa, 0xff, u64::MAX] {
                let name = hidden.join("", number);
                assert_eq!(hidden.split(&name), Some(("", number)), "{hidden:?}");
                assert!(hidden.includes(&name));
            }
        }
        let hidden = names("p-", ".s");
        assert_eq!(hidden.join("", 0x2a), OsString::from("p-2a.s"));
        for other in ["p-.s", "p-+1.s", "p-01.s", "p-A.s", "p-g.s", "p-1", "1.s", "p-10000000000000000.s"] {
            assert!(!hidden.includes(OsStr::new(other)), "{other}");
        }
        assert!(!HiddenNames::Own.includes(OsStr::new("x")));
    }
}
