//! Limits of single lanes, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
#[path = "../../streams/tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::*;
use riacho_domain::{Lane, StageName};
use riacho_stage::{Failure, LaneLimit, LaneLimits, LanesByStage, RunnerConfig, codec};
use riacho_streams::Rate;
use support::Server;
use tokio::sync::Semaphore;

fn limited(bulk: LaneLimit) -> RunnerConfig {
    let extract = LaneLimits { bulk, ..LaneLimits::default() };
    RunnerConfig { lanes: LanesByStage { extract, ..LanesByStage::default() }, ..quick() }
}

#[tokio::test]
async fn a_lane_runs_no_more_at_once_than_it_may_and_the_others_go_on() {
    let server = Server::start().await;
    for n in 0..6 {
        release(&server, Lane::Bulk, &format!("bulk{n}")).await;
    }
    let (running, most, others) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((running, most, others));
    let seen = Arc::clone(&counts);
    let config = limited(LaneLimit { concurrency: Some(2), ..LaneLimit::default() });
    let runner = Running::start(
        &server,
        config,
        stage(move |event| {
            let seen = Arc::clone(&seen);
            async move {
                let (running, most, others) = &*seen;
                if event.envelope.lane != Lane::Bulk {
                    others.fetch_add(1, Ordering::SeqCst);
                    return ended();
                }
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // The first ones run until all of the other lane are done.
                while others.load(Ordering::SeqCst) < 6 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                // A retry is within the limit as well.
                if event.envelope.attempt == 1 { Err(Failure::transient("again")) } else { ended() }
            }
        }),
    );
    until("two to run", async || counts.1.load(Ordering::SeqCst) == 2).await;
    for n in 0..6 {
        release(&server, Lane::Interactive, &format!("urgent{n}")).await;
    }
    until_drained(&server).await;
    runner.stop().await;
    assert_eq!(counts.1.load(Ordering::SeqCst), 2, "two places, and both were used");
}

#[tokio::test]
async fn an_interactive_event_does_not_wait_for_runs_of_other_lanes_to_end() {
    let server = Server::start().await;
    for n in 0..20 {
        release(&server, Lane::Bulk, &format!("bulk{n}")).await;
    }
    // The first bulk events hold every place there is for them until the interactive ones are done.
    let (bulk, urgent) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (seen, done) = (Arc::clone(&bulk), Arc::clone(&urgent));
    let runner = Running::start(
        &server,
        RunnerConfig { concurrency: 2, ..quick() },
        stage(move |event| {
            let (seen, done) = (Arc::clone(&seen), Arc::clone(&done));
            async move {
                if event.envelope.lane == Lane::Interactive {
                    done.add_permits(1);
                    return ended();
                }
                if seen.fetch_add(1, Ordering::SeqCst) < 2 {
                    let _ = done.acquire_many(5).await;
                }
                ended()
            }
        }),
    );
    until("the bulk to have all places", async || bulk.load(Ordering::SeqCst) == 2).await;
    for n in 0..5 {
        release(&server, Lane::Interactive, &format!("urgent{n}")).await;
    }
    until_drained(&server).await;
    runner.stop().await;
    assert_eq!((bulk.load(Ordering::SeqCst), urgent.available_permits()), (20, 5));
}

