//! Splits a text into blocks: headings, tables, fenced code and paragraphs.

use std::ops::Range;

use crate::{
    extracted::{Heading, Outline},
    parse::markdown::is_rule,
};

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The line of a heading, by its index in the outline.
    Heading(usize),
    /// Lines that stay together where they fit: a table, or fenced code.
    Lines,
    /// Prose, to be split into sentences.
    Paragraph,
}

/// A block. Blocks tile the text: each reaches to the start of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
    /// Of a table with a rule below its first row.
    pub(super) header: Option<Header>,
}

/// The header row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Its bytes of the text.
    pub(super) row: Range<usize>,
    /// Where the rows below the rule begin.
    pub(super) body: usize,
}

/// The blocks of a text, in order.
pub(super) struct Blocks<'a> {
    text: &'a str,
    headings: &'a [Heading],
    by_lines: bool,
    at: usize,
    next_heading: usize,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(text: &'a str, outline: &'a Outline) -> Self {
        Self { text, headings: &outline.headings, by_lines: outline.by_lines, at: 0, next_heading: 0 }
    }

    fn heading_start(&self) -> usize {
        self.headings.get(self.next_heading).map_or(usize::MAX, |heading| heading.byte_start)
    }

    fn line_at(&self, at: usize) -> &'a str {
        let rest = &self.text[at..];
        rest.find('\n').map_or(rest, |end| &rest[..=end])
    }

    /// The header row of the table that stands there: its first line, where a rule follows and it says anything.
    fn header_of(&self, table: Range<usize>) -> Option<Header> {
        let first = self.line_at(table.start);
        let rule = table.start + first.len();
        let second = if rule < table.end { self.line_at(rule) } else { "" };
        let row = first.trim();
        if !is_rule(second.trim()) || !row.contains(char::is_alphanumeric) {
            return None;
        }
        let start = table.start + first.len() - first.trim_start().len();
        Some(Header { row: start..start + row.len(), body: rule + second.len() })
    }

    /// The end of the lines from `at` on that `belongs` accepts, no further than the next heading.
    fn lines_end(&self, mut at: usize, mut belongs: impl FnMut(&str) -> bool) -> usize {
        while at < self.text.len() && at < self.heading_start() {
            let line = self.line_at(at);
            if !belongs(line) {
                break;
            }
            at += line.len();
        }
        at
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let start = self.at;
        let content = self.lines_end(start, |line| line.trim().is_empty());
        if content >= self.text.len() {
            return None;
        }
        let mut header = None;
        let (kind, end) = if content >= self.heading_start() {
            let index = self.next_heading;
            self.next_heading += 1;
            let line_end = self.headings[index].byte_end;
            (Kind::Heading(index), line_end + self.line_at(line_end).find('\n').map_or(0, |n| n + 1))
        } else if self.by_lines {
            (Kind::Lines, self.lines_end(content, |line| !line.trim().is_empty()))
        } else {
            let line = self.line_at(content);
            if let Some(fence) = fence_of(line) {
                let mut open = true;
                let first_end = content + line.len();
                let end = self.lines_end(first_end, |line| {
                    let inside = open;
                    open = open && !line.trim_start().starts_with(fence);
                    inside
                });
                (Kind::Lines, end)
            } else if is_row(line) {
                let end = self.lines_end(content, is_row);
                header = self.header_of(content..end);
                (Kind::Lines, end)
            } else {
                let end = self.lines_end(content, |line| {
                    !line.trim().is_empty() && !is_row(line) && fence_of(line).is_none()
                });
                (Kind::Paragraph, end)
            }
        };
        // Blank lines after the block are its own, so that the blocks tile the text.
        let first = self.text[content..].chars().next().map_or(1, char::len_utf8);
        let end = end.max(content + first);
        self.at = self.lines_end(end, |line| line.trim().is_empty());
        Some(Block { kind, range: start..self.at, header })
    }
}

fn is_row(line: &str) -> bool {
    let line = line.trim();
    line.len() > 1 && line.starts_with('|') && line.ends_with('|')
}

fn fence_of(line: &str) -> Option<&'static str> {
    let line = line.trim_start();
    ["```", "~~~"].into_iter().find(|fence| line.starts_with(fence))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn blocks_tile_the_text() {
        let text =
            "\n# One\nprose\nmore\n\n| a | b |\n|---|---|\n| 1 | 2 |\nafter\n\n```\nx = 1\n\ny = 2\n```\nend";
        let headings = vec![Heading { level: 1, byte_start: 1, byte_end: 6, title: "One".into() }];
        let outline = Outline { headings, ..Outline::default() };
        let blocks: Vec<_> = Blocks::new(text, &outline).collect();
        let kinds: Vec<_> = blocks.iter().map(|block| block.kind).collect();
        use Kind::{Heading as H, Lines, Paragraph};
        assert_eq!(kinds, [H(0), Paragraph, Lines, Paragraph, Lines, Paragraph]);
        let joined: String = blocks.iter().map(|block| &text[block.range.clone()]).collect();
        assert_eq!(joined, text);
        assert_eq!(&text[blocks[4].range.clone()], "```\nx = 1\n\ny = 2\n```\n");
        let headers: Vec<_> = blocks.iter().filter_map(|block| block.header.clone()).collect();
        assert_eq!(headers.len(), 1);
        assert_eq!(
            (&text[headers[0].row.clone()], &text[headers[0].body..][..9]),
            ("| a | b |", "| 1 | 2 |")
        );
    }

    #[test]
    fn a_table_without_a_rule_or_with_an_empty_first_row_has_no_header() {
        for text in ["| a |\n| b |\n", "|  |\n|---|\n| b |\n", "| a |", "```\n| a |\n|---|\n```\n"] {
            let outline = Outline::default();
            assert!(Blocks::new(text, &outline).all(|block| block.header.is_none()), "{text:?}");
        }
    }

    #[test]
    fn what_stands_in_lines_is_parted_at_blank_ones() {
        let text = "fn one() {\n    a. B.\n}\n\n\n# x\nfn two() {}\n";
        let outline = Outline { by_lines: true, ..Outline::default() };
        let blocks: Vec<_> = Blocks::new(text, &outline).collect();
        let parts: Vec<_> = blocks.iter().map(|block| (block.kind, &text[block.range.clone()])).collect();
        assert_eq!(
            parts,
            [(Kind::Lines, "fn one() {\n    a. B.\n}\n\n\n"), (Kind::Lines, "# x\nfn two() {}\n")]
        );
    }
}
