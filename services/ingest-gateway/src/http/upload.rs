//! One upload, whatever its shape: a form with a file, or a raw body with a query.

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Request, multipart::Field},
    http::{HeaderMap, header, request::Parts},
};
use futures::TryStreamExt;
use riacho_domain::{DocumentId, TenantId, UploadId};
use riacho_objects::{Key, Stored};
use riacho_store::{Accept, Accepted, Body as StoredBody, Idempotency, Target};
use sha2::{Digest, Sha256};

use super::{
    App,
    body::{self, Incoming},
    names::{clean_filename, content_type},
    problem::Problem,
    settings::{OwnChunking, Settings},
    trace::Trace,
};

/// What a form may have beside its file: boundaries, heads and fields.
pub(super) const FORM_OVERHEAD_BYTES: u64 = 1 << 20;
/// The longest Idempotency-Key.
const MAX_IDEMPOTENCY_KEY: usize = 255;
/// The header of it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A file in the object store, and what was said about it.
pub(super) struct Received {
    pub(super) key: Key,
    pub(super) stored: Stored,
    pub(super) filename: String,
    pub(super) content_type: String,
    pub(super) settings: Settings,
}

/// Takes an upload in: the file into the object store, then the row. When it fails before the row,
/// the file is deleted.
pub(crate) async fn take_in(
    app: &App,
    tenant: &TenantId,
    target: Target,
    trace: Trace,
    request: Request,
) -> Result<Accepted, Problem> {
    riacho_service::FOREGROUND.request();
    let (parts, body) = request.into_parts();
    let incoming = Incoming::new(body, app.config().idle_timeout());
    let key = Key::original(tenant, UploadId::new());
    let received = receive(app, &key, &parts, incoming).await.inspect_err(|_| app.discard(key.clone()))?;
    let stored = accept_of(app, tenant, target, trace, &parts.headers, received);
    let accept = stored.inspect_err(|_| app.discard(key.clone()))?;
    Ok(app.accept(&accept, &key).await?)
}

/// What is to be written of a file that is in the object store.
pub(super) fn accept_of(
    app: &App,
    tenant: &TenantId,
    target: Target,
    trace: Trace,
    headers: &HeaderMap,
    received: Received,
) -> Result<Accept, Problem> {
    let Received { key, stored, filename, content_type, settings } = received;
    let body = StoredBody::Stored { size: stored.size, sha256: stored.sha256 };
    let mut accept = Accept::new(tenant.clone(), filename, key.to_string(), body);
    accept.target = target;
    accept.content_type = content_type;
    accept.traceparent = trace.traceparent;
    let chunking = settings.own_chunking();
    settings.apply(&mut accept, app.config())?;
    accept.idempotency = idempotency_key(headers)?
        .map(|key| Idempotency { key, request_hash: request_hash(&accept, &chunking) });
    Ok(accept)
}

async fn receive(app: &App, key: &Key, parts: &Parts, incoming: Incoming) -> Result<Received, Problem> {
    let limit = app.config().max_upload_bytes;
    let mut settings = Settings::from_query(parts.uri.query(), app.config())?;
    // Before the file: a key that cannot be used must not cost an upload.
    idempotency_key(&parts.headers)?;
    let claimed = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form =
        claimed.is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("multipart/form-data"));
    let overhead = if is_form { FORM_OVERHEAD_BYTES } else { 0 };
    if body::declared_length(&parts.headers).is_some_and(|length| length > limit.saturating_add(overhead)) {
        return Err(Problem::too_large("file", limit));
    }
    if is_form {
        return Form::new(app, key, settings).read(&parts.headers, incoming).await;
    }
    let filename =
        settings.filename.take().ok_or_else(|| Problem::field("filename", "is missing from the query"))?;
    let filename = clean_filename(&filename);
    settings.chunking(app.config())?;
    let stored = body::store(app.objects(), key, incoming, limit).await?;
    Ok(Received {
        key: key.clone(),
        stored,
        content_type: content_type(claimed, &filename),
        filename,
        settings,
    })
}

/// A form on its way in.
struct Form<'a> {
    app: &'a App,
    key: &'a Key,
    settings: Settings,
    file: Option<(Stored, String, Option<String>)>,
}

impl<'a> Form<'a> {
    fn new(app: &'a App, key: &'a Key, settings: Settings) -> Self {
        Form { app, key, settings, file: None }
    }

