//! Cuts a text into chunks: by tokens, at headings, paragraphs and sentences.
//!
//! A chunk is a slice of the text, byte for byte; whitespace between chunks belongs to none, every
//! other character to at least one. What stands above it, headings and the header row of a table that it goes on with, is
//! its context and no part of it. Each sentence is tokenized once and the counts are added up,
//! so cutting costs about as much as tokenizing. The work is linear in the text whatever it holds.

mod blocks;
mod cutter;
#[cfg(test)]
mod edits;
mod seams;
mod sentences;
mod tables;
#[cfg(test)]
mod tests;
mod tokens;

use std::ops::Range;

use riacho_proto::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::extracted::Extracted;

pub use cutter::Cutter;
pub use tokens::{Tokens, UnknownTokenizer};

/// How to cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The most tokens of a chunk, 16 to 8192.
    pub max_tokens: u32,
    /// Tokens that a chunk repeats of the one before it, at most half of `max_tokens`. Whole
    /// sentences only, so it may be less.
    pub overlap_tokens: u32,
    /// The vocabulary that tokens are counted with: `o200k_base` or `cl100k_base`.
    pub tokenizer: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_tokens: 384, overlap_tokens: 0, tokenizer: "o200k_base".to_owned() }
    }
}

impl Settings {
    /// The settings of an event; what it leaves out or sets out of range gets the nearest value.
    #[must_use]
    pub fn from_proto(settings: Option<&v1::ChunkSettings>) -> Self {
        let default = Self::default();
        let Some(settings) = settings else { return default };
        let pick = |value: u32, default: u32| if value == 0 { default } else { value };
        let max_tokens = pick(settings.max_tokens, default.max_tokens).clamp(16, 8192);
        Self {
            max_tokens,
            overlap_tokens: settings.overlap_tokens.min(max_tokens / 2),
            tokenizer: if settings.tokenizer.is_empty() {
                default.tokenizer
            } else {
                settings.tokenizer.clone()
            },
        }
    }

    /// The settings as they stand in an event.
    #[must_use]
    pub fn to_proto(&self) -> v1::ChunkSettings {
        v1::ChunkSettings {
            max_tokens: self.max_tokens,
            overlap_tokens: self.overlap_tokens,
            tokenizer: self.tokenizer.clone(),
        }
    }
}

/// A chunk: where it stands in the text, and under what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its place in the document, from 0.
    pub ordinal: u32,
    /// Its bytes of the text.
    pub bytes: Range<usize>,
    /// Its Unicode code points of the text.
    pub chars: Range<usize>,
    /// Its first and last page, from 1; zeros where the format has no pages.
    pub pages: (u32, u32),
    /// The headings above it, outermost first; one that it begins with included.
    pub heading_path: Vec<String>,
    /// Where it begins below the header row of a table: the bytes of that row in the text, or of its first cells where it
    /// is long.
    pub table_header: Option<Range<usize>>,
    /// Its length in tokens.
    pub token_count: u32,
    /// The hash of what is embedded of it.
    pub content_hash: [u8; 32],
}

impl Chunk {
    /// The chunk as it stands in an event; `text` is the text it was cut from.
    #[must_use]
    pub fn to_proto(&self, text: &str) -> v1::Chunk {
        let slice = |bytes: &Range<usize>| text.get(bytes.clone()).unwrap_or_default().to_owned();
        v1::Chunk {
            ordinal: self.ordinal,
            text: slice(&self.bytes),
            byte_start: self.bytes.start as u64,
            byte_end: self.bytes.end as u64,
            char_start: self.chars.start as u64,
            char_end: self.chars.end as u64,
            page_first: self.pages.0,
            page_last: self.pages.1,
            heading_path: self.heading_path.clone(),
            table_header: self.table_header.as_ref().map(slice).unwrap_or_default(),
            token_count: self.token_count,
            content_hash: self.content_hash.to_vec().into(),
        }
    }
}

/// Cuts the whole text. `title` is a part of what is embedded, so it takes part in the hashes.
///
/// # Errors
///
/// When no such tokenizer is known.
pub fn cut(extracted: &Extracted, title: &str, settings: &Settings) -> Result<Vec<Chunk>, UnknownTokenizer> {
    let tokens = Tokens::new(&settings.tokenizer)?;
    Ok(Cutter::new(extracted, title, settings, &tokens).collect())
}
