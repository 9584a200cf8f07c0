//! Latency of accepting uploads at a fixed rate, while the pipeline works on them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use tokio::task::JoinSet;

use crate::{Target, corpus, deployment::Deployment, figures::Figures};

/// What to send.
#[derive(Args)]
pub(crate) struct Options {
    /// Uploads a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Size of a file in bytes.
    #[arg(long, default_value_t = 20_000)]
    size: usize,
}

/// Sends on a schedule that does not wait for answers, and counts from the scheduled moment, so that
/// a stall shows in every upload it delays.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let total = u64::from(options.rate * options.seconds);
    let bodies: Vec<Bytes> = (0..total).map(|n| Bytes::from(corpus::document(n, options.size))).collect();
    // One upload warms the connection and the caches of both sides.
    let first = deployment
        .api
        .upload("warm.md", "text/markdown", Bytes::from(corpus::document(u64::MAX, 5_000)))
        .await?;
    deployment.api.finished(&first, Duration::from_millis(5)).await?;

    let start = Instant::now() + Duration::from_millis(100);
    let mut uploads = JoinSet::new();
    for (n, body) in bodies.into_iter().enumerate() {
        let due = start + Duration::from_secs_f64(n as f64 / f64::from(options.rate));
        tokio::time::sleep_until(due.into()).await;
        let api = deployment.api.clone();
        uploads.spawn(async move {
            let id = api.upload(&format!("report-{n}.md"), "text/markdown", body).await;
            (id, due.elapsed())
        });
    }
    let (mut ids, mut latencies, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(done) = uploads.join_next().await {
        let (id, latency) = done?;
        latencies.push(latency);
        match id {
            Ok(id) => ids.push(id),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let accepted = start.elapsed();
    let mut ready = 0;
    for id in &ids {
        let status = deployment.api.finished(id, Duration::from_millis(100)).await?;
        ready += usize::from(status.state == "ready");
    }

    let mut figures = Figures::default();
    figures.add("uploads", total);
    figures.add("errors", errors.len());
    if let Some(error) = errors.first() {
        figures.add("first_error", error.as_str());
    }
    figures.add_latencies("accept", latencies);
    figures.add_number("accepted_per_s", ids.len() as f64 / accepted.as_secs_f64());
    figures.add("accepted", ids.len());
    figures.add("ready", ready);
    figures.add_number("drained_after_s", start.elapsed().as_secs_f64());
    Ok(figures)
}