    async fn read(mut self, headers: &HeaderMap, incoming: Incoming) -> Result<Received, Problem> {
        let mut request = Request::new(Body::from_stream(incoming));
        *request.headers_mut() = headers.clone();
        // The limit for each field is its own; axum's is for what is read whole into memory.
        DefaultBodyLimit::disable().apply(&mut request);
        let broken =
            |error: &dyn std::fmt::Display| Problem::bad_request(format!("the form cannot be read: {error}"));
        let mut form = Multipart::from_request(request, &()).await.map_err(|e| broken(&e.body_text()))?;
        while let Some(field) = form.next_field().await.map_err(of_multipart)? {
            let name = field.name().unwrap_or_default().to_owned();
            match name.as_str() {
                "file" => self.take_file(field).await?,
                _ => self.take_text(&name, field).await?,
            }
        }
        let (stored, filename, claimed) =
            self.file.ok_or_else(|| Problem::field("file", "is missing from the form"))?;
        let filename = clean_filename(self.settings.filename.as_deref().unwrap_or(&filename));
        let content_type = content_type(claimed.as_deref(), &filename);
        Ok(Received { key: self.key.clone(), stored, filename, content_type, settings: self.settings })
    }

    async fn take_file(&mut self, field: Field<'_>) -> Result<(), Problem> {
        if self.file.is_some() {
            return Err(Problem::field("file", "may be there once"));
        }
        let filename = field.file_name().unwrap_or_default().to_owned();
        let claimed = field.content_type().map(str::to_owned);
        let pieces = field.map_err(FormError);
        let limit = self.app.config().max_upload_bytes;
        let stored = body::store(self.app.objects(), self.key, pieces, limit).await?;
        self.file = Some((stored, filename, claimed));
        Ok(())
    }

    async fn take_text(&mut self, name: &str, mut field: Field<'_>) -> Result<(), Problem> {
        let limit = self.app.config().max_metadata_bytes;
        let mut bytes = Vec::new();
        while let Some(piece) = field.chunk().await.map_err(of_multipart)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > limit {
                return Err(Problem::field(name, format!("is larger than {limit} bytes")));
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| Problem::field(name, "is not UTF-8"))?;
        self.settings.set(name, &text, self.app.config())
    }
}

/// An error inside a form's field.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct FormError(#[from] axum::extract::multipart::MultipartError);

impl From<FormError> for Problem {
    fn from(error: FormError) -> Self {
        of_multipart(error.0)
    }
}

pub(super) fn of_multipart(error: axum::extract::multipart::MultipartError) -> Problem {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(current) = cause {
        if current.is::<body::BodyError>() && matches!(current.downcast_ref(), Some(body::BodyError::Slow)) {
            return Problem::slow_body();
        }
        cause = current.source();
    }
    Problem::bad_request(format!("the form cannot be read: {}", error.body_text()))
}

/// The Idempotency-Key of a request, where it has one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok(key) if (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Problem::field(
            "Idempotency-Key",
            format!("must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters"),
        )),
    }
}

/// What makes two requests the same: target, bytes, name and what they say of settings. What the gateway's
/// configuration adds is no part of a request.
pub(crate) fn request_hash(accept: &Accept, chunking: &OwnChunking) -> [u8; 32] {
    let target = match accept.target {
        Target::New => String::new(),
        Target::NewVersionOf(DocumentId(id)) => id.to_string(),
    };
    let body = match &accept.body {
        StoredBody::Stored { sha256, .. } => hex::encode(sha256),
        StoredBody::Awaited { .. } => "awaited".to_owned(),
    };
    let metadata = accept.metadata.as_ref().map(|map| serde_json::to_string(map).unwrap_or_default());
    // Debug quotes, so no two lists of fields look the same.
    let text = format!(
        "{target:?} {body:?} {:?} {:?} {:?} {:?} {metadata:?} {:?} {} {:?}",
        accept.filename,
        accept.content_type,
        accept.external_id,
        accept.collection,
        chunking,
        accept.lane,
        accept.ttl
    );
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Config, config::ChunkingConfig};

    /// The hash of an upload with a query, at a gateway that cuts in pieces of `max_tokens`.
    fn hash(query: &str, max_tokens: u32) -> [u8; 32] {
        let chunking = ChunkingConfig { max_tokens, ..ChunkingConfig::default() };
        let config = Config { chunking, ..Config::default() };
        let settings = Settings::from_query(Some(query), &config).unwrap();
        let own = settings.own_chunking();
        let body = StoredBody::Stored { size: 1, sha256: [7; 32] };
        let mut accept = Accept::new("acme".parse().unwrap(), "a.txt", "key", body);
        settings.apply(&mut accept, &config).unwrap();
        request_hash(&accept, &own)
    }

    #[test]
    fn a_request_is_the_same_at_gateways_that_are_configured_differently() {
        assert_eq!(hash("lane=bulk", 256), hash("lane=bulk", 300));
        assert_ne!(hash("lane=bulk", 256), hash("lane=bulk&chunk_max_tokens=256", 256));
        assert_ne!(hash("lane=bulk", 256), hash("lane=background", 256));
    }
}
