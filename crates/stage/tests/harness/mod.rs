//! A stage made of a closure, and runners that can be stopped or killed.
#![allow(dead_code)] // each test file uses some of it

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use riacho_domain::{DocumentId, Lane, ReleaseId, StageName};
use riacho_proto::{Message, v1, v1::envelope::Payload};
use riacho_stage::{
    Claims, Context, Event, EventMeta, Failure, Outcome, Output, ReleaseMeta, Runner, RunnerConfig, Stage,
    codec,
};
use riacho_streams::{Config, Streams};
use tokio_util::sync::CancellationToken;

use crate::support::Server;

pub(crate) type Answer = Result<Outcome, Failure>;
type Handler = dyn Fn(Event) -> BoxFuture<'static, Answer> + Send + Sync;

/// The extractor's place in the topology, with a closure as its work.
pub(crate) struct Work {
    pub(crate) name: StageName,
    pub(crate) limit: Duration,
    pub(crate) handler: Box<Handler>,
}

impl Stage for Work {
    fn name(&self) -> StageName {
        self.name
    }

    fn time_limit(&self) -> Duration {
        self.limit
    }

    async fn run(&self, event: Event, _: &Context) -> Answer {
        (self.handler)(event).await
    }
}

pub(crate) fn stage<F, A>(handler: F) -> Work
where
    F: Fn(Event) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let handler = Box::new(move |event| Box::pin(handler(event)) as BoxFuture<'static, Answer>);
    Work { name: StageName::Extract, limit: Duration::from_secs(60), handler }
}

/// A list that tests and stages share.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(String, u32)>>>);

impl Log {
    /// Writes down an event's label and its attempt.
    pub(crate) fn add(&self, event: &Event) {
        self.0.lock().unwrap().push((label(event), event.envelope.attempt));
    }

    pub(crate) fn all(&self) -> Vec<(String, u32)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// The label of an event made by [`release`].
pub(crate) fn label(event: &Event) -> String {
    match &event.payload {
        Payload::ExtractRequested(request) => request.filename.clone(),
        other => panic!("unexpected {other:?}"),
    }
}

pub(crate) fn request(label: &str) -> v1::ExtractRequested {
    v1::ExtractRequested { filename: label.to_owned(), ..Default::default() }
}

pub(crate) fn meta(lane: Lane) -> ReleaseMeta {
    ReleaseMeta {
        tenant: "default".parse().unwrap(),
        document: DocumentId::new(),
        version: 1,
        release: ReleaseId::new(),
        lane,
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
    }
}

/// Puts an event onto the extractor's stream.
pub(crate) async fn release(server: &Server, lane: Lane, label: &str) {
    let meta = meta(lane);
    let envelope = codec::encode_release(&meta, request(label));
    server.streams.release(0, lane, &envelope, meta.release).await.unwrap();
}

/// Puts bytes onto the extractor's stream, as they are.
pub(crate) fn add_raw(server: &Server, field: &str, bytes: &[u8]) {
    let key = server.streams.keys().work(0, StageName::Extract, Lane::Interactive);
    server.raw(&[b"XADD", key.as_bytes(), b"*", field.as_bytes(), bytes]);
}

pub(crate) fn output(text: &str) -> Output {
    let cut = v1::ChunksCut { title: text.to_owned(), ..Default::default() };
    Output { payload: Payload::ChunksCut(cut), lane: Lane::Interactive }
}

/// Settings that lose no time.
pub(crate) fn quick() -> RunnerConfig {
    RunnerConfig { partitions: vec![0], block_ms: 100, grace_seconds: 5, ..RunnerConfig::default() }
}

/// A runner in the test's own runtime.
pub(crate) struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(server: &Server, config: RunnerConfig, stage: Work) -> Running {
        let runner = Runner::new(server.streams.clone(), Claims::in_memory(), config);
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move { runner.run_stage(Arc::new(stage), token).await.unwrap() });
        Running { stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("the runner stops").unwrap();
    }
}

/// A runner in a runtime of its own, which ends as if its process were killed.
pub(crate) struct Victim(Option<tokio::runtime::Runtime>);

impl Victim {
    pub(crate) fn start(server: &Server, config: RunnerConfig, stage: Work) -> Victim {
        let url = server.redis.url();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let streams = Streams::connect(&Config::for_url(&url)).await.unwrap();
            let runner = Runner::new(streams, Claims::in_memory(), config);
            runner.run_stage(Arc::new(stage), CancellationToken::new()).await.unwrap();
        });
        Victim(Some(runtime))
    }

    pub(crate) fn kill(mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("waited for: {what}"));
}

/// Waits until nothing of the extractor's is left, and checks that nothing was lost on the way.
pub(crate) async fn until_drained(server: &Server) {
    until("an empty stream", async || {
        // Errors come while the server restarts.
        let figures = server.streams.figures(StageName::Extract, &[0]).await.unwrap_or_default();
        figures.lag == Some(0) && figures.backlog == 0 && figures.pending == 0 && figures.bytes == 0
    })
    .await;
}

/// The dead letters, decoded.
pub(crate) async fn dead(server: &Server) -> Vec<v1::DeadLetter> {
    let entries = server.streams.dead_letters(0, 100).await.unwrap();
    let letter = |bytes: Bytes| match v1::Envelope::decode(bytes).unwrap().payload {
        Some(Payload::DeadLetter(letter)) => letter,
        other => panic!("unexpected {other:?}"),
    };
    entries.into_iter().map(|entry| letter(entry.envelope)).collect()
}

/// What stands on the embedder's stream.
pub(crate) fn handed_on(server: &Server) -> i64 {
    server.len(&server.streams.keys().work(0, StageName::Embed, Lane::Interactive))
}

pub(crate) fn ended() -> Answer {
    Ok(Outcome::Failed(riacho_domain::ReasonCode::Empty))
}

pub(crate) fn document(meta: &EventMeta) -> String {
    meta.document.to_string()
}
