//! The stage: an original becomes text and chunks, and one run of them becomes the version.
//!
//! A run is sealed before its first chunk is handed on. A delivery that finds a seal hands that run
//! on again and cuts nothing, so the chunks of two runs never mix.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use riacho_domain::{Lane, ReasonCode, RunId, SpaceId, StageName, UploadId};
use riacho_objects::{Key, Objects};
use riacho_proto::v1::{ChunksCut, ExtractRequested, envelope::Payload};
use riacho_stage::{
    Context, DEFAULT_TIME_LIMIT, EmitError, Event, Failure as StageFailure, Outcome, Output, Stage,
};
use riacho_store::{Attachment, MissingPages, Reason, Release, Seal, Sealed, SealedRun, Store};
use riacho_traces::{Kind, attributes};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    Config, Error,
    chunk::{self, Chunk, Settings},
    extracted::{self, Confidence, Extracted, Failure, Missing},
    manifest::{Manifest, ManifestError},
    metrics,
    pool::Pool,
};

/// How long the rest of a run may take: waiting for memory and a process, reading, cutting and storing.
const AROUND_PARSING: Duration = Duration::from_secs(15 * 60);

/// How often a long parse writes its progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// So many bytes are hashed where they are: that takes less than a hand-over to another thread.
const INLINE_BYTES: usize = 64 << 10;

/// A text of so many bytes is cut where it is, which takes about as long as a few hand-overs.
const CUT_INLINE_BYTES: usize = 32 << 10;

/// The stage `extract`.
pub struct Extractor {
    config: Config,
    pool: Pool,
    store: Store,
    objects: Objects,
    /// What is left for originals and attachments in memory, in units of [`UNIT`].
    memory: Semaphore,
    memory_units: u32,
    /// A quarter as much besides, for interactive documents while others have taken all.
    kept_memory: Semaphore,
}

/// The unit in which memory for originals is given out, in bytes; a semaphore counts in 32 bits.
const UNIT: u64 = 1024;

/// Why a run ends without chunks.
enum Exit {
    /// The release is no longer current.
    Superseded,
    /// The document is the reason.
    Document(Failure),
    /// Something around it is.
    Failed(StageFailure),
}

/// What is worked on.
struct Job {
    release: Release,
    lane: Lane,
    request: ExtractRequested,
}

/// A sealed run, ready to be handed on.
struct Run {
    id: RunId,
    text: Arc<Extracted>,
    manifest: Manifest,
}

impl Extractor {
    /// The stage on its pool and stores.
    #[must_use]
    pub fn new(config: Config, pool: Pool, store: Store, objects: Objects) -> Self {
        let memory_units = units(config.originals_bytes);
        let [memory, kept_memory] =
            [memory_units, memory_units / 4].map(|units| Semaphore::new(units as usize));
        Self { config, pool, store, objects, memory, memory_units, kept_memory }
    }

