//! Chunks to vectors.
//!
//! The stage is in [`stage`](self), which texts reach the model in `texts`, what a model's failure means for an
//! event in `verdict`, and the pause while a model refuses everybody in `gate`. Models themselves live in `riacho-models`.

mod config;
mod gate;
pub mod metrics;
mod stage;
mod texts;
mod verdict;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use riacho_models::{Model, Prices};
use riacho_service::{CoreConfig, Resources, health::Need, spend::Ledger};
use riacho_store::{Space, Store};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use stage::Embedder;

/// The longest pause between two tries to reach the model at the start.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The pause between two tries to read the embedding spaces.
const SPACES_PAUSE: Duration = Duration::from_millis(500);

/// Embeds until `stop`; returns when what was begun is finished.
///
/// # Errors
/// When the model cannot be used, or makes vectors for none of the embedding spaces.
pub async fn run(
    config: Config,
    core: &CoreConfig,
    resources: Resources,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    metrics::describe();
    let models = patient(&core.models, &config);
    // Reading the local model's files blocks.
    let model = tokio::task::spawn_blocking(move || riacho_models::load(&models)).await??;
    resources.share_limits(&*model, &stop);
    if !verified(&*model, &stop).await? {
        return Ok(());
    }
    let Some(spaces) = spaces(&resources.store, &stop).await? else { return Ok(()) };
    check_space(&spaces, &*model)?;
    let runner = resources.runner(core, config.concurrency, &stop).await?;
    let ledger = Ledger::open(resources.store.clone(), Prices::new(&core.models.prices), Duration::ZERO);
    let stage = Embedder::new(config, model, resources.store.clone(), ledger.clone(), stop.clone());
    let stage = Arc::new(stage);
    let watched = Arc::clone(&stage);
    resources.health.add("model", Need::Optional, move || {
        let trouble = watched.trouble();
        Box::pin(async move { trouble.map_or(Ok(()), Err) })
    });
    let ended = runner.run_batch_stage(stage, stop).await.context("the embedder's runner");
    ledger.close().await;
    ended
}

/// The model's settings, so that no call waits for the provider's limits until its batch is over its time.
fn patient(models: &riacho_models::Config, config: &Config) -> riacho_models::Config {
    let longest = u64::try_from(config.time_limit().as_millis() / 4).unwrap_or(u64::MAX);
    riacho_models::Config { limit_wait_ms: models.limit_wait_ms.min(longest), ..models.clone() }
}

/// Asks the model to embed known texts until it answers; false when stopped before. Each answer is
/// also a check of dimensions and order.
async fn verified(model: &dyn Model, stop: &CancellationToken) -> anyhow::Result<bool> {
    let mut pause = Duration::from_millis(200);
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            answer = model.verify() => answer,
        };
        match answer {
            Ok(()) => return Ok(true),
            Err(error) if !error.is_retryable() => {
                return Err(error).with_context(|| format!("model {}", model.id()));
            }
            Err(error) => {
                tracing::warn!(model = model.id(), %error, "the model does not answer; waiting for it")
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// The embedding spaces, once PostgreSQL answers; none when stopped before.
async fn spaces(store: &Store, stop: &CancellationToken) -> anyhow::Result<Option<Vec<Space>>> {
    let mut is_told = false;
    loop {
        match store.spaces().await {
            Err(error) if error.is_retryable() => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "the embedding spaces cannot be read; waiting for them");
                }
            }
            spaces => return Ok(Some(spaces?)),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(SPACES_PAUSE) => {}
        }
    }
}

/// An embedder whose vectors fit into no space would fail all its work; better not to start.
fn check_space(spaces: &[Space], model: &dyn Model) -> anyhow::Result<()> {
    if spaces.is_empty() || spaces.iter().any(|space| stage::fits(space, model)) {
        return Ok(());
    }
    let known: Vec<_> =
        spaces.iter().map(|s| format!("{} with {} dimensions", s.model, s.dimensions)).collect();
    bail!(
        "the configured model {} has {} dimensions, but the embedding spaces are for {}",
        model.id(),
        model.dimensions(),
        known.join(", ")
    )
}
