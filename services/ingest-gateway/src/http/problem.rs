//! Every error that a client sees is made here: RFC 9457 problem details.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use riacho_store::Quota;
use serde::Serialize;
use utoipa::ToSchema;

use crate::metrics::names;

/// The media type of problem details.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// The longest text about what a client sent, in bytes of JSON.
const LONGEST: usize = 1_000;
/// The same for one of many in an answer: the detail, a field's name, and what is wrong with it.
const LONGEST_OF_MANY: [usize; 3] = [600, 100, 400];

/// An error as a client sees it (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ProblemBody {
    /// Names the kind of problem for good: `urn:riacho:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:riacho:problem:too_large")]
    kind: String,
    /// The kind of problem, for people.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The kind of problem, for programs.
    #[schema(example = "too_large")]
    code: &'static str,
    /// What was wrong this time.
    detail: String,
    /// The fields that were wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// What was wrong with one field.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// The field's name, with dots and brackets where it is nested.
    pub(crate) field: String,
    /// What was wrong.
    pub(crate) message: String,
}

/// An error on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_seconds: Option<u64>,
    content_range: Option<u64>,
    stays: bool,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
            content_range: None,
            stays: false,
        }
    }

    /// A request that cannot be understood.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", shortened(detail.into(), LONGEST))
    }

    /// A field of the request that is missing, unknown or out of its range.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (shortened(field.into(), LONGEST), shortened(message.into(), LONGEST));
        let mut problem =
            Self::new(StatusCode::BAD_REQUEST, "invalid_field", format!("`{field}`: {message}"));
        problem.errors.push(FieldError { field, message });
        problem
    }

    /// No key, or one that is not known, has expired or was revoked.
    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// A key that may not do this.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// A signed URL that was changed, or is used too late.
    pub(crate) fn refused_upload(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "signature_refused", detail)
    }

    /// Nothing of this name, as far as the caller's tenant can see.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} not found"))
    }

    /// A path that leads nowhere.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing under this path")
    }

    /// A path that does not know the method.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not know the method")
    }

    /// A command that the document's state does not allow.
    pub(crate) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// A request that contradicts an earlier one of the same key.
    pub(crate) fn idempotency_key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "the Idempotency-Key was used for another request",
        )
    }

    /// A file without bytes.
    pub(crate) fn empty() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "empty", "the file is empty")
    }

    /// A body over its limit.
    pub(crate) fn too_large(what: &str, limit_bytes: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the {what} is larger than the limit of {limit_bytes} bytes"),
        )
    }

    /// An archive, or a file of one, that cannot be taken.
    pub(crate) fn archive(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// A body of a type that is not understood here.
    pub(crate) fn unsupported_media_type(detail: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// A range outside the file.
    pub(crate) fn range_not_satisfiable(size: u64) -> Self {
        let detail = format!("the range is outside the file's {size} bytes");
        let mut problem = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
        problem.content_range = Some(size);
        problem
    }

    /// The client sent nothing for too long.
    pub(crate) fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "nothing of the body arrived for too long")
    }

    /// A client over its rate.
    pub(crate) fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many requests from this address")
            .after(retry_after_seconds)
    }

    /// A tenant over a rate of its own.
    pub(crate) fn over_rate(what: &str, retry_after_seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", format!("too many {what} of this tenant"))
            .after(retry_after_seconds)
    }

    /// A quota that is used up. It is measured every few seconds.
    fn over_quota(quota: Quota, detail: String) -> Self {
        metrics::counter!(names::REJECTIONS, "reason" => "quota").increment(1);
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "quota_exceeded", detail).after(10);
        // What is on its way ends by itself; what is stored stays until somebody deletes it.
        problem.stays = quota != Quota::Unfinished;
        problem
    }

    /// Not now; later may go well.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).after(1)
    }

    /// The request took too long.
    pub(crate) fn timed_out() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "the request took too long").after(1)
    }

    /// The object store has no room. It may be made, so clients come again, as for a store that is away.
    pub(crate) fn out_of_space() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "out_of_space", "there is no space left for files")
            .after(5)
    }

    /// A fault of ours. The reason goes to the log, not to the client.
    pub(crate) fn internal(reason: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %reason, "request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong here; the log says what",
        )
    }

    fn after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    /// The same as one of many in an answer, whose length is bounded.
    pub(crate) fn one_of_many(mut self) -> Self {
        let [detail, field, message] = LONGEST_OF_MANY;
        self.detail = shortened(self.detail, detail);
        self.errors.truncate(1);
        for error in &mut self.errors {
            error.field = shortened(std::mem::take(&mut error.field), field);
            error.message = shortened(std::mem::take(&mut error.message), message);
        }
        self
    }

    /// The kind of problem.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// What was wrong.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether something is away or full that all requests need: later the same may go well.
    pub(crate) fn is_of_server(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// Whether it is a fault of ours.
    pub(crate) fn is_internal(&self) -> bool {
        self.status == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// Whether the same request stays refused until somebody does something about it.
    pub(crate) fn stays(&self) -> bool {
        self.stays || self.status == StatusCode::CONFLICT
    }

    /// After how many seconds to come again.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after_seconds
    }

    /// The first field that was wrong.
    pub(crate) fn first_field(&self) -> Option<&str> {
        self.errors.first().map(|error| error.field.as_str())
    }
}

