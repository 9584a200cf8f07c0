//! Search: hybrid, vector and keyword, over the live versions of one tenant, in one snapshot, so that
//! no answer mixes versions.

mod condition;
mod fallback;
mod filter;
mod fusion;
mod highlight;
mod keyword;
mod range;
mod vector;

use std::time::Instant;

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, RunId, SpaceId, TenantId, Version, chunk_id};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_postgres::{Row, error::SqlState};
use uuid::Uuid;

pub(crate) use self::keyword::BOUND;
pub use self::{
    condition::{Comparison, Condition},
    fallback::Fallback,
    filter::Filter,
    fusion::ScoreParts,
    highlight::Highlight,
};
use self::{
    fallback::Beside,
    fusion::{Found, Leg, Place, fuse},
    highlight::highlights,
    keyword::Words,
    range::{Allowed, Searched},
    vector::Near,
};
use crate::{
    Error, Store,
    lexemes::Language,
    metrics::names,
    read,
    transaction::{Param, Scope, Tx},
};

/// The most hits of one search.
pub const MAX_TOP_K: u32 = 100;

/// The longest query, in characters.
pub const MAX_QUERY: usize = 2_000;

/// Each leg of a hybrid search brings more than is asked for, so that the fusion has what to choose from.
const LEG: u32 = 100;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By vector and by words.
    #[default]
    Hybrid,
    /// By vector.
    Vector,
    /// By words.
    Keyword,
}

impl Mode {
    /// The name, as it stands in requests and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Hybrid => "hybrid",
            Mode::Vector => "vector",
            Mode::Keyword => "keyword",
        }
    }
}

/// What to search.
#[derive(Debug, Clone)]
pub struct SearchRequest {
    /// Whose documents.
    pub tenant: TenantId,
    /// The words.
    pub query: String,
    /// The query's vector in the space. Hybrid without it is keyword.
    pub vector: Option<Vec<f32>>,
    /// How to search.
    pub mode: Mode,
    /// How many hits, at most [`MAX_TOP_K`].
    pub top_k: u32,
    /// Only documents whose metadata match.
    pub filter: Option<Filter>,
    /// Only documents of this collection, by name.
    pub collection: Option<String>,
    /// Only these documents, when there are any.
    pub documents: Vec<DocumentId>,
    /// The query's language, ISO 639-1. None: all languages of the tenant's documents.
    pub language: Option<String>,
    /// The vector's space. None: the live one.
    pub space: Option<SpaceId>,
    /// Whether `space` has to be the live one: where it is not, the search is [`Error::NotFound`].
    pub only_live: bool,
    /// Whether documents that the live space lacks are looked for in the fallback space. Only for a search of the live one.
    pub fallback: Fallback,
}

impl SearchRequest {
    /// A search for words with defaults for the rest.
    #[must_use]
    pub fn new(tenant: TenantId, query: impl Into<String>) -> Self {
        Self {
            tenant,
            query: query.into(),
            vector: None,
            mode: Mode::Hybrid,
            top_k: 10,
            filter: None,
            collection: None,
            documents: Vec::new(),
            language: None,
            space: None,
            only_live: false,
            fallback: Fallback::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |text: &str| Err(Error::Invalid(text.into()));
        if self.top_k == 0 || self.top_k > MAX_TOP_K {
            return Err(Error::Invalid(format!("top_k is 1 to {MAX_TOP_K}")));
        }
        if self.query.chars().count() > MAX_QUERY {
            return Err(Error::Invalid(format!("a query has at most {MAX_QUERY} characters")));
        }
        if self.query.contains('\0') {
            return invalid("a query cannot contain the character U+0000");
        }
        if self.mode != Mode::Vector && self.query.trim().is_empty() {
            return invalid("a query has at least one word");
        }
        if self.mode == Mode::Vector && self.vector.is_none() {
            return invalid("a vector search needs the query's vector");
        }
        if self.fallback != Fallback::Ignored && self.space.is_some() && !self.only_live {
            return invalid("the fallback space is beside the live one, not beside others");
        }
        if self.documents.len() > 1_000 {
            return invalid("at most 1000 documents can be named");
        }
        Ok(())
    }

    fn is_narrowed(&self) -> bool {
        self.filter.is_some() || self.collection.is_some() || !self.documents.is_empty()
    }
}

/// A chunk that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The document.
    pub document: DocumentId,
    /// Its live version.
    pub version: Version,
    /// The run of the version.
    pub run: RunId,
    /// The chunk's place in the document.
    pub ordinal: u32,
    /// The chunk's public id.
    pub chunk_id: String,
    /// Its text.
    pub text: String,
    /// The file's name.
    pub filename: String,
    /// The client's own id of the document.
    pub external_id: Option<String>,
    /// What the document is attached to, and the name of that one's file.
    pub parent: Option<(DocumentId, String)>,
    /// The name of the document's collection.
    pub collection: String,
    /// The document's metadata.
    pub metadata: Map<String, Value>,
    /// The text's language, ISO 639-1, or empty.
    pub language: String,
    /// First page, from 1; 0 where the format has no pages.
    pub page_first: u32,
    /// Last page.
    pub page_last: u32,
    /// Offsets into the stored text in UTF-8 bytes; the end is exclusive.
    pub byte_start: u64,
    /// See `byte_start`.
    pub byte_end: u64,
    /// Offsets into the stored text in code points; the end is exclusive.
    pub char_start: u64,
    /// See `char_start`.
    pub char_end: u64,
    /// Headings above the chunk, outermost first.
    pub heading_path: Vec<String>,
    /// The header row of the table that the chunk goes on with, or its first cells.
    pub table_header: Option<String>,
    /// When the document's time ends, and the hit with it.
    pub expires_at: Option<DateTime<Utc>>,
    /// The score: higher is better.
    pub score: f64,
    /// What it is made of.
    pub parts: ScoreParts,
    /// Where the query's words stand in `text`.
    pub highlights: Vec<Highlight>,
}

