//! What a client sees: texts that chunks are slices of, originals, and searches that find what is live and
//! nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    bounds,
    checks::{self, DocumentRow, Wrong},
    client::{Ask, Client, Reply},
    cluster::Cluster,
    contents::Content,
    faults::streams,
    oracle::{Ends, Oracle},
    schedule::Dice,
    workload::Workload,
};

pub(crate) const QUERIES: [&str; 4] =
    ["heron weir", "the barge passed the lock", "sediment measured upstream", "gate inspection"];

/// As many hits as an answer may have.
const MOST_HITS: usize = 100;

fn search(query: &str, mode: &str, documents: &[Uuid]) -> Ask {
    let body = json!({"query": query, "top_k": MOST_HITS, "mode": mode, "documents": documents});
    Ask { body: body.to_string().into_bytes(), ..Ask::new(Method::POST, "/api/v1/search") }
}

/// Document and version of each hit.
fn hits(answer: &Value) -> Vec<(Uuid, u32)> {
    let hits = answer["hits"].as_array().into_iter().flatten();
    hits.filter_map(|hit| {
        Some((hit["document_id"].as_str()?.parse().ok()?, u32::try_from(hit["version"].as_u64()?).ok()?))
    })
    .collect()
}

/// Every live version as a client reads it.
pub(crate) async fn live(client: &Client, oracle: &Oracle, rows: &HashMap<Uuid, DocumentRow>) -> Wrong {
    let mut wrong = Wrong::new();
    for (id, row) in rows.iter().filter(|(_, row)| !row.is_deleted) {
        let Some(version) = row.live else { continue };
        let content = oracle.documents.get(id).and_then(|record| record.versions.get(&version));
        let Some(content) = content else { continue };
        if let Err(text) = whole(client, *id, content, row).await {
            wrong.push((Some(*id), text));
        }
    }
    wrong
}

async fn whole(client: &Client, id: Uuid, content: &Content, row: &DocumentRow) -> Result<(), String> {
    let path = format!("/api/v1/documents/{id}");
    let original = client.bytes(&format!("{path}/content")).await?;
    if original != content.bytes() {
        return Err(format!("its original has {} bytes and is not what was uploaded", original.len()));
    }
    let text = client.bytes(&format!("{path}/text")).await?;
    let text = String::from_utf8(text).map_err(|error| error.to_string())?;
    let mut from = 0;
    for paragraph in 0..content.paragraphs {
        let beginning = content.beginning(paragraph);
        let at = text[from..].find(&beginning).ok_or(format!("paragraph {paragraph} is not in its text"))?;
        from += at + beginning.len();
    }
    let chunks = client.bytes(&format!("{path}/chunks?limit=1000")).await?;
    let chunks: Value = serde_json::from_slice(&chunks).map_err(|error| error.to_string())?;
    slices(&text, chunks["chunks"].as_array().ok_or("no chunks")?)?;
    let total = row.live.and_then(|live| row.versions.get(&live)).and_then(|version| version.total);
    let count = chunks["chunks"].as_array().map_or(0, Vec::len);
    (total == u32::try_from(count).ok()).then_some(()).ok_or(format!("{count} chunks are seen of {total:?}"))
}

/// Chunks are slices of the text, in order, and leave out white space only.
fn slices(text: &str, chunks: &[Value]) -> Result<(), String> {
    let mut covered = 0;
    for (ordinal, chunk) in chunks.iter().enumerate() {
        let offset =
            |name: &str| usize::try_from(chunk[name].as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let (start, end) = (offset("byte_start"), offset("byte_end"));
        if chunk["ordinal"] != json!(ordinal) || text.get(start..end) != chunk["text"].as_str() {
            return Err(format!("chunk {ordinal} is not a slice of the text: {chunk}"));
        }
        let gap = text.get(covered..start.max(covered)).unwrap_or("?");
        if !gap.trim().is_empty() {
            return Err(format!("{gap:?} before chunk {ordinal} is in no chunk"));
        }
        covered = covered.max(end);
    }
    let rest = text.get(covered..).unwrap_or("?");
    if rest.trim().is_empty() { Ok(()) } else { Err(format!("{rest:?} at the end is in no chunk")) }
}

/// A search for the mark of each content that was ever uploaded finds the documents where it is live, and none
/// where it is not any more, or never was.
pub(crate) async fn marks(client: &Client, oracle: &Oracle, rows: &HashMap<Uuid, DocumentRow>) -> Wrong {
    let mut expected: BTreeMap<String, Carriers> = BTreeMap::new();
    for (id, record) in &oracle.documents {
        for (version, content) in &record.versions {
            let carriers = expected.entry(content.mark()).or_default();
            carriers.ever.insert(*id);
            let row = rows.get(id).filter(|row| !row.is_deleted);
            if row.is_some_and(|row| row.live == Some(*version)) {
                carriers.live.insert((*id, *version));
            }
        }
    }
    let mut wrong = Wrong::new();
    for (mark, carriers) in expected {
        let right = &carriers.live;
        let Some(found) = found(client, &mark, &carriers.ever).await else {
            wrong.push((None, "a search was not answered".to_owned()));
            continue;
        };
        if found != *right {
            let document = found.symmetric_difference(right).next().map(|(id, _)| *id);
            wrong.push((document, format!("a search for {mark} finds {found:?}, right were {right:?}")));
        }
    }
    wrong
}

/// The documents with a mark.
#[derive(Default)]
struct Carriers {
    /// Those that had it in any version.
    ever: BTreeSet<Uuid>,
    /// The versions that are live with it.
    live: BTreeSet<(Uuid, u32)>,
}

/// What a search for a mark finds. Where the chunks of one document fill the answer, all others that `ever` had the mark are
/// asked for by name.
async fn found(client: &Client, mark: &str, ever: &BTreeSet<Uuid>) -> Option<BTreeSet<(Uuid, u32)>> {
    let Reply::Answered(answer) = client.send(&search(mark, "keyword", &[]), 0).await else { return None };
    let hits_of_all = hits(&answer.body);
    let is_full = hits_of_all.len() == MOST_HITS;
    let mut found: BTreeSet<(Uuid, u32)> = hits_of_all.into_iter().collect();
    for id in ever.iter().filter(|_| is_full) {
        let Reply::Answered(answer) = client.send(&search(mark, "keyword", &[*id]), 0).await else {
            return None;
        };
        found.extend(hits(&answer.body));
    }
    Some(found)
}

/// What was seen while faults came and went.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) searches: usize,
    pub(crate) refused: usize,
    pub(crate) wrong: Wrong,
}

