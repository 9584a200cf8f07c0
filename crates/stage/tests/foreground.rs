//! The runner beside requests of the same process. A process of its own: requests are counted for all of it.

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
use riacho_domain::Lane;
use riacho_stage::{FOREGROUND, RunnerConfig};
use support::Server;
use tokio::sync::Barrier;

#[tokio::test]
async fn events_take_turns_while_requests_come_quickly() {
    let server = Server::start().await;
    let config = RunnerConfig { concurrency: 4, ..quick() };
    // Without requests four run side by side: none would end alone.
    let together = Arc::new(Barrier::new(4));
    let meeting = Arc::clone(&together);
    for n in 0..4 {
        release(&server, Lane::Interactive, &format!("together {n}")).await;
    }
    let running = Running::start(
        &server,
        config.clone(),
        stage(move |_| {
            let meeting = Arc::clone(&meeting);
            async move {
                meeting.wait().await;
                ended()
            }
        }),
    );
    until_drained(&server).await;
    running.stop().await;

    let requests = tokio::spawn(async {
        loop {
            FOREGROUND.request();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    until("requests to be many", async || FOREGROUND.is_busy()).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for n in 0..4 {
        release(&server, Lane::Interactive, &format!("alone {n}")).await;
    }
    let (count, greatest) = (Arc::clone(&now), Arc::clone(&most));
    let running = Running::start(
        &server,
        config,
        stage(move |_| {
            let (count, greatest) = (Arc::clone(&count), Arc::clone(&greatest));
            async move {
                greatest.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Long enough for the others to begin, if they could.
                tokio::time::sleep(Duration::from_millis(10)).await;
                count.fetch_sub(1, Ordering::SeqCst);
                ended()
            }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    requests.abort();
    let turns = std::thread::available_parallelism().map_or(1, |count| count.get() / 2).max(1);
    assert!((1..=turns).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}
