//! Search: embeds the query, asks the store, and says where each hit stands.

use std::time::Instant;

use axum::{
    body::Bytes,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, SpaceId};
use riacho_store::{Error as StoreError, Fallback, Filter, Hit, Mode, SearchRequest};
use riacho_traces::attributes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Find},
    extract::JsonBody,
    meaning::Meaning,
    problem::{Problem, ProblemBody},
    shapes::pages,
    trace::Within,
};
use crate::{answers::Answers, metrics::names};

/// The most hits of a search.
const MAX_TOP_K: u32 = riacho_store::MAX_TOP_K;
const DEFAULT_TOP_K: u32 = 10;
/// The longest query, in characters.
const MAX_QUERY: usize = riacho_store::MAX_QUERY;
/// The most documents that a search can be narrowed to by id.
const MAX_DOCUMENTS: usize = 1_000;
/// How many changes of the spaces one search follows: another one is live, or a tenant has documents in the fallback.
const CHANGES: u32 = 4;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(search))
}

/// How to search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SearchMode {
    /// By meaning and by words, fused.
    #[default]
    Hybrid,
    /// By meaning.
    Vector,
    /// By words.
    Keyword,
}

impl SearchMode {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            SearchMode::Hybrid => "hybrid",
            SearchMode::Vector => "vector",
            SearchMode::Keyword => "keyword",
        }
    }

    const fn to_store(self) -> Mode {
        match self {
            SearchMode::Hybrid => Mode::Hybrid,
            SearchMode::Vector => Mode::Vector,
            SearchMode::Keyword => Mode::Keyword,
        }
    }
}

/// What to search for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SearchBody {
    /// Words or a question.
    #[schema(example = "how often is the gauge calibrated")]
    query: String,
    /// How many hits, 1 to 100; 10 when not given.
    top_k: Option<u64>,
    /// `hybrid` when not given.
    mode: Option<SearchMode>,
    /// On metadata: `{"author": "Ana"}`, `{"year": {"gte": 2020, "lt": 2024}}`, `{"tag": {"in": ["a", "b"]}}`, `{"x": {"ne": 1}}`,
    /// `{"x": {"exists": true}}`, `{"and": [..]}`, `{"or": [..]}`, `{"not": {..}}`. At most 500 comparisons, each value of `in`
    /// being one.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    /// Name of a collection.
    collection: Option<String>,
    /// Only in these documents.
    #[serde(default)]
    documents: Vec<Uuid>,
    /// Language of the query, ISO 639-1, for the stems of its words. All languages of the tenant's
    /// documents when not given.
    language: Option<String>,
}

