//! Where the sentences of a paragraph end.

use std::ops::Range;

/// A line this long that just breaks off is taken for a line of wrapped prose.
const WRAPPED_LINE_BYTES: usize = 40;

/// The sentences of `text`, which they tile. The whitespace between two of them goes to the first up
/// to its last line end, and to the second from there on; see `tokens::first_seam` for the reason.
pub(super) fn sentences(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < text.len()).then(|| {
            let start = at;
            at = end_of_sentence(text, start);
            start..at
        })
    })
}

fn end_of_sentence(text: &str, start: usize) -> usize {
    let mut chars = text[start..].char_indices().map(|(i, c)| (start + i, c)).peekable();
    let mut line_start = start;
    let mut word_start = start;
    let mut seen_word = false;
    while let Some((i, c)) = chars.next() {
        let after = i + c.len_utf8();
        if c == '\n' {
            if seen_word && line_breaks_off(&text[line_start..i], &text[after..]) {
                return seam(text, i);
            }
            line_start = after;
        }
        if c.is_whitespace() {
            word_start = after;
            continue;
        }
        seen_word = true;
        // Ideographic terminators need no space after them.
        if matches!(c, '。' | '！' | '？' | '．') {
            if chars.peek().is_none_or(|(_, next)| !is_closing(*next)) {
                return after;
            }
        } else if matches!(c, '.' | '!' | '?' | '…' | '؟' | '।') {
            while chars.peek().is_some_and(|(_, next)| is_closing(*next) || matches!(next, '.' | '!' | '?')) {
                chars.next();
            }
            let end = chars.peek().map_or(text.len(), |(next, _)| *next);
            if ends_here(&text[word_start..i], c, &text[end..]) {
                return seam(text, end);
            }
        }
    }
    text.len()
}

/// Whether a sentence ends after `word` and the terminator `mark`, with `rest` behind it.
fn ends_here(word: &str, mark: char, rest: &str) -> bool {
    let Some(next) = rest.chars().find(|c| !c.is_whitespace()) else { return true };
    if !rest.starts_with(char::is_whitespace) || next.is_lowercase() {
        return false;
    }
    // "J. Smith", "Dr. Smith", "3. Item": the point belongs to the word.
    let word = word.trim_start_matches(['(', '"', '“', '‘', '[']);
    let short = word.chars().count() <= 2 && word.starts_with(char::is_uppercase);
    let number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) && word.len() <= 3;
    mark != '.' || !(short || number)
}

/// Whether the line is not wrapped into the next: it is short, ends with a mark, or a list item follows.
fn line_breaks_off(line: &str, rest: &str) -> bool {
    let line = line.trim();
    line.len() < WRAPPED_LINE_BYTES || line.ends_with(['.', '!', '?', ':', ';', '|']) || begins_item(rest)
}

fn begins_item(rest: &str) -> bool {
    let mut rest = rest.trim_start_matches([' ', '\t']).chars();
    match rest.next() {
        Some('-' | '*' | '+' | '•' | '–' | '●' | '▪') => rest.next().is_some_and(char::is_whitespace),
        Some(c) if c.is_ascii_digit() => {
            rest.find(|c| !c.is_ascii_digit()).is_some_and(|c| matches!(c, '.' | ')'))
                && rest.next().is_some_and(char::is_whitespace)
        }
        _ => false,
    }
}

fn is_closing(c: char) -> bool {
    matches!(c, '"' | '\'' | ')' | ']' | '}' | '”' | '’' | '»' | '」' | '』' | '）' | '*' | '_')
}

/// The place in the whitespace at `end` where counts of tokens add up.
fn seam(text: &str, end: usize) -> usize {
    let rest = &text[end..];
    let space = &rest[..rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len())];
    if space.len() == rest.len() {
        return text.len();
    }
    end + space.rfind(['\n', '\r']).map_or(0, |line_end| line_end + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).map(|range| &text[range]).collect()
    }

    #[test]
    fn sentences_end_at_their_marks() {
        assert_eq!(
            split("It rose. Did it? (Yes!) Then 3.5 m."),
            ["It rose.", " Did it?", " (Yes!)", " Then 3.5 m."]
        );
        assert_eq!(split("Ask Dr. Silva or J. Reis. He knows."), ["Ask Dr. Silva or J. Reis.", " He knows."]);
        assert_eq!(split("水位は高い。雨が降る。"), ["水位は高い。", "雨が降る。"]);
        assert_eq!(split("“Stop.” He left."), ["“Stop.”", " He left."]);
    }

    #[test]
    fn lists_split_by_line_and_wrapped_prose_does_not() {
        assert_eq!(split("- one\n- two\n- three"), ["- one\n", "- two\n", "- three"]);
        let wrapped = "the quick brown fox jumps over the lazy dog\nand runs away";
        assert_eq!(split(wrapped), [wrapped]);
    }
}
