//! One event: its bytes into the object store, its row, its answer.

use bytes::Bytes;
use riacho_domain::{TenantId, UploadId, derived_event_id};
use riacho_objects::{Error as ObjectsError, Key, Stored};
use riacho_proto::{ENVELOPE_VERSION, Message, v1, v1::envelope::Payload};
use riacho_store::{Accept, Body, EventAnswer, EventKey, NewDeadLetter};
use riacho_streams::{IntakeAnswer, IntakeEntry};
use riacho_traces::{Kind, Span, attributes};

use super::event::{Content, Rejection, Sender, UploadEvent, read};
use crate::{
    SERVICE,
    app::{App, tell_accepted},
    http::{names::content_type, problem::Problem, trace::Trace},
    metrics::names,
};

/// Why an event got no row.
enum Failed {
    /// Not as it is; the producer is told.
    Rejected(Rejection),
    /// A server is away, or the deployment is not ready for it; the event comes again.
    Later(String),
}

impl From<riacho_store::Error> for Failed {
    fn from(error: riacho_store::Error) -> Self {
        use riacho_store::{Conflict, Error};
        match error {
            Error::Conflict(Conflict::TenantNotActive | Conflict::NoLiveSpace) => {
                Failed::Later(error.to_string())
            }
            error if error.is_retryable() => Failed::Later(error.to_string()),
            error => Failed::Rejected(Problem::from(error).into()),
        }
    }
}

impl From<ObjectsError> for Failed {
    fn from(error: ObjectsError) -> Self {
        match error {
            ObjectsError::NotFound { .. } => {
                Failed::Rejected(Rejection::new("object_missing", "there is no object under `object_key`"))
            }
            error if error.is_retryable() => Failed::Later(error.to_string()),
            error => Failed::Rejected(Problem::from(error).into()),
        }
    }
}

/// The answer to an event; none while a server is away.
pub(super) async fn answer(app: &App, entry: &IntakeEntry) -> Option<IntakeAnswer> {
    let (sender, event) = match entry.is_event {
        true => read(&entry.tenant, &entry.body, app.config()),
        false => (Sender::default(), Err(Rejection::new("undecodable", "the entry has no field `e`"))),
    };
    let result = match event {
        Ok(event) => take_in(app, &entry.tenant, &sender, event).await,
        Err(rejection) => Err(Failed::Rejected(rejection)),
    };
    let answer = match result {
        Ok(answer) => answer,
        Err(Failed::Rejected(rejection)) => {
            if rejection.code == "undecodable" {
                keep(app, entry, &rejection).await?;
            }
            record(app, &entry.tenant, &sender, rejection).await?
        }
        Err(Failed::Later(reason)) => {
            tracing::debug!(reason, entry = entry.entry_id, "an event waits");
            return None;
        }
    };
    Some(encode(entry, &sender, &answer))
}

/// The answer to an event whose processing panicked; none while a server is away.
pub(super) async fn panicked(app: &App, entry: &IntakeEntry) -> Option<IntakeAnswer> {
    tracing::error!(entry = entry.entry_id, "an event's processing panicked");
    let rejection = Rejection::new("internal", "the event could not be processed");
    keep(app, entry, &rejection).await?;
    let answer = EventAnswer::Rejected { code: rejection.code.to_owned(), message: rejection.message };
    Some(encode(entry, &Sender::default(), &answer))
}

/// Keeps an event as a dead letter with its bytes: its producer may never learn that it was meant.
/// None while a server is away.
async fn keep(app: &App, entry: &IntakeEntry, rejection: &Rejection) -> Option<()> {
    let letter = NewDeadLetter {
        tenant: Some(entry.tenant.clone()),
        document: None,
        version: None,
        release: None,
        stage: "intake".to_owned(),
        stream: app.streams().keys().intake(&entry.tenant),
        entry_id: entry.entry_id.clone(),
        reason_code: rejection.code.to_owned(),
        message: rejection.message.clone(),
        attempts: 1,
        trace_id: String::new(),
        original: entry.body.to_vec(),
        occurred_at: chrono::Utc::now(),
    };
    match app.store().add_dead_letter(&letter).await {
        Err(error) if error.is_retryable() => return None,
        Err(error) => {
            tracing::warn!(%error, entry = entry.entry_id, "an event that was rejected was not kept")
        }
        Ok(_) => {}
    }
    Some(())
}

