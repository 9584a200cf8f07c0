//! The model, which counts what it was asked for: each chunk has its own vector, and few are asked for twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
};

use riacho_domain::embedding_input;
use riacho_extractor::manifest::Manifest;
use riacho_testkit::openai::vector_of;
use uuid::Uuid;

use crate::{
    checks::{DocumentRow, Wrong},
    cluster::{BATCH_CHUNKS_MAX, Cluster, DIMENSIONS, EMBEDDER_BATCH_EVENTS},
    contents::mark_in,
    faults::Injected,
    history::{History, growth, is_on_its_way},
    oracle::Oracle,
    visible::QUERIES,
};

/// How far a value may be from the model's: vectors are kept as 16-bit floats.
const NEAR: f32 = 2e-3;

/// The events that an embedder holds at most: of two batches that run, and of one that fills.
const EMBEDDER_EVENTS: usize = 3 * EMBEDDER_BATCH_EVENTS;
/// The documents that an extractor holds at most: two for its parser.
const EXTRACTOR_DOCUMENTS: usize = 2;

/// Every live version: its sealed manifest and the name of its text.
const LIVE: &str =
    "SELECT d.id, encode(v.manifest, 'hex'), 't/default/texts/' || right(d.id::text, 2) || '/' || d.id
    || '.' || d.live_version || '.' || d.live_run
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.live_version
WHERE d.deleted_at IS NULL";

/// The chunks of each live version are those of its sealed manifest, which fit the stored text by their hashes, and
/// each has the vector that the model gives for it. Says how many chunks were looked at.
pub(crate) fn vectors(cluster: &Cluster) -> Result<(usize, Wrong), String> {
    let spaces = cluster.sql("SELECT id FROM embedding_spaces WHERE state = 'live'")?;
    let space = spaces.first().and_then(|row| row[0].clone()).ok_or("no live space")?;
    let (mut wrong, mut count) = (Wrong::new(), 0);
    for row in cluster.sql(LIVE)? {
        let text = |column: usize| row[column].clone().unwrap_or_default();
        let id: Uuid = text(0).parse().map_err(|e| format!("{e}"))?;
        let stored = fs::read_to_string(cluster.objects().join(text(2))).map_err(|e| e.to_string());
        let manifest = stored.and_then(|stored| {
            let manifest = Manifest::decode(&bytes(&text(1)), &stored).map_err(|error| error.to_string())?;
            Ok((stored, manifest))
        });
        let chunks = cluster.sql(&format!(
            "SELECT c.ordinal, encode(c.content_hash, 'hex'), x.embedding::text
             FROM documents AS d JOIN chunks AS c ON (c.document_id, c.version, c.run_id) = (d.id, d.live_version, d.live_run)
             JOIN vectors_{space} AS x ON (x.document_id, x.version, x.run_id, x.ordinal) = (c.document_id, c.version, c.run_id, c.ordinal)
             WHERE d.id = '{id}' ORDER BY c.ordinal"
        ))?;
        count += chunks.len();
        let found = manifest.and_then(|(stored, manifest)| one(&stored, &manifest, &chunks));
        wrong.extend(found.err().map(|text| (Some(id), text)));
    }
    Ok((count, wrong))
}

fn one(stored: &str, manifest: &Manifest, rows: &[Vec<Option<String>>]) -> Result<(), String> {
    if manifest.chunks.len() != rows.len() {
        return Err(format!("has {} chunks, {} are sealed", rows.len(), manifest.chunks.len()));
    }
    for (chunk, row) in manifest.chunks.iter().zip(rows) {
        let ordinal = chunk.ordinal;
        if row[0] != Some(ordinal.to_string())
            || bytes(row[1].as_deref().unwrap_or_default()) != chunk.content_hash
        {
            return Err(format!("chunk {ordinal} is not the one that was sealed: {:?}", &row[..2]));
        }
        let slice = stored.get(chunk.bytes.clone()).unwrap_or_default();
        let header = chunk.table_header.clone().and_then(|header| stored.get(header)).unwrap_or_default();
        let input = embedding_input(&manifest.title, &chunk.heading_path, header, slice);
        let right = vector_of(&input, DIMENSIONS);
        let vector = row[2].as_deref().unwrap_or_default().trim_matches(['[', ']']);
        let vector: Vec<f32> = vector.split(',').filter_map(|value| value.parse().ok()).collect();
        let is_near =
            vector.len() == right.len() && vector.iter().zip(&right).all(|(a, b)| (a - b).abs() < NEAR);
        if !is_near {
            return Err(format!("chunk {ordinal} has not the vector of its text"));
        }
    }
    Ok(())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map_while(digits).collect()
}

