//! The stages and the janitor of a deployment, in this process: a small extractor, the real embedder and indexer.

use std::sync::Arc;

use anyhow::Result;
use riacho_embedder::Config as EmbedderConfig;
use riacho_service::CoreConfig;
use riacho_stage::Runner;
use riacho_store::Role;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Deployment, LineExtractor};

/// What runs in a [`Pipeline`].
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many chunks an event carries; each line of a text is one.
    pub lines_per_batch: usize,
    /// How many embedders run, as in so many processes.
    pub embedders: usize,
    /// The settings of each.
    pub embedder: EmbedderConfig,
    /// Whether the janitor runs too.
    pub has_janitor: bool,
}

impl Default for Shape {
    fn default() -> Self {
        let embedder = EmbedderConfig { pause_ms: 20, ..EmbedderConfig::default() };
        Self { lines_per_batch: 8, embedders: 1, embedder, has_janitor: true }
    }
}

/// Running services. They end with [`Pipeline::stop`]; when it is dropped, they are aborted.
#[derive(Debug)]
pub struct Pipeline {
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
}

impl Pipeline {
    /// Starts everything once.
    ///
    /// # Errors
    /// When another recorder of metrics is installed.
    pub fn start(deployment: &Deployment, core: &CoreConfig) -> Result<Pipeline> {
        Pipeline::start_with(deployment, core, &Shape::default())
    }

    /// Starts what `shape` says.
    ///
    /// # Errors
    /// When another recorder of metrics is installed.
    pub fn start_with(deployment: &Deployment, core: &CoreConfig, shape: &Shape) -> Result<Pipeline> {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let resources = deployment.resources(Role::Stage)?;
        let runner = Runner::new(deployment.streams.clone(), deployment.objects.clone(), core.stage.clone());
        let extractor = Arc::new(LineExtractor {
            store: deployment.stages.clone(),
            objects: deployment.objects.clone(),
            lines_per_batch: shape.lines_per_batch,
        });
        let stopped = stop.clone();
        tasks.spawn(async move { Ok(runner.run_stage(extractor, stopped).await?) });
        for _ in 0..shape.embedders {
            let (config, core, of) = (shape.embedder.clone(), core.clone(), resources.clone());
            let stopped = stop.clone();
            tasks.spawn(async move { riacho_embedder::run(config, &core, of, stopped).await });
        }
        let (used, stopped) = (core.clone(), stop.clone());
        tasks.spawn(async move { riacho_indexer::run(Default::default(), &used, resources, stopped).await });
        if shape.has_janitor {
            let (used, stopped) = (core.clone(), stop.clone());
            let resources = deployment.resources(Role::Janitor)?;
            tasks.spawn(
                async move { riacho_janitor::run(Default::default(), &used, resources, stopped).await },
            );
        }
        Ok(Pipeline { stop, tasks })
    }

    /// Stops everything, and waits for it.
    ///
    /// # Errors
    /// When a service ended badly.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            match ended? {
                // What it asked for, before there was anything to stop.
                Err(error) if matches!(error.downcast_ref(), Some(riacho_service::Error::Stopped(_))) => {}
                other => other?,
            }
        }
        Ok(())
    }
}
