//! A model that is slow or refuses everybody: processes that were stopped meanwhile, commands in the middle, and
//! very many documents behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use riacho_local::testing::Reply;
use riacho_testkit::{
    data_bytes, eventually,
    openai::{Answer, OpenAi},
    process::{Process, free_port},
    within,
};
use serde_json::{Value, json};
use support::cluster::{Cluster, Services};

/// How long all documents may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
const DIMENSIONS: usize = 64;

/// A cluster whose vectors come from a server of the test's own.
async fn with_a_model() -> (Cluster, OpenAi) {
    let model = OpenAi::start(DIMENSIONS).await.unwrap();
    let mut cluster = Cluster::new();
    cluster.set("RIACHO__MODELS__PROVIDER", "openai");
    cluster.set("RIACHO__MODELS__BASE_URL", &model.base_url());
    cluster.set("RIACHO__MODELS__DIMENSIONS", &DIMENSIONS.to_string());
    cluster.set("OPENAI_API_KEY", model.api_key());
    (cluster, model)
}

/// Gateway, extractor, indexer and janitor.
fn without_embedders(cluster: &Cluster, key: &str) -> Services {
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let gateway = cluster.spawn(&["ingest-gateway", "--listen", &listen]);
    let work = cluster.spawn(&["work", "--stages", "extractor,indexer,janitor"]);
    let client = riacho_testkit::process::client(key).unwrap();
    let url = format!("http://{listen}");
    Services { gateway, work, url, client, usual: Duration::ZERO, accepted: Vec::new() }
}

/// An embedder, and where it tells its metrics.
fn embedder(cluster: &mut Cluster) -> (Process, String) {
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    cluster.set("RIACHO__HTTP__OPS_LISTEN", &address);
    let process = cluster.spawn(&["embedder"]);
    cluster.set("RIACHO__HTTP__OPS_LISTEN", "");
    (process, format!("http://{address}"))
}

