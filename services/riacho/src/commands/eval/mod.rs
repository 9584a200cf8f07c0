//! `riacho eval DIR`: how good the search is on a retrieval set, on private servers.
//!
//! The whole path is measured: each document is uploaded, extracted, cut, embedded and indexed, and each query goes over
//! HTTP. A document's rank is that of its best chunk.

mod dataset;
mod measures;
mod private;

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use riacho_domain::{DocumentId, Lane, State};
use serde::Serialize;
use serde_json::{Value, json};

use self::{
    dataset::{Dataset, Document, Query},
    measures::Measures,
    private::Private,
};
use super::Context;
use crate::{
    cli,
    client::{Client, Content, Error, Target, Upload},
    exit::{Failure, Kind},
    ingest::follow,
    output::table,
};

/// Hits of a search: as many as the interface gives.
const DEPTH: u32 = 100;
/// Uploads at a time.
const UPLOADS: usize = 16;
/// The modes that are measured, under their names in requests.
const MODES: [&str; 3] = ["keyword", "vector", "hybrid"];

/// What the command prints.
#[derive(Debug, Serialize)]
struct Report {
    documents: usize,
    /// Documents that could not be made searchable: those without text, for example.
    failed: usize,
    queries: usize,
    /// From the first upload to the last searchable document.
    ingest_seconds: f64,
    modes: BTreeMap<&'static str, ModeReport>,
}

#[derive(Debug, Serialize)]
struct ModeReport {
    #[serde(flatten)]
    measures: Measures,
    /// Time a query, over HTTP, one after the other.
    ms_mean: f64,
    ms_p50: f64,
    ms_p99: f64,
}

pub(super) async fn run(context: &Context, arguments: cli::Eval) -> anyhow::Result<()> {
    let mut dataset = Dataset::read(&arguments.directory)?;
    dataset.queries.truncate(arguments.queries.unwrap_or(usize::MAX));
    let stop = riacho_service::shutdown_signal().context("cannot listen to signals")?;
    let private = tokio::select! {
        () = stop.cancelled() => return Err(interrupted()),
        private = Private::start(&context.global) => private?,
    };
    let result = tokio::select! {
        () = stop.cancelled() => Err(interrupted()),
        result = measure(context, &private.client, &dataset) => result.map_err(Error::into_failure),
    };
    // Stopping waits for the servers; nothing else runs here meanwhile.
    tokio::task::spawn_blocking(move || drop(private)).await?;
    let report = result?;
    context.output.result(&report, || report.text());
    if report.documents == report.failed {
        return Err(Failure::error(Kind::Failed, "no document could be made searchable"));
    }
    Ok(())
}

fn interrupted() -> anyhow::Error {
    Failure::silent(Kind::Interrupted)
}

async fn measure(context: &Context, client: &Client, dataset: &Dataset) -> Result<Report, Error> {
    let start = Instant::now();
    let places = ingest(client, &dataset.documents).await?;
    let ingest_seconds = start.elapsed().as_secs_f64();
    let searchable: usize = places.values().map(Vec::len).sum();
    context.output.note(&format!("{searchable} documents are searchable after {ingest_seconds:.1} s"));
    let mut modes = BTreeMap::new();
    for mode in MODES {
        modes.insert(mode, measure_mode(client, mode, &dataset.queries, &places).await?);
    }
    Ok(Report {
        documents: dataset.documents.len(),
        failed: dataset.documents.len() - searchable,
        queries: dataset.queries.len(),
        ingest_seconds,
        modes,
    })
}

/// The places in the corpus of each searchable document: several where texts are the same.
type Places = HashMap<DocumentId, Vec<usize>>;

