//! The manifest of a transaction: what it says, and what can be said about it before anything is changed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crash_recovery::{Error, Publish, TreePath};
use durable_io::Dir;
use media::{FileKind, Metadata, Reason};
use serde_json::Value;

use crate::commands::lines::{Format, Line, wrong_line};
use crate::commands::open_regular;
use crate::commands::write::Source;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

const FORMAT: Format =
    Format { line_len_max: 1 << 20, hint: "nothing was changed; `steadfast txn --help` shows the lines" };

/// How many operations there may be.
const STEPS_MAX: usize = 65_536;

/// How many bytes all paths and contents may have that stand in the manifest itself.
const BYTES_MAX: usize = 16 << 20;

const PATH_RULE: &str = "a path is relative to the directory, as in config/app.json: no empty component, no `.` or `..`, at \
    most 4096 bytes, and no name of steadfast's own (`.steadfast-…`)";

/// One operation, and the line it stands in.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) action: Action,
}

#[derive(Debug)]
pub(super) enum Action {
    Write { path: TreePath, publish: Publish, content: Content },
    Remove { path: TreePath },
    Rename { from: TreePath, to: TreePath },
}

#[derive(Debug)]
pub(super) enum Content {
    Here(Vec<u8>),
    File(PathBuf),
}

/// What a name becomes, and the line that says so.
#[derive(Debug)]
struct Change {
    line: usize,
    is_removal: bool,
}

/// What the lines ask for.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) steps: Vec<Step>,
    /// Bytes of all contents.
    pub(super) content_len: u64,
    /// Names that get a file, or lose theirs for good.
    changed: BTreeMap<TreePath, Change>,
    /// Names whose files go elsewhere.
    moved: BTreeMap<TreePath, usize>,
    /// Of what stands in the manifest.
    bytes: usize,
}

impl Manifest {
    /// Reads all of it, so that nobody has to wait for its end, and looks at the files it takes its contents from.
    pub(super) fn read(source: &mut Source, interrupt: &Interrupt) -> Outcome<Self> {
        let mut manifest = Self::default();
        FORMAT.read(source, interrupt, &mut |line| manifest.line(line))?;
        if manifest.steps.is_empty() {
            return Err(Failure::Usage {
                message: "there is nothing to change".to_owned(),
                hint: Some(
                    "one JSON object a line: {\"op\":\"replace\",\"path\":\"config.json\",\"text\":\"{}\"}"
                        .to_owned(),
                ),
            });
        }
        Ok(manifest)
    }

    /// How many names it changes.
    pub(super) fn names(&self) -> usize {
        self.changed.len() + self.moved.keys().filter(|path| !self.changed.contains_key(*path)).count()
    }

    /// The line that a failure of the transaction is about.
    pub(super) fn line_of(&self, error: &Error) -> Option<usize> {
        let path = TreePath::parse(error.path()?).ok()?;
        let changed = self.changed.get(&path).map(|change| change.line);
        let moved = self.moved.get(&path).copied();
        // What is missing is missed by what needs it.
        if matches!(error, Error::NotFound { .. }) { moved.or(changed) } else { changed.or(moved) }
    }

    fn line(&mut self, line: &Line) -> Outcome<()> {
        if self.steps.len() >= STEPS_MAX {
            return Err(line.wrong(format_args!("a manifest has at most {STEPS_MAX} operations")));
        }
        let path = path_of(line, "path")?;
        let action = match line.get("op").map(Value::as_str) {
            Some(Some("replace")) => self.write(line, path, Publish::Replace)?,
            Some(Some("create")) => self.write(line, path, Publish::CreateNew)?,
            Some(Some("remove")) => {
                line.only(&["op", "path"])?;
                self.change(line, &path, true)?;
                if let Some(first) = self.moved.get(&path) {
                    return Err(line.wrong(format_args!("line {first} renames `{path}` already")));
                }
                self.keep(line, path.as_str().len())?;
                Action::Remove { path }
            }
            Some(Some("rename")) => {
                line.only(&["op", "path", "to"])?;
                self.rename(line, path)?
            }
            Some(_) => return Err(line.wrong("`op` is replace, create, remove or rename")),
            None => return Err(line.wrong("it has no `op`")),
        };
        self.steps.push(Step { line: line.number, action });
        Ok(())
    }

