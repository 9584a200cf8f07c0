//! Searching a vector store.

use std::collections::HashMap;

use axum::{Json, extract::State, http::HeaderName, response::IntoResponse};
use riacho_domain::DocumentId;
use riacho_store::{Fallback, Filter, Hit, SearchRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    super::{
        App,
        auth::{Caller, Find},
        extract::JsonBody,
        problem::Problem,
        search::{SearchMode, check_query, hits},
        trace::Within,
    },
    filters,
    ids::{Ids, Kind},
    members::shown,
    stores::known,
};

/// The most results.
const MAX_RESULTS: u32 = 50;
const DEFAULT_RESULTS: u32 = 10;
/// The most queries of one search.
const MAX_QUERIES: usize = 10;
/// How it was searched: `keyword` where the query could not be embedded. OpenAI's answers have no place for it.
const SEARCHED_BY: HeaderName = HeaderName::from_static("riacho-search-mode");

/// One query, or several whose results are put together.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Queries {
    One(String),
    Several(Vec<String>),
}

/// How results are ranked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RankingOptions {
    /// There is one ranking; any name that OpenAI knows stands for it.
    #[serde(default)]
    ranker: Option<String>,
    score_threshold: Option<f64>,
}

/// What to search for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchBody {
    query: Queries,
    filters: Option<Value>,
    max_num_results: Option<u32>,
    ranking_options: Option<RankingOptions>,
    /// Nothing is rewritten.
    #[serde(default)]
    #[allow(dead_code)] // accepted, since clients send it
    rewrite_query: Option<bool>,
}

/// A piece of text.
#[derive(Debug, Serialize)]
struct TextBody {
    #[serde(rename = "type")]
    kind: &'static str,
    text: String,
}

/// A chunk that fits.
#[derive(Debug, Serialize)]
struct ResultBody {
    file_id: String,
    filename: String,
    score: f64,
    attributes: Map<String, Value>,
    content: [TextBody; 1],
}

/// What was found.
#[derive(Debug, Serialize)]
struct FoundBody {
    object: &'static str,
    search_query: Vec<String>,
    data: Vec<ResultBody>,
    has_more: bool,
    next_page: Option<String>,
}

/// A search that was checked.
struct Asked {
    queries: Vec<String>,
    filter: Option<Filter>,
    results: u32,
    threshold: f64,
}

impl Asked {
    fn check(body: SearchBody) -> Result<Asked, Problem> {
        let queries = match body.query {
            Queries::One(query) => vec![query],
            Queries::Several(queries) => queries,
        };
        if !(1..=MAX_QUERIES).contains(&queries.len()) {
            return Err(Problem::field("query", format!("must be a text, or 1 to {MAX_QUERIES} of them")));
        }
        queries.iter().try_for_each(|query| check_query(query))?;
        let results = body.max_num_results.unwrap_or(DEFAULT_RESULTS);
        if !(1..=MAX_RESULTS).contains(&results) {
            return Err(Problem::field("max_num_results", format!("must be 1 to {MAX_RESULTS}")));
        }
        let ranking = body.ranking_options.unwrap_or_default();
        if ranking.ranker.as_deref().is_some_and(|name| name != "auto" && name != "none" && !is_dated(name)) {
            return Err(Problem::field("ranking_options.ranker", "must be auto, none or default-YYYY-MM-DD"));
        }
        let filter = body.filters.as_ref().filter(|filters| !filters.is_null());
        Ok(Asked {
            queries,
            filter: filter.map(filters::read).transpose()?,
            results,
            threshold: ranking.score_threshold.unwrap_or(0.0),
        })
    }
}

