//! The local static model WordLlama: the mean of the vectors of a text's tokens.
//!
//! The arithmetic is that of the Python package `wordllama`; `tests/golden.rs` compares the two.

mod tokens;
mod weights;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::{FutureExt, future::BoxFuture};

use super::{check_dimensions, threads, workers::Workers};
use crate::{
    Config, Embeddings, Error, Kind, Model, metrics,
    vector::{cosine, normalise},
};
use tokens::{Tokens, WordCache};
use weights::Weights;

/// A batch of fewer bytes is computed where it is asked for: that takes microseconds, fewer than a
/// hand-over to another thread.
const INLINE_BYTES: usize = 4096;

/// The most texts of one batch: more brings no speed, and a batch holds a thread until its end.
const MAX_BATCH_ITEMS: usize = 4096;

/// The local static model.
#[derive(Debug)]
pub struct WordLlama {
    shared: Arc<Shared>,
    id: String,
    workers: Workers,
    max_batch_items: usize,
    max_batch_tokens: usize,
}

/// What the threads of a batch share.
#[derive(Debug)]
struct Shared {
    tokens: Tokens,
    weights: Weights,
    max_text_tokens: usize,
    /// Caches of words that no thread uses at the moment.
    caches: Mutex<Vec<WordCache>>,
}

impl WordLlama {
    /// Reads and checks the model's files.
    ///
    /// # Errors
    /// `Files` where they are missing or are not what this model needs, `Misconfigured` where the configuration asks
    /// for what only a sentence transformer has.
    pub(crate) fn load(directory: &Path, config: &Config) -> Result<Self, Error> {
        let local = &config.local;
        if local.query_prefix.is_some() || local.passage_prefix.is_some() || local.pooling.is_some() {
            let reason = "the static model has neither prefixes nor pooling".to_owned();
            return Err(Error::Misconfigured { reason });
        }
        let weights = Weights::load(&directory.join("model.safetensors"))?;
        let tokens = Tokens::load(&directory.join("tokenizer.json"), weights.vocabulary())?;
        check_dimensions(config, weights.dimensions())?;
        let max_batch_items = match config.batch_items {
            0 => MAX_BATCH_ITEMS,
            told => told.min(MAX_BATCH_ITEMS),
        };
        Ok(Self {
            id: format!("wordllama-l2-supercat-{}", weights.dimensions()),
            workers: Workers::start(threads(config))?,
            max_batch_items,
            max_batch_tokens: config.batch_tokens,
            shared: Arc::new(Shared {
                tokens,
                weights,
                max_text_tokens: config.local.max_text_tokens,
                caches: Mutex::default(),
            }),
        })
    }

    async fn compute(&self, texts: Vec<String>, kind: Kind) -> Result<Embeddings, Error> {
        let bytes: usize = texts.iter().map(String::len).sum();
        if bytes < INLINE_BYTES {
            return self.shared.embed_part(&texts, 0);
        }
        let mut first = 0;
        let jobs = split_evenly(texts, bytes, self.workers.threads()).into_iter().map(|part| {
            let (shared, offset) = (Arc::clone(&self.shared), first);
            first += part.len();
            move || shared.embed_part(&part, offset)
        });
        let mut all = Embeddings::default();
        for part in self.workers.run(kind, jobs).await? {
            let part = part?;
            all.vectors.extend(part.vectors);
            all.tokens += part.tokens;
        }
        Ok(all)
    }

    async fn check(&self) -> Result<(), Error> {
        let texts = ["a stream of water", "uma nota fiscal"].map(str::to_owned).to_vec();
        let forward = self.compute(texts.clone(), Kind::Passage).await?.vectors;
        let backward = self.compute(texts.into_iter().rev().collect(), Kind::Passage).await?.vectors;
        let same = cosine(&forward[0], &backward[1]) > 0.999 && cosine(&forward[0], &forward[1]) < 0.9;
        if same {
            Ok(())
        } else {
            Err(Error::Protocol { reason: "the weights give wrong vectors".to_owned() })
        }
    }
}

impl Model for WordLlama {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimensions(&self) -> usize {
        self.shared.weights.dimensions()
    }

    fn max_batch_items(&self) -> usize {
        self.max_batch_items
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn embed(&self, texts: Vec<String>, kind: Kind) -> BoxFuture<'_, Result<Embeddings, Error>> {
        async move {
            let (start, count) = (Instant::now(), texts.len());
            let answer = self.compute(texts, kind).await;
            metrics::count("local", kind, count, start.elapsed(), &answer);
            answer
        }
        .boxed()
    }

    fn verify(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.check().boxed()
    }
}

impl Shared {
    /// Embeds texts one after the other. `first` is the index of the first one in its batch.
    fn embed_part(&self, texts: &[String], first: usize) -> Result<Embeddings, Error> {
        let mut cache = self.take_cache();
        let mut ids = Vec::new();
        let mut all = Embeddings { vectors: Vec::with_capacity(texts.len()), tokens: 0 };
        for (index, text) in texts.iter().enumerate() {
            ids.clear();
            self.tokens.encode(text, self.max_text_tokens, &mut cache, &mut ids)?;
            all.tokens += ids.len() as u64;
            let mut vector = self.weights.mean(&ids);
            if !normalise(&mut vector) {
                let reason = "the text has no tokens".to_owned();
                return Err(Error::Rejected { item: Some(first + index), reason });
            }
            all.vectors.push(vector);
        }
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
        Ok(all)
    }

    fn take_cache(&self) -> WordCache {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }
}

/// Cuts texts into at most `parts` runs of neighbours with about equally many bytes.
fn split_evenly(texts: Vec<String>, bytes: usize, parts: usize) -> Vec<Vec<String>> {
    let share = bytes.div_ceil(parts.max(1)).max(1);
    let mut cut: Vec<Vec<String>> = Vec::with_capacity(parts);
    let mut filled = share;
    for text in texts {
        if filled >= share {
            cut.push(Vec::new());
            filled = 0;
        }
        filled += text.len();
        if let Some(last) = cut.last_mut() {
            last.push(text);
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_even_and_keep_the_order() {
        let texts: Vec<String> = (0..50).map(|n| format!("{n}{}", " word".repeat(n % 7))).collect();
        let bytes = texts.iter().map(String::len).sum();
        for parts in 1..6 {
            let cut = split_evenly(texts.clone(), bytes, parts);
            assert!(cut.len() <= parts, "{} of {parts}", cut.len());
            assert_eq!(cut.concat(), texts);
        }
    }
}
