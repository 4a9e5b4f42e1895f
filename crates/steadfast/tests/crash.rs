//! `steadfast crash` as a person or a script meets it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crash_cases::{OnSim, case_named};
use crashsim::{Explorer, FileProfile, Mutation, Options, Scenario, SimFs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const STEADFAST: &str = env!("CARGO_BIN_EXE_steadfast");

fn crash(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(STEADFAST).current_dir(dir).arg("crash").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn expect(output: &Output, exit: i32) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(exit), "stdout: {stdout}\nstderr: {stderr}");
}

/// Every file below, with its content.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut due = vec![dir.to_owned()];
    while let Some(at) = due.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                due.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

#[test]
fn a_run_says_what_was_looked_at_and_what_was_broken() {
    let root = tempfile::tempdir().unwrap();
    let arguments =
        ["run", "--case", "clean-chain,rename-without-fsync", "--profile", "posix-min", "--no-faults"];
    let output = crash(root.path(), &arguments);
    expect(&output, 1);
    snapbox::assert_data_eq!(text(&output.stdout), snapbox::file!["crash-run.txt"]);
    // Times are words, and words go to stderr.
    assert!(text(&output.stderr).contains("a second"), "{}", text(&output.stderr));
    let kept = crash(root.path(), &["run", "--case", "replace", "--budget", "500", "-q"]);
    expect(&kept, 0);
    assert_eq!(text(&kept.stderr), "");
    assert_eq!(text(&kept.stdout).matches(" kept").count(), 3, "{}", text(&kept.stdout));
}

#[test]
fn the_number_of_threads_changes_no_byte_of_the_table_and_the_artifacts() {
    let root = tempfile::tempdir().unwrap();
    let run = |threads: &str, seed: &str, more: &[&str]| {
        let dir = format!("{threads}-{seed}");
        let mut arguments = vec!["run", "--case", "replace-large,rename-without-fsync", "--budget", "600"];
        arguments.extend(["--threads", threads, "--seed", seed, "--artifacts", &dir]);
        arguments.extend(more);
        let output = crash(root.path(), &arguments);
        expect(&output, 1);
        (text(&output.stdout), files(&root.path().join(dir)))
    };
    let one = run("1", "7", &[]);
    assert_eq!(one, run("3", "7", &[]));
    let names: Vec<&str> = one.1.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "log.txt",
            "rename-without-fsync-ext4-ordered/report.json",
            "rename-without-fsync-ext4-ordered/story.txt",
            "rename-without-fsync-ext4-ordered/trace.txt",
            "rename-without-fsync-posix-min/report.json",
            "rename-without-fsync-posix-min/story.txt",
            "rename-without-fsync-posix-min/trace.txt",
            "replace-large-ext4-ordered/report.json",
            "replace-large-ext4-ordered/trace.txt",
            "replace-large-posix-min/report.json",
            "replace-large-posix-min/trace.txt",
        ]
    );
    assert!(text(&one.1["log.txt"]).ends_with(&one.0), "the log has the table");
    let report: Value = serde_json::from_slice(&one.1["replace-large-posix-min/report.json"]).unwrap();
    assert_eq!((&report["schema"], &report["result"]), (&1.into(), &"kept".into()));
    // A second run into the same directory leaves the same, and takes away the story of what is whole now.
    let story = root.path().join("1-7/replace-large-posix-min/story.txt");
    std::fs::copy(root.path().join("1-7/log.txt"), &story).unwrap();
    let with_json = run("1", "7", &["--json"]);
    assert_eq!(one.1, with_json.1, "words or JSON on stdout, the artifacts are the same");
    assert!(!story.exists());
}

/// An id that takes a barrier of ours away: what is broken then, and where.
fn without_a_barrier() -> String {
    let case = case_named("replace").unwrap();
    let workload = OnSim(&*case);
    let whole = Scenario::plain("replace").record::<SimFs>(&workload).unwrap();
    let options = Options { threads: NonZeroUsize::MIN, ..Options::default() };
    let found = (0..whole.trace.len()).find_map(|at| {
        let scenario = Scenario { mutation: Some(Mutation::Removed(at)), ..Scenario::plain("replace") };
        let recorded = scenario.record::<SimFs>(&workload)?;
        Explorer::default().first_failure(&workload, &recorded, FileProfile::POSIX_MIN, &options)
    });
    crashsim::shrink::<SimFs>(&workload, &found.unwrap().id, &options).to_string()
}

