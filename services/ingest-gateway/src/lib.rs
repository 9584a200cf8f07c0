//! HTTP: documents, uploads, search, queue; and the intake of producers' events.
//!
//! The gateway owns what happens before a 202 and what is read afterwards. It writes a document's
//! row and puts its release onto the first stream; the rest is the pipeline's.

mod answers;
mod app;
mod config;
mod http;
mod intake;
pub mod metrics;
mod places;
mod rates;
mod release;
mod sampler;
mod server;
pub mod unpack;
mod watchers;

use std::time::Duration;

use anyhow::Context;
use riacho_models::{Models, Prices};
use riacho_service::{CoreConfig, Resources, ops::Ops, spend::Ledger};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{BulkConfig, ChunkingConfig, Config};
pub use http::{openapi, openapi_json};

/// The service, as it is named in traces.
const SERVICE: &str = "ingest-gateway";

use crate::{
    app::{App, Behind},
    http::Limits,
    release::Releaser,
};

/// How long opening connections ahead may hold up the start.
const WARM_LIMIT: Duration = Duration::from_secs(2);

/// What queries cost is written together: of so long a process that is killed loses it.
const SPEND_LINGER: Duration = Duration::from_secs(1);

/// Runs the gateway at `http.listen` until `stop`, and lets what is in hand finish.
///
/// # Errors
///
/// When the address cannot be listened on, or the embedding model cannot be loaded.
pub async fn run(
    config: Config,
    core: &CoreConfig,
    resources: Resources,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let models = Models::load(&core.models).context("the embedding models of the gateway")?;
    let listener = TcpListener::bind(&core.http.listen)
        .await
        .with_context(|| format!("cannot listen on {}", core.http.listen))?;
    serve(config, core, resources, models, listener, stop).await;
    Ok(())
}

/// The same on a listener and with models that are there already.
pub async fn serve(
    config: Config,
    core: &CoreConfig,
    resources: Resources,
    models: Models,
    listener: TcpListener,
    stop: CancellationToken,
) {
    riacho_service::metrics::describe(metrics::METRICS);
    models.all().for_each(|model| resources.share_limits(&**model, &stop));
    // Half of them: the other half is for what nobody foresaw.
    let warm = tokio::time::timeout(WARM_LIMIT, resources.store.warm(core.database.pool_size / 2));
    if let Some(Ok(Err(error))) = stop.run_until_cancelled(warm).await {
        tracing::debug!(%error, "connections are opened as they are needed");
    }
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "the gateway listens");
    }
    let operations = Ops {
        health: resources.health.clone(),
        metrics: resources.metrics.clone(),
        metrics_token: core.http.metrics_token.clone(),
    };
    let (releaser, releasing) = Releaser::new(resources.store.clone(), resources.streams.clone());
    let limits = Limits::new(&config);
    let ledger = Ledger::open(resources.store.clone(), Prices::new(&core.models.prices), SPEND_LINGER);
    let behind = Behind { ledger: ledger.clone(), releaser, stopping: stop.clone() };
    let app = App::new(config.clone(), core, resources, models, behind);
    let health = app.health().spawn(stop.clone());
    let forgetting = tokio::spawn(limits.clone().forget(stop.clone()));
    let releasing = tokio::spawn(releasing);
    let intake = config.intake.then(|| tokio::spawn(intake::run(app.clone(), stop.clone())));

    let sampling = config.history().map(|every| tokio::spawn(sampler::run(app.clone(), every, stop.clone())));

    let router = http::router(app, &limits, operations);
    server::serve(listener, router, &config, stop).await;

    if let Some(intake) = intake {
        ended("intake", intake.await);
    }
    if let Some(sampling) = sampling {
        ended("samples", sampling.await);
    }
    ended("health", health.await);
    ended("limits", forgetting.await);
    ledger.close().await;
    // The last handler is gone, and with it the last releaser: what it handed over is done first.
    match tokio::time::timeout(config.grace(), releasing).await {
        Ok(result) => ended("release", result),
        Err(_) => tracing::warn!("releases are left to the janitor"),
    }
}

fn ended(task: &str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        tracing::error!(task, %error, "a task of the gateway ended early");
    }
}
