//! What `steadfast crash run --artifacts DIR` leaves: text and JSON under names that stay the same, without any time.
//!
//! ```text
//! DIR/log.txt                       the table, and what was broken
//! DIR/<case>-<profile>/trace.txt    what the case asked of the medium, in order
//! DIR/<case>-<profile>/report.json  counts, classes, ids
//! DIR/<case>-<profile>/story.txt    only where a promise was broken
//! ```

use std::path::Path;

use durable_io::{Dir, Kind};
use serde_json::{Value, json};

use super::explore::{Faults, Found, Plan};
use super::run::row_json;
use super::story_text;
use crate::failure::Outcome;
use crate::medium::Medium;
use crate::output::JSON_SCHEMA;

pub(super) struct Artifacts {
    dir: Dir,
}

impl Artifacts {
    pub(super) fn open(path: &Path, medium: &Medium) -> Outcome<Self> {
        Ok(Self { dir: medium.open_or_create(path)? })
    }

    pub(super) fn row(&self, plan: &Plan, found: &Found<'_>) -> Outcome<()> {
        let folder = format!("{}-{}", found.case.name(), found.row.profile.name);
        let story = format!("{folder}/story.txt");
        let mut bulk = self.dir.bulk();
        bulk.replace(format!("{folder}/trace.txt"), trace(plan, found).as_bytes());
        bulk.replace(format!("{folder}/report.json"), report(plan, found).as_bytes());
        if let Some(broken) = &found.broken {
            let text = story_text(found.case, &broken.story, false);
            bulk.replace(&story, format!("{text}\n").as_bytes());
        }
        let _report = bulk.publish_all().all_published()?;
        if found.broken.is_none() {
            // Of an earlier run, and no longer true.
            match self.dir.remove(&story) {
                Err(error) if error.kind() != Kind::NotFound => return Err(error.into()),
                Err(_) | Ok(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn log(&self, plan: &Plan, told: &str) -> Outcome<()> {
        let faults = match plan.faults {
            Faults::Injected => "injected",
            Faults::LeftOut => "left out",
        };
        let text = format!(
            "steadfast {} crash run: seed {}, budget {}, depth {}, faults {faults}\n\n{told}",
            env!("CARGO_PKG_VERSION"),
            plan.seed,
            plan.budget,
            plan.depth,
        );
        self.dir.replace("log.txt", text.as_bytes())?;
        Ok(())
    }
}

/// The plain run of the first seed.
fn trace(plan: &Plan, found: &Found<'_>) -> String {
    let Some((scenario, lines)) = found.case.told(plan.seed) else { return String::new() };
    let mut text = format!("{scenario}: {}\n\n", found.case.about());
    for (index, line) in lines.iter().enumerate() {
        text.push_str(&format!("{index:>5}  {line}\n"));
    }
    text
}

fn report(plan: &Plan, found: &Found<'_>) -> String {
    let mut report = json!({
        "schema": JSON_SCHEMA,
        "about": found.case.about(),
        "evidence": found.row.profile.evidence,
        "seed": plan.seed,
        "budget": plan.budget,
        "depth": plan.depth,
        "faults": plan.faults == Faults::Injected,
    });
    if let (Some(report), Value::Object(row)) = (report.as_object_mut(), row_json(found)) {
        report.extend(row);
    }
    format!("{report:#}\n")
}
