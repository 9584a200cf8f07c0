//! What is bounded at all times: bytes on a stream, documents on their way, and Redis' memory at rest. Beside it,
//! what a document on its way must always find: its objects.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use riacho_testkit::data_bytes;
use tokio::{task::block_in_place, time::sleep};
use uuid::Uuid;

use crate::{
    checks::Wrong,
    cluster::{Cluster, IN_FLIGHT, STREAM_MAX_BYTES},
    faults::streams,
    history::{History, Step, is_in_flight},
};

/// What a stream may hold above its bound: entries that the test puts there without saying so.
const SLACK_BYTES: i64 = 4 << 10;
/// So long gateways may release above the cap: a janitor may be dead, and another one waits for its lease, before
/// anybody notices.
const UNNOTICED_SECONDS: f64 = 20.0;
/// What a gateway released so shortly before may be unseen by the janitor that releases.
const SAME_MOMENT_SECONDS: f64 = 5.0;
/// How long Redis' memory may take to come to rest: the janitor removes consumers that are gone.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// Memory is steady when the median of so many looks is within so many percent of that of as many looks before. One look
/// alone says little: what clients are sending makes a twentieth of it.
const LOOKS: usize = 8;
const STEADY_PERCENT: u64 = 2;
const LOOK_PAUSE: Duration = Duration::from_millis(250);
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

/// Why more documents were on their way than may be, at each release that the database saw.
///
/// What a janitor releases has to fit under the cap, but for what gateways released at the same moment. Gateways
/// release by themselves until they hear that the cap is reached, which takes a moment, or a new leader.
pub(crate) fn in_flight(history: &History) -> Wrong {
    let mut steps: Vec<Released> = history.versions.iter().flat_map(released).collect();
    steps.sort_by(|a, b| a.at.total_cmp(&b.at));
    let (mut wrong, mut flying, mut full_since) = (Wrong::new(), BTreeMap::new(), None::<f64>);
    for step in steps {
        if !step.is_in_flight {
            flying.remove(&step.key);
        } else if let Entry::Vacant(place) = flying.entry(step.key) {
            place.insert((step.at, step.by_janitor));
            let is_counted =
                |(at, by_janitor): &&(f64, bool)| *by_janitor || step.at - at > SAME_MOMENT_SECONDS;
            let counted = flying.values().filter(is_counted).count();
            let is_late = full_since.is_some_and(|since| step.at - since > UNNOTICED_SECONDS);
            if step.by_janitor && counted > IN_FLIGHT || !step.by_janitor && is_late {
                let by = if step.by_janitor { "a janitor" } else { "a gateway" };
                let text =
                    format!("was released by {by} as the {counted}th, {IN_FLIGHT} may be on their way");
                wrong.push((Some(step.key.0), text));
            }
        }
        full_since = if flying.len() < IN_FLIGHT { None } else { full_since.or(Some(step.at)) };
    }
    wrong
}

/// A step of a version, as far as the cap goes.
struct Released {
    at: f64,
    key: (Uuid, u32),
    is_in_flight: bool,
    /// It waited before, and a gateway releases what is new.
    by_janitor: bool,
}

fn released((key, steps): (&(Uuid, u32), &Vec<Step>)) -> Vec<Released> {
    let before = std::iter::once(None).chain(steps.iter().map(Some));
    let one = |(before, step): (Option<&Step>, &Step)| Released {
        at: step.at,
        key: *key,
        is_in_flight: is_in_flight(&step.state),
        by_janitor: before.is_some_and(|before| before.state == "waiting"),
    };
    before.zip(steps).map(one).collect()
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

/// Waits until every stage has its groups and the memory that Redis needs is steady, and gives that.
pub(crate) async fn memory_at_start(cluster: &Cluster) -> u64 {
    let has_group = |(key, _): (String, &str)| {
        cluster.redis(&["XINFO", "GROUPS", &key]).is_ok_and(|groups| !groups.list().is_empty())
    };
    riacho_testkit::within(REST_LIMIT, || async {
        (0..cluster.partitions).all(|partition| streams(partition).all(has_group))
    })
    .await;
    let (begun, mut seen) = (Instant::now(), Vec::new());
    loop {
        if let Some(memory) = steady(&seen) {
            return memory;
        }
        assert!(begun.elapsed() < REST_LIMIT, "redis' memory is not steady at the start: {seen:?}");
        sleep(LOOK_PAUSE).await;
        seen.push(memory(cluster).unwrap());
    }
}

/// The median of the latest looks, where it is that of those before, nearly.
fn steady(seen: &[u64]) -> Option<u64> {
    let (before, latest) = seen.get(seen.len().checked_sub(2 * LOOKS)?..)?.split_at(LOOKS);
    let (before, latest) = (median(before), median(latest));
    (before.abs_diff(latest) <= latest * STEADY_PERCENT / 100).then_some(latest)
}

fn median(of: &[u64]) -> u64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// Forgets what stays for a while only (markers of releases, answers to producers and to searches, the last hour's figures), waits for rest, and gives the
/// memory then, and why it is too much.
pub(crate) async fn memory_at_rest(cluster: &Cluster, start: u64) -> Result<(u64, Option<String>), String> {
    for pattern in
        ["riacho:*:release:*", "riacho:{intake}:default:results", "riacho:answer*", "riacho:history"]
    {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions of one step or two each, a tenth of a second apart.
    fn history(begun: f64, count: usize, states: &[&str]) -> History {
        let step = |at: f64, state: &str| Step { at, state: state.to_owned(), ..Step::default() };
        let version = |number: usize| {
            let at = begun + number as f64 / 10.0;
            let steps =
                states.iter().zip(0..).map(|(state, step_number)| step(at + f64::from(step_number), state));
            ((Uuid::from_u128(begun as u128 * 1_000 + number as u128), 1), steps.collect())
        };
        History { versions: (0..count).map(version).collect(), ..History::default() }
    }

    #[test]
    fn what_is_released_above_the_cap_is_seen() {
        let janitor = ["waiting", "releasing"];
        assert_eq!(in_flight(&history(1.0, IN_FLIGHT, &janitor)), []);
        assert_eq!(in_flight(&history(1.0, IN_FLIGHT + 2, &janitor)).len(), 2);
        let ended = ["waiting", "releasing", "ready"];
        assert_eq!(in_flight(&history(1.0, 3 * IN_FLIGHT, &ended)), [], "they are not on their way at once");
        let mut gateway = history(1.0, IN_FLIGHT + 2, &["releasing"]);
        assert_eq!(in_flight(&gateway), [], "nobody noticed yet");
        gateway.versions.extend(history(60.0, 1, &["releasing"]).versions);
        assert_eq!(in_flight(&gateway).len(), 1);
    }

    #[test]
    fn memory_that_grows_is_not_steady_and_one_high_look_changes_nothing() {
        let mut looks = [1_000; 2 * LOOKS];
        looks[2 * LOOKS - 1] = 1_300;
        assert_eq!(steady(&looks), Some(1_000));
        assert_eq!(steady(&looks[1..]), None, "too few looks");
        let growing: Vec<u64> = (0..2 * LOOKS as u64).map(|look| 1_000 + 100 * look).collect();
        assert_eq!(steady(&growing), None);
    }
}
