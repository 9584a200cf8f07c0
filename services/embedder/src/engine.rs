//! A model at work: with its own pause, and trusted once it has embedded known texts.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use riacho_domain::{Lane, SpaceId};
use riacho_models::{Error, Model};
use riacho_service::check_model;
use riacho_store::Store;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;

/// One of the embedder's models.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) model: Arc<dyn Model>,
    /// Its pauses are its own: the next model's limit keeps no document of the present one waiting.
    pub(crate) gate: Gate,
    /// How many batches are embedded with it at once, and a place that only interactive ones have.
    slots: Semaphore,
    interactive: Semaphore,
    verified: OnceCell<()>,
    /// The spaces whose vectors it makes, as it showed with known texts.
    spaces: Mutex<HashSet<SpaceId>>,
}

/// Batches of the interactive lane that have a place besides the others.
pub(crate) const INTERACTIVE: usize = 1;

/// How long a batch waits for its model to have room for it.
const ROOM: Duration = Duration::from_secs(1);

impl Engine {
    pub(crate) fn new(model: Arc<dyn Model>, at_once: usize, stop: CancellationToken) -> Self {
        let [slots, interactive] = [at_once.max(1), INTERACTIVE].map(Semaphore::new);
        Self {
            model,
            gate: Gate::new(stop),
            slots,
            interactive,
            verified: OnceCell::new(),
            spaces: Mutex::default(),
        }
    }

    /// Room for a batch; none where there is none for a while. The stage has so much room for each of its models, so that
    /// one which is slow or at its limit leaves that of the others alone.
    pub(crate) async fn slot(&self, lane: Lane) -> Option<SemaphorePermit<'_>> {
        let slot = async {
            tokio::select! {
                biased;
                slot = self.interactive.acquire(), if lane == Lane::Interactive => slot,
                slot = self.slots.acquire() => slot,
            }
        };
        tokio::time::timeout(ROOM, slot).await.ok()?.ok()
    }

    /// Asks the model once to embed known texts: each answer is also a check of dimensions and order.
    ///
    /// # Errors
    /// As long as it does not; the next call asks again.
    pub(crate) async fn verified(&self) -> Result<(), Error> {
        self.verified.get_or_try_init(|| self.model.verify()).await.map(|&()| ())
    }

    /// Checks once that the model is the one that a space was made with, and not another one of the same name.
    ///
    /// # Errors
    /// As long as it does not show; the next call asks again.
    pub(crate) async fn fits(&self, store: &Store, space: SpaceId) -> Result<(), Error> {
        if self.spaces.lock().unwrap_or_else(PoisonError::into_inner).contains(&space) {
            return Ok(());
        }
        check_model(store, &*self.model, space).await?;
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner).insert(space);
        Ok(())
    }

    /// Why the model does not work at the moment, with its name; none while it does.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.gate.trouble().map(|why| format!("{}: {why}", self.model.id()))
    }
}

/// The longest pause between two tries to reach a model at the start.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Waits until a model answers; false when stopped before.
///
/// # Errors
/// What waiting does not mend.
pub(crate) async fn wait_for(engine: &Engine, stop: &CancellationToken) -> Result<bool, Error> {
    let mut pause = Duration::from_millis(200);
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            answer = engine.verified() => answer,
        };
        match answer {
            Ok(()) => return Ok(true),
            Err(error) if !error.is_retryable() => return Err(error),
            Err(error) => {
                let model = engine.model.id();
                tracing::warn!(model, %error, "the model does not answer; waiting for it");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
