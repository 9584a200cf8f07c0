//! What belongs to a document: the original, the text, the chunks.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use riacho_domain::{DocumentId, TenantId, chunk_id};
use riacho_objects::{Error as ObjectsError, Key};
use riacho_store::{ChunkPage, TextRef};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Read},
    documents::page_limit,
    extract::{DocumentPath, QueryString},
    names::attachment,
    problem::{Problem, ProblemBody},
    ranges::{Wanted, wanted},
    shapes::pages,
};

/// The most chunks of one page.
const MAX_CHUNKS: u32 = 1_000;
const DEFAULT_CHUNKS: u32 = 100;
/// The header that names the version of a text.
const VERSION: HeaderName = HeaderName::from_static("riacho-version");

/// Routes that stream files and so have no time limit of their own.
pub(super) fn downloads() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(original)).routes(routes!(text))
}

/// The other routes.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(chunks))
}

/// Which version.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VersionQuery {
    /// A version; when not given the live one, or the latest where none is live.
    version: Option<u32>,
}

/// Download the original.
///
/// Knows `Range`, `If-Range` and `If-None-Match`. Always sent as an attachment.
#[utoipa::path(
    get, path = "/api/v1/documents/{id}/content", tag = "documents",
    params(("id" = Uuid, Path, description = "The document."), VersionQuery),
    responses(
        (status = 200, description = "The bytes.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "Some of the bytes.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "You have them."),
        (status = 404, description = "No such document or version.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The original is past its retention, or was not uploaded yet.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "The range is outside the file.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn original(
    State(app): State<App>,
    caller: Caller<Read>,
    DocumentPath(document): DocumentPath,
    QueryString(query): QueryString<VersionQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = app.store().original(&caller.tenant, document, query.version).await?;
    let Some(original) = found else {
        return Err(no_original(&app, &caller.tenant, document, query.version).await?);
    };
    if original.purged_at.is_some() {
        return Err(Problem::conflict("original_gone", "the original is past its retention and was removed"));
    }
    let size = original.size;
    let etag = format!("\"{}\"", hex::encode(original.sha256));
    let range = match wanted(&headers, &etag, size) {
        Wanted::NotModified => return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response()),
        Wanted::Unsatisfiable => return Err(Problem::range_not_satisfiable(size)),
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
    };
    let key =
        Key::parse_for_tenant(&caller.tenant, &original.object_key).map_err(|e| Problem::internal(&e))?;
    let download = app.objects().get_stream(&key, range.clone()).await.map_err(gone_as_conflict)?;
    let length = range.as_ref().map_or(size, |range| range.end - range.start);
    let mut response = Response::new(Body::from_stream(download.body));
    if let Some(range) = &range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut response, header::CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    for (name, value) in [
        (header::CONTENT_TYPE, original.content_type.as_str()),
        (header::CONTENT_LENGTH, &length.to_string()),
        (header::CONTENT_DISPOSITION, &attachment(&original.filename)),
        (header::ETAG, &etag),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "private, no-cache"),
        // An uploaded page must never run as one of ours.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (HeaderName::from_static("riacho-version"), &original.version.to_string()),
    ] {
        set(&mut response, name, value);
    }
    Ok(response)
}

/// Why there is no original: the document is unknown, or its upload is awaited.
async fn no_original(
    app: &App,
    tenant: &TenantId,
    document: DocumentId,
    version: Option<u32>,
) -> Result<Problem, Problem> {
    let Some(status) = app.store().status(tenant, document).await? else {
        return Ok(Problem::not_found("document"));
    };
    Ok(match version {
        Some(version) if version == 0 || version > status.version => Problem::not_found("version"),
        _ => Problem::conflict("not_uploaded", "the original was not uploaded yet"),
    })
}

fn gone_as_conflict(error: ObjectsError) -> Problem {
    match error {
        ObjectsError::NotFound { .. } => {
            Problem::conflict("original_gone", "the original is no longer stored")
        }
        other => other.into(),
    }
}

