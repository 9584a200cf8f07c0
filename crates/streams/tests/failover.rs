//! Servers that take over from each other, with a sentinel's help and in a cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use riacho_domain::{Lane, ReleaseId, StageName};
use riacho_local::testing::{self, Reply, TestCluster, TestRedis, TestServers, Topology};
use riacho_streams::{
    Action, Answer, Beat, Config, Entry, Error, Observer, Reader, ReleaseOutcome, Settlement, Streams, Target,
};
use support::Server;

/// Within what work goes on after a failover. The failover itself takes two to four seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const STAGE: StageName = StageName::Extract;

async fn servers(topology: Topology) -> Server {
    Server::with(TestServers::start(topology, &[]), |_| {}).await
}

/// Calls until it works; what fails meanwhile has to be worth another try.
async fn until_it_works<T>(mut call: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let begin = Instant::now();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(begin.elapsed() < PATIENCE, "it never worked again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Puts a release onto a partition, reads it and hands it on, trying again as the runner does.
async fn pass(streams: &Streams, partition: u16, name: &str) {
    let body = format!("envelope {name}");
    let reader = until_it_works(async || streams.reader(partition, STAGE, name).await).await;
    let entry = loop {
        let release = ReleaseId::new();
        let send = async || streams.release(partition, Lane::Interactive, body.as_bytes(), release).await;
        assert_ne!(until_it_works(send).await, ReleaseOutcome::Full);
        // A failover can lose what was acknowledged; a census would release it again.
        let found = until_it_works(async || read_one(&reader).await).await;
        if let Some(entry) = found {
            break entry;
        }
    };
    let output = (Target::Work(StageName::Embed, Lane::Bulk), Bytes::from(body.clone()));
    let settlement = [Settlement::of(&entry, "", Action::Done(vec![output]))];
    let hand_off = async || streams.handoff(partition, STAGE, name, &settlement).await;
    let answer = until_it_works(hand_off).await.remove(0);
    assert!(matches!(answer, Answer::Done | Answer::Gone), "{answer:?}");
    reader.close().await;
}

/// The next entry, and what a lost reply delivered before; none where there is none for a second.
async fn read_one(reader: &Reader) -> Result<Option<Entry>, Error> {
    reader.make_groups().await?;
    let read = reader.read_any(1, Duration::from_secs(1)).await?;
    let own = reader.own_pending().await?;
    let mut all = Vec::new();
    for (lane, id) in own.iter().filter(|(_, id)| read.iter().all(|entry| entry.id != *id)) {
        all.extend(reader.recover(*lane, std::slice::from_ref(id)).await?);
    }
    all.extend(read);
    Ok(all.into_iter().next())
}

#[tokio::test]
async fn after_a_failover_calls_go_on_and_none_fails_for_good() {
    for topology in [Topology::Sentinel, Topology::Cluster] {
        let server = servers(topology).await;
        let key = server.streams.keys().sizes(3);
        pass(&server.streams, 3, "before").await;
        let before = server.streams.home_of(3).await.unwrap().identity;
        let road = server.streams.road(3).await.unwrap();
        let killed = server.redis.home_of(&key);
        killed.wait_until_replicated();
        killed.kill9();
        pass(&server.streams, 3, "during").await;
        assert_ne!(server.redis.home_of(&key).port(), killed.port(), "a replica took over");
        let after = server.streams.home_of(3).await.unwrap().identity;
        assert_ne!(after.run_id, before.run_id);
        assert_ne!(after.replication_id, before.replication_id);
        let later = server.streams.road(3).await.unwrap();
        assert!(!later.goes_on_from(&road), "a census has to look");
        // The old one comes back and is no primary any more.
        killed.start();
        server.redis.wait_until_whole();
        for partition in 0..6 {
            pass(&server.streams, partition, "after").await;
        }
        until_it_works(async || server.streams.ping().await).await;
        let again = server.streams.road(3).await.unwrap();
        assert!(again.goes_on_from(&later), "one failover is one change");
    }
}

#[tokio::test]
async fn a_failover_that_is_planned_is_outlived() {
    for topology in [Topology::Sentinel, Topology::Cluster] {
        let server = servers(topology).await;
        let key = server.streams.keys().sizes(3);
        pass(&server.streams, 3, "before").await;
        let old = server.redis.home_of(&key);
        server.redis.fail_over(&key);
        pass(&server.streams, 3, "during").await;
        server.redis.wait_for_failover(&key, old);
        pass(&server.streams, 3, "after").await;
    }
}

#[tokio::test]
async fn a_primary_that_was_demoted_under_its_clients_is_left() {
    let server = servers(Topology::Single).await;
    pass(&server.streams, 0, "before").await;
    let other = testing::redis_tcp();
    let TestServers::Single(redis) = &server.redis else { panic!("one server") };
    redis.command(&["REPLICAOF", "127.0.0.1", &other.port().unwrap().to_string()]);
    let release = server.streams.release(0, Lane::Bulk, b"envelope", ReleaseId::new()).await;
    assert!(release.unwrap_err().is_retryable());
    let text = redis.command(&["CLIENT", "LIST"]);
    let ids = |text: &Reply| -> BTreeSet<String> {
        text.text().lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
    };
    let before = ids(&text);
    for _ in 0..8 {
        let release = server.streams.release(0, Lane::Bulk, b"envelope", ReleaseId::new()).await;
        assert!(release.unwrap_err().is_retryable());
    }
    assert_ne!(ids(&redis.command(&["CLIENT", "LIST"])), before, "its connections were made anew");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    pass(&server.streams, 0, "after").await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_now_is_no_fault_of_an_output() {
    let server = servers(Topology::Single).await;
    let reader = server.streams.reader(0, STAGE, "a").await.unwrap();
    server.streams.release(0, Lane::Bulk, b"envelope", ReleaseId::new()).await.unwrap();
    let entry = reader.read_any(1, Duration::from_secs(1)).await.unwrap().remove(0);
    server.raw(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let output = || (Target::Work(StageName::Embed, Lane::Bulk), Bytes::from_static(b"output"));
    for action in [Action::Emit(vec![output()]), Action::Done(vec![output()]), Action::HandBack(1)] {
        let settlement = [Settlement::of(&entry, "", action)];
        let error = server.streams.handoff(0, STAGE, "a", &settlement).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    server.raw(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    let settlement = [Settlement::of(&entry, "", Action::Done(vec![output()]))];
    assert_eq!(server.streams.handoff(0, STAGE, "a", &settlement).await.unwrap(), [Answer::Done]);
}

#[tokio::test]
async fn every_master_has_to_keep_what_it_has() {
    let server = servers(Topology::Cluster).await;
    let config = Config::for_url(&server.redis.url());
    for master in server.redis.primaries() {
        master.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        let refused = Streams::connect(&config).await;
        assert!(matches!(refused, Err(Error::Eviction(policy)) if policy == "allkeys-lru"));
        master.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    }
    let memory = Streams::connect(&config).await.unwrap().memory().await.unwrap();
    let used = |server: &TestRedis| server.info("memory", "used_memory").unwrap().parse::<u64>().unwrap();
    let most = server.redis.primaries().into_iter().map(used).max().unwrap();
    assert!(memory.used > most, "the memory of all of them");
}

#[tokio::test]
async fn nodes_that_the_url_does_not_name_are_found_when_those_are_gone() {
    let server = servers(Topology::Cluster).await;
    let TestServers::Cluster(cluster) = &server.redis else { panic!("a cluster") };
    let url = format!("redis-cluster://127.0.0.1:{}", cluster.nodes()[0].port().unwrap());
    let streams = Streams::connect(&Config::for_url(&url)).await.unwrap();
    pass(&streams, 0, "before").await;
    cluster.nodes()[0].kill9();
    for partition in 0..6 {
        pass(&streams, partition, "after").await;
    }
}

#[tokio::test]
async fn partitions_move_between_nodes_while_work_passes() {
    let server = servers(Topology::Cluster).await;
    let TestServers::Cluster(cluster) = &server.redis else { panic!("a cluster") };
    pass(&server.streams, 0, "before").await;
    let key = server.streams.keys().sizes(0);
    let stay = server.streams.reader(0, StageName::Embed, "stays").await.unwrap();
    let (from, to) = (cluster.master_of(&key), other_master(cluster, &key));
    let moving = cluster.begin_to_move(&key, from, to);
    // Keys are at one node or the other now, and what is new at the second.
    for name in ["first", "second"] {
        let release = ReleaseId::new();
        let sent = server.streams.release(0, Lane::Bulk, name.as_bytes(), release).await;
        assert!(sent.is_ok() || sent.unwrap_err().is_retryable());
    }
    cluster.end_the_move(&moving);
    pass(&server.streams, 0, "after").await;
    let moved = until_it_works(async || stay.read_any(10, Duration::from_millis(200)).await).await;
    assert!(!moved.is_empty(), "what stood on the stream moved with it");
}

#[tokio::test]
async fn a_failover_of_the_server_that_has_the_beats_kills_nobody() {
    let server = servers(Topology::Cluster).await;
    // Beats that stand together on another server than the partition.
    let TestServers::Cluster(cluster) = &server.redis else { panic!("a cluster") };
    let elsewhere = other_master(cluster, &server.streams.keys().sizes(0)).port();
    let is_there = |name: &String| cluster.master_of(&server.streams.keys().beat(name)).port() == elsewhere;
    let names: Vec<String> = (0..).map(|n| format!("c{n}")).filter(is_there).take(2).collect();
    let every = Duration::from_millis(50);
    let _lives = Beat::start(&server.streams, &names[0], every, Duration::from_secs(600)).unwrap();
    let grace = Duration::from_secs(5);
    let mut observer = Observer::new(Duration::from_millis(300), grace);
    observer.note_server(server.streams.home_of(0).await.unwrap().identity);
    let look = async |observer: &mut Observer| match observer.look(&server.streams, &names).await {
        Ok(()) => Some(observer.dead()),
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            observer.forget();
            None
        }
    };
    let dead = async |observer: &mut Observer| loop {
        match look(observer).await {
            Some(dead) if dead == names[1..] => return,
            Some(dead) => assert!(dead.is_empty(), "{dead:?}"),
            None => {}
        }
        tokio::time::sleep(every).await;
    };
    tokio::time::timeout(PATIENCE, dead(&mut observer)).await.expect("the second one never beats");
    let beats = server.redis.home_of(&server.streams.keys().beat(&names[1]));
    beats.wait_until_replicated();
    beats.kill9();
    let begin = Instant::now();
    while look(&mut observer).await.is_some() {
        assert!(begin.elapsed() < PATIENCE, "the server is away");
    }
    let back = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(dead) = look(&mut observer).await {
                break dead;
            }
            tokio::time::sleep(every).await;
        }
    });
    assert!(back.await.unwrap().is_empty());
    let back = Instant::now();
    tokio::time::timeout(PATIENCE, dead(&mut observer)).await.expect("it is judged again");
    assert!(back.elapsed() >= grace - Duration::from_millis(500), "not before the grace was over");
}

fn other_master<'a>(cluster: &'a TestCluster, key: &str) -> &'a TestRedis {
    let home = cluster.master_of(key).port();
    cluster.masters().into_iter().find(|master| master.port() != home).unwrap()
}
