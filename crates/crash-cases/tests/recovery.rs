//! The table of `docs/recovery.md` is what the simulator sees now, and what it sees is what is promised.
#![expect(clippy::unwrap_used, reason = "helpers that prepare a test fail with it")]

use crash_cases::{Crash, Found, recovery_table};

const DOCUMENT: &str = include_str!("../../../docs/recovery.md");

/// The lines between the two marks.
fn checked_in() -> String {
    let (_, rest) = DOCUMENT.split_once("<!-- cargo xtask recovery-table -->\n").unwrap();
    rest.split_once("\n<!-- end of the table -->").unwrap().0.to_owned()
}

#[test]
fn what_survives_which_crash_is_as_promised_and_as_written_down() {
    let table = recovery_table().unwrap();
    println!("{table}");
    for row in &table.rows {
        for (crash, counts) in &row.found {
            let what = format!("{} {crash:?}: {counts:?}", row.operation);
            assert!(!counts.contains_key(&Found::Wrong), "{what}");
            // A buffered put is nowhere but in memory before it is synced.
            let may_be_old = row.operation == "`put_buffered`";
            match crash {
                Crash::CutAfter => {
                    assert!(may_be_old || counts.keys().all(|found| *found == Found::New), "{what}");
                }
                Crash::BitRot | Crash::LostWrite | Crash::MisdirectedWrite => {
                    assert!(may_be_old || !counts.contains_key(&Found::Old), "{what}");
                }
                Crash::Killed | Crash::CutDuring | Crash::TornTail | Crash::FullDevice => {
                    assert!(!counts.contains_key(&Found::Damage), "{what}");
                }
                Crash::FailedFlush => {}
            }
        }
    }
    assert_eq!(table.to_string(), checked_in(), "run `cargo xtask recovery-table` and look at what changed");
}
