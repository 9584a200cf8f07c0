//! A small extractor for tests: every line of a text file is a chunk.

use riacho_domain::{Lane, ReasonCode, RunId, StageName, content_hash};
use riacho_objects::{Key, Objects};
use riacho_proto::v1::{Chunk, ChunksCut, ExtractRequested, envelope::Payload};
use riacho_stage::{Context, Event, EventMeta, Failure, Outcome, Output, Stage};
use riacho_store::{Release, Seal, Sealed, Store};

/// The largest file it reads.
const LIMIT: u64 = 16 << 20;

/// The stage `extract` over lines, with the same protocol as the real one: release checked, text
/// stored, run sealed before the last handoff, a sealed run replayed.
#[derive(Debug)]
pub struct LineExtractor {
    /// The store of a service.
    pub store: Store,
    /// The object store.
    pub objects: Objects,
    /// How many chunks an event carries.
    pub lines_per_batch: usize,
}

impl Stage for LineExtractor {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    async fn run(&self, event: Event, context: &Context) -> Result<Outcome, Failure> {
        let release = release_of(&event.envelope);
        let Payload::ExtractRequested(request) = event.payload else {
            return Err(Failure::permanent(ReasonCode::Undecodable, "no work of the extractor"));
        };
        let Some(extraction) = self.store.begin_extraction(&release).await.map_err(failed)? else {
            return Ok(Outcome::Superseded);
        };
        let key = Key::parse_for_tenant(&release.tenant, &request.object_key).map_err(failed)?;
        let text = self.objects.get(&key, LIMIT).await.map_err(failed)?;
        let chunks = cut(&request.filename, &String::from_utf8_lossy(&text));
        if chunks.is_empty() {
            self.store.fail(&release, ReasonCode::Empty, "the file has no text").await.map_err(failed)?;
            return Ok(Outcome::Failed(ReasonCode::Empty));
        }
        let run = match extraction.sealed {
            Some(sealed) => sealed.run,
            None => match self.seal(&release, &request, &chunks, text).await? {
                Some(run) => run,
                None => return Ok(Outcome::Superseded),
            },
        };
        let mut outputs = self.outputs(run, &request, &chunks, event.envelope.lane);
        let last = outputs.split_off(outputs.len().saturating_sub(1));
        context.emit(outputs).await?;
        Ok(Outcome::Emit(last))
    }
}

impl LineExtractor {
    async fn seal(
        &self,
        release: &Release,
        request: &ExtractRequested,
        chunks: &[Chunk],
        text: bytes::Bytes,
    ) -> Result<Option<RunId>, Failure> {
        let run = RunId::new();
        let key = Key::text(&release.tenant, release.document, release.version, run);
        self.objects.put(&key, text).await.map_err(failed)?;
        let seal = Seal {
            run,
            manifest: manifest(&request.filename),
            chunk_total: u32::try_from(chunks.len()).map_err(failed)?,
            detected_type: "text/plain".to_owned(),
            encoding: Some("utf-8".to_owned()),
            encoding_confidence: None,
            missing: Vec::new(),
            language: "en".to_owned(),
            pages: None,
        };
        Ok(match self.store.seal(release, &seal).await.map_err(failed)? {
            Sealed::First => Some(run),
            Sealed::Existing(sealed) => Some(sealed.run),
            Sealed::Superseded => None,
        })
    }

    fn outputs(&self, run: RunId, request: &ExtractRequested, chunks: &[Chunk], lane: Lane) -> Vec<Output> {
        let batches = chunks.chunks(self.lines_per_batch.max(1)).zip(0..);
        let output = |(chunks, batch): (&[Chunk], u32)| {
            let cut = ChunksCut {
                run: run.to_string(),
                batch,
                chunks: chunks.to_vec(),
                space: request.space,
                title: request.filename.clone(),
                language: "en".to_owned(),
            };
            Output { payload: Payload::ChunksCut(cut), lane }
        };
        batches.map(output).collect()
    }
}

/// The beginning of a real manifest, as far as others than the extractor read it: the form and the title. A title
/// has fewer than 128 bytes here.
fn manifest(title: &str) -> Vec<u8> {
    let length = u8::try_from(title.len()).unwrap_or(u8::MAX);
    [&[0x08, 0x01, 0x12, length], title.as_bytes()].concat()
}

/// The lines of a text as chunks, without empty ones.
#[must_use]
pub fn cut(title: &str, text: &str) -> Vec<Chunk> {
    let (mut bytes, mut chars) = (0, 0);
    let mut chunks = Vec::new();
    for line in text.split_inclusive('\n') {
        let body = line.trim_end();
        if !body.is_empty() {
            chunks.push(Chunk {
                ordinal: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
                text: body.to_owned(),
                byte_start: bytes,
                byte_end: bytes + body.len() as u64,
                char_start: chars,
                char_end: chars + body.chars().count() as u64,
                page_first: 0,
                page_last: 0,
                heading_path: vec![],
                table_header: String::new(),
                token_count: u32::try_from(body.split_whitespace().count()).unwrap_or(u32::MAX),
                content_hash: content_hash(title, &[], "", body).to_vec().into(),
            });
        }
        bytes += line.len() as u64;
        chars += line.chars().count() as u64;
    }
    chunks
}

/// The release that an event belongs to.
#[must_use]
pub fn release_of(meta: &EventMeta) -> Release {
    let EventMeta { tenant, document, version, release, .. } = meta;
    Release { tenant: tenant.clone(), document: *document, version: *version, release: *release }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::transient(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_the_text_is_the_chunk() {
        let text = "água\n\n  two words \nend";
        let chunks = cut("t", text);
        assert_eq!(chunks.len(), 3);
        for (ordinal, chunk) in chunks.iter().enumerate() {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
            assert_eq!(&text[at(chunk.byte_start)..at(chunk.byte_end)], chunk.text);
            let chars: String =
                text.chars().skip(at(chunk.char_start)).take(chunk.text.chars().count()).collect();
            assert_eq!((chars.as_str(), chunk.ordinal as usize), (chunk.text.as_str(), ordinal));
        }
    }
}
