//! What a failure of the model means for an event, and for the stage.

use std::time::Duration;

use riacho_domain::ReasonCode;
use riacho_models::{Error, Model};
use riacho_stage::Failure;

use crate::gate::{Gate, LONGEST_PAUSE};

/// The pause where a provider says no other, and while it is away.
const AWAY: Duration = Duration::from_secs(1);

/// When an event comes again whose turn at the provider's limit was too far away, at the latest.
const SOON: Duration = Duration::from_secs(5);

/// Judges a call that failed as a whole, and closes the gate where all calls would fail.
///
/// A transient failure of a model that still embeds known texts has to do with the texts, so it
/// counts as an attempt; that of a model that does not is nobody's fault. `pause` is for what only a
/// person can mend: nothing counts, and nothing is tried while it lasts.
pub(crate) async fn judge(error: &Error, model: &dyn Model, gate: &Gate, pause: Duration) -> Failure {
    let message = error.to_string();
    let mut retry_after = None;
    let pause = match error {
        Error::RateLimited { retry_after: told } => {
            // The model's limiter lets nothing out before. Who comes sooner finds a turn that is nearer.
            retry_after = told.map(|told| told.min(SOON));
            told.unwrap_or(AWAY)
        }
        Error::TurnTooFar { wait } => return too_far(*wait, gate, message),
        Error::Interrupted => return interrupted(),
        Error::Transient { .. } if model.verify().await.is_ok() => return Failure::transient(message),
        Error::Transient { .. } => AWAY,
        Error::Rejected { .. } => return refused(error),
        Error::Misconfigured { .. } | Error::Protocol { .. } | Error::Files { .. } => pause,
    };
    gate.close(pause, &message);
    Failure::Transient { message, retry_after, counts: false }
}

/// The process stops before the event was embedded, or needs a quiet moment while it waits.
pub(crate) fn interrupted() -> Failure {
    let message = "the embedder stops, or makes room for a last run".to_owned();
    Failure::Transient { message, retry_after: None, counts: false }
}

/// The model works, and others come first. Batches wait a moment before they ask for a turn, so that the backlog is not
/// read through to be put off.
fn too_far(wait: Duration, gate: &Gate, message: String) -> Failure {
    let soon = wait.min(SOON);
    gate.rest(soon);
    Failure::Transient { message, retry_after: Some(soon), counts: false }
}

/// As many batches as may be are with the event's model, and others wait for the stage's room.
pub(crate) fn crowded() -> Failure {
    let message = "the event's model is busy with others".to_owned();
    Failure::Transient { message, retry_after: Some(SOON), counts: false }
}

/// Judges a model that did not embed known texts: nothing is tried with it while the pause lasts.
pub(crate) fn unverified(error: &Error, gate: &Gate, pause: Duration) -> Failure {
    if matches!(error, Error::Interrupted) {
        return interrupted();
    }
    let message = error.to_string();
    if let Error::TurnTooFar { wait } = error {
        return too_far(*wait, gate, message);
    }
    let told = error.retry_after().map(|told| told.min(LONGEST_PAUSE));
    gate.close(if error.is_retryable() { told.unwrap_or(AWAY) } else { pause }, &message);
    Failure::Transient { message, retry_after: told, counts: false }
}

/// A text that the model refuses for good.
pub(crate) fn refused(error: &Error) -> Failure {
    Failure::permanent(ReasonCode::ProviderRefused, error.to_string())
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use riacho_models::{Embeddings, Kind};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A model that works.
    #[derive(Debug)]
    struct Works;

    impl Model for Works {
        fn id(&self) -> &str {
            "works"
        }

        fn dimensions(&self) -> usize {
            1
        }

        fn max_batch_items(&self) -> usize {
            1
        }

        fn max_batch_tokens(&self) -> usize {
            1
        }

        fn embed(&self, texts: Vec<String>, _: Kind) -> BoxFuture<'_, Result<Embeddings, Error>> {
            Box::pin(async move { Ok(Embeddings { vectors: vec![vec![1.0]; texts.len()], tokens: 1 }) })
        }

        fn verify(&self) -> BoxFuture<'_, Result<(), Error>> {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn a_turn_that_is_too_far_away_puts_off_without_a_trouble() {
        let gate = Gate::new(CancellationToken::new());
        let error = Error::TurnTooFar { wait: Duration::from_secs(150) };
        let failure = judge(&error, &Works, &gate, Duration::from_secs(10)).await;
        assert!(
            matches!(&failure, Failure::Transient { retry_after: Some(SOON), counts: false, .. }),
            "{failure:?}"
        );
        // Who comes meanwhile waits a moment, so that the backlog is not read through to be put off.
        let rest = gate.closed_for();
        assert!(gate.trouble().is_none() && rest.is_some_and(|rest| rest <= SOON), "{rest:?}");
        judge(&Error::RateLimited { retry_after: None }, &Works, &gate, Duration::from_secs(10)).await;
        assert!(gate.trouble().is_some(), "a provider that says 429 is one");
    }
}
