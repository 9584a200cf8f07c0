//! `riacho space compare`: the same queries in two spaces, side by side.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use riacho_domain::TenantId;
use riacho_models::{Embeddings, Error as ModelError, Kind as Text, Model, Models};
use riacho_store::{Mode, Role, SearchRequest, Space, SpaceState, Store};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Context, store_failure};
use crate::{
    cli::{self, CompareSpaces},
    config::Config,
    exit::{Failure, Kind},
    output::{shorten, table},
};

/// Words of a chunk that make a query.
const WORDS: usize = 12;
/// The most queries of a file.
const MOST_QUERIES: usize = 10_000;
/// For how long a query waits for a provider at its limit.
const LIMITED: Duration = Duration::from_secs(120);
/// The shortest and the longest wait before it asks again.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// Characters of a query in the table.
const SHOWN: usize = 48;

/// A query, and the chunk that its words are from.
struct Query {
    text: String,
    chunk: Option<String>,
}

/// What one space found for a query.
#[derive(Debug, Clone, Serialize)]
struct Found {
    /// Ids of chunks, the best first.
    chunks: Vec<String>,
    /// The file and the text of the best.
    best: Option<String>,
    /// The place of the chunk that the query is from, from 1.
    rank_of_origin: Option<usize>,
    embed_ms: f64,
    search_ms: f64,
}

#[derive(Debug, Serialize)]
struct Compared {
    query: String,
    /// Share of the hits that both have.
    overlap: f64,
    /// Spearman's, of the hits that both have; none where these are fewer than two.
    rank_correlation: Option<f64>,
    a: Found,
    b: Found,
}

/// All queries together.
#[derive(Debug, Serialize)]
struct Summary {
    queries: usize,
    overlap: f64,
    rank_correlation: Option<f64>,
    a: Side,
    b: Side,
}

/// A space over all queries.
#[derive(Debug, Serialize)]
struct Side {
    space: u32,
    model: String,
    /// Share of the queries whose own chunk is among the hits; none where queries are not of chunks.
    found_origin: Option<f64>,
    /// Mean of one over the place of the own chunk; 0 where it is not found.
    mean_reciprocal_rank: Option<f64>,
    embed_p50_ms: f64,
    embed_p95_ms: f64,
    search_p50_ms: f64,
    search_p95_ms: f64,
}

pub(super) async fn run(context: &Context, arguments: CompareSpaces) -> anyhow::Result<()> {
    if arguments.mode == cli::Mode::Keyword {
        return Err(Failure::error(
            Kind::Usage,
            "spaces do not differ by words; use --mode vector or hybrid",
        ));
    }
    let config = context.config()?;
    let section = config.models.clone();
    let models = tokio::task::spawn_blocking(move || Models::load(&section)).await??;
    share_limits(context, &config, &models).await;
    let store = context.store(Role::Service).await?;
    let spaces = store.spaces().await.map_err(store_failure)?;
    let a = Searched::new(&store, &models, &spaces, arguments.a)?;
    let b = Searched::new(&store, &models, &spaces, arguments.b)?;
    note_gaps(context, &store, &arguments, [&a, &b]).await?;
    let queries = match &arguments.queries {
        Some(file) => of_file(file)?,
        None => of_chunks(&store, &arguments).await?,
    };
    if queries.is_empty() {
        return Err(Failure::error(
            Kind::Failed,
            format!("tenant {} has no documents to search", arguments.tenant),
        ));
    }
    let mut compared = Vec::with_capacity(queries.len());
    for query in &queries {
        let (of_a, of_b) = (a.find(&arguments, query).await?, b.find(&arguments, query).await?);
        compared.push(Compared {
            query: query.text.clone(),
            overlap: overlap(&of_a.chunks, &of_b.chunks),
            rank_correlation: rank_correlation(&of_a.chunks, &of_b.chunks),
            a: of_a,
            b: of_b,
        });
    }
    let summary = summary(&compared, &a.space, &b.space, arguments.queries.is_none());
    let value = serde_json::json!({ "queries": compared, "summary": summary });
    context.output.result(&value, || text(&compared, &summary));
    Ok(())
}

