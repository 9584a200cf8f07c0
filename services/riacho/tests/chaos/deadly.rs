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
    history::is_end,
    schedule::Service,
    workload::Workload,
};

/// How long it may take until the document is condemned.
const PATIENCE: Duration = Duration::from_secs(120);
const GROUP: &str = "extract";
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
        let Some(progress) = progress(cluster, document) else { continue };
        if is_end(&progress.state) {
            let is_right = killed >= RetryPolicy::default().max_attempts;
            return if is_right { Ok(()) } else { Err(format!("{document} failed after {killed} kills")) };
        }
        if progress.extractions > seen
            && let Some(replica) = holder(cluster, document, &progress.stream)
        {
            (killed, seen) = (killed + 1, progress.extractions);
            cluster.kill(Service::Extractor, replica);
            sleep(RESTART_PAUSE).await;
            cluster.start_process(Service::Extractor, replica);
        }
    }
    Err(format!("{document} has ended {killed} processes, and is not condemned"))
}

struct Progress {
    state: String,
    /// How often a run has begun.
    extractions: u32,
    /// Where its event stands.
    stream: String,
}

fn progress(cluster: &Cluster, document: Uuid) -> Option<Progress> {
    let sql = format!(
        "SELECT state, extractions, partition, lane FROM document_versions WHERE document_id = '{document}'"
    );
    let mut row = cluster.sql(&sql).ok()?.into_iter().next()?.into_iter();
    let mut next = || row.next().flatten();
    let (state, extractions) = (next()?, next()?.parse().ok()?);
    let stream = format!("riacho:{{{}}}:{GROUP}:{}", next()?, next()?);
    Some(Progress { state, extractions, stream })
}

/// The extractor that holds the document's entry: a consumer's name has the id of its process. Asked of the one
/// stream where it can stand, since the document's time runs meanwhile.
fn holder(cluster: &Cluster, document: Uuid, stream: &str) -> Option<usize> {
    let pid = consumer(cluster, stream, document)?;
    (0..REPLICAS).find(|replica| cluster.pid(Service::Extractor, *replica) == Some(pid))
}

fn consumer(cluster: &Cluster, key: &str, document: Uuid) -> Option<u32> {
    let entries = cluster.redis(&["XRANGE", key, "-", "+"]).ok()?;
    let id = entries.list().iter().find_map(|entry| {
        let [id, fields] = entry.list() else { return None };
        fields.list().get(1)?.text().contains(&document.to_string()).then(|| id.text().to_owned())
    })?;
    let pending = cluster.redis(&["XPENDING", key, GROUP, &id, &id, "1"]).ok()?;
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
