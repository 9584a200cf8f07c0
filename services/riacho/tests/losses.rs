//! Redis loses its data while documents are on their way: nothing is lost, nothing doubled, nobody has to act.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::HashSet, fs};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use riacho_local::testing::command;
use serde_json::{Value, json};
use support::Deployment;

const DOCUMENTS: usize = 120;

/// A text of some chunks, different for each document.
fn text(number: usize) -> String {
    let paragraph = |part: usize| {
        format!(
            "Part {part} of report {number}: the gauge at weir {number} stood at {} centimetres. ",
            part * 7
        )
        .repeat(12)
    };
    (0..8).map(paragraph).collect::<Vec<_>>().join("\n\n")
}

async fn upload_all(deployment: &Deployment) -> Vec<Value> {
    let mut accepted = Vec::new();
    for number in 0..DOCUMENTS {
        accepted.push(deployment.upload(&format!("report-{number}.txt"), text(number)).await);
    }
    accepted
}

/// Each document is ready, with every chunk once, in order.
async fn all_are_whole(deployment: &Deployment, accepted: &[Value]) {
    for document in accepted {
        let status = deployment.ready(document).await;
        let id = document["id"].as_str().unwrap();
        let chunks = deployment.get(&format!("/api/v1/documents/{id}/chunks?limit=100")).await;
        let chunks = chunks["chunks"].as_array().unwrap();
        let ordinals: Vec<u64> = chunks.iter().map(|chunk| chunk["ordinal"].as_u64().unwrap()).collect();
        assert_eq!(ordinals, (0..chunks.len() as u64).collect::<Vec<_>>(), "{status}");
        assert_eq!(status["progress"]["chunks_total"], json!(chunks.len()), "{status}");
        let hashes: HashSet<&str> = chunks.iter().map(|chunk| chunk["text"].as_str().unwrap()).collect();
        assert_eq!(hashes.len(), chunks.len());
    }
}

/// How many documents are on their way.
async fn unfinished(deployment: &Deployment) -> u64 {
    let info = deployment.get("/api/v1/queue/info").await;
    let ends = ["ready", "failed", "cancelled", "expired"];
    let states = info["documents"].as_object().unwrap().iter();
    states
        .filter(|(state, _)| !ends.contains(&state.as_str()))
        .map(|(_, count)| count.as_u64().unwrap())
        .sum()
}

#[tokio::test]
async fn documents_in_flight_survive_a_flush_of_redis_without_help() {
    let deployment = Deployment::start(&[], &[]).await;
    let socket = deployment.data_dir().join("redis/redis.sock");
    let uploading = upload_all(&deployment);
    let flushing = async {
        // In the middle of the work, each time at another place.
        for part in [90, 50, 20] {
            riacho_testkit::eventually(|| async {
                let left = unfinished(&deployment).await;
                (1..=part).contains(&left).then_some(()).ok_or(left)
            })
            .await;
            command(&socket, &["FLUSHALL"]);
        }
    };
    let (accepted, ()) = futures::join!(uploading, flushing);
    command(&socket, &["FLUSHALL"]);
    all_are_whole(&deployment, &accepted).await;
    assert_eq!(unfinished(&deployment).await, 0);
}

#[tokio::test]
async fn documents_in_flight_survive_a_redis_that_comes_back_empty() {
    let deployment = Deployment::start(&[], &[]).await;
    let socket = deployment.data_dir().join("redis/redis.sock");
    let accepted = upload_all(&deployment).await;
    let pid = fs::read_to_string(deployment.data_dir().join("redis/redis.pid")).unwrap();
    command(&socket, &["FLUSHALL"]);
    kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    all_are_whole(&deployment, &accepted).await;
}
