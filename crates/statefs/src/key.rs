//! [`Key`] and [`Prefix`]: parsed once, trusted from then on.
//!
//! A text is a key **if and only if**
//! 1. it begins with `/state/`, and something follows;
//! 2. it has at most [`KEY_LEN_MAX`] bytes;
//! 3. none of the components between its slashes is empty, `.` or `..` (so it neither ends with a slash nor has two in a row);
//! 4. it has no control character: none below U+0020 (NUL, newline and tab among them), none from U+007F to U+009F.
//!
//! There is one form of each key: what is not in it is refused, never repaired. Keys differ where their bytes differ; there
//! is no folding of case and no normalisation. They are ordered by their bytes.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Bound;

use crate::limits::KEY_LEN_MAX;

/// What every key begins with.
const ROOT: &str = "/state";

/// What the store keeps for itself stands among the keys, under roots of its own: it is journaled, copied and found again
/// like any value. These roots come before [`ROOT`] in the order of keys, and no user's key lies under them.
pub(crate) const QUOTA_ROOT: &str = "/quota";
pub(crate) const SEALED_ROOT: &str = "/sealed";
pub(crate) const SNAPSHOT_ROOT: &str = "/snapshot";

/// The name of a value: absolute, under `/state/`, in its one form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not begin with `/state/`.
    #[error("a key begins with `/state/`")]
    NotUnderState,
    /// It is `/state` or `/state/`: that is where keys live, and no key.
    #[error("the root is no key")]
    BareRoot,
    /// It is too long.
    #[error("the key is too long: len={len} limit={limit}")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// It ends with a slash.
    #[error("the key ends with a slash")]
    TrailingSlash,
    /// There are two slashes in a row.
    #[error("the key has an empty component at byte {at}")]
    EmptyComponent {
        /// Where the component would begin.
        at: usize,
    },
    /// A component is `.` or `..`.
    #[error("the key has a component `.` or `..` at byte {at}")]
    DotComponent {
        /// Where the component begins.
        at: usize,
    },
    /// There is a control character in it.
    #[error("the key has a control character at byte {at}")]
    ControlCharacter {
        /// Where.
        at: usize,
    },
    /// It is not UTF-8.
    #[error("the key is not UTF-8")]
    NotUtf8,
}

impl Key {
    /// The key that a text is.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The key that bytes are.
    ///
    /// # Errors
    /// The first rule they break.
    pub fn from_utf8(bytes: &[u8]) -> Result<Self, KeyError> {
        Self::parse(core::str::from_utf8(bytes).map_err(|_| KeyError::NotUtf8)?)
    }

    /// A text that has been checked already.
    pub(crate) fn trusted(text: &str) -> Self {
        Self(text.into())
    }

    /// As a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl core::str::FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// Where users' keys begin, in the order of all that is stored.
pub(crate) fn first_of_users() -> Bound<&'static str> {
    Bound::Included(ROOT)
}

/// Whether a stored key is a user's, and not one of the store's own.
pub(crate) fn is_users(text: &str) -> bool {
    text.starts_with(ROOT)
}

/// The rules of a user's key.
pub(crate) fn check(text: &str) -> Result<(), KeyError> {
    check_under(ROOT, text)
}

/// The name of the snapshot whose record has this key, if it is such a record's.
pub(crate) fn snapshot_of(text: &str) -> Option<&str> {
    text.strip_prefix(SNAPSHOT_ROOT)?.strip_prefix('/')
}

/// The rules of what a record may have as its key: a user's key, or one of the store's own, which has the same form under
/// another root. (That of a snapshot is further checked where snapshots are.)
pub(crate) fn check_stored(text: &str) -> Result<(), KeyError> {
    let own = [QUOTA_ROOT, SEALED_ROOT, SNAPSHOT_ROOT].into_iter().find(|root| text.starts_with(root));
    check_under(own.unwrap_or(ROOT), text)
}

/// The rules, in the order of the list above.
fn check_under(root: &str, text: &str) -> Result<(), KeyError> {
    let path = match text.strip_prefix(root) {
        Some("" | "/") => return Err(KeyError::BareRoot),
        Some(rest) => rest.strip_prefix('/').ok_or(KeyError::NotUnderState)?,
        None => return Err(KeyError::NotUnderState),
    };
    if text.len() > KEY_LEN_MAX {
        return Err(KeyError::TooLong { len: text.len(), limit: KEY_LEN_MAX });
    }
    if is_plain(text.as_bytes()) {
        return Ok(());
    }
    if let Some((at, _)) = text.char_indices().find(|(_, char)| char.is_control()) {
        return Err(KeyError::ControlCharacter { at });
    }
    let mut at = text.len() - path.len();
    for component in path.split('/') {
        match component {
            "" if at == text.len() => return Err(KeyError::TrailingSlash),
            "" => return Err(KeyError::EmptyComponent { at }),
            "." | ".." => return Err(KeyError::DotComponent { at }),
            _ => at += component.len() + 1,
        }
    }
    Ok(())
}