#[tokio::test]
async fn an_interactive_event_that_is_due_again_does_not_wait_for_runs_of_other_lanes_to_end() {
    let server = Server::start().await;
    release(&server, Lane::Interactive, "urgent").await;
    let (bulk, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (seen, done) = (Arc::clone(&bulk), Arc::clone(&again));
    let runner = Running::start(
        &server,
        RunnerConfig { concurrency: 3, ..quick() },
        stage(move |event| {
            let (seen, done) = (Arc::clone(&seen), Arc::clone(&done));
            async move {
                match (event.envelope.lane, event.envelope.attempt) {
                    (Lane::Interactive, 1) => {
                        while seen.load(Ordering::SeqCst) < 2 {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        return Err(Failure::transient("again"));
                    }
                    (Lane::Interactive, _) => done.add_permits(1),
                    _ => {
                        seen.fetch_add(1, Ordering::SeqCst);
                        let _ = done.acquire().await;
                    }
                }
                ended()
            }
        }),
    );
    for n in 0..20 {
        release(&server, Lane::Bulk, &format!("bulk{n}")).await;
    }
    until_drained(&server).await;
    runner.stop().await;
    assert_eq!(bulk.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_lane_keeps_its_rate_over_all_processes_and_the_others_go_on() {
    let server = Server::start().await;
    let (events, per_second) = (40, 5.0);
    for n in 0..events {
        release(&server, Lane::Bulk, &format!("bulk{n}")).await;
    }
    let log = Log::default();
    let config = limited(LaneLimit { per_second: Some(per_second), ..LaneLimit::default() });
    let begin = Instant::now();
    let runners: Vec<Running> = (0..2)
        .map(|_| {
            let seen = log.clone();
            let work = stage(move |event| {
                seen.add(&event);
                async { ended() }
            });
            Running::start(&server, config.clone(), work)
        })
        .collect();
    until("the first ones", async || log.len() >= 5).await;
    release(&server, Lane::Interactive, "urgent").await;
    until_drained(&server).await;
    // A second's worth at once, the rest at the rate; what was read last may have been read by two at once. Two buckets
    // of their own would take three seconds.
    let least = Duration::from_secs_f64((f64::from(events) - 3.0 * per_second) / per_second);
    assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
    let order: Vec<String> = log.all().into_iter().map(|(label, _)| label).collect();
    assert_eq!(order.len(), 41);
    assert!(order[40] != "urgent", "{order:?}");
    for runner in runners {
        runner.stop().await;
    }
}

#[tokio::test]
async fn a_lanes_places_are_for_all_partitions_together() {
    let server = Server::start().await;
    let partitions = vec![0, 1, 2, 3];
    for partition in &partitions {
        for n in 0..4 {
            let meta = meta(Lane::Bulk);
            let envelope = codec::encode_release(&meta, request(&format!("bulk{n}")));
            server.streams.release(*partition, Lane::Bulk, &envelope, meta.release).await.unwrap();
        }
    }
    let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)));
    let seen = Arc::clone(&counts);
    let config = limited(LaneLimit { concurrency: Some(2), ..LaneLimit::default() });
    let runner = Running::start(
        &server,
        // A block that is shorter than the shortest wait for a lane is kept.
        RunnerConfig { partitions: partitions.clone(), block_ms: 2, ..config },
        stage(move |_| {
            let seen = Arc::clone(&seen);
            async move {
                let (running, most, done) = &*seen;
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                ended()
            }
        }),
    );
    until("all of them", async || counts.2.load(Ordering::SeqCst) == 16).await;
    runner.stop().await;
    assert_eq!(counts.1.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn all_partitions_are_read_in_turn_where_one_place_is_for_all_of_them() {
    const EACH: usize = 6;
    let server = Server::start().await;
    let partitions: Vec<u16> = (0..16).collect();
    for partition in &partitions {
        for n in 0..EACH {
            let lane = if n % 2 == 0 { Lane::Bulk } else { Lane::Interactive };
            let meta = meta(lane);
            let envelope = codec::encode_release(&meta, request(&format!("{partition}")));
            server.streams.release(*partition, lane, &envelope, meta.release).await.unwrap();
        }
    }
    let done: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&done);
    let runner = Running::start(
        &server,
        RunnerConfig { partitions: partitions.clone(), concurrency: 1, interactive_runs: 0, ..quick() },
        stage(move |event| {
            let seen = Arc::clone(&seen);
            async move {
                // Longer than a reader waits before it leaves the interactive lane to the other one.
                tokio::time::sleep(Duration::from_millis(15)).await;
                seen.lock().unwrap().push(label(&event));
                ended()
            }
        }),
    );
    until("all of them", async || done.lock().unwrap().len() == EACH * partitions.len()).await;
    runner.stop().await;
    // None had to wait until others had nothing more.
    let first_half: BTreeSet<String> = done.lock().unwrap()[..EACH * 8].iter().cloned().collect();
    assert_eq!(first_half.len(), partitions.len(), "{first_half:?}");
}

#[tokio::test]
async fn retries_are_within_a_lanes_rate_and_its_debt_is_bounded() {
    let server = Server::start().await;
    let rate = Rate { every: Duration::from_millis(200), burst: 5 };
    let pace = async |taken| server.streams.pace(StageName::Extract, Lane::Bulk, rate, taken).await.unwrap();
    assert_eq!((pace(0).await, pace(5).await), (5, 0));
    pace(100_000).await;
    // Four seconds' worth at most are owed, and then some come back.
    let begin = Instant::now();
    until("tokens", async || pace(0).await > 0).await;
    assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());
    for n in 0..30 {
        release(&server, Lane::Bulk, &format!("bulk{n}")).await;
    }
    let log = Log::default();
    let seen = log.clone();
    let begin = Instant::now();
    let config = limited(LaneLimit { per_second: Some(5.0), ..LaneLimit::default() });
    let runner = Running::start(
        &server,
        config,
        stage(move |event| {
            seen.add(&event);
            let again = event.envelope.attempt == 1;
            async move { if again { Err(Failure::transient("again")) } else { ended() } }
        }),
    );
    until("all runs", async || log.len() == 60).await;
    // Sixty runs, of which five may come at once, and five may be overdrawn.
    assert!(begin.elapsed() >= Duration::from_secs(9), "{:?}", begin.elapsed());
    runner.stop().await;
}

/// A stage whose two bulk events hold all places until they are let go, and that counts the interactive ones.
fn held_up(counts: &Arc<(AtomicUsize, AtomicUsize)>, go: &Arc<Semaphore>) -> Work {
    let (counts, go) = (Arc::clone(counts), Arc::clone(go));
    stage(move |event| {
        let (counts, go) = (Arc::clone(&counts), Arc::clone(&go));
        async move {
            if event.envelope.lane == Lane::Interactive {
                counts.1.fetch_add(1, Ordering::SeqCst);
            } else {
                counts.0.fetch_add(1, Ordering::SeqCst);
                let _ = go.acquire().await;
            }
            ended()
        }
    })
}

/// A runner all of whose places two bulk events hold; how many of each ran, and what lets the bulk go.
async fn full(server: &Server) -> (Running, Arc<(AtomicUsize, AtomicUsize)>, Arc<Semaphore>) {
    for n in 0..2 {
        release(server, Lane::Bulk, &format!("bulk{n}")).await;
    }
    let (counts, go) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let config = RunnerConfig { concurrency: 2, ..quick() };
    let runner = Running::start(server, config, held_up(&counts, &go));
    until("the bulk to have all places", async || counts.0.load(Ordering::SeqCst) == 2).await;
    (runner, counts, go)
}

#[tokio::test]
async fn the_interactive_lane_is_waited_for_at_the_server_while_others_hold_all_places() {
    let server = Server::start().await;
    let (runner, counts, go) = full(&server).await;
    for n in 0..20 {
        until("a read to wait at the server", async || waiting_reads(&server).len() == 1).await;
        release(&server, Lane::Interactive, &format!("urgent{n}")).await;
        until("the interactive event to run", async || counts.1.load(Ordering::SeqCst) > n).await;
    }
    go.add_permits(2);
    until_drained(&server).await;
    runner.stop().await;
}

#[tokio::test]
async fn interactive_events_of_all_partitions_are_read_where_one_place_is_kept_for_all_of_them() {
    let server = Server::start().await;
    release(&server, Lane::Bulk, "bulk").await;
    let (done, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let is_held = Arc::new(AtomicBool::new(false));
    let (seen, gone, held) = (Arc::clone(&done), Arc::clone(&go), Arc::clone(&is_held));
    let runner = Running::start(
        &server,
        RunnerConfig { partitions: (0..16).collect(), concurrency: 1, interactive_runs: 1, ..quick() },
        stage(move |event| {
            let (seen, gone, held) = (Arc::clone(&seen), Arc::clone(&gone), Arc::clone(&held));
            async move {
                if event.envelope.lane == Lane::Bulk {
                    held.store(true, Ordering::SeqCst);
                    let _ = gone.acquire().await;
                    return ended();
                }
                // Longer than a read waits at the server, so that all readers wait for the place.
                tokio::time::sleep(Duration::from_millis(150)).await;
                seen.fetch_add(1, Ordering::SeqCst);
                ended()
            }
        }),
    );
    until("the bulk to have the place", async || is_held.load(Ordering::SeqCst)).await;
    let add = async |partition| {
        let meta = meta(Lane::Interactive);
        let envelope = codec::encode_release(&meta, request("urgent"));
        server.streams.release(partition, Lane::Interactive, &envelope, meta.release).await.unwrap();
    };
    for round in 1..=4 {
        for partition in 0..4 {
            add(4 * round as u16 + partition - 4).await;
        }
        until("the interactive events to run", async || done.load(Ordering::SeqCst) == 4 * round).await;
    }
    go.add_permits(1);
    until_drained(&server).await;
    runner.stop().await;
}

/// The reads that wait at the server, as it lists them.
fn waiting_reads(server: &Server) -> Vec<String> {
    let list = server.raw(&["CLIENT", "LIST"]).text().to_owned();
    let waits = |line: &&str| line.contains("cmd=xreadgroup") && line.contains("flags=b");
    list.lines().filter(waits).map(str::to_owned).collect()
}

#[tokio::test]
async fn what_was_on_its_way_to_the_interactive_reader_when_its_connection_broke_is_fetched_again() {
    let server = Server::start().await;
    let (runner, counts, go) = full(&server).await;
    until("a read to wait at the server", async || waiting_reads(&server).len() == 1).await;
    // Delivered to this consumer, which never hears of it; then its reader's connection ends.
    let keys = Lane::ALL.map(|lane| server.streams.keys().work(0, StageName::Extract, lane));
    let consumer = server.raw(&["XPENDING", &keys[1], "extract", "-", "+", "1"]);
    let consumer = consumer.list()[0].list()[1].text().to_owned();
    let envelope = codec::encode_release(&meta(Lane::Interactive), request("urgent"));
    let script = "redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
        return #redis.call('XREADGROUP', 'GROUP', 'extract', ARGV[2], 'STREAMS', KEYS[1], '>')";
    let args: [&[u8]; 6] =
        [b"EVAL", script.as_bytes(), b"1", keys[0].as_bytes(), &envelope, consumer.as_bytes()];
    assert_eq!(server.raw(&args).int(), 1);
    let id = |read: &String| read.split(' ').find_map(|field| field.strip_prefix("id=").map(str::to_owned));
    until("the connection to end", async || {
        let Some(read) = waiting_reads(&server).iter().find_map(id) else { return false };
        server.raw(&["CLIENT", "KILL", "ID", &read]);
        !waiting_reads(&server).iter().filter_map(id).any(|other| other == read)
    })
    .await;
    let ended = Instant::now();
    until("the event to run", async || counts.1.load(Ordering::SeqCst) == 1).await;
    // Not at the comparison that comes every ten seconds.
    assert!(ended.elapsed() < Duration::from_secs(8));
    go.add_permits(2);
    until_drained(&server).await;
    runner.stop().await;
    assert_eq!(counts.1.load(Ordering::SeqCst), 1);
}
