//! Connections to the servers, made with patience.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use riacho_models::Model;
use riacho_objects::Objects;
use riacho_stage::Runner;
use riacho_store::{Partition, Role, Store};
use riacho_streams::Streams;
use tokio_util::sync::CancellationToken;

use crate::{CoreConfig, Error, Health, Metrics, health::Need, limits::RedisLimits};

/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often is looked which stages are paused.
const LOOK_FOR_PAUSES: Duration = Duration::from_secs(1);
/// Each so many looks partitions that were added are looked for too. What is released there waits as long.
const LOOKS_FOR_PARTITIONS: u32 = 2;

/// What a service works with.
#[derive(Clone, Debug)]
pub struct Resources {
    /// PostgreSQL.
    pub store: Store,
    /// Redis.
    pub streams: Streams,
    /// The object store.
    pub objects: Objects,
    /// The process's dependencies.
    pub health: Health,
    /// The process's metrics.
    pub metrics: Metrics,
}

impl Resources {
    /// Connects to all servers; waits for those that are away, with one log line for each outage.
    ///
    /// # Errors
    ///
    /// A server that refuses for a reason which waiting does not mend, an unknown version of the
    /// schema, or `stop`.
    pub async fn connect(
        config: &CoreConfig,
        role: Role,
        metrics: Metrics,
        stop: &CancellationToken,
    ) -> Result<Resources, Error> {
        let store = patiently("postgres", stop, riacho_store::Error::is_retryable, || async {
            let store = Store::connect(&config.database, role).await?;
            store.check_version().await?;
            Ok(store)
        })
        .await?;
        let streams =
            patiently("redis", stop, riacho_streams::Error::is_retryable, || Streams::connect(&config.redis))
                .await?;
        let objects = patiently("objects", stop, riacho_objects::Error::is_retryable, || {
            Objects::connect(&config.objects)
        })
        .await?;
        let resources = Resources { store, streams, objects, health: Health::new(), metrics };
        resources.watch();
        Ok(resources)
    }

    /// A runner of a stage with so many runs at once. Where the configuration names no partitions, it reads all
    /// that the database names, and until `stop` takes up those that are added, so that they are read before
    /// much is written there. Stages that are paused read nothing while they are.
    ///
    /// # Errors
    ///
    /// As [`Resources::connect`].
    pub async fn runner(
        &self,
        config: &CoreConfig,
        concurrency: usize,
        stop: &CancellationToken,
    ) -> Result<Runner, Error> {
        let mut settings = config.stage.clone().with_concurrency(concurrency.max(1));
        let is_fixed = !settings.partitions.is_empty();
        if !is_fixed {
            let found =
                patiently("postgres", stop, riacho_store::Error::is_retryable, || self.store.partitions());
            settings.partitions = numbers(&found.await?);
        }
        let runner = Runner::new(self.streams.clone(), self.objects.clone(), settings);
        // Before anything is read: a process that starts is no way around a pause.
        let paused =
            patiently("postgres", stop, riacho_store::Error::is_retryable, || self.store.paused_stages());
        runner.set_paused(paused.await?.into_iter().map(|pause| pause.stage));
        tokio::spawn(follow(self.store.clone(), runner.clone(), is_fixed, stop.clone()));
        Ok(runner)
    }

    /// Lets a model share its provider's limits with all processes, until `stop`.
    pub fn share_limits(&self, model: &dyn Model, stop: &CancellationToken) {
        share_limits(&self.streams, model, stop);
    }

    /// The same for a model that runs of a stage call: while they wait for a turn, they make room for the last run of an
    /// event.
    pub fn share_limits_of_stage(&self, model: &dyn Model, stop: &CancellationToken) {
        let limits = RedisLimits::new(self.streams.clone(), stop.clone());
        model.share_limits(Arc::new(limits.of_stage()));
    }

    fn watch(&self) {
        let store = self.store.clone();
        self.health.add("postgres", Need::Required, move || {
            let store = store.clone();
            store.figures();
            Box::pin(async move { store.ping().await.map(drop).map_err(|e| e.to_string()) })
        });
        // Redis is the road, not the truth: while it is away, uploads are accepted and wait.
        let streams = self.streams.clone();
        self.health.add("redis", Need::Optional, move || {
            let streams = streams.clone();
            Box::pin(async move { streams.ping().await.map(drop).map_err(|e| e.to_string()) })
        });
        let objects = self.objects.clone();
        self.health.add("objects", Need::Required, move || {
            let objects = objects.clone();
            Box::pin(async move {
                let checked = objects.check().await.map_err(|e| e.to_string());
                if let Some(directory) = objects.local_directory() {
                    crate::metrics::disk("objects", directory);
                }
                checked
            })
        });
    }
}

/// Lets a model share its provider's limits with all processes, until `stop`.
pub fn share_limits(streams: &Streams, model: &dyn Model, stop: &CancellationToken) {
    model.share_limits(Arc::new(RedisLimits::new(streams.clone(), stop.clone())));
}

fn numbers(partitions: &[Partition]) -> Vec<u16> {
    partitions.iter().map(|partition| partition.partition).collect()
}

/// Lets a runner read what is added to the partitions of the database, and nothing of stages that are paused.
async fn follow(store: Store, runner: Runner, has_fixed_partitions: bool, stop: CancellationToken) {
    let mut looks = 0_u32;
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_FOR_PAUSES)).await.is_some() {
        // While the database is away nothing is paused or added, and others tell of it.
        if let Ok(paused) = store.paused_stages().await {
            runner.set_paused(paused.into_iter().map(|pause| pause.stage));
        }
        looks = looks.wrapping_add(1);
        if !has_fixed_partitions
            && looks.is_multiple_of(LOOKS_FOR_PARTITIONS)
            && let Ok(found) = store.partitions().await
            && runner.add_partitions(&numbers(&found))
        {
            tracing::info!(worker = runner.consumer(), "partitions were added, and are read from now on");
        }
    }
}

/// Tries until it works, an error is final, or `stop`.
async fn patiently<T, E, F, Fut>(
    name: &'static str,
    stop: &CancellationToken,
    is_retryable: fn(&E) -> bool,
    mut attempt: F,
) -> Result<T, Error>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut pause = Duration::from_millis(50);
    let mut logged = false;
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return Err(Error::Stopped(name)),
            result = attempt() => result,
        };
        match result {
            Ok(value) => return Ok(value),
            Err(error) if !is_retryable(&error) => {
                return Err(Error::Dependency { name, reason: error.to_string() });
            }
            Err(error) if !logged => {
                logged = true;
                tracing::warn!(dependency = name, %error, "not reachable; waiting for it");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Err(Error::Stopped(name)),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
