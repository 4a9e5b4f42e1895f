//! [`Uri`]: parsed once, trusted from then on.
//!
//! A text is a URI **if and only if**
//! 1. it has at most [`URI_LEN_MAX`] bytes and no control character: none below U+0020 (NUL, newline and tab among
//!    them), none from U+007F to U+009F;
//! 2. it begins with `state:/`, and the name of an app follows: 1 to [`APP_LEN_MAX`] bytes of `a`-`z`, `0`-`9`, `.`, `_`
//!    and `-`, not beginning with a dot, and not one of the reserved names `content` and `crashsim`;
//! 3. after the app there is nothing, or a slash and a path of at most [`DEPTH_MAX`] components with slashes between them;
//! 4. no component is empty, `.` or `..` (so the text does not end with a slash), and none is longer than
//!    [`COMPONENT_LEN_MAX`] bytes, so that the name under which it is staged is still a file name;
//! 5. no component, nor the app, ends in `.nxpart` or begins with `.steadfast-`: these names are the store's own.
//!
//! There is one form of each URI: what is not in it is refused, never repaired. URIs are UTF-8 and differ where their
//! bytes differ: no percent-encoding, no folding of case, no normalisation (`é` in one code point and in two are two names).
//! They are ordered by their bytes. A root on a file system that folds case cannot keep two names that differ in it: the
//! second one is the first there.

use std::fmt;
use std::str::FromStr;

/// What every URI begins with.
pub const SCHEME: &str = "state:/";

/// The longest URI, in bytes, `state:/` included.
pub const URI_LEN_MAX: usize = 1024;

/// The longest name of an app, in bytes.
pub const APP_LEN_MAX: usize = 64;

/// The longest component of a path, in bytes: a file name of 255 less the suffix of staged names.
pub const COMPONENT_LEN_MAX: usize = media::NAME_LEN_MAX - TEMP_SUFFIX.len();

/// The most components that the path below an app may have. The walks of the tree go so deep.
pub const DEPTH_MAX: usize = 32;

/// What the name of a staged object ends in, and no other name does.
pub const TEMP_SUFFIX: &str = ".nxpart";

/// What the names of this project's own files begin with, in any directory.
const OWN_PREFIX: &str = ".steadfast-";

/// No apps: the store's own directory, and the simulator's.
pub(crate) const RESERVED_APPS: [&str; 2] = [OWN_APP, "crashsim"];

/// The directory in which the store keeps what is its own.
pub(crate) const OWN_APP: &str = "content";

const _: () = assert!(COMPONENT_LEN_MAX == 248, "what the documents say");

/// The name of an object or of a directory: `state:/<app>/<path>`, or `state:/<app>`, the directory of the app.
///
/// What [`ContentStore::create2`](crate::ContentStore::create2) answers for a staged object is a URI too; it stands for
/// that object until it is committed, and no text parses to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uri(Box<str>);

