//! A collector of traces on loopback: takes OTLP over HTTP, keeps the spans, and fails as it is told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1,
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};

/// What the collector answers when it is to answer nothing.
const NOTHING: u16 = 0;

/// A span as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectedSpan {
    /// The resource's `service.name`.
    pub service: String,
    /// The other attributes of the resource.
    pub resource: BTreeMap<String, String>,
    /// The trace, in hex.
    pub trace: String,
    /// Its id, in hex.
    pub id: String,
    /// The parent's id, in hex; empty of a root.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// `Server`, `Client`, `Producer`, `Consumer`, `Internal`.
    pub kind: String,
    /// The message of an error; none where it is none.
    pub error: Option<String>,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Traces and spans that it links to, in hex.
    pub links: Vec<(String, String)>,
    /// When it began and ended, in nanoseconds.
    pub times: (u64, u64),
}

impl CollectedSpan {
    /// An attribute; empty where there is none.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// The collector. It stops when it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    status: AtomicU16,
    requests: Mutex<Vec<(HeaderMap, Bytes)>>,
}

impl Collector {
    /// Starts a collector on a free port.
    ///
    /// # Errors
    /// Where no port can be opened.
    pub async fn start() -> anyhow::Result<Collector> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("open a port")?;
        let address = listener.local_addr().context("read the port")?.to_string();
        let shared = Arc::new(Shared { status: AtomicU16::new(200), requests: Mutex::default() });
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Ends with the task; an error of one connection does not reach here.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Collector { address, shared, server })
    }

    /// The address for `traces.endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers this status from now on; what it refuses it does not keep.
    pub fn answers(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Takes connections and requests from now on and never answers.
    pub fn hangs(&self) {
        self.answers(NOTHING);
    }

    /// The heads and bodies of what it has taken.
    #[must_use]
    pub fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans that it has taken.
    ///
    /// # Errors
    /// Where something was sent that is no export of traces.
    pub fn spans(&self) -> anyhow::Result<Vec<CollectedSpan>> {
        let mut spans = Vec::new();
        for (_, body) in self.requests() {
            let request = ExportTraceServiceRequest::decode(body).context("no export of traces")?;
            request.resource_spans.into_iter().for_each(|one| spans.extend(of_resource(one)));
        }
        spans.sort_by_key(|span| span.times);
        Ok(spans)
    }

    /// The spans of a trace that it has taken, in the order of their beginnings.
    ///
    /// # Errors
    /// As [`Collector::spans`].
    pub fn trace(&self, trace: &str) -> anyhow::Result<Vec<CollectedSpan>> {
        Ok(self.spans()?.into_iter().filter(|span| span.trace == trace).collect())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    let status = shared.status.load(Ordering::SeqCst);
    if status == NOTHING {
        return std::future::pending().await;
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_success() {
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push((headers, body));
    }
    (status, ExportTraceServiceResponse::default().encode_to_vec())
}

fn of_resource(spans: v1::ResourceSpans) -> Vec<CollectedSpan> {
    let mut resource = attributes(&spans.resource.unwrap_or_default().attributes);
    let service = resource.remove("service.name").unwrap_or_default();
    let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans
        .map(|span| CollectedSpan {
            service: service.clone(),
            resource: resource.clone(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: format!("{:?}", span.kind()),
            error: span
                .status
                .filter(|status| status.code() == v1::status::StatusCode::Error)
                .map(|status| status.message),
            attributes: attributes(&span.attributes),
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            times: (span.start_time_unix_nano, span.end_time_unix_nano),
            name: span.name,
        })
        .collect()
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |one: &KeyValue| match one.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|one| (one.key.clone(), text(one))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
