//! Release, dead letters, expiry, orphans, purge and their schedules.
//!
//! Each task is a file below `tasks`. Any number of janitors run; `leader` lets one of them work on a
//! schedule. A task does not rely on that: each of its steps is a compare-and-set in the store, so
//! two leaders, or a person with the command line beside a leader, do no harm.

mod census;
mod config;
mod filler;
mod job;
mod leader;
pub mod metrics;
mod requests;
mod schedule;
mod task;
mod tasks;
mod told;
mod trouble;

use riacho_service::{CoreConfig, Resources};
use tokio_util::sync::CancellationToken;

pub use config::{Backup, Config, Schedules, Webhooks};
pub use job::{Janitor, Summary};
pub use task::TaskName;

/// Leads when no other janitor does, until `stop`; returns when the tasks have ended.
///
/// # Errors
/// When a schedule cannot be read.
pub async fn run(
    config: Config,
    core: &CoreConfig,
    resources: Resources,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    riacho_service::metrics::describe(metrics::METRICS);
    config.check().map_err(|(key, wrong)| anyhow::anyhow!("janitor.{key}: {wrong}"))?;
    let timetable = schedule::Timetable::new(&config)?;
    let janitor = Janitor::new(config, core, &resources);
    leader::run(janitor, timetable, stop).await;
    Ok(())
}

/// Why a task could not be finished. What it did until then stays done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL failed.
    #[error(transparent)]
    Store(#[from] riacho_store::Error),
    /// Redis failed.
    #[error(transparent)]
    Streams(#[from] riacho_streams::Error),
    /// The object store failed.
    #[error(transparent)]
    Objects(#[from] riacho_objects::Error),
    /// A release could not be sent.
    #[error(transparent)]
    Release(#[from] riacho_service::release::Error),
    /// A model cannot be loaded.
    #[error(transparent)]
    Models(#[from] riacho_models::Error),
    /// A task of a thread ended early.
    #[error("a task ended early: {0}")]
    Panicked(String),
    /// A cron expression cannot be read.
    #[error("{task}: {reason}")]
    Schedule {
        /// The task it is for.
        task: TaskName,
        /// What is wrong with it.
        reason: String,
    },
    /// Requests to addresses outside cannot be made.
    #[error(transparent)]
    Outward(#[from] riacho_service::outward::OutwardError),
    /// The configuration does not say what the task needs.
    #[error("{0}")]
    NotConfigured(&'static str),
    /// The object store is not the deployment's own.
    #[error("{0}")]
    Foreign(String),
    /// What the task tried went wrong.
    #[error("{0}")]
    Failed(String),
    /// Some things were done, and some could not be.
    #[error("{failed} failed, the first with: {first}")]
    Partial {
        /// How many.
        failed: u64,
        /// What the first one said.
        first: String,
    },
}

impl Error {
    /// Whether a later run may go well.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Store(error) => error.is_retryable(),
            Error::Streams(error) => error.is_retryable(),
            Error::Objects(error) => error.is_retryable(),
            Error::Release(error) => error.is_retryable(),
            Error::Models(error) => error.is_retryable(),
            Error::Outward(error) => error.is_retryable(),
            Error::Schedule { .. } | Error::NotConfigured(_) | Error::Foreign(_) | Error::Panicked(_) => {
                false
            }
            Error::Partial { .. } | Error::Failed(_) => true,
        }
    }
}
