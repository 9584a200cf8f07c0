//! Logs, metrics and traces of the process.

mod fields;
mod logs;

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{Error, config::LogConfig};

pub use fields::{FIELDS, OF_EVERY_LINE};

/// Upper bounds of the duration histograms, in seconds: from a handler's start to a long document. What an alert
/// compares a quantile with is a bound, 2 s here: between two bounds a quantile is a guess.
const SECONDS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 300.0, 1800.0,
];

/// What comes before the configured filter, which wins where it says something of the same target. The
/// Redis client warns of each connection that it closes at a stop, the pool of PostgreSQL of each that
/// ended when it is asked for one; the outages that matter are told by our own lines, and by health.
const QUIETED: &str = "fred=error,deadpool=error";

/// How often the recorder drains what has not been scraped.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process's metrics, ready to be scraped.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// The process's recorder; installed at the first call, the same one ever after.
    ///
    /// # Errors
    ///
    /// When another recorder is installed already.
    pub fn install() -> Result<Metrics, Error> {
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        static INSTALLING: Mutex<()> = Mutex::new(());
        // Of two that come at once, the second waits for the first one's recorder.
        let _guard = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = INSTALLED.get() {
            return Ok(Metrics(handle.clone()));
        }
        let telemetry = |error: String| Error::Telemetry(error);
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .map_err(|e| telemetry(e.to_string()))?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|e| telemetry(e.to_string()))?;
        let upkeep = handle.clone();
        std::thread::Builder::new()
            .name("metrics-upkeep".into())
            .spawn(move || {
                loop {
                    std::thread::sleep(UPKEEP);
                    upkeep.run_upkeep();
                }
            })
            .map_err(|e| telemetry(e.to_string()))?;
        // Each service describes its own.
        crate::metrics::OF_EVERY_PROCESS.into_iter().for_each(crate::metrics::describe);
        riacho_store::metrics::begin();
        metrics::gauge!(crate::metrics::names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Metrics(INSTALLED.get_or_init(|| handle).clone()))
    }
}

fn filter(configured: &str) -> Result<EnvFilter, Error> {
    // Apart, so that what is wrong in it is said of it alone.
    EnvFilter::try_new(configured)
        .and_then(|_| EnvFilter::try_new(format!("{QUIETED},{configured}")))
        .map_err(|error| Error::Telemetry(format!("log.filter: {error}")))
}

/// Sets up logs (to standard error), metrics, and the export of traces where one is configured, for a process of these
/// services. Call it once, at the start of a process, on its runtime; what is left of traces is sent by
/// [`riacho_traces::shutdown`].
///
/// # Errors
///
/// When the filter or the settings of traces cannot be used, or something else has set up logs or metrics before.
pub fn init(
    log: &LogConfig,
    traces: &riacho_traces::Config,
    services: &[&'static str],
) -> Result<Metrics, Error> {
    let registry = tracing_subscriber::registry().with(filter(&log.filter)?);
    registry
        .with(logs::Logs::new(log.format, services))
        .try_init()
        .map_err(|e| Error::Telemetry(e.to_string()))?;
    let metrics = Metrics::install()?;
    let target = riacho_traces::install(traces).map_err(|e| Error::Telemetry(format!("traces: {e}")))?;
    if let Some(target) = target {
        tracing::info!(address = target, "traces are exported");
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tracing::{Level, level_filters::LevelFilter, subscriber::with_default};

    use super::*;

    /// Whether warnings of the Redis client, of the pool, and of another library are let through.
    fn warnings(configured: &str) -> (bool, bool, bool) {
        with_default(tracing_subscriber::registry().with(filter(configured).unwrap()), || {
            let redis = tracing::enabled!(target: "fred::router", Level::WARN);
            let pool = tracing::enabled!(target: "deadpool.postgres", Level::WARN);
            (redis, pool, tracing::enabled!(target: "other", Level::WARN))
        })
    }

    #[test]
    fn the_clients_of_servers_are_heard_below_an_error_only_when_they_are_asked_for() {
        assert_eq!(warnings("info"), (false, false, true));
        assert_eq!(warnings("warn,riacho_stage=debug"), (false, false, true));
        assert_eq!(warnings("info,fred=warn"), (true, false, true));
        assert_eq!(warnings("info,deadpool=warn"), (false, true, true));
        assert_eq!(warnings(""), (false, false, false));
        assert_eq!(filter("error").unwrap().max_level_hint(), Some(LevelFilter::ERROR));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = filter("info,a=loud").unwrap_err().to_string();
        assert!(error.contains("log.filter") && !error.contains("fred"), "{error}");
    }
}