/// Uploads the corpus and waits until each document is searchable or failed.
async fn ingest(client: &Client, documents: &[Document]) -> Result<Places, Error> {
    let target = &Target { collection: None, lane: Lane::Bulk };
    let accepted: Vec<_> = stream::iter(documents.iter().enumerate())
        .map(|(place, document)| async move {
            match client.upload_put_off(&upload(place, document), target).await {
                Ok(accepted) => Ok(Some((place, accepted.id))),
                // An empty file, say: it is not searchable, and that is part of the result.
                Err(Error::Refused { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(UPLOADS)
        .try_collect()
        .await?;
    let ended: Vec<_> = stream::iter(accepted.into_iter().flatten())
        .map(|(place, id)| async move {
            let status = follow(client, id).await?;
            Ok::<_, Error>((status.state == State::Ready).then_some((place, id)))
        })
        .buffer_unordered(UPLOADS)
        .try_collect()
        .await?;
    let mut places = Places::new();
    for (place, id) in ended.into_iter().flatten() {
        places.entry(id).or_default().push(place);
    }
    Ok(places)
}

/// A document as a file: its title is the heading above its text.
fn upload(place: usize, document: &Document) -> Upload {
    let title = document.title.as_deref().map(str::trim).filter(|title| !title.is_empty());
    let text = match title {
        Some(title) => {
            format!("# {}\n\n{}\n", title.split_whitespace().collect::<Vec<_>>().join(" "), document.text)
        }
        None => document.text.clone(),
    };
    let filename = format!("{place}.{}", if title.is_some() { "md" } else { "txt" });
    Upload { filename, content: Content::Bytes(Bytes::from(text)), external_id: None, idempotency_key: None }
}

async fn measure_mode(
    client: &Client,
    mode: &str,
    queries: &[Query],
    places: &Places,
) -> Result<ModeReport, Error> {
    let (mut measures, mut times) = (Vec::with_capacity(queries.len()), Vec::with_capacity(queries.len()));
    for query in queries {
        let body = json!({"query": query.text, "mode": mode, "top_k": DEPTH});
        let start = Instant::now();
        let answer = client.search(&body).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        if answer["mode"] != mode {
            return Err(Error::Answer(format!("a search by {mode} was answered by {}", answer["mode"])));
        }
        measures.push(Measures::of(&ranking(&answer, places), &query.judgements));
    }
    times.sort_by(f64::total_cmp);
    let at =
        |part: f64| times.get((times.len() as f64 * part) as usize).or(times.last()).copied().unwrap_or(0.0);
    Ok(ModeReport {
        measures: Measures::mean(&measures),
        ms_mean: times.iter().sum::<f64>() / times.len().max(1) as f64,
        ms_p50: at(0.5),
        ms_p99: at(0.99),
    })
}

/// The places of the documents that an answer's hits belong to, each once, the best first.
fn ranking(answer: &Value, places: &Places) -> Vec<usize> {
    let mut ranking = Vec::new();
    for hit in answer["hits"].as_array().into_iter().flatten() {
        let document = hit["document_id"].as_str().and_then(|id| id.parse::<DocumentId>().ok());
        for place in document.and_then(|id| places.get(&id)).into_iter().flatten() {
            if !ranking.contains(place) {
                ranking.push(*place);
            }
        }
    }
    ranking
}

impl Report {
    fn text(&self) -> String {
        let rows = MODES.iter().filter_map(|mode| {
            let ModeReport { measures, ms_mean, ms_p50, ms_p99 } = self.modes.get(mode)?;
            let shares = [measures.ndcg_10, measures.recall_10, measures.recall_100, measures.mrr];
            let mut row = vec![(*mode).to_owned()];
            row.extend(shares.map(|value| format!("{value:.4}")));
            row.extend([ms_mean, ms_p50, ms_p99].map(|value| format!("{value:.1}")));
            Some(row)
        });
        let header = ["mode", "nDCG@10", "recall@10", "recall@100", "MRR", "ms", "p50", "p99"];
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(" ({failed} without text)"),
        };
        let (documents, queries) = (self.documents, self.queries);
        format!("{documents} documents{failed}, {queries} queries\n\n{}", table(&header, rows))
    }
}
