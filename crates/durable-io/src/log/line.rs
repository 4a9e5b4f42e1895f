//! What a line is: the one place that decides.

use serde::de::IgnoredAny;

/// How deep a record may nest. Readers on `serde_json` refuse 128 and more, and a record that nobody can read is
/// none. Only appending is this strict: a deeper line that another program wrote stays where it is.
const DEPTH_MAX: usize = 127;

/// What a line without its newline holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// An object or an array: shows by itself that it is whole.
    Container,
    /// A number, a string, `true`, `false` or `null`: whole only if a newline says so.
    Scalar,
    /// Not one JSON value in UTF-8. An empty line is none.
    Bad,
}

impl Line {
    /// A line is a container or scalar if and only if it is UTF-8 and one JSON value with nothing but white space
    /// around it. The parser skips values without recursion, so no input is too deep for it.
    pub(super) fn judge(line: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(line) else { return Self::Bad };
        if serde_json::from_str::<IgnoredAny>(text).is_err() {
            return Self::Bad;
        }
        match line.trim_ascii_start().first() {
            Some(b'{' | b'[') => Self::Container,
            _ => Self::Scalar,
        }
    }
}

/// Whether `record` may be appended: one object or array, on one line, not nested too deeply.
pub(super) fn is_record(record: &[u8]) -> bool {
    !record.contains(&b'\n') && Line::judge(record) == Line::Container && depth(record) <= DEPTH_MAX
}

/// How deep valid JSON nests.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_value_or_bad() {
        for line in ["{}", "[]", " {\"a\":[1,2]}\r", "[\"\\u00e9\u{1f600}\"]"] {
            assert_eq!(Line::judge(line.as_bytes()), Line::Container, "{line}");
            assert!(is_record(line.as_bytes()), "{line}");
        }
        for line in ["12", "\"x\"", "null", "true", "-1e9"] {
            assert_eq!(Line::judge(line.as_bytes()), Line::Scalar, "{line}");
            assert!(!is_record(line.as_bytes()), "{line}");
        }
        let bad: [&[u8]; 8] = [b"", b" ", b"{", b"{}{}", b"[1,]", b"{\"a\":\"\xff\"}", b"[]\0", b"[\"\0\"]"];
        for line in bad {
            assert_eq!(Line::judge(line), Line::Bad, "{line:?}");
            assert!(!is_record(line), "{line:?}");
        }
        assert!(!is_record(b"[1,\n2]"));
    }

    #[test]
    fn nesting_is_bounded_for_records_and_harmless_for_the_parser() {
        let nested = |count: usize| [vec![b'['; count], vec![b']'; count]].concat();
        assert!(is_record(&nested(126)));
        assert!(is_record(&nested(127)));
        assert!(!is_record(&nested(128)));
        assert_eq!(Line::judge(&nested(1_000_000)), Line::Container);
        assert_eq!(depth(br#"{"[[[\"{{":[{"a":"\\"}]}"#), 3);
        let readable = |count| serde_json::from_slice::<serde_json::Value>(&nested(count)).is_ok();
        assert!(readable(127) && !readable(128), "the bound is that of the reader");
    }
}
