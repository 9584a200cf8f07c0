//! What is bounded at all times: bytes on a stream, documents on their way, and Redis' memory at rest. Beside it,
//! what a document on its way must always find: its objects.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use riacho_testkit::data_bytes;
use tokio::{task::block_in_place, time::sleep};

use crate::{
    checks::Wrong,
    cluster::{Cluster, IN_FLIGHT, STREAM_MAX_BYTES},
    faults::streams,
};

/// What a stream may hold above its bound: entries that the test puts there without saying so.
const SLACK_BYTES: i64 = 4 << 10;
/// What was accepted so recently may be on its way above the cap: a janitor may be dead, and another one waits for
/// its lease, before anybody notices.
const UNNOTICED_SECONDS: u32 = 20;
/// How long Redis' memory may take to come to rest: the janitor removes consumers that are gone.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// What Redis may need more at the end than at the beginning, in percent.
const MORE_PERCENT: u64 = 5;

/// How many entries stand on a stream, and how many bytes of envelopes.
const SIZE: &str = "local entries, bytes = redis.call('XRANGE', KEYS[1], '-', '+'), 0
for _, entry in ipairs(entries) do bytes = bytes + #entry[2][2] end
return { #entries, bytes }";

/// Why a stream holds more than it may. One entry that is larger than the bound passes alone.
pub(crate) fn stream(cluster: &Cluster, key: &str) -> Result<Option<String>, String> {
    let reply = cluster.redis(&["EVAL", SIZE, "1", key])?;
    let [entries, bytes] = reply.list() else { return Ok(None) };
    let most = i64::try_from(STREAM_MAX_BYTES).unwrap_or(i64::MAX) + SLACK_BYTES;
    let is_over = bytes.int() > most && entries.int() > 1;
    Ok(is_over.then(|| format!("{key} holds {} bytes in {} entries", bytes.int(), entries.int())))
}

/// Why more documents are on their way than may be.
pub(crate) fn in_flight(cluster: &Cluster) -> Result<Option<String>, String> {
    let rows = cluster.sql(&format!(
        "SELECT count(*) FROM document_versions WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing')
         AND created_at < now() - interval '{UNNOTICED_SECONDS} s'"
    ))?;
    let count: usize = rows[0][0].as_ref().and_then(|count| count.parse().ok()).unwrap_or(0);
    Ok((count > IN_FLIGHT).then(|| format!("{count} documents were on their way, {IN_FLIGHT} may be")))
}

/// The objects that documents on their way and live versions need.
const NEEDED: &str = "SELECT v.document_id, v.object_key FROM document_versions AS v
WHERE v.state IN ('releasing', 'extracting') AND v.run_id IS NULL
UNION ALL
SELECT v.document_id, 't/default/texts/' || right(v.document_id::text, 2) || '/' || v.document_id || '.'
    || v.version || '.' || v.run_id
FROM document_versions AS v JOIN documents AS d ON d.id = v.document_id
WHERE v.run_id IS NOT NULL AND d.deleted_at IS NULL
    AND (v.state IN ('releasing', 'extracting', 'embedding', 'indexing') OR d.live_version = v.version)";

/// What is needed and is not there; looked for twice, since what ended in between may be purged.
pub(crate) fn objects(cluster: &Cluster) -> Result<Wrong, String> {
    let missing = || -> Result<BTreeSet<(String, String)>, String> {
        let rows =
            cluster.sql(NEEDED)?.into_iter().filter_map(|row| Some((row[0].clone()?, row[1].clone()?)));
        Ok(rows.filter(|(_, key)| !cluster.objects().join(key).is_file()).collect())
    };
    let first = missing()?;
    if first.is_empty() {
        return Ok(Wrong::new());
    }
    let still = missing()?;
    let tell = |(id, key): &(String, String)| (id.parse().ok(), format!("needs {key}, which is not there"));
    Ok(first.intersection(&still).map(tell).collect())
}

/// Waits until every stage has its groups, and gives the memory that Redis needs then.
pub(crate) async fn memory_at_start(cluster: &Cluster) -> u64 {
    let has_group = |(key, _): (String, &str)| {
        cluster.redis(&["XINFO", "GROUPS", &key]).is_ok_and(|groups| !groups.list().is_empty())
    };
    riacho_testkit::within(REST_LIMIT, || async {
        (0..cluster.partitions).all(|partition| streams(partition).all(has_group))
    })
    .await;
    memory(cluster).unwrap()
}

/// Forgets what stays for a while only (markers of releases, answers to producers), waits for rest, and gives the
/// memory then, and why it is too much.
pub(crate) async fn memory_at_rest(cluster: &Cluster, start: u64) -> Result<(u64, Option<String>), String> {
    for pattern in ["riacho:*:release:*", "riacho:{intake}:default:results"] {
        let keys = cluster.redis(&["KEYS", pattern])?;
        for key in keys.list() {
            cluster.redis(&["DEL", key.text()])?;
        }
    }
    let begun = Instant::now();
    loop {
        let now = memory(cluster)?;
        let is_rest = now <= start + start * MORE_PERCENT / 100;
        if is_rest || begun.elapsed() > REST_LIMIT {
            let text = || format!("redis needs {now} bytes at rest, {start} before: {}", holdings(cluster));
            return Ok((now, (!is_rest).then(text)));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// What Redis holds, for people.
fn holdings(cluster: &Cluster) -> String {
    let Ok(keys) = cluster.redis(&["KEYS", "*"]) else { return String::new() };
    let size = |key: &str| cluster.redis(&["MEMORY", "USAGE", key]).map_or(0, |size| size.int());
    let keys: Vec<String> =
        keys.list().iter().map(|key| format!("{} {}", key.text(), size(key.text()))).collect();
    let info = cluster.redis(&["INFO", "memory"]).map(|info| info.text().to_owned()).unwrap_or_default();
    let lines: Vec<&str> = info.lines().filter(|line| !line.contains("human")).collect();
    format!("{}; {}", keys.join(", "), lines.join(" "))
}

fn memory(cluster: &Cluster) -> Result<u64, String> {
    block_in_place(|| data_bytes(&cluster.redis)).map_err(|error| error.to_string())
}
