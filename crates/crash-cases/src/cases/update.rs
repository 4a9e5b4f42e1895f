//! `update` and the registry: read, change, replace, under a lock whose file a power cut may leave in any state.

use std::io;
use std::time::Duration;

use crashsim::{Cell, Class, Expected, Operation, Run, Value, Verdict};
use durable_io::{Kind, LockKind, LockOptions, Published, Registry, UpdateOptions, Wait};

use super::case::{Ended, file, is_lock};
use crate::site::{FileCase, Site, judge, sweep_all};

const COUNTER: &str = "counter";
const REGISTRY: &str = "registry.json";
/// What a program adds that starts again.
const AFTER: &str = "+";
/// What cells of entries begin with that an update has found as they should be.
const SEEN: &str = "seen ";

/// Updates under a lock of this kind.
struct Update {
    name: &'static str,
    about: &'static str,
    what: What,
    lock: LockKind,
}

#[derive(Clone, Copy)]
enum What {
    /// Bytes that grow by one with every update.
    Counter,
    /// Entries of a typed registry, two of them in one update.
    Entries,
}

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    let case =
        |name, about, what, lock| -> Box<dyn FileCase> { Box::new(Update { name, about, what, lock }) };
    vec![
        case("update", "two updates of one file, under kernel locks", What::Counter, LockKind::Kernel),
        case(
            "update-exclusive",
            "two updates of one file, under locks that are files",
            What::Counter,
            LockKind::Exclusive,
        ),
        case("registry", "entries of a typed registry, under kernel locks", What::Entries, LockKind::Kernel),
        case(
            "registry-exclusive",
            "entries of a typed registry, under locks that are files",
            What::Entries,
            LockKind::Exclusive,
        ),
    ]
}

impl Update {
    /// Whoever held the lock is dead: there is nothing to wait for.
    fn options(&self) -> UpdateOptions {
        let lock = LockOptions {
            kind: self.lock,
            wait: Wait::UpTo(Duration::from_millis(50)),
            ..LockOptions::default()
        };
        UpdateOptions { lock, ..UpdateOptions::default() }
    }

    /// Adds `more` to what is there; declines where it ends in that.
    fn add(&self, site: &Site<'_>, more: &str) -> durable_io::Result<Published> {
        site.dir()?.update_with(COUNTER, &self.options(), |old| {
            let old = old.unwrap_or_default();
            if old.ends_with(more.as_bytes()) {
                Err("it is there")
            } else {
                Ok([old, more.as_bytes()].concat())
            }
        })
    }

    fn registry(&self, site: &Site<'_>) -> durable_io::Result<Registry<u64>> {
        Ok(site.dir()?.registry_with(REGISTRY, self.options()))
    }

    /// Puts all entries in one update, unless they are there.
    fn put(&self, site: &Site<'_>, entries: &[(&str, u64)]) -> durable_io::Result<()> {
        self.registry(site)?.update(|document| {
            for (name, value) in entries {
                if document.get(name) != Some(value) {
                    document.insert(*name, *value);
                }
            }
        })
    }

    fn perform(&self, site: &Site<'_>, entries: &[(&str, u64)]) -> durable_io::Result<()> {
        let atom = entries.iter().map(|(name, value)| ((*name).into(), entry(*value))).collect();
        site.perform(Operation::new("update the registry", vec![atom]), || self.put(site, entries))
    }

    fn work(&self, site: &Site<'_>) -> Result<(), Ended> {
        match self.what {
            What::Counter => {
                for more in ["1", "2"] {
                    site.perform(digit(more), || self.add(site, more))?;
                }
            }
            What::Entries => {
                self.perform(site, &[("alpha", 1), ("beta", 2)])?;
                self.perform(site, &[("alpha", 3)])?;
            }
        }
        Ok(())
    }

    /// The lock is to be had, and the work goes on.
    fn go_on(&self, site: &Site<'_>) -> durable_io::Result<()> {
        match self.what {
            What::Counter => {
                let found = site.look(COUNTER).unwrap_or_default();
                if found.is_some_and(|found| found.bytes.ends_with(AFTER.as_bytes())) {
                    return match self.add(site, AFTER) {
                        Err(error) if error.kind() == Kind::Declined => Ok(()),
                        outcome => outcome.map(drop),
                    };
                }
                site.perform(digit(AFTER), || self.add(site, AFTER)).map(drop)
            }
            What::Entries => {
                // What an update finds as it should be is as durable on return as what it has written itself.
                let document = self.registry(site)?.read()?;
                let found: Vec<(&str, u64)> = document.iter().map(|(name, value)| (name, *value)).collect();
                // In words of its own: it must not change what is wanted of the entries.
                let atoms =
                    found.iter().map(|(name, value)| vec![(format!("{SEEN}{name}").into(), entry(*value))]);
                let operation = Operation::new("an update that finds all as it should be", atoms.collect());
                site.perform(operation, || self.put(site, &found))?;
                self.perform(site, &[("gamma", 9)])
            }
        }
    }
}

/// A digit of the counter is a cell of its own, so that what comes later says nothing of what came before.
fn digit(digit: &str) -> Operation {
    Operation::one(format_args!("add {digit} to the counter"), digit, Some(Value::bytes(digit.as_bytes())))
}

fn entry(value: u64) -> Option<Value> {
    Some(Value::bytes(value.to_string().as_bytes()))
}

impl FileCase for Update {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        let cells = match self.what {
            What::Counter => site
                .dir()
                .and_then(|dir| dir.replace(COUNTER, b"0"))
                .map(|_| vec![("0".into(), Some(Value::bytes(b"0")))]),
            What::Entries => self.put(site, &[("alpha", 0)]).map(|()| vec![("alpha".into(), entry(0))]),
        };
        cells.map_err(|error| error.to_string())
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        drop(self.work(site));
    }

    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        sweep_all(site)?;
        self.go_on(site).map_err(|error| error.to_string())
    }

    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        match self.what {
            What::Counter => {
                let owns = |name: &str| name == COUNTER || is_lock(name);
                let digits = site.look(COUNTER).unwrap_or_default();
                let text = digits.as_ref().map(|value| String::from_utf8_lossy(&value.bytes).into_owned());
                let text = text.unwrap_or_default();
                let verdict = judge(site, expected, &owns, &|cell| {
                    Ok(text.contains(cell).then(|| Value::bytes(cell.as_bytes())))
                });
                let is_whole = ["0", "01", "012", "0+", "01+", "012+"].contains(&text.as_str());
                if is_whole && digits == file(text.as_bytes()) {
                    verdict
                } else {
                    verdict.worse(Verdict::broken(Class::Mix, format!("the counter is {digits:?}")))
                }
            }
            What::Entries => {
                let owns = |name: &str| name == REGISTRY || is_lock(name);
                judge(site, expected, &owns, &|cell| {
                    let document = self.registry(site).and_then(|registry| registry.read());
                    let document = document.map_err(io::Error::other)?;
                    let name = cell.strip_prefix(SEEN).unwrap_or(cell);
                    Ok(document.get(name).copied().and_then(entry))
                })
            }
        }
    }
}
