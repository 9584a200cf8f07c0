//! Models behind an API, through rig.

mod answers;
mod backend;
mod seen;
mod transport;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use metrics::{counter, histogram};
use riacho_domain::Secret;
use rig_core::embeddings::EmbeddingResponse;

use crate::{
    Config, Embeddings, Error, Kind, Model, Provider, Series, SharedLimit,
    batch::estimate_tokens,
    limiter::Limiter,
    metrics::names,
    probe,
    vector::{cosine, normalise},
};
use backend::Backend;
use transport::Transport;

/// Texts that no model takes for each other, one of them once, one twice and one three times: an answer in any other
/// order has the same vector at other places.
const PROBE: [&str; 6] = {
    let [once, twice, thrice] = [
        "The invoice is due in thirty days.",
        "Glaciers carve deep valleys.",
        "She plays the violin at night, and nobody in the house has ever complained about it.",
    ];
    [twice, thrice, once, thrice, twice, thrice]
};

/// The vectors of one text are at least this near: a provider's arithmetic varies a little.
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
        let dimensions = config.dimensions.unwrap_or_else(|| backend.dimensions(config.provider, model));
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
            limiter: Limiter::new(config, model, key.expose()),
            max_batch_tokens: config.batch_tokens,
            backend,
            dimensions,
            max_batch_items,
            key,
        })
    }

    /// `is_urgent` where somebody waits for the answer.
    async fn request(
        &self,
        texts: Vec<String>,
        kind: Kind,
        is_urgent: bool,
        series: &mut Series,
    ) -> Result<Embeddings, Error> {
        if texts.is_empty() {
            return Ok(Embeddings { vectors: Vec::new(), tokens: 0 });
        }
        let count = texts.len();
        let guessed = texts.iter().map(|text| estimate_tokens(text)).sum();
        let permit = self.limiter.admit(guessed, is_urgent, series).await?;
        let start = Instant::now();
        let (answer, seen) = seen::seen_of(Box::pin(self.backend.embed(texts, kind))).await;
        let answer = match answer {
            Ok(answer) => read(answer, seen.tokens, count, self.dimensions),
            Err(error) => Err(answers::explain(&error, self.key.expose())),
        };
        let took = start.elapsed();
        let tokens = answer.as_ref().ok().map(|answer| answer.tokens).filter(|tokens| *tokens > 0);
        let pause = match &answer {
            Err(Error::RateLimited { retry_after }) => Some(*retry_after),
            _ => None,
        };
        self.limiter.settle(permit, tokens, seen.limit, pause).await;
        self.measure(&answer, count, kind, took);
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

    /// An answer without `index` can be in any order. One request shows every mix-up, since equal texts have equal vectors
    /// and no two of them are as many.
    async fn check(&self) -> Result<(), Error> {
        let texts = PROBE.map(str::to_owned).to_vec();
        let vectors = match self.request(texts, Kind::Passage, true, &mut Series::default()).await {
            Ok(answer) => answer.vectors,
            Err(Error::Rejected { reason, .. }) => {
                return Err(Error::Misconfigured { reason: format!("it refuses plain texts: {reason}") });
            }
            Err(error) => return Err(error),
        };
        let pairs = || (0..PROBE.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        let same = |(a, b): (usize, usize)| cosine(&vectors[a], &vectors[b]) >= SAME;
        let reason = if pairs().all(same) {
            "it gives different texts the same vector"
        } else if pairs().any(|pair| same(pair) != (PROBE[pair.0] == PROBE[pair.1])) {
            "its vectors do not follow the order of the texts"
        } else {
            return Ok(());
        };
        Err(Error::Protocol { reason: reason.to_owned() })
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
        self.limiter.tokens_a_request().map_or(self.max_batch_tokens, |most| most.min(self.max_batch_tokens))
    }

    fn embed(&self, texts: Vec<String>, kind: Kind) -> BoxFuture<'_, Result<Embeddings, Error>> {
        async move { self.request(texts, kind, kind == Kind::Query, &mut Series::default()).await }.boxed()
    }

    fn embed_next<'a>(
        &'a self,
        texts: Vec<String>,
        kind: Kind,
        series: &'a mut Series,
    ) -> BoxFuture<'a, Result<Embeddings, Error>> {
        self.request(texts, kind, kind == Kind::Query, series).boxed()
    }

    fn end_series(&self, mut series: Series) -> BoxFuture<'_, ()> {
        async move { self.limiter.end(&mut series).await }.boxed()
    }

    fn verify(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.check().boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<f32>, Error>> {
        async {
            let made = self.request(probe::texts(), Kind::Passage, true, &mut Series::default()).await;
            probe::joined(made?)
        }
        .boxed()
    }

    fn share_limits(&self, limits: Arc<dyn SharedLimit>) {
        self.limiter.share(limits);
    }

    fn limited_for(&self) -> BoxFuture<'_, Option<Duration>> {
        self.limiter.wait().boxed()
    }
}

/// The key to send. A server of one's own often needs none.
fn key(config: &Config) -> Result<Secret, Error> {
    let told = config.api_key.as_ref().map(|key| key.expose().trim()).filter(|key| !key.is_empty());
    match (told, config.provider) {
        (Some(key), _) => Ok(Secret::from(key)),
        (None, Provider::Ollama) => Ok(Secret::from("")),
        (None, provider) if config.base_url.is_some() && provider != Provider::Azure => {
            Ok(Secret::from("none"))
        }
        (None, provider) => {
            Err(Error::Misconfigured { reason: format!("no key for provider {}", provider.as_str()) })
        }
    }
}

/// Checks count and dimension, and makes the vectors ours: 32 bits, length 1. `tokens` are for a provider whose tokens rig
/// does not read.
fn read(
    answer: EmbeddingResponse,
    tokens: Option<u64>,
    count: usize,
    dimensions: usize,
) -> Result<Embeddings, Error> {
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
    let counted = answer.usage.total_tokens;
    Ok(Embeddings { vectors, tokens: if counted > 0 { counted } else { tokens.unwrap_or_default() } })
}
