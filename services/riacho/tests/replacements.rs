//! A document is replaced again and again while it is searched all the time: each search sees one version, whole.
//!
//! `RIACHO_REPLACEMENTS=1000` makes a thousand of them instead of a few.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use reqwest::Client;
use riacho_testkit::within;
use serde_json::{Value, json};
use support::cluster::{Cluster, Services};
use tokio::task::JoinSet;

/// Who searches, and the pause between two searches of one: fifty a second in all, where the machine answers at once.
const SEARCHERS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// How long a replacement may take on a busy machine, whatever fails meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
const PARTS: usize = 6;

/// A version's text: each of its chunks names the version.
fn text(number: u64) -> String {
    let part = |part: usize| {
        format!("## Part {part}\n\n{}", format!("Edition ed{number}x of the tide table. ").repeat(30))
    };
    (0..PARTS).map(part).collect::<Vec<_>>().join("\n\n")
}

/// What searches saw.
#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    answers: AtomicU64,
    /// The newest version that an answer had.
    newest: AtomicU64,
}

/// Searches until the stop, and fails at an answer that is empty, of two versions, or older than one before.
async fn watch(client: Client, url: String, id: String, chunks: usize, watch: Arc<Watch>) {
    let query =
        json!({"query": "edition of the tide table", "mode": "keyword", "top_k": 100, "documents": [id]});
    while !watch.stop.load(Ordering::Relaxed) {
        let newest = watch.newest.load(Ordering::SeqCst);
        tokio::time::sleep(PAUSE).await;
        let Ok(answer) = client.post(format!("{url}/api/v1/search")).json(&query).send().await else {
            continue;
        };
        // While the database is away there is no answer, which is no wrong one.
        if !answer.status().is_success() {
            continue;
        }
        let Ok(answer) = answer.json::<Value>().await else { continue };
        let hits = answer["hits"].as_array().unwrap();
        let versions: Vec<u64> = hits.iter().filter_map(|hit| hit["version"].as_u64()).collect();
        let editions = hits.iter().map(|hit| edition(hit["text"].as_str().unwrap()));
        let first = hits.first().map(|hit| edition(hit["text"].as_str().unwrap()));
        assert!(editions.into_iter().all(|edition| Some(edition) == first), "two editions: {answer}");
        assert!(versions.windows(2).all(|pair| pair[0] == pair[1]), "two versions: {answer}");
        assert_eq!(hits.len(), chunks, "all chunks of one version: {answer}");
        assert!(versions[0] >= newest, "version {} after version {newest}", versions[0]);
        watch.newest.fetch_max(versions[0], Ordering::SeqCst);
        watch.answers.fetch_add(1, Ordering::Relaxed);
    }
}

fn edition(text: &str) -> u64 {
    let from = text.find("ed").map_or("", |_| text.split("Edition ed").nth(1).unwrap_or_default());
    from.split('x')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no edition: {text}"))
}

/// Uploads until it is accepted; gives the version.
async fn replace(services: &Services, body: &[u8]) -> (String, u64) {
    let url = format!("{}/api/v1/documents?filename=tides.md&external_id=tides", services.url);
    within(PATIENCE, || async {
        let answer =
            services.client.post(&url).body(body.to_vec()).send().await.map_err(|e| e.to_string())?;
        let (status, text) = (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
        let body: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        match (status.is_success(), body["id"].as_str(), body["version"].as_u64()) {
            (true, Some(id), Some(version)) => Ok((id.to_owned(), version)),
            _ => Err(format!("{status}: {text}")),
        }
    })
    .await
}

async fn ends_as(services: &Services, id: &str, version: u64, states: &[&str]) -> String {
    within(PATIENCE, || async {
        let status = services.status(id).await?;
        let state = status["state"].as_str().unwrap_or_default().to_owned();
        let ended = status["version"] == version && states.contains(&state.as_str());
        if ended { Ok(state) } else { Err(format!("{status}\n{}", services.work.log())) }
    })
    .await
}

/// What goes wrong while a version is on its way.
async fn fail(cluster: &Cluster, services: &mut Services, number: u64, id: &str) {
    match number % 6 {
        1 => cluster.to_postgres.cut(),
        2 => cluster.to_redis.lose_replies(2),
        3 => {
            services.work.signal(Signal::SIGKILL).unwrap();
            services.work = cluster.spawn(&["work", "--stages", "extractor,embedder,indexer,janitor"]);
        }
        4 => {
            let url = format!("{}/api/v1/documents/{id}/cancel", services.url);
            let _ = services.client.post(url).send().await;
        }
        5 => cluster.to_postgres.lose_replies(1),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_search_sees_none_two_or_half_of_a_version_while_documents_are_replaced() {
    let count = std::env::var("RIACHO_REPLACEMENTS").ok().and_then(|count| count.parse().ok()).unwrap_or(24);
    let mut cluster = Cluster::new();
    cluster.set("RIACHO__JANITOR__PURGE_GRACE_SECONDS", "2");
    cluster.set("RIACHO__JANITOR__SCHEDULES__PURGE", "* * * * * *");
    // All ask the same, and each answer is to be made anew.
    cluster.set("RIACHO__GATEWAY__SEARCH_CACHE_SECONDS", "0");
    let key = cluster.prepare();
    let mut services = cluster.start(&key);
    services.are_ready().await;
    let (id, version) = replace(&services, text(0).as_bytes()).await;
    ends_as(&services, &id, version, &["ready"]).await;
    let chunks = services.client.get(format!("{}/api/v1/documents/{id}/chunks?limit=100", services.url));
    let chunks: Value = chunks.send().await.unwrap().json().await.unwrap();
    let chunks = chunks["chunks"].as_array().unwrap().len();
    assert!(chunks >= PARTS, "{chunks}");

    let seen = Arc::new(Watch::default());
    let mut searches = JoinSet::new();
    for _ in 0..SEARCHERS {
        searches.spawn(watch(
            services.client.clone(),
            services.url.clone(),
            id.clone(),
            chunks,
            seen.clone(),
        ));
    }
    let mut ready = 1;
    for number in 1..=count {
        // Every tenth one cannot be read, and the version before it stays.
        let broken = number % 10 == 0;
        let body = if broken { b"%PDF-1.7\nno more of it".to_vec() } else { text(number).into_bytes() };
        let (_, version) = replace(&services, &body).await;
        fail(&cluster, &mut services, number, &id).await;
        let state = ends_as(&services, &id, version, &["ready", "failed", "cancelled"]).await;
        assert!(
            if broken { state == "failed" || state == "cancelled" } else { state != "failed" },
            "{number}: {state}"
        );
        ready += u64::from(state == "ready");
        // What is answered with an error, or not at all, is not counted: so much is answered in each state of the document.
        let before = seen.answers.load(Ordering::Relaxed);
        within(PATIENCE, || async {
            let answers = seen.answers.load(Ordering::Relaxed) - before;
            if answers >= 2 { Ok(()) } else { Err(format!("{answers} answers")) }
        })
        .await;
        assert!(searches.try_join_next().is_none(), "an answer was wrong: see above");
    }
    let before = seen.answers.load(Ordering::Relaxed);
    within(PATIENCE, || async { seen.answers.load(Ordering::Relaxed) > before + 2 }).await;
    seen.stop.store(true, Ordering::Relaxed);
    while let Some(search) = searches.join_next().await {
        search.expect("every answer was right");
    }
    let answers = seen.answers.load(Ordering::Relaxed);
    assert!(ready >= count / 2, "{ready} of {count} versions became ready");
    println!("{count} replacements, {ready} ready, {answers} answers, all of one whole version");
}
