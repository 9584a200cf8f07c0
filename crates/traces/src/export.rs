//! From the end of a span to the collector: a bounded queue, a thread that empties it, and what is counted of both.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::counter;
use opentelemetry::{Context, InstrumentationScope, KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData,
        SpanExporter, SpanProcessor,
    },
};
use riacho_domain::SERVICES;
use tokio::runtime::Handle;

use crate::{
    Config, Error,
    client::{Client, Trouble},
    config,
    metrics::names,
};

/// The most spans of one request to the collector.
const BATCH: usize = 512;
/// How long a span waits at most for others to be sent with.
const DELAY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for what is left.
const LAST: Duration = Duration::from_secs(2);
/// How often the log says that the collector takes nothing.
const SAID_EVERY: Duration = Duration::from_secs(300);

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// What makes spans and sends them.
pub(crate) struct Installed {
    tracers: [SdkTracer; SERVICES.len()],
    provider: SdkTracerProvider,
    waiting: Arc<AtomicUsize>,
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Installed")
    }
}

impl Installed {
    /// The tracer of a service.
    pub(crate) fn tracer(&self, service: &'static str) -> &SdkTracer {
        let place = SERVICES.iter().position(|name| *name == service).unwrap_or(0);
        &self.tracers[place]
    }
}

pub(crate) fn installed() -> Option<&'static Installed> {
    INSTALLED.get()
}

/// Sets up the export of traces for this process, where an endpoint is configured; says where to. Call it once, on the
/// runtime that lives as long as the process.
///
/// # Errors
/// Where the settings cannot be used.
pub fn install(config: &Config) -> Result<Option<String>, Error> {
    let Some(target) = config.target() else { return Ok(None) };
    let exporter_error = |error: &dyn fmt::Display| Error::Exporter(error.to_string());
    let client = Client::new(Handle::current(), config.timeout()).map_err(|e| exporter_error(&e))?;
    let waiting = Arc::new(AtomicUsize::new(0));
    let mut exporters = HashMap::new();
    let instance = uuid::Uuid::new_v4().to_string();
    for service in SERVICES {
        // Each is a resource of its own, also where several are one process.
        let mut exporter = Otlp::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&target)
            .with_timeout(config.timeout())
            .with_headers(config.header_pairs().into_iter().collect())
            .build()
            .map_err(|e| exporter_error(&e))?;
        exporter.set_resource(&resource(config, service, &instance));
        exporters.insert(service, exporter);
    }
    let exporter = ByService {
        exporters,
        waiting: Arc::clone(&waiting),
        trouble: client.trouble(),
        said: Mutex::default(),
    };
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(config.queue)
        .with_max_export_batch_size(BATCH.min(config.queue))
        .with_scheduled_delay(DELAY)
        .build();
    let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let bounded = Bounded { inner, waiting: Arc::clone(&waiting), most: config.queue };
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder_empty().build())
        .with_sampler(sampler(config))
        .with_span_processor(bounded)
        .build();
    let tracers = SERVICES.map(|service| {
        provider.tracer_with_scope(
            InstrumentationScope::builder(service).with_version(env!("CARGO_PKG_VERSION")).build(),
        )
    });
    INSTALLED.set(Installed { tracers, provider, waiting }).map_err(|_| Error::Installed)?;
    Ok(Some(target))
}

/// Sends what is left, and waits for that a moment at most. What is not sent then is counted as lost. Nothing is traced
/// afterwards.
pub async fn shutdown() {
    let Some(installed) = installed() else { return };
    // It blocks; the runtime must go on meanwhile, since requests are sent on it.
    let ended = tokio::task::spawn_blocking(|| installed.provider.shutdown_with_timeout(LAST));
    let _ = tokio::time::timeout(LAST + Duration::from_millis(500), ended).await;
    let left = installed.waiting.swap(0, Ordering::Relaxed);
    if left > 0 {
        counter!(names::SPANS, "outcome" => "stopped").increment(left as u64);
        tracing::warn!(spans = left, "traces were not taken in time, and are lost");
    }
}

