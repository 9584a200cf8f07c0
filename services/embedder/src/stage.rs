//! The stage: batches of chunks become batches of vectors.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use riacho_domain::{Lane, ReasonCode, SpaceId, StageName};
use riacho_models::{Error, Kind, Model, Models, Series, embed_series, to_f16_le};
use riacho_proto::v1::{ChunksCut, ChunksEmbedded, EmbeddedChunk, envelope::Payload};
use riacho_service::spend::Ledger;
use riacho_stage::{BatchLimits, BatchStage, Context, Event, EventMeta, Failure, Outcome, Output};
use riacho_store::{Purpose, Release, Store, WantedVectors};
use riacho_traces::{self as traces, attributes};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    engine::{self, Engine, INTERACTIVE},
    texts::{Source, Sources, Texts, want},
    verdict,
};

/// How long an event waits whose space this process has no model for; another process may have it.
const FOREIGN_SPACE: Duration = Duration::from_secs(30);

/// The stage `embed`.
#[derive(Debug)]
pub struct Embedder {
    config: Config,
    /// One for each model: while a deployment goes from one model to another, documents of both are on their way.
    engines: Vec<Engine>,
    store: Store,
    ledger: Ledger,
    /// The place of a space's engine; none where no model fits. A space never changes its model.
    places: Mutex<HashMap<SpaceId, Option<usize>>>,
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
    /// The stage with these models; each is verified before its first batch.
    #[must_use]
    pub fn new(
        config: Config,
        models: &Models,
        store: Store,
        ledger: Ledger,
        stop: CancellationToken,
    ) -> Self {
        let engine =
            |model: &Arc<dyn Model>| Engine::new(Arc::clone(model), config.concurrency, stop.clone());
        let engines = models.all().map(engine).collect();
        Self { config, engines, store, ledger, places: Mutex::default() }
    }

    /// How many batches are in work at once: as many of each model as the settings say.
    pub(crate) fn concurrency(&self) -> usize {
        match self.engines.len() {
            0 | 1 => self.config.concurrency,
            models => (self.config.concurrency.max(1) + INTERACTIVE) * models,
        }
    }

    /// Waits until one of the models answers; false when stopped before.
    pub(crate) async fn wait_for(&self, model: &dyn Model, stop: &CancellationToken) -> Result<bool, Error> {
        match self.engines.iter().find(|engine| engine.model.id() == model.id()) {
            Some(engine) => engine::wait_for(engine, stop).await,
            None => Ok(true),
        }
    }

    /// Checks that a model is the one that a space was made with.
    pub(crate) async fn check(&self, model: &dyn Model, space: SpaceId) -> Result<(), Error> {
        match self.engines.iter().find(|engine| engine.model.id() == model.id()) {
            Some(engine) => engine.fits(&self.store, space).await,
            None => Ok(()),
        }
    }