/// The queries keep to the limits of providers together with all services, unless Redis is away.
async fn share_limits(context: &Context, config: &Config, models: &Models) {
    match riacho_streams::Streams::connect(&config.redis).await {
        Ok(streams) => {
            let stop = CancellationToken::new();
            models.all().for_each(|model| riacho_service::share_limits(&streams, &**model, &stop));
        }
        Err(error) => {
            let text =
                format!("limits of providers are kept by this command alone, since Redis is away: {error}");
            context.output.note(&text);
        }
    }
}

/// A space with what its searches need.
struct Searched<'s> {
    store: &'s Store,
    space: Space,
    model: &'s dyn Model,
}

impl<'s> Searched<'s> {
    fn new(store: &'s Store, models: &'s Models, spaces: &[Space], id: u32) -> anyhow::Result<Self> {
        let space = spaces.iter().find(|space| space.id == id && space.state != SpaceState::Retired);
        let space =
            space.ok_or_else(|| Failure::error(Kind::Failed, format!("there is no embedding space {id}")))?;
        let model = models.of(&space.model, space.dimensions).ok_or_else(|| {
            Failure::error(Kind::Usage, format!("model {} of space {id} is not configured", space.model))
        })?;
        Ok(Self { store, space: space.clone(), model: &**model })
    }

    /// The query's vector, and how long the model took. One that is at its limit is asked again.
    async fn embed(&self, query: &Query) -> anyhow::Result<(Embeddings, f64)> {
        let until = Instant::now() + LIMITED;
        loop {
            let begun = Instant::now();
            let made = self.model.embed(vec![query.text.clone()], Text::Query).await;
            match made {
                Err(error @ (ModelError::RateLimited { .. } | ModelError::TurnTooFar { .. }))
                    if begun < until =>
                {
                    let wait = error.retry_after().unwrap_or(AGAIN[1]);
                    tokio::time::sleep(wait.clamp(AGAIN[0], AGAIN[1])).await;
                }
                made => {
                    let made = made.with_context(|| format!("model {}", self.model.id()))?;
                    return Ok((made, milliseconds(begun.elapsed())));
                }
            }
        }
    }

    async fn find(&self, arguments: &CompareSpaces, query: &Query) -> anyhow::Result<Found> {
        let (made, embed_ms) = self.embed(query).await?;
        let request = SearchRequest {
            vector: made.vectors.into_iter().next(),
            mode: if arguments.mode == cli::Mode::Hybrid { Mode::Hybrid } else { Mode::Vector },
            top_k: arguments.top_k,
            space: Some(self.space.id),
            ..SearchRequest::new(arguments.tenant.clone(), query.text.clone())
        };
        let begun = Instant::now();
        let hits = self.store.search(&request).await.map_err(store_failure)?;
        let search_ms = milliseconds(begun.elapsed());
        let chunks: Vec<String> = hits.iter().map(|hit| hit.chunk_id.clone()).collect();
        let rank_of_origin = query
            .chunk
            .as_ref()
            .and_then(|own| chunks.iter().position(|chunk| chunk == own))
            .map(|place| place + 1);
        let best = hits.first().map(|hit| format!("{}: {}", hit.filename, shorten(&hit.text, SHOWN)));
        Ok(Found { chunks, best, rank_of_origin, embed_ms, search_ms })
    }
}

