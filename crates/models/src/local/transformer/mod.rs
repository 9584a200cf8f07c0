//! Sentence transformers of the family of BERT, from a directory as the Python package `sentence-transformers` writes
//! it: `config.json`, `tokenizer.json`, `model.safetensors`, and the files of its modules.
//!
//! The vectors are those of that package; `tests/transformer.rs` compares the two.

mod arithmetic;
mod encoder;
mod manifest;
mod parts;
mod shared;
mod tokens;
mod weights;

use std::{path::Path, sync::Arc, time::Instant};

use futures::{FutureExt, future::BoxFuture};

use super::{check_dimensions, threads, workers::Workers};
use crate::{Config, Embeddings, Error, Kind, Model, metrics, vector::cosine};
use manifest::Manifest;
use shared::Shared;

/// The most texts of one batch: more brings no speed.
const MAX_BATCH_ITEMS: usize = 4096;

/// The most tokens of one batch: some seconds on two cores. More brings no speed, and is lost with its process.
const MAX_BATCH_TOKENS: usize = 8192;

/// A sentence transformer.
#[derive(Debug)]
pub struct Transformer {
    shared: Arc<Shared>,
    workers: Workers,
    max_batch_items: usize,
    max_batch_tokens: usize,
}

impl Transformer {
    /// Reads and checks the model's files.
    ///
    /// # Errors
    /// `Files` where they are missing or are not what this model needs, `Misconfigured` where the configuration
    /// cannot work.
    pub(crate) fn load(directory: &Path, config: &Config) -> Result<Self, Error> {
        let manifest = Manifest::read(directory, config)?;
        check_dimensions(config, manifest.shape.width)?;
        let max_batch_items = match config.batch_items {
            0 => MAX_BATCH_ITEMS,
            told => told.min(MAX_BATCH_ITEMS),
        };
        Ok(Self {
            shared: Shared::of(&manifest)?,
            workers: Workers::start(threads(config))?,
            max_batch_items,
            max_batch_tokens: config.batch_tokens.min(MAX_BATCH_TOKENS),
        })
    }

    async fn compute(&self, texts: Vec<String>, kind: Kind) -> Result<Embeddings, Error> {
        let (shared, count) = (Arc::clone(&self.shared), texts.len());
        let cut = self.workers.run(kind, [move || shared.tokens.encode(&texts, kind)]).await?;
        let cut = cut.into_iter().next().unwrap_or_else(|| Ok(Vec::new()))?;
        let tokens = cut.iter().map(|ids| ids.len() as u64).sum();
        let jobs = parts::cut(cut, self.workers.threads()).into_iter().map(|part| {
            let shared = Arc::clone(&self.shared);
            move || shared.embed(part)
        });
        let mut vectors = vec![Vec::new(); count];
        for part in self.workers.run(kind, jobs).await? {
            for (index, vector) in part? {
                vectors[index] = vector;
            }
        }
        Ok(Embeddings { vectors, tokens })
    }

    async fn check(&self) -> Result<(), Error> {
        let texts = ["a stream of water", "uma nota fiscal"].map(str::to_owned).to_vec();
        let forward = self.compute(texts.clone(), Kind::Passage).await?.vectors;
        let backward = self.compute(texts.into_iter().rev().collect(), Kind::Passage).await?.vectors;
        let same = cosine(&forward[0], &backward[1]) > 0.999 && cosine(&forward[0], &forward[1]) < 0.999;
        if same {
            Ok(())
        } else {
            Err(Error::Protocol { reason: "the weights give wrong vectors".to_owned() })
        }
    }
}

impl Model for Transformer {
    fn id(&self) -> &str {
        &self.shared.id
    }

    fn dimensions(&self) -> usize {
        self.shared.encoder.dimensions()
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
