//! What the runner promises, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::*;
use riacho_domain::{Lane, ReasonCode, StageName};
use riacho_proto::{Message, v1};
use riacho_stage::{Failure, Outcome, RunnerConfig};
use riacho_streams::HANDED_BACK;
use support::Server;
use tokio::sync::Semaphore;

#[tokio::test]
async fn an_event_is_run_once_and_its_outputs_go_to_the_next_stage() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "one").await;
    let log = Log::default();
    let seen = log.clone();
    let running = Running::start(
        &server,
        quick(),
        stage(move |event| {
            seen.add(&event);
            async { Ok(Outcome::Emit(vec![output("a"), output("b")])) }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    assert_eq!(log.all(), [("one".to_owned(), 1)]);
    assert_eq!(handed_on(&server), 2);
}

#[tokio::test]
async fn a_killed_consumers_events_run_elsewhere_within_seconds() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "held").await;
    let started = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&started);
    let victim = Victim::start(
        &server,
        quick(),
        stage(move |_| {
            flag.store(true, Ordering::SeqCst);
            std::future::pending()
        }),
    );
    until("the victim to begin", async || started.load(Ordering::SeqCst)).await;
    let log = Log::default();
    let seen = log.clone();
    let survivor = Running::start(
        &server,
        quick(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    // While the victim lives, its long run is its own.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(log.len(), 0);
    victim.kill();
    let killed = Instant::now();
    until_drained(&server).await;
    assert!(killed.elapsed() < Duration::from_secs(6), "{:?}", killed.elapsed());
    assert_eq!(log.all(), [("held".to_owned(), 2)], "a kill is an attempt");
    survivor.stop().await;
}

#[tokio::test]
async fn a_transient_failure_waits_in_its_class_and_runs_again() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "flaky").await;
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let running = Running::start(
        &server,
        quick(),
        stage(move |event| {
            seen.lock().unwrap().push(Instant::now());
            async move { if event.envelope.attempt == 1 { Err(Failure::transient("not yet")) } else { ended() } }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    let times = times.lock().unwrap();
    let waited = times[1] - times[0];
    assert!(times.len() == 2 && waited >= Duration::from_millis(950), "{waited:?}");
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test]
async fn what_is_not_the_events_fault_is_no_attempt() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "patient").await;
    let log = Log::default();
    let seen = log.clone();
    let config = RunnerConfig { max_attempts: 2, ..quick() };
    let running = Running::start(
        &server,
        config,
        stage(move |event| {
            seen.add(&event);
            let is_served = seen.len() > 3;
            async move { if is_served { ended() } else { Err(Failure::unavailable("server away")) } }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    assert!(log.all().iter().all(|(_, attempt)| *attempt == 1), "{:?}", log.all());
}

#[tokio::test]
async fn a_permanent_failure_becomes_a_dead_letter_with_its_bytes_and_reason() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "bad").await;
    let running = Running::start(
        &server,
        quick(),
        stage(|_| async { Err(Failure::permanent(ReasonCode::ProviderRefused, "no such model")) }),
    );
    until_drained(&server).await;
    running.stop().await;
    let letters = dead(&server).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.stage.as_str(), letter.reason_code.as_str()), ("extract", "provider_refused"));
    assert_eq!((letter.message.as_str(), letter.attempts), ("no such model", 1));
    assert_eq!(letter.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    let original = v1::Envelope::decode(letter.original.clone()).unwrap();
    assert_eq!(original.tenant, "default");
}

#[tokio::test]
async fn what_cannot_be_decoded_becomes_a_dead_letter_and_the_next_event_runs() {
    let server = Server::start().await;
    add_raw(&server, "e", b"\xff\xffno envelope");
    add_raw(&server, "other", b"field");
    let broken = v1::Envelope { envelope_version: 1, id: "x".into(), version: 1, ..Default::default() };
    add_raw(&server, "e", &broken.encode_to_vec());
    release(&server, Lane::Interactive, "good").await;
    let log = Log::default();
    let seen = log.clone();
    let running = Running::start(
        &server,
        quick(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    assert_eq!(log.len(), 1);
    let letters = dead(&server).await;
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| letter.reason_code == "undecodable"));
    let original = |bytes: &[u8]| letters.iter().any(|letter| letter.original == bytes);
    assert!(original(b"\xff\xffno envelope") && original(b"other=field\n"));
}