/// Whether nothing in a text could break a rule, which is so for most keys and costs a few nanoseconds to see: no byte is
/// outside of printable ASCII, behind no slash comes a dot or another slash, and the end is none.
fn is_plain(text: &[u8]) -> bool {
    let behind = text.get(1..).unwrap_or(&[]);
    let pairs = text.iter().zip(behind).fold(true, |plain, (one, next)| {
        plain & (0x20..0x7f).contains(one) & !(*one == b'/' && (*next == b'/' || *next == b'.'))
    });
    pairs && text.last().is_some_and(|last| (0x20..0x7f).contains(last) && *last != b'/')
}

/// A part of the tree of keys: `/state/a` covers `/state/a` and `/state/a/b`, and not `/state/ab`.
///
/// Written like a key; `/state` covers everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// Everything.
    #[must_use]
    pub fn root() -> Self {
        Self(ROOT.into())
    }

    /// The prefix that a text is: `/state`, or a key.
    ///
    /// # Errors
    /// The first rule it breaks; `/state/` ends with a slash.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text == ROOT {
            return Ok(Self::root());
        }
        match check(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(KeyError::BareRoot) => Err(KeyError::TrailingSlash),
            Err(error) => Err(error),
        }
    }

    /// As a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the key lies in it.
    #[must_use]
    pub fn covers(&self, key: &Key) -> bool {
        self.covers_text(key.as_str())
    }

    pub(crate) fn covers_text(&self, key: &str) -> bool {
        key.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl From<Key> for Prefix {
    fn from(key: Key) -> Self {
        Self(key.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    #[test]
    fn keys_are_taken_as_they_are() {
        for text in [
            "/state/a",
            "/state/boot/bootctl.v1",
            "/state/ä/日本",
            "/state/.hidden",
            "/state/...",
            "/state/a b",
        ] {
            assert_eq!(Key::parse(text).unwrap().as_str(), text);
        }
        let longest: String = format!("/state/{}", "k".repeat(KEY_LEN_MAX - 7));
        assert!(Key::parse(&longest).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repaired() {
        let too_long: String = format!("/state/{}", "k".repeat(KEY_LEN_MAX - 6));
        let refused = [
            ("", KeyError::NotUnderState),
            ("/", KeyError::NotUnderState),
            ("state/a", KeyError::NotUnderState),
            ("/State/a", KeyError::NotUnderState),
            ("/stateful", KeyError::NotUnderState),
            ("//state/a", KeyError::NotUnderState),
            ("/state", KeyError::BareRoot),
            ("/state/", KeyError::BareRoot),
            ("/state//", KeyError::EmptyComponent { at: 7 }),
            ("/state//a", KeyError::EmptyComponent { at: 7 }),
            ("/state/a//b", KeyError::EmptyComponent { at: 9 }),
            ("/state/a/", KeyError::TrailingSlash),
            ("/state/.", KeyError::DotComponent { at: 7 }),
            ("/state/..", KeyError::DotComponent { at: 7 }),
            ("/state/a/../b", KeyError::DotComponent { at: 9 }),
            ("/state/a/./b", KeyError::DotComponent { at: 9 }),
            ("/state/a\0", KeyError::ControlCharacter { at: 8 }),
            ("/state/a\nb", KeyError::ControlCharacter { at: 8 }),
            ("/state/a\tb", KeyError::ControlCharacter { at: 8 }),
            ("/state/a\u{7f}", KeyError::ControlCharacter { at: 8 }),
            ("/state/ä\u{85}", KeyError::ControlCharacter { at: 9 }),
            (&too_long, KeyError::TooLong { len: 256, limit: 255 }),
        ];
        for (text, error) in refused {
            assert_eq!(Key::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Key::from_utf8(b"/state/\xff"), Err(KeyError::NotUtf8));
    }

    #[test]
    fn what_the_store_keeps_for_itself_is_no_users_key_and_comes_first() {
        for root in [QUOTA_ROOT, SEALED_ROOT, SNAPSHOT_ROOT] {
            let own: String = format!("{root}/state/a");
            assert_eq!(Key::parse(&own), Err(KeyError::NotUnderState));
            assert_eq!(check_stored(&own), Ok(()));
            assert_eq!(check_stored(root), Err(KeyError::BareRoot));
            assert_eq!(
                check_stored(&format!("{root}/a/../b")),
                Err(KeyError::DotComponent { at: root.len() + 3 })
            );
            assert!(own.as_str() < ROOT && !is_users(&own));
        }
        assert!(is_users("/state/a"));
        assert_eq!(check_stored("/other/a"), Err(KeyError::NotUnderState));
    }

    #[test]
    fn a_prefix_ends_at_a_component() {
        let prefix = Prefix::parse("/state/a").unwrap();
        for (key, covered) in
            [("/state/a", true), ("/state/a/b", true), ("/state/ab", false), ("/state/a.b", false)]
        {
            assert_eq!(prefix.covers(&Key::parse(key).unwrap()), covered, "{key}");
            assert!(Prefix::root().covers(&Key::parse(key).unwrap()));
        }
        assert_eq!(Prefix::parse("/state"), Ok(Prefix::root()));
        assert_eq!(Prefix::parse("/state/"), Err(KeyError::TrailingSlash));
        assert_eq!(Prefix::parse("/stat"), Err(KeyError::NotUnderState));
    }
}