/// Searches and looks at the streams again and again, until the future is dropped.
pub(crate) async fn watch(cluster: &Cluster, client: &Client, workload: &Workload, watched: &Mutex<Watched>) {
    let mut dice = Dice::new(1);
    loop {
        sleep(Duration::from_millis(300)).await;
        let mode = *dice.pick(&["keyword", "hybrid", "vector"]);
        let ask = search(dice.pick::<&str>(&QUERIES), mode, &[]);
        let deleted = surely_deleted(&workload.oracle());
        let answer = client.once(&ask, dice.below(2)).await;
        let mut wrong = Wrong::new();
        let is_answered = match answer {
            Ok((status, body)) if status == 200 => {
                wrong.extend(mixed(&hits(&body), &deleted));
                true
            }
            _ => false,
        };
        let partition = u16::try_from(dice.below(usize::from(cluster.partitions))).unwrap_or(0);
        for (key, stage) in streams(partition) {
            // While Redis is away there is nothing to add up.
            wrong.extend(checks::conservation(cluster, &key, stage).ok().flatten().map(|text| (None, text)));
            wrong.extend(bounds::stream(cluster, &key).ok().flatten().map(|text| (None, text)));
        }
        wrong.extend(bounds::objects(cluster).unwrap_or_default());
        let mut watched = watched.lock().unwrap();
        watched.searches += usize::from(is_answered);
        watched.refused += usize::from(!is_answered);
        watched.wrong.extend(wrong);
    }
}

/// Documents whose deletion was answered.
fn surely_deleted(oracle: &Oracle) -> BTreeSet<Uuid> {
    let deleted = oracle.documents.iter().filter(|(_, record)| record.right_ends() == Ends::DELETED);
    deleted.map(|(id, _)| *id).collect()
}

/// One answer has one version of a document, and nothing that was deleted before it was asked.
fn mixed(hits: &[(Uuid, u32)], deleted: &BTreeSet<Uuid>) -> Wrong {
    let mut versions: BTreeMap<Uuid, BTreeSet<u32>> = BTreeMap::new();
    for (id, version) in hits {
        versions.entry(*id).or_default().insert(*version);
    }
    let mixed = versions.iter().filter(|(_, of)| of.len() > 1);
    let mut wrong: Wrong =
        mixed.map(|(id, of)| (Some(*id), format!("one search answers with versions {of:?}"))).collect();
    let ghosts = versions.keys().filter(|id| deleted.contains(id));
    wrong.extend(ghosts.map(|id| (Some(*id), "is found after it was deleted".to_owned())));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_missing_doubled_or_changed_is_seen() {
        let chunk = |ordinal: usize, start: usize, end: usize, text: &str| json!({"ordinal": ordinal, "byte_start": start, "byte_end": end, "text": text});
        let good = [chunk(0, 0, 3, "one"), chunk(1, 5, 8, "two")];
        assert_eq!(slices("one  two\n", &good), Ok(()));
        assert!(slices("one  two\n", &good[..1]).is_err());
        assert!(slices("one  two\n", &[chunk(0, 0, 3, "one"), chunk(0, 0, 3, "one")]).is_err());
        assert!(slices("one  tvo\n", &good).is_err());
        assert!(slices("one x two\n", &[chunk(0, 0, 3, "one"), chunk(1, 6, 9, "two")]).is_err());
    }

    #[test]
    fn an_answer_that_mixes_versions_is_seen() {
        let id = Uuid::from_u128(1);
        assert_eq!(mixed(&[(id, 1), (id, 1)], &BTreeSet::new()), []);
        assert_eq!(mixed(&[(id, 1), (id, 2)], &BTreeSet::new()).len(), 1);
        assert_eq!(mixed(&[(id, 1)], &BTreeSet::from([id])).len(), 1);
    }
}
