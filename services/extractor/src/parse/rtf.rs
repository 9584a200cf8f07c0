//! Rich Text Format to plain text: paragraphs and characters, nothing of the looks.

use encoding_rs::Encoding;
use riacho_domain::ReasonCode;

use super::Parsed;
use crate::{encoding, extracted::Failure};

/// Groups nested deeper than this are no document.
const DEPTH: usize = 2000;
/// Destinations whose content is not the document's text.
const SKIPPED: [&str; 18] = [
    "fonttbl",
    "colortbl",
    "stylesheet",
    "info",
    "pict",
    "object",
    "header",
    "headerl",
    "headerr",
    "headerf",
    "footer",
    "footerl",
    "footerr",
    "footerf",
    "listtable",
    "listoverridetable",
    "themedata",
    "fldinst",
];

/// Reads a document.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Failure> {
    let mut reader = Reader {
        rest: bytes,
        out: String::new(),
        encoding: encoding_rs::WINDOWS_1252,
        pending: Vec::new(),
        groups: Vec::new(),
        group: Group { skip: false, fallback: 1 },
        to_skip: 0,
    };
    while !reader.rest.is_empty() {
        reader.step()?;
    }
    reader.flush();
    let text = encoding::clean(reader.out);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    Ok(Parsed::plain(lines.join("\n").trim().to_owned()))
}

#[derive(Clone, Copy)]
struct Group {
    skip: bool,
    /// How many characters after a Unicode one are its substitute (`\uc`).
    fallback: usize,
}

struct Reader<'a> {
    rest: &'a [u8],
    out: String,
    encoding: &'static Encoding,
    /// Bytes in the document's encoding, not yet decoded: some characters have two.
    pending: Vec<u8>,
    groups: Vec<Group>,
    group: Group,
    to_skip: usize,
}

impl Reader<'_> {
    fn step(&mut self) -> Result<(), Failure> {
        let [first, rest @ ..] = self.rest else { return Ok(()) };
        self.rest = rest;
        match first {
            b'{' => {
                if self.groups.len() >= DEPTH {
                    return Err(Failure::new(ReasonCode::Corrupt, "the document is nested too deeply"));
                }
                self.groups.push(self.group);
            }
            b'}' => {
                self.flush();
                self.group = self.groups.pop().unwrap_or(self.group);
            }
            b'\\' => self.control(),
            b'\r' | b'\n' => {}
            byte => self.byte(*byte),
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) {
        if self.to_skip > 0 {
            self.to_skip -= 1;
        } else if !self.group.skip {
            self.pending.push(byte);
        }
    }

    fn text(&mut self, text: &str) {
        self.flush();
        if !self.group.skip {
            self.out.push_str(text);
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            let (text, _) = self.encoding.decode_without_bom_handling(&self.pending);
            self.out.push_str(&text);
            self.pending.clear();
        }
    }

    fn control(&mut self) {
        let [first, rest @ ..] = self.rest else { return };
        if first.is_ascii_alphabetic() {
            self.word();
            return;
        }
        self.rest = rest;
        match first {
            b'\'' => {
                let hex = rest.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
                if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    self.rest = &rest[2..];
                    self.byte(byte);
                }
            }
            b'*' => self.group.skip = true,
            b'~' => self.text(" "),
            b'_' => self.text("-"),
            b'\r' | b'\n' => self.text("\n\n"),
            b'\\' | b'{' | b'}' => self.byte(*first),
            _ => {}
        }
    }

    fn word(&mut self) {
        let end = self.rest.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end.min(32));
        let sign = usize::from(rest.first() == Some(&b'-'));
        let digits = rest[sign..].iter().take(10).take_while(|b| b.is_ascii_digit()).count();
        let digits = if digits == 0 { 0 } else { sign + digits };
        let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|n| n.parse::<i64>().ok());
        let space = usize::from(rest.get(digits) == Some(&b' '));
        self.rest = &rest[digits + space..];
        match (word, number) {
            (b"bin", Some(length)) => {
                let length = usize::try_from(length).unwrap_or(0).min(self.rest.len());
                self.rest = &self.rest[length..];
            }
            (b"u", Some(code)) => {
                self.unicode(code);
                self.to_skip = self.group.fallback;
            }
            (b"uc", Some(count)) => self.group.fallback = usize::try_from(count).unwrap_or(1).min(16),
            (b"ansicpg", Some(page)) => self.encoding = code_page(page),
            (b"par" | b"sect" | b"page", _) => self.text("\n\n"),
            (b"line" | b"row", _) => self.text("\n"),
            (b"tab", _) => self.text("\t"),
            (b"cell", _) => self.text(" | "),
            (b"emdash", _) => self.text("—"),
            (b"endash", _) => self.text("–"),
            (b"lquote", _) => self.text("‘"),
            (b"rquote", _) => self.text("’"),
            (b"ldblquote", _) => self.text("“"),
            (b"rdblquote", _) => self.text("”"),
            (b"bullet", _) => self.text("•"),
            (word, _) => {
                if SKIPPED.iter().any(|skipped| skipped.as_bytes() == word) {
                    self.group.skip = true;
                }
            }
        }
    }

    /// A UTF-16 unit, which may be written as a negative number.
    fn unicode(&mut self, code: i64) {
        self.flush();
        if self.group.skip {
            return;
        }
        let unit = u32::try_from(code.rem_euclid(65536)).unwrap_or(0xfffd);
        // The halves of a pair come one after the other; the first waits as a private mark.
        let last = self.out.chars().next_back().map(u32::from);
        match (unit, last) {
            (0xd800..=0xdbff, _) => self.out.extend(char::from_u32(0xf0000 + (unit - 0xd800))),
            (0xdc00..=0xdfff, Some(high @ 0xf0000..=0xf03ff)) => {
                self.out.pop();
                self.out.extend(char::from_u32(0x10000 + ((high - 0xf0000) << 10) + (unit - 0xdc00)));
            }
            _ => self.out.extend(char::from_u32(unit)),
        }
    }
}

fn code_page(page: i64) -> &'static Encoding {
    let label = match page {
        932 => "shift_jis".to_owned(),
        936 => "gbk".to_owned(),
        949 => "euc-kr".to_owned(),
        950 => "big5".to_owned(),
        65001 => "utf-8".to_owned(),
        page => format!("windows-{page}"),
    };
    Encoding::for_label(label.as_bytes()).unwrap_or(encoding_rs::WINDOWS_1252)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn characters_and_paragraphs_are_kept_and_the_looks_are_not() {
        let rtf = br"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\*\generator x}\f0\fs24 N\'edvel \u-10180?\u-8448?\{ok\}\par Two\tab three\line four\par}";
        assert_eq!(parse(rtf).unwrap().text, "Nível \u{1f300}{ok}\n\nTwo\tthree\nfour");
    }

    #[test]
    fn nesting_without_end_is_refused() {
        assert_eq!(parse(&b"{".repeat(9999)).unwrap_err().reason, ReasonCode::Corrupt);
        assert_eq!(parse(b"{\\rtf1 a\\bin99999999999 b").unwrap().text, "a");
    }
}