async fn is_ready(services: &Services, url: &str) {
    let ready = || async {
        let answer = services.client.get(format!("{url}/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    within(PATIENCE, ready).await;
}

/// A counter of a stage.
async fn counter(services: &Services, url: &str, name: &str) -> u64 {
    let text = services.client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains("stage=\"embed\""));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// The process that holds the embedder's only entry, if one does: a consumer's name has its id.
fn holder(cluster: &Cluster) -> Option<u32> {
    let key = "riacho:{0}:embed:interactive";
    let pending = cluster.redis.command(&["XPENDING", key, "embed", "-", "+", "1"]);
    let consumer = pending.list().first()?.list()[1].text().to_owned();
    Some(consumer.rsplit('-').nth(1).unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_process_that_was_stopped_past_its_death_is_fenced_and_its_result_is_dropped_and_counted() {
    let (mut cluster, model) = with_a_model().await;
    let key = cluster.prepare();
    let embedders = [embedder(&mut cluster), embedder(&mut cluster)];
    let mut services = without_embedders(&cluster, &key);
    services.are_ready().await;
    for (_, url) in &embedders {
        is_ready(&services, url).await;
    }
    let [one, other] = embedders;
    let mut number = 0;
    // Where the machine is slow, a document may be done before its process is stopped; then the next one.
    let (before, is_one) = loop {
        let before = model.requests();
        // The first answer is there when its asker wakes up, the second one not yet.
        model.script([Answer::Slow(Duration::from_secs(1)), Answer::Slow(Duration::from_secs(20))]);
        number += 1;
        services.upload(&format!("heron{number}")).await;
        model.wait_for_requests(before + 1).await;
        let found = holder(&cluster);
        let is_one = found == Some(one.0.pid());
        let process = if is_one { &one.0 } else { &other.0 };
        process.signal(Signal::SIGSTOP).unwrap();
        if found.is_some() && holder(&cluster) == Some(process.pid()) {
            break (before, is_one);
        }
        process.signal(Signal::SIGCONT).unwrap();
        services.all_ready().await;
    };
    let ((first, of_first), (mut second, of_second)) = if is_one { (one, other) } else { (other, one) };
    within(PATIENCE, || async { model.requests() >= before + 2 }).await;
    first.signal(Signal::SIGCONT).unwrap();
    eventually(|| async { counter(&services, &of_first, "riacho_fenced_total").await == 1 }).await;
    services.all_ready().await;
    cluster.check(&services);
    assert_eq!(counter(&services, &of_second, "riacho_fenced_total").await, 0);
    // It has lost that event and nothing else: it works on.
    assert!(second.stop().await.unwrap().success());
    services.upload("weir").await;
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

/// The hits of a word, as document and version.
async fn found(services: &Services, word: &str) -> Vec<(String, u64)> {
    let question = json!({ "query": word, "mode": "keyword", "top_k": 10 });
    let answer = services.client.post(format!("{}/api/v1/search", services.url)).json(&question).send().await;
    let answer: Value = answer.unwrap().json().await.unwrap();
    let hits = answer["hits"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let read =
        |hit: &Value| (hit["document_id"].as_str().unwrap().to_owned(), hit["version"].as_u64().unwrap());
    let mut all: Vec<_> = hits.iter().map(read).collect();
    all.dedup();
    all
}

#[tokio::test]
async fn a_new_version_that_is_cancelled_in_the_middle_of_a_stage_leaves_the_old_one_live() {
    let (mut cluster, model) = with_a_model().await;
    let key = cluster.prepare();
    let (mut embeds, of_embeds) = embedder(&mut cluster);
    let mut services = without_embedders(&cluster, &key);
    services.are_ready().await;
    is_ready(&services, &of_embeds).await;
    services.upload("barge").await;
    services.all_ready().await;
    let document = format!("{}/api/v1/documents/{}", services.url, services.accepted[0].0);
    let before = model.requests();
    model.script([Answer::Slow(Duration::from_secs(3))]);
    let newer = "# ferry\n\nThe ferry took the place of the other one.\n";
    let newer = services.client.put(format!("{document}/content?filename=barge.md")).body(newer);
    let newer = newer.header("content-type", "text/markdown").send().await.unwrap();
    assert_eq!(newer.json::<Value>().await.unwrap()["version"], 2);
    // The new version's chunks are at the model.
    model.wait_for_requests(before + 1).await;
    let cancelled = services.client.post(format!("{document}/cancel")).send().await.unwrap();
    assert!(cancelled.status().is_success(), "{}", cancelled.status());
    let handled = || async {
        let rows = cluster.database.run("SELECT state FROM document_versions WHERE version = 2");
        assert_eq!(rows[0][0].as_deref(), Some("cancelled"));
        let left = |stage: &str| {
            cluster.redis.command(&["XLEN", &format!("riacho:{{0}}:{stage}:interactive")]).int()
        };
        left("embed") + left("index") == 0
    };
    within(PATIENCE, handled).await;
    let live = vec![(services.accepted[0].0.clone(), 1)];
    assert_eq!((found(&services, "barge").await, found(&services, "ferry").await), (live, vec![]));
    let status = services.status(&services.accepted[0].0).await.unwrap();
    assert_eq!(status["live_version"], 1, "{status}");
    services.stop().await;
    assert!(embeds.stop().await.unwrap().success());
}

/// What stands on the streams of a stage.
fn length(cluster: &Cluster, stage: &str) -> i64 {
    let of = |lane: &str| cluster.redis.command(&["XLEN", &format!("riacho:{{0}}:{stage}:{lane}")]).int();
    of("interactive") + of("bulk") + of("background")
}

fn count(cluster: &Cluster, condition: &str) -> u64 {
    let rows = cluster.database.run(&format!("SELECT count(*) FROM document_versions WHERE {condition}"));
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

/// Uploads many documents while the model refuses everybody, looks at Redis meanwhile, and lets them go.
async fn behind_a_stall(documents: usize, stream_bytes: usize, most_bytes: u64) {
    let (mut cluster, model) = with_a_model().await;
    cluster.set("RIACHO__REDIS__STREAM_MAX_BYTES", &stream_bytes.to_string());
    cluster.set("RIACHO__REDIS__RELEASE_MARKER_SECONDS", "60");
    cluster.set("RIACHO__JANITOR__IN_FLIGHT_PER_TENANT", &(documents / 3).to_string());
    cluster.set("RIACHO__JANITOR__CENSUS_AFTER_SECONDS", "5");
    let key = cluster.prepare();
    let (mut embeds, of_embeds) = embedder(&mut cluster);
    let mut services = without_embedders(&cluster, &key);
    services.are_ready().await;
    is_ready(&services, &of_embeds).await;
    services.upload("first").await;
    services.all_ready().await;
    let start = data_bytes(&cluster.redis).unwrap();
    model.always(Answer::Status(503));
    let mut most = 0;
    let words: Vec<String> = (0..documents).map(|number| format!("gauge{number}x")).collect();
    for words in words.chunks(50) {
        services.upload_all(words).await;
        most = most.max(data_bytes(&cluster.redis).unwrap());
    }
    let fills = || async {
        let sizes = cluster.redis.command(&["HGET", "riacho:{0}:sizes", "riacho:{0}:embed:interactive"]);
        let bytes: usize = if sizes == Reply::Nil { 0 } else { sizes.text().parse().unwrap() };
        if bytes >= stream_bytes * 3 / 4 { Ok(()) } else { Err(format!("{bytes} bytes are at the embedder")) }
    };
    within(PATIENCE, fills).await;
    most = most.max(data_bytes(&cluster.redis).unwrap());
    assert!(most < most_bytes, "redis needed {most} bytes");
    let waiting = count(&cluster, "state = 'waiting'");
    eprintln!(
        "{documents} documents: {waiting} wait, {} are at the embedder, redis needs {most} bytes, {start} before",
        length(&cluster, "embed")
    );
    assert!(waiting > 0, "the backlog is in PostgreSQL");
    assert_eq!(
        count(&cluster, "losses > 0 OR stalls > 0"),
        0,
        "nothing was trimmed, and nothing released again"
    );
    assert_eq!(count(&cluster, "state IN ('failed', 'cancelled')"), 0);
    model.normal();
    within(PATIENCE + Duration::from_millis(documents as u64 * 100), || async {
        let left = count(&cluster, "state <> 'ready'");
        if left == 0 { Ok(()) } else { Err(format!("{left} are not ready")) }
    })
    .await;
    cluster.check(&services);
    is_at_rest(&cluster, start).await;
    services.stop().await;
    assert!(embeds.stop().await.unwrap().success());
}

/// Nothing is left on the streams, and Redis needs what it needed before. Markers of releases are kept for a while
/// only; the test does not wait for that.
async fn is_at_rest(cluster: &Cluster, start: u64) {
    eventually(|| async { ["extract", "embed", "index"].iter().all(|stage| length(cluster, stage) == 0) })
        .await;
    assert_eq!(cluster.redis.command(&["XLEN", "riacho:{0}:dead"]).int(), 0);
    for pattern in ["riacho:*:release:*", "riacho:history"] {
        for key in cluster.redis.command(&["KEYS", pattern]).list() {
            cluster.redis.command(&["DEL", key.text()]);
        }
    }
    eventually(|| async {
        let now = data_bytes(&cluster.redis).unwrap();
        if now <= start + start / 20 { Ok(()) } else { Err(format!("{now} bytes, {start} before")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_embedder_keeps_redis_small_and_after_the_drain_nothing_is_left() {
    behind_a_stall(400, 48 << 10, 4 << 20).await;
}

/// By hand, with the caps of a real deployment: `cargo test --test stalls -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an hour"]
async fn a_hundred_thousand_documents_behind_a_stalled_embedder_keep_redis_small() {
    behind_a_stall(100_000, 16 << 20, 128 << 20).await;
}
