//! Chunks to vectors.
//!
//! The stage is in [`stage`](self), a model at work in `engine`, which texts reach the model in `texts`, what a model's
//! failure means for an event in `verdict`, and the pause while a model refuses everybody in `gate`. Models themselves
//! live in `riacho-models`.

mod config;
mod engine;
mod gate;
pub mod metrics;
mod stage;
mod texts;
mod verdict;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use riacho_models::{Model, Models, Prices};
use riacho_service::{CoreConfig, Resources, health::Need, spend::Ledger};
use riacho_store::{Space, SpaceState, Store};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use stage::Embedder;

/// The pause between two tries to read the embedding spaces.
const SPACES_PAUSE: Duration = Duration::from_millis(500);

/// Embeds until `stop`; returns when what was begun is finished.
///
/// # Errors
/// When a model cannot be used, or none makes vectors for an embedding space.
pub async fn run(
    config: Config,
    core: &CoreConfig,
    resources: Resources,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    riacho_service::metrics::describe(metrics::METRICS);
    let section = patient(&core.models, &config);
    // Reading a local model's files blocks.
    let models = tokio::task::spawn_blocking(move || Models::load(&section)).await??;
    models.all().for_each(|model| resources.share_limits_of_stage(&**model, &stop));
    let Some(spaces) = spaces(&resources.store, &stop).await? else { return Ok(()) };
    let needed = needed(&spaces, &models)?;
    let ledger = Ledger::open(resources.store.clone(), Prices::new(&core.models.prices), Duration::ZERO);
    let stage = Embedder::new(config, &models, resources.store.clone(), ledger.clone(), stop.clone());
    let stage = Arc::new(stage);
    if !stage.wait_for(&*needed, &stop).await.with_context(|| format!("model {}", needed.id()))? {
        return Ok(());
    }
    if let Some(live) = spaces.iter().find(|space| space.state == SpaceState::Live && space.model == needed.id())
        // What waiting mends is seen at the first batch.
        && let Err(error) = stage.check(&*needed, live.id).await
        && !error.is_retryable()
    {
        return Err(error).context("the live embedding space");
    }
    let runner = resources.runner(core, stage.concurrency(), &stop).await?;
    let watched = Arc::clone(&stage);
    resources.health.add("model", Need::Optional, move || {
        let trouble = watched.trouble();
        Box::pin(async move { trouble.map_or(Ok(()), Err) })
    });
    let ended = runner.run_batch_stage(stage, stop).await.context("the embedder's runner");
    ledger.close().await;
    ended
}

/// The models' settings, so that no call waits for a provider's limits until its batch is over its time.
fn patient(models: &riacho_models::Config, config: &Config) -> riacho_models::Config {
    let longest = u64::try_from(config.time_limit().as_millis() / 4).unwrap_or(u64::MAX);
    models.waiting_at_most(longest)
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

/// The model that this process waits for at its start: that of the live space, else one of another space that
/// is in use. An embedder whose vectors fit into no space would fail all its work; better not to start.
fn needed(spaces: &[Space], models: &Models) -> anyhow::Result<Arc<dyn Model>> {
    let used = || spaces.iter().filter(|space| space.state != SpaceState::Retired);
    let live = used().filter(|space| space.state == SpaceState::Live);
    if let Some(live) = live.clone().find(|space| models.of(&space.model, space.dimensions).is_none()) {
        let (space, model) = (live.id, &live.model);
        tracing::warn!(
            space,
            model,
            "the live space's model is not configured here: its documents wait for it"
        );
    }
    let known = live.chain(used()).find_map(|space| models.of(&space.model, space.dimensions));
    if let Some(model) = known.or_else(|| used().next().is_none().then(|| models.first())) {
        return Ok(Arc::clone(model));
    }
    let named = |model: &str, dimensions: usize| format!("{model} with {dimensions} dimensions");
    let configured: Vec<_> = models.all().map(|model| named(model.id(), model.dimensions())).collect();
    let spaces: Vec<_> = used().map(|space| named(&space.model, space.dimensions as usize)).collect();
    bail!(
        "the configured models are {}, but the embedding spaces are for {}",
        configured.join(", "),
        spaces.join(", ")
    )
}
