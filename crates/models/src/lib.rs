//! Embedding models: local ones and providers through rig, behind one trait.
//!
//! This crate knows texts and vectors. Which texts stand in a batch, what is cached and what a
//! failure means for a document is decided by its callers.

mod batch;
mod config;
mod error;
mod limiter;
pub mod local;
pub mod metrics;
mod prices;
pub mod provider;
mod set;
mod vector;

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;

pub use batch::{Call, Each, Reached, embed_each, embed_some, estimate_tokens};
pub use config::{Config, LocalConfig, Pooling, Provider};
pub use error::Error;
pub use limiter::{Series, SharedLimit};
pub use prices::Prices;
pub use set::Models;
pub use vector::{from_f16_le, to_f16_le};

/// What a text is, for models that embed the two differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text that is searched.
    Passage,
    /// A text that searches.
    Query,
}

impl Kind {
    /// The name, as it stands in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Passage => "passage",
            Kind::Query => "query",
        }
    }
}

/// The answer to one batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embeddings {
    /// One vector for each text, in the order of the texts, each of length 1.
    pub vectors: Vec<Vec<f32>>,
    /// The tokens that the model counted; 0 where a provider does not say.
    pub tokens: u64,
}

/// An embedding model. Share it as `Arc<dyn Model>`.
pub trait Model: Send + Sync + fmt::Debug {
    /// A name that differs whenever the vectors do, such as `wordllama-l2-supercat-256`. It stands
    /// in the rows of embedding spaces and in the keys of cached vectors.
    fn id(&self) -> &str;

    /// The number of values of a vector.
    fn dimensions(&self) -> usize;

    /// The most texts that one call takes.
    fn max_batch_items(&self) -> usize;

    /// The most tokens that one call takes, by [`estimate_tokens`] or any better count. It changes with what is known of a
    /// provider's limits.
    fn max_batch_tokens(&self) -> usize;

    /// Embeds one batch. Either all texts have a vector, or there is an error for all.
    ///
    /// Dropping the future abandons the request.
    fn embed(&self, texts: Vec<String>, kind: Kind) -> BoxFuture<'_, Result<Embeddings, Error>>;

    /// Embeds the next batch of a series, whose turns at a provider's limits are taken together.
    fn embed_next<'a>(
        &'a self,
        texts: Vec<String>,
        kind: Kind,
        series: &'a mut Series,
    ) -> BoxFuture<'a, Result<Embeddings, Error>> {
        let _ = series;
        self.embed(texts, kind)
    }

    /// Gives back the turns of a series that are not needed.
    fn end_series(&self, series: Series) -> BoxFuture<'_, ()> {
        let _ = series;
        Box::pin(async {})
    }

    /// Asks the model to embed known texts, and checks dimension and order of the answers.
    fn verify(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Shares the provider's limits with other replicas from now on. A model of this process has none.
    fn share_limits(&self, limits: Arc<dyn SharedLimit>) {
        drop(limits);
    }

    /// How long a request that came now would wait for the provider's limits; none where it would not.
    fn limited_for(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(async { None })
    }
}

/// Makes the model of the configuration. The local model's files are read and checked here, which
/// blocks for some 50 ms, or longer for a sentence transformer; a provider is not asked before [`Model::verify`].
///
/// # Errors
/// `Files` where the local model is missing or damaged, `Misconfigured` where the configuration
/// cannot work.
pub fn load(config: &Config) -> Result<Arc<dyn Model>, Error> {
    Prices::check(&config.prices)?;
    match config.provider {
        Provider::Local => local::load(config),
        _ => Ok(Arc::new(provider::RigProvider::new(config)?)),
    }
}
