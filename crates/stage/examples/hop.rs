//! Measures one hop: events a second through a batch stage that does nothing, and the time from
//! XADD to the start of a handler on an idle stream. Starts a private redis-server.
//!
//!     cargo run --release -p riacho-stage --example hop -- [EVENTS]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a measurement for people

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use riacho_domain::{DocumentId, Lane, ReleaseId, StageName};
use riacho_proto::{v1, v1::envelope::Payload};
use riacho_stage::{
    BatchLimits, BatchStage, Claims, Context, Event, Failure, Outcome, Output, ReleaseMeta, Runner,
    RunnerConfig, Stage, codec,
};
use riacho_streams::{Config, Streams};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

struct Nothing(AtomicUsize);

impl BatchStage for Nothing {
    fn name(&self) -> StageName {
        StageName::Extract
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

fn output() -> Output {
    Output { payload: Payload::ChunksCut(v1::ChunksCut::default()), lane: Lane::Interactive }
}

struct Clocked(mpsc::UnboundedSender<Instant>);

impl Stage for Clocked {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    async fn run(&self, _: Event, _: &Context) -> Result<Outcome, Failure> {
        let _ = self.0.send(Instant::now());
        Ok(Outcome::Ended)
    }
}

async fn release(streams: &Streams) {
    let release = ReleaseId::new();
    let meta = ReleaseMeta {
        tenant: "default".parse().unwrap(),
        document: DocumentId::new(),
        version: 1,
        release,
        lane: Lane::Interactive,
        traceparent: String::new(),
    };
    let envelope = codec::encode_release(&meta, v1::ExtractRequested::default());
    streams.release(0, meta.lane, &envelope, release).await.unwrap();
}

async fn rate(streams: &Streams, events: usize) {
    stream::iter(0..events).for_each_concurrent(256, |_| release(streams)).await;
    let stop = CancellationToken::new();
    let runner =
        Runner::new(streams.clone(), Claims::in_memory(), RunnerConfig::default().with_concurrency(4));
    let (stage, token) = (Arc::new(Nothing(AtomicUsize::new(0))), stop.clone());
    let start = Instant::now();
    let running = tokio::spawn(async move { runner.run_batch_stage(stage, token).await.unwrap() });
    while streams.figures(StageName::Extract, &[0]).await.unwrap().backlog > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{events} events handed on in {seconds:.2} s: {:.0} events/s", events as f64 / seconds);
    stop.cancel();
    running.await.unwrap();
}

async fn latency(streams: &Streams, events: usize) {
    let (sender, mut started) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let runner = Runner::new(streams.clone(), Claims::in_memory(), RunnerConfig::default());
    let token = stop.clone();
    let running =
        tokio::spawn(async move { runner.run_stage(Arc::new(Clocked(sender)), token).await.unwrap() });
    let mut waits = Vec::with_capacity(events);
    for _ in 0..events {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let sent = Instant::now();
        release(streams).await;
        waits.push(started.recv().await.unwrap().saturating_duration_since(sent));
    }
    waits.sort();
    let at = |share: f64| waits[((events - 1) as f64 * share) as usize];
    println!("from sending to the handler, idle: p50 {:?}, p90 {:?}, p99 {:?}", at(0.5), at(0.9), at(0.99));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::main]
async fn main() {
    let events = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let redis = riacho_local::testing::redis();
    let streams = Streams::connect(&Config::for_url(&redis.url())).await.unwrap();
    latency(&streams, 1_000).await;
    rate(&streams, events).await;
}
