//! The stage: batches of chunks become batches of vectors.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use riacho_domain::{Lane, ReasonCode, SpaceId, StageName, embedding_input};
use riacho_models::{Error, Kind, Model, embed_some, to_f16_le};
use riacho_proto::v1::{ChunksCut, ChunksEmbedded, EmbeddedChunk, envelope::Payload};
use riacho_stage::{BatchLimits, BatchStage, Context, Event, EventMeta, Failure, Outcome, Output};
use riacho_store::{Release, Space, Store};
use tokio_util::sync::CancellationToken;

use crate::{Config, gate::Gate, verdict};

/// How long an event waits whose space this process has no model for; another process may have it.
const FOREIGN_SPACE: Duration = Duration::from_secs(30);

/// The stage `embed`.
#[derive(Debug)]
pub struct Embedder {
    config: Config,
    model: Arc<dyn Model>,
    store: Store,
    gate: Gate,
    /// Whether the model fits, by space. A space never changes its model.
    fits: Mutex<HashMap<SpaceId, bool>>,
}

/// An event's answer, or where its texts stand among those of the batch.
type Planned = Result<Work, Result<Outcome, Failure>>;

struct Work {
    lane: Lane,
    cut: ChunksCut,
    texts: Range<usize>,
}

impl Embedder {
    /// The stage with a model that was verified.
    #[must_use]
    pub fn new(config: Config, model: Arc<dyn Model>, store: Store, stop: CancellationToken) -> Self {
        Self { config, model, store, gate: Gate::new(stop), fits: Mutex::default() }
    }

    /// Why the model does not work at the moment; none while it does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.gate.trouble()
    }

    async fn embed(&self, events: Vec<Event>) -> Result<Vec<Result<Outcome, Failure>>, Failure> {
        self.wait_for_the_model(&events).await?;
        let releases: Vec<Release> = events.iter().map(|event| release_of(&event.envelope)).collect();
        let current = self.store.current_releases(&releases).await.map_err(|error| store_failure(&error))?;
        let mut texts = Vec::new();
        let mut plan: Vec<Planned> = Vec::with_capacity(events.len());
        for event in events {
            plan.push(match event.payload {
                _ if !current.contains(&event.envelope.release) => Err(Ok(Outcome::Superseded)),
                Payload::ChunksCut(cut) => self.plan(event.envelope.lane, cut, &mut texts).await,
                _ => Err(Err(Failure::permanent(
                    ReasonCode::Undecodable,
                    "the event carries no chunks to embed",
                ))),
            });
        }
        // Half of the time is for waiting and for requests that are on their way then.
        let until = Instant::now() + self.config.time_limit() / 2;
        let reached = embed_some(&*self.model, &texts, Kind::Passage, Some(until)).await;
        let failure = match &reached.ended {
            Some(error) => Some(verdict::judge(error, &*self.model, &self.gate, self.config.pause()).await),
            None => None,
        };
        if failure.is_none() && !texts.is_empty() {
            self.gate.open();
        }
        // What was embedded goes on, also where the rest has to wait.
        let finish = |work| finish(work, &reached.vectors, failure.as_ref());
        Ok(plan.into_iter().map(|planned| planned.map_or_else(|answer| answer, finish)).collect())
    }

    /// Waits while the model refuses everybody. An event that runs alone because it failed before is
    /// put off instead: while it runs, nothing else in the process does.
    async fn wait_for_the_model(&self, events: &[Event]) -> Result<(), Failure> {
        if let ([only], Some(left)) = (events, self.gate.closed_for())
            && only.envelope.attempt > 1
        {
            let message = "the model refuses everybody at the moment".to_owned();
            return Err(Failure::Transient { message, retry_after: Some(left), counts: false });
        }
        if self.gate.pass().await {
            return Ok(());
        }
        Err(verdict::interrupted())
    }

    /// Adds an event's texts to those of the batch.
    async fn plan(&self, lane: Lane, cut: ChunksCut, texts: &mut Vec<String>) -> Planned {
        if !self.fits(cut.space).await.map_err(Err)? {
            let message =
                format!("model {} makes no vectors for embedding space {}", self.model.id(), cut.space);
            return Err(Err(Failure::Transient { message, retry_after: Some(FOREIGN_SPACE), counts: false }));
        }
        let start = texts.len();
        texts.extend(
            cut.chunks.iter().map(|chunk| embedding_input(&cut.title, &chunk.heading_path, &chunk.text)),
        );
        Ok(Work { lane, cut, texts: start..texts.len() })
    }

    async fn fits(&self, space: SpaceId) -> Result<bool, Failure> {
        let known = self.fits.lock().unwrap_or_else(PoisonError::into_inner).get(&space).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let spaces = self.store.spaces().await.map_err(|error| store_failure(&error))?;
        let mut all = self.fits.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(spaces.iter().map(|space| (space.id, fits(space, &*self.model))));
        Ok(all.get(&space).copied().unwrap_or(false))
    }
}

impl BatchStage for Embedder {
    fn name(&self) -> StageName {
        StageName::Embed
    }

    fn time_limit(&self) -> Duration {
        self.config.time_limit()
    }

    fn limits(&self) -> BatchLimits {
        let limits = self.config.limits();
        // What a provider takes at a time: a longer batch would hold its events while it waits for turn after turn.
        BatchLimits { max_weight: limits.max_weight.min(self.model.max_batch_tokens()), ..limits }
    }

    fn weight(&self, event: &Event) -> usize {
        let Payload::ChunksCut(cut) = &event.payload else { return 1 };
        cut.chunks.iter().map(|chunk| chunk.token_count as usize).sum::<usize>().max(1)
    }

    async fn run(&self, events: Vec<Event>, _: &Context) -> Vec<Result<Outcome, Failure>> {
        let count = events.len();
        self.embed(events).await.unwrap_or_else(|failure| vec![Err(failure); count])
    }
}

/// Whether a model's vectors belong into a space.
pub(crate) fn fits(space: &Space, model: &dyn Model) -> bool {
    space.model == model.id() && space.dimensions as usize == model.dimensions()
}

/// Puts an event's vectors beside its chunks; one refused text fails the event. An event whose texts were not all reached
/// has failed as the call did.
fn finish(
    work: Work,
    vectors: &[Option<Result<Vec<f32>, Error>>],
    failure: Option<&Failure>,
) -> Result<Outcome, Failure> {
    let ChunksCut { run, batch, chunks, space, language, .. } = work.cut;
    let vectors = &vectors[work.texts];
    let mut embedded = Vec::with_capacity(chunks.len());
    for (chunk, vector) in chunks.into_iter().zip(vectors) {
        let not_reached = || failure.cloned().unwrap_or_else(|| Failure::transient("a text has no vector"));
        let vector = vector.as_ref().ok_or_else(not_reached)?.as_ref().map_err(verdict::refused)?;
        embedded.push(EmbeddedChunk { chunk: Some(chunk), vector_f16: to_f16_le(vector).into() });
    }
    let payload = Payload::ChunksEmbedded(ChunksEmbedded { run, batch, chunks: embedded, space, language });
    Ok(Outcome::Emit(vec![Output { payload, lane: work.lane }]))
}

fn release_of(meta: &EventMeta) -> Release {
    let EventMeta { tenant, document, version, release, .. } = meta;
    Release { tenant: tenant.clone(), document: *document, version: *version, release: *release }
}

fn store_failure(error: &riacho_store::Error) -> Failure {
    let message = error.to_string();
    if error.is_retryable() { Failure::unavailable(message) } else { Failure::transient(message) }
}
