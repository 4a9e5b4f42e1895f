//! `steadfast state batch`: many changes from JSON Lines, all of them or none.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use statefs::{BATCH_OPS_MAX, Batch, Error, KEY_LEN_MAX, Key, Precondition, Revision, VALUE_LEN_MAX};

use super::{KEY_RULE, close, image, quota, seal};
use crate::cli::StateBatch;
use crate::commands::lines::{Format, Line, wrong_line};
use crate::commands::write::Source;
use crate::failure::{Exit, Failure, Outcome, StateTrouble, shown};
use crate::interrupt::Interrupt;
use crate::medium::Medium;
use crate::output::Output;

/// The longest line: a value all of whose characters are written as `\u0000`, and room for the rest.
const LINE_LEN_MAX: usize = 6 * (65_536 + KEY_LEN_MAX) + 1024;
const _: () = assert!(VALUE_LEN_MAX == 65_536, "what LINE_LEN_MAX says");

/// More keys and values than this no frame of any store has room for: 256 blocks of 65,536 bytes.
const BYTES_MAX: usize = 256 * 65_536;

/// How many requirements there may be.
const CONDITIONS_MAX: usize = 65_536;

const FORMAT: Format = Format {
    line_len_max: LINE_LEN_MAX,
    hint: "nothing was written; `steadfast state batch --help` shows the lines",
};

pub(super) fn run(args: &StateBatch, medium: &Medium, output: &Output, interrupt: &Interrupt) -> Outcome {
    interrupt.begin_idle();
    let source = Source::open(&args.from, output);
    interrupt.end_idle()?;
    // Before the lock: nobody else has to wait while the lines come.
    let request = Request::read(&mut source?, interrupt)?;
    if request.changed.is_empty() {
        return Err(Failure::Usage {
            message: "there is nothing to change".to_owned(),
            hint: Some(
                "one JSON object a line: {\"op\":\"put\",\"key\":\"/state/a\",\"text\":\"on\"}".to_owned(),
            ),
        });
    }
    let mut store = image::writer(medium, &args.image)?;
    let puts: Vec<&Key> =
        request.changed.iter().filter(|(_, change)| change.is_put).map(|(key, _)| key).collect();
    seal::unlock(&mut store, &puts, &args.sealed, &args.image, medium)?;
    let done = store.batch(&request.batch);
    let revision = done.map_err(|error| request.refused(error, args))?.get();
    quota::warn(&store, &puts, output)?;
    close(store, &args.image, output)?;
    let (all, puts) = (request.changed.len(), puts.len());
    let deletes = all - puts;
    output.done(
        format_args!("{puts} put(s) and {deletes} delete(s), revision {revision}, durable"),
        json!({
            "image": shown(&args.image), "puts": puts, "deletes": deletes, "requirements": request.required.len(),
            "revision": revision, "durability": "durable",
        }),
    )?;
    Ok(Exit::Ok)
}

/// A change of a key, and the line it stands in.
struct Change {
    line: usize,
    is_put: bool,
}

/// What the lines ask for.
#[derive(Default)]
struct Request {
    batch: Batch,
    changed: BTreeMap<Key, Change>,
    required: BTreeMap<Key, Vec<usize>>,
    conditions: usize,
    bytes: usize,
}

impl Request {
    fn read(source: &mut Source, interrupt: &Interrupt) -> Outcome<Self> {
        let mut request = Self::default();
        FORMAT.read(source, interrupt, &mut |line| request.line(line))?;
        Ok(request)
    }

    fn line(&mut self, line: &Line) -> Outcome<()> {
        let key = Key::parse(line.text("key")?).map_err(|error| wrong_line(line.number, error, KEY_RULE))?;
        match line.get("op").map(Value::as_str) {
            Some(Some("put")) => {
                line.only(&["op", "key", "text", "hex"])?;
                self.put(key, line)
            }
            Some(Some("delete")) => {
                line.only(&["op", "key"])?;
                self.add(line, &key, false, 0)?;
                let deleted = self.batch.delete(&key);
                deleted.map_err(|error| line.wrong(error))
            }
            Some(Some("require")) => {
                line.only(&["op", "key", "absent", "revision"])?;
                self.require(key, line)
            }
            Some(_) => Err(line.wrong("`op` is put, delete or require")),
            None => {
                dumped(line)?;
                self.put(key, line)
            }
        }
    }

    fn put(&mut self, key: Key, line: &Line) -> Outcome<()> {
        let value = match (line.has("text"), line.has("hex")) {
            (true, false) => line.text("text")?.as_bytes().to_vec(),
            (false, true) => line.hex()?,
            (_, _) => return Err(line.wrong("a put has either `text` or `hex`")),
        };
        self.add(line, &key, true, value.len())?;
        let put = self.batch.put(&key, &value);
        put.map_err(|error| line.wrong(error))
    }

