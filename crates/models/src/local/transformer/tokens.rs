//! From text to token ids, as the model's own tokenizer makes them.

use std::path::Path;

use tokenizers::{Tokenizer, TruncationParams};

use super::manifest::Manifest;
use crate::{Error, Kind};

/// The tokenizer with what stands before a text.
pub(crate) struct Tokens {
    tokenizer: Tokenizer,
    query_prefix: String,
    passage_prefix: String,
    lower_case: bool,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.tokenizer.get_vocab_size(true))
    }
}

impl Tokens {
    pub(crate) fn new(path: &Path, json: &[u8], manifest: &Manifest) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Files { path: path.to_owned(), reason };
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| damaged(error.to_string()))?;
        // The file often has settings of its own, which its makers' package does not heed.
        tokenizer.with_padding(None);
        let truncation = TruncationParams { max_length: manifest.max_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| damaged(error.to_string()))?;
        let greatest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if greatest >= manifest.shape.vocabulary {
            let reason =
                format!("its tokens go up to {greatest}, the model's to {}", manifest.shape.vocabulary);
            return Err(damaged(reason));
        }
        Ok(Self {
            tokenizer,
            query_prefix: manifest.query_prefix.clone(),
            passage_prefix: manifest.passage_prefix.clone(),
            lower_case: manifest.lower_case,
        })
    }

    /// The ids of each text's tokens, with those that the tokenizer adds; never more than the model takes.
    ///
    /// # Errors
    /// `Rejected` with the place of the first text that is no text to the tokenizer.
    pub(crate) fn encode(&self, texts: &[String], kind: Kind) -> Result<Vec<Vec<u32>>, Error> {
        let encode = |(index, text): (usize, &String)| {
            self.encode_one(text, kind).map_err(|error| refused(index, &error))
        };
        texts.iter().enumerate().map(encode).collect()
    }

    fn encode_one(&self, text: &str, kind: Kind) -> Result<Vec<u32>, tokenizers::Error> {
        let prefix = match kind {
            Kind::Passage => &self.passage_prefix,
            Kind::Query => &self.query_prefix,
        };
        let mut whole = format!("{prefix}{text}");
        if self.lower_case {
            whole = whole.to_lowercase();
        }
        Ok(self.tokenizer.encode_fast(whole, true)?.get_ids().to_vec())
    }
}

fn refused(index: usize, error: &tokenizers::Error) -> Error {
    Error::Rejected { item: Some(index), reason: format!("the text cannot be cut into tokens: {error}") }
}
