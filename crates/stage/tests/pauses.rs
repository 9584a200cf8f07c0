//! A paused stage reads nothing, finishes what it has, and lives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use harness::*;
use riacho_domain::{Lane, StageName};
use riacho_stage::{Claims, Runner, RunnerConfig};
use riacho_streams::ConsumerState;
use support::Server;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A runner that its test can pause.
struct Pausable {
    runner: Runner,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(server: &Server, config: RunnerConfig, stage: Work) -> Pausable {
    let runner = Runner::new(server.streams.clone(), Claims::in_memory(), config);
    let (stop, running) = (CancellationToken::new(), runner.clone());
    let token = stop.clone();
    let task = tokio::spawn(async move { running.run_stage(Arc::new(stage), token).await.unwrap() });
    Pausable { runner, stop, task }
}

impl Pausable {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Waits until a consumer that waits at the server would have been given something.
async fn until_it_would_have_read(server: &Server, consumer: &str, config: &RunnerConfig) {
    let idle = Duration::from_millis(config.block_ms * 5);
    until("a consumer that asks for nothing", async || {
        let consumers = server.streams.consumer_figures(StageName::Extract, &[0]).await.unwrap();
        consumers.iter().any(|one| one.name == consumer && one.idle > idle)
    })
    .await;
}

#[tokio::test]
async fn a_paused_stage_finishes_what_it_has_reads_nothing_more_and_goes_on_when_it_is_resumed() {
    let server = Server::start().await;
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let (seen, opens) = (log.clone(), Arc::clone(&gate));
    let config = quick();
    let running = start(
        &server,
        config.clone(),
        stage(move |event| {
            let (seen, opens) = (seen.clone(), Arc::clone(&opens));
            async move {
                seen.add(&event);
                opens.acquire().await.unwrap().forget();
                ended()
            }
        }),
    );
    release(&server, Lane::Bulk, "running").await;
    until("an event that runs", async || log.len() == 1).await;

    running.runner.set_paused([StageName::Extract]);
    let consumer = running.runner.consumer().to_owned();
    until_it_would_have_read(&server, &consumer, &config).await;
    for lane in Lane::ALL {
        release(&server, lane, "waiting").await;
    }
    gate.add_permits(1);
    until("the running event's end", async || {
        let figures = server.streams.figures(StageName::Extract, &[0]).await.unwrap();
        figures.pending == 0 && figures.backlog == 3
    })
    .await;
    until_it_would_have_read(&server, &consumer, &config).await;
    let figures = server.streams.figures(StageName::Extract, &[0]).await.unwrap();
    assert_eq!((figures.lag, figures.pending, figures.consumers_alive), (Some(3), 0, 1), "{figures:?}");
    assert_eq!(log.len(), 1);

    // Another stage's pause is none of its business.
    gate.add_permits(3);
    running.runner.set_paused([StageName::Embed]);
    until_drained(&server).await;
    assert_eq!(log.len(), 4);
    running.stop().await;
}

#[tokio::test]
async fn a_replica_that_starts_while_its_stage_is_paused_reads_nothing_and_is_seen() {
    let server = Server::start().await;
    release(&server, Lane::Bulk, "waiting").await;
    let runner = Runner::new(server.streams.clone(), Claims::in_memory(), quick());
    runner.set_paused([StageName::Extract]);
    let (stop, log) = (CancellationToken::new(), Log::default());
    let (token, seen, running) = (stop.clone(), log.clone(), runner.clone());
    let work = stage(move |event| {
        seen.add(&event);
        async { ended() }
    });
    let task = tokio::spawn(async move { running.run_stage(Arc::new(work), token).await.unwrap() });
    until("a consumer that is seen", async || {
        server.streams.figures(StageName::Extract, &[0]).await.unwrap().consumers_alive == 1
    })
    .await;
    until_it_would_have_read(&server, runner.consumer(), &quick()).await;
    assert_eq!(
        (log.len(), server.streams.figures(StageName::Extract, &[0]).await.unwrap().lag),
        (0, Some(1))
    );
    runner.set_paused([]);
    until_drained(&server).await;
    assert_eq!(log.len(), 1);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn what_a_dead_consumer_left_and_what_is_due_wait_for_the_end_of_the_pause() {
    let server = Server::start().await;
    let config = RunnerConfig { dead_after_ms: 500, beat_ms: 50, look_ms: 50, ..quick() };
    let victim = Victim::start(&server, config.clone(), stage(|_| std::future::pending()));
    release(&server, Lane::Bulk, "left behind").await;
    until("an event in the victim's hands", async || {
        server.streams.figures(StageName::Extract, &[0]).await.unwrap().pending == 1
    })
    .await;
    let log = Log::default();
    let seen = log.clone();
    let running = start(
        &server,
        config.clone(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    running.runner.set_paused([StageName::Extract]);
    victim.kill();
    until("a consumer that is dead", async || {
        let consumers = server.streams.consumer_figures(StageName::Extract, &[0]).await.unwrap();
        let holds = |state| consumers.iter().any(|one| one.state == state && one.pending == 1);
        assert!(!holds(ConsumerState::Alive) || log.len() == 0);
        holds(ConsumerState::Dead)
    })
    .await;
    assert_eq!(log.len(), 0);
    running.runner.set_paused([]);
    until_drained(&server).await;
    assert_eq!(log.all(), [("left behind".to_owned(), 2)]);
    running.stop().await;
}

#[tokio::test]
async fn the_backlog_is_told_by_lane_and_the_consumers_by_name() {
    let server = Server::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let opens = Arc::clone(&gate);
    let running = start(
        &server,
        quick(),
        stage(move |_| {
            let opens = Arc::clone(&opens);
            async move {
                opens.acquire().await.unwrap().forget();
                ended()
            }
        }),
    );
    for lane in [Lane::Bulk, Lane::Bulk, Lane::Interactive] {
        release(&server, lane, "x").await;
    }
    until("three events that run", async || {
        server.streams.figures(StageName::Extract, &[0]).await.unwrap().pending == 3
    })
    .await;
    let lanes = server.streams.lane_backlogs(StageName::Extract, &[0]).await.unwrap();
    let told: Vec<_> =
        lanes.iter().map(|one| (one.partition, one.lane, one.backlog, one.pending, one.lag)).collect();
    let lane = |lane, count| (0, lane, count, count, Some(0));
    assert_eq!(told, [lane(Lane::Interactive, 1), lane(Lane::Bulk, 2), lane(Lane::Background, 0)]);
    let consumers = server.streams.consumer_figures(StageName::Extract, &[0]).await.unwrap();
    assert_eq!(consumers.len(), 1);
    assert_eq!((consumers[0].name.as_str(), consumers[0].pending), (running.runner.consumer(), 3));
    assert_eq!(consumers[0].state, ConsumerState::Alive);
    gate.add_permits(3);
    until_drained(&server).await;
    running.stop().await;
}
