//! The services while their servers are away, restart, or lose connections and answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use riacho_testkit::{Proxy, eventually, s3::S3, within};
use support::cluster::{Cluster, Services, is_unavailable};
use tokio::time::{Instant, sleep};

/// The pause between two uploads of a steady load.
const PACE: Duration = Duration::from_millis(100);
/// How long connections are cut.
const HARM: Duration = Duration::from_secs(8);

/// How many versions have been extracted: each was an event that was handled.
fn extracted(cluster: &Cluster) -> u64 {
    let rows = cluster.database.run("SELECT count(*) FROM document_versions WHERE run_id IS NOT NULL");
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

/// Offers a document again and again until it is kept, as a client does that is told to come again.
async fn insist(services: &mut Services, word: &str) {
    let begin = Instant::now();
    while !services.offer(word, "unavailable").await {
        assert!(begin.elapsed() < Duration::from_secs(60), "{word} was never kept\n{}", services.log());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_redis_is_away_uploads_are_kept_and_after_its_return_work_goes_on_at_once() {
    let cluster = Cluster::new();
    let mut services = cluster.working().await;
    cluster.to_redis.refuse();
    eventually(|| async { services.log().contains("the streams cannot be used") }).await;
    let before = services.effort();
    for number in 0..60 {
        services.upload(&format!("heron{number}")).await;
        sleep(PACE).await;
    }
    services.were_quiet(before);
    let handled = extracted(&cluster);
    cluster.to_redis.pass();
    let back = Instant::now();
    within(services.soon(), || async { extracted(&cluster) > handled }).await;
    let unsent = "SELECT FROM document_versions WHERE state = 'releasing'";
    let left = services.soon().saturating_sub(back.elapsed());
    within(left, || async { cluster.database.run(unsent).is_empty() }).await;
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

#[tokio::test]
async fn connections_that_are_cut_every_100_ms_cost_no_document_and_double_none() {
    let cluster = Cluster::new();
    let mut services = cluster.working().await;
    let before = services.effort();
    cluster.to_redis.cut_every(Duration::from_millis(100));
    cluster.to_postgres.cut_every(Duration::from_millis(100));
    let (begin, mut refused) = (Instant::now(), Vec::new());
    for number in 0.. {
        let word = format!("otter{number}");
        if !services.offer(&word, "unavailable").await {
            refused.push(word);
        }
        sleep(PACE).await;
        if begin.elapsed() > HARM {
            break;
        }
    }
    let lines = services.effort().lines_since(before);
    assert!(lines <= 5.0, "{lines} lines a second\n{}", services.log());
    cluster.to_redis.pass();
    cluster.to_postgres.pass();
    // A refused one may have been kept, when the answer to the commit was what got lost: then it is known.
    for word in refused {
        insist(&mut services, &word).await;
    }
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

#[tokio::test]
async fn answers_that_are_lost_on_the_wire_cost_no_document_and_double_none() {
    let cluster = Cluster::new();
    let mut services = cluster.working().await;
    for number in 0..40 {
        cluster.to_redis.lose_replies(1);
        cluster.to_postgres.lose_replies(1);
        insist(&mut services, &format!("crane{number}")).await;
        sleep(PACE / 4).await;
    }
    assert!(cluster.to_redis.lost() > 10, "{:?}", cluster.to_redis);
    assert!(cluster.to_postgres.lost() > 10, "{:?}", cluster.to_postgres);
    cluster.to_redis.pass();
    cluster.to_postgres.pass();
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

#[tokio::test]
async fn while_postgresql_restarts_uploads_are_refused_with_503_and_what_was_kept_is_finished() {
    let cluster = Cluster::new();
    let mut services = cluster.working().await;
    for round in 0..2 {
        for number in 0..10 {
            services.upload(&format!("sluice{round}x{number}")).await;
        }
        match round {
            0 => cluster.postgres.stop(),
            _ => cluster.postgres.kill9(),
        }
        let before = services.effort();
        for number in 0..30 {
            is_unavailable(services.send(&format!("refused{number}")).await).await;
            sleep(PACE).await;
        }
        services.were_quiet(before);
        cluster.postgres.start();
        let handled = extracted(&cluster);
        let back = Instant::now();
        insist(&mut services, &format!("weir{round}")).await;
        assert!(back.elapsed() < services.soon(), "{:?} of {:?}", back.elapsed(), services.soon());
        within(services.soon(), || async { extracted(&cluster) > handled }).await;
    }
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

#[tokio::test]
async fn services_that_start_before_their_servers_wait_for_them_and_say_so_in_a_line() {
    let cluster = Cluster::new();
    let key = cluster.prepare();
    cluster.redis.stop();
    cluster.postgres.stop();
    let mut services = cluster.start(&key);
    eventually(|| async {
        let logs = [services.gateway.log(), services.work.log()];
        logs.iter().all(|log| log.contains("not reachable; waiting for it"))
    })
    .await;
    let before = services.effort();
    sleep(Duration::from_secs(4)).await;
    services.were_quiet(before);
    cluster.postgres.start();
    // PostgreSQL alone is not enough to start with.
    eventually(|| async {
        services.gateway.log().contains("redis") && services.work.log().contains("redis")
    })
    .await;
    let lines = services.gateway.log().lines().count() + services.work.log().lines().count();
    assert!(lines <= 4, "a line for each server in each process: {}", services.log());
    cluster.redis.start();
    eventually(|| async { services.log().matches("started").count() == 2 }).await;
    // What the embedder asks of PostgreSQL when it begins waits as well.
    cluster.to_postgres.refuse();
    eventually(|| async { services.gateway.log().contains("dependency is down") }).await;
    cluster.to_postgres.pass();
    services.are_ready().await;
    services.upload("barge").await;
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

/// Services on an S3 server behind a proxy. Two failures that count would condemn an event.
async fn on_s3(server: &S3) -> (Cluster, Proxy) {
    let mut cluster = Cluster::new();
    let to_objects = Proxy::before(&server.endpoint()).unwrap();
    cluster.set("S3_BUCKET", server.bucket());
    cluster.set("AWS_REGION", server.region());
    cluster.set("AWS_ENDPOINT_URL", to_objects.url());
    cluster.set("AWS_ACCESS_KEY_ID", server.access_key());
    cluster.set("AWS_SECRET_ACCESS_KEY", server.secret_key());
    cluster.set("RIACHO__OBJECTS__S3__PATH_STYLE", "true");
    cluster.set("RIACHO__OBJECTS__S3__ALLOW_HTTP", "true");
    cluster.set("RIACHO__OBJECTS__TIMEOUT_MS", "500");
    cluster.set("RIACHO__STAGE__MAX_ATTEMPTS", "2");
    cluster.set("RUST_LOG", "info,riacho_stage=debug");
    (cluster, to_objects)
}

#[tokio::test]
async fn an_object_store_that_fails_or_hangs_costs_time_and_no_document() {
    let server = S3::start().await.unwrap();
    let (cluster, to_objects) = on_s3(&server).await;
    let mut services = cluster.working().await;
    for (round, harm) in [|proxy: &Proxy| proxy.answer(500), Proxy::blackhole].into_iter().enumerate() {
        // What is uploaded while the stages are stopped meets the fault in the extractor.
        services.work.stop().await.unwrap();
        for number in 0..3 {
            services.upload(&format!("gauge{round}x{number}")).await;
        }
        harm(&to_objects);
        services.work = cluster.spawn(&["work", "--stages", "extractor,embedder,indexer,janitor"]);
        is_unavailable(services.send("refused").await).await;
        // Each document has failed more often than its attempts allow.
        let failed = |log: &str| log.matches("an event waits for a server").count();
        within(Duration::from_secs(60), || async { failed(&services.work.log()) >= 9 }).await;
        to_objects.pass();
        services.all_ready().await;
        insist(&mut services, &format!("kept{round}")).await;
    }
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}