    /// Why a model does not work at the moment; none while all do.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.engines.iter().find_map(Engine::trouble)
    }

    /// Embeds a batch, whose events are all for one space.
    async fn embed_all(
        &self,
        events: Vec<Event>,
        context: &Context,
    ) -> Result<Vec<Result<Outcome, Failure>>, Failure> {
        // What carries no chunks is refused whoever gets it.
        let engine = match events.first().and_then(space_of) {
            Some(space) => self.engine_of(space).await?,
            None => None,
        };
        let engine = engine.and_then(|place| self.engines.get(place));
        let lane = events.first().map_or(Lane::Bulk, |event| event.envelope.lane);
        let _slot = match engine.filter(|_| self.engines.len() > 1) {
            Some(engine) => Some(engine.slot(lane).await.ok_or_else(verdict::crowded)?),
            None => None,
        };
        self.embed(engine, events, context).await
    }

    /// Embeds events whose spaces are of one model; none where no model of this process fits.
    async fn embed(
        &self,
        engine: Option<&Engine>,
        events: Vec<Event>,
        context: &Context,
    ) -> Result<Vec<Result<Outcome, Failure>>, Failure> {
        let is_alone = context.is_alone();
        if let Some(engine) = engine {
            self.wait_for_the_model(engine, is_alone).await?;
        }
        let space = events.first().and_then(space_of);
        let mut texts = Texts::default();
        let plan = self.plan(events, engine.is_some(), &mut texts).await?;
        let Some(engine) = engine.filter(|_| !texts.all().is_empty()) else {
            let finish = |work| finish(work, &[], None);
            return Ok(plan
                .into_iter()
                .map(|planned| planned.map_or_else(|answer| answer, finish))
                .collect());
        };
        if let Some(space) = space {
            let fits = engine.fits(&self.store, space).await;
            fits.map_err(|error| verdict::unverified(&error, &engine.gate, self.config.pause()))?;
        }
        // What is left then is for a request that is on its way.
        let until = Instant::now() + self.config.time_limit() * 3 / 4;
        let series = Series::until(Some(until));
        let series = if is_alone { series.pressing() } else { series };
        let mut span = context.span(traces::Kind::Client, "embeddings", || {
            [
                (attributes::GEN_AI_OPERATION, "embeddings".into()),
                (attributes::GEN_AI_MODEL, engine.model.id().to_string().into()),
                (attributes::COUNT, i64::try_from(texts.all().len()).unwrap_or(i64::MAX).into()),
            ]
        });
        let reached = embed_series(&*engine.model, texts.all(), Kind::Passage, series).await;
        if reached.ended.is_some() {
            span.fail("provider");
        }
        drop(span);
        self.ledger.note_calls(engine.model.id(), Purpose::Documents, texts.owners(), &reached.calls);
        let failure = match &reached.ended {
            Some(error) => {
                Some(verdict::judge(error, &*engine.model, &engine.gate, self.config.pause()).await)
            }
            None => None,
        };
        if failure.is_none() {
            engine.gate.open();
        }
        // What was embedded goes on, also where the rest has to wait.
        let finish = |work| finish(work, &reached.vectors, failure.as_ref());
        Ok(plan.into_iter().map(|planned| planned.map_or_else(|answer| answer, finish)).collect())
    }

    /// Waits while the model refuses everybody. A last run is put off instead: while it runs, nothing else in the process
    /// does.
    async fn wait_for_the_model(&self, engine: &Engine, is_alone: bool) -> Result<(), Failure> {
        if let Some(left) = engine.gate.closed_for().filter(|_| is_alone) {
            let message = "the model refuses everybody at the moment".to_owned();
            return Err(Failure::Transient { message, retry_after: Some(left), counts: false });
        }
        if !engine.gate.pass().await {
            return Err(verdict::interrupted());
        }
        let verified = engine.verified().await;
        verified.map_err(|error| verdict::unverified(&error, &engine.gate, self.config.pause()))
    }

    /// Finds out what is still to be embedded, and adds that to the texts.
    async fn plan(
        &self,
        events: Vec<Event>,
        is_ours: bool,
        texts: &mut Texts,
    ) -> Result<Vec<Planned<Work>>, Failure> {
        let mut cuts: Vec<(EventMeta, Planned<ChunksCut>)> = Vec::with_capacity(events.len());
        let mut wanted = WantedVectors::new();
        for event in events {
            let cut = cut_of(event.payload, is_ours);
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

    /// The engine of an event's space, if an event of that space came before.
    fn known_engine(&self, event: &Event) -> Option<&Engine> {
        let space = space_of(event)?;
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&space).copied().flatten().and_then(|place| self.engines.get(place))
    }

    /// The place of the engine whose model makes the vectors of a space; none where there is none.
    async fn engine_of(&self, space: SpaceId) -> Result<Option<usize>, Failure> {
        let known = self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&space).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let spaces = self.store.spaces().await.map_err(|error| store_failure(&error))?;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.extend(spaces.iter().map(|space| {
            let fits = |engine: &Engine| {
                let model = &engine.model;
                model.id() == space.model && model.dimensions() == space.dimensions as usize
            };
            (space.id, self.engines.iter().position(fits))
        }));
        Ok(places.get(&space).copied().flatten())
    }
}

/// The space that an event's chunks are embedded for.
fn space_of(event: &Event) -> Option<SpaceId> {
    let Payload::ChunksCut(cut) = &event.payload else { return None };
    Some(cut.space)
}

/// The chunks of an event, if they are for a space that a model of this process makes vectors for.
fn cut_of(payload: Payload, is_ours: bool) -> Planned<ChunksCut> {
    let Payload::ChunksCut(cut) = payload else {
        let message = "the event carries no chunks to embed";
        return Err(Err(Failure::permanent(ReasonCode::Undecodable, message)));
    };
    if is_ours {
        return Ok(cut);
    }
    let message = format!("no model of this embedder makes vectors for embedding space {}", cut.space);
    Err(Err(Failure::Transient { message, retry_after: Some(FOREIGN_SPACE), counts: false }))
}

impl BatchStage for Embedder {
    fn name(&self) -> StageName {
        StageName::Embed
    }

    fn time_limit(&self) -> Duration {
        self.config.time_limit()
    }

    fn limits(&self) -> BatchLimits {
        self.config.limits()
    }

    /// A batch is one call of the model at most, so that a slow model's batches end as soon as a fast one's.
    fn limits_from(&self, first: &Event) -> BatchLimits {
        let told = self.config.limits();
        let most = self.known_engine(first).map_or(usize::MAX, |engine| engine.model.max_batch_tokens());
        BatchLimits { max_weight: told.max_weight.min(most).max(1), ..told }
    }

    /// The space, and with it the model.
    fn kind(&self, event: &Event) -> u64 {
        space_of(event).map_or(0, u64::from)
    }

    fn weight(&self, event: &Event) -> usize {
        let Payload::ChunksCut(cut) = &event.payload else { return 1 };
        cut.chunks.iter().map(|chunk| chunk.token_count as usize).sum::<usize>().max(1)
    }

    async fn run(&self, events: Vec<Event>, context: &Context) -> Vec<Result<Outcome, Failure>> {
        let count = events.len();
        self.embed_all(events, context).await.unwrap_or_else(|failure| vec![Err(failure); count])
    }
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
