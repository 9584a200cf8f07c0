//! Documents: accept, replace, list, look at, delete.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use riacho_domain::DocumentId;
use riacho_store::{Accepted, Document, ListDocuments, Parent, Target};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Read, Upload, Write},
    extract::{DocumentPath, QueryString},
    missing::{self, MissingBody},
    problem::{Problem, ProblemBody},
    settings::{SettingsQuery, UploadForm},
    shapes::{DocumentState, ErrorBody, Links},
    trace::Trace,
    upload::take_in,
};

/// The header that says that an answer was given before.
const REPLAYED: &str = "idempotent-replayed";
/// The most documents of one page.
const MAX_PAGE: u32 = 200;
const DEFAULT_PAGE: u32 = 50;

/// Routes that carry a file and so have no time limit of their own.
pub(super) fn uploads() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(accept)).routes(routes!(replace))
}

/// The other routes.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, delete))
}

/// A document that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AcceptedBody {
    /// The document.
    id: Uuid,
    /// Its version, from 1.
    version: u32,
    /// Where it is on its way.
    #[schema(value_type = DocumentState)]
    state: &'static str,
    /// The same bytes with the same settings were there: this is that document.
    duplicate: bool,
    /// Where to go on.
    links: Links,
}

/// The answer to an accepted document: 202 with its address.
pub(super) fn accepted(accepted: &Accepted) -> Response {
    let body = AcceptedBody {
        id: accepted.document.0,
        version: accepted.version,
        state: accepted.state.as_str(),
        duplicate: accepted.duplicate,
        links: Links::of(accepted.document),
    };
    let location = HeaderValue::from_str(&body.links.document);
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if accepted.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Accept a document.
///
/// The body is either a form with the field `file` and any of the other fields, or the file itself
/// with the fields in the query. Once answered with 202, the document ends searchable, or failed
/// with a reason. The same bytes with the same settings are answered from the document that is there.
#[utoipa::path(
    post, path = "/api/v1/documents", tag = "documents",
    params(SettingsQuery, ("Idempotency-Key" = Option<String>, Header, description = "The same key with the same request gets the same answer.")),
    request_body(content(
        (UploadForm = "multipart/form-data"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 202, description = "Accepted.", body = AcceptedBody, headers(("Location" = String, description = "Address of the document."))),
        (status = "4XX", description = "Refused; the problem says why.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not now; `Retry-After` says when.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn accept(
    State(app): State<App>,
    caller: Caller<Upload>,
    trace: Trace,
    request: Request,
) -> Result<Response, Problem> {
    Ok(accepted(&take_in(&app, &caller.tenant, Target::New, trace, request).await?))
}

/// Give a document a new version.
///
/// The version that is live stays searchable until the new one is. Fields that are not given stay
/// as they are.
#[utoipa::path(
    put, path = "/api/v1/documents/{id}/content", tag = "documents",
    params(("id" = Uuid, Path, description = "The document."), SettingsQuery),
    request_body(content(
        (UploadForm = "multipart/form-data"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 202, description = "Accepted.", body = AcceptedBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused; the problem says why.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn replace(
    State(app): State<App>,
    caller: Caller<Upload>,
    trace: Trace,
    DocumentPath(document): DocumentPath,
    request: Request,
) -> Result<Response, Problem> {
    // Looked up first, so that an unknown id does not cost an upload.
    app.store().status(&caller.tenant, document).await?.ok_or_else(|| Problem::not_found("document"))?;
    Ok(accepted(&take_in(&app, &caller.tenant, Target::NewVersionOf(document), trace, request).await?))
}

/// A document. `version`, `state` and `error` are of the latest version; what describes the file and
/// its text is of the live version, or of the latest where none is live.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DocumentBody {
    /// Its id.
    id: Uuid,
    /// The uploader's own id.
    external_id: Option<String>,
    /// Where it belongs, if it was attached to another document.
    parent: Option<ParentBody>,
    /// Name of its collection.
    collection: String,
    /// Id of its collection.
    collection_id: Uuid,
    /// File name.
    filename: String,
    /// Media type that the uploader claimed.
    content_type: String,
    /// Type that the bytes are of, once they were looked at.
    detected_type: Option<String>,
    /// Bytes of the original.
    size: Option<u64>,
    /// What searches can filter on.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// The latest version.
    version: u32,
    /// The version that searches see.
    live_version: Option<u32>,
    /// State of the latest version.
    #[schema(value_type = DocumentState)]
    state: &'static str,
    /// Why the latest version failed.
    error: Option<ErrorBody>,
    /// Language of the text, ISO 639-1.
    language: Option<String>,
    /// Character encoding of the original, where it has one.
    encoding: Option<String>,
    /// How certain that is: `certain` (a byte order mark, or valid UTF-8), `declared` by the document, or a
    /// guess that is `likely` or `doubtful`.
    encoding_confidence: Option<String>,
    /// Pages, where the format has them.
    pages: Option<u32>,
    /// Pages that have no text, and why.
    missing_pages: Vec<MissingBody>,
    /// Chunks it was cut into.
    chunks: Option<u32>,
    /// When the document was first accepted.
    created_at: DateTime<Utc>,
    /// When it last changed.
    updated_at: DateTime<Utc>,
    /// When it ends by itself.
    expires_at: Option<DateTime<Utc>>,
    /// Where to go on.
    links: Links,
}

/// Where an attachment belongs. It goes when that goes: with the document, or when another version takes its place.
#[derive(Debug, Serialize, ToSchema)]
struct ParentBody {
    /// The document that it is attached to.
    document_id: Uuid,
    /// Which version of that.
    version: u32,
    /// Its place among the attachments, from 1.
    attachment: u32,
}

impl From<Parent> for ParentBody {
    fn from(parent: Parent) -> Self {
        Self { document_id: parent.document.0, version: parent.version, attachment: parent.attachment }
    }
}

impl From<Document> for DocumentBody {
    fn from(document: Document) -> Self {
        Self {
            id: document.id.0,
            external_id: document.external_id,
            parent: document.parent.map(ParentBody::from),
            collection: document.collection_name,
            collection_id: document.collection,
            filename: document.filename,
            content_type: document.content_type,
            detected_type: document.detected_type,
            size: document.size,
            metadata: document.metadata,
            version: document.version,
            live_version: document.live_version,
            state: document.state.as_str(),
            error: document.error.map(ErrorBody::from),
            language: document.language,
            encoding: document.encoding,
            encoding_confidence: document.encoding_confidence,
            missing_pages: missing::bodies(&document.missing),
            pages: document.pages,
            chunks: document.chunk_total,
            created_at: document.created_at,
            updated_at: document.updated_at,
            expires_at: document.expires_at,
            links: Links::of(document.id),
        }
    }
}

/// Which documents to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Name of a collection.
    collection: Option<String>,
    /// A state.
    state: Option<String>,
    /// The uploader's own id.
    external_id: Option<String>,
    /// A document: what is attached to it.
    parent: Option<Uuid>,
    /// Where the page before ended.
    cursor: Option<String>,
    /// How many, 1 to 200; 50 when not given.
    limit: Option<u32>,
}

/// A page of documents, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DocumentsBody {
    /// The documents.
    documents: Vec<DocumentBody>,
    /// Where the next page begins; none after the last.
    next_cursor: Option<String>,
}

/// The limit of a page; names the field when it is out of range.
pub(super) fn page_limit(asked: Option<u32>, default: u32, most: u32) -> Result<u32, Problem> {
    match asked.unwrap_or(default) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(Problem::field("limit", format!("must be 1 to {most}"))),
    }
}

/// List documents.
#[utoipa::path(
    get, path = "/api/v1/documents", tag = "documents", params(ListQuery),
    responses(
        (status = 200, description = "A page of documents.", body = DocumentsBody),
        (status = 400, description = "A field is wrong.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn list(
    State(app): State<App>,
    caller: Caller<Read>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Json<DocumentsBody>, Problem> {
    let mut asked =
        ListDocuments { limit: page_limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?, ..ListDocuments::default() };
    asked.state =
        query.state.map(|text| text.parse().map_err(|e: String| Problem::field("state", e))).transpose()?;
    asked.external_id = query.external_id;
    asked.parent = query.parent.map(DocumentId);
    asked.cursor = query.cursor;
    if let Some(name) = query.collection {
        let found = app.store().collection_named(&caller.tenant, &name).await?;
        asked.collection = Some(found.ok_or_else(|| Problem::not_found("collection"))?);
    }
    let page = app.store().documents(&caller.tenant, &asked).await?;
    Ok(Json(DocumentsBody {
        documents: page.items.into_iter().map(DocumentBody::from).collect(),
        next_cursor: page.next_cursor,
    }))
}

/// Look at a document.
#[utoipa::path(
    get, path = "/api/v1/documents/{id}", tag = "documents", params(("id" = Uuid, Path, description = "The document.")),
    responses(
        (status = 200, description = "The document.", body = DocumentBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn get(
    State(app): State<App>,
    caller: Caller<Read>,
    DocumentPath(document): DocumentPath,
) -> Result<Json<DocumentBody>, Problem> {
    let found = app.store().document(&caller.tenant, document).await?;
    found.map(|document| Json(document.into())).ok_or_else(|| Problem::not_found("document"))
}

/// Delete a document.
///
/// It is invisible at once; its text, chunks and files are removed soon after.
#[utoipa::path(
    delete, path = "/api/v1/documents/{id}", tag = "documents", params(("id" = Uuid, Path, description = "The document.")),
    responses(
        (status = 204, description = "Deleted."),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn delete(
    State(app): State<App>,
    caller: Caller<Write>,
    DocumentPath(document): DocumentPath,
) -> Result<StatusCode, Problem> {
    match caller.store(&app).delete_document(&caller.tenant, document).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("document")),
    }
}