/// Writes the rejection down where the event can be named, so that sending again gets the same; one
/// that is not final is only spoken.
async fn record(app: &App, tenant: &TenantId, sender: &Sender, rejection: Rejection) -> Option<EventAnswer> {
    tracing::warn!(%tenant, source = sender.source, event = sender.id, reason = rejection.code, error = rejection.message, "event rejected");
    let spoken =
        || EventAnswer::Rejected { code: rejection.code.to_owned(), message: rejection.message.clone() };
    // An event that is not for this tenant, or has no usable name, leaves no row.
    let named = |name: &str| (1..=255).contains(&name.len());
    if !rejection.is_final() || !named(&sender.id) || !named(&sender.source) {
        return Some(spoken());
    }
    let key = event_key(tenant, sender);
    match app.store().reject_event(&key, rejection.code, &rejection.message).await {
        Ok(answer) => Some(answer),
        Err(error) if error.is_retryable() => None,
        Err(error) => {
            tracing::warn!(%error, "a rejection was not written down");
            Some(spoken())
        }
    }
}

fn event_key(tenant: &TenantId, sender: &Sender) -> EventKey {
    EventKey { tenant: tenant.clone(), source: sender.source.clone(), event_id: sender.id.clone() }
}

async fn take_in(
    app: &App,
    tenant: &TenantId,
    sender: &Sender,
    event: UploadEvent,
) -> Result<EventAnswer, Failed> {
    if let Some(answer) = app.store().known_event(&event_key(tenant, sender)).await? {
        return Ok(answer);
    }
    let key = Key::original(tenant, UploadId::new());
    let mut span = span_of(tenant, sender, &event);
    let accepted = accept(app, tenant, sender, event, (&key, &span)).await;
    match &accepted {
        Ok((EventAnswer::Accepted { document, version }, _)) => {
            span.set(attributes::DOCUMENT, document.to_string());
            span.set(attributes::VERSION, i64::from(*version));
        }
        Ok((EventAnswer::Rejected { code, .. }, _)) => span.fail(code),
        Err(Failed::Rejected(rejection)) => span.fail(rejection.code),
        Err(Failed::Later(_)) => span.fail("later"),
    }
    drop(span);
    let unused = match &accepted {
        Ok((_, used)) => !used,
        // After a lost connection the row may be there; the janitor finds orphans.
        Err(Failed::Rejected(_)) => true,
        Err(Failed::Later(_)) => false,
    };
    if unused {
        app.discard(key);
    }
    accepted.map(|(answer, _)| answer)
}

/// The span of taking an event in, below the producer's.
fn span_of(tenant: &TenantId, sender: &Sender, event: &UploadEvent) -> Span {
    let parent = event.traceparent.parse().ok();
    Span::start(SERVICE, Kind::Consumer, "process intake", parent, || {
        [
            (attributes::MESSAGING_SYSTEM, "redis".into()),
            (attributes::MESSAGING_OPERATION_TYPE, "process".into()),
            (attributes::MESSAGING_OPERATION_NAME, "process".into()),
            (attributes::MESSAGING_DESTINATION, "intake".into()),
            (attributes::MESSAGING_MESSAGE, sender.id.clone().into()),
            (attributes::TENANT, tenant.to_string().into()),
        ]
    })
}

