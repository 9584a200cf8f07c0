//! A model at work: with its own pause, and trusted once it has embedded known texts.

use std::{sync::Arc, time::Duration};

use riacho_models::{Error, Model};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;

/// One of the embedder's models.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) model: Arc<dyn Model>,
    /// Its pauses are its own: the next model's limit keeps no document of the present one waiting.
    pub(crate) gate: Gate,
    verified: OnceCell<()>,
}

impl Engine {
    pub(crate) fn new(model: Arc<dyn Model>, stop: CancellationToken) -> Self {
        Self { model, gate: Gate::new(stop), verified: OnceCell::new() }
    }

    /// Asks the model once to embed known texts: each answer is also a check of dimensions and order.
    ///
    /// # Errors
    /// As long as it does not; the next call asks again.
    pub(crate) async fn verified(&self) -> Result<(), Error> {
        self.verified.get_or_try_init(|| self.model.verify()).await.map(|&()| ())
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.verified.initialized()
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
