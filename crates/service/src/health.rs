//! What the process depends on, and whether it is there.
//!
//! Probes run in the background, so that asking costs nothing and a hanging server cannot make the
//! answer hang.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::metrics::names;

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often probes run.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// What happens when a dependency is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The process cannot serve.
    Required,
    /// The process serves less, or later.
    Optional,
}

type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The state of one dependency.
#[derive(Debug, Clone, Serialize)]
pub struct Dependency {
    /// `up`, `down` or `unknown`.
    pub status: &'static str,
    /// What the last probe took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    need: bool,
}

/// The state of the process.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `healthy`, `degraded` (something optional is away) or `unhealthy`.
    pub status: &'static str,
    /// Version of the running binary.
    pub version: &'static str,
    /// By name.
    pub dependencies: BTreeMap<&'static str, Dependency>,
}

/// The dependencies of a process.
#[derive(Clone, Default)]
pub struct Health {
    probes: Arc<Mutex<Vec<(&'static str, Probe)>>>,
    latest: Arc<Mutex<BTreeMap<&'static str, Dependency>>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("latest", &self.latest).finish_non_exhaustive()
    }
}

impl Health {
    /// Nothing to depend on yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dependency. A name that is there already is replaced.
    pub fn add<F>(&self, name: &'static str, need: Need, probe: F)
    where
        F: Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.retain(|(known, _)| *known != name);
        probes.push((name, Arc::new(probe)));
        let unknown =
            Dependency { status: "unknown", latency_ms: None, error: None, need: need == Need::Required };
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).insert(name, unknown);
    }

    /// Runs every probe once, side by side.
    pub async fn probe(&self) {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        join_all(probes.into_iter().map(|(name, probe)| self.probe_one(name, probe))).await;
    }

    async fn probe_one(&self, name: &'static str, probe: Probe) {
        let start = Instant::now();
        let answer = tokio::time::timeout(PROBE_TIMEOUT, probe())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())));
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = latest.get_mut(name) {
            let status = if answer.is_ok() { "up" } else { "down" };
            if status != entry.status {
                match &answer {
                    Ok(()) => tracing::info!(dependency = name, "dependency is up"),
                    Err(error) => tracing::warn!(dependency = name, error, "dependency is down"),
                }
            }
            let up = if answer.is_ok() { 1.0 } else { 0.0 };
            metrics::gauge!(names::DEPENDENCY_UP, "name" => name).set(up);
            entry.status = status;
            entry.latency_ms = Some(start.elapsed().as_secs_f64() * 1e3);
            entry.error = answer.err();
        }
    }

    /// Probes again and again until `stop`.
    pub fn spawn(&self, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        let health = self.clone();
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                health.probe().await;
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(PROBE_INTERVAL) => {}
                }
            }
        })
    }

    /// What the last probes found.
    #[must_use]
    pub fn report(&self) -> Report {
        let dependencies = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let status = if dependencies.values().any(|d| d.need && d.status != "up") {
            "unhealthy"
        } else if dependencies.values().any(|d| d.status != "up") {
            "degraded"
        } else {
            "healthy"
        };
        Report { status, version: env!("CARGO_PKG_VERSION"), dependencies }
    }

    /// Whether everything that is required is there.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.report().status != "unhealthy"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_ready_while_what_it_requires_is_there() {
        let health = Health::new();
        health.add("postgres", Need::Required, || Box::pin(async { Ok(()) }));
        health.add("redis", Need::Optional, || Box::pin(async { Err("refused".into()) }));
        assert!(!health.ready(), "nothing is known before the first probe");
        health.probe().await;
        assert!(health.ready());
        assert_eq!(health.report().status, "degraded");
        health.add("postgres", Need::Required, || Box::pin(async { Err("gone".into()) }));
        health.probe().await;
        assert_eq!(health.report().status, "unhealthy");
        assert_eq!(health.report().dependencies["postgres"].error.as_deref(), Some("gone"));
    }
}
