//! The workers of `riacho up`, beside the gateway in one process.
//!
//! They have threads of their own, of lower priority: parsing and embedding take every core there is,
//! and a request must not wait for them.

use std::{io, thread, time::Duration};

use anyhow::{Context, anyhow};
use riacho_service::Metrics;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Worker,
    config::Config,
    services::{Group, Service},
};

/// How much the pipeline's threads yield to the gateway's (0 not at all, 19 always). At 10 a thread of
/// the gateway weighs nine times as much.
const NICENESS: i32 = 10;
/// The pause between two tries to lower the priority of a session, and how many tries there are.
const SESSION_PAUSE: Duration = Duration::from_millis(110);
const SESSION_TRIES: u32 = 100;
/// How long tasks that do not listen may hold up the end.
const LEFTOVERS: Duration = Duration::from_secs(1);

const WORKERS: [Service; 4] = [
    Service::Worker(Worker::Extractor),
    Service::Worker(Worker::Embedder),
    Service::Worker(Worker::Indexer),
    Service::Worker(Worker::Janitor),
];

/// The running workers.
#[derive(Debug)]
pub(super) struct Pipeline {
    connected: watch::Receiver<bool>,
    result: Option<oneshot::Receiver<anyhow::Result<()>>>,
}

impl Pipeline {
    /// Starts the workers' threads; they connect by themselves. `is_private` tells that PostgreSQL is a
    /// child of this process.
    pub(super) fn spawn(
        config: Config,
        is_private: bool,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<Pipeline> {
        let (connected_sender, connected) = watch::channel(false);
        let (result_sender, result) = oneshot::channel();
        let mut config = config;
        // The server's side of the workers' connections yields too, where the server is on this machine.
        config.database.on_backend = is_private.then_some(yield_backend);
        let body = move || {
            yield_to_others();
            // The receiver is gone only when the process ends.
            let _ = result_sender.send(run(config, &metrics, &stop, &connected_sender));
        };
        thread::Builder::new().name("pipeline".into()).spawn(body).context("cannot start threads")?;
        Ok(Pipeline { connected, result: Some(result) })
    }

    /// Whether the workers are connected.
    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Waits for the workers' end. Cancel safe.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(result) = &mut self.result else { return std::future::pending().await };
        let ended = result.await.unwrap_or_else(|_| Err(anyhow!("the pipeline panicked")));
        self.result = None;
        ended
    }

    /// Waits until the workers have stopped, and logs what went wrong with that.
    pub(super) async fn join(&mut self) {
        if self.result.is_some()
            && let Err(error) = self.ended().await
        {
            tracing::warn!(error = format!("{error:#}"), "the pipeline did not stop cleanly");
        }
    }
}

fn run(
    config: Config,
    metrics: &Metrics,
    stop: &CancellationToken,
    connected: &watch::Sender<bool>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("pipeline")
        .on_thread_start(yield_to_others)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let result = runtime.block_on(async {
        let group = match Group::connect(&WORKERS, &config, metrics, stop).await {
            Err(_) if stop.is_cancelled() => return Ok(()),
            group => group?,
        };
        connected.send_replace(true);
        group.run(&config, stop.clone()).await
    });
    runtime.shutdown_timeout(LEFTOVERS);
    result
}

/// Lowers the priority of one of the private PostgreSQL's processes.
fn yield_backend(process: i32) {
    let lowered = rustix::process::Pid::from_raw(process)
        .map_or(Ok(()), |process| rustix::process::setpriority_process(Some(process), NICENESS));
    if let Err(error) = lowered {
        tracing::debug!(%error, process, "cannot lower the priority of a process of PostgreSQL");
    }
    tokio::spawn(yield_session(process));
}

/// Lowers the priority of a process's session. Each process of PostgreSQL has one of its own, and Linux
/// (sched(7), "The autogroup feature") shares the processor between sessions first: beside other
/// sessions, the priority of a process itself means nothing.
async fn yield_session(process: i32) {
    let file = format!("/proc/{process}/autogroup");
    for _ in 0..SESSION_TRIES {
        match tokio::fs::write(&file, NICENESS.to_string()).await {
            // Without privileges, one session every tenth of a second.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(SESSION_PAUSE).await;
            }
            Err(error) => {
                return tracing::debug!(%error, process, "cannot lower the priority of a session of PostgreSQL");
            }
            Ok(()) => return,
        }
    }
    tracing::debug!(process, "the priority of a session of PostgreSQL could not be lowered in time");
}

/// Lowers the priority of the calling thread, and so of the threads and children it starts. Where that
/// is not allowed, everything works and requests wait longer.
fn yield_to_others() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "cannot lower the priority of the pipeline's threads");
    }
}