/// Why a text is no URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It is empty.
    #[error("the URI is empty")]
    Empty,
    /// It is too long.
    #[error("the URI is too long: len={len} limit={limit}")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// There is a control character in it, NUL perhaps.
    #[error("the URI has the control character U+{code:04X} at byte {at}")]
    ControlCharacter {
        /// Which.
        code: u32,
        /// Where.
        at: usize,
    },
    /// It does not begin with `state:/`.
    #[error("the URI does not begin with `{SCHEME}`")]
    Scheme,
    /// No app follows after `state:/`.
    #[error("the URI names no app")]
    NoApp,
    /// The app is no name of an app.
    #[error("`{app}` is no name of an app")]
    App {
        /// What stands in its place.
        app: String,
    },
    /// The name of the app is too long.
    #[error("the name of the app is too long: len={len} limit={limit}")]
    AppTooLong {
        /// Its bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The app has a name that is reserved.
    #[error("the app `{app}` is reserved")]
    ReservedApp {
        /// Which.
        app: String,
    },
    /// There are two slashes in a row, or one at the end.
    #[error("the URI has an empty component at byte {at}")]
    EmptyComponent {
        /// Where the component would begin.
        at: usize,
    },
    /// A component is `.` or `..`.
    #[error("the URI has a component `.` or `..` at byte {at}")]
    DotComponent {
        /// Where the component begins.
        at: usize,
    },
    /// A component is too long.
    #[error("the component at byte {at} is too long: len={len} limit={limit}")]
    ComponentTooLong {
        /// Where it begins.
        at: usize,
        /// Its bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A component has the form of the store's own names.
    #[error("`{name}` has the form of the store's own names")]
    ReservedName {
        /// The component.
        name: String,
    },
    /// There are too many components.
    #[error("the URI is too deep: components={depth} limit={limit}")]
    TooDeep {
        /// How many there are.
        depth: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A slash in what must be one component.
    #[error("`{name}` is more than one component")]
    Slash {
        /// What was given as one.
        name: String,
    },
}

impl UriError {
    /// What a URI must be like.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Empty | Self::Scheme | Self::NoApp => {
                "an object is written `state:/<app>/<path>`, as in `state:/photos/2024/one.jpg`".to_owned()
            }
            Self::TooLong { limit, .. } => format!("a URI has at most {limit} bytes of UTF-8"),
            Self::ControlCharacter { .. } => "no control characters, NUL and newline among them".to_owned(),
            Self::App { .. } | Self::AppTooLong { .. } => format!(
                "an app has 1 to {APP_LEN_MAX} bytes of a-z, 0-9, `.`, `_` and `-`, the first of them no dot"
            ),
            Self::ReservedApp { .. } => {
                format!(
                    "{} are kept for the store itself",
                    RESERVED_APPS.map(|app| format!("`{app}`")).join(" and ")
                )
            }
            Self::EmptyComponent { .. } => {
                "one slash between two components; a directory is written without one at its end".to_owned()
            }
            Self::DotComponent { .. } => "a URI says where something is, from the app down".to_owned(),
            Self::ComponentTooLong { limit, .. } => format!(
                "a component has at most {limit} bytes: with `{TEMP_SUFFIX}` after it, it must still be a file name"
            ),
            Self::ReservedName { .. } => format!(
                "names that end in `{TEMP_SUFFIX}` or begin with `{OWN_PREFIX}` are kept for what the store has not finished"
            ),
            Self::TooDeep { limit, .. } => format!("at most {limit} components below the app"),
            Self::Slash { .. } => {
                "give the directory as the parent, and the last component as the name".to_owned()
            }
        }
    }
}

