//! Bytes to text with structure, and text to chunks.
//!
//! `parse` runs in child processes only (`child`), which `pool` keeps and kills; `chunk` cuts what
//! they answer; `stage` joins the two to the pipeline.

pub mod child;
pub mod chunk;
mod config;
pub mod detect;
pub mod encoding;
mod error;
pub mod extracted;
pub mod language;
pub mod manifest;
pub mod metrics;
pub mod ocr;
pub mod parse;
pub mod pool;
mod stage;
pub mod wire;

use std::sync::Arc;

use anyhow::Context as _;
use riacho_service::{CoreConfig, Resources};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::Error;
pub use stage::Extractor;

/// Extracts until `stop`; returns when what was begun is finished.
///
/// # Errors
///
/// When no parser process can be started, or the runner cannot go on.
pub async fn run(
    config: Config,
    core: &CoreConfig,
    resources: Resources,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    riacho_service::metrics::describe(metrics::METRICS);
    if config.pdfium.is_none() {
        tracing::warn!(
            "no PDFium library is configured (extractor.pdfium): PDF files will fail as unsupported"
        );
    }
    let pool = pool::Pool::new(config.pool()).context("the parsers")?;
    pool.warm().await.context("the parsers")?;
    if let Some(why) = pool.recognition_refusal().await.context("the recognisers of text")? {
        tracing::warn!("text in pictures and on scanned pages is not read: {why}");
    }
    // The vocabulary takes a tenth of a second, which no document should wait for.
    tokio::task::spawn_blocking(|| chunk::Tokens::new(&chunk::Settings::default().tokenizer).map(drop))
        .await??;
    let runner = resources.runner(core, config.concurrency(), &stop).await?;
    let stage = Arc::new(Extractor::new(config, pool, resources.store, resources.objects));
    runner.run_stage(stage, stop).await.context("the extractor's runner")
}
