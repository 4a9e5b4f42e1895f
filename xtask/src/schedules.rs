//! `cargo xtask schedules`: builds the explorer as it must be built, and runs it (`docs/schedules.md`).
//!
//! With `--planted` it runs it on copies of the tree that have a bug each, and expects it to find them. (The mutants of
//! `cargo xtask barriers` are made by the simulated medium at run time, so there is nothing to share with them.)

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use clap::Args;

use crate::say;

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct Arguments {
    /// More schedules: what a night affords.
    #[arg(long)]
    long: bool,
    /// The longest time for one search of a scenario, in seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Only the scenario with this name.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Run one schedule, as a failure has printed it.
    #[arg(long, value_name = "LINE", conflicts_with_all = ["long", "only", "planted"])]
    replay: Option<String>,
    /// Plant bugs in copies of the tree, and expect each to be found: all, or as many as this.
    #[arg(long, value_name = "COUNT", num_args = 0..=1, default_missing_value = "1000")]
    planted: Option<usize>,
}

/// Its own, because the flag changes everything that is compiled.
const TARGET: &str = "target/shuttle";

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let outcome = match arguments.planted {
        Some(count) => planted(count),
        None => explore(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(&message);
            ExitCode::FAILURE
        }
    }
}

/// `cargo` in this tree, with the flag, and with this target folder.
fn cargo(tree: &Path, target: &Path, what: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree).args(what).args(["--package", "schedules", "--target-dir"]).arg(target);
    command.env("RUSTFLAGS", "--cfg shuttle").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

fn explore(arguments: &Arguments) -> Result<(), String> {
    let mut command = cargo(Path::new("."), Path::new(TARGET), &["run", "--quiet"]);
    command.arg("--");
    if arguments.long {
        command.arg("--long");
    }
    if let Some(seconds) = arguments.seconds {
        command.args(["--seconds", &seconds.to_string()]);
    }
    for (option, value) in [("--only", &arguments.only), ("--replay", &arguments.replay)] {
        if let Some(value) = value {
            command.args([option, value]);
        }
    }
    let status = command.status().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !status.success() {
        return Err("the exploration of schedules has failed".to_owned());
    }
    if *arguments == (Arguments { long: false, seconds: None, only: None, replay: None, planted: None }) {
        let mut tests = cargo(Path::new("."), Path::new(TARGET), &["test", "--quiet"]);
        let status = tests.status().map_err(|error| format!("cannot run cargo: {error}"))?;
        return if status.success() { Ok(()) } else { Err("a test of the explorer has failed".to_owned()) };
    }
    Ok(())
}

/// A bug: edits of the tree, and the scenario that finds it.
#[derive(Debug, PartialEq, Eq)]
struct Planted {
    name: String,
    scenario: String,
    edits: Vec<Edit>,
}

#[derive(Debug, PartialEq, Eq)]
struct Edit {
    file: String,
    old: String,
    new: String,
}

/// Reads `tests/schedules/planted/*.edit`: lines of comment that begin with `#`, `scenario: NAME`, and for each edit
/// `file: PATH`, the old text between `<<<<` and `====`, the new one up to `>>>>`.
fn parse(name: &str, text: &str) -> Result<Planted, String> {
    let mut planted = Planted { name: name.to_owned(), scenario: String::new(), edits: Vec::new() };
    let mut file = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(scenario) = line.strip_prefix("scenario: ") {
            scenario.trim().clone_into(&mut planted.scenario);
        } else if let Some(path) = line.strip_prefix("file: ") {
            file = Some(path.trim().to_owned());
        } else if line == "<<<<" {
            let mut part = |end: &str| {
                let lines = lines.by_ref().take_while(|line| *line != end);
                lines.fold(String::new(), |text, line| text + line + "\n")
            };
            let (old, new) = (part("===="), part(">>>>"));
            let file = file.clone().ok_or_else(|| format!("{name}: an edit without a file"))?;
            planted.edits.push(Edit { file, old, new });
        } else if !line.is_empty() && !line.starts_with('#') {
            return Err(format!("{name}: not understood: {line}"));
        }
    }
    if planted.scenario.is_empty() || planted.edits.is_empty() {
        return Err(format!("{name}: no scenario, or no edit"));
    }
    Ok(planted)
}

