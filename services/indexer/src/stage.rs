//! The stage: batches of chunks with vectors become rows, and versions become live.

use std::time::Duration;

use riacho_domain::{ReasonCode, StageName};
use riacho_proto::v1::{ChunksEmbedded, EmbeddedChunk, envelope::Payload};
use riacho_stage::{BatchLimits, BatchStage, Context, Event, EventMeta, Failure, Outcome};
use riacho_store::{IndexAnswer, IndexItem, Release, Store};

use riacho_traces::{Kind, attributes};

use crate::Config;

/// What a chunk weighs beside its text and vector: its row, and its entries in the indexes.
const CHUNK_OVERHEAD: usize = 256;

/// The stage `index`.
#[derive(Debug)]
pub struct Indexer {
    config: Config,
    store: Store,
}

impl Indexer {
    /// The stage on a store.
    #[must_use]
    pub fn new(config: Config, store: Store) -> Self {
        Self { config, store }
    }
}

impl BatchStage for Indexer {
    fn name(&self) -> StageName {
        StageName::Index
    }

    fn time_limit(&self) -> Duration {
        self.config.time_limit()
    }

    fn limits(&self) -> BatchLimits {
        self.config.limits()
    }

    fn weight(&self, event: &Event) -> usize {
        match &event.payload {
            Payload::ChunksEmbedded(embedded) => embedded.chunks.iter().map(bytes_of).sum(),
            _ => 0,
        }
    }

    async fn run(&self, events: Vec<Event>, context: &Context) -> Vec<Result<Outcome, Failure>> {
        let mut items = Vec::with_capacity(events.len());
        // One answer for each event: refused here, or that of the transaction.
        let refused: Vec<Option<Failure>> =
            events.into_iter().map(|event| item(event).map(|item| items.push(item)).err()).collect();
        let mut span = context.span(Kind::Client, "postgres index", || {
            [
                (attributes::DB_SYSTEM, "postgresql".into()),
                (attributes::DB_OPERATION, "index".into()),
                (attributes::COUNT, i64::try_from(items.len()).unwrap_or(i64::MAX).into()),
            ]
        });
        let indexed = self.store.index(&items).await;
        if indexed.is_err() {
            span.fail("postgres");
        }
        drop(span);
        let mut answers = match indexed {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                let failure = store_failure(&error);
                return refused
                    .into_iter()
                    .map(|refused| Err(refused.unwrap_or_else(|| failure.clone())))
                    .collect();
            }
        };
        let missing = || Failure::transient("the store gave no answer for this event");
        refused
            .into_iter()
            .map(|refused| match refused {
                Some(failure) => Err(failure),
                None => answers.next().ok_or_else(missing).and_then(outcome),
            })
            .collect()
    }
}

fn bytes_of(embedded: &EmbeddedChunk) -> usize {
    let text = embedded.chunk.as_ref().map_or(0, |chunk| chunk.text.len());
    text + embedded.vector_f16.len() + CHUNK_OVERHEAD
}

fn item(event: Event) -> Result<IndexItem, Failure> {
    let undecodable = |message: String| Failure::permanent(ReasonCode::Undecodable, message);
    let Payload::ChunksEmbedded(ChunksEmbedded { run, chunks, space, language, .. }) = event.payload else {
        return Err(undecodable("the event carries no chunks with vectors".to_owned()));
    };
    let run = run.parse().map_err(|error| undecodable(format!("run {run:?}: {error}")))?;
    let EventMeta { tenant, document, version, release, .. } = event.envelope;
    Ok(IndexItem { release: Release { tenant, document, version, release }, run, space, language, chunks })
}

fn outcome(answer: IndexAnswer) -> Result<Outcome, Failure> {
    match answer {
        IndexAnswer::Written { ready: true } => Ok(Outcome::Ready),
        IndexAnswer::Written { ready: false } => Ok(Outcome::Emit(vec![])),
        IndexAnswer::Superseded => Ok(Outcome::Superseded),
        IndexAnswer::Rejected { message } => Err(Failure::permanent(ReasonCode::Internal, message)),
    }
}

fn store_failure(error: &riacho_store::Error) -> Failure {
    let message = error.to_string();
    if error.is_retryable() { Failure::unavailable(message) } else { Failure::transient(message) }
}
