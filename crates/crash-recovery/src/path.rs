//! [`TreePath`]: where something is below a root.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use media::NAME_LEN_MAX;

/// What every file of ours that is not the caller's begins with.
pub(crate) const OWN_PREFIX: &str = ".steadfast-";

/// What the name of a staged file ends in.
pub const STAGED_SUFFIX: &str = ".nxpart";

/// The longest path below a root, in bytes.
pub const PATH_LEN_MAX: usize = 4096;

/// How many names a path may have, one below the other: recovery looks for staged files so deep, and holds a descriptor for each.
pub const COMPONENTS_MAX: usize = 128;

/// A path below a root: one component or more, separated by `/`, in UTF-8. Parsed once: whoever has one need not check it
/// again. Ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Arc<str>);

/// Why a text is no path below a root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It is empty.
    #[error("the path is empty")]
    Empty,
    /// It is longer than [`PATH_LEN_MAX`].
    #[error("the path is too long: len={len} len_max={PATH_LEN_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It has more names than [`COMPONENTS_MAX`].
    #[error("the path is too deep: names={count} names_max={COMPONENTS_MAX}")]
    TooDeep {
        /// How many it has.
        count: usize,
    },
    /// It holds a NUL byte.
    #[error("the path holds a NUL byte")]
    Nul,
    /// A component is empty, `.` or `..`: the path is absolute, ends in a slash, or could lead out of the root.
    #[error("the path must lead below the root, without empty components, `.` or `..`: `{0}`")]
    NotBelow(String),
    /// A component is longer than a name may be.
    #[error("a name in the path is too long: len={len} len_max={NAME_LEN_MAX}")]
    NameTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A component has the form of a file of ours.
    #[error("names that begin with `{OWN_PREFIX}` are our own: `{0}`")]
    Reserved(String),
}

impl TreePath {
    /// Checks a path. `.` components in front (`./a`) are not skipped: there is one way to write each path.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(path: &str) -> Result<Self, PathError> {
        let parsed = Self::parse_any(path)?;
        if let Some(own) = parsed.components().find(|part| part.starts_with(OWN_PREFIX)) {
            return Err(PathError::Reserved(own.to_owned()));
        }
        Ok(parsed)
    }

    /// As [`TreePath::parse`], with names of our own.
    pub(crate) fn parse_any(path: &str) -> Result<Self, PathError> {
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if path.len() > PATH_LEN_MAX {
            return Err(PathError::TooLong { len: path.len() });
        }
        if path.contains('\0') {
            return Err(PathError::Nul);
        }
        let count = path.split('/').count();
        if count > COMPONENTS_MAX {
            return Err(PathError::TooDeep { count });
        }
        for part in path.split('/') {
            if matches!(part, "" | "." | "..") || is_not_one_component(part) {
                return Err(PathError::NotBelow(path.to_owned()));
            }
            if part.len() > NAME_LEN_MAX {
                return Err(PathError::NameTooLong { len: part.len() });
            }
        }
        Ok(Self(path.into()))
    }

    /// A name beside this one.
    pub(crate) fn sibling(&self, name: &str) -> Self {
        match self.parent() {
            "" => Self(name.into()),
            parent => Self(format!("{parent}/{name}").into()),
        }
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory it is in; empty for the root itself.
    #[must_use]
    pub fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// Its components, from the root on.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether it is `dir`, or below it.
    pub(crate) fn is_within(&self, dir: &str) -> bool {
        self.0.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Where the system has other separators, or names of drives.
fn is_not_one_component(part: &str) -> bool {
    media::single_component(Path::new(part).as_os_str()).is_err()
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreePath({:?})", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_below_the_root_or_is_refused() {
        for good in ["a", "a/b", "a b/ü", "...", "a.nxpart"] {
            assert_eq!(TreePath::parse(good).unwrap().as_str(), good);
        }
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "./a"] {
            assert_eq!(TreePath::parse(bad), Err(PathError::NotBelow(bad.to_owned())), "{bad}");
        }
        assert_eq!(TreePath::parse(""), Err(PathError::Empty));
        assert_eq!(TreePath::parse("a\0b"), Err(PathError::Nul));
        assert_eq!(
            TreePath::parse("x/.steadfast-txn"),
            Err(PathError::Reserved(".steadfast-txn".to_owned()))
        );
        assert!(TreePath::parse_any("x/.steadfast-txn").is_ok());
    }

    #[test]
    fn bounds_are_exact() {
        let name = |len: usize| "n".repeat(len);
        assert!(TreePath::parse(&name(255)).is_ok());
        assert_eq!(TreePath::parse(&name(256)), Err(PathError::NameTooLong { len: 256 }));
        let long = |len: usize| {
            let mut path = format!("{}/", name(100)).repeat(len / 101 - 1);
            path.push_str(&name(len - path.len()));
            path
        };
        assert!(TreePath::parse(&long(PATH_LEN_MAX)).is_ok());
        assert_eq!(
            TreePath::parse(&long(PATH_LEN_MAX + 1)),
            Err(PathError::TooLong { len: PATH_LEN_MAX + 1 })
        );
        let deep = |count: usize| format!("{}n", "d/".repeat(count - 1));
        assert!(TreePath::parse(&deep(COMPONENTS_MAX)).is_ok());
        let count = COMPONENTS_MAX + 1;
        assert_eq!(TreePath::parse(&deep(count)), Err(PathError::TooDeep { count }));
    }

    #[test]
    fn parents_names_and_siblings() {
        let path = TreePath::parse("a/b/c").unwrap();
        assert_eq!((path.parent(), path.name()), ("a/b", "c"));
        assert_eq!(path.sibling("d").as_str(), "a/b/d");
        assert!(
            path.is_within("a/b")
                && path.is_within("a/b/c")
                && !path.is_within("a/b/cc")
                && !path.is_within("a/")
        );
        let top = TreePath::parse("a").unwrap();
        assert_eq!((top.parent(), top.name(), top.sibling("b").as_str()), ("", "a", "b"));
    }
}