    /// Waits until so many bytes fit into memory beside those of others.
    async fn room_for(&self, lane: Lane, size: u64) -> Result<SemaphorePermit<'_>, Exit> {
        let wanted = units(size).min(self.memory_units);
        let memory = self.memory.acquire_many(wanted);
        let room = if lane == Lane::Interactive && wanted <= self.memory_units / 4 {
            tokio::select! {
                biased;
                room = memory => room,
                room = self.kept_memory.acquire_many(wanted) => room,
            }
        } else {
            memory.await
        };
        room.map_err(|error| broken(&error))
    }

    async fn extract(&self, job: &Job, context: &Context) -> Result<Outcome, Exit> {
        let extraction = self.store.begin_extraction(&job.release).await?.ok_or(Exit::Superseded)?;
        let run = match extraction.sealed {
            Some(sealed) => self.replay(job, sealed).await?,
            None => self.run(job, context).await?,
        };
        self.hand_on(job, run, context).await
    }

    /// Parses, stores, cuts and seals; or takes the run that another delivery sealed meanwhile.
    async fn run(&self, job: &Job, context: &Context) -> Result<Run, Exit> {
        // What is attached to a message may be as large again, and whether it is one nobody knows before.
        let _room = self.room_for(job.lane, job.request.size.saturating_mul(2)).await?;
        let original = self.original(job).await?;
        let mut span = context.span(Kind::Internal, "parse", || {
            [(attributes::COUNT, i64::try_from(original.len()).unwrap_or(i64::MAX).into())]
        });
        let parsed = self.parse(job, original).await;
        if let Err(Exit::Document(failure)) = &parsed {
            span.fail(failure.reason);
        }
        drop(span);
        let mut extracted = parsed?;
        self.attach(job, std::mem::take(&mut extracted.attachments)).await?;
        if let Some(failure) = extracted.unreadable {
            return Err(Exit::Document(failure));
        }
        let extracted = Arc::new(extracted);
        let id = RunId::new();
        let Release { tenant, document, version, .. } = &job.release;
        let text = Bytes::copy_from_slice(extracted.text.as_bytes());
        let key = Key::text(tenant, *document, *version, id);
        let (stored, manifest) = tokio::join!(self.objects.put(&key, text), cut(job, Arc::clone(&extracted)));
        stored?;
        let manifest = manifest?;
        let outline = &extracted.outline;
        let seal = Seal {
            run: id,
            manifest: manifest.encode(),
            chunk_total: u32::try_from(manifest.chunks.len()).unwrap_or(u32::MAX),
            detected_type: outline.detected_type.clone(),
            encoding: outline.encoding.clone(),
            encoding_confidence: outline.encoding_confidence.map(Confidence::as_str),
            missing: outline.missing.iter().map(missing).collect(),
            language: manifest.language.clone(),
            pages: u32::try_from(outline.pages.len()).ok().filter(|pages| *pages > 0),
        };
        match self.store.seal(&job.release, &seal).await? {
            Sealed::First => Ok(Run { id, text: extracted, manifest }),
            Sealed::Existing(sealed) => self.replay(job, sealed).await,
            Sealed::Superseded => Err(Exit::Superseded),
        }
    }

    /// Makes documents of what is attached. Before the seal: a sealed run is replayed without another parse.
    async fn attach(&self, job: &Job, files: Vec<extracted::Attachment>) -> Result<(), Exit> {
        if files.is_empty() {
            return Ok(());
        }
        let places = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let wanted = self.store.wanted_attachments(&job.release, places).await?.ok_or(Exit::Superseded)?;
        let mut attachments = Vec::with_capacity(wanted.len());
        for (ordinal, file) in (1..).zip(files).filter(|(ordinal, _)| wanted.contains(ordinal)) {
            attachments.push(self.put_attachment(job, ordinal, file).await?);
        }
        match self.store.accept_attachments(&job.release, &attachments).await? {
            Some(new) => {
                metrics::attached(new);
                Ok(())
            }
            None => Err(Exit::Superseded),
        }
    }

    /// Stores a file that was attached. Its key begins with the document that it is attached to, whose purge takes it
    /// along where no row came to name it.
    async fn put_attachment(
        &self,
        job: &Job,
        ordinal: u32,
        file: extracted::Attachment,
    ) -> Result<Attachment, Exit> {
        let Release { tenant, document, release, .. } = &job.release;
        let (size, bytes) = (file.bytes.len() as u64, Bytes::from(file.bytes));
        let hashed = bytes.clone();
        let sha256: [u8; 32] = blocking(move || Sha256::digest(&hashed)).await?.into();
        // One key for each delivery of the release, so that none leaves an object of its own; but never for other bytes.
        let name = [&ordinal.to_be_bytes()[..], &sha256[..]].concat();
        let key = Key::attachment(tenant, *document, UploadId(Uuid::new_v5(&release.0, &name)));
        self.objects.put(&key, bytes).await?;
        Ok(Attachment { ordinal, filename: file.filename, object_key: key.to_string(), size, sha256 })
    }

    /// The original's bytes, as they were promised.
    async fn original(&self, job: &Job) -> Result<Bytes, Exit> {
        let limits = &self.config.parser.limits;
        let too_large = || {
            let message =
                format!("the file is larger than the {} bytes that are taken", limits.max_file_bytes);
            Exit::Document(Failure::new(ReasonCode::TooLarge, message))
        };
        if job.request.size > limits.max_file_bytes {
            return Err(too_large());
        }
        let key = Key::parse_for_tenant(&job.release.tenant, &job.request.object_key).map_err(|error| {
            Exit::Failed(StageFailure::permanent(ReasonCode::Undecodable, error.to_string()))
        })?;
        let bytes = match self.objects.get(&key, limits.max_file_bytes).await {
            Ok(bytes) => bytes,
            Err(riacho_objects::Error::TooLarge { .. }) => return Err(too_large()),
            Err(riacho_objects::Error::NotFound { .. }) => {
                let message = "the original is no longer stored; upload it again";
                return Err(Exit::Document(Failure::new(ReasonCode::OriginalGone, message)));
            }
            Err(error) => return Err(error.into()),
        };
        let hash = match bytes.len() {
            0..=INLINE_BYTES => Sha256::digest(&bytes),
            _ => {
                let hashed = bytes.clone();
                blocking(move || Sha256::digest(&hashed)).await?
            }
        };
        if !job.request.sha256.is_empty() && hash.as_slice() != job.request.sha256 {
            let message = "the stored bytes differ from those that were uploaded";
            return Err(Exit::Document(Failure::new(ReasonCode::HashMismatch, message)));
        }
        Ok(bytes)
    }

    /// Parses, and writes how far it is; stops when the release is no longer current.
    async fn parse(&self, job: &Job, original: Bytes) -> Result<Extracted, Exit> {
        let start = Instant::now();
        let (told, mut heard) = watch::channel((0, 0));
        let report = async {
            loop {
                tokio::time::sleep(PROGRESS_EVERY).await;
                if heard.changed().await.is_err() {
                    return std::future::pending().await;
                }
                let (done, total) = *heard.borrow_and_update();
                // A write that fails is made up for by the next one.
                if let Ok(false) = self.store.progress(&job.release, done, Some(total)).await {
                    return;
                }
            }
        };
        let on_page = move |done, total| _ = told.send_replace((done, total));
        let extracted = tokio::select! {
            extracted = self.pool.parse(job.lane, &job.request.filename, original, on_page) => extracted?,
            () = report => return Err(Exit::Superseded),
        };
        metrics::parsed(&extracted.outline.detected_type, start.elapsed());
        Ok(extracted)
    }

    /// The chunks of a run that is sealed, from its manifest and text.
    async fn replay(&self, job: &Job, sealed: SealedRun) -> Result<Run, Exit> {
        metrics::replayed();
        let Release { tenant, document, version, .. } = &job.release;
        let key = Key::text(tenant, *document, *version, sealed.run);
        let bytes = match self.objects.get(&key, self.config.parser.limits.max_text_bytes).await {
            Err(error @ riacho_objects::Error::NotFound { .. }) => return Err(broken(&error)),
            bytes => bytes?,
        };
        let text = String::from_utf8(bytes.into()).map_err(|error| broken(&error))?;
        let (text, manifest) = blocking(move || {
            let manifest = Manifest::decode(&sealed.manifest, &text)?;
            Ok::<_, ManifestError>((Extracted { text, ..Extracted::default() }, manifest))
        })
        .await?
        .map_err(|error| broken(&error))?;
        Ok(Run { id: sealed.run, text: Arc::new(text), manifest })
    }

    /// Hands a run's chunks to the embedder, the last of them with the input's acknowledgement.
    async fn hand_on(&self, job: &Job, run: Run, context: &Context) -> Result<Outcome, Exit> {
        let ranges = batches(&run.manifest.chunks, self.config.batch_chunks, self.config.batch_bytes);
        let last = ranges.len().saturating_sub(1);
        for (number, range) in ranges.into_iter().enumerate() {
            let lane = if number < self.config.urgent_batches { job.lane } else { job.lane.lower() };
            let output = Output { payload: run.batch(number, range, job.request.space), lane };
            if number == last {
                return Ok(Outcome::Emit(vec![output]));
            }
            context.emit(vec![output]).await?;
        }
        Err(broken(&"the sealed run has no chunks"))
    }
}