impl Store {
    /// Searches the live versions of the tenant's documents, the best hit first.
    pub async fn search(&self, request: &SearchRequest) -> Result<Vec<Hit>, Error> {
        request.check()?;
        let start = Instant::now();
        let scope = Scope::tenant("search", &request.tenant).snapshot();
        let hits = self.transaction(scope, |tx| async move { self.search_in(&tx, request).await }).await;
        let hits = hits.map_err(|error| match error.code() {
            // Its vectors were removed between the look at the space and theirs.
            Some(&SqlState::UNDEFINED_TABLE) if request.space.is_some() => Error::NotFound("embedding space"),
            _ => error,
        })?;
        metrics::histogram!(names::SEARCH_SECONDS, "mode" => request.mode.as_str())
            .record(start.elapsed().as_secs_f64());
        Ok(hits)
    }

    /// Names the state of all that the tenant's searches can see: another one after each change of it. An answer that
    /// was made after this was read is at least as new.
    pub async fn search_state(&self, tenant: &TenantId) -> Result<String, Error> {
        let scope = Scope::tenant("search_state", tenant).snapshot();
        let state = self.transaction(scope, |tx| async move {
            tx.query_one(STATE, &[&tenant.as_str()]).await?.try_get(0).map_err(Error::from)
        });
        state.await
    }

    async fn search_in(&self, tx: &Tx, request: &SearchRequest) -> Result<Vec<Hit>, Error> {
        let by_vector = request.mode != Mode::Keyword && request.vector.is_some();
        let by_words = request.mode != Mode::Vector;
        tx.prepare(&[range::SPACE, fallback::FALLBACK, range::HIDES, range::ALLOWED, keyword::LANGUAGES])
            .await?;
        let (space, beside, allowed, words) = futures::join!(
            async { if by_vector { range::space(tx, request).await.map(Some) } else { Ok(None) } },
            async { if by_vector { Beside::find(tx, request).await } else { Ok(None) } },
            range::allowed(tx, request),
            async { if by_words { keyword::words(tx, request).await } else { Ok(Words::default()) } },
        );
        let (space, beside, allowed, words) = (space?, beside?, allowed?, words?);
        if allowed.as_ref().is_some_and(|allowed| allowed.documents.is_empty()) {
            return Ok(Vec::new());
        }
        let top = if by_vector && by_words { request.top_k.max(LEG) } else { request.top_k };
        let near = match &space {
            Some(space) => Some(self.near(tx, request, *space, beside, (allowed.as_ref(), top)).await?),
            None => None,
        };
        let documents = allowed.as_ref().map(|allowed| allowed.documents.as_slice());
        let matching =
            if by_words { Some(keyword::matching(tx, &words, documents, top).await?) } else { None };
        let found = fuse(near, matching, request.top_k as usize);
        read_hits(tx, request, &found, &words).await
    }
}

impl Store {
    /// The vector leg: the space that is searched, and the fallback beside it where the tenant has documents only there.
    async fn near(
        &self,
        tx: &Tx,
        request: &SearchRequest,
        space: Searched,
        beside: Option<Beside<'_>>,
        (allowed, top): (Option<&Allowed>, u32),
    ) -> Result<Leg, Error> {
        let vector = request.vector.as_deref().unwrap_or_default();
        let leg = Near { tenant: &request.tenant, vector, space, lacked_by: None, allowed, top };
        let near = self.nearest(tx, &leg).await?;
        match beside {
            Some(beside) => self.with_fallback(tx, request, beside, allowed, (near, top)).await,
            None => Ok(near),
        }
    }
}