/// Stores and accepts; says whether the stored object is in use.
async fn accept(
    app: &App,
    tenant: &TenantId,
    sender: &Sender,
    event: UploadEvent,
    (key, span): (&Key, &Span),
) -> Result<(EventAnswer, bool), Failed> {
    let stored = store(app, &event.content, key).await?;
    if event.sha256.is_some_and(|promised| promised != stored.sha256) {
        return Err(Failed::Rejected(Rejection::new("hash_mismatch", "the bytes differ from `sha256`")));
    }
    let body = Body::Stored { size: stored.size, sha256: stored.sha256 };
    let content_type =
        content_type(Some(event.content_type.as_str()).filter(|text| !text.is_empty()), &event.filename);
    let mut accept = Accept::new(tenant.clone(), event.filename, key.to_string(), body);
    accept.content_type = content_type;
    accept.traceparent = Trace::within(sender.id.clone(), span, event.traceparent.parse().ok()).traceparent;
    event.settings.apply(&mut accept, app.config()).map_err(|problem| Failed::Rejected(problem.into()))?;
    let done = app.store().accept_event(&event_key(tenant, sender), &accept).await?;
    if let Some(accepted) = &done.accepted {
        tell_accepted(tenant, accepted, &accept.traceparent, "intake");
        app.release(accepted);
    }
    metrics::counter!(names::INTAKE, "outcome" => if done.accepted.is_some() { "accepted" } else { "known" })
        .increment(1);
    let used = done.accepted.as_ref().is_some_and(|accepted| !accepted.duplicate && !accepted.replayed);
    Ok((done.answer, used))
}

/// Copies the bytes under a key of our own: a producer may change its object later.
async fn store(app: &App, content: &Content, key: &Key) -> Result<Stored, Failed> {
    let stored = match content {
        Content::Inline(bytes) => app.objects().put(key, bytes.clone()).await?,
        Content::Object(from) => {
            let download = app.objects().get_stream(from, None).await?;
            app.objects().put_stream(key, download.body, app.config().max_upload_bytes).await?
        }
    };
    match stored.size {
        0 => Err(Failed::Rejected(Rejection::new("empty", "the file is empty"))),
        _ => Ok(stored),
    }
}

fn encode(entry: &IntakeEntry, sender: &Sender, answer: &EventAnswer) -> IntakeAnswer {
    let mut result = v1::IntakeResult {
        event_id: sender.id.clone(),
        event_source: sender.source.clone(),
        entry_id: entry.entry_id.clone(),
        ..v1::IntakeResult::default()
    };
    match answer {
        EventAnswer::Accepted { document, version } => {
            result.set_status(v1::IntakeStatus::Accepted);
            result.document = document.to_string();
            result.version = *version;
        }
        EventAnswer::Rejected { code, message } => {
            metrics::counter!(names::INTAKE, "outcome" => "rejected").increment(1);
            result.set_status(v1::IntakeStatus::Rejected);
            result.error_code.clone_from(code);
            result.error_message.clone_from(message);
        }
    }
    let envelope = v1::Envelope {
        envelope_version: ENVELOPE_VERSION,
        // The same entry has one answer, however often it is worked on.
        id: derived_event_id(&format!("{}/{}", entry.tenant, entry.entry_id), "intake", 0),
        source: "riacho/gateway".to_owned(),
        r#type: "riacho.events.v1.IntakeResult".to_owned(),
        subject: result.document.clone(),
        tenant: entry.tenant.to_string(),
        document: result.document.clone(),
        version: result.version,
        payload: Some(Payload::IntakeResult(result)),
        ..v1::Envelope::default()
    };
    IntakeAnswer { entry_id: entry.entry_id.clone(), envelope: Bytes::from(envelope.encode_to_vec()) }
}

#[cfg(test)]
mod tests {
    use riacho_store::{Conflict, Error};

    use super::*;

    #[test]
    fn what_the_deployment_lacks_lets_an_event_wait() {
        for conflict in [Conflict::TenantNotActive, Conflict::NoLiveSpace] {
            assert!(matches!(Failed::from(Error::from(conflict)), Failed::Later(_)));
        }
        assert!(matches!(Failed::from(Error::Unavailable("away".into())), Failed::Later(_)));
        for error in [Error::from(Conflict::ExternalIdTaken), Error::Invalid("no text".into())] {
            assert!(matches!(Failed::from(error), Failed::Rejected(rejection) if rejection.is_final()));
        }
    }
}