/// What was found, without what differs each time.
#[derive(Serialize)]
struct Found {
    hits: Vec<HitBody>,
    mode: SearchMode,
    warnings: Vec<String>,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
struct FoundBody {
    /// The hits, the best first.
    hits: Vec<HitBody>,
    /// How it was searched; differs from what was asked when a warning says so.
    mode: SearchMode,
    /// What was not as asked.
    warnings: Vec<String>,
    /// How long it took, in milliseconds.
    took_ms: f64,
}

/// A chunk that fits the query.
#[derive(Debug, Serialize, ToSchema)]
struct HitBody {
    /// The document.
    document_id: Uuid,
    /// Its version.
    version: u32,
    /// The chunk's id.
    chunk_id: String,
    /// The chunk's place in the document, from 0.
    ordinal: u32,
    /// The chunk's text.
    text: String,
    /// How well it fits; comparable within one answer.
    score: f64,
    /// What the score is made of.
    score_parts: ScoreParts,
    /// The pages that it stands on; empty where the format has none.
    pages: Vec<u32>,
    /// Offsets into the document's text in Unicode code points; the end is exclusive.
    char_start: u64,
    char_end: u64,
    /// Offsets in UTF-8 bytes.
    byte_start: u64,
    byte_end: u64,
    /// The headings above it, outermost first.
    heading_path: Vec<String>,
    /// The header row of the table that the text goes on with, or its first cells where it is long; it stands before the text and is
    /// no part of it. None where the text does not begin inside of a table.
    table_header: Option<String>,
    /// Language of the document's text, ISO 639-1.
    language: Option<String>,
    /// The words of the query in the text.
    highlights: Vec<Highlight>,
    /// File name of the document.
    filename: String,
    /// The uploader's own id of the document.
    external_id: Option<String>,
    /// What the document is attached to.
    parent: Option<HitParent>,
    /// Name of the document's collection.
    collection: String,
    /// The document's metadata.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// What a document is attached to.
#[derive(Debug, Serialize, ToSchema)]
struct HitParent {
    /// The document.
    document_id: Uuid,
    /// Its file name.
    filename: String,
}

/// What a score is made of.
#[derive(Debug, Serialize, ToSchema)]
struct ScoreParts {
    /// Place among the hits by meaning, from 1.
    vector_rank: Option<u32>,
    /// Cosine similarity to the query. Of a document that only the fallback space has: carried over to the live space's scale.
    similarity: Option<f64>,
    /// Place among the hits by words, from 1.
    keyword_rank: Option<u32>,
    /// How well the words match: the part of the most that they could give, and 0.45 more where all are there.
    keyword_score: Option<f64>,
}

/// A place in a hit's text.
#[derive(Debug, Serialize, ToSchema)]
struct Highlight {
    /// Where it begins, in code points of the hit's text.
    start: u32,
    /// Where it ends, exclusive.
    end: u32,
    /// What stands there.
    text: String,
}

fn hit_body(hit: Hit) -> HitBody {
    let highlights = hit.highlights.iter().map(|range| Highlight {
        start: range.start,
        end: range.end,
        text: hit
            .text
            .chars()
            .skip(range.start as usize)
            .take(range.end.saturating_sub(range.start) as usize)
            .collect(),
    });
    HitBody {
        highlights: highlights.collect(),
        document_id: hit.document.0,
        version: hit.version,
        chunk_id: hit.chunk_id,
        ordinal: hit.ordinal,
        score: hit.score,
        score_parts: ScoreParts {
            vector_rank: hit.parts.vector_rank,
            similarity: hit.parts.similarity,
            keyword_rank: hit.parts.keyword_rank,
            keyword_score: hit.parts.keyword_score,
        },
        pages: pages(hit.page_first, hit.page_last),
        char_start: hit.char_start,
        char_end: hit.char_end,
        byte_start: hit.byte_start,
        byte_end: hit.byte_end,
        heading_path: hit.heading_path,
        table_header: hit.table_header,
        language: Some(hit.language).filter(|language| !language.is_empty()),
        filename: hit.filename,
        external_id: hit.external_id,
        parent: hit.parent.map(|(document, filename)| HitParent { document_id: document.0, filename }),
        collection: hit.collection,
        metadata: hit.metadata,
        text: hit.text,
    }
}

/// Search.
///
/// Sees the live version of each document: the one before or the new one, never a mixture. A search that is repeated
/// while nothing changes is answered from what was found before.
#[utoipa::path(
    post, path = "/api/v1/search", tag = "search", request_body = SearchBody,
    responses(
        (status = 200, description = "What was found.", body = FoundBody),
        (status = 400, description = "A field is missing or wrong.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The query could not be embedded for mode `vector`.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn search(
    State(app): State<App>,
    caller: Caller<Find>,
    within: Within,
    JsonBody(body): JsonBody<SearchBody>,
) -> Result<Response, Problem> {
    riacho_service::FOREGROUND.request();
    let start = Instant::now();
    let top_k = check(&body)?;
    let filter = body.filter.as_ref().filter(|filter| !filter.is_null()).map(Filter::parse).transpose();
    let filter = filter.map_err(|error| Problem::field("filter", error.to_string()))?;
    let kept = key(&app, &caller, &body, top_k).await;
    if let Some((key, _)) = &kept
        && let Some(kept) = app.answers().get(app.streams(), key).await
    {
        return Ok(answer(&kept, start, "kept"));
    }
    let tenant = caller.tenant.clone();
    let (found, space, end) = find((&app, within), caller, body, top_k, filter).await?;
    let mode = found.mode.as_str();
    let as_asked = found.warnings.is_empty();
    let found = serde_json::to_vec(&found).map_err(|error| Problem::internal(&error))?;
    let found = Bytes::from(found);
    // The space may have been switched since the key was made.
    if let Some((key, _)) = kept.filter(|(_, of)| as_asked && *of == space) {
        let (app, found) = (app.clone(), found.clone());
        tokio::spawn(async move { app.answers().keep(app.streams(), (&key, &tenant), found, end).await });
    }
    Ok(answer(&found, start, mode))
}

/// The JSON of what was found, with the time that it took.
fn answer(found: &Bytes, start: Instant, mode: &'static str) -> Response {
    let took = start.elapsed().as_secs_f64();
    metrics::histogram!(names::SEARCH_SECONDS, "mode" => mode).record(took);
    let mut body = Vec::with_capacity(found.len() + 32);
    // An object, whose last brace comes after one more field.
    body.extend_from_slice(found.strip_suffix(b"}").unwrap_or(found));
    body.extend_from_slice(format!(",\"took_ms\":{}}}", took * 1e3).as_bytes());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The key that the answer is kept under, with the space that it is of; none where none is kept. The key says all
/// that the answer depends on.
async fn key(
    app: &App,
    caller: &Caller<Find>,
    body: &SearchBody,
    top_k: u32,
) -> Option<(String, Option<SpaceId>)> {
    if !app.answers().are_kept() {
        return None;
    }
    let mode = body.mode.unwrap_or_default();
    let space = match mode {
        SearchMode::Keyword => None,
        _ => app.live_space().await.ok().flatten().map(|space| space.id),
    };
    let state = app.store().search_state(&caller.tenant).await.ok()?;
    let SearchBody { query, filter, collection, documents, language, .. } = body;
    let request = json!([mode, space, top_k, query, filter, collection, documents, language]);
    Some((Answers::key(&caller.tenant, &state, &request.to_string()), space))
}

/// Searches; answers also in which space, and until when what was found is true at most, as far as that is known.
async fn find(
    (app, within): (&App, Within),
    caller: Caller<Find>,
    body: SearchBody,
    top_k: u32,
    filter: Option<Filter>,
) -> Result<(Found, Option<SpaceId>, Option<DateTime<Utc>>), Problem> {
    let asked = body.mode.unwrap_or_default();
    let request = SearchRequest {
        top_k,
        filter,
        collection: body.collection,
        documents: body.documents.into_iter().map(DocumentId).collect(),
        language: body.language,
        // A gateway that has not seen a switch yet must not search the former space: what is new goes into the live one first.
        only_live: true,
        fallback: Fallback::Wanted,
        ..SearchRequest::new(caller.tenant, body.query)
    };
    let (hits, meaning) = hits((app, within), request, asked).await?;
    let Meaning { mode, space, warnings, .. } = meaning;
    let end = hits.iter().filter_map(|hit| hit.expires_at).min();
    Ok((Found { hits: hits.into_iter().map(hit_body).collect(), mode, warnings }, space, end))
}

/// Searches in the space that is live, and beside it where that lacks documents: what the request says but for its mode and
/// its vector, which are found out here.
pub(super) async fn hits(
    (app, within): (&App, Within),
    mut request: SearchRequest,
    asked: SearchMode,
) -> Result<(Vec<Hit>, Meaning), Problem> {
    let mut changes = 0;
    let mut meaning = Meaning::of((app, within), &request.tenant, &request.query, asked).await?;
    let hits = loop {
        request.mode = meaning.mode.to_store();
        (request.vector, request.space) = (meaning.vector.clone(), meaning.space);
        changes += 1;
        match find_in_store((app, within), &request, meaning.mode).await {
            // Another space became live since this gateway looked.
            Err(StoreError::NotFound(_)) if meaning.space.is_some() && changes <= CHANGES => {
                app.forget_space();
                meaning = Meaning::of((app, within), &request.tenant, &request.query, asked).await?;
                request.fallback = Fallback::Wanted;
            }
            Err(StoreError::NeedsFallback(space)) if changes <= CHANGES => {
                let vector = meaning.in_fallback((app, within), &request.tenant, &request.query, &space);
                request.fallback = vector.await?;
            }
            hits => break hits?,
        }
    };
    Ok((hits, meaning))
}

/// One look into PostgreSQL.
async fn find_in_store(
    (app, within): (&App, Within),
    request: &SearchRequest,
    mode: SearchMode,
) -> Result<Vec<Hit>, StoreError> {
    let mut span = within.call("postgres search", || {
        [
            (attributes::DB_SYSTEM, "postgresql".into()),
            (attributes::DB_OPERATION, "search".into()),
            (attributes::TENANT, request.tenant.to_string().into()),
            (attributes::OUTCOME, mode.as_str().into()),
        ]
    });
    let found = app.store().search(request).await;
    match &found {
        Ok(hits) => span.set(attributes::COUNT, i64::try_from(hits.len()).unwrap_or(i64::MAX)),
        // Another look follows.
        Err(StoreError::NeedsFallback(_)) => span.set(attributes::OUTCOME, "needs_fallback"),
        Err(StoreError::NotFound(_)) => span.fail("not_found"),
        Err(error) if error.is_retryable() => span.fail("unavailable"),
        Err(_) => span.fail("refused"),
    }
    found
}

/// Checks a query's length and characters.
pub(super) fn check_query(query: &str) -> Result<(), Problem> {
    if query.trim().is_empty() {
        return Err(Problem::field("query", "is empty"));
    }
    if query.chars().count() > MAX_QUERY || query.contains('\0') {
        return Err(Problem::field(
            "query",
            format!("must be at most {MAX_QUERY} characters, none of them NUL"),
        ));
    }
    Ok(())
}

/// Checks what JSON cannot say; answers how many hits are asked for.
fn check(body: &SearchBody) -> Result<u32, Problem> {
    check_query(&body.query)?;
    if body.documents.len() > MAX_DOCUMENTS {
        return Err(Problem::field("documents", format!("may name at most {MAX_DOCUMENTS}")));
    }
    let is_language = |text: &String| text.len() == 2 && text.bytes().all(|b| b.is_ascii_lowercase());
    if body.language.as_ref().is_some_and(|language| !is_language(language)) {
        return Err(Problem::field("language", "must be an ISO 639-1 code, for example `pt`"));
    }
    let top_k = u32::try_from(body.top_k.unwrap_or(u64::from(DEFAULT_TOP_K))).unwrap_or(u32::MAX);
    match (1..=MAX_TOP_K).contains(&top_k) {
        true => Ok(top_k),
        false => Err(Problem::field("top_k", format!("must be 1 to {MAX_TOP_K}"))),
    }
}