#[tokio::test]
async fn an_envelope_of_an_unknown_version_waits_and_is_given_up_after_its_time() {
    let server = Server::start().await;
    let newer = v1::Envelope { envelope_version: 99, id: "n".into(), version: 1, ..Default::default() };
    add_raw(&server, "e", &newer.encode_to_vec());
    let config = RunnerConfig { unknown_version_seconds: 3, ..quick() };
    let running = Running::start(&server, config, stage(|_| async { ended() }));
    until("a wait", async || server.streams.figures(StageName::Extract, &[0]).await.unwrap().retrying == 1)
        .await;
    assert!(dead(&server).await.is_empty());
    until_drained(&server).await;
    running.stop().await;
    assert_eq!(dead(&server).await[0].reason_code, "unknown_version");
}

#[tokio::test]
async fn a_flushed_server_gets_its_groups_again() {
    let server = Server::start().await;
    let log = Log::default();
    let seen = log.clone();
    let running = Running::start(
        &server,
        quick(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    release(&server, Lane::Interactive, "before").await;
    until_drained(&server).await;
    server.raw(&["FLUSHALL"]);
    release(&server, Lane::Bulk, "after").await;
    until("the event after the flush", async || log.len() == 2).await;
    until_drained(&server).await;
    running.stop().await;
}

#[tokio::test]
async fn a_restarted_server_is_served_again() {
    let server = Server::start().await;
    let log = Log::default();
    let seen = log.clone();
    let running = Running::start(
        &server,
        quick(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    release(&server, Lane::Interactive, "before").await;
    until_drained(&server).await;
    let home = server.redis.home_of(&server.streams.keys().work(0, StageName::Extract, Lane::Interactive));
    home.stop();
    home.start();
    until("the server", async || server.streams.ping().await.is_ok()).await;
    release(&server, Lane::Interactive, "after").await;
    until("the event after the restart", async || log.len() == 2).await;
    until_drained(&server).await;
    running.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_hands_back_the_rest_without_an_attempt() {
    let server = Server::start().await;
    for n in 0..6 {
        release(&server, Lane::ALL[n % 3], &n.to_string()).await;
    }
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (wait, count) = (Arc::clone(&gate), Arc::clone(&begun));
    let config = RunnerConfig { concurrency: 1, ..quick() };
    let running = Running::start(
        &server,
        config,
        stage(move |_| {
            let (wait, count) = (Arc::clone(&wait), Arc::clone(&count));
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                wait.acquire().await.unwrap().forget();
                ended()
            }
        }),
    );
    until("a run", async || begun.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn(running.stop());
    // The stop has to wait for what runs: it ends only now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished());
    gate.add_permits(1);
    stopping.await.unwrap();
    let figures = server.streams.figures(StageName::Extract, &[0]).await.unwrap();
    assert_eq!((figures.backlog, begun.load(Ordering::SeqCst)), (5, 1));
    assert_eq!(figures.pending, figures.retrying, "nothing is held by the one that stopped: {HANDED_BACK}");

    let log = Log::default();
    let seen = log.clone();
    let next = Running::start(
        &server,
        quick(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    let start = Instant::now();
    until_drained(&server).await;
    assert!(start.elapsed() < Duration::from_secs(2), "due at once");
    next.stop().await;
    assert!(log.all().iter().all(|(_, attempt)| *attempt == 1), "{:?}", log.all());
}

#[tokio::test]
async fn what_outlasts_the_grace_period_is_cancelled_and_handed_back() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "endless").await;
    let begun = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&begun);
    let config = RunnerConfig { grace_seconds: 0, ..quick() };
    let running = Running::start(
        &server,
        config,
        stage(move |_| {
            flag.store(true, Ordering::SeqCst);
            std::future::pending()
        }),
    );
    until("a run", async || begun.load(Ordering::SeqCst)).await;
    running.stop().await;
    let due = server.streams.take_due(0, StageName::Extract, "next", 10).await.unwrap();
    assert_eq!((due.len(), due[0].deliveries), (1, 1));
}

#[tokio::test]
async fn a_busy_lane_starves_no_other() {
    let server = Server::start().await;
    for n in 0..200 {
        release(&server, Lane::Interactive, &format!("interactive {n}")).await;
    }
    for n in 0..10 {
        release(&server, Lane::Background, &format!("background {n}")).await;
        release(&server, Lane::Bulk, &format!("bulk {n}")).await;
    }
    let log = Log::default();
    let seen = log.clone();
    let config = RunnerConfig { concurrency: 4, ..quick() };
    let running = Running::start(
        &server,
        config,
        stage(move |event| {
            seen.add(&event);
            // Lanes share the running time. Of runs that take none, one that is interrupted for a moment takes all there is.
            async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                ended()
            }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    let order: Vec<String> = log.all().into_iter().map(|(label, _)| label).collect();
    let last = |lane: &str| order.iter().rposition(|label| label.starts_with(lane)).unwrap();
    assert_eq!(order.len(), 220);
    assert!(last("bulk") < 120 && last("background") < 200, "{} {}", last("bulk"), last("background"));
}

#[tokio::test]
async fn an_entry_delivered_to_nobody_is_fetched_again() {
    let server = Server::start().await;
    let log = Log::default();
    let seen = log.clone();
    let runner =
        riacho_stage::Runner::new(server.streams.clone(), riacho_stage::Claims::in_memory(), quick());
    // A reply of the server to this consumer that was lost on the wire.
    let keys = server.streams.keys();
    release(&server, Lane::Interactive, "lost").await;
    server.streams.reader(0, StageName::Extract, "other").await.unwrap().close().await;
    let key = keys.work(0, StageName::Extract, Lane::Interactive);
    server.raw(&["XREADGROUP", "GROUP", "extract", runner.consumer(), "STREAMS", key.as_str(), ">"]);
    let stop = tokio_util::sync::CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move {
        let stage = stage(move |event| {
            seen.add(&event);
            async { ended() }
        });
        runner.run_stage(Arc::new(stage), token).await
    });
    until("the runner to read", async || server.raw(&["CLIENT", "LIST"]).text().contains("cmd=xreadgroup"))
        .await;
    assert_eq!(log.len(), 0);
    server.raw(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until_drained(&server).await;
    assert_eq!(log.all(), [("lost".to_owned(), 1)], "a lost delivery is no attempt");
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_run_over_its_time_limit_is_cancelled_and_runs_again() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "slow").await;
    let log = Log::default();
    let seen = log.clone();
    let mut slow = stage(move |event| {
        seen.add(&event);
        async move {
            if event.envelope.attempt == 1 {
                std::future::pending::<()>().await;
            }
            ended()
        }
    });
    slow.limit = Duration::from_millis(100);
    let running = Running::start(&server, quick(), slow);
    until_drained(&server).await;
    running.stop().await;
    assert_eq!(log.len(), 2);
}

#[tokio::test]
async fn a_stage_that_fails_for_one_reason_pauses_instead_of_condemning_the_backlog() {
    let server = Server::start().await;
    for n in 0..20 {
        release(&server, Lane::Interactive, &n.to_string()).await;
    }
    let is_broken = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&is_broken);
    let config = RunnerConfig { pause_after_failures: 3, concurrency: 1, ..quick() };
    let running = Running::start(
        &server,
        config,
        stage(move |_| {
            let is_broken = flag.load(Ordering::SeqCst);
            async move {
                if is_broken {
                    Err(Failure::permanent(ReasonCode::ProviderRefused, "bad key"))
                } else {
                    ended()
                }
            }
        }),
    );
    until("dead letters", async || dead(&server).await.len() == 2).await;
    // The third in a row pauses the stage, and is spared with all that come after it.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    is_broken.store(false, Ordering::SeqCst);
    until_drained(&server).await;
    running.stop().await;
    assert_eq!(dead(&server).await.len(), 2);
}