/// Says what of the comparison is to be taken with care.
async fn note_gaps(
    context: &Context,
    store: &Store,
    CompareSpaces { tenant, .. }: &CompareSpaces,
    spaces: [&Searched<'_>; 2],
) -> anyhow::Result<()> {
    let missing = store.missing(Some(tenant)).await.map_err(store_failure)?;
    for Searched { space, .. } in spaces {
        let chunks = missing.get(&space.id).map_or(0, |missing| missing.chunks);
        if !space.is_seeded || chunks > 0 {
            context.output.note(&format!("space {} is not complete: it finds what it has", space.id));
        }
    }
    Ok(())
}

fn of_file(file: &Path) -> anyhow::Result<Vec<Query>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(MOST_QUERIES);
    Ok(lines.map(|line| Query { text: line.to_owned(), chunk: None }).collect())
}

async fn of_chunks(store: &Store, arguments: &CompareSpaces) -> anyhow::Result<Vec<Query>> {
    let tenant: &TenantId = &arguments.tenant;
    let sampled =
        store.sample_chunks(tenant, arguments.sample, &arguments.seed).await.map_err(store_failure)?;
    Ok(sampled
        .into_iter()
        .map(|chunk| Query { text: some_words(&chunk.text), chunk: Some(chunk.chunk_id) })
        .collect())
}

/// Words from the middle of a text: its beginning is often a heading that its neighbours share.
fn some_words(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let first = words.len().saturating_sub(WORDS) / 2;
    let some = words.iter().skip(first).take(WORDS).copied().collect::<Vec<_>>().join(" ");
    some.chars().take(riacho_store::MAX_QUERY).collect()
}

/// The share of the longer list that is in both.
#[allow(clippy::cast_precision_loss)] // at most 100 hits
fn overlap(a: &[String], b: &[String]) -> f64 {
    let longer = a.len().max(b.len());
    let common = a.iter().filter(|hit| b.contains(hit)).count();
    if longer == 0 { 1.0 } else { common as f64 / longer as f64 }
}

/// Spearman's rank correlation of the hits that both lists have: 1 for the same order, -1 for the
/// reverse.
#[allow(clippy::cast_precision_loss)] // at most 100 hits
fn rank_correlation(a: &[String], b: &[String]) -> Option<f64> {
    let of_a: Vec<&String> = a.iter().filter(|hit| b.contains(hit)).collect();
    let of_b: Vec<&String> = b.iter().filter(|hit| a.contains(hit)).collect();
    let count = of_a.len() as f64;
    if of_a.len() < 2 {
        return None;
    }
    let squares = of_a.iter().enumerate().map(|(place, hit)| {
        let other = of_b.iter().position(|other| other == hit).unwrap_or(place);
        (place as f64 - other as f64).powi(2)
    });
    Some(1.0 - 6.0 * squares.sum::<f64>() / (count * (count * count - 1.0)))
}

fn summary(compared: &[Compared], a: &Space, b: &Space, has_origins: bool) -> Summary {
    let side = |space: &Space, of: &dyn Fn(&Compared) -> Found| {
        let found: Vec<Found> = compared.iter().map(of).collect();
        let ranks: Vec<Option<usize>> = found.iter().map(|found| found.rank_of_origin).collect();
        #[allow(clippy::cast_precision_loss)] // at most 100 hits
        let reciprocal = |rank: &Option<usize>| rank.map_or(0.0, |rank| 1.0 / rank as f64);
        let is_found = |rank: &Option<usize>| if rank.is_some() { 1.0 } else { 0.0 };
        let [embed, search] = [
            found.iter().map(|found| found.embed_ms).collect::<Vec<_>>(),
            found.iter().map(|found| found.search_ms).collect(),
        ];
        Side {
            space: space.id,
            model: space.model.clone(),
            found_origin: has_origins.then(|| mean(ranks.iter().map(is_found)).unwrap_or(0.0)),
            mean_reciprocal_rank: has_origins.then(|| mean(ranks.iter().map(reciprocal)).unwrap_or(0.0)),
            embed_p50_ms: quantile(&embed, 50),
            embed_p95_ms: quantile(&embed, 95),
            search_p50_ms: quantile(&search, 50),
            search_p95_ms: quantile(&search, 95),
        }
    };
    Summary {
        queries: compared.len(),
        overlap: mean(compared.iter().map(|one| one.overlap)).unwrap_or(0.0),
        rank_correlation: mean(compared.iter().filter_map(|one| one.rank_correlation)),
        a: side(a, &|one| one.a.clone()),
        b: side(b, &|one| one.b.clone()),
    }
}