/// A text that quotes what a client sent, without most of what is too long of it: begin and end say what it is about.
fn shortened(text: String, longest: usize) -> String {
    if fitting(text.chars(), longest) == text.len() {
        return text;
    }
    let (begin, end) = (fitting(text.chars(), longest / 4), fitting(text.chars().rev(), longest / 2));
    format!("{}[..]{}", &text[..begin], &text[text.len() - end..])
}

/// How many bytes of a text have so many in JSON at most.
pub(crate) fn fitting(chars: impl Iterator<Item = char>, most: usize) -> usize {
    let mut left = most;
    let fits = |c: &char| {
        let bytes = match c {
            '"' | '\\' => 2,
            '\0'..'\x20' => r"\u0000".len(),
            _ => c.len_utf8(),
        };
        left.checked_sub(bytes).map(|rest| left = rest).is_some()
    };
    chars.take_while(fits).map(char::len_utf8).sum()
}

/// Lets one line in a while through: of a server that is away, every request would say the same.
struct Seldom(Mutex<Option<Instant>>);

/// For PostgreSQL.
static POSTGRES: Seldom = Seldom(Mutex::new(None));
/// For the object store.
static OBJECTS: Seldom = Seldom(Mutex::new(None));

impl Seldom {
    const EVERY: Duration = Duration::from_secs(10);

    fn is_due(&self) -> bool {
        let (mut last, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let is_due = last.is_none_or(|last| now - last >= Self::EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

impl From<riacho_store::Error> for Problem {
    fn from(error: riacho_store::Error) -> Self {
        use riacho_store::{Conflict, Error};
        match error {
            Error::Unavailable(reason) => {
                if POSTGRES.is_due() {
                    tracing::warn!(error = %reason, "postgres is not available");
                }
                Problem::unavailable("the database is not available")
            }
            Error::NotFound(what) => Problem::not_found(what),
            Error::Invalid(reason) => Problem::bad_request(reason),
            Error::Conflict(conflict) => {
                let detail = conflict.to_string();
                match conflict {
                    Conflict::IdempotencyKeyReused => Problem::idempotency_key_reused(),
                    Conflict::TenantNotActive => Problem::forbidden(detail),
                    Conflict::NoLiveSpace => Problem::unavailable(detail),
                    Conflict::Exists(_) | Conflict::ExternalIdTaken => Problem::conflict("exists", detail),
                    Conflict::NotEmpty => Problem::conflict("not_empty", detail),
                    Conflict::OriginalGone => Problem::conflict("original_gone", detail),
                    Conflict::OverQuota(quota) => Problem::over_quota(quota, detail),
                    Conflict::NothingToRetry(_)
                    | Conflict::NothingToCancel(_)
                    | Conflict::NoUploadAwaited(_)
                    | Conflict::SpaceIncomplete { .. }
                    | Conflict::SpaceLive
                    | Conflict::SpaceFallback
                    | Conflict::FallbackInUse { .. }
                    | Conflict::WebhookDisabled
                    | Conflict::SpaceRetired => Problem::conflict("state", detail),
                }
            }
            error if error.is_retryable() => {
                tracing::warn!(%error, "a transaction lost every attempt");
                Problem::unavailable("the database is busy")
            }
            other => Problem::internal(&other),
        }
    }
}

impl From<riacho_objects::Error> for Problem {
    fn from(error: riacho_objects::Error) -> Self {
        use riacho_objects::Error;
        match error {
            Error::TooLarge { limit_bytes } => Problem::too_large("file", limit_bytes),
            Error::Body { reason } => Problem::bad_request(format!("the body broke off: {reason}")),
            Error::Full => {
                if OBJECTS.is_due() {
                    tracing::error!("the object store is full");
                }
                Problem::out_of_space()
            }
            error if error.is_retryable() => {
                if OBJECTS.is_due() {
                    tracing::warn!(%error, "the object store is not available");
                }
                Problem::unavailable("the object store is not available")
            }
            other => Problem::internal(&other),
        }
    }
}

impl From<Problem> for ProblemBody {
    fn from(problem: Problem) -> Self {
        ProblemBody {
            kind: format!("urn:riacho:problem:{}", problem.code),
            title: problem.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: problem.status.as_u16(),
            code: problem.code,
            detail: problem.detail,
            errors: problem.errors,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let this = self.clone();
        let mut response = (self.status, Json(ProblemBody::from(self.clone()))).into_response();
        // For the layer that says it in other words.
        response.extensions_mut().insert(this);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"riacho\""));
        }
        if let Some(size) = self.content_range
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, value);
        }
        response
    }
}