/// Whether it is one of OpenAI's rankers, which are named by a date.
fn is_dated(name: &str) -> bool {
    name.strip_prefix("default-")
        .is_some_and(|date| date.len() == 10 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

/// Search a vector store.
pub(super) async fn search(
    State(app): State<App>,
    caller: Caller<Find>,
    within: Within,
    Ids([id]): Ids<1>,
    JsonBody(body): JsonBody<SearchBody>,
) -> Result<impl IntoResponse, Problem> {
    riacho_service::FOREGROUND.request();
    let asked = Asked::check(body)?;
    let store = known(&app, &caller.tenant, id).await?;
    if store.is_expired() {
        return Err(Problem::bad_request("the vector store has expired"));
    }
    if asked.queries.len() > 1 {
        caller.takes_parts(&app, asked.queries.len()).await?;
    }
    let mut mode = SearchMode::Hybrid;
    let mut all = Vec::new();
    for query in &asked.queries {
        let request = SearchRequest {
            top_k: asked.results,
            filter: asked.filter.clone(),
            collection: Some(store.collection.clone()),
            only_live: true,
            fallback: Fallback::Wanted,
            ..SearchRequest::new(caller.tenant.clone(), query.clone())
        };
        let (hits, meaning) = hits((&app, within), request, SearchMode::Hybrid).await?;
        if meaning.mode != SearchMode::Hybrid {
            mode = meaning.mode;
        }
        all.push(hits);
    }
    let hits = merged(all, asked.threshold, asked.results as usize);
    let documents: Vec<DocumentId> = hits.iter().map(|hit| hit.document).collect();
    let ids = app.store().member_ids(&caller.tenant, &documents).await?;
    let ids: HashMap<_, _> = ids.into_iter().collect();
    app.store().touch_vector_store(&caller.tenant, id).await?;
    let body = FoundBody {
        object: "vector_store.search_results.page",
        search_query: asked.queries,
        // One that was purged a moment ago has no id any more.
        data: hits.into_iter().filter_map(|hit| Some(result(*ids.get(&hit.document)?, hit))).collect(),
        has_more: false,
        next_page: None,
    };
    Ok(([(SEARCHED_BY, mode.as_str())], Json(body)))
}

fn result(id: uuid::Uuid, hit: Hit) -> ResultBody {
    ResultBody {
        file_id: Kind::File.id(id),
        filename: hit.filename,
        score: hit.score,
        attributes: shown(hit.metadata),
        content: [TextBody { kind: "text", text: hit.text }],
    }
}

/// Puts the results of several queries together: each chunk once, with its best score, the best first.
fn merged(all: Vec<Vec<Hit>>, threshold: f64, most: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = all.into_iter().flatten().filter(|hit| hit.score >= threshold).collect();
    // The sort is stable: hits of one query that score alike stay in their order.
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut seen = std::collections::HashSet::new();
    hits.retain(|hit| seen.insert(hit.chunk_id.clone()));
    hits.truncate(most);
    hits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_search_is_checked_before_anything_is_asked() {
        let check = |value: Value| Asked::check(serde_json::from_value(value).unwrap());
        let asked = check(
            json!({"query": ["a", "b"], "rewrite_query": true, "ranking_options": {"ranker": "default-2024-11-15", "score_threshold": 0.4}}),
        );
        let asked = asked.unwrap();
        assert_eq!((asked.queries.len(), asked.results, asked.threshold), (2, 10, 0.4));
        for (bad, field) in [
            (json!({"query": ""}), "query"),
            (json!({"query": []}), "query"),
            (json!({"query": vec!["a"; 11]}), "query"),
            (json!({"query": "a".repeat(2_001)}), "query"),
            (json!({"query": "a", "max_num_results": 0}), "max_num_results"),
            (json!({"query": "a", "max_num_results": 51}), "max_num_results"),
            (json!({"query": "a", "ranking_options": {"ranker": "best"}}), "ranking_options.ranker"),
            (json!({"query": "a", "filters": {}}), "filters.type"),
        ] {
            let problem = check(bad.clone()).err().unwrap();
            assert_eq!(problem.first_field(), Some(field), "{bad}");
        }
    }
}