impl Uri {
    /// The URI that a text is.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        check_text(text)?;
        let Some(rest) = text.strip_prefix(SCHEME) else { return Err(UriError::Scheme) };
        let (app, path) = rest.split_once('/').map_or((rest, None), |(app, path)| (app, Some(path)));
        check_app(app)?;
        let Some(path) = path else { return Ok(Self(text.into())) };
        let mut at = SCHEME.len() + app.len() + 1;
        let mut depth = 0_usize;
        for component in path.split('/') {
            check_component(component, at)?;
            at += component.len() + 1;
            depth += 1;
        }
        if depth > DEPTH_MAX {
            return Err(UriError::TooDeep { depth, limit: DEPTH_MAX });
        }
        Ok(Self(text.into()))
    }

    /// The directory of an app.
    ///
    /// # Errors
    /// The first rule the name breaks.
    pub fn app_dir(app: &str) -> Result<Self, UriError> {
        check_text(app)?;
        check_app(app)?;
        Ok(Self(format!("{SCHEME}{app}").into()))
    }

    /// What has this name in this directory.
    ///
    /// # Errors
    /// The first rule the whole would break; [`UriError::Slash`]: the name is more than one component.
    pub fn join(&self, name: &str) -> Result<Self, UriError> {
        if name.contains('/') {
            return Err(UriError::Slash { name: name.to_owned() });
        }
        Self::parse(&format!("{self}/{name}"))
    }

    /// The name under which an object of this URI is staged.
    pub(crate) fn staged(&self) -> Self {
        Self(format!("{self}{TEMP_SUFFIX}").into())
    }

    /// What stands below a directory of the tree, which the walk has checked component by component.
    pub(crate) fn found(&self, below: &str) -> Self {
        Self(format!("{self}/{below}").into())
    }

    /// Whether it stands for a staged object.
    #[must_use]
    pub fn is_staged(&self) -> bool {
        self.0.ends_with(TEMP_SUFFIX)
    }

    /// The app.
    #[must_use]
    pub fn app(&self) -> &str {
        self.split().0
    }

    /// The path below the app; empty for the app's own directory.
    #[must_use]
    pub fn path(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        let rest = self.below_root();
        rest.split_once('/').unwrap_or((rest, ""))
    }

    /// The app and the path: where it is below the root.
    pub(crate) fn below_root(&self) -> &str {
        self.0.strip_prefix(SCHEME).unwrap_or(&self.0)
    }

    /// The last component: of an app's own directory, the app.
    #[must_use]
    pub fn name(&self) -> &str {
        let rest = self.below_root();
        rest.rsplit_once('/').map_or(rest, |(_, name)| name)
    }

    /// The directory it stands in; [`None`] for an app's own.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.path().is_empty() {
            return None;
        }
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.into()))
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What holds for the text as a whole.
fn check_text(text: &str) -> Result<(), UriError> {
    if text.is_empty() {
        return Err(UriError::Empty);
    }
    if text.len() > URI_LEN_MAX {
        return Err(UriError::TooLong { len: text.len(), limit: URI_LEN_MAX });
    }
    match text.char_indices().find(|(_, character)| character.is_control()) {
        Some((at, character)) => Err(UriError::ControlCharacter { code: character.into(), at }),
        None => Ok(()),
    }
}

/// Rule 2.
fn check_app(app: &str) -> Result<(), UriError> {
    if app.is_empty() {
        return Err(UriError::NoApp);
    }
    if app.len() > APP_LEN_MAX {
        return Err(UriError::AppTooLong { len: app.len(), limit: APP_LEN_MAX });
    }
    let is_known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if app.starts_with('.') || !app.bytes().all(is_known) {
        return Err(UriError::App { app: app.to_owned() });
    }
    if RESERVED_APPS.contains(&app) {
        return Err(UriError::ReservedApp { app: app.to_owned() });
    }
    check_name(app)
}

/// Rules 4 and 5, for the component at byte `at`.
fn check_component(component: &str, at: usize) -> Result<(), UriError> {
    match component {
        "" => return Err(UriError::EmptyComponent { at }),
        "." | ".." => return Err(UriError::DotComponent { at }),
        _ => {}
    }
    if component.len() > COMPONENT_LEN_MAX {
        return Err(UriError::ComponentTooLong { at, len: component.len(), limit: COMPONENT_LEN_MAX });
    }
    check_name(component)
}

/// Rule 5.
fn check_name(name: &str) -> Result<(), UriError> {
    if is_own(name) {
        return Err(UriError::ReservedName { name: name.to_owned() });
    }
    Ok(())
}

/// Whether a file name has the form of the store's own.
pub(crate) fn is_own(name: &str) -> bool {
    name.ends_with(TEMP_SUFFIX) || name.starts_with(OWN_PREFIX)
}

/// Whether a directory entry could be a component of a URI.
pub(crate) fn is_component(name: &str) -> bool {
    check_component(name, 0).is_ok() && !name.contains('/') && !name.chars().any(char::is_control)
}

