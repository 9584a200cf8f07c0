//! Who is dead and who only looks like it: a handler that blocks its thread is alive, however long it takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::*;
use riacho_domain::{Lane, StageName};
use riacho_stage::{Outcome, RunnerConfig};
use support::{Reply, Server};

/// Computes without giving its thread back.
fn compute(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::black_box((0..1_000_u64).sum::<u64>());
    }
}

/// The only event blocks the only thread of its consumer's runtime for `time`, while another consumer watches.
async fn a_blocked_thread(config: RunnerConfig, time: Duration) {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "long").await;
    let (runs, taken) = (Arc::new(AtomicUsize::new(0)), Log::default());
    let count = Arc::clone(&runs);
    let mut busy = stage(move |_| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            compute(time);
            Ok(Outcome::Emit(vec![output("done")]))
        }
    });
    busy.limit = time * 4 + Duration::from_secs(60);
    let busy = Victim::start(&server, config.clone(), busy);
    until("the run to begin", async || runs.load(Ordering::SeqCst) == 1).await;
    let seen = taken.clone();
    let watcher = Running::start(
        &server,
        config,
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    // The watcher works, so that it would have taken the event if it could.
    release(&server, Lane::Bulk, "beside").await;
    riacho_testkit::within(time + Duration::from_secs(60), || async { handed_on(&server) == 1 }).await;
    until_drained(&server).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1, "it ran once");
    assert_eq!(taken.all(), [("beside".to_owned(), 1)], "nobody took it over");
    let dead = server.streams.keys().dead(0);
    assert_eq!(server.raw(&[b"XLEN", dead.as_bytes()]), Reply::Int(0));
    let figures = server.streams.figures(StageName::Extract, &[0]).await.unwrap();
    assert_eq!((figures.backlog, figures.pending), (0, 0));
    watcher.stop().await;
    busy.kill();
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_far_longer_than_the_death_limit_runs_once() {
    let config = RunnerConfig { dead_after_ms: 1_000, beat_ms: 200, ..quick() };
    a_blocked_thread(config, Duration::from_secs(6)).await;
}

/// The same with the usual limits and for longer than a minute.
#[tokio::test]
#[ignore = "takes more than a minute"]
async fn a_handler_that_blocks_its_thread_for_more_than_a_minute_runs_once() {
    a_blocked_thread(quick(), Duration::from_secs(75)).await;
}
