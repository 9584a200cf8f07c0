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
    contents::Content,
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
        let right = vector_of(&embedding_input(&manifest.title, &chunk.heading_path, slice), DIMENSIONS);
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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) chunks: usize,
    pub(crate) distinct: usize,
    /// Those that a loss, a retry, the same bytes or a fault may have made it asked for again.
    pub(crate) excused: usize,
}

impl Spent {
    pub(crate) fn is_too_much(&self) -> bool {
        self.chunks * 10 > self.distinct * 11 + self.excused * 10
    }
}

/// Counts what the model was asked for against what it had to be asked for: each text once, and a tenth more;
/// besides for each loss and each retry of a version its chunks, the same bytes in a document anew, and for each fault that
/// ends or repeats work what was on its way when it began, but no more than the processes that it meets hold.
pub(crate) fn spent(
    cluster: &Cluster,
    oracle: &Oracle,
    rows: &HashMap<Uuid, DocumentRow>,
    history: &History,
    injected: &[Injected],
) -> Spent {
    let texts = cluster.model.texts();
    let of_chunks = || texts.iter().filter(|text| !QUERIES.contains(&text.as_str()));
    let chunks_of = |id: &Uuid, version: u32, content: &Content| {
        let total = rows.get(id).and_then(|row| row.versions.get(&version)?.total);
        total.map_or(4 * content.paragraphs + 4, |total| total as usize)
    };
    let (mut excused, mut seen, mut longest) = (0, BTreeMap::<u64, usize>::new(), 0);
    let mut near = vec![0; injected.len()];
    for (id, record) in &oracle.documents {
        for (version, content) in record.versions.iter().filter(|(_, content)| content.is_good()) {
            let chunks = chunks_of(id, *version, content);
            let steps = history.versions.get(&(*id, *version)).map(Vec::as_slice).unwrap_or_default();
            longest = longest.max(chunks);
            for (near, fault) in near.iter_mut().zip(injected) {
                *near += if is_on_its_way(steps, fault) { chunks } else { 0 };
            }
            let losses = growth(steps, |step| step.losses) as usize;
            let retries = record.retries.get(version).map_or(0, |retries| *retries as usize);
            let before = seen.entry(content.seed).or_default();
            excused += chunks * (losses + retries + usize::from(*before > 0));
            *before += 1;
        }
    }
    let held = |fault: &Injected| {
        let (embedders, extractors) = fault.fault.repeats();
        embedders * EMBEDDER_EVENTS * BATCH_CHUNKS_MAX + extractors * EXTRACTOR_DOCUMENTS * longest
    };
    excused += near.iter().zip(injected).map(|(near, fault)| held(fault).min(*near)).sum::<usize>();
    let distinct = of_chunks().collect::<BTreeSet<_>>().len();
    Spent { chunks: of_chunks().count(), distinct, excused }
}