/// Sets a header; a value that no header can hold is left out.
pub(super) fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Which part of a text.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TextQuery {
    /// A version; the live one when not given.
    version: Option<u32>,
    /// Where to begin, in Unicode code points.
    offset: Option<u64>,
    /// How many code points; to the end when not given.
    limit: Option<u64>,
}

/// A text, or a part of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TextBody {
    /// The document.
    id: Uuid,
    /// The version that the text is of.
    version: u32,
    /// Its language, ISO 639-1.
    language: Option<String>,
    /// Where the part begins, in Unicode code points.
    offset: u64,
    /// Code points of the part.
    length: u64,
    /// Code points of the whole text.
    total: u64,
    /// The text.
    text: String,
}

/// Read the text.
///
/// The stored text that the offsets of chunks and hits point into, as `text/plain`; with
/// `Accept: application/json` inside an object. `offset` and `limit` count Unicode code points.
#[utoipa::path(
    get, path = "/api/v1/documents/{id}/text", tag = "documents",
    params(("id" = Uuid, Path, description = "The document."), TextQuery),
    responses(
        (status = 200, description = "The text.", content(
            (String = "text/plain; charset=utf-8"),
            (TextBody = "application/json"),
        )),
        (status = 404, description = "No such document or version.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has no text yet.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn text(
    State(app): State<App>,
    caller: Caller<Read>,
    DocumentPath(document): DocumentPath,
    QueryString(query): QueryString<TextQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = app.store().text_of(&caller.tenant, document, query.version).await?;
    let Some(text) = found else {
        return Err(not_live(&app, &caller.tenant, document, query.version).await?);
    };
    let key = Key::text(&caller.tenant, document, text.version, text.run);
    let mut response = if query.offset.is_none() && query.limit.is_none() && !asks_for_json(&headers) {
        whole_text(&app, &key).await?
    } else {
        text_part(&app, &key, document, &text, &query, asks_for_json(&headers)).await?
    };
    set(&mut response, VERSION, &text.version.to_string());
    set(&mut response, header::CACHE_CONTROL, "private, no-cache");
    set(&mut response, header::VARY, "accept");
    Ok(response)
}

async fn whole_text(app: &App, key: &Key) -> Result<Response, Problem> {
    let download = app.objects().get_stream(key, None).await?;
    let mut response = Response::new(Body::from_stream(download.body));
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    set(&mut response, header::CONTENT_LENGTH, &download.size.to_string());
    Ok(response)
}

async fn text_part(
    app: &App,
    key: &Key,
    document: DocumentId,
    of: &TextRef,
    query: &TextQuery,
    json: bool,
) -> Result<Response, Problem> {
    let bytes = app.objects().get(key, app.config().max_text_slice_bytes).await?;
    let whole = std::str::from_utf8(&bytes).map_err(|e| Problem::internal(&e))?;
    let offset = query.offset.unwrap_or(0);
    let text = slice(whole, offset, query.limit);
    if !json {
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.to_owned()).into_response());
    }
    Ok(Json(TextBody {
        id: document.0,
        version: of.version,
        language: Some(of.language.clone()).filter(|language| !language.is_empty()),
        offset,
        length: text.chars().count() as u64,
        total: whole.chars().count() as u64,
        text: text.to_owned(),
    })
    .into_response())
}

fn asks_for_json(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepts
        .flat_map(|value| value.split(','))
        .map(|part| part.split(';').next().unwrap_or_default().trim());
    types.find(|name| matches!(*name, "application/json" | "text/plain" | "text/*" | "*/*"))
        == Some("application/json")
}

/// The code points from `offset`, `limit` of them.
fn slice(text: &str, offset: u64, limit: Option<u64>) -> &str {
    let at = |text: &str, count: u64| {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        text.char_indices().nth(count).map_or(text.len(), |(at, _)| at)
    };
    let rest = &text[at(text, offset)..];
    limit.map_or(rest, |limit| &rest[..at(rest, limit)])
}

