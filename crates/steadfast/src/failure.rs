//! Why a command failed, what its exit code is, and what `--json` says about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use durable_io::{Cause, Error, Invalid, Kind, Stage};
use serde_json::{Value, json};

mod content;
mod state;
mod tree;

pub(crate) use content::ContentTrouble;
pub(crate) use state::StateTrouble;
use tree::Engine;
pub(crate) use tree::TreeTrouble;

/// Exit codes, documented in `steadfast --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Ok,
    /// 1: the asked-for thing is not so (not found, exists, torn tail).
    NotSo,
    /// 2: the request is wrong.
    Usage,
    /// 3: corrupt or damaged.
    Corrupt,
    /// 4: no space, or no quota.
    NoSpace,
    /// 5: I/O.
    Io,
    /// 6: locked or held.
    Held,
    /// 7: denied.
    Denied,
    /// 130: stopped by a signal.
    Interrupted,
    /// What the child of `lock` or `update` returned, or 125 to 127 if it never ran.
    Child(u8),
}

/// Our own failure in `lock` and `update`, whose other codes belong to the child; as with `timeout` and `env`.
pub(crate) const OWN_FAILURE_BESIDE_A_CHILD: u8 = 125;

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::NotSo => 1,
            Self::Usage => 2,
            Self::Corrupt => 3,
            Self::NoSpace => 4,
            Self::Io => 5,
            Self::Held => 6,
            Self::Denied => 7,
            Self::Interrupted => 130,
            Self::Child(code) => code,
        }
    }

    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Invalid => Self::Usage,
            Kind::NotFound | Kind::Exists | Kind::Conflict | Kind::Declined => Self::NotSo,
            Kind::NoSpace => Self::NoSpace,
            Kind::Denied => Self::Denied,
            Kind::Held => Self::Held,
            Kind::Corrupt => Self::Corrupt,
            Kind::Unsupported | Kind::Io | Kind::Poisoned => Self::Io,
            Kind::Cancelled => Self::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Everything that can end a command early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A durable operation failed.
    Durable(Error),
    /// Something beside it: reading the source, starting a child.
    Io { doing: &'static str, path: Option<PathBuf>, source: io::Error },
    /// The arguments contradict each other or the world.
    Usage { message: String, hint: Option<String> },
    /// What was asked for is not so.
    NotSo { message: String, hint: Option<String> },
    /// The store in an image did not do what it was asked to.
    State { image: PathBuf, trouble: Box<StateTrouble> },
    /// Files of a directory did not change together.
    Tree(Box<TreeTrouble>),
    /// A content store did not do what it was asked to.
    Content(Box<ContentTrouble>),
    /// A signal asked to stop.
    Interrupted,
    /// What was asked for was done, but not even that could be printed.
    Output(io::Error),
    /// Any of them, for what a line of the input asks for.
    InLine { number: usize, failure: Box<Failure> },
    /// Any of them, in a command whose exit code belongs to a child.
    BesideChild { code: u8, failure: Box<Failure> },
}

pub(crate) type Outcome<T = Exit> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Durable(error)
    }
}

