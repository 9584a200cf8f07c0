//! Counting tokens, and where a text may be split without changing the count.

use std::cell::Cell;

use tiktoken_rs::CoreBPE;

/// A tokenizer that this build does not have.
#[derive(Debug, Clone, thiserror::Error)]
#[error("tokenizer {0:?} is none of o200k_base, cl100k_base")]
pub struct UnknownTokenizer(String);

/// Counts tokens of one vocabulary.
pub struct Tokens {
    vocabulary: &'static CoreBPE,
    bytes_counted: Cell<u64>,
}

impl Tokens {
    /// The counter for a vocabulary, which is loaded once in a process (about 0.1 s).
    ///
    /// # Errors
    ///
    /// When no such vocabulary is known.
    pub fn new(name: &str) -> Result<Self, UnknownTokenizer> {
        let vocabulary = match name {
            "o200k_base" => tiktoken_rs::o200k_base_singleton(),
            "cl100k_base" => tiktoken_rs::cl100k_base_singleton(),
            other => return Err(UnknownTokenizer(other.chars().take(40).collect())),
        };
        Ok(Self { vocabulary, bytes_counted: Cell::new(0) })
    }

    /// The number of tokens of `text`. Callers pass pieces of bounded length: the tokenizer's
    /// regular expression backtracks in long runs of whitespace.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.bytes_counted.set(self.bytes_counted.get() + text.len() as u64);
        self.vocabulary.count_ordinary(text)
    }

    /// How many bytes were counted so far: the measure of the work.
    #[must_use]
    pub fn bytes_counted(&self) -> u64 {
        self.bytes_counted.get()
    }

    /// The tokens of `text` once whitespace at its start is cut off, when `whole` is the count with it.
    ///
    /// Only the first word changes: a vocabulary has other tokens for a word after a space.
    #[must_use]
    pub fn without_leading_space(&self, text: &str, whole: usize) -> usize {
        let trimmed = text.trim_start();
        if trimmed.len() == text.len() {
            return whole;
        }
        let head_end = text.len() - trimmed.len() + first_seam(trimmed);
        let head = &text[..head_end];
        (whole + self.count(head.trim_start())).saturating_sub(self.count(head))
    }

    /// The tokens of `text` once whitespace at its end is cut off, when `whole` is the count with it.
    #[must_use]
    pub fn without_trailing_space(&self, text: &str, whole: usize) -> usize {
        let trimmed = text.trim_end();
        if trimmed.len() == text.len() {
            return whole;
        }
        let tail_start = last_seam(trimmed);
        let tail = &text[tail_start..];
        (whole + self.count(tail.trim_end())).saturating_sub(self.count(tail))
    }
}

/// The end of the first word of `text` at which it may be split without changing the count.
///
/// Both vocabularies first split a text into pieces, none of which reaches over the place after
/// the last line end in a run of whitespace, or before a run that has none.
fn first_seam(text: &str) -> usize {
    let word_end = text.find(char::is_whitespace).unwrap_or(text.len());
    let after = &text[word_end..];
    let space_end = after.find(|c: char| !c.is_whitespace()).unwrap_or(after.len());
    word_end + after[..space_end].rfind(['\n', '\r']).map_or(0, |line_end| line_end + 1)
}

/// The start of the last word of `text` (which ends in a word) at which it may be split.
fn last_seam(text: &str) -> usize {
    let Some((space, c)) = text.char_indices().rev().find(|(_, c)| c.is_whitespace()) else { return 0 };
    if matches!(c, '\n' | '\r') {
        return space + c.len_utf8();
    }
    let before = text[..space + c.len_utf8()].trim_end().len();
    let run = &text[before..=space + c.len_utf8() - 1];
    before + run.rfind(['\n', '\r']).map_or(0, |line_end| line_end + 1)
}

/// The words of `text`, each with the whitespace before it up to a line end, and the line ends
/// after it: the smallest pieces whose counts add up.
pub(super) fn words(text: &str) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &text[at..];
        let word = rest.find(|c: char| !c.is_whitespace())?;
        let start = at;
        at += word + first_seam(&rest[word..]);
        // What follows the last word is whitespace that no word claims.
        if text[at..].trim_start().is_empty() {
            at = text.len();
        }
        Some(start..at)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_of_words_add_up(text in "([a-zA-Z.,;:!?()\\-'é漢0-9]{1,8}[ \n\t]{0,3}){0,40}") {
            for name in ["o200k_base", "cl100k_base"] {
                let tokens = Tokens::new(name).unwrap();
                let sum: usize = words(&text).map(|word| tokens.count(&text[word])).sum();
                let all = if text.trim().is_empty() { 0 } else { tokens.count(&text) };
                prop_assert_eq!(sum, all, "{} {:?}", name, &text);
            }
        }

        #[test]
        fn trimming_is_counted_by_the_edge_alone(text in "[ \n]{0,3}([a-zA-Z.,}\\];]{1,8}[ \n]{1,2}){1,12}") {
            let tokens = Tokens::new("o200k_base").unwrap();
            let whole = tokens.count(&text);
            prop_assert_eq!(tokens.without_leading_space(&text, whole), tokens.count(text.trim_start()));
            prop_assert_eq!(tokens.without_trailing_space(&text, whole), tokens.count(text.trim_end()));
        }
    }

    #[test]
    fn a_tokenizer_of_another_kind_is_refused() {
        assert!(Tokens::new("gpt9").is_err());
    }
}
