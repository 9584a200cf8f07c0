//! What has to hold at the end, seen from outside: rows, streams, objects, logs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use uuid::Uuid;

use crate::{
    cluster::Cluster,
    faults::{Injected, streams},
    history::is_end,
    oracle::{Oracle, Record},
    producer::{self, Answer},
    schedule::Flaw,
};

/// A violation, with the document that it is about.
pub(crate) type Wrong = Vec<(Option<Uuid>, String)>;

/// A version's row at the end.
#[derive(Debug, Clone)]
pub(crate) struct VersionRow {
    pub(crate) version: u32,
    pub(crate) state: String,
    pub(crate) error: String,
    pub(crate) run: Option<String>,
    pub(crate) total: Option<u32>,
}

/// A document's row at the end.
#[derive(Debug, Clone)]
pub(crate) struct DocumentRow {
    pub(crate) live: Option<u32>,
    pub(crate) live_run: Option<String>,
    pub(crate) is_deleted: bool,
    pub(crate) versions: BTreeMap<u32, VersionRow>,
}

const DOCUMENTS: &str =
    "SELECT d.id, d.live_version, d.live_run, d.deleted_at IS NOT NULL, v.version, v.state,
    coalesce(v.error_code, ''), v.run_id, v.chunk_total
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id ORDER BY d.id, v.version";

pub(crate) fn documents(cluster: &Cluster) -> Result<HashMap<Uuid, DocumentRow>, String> {
    let mut found: HashMap<Uuid, DocumentRow> = HashMap::new();
    for row in cluster.sql(DOCUMENTS)? {
        let text = |column: usize| row[column].clone();
        let number = |column: usize| text(column).and_then(|text| text.parse::<u32>().ok());
        let id: Uuid = text(0).unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
        let document = found.entry(id).or_insert_with(|| DocumentRow {
            live: number(1),
            live_run: text(2),
            is_deleted: text(3).as_deref() == Some("t"),
            versions: BTreeMap::new(),
        });
        let version = VersionRow {
            version: number(4).unwrap_or(0),
            state: text(5).unwrap_or_default(),
            error: text(6).unwrap_or_default(),
            run: text(7),
            total: number(8),
        };
        document.versions.insert(version.version, version);
    }
    Ok(found)
}

/// Uploads without an answer that were accepted all the same are owed like the others.
pub(crate) fn adopt(cluster: &Cluster, oracle: &mut Oracle) -> Result<(), String> {
    for upload in std::mem::take(&mut oracle.unanswered) {
        let sql = format!("SELECT document_id, version FROM idempotency_keys WHERE key = '{}'", upload.key);
        for row in cluster.sql(&sql)? {
            let id = row[0].clone().unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
            let version = row[1].clone().unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
            let known =
                oracle.documents.get(&id).is_some_and(|record| record.versions.contains_key(&version));
            if !known {
                oracle.new_version(0.0, id, version, &upload.content);
            }
        }
        oracle.unanswered.push(upload);
    }
    let unanswered = oracle.events.values().filter(|sent| sent.answer.is_none());
    let unanswered: Vec<_> =
        unanswered.map(|sent| (sent.event.id.clone(), sent.event.content.clone())).collect();
    let rows = producer::rows(cluster)?;
    for (id, content) in unanswered {
        if let Some([Answer::Accepted(id, version)]) = rows.get(&id).map(Vec::as_slice) {
            oracle.new_version(0.0, *id, *version, &content);
        }
    }
    Ok(())
}

/// Each document that was accepted is at an end that is right for what was asked.
pub(crate) fn ends(oracle: &Oracle, rows: &HashMap<Uuid, DocumentRow>) -> Wrong {
    let mut wrong = Wrong::new();
    for (id, record) in &oracle.documents {
        let problem = match rows.get(id) {
            None if record.right_ends().deleted => None,
            None => Some("has no row and was not deleted".to_owned()),
            Some(row) => end(record, row),
        };
        wrong.extend(problem.map(|text| (Some(*id), text)));
    }
    for (id, row) in rows.iter().filter(|(id, _)| !oracle.documents.contains_key(id)) {
        wrong.push((Some(*id), format!("nobody uploaded this document: {row:?}")));
    }
    wrong
}

