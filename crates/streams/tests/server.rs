//! The server itself: what is refused, who lives, and producers' events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use riacho_domain::{Lane, ReleaseId, StageName, TenantId};
use riacho_streams::{
    Action, Answer, AnswerBudget, Beat, Config, Error, IntakeAnswer, NewSession, Observer, Settlement,
    Streams,
};
use support::{Reply, Server};

const EVERY: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_server_that_evicts_is_refused_unless_allowed() {
    let server = Server::start().await;
    server.raw(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let mut config = Config::for_url(&server.redis.url());
    assert!(
        matches!(Streams::connect(&config).await, Err(Error::Eviction(policy)) if policy == "allkeys-lru")
    );
    config.allow_eviction = true;
    Streams::connect(&config).await.unwrap();
}

#[tokio::test]
async fn connecting_to_nothing_fails_at_once_and_may_be_retried() {
    let error = Streams::connect(&Config::for_url("redis://127.0.0.1:1")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn only_a_beat_that_stands_still_is_dead() {
    let server = Server::start().await;
    let names = ["lives".to_owned(), "stops".to_owned(), "never".to_owned()];
    let _lives = Beat::start(&server.streams, "lives", EVERY, Duration::from_secs(60)).unwrap();
    let stops = Beat::start(&server.streams, "stops", EVERY, Duration::from_secs(60)).unwrap();
    let mut observer = Observer::new(Duration::from_millis(400), Duration::from_secs(10));
    observer.note_server(server.streams.home_of(0).await.unwrap().identity);
    while !stops.is_accepted() {
        tokio::time::sleep(EVERY).await;
    }
    let look = async |observer: &mut Observer, rounds| {
        for _ in 0..rounds {
            observer.look(&server.streams, &names).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    look(&mut observer, 2).await;
    assert!(observer.dead().is_empty(), "not before it stood still for long enough");
    look(&mut observer, 6).await;
    assert_eq!(observer.dead(), ["never"]);
    assert_eq!(observer.newest_version(), 1);
    drop(stops);
    look(&mut observer, 8).await;
    let mut dead = observer.dead();
    dead.sort();
    assert_eq!(dead, ["never", "stops"]);

    let mut other = server.streams.home_of(0).await.unwrap().identity;
    other.run_id.push('x');
    observer.note_server(other);
    look(&mut observer, 8).await;
    assert!(observer.dead().is_empty(), "grace after a new server run id");
}

#[tokio::test]
async fn a_beat_ends_when_the_runtime_stands_still_beyond_its_patience() {
    let server = Server::start().await;
    let beat = Beat::start(&server.streams, "stuck", EVERY, Duration::from_millis(200)).unwrap();
    let key = server.streams.keys().beat("stuck");
    let read = || server.raw(&["GET", key.as_str()]);
    while !beat.is_accepted() {
        tokio::time::sleep(EVERY).await;
    }
    let mut last = read();
    let stopped = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            tokio::time::sleep(EVERY * 6).await;
            let now = read();
            if now == last {
                break;
            }
            last = now;
        }
    });
    stopped.await.expect("the beat stops without ticks");
    beat.tick();
    let goes_on = tokio::time::timeout(Duration::from_secs(5), async {
        while read() == last {
            tokio::time::sleep(EVERY).await;
        }
    });
    goes_on.await.expect("the beat goes on with the ticks");
}

#[tokio::test]
async fn gone_consumers_are_deleted_only_when_they_hold_nothing() {
    let server = Server::start().await;
    let stage = StageName::Embed;
    let key = server.streams.keys().work(0, stage, Lane::Interactive);
    let reader = server.streams.reader(0, stage, "holds").await.unwrap();
    server.raw(&["XADD", key.as_str(), "*", "e", "x"]);
    assert_eq!(reader.read_any(1, Duration::from_millis(200)).await.unwrap().len(), 1);
    // The server knows a consumer from its first entry on.
    let empty = server.streams.reader(0, stage, "empty").await.unwrap();
    server.raw(&["XADD", key.as_str(), "*", "e", "y"]);
    let entries = empty.read_any(1, Duration::from_millis(200)).await.unwrap();
    let done = Settlement::of(&entries[0], "", Action::Done(vec![]));
    assert_eq!(server.streams.handoff(0, stage, "empty", &[done]).await.unwrap(), [Answer::Done]);
    // Later servers know it on every stream that it asked, so this is counted over the lanes.
    let mut idle = 0;
    for key in server.streams.keys().lanes(0, stage) {
        let consumers = server.raw(&["XINFO", "CONSUMERS", &key, stage.as_str()]);
        idle += consumers.list().iter().filter(|consumer| consumer.list()[3].int() == 0).count() as u64;
    }
    assert!(idle >= 1);
    let gone = ["holds".to_owned(), "empty".to_owned(), "never".to_owned()];
    assert_eq!(server.streams.delete_consumers(0, stage, &gone).await.unwrap(), idle);
    assert_eq!(server.streams.consumers(0, stage).await.unwrap(), ["holds"]);
    assert_eq!(reader.own_pending().await.unwrap().len(), 1);
}

#[tokio::test]
async fn producers_events_are_read_over_many_tenants_answered_and_claimed_from_the_dead() {
    let server = Server::start().await;
    let tenants: Vec<TenantId> = ["acme", "default"].map(|t| t.parse().unwrap()).into();
    for tenant in &tenants {
        server.raw(&["XADD", server.streams.keys().intake(tenant).as_str(), "*", "e", tenant.as_str()]);
    }
    let dead = server.streams.intake_reader("dead").await.unwrap();
    let events = dead.read(&tenants, 10, Duration::from_millis(200)).await.unwrap();
    assert_eq!(events.len(), 2);
    let claim = |tenant| server.streams.claim_intake(tenant, "lives", Duration::ZERO, 10);
    let claimed = claim(&tenants[0]).await.unwrap();
    assert_eq!((claimed.len(), &claimed[0].body[..]), (1, &b"acme"[..]));
    let answer =
        IntakeAnswer { entry_id: claimed[0].entry_id.clone(), envelope: Bytes::from_static(b"accepted") };
    assert_eq!(server.streams.answer_intake(&tenants[0], &[answer]).await.unwrap(), 1);
    assert!(claim(&tenants[0]).await.unwrap().is_empty());
    assert_eq!(server.len(&server.streams.keys().intake(&tenants[0])), 0);
    assert_eq!(server.len(&server.streams.keys().intake_results(&tenants[0])), 1);
    let delete = |tenant, idle| server.streams.delete_idle_intake_consumers(tenant, idle);
    let (now, hour) = (Duration::ZERO, Duration::from_secs(3600));
    assert_eq!(delete(&tenants[0], hour).await.unwrap(), 0);
    assert_eq!(delete(&tenants[0], now).await.unwrap(), 2);
    assert_eq!(delete(&tenants[1], now).await.unwrap(), 0, "it holds an event");
}

#[tokio::test]
async fn the_pool_heals_after_a_restart_of_the_server() {
    let server = Server::start().await;
    let before = server.streams.home_of(0).await.unwrap().identity;
    let home = server.redis.home_of(&server.streams.keys().sizes(0));
    home.kill9();
    assert!(server.streams.home_of(0).await.unwrap_err().is_retryable());
    home.start();
    let after = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match server.streams.home_of(0).await {
                Ok(home) => break home.identity,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    });
    assert_ne!(after.await.unwrap().run_id, before.run_id);
}

#[tokio::test]
async fn a_reader_that_cannot_be_opened_leaves_no_connection() {
    // No scripts and no groups can be made there, so that every try fails after it has connected.
    let server = Server::with(riacho_local::testing::redis(), |_| {}).await;
    server.raw(&["CONFIG", "SET", "maxmemory", "1"]);
    let connections = || match server.raw(&["CLIENT", "LIST"]) {
        Reply::Text(list) => list.lines().count(),
        other => panic!("{other:?}"),
    };
    let before = connections();
    for _ in 0..8 {
        let opened = server.streams.reader(0, StageName::Extract, "reader").await;
        assert!(opened.is_err_and(|error| error.is_retryable()));
    }
    let begin = Instant::now();
    while connections() > before {
        assert!(begin.elapsed() < Duration::from_secs(20), "{} connections, {before} before", connections());
        tokio::time::sleep(EVERY).await;
    }
}

#[tokio::test]
async fn figures_count_nobody_as_alive_whose_last_beat_is_old() {
    let server = Server::start().await;
    let beat = Beat::start(&server.streams, "gone", EVERY, Duration::from_secs(60)).unwrap();
    let reader = server.streams.reader(0, StageName::Extract, "gone").await.unwrap();
    let release = ReleaseId::new();
    server.streams.release(0, Lane::Bulk, b"an envelope", release).await.unwrap();
    assert_eq!(reader.read_any(1, Duration::from_millis(100)).await.unwrap().len(), 1);
    while !beat.is_accepted() {
        tokio::time::sleep(EVERY).await;
    }
    let alive = async || {
        let figures = server.streams.figures(StageName::Extract, &[0]).await.unwrap();
        let lane = server.streams.lane_figures(0, StageName::Extract, Lane::Bulk).await.unwrap();
        (figures.consumers_alive, figures.consumers_dead, lane.is_read)
    };
    assert_eq!(alive().await, (1, 0, true));
    drop(beat);
    let key = server.streams.keys().beat("gone");
    // As if eleven seconds had passed. The beat's last write may still be on its way.
    let begin = Instant::now();
    loop {
        server.raw(&["PEXPIRE", key.as_str(), "3589000"]);
        let found = alive().await;
        if found == (0, 1, false) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{found:?}");
        tokio::time::sleep(EVERY).await;
    }
    reader.close().await;
}

#[tokio::test]
async fn kept_answers_have_one_budget_and_each_tenant_a_part_of_it() {
    let server = Server::start().await;
    // So long that no other while begins in between.
    let window = Duration::from_secs(365 * 24 * 3600);
    let budget = AnswerBudget { window, bytes: 4_000, tenant_bytes: 1_500 };
    let keep = async |tenant: &str, key: &str, lifetime: u64| {
        let (tenant, lifetime) = (tenant.parse().unwrap(), Duration::from_secs(lifetime));
        let answer = Bytes::from(vec![0; 1_000]);
        server.streams.keep_answer(key, &tenant, answer, lifetime, &budget).await.unwrap()
    };
    assert!(keep("a", "one", 60).await);
    assert!(server.streams.kept_answer("one").await.unwrap().is_some());
    assert!(!keep("a", "two", 60).await, "a tenant has its part");
    assert!(server.streams.kept_answer("two").await.unwrap().is_none());
    assert!(
        !keep("a", "three", 7).await,
        "an answer that is true for a shorter time has no budget of its own"
    );
    assert!(keep("b", "four", 70).await && keep("c", "five", 70).await);
    assert!(!keep("d", "six", 60).await, "all together have the whole");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let number = i64::try_from(now.as_millis() / window.as_millis()).unwrap();
    let keys = server.streams.keys();
    for key in [keys.answers_bytes(number), keys.answer("one"), keys.answer("four"), keys.answer("five")] {
        assert!(server.raw(&["PTTL", key.as_str()]).int() > 0, "{key} stays for ever, or is not there");
    }
}

#[tokio::test]
async fn samples_are_kept_once_for_each_moment_of_the_servers_clock() {
    let server = Server::start().await;
    let streams = &server.streams;
    let now = u64::try_from(streams.time().await.unwrap().as_millis()).unwrap();
    assert!(now > 1_700_000_000_000, "milliseconds since 1970: {now}");
    for (at, is_new) in [(now, true), (now, false), (now + 10, true), (now + 5, false), (now + 20, true)] {
        assert_eq!(streams.add_sample(at, Bytes::from(at.to_string()), 2).await.unwrap(), is_new, "{at}");
    }
    let kept = |since| async move { streams.samples(since).await.unwrap() };
    let last = [now + 10, now + 20].map(|at| (at, Bytes::from(at.to_string())));
    assert_eq!(kept(0).await, last);
    assert_eq!(kept(now + 11).await, last[1..]);
}

#[tokio::test]
async fn of_many_sessions_of_a_key_the_oldest_end() {
    let server = Server::start().await;
    let (streams, idle, longest) = (&server.streams, Duration::from_secs(60), Duration::from_secs(600));
    let begin = async |hash: &str| {
        let session = NewSession { hash, content: Bytes::from(hash.to_owned()), api_key: "k", idle, longest };
        streams.begin_session(session, 2).await.unwrap();
        // Sessions of one millisecond are in the order of their hashes.
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    for hash in ["a", "b", "c"] {
        begin(hash).await;
    }
    let lives = async |hash: &str| streams.session(hash, idle).await.unwrap().is_some();
    assert_eq!((lives("a").await, lives("b").await, lives("c").await), (false, true, true));
    streams.end_session("c", "k").await.unwrap();
    begin("d").await;
    assert_eq!((lives("b").await, lives("c").await, lives("d").await), (true, false, true));
    let key = streams.keys().sessions_of("k");
    assert_eq!(server.raw(&["ZCARD", &key]), Reply::Int(2));
}
