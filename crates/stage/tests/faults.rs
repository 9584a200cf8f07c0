//! The runner while its connections to Redis fail: cut, refused, or with answers that get lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt;
use harness::*;
use rand::Rng;
use riacho_domain::{Lane, StageName};
use riacho_local::testing;
use riacho_proto::{Message, v1};
use riacho_stage::{Context, Event, Failure, Outcome, Runner, Stage, codec};
use riacho_streams::{Config, Streams};
use riacho_testkit::{Proxy, within};
use support::Server;
use tokio_util::sync::CancellationToken;

/// How long harm is done to most of the events, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server that the test reaches undisturbed, and the way to it that the runner takes.
struct Road {
    server: Server,
    proxy: Proxy,
    /// Through the proxy.
    streams: Streams,
}

impl Road {
    async fn start() -> Road {
        // The proxy stands before one server; a client of others would go past it.
        let server = Server::with(testing::redis(), |_| {}).await;
        let proxy = Proxy::before(&server.redis.url()).unwrap();
        let streams = Streams::connect(&Config::for_url(proxy.url())).await.unwrap();
        Road { server, proxy, streams }
    }

    fn run(&self, stage: Counting) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let runner = Runner::new(self.streams.clone(), riacho_stage::Claims::in_memory(), quick());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let running = tokio::spawn(async move { runner.run_stage(Arc::new(stage), stopped).await.unwrap() });
        (stop, running)
    }

    /// Puts an event onto the first stage's stream through the proxy, as often as it takes.
    async fn release(&self, label: &str) {
        let meta = meta(Lane::ALL[label.len() % 3]);
        let envelope = codec::encode_release(&meta, request(label));
        until("a release", async || {
            self.streams.release(0, meta.lane, &envelope, meta.release).await.is_ok()
        })
        .await;
    }

    /// Looks, in one moment for each lane, whether what stands on the first stage's streams is what is
    /// unread and what is held. Redis 7.0 itself does not always know its lag.
    fn is_conserved(&self) {
        const LUA: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, 0} end
            local group, groups = {}, redis.call('XINFO', 'GROUPS', KEYS[1])
            if #groups == 0 then return {0, 0, 0} end
            for i = 1, #groups[1], 2 do group[groups[1][i]] = groups[1][i + 1] end
            local unread = redis.call('XRANGE', KEYS[1], '(' .. group['last-delivered-id'], '+')
            return {redis.call('XLEN', KEYS[1]), #unread, group.pending}";
        for key in self.server.streams.keys().lanes(0, StageName::Extract) {
            let figures = self.server.raw(&["EVAL", LUA, "1", &key]);
            let [length, unread, pending] = figures.list() else { panic!("{figures:?}") };
            assert_eq!(length.int(), unread.int() + pending.int(), "{figures:?}");
        }
    }

    /// The envelopes that were handed to the next stage: how often each id came, by its title.
    async fn handed_on(&self) -> BTreeMap<String, BTreeMap<String, u32>> {
        let reader = self.server.streams.reader(0, StageName::Embed, "the test").await.unwrap();
        let mut found = BTreeMap::<_, BTreeMap<_, u32>>::new();
        loop {
            let entries = reader.read_any(100, Duration::from_millis(1)).await.unwrap();
            if entries.is_empty() {
                return found;
            }
            for entry in entries {
                let envelope = v1::Envelope::decode(entry.body).unwrap();
                let Some(v1::envelope::Payload::ChunksCut(cut)) = envelope.payload else { panic!() };
                *found.entry(cut.title).or_default().entry(envelope.id).or_default() += 1;
            }
        }
    }
}

/// A stage that writes down what it did, hands on one output on the way and one at the end.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<BTreeMap<String, u32>>>);

impl Counting {
    fn done(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Stage for Counting {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    async fn run(&self, event: Event, context: &Context) -> Result<Outcome, Failure> {
        let label = label(&event);
        context.emit(vec![output(&format!("{label} begins"))]).await?;
        *self.0.lock().unwrap().entry(label.clone()).or_default() += 1;
        Ok(Outcome::Emit(vec![output(&format!("{label} ends"))]))
    }
}

/// Runs events while the proxy does harm, and checks what came of them.
async fn survives(events: usize, harm: impl AsyncFn(&Road)) -> Road {
    let road = Road::start().await;
    let stage = Counting::default();
    let (stop, running) = road.run(stage.clone());
    let labels: BTreeSet<String> = (0..events).map(|n| format!("{n:0width$}", width = 3 + n % 3)).collect();
    let releasing = async {
        let releases = futures::stream::iter(&labels).map(|label| road.release(label));
        releases.buffer_unordered(8).for_each(async |()| road.is_conserved()).await;
    };
    let harming = async {
        loop {
            harm(&road).await;
            road.is_conserved();
        }
    };
    // While there is little else to lose, nearly every answer would be lost.
    let most_done = async {
        releasing.await;
        within(PATIENCE, || async { stage.done() >= events * 9 / 10 }).await;
    };
    tokio::select! {
        () = most_done => {}
        () = harming => {}
    }
    road.proxy.pass();
    until("all events done", async || stage.done() == events).await;
    until_drained(&road.server).await;
    road.is_conserved();
    stop.cancel();
    running.await.unwrap();
    let seen: BTreeSet<String> = stage.0.lock().unwrap().keys().cloned().collect();
    assert_eq!(seen, labels, "every event had its effect, and no other");
    let handed_on = road.handed_on().await;
    assert_eq!(handed_on.len(), 2 * events, "every event has both outputs");
    for (title, ids) in handed_on {
        assert_eq!(ids.len(), 1, "a repetition has the same id: {title} {ids:?}");
        assert!(title.ends_with("begins") || ids.values().all(|count| *count == 1), "{title} {ids:?}");
    }
    assert!(dead(&road.server).await.is_empty());
    road
}

#[tokio::test]
async fn replies_lost_on_the_wire_lose_no_event_and_give_no_output_a_second_id() {
    let road = survives(200, async |road| {
        let pause = rand::rng().random_range(1..30);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        road.proxy.lose_replies(1);
    })
    .await;
    assert!(road.proxy.lost() > 20, "{}", road.proxy.lost());
}

#[tokio::test]
async fn connections_that_are_cut_every_100_ms_lose_no_event() {
    let road = survives(200, async |road| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        road.proxy.cut();
    })
    .await;
    assert!(road.proxy.accepted() > 10, "{}", road.proxy.accepted());
}

#[tokio::test]
async fn work_goes_on_within_two_seconds_of_a_servers_return() {
    let road = Road::start().await;
    let stage = Counting::default();
    let (stop, running) = road.run(stage.clone());
    road.release("before").await;
    until("an event before", async || stage.done() == 1).await;
    for (number, away) in [Duration::from_millis(300), Duration::from_secs(4)].into_iter().enumerate() {
        road.proxy.refuse();
        // It waits on its stream meanwhile: this one goes past the proxy.
        release(&road.server, Lane::Interactive, &format!("meanwhile {number}")).await;
        tokio::time::sleep(away).await;
        road.proxy.pass();
        let back = Instant::now();
        until("an event after the return", async || stage.done() == 2 + number).await;
        assert!(back.elapsed() < Duration::from_secs(2), "{:?} after {away:?}", back.elapsed());
    }
    until_drained(&road.server).await;
    stop.cancel();
    running.await.unwrap();
}