/// No version failed for anything but what its own content says.
pub(crate) fn failures(oracle: &Oracle, rows: &HashMap<Uuid, DocumentRow>) -> Wrong {
    let mut wrong = Wrong::new();
    for (id, row) in rows {
        for version in row.versions.values().filter(|version| version.state == "failed") {
            let content = oracle.documents.get(id).and_then(|record| record.versions.get(&version.version));
            if content.is_some_and(|content| !content.reasons().contains(&version.error.as_str())) {
                wrong.push((Some(*id), format!("version {} failed: {}", version.version, version.error)));
            }
        }
    }
    wrong
}

fn end(record: &Record, row: &DocumentRow) -> Option<String> {
    let right = record.right_ends();
    if row.is_deleted {
        return (!right.deleted).then(|| "is deleted, and nobody asked for it".to_owned());
    }
    let only_deleted = right.deleted && !right.by_content && !right.cancelled;
    if only_deleted {
        return Some("was deleted, and is there".to_owned());
    }
    let (Some(latest), Some(version)) =
        (row.versions.values().next_back(), record.versions.get(&record.latest()))
    else {
        return Some("has no version".to_owned());
    };
    if latest.version != record.latest() {
        return Some(format!(
            "has version {} as its latest, {} was accepted",
            latest.version,
            record.latest()
        ));
    }
    if let Some(open) = row.versions.values().find(|version| !is_end(&version.state)) {
        return Some(format!("version {} is still {}", open.version, open.state));
    }
    let by_content = match latest.state.as_str() {
        "ready" => version.is_good() && row.live == Some(latest.version),
        "failed" => version.reasons().contains(&latest.error.as_str()),
        _ => false,
    };
    let cancelled = latest.state == "cancelled" && row.live != Some(latest.version);
    if right.by_content && by_content || right.cancelled && cancelled {
        return live(record, row);
    }
    let VersionRow { state, error, .. } = latest;
    Some(format!(
        "ended {state} {error} with live version {:?}; right were {right:?} of {version:?}",
        row.live
    ))
}

/// What is live is a good version that was accepted, at its end `ready`, with the sealed run.
fn live(record: &Record, row: &DocumentRow) -> Option<String> {
    let number = row.live?;
    let known = record.versions.get(&number).is_some_and(crate::contents::Content::is_good);
    let sealed = row.versions.get(&number);
    let is_whole = sealed.is_some_and(|version| version.state == "ready" && version.run == row.live_run);
    (!known || !is_whole).then(|| format!("has {number} live, which is {sealed:?}"))
}

/// Every live version has its chunks 0 to total - 1 once each, of the sealed run, and as many vectors.
pub(crate) fn chunks(cluster: &Cluster) -> Result<Wrong, String> {
    let spaces = cluster.sql("SELECT id FROM embedding_spaces WHERE state = 'live'")?;
    let space = spaces.first().and_then(|row| row[0].clone()).ok_or("no live space")?;
    let rows = cluster.sql(&format!(
        "SELECT d.id, v.chunk_total, c.chunks, c.ordinals, c.first, c.last, n.vectors
         FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.live_version,
         LATERAL (SELECT count(*) AS chunks, count(DISTINCT ordinal) AS ordinals, min(ordinal) AS first, max(ordinal) AS last
                  FROM chunks WHERE tenant_id = d.tenant_id AND document_id = d.id AND version = d.live_version
                    AND run_id = d.live_run) AS c,
         LATERAL (SELECT count(*) AS vectors FROM vectors_{space} AS x WHERE x.tenant_id = d.tenant_id
                    AND x.document_id = d.id AND x.version = d.live_version AND x.run_id = d.live_run) AS n
         WHERE d.deleted_at IS NULL AND d.live_version IS NOT NULL
           AND NOT (c.chunks = v.chunk_total AND c.ordinals = v.chunk_total AND c.first = 0
                    AND c.last = v.chunk_total - 1 AND n.vectors = v.chunk_total)"
    ))?;
    let tell = |row: Vec<Option<String>>| {
        let id = row[0].as_ref().and_then(|id| id.parse().ok());
        (id, format!("total, chunks, ordinals, first, last, vectors are {:?}", &row[1..]))
    };
    Ok(rows.into_iter().map(tell).collect())
}

