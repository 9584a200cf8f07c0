//! Models behind an API, through rig.

mod answers;
mod backend;
mod transport;

use std::{
    fmt,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use metrics::{counter, histogram};
use riacho_domain::Secret;
use rig_core::embeddings::EmbeddingResponse;

use crate::{
    Config, Embeddings, Error, Kind, Model, Provider,
    batch::estimate_tokens,
    limiter::Limiter,
    metrics::names,
    vector::{cosine, normalise},
};
use backend::Backend;
use transport::Transport;

/// Texts that no model takes for each other.
const PROBE: [&str; 3] =
    ["The invoice is due in thirty days.", "Glaciers carve deep valleys.", "She plays the violin at night."];

/// The vectors of one text in two answers are at least this near: a provider's arithmetic varies a little.
const SAME: f32 = 0.99;

/// A model of a provider.
pub struct RigProvider {
    id: String,
    provider: Provider,
    backend: Backend,
    dimensions: usize,
    max_batch_items: usize,
    max_batch_tokens: usize,
    limiter: Limiter,
    /// Held to be taken out of messages.
    key: Secret,
}

impl fmt::Debug for RigProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RigProvider({})", self.id)
    }
}

impl RigProvider {
    /// Makes the client. Nothing is sent before the first request.
    ///
    /// # Errors
    /// `Misconfigured`.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let key = key(config)?;
        let model = match config.model.as_str() {
            "" => backend::usual_model(config.provider),
            told => told,
        };
        let timeouts = [config.timeout_ms, config.connect_timeout_ms].map(Duration::from_millis);
        let transport = Transport::new(timeouts[0], timeouts[1])
            .map_err(|reason| Error::Misconfigured { reason: format!("no HTTP client: {reason}") })?;
        let backend = Backend::new(config, model, key.expose(), transport)?;
        let dimensions = config.dimensions.unwrap_or_else(|| backend.dimensions());
        if dimensions == 0 {
            let reason = format!("the dimensions of model {model:?} are not known: set models.dimensions");
            return Err(Error::Misconfigured { reason });
        }
        let max_batch_items = match config.batch_items {
            0 => backend.max_items(),
            told => told.min(backend.max_items()),
        };
        Ok(Self {
            id: format!("{}/{model}@{dimensions}", config.provider.as_str()),
            provider: config.provider,
            limiter: Limiter::new(config),
            max_batch_tokens: config.batch_tokens,
            backend,
            dimensions,
            max_batch_items,
            key,
        })
    }

    async fn request(&self, texts: Vec<String>, kind: Kind) -> Result<Embeddings, Error> {
        if texts.is_empty() {
            return Ok(Embeddings { vectors: Vec::new(), tokens: 0 });
        }
        let count = texts.len();
        self.limiter.admit(texts.iter().map(|text| estimate_tokens(text)).sum()).await?;
        let start = Instant::now();
        let answer = match Box::pin(self.backend.embed(texts, kind)).await {
            Ok(answer) => read(answer, count, self.dimensions),
            Err(error) => Err(answers::explain(&error, self.key.expose())),
        };
        if let Err(Error::RateLimited { retry_after }) = &answer {
            self.limiter.pause(*retry_after);
        }
        self.measure(&answer, count, kind, start.elapsed());
        answer
    }

    fn measure(&self, answer: &Result<Embeddings, Error>, count: usize, kind: Kind, took: Duration) {
        let (provider, kind) = (self.provider.as_str(), kind.as_str());
        let outcome = answer.as_ref().map_or_else(Error::label, |_| "ok");
        histogram!(names::REQUEST_SECONDS, "provider" => provider, "outcome" => outcome)
            .record(took.as_secs_f64());
        if let Ok(embeddings) = answer {
            counter!(names::TEXTS, "provider" => provider, "kind" => kind).increment(count as u64);
            counter!(names::TOKENS, "provider" => provider, "kind" => kind).increment(embeddings.tokens);
        }
    }

    /// An answer without `index` can be in any order. A text alone, known texts, and the same texts
    /// turned by one: every fixed mix-up of the order shows.
    async fn check(&self) -> Result<(), Error> {
        let texts = PROBE.map(str::to_owned);
        let turned = [1, 2, 0].map(|place| texts[place].clone());
        let alone = self.probe(vec![texts[0].clone()]).await?;
        let straight = self.probe(texts.to_vec()).await?;
        let turned = self.probe(turned.to_vec()).await?;
        let same = |a: &[f32], b: &[f32]| cosine(a, b) >= SAME;
        let reason = if same(&straight[0], &straight[1]) {
            "it gives different texts the same vector"
        } else if !same(&alone[0], &straight[0])
            || (0..PROBE.len()).any(|place| !same(&straight[(place + 1) % PROBE.len()], &turned[place]))
        {
            "its vectors do not follow the order of the texts"
        } else {
            return Ok(());
        };
        Err(Error::Protocol { reason: reason.to_owned() })
    }

    async fn probe(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Error> {
        match self.request(texts, Kind::Passage).await {
            Ok(answer) => Ok(answer.vectors),
            Err(Error::Rejected { reason, .. }) => {
                Err(Error::Misconfigured { reason: format!("it refuses plain texts: {reason}") })
            }
            Err(error) => Err(error),
        }
    }
}

impl Model for RigProvider {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn max_batch_items(&self) -> usize {
        self.max_batch_items
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn embed(&self, texts: Vec<String>, kind: Kind) -> BoxFuture<'_, Result<Embeddings, Error>> {
        self.request(texts, kind).boxed()
    }

    fn verify(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.check().boxed()
    }
}

/// The key to send. A server of one's own often needs none.
fn key(config: &Config) -> Result<Secret, Error> {
    let told = config.api_key.as_ref().map(|key| key.expose().trim()).filter(|key| !key.is_empty());
    match (told, config.provider) {
        (Some(key), _) => Ok(Secret::from(key)),
        (None, Provider::Ollama) => Ok(Secret::from("")),
        (None, _) if config.base_url.is_some() => Ok(Secret::from("none")),
        (None, provider) => {
            Err(Error::Misconfigured { reason: format!("no key for provider {}", provider.as_str()) })
        }
    }
}

/// Checks count and dimension, and makes the vectors ours: 32 bits, length 1.
fn read(answer: EmbeddingResponse, count: usize, dimensions: usize) -> Result<Embeddings, Error> {
    let wrong = |reason: String| Err(Error::Protocol { reason });
    if answer.embeddings.len() != count {
        return wrong(format!("{} vectors for {count} texts", answer.embeddings.len()));
    }
    let mut vectors = Vec::with_capacity(count);
    for embedding in answer.embeddings {
        if embedding.vec.len() != dimensions {
            return wrong(format!("{} dimensions instead of {dimensions}", embedding.vec.len()));
        }
        let mut vector: Vec<f32> = embedding.vec.into_iter().map(|value| value as f32).collect();
        if !normalise(&mut vector) {
            return wrong("a vector without direction".to_owned());
        }
        vectors.push(vector);
    }
    Ok(Embeddings { vectors, tokens: answer.usage.total_tokens })
}
