//! Outputs: emitted before the end, many, large, to a full stream, and in batches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use harness::*;
use riacho_domain::{Lane, StageName};
use riacho_proto::{Message, v1, v1::envelope::Payload};
use riacho_stage::{
    BatchLimits, BatchStage, Claims, Context, EmitError, Event, Failure, Outcome, Runner, RunnerConfig, Stage,
};
use support::Server;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Emits some outputs on the way and some at the end; the first attempt fails in between.
struct Emitter {
    before: usize,
    after: usize,
    fails_first: bool,
}

impl Stage for Emitter {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    async fn run(&self, event: Event, context: &Context) -> Result<Outcome, Failure> {
        context.emit((0..self.before).map(|n| output(&n.to_string())).collect()).await?;
        if self.fails_first && event.envelope.attempt == 1 {
            return Err(Failure::transient("in the middle"));
        }
        Ok(Outcome::Emit((0..self.after).map(|n| output(&(self.before + n).to_string())).collect()))
    }
}

fn spawn<S: Stage>(server: &Server, claims: Claims, config: RunnerConfig, stage: S) -> CancellationToken {
    let runner = Runner::new(server.streams.clone(), claims, config);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move { runner.run_stage(Arc::new(stage), token).await.unwrap() });
    stop
}

/// The embedder's events: id and envelope.
fn envelopes(server: &Server) -> Vec<v1::Envelope> {
    let reader = server.streams.reader(0, StageName::Embed, "test");
    let entries =
        futures::executor::block_on(async { reader.await.unwrap().read_lanes([1000, 0, 0]).await.unwrap() });
    entries.into_iter().map(|entry| v1::Envelope::decode(entry.body).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_makes_the_same_event_ids() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "one").await;
    let stop =
        spawn(&server, Claims::in_memory(), quick(), Emitter { before: 3, after: 2, fails_first: true });
    until_drained(&server).await;
    let envelopes = envelopes(&server);
    let ids: BTreeSet<&str> = envelopes.iter().map(|envelope| envelope.id.as_str()).collect();
    assert_eq!((envelopes.len(), ids.len()), (8, 5), "three came twice, with the ids they had");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_outputs_than_a_call_takes_all_arrive() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "one").await;
    let stop =
        spawn(&server, Claims::in_memory(), quick(), Emitter { before: 0, after: 200, fails_first: false });
    until_drained(&server).await;
    assert_eq!(handed_on(&server), 200);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_takes_more_outputs_than_its_bound() {
    let server = Server::start().await;
    let home = server.redis.home_of(&server.streams.keys().sizes(0));
    home.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    home.command(&["CONFIG", "SET", "slowlog-max-len", "10000"]);
    for label in ["one", "two", "three"] {
        release(&server, Lane::Interactive, label).await;
    }
    let stop =
        spawn(&server, Claims::in_memory(), quick(), Emitter { before: 0, after: 500, fails_first: false });
    until_drained(&server).await;
    assert_eq!(handed_on(&server), 1_500);
    stop.cancel();
    // The log shows so many arguments, and in the place of the last one how many more there were.
    let arguments = |entry: &support::Reply| {
        let command = entry.list()[3].list();
        let more = command
            .last()
            .and_then(|last| last.text().strip_prefix("... (")?.split(' ').next()?.parse().ok());
        let is_script = command[0].text() == "EVALSHA";
        is_script.then(|| command.len() + more.unwrap_or(0_usize))
    };
    let log = home.command(&["SLOWLOG", "GET", "10000"]);
    let most = log.list().iter().filter_map(arguments).max().unwrap();
    // A key and an envelope for each of 64 outputs, and what stands before them.
    assert!(most > 64 && most < 2 * 64 + 32, "{most} arguments in one call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_emits_nothing_loses_no_event_silently() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "empty").await;
    let stop =
        spawn(&server, Claims::in_memory(), quick(), Emitter { before: 0, after: 0, fails_first: false });
    until("a dead letter", async || dead(&server).await.len() == 1).await;
    assert_eq!(dead(&server).await[0].reason_code, "internal");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_wait_for_a_full_stream_and_nothing_is_lost() {
    let server = Server::start_with(|config| config.stream_max_bytes = 2_000).await;
    release(&server, Lane::Interactive, "one").await;
    let stop =
        spawn(&server, Claims::in_memory(), quick(), Emitter { before: 0, after: 100, fails_first: false });
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    until("a full stream", async || handed_on(&server) > 0).await;
    let mut embed = stage(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(Outcome::Superseded) }
    });
    embed.name = StageName::Embed;
    let running = Running::start(&server, quick(), embed);
    until("all outputs", async || received.load(Ordering::SeqCst) == 100).await;
    until_drained(&server).await;
    running.stop().await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_payload_becomes_a_claim_check_and_comes_back_whole() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "one").await;
    let claims = Claims::in_memory();
    // Bytes that do not compress, so that the payload stays above the limit.
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..400_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let noise = Bytes::from(noise);
    let sent = noise.clone();
    let extract = stage(move |_| {
        let chunk = v1::Chunk { content_hash: sent.clone(), ..Default::default() };
        let cut = v1::ChunksCut { chunks: vec![chunk], ..Default::default() };
        async move {
            let payload = Payload::ChunksCut(cut);
            Ok(Outcome::Emit(vec![riacho_stage::Output { payload, lane: Lane::Interactive }]))
        }
    });
    let stop = spawn(&server, claims.clone(), quick(), extract);
    until_drained(&server).await;
    let figures = server.streams.figures(StageName::Embed, &[0]).await.unwrap();
    assert!(figures.backlog == 1 && figures.bytes < 1_000, "{figures:?}");
    let got = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&got);
    let mut embed = stage(move |event| {
        *slot.lock().unwrap() = Some(event.payload);
        async { Ok(Outcome::Failed(riacho_domain::ReasonCode::Empty)) }
    });
    embed.name = StageName::Embed;
    let other = spawn(&server, claims, quick(), embed);
    until("the payload", async || got.lock().unwrap().is_some()).await;
    let Some(Payload::ChunksCut(cut)) = got.lock().unwrap().take() else { panic!("another payload") };
    assert!(cut.chunks[0].content_hash == noise);
    stop.cancel();
    other.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_inflates_beyond_its_announcement_is_a_dead_letter() {
    let server = Server::start().await;
    let bomb = v1::Envelope {
        payload: Some(Payload::ExtractRequested(request(&"0".repeat(10 << 20)))),
        ..Default::default()
    };
    let packed = zstd::bulk::compress(&bomb.encode_to_vec(), 3).unwrap();
    let meta = meta(Lane::Interactive);
    let envelope = |uncompressed_size| v1::Envelope {
        payload: Some(Payload::Compressed(v1::CompressedPayload {
            zstd: Bytes::from(packed.clone()),
            uncompressed_size,
        })),
        ..v1::Envelope::decode(riacho_stage::codec::encode_release(&meta, request("x"))).unwrap()
    };
    add_raw(&server, "e", &envelope(1_000).encode_to_vec());
    add_raw(&server, "e", &envelope(10 << 20).encode_to_vec());
    let config = RunnerConfig { max_payload_bytes: 1 << 20, ..quick() };
    let running = Running::start(&server, config, stage(|_| async { ended() }));
    until("dead letters", async || dead(&server).await.len() == 2).await;
    running.stop().await;
    let mut reasons: Vec<String> = dead(&server).await.into_iter().map(|letter| letter.reason_code).collect();
    reasons.sort();
    assert_eq!(reasons, ["too_large", "undecodable"]);
}