/// At rest nothing stands on a stream, nothing is pending, and what is counted adds up.
pub(crate) fn streams_are_empty(cluster: &Cluster) -> Result<Wrong, String> {
    let mut wrong = Wrong::new();
    for partition in 0..cluster.partitions {
        let dead = format!("riacho:{{{partition}}}:dead");
        let intake = "riacho:{intake}:default".to_owned();
        let work = streams(partition).map(|(key, stage)| (key, Some(stage)));
        for (key, stage) in work.chain([(dead, None), (intake, None)]) {
            let length = cluster.redis(&["XLEN", &key])?.int();
            let Some(stage) = stage else {
                wrong.extend((length != 0).then(|| (None, format!("{key} has {length} entries"))));
                continue;
            };
            let group = Group::of(cluster, &key, stage)?;
            wrong.extend((length != 0).then(|| (None, format!("{key} has {length} entries, {group:?}"))));
            wrong.extend(group.and_then(Group::problem).map(|text| (None, format!("{key}: {text}"))));
        }
    }
    Ok(wrong)
}

/// What a stream holds and what its group knows of it, in one step, so that nothing happens in between: entries,
/// those that are pending, those after the last that was delivered, and the lag, which is -1 where the server does
/// not know it. The count does not rest on what the server says of the lag.
const GROUP: &str = "local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return false end
for _, group in ipairs(groups) do
  local found = {}
  for at = 1, #group, 2 do found[group[at]] = group[at + 1] end
  if found['name'] == ARGV[1] then
    local unread = #redis.call('XRANGE', KEYS[1], '(' .. found['last-delivered-id'], '+')
    return { redis.call('XLEN', KEYS[1]), found['pending'], unread, found['lag'] or -1 }
  end
end
return false";

/// What a stream holds, as its group sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    length: i64,
    pending: i64,
    unread: i64,
    lag: Option<i64>,
}

impl Group {
    /// Nothing where there is no stream or no group.
    fn of(cluster: &Cluster, key: &str, name: &str) -> Result<Option<Group>, String> {
        let reply = cluster.redis(&["EVAL", GROUP, "1", key, name])?;
        let [length, pending, unread, lag] = reply.list() else { return Ok(None) };
        let lag = Some(lag.int()).filter(|lag| *lag >= 0);
        Ok(Some(Group { length: length.int(), pending: pending.int(), unread: unread.int(), lag }))
    }

    /// Why what stands on the stream does not add up: an entry is unread or pending, and no other is counted.
    fn problem(self) -> Option<String> {
        let is_whole = self.length == self.pending + self.unread;
        let is_known = self.lag.is_none_or(|lag| lag == self.unread);
        (!is_whole || !is_known).then(|| format!("{self:?} does not add up"))
    }
}

/// Why what stands on a stream does not add up. While it has no group there is nothing to add up.
pub(crate) fn conservation(cluster: &Cluster, key: &str, stage: &str) -> Result<Option<String>, String> {
    let problem = Group::of(cluster, key, stage)?.and_then(Group::problem);
    Ok(problem.map(|text| format!("{key}: {text}")))
}

