//! The services of this process: connects what they need, runs them side by side, stops them together.

use anyhow::{Context, anyhow};
use riacho_service::{CoreConfig, Health, Metrics, Resources, ops};
use riacho_store::Role;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{cli::Worker, config::Config};

/// A service that this binary can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Gateway,
    Worker(Worker),
}

impl Service {
    const fn name(self) -> &'static str {
        match self {
            Service::Gateway => "ingest-gateway",
            Service::Worker(Worker::Extractor) => "extractor",
            Service::Worker(Worker::Embedder) => "embedder",
            Service::Worker(Worker::Indexer) => "indexer",
            Service::Worker(Worker::Janitor) => "janitor",
        }
    }

    const fn role(self) -> Role {
        match self {
            Service::Gateway => Role::Service,
            Service::Worker(Worker::Janitor) => Role::Janitor,
            Service::Worker(_) => Role::Stage,
        }
    }

    async fn run(self, config: Config, resources: Resources, stop: CancellationToken) -> anyhow::Result<()> {
        let core: CoreConfig = config.core();
        match self {
            Service::Gateway => riacho_ingest_gateway::run(config.gateway, &core, resources, stop).await,
            Service::Worker(Worker::Extractor) => {
                riacho_extractor::run(config.extractor, &core, resources, stop).await
            }
            Service::Worker(Worker::Embedder) => {
                riacho_embedder::run(config.embedder, &core, resources, stop).await
            }
            Service::Worker(Worker::Indexer) => {
                riacho_indexer::run(config.indexer, &core, resources, stop).await
            }
            Service::Worker(Worker::Janitor) => {
                riacho_janitor::run(config.janitor, &core, resources, stop).await
            }
        }
    }
}

/// Services with their connections, ready to run.
#[derive(Debug)]
pub(crate) struct Group {
    members: Vec<(Service, Resources)>,
}

impl Group {
    /// Connects what the services need, waiting for servers that are away. Services of one role share
    /// their connections; the connections belong to the runtime that this is called on.
    pub(crate) async fn connect(
        services: &[Service],
        config: &Config,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> anyhow::Result<Group> {
        let core = config.core();
        let mut members: Vec<(Service, Resources)> = Vec::new();
        for &service in services {
            let shared =
                members.iter().find(|(other, _)| other.role() == service.role()).map(|(_, r)| r.clone());
            let resources = match shared {
                Some(resources) => resources,
                None => Resources::connect(&core, service.role(), metrics.clone(), stop).await?,
            };
            members.push((service, resources));
        }
        Ok(Group { members })
    }

    /// The health of the first service's connections.
    pub(crate) fn health(&self) -> Option<&Health> {
        self.members.first().map(|(_, resources)| &resources.health)
    }

    /// Runs the services until `stop`; returns when all have drained. A service that ends earlier
    /// stops the others, since the process would only look alive.
    pub(crate) async fn run(self, config: &Config, stop: CancellationToken) -> anyhow::Result<()> {
        let mut running = JoinSet::new();
        for (service, resources) in self.members {
            let (config, stop) = (config.clone(), stop.clone());
            running.spawn(async move { (service.name(), service.run(config, resources, stop).await) });
        }
        let mut first_error = None;
        while let Some(joined) = running.join_next().await {
            let ended = match joined {
                Ok((_, Err(error))) if stop.is_cancelled() && is_stop(&error) => None,
                Ok((name, Err(error))) => Some(error.context(name)),
                Ok((name, Ok(()))) => (!stop.is_cancelled()).then(|| anyhow!("{name} ended by itself")),
                Err(error) => Some(anyhow!("a service panicked: {error}")),
            };
            if let Some(error) = ended {
                stop.cancel();
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// Whether a service ended because the stop came while it still waited for a server.
fn is_stop(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(riacho_service::Error::Stopped(_)))
}

/// Runs services as the whole of this process, with the operations endpoints beside them.
pub(crate) async fn run_process(services: &[Service], config: Config) -> anyhow::Result<()> {
    let metrics = {
        let names: Vec<&'static str> = services.iter().map(|service| service.name()).collect();
        riacho_service::telemetry::init(&config.log, &config.traces, &names)?
    };
    let stop = riacho_service::shutdown_signal().context("cannot listen to signals")?;
    let group = match Group::connect(services, &config, &metrics, &stop).await {
        Err(_) if stop.is_cancelled() => return Ok(()),
        connected => connected?,
    };
    let health = group.health().cloned().unwrap_or_default();
    // The gateway probes by itself, and serves the operations endpoints beside its own.
    let probing = (!services.contains(&Service::Gateway)).then(|| health.spawn(stop.clone()));
    let serving = config.http.ops_listen.clone().map(|address| {
        let endpoints = ops::Ops { health, metrics, metrics_token: config.http.metrics_token.clone() };
        let stop = stop.clone();
        tokio::spawn(async move {
            let result = ops::serve(&address, endpoints, stop.clone()).await;
            // Without its endpoints the process could not be watched.
            stop.cancel();
            result
        })
    });
    let names = services.iter().map(|service| service.name()).collect::<Vec<_>>().join(",");
    tracing::info!(services = names, version = env!("CARGO_PKG_VERSION"), "started");
    let result = group.run(&config, stop.clone()).await;
    stop.cancel();
    if let Some(probing) = probing {
        let _ = probing.await;
    }
    if let Some(serving) = serving {
        serving.await.context("operations endpoints")??;
    }
    tracing::info!(services = names, "stopped");
    result
}
