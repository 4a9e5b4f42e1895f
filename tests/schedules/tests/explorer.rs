//! The explorer finds what is wrong on purpose, and the line that it prints replays it. Each in a process of its own.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

/// The exit code and what was printed.
fn schedules(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_schedules")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn replay_line(printed: &str) -> &str {
    let at = printed.lines().find_map(|line| line.strip_prefix("replay: cargo xtask schedules --replay "));
    at.unwrap_or_else(|| panic!("no line to replay in {printed}"))
}

#[test]
fn every_broken_scenario_is_found_and_its_line_finds_it_again() {
    for (name, message) in [
        ("broken-lost-update", "an update is lost"),
        ("broken-lost-wake-up", "deadlock"),
        ("broken-told-early", "after a power cut: the block was told to be durable, and is not"),
        ("broken-lock-during-a-call", "while its caller holds 1 locks"),
    ] {
        let (code, printed) = schedules(&["--only", name]);
        assert_eq!(code, Some(1), "{name}: {printed}");
        assert!(printed.contains(message), "{name}: {printed}");
        let line = replay_line(&printed);
        assert!(line.starts_with(&format!("{name}/a")), "{line}");
        let (code, again) = schedules(&["--replay", line]);
        assert_eq!(code, Some(1), "{name}: {again}");
        assert!(again.contains(message), "{name}: {again}");
        assert_eq!(replay_line(&again), line);
    }
}

#[test]
fn what_is_no_line_and_no_option_is_refused() {
    for wrong in
        [&["--replay", "nothing"][..], &["--replay", "no-such/a3b"], &["--onyl"], &["--only", "no-such"]]
    {
        assert_eq!(schedules(wrong).0, Some(2), "{wrong:?}");
    }
}