/// Reads the texts of what was found, with their highlights.
async fn read_hits(
    tx: &Tx,
    request: &SearchRequest,
    found: &[Found],
    words: &Words,
) -> Result<Vec<Hit>, Error> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let documents: Vec<Uuid> = found.iter().map(|found| found.place.document.0).collect();
    let versions: Vec<i32> = found.iter().map(|found| read::signed(found.place.version)).collect();
    let runs: Vec<Uuid> = found.iter().map(|found| found.place.run.0).collect();
    let ordinals: Vec<i32> = found.iter().map(|found| read::signed(found.place.ordinal)).collect();
    let params: [Param<'_>; 5] = [&request.tenant.as_str(), &documents, &versions, &runs, &ordinals];
    let rows = tx.query(HITS, &params).await?;
    let mut hits = Vec::with_capacity(rows.len());
    for row in &rows {
        let place: i64 = row.try_get("place")?;
        let found = usize::try_from(place - 1).ok().and_then(|place| found.get(place));
        let found = found.ok_or_else(|| Error::Row("a hit without its place".into()))?;
        hits.push(hit(row, found, words)?);
    }
    Ok(hits)
}

fn hit(row: &Row, found: &Found, words: &Words) -> Result<Hit, Error> {
    let Place { document, version, run, ordinal } = found.place;
    let text: String = row.try_get("text")?;
    let highlights = highlights(&text, Language::of(row.try_get("config")?), &words.forms);
    let Value::Object(metadata) = row.try_get("metadata")? else {
        return Err(Error::Row("metadata that is no object".into()));
    };
    let size = |column: &str| Ok::<_, Error>(read::size_opt(row, column)?.unwrap_or(0));
    Ok(Hit {
        document,
        version,
        run,
        ordinal,
        chunk_id: chunk_id(document, version, ordinal),
        filename: row.try_get("filename")?,
        external_id: row.try_get("external_id")?,
        parent: parent(row)?,
        collection: row.try_get("collection_name")?,
        metadata,
        language: row.try_get::<_, Option<String>>("language")?.unwrap_or_default(),
        page_first: read::count(row, "page_first")?,
        page_last: read::count(row, "page_last")?,
        byte_start: size("byte_start")?,
        byte_end: size("byte_end")?,
        char_start: size("char_start")?,
        char_end: size("char_end")?,
        heading_path: row.try_get("heading_path")?,
        table_header: row.try_get("table_header")?,
        expires_at: row.try_get("expires_at")?,
        score: found.score,
        parts: found.parts,
        highlights,
        text,
    })
}

fn parent(row: &Row) -> Result<Option<(DocumentId, String)>, Error> {
    let Some(id) = row.try_get::<_, Option<Uuid>>("parent_id")? else { return Ok(None) };
    let filename: Option<String> = row.try_get("parent_filename")?;
    Ok(Some((DocumentId(id), filename.unwrap_or_default())))
}

// A tenant that is made anew under an old name begins to count anew.
const STATE: &str = "-- store::search::search_state
SELECT extract(epoch FROM t.created_at)::text || '-' || coalesce(sum(c.changes), 0)::text
FROM tenants AS t LEFT JOIN search_changes AS c ON c.tenant_id = t.id
WHERE t.id = $1 GROUP BY t.created_at";

const HITS: &str = "-- store::search::read_hits
SELECT w.place, c.text, c.page_first, c.page_last, c.byte_start, c.byte_end, c.char_start, c.char_end, c.heading_path,
       c.table_header, c.config, v.filename, d.external_id, d.metadata, d.expires_at, o.name AS collection_name,
       v.language, d.parent_id, p.filename AS parent_filename
FROM unnest($2::uuid[], $3::int[], $4::uuid[], $5::int[]) WITH ORDINALITY AS w (document, version, run, ordinal, place)
JOIN chunks AS c ON c.tenant_id = $1 AND c.document_id = w.document AND c.version = w.version AND c.run_id = w.run
    AND c.ordinal = w.ordinal
JOIN documents AS d ON d.id = w.document
JOIN document_versions AS v ON v.document_id = w.document AND v.version = w.version
JOIN collections AS o ON o.id = d.collection_id
LEFT JOIN document_versions AS p ON p.document_id = d.parent_id AND p.version = d.parent_version
ORDER BY w.place";

/// The statements of this folder, for a space.
pub(crate) fn statements(space: SpaceId) -> Vec<String> {
    let mut all: Vec<String> =
        [range::SPACE, STATE, range::HIDES, range::ALLOWED, HITS, keyword::LANGUAGES, keyword::MATCHING]
            .iter()
            .map(|sql| (*sql).to_owned())
            .collect();
    all.extend(fallback::statements(space));
    all.extend(vector::statements(space));
    all
}
