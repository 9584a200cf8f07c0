//! How long an event whose process is killed waits until another process runs it.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use riacho_domain::{Lane, StageName};
use riacho_stage::{Claims, Context, Event, Failure, Outcome, Output, Runner, RunnerConfig, Stage};
use riacho_streams::{Config, Streams};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use tokio_util::sync::CancellationToken;

use super::{hop, server::Server};

/// What a worker prints when it begins to run an event.
const BEGUN: &str = "begun";
/// Longer than any redelivery may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The times from kill -9 to the start of the next run, sorted.
pub(super) async fn times(server: &Server, kills: usize) -> anyhow::Result<Vec<Duration>> {
    server.flush()?;
    let mut workers = [Worker::start(server)?, Worker::start(server)?];
    let mut times = Vec::with_capacity(kills);
    for _ in 0..kills {
        let (release, envelope) = hop::event();
        server.streams.release(0, Lane::Interactive, &envelope, release).await?;
        let [first, second] = &mut workers;
        let holder = tokio::select! {
            begun = first.begins() => begun.map(|()| 0)?,
            begun = second.begins() => begun.map(|()| 1)?,
        };
        workers[holder].child.start_kill()?;
        let killed = Instant::now();
        workers[1 - holder].begins().await?;
        times.push(killed.elapsed());
        workers[holder].child.wait().await?;
        workers[holder] = Worker::start(server)?;
    }
    for worker in &mut workers {
        worker.child.kill().await?;
    }
    times.sort();
    Ok(times)
}

struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(server: &Server) -> anyhow::Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "bus-worker", "--redis", &server.url]).kill_on_drop(true);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("the worker has no output")?;
        Ok(Worker { child, lines: BufReader::new(stdout).lines() })
    }

    async fn begins(&mut self) -> anyhow::Result<()> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await??;
        anyhow::ensure!(line.as_deref() == Some(BEGUN), "a worker said {line:?}");
        Ok(())
    }
}

/// A worker that holds an event for ever at its first attempt, and ends it at the second.
pub(super) async fn work(redis: &str) -> anyhow::Result<()> {
    let streams = Streams::connect(&Config::for_url(redis)).await?;
    let runner = Runner::new(
        streams,
        Claims::in_memory(),
        RunnerConfig { partitions: vec![0], ..RunnerConfig::default() },
    );
    Ok(runner.run_stage(Arc::new(Holder), CancellationToken::new()).await?)
}

struct Holder;

impl Stage for Holder {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    async fn run(&self, event: Event, _: &Context) -> Result<Outcome, Failure> {
        crate::output::Output::new(false, false).raw(BEGUN);
        if event.envelope.attempt == 1 {
            std::future::pending::<()>().await;
        }
        let payload = riacho_proto::v1::envelope::Payload::ChunksCut(riacho_proto::v1::ChunksCut::default());
        Ok(Outcome::Emit(vec![Output { payload, lane: Lane::Interactive }]))
    }
}