    /// Takes note of a change, if there is room for it and the key has none yet.
    fn add(&mut self, line: &Line, key: &Key, is_put: bool, len: usize) -> Outcome<()> {
        if let Some(first) = self.changed.get(key) {
            return Err(line.wrong(format!("line {} changes `{key}` already", first.line)));
        }
        if self.changed.len() >= usize::from(BATCH_OPS_MAX) {
            return Err(line.wrong(format!("a batch has at most {BATCH_OPS_MAX} changes")));
        }
        self.bytes = self.bytes.saturating_add(key.as_str().len()).saturating_add(len);
        if self.bytes > BYTES_MAX {
            return Err(line.wrong(format!("no batch has more than {BYTES_MAX} bytes")));
        }
        self.changed.insert(key.clone(), Change { line: line.number, is_put });
        Ok(())
    }

    fn require(&mut self, key: Key, line: &Line) -> Outcome<()> {
        let condition = match (line.get("absent"), line.get("revision")) {
            (Some(Value::Bool(true)), None) => Precondition::Absent,
            (None, Some(number)) => {
                let number = number.as_u64().ok_or_else(|| line.wrong("`revision` is not a number"))?;
                Precondition::RevisionIs(Revision::from_u64(number))
            }
            (_, _) => {
                return Err(line.wrong("a requirement has either `absent`, which is true, or `revision`"));
            }
        };
        self.conditions += 1;
        if self.conditions > CONDITIONS_MAX {
            return Err(line.wrong(format!("a batch has at most {CONDITIONS_MAX} requirements")));
        }
        let required = self.batch.require(&key, condition);
        required.map_err(|error| line.wrong(error))?;
        self.required.entry(key).or_default().push(line.number);
        Ok(())
    }

    /// What the store says, with the lines it is about.
    fn refused(&self, error: Error, args: &StateBatch) -> Failure {
        let Error::Conflict { key, .. } = &error else { return Failure::state(&args.image, error) };
        let lines = self.required.get(key).cloned().unwrap_or_default();
        Failure::state(&args.image, StateTrouble::BatchConflict { lines, error })
    }
}

/// A line as `dump` prints it is a put, if it says for certain what the value is.
fn dumped(line: &Line) -> Outcome<()> {
    if !line.has("revision") || !line.has("certainty") {
        return Err(line.wrong("it has no `op`"));
    }
    line.only(&["schema", "ok", "key", "revision", "certainty", "form", "bytes", "text", "hex", "warnings"])?;
    if line.get("certainty").and_then(Value::as_str) != Some("certain") {
        return Err(
            line.wrong("the value is suspect: `steadfast state salvage --suspects` takes such values")
        );
    }
    match line.get("form").and_then(Value::as_str) {
        Some("plain") | None => Ok(()),
        Some(_) => Err(line.wrong("the value is sealed: `backup` and `restore` move sealed values")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(request: &mut Request, number: usize, bytes: &[u8]) -> Outcome<()> {
        request.line(&FORMAT.parse(number, bytes)?.unwrap())
    }

    #[test]
    fn there_are_no_more_changes_and_bytes_than_any_store_takes() {
        let mut request = Request::default();
        for n in 0..BATCH_OPS_MAX {
            line(&mut request, 1, format!(r#"{{"op":"delete","key":"/state/{n}"}}"#).as_bytes()).unwrap();
        }
        let last = line(&mut request, 65_536, br#"{"op":"delete","key":"/state/last"}"#).unwrap_err();
        assert_eq!(last.to_string(), "line 65536: a batch has at most 65535 changes");

        let value = "v".repeat(65_536);
        let put = |n: usize| format!(r#"{{"op":"put","key":"/state/{n:03}","text":"{value}"}}"#);
        let mut request = Request::default();
        let fit = BYTES_MAX / (65_536 + "/state/000".len());
        for n in 0..fit {
            line(&mut request, 1, put(n).as_bytes()).unwrap();
        }
        assert!(
            line(&mut request, 1, put(fit).as_bytes()).unwrap_err().to_string().contains("no batch has more")
        );
        let longest = format!(r#"{{"op":"put","key":"/state/a","text":"{}"}}"#, "\\u0000".repeat(65_536));
        let padded = longest.clone() + &" ".repeat(LINE_LEN_MAX - longest.len());
        line(&mut Request::default(), 1, padded.as_bytes()).unwrap();
        let refused = line(&mut Request::default(), 1, (padded + " ").as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("it is longer than"), "{refused}");
    }
}
