//! Poison: an event at its limit gets one last run alone in its process, and only that condemns it.
//! In a file of its own, because a last run waits for all other runs of its process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::*;
use riacho_domain::Lane;
use riacho_stage::{Failure, RunnerConfig, quiet_wanted};
use support::{Reply, Server};
use tokio::sync::Mutex;

/// The tests of this file one after another: they share the process that a last run has to itself.
static ONE: Mutex<()> = Mutex::const_new(());

fn twice() -> RunnerConfig {
    RunnerConfig { max_attempts: 2, alone_patience_ms: 300, dead_after_ms: 1_000, beat_ms: 200, ..quick() }
}

#[tokio::test]
async fn what_fails_each_time_is_a_dead_letter_after_its_last_run() {
    let _one = ONE.lock().await;
    let server = Server::start().await;
    release(&server, Lane::Interactive, "hopeless").await;
    let log = Log::default();
    let seen = log.clone();
    let running = Running::start(
        &server,
        twice(),
        stage(move |event| {
            seen.add(&event);
            async { Err(Failure::transient("again")) }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    assert_eq!(log.all().iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [1, 2]);
    let letter = &dead(&server).await[0];
    assert_eq!((letter.reason_code.as_str(), letter.attempts), ("attempts_exhausted", 2));
}

#[tokio::test]
async fn a_panic_is_caught_and_named() {
    let _one = ONE.lock().await;
    let server = Server::start().await;
    release(&server, Lane::Interactive, "panics").await;
    let config = RunnerConfig { max_attempts: 1, ..twice() };
    let running = Running::start(&server, config, stage(|_| async { panic!("out of paper") }));
    until_drained(&server).await;
    running.stop().await;
    let letter = &dead(&server).await[0];
    assert_eq!(letter.reason_code, "panicked");
    assert!(letter.message.contains("out of paper"), "{}", letter.message);
}

#[tokio::test]
async fn the_last_run_is_alone() {
    let _one = ONE.lock().await;
    let server = Server::start().await;
    for n in 0..8 {
        release(&server, Lane::Interactive, &n.to_string()).await;
    }
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let most_seen = Arc::clone(&most);
    let running = Running::start(
        &server,
        // Eight of them wait for each other, on a busy machine for long.
        RunnerConfig { alone_patience_ms: 60_000, ..twice() },
        stage(move |event| {
            let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most_seen));
            async move {
                let now = at_once.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                if event.envelope.attempt == 1 {
                    return Err(Failure::transient("first"));
                }
                most.fetch_max(now, Ordering::SeqCst);
                ended()
            }
        }),
    );
    until_drained(&server).await;
    running.stop().await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_run_that_only_waits_makes_room_for_a_last_run() {
    let _one = ONE.lock().await;
    let server = Server::start().await;
    for name in ["waits", "hopeless"] {
        release(&server, Lane::Interactive, name).await;
    }
    let log = Log::default();
    let seen = log.clone();
    let running = Running::start(
        &server,
        twice(),
        stage(move |event| {
            let waits = label(&event) == "waits";
            seen.add(&event);
            async move {
                if waits {
                    quiet_wanted().await;
                }
                let message = "it waited for a provider, or is hopeless".to_owned();
                Err(Failure::Transient { message, retry_after: None, counts: !waits })
            }
        }),
    );
    until("a dead letter", async || !dead(&server).await.is_empty()).await;
    running.stop().await;
    let letters = dead(&server).await;
    assert_eq!((letters.len(), letters[0].attempts), (1, 2));
    assert!(log.all().iter().filter(|(name, _)| name == "waits").all(|(_, attempt)| *attempt == 1));
}

#[tokio::test]
async fn an_event_that_ends_its_process_in_its_last_run_is_condemned_without_another() {
    let _one = ONE.lock().await;
    let server = Server::start().await;
    release(&server, Lane::Interactive, "poison").await;
    for attempt in 1..=2 {
        let begun = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&begun);
        let victim = Victim::start(
            &server,
            twice(),
            stage(move |event| {
                assert_eq!(event.envelope.attempt, attempt);
                flag.store(true, Ordering::SeqCst);
                std::future::pending()
            }),
        );
        until("a run", async || begun.load(Ordering::SeqCst)).await;
        assert!(dead(&server).await.is_empty());
        victim.kill();
    }
    let log = Log::default();
    let seen = log.clone();
    let survivor = Running::start(
        &server,
        twice(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    until_drained(&server).await;
    survivor.stop().await;
    assert_eq!(log.len(), 0);
    assert_eq!(dead(&server).await[0].reason_code, "poison");
}

#[tokio::test]
async fn no_neighbour_of_an_event_that_ends_its_process_is_condemned() {
    let _one = ONE.lock().await;
    let server = Server::start().await;
    for n in 0..63 {
        release(&server, Lane::Interactive, &n.to_string()).await;
    }
    release(&server, Lane::Interactive, "poison").await;
    let log = Log::default();
    // Each process dies of the one, the first time while all the others run beside it.
    for _ in 0..2 {
        let poisoned = Arc::new(AtomicBool::new(false));
        let (flag, seen) = (Arc::clone(&poisoned), log.clone());
        let victim = Victim::start(
            &server,
            RunnerConfig { concurrency: 64, ..twice() },
            stage(move |event| {
                let (flag, seen) = (Arc::clone(&flag), seen.clone());
                async move {
                    if label(&event) == "poison" {
                        flag.store(true, Ordering::SeqCst);
                    } else if event.envelope.attempt > 1 {
                        seen.add(&event);
                        return ended();
                    }
                    std::future::pending().await
                }
            }),
        );
        until("the poison", async || poisoned.load(Ordering::SeqCst)).await;
        victim.kill();
    }
    let seen = log.clone();
    let survivor = Running::start(
        &server,
        twice(),
        stage(move |event| {
            seen.add(&event);
            async { ended() }
        }),
    );
    until_drained(&server).await;
    survivor.stop().await;
    let done: std::collections::BTreeSet<_> = log.all().into_iter().map(|(label, _)| label).collect();
    assert_eq!(done, (0..63).map(|n| n.to_string()).collect());
    let letters = dead(&server).await;
    assert_eq!((letters.len(), letters[0].reason_code.as_str()), (1, "poison"));
}

#[tokio::test]
async fn a_last_run_that_finds_no_quiet_moment_waits_and_condemns_nobody() {
    let _one = ONE.lock().await;
    let server = Server::start().await;
    release(&server, Lane::Interactive, "long").await;
    release(&server, Lane::Interactive, "late").await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let running = Running::start(
        &server,
        twice(),
        stage(move |event| {
            let wait = Arc::clone(&wait);
            async move {
                if label(&event) == "long" {
                    wait.acquire().await.unwrap().forget();
                } else if event.envelope.attempt == 1 {
                    return Err(Failure::transient("first"));
                }
                ended()
            }
        }),
    );
    let waits = async || {
        let key = server.streams.keys().work(0, riacho_domain::StageName::Extract, Lane::Interactive);
        let pending = server.raw(&["XPENDING", key.as_str(), "extract", "-", "+", "10", "retry:30s"]);
        // Until the runner has made the group, the server answers with an error.
        let Reply::List(rows) = pending else { return None };
        rows.first().map(|row| row.list()[3].int())
    };
    until("the wait for a quiet moment", async || waits().await.is_some()).await;
    assert_eq!(waits().await, Some(1), "it was no attempt");
    assert!(dead(&server).await.is_empty());
    gate.add_permits(1);
    running.stop().await;
}
