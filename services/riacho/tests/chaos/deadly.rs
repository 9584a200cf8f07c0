//! A document that ends whoever runs it, as seen from the deployment: its extractor is killed each time it has
//! begun on it, and only then, so that no neighbour's run is ended by anything but bad company.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use riacho_domain::RetryPolicy;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    cluster::{Cluster, REPLICAS},
    faults::streams,
    history::is_end,
    schedule::Service,
    workload::Workload,
};

/// How long it may take until the document is condemned.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(30);
/// How long an orchestrator waits before it starts an extractor again.
const RESTART_PAUSE: Duration = Duration::from_millis(300);

/// Uploads such a document and kills its extractors until it has failed. Nothing that loses data comes meanwhile,
/// so each attempt has to end a process before it is condemned.
pub(crate) async fn run(cluster: &Cluster, workload: &Workload, round: usize) -> Result<(), String> {
    let document = workload.upload_deadly(round).await.ok_or("the document was not accepted")?;
    let (begun, mut killed, mut seen) = (Instant::now(), 0, 0);
    while begun.elapsed() < PATIENCE {
        sleep(PAUSE).await;
        let Some((state, extractions)) = progress(cluster, document) else { continue };
        if is_end(&state) {
            let is_right = killed >= RetryPolicy::default().max_attempts;
            return if is_right { Ok(()) } else { Err(format!("{document} failed after {killed} kills")) };
        }
        if extractions > seen
            && let Some(replica) = holder(cluster, document)
        {
            (killed, seen) = (killed + 1, extractions);
            cluster.kill(Service::Extractor, replica);
            sleep(RESTART_PAUSE).await;
            cluster.start_process(Service::Extractor, replica);
        }
    }
    Err(format!("{document} has ended {killed} processes, and is not condemned"))
}

/// The state of the document, and how often a run has begun.
fn progress(cluster: &Cluster, document: Uuid) -> Option<(String, u32)> {
    let sql = format!("SELECT state, extractions FROM document_versions WHERE document_id = '{document}'");
    let row = cluster.sql(&sql).ok()?.into_iter().next()?;
    Some((row[0].clone()?, row[1].as_ref()?.parse().ok()?))
}

/// The extractor that holds the document's entry: a consumer's name has the id of its process.
fn holder(cluster: &Cluster, document: Uuid) -> Option<usize> {
    let pid = (0..cluster.partitions).find_map(|partition| {
        let mut keys = streams(partition).filter(|(_, stage)| *stage == "extract");
        keys.find_map(|(key, stage)| consumer(cluster, &key, stage, document))
    })?;
    (0..REPLICAS).find(|replica| cluster.pid(Service::Extractor, *replica) == Some(pid))
}

fn consumer(cluster: &Cluster, key: &str, group: &str, document: Uuid) -> Option<u32> {
    let entries = cluster.redis(&["XRANGE", key, "-", "+"]).ok()?;
    let id = entries.list().iter().find_map(|entry| {
        let [id, fields] = entry.list() else { return None };
        fields.list().get(1)?.text().contains(&document.to_string()).then(|| id.text().to_owned())
    })?;
    let pending = cluster.redis(&["XPENDING", key, group, &id, &id, "1"]).ok()?;
    pending.list().first()?.list().get(1)?.text().rsplit('-').nth(1)?.parse().ok()
}

/// Kills the parsers of an extractor again and again.
pub(crate) async fn kill_parsers(cluster: &Cluster, replica: usize, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        for parser in cluster.pid(Service::Extractor, replica).map(parsers).into_iter().flatten() {
            // It fails only for one that has ended.
            let _ = kill(parser, Signal::SIGKILL);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// The parser processes of an extractor.
fn parsers(extractor: u32) -> Vec<Pid> {
    let is_its = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        status.lines().any(|line| line.split_whitespace().eq(["PPid:", &extractor.to_string()]))
            && String::from_utf8_lossy(&command).contains("parse-child")
    };
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(is_its).map(Pid::from_raw).collect()
}