#[test]
fn replay_tells_the_story_of_an_id_and_its_exit_code_is_the_verdict() {
    let root = tempfile::tempdir().unwrap();
    let id = without_a_barrier();
    let output = crash(root.path(), &["replay", &id]);
    expect(&output, 1);
    let story = text(&output.stdout);
    assert!(story.starts_with(&id), "{story}");
    for words in
        ["REMOVED   sync", "rename .steadfast-", "to config.json", "the power fails here", "BROKEN PROMISE"]
    {
        assert!(story.contains(words), "`{words}` is not in\n{story}");
    }
    assert!(!story.contains("point after_"), "points of the engine are for --trace\n{story}");
    let traced = crash(root.path(), &["replay", &id, "--trace"]);
    expect(&traced, 1);
    assert!(text(&traced.stdout).contains("point after_"), "{}", text(&traced.stdout));
    let (intact, _) = id.split_once('@').unwrap();
    let (case, profile) = (intact.split_once('~').unwrap().0, intact.split_once('/').unwrap().1);
    let kept = crash(root.path(), &["replay", &format!("{case}/{profile}@0:all")]);
    expect(&kept, 0);
    assert!(text(&kept.stdout).contains("every promise is kept"), "{}", text(&kept.stdout));
    let json = crash(root.path(), &["replay", &id, "--json"]);
    expect(&json, 1);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["schema"], &json["kept"], &json["id"]), (&1.into(), &false.into(), &id.into()));
    let lines = json["scenes"][0]["lines"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["became"] == "removed"), "{lines:?}");
}

/// Cases of the key/value store stand beside those of files, under the profiles of a disk.
#[test]
fn a_case_on_a_disk_is_listed_and_run_and_replayed_like_one_on_files() {
    let root = tempfile::tempdir().unwrap();
    let listed = text(&crash(root.path(), &["list"]).stdout);
    for words in [
        "  state-put ",
        "  state-rewrite-in-place ",
        "* any-subset-torn ",
        "what a file system does",
        "what a disk does",
    ] {
        assert!(listed.contains(words), "{words}: {listed}");
    }
    let run = ["run", "--case", "replace,state-put", "--budget", "2000", "--no-faults", "--artifacts", "out"];
    let kept = crash(root.path(), &run);
    expect(&kept, 0);
    let rows: Vec<String> = text(&kept.stdout)
        .lines()
        .filter(|line| line.ends_with(" kept"))
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join("/"))
        .collect();
    assert_eq!(rows, ["replace/posix-min", "replace/ext4-ordered", "state-put/any-subset-torn"]);
    let files = files(root.path());
    assert!(text(&files["out/state-put-any-subset-torn/trace.txt"]).contains("-- begin put /state/b"));
    let report: Value = serde_json::from_slice(&files["out/state-put-any-subset-torn/report.json"]).unwrap();
    assert_eq!((&report["case"], &report["result"]), (&"state-put".into(), &"kept".into()));

    let all = ["run", "--case", "state-put", "--profile", "all", "--budget", "400", "--no-faults", "--json"];
    let all = crash(root.path(), &all);
    expect(&all, 0);
    assert_eq!(text(&all.stdout).matches("\"case\":\"state-put\"").count(), 4, "{}", text(&all.stdout));

    let story = crash(root.path(), &["replay", "state-put/any-subset-torn@0:all"]);
    expect(&story, 0);
    assert!(text(&story.stdout).contains("the contract of the seam"), "{}", text(&story.stdout));
}

#[test]
fn the_mistakes_of_engines_on_disks_are_found_and_replay() {
    let root = tempfile::tempdir().unwrap();
    let cases = "state-no-flush,state-rewrite-in-place,state-root-with-data";
    let found = crash(root.path(), &["run", "--case", cases, "--no-faults", "--json"]);
    expect(&found, 1);
    let rows: Vec<Value> =
        text(&found.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[3]["summary"]["broken_rows"]), (4, &3.into()));
    for row in &rows[..3] {
        let id = row["failure"]["id"].as_str().unwrap();
        let story = crash(root.path(), &["replay", id]);
        expect(&story, 1);
        assert!(text(&story.stdout).contains("BROKEN PROMISE"), "{}", text(&story.stdout));
    }
    // The model that reorders nothing does not see that the root may overtake what it names.
    let prefix = ["run", "--case", "state-root-with-data", "--profile", "ordered-prefix", "--no-faults"];
    expect(&crash(root.path(), &prefix), 0);
}