/// Writes down the sizes of its batches; fails what is labelled so.
struct Batches {
    limits: BatchLimits,
    sizes: Arc<Mutex<Vec<usize>>>,
}

impl BatchStage for Batches {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn weight(&self, event: &Event) -> usize {
        label(event).len()
    }

    async fn run(&self, events: Vec<Event>, context: &Context) -> Vec<Result<Outcome, Failure>> {
        assert!(matches!(context.emit(vec![output("x")]).await, Err(EmitError::Batch)));
        self.sizes.lock().unwrap().push(events.len());
        let answer = |event: &Event| match (label(event).as_str(), event.envelope.attempt) {
            ("fail", 1) => Err(Failure::transient("first time")),
            _ => Ok(Outcome::Emit(vec![output(&label(event))])),
        };
        events.iter().map(answer).collect()
    }
}

async fn run_batches(server: &Server, limits: BatchLimits) -> Vec<usize> {
    let sizes = Arc::default();
    let stage = Batches { limits, sizes: Arc::clone(&sizes) };
    let runner = Runner::new(server.streams.clone(), Claims::in_memory(), quick().with_concurrency(1));
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move { runner.run_batch_stage(Arc::new(stage), token).await });
    until_drained(server).await;
    stop.cancel();
    task.await.unwrap().unwrap();
    let sizes = sizes.lock().unwrap();
    sizes.clone()
}