/// The text with the edit; the old text must be there exactly once.
fn edited(planted: &Planted, edit: &Edit, text: &str) -> Result<String, String> {
    match text.matches(&edit.old).count() {
        1 => Ok(text.replacen(&edit.old, &edit.new, 1)),
        count => Err(format!("{}: {} has the old text {count} times", planted.name, edit.file)),
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// All of them, in the order of their names.
fn all_planted() -> Result<Vec<Planted>, String> {
    let dir = Path::new("tests/schedules/planted");
    let listed = std::fs::read_dir(dir).map_err(|error| format!("cannot list {}: {error}", dir.display()))?;
    let mut paths: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "edit"));
    paths.sort();
    let name =
        |path: &Path| path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    paths.iter().map(|path| parse(&name(path), &text_of(path)?)).collect()
}

/// Plants bugs in a copy of the tree, one after the other.
fn planted(count: usize) -> Result<(), String> {
    let all = all_planted()?;
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    // A target folder of its own: cargo takes packages of two workspaces for the same if their paths within them are.
    let (tree, target) = (here.join(TARGET).join("planted/tree"), here.join(TARGET).join("planted/target"));
    copy_tree(&here, &tree)?;
    let mut missed = Vec::new();
    for planted in all.iter().take(count) {
        for edit in &planted.edits {
            let text = edited(planted, edit, &text_of(&here.join(&edit.file))?)?;
            put(&tree.join(&edit.file), &text)?;
        }
        let built = output(&mut cargo(&tree, &target, &["build", "--quiet"]))?;
        if !built.status.success() {
            return Err(format!(
                "{} does not compile:\n{}",
                planted.name,
                String::from_utf8_lossy(&built.stderr)
            ));
        }
        let mut command = cargo(&tree, &target, &["run", "--quiet"]);
        let ran = output(command.args(["--", "--only", &planted.scenario]))?;
        let printed = String::from_utf8_lossy(&ran.stdout);
        let line =
            printed.lines().find_map(|line| line.strip_prefix("replay: cargo xtask schedules --replay "));
        match line.filter(|_| ran.status.code() == Some(1)) {
            Some(line) => {
                let why = printed.lines().find(|line| line.starts_with("FAILED ")).unwrap_or_default();
                say(&format!("found: {}\n  {why}\n  {line}", planted.name));
            }
            None => {
                say(&format!("NOT FOUND: {} by {}\n{printed}", planted.name, planted.scenario));
                missed.push(planted.name.as_str());
            }
        }
        // Back to what is here, with the time of now, so that cargo builds it again.
        for edit in &planted.edits {
            put(&tree.join(&edit.file), &text_of(&here.join(&edit.file))?)?;
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("not found: {}", missed.join(", "))) }
}

fn output(command: &mut Command) -> Result<Output, String> {
    command.output().map_err(|error| format!("cannot run cargo: {error}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a copy that is made for one run: nothing of it has to be durable"
)]
fn put(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Copies what git knows, or would add; a file that is the same is left alone, so that cargo need not build it again.
fn copy_tree(here: &Path, tree: &Path) -> Result<(), String> {
    let mut git = Command::new("git");
    git.current_dir(here).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = git.output().map_err(|error| format!("cannot run git: {error}"))?;
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (here.join(name), tree.join(name));
        let Ok(bytes) = std::fs::read(&from) else { continue };
        if std::fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        let parent = to.parent().unwrap_or(tree);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::copy(&from, &to))
            .map_err(|error| format!("cannot copy {name}: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_read_and_carried_out_exactly_once() {
        let text = "# why\nscenario: s\nfile: a.rs\n<<<<\none\ntwo\n====\nthree\n>>>>\n";
        let planted = parse("p", text).unwrap();
        assert_eq!(planted.scenario, "s");
        assert_eq!(edited(&planted, &planted.edits[0], "zero\none\ntwo\n").unwrap(), "zero\nthree\n");
        assert!(edited(&planted, &planted.edits[0], "zero\n").is_err());
        assert!(edited(&planted, &planted.edits[0], "one\ntwo\none\ntwo\n").is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in
            ["scenario: s\n", "file: a\n<<<<\n====\n>>>>\n", "scenario: s\n<<<<\n====\n>>>>\n", "else\n"]
        {
            assert!(parse("p", bad).is_err(), "{bad}");
        }
    }

    /// The tests of a workspace run in the folder of their package.
    #[test]
    fn every_planted_bug_still_fits_the_tree() {
        std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap();
        for planted in all_planted().unwrap() {
            for edit in &planted.edits {
                edited(&planted, edit, &text_of(Path::new(&edit.file)).unwrap()).unwrap();
            }
        }
    }
}