/// Whether a directory entry of the root could be an app.
pub(crate) fn is_app(name: &str) -> bool {
    check_app(name).is_ok()
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> UriError {
        let error = Uri::parse(text).expect_err(text);
        assert!(!error.hint().is_empty());
        error
    }

    #[test]
    fn a_uri_is_taken_apart_and_put_together() {
        let uri = Uri::parse("state:/photos/2024/één.jpg").unwrap();
        assert_eq!((uri.app(), uri.path(), uri.name()), ("photos", "2024/één.jpg", "één.jpg"));
        assert_eq!(uri.to_string(), "state:/photos/2024/één.jpg");
        let parent = uri.parent().unwrap();
        assert_eq!(parent.as_str(), "state:/photos/2024");
        assert_eq!(parent.join("één.jpg").unwrap(), uri);
        let app = parent.parent().unwrap();
        assert_eq!(
            (app.as_str(), app.app(), app.path(), app.name()),
            ("state:/photos", "photos", "", "photos")
        );
        assert_eq!(app.parent(), None);
        assert_eq!(Uri::app_dir("photos").unwrap(), app);
        assert_eq!("state:/photos".parse::<Uri>().unwrap(), app);
        assert_eq!(uri.staged().as_str(), "state:/photos/2024/één.jpg.nxpart");
        assert!(uri.staged().is_staged() && !uri.is_staged());
        assert_eq!(Uri::parse(uri.staged().as_str()).unwrap_err(), refused("state:/photos/één.jpg.nxpart"));
    }

    #[test]
    fn what_is_not_in_the_one_form_is_refused() {
        assert_eq!(refused(""), UriError::Empty);
        for wrong in ["content:/a/b", "state:a/b", "state://a/b/", "/a/b", "STATE:/a/b", " state:/a/b", "a"] {
            let error = refused(wrong);
            let is_right = if wrong.starts_with("state:/") { UriError::NoApp } else { UriError::Scheme };
            assert_eq!(error, is_right, "{wrong}");
        }
        assert_eq!(refused("state:/"), UriError::NoApp);
        assert_eq!(refused("state:/a/"), UriError::EmptyComponent { at: 9 });
        assert_eq!(refused("state:/a//b"), UriError::EmptyComponent { at: 9 });
        assert_eq!(refused("state:/a/b/"), UriError::EmptyComponent { at: 11 });
        assert_eq!(refused("state:/a/.."), UriError::DotComponent { at: 9 });
        assert_eq!(refused("state:/a/b/../../c"), UriError::DotComponent { at: 11 });
        assert_eq!(refused("state:/a/./b"), UriError::DotComponent { at: 9 });
        assert_eq!(refused("state:/a/b\0c"), UriError::ControlCharacter { code: 0, at: 10 });
        assert_eq!(refused("state:/a/\u{7f}"), UriError::ControlCharacter { code: 0x7f, at: 9 });
        assert_eq!(refused("state:/a/é\u{9f}"), UriError::ControlCharacter { code: 0x9f, at: 11 });
        assert!(Uri::parse("state:/a/\u{a0}").is_ok());
    }

    #[test]
    fn the_apps_name_is_plain_and_not_one_of_ours() {
        for bad in [".hidden", "..", ".", "Photos", "a b", "é", "a:b", "a\\b"] {
            assert_eq!(refused(&format!("state:/{bad}/x")), UriError::App { app: bad.to_owned() });
            assert!(Uri::app_dir(bad).is_err());
        }
        assert_eq!(Uri::app_dir("a/b").unwrap_err(), UriError::App { app: "a/b".to_owned() });
        for ours in ["content", "crashsim"] {
            assert_eq!(
                refused(&format!("state:/{ours}/journal")),
                UriError::ReservedApp { app: ours.to_owned() }
            );
            assert_eq!(refused(&format!("state:/{ours}")), UriError::ReservedApp { app: ours.to_owned() });
        }
        for good in ["content2", "a", "0", "a.b-c_d", "-"] {
            assert!(Uri::parse(&format!("state:/{good}/x")).is_ok(), "{good}");
        }
        assert_eq!(refused("state:/x.nxpart/a"), UriError::ReservedName { name: "x.nxpart".to_owned() });
        let app = "a".repeat(APP_LEN_MAX);
        assert!(Uri::app_dir(&app).is_ok());
        let limit = APP_LEN_MAX;
        assert_eq!(refused(&format!("state:/{app}a/x")), UriError::AppTooLong { len: limit + 1, limit });
    }

    #[test]
    fn names_of_the_stores_own_are_refused_wherever_they_stand() {
        for own in ["x.nxpart", ".nxpart", ".steadfast-1", ".steadfast-"] {
            for text in [format!("state:/a/{own}"), format!("state:/a/{own}/x"), format!("state:/a/x/{own}")]
            {
                assert_eq!(refused(&text), UriError::ReservedName { name: own.to_owned() }, "{text}");
            }
            assert!(Uri::parse("state:/a").unwrap().join(own).is_err());
        }
        for good in ["nxpart", "x.nxparts", ".nxpart.x", ".steadfast", "x.steadfast-1", "x.NXPART"] {
            assert!(Uri::parse(&format!("state:/a/{good}")).is_ok(), "{good}");
        }
    }

    #[test]
    fn every_length_is_taken_at_its_limit_and_refused_above() {
        let component = "c".repeat(COMPONENT_LEN_MAX);
        let at_limit = Uri::parse(&format!("state:/a/{component}")).unwrap();
        assert_eq!(at_limit.staged().name().len(), media::NAME_LEN_MAX);
        let (at, len, limit) = (9, COMPONENT_LEN_MAX + 1, COMPONENT_LEN_MAX);
        assert_eq!(refused(&format!("state:/a/{component}c")), UriError::ComponentTooLong { at, len, limit });
        // In bytes, not in characters.
        assert_eq!(
            refused(&format!("state:/a/{}", "é".repeat(125))),
            UriError::ComponentTooLong { at, len: 250, limit }
        );

        let long = format!("state:/a/{0}/{0}/{0}/{0}", component);
        let at_limit = format!("{long}/{}", "x".repeat(URI_LEN_MAX - long.len() - 1));
        assert!(Uri::parse(&at_limit).is_ok());
        let (len, limit) = (URI_LEN_MAX + 1, URI_LEN_MAX);
        assert_eq!(refused(&format!("{at_limit}x")), UriError::TooLong { len, limit });

        let deep = |depth: usize| format!("state:/a{}", "/d".repeat(depth));
        assert!(Uri::parse(&deep(DEPTH_MAX)).is_ok());
        let depth = DEPTH_MAX + 1;
        assert_eq!(refused(&deep(depth)), UriError::TooDeep { depth, limit: DEPTH_MAX });
        assert_eq!(Uri::parse(&deep(DEPTH_MAX)).unwrap().join("d"), Err(refused(&deep(depth))));
    }

    #[test]
    fn a_joined_name_is_one_component() {
        let app = Uri::app_dir("a").unwrap();
        assert_eq!(app.join("b/c"), Err(UriError::Slash { name: "b/c".to_owned() }));
        assert_eq!(app.join("/"), Err(UriError::Slash { name: "/".to_owned() }));
        assert_eq!(app.join(""), Err(UriError::EmptyComponent { at: 9 }));
        assert_eq!(app.join(".."), Err(UriError::DotComponent { at: 9 }));
    }

    proptest! {
        #[test]
        fn any_text_is_a_uri_or_a_named_error(text in "\\PC{0,40}|state:/[a-c./\0é]{0,20}|state:/a(/[a-z.]{0,3}){0,40}") {
            match Uri::parse(&text) {
                Ok(uri) => {
                    prop_assert_eq!(uri.as_str(), &text);
                    // What it names stays below the root.
                    for part in std::path::Path::new(uri.below_root()).components() {
                        prop_assert!(matches!(part, std::path::Component::Normal(_)));
                    }
                    let again = match uri.parent() {
                        Some(parent) => parent.join(uri.name()),
                        None => Uri::app_dir(uri.name()),
                    };
                    prop_assert_eq!(again, Ok(uri));
                }
                Err(error) => prop_assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
            }
        }
    }
}