/// Dead letters are those that were put there, and no document is among them.
pub(crate) fn dead_letters(
    cluster: &Cluster,
    oracle: &Oracle,
    injected: &[Injected],
) -> Result<Wrong, String> {
    let poison: BTreeSet<&str> = injected.iter().flat_map(|i| &i.poison).map(String::as_str).collect();
    let no_events = || oracle.events.values().filter(|sent| sent.event.flaw == Some(Flaw::Bytes));
    let refused: BTreeSet<Vec<u8>> = no_events().map(|sent| sent.event.bytes()).collect();
    let owed: BTreeSet<Vec<u8>> =
        no_events().filter(|sent| sent.answer.is_some()).map(|sent| sent.event.bytes()).collect();
    let rows = cluster.sql(
        "SELECT CASE WHEN left(encode(original, 'hex'), 2) = '07' THEN convert_from(original, 'UTF8') ELSE '' END,
                document_id, reason_code, message, stage
         FROM dead_letters",
    )?;
    let (mut wrong, mut is_kept) = (Wrong::new(), BTreeSet::new());
    for row in rows {
        let original = row[0].clone().unwrap_or_default();
        let document = row[1].as_ref().and_then(|id| id.parse().ok());
        let is_deadly = row[2].as_deref() == Some("poison")
            && document.and_then(|id| oracle.documents.get(&id)).is_some_and(Record::is_deadly);
        let is_known = poison.contains(original.as_str()) || refused.contains(original.as_bytes());
        is_kept.insert(original.clone().into_bytes());
        if !is_known && !is_deadly {
            wrong.push((document, format!("is a dead letter that nobody poisoned: {:?}", &row[1..])));
        }
    }
    let moved = poison.iter().filter(|text| is_kept.contains(text.as_bytes())).count();
    // They are kept before they are answered, whatever Redis loses then.
    wrong.extend(
        owed.difference(&is_kept)
            .map(|bytes| (None, format!("{} was answered and is not kept", String::from_utf8_lossy(bytes)))),
    );
    // What is kept stays, and the fault lasted until all were: a loss before or after it excuses none of them.
    if moved < poison.len() {
        wrong.push((None, format!("{moved} of {} poisons became dead letters", poison.len())));
    }
    Ok(wrong)
}

/// After a receipt no row and no object of a document is left.
pub(crate) fn receipts(cluster: &Cluster) -> Result<(usize, Wrong), String> {
    let rows = cluster.sql(
        "SELECT r.document_id,
                (SELECT count(*) FROM documents WHERE id = r.document_id)
                + (SELECT count(*) FROM document_versions WHERE document_id = r.document_id)
                + (SELECT count(*) FROM chunks WHERE document_id = r.document_id)
         FROM receipts AS r",
    )?;
    let texts = cluster.objects().join("t/default/texts");
    let mut names = Vec::new();
    files(&texts, &mut names);
    let mut wrong = Wrong::new();
    let count = rows.len();
    for row in rows {
        let id = row[0].clone().unwrap_or_default();
        let objects = names.iter().filter(|name| name.contains(&id)).count();
        if row[1].as_deref() != Some("0") || objects > 0 {
            let text = format!("has a receipt, and {:?} rows and {objects} texts are left", row[1]);
            wrong.push((id.parse().ok(), text));
        }
    }
    Ok((count, wrong))
}

/// How many originals no row names: of uploads that were cut off, and of documents that were purged. The first
/// are the business of the janitor's task for orphans, a day later.
pub(crate) fn orphans(cluster: &Cluster) -> Result<usize, String> {
    let rows = cluster.sql("SELECT object_key FROM document_versions")?;
    let known: BTreeSet<String> = rows.into_iter().filter_map(|row| row[0].clone()).collect();
    let mut names = Vec::new();
    files(&cluster.objects().join("t/default/originals"), &mut names);
    Ok(names.iter().filter(|name| !known.contains(&format!("t/default/originals/{name}"))).count())
}

fn files(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            _ => found.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
}

/// What the logs say: panics, and errors by their message.
pub(crate) fn logs(dir: &Path) -> (Wrong, BTreeMap<String, usize>) {
    let (mut wrong, mut errors) = (Wrong::new(), BTreeMap::new());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            if line.contains("panicked at") || line.contains("stage panicked") {
                wrong.push((None, format!("{}: {line}", entry.file_name().to_string_lossy())));
            }
            let Ok(json) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            if json["level"] == "ERROR" {
                let target = json["target"].as_str().unwrap_or_default();
                let key = format!("{target}: {} {}", json["message"], json["error"]);
                *errors.entry(key).or_insert(0) += 1;
            }
        }
    }
    (wrong, errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_neither_unread_nor_pending_is_seen() {
        let good = Group { length: 5, pending: 2, unread: 3, lag: None };
        assert!(good.problem().is_none() && Group { lag: Some(3), ..good }.problem().is_none());
        assert!(Group { length: 6, ..good }.problem().is_some(), "one was acknowledged and not deleted");
        assert!(Group { length: 4, ..good }.problem().is_some(), "one was deleted and is still pending");
        assert!(Group { lag: Some(2), ..good }.problem().is_some());
    }
}
