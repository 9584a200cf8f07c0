//! `riacho up --demo`: the sample documents, ingested and searched. Running it again ingests nothing twice.

use anyhow::bail;
use bytes::Bytes;
use riacho_domain::Lane;
use serde_json::json;

use crate::{
    client::{Client, Content, Error, Target, Upload},
    commands::search::hits_text,
    ingest::{Options, ingest},
    output::Output,
    progress::Progress,
    samples::{QUESTIONS, SAMPLES},
};

/// Where the samples go, so that they are easy to leave out or delete.
const COLLECTION: &str = "examples";
/// Hits that are shown for each question.
const TOP_K: u32 = 3;

pub(super) async fn run(output: Output, client: &Client) -> anyhow::Result<()> {
    output.note(&format!("\nIngesting the {} sample documents of docs/examples:\n", SAMPLES.len()));
    let uploads = SAMPLES.iter().map(|(name, bytes)| Upload {
        filename: (*name).to_owned(),
        content: Content::Bytes(Bytes::from_static(bytes)),
        idempotency_key: None,
        external_id: None,
    });
    let options = Options {
        target: Target { collection: Some(COLLECTION.to_owned()), lane: Lane::Interactive },
        concurrency: 4,
        wait: true,
    };
    let progress = Progress::new(output, SAMPLES.len() as u64);
    let summary =
        ingest(client, uploads.collect(), &options, &progress).await.map_err(Error::into_failure)?;
    output.result(&summary, || summary.text());
    if summary.failed > 0 {
        bail!("{} of the sample documents failed", summary.failed);
    }
    for question in QUESTIONS {
        let body = json!({ "query": question, "top_k": TOP_K, "collection": COLLECTION });
        let answer = client.search(&body).await.map_err(Error::into_failure)?;
        output.result(&answer, || format!("\nSearch: {question}\n\n{}", hits_text(output, &answer)));
    }
    Ok(())
}
