//! Uploading a file: a form with the bytes, a purpose, and perhaps an end.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Request, State, multipart::Field},
    http::HeaderMap,
};
use futures::TryStreamExt;
use riacho_domain::UploadId;
use riacho_objects::{Key, Stored};
use riacho_store::NewFile;

use super::{
    super::{
        App,
        auth::{Caller, Upload},
        body::{self, Incoming},
        names::{clean_filename, content_type},
        problem::Problem,
        upload::{FORM_OVERHEAD_BYTES, FormError, of_multipart},
    },
    files::FileBody,
};

/// What a file may be for. It is kept and answered; nothing depends on it.
const PURPOSES: [&str; 6] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];
/// How long a file may live, in seconds: an hour to 30 days.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 3_600..=2_592_000;
/// The longest text of a field.
const MAX_FIELD_BYTES: usize = 1_024;

/// Upload a file.
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller<Upload>,
    request: Request,
) -> Result<Json<FileBody>, Problem> {
    riacho_service::FOREGROUND.request();
    let (parts, body) = request.into_parts();
    let incoming = Incoming::new(body, app.config().idle_timeout());
    let key = Key::original(&caller.tenant, UploadId::new());
    let received =
        receive(&app, &key, &parts.headers, incoming).await.inspect_err(|_| app.discard(key.clone()))?;
    match app.store().create_file(&caller.tenant, &received).await {
        Ok(file) => Ok(Json(file.into())),
        Err(error) => {
            // After a lost connection the row may be there; the janitor finds orphans.
            if !error.is_retryable() {
                app.discard(key);
            }
            Err(error.into())
        }
    }
}

/// The fields of a form.
#[derive(Default)]
struct Form {
    file: Option<(Stored, String, Option<String>)>,
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

async fn receive(app: &App, key: &Key, headers: &HeaderMap, incoming: Incoming) -> Result<NewFile, Problem> {
    let limit = app.config().max_upload_bytes;
    let length = body::declared_length(headers);
    if length.is_some_and(|length| length > limit.saturating_add(FORM_OVERHEAD_BYTES)) {
        return Err(Problem::too_large("file", limit));
    }
    let mut request = Request::new(Body::from_stream(incoming));
    *request.headers_mut() = headers.clone();
    // The limit for each field is its own; axum's is for what is read whole into memory.
    DefaultBodyLimit::disable().apply(&mut request);
    let multipart = Multipart::from_request(request, &()).await;
    let mut multipart =
        multipart.map_err(|e| Problem::bad_request(format!("the form cannot be read: {}", e.body_text())))?;
    let mut form = Form::default();
    while let Some(field) = multipart.next_field().await.map_err(of_multipart)? {
        let name = field.name().unwrap_or_default().to_owned();
        let place = match name.as_str() {
            "file" => {
                form.file = Some(take_file(app, key, form.file.is_some(), field).await?);
                continue;
            }
            "purpose" => &mut form.purpose,
            "expires_after[anchor]" => &mut form.anchor,
            "expires_after[seconds]" => &mut form.seconds,
            _ => return Err(Problem::field(name, "is not a field of a file")),
        };
        *place = Some(text(&name, field).await?);
    }
    form.check(key)
}

async fn take_file(
    app: &App,
    key: &Key,
    is_there: bool,
    field: Field<'_>,
) -> Result<(Stored, String, Option<String>), Problem> {
    if is_there {
        return Err(Problem::field("file", "may be there once"));
    }
    let filename = field.file_name().unwrap_or_default().to_owned();
    let claimed = field.content_type().map(str::to_owned);
    let pieces = field.map_err(FormError::from);
    let stored = body::store(app.objects(), key, pieces, app.config().max_upload_bytes).await?;
    Ok((stored, filename, claimed))
}

async fn text(name: &str, mut field: Field<'_>) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(of_multipart)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_FIELD_BYTES {
            return Err(Problem::field(name, format!("is larger than {MAX_FIELD_BYTES} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| Problem::field(name, "is not UTF-8"))
}

impl Form {
    fn check(self, key: &Key) -> Result<NewFile, Problem> {
        let purpose = self.purpose.ok_or_else(|| Problem::field("purpose", "is missing from the form"))?;
        if !PURPOSES.contains(&purpose.as_str()) {
            return Err(Problem::field("purpose", format!("must be one of {}", PURPOSES.join(", "))));
        }
        let ttl = ttl(self.anchor.as_deref(), self.seconds.as_deref())?;
        let (stored, filename, claimed) =
            self.file.ok_or_else(|| Problem::field("file", "is missing from the form"))?;
        let filename = clean_filename(&filename);
        Ok(NewFile {
            object_key: key.to_string(),
            content_type: content_type(claimed.as_deref(), &filename),
            filename,
            purpose,
            size: stored.size,
            sha256: stored.sha256,
            ttl,
        })
    }
}

fn ttl(anchor: Option<&str>, seconds: Option<&str>) -> Result<Option<Duration>, Problem> {
    match (anchor, seconds) {
        (None, None) => Ok(None),
        (Some("created_at"), Some(seconds)) => {
            let seconds = seconds.parse().ok().filter(|seconds| TTL_SECONDS.contains(seconds));
            seconds.map(|seconds| Some(Duration::from_secs(seconds))).ok_or_else(|| {
                let (least, most) = (TTL_SECONDS.start(), TTL_SECONDS.end());
                Problem::field("expires_after[seconds]", format!("must be {least} to {most}"))
            })
        }
        (Some("created_at"), None) => Err(Problem::field("expires_after[seconds]", "is missing")),
        _ => Err(Problem::field("expires_after[anchor]", "must be `created_at`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_an_anchor_and_a_time_within_bounds() {
        assert_eq!(ttl(None, None).ok(), Some(None));
        assert_eq!(ttl(Some("created_at"), Some("3600")).ok(), Some(Some(Duration::from_secs(3_600))));
        for (anchor, seconds) in [
            (None, Some("3600")),
            (Some("created_at"), None),
            (Some("last_active_at"), Some("3600")),
            (Some("created_at"), Some("3599")),
            (Some("created_at"), Some("2592001")),
            (Some("created_at"), Some("soon")),
        ] {
            assert!(ttl(anchor, seconds).is_err(), "{anchor:?} {seconds:?}");
        }
    }
}
