//! Vectors to rows, versions and readiness.
//!
//! The work itself is one transaction of `riacho-store`; the stage here fills it with the events of
//! many documents and turns its answers into outcomes.

mod config;
mod stage;

use std::sync::Arc;

use anyhow::Context as _;
use riacho_service::{CoreConfig, Resources};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use stage::Indexer;

/// Indexes until `stop`; returns when what was begun is finished.
///
/// # Errors
/// When the runner cannot go on.
pub async fn run(
    config: Config,
    core: &CoreConfig,
    resources: Resources,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let runner = resources.runner(core, config.concurrency, &stop).await?;
    let stage = Arc::new(Indexer::new(config, resources.store));
    runner.run_batch_stage(stage, stop).await.context("the indexer's runner")
}