/// What the model was asked for, and what it may have been asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) chunks: usize,
    pub(crate) distinct: usize,
    /// Those that a loss, a retry, the same bytes or a fault may have made it asked for again.
    pub(crate) excused: usize,
    /// Of the files that met nothing of the kind: their distinct chunks, and how many of these were asked for again.
    pub(crate) calm: usize,
    pub(crate) calm_again: usize,
}

impl Spent {
    /// A tenth more than each chunk once is left to a machine so busy that who works is taken for dead.
    pub(crate) fn is_too_much(&self) -> bool {
        self.chunks * 10 > self.distinct * 11 + self.excused * 10 || self.calm_again * 10 > self.calm
    }
}

/// Counts what the model was asked for against what it had to be asked for: each text once, and a tenth more;
/// besides for each loss and each retry of a version its chunks, the same bytes in a document anew, and for each fault that
/// ends or repeats work what was on its way when it began, but no more than the processes that it meets hold. The chunks of
/// files that met none of this are counted apart, with no excuse.
pub(crate) fn spent(
    cluster: &Cluster,
    oracle: &Oracle,
    rows: &HashMap<Uuid, DocumentRow>,
    history: &History,
    injected: &[Injected],
) -> Spent {
    let texts = cluster.model.texts();
    let of_chunks = || texts.iter().filter(|text| !QUERIES.contains(&text.as_str()));
    let asked = by_file(of_chunks());
    let (mut excused, mut longest, mut near) = (0, 0, vec![0; injected.len()]);
    // How often each content was uploaded, and whether it may have been asked for again.
    let mut files = BTreeMap::<String, (usize, bool)>::new();
    for (id, record) in &oracle.documents {
        for (version, content) in record.versions.iter().filter(|(_, content)| content.is_good()) {
            let total = rows.get(id).and_then(|row| row.versions.get(version)?.total);
            let distinct = || asked.get(&content.mark()).map_or(0, |(_, distinct)| *distinct);
            let chunks = total.map_or_else(distinct, |total| total as usize);
            let steps = history.versions.get(&(*id, *version)).map(Vec::as_slice).unwrap_or_default();
            let retries = record.retries.get(version).map_or(0, |retries| *retries as usize);
            let (uploads, is_excused) = files.entry(content.mark()).or_default();
            let again = growth(steps, |step| step.losses) as usize + retries + usize::from(*uploads > 0);
            longest = longest.max(chunks);
            excused += chunks * again;
            *uploads += 1;
            *is_excused |= again > 0;
            for (near, fault) in near.iter_mut().zip(injected) {
                if fault.fault.repeats() != (0, 0) && is_on_its_way(steps, fault) {
                    *near += chunks;
                    *is_excused = true;
                }
            }
        }
    }
    let held = |fault: &Injected| {
        let (embedders, extractors) = fault.fault.repeats();
        embedders * EMBEDDER_EVENTS * BATCH_CHUNKS_MAX + extractors * EXTRACTOR_DOCUMENTS * longest
    };
    excused += near.iter().zip(injected).map(|(near, fault)| held(fault).min(*near)).sum::<usize>();
    let is_calm = |(mark, _): &(&String, &(usize, usize))| files.get(*mark).is_some_and(|(_, is)| !is);
    let (calm, all) = asked
        .iter()
        .filter(is_calm)
        .fold((0, 0), |(calm, all), (_, (count, distinct))| (calm + distinct, all + count));
    let distinct = of_chunks().collect::<BTreeSet<_>>().len();
    Spent { chunks: of_chunks().count(), distinct, excused, calm, calm_again: all - calm }
}

/// How many texts there are of each file, by its mark, and how many distinct ones. A chunk that begins in the middle of a
/// paragraph may have no mark, and counts for no file.
fn by_file<'a>(texts: impl Iterator<Item = &'a String>) -> BTreeMap<String, (usize, usize)> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let mut files = BTreeMap::<String, (usize, usize)>::new();
    for (text, count) in counts {
        let Some(mark) = mark_in(text) else { continue };
        let file = files.entry(mark.to_owned()).or_default();
        *file = (file.0 + count, file.1 + 1);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_asked_for_each_chunk_twice_is_found_whatever_is_excused() {
        let mark = "zqabcdefghijklx";
        let texts =
            [format!("A report\n{mark} part 0 of the"), format!("{mark} part 1 of"), "weir".to_owned()];
        let twice = by_file(texts.iter().chain(&texts));
        assert_eq!(twice, BTreeMap::from([(mark.to_owned(), (4, 2))]));
        let once = Spent { chunks: 100, distinct: 100, excused: 500, calm: 50, calm_again: 0 };
        assert!(!once.is_too_much());
        assert!(Spent { chunks: 200, calm_again: 50, ..once }.is_too_much());
        assert!(Spent { chunks: 200, excused: 20, ..once }.is_too_much());
    }
}
