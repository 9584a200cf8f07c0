//! What the janitor does for a document, as a line of the log and a span of the document's trace. Its own work, which
//! comes round each second, has neither.

use riacho_domain::ReasonCode;
use riacho_service::release::trace_id;
use riacho_store::{AttemptOutcome, DueDelivery, NewDeadLetter, Purge, PurgeKind, Purged, Touched};
use riacho_traces::{Kind, Span, attributes};
use serde_json::Value;

/// Who does it.
const JANITOR: &str = "janitor";

/// A task made a document fail.
pub(crate) fn failed(one: &Touched, reason: ReasonCode) {
    let mut span = touching(one, "fail");
    span.set(attributes::OUTCOME, reason.as_str());
    tracing::info!(step = "failed", tenant = %one.tenant, document = %one.document, version = one.version,
        trace_id = trace_id(&one.traceparent), %reason, "the document failed");
}

/// A document's time ran out.
pub(crate) fn expired(one: &Touched) {
    drop(touching(one, "expire"));
    tracing::info!(step = "expired", tenant = %one.tenant, document = %one.document, version = one.version,
        trace_id = trace_id(&one.traceparent), "the document's time ran out");
}

/// An upload never came.
pub(crate) fn upload_expired(one: &Touched) {
    drop(touching(one, "expire"));
    tracing::info!(step = "expired", tenant = %one.tenant, document = %one.document, version = one.version,
        trace_id = trace_id(&one.traceparent), "the upload never came");
}

fn touching(one: &Touched, name: &'static str) -> Span {
    Span::below(JANITOR, Kind::Internal, name, &one.traceparent, || {
        [
            (attributes::TENANT, one.tenant.to_string().into()),
            (attributes::DOCUMENT, one.document.to_string().into()),
            (attributes::VERSION, i64::from(one.version).into()),
        ]
    })
}

/// The span of writing a dead letter down.
pub(crate) fn dead_letter(letter: &NewDeadLetter, traceparent: &str) -> Span {
    let mut span = Span::below(JANITOR, Kind::Consumer, "process dead letter", traceparent, || {
        [
            (attributes::MESSAGING_SYSTEM, "redis".into()),
            (attributes::MESSAGING_OPERATION_TYPE, "process".into()),
            (attributes::MESSAGING_OPERATION_NAME, "process".into()),
            (attributes::MESSAGING_DESTINATION, "dead".into()),
            (attributes::STAGE, letter.stage.clone().into()),
            (attributes::ATTEMPT, i64::from(letter.attempts).into()),
        ]
    });
    if let (true, Some(tenant), Some(document)) = (span.is_recording(), &letter.tenant, letter.document) {
        span.set(attributes::TENANT, tenant.to_string());
        span.set(attributes::DOCUMENT, document.to_string());
        span.set(attributes::VERSION, letter.version.map_or(0, i64::from));
    }
    span.set(attributes::OUTCOME, letter.reason_code.clone());
    span
}

/// A dead letter is written down, and its document has failed with it.
pub(crate) fn failed_by_letter(letter: &NewDeadLetter) {
    let Some(document) = letter.document else { return };
    tracing::info!(step = "failed", tenant = letter.tenant.as_ref().map(|tenant| tenant.as_str()), %document, version = letter.version,
        stage = letter.stage, attempt = letter.attempts, trace_id = letter.trace_id, reason = letter.reason_code,
        "the document failed with a dead letter");
}

/// The span of a purge.
pub(crate) fn purging(purge: &Purge) -> Span {
    Span::below(JANITOR, Kind::Internal, "purge", &purge.traceparent, || {
        [
            (attributes::TENANT, purge.tenant.to_string().into()),
            (attributes::DOCUMENT, purge.document.to_string().into()),
            (attributes::OUTCOME, "purged".into()),
        ]
    })
}

/// Nothing is left of a document, or of a version.
pub(crate) fn purged(purge: &Purge, purged: &Purged) {
    let (version, text) = match purge.kind {
        PurgeKind::Document => (None, "nothing is left of the deleted document"),
        PurgeKind::Version(version) => (Some(version), "nothing is left of the version"),
        // The document stays as it is.
        PurgeKind::LostRuns { version, .. } => {
            return tracing::debug!(document = %purge.document, version, chunks = purged.chunks, "nothing is left of runs that lost");
        }
    };
    tracing::info!(step = "purged", tenant = %purge.tenant, document = %purge.document, version, trace_id = trace_id(&purge.traceparent),
        chunks = purged.chunks, objects = purged.objects, "{text}");
}

/// The span of an attempt to tell a webhook.
pub(crate) fn delivering(due: &DueDelivery) -> Span {
    let mut span = Span::below(JANITOR, Kind::Client, "POST webhook", &due.traceparent, || {
        [
            (attributes::HTTP_METHOD, "POST".into()),
            (attributes::TENANT, due.tenant.to_string().into()),
            (attributes::ATTEMPT, i64::from(due.attempt).into()),
        ]
    });
    if span.is_recording() {
        let (document, version) = about(due);
        // The host alone: the rest of an address may be a secret of its owner's.
        let host = reqwest::Url::parse(&due.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        span.set(attributes::SERVER_ADDRESS, host.unwrap_or_default());
        span.set(attributes::DOCUMENT, document.unwrap_or_default());
        span.set(attributes::VERSION, version.unwrap_or_default());
    }
    span
}

/// An attempt to tell a webhook has ended.
pub(crate) fn delivered(due: &DueDelivery, outcome: &AttemptOutcome, span: &mut Span) {
    let (status, error) = match outcome {
        AttemptOutcome::Delivered { status } => (Some(*status), None),
        AttemptOutcome::Failed { status, error, .. } => (*status, Some(error.as_str())),
    };
    if let Some(status) = status {
        span.set(attributes::HTTP_STATUS, i64::from(status));
    }
    let (document, version) = about(due);
    let trace_id = trace_id(&due.traceparent);
    match error {
        None => {
            tracing::info!(step = "webhook sent", tenant = %due.tenant, document, version, trace_id, webhook = %due.webhook,
            attempt = due.attempt, status, "a webhook was told")
        }
        Some(error) => {
            span.fail(status.map_or_else(|| "not_sent".to_owned(), |status| status.to_string()));
            tracing::info!(step = "webhook failed", tenant = %due.tenant, document, version, trace_id, webhook = %due.webhook,
                attempt = due.attempt, status, error, "a webhook could not be told");
        }
    }
}

/// The document and version that a delivery is about.
fn about(due: &DueDelivery) -> (Option<String>, Option<i64>) {
    let payload: Value = serde_json::from_str(&due.payload).unwrap_or_default();
    let data = &payload["data"];
    (data["document_id"].as_str().map(str::to_owned), data["version"].as_i64())
}
