//! Documents and chunks a second, from the first upload to the last document searchable.

use std::{
    io::{Cursor, Write},
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

use crate::{Target, api::PATIENCE, corpus, deployment::Deployment, figures::Figures, memory};

/// What to send.
#[derive(Args)]
pub(crate) struct Options {
    /// How many text files of 5 to 20 KB.
    #[arg(long, default_value_t = 2_000)]
    documents: u64,
    /// Uploads at a time.
    #[arg(long, default_value_t = 16)]
    concurrency: u64,
    /// Sends all files with one request, as a zip archive.
    #[arg(long)]
    archive: bool,
    /// Where the first file's seed starts; another seed makes other files.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Uploads all files as fast as they are accepted, then waits for the last one.
pub(crate) async fn run(target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let deployment = Deployment::of(target).await?;
    let seeds = options.seed..options.seed + options.documents;
    let bodies: Arc<Vec<Bytes>> =
        Arc::new(seeds.map(|seed| Bytes::from(corpus::document(seed, corpus::size(seed)))).collect());
    let archive = options.archive.then(|| archive(&bodies)).transpose()?;
    let start = Instant::now();
    let ids = match archive {
        Some(archive) => deployment.api.upload_archive(archive).await?,
        None => upload_each(&deployment, &bodies, options.concurrency).await?,
    };
    let accepted = start.elapsed();
    // Mostly the last one to be uploaded is the last to be searchable; counting all costs the database more.
    if let Some(last) = ids.last() {
        deployment.api.finished(last, Duration::from_millis(20)).await?;
    }
    while deployment.api.unfinished().await? > 0 {
        if start.elapsed() > PATIENCE {
            bail!("after {} s documents are still on their way", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut chunks = 0;
    for id in &ids {
        let status = deployment.api.finished(id, Duration::from_millis(50)).await?;
        if status.state != "ready" {
            bail!("document {id} is {}: {}", status.state, status.body);
        }
        chunks += status.chunks();
    }
    let mut figures = Figures::default();
    figures.add("documents", ids.len());
    figures.add("chunks", chunks);
    figures.add("bytes", bodies.iter().map(Bytes::len).sum::<usize>());
    figures.add_number("accepted_after_s", accepted.as_secs_f64());
    figures.add_number("searchable_after_s", seconds);
    figures.add_number("documents_per_s", ids.len() as f64 / seconds);
    figures.add_number("chunks_per_s", chunks as f64 / seconds);
    if let Some((pid, _)) = deployment.process() {
        figures.add_number("peak_memory_mb", memory::peak_mb(pid));
    }
    Ok(figures)
}

/// All files in one archive, as a client would have it ready.
fn archive(bodies: &[Bytes]) -> anyhow::Result<Vec<u8>> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (n, body) in bodies.iter().enumerate() {
        writer.start_file(format!("report-{n}.md"), zip::write::SimpleFileOptions::default())?;
        writer.write_all(body)?;
    }
    Ok(writer.finish()?.into_inner())
}

/// Uploads each file with a request of its own, some at a time.
async fn upload_each(
    deployment: &Deployment,
    bodies: &Arc<Vec<Bytes>>,
    concurrency: u64,
) -> anyhow::Result<Vec<String>> {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (api, bodies, next) = (deployment.api.clone(), Arc::clone(bodies), Arc::clone(&next));
        workers.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(body) = usize::try_from(n).ok().and_then(|n| bodies.get(n)) else {
                    return anyhow::Ok(ids);
                };
                ids.push(api.upload(&format!("report-{n}.md"), "text/markdown", body.clone()).await?);
            }
        });
    }
    let mut ids = Vec::new();
    while let Some(done) = workers.join_next().await {
        ids.extend(done??);
    }
    Ok(ids)
}