/// Why there is no text: the document is unknown, or is not that far.
async fn not_live(
    app: &App,
    tenant: &TenantId,
    document: DocumentId,
    version: Option<u32>,
) -> Result<Problem, Problem> {
    let Some(status) = app.store().status(tenant, document).await? else {
        return Ok(Problem::not_found("document"));
    };
    Ok(match version {
        Some(version) if version == 0 || version > status.version => Problem::not_found("version"),
        _ => {
            Problem::conflict("not_ready", format!("there is no text yet; the document is {}", status.state))
        }
    })
}

/// Where a page of chunks begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChunksQuery {
    /// Where the page before ended.
    cursor: Option<String>,
    /// How many, 1 to 1000; 100 when not given.
    limit: Option<u32>,
}

/// A page of chunks, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChunksBody {
    /// The document.
    id: Uuid,
    /// The live version, which the chunks are of.
    version: u32,
    /// The chunks.
    chunks: Vec<ChunkBody>,
    /// Where the next page begins; none after the last.
    next_cursor: Option<String>,
}

/// A chunk.
#[derive(Debug, Serialize, ToSchema)]
struct ChunkBody {
    /// Its id.
    chunk_id: String,
    /// Its place in the document, from 0.
    ordinal: u32,
    /// Its text, equal to the stored text between the offsets.
    text: String,
    /// Offsets into the stored text in Unicode code points; the end is exclusive.
    char_start: u64,
    char_end: u64,
    /// Offsets in UTF-8 bytes.
    byte_start: u64,
    byte_end: u64,
    /// The pages that it stands on; empty where the format has none.
    pages: Vec<u32>,
    /// The headings above it, outermost first.
    heading_path: Vec<String>,
    /// The header row of the table that it goes on with, or its first cells where it is long; it stands before the chunk and is no part of
    /// it. None where the chunk does not begin inside of a table.
    table_header: Option<String>,
    /// Its length in tokens.
    token_count: u32,
}

fn chunks_body(document: DocumentId, page: ChunkPage) -> ChunksBody {
    let version = page.version;
    let chunks = page.chunks.into_iter().map(|chunk| ChunkBody {
        chunk_id: chunk_id(document, version, chunk.ordinal),
        ordinal: chunk.ordinal,
        text: chunk.text,
        char_start: chunk.char_start,
        char_end: chunk.char_end,
        byte_start: chunk.byte_start,
        byte_end: chunk.byte_end,
        pages: pages(chunk.page_first, chunk.page_last),
        heading_path: chunk.heading_path,
        table_header: chunk.table_header,
        token_count: chunk.token_count,
    });
    ChunksBody { id: document.0, version, chunks: chunks.collect(), next_cursor: page.next_cursor }
}

/// Read the chunks of the live version.
#[utoipa::path(
    get, path = "/api/v1/documents/{id}/chunks", tag = "documents",
    params(("id" = Uuid, Path, description = "The document."), ChunksQuery),
    responses(
        (status = 200, description = "A page of chunks.", body = ChunksBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has no chunks yet.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn chunks(
    State(app): State<App>,
    caller: Caller<Read>,
    DocumentPath(document): DocumentPath,
    QueryString(query): QueryString<ChunksQuery>,
) -> Result<Json<ChunksBody>, Problem> {
    let limit = page_limit(query.limit, DEFAULT_CHUNKS, MAX_CHUNKS)?;
    match app.store().chunks(&caller.tenant, document, query.cursor.as_deref(), limit).await? {
        Some(page) => Ok(Json(chunks_body(document, page))),
        None => Err(not_live(&app, &caller.tenant, document, None).await?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_text_counts_code_points() {
        let text = "aé日😀b";
        assert_eq!(slice(text, 1, Some(3)), "é日😀");
        assert_eq!(slice(text, 4, None), "b");
        assert_eq!(slice(text, 0, Some(99)), text);
        assert_eq!(slice(text, 99, Some(1)), "");
        assert_eq!(slice(text, u64::MAX, Some(u64::MAX)), "");
    }

    #[test]
    fn text_is_plain_unless_json_is_asked_for() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            asks_for_json(&headers)
        };
        assert!(with("application/json") && with("application/json; q=0.9, */*"));
        assert!(!with("*/*") && !with("text/plain, application/json") && !asks_for_json(&HeaderMap::new()));
    }
}
