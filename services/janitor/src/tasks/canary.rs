//! A small document of a tenant of its own goes through the whole pipeline, and is deleted again.

use std::time::{Duration, Instant};

use metrics::gauge;
use riacho_domain::{DocumentId, Lane, State, TenantId, UploadId};
use riacho_objects::Key;
use riacho_service::release::{By, Sent, send};
use riacho_store::{Accept, Body};
use sha2::{Digest, Sha256};

use crate::{Error, job::Job, metrics::names};

/// The tenant whose documents the canaries are.
pub(crate) const TENANT: &str = "riacho-canary";

/// How often is looked how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// A canary that nobody deleted, because its janitor died, ends by itself.
const LIVES: Duration = Duration::from_secs(3600);

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    if job.dry_run {
        job.add("documents", 1);
        return Ok(());
    }
    let tenant: TenantId = TENANT.parse().map_err(|error| Error::Failed(format!("{error}")))?;
    job.janitor.store.ensure_tenant(&tenant, "Canary").await?;
    let start = Instant::now();
    // No other document has this word, so that no text or vector is reused.
    let word = format!("canary{:032x}", rand::random::<u128>());
    let document = accept(job, &tenant, &word).await?;
    let sung = watch(job, &tenant, document, &word).await;
    job.janitor.store.delete_document(&tenant, document).await?;
    if sung? {
        gauge!(names::CANARY_SECONDS).set(start.elapsed().as_secs_f64());
        job.add("documents", 1);
        job.add("milliseconds", u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Accepts the document, as the gateway does.
async fn accept(job: &Job<'_>, tenant: &TenantId, word: &str) -> Result<DocumentId, Error> {
    let janitor = job.janitor;
    let content = format!("# Canary\n\nThe word of this run is {word}.\n");
    let key = Key::original(tenant, UploadId::new());
    janitor.objects.put(&key, content.clone().into()).await?;
    let body = Body::Stored { size: content.len() as u64, sha256: Sha256::digest(&content).into() };
    let mut accept = Accept::new(tenant.clone(), "canary.md", key.to_string(), body);
    (accept.lane, accept.ttl) = (Lane::Interactive, Some(LIVES));
    let accepted = janitor.store.accept(&accept).await?;
    let by = By { service: "janitor", reason: "accept" };
    for sent in send(by, &janitor.store, &janitor.streams, accepted.release.as_slice()).await {
        // Where the stream is full, it waits like any other: that is part of what is measured.
        let _: Sent = sent?;
    }
    Ok(accepted.document)
}

/// Waits until the document can be read. False: the janitor is to stop.
async fn watch(job: &Job<'_>, tenant: &TenantId, document: DocumentId, word: &str) -> Result<bool, Error> {
    let store = &job.janitor.store;
    let limit = Duration::from_secs(job.config().canary_time_limit_seconds);
    let start = Instant::now();
    loop {
        let status = store.status(tenant, document).await?;
        let status = status.ok_or_else(|| Error::Failed("the canary's document is gone".to_owned()))?;
        if status.state == State::Ready {
            break;
        }
        if status.state.is_terminal() {
            let reason = status.error.map_or_else(String::new, |error| format!(": {}", error.message));
            return Err(Error::Failed(format!("the canary's document is {}{reason}", status.state)));
        }
        if start.elapsed() > limit {
            let seconds = limit.as_secs();
            return Err(Error::Failed(format!(
                "the canary's document is {} after {seconds} s",
                status.state
            )));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = job.stopped() => return Ok(false),
        }
    }
    let page = store.chunks(tenant, document, None, 10).await?;
    let chunks = page.map(|page| page.chunks).unwrap_or_default();
    match chunks.iter().any(|chunk| chunk.text.contains(word)) {
        true => Ok(true),
        false => Err(Error::Failed("the canary's document is ready without its text".to_owned())),
    }
}
