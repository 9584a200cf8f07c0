//! The stage: batches of chunks become batches of vectors.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use riacho_domain::{Lane, ReasonCode, SpaceId, StageName};
use riacho_models::{Error, Kind, Model, embed_some, to_f16_le};
use riacho_proto::v1::{ChunksCut, ChunksEmbedded, EmbeddedChunk, envelope::Payload};
use riacho_service::spend::Ledger;
use riacho_stage::{BatchLimits, BatchStage, Context, Event, EventMeta, Failure, Outcome, Output};
use riacho_store::{Release, Space, Store, WantedVectors};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    gate::Gate,
    texts::{Source, Sources, Texts, want},
    verdict,
};

/// How long an event waits whose space this process has no model for; another process may have it.
const FOREIGN_SPACE: Duration = Duration::from_secs(30);

/// The stage `embed`.
#[derive(Debug)]
pub struct Embedder {
    config: Config,
    model: Arc<dyn Model>,
    store: Store,
    ledger: Ledger,
    gate: Gate,
    /// Whether the model fits, by space. A space never changes its model.
    fits: Mutex<HashMap<SpaceId, bool>>,
}

/// What is to be done for an event, or its answer where that is known already.
type Planned<T> = Result<T, Result<Outcome, Failure>>;

/// An event's chunks, and where the vector of each comes from.
struct Work {
    lane: Lane,
    cut: ChunksCut,
    sources: Sources,
}

impl Embedder {
    /// The stage with a model that was verified.
    #[must_use]
    pub fn new(
        config: Config,
        model: Arc<dyn Model>,
        store: Store,
        ledger: Ledger,
        stop: CancellationToken,
    ) -> Self {
        Self { config, model, store, ledger, gate: Gate::new(stop), fits: Mutex::default() }
    }

    /// Why the model does not work at the moment; none while it does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.gate.trouble()
    }

    async fn embed(&self, events: Vec<Event>) -> Result<Vec<Result<Outcome, Failure>>, Failure> {
        self.wait_for_the_model(&events).await?;
        let mut texts = Texts::default();
        let plan = self.plan(events, &mut texts).await?;
        // Half of the time is for waiting and for requests that are on their way then.
        let until = Instant::now() + self.config.time_limit() / 2;
        let reached = embed_some(&*self.model, texts.all(), Kind::Passage, Some(until)).await;
        for (tenant, spent) in texts.spent(&reached.calls) {
            self.ledger.note(tenant, self.model.id(), spent);
        }
        let failure = match &reached.ended {
            Some(error) => Some(verdict::judge(error, &*self.model, &self.gate, self.config.pause()).await),
            None => None,
        };
        if failure.is_none() && !texts.all().is_empty() {
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

    /// Finds out what is still to be embedded, and adds that to the texts.
    async fn plan(&self, events: Vec<Event>, texts: &mut Texts) -> Result<Vec<Planned<Work>>, Failure> {
        let mut cuts: Vec<(EventMeta, Planned<ChunksCut>)> = Vec::with_capacity(events.len());
        let mut wanted = WantedVectors::new();
        for event in events {
            let cut = self.cut_of(event.payload).await;
            if let Ok(cut) = &cut {
                want(&mut wanted, &event.envelope.tenant, cut);
            }
            cuts.push((event.envelope, cut));
        }
        let releases: Vec<Release> = cuts.iter().map(|(meta, _)| release_of(meta)).collect();
        let known =
            self.store.known_vectors(&releases, &wanted).await.map_err(|error| store_failure(&error))?;
        let plan = cuts.into_iter().map(|(meta, cut)| {
            if !known.current.contains(&meta.release) {
                return Err(Ok(Outcome::Superseded));
            }
            let cut = cut?;
            let sources = texts.add(&meta.tenant, &cut, &known);
            Ok(Work { lane: meta.lane, cut, sources })
        });
        Ok(plan.collect())
    }

    /// The chunks of an event, if they are for a space that the model makes vectors for.
    async fn cut_of(&self, payload: Payload) -> Planned<ChunksCut> {
        let Payload::ChunksCut(cut) = payload else {
            let message = "the event carries no chunks to embed";
            return Err(Err(Failure::permanent(ReasonCode::Undecodable, message)));
        };
        if self.fits(cut.space).await.map_err(Err)? {
            return Ok(cut);
        }
        let message = format!("model {} makes no vectors for embedding space {}", self.model.id(), cut.space);
        Err(Err(Failure::Transient { message, retry_after: Some(FOREIGN_SPACE), counts: false }))
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

    /// A batch is one call of the model at most, so that a slow model's batches end as soon as a fast one's.
    fn limits(&self) -> BatchLimits {
        let told = self.config.limits();
        BatchLimits { max_weight: told.max_weight.min(self.model.max_batch_tokens()).max(1), ..told }
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
    let mut embedded = Vec::with_capacity(chunks.len());
    for (chunk, source) in chunks.into_iter().zip(work.sources.list) {
        let vector_f16 = match source {
            Source::Stored(vector) => vector,
            Source::Text(place) => {
                let not_reached =
                    || failure.cloned().unwrap_or_else(|| Failure::transient("a text has no vector"));
                let vector = vectors.get(place).and_then(Option::as_ref).ok_or_else(not_reached)?;
                to_f16_le(vector.as_ref().map_err(verdict::refused)?).into()
            }
        };
        embedded.push(EmbeddedChunk { chunk: Some(chunk), vector_f16 });
    }
    work.sources.counts.count();
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
