//! What an interactive upload of one tenant waits while thousands of bulk documents of another wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use tokio::task::JoinSet;

use crate::{Target, api::Api, corpus, deployment::Deployment, figures::Figures};

/// The tenant of the bulk documents.
const FLOOD: &str = "flood";

/// How much to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many bulk documents are sent.
    #[arg(long, default_value_t = 10_000)]
    documents: u64,
    /// Size of a bulk document in bytes: so large that they are accepted faster than they are worked on.
    #[arg(long, default_value_t = 60_000)]
    size: usize,
    /// How many interactive documents, one after the other, idle and then beside the bulk.
    #[arg(long, default_value_t = 50)]
    uploads: u64,
    /// The pause before each interactive document, in milliseconds: whoever comes seldom finds the stages at full work.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

/// Times interactive uploads on an idle deployment, then while the other tenant's documents wait.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let flood = deployment.another_tenant(target, FLOOD)?;
    let mut first = 0;
    let mut uploads = async |count| {
        let mut latencies = Vec::new();
        for n in first..first + count {
            tokio::time::sleep(Duration::from_millis(options.pause_ms)).await;
            latencies.push(searchable(&deployment.api, n).await?);
        }
        first += count;
        anyhow::Ok(latencies)
    };
    // The first three warm the system up.
    uploads(3).await?;
    let idle = uploads(options.uploads).await?;
    fill(&flood, options.documents, options.size).await?;
    let waiting_at_begin = flood.unfinished().await?;
    let busy = uploads(options.uploads).await?;
    let waiting_at_end = flood.unfinished().await?;
    if waiting_at_end == 0 {
        bail!("the bulk was done before the last interactive upload; send more --documents");
    }
    let mut figures = Figures::default();
    figures.add("bulk_documents", options.documents);
    figures.add("bulk_unfinished_at_begin", waiting_at_begin);
    figures.add("bulk_unfinished_at_end", waiting_at_end);
    figures.add_latencies("idle", idle);
    figures.add_latencies("busy", busy);
    Ok(figures)
}

/// Uploads one small document, waits until it is ready, and answers how long that took from the 202 on.
async fn searchable(api: &Api, n: u64) -> anyhow::Result<Duration> {
    let text = format!("{}\n\nUrgent note {n}.\n", corpus::document(1_000_000 + n, 2_000));
    let id = api.upload(&format!("urgent-{n}.md"), "text/markdown", Bytes::from(text)).await?;
    let accepted = Instant::now();
    let status = api.finished(&id, Duration::from_millis(2)).await?;
    match status.state.as_str() {
        "ready" => Ok(accepted.elapsed()),
        state => bail!("document {id} is {state}: {}", status.body),
    }
}

/// Uploads the bulk.
async fn fill(api: &Api, documents: u64, size: usize) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..32 {
        let (api, next) = (api.clone().in_lane("bulk"), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= documents {
                    return anyhow::Ok(());
                }
                let body = Bytes::from(corpus::document(n, size));
                api.upload(&format!("bulk-{n}.md"), "text/markdown", body).await?;
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(())
}