#[allow(clippy::cast_precision_loss)] // at most 10,000 queries
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The smallest value that so many percent do not exceed.
fn quantile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0.0)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn text(compared: &[Compared], summary: &Summary) -> String {
    let share = |share: f64| format!("{:.0}%", share * 100.0);
    let correlation = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let header = ["query", "overlap", "order", "best in A", "best in B"];
    let row = |one: &Compared| {
        let best = |found: &Found| found.best.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            shorten(&one.query, SHOWN),
            share(one.overlap),
            correlation(one.rank_correlation),
            best(&one.a),
            best(&one.b),
        ]
    };
    let queries = table(&header, compared.iter().map(row));
    let (a, b) = (&summary.a, &summary.b);
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), share);
    let both = |name: &str, of: &dyn Fn(&Side) -> String| vec![name.to_owned(), of(a), of(b)];
    let times = |p50: f64, p95: f64| format!("{p50:.1} / {p95:.1}");
    let rows = vec![
        both("model", &|side| side.model.clone()),
        both("own chunk found", &|side| optional(side.found_origin)),
        both("mean reciprocal rank", &|side| correlation(side.mean_reciprocal_rank)),
        both("embed, ms p50 / p95", &|side| times(side.embed_p50_ms, side.embed_p95_ms)),
        both("search, ms p50 / p95", &|side| times(side.search_p50_ms, side.search_p95_ms)),
    ];
    let sides = table(&["", &format!("A: space {}", a.space), &format!("B: space {}", b.space)], rows);
    let (overlap, order) = (share(summary.overlap), correlation(summary.rank_correlation));
    format!(
        "{queries}\n\n{sides}\n\n{} queries: overlap {overlap}, rank correlation {order}",
        summary.queries
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.chars().map(String::from).collect()
    }

    #[test]
    fn overlap_is_the_share_of_hits_that_both_have() {
        let near = |a: &str, b: &str, expected: f64| (overlap(&list(a), &list(b)) - expected).abs() < 1e-9;
        assert!(near("abcd", "abcd", 1.0) && near("abcd", "dcba", 1.0) && near("abcd", "abxy", 0.5));
        assert!(
            near("abcd", "wxyz", 0.0) && near("abcd", "a", 0.25) && near("", "", 1.0) && near("", "a", 0.0)
        );
    }

    #[test]
    fn the_correlation_is_that_of_the_order_of_common_hits() {
        let of = |a: &str, b: &str| rank_correlation(&list(a), &list(b));
        assert!((of("abcde", "abcde").unwrap() - 1.0).abs() < 1e-9);
        assert!((of("abcde", "edcba").unwrap() + 1.0).abs() < 1e-9);
        assert!((of("xaybz", "ab").unwrap() - 1.0).abs() < 1e-9, "what one alone has does not count");
        assert!((of("abcd", "bacd").unwrap() - 0.8).abs() < 1e-9);
        assert_eq!((of("ab", "bx"), of("ab", "xy")), (None, None), "one has no order");
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=20).map(f64::from).rev().collect();
        assert_eq!(quantile(&values, 50).to_bits(), 10_f64.to_bits());
        assert_eq!(quantile(&values, 95).to_bits(), 19_f64.to_bits());
        assert_eq!(quantile(&[], 50).to_bits(), 0_f64.to_bits());
    }

    #[test]
    fn a_query_is_of_the_middle_of_a_chunk() {
        let text = (0..30).map(|n| n.to_string()).collect::<Vec<_>>().join(" \n");
        assert_eq!(some_words(&text), "9 10 11 12 13 14 15 16 17 18 19 20");
        assert_eq!(some_words(" two words "), "two words");
    }
}