impl Run {
    fn batch(&self, number: usize, chunks: Range<usize>, space: SpaceId) -> Payload {
        let chunks = self.manifest.chunks.get(chunks).unwrap_or_default();
        Payload::ChunksCut(ChunksCut {
            run: self.id.to_string(),
            batch: u32::try_from(number).unwrap_or(u32::MAX),
            chunks: chunks.iter().map(|chunk| chunk.to_proto(&self.text.text)).collect(),
            space,
            title: self.manifest.title.clone(),
            language: self.manifest.language.clone(),
        })
    }
}

impl Stage for Extractor {
    fn name(&self) -> StageName {
        StageName::Extract
    }

    /// A document that takes too long ends with a reason before that.
    fn time_limit(&self) -> Duration {
        (self.config.pool().most_time() + AROUND_PARSING).max(DEFAULT_TIME_LIMIT)
    }

    async fn run(&self, event: Event, context: &Context) -> Result<Outcome, StageFailure> {
        let Payload::ExtractRequested(request) = event.payload else {
            return Err(StageFailure::permanent(ReasonCode::Undecodable, "the event asks for no extraction"));
        };
        let meta = event.envelope;
        let release = Release {
            tenant: meta.tenant,
            document: meta.document,
            version: meta.version,
            release: meta.release,
        };
        let job = Job { release, lane: meta.lane, request };
        let failure = match self.extract(&job, context).await {
            Ok(outcome) => return Ok(outcome),
            Err(Exit::Superseded) => return Ok(Outcome::Superseded),
            Err(Exit::Failed(failure)) => return Err(failure),
            Err(Exit::Document(failure)) => failure,
        };
        metrics::failed(failure.reason);
        match self.store.fail(&job.release, failure.reason, &failure.message).await {
            Ok(true) => Ok(Outcome::Failed(failure.reason)),
            Ok(false) => Ok(Outcome::Superseded),
            Err(error) => Err(store_failure(&error)),
        }
    }
}

