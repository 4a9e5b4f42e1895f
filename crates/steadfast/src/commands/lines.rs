//! JSON Lines as commands read them: one object a line, a bound on its length, and every complaint with its line.

use serde_json::{Map, Value};

use super::write::Source;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

const CHUNK_LEN: usize = 64 << 10;

/// What is asked of lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) line_len_max: usize,
    /// Where it is said what they look like, and that nothing has happened.
    pub(super) hint: &'static str,
}

/// One line: an object.
#[derive(Debug)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    hint: &'static str,
    fields: Map<String, Value>,
}

impl Format {
    /// Hands out every line that is not empty, until one of them is refused.
    pub(super) fn read(
        self,
        source: &mut Source,
        interrupt: &Interrupt,
        each: &mut dyn FnMut(&Line) -> Outcome<()>,
    ) -> Outcome<()> {
        let (mut chunk, mut line) = (vec![0; CHUNK_LEN], Vec::new());
        let mut number = 1;
        loop {
            let count = source.read(&mut chunk, interrupt)?;
            let mut rest = chunk.get(..count).unwrap_or(&[]);
            if rest.is_empty() {
                return self.parse(number, &line)?.as_ref().map_or(Ok(()), each);
            }
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (head, tail) = rest.split_at(end);
                line.extend_from_slice(head);
                self.parse(number, &line)?.as_ref().map_or(Ok(()), &mut *each)?;
                number += 1;
                line.clear();
                rest = tail.get(1..).unwrap_or(&[]);
            }
            line.extend_from_slice(rest);
            self.refuse_too_long(number, &line)?;
        }
    }

    /// `None` for an empty line.
    pub(super) fn parse(self, number: usize, line: &[u8]) -> Outcome<Option<Line>> {
        self.refuse_too_long(number, line)?;
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let fields = serde_json::from_slice(line)
            .map_err(|error| self.wrong(number, format_args!("not a JSON object: {error}")))?;
        Ok(Some(Line { number, hint: self.hint, fields }))
    }

    fn refuse_too_long(self, number: usize, line: &[u8]) -> Outcome<()> {
        if line.len() <= self.line_len_max {
            return Ok(());
        }
        Err(self.wrong(number, format_args!("it is longer than {} bytes", self.line_len_max)))
    }

    fn wrong(self, number: usize, message: impl std::fmt::Display) -> Failure {
        wrong_line(number, message, self.hint)
    }
}

/// A line that cannot be.
pub(super) fn wrong_line(number: usize, message: impl std::fmt::Display, hint: &str) -> Failure {
    Failure::Usage { message: format!("line {number}: {message}"), hint: Some(hint.to_owned()) }
}

impl Line {
    pub(super) fn wrong(&self, message: impl std::fmt::Display) -> Failure {
        wrong_line(self.number, message, self.hint)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Refuses fields that are not known.
    pub(super) fn only(&self, known: &[&str]) -> Outcome<()> {
        match self.fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(self.wrong(format_args!("`{name}` is not known here"))),
            None => Ok(()),
        }
    }

    pub(super) fn text(&self, name: &str) -> Outcome<&str> {
        let found = self.get(name).and_then(Value::as_str);
        found.ok_or_else(|| self.wrong(format_args!("it has no `{name}` that is a text")))
    }

    /// The bytes of `hex`.
    pub(super) fn hex(&self) -> Outcome<Vec<u8>> {
        let bytes = unhex(self.text("hex")?);
        bytes.ok_or_else(|| self.wrong("`hex` is not an even number of hexadecimal digits"))
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
    fn a_line_is_as_long_as_it_may_be_and_no_longer() {
        let format = Format { line_len_max: 10, hint: "" };
        assert!(format.parse(1, b"{\"a\":\"bc\"}").unwrap().is_some());
        assert!(format.parse(1, b"          ").unwrap().is_none());
        let refused = format.parse(7, b"{\"a\":\"bc\"} ").unwrap_err();
        assert_eq!(refused.to_string(), "line 7: it is longer than 10 bytes");
    }
}
