//! The line that replays a schedule: `SCENARIO/TASKS`.
//!
//! `TASKS` are the tasks in the order in which they were chosen: task 0, the run itself, is `a`, its first thread is `b`, and so
//! on; a number after a letter repeats it. `a3bca` is 0, 0, 0, 1, 2, 0.

/// The most tasks of a run.
const TASKS_MAX: usize = 26;

/// Encodes the choices of a run.
pub(crate) fn encode(scenario: &str, tasks: &[usize]) -> String {
    let mut line = format!("{scenario}/");
    for same in tasks.chunk_by(|one, next| one == next) {
        let task = same.first().copied().unwrap_or(0);
        let letter =
            u8::try_from(task).ok().filter(|_| task < TASKS_MAX).map_or('?', |task| char::from(b'a' + task));
        line.push(letter);
        if same.len() > 1 {
            line.push_str(&same.len().to_string());
        }
    }
    line
}

/// Decodes a line into the scenario and its choices.
pub(crate) fn decode(line: &str) -> Option<(&str, Vec<usize>)> {
    let (scenario, choices) = line.trim().split_once('/')?;
    let mut tasks = Vec::new();
    let mut rest = choices;
    while let Some(letter) = rest.chars().next() {
        let task = u32::from(letter).checked_sub(u32::from('a')).filter(|_| letter.is_ascii_lowercase())?;
        let after = rest.get(1..)?;
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let count = if digits == 0 { 1 } else { after.get(..digits)?.parse().ok()? };
        if count > 1_000_000 {
            return None;
        }
        tasks.extend(std::iter::repeat_n(usize::try_from(task).ok()?, count));
        rest = after.get(digits..)?;
    }
    Some((scenario, tasks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_round_trips() {
        for tasks in [vec![], vec![0], vec![0, 0, 0, 1, 2, 0], vec![25; 12], vec![1, 2, 1, 2, 2]] {
            let line = encode("ledger-two", &tasks);
            assert_eq!(decode(&line), Some(("ledger-two", tasks)));
        }
        assert_eq!(encode("x", &[0, 0, 0, 1, 2, 0]), "x/a3bca");
    }

    #[test]
    fn a_line_that_is_no_schedule_is_refused() {
        for bad in ["", "x", "x/3", "x/a-1", "x/aB", "x/a9999999", "x/a99999999999999999999999"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
