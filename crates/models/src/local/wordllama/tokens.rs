//! From text to token ids, as the model's tokenizer makes them, with a cache of words.
//!
//! The tokenizer of Llama 2 writes each space as `▁` (and one more in front) and merges pairs in
//! the whole text at once. No token of its vocabulary has a `▁` behind another character, and none
//! has a line break beside another character, so no merge crosses from one word or line into the
//! next, and each word can be encoded by itself. Texts repeat their words, so the cache pays.

use std::path::Path;

use compact_str::CompactString;
use foldhash::HashMap;
use tokenizers::{Model as _, Tokenizer};

use crate::Error;

/// How the tokenizer writes a space.
const SPACE: char = '\u{2581}';

/// The most words in a cache, which is then emptied: about 4 MB.
const CACHED_WORDS: usize = 32_768;

/// Longer words are rare and do not come again.
const CACHED_WORD_BYTES: usize = 48;

/// What the tokenizer does with these words, and nothing else, is not cut at spaces.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// The model's tokenizer.
pub(crate) struct Tokens {
    tokenizer: Tokenizer,
    /// The greatest id; a greater one is read as this.
    last: u32,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.tokenizer.get_vocab_size(true))
    }
}

/// The token ids of words seen before. Each belongs to one thread at a time.
#[derive(Debug, Default)]
pub(crate) struct WordCache {
    words: HashMap<CompactString, (u32, u32)>,
    ids: Vec<u32>,
}

impl Tokens {
    pub(crate) fn load(path: &Path, vocabulary: usize) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Files { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| damaged(error.to_string()))?;
        let mut tokenizer = Tokenizer::from_bytes(&text).map_err(|error| damaged(error.to_string()))?;
        check_shape(&text, &tokenizer).map_err(|reason| damaged(reason.to_owned()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| damaged(error.to_string()))?;
        let last = u32::try_from(vocabulary.saturating_sub(1)).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { tokenizer, last })
    }

    /// Appends the ids of the text's tokens, at most `limit` of them.
    pub(crate) fn encode(
        &self,
        text: &str,
        limit: usize,
        cache: &mut WordCache,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if text.contains('<') && SPECIAL.iter().any(|special| text.contains(special)) {
            let encoding = self.tokenizer.encode_fast(text, false).map_err(refused)?;
            ids.extend(encoding.get_ids().iter().take(limit).map(|id| (*id).min(self.last)));
            return Ok(());
        }
        let mut rest = text;
        let mut first = true;
        while !rest.is_empty() && ids.len() < limit {
            let (word, after) = split_word(rest, first);
            self.encode_word(word, cache, ids)?;
            (rest, first) = (after, false);
        }
        ids.truncate(limit);
        Ok(())
    }

    /// Encodes a word of [`split_word`].
    fn encode_word(&self, word: &str, cache: &mut WordCache, ids: &mut Vec<u32>) -> Result<(), Error> {
        if let Some((start, end)) = cache.words.get(word) {
            ids.extend_from_slice(&cache.ids[*start as usize..*end as usize]);
            return Ok(());
        }
        let mut written = String::with_capacity(word.len() + SPACE.len_utf8());
        if !word.starts_with('\n') {
            written.push(SPACE);
        }
        written.extend(word.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let tokens = self.tokenizer.get_model().tokenize(&written).map_err(refused)?;
        let from = ids.len();
        ids.extend(tokens.iter().map(|token| token.id.min(self.last)));
        cache.remember(word, &ids[from..]);
        Ok(())
    }
}

impl WordCache {
    fn remember(&mut self, word: &str, ids: &[u32]) {
        if word.len() > CACHED_WORD_BYTES {
            return;
        }
        if self.words.len() >= CACHED_WORDS {
            self.words.clear();
            self.ids.clear();
        }
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        // Words and their ids are bounded above, so positions fit.
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(self.ids.len())) {
            self.words.insert(word.into(), (start, end));
        }
    }
}

/// The first word of the text, and what follows.
///
/// A word is a run of spaces and the run of other characters behind it, without the first space; the
/// text's first word has one more space, unwritten. What stands behind a line break is a word too:
/// it begins with the break and has no space.
fn split_word(text: &str, first: bool) -> (&str, &str) {
    let start = text.chars().next().unwrap_or(' ');
    if start == '\n' && !first {
        return text.split_at(end_of_letters(text, 1));
    }
    let body = if first { text } else { &text[start.len_utf8()..] };
    let mut letters = 0;
    while let Some(length) = space_at(body, letters) {
        letters += length;
    }
    body.split_at(end_of_letters(body, letters))
}

/// Where the run of characters that are neither spaces nor line breaks ends that begins at `at`. Looks at
/// bytes: none inside a character is like the first of what ends the run.
fn end_of_letters(text: &str, mut at: usize) -> usize {
    while at < text.len() && text.as_bytes()[at] != b'\n' && space_at(text, at).is_none() {
        at += 1;
    }
    at
}

/// The length of the space that begins at this byte, if one does.
fn space_at(text: &str, at: usize) -> Option<usize> {
    const WRITTEN: [u8; 3] = [0xe2, 0x96, 0x81];
    let rest = &text.as_bytes()[at..];
    match rest.first()? {
        b' ' => Some(1),
        0xe2 if rest.starts_with(&WRITTEN) => Some(WRITTEN.len()),
        _ => None,
    }
}

fn refused(error: tokenizers::Error) -> Error {
    Error::Rejected { item: None, reason: format!("the text cannot be cut into tokens: {error}") }
}

/// Checks what [`Tokens::encode`] takes for granted.
fn check_shape(json: &str, tokenizer: &Tokenizer) -> Result<(), &'static str> {
    let shape: serde_json::Value = serde_json::from_str(json).map_err(|_| "the file is not JSON")?;
    let normalizers = serde_json::json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": SPACE },
        { "type": "Replace", "pattern": { "String": " " }, "content": SPACE },
    ]});
    if shape["normalizer"] != normalizers || !shape["pre_tokenizer"].is_null() {
        return Err("the tokenizer treats spaces in an unknown way");
    }
    let added = shape["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    if !added.iter().all(|token| SPECIAL.iter().any(|special| token["content"] == *special)) {
        return Err("the tokenizer has unknown special tokens");
    }
    let vocabulary = tokenizer.get_vocab(false);
    let crosses = |token: &String| token.trim_start_matches(SPACE).contains(SPACE) || token.contains('\n');
    if vocabulary.keys().any(crosses) {
        return Err("the tokenizer has tokens that cross words");
    }
    let has_byte = |byte: u8| vocabulary.contains_key(&format!("<0x{byte:02X}>"));
    if !(0..=u8::MAX).all(has_byte) {
        return Err("the tokenizer has no tokens for bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let (mut rest, mut found) = (text, Vec::new());
        while !rest.is_empty() {
            let (word, after) = split_word(rest, found.is_empty());
            found.push(word);
            rest = after;
        }
        found
    }

    #[test]
    fn words_begin_at_spaces_and_own_one_of_them() {
        assert_eq!(words("one two"), ["one", "two"]);
        assert_eq!(words(" one  two "), [" one", " two", ""]);
        assert_eq!(words("one\ntwo"), ["one", "\ntwo"]);
        assert_eq!(words("\n\na b \nc"), ["", "\n", "\na", "b", "", "\nc"]);
        assert_eq!(words("a\u{2581}b"), ["a", "b"]);
        assert_eq!(words("ação — ‘é’\n水\u{2581} 位"), ["ação", "—", "‘é’", "\n水", " 位"]);
        assert!(words("").is_empty());
    }
}
