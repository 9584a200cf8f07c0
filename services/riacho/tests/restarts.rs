//! A rolling restart of all stages and of the janitor, while documents come in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use reqwest::Client;
use riacho_local::testing::{Reply, try_command};
use riacho_testkit::{
    process::{self, Process, free_port},
    within,
};
use serde_json::Value;
use support::cluster::Cluster;
use tokio::time::sleep;

const STAGES: [&str; 3] = ["extract", "embed", "index"];
const SERVICES: [&str; 4] = ["extractor", "embedder", "indexer", "janitor"];
const PATIENCE: Duration = Duration::from_secs(120);
/// How many documents come between two restarts, at least.
const LOAD: usize = 4;
/// The pause between two uploads.
const PACE: Duration = Duration::from_millis(25);

/// Two gateways and two processes of each other service.
struct Fleet {
    cluster: Cluster,
    client: Client,
    gateways: Vec<(Process, String)>,
    others: Vec<(&'static str, Process)>,
}

impl Fleet {
    async fn start() -> Fleet {
        let cluster = Cluster::new();
        let client = process::client(&cluster.prepare()).unwrap();
        let gateways = (0..2).map(|_| Fleet::gateway(&cluster)).collect();
        let others = SERVICES
            .iter()
            .flat_map(|name| [(*name, cluster.spawn(&[*name])), (*name, cluster.spawn(&[*name]))]);
        let fleet = Fleet { others: others.collect(), cluster, client, gateways };
        for (_, url) in &fleet.gateways {
            fleet.is_ready(url).await;
        }
        fleet
    }

    fn gateway(cluster: &Cluster) -> (Process, String) {
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        (cluster.spawn(&["ingest-gateway", "--listen", &listen]), format!("http://{listen}"))
    }

    async fn is_ready(&self, url: &str) {
        within(PATIENCE, || async {
            let answer = self.client.get(format!("{url}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    /// Stops each process in its turn and starts another in its place; what is stopped keeps hold of nothing.
    async fn roll(&mut self, accepted: &AtomicUsize) {
        for at in 0..self.others.len() {
            // Each leaves in the middle of work, however slowly it comes.
            within(PATIENCE, || async {
                let so_far = accepted.load(Ordering::Relaxed);
                (so_far >= LOAD * (at + 1)).then_some(()).ok_or(so_far)
            })
            .await;
            let name = self.others[at].0;
            let next = self.cluster.spawn(&[name]);
            let mut old = std::mem::replace(&mut self.others[at].1, next);
            let status = old.stop().await.unwrap();
            assert!(status.success(), "{name} ended with {status}: {}", old.log());
            assert_eq!(held_by(&self.cluster, old.pid()), 0, "{name} kept hold of entries: {}", old.log());
        }
    }
}

/// How many entries the consumers of a process hold.
fn held_by(cluster: &Cluster, pid: u32) -> i64 {
    let mut held = 0;
    for (key, stage) in streams() {
        let consumers = cluster.redis.command(&["XINFO", "CONSUMERS", &key, stage]);
        // A stage that has not come up yet has made no group, and holds nothing.
        if matches!(&consumers, Reply::Error(error) if error.starts_with("NOGROUP") || error.starts_with("ERR no such key"))
        {
            continue;
        }
        for consumer in consumers.list() {
            let [_, name, _, pending, ..] = consumer.list() else { panic!("{consumer:?}") };
            let is_its = name.text().rsplit('-').nth(1) == Some(&pid.to_string());
            held += if is_its { pending.int() } else { 0 };
        }
    }
    held
}

fn streams() -> impl Iterator<Item = (String, &'static str)> {
    let lanes = |stage| {
        ["interactive", "bulk", "background"].map(move |lane| (format!("riacho:{{0}}:{stage}:{lane}"), stage))
    };
    STAGES.into_iter().flat_map(lanes)
}

/// The largest delivery count of what is held, by stream, seen until `stop`.
async fn deliveries(socket: &Path, stop: &AtomicBool) -> BTreeMap<String, i64> {
    let mut most = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        for (key, stage) in streams() {
            let args = ["XPENDING", &key, stage, "-", "+", "100"];
            let Ok(Reply::List(pending)) = try_command(socket, &args) else { continue };
            for entry in pending {
                let seen = most.entry(key.clone()).or_default();
                *seen = i64::max(*seen, entry.list()[3].int());
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    most
}

/// Uploads at the gateways in turn until `stop`; each has to be accepted. The documents' ids.
async fn uploads(
    client: &Client,
    gateways: &[String],
    count: &AtomicUsize,
    stop: &AtomicBool,
) -> Vec<String> {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = accepted.len();
        let text = format!("# Log {number}\n\nThe barge number {number} passed the lock.\n").repeat(40);
        let url = format!("{}/api/v1/documents?filename=log-{number}.md", gateways[number % gateways.len()]);
        let answer =
            client.post(url).header("content-type", "text/markdown").body(text).send().await.unwrap();
        assert_eq!(answer.status(), 202, "upload {number}");
        let answer: Value = answer.json().await.unwrap();
        accepted.push(answer["id"].as_str().unwrap().to_owned());
        count.store(accepted.len(), Ordering::Relaxed);
        sleep(PACE).await;
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_nothing_and_costs_no_attempt() {
    let mut fleet = Fleet::start().await;
    let (stop, count, client) = (AtomicBool::new(false), AtomicUsize::new(0), fleet.client.clone());
    let urls: Vec<String> = fleet.gateways.iter().map(|(_, url)| url.clone()).collect();
    let socket = fleet.cluster.redis.socket();
    let rolling = async {
        fleet.roll(&count).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (accepted, most, ()) =
        futures::join!(uploads(&client, &urls, &count, &stop), deliveries(&socket, &stop), rolling);
    // Handed back at once: a process that had died would have been found out after seconds, by the count.
    assert!(most.values().all(|deliveries| *deliveries <= 1), "what is handed back is no attempt: {most:?}");
    within(PATIENCE, || async {
        let open = fleet
            .cluster
            .database
            .run("SELECT document_id, state FROM document_versions WHERE state <> 'ready'");
        if open.is_empty() { Ok(()) } else { Err(open) }
    })
    .await;
    let letters = fleet.cluster.database.run("SELECT count(*) FROM dead_letters");
    let documents = fleet.cluster.database.run("SELECT count(*) FROM documents");
    assert_eq!(letters[0][0].as_deref(), Some("0"));
    assert_eq!(documents[0][0].as_deref(), Some(accepted.len().to_string().as_str()));
}