fn sampler(config: &Config) -> Sampler {
    let ratio = || Box::new(Sampler::TraceIdRatioBased(config.sampler_arg));
    match config.sampler {
        config::Sampler::AlwaysOn => Sampler::AlwaysOn,
        config::Sampler::AlwaysOff => Sampler::AlwaysOff,
        config::Sampler::Traceidratio => *ratio(),
        config::Sampler::ParentbasedAlwaysOn => Sampler::ParentBased(Box::new(Sampler::AlwaysOn)),
        config::Sampler::ParentbasedAlwaysOff => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
        config::Sampler::ParentbasedTraceidratio => Sampler::ParentBased(ratio()),
    }
}

/// What is said of a service, once for all its spans.
fn resource(config: &Config, service: &'static str, instance: &str) -> Resource {
    let own = [
        KeyValue::new("service.namespace", "riacho"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_owned()),
        KeyValue::new("telemetry.sdk.language", "rust"),
        KeyValue::new("telemetry.sdk.name", "opentelemetry"),
    ];
    let told = config.resource_pairs().into_iter().map(|(key, value)| KeyValue::new(key, value));
    let mut named = vec![KeyValue::new("service.name", service)];
    named.extend(own);
    named.extend(told);
    if let Some(name) = config.service_name.clone().filter(|name| !name.is_empty()) {
        named.push(KeyValue::new("service.name", name));
    }
    // The later of two with one key holds.
    Resource::builder_empty().with_attributes(named).build()
}

/// Lets no more spans wait than it may, and counts those that it drops.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    /// Spans that ended and of which it is not known yet what became of them.
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // Counted with those on their way, so that the inner queue, of the same length, is never full.
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            counter!(names::SPANS, "outcome" => "queue_full").increment(1);
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }
}

/// Sends the spans of each service as those of a resource of its own.
struct ByService {
    exporters: HashMap<&'static str, Otlp>,
    waiting: Arc<AtomicUsize>,
    trouble: Trouble,
    /// When the log last said that the collector takes nothing, while it takes nothing.
    said: Mutex<Option<Instant>>,
}

impl fmt::Debug for ByService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporters know the headers.
        f.write_str("ByService")
    }
}

impl SpanExporter for ByService {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut by_service: HashMap<&'static str, Vec<SpanData>> = HashMap::new();
        for span in batch {
            let name = span.instrumentation_scope.name();
            let service = SERVICES.iter().find(|service| **service == name).copied().unwrap_or(SERVICES[0]);
            by_service.entry(service).or_default().push(span);
        }
        let mut failed = false;
        for (service, spans) in by_service {
            let count = spans.len();
            let result = match self.exporters.get(service) {
                // What one service cannot send now another one cannot either; the queue would fill meanwhile.
                Some(exporter) if !failed => exporter.export(spans).await,
                _ => Err(OTelSdkError::InternalFailure("the collector takes nothing".to_owned())),
            };
            failed |= result.is_err();
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            let outcome = if result.is_ok() { "exported" } else { "failed" };
            counter!(names::SPANS, "outcome" => outcome).increment(count as u64);
        }
        self.tell(failed);
        Ok(())
    }
}

impl ByService {
    /// Logs an outage at its beginning, once in a while, and at its end.
    fn tell(&self, failed: bool) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match (*said, failed) {
            (Some(_), false) => {
                *said = None;
                tracing::info!("the collector takes traces again");
            }
            (before, true) if before.is_none_or(|at| at.elapsed() >= SAID_EVERY) => {
                *said = Some(Instant::now());
                let error = self.trouble.take().unwrap_or_else(|| "no answer in time".to_owned());
                tracing::warn!(
                    error,
                    "the collector takes no traces; what does not fit into the queue is dropped"
                );
            }
            _ => {}
        }
    }
}
