//! One span: what it is about, how it ends.

use std::borrow::Cow;

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::Span as SdkSpan;

use crate::{Traceparent, export};

/// The names of attributes: OpenTelemetry's where there are such, and the project's own.
pub mod attributes {
    /// The tenant.
    pub const TENANT: &str = "riacho.tenant";
    /// The document.
    pub const DOCUMENT: &str = "riacho.document";
    /// The document's version.
    pub const VERSION: &str = "riacho.version";
    /// The release.
    pub const RELEASE: &str = "riacho.release";
    /// The stage.
    pub const STAGE: &str = "riacho.stage";
    /// Which run of the event this is, from 1.
    pub const ATTEMPT: &str = "riacho.attempt";
    /// The lane.
    pub const LANE: &str = "riacho.lane";
    /// The consumer that works.
    pub const WORKER: &str = "riacho.worker";
    /// How it ended.
    pub const OUTCOME: &str = "riacho.outcome";
    /// How many events or chunks it is about.
    pub const COUNT: &str = "riacho.count";
    /// The id of a request.
    pub const REQUEST: &str = "riacho.request";
    /// What failed, as a code.
    pub const ERROR_TYPE: &str = "error.type";
    /// The messaging system.
    pub const MESSAGING_SYSTEM: &str = "messaging.system";
    /// What is done with a message: `send`, `process`.
    pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
    /// The same, as it is called here.
    pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
    /// The stream's stage.
    pub const MESSAGING_DESTINATION: &str = "messaging.destination.name";
    /// The consumer group.
    pub const MESSAGING_GROUP: &str = "messaging.consumer.group.name";
    /// The event.
    pub const MESSAGING_MESSAGE: &str = "messaging.message.id";
    /// How many events were in a batch.
    pub const MESSAGING_BATCH: &str = "messaging.batch.message_count";
    /// The method of a request.
    pub const HTTP_METHOD: &str = "http.request.method";
    /// The route that took it.
    pub const HTTP_ROUTE: &str = "http.route";
    /// The status that was answered.
    pub const HTTP_STATUS: &str = "http.response.status_code";
    /// The host that is called.
    pub const SERVER_ADDRESS: &str = "server.address";
    /// The database.
    pub const DB_SYSTEM: &str = "db.system.name";
    /// What is asked of it.
    pub const DB_OPERATION: &str = "db.operation.name";
    /// What is asked of a model.
    pub const GEN_AI_OPERATION: &str = "gen_ai.operation.name";
    /// The model.
    pub const GEN_AI_MODEL: &str = "gen_ai.request.model";
}

/// The kind of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request that is answered.
    Server,
    /// A call of another server.
    Client,
    /// A message that is sent.
    Producer,
    /// A message that is worked on.
    Consumer,
    /// Work of the service itself.
    Internal,
}

/// Something that is said of a span.
pub type Attribute = (&'static str, Value);

/// A span, or nothing where traces are off or the trace is not sampled. It ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<SdkSpan>>);

impl Span {
    /// No span.
    #[must_use]
    pub const fn none() -> Span {
        Span(None)
    }

    /// Whether traces are exported at all.
    #[must_use]
    pub fn enabled() -> bool {
        export::installed().is_some()
    }

    /// Begins a span of a service below `parent`; in a trace of its own where that is none. The attributes are made only
    /// where it is recorded.
    #[must_use]
    pub fn start<const N: usize>(
        service: &'static str,
        kind: Kind,
        name: impl Into<Cow<'static, str>>,
        parent: Option<Traceparent>,
        attributes: impl FnOnce() -> [Attribute; N],
    ) -> Span {
        let Some(installed) = export::installed() else { return Span::none() };
        Span::begin(installed.tracer(service), builder(kind, name), parent, attributes)
    }

    /// As [`Span::start`], below a parent that stands as text somewhere; nothing where that is no parent: a document whose
    /// trace is not known gets none.
    #[must_use]
    pub fn below<const N: usize>(
        service: &'static str,
        kind: Kind,
        name: &'static str,
        parent: &str,
        attributes: impl FnOnce() -> [Attribute; N],
    ) -> Span {
        let Some(installed) = export::installed() else { return Span::none() };
        let Ok(parent) = parent.parse() else { return Span::none() };
        Span::begin(installed.tracer(service), builder(kind, name), Some(parent), attributes)
    }

    /// Of work on several traces at once: a span in each trace would say the same of all.
    /// It stands below the first, and links to the others.
    #[must_use]
    pub fn linked<const N: usize>(
        service: &'static str,
        kind: Kind,
        name: &'static str,
        spans: &[Traceparent],
        attributes: impl FnOnce() -> [Attribute; N],
    ) -> Span {
        let Some(installed) = export::installed() else { return Span::none() };
        let [parent, others @ ..] = spans else { return Span::none() };
        let links = others.iter().map(|other| Link::with_context(other.context())).collect();
        let builder = builder(kind, name).with_links(links);
        Span::begin(installed.tracer(service), builder, Some(*parent), attributes)
    }

    fn begin<const N: usize>(
        tracer: &opentelemetry_sdk::trace::SdkTracer,
        builder: SpanBuilder,
        parent: Option<Traceparent>,
        attributes: impl FnOnce() -> [Attribute; N],
    ) -> Span {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.context()),
            None => Context::new(),
        };
        let mut span = tracer.build_with_context(builder, &context);
        if !span.is_recording() {
            return Span::none();
        }
        span.set_attributes(attributes().map(|(key, value)| KeyValue::new(key, value)));
        Span(Some(Box::new(span)))
    }

    /// Whether it is recorded.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Where it stands in its trace; none where it is not recorded.
    #[must_use]
    pub fn traceparent(&self) -> Option<Traceparent> {
        self.0.as_ref().map(|span| Traceparent::of(span.span_context()))
    }

    /// What the work that it causes names as its parent: itself, or `otherwise` where it is not recorded.
    #[must_use]
    pub fn or(&self, otherwise: &str) -> String {
        self.traceparent().map_or_else(|| otherwise.to_owned(), |own| own.to_string())
    }

    /// Says more of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// It failed, for a reason of a fixed set.
    pub fn fail(&mut self, reason: impl ToString) {
        if let Some(span) = &mut self.0 {
            let reason = reason.to_string();
            span.set_attribute(KeyValue::new(attributes::ERROR_TYPE, reason.clone()));
            span.set_status(Status::error(reason));
        }
    }
}

fn builder(kind: Kind, name: impl Into<Cow<'static, str>>) -> SpanBuilder {
    let kind = match kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
        Kind::Internal => SpanKind::Internal,
    };
    SpanBuilder::from_name(name).with_kind(kind)
}