impl Failure {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { doing, path: Some(path.into()), source }
    }

    pub(crate) fn stream(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, path: None, source }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    pub(crate) fn not_so(message: impl Into<String>) -> Self {
        Self::NotSo { message: message.into(), hint: None }
    }

    pub(crate) fn state(image: impl Into<PathBuf>, trouble: impl Into<StateTrouble>) -> Self {
        Self::State { image: image.into(), trouble: Box::new(trouble.into()) }
    }

    pub(crate) fn tree(root: impl Into<PathBuf>, error: impl Into<crash_recovery::Error>) -> Self {
        Self::Tree(Box::new(TreeTrouble { root: root.into(), error: error.into(), engine: Engine::Txn }))
    }

    pub(crate) fn content(root: impl Into<PathBuf>, error: impl Into<::content::Error>) -> Self {
        let root = root.into();
        match error.into() {
            ::content::Error::Root(error) => {
                Self::Tree(Box::new(TreeTrouble { root, error, engine: Engine::Content }))
            }
            error => Self::Content(Box::new(ContentTrouble { root, error })),
        }
    }

    /// The same failure, in that line of what was read.
    pub(crate) fn in_line(self, number: usize) -> Self {
        Self::InLine { number, failure: Box::new(self) }
    }

    /// The same failure in a command that passes on the status of a child.
    pub(crate) fn beside_child(self) -> Self {
        Self::BesideChild { code: OWN_FAILURE_BESIDE_A_CHILD, failure: Box::new(self) }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Durable(error) => Exit::of(error.kind()),
            Self::Io { source, .. } => match media::Reason::of(source) {
                media::Reason::NotFound => Exit::NotSo,
                media::Reason::PermissionDenied | media::Reason::ReadOnly => Exit::Denied,
                media::Reason::DiskFull | media::Reason::QuotaExceeded => Exit::NoSpace,
                _ => Exit::Io,
            },
            Self::Usage { .. } => Exit::Usage,
            Self::NotSo { .. } => Exit::NotSo,
            Self::State { trouble, .. } => trouble.exit(),
            Self::Tree(trouble) => Exit::of(trouble.kind()),
            Self::Content(trouble) => Exit::of(trouble.kind()),
            Self::Interrupted => Exit::Interrupted,
            Self::Output(_) => Exit::Io,
            Self::InLine { failure, .. } => failure.exit(),
            Self::BesideChild { failure, .. } if matches!(**failure, Self::Interrupted) => Exit::Interrupted,
            Self::BesideChild { code, .. } => Exit::Child(*code),
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Durable(error) => option_hint(error).map(str::to_owned).or_else(|| error.hint()),
            Self::Usage { hint, .. } | Self::NotSo { hint, .. } => hint.clone(),
            Self::State { trouble, .. } => trouble.hint().map(Into::into),
            Self::Tree(trouble) => trouble.hint(),
            Self::Content(trouble) => trouble.hint(),
            Self::Io { .. } | Self::Interrupted | Self::Output(_) => None,
            Self::InLine { failure, .. } | Self::BesideChild { failure, .. } => failure.hint(),
        }
    }

    /// A stable word for programs.
    fn code(&self) -> &'static str {
        match self {
            Self::Durable(error) => code_of(error.kind()),
            Self::Io { .. } => match self.exit() {
                Exit::NotSo => "not_found",
                Exit::Denied => "denied",
                Exit::NoSpace => "no_space",
                _ => "io",
            },
            Self::Output(_) => "output",
            Self::Usage { .. } => "usage",
            Self::NotSo { .. } => "not_so",
            Self::State { trouble, .. } => trouble.code(),
            Self::Tree(trouble) => trouble.code(),
            Self::Content(trouble) => trouble.code(),
            Self::Interrupted => "interrupted",
            Self::InLine { failure, .. } | Self::BesideChild { failure, .. } => failure.code(),
        }
    }

    /// `{code, message, hint, details}`.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "code": self.code(),
            "message": self.to_string(),
            "hint": self.hint(),
            "details": self.details(),
        })
    }

    fn details(&self) -> Value {
        match self {
            Self::Durable(error) => details_of(error),
            Self::Io { path, source, .. } => {
                json!({ "path": path.as_deref().map(shown), "os_error": source.raw_os_error() })
            }
            Self::State { image, trouble } => trouble.details(image),
            Self::Tree(trouble) => trouble.details(),
            Self::Content(trouble) => trouble.details(),
            Self::Usage { .. } | Self::NotSo { .. } | Self::Interrupted | Self::Output(_) => json!({}),
            Self::InLine { number, failure } => {
                let mut details = failure.details();
                insert(&mut details, "line", json!(number));
                details
            }
            Self::BesideChild { failure, .. } => failure.details(),
        }
    }
}

