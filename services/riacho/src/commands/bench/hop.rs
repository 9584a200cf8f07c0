//! Stages that do nothing, through the real runner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use riacho_domain::{DocumentId, Lane, ReleaseId, StageName};
use riacho_proto::{v1, v1::envelope::Payload};
use riacho_stage::{
    BatchLimits, BatchStage, Claims, Context, Event, Failure, Outcome, Output, ReleaseMeta, Runner,
    RunnerConfig, Stage, codec,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{raw, server::Server};

const STAGE: StageName = StageName::Extract;

/// What a rate was measured with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) events: usize,
    pub(super) partitions: u16,
    pub(super) consumers: usize,
    /// Whether a call of the stage gets many events, or one.
    pub(super) batched: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) per_second: f64,
    /// Commands sent for each event.
    pub(super) sent: f64,
    /// Commands executed for each event, those of scripts included.
    pub(super) executed: f64,
    /// Bytes of Redis' memory for each event that waits.
    pub(super) bytes: f64,
    /// Processor time of Redis and of this process for each event, in microseconds.
    pub(super) processor_us: [f64; 2],
}

/// An event of the first stage as it stands on the stream, about 200 bytes.
pub(super) fn event() -> (ReleaseId, Vec<u8>) {
    let release = ReleaseId::new();
    let meta = ReleaseMeta {
        // The name that `up` makes; it can be read.
        tenant: crate::DEFAULT_TENANT.parse().unwrap_or_else(|_| unreachable!("the default tenant's name")),
        document: DocumentId::new(),
        version: 1,
        release,
        lane: Lane::Interactive,
        traceparent: String::new(),
    };
    (release, codec::encode_release(&meta, v1::ExtractRequested::default()).to_vec())
}

/// How fast a stage that does nothing hands on what waits on its streams.
pub(super) async fn rate(server: &Server, load: Load) -> anyhow::Result<Rate> {
    server.flush()?;
    let empty = server.memory()?;
    for partition in 0..load.partitions {
        let key = server.streams.keys().work(partition, STAGE, Lane::Interactive);
        let events = load.events / usize::from(load.partitions);
        raw::fill(&mut server.connection()?, &key, events, |_| event().1)?;
    }
    let events = load.events / usize::from(load.partitions) * usize::from(load.partitions);
    let bytes = server.memory()?.saturating_sub(empty) as f64 / events as f64;
    let (stop, counted) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let (before, processor) = (server.commands()?, server.processor_time()?);
    let start = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..load.consumers {
        let config = RunnerConfig { partitions: (0..load.partitions).collect(), ..RunnerConfig::default() };
        // One call at a time, or a few of many events each.
        let config = config.with_concurrency(if load.batched { 4 } else { 1 });
        let runner = Runner::new(server.streams.clone(), Claims::in_memory(), config);
        let (stage, stop) = (Arc::new(Nothing(Arc::clone(&counted))), stop.clone());
        running.spawn(async move {
            if load.batched {
                runner.run_batch_stage(stage, stop).await
            } else {
                runner.run_stage(stage, stop).await
            }
        });
    }
    while left(server, load.partitions)? > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let (sent, executed) = server.commands()?.since(&before);
    let processor_us = micros_each(server, processor, events)?;
    stop.cancel();
    for ended in running.join_all().await {
        ended?;
    }
    let each = |count: u64| count as f64 / events as f64;
    Ok(Rate {
        per_second: events as f64 / seconds,
        sent: each(sent),
        executed: each(executed),
        bytes,
        processor_us,
    })
}

/// The processor time of Redis and of this process since `before` for each event, in microseconds.
pub(super) fn micros_each(server: &Server, before: [Duration; 2], events: usize) -> anyhow::Result<[f64; 2]> {
    let now = server.processor_time()?;
    Ok([0, 1].map(|at| now[at].saturating_sub(before[at]).as_secs_f64() * 1e6 / events as f64))
}

/// How many entries are not settled.
fn left(server: &Server, partitions: u16) -> anyhow::Result<i64> {
    let mut connection = server.connection()?;
    let keys = server.streams.keys();
    let mut left = 0;
    for partition in 0..partitions {
        left += connection.ask(&["XLEN", &keys.work(partition, STAGE, Lane::Interactive)])?.int();
    }
    Ok(left)
}

/// The times from XADD of one event to the start of its handler while nothing else happens, sorted.
pub(super) async fn latencies(server: &Server, events: usize) -> anyhow::Result<Vec<Duration>> {
    server.flush()?;
    let (sender, started) = mpsc::channel();
    let stop = CancellationToken::new();
    let runner = Runner::new(
        server.streams.clone(),
        Claims::in_memory(),
        RunnerConfig { partitions: vec![0], ..RunnerConfig::default() },
    );
    let token = stop.clone();
    let running = tokio::spawn(async move { runner.run_stage(Arc::new(Clocked(sender)), token).await });
    let mut connection = server.connection()?;
    let key = server.streams.keys().work(0, STAGE, Lane::Interactive);
    let bodies = (0..events + raw::WARMING).map(|_| event().1).collect();
    let waits = tokio::task::spawn_blocking(move || raw::send(&mut connection, &key, bodies, &started));
    let waits = waits.await??;
    stop.cancel();
    running.await??;
    Ok(waits)
}

/// How many commands one idle stage of one process sends in a second.
pub(super) async fn idle_commands(server: &Server, over: Duration) -> anyhow::Result<f64> {
    server.flush()?;
    let stop = CancellationToken::new();
    let runner = Runner::new(
        server.streams.clone(),
        Claims::in_memory(),
        RunnerConfig { partitions: vec![0], ..RunnerConfig::default() },
    );
    let stage = Arc::new(Nothing(Arc::default()));
    let token = stop.clone();
    let running = tokio::spawn(async move { runner.run_stage(stage, token).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = server.commands()?;
    tokio::time::sleep(over).await;
    let (sent, _) = server.commands()?.since(&before);
    stop.cancel();
    running.await??;
    Ok(sent as f64 / over.as_secs_f64())
}

struct Nothing(Arc<AtomicUsize>);

fn output() -> Output {
    Output { payload: Payload::ChunksCut(v1::ChunksCut::default()), lane: Lane::Interactive }
}

impl Stage for Nothing {
    fn name(&self) -> StageName {
        STAGE
    }

    async fn run(&self, _: Event, _: &Context) -> Result<Outcome, Failure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Outcome::Emit(vec![output()]))
    }
}

impl BatchStage for Nothing {
    fn name(&self) -> StageName {
        STAGE
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits { max_events: 1024, ..BatchLimits::default() }
    }

    fn weight(&self, _: &Event) -> usize {
        1
    }

    async fn run(&self, events: Vec<Event>, _: &Context) -> Vec<Result<Outcome, Failure>> {
        self.0.fetch_add(events.len(), Ordering::Relaxed);
        events.iter().map(|_| Ok(Outcome::Emit(vec![output()]))).collect()
    }
}

struct Clocked(mpsc::Sender<Instant>);

impl Stage for Clocked {
    fn name(&self) -> StageName {
        STAGE
    }

    async fn run(&self, _: Event, _: &Context) -> Result<Outcome, Failure> {
        let _ = self.0.send(Instant::now());
        Ok(Outcome::Emit(vec![output()]))
    }
}
