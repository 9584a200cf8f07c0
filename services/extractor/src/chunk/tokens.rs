//! Counting tokens, and where a text may be split without changing the count.
//!
//! Texts repeat their words, so the count of a word is remembered: looking it up costs far less than the
//! tokenizer.

use std::{
    cell::{Cell, RefCell},
    sync::{Mutex, PoisonError},
};

use compact_str::CompactString;
use foldhash::HashMap;
use tiktoken_rs::CoreBPE;

/// The most words that are remembered together, which are then forgotten: about 3 MB.
const KNOWN_WORDS: usize = 32_768;
/// Longer words are rare and do not come again.
const KNOWN_WORD_BYTES: usize = 48;

/// The counts of words seen before.
type Known = HashMap<CompactString, u32>;

/// A vocabulary, and the counts that nobody uses at the moment.
struct Vocabulary {
    tokenizer: fn() -> &'static CoreBPE,
    idle: Mutex<Vec<Known>>,
}

static O200K: Vocabulary =
    Vocabulary { tokenizer: tiktoken_rs::o200k_base_singleton, idle: Mutex::new(Vec::new()) };
static CL100K: Vocabulary =
    Vocabulary { tokenizer: tiktoken_rs::cl100k_base_singleton, idle: Mutex::new(Vec::new()) };

/// A tokenizer that this build does not have.
#[derive(Debug, Clone, thiserror::Error)]
#[error("tokenizer {0:?} is none of o200k_base, cl100k_base")]
pub struct UnknownTokenizer(String);

/// Counts tokens of one vocabulary.
pub struct Tokens {
    vocabulary: &'static Vocabulary,
    tokenizer: &'static CoreBPE,
    known: RefCell<Known>,
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
            "o200k_base" => &O200K,
            "cl100k_base" => &CL100K,
            other => return Err(UnknownTokenizer(other.chars().take(40).collect())),
        };
        let known = vocabulary.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Self {
            vocabulary,
            tokenizer: (vocabulary.tokenizer)(),
            known: RefCell::new(known.unwrap_or_default()),
            bytes_counted: Cell::new(0),
        })
    }

    /// The number of tokens of `text`. Callers pass pieces of bounded length: the tokenizer's
    /// regular expression backtracks in long runs of whitespace.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.bytes_counted.set(self.bytes_counted.get() + text.len() as u64);
        if text.chars().all(char::is_whitespace) {
            return self.tokenizer.count_ordinary(text);
        }
        words(text).map(|word| self.count_word(&text[word])).sum()
    }

    fn count_word(&self, word: &str) -> usize {
        if word.len() > KNOWN_WORD_BYTES {
            return self.tokenizer.count_ordinary(word);
        }
        let mut known = self.known.borrow_mut();
        if let Some(count) = known.get(word) {
            return *count as usize;
        }
        let count = self.tokenizer.count_ordinary(word);
        if known.len() >= KNOWN_WORDS {
            known.clear();
        }
        // A word of so few bytes has no more tokens than that.
        known.insert(word.into(), u32::try_from(count).unwrap_or(u32::MAX));
        count
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

impl Drop for Tokens {
    fn drop(&mut self) {
        self.vocabulary.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.known.take());
    }
}

/// The end of the first word of `text` at which it may be split without changing the count.
///
/// Both vocabularies first split a text into pieces, none of which reaches over the place after
/// the last line end in a run of whitespace, or before a run that has none. There is one exception:
/// o200k_base takes line ends and slashes behind punctuation into one piece.
fn first_seam(text: &str) -> usize {
    let mut end = 0;
    loop {
        end += text[end..].find(char::is_whitespace).unwrap_or(text.len() - end);
        let after = &text[end..];
        let space_end = after.find(|c: char| !c.is_whitespace()).unwrap_or(after.len());
        match after[..space_end].rfind(['\n', '\r']) {
            None => return end,
            Some(line_end) if joins(&text[..end], &after[line_end + 1..]) => end += space_end,
            Some(line_end) => return end + line_end + 1,
        }
    }
}

/// The start of the last word of `text` (which ends in a word) at which it may be split.
fn last_seam(text: &str) -> usize {
    let Some((space, c)) = text.char_indices().rev().find(|(_, c)| c.is_whitespace()) else { return 0 };
    let before = text[..space + c.len_utf8()].trim_end().len();
    let run = &text[before..space + c.len_utf8()];
    let seam = before + run.rfind(['\n', '\r']).map_or(0, |line_end| line_end + 1);
    if seam > before && joins(&text[..before], &text[seam..]) { last_seam(&text[..before]) } else { seam }
}

/// Whether o200k_base takes what stands before line ends and what follows them into one piece.
pub(super) fn joins(before: &str, after: &str) -> bool {
    after.starts_with('/') && before.chars().next_back().is_some_and(|c| !c.is_alphanumeric())
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
        fn counts_of_words_add_up(text in "([a-zA-Z.,;:!?()/\\-'é漢0-9👍\u{301}]{1,8}[ \n\r\t\u{a0}\u{3000}]{0,3}){0,40}") {
            for name in ["o200k_base", "cl100k_base"] {
                let tokens = Tokens::new(name).unwrap();
                let sum: usize = words(&text).map(|word| tokens.count(&text[word])).sum();
                let all = if text.trim().is_empty() { 0 } else { tokens.tokenizer.count_ordinary(&text) };
                prop_assert_eq!(sum, all, "{} {:?}", name, &text);
                prop_assert_eq!(tokens.count(&text), tokens.tokenizer.count_ordinary(&text));
            }
        }

        #[test]
        fn trimming_is_counted_by_the_edge_alone(text in "[ \n]{0,3}([a-zA-Z.,/}\\];]{1,8}[ \n]{1,2}){1,12}") {
            let tokens = Tokens::new("o200k_base").unwrap();
            let whole = tokens.tokenizer.count_ordinary(&text);
            let start = tokens.tokenizer.count_ordinary(text.trim_start());
            let end = tokens.tokenizer.count_ordinary(text.trim_end());
            prop_assert_eq!(tokens.without_leading_space(&text, whole), start);
            prop_assert_eq!(tokens.without_trailing_space(&text, whole), end);
        }
    }

    #[test]
    fn a_tokenizer_of_another_kind_is_refused() {
        assert!(Tokens::new("gpt9").is_err());
    }
}