#[tokio::test]
async fn a_batch_is_filled_by_count() {
    let server = Server::start().await;
    for _ in 0..10 {
        release(&server, Lane::Interactive, "xx").await;
    }
    let limits = BatchLimits { max_events: 4, max_weight: 1_000, linger: Duration::from_millis(50) };
    let sizes = run_batches(&server, limits).await;
    assert_eq!((sizes.iter().sum::<usize>(), handed_on(&server)), (10, 10));
    assert!(sizes.len() <= 5 && sizes.iter().all(|size| *size <= 4), "{sizes:?}");
}

#[tokio::test]
async fn a_batch_is_filled_by_weight_and_a_heavy_event_is_a_batch_of_its_own() {
    let server = Server::start().await;
    for label in ["aaaa", "bbbb", "a heavy event", "cccc", "dddd"] {
        release(&server, Lane::Interactive, label).await;
    }
    let limits = BatchLimits { max_events: 100, max_weight: 8, linger: Duration::from_millis(50) };
    assert_eq!(run_batches(&server, limits).await, [2, 1, 2]);
}

#[tokio::test]
async fn one_failure_of_a_batch_is_its_own() {
    let server = Server::start().await;
    for label in ["a", "fail", "b"] {
        release(&server, Lane::Interactive, label).await;
    }
    let sizes =
        run_batches(&server, BatchLimits { linger: Duration::from_millis(50), ..Default::default() }).await;
    assert_eq!((sizes, handed_on(&server)), (vec![3, 1], 3));
}

/// Runs its batches until they may end.
struct Held {
    batch: usize,
    begun: Arc<Semaphore>,
    may_end: Arc<Semaphore>,
}

impl BatchStage for Held {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits { max_events: self.batch, linger: Duration::ZERO, ..BatchLimits::default() }
    }

    fn weight(&self, _: &Event) -> usize {
        1
    }

    async fn run(&self, events: Vec<Event>, _: &Context) -> Vec<Result<Outcome, Failure>> {
        self.begun.add_permits(events.len());
        let _ = self.may_end.acquire().await;
        events.iter().map(|_| Ok(Outcome::Emit(vec![output("x")]))).collect()
    }
}

#[tokio::test]
async fn what_waits_for_its_batch_is_handed_back_at_the_stop_while_others_run() {
    let server = Server::start().await;
    for n in 0..4 {
        release(&server, Lane::Bulk, &n.to_string()).await;
    }
    let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let stage = Held { batch: 2, begun: Arc::clone(&begun), may_end: Arc::clone(&may_end) };
    let runner = Runner::new(server.streams.clone(), Claims::in_memory(), quick().with_concurrency(1));
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move { runner.run_batch_stage(Arc::new(stage), token).await });
    let figures = async || server.streams.figures(StageName::Extract, &[0]).await.unwrap();
    until("a batch to run and another to wait", async || {
        begun.available_permits() > 0 && figures().await.pending == 4
    })
    .await;
    let running = begun.available_permits() as u64;
    stop.cancel();
    until("what waits to be handed back", async || figures().await.retrying == 4 - running).await;
    assert!(!task.is_finished());
    may_end.add_permits(10);
    task.await.unwrap().unwrap();
    let left = figures().await;
    assert_eq!((left.backlog, left.retrying), (4 - running, 4 - running));
    assert_eq!(begun.available_permits() as u64, running, "no other batch began");
}

#[tokio::test]
async fn so_many_interactive_batches_run_beside_the_others_as_the_settings_say() {
    let server = Server::start().await;
    for (interactive_runs, running, held) in [(0, 2, 3), (1, 3, 4)] {
        for n in 0..6 {
            release(&server, Lane::Interactive, &n.to_string()).await;
        }
        let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let stage = Held { batch: 1, begun: Arc::clone(&begun), may_end: Arc::clone(&may_end) };
        let config = RunnerConfig { interactive_runs, concurrency: 2, ..quick() };
        let runner = Runner::new(server.streams.clone(), Claims::in_memory(), config);
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move { runner.run_batch_stage(Arc::new(stage), token).await });
        let pending = async || server.streams.figures(StageName::Extract, &[0]).await.unwrap().pending;
        // More are held than run: one more would begin if it could.
        until("as many to run and to be held as may", async || {
            begun.available_permits() >= running && pending().await >= held
        })
        .await;
        assert_eq!((begun.available_permits(), pending().await), (running, held));
        may_end.add_permits(10);
        until_drained(&server).await;
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
