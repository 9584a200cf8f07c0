//! Time from the 202 of one small document to its being searchable, on an idle system.

use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use clap::Args;

use crate::{Target, corpus, deployment::Deployment, figures::Figures};

/// How much to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many documents, one after the other.
    #[arg(long, default_value_t = 100)]
    documents: u64,
    /// Size of a document in bytes.
    #[arg(long, default_value_t = 2_000)]
    size: usize,
}

/// Uploads one document at a time, waits for it, and checks that a search finds it.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let mut latencies = Vec::new();
    for n in 0..options.documents + 3 {
        let marker = format!("zephyr{n}quartz");
        let text =
            format!("{}\n\nThe marker of this report is {marker}.\n", corpus::document(n, options.size));
        let id = deployment.api.upload(&format!("report-{n}.md"), "text/markdown", Bytes::from(text)).await?;
        let accepted = Instant::now();
        let status = deployment.api.finished(&id, Duration::from_millis(2)).await?;
        let latency = accepted.elapsed();
        if status.state != "ready" || !deployment.api.search(&marker, 3).await?.contains(&id) {
            bail!("document {id} is {} and a search does not find it: {}", status.state, status.body);
        }
        // The first three warm the system up.
        if n >= 3 {
            latencies.push(latency);
        }
    }
    let mut figures = Figures::default();
    figures.add("documents", options.documents);
    figures.add_latencies("searchable", latencies);
    Ok(figures)
}
