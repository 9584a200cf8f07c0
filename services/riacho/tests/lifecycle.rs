//! `riacho up` from start to end: quick restarts, crashes, signals, and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use riacho_testkit::{
    eventually,
    process::{Process, Up, free_port, processes_of},
};
use serde_json::{Value, json};
use support::{Deployment, RIACHO};

async fn restart(deployment: &mut Deployment, args: &[&str]) -> Duration {
    let start = Instant::now();
    let dir = deployment.dir.path().join("data");
    deployment.up = Up::start_with(RIACHO, &dir, args, &[]).await.unwrap();
    start.elapsed()
}

#[tokio::test]
async fn a_second_demo_starts_within_five_seconds_and_ingests_nothing_twice() {
    let mut deployment = Deployment::start(&["--demo"], &[]).await;
    eventually(|| async { deployment.up.log().contains("Ctrl-C stops everything") }).await;
    let first = deployment.up.log();
    assert!(first.contains("score") && first.contains("page"), "{first}");
    let key = deployment.up.api_key().unwrap();
    let mode = fs::metadata(deployment.data_dir().join("api-key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let documents = deployment.get("/api/v1/documents?limit=100").await;
    deployment.up.stop().await.unwrap();

    let took = restart(&mut deployment, &["--demo"]).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    eventually(|| async { deployment.up.log().contains("Ctrl-C stops everything") }).await;
    assert!(deployment.up.log().contains("of them known before"), "{}", deployment.up.log());
    assert_eq!(deployment.up.api_key().unwrap(), key);
    assert_eq!(deployment.get("/api/v1/documents?limit=100").await, documents);
}

#[tokio::test]
async fn what_was_accepted_before_a_kill_is_searchable_after_the_next_start() {
    let mut deployment = Deployment::start(&[], &[]).await;
    let mut accepted = Vec::new();
    for number in 0..8 {
        let text = format!("# Report {number}\n\nThe heron of station {number} waits at the weir.\n");
        accepted.push(deployment.upload(&format!("report-{number}.md"), text).await);
    }
    deployment.up.kill9().unwrap();
    restart(&mut deployment, &[]).await;
    for document in &accepted {
        deployment.ready(document).await;
    }
    let hits = deployment.search(json!({ "query": "heron station 5 weir", "top_k": 20 })).await;
    assert_eq!(hits.len(), accepted.len(), "each document is found once: {hits:?}");
    deployment.up.stop().await.unwrap();
    assert_nothing_runs_in(deployment.dir.path()).await;
}

#[tokio::test]
async fn a_signal_stops_everything_within_seconds_and_leaves_no_process() {
    let mut deployment = Deployment::start(&[], &[]).await;
    let accepted = deployment.upload("note.txt", "The gauge at the mill is read at noon.").await;
    deployment.ready(&accepted).await;
    assert!(processes_of(deployment.dir.path()).len() > 2, "up, redis-server, postgres");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let start = Instant::now();
        deployment.up.process().signal(signal).unwrap();
        let status = deployment.up.process().wait().await.unwrap();
        assert!(status.success(), "{status}: {}", deployment.up.log());
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        assert_nothing_runs_in(deployment.dir.path()).await;
        if signal == Signal::SIGTERM {
            restart(&mut deployment, &[]).await;
        }
    }
}

#[tokio::test]
async fn a_private_server_that_is_killed_is_started_again_and_nothing_is_lost() {
    let deployment = Deployment::start(&[], &[]).await;
    let pid_files = ["redis/redis.pid", "postgres/postmaster.pid"];
    for (number, pid_file) in pid_files.into_iter().enumerate() {
        let before = deployment.upload(&format!("before-{number}.txt"), format!("Sluice {number}.")).await;
        let text = fs::read_to_string(deployment.data_dir().join(pid_file)).unwrap();
        let pid = text.lines().next().unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        // Until it is back, an upload may be refused with 503.
        let after = eventually(|| async {
            let url = deployment.up.url(&format!("/api/v1/documents?filename=after-{number}.txt"));
            let answer = deployment.client().post(url).body(format!("Weir {number}.")).send().await;
            let answer = answer.and_then(reqwest::Response::error_for_status).map_err(|e| e.to_string())?;
            answer.json::<Value>().await.map_err(|e| e.to_string())
        })
        .await;
        deployment.ready(&before).await;
        deployment.ready(&after).await;
    }
    let log = deployment.up.log();
    assert!(log.matches("ended and is started again").count() >= pid_files.len(), "{log}");
}

async fn assert_nothing_runs_in(directory: &Path) {
    // The servers get their signal from the kernel when their parent is killed; that takes a moment.
    eventually(|| async {
        let left = processes_of(directory);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn a_data_directory_or_a_port_in_use_is_said_in_one_line() {
    let deployment = Deployment::start(&[], &[]).await;
    let dir = deployment.data_dir().to_str().unwrap().to_owned();
    let free = format!("127.0.0.1:{}", free_port().unwrap());
    let taken = deployment.up.url("").replace("http://", "");
    let other = deployment.dir.path().join("other");
    let cases =
        [(dir.as_str(), free.as_str(), dir.as_str()), (other.to_str().unwrap(), taken.as_str(), "is taken")];
    for (data_dir, listen, expected) in cases {
        let mut second =
            Process::spawn(RIACHO, &["up", "--data-dir", data_dir, "--listen", listen], &[]).unwrap();
        let status = second.wait().await.unwrap();
        assert_eq!(status.code(), Some(1));
        let log = second.log();
        assert!(log.contains(expected) && log.lines().count() == 1, "{log}");
    }
    assert_eq!(deployment.get("/health").await["status"], "healthy");
}
