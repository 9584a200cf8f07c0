//! Who is alive while the server restarts or is full, and what comes back while an older run of it goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::*;
use riacho_domain::{Lane, StageName};
use riacho_stage::{RunnerConfig, codec};
use support::Server;
use tokio::sync::Semaphore;

/// Longer than it takes until somebody who stands still is dead.
const LONG_DEAD: Duration = Duration::from_secs(4);

/// Events that begin, and end when they are let.
#[derive(Clone)]
struct Gate {
    begun: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
    log: Log,
}

impl Gate {
    fn new() -> Gate {
        Gate { begun: Arc::default(), open: Arc::new(Semaphore::new(0)), log: Log::default() }
    }

    fn stage(&self) -> Work {
        let gate = self.clone();
        stage(move |event| {
            let gate = gate.clone();
            async move {
                gate.log.add(&event);
                gate.begun.fetch_add(1, Ordering::SeqCst);
                gate.open.acquire().await.unwrap().forget();
                ended()
            }
        })
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

/// How many reads the server has carried out.
fn reads(server: &Server) -> u64 {
    let stats = server.raw(&["INFO", "commandstats"]);
    let reads = stats.text().lines().find_map(|line| line.strip_prefix("cmdstat_xreadgroup:calls="));
    reads.and_then(|rest| rest.split(',').next()).map_or(0, |count| count.parse().unwrap())
}

fn impatient() -> RunnerConfig {
    RunnerConfig { dead_after_ms: 1_000, beat_ms: 200, ..quick() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_outlives_restarts_of_the_server_and_is_no_other_ones() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "long").await;
    let gate = Gate::new();
    let first = Running::start(&server, impatient(), gate.stage());
    until("the run", async || gate.begun() == 1).await;
    let second = Running::start(&server, impatient(), gate.stage());
    for _ in 0..2 {
        let home = server.redis.home_of(&server.streams.keys().sizes(0));
        home.stop();
        tokio::time::sleep(Duration::from_secs(2)).await;
        home.start();
        until("the server", async || server.streams.ping().await.is_ok()).await;
        tokio::time::sleep(LONG_DEAD / 2).await;
    }
    gate.open.add_permits(10);
    until_drained(&server).await;
    assert_eq!(gate.log.all(), [("long".to_owned(), 1)]);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_memory_limit_nobody_is_judged() {
    let server = Server::start().await;
    // Of the last stage, which is not paused there: it only takes away.
    let key = server.streams.keys().work(0, StageName::Index, Lane::Interactive);
    let add = |label: &str| {
        let envelope = codec::encode_release(&meta(Lane::Interactive), request(label));
        server.raw(&[b"XADD", key.as_bytes(), b"*", b"e", &envelope]);
    };
    let gate = Gate::new();
    let last = || Work { name: StageName::Index, ..gate.stage() };
    add("held");
    let first = Running::start(&server, impatient(), last());
    until("the run", async || gate.begun() == 1).await;
    let second = Running::start(&server, impatient(), last());
    let alive = async || server.streams.figures(StageName::Index, &[0]).await.unwrap().consumers_alive;
    until("the first one's beat", async || alive().await > 0).await;
    // Beats are refused from now on, so that everybody looks dead to everybody.
    server.raw(&["CONFIG", "SET", "maxmemory", "1"]);
    tokio::time::sleep(LONG_DEAD).await;
    assert_eq!(gate.begun(), 1, "the first one's event is still its own");
    server.raw(&["CONFIG", "SET", "maxmemory", "0"]);
    gate.open.add_permits(10);
    add("next");
    until("the next event", async || gate.begun() == 2).await;
    until("an empty stream", async || {
        server.streams.figures(StageName::Index, &[0]).await.unwrap().backlog == 0
    })
    .await;
    assert!(gate.log.all().iter().all(|(_, attempt)| *attempt == 1), "{:?}", gate.log.all());
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_the_memory_limit_a_stage_that_adds_reads_nothing_and_goes_on_with_more_room() {
    let server = Server::start().await;
    let gate = Gate::new();
    gate.open.add_permits(10);
    let running = Running::start(&server, impatient(), gate.stage());
    // In use is more than nine tenths, and less than the limit: the beat and releases still work.
    server.raw(&["SETRANGE", "ballast", "60000000", "x"]);
    let used = server.streams.memory().await.unwrap().used;
    let limit = (used * 20 / 19).to_string();
    server.raw(&["CONFIG", "SET", "maxmemory", &limit]);
    until("reading to stop", async || {
        let before = reads(&server);
        tokio::time::sleep(Duration::from_secs(1)).await;
        reads(&server) == before
    })
    .await;
    release(&server, Lane::Interactive, "waits").await;
    tokio::time::sleep(LONG_DEAD / 4).await;
    assert_eq!(gate.begun(), 0);
    server.raw(&["CONFIG", "SET", "maxmemory", "0"]);
    until("the event", async || gate.begun() == 1).await;
    until_drained(&server).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_while_its_older_run_goes_on_waits_for_it() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "twice").await;
    let gate = Gate::new();
    let running = Running::start(&server, quick(), gate.stage());
    until("the run", async || gate.begun() == 1).await;
    // Somebody took it for dead, and gave it back: this consumer gets it again, and is not done with it.
    let key = server.streams.keys().work(0, StageName::Extract, Lane::Interactive);
    let id = server.raw(&["XRANGE", &key, "-", "+"]).list()[0].list()[0].text().to_owned();
    server.raw(&["XCLAIM", &key, "extract", "retry:now", "0", &id, "RETRYCOUNT", "2", "JUSTID"]);
    let holder = || server.raw(&["XPENDING", &key, "extract", "-", "+", "1"]).list()[0].list()[1].clone();
    until("it to wait", async || holder().text() == "retry:1s").await;
    assert_eq!(gate.begun(), 1, "not beside its older run");
    gate.open.add_permits(1);
    until("the newer run", async || gate.begun() == 2).await;
    assert_eq!(server.len(&key), 1, "what the older run came to is refused");
    gate.open.add_permits(1);
    until_drained(&server).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_be_made_again_costs_no_spinning() {
    let server = Server::start().await;
    let gate = Gate::new();
    gate.open.add_permits(10);
    let running = Running::start(&server, quick(), gate.stage());
    release(&server, Lane::Interactive, "before").await;
    until_drained(&server).await;
    // Making a group is refused at the memory limit, and reading without one at once.
    server.raw(&["CONFIG", "SET", "maxmemory", "1"]);
    server.raw(&["FLUSHALL"]);
    server.raw(&["CONFIG", "RESETSTAT"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let reads = reads(&server);
    assert!(reads < 60, "{reads} reads in three seconds");
    server.raw(&["CONFIG", "SET", "maxmemory", "0"]);
    release(&server, Lane::Interactive, "after").await;
    until("the event after", async || gate.begun() == 2).await;
    until_drained(&server).await;
    running.stop().await;
}
