//! `steadfast state batch`: many changes from JSON Lines, all of them or none.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use statefs::{BATCH_OPS_MAX, Batch, Error, KEY_LEN_MAX, Key, Precondition, Revision, VALUE_LEN_MAX};

use super::{KEY_RULE, close, image, quota, seal};
use crate::cli::StateBatch;
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

const CHUNK_LEN: usize = 64 << 10;

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
    lines: usize,
    bytes: usize,
}

impl Request {
    fn read(source: &mut Source, interrupt: &Interrupt) -> Outcome<Self> {
        let mut request = Self::default();
        let (mut chunk, mut line) = (vec![0; CHUNK_LEN], Vec::new());
        loop {
            let count = source.read(&mut chunk, interrupt)?;
            let mut rest = chunk.get(..count).unwrap_or(&[]);
            if rest.is_empty() {
                request.line(&line)?;
                return Ok(request);
            }
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (head, tail) = rest.split_at(end);
                line.extend_from_slice(head);
                request.line(&line)?;
                line.clear();
                rest = tail.get(1..).unwrap_or(&[]);
            }
            line.extend_from_slice(rest);
            if line.len() > LINE_LEN_MAX {
                request.lines += 1;
                return Err(request.wrong(format!("it is longer than {LINE_LEN_MAX} bytes")));
            }
        }
    }

    fn wrong(&self, message: impl std::fmt::Display) -> Failure {
        Failure::Usage {
            message: format!("line {}: {message}", self.lines),
            hint: Some("nothing was written; `steadfast state batch --help` shows the lines".to_owned()),
        }
    }

    fn line(&mut self, line: &[u8]) -> Outcome<()> {
        self.lines += 1;
        if line.len() > LINE_LEN_MAX {
            return Err(self.wrong(format!("it is longer than {LINE_LEN_MAX} bytes")));
        }
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let object: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| self.wrong(format!("not a JSON object: {error}")))?;
        let key = Key::parse(self.text(&object, "key")?).map_err(|error| self.bad_key(error))?;
        match object.get("op").map(Value::as_str) {
            Some(Some("put")) => {
                self.only(&object, &["op", "key", "text", "hex"])?;
                self.put(key, &object)
            }
            Some(Some("delete")) => {
                self.only(&object, &["op", "key"])?;
                self.add(&key, false, 0)?;
                let deleted = self.batch.delete(&key);
                deleted.map_err(|error| self.wrong(error))
            }
            Some(Some("require")) => {
                self.only(&object, &["op", "key", "absent", "revision"])?;
                self.require(key, &object)
            }
            Some(_) => Err(self.wrong("`op` is put, delete or require")),
            None => {
                self.dumped(&object)?;
                self.put(key, &object)
            }
        }
    }

    /// A line as `dump` prints it is a put, if it says for certain what the value is.
    fn dumped(&self, object: &Map<String, Value>) -> Outcome<()> {
        if !object.contains_key("revision") || !object.contains_key("certainty") {
            return Err(self.wrong("it has no `op`"));
        }
        let known =
            ["schema", "ok", "key", "revision", "certainty", "form", "bytes", "text", "hex", "warnings"];
        self.only(object, &known)?;
        if object.get("certainty").and_then(Value::as_str) != Some("certain") {
            return Err(
                self.wrong("the value is suspect: `steadfast state salvage --suspects` takes such values")
            );
        }
        match object.get("form").and_then(Value::as_str) {
            Some("plain") | None => Ok(()),
            Some(_) => Err(self.wrong("the value is sealed: `backup` and `restore` move sealed values")),
        }
    }

    fn only(&self, object: &Map<String, Value>, known: &[&str]) -> Outcome<()> {
        match object.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(self.wrong(format!("`{name}` is not known here"))),
            None => Ok(()),
        }
    }

    fn text<'o>(&self, object: &'o Map<String, Value>, name: &str) -> Outcome<&'o str> {
        let found = object.get(name).and_then(Value::as_str);
        found.ok_or_else(|| self.wrong(format!("it has no `{name}` that is a text")))
    }

    fn bad_key(&self, error: statefs::KeyError) -> Failure {
        Failure::Usage { message: format!("line {}: {error}", self.lines), hint: Some(KEY_RULE.to_owned()) }
    }

    fn put(&mut self, key: Key, object: &Map<String, Value>) -> Outcome<()> {
        let value = match (object.contains_key("text"), object.contains_key("hex")) {
            (true, false) => self.text(object, "text")?.as_bytes().to_vec(),
            (false, true) => {
                let bytes = unhex(self.text(object, "hex")?);
                bytes.ok_or_else(|| self.wrong("`hex` is not an even number of hexadecimal digits"))?
            }
            (_, _) => return Err(self.wrong("a put has either `text` or `hex`")),
        };
        self.add(&key, true, value.len())?;
        let put = self.batch.put(&key, &value);
        put.map_err(|error| self.wrong(error))
    }

    /// Takes note of a change, if there is room for it and the key has none yet.
    fn add(&mut self, key: &Key, is_put: bool, len: usize) -> Outcome<()> {
        if let Some(first) = self.changed.get(key) {
            return Err(self.wrong(format!("line {} changes `{key}` already", first.line)));
        }
        if self.changed.len() >= usize::from(BATCH_OPS_MAX) {
            return Err(self.wrong(format!("a batch has at most {BATCH_OPS_MAX} changes")));
        }
        self.bytes = self.bytes.saturating_add(key.as_str().len()).saturating_add(len);
        if self.bytes > BYTES_MAX {
            return Err(self.wrong(format!("no batch has more than {BYTES_MAX} bytes")));
        }
        self.changed.insert(key.clone(), Change { line: self.lines, is_put });
        Ok(())
    }

    fn require(&mut self, key: Key, object: &Map<String, Value>) -> Outcome<()> {
        let condition = match (object.get("absent"), object.get("revision")) {
            (Some(Value::Bool(true)), None) => Precondition::Absent,
            (None, Some(number)) => {
                let number = number.as_u64().ok_or_else(|| self.wrong("`revision` is not a number"))?;
                Precondition::RevisionIs(Revision::from_u64(number))
            }
            (_, _) => {
                return Err(self.wrong("a requirement has either `absent`, which is true, or `revision`"));
            }
        };
        self.conditions += 1;
        if self.conditions > CONDITIONS_MAX {
            return Err(self.wrong(format!("a batch has at most {CONDITIONS_MAX} requirements")));
        }
        let required = self.batch.require(&key, condition);
        required.map_err(|error| self.wrong(error))?;
        self.required.entry(key).or_default().push(self.lines);
        Ok(())
    }

    /// What the store says, with the lines it is about.
    fn refused(&self, error: Error, args: &StateBatch) -> Failure {
        let Error::Conflict { key, .. } = &error else { return Failure::state(&args.image, error) };
        let lines = self.required.get(key).cloned().unwrap_or_default();
        Failure::state(&args.image, StateTrouble::BatchConflict { lines, error })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_bytes_and_nothing_else_is() {
        assert_eq!(unhex("00fFa1"), Some(vec![0, 255, 0xa1]));
        assert_eq!(unhex(""), Some(vec![]));
        for bad in ["0", "0g", "+1", " 1", "ä"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }

    #[test]
    fn there_are_no_more_changes_and_bytes_than_any_store_takes() {
        let mut request = Request::default();
        for n in 0..BATCH_OPS_MAX {
            request.line(format!(r#"{{"op":"delete","key":"/state/{n}"}}"#).as_bytes()).unwrap();
        }
        let last = request.line(br#"{"op":"delete","key":"/state/last"}"#).unwrap_err();
        assert_eq!(last.to_string(), "line 65536: a batch has at most 65535 changes");

        let value = "v".repeat(65_536);
        let put = |n: usize| format!(r#"{{"op":"put","key":"/state/{n:03}","text":"{value}"}}"#);
        let mut request = Request::default();
        let fit = BYTES_MAX / (65_536 + "/state/000".len());
        for n in 0..fit {
            request.line(put(n).as_bytes()).unwrap();
        }
        assert!(request.line(put(fit).as_bytes()).unwrap_err().to_string().contains("no batch has more"));
        let longest = format!(r#"{{"op":"put","key":"/state/a","text":"{}"}}"#, "\\u0000".repeat(65_536));
        let padded = longest.clone() + &" ".repeat(LINE_LEN_MAX - longest.len());
        Request::default().line(padded.as_bytes()).unwrap();
        let refused = Request::default().line((padded + " ").as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("it is longer than"), "{refused}");
    }
}
