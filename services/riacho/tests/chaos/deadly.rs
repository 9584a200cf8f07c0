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

use crate::{
    cluster::{Cluster, REPLICAS},
    contents::{Content, Format, Kind},
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
    let seed = 0xdead_0000 + round as u64;
    let content = Content { seed, kind: Kind::Deadly, format: Format::Html, paragraphs: 0 };
    let filename = content.filename();
    // A busy gateway may answer after the parser has begun.
    let (document, condemned) = tokio::join!(workload.upload_apart(&content), condemn(cluster, &filename));
    document.ok_or("the document was not accepted")?;
    condemned
}

/// Kills whoever runs the document with this file name until it has failed.
async fn condemn(cluster: &Cluster, filename: &str) -> Result<(), String> {
    let (begun, mut killed, mut seen) = (Instant::now(), 0, 0);
    while begun.elapsed() < PATIENCE {
        sleep(PAUSE).await;
        let Some(progress) = progress(cluster, filename) else { continue };
        if is_end(&progress.state) {
            let is_right = killed >= RetryPolicy::default().max_attempts;
            return if is_right { Ok(()) } else { Err(format!("{filename} failed after {killed} kills")) };
        }
        if progress.extractions > seen
            && let Some(replica) = holder(cluster, &progress)
        {
            (killed, seen) = (killed + 1, progress.extractions);
            cluster.kill(Service::Extractor, replica);
            sleep(RESTART_PAUSE).await;
            cluster.start_process(Service::Extractor, replica);
        }
    }
    Err(format!("{filename} has ended {killed} processes, and is not condemned"))
}

struct Progress {
    document: String,
    state: String,
    /// How often a run has begun.
    extractions: u32,
    /// Where its event stands.
    stream: String,
}

fn progress(cluster: &Cluster, filename: &str) -> Option<Progress> {
    let sql = format!(
        "SELECT document_id, state, extractions, partition, lane FROM document_versions WHERE filename = '{filename}'"
    );
    let mut row = cluster.sql(&sql).ok()?.into_iter().next()?.into_iter();
    let mut next = || row.next().flatten();
    let (document, state, extractions) = (next()?, next()?, next()?.parse().ok()?);
    let stream = format!("riacho:{{{}}}:{GROUP}:{}", next()?, next()?);
    Some(Progress { document, state, extractions, stream })
}

/// The extractor that holds the document's entry: a consumer's name has the id of its process. Asked of the one
/// stream where it can stand, since the document's time runs meanwhile.
fn holder(cluster: &Cluster, of: &Progress) -> Option<usize> {
    let pid = consumer(cluster, &of.stream, &of.document)?;
    (0..REPLICAS).find(|replica| cluster.pid(Service::Extractor, *replica) == Some(pid))
}

fn consumer(cluster: &Cluster, key: &str, document: &str) -> Option<u32> {
    let entries = cluster.redis(&["XRANGE", key, "-", "+"]).ok()?;
    let id = entries.list().iter().find_map(|entry| {
        let [id, fields] = entry.list() else { return None };
        fields.list().get(1)?.text().contains(document).then(|| id.text().to_owned())
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
