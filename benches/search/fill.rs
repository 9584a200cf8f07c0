//! Puts the chunks into the database by the statements of the stages, and says how many a second that is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use riacho_domain::{RunId, TenantId};
use riacho_models::{Kind, Model, to_f16_le};
use riacho_proto::v1::{Chunk, EmbeddedChunk};
use riacho_store::{Accept, Body, IndexAnswer, IndexItem, Seal, Space, Store};
use serde_json::{Map, Value, json};

use super::{tenants::Wanted, texts::Texts};

/// Transactions at a time, as many as the indexers of a small deployment have.
const WRITERS: usize = 4;
/// Documents whose rows are written by one transaction.
const BATCH: usize = 64;

/// Where to put them.
pub(super) struct Fill<'a> {
    pub(super) store: &'a Store,
    pub(super) space: &'a Space,
    pub(super) model: &'a dyn Model,
    pub(super) texts: &'a Texts,
    pub(super) tenants: &'a [TenantId],
}

impl Fill<'_> {
    /// Makes these documents ready. Answers the rows and the time that writing them took; accepting and embedding are left out.
    pub(super) async fn write(&self, wanted: &[Wanted]) -> anyhow::Result<(u64, Duration)> {
        let items: Vec<IndexItem> = stream::iter(wanted.iter().copied())
            .map(|wanted| self.item(wanted))
            .buffered(WRITERS * 2)
            .try_collect()
            .await?;
        let rows = items.iter().map(|item| item.chunks.len() as u64).sum();
        let start = Instant::now();
        stream::iter(items.chunks(BATCH).map(anyhow::Ok))
            .try_for_each_concurrent(WRITERS, |batch| async move {
                let answers = self.store.index(batch).await?;
                let is_written =
                    |answer: &IndexAnswer| matches!(answer, IndexAnswer::Written { ready: true });
                anyhow::ensure!(answers.iter().all(is_written), "a document was not written: {answers:?}");
                Ok(())
            })
            .await?;
        Ok((rows, start.elapsed()))
    }

    async fn item(&self, wanted: Wanted) -> anyhow::Result<IndexItem> {
        let mut accept = Accept::new(
            self.tenants[wanted.tenant].clone(),
            format!("document-{}.txt", wanted.number),
            format!("bench/{}/{}", wanted.tenant, wanted.number),
            Body::Stored { size: 1, sha256: hash(wanted) },
        );
        accept.metadata = Some(metadata(wanted.number));
        let accepted = self.store.accept(&accept).await?;
        let plan = accepted.release.ok_or_else(|| anyhow::anyhow!("the document was there already"))?;
        let (release, run) = (plan.release(), RunId::new());
        self.store.seal(&release, &seal(run, wanted.chunks)).await?;
        let chunks = self.chunks(wanted).await?;
        Ok(IndexItem { release, run, space: self.space.id, language: "en".to_owned(), chunks })
    }

    async fn chunks(&self, wanted: Wanted) -> anyhow::Result<Vec<EmbeddedChunk>> {
        let seed = (wanted.tenant as u64) << 32 | u64::from(wanted.number) << 8;
        let texts: Vec<String> =
            (0..wanted.chunks).map(|ordinal| self.texts.chunk(seed | u64::from(ordinal))).collect();
        let embedded = self.model.embed(texts.clone(), Kind::Passage).await?;
        let made = (0..).zip(texts).zip(embedded.vectors).map(|((ordinal, text), vector)| EmbeddedChunk {
            chunk: Some(chunk(ordinal, text)),
            vector_f16: Bytes::from(to_f16_le(&vector)),
        });
        Ok(made.collect())
    }
}

fn chunk(ordinal: u32, text: String) -> Chunk {
    let (start, bytes) = (u64::from(ordinal) * 2_000, text.len() as u64);
    Chunk {
        ordinal,
        byte_start: start,
        byte_end: start + bytes,
        char_start: start,
        char_end: start + text.chars().count() as u64,
        page_first: 0,
        page_last: 0,
        heading_path: Vec::new(),
        table_header: String::new(),
        token_count: u32::try_from(text.len() / 4).unwrap_or(u32::MAX),
        content_hash: Bytes::copy_from_slice(&[0; 32]),
        text,
    }
}

/// Attributes to filter on: one of ten kinds, one of a hundred days.
fn metadata(number: u32) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("kind".to_owned(), json!(format!("k{}", number % 10)));
    metadata.insert("day".to_owned(), json!(number / 10 % 100));
    metadata
}

fn hash(wanted: Wanted) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&(wanted.tenant as u64).to_le_bytes());
    hash[8..12].copy_from_slice(&wanted.number.to_le_bytes());
    hash
}

fn seal(run: RunId, chunk_total: u32) -> Seal {
    Seal {
        run,
        manifest: Vec::new(),
        chunk_total,
        detected_type: "text/plain".to_owned(),
        encoding: None,
        encoding_confidence: None,
        missing: Vec::new(),
        language: "en".to_owned(),
        pages: None,
    }
}
