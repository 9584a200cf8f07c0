//! JSON to lines that people can read: `key: value`, deeper ones indented, records apart.
//!
//! Numbers and literals stay as they are written; strings lose their quotes and escapes.

/// Deeper values are left as they stand in the file.
const MAX_DEPTH: usize = 100;
/// Records down to this depth have a blank line between them, where a chunk may end.
const RECORD_DEPTH: usize = 1;

/// The lines of one value, or of several one after the other, as a log has them. Nothing where the text is
/// no JSON, or would become longer than `most` bytes.
pub(super) fn to_text(json: &str, most: u64) -> Option<String> {
    let mut writer = Writer { json, at: 0, out: String::with_capacity(json.len()), most };
    let mut values = 0;
    while writer.peek().is_some() {
        if values > 0 {
            writer.out.push('\n');
        }
        writer.value(0, Place::Line)?;
        values += 1;
    }
    writer.out.truncate(writer.out.trim_end().len());
    (values > 0).then_some(writer.out)
}

/// Where a value is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a line of its own.
    Line,
    /// Behind `key:`.
    Key,
    /// Behind the hyphen of a list.
    Item,
}

struct Writer<'a> {
    json: &'a str,
    at: usize,
    out: String,
    most: u64,
}

impl Writer<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.json.as_bytes().get(self.at..)?;
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
        self.json.as_bytes().get(self.at).copied()
    }

    /// Passes over a byte that has to come next.
    fn pass(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn indent(&mut self, depth: usize) {
        self.out.extend(std::iter::repeat_n("  ", depth));
    }

    fn value(&mut self, depth: usize, place: Place) -> Option<()> {
        if depth > MAX_DEPTH || self.out.len() as u64 > self.most {
            return None;
        }
        let first = self.peek()?;
        if matches!(first, b'{' | b'[') {
            self.at += 1;
            let end = if first == b'{' { b'}' } else { b']' };
            if self.peek()? == end {
                self.at += 1;
                return self.scalar(place, if first == b'{' { "{}" } else { "[]" });
            }
            return if first == b'{' { self.members(depth, place) } else { self.items(depth, place) };
        }
        let text = if first == b'"' { self.string()? } else { self.literal()? };
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        self.scalar(place, &lines.join("\n"))
    }

    fn scalar(&mut self, place: Place, text: &str) -> Option<()> {
        if place == Place::Key && !text.is_empty() {
            self.out.push(' ');
        }
        self.out.push_str(text);
        self.out.push('\n');
        Some(())
    }

    fn members(&mut self, depth: usize, place: Place) -> Option<()> {
        if place == Place::Key {
            self.out.push('\n');
        }
        for number in 0.. {
            let is_record = matches!(self.peek()?, b'"') && number > 0 && depth == 0 && self.ends_deep();
            if is_record {
                self.out.push('\n');
            }
            // The first one stands behind the hyphen.
            if place != Place::Item || number > 0 {
                self.indent(depth);
            }
            let key = self.string()?;
            self.pass(b':')?;
            self.out.push_str(key.trim());
            self.out.push(':');
            self.value(depth + 1, Place::Key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => break,
                _ => return None,
            }
        }
        self.pass(b'}')
    }

    /// Whether the last line is deeper than the outermost.
    fn ends_deep(&self) -> bool {
        let last = self.out.trim_end_matches('\n').rsplit('\n').next().unwrap_or_default();
        last.starts_with(' ') || last.starts_with("- ")
    }

    fn items(&mut self, depth: usize, place: Place) -> Option<()> {
        if place != Place::Line {
            self.out.push('\n');
        }
        for number in 0.. {
            if number > 0 && depth <= RECORD_DEPTH && matches!(self.peek()?, b'{' | b'[') {
                self.out.push('\n');
            }
            self.indent(depth);
            self.out.push_str("- ");
            self.value(depth + 1, Place::Item)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => break,
                _ => return None,
            }
        }
        self.pass(b']')
    }

    fn string(&mut self) -> Option<String> {
        self.pass(b'"')?;
        let start = self.at - 1;
        loop {
            let rest = self.json.as_bytes().get(self.at..)?;
            self.at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            if self.json.as_bytes()[self.at] == b'"' {
                self.at += 1;
                return serde_json::from_str(&self.json[start..self.at]).ok();
            }
            self.at += 2;
        }
    }

    /// A number, `true`, `false` or `null`, as it is written.
    fn literal(&mut self) -> Option<String> {
        let rest = &self.json[self.at..];
        let end =
            rest.find(|c: char| matches!(c, ',' | ']' | '}') || c.is_whitespace()).unwrap_or(rest.len());
        let literal = &rest[..end];
        self.at += end;
        let is_number = || {
            literal.starts_with(|c: char| c.is_ascii_digit() || c == '-') && literal.parse::<f64>().is_ok()
        };
        (matches!(literal, "true" | "false" | "null") || is_number()).then(|| literal.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> Option<String> {
        to_text(json, 1 << 20)
    }

    #[test]
    fn records_become_lines_with_blank_ones_between_them() {
        let json = r#"{"river": "Água\u00a0Clara", "gauges": [{"name": "Mill", "m": 3.10, "tags": ["old", "north"]},
            {"name": "Weir", "notes": {"by": "Ana", "text": "line one\nline two"}, "none": []}], "ok": true}"#;
        let expected = "river: Água\u{a0}Clara\ngauges:\n  - name: Mill\n    m: 3.10\n    tags:\n      - old\n      - north\n\n  \
            - name: Weir\n    notes:\n      by: Ana\n      text: line one\nline two\n    none: []\n\nok: true";
        assert_eq!(text(json).as_deref(), Some(expected));
    }

    #[test]
    fn a_log_of_values_is_read_one_after_the_other() {
        let log = "{\"a\": 1}\n{\"a\": 12345678901234567890.5}\n";
        assert_eq!(text(log).as_deref(), Some("a: 1\n\na: 12345678901234567890.5"));
        assert_eq!(text("[1, \"two\", null]").as_deref(), Some("- 1\n- two\n- null"));
    }

    #[test]
    fn what_is_no_json_is_left_alone() {
        for broken in [
            "",
            "{",
            "{\"a\": }",
            "{\"a\": 1,}",
            "[1 2]",
            "{\"a\" 1}",
            "\"open",
            "\"end\\",
            "[word]",
            "{1: 2}",
        ] {
            assert_eq!(text(broken), None, "{broken}");
        }
        assert_eq!(text(&"[".repeat(5_000)), None);
        assert_eq!(to_text(&format!("[{}1]", "1,".repeat(500)), 100), None);
    }
}