/// Missing pages as they stand in the version.
fn missing(missing: &Missing) -> MissingPages {
    let Failure { reason, message } = &missing.failure;
    let reason = Reason { code: reason.as_str().to_owned(), message: message.clone() };
    MissingPages { reason, pages: missing.pages.clone() }
}

/// Bytes in units of memory, rounded up.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
}

/// Cuts the text as the version's settings say.
async fn cut(job: &Job, extracted: Arc<Extracted>) -> Result<Manifest, Exit> {
    let settings = Settings::from_proto(job.request.chunking.as_ref());
    let title = extracted.outline.title.clone().unwrap_or_else(|| job.request.filename.clone());
    let language = extracted.outline.language.clone().unwrap_or_default();
    let is_short = extracted.text.len() <= CUT_INLINE_BYTES;
    let cut = move || {
        let chunks = chunk::cut(&extracted, &title, &settings)?;
        Ok::<_, Error>(Manifest { title, language, chunks })
    };
    let manifest = if is_short { cut() } else { blocking(cut).await? }?;
    if manifest.chunks.is_empty() {
        return Err(Exit::Document(Failure::new(ReasonCode::Empty, "the file has no text")));
    }
    metrics::cut(manifest.chunks.len());
    Ok(manifest)
}

/// The chunks of each event: so many, or so many bytes, whichever comes first.
fn batches(chunks: &[Chunk], most_chunks: usize, most_bytes: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, chunk) in chunks.iter().enumerate() {
        let full = at - start >= most_chunks.max(1) || bytes + chunk.bytes.len() > most_bytes;
        if full && at > start {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += chunk.bytes.len();
    }
    if start < chunks.len() {
        batches.push(start..chunks.len());
    }
    batches
}

/// Runs what computes for long off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Exit> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| Exit::Failed(StageFailure::transient(format!("a computation broke off: {error}"))))
}

/// A state that only a mistake or a loss outside can bring about.
fn broken(error: &(impl std::fmt::Display + ?Sized)) -> Exit {
    Exit::Failed(StageFailure::permanent(ReasonCode::Internal, error.to_string()))
}

fn store_failure(error: &riacho_store::Error) -> StageFailure {
    let message = error.to_string();
    if error.is_retryable() { StageFailure::unavailable(message) } else { StageFailure::transient(message) }
}

impl From<riacho_store::Error> for Exit {
    fn from(error: riacho_store::Error) -> Self {
        Exit::Failed(store_failure(&error))
    }
}

impl From<riacho_objects::Error> for Exit {
    fn from(error: riacho_objects::Error) -> Self {
        let message = error.to_string();
        Exit::Failed(if error.is_retryable() {
            StageFailure::unavailable(message)
        } else {
            StageFailure::transient(message)
        })
    }
}

impl From<EmitError> for Exit {
    fn from(error: EmitError) -> Self {
        Exit::Failed(error.into())
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        match error {
            Error::Document(failure) => Exit::Document(failure),
            Error::Tokenizer(error) => {
                Exit::Failed(StageFailure::permanent(ReasonCode::Undecodable, error.to_string()))
            }
            // It counts: an original that gets its process killed each time must not circle for ever.
            Error::Spawn(_) | Error::Interrupted(_) => {
                Exit::Failed(StageFailure::transient(error.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_chunks_and_by_bytes() {
        let chunk = |length: usize| Chunk {
            ordinal: 0,
            bytes: 0..length,
            chars: 0..length,
            pages: (0, 0),
            heading_path: Vec::new(),
            table_header: None,
            token_count: 1,
            content_hash: [0; 32],
        };
        let chunks: Vec<Chunk> = [10, 10, 10, 500, 10].into_iter().map(chunk).collect();
        assert_eq!(batches(&chunks, 2, 1000), [0..2, 2..4, 4..5]);
        assert_eq!(batches(&chunks, 9, 100), [0..3, 3..4, 4..5]);
        assert!(batches(&[], 9, 100).is_empty());
    }
}
