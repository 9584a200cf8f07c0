//! The tasks, a file each. A task counts what it does, takes one bounded step after another, and
//! looks between two steps whether it should go on.

mod backup;
mod canary;
mod census;
mod consumers;
mod dead_letters;
mod deadline;
mod expire_documents;
mod expire_uploads;
mod failures;
mod fill;
mod health;
mod housekeep;
mod index;
mod orphans;
mod purge;
mod quotas;
mod redeliver_webhooks;
mod release;
mod summary;

use std::future::Future;

use futures::future::join_all;

pub(crate) use self::{orphans::take_over_if_empty, release::KEPT_WAITING};

use crate::{Error, TaskName, job::Job};

pub(crate) async fn run(task: TaskName, job: &Job<'_>) -> Result<(), Error> {
    match task {
        TaskName::Release => release::run(job).await,
        TaskName::Census => census::run(job).await,
        TaskName::DeadLetters => dead_letters::run(job).await,
        TaskName::ExpireUploads => expire_uploads::run(job).await,
        TaskName::ExpireDocuments => expire_documents::run(job).await,
        TaskName::Orphans => orphans::run(job).await,
        TaskName::Purge => purge::run(job).await,
        TaskName::Quotas => quotas::run(job).await,
        TaskName::Consumers => consumers::run(job).await,
        TaskName::Deadline => deadline::run(job).await,
        TaskName::Fill => fill::run(job).await,
        TaskName::Index => index::run(job).await,
        TaskName::Housekeep => housekeep::run(job).await,
        TaskName::RedeliverWebhooks => redeliver_webhooks::run(job).await,
        TaskName::Summary => summary::run(job).await,
        TaskName::Canary => canary::run(job).await,
        TaskName::Backup => backup::run(job).await,
        TaskName::Health => health::run(job).await,
    }
}

/// Does something for all partitions at once, and answers the first error when all have ended: a partition whose
/// server is away keeps no other waiting.
async fn each_partition<F, Fut>(job: &Job<'_>, step: F) -> Result<(), Error>
where
    F: Fn(u16) -> Fut,
    Fut: Future<Output = Result<(), Error>>,
{
    let partitions = job.janitor.store.partitions().await?;
    join_all(partitions.iter().map(|partition| step(partition.partition))).await.into_iter().collect()
}

/// Takes steps of at most `batch` until one finds less than that.
async fn step_by_step<F, Fut>(job: &Job<'_>, what: &'static str, mut step: F) -> Result<(), Error>
where
    F: FnMut(u32) -> Fut,
    Fut: Future<Output = Result<u64, riacho_store::Error>>,
{
    let batch = job.config().batch.max(1);
    while job.goes_on() {
        let done = step(batch).await?;
        job.add(what, done);
        if done < u64::from(batch) {
            break;
        }
    }
    Ok(())
}