    fn write(&mut self, line: &Line, path: TreePath, publish: Publish) -> Outcome<Action> {
        line.only(&["op", "path", "text", "hex", "from"])?;
        let content = match (line.has("text"), line.has("hex"), line.has("from")) {
            (true, false, false) => Content::Here(line.text("text")?.as_bytes().to_vec()),
            (false, true, false) => Content::Here(line.hex()?),
            (false, false, true) => Content::File(line.text("from")?.into()),
            (..) => return Err(line.wrong("the content is one of `text`, `hex` and `from`")),
        };
        let (kept, len) = match &content {
            Content::Here(bytes) => (bytes.len(), u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Content::File(from) => (from.as_os_str().len(), source_len(line, from)?),
        };
        self.change(line, &path, false)?;
        self.keep(line, path.as_str().len().saturating_add(kept))?;
        self.content_len = self.content_len.saturating_add(len);
        Ok(Action::Write { path, publish, content })
    }

    fn rename(&mut self, line: &Line, from: TreePath) -> Outcome<Action> {
        let to = path_of(line, "to")?;
        if from == to {
            return Err(line.wrong(format_args!("`{from}` has that name already")));
        }
        if let Some(first) = self.moved.get(&from) {
            return Err(line.wrong(format_args!("line {first} renames `{from}` already")));
        }
        if let Some(Change { line: first, is_removal: true }) = self.changed.get(&from) {
            return Err(line.wrong(format_args!("line {first} removes `{from}` already")));
        }
        self.change(line, &to, false)?;
        self.moved.insert(from.clone(), line.number);
        self.keep(line, from.as_str().len() + to.as_str().len())?;
        Ok(Action::Rename { from, to })
    }

    /// Takes note of what a name becomes, if it becomes nothing else.
    fn change(&mut self, line: &Line, path: &TreePath, is_removal: bool) -> Outcome<()> {
        match self.changed.get(path) {
            Some(Change { line: first, .. }) => {
                Err(line.wrong(format_args!("line {first} changes `{path}` already")))
            }
            None => {
                self.changed.insert(path.clone(), Change { line: line.number, is_removal });
                Ok(())
            }
        }
    }

    fn keep(&mut self, line: &Line, len: usize) -> Outcome<()> {
        self.bytes = self.bytes.saturating_add(len);
        if self.bytes > BYTES_MAX {
            return Err(line.wrong(format_args!(
                "paths and contents in a manifest have at most {BYTES_MAX} bytes: longer contents come from files"
            )));
        }
        Ok(())
    }

    /// Looks whether the files are as the operations need them, which the transaction itself does again.
    pub(super) fn check(&self, dir: &Dir, interrupt: &Interrupt) -> Outcome<()> {
        for Step { line, action } in &self.steps {
            interrupt.check()?;
            let fail = |error| Failure::tree(dir.path(), error).in_line(*line);
            let there =
                |path: &TreePath| look(dir, path).and_then(|found| refuse_other(path, found)).map_err(fail);
            let must_exist = |path: &TreePath| match there(path)? {
                Some(_) => Ok(()),
                None => Err(fail(Error::NotFound { path: path.clone() })),
            };
            match action {
                Action::Write { path, publish, .. } => {
                    let is_taken = there(path)?.is_some() && !self.moved.contains_key(path);
                    if is_taken && *publish == Publish::CreateNew {
                        return Err(fail(Error::Exists { path: path.clone() }));
                    }
                }
                Action::Remove { path } => must_exist(path)?,
                Action::Rename { from, to } => {
                    must_exist(from)?;
                    there(to).map(|_| ())?;
                }
            }
        }
        Ok(())
    }
}

fn path_of(line: &Line, name: &str) -> Outcome<TreePath> {
    TreePath::parse(line.text(name)?).map_err(|error| wrong_line(line.number, error, PATH_RULE))
}

/// How long the file is that a content comes from; it can be opened.
fn source_len(line: &Line, from: &std::path::Path) -> Outcome<u64> {
    if from.as_os_str() == "-" {
        return Err(line.wrong("`from` names a file: the manifest comes on standard input"));
    }
    let found = open_regular(from);
    found.map(|(_, found)| found.len()).map_err(|failure| failure.in_line(line.number))
}

/// What has a name; `None` if nothing has.
fn look(dir: &Dir, path: &TreePath) -> Result<Option<Metadata>, Error> {
    let parent = match path.parent() {
        "" => dir.clone(),
        parent => match dir.subdir(parent) {
            Err(error) if error.kind() == durable_io::Kind::NotFound => return Ok(None),
            outcome => outcome?,
        },
    };
    match parent.as_media().metadata(path.name().as_ref()) {
        Ok(found) => Ok(Some(found)),
        Err(e) if Reason::of(&e) == Reason::NotFound => Ok(None),
        Err(source) => Err(Error::Os {
            doing: "looking at",
            path: path.as_str().to_owned(),
            state: durable_io::TargetState::Unchanged,
            source,
        }),
    }
}

fn refuse_other(path: &TreePath, found: Option<Metadata>) -> Result<Option<Metadata>, Error> {
    match found {
        Some(found) if found.kind != FileKind::File => {
            Err(Error::NotAFile { path: path.clone(), kind: found.kind })
        }
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(manifest: &mut Manifest, number: usize, text: &str) -> Outcome<()> {
        manifest.line(&FORMAT.parse(number, text.as_bytes())?.unwrap())
    }

    #[test]
    fn there_are_so_many_operations_and_bytes_and_no_more() {
        let remove = |n: usize| format!(r#"{{"op":"remove","path":"{n}"}}"#);
        let mut manifest = Manifest::default();
        for n in 1..=STEPS_MAX {
            line(&mut manifest, n, &remove(n)).unwrap();
        }
        let refused = line(&mut manifest, STEPS_MAX + 1, &remove(0)).unwrap_err();
        assert_eq!(refused.to_string(), "line 65537: a manifest has at most 65536 operations");

        let text = "v".repeat((1 << 19) - 2);
        let write = |n: usize, text: &str| format!(r#"{{"op":"replace","path":"{n:02}","text":"{text}"}}"#);
        let mut manifest = Manifest::default();
        for n in 0..32 {
            line(&mut manifest, n + 1, &write(n, &text)).unwrap();
        }
        assert_eq!((manifest.bytes, manifest.content_len), (BYTES_MAX, (BYTES_MAX - 64).try_into().unwrap()));
        let refused = line(&mut manifest, 33, &remove(7777)).unwrap_err();
        assert!(refused.to_string().contains("at most 16777216 bytes"), "{refused}");
    }

    #[test]
    fn each_name_has_one_future() {
        let mut manifest = Manifest::default();
        let mut say =
            |number, text: &str| line(&mut manifest, number, text).map_err(|refused| refused.to_string());
        say(1, r#"{"op":"rename","path":"a","to":"b"}"#).unwrap();
        say(2, r#"{"op":"rename","path":"b","to":"a"}"#).unwrap();
        say(3, r#"{"op":"remove","path":"c"}"#).unwrap();
        for (text, why) in [
            (r#"{"op":"replace","path":"a","text":""}"#, "line 4: line 2 changes `a` already"),
            (r#"{"op":"remove","path":"b"}"#, "line 4: line 1 changes `b` already"),
            (r#"{"op":"rename","path":"a","to":"d"}"#, "line 4: line 1 renames `a` already"),
            (r#"{"op":"rename","path":"c","to":"d"}"#, "line 4: line 3 removes `c` already"),
            (r#"{"op":"rename","path":"e","to":"e"}"#, "line 4: `e` has that name already"),
        ] {
            assert_eq!(say(4, text).unwrap_err(), why);
        }
        assert_eq!(manifest.names(), 3);
    }
}