#[test]
fn what_cannot_be_run_or_replayed_is_wrong_usage_with_a_way_out() {
    let root = tempfile::tempdir().unwrap();
    // The example of the help and of the hints can be replayed as it is.
    let id = "rename-without-fsync/ext4-ordered@4:lose=2.1";
    assert!(text(&crash(root.path(), &["replay", "--help"]).stdout).contains(id));
    expect(&crash(root.path(), &["replay", id]), 1);
    let cases: [(&[&str], &str); 16] = [
        (&["replay", ""], id),
        (&["replay", "bogus"], id),
        (&["replay", "replace/posix-min"], id),
        (&["replay", "replace/posix-min@9"], id),
        (&["replay", "replace/posix-min@9:lose=x"], id),
        (&["replay", "replace~0/posix-min@9:none"], id),
        (&["replay", "replace/posix-min@9999:none"], "its crash points are 0, "),
        (&["replay", "replace/posix-min@kill9999"], "its crash points are 0, "),
        (&["replay", "replace/posix-min@0:keep=1"], "`@0:none` loses all"),
        (&["replay", "nonsense/posix-min@0:none"], "there are replace, "),
        (&["replay", "replace/nonsense@0:none"], "there are posix-min, "),
        (&["run", "--case", "nonsense"], "there are replace, "),
        (&["run", "--profile", "nonsense"], "there are posix-min, "),
        (&["run", "--case", "state-put", "--profile", "xfs"], "there are any-subset-torn, "),
        (&["replay", "state-put/posix-min@0:none"], "there are any-subset-torn, "),
        (&["replay", "state-put/any-subset@9999:none"], "its crash points are 0, "),
    ];
    for (arguments, hint) in cases {
        let output = crash(root.path(), arguments);
        expect(&output, 2);
        let said = text(&output.stderr);
        assert!(said.contains("hint: ") && said.contains(hint), "{arguments:?}: {said}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
    expect(&crash(root.path(), &["run", "--budget", "0"]), 2);
    expect(&crash(root.path(), &["run", "--threads", "0"]), 2);
    expect(&crash(root.path(), &["run", "--threads", "100000"]), 2);
    assert!(files(root.path()).is_empty(), "nothing was written");
}

#[test]
fn with_json_there_is_an_object_for_each_row_and_one_for_all() {
    let root = tempfile::tempdir().unwrap();
    let arguments =
        ["run", "--json", "--case", "replace,rename-without-fsync", "--no-faults", "--depth", "0"];
    let output = crash(root.path(), &arguments);
    expect(&output, 1);
    assert_eq!(text(&output.stderr), "");
    let rows: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row["schema"] == 1 && row["ok"] == true), "{rows:?}");
    assert_eq!((&rows[0]["result"], &rows[0]["failure"]), (&"kept".into(), &Value::Null));
    let id = rows[2]["failure"]["id"].as_str().unwrap();
    expect(&crash(root.path(), &["replay", id]), 1);
    assert_eq!((&rows[4]["summary"]["rows"], &rows[4]["summary"]["broken_rows"]), (&4.into(), &2.into()));
    let list: Value = serde_json::from_slice(&crash(root.path(), &["list", "--json"]).stdout).unwrap();
    assert_eq!(list["cases"][0]["name"], "replace");
    assert_eq!(
        (&list["profiles"][0]["name"], &list["profiles"][0]["default"]),
        (&"posix-min".into(), &true.into())
    );
}

#[test]
fn ctrl_c_ends_a_run_with_what_was_found_so_far() {
    let root = tempfile::tempdir().unwrap();
    let arguments = ["crash", "run", "--case", "replace-large", "--budget", "1000000000", "--depth", "3"];
    let mut child = Command::new(STEADFAST)
        .current_dir(root.path())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    stdout.read_line(&mut said).unwrap();
    assert!(said.starts_with("case "), "{said}");
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains(" stopped\n") && said.contains("Stopped before everything was done"), "{said}");
}