/// Where an option of ours is the remedy, the hint names it.
fn option_hint(error: &Error) -> Option<&'static str> {
    match (error.cause(), error.stage(), error.kind()) {
        (Cause::Invalid(Invalid::EmptyResult), ..) => Some("--allow-empty accepts an empty result"),
        (_, Stage::SyncDir, Kind::Unsupported) => {
            Some("this file system cannot sync directories; --allow-visible-only accepts that")
        }
        (_, Stage::Rename, Kind::Held) => Some(
            "a mount point cannot be replaced; --in-place-if-refused overwrites it, after a durable backup",
        ),
        (Cause::Held { .. }, ..) => Some("--timeout sets how long to wait"),
        _ => None,
    }
}

fn code_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "invalid",
        Kind::NotFound => "not_found",
        Kind::Exists => "exists",
        Kind::Conflict => "conflict",
        Kind::NoSpace => "no_space",
        Kind::Denied => "denied",
        Kind::Held => "locked",
        Kind::Corrupt => "corrupt",
        Kind::Unsupported => "unsupported",
        Kind::Io => "io",
        Kind::Poisoned => "poisoned",
        Kind::Declined => "declined",
        Kind::Cancelled => "interrupted",
    }
}

/// The four facts, and what there is beside them.
pub(crate) fn details_of(error: &Error) -> Value {
    let mut details = json!({
        "path": shown(error.path()),
        "stage": snake(&format!("{:?}", error.stage())),
        "state": snake(&format!("{:?}", error.state())),
        "retry": snake(&format!("{:?}", error.retry())),
        "os_error": error.raw_os_error(),
    });
    let mut add = |name: &str, value: Value| insert(&mut details, name, value);
    if let Cause::Held { holder, waited } = error.cause() {
        let pid = holder.process.as_ref().map(|process| process.pid);
        let host = holder.process.as_ref().map(|process| process.host.clone());
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        add("holder", json!({ "pid": pid, "host": host, "waited_ms": waited_ms }));
    }
    if let Cause::Corrupt { offset, .. } = error.cause() {
        add("offset", json!(offset));
    }
    if let Some(leftover) = error.cleanup() {
        add("leftover", json!(shown(&leftover.path)));
    }
    if let Some(backup) = error.backup() {
        add("backup", json!(shown(backup)));
    }
    details
}

/// Another field of an object.
pub(crate) fn insert(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

/// `: why: and why that`.
fn write_causes(
    f: &mut fmt::Formatter<'_>,
    mut source: Option<&(dyn std::error::Error + 'static)>,
) -> fmt::Result {
    while let Some(cause) = source {
        write!(f, ": {cause}")?;
        source = cause.source();
    }
    Ok(())
}

/// A path for JSON, which knows no other text than Unicode: what is none is replaced by `\u{fffd}`.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `SyncDir` as `sync_dir`.
pub(crate) fn snake(camel: &str) -> String {
    let mut text = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Durable(error) => error.fmt(f),
            Self::Io { doing, path, source } => {
                match path.as_deref().map(Path::display) {
                    Some(path) => write!(f, "`{path}`: {doing}: ")?,
                    None => write!(f, "{doing}: ")?,
                }
                source.fmt(f)
            }
            Self::Usage { message, .. } | Self::NotSo { message, .. } => f.write_str(message),
            Self::State { image, trouble } => write!(f, "`{}`: {trouble}", image.display()),
            Self::Tree(trouble) => trouble.fmt(f),
            Self::Content(trouble) => trouble.fmt(f),
            Self::Interrupted => f.write_str("stopped by a signal"),
            Self::Output(source) => write!(f, "it was done, but the report could not be written: {source}"),
            Self::InLine { number, failure } => write!(f, "line {number}: {failure}"),
            Self::BesideChild { failure, .. } => failure.fmt(f),
        }
    }
}
